"""A setting of SQLite databases that several processes open at the same time."""

from __future__ import annotations

import contextlib
import sqlite3

__all__ = ("use_write_ahead_log",)


def use_write_ahead_log(database: sqlite3.Connection) -> None:
    """
    Let a database have a write-ahead log, unless another process changes its mode right now.

    The mode stays in the file. SQLite does not wait for a process that changes it, which sets the
    same mode. A file that cannot be written fails at the next statement.
    """
    if database.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        with contextlib.suppress(sqlite3.OperationalError):
            database.execute("PRAGMA journal_mode = WAL")
