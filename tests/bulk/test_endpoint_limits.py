"""Bulk runs with an endpoint that has a rate limit of its own, lower than that of its bucket."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from adapty_async import AdaptyClient, Operation, RetrySafety
from adapty_async.endpoints import Endpoint
from adapty_async.transport import Request, Response
from tests._support import begin_at

KEY = "secret_live_endpoints"
OWN, OTHER = (
    Endpoint(
        name=name,
        method="GET",
        path=f"/{name}/",
        decode=bytes,
        retry_safety=RetrySafety.ALWAYS,
        bucket="v2",
    )
    for name in ("own", "other")
)
# Responses of the endpoint until it is known that it has a limit of its own; later ones pause it.
FIRST = 100


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs begin fast, and wait for a throttled endpoint as usual."""
    begin_at(monkeypatch, 1000.0, min_rate=0.5)


class Api:
    """A server whose endpoint `own` is always throttled; it counts requests by name."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self._changed = asyncio.Event()

    async def __call__(self, request: Request) -> Response:
        """Respond to one request."""
        name = request.operation
        self.sent[name] += 1
        self._changed.set()
        await asyncio.sleep(0)
        if name == "other":
            return Response(200, {}, b"")
        return Response(429, {"Retry-After": "0" if self.sent[name] <= FIRST else "50"}, b"")

    async def until_sent(self, name: str, count: int) -> None:
        """Wait until *n* requests to an endpoint have arrived."""
        async with asyncio.timeout(60):
            while self.sent[name] < count:
                self._changed.clear()
                await self._changed.wait()


def items(endpoints: list[Endpoint[bytes]]) -> list[Operation[bytes]]:
    """Return a call of each endpoint; all are different."""
    return [each(parameters={"n": n}) for n, each in enumerate(endpoints)]


async def test_items_that_wait_for_an_endpoint_leave_the_workers_to_others() -> None:
    """A thousand items wait for the throttled endpoint, and those behind them are sent."""
    api = Api()
    client = AdaptyClient(KEY, transport=api)
    run = client.bulk(items([OWN, OTHER] * 50 + [OWN] * 1000 + [OTHER] * 200))
    ended = asyncio.create_task(run)
    await api.until_sent("other", 250)
    run.stop()
    report = await ended

    assert report.done == 250
    assert report.not_sent > 900
    assert api.sent["own"] < 300


async def test_a_later_run_leaves_its_workers_to_others_as_well() -> None:
    """The limit of the endpoint is known from its start, and one item for another one is enough."""
    api = Api()
    client = AdaptyClient(KEY, transport=api)
    async with client.bulk(items([OWN, OTHER] * 50)) as first:
        await api.until_sent("other", 50)
        first.stop()
    api.sent.clear()
    run = client.bulk(items([OTHER] + [OWN] * 1000 + [OTHER] * 200))
    ended = asyncio.create_task(run)
    await api.until_sent("other", 201)
    run.stop()

    assert (await ended).done == 201


async def test_a_run_for_one_endpoint_alone_reads_no_further() -> None:
    """If nothing else of a run could be sent, more workers would only wait, too."""
    read = 0

    def counted() -> Iterator[Operation[bytes]]:
        nonlocal read
        for read, item in enumerate(items([OWN] * 5000), 1):  # noqa: B007  the test reads it
            yield item

    api = Api()
    client = AdaptyClient(KEY, transport=api)
    async with client.bulk(items([OWN, OTHER] * 50)) as first:
        await api.until_sent("other", 50)
        first.stop()
    async with client.bulk(counted()) as run:
        while not read:  # noqa: ASYNC110  reading has no event
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        run.stop()
    assert 0 < read <= 256
