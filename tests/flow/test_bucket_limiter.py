"""The bucket limiter: pauses, rates, outages and priorities, on a fake timeline."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import threading

import pytest

from adapty_async._api.call import CallState, Request, Response
from adapty_async._flow import circuit_breaker as _outage
from adapty_async._flow import rate_state as _rate_state
from adapty_async._flow.adaptive_rate import AdaptiveRateLimiter
from adapty_async._flow.concurrency_limit import ConcurrencyLimit
from adapty_async._flow.limits import LimiterRegistry, RunLimits, remaining_patience
from adapty_async._flow.queues import ConnectionSemaphore
from adapty_async._flow.rate_limiter import FixedRateLimiter
from adapty_async._pipeline.layers import LimitLayer
from adapty_async._runtime.loop import LoopLocal, Timing
from adapty_async.errors import (
    AdaptyError,
    ApiError,
    CircuitOpenError,
    ConflictError,
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    DecodeError,
    ExportError,
    JournalError,
    NotFoundError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
)
from adapty_async.statistics import BucketStatistics, CircuitState
from adapty_async.testing import FakeClock
from tests._support import a_request, begin_at
from tests.flow.bench import BEGIN, Bench, cancel, down, settle, throttled
from tests.simulation import Bucket


@pytest.fixture(autouse=True)
def _real_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the constants that other tests shorten."""
    begin_at(monkeypatch, 20.0, min_rate=0.1)
    monkeypatch.setattr(_rate_state, "_PROBE_FIRST", 0.1)
    monkeypatch.setattr(_outage, "_SHORTEST", 1.0)


async def test_single_calls_pass_at_once() -> None:
    """Without a rate limit, a pause or an outage, no call waits."""
    bench = Bench()
    await asyncio.gather(*(bench.start("a", seconds=1.0) for _ in range(100)))

    assert bench.times("a") == [0.0] * 100
    assert bench.clock.sleeps == []


async def test_a_fixed_rate_is_held_first_come_first_served() -> None:
    """After the burst, calls are sent one interval apart in order, without the cancelled ones."""
    bench = Bench(rate=10.0, burst=2)
    tasks = {name: bench.start(name, seconds=10.0) for name in "abcdef"}
    await settle()
    await cancel(tasks.pop("c"), tasks.pop("e"))
    await bench.clock.advance(1.0)
    await asyncio.gather(*tasks.values())

    assert bench.sent == [
        ("a", 0.0),
        ("b", 0.0),
        ("d", pytest.approx(0.1)),
        ("f", pytest.approx(0.2)),
    ]
    assert bench.free == 100
    assert bench.limiters.get("v1").urgent == 0


async def test_who_comes_as_a_turn_is_due_does_not_overtake_who_waits_for_it() -> None:
    """The permit belongs to the first waiter, even if its task has not woken up yet."""
    bench = Bench(rate=10.0)
    tasks = [bench.start("first"), bench.start("second")]
    await settle()
    bench.clock.now += 0.1
    tasks.append(bench.start("third"))
    await settle()
    assert bench.times("third") == []
    await bench.clock.advance(1.0)
    await asyncio.gather(*tasks)

    assert [name for name, _ in bench.sent] == ["first", "second", "third"]


async def test_buckets_share_the_clients_rate() -> None:
    """The rate of a client covers all its requests."""
    bench = Bench(rate=10.0)
    tasks = [bench.start("a", bucket=bucket) for bucket in ("v1", "v2", "v1", "v2")]
    await bench.clock.advance(1.0)
    await asyncio.gather(*tasks)

    assert bench.times("a") == pytest.approx([0.0, 0.1, 0.2, 0.3])


async def test_a_pause_holds_every_call_of_its_bucket_and_no_other() -> None:
    """A 429 to one call pauses all requests that the server counts together."""
    bench = Bench()
    await bench.pause(30.0)
    tasks = [bench.start("held"), bench.start("other", bucket="v2")]
    await bench.clock.advance(29.9)
    assert bench.times("other") == [0.0]
    assert bench.times("held") == []
    await bench.clock.advance(0.2)
    await asyncio.gather(*tasks)

    assert bench.times("held") == pytest.approx([30.0])


async def test_after_a_pause_calls_go_spread_at_the_adaptive_rate() -> None:
    """Paused calls do not resume all at once, in whatever order they started to wait."""
    bench = Bench()
    await bench.pause(30.0)
    pace = bench.limiters.get("v1").rate_source.rate
    tasks = [bench.start(f"a{number}") for number in range(20)]
    await bench.clock.advance(40.0)
    await asyncio.gather(*tasks)
    times = [at for _, at in bench.sent[1:]]

    assert [name for name, _ in bench.sent[1:]] == [f"a{number}" for number in range(20)]
    assert times[0] == pytest.approx(30.0)
    assert all(late - early == pytest.approx(1 / pace) for early, late in itertools.pairwise(times))
    await bench.start("new")
    assert bench.times("new") == [40.0]


async def test_a_pause_that_begins_while_calls_wait_for_a_connection_holds_them() -> None:
    """A connection released in a pause is not used; the calls follow after it, one by one."""
    bench = Bench(connections=2, latency=1.0)
    bench.responses["first"] = [throttled(30.0)]
    first = bench.start("first")
    tasks = [bench.start(f"a{number}", seconds=60.0) for number in range(6)]
    hurried = bench.start("hurried", seconds=20.0)
    await bench.clock.advance(1.0)
    with pytest.raises(RateLimitError):
        await first
    with pytest.raises(RateLimitError, match="nothing is sent for another") as caught:
        await hurried
    assert caught.value.retry_after == pytest.approx(30.0)
    await bench.clock.advance(40.0)
    await asyncio.gather(*tasks)
    late = [at for _, at in bench.sent if at > 1.0]

    assert len(late) == 5
    assert late[0] == pytest.approx(31.0)
    assert all(early + 0.09 < later for early, later in itertools.pairwise(late))
    assert bench.free == 2


async def test_a_pause_holds_calls_that_wait_for_the_clients_rate() -> None:
    """A pause that begins while calls wait for a permit holds for them, with or without time."""
    bench = Bench(rate=1.0, latency=0.1)
    bench.responses["first"] = [throttled(30.0)]
    first = bench.start("first")
    await bench.clock.advance(0.05)
    hurried = bench.start("hurried", seconds=20.0)
    patient = [bench.start("patient", seconds=100.0) for _ in range(3)]
    await bench.clock.advance(0.1)
    with pytest.raises(RateLimitError):
        await first
    with pytest.raises(RateLimitError, match="nothing is sent for another") as caught:
        await hurried
    assert caught.value.retry_after == pytest.approx(30.0)
    await bench.clock.advance(40.0)
    await asyncio.gather(*patient)

    assert bench.times("patient") == pytest.approx([30.1, 31.1, 32.1])
    assert bench.times("hurried") == []


