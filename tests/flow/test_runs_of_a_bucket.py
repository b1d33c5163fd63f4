"""Several runs that share one bucket: they take turns, and none of them holds up the others."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest

from adapty_async._flow.limits import RunLimits
from tests._support import a_request, begin_at
from tests.flow.bench import BEGIN, Bench, Timeline, cancel, down, settle, throttled


@pytest.fixture(autouse=True)
def _begin_at_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the adaptive rate begin with ten requests per second."""
    begin_at(monkeypatch, 10.0, min_rate=0.1)


class Late(Timeline):
    """A timeline on which the waits of some tasks end a millisecond late, as timers do."""

    def __init__(self) -> None:
        super().__init__()
        self.late: set[asyncio.Task[object] | None] = set()

    async def sleep(self, seconds: float) -> None:
        """Wait as long, or a millisecond longer."""
        await super().sleep(seconds + 0.001 * (asyncio.current_task() in self.late))


def sent_by(bench: Bench, seconds: float) -> Counter[str]:
    """Return the number of requests by name in the first *n* seconds."""
    return Counter(name for name, at in bench.sent if at <= seconds)


@pytest.mark.parametrize("rate", [None, 10.0], ids=["adaptive rate", "rate of the client"])
@pytest.mark.parametrize("runs", ["ab", "abc"], ids=str)
async def test_runs_take_turns(runs: str, rate: float | None) -> None:
    """Runs get one permit each in turn, also those that always ask a moment after the first."""
    clock = Late()
    bench = Bench(rate=rate, clock=clock)
    limits = {name: RunLimits() for name in runs}
    tasks = [bench.start(name, limits[name]) for name in runs for _ in range(60)]
    clock.late.update(tasks[60:])
    await bench.clock.advance(3.0)
    counts = sent_by(bench, 3.0)
    await cancel(*[task for task in tasks if not task.done()])

    assert sum(counts.values()) >= 28
    assert max(counts.values()) - min(counts[name] for name in runs) <= 2
    assert not bench.limiters.get("v1").run_order.asks_at


async def test_runs_of_several_buckets_share_the_rate_of_the_client() -> None:
    """A run alternates with that of another bucket, too, unless its own bucket is paused."""
    clock = Late()
    bench = Bench(rate=10.0, clock=clock)
    limits = {name: RunLimits() for name in ("v1", "v2")}
    tasks = [bench.start(name, limits[name], bucket=name) for name in limits for _ in range(60)]
    clock.late.update(tasks[60:])
    await bench.clock.advance(3.0)
    counts = sent_by(bench, 3.0)
    assert abs(counts["v1"] - counts["v2"]) <= 2
    assert sum(counts.values()) >= 28
    bench.responses["v2"] = [throttled(30.0) for _ in range(60)]
    await bench.clock.advance(3.0)
    await cancel(*[task for task in tasks if not task.done()])
    await asyncio.gather(*tasks, return_exceptions=True)

    assert sent_by(bench, 6.0)["v1"] - counts["v1"] >= 25


async def test_a_run_that_comes_later_waits_for_one_turn_of_the_others() -> None:
    """A new run is sent after each of the waiting ones was sent once."""
    bench = Bench()
    early = {name: RunLimits() for name in "ab"}
    tasks = [bench.start(name, early[name]) for name in "ab" for _ in range(60)]
    await bench.clock.advance(2.0)
    tasks.append(bench.start("late", RunLimits()))
    await bench.clock.advance(1.0)
    await cancel(*[task for task in tasks if not task.done()])

    (at,) = bench.times("late")
    assert at - 2.0 <= 0.35


async def test_new_items_of_a_run_do_not_go_before_another_run_that_waits() -> None:
    """An item that arrives when a permit is due belongs behind the run that waits for it."""
    bench = Bench()
    first, second = RunLimits(), RunLimits()
    await bench.start("a", first)
    waiting = bench.start("b", second)
    await settle()
    bench.clock.now += 0.1  # the permit is due, and the task of `b` has not woken up yet
    arrived = bench.start("a", first)
    await bench.clock.advance(1.0)
    await asyncio.gather(waiting, arrived)

    assert [name for name, _ in bench.sent] == ["a", "b", "a"]


