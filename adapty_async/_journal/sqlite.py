"""
A journal in an SQLite database: one file, a write-ahead log, and one thread that writes.

Invariants:
- One transaction per commit. A process that is killed leaves complete transactions.
- Only durable commits wait for the disk (`synchronous=FULL`). Each makes the earlier ones durable.
- Space for the outcomes of all items in flight is allocated before their write-ahead entries are
  stored.
- One process at a time holds the lock file. Readers are not excluded.
- Only the owner can read the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
import stat
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

from adapty_async._journal.log import verify_log
from adapty_async._journal.model import (
    Changes,
    DamageError,
    InputCheck,
    JournalIdentity,
    LoadKeys,
    Minute,
    Reason,
    Resumed,
    Run,
    adopted,
    require_same_run,
    resumed,
)
from adapty_async._journal.schema import (
    create_schema,
    read_identity,
    read_keys,
    read_runs,
    read_spans,
    read_structs,
    verify_schema,
    write_changes,
    write_identity,
)
from adapty_async._runtime.database import DatabaseThread, code_of, explain, set_durable
from adapty_async._runtime.files import (
    PRIVATE,
    fault_of_name,
    flush_folder,
    is_at,
    is_out_of_files,
    status_of,
)
from adapty_async._runtime.loop import result_of
from adapty_async.errors import JournalError

# Seconds that a write waits for a reader, if the file system has no shared memory.
_BUSY_SECONDS = 5.0
# Bytes of a page in the write-ahead log, its header included.
_FRAME = 4096 + 24
# Pages in the write-ahead log above which a checkpoint moves them to the database.
_CHECKPOINT_PAGES = 512
# Maximum of pages that the outcome of one item writes: span, minute, reason, run.
_PAGES_PER_ITEM = 4
# Bytes of zeros in one write. Newer kernels cache larger writes as one unit, and write the unit to
# the disk again when a byte has changed (seen with Linux 6.18 and ext4).
_ZEROS_PER_WRITE = 1 << 14
# Errors of file systems that cannot reserve space, where the C library does not write zeros itself.
_CANNOT_ALLOCATE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
_NO_SHARED_MEMORY = frozenset(
    {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL}
)


def _create(path: Path) -> os.stat_result:
    """Create a file that only its owner can read, whatever the umask, and return its status."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    handle = os.open(path, flags, PRIVATE)
    try:
        os.fchmod(handle, PRIVATE)
        return os.fstat(handle)
    finally:
        os.close(handle)


