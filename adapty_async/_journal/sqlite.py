"""
A journal in an SQLite database: one file, a write-ahead log, and one thread that writes.

Laws:
- One transaction per commit. A process that is killed leaves the last one whole.
- Only durable commits wait for the disk (`synchronous=FULL`). Each makes the earlier ones durable.
- Room for the outcomes of all items in flight is allocated before their intents are stored.
- One process at a time holds the lock file. Readers are not kept out.
- The files are readable by their owner alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

from adapty_async._journal.database import DatabaseThread, explain
from adapty_async._journal.model import (
    Changes,
    DamageError,
    InputCheck,
    JournalIdentity,
    LoadKeys,
    Resumed,
    Run,
    elsewhere,
)
from adapty_async._journal.schema import (
    create_schema,
    read_identity,
    read_keys,
    read_minutes,
    read_reasons,
    read_runs,
    read_spans,
    verify_schema,
    write_changes,
    write_identity,
    write_span,
)
from adapty_async._tasks import until_ended
from adapty_async.errors import JournalError

__all__ = ("SqliteJournal", "copy_journal", "reading")

_MAGIC = b"SQLite format 3\0"
_OLD_MAGIC = b"adapty-async journal "
_PRIVATE = 0o600
_SIDE_FILES = ("-wal", "-shm")
# Seconds that a write waits for a reader, where the file system has no shared memory.
_BUSY_SECONDS = 5.0
# Bytes of a page in the write-ahead log, its header included.
_FRAME = 4096 + 24
# Pages in the write-ahead log at which they are moved into the database.
_CHECKPOINT_PAGES = 512
# Pages that the outcome of one item writes at most: span, minute, reason, run.
_PAGES_PER_ITEM = 4
# Bytes of zeros that are written in one go. Newer kernels keep larger pieces together in memory,
# and write all of them to the disk again when a byte has changed (seen with Linux 6.18 and ext4).
_PIECE = 1 << 14
_NO_SHARED_MEMORY = frozenset(
    {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL}
)


@contextlib.contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """
    Turn every error of SQLite and of the operating system into one that names the journal.
    """
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError, OSError, DamageError) as error:
        raise JournalError(f"the journal {path} {what}: {explain(error)}") from None


class _Lock:
    """
    An exclusive lock on a file next to the journal, held until this is closed or the process ends.

    It is SQLite's own lock on an empty database, so it works wherever SQLite does.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(f"{path}-lock")
        while True:
            before = _make_private(self._path)
            # a reader holds it for an instant, to see whether there is a run
            self._db = sqlite3.connect(self._path, timeout=0.1, isolation_level=None)
            try:
                self._db.execute("PRAGMA journal_mode = MEMORY")
                self._db.execute("BEGIN EXCLUSIVE")
                if _is_at(self._path, before):  # its last owner may have removed it meanwhile
                    return
            except BaseException:
                self._db.close()
                raise
            self._db.close()

    def close(self) -> None:
        """
        Remove the file, and release the lock.
        """
        with contextlib.suppress(OSError):
            self._path.unlink()
        self._db.close()


def _make_private(path: Path) -> os.stat_result:
    """
    Create a file that only its owner can read, unless there is one; return its status.
    """
    if not hasattr(os, "O_NOFOLLOW"):
        raise JournalError("a journal needs POSIX file locks, which this system does not have")
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    handle = os.open(path, flags, _PRIVATE)
    try:
        return os.fstat(handle)
    finally:
        os.close(handle)


def _is_at(path: Path, before: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.lstat(), before)
    except (FileNotFoundError, NotADirectoryError):
        return False


