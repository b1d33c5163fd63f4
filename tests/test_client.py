"""A client's life: loops, threads, sessions, options, hooks, and what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import pickle
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any
from unittest.mock import create_autospec

import aiohttp
import anyio
import pytest

from adapty_async import (
    AdaptyClient,
    AdaptyExportClient,
    AdaptyMailClient,
    ConfigError,
    ConnectionLostError,
    DeadlineError,
    InvalidInputError,
    Limits,
    NotFoundError,
    Operation,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
    v2,
)
from adapty_async._client.base import BaseClient
from adapty_async._runtime.loop import LoopLocal
from adapty_async.hooks import AttemptEnded, CallEnded, CallStarted, Event, RetryScheduled
from adapty_async.mail import delete_profile
from adapty_async.testing import FakeTransport
from adapty_async.v1 import DELETE_PROFILE, GET_PROFILE, ProfileAttributes

from .raw_server import (
    ABSENT,
    HOLD,
    RESET,
    STALL,
    RawServer,
    api_error,
    in_thread,
    own_tasks,
    page,
    reply,
)

KEY = "secret_live_TEST.key"
FAST = RetryPolicy(attempts=2, wait_initial=0.001, wait_max=0.001)
#: Seconds after which what does not end has failed, also on a slow machine.
PATIENCE = 50.0


def client_of(server: RawServer | str, **options: Any) -> AdaptyClient:
    """Return a client of a server that retries once, without backoff."""
    url = server if isinstance(server, str) else server.url
    return AdaptyClient(KEY, **{"base_url": url, "retry": FAST, **options})


async def get(client: AdaptyClient) -> None:
    """Make a call."""
    await client.v1.profiles.get(customer_user_id="u1")


async def get_at_once(client: AdaptyClient, count: int) -> None:
    """Make many concurrent calls."""
    await asyncio.gather(*(get(client) for _ in range(count)))


# Loops and threads


def test_a_client_made_before_any_loop_is_used_in_two() -> None:
    """Two runs of asyncio share a client, also when there are more calls than connections."""
    with in_thread(RawServer()) as server:
        client = client_of(server, limits=Limits(connections=2, rate=10_000.0))
        asyncio.run(get_at_once(client, 8))
        asyncio.run(get_at_once(client, 8))
        asyncio.run(client.aclose())

        assert len(server.requests) == 16
        assert server.connections == 4
        assert server.most_active <= 2


def test_connections_end_with_their_loop() -> None:
    """Connections of a loop are closed when it ends in order, without a call of aclose."""
    with in_thread(RawServer()) as server:
        client = client_of(server)
        asyncio.run(get(client))
        until_left = asyncio.run_coroutine_threadsafe(server.until_left(), server.loop)
        until_left.result(PATIENCE)
        asyncio.run(client.aclose())

        assert server.open == 0


def test_two_threads_use_a_client_at_once() -> None:
    """Each thread's loop has its own connections, and as many requests in flight as allowed."""
    barrier = threading.Barrier(2, timeout=PATIENCE)
    failures: list[BaseException] = []

    async def work(client: AdaptyClient) -> None:
        barrier.wait()
        await get_at_once(client, 20)

    def run(client: AdaptyClient) -> None:
        try:
            asyncio.run(work(client))
        except BaseException as error:  # noqa: BLE001  handed to the test's own thread
            failures.append(error)

    with in_thread(RawServer()) as server:
        client = client_of(server, limits=Limits(connections=3))
        threads = [threading.Thread(target=run, args=(client,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asyncio.run(client.aclose())

        assert len(server.requests) == 40
        assert server.connections <= 6
    assert failures == []


def test_closing_reaches_a_loop_in_another_thread() -> None:
    """Aclose closes what is open in every running loop."""
    with in_thread(RawServer()) as server, in_thread(RawServer()) as elsewhere:
        client = client_of(server)
        asyncio.run_coroutine_threadsafe(get(client), elsewhere.loop).result(PATIENCE)
        asyncio.run(client.aclose())
        asyncio.run_coroutine_threadsafe(server.until_left(), server.loop).result(PATIENCE)

        assert server.open == 0


def test_loops_that_have_ended_are_forgotten() -> None:
    """A value that refers to its loop does not keep it for ever."""
    values: LoopLocal[asyncio.AbstractEventLoop] = LoopLocal(asyncio.get_running_loop)

    async def take() -> asyncio.AbstractEventLoop:
        assert values.get() is values.get()
        return values.get()

    loops = [asyncio.run(take()) for _ in range(3)]

    assert list(values.pop_all()) == loops[-1:]
    assert values.pop_all() == {}


def test_closing_does_not_wait_for_a_loop_that_stands_still() -> None:
    """Connections of a stopped loop are closed when that loop runs again."""

    async def until_left(server: RawServer) -> None:
        await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(server.until_left(), server.loop)
        )

    with in_thread(RawServer()) as server:
        client = client_of(server)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(get(client))
        asyncio.run(client.aclose())
        loop.run_until_complete(until_left(server))
        loop.close()

        assert server.open == 0


# Sessions


async def test_a_given_session_is_used_and_stays_open() -> None:
    """Calls use the user's session, with its headers, and closing the client leaves it open."""
    async with RawServer() as server, aiohttp.ClientSession(headers={"X-Mine": "1"}) as session:
        async with client_of(server, session=session) as client:
            await get(client)
        await client.aclose()

        assert not session.closed
        assert server.requests[0].headers["x-mine"] == "1"
        assert server.requests[0].headers["authorization"] == f"Api-Key {KEY}"


async def test_a_given_session_cannot_change_what_a_response_means() -> None:
    """A session made to raise for statuses, or not to decompress, makes no difference."""
    import gzip

    profile = gzip.compress(b'{"first_name":"Jane"}')
    async with (
        RawServer((reply(body=profile, Content_Encoding="gzip"),), then=ABSENT) as server,
        aiohttp.ClientSession(raise_for_status=True, auto_decompress=False) as session,
        client_of(server, session=session) as client,
    ):
        assert (await client.v1.profiles.get(customer_user_id="u1")).first_name == "Jane"
        with pytest.raises(NotFoundError, match="profile_does_not_exist"):
            await get(client)

        assert len(server.requests) == 2


async def test_a_given_session_that_was_closed_is_rejected() -> None:
    """The error says whose session it is."""
    async with aiohttp.ClientSession() as session:
        client = client_of("http://127.0.0.1:9", session=session)
    with pytest.raises(ConfigError, match="session that was given to the client is closed"):
        await get(client)


def test_a_given_session_is_rejected_in_another_event_loop() -> None:
    """It is the error of each call, and ends a run before anything is sent."""

    async def make() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    async def use() -> None:
        client = client_of("http://127.0.0.1:9", session=session)
        with pytest.raises(ConfigError, match="belongs to another event loop"):
            await client.v1.profiles.delete(customer_user_id="anna")
        run = client.v1.profiles.bulk_delete(["anna"], by="customer_user_id")
        with pytest.raises(ConfigError, match="belongs to another event loop"):
            await run
        assert (run.report.not_sent, run.report.requests) == (1, 0)

    with asyncio.Runner() as runner:
        session = runner.run(make())
        with asyncio.Runner() as other:
            other.run(use())
        runner.run(session.close())


@pytest.mark.parametrize("seconds", [0.05, 30.0], ids=["timeout", "response"])
async def test_a_call_over_a_given_session_continues_when_its_client_is_closed(
    seconds: float,
) -> None:
    """It ends with its response, or with its timeout."""
    async with RawServer(then=(HOLD, reply(204))) as server, aiohttp.ClientSession() as session:
        client = client_of(server, session=session, timeout=seconds, retry=RetryPolicy(attempts=1))
        call = asyncio.create_task(client.v1.profiles.delete(customer_user_id="anna"))
        await server.until_arrived(1)
        await client.aclose()
        if seconds == 30.0:
            server.released.set()
        (error,) = await asyncio.gather(call, return_exceptions=True)

    assert (error is None) == (seconds == 30.0)
    assert error is None or isinstance(error, RequestTimeoutError)


async def test_a_given_session_must_not_authenticate() -> None:
    """A request cannot have two values of the Authorization header."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # aiohttp 4 will not have it
        session = aiohttp.ClientSession(auth=aiohttp.BasicAuth("user", "word"))
    async with session:
        with pytest.raises(ConfigError, match="session must have no auth"):
            client_of("http://127.0.0.1:9", session=session)


async def test_a_given_session_warns_of_nothing() -> None:
    """A client that owns no session may be dropped."""
    async with RawServer() as server, aiohttp.ClientSession() as session:
        client = client_of(server, session=session)
        await get(client)
        del client
        gc.collect()


def test_a_session_and_a_transport_exclude_each_other() -> None:
    """A session and a transport cannot be combined."""
    session: Any = object()
    with pytest.raises(ConfigError, match="session and transport exclude each other"):
        AdaptyClient(KEY, session=session, transport=FakeTransport())


async def test_an_unknown_id_encoding_is_rejected() -> None:
    """Only documented encodings are accepted."""
    encoding: Any = "latin-1"
    with pytest.raises(ConfigError, match='id_encoding must be "ascii" or "utf-8"'):
        AdaptyClient(KEY, id_encoding=encoding)


@pytest.mark.usefixtures("no_garbage")
def test_an_unclosed_client_warns_once_and_in_our_words() -> None:
    """A client that was used and dropped warns; aiohttp has nothing to add."""
    with in_thread(RawServer()) as server:
        client = client_of(server)
        asyncio.run(get(client))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del client
            gc.collect()

    assert [warning.category for warning in caught] == [ResourceWarning]
    assert str(caught[0].message).startswith("a client was not closed: use 'async with'")


def test_a_client_that_was_never_used_warns_of_nothing() -> None:
    """Nothing is open before the first call."""
    client = AdaptyClient(KEY)
    del client
    gc.collect()


async def test_a_client_may_be_closed_twice_and_used_no_more() -> None:
    """Closing again does nothing; a call raises that the client is closed, and is not retried."""
    async with RawServer() as server:
        client = client_of(server)
        await client.aclose()
        await get(await client.__aenter__())
        await client.aclose()
        await client.aclose()
        with pytest.raises(ConfigError, match="the client is closed"):
            await get(client)
        run = client.v1.profiles.bulk_delete(["u1", "u2"], by="customer_user_id", concurrency=1)
        with pytest.raises(ConfigError, match="the client is closed"):
            await run

        assert len(server.requests) == 1
    assert (run.report.total, run.report.done) == (1, 0)


async def test_leaving_a_derived_client_leaves_the_connections_open() -> None:
    """A client with other options borrows the connections of the one it was made from."""
    async with RawServer() as server, client_of(server) as client:
        async with client.with_options(timeout=1.0) as derived:
            await get(derived)
        await get(client)

        assert server.connections == 1


async def test_a_client_can_be_entered_again() -> None:
    """`async with` opens a closed client again, on new connections."""
    async with RawServer() as server:
        client = client_of(server)
        for _ in range(3):
            async with client:
                await get(client)
            await server.until_left()

        assert server.connections == 3


async def test_closing_in_mid_flight_ends_the_call() -> None:
    """A call that is in flight when its client is closed does not hang, and is not retried."""
    async with RawServer(then=(STALL,)) as server:
        client = client_of(server)
        call = asyncio.create_task(get(client))
        await server.until_arrived(1)
        await client.aclose()
        with pytest.raises((ConnectionLostError, ConfigError)):
            await call

        assert len(server.requests) == 1


def test_a_client_is_not_pickled() -> None:
    """It holds a key."""
    with pytest.raises(TypeError, match="it is not pickled"):
        pickle.dumps(AdaptyClient(KEY))


@pytest.mark.parametrize("kind", [AdaptyClient, AdaptyMailClient])
def test_a_clients_repr_names_its_origin_and_no_key(
    kind: type[AdaptyClient | AdaptyMailClient],
) -> None:
    """The repr contains the origin and no key."""
    client = kind(KEY, base_url="https://api.example.com")
    assert repr(client) == f"{kind.__name__}(https://api.example.com)"


# The environment


async def test_key_and_origin_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client has its own variables, and sends its key in its own way."""
    async with RawServer() as server:
        monkeypatch.setenv("ADAPTY_API_KEY", "first")
        monkeypatch.setenv("ADAPTY_BASE_URL", server.url)
        monkeypatch.setenv("ADAPTY_MAIL_API_KEY", "second")
        monkeypatch.setenv("ADAPTY_MAIL_BASE_URL", server.url + "/")
        async with AdaptyClient() as adapty, AdaptyMailClient() as mail:
            await get(adapty)
            await mail.profiles.delete(external_profile_id="p1")

        assert [request.headers["authorization"] for request in server.requests] == [
            "Api-Key first",
            "Bearer second",
        ]


@pytest.mark.parametrize(
    ("kind", "variable"),
    [(AdaptyClient, "ADAPTY_API_KEY"), (AdaptyMailClient, "ADAPTY_MAIL_API_KEY")],
    ids=["server-side", "mail"],
)
def test_a_missing_key_names_its_variable(
    kind: Callable[[], object], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the variable to set."""
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError, match=f"set {variable}, or pass api_key="):
        kind()


@pytest.mark.parametrize("trust_env", [False, True], ids=["not-trusted", "trusted"])
async def test_proxies_of_the_environment_are_used_with_the_option(
    trust_env: bool,  # noqa: FBT001  a parametrised case
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HTTP_PROXY is ignored unless the client trusts the environment."""
    async with RawServer() as proxy, RawServer() as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with client_of(server, trust_env=trust_env) as client:
            await get(client)

        assert (len(proxy.requests), len(server.requests)) == (int(trust_env), int(not trust_env))


async def test_a_run_ends_in_a_test_with_a_frozen_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `freeze_time(real_asyncio=True)`, the clock stands still for all but asyncio."""
    clock = time.monotonic

    def frozen() -> float:
        caller = sys._getframe(1).f_globals["__name__"]
        return clock() if caller.startswith("asyncio") else 1.0

    monkeypatch.setattr(time, "monotonic", frozen)
    async with AdaptyClient(KEY, transport=FakeTransport([(204, {}, b"")] * 40)) as client:
        users = [f"u{number}" for number in range(40)]
        run = client.v2.profiles.bulk_delete(users, by="customer_user_id", rate=500)
        async with asyncio.timeout(PATIENCE):
            assert (await run).done == 40


# Options


async def test_other_options_share_connections_and_limits() -> None:
    """A client with other options sends over the same connection, and adds its headers."""
    async with RawServer() as server, client_of(server, limits=Limits(connections=1)) as client:
        other = client.with_options(headers={"X-Team": "growth"}).with_options(timeout=5.0)
        await asyncio.gather(get(client), get(other), get(client))

        assert type(other) is AdaptyClient
        assert server.connections == server.most_active == 1
        teams = [request.headers.get("x-team") for request in server.requests]
        assert teams == [None, "growth", None]


async def test_a_header_replaces_another_of_its_name_in_any_case() -> None:
    """No header is sent twice."""
    client = AdaptyClient(KEY).with_options(headers={"user-agent": "a"})
    client = client.with_options(headers={"USER-AGENT": "mine"})
    headers = client._executor.options.defaults.headers

    assert {name: value for name, value in headers.items() if name.lower() == "user-agent"} == {
        "USER-AGENT": "mine"
    }


async def test_other_options_of_a_subclass_keep_its_attributes() -> None:
    """A program's own client has what its `__init__` set, and its methods."""

    class Shop(AdaptyClient):
        def __init__(self, name: str, transport: FakeTransport) -> None:
            super().__init__(KEY, transport=transport)
            self.name = name

    transport = FakeTransport([(204, {}, b"")])
    async with Shop("books", transport) as shop:
        other = shop.with_options(headers={"X-Team": "growth"})
        await other.v2.profiles.delete(customer_user_id="u1")

    assert other.name == "books"
    assert transport.requests[0].headers["X-Team"] == "growth"


async def test_a_client_is_the_specification_of_a_mock() -> None:
    """A mock in a test of somebody else's code has the methods of a client, and no others."""
    mock = create_autospec(AdaptyClient(KEY))
    await mock.v2.profiles.delete(customer_user_id="u1")

    mock.v2.profiles.delete.assert_awaited_once_with(customer_user_id="u1")
    with pytest.raises(TypeError, match="too many positional arguments"):
        mock.v2.profiles.delete("u1")


async def test_a_timeout_of_its_own() -> None:
    """The attempt's timeout is changed for the calls on the new client only."""
    async with RawServer((STALL,)) as server, client_of(server) as client:
        with pytest.raises(RequestTimeoutError, match="no response in time"):
            await get(client.with_options(timeout=0.5, retry=RetryPolicy(attempts=1)))
        await get(client)

        assert len(server.requests) == 2


async def test_a_retry_policy_of_its_own() -> None:
    """The number of attempts is changed for the calls on the new client only."""
    async with RawServer(then=(page(500),)) as server, client_of(server) as client:
        policy = RetryPolicy(attempts=4, wait_initial=0.001)
        with pytest.raises(ServerError, match="attempts 4"):
            await get(client.with_options(retry=policy))
        with pytest.raises(ServerError, match="attempts 2"):
            await get(client)

        assert len(server.requests) == 6


async def test_a_deadline_of_its_own() -> None:
    """A deadline overrides the retry policy's, and a retry that does not fit is not started."""
    async with (
        RawServer(then=(api_error(429, "rate_limited", Retry_After="30"),)) as server,
        client_of(server) as client,
    ):
        hasty = client.with_options(retry=RetryPolicy(deadline=50.0), deadline=20.0)
        with pytest.raises(Exception, match="status 429"):
            await get(hasty)

        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"timeout": 0}, ConfigError, "timeout must be a number above 0"),
        ({"timeout": float("nan")}, ConfigError, "timeout must be a number above 0"),
        ({"retry": 3}, ConfigError, "retry must be a RetryPolicy, not int"),
        ({"deadline": -1}, ConfigError, "RetryPolicy.deadline must be a number above 0"),
        ({"headers": {"Authorization": "x"}}, InvalidInputError, "is set by the library"),
        ({"headers": {"ADAPTY-PROFILE-ID": "x"}}, InvalidInputError, "is set by the library"),
        ({"headers": {"content-length": "1"}}, InvalidInputError, "is set by the library"),
        ({"headers": {"Idempotency-Key": "1"}}, InvalidInputError, "is set by the library"),
        ({"headers": {"X Y": "x"}}, InvalidInputError, "a name must be made of letters"),
        ({"headers": {"": "x"}}, InvalidInputError, "a name must be made of letters"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, InvalidInputError, "headers.X-A: must not contain"),
    ],
    ids=[
        "timeout-0",
        "timeout-nan",
        "retry-number",
        "deadline-negative",
        "key",
        "identity",
        "length",
        "one-key-for-all",
        "blank-in-name",
        "no-name",
        "line-break",
    ],
)
def test_options_are_checked_when_given(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    """An invalid value is rejected before any call."""
    client = AdaptyClient(KEY)
    with pytest.raises(error, match=text):
        client.with_options(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"retry": 3}, "retry must be a RetryPolicy, not int"),
        ({"limits": {"rate": 3}}, "limits must be a Limits, not dict"),
    ],
    ids=["retry", "limits"],
)
def test_policies_are_checked_when_given(options: dict[str, Any], text: str) -> None:
    """A number in place of a policy is rejected by name."""
    with pytest.raises(ConfigError, match=text):
        AdaptyClient(KEY, **options)


