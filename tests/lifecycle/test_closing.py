"""Closing a client while it is used, and forgetting to."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.base_protocol import BaseProtocol

from adapty_async import (
    AdaptyClient,
    ConfigError,
    Limits,
    Operation,
    Outcome,
    OutcomeStatus,
    RetryPolicy,
)
from adapty_async._http.attempt import next_block
from adapty_async.bulk import BulkRun
from adapty_async.endpoints import Endpoint
from adapty_async.errors import AdaptyError, ConnectionLostError, RequestTimeoutError
from adapty_async.v1 import create_profile, delete_profile
from tests._support import LOOPS, loop_turns
from tests.lifecycle.test_cancellation import is_free, left_by
from tests.raw_server import DONE, HOLD, STALL, RawServer, Received, Steps, own_tasks, page


def client_of(server: RawServer, **settings: Any) -> AdaptyClient:
    """Return a client of a server."""
    return AdaptyClient("secret_live_x.y", base_url=server.url, **settings)


async def get(client: AdaptyClient, name: str = "u1") -> None:
    """Make a call."""
    await client.v1.profiles.get(customer_user_id=name)


async def test_calls_that_wait_for_a_connection_end_when_their_client_is_closed() -> None:
    """Requests in flight are aborted, and calls that wait for a connection get an error."""
    before = own_tasks()
    async with RawServer(then=(STALL,)) as server:
        client = client_of(server, limits=Limits(connections=2), retry=RetryPolicy(attempts=1))
        calls = [asyncio.create_task(get(client)) for _ in range(6)]
        await server.until_arrived(2)
        await client.aclose()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        await server.until_left()

        assert len(server.requests) == 2
    assert sorted(type(error).__name__ for error in ended if error) == (
        ["ConfigError"] * 4 + ["ConnectionLostError"] * 2
    )
    assert left_by(client) == {}
    assert own_tasks() == before


async def test_a_call_whose_body_has_not_arrived_ends_when_its_client_is_closed() -> None:
    """The headers have arrived; the call waits for the body, or is just about to."""
    headers = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    ends: set[str] = set()
    async with RawServer(then=(headers, STALL)) as server:
        for turns in range(6):
            client = client_of(server, retry=RetryPolicy(attempts=1))
            call = asyncio.create_task(get(client))
            await server.until_arrived(turns + 1)
            await loop_turns(turns)
            await client.aclose()
            (error,) = await asyncio.gather(call, return_exceptions=True)
            ends.add(type(error).__name__)
            assert left_by(client) == {}

    assert ends == {"ConnectionLostError", "RequestTimeoutError"}


@pytest.mark.parametrize("anyio_backend", LOOPS)
@pytest.mark.parametrize("trust_env", [False, True], ids=["fast", "standard"])
async def test_a_server_that_reads_nothing_holds_up_no_close(
    trust_env: bool,  # noqa: FBT001  a case
) -> None:
    """A connection with unsent bytes of a large body is aborted, not flushed first."""
    upload = Operation(
        Endpoint(name="x.upload", method="POST", path="/x/", decode=bytes), body="x" * 32_000_000
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.0)
        client = AdaptyClient(
            "secret_live_x.y",
            base_url=f"http://127.0.0.1:{listener.getsockname()[1]}",
            trust_env=trust_env,
            retry=RetryPolicy(attempts=1),
        )
        call = asyncio.create_task(client.execute(upload))
        connection, _ = await asyncio.get_running_loop().sock_accept(listener)
        with connection:
            await loop_turns(50)
            async with asyncio.timeout(5):
                await client.aclose()
            with pytest.raises((ConnectionLostError, RequestTimeoutError)):
                await call


async def test_a_call_over_a_kept_connection_that_ends_with_its_client_opens_no_session() -> None:
    """Nobody would close it: aiohttp reports one that was not closed to the event loop."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    headers = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    async with RawServer(DONE, then=(headers, STALL)) as server:
        client = client_of(server, retry=RetryPolicy(attempts=1))
        await get(client)
        call = asyncio.create_task(get(client))
        await server.until_arrived(2)
        await loop_turns(6)
        await client.aclose()
        with pytest.raises(RequestTimeoutError, match="no response in time"):
            await call
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del client, call
        gc.collect()

    assert complaints == []


async def test_a_body_whose_connection_was_closed_before_it_is_read_is_lost() -> None:
    """A RuntimeError of aiohttp's is no error of a call."""
    loop = asyncio.get_running_loop()
    content = aiohttp.StreamReader(BaseProtocol(loop), 1024, loop=loop)
    with pytest.raises(ConnectionLostError, match="it was closed meanwhile"):
        await next_block(content)


async def test_a_call_that_waits_for_its_retry_ends_with_it() -> None:
    """A client that is closed between two attempts makes no other one."""
    async with RawServer(then=(page(500),)) as server:
        client = client_of(server, retry=RetryPolicy(wait_initial=0.05, wait_max=0.05))
        call = asyncio.create_task(get(client))
        await server.until_arrived(1)
        await client.aclose()
        with pytest.raises((ConfigError, ConnectionLostError)):
            await call

        assert len(server.requests) <= 2


