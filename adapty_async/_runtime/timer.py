"""
A timer that an event loop which stood still does not make cut anything short.

An event loop that stands still (a blocking call, Ctrl-Z, swap) reads nothing meanwhile, and its
timers fire late. Responses may have arrived that nobody has read, so a timer that is late gives the
loop a moment to read them before it calls back, which may cancel something.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ("Loop", "PatientTimer")

# Seconds of a timer's delay that a busy loop has; above it, the loop stood still.
_LATE = 0.02
# Seconds that a loop has after a late timer, to send what it had not sent and to read what has
# come.
_GRACE = 0.25
# How often it turns at least after that: uvloop runs timers before it reads, and what is read wakes
# a task in the turn after.
_TURNS = 4


class Loop(Protocol):
    """What is needed of an event loop."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> asyncio.TimerHandle:
        """Call back in so many seconds."""
        ...

    def call_soon(self, callback: Callable[[], object], /) -> asyncio.Handle:
        """Call back in the next turn."""
        ...


class PatientTimer:
    """
    One timer of an event loop, which can be set again and again.

    Moments are those of `clock` and not of the loop: uvloop's own clock stands still while a
    callback runs, so time that a blocking call took would be charged to what comes after it.

    Args:
        call: called at the moment that was set, with the time.
        stood_still: called first, with the time, if the loop stood still then.

    Attributes:
        due: the moment that is set; infinite without one.
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
        self._turns = 0
        self.due = math.inf

    def start(self, moment: float, now: float) -> None:
        """Set the timer to a moment, instead of the one that was set before."""
        self.cancel()
        self.due = moment
        if moment != math.inf:
            self._timer = self._loop.call_later(max(0.0, moment - now), self._wake)

    def cancel(self) -> None:
        """Call back no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.due = None, math.inf

    def _wake(self) -> None:
        now = self._clock()
        if now - self.due > _LATE:
            self._stood_still(now)
            self._turns = 0
            self._timer = self._loop.call_later(_GRACE, self._turn)
        else:
            self._end(now)

    def _turn(self) -> None:
        if self._turns == _TURNS:
            self._end(self._clock())
        else:
            self._turns += 1
            self._timer = self._loop.call_soon(self._turn)

    def _end(self, now: float) -> None:
        self._timer, self.due = None, math.inf
        self._call(now)
