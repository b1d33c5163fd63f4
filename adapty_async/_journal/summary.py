"""
The content of a journal, for `status`, reports and programs.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from adapty_async._journal.model import STATES, ItemState, JournalIdentity, Minute, Reason, Run
from adapty_async._journal.schema import (
    read_identity,
    read_minutes,
    read_reasons,
    read_runs,
    read_spans,
)
from adapty_async._journal.sqlite import reading

__all__ = ("JournalSummary", "summarise")

_SETTLED = (ItemState.DONE, ItemState.ABSENT, ItemState.DUPLICATE, ItemState.UNKNOWN)


class JournalSummary(msgspec.Struct, frozen=True, kw_only=True):
    """
    The content of a journal.

    Attributes:
        identity: the run and input that it belongs to.
        counts: the number of items by their last known state.
        runs: all runs, the present one included.
        minutes: outcomes, requests and throttled responses over time.
        reasons: why items were not done, over all runs.
    """

    identity: JournalIdentity
    counts: dict[ItemState, int]
    runs: tuple[Run, ...]
    minutes: tuple[Minute, ...]
    reasons: tuple[Reason, ...]

    @property
    def items(self) -> int | None:
        """
        The number of items of the input; None if it is not known.
        """
        rows = self.identity.input.get("rows")
        return rows if isinstance(rows, int) else None

    @property
    def settled(self) -> int:
        """
        The number of items that the next run does not send.
        """
        return sum(self.counts[state] for state in _SETTLED)

    @property
    def left(self) -> int | None:
        """
        The number of items that the next run has to do; None if it is not known.
        """
        return None if self.items is None else self.items - self.settled

    @property
    def first_at(self) -> float | None:
        """
        The time of the first outcome, in seconds since the epoch; None if there is none.
        """
        return min((minute.first_at for minute in self.minutes), default=None)

    @property
    def last_at(self) -> float | None:
        """
        The time of the last outcome, in seconds since the epoch; None if there is none.
        """
        return max((minute.last_at for minute in self.minutes), default=None)


def summarise(path: Path) -> JournalSummary:
    """
    Read a journal without changing it; it may be in use. Blocks.

    Raises:
        JournalError: it cannot be read, is damaged, or is no journal.
    """
    with reading(path) as db:
        counts = dict.fromkeys(ItemState, 0)
        for _, states in read_spans(db):
            for value, state in STATES.items():
                counts[state] += states.count(value)
        del counts[ItemState.NONE]
        return JournalSummary(
            identity=read_identity(db),
            counts=counts,
            runs=tuple(read_runs(db)),
            minutes=tuple(read_minutes(db)),
            reasons=tuple(read_reasons(db)),
        )
