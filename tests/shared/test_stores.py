"""One suite for the stores of shared rates, and the failures that are those of one store."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import sqlite3
import time
import urllib.parse
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import LiteralString

import psycopg
import psycopg.conninfo
import psycopg.sql
import pytest
import redis

from adapty_async._runtime.database import JOURNAL_ID
from adapty_async._shared import postgres as _postgres
from adapty_async._shared import redis as _redis
from adapty_async._shared import sqlite as _sqlite
from adapty_async._shared.loop import ExchangeLoop
from adapty_async._shared.postgres import PostgresStore
from adapty_async._shared.redis import RedisStore
from adapty_async._shared.sqlite import SqliteStore
from adapty_async._shared.store import Change, Loaded, Store
from adapty_async.errors import ConfigError, StoreError
from tests.servers import OwnPostgres, OwnRedis, fresh_database
from tests.shared.support import MemoryStore, load, swap, until

# Offset of the version of a file's format that a program needs to write to it.
_SQLITE_WRITE_VERSION = 18

KINDS = ("memory", "redis", "postgres", "sqlite")
#: Returns another store of the same values, like that of another process.
Connect = Callable[[], Store]


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a store of a busy machine take its time; `test_store_timeouts` has the usual one."""
    for module in (_postgres, _redis, _sqlite):
        monkeypatch.setattr(module, "TIMEOUT", 30.0)


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

    assert (await load(first, key))[:2] == (0, None)
    assert await swap(first, key, 0, value)
    assert (await load(second, key))[:2] == (1, value)
    assert await swap(second, key, 1, b"")
    assert (await load(first, key))[:2] == (2, b"")


async def test_a_swap_of_an_old_version_changes_nothing(
    stores: tuple[Store, Store], key: str
) -> None:
    """Of two swaps of one version the first succeeds; this holds for the first version too."""
    first, second = stores

    assert await swap(first, key, 0, b"first")
    assert not await swap(second, key, 0, b"second")
    assert await swap(first, key, 1, b"third")
    assert not await swap(second, key, 1, b"fourth")
    assert not await swap(second, key, 5, b"fifth")
    assert (await load(second, key))[:2] == (2, b"third")


async def test_a_swap_of_a_value_that_is_gone_fails(stores: tuple[Store, Store], key: str) -> None:
    """A version of a value that the store has lost is an old one."""
    assert not await swap(stores[0], key, 3, b"value")
    assert (await load(stores[0], key))[:2] == (0, None)


async def test_keys_do_not_disturb_each_other(stores: tuple[Store, Store], key: str) -> None:
    """Each key has a version of its own."""
    first, second = stores
    await swap(first, key, 0, b"one")
    await swap(first, f"{key}:other", 0, b"other")

    assert await swap(first, key, 1, b"two")
    assert (await load(second, f"{key}:other"))[:2] == (1, b"other")


async def test_several_keys_are_loaded_and_swapped_at_once(
    stores: tuple[Store, Store], key: str
) -> None:
    """Values come in the order of their keys; a swap that loses does not stop the others."""
    first, second = stores
    keys = [f"{key}:{name}" for name in "cadb"]
    c, a, d, b = keys
    await swap(second, a, 0, b"one")
    await swap(second, d, 0, b"two")
    await swap(second, d, 1, b"three")

    loaded = await first.load(keys)
    assert [one[:2] for one in loaded] == [(0, None), (1, b"one"), (2, b"three"), (0, None)]
    assert max(one.now for one in loaded) - min(one.now for one in loaded) < 30.0
    await swap(second, a, 1, b"four")
    versions = [one.version for one in loaded]
    changes = [Change(*one, b"new") for one in zip(keys, versions, strict=True)]
    assert await first.swap([*changes, Change(key, 3, b"gone")]) == [True, False, True, True, False]
    assert [one[:2] for one in await second.load([a, b, c, d, key])] == [
        (2, b"four"),
        (1, b"new"),
        (1, b"new"),
        (3, b"new"),
        (0, None),
    ]


