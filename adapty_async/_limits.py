"""
How fast and how much at once: a pace for requests and a bound on those in flight.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable

from adapty_async._loop_local import LoopLocal
from adapty_async._operation import Request, Response, Send
from adapty_async.errors import DeadlineError

__all__ = ("Pacer", "limit")


class Pacer:
    """
    Spread requests over time: at most ``rate * seconds + burst`` in any stretch of time.

    Each caller reserves the next free moment and waits until it has come, so callers are served
    in the order they asked. This is the generic cell rate algorithm; its one number is the moment
    at which all that was reserved so far will have been sent at an even pace. A waiter that is
    cancelled leaves its moment unused, which errs on the slow side.
    """

    def __init__(self, rate: float, burst: int | None, clock: Callable[[], float]) -> None:
        self.rate = rate
        self.burst = max(1, round(rate / 10)) if burst is None else burst
        self._clock = clock
        self._interval = 1.0 / rate
        self._reserved_until = clock()
        self._lock = threading.Lock()  # a client may be used from several threads' loops

    def reserve(self, within: float = math.inf) -> float:
        """
        Take the next free moment and return the seconds until it.

        One that is `within` seconds away or more is told but not taken: callers that give up would
        push the queue ahead of them for ever, and nobody would get a turn.
        """
        with self._lock:
            now = self._clock()
            start = max(now, self._reserved_until)
            wait = max(0.0, start - now - (self.burst - 1) * self._interval)
            if wait < within or wait == 0.0:
                self._reserved_until = start + self._interval

            return wait

    def __repr__(self) -> str:
        return f"Pacer(rate={self.rate}, burst={self.burst})"


def limit(
    send: Send,
    slots: LoopLocal[asyncio.Semaphore],
    pacers: tuple[Pacer, ...],
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
) -> Send:
    """
    Let every attempt wait for its moment and for one of the loop's connections.

    A request without a deadline yet gets it when its first turn comes: an item of a bulk run is
    not charged for the queue in front of it.
    """

    async def send_within_limits(request: Request) -> Response:
        tally = request.tally
        for pacer in pacers:
            time_left = tally.deadline - clock()
            wait = pacer.reserve(time_left)
            if wait > 0.0:
                _demand_time(request, wait, time_left)
                await sleep(wait)
        slot = slots.get()
        await _acquire(slot, request, clock)
        try:
            if tally.deadline == math.inf:
                tally.deadline = clock() + request.allowance
            else:
                _demand_time(request, 0.0, tally.deadline - clock())
            return await send(request)
        finally:
            slot.release()

    return send_within_limits


def _demand_time(request: Request, wait: float, time_left: float) -> None:
    if wait >= time_left:
        raise DeadlineError("no time left to wait for a turn", operation=request.operation)


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
