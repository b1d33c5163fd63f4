"""A store of shared rates in an SQLite file, for several processes of one machine."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from adapty_async._runtime.database import use_write_ahead_log
from adapty_async._shared.store import TIMEOUT, Change, Loaded
from adapty_async.errors import StoreError

__all__ = ("SqliteStore",)

T = TypeVar("T")

_CREATE = (
    "CREATE TABLE IF NOT EXISTS adapty_shared_rate"
    " (key TEXT PRIMARY KEY, version INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID"
)
_LOAD = "SELECT version, value FROM adapty_shared_rate WHERE key = ?"
_INSERT = (
    "INSERT INTO adapty_shared_rate VALUES (:key, :version + 1, :value) ON CONFLICT DO NOTHING"
)
_UPDATE = (
    "UPDATE adapty_shared_rate SET version = :version + 1, value = :value"
    " WHERE key = :key AND version = :version"
)


class SqliteStore:
    """
    A `Store` in an SQLite file: a row for each key. Its clock is the machine's.

    Args:
        path: the path of the file, which is created if there is none.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._thread = _thread()

    async def open(self) -> None:
        """Open the file, and create the table if there is none."""
        await self._run(self._opened)

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            database = sqlite3.connect(self._path, timeout=TIMEOUT, isolation_level=None)
            try:
                use_write_ahead_log(database)
                database.execute("PRAGMA synchronous = NORMAL")  # the value is of no use later
                database.execute(_CREATE)
            except sqlite3.Error:
                database.close()
                raise
            self._database = database
        return self._database

    async def load(self, keys: Sequence[str]) -> list[Loaded]:
        """Return the values of keys, in their order."""
        return await self._run(lambda: [self._load(key) for key in keys])

    def _load(self, key: str) -> Loaded:
        version, value = self._opened().execute(_LOAD, (key,)).fetchone() or (0, None)
        return Loaded(version, value, time.time())

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        """Store each value whose key still has its `version`; return which ones had it."""
        return await self._run(lambda: self._swap(changes))

    def _swap(self, changes: Sequence[Change]) -> list[bool]:
        database = self._opened()
        database.execute("BEGIN IMMEDIATE")
        with database:  # all are stored, or none
            return [
                database.execute(_UPDATE if one.version else _INSERT, one._asdict()).rowcount == 1
                for one in changes
            ]

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            failure = StoreError(f"SQLite failed: {type(error).__name__}")
        raise failure

    async def aclose(self) -> None:
        """Close the file."""
        await self._run(self._close)
        self._thread.shutdown()
        self._thread = _thread()

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def _thread() -> ThreadPoolExecutor:
    # SQLite waits for other processes, and not in the event loop; the thread starts when used
    return ThreadPoolExecutor(1, "adapty-shared-rate")
