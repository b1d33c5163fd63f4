"""Every attempt acquires a permit and a connection of its loop, and reports its result."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from adapty_async._api.call import CallState, Request, Response
from adapty_async._flow.concurrency_limit import ConcurrencyLimit
from adapty_async._flow.limits import LimiterRegistry, RunLimits, remaining_patience
from adapty_async._flow.queues import ConnectionSemaphore
from adapty_async._flow.rate_limiter import FixedRateLimiter
from adapty_async._pipeline.layers import LimitLayer, check
from adapty_async._runtime.loop import LoopLocal, Timing
from adapty_async.errors import (
    AdaptyError,
    CircuitOpenError,
    DeadlineError,
    JournalError,
    NotFoundError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
)
from adapty_async.testing import FakeClock, FakeTransport, Reply
from tests._support import a_request, begin_at, loop_turns, unwritten

REPLY: Reply = (200, {}, b"")
KINDS = pytest.mark.parametrize("low_priority", [False, True], ids=["single", "item"])


def connections(count: int = 100) -> LoopLocal[ConnectionSemaphore]:
    """Return a number of connections per event loop."""
    return LoopLocal(lambda: ConnectionSemaphore(count, time.monotonic))


def limiters(clock: FakeClock) -> LimiterRegistry:
    """Return bucket limiters without a rate of the client's."""
    return LimiterRegistry(Timing(clock, clock.sleep, lambda low, high: high))


