"""A journal's file: its lock, its checks of type and structure, and a read-only view."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from adapty_async._journal.log import verify_log
from adapty_async._journal.model import DamageError
from adapty_async._journal.schema import verify_schema
from adapty_async._runtime.database import code_of, explain
from adapty_async._runtime.files import is_at, status_of
from adapty_async.errors import JournalError

__all__ = (
    "PRIVATE",
    "FileLock",
    "belongs_to_journal",
    "classified",
    "connected",
    "copy_journal",
    "files_of",
    "is_empty_database",
    "is_in_use",
    "log_of",
    "named",
    "reading",
    "verify_structure",
)

#: The permissions of every file that belongs to a journal: only its owner can read it.
PRIVATE = 0o600
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
        verify_structure(db)
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
    with named(path, "cannot be read"):
        if not stat.S_ISREG(path.stat().st_mode):
            raise DamageError("it is not a regular file")
        if (log := log_of(path)).is_file():
            verify_log(log)
        with contextlib.closing(connected(path, "mode=ro", timeout=1)) as db:
            with classified(path):
                db.execute("BEGIN")
                is_empty = is_empty_database(db, path)
            yield db, is_empty


@contextlib.contextmanager
def classified(path: Path) -> Iterator[None]:
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


def is_empty_database(db: sqlite3.Connection, path: Path) -> bool:
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


def verify_structure(db: sqlite3.Connection) -> None:
    """
    Validate the structure of the database.

    Raises:
        DamageError: it is damaged.
    """
    found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise DamageError("it is damaged")


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the paths of a journal: its file, and those that a run creates and removes."""
    return tuple(Path(f"{path}{suffix}") for suffix in ("", "-wal", "-shm", "-lock", "-journal"))


def belongs_to_journal(path: Path, journal: Path) -> bool:
    """Return whether a path, however it is written, is one of a journal's paths."""
    return path.resolve() in {each.resolve() for each in files_of(journal)}


def _lock_of(path: Path) -> Path:
    return Path(f"{path}-lock")


def log_of(path: Path) -> Path:
    """Return the path of a database's write-ahead log."""
    return Path(f"{path}-wal")


@contextlib.contextmanager
def named(path: Path, what: str) -> Iterator[None]:
    """Translate every error of SQLite and of the operating system to one that names the journal."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError, OSError, DamageError) as error:
        raise JournalError(f"the journal {path} {what}: {explain(error)}") from None
