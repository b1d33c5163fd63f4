"""The transaction that reads the report of a job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from adapty_async.jobs._database import Statement, Steps
from adapty_async.jobs._errors import JobError
from adapty_async.jobs._model import COUNTS, JobRecord, JobReport, Parts, count_states

# Seconds before the last outcome that count for the rate, and the shortest time that shows one.
_RECENT_SECONDS, _MIN_SECONDS = 60.0, 1.0
# A run that stops leaves many items unsent at once, and they end in a later one.
_ENDED = "done + absent + failed + lost + unknown + duplicate"


class OpenPart(msgspec.Struct, frozen=True):
    """A part that a runner opened and did not close: it is at work, or was killed."""

    number: int
    size: int
    worker: str
    is_changed: int


def list_started(job: int) -> Steps[list[OpenPart]]:
    """Return the parts that a runner opened and did not close."""
    rows = yield Statement(  # such a part has not ended: there is an index of those
        "SELECT number, size, worker, is_changed FROM adapty_part"
        " WHERE job = :job AND ended_at IS NULL AND is_open = 1",
        {"job": job},
    )
    return [OpenPart(*row) for row in rows]


def read_report(record: JobRecord, held: set[int]) -> Steps[JobReport]:
    """
    Return the report of a job.

    Args:
        record: the job.
        held: the parts that are locked.

    Raises:
        JobError: the job was forgotten.
    """
    yield Statement("{snapshot}")  # otherwise a part that ends meanwhile counts twice
    key = {"job": record.id}
    rows = yield Statement("SELECT planned_at, stop_reason FROM adapty_job WHERE id = :job", key)
    if not rows:
        raise JobError(f"the job {record.name} was forgotten")
    planned_at, stop_reason = rows[0]
    started = yield from list_started(record.id)
    parts, counts = yield from _closed_parts(key)
    for part in started:
        spans = yield Statement(
            "SELECT number, states FROM adapty_span WHERE job = :job AND part = :part",
            {**key, "part": part.number},
        )
        counts.update(count_states(dict(spans), part.size))
    running = [part for part in started if part.number in held]
    ((requests, throttled),) = yield Statement(
        "SELECT coalesce(sum(requests), 0), coalesce(sum(throttled), 0) FROM adapty_minute"
        " WHERE job = :job",
        key,
    )
    return JobReport(
        name=record.name,
        operation=record.identity.operation,
        items=record.items,
        **counts,
        requests=int(requests),
        throttled=int(throttled),
        reasons=(yield from _reasons(key)),
        parts=msgspec.structs.replace(
            parts,
            total=parts.total + len(started),
            running=len(running),
            changed=parts.changed + sum(part.is_changed for part in started),
        ),
        workers=len({part.worker for part in running}),
        rate=(yield from _rate(key)) if running else None,
        limit=(yield from _limit(key)) if running else None,
        planned_at=planned_at,
        stop_reason=stop_reason,
    )


def _closed_parts(key: Mapping[str, Any]) -> Steps[tuple[Parts, Counter[str]]]:
    """Return the number and counts of the parts that no runner left open."""
    sums = ", ".join(f"coalesce(sum({name}), 0)" for name in COUNTS)
    ((total, ended, changed, unread, *found),) = yield Statement(
        "SELECT count(*), count(ended_at), coalesce(sum(is_changed), 0),"  # noqa: S608  names of ours
        f" coalesce(sum(CASE WHEN runs = 0 THEN size ELSE 0 END), 0), {sums} FROM adapty_part"
        " WHERE job = :job AND is_open = 0",
        key,
    )
    counts = Counter(dict(zip(COUNTS, map(int, found), strict=True)))
    counts["not_sent"] += int(unread)
    return Parts(total=total, ended=ended, running=0, changed=int(changed)), counts


def _reasons(key: Mapping[str, Any]) -> Steps[dict[tuple[str, int], int]]:
    rows = yield Statement(
        "SELECT error, http_status, sum(items) FROM adapty_reason WHERE job = :job"
        " GROUP BY error, http_status ORDER BY sum(items) DESC, error, http_status",
        key,
    )
    return {(error, status): int(items) for error, status, items in rows}


def _rate(key: Mapping[str, Any]) -> Steps[float | None]:
    """Return items that ended per second, in the minutes before the last outcome."""
    ((last_at,),) = yield Statement("SELECT max(last_at) FROM adapty_minute WHERE job = :job", key)
    if last_at is None:
        return None
    ((items, first_at),) = yield Statement(
        f"SELECT sum({_ENDED}), min(first_at) FROM adapty_minute"  # noqa: S608  names of ours
        " WHERE job = :job AND last_at > :since",
        {**key, "since": last_at - _RECENT_SECONDS},
    )
    seconds: float = max(last_at - first_at, _MIN_SECONDS)
    return int(items) / seconds


def _limit(key: Mapping[str, Any]) -> Steps[float | None]:
    """Return the adaptive rate that a run recorded last."""
    rows = yield Statement(
        "SELECT rate FROM adapty_run WHERE job = :job AND rate IS NOT NULL"
        " ORDER BY last_at DESC LIMIT 1",
        key,
    )
    return rows[0][0] if rows else None
