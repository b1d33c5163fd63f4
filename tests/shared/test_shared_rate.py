"""`SharedRate` in clients, over real stores and sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path

import anyio
import psycopg
import pytest
import redis
from psycopg import sql

from adapty_async import (
    AdaptyClient,
    ConfigError,
    Limits,
    RateLimitError,
    RetryPolicy,
    StoreError,
)
from adapty_async.sandbox import Sandbox
from adapty_async.shared import SharedRate
from adapty_async.testing import FakeTransport, Reply
from tests._support import CANARY_EMAIL
from tests.raw_server import own_tasks
from tests.servers import OwnRedis, fresh_database
from tests.shared.support import until

ONE_TRY = RetryPolicy(attempts=1)


def a_key() -> str:
    """Return the key of an account that no other test uses."""
    return f"secret_live_CANARY.{uuid.uuid4().hex}"


def a_client(
    rate: SharedRate, key: str = "secret_live_test.key", **settings: object
) -> AdaptyClient:
    """Return a client without a server, whose calls succeed."""
    settings.setdefault("transport", FakeTransport([(204, {}, b"")] * 1000))
    return AdaptyClient(key, limits=Limits(shared=rate), **settings)  # type: ignore[arg-type]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of a store that needs no server."""
    return f"sqlite:///{tmp_path / 'rate.db'}"


async def delete(adapty: AdaptyClient, name: str = "u1") -> None:
    """Delete a profile."""
    await adapty.v1.profiles.delete(customer_user_id=name)


async def members(rate: SharedRate, count: int) -> None:
    """Wait until a shared rate has a number of members."""
    await until(lambda: any(each.members == count for each in rate.statistics()))


