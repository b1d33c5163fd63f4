"""Stop means stop: a thousand moments at which runs end, in any way, and send nothing more."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from random import Random
from typing import Any, TypeAlias

import pytest

from adapty_async import AdaptyClient, BulkRun, Limits, Outcome, RetryPolicy
from adapty_async.bulk import StopReason
from tests._support import LOOPS, loop_turns
from tests.raw_server import api_error, page
from tests.wire_server import DONE, WireServer

pytestmark = [pytest.mark.slow, pytest.mark.unmeasured]

#: Of each of the twenty-eight tests: 1008 in all.
MOMENTS = 36
TIMES = {"429": api_error(429, "rate_limited", Retry_After="0"), "500": page(500)}


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run each test on both event loops."""
    return request.param


class Moment:
    """
    The moment at which a run ends: the number of requests that have arrived by then.

    Attributes:
        seen: that number, None before the moment.
        slack: requests that the loop may have still to write at that moment. asyncio writes at
            once, uvloop at the end of an iteration.
    """

    def __init__(self, server: WireServer) -> None:
        self._server = server
        self._answered = 0
        self.run: BulkRun[str, None]
        self.seen: int | None = None
        self.slack = 0

    def now(self) -> None:
        """Remember what has arrived, if this is the first call."""
        if self.seen is None:
            self.seen = self._server.pump()
            if type(asyncio.get_running_loop()).__module__.startswith("uvloop"):
                self.slack = self.run.in_flight


Start: TypeAlias = Callable[..., BulkRun[str, None]]
Way: TypeAlias = Callable[[Random, Start, Moment], Coroutine[Any, Any, None]]


def endless() -> Iterator[str]:
    """Yield ids for ever."""
    number = 0
    while True:
        yield f"u{number}"
        number += 1


async def soon(random: Random) -> None:
    """Let a random number of loop iterations pass."""
    await loop_turns(random.randrange(1, 120))


async def stop(random: Random, start: Start, moment: Moment) -> None:
    """Stop a run that is awaited."""
    run = start(endless())
    task = asyncio.create_task(run)
    await soon(random)
    moment.now()
    run.stop()
    await task


async def leave(random: Random, start: Start, moment: Moment) -> None:
    """Leave the block of a run."""
    run, most = start(endless()), random.randrange(30)
    async with run:
        await soon(random)
        for _ in range(most):
            await anext(run)
        moment.now()


async def cancel(random: Random, start: Start, moment: Moment) -> None:
    """Cancel the task that awaits a run."""
    task = asyncio.create_task(start(endless()))
    await soon(random)
    # in the next iteration the task follows this callback directly
    asyncio.get_running_loop().call_soon(moment.now)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def time_out(random: Random, start: Start, moment: Moment) -> None:
    """Let the time of `asyncio.timeout` be over."""
    loop, run = asyncio.get_running_loop(), start(endless())

    async def expire(scope: asyncio.Timeout) -> None:
        await soon(random)
        loop.call_soon(loop.call_soon, moment.now)
        scope.reschedule(0.0)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None) as scope:
            expiring = asyncio.create_task(expire(scope))
            await run
    await expiring


async def fail_in_source(random: Random, start: Start, moment: Moment) -> None:
    """Let the input raise."""
    count = random.randrange(1, 60)

    def failing() -> Iterator[str]:
        for number, item in enumerate(endless()):
            if number == count:
                moment.now()
                raise LookupError("line 7")
            yield item

    async def live() -> AsyncIterator[str]:
        for item in failing():
            await loop_turns(random.randrange(3))
            yield item

    with pytest.raises(LookupError, match="line 7"):
        await start(random.choice([failing, live])())


