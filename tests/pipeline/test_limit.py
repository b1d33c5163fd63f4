"""Every attempt passes the gate, holds one of the loop's connections, and reports how it ended."""

from __future__ import annotations

import asyncio
import math

import pytest

from adapty_async._api.operation import CallState, Request, Response
from adapty_async._flow.bucket_limiter import LimiterRegistry
from adapty_async._flow.concurrency_limit import ConcurrencyLimit
from adapty_async._flow.rate_limiter import FixedRateLimiter
from adapty_async._flow.run_limits import RunLimits
from adapty_async._flow.semaphore import PrioritySemaphore
from adapty_async._pipeline.limit import limit
from adapty_async._runtime.clock import Timing
from adapty_async._runtime.loop_local import LoopLocal
from adapty_async.errors import (
    AdaptyError,
    CircuitOpenError,
    DeadlineError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
)
from adapty_async.testing import FakeClock, FakeTransport, Reply
from tests._support import a_request, begin_at, loop_turns

REPLY: Reply = (200, {}, b"")
KINDS = pytest.mark.parametrize("background", [False, True], ids=["single", "background"])


def slots(count: int = 100) -> LoopLocal[PrioritySemaphore]:
    """Return so many connections per event loop."""
    return LoopLocal(lambda: PrioritySemaphore(count))


def gates(clock: FakeClock) -> LimiterRegistry:
    """Return gates without a pace of the client's."""
    return LimiterRegistry(Timing(clock, clock.sleep, lambda low, high: high))


