"""
A bulk runner: a worker pool that passes many items through one function, of any kind.

Invariants:
- Every item that is read ends in exactly one outcome, whatever happens.
- Items that are read and not yet delivered never exceed twice the concurrency, and the items that
  wait for an endpoint with a limit of its own.
- A stopping run sends no request that was not on the wire when the stop began.
- When the caller leaves the run, on any path, none of its tasks is alive.
"""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Generic, TypeAlias, TypeVar

import anyio

from adapty_async._bulk.outcome import (
    BulkReport,
    Outcome,
    OutcomeStatus,
    ReportBuilder,
    StopReason,
)
from adapty_async._bulk.settings import RunSettings, WorkerLimit
from adapty_async._bulk.workers import PER_ITERATION, Source, Worker, WorkerPool, source_of
from adapty_async._flow.queues import PrioritySemaphore
from adapty_async._runtime.loop import PatientTimer, despite_cancellation, until_ended
from adapty_async.errors import AdaptyError, strip_traceback

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


Process: TypeAlias = Callable[[int, ItemT, Worker], Awaitable[Outcome[ItemT, ResultT]]]
#: Returns the context manager that is open during a run.
Lifespan: TypeAlias = Callable[["BulkRun[Any, Any]"], AbstractAsyncContextManager[object]]
StopCheck: TypeAlias = Callable[[Outcome[Any, Any]], StopReason | None]

# Tasks that read the rest of an input.
_READERS_OF_REST = 64
# Checks of a run, after it has spawned workers, in the interval of one.
_CHECKS_WHILE_GROWING = 20


