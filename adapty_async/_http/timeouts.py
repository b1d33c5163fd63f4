"""
A timeout scheduler: the timeouts of many attempts, with one timer of the event loop.

`asyncio.timeout` makes a timer for each block: 4.6 µs where this costs 0.3, and 14 of the 71 µs of
a request over a kept connection, beside many other timers (Python 3.11, one core).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

import msgspec

from adapty_async._api.operation import CallState
from adapty_async._runtime.timer import Loop, PatientTimer

__all__ = ("TimeoutScheduler",)

_CONNECT_SECONDS = 10.0
# Connecting, from looking up the name to the end of the TLS handshake, may take so many seconds,
# and less than the whole attempt, so that its timeout is told from a lost response.
_CONNECT_SHARE = 0.9


class _Limits(msgspec.Struct):
    """
    When an attempt ends at the latest, and when it does unless it is on the wire.

    Attributes:
        seconds: how long it may take.
        restarted: it began again after the loop had stood still.
    """

    seconds: float
    tally: CallState
    end: float
    connected: float
    restarted: bool = False

    def restart(self, now: float) -> None:
        self.restarted = True
        self.end = now + self.seconds
        self.connected = _connected(now, self.seconds)

    @property
    def next(self) -> float:
        return self.end if self.tally.on_wire else self.connected


def _connected(now: float, seconds: float) -> float:
    return now + min(_CONNECT_SECONDS, _CONNECT_SHARE * seconds)


class TimeoutScheduler:
    """
    Cancels the tasks of one event loop whose attempts take too long; each makes one at a time.

    Moments are those of `clock` and not of the loop: uvloop's own clock stands still while a
    callback runs, so time that a blocking call took would be charged to the attempt after it.
    """

    def __init__(self, loop: Loop, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._watched: dict[asyncio.Task[object], _Limits] = {}
        self._expired: set[asyncio.Task[object]] = set()
        self._timer = PatientTimer(loop, self._look, self._restart_unsent, clock)

    def schedule(self, task: asyncio.Task[object], seconds: float, tally: CallState) -> None:
        """
        Cancel the task in so many seconds, or sooner if it has not connected; unless it is stopped.
        """
        now = self._clock()
        connected = _connected(now, seconds)
        self._watched[task] = _Limits(seconds, tally, now + seconds, connected)
        if connected < self._timer.due:
            self._timer.start(connected, now)

    def expired(self, task: asyncio.Task[object]) -> bool:
        """Say whether the task was cancelled from here."""
        return task in self._expired

    def cancel(self, task: asyncio.Task[object]) -> None:
        """Watch the task no longer, and take back that it was cancelled, if it was from here."""
        del self._watched[task]
        if task in self._expired:
            self._expired.remove(task)
            task.uncancel()

    def close(self) -> None:
        """Give the timer back."""
        self._timer.cancel()

    def _restart_unsent(self, now: float) -> None:
        """
        Let attempts that are not on the wire begin again, once each: their time was not used.

        Otherwise they would be sent, since they connect now, and be cancelled at once.
        """
        for limits in self._watched.values():
            if not (limits.tally.on_wire or limits.restarted):
                limits.restart(now)

    def _look(self, now: float) -> None:
        later = math.inf
        for task, limits in self._watched.items():
            if limits.next > now:
                later = min(later, limits.next)
            elif task not in self._expired:
                self._expired.add(task)
                task.cancel()
        self._timer.start(later, now)
