"""Helpers for files that a run keeps open: their place and the durability of their names."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ("flush_folder", "is_at")


def is_at(path: Path, status: os.stat_result) -> bool:
    """Return whether a path still names the file that has this status."""
    try:
        return os.path.samestat(path.lstat(), status)
    except (FileNotFoundError, NotADirectoryError):
        return False


def flush_folder(folder: Path) -> None:
    """Make the name of a new file durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
