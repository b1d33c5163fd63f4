"""
Run the parts of a job in workers of streaQ.

``REDIS_URL`` is the address of its queue. Start workers with ``streaq run streaq_worker:worker``,
and deliver the parts with ``python streaq_worker.py``.

``ADAPTY_STORE_URL`` is the address of the job store, and ``ADAPTY_JOB`` the name of a job that was
planned with ``adapty-async job plan``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streaq import Worker

from adapty_async import AdaptyClient, Limits
from adapty_async.jobs import Job, JobStore, PartBusyError


@asynccontextmanager
async def opened() -> AsyncIterator[Job]:
    """Open the job with a client and the rate that all its workers share; once per process."""
    async with (
        JobStore(os.environ["ADAPTY_STORE_URL"]) as store,
        store.rate as rate,
        AdaptyClient(limits=Limits(shared=rate)) as adapty,
    ):
        yield await store.job(os.environ["ADAPTY_JOB"], adapty.v2.profiles.bulk_delete)


worker: Worker[Job] = Worker(redis_url=os.environ["REDIS_URL"], lifespan=opened)


@worker.task(max_tries=10)
async def run_part(number: int) -> None:
    """Run a part; another worker may be at it already."""
    try:
        await worker.context.run_part(number)
    except PartBusyError:
        return  # if that worker dies, deliver the part again


async def deliver() -> None:
    """Deliver the open parts."""
    async with opened() as job, worker:
        for number in await job.open_parts():
            await run_part.enqueue(number)


if __name__ == "__main__":
    asyncio.run(deliver())
