"""
How fast and how much at once: a pace for requests and a bound on those in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

from adapty_async._loop_local import LoopLocal
from adapty_async._operation import Request, Response, Send
from adapty_async.errors import DeadlineError

__all__ = ("Pacer", "limit")

_TICK = 1e-6
"""
Seconds that are not worth waiting for, and that a clock may not even be able to tell.
"""


class Pacer:
    """
    Spread requests over time: at most ``rate * seconds + burst`` in any stretch of time.

    Callers get their turns in the order they asked; one that is cancelled gives its turn to the
    next. This is the generic cell rate algorithm: its one number is the moment at which all that
    went so far would have gone at an even pace. It is moved on when a request really goes, not
    when it is promised, so that tasks that wake up late do not bunch.
    """

    def __init__(
        self,
        rate: float,
        burst: int | None,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.rate = rate
        self.burst = max(1, round(rate / 10)) if burst is None else burst
        self._clock = clock
        self._sleep = sleep
        self._interval = 1.0 / rate
        self._used_until = clock()
        self._waiting = 0
        self._order = LoopLocal(asyncio.Lock)
        self._lock = threading.Lock()  # a client may be used from several threads' loops

    @contextlib.asynccontextmanager
    async def line(self) -> AsyncIterator[None]:
        """
        Stand in line; the block is entered by one caller at a time, first come first served.
        """
        self._waiting += 1
        try:
            async with self._order.get():
                yield
        finally:
            self._waiting -= 1

    async def go(self) -> None:
        """
        Wait for the moment of the one who is first in line, and take it.
        """
        while (wait := self._take()) > _TICK:
            await self._sleep(wait)

    def expected(self) -> float:
        """
        Return the seconds after which a caller who asks now will get its turn.
        """
        return max(0.0, self._wait(self._clock()) + self._waiting * self._interval)

    def _wait(self, now: float) -> float:
        return self._used_until - now - (self.burst - 1) * self._interval

    def _take(self) -> float:
        with self._lock:
            now = self._clock()
            wait = self._wait(now)
            if wait <= _TICK:
                self._used_until = max(now, self._used_until) + self._interval
            return wait

    def __repr__(self) -> str:
        return f"Pacer(rate={self.rate}, burst={self.burst})"


def limit(
    send: Send,
    slots: LoopLocal[asyncio.Semaphore],
    pacers: tuple[Pacer, ...],
    clock: Callable[[], float],
) -> Send:
    """
    Let every attempt wait for its moment and for one of the loop's connections.

    A request without a deadline yet gets it when its first turn comes: an item of a bulk run is
    not charged for the queue in front of it.
    """

    async def send_within_limits(request: Request) -> Response:
        tally = request.tally
        slot = slots.get()
        if pacers:
            await _take_turn(request, slot, pacers, clock)
        else:
            await _acquire(slot, request, clock)
        try:
            if tally.deadline == math.inf:
                tally.deadline = clock() + request.allowance
            elif clock() >= tally.deadline:
                raise _too_late(request)
            return await send(request)
        finally:
            slot.release()

    return send_within_limits


async def _take_turn(
    request: Request,
    slot: asyncio.Semaphore,
    pacers: tuple[Pacer, ...],
    clock: Callable[[], float],
) -> None:
    """
    Acquire a connection, and a moment of every pacer.

    The moments come last, when nothing can hold the request up any more: turns that were taken
    before would pile up behind a busy connection and then be used all at once.
    """
    async with contextlib.AsyncExitStack() as lines:
        for pacer in pacers:
            if pacer.expected() > max(0.0, request.tally.deadline - clock()):
                raise _too_late(request)
            await lines.enter_async_context(pacer.line())
        await _acquire(slot, request, clock)
        try:
            for pacer in pacers:
                await pacer.go()
        except BaseException:
            slot.release()
            raise


def _too_late(request: Request) -> DeadlineError:
    return DeadlineError("no time left to wait for a turn", operation=request.operation)


async def _acquire(slot: asyncio.Semaphore, request: Request, clock: Callable[[], float]) -> None:
    if not slot.locked() or request.tally.deadline == math.inf:
        await slot.acquire()
        return
    try:
        async with asyncio.timeout(request.tally.deadline - clock()):
            await slot.acquire()
    except TimeoutError:
        raise DeadlineError(
            "no connection became free in time", operation=request.operation
        ) from None