async def test_concurrent_swaps_lose_nothing(connect: Connect, key: str) -> None:
    """
    Counters that several members increment together end at the number of increments.

    Each member has its own order of the keys, and none waits for another one in a circle.
    """
    keys = [f"{key}:{number}" for number in range(3)]

    async def increment(own: list[str]) -> None:
        store = connect()
        await store.open()
        left = dict.fromkeys(own, 5)
        while open_keys := [one for one in own if left[one]]:
            loaded = await store.load(open_keys)
            changes = [
                Change(one, version, b"%d" % (int(value or 0) + 1))
                for one, (version, value, _now) in zip(open_keys, loaded, strict=True)
            ]
            for one, swapped in zip(open_keys, await store.swap(changes), strict=True):
                left[one] -= swapped
        await store.aclose()

    orders = list(itertools.permutations(keys))[:4]
    await asyncio.gather(*(increment([*order]) for order in orders))
    store = connect()
    await store.open()

    assert [one[:2] for one in await store.load(keys)] == [(20, b"20")] * 3
    await store.aclose()


class Counted:
    """A `Store` that counts the exchanges with another one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.open, self.swap, self.aclose = store.open, store.swap, store.aclose
        self.exchanges = 0

    async def load(self, keys: Sequence[str]) -> list[Loaded]:
        """Return the values of keys."""
        self.exchanges += 1
        return await self._store.load(keys)


async def test_three_busy_buckets_exchange_at_most_20_times_a_second(
    connect: Connect, key: str
) -> None:
    """They are carried together, however fast the machine is, and each receives permits."""
    store = Counted(connect())
    await store.open()
    began = time.monotonic()
    exchanges = ExchangeLoop(store, "name", 0.5, time.monotonic)
    sources = [exchanges.source(f"{key}:{number}") for number in range(3)]
    sent = [0, 0, 0]

    async def work(number: int) -> None:
        while sent[number] < 10 or sources[number].exchanges < 10:
            if wait := sources[number].acquire():
                await asyncio.sleep(wait)
            else:
                sent[number] += 1

    await asyncio.gather(*(work(number) for number in range(3)))
    most = 1 + 20 * (time.monotonic() - began)
    assert store.exchanges <= most
    await exchanges.aclose()
    await store.aclose()


async def test_redis_needs_one_round_trip_for_all_keys() -> None:
    """The server reads once for a load, and once for a swap, of three keys."""
    with OwnRedis() as server, redis.Redis.from_url(server.url) as observer:
        store = RedisStore(server.url)
        await store.open()
        keys = ("one", "two", "three")

        def reads() -> int:
            return int(observer.info("stats")["total_reads_processed"])

        reads()  # of the connection
        before = reads()
        await store.load(keys)
        after_load = reads()
        assert await store.swap([Change(key, 0, b"value") for key in keys]) == [True] * 3
        after_swap = reads()
        await store.aclose()

    # one of them is the observer's own
    assert (after_load - before, after_swap - after_load) == (2, 2)


async def test_postgres_locks_rows_in_the_order_of_their_keys(postgres_url: str, key: str) -> None:
    """A swap that waits for a row has locked those before it alone: no two wait in a circle."""
    a, b, c = keys = [f"{key}:{name}" for name in "abc"]
    locked = "select key from adapty_shared_rate where key = any(%s) for update"
    with (
        psycopg.connect(postgres_url) as holder,
        psycopg.connect(postgres_url, autocommit=True) as observer,
    ):
        store = PostgresStore(postgres_url)
        await store.open()
        await store.swap([Change(one, 0, b"old") for one in keys])
        holder.execute(locked, ([b],))
        changes = [Change(one, 1, b"new") for one in (c, b, a)]
        swapping, free = asyncio.create_task(store.swap(changes)), {a, c}
        while free == {a, c}:
            await asyncio.sleep(0)
            free = {one for (one,) in observer.execute(f"{locked} skip locked", (keys,))}
        holder.rollback()
        await asyncio.wait({swapping})
        await store.aclose()

    assert free == {c}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda server, key: server.set(key, "text"), id="another type"),
        pytest.param(lambda server, key: server.hset(key, "version", "1.5"), id="version 1.5"),
        pytest.param(lambda server, key: server.hset(key, "version", "007"), id="version 007"),
        pytest.param(lambda server, key: server.hset(key, "version", ""), id="version empty"),
        pytest.param(lambda server, key: server.hset(key, "value", "x"), id="no version"),
    ],
)
async def test_a_damaged_hash_of_redis_counts_as_lost(
    damage: Callable[[redis.Redis, str], object], redis_url: str, key: str
) -> None:
    """A key that holds something else is replaced, and does not stop the other keys."""
    store = RedisStore(redis_url)
    await swap(store, f"{key}:other", 0, b"other")
    with redis.Redis.from_url(redis_url) as server:
        damage(server, key)
    loaded = await store.load([key, f"{key}:other"])

    assert [one.version for one in loaded] == [0, 1]
    assert await swap(store, key, 0, b"new")
    assert (await load(store, key))[:2] == (1, b"new")
    await store.aclose()


async def test_options_in_a_url_of_redis_do_not_change_what_exchanges_need(
    redis_url: str, key: str
) -> None:
    """A URL that an application uses for other things, too, works with the store's settings."""
    store = RedisStore(f"{redis_url.rstrip('/')}/0?decode_responses=True&socket_timeout=30")
    await store.open()
    assert await swap(store, key, 0, b"\xff\x00")
    assert (await load(store, key))[:2] == (1, b"\xff\x00")
    settings = store._client.connection_pool.connection_kwargs
    assert settings["socket_timeout"] is settings["socket_connect_timeout"] is None
    await store.aclose()


