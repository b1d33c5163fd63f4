"""A FIFO wait queue whose head waits for all."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

__all__ = ("WaitQueue",)

EntrantT = TypeVar("EntrantT")


class WaitQueue(Generic[EntrantT]):
    """
    A FIFO wait queue of one event loop, whose head waits for all.

    An entrant is admitted at once if the queue is empty and `admit` allows it. Otherwise the head
    of the queue leads: it waits for the cause of the delay, and on its admission it also admits all
    entrants behind it that may follow. So a thousand waiters cost one timer, and one loop iteration
    admits as many of them as there are permits.

    Args:
        admit: acquires a permit for an entrant without a wait; returns whether it did. An exception
            is raised in the task of that entrant.
        lead: waits until it has acquired a permit for the entrant.
        revoke: returns the permit of an entrant that was cancelled during its admission.

    Attributes:
        has_leader: whether an entrant waits.
    """

    def __init__(
        self,
        admit: Callable[[EntrantT], bool],
        lead: Callable[[EntrantT], Awaitable[None]],
        revoke: Callable[[EntrantT], None],
    ) -> None:
        self._admit = admit
        self._lead = lead
        self._revoke = revoke
        self._waiting: deque[tuple[asyncio.Future[bool], EntrantT]] = deque()
        self.has_leader = False

    def try_acquire(self, entrant: EntrantT) -> bool:
        """Admit an entrant at once, unless others wait or no permit is available."""
        return not self.has_leader and self._admit(entrant)

    async def acquire(self, entrant: EntrantT) -> None:
        """Wait until an entrant is admitted."""
        if self.has_leader and await self._follow(entrant):
            return
        self.has_leader = True
        try:
            await self._lead(entrant)
        finally:
            self._wake_next()

    async def _follow(self, entrant: EntrantT) -> bool:
        """Wait behind earlier entrants; return whether it was admitted, or has to lead instead."""
        grant: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((grant, entrant))
        try:
            return await grant
        except asyncio.CancelledError:
            if not grant.cancelled():  # the grant and the cancellation coincided
                self._undo(grant, entrant)
            raise

    def _undo(self, grant: asyncio.Future[bool], entrant: EntrantT) -> None:
        if grant.exception() is not None:
            return
        if grant.result():
            self._revoke(entrant)
        else:
            self._wake_next()

    def _wake_next(self) -> None:
        """Admit the entrants that may follow; the first that may not becomes the leader."""
        while self._waiting:
            grant, entrant = self._waiting.popleft()
            if grant.done():  # cancelled, and not resumed yet
                continue
            try:
                admitted = self._admit(entrant)
            except Exception as error:  # noqa: BLE001  raised in the entrant's task
                grant.set_exception(error)
                continue
            grant.set_result(admitted)
            if not admitted:
                return
        self.has_leader = False
