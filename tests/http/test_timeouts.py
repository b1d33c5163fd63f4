"""The timeout scheduler, which cancels slow attempts with one timer, on a fake clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from adapty_async._api.call import CallState
from adapty_async._http.attempt import TimeoutScheduler


class Loop:
    """The part of an event loop that makes timers, on a clock that the test advances."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[asyncio.TimerHandle] = []
        self.ready: list[asyncio.Handle] = []

    def time(self) -> float:
        """Return the seconds."""
        return self.now

    def call_later(self, delay: float, callback: Callable[[], object], /) -> asyncio.TimerHandle:
        """Make a timer, which fires when the test advances the clock."""
        when = self.now + delay
        timer = asyncio.TimerHandle(when, callback, (), asyncio.get_running_loop())
        self.timers.append(timer)
        return timer

    def call_soon(self, callback: Callable[[], object], /) -> asyncio.Handle:
        """Run a callback in the next loop iteration."""
        handle = asyncio.Handle(callback, (), asyncio.get_running_loop())
        self.ready.append(handle)
        return handle

    def advance(self, seconds: float) -> None:
        """Advance the clock, and fire each timer at its time."""
        end = self.now + seconds
        while due := [when for when in self.ticking if when <= end]:
            self.now = max(self.now, min(due))
            self.ring()
        self.now = end

    def stand_still(self, seconds: float) -> None:
        """Advance the clock while the loop is blocked, and then fire the timers that are due."""
        self.now += seconds
        self.ring()

    def ring(self) -> None:
        """Run the timers that are due."""
        due = [timer for timer in self.timers if timer.when() <= self.now]
        self.timers = [timer for timer in self.timers if timer not in due]
        for timer in due:
            if not timer.cancelled():
                timer._run()

    def turn(self) -> None:
        """Run the callbacks that are ready."""
        ready, self.ready = self.ready, []
        for handle in ready:
            if not handle.cancelled():
                handle._run()

    @property
    def ticking(self) -> list[float]:
        """Return the times at which timers will fire."""
        return [timer.when() for timer in self.timers if not timer.cancelled()]


def scheduler_of(loop: Loop) -> TimeoutScheduler:
    """Return a timeout scheduler on a loop's clock."""
    return TimeoutScheduler(loop, loop.time)


def sent() -> CallState:
    """Return the state of a call whose attempt is on the wire."""
    return CallState(on_wire=True)


def a_task() -> Any:
    """Return a task that waits forever."""
    return asyncio.ensure_future(asyncio.Event().wait())


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel the remaining tasks."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_whose_time_is_over_is_cancelled_and_no_other() -> None:
    """Each task is cancelled at its own deadline, whatever order they were scheduled in."""
    loop = Loop()
    scheduler = scheduler_of(loop)
    slow, quick, quicker = tasks = [a_task(), a_task(), a_task()]
    scheduler.schedule(slow, 30.0, sent())
    scheduler.schedule(quick, 10.0, sent())
    scheduler.schedule(quicker, 5.0, sent())
    late = []
    for _ in range(3):
        loop.advance(5.0)
        late.append([scheduler.expired(task) for task in tasks])

    assert late == [[False, False, True], [False, True, True], [False, True, True]]
    assert [task.cancelling() for task in tasks] == [0, 1, 1]
    assert loop.ticking == [130.0]
    await end(*tasks)


async def test_one_timer_serves_all() -> None:
    """A thousand attempts that end in time cost no timer of their own, and none is cancelled."""
    loop = Loop()
    scheduler = scheduler_of(loop)
    task = a_task()
    for _ in range(1000):
        scheduler.schedule(task, 30.0, sent())
        scheduler.cancel(task)
        loop.advance(0.1)

    assert len(loop.ticking) <= 1
    assert task.cancelling() == 0
    loop.advance(60.0)
    assert loop.ticking == []
    await end(task)


async def test_the_cancellation_of_a_task_is_undone() -> None:
    """A task that handles its timeout does not count as cancelled by another one later."""
    loop = Loop()
    scheduler = scheduler_of(loop)
    task = a_task()
    scheduler.schedule(task, 1.0, sent())
    loop.advance(1.0)
    assert (scheduler.expired(task), task.cancelling()) == (True, 1)
    scheduler.cancel(task)

    assert (scheduler.expired(task), task.cancelling()) == (False, 0)
    await end(task)


