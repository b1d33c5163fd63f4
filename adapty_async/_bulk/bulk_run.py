"""
Many items through one function, a bounded number at a time; knows nothing of Adapty.

Laws:
- Every item that is read ends in exactly one outcome, whatever happens.
- What is read and not yet handed over never exceeds twice the concurrency.
- Once a run is stopping, no request is sent that was not on the wire at that moment.
- When the run is left, by any way out, none of its tasks is alive.
"""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, nullcontext
from types import TracebackType
from typing import Any, Generic, TypeAlias, TypeVar

import anyio

from adapty_async._bulk.outcome import (
    BulkReport,
    EarlierStatus,
    Outcome,
    OutcomeStatus,
    ReportBuilder,
    StopReason,
)
from adapty_async._bulk.settings import RunSettings
from adapty_async._bulk.source import Source
from adapty_async._bulk.worker_pool import Worker, WorkerPool
from adapty_async._flow.semaphore import PrioritySemaphore
from adapty_async._runtime.tasks import until_ended
from adapty_async._runtime.timer import PatientTimer
from adapty_async.errors import AdaptyError, strip_traceback

__all__ = ("BulkRun",)

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


Process: TypeAlias = Callable[[int, ItemT, Worker], Awaitable[Outcome[ItemT, ResultT]]]
#: What a run lasts in.
Lifespan: TypeAlias = Callable[["BulkRun[Any, Any]"], AbstractAsyncContextManager[object]]
StopCheck: TypeAlias = Callable[[Outcome[Any, Any]], StopReason | None]
#: How the item at a position ended before, None if it is not known to have.
Earlier: TypeAlias = Callable[[int], EarlierStatus | None]

# Items that are only counted between two turns of the event loop.
_BREATH = 256


