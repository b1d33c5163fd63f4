"""
A job store in an SQLite file, for several processes of one machine.

A lock is a file next to the database; see `adapty_async._journal.sqlite`. The end of its process
releases it. No SQL runs in the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from adapty_async._journal.model import DamageError
from adapty_async._journal.sqlite import FileLock, connected, is_in_use
from adapty_async._runtime.database import (
    DatabaseThread,
    code_of,
    explain,
    is_journal,
    set_durable,
    use_write_ahead_log,
)
from adapty_async._runtime.files import PRIVATE
from adapty_async._runtime.loop import until_ended
from adapty_async.errors import JournalError
from adapty_async.jobs._database import Dialect, Rows, Statement, Steps, drive, steps_of
from adapty_async.jobs._errors import JobError, StoreUnavailableError
from adapty_async.jobs._schema import ensure_schema

ResultT = TypeVar("ResultT")

# Time that a transaction waits for those of other processes; and after one has waited in vain, such
# as for a program that keeps a transaction open. A worker can therefore still end within seconds.
_BUSY_MILLISECONDS = 10_000
_BUSY_MILLISECONDS_AGAIN = 500
# Result codes of a store that may work again later.
_UNAVAILABLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
_DIALECT = Dialect(
    serial="INTEGER PRIMARY KEY AUTOINCREMENT",  # a number is never used again
    data="blob",
    loose="",
    share="",
    update="",
    now="(julianday('now') - 2440587.5) * 86400.0",
    exists="SELECT 1 FROM sqlite_master WHERE name = 'adapty_store'",
    snapshot="SELECT 1",  # a transaction is exclusive
    guard="SELECT 1",
    parameter=r":\1",
)


class SqliteDatabase:
    """
    A job store in an SQLite file; see `adapty_async.jobs._database.Database`.

    Attributes:
        path: the path of the file itself, whatever link names it. Its log, its locks and the shared
            rate are next to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))
        self._file: DatabaseThread[_File | _ReadOnlyFile]
        # a thread of its own, since the attempt to lock a part may take a tenth of a second
        self._locks: DatabaseThread[_Locks]

    async def open(self) -> None:
        """Open the file, or create it; see `Database.open`."""
        self._file = DatabaseThread(lambda: _opened(self.path), "adapty-job-store")
        self._locks = DatabaseThread(lambda: _Locks(self.path), "adapty-job-locks")
        try:
            await self.transact(ensure_schema())
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the file, and release all locks; see `Database.close`."""
        endings = [self._locks.run(lambda _: None), self._file.run(lambda _: None)]
        self._locks.stop()
        self._file.stop()
        # an error to open was raised where it happened
        await until_ended(asyncio.gather(*endings, return_exceptions=True))

    async def execute(self, statement: Statement) -> Rows:
        """Execute a statement as a transaction of its own; see `Database.execute`."""
        return await self._file.run(lambda file: file.execute_alone(statement, durable=True))

    def commit(self, statements: Sequence[Statement], *, durable: bool) -> Awaitable[int]:
        """Execute statements as one transaction; see `Database.commit`."""

        def work(file: _File | _ReadOnlyFile) -> int:
            if len(statements) == 1:
                rows = file.execute_alone(statements[0], durable=durable)
            else:
                rows = file.transact(steps_of(statements), durable=durable)[0]
            return rows[0][0] if rows else 0

        return self._file.run(work)

    async def transact(self, steps: Steps[ResultT], *, is_long: bool = False) -> ResultT:  # noqa: ARG002  no time ends it
        """Execute steps as one transaction; see `Database.transact`."""
        return await self._file.run(lambda file: file.transact(steps, durable=True))

    async def lock(self, job: int, part: int) -> _SqliteLock | None:
        """Acquire the lock on a part; see `Database.lock`."""
        await self._file.run(lambda file: file.require_writable())
        is_locked = await self._locks.run(lambda locks: locks.acquire(job, part))
        return _SqliteLock(self._locks, job, part) if is_locked else None

    async def held(self, job: int, parts: Sequence[int]) -> set[int]:
        """Return those of a job's parts that a runner has locked; see `Database.held`."""
        return await self._locks.run(lambda locks: {n for n in parts if locks.is_held(job, n)})


class _SqliteLock:
    """A lock on one part, which cannot be lost while its process lives."""

    def __init__(self, locks: DatabaseThread[_Locks], job: int, part: int) -> None:
        self._locks = locks
        self._job, self._part = job, part

    def watch(self, lost: Callable[[], object]) -> None:
        """Do nothing; see `PartLock.watch`."""

    async def release(self) -> None:
        await until_ended(self._locks.run(lambda locks: locks.release(self._job, self._part)))


