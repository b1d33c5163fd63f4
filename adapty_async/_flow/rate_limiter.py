"""Rate limiters: a fixed one, and the protocol of those that find the rate of a bucket."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from adapty_async._flow.queues import RunOrder

#: Seconds that are not worth a wait; some clocks resolve no shorter time.
CLOCK_RESOLUTION = 1e-6


class FixedRateLimiter:
    """
    A rate limiter that allows at most ``rate * seconds + burst`` requests in any period.

    This is the generic cell rate algorithm (GCRA). Its one number is the time at which all requests
    so far would have been sent if evenly spaced. The number advances when a request is sent, not
    when it is scheduled, so that tasks that wake up late do not bunch.

    Attributes:
        rate: requests per second.
        burst: requests that may be sent at once after a pause.
        run_order: the order of the runs that wait for it.
    """

    def __init__(self, rate: float, burst: int | None, clock: Callable[[], float]) -> None:
        self.rate = rate
        self.burst = max(1, round(rate / 10)) if burst is None else burst
        self.run_order = RunOrder()
        self._clock = clock
        self._interval = 1.0 / rate
        self._sent_until = clock()

    def delay(self) -> float:
        """Return the seconds until a request may be sent; 0 if it may be sent now."""
        wait = self._sent_until - self._clock() - (self.burst - 1) * self._interval
        return wait if wait > CLOCK_RESOLUTION else 0.0

    def acquire(self) -> None:
        """Count a request that is sent."""
        self._sent_until = max(self._clock(), self._sent_until) + self._interval

    def __repr__(self) -> str:
        return f"FixedRateLimiter(rate={self.rate}, burst={self.burst})"


class RateSource(Protocol):
    """
    A source of the request rate of one bucket, which learns from every response of that bucket.

    `BucketState` has one and is its only caller. `AdaptiveRateLimiter` is the source of one
    process. Another implementation may share one rate between processes.

    - Times are monotonic seconds on the client's clock, durations are seconds, rates are requests
      per second.
    - Methods and properties neither wait nor raise, except `expect`. They are called under the
      lock of the bucket, from the event loop of any thread that uses the client.
    - Each request is announced once, immediately before it is sent: by an `acquire` that returned
      0 (it was paced), or by `count` (it was not). A request whose connection turns out to be
      busy, that is cancelled, or that has no response, stays announced.
    - Each response is recorded once: by `throttled` for a 429, by `succeeded` for any other
      response of a working API. Failures of the service are not recorded.
    - A caller that has to wait asks again after the returned seconds, or sooner, and after at most
      a second. Single calls go before items, so the caller that asks next may be another one.
    """

    @property
    def rate(self) -> float:
        """The current requests per second."""
        ...

    @property
    def limit(self) -> float | None:
        """The last measured limit of the server; None during a search for it."""
        ...

    @property
    def paused_until(self) -> float:
        """The time before which nothing is sent; it may be past."""
        ...

    @property
    def probing(self) -> bool:
        """Whether the server rejects everything, so that only single probes are sent."""
        ...

    @property
    def overstated(self) -> bool:
        """Whether the server accepts requests before the end of a long `Retry-After`."""
        ...

    def acquire(self) -> float:
        """Return the seconds until the next request may be sent; at 0 it counts as sent now."""
        ...

    def count(self) -> None:
        """Count a request sent without `acquire`; requests that acquire wait longer for it."""
        ...

    def succeeded(self, sent: float, *, paced: bool = True) -> None:
        """Record a response other than 429 to a request that was sent at `sent`."""
        ...

    def throttled(
        self, sent: float, retry_after: float | None = None, *, within: float = math.inf
    ) -> None:
        """
        Record a 429 response to a request that was sent at `sent`, with its `Retry-After`.

        The next probe is due `within` these seconds: it is of no use later.
        """
        ...

    def search_from(self, rate: float) -> None:
        """Start the search at the rate of counted requests, unless a search began before."""
        ...

    def expect(self, rate: float) -> None:
        """
        Start with the limit that an earlier run found, unless one was measured since.

        A pause continues.

        Raises:
            ValueError: the rate is not above 0, or infinite.
        """
        ...

    def restart(self, rate: float | None) -> None:
        """
        Start again with a limit that was measured before, or without one; a pause ends.

        The 429 responses recorded since were not due to the limit of the bucket.
        """
        ...
