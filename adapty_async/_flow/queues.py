"""
Queues of tasks that wait in one event loop, each in its order, and cancelled at any time.

- `PrioritySemaphore`: permits, for urgent waiters first.
- `ConnectionSemaphore`: one whose permits shrink with the file descriptors of the process.
- `WaitQueue`: a FIFO queue whose head waits for all.
- `RunOrder`: whose turn it is among the runs that wait for one rate.
- `KeyedLock`: mutual exclusion per key.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

# The share of the connections in use that is kept when the process has no file descriptor for
# another one: the journal and the rest of the process need some.
_KEPT = 0.9
# Seconds after which one more connection is tried.
_GROWTH_SECONDS = 1.0


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


class ConnectionSemaphore(PrioritySemaphore):
    """
    A semaphore of the requests in flight of one client, in one event loop.

    A process may have fewer file descriptors than the semaphore has permits. When a connection
    fails for lack of one, the count falls below the permits that are in use. It grows again by one
    a second while requests end, since other parts of the process may have released theirs.

    Args:
        count: number of permits.
        clock: returns monotonic seconds.

    Attributes:
        is_reduced: whether the count has fallen, and is not yet the original one.
    """

    def __init__(self, count: int, clock: Callable[[], float]) -> None:
        super().__init__(count)
        self._most = count
        self._clock = clock
        self._grows_at = 0.0
        self.is_reduced = False

    def reduce(self) -> bool:
        """
        Reduce the count because a connection with a permit failed; return whether that may help.

        It does not if no other permit is in use: then no connection can be made at all.
        """
        others = self.count - self.available - 1
        if others < 1:
            return False
        if self.available >= 0:  # otherwise permits are in use that are no longer in the count
            self._set(max(1, math.floor(_KEPT * others)))
        self._grows_at = self._clock() + _GROWTH_SECONDS
        return True

    def grow(self) -> None:
        """Add a permit to a reduced count, once in each interval."""
        now = self._clock()
        if now >= self._grows_at:
            self._grows_at = now + _GROWTH_SECONDS
            self._set(self.count + 1)

    def _set(self, count: int) -> None:
        self.available += count - self.count
        self.count = count
        self.is_reduced = count < self._most


EntrantT = TypeVar("EntrantT")


class WaitQueue(Generic[EntrantT]):
    """
    A FIFO wait queue of one event loop, whose head waits for all.

    The caller admits an entrant at once if nobody waits and a permit is free; the queue is for all
    others. Its head leads: it waits for the cause of the delay, and on its admission it also admits
    all entrants behind it that may follow. So a thousand waiters cost one timer, and one loop
    iteration admits as many of them as there are permits.

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


# Seconds after which a run has lost its turn: it waits for a connection, or its event loop is
# blocked.
_LATE = 0.1
# Minimum seconds that a run leaves to those whose turn it is.
_SOON = 0.001


class RunOrder:
    """
    A round-robin order of the runs that wait for the permits of one rate.

    Without it, runs that sleep until the same permit race for it, and the one whose timer ends
    first may win each time.

    Attributes:
        asks_at: when each waiting run will ask for a permit, in their order.
    """

    def __init__(self) -> None:
        self.asks_at: dict[object, float] = {}

    def enter(self, run: object, asks_at: float) -> None:
        """Put a run last, or leave it where it is; it will ask for a permit at that time."""
        self.asks_at[run] = asks_at

    def leave(self, run: object) -> None:
        """Remove a run, which has a permit or needs none."""
        self.asks_at.pop(run, None)

    def delay(self, run: object, now: float, rate: float) -> float:
        """Return the seconds until it is a run's turn, at `rate` permits per second."""
        last = -math.inf
        for other, asks_at in tuple(self.asks_at.items()):  # other threads may change it
            if other is run:
                break
            if asks_at > now - _LATE:
                last = max(last, asks_at)
        return 0.0 if last == -math.inf else max(_SOON, last - now + 1.0 / rate)

    def __repr__(self) -> str:
        return f"RunOrder({len(self.asks_at)} runs)"


class KeyedLock:
    """A keyed lock: mutual exclusion per key, with a FIFO wait queue for each key."""

    def __init__(self) -> None:
        self._locked: set[Hashable] = set()
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    def try_acquire(self, key: Hashable) -> bool:
        """Acquire the lock of a key if it is free; return whether it was."""
        if key in self._locked:
            return False
        self._locked.add(key)
        return True

    async def acquire(self, key: Hashable) -> None:
        """Acquire the lock of a key, and wait for it if necessary."""
        if self.try_acquire(key):
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():  # it was granted just before; pass it on
                self.release(key)
            raise

    def release(self, key: Hashable) -> None:
        """Release the lock of a key, or grant it to the next waiter."""
        waiting = self._waiting.get(key) if self._waiting else None
        while waiting:
            waiter = waiting.popleft()
            if not waiter.done():  # a cancelled waiter is still in the queue
                waiter.set_result(None)
                return
        if waiting is not None:
            del self._waiting[key]
        self._locked.remove(key)
