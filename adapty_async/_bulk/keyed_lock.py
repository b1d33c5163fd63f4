"""One request at a time about one subject, however many are in work."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable

__all__ = ("KeyedLock",)


class KeyedLock:
    """Subjects that are being worked on, and who waits for them, first come first served."""

    def __init__(self) -> None:
        self._busy: set[Hashable] = set()
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    def try_acquire(self, subject: Hashable) -> bool:
        """Take the subject, if nobody else works on it."""
        if subject in self._busy:
            return False
        self._busy.add(subject)
        return True

    async def acquire(self, subject: Hashable) -> None:
        """Wait until nobody else works on the subject."""
        if self.try_acquire(subject):
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(subject, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the turn came in the same moment; it is the next one's now
                self.release(subject)
            raise

    def release(self, subject: Hashable) -> None:
        """Let the next one work on the subject."""
        waiting = self._waiting.get(subject)
        while waiting:
            turn = waiting.popleft()
            if not turn.done():  # or it was cancelled and has not been told yet
                turn.set_result(None)
                return
        if waiting is not None:
            del self._waiting[subject]
        self._busy.remove(subject)
