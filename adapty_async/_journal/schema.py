"""
The SQL schema of a journal, with functions that write and verify its rows.

Every row ends with a checksum of its table's name and its other columns. It detects a damaged row,
and a row that replaced another one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar
from zlib import crc32

import msgspec

from adapty_async._journal.model import (
    KEY_SIZE,
    SPAN_SIZE,
    Changes,
    DamageError,
    ItemState,
    JournalIdentity,
    Minute,
    Reason,
    Run,
    validate_states,
)
from adapty_async._runtime.database import JOURNAL_ID

StructT = TypeVar("StructT", Run, Minute, Reason)

# The version of the tables. Formats 1 to 5 were not SQLite databases, and no release wrote them.
_FORMAT = 6

_NAMES = "\n".join(
    f"    WHEN '{chr(state)}' THEN '{state.name.lower()}'"
    for state in ItemState
    if state is not ItemState.NONE
)
# The statements that create the tables.
_TABLES = {
    "identity": """CREATE TABLE identity (
  id INTEGER PRIMARY KEY,
  operation TEXT NOT NULL,
  origin TEXT NOT NULL,
  account TEXT NOT NULL,
  keys TEXT NOT NULL,
  input TEXT NOT NULL,
  checksum INTEGER NOT NULL
)""",
    "run": """CREATE TABLE run (
  number INTEGER PRIMARY KEY,
  started_at REAL NOT NULL,
  last_at REAL NOT NULL,
  ended_at REAL,
  stop_reason TEXT,
  rate REAL,
  checksum INTEGER NOT NULL
)""",
    "span": """CREATE TABLE span (
  first INTEGER PRIMARY KEY,
  states TEXT NOT NULL,
  checksum INTEGER NOT NULL
)""",
    "entry_key": """CREATE TABLE entry_key (
  first INTEGER PRIMARY KEY,
  keys BLOB NOT NULL,
  checksum INTEGER NOT NULL
)""",
    "minute": """CREATE TABLE minute (
  run INTEGER NOT NULL,
  minute INTEGER NOT NULL,
  first_at REAL NOT NULL,
  last_at REAL NOT NULL,
  done INTEGER NOT NULL,
  absent INTEGER NOT NULL,
  failed INTEGER NOT NULL,
  lost INTEGER NOT NULL,
  unknown INTEGER NOT NULL,
  not_sent INTEGER NOT NULL,
  duplicate INTEGER NOT NULL,
  requests INTEGER NOT NULL,
  throttled INTEGER NOT NULL,
  checksum INTEGER NOT NULL,
  PRIMARY KEY (run, minute)
) WITHOUT ROWID""",
    "reason": """CREATE TABLE reason (
  run INTEGER NOT NULL,
  state TEXT NOT NULL,
  error TEXT NOT NULL,
  http_status INTEGER NOT NULL,
  items INTEGER NOT NULL,
  checksum INTEGER NOT NULL,
  PRIMARY KEY (run, state, error, http_status)
) WITHOUT ROWID""",
}
_VIEW = f"""CREATE VIEW item AS
WITH RECURSIVE offset (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM offset WHERE n < 511)
SELECT first + n AS position,
  CASE substr(states, n + 1, 1)
{_NAMES}
  END AS state
