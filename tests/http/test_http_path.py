"""
The choice of the HTTP path: the fast one is not used with test mocks and tracers, real ones here.

After that, the connections of a client's own session, on both paths: dead connections, and event
loops that were blocked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import sentry_sdk
import vcr
from aiohttp.http import StreamWriter
from aioresponses import aioresponses
from opentelemetry import trace
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sentry_sdk.integrations.aiohttp import AioHttpIntegration
from vcr.errors import CannotOverwriteExistingCassetteException

from adapty_async import (
    AdaptyClient,
    BulkReport,
    ConfigError,
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    Limits,
    Operation,
    Outcome,
    RequestTimeoutError,
    RetryPolicy,
)
from adapty_async._api.call import CallState, Response
from adapty_async._http.attempt import failure_of
from adapty_async._http.direct_sender import (
    TESTED,
    Stamp,
    _lacking,
    why_standard,
)
from adapty_async._http.session_sender import SESSION_OPTIONS, session_sender
from adapty_async._http.transport import Transport
from adapty_async.statistics import HttpPath
from adapty_async.v1 import CREATE_PROFILE, ProfileAttributes
from tests._support import a_request, loop_turns, patch_as_a_tracer
from tests.raw_server import DONE, HOLD, RESET, STALL, UNREAD, RawServer, Received, Steps, in_thread

KEY = "secret_live_TEST.key"
ONCE = RetryPolicy(attempts=1)
TWICE = RetryPolicy(attempts=2, wait_initial=0.001, wait_max=0.001)

paths = pytest.mark.parametrize("standard", [False, True], ids=["fast", "standard"])


def client_of(server: RawServer, **options: Any) -> AdaptyClient:
    """Return a client of a server."""
    return AdaptyClient(KEY, **{"base_url": server.url, "retry": ONCE, **options})


def path_of(client: AdaptyClient) -> tuple[str, str | None]:
    """Return the HTTP path that the statistics name."""
    now = client.statistics()
    return now.http_path, now.http_path_reason


FAST = ("fast", None)
PATCHED = ("standard", "aiohttp.ClientSession._request is patched")


def test_the_aiohttp_in_use_was_tested() -> None:
    """The fast path is used with releases that passed this suite: add a new one to the list."""
    assert aiohttp.__version__ in TESTED
    assert _lacking() is None


async def test_aioresponses_keeps_requests_from_the_server() -> None:
    """Nothing reaches the server; with aiohttp 3.14, aioresponses 0.7.9 fails in its response."""
    async with RawServer() as server, client_of(server) as client:
        with aioresponses() as mocked:
            mocked.delete(f"{server.url}/api/v1/server-side-api/profiles/", status=204)
            with pytest.raises(TypeError, match="stream_writer"):
                await client.v1.profiles.delete(customer_user_id="anna")
            assert path_of(client) == PATCHED

        assert server.requests == []


async def test_vcr_keeps_requests_from_the_server_also_from_later_on(tmp_path: Path) -> None:
    """A cassette that starts after the session, and ends, is detected at the next request."""
    cassette = vcr.use_cassette(str(tmp_path / "none.yaml"), record_mode="none")
    async with RawServer() as server, client_of(server) as client:
        await client.v1.profiles.delete(customer_user_id="anna")
        assert path_of(client) == FAST
        with cassette, pytest.raises(CannotOverwriteExistingCassetteException, match="record_mode"):
            await client.v1.profiles.delete(customer_user_id="bert")
        assert path_of(client) == PATCHED
        await client.v1.profiles.delete(customer_user_id="carl")
        assert path_of(client) == FAST

        assert server.identities == ["anna", "carl"]


async def test_vcr_records_and_replays(tmp_path: Path) -> None:
    """A recorded response is the result of the same call, without the server."""
    async with RawServer() as server, client_of(server) as client:
        for _ in range(2):
            with vcr.use_cassette(str(tmp_path / "one.yaml"), filter_headers=["authorization"]):
                profile = await client.v1.profiles.get(customer_user_id="anna")
                assert profile.customer_user_id is None

        assert len(server.requests) == 1
    assert KEY not in (tmp_path / "one.yaml").read_text("utf-8")


@contextlib.contextmanager
def opentelemetry() -> Iterator[InMemorySpanExporter]:
    """Let OpenTelemetry trace the aiohttp sessions made within the block."""
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    AioHttpClientInstrumentor().instrument(tracer_provider=provider)
    try:
        yield spans
    finally:
        AioHttpClientInstrumentor().uninstrument()


async def test_opentelemetry_sees_each_attempt_also_from_later_on() -> None:
    """Each request is a client span with a ``traceparent`` header once aiohttp is instrumented."""
    async with RawServer() as server, client_of(server) as client:
        await client.v1.profiles.get(customer_user_id="anna")
        with opentelemetry() as spans:
            await client.v1.profiles.get(customer_user_id="bert")
            assert path_of(client)[0] == "standard"
        await client.v1.profiles.get(customer_user_id="carl")

        assert [span.kind for span in spans.get_finished_spans()] == [trace.SpanKind.CLIENT]
        sent_on = ["traceparent" in request.headers for request in server.requests]
    assert sent_on == [False, True, False]
    assert KEY not in str([span.to_json() for span in spans.get_finished_spans()])


async def test_sentry_sees_a_call_and_sends_its_trace_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Sentry's integration for aiohttp, a request is a span with a ``sentry-trace`` header."""
    for kind, name in (
        (aiohttp.ClientSession, "__init__"),
        (aiohttp.web.Application, "_handle"),
        (aiohttp.web.UrlDispatcher, "resolve"),
    ):
        monkeypatch.setattr(kind, name, getattr(kind, name))  # what it patches for good
    seen: list[Any] = []

    def keep(event: Any, _hint: Any) -> None:
        seen.extend(event["spans"])

    sentry_sdk.init(
        dsn="http://public@127.0.0.1:9/1",
        integrations=[AioHttpIntegration()],
        default_integrations=False,
        auto_enabling_integrations=False,
        traces_sample_rate=1.0,
        before_send_transaction=keep,
    )
    try:
        async with RawServer() as server, client_of(server) as client:
            with sentry_sdk.start_transaction(name="erasure"):
                await client.v1.profiles.get(customer_user_id="anna")

            assert "sentry-trace" in server.requests[0].headers
            assert path_of(client)[0] == "standard"
        assert [span["op"] for span in seen] == ["http.client"]
    finally:
        sentry_sdk.get_client().close(timeout=0)
        sentry_sdk.init()


