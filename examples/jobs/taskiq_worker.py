"""
Run the parts of a job in workers of taskiq.

Start workers with ``taskiq worker taskiq_worker:broker``, and deliver the parts with ``python
taskiq_worker.py``. Deliver them again at any time: a part that has ended costs one select.

``ADAPTY_STORE_URL`` is the address of the job store, and ``ADAPTY_JOB`` the name of a job that was
planned with ``adapty-async job plan``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from taskiq import AsyncBroker, Context, InMemoryBroker, TaskiqDepends, TaskiqEvents, TaskiqState

from adapty_async import AdaptyClient, Limits
from adapty_async.jobs import Job, JobStore, PartBusyError

broker: AsyncBroker = InMemoryBroker()  # in production, such as that of taskiq-redis


@asynccontextmanager
async def opened() -> AsyncIterator[Job]:
    """Open the job with a client and the rate that all its workers share; once per process."""
    async with (
        JobStore(os.environ["ADAPTY_STORE_URL"]) as store,
        store.rate as rate,
        AdaptyClient(limits=Limits(shared=rate)) as adapty,
    ):
        yield await store.job(os.environ["ADAPTY_JOB"], adapty.v2.profiles.bulk_delete)


@broker.on_event(TaskiqEvents.CLIENT_STARTUP, TaskiqEvents.WORKER_STARTUP)
async def startup(state: TaskiqState) -> None:
    """Open the job, once in a process that is both."""
    if "resources" in state:
        return
    state.resources = AsyncExitStack()
    state.job = await state.resources.enter_async_context(opened())


@broker.on_event(TaskiqEvents.CLIENT_SHUTDOWN, TaskiqEvents.WORKER_SHUTDOWN)
async def shutdown(state: TaskiqState) -> None:
    """Close it."""
    await state.resources.aclose()


@broker.task(retry_on_error=True, max_retries=10)
async def run_part(number: int, context: Context = TaskiqDepends()) -> None:  # noqa: B008  taskiq's
    """Run a part; another worker may be at it already."""
    try:
        await context.state.job.run_part(number)
    except PartBusyError:
        return  # if that worker dies, deliver the part again


async def deliver() -> None:
    """Deliver the open parts until none is left."""
    await broker.startup()
    try:
        job = broker.state.job
        while numbers := await job.open_parts():
            tasks = [await run_part.kiq(number) for number in numbers]
            for task in tasks:
                await task.wait_result()
        print(await job.report())
    finally:
        await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(deliver())