FROM span CROSS JOIN offset
WHERE substr(states, n + 1, 1) <> '.'"""  # noqa: S608  names of ours
_SCHEMA = (
    *(("table", name, name, sql) for name, sql in _TABLES.items()),
    ("view", "item", "item", _VIEW),
)
# Entry keys of a row: 64 KiB.
_KEYS_IN_ROW = 4096
_pack = msgspec.msgpack.encode


def _checksum(table: str, row: Sequence[Any]) -> int:
    return crc32(_pack((table, *row)))


def _insert(db: sqlite3.Connection, table: str, row: Sequence[Any]) -> None:
    """Insert a row with its checksum, or replace the row with the same key."""
    values = f"(?{', ?' * len(row)})"
    db.execute(f"INSERT OR REPLACE INTO {table} VALUES {values}", (*row, _checksum(table, row)))  # noqa: S608  ours


def _rows(db: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...]]:
    """
    Yield the rows of a table in the order of their keys, verified and without their checksums.

    Raises:
        DamageError: a row is damaged.
    """
    for *row, checksum in db.execute(f"SELECT * FROM {table}"):  # noqa: S608  ours
        if _checksum(table, row) != checksum:
            raise DamageError(f"a row of the table {table} is damaged")
        yield tuple(row)


def _insert_struct(db: sqlite3.Connection, value: Run | Minute | Reason) -> None:
    kind = type(value)
    # as SQLite reads them: a whole number in a REAL column is a float
    typed = msgspec.convert(msgspec.structs.asdict(value), kind)
    _insert(db, kind.__name__.lower(), msgspec.structs.astuple(typed))


def read_structs(db: sqlite3.Connection, kind: type[StructT]) -> list[StructT]:
    """
    Return the rows of the table that a struct is named for, in the order of their keys.

    Raises:
        DamageError: a row is damaged.
    """
    names = kind.__struct_fields__
    rows = _rows(db, kind.__name__.lower())
    return [kind(**dict(zip(names, row, strict=True))) for row in rows]


def create_schema(db: sqlite3.Connection) -> None:
    """Create the tables in an empty database, within the current transaction."""
    db.execute(f"PRAGMA application_id = {JOURNAL_ID}")
    db.execute(f"PRAGMA user_version = {_FORMAT}")
    for _, _, _, sql in _SCHEMA:
        db.execute(sql)


def verify_schema(db: sqlite3.Connection) -> bool:
    """
    Validate that a database is a journal; return whether it is still empty.

    Raises:
        DamageError: it is another database, has another format, or is damaged.
    """
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    found = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    schema = set(found)
    if not schema and not application and not version:
        return True
    if application != JOURNAL_ID:
        raise DamageError("it is a database, but not a journal of this library")
    if version != _FORMAT:
        raise DamageError(f"it has format {version}; this release understands format {_FORMAT}")
    if schema != set(_SCHEMA):
        raise DamageError("its tables are not those of a journal")
    return False


def write_identity(db: sqlite3.Connection, identity: JournalIdentity) -> None:
    """Write the identity of a journal, which replaces an earlier one."""
    described = msgspec.json.encode(identity.input).decode()
    row = (1, identity.operation, identity.origin, identity.account, identity.keys, described)
    _insert(db, "identity", row)


def read_identity(db: sqlite3.Connection) -> JournalIdentity:
    """
    Return the identity of a journal.

    Raises:
        DamageError: it is damaged.
    """
    rows = list(_rows(db, "identity"))
    if len(rows) != 1:
        raise DamageError("the table identity is damaged")
    _, operation, origin, account, keys, described = rows[0]
    return JournalIdentity(
        operation=operation,
        origin=origin,
        account=account,
        keys=keys,
        input=msgspec.json.decode(described),
    )


def write_changes(db: sqlite3.Connection, changes: Changes) -> None:
    """Write changes within the current transaction."""
    for number, states in changes.spans.items():
        _insert(db, "span", (number * SPAN_SIZE, states.decode()))
    size = _KEYS_IN_ROW * KEY_SIZE
    for start in range(0, len(changes.new_keys), size):
        first = changes.first_key + start // KEY_SIZE
        _insert(db, "entry_key", (first, changes.new_keys[start : start + size]))
    counts: list[Run | Minute | Reason] = [*changes.minutes, *changes.reasons]
    for value in counts if changes.run is None else (changes.run, *counts):
        _insert_struct(db, value)


def read_runs(db: sqlite3.Connection) -> list[Run]:
    """
    Return the runs in their order.

    Raises:
        DamageError: a row is damaged or missing.
    """
    runs = read_structs(db, Run)
    if [run.number for run in runs] != list(range(1, len(runs) + 1)):
        raise DamageError("the table run lacks a row")
    return runs


def read_spans(db: sqlite3.Connection) -> Iterator[tuple[int, bytes]]:
    """
    Yield the number and the states of every span.

    Raises:
        DamageError: a row is damaged.
    """
    for first, text in _rows(db, "span"):
        number, rest = divmod(first, SPAN_SIZE)
        if rest or first < 0:
            raise DamageError("a row of the table span is damaged")
        states = text.encode()
        validate_states(states)
        yield number, states


def read_keys(db: sqlite3.Connection) -> Iterator[bytes]:
    """
    Yield the entry keys, in batches, in the order of their positions.

    Raises:
        DamageError: a row is damaged or missing.
    """
    expected = 0
    for first, keys in _rows(db, "entry_key"):
        if first != expected:
            raise DamageError("the table entry_key lacks a row")
        expected += len(keys) // KEY_SIZE
        yield keys
