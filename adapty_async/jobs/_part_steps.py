"""
The transactions of a runner of a part, as step functions.

Invariants:
- A runner takes a part over by increasing its number of runs.
- A commit names the run that it belongs to. After a takeover it changes nothing, and raises.
- A runner reads the states after the takeover, and no commit of an earlier run follows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from adapty_async._journal import (
    Changes,
    InputCheck,
    JournalIdentity,
    LoadKeys,
    Minute,
    Resumed,
    Run,
)
from adapty_async._journal.model import DamageError, require_same_run, validate_states
from adapty_async.jobs._database import Rows, Statement, Steps
from adapty_async.jobs._errors import JobError, PartBusyError
from adapty_async.jobs._model import COUNTS

# The condition of each write of a run: no later run has taken the part over.
_FENCE = "part.job = :job AND part.number = :part AND part.runs = :run"


def _upsert(table: str, keys: str, others: str) -> str:
    """
    Return a statement that inserts a row of a part, or replaces the one with the same key.

    It does nothing after a takeover. Columns that begin with ``job`` and ``part`` are the part's.
    """
    columns = f"{keys}, {others}".split(", ")
    values = ", ".join(f":{name}" for name in columns[2:])
    return _fenced(table, keys, others, values, "")


def _fenced(table: str, keys: str, others: str, values: str, join: str) -> str:
    changed = ", ".join(f"{name} = excluded.{name}" for name in others.split(", "))
    return (
        f"INSERT INTO {table} ({keys}, {others}) SELECT part.job, part.number, {values}"  # noqa: S608  names of ours
        f" FROM adapty_part part{join} WHERE {_FENCE} {{share}}"
        f" ON CONFLICT ({keys}) DO UPDATE SET {changed}"
    )


@functools.cache
def _spans(count: int) -> str:
    """Return a statement that inserts or replaces *n* spans of a part."""
    rows = ", ".join(f"(:number_{at}, :states_{at}, :checksum_{at})" for at in range(count))
    values = "span.column1, span.column2, span.column3"
    join = f" CROSS JOIN (VALUES {rows}) AS span"
    return _fenced("adapty_span", "job, part, number", "states, checksum", values, join)


_RUN = _upsert("adapty_run", "job, part, number", ", ".join(Run.__struct_fields__[1:]))
_MINUTE = _upsert(
    "adapty_minute", "job, part, run, minute", ", ".join(Minute.__struct_fields__[2:])
)
_REASON = _upsert("adapty_reason", "job, part, run, state, error, http_status", "items")
_KEYS = _upsert("adapty_key", "job, part, first", "keys")
_COUNTS = ", ".join(f"{name} = :{name}" for name in COUNTS)


class RunKey(NamedTuple):
    """The key of a run: the number of its job, of its part, and of the run in the part."""

    job: int
    part: int
    run: int

    @property
    def values(self) -> dict[str, Any]:
        """The values of the parameters ``job``, ``part`` and ``run``."""
        return self._asdict()


class TakenPart(NamedTuple):
    """A part that a runner took over: the key of its run, its size, and what is known of it."""

    key: RunKey
    size: int
    resumed: Resumed


class Runner(NamedTuple):
    """
    A runner of one part.

    Attributes:
        job: the number of the job.
        name: the name of the job.
        part: the number of the part.
        worker: identifies the process.
    """

    job: int
    name: str
    part: int
    worker: str


def open_part(
    runner: Runner,
    identity: JournalIdentity,
    check: InputCheck,
    load_keys: LoadKeys,
    now: float,
) -> Steps[TakenPart]:
    """
    Take over a part: from now on, the commits of an earlier run are rejected.

    Raises:
        JobError: there is no such part.
        JournalError: the job has another operation, origin or account.
        DamageError: a row is damaged.
    """
    rows = yield Statement(
        "SELECT job.identity, part.size, part.runs FROM adapty_job job"
        " JOIN adapty_part part ON part.job = job.id"
        " WHERE job.id = :job AND part.number = :part {update}",
        {"job": runner.job, "part": runner.part},
    )
    if not rows:
        raise JobError(f"the store has no part {runner.part} of a job {runner.name}")
    described, size, runs = rows[0]
    run = Run(number=runs + 1, started_at=now, last_at=now)
    key = RunKey(runner.job, runner.part, run.number)
    found = msgspec.json.decode(described, type=JournalIdentity)
    require_same_run(f"of the job {runner.name}", found, identity, check)
    spans: dict[int, bytes] = {}
    rate: float | None = None
    if runs:  # otherwise nothing was committed
        spans = yield from load_spans(key)
        load_keys((yield from _load_keys(key)), spans)
        rate = yield from _load_rate(key)
    yield Statement(
        # its input is as planned here, though it may have changed on another machine
        "UPDATE adapty_part SET runs = :run, is_open = 1, worker = :worker, is_changed = 0"
        " WHERE job = :job AND number = :part",
        {**key.values, "worker": runner.worker},
    )
    yield Statement(_RUN, key.values | msgspec.structs.asdict(run))
    return TakenPart(key, size, Resumed(run=run, spans=spans, rate=rate))


def _load_keys(key: RunKey) -> Steps[list[bytes]]:
    rows = yield Statement(
        "SELECT keys FROM adapty_key WHERE job = :job AND part = :part ORDER BY first", key.values
    )
    return [keys for (keys,) in rows]


def _load_rate(key: RunKey) -> Steps[float | None]:
    rows = yield Statement(
        "SELECT rate FROM adapty_run WHERE job = :job AND part = :part AND rate IS NOT NULL"
        " ORDER BY number DESC LIMIT 1",
        key.values,
    )
    return rows[0][0] if rows else None


def load_spans(key: RunKey) -> Steps[dict[int, bytes]]:
    """
    Return the states of a part by the number of their span.

    Raises:
        DamageError: a row is damaged.
    """
    rows = yield Statement(
        "SELECT number, states, checksum FROM adapty_span"
        " WHERE job = :job AND part = :part ORDER BY number",
        key.values,
    )
    return dict(_verified(key.part, rows))


def _verified(part: int, rows: Rows) -> Iterator[tuple[int, bytes]]:
    for number, states, checksum in rows:
        if _checksum(part, number, states) != checksum:
            raise DamageError("a row of the table adapty_span is damaged")
        validate_states(states)
        yield number, states


def _checksum(part: int, number: int, states: bytes) -> int:
    return crc32(states, crc32(f"{part} {number}".encode()))


def statements_of(key: RunKey, changes: Changes) -> list[Statement]:
    """
    Return statements that store changes with their present values.

    None of them changes a row after a takeover.
    """
    found = [_save_spans(key, changes.spans)] if changes.spans else []
    if changes.new_keys:
        found.append(
            Statement(_KEYS, {**key.values, "first": changes.first_key, "keys": changes.new_keys})
        )
    for table, rows in ((_MINUTE, changes.minutes), (_REASON, changes.reasons)):
        found += [Statement(table, key.values | msgspec.structs.asdict(each)) for each in rows]
    if changes.run is not None:
        found.append(Statement(_RUN, key.values | msgspec.structs.asdict(changes.run)))
    return found or [Statement(f"SELECT 1 FROM adapty_part part WHERE {_FENCE}", key.values)]  # noqa: S608  ours


def _save_spans(key: RunKey, spans: Mapping[int, bytes]) -> Statement:
    values: dict[str, Any] = key.values
    for at, (number, states) in enumerate(spans.items()):
        values[f"number_{at}"] = number
        values[f"states_{at}"] = states
        values[f"checksum_{at}"] = _checksum(key.part, number, states)
    return Statement(_spans(len(spans)), values)


def close_part(key: RunKey, counts: Mapping[str, int], *, has_ended: bool) -> Statement:
    """
    Return a statement that stores the counts of a part when its run ends.

    Items without a state in a part that has ended could not be sent, so they have failed.
    """
    values = dict(counts)
    if has_ended:
        values["failed"] += values["not_sent"]
        values["not_sent"] = 0
    ended_at = "{now}" if has_ended else "NULL"
    return Statement(
        f"UPDATE adapty_part SET is_open = 0, ended_at = {ended_at}, {_COUNTS}"  # noqa: S608  names of ours
        " WHERE job = :job AND number = :part AND runs = :run",
        {**key.values, **values},
    )


def taken_over(part: int) -> PartBusyError:
    """Return the error of a runner whose part another one took over."""
    return PartBusyError(f"part {part} is in use: another runner has taken it over")