def test_no_tracer_and_no_mock_is_imported() -> None:
    """The library detects patches without an import of the tools that make them."""
    code = "import sys, adapty_async; print([n for n in sys.modules if n.split('.')[0] in NAMES])"
    names = ("opentelemetry", "sentry_sdk", "vcr", "aioresponses", "wrapt")
    command = [sys.executable, "-c", code.replace("NAMES", repr(names))]

    assert subprocess.run(command, check=True, capture_output=True).stdout == b"[]\n"


def test_a_patch_that_was_there_before_the_library_is_noticed() -> None:
    """There is no original for a comparison then; a wrapper is detected by its module."""
    code = """
import asyncio, functools, aiohttp
original = aiohttp.ClientSession._request
@functools.wraps(original)
async def wrapper(*arguments, **options): return await original(*arguments, **options)
aiohttp.ClientSession._request = wrapper
from adapty_async import AdaptyClient
print(AdaptyClient("k").statistics().http_path_reason)
aiohttp.ClientSession._request = original
print(AdaptyClient("k").statistics().http_path_reason)
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout

    assert output.decode().splitlines() == [PATCHED[1], "None"]


async def test_the_path_is_logged_once_a_change(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast path is logged at DEBUG, the standard one at INFO with its reason, no secret."""
    caplog.set_level(logging.DEBUG, "adapty_async")
    async with RawServer() as server, client_of(server) as client:
        for patched in (False, True, False):
            with monkeypatch.context() as patches:
                if patched:
                    patch_as_a_tracer(patches)
                for _ in range(2):
                    await client.v1.profiles.get(customer_user_id="anna")

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("DEBUG", "HTTP path: fast"),
        ("INFO", "HTTP path: standard, since aiohttp.ClientSession.__init__ is patched"),
        ("DEBUG", "HTTP path: fast"),
    ]


