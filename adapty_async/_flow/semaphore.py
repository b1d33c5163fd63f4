"""A semaphore with two priorities: urgent waiters first, otherwise first in, first out."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ("PrioritySemaphore",)


class PrioritySemaphore:
    """
    A semaphore for one event loop with two priorities.

    A waiter cancelled after its grant passes the permit on to the next.

    Attributes:
        count: number of permits.
        available: number of permits that are not acquired.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.available = count
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._normal: deque[asyncio.Future[None]] = deque()

    @property
    def has_waiters(self) -> bool:
        """Whether a task waits for a permit."""
        waiting = (*self._urgent, *self._normal)
        return not all(waiter.done() for waiter in waiting)  # cancelled ones may still be queued

    def try_acquire(self) -> bool:
        """Acquire a permit if one is available; then no task waits for one."""
        if self.available <= 0:
            return False
        self.available -= 1
        return True

    async def acquire(self, *, urgent: bool = False) -> None:
        """Acquire a permit, with a wait if none is available."""
        if self.try_acquire():
            return
        waiter = asyncio.get_running_loop().create_future()
        (self._urgent if urgent else self._normal).append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():  # the grant and the cancellation coincided
                self.release()
            raise

    def release(self) -> None:
        """Release a permit, to the next waiter if there is one."""
        self.available += 1
        if self._urgent or self._normal:
            self._grant()

    def _grant(self) -> None:
        while self.available > 0 and (waiter := self._next()) is not None:
            self.available -= 1
            waiter.set_result(None)

    def _next(self) -> asyncio.Future[None] | None:
        for waiting in (self._urgent, self._normal):
            while waiting:
                waiter = waiting.popleft()
                if not waiter.done():  # otherwise it was cancelled
                    return waiter
        return None
