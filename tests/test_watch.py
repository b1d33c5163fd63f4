"""
The watch: whose time is over is cancelled, at its moment and not another's, by one timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from adapty_async._watch import Watch


class Loop:
    """
    The part of an event loop that makes timers, on a clock that the test moves.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[asyncio.TimerHandle] = []
        self.ready: list[asyncio.Handle] = []

    def time(self) -> float:
        """
        Return the seconds.
        """
        return self.now

    def call_later(self, delay: float, callback: Callable[[], object], /) -> asyncio.TimerHandle:
        """
        Make a timer, which rings when the test lets time pass.
        """
        when = self.now + delay
        timer = asyncio.TimerHandle(when, callback, (), asyncio.get_running_loop())
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """
        Let time pass, and timers ring.
        """
        self.now += seconds
        while due := [one for one in self.timers if one.when() <= self.now]:
            self.timers.remove(due[0])
            if not due[0].cancelled():
                due[0]._run()

    @property
    def ticking(self) -> list[float]:
        """
        Return the moments at which a timer will ring.
        """
        return [timer.when() for timer in self.timers if not timer.cancelled()]


def a_task() -> Any:
    """
    Return a task that waits for nothing that comes.
    """
    return asyncio.ensure_future(asyncio.Event().wait())


async def end(*tasks: asyncio.Task[Any]) -> None:
    """
    Leave no task behind.
    """
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_whose_time_is_over_is_cancelled_and_no_other() -> None:
    """
    Each at its own moment, whatever order they came in.
    """
    loop = Loop()
    watch = Watch(loop)
    slow, quick, quicker = tasks = [a_task(), a_task(), a_task()]
    watch.start(slow, 30.0)
    watch.start(quick, 10.0)
    watch.start(quicker, 5.0)
    late = []
    for _ in range(3):
        loop.advance(5.0)
        late.append([watch.is_late(task) for task in tasks])

    assert late == [[False, False, True], [False, True, True], [False, True, True]]
    assert [task.cancelling() for task in tasks] == [0, 1, 1]
    assert loop.ticking == [130.0]
    await end(*tasks)


async def test_one_timer_serves_all() -> None:
    """
    A thousand that end in time cost no timer of their own, and nobody is cancelled.
    """
    loop = Loop()
    watch = Watch(loop)
    task = a_task()
    for _ in range(1000):
        watch.start(task, 30.0)
        watch.stop(task)
        loop.advance(0.1)

    assert len(loop.ticking) == 1
    assert task.cancelling() == 0
    loop.advance(60.0)
    assert loop.ticking == []
    await end(task)


async def test_that_a_task_was_cancelled_is_taken_back() -> None:
    """
    Who deals with its time being over is not taken for cancelled by somebody else afterwards.
    """
    loop = Loop()
    watch = Watch(loop)
    task = a_task()
    watch.start(task, 1.0)
    loop.advance(1.0)
    assert (watch.is_late(task), task.cancelling()) == (True, 1)
    watch.stop(task)

    assert (watch.is_late(task), task.cancelling()) == (False, 0)
    await end(task)


async def test_somebody_is_cancelled_once() -> None:
    """
    Who takes long to end after its time is not cancelled again and again.
    """
    loop = Loop()
    watch = Watch(loop)
    late, other = a_task(), a_task()
    watch.start(late, 1.0)
    watch.start(other, 2.0)
    loop.advance(1.0)
    loop.advance(1.0)

    assert (late.cancelling(), other.cancelling()) == (1, 1)
    await end(late, other)


async def test_a_watch_that_is_closed_leaves_no_timer() -> None:
    """
    Closing gives the timer back, also where there is none.
    """
    loop = Loop()
    watch = Watch(loop)
    task = a_task()
    watch.close()
    watch.start(task, 30.0)
    assert loop.ticking == [130.0]
    watch.close()

    assert loop.ticking == []
    await end(task)
