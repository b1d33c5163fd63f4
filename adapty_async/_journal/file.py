"""
A journal's file as readers see it, and the checks that it is whole and the file of a journal.
"""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from adapty_async._journal.database import code_of, explain
from adapty_async._journal.log import verify_log
from adapty_async._journal.model import DamageError
from adapty_async._journal.schema import verify_schema
from adapty_async.errors import JournalError

__all__ = (
    "belongs_to_journal",
    "classified",
    "connected",
    "copy_journal",
    "files_of",
    "is_empty_database",
    "log_of",
    "named",
    "reading",
    "verify_structure",
)

_MAGIC = b"SQLite format 3\0"
_OLD_MAGIC = b"adapty-async journal "


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
    """
    Open a journal to read it; the second result is whether it is empty.
    """
    with named(path, "cannot be read"):
        if not stat.S_ISREG(path.stat().st_mode):
            raise DamageError("it is not a regular file")
        verify_log(log_of(path))
        with contextlib.closing(connected(path, "mode=ro", timeout=1)) as db:
            with classified(path):
                db.execute("BEGIN")
                is_empty = is_empty_database(db, path)
            yield db, is_empty


@contextlib.contextmanager
def classified(path: Path) -> Iterator[None]:
    """
    Name a file for what it is if SQLite finds that it is no database; nobody has it locked then.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        if code_of(error) == sqlite3.SQLITE_NOTADB:
            _demand_database(path)
        raise


def _demand_database(path: Path) -> None:
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
    Validate that a database is a journal; return whether it has no tables yet instead.

    Raises:
        DamageError: it is something else.
    """
    is_empty = verify_schema(db)
    if is_empty:
        _demand_database(path)  # SQLite takes a file of one byte for an empty one
    return is_empty


def connected(path: Path, options: str, *, timeout: float) -> sqlite3.Connection:
    """
    Connect to a file with options of a URI, without transactions that are not asked for.
    """
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
    """
    Return the paths that a journal takes: its own, and those that a run creates and removes.
    """
    return tuple(Path(f"{path}{suffix}") for suffix in ("", "-wal", "-shm", "-lock", "-journal"))


def belongs_to_journal(path: Path, journal: Path) -> bool:
    """
    Return whether a path is one that a journal takes, however it is written.
    """
    return path.resolve() in {each.resolve() for each in files_of(journal)}


def log_of(path: Path) -> Path:
    """
    Return the path of a database's write-ahead log.
    """
    return Path(f"{path}-wal")


@contextlib.contextmanager
def named(path: Path, what: str) -> Iterator[None]:
    """
    Turn every error of SQLite and of the operating system into one that names the journal.
    """
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError, OSError, DamageError) as error:
        raise JournalError(f"the journal {path} {what}: {explain(error)}") from None