async def test_a_redis_that_is_only_readable_is_an_error_at_the_start() -> None:
    """Otherwise each process would continue alone, and no process would know of another."""
    with OwnRedis() as server, redis.Redis.from_url(server.url) as observer:
        store = RedisStore(server.url)
        await store.open()
        await asyncio.sleep(0.01)
        assert observer.keys("*") == []  # the value that was stored has expired
        observer.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StoreError, match="rejected a command: a replica can only be read"):
            await store.open()
        await store.aclose()


async def test_a_postgres_that_is_only_readable_is_an_error_at_the_start(postgres_url: str) -> None:
    """The table of a standby may be there, and no value can be stored in it."""
    with fresh_database(postgres_url) as url:
        store = PostgresStore(url)
        await store.open()
        await store.aclose()
        name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        with psycopg.connect(url, autocommit=True) as connection:
            setting = psycopg.sql.SQL("alter database {} set default_transaction_read_only = on")
            connection.execute(setting.format(psycopg.sql.Identifier(str(name))))
        with pytest.raises(StoreError, match="rejected a command: ReadOnlySqlTransaction"):
            await store.open()
        await store.aclose()


async def test_a_journal_is_no_store_of_rates(tmp_path: Path) -> None:
    """A journal with another table could not be read any more."""
    path = tmp_path / "run.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA application_id = {JOURNAL_ID}")
    before = path.read_bytes()
    store = SqliteStore(str(path))
    with pytest.raises(StoreError, match=f"{path} is the journal of a run"):
        await store.open()
    await store.aclose()

    assert path.read_bytes() == before


async def test_a_sqlite_file_that_is_only_readable_is_an_error_at_the_start(tmp_path: Path) -> None:
    """Its values can be loaded, and none can be stored."""
    path = tmp_path / "rate.db"
    store = SqliteStore(str(path))
    await store.open()
    await store.aclose()
    with path.open("r+b") as file:  # permissions do not hold for root
        file.seek(_SQLITE_WRITE_VERSION)
        file.write(b"\x03")
    text = rf"^SQLite failed: SQLITE_READONLY: it is read-only \({path}\)"
    with pytest.raises(StoreError, match=text):
        await store.open()
    await store.aclose()


async def test_a_database_of_the_application_stays_as_it_was(tmp_path: Path) -> None:
    """Many applications keep the version of their tables in the header of the file."""
    path = tmp_path / "app.db"
    with contextlib.closing(sqlite3.connect(path)) as app:
        app.execute("CREATE TABLE customers (name TEXT)")
        app.execute("PRAGMA user_version = 7")
        store = SqliteStore(str(path))
        await store.open()
        await store.aclose()

        assert app.execute("PRAGMA user_version").fetchone() == (7,)