class _JournalFile:
    """A connection to the database of a run, used by one thread."""

    def __init__(self, path: Path, owed: int, vfs: str | None) -> None:
        if not hasattr(os, "O_NOFOLLOW"):
            raise JournalError("a journal needs POSIX file locks, which this system does not have")
        self._path = path
        self._vfs = vfs
        self._space = _CHECKPOINT_PAGES + _PAGES_PER_ITEM * (owed + 1)
        self._pages = 0  # in the write-ahead log, at most
        self._run: Run | None = None  # the one that opened this
        with _named(path, "cannot be used"), contextlib.ExitStack() as stack:
            stack.callback(FileLock(path).close)
            found = status_of(path)
            self._file = _create(path) if found is None else found
            _require_file(path, self._file)
            if found is None:
                flush_folder(path.parent)
            if (log := log_of(path)).is_file():
                verify_log(log)
            with _classified(path):
                self._connect()
            self._cleanup = stack.pop_all()

    def _connect(self) -> None:
        try:
            self._db = _connection(self._path, self._vfs, is_alone=False)
        except sqlite3.OperationalError as error:
            _require_shared_memory_fault(error)
            self._db = _connection(self._path, self._vfs, is_alone=True)

    def _turn_on_log(self) -> None:
        """Use a write-ahead log; without shared memory, in a mode that excludes readers."""
        try:
            if _enable_log(self._db):
                return
        except sqlite3.OperationalError as error:
            _require_shared_memory_fault(error)
        self._db.close()
        self._db = _connection(self._path, self._vfs, is_alone=True)
        _enable_log(self._db)  # without a log, there is nothing to allocate

    def open(
        self,
        identity: JournalIdentity,
        check: InputCheck,
        load_keys: LoadKeys,
        clock: Callable[[], float],
    ) -> Resumed:
        """Verify and read the content, and record a new run. After an error, this is closed."""
        with contextlib.ExitStack() as undo, _named(self._path, "cannot be used"):
            undo.callback(self.close)
            is_empty = _is_empty_database(self._db, self._path)
            earlier: list[Run] = []
            spans: dict[int, bytes] = {}
            found = None
            if not is_empty:
                _verify_structure(self._db)
                found = read_identity(self._db)
                earlier = read_runs(self._db)
                spans = dict(read_spans(self._db))
                known = adopted(found, identity, read_structs(self._db, Reason), spans)
                require_same_run(str(self._path), known, identity, check)
                read_structs(self._db, Minute)
                load_keys(read_keys(self._db), spans)
            content = resumed(earlier, spans, clock())
            self._begin(identity if found != identity else None, content.run, is_empty=is_empty)
            undo.pop_all()
            self._run = content.run
            return content

    def _begin(self, identity: JournalIdentity | None, run: Run, *, is_empty: bool) -> None:
        for path in files_of(self._path):
            with contextlib.suppress(FileNotFoundError):
                path.chmod(PRIVATE)
        self._turn_on_log()
        set_durable(self._db, is_durable=True)
        with self._db:  # which commits
            self._db.execute("BEGIN IMMEDIATE")
            if is_empty:
                create_schema(self._db)
            if identity is not None:
                write_identity(self._db, identity)
            write_changes(self._db, Changes(run=run))
        trouble = self._checkpoint()
        if trouble is not None:
            raise trouble

    def commit(self, changes: Changes, *, durable: bool) -> JournalError | None:
        """Store changes; return an error if there may be no space for more."""
        with _named(self._path, "cannot be written"):
            self._require_in_place()
            set_durable(self._db, is_durable=durable)
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                write_changes(self._db, changes)
        rows = len(changes.spans) + len(changes.minutes) + len(changes.reasons)
        self._pages += 2 * rows + _PAGES_PER_ITEM + len(changes.new_keys) // 2048
        return self._checkpoint() if self._pages > _CHECKPOINT_PAGES else None

    def _require_in_place(self) -> None:
        if not is_at(self._path, self._file):
            raise DamageError("it was deleted, moved or replaced during the run")

    def _checkpoint(self) -> JournalError | None:
        """Move pages from the write-ahead log to the database, and allocate space in the log."""
        try:
            with _named(self._path, "cannot be written"):
                _, logged, moved = self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                self._pages = 0 if logged == moved else logged  # a reader needs the others
                _allocate(log_of(self._path), (self._pages + self._space) * _FRAME)
        except JournalError as error:
            return error
        return None

    def finish(self) -> None:
        """
        Make everything durable, remove the log unless a reader uses it, and close this.

        Another run can then open the journal at once.
        """
        with contextlib.closing(self), _named(self._path, "cannot be written"):
            self._require_in_place()
            try:
                self._db.execute("PRAGMA journal_mode = DELETE")
            except sqlite3.OperationalError as error:
                if code_of(error) != sqlite3.SQLITE_BUSY:
                    raise
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def abandon(self, clock: Callable[[], float]) -> None:
        """Record that the run was stopped while it opened this; nothing if it could not open it."""
        if self._run is not None:
            self._run.ended_at, self._run.stop_reason = clock(), "stopped"
            self.commit(Changes(run=self._run), durable=True)
            self.finish()

    def close(self) -> None:
        """Close the database, and release the lock; a second call does nothing."""
        self._db.close()
        self._cleanup.close()