class Blocking:
    """A `Layer` that returns a response after it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.inside = 0

    async def __call__(self, request: Request, state: CallState) -> Response:
        """Count the request and wait."""
        self.inside += 1
        await self.opened.wait()
        return Response(200, {}, b"")


async def settle() -> None:
    """Let every task run until it waits."""
    await loop_turns(10)


@KINDS
async def test_the_clock_of_a_call_starts_with_its_first_turn(*, low_priority: bool) -> None:
    """A call without a deadline gets one, and keeps it for its retries."""
    clock = FakeClock(100.0)
    request, state = a_request(total_timeout=60.0, low_priority=low_priority), CallState()
    transport = unwritten(FakeTransport([REPLY] * 2))
    run = RunLimits() if low_priority else None
    send = LimitLayer(transport, connections(), limiters(clock), clock, run).send

    assert state.deadline == math.inf
    await send(request, state)
    assert state.deadline == 160.0
    clock.now += 10.0
    await send(request, state)
    assert state.deadline == 160.0


@pytest.mark.parametrize(
    ("low_priority", "deadline"), [(False, 160.0), (True, 190.0)], ids=["single", "item"]
)
async def test_only_a_single_call_is_charged_for_its_wait(
    deadline: float, *, low_priority: bool
) -> None:
    """The deadline of a single call is set on arrival, that of an item with its first permit."""
    blocking = Blocking()
    clock = FakeClock(100.0)
    run = RunLimits() if low_priority else None
    send = LimitLayer(blocking, connections(1), limiters(clock), clock, run).send
    states = [CallState(), CallState()]
    request = a_request(total_timeout=60.0, low_priority=low_priority)
    tasks = [asyncio.ensure_future(send(request, state)) for state in states]
    await settle()
    clock.now += 30.0
    blocking.opened.set()
    await asyncio.gather(*tasks)

    assert [state.deadline for state in states] == [160.0, deadline]


@pytest.mark.parametrize(
    ("low_priority", "throttled", "deadline"),
    [
        pytest.param(True, 3, math.inf, id="item"),
        pytest.param(True, 4, 160.0, id="item throttled too often"),
        pytest.param(False, 1, 160.0, id="single"),
    ],
)
async def test_a_throttled_item_returns_to_the_queue_without_a_deadline(
    throttled: int, deadline: float, *, low_priority: bool
) -> None:
    """Its next permit sets a new deadline, three times at most."""
    clock = FakeClock(100.0)
    transport = unwritten(FakeTransport([RateLimitError("status 429", status=429)]))
    run = RunLimits() if low_priority else None
    send = LimitLayer(transport, connections(), limiters(clock), clock, run).send
    state = CallState(throttled=throttled)

    with pytest.raises(RateLimitError, match="status 429"):
        await send(a_request(total_timeout=60.0, low_priority=low_priority), state)
    assert state.deadline == deadline


@KINDS
async def test_nothing_is_sent_after_the_deadline(*, low_priority: bool) -> None:
    """A call past its deadline is not sent, even if a connection is free, and acquires nothing."""
    clock = FakeClock(100.0)
    transport = FakeTransport([REPLY])
    permits, passed = connections(1), limiters(clock)
    concurrency = ConcurrencyLimit(4, clock)
    run = RunLimits(concurrency=concurrency) if low_priority else None
    send = LimitLayer(unwritten(transport), permits, passed, clock, run).send

    with pytest.raises(DeadlineError, match="no time left to wait for a permit"):
        await send(a_request(low_priority=low_priority), CallState(deadline=100.0))

    assert (transport.requests, permits.get().available, concurrency.in_flight) == ([], 1, 0)
    assert passed.get("test").requests == 0


@KINDS
async def test_no_more_requests_are_in_flight_than_there_are_connections(
    *, low_priority: bool
) -> None:
    """The third request waits until one of two connections is free."""
    blocking = Blocking()
    clock = FakeClock()
    send = LimitLayer(
        blocking, connections(2), limiters(clock), clock, RunLimits() if low_priority else None
    ).send
    tasks = [
        asyncio.ensure_future(send(a_request(low_priority=low_priority), CallState()))
        for _ in range(3)
    ]

    await settle()
    assert blocking.inside == 2
    blocking.opened.set()
    await asyncio.gather(*tasks)
    assert blocking.inside == 3


async def test_a_runs_concurrency_limit_counts_its_items_and_no_single_call() -> None:
    """The limit counts requests in flight, and none that wait for a connection."""
    blocking = Blocking()
    clock = FakeClock()
    passed, permits = limiters(clock), connections(3)
    concurrency = ConcurrencyLimit(8, clock)
    send = LimitLayer(blocking, permits, passed, clock, RunLimits(concurrency=concurrency)).send
    tasks = [
        asyncio.ensure_future(
            LimitLayer(blocking, permits, passed, clock).send(a_request(), CallState())
        )
    ]
    await settle()
    for _ in range(4):
        clock.now += 1.0  # so that no request waits for the rate
        tasks.append(asyncio.ensure_future(send(a_request(low_priority=True), CallState())))
        await settle()
    assert (blocking.inside, concurrency.in_flight) == (3, 2)
    blocking.opened.set()
    await asyncio.gather(*tasks)

    assert (blocking.inside, concurrency.in_flight) == (5, 0)


@pytest.mark.parametrize("seconds", [-1.0, 0.0], ids=["passed", "now"])
async def test_a_connection_that_is_not_free_in_time_is_a_deadline(seconds: float) -> None:
    """A call whose deadline passes during its wait for a connection ends unsent."""
    blocking = Blocking()
    clock = FakeClock(100.0)
    permits = connections(1)
    send = LimitLayer(blocking, permits, limiters(clock), clock).send
    first = asyncio.ensure_future(send(a_request(), CallState()))
    await settle()

    with pytest.raises(DeadlineError, match=r"^no connection became free .*, operation test.call$"):
        await send(a_request(), CallState(deadline=100.0 + seconds))
    blocking.opened.set()
    await first
    assert (blocking.inside, permits.get().available) == (1, 1)


async def test_a_connection_that_is_released_in_time_is_acquired() -> None:
    """A call with time left waits for a connection and is sent."""
    blocking = Blocking()
    clock = FakeClock(100.0)
    send = LimitLayer(blocking, connections(1), limiters(clock), clock).send
    tasks = [asyncio.ensure_future(send(a_request(), CallState(deadline=130.0))) for _ in range(2)]

    await settle()
    assert blocking.inside == 1
    blocking.opened.set()
    await asyncio.gather(*tasks)
    assert blocking.inside == 2


@KINDS
async def test_a_cancelled_caller_gives_its_permit_back(*, low_priority: bool) -> None:
    """The cancellation of a waiting call, or of one in flight, releases its permit."""
    blocking = Blocking()
    clock = FakeClock()
    permits, passed = connections(1), limiters(clock)
    concurrency = ConcurrencyLimit(4, clock)
    run = RunLimits(concurrency=concurrency) if low_priority else None
    send = LimitLayer(blocking, permits, passed, clock, run).send
    tasks = [
        asyncio.ensure_future(send(a_request(low_priority=low_priority), CallState()))
        for _ in range(3)
    ]
    await settle()

    for task in reversed(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (permits.get().available, concurrency.in_flight) == (1, 0)
    assert passed.get("test").in_flight == 0
    blocking.opened.set()
    assert (await send(a_request(low_priority=low_priority), CallState())).status == 200


@pytest.mark.parametrize(
    "error",
    [ServerError("status 500", status=500), AdaptyError("not sent"), AssertionError("a bug")],
    ids=lambda error: type(error).__name__,
)
@KINDS
async def test_a_failed_request_gives_its_permit_back(
    error: Exception, *, low_priority: bool
) -> None:
    """An attempt releases its permits, whatever its result is."""
    clock = FakeClock()
    permits, passed, concurrency = connections(1), limiters(clock), ConcurrencyLimit(1, clock)
    run = RunLimits(concurrency=concurrency) if low_priority else None
    send = LimitLayer(unwritten(FakeTransport([error, REPLY])), permits, passed, clock, run).send

    with pytest.raises(type(error)):
        await send(a_request(low_priority=low_priority), CallState())
    assert (permits.get().available, concurrency.in_flight) == (1, 0)
    assert passed.get("test").in_flight == 0
    assert (await send(a_request(low_priority=low_priority), CallState())).status == 200


@pytest.mark.parametrize("way", [asyncio.CancelledError(), AssertionError("a bug")], ids=repr)
async def test_an_attempt_without_a_response_says_nothing_of_the_service(
    way: BaseException,
) -> None:
    """A cancelled or broken attempt neither ends an outage nor raises the rate of a run."""
    clock = FakeClock()
    passed = limiters(clock)
    limiter = passed.get("test")
    down: list[Reply] = [ServerError("status 503", status=503)] * 20
    send = LimitLayer(unwritten(FakeTransport([*down, way])), connections(), passed, clock).send
    for _ in down:
        with pytest.raises(ServerError):
            await send(a_request(), CallState())
    clock.now += limiter.breaker.delay()
    since, rate = limiter.breaker.since, limiter.rate_source.rate
    assert since is not None

    with pytest.raises(type(way)):
        await send(a_request(), CallState())
    assert (limiter.breaker.since, limiter.rate_source.rate) == (since, rate)
    assert (limiter.failed, limiter.in_flight) == (20, 0)


@KINDS
async def test_what_a_run_has_no_rate_for_goes_by_bucket(*, low_priority: bool) -> None:
    """Requests to two buckets are counted separately."""
    clock = FakeClock()
    passed = limiters(clock)
    run = RunLimits() if low_priority else None
    send = LimitLayer(unwritten(FakeTransport([REPLY] * 3)), connections(), passed, clock, run).send
    for bucket in ("a", "b", "b"):
        await send(a_request(bucket=bucket, low_priority=low_priority), CallState())

    assert {bucket: each.requests for bucket, each in passed.statistics().items()} == {
        "a": 1,
        "b": 2,
    }


async def test_an_item_is_not_charged_for_its_wait_before_a_retry() -> None:
    """Its deadline moves by the wait; an item that need not wait keeps its deadline."""
    blocking = Blocking()
    clock = FakeClock(100.0)
    send = LimitLayer(blocking, connections(1), limiters(clock), clock, RunLimits()).send
    states = [CallState(deadline=130.0), CallState(deadline=130.0)]
    tasks = [asyncio.ensure_future(send(a_request(low_priority=True), state)) for state in states]
    await settle()
    clock.now += 50.0
    blocking.opened.set()
    await asyncio.gather(*tasks)

    assert [state.deadline for state in states] == [130.0, 180.0]


class Stalled:
    """
    The write-ahead entries of two items, which are stored when the test says so.

    Attributes:
        states: their call states.
    """

    def __init__(self) -> None:
        self._stored = asyncio.Event()
        self.states = [CallState(on_first_send=self._begin) for _ in range(2)]

    async def _begin(self) -> None:
        await self._stored.wait()

    def store(self) -> None:
        """Store both entries."""
        self._stored.set()


@pytest.mark.parametrize(
    "concurrency", [None, ConcurrencyLimit(4, FakeClock())], ids=["concurrency", "adaptive"]
)
async def test_a_disk_that_hangs_is_no_outage(concurrency: ConcurrencyLimit | None) -> None:
    """The wait for a write-ahead entry neither counts as an outage nor uses up a deadline."""
    clock, stalled = FakeClock(100.0), Stalled()
    run = RunLimits(max_outage=20.0, concurrency=concurrency)
    passed, transport = limiters(clock), unwritten(FakeTransport([REPLY] * 2))
    send = LimitLayer(transport, connections(), passed, clock, run).send
    request = a_request(total_timeout=60.0, low_priority=True)
    tasks = [asyncio.ensure_future(send(request, state)) for state in stalled.states]
    await settle()
    clock.now += 5000.0
    waiting = remaining_patience(passed, run)
    stalled.store()
    await asyncio.gather(*tasks)

    assert waiting == 20.0
    assert [state.deadline for state in stalled.states] == [5160.0] * 2
    assert passed.get("test").in_flight == 0
    assert concurrency is None or (concurrency.in_flight, concurrency.limit) == (0, 4)


async def test_a_wait_for_the_disk_ends_no_outage() -> None:
    """It is no success of the service either, and is not charged to an item with a deadline."""
    clock, stalled, blocking = FakeClock(100.0), Stalled(), Blocking()
    run, passed = RunLimits(max_outage=20.0), limiters(clock)
    send = LimitLayer(blocking, connections(), passed, clock, run).send
    request, state = a_request(low_priority=True), stalled.states[0]
    state.deadline = 130.0
    tasks = [asyncio.ensure_future(send(request, CallState()))]
    await settle()
    clock.now += 5.0
    tasks.append(asyncio.ensure_future(send(request, state)))
    await settle()
    clock.now += 0.25
    stalled.store()
    await settle()
    patience = remaining_patience(passed, run)
    blocking.opened.set()
    await asyncio.gather(*tasks)

    assert patience == 14.75
    assert state.deadline == 130.25


async def test_an_error_of_a_working_service_ends_an_outage() -> None:
    """A run of requests about profiles that do not exist is no outage."""
    clock = FakeClock(100.0)
    run, passed = RunLimits(max_outage=20.0), limiters(clock)

    async def respond(_: Request, __: CallState) -> Response:
        clock.now += 5.0
        error = NotFoundError("status 404", status=404)
        error.recognised = True
        raise error

    send = LimitLayer(respond, connections(), passed, clock, run).send
    with pytest.raises(NotFoundError):
        await send(a_request(low_priority=True), CallState())

    assert remaining_patience(passed, run) == 20.0


async def test_an_entry_that_cannot_be_stored_gives_its_permit_back() -> None:
    """The connection is free again for single calls, and nothing counts as in flight."""
    clock, permits = FakeClock(100.0), connections(1)
    passed, concurrency = limiters(clock), ConcurrencyLimit(4, clock)
    transport = FakeTransport()
    send = LimitLayer(
        unwritten(transport), permits, passed, clock, RunLimits(concurrency=concurrency)
    ).send

    async def fail() -> None:
        raise JournalError("no space left on the disk")

    with pytest.raises(JournalError):
        await send(a_request(low_priority=True), CallState(on_first_send=fail))

    assert transport.requests == []
    assert (permits.get().available, concurrency.in_flight) == (1, 0)
    assert passed.get("test").in_flight == 0


@pytest.mark.parametrize(("seconds", "wait"), [(0.5, 0.0), (0.6, 1.4)], ids=["soon", "late"])
async def test_items_that_waited_for_the_disk_are_not_sent_at_once(
    seconds: float, wait: float
) -> None:
    """After a long wait for its write-ahead entry, an item needs another permit."""
    clock, stalled = FakeClock(100.0), Stalled()
    run = RunLimits(rate_limiter=FixedRateLimiter(1.0, 2, clock))
    transport = unwritten(FakeTransport([REPLY] * 2))
    send = LimitLayer(transport, connections(), limiters(clock), clock, run).send
    tasks = [
        asyncio.ensure_future(send(a_request(low_priority=True), state)) for state in stalled.states
    ]
    await settle()
    clock.now += seconds
    stalled.store()
    await asyncio.gather(*tasks)

    assert sum(clock.sleeps) == pytest.approx(wait)


async def test_a_rate_that_others_use_up_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """An item waits for the rate that single calls use, for longer than `max_outage`."""
    begin_at(monkeypatch, 200.0, min_rate=1.0)

    class Busy(FakeClock):
        async def sleep(self, seconds: float) -> None:
            if self.now < 150.0:  # a single call is sent first
                source.count()
            await super().sleep(seconds)

    clock = Busy(100.0)
    passed = limiters(clock)
    source = passed.get("test").rate_source
    source.expect(1.0)
    source.count()
    transport = unwritten(FakeTransport([REPLY]))
    send = LimitLayer(transport, connections(), passed, clock, RunLimits(max_outage=20.0)).send
    await send(a_request(low_priority=True), CallState())

    assert clock.now > 150.0


async def test_a_run_that_stops_appends_no_further_entry() -> None:
    """An item whose run was stopped by its own callback is not recorded as started."""
    clock, run = FakeClock(), RunLimits()
    transport = FakeTransport([REPLY])
    checked = check(unwritten(transport), run.stopping)
    send = LimitLayer(checked, connections(), limiters(clock), clock, run).send
    run.stopping.is_set = True
    with pytest.raises(asyncio.CancelledError):
        await send(a_request(low_priority=True), CallState(on_first_send=pytest.fail))

    assert transport.requests == []


async def test_a_run_ends_by_a_pause_that_is_too_long() -> None:
    """A waiting item and a new one both raise an error that names their call."""
    opened = asyncio.Event()
    throttled = RateLimitError("status 429", status=429)
    throttled.retry_after = 1000.0

    async def refuse(request: Request, state: CallState) -> Response:
        await opened.wait()
        raise throttled

    clock = FakeClock()
    send = LimitLayer(
        refuse, connections(1), limiters(clock), clock, RunLimits(max_outage=900.0)
    ).send
    first, second = [
        asyncio.ensure_future(send(a_request(low_priority=True), CallState())) for _ in range(2)
    ]
    await settle()
    opened.set()

    with pytest.raises(RateLimitError):
        await first
    for late in (second, send(a_request(low_priority=True), CallState())):
        with pytest.raises(CircuitOpenError, match=r"than 900 s, .*, operation test.call$"):
            await late


async def test_the_search_begins_at_a_configured_rate_that_is_throttled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The limiter records the run of the throttled item."""
    begin_at(monkeypatch, 200.0, min_rate=1.0)
    clock = FakeClock()
    passed = limiters(clock)
    transport = unwritten(FakeTransport([RateLimitError("status 429", status=429)]))
    run = RunLimits(rate_limiter=FixedRateLimiter(10.0, None, clock))
    send = LimitLayer(transport, connections(), passed, clock, run).send
    with pytest.raises(RateLimitError):
        await send(a_request(low_priority=True), CallState())

    assert passed.get("test").rate_source.rate <= 10.0


