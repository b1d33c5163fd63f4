"""
Metrics of clients for Prometheus. They need ``pip install 'adapty-async[prometheus]'``.

Source: https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Histogram
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    missing = "prometheus_client is missing: pip install 'adapty-async[prometheus]'"
    raise ImportError(missing) from error

from adapty_async._client.base import BaseClient, original_of
from adapty_async.hooks import CallEnded, Event
from adapty_async.integrations._metrics import (
    ALREADY,
    BUCKET_METRICS,
    BULK_ITEMS,
    CALL_DURATION,
    DURATION_BUCKETS,
    RETRY_BUDGET,
    BucketMetric,
    Client,
)
from adapty_async.statistics import Statistics

__all__ = ("PrometheusMetrics",)

_PREFIX = "adapty_client"
_BY_BUCKET = ("client", "bucket")
_BY_STATUS = ("client", "status")


class PrometheusMetrics(Collector):
    """
    A collector of the metrics of clients.

    Its labels are ``client``, ``operation``, ``error``, ``bucket`` and ``status``.

    Args:
        registry: the registry for the metrics.

    Raises:
        ValueError: the registry already has such a collector.

    Example:
        >>> metrics = PrometheusMetrics()
        >>> metrics.instrument(adapty)
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._clients: weakref.WeakValueDictionary[str, BaseClient]
        self._clients = weakref.WeakValueDictionary()
        self._duration = Histogram(
            f"{_PREFIX}_call_duration_seconds",
            CALL_DURATION,
            ("client", "operation", "error"),
            registry=registry,
            buckets=DURATION_BUCKETS,
        )
        registry.register(self)

    def instrument(self, client: Client, name: str | None = None) -> None:
        """
        Measure a client's calls. Call it once for a client, before its first call.

        Args:
            client: the client; clients that `AdaptyClient.with_options` makes of it are included.
            name: the value of the label ``client``; by default the client's origin.

        Raises:
            ValueError: the client, one that shares its limits, or another one of that name, is
                measured already.
        """
        original = original_of(client)
        if any(each is original for each in self._clients.values()):
            raise ValueError(ALREADY.format("measured", "calls"))
        label = client.origin if name is None else name
        if label in self._clients:
            raise ValueError(f"a client named {label} is measured already: pass another name=")
        self._clients[label] = original
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
        """Yield the metrics that are read from the statistics of the clients."""
        buckets = [
            ((name, bucket), each)
            for name, found in statistics.items()
            for bucket, each in found.buckets.items()
        ]
        for metric in BUCKET_METRICS:
            family = _family(metric)
            for labels, bucket in buckets:
                family.add_metric(labels, metric.read(bucket))
            yield family
        budget = GaugeMetricFamily(f"{_PREFIX}_retry_budget", RETRY_BUDGET, labels=("client",))
        items = CounterMetricFamily(f"{_PREFIX}_bulk_items", BULK_ITEMS, labels=_BY_STATUS)
        for client, found in statistics.items():
            budget.add_metric((client,), found.budget)
            for status, count in found.bulk_items.items():
                items.add_metric((client, status), count)
        yield budget
        yield items


def _family(metric: BucketMetric) -> CounterMetricFamily | GaugeMetricFamily:
    unit = "_seconds" if metric.unit == "s" else ""
    kind = CounterMetricFamily if metric.is_counter else GaugeMetricFamily
    return kind(f"{_PREFIX}_{metric.name}{unit}", metric.text, labels=_BY_BUCKET)
