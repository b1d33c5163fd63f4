"""
One request at a time about one subject, however many are in work.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable

__all__ = ("Turns",)


class Turns:
    """
    Subjects that are being worked on, and who waits for them, first come first served.
    """

    def __init__(self) -> None:
        self._busy: dict[Hashable, deque[asyncio.Future[None]]] = {}

    async def enter(self, subject: Hashable) -> None:
        """
        Wait until nobody else works on the subject.
        """
        waiting = self._busy.get(subject)
        if waiting is None:
            self._busy[subject] = deque()
            return
        turn = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the turn came in the same moment; it is the next one's now
                self.leave(subject)
            raise

    def leave(self, subject: Hashable) -> None:
        """
        Let the next one work on the subject.
        """
        waiting = self._busy[subject]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():  # or it was cancelled and has not been told yet
                turn.set_result(None)
                return
        del self._busy[subject]