def _operations() -> dict[str, tuple[type[BaseClient], Any, str]]:
    erase, mail_erase = v2.delete_profile(customer_user_id="u1"), delete_profile(email="a@b.c")
    needs_mail = "one of AdaptyClient; mail.profiles.delete needs AdaptyMailClient"
    return {
        "endpoint": (AdaptyClient, GET_PROFILE, "an Operation, .* not Endpoint"),
        "none": (AdaptyMailClient, None, "an Operation, .* not NoneType"),
        "mail": (AdaptyClient, mail_erase, needs_mail),
        "v2": (AdaptyMailClient, erase, "one of AdaptyMailClient; v2.profiles.delete needs Ada"),
        "v2-export": (AdaptyExportClient, erase, "one of AdaptyExportClient; v2.profiles.delete"),
    }


@pytest.mark.parametrize(("kind", "operation", "text"), _operations().values(), ids=_operations())
async def test_what_a_client_cannot_send_is_rejected(
    kind: type[BaseClient], operation: Any, text: str
) -> None:
    """An operation of another API would be sent to the wrong server, with the wrong key."""
    transport = FakeTransport()
    async with kind("key", transport=transport) as client:
        for send in client.execute, client.with_raw_response:
            with pytest.raises(InvalidInputError, match=f"^operation: must be {text}"):
                await send(operation)
        report = await client.bulk([operation])
        built = await client.bulk(["u1"], build=lambda _: operation)

    assert [report.failed, built.failed] == [1, 1]
    assert str(report.failures[0].error) == str(built.failures[0].error)
    assert transport.requests == []