async def test_redis_at_another_address_is_found_after_a_failover() -> None:
    """A server that is only readable from now on keeps its connections; a new one leads further."""
    with OwnRedis() as old, OwnRedis() as new, redis.Redis.from_url(old.url) as observer:
        target = urllib.parse.urlsplit(old.url).port

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", target)
            await asyncio.gather(_copy(reader, to_server), _copy(from_server, writer))

        async with await asyncio.start_server(forward, "127.0.0.1", 0) as service:
            store = RedisStore(f"redis://127.0.0.1:{service.sockets[0].getsockname()[1]}")
            await store.open()
            observer.execute_command("REPLICAOF", "127.0.0.1", "1")
            target = urllib.parse.urlsplit(new.url).port
            with pytest.raises(StoreError, match="a replica can only be read"):
                await swap(store, "key", 0, b"value")
            assert await swap(store, "key", 0, b"value")
            await store.aclose()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def test_postgres_connects_again_if_it_was_only_readable(postgres_url: str) -> None:
    """A connection that a failover left at a standby would be of no use for ever."""
    with fresh_database(postgres_url) as url:
        name = psycopg.sql.Identifier(str(psycopg.conninfo.conninfo_to_dict(url)["dbname"]))
        store = PostgresStore(url)
        await store.open()
        await store.aclose()
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            setting = "alter database {} set default_transaction_read_only = {}"
            for value in ("on", "off"):
                literal = psycopg.sql.SQL(value)
                connection.execute(psycopg.sql.SQL(setting).format(name, literal))
                if value == "on":
                    await load(store, "key")
            with pytest.raises(StoreError, match="ReadOnlySqlTransaction"):
                await swap(store, "key", 0, b"value")
            assert await swap(store, "key", 0, b"value")
        await store.aclose()


async def test_a_table_that_was_dropped_is_created_again(postgres_url: str) -> None:
    """A database that was restored, or replaced by its replica, may not have it."""
    with fresh_database(postgres_url) as url:
        store = PostgresStore(url)
        await store.open()
        with psycopg.connect(url) as connection:
            connection.execute("drop table adapty_shared_rate")
        with pytest.raises(StoreError, match="UndefinedTable"):
            await load(store, "key")
        assert (await load(store, "key"))[:2] == (0, None)
        await store.aclose()


@pytest.mark.parametrize(
    "setting",
    [
        "client_encoding = 'LATIN1'",
        "bytea_output = 'escape'",
        "extra_float_digits = 0",
        "standard_conforming_strings = off",
    ],
)
async def test_settings_of_a_postgres_database_do_not_change_a_value(
    postgres_url: str, setting: LiteralString
) -> None:
    """A value that is changed counts as damaged, and each process as the only one."""
    with fresh_database(postgres_url) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            name = psycopg.sql.Identifier(connection.info.dbname)
            connection.execute(psycopg.sql.SQL(f"alter database {{}} set {setting}").format(name))
        store, value = PostgresStore(url), bytes(range(256))
        await store.open()
        assert await swap(store, "key", 0, value)
        assert (await load(store, "key"))[:2] == (1, value)
        await store.aclose()


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_swap_in_a_database_that_isolates_transactions_loses_like_any_other(
    postgres_url: str, level: str
) -> None:
    """The database reports that another process was faster as an error."""
    with fresh_database(postgres_url) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            name = psycopg.sql.Identifier(connection.info.dbname)
            setting = "alter database {} set default_transaction_isolation = {}"
            connection.execute(psycopg.sql.SQL(setting).format(name, level))
        stores = [PostgresStore(url) for _ in range(4)]
        for store in stores:
            await store.open()
        assert await swap(stores[0], "key", 0, b"value")
        for version in range(1, 40):
            won = await asyncio.gather(*(swap(one, "key", version, b"new") for one in stores))
            assert sum(won) == 1
        with psycopg.connect(url) as holder, psycopg.connect(url, autocommit=True) as observer:
            holder.execute("update adapty_shared_rate set version = version + 1")
            swapping = asyncio.create_task(swap(stores[0], "key", 40, b"late"))
            waiting = (
                "select count(*) from pg_stat_activity"
                " where datname = current_database() and wait_event_type = 'Lock'"
            )
            number = 0
            while not number:
                await asyncio.sleep(0)
                [(number,)] = observer.execute(waiting).fetchall()
            holder.commit()
            assert not await swapping
        for store in stores:
            await store.aclose()


