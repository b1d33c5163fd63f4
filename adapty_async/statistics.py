"""The statistics of a client: rates, counters, circuit state and HTTP path."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

__all__ = ("BucketStatistics", "CircuitState", "HttpPath", "Statistics")


class HttpPath(enum.StrEnum):
    """An enumeration of the paths on which a client's requests reach aiohttp's connections."""

    #: Over the connector of the client's own session.
    FAST = "fast"
    #: Through `aiohttp.ClientSession.request`, which test mocks and tracers see.
    STANDARD = "standard"
    #: Through no connection of aiohttp, since ``transport=`` was passed.
    CUSTOM = "custom"


class CircuitState(enum.StrEnum):
    """An enumeration of the states of a circuit breaker."""

    #: Every request is sent.
    CLOSED = "closed"
    #: No request is sent until the time of the next probe.
    OPEN = "open"
    #: One request is sent, as a probe.
    HALF_OPEN = "half_open"


class BucketStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """
    The statistics of one bucket, which is a server-side rate limit.

    Attributes:
        rate: requests per second of the latest bulk run: the configured rate of the run or the
            client, otherwise the adaptive rate. If the server throttled a configured rate, the
            adaptive rate if that is lower.
        in_flight: attempts that have no response yet, including those still connecting.
        paused_for: seconds for which nothing is sent, since the server requested a pause.
        circuit: the state of the circuit breaker.
        requests: attempts that have ended.
        throttled: how many attempts were throttled (429).
        failed: how many attempts failed in a way that counts as an outage.
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
    The statistics of a client.

    Attributes:
        budget: tokens left in the retry budget; see `adapty_async.RetryPolicy`.
        budget_size: size of the retry budget in tokens.
        limit: requests per second of `adapty_async.Limits`, shared by the buckets; None if no
            rate is configured.
        buckets: the statistics of each bucket by its name, such as ``v1``.
        http_path: the HTTP path of the latest request, or that of the first one if none was sent.
        http_path_reason: why `http_path` is not the fast path; None if it is.
        bulk_items: the items of all bulk runs of the client so far, by
            `adapty_async.OutcomeStatus`; empty before its first run. The counts never decrease.
    """

    budget: int
    budget_size: int
    limit: float | None
    buckets: Mapping[str, BucketStatistics]
    http_path: HttpPath = HttpPath.FAST
    http_path_reason: str | None = None
    bulk_items: Mapping[str, int] = {}

    @property
    def rate(self) -> float:
        """Requests per second of bulk runs, over all buckets."""
        rate = sum(bucket.rate for bucket in self.buckets.values())
        return rate if self.limit is None else min(rate, self.limit)

    @property
    def concurrency(self) -> int:
        """Attempts that have no response yet, including those still connecting."""
        return sum(bucket.in_flight for bucket in self.buckets.values())

    @property
    def paused_for(self) -> float:
        """Seconds until no bucket is paused."""
        return max((bucket.paused_for for bucket in self.buckets.values()), default=0.0)
