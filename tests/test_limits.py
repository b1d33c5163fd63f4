"""
The pace of requests and the bound on those in flight, on a clock that never waits.
"""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async._limits import Pacer, limit
from adapty_async._loop_local import LoopLocal
from adapty_async._operation import Request, Response, Tally
from adapty_async.errors import DeadlineError, ServerError
from adapty_async.testing import FakeClock, FakeTransport, Reply
from tests._support import a_request

REPLY: Reply = (200, {}, b"")


def slots(count: int = 100) -> LoopLocal[asyncio.Semaphore]:
    """
    Return so many places per event loop.
    """
    return LoopLocal(lambda: asyncio.Semaphore(count))


@pytest.mark.parametrize(
    ("rate", "given_burst", "burst"),
    [(500.0, None, 50), (1.0, None, 1), (0.5, None, 1), (10.0, 3, 3)],
    ids=str,
)
def test_a_burst_is_a_tenth_of_a_second_unless_told(
    rate: float, given_burst: int | None, burst: int
) -> None:
    """
    At least one request may always go at once.
    """
    clock = FakeClock()
    pacer = Pacer(rate, given_burst, clock, clock.sleep)

    assert pacer.burst == burst
    assert repr(pacer) == f"Pacer(rate={rate}, burst={burst})"


async def moments(pacer: Pacer, clock: FakeClock, count: int) -> list[float]:
    """
    Return when so many turns come.
    """
    times = []
    for _ in range(count):
        async with pacer.line():
            await pacer.go()
        times.append(clock())
    return times


async def test_a_pacer_lets_the_burst_go_and_then_holds_the_rate() -> None:
    """
    After the burst, each caller's turn is one interval later than the last.
    """
    clock = FakeClock(100.0)
    pacer = Pacer(10.0, 3, clock, clock.sleep)

    assert await moments(pacer, clock, 5) == pytest.approx([100.0, 100.0, 100.0, 100.1, 100.2])


async def test_a_long_pause_saves_up_no_more_than_the_burst() -> None:
    """
    However long nothing was sent, only the burst goes at once.
    """
    clock = FakeClock()
    pacer = Pacer(10.0, 3, clock, clock.sleep)
    clock.now += 3600.0

    assert await moments(pacer, clock, 5) == pytest.approx([3600.0] * 3 + [3600.1, 3600.2])


@given(
    rate=st.floats(0.1, 1000.0),
    burst=st.integers(1, 20),
    pauses=st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 3.0)), min_size=1, max_size=60),
    window=st.floats(0.0, 10.0),
)
def test_no_window_ever_holds_more_than_rate_and_burst(
    rate: float, burst: int, pauses: list[tuple[float, float]], window: float
) -> None:
    """
    However callers arrive, and however late they wake up, any stretch of time sees its share.
    """
    clock = FakeClock()
    late = 0.0

    async def oversleep(seconds: float) -> None:
        """
        Wake up late, as tasks of a busy loop do.
        """
        clock.now += seconds + late

    pacer = Pacer(rate, burst, clock, oversleep)
    sent = []

    async def ask() -> None:
        """
        Ask for one turn after another.
        """
        nonlocal late
        for pause, late in pauses:  # noqa: B007  oversleep() reads it
            clock.now += pause
            sent.extend(await moments(pacer, clock, 1))

    asyncio.run(ask())
    for start in sent:
        inside = sum(start <= moment <= start + window for moment in sent)
        assert inside <= rate * (window + 1e-5) + burst + 1e-6


async def test_turns_come_in_the_order_of_asking() -> None:
    """
    Whoever asked first goes first, and a cancelled waiter's turn goes to the next.
    """
    clock = FakeClock()
    woken = asyncio.Event()

    async def sleep(seconds: float) -> None:
        """
        Wait for the test, then for the clock.
        """
        await woken.wait()
        clock.now += seconds

    pacer = Pacer(1.0, 1, clock, sleep)
    order: list[tuple[str, float]] = []

    async def ask(name: str) -> None:
        """
        Note when the turn comes.
        """
        async with pacer.line():
            await pacer.go()
        order.append((name, clock()))

    tasks = [asyncio.ensure_future(ask(name)) for name in "abcd"]
    await settle()
    assert pacer.expected() == pytest.approx(4.0)
    tasks[1].cancel()
    tasks[2].cancel()
    await settle()
    woken.set()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert order == [("a", 0.0), ("d", pytest.approx(1.0))]
    assert pacer.expected() == pytest.approx(1.0)


async def test_turns_do_not_pile_up_behind_a_busy_connection() -> None:
    """
    Requests that wait for a connection keep to the rate once it is free.
    """
    clock = FakeClock()
    gate = Gate()
    pacer = Pacer(1.0, 1, clock, clock.sleep)
    send = limit(gate, slots(1), (pacer,), clock)
    tasks = [asyncio.ensure_future(send(a_request())) for _ in range(4)]
    await settle()
    clock.now += 100.0
    gate.opened.set()
    await asyncio.gather(*tasks)

    assert clock() == pytest.approx(102.0)


