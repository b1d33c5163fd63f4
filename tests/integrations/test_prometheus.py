"""Metrics with Prometheus' own client."""

from __future__ import annotations

import gc

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from adapty_async import AdaptyClient, AdaptyExportClient, NotFoundError, RetryPolicy
from adapty_async.integrations.prometheus import PrometheusMetrics
from adapty_async.sandbox import Sandbox
from adapty_async.testing import FakeTransport

USER = "user-canary-8361"


async def test_metrics() -> None:
    """A scrape has durations by operation and error, and the client's statistics by bucket."""
    registry = CollectorRegistry()
    async with Sandbox() as sandbox:
        sandbox.seed_profiles([USER])
        sandbox.fail_next("429")
        policy = RetryPolicy(wait_initial=0.001)
        client = AdaptyClient(sandbox.api_key, base_url=sandbox.url, retry=policy)
        PrometheusMetrics(registry).instrument(client, "main")
        async with client:
            await client.v2.profiles.delete(customer_user_id=USER)
            with pytest.raises(NotFoundError):
                await client.v2.profiles.delete(customer_user_id=USER)
            await client.v1.profiles.bulk_delete([USER, ""], by="customer_user_id")
            text = generate_latest(registry).decode()

    duration = "adapty_client_call_duration_seconds"
    count = duration + '_count{client="main",error="%s",operation="%s"} 1.0'
    for line in (
        count % ("", "v2.profiles.delete"),
        count % ("NotFoundError", "v2.profiles.delete"),
        duration + '_bucket{client="main",error="",le="60.0",operation="v2.profiles.delete"} 1.0',
        'adapty_client_requests_total{bucket="v2",client="main"} 3.0',
        'adapty_client_throttled_total{bucket="v2",client="main"} 1.0',
        'adapty_client_circuit{bucket="v2",client="main"} 0.0',
        'adapty_client_paused_seconds{bucket="v2",client="main"} 0.0',
        'adapty_client_bulk_items_total{client="main",status="absent"} 1.0',
        'adapty_client_bulk_items_total{client="main",status="failed"} 1.0',
        'adapty_client_in_flight{bucket="v2",client="main"} 0.0',
    ):
        assert line in text
    assert 'adapty_client_retry_budget{client="main"}' in text
    assert "canary" not in text


async def test_a_dropped_client_leaves_the_registry_usable() -> None:
    """The collector does not keep a client alive, and a scrape without it works."""
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry)
    client = AdaptyClient("key")
    metrics.instrument(client)
    assert "https://api.adapty.io" in generate_latest(registry).decode()
    await client.aclose()
    del client
    gc.collect()

    assert "https://api.adapty.io" not in generate_latest(registry).decode()


async def test_a_client_that_takes_the_place_of_the_measured_one() -> None:
    """The statistics are measured as long as any client that shares them exists."""
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry)
    client = AdaptyClient("key", transport=FakeTransport([(204, {}, b"")]))
    metrics.instrument(client, "main")
    client = client.with_options(timeout=5.0)
    gc.collect()
    await client.v2.profiles.delete(customer_user_id=USER)

    text = generate_latest(registry).decode()
    assert 'adapty_client_requests_total{bucket="v2",client="main"} 1.0' in text
    with pytest.raises(ValueError, match="already, itself or through with_options"):
        metrics.instrument(client, "again")


async def test_clients_that_share_their_limits_are_measured_once() -> None:
    """They share their statistics, whichever of them is measured, and when it was made."""
    metrics = PrometheusMetrics(CollectorRegistry())
    client = AdaptyClient("key")
    other, earlier = client.with_options(timeout=5.0), client.with_options(timeout=4.0)
    metrics.instrument(other, "other")
    for number, one in enumerate((client, earlier, other.with_options(timeout=3.0))):
        with pytest.raises(ValueError, match="already, itself or through with_options"):
            metrics.instrument(one, str(number))


async def test_clients_have_names() -> None:
    """Two clients of one origin need names; a registry has one collector for all clients."""
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry)
    async with AdaptyClient("key") as client, AdaptyClient("key") as other:
        metrics.instrument(client)
        with pytest.raises(ValueError, match=r"api\.adapty\.io is measured already: pass another"):
            metrics.instrument(other)
        metrics.instrument(other, "other")
        with pytest.raises(ValueError, match="the client is measured already"):
            metrics.instrument(other, "a second name")
    async with AdaptyExportClient("key") as export:
        metrics.instrument(export)
        assert 'client="https://api-admin.adapty.io"' in generate_latest(registry).decode()
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        PrometheusMetrics(registry)
