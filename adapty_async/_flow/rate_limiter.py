"""A rate limiter with a fixed rate and a small burst."""

from __future__ import annotations

from collections.abc import Callable

from adapty_async._flow.queues import RunOrder

__all__ = ("CLOCK_RESOLUTION", "FixedRateLimiter")

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
