"""The transactions about a whole job, as step functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from adapty_async._journal import JournalIdentity
from adapty_async._journal.model import require_same_run
from adapty_async.jobs._database import Rows, Statement, Steps
from adapty_async.jobs._errors import JobError
from adapty_async.jobs._model import JobRecord, PartPlan, PartRecord, Plan

_TABLES = ("key", "minute", "part", "reason", "run", "span")


def plan_job(
    name: str, identity: JournalIdentity, id_kind: str, plan: Plan, part_size: int
) -> Steps[None]:
    """
    Store a job with its parts, unless it is there.

    Raises:
        JournalError: a job with this name has another operation, origin or account.
        JobError: it has another input, kind of ids or size of parts.
    """
    values = {
        "name": name,
        "identity": _json(identity),
        "id_kind": id_kind,
        "source": _json(plan.source),
        "items": plan.items,
        "part_size": part_size,
        "parts": len(plan.parts),
    }
    columns = ", ".join(values)
    ((is_new,),) = yield Statement(
        f"INSERT INTO adapty_job ({columns}, planned_at)"  # noqa: S608  names of ours
        f" VALUES ({', '.join(f':{one}' for one in values)}, {{now}})"
        " ON CONFLICT (name) DO NOTHING",
        values,
    )
    found = yield from load_job(name)
    if is_new:
        yield Statement(
            "INSERT INTO adapty_part (job, number, first, size, source)"
            " VALUES (:job, :number, :first, :size, :source)",
            {"job": found.id},
            list(_part_rows(plan.parts)),
        )
    else:
        _require_same_job(found, identity, id_kind, plan, part_size)


def _part_rows(parts: Sequence[PartPlan]) -> Iterator[Mapping[str, Any]]:
    first = 0
    for number, part in enumerate(parts):
        yield {"number": number, "first": first, "size": part.size, "source": _json(part.source)}
        first += part.size


def _require_same_job(
    found: JobRecord, identity: JournalIdentity, id_kind: str, plan: Plan, part_size: int
) -> None:
    require_same_run(f"of the job {found.name}", found.identity, identity, lambda _: None)
    texts = [
        f"{name}: {there} there, {here} here"
        for name, there, here in (
            ("by", found.id_kind, id_kind),
            ("items", found.items, plan.items),
            ("part_size", found.part_size, part_size),
            *((key, found.source.get(key), value) for key, value in plan.source.items()),
        )
        if there != here and name != "path"
    ]
    if texts:
        raise JobError(f"the job {found.name} is another one; {'; '.join(texts)}")


def load_job(name: str) -> Steps[JobRecord]:
    """
    Return a job.

    Raises:
        JobError: there is none with this name.
    """
    rows = yield Statement(
        "SELECT id, identity, id_kind, source, items, part_size, parts"
        " FROM adapty_job WHERE name = :name",
        {"name": name},
    )
    if not rows:
        raise JobError(f"the store has no job {name}")
    number, identity, id_kind, source, items, part_size, parts = rows[0]
    return JobRecord(
        id=number,
        name=name,
        identity=msgspec.json.decode(identity, type=JournalIdentity),
        id_kind=id_kind,
        source=msgspec.json.decode(source),
        items=items,
        part_size=part_size,
        parts=parts,
    )


def stop_job(job: int, reason: str) -> Statement:
    """Return a statement that records why a job stops before its end; the first reason counts."""
    return Statement(
        "UPDATE adapty_job SET stop_reason = :reason WHERE id = :job AND stop_reason IS NULL"
        " AND EXISTS (SELECT 1 FROM adapty_part WHERE job = :job AND ended_at IS NULL)",
        {"job": job, "reason": reason},
    )


def stop_reason_of(job: int) -> Statement:
    """Return a statement whose row has the stop reason of a job; no row if it was forgotten."""
    return Statement("SELECT stop_reason FROM adapty_job WHERE id = :job", {"job": job})


def reopen_parts(name: str, job: int) -> Steps[int]:
    """
    Open the parts with items that may be sent again; return their number.

    Raises:
        JobError: the job was forgotten.
    """
    ((found,),) = yield Statement(
        "UPDATE adapty_job SET stop_reason = NULL WHERE id = :job", {"job": job}
    )
    if not found:
        raise JobError(f"the job {name} was forgotten")
    ((changed,),) = yield Statement(
        "UPDATE adapty_part SET is_changed = 0 WHERE job = :job AND is_changed = 1", {"job": job}
    )
    ((count,),) = yield Statement(
        "UPDATE adapty_part SET ended_at = NULL"
        " WHERE job = :job AND ended_at IS NOT NULL AND failed > 0",
        {"job": job},
    )
    return int(changed) + int(count)


def forget_job(job: int) -> Steps[None]:
    """Delete everything about a job."""
    for table in _TABLES:
        yield Statement(f"DELETE FROM adapty_{table} WHERE job = :job", {"job": job})  # noqa: S608
    yield Statement("DELETE FROM adapty_job WHERE id = :job", {"job": job})


def select_part(record: JobRecord, part: int) -> Statement:
    """Return a statement for `part_in`."""
    return Statement(
        "SELECT part.first, part.size, part.source, part.ended_at, job.stop_reason"
        " FROM adapty_part part JOIN adapty_job job ON job.id = part.job"
        " WHERE part.job = :job AND part.number = :part",
        {"job": record.id, "part": part},
    )


def part_in(rows: Rows, record: JobRecord, part: int) -> PartRecord:
    """
    Return the part in the rows of `select_part`.

    Raises:
        JobError: there is none with this number, or the job was forgotten.
    """
    if not rows:
        raise JobError(f"the job {record.name} has no part {part}, or was forgotten")
    first, size, source, ended_at, stop_reason = rows[0]
    return PartRecord(
        number=part,
        first=first,
        size=size,
        source=msgspec.json.decode(source),
        has_ended=ended_at is not None,
        stop_reason=stop_reason,
    )


def list_open(job: int, most: int | None = None) -> Statement:
    """Return a statement whose rows are the open parts, those without a runner first."""
    limit = "" if most is None else f" LIMIT {most:d}"
    return Statement(
        "SELECT number FROM adapty_part"  # noqa: S608  a number
        " WHERE job = :job AND ended_at IS NULL AND is_changed = 0"
        f" ORDER BY is_open, number{limit}",
        {"job": job},
    )


def set_changed(job: int, part: int) -> Statement:
    """Return a statement that records that the input of a part has changed."""
    return Statement(
        "UPDATE adapty_part SET is_changed = 1 WHERE job = :job AND number = :part",
        {"job": job, "part": part},
    )


def _json(value: Any) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