async def test_closing_twice_at_once() -> None:
    """Two tasks may close a client together; both come back when it is closed."""
    async with RawServer() as server:
        client = client_of(server)
        await get(client)
        await asyncio.gather(client.aclose(), client.aclose())
        await server.until_left()

        assert server.open == 0


def held(request: Received) -> Steps:
    """Respond to a few requests, and not to the rest."""
    return DONE if request.identity in {"u0", "u1", "u2"} else (HOLD,)


async def complete(run: BulkRun[Any, Any], *, streamed: bool) -> None:
    """Await a run, or stream it to its end."""
    if not streamed:
        await run
    async with run:
        async for _ in run:
            pass


@pytest.mark.parametrize("way", ["awaited", "streamed"])
@pytest.mark.parametrize(
    ("build", "lost"),
    [
        pytest.param(create_profile, OutcomeStatus.UNKNOWN, id="create"),
        pytest.param(delete_profile, OutcomeStatus.FAILED, id="delete"),
    ],
)
async def test_a_run_ends_when_its_client_is_closed(
    build: Callable[..., Operation[Any]], lost: OutcomeStatus, way: str, tmp_path: Path
) -> None:
    """A run reports why it ended and every item, and its journal can be resumed."""
    ids = [f"u{number}" for number in range(20)]
    outcomes: list[Outcome[str, Any]] = []
    options: dict[str, Any] = {
        "build": lambda one: build(customer_user_id=one),
        "concurrency": 4,
        "journal": tmp_path / "journal",
    }
    before = own_tasks()
    async with RawServer(then=held) as server:
        client = client_of(server, retry=RetryPolicy(wait_initial=0.001))
        run = client.bulk(ids, on_outcome=outcomes.append, **options)
        task = asyncio.create_task(complete(run, streamed=way == "streamed"))
        await server.until_arrived(7)
        await client.aclose()
        with pytest.raises(ConfigError, match="the client is closed"):
            await task

        in_flight = [each.status for each in outcomes if each.index in range(3, 7)]
        assert Counter(in_flight) == {lost: 4}
        assert run.report.total == len(outcomes) == sum(run.report.counts.values())
        assert (run.report.done, len(server.requests)) == (3, 7)
        assert (run.report.not_sent, run.report.requests) == (run.report.total - 7, 7)
        assert left_by(client) == {}
        assert own_tasks() == before
        assert is_free(tmp_path / "journal")

        server.answer(DONE)
        async with client:
            again = await client.bulk(ids, **options)
    unknown = 4 if lost is OutcomeStatus.UNKNOWN else 0
    assert (again.skipped, again.unknown, again.done) == (3, unknown, 17 - unknown)


async def test_a_client_that_is_dropped_closes_its_connections_and_says_so_once() -> None:
    """A client that was not closed is freed with its last reference, with one warning."""
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, told: complaints.append(told))
    before = own_tasks()
    async with RawServer() as server:
        client = client_of(server)
        await get(client)
        await client.v1.profiles.bulk_delete(["u1", "u2"], by="customer_user_id")
        there: list[weakref.ref[Any]] = [weakref.ref(client), weakref.ref(client._connections)]
        gc.disable()
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                del client
        finally:
            gc.enable()
        told = [str(caught.pop().message) for _ in tuple(caught)]  # they hold what they are about
        await server.until_left()
        gc.collect()

        assert [text[:23] for text in told] == ["a client was not closed"]
        assert [each() for each in there] == [None, None]
    assert own_tasks() == before
    assert complaints == []


async def test_a_call_keeps_its_client() -> None:
    """A client that is dropped with a call in flight goes when that has ended."""
    async with RawServer((HOLD, *DONE)) as server:
        call = asyncio.create_task(client_of(server).v1.profiles.get(customer_user_id="u1"))
        await server.until_arrived(1)
        gc.collect()
        server.released.set()
        with pytest.warns(ResourceWarning, match="a client was not closed"):
            profile = await call
        await server.until_left()

    assert profile is not None


async def test_calls_whose_host_is_looked_up_are_not_cancelled_when_their_client_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their tasks are not cancelled; they get the same error as other calls, and so does a run."""
    asked = asyncio.Event()

    async def never(*_: Any, **__: Any) -> Any:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    client = AdaptyClient("secret_live_x.y", base_url="http://localhost:9")
    calls = [asyncio.create_task(get(client)) for _ in range(2)]
    run = asyncio.create_task(
        client.v1.profiles.bulk_delete(["u1", "u2"], by="customer_user_id", concurrency=1)
    )
    await asked.wait()
    await client.aclose()
    await asyncio.wait({*calls, run})

    assert not any(task.cancelled() for task in (*calls, run))
    assert {type(task.exception()) for task in (*calls, run)} == {ConfigError}


async def test_an_error_that_is_kept_keeps_nothing_of_its_client() -> None:
    """A reference to an error does not keep connections open."""
    async with RawServer(then=(page(500),)) as server:
        client = client_of(server, retry=RetryPolicy(attempts=1))
        kept: AdaptyError | None = None
        try:
            await client.v1.profiles.get(customer_user_id="u1")
        except AdaptyError as error:
            kept = error.with_traceback(None)
        await client.aclose()
        there = weakref.ref(client._connections)
        del client
        gc.collect()

        assert kept is not None
        assert there() is None
