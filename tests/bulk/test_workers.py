"""The pool of the tasks that process the items of a run."""

from __future__ import annotations

import asyncio
import itertools

from adapty_async._api.call import CallState
from adapty_async._bulk.workers import Worker, WorkerPool


async def test_an_abort_cancels_workers_on_the_wire_and_waits_until_they_have_ended() -> None:
    """A request on the wire keeps no worker, and no task is left when the abort returns."""
    ended: list[Worker] = []
    steps = itertools.count(1, 10)  # the second worker ends later

    async def work(worker: Worker) -> None:
        worker.call = CallState()
        worker.call.sent()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(next(steps)):
                await asyncio.sleep(0)
            ended.append(worker)

    pool = WorkerPool(2)
    pool.spawn(work, 2)
    await asyncio.sleep(0)
    assert pool.in_flight == 2

    await pool.abort()

    assert len(ended) == 2
    assert len(pool) == 0