async def test_an_operation_is_executed() -> None:
    """An operation describes a call, and can be executed more than once."""
    operation = Operation(GET_PROFILE, (("adapty-profile-id", "3fa8"),))
    async with RawServer() as server, client_of(server) as client:
        await client.execute(operation)
        await client.execute(operation)

        assert [request.headers["adapty-profile-id"] for request in server.requests] == ["3fa8"] * 2


# Hooks


async def test_hooks_see_a_call_from_start_to_end() -> None:
    """A retried call emits its start, its attempts, the retry and its end."""
    events: list[Event] = []
    async with (
        RawServer((page(500),)) as server,
        client_of(server, hooks=(events.append,)) as client,
    ):
        host = server.url.removeprefix("http://")
        await get(client)

    started, failed, scheduled, succeeded, ended = events
    assert started == CallStarted("v1.profiles.get", 1, "GET", host)
    assert isinstance(failed, AttemptEnded)
    assert (failed.attempt, failed.error, failed.status) == (1, "ServerError", 500)
    assert isinstance(succeeded, AttemptEnded)
    assert (succeeded.attempt, succeeded.error, succeeded.status) == (2, None, 200)
    assert isinstance(scheduled, RetryScheduled)
    assert (scheduled.attempt, scheduled.error, scheduled.status) == (1, "ServerError", 500)
    assert isinstance(ended, CallEnded)
    assert (ended.attempts, ended.status, ended.error) == (2, 200, None)
    assert ended.elapsed >= scheduled.wait


