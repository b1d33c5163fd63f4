"""Helpers for event loops: a value per loop, shielded waits, a patient timer, and injected time."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

import anyio
import anyio.lowlevel
import msgspec

from adapty_async._runtime.fork import keep_inherited, register_fork_handler

T = TypeVar("T")


class LoopLocal(Generic[T]):
    """
    A lazy container of one value for each running event loop.

    Loops may run in different threads. Values of closed loops are dropped.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, T] = (
            weakref.WeakKeyDictionary()
        )
        # the loop of the latest call and its value: nearly always that of the next call, too
        self._latest: tuple[weakref.ref[asyncio.AbstractEventLoop], T] | None = None
        self._lock = threading.Lock()
        register_fork_handler(self)

    def get(self) -> T:
        """Return the value of the running loop; create it on first use."""
        loop, latest = asyncio.get_running_loop(), self._latest
        return latest[1] if latest is not None and latest[0]() is loop else self._find(loop)

    def _find(self, loop: asyncio.AbstractEventLoop) -> T:
        with self._lock:  # `pop_all` of another thread must not leave its value here
            value = self._values.get(loop)
            if value is None:
                self._drop_closed_loops()
                value = self._values[loop] = self._make()
            self._latest = weakref.ref(loop), value

        return value

    def _drop_closed_loops(self) -> None:
        # a value often refers to its loop, which keeps the weak key alive
        for loop in [loop for loop in self._values if loop.is_closed()]:
            del self._values[loop]

    def after_fork(self) -> None:
        """Drop all values, which belong to loops of the parent process."""
        keep_inherited(self._values)
        self._values = weakref.WeakKeyDictionary()
        self._latest = None
        self._lock = threading.Lock()

    def pop_all(self) -> dict[asyncio.AbstractEventLoop, T]:
        """Remove all values and return them by loop."""
        with self._lock:
            values = dict(self._values)
            self._values.clear()
            self._latest = None

        return values


async def until_ended(task: asyncio.Future[Any]) -> None:
    """Wait until a task ends; a cancellation of the caller is raised only after that."""
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled


async def result_of(task: asyncio.Future[T]) -> T:
    """
    Wait until a task ends, and return its result.

    Raises:
        CancelledError: the caller was cancelled; raised after the end, from the task's error.
    """
    try:
        await until_ended(task)
    except asyncio.CancelledError as cancelled:
        raise cancelled from task.exception()
    return task.result()


async def despite_cancellation(task: asyncio.Future[T]) -> T:
    """Wait until a task ends, and return its result; a cancellation of the caller is not raised."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(asyncio.CancelledError):
            await until_ended(task)
        return task.result()


async def in_thread(call: Callable[[], T]) -> T:
    """
    Run a blocking call in a thread, and return its result.

    Raises:
        CancelledError: the caller was cancelled; raised after the end of the call.
    """
    result = await result_of(asyncio.get_running_loop().run_in_executor(None, call))
    await anyio.lowlevel.checkpoint_if_cancelled()  # the wait was shielded from scopes of anyio
    return result


# Seconds of delay that a timer may have in a busy loop; a longer delay means a blocked loop.
_LATE = 0.02
# Seconds that a loop has after a late timer, to send unsent requests and to read responses.
_GRACE = 0.25
# Minimum number of loop iterations after that: uvloop runs timers before it reads, and data that
# was read wakes a task in the next iteration.
_ITERATIONS = 4


class Loop(Protocol):
    """The part of an event loop that a timer needs."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> asyncio.TimerHandle:
        """Schedule a callback after a number of seconds."""
        ...

    def call_soon(self, callback: Callable[[], object], /) -> asyncio.Handle:
        """Schedule a callback for the next loop iteration."""
        ...


class PatientTimer:
    """
    A resettable timer of an event loop, with a grace period after a block.

    A blocked event loop (a blocking call, Ctrl-Z, swap) reads nothing, and its timers fire late.
    Responses may have arrived meanwhile that are still unread. A late timer therefore gives the
    loop time to read them before the callback, which may cancel a task.

    Points in time are those of `clock` and not of the loop. The clock of uvloop stands still while
    a callback runs, so the time of a blocking call would count towards the timeouts set after it.

    Args:
        call: called with the current time when the timer fires.
        stood_still: called before that with the current time, if the loop was blocked.
        clock: returns monotonic seconds.

    Attributes:
        due: the point in time that is set; infinite without one.
    """

    def __init__(
        self,
        loop: Loop,
        call: Callable[[float], object],
        stood_still: Callable[[float], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._call = call
        self._stood_still = stood_still
        self._clock = clock
        self._timer: asyncio.Handle | None = None
        self._iterations = 0
        self.due = math.inf

    def start(self, moment: float, now: float) -> None:
        """Set the timer to a point in time, which replaces the one set before."""
        self.cancel()
        self.due = moment
        if moment != math.inf:
            self._timer = self._loop.call_later(max(0.0, moment - now), self._wake)

    def cancel(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.due = None, math.inf

    def _wake(self) -> None:
        now = self._clock()
        if now - self.due > _LATE:
            self._stood_still(now)
            self._iterations = 0
            self._timer = self._loop.call_later(_GRACE, self._iterate)
        else:
            self._fire(now)

    def _iterate(self) -> None:
        if self._iterations == _ITERATIONS:
            self._fire(self._clock())
        else:
            self._iterations += 1
            self._timer = self._loop.call_soon(self._iterate)

    def _fire(self, now: float) -> None:
        self._timer, self.due = None, math.inf
        self._call(now)


class Timing(msgspec.Struct, frozen=True):
    """
    A bundle of clock, sleep and random function, which tests replace with fakes.

    Attributes:
        clock: returns monotonic seconds.
        sleep: waits for a number of seconds.
        uniform: returns a random number between two bounds.
    """

    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    uniform: Callable[[float, float], float]
