"""A rate limit as Adapty's documentation describes it: a sustained rate with a small burst."""

from __future__ import annotations

import time
from collections.abc import Callable

# Refilling adds floats: a token that lacks this fraction counts as complete.
_ROUNDING = 1e-9


class TokenBucket:
    """
    A token bucket that allows `rate` requests per second, and `burst` at once after a pause.

    Attributes:
        rate: requests per second.
    """

    def __init__(
        self,
        rate: float,
        burst: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Start full; `burst` defaults to a tenth of a second's requests, and at least one.

        Raises:
            ValueError: `rate` is not above 0, or `burst` below 1.
        """
        self.rate = rate
        self._burst = max(1.0, rate / 10) if burst is None else burst
        if not rate > 0:
            raise ValueError(f"rate={rate}: must be above 0 requests per second")
        if not self._burst >= 1:
            raise ValueError(f"burst={burst}: must be at least 1 request")
        self._clock = clock
        self._tokens = self._burst
        self._at = clock()

    def acquire(self) -> float:
        """Acquire a token and return 0, or return the seconds until one is free."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        missing = 1 - self._tokens
        if missing > _ROUNDING:
            return missing / self.rate
        self._tokens -= 1
        return 0.0