async def test_a_run_with_a_slow_rate_of_its_own_has_no_turn_until_it_may_send() -> None:
    """The others use the permits that its own rate leaves."""
    bench = Bench()
    slow = RunLimits(rate_limiter=bench.rate_limiter(1.0))
    fast = RunLimits()
    tasks = [bench.start("slow", slow) for _ in range(10)]
    await settle()
    tasks += [bench.start("fast", fast) for _ in range(60)]
    await bench.clock.advance(3.0)
    counts = sent_by(bench, 3.0)
    await cancel(*[task for task in tasks if not task.done()])

    assert counts["slow"] >= 3
    assert sum(counts.values()) >= 28


@pytest.mark.parametrize("rate", [None, 200.0], ids=["rates of the runs", "rate of the client"])
async def test_runs_at_configured_rates_resume_at_these(rate: float | None) -> None:
    """After runs have waited together, the adaptive rate, by which none is limited, holds none."""
    bench = Bench(rate=rate, latency=0.02)
    call = asyncio.ensure_future(bench.pause(30.0))
    await bench.clock.advance(1.0)
    await call
    tasks = []
    for name, own in (("a", 90.0), ("b", 80.0), ("c", 70.0)):
        run = RunLimits(rate_limiter=None if rate else bench.rate_limiter(own))
        tasks += [bench.start(name, run) for _ in range(400)]
        await bench.clock.advance(0.3)
    await bench.clock.advance(31.0)
    before = sent_by(bench, math.inf)
    await bench.clock.advance(1.0)
    sent = sent_by(bench, math.inf) - before
    await cancel(*[task for task in tasks if not task.done()])

    assert [sent[name] >= 60 for name in "abc"] == [True] * 3


async def test_a_run_that_does_not_come_for_its_turn_loses_it() -> None:
    """A run whose event loop is blocked holds up no other for longer than a tenth of a second."""
    bench = Bench()
    state = bench.limiters.get("v1")
    await bench.start("a", RunLimits())
    state.run_order.enter("blocked", bench.clock.now + 0.1)
    run = RunLimits()
    tasks = [bench.start("b", run) for _ in range(60)]
    await bench.clock.advance(3.0)
    await cancel(*[task for task in tasks if not task.done()])

    assert bench.times("b")[0] <= 0.35
    assert len(bench.times("b")) >= 25


async def test_a_run_that_is_cancelled_has_no_turn() -> None:
    """The others do not wait for a run whose items were cancelled."""
    bench = Bench()
    await bench.start("a", RunLimits())
    gone, run = bench.start("gone", RunLimits()), RunLimits()
    await settle()
    task = bench.start("b", run)
    await settle()
    await cancel(gone)
    await bench.clock.advance(0.25)
    await task

    assert [name for name, _ in bench.sent] == ["a", "b"]
    assert not bench.limiters.get("v1").run_order.asks_at
    assert bench.clock.now == BEGIN + 0.25


@pytest.mark.parametrize("rate", [None, 10.0], ids=["adaptive rate", "rates of their own"])
async def test_runs_take_turns_with_the_probes_of_an_outage(rate: float | None) -> None:
    """No run waits for the probe of another one that always asks a moment before it."""
    clock = Late()
    bench = Bench(clock=clock)
    await bench.break_down()
    bench.responses = {name: [down() for _ in range(200)] for name in "ab"}
    limits = {
        name: RunLimits(rate_limiter=None if rate is None else bench.rate_limiter(rate))
        for name in "ab"
    }
    tasks = [bench.start(name, limits[name]) for name in "ab" for _ in range(200)]
    clock.late.update(tasks[200:])
    await bench.clock.advance(60.0)
    counts = sent_by(bench, 60.0)
    await cancel(*[task for task in tasks if not task.done()])
    await asyncio.gather(*tasks, return_exceptions=True)

    assert sum(counts[name] for name in "ab") >= 10
    assert abs(counts["a"] - counts["b"]) <= 2


async def test_a_retry_of_an_endpoint_with_a_limit_of_its_own_is_no_outage() -> None:
    """A run without any request to the bucket itself waits for a retry, and has its patience."""
    run = RunLimits(max_outage=20.0)
    run.hold(a_request(bucket="v1"), 30.0)

    assert run.patience() == 20.0
