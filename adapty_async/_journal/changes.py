"""A counter of outcomes by minute and by reason, as a journal stores them."""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable
from typing import TypeAlias

from adapty_async._journal.model import Changes, ItemState, Minute, Reason

__all__ = ("OutcomeCounter", "WhyNot")

#: The class or documented code of an error, and the status of the last response or 0.
WhyNot: TypeAlias = tuple[str, int]
# The state of an item that ended, its requests, and the throttled ones among them.
_Ending: TypeAlias = tuple[ItemState, int, int]
# Maximum of different reasons of a run; further reasons are counted as one.
_MAX_REASONS = 100


class OutcomeCounter:
    """
    A counter of one run's outcomes, which also tracks the counts that a commit has to store.

    Args:
        run: the number of the run.
        clock: returns seconds since the epoch.

    Attributes:
        count: counts an outcome, which belongs to the minute of the next commit.
    """

    def __init__(self, run: int, clock: Callable[[], float]) -> None:
        self._run = run
        self._clock = clock
        self._outcomes: list[_Ending] = []  # since the last commit
        self.count: Callable[[_Ending], None] = self._outcomes.append
        self._minute: Minute | None = None
        self._minutes: dict[int, Minute] = {}  # not stored yet, by number
        self._reasons: dict[tuple[str, str, int], Reason] = {}
        self._changed: set[tuple[str, str, int]] = set()

    def count_reason(self, state: ItemState, reason: WhyNot) -> None:
        """Count why an item was not done."""
        name = state.name.lower()
        key = (name, *reason)
        if key not in self._reasons and len(self._reasons) >= _MAX_REASONS:
            key = (name, "others", 0)
        found = self._reasons.get(key)
        if found is None:
            found = Reason(run=self._run, state=name, error=key[1], http_status=key[2])
            self._reasons[key] = found
        found.items += 1
        self._changed.add(key)

    @property
    def has_changed(self) -> bool:
        """Whether a commit has to store anything."""
        return bool(self._minutes or self._changed or self._outcomes)

    def pop_changes(self) -> tuple[list[Minute], list[Reason]]:
        """Return the counts that changed since the last call."""
        if self._outcomes:
            self._add_to_minute(self._clock())
        minutes = [copy.copy(minute) for minute in self._minutes.values()]
        reasons = [copy.copy(self._reasons[key]) for key in self._changed]
        self._minutes.clear()
        self._changed.clear()
        return minutes, reasons

    def _add_to_minute(self, now: float) -> None:
        minute = self._minute
        # after the clock was set back, the stored counts of a minute must not be replaced
        if minute is None or minute.minute < int(now // 60):
            minute = Minute(run=self._run, minute=int(now // 60), first_at=now, last_at=now)
            self._minute = minute
        self._minutes[minute.minute] = minute
        minute.last_at = max(minute.last_at, now)
        states, requests, throttled = zip(*self._outcomes, strict=True)
        for state, count in collections.Counter(states).items():
            column = state.name.lower()
            setattr(minute, column, getattr(minute, column) + count)
        minute.requests += sum(requests)
        minute.throttled += sum(throttled)
        self._outcomes.clear()

    def restore(self, changes: Changes) -> None:
        """Restore changes that were not stored, for the next commit."""
        for minute in changes.minutes:
            self._minutes.setdefault(minute.minute, minute)
        self._changed.update((each.state, each.error, each.http_status) for each in changes.reasons)
