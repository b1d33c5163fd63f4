"""The statistics of a client."""

from __future__ import annotations

import asyncio

import pytest

from adapty_async import AdaptyClient, Limits, OutcomeStatus, RetryPolicy
from adapty_async._api.call import Request, Response
from adapty_async._pipeline.layers import ItemCounter
from adapty_async.errors import ServerError
from adapty_async.statistics import BucketStatistics, CircuitState, Statistics
from adapty_async.testing import FakeTransport


def test_a_client_that_did_nothing_has_nothing_to_tell() -> None:
    """All tokens are there, and no bucket is known."""
    now = AdaptyClient("key").statistics()

    assert now == Statistics(budget=500, budget_size=500, limit=None, buckets={})
    assert (now.rate, now.concurrency, now.paused_for) == (0.0, 0, 0.0)


async def test_statistics_say_what_is_in_flight_and_what_came_of_the_rest() -> None:
    """Requests, failures and pauses are counted by bucket."""
    answers = [
        Response(200, {}, b'{"data":{}}'),
        Response(429, {"Retry-After": "45"}, b'{"errors":[]}'),
    ]
    held = asyncio.Event()

    async def transport(_request: Request) -> Response:
        if answers:
            return answers.pop(0)
        await held.wait()
        return Response(200, {}, b'{"data":{}}')

    client = AdaptyClient("key", transport=transport, limits=Limits(rate=1000))
    await client.v1.profiles.get(profile_id="a")
    waiting = asyncio.ensure_future(client.v1.profiles.get(profile_id="b"))
    for _ in range(20):
        await asyncio.sleep(0)
    now = client.statistics()
    bucket = now.buckets["v1"]

    assert (bucket.requests, bucket.throttled, bucket.failed) == (2, 1, 0)
    assert (bucket.in_flight, bucket.circuit) == (0, CircuitState.CLOSED)
    assert 40 < now.paused_for <= 45
    assert (now.concurrency, now.rate) == (0, bucket.rate)
    assert (bucket.rate, now.limit) == (1000.0, 1000.0)
    waiting.cancel()
    await asyncio.wait({waiting})


@pytest.mark.parametrize(
    ("limit", "rate"),
    [
        pytest.param(None, 500.0, id="learned"),
        pytest.param(300.0, 300.0, id="given"),
        pytest.param(600.0, 500.0, id="less-than-given"),
    ],
)
def test_rate_over_all_buckets_is_no_higher_than_the_clients(
    limit: float | None, rate: float
) -> None:
    """An adaptive rate applies to one bucket, a configured rate to all of them together."""
    bucket = BucketStatistics(
        rate=250.0,
        in_flight=0,
        paused_for=0.0,
        circuit=CircuitState.CLOSED,
        requests=1,
        throttled=0,
        failed=0,
    )
    buckets = {"v1": bucket, "v2": bucket}

    assert Statistics(budget=500, budget_size=500, limit=limit, buckets=buckets).rate == rate


async def test_statistics_tell_the_rate_of_a_run() -> None:
    """A run with a rate reports that rate."""
    client = AdaptyClient("key", transport=FakeTransport([(200, {}, b"")]))
    await client.v1.profiles.bulk_delete(["a"], by="customer_user_id", rate=50)

    assert client.statistics().rate == 50.0


async def test_statistics_tell_the_budget_and_its_size() -> None:
    """Tokens that retries acquired are missing from the size of the budget."""
    transport = FakeTransport([(503, {}, b"{}")] * 2)
    policy = RetryPolicy(attempts=2, wait_initial=1e-6, budget=100)
    client = AdaptyClient("key", transport=transport, retry=policy)
    with pytest.raises(ServerError):
        await client.v1.profiles.delete(customer_user_id="a")
    now = client.statistics()

    assert (now.budget, now.budget_size) == (86, 100)


async def test_items_of_bulk_runs_are_counted_while_they_last() -> None:
    """The items of all runs of a client are counted by status, those of a run in progress too."""
    transport = FakeTransport([(204, {}, b""), (400, {}, b""), (204, {}, b"")])
    client = AdaptyClient("key", transport=transport)
    other = client.with_options(timeout=5.0)
    assert client.statistics().bulk_items == {}
    await client.v1.profiles.bulk_delete(["u1", "u2"], by="customer_user_id", concurrency=1)
    async with other.v1.profiles.bulk_delete(["u3"], by="customer_user_id") as run:
        async for _ in run:
            assert client.statistics().bulk_items["done"] == 2
    unused = client.v1.profiles.bulk_delete(["u4"], by="customer_user_id")
    unused.close()

    found = client.statistics().bulk_items
    assert found == dict.fromkeys(OutcomeStatus, 0) | {"done": 2, "failed": 1}
    assert found == other.statistics().bulk_items


async def test_items_of_a_stopped_run_are_counted() -> None:
    """Items that a run did not send before it was stopped are counted as such."""
    client = AdaptyClient("key", transport=FakeTransport([(401, {}, b"")] * 100))
    users = [f"u{number}" for number in range(100)]
    run = client.v1.profiles.bulk_delete(users, by="customer_user_id", concurrency=1)
    report = await run

    assert report.not_sent
    assert client.statistics().bulk_items == report.counts


def test_a_forked_process_counts_no_items_of_its_parent() -> None:
    """Neither the runs that have ended count in the child, nor those that end in the parent."""
    counter = ItemCounter()
    counter.start(ended := {"done": 3})
    counter.end(ended)
    counter.start(running := {"done": 2})
    assert counter.counts() == {"done": 5}

    counter.after_fork()
    counter.end(running)

    assert counter.counts() == {}
    counter.start({"done": 1})
    assert counter.counts() == {"done": 1}