async def test_a_pause_does_not_use_up_the_connections() -> None:
    """Calls that wait for the end of a pause, single or of a run, hold no connection."""
    bench = Bench(connections=1)
    await bench.pause(30.0)
    waiting = [bench.start("held"), bench.start("held", RunLimits())]
    await bench.clock.advance(5.0)
    assert bench.free == 1
    await bench.start("other", bucket="v2")
    await bench.clock.advance(30.0)
    await asyncio.gather(*waiting)

    assert bench.times("other") == [5.0]
    assert len(bench.times("held")) == 2


async def test_a_probe_of_a_run_ends_a_pause_that_is_longer_than_necessary() -> None:
    """After a second one item tests a long pause; its success lets calls and items continue."""
    bench = Bench()
    await bench.pause(60.0)
    run = RunLimits()
    tasks = [*(bench.start("b", run) for _ in range(10)), bench.start("a", seconds=90.0)]
    await bench.clock.advance(0.9)
    assert bench.times("b") == []
    await bench.clock.advance(2.5)
    await asyncio.gather(*tasks)

    assert bench.times("b")[0] == pytest.approx(1.0)
    assert max(bench.times("b")) < 3.0
    assert 1.0 < bench.times("a")[0] <= 3.0


async def test_single_calls_do_not_probe_a_pause() -> None:
    """Without a bulk run, nothing is sent before the end of the pause."""
    bench = Bench()
    await bench.pause(30.0)
    call = bench.start("a")
    await bench.clock.advance(31.0)
    await call

    assert bench.times("a") == pytest.approx([30.0])


async def test_a_throttled_item_returns_soon_if_the_server_overstates_pauses() -> None:
    """Its own `Retry-After` counts up to three seconds then, and in full otherwise."""
    bench = Bench()
    limiter = bench.run_limiter(RunLimits())
    assert limiter.requeue_within == math.inf
    await bench.pause(60.0)
    item = bench.start("b", RunLimits())
    await bench.clock.advance(1.0)
    await item

    assert limiter.requeue_within == 3.0


@pytest.mark.parametrize(
    ("paused", "rate", "error"),
    [
        pytest.param(30.0, None, RateLimitError, id="pause"),
        pytest.param(30.0, 10.0, RateLimitError, id="both"),
        pytest.param(5.0, 0.1, DeadlineError, id="short pause"),
        pytest.param(0.0, 0.1, DeadlineError, id="rate"),
    ],
)
async def test_a_turn_that_would_come_too_late_is_rejected_at_once(
    paused: float, rate: float | None, error: type[AdaptyError]
) -> None:
    """If a pause or the rate leaves no time, the call ends unsent, without a wait."""
    bench = Bench(rate)
    if paused:
        await bench.pause(paused)
    else:
        await bench.start("first")
    with pytest.raises(error, match=r"(nothing is sent|no time left).*, operation late$") as caught:
        await bench.start("late", seconds=9.0)
    assert getattr(caught.value, "retry_after", 30.0) == 30.0
    assert caught.value.attempts == 0

    assert bench.times("late") == []
    assert bench.clock.sleeps == []
    assert bench.free == 100
    assert bench.limiters.get("v1").urgent == 0


async def test_the_calls_in_front_count_when_a_turn_is_rejected() -> None:
    """A call behind too many others raises an error before its permit is due."""
    bench = Bench(rate=1.0)
    tasks = [bench.start("a", seconds=60.0) for _ in range(10)]
    await settle()
    with pytest.raises(DeadlineError):
        await bench.start("late", seconds=9.5)
    tasks.append(bench.start("last", seconds=10.5))
    await bench.clock.advance(20.0)
    await asyncio.gather(*tasks)

    assert bench.times("last") == pytest.approx([10.0])
    assert bench.times("late") == []


async def test_a_burst_that_is_used_up_does_not_count_for_those_in_front() -> None:
    """They are sent one by one, and a call that would be late behind them raises at once."""
    bench = Bench(rate=1.0, burst=5)
    tasks = [bench.start("a", seconds=60.0) for _ in range(15)]
    await settle()
    late, last = bench.start("late", seconds=10.5), bench.start("last", seconds=11.5)
    await settle()
    assert (late.done(), last.done()) == (True, False)
    with pytest.raises(DeadlineError):
        await late
    await cancel(*tasks[5:], last)


async def test_a_burst_that_is_left_is_no_reason_to_refuse() -> None:
    """Calls that wait only for a connection have time enough."""
    bench = Bench(rate=1.0, burst=50, connections=1, latency=0.1)
    tasks = [bench.start("a", seconds=10.0) for _ in range(40)]
    await bench.clock.advance(5.0)
    await asyncio.gather(*tasks)

    assert len(bench.times("a")) == 40


@pytest.mark.parametrize("rate", [None, 10.0], ids=str)
async def test_a_connection_that_is_not_free_in_time_is_a_deadline(rate: float | None) -> None:
    """The deadline of a call covers its wait for a connection."""
    bench = Bench(rate, burst=3, connections=1, latency=5.0)
    first = bench.start("a")
    await settle()
    with pytest.raises(DeadlineError, match="no connection became free in time"):
        await bench.start("b", seconds=0.01)
    await bench.clock.advance(5.0)
    await first

    assert bench.times("b") == []
    assert bench.free == 1
    assert bench.limiters.get("v1").urgent == 0


async def test_who_waits_behind_another_call_is_not_held_beyond_its_deadline() -> None:
    """A call with little time does not wait for one with more time to acquire a connection."""
    bench = Bench(rate=10.0, burst=10, connections=1, latency=5.0)
    tasks = [bench.start("a"), bench.start("patient", seconds=60.0)]
    await settle()
    with pytest.raises(DeadlineError, match="no time left to wait for a permit"):
        await bench.start("hurried", seconds=0.01)
    await bench.clock.advance(20.0)
    await asyncio.gather(*tasks)

    assert bench.times("patient") == [5.0]


async def test_an_open_circuit_fails_single_calls_at_once() -> None:
    """In an outage the error of a call has the time of the next probe, and nothing is sent."""
    bench = Bench()
    await bench.break_down()
    bench.clock.now += 0.25
    with pytest.raises(CircuitOpenError, match="the circuit is open") as caught:
        await bench.start("a")

    assert caught.value.retry_after == pytest.approx(1.0)
    assert caught.value.operation == "a"
    assert bench.times("a") == []
    assert bench.limiters.get("v1").statistics().circuit is CircuitState.OPEN


async def test_one_call_is_let_through_when_it_is_time_and_success_ends_the_outage() -> None:
    """A single call is the probe; after its success all calls are sent again."""
    bench = Bench(latency=0.1)
    bench.responses["failing"] = [down() for _ in range(20)]
    failing = [bench.start("failing") for _ in range(20)]
    await bench.clock.advance(0.1)
    await asyncio.gather(*failing, return_exceptions=True)
    await bench.clock.advance(1.25)
    limiter = bench.limiters.get("v1")
    assert limiter.statistics().circuit is CircuitState.HALF_OPEN
    first, second = bench.start("a"), bench.start("a")
    await settle()
    with pytest.raises(CircuitOpenError):
        await second
    await bench.clock.advance(0.1)
    await first

    assert limiter.statistics().circuit is CircuitState.CLOSED
    third = bench.start("a")
    await bench.clock.advance(0.1)
    await third
    assert len(bench.times("a")) == 2


