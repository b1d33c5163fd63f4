"""
What a client says it is doing.
"""

from __future__ import annotations

import asyncio

from adapty_async import AdaptyClient, Limits
from adapty_async._operation import Request, Response
from adapty_async.statistics import CircuitState, Statistics


def test_a_client_that_did_nothing_has_nothing_to_tell() -> None:
    """
    All tokens are there, and no bucket is known.
    """
    now = AdaptyClient("key").statistics()

    assert now == Statistics(budget=500, buckets={})
    assert (now.rate, now.concurrency, now.paused_for) == (0.0, 0, 0.0)


async def test_statistics_say_what_is_in_flight_and_what_came_of_the_rest() -> None:
    """
    Requests, failures and pauses are counted by what the server counts apart.
    """
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
    waiting.cancel()
    await asyncio.wait({waiting})
