"""The states of a run's items in memory, and which of them a commit has to store."""

from __future__ import annotations

from collections.abc import Iterable

from adapty_async._journal.model import SPAN_SIZE, STATES, ItemState

__all__ = ("ItemStates",)

_NONE, _RESERVED = ItemState.NONE, ItemState.RESERVED
_UNSENT = frozenset({ItemState.NONE, ItemState.FAILED, ItemState.NOT_SENT})
_EMPTY = bytes([_NONE]) * SPAN_SIZE


class ItemStates:
    """
    The last known state of each item by its position, a byte of memory each.

    Args:
        spans: states by span number, as earlier runs left them.
    """

    def __init__(self, spans: dict[int, bytearray]) -> None:
        self._spans = spans
        self._changed: set[int] = set()  # numbers of spans
        # states before a reservation by this run, of positions whose outcome is not known yet
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

    def reserve(self, begin: int, end: int) -> None:
        """
        Mark the positions of a range as reserved, as far as they are known not to have been sent.
        """
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
        for place in range(at, at + count):
            state = STATES[span[place]]
            if state in _UNSENT:
                self._before[first + place] = state
                span[place] = _RESERVED
                self._changed.add(number)

    def withdraw(self) -> None:
        """Take back the reservations by this run that no outcome followed."""
        for position, state in tuple(self._before.items()):
            self.set(position, state)

    @property
    def has_changed(self) -> bool:
        """Whether a commit has to store anything."""
        return bool(self._changed)

    def take(self) -> dict[int, bytes]:
        """Return the spans that changed since this was called last, by number."""
        taken = {number: bytes(self._spans[number]) for number in self._changed}
        self._changed.clear()
        return taken

    def restore(self, numbers: Iterable[int]) -> None:
        """Return spans again that were taken and not stored."""
        self._changed.update(numbers)
