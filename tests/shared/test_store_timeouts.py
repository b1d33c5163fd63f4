"""The time after which a store of shared rates counts as down, over real servers and files."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import time
import urllib.parse
from pathlib import Path

import psycopg
import pytest

from adapty_async._shared.postgres import PostgresStore
from adapty_async._shared.redis import RedisStore
from adapty_async._shared.sqlite import SqliteStore
from adapty_async._shared.store import Store
from adapty_async.errors import StoreError
from tests.jobs.proxies import running_cut
from tests.servers import fresh_database
from tests.shared.support import load, swap


async def test_a_postgres_that_does_not_respond_is_down() -> None:
    """A server that accepts connections and says nothing counts as down, and is left at once."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = PostgresStore(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/none")
        with pytest.raises(StoreError, match="does not respond"):
            await load(store, "key")
        await store.aclose()


@pytest.mark.parametrize("kind", ["redis", "postgres"])
async def test_a_process_that_stands_still_does_not_count_as_an_outage(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """On a busy machine, the response may have been there before the process had its turn."""
    url = request.getfixturevalue(f"{kind}_url")
    store: Store = RedisStore(url) if kind == "redis" else PostgresStore(url)
    await store.open()
    loading = asyncio.create_task(load(store, "key"))
    for _ in range(5):  # the command is on its way
        await asyncio.sleep(0)
    time.sleep(0.7)  # noqa: ASYNC251  the process stands still
    assert (await loading).version == 0
    await store.aclose()


async def test_a_host_that_is_gone_is_passed_over(postgres_url: str, key: str) -> None:
    """The first one of several does not respond any more, as after the loss of its machine."""
    folder = urllib.parse.parse_qs(urllib.parse.urlsplit(postgres_url).query)["host"][0]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ports = f"{silent.getsockname()[1]},5432"
        store = PostgresStore(
            f"postgresql://postgres@/postgres?host=127.0.0.1,{folder}&port={ports}"
        )
        await store.open()
        await store.aclose()
        with pytest.raises(StoreError, match="does not respond"):
            await load(store, key)
        while True:
            try:
                assert (await load(store, key)).version == 0
                break
            except StoreError:  # it still connects
                continue
        await store.aclose()


async def test_a_connection_that_is_not_used_is_closed(postgres_url: str, key: str) -> None:
    """It may come after the command that asked for it has ended."""
    async with running_cut(postgres_url) as cut:
        store = PostgresStore(cut.url)
        cut.connects.clear()
        with pytest.raises(StoreError, match="does not respond"):
            await load(store, key)
        cut.connects.set()
        assert store._connecting is not None
        await asyncio.wait({store._connecting})
        await store.aclose()
        assert store._connecting is None


async def test_a_postgres_that_stands_still_is_left_at_once(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that stops in the middle of a command is down; the connection is not used again."""
    with fresh_database(postgres_url) as url:
        store = PostgresStore(url)
        await store.open()
        await load(store, "key")
        with psycopg.connect(url) as other:
            row = other.execute(
                "select pid from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
                " and backend_type = 'client backend'"
            ).fetchone()
        assert row is not None
        os.kill(row[0], signal.SIGSTOP)
        try:
            with pytest.raises(StoreError, match="does not respond"):
                await load(store, "key")
            assert (await load(store, "key"))[:2] == (0, None)
        finally:
            os.kill(row[0], signal.SIGCONT)
        await store.aclose()
    assert caplog.records == []  # of psycopg


async def test_a_locked_sqlite_file_is_down(tmp_path: Path) -> None:
    """A file that another program has locked for too long counts as down."""
    store = SqliteStore(str(tmp_path / "rate.db"))
    await store.open()
    other = sqlite3.connect(tmp_path / "rate.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="SQLite failed"):
        await swap(store, "key", 0, b"value")
    other.execute("ROLLBACK")

    assert await swap(store, "key", 0, b"value")
    other.close()
    await store.aclose()
