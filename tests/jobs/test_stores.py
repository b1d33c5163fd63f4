"""The stores of jobs: their addresses, versions, failures and locks, and what they hold."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from adapty_async import AdaptyClient, jobs
from adapty_async._bulk import run_journal
from adapty_async._bulk.bulk_run import BulkRun
from adapty_async.errors import ConfigError, JournalError
from adapty_async.jobs import (
    JobError,
    JobReport,
    JobStoppedError,
    JobStore,
    Lines,
    PartBusyError,
    StoreUnavailableError,
    _job,
    _sqlite,
)
from adapty_async.jobs._database import PartLock, Statement, Steps, steps_of
from adapty_async.jobs._link import Link
from adapty_async.jobs._part_journal import PartJournal
from adapty_async.jobs._part_steps import Runner
from adapty_async.jobs._postgres import _DIALECT
from adapty_async.jobs._report_steps import read_report
from adapty_async.jobs._schema import VERSION, ensure_schema
from adapty_async.sandbox import Sandbox
from tests._support import CANARY_EMAIL, CANARY_KEY
from tests.jobs.proxies import running_cut, running_pooler
from tests.jobs.test_job import Held, planned, until_arrived, users
from tests.journal.support import IDENTITY, accept, ignore
from tests.servers import fresh_database

WriteIds = Callable[..., Lines]


@pytest.mark.parametrize(
    "url",
    ["", "jobs.db", "sqlite://jobs.db", "sqlite:///", "mysql://host/x", "postgresql+x://host"],
    ids=repr,
)
def test_an_address_of_another_kind_is_rejected(url: str) -> None:
    """Only PostgreSQL and SQLite hold jobs."""
    with pytest.raises(ConfigError, match="begins with postgresql:// or sqlite:///"):
        JobStore(url)


def test_an_address_that_is_missing_is_reported() -> None:
    """An environment variable that is not set is None."""
    with pytest.raises(ConfigError, match="address of a job store must be text"):
        JobStore(os.environ.get("ADAPTY_NOWHERE"))  # type: ignore[arg-type]


def test_a_lease_is_a_time() -> None:
    """The lease is a number of seconds above 0."""
    with pytest.raises(ConfigError, match="lease must be a number above 0"):
        JobStore("sqlite:///x.db", lease=0)


def test_missing_packages_are_named() -> None:
    """Without psycopg, SQLite works, and an error names the extra for PostgreSQL."""
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "import adapty_async.jobs as jobs\n"
        "jobs.JobStore('sqlite:///x.db')\n"
        "for use in (lambda: jobs.JobStore('postgresql://h/x'), lambda: jobs.Query):\n"
        "    try: use()\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    needs = "needs more packages: pip install 'adapty-async[jobs]'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"ConfigError a job store in PostgreSQL {needs}",
        f"ImportError Query {needs}",
    ]


def test_missing_packages_are_named_where_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The errors are those of this process, too."""
    for module in ("_postgres", "_query"):
        monkeypatch.setitem(sys.modules, f"adapty_async.jobs.{module}", None)
    with pytest.raises(ConfigError, match=r"pip install 'adapty-async\[jobs\]'"):
        JobStore("postgresql://host/x")
    with pytest.raises(ImportError, match=r"pip install 'adapty-async\[jobs\]'"):
        _ = jobs.Query


def test_tables_that_another_process_makes_meanwhile_are_used() -> None:
    """A process that waited for the lock on the tables finds those of another one."""
    steps = ensure_schema()
    assert next(steps).sql == steps.send([]).sql.replace("guard", "exists")
    assert steps.send([]).sql == "{exists}"
    assert steps.send([(1,)]).sql.startswith("SELECT max(version)")
    with pytest.raises(StopIteration):
        steps.send([(VERSION,)])