async def test_cancelled_while_it_is_first_in_line_a_caller_gives_its_connection_back() -> None:
    """
    The next call finds a place, and its moment.
    """
    clock = FakeClock()

    async def sleep(seconds: float) -> None:
        """
        Never wake up.
        """
        await asyncio.Event().wait()

    pacer = Pacer(1.0, 1, clock, sleep)
    transport = FakeTransport([REPLY] * 2)
    send = limit(transport, slots(1), (pacer,), clock)
    await send(a_request())
    task = asyncio.ensure_future(send(a_request()))
    await settle()
    task.cancel()
    await asyncio.wait([task])
    clock.now += 1.0
    await send(a_request())

    assert len(transport.requests) == 2


async def test_every_attempt_waits_for_its_moment_at_each_pacer() -> None:
    """
    The slowest of several pacers sets the pace.
    """
    clock = FakeClock()
    transport = FakeTransport([REPLY] * 3)
    pacers = (
        Pacer(100.0, 1, clock, clock.sleep),
        Pacer(10.0, 1, clock, clock.sleep),
    )
    send = limit(transport, slots(), pacers, clock)

    for _ in range(3):
        await send(a_request())
    assert clock() == pytest.approx(0.2)


async def test_the_clock_of_a_call_starts_with_its_first_turn() -> None:
    """
    A request without a deadline waits in the queue at no charge, and keeps its deadline then.
    """
    clock = FakeClock(100.0)
    request = a_request(allowance=60.0)
    send = limit(FakeTransport([REPLY] * 2), slots(), (), clock)

    assert request.tally.deadline == math.inf
    await send(request)
    assert request.tally.deadline == 160.0
    clock.now += 10.0
    await send(request)
    assert request.tally.deadline == 160.0


async def test_a_turn_that_comes_too_late_is_not_waited_for() -> None:
    """
    When the pace leaves no time before the deadline, the call ends at once and unsent.
    """
    clock = FakeClock()
    transport = FakeTransport([REPLY])
    send = limit(transport, slots(), (Pacer(0.1, 1, clock, clock.sleep),), clock)

    await send(a_request())
    with pytest.raises(DeadlineError, match=r"^no time left .*, operation test.call$"):
        await send(a_request(tally=Tally(deadline=9.0)))
    assert (len(transport.requests), clock.sleeps) == (1, [])


async def test_nothing_is_sent_after_the_deadline() -> None:
    """
    A call whose time is over is not sent, even if a place is free; the place is given back.
    """
    clock = FakeClock(100.0)
    transport = FakeTransport([REPLY])
    send = limit(transport, slots(1), (), clock)

    with pytest.raises(DeadlineError, match="no time left"):
        await send(a_request(tally=Tally(deadline=100.0)))
    await send(a_request())
    assert len(transport.requests) == 1


class Gate:
    """
    A `Send` that answers when it is opened.
    """

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.inside = 0

    async def __call__(self, request: Request) -> Response:
        """
        Count the request and wait.
        """
        self.inside += 1
        await self.opened.wait()
        return Response(200, {}, b"")


async def settle() -> None:
    """
    Let every task run until it waits.
    """
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_requests_are_in_flight_than_there_are_places() -> None:
    """
    The third request waits until one of two places is free.
    """
    gate = Gate()
    clock = FakeClock()
    send = limit(gate, slots(2), (), clock)
    tasks = [asyncio.ensure_future(send(a_request())) for _ in range(3)]

    await settle()
    assert gate.inside == 2
    gate.opened.set()
    await asyncio.gather(*tasks)
    assert gate.inside == 3


@pytest.mark.parametrize("seconds", [-1.0, 0.0], ids=["passed", "now"])
async def test_a_place_that_is_not_free_in_time_is_a_deadline(seconds: float) -> None:
    """
    A call whose time ends while it waits for a connection ends unsent.
    """
    gate = Gate()
    clock = FakeClock(100.0)
    send = limit(gate, slots(1), (), clock)
    first = asyncio.ensure_future(send(a_request()))
    await settle()

    with pytest.raises(DeadlineError, match=r"^no connection became free .*, operation test.call$"):
        await send(a_request(tally=Tally(deadline=100.0 + seconds)))
    gate.opened.set()
    await first
    assert gate.inside == 1


async def test_a_place_that_becomes_free_in_time_is_taken() -> None:
    """
    A call with time left waits for a connection and is sent.
    """
    gate = Gate()
    clock = FakeClock(100.0)
    send = limit(gate, slots(1), (), clock)
    tasks = [asyncio.ensure_future(send(a_request(tally=Tally(deadline=130.0)))) for _ in range(2)]

    await settle()
    assert gate.inside == 1
    gate.opened.set()
    await asyncio.gather(*tasks)
    assert gate.inside == 2


async def test_a_cancelled_waiter_gives_its_place_back() -> None:
    """
    Cancelling what waits, or what is in flight, leaves every place free.
    """
    gate = Gate()
    clock = FakeClock()
    send = limit(gate, slots(1), (), clock)
    tasks = [asyncio.ensure_future(send(a_request())) for _ in range(3)]
    await settle()

    for task in reversed(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    gate.opened.set()
    assert (await send(a_request())).status == 200


async def test_a_failed_request_gives_its_place_back() -> None:
    """
    An error frees its place for the next request.
    """
    clock = FakeClock()
    transport = FakeTransport([ServerError("status 500", status=500), REPLY])
    send = limit(transport, slots(1), (), clock)

    with pytest.raises(ServerError):
        await send(a_request())
    assert (await send(a_request())).status == 200
