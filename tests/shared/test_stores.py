"""One suite for the stores of shared rates, and the failures that are those of one store."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psycopg
import pytest

from adapty_async._shared.postgres import PostgresStore
from adapty_async._shared.redis import RedisStore
from adapty_async._shared.sqlite import SqliteStore
from adapty_async._shared.store import MemoryStore, Store
from adapty_async.errors import ConfigError, StoreError
from tests.servers import OwnPostgres, OwnRedis, fresh_database

KINDS = ("memory", "redis", "postgres", "sqlite")
#: Returns another store of the same values, like that of another process.
Connect = Callable[[], Store]


@pytest.fixture
def key() -> str:
    """Return a key that no other test uses."""
    return f"adapty:rate:test:{uuid.uuid4().hex}"


@pytest.fixture(params=KINDS)
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Connect:
    """Return what connects to each kind of store."""
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
        return lambda: RedisStore(url)
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
        return lambda: PostgresStore(url)
    if request.param == "sqlite":
        return lambda: SqliteStore(str(tmp_path / "rate.db"))
    values: dict[str, tuple[int, bytes]] = {}

    def memory() -> Store:
        store = MemoryStore(time.time)
        store.values = values
        return store

    return memory


@pytest.fixture
async def stores(connect: Connect) -> AsyncIterator[tuple[Store, Store]]:
    """Return two stores of the same values."""
    both = connect(), connect()
    for store in both:
        await store.open()
    yield both
    for store in both:
        await store.aclose()


async def test_a_value_is_seen_by_others(stores: tuple[Store, Store], key: str) -> None:
    """A value that was swapped in is loaded byte for byte, with the version after the last."""
    first, second = stores
    value = bytes(range(256))

    assert (await first.load(key))[:2] == (0, None)
    assert await first.swap(key, 0, value)
    assert (await second.load(key))[:2] == (1, value)
    assert await second.swap(key, 1, b"")
    assert (await first.load(key))[:2] == (2, b"")


async def test_a_swap_of_an_old_version_changes_nothing(
    stores: tuple[Store, Store], key: str
) -> None:
    """Of two swaps of one version the first succeeds; this holds for the first version too."""
    first, second = stores

    assert await first.swap(key, 0, b"first")
    assert not await second.swap(key, 0, b"second")
    assert await first.swap(key, 1, b"third")
    assert not await second.swap(key, 1, b"fourth")
    assert not await second.swap(key, 5, b"fifth")
    assert (await second.load(key))[:2] == (2, b"third")


async def test_a_swap_of_a_value_that_is_gone_fails(stores: tuple[Store, Store], key: str) -> None:
    """A version of a value that the store has lost is an old one."""
    assert not await stores[0].swap(key, 3, b"value")
    assert (await stores[0].load(key))[:2] == (0, None)


async def test_keys_do_not_disturb_each_other(stores: tuple[Store, Store], key: str) -> None:
    """Each key has a version of its own."""
    first, second = stores
    await first.swap(key, 0, b"one")
    await first.swap(f"{key}:other", 0, b"other")

    assert await first.swap(key, 1, b"two")
    assert (await second.load(f"{key}:other"))[:2] == (1, b"other")


async def test_concurrent_swaps_lose_nothing(connect: Connect, key: str) -> None:
    """A counter that several members increment ends at the number of increments."""

    async def increment() -> None:
        store = connect()
        await store.open()
        for _ in range(5):
            while True:
                version, value, _now = await store.load(key)
                if await store.swap(key, version, b"%d" % (int(value or 0) + 1)):
                    break
        await store.aclose()

    await asyncio.gather(*(increment() for _ in range(4)))
    store = connect()
    await store.open()

    assert (await store.load(key))[:2] == (20, b"20")
    await store.aclose()


async def test_the_stores_clock_runs(stores: tuple[Store, Store], key: str) -> None:
    """All members see one clock, whose resolution is far below a millisecond."""
    times = [(await stores[number % 2].load(key)).now for number in range(6)]

    assert times == sorted(times)
    assert len(set(times)) > 1
    assert times[-1] - times[0] < 30.0


async def test_a_store_opens_again_after_its_close(connect: Connect, key: str) -> None:
    """A close ends connections, and may be done twice."""
    store = connect()
    await store.open()
    await store.swap(key, 0, b"value")
    await store.aclose()
    await store.aclose()


async def test_many_processes_may_open_a_new_store_at_once(postgres_url: str) -> None:
    """The table is created once, however many create it at the same time."""
    with fresh_database(postgres_url) as url:
        stores = [PostgresStore(url) for _ in range(8)]
        await asyncio.gather(*(store.open() for store in stores))
        for store in stores:
            await store.aclose()
        with psycopg.connect(url) as connection:
            row = connection.execute(
                "select relpersistence from pg_class where relname = 'adapty_shared_rate'"
            ).fetchone()

    assert row == ("u",)


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        pytest.param(RedisStore, "redis://127.0.0.1:1", id="redis"),
        pytest.param(PostgresStore, "postgresql://127.0.0.1:1/none", id="postgres"),
        pytest.param(SqliteStore, "/nowhere/at/all.db", id="sqlite"),
        pytest.param(lambda _: _down(), "", id="memory"),
    ],
)
async def test_a_store_that_is_not_there_is_an_error(
    kind: Callable[[str], Store], url: str
) -> None:
    """Each operation of a store that cannot be reached raises the library's own error."""
    store = kind(url)

    with pytest.raises(StoreError, match=r"down|failed"):
        await store.open()
    with pytest.raises(StoreError, match=r"down|failed"):
        await store.load("key")
    with pytest.raises(StoreError, match=r"down|failed") as caught:
        await store.swap("key", 0, b"")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    await store.aclose()


