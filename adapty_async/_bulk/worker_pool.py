"""
A worker pool: tasks of one event loop that process the items of a run, and can be cancelled.

Each method visits each worker at most once, so that a run with thousands of workers ends quickly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from adapty_async._api.call_state import CallState
from adapty_async._api.operation import Operation
from adapty_async._runtime.loop import until_ended

__all__ = ("Worker", "WorkerPool")


class Worker(msgspec.Struct):
    """
    The state of one worker; the item processor writes it.

    Attributes:
        call: the call state of the item that it sends; None while it sends none.
        failure: an error that ends the run once the item's outcome is delivered.
        operation: the operation built from its item; None if there is none.
    """

    call: CallState | None = None
    failure: BaseException | None = None
    operation: Operation[Any] | None = None

    @property
    def is_on_wire(self) -> bool:
        """Whether its request is on the wire."""
        return self.call is not None and self.call.on_wire


class WorkerPool:
    """
    A pool of the tasks that process the items of one run.

    Args:
        size: maximum number of workers.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._workers: dict[asyncio.Task[None], Worker] = {}

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def in_flight(self) -> int:
        """The number of requests on the wire."""
        return sum(worker.is_on_wire for worker in self._workers.values())

    def spawn(self, work: Callable[[Worker], Coroutine[Any, Any, None]], count: int) -> None:
        """Spawn workers that run `work`, up to the pool's size."""
        for _ in range(min(count, self._size - len(self._workers))):
            worker = Worker()
            task = asyncio.create_task(work(worker))
            self._workers[task] = worker
            # a task that is cancelled before it starts never runs
            task.add_done_callback(self.remove)

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
