"""A job whose store fails over to a standby, held against what the server saw."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from adapty_async import AdaptyClient, Limits
from adapty_async.jobs import JobStore, Lines, StoreUnavailableError
from adapty_async.jobs._database import Statement
from adapty_async.shared import SharedRate
from tests._support import CANARY_KEY
from tests.jobs.counting_server import CountingServer
from tests.jobs.test_job import planned, users
from tests.servers import OwnPostgres, OwnStandby

WriteIds = Callable[..., Lines]

_IDS = 1_200
_CONCURRENCY = 8


@pytest.fixture
def primary() -> Iterator[OwnPostgres]:
    """Run a server."""
    with OwnPostgres() as server:
        yield server


@pytest.fixture
def standby(primary: OwnPostgres) -> Iterator[OwnStandby]:
    """Run its standby."""
    with OwnStandby(primary) as server:
        yield server


def address(*servers: OwnPostgres) -> str:
    """Return an address of several servers, of which one that can be written to is used."""
    queries = [urllib.parse.parse_qs(urllib.parse.urlsplit(one.url).query) for one in servers]
    hosts = ",".join(query["host"][0] for query in queries)
    return f"postgresql://postgres@/postgres?host={hosts}&target_session_attrs=read-write"


def replicate(primary: OwnPostgres) -> None:
    """Wait until the standby has all that is committed now."""
    with psycopg.connect(primary.url, autocommit=True) as connection:
        connection.execute("SELECT pg_current_xact_id()")  # a durable commit
        ((committed,),) = connection.execute("SELECT pg_current_wal_flush_lsn()").fetchall()
        replayed = "SELECT 1 FROM pg_stat_replication WHERE replay_lsn >= %s"
        while not connection.execute(replayed, (committed,)).fetchall():
            pass


@pytest.mark.slow
async def test_a_job_continues_at_the_standby(
    primary: OwnPostgres, standby: OwnStandby, name: str, ids: WriteIds, tmp_path: Path
) -> None:
    """No id is lost, few are sent again, and the rate is that of the new server, too."""
    url = address(primary, standby)
    with CountingServer(tmp_path, _IDS).running() as server:
        async with (
            JobStore(url) as store,
            SharedRate(url) as rate,
            AdaptyClient(CANARY_KEY, base_url=server.url, limits=Limits(shared=rate)) as adapty,
        ):
            job = await planned(store, name, adapty, ids(*users(_IDS)), part_size=100)
            working = asyncio.create_task(job.work(parts=2, concurrency=2 * _CONCURRENCY))
            while server.counts.requests < _IDS / 3:  # noqa: ASYNC110  a request has no event
                await asyncio.sleep(0.01)
            before = server.counts.requests
            await asyncio.to_thread(replicate, primary)
            await asyncio.to_thread(primary.kill)
            await asyncio.to_thread(standby.promote)
            # at most: meanwhile, items are sent whose reservations the standby may lack
            lost = server.counts.requests - before
            report = await working
            assert not any(each.is_alone for each in rate.statistics())
        counts = server.counts.by_item()
    assert (report.done, report.items) == (_IDS, _IDS)
    assert min(counts) == 1
    assert sum(counts) - _IDS <= lost + 2 * 2 * _CONCURRENCY


@pytest.mark.slow
async def test_a_standby_has_no_locks(primary: OwnPostgres, standby: OwnStandby) -> None:
    """The workers at the primary would not know of them; a job can be read there."""
    async with JobStore(primary.url):
        await asyncio.to_thread(replicate, primary)
    async with JobStore(standby.url) as store:
        assert await store._database.execute(Statement("SELECT name FROM adapty_job")) == []
        with pytest.raises(StoreUnavailableError, match="a standby can only be read"):
            await store._database.lock(1, 1)
        await asyncio.to_thread(primary.kill)
        await asyncio.to_thread(standby.promote)
        lock = await store._database.lock(1, 1)
        assert lock is not None