class Door:
    """A `Send` that answers when it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.inside = 0

    async def __call__(self, request: Request) -> Response:
        """Count the request and wait."""
        self.inside += 1
        await self.opened.wait()
        return Response(200, {}, b"")


async def settle() -> None:
    """Let every task run until it waits."""
    await loop_turns(10)


async def test_the_clock_of_a_call_starts_with_its_first_turn() -> None:
    """A request without a deadline waits in the queue at no charge, and keeps its deadline then."""
    clock = FakeClock(100.0)
    request = a_request(total_timeout=60.0)
    send = limit(FakeTransport([REPLY] * 2), slots(), gates(clock), clock)

    assert request.state.deadline == math.inf
    await send(request)
    assert request.state.deadline == 160.0
    clock.now += 10.0
    await send(request)
    assert request.state.deadline == 160.0


@KINDS
async def test_nothing_is_sent_after_the_deadline(*, background: bool) -> None:
    """A call whose time is over is not sent, even if a connection is free, and takes nothing."""
    clock = FakeClock(100.0)
    transport = FakeTransport([REPLY])
    places, passed = slots(1), gates(clock)
    capacity = ConcurrencyLimit(4, clock)
    run = RunLimits(concurrency=capacity) if background else None
    send = limit(transport, places, passed, clock, run)

    with pytest.raises(DeadlineError, match="no time left to wait for a turn"):
        await send(a_request(state=CallState(deadline=100.0), low_priority=background))

    assert (transport.requests, places.get().available, capacity.in_flight) == ([], 1, 0)
    assert passed.get("test").requests == 0


@KINDS
async def test_no_more_requests_are_in_flight_than_there_are_connections(
    *, background: bool
) -> None:
    """The third request waits until one of two connections is free."""
    door = Door()
    clock = FakeClock()
    send = limit(door, slots(2), gates(clock), clock, RunLimits() if background else None)
    tasks = [asyncio.ensure_future(send(a_request(low_priority=background))) for _ in range(3)]

    await settle()
    assert door.inside == 2
    door.opened.set()
    await asyncio.gather(*tasks)
    assert door.inside == 3


async def test_a_runs_capacity_hears_of_its_items_and_of_no_single_call() -> None:
    """It counts what is in flight, and not what waits for a connection."""
    door = Door()
    clock = FakeClock()
    passed, places = gates(clock), slots(3)
    capacity = ConcurrencyLimit(8, clock)
    send = limit(door, places, passed, clock, RunLimits(concurrency=capacity))
    tasks = [asyncio.ensure_future(limit(door, places, passed, clock)(a_request()))]
    await settle()
    for _ in range(4):
        clock.now += 1.0  # so that nobody waits for the pace
        tasks.append(asyncio.ensure_future(send(a_request(low_priority=True))))
        await settle()
    assert (door.inside, capacity.in_flight) == (3, 2)
    door.opened.set()
    await asyncio.gather(*tasks)

    assert (door.inside, capacity.in_flight) == (5, 0)


@pytest.mark.parametrize("seconds", [-1.0, 0.0], ids=["passed", "now"])
async def test_a_connection_that_is_not_free_in_time_is_a_deadline(seconds: float) -> None:
    """A call whose time ends while it waits for a connection ends unsent."""
    door = Door()
    clock = FakeClock(100.0)
    places = slots(1)
    send = limit(door, places, gates(clock), clock)
    first = asyncio.ensure_future(send(a_request()))
    await settle()

    with pytest.raises(DeadlineError, match=r"^no connection became free .*, operation test.call$"):
        await send(a_request(state=CallState(deadline=100.0 + seconds)))
    door.opened.set()
    await first
    assert (door.inside, places.get().available) == (1, 1)


async def test_a_connection_that_becomes_free_in_time_is_taken() -> None:
    """A call with time left waits for a connection and is sent."""
    door = Door()
    clock = FakeClock(100.0)
    send = limit(door, slots(1), gates(clock), clock)
    tasks = [
        asyncio.ensure_future(send(a_request(state=CallState(deadline=130.0)))) for _ in range(2)
    ]

    await settle()
    assert door.inside == 1
    door.opened.set()
    await asyncio.gather(*tasks)
    assert door.inside == 2


@KINDS
async def test_a_cancelled_caller_gives_its_place_back(*, background: bool) -> None:
    """Cancelling what waits, or what is in flight, leaves every place free."""
    door = Door()
    clock = FakeClock()
    places, passed = slots(1), gates(clock)
    capacity = ConcurrencyLimit(4, clock)
    run = RunLimits(concurrency=capacity) if background else None
    send = limit(door, places, passed, clock, run)
    tasks = [asyncio.ensure_future(send(a_request(low_priority=background))) for _ in range(3)]
    await settle()

    for task in reversed(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (places.get().available, capacity.in_flight) == (1, 0)
    assert passed.get("test").in_flight == 0
    door.opened.set()
    assert (await send(a_request(low_priority=background))).status == 200


@pytest.mark.parametrize(
    "error",
    [ServerError("status 500", status=500), AdaptyError("not sent"), AssertionError("a bug")],
    ids=lambda error: type(error).__name__,
)
@KINDS
async def test_a_failed_request_gives_its_place_back(error: Exception, *, background: bool) -> None:
    """Whatever an attempt ends with, its places are free for the next one."""
    clock = FakeClock()
    places, passed, capacity = slots(1), gates(clock), ConcurrencyLimit(1, clock)
    run = RunLimits(concurrency=capacity) if background else None
    send = limit(FakeTransport([error, REPLY]), places, passed, clock, run)

    with pytest.raises(type(error)):
        await send(a_request(low_priority=background))
    assert (places.get().available, capacity.in_flight) == (1, 0)
    assert passed.get("test").in_flight == 0
    assert (await send(a_request(low_priority=background))).status == 200


@pytest.mark.parametrize("way", [asyncio.CancelledError(), AssertionError("a bug")], ids=repr)
async def test_an_attempt_without_an_answer_says_nothing_of_the_service(
    way: BaseException,
) -> None:
    """One that was cancelled, or broke down, neither ends an outage nor speeds a run up."""
    clock = FakeClock()
    passed = gates(clock)
    gate = passed.get("test")
    down: list[Reply] = [ServerError("status 503", status=503)] * 20
    send = limit(FakeTransport([*down, way]), slots(), passed, clock)
    for _ in down:
        with pytest.raises(ServerError):
            await send(a_request())
    clock.now += gate.breaker.delay()
    since, rate = gate.breaker.since, gate.adaptive.rate
    assert since is not None

    with pytest.raises(type(way)):
        await send(a_request())
    assert (gate.breaker.since, gate.adaptive.rate) == (since, rate)
    assert (gate.failed, gate.in_flight) == (20, 0)


@KINDS
async def test_what_a_run_has_no_pace_for_goes_by_bucket(*, background: bool) -> None:
    """Requests to two buckets are counted apart."""
    clock = FakeClock()
    passed = gates(clock)
    run = RunLimits() if background else None
    send = limit(FakeTransport([REPLY] * 3), slots(), passed, clock, run)
    for bucket in ("a", "b", "b"):
        await send(a_request(bucket=bucket, low_priority=background))

    assert {bucket: each.requests for bucket, each in passed.statistics().items()} == {
        "a": 1,
        "b": 2,
    }


async def test_an_item_is_not_charged_for_its_wait_before_a_repeat() -> None:
    """Its deadline moves by as much; one with time left that need not wait keeps it."""
    door = Door()
    clock = FakeClock(100.0)
    send = limit(door, slots(1), gates(clock), clock, RunLimits())
    requests = [a_request(state=CallState(deadline=130.0), low_priority=True) for _ in range(2)]
    tasks = [asyncio.ensure_future(send(request)) for request in requests]
    await settle()
    clock.now += 50.0
    door.opened.set()
    await asyncio.gather(*tasks)

    assert [request.state.deadline for request in requests] == [130.0, 180.0]


async def test_a_run_ends_by_a_pause_that_is_too_long() -> None:
    """An item that waits and one that comes are told, each with its call."""
    opened = asyncio.Event()
    throttled = RateLimitError("status 429", status=429)
    throttled.retry_after = 1000.0

    async def refuse(request: Request) -> Response:
        await opened.wait()
        raise throttled

    clock = FakeClock()
    send = limit(refuse, slots(1), gates(clock), clock, RunLimits(max_outage=900.0))
    first, second = [asyncio.ensure_future(send(a_request(low_priority=True))) for _ in range(2)]
    await settle()
    opened.set()

    with pytest.raises(RateLimitError):
        await first
    for late in (second, send(a_request(low_priority=True))):
        with pytest.raises(CircuitOpenError, match=r"than 900 s, .*, operation test.call$"):
            await late


async def test_a_rate_that_was_given_and_refused_is_where_the_search_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The gate hears which run's item was refused."""
    begin_at(monkeypatch, 200.0, lowest=1.0)
    clock = FakeClock()
    passed = gates(clock)
    transport = FakeTransport([RateLimitError("status 429", status=429)])
    run = RunLimits(rate_limiter=FixedRateLimiter(10.0, None, clock))
    with pytest.raises(RateLimitError):
        await limit(transport, slots(), passed, clock, run)(a_request(low_priority=True))

    assert passed.get("test").adaptive.rate <= 10.0


