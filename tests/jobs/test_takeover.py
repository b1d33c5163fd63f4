"""Takeovers of a part in PostgreSQL while another runner commits, or takes it over, too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg

from adapty_async import AdaptyClient
from adapty_async._journal import Changes
from adapty_async.jobs import Job, JobStore, Lines
from adapty_async.jobs._part_journal import PartJournal
from adapty_async.jobs._part_steps import Runner, TakenPart, open_part
from tests.jobs.test_job import planned
from tests.journal.support import NOW, accept, ignore, span

WriteIds = Callable[..., Lines]


def runner_of(job: Job) -> Runner:
    """Return a runner of the first part of a job."""
    return Runner(job._record.id, job.name, 0, "me")


async def take_over(store: JobStore, job: Job) -> TakenPart:
    """Take the first part of a job over, as a runner does after the lease of another one."""
    steps = open_part(runner_of(job), job._record.identity, accept, ignore, NOW)
    return await store._database.transact(steps)


async def until_waiting(observer: psycopg.Connection[tuple[object, ...]], count: int) -> None:
    """Wait until transactions of *n* workers wait for a row of the store."""
    waiting = (
        "SELECT 1 FROM pg_stat_activity WHERE application_name = 'adapty-async job'"
        " AND wait_event_type = 'Lock' AND datname = current_database()"
    )
    async with asyncio.timeout(50):
        while len(observer.execute(waiting).fetchall()) < count:  # noqa: ASYNC110  no event
            await asyncio.sleep(0.01)


async def test_a_takeover_waits_for_a_commit_that_has_begun(
    postgres_url: str, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """Otherwise the successor would send what the commit says that was sent."""
    async with JobStore(postgres_url) as store, JobStore(postgres_url) as other:
        job = await planned(store, name, adapty, ids("a", "b"))
        journal = PartJournal(store._database, runner_of(job))
        await journal.open(job._record.identity, accept, ignore)
        await journal.commit(Changes(spans={0: span("r.")}), durable=True)
        with (
            psycopg.connect(postgres_url) as holder,
            psycopg.connect(postgres_url, autocommit=True) as observer,
        ):
            holder.execute("SELECT 1 FROM adapty_span WHERE job = %s FOR UPDATE", (job._record.id,))
            committing = asyncio.ensure_future(
                journal.commit(Changes(spans={0: span("dr")}), durable=True)
            )
            await until_waiting(observer, 1)
            taking = asyncio.create_task(take_over(other, job))
            await until_waiting(observer, 2)
            holder.rollback()
            assert await committing is None
            assert (await taking).resumed.spans == {0: span("dr")}
        await journal.close()


async def test_two_takeovers_at_once_are_two_runs(
    postgres_url: str, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """The second one is the successor of the first, which can no longer commit anything."""
    async with JobStore(postgres_url) as store, JobStore(postgres_url) as other:
        job = await planned(store, name, adapty, ids("a"))
        with (
            psycopg.connect(postgres_url) as holder,
            psycopg.connect(postgres_url, autocommit=True) as observer,
        ):
            holder.execute("SELECT 1 FROM adapty_part WHERE job = %s FOR UPDATE", (job._record.id,))
            both = [asyncio.create_task(take_over(each, job)) for each in (store, other)]
            await until_waiting(observer, 2)
            holder.rollback()
            runs = {(await each).key.run for each in both}
    assert runs == {1, 2}
