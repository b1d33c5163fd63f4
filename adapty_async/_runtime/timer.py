"""
A timer with a grace period, so that a blocked event loop cancels nothing prematurely.

A blocked event loop (a blocking call, Ctrl-Z, swap) reads nothing, and its timers fire late.
Responses may have arrived meanwhile that are still unread. A late timer therefore gives the loop
time to read them before the callback, which may cancel a task.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ("Loop", "PatientTimer")

# Seconds of delay that a timer may have in a busy loop; a longer delay means a blocked loop.
_LATE = 0.02
# Seconds that a loop has after a late timer, to send unsent requests and to read responses.
_GRACE = 0.25
# Minimum number of loop iterations after that: uvloop runs timers before it reads, and data that
# was read wakes a task in the next iteration.
_ITERATIONS = 4


class Loop(Protocol):
    """The part of an event loop that a timer needs."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> asyncio.TimerHandle:
        """Schedule a callback after a number of seconds."""
        ...

    def call_soon(self, callback: Callable[[], object], /) -> asyncio.Handle:
        """Schedule a callback for the next loop iteration."""
        ...


class PatientTimer:
    """
    A resettable timer of an event loop, with a grace period after a block.

    Points in time are those of `clock` and not of the loop. The clock of uvloop stands still while
    a callback runs, so the time of a blocking call would count towards the timeouts set after it.

    Args:
        call: called with the current time when the timer fires.
        stood_still: called before that with the current time, if the loop was blocked.
        clock: returns monotonic seconds.

    Attributes:
        due: the point in time that is set; infinite without one.
    """

    def __init__(
        self,
        loop: Loop,
        call: Callable[[float], object],
        stood_still: Callable[[float], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._call = call
        self._stood_still = stood_still
        self._clock = clock
        self._timer: asyncio.Handle | None = None
        self._iterations = 0
        self.due = math.inf

    def start(self, moment: float, now: float) -> None:
        """Set the timer to a point in time, which replaces the one set before."""
        self.cancel()
        self.due = moment
        if moment != math.inf:
            self._timer = self._loop.call_later(max(0.0, moment - now), self._wake)

    def cancel(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.due = None, math.inf

    def _wake(self) -> None:
        now = self._clock()
        if now - self.due > _LATE:
            self._stood_still(now)
            self._iterations = 0
            self._timer = self._loop.call_later(_GRACE, self._iterate)
        else:
            self._fire(now)

    def _iterate(self) -> None:
        if self._iterations == _ITERATIONS:
            self._fire(self._clock())
        else:
            self._iterations += 1
            self._timer = self._loop.call_soon(self._iterate)

    def _fire(self, now: float) -> None:
        self._timer, self.due = None, math.inf
        self._call(now)