async def test_a_runs_capacity_hears_how_its_items_ended() -> None:
    """
    An answer at once is no slow one, however late it comes; none in time halves what is in flight.
    """
    clock = FakeClock(100.0)
    capacity = ConcurrencyLimit(256, clock)
    replies: list[Reply] = [REPLY, REPLY, RequestTimeoutError("no answer")]
    send = limit(
        FakeTransport(replies), slots(), gates(clock), clock, RunLimits(concurrency=capacity)
    )
    await send(a_request(low_priority=True))
    clock.now += 5000.0
    await send(a_request(low_priority=True))
    assert capacity.limit == 64
    with pytest.raises(RequestTimeoutError):
        await send(a_request(low_priority=True))

    assert capacity.limit == 32


async def test_a_runs_capacity_hears_whether_others_wait() -> None:
    """It grows when all that are wanted are in flight, but not when more would only wait."""
    for connections, grown in ((64, 64), (100, 80)):
        door = Door()
        clock = FakeClock()
        capacity = ConcurrencyLimit(256, clock)
        run = RunLimits(concurrency=capacity)
        send = limit(door, slots(connections), gates(clock), clock, run)
        tasks = [asyncio.ensure_future(send(a_request(low_priority=True))) for _ in range(65)]
        await settle()
        assert capacity.in_flight == min(65, connections)
        door.opened.set()
        await asyncio.gather(*tasks)
        assert (capacity.in_flight, capacity.limit) == (0, grown)


def test_single_calls_of_several_loops_have_connections_of_their_own() -> None:
    """What a loop has of a client is its own."""
    clock = FakeClock()
    places = slots(1)
    free: list[int] = []

    async def look(request: Request) -> Response:
        free.append(places.get().available)
        return Response(200, {}, b"")

    send = limit(look, places, gates(clock), clock)

    async def call() -> None:
        await send(a_request())
        free.append(places.get().available)

    for _ in range(2):
        asyncio.run(call())
    assert free == [0, 1, 0, 1]
