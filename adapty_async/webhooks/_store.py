"""
Stores of the events that were processed, by which a second delivery is recognised.

A store has digests and times and nothing of an event. `EventStore` is the interface; `MemoryStore`
lasts as long as the process, `SqliteStore` is a file that several processes of a machine may share.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from adapty_async._runtime.database import DatabaseThread, explain, use_write_ahead_log
from adapty_async._runtime.files import PRIVATE, fault_of_name
from adapty_async._runtime.fork import keep_inherited, register_fork_handler
from adapty_async.config import positive, whole_number
from adapty_async.errors import JournalError

ResultT = TypeVar("ResultT")

# Seconds for which a processed event is remembered. Adapty retries for a day, and its support can
# send an event again later.
_RETENTION = 7 * 86400.0


class EventStore(Protocol):
    """
    A store of processed events. An implementation may raise any exception if it fails.

    Source: https://adapty.io/docs/webhook-event-types-and-fields#event-fields
    """

    @abstractmethod
    async def contains(self, key: str) -> bool:
        """Return whether an event was added and is still remembered."""

    @abstractmethod
    async def add(self, key: str) -> None:
        """Record an event as processed; once more changes nothing but its time."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the store."""


class MemoryStore:
    """
    A store in memory, which forgets the oldest event when it is full.

    An entry takes about 250 bytes.

    Args:
        max_events: the maximum of remembered events.
        retention: seconds for which an event is remembered.
        clock: returns seconds.

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(
        self,
        *,
        max_events: int = 100_000,
        retention: float = _RETENTION,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_events = whole_number("max_events", max_events)
        self._retention = positive("retention", retention)
        self._clock = clock
        self._added: OrderedDict[str, float] = OrderedDict()  # oldest first

    async def contains(self, key: str) -> bool:
        """Return whether an event was added and is still remembered."""
        added = self._added.get(key)
        return added is not None and self._clock() - added < self._retention

    async def add(self, key: str) -> None:
        """Record an event as processed."""
        self._added[key] = self._clock()
        self._added.move_to_end(key)
        if len(self._added) > self._max_events:
            self._added.popitem(last=False)

    async def aclose(self) -> None:
        """Do nothing: the events stay for as long as the store does."""

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._added)} events)"


_APPLICATION_ID = 0x41645768
_SCHEMA = (
    "CREATE TABLE processed (key TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX processed_at ON processed (at)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
)
# Seconds to wait for another process that writes. A webhook has ten seconds for all of its work.
_BUSY = 3.0


class SqliteStore:
    """
    A store in an SQLite file, which several processes of one machine may share.

    All SQL runs in a thread of its own, which starts with the first event. A forked process opens
    the file itself.

    Args:
        path: the file; a new one is readable for its owner alone.
        retention: seconds for which an event is remembered.
        clock: returns seconds since 1970.

    Raises:
        ConfigError: the retention is out of range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        retention: float = _RETENTION,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = Path(path).absolute()  # the process may change its directory
        self._retention = positive("retention", retention)
        self._clock = clock
        self._thread: DatabaseThread[sqlite3.Connection] | None = None
        register_fork_handler(self)

    def after_fork(self) -> None:
        """Open the file again in the forked process, with its first event."""
        keep_inherited(self._thread)
        self._thread = None

    async def contains(self, key: str) -> bool:
        """
        Return whether an event was added and is still remembered.

        Raises:
            JournalError: the file is of another kind, or its I/O failed.
        """
        since = self._clock() - self._retention
        query = "SELECT 1 FROM processed WHERE key = ? AND at > ?"
        row = await self._run(lambda db: db.execute(query, (key, since)).fetchone())
        return row is not None

    async def add(self, key: str) -> None:
        """
        Record an event as processed, and forget those whose retention is over.

        Raises:
            JournalError: the file is of another kind, or its I/O failed.
        """
        now = self._clock()

        def work(db: sqlite3.Connection) -> None:
            db.execute("BEGIN IMMEDIATE")
            with db:
                db.execute("DELETE FROM processed WHERE at <= ?", (now - self._retention,))
                db.execute("INSERT OR REPLACE INTO processed VALUES (?, ?)", (key, now))

        await self._run(work)

    async def _run(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        if self._thread is None:
            self._thread = DatabaseThread(self._connect, "adapty-webhooks", "the webhook store")
        try:
            return await self._thread.run(work)
        except (OSError, sqlite3.Error) as error:
            raise JournalError(f"{self._path}: {explain(error)}") from None

    def _connect(self) -> sqlite3.Connection:
        # not one that is there: its close releases the locks of other stores of this process
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE))
        if (fault := fault_of_name(self._path)) is not None:
            raise JournalError(f"{self._path}: {fault}")
        db = sqlite3.connect(self._path, isolation_level=None, timeout=_BUSY)
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        with db:
            [(application_id,)] = db.execute("PRAGMA application_id")
            [(tables,)] = db.execute("SELECT count(*) FROM sqlite_master")
            if not application_id and not tables:
                for statement in _SCHEMA:
                    db.execute(statement)
            elif application_id != _APPLICATION_ID:
                raise JournalError(f"{self._path}: is a database, but no store of webhooks")
        use_write_ahead_log(db)
        # A power failure may lose the last records: a second delivery is then processed again.
        db.execute("PRAGMA synchronous = NORMAL")

    async def aclose(self) -> None:
        """Close the file; another event opens it again."""
        if self._thread is not None:
            self._thread.stop()
            self._thread = None

    def __repr__(self) -> str:
        return f"SqliteStore({self._path})"
