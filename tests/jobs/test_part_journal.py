"""The journal of a part: what its runs store, and takeovers while another runner commits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import psycopg
import pytest

from adapty_async import AdaptyClient
from adapty_async._journal import Changes, Minute, Resumed
from adapty_async.errors import JournalError
from adapty_async.jobs import Job, JobStore, Lines, PartBusyError
from adapty_async.jobs._part_journal import PartJournal
from adapty_async.jobs._part_steps import Runner, TakenPart, open_part
from tests.jobs.test_job import planned, users
from tests.journal.support import NOW, accept, ignore, span

WriteIds = Callable[..., Lines]


def runner_of(job: Job) -> Runner:
    """Return a runner of the first part of a job."""
    return Runner(job._record.id, job.name, 0, "me")


async def opened(store: JobStore, job: Job) -> tuple[PartJournal, Resumed]:
    """Open the journal of the first part of a job."""
    journal = PartJournal(store._database, runner_of(job))
    await journal.acquire()
    return journal, await journal.open(job._record.identity, accept, ignore)


async def take_over(store: JobStore, job: Job) -> TakenPart:
    """Take the first part of a job over, as a runner does after the lease of another one."""
    steps = open_part(runner_of(job), job._record.identity, accept, ignore, NOW)
    return await store._database.transact(steps)


def ended(resumed: Resumed, **fields: object) -> Changes:
    """Return the last changes of a run."""
    return Changes(run=msgspec.structs.replace(resumed.run, ended_at=NOW, **fields))


async def test_the_counts_of_a_part_are_those_of_all_its_runs(
    store: JobStore, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """A part may have several spans, of which a commit has those that changed."""
    job = await planned(store, name, adapty, ids(*users(600)), part_size=1_000)
    journal, _ = await opened(store, job)
    await journal.commit(Changes(spans={0: span("d" * 512)}), durable=False)
    await journal.close()
    journal, resumed = await opened(store, job)
    await journal.commit(Changes(spans={1: span("a" * 88)}), durable=False)
    await journal.commit(ended(resumed), durable=True)
    await journal.close()
    report = await job.report()
    assert (report.done, report.absent, report.has_ended) == (512, 88, True)


async def test_a_close_that_is_cancelled_still_releases_the_lock(
    store: JobStore, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """This process can run the part again at once; what was closed stores nothing more."""
    job = await planned(store, name, adapty, ids("a"))
    journal, _ = await opened(store, job)
    closing = asyncio.create_task(journal.close())
    for _ in range(3):  # the release is on its way
        await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(JournalError, match="the journal is closed"):
        journal.commit(Changes(), durable=False)
    lock = await store._database.lock(job._record.id, 0)
    assert lock is not None
    await lock.release()


async def test_a_part_is_open_after_a_run_that_stopped(
    store: JobStore, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """Items without a state may still be sent, so they have not failed."""
    job = await planned(store, name, adapty, ids(*users(3)))
    journal, resumed = await opened(store, job)
    await journal.commit(Changes(spans={0: span("df")}), durable=False)
    await journal.commit(ended(resumed, stop_reason="stopped"), durable=True)
    await journal.close()
    report = await job.report()
    assert (report.done, report.failed, report.not_sent, report.has_ended) == (1, 1, 1, False)
    assert await job.retry() == 0


async def test_an_outcome_shows_that_the_store_works(
    store: JobStore, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """A reservation does not: the outage of the store may begin again with each outcome."""
    job = await planned(store, name, adapty, ids(*users(3)))
    journal, resumed = await opened(store, job)
    await journal.commit(Changes(spans={0: span("r")}), durable=False)
    recorded = [journal.has_recorded]
    minute = Minute(run=1, minute=1, first_at=NOW, last_at=NOW, done=1)
    await journal.commit(Changes(spans={0: span("d")}, minutes=[minute]), durable=False)
    recorded.append(journal.has_recorded)
    await journal.close()
    journal, resumed = await opened(store, job)
    await journal.commit(ended(resumed), durable=True)
    recorded.append(journal.has_recorded)
    await journal.close()
    assert recorded == [False, True, True]


@pytest.mark.parametrize("is_last", [False, True])
async def test_each_commit_after_a_takeover_fails(
    store: JobStore,
    name: str,
    adapty: AdaptyClient,
    ids: WriteIds,
    is_last: bool,  # noqa: FBT001  a parameter
) -> None:
    """A runner without its part learns that from its next commit, even from an empty one."""
    job = await planned(store, name, adapty, ids(*users(3)))
    journal, resumed = await opened(store, job)
    await take_over(store, job)
    for changes in (Changes(spans={0: span("d")}), Changes()):
        with pytest.raises(PartBusyError, match="another runner has taken it over"):
            await journal.commit(ended(resumed) if is_last else changes, durable=False)
    assert not journal.has_recorded
    await journal.close()
    assert (await job.report()).not_sent == 3


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
        journal, _ = await opened(store, job)
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