async def accept(_: object) -> Response:
    """Respond without a server."""
    return Response(204, {}, b"")


async def test_a_setting_that_decides_the_path_is_named() -> None:
    """A given session, ``trust_env`` and a given transport are reasons from the start."""
    async with aiohttp.ClientSession() as session, RawServer() as server:
        given = client_of(server, session=session)
        assert path_of(given) == ("standard", "a session was given")
        await given.v1.profiles.delete(customer_user_id="anna")
        assert path_of(given) == ("standard", "a session was given")
        assert path_of(client_of(server, trust_env=True)) == ("standard", "trust_env")
        custom = client_of(server, transport=accept)
        assert path_of(custom) == (HttpPath.CUSTOM, "a transport was given")


Patch = Callable[[pytest.MonkeyPatch], None]


def another_release(patches: pytest.MonkeyPatch) -> None:
    """Let aiohttp be an untested release."""
    patches.setattr(aiohttp, "__version__", "3.14.99")


def another_writer(patches: pytest.MonkeyPatch) -> None:
    """Let aiohttp write in another way."""

    async def write(_self: object, _data: bytes) -> None:
        raise AssertionError

    patches.setattr(StreamWriter, "write", write)
    _lacking.cache_clear()


def another_class(patches: pytest.MonkeyPatch) -> None:
    """Replace a class by one without its attributes."""
    patches.setattr(aiohttp, "TCPConnector", object())


def other_sockets(patches: pytest.MonkeyPatch) -> None:
    """Replace sockets, as mocket and pytest-socket do."""
    patches.setattr(socket, "socket", type("Guarded", (socket.socket,), {}))


def another_connect(patches: pytest.MonkeyPatch) -> None:
    """Wrap the creation of connections."""

    async def connect(*_arguments: object, **_options: object) -> None:
        raise AssertionError

    patches.setattr(aiohttp.TCPConnector, "connect", connect)


def another_send(patches: pytest.MonkeyPatch) -> None:
    """Wrap the sending of requests, as New Relic does."""
    patches.setattr(aiohttp.ClientRequest, "send", lambda *_: None)


REASONS = {
    "release": (another_release, "aiohttp 3.14.99 is not among the tested releases"),
    "capability": (another_writer, "aiohttp has another writer"),
    "class": (another_class, "aiohttp.TCPConnector is patched"),
    "sockets": (other_sockets, "socket.socket is patched"),
    "connector": (another_connect, "aiohttp.TCPConnector.connect is patched"),
    "send": (another_send, "aiohttp.ClientRequest.send is patched"),
}


@pytest.mark.parametrize(("patch", "reason"), REASONS.values(), ids=REASONS)
def test_what_is_unusual_is_a_reason_for_the_standard_path(patch: Patch, reason: str) -> None:
    """Any condition that may affect a request is named, the client's own options before others."""
    with pytest.MonkeyPatch.context() as patches:
        patch(patches)
        assert why_standard(Stamp(), None, given=False, trust_env=False) == reason
        assert why_standard(Stamp(), None, given=False, trust_env=True) == "trust_env"
        assert why_standard(Stamp(), None, given=True, trust_env=True) == "a session was given"
    _lacking.cache_clear()

    assert why_standard(Stamp(), None, given=False, trust_env=False) is None


@pytest.mark.parametrize(
    "patch",
    [another_class, other_sockets, another_connect, another_send],
    ids=["class", "sockets", "connector", "send"],
)
def test_a_patch_and_its_removal_are_noticed(patch: Patch) -> None:
    """A pool that was made before a patch, or during one, is not current after the change."""
    unpatched = Stamp()
    with pytest.MonkeyPatch.context() as patches:
        patch(patches)
        patched = Stamp()
        assert (unpatched.is_current(), patched.is_current()) == (False, True)

    assert (unpatched.is_current(), patched.is_current()) == (True, False)