def _require_file(path: Path, status: os.stat_result) -> None:
    """
    Validate that a file may be a journal, before SQLite opens it.

    Raises:
        DamageError: it cannot be one; it is not changed.
    """
    if stat.S_ISLNK(status.st_mode):
        raise DamageError("it is a symbolic link")
    if not stat.S_ISREG(status.st_mode):
        raise DamageError("it is not a regular file")
    if (fault := fault_of_name(path)) is not None:
        raise DamageError(fault)
    if not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _connection(path: Path, vfs: str | None, *, is_alone: bool) -> sqlite3.Connection:
    """Connect to a journal; alone, its log needs no shared memory, and readers are excluded."""
    options = "mode=rw" if vfs is None else f"mode=rw&vfs={vfs}"
    db = connected(path, options, timeout=_BUSY_SECONDS)
    try:
        if is_alone:  # which takes effect before a log is open
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        db.execute("PRAGMA wal_autocheckpoint = 0")
    except BaseException:
        db.close()
        raise
    return db


def _enable_log(db: sqlite3.Connection) -> bool:
    """Enable a write-ahead log; return whether that is possible."""
    if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        return False
    db.execute("BEGIN IMMEDIATE")
    db.execute("ROLLBACK")
    return True


def _require_shared_memory_fault(error: sqlite3.OperationalError) -> None:
    """Raise an error again, unless missing shared memory may be its cause."""
    if code_of(error) not in _NO_SHARED_MEMORY:
        raise error


def _allocate(path: Path, size: int) -> None:
    """
    Extend a file with zeros, which reserve disk space; SQLite ignores them in its log.

    Without a file descriptor, the next checkpoint does that: the log keeps the space it has.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if is_out_of_files(error):
            return
        raise
    try:
        present = os.fstat(handle).st_size
        if present < size and not _allocate_at_once(handle, present, size):
            while present < size:
                present += os.pwrite(handle, bytes(min(_ZEROS_PER_WRITE, size - present)), present)
    finally:
        os.close(handle)


def _allocate_at_once(handle: int, present: int, size: int) -> bool:
    """Return whether the system can reserve the space without writing it, and has done so."""
    if not hasattr(os, "posix_fallocate"):  # as on macOS
        return False
    try:
        os.posix_fallocate(handle, present, size - present)
    except OSError as error:
        if error.errno not in _CANNOT_ALLOCATE:
            raise
        return False
    return True


class SqliteJournal:
    """
    A journal in an SQLite database, written by one thread.

    Args:
        path: the file; it is created if it does not exist.
        owed: maximum of items that are in flight or reserved.
        clock: returns seconds since the epoch.
        vfs: the name of SQLite's interface to the operating system; None for the default.
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
        """Open the file for a run, or create it; see `Journal.open`."""
        self._thread = DatabaseThread(self._connect, "adapty-journal")
        try:
            return await self._thread.run(
                lambda file: file.open(identity, check, load_keys, self._clock)
            )
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                ending = self._thread.run(lambda file: file.abandon(self._clock))
                ending.add_done_callback(asyncio.Future.exception)  # read it: nothing waits for it
            self._thread.stop()  # after the opening has ended
            raise

    def commit(self, changes: Changes, *, durable: bool) -> Awaitable[JournalError | None]:
        """Store changes in one transaction; see `Journal.commit`."""
        return self._thread.run(lambda file: file.commit(changes, durable=durable))

    async def close(self) -> None:
        """Close the file; see `Journal.close`."""
        ending = self._thread.run(_JournalFile.finish)
        self._thread.stop()
        await result_of(ending)


_MAGIC = b"SQLite format 3\0"
_OLD_MAGIC = b"adapty-async journal "


