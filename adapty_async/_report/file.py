"""An atomic writer of a report's file, which replaces nothing but a report."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

# The first bytes of a report: of the page, and of the JSON.
_FIRST_BYTES = (b"<!DOCTYPE html>", b'{\n  "report": ')


def require_replaceable(path: Path) -> None:
    """
    Validate that a report may replace a file: it is not there, is empty, or is a report.

    Raises:
        OSError: it holds something else, such as the input of the run, or cannot be read.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        head = file.read(max(map(len, _FIRST_BYTES)))
    if head and not head.startswith(_FIRST_BYTES):
        raise FileExistsError(errno.EEXIST, "it holds something else than a report")


def write_file(path: Path, pieces: Iterable[str]) -> None:
    """
    Write a file atomically; only its owner can read it.

    Raises:
        OSError: the file cannot be written.
    """
    target = path.resolve()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