@pytest.mark.parametrize("rate", [None, 10.0], ids=str)
async def test_calls_that_waited_when_the_service_went_down_fail_at_once_too(
    rate: float | None,
) -> None:
    """A call that waited for a connection or a permit is not sent in an outage."""
    bench = Bench(rate, burst=30, connections=20, latency=0.1)
    bench.responses["failing"] = [down() for _ in range(20)]
    tasks = [bench.start("failing") for _ in range(20)]
    waiting = [bench.start("waiting", seconds=60.0) for _ in range(5)]
    await bench.clock.advance(0.2)
    for error in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(error, CircuitOpenError)
        assert error.retry_after > 0.0
    await asyncio.gather(*tasks, return_exceptions=True)

    assert bench.times("waiting") == []
    assert bench.free == 20
    assert bench.limiters.get("v1").urgent == 0


async def test_cancelled_waiters_leave_nothing_behind() -> None:
    """At any point of its wait, the end of a call or item releases its permits."""
    for steps in range(8):
        bench = Bench(rate=1.0, connections=2, latency=0.5)
        capacity = ConcurrencyLimit(3, bench.clock)
        run = RunLimits(rate_limiter=bench.rate_limiter(2.0), concurrency=capacity)
        tasks = [bench.start("a") for _ in range(4)] + [bench.start("b", run) for _ in range(4)]
        await settle()
        for _ in range(steps):
            await bench.clock.advance(0.3)
        done = [task for task in tasks if task.done()]
        await cancel(*(task for task in tasks if task not in done))
        limiter = bench.limiters.get("v1")

        assert (bench.free, capacity.in_flight) == (2, 0)
        assert (limiter.urgent, limiter.in_flight) == (0, 0)
        last = [bench.start("last"), bench.start("last", run)]
        await bench.clock.advance(5.0)
        await asyncio.gather(*last)


async def test_a_call_that_is_cancelled_as_its_connection_comes_gives_it_on() -> None:
    """A connection granted to a cancelled call passes to the next one."""
    bench = Bench(connections=1)
    permits = bench.connections.get()
    await permits.acquire()
    first, second = bench.start("first"), bench.start("second")
    await settle()
    permits.release()
    first.cancel()
    await second

    assert bench.sent == [("second", 0.0)]
    assert bench.free == 1


async def test_an_item_that_is_cancelled_as_its_turn_comes_gives_it_back() -> None:
    """It holds no connection then, and does not count as sent."""
    bench = Bench(connections=2)
    limiter = bench.run_limiter(RunLimits(rate_limiter=bench.rate_limiter(1.0, burst=2)))
    state, connections = bench.limiters.get("v1"), bench.connections.get()
    for _ in range(2):  # the burst
        assert limiter.try_acquire("a", math.inf)
        connections.release()

    async def lead() -> None:
        await limiter.acquire("a", math.inf)
        second.cancel()

    first = asyncio.create_task(lead())
    second = asyncio.create_task(limiter.acquire("a", math.inf))
    await settle()
    bench.clock.now += 2.0  # the first one wakes up so late that both have a permit
    await bench.clock.advance(0.0)
    await first
    with pytest.raises(asyncio.CancelledError):
        await second

    assert connections.available == 1
    assert (state.in_flight, state.requests) == (3, 0)
    assert not limiter._queue.has_leader


async def test_items_go_at_the_adaptive_rate() -> None:
    """A run without a configured rate is sent evenly at the adaptive rate."""
    bench = Bench(latency=1000.0)
    run = RunLimits()
    tasks = [bench.start("b", run) for _ in range(21)]
    await bench.clock.advance(2.0)
    times = bench.times("b")
    await cancel(*tasks)

    assert len(times) == 21
    assert times[-1] == pytest.approx(1.0, abs=0.05)
    assert max(late - early for early, late in itertools.pairwise(times)) < 0.06


async def test_items_go_at_the_runs_own_rate() -> None:
    """A run with a configured rate holds it from the start, if it is below the adaptive rate."""
    bench = Bench()
    run = RunLimits(rate_limiter=bench.rate_limiter(2.0))
    tasks = [bench.start("b", run) for _ in range(5)]
    await bench.clock.advance(10.0)
    await asyncio.gather(*tasks)

    assert bench.times("b") == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])


async def test_items_keep_to_the_clients_rate() -> None:
    """The client's rate holds for its runs too."""
    bench = Bench(rate=5.0)
    run = RunLimits(rate_limiter=bench.rate_limiter(1000.0))
    tasks = [bench.start("b", run) for _ in range(4)]
    await bench.clock.advance(10.0)
    await asyncio.gather(*tasks)

    assert bench.times("b") == pytest.approx([0.0, 0.2, 0.4, 0.6])


async def test_the_runs_own_slow_rate_holds_up_nobody_else() -> None:
    """Neither single calls nor another run in the same bucket wait for it."""
    bench = Bench()
    slow = RunLimits(rate_limiter=bench.rate_limiter(0.1))
    tasks = [bench.start("slow", slow) for _ in range(3)]
    await settle()
    run = RunLimits()
    tasks += [bench.start("a"), *(bench.start("b", run) for _ in range(5))]
    await bench.clock.advance(1.0)
    assert bench.times("a") == [0.0]
    assert len(bench.times("b")) == 5
    await bench.clock.advance(20.0)
    await asyncio.gather(*tasks)

    assert bench.times("slow") == pytest.approx([0.0, 10.0, 20.0])


async def test_a_run_with_its_own_rate_waits_for_a_pause() -> None:
    """The server asked single calls for the pause, and a run without the adaptive rate keeps it."""
    bench = Bench()
    await bench.pause(30.0)
    item = bench.start("b", RunLimits(rate_limiter=bench.rate_limiter(10.0)))
    await bench.clock.advance(40.0)
    await item

    assert bench.times("b") == [30.0]


async def test_single_calls_go_before_items_at_the_clients_rate() -> None:
    """A call that arrives while an item sleeps until its permit acquires that permit."""
    bench = Bench(rate=1.0)
    run = RunLimits()
    tasks = [bench.start("b", run) for _ in range(4)]
    await bench.clock.advance(0.5)
    tasks += [bench.start("a", seconds=30.0) for _ in range(3)]
    await bench.clock.advance(10.0)
    await asyncio.gather(*tasks)

    assert bench.times("a") == pytest.approx([1.0, 2.0, 3.0])
    assert bench.times("b")[0] == 0.0
    assert bench.times("b")[1] >= 4.0


