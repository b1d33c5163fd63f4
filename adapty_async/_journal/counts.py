"""
Counts of outcomes by minute and by reason, as a journal stores them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeAlias

from adapty_async._journal.model import ItemState, Minute, Reason

__all__ = ("OutcomeCounter", "WhyNot")

#: The class or documented code of an error, and the status of the last response or 0.
WhyNot: TypeAlias = tuple[str, int]
# different reasons that are kept for a run; items with others are counted under one
_MAX_REASONS = 100
_COLUMNS = {
    state: state.name.lower()
    for state in ItemState
    if state.name.lower() in Minute.__struct_fields__
}


class OutcomeCounter:
    """
    The counts of one run.

    Args:
        run: the number of the run.
        clock: returns seconds since the epoch.
    """

    def __init__(self, run: int, clock: Callable[[], float]) -> None:
        self._run = run
        self._clock = clock
        self._states = [0] * 128  # by their value, since the counts were taken; as the next two
        self._requests = 0
        self._throttled = 0
        self._minutes: dict[int, Minute] = {}  # the latest two, by number
        self._reasons: dict[tuple[ItemState, WhyNot], Reason] = {}

    def count(self, state: ItemState, requests: int, throttled: int, reason: WhyNot | None) -> None:
        """
        Count an outcome; the minute is that in which the counts are taken.
        """
        self._states[state] += 1
        self._requests += requests
        self._throttled += throttled
        if reason is None:
            return
        if (state, reason) not in self._reasons and len(self._reasons) >= _MAX_REASONS:
            reason = "others", 0
        found = self._reasons.get((state, reason))
        if found is None:
            found = Reason(
                run=self._run, state=state.name.lower(), error=reason[0], http_status=reason[1]
            )
            self._reasons[state, reason] = found
        found.items += 1

    def take(self) -> tuple[list[Minute], list[Reason]]:
        """
        Return the latest two minutes and all reasons; what a failed commit lost is in the next.
        """
        if any(self._states):
            now = self._clock()
            number = int(now // 60)
            minute = self._minutes.get(number)
            if minute is None:
                minute = Minute(run=self._run, minute=number, first_at=now, last_at=now)
                self._minutes = {**dict([*self._minutes.items()][-1:]), number: minute}
            minute.last_at = now
            for state, column in _COLUMNS.items():
                setattr(minute, column, getattr(minute, column) + self._states[state])
            minute.requests += self._requests
            minute.throttled += self._throttled
            self._states, self._requests, self._throttled = [0] * 128, 0, 0
        return copy.deepcopy([*self._minutes.values()]), copy.deepcopy([*self._reasons.values()])