def test_a_method_that_is_removed_is_a_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class without one of the methods has changed, too."""
    stamp = Stamp()
    monkeypatch.delattr(aiohttp.ClientResponse, "start")

    assert not stamp.is_current()


async def test_a_session_that_a_tracer_has_changed_is_a_reason() -> None:
    """Trace configurations, and a connector wrapped as Datadog wraps it, are detected."""
    async with (
        aiohttp.ClientSession(trace_configs=[aiohttp.TraceConfig()]) as traced,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector("/nowhere")) as wrapped,
    ):
        reasons = [
            why_standard(Stamp(), session, given=False, trust_env=False)
            for session in (traced, wrapped)
        ]

    assert reasons == [
        "the session has trace configs",
        "the session or its connector is wrapped",
    ]


async def test_an_unknown_aiohttp_is_used_by_its_public_ways() -> None:
    """Its private parts may differ; requests arrive by the standard path."""
    with pytest.MonkeyPatch.context() as patches:
        another_release(patches)
        async with RawServer() as server, client_of(server) as client:
            await client.v1.profiles.delete(customer_user_id="anna")

            assert server.methods == ["DELETE"]
        assert path_of(client)[0] == "standard"


@contextlib.asynccontextmanager
async def transport() -> AsyncIterator[Transport]:
    """Open the transport of a client."""
    opened = Transport(clock=time.monotonic)
    try:
        yield opened
    finally:
        await opened.aclose()


@paths
async def test_a_call_is_on_the_wire_from_its_first_byte_on(
    monkeypatch: pytest.MonkeyPatch, *, standard: bool
) -> None:
    """A request is on the wire from when it may be written, not during its connect."""
    if standard:
        patch_as_a_tracer(monkeypatch)
    async with RawServer((UNREAD, STALL), (HOLD,)) as server, transport() as send:
        on_wire: list[bool] = []
        for url in (server.url.replace("http", "https"), server.url):
            state = CallState()
            task = asyncio.ensure_future(send(a_request(url=f"{url}/"), state))
            while server.connections <= len(on_wire):
                await loop_turns(1)
            if url == server.url:
                await server.until_arrived(1)
            on_wire.append(state.on_wire)
            task.cancel()
            await asyncio.wait({task})

    assert on_wire == [False, True]


@paths
async def test_a_call_without_time_left_is_not_sent(
    monkeypatch: pytest.MonkeyPatch, *, standard: bool
) -> None:
    """A request whose deadline passed while the loop was blocked never reaches a connection."""
    if standard:
        patch_as_a_tracer(monkeypatch)
    async with RawServer() as server, transport() as send:
        late = CallState(deadline=time.monotonic() - 1)
        with pytest.raises(DeadlineError, match="no time left to send it"):
            await send(a_request(url=f"{server.url}/"), late)

        assert server.connections == 0


async def test_a_given_session_bounds_what_is_in_flight() -> None:
    """A session receives no more requests than it has connections, so none waits in it."""
    connector = aiohttp.TCPConnector(limit=3, limit_per_host=2)
    async with (
        RawServer(then=(HOLD, *DONE)) as server,
        aiohttp.ClientSession(connector=connector) as session,
        client_of(server, session=session, limits=Limits(connections=10)) as client,
    ):
        get = client.v1.profiles.get
        calls = [asyncio.ensure_future(get(customer_user_id=f"u{n}")) for n in range(5)]
        await server.until_arrived(2)
        assert client.statistics().concurrency == 2
        server.released.set()
        await asyncio.gather(*calls)

        assert server.most_active == 2


async def test_a_given_session_that_cannot_connect_has_sent_nothing() -> None:
    """Its error resets the mark that the call may be on the wire."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        state = CallState()
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        async with aiohttp.ClientSession() as session:
            send = Transport(clock=time.monotonic, session=session)
            with pytest.raises(ConnectError, match="cannot connect"):
                await send(a_request(url=url), state)

    assert not state.on_wire


