"""A summary of a journal, for `status`, reports and programs."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from adapty_async._journal.model import ItemState, JournalIdentity, Minute, Reason, Run
from adapty_async._journal.schema import read_identity, read_runs, read_spans, read_structs
from adapty_async._journal.sqlite import is_in_use, reading

#: The states that are outcomes, which are counted by the minute.
OUTCOMES = tuple(state for state in ItemState if state.name.lower() in Minute.__struct_fields__)

# The states of items that the next run does not send: those that it skips, and unknown ones.
_SETTLED = (ItemState.DONE, ItemState.ABSENT, ItemState.DUPLICATE, ItemState.UNKNOWN)
# Seconds before the end of a run whose minutes count for its rate, as whole minutes.
_RECENT_SECONDS = 60.0


class JournalSummary(msgspec.Struct, frozen=True, kw_only=True):
    """
    A summary of a journal at one instant. Times are in seconds since the epoch.

    Attributes:
        identity: the run and input that it belongs to.
        is_in_use: a run had it open when it was read.
        counts: the number of items by their last known state. Items without a record are in no
            count: those that were not read yet, and those that could not be sent.
        runs: all runs, including the current one.
        minutes: outcomes, requests and throttled responses over time.
        reasons: why items were not done, over all runs.
    """

    identity: JournalIdentity
    is_in_use: bool
    counts: dict[ItemState, int]
    runs: tuple[Run, ...]
    minutes: tuple[Minute, ...]
    reasons: tuple[Reason, ...]

    @property
    def items(self) -> int | None:
        """The number of items of the input; None if it is not known."""
        rows = self.identity.input.get("rows")
        return rows if isinstance(rows, int) else None

    @property
    def settled(self) -> int:
        """The number of items that the next run does not send."""
        return sum(self.counts[state] for state in _SETTLED)

    @property
    def left(self) -> int | None:
        """The number of items that the next run has to process; None if it is not known."""
        return None if self.items is None else self.items - self.settled

    @property
    def first_at(self) -> float | None:
        """The time of the first outcome; None if there is none."""
        return min((minute.first_at for minute in self.minutes), default=None)

    @property
    def last_at(self) -> float | None:
        """The time of the last outcome; None if there is none."""
        return max((minute.last_at for minute in self.minutes), default=None)

    @property
    def rate(self) -> float | None:
        """Items that ended per second in the last minute of the last run; None if it had none."""
        run = self.runs[-1]
        ended = [minute for minute in self.minutes if minute.run == run.number]
        since = run.last_at - _RECENT_SECONDS
        recent = [each for each in ended if each.last_at > since]
        since = min([since, *(60.0 * each.minute for each in recent)])  # whole minutes
        seconds = run.last_at - max(since, run.started_at)
        return sum(each.items for each in recent) / seconds if seconds > 0 else None


def summarise(path: str | os.PathLike[str]) -> JournalSummary:
    """
    Return the summary of a journal, which is not changed and may be in use. Blocks.

    Raises:
        JournalError: it cannot be read, is damaged, or is no journal.
    """
    return read_journal(Path(path))[0]


def read_journal(path: Path) -> tuple[JournalSummary, dict[int, bytes]]:
    """
    Return the content of a journal, and the states of its items by the number of their span.

    Raises:
        JournalError: it cannot be read, is damaged, or is no journal.
    """
    was_in_use = is_in_use(path)
    with reading(path) as db:
        spans = dict(read_spans(db))
        summary = JournalSummary(
            identity=read_identity(db),
            is_in_use=was_in_use or is_in_use(path),  # a run may have started or ended meanwhile
            counts={
                state: sum(states.count(state) for states in spans.values())
                for state in ItemState
                if state is not ItemState.NONE
            },
            runs=tuple(read_runs(db)),
            minutes=tuple(read_structs(db, Minute)),
            reasons=tuple(read_structs(db, Reason)),
        )
    return summary, spans