class BulkRun(Coroutine[Any, Any, BulkReport[ItemT, ResultT]], Generic[ItemT, ResultT]):
    """
    A bulk run: await it for its `BulkReport`, or stream its outcomes as they come.

    It is a coroutine, so `asyncio.create_task`, `asyncio.gather` and task groups take it, too.

    Example:
        >>> report = await client.v1.profiles.bulk_delete(ids, by="customer_user_id")
        >>> async with client.v1.profiles.bulk_delete(ids, by="customer_user_id") as run:
        ...     async for outcome in run:
        ...         print(outcome.index, outcome.status)

    Nothing is sent before one of the two. Leaving the block early, an exception, or a cancellation
    end the run: nothing more is sent, requests on the wire get the drain time, and what is not over
    by then is cancelled.
    """

    def __init__(
        self,
        source: Source[ItemT],
        process: Process[ItemT, ResultT],
        judge: StopCheck,
        settings: RunSettings,
        context: Lifespan = lambda _: nullcontext(),
        earlier: Earlier = lambda _: None,
    ) -> None:
        self._source = source
        self._process = process
        self._check = judge
        self._settings = settings
        self._lifespan = context
        self._earlier = earlier
        self._report_builder: ReportBuilder[ItemT, ResultT] = ReportBuilder()
        self._coroutine: Coroutine[Any, Any, BulkReport[ItemT, ResultT]] | None = None
        self._main: asyncio.Task[None]  # made when the run starts, as are the next two
        self._loop: asyncio.AbstractEventLoop
        self._thread: int
        self._workers = WorkerPool(settings.concurrency)
        self._started: float | None = None
        self._ended: float | None = None
        self._opened = False  # what the run lasts in
        self._deadline: PatientTimer | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._failure: BaseException | None = None
        self._stopping = settings.stopping
        self._stop_reason: StopReason | None = None
        self._read_rest = False
        self._streamed = False
        self._holds_back = False  # items wait until there is room for their outcomes
        self._tells = False  # somebody learns of outcomes before the end
        self._room = PrioritySemaphore(2 * settings.concurrency)
        self._ready: asyncio.Queue[Outcome[ItemT, ResultT] | None] = asyncio.Queue()
        self._held: dict[int, Outcome[ItemT, ResultT]] = {}
        self._next_index = 0

    @property
    def report(self) -> BulkReport[ItemT, ResultT]:
        """The account so far; final once the run has ended."""
        now = time.monotonic() if self._ended is None else self._ended
        elapsed = 0.0 if self._started is None else now - self._started
        return self._report_builder.report(elapsed=elapsed, stop_reason=self._stop_reason)

    @property
    def is_watched(self) -> bool:
        """Whether the caller receives outcomes before the run ends."""
        return self._streamed or self._settings.on_outcome is not None

    @property
    def in_flight(self) -> int:
        """The number of requests on the wire: written in part or whole, with no response yet."""
        return self._workers.in_flight

    def stop(self) -> None:
        """
        Send nothing more. Requests on the wire get the drain time to end, and the run with them.

        Any thread may call it; from another one, it takes effect in the loop's next turn.
        """
        self._in_loop(self._stop_now)

    def cut_off(self) -> None:
        """
        Send nothing more, and cancel the requests on the wire; their items are reported as is.

        Any thread may call it, as with `stop`.
        """
        self._in_loop(self._cut_off_now)

    def _in_loop(self, end: Callable[[], None]) -> None:
        """
        End the run in the thread of its event loop, or here if it has none: not started, or closed.
        """
        if self._ended is not None:
            return
        if self._started is None:
            end()
        elif self._loop.is_closed():
            self._stopping.set()
        elif self._thread == threading.get_ident():
            end()
        else:
            self._loop.call_soon_threadsafe(end)

    def _stop_now(self) -> None:
        self._stop(StopReason.STOPPED)

    def _cut_off_now(self) -> None:
        self._stop(StopReason.STOPPED)
        if self._started is not None:
            self._end_drain()

    def __await__(self) -> Generator[Any, Any, BulkReport[ItemT, ResultT]]:
        return (yield from self._complete().__await__())

    def send(self, value: Any, /) -> Any:
        """Resume the run as a coroutine; what `asyncio.create_task` does."""
        return self._as_coroutine().send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an exception in the run as a coroutine; one that has not started never will."""
        self._never_start()
        return self._as_coroutine().throw(*error)

    def close(self) -> None:
        """Give the run up as a coroutine: nothing more is sent, and nothing is waited for."""
        self._never_start()
        if self._coroutine is not None:
            self._coroutine.close()
        self.cut_off()  # if it is awaited or streamed instead

    def _as_coroutine(self) -> Coroutine[Any, Any, BulkReport[ItemT, ResultT]]:
        if self._coroutine is None:
            self._coroutine = self._complete()
        return self._coroutine

    def _never_start(self) -> None:
        if self._started is None:
            self._stop(StopReason.STOPPED)
            self._started = self._ended = time.monotonic()

    async def _complete(self) -> BulkReport[ItemT, ResultT]:
        if self._streamed:
            async for _ in self:
                pass
            return self.report
        self._start(streamed=False)
        try:
            await asyncio.wait({self._main})
        except GeneratorExit:  # nothing can be awaited any more
            self.cut_off()
            raise
        except BaseException:
            await self._end()
            raise
        self._raise_failure()
        return self.report

    async def __aenter__(self) -> BulkRun[ItemT, ResultT]:
        self._start(streamed=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._end()
        if error is None:
            self._raise_failure()

    def __aiter__(self) -> BulkRun[ItemT, ResultT]:
        return self

    async def __anext__(self) -> Outcome[ItemT, ResultT]:
        if not self._streamed:
            raise RuntimeError("outcomes are streamed inside 'async with' only")
        outcome = await self._ready.get()
        if outcome is None:
            self._ready.put_nowait(None)  # for whoever asks again
            self._raise_failure()
            raise StopAsyncIteration
        self._room.release()
        return outcome

    def _start(self, *, streamed: bool) -> None:
        if self._started is not None:
            raise RuntimeError("a bulk run is used once; make a new one")
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._started = time.monotonic()
        self._streamed = streamed
        self._holds_back = streamed or self._settings.ordered
        self._tells = self._holds_back or self._settings.on_outcome is not None
        # a task of its own: the caller's cancel scopes must not reach what is to be drained
        self._main = self._loop.create_task(self._run())
        self._main.add_done_callback(self._close)

    async def _run(self) -> None:
        async with self._lifespan(self):
            self._opened = True
            crew = self._settings.worker_limit
            if crew is not None:
                crew.spawn = self._call
            self._call(self._settings.concurrency if crew is None else crew.limit)
            self._look()
            await self._until_workers_ended()
            try:
                await self._account_for_rest()
            except asyncio.CancelledError as error:
                if self._main.cancelling():
                    raise
                self._fail(error)
            except BaseException as error:  # noqa: BLE001  the source's or on_outcome's own
                self._fail(error)

    def _call(self, workers: int) -> None:
        if not self._stopping.is_set():
            self._workers.spawn(self._work, workers)

    def _look(self) -> None:
        """Stop the run if an outage has lasted too long, also while every item waits."""
        patience = self._settings.patience()
        if patience <= 0.0:
            self._stop(StopReason.OUTAGE, read_rest=self._source.sized)
        if not self._stopping.is_set():
            every = self._settings.look_every
            seconds = min(max(patience, every / 100), every)
            self._next_look = self._loop.call_later(seconds, self._look)

    async def _until_workers_ended(self) -> None:
        try:
            await self._workers.until_ended()
        except asyncio.CancelledError:  # the run is cut off, or its loop ends
            self._stop_once()
            await self._workers.abort()
            raise

    def _close(self, main: asyncio.Task[None]) -> None:
        if main.cancelled():
            self._stop(StopReason.STOPPED)
        else:
            failure = main.exception()  # asked for in any case, or asyncio complains
            self._failure = self._failure or failure
        self._ended = time.monotonic()
        if self._settings.worker_limit is not None:
            self._settings.worker_limit.spawn = None
        for timer in self._deadline, self._next_look:
            if timer is not None:
                timer.cancel()
        self._ready.put_nowait(None)

    async def _end(self) -> None:
        self._stop(StopReason.STOPPED)
        self._begin_drain()  # it was stopped before it started
        try:
            with anyio.CancelScope(shield=True):
                await asyncio.wait({self._main})
        finally:
            self._end_drain()
            await until_ended(self._main)

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    async def _work(self, worker: Worker) -> None:
        task, crew = asyncio.current_task(), self._settings.worker_limit
        assert task is not None  # noqa: S101  it is one of the run's own
        try:
            while (entry := self._take_now(task) or await self._take(task)) is not None:
                outcome = await self._process(*entry, worker)
                self._deliver(outcome)
                if worker.failure is not None:
                    raise worker.failure
                if not outcome.attempts:  # a long row of bad items must not hold up the loop
                    await asyncio.sleep(0)
                elif crew is not None and crew.should_retire(len(self._workers)):
                    break
        except GeneratorExit:  # the loop is gone
            raise
        except BaseException as error:
            entry = None  # there are tools that print the locals of every frame of a traceback
            if isinstance(error, asyncio.CancelledError) and task.cancelling():
                self._stop_once()
                raise
            self._fail(error)  # the source's, build's, a hook's or on_outcome's own
        finally:
            self._workers.remove(task)

    def _take_now(self, worker: asyncio.Task[Any]) -> tuple[int, ItemT] | None:
        """Take an item, if that needs no wait and no closer look."""
        take_now = self._source.take_now
        if take_now is None or self._holds_back or self._stopping.is_set() or worker.cancelling():
            return None
        return take_now()

    async def _take(self, worker: asyncio.Task[Any]) -> tuple[int, ItemT] | None:
        if worker.cancelling():  # the loop ends, and cancels everything in no order
            self._stop_once()
        if self._stopping.is_set():
            return None
        if self._holds_back:
            await self._room.acquire()
        return self._unless_stopping(await self._source.take())

    def _unless_stopping(self, entry: tuple[int, ItemT] | None) -> tuple[int, ItemT] | None:
        if entry is None or not self._stopping.is_set():
            return entry
        outcome = self._not_sent(*entry)  # a source yields it in spite of the stop
        self._settings.record(outcome)  # one for each worker at most, so there is room
        self._deliver(outcome)
        return None

    def _not_sent(self, index: int, item: ItemT) -> Outcome[ItemT, ResultT]:
        earlier = self._earlier(index)
        status = OutcomeStatus.NOT_SENT if earlier is None else OutcomeStatus.SKIPPED
        return Outcome(index, item, status, earlier=earlier)

    def _deliver(self, outcome: Outcome[ItemT, ResultT]) -> None:
        self._report_builder.add(outcome)
        if self._tells:
            self._tell(outcome)
        reason = self._check(outcome)
        if reason is None and self._settings.fail_fast and not outcome.ok:
            reason = StopReason.FAIL_FAST
        if reason is not None and not self._stopping.is_set():
            self._stop(reason, read_rest=self._source.sized)

    def _tell(self, outcome: Outcome[ItemT, ResultT]) -> None:
        if not self._settings.ordered:
            self._hand_over(outcome)
            return
        self._held[outcome.index] = outcome
        while (ready := self._held.pop(self._next_index, None)) is not None:
            self._next_index += 1
            self._hand_over(ready)

    def _hand_over(self, outcome: Outcome[ItemT, ResultT]) -> None:
        if self._streamed:
            self._ready.put_nowait(outcome)
        elif self._settings.ordered:
            self._room.release()
        if self._settings.on_outcome is not None:
            try:
                self._settings.on_outcome(outcome)
            except BaseException as error:  # noqa: BLE001  it ends the run; other outcomes may wait
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, AdaptyError):
            strip_traceback(error)  # it says all there is to say itself; its frames hold items
        self._failure = self._failure or error
        self._stop(StopReason.STOPPED)

    def _stop_once(self) -> None:
        if not self._stopping.is_set():
            self._stop(StopReason.STOPPED)

    def _stop(self, reason: StopReason, *, read_rest: bool = False) -> None:
        if self._ended is not None:
            return
        self._read_rest = read_rest
        self._stop_reason = self._stop_reason or reason
        if not read_rest:
            self._room.release()  # who waits for room to read the rest is to see that it is over
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._started is not None:
            self._workers.cancel(on_wire=False)
            self._begin_drain()

    def _begin_drain(self) -> None:
        if self._deadline is None and self._ended is None:
            self._deadline = PatientTimer(self._loop, lambda _: self._end_drain())
            now = time.monotonic()
            self._deadline.start(now + self._settings.drain, now)

    def _end_drain(self) -> None:
        self._workers.cancel(on_wire=True)
        if not self._opened:
            self._main.cancel()

    async def _account_for_rest(self) -> None:
        """
        Read what was not sent, if the input has an end for certain, so that it is in the report.
        """
        while (entry := await self._take_rest()) is not None:
            outcome = self._not_sent(*entry)
            waiting = self._settings.record(outcome)
            self._report_builder.add(outcome)
            self._hand_over(outcome)
            if waiting is not None:
                await waiting
            if outcome.index % _BREATH == 0:
                await asyncio.sleep(0)

    async def _take_rest(self) -> tuple[int, ItemT] | None:
        if self._streamed and self._read_rest:
            await self._room.acquire()
        return await self._source.take() if self._read_rest else None

    def __repr__(self) -> str:
        return f"BulkRun({self.report!r})"

    def __del__(self) -> None:
        if getattr(self, "_started", 0.0) is None:
            warnings.warn(
                "a bulk run was made but never awaited, so nothing was sent",
                RuntimeWarning,
                source=self,
                stacklevel=2,
            )