class _JournalFile:
    """
    The open database of a run; it lives in the thread that opened it.
    """

    def __init__(self, path: Path, owed: int, vfs: str | None) -> None:
        self._path = path
        self._room = _CHECKPOINT_PAGES + _PAGES_PER_ITEM * (owed + 1)
        self._pages = 0  # in the write-ahead log, at most
        self._is_durable: bool | None = None
        with _named(path, "cannot be used"), contextlib.ExitStack() as stack:
            if path.is_symlink():
                raise DamageError("it is a symbolic link")
            is_new = not path.exists()
            stack.callback(_Lock(path).close)
            self._file = _make_private(path)
            _demand_journal(path, self._file)
            if is_new:
                _flush_folder(path.parent)
            self._db = _connect(path, vfs)
            stack.callback(self._db.close)
            self._closing = stack.pop_all()

    def open(
        self,
        identity: JournalIdentity,
        check: InputCheck,
        load_keys: LoadKeys,
        clock: Callable[[], float],
    ) -> Resumed:
        """
        Verify and read the content, and record that a run begins.
        """
        with _named(self._path, "cannot be used"):
            is_empty = verify_schema(self._db)
            earlier: list[Run] = []
            spans: dict[int, bytearray] = {}
            found = None
            if not is_empty:
                _verify(self._db)
                found = read_identity(self._db)
                elsewhere(str(self._path), found, identity, check)
                earlier = read_runs(self._db)
                spans = {number: bytearray(states) for number, states in read_spans(self._db)}
                read_minutes(self._db)
                read_reasons(self._db)
                load_keys(read_keys(self._db))
            now = clock()
            run = Run(number=len(earlier) + 1, started_at=now, last_at=now)
            self._begin(identity if found != identity else None, run, is_empty=is_empty)
            rates = [each.rate for each in earlier if each.rate is not None]
            return Resumed(run=run, spans=spans, rate=rates[-1] if rates else None)

    def _begin(self, identity: JournalIdentity | None, run: Run, *, is_empty: bool) -> None:
        for suffix in ("", *_SIDE_FILES):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self._path}{suffix}").chmod(_PRIVATE)
        _turn_on_log(self._db)
        self._set_durable(is_durable=True)
        with self._transaction():
            if is_empty:
                create_schema(self._db)
            if identity is not None:
                write_identity(self._db, identity)
            write_changes(self._db, Changes(run=run))
        trouble = self._checkpoint()
        if trouble is not None:
            raise trouble

    def _set_durable(self, *, is_durable: bool) -> None:
        if self._is_durable is not is_durable:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
            self._is_durable = is_durable

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def commit(self, changes: Changes, *, durable: bool) -> JournalError | None:
        """
        Store changes; return an error if there may be no room for more.
        """
        self._demand_in_place()
        with _named(self._path, "cannot be written"):
            self._set_durable(is_durable=durable)
            if not write_span(self._db, changes):
                with self._transaction():
                    write_changes(self._db, changes)
        rows = len(changes.spans) + len(changes.minutes) + len(changes.reasons)
        self._pages += 2 * rows + _PAGES_PER_ITEM + len(changes.new_keys) // 2048
        return self._checkpoint() if self._pages > _CHECKPOINT_PAGES else None

    def _demand_in_place(self) -> None:
        if not _is_at(self._path, self._file):
            raise JournalError(
                f"the journal {self._path} was deleted, moved or replaced during the run"
            )

    def _checkpoint(self) -> JournalError | None:
        """
        Move pages from the write-ahead log into the database, and allocate room in the log.
        """
        try:
            with _named(self._path, "cannot be written"):
                _, logged, moved = self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                self._pages = 0 if logged == moved else logged  # a reader needs what is left
                _allocate(Path(f"{self._path}-wal"), (self._pages + self._room) * _FRAME)
        except JournalError as error:
            return error
        return None

    def finish(self) -> None:
        """
        Make everything durable and leave one file, which needs no log; with a reader, leave both.
        """
        self._demand_in_place()
        with _named(self._path, "cannot be written"):
            self._set_durable(is_durable=True)
            try:
                self._db.execute("PRAGMA journal_mode = DELETE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """
        Close the database, and release the lock.
        """
        self._closing.close()


def _demand_journal(path: Path, status: os.stat_result) -> None:
    """
    Validate that a file may be a journal, before SQLite sees it.

    Raises:
        DamageError: it is something else, and stays as it is.
    """
    if not stat.S_ISREG(status.st_mode):
        raise DamageError("it is not a regular file")
    if status.st_nlink > 1:
        raise DamageError("it has another name (a hard link), which SQLite cannot protect")
    if status.st_size:
        with path.open("rb") as file:
            _demand_database(file.read(len(_OLD_MAGIC)))


def _demand_database(head: bytes) -> None:
    if head.startswith(_OLD_MAGIC):
        raise DamageError(
            "it is a journal of a development version, which this release cannot read;"
            " start a new journal"
        )
    if not head.startswith(_MAGIC):
        raise DamageError("it is not a journal of this library")


def _flush_folder(folder: Path) -> None:
    """
    Make the name of a new file durable.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _connect(path: Path, vfs: str | None) -> sqlite3.Connection:
    """
    Connect to a journal as it is; without shared memory, in a way that keeps readers out.
    """
    options = "" if vfs is None else f"&vfs={vfs}"
    name = f"file:{quote(str(path))}?mode=rw{options}"
    db = sqlite3.connect(name, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        if not _has_shared_memory(db, "SELECT count(*) FROM sqlite_master"):
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA wal_autocheckpoint = 0")
    except BaseException:
        db.close()
        raise
    return db


def _has_shared_memory(db: sqlite3.Connection, statement: str) -> bool:
    """
    Execute a statement, and return whether the write-ahead log has the memory that it needs.
    """
    try:
        db.execute(statement).fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _NO_SHARED_MEMORY:
            raise
        return False
    return True


def _turn_on_log(db: sqlite3.Connection) -> None:
    """
    Use a write-ahead log; without shared memory, in a way that keeps readers out.

    Raises:
        DamageError: that is impossible, too.
    """
    turn_on = "PRAGMA journal_mode = WAL"
    has_memory = _has_shared_memory(db, turn_on) and _has_shared_memory(db, "BEGIN IMMEDIATE")
    if db.in_transaction:
        db.execute("ROLLBACK")
    if has_memory and db.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        return
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    if db.execute(turn_on).fetchone()[0] != "wal":
        raise DamageError("the file system supports no write-ahead log")


def _verify(db: sqlite3.Connection) -> None:
    """
    Validate the structure of the database.

    Raises:
        DamageError: it is damaged.
    """
    found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise DamageError("it is damaged")


def _allocate(path: Path, size: int) -> None:
    """
    Lengthen a file by zeros, which have their place on the disk; SQLite ignores them in its log.
    """
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        present = os.fstat(handle).st_size
        while present < size:
            present += os.pwrite(handle, bytes(min(_PIECE, size - present)), present)
    finally:
        os.close(handle)


def _ignore(_file: _JournalFile) -> None:
    pass


class SqliteJournal:
    """
    A journal in a file.

    Args:
        path: the file; it is created if there is none.
        owed: items at most that are in flight or reserved.
        clock: returns seconds since the epoch.
        vfs: the name of SQLite's interface to the operating system, where the default will not do.
    """

    def __init__(
        self,
        path: Path,
        *,
        owed: int,
        clock: Callable[[], float] = time.time,
        vfs: str | None = None,
    ) -> None:
        # the run may change its directory
        self._connect = partial(_JournalFile, path.absolute(), owed, vfs)
        self._clock = clock
        self._thread: DatabaseThread[_JournalFile]

    async def open(
        self, identity: JournalIdentity, check: InputCheck, load_keys: LoadKeys
    ) -> Resumed:
        """
        Open the file for a run, or create it; see `Journal.open`.
        """
        self._thread = DatabaseThread(self._connect, "adapty-journal")
        try:
            return await self._thread.run(
                lambda file: file.open(identity, check, load_keys, self._clock)
            )
        except asyncio.CancelledError:
            self._thread.run(_ignore, is_last=True)  # after the opening, which nobody waits for
            raise
        except BaseException:
            await until_ended(self._thread.run(_ignore, is_last=True))
            raise

    def commit(self, changes: Changes, *, durable: bool) -> Awaitable[JournalError | None]:
        """
        Store changes in one transaction; see `Journal.commit`.
        """
        return self._thread.run(lambda file: file.commit(changes, durable=durable))

    async def close(self) -> None:
        """
        Close the file; see `Journal.close`.
        """
        ending = self._thread.run(_JournalFile.finish, is_last=True)
        try:
            await until_ended(ending)
        finally:
            failure = ending.exception()
        if failure is not None:
            raise failure


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """
    Read a journal without changing it; it may be in use. Blocks.

    Raises:
        JournalError: it cannot be read, is damaged, or is no journal.
    """
    with _read_only(path) as (db, is_empty):
        if is_empty:
            raise DamageError("it holds nothing yet")
        _verify(db)
        yield db


def copy_journal(path: Path, target: Path) -> None:
    """
    Copy a journal without changing it; it may be in use. Blocks.

    Raises:
        JournalError: it cannot be read, or is no journal.
    """
    with _read_only(path) as (db, _), contextlib.closing(sqlite3.connect(target)) as copy:
        db.backup(copy)


@contextlib.contextmanager
def _read_only(path: Path) -> Iterator[tuple[sqlite3.Connection, bool]]:
    """
    Open a journal to read it; the second result is whether it is empty.
    """
    with _named(path, "cannot be read"):
        if not stat.S_ISREG(path.stat().st_mode):
            raise DamageError("it is not a regular file")
        name = f"file:{quote(str(path))}?mode=ro"
        with contextlib.closing(
            sqlite3.connect(name, uri=True, timeout=1, isolation_level=None)
        ) as db:
            try:
                db.execute("BEGIN")
                is_empty = verify_schema(db)
            except sqlite3.DatabaseError:
                with path.open("rb") as file:  # no database, so nobody has it locked
                    _demand_database(file.read(len(_OLD_MAGIC)))
                raise
            yield db, is_empty
