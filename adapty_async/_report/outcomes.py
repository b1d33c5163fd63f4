"""A reader of outcomes files: the last outcome of each item, in a temporary database on disk."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import msgspec

from adapty_async._bulk.outcomes_file import OutcomeLine, parse_line
from adapty_async.errors import InvalidInputError

__all__ = ("FINAL", "ListedItem", "OutcomesFile", "OutcomesSummary", "name_of")

#: The states of items for which nothing is left to do.
FINAL = frozenset({"done", "absent", "duplicate"})
_TABLE = """CREATE TABLE outcome (
  key BLOB PRIMARY KEY, id BLOB, line INTEGER, status TEXT, at TEXT, http_status INTEGER,
  request_id TEXT, attempts INTEGER, error TEXT
) WITHOUT ROWID"""
# a duplicate is another row of the same id, and does not contain the outcome of the first
_RECORD = """INSERT INTO outcome VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET line = excluded.line, status = excluded.status, at = excluded.at,
  http_status = excluded.http_status, request_id = excluded.request_id,
  attempts = excluded.attempts, error = excluded.error
WHERE excluded.status <> 'duplicate'"""
_INDEX = "CREATE INDEX by_id ON outcome (id, status)"
# Bits of an integer in SQLite, without its sign.
_BITS = 63
_STATUSES = "SELECT DISTINCT status FROM outcome WHERE id = ? AND status <> 'duplicate'"
_STATUS = "SELECT status FROM outcome WHERE key = ?"


class ListedItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item with its id and its last known state."""

    line: int
    id: str | None
    status: str
    at: dt.datetime | None = None
    http_status: int | None = None
    request_id: str | None = None
    attempts: int | None = None
    error: str | None = None


class OutcomesSummary(msgspec.Struct, frozen=True, kw_only=True):
    """
    A summary of an outcomes file, without ids.

    Attributes:
        name: the file's name, without folders.
        sha256: the digest of the file.
        lines: the number of its outcomes.
        items: the number of different items.
        counts: the number of items by their last outcome.
        is_torn: whether an incomplete last line was omitted.
    """

    name: str
    sha256: str
    lines: int
    items: int
    counts: dict[str, int]
    is_torn: bool


class OutcomesFile:
    """
    An index of a file's outcomes by item, in constant memory. Every method blocks.

    Args:
        path: the file; it may be in use by a run.
        by_line: a line and an id together identify an item, so an id may be in several rows.
            Otherwise the id alone does, which is correct only if all requests of an id are equal.

    Attributes:
        summary: a summary without ids.

    Raises:
        InvalidInputError: it cannot be read, or a line is not an outcome.
    """

    def __init__(self, path: Path, *, by_line: bool = False) -> None:
        self._path, self._name = path, name_of(path)
        self._by_line = by_line
        self._digest = hashlib.sha256()
        self._lines = 0
        self._is_torn = False
        self._db = sqlite3.connect("")  # SQLite deletes it on close
        try:
            with self._errors():
                self._load()
            self.summary = self._summary()
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
        except sqlite3.Error:
            reason = "cannot be read: there is no room for a temporary database of its ids"
        else:
            return
        raise InvalidInputError(self._name, reason)

    def _load(self) -> None:
        self._db.execute(_TABLE)
        with self._db, self._path.open("rb") as file:
            self._db.executemany(_RECORD, self._rows(file))
            self._db.execute(_INDEX)

    def _rows(self, file: Any) -> Iterator[tuple[Any, ...]]:
        for number, text in enumerate(file, 1):
            self._digest.update(text)
            line = parse_line(text)
            if line is not None and _is_storable(line):
                self._lines += 1
                yield _row(line, by_line=self._by_line)
            elif text.endswith(b"\n"):
                raise InvalidInputError(f"{self._name}, line {number}", "is not an outcome")
            else:
                self._is_torn = True

    def _summary(self) -> OutcomesSummary:
        counted = self._db.execute("SELECT status, count(*) FROM outcome GROUP BY 1 ORDER BY 1")
        counts = dict(counted.fetchall())
        return OutcomesSummary(
            name=self._name,
            sha256=self._digest.hexdigest(),
            lines=self._lines,
            items=sum(counts.values()),
            counts=counts,
            is_torn=self._is_torn,
        )

    def status_of(self, one: str) -> str | None:
        """
        Return the status of an id; None if it has no outcome.

        If several items have the id, a status that is not final takes precedence.
        """
        found = {status for (status,) in self._db.execute(_STATUSES, (_bytes(one),))}
        return min(found, key=lambda status: (status in FINAL, status), default=None)

    def status_at(self, line: int, one: str) -> str | None:
        """
        Return the status of a row of the run's input; None if it has no outcome.

        If an id alone identifies an item, the line has no effect.
        """
        if not self._by_line:
            return self.status_of(one)
        found = self._db.execute(_STATUS, (_key(line, _bytes(one)),)).fetchone()
        return None if found is None else str(found[0])

    def items(self) -> Iterator[ListedItem]:
        """Yield every item with its last outcome, in the order of the lines."""
        columns = "line, id, status, at, http_status, request_id, attempts, error"
        for row in self._db.execute(f"SELECT {columns} FROM outcome ORDER BY line"):  # noqa: S608  ours
            line, one, status, at, http_status, request_id, attempts, error = row
            yield ListedItem(
                line=line,
                id=None if one is None else one.decode(errors="replace"),
                status=status,
                at=None if at is None else dt.datetime.fromisoformat(at),
                http_status=http_status,
                request_id=request_id,
                attempts=attempts,
                error=error,
            )


def name_of(path: Path) -> str:
    """Return the name of a file without its folders, as valid UTF-8 text."""
    return os.fsencode(path.name).decode(errors="replace")


def _is_storable(line: OutcomeLine) -> bool:
    numbers = (line.line, line.attempts, line.http_status or 0)
    return all(number.bit_length() <= _BITS for number in numbers)


def _row(line: OutcomeLine, *, by_line: bool) -> tuple[Any, ...]:
    one = None if line.id is None else _bytes(line.id)
    key = one
    if by_line or one is None:
        key = _key(line.line, one)
    return (
        key,
        one,
        line.line,
        (line.earlier or line.status).value,
        line.at and line.at.isoformat(),
        line.http_status,
        line.request_id and _clean(line.request_id),
        line.attempts,
        line.error and _error(line.error),
    )


def _key(line: int, one: bytes | None) -> bytes:
    return f"{line}\0".encode() + (one or b"")


def _error(error: dict[str, Any]) -> str:
    parts = [error.get(name) for name in ("type", "error_code", "field_name", "rule")]
    return ", ".join(_clean(str(part)) for part in parts if part)


def _clean(text: str) -> str:
    return _bytes(text).decode(errors="replace")


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