async def test_a_hook_can_be_added() -> None:
    """A hook that is added receives the events of later calls, in addition to those before it."""
    first: list[Event] = []
    second: list[Event] = []
    transport = FakeTransport([(204, {}, b"")] * 2)
    async with AdaptyClient("key", transport=transport, hooks=(first.append,)) as client:
        await client.v1.profiles.delete(customer_user_id="u1")
        client.add_hook(second.append)
        await client.v1.profiles.delete(customer_user_id="u1")

    assert first[len(first) - len(second) :] == second
    assert [event.call_id for event in first if isinstance(event, CallEnded)] == [1, 2]


def test_an_async_hook_is_rejected() -> None:
    """Nobody would await it, so it would never run."""

    async def hook(_: Event) -> None:
        """Receive an event."""

    with pytest.raises(ConfigError, match="a hook must be a plain function"):
        AdaptyClient(KEY, hooks=(hook,))
    with pytest.raises(ConfigError, match="a hook must be a plain function"):
        AdaptyClient(KEY).add_hook(hook)


async def test_hooks_see_how_a_call_failed() -> None:
    """The event has the class of the error and the last status, and nothing of the response."""
    events: list[Event] = []
    async with (
        RawServer(then=(RESET,)) as server,
        client_of(server, hooks=(events.append,)) as client,
    ):
        with pytest.raises(ConnectionLostError):
            await get(client)

    ended = events[-1]
    assert isinstance(ended, CallEnded)
    assert (ended.attempts, ended.status, ended.error) == (2, None, "ConnectionLostError")


