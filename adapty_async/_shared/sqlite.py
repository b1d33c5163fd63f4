"""A store of shared rates in an SQLite file, for several processes of one machine."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from adapty_async._runtime.database import explain, is_journal, use_write_ahead_log
from adapty_async._shared.store import TIMEOUT, Change, Loaded
from adapty_async.errors import StoreError

T = TypeVar("T")

_CREATE = (
    "CREATE TABLE IF NOT EXISTS adapty_shared_rate"
    " (key TEXT PRIMARY KEY, version INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID"
)
# A write that changes nothing, which a file that is only readable rejects.
_WRITE = "DELETE FROM adapty_shared_rate WHERE FALSE"
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
        self._file: tuple[int, int] | None = None  # that of the connection
        self._thread = _thread()

    async def open(self) -> None:
        """Open the file, and create the table if there is none; raise if it is only readable."""
        await self._run(self._write)

    def _write(self) -> None:
        self._opened().execute(_WRITE)

    def _opened(self) -> sqlite3.Connection:
        if self._file != _identity(self._path):
            self._close()
        if self._database is None:
            database = sqlite3.connect(self._path, timeout=TIMEOUT, isolation_level=None)
            try:
                if is_journal(database):
                    raise StoreError(f"{self._path} is the journal of a run")
                use_write_ahead_log(database)
                database.execute("PRAGMA synchronous = NORMAL")  # the value is of no use later
                database.execute(_CREATE)
            except (sqlite3.Error, StoreError):
                database.close()
                raise
            self._database, self._file = database, _identity(self._path)
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
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._do, work)
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            failure = StoreError(f"SQLite failed: {name}: {explain(error)} ({self._path})")
        raise failure

    def _do(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sqlite3.Error:
            self._close()  # the file or its table may be gone; the next call opens it again
            raise

    async def aclose(self) -> None:
        """Close the file."""
        await self._run(self._close)
        self._thread.shutdown()
        self._thread = _thread()

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def _identity(path: str) -> tuple[int, int] | None:
    """Return what identifies a file that may be deleted or replaced; None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116  as quick as possible, before each exchange
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _thread() -> ThreadPoolExecutor:
    # SQLite waits for other processes, and not in the event loop; the thread starts when used
    return ThreadPoolExecutor(1, "adapty-shared-rate")