async def test_a_runs_concurrency_limit_records_results() -> None:
    """An immediate response after a long wait is not slow; a timeout halves the limit."""
    clock = FakeClock(100.0)
    concurrency = ConcurrencyLimit(256, clock)
    replies: list[Reply] = [REPLY, REPLY, RequestTimeoutError("no response")]
    send = LimitLayer(
        unwritten(FakeTransport(replies)),
        connections(),
        limiters(clock),
        clock,
        RunLimits(concurrency=concurrency),
    ).send
    await send(a_request(low_priority=True), CallState())
    clock.now += 5000.0
    await send(a_request(low_priority=True), CallState())
    assert concurrency.limit == 64
    with pytest.raises(RequestTimeoutError):
        await send(a_request(low_priority=True), CallState())

    assert concurrency.limit == 32


async def test_a_runs_concurrency_limit_regards_waiters() -> None:
    """The limit grows if all permitted requests are in flight, but not if others wait already."""
    for size, grown in ((64, 64), (100, 80)):
        blocking = Blocking()
        clock = FakeClock()
        concurrency = ConcurrencyLimit(256, clock)
        run = RunLimits(concurrency=concurrency)
        send = LimitLayer(blocking, connections(size), limiters(clock), clock, run).send
        tasks = [
            asyncio.ensure_future(send(a_request(low_priority=True), CallState()))
            for _ in range(65)
        ]
        await settle()
        assert concurrency.in_flight == min(65, size)
        blocking.opened.set()
        await asyncio.gather(*tasks)
        assert (concurrency.in_flight, concurrency.limit) == (0, grown)


def test_single_calls_of_several_loops_have_connections_of_their_own() -> None:
    """Each loop has its own connections of a client."""
    clock = FakeClock()
    permits = connections(1)
    free: list[int] = []

    async def look(request: Request, state: CallState) -> Response:
        free.append(permits.get().available)
        return Response(200, {}, b"")

    send = LimitLayer(look, permits, limiters(clock), clock).send

    async def call() -> None:
        await send(a_request(), CallState())
        free.append(permits.get().available)

    for _ in range(2):
        asyncio.run(call())
    assert free == [0, 1, 0, 1]


def test_a_layer_shows_whose_requests_it_limits() -> None:
    """Its repr says whether it has the limiters of single calls or of a run."""
    clock = FakeClock()
    transport = unwritten(FakeTransport([]))
    run = RunLimits(max_outage=20.0)

    calls = LimitLayer(transport, connections(), limiters(clock), clock)
    items = LimitLayer(transport, connections(), limiters(clock), clock, run)
    assert repr(calls) == "LimitLayer(calls)"
    assert "max_outage=20.0" in repr(items)
