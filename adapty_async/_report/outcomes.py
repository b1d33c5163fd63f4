"""A reader of outcomes files: the last outcome of each item, in a temporary database on disk."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import msgspec

from adapty_async._bulk.outcomes_file import OutcomeLine, parse_line
from adapty_async._journal import ItemState, JournalSummary, RunName
from adapty_async.errors import InvalidInputError

#: The states of items for which nothing is left to do.
FINAL = frozenset({"done", "absent", "duplicate"})
_TABLE = """CREATE TABLE outcome (
  key BLOB PRIMARY KEY, id BLOB, line INTEGER, status TEXT, at TEXT, http_status INTEGER,
  request_id TEXT, attempts INTEGER, error TEXT
) WITHOUT ROWID"""
_RECORD = """INSERT INTO outcome VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET line = excluded.line, status = excluded.status, at = excluded.at,
  http_status = excluded.http_status, request_id = excluded.request_id,
  attempts = excluded.attempts, error = excluded.error
WHERE """
_IS_SETTLED = "outcome.status IN ('done', 'absent')"
# A row that a stopped run did not send may turn out to be a duplicate of another row.
_REPLACES_ROW = f"excluded.status <> 'duplicate' OR NOT {_IS_SETTLED}"
# A duplicate is another row of the same id, and does not contain the outcome of the first. The same
# holds for a row that was not sent after the first was done.
_REPLACES_ID = (
    f"excluded.status <> 'duplicate' AND NOT (excluded.status = 'not_sent' AND {_IS_SETTLED})"
)
_INDEX = "CREATE INDEX by_id ON outcome (id, status)"
# Bits of an integer in SQLite, without its sign.
_BITS = 63
_STATUSES = "SELECT DISTINCT status FROM outcome WHERE id = ? AND status <> 'duplicate'"
_STATUS = "SELECT status FROM outcome WHERE key = ?"
_OUTSIDE = """SELECT EXISTS (
  SELECT 1 FROM outcome WHERE status IN ('done', 'absent') AND NOT at BETWEEN ? AND ?
)"""
# Seconds by which an outcome may be outside of the recorded times of the runs: a clock that was set
# back during a run, such as by the hours of a time zone, leaves no trace in the journal.
_SLACK_SECONDS = 86400.0


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
        has_others: it has outcomes that are certainly not those of the journal's runs.
    """

    name: str
    sha256: str
    lines: int
    items: int
    counts: dict[str, int]
    is_torn: bool
    has_others: bool = False


class OutcomesFile:
    """
    An index of a file's outcomes by item, in constant memory. Every method blocks.

    Args:
        path: the file; it may be in use by a run.
        by_line: a line and an id together identify an item, so an id may be in several rows.
            Otherwise the id alone does, which is correct only if all requests of an id are equal.
        runs: the journal of the runs, with which the file is compared; None without one.
        watch: receives the lines while they are read, and returns them.

    Attributes:
        summary: a summary without ids.

    Raises:
        InvalidInputError: it cannot be read, or a line is not an outcome.
    """

    def __init__(
        self,
        path: Path,
        *,
        by_line: bool = False,
        runs: JournalSummary | None = None,
        watch: Callable[[Iterable[bytes]], Iterable[bytes]] = iter,
    ) -> None:
        self._path, self._name = path, name_of(path)
        self._by_line = by_line
        self._digest = hashlib.sha256()
        self._lines = 0
        self._is_torn = False
        self._db = sqlite3.connect("")  # SQLite deletes it on close
        try:
            with self._errors():
                self._load(watch)
            self.summary = self._summary(runs)
        except BaseException:
            self._db.close()
            raise

    @classmethod
    def of_runs(
        cls,
        path: Path,
        runs: JournalSummary,
        watch: Callable[[Iterable[bytes]], Iterable[bytes]] = iter,
    ) -> Self:
        """
        Read the outcomes file of a journal's runs.

        Raises:
            InvalidInputError: it cannot be read, or a line is not an outcome.
        """
        identity = runs.identity
        by_line = identity.keys == "position" or not RunName.parse(identity.operation).is_id_enough
        return cls(path, by_line=by_line, runs=runs, watch=watch)

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

    def _load(self, watch: Callable[[Iterable[bytes]], Iterable[bytes]]) -> None:
        self._db.execute(_TABLE)
        with self._db, self._path.open("rb") as file:
            replaces = _REPLACES_ROW if self._by_line else _REPLACES_ID
            self._db.executemany(_RECORD + replaces, self._rows(watch(file)))
            self._db.execute(_INDEX)

    def _rows(self, file: Iterable[bytes]) -> Iterator[tuple[Any, ...]]:
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

    def _summary(self, runs: JournalSummary | None) -> OutcomesSummary:
        counted = self._db.execute("SELECT status, count(*) FROM outcome GROUP BY 1 ORDER BY 1")
        counts = dict(counted.fetchall())
        return OutcomesSummary(
            name=self._name,
            sha256=self._digest.hexdigest(),
            lines=self._lines,
            items=sum(counts.values()),
            counts=counts,
            is_torn=self._is_torn,
            has_others=runs is not None and self._has_others(runs, counts),
        )

    def _has_others(self, runs: JournalSummary, counts: dict[str, int]) -> bool:
        """
        Return whether some outcomes are certainly not those of the journal's runs.

        1. No, while a run is in progress: the journal and the file are of different moments.
        2. Yes, if more items are done or absent than in the journal. A run that was killed is an
           exception: until its items are sent again, the file alone may have some outcomes. Those
           that must not be sent again stay unknown in the journal.
        3. Yes, if an item ended more than a day before or after the runs.
        """
        if runs.is_in_use:
            return False
        is_same_item = runs.identity.keys == "position" or not self._by_line
        was_killed = any(run.ended_at is None for run in runs.runs)
        if is_same_item and (runs.left == 0 or not was_killed):
            recorded = runs.counts[ItemState.DONE] + runs.counts[ItemState.ABSENT]
            recorded += runs.counts[ItemState.UNKNOWN] if was_killed else 0
            if counts.get("done", 0) + counts.get("absent", 0) > recorded:
                return True
        found = self._db.execute(_OUTSIDE, _times_of(runs)).fetchone()
        return bool(found[0])

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


def _times_of(runs: JournalSummary) -> tuple[str, str]:
    """Return the earliest and the latest time at which the runs may have worked, as text."""
    times = [each for run in runs.runs for each in (run.started_at, run.ended_at or run.last_at)]
    times += [each for one in runs.minutes for each in (one.first_at, one.last_at)]
    low, high = min(times) - _SLACK_SECONDS, max(times) + _SLACK_SECONDS
    return _utc(low), _utc(high)


def _utc(seconds: float) -> str:
    return dt.datetime.fromtimestamp(int(seconds), dt.UTC).isoformat()


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
