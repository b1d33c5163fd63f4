"""The next steps after a run with a journal that did not do all of its rows, for people."""

from __future__ import annotations

from pathlib import Path

from adapty_async._report import RunName
from adapty_async.bulk import ItemState, JournalSummary, summarise
from adapty_async.cli._job import Exit, JobResult, exit_code

__all__ = ("left_meaning", "next_steps")

_RESUME = "Run the same command again to resume; rows that are done are skipped."
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
    summary = summarise(journal)
    if exit_code(result) == Exit.KEY_REJECTED:
        return [_after_rejected_key(summary)]
    lines = []
    if result.error is not None or _is_resumable(summary):
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


def left_meaning(summary: JournalSummary) -> str:
    """Return what becomes of the rows that are left."""
    if not summary.left or _is_resumable(summary):
        return "for the same command to resume with"
    return f"if they cannot be sent, {_IN_A_NEW_FILE}; the same command sends the others"