class _Locks:
    """The locks of this process, used by one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: dict[tuple[int, int], FileLock] = {}

    def _path_of(self, job: int, part: int) -> Path:
        return Path(f"{self._path}.{job}.{part}")

    def acquire(self, job: int, part: int) -> bool:
        """Try to lock a part; return whether it is locked now."""
        with _translated(self._path):
            try:
                self._held[job, part] = FileLock(self._path_of(job, part))
            except sqlite3.OperationalError as error:
                if code_of(error) != sqlite3.SQLITE_BUSY:
                    raise
                return False
            except DamageError as error:
                raise JobError(f"the job store {self._path} cannot be used: {error}") from None
        return True

    def is_held(self, job: int, part: int) -> bool:
        """Return whether any process has locked a part."""
        return (job, part) in self._held or is_in_use(self._path_of(job, part))

    def release(self, job: int, part: int) -> None:
        """Release a lock; a second call does nothing."""
        lock = self._held.pop((job, part), None)
        if lock is not None:
            lock.close()

    def close(self) -> None:
        for key in tuple(self._held):
            self.release(*key)


def _opened(path: Path) -> _File | _ReadOnlyFile:
    """Open a store, or create it; one on a read-only medium, or of another user, for reading."""
    is_writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return _ReadOnlyFile(path) if os.access(path, os.F_OK) and not is_writable else _File(path)


class _ReadOnlyFile:
    """
    A database that this process cannot write.

    Each transaction opens it, since processes that can write it create its log and remove it.
    Without a log, SQLite reads it only as a file that does not change, and this process cannot lock
    it. So each transaction verifies at its end that the file has not changed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def require_writable(self) -> None:
        """
        Raise an error.

        Raises:
            JobError: always, since no worker can use this file.
        """
        raise JobError(f"the job store {self._path} cannot be used: it is read-only")

    def execute_alone(self, statement: Statement, *, durable: bool) -> Rows:
        return self.transact(steps_of([statement]), durable=durable)[0]

    def transact(self, steps: Steps[ResultT], *, durable: bool) -> ResultT:  # noqa: ARG002  nothing is written
        with _translated(self._path):
            log, changed_at = Path(f"{self._path}-wal"), self._path.stat().st_mtime_ns
            is_alone = not log.exists()
            options = f"mode=ro&immutable={int(is_alone)}"
            try:
                with contextlib.closing(connected(self._path, options, timeout=1)) as db:
                    db.execute("BEGIN")
                    return drive(
                        steps, lambda each: _execute(db, _DIALECT.translate(each.sql), each)
                    )
            finally:  # an error may come from the change, such as that the file is damaged
                if is_alone and (log.exists() or self._path.stat().st_mtime_ns != changed_at):
                    text = f"the job store {self._path} changed while it was read: try again"
                    raise StoreUnavailableError(text) from None

    def close(self) -> None:
        """Do nothing: no connection is open."""


class _File:
    """A connection to the database, used by one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._texts: dict[str, str] = {}
        with _translated(path):
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE))
            self._db = connected(path, "mode=rw", timeout=_BUSY_MILLISECONDS / 1000)
            self._milliseconds = _BUSY_MILLISECONDS
            try:
                self._status = path.stat()
                if is_journal(self._db):
                    raise JobError(
                        f"the job store {path} cannot be used: it is the journal of a run"
                    )
                use_write_ahead_log(self._db)
            except BaseException:
                self._db.close()
                raise

    def require_writable(self) -> None:
        """Do nothing, since this process can write the file."""

    def execute_alone(self, statement: Statement, *, durable: bool) -> Rows:
        with self._used(durable=durable):
            return self._execute(statement)

    def transact(self, steps: Steps[ResultT], *, durable: bool) -> ResultT:
        with self._used(durable=durable):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                result = drive(steps, self._execute)
                self._db.execute("COMMIT")
            except BaseException:
                self._db.rollback()  # unless SQLite has done so
                raise
        return result

    @contextlib.contextmanager
    def _used(self, *, durable: bool) -> Iterator[None]:
        with _translated(self._path):
            self._require_in_place()
            set_durable(self._db, is_durable=durable)
            changes = self._db.total_changes
            try:
                yield
            except sqlite3.Error as error:
                if code_of(error) == sqlite3.SQLITE_BUSY:
                    self._set_patience(_BUSY_MILLISECONDS_AGAIN)
                raise
            if self._db.total_changes > changes:  # a reader waits for nobody
                self._set_patience(_BUSY_MILLISECONDS)

    def _require_in_place(self) -> None:
        """
        Validate that other workers, and later ones, use the same file.

        Raises:
            JournalError: they do not, so nothing that is stored here would count.
        """
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if os.path.samestat(self._path.stat(), self._status):
                return
        raise JournalError(f"the job store {self._path} was deleted, moved or replaced meanwhile")

    def _set_patience(self, milliseconds: int) -> None:
        if self._milliseconds != milliseconds:
            self._db.execute(f"PRAGMA busy_timeout = {milliseconds}")
            self._milliseconds = milliseconds

    def _execute(self, statement: Statement) -> Rows:
        text = self._texts.get(statement.sql)
        if text is None:
            text = self._texts[statement.sql] = _DIALECT.translate(statement.sql)
        return _execute(self._db, text, statement)

    def close(self) -> None:
        self._db.close()


def _execute(db: sqlite3.Connection, text: str, statement: Statement) -> Rows:
    if statement.rows is None:
        cursor = db.execute(text, statement.values)
    else:
        rows = ({**statement.values, **row} for row in statement.rows)
        cursor = db.executemany(text, rows)
    found: list[tuple[Any, ...]] = cursor.fetchall()
    return [(cursor.rowcount,)] if cursor.description is None else found


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Translate errors of SQLite and of the operating system to errors that name the store."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailableError(f"the job store {path}: {explain(error)}") from None
    except sqlite3.Error as error:
        kind = StoreUnavailableError if code_of(error) in _UNAVAILABLE else JobError
        raise kind(f"the job store {path} cannot be used: {explain(error)}") from None