async def test_a_given_session_that_is_closed_already_is_rejected() -> None:
    """A client can be made with it, and its first call raises the error."""
    async with aiohttp.ClientSession() as session, RawServer() as server:
        await session.close()
        with pytest.raises(ConfigError, match="is closed"):
            await client_of(server, session=session).v1.profiles.get(customer_user_id="anna")


def dead(*last: Any) -> Callable[[Received], Steps]:
    """Respond to the first request of each of two connections, and end every other one this way."""
    seen: set[int] = set()

    def respond(request: Received) -> Steps:
        if request.connection > 2 or request.connection not in seen:
            seen.add(request.connection)
            return DONE
        return last

    return respond


@pytest.mark.parametrize("last", [STALL, RESET], ids=["silent", "reset"])
@paths
async def test_kept_connections_that_died_are_not_tried_one_by_one(
    last: Any, monkeypatch: pytest.MonkeyPatch, *, standard: bool
) -> None:
    """After a failure over a kept connection the retry opens a new one; idle ones are closed."""
    if standard:
        patch_as_a_tracer(monkeypatch)
    async with (
        RawServer((HOLD, *DONE), (HOLD, *DONE), then=dead(last)) as server,
        client_of(server, retry=TWICE, timeout=1.0 if last is STALL else 30.0) as client,
    ):
        get = client.with_options(timeout=30.0).v1.profiles.get
        calls = [asyncio.ensure_future(get(customer_user_id="u")) for _ in range(2)]
        await server.until_arrived(2)
        server.released.set()
        await asyncio.gather(*calls)
        server._then = dead(last)
        await client.v1.profiles.get(customer_user_id="first")  # over a connection that is alive
        await client.v1.profiles.get(customer_user_id="second")
        await client.v1.profiles.delete(customer_user_id="third")
        while server.open > 1:
            server.left.clear()
            await server.left.wait()

        assert server.connections == 3
        assert server.requests[-1].connection == 3


@paths
async def test_what_is_in_flight_outlives_the_idle_connections(
    monkeypatch: pytest.MonkeyPatch, *, standard: bool
) -> None:
    """Timeouts replace the pool once; a slow call over it goes on, and its end closes it."""
    if standard:
        patch_as_a_tracer(monkeypatch)

    def respond(request: Received) -> Steps:
        return (released, *DONE) if request.identity == "slow" else (STALL,)

    async with RawServer(*[(HOLD, *DONE)] * 3) as server, client_of(server, retry=ONCE) as client:
        released = asyncio.Event()
        get = client.v1.profiles.get
        calls = [asyncio.ensure_future(get(customer_user_id="u")) for _ in range(3)]
        await server.until_arrived(3)
        server.released.set()
        await asyncio.gather(*calls)
        server._then = respond
        slow = asyncio.ensure_future(get(customer_user_id="slow"))
        silent = [
            asyncio.ensure_future(
                client.with_options(timeout=timeout).v1.profiles.get(customer_user_id="silent")
            )
            for timeout in (0.1, 1.0)
        ]
        await server.until_arrived(6)
        server._then = DONE
        for each in silent:
            with pytest.raises(RequestTimeoutError, match="no response in time"):
                await each
            await get(customer_user_id="u")  # over the one connection of the new pool
        sessions = client._connections._open.get().sessions
        assert len(sessions) == 2
        released.set()
        await slow
        assert len(sessions) == 1  # aiohttp itself closes only idle connections, after 15 s

        assert server.connections == 4


