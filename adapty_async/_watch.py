"""
A timeout scheduler: the timeouts of many attempts, with one timer of the event loop.

`asyncio.timeout` makes a timer for each block: 4.6 µs where this costs 0.3, and 14 of the 71 µs of
a request over a kept connection, beside many other timers (Python 3.11, one core).

An event loop that stands still (a blocking call, Ctrl-Z, swap) reads nothing meanwhile, and its
timers fire late. Responses may have arrived that nobody has read, so a timer that is late gives the
loop a moment to read them before anything is cancelled.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from adapty_async._operation import Tally

__all__ = ("Watch",)

_CONNECT_SECONDS = 10.0
_CONNECT_SHARE = 0.9
"""
Connecting, from looking up the name to the end of the TLS handshake, may take so many seconds, and
less than the whole attempt, so that its timeout is told from a lost response.
"""
_LATE = 0.02
"""
Seconds of a timer's delay that a busy loop has; above it, the loop stood still.
"""
_GRACE = 0.25
"""
Seconds that a loop has after a late timer, to send what it had not sent and to read what has come.
"""
_TURNS = 4
"""
How often it turns at least after that: uvloop runs timers before it reads, and what is read wakes a
task in the turn after.
"""


class Loop(Protocol):
    """
    What is needed of an event loop.
    """

    def call_later(self, delay: float, callback: Callable[[], object], /) -> asyncio.TimerHandle:
        """
        Call back in so many seconds.
        """
        ...

    def call_soon(self, callback: Callable[[], object], /) -> asyncio.Handle:
        """
        Call back in the next turn.
        """
        ...


class _Limits(msgspec.Struct):
    """
    When an attempt ends at the latest, and when it does unless it is on the wire.

    Attributes:
        seconds: how long it may take.
        restarted: it began again after the loop had stood still.
    """

    seconds: float
    tally: Tally
    end: float = 0.0
    connected: float = 0.0
    restarted: bool = False

    def begin(self, now: float) -> None:
        self.end = now + self.seconds
        self.connected = now + min(_CONNECT_SECONDS, _CONNECT_SHARE * self.seconds)

    @property
    def next(self) -> float:
        return self.end if self.tally.on_wire else self.connected


class Watch:
    """
    Cancels the tasks of one event loop whose attempts take too long; each makes one at a time.

    Moments are those of `clock` and not of the loop: uvloop's own clock stands still while a
    callback runs, so time that a blocking call took would be charged to the attempt after it.
    """

    def __init__(self, loop: Loop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._watched: dict[asyncio.Task[object], _Limits] = {}
        self._expired: set[asyncio.Task[object]] = set()
        self._timer: asyncio.Handle | None = None
        self._next = math.inf
        self._turns = 0

    def start(self, task: asyncio.Task[object], seconds: float, tally: Tally) -> None:
        """
        Cancel the task in so many seconds, or sooner if it has not connected; unless it is stopped.
        """
        now = self._clock()
        limits = self._watched[task] = _Limits(seconds, tally)
        limits.begin(now)
        if limits.connected < self._next:
            self._wake_at(limits.connected, now)

    def is_late(self, task: asyncio.Task[object]) -> bool:
        """
        Say whether the task was cancelled from here.
        """
        return task in self._expired

    def stop(self, task: asyncio.Task[object]) -> None:
        """
        Watch the task no longer, and take back that it was cancelled, if it was from here.
        """
        del self._watched[task]
        if task in self._expired:
            self._expired.remove(task)
            task.uncancel()

    def close(self) -> None:
        """
        Give the timer back.
        """
        self._wake_at(math.inf, 0.0)

    def _wake_at(self, moment: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = moment
        delay = max(0.0, moment - now)
        self._timer = None if moment == math.inf else self._loop.call_later(delay, self._wake)

    def _wake(self) -> None:
        now = self._clock()
        if now - self._next > _LATE:
            self._restart_unsent(now)
            self._turns = 0
            self._timer = self._loop.call_later(_GRACE, self._turn)
        else:
            self._look(now)

    def _restart_unsent(self, now: float) -> None:
        """
        Let attempts that are not on the wire begin again, once each: their time was not used.

        Otherwise they would be sent, since they connect now, and be cancelled at once.
        """
        for limits in self._watched.values():
            if not (limits.tally.on_wire or limits.restarted):
                limits.restarted = True
                limits.begin(now)

    def _turn(self) -> None:
        if self._turns == _TURNS:
            self._look(self._clock())
        else:
            self._turns += 1
            self._timer = self._loop.call_soon(self._turn)

    def _look(self, now: float) -> None:
        later = math.inf
        for task, limits in self._watched.items():
            if limits.next > now:
                later = min(later, limits.next)
            elif task not in self._expired:
                self._expired.add(task)
                task.cancel()
        self._wake_at(later, now)
