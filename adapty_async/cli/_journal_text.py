"""The figures of a journal, the check of an input and the next steps, as text and JSON."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from adapty_async._journal import RunName
from adapty_async._report import Check, intervals
from adapty_async._runtime.words import counted, each_of
from adapty_async.bulk import ItemState, JournalSummary, StopReason, summarise
from adapty_async.cli._job import Exit, JobResult, exit_code
from adapty_async.cli._report import count_line, per_second

_STATES = {
    ItemState.DONE: "",
    ItemState.ABSENT: "the server responded that they do not exist",
    ItemState.DUPLICATE: "the same as an earlier row",
    ItemState.FAILED: "not done; a resumed run sends them again",
    ItemState.LOST: "outcome unknown; a resumed run sends them again, which changes nothing more",
    ItemState.RESERVED: "next in line or in flight, now or when the run was killed",
    ItemState.STARTED: "started, with no outcome: in flight now, or when the run was killed",
    ItemState.UNKNOWN: "outcome unknown; not sent again, since that may do it twice",
    ItemState.NOT_SENT: "the run ended before they were sent",
}
_SPANS = 10
_RESUME = "Run the same command again to resume; rows that are done are skipped."
_REMOVE_CAUSE = (
    "The same command stops again while the cause lasts, such as missing profiles. Once the cause "
    "is gone, the command resumes; rows that are done are skipped."
)
_CORRECT_KEY = (
    "Nothing was done. Correct the key, and run the same command again: it may use this journal."
)
_NEW_JOURNAL = (
    "Nothing was done. Correct the key, and delete this journal or name a new one: the entries of "
    "a pipe belong to its key."
)
_SAME_KEY = (
    "A journal with rows that are done belongs to their key: with that key valid again, the same "
    "command resumes. With another key, name a new journal."
)
_INVALID = "Rows that cannot be sent are left"
# A journal belongs to its input as it is: with the same one, a corrected input is rejected.
_IN_A_NEW_FILE = "put them, corrected, into a new file, and run it with a new journal"
_IN_FAILURES = "correct them in the failures file, and pass it as INPUT with a new journal"
_UNKNOWN = (
    "Unknown rows are not sent again with this journal. Look each of them up at Adapty; a new "
    "journal sends them again."
)
_UNKNOWN_CREATIONS = (
    "Unknown rows are not created again with this journal. Use a new journal: profiles that exist "
    "are found."
)
# Items in these states are sent by the next run.
_SENT_AGAIN = (ItemState.FAILED, ItemState.LOST, ItemState.RESERVED, ItemState.NOT_SENT)
_MAYBE_DONE = (
    *(ItemState.DONE, ItemState.ABSENT, ItemState.LOST, ItemState.UNKNOWN),
    *(ItemState.RESERVED, ItemState.STARTED),
)


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
        lines.append(count_line("left", summary.left, _left_meaning(summary)))
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
        yield f"  {check.noun} {each.line}: {each.state}"
    if check.missing_omitted:
        yield f"  and {check.missing_omitted:,} more"
    if check.without_id:
        yield f"  {counted(check.without_id, 'row')} without an id, left out."
    if check.has_others:
        yield "The outcomes file has outcomes of other runs than the journal's: it proves nothing."


def next_steps(result: JobResult, journal: Path, name: RunName, failures: Path | None) -> list[str]:
    """
    Return what helps after a run, as lines for people. Blocks.

    Args:
        result: the result of the run.
        journal: its journal.
        name: its name in the journal.
        failures: the failures file; None without one.

    Raises:
        JournalError: the journal cannot be read any more.
    """
    if not result.report.total:  # stopped while the journal was opened, so it may hold nothing yet
        return [_RESUME]
    summary = summarise(journal)
    if exit_code(result) == Exit.KEY_REJECTED:
        return [_after_rejected_key(summary)]
    lines = []
    if result.report.stop_reason is StopReason.SAME_ERROR:
        lines.append(_REMOVE_CAUSE)
    elif result.error is not None or _is_resumable(summary):
        lines.append(_RESUME)
    if result.report.unknown:
        lines.append(_UNKNOWN_CREATIONS if name.looks_first else _UNKNOWN)
    if not lines:
        where = _IN_A_NEW_FILE if failures is None else _IN_FAILURES
        lines.append(f"{_INVALID}: {where}.")
    return lines


def _after_rejected_key(summary: JournalSummary) -> str:
    if any(summary.counts[state] for state in _MAYBE_DONE):
        return _SAME_KEY
    return _CORRECT_KEY if summary.identity.keys == "position" else _NEW_JOURNAL


def _is_resumable(summary: JournalSummary) -> bool:
    """Return whether the next run has rows to send: unfinished ones, or some that were not read."""
    has_unread = summary.runs[-1].ended_at is None or summary.runs[-1].stop_reason is not None
    return has_unread or any(summary.counts[state] for state in _SENT_AGAIN)


def _left_meaning(summary: JournalSummary) -> str:
    """Return what becomes of the rows that are left."""
    if not summary.left or _is_resumable(summary):
        return "for the same command to resume with"
    return f"if they cannot be sent, {_IN_A_NEW_FILE}; the same command sends the others"


def _format_time(time: float) -> str:
    return f"{_utc(time):%Y-%m-%d %H:%M:%SZ}"


def _time(time: float | None) -> dt.datetime | None:
    return None if time is None else _utc(time)


def _utc(time: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(time, dt.UTC)
