"""
Metrics of clients for Prometheus. They need ``pip install 'adapty-async[prometheus]'``.

Source: https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from prometheus_client import REGISTRY, CollectorRegistry, Histogram
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from adapty_async.client import AdaptyClient, AdaptyExportClient, AdaptyMailClient
from adapty_async.hooks import CallEnded, Event
from adapty_async.statistics import BucketStatistics, CircuitState, Statistics

__all__ = ("PrometheusMetrics",)

# Seconds; calls may wait for retries.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_LABELS = ("client", "bucket")
_CIRCUIT = {CircuitState.CLOSED: 0, CircuitState.HALF_OPEN: 1, CircuitState.OPEN: 2}


Client: TypeAlias = AdaptyClient | AdaptyMailClient | AdaptyExportClient


class PrometheusMetrics(Collector):
    """
    A collector of the metrics of clients. Labels: ``client``, ``operation``, ``error``, ``bucket``.

    Args:
        registry: the registry for the metrics.

    Raises:
        ValueError: the registry already has such a collector.

    Example:
        >>> metrics = PrometheusMetrics()
        >>> metrics.instrument(adapty)
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._clients: weakref.WeakValueDictionary[str, Client] = weakref.WeakValueDictionary()
        self._duration = Histogram(
            "adapty_client_call_duration_seconds",
            "Duration of calls, with retries and waits for a permit.",
            ("client", "operation", "error"),
            registry=registry,
            buckets=_BUCKETS,
        )
        registry.register(self)

    def instrument(self, client: Client, name: str | None = None) -> None:
        """
        Measure a client's calls. Call it once for a client, before its first call.

        Args:
            client: the client; clients of its `with_options` made later are included.
            name: the value of the label ``client``; by default the client's origin.

        Raises:
            ValueError: a client of that name is measured already.
        """
        label = client.origin if name is None else name
        if label in self._clients:
            raise ValueError(f"a client named {label} is measured already: pass another name=")
        self._clients[label] = client
        duration = self._duration

        def record(event: Event) -> None:
            if isinstance(event, CallEnded):
                duration.labels(label, event.operation, event.error or "").observe(event.elapsed)

        client.add_hook(record)

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without values, by which the registry detects duplicates."""
        return self._families({})

    def collect(self) -> Iterable[Metric]:
        """Return the present values of the clients that still exist."""
        return self._families({name: each.statistics() for name, each in self._clients.items()})

    def _families(self, statistics: dict[str, Statistics]) -> Iterator[Metric]:
        buckets = [
            ((name, bucket), each)
            for name, found in statistics.items()
            for bucket, each in found.buckets.items()
        ]
        for kind, name, help_text, read in _BY_BUCKET:
            family = kind(name, help_text, labels=_LABELS)
            for labels, bucket in buckets:
                family.add_metric(labels, read(bucket))
            yield family
        budget = GaugeMetricFamily(
            "adapty_client_retry_budget", "Tokens left in the retry budget.", labels=("client",)
        )
        for client, found in statistics.items():
            budget.add_metric((client,), found.budget)
        yield budget


_Kind: TypeAlias = type[CounterMetricFamily] | type[GaugeMetricFamily]
_BY_BUCKET: tuple[tuple[_Kind, str, str, Callable[[BucketStatistics], float]], ...] = (
    (CounterMetricFamily, "adapty_client_requests", "Attempts.", lambda each: each.requests),
    (
        CounterMetricFamily,
        "adapty_client_throttled",
        "Attempts that were throttled (429).",
        lambda each: each.throttled,
    ),
    (
        GaugeMetricFamily,
        "adapty_client_rate",
        "Requests per second of the latest bulk run.",
        lambda each: each.rate,
    ),
    (
        GaugeMetricFamily,
        "adapty_client_in_flight",
        "Attempts without a response yet.",
        lambda each: each.in_flight,
    ),
    (
        GaugeMetricFamily,
        "adapty_client_paused_seconds",
        "Seconds until a pause that the server asked for ends.",
        lambda each: each.paused_for,
    ),
    (
        GaugeMetricFamily,
        "adapty_client_circuit",
        "State of the circuit breaker: 0 closed, 1 half open, 2 open.",
        lambda each: _CIRCUIT[each.circuit],
    ),
)
