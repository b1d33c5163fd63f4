"""A fixed pace: so many requests per second, evenly, with a small burst."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ("TICK", "FixedRateLimiter", "RateLimiter")

#: Seconds that are not worth waiting for, and that a clock may not even be able to tell.
TICK = 1e-6


class RateLimiter(Protocol):
    """What holds requests back: a pace of this process, or one that several machines share."""

    rate: float
    burst: int

    def delay(self) -> float:
        """Return the seconds until a request may go; 0 if it may go now."""
        ...

    def acquire(self) -> object:
        """Take note that a request goes."""
        ...


class FixedRateLimiter:
    """
    Says when requests may go: at most ``rate * seconds + burst`` in any stretch of time.

    This is the generic cell rate algorithm: its one number is the moment at which all that went so
    far would have gone at an even pace. It is moved on when a request really goes, not when it is
    promised, so that tasks that wake up late do not bunch.

    Attributes:
        rate: requests per second.
        burst: requests that may go at once after a pause.
    """

    def __init__(self, rate: float, burst: int | None, clock: Callable[[], float]) -> None:
        self.rate = rate
        self.burst = max(1, round(rate / 10)) if burst is None else burst
        self._clock = clock
        self._interval = 1.0 / rate
        self._used_until = clock()

    def delay(self) -> float:
        """Return the seconds until a request may go; 0 if it may go now."""
        wait = self._used_until - self._clock() - (self.burst - 1) * self._interval
        return wait if wait > TICK else 0.0

    def acquire(self) -> None:
        """Take note that a request goes."""
        self._used_until = max(self._clock(), self._used_until) + self._interval

    def __repr__(self) -> str:
        return f"Pacer(rate={self.rate}, burst={self.burst})"
