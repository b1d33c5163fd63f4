"""A fingerprint of an input file, by which a resumed run identifies it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

_PIECE = 1024 * 1024
# gzip, and the byte order marks of UTF-16 and UTF-32, where a byte LF may be half a letter.
_NO_LINES = (b"\x1f\x8b", b"\xff\xfe", b"\xfe\xff")


def fingerprint(path: Path, size: int) -> dict[str, Any]:
    """Return the size and digest of a file's first bytes."""
    return {"size": size, "sha256": _digest(path, size)}


def difference(path: Path, now: int, earlier: dict[str, Any], *, is_text: bool) -> str | None:
    """
    Return how a file differs from what it was; None if it is the same, or has new lines at its end.

    Only its first `now` bytes count. A file that is not text has no lines.
    """
    size, digest = earlier.get("size"), earlier.get("sha256")
    if not isinstance(size, int):
        return "the journal was kept for an input that is not a file"
    if now < size or (now > size and not is_text):
        return f"the file had {size:,} bytes, and has {now:,} now"
    if _digest(path, size) != digest:
        return f"the file's first {size:,} bytes have changed"
    if now > size and not _ends_a_line(path, size):
        return "the file's last line has grown, and so changed"
    return None


def _digest(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (piece := file.read(min(size, _PIECE))):
            digest.update(piece)
            size -= len(piece)
    return digest.hexdigest()


def _ends_a_line(path: Path, size: int) -> bool:
    """
    Return whether the bytes before a position are whole lines.

    For a gzip file, or one with more than a byte for each LF, the result is False.
    """
    with path.open("rb") as file:
        head = file.read(4)
        if head.startswith(_NO_LINES) or b"\0" in head:
            return False
        file.seek(max(0, size - 1))
        last, following = file.read(1), file.read(2)
    return size == 0 or last == b"\n" or following.startswith((b"\n", b"\r\n"))
