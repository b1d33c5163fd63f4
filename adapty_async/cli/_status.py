"""The figures of a journal, and the check of an input, as text and JSON."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import msgspec

from adapty_async._report import Check, intervals
from adapty_async._runtime.words import counted, each_of
from adapty_async.bulk import ItemState, JournalSummary
from adapty_async.cli._next import left_meaning
from adapty_async.cli._report import count_line, per_second

__all__ = ("check_lines", "status_json", "status_text")

_STATES = {
    ItemState.DONE: "",
    ItemState.ABSENT: "the server said that they do not exist",
    ItemState.DUPLICATE: "the same as an earlier row",
    ItemState.FAILED: "not done; a resumed run sends them again",
    ItemState.LOST: "outcome unknown; a resumed run sends them again, which changes nothing more",
    ItemState.RESERVED: "next in line or in flight, now or when the run was killed",
    ItemState.STARTED: "started, with no outcome: in flight now, or when the run was killed",
    ItemState.UNKNOWN: "outcome unknown; not sent again, since that may do it twice",
    ItemState.NOT_SENT: "the run ended before they were sent",
}
_SPANS = 10


def status_json(summary: JournalSummary) -> str:
    """Return the figures of a journal as one JSON object."""
    content: dict[str, Any] = {
        "operation": summary.identity.operation,
        "origin": summary.identity.origin,
        "items": summary.items,
        "counts": {state.name.lower(): count for state, count in summary.counts.items()},
        "left": summary.left,
        "first_at": _time(summary.first_at),
        "last_at": _time(summary.last_at),
        "rate": summary.rate if summary.rate is None else round(summary.rate, 3),
        "runs": len(summary.runs),
        "in_use": summary.is_in_use,
    }
    return msgspec.json.encode(content).decode()


def status_text(summary: JournalSummary) -> str:
    """Return the figures of a journal as text."""
    lines = [f"{summary.identity.operation}, at {summary.identity.origin}", ""]
    lines += [
        count_line(state.name.lower(), summary.counts[state], meaning)
        for state, meaning in _STATES.items()
        if summary.counts[state] or state is ItemState.DONE
    ]
    if summary.left is not None:
        lines.append(count_line("left", summary.left, left_meaning(summary)))
    lines += ["", _last_run(summary)]
    if summary.first_at is not None and summary.last_at is not None:
        lines.append(
            f"first entry {_format_time(summary.first_at)}, last {_format_time(summary.last_at)}"
        )
    lines += _rate_lines(summary)
    return "\n".join(lines)


def _last_run(summary: JournalSummary) -> str:
    run = summary.runs[-1]
    if run.ended_at is not None:
        end = f"ended {_format_time(run.ended_at)}"
        end += f" ({run.stop_reason})" if run.stop_reason else ""
    elif summary.is_in_use:
        end = f"is still running, {per_second(summary.rate or 0)} in its last minute"
    else:
        end = f"was killed, after {_format_time(run.last_at)}"
    return f"run {run.number} {end}"


def _rate_lines(summary: JournalSummary) -> Iterator[str]:
    """Yield a line per interval: the number of rows that ended, and their rate."""
    for each in intervals(summary, _SPANS):
        rate = f", {per_second(each.ended / each.seconds)}" if each.seconds else ""
        yield f"  {each.start:%Y-%m-%d %H:%M:%SZ}  {each.ended:>11,} ended{rate}"


def check_lines(check: Check | None) -> Iterator[str]:
    """Yield the result of a check as lines for people; nothing without a check."""
    if check is None:
        return
    by, missing = f"by the {check.records}", check.rows - check.final
    if not missing:
        yield f"{check.input}: {each_of(check.rows, 'row')} has a final outcome, {by}."
    else:
        yield f"{check.input}: rows without a final outcome, {by}: {missing:,} of {check.rows:,}"
    for each in check.missing:
        yield f"  line {each.line}: {each.state}"
    if check.missing_omitted:
        yield f"  and {check.missing_omitted:,} more"
    if check.without_id:
        yield f"  {counted(check.without_id, 'row')} without an id, left out."
    if check.has_others:
        yield "The outcomes file has outcomes of other runs than the journal's: it proves nothing."


def _format_time(time: float) -> str:
    return f"{_utc(time):%Y-%m-%d %H:%M:%SZ}"


def _time(time: float | None) -> dt.datetime | None:
    return None if time is None else _utc(time)


def _utc(time: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(time, dt.UTC)