async def test_somebody_is_cancelled_once() -> None:
    """A task that ends long after its timeout is cancelled only once."""
    loop = Loop()
    scheduler = scheduler_of(loop)
    late, other = a_task(), a_task()
    scheduler.schedule(late, 1.0, sent())
    scheduler.schedule(other, 2.0, sent())
    loop.advance(1.0)
    loop.advance(1.0)

    assert (late.cancelling(), other.cancelling()) == (1, 1)
    await end(late, other)


async def test_an_attempt_that_is_left_when_the_scheduler_is_closed_times_out_soon() -> None:
    """Without one, there is no timer."""
    loop = Loop()
    scheduler = scheduler_of(loop)
    task = a_task()
    scheduler.close()
    assert loop.ticking == []
    scheduler.schedule(task, 30.0, sent())
    assert loop.ticking == [110.0]
    scheduler.close()
    assert loop.ticking == [100.1]
    loop.advance(0.1)

    assert scheduler.expired(task)
    assert (loop.ticking, loop.ready) == ([], [])
    await end(task)


async def test_connecting_takes_less_than_the_attempt() -> None:
    """An attempt that is not on the wire ends after 90 % of its timeout, and within ten seconds."""
    loop = Loop()
    scheduler = scheduler_of(loop)
    short, long, connected = tasks = [a_task(), a_task(), a_task()]
    scheduler.schedule(short, 1.0, CallState())
    scheduler.schedule(long, 30.0, CallState())
    scheduler.schedule(connected, 30.0, sent())
    loop.advance(0.95)
    assert [task.cancelling() for task in tasks] == [1, 0, 0]
    loop.advance(9.1)

    assert [task.cancelling() for task in tasks] == [1, 1, 0]
    await end(*tasks)


def grace(loop: Loop) -> None:
    """Advance the clock by the grace period that a loop has after a late timer."""
    loop.advance(0.25)
    for _ in range(4):
        loop.turn()


async def test_a_loop_that_stood_still_reads_before_anything_is_cancelled() -> None:
    """After a late timer the loop has a grace period; a task with a response by then continues."""
    loop = Loop()
    scheduler = scheduler_of(loop)
    answered, silent = a_task(), a_task()
    scheduler.schedule(answered, 1.0, sent())
    scheduler.schedule(silent, 1.0, sent())
    loop.stand_still(1.2)
    loop.advance(0.25)
    scheduler.cancel(answered)
    for _ in range(3):
        loop.turn()
    assert silent.cancelling() == 0
    loop.turn()

    assert (answered.cancelling(), silent.cancelling()) == (0, 1)
    await end(answered, silent)


async def test_a_moment_that_is_over_late_still_lets_the_loop_turn() -> None:
    """A loop that is blocked again has its four iterations nevertheless, each time."""
    loop = Loop()
    scheduler = scheduler_of(loop)
    for _ in range(2):
        task = a_task()
        scheduler.schedule(task, 1.0, sent())
        loop.stand_still(1.2)
        loop.stand_still(5.0)
        cancelled = []
        for _ in range(4):
            loop.turn()
            cancelled.append(task.cancelling())

        assert cancelled == [0, 0, 0, 1]
        scheduler.cancel(task)
        await end(task)


async def test_an_attempt_that_was_not_sent_begins_again_after_a_stall_once() -> None:
    """The time of a block does not count for connecting, so nothing is sent and cancelled."""
    loop = Loop()
    scheduler = scheduler_of(loop)
    task = a_task()
    state = CallState()
    scheduler.schedule(task, 1.0, state)
    loop.stand_still(5.0)
    grace(loop)
    state.on_wire = True
    assert task.cancelling() == 0
    loop.advance(0.6)
    assert task.cancelling() == 0
    state.on_wire = False
    loop.stand_still(5.0)
    grace(loop)

    assert task.cancelling() == 1
    await end(task)


async def test_a_timer_that_rings_early_is_made_again() -> None:
    """A loop whose own clock was behind fires too early; no task is cancelled too early."""
    loop = Loop()
    scheduler = scheduler_of(loop)
    task = a_task()
    scheduler.schedule(task, 1.0, sent())
    loop.now += 0.5
    loop.timers.pop()._run()
    assert task.cancelling() == 0
    loop.advance(0.5)

    assert task.cancelling() == 1
    await end(task)
