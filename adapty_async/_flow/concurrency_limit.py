"""
How many requests of a bulk run may be in flight, when nobody says.

The rate is limited elsewhere; this is a second guard, against slowness. It grows only while all
that are allowed are in flight and answers come as fast as ever; it shrinks when answers take far
longer, and at once when none comes in time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from adapty_async.errors import (
    AdaptyError,
    AuthenticationError,
    ConflictError,
    NotFoundError,
    RequestRejectedError,
    RequestTimeoutError,
)

__all__ = ("INITIAL_CONCURRENCY", "ConcurrencyLimit")

#: Requests in flight at most when a run starts.
INITIAL_CONCURRENCY = 64
_LEAST = 4
_SLOW = 3.0
# Seconds that an answer may take more before it is called slow: as much may come from a busy event
# loop alone.
_SLACK = 0.25
_STEADY = 1.5
# Seconds by which answers differ in any case. Much more comes of an event loop that has too much to
# do, and that does no better with more in flight.
_UNEVEN = 0.004
# What takes a service as long as a success; a 429 or a failure may come at once.
_ANSWERED = (AuthenticationError, ConflictError, NotFoundError, RequestRejectedError)
# Seconds after which the fastest answer is forgotten, in case the service has become slower for
# good.
_MEMORY = 30.0


class ConcurrencyLimit:
    """
    How many requests of one run are to be in flight, found out answer by answer.

    A run has as many workers. While some of them wait until they may repeat a request, others are
    called in.

    Args:
        most: workers at most.
        clock: seconds that only ever grow.

    Attributes:
        most: workers at most.
        count: workers that are of use.
        busy: requests in flight; who sends one adds it.
        call: calls in so many workers more; set by the run while it lasts.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self.most = most
        self._clock = clock
        self.limit = min(INITIAL_CONCURRENCY, most)
        self.in_flight = 0
        self.spawn: Callable[[int], object] | None = None
        self._usual = 0.0
        self._fastest = math.inf
        self._fastest_before = math.inf
        self._forget_at = clock() + _MEMORY
        self._slow_above = self._steady_below = math.inf
        self._next_change = 0.0

    def should_retire(self, workers: int) -> bool:
        """Say whether one of so many workers is of no use: enough of the others are busy."""
        return workers > self.limit and self.in_flight >= self.limit

    def record(self, failure: AdaptyError | None, seconds: float, *, held_up: bool) -> None:
        """
        Take note of how a request ended and how long that took.

        With `held_up` others wait for their moment already: more workers would only wait, too.
        """
        wanted = not held_up and self.in_flight >= self.limit
        self.in_flight -= 1
        if failure is None or isinstance(failure, _ANSWERED):
            self._answered(seconds, wanted=wanted)
            return
        if isinstance(failure, RequestTimeoutError):
            self._change(0.5, self._clock())
        if self.in_flight < self.limit:
            self._spawn(1)  # this one may wait for long until it repeats the request

    def _answered(self, seconds: float, *, wanted: bool) -> None:
        now = self._clock()
        self._usual += (seconds - self._usual) * (0.1 if self._usual else 1.0)
        if seconds < self._fastest or now >= self._forget_at:
            self._compare_with(seconds, now)
        if self._usual > self._slow_above:
            self._change(0.9, now)
        elif wanted and self._usual <= self._steady_below:
            self._change(1.25, now)

    def _compare_with(self, seconds: float, now: float) -> None:
        """Take note of an answer that is the fastest of late, and of what is slow beside it."""
        if now >= self._forget_at:
            self._fastest_before, self._fastest = self._fastest, math.inf
            self._forget_at = now + _MEMORY
        self._fastest = min(self._fastest, seconds)
        fastest = min(self._fastest, self._fastest_before)
        self._slow_above = _SLOW * fastest + _SLACK
        self._steady_below = _STEADY * fastest + _UNEVEN

    def _change(self, factor: float, now: float) -> None:
        if now < self._next_change:
            return
        self._next_change = now + (self._usual or 1.0)  # see first what comes of it
        before = self.limit
        self.limit = max(min(_LEAST, self.most), min(self.most, round(before * factor)))
        if self.limit > before:
            self._spawn(self.limit - before)

    def _spawn(self, workers: int) -> None:
        if self.spawn is not None:
            self.spawn(workers)