def _down() -> Store:
    store = MemoryStore(time.time)
    store.is_down = True
    return store


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        pytest.param(RedisStore, "redis://:secret@host:port", id="redis"),
        pytest.param(PostgresStore, "postgresql://user:secret@host:port:1/%zz", id="postgres"),
    ],
)
def test_a_url_that_is_not_valid_is_not_shown(kind: Callable[[str], Store], url: str) -> None:
    """A URL may contain a password, which is in no message."""
    with pytest.raises(ConfigError, match="is not a valid URL") as caught:
        kind(url)

    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("server", [OwnRedis, OwnPostgres], ids=["redis", "postgres"])
async def test_a_store_connects_again_after_a_crash_of_its_server(
    server: type[OwnRedis | OwnPostgres],
) -> None:
    """The operations fail while the server is down, and succeed when it is back."""
    with server() as own:
        store: Store = RedisStore(own.url) if server is OwnRedis else PostgresStore(own.url)
        await store.open()
        await store.swap("key", 0, b"value")
        own.kill()
        with pytest.raises(StoreError, match="down"):
            await store.load("key")
        with pytest.raises(StoreError, match="down"):
            await store.load("key")
        own.start()
        version, value, _ = await _load(store)

        assert (version, value) in {(0, None), (1, b"value")}
        await store.aclose()


async def _load(store: Store) -> tuple[int, bytes | None, float]:
    """Load a value; a server that recovers needs a moment."""
    while True:
        try:
            return await store.load("key")
        except StoreError:
            await asyncio.sleep(0.02)


async def test_a_postgres_that_does_not_respond_is_down() -> None:
    """A server that accepts connections and says nothing counts as down, and is left at once."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = PostgresStore(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/none")
        with pytest.raises(StoreError, match="does not respond"):
            await store.load("key")
        await store.aclose()


async def test_a_postgres_that_stands_still_is_left_at_once(postgres_url: str) -> None:
    """A server that stops in the middle of a command is down; the connection is not used again."""
    with fresh_database(postgres_url) as url:
        store = PostgresStore(url)
        await store.open()
        await store.load("key")
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
                await store.load("key")
            assert (await store.load("key"))[:2] == (0, None)
        finally:
            os.kill(row[0], signal.SIGCONT)
        await store.aclose()


async def test_a_locked_sqlite_file_is_down(tmp_path: Path) -> None:
    """A file that another program has locked for too long counts as down."""
    store = SqliteStore(str(tmp_path / "rate.db"))
    await store.open()
    other = sqlite3.connect(tmp_path / "rate.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="SQLite failed"):
        await store.swap("key", 0, b"value")
    other.execute("ROLLBACK")

    assert await store.swap("key", 0, b"value")
    other.close()
    await store.aclose()


async def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    """A file of another kind is not touched."""
    path = tmp_path / "notes.txt"
    path.write_text("notes " * 200)
    store = SqliteStore(str(path))
    with pytest.raises(StoreError, match="SQLite failed"):
        await store.open()
    await store.aclose()

    assert path.read_text() == "notes " * 200


async def test_stores_that_open_one_file_at_the_same_time_wait_for_each_other(
    tmp_path: Path,
) -> None:
    """Each turns on the write-ahead log, for which SQLite itself does not wait."""
    for attempt in range(60):
        stores = [SqliteStore(str(tmp_path / f"rate{attempt}.db")) for _ in range(8)]
        await asyncio.gather(*(store.open() for store in stores))
        await asyncio.gather(*(store.aclose() for store in stores))
