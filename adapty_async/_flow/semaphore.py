"""
A number of places, given to those who wait for one: the urgent first, else first come first served.
"""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ("PrioritySemaphore",)


class PrioritySemaphore:
    """
    Places of one event loop; whoever is cancelled while waiting gives its place to the next.

    Attributes:
        count: how many there are.
        free: how many of them nobody has.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.available = count
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._patient: deque[asyncio.Future[None]] = deque()

    @property
    def has_waiters(self) -> bool:
        """Whether anybody waits for a place."""
        waiting = (*self._urgent, *self._patient)
        return not all(place.done() for place in waiting)  # those that were cancelled may be there

    def try_acquire(self) -> bool:
        """Take a place if one is free; then nobody waits for it."""
        if self.available <= 0:
            return False
        self.available -= 1
        return True

    async def acquire(self, *, urgent: bool = False) -> None:
        """Wait for a place."""
        if self.try_acquire():
            return
        place = asyncio.get_running_loop().create_future()
        (self._urgent if urgent else self._patient).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # it came in the same moment
                self.release()
            raise

    def release(self) -> None:
        """Give a place back, to the next one who waits."""
        self.available += 1
        if self._urgent or self._patient:
            self._hand_out()

    def _hand_out(self) -> None:
        while self.available > 0 and (place := self._next()) is not None:
            self.available -= 1
            place.set_result(None)

    def _next(self) -> asyncio.Future[None] | None:
        for waiting in (self._urgent, self._patient):
            while waiting:
                place = waiting.popleft()
                if not place.done():  # or it was cancelled
                    return place
        return None