@pytest.mark.parametrize("rate", [None, 10.0], ids=str)
async def test_single_calls_go_before_items_with_few_connections(rate: float | None) -> None:
    """A released connection goes to a single call, even if items have waited for longer."""
    bench = Bench(rate, connections=1, latency=1.0)
    run = RunLimits()
    tasks = [bench.start("b", run) for _ in range(4)]
    await bench.clock.advance(0.5)
    tasks += [bench.start("a", seconds=30.0) for _ in range(3)]
    await bench.clock.advance(20.0)
    await asyncio.gather(*tasks)

    assert [name for name, _ in bench.sent] == ["b", "a", "a", "a", "b", "b", "b"]


async def test_an_item_that_waits_for_its_turn_does_not_keep_the_last_connection() -> None:
    """A single call acquires the only connection, and no two of them wait for each other."""
    bench = Bench(rate=1.0, connections=1)
    run = RunLimits()
    items = [bench.start("b", run) for _ in range(2)]
    await bench.clock.advance(0.5)
    single = bench.start("a", seconds=30.0)
    await bench.clock.advance(1.0)
    await single
    await bench.clock.advance(5.0)
    await asyncio.gather(*items)

    assert bench.times("a") == pytest.approx([1.0])


async def test_an_item_looks_again_one_interval_after_a_single_call_went_first() -> None:
    """The item loses only the permit that the call acquired."""
    bench = Bench(rate=10.0)
    tasks = [bench.start("a"), bench.start("a")]
    await bench.clock.advance(0.05)
    tasks.append(bench.start("b", RunLimits()))
    await bench.clock.advance(2.0)
    await asyncio.gather(*tasks)

    assert bench.times("a") == pytest.approx([0.0, 0.1])
    assert bench.times("b") == pytest.approx([0.2])


async def test_an_item_takes_the_last_connection_at_once() -> None:
    """An entrant does not wait in the queue while a connection is available."""
    bench = Bench(connections=1)

    assert bench.run_limiter(RunLimits()).try_acquire("a", math.inf)
    assert bench.free == 0


async def test_after_a_pause_single_calls_go_before_items() -> None:
    """Paused calls resume first, and then the items, all at the adaptive rate."""
    bench = Bench()
    await bench.pause_in_full(30.0)
    run = RunLimits()
    tasks = [bench.start("b", run) for _ in range(3)]
    await settle()
    tasks += [bench.start("a") for _ in range(5)]
    await bench.clock.advance(40.0)
    await asyncio.gather(*tasks)

    assert "".join(name for name, _ in bench.sent[2:]) == "aaaaabbb"


async def test_items_wait_for_the_circuit_and_one_of_them_tries() -> None:
    """In an outage items wait and do not fail; one is a probe, and all resume after its success."""
    bench = Bench(latency=0.1)
    bench.responses["failing"] = [down() for _ in range(20)]
    failing = [bench.start("failing") for _ in range(20)]
    await bench.clock.advance(0.1)
    await asyncio.gather(*failing, return_exceptions=True)
    run = RunLimits(concurrency=ConcurrencyLimit(100, bench.clock))
    bench.responses["b"] = [down()]
    tasks = [bench.start("b", run, seconds=60.0) for _ in range(10)]
    await bench.clock.advance(5.0)
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(result) for result in results].count(ServerError) == 1
    assert [type(result) for result in results].count(Response) == 9
    first, second, *others = bench.times("b")
    assert first == pytest.approx(0.1 + 1.25)
    assert second == pytest.approx(first + 0.1 + 1.25)
    assert second + 0.1 <= others[0] <= second + 0.1 + 1.0
    assert others[-1] < others[0] + 1.0


async def test_items_do_not_sleep_on_when_a_long_outage_is_over() -> None:
    """After any successful probe, the items resume within about a second."""
    bench = Bench()
    await bench.break_down()
    bench.clock.now += 500.0
    bench.responses["b"] = [down()]
    run = RunLimits()
    with pytest.raises(ServerError):
        await bench.start("b", run)
    limiter = bench.limiters.get("v1")
    tasks = [bench.start("b", run) for _ in range(3)]
    await bench.clock.advance(5.0)
    assert limiter.breaker.delay() > 10.0
    limiter.breaker.record_success(bench.clock())
    await bench.clock.advance(1.5)

    await asyncio.gather(*tasks)
    assert len(bench.times("b")) == 4


async def test_waiting_is_not_charged_to_an_item() -> None:
    """An item with seconds left is sent after a pause of half a minute, with those seconds left."""
    bench = Bench()
    await bench.pause_in_full(30.0)
    run = RunLimits()
    request, state = a_request(low_priority=True, bucket="v1"), CallState(deadline=BEGIN + 6.0)
    send = LimitLayer(bench.server, bench.connections, bench.limiters, bench.clock, run).send
    task = asyncio.ensure_future(send(request, state))
    await bench.clock.advance(31.0)
    await task

    assert bench.times("test.call") == pytest.approx([30.0])
    assert state.deadline == pytest.approx(BEGIN + 35.0)


async def test_the_clock_of_an_item_starts_with_its_first_turn() -> None:
    """An item that was never sent has its total timeout when it is sent."""
    bench = Bench()
    await bench.pause_in_full(30.0)
    request, state = a_request(low_priority=True, total_timeout=60.0, bucket="v1"), CallState()
    send = LimitLayer(
        bench.server, bench.connections, bench.limiters, bench.clock, RunLimits()
    ).send
    task = asyncio.ensure_future(send(request, state))
    await bench.clock.advance(31.0)
    await task

    assert state.deadline == pytest.approx(BEGIN + 90.0)


async def test_a_run_gives_up_on_a_pause_longer_than_it_waits() -> None:
    """Items end at once, unsent, with the remaining seconds of the pause."""
    bench = Bench()
    await bench.pause(30.0)
    run = RunLimits(concurrency=ConcurrencyLimit(4, bench.clock), max_outage=20.0)
    results = await asyncio.gather(
        *(bench.start("b", run) for _ in range(5)), return_exceptions=True
    )

    for error in results:
        assert isinstance(error, CircuitOpenError)
        assert error.retry_after == pytest.approx(30.0)
        assert "no service for longer than 20 s" in str(error)
    assert bench.times("b") == []
    assert bench.free == 100
    assert run.concurrency is not None
    assert run.concurrency.in_flight == 0


async def test_a_run_waits_for_a_pause_just_as_long_as_it_may() -> None:
    """The run ends only at a longer pause."""
    bench = Bench()
    await bench.pause_in_full(30.0)
    item = bench.start("b", RunLimits(max_outage=29.0))
    await bench.clock.advance(30.0)
    await item

    assert bench.times("b") == pytest.approx([30.0])


async def test_who_waits_for_the_rate_does_not_give_up_for_an_outage_that_may_be_over() -> None:
    """The cause of the wait is not the service, so a probe is sent when the rate allows it."""
    bench = Bench()
    await bench.break_down()
    await bench.clock.advance(100.0)
    rate_limiter = bench.rate_limiter(1.0)
    rate_limiter.acquire()
    item = bench.start("b", RunLimits(rate_limiter=rate_limiter, max_outage=0.5))
    await bench.clock.advance(2.0)
    await item

    assert bench.times("b") == pytest.approx([101.0])