@paths
async def test_a_failure_of_a_new_connection_costs_no_other(
    monkeypatch: pytest.MonkeyPatch, *, standard: bool
) -> None:
    """It is no sign of the state of those that were used before."""
    if standard:
        patch_as_a_tracer(monkeypatch)
    async with (
        RawServer((HOLD, *DONE), (STALL,)) as server,
        client_of(server, retry=ONCE) as client,
    ):
        get = client.v1.profiles.get
        first = asyncio.ensure_future(get(customer_user_id="u"))
        await server.until_arrived(1)
        with pytest.raises(RequestTimeoutError):
            await client.with_options(timeout=0.1).v1.profiles.get(customer_user_id="silent")
        server.released.set()
        await first
        await get(customer_user_id="u")

        assert [request.connection for request in server.requests] == [1, 2, 1]


async def test_an_aiohttp_that_sends_again_is_kept_from_it() -> None:
    """Even if aiohttp reached its own retry of a broken kept connection, nothing is sent twice."""
    options = {**SESSION_OPTIONS, "response_class": aiohttp.ClientResponse}  # which comes to it
    async with (
        RawServer(DONE, then=(RESET,)) as server,
        aiohttp.ClientSession(**options) as session,
    ):
        ask = session_sender(session, set(), trust_env=False)
        await ask(a_request(url=f"{server.url}/", method="DELETE"), CallState())
        with pytest.raises(ConnectionLostError, match="it was sent already"):
            await ask(a_request(url=f"{server.url}/", method="DELETE"), CallState())

        assert server.methods == ["DELETE"] * 2


async def test_one_lost_connection_among_working_ones_costs_no_other() -> None:
    """A server that closes a connection now and then, while others work, causes no new pool."""
    gate = asyncio.Event()

    def respond(request: Received) -> Steps:
        return (gate, RESET) if request.identity == "lost" else DONE

    async with RawServer((HOLD, *DONE), (HOLD, *DONE)) as server, client_of(server) as client:
        get = client.v1.profiles.get
        calls = [asyncio.ensure_future(get(customer_user_id="u")) for _ in range(2)]
        await server.until_arrived(2)
        server.released.set()
        await asyncio.gather(*calls)
        server._then = respond
        lost = asyncio.ensure_future(get(customer_user_id="lost"))
        await server.until_arrived(3)
        await get(customer_user_id="works")
        gate.set()
        with pytest.raises(ConnectionLostError, match="the connection broke"):
            await lost
        await get(customer_user_id="works")

        assert server.connections == 2