@pytest.mark.parametrize(
    ("url", "fallback", "message"),
    [
        pytest.param("http://host", 0.5, "url must be redis://", id="scheme"),
        pytest.param("host:6379", 0.5, "url must be redis://", id="no scheme"),
        pytest.param("sqlite:///", 0.5, "url must be redis://", id="no path"),
        pytest.param(7, 0.5, "url must be text", id="no text"),
        pytest.param("redis://host", 0, "fallback must be a number above 0", id="fallback=0"),
        pytest.param("redis://host", 1.5, "fallback must be at most 1", id="fallback=1.5"),
    ],
)
def test_a_setting_that_is_not_valid_is_an_error(url: str, fallback: float, message: str) -> None:
    """A wrong setting is named when it is passed, and nothing is contacted."""
    with pytest.raises(ConfigError, match=message):
        SharedRate(url, fallback=fallback)


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        pytest.param("redis://host", "redis", "redis", id="redis"),
        pytest.param("postgresql://host", "postgres", "postgres", id="postgres"),
    ],
)
def test_a_missing_package_is_named(
    url: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the command that installs it."""
    monkeypatch.setitem(sys.modules, f"adapty_async._shared.{module}", None)

    with pytest.raises(ConfigError, match=rf"pip install 'adapty-async\[{extra}\]'"):
        SharedRate(url)


@pytest.mark.parametrize(
    "scheme", ["redis", "rediss", "unix", "postgresql", "postgres", "sqlite"], ids=str
)
def test_nothing_of_the_url_but_its_scheme_is_shown(scheme: str) -> None:
    """A URL may contain a password."""
    rate = SharedRate(f"{scheme}:///secret")

    assert repr(rate) == f"SharedRate({scheme}, closed, buckets=0)"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(rate)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("redis://:secret@127.0.0.1:1", id="redis"),
        pytest.param("postgresql://user:secret@127.0.0.1:1/none", id="postgres"),
        pytest.param("sqlite:////nowhere/rate.db", id="sqlite"),
    ],
)
async def test_a_store_that_was_never_reached_is_an_error(url: str) -> None:
    """Entering raises; it is not a rate of its own in each process, and leaves nothing behind."""
    before, others = own_tasks(), set(threading.enumerate())
    with pytest.raises(StoreError, match=r"down|failed") as caught:
        async with SharedRate(url):
            raise AssertionError

    assert "secret" not in str(caught.value)
    assert own_tasks() == before
    left = set(threading.enumerate()) - others
    assert not [one for one in left if one.name.startswith("adapty-shared")]


async def test_the_fallback_is_the_share_of_a_process_alone(url: str) -> None:
    """It uses the configured share of the known limit, and not the default one."""
    async with SharedRate(url, fallback=0.25) as rate:
        source = rate.rate_source("account", "v1")
        source.expect(400.0)
        source.fail(StoreError("the store is down"))
        (statistics,) = rate.statistics()

    assert statistics.is_alone
    assert 0.9 * 100.0 < statistics.rate <= 100.0


async def test_clients_of_one_process_are_one_member(url: str) -> None:
    """They use one bucket of the shared rate together; those of another process appear."""
    async with SharedRate(url) as rate, a_client(rate) as first, a_client(rate) as second:
        await delete(first)
        await delete(second)
        assert [each.bucket for each in rate.statistics()] == ["v1"]
        await members(rate, 1)
        async with SharedRate(url) as other, a_client(other) as third:
            await delete(third)
            await members(other, 2)
            await delete(first)
            await members(rate, 2)
        await delete(first)
        await members(rate, 1)
        await until(lambda: rate.statistics()[0].exchanges >= 3)
        (statistics,) = rate.statistics()
        assert not statistics.is_alone
        assert statistics.limit is None
        assert first.statistics().buckets["v1"].rate == statistics.rate == 20.0


async def test_accounts_and_buckets_have_rates_of_their_own(url: str) -> None:
    """Another key, another origin or another bucket is another limit of the server."""
    async with SharedRate(url) as rate:
        clients = (
            a_client(rate, "secret_live_a"),
            a_client(rate, "secret_live_b"),
            a_client(rate, "secret_live_a", base_url="https://example.com"),
        )
        for client in clients:
            await delete(client)
        await clients[0].v2.profiles.delete(customer_user_id="u1")

        assert [each.bucket for each in rate.statistics()] == ["v1", "v1", "v1", "v2"]
        assert repr(rate) == "SharedRate(sqlite, open, buckets=4)"


async def test_a_pause_reaches_the_clients_of_other_processes(url: str) -> None:
    """A call of a process that was never throttled fails at once while another is paused."""
    replies: list[Reply] = [(204, {}, b""), (429, {"Retry-After": "90"}, b"{}")]
    async with SharedRate(url) as rate, SharedRate(url) as other:
        paused = a_client(rate, retry=ONE_TRY, transport=FakeTransport(replies))
        waiting = a_client(other)
        await delete(waiting)
        await delete(paused)
        await members(rate, 2)  # both have reported, so that no success seems to come after the 429
        await members(other, 2)
        with pytest.raises(RateLimitError):
            await delete(paused)
        await until(lambda: waiting.statistics().paused_for)
        with pytest.raises(RateLimitError, match="nothing is sent for another"):
            await delete(waiting)


@pytest.mark.parametrize("kind", ["redis", "postgres", "sqlite"])
async def test_two_processes_find_one_limit(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Both finish their runs against a server whose limit neither knows."""
    named = {"redis": "redis_url", "postgres": "postgres_url"}
    store = (
        f"sqlite:///{tmp_path / 'rate.db'}"
        if kind == "sqlite"
        else request.getfixturevalue(named[kind])
    )
    key = a_key()
    async with Sandbox(api_key=key, rate=200.0, burst=5, retry_after="none") as server:

        async def work() -> int:
            async with (
                SharedRate(store) as rate,
                AdaptyClient(key, base_url=server.url, limits=Limits(shared=rate)) as adapty,
            ):
                ids = [f"u{number}" for number in range(60)]
                report = await adapty.v1.profiles.bulk_delete(ids, by="customer_user_id")
                return report.absent + report.done

        assert sum(await asyncio.gather(work(), work())) == 120


async def delete_many(adapty: AdaptyClient, count: int) -> None:
    """Delete a number of profiles by both versions of the API at the same time."""
    ids = [f"u{number}" for number in range(count)]
    reports = await asyncio.gather(
        adapty.v1.profiles.bulk_delete(ids, by="customer_user_id"),
        adapty.v2.profiles.bulk_delete(ids, by="customer_user_id"),
    )
    assert [report.done for report in reports] == [count, count]


async def test_a_store_that_goes_down_does_not_stop_a_client() -> None:
    """Calls and runs continue at the shares of this process, and share again afterwards."""
    with OwnRedis() as server:
        async with SharedRate(server.url) as rate, a_client(rate) as adapty:
            await delete_many(adapty, 2)
            server.kill()
            await delete(adapty)
            await until(lambda: all(each.is_alone for each in rate.statistics()))
            await delete_many(adapty, 2)
            server.start()
            await until(lambda: not any(each.is_alone for each in rate.statistics()))
            await delete_many(adapty, 2)
            assert [each.bucket for each in rate.statistics()] == ["v1", "v2"]


async def test_the_exchanges_do_not_belong_to_the_first_call(tmp_path: Path) -> None:
    """A log line about the store has the values of the program, and not of the first request."""
    request = ContextVar("request", default="none")
    seen: list[str] = []

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(request.get())

    async def serve(name: str, adapty: AdaptyClient) -> None:
        request.set(name)
        await delete(adapty)

    folder = tmp_path / "rates"
    folder.mkdir()
    logger, notes = logging.getLogger("adapty_async"), Notes(logging.WARNING)
    logger.addHandler(notes)
    try:
        async with SharedRate(f"sqlite:///{folder}/rate.db") as rate, a_client(rate) as adapty:
            await asyncio.create_task(serve("the first request", adapty))
            await members(rate, 1)
            shutil.rmtree(folder)
            await until(lambda: all(each.is_alone for each in rate.statistics()))
    finally:
        logger.removeHandler(notes)

    assert seen == ["none"]


async def test_two_busy_buckets_make_the_exchanges_of_one() -> None:
    """The server reads two commands for each exchange of both, 20 times a second at most."""
    with OwnRedis() as server, redis.Redis.from_url(server.url) as observer:

        def reads() -> int:
            return int(observer.info("stats")["total_reads_processed"])

        async with SharedRate(server.url) as rate, a_client(rate) as adapty:
            before, began = reads(), time.monotonic()
            await delete_many(adapty, 40)
            seconds = time.monotonic() - began
            most = 2 * (20 * seconds + 1) + 1  # and the observer's own
            assert reads() - before <= most
            assert min(each.exchanges for each in rate.statistics()) >= 2


def test_a_client_needs_an_open_shared_rate(url: str) -> None:
    """A shared rate that was not entered, or is closed, is named in the error."""

    async def main() -> None:
        rate = SharedRate(url)
        adapty = a_client(rate)
        with pytest.raises(ConfigError, match=r"Limits\.shared is not open"):
            await delete(adapty)
        async with rate:
            with pytest.raises(ConfigError, match="once at a time"):
                await rate.__aenter__()
            await delete(adapty)
        with pytest.raises(ConfigError, match=r"Limits\.shared is closed"):
            await delete(adapty)
        assert adapty.statistics().buckets["v1"].in_flight == 0
        async with rate:
            await delete(a_client(rate))

    asyncio.run(main())


async def test_a_shared_rate_that_no_client_used_is_closed_like_any_other(url: str) -> None:
    """It has no task and no statistics, and another close does nothing."""
    before = own_tasks()
    async with SharedRate(url) as rate:
        assert own_tasks() == before
    await rate.aclose()

    assert rate.statistics() == ()
    assert repr(rate) == "SharedRate(sqlite, closed, buckets=0)"


async def test_a_cancelled_scope_of_anyio_leaves_no_connection() -> None:
    """The connections to the store are closed, though each wait in the scope is cancelled."""
    with OwnRedis() as server, redis.Redis.from_url(server.url) as observer:
        with anyio.CancelScope() as scope:
            async with SharedRate(server.url) as rate, a_client(rate) as adapty:
                await delete(adapty)
                await members(rate, 1)
                scope.cancel()
                await anyio.sleep_forever()
        await until(lambda: len(observer.client_list()) == 1)


def test_another_event_loop_needs_its_own_shared_rate(url: str) -> None:
    """A client whose loop is not that of its shared rate raises instead of waiting forever."""
    rate = SharedRate(url)
    adapty = a_client(rate)

    async def elsewhere() -> None:
        with pytest.raises(ConfigError, match="another event loop"):
            await delete(adapty)

    async def main() -> None:
        async with rate:
            await delete(adapty)
            await asyncio.to_thread(asyncio.run, elsewhere())

    asyncio.run(main())


def test_a_client_continues_in_the_next_event_loop(url: str) -> None:
    """A worker may enter one shared rate and one client again for each of its tasks."""
    rate = SharedRate(url)
    adapty = a_client(rate)

    async def main() -> tuple[str, ...]:
        async with rate, adapty:
            await delete(adapty)
            report = await adapty.v1.profiles.bulk_delete(["u2"], by="customer_user_id")
            assert report.done == 1
            return tuple(each.bucket for each in rate.statistics())

    assert [asyncio.run(main()) for _ in range(3)] == [("v1",)] * 3


def test_a_shared_rate_is_closed_after_its_event_loop(redis_url: str) -> None:
    """A close in another event loop ends without an error, and that loop may enter."""
    code = f"""
import asyncio
from adapty_async.shared import SharedRate

rate = SharedRate({redis_url!r})

async def again():
    await rate.aclose()
    async with rate:
        pass

asyncio.run(rate.__aenter__())
asyncio.run(again())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_leaving_a_hundred_times_leaves_no_task_and_no_thread(url: str) -> None:
    """A process that enters and leaves again and again ends like any other."""
    code = f"""
import asyncio, threading
from adapty_async import AdaptyClient, Limits
from adapty_async.shared import SharedRate
from adapty_async.testing import FakeTransport, Reply

async def main():
    for number in range(100):
        transport = FakeTransport([(204, {{}}, b"")] * 3)
        async with SharedRate({url!r}) as rate:
            adapty = AdaptyClient("secret_live_x", limits=Limits(shared=rate), transport=transport)
            await adapty.v1.profiles.delete(customer_user_id="u1")
            for _ in range(number % 5):
                await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1, asyncio.all_tasks()
    assert threading.active_count() == 1, threading.enumerate()

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


async def test_a_shared_rate_that_was_not_closed_warns(url: str) -> None:
    """Its task and connections would stay until the end of the process."""
    rate = SharedRate(url)
    await rate.__aenter__()
    store = rate._store
    with pytest.warns(ResourceWarning, match="a SharedRate was not closed"):
        del rate
    await store.aclose()


def test_a_forked_child_opens_its_own(postgres_url: str, redis_url: str) -> None:
    """A child cannot use the parent's; it enters again, and the parent's connection stays."""
    code = f"""
import asyncio, os
from adapty_async import AdaptyClient, ConfigError, Limits
from adapty_async.shared import SharedRate
from adapty_async.testing import FakeTransport, Reply

async def delete(adapty):
    await adapty.v1.profiles.delete(customer_user_id="u1")

async def in_child(rate, adapty):
    try:
        await delete(adapty)
    except ConfigError as error:
        assert "not open" in str(error), error
    async with rate:
        await delete(adapty)

async def in_parent(url):
    async with SharedRate(url) as rate:
        transport = FakeTransport([(204, {{}}, b"")] * 9)
        adapty = AdaptyClient("secret_live_f", limits=Limits(shared=rate), transport=transport)
        await delete(adapty)
        child = os.fork()
        if not child:
            asyncio.events._set_running_loop(None)
            try:
                asyncio.run(in_child(rate, adapty))
            except BaseException as error:
                print("child", repr(error), flush=True)
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        before = rate.statistics()[0].exchanges
        await delete(adapty)
        while rate.statistics()[0].exchanges == before:
            await asyncio.sleep(0.005)
        assert not rate.statistics()[0].is_alone

for url in {postgres_url!r}, {redis_url!r}:
    asyncio.run(in_parent(url))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_fork_before_a_shared_rate_is_entered_changes_nothing(url: str) -> None:
    """A child enters it for the first time, as its parent may."""

    async def in_child(rate: SharedRate) -> None:
        async with rate:
            await delete(a_client(rate))

    rate = SharedRate(url)
    rate.after_fork()
    asyncio.run(in_child(rate))


def _of_redis(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        return repr([(key, client.hgetall(key)) for key in client.keys("adapty:*")])


def _of_postgres(url: str) -> str:
    with psycopg.connect(url) as connection:
        names = connection.execute(
            "select tablename from pg_tables where schemaname = 'public'"
        ).fetchall()
        return repr([(name, connection.execute(_all_of(name)).fetchall()) for (name,) in names])


def _all_of(table: str) -> sql.Composed:
    return sql.SQL("select * from {}").format(sql.Identifier(table))


def _of_sqlite(url: str) -> str:
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database, database:
        return "\n".join(database.iterdump())


@pytest.mark.parametrize(
    ("kind", "dump"),
    [
        pytest.param("redis", _of_redis, id="redis"),
        pytest.param("postgres", _of_postgres, id="postgres"),
        pytest.param("sqlite", _of_sqlite, id="sqlite"),
    ],
)
async def test_no_store_and_no_log_has_a_key_or_an_id(
    kind: str,
    dump: Callable[[str], str],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither the key nor a person's id is in a dump of the store, a log record or a `repr`."""
    caplog.set_level(logging.DEBUG)
    key, person = a_key(), CANARY_EMAIL
    with contextlib.ExitStack() as stack:
        url = f"sqlite:///{tmp_path / 'rate.db'}"
        if kind == "redis":
            url = request.getfixturevalue("redis_url")
        elif kind == "postgres":
            url = stack.enter_context(fresh_database(request.getfixturevalue("postgres_url")))
        transport = FakeTransport([(204, {}, b""), (429, {}, b""), *[(204, {}, b"")] * 5])
        async with SharedRate(url) as rate, a_client(rate, key, transport=transport) as adapty:
            await adapty.v1.profiles.bulk_delete([person, f"{person}2"], by="customer_user_id")
            await members(rate, 1)
            shown = [repr(rate), repr(rate.statistics()), repr(rate._exchanges), caplog.text]
            stored = dump(url)

    assert "adapty" in stored
    for text in (stored, *shown):
        assert key not in text
        assert key.partition(".")[2] not in text
        assert person not in text
