"""A map of item states in memory, which tracks the spans that a commit has to store."""

from __future__ import annotations

from collections.abc import Iterable

from adapty_async._journal.model import SPAN_SIZE, STATES, ItemState

__all__ = ("ItemStates",)

_NONE, _RESERVED = ItemState.NONE, ItemState.RESERVED
_UNSENT = frozenset({ItemState.NONE, ItemState.FAILED, ItemState.NOT_SENT})
_EMPTY = bytes([_NONE]) * SPAN_SIZE


class ItemStates:
    """
    A map from the position of each item to its last known state; one byte of memory each.

    Args:
        spans: states by span number, as earlier runs left them.
    """

    def __init__(self, spans: dict[int, bytearray]) -> None:
        self._spans = spans
        self._changed: set[int] = set()  # numbers of spans
        # states before a reservation by this run, of positions without an outcome yet
        self._before: dict[int, ItemState] = {}

    def get(self, position: int) -> ItemState:
        """Return the state of an item, without the reservation by this run."""
        number, at = divmod(position, SPAN_SIZE)
        span = self._spans.get(number)
        if span is None:
            return _NONE
        state = STATES[span[at]]
        return self._before.get(position, state) if state is _RESERVED else state

    def set(self, position: int, state: ItemState) -> None:
        """Set the state of an item."""
        number, at = divmod(position, SPAN_SIZE)
        span = self._spans.get(number) or self._span(number)
        span[at] = state
        self._changed.add(number)
        self._before.pop(position, None)

    def _span(self, number: int) -> bytearray:
        span = self._spans.get(number)
        if span is None:
            span = self._spans[number] = bytearray(_EMPTY)
        return span

    def reserve_one(self, position: int) -> None:
        """Mark a position as reserved if it was certainly not processed."""
        number, at = divmod(position, SPAN_SIZE)
        span = self._spans.get(number) or self._span(number)
        state = STATES[span[at]]
        if state in _UNSENT:
            self._before[position] = state
            span[at] = _RESERVED
            self._changed.add(number)

    def reserve(self, begin: int, end: int) -> None:
        """Mark those positions of a range as reserved that were certainly not processed."""
        while begin < end:
            number, at = divmod(begin, SPAN_SIZE)
            count = min(end - begin, SPAN_SIZE - at)
            self._reserve_in(number, at, count)
            begin += count

    def _reserve_in(self, number: int, at: int, count: int) -> None:
        span, first = self._span(number), number * SPAN_SIZE
        if span.count(_NONE, at, at + count) == count:  # as in a new journal
            span[at : at + count] = bytes([_RESERVED]) * count
            self._before.update(dict.fromkeys(range(first + at, first + at + count), _NONE))
            self._changed.add(number)
            return
        for position in range(first + at, first + at + count):
            self.reserve_one(position)

    def withdraw(self) -> None:
        """Undo the reservations of this run that have no outcome."""
        for position, state in tuple(self._before.items()):
            self.set(position, state)

    @property
    def has_changed(self) -> bool:
        """Whether a commit has to store anything."""
        return bool(self._changed)

    def pop_changes(self) -> dict[int, bytes]:
        """Return the spans that changed since the last call, by number."""
        changed = {number: bytes(self._spans[number]) for number in self._changed}
        self._changed.clear()
        return changed

    def restore(self, numbers: Iterable[int]) -> None:
        """Restore spans that were not stored, for the next commit."""
        self._changed.update(numbers)