async def test_a_run_gives_up_on_an_outage_longer_than_it_waits() -> None:
    """Until then some items are probes, at growing intervals; the rest ends unsent."""
    bench = Bench()
    await bench.break_down()
    bench.responses["b"] = [down() for _ in range(1000)]
    run = RunLimits(concurrency=ConcurrencyLimit(4, bench.clock), max_outage=100.0)
    tasks = [bench.start("b", run, seconds=60.0) for _ in range(80)]
    await bench.clock.advance(99.0)
    assert not all(task.done() for task in tasks)
    await bench.clock.advance(20.0)
    kinds = [type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)]

    assert kinds.count(ServerError) + kinds.count(CircuitOpenError) == 80
    assert kinds.count(ServerError) == len(bench.times("b")) < 60
    assert 90.0 < bench.times("b")[-1] < 110.0
    assert run.concurrency is not None
    assert (bench.free, run.concurrency.in_flight) == (100, 0)


async def test_an_outage_that_nobody_looked_after_is_no_reason_to_give_up() -> None:
    """A run that starts hours after the last failure sends probes before it ends."""
    bench = Bench()
    await bench.break_down()
    bench.clock.now += 5 * 3600.0
    await bench.start("b", RunLimits())

    assert bench.limiters.get("v1").breaker.state is CircuitState.CLOSED


@pytest.mark.parametrize("way", ["succeeds", "fails", "cancelled", "breaks"])
async def test_an_item_is_in_flight_no_longer_whatever_happens(way: str) -> None:
    """Any end of an item releases its connection and lowers its run's requests in flight."""
    bench = Bench(latency=1.0)
    capacity = ConcurrencyLimit(4, bench.clock)
    run = RunLimits(concurrency=capacity)
    ends: dict[str, list[BaseException]] = {"fails": [down()], "breaks": [AssertionError("a bug")]}
    bench.responses["b"] = ends.get(way, [])
    task = bench.start("b", run)
    await bench.clock.advance(0.5)
    assert (capacity.in_flight, bench.free) == (1, 99)
    if way == "cancelled":
        task.cancel()
    await bench.clock.advance(0.5)
    await asyncio.gather(task, return_exceptions=True)

    assert (capacity.in_flight, bench.free) == (0, 100)
    assert bench.limiters.get("v1").in_flight == 0


OUTAGE = [
    ServerError("status 500", status=500),
    ConnectError("no"),
    ConnectionLostError("gone"),
    RequestTimeoutError("slow"),
]


def recognised(error: ApiError) -> ApiError:
    """Return an error whose body had one of the API's shapes."""
    error.recognised = True
    return error


WORKS = [
    None,
    recognised(NotFoundError("status 404", status=404)),
    recognised(ConflictError("status 409", status=409)),
    recognised(ApiError("status 418", status=418)),
]
STRANGE = [
    NotFoundError("status 404", status=404),
    ApiError("status 418", status=418),
    DecodeError("a page", status=200),
]
IN_USE = recognised(ConflictError("status 409", status=409))
IN_USE.error_code = "idempotency_in_flight"
NEITHER = [
    JournalError("disk full"),
    ExportError("disk full"),
    AdaptyError("no response"),
    ConnectError("certificate", permanent=True),
    IN_USE,
]


def end(bench: Bench, error: AdaptyError | None, *, times: int = 1) -> BucketStatistics:
    """Send a number of items with this result, and return the statistics."""
    state, limiter = bench.limiters.get("v1"), bench.run_limiter(RunLimits())
    for _ in range(times):
        assert bench.connections.get().try_acquire()
        limiter._start("a")
        state.record_sent(paced=True)
        limiter.release("a", error, bench.clock())
    return state.statistics()


@pytest.mark.parametrize("error", OUTAGE, ids=lambda error: type(error).__name__)
async def test_failures_of_the_service_count_towards_an_outage(error: AdaptyError) -> None:
    """Twenty consecutive failures open the circuit; the rate does not change."""
    bench = Bench()
    before = bench.limiters.get("v1").statistics()

    assert end(bench, error, times=19).circuit is CircuitState.CLOSED
    after = end(bench, error)
    assert after.circuit is CircuitState.OPEN
    assert (after.failed, after.throttled, after.requests) == (20, 0, 20)
    assert (after.rate, after.in_flight) == (before.rate, 0)


@pytest.mark.parametrize("error", WORKS, ids=lambda error: type(error).__name__)
async def test_any_response_but_a_failure_says_that_the_service_works(
    error: AdaptyError | None,
) -> None:
    """It resets the failures, and lets the rate of a run grow."""
    bench = Bench()
    before = bench.limiters.get("v1").rate_source.rate
    end(bench, OUTAGE[0], times=19)
    bench.clock.now += 0.1
    after = end(bench, error)
    end(bench, OUTAGE[0], times=19)

    assert bench.limiters.get("v1").breaker.state is CircuitState.CLOSED
    assert after.rate > before
    assert (after.failed, after.requests, after.in_flight) == (19, 20, 0)


@pytest.mark.parametrize("error", STRANGE, ids=lambda error: type(error).__name__)
async def test_responses_that_are_not_the_apis_are_an_outage_once_the_api_has_responded(
    error: AdaptyError,
) -> None:
    """Before that, the URL may be wrong, and the state of the service is unknown."""
    bench = Bench()

    assert end(bench, error, times=30).circuit is CircuitState.CLOSED
    end(bench, None)
    bench.clock.now += 0.1
    assert end(bench, error, times=19).circuit is CircuitState.CLOSED
    assert end(bench, error).circuit is CircuitState.OPEN


@pytest.mark.parametrize("error", STRANGE, ids=lambda error: type(error).__name__)
async def test_responses_that_are_not_the_apis_open_no_circuit_for_single_calls(
    error: AdaptyError,
) -> None:
    """A firewall may reject the content of the calls."""
    bench = Bench()
    await bench.start("a")
    bench.responses["a"] = [error] * 30
    for _ in range(30):
        with pytest.raises(type(error)):
            await bench.start("a")

    assert bench.limiters.get("v1").breaker.state is CircuitState.CLOSED


async def test_a_run_has_its_patience_until_nothing_succeeds() -> None:
    """The time without success starts with the run's first request, and includes pauses."""
    bench = Bench(latency=1.0)
    run = RunLimits(max_outage=100.0)
    await bench.clock.advance(50.0)
    assert run.patience() == 100.0
    bench.responses["b"] = [throttled(30.0), throttled(30.0)]
    for seconds in (1.0, 2.0):  # the second one is the probe in the pause
        item = bench.start("b", run)
        await bench.clock.advance(seconds)
        with pytest.raises(RateLimitError):
            await item
    item = bench.start("b", run)
    await bench.clock.advance(10.0)
    assert run.patience() == pytest.approx(87.0)
    await bench.clock.advance(25.0)
    await item
    assert run.patience() == 100.0


