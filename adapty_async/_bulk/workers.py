"""
The workers of a run, and the source from which they take items.

A worker is a task of one event loop that processes items, and can be cancelled. Each method of the
pool visits each worker at most once, so that a run with thousands of workers ends quickly. In one
iteration of the loop, only some of thousands start, or continue without a wait.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections import deque
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Sized
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from adapty_async._api.call import CallState, Operation
from adapty_async._flow.queues import PrioritySemaphore
from adapty_async._runtime.loop import until_ended
from adapty_async.errors import InvalidInputError

ItemT = TypeVar("ItemT")
ItemT_co = TypeVar("ItemT_co", covariant=True)

#: Maximum of workers that start, and of unsent items that are counted, in one iteration of the
#: event loop.
PER_ITERATION = 256
# Maximum of skipped items, which take a microsecond each, and of paused workers that continue, in
# one iteration of the event loop.
_SKIPPED, _CONTINUED = 1024, 8


class Source(Protocol[ItemT_co]):
    """The interface of a run's input, which its workers share."""

    sized: bool

    @property
    def read_nowait(self) -> Callable[[], tuple[int, ItemT_co] | None] | None:
        """A function that does the same as `read` without a wait; None if that is impossible."""

    async def read(self) -> tuple[int, ItemT_co] | None:
        """Return the next item with its position, or None at the end."""


def source_of(items: Iterable[ItemT] | AsyncIterable[ItemT]) -> Source[ItemT]:
    """
    Wrap any iterable or async iterable.

    Raises:
        InvalidInputError: it is neither, or a single string, whose characters would be the items.
    """
    if isinstance(items, str | bytes):
        raise InvalidInputError("items", "must be several items, not one string")
    if isinstance(items, os.PathLike):
        raise InvalidInputError("items", "must be an InputFile(path), not the path itself")
    if isinstance(items, AsyncIterable):
        return _AsyncSource(items)
    if isinstance(items, Iterable):
        return _SyncSource(items)
    raise InvalidInputError(
        "items", f"must be an iterable or an async iterable, not {type(items).__name__}"
    )


class _SyncSource(Generic[ItemT]):
    def __init__(self, items: Iterable[ItemT]) -> None:
        self.sized = isinstance(items, Sized)
        self.read_nowait: Callable[[], tuple[int, ItemT] | None] = functools.partial(
            next, enumerate(items), None
        )

    async def read(self) -> tuple[int, ItemT] | None:
        return self.read_nowait()


class _AsyncSource(Generic[ItemT]):
    sized = False
    read_nowait: Callable[[], tuple[int, ItemT] | None] | None = None

    def __init__(self, items: AsyncIterable[ItemT]) -> None:
        self._iterator = aiter(items)
        # an async generator allows one `anext` at a time; asyncio.Lock scans all its waiters when
        # one of them is cancelled
        self._permit = PrioritySemaphore(1)
        self._count = 0
        self._ended = False

    async def read(self) -> tuple[int, ItemT] | None:
        await self._permit.acquire()
        try:
            if self._ended:
                return None
            item = await anext(self._iterator)
        except StopAsyncIteration:
            self._ended = True
            return None
        finally:
            self._permit.release()
        self._count += 1
        return self._count - 1, item


class Worker(msgspec.Struct):
    """
    The state of one worker; the item processor writes it.

    Attributes:
        call: the call state of the item that it sends; None while it sends none.
        failure: an error that ends the run once the item's outcome is delivered.
        operation: the operation built from its item; None if there is none.
        task: its task; None before it starts.
    """

    call: CallState | None = None
    failure: BaseException | None = None
    operation: Operation[Any] | None = None
    task: asyncio.Task[Any] | None = None

    @property
    def is_on_wire(self) -> bool:
        """Whether its request is on the wire."""
        return self.call is not None and self.call.on_wire

    def is_closed_by(self, error: BaseException) -> bool:
        """
        Return whether an error closes its coroutine, since the event loop is gone.

        The coroutine can then await nothing. A GeneratorExit that a callback raises in its task is
        an error like any other.
        """
        return isinstance(error, GeneratorExit) and _running_task() is not self.task


def _running_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs
        return None


class WorkerPool:
    """
    A pool of the tasks that process the items of one run.

    Args:
        size: maximum number of workers.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._workers: dict[asyncio.Task[None], Worker] = {}
        self._paused: deque[asyncio.Future[None]] = deque()
        self._skips_left = _SKIPPED  # until the next pause

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def in_flight(self) -> int:
        """The number of requests on the wire."""
        return sum(worker.is_on_wire for worker in self._workers.values())

    def spawn(self, work: Callable[[Worker], Coroutine[Any, Any, None]], count: int) -> int:
        """
        Spawn workers that run `work`, up to the pool's size, or as many as may start at once.

        Return how many of `count` are left for the next iteration of the loop.
        """
        count = min(count, self._size - len(self._workers))
        for _ in range(min(count, PER_ITERATION)):
            worker = Worker()
            task = asyncio.create_task(work(worker))
            self._workers[task] = worker
            # a task that is cancelled before it starts never runs
            task.add_done_callback(self.remove)
        return max(0, count - PER_ITERATION)

    def must_pause(self) -> bool:
        """Count a skipped item, which takes little time; return whether its worker has to pause."""
        self._skips_left -= 1
        return self._skips_left < 0

    async def pause(self) -> None:
        """Let a worker continue in a later iteration of the loop, which must not be blocked."""
        turn = asyncio.get_running_loop().create_future()
        self._paused.append(turn)
        if len(self._paused) == 1:
            self._schedule()
        await turn

    def _schedule(self) -> None:
        asyncio.get_running_loop().call_soon(self._continue_some)

    def _continue_some(self) -> None:
        self._skips_left = _SKIPPED
        for _ in range(min(_CONTINUED, len(self._paused))):
            turn = self._paused.popleft()
            if not turn.done():  # otherwise its worker was cancelled
                turn.set_result(None)
        if self._paused:
            self._schedule()

    def remove(self, task: asyncio.Task[None]) -> None:
        """Remove a worker that ends."""
        self._workers.pop(task, None)

    def cancel(self, *, on_wire: bool) -> None:
        """Cancel the workers without a request on the wire, or all workers."""
        for task, worker in self._workers.items():
            if on_wire or not worker.is_on_wire:
                task.cancel()

    async def until_ended(self) -> None:
        """Wait until all workers have ended."""
        while self._workers:
            await asyncio.wait(tuple(self._workers))

    async def abort(self) -> None:
        """Cancel all workers, and wait until they have ended, even if the caller is cancelled."""
        self.cancel(on_wire=True)
        await until_ended(asyncio.gather(*self._workers, return_exceptions=True))
