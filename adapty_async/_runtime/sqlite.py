"""SQLite databases that several processes open at the same time: their URL, and a setting."""

from __future__ import annotations

import contextlib
import sqlite3
import urllib.parse
from pathlib import Path

__all__ = ("path_in_url", "use_write_ahead_log")

_SCHEME = "sqlite:///"


def path_in_url(url: str) -> Path | None:
    """Return the path in a URL such as ``sqlite:///file``; None for any other URL."""
    path = url.removeprefix(_SCHEME) if url.startswith(_SCHEME) else ""
    return Path(urllib.parse.unquote(path)) if path else None


def use_write_ahead_log(database: sqlite3.Connection) -> None:
    """
    Let a database have a write-ahead log, unless another process changes its mode right now.

    The mode stays in the file. SQLite does not wait for a process that changes it, which sets the
    same mode. A file that cannot be written fails at the next statement.
    """
    if database.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        with contextlib.suppress(sqlite3.OperationalError):
            database.execute("PRAGMA journal_mode = WAL")
