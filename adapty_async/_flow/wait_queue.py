"""Those who wait for the same thing, first come first served; the first of them waits for all."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

__all__ = ("WaitQueue",)

EntrantT = TypeVar("EntrantT")


class WaitQueue(Generic[EntrantT]):
    """
    A line of one event loop.

    Who comes when nobody waits, and may go, goes at once. Else the first leads: it waits for
    whatever holds the line up, and when it goes it takes along all that may go with it. So a
    thousand who wait cost one timer, and as many go in one turn of the loop as there are moments.

    Args:
        admit: lets somebody in without waiting; False if that cannot be now. What it raises is
            raised to whom it was about.
        lead: waits until it has let somebody in.
        expel: takes back what `admit` gave, from somebody who gave up in that moment.
    """

    def __init__(
        self,
        admit: Callable[[EntrantT], bool],
        lead: Callable[[EntrantT], Awaitable[None]],
        expel: Callable[[EntrantT], None],
    ) -> None:
        self._admit = admit
        self._lead = lead
        self._revoke = expel
        self._waiting: deque[tuple[asyncio.Future[bool], EntrantT]] = deque()
        self.has_leader = False

    def try_acquire(self, entrant: EntrantT) -> bool:
        """Let somebody in at once, unless others wait or it cannot be now."""
        return not self.has_leader and self._admit(entrant)

    async def acquire(self, entrant: EntrantT) -> None:
        """Wait to be let in."""
        if self.has_leader and await self._follow(entrant):
            return
        self.has_leader = True
        try:
            await self._lead(entrant)
        finally:
            self._wake_next()

    async def _follow(self, entrant: EntrantT) -> bool:
        """Wait behind those who came before; return whether it was let in, else it is to lead."""
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, entrant))
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the turn came in the same moment
                self._undo(turn, entrant)
            raise

    def _undo(self, turn: asyncio.Future[bool], entrant: EntrantT) -> None:
        if turn.exception() is not None:
            return
        if turn.result():
            self._revoke(entrant)
        else:
            self._wake_next()

    def _wake_next(self) -> None:
        """Let in who may go along; the first who may not leads from now on."""
        while self._waiting:
            turn, entrant = self._waiting.popleft()
            if turn.done():  # cancelled, and not told yet
                continue
            try:
                is_in = self._admit(entrant)
            except Exception as error:  # noqa: BLE001  it is raised where it belongs
                turn.set_exception(error)
                continue
            turn.set_result(is_in)
            if not is_in:
                return
        self.has_leader = False