@pytest.mark.parametrize(
    ("waits", "patience"), [(True, 60.0), (False, 90.0)], ids=["waits", "idle"]
)
async def test_a_pause_counts_as_passed_for_a_run_that_waits_for_its_end(
    *, waits: bool, patience: float
) -> None:
    """A pause that other requests received does not end a run that sends nothing more."""
    bench = Bench()
    run = RunLimits(max_outage=90.0)
    bench.responses["b"] = [throttled(30.0)]
    with pytest.raises(RateLimitError):
        await bench.start("b", run)
    if waits:
        run.hold(a_request(bucket="v1"), 30.0)

    assert remaining_patience(bench.limiters, run) == pytest.approx(patience, abs=0.5)
    assert run.patience() == pytest.approx(90.0, abs=0.5)


async def test_a_pause_ends_calls_that_wait_for_a_connection_and_have_no_time() -> None:
    """They raise `RateLimitError` at once, not at their deadline; calls with time left wait."""
    bench = Bench(connections=2, latency=5.0)
    bench.responses["first"] = [throttled(7200.0)]
    bench.responses["slow"] = [down()]  # a success would end the pause
    first = bench.start("first")
    await bench.clock.advance(4.0)
    slow = bench.start("slow")
    await settle()
    waiting = [bench.start("waiting", seconds=60.0) for _ in range(3)]
    patient = bench.start("patient", seconds=7260.0)
    await bench.clock.advance(1.0)
    for error in await asyncio.gather(first, *waiting, return_exceptions=True):
        assert isinstance(error, RateLimitError)
        assert error.retry_after == 7200.0
    assert not patient.done()
    await bench.clock.advance(4000.0)
    await patient
    with pytest.raises(ServerError):
        await slow

    assert bench.times("waiting") == []
    assert bench.times("patient") == [3605.0]
    assert bench.free == 2


async def test_attempts_that_fail_in_a_known_outage_are_excused() -> None:
    """They do not count as attempts of the call, from the one that opened the circuit."""
    bench = Bench(latency=1.0)
    bench.responses["a"] = [down() for _ in range(22)]
    calls = [bench.start("a") for _ in range(22)]
    await bench.clock.advance(1.0)
    await asyncio.gather(*calls, return_exceptions=True)

    assert [state.outage_failures for state in bench.states] == [0] * 19 + [1] * 3


async def test_success_of_single_calls_does_not_raise_the_rate_of_runs() -> None:
    """They were not rate limited, so they are no sign of the rate."""
    bench = Bench()
    before = bench.limiters.get("v1").rate_source.rate
    for _ in range(50):
        await bench.start("a")

    assert bench.limiters.get("v1").rate_source.rate == before


async def test_being_throttled_cuts_the_rate_and_shows_that_the_service_works() -> None:
    """A 429 response resets the failures, and slows runs down."""
    bench = Bench()
    before = bench.limiters.get("v1").rate_source.rate
    end(bench, OUTAGE[0], times=19)
    bench.clock.now += 0.1
    after = end(bench, throttled())
    assert (after.throttled, after.failed, after.requests) == (1, 19, 20)
    assert after.rate < before
    assert after.paused_for == 0.0
    end(bench, OUTAGE[0], times=19)
    assert bench.limiters.get("v1").breaker.state is CircuitState.CLOSED
    last = end(bench, throttled(30.0))
    assert last.throttled == 2
    assert last.paused_for == pytest.approx(30.0)


@pytest.mark.parametrize("error", NEITHER, ids=lambda error: type(error).__name__)
async def test_what_is_not_the_services_doing_changes_nothing(error: AdaptyError) -> None:
    """Such a result is neither a failure of the service nor a sign that it works."""
    bench = Bench()
    before = bench.limiters.get("v1").rate_source.rate
    end(bench, OUTAGE[0], times=19)
    bench.clock.now += 0.1
    after = end(bench, error)
    assert (after.failed, after.throttled, after.rate) == (19, 0, before)
    assert after.in_flight == 0

    assert end(bench, OUTAGE[0]).circuit is CircuitState.OPEN


async def test_the_time_a_failing_service_asks_for_is_kept() -> None:
    """In an outage the next probe comes no earlier than the last response asked for."""
    bench = Bench()
    end(bench, OUTAGE[0], times=19)
    end(bench, down(20.0))
    with pytest.raises(CircuitOpenError) as caught:
        await bench.start("a")

    assert 20.0 <= caught.value.retry_after <= 25.0


async def test_statistics_tell_what_is_going_on() -> None:
    """They count requests in flight and ended, for each bucket that was used."""
    bench = Bench(latency=1.0)
    assert bench.limiters.statistics() == {}
    task = bench.start("a")
    await settle()

    assert bench.limiters.statistics() == {
        "v1": BucketStatistics(
            rate=20.0,
            in_flight=1,
            paused_for=0.0,
            circuit=CircuitState.CLOSED,
            requests=0,
            throttled=0,
            failed=0,
        )
    }
    await bench.clock.advance(1.0)
    await task
    after = bench.limiters.statistics()["v1"]
    assert (after.in_flight, after.requests) == (0, 1)


@pytest.mark.parametrize(
    ("client", "run", "adaptive", "rate"),
    [
        pytest.param(None, None, None, 20.0, id="nothing-known"),
        pytest.param(None, None, 400.0, 388.0, id="adaptive"),
        pytest.param(300.0, None, None, 300.0, id="of-the-client"),
        pytest.param(None, 2.0, None, 2.0, id="of-the-run"),
        pytest.param(300.0, 200.0, None, 200.0, id="the-run-slower"),
        pytest.param(300.0, 500.0, None, 300.0, id="the-client-slower"),
        pytest.param(300.0, 200.0, 100.0, 97.0, id="refused"),
        pytest.param(None, 200.0, 400.0, 200.0, id="less-than-learned"),
    ],
)
async def test_statistics_tell_the_rate_in_force(
    client: float | None, run: float | None, adaptive: float | None, rate: float
) -> None:
    """It is the lowest that delays items; the adaptive rate counts after a measurement."""
    bench = Bench(rate=client)
    if adaptive is not None:
        bench.limiters.expect(adaptive)
    limits = RunLimits(rate_limiter=None if run is None else bench.rate_limiter(run))
    bench.run_limiter(limits)

    assert bench.limiters.statistics()["v1"].rate == pytest.approx(rate)


async def test_the_search_begins_at_a_configured_rate_that_is_throttled() -> None:
    """The first 429 starts the search at half the configured rate, not half the initial one."""
    bench = Bench()
    bench.responses["item"] = [throttled()]

    with pytest.raises(RateLimitError):
        await bench.start("item", RunLimits(rate_limiter=bench.rate_limiter(120.0)))
    assert bench.limiters.get("v1").rate_source.rate == 60.0


