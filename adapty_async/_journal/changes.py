"""The states and counts of a run in memory, which track what the next commit has to store."""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable, Iterable
from typing import TypeAlias

from adapty_async._journal.model import (
    SPAN_SIZE,
    STATES,
    Changes,
    ItemState,
    Minute,
    Reason,
    Spans,
)

#: The class or documented code of an error, and the status of the last response or 0.
WhyNot: TypeAlias = tuple[str, int]
# The state of an item that ended, its requests, and the throttled ones among them.
_Ending: TypeAlias = tuple[ItemState, int, int]
# Maximum of different reasons of a run; further reasons are counted as one.
_MAX_REASONS = 100

_NONE = ItemState.NONE
_EMPTY = bytes([_NONE]) * SPAN_SIZE
# A position that this run has reserved keeps its state before in memory, as another value.
_UNSENT = bytes([ItemState.NONE, ItemState.FAILED, ItemState.NOT_SENT])
_HELD = b"123"
_BEFORE = {held: ItemState(state) for held, state in zip(_HELD, _UNSENT, strict=True)}
_RESERVE = bytes.maketrans(_UNSENT, _HELD)
_STORE = bytes.maketrans(_HELD, bytes([ItemState.RESERVED]) * len(_HELD))
_STATES = STATES | _BEFORE


class ItemStates:
    """
    A map from the position of each item to its last known state; one byte of memory each.

    Args:
        spans: states by span number, as earlier runs left them.
    """

    def __init__(self, spans: Spans) -> None:
        self._states = bytearray(_EMPTY) * (max(spans, default=-1) + 1)
        for number, states in spans.items():
            self._states[number * SPAN_SIZE : (number + 1) * SPAN_SIZE] = states
        self._changed: set[int] = set()  # numbers of spans

    def get(self, position: int) -> ItemState:
        """Return the state of an item, without the reservation by this run."""
        return _STATES[self._states[position]] if position < len(self._states) else _NONE

    def is_unsent(self, position: int) -> bool:
        """Return whether an item was certainly not processed, and is not reserved by this run."""
        return position >= len(self._states) or self._states[position] in _UNSENT

    def set(self, position: int, state: ItemState) -> None:
        """Set the state of an item."""
        try:
            self._states[position] = state
        except IndexError:
            self._extend(position + 1)
            self._states[position] = state
        self._changed.add(position // SPAN_SIZE)

    def _extend(self, size: int) -> None:
        spans = -(-size // SPAN_SIZE) - len(self._states) // SPAN_SIZE
        self._states += _EMPTY * spans

    def reserve(self, begin: int, end: int) -> None:
        """Mark those positions of a range as reserved that were certainly not processed."""
        self._extend(end)
        self._states[begin:end] = self._states[begin:end].translate(_RESERVE)
        self._changed.update(range(begin // SPAN_SIZE, (end - 1) // SPAN_SIZE + 1))

    def withdraw(self) -> None:
        """Undo the reservations of this run that have no outcome."""
        for held, state in _BEFORE.items():
            self._replace(held, state)

    def end_at(self, end: int) -> None:
        """Undo reservations from a position on: the input has no such items."""
        self._replace(ItemState.RESERVED, _NONE, end)

    def _replace(self, old: int, new: ItemState, begin: int = 0) -> None:
        at = self._states.find(old, begin)
        while at >= 0:
            self.set(at, new)
            at = self._states.find(old, at)

    @property
    def has_changed(self) -> bool:
        """Whether a commit has to store anything."""
        return bool(self._changed)

    def pop_changes(self) -> dict[int, bytes]:
        """Return the spans that changed since the last call, by number."""
        changed = {number: self._stored(number) for number in self._changed}
        self._changed.clear()
        return changed

    def _stored(self, number: int) -> bytes:
        begin = number * SPAN_SIZE
        return bytes(self._states[begin : begin + SPAN_SIZE]).translate(_STORE)

    def restore(self, numbers: Iterable[int]) -> None:
        """Restore spans that were not stored, for the next commit."""
        self._changed.update(numbers)


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
