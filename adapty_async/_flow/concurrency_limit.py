"""
An adaptive concurrency limit for the requests of a bulk run.

Other modules limit the rate; this limit protects a slow service. It grows only while all permitted
requests are in flight and responses are as fast as before. It shrinks when responses take much
longer, and at once after a timeout.
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

#: Maximum requests in flight when a run starts.
INITIAL_CONCURRENCY = 64
# Requests in flight that even the slowest service gets.
_MIN_LIMIT = 4
# Maximum of items that wait for endpoints with limits of their own, while others of the run are
# sent: those of 30 s at 65 a second. Each takes some 10 kB.
_MOST_WAITING = 2000
# Multiples of the fastest recent response time: above the first, the limit shrinks; up to the
# second, it may grow.
_SLOW = 3.0
_STEADY = 1.5
# Seconds of delay that do not make a response slow: a busy event loop alone may cause them.
_SLACK = 0.25
# Seconds by which response times always differ. A much larger difference comes from an overloaded
# event loop, which is no faster with more requests in flight.
_JITTER = 0.004
# Errors that take a service as long as a success; a 429 or a failure may be immediate.
_RESPONSES = (AuthenticationError, ConflictError, NotFoundError, RequestRejectedError)
# Seconds after which the fastest response time expires, in case the service has become permanently
# slower.
_MEMORY = 30.0


class ConcurrencyLimit:
    """
    An adaptive limit on the requests of one run in flight.

    A run has one worker for each permitted request, and others while some of these wait for a
    retry, or for an endpoint with a limit of its own. The limit does not spawn workers: the run
    asks it how many more are useful.

    Args:
        most: maximum number of requests in flight.
        clock: returns monotonic seconds.

    Attributes:
        most: maximum number of requests in flight.
        most_workers: maximum number of workers.
        limit: number of useful workers, without those whose items wait for an endpoint.
        in_flight: requests in flight; the sender of a request increments it.
        waiting: items that wait for an endpoint with a limit of its own.
        is_mixed: the run has sent items to other endpoints, since one was found to have such a
            limit.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self.most = most
        self.most_workers = most + _MOST_WAITING
        self._clock = clock
        self.limit = min(INITIAL_CONCURRENCY, most)
        self.in_flight = self.waiting = 0
        self.is_mixed = False
        self._more = 0  # workers that became useful since the run asked
        self._usual = 0.0
        self._fastest = math.inf
        self._fastest_before = math.inf
        self._expires_at = clock() + _MEMORY
        self._slow_above = self._steady_below = math.inf
        self._next_change = 0.0

    def more_wanted(self) -> int:
        """Return how many more workers are useful than at the last call."""
        more, self._more = self._more, 0
        return more

    def should_retire(self, workers: int) -> bool:
        """Return whether the pool has more workers than the concurrency limit allows."""
        return workers - self.waiting > self.limit and self.in_flight >= self.limit

    def wait_started(self) -> None:
        """Record that an item waits for an endpoint, so another worker may be useful."""
        self.waiting += 1
        self._more += self.is_mixed

    def wait_ended(self) -> None:
        """Record that an item no longer waits for an endpoint."""
        self.waiting -= 1

    def other_sent(self) -> None:
        """Record that an item for another endpoint is sent, whose like need not wait."""
        if not self.is_mixed:
            self.is_mixed = True
            self._more += self.waiting

    def record(self, failure: AdaptyError | None, seconds: float, *, held_up: bool) -> None:
        """
        Record the result of a request and its duration in seconds.

        With `held_up`, others already wait for a permit, and more workers would only wait too.
        """
        wanted = not held_up and self.in_flight >= self.limit
        self.in_flight -= 1
        if failure is None or isinstance(failure, _RESPONSES):
            self._record_response(seconds, wanted=wanted)
            return
        if isinstance(failure, RequestTimeoutError):
            self._change(0.5, self._clock())
        if self.in_flight < self.limit:
            self._more += 1  # this worker may have a long wait before its retry

    def _record_response(self, seconds: float, *, wanted: bool) -> None:
        now = self._clock()
        self._usual += (seconds - self._usual) * (0.1 if self._usual else 1.0)
        if seconds < self._fastest or now >= self._expires_at:
            self._record_fastest(seconds, now)
        if self._usual > self._slow_above:
            self._change(0.9, now)
        elif wanted and self._usual <= self._steady_below:
            self._change(1.25, now)

    def _record_fastest(self, seconds: float, now: float) -> None:
        """Record the fastest recent response, and derive the bounds of slow and steady ones."""
        if now >= self._expires_at:
            self._fastest_before, self._fastest = self._fastest, math.inf
            self._expires_at = now + _MEMORY
        self._fastest = min(self._fastest, seconds)
        fastest = min(self._fastest, self._fastest_before)
        self._slow_above = _SLOW * fastest + _SLACK
        self._steady_below = _STEADY * fastest + _JITTER

    def _change(self, factor: float, now: float) -> None:
        if now < self._next_change:
            return
        self._next_change = now + (self._usual or 1.0)  # wait for the effect first
        before = self.limit
        self.limit = max(min(_MIN_LIMIT, self.most), min(self.most, round(before * factor)))
        self._more += max(0, self.limit - before)
