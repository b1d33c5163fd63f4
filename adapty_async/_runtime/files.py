"""Helpers for files and their descriptors: permissions, moves, locks, durable names, limits."""

from __future__ import annotations

import errno
import os
from pathlib import Path

#: The permissions of files that hold ids, digests or keys of a run: only their owner reads them.
PRIVATE = 0o600
# The mounts that this process sees, on Linux, and what replaces a character in their names.
_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPES = {each: f"\\{each:03o}" for each in b" \t\n\\"}


def is_out_of_files(failure: object) -> bool:
    """Return whether an error, or its event, is that no file descriptor is left for a new one."""
    return getattr(failure, "errno", None) in {errno.EMFILE, errno.ENFILE}


def status_of(path: Path) -> os.stat_result | None:
    """Return the status of a file or link; None if it does not exist."""
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_at(path: Path, status: os.stat_result) -> bool:
    """Return whether a path still names the file that has this status."""
    found = status_of(path)
    return found is not None and os.path.samestat(found, status)


def fault_of_name(path: Path) -> str | None:
    """
    Return why the log and the locks next to a database do not protect it; None if they do.

    Other processes that use it by another name have a log and locks of their own.
    """
    if path.stat().st_nlink > 1:
        return "it has another name (a hard link), which SQLite cannot protect"
    name = os.path.realpath(path).translate(_ESCAPES)
    if _MOUNTS.exists() and name in {line.split()[4] for line in _lines_of(_MOUNTS)}:
        return "it is mounted alone, without its log and its locks: mount its folder instead"
    return None


def _lines_of(path: Path) -> list[str]:
    text = path.read_bytes().decode(errors="surrogateescape")
    return text.removesuffix("\n").split("\n")  # a name may have other line breaks


def try_lock(handle: int) -> bool:
    """
    Lock an open file until it is closed; return False if another handle has the lock.

    Raises:
        ImportError: the system has no POSIX locks.
        OSError: the file system has none.
    """
    import fcntl  # noqa: PLC0415  POSIX only

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def flush_folder(folder: Path) -> None:
    """Make the name of a new file durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