@pytest.fixture(scope="module")
def slow_server() -> Iterator[str]:
    """Run a server in another process, which responds after 50 ms."""
    command = [sys.executable, "-m", "tests.slow_answers"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return a function that makes event loops of that name."""
    if name == "asyncio":
        return asyncio.new_event_loop
    return pytest.importorskip("uvloop").new_event_loop  # type: ignore[no-any-return]


loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def creates() -> Iterator[Operation[Any]]:
    """Yield operations that must not be retried."""
    for number in range(50):
        headers = (("adapty-customer-user-id", f"u{number}"),)
        yield Operation(CREATE_PROFILE, headers, ProfileAttributes())


@loops
@paths
def test_a_loop_that_stands_still_loses_no_response(
    loop: str, slow_server: str, monkeypatch: pytest.MonkeyPatch, *, standard: bool
) -> None:
    """Creates whose responses arrived during a blocking call are done, not unknown."""
    if standard:
        patch_as_a_tracer(monkeypatch)

    async def run() -> tuple[int, int]:
        async with AdaptyClient(KEY, base_url=slow_server, timeout=0.5, retry=ONCE) as client:
            await client.with_options(timeout=30.0).bulk(creates(), concurrency=50)  # connects
            asyncio.get_running_loop().call_later(0.03, time.sleep, 0.7)
            report = await client.bulk(creates(), concurrency=50)
        return report.done, report.unknown

    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        assert runner.run(run()) == (50, 0)


@loops
@pytest.mark.parametrize("leave", [False, True], ids=["stopped", "left"])
def test_a_loop_that_stands_still_during_the_drain_loses_no_response(
    loop: str, slow_server: str, *, leave: bool
) -> None:
    """Responses that arrived in a blocking call longer than the drain are read, not cancelled."""

    async def run() -> tuple[int, int]:
        async with (
            AdaptyClient(KEY, base_url=slow_server, retry=ONCE) as client,
            client.bulk(creates(), concurrency=10, drain=0.2) as run,
        ):
            async for _ in run:
                if run.in_flight:
                    break
            if not leave:
                run.stop()
            asyncio.get_running_loop().call_soon(time.sleep, 0.5)
        return run.report.done, run.report.unknown

    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        done, unknown = runner.run(run())
    assert unknown == 0
    assert done > 0


@loops
def test_a_loop_that_stands_still_for_longer_than_max_outage_ends_no_run(
    loop: str, slow_server: str
) -> None:
    """Time without any I/O, as after Ctrl-Z, is no outage."""

    def emitted(outcome: Outcome[str, None]) -> None:
        if outcome.index == 15:
            time.sleep(1.5)

    async def run() -> BulkReport[str, None]:
        async with AdaptyClient(KEY, base_url=slow_server) as client:
            return await client.v1.profiles.bulk_delete(
                [f"u{number}" for number in range(40)],
                by="customer_user_id",
                concurrency=10,
                on_outcome=emitted,
                max_outage=1.0,
            )

    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        report = runner.run(run())
    assert (report.done, report.stop_reason) == (40, None)


@loops
def test_a_blocking_call_before_a_request_is_not_charged_to_it(loop: str, slow_server: str) -> None:
    """An attempt has its full timeout, whatever the loop's own clock says after a blocking call."""

    async def run() -> None:
        async with AdaptyClient(KEY, base_url=slow_server, timeout=1.0, retry=ONCE) as client:
            await client.v1.profiles.get(customer_user_id="anna")
            time.sleep(1.2)  # noqa: ASYNC251  that is the fault
            await client.v1.profiles.get(customer_user_id="anna")

    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(run())


def test_each_loop_has_its_own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is used in one loop after another detects a patch in between."""
    with in_thread(RawServer()) as server:
        client = client_of(server)

        async def call() -> tuple[str, str | None]:
            await client.v1.profiles.get(customer_user_id="anna")
            return path_of(client)

        assert asyncio.run(call()) == FAST
        patch_as_a_tracer(monkeypatch)
        assert asyncio.run(call())[0] == "standard"
        monkeypatch.undo()
        assert asyncio.run(call()) == FAST
        asyncio.run(client.aclose())


async def test_a_host_that_needs_no_proxy_is_reached_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With `trust_env`, NO_PROXY excepts a host from the proxies of the environment."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a port without a listener
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with RawServer(DONE) as server, client_of(server, trust_env=True) as client:
        await client.v1.profiles.delete(customer_user_id="anna")

        assert server.methods == ["DELETE"]


@pytest.mark.parametrize("proxy", ["127.0.0.1:3128", "proxy:3128", "socks5://127.0.0.1:1080"])
async def test_a_proxy_of_another_kind_is_named_at_once(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent and nothing retried, and the message names the variable to correct."""
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    async with RawServer() as server, client_of(server, trust_env=True) as client:
        with pytest.raises(ConnectError, match="http_proxy does not begin with http://") as caught:
            await client.v1.profiles.create(customer_user_id="anna")

    assert (caught.value.permanent, caught.value.attempts, server.requests) == (True, 1, [])


def test_a_connection_that_breaks_before_a_request_is_written_sent_nothing() -> None:
    """A failure while nothing is on the wire is a failed connection, and may be retried."""
    failure = failure_of(aiohttp.ServerDisconnectedError(), CallState(), expired=False)

    assert isinstance(failure, ConnectError)
    assert failure.args[0].startswith("cannot connect (the connection broke")


def test_a_defect_is_no_timeout_even_if_the_time_is_over() -> None:
    """Only a cancellation becomes a timeout; a defect is raised as it is."""
    state = CallState(on_wire=True)

    assert failure_of(ValueError(), state, expired=True) is None
    assert isinstance(
        failure_of(asyncio.CancelledError(), state, expired=True), RequestTimeoutError
    )