class FileLock:
    """
    An exclusive lock on a file next to the journal, held until this is closed or the process ends.

    It is SQLite's own lock on an empty database, so it works wherever SQLite does. Only SQLite
    opens that file: a process that closes a file releases all its locks on it.
    """

    def __init__(self, path: Path) -> None:
        self._path = _lock_of(path)
        while True:
            before = status_of(self._path)
            if before is not None and not stat.S_ISREG(before.st_mode):
                raise DamageError(f"{self._path.name} is not a regular file")
            self._db = self._connected()
            try:
                self._db.execute("PRAGMA journal_mode = MEMORY")
                self._db.execute("BEGIN EXCLUSIVE")
                with contextlib.suppress(FileNotFoundError):
                    self._path.chmod(PRIVATE)
                # this may have created it just now, or its last owner may have removed it
                if before is not None and is_at(self._path, before):
                    return
            except BaseException:
                self._db.close()
                raise
            self._db.close()

    def _connected(self) -> sqlite3.Connection:
        try:
            # a reader holds it briefly, to check whether a run does
            return sqlite3.connect(self._path, timeout=0.1, isolation_level=None)
        except sqlite3.OperationalError:
            # the operating system's error is more exact
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT))
            raise

    def close(self) -> None:
        """Remove the file, and release the lock."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        self._db.close()


def is_in_use(path: Path) -> bool:
    """Return whether a run has a journal open. Blocks."""
    try:
        with contextlib.closing(connected(_lock_of(path), "mode=ro", timeout=0)) as db:
            db.execute("PRAGMA schema_version").fetchone()  # which needs the lock briefly
    except sqlite3.Error as error:
        return code_of(error) == sqlite3.SQLITE_BUSY
    return False


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
        _verify_structure(db)
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
    """Open a journal read-only; the second value is whether it is empty."""
    with _named(path, "cannot be read"):
        if not stat.S_ISREG(path.stat().st_mode):
            raise DamageError("it is not a regular file")
        if (log := log_of(path)).is_file():
            verify_log(log)
        with contextlib.closing(connected(path, "mode=ro", timeout=1)) as db:
            with _classified(path):
                db.execute("BEGIN")
                is_empty = _is_empty_database(db, path)
            yield db, is_empty


@contextlib.contextmanager
def _classified(path: Path) -> Iterator[None]:
    """Raise an error that names the kind of a file that SQLite cannot read as a database."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if code_of(error) == sqlite3.SQLITE_NOTADB:
            _require_database(path)
        raise


def _require_database(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(len(_OLD_MAGIC))
    if head.startswith(_OLD_MAGIC):
        raise DamageError(
            "it is a journal of a development version, which this release cannot read;"
            " start a new journal"
        )
    if head and not head.startswith(_MAGIC):
        raise DamageError("it is not a journal of this library")


def _is_empty_database(db: sqlite3.Connection, path: Path) -> bool:
    """
    Validate that a database is a journal; return whether it is still empty.

    Raises:
        DamageError: it is not a journal.
    """
    is_empty = verify_schema(db)
    if is_empty:
        _require_database(path)  # SQLite treats a file of one byte as empty
    return is_empty


def connected(path: Path, options: str, *, timeout: float) -> sqlite3.Connection:
    """Connect to a file with URI options, without implicit transactions."""
    name = f"{path.absolute().as_uri()}?{options}"
    return sqlite3.connect(name, uri=True, timeout=timeout, isolation_level=None)


def _verify_structure(db: sqlite3.Connection) -> None:
    if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise DamageError("it is damaged")


def files_of(path: Path) -> tuple[Path, ...]:
    """
    Return the paths of a journal: its file, and those that a run creates and removes.

    A reader may name the journal by a link.
    """
    name, suffixes = os.path.realpath(path), ("", "-wal", "-shm", "-lock", "-journal")
    return tuple(Path(f"{name}{suffix}") for suffix in suffixes)


def belongs_to_journal(path: Path, journal: Path) -> bool:
    """Return whether a path, however it is written, is one of a journal's paths."""
    return path.resolve() in {each.resolve() for each in files_of(journal)}


def _lock_of(path: Path) -> Path:
    return Path(f"{os.path.realpath(path)}-lock")  # a reader may name the journal by a link


def log_of(path: Path) -> Path:
    """Return the path of the write-ahead log of a journal, whatever link names it."""
    return Path(f"{os.path.realpath(path)}-wal")


@contextlib.contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """Translate every error of SQLite and of the operating system to one that names the journal."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError, OSError, DamageError) as error:
        raise JournalError(f"the journal {path} {what}: {explain(error)}") from None