class BulkRun(Coroutine[Any, Any, BulkReport[ItemT, ResultT]], Generic[ItemT, ResultT]):
    """
    A coroutine that runs a bulk operation: await it for its `BulkReport`, or stream its outcomes.

    `asyncio.create_task`, `asyncio.gather` and task groups accept it, too.

    Example:
        >>> report = await client.v1.profiles.bulk_delete(ids, by="customer_user_id")
        >>> async with client.v1.profiles.bulk_delete(ids, by="customer_user_id") as run:
        ...     async for outcome in run:
        ...         print(outcome.index, outcome.status)

    Nothing is sent before one of the two. An early exit from the block, an exception or a
    cancellation ends the run: it sends nothing more, drains the requests on the wire for the drain
    time, and cancels those that are still in flight then.
    """

    def __init__(
        self,
        source: Source[ItemT],
        process: Process[ItemT, ResultT],
        stop_check: StopCheck,
        settings: RunSettings,
        lifespan: Lifespan,
        pass_over: Process[ItemT, ResultT],
    ) -> None:
        self._source = source
        self._process = process
        self._check = stop_check
        self._settings = settings
        self._lifespan = lifespan
        self._pass_over = pass_over
        self._report_builder: ReportBuilder[ItemT, ResultT] = ReportBuilder()
        self._coroutine: Coroutine[Any, Any, BulkReport[ItemT, ResultT]] | None = None
        self._main: asyncio.Task[None]  # set when the run starts, as are the next two
        self._loop: asyncio.AbstractEventLoop
        self._thread: int
        limit = settings.worker_limit
        self._workers = WorkerPool(settings.concurrency if limit is None else limit.most_workers)
        self._started: float | None = None
        self._ended: float | None = None
        self._is_open = self._is_over = False  # the lifespan; every item has its outcome
        self._deadline: PatientTimer | None = None
        self._check_timer: asyncio.TimerHandle | None = None
        self._failure: BaseException | None = None
        self._stopping = settings.stopping
        self._stop_reason: StopReason | None = None
        self._read_rest = False
        self._streamed = False
        self._is_bounded = False  # items are read only if there is room for their outcomes
        self._read_nowait: Callable[[], tuple[int, ItemT] | None] | None = None
        self._delivers_early = False  # outcomes are delivered before the end
        self._room = PrioritySemaphore(2 * settings.concurrency)
        self._ready: asyncio.Queue[Outcome[ItemT, ResultT] | None] = asyncio.Queue()
        self._held: dict[int, Outcome[ItemT, ResultT]] = {}
        self._next_index = 0

    @property
    def report(self) -> BulkReport[ItemT, ResultT]:
        """The report so far; final once the run has ended."""
        now = time.monotonic() if self._ended is None else self._ended
        elapsed = 0.0 if self._started is None else now - self._started
        return self._report_builder.report(elapsed=elapsed, stop_reason=self._stop_reason)

    @property
    def counts(self) -> Mapping[OutcomeStatus, int]:
        """The number of items that have ended, by status; the mapping changes with the run."""
        return self._report_builder.counts

    @property
    def is_watched(self) -> bool:
        """Whether the caller receives outcomes before the run ends."""
        return self._streamed or self._settings.on_outcome is not None

    @property
    def in_flight(self) -> int:
        """The number of requests that are written in part or in full, without a response."""
        return self._workers.in_flight

    def stop(self) -> None:
        """
        Send nothing more, drain the requests on the wire for the drain time, and end the run.

        Any thread may call it. From another thread it takes effect in the loop's next iteration.
        """
        self._in_loop(self._stop_now)

    def cut_off(self) -> None:
        """
        Send nothing more, and cancel the requests on the wire. Their items get an outcome.

        Any thread may call it, as with `stop`.
        """
        self._in_loop(self._cancel_now)

    def _in_loop(self, end: Callable[[], None]) -> None:
        """End the run in the thread of its event loop; here if it has not started or is closed."""
        if self._ended is not None:
            return
        if self._started is None:
            end()
        elif self._loop.is_closed():
            self._stopping.is_set = True
        elif self._thread == threading.get_ident():
            end()
        else:
            self._loop.call_soon_threadsafe(end)

    def _stop_now(self) -> None:
        self._stop(StopReason.STOPPED)

    def _cancel_now(self) -> None:
        self._stop(StopReason.STOPPED)
        if self._started is not None:
            self._end_drain()

    def __await__(self) -> Generator[Any, Any, BulkReport[ItemT, ResultT]]:
        return (yield from self._complete().__await__())

    def send(self, value: Any, /) -> Any:
        """Resume the run as a coroutine, as `asyncio.create_task` does."""
        return self._as_coroutine().send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an exception in the run as a coroutine; a run that has not started never starts."""
        self._never_start()
        return self._as_coroutine().throw(*error)

    def close(self) -> None:
        """Close the run as a coroutine: it sends nothing more, and waits for nothing."""
        self._never_start()
        if self._coroutine is not None:
            self._coroutine.close()
        self.cut_off()  # in case it is awaited or streamed instead

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
            self._ready.put_nowait(None)  # for the next call
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
        self._is_bounded = streamed or self._settings.ordered
        self._read_nowait = None if self._is_bounded else self._source.read_nowait
        self._delivers_early = self._is_bounded or self._settings.on_outcome is not None
        # a task of its own: the caller's cancel scopes must not cancel requests that are drained
        self._main = self._loop.create_task(self._run())
        self._main.add_done_callback(self._close)

    async def _run(self) -> None:
        """Run from the opening of the lifespan until all outcomes are reported."""
        async with self._lifespan(self):
            self._is_open = True
            worker_limit = self._settings.worker_limit
            self._spawn(self._settings.concurrency if worker_limit is None else worker_limit.limit)
            self._check_regularly()
            await self._until_workers_ended()
            # several at once, since each may wait for its journal; one if their order matters
            most = min(_READERS_OF_REST, 2 * self._settings.concurrency)
            readers = 1 if self._is_bounded else most
            each = PER_ITERATION // readers
            await asyncio.gather(*(self._report_rest(each) for _ in range(readers)))
            self._is_over = True  # a stop while the lifespan closes is not why the run ended

    def _spawn(self, workers: int) -> None:
        if not self._stopping.is_set and (rest := self._workers.spawn(self._work, workers)):
            self._loop.call_soon(self._spawn_rest, rest, len(self._workers))

    def _spawn_rest(self, workers: int, before: int) -> None:
        if len(self._workers) >= before:  # otherwise one has ended: there are no more items
            self._spawn(workers)

    def _adapt(self, worker_limit: WorkerLimit) -> bool:
        """Spawn the workers that have become useful; return whether one should end instead."""
        if more := worker_limit.more_wanted():
            self._spawn(more)
        return worker_limit.should_retire(len(self._workers))

    def _check_regularly(self) -> None:
        """
        Stop the run if an outage has lasted too long, and spawn workers that have become useful.

        It runs at regular intervals, so also while every item waits. It runs again soon after it
        has spawned workers, whose items may wait, too. A run that drains has its reason to end.
        """
        if self._stopping.is_set:
            return
        worker_limit, workers = self._settings.worker_limit, len(self._workers)
        if worker_limit is not None and workers:  # otherwise the input has ended
            self._adapt(worker_limit)
        patience = self._settings.patience()
        if patience <= 0.0:
            self._stop(StopReason.OUTAGE, read_rest=self._source.sized)
        if not self._stopping.is_set:
            is_growing = 0 < workers < len(self._workers)
            interval = self._settings.check_interval / (_CHECKS_WHILE_GROWING if is_growing else 1)
            seconds = min(max(patience, interval / 100), interval)
            self._check_timer = self._loop.call_later(seconds, self._check_regularly)

    async def _until_workers_ended(self) -> None:
        try:
            await self._workers.until_ended()
        except asyncio.CancelledError:  # the run is cancelled, or its loop ends
            self._stop_once()
            await self._workers.abort()
            raise

    def _close(self, main: asyncio.Task[None]) -> None:
        # always read: asyncio logs an exception that is not read
        failure = None if main.cancelled() else main.exception()
        self._failure = self._failure or failure
        if failure is not None or main.cancelled():
            self._stop(StopReason.STOPPED)
        self._ended = time.monotonic()
        for timer in self._deadline, self._check_timer:
            if timer is not None:
                timer.cancel()
        # a generator that is left unread may hold a connection of a database
        self._source, self._read_nowait = source_of(()), None
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
        match failure:
            case None:
                return
            case StopAsyncIteration():  # a stream would seem to have ended in order
                raise RuntimeError("a callback raised StopAsyncIteration") from failure
            case _:
                raise failure

    async def _work(self, worker: Worker) -> None:
        task, worker_limit = asyncio.current_task(), self._settings.worker_limit
        assert task is not None  # noqa: S101  a worker is a task
        worker.task = task
        try:
            while (entry := self._try_next(task) or await self._next(task)) is not None:
                index, item = entry
                outcome = await self._process(index, item, worker)
                self._deliver(outcome)
                if worker.failure is not None:
                    raise worker.failure
                if not outcome.attempts and (outcome.earlier is None or self._workers.must_pause()):
                    await self._workers.pause()
                elif worker_limit is not None and outcome.attempts and self._adapt(worker_limit):
                    break
        except BaseException as error:
            if worker.is_closed_by(error):
                raise
            # some tools print the local variables of every frame of a traceback
            entry = item = None
            if isinstance(error, asyncio.CancelledError) and task.cancelling():
                self._stop_once()
                raise
            self._fail(error)  # raised by the source, build, a hook or on_outcome
        finally:
            self._workers.remove(task)

    def _try_next(self, worker: asyncio.Task[Any]) -> tuple[int, ItemT] | None:
        """Return the next item if that needs no wait and no further check."""
        if self._read_nowait is None or self._stopping.is_set or worker.cancelling():
            return None
        return self._read_nowait()

    async def _next(self, worker: asyncio.Task[Any]) -> tuple[int, ItemT] | None:
        if self._is_stopping(worker):
            return None
        if self._is_bounded:
            await self._room.acquire()
        entry = await self._source.read()
        if entry is None or not self._stopping.is_set:
            return entry
        # the source yielded it after the stop
        passing_over = asyncio.ensure_future(self._pass_over(*entry, Worker()))
        self._deliver(await despite_cancellation(passing_over))  # this worker ends anyway
        return None

    def _is_stopping(self, worker: asyncio.Task[Any]) -> bool:
        if worker.cancelling():  # the loop ends, and cancels all tasks in no order
            self._stop_once()
        return self._stopping.is_set

    def _deliver(self, outcome: Outcome[ItemT, ResultT]) -> None:
        """Count an outcome and deliver it; stop the run if `fail_fast` or the policy says so."""
        self._report_builder.add(outcome)
        if self._delivers_early:
            self._deliver_in_order(outcome)
        reason = self._check(outcome)
        if reason is None:
            if not self._settings.fail_fast or outcome.ok:
                return
            reason = StopReason.FAIL_FAST
        if not self._stopping.is_set:
            self._stop(reason, read_rest=self._source.sized)

    def _deliver_in_order(self, outcome: Outcome[ItemT, ResultT]) -> None:
        """Emit an outcome; with `ordered`, after all that come earlier in the input."""
        if not self._settings.ordered:
            self._emit(outcome)
            return
        self._held[outcome.index] = outcome
        while (ready := self._held.pop(self._next_index, None)) is not None:
            self._next_index += 1
            self._emit(ready)

    def _emit(self, outcome: Outcome[ItemT, ResultT]) -> None:
        """Pass an outcome to the stream and to `on_outcome`, whose exception ends the run."""
        if self._streamed:
            self._ready.put_nowait(outcome)
        elif self._settings.ordered:
            self._room.release()
        if self._settings.on_outcome is not None:
            try:
                self._settings.on_outcome(outcome)
            except BaseException as error:  # noqa: BLE001  it ends the run; others may be pending
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, AdaptyError):
            strip_traceback(error)  # its text is complete, and its frames hold items
        self._failure = self._failure or error
        self._stop(StopReason.STOPPED)

    def _stop_once(self) -> None:
        if not self._stopping.is_set:
            self._stop(StopReason.STOPPED)

    def _stop(self, reason: StopReason, *, read_rest: bool = False) -> None:
        """Send nothing more, and start to drain; with `read_rest`, count the rest of the input."""
        if self._is_over or self._ended is not None:
            return
        self._read_rest = read_rest
        self._stop_reason = self._stop_reason or reason
        if not read_rest:
            self._room.release()  # wakes the reader of the rest, which then sees the stop
        if self._stopping.is_set:
            return
        self._stopping.is_set = True
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
        if not self._is_open:
            self._main.cancel()

    async def _report_rest(self, items_per_iteration: int) -> None:
        """Report the items that were not sent, if the input certainly has an end."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  a reader is a task
        worker = Worker(task=task)
        try:
            while (entry := await self._next_of_rest()) is not None:
                outcome = await self._pass_over(*entry, worker)
                self._report_builder.add(outcome)
                self._emit(outcome)
                if outcome.index % items_per_iteration == 0:
                    await asyncio.sleep(0)
        except BaseException as error:
            is_cancelled = isinstance(error, asyncio.CancelledError) and task.cancelling()
            if is_cancelled or worker.is_closed_by(error):
                raise
            self._fail(error)  # raised by the source, on_outcome or the journal

    async def _next_of_rest(self) -> tuple[int, ItemT] | None:
        if self._streamed and self._read_rest:
            await self._room.acquire()
        return await self._source.read() if self._read_rest else None

    def __repr__(self) -> str:
        return f"BulkRun({'not started' if self._started is None else self.report})"

    def __del__(self) -> None:
        if getattr(self, "_started", 0.0) is None:
            warnings.warn(
                "a bulk run was made but never awaited, so nothing was sent",
                RuntimeWarning,
                source=self,
                stacklevel=2,
            )