async def test_workers_that_start_together_share_a_new_database(postgres_url: str) -> None:
    """One of them makes the tables, and those that waited for it use them."""
    with fresh_database(postgres_url) as url, psycopg.connect(url) as first:
        first.execute(_DIALECT.guard)
        stores = [JobStore(url) for _ in range(2)]
        opening = [asyncio.create_task(store.__aenter__()) for store in stores]
        waiting = (
            "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        while len(first.execute(waiting).fetchall()) < len(stores):  # noqa: ASYNC110  no event
            await asyncio.sleep(0.01)
        first.rollback()
        async with asyncio.timeout(30):
            for store in await asyncio.gather(*opening):
                assert await store._database.execute(Statement("SELECT * FROM adapty_job")) == []
                await store.__aexit__(None, None, None)


async def test_a_lock_is_released_once(store: JobStore, store_url: str, name: str) -> None:
    """A second release does nothing, neither does one after the end of the session."""
    database = store._database
    for _ in range(2):
        lock = await database.lock(77, 1)
        assert lock is not None
        lock.watch(lambda: None)
        assert await database.held(77, [1, 2]) == {1}
        await lock.release()
        await lock.release()
    assert await database.held(77, [1, 2]) == set()


async def test_a_runner_that_is_cancelled_while_it_locks_leaves_no_lock(
    store: JobStore,
    name: str,
    adapty: AdaptyClient,
    ids: WriteIds,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A lock that nobody releases would keep the part from all others while the process lives."""
    job = await planned(store, name, adapty, ids("a"))
    lock, locked, may_return = store._database.lock, asyncio.Event(), asyncio.Event()

    async def lock_and_wait(number: int, part: int) -> PartLock | None:
        acquired = await lock(number, part)
        locked.set()
        await may_return.wait()
        return acquired

    monkeypatch.setattr(store._database, "lock", lock_and_wait)
    running = asyncio.create_task(job.run_part(0))
    await locked.wait()
    running.cancel()
    await asyncio.sleep(0)
    may_return.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await store._database.held(job._record.id, [0]) == set()


async def test_a_part_that_is_not_there_is_reported(
    store: JobStore, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """A journal of a part that was forgotten meanwhile is an error."""
    job = await planned(store, name, adapty, ids("a"))
    journal = PartJournal(store._database, Runner(job._record.id, name, 9, "me"))
    with pytest.raises(JobError, match=f"the store has no part 9 of a job {name}"):
        await journal.open(IDENTITY, accept, ignore)


async def test_a_commit_stores_all_or_nothing(store: JobStore) -> None:
    """A statement that fails undoes those before it; the rows of the first one are counted."""
    text = (
        "INSERT INTO adapty_run (job, part, number, started_at, last_at)"
        " VALUES (-1, 0, :number, :at, 0)"
    )
    good, bad = (
        Statement(text, {"number": number, "at": at}) for number, at in ((1, 0.5), (2, None))
    )
    stored = Statement("SELECT number FROM adapty_run WHERE job = -1")
    database = store._database
    for durable in (False, True):
        with pytest.raises(JobError, match="cannot be used"):
            await database.commit([good, bad], durable=durable)
    assert await database.execute(stored) == []
    assert await database.commit([good, Statement("SELECT 1")], durable=False) == 1
    assert await database.execute(stored) == [(1,)]
    await database.execute(Statement("DELETE FROM adapty_run WHERE job = -1"))


async def test_only_a_commit_that_need_not_be_durable_is_loose(postgres_url: str) -> None:
    """A write-ahead entry is on the disk before its request, whatever the same statement did."""
    async with JobStore(postgres_url) as store:
        database: Any = store._database
        for durable in (False, True, False):
            await database.commit([Statement("SELECT 1")], durable=durable)
        loose = b"set_config('synchronous_commit', 'off', true)"
        found = {durable: loose in text for (durable, _), text in database._commits.items()}
    assert found == {False: True, True: False}


async def test_a_store_of_a_later_release_is_rejected(
    store: JobStore, store_url: str, anyio_backend: str
) -> None:
    """An older worker does not touch a store that a later release wrote."""
    await store._database.execute(Statement("UPDATE adapty_store SET version = 2"))
    try:
        with pytest.raises(JobError, match="has version 2, and this release understands version 1"):
            async with JobStore(store_url):
                pytest.fail("it was opened")
    finally:
        await store._database.execute(Statement("UPDATE adapty_store SET version = 1"))


async def test_no_id_and_no_key_is_in_a_store(
    store: JobStore, store_url: str, name: str, tmp_path: Path
) -> None:
    """Neither ids nor the key are in any row of any table, however an item ends."""
    path = tmp_path / "ids.csv"
    path.write_text(f"mail\n{CANARY_EMAIL}\nx{CANARY_EMAIL}\n\u00e9{CANARY_EMAIL}\n", "utf-8")
    async with Sandbox() as sandbox, AdaptyClient(CANARY_KEY, base_url=sandbox.url) as adapty:
        job = await planned(store, name, adapty, Lines(path, column="mail"))
        await job.work()
    content = dump(store_url)
    assert name in content
    assert "CANARY" not in content
    assert "canary" not in content


def dump(url: str) -> str:
    """Return all rows of the tables of a store."""
    tables = ("store", "job", "part", "run", "span", "key", "minute", "reason")
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as db:
            return repr([db.execute(f"SELECT * FROM adapty_{one}").fetchall() for one in tables])
    with psycopg.connect(url) as connection:
        return repr(
            [
                connection.execute(f"SELECT * FROM adapty_{one}".encode()).fetchall()
                for one in tables
            ]
        )


# --- SQLite ------------------------------------------------------------------------------------


async def test_only_the_owner_can_read_a_file(tmp_path: Path) -> None:
    """A store in a file is private, whatever the umask."""
    before = os.umask(0)
    try:
        async with JobStore(f"sqlite:///{tmp_path}/a%20b.db"):
            pass
    finally:
        os.umask(before)
    path = tmp_path / "a b.db"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_file_that_cannot_be_used_is_reported(tmp_path: Path) -> None:
    """The message has the path and the reason."""
    (tmp_path / "text.db").write_text("no database" * 100, "utf-8")
    with pytest.raises(JobError, match=r"text\.db cannot be used: it is damaged"):
        await JobStore(f"sqlite:///{tmp_path}/text.db").__aenter__()
    with pytest.raises(StoreUnavailableError, match="No such file or directory"):
        await JobStore(f"sqlite:///{tmp_path}/none/jobs.db").__aenter__()


async def test_a_lock_that_cannot_be_made_is_reported(
    tmp_path: Path, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """A folder in the place of a lock file is an error, and no busy part."""
    async with JobStore(f"sqlite:///{tmp_path}/jobs.db") as store:
        job = await planned(store, name, adapty, ids("a"))
        (tmp_path / "jobs.db.1.0-lock").mkdir()
        with pytest.raises(JobError, match=r"jobs\.db\.1\.0-lock is not a regular file"):
            await job.run_part(0)
        (tmp_path / "jobs.db.1.0-lock").rmdir()
        assert await job.run_part(0) is not None


async def test_a_lock_file_that_cannot_be_opened_is_reported(
    tmp_path: Path, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """Another error of SQLite than a lock is no busy part, and the store may work again."""
    path = tmp_path / "jobs.db.1.0-lock"
    async with JobStore(f"sqlite:///{tmp_path}/jobs.db") as store:
        job = await planned(store, name, adapty, ids("a"))
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA journal_mode = WAL")
        path.with_name(f"{path.name}-shm").mkdir()
        with pytest.raises(StoreUnavailableError, match="it is read-only"):
            await job.run_part(0)


async def test_a_store_that_cannot_be_looked_up_is_unavailable(tmp_path: Path) -> None:
    """Its name is too long, or only another user may search its folder."""
    with pytest.raises(StoreUnavailableError, match="File name too long"):
        await JobStore(f"sqlite:///{tmp_path}/{'n' * 300}").__aenter__()


async def test_a_store_is_closed_with_locks_in_hand(
    tmp_path: Path, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """Locks that are left are released when their store is closed."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    async with JobStore(url) as store:
        job = await planned(store, name, adapty, ids("a"))
        lock = await store._database.lock(job._record.id, 0)
        assert lock is not None
    async with JobStore(url) as again:
        other = await again.job(name, adapty.v1.profiles.bulk_delete)
        assert await other.run_part(0) is not None


async def test_the_number_of_a_forgotten_job_is_not_used_again(
    tmp_path: Path, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """What still has a forgotten job in hand does not touch a later one."""
    async with JobStore(f"sqlite:///{tmp_path}/jobs.db") as store:
        forgotten = await planned(store, name, adapty, ids("a"))
        await forgotten.forget()
        job = await planned(store, name, adapty, ids("b"))
        await forgotten.cancel()
        with pytest.raises(JobError, match="was forgotten"):
            await forgotten.run_part(0)
        assert (await job.report()).stop_reason is None


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
async def test_a_file_that_is_no_longer_there_ends_a_worker(
    tmp_path: Path, name: str, ids: WriteIds, how: str
) -> None:
    """Nobody would find what a worker stores in a file without a name."""
    path = tmp_path / "jobs.db"
    async with (
        Sandbox(latency=0.02) as slow,
        AdaptyClient(slow.api_key, base_url=slow.url) as own,
        JobStore(f"sqlite:///{path}") as store,
    ):
        job = await planned(store, name, own, ids(*users(2_000)))
        working = asyncio.create_task(job.work(concurrency=2))
        await until_arrived(slow)
        if how == "replaced":
            shutil.copy(path, tmp_path / "backup.db")
            (tmp_path / "backup.db").replace(path)
        else:
            path.rename(tmp_path / "elsewhere.db")
        if how == "deleted":
            (tmp_path / "elsewhere.db").unlink()
        with pytest.raises(
            JournalError, match=r"jobs\.db was deleted, moved or replaced meanwhile"
        ):
            await working
        assert len(slow.arrivals()) < 100


async def test_a_file_with_another_name_is_rejected(tmp_path: Path) -> None:
    """The log and the locks belong to a name, so workers would not know of each other."""
    path = tmp_path / "jobs.db"
    async with JobStore(f"sqlite:///{path}"):
        pass
    (tmp_path / "backup.db").hardlink_to(path)
    with pytest.raises(JobError, match=r"jobs\.db cannot be used: it has another name"):
        await JobStore(f"sqlite:///{path}").__aenter__()


async def test_a_link_to_a_file_is_its_address(
    tmp_path: Path, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """The file of a store may be elsewhere."""
    (tmp_path / "link.db").symlink_to(tmp_path / "jobs.db")
    (tmp_path / "jobs.db").touch(0o600)
    async with JobStore(f"sqlite:///{tmp_path}/link.db") as store:
        job = await planned(store, name, adapty, ids("a"))
        assert (await job.work()).ok


async def test_a_link_and_its_file_are_one_store(tmp_path: Path) -> None:
    """A part that a worker has locked by one name is locked by the other, too."""
    (tmp_path / "link.db").symlink_to(tmp_path / "jobs.db")
    async with (
        JobStore(f"sqlite:///{tmp_path}/jobs.db") as store,
        JobStore(f"sqlite:///{tmp_path}/link.db") as other,
    ):
        lock = await store._database.lock(1, 0)
        assert lock is not None
        assert await other._database.lock(1, 0) is None
        assert await other._database.held(1, [0]) == {0}
        await lock.release()


async def test_a_link_in_a_folder_that_cannot_be_written_is_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the folder of the file itself matters."""
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "jobs.db"
    link.symlink_to(tmp_path / "jobs.db")
    (tmp_path / "jobs.db").touch(0o600)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != link.parent)  # root may write
    async with JobStore(f"sqlite:///{link}") as store, store.rate:
        lock = await store._database.lock(1, 0)
        assert lock is not None
        assert [*link.parent.iterdir()] == [link]
        await lock.release()


async def test_a_file_that_another_program_locks_for_long_holds_up_one_statement(
    tmp_path: Path, name: str, adapty: AdaptyClient, ids: WriteIds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one wait in vain those that follow fail soon, until the file can be written again."""
    monkeypatch.setattr(_sqlite, "_BUSY_MILLISECONDS", 200)
    monkeypatch.setattr(_sqlite, "_BUSY_MILLISECONDS_AGAIN", 7)
    path = tmp_path / "jobs.db"
    patience = Statement("PRAGMA busy_timeout")
    async with JobStore(f"sqlite:///{path}") as store:
        job = await planned(store, name, adapty, ids("a"))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(2):
                with pytest.raises(StoreUnavailableError, match="in use by another process"):
                    await job.run_part(0)
                assert await job.open_parts() == [0]
                assert await store._database.execute(patience) == [(7,)]
        assert await job.run_part(0) is not None
        assert await store._database.execute(patience) == [(200,)]


def test_only_a_durable_commit_waits_for_the_disk(tmp_path: Path) -> None:
    """A write-ahead entry is on the disk before its request, and other commits cost less."""
    full = Statement("PRAGMA synchronous")
    with closing(_sqlite._File(tmp_path / "jobs.db")) as file:
        found = [file.execute_alone(full, durable=durable) for durable in (False, True, False)]
    assert found == [[(1,)], [(2,)], [(1,)]]


async def test_the_address_of_a_file_may_be_quoted(tmp_path: Path) -> None:
    """The store and its rate are in the same folder, whose name is quoted like that of any URL."""
    folder = tmp_path / "our jobs"
    folder.mkdir()
    async with JobStore(f"sqlite:///{tmp_path}/our%20jobs/jobs.db") as store, store.rate:
        assert {path.name for path in folder.iterdir()} >= {"jobs.db", "jobs.db-rate"}


async def test_a_process_may_change_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of a store are where they were when it was made, its rate's too."""
    monkeypatch.chdir(tmp_path)
    store = JobStore("sqlite:///jobs.db")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    for _ in range(2):
        async with store, store.rate:
            pass

    assert {path.name for path in elsewhere.parent.iterdir()} >= {"jobs.db", "jobs.db-rate"}
    assert not list(elsewhere.iterdir())


# --- PostgreSQL --------------------------------------------------------------------------------


async def test_a_store_that_is_away_is_reported(anyio_backend: str) -> None:
    """The message has neither the address nor the password."""
    with pytest.raises(StoreUnavailableError, match="cannot be reached") as caught:
        await JobStore("postgresql://anna:secret@127.0.0.1:1/x").__aenter__()
    assert "secret" not in str(caught.value)


async def test_a_host_that_is_gone_is_passed_over(postgres_url: str) -> None:
    """The first one of several does not respond any more, as after the loss of its machine."""
    folder = urllib.parse.parse_qs(urllib.parse.urlsplit(postgres_url).query)["host"][0]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ports = f"{silent.getsockname()[1]},5432"
        hosts = f"host=127.0.0.1,{folder}&port={ports}"
        async with JobStore(f"postgresql://postgres@/postgres?{hosts}", lease=15.0) as store:
            assert await store._database.execute(Statement("SELECT 1")) == [(1,)]


async def test_a_pooler_that_shares_sessions_is_rejected(
    postgres_url: str, anyio_backend: str
) -> None:
    """A session lock would have no effect behind PgBouncer in transaction mode."""
    async with running_pooler(postgres_url) as pooler:
        with pytest.raises(JobError, match="PgBouncer in transaction or statement mode"):
            await JobStore(pooler.url).__aenter__()


async def test_a_pooler_that_is_found_out_later_is_rejected(postgres_url: str) -> None:
    """A busy pooler may by chance lend the same sessions at first; no lock is made in another."""
    async with running_pooler(postgres_url) as pooler:
        pooler.is_sharing = False
        async with JobStore(pooler.url) as store:
            lock = await store._database.lock(13, 1)
            assert lock is not None
            await lock.release()
            pooler.is_sharing = True
            with pytest.raises(JobError, match="PgBouncer in transaction or statement mode"):
                await store._database.lock(13, 2)
            assert await store._database.held(13, [2]) == set()


@pytest.mark.parametrize(
    "setting",
    ["client_encoding = 'SQL_ASCII'", "client_encoding = 'LATIN1'", "bytea_output = 'escape'"],
)
async def test_the_settings_of_a_database_do_not_matter(
    postgres_url: str, adapty: AdaptyClient, ids: WriteIds, setting: str
) -> None:
    """Text and bytes of the store are read as they were written."""
    with fresh_database(postgres_url) as url:
        alter(url, setting)
        async with JobStore(url) as store:
            job = await planned(store, "\u20ac", adapty, ids("a", "b"))
            assert (await job.work()).ok
            assert [outcome.status async for outcome in job.outcomes()] == ["absent"] * 2


async def test_a_search_path_without_a_schema_is_named(postgres_url: str) -> None:
    """The tables cannot be made anywhere, and the message says what to correct."""
    with fresh_database(postgres_url) as url:
        alter(url, "search_path = 'nowhere'")
        with pytest.raises(JobError, match="no schema of search_path exists"):
            await JobStore(url).__aenter__()


async def test_the_settings_of_a_role_do_not_end_or_conflict_with_transactions(
    postgres_url: str,
) -> None:
    """Serializable transactions fail at random, and a worker may wait longer than others allow."""
    names = (
        "default_transaction_isolation",
        "idle_session_timeout",
        "synchronous_commit",
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
    )
    shown = ", ".join(f"current_setting('{name}')" for name in names)
    with fresh_database(postgres_url) as url:
        alter(url, "default_transaction_isolation = 'serializable'")
        alter(url, "synchronous_commit = 'off'")
        alter(url, "idle_session_timeout = '30min'")
        alter(url, "statement_timeout = '500ms'")
        alter(url, "lock_timeout = '1ms'")
        alter(url, "idle_in_transaction_session_timeout = '1ms'")
        async with JobStore(url, lease=20.0) as store:
            found = await store._database.execute(Statement(f"SELECT {shown}"))
            locks = await store._database._session.use(  # type: ignore[attr-defined]
                lambda connection: connection.execute("SHOW idle_session_timeout").fetchall()
            )
    assert found == [("read committed", "0", "on", "0", "0", "20s")]
    assert locks == [("20s",)]


async def test_stores_in_other_schemas_have_other_locks(postgres_url: str) -> None:
    """The jobs of both begin with number 1, and the locks are those of the database."""
    with fresh_database(postgres_url) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA other")
        async with JobStore(url) as store:
            alter(url, "search_path = 'other'")
            async with JobStore(url) as other:
                lock = await store._database.lock(1, 0)
                assert lock is not None
                assert await other._database.held(1, [0]) == set()
                theirs = await other._database.lock(1, 0)
                assert theirs is not None


async def test_a_server_that_can_only_be_read_may_pass(postgres_url: str) -> None:
    """After a failover, or while its disk is full, a worker waits for it."""
    with fresh_database(postgres_url) as url:
        alter(url, "default_transaction_read_only = on")
        text = "cannot be used now: ReadOnlySqlTransaction, SQLSTATE 25006"
        with pytest.raises(StoreUnavailableError, match=text):
            await JobStore(url).__aenter__()


def alter(url: str, setting: str) -> None:
    """Change a setting of a database."""
    with psycopg.connect(url, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET {}").format(name, sql.SQL(setting)))


async def test_a_connection_that_ended_while_idle_is_made_again(postgres_url: str) -> None:
    """A server that was restarted, or ended an idle session, is no outage now."""
    pid = Statement("SELECT pg_backend_pid()")
    async with JobStore(postgres_url) as store:
        ((before,),) = await store._database.execute(pid)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            ended = "SELECT pg_terminate_backend(%s, 50000)"
            assert connection.execute(ended, (before,)).fetchall() == [(True,)]
        ((after,),) = await store._database.execute(pid)
        assert after != before


async def test_a_connection_that_breaks_in_a_transaction_logs_nothing(
    postgres_url: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The error says all; a worker has no log of its own, so that of psycopg would be shown."""
    async with JobStore(postgres_url) as store:
        ((pid,),) = await store._database.execute(Statement("SELECT pg_backend_pid()"))
        last = asyncio.ensure_future(store._database.transact(steps_of([*sleeping(name)])))
        await until_sleeping(postgres_url, name)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
        with pytest.raises(StoreUnavailableError, match="the server stops, or ended the"):
            await last
    assert caplog.records == []


async def test_a_worker_that_stands_still_loses_its_lock(postgres_url: str) -> None:
    """The system of a paused process still responds for it, so the server counts its silence."""
    async with JobStore(postgres_url, lease=4.0) as store, JobStore(postgres_url) as other:
        lock = await store._database.lock(14, 1)
        assert lock is not None
        store._database._checks.cancel()  # type: ignore[attr-defined]
        store._database._cancel_expiry()  # type: ignore[attr-defined]
        async with asyncio.timeout(50):
            while (theirs := await other._database.lock(14, 1)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await theirs.release()


async def test_a_report_without_a_response_ends_within_the_lease(
    postgres_url: str, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """Only what changes a whole job may take longer."""
    async with running_cut(postgres_url) as cut, JobStore(cut.url) as store:
        job = await planned(store, name, adapty, ids("a"))
        store._database._data._lease = 0.5  # type: ignore[attr-defined]  # of what follows
        cut.passes.clear()
        async with asyncio.timeout(50):
            with pytest.raises(
                StoreUnavailableError, match="does not respond in time; check its load"
            ):
                await job.report()


async def test_a_connection_that_is_not_made_in_time_is_reported(postgres_url: str) -> None:
    """A use waits no longer than a share of the lease for it, and has no effect later."""
    run = "INSERT INTO adapty_run (job, part, number, started_at, last_at) VALUES (-2, 0, 0, 0, 0)"
    async with running_cut(postgres_url) as cut, JobStore(cut.url, lease=2.5) as store:
        cut.connects.clear()
        store._database._data.disconnect()  # type: ignore[attr-defined]
        text = ""
        async with asyncio.timeout(50):
            while "does not respond in time" not in text:  # at first, it is the broken one's
                with pytest.raises(StoreUnavailableError) as caught:
                    await store._database.execute(Statement(run))
                text = str(caught.value)
                await asyncio.sleep(0.05)
            cut.connects.set()
            rows = None
            while rows is None:
                await asyncio.sleep(0.05)
                with contextlib.suppress(StoreUnavailableError):
                    rows = await store._database.execute(
                        Statement("SELECT number FROM adapty_run WHERE job = -2")
                    )
    assert rows == []


async def test_a_runner_without_its_store_sends_nothing_after_its_lease(
    postgres_url: str, name: str, ids: WriteIds
) -> None:
    """Packets are dropped, nothing is closed: the run ends, and others can take the part over."""
    async with (
        Sandbox(latency=0.05) as slow,
        AdaptyClient(slow.api_key, base_url=slow.url) as own,
        running_cut(postgres_url) as cut,
        JobStore(cut.url, lease=6.0) as store,
    ):
        job = await planned(store, name, own, ids(*users(400)), part_size=400)
        running = asyncio.create_task(job.run_part(0, concurrency=4))
        await until_arrived(slow)
        cut.passes.clear()
        cut_at = len(slow.arrivals())
        with pytest.raises((StoreUnavailableError, PartBusyError)):
            await running
        sent = len(slow.arrivals())
        assert sent <= cut_at + 3 * 2 * 4  # those that were reserved
        cut.passes.set()
        async with JobStore(postgres_url) as other:
            second = await other.job(name, own.v1.profiles.bulk_delete)
            while True:
                try:
                    await second.run_part(0, concurrency=64)
                    break
                except PartBusyError:  # the server has not noticed it yet
                    await asyncio.sleep(0.05)
            assert (await second.report()).ok


async def until_stopped(run: BulkRun[Any, Any]) -> None:
    """Wait until a run sends nothing more."""
    async with asyncio.timeout(50):
        while run.report.stop_reason is None:  # noqa: ASYNC110  a run has no event
            await asyncio.sleep(0.01)


async def test_a_job_that_is_cancelled_during_an_outage_is_reported_as_such(
    postgres_url: str, name: str, ids: WriteIds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that lost its lock with the connection finds out why there is nothing to do."""
    monkeypatch.setattr(run_journal, "_RATE_SECONDS", 60.0)
    server = Held()
    async with (
        AdaptyClient("key", base_url="http://127.0.0.1:1", transport=server) as own,
        running_cut(postgres_url) as cut,
        JobStore(cut.url) as store,
        JobStore(postgres_url) as other,
    ):
        job = await planned(store, name, own, ids(*users(400)), part_size=400)
        theirs = await other.job(name)
        running = asyncio.create_task(job.run_part(0, concurrency=2))
        await server.until_sent(2)
        (run,) = job._runs
        async with asyncio.timeout(50):
            while (await theirs.report()).in_flight < 2:  # the run stores it, and waits
                pass
        cut.connects.clear()
        store._database._data.disconnect()  # type: ignore[attr-defined]
        await theirs.cancel()
        while not cut.waiting:  # noqa: ASYNC110  a connection has no event
            await asyncio.sleep(0.01)
        cut.connects.set()
        await until_stopped(run)
        server.may_respond.set()
        with pytest.raises(JobStoppedError, match="has stopped: cancelled"):
            await running
    assert server.count == 2


async def test_a_check_that_the_server_interrupts_is_not_the_last_one(
    postgres_url: str, name: str, ids: WriteIds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that waits for responses notices the end of its job at a later check."""
    monkeypatch.setattr(_job, "_CHECK_SECONDS", 0.01)
    server = Held()
    with fresh_database(postgres_url) as url, psycopg.connect(url) as admin:
        async with (
            AdaptyClient("key", base_url="http://127.0.0.1:1", transport=server) as own,
            JobStore(url) as store,
        ):
            job = await planned(store, name, own, ids(*users(400)), part_size=400)
            running = asyncio.create_task(job.run_part(0, concurrency=2))
            await server.until_sent(2)
            (run,) = job._runs
            admin.execute("LOCK TABLE adapty_job IN ACCESS EXCLUSIVE MODE")
            async with asyncio.timeout(50):
                while not admin.execute(  # noqa: ASYNC110  the server has no event
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'adapty-async job' AND wait_event_type = 'Lock'"
                ).fetchall():
                    await asyncio.sleep(0.01)
            admin.rollback()
            await job.cancel()
            await until_stopped(run)
            server.may_respond.set()
            with pytest.raises(JobStoppedError, match="has stopped: cancelled"):
                await running
    assert server.count == 2


async def test_a_session_that_ends_stops_its_runs(
    postgres_url: str, name: str, ids: WriteIds
) -> None:
    """A runner whose session is terminated stops within the interval of checks."""
    async with (
        Sandbox(latency=0.1) as slow,
        AdaptyClient(slow.api_key, base_url=slow.url) as own,
        JobStore(postgres_url, lease=5.0) as store,
    ):
        job = await planned(store, name, own, ids(*users(400)), part_size=400)
        running = asyncio.create_task(job.run_part(0, concurrency=2))
        await until_arrived(slow)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks"
                " WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
            )
        with pytest.raises(PartBusyError, match="its lock was lost"):
            await running
        assert len(slow.arrivals()) < 400
        report = await job.run_part(0, concurrency=256)
        assert report is not None
        assert (await job.report()).ok


async def test_a_run_without_its_lock_waits_for_no_response(
    postgres_url: str, name: str, ids: WriteIds
) -> None:
    """The retry of a request could be sent after another runner has taken the part over."""
    server = Held()
    async with (
        AdaptyClient("key", base_url="http://127.0.0.1:1", transport=server) as own,
        JobStore(postgres_url) as store,
    ):
        job = await planned(store, name, own, ids(*users(10)))
        running = asyncio.create_task(job.run_part(0, concurrency=2, drain=3600.0))
        await server.until_sent(2)
        store._database._lose_all()  # type: ignore[attr-defined]
        async with asyncio.timeout(50):
            with pytest.raises(PartBusyError, match="its lock was lost"):
                await running
    assert server.count == 2


async def test_a_session_with_locks_is_checked(postgres_url: str) -> None:
    """A lock stays as long as its session responds to the checks."""
    lost: list[bool] = []
    async with JobStore(postgres_url, lease=5.0) as store:
        database: Any = store._database
        lock = await database.lock(8, 8)
        lock.watch(lambda: lost.append(True))
        expires = database._expiry.when()
        async with asyncio.timeout(50):
            while database._expiry.when() == expires:  # noqa: ASYNC110  a check has no event
                await asyncio.sleep(0.01)
        assert await database.held(8, [8]) == {8}
        assert not lost
        await lock.release()


async def test_a_lock_that_expires_is_lost_at_once(postgres_url: str) -> None:
    """Its runner stops then, and not when the session is used the next time."""
    lost = asyncio.Event()
    async with JobStore(postgres_url) as store:
        database: Any = store._database
        database._checks.cancel()
        lock = await database.lock(18, 1)
        lock.watch(lost.set)
        database._renew(asyncio.get_running_loop().time() - 60.0)
        async with asyncio.timeout(50):
            await lost.wait()


async def test_a_process_that_stood_still_keeps_no_lock(postgres_url: str) -> None:
    """A lock that has expired here is free for others, though the connection still works."""
    told: list[bool] = []
    async with JobStore(postgres_url) as store, JobStore(postgres_url) as other:
        lock = await store._database.lock(10, 1)
        assert lock is not None
        lock.watch(lambda: told.append(True))
        stood_still = asyncio.get_running_loop().time() - 60.0
        store._database._renew(stood_still)  # type: ignore[attr-defined]
        async with asyncio.timeout(50):
            while (theirs := await other._database.lock(10, 1)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await theirs.release()
        with pytest.raises(StoreUnavailableError):
            await store._database.lock(10, 2)
        again = await store._database.lock(10, 2)
        assert (told, again is None) == ([True], False)


async def test_a_lock_counts_from_the_time_at_which_it_was_asked_for(postgres_url: str) -> None:
    """A response may take long, and the lease of the server begins before it arrives."""
    clock = asyncio.get_running_loop().time
    async with JobStore(postgres_url, lease=25.0) as store:
        database: Any = store._database
        async with database._session._turn:  # until the last use has its response
            locking = asyncio.create_task(database.lock(16, 1))
            for _ in range(3):
                await asyncio.sleep(0)
            waiting = clock()
        lock = await locking
        assert database._expiry.when() <= waiting + 0.8 * 25.0
        await lock.release()


async def test_a_lock_that_could_not_be_asked_for_is_no_busy_part(postgres_url: str) -> None:
    """Otherwise a worker whose store was away would wait for itself."""
    async with JobStore(postgres_url) as store:
        session: Any = store._database._session._session  # type: ignore[attr-defined]
        session.failed_at = time.monotonic()  # nothing connects for a moment
        with pytest.raises(StoreUnavailableError):
            await store._database.lock(17, 1)
        session.failed_at = -math.inf
        lock = await store._database.lock(17, 1)
        assert lock is not None
        await lock.release()


async def test_a_server_without_a_free_connection_is_waited_for(
    postgres_url: str, name: str, ids: WriteIds, caplog: pytest.LogCaptureFixture
) -> None:
    """The connections of a worker break, and other programs have those that are left."""
    with fresh_database(postgres_url) as url, psycopg.connect(url, autocommit=True) as admin:
        admin.execute("CREATE ROLE busy LOGIN")
        admin.execute("GRANT CREATE ON SCHEMA public TO busy")
        async with (
            Sandbox(latency=0.01) as sandbox,
            AdaptyClient(sandbox.api_key, base_url=sandbox.url) as adapty,
            JobStore(url.replace("//postgres@", "//busy@")) as store,
        ):
            sandbox.seed_profiles(users(400))
            job = await planned(store, name, adapty, ids(*users(400)), part_size=50)
            working = asyncio.create_task(job.work(concurrency=4))
            await until_arrived(sandbox)
            admin.execute("ALTER ROLE busy CONNECTION LIMIT 0")
            sessions = "FROM pg_stat_activity WHERE usename = 'busy'"
            admin.execute(f"SELECT pg_terminate_backend(pid) {sessions}".encode())
            async with asyncio.timeout(50):
                while "it has no free connection" not in caplog.text:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            admin.execute("ALTER ROLE busy CONNECTION LIMIT -1")
            report = await working
            assert report.ok
            assert not sandbox.customer_user_ids()
            assert len(sandbox.arrivals()) <= 400 + 2 * 4
        admin.execute("DROP OWNED BY busy")
        admin.execute("DROP ROLE busy")


async def test_a_server_that_can_only_be_read_from_now_on_is_left(postgres_url: str) -> None:
    """The address leads to another one after a switchover, with locks of its own."""
    pid = Statement("SELECT pg_backend_pid()")
    told: list[bool] = []
    async with JobStore(postgres_url) as store, JobStore(postgres_url) as other:
        before = await store._database.execute(pid)
        lock = await store._database.lock(15, 1)
        assert lock is not None
        lock.watch(lambda: told.append(True))
        # other sessions, such as the next ones, can write
        await store._database.execute(Statement("SET default_transaction_read_only = on"))
        with pytest.raises(StoreUnavailableError, match="a standby can only be read"):
            await store._database.execute(Statement("DELETE FROM adapty_job WHERE id = -1"))
        assert told == [True]
        await store._database.execute(Statement("DELETE FROM adapty_job WHERE id = -1"))
        assert await store._database.execute(pid) != before
        async with asyncio.timeout(50):
            while (theirs := await other._database.lock(15, 1)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await theirs.release()
        again = await store._database.lock(15, 1)
        assert again is not None
        await again.release()


async def test_a_session_without_locks_stays_open(postgres_url: str) -> None:
    """A worker that had no part for a while acquires the next one with the same session."""
    async with JobStore(postgres_url) as store:
        database = store._database
        first, second = await database.lock(12, 1), await database.lock(12, 2)
        assert first is not None
        assert second is not None
        await first.release()
        assert database._expiry is not None  # type: ignore[attr-defined]  # the other is checked
        await second.release()
        assert database._expiry is None  # type: ignore[attr-defined]
        async with JobStore(postgres_url) as other:
            theirs = await other._database.lock(12, 1)
            assert theirs is not None
            assert await database.lock(12, 1) is None
            assert database._expiry is None  # type: ignore[attr-defined]
            await theirs.release()


def sleeping(name: str) -> Steps[None]:
    """Yield a statement that the server executes for longer than the test lasts."""
    yield Statement(f"SELECT pg_sleep(60), '{name}'")


async def until_sleeping(url: str, name: str) -> None:
    """Wait until the server executes that statement."""
    active = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query = %s"
    query = next(sleeping(name)).sql
    async with asyncio.timeout(50), await psycopg.AsyncConnection.connect(url) as connection:
        while not await (await connection.execute(active, (query,))).fetchall():
            await connection.rollback()


async def test_a_transaction_that_is_cancelled_holds_up_no_other(
    postgres_url: str, name: str
) -> None:
    """A transaction may be as long as a plan of millions of items; its cancellation undoes it."""
    async with JobStore(postgres_url) as store:
        steps = sleeping(name)
        long = asyncio.create_task(store._database.transact(steps, is_long=True))
        await until_sleeping(postgres_url, name)
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long
        async with asyncio.timeout(50):
            assert await store._database.execute(Statement("SELECT 1")) == [(1,)]


async def test_a_statement_that_is_cancelled_leaves_its_connection(postgres_url: str) -> None:
    """The statement is executed, and the next one follows in the same session."""
    pid = Statement("SELECT pg_backend_pid()")
    async with JobStore(postgres_url) as store:
        before = await store._database.execute(pid)
        short = asyncio.create_task(store._database.execute(Statement("SELECT 1")))
        await asyncio.sleep(0)  # it has begun
        short.cancel()
        with pytest.raises(asyncio.CancelledError):
            await short
        assert await store._database.execute(pid) == before


async def test_a_connection_that_comes_too_late_is_not_used(
    postgres_url: str, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """A transaction that is cancelled while its connection is made has no effect."""
    async with running_cut(postgres_url) as cut, JobStore(cut.url) as store:
        job = await planned(store, name, adapty, ids("a"))
        store._database._data.disconnect()  # type: ignore[attr-defined]
        cut.connects.clear()
        forgetting = asyncio.create_task(job.forget())
        while not cut.waiting:  # noqa: ASYNC110  a connection has no event
            await asyncio.sleep(0.001)
        forgetting.cancel()
        await asyncio.sleep(0)
        cut.connects.set()
        with pytest.raises(asyncio.CancelledError):
            await forgetting
        assert (await job.report()).items == 1


async def test_a_connection_that_fails_fails_for_all_that_wait_for_it(anyio_backend: str) -> None:
    """Otherwise each would wait for one of its own, and a worker could not stop for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/d?connect_timeout=2"
        link = Link(url, lease=25.0, lost=lambda: None, has_locks=False)
        uses = [link.use(lambda connection: connection.execute("SELECT 1")) for _ in range(9)]
        async with asyncio.timeout(10):
            results = await asyncio.gather(*uses, return_exceptions=True)
        await link.close()
    text = "the job store cannot be reached: the server does not respond"
    assert all(isinstance(each, StoreUnavailableError) for each in results)
    assert all(str(each).startswith(text) for each in results)


async def test_work_may_last_longer_than_the_making_of_its_connection(postgres_url: str) -> None:
    """The limit of the time to connect ends with the connection."""
    pause = Statement("SELECT 1 FROM pg_sleep(2.1)")
    async with JobStore(postgres_url, lease=10.0) as store:
        store._database._data.disconnect()  # type: ignore[attr-defined]
        assert await store._database.execute(pause) == [(1,)]


async def test_a_lease_that_the_server_rejects_is_reported(postgres_url: str) -> None:
    """Its intervals of checks are parameters of the server's sessions."""
    with pytest.raises((JobError, StoreUnavailableError), match="job store cannot be"):
        await JobStore(postgres_url, lease=1e11).__aenter__()


async def test_a_store_that_is_closed_ends_what_uses_it(postgres_url: str, name: str) -> None:
    """A statement without a response does not keep a program from its end."""
    async with JobStore(postgres_url) as store:
        long = asyncio.create_task(store._database.transact(sleeping(name)))
        await until_sleeping(postgres_url, name)
    with pytest.raises(StoreUnavailableError, match="cannot be reached"):
        await long


async def test_a_lock_that_is_lost_already_ends_a_run_at_once(postgres_url: str) -> None:
    """A watcher of a lock that is lost is called at once, and it is not released again."""
    async with JobStore(postgres_url) as store:
        lock = await store._database.lock(9, 9)
        assert lock is not None
        assert await store._database.lock(9, 9) is None
        assert await store._database.held(9, [8, 9]) == {9}
        await store._database._session.close()  # type: ignore[attr-defined]
        told: list[bool] = []
        lock.watch(lambda: told.append(True))
        store._database._renew(0.0)  # type: ignore[attr-defined]  # there is no session to end
        await lock.release()
        await asyncio.sleep(0.01)
        assert told == [True]


async def test_a_store_without_its_tables_is_reported(
    postgres_url: str, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """An error of the database has its class, and no value."""
    async with JobStore(postgres_url) as store:
        with pytest.raises(JobError, match="cannot be used: UndefinedTable, SQLSTATE 42P01"):
            await store._database.execute(Statement("SELECT * FROM adapty_none"))
        with pytest.raises(JobError, match="cannot be used: UniqueViolation"):
            await store._database.transact(
                steps_of([Statement("INSERT INTO adapty_run VALUES (0, 0, 0, 0, 0)")] * 2)
            )


async def test_a_part_that_ends_during_a_report_counts_once(
    postgres_url: str, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """All statements of a report read the same state, so its counts add up."""

    def interrupted(steps: Steps[JobReport]) -> Steps[JobReport]:
        statement = next(steps)
        while "is_open = 1" not in statement.sql:
            statement = steps.send((yield statement))
        rows = yield statement
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(
                "UPDATE adapty_part SET is_open = 0, ended_at = 1, done = 10 WHERE job = %s"
                " AND number = 0",
                (job._record.id,),
            )
        try:
            while True:
                rows = yield steps.send(rows)
        except StopIteration as end:
            report: JobReport = end.value
            return report

    async with JobStore(postgres_url) as store:
        job = await planned(store, name, adapty, ids(*users(20)))
        opened = "UPDATE adapty_part SET is_open = 1, runs = 1, worker = 'me' WHERE job = :job"
        await store._database.execute(Statement(opened, {"job": job._record.id}))
        steps = interrupted(read_report(job._record, set()))
        report = await store._database.transact(steps)
        assert (sum(report.counts.values()), report.parts.total) == (20, 2)


async def test_a_worker_stops_while_its_store_is_away(
    postgres_url: str, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """A stop does not wait for the end of an outage."""
    async with contextlib.AsyncExitStack() as proxy:
        cut = await proxy.enter_async_context(running_cut(postgres_url))
        async with JobStore(cut.url) as store:
            job = await planned(store, name, adapty, ids("a"))
            await proxy.aclose()
            job.stop()
            async with asyncio.timeout(50):
                with pytest.raises(StoreUnavailableError, match="cannot be reached"):
                    await job.work(max_outage=60.0)


async def test_a_worker_with_many_parts_stops_during_an_outage(
    postgres_url: str, name: str, ids: WriteIds, caplog: pytest.LogCaptureFixture
) -> None:
    """A stop ends the wait for the store, and no other part waits for it."""
    async with (
        Sandbox(latency=0.05) as slow,
        AdaptyClient(slow.api_key, base_url=slow.url) as own,
        contextlib.AsyncExitStack() as proxy,
    ):
        cut = await proxy.enter_async_context(running_cut(postgres_url))
        async with JobStore(cut.url) as store:
            job = await planned(store, name, own, ids(*users(64)), part_size=1)
            working = asyncio.create_task(job.work(max_outage=60.0))
            await until_arrived(slow)
            await proxy.aclose()
            while "this worker tries again" not in caplog.text:  # noqa: ASYNC110  no event
                await asyncio.sleep(0.01)
            job.stop()
            async with asyncio.timeout(15):  # the parts alone would wait for 24 s
                with pytest.raises(StoreUnavailableError, match="cannot be reached"):
                    await working


NOBODY = 65534
# Opens a store as a user who may only read it, reports a job, and tries to resume and to run it.
READER = f"""
import asyncio, os, sys
from adapty_async.errors import AdaptyError
from adapty_async.jobs import JobStore

store = JobStore(sys.argv[1])  # it loads modules when they are needed, and a user may not read them
is_root = os.geteuid() == 0
if is_root:  # back to root at the end, for the files of coverage
    os.setgroups([])
    os.setresgid({NOBODY}, {NOBODY}, 0)
    os.setresuid({NOBODY}, {NOBODY}, 0)

async def main(name):
    async with store:
        job = await store.job(name)
        print((await job.report()).counts["not_sent"], await job.open_parts())
        for write in (job.retry(), store._database.lock(1, 0)):
            try:
                await write
            except AdaptyError as error:
                print(type(error).__name__, error)

asyncio.run(main(sys.argv[2]))
if is_root:
    os.seteuid(0)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Make a folder that every user can reach, below a temporary folder that only root can."""
    folder = Path(tempfile.mkdtemp())
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def read_as_a_user(path: Path, name: str) -> list[str]:
    """Make a store and its folder read-only, and return what a user prints who reads it."""
    path.chmod(0o444)
    path.parent.chmod(0o555)
    command = [sys.executable, "-c", READER, f"sqlite:///{path}", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.stderr == ""
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    return done.stdout.splitlines()


async def test_a_store_that_this_user_cannot_write_is_read(
    open_folder: Path, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """A job in a folder that is read-only is reported, and nothing is created or changed there."""
    path = open_folder / "jobs.db"
    async with JobStore(f"sqlite:///{path}") as store:
        await planned(store, name, adapty, ids(*users(15)))

    assert read_as_a_user(path, name) == [
        "15 [0, 1]",
        f"StoreUnavailableError the job store {path} cannot be used: it is read-only",
        f"JobError the job store {path} cannot be used: it is read-only",
    ]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file of a store as a worker does."""
    with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE number (value integer)")
        yield db


def test_a_reader_sees_what_workers_have_recorded_so_far(
    tmp_path: Path, writer: sqlite3.Connection
) -> None:
    """While others use a store, the newest part of what it holds is in its log."""
    reader = _sqlite._ReadOnlyFile(tmp_path / "jobs.db")
    count = Statement("SELECT count(*) FROM number")
    assert reader.execute_alone(count, durable=True) == [(0,)]
    writer.execute("INSERT INTO number VALUES (1)")
    assert reader.execute_alone(count, durable=True) == [(1,)]
    writer.close()
    assert [each.name for each in tmp_path.iterdir()] == ["jobs.db"]
    assert reader.execute_alone(count, durable=True) == [(1,)]


@pytest.mark.parametrize("ends", [False, True], ids=["works", "ended"])
def test_a_store_that_a_worker_uses_meanwhile_is_read_again_later(
    tmp_path: Path,
    writer: sqlite3.Connection,
    ends: bool,  # noqa: FBT001  a parametrised case
) -> None:
    """A reader that found no log does not trust what it has read if there is a worker after all."""
    path = tmp_path / "jobs.db"
    writer.close()

    def reading() -> Steps[None]:
        yield Statement("SELECT count(*) FROM number")
        worker = sqlite3.connect(path, isolation_level=None)
        stack.callback(worker.close)
        worker.execute("INSERT INTO number VALUES (1)")
        if ends:
            worker.close()

    text = r"jobs\.db changed while it was read: try again"
    with contextlib.ExitStack() as stack, pytest.raises(StoreUnavailableError, match=text):
        _sqlite._ReadOnlyFile(path).transact(reading(), durable=True)


def test_a_store_that_changes_while_it_is_read_is_not_damaged(
    tmp_path: Path, writer: sqlite3.Connection
) -> None:
    """A reader finds pages of two states, and its error is no evidence of damage."""
    path = tmp_path / "jobs.db"
    rows = [(number,) for number in range(3_000)]
    writer.executemany("INSERT INTO number VALUES (?)", rows)
    writer.close()

    def reading() -> Steps[None]:
        yield Statement("SELECT * FROM number LIMIT 1")
        with closing(sqlite3.connect(path, isolation_level=None)) as worker:
            worker.execute("DELETE FROM number WHERE value > 10")
            worker.execute("VACUUM")
        yield Statement("SELECT * FROM number")

    with pytest.raises(StoreUnavailableError, match=r"jobs\.db changed while it was read"):
        _sqlite._ReadOnlyFile(path).transact(reading(), durable=True)