async def test_a_configured_rate_that_is_throttled_is_not_used_during_the_search() -> None:
    """From the first 429 on the adaptive rate holds, also before a limit is measured."""
    bench = Bench()
    bench.responses["first"] = [throttled()]
    run = RunLimits(rate_limiter=bench.rate_limiter(120.0))
    with pytest.raises(RateLimitError):
        await bench.start("first", run)
    assert bench.limiters.get("v1").rate_source.limit is None
    assert bench.limiters.statistics()["v1"].rate == 60.0

    tasks = [bench.start("item", run) for _ in range(31)]
    await bench.clock.advance(1.0)
    await asyncio.gather(*tasks)
    times = bench.times("item")
    assert times[-1] - times[0] == pytest.approx(0.5, abs=0.05)


async def test_statistics_tell_the_rate_of_the_run_that_came_last() -> None:
    """Without a configured rate, the adaptive rate holds again."""
    bench = Bench()
    state = bench.limiters.get("v1")
    bench.run_limiter(RunLimits(rate_limiter=bench.rate_limiter(2.0)))
    assert state.statistics().rate == 2.0
    bench.run_limiter(RunLimits())
    assert state.statistics().rate == 20.0


def test_there_is_one_limiter_for_a_bucket() -> None:
    """A second call returns the same limiter; another bucket has another limiter."""
    limiters = Bench().limiters

    assert limiters.get("v1") is limiters.get("v1")
    assert limiters.get("v1") is not limiters.get("v2")


def test_a_rate_known_from_before_holds_for_limiters_made_before_and_later() -> None:
    """Every bucket without a measured limit starts with it."""
    limiters = Bench().limiters
    before = limiters.get("before")
    assert before.rate_source.rate == 20.0
    limiters.expect(400.0)

    assert before.rate_source.limit == limiters.get("later").rate_source.limit == 400.0
    assert before.rate_source.rate == limiters.get("later").rate_source.rate == pytest.approx(388.0)


def test_a_limit_that_was_measured_since_is_not_overwritten() -> None:
    """A bucket with a measured limit keeps it."""
    limiters = Bench().limiters
    limiters.expect(400.0)
    limiters.expect(100.0)

    assert limiters.get("v1").rate_source.limit == 100.0
    limiters.expect(50.0)
    assert limiters.get("v1").rate_source.limit == 100.0


async def test_a_pause_outlives_what_is_expected() -> None:
    """A run that starts in a pause, with the rate of an earlier run, does not end the pause."""
    bench = Bench()
    await bench.pause(30.0)
    bench.limiters.expect(400.0)

    assert bench.limiters.get("v1").paused_for == pytest.approx(30.0)


def test_the_adaptive_rate_is_returned_if_there_is_one() -> None:
    """With no bucket measured, or several, it is None; a single one is returned unchanged."""
    limiters = Bench().limiters
    assert limiters.measured_limit() is None
    limiters.get("v1")
    assert limiters.measured_limit() is None
    limiters.get("v1").rate_source.expect(400.0)
    limiters.get("v2")
    assert limiters.measured_limit() == 400.0
    limiters.get("v2").rate_source.expect(100.0)
    assert limiters.measured_limit() is None


@pytest.mark.parametrize("rate", [None, 100_000.0], ids=str)
def test_two_event_loops_share_a_limiter(rate: float | None) -> None:
    """Calls and items in two threads share a limiter; nothing hangs and every count is right."""
    clock = FakeClock(BEGIN)
    timing = Timing(clock, lambda _: asyncio.sleep(0), lambda low, high: high)
    limiters = LimiterRegistry(
        timing, None if rate is None else FixedRateLimiter(rate, 1000, clock)
    )
    limiters.expect(100_000.0)
    connections = LoopLocal(lambda: ConnectionSemaphore(4, clock))
    failures: list[BaseException] = []

    async def response_for(request: Request, state: CallState) -> Response:
        """Let other tasks run, and some time pass."""
        await asyncio.sleep(0)
        clock.now += 0.001
        return Response(200, {}, b"")

    async def work() -> None:
        """Send calls and items together."""
        single = LimitLayer(response_for, connections, limiters, clock).send
        run = LimitLayer(response_for, connections, limiters, clock, RunLimits()).send
        calls = [single(a_request(), CallState()) for _ in range(200)]
        items = [run(a_request(low_priority=True), CallState()) for _ in range(200)]
        await asyncio.gather(*calls, *items)

    def in_a_thread() -> None:
        """Run the work in a separate event loop."""
        try:
            asyncio.run(asyncio.wait_for(work(), 10.0))
        except BaseException as error:  # noqa: BLE001  raised by the test
            failures.append(error)

    threads = [threading.Thread(target=in_a_thread) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15.0)
    limiter = limiters.get("test")

    assert failures == []
    assert (limiter.requests, limiter.in_flight, limiter.urgent) == (800, 0, 0)


def test_a_bucket_uses_the_rate_source_that_the_registry_is_given() -> None:
    """A source that several processes share is made per bucket, and gets the known rate."""
    clock = FakeClock(BEGIN)
    timing = Timing(clock, clock.sleep, lambda low, high: high)
    made: dict[str, AdaptiveRateLimiter] = {}

    def source_of(bucket: str) -> AdaptiveRateLimiter:
        return made.setdefault(bucket, AdaptiveRateLimiter(clock))

    limiters = LimiterRegistry(timing, rate_source=source_of)
    assert limiters.get("v1").rate_source is made["v1"]
    limiters.expect(400.0)
    assert limiters.get("v2").rate_source is made["v2"]
    assert made["v1"].limit == made["v2"].limit == 400.0


async def test_limiters_show_their_state() -> None:
    """Their repr has the rate, the circuit and the counts, and no secret."""
    bench = Bench(latency=1.0)
    call = bench.start("a")
    await settle()
    limiter = bench.run_limiter(RunLimits())

    assert repr(bench.limiters) == "LimiterRegistry(v1)"
    assert repr(bench.limiters.get("v1").calls.get()) == "CallQueue(0 calls)"
    assert repr(bench.limiters.get("v1").run_order) == "RunOrder(0 runs)"
    assert repr(limiter) == (
        "RunLimiter(BucketState(AdaptiveRateLimiter(rate=20.0, limit=None), closed, "
        "in_flight=1, requests=0, throttled=0), free=99)"
    )
    await cancel(call)


async def throttle_one(bench: Bench, run: RunLimits, *, others: int = 5) -> None:
    """Throttle six items `own`, with a number of items `other` between them that succeed."""
    bench.responses["own"] = [throttled() for _ in range(1000)]
    for number in range(6):
        bench.clock.now += 100.0  # so that none has to wait
        with pytest.raises(RateLimitError):
            await bench.start("own", run)
        if number < others:
            bench.clock.now += 100.0
            await bench.start("other", run)


