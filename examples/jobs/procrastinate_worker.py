"""
Run the parts of a job in workers of procrastinate, whose queue is in the same PostgreSQL database.

First deliver the parts with ``python procrastinate_worker.py``, which also creates the tables of
the queue, then start workers with ``python procrastinate_worker.py work``.

``ADAPTY_STORE_URL`` is the address of the job store, and ``ADAPTY_JOB`` the name of a job that was
planned with ``adapty-async job plan``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import procrastinate
from procrastinate.exceptions import AlreadyEnqueued

from adapty_async import AdaptyClient, Limits
from adapty_async.jobs import Job, JobStore, PartBusyError

_STORE = os.environ["ADAPTY_STORE_URL"]
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=_STORE))


@asynccontextmanager
async def opened() -> AsyncIterator[Job]:
    """Open the job with a client and the rate that all its workers share; once per process."""
    async with (
        JobStore(_STORE) as store,
        store.rate as rate,
        AdaptyClient(limits=Limits(shared=rate)) as adapty,
    ):
        yield await store.job(os.environ["ADAPTY_JOB"], adapty.v2.profiles.bulk_delete)


@app.task(name="adapty_part", retry=10, pass_context=True)
async def run_part(context: procrastinate.JobContext, number: int) -> None:
    """Run a part; another worker may be at it already."""
    job: Job = context.additional_context["job"]
    try:
        await job.run_part(number)
    except PartBusyError:
        return  # if that worker dies, deliver the part again


@app.periodic(cron="* * * * *")
@app.task(name="adapty_rescue", queueing_lock="adapty_rescue", pass_context=True)
async def rescue(context: procrastinate.JobContext, timestamp: int) -> None:  # noqa: ARG001  given
    """Deliver again the tasks of workers that died."""
    for stalled in await app.job_manager.get_stalled_jobs():
        await app.job_manager.retry_job(stalled)


async def work(**options: Any) -> None:
    """Run a worker."""
    async with app.open_async(), opened() as job:
        await app.run_worker_async(additional_context={"job": job}, concurrency=2, **options)


async def deliver() -> None:
    """Create the tables of the queue if there are none, and deliver the open parts."""
    async with app.open_async(), opened() as job:
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        for number in await job.open_parts():
            lock = f"{job.name}/{number}"
            try:
                await run_part.configure(queueing_lock=lock).defer_async(number=number)
            except AlreadyEnqueued:
                continue


if __name__ == "__main__":
    asyncio.run(work() if sys.argv[1:] == ["work"] else deliver())