async def fail_fast(random: Random, start: Start, moment: Moment) -> None:
    """Let an item fail that must not."""
    bad = f"bad{random.randrange(40)}"
    items = [bad if bad == f"bad{number}" else f"u{number}" for number in range(80)]

    def on_outcome(outcome: Outcome[str, None]) -> None:
        if not outcome.ok:
            moment.now()

    report = await start(items, fail_fast=True, ordered=False, on_outcome=on_outcome)
    assert report.stop_reason is StopReason.FAIL_FAST
    assert report.total == len(items)


async def reject_key(random: Random, start: Start, moment: Moment) -> None:
    """Let a stop policy end the run."""
    good = random.randrange(30)
    items = [f"u{number}" if number < good else f"no{number}" for number in range(80)]
    rejected = 0

    def on_outcome(outcome: Outcome[str, None]) -> None:
        nonlocal rejected
        rejected = rejected + 1 if outcome.status == "failed" else 0
        if rejected == 5:
            moment.now()

    report = await start(items, ordered=False, on_outcome=on_outcome)
    assert report.stop_reason is StopReason.KEY_REJECTED
    assert report.total == len(items)


WAYS: tuple[Way, ...] = (stop, leave, cancel, time_out, fail_in_source, fail_fast, reject_key)


class Answers:
    """Responses at random: mostly done, sometimes to be retried, at once or soon."""

    def __init__(self, random: Random, *, trouble: bool) -> None:
        self._random = random
        self._trouble = trouble

    def __call__(self, identity: str) -> tuple[bytes, float]:
        """Respond for one id."""
        if identity.startswith("bad"):
            return api_error(400, "bad_request"), 0.0
        if identity.startswith("no"):
            return api_error(401, "not_authenticated"), 0.0
        bad = self._trouble and self._random.random() < 0.2
        data = self._random.choice(list(TIMES.values())) if bad else DONE
        return data, self._random.choice([0.0, 0.0, 0.001, 0.003])


def starter(random: Random, client: AdaptyClient, moment: Moment, told: Counter[int]) -> Start:
    """Return what starts a run with options at random."""
    options: dict[str, Any] = {
        "concurrency": random.choice([1, 4, 16, 40, None]),
        "rate": random.choice([None, None, 2000.0]),
        "ordered": random.random() < 0.3,
        "drain": 2.0,
    }

    def start(items: Any, **more: Any) -> BulkRun[str, None]:
        on_outcome = more.pop("on_outcome", lambda _: None)

        def tell(outcome: Outcome[str, None]) -> None:
            told[outcome.index] += 1
            on_outcome(outcome)

        moment.run = client.v1.profiles.bulk_delete(
            items, by="customer_user_id", on_outcome=tell, **{**options, **more}
        )
        return moment.run

    return start


@pytest.mark.parametrize("kept", [True, False], ids=["kept connections", "new connections"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_nothing_is_sent_after_a_run_has_ended(way: Way, kept: bool) -> None:  # noqa: FBT001
    """Whatever ends a run at whichever moment, no request arrives but those written before it."""
    random = Random(f"{way.__name__} {kept}")
    retry = RetryPolicy(attempts=10, wait_initial=0.001, wait_max=0.003)
    trouble = way not in {fail_fast, reject_key}
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(WireServer(Answers(random, trouble=trouble)))

        def client() -> AdaptyClient:
            limits = Limits(connections=random.choice([4, 8, 64]))
            return AdaptyClient("secret_live_x.y", base_url=server.url, retry=retry, limits=limits)

        shared = await stack.enter_async_context(client())
        for _ in range(MOMENTS):
            moment, told, before = Moment(server), Counter[int](), server.pump()
            async with contextlib.nullcontext(shared) if kept else client() as used:
                await way(random, starter(random, used, moment, told), moment)
                await loop_turns(5)
                report, arrived = moment.run.report, server.pump()

                assert moment.seen is not None
                assert arrived <= moment.seen + moment.slack
                assert report.requests == arrived - before
                assert report.total == sum(report.counts.values()) == sum(told.values())
                assert set(told.values()) <= {1}