async def test_an_endpoint_that_alone_is_throttled_has_a_bucket_of_its_own() -> None:
    """Its 429s lower the rate of the other operations no more, and the rate starts again."""
    bench = Bench()
    run = RunLimits()
    await throttle_one(bench, run)
    assert bench.limiters.bucket_of("v1", "other") == "v1"
    assert bench.limiters.bucket_of("v1", "own") == "v1/own"
    state = bench.limiters.get("v1")
    assert repr(state.endpoints) == "EndpointMonitor(separate=['own'])"
    rate = state.rate_source.rate
    assert rate == 20.0
    for _ in range(20):
        bench.clock.now += 5000.0
        with pytest.raises(RateLimitError):
            await bench.start("own", run)
    statistics = bench.limiters.statistics()

    assert state.rate_source.rate == rate
    assert (statistics["v1"].throttled, statistics["v1/own"].throttled) == (6, 20)
    assert statistics["v1/own"].rate < 20.0


async def test_a_given_rate_holds_again_for_the_operations_that_are_not_throttled() -> None:
    """The 429s were those of one endpoint, so the others need no search."""
    bench = Bench()
    run = RunLimits(rate_limiter=bench.rate_limiter(120.0))
    await throttle_one(bench, run, others=4)
    assert bench.limiters.statistics()["v1"].rate < 120.0

    await throttle_one(bench, run)
    assert bench.limiters.bucket_of("v1", "own") == "v1/own"
    assert bench.limiters.statistics()["v1"].rate == 120.0


@pytest.mark.parametrize("others", [0, 4], ids=str)
async def test_a_bucket_of_one_operation_is_not_divided(others: int) -> None:
    """Without enough successes of other operations, a 429 is due to the bucket."""
    bench = Bench()
    await throttle_one(bench, RunLimits(), others=others)

    assert bench.limiters.bucket_of("v1", "own") == "v1"
    assert bench.limiters.get("v1").rate_source.rate < 20.0
    assert bench.limiters.bucket_of("unused", "own") == "unused"


async def test_a_bucket_whose_other_operations_are_throttled_is_overloaded() -> None:
    """Its limit holds for all of them, so none gets a bucket of its own."""
    bench = Bench()
    run = RunLimits()
    bench.responses["own"], bench.responses["other"] = [throttled()], [throttled(), throttled()]
    for name in ("own", "other", "other"):
        bench.clock.now += 100.0
        with pytest.raises(RateLimitError):
            await bench.start(name, run)
    await throttle_one(bench, run)

    assert bench.limiters.bucket_of("v1", "own") == "v1"


async def test_an_operation_with_a_success_has_no_limit_of_its_own() -> None:
    """Only 429s without a success in between count."""
    bench = Bench()
    run = RunLimits()
    for _ in range(4):
        await throttle_one(bench, run, others=1)
        bench.responses["own"] = []
        bench.clock.now += 100.0
        await bench.start("own", run)

    assert bench.limiters.bucket_of("v1", "own") == "v1"


async def test_items_do_not_wait_for_an_endpoint_without_success_for_good() -> None:
    """After 30 s they end unsent, so that workers are free for others; the run continues."""
    bench = Bench()
    run = RunLimits(max_outage=20.0)
    await throttle_one(bench, run)
    items = [bench.start("own", run) for _ in range(60)]
    await bench.clock.advance(29.0)
    assert not all(item.done() for item in items)
    await bench.clock.advance(12.0)
    assert all(item.done() for item in items)
    results = await asyncio.gather(*items, return_exceptions=True)
    await bench.start("other", run)

    assert {type(result) for result in results} == {RateLimitError, DeadlineError}
    assert "although other operations are not" in str(results[-1])
    assert run.patience() == 20.0


@pytest.mark.parametrize("is_fixed", [False, True], ids=["adaptive concurrency", "fixed"])
async def test_a_run_for_an_endpoint_without_success_alone_waits_as_in_an_outage(
    is_fixed: bool,  # noqa: FBT001  a case
) -> None:
    """None of its items ends unsent before `max_outage`, since they keep no other from a worker."""
    bench = Bench()
    await throttle_one(bench, RunLimits())
    concurrency = None if is_fixed else ConcurrencyLimit(100, bench.clock)
    run = RunLimits(concurrency=concurrency, max_outage=60.0)
    items = [bench.start("own", run) for _ in range(60)]
    await bench.clock.advance(55.0)
    assert not all(item.done() for item in items)
    assert all(isinstance(item.exception(), RateLimitError) for item in items if item.done())
    await bench.clock.advance(30.0)
    results = await asyncio.gather(*items, return_exceptions=True)

    names = {type(result).__name__ for result in results}
    assert names == {"RateLimitError", "CircuitOpenError"}


async def test_a_journal_keeps_the_rate_of_the_bucket_alone() -> None:
    """The rate of an endpoint with its own limit neither is kept nor starts with a kept one."""
    bench = Bench()
    run = RunLimits()
    await throttle_one(bench, run)
    bench.clock.now += 100.0
    with pytest.raises(RateLimitError):
        await bench.start("own", run)
    bench.limiters.expect(400.0)

    assert bench.limiters.get("v1").rate_source.limit == 400.0
    assert bench.limiters.get("v1/own").rate_source.limit is None
    assert bench.limiters.measured_limit() == 400.0


@pytest.mark.slow
async def test_an_endpoint_that_is_always_throttled_costs_the_others_little() -> None:
    """They use 90 % of the bucket's limit after a few seconds, although both began together."""
    bench = Bench(latency=0.05)
    bench.responses["own"] = [throttled() for _ in range(1000)]
    own, others = RunLimits(), RunLimits()
    bucket, done = Bucket(20.0, 2.0), 0

    async def of_others() -> None:
        nonlocal done
        while True:
            if not bucket.passes(bench.clock.now - BEGIN):
                bench.responses["other"] = [throttled()]
            try:
                await bench.start("other", others)
                done += 1
            except RateLimitError:
                await bench.clock.sleep(1.0)

    async def of_own() -> None:
        while True:
            with contextlib.suppress(RateLimitError, DeadlineError):
                await bench.start("own", own)
            await bench.clock.sleep(1.0)

    tasks = [asyncio.ensure_future(of_others()) for _ in range(4)]
    tasks += [asyncio.ensure_future(of_own()) for _ in range(4)]
    await bench.clock.advance(10.0)
    before = done
    await bench.clock.advance(20.0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert done - before >= 0.9 * 20.0 * 20.0
    assert bench.limiters.get("v1/own").requests < 100


def test_an_endpoint_with_its_own_limit_does_not_start_with_the_rate_of_its_api() -> None:
    """A rate that an earlier run found is that of the bucket, which is higher."""
    limiters = Bench().limiters
    limiters.expect(500.0)
    api = limiters.get("v1")
    api.endpoints.separate.add("slow")
    endpoint = limiters.get(limiters.bucket_of("v1", "slow"))

    assert (api.rate_source.limit, endpoint.rate_source.limit) == (500.0, None)
