"""A table of the metrics of clients, from which each integration makes its own instruments."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from adapty_async.client import AdaptyClient, AdaptyExportClient, AdaptyMailClient
from adapty_async.statistics import BucketStatistics, CircuitState

#: A client that can be measured.
Client: TypeAlias = AdaptyClient | AdaptyMailClient | AdaptyExportClient

# https://opentelemetry.io/docs/specs/semconv/http/http-metrics/#metric-httpclientrequestduration
_RECOMMENDED = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
#: The bounds of duration histograms in seconds: those that the semantic conventions of
#: OpenTelemetry recommend for HTTP, and longer ones, since calls may wait for retries.
DURATION_BUCKETS = (*_RECOMMENDED, 30.0, 60.0)
#: The message for a second instrumentation of a client, or of another one with the same limits.
ALREADY = (
    "the client is {} already, itself or through with_options(): its {} would count twice; "
    "instrument a client once, before with_options()"
)
#: Descriptions of metrics that have no bucket.
CALL_DURATION = "Duration of calls, with retries and waits for a permit."
RETRY_BUDGET = "Tokens left in the retry budget."
BULK_ITEMS = "Items of bulk runs that have ended, by status."
_CIRCUIT = {CircuitState.CLOSED: 0, CircuitState.HALF_OPEN: 1, CircuitState.OPEN: 2}


class BucketMetric(msgspec.Struct, frozen=True, kw_only=True):
    """
    A metric that is read from the statistics of each bucket.

    Attributes:
        name: its name, without the prefix of the integration.
        unit: its unit, as the Unified Code for Units of Measure writes it.
        text: its description.
        read: returns its present value.
        is_counter: it never decreases.
    """

    name: str
    unit: str
    text: str
    read: Callable[[BucketStatistics], float]
    is_counter: bool = False


#: The metrics of buckets.
BUCKET_METRICS = (
    BucketMetric(
        name="requests",
        unit="{request}",
        text="Attempts that have ended, by bucket.",
        read=lambda each: each.requests,
        is_counter=True,
    ),
    BucketMetric(
        name="throttled",
        unit="{request}",
        text="Attempts that were throttled (429), by bucket.",
        read=lambda each: each.throttled,
        is_counter=True,
    ),
    BucketMetric(
        name="rate",
        unit="{request}/s",
        text="Requests per second of the latest bulk run, by bucket.",
        read=lambda each: each.rate,
    ),
    BucketMetric(
        name="in_flight",
        unit="{request}",
        text="Attempts without a response yet, by bucket.",
        read=lambda each: each.in_flight,
    ),
    BucketMetric(
        name="paused",
        unit="s",
        text="Seconds until a pause that the server requested ends, by bucket.",
        read=lambda each: each.paused_for,
    ),
    BucketMetric(
        name="circuit",
        unit="1",
        text="State of the circuit breaker: 0 closed, 1 half open, 2 open, by bucket.",
        read=lambda each: _CIRCUIT[each.circuit],
    ),
)
