"""What a client is doing right now, in numbers."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

__all__ = ("BucketStatistics", "CircuitState", "HttpPath", "Statistics")


class HttpPath(enum.StrEnum):
    """How a client's requests reach aiohttp's connections."""

    #: Over the connector of the client's own session.
    FAST = "fast"
    #: Through `aiohttp.ClientSession.request`, which test mocks and tracers see.
    STANDARD = "standard"
    #: Not at all: ``transport=`` was given.
    CUSTOM = "custom"


class CircuitState(enum.StrEnum):
    """What a circuit breaker lets through."""

    #: Every request.
    CLOSED = "closed"
    #: No request until it is time to try again.
    OPEN = "open"
    #: One request, to see whether the service is back.
    HALF_OPEN = "half_open"


class BucketStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is known of one of the server's rate limits, by what it was asked so far.

    Attributes:
        rate: requests per second at which the bulk run goes that came last: its own rate or the
            client's if one was given, else what was learned; after the server refused a rate that
            was given, what was learned if that is lower.
        in_flight: attempts that have no response yet, those still connecting included.
        paused_for: seconds for which nothing is sent, since the server asked for that.
        circuit: whether requests are let through, or an outage is waited for.
        requests: attempts so far.
        throttled: how many of them were throttled (429).
        failed: how many of them failed as an outage makes them fail.
    """

    rate: float
    in_flight: int
    paused_for: float
    circuit: CircuitState
    requests: int
    throttled: int
    failed: int


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a client is doing.

    Attributes:
        budget: tokens that are left for repeats; see `adapty_async.RetryPolicy`.
        budget_size: tokens when all are there.
        limit: requests per second of `adapty_async.Limits`, which the buckets share; None if none
            were given.
        buckets: what the server counts apart, such as ``v1``.
        http_path: how the latest request was sent, or the first one would be.
        http_path_reason: why that is not the fast path; None if it is.
    """

    budget: int
    budget_size: int
    limit: float | None
    buckets: Mapping[str, BucketStatistics]
    http_path: HttpPath = HttpPath.FAST
    http_path_reason: str | None = None

    @property
    def rate(self) -> float:
        """Requests per second at which bulk runs go, over all buckets."""
        rate = sum(bucket.rate for bucket in self.buckets.values())
        return rate if self.limit is None else min(rate, self.limit)

    @property
    def concurrency(self) -> int:
        """Attempts that have no response yet, those still connecting included."""
        return sum(bucket.in_flight for bucket in self.buckets.values())

    @property
    def paused_for(self) -> float:
        """Seconds until nothing is paused any more."""
        return max((bucket.paused_for for bucket in self.buckets.values()), default=0.0)
