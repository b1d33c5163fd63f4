"""
How many requests of a bulk run may be in flight, when nobody says.

The rate is limited elsewhere; this is a second guard, against slowness. Places are added only while
somebody waits for one and answers come as fast as ever; they are taken away when answers take far
longer, and at once when none comes in time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from adapty_async._places import Places
from adapty_async.errors import AdaptyError, ApiError, RequestTimeoutError

__all__ = ("Capacity",)

_START = 64
_LEAST = 4
_SLOW = 3.0
_SLACK = 0.25
"""
Seconds that an answer may take more before it is called slow: as much may come from a busy event
loop alone.
"""
_STEADY = 1.5
_MEMORY = 30.0
"""
Seconds after which the fastest answer is forgotten, in case the service has become slower for good.
"""


class Capacity:
    """
    Places for the requests in flight of one run, their number found out.

    Attributes:
        places: who has one may send.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self.places = Places(min(_START, most))
        self._usual = 0.0
        self._fastest = math.inf
        self._fastest_before = math.inf
        self._forget_at = clock() + _MEMORY
        self._next_change = 0.0

    def leave(self, failure: AdaptyError | None, seconds: float) -> None:
        """
        Give a place back, and take note of how the request ended and how long that took.
        """
        wanted = self.places.wanted  # before this place goes to whoever waits
        self.places.give()
        if isinstance(failure, RequestTimeoutError):
            self._change(0.5, self._clock())
        elif failure is None or isinstance(failure, ApiError):
            self._answered(seconds, wanted=wanted)

    def _answered(self, seconds: float, *, wanted: bool) -> None:
        now = self._clock()
        self._usual += (seconds - self._usual) * (0.1 if self._usual else 1.0)
        if now >= self._forget_at:
            self._fastest_before, self._fastest = self._fastest, math.inf
            self._forget_at = now + _MEMORY
        self._fastest = min(self._fastest, seconds)
        fastest = min(self._fastest, self._fastest_before)
        if self._usual > _SLOW * fastest + _SLACK:
            self._change(0.9, now)
        elif wanted and self._usual <= _STEADY * fastest:
            self._change(1.25, now)

    def _change(self, factor: float, now: float) -> None:
        if now < self._next_change:
            return
        self._next_change = now + self._usual  # see first what comes of it
        count = round(self.places.count * factor)
        self.places.resize(max(min(_LEAST, self._most), min(self._most, count)))
