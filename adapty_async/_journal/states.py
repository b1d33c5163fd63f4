"""A map of item states in memory, which tracks the spans that a commit has to store."""

from __future__ import annotations

from collections.abc import Iterable

from adapty_async._journal.model import SPAN_SIZE, STATES, ItemState, Spans

__all__ = ("ItemStates",)

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
            at = self._states.find(held)
            while at >= 0:
                self.set(at, state)
                at = self._states.find(held, at)

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