@pytest.mark.parametrize(
    "lose",
    [
        pytest.param(lambda path: path.unlink(), id="deleted"),
        pytest.param(lambda path: (path.parent / "empty").replace(path), id="replaced"),
        pytest.param(lambda path: shutil.rmtree(path.parent), id="folder"),
    ],
)
async def test_a_sqlite_file_that_is_gone_is_made_again(
    tmp_path: Path, lose: Callable[[Path], object]
) -> None:
    """Processes that keep the old one would not share their rate with those that start later."""
    path = tmp_path / "folder" / "rate.db"
    path.parent.mkdir()
    (path.parent / "empty").touch()
    old = SqliteStore(str(path))
    await old.open()
    assert await swap(old, "key", 0, b"old")
    lose(path)
    if not path.parent.exists():
        with pytest.raises(StoreError, match="SQLITE_CANTOPEN"):
            await load(old, "key")
        path.parent.mkdir()
    assert (await load(old, "key"))[:2] == (0, None)
    new = SqliteStore(str(path))
    await new.open()
    assert await swap(new, "key", 0, b"new")
    assert (await load(old, "key"))[:2] == (1, b"new")
    await new.aclose()
    await old.aclose()


async def test_a_sqlite_table_that_was_dropped_is_created_again(tmp_path: Path) -> None:
    """The file is opened again after a failure."""
    store = SqliteStore(str(tmp_path / "rate.db"))
    await store.open()
    other = sqlite3.connect(tmp_path / "rate.db")
    other.execute("DROP TABLE adapty_shared_rate")
    other.close()
    with pytest.raises(StoreError, match="SQLITE_ERROR"):
        await load(store, "key")
    assert (await load(store, "key"))[:2] == (0, None)
    await store.aclose()


async def test_the_stores_clock_runs(stores: tuple[Store, Store], key: str) -> None:
    """All members see one clock, whose resolution is far below a millisecond."""
    times = [(await load(stores[number % 2], key)).now for number in range(6)]

    assert times == sorted(times)
    assert len(set(times)) > 1
    assert times[-1] - times[0] < 30.0


async def test_a_store_opens_again_after_its_close(connect: Connect, key: str) -> None:
    """A close ends connections, and may be done twice."""
    store = connect()
    await store.open()
    await swap(store, key, 0, b"value")
    await store.aclose()
    await store.aclose()


async def test_the_clock_of_redis_has_microseconds(redis_url: str, key: str) -> None:
    """Its parts are numbers, so that those below a tenth of a second need their zeros."""
    store = RedisStore(redis_url)
    await store.open()
    with redis.Redis.from_url(redis_url) as server:
        parts: set[int] = set()
        while len(parts) < 10:  # at most a second
            (seconds, before), now = server.time(), (await load(store, key)).now
            parts.add(before // 100_000)
            after = server.time()
            assert seconds + before / 1e6 - 1e-6 <= now <= after[0] + after[1] / 1e6 + 1e-6
    await store.aclose()


async def test_the_table_of_postgres_is_created_by_one_process_at_a_time(postgres_url: str) -> None:
    """The second of two that both found no table waits for the first."""
    with (
        fresh_database(postgres_url) as url,
        psycopg.connect(url) as first,
        psycopg.connect(url, autocommit=True) as observer,
    ):
        first.execute("select pg_advisory_xact_lock(1633968496)")
        store = PostgresStore(url)
        opening = asyncio.create_task(store.open())
        waiting = (
            "select 1 from pg_locks where locktype = 'advisory' and not granted and database ="
            " (select oid from pg_database where datname = current_database())"
        )
        await until(lambda: opening.done() or observer.execute(waiting).fetchall())
        assert not opening.done()
        first.rollback()
        await opening
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
        await load(store, "key")
    with pytest.raises(StoreError, match=r"down|failed") as caught:
        await swap(store, "key", 0, b"")
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
        pytest.param(RedisStore, "redis://:secret@host?option=1", id="unknown option"),
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
        await swap(store, "key", 0, b"value")
        own.kill()
        with pytest.raises(StoreError, match="down"):
            await load(store, "key")
        with pytest.raises(StoreError, match="down"):
            await load(store, "key")
        own.start()
        version, value, _ = await _loaded(store)

        assert (version, value) in {(0, None), (1, b"value")}
        await store.aclose()


async def _loaded(store: Store) -> tuple[int, bytes | None, float]:
    """Load a value; a server that recovers needs a moment."""
    while True:
        try:
            return await load(store, "key")
        except StoreError:
            await asyncio.sleep(0.02)


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