async def test_hooks_see_a_cancelled_call() -> None:
    """A call that is cancelled ends too."""
    events: list[Event] = []
    async with (
        RawServer(then=(STALL,)) as server,
        client_of(server, hooks=(events.append,)) as client,
    ):
        call = asyncio.create_task(get(client))
        await server.until_arrived(1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    ended = events[-1]
    assert isinstance(ended, CallEnded)
    assert (ended.attempts, ended.error) == (1, "CancelledError")


# Permits


async def test_calls_in_flight_are_bounded_and_waiting_is_not_charged() -> None:
    """More calls than connections wait for each other, longer than one attempt may last."""
    hold = asyncio.Event()
    async with (
        RawServer((hold, reply()), (hold, reply())) as server,
        client_of(server, limits=Limits(connections=2)) as client,
    ):
        calls = asyncio.gather(*(get(client) for _ in range(10)))
        await server.until_arrived(2)
        hasty = asyncio.create_task(get(client.with_options(timeout=0.001, deadline=PATIENCE)))
        await asyncio.sleep(0.02)
        hold.set()
        await calls
        await asyncio.wait({hasty})
        error = hasty.exception()

        assert server.most_active == 2
        assert error is None or not isinstance(error, DeadlineError)


async def test_the_deadline_covers_waiting_for_a_connection() -> None:
    """A call that acquired no permit in time was not sent."""
    async with (
        RawServer(then=(STALL,)) as server,
        client_of(server, limits=Limits(connections=1)) as client,
    ):
        blocking = asyncio.create_task(get(client))
        await server.until_arrived(1)
        with pytest.raises(DeadlineError, match="no connection became free in time") as caught:
            await get(client.with_options(deadline=1.0))
        blocking.cancel()
        await asyncio.gather(blocking, return_exceptions=True)

        assert len(server.requests) == 1
    assert caught.value.attempts == 0
    assert caught.value.operation == "v1.profiles.get"


async def test_the_deadline_covers_waiting_for_a_turn() -> None:
    """A call whose delay by the rate limit exceeds its deadline fails at once."""
    async with RawServer() as server, client_of(server, limits=Limits(rate=0.01)) as client:
        await get(client)
        with pytest.raises(DeadlineError, match="no time left to wait for a permit"):
            await get(client.with_options(deadline=20.0))

        assert len(server.requests) == 1


async def test_a_cancelled_wait_for_a_connection_gives_its_place_back() -> None:
    """Calls that are cancelled while they wait for a connection release their permits."""
    before = own_tasks()
    hold = asyncio.Event()
    async with (
        RawServer((hold, reply())) as server,
        client_of(server, limits=Limits(connections=1)) as client,
    ):
        first = asyncio.create_task(get(client))
        await server.until_arrived(1)
        waiting = [asyncio.create_task(get(client)) for _ in range(5)]
        with anyio.move_on_after(0.01):
            await get(client)
        for call in waiting[::2]:
            call.cancel()
        hold.set()
        for call in waiting[1::2]:
            call.cancel()
        await asyncio.gather(first, *waiting, return_exceptions=True)
        await get(client)

        assert len(server.requests) == 2
        assert own_tasks() == before


@pytest.mark.parametrize("moment", range(12))
async def test_a_slot_survives_a_cancellation_at_any_moment(moment: int) -> None:
    """The only connection is free after a call was cancelled at any point."""
    async with (
        RawServer((reply(),), (page(500),)) as server,
        client_of(server, limits=Limits(connections=1)) as client,
    ):
        await get(client)
        call = asyncio.create_task(get(client))
        for _ in range(moment):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        async with asyncio.timeout(PATIENCE):
            await get(client)


async def test_an_operation_is_not_called_twice_by_being_shared() -> None:
    """A delete in flight in two calls is two requests, each with its own count."""
    operation = Operation(DELETE_PROFILE, (("adapty-customer-user-id", "u1"),))
    async with RawServer((reply(204),), then=ABSENT) as server, client_of(server) as client:
        report = await client.bulk([operation, operation], concurrency=1)

        assert len(server.requests) == report.requests == 2
    assert (report.done, report.absent) == (1, 1)


async def test_what_is_sent_is_what_was_given() -> None:
    """Key, id and body arrive as they are; nothing else identifies the caller."""
    async with RawServer() as server, client_of(server) as client:
        await client.v1.profiles.update(
            ProfileAttributes(first_name="Jane", email=None), customer_user_id="u 1"
        )

    request = server.requests[0]
    assert (request.method, request.path) == ("PATCH", "/api/v1/server-side-api/profiles/")
    assert request.identity == "u 1"
    assert request.body == b'{"first_name":"Jane","email":null}'
    assert request.headers["content-type"] == "application/json"
    assert "cookie" not in request.headers
