"""A registry of the bucket states of one client, made when a bucket is used first."""

from __future__ import annotations

from collections.abc import Callable

from adapty_async._flow.adaptive_rate import AdaptiveRateLimiter
from adapty_async._flow.bucket_limiter import BucketState
from adapty_async._flow.rate_limiter import FixedRateLimiter, RateSource
from adapty_async._runtime.fork import register_fork_handler
from adapty_async._runtime.loop import Timing
from adapty_async.statistics import BucketStatistics

__all__ = ("LimiterRegistry",)


class LimiterRegistry:
    """
    A registry of the states of one client's buckets, by bucket; they share its rate limiter.

    Args:
        timing: clock, sleep and random function.
        rate_limiter: the client's configured rate limiter; None without one.
        rate_source: returns the rate source of a bucket; by default each bucket has an
            `AdaptiveRateLimiter`.
    """

    def __init__(
        self,
        timing: Timing,
        rate_limiter: FixedRateLimiter | None = None,
        rate_source: Callable[[str], RateSource] | None = None,
    ) -> None:
        self._timing = timing
        self._rate_limiter = rate_limiter
        self._rate_source = rate_source
        self._expected: float | None = None
        self._states: dict[str, BucketState] = {}
        self._endpoints: set[str] = set()  # buckets of one operation
        register_fork_handler(self)

    def after_fork(self) -> None:
        """Start fresh: requests in flight and held locks belong to the parent process."""
        self._states = {}

    def bucket_of(self, bucket: str, operation: str) -> str:
        """Return the bucket of an operation: that of its API, or its own if it has one."""
        state = self._states.get(bucket)
        if state is None or operation not in state.endpoints.separate:
            return bucket
        own = f"{bucket}/{operation}"
        self._endpoints.add(own)
        return own

    def get(self, bucket: str) -> BucketState:
        """
        Return the state of a bucket.

        Raises:
            ConfigError: the rate source belongs to another event loop, or is not open.
        """
        given = None if self._rate_source is None else self._rate_source(bucket)
        state = self._states.get(bucket)
        if state is None:
            source = given or AdaptiveRateLimiter(self._timing.clock)
            is_endpoint = bucket in self._endpoints
            if self._expected is not None and not is_endpoint:
                source.expect(self._expected)
            state = BucketState(self._timing, self._rate_limiter, source, is_endpoint=is_endpoint)
            state = self._states.setdefault(bucket, state)
        return state

    def expect(self, rate: float) -> None:
        """Start with the rate of an earlier run in every bucket without a measured limit."""
        self._expected = rate
        for state in self._of_apis():
            with state.lock:
                state.rate_source.expect(rate)

    def measured_limit(self) -> float | None:
        """Return the measured limit if exactly one bucket has one, otherwise None."""
        limits = [state.rate_source.limit for state in self._of_apis()]
        measured = [limit for limit in limits if limit is not None]
        return measured[0] if len(measured) == 1 else None

    def _of_apis(self) -> list[BucketState]:
        return [state for state in tuple(self._states.values()) if not state.is_endpoint]

    @property
    def rate(self) -> float | None:
        """The configured requests per second; None without a limit."""
        return None if self._rate_limiter is None else self._rate_limiter.rate

    def statistics(self) -> dict[str, BucketStatistics]:
        """Return the statistics of the buckets that were used."""
        return {bucket: state.statistics() for bucket, state in dict(self._states).items()}

    def __repr__(self) -> str:
        return f"LimiterRegistry({', '.join(self._states)})"
