"""The border to aiohttp on real sockets: the error of each fault, and the requests sent."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import gc
import gzip
import math
import socket
import ssl
import subprocess
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from adapty_async import (
    AdaptyClient,
    AdaptyError,
    AdaptyMailClient,
    ApiError,
    CircuitOpenError,
    ConnectError,
    ConnectionLostError,
    DecodeError,
    Endpoint,
    Limits,
    MailProfile,
    NotFoundError,
    Operation,
    OutcomeStatus,
    RateLimitError,
    RequestRejectedError,
    RequestTimeoutError,
    RetryPolicy,
    RetrySafety,
    ServerError,
    TransportError,
)
from adapty_async._api.call import CallState
from adapty_async._http.attempt import SendOnce
from adapty_async._http.direct_sender import Stamp, fastest_sender
from adapty_async._http.session_sender import SESSION_OPTIONS
from adapty_async.endpoints import json_decoder
from adapty_async.v1 import CREATE_PROFILE, ProfileAttributes
from tests._support import LOOPS, a_request, patch_as_a_tracer
from tests.raw_server import (
    ABSENT,
    CLOSE,
    DONE,
    HOLD,
    RESET,
    STALL,
    UNREAD,
    Drip,
    RawServer,
    Steps,
    api_error,
    own_tasks,
    page,
    reply,
)

KEY = "secret_live_TEST.key"
TWICE = RetryPolicy(attempts=2, wait_initial=0.001, wait_max=0.001)
ONCE = RetryPolicy(attempts=1)

Call = Callable[[AdaptyClient], Awaitable[object]]

CALLS: dict[str, Call] = {
    "GET": lambda client: client.v1.profiles.get(customer_user_id="u1"),
    "DELETE": lambda client: client.v1.profiles.delete(customer_user_id="u1"),
    "PATCH": lambda client: client.v1.profiles.update(
        ProfileAttributes(first_name="Jane"), customer_user_id="u1"
    ),
    "POST": lambda client: client.v1.profiles.create(customer_user_id="u1"),
}
every_method = pytest.mark.parametrize("method", CALLS)
retriable = pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH"])


@pytest.fixture(autouse=True, params=["fast", "standard"])
def http_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run every test of this module over both HTTP paths, with the same expectations."""
    path: str = request.param
    if path == "standard":
        patch_as_a_tracer(monkeypatch)
    return path


@contextlib.asynccontextmanager
async def sender(connector: aiohttp.TCPConnector) -> AsyncIterator[SendOnce]:
    """Send requests over the connections of a test."""
    async with aiohttp.ClientSession(connector=connector, **SESSION_OPTIONS) as session:
        ask, _ = fastest_sender(session, set(), Stamp(), trust_env=False)
        yield ask


async def test_the_path_is_the_one_that_is_meant(http_path: str) -> None:
    """The statistics name the path that these tests take."""
    async with RawServer() as server, client_of(server) as client:
        await CALLS["GET"](client)

        assert client.statistics().http_path == http_path


def client_of(server: RawServer | str, **options: Any) -> AdaptyClient:
    """Return a client of a server that retries once, at once."""
    url = server if isinstance(server, str) else server.url
    return AdaptyClient(KEY, **{"base_url": url, "retry": TWICE, **options})


class Fault(NamedTuple):
    """A fault of a server, and the error that it causes."""

    steps: Steps
    error: type[AdaptyError]
    text: str


OK = b"HTTP/1.1 200 OK\r\n"
TIMEOUT = "no response in time"
BROKEN = "the connection broke"

BREAKS = {
    "reset": Fault((RESET,), ConnectionLostError, BROKEN),
    "closed": Fault((CLOSE,), ConnectionLostError, BROKEN),
    "reset-in-headers": Fault((OK, RESET), ConnectionLostError, BROKEN),
    "closed-in-headers": Fault((OK, CLOSE), ConnectionLostError, BROKEN),
    "reset-in-body": Fault((reply(body=b"12345")[:-1], RESET), ConnectionLostError, BROKEN),
    "truncated-body": Fault((reply(body=b"12345")[:-1], CLOSE), ConnectionLostError, BROKEN),
    "truncated-chunked": Fault(
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n123", CLOSE), ConnectionLostError, BROKEN
    ),
    "bad-chunk": Fault(
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n123\r\n0\r\n\r\n",),
        ConnectionLostError,
        BROKEN,
    ),
    "late-bad-chunk": Fault(
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", b"zz\r\n"),
        ConnectionLostError,
        BROKEN,
    ),
    "garbage": Fault((b"SSH-2.0-OpenSSH_9.9\r\n\r\n",), ConnectionLostError, BROKEN),
    "no-status": Fault((b"HTTP/1.1 OK\r\n\r\n",), ConnectionLostError, BROKEN),
    "two-lengths": Fault(
        (OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",), ConnectionLostError, BROKEN
    ),
    "length-and-chunked": Fault(
        (OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",),
        ConnectionLostError,
        BROKEN,
    ),
    "huge-header": Fault(
        (OK + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n", CLOSE), ConnectionLostError, BROKEN
    ),
    "not-gzip": Fault(
        (reply(body=b"plain", Content_Encoding="gzip"),), ConnectionLostError, BROKEN
    ),
    "truncated-coding": Fault(
        (reply(body=zlib.compress(b"{}")[:-4], Content_Encoding="gzip"),),
        ConnectionLostError,
        BROKEN,
    ),
    "stall": Fault((STALL,), RequestTimeoutError, TIMEOUT),
    "stall-in-body": Fault((reply(body=b"12345")[:-1], STALL), RequestTimeoutError, TIMEOUT),
    "slow-headers": Fault((OK, Drip(b"X: y\r\n")), RequestTimeoutError, TIMEOUT),
    "slow-body": Fault(
        (OK + b"Content-Length: 1000\r\n\r\n", Drip(b" ")), RequestTimeoutError, TIMEOUT
    ),
}
every_break = pytest.mark.parametrize("fault", BREAKS.values(), ids=BREAKS)


def timeout_for(fault: Fault) -> float:
    """Return a timeout that is short only if it is the cause of the attempt's end."""
    return 0.3 if fault.error is RequestTimeoutError else 10.0


@every_break
@retriable
async def test_a_broken_response_is_retried_once(method: str, fault: Fault) -> None:
    """A call that may be retried sends as many requests as it counts, on as many connections."""
    async with (
        RawServer(then=fault.steps) as server,
        client_of(server, timeout=timeout_for(fault)) as client,
    ):
        with pytest.raises(fault.error, match=fault.text) as caught:
            await CALLS[method](client)

        assert server.methods == [method] * 2
        assert server.connections == 2
    assert caught.value.attempts == 2
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None


@every_break
async def test_a_create_is_not_retried_after_a_broken_response(fault: Fault) -> None:
    """If the server may have processed the request and a retry might repeat it, one is sent."""
    async with (
        RawServer(then=fault.steps) as server,
        client_of(server, timeout=timeout_for(fault)) as client,
    ):
        with pytest.raises(fault.error, match=fault.text) as caught:
            await CALLS["POST"](client)

        assert server.methods == ["POST"]
    assert caught.value.attempts == 1
    assert caught.value.operation == "v1.profiles.create"


@every_break
async def test_a_broken_create_is_unknown_in_a_bulk_run(fault: Fault) -> None:
    """A bulk run reports the outcome of such a create as unknown."""
    operation = client_operation()
    async with (
        RawServer(then=fault.steps) as server,
        client_of(server, timeout=timeout_for(fault)) as client,
    ):
        report = await client.bulk([operation])

        assert len(server.requests) == 1
    assert (report.total, report.unknown, report.requests) == (1, 1, 1)
    assert report.failures[0].status is OutcomeStatus.UNKNOWN
    assert isinstance(report.failures[0].error, fault.error)


def client_operation() -> Any:
    """Return an operation that creates a profile."""
    return Operation(CREATE_PROFILE, (("adapty-customer-user-id", "u1"),), ProfileAttributes())


@every_method
@pytest.mark.parametrize("last", [RESET, CLOSE], ids=["reset", "closed"])
async def test_nothing_is_sent_twice_when_a_kept_connection_breaks(method: str, last: Any) -> None:
    """A request at the end of a kept-alive connection is sent once per attempt, not twice."""
    async with (
        RawServer(DONE, then=(last,)) as server,
        client_of(server, retry=ONCE) as client,
    ):
        await CALLS["GET"](client)
        with pytest.raises(ConnectionLostError) as caught:
            await CALLS[method](client)

        assert server.methods == ["GET", method]
        assert [request.connection for request in server.requests] == [1, 1]
    assert caught.value.attempts == 1


@retriable
async def test_a_retry_after_a_kept_connection_broke_succeeds(method: str) -> None:
    """The library retries it on a new connection, and counts the retry."""
    async with RawServer(DONE, (RESET,)) as server, client_of(server) as client:
        await CALLS["GET"](client)
        await CALLS[method](client)

        assert server.methods == ["GET", method, method]
        assert [request.connection for request in server.requests] == [1, 1, 2]


async def test_an_idle_connection_that_was_closed_is_not_used() -> None:
    """A connection that the server closed while idle is replaced without a failed attempt."""
    async with RawServer((reply(), CLOSE)) as server, client_of(server, retry=ONCE) as client:
        await CALLS["POST"](client)
        await server.until_left()
        await asyncio.sleep(0)  # the client's side of the closed connection
        await CALLS["POST"](client)

        assert server.connections == 2
        assert len(server.requests) == 2


@every_method
async def test_a_reset_before_the_request_is_read(method: str) -> None:
    """A connection that closes before the server reads is lost, since its state is unknown."""
    async with (
        RawServer((UNREAD, RESET), (UNREAD, RESET)) as server,
        client_of(server) as client,
    ):
        with pytest.raises(ConnectionLostError, match=BROKEN) as caught:
            await CALLS[method](client)

        assert server.requests == []
        assert server.connections == caught.value.attempts == (1 if method == "POST" else 2)


@pytest.mark.parametrize("anyio_backend", LOOPS)
@pytest.mark.parametrize("steps", [(UNREAD, RESET), (UNREAD, CLOSE)], ids=["reset", "close"])
@pytest.mark.parametrize("size", [10, 5_000_000])
async def test_a_body_that_cannot_be_written_names_no_url(steps: Steps, size: int) -> None:
    """The text of aiohttp has the whole URL, in which a path may contain the id of a user."""
    path, decode = "/segments/{segment_id}/", json_decoder(dict)
    add = Endpoint(name="segments.add", method="POST", path=path, decode=decode)
    call = add({"text": "x" * size}, parameters={"segment_id": "CANARY"})
    async with RawServer(steps) as server, client_of(server, retry=ONCE) as client:
        with pytest.raises(ConnectionLostError, match=BROKEN) as caught:
            await client.execute(call)

    assert "CANARY" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


@every_method
async def test_a_refused_connection_is_tried_again(method: str) -> None:
    """A request that was surely not sent is retried whatever its retry safety is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        async with client_of(url) as client:
            with pytest.raises(
                ConnectError, match=r"^cannot connect \(Connection refused\)"
            ) as caught:
                await CALLS[method](client)

    assert not caught.value.permanent
    assert caught.value.errno == errno.ECONNREFUSED
    assert caught.value.attempts == 2


async def test_a_connection_that_is_not_made_in_time_was_not_used() -> None:
    """A timeout while connecting is a ConnectError: nothing was sent."""
    async with (
        RawServer((UNREAD, STALL), (UNREAD, STALL)) as server,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(sock_connect=1.0)) as session,
        client_of(server.url.replace("http", "https"), session=session) as client,
    ):
        with pytest.raises(ConnectError, match=r"cannot connect \(timed out\)") as caught:
            await CALLS["POST"](client)

        assert server.connections == caught.value.attempts == 2


async def test_the_clients_own_bound_on_connecting_is_below_that_of_the_attempt() -> None:
    """The error proves that nothing was sent, also without a timeout of the session."""
    async with (
        RawServer((UNREAD, STALL)) as server,
        client_of(server.url.replace("http", "https"), timeout=3.0, retry=ONCE) as client,
    ):
        with pytest.raises(ConnectError, match=r"cannot connect \(timed out\)"):
            await CALLS["POST"](client)


class Unanswered(AbstractResolver):
    """A resolver whose name server sends no response."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Wait for the response."""
        await asyncio.get_running_loop().create_future()
        raise AssertionError(host, port, family)

    async def close(self) -> None:
        """Do nothing, since there is nothing to close."""


class Unknown(Unanswered):
    """A resolver that finds no name, with the number of that error on macOS."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Fail as `socket.getaddrinfo` does."""
        raise socket.gaierror(errno.ENOEXEC, "nodename nor servname provided")


async def test_a_name_that_is_not_found_has_the_text_of_the_resolver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The numbers of its errors are not those of the system: 8 is no "Exec format error"."""
    monkeypatch.setattr("aiohttp.connector.DefaultResolver", lambda **_: Unknown())
    async with AdaptyClient(KEY, base_url="https://host.invalid", retry=ONCE) as client:
        with pytest.raises(ConnectError, match=r"^cannot connect \(nodename nor") as caught:
            await CALLS["GET"](client)

    assert caught.value.errno is None


async def test_a_name_that_is_not_found_in_time_is_a_failed_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing was sent during the name lookup, and its time is bounded too."""
    monkeypatch.setattr("aiohttp.connector.DefaultResolver", lambda **_: Unanswered())
    options: dict[str, Any] = {"timeout": 0.05, "retry": RetryPolicy(attempts=1)}
    async with AdaptyClient(KEY, base_url="https://host.invalid", **options) as client:
        with pytest.raises(ConnectError, match=r"^cannot connect \(timed out\)"):
            await CALLS["GET"](client)


async def test_the_time_that_a_given_session_allows_is_kept() -> None:
    """A session of the caller's may have a shorter timeout; it ends an attempt the same way."""
    async with (
        RawServer((STALL,), (STALL,)) as server,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1.5)) as session,
        client_of(server, session=session) as client,
    ):
        with pytest.raises(RequestTimeoutError, match=TIMEOUT) as caught:
            await CALLS["GET"](client)

        assert len(server.requests) == caught.value.attempts == 2


async def test_a_server_without_tls_is_named_by_the_error() -> None:
    """TLS to a server without TLS is a failed connection, and the error names TLS."""
    async with (
        RawServer((UNREAD, b"HTTP/1.1 400 Bad Request\r\n\r\n", CLOSE)) as server,
        client_of(server.url.replace("http", "https"), retry=ONCE) as client,
    ):
        with pytest.raises(ConnectError, match=r"cannot connect \(TLS failed\)") as caught:
            await CALLS["POST"](client)

    assert not caught.value.permanent


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """Return a server's context with a certificate that no authority has signed."""
    folder: Path = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run(
            [*command, "-keyout", key, "-out", certificate], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"openssl makes no certificate here: {error}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@every_method
async def test_a_certificate_that_is_not_trusted_ends_the_call(
    method: str, self_signed: ssl.SSLContext
) -> None:
    """A certificate that does not verify is permanent: nothing is sent or retried."""
    async with RawServer(tls=self_signed) as server, client_of(server) as client:
        with pytest.raises(ConnectError, match="certificate is not accepted") as caught:
            await CALLS[method](client)

        assert server.requests == []
    assert caught.value.permanent
    assert caught.value.attempts == 1


BODILESS = {"204": (reply(204),), "200-empty": (reply(body=b""),)}
EMPTY_RESPONSES = {
    "200-object": (reply(),),
    "200-until-close": (OK + b"\r\n{}", CLOSE),
    "after-103": (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + reply(),),
    "chunked": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\n{", b"}\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("steps", EMPTY_RESPONSES.values(), ids=EMPTY_RESPONSES)
@every_method
async def test_a_response_without_content_is_a_success(method: str, steps: Steps) -> None:
    """Every form of an empty object ends well after one request."""
    async with RawServer(then=steps) as server, client_of(server) as client:
        await CALLS[method](client)

        assert server.methods == [method]


@pytest.mark.parametrize("steps", BODILESS.values(), ids=BODILESS)
@every_method
async def test_a_response_without_a_body_is_a_success_unless_it_was_a_read(
    method: str, steps: Steps
) -> None:
    """A write has done its work without a body, and a read has read nothing."""
    async with RawServer(then=steps) as server, client_of(server) as client:
        nothing_read = pytest.raises(DecodeError, match=r"no JSON object - at `\$`")
        with nothing_read if method == "GET" else contextlib.nullcontext():
            await CALLS[method](client)

        assert server.methods == [method]


class Hidden(str):  # noqa: SLOT000  as users write it
    """Text that shows another text, as a ``(str, Enum)`` shows its name."""

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"


class Size(int, enum.Enum):
    """A number that shows its name."""

    SMALL = 5


async def test_text_of_a_subclass_is_sent_as_its_content() -> None:
    """Key, headers and parameters are sent as what they equal, not as what `str` shows."""
    call = Endpoint(
        name="x",
        method="GET",
        path="/x/{id}/",
        decode=bytes,
        retry_safety=RetrySafety.WITH_KEY,
    )
    async with (
        RawServer(then=(reply(),)) as server,
        AdaptyClient(Hidden(KEY), base_url=server.url) as client,
    ):
        await client.with_options(headers={"X-Tenant": Hidden("t1")}).execute(
            call(
                headers={"adapty-customer-user-id": Hidden("u1")},
                parameters={"id": Hidden("a/b"), "limit": Size.SMALL, "of": Hidden("c")},
                idempotency_key=Hidden("k1"),
            )
        )

        [request] = server.requests
        assert request.path == "/x/a%2Fb/?limit=5&of=c"
        assert request.headers["authorization"] == f"Api-Key {KEY}"
        assert request.headers["x-tenant"] == "t1"
        assert request.headers["adapty-customer-user-id"] == "u1"
        assert request.headers["idempotency-key"] == "k1"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "identity"])
async def test_a_compressed_response_is_read(coding: str) -> None:
    """A compressed body is the same body."""
    plain = b'{"data":{"first_name":"Jane"}}'
    body = {"gzip": gzip.compress(plain), "deflate": zlib.compress(plain)}.get(coding, plain)
    async with (
        RawServer((reply(body=body, Content_Encoding=coding),)) as server,
        client_of(server) as client,
    ):
        profile = await client.v1.profiles.get(customer_user_id="u1")

    assert profile.first_name == "Jane"


LIMIT = 8 * 1024 * 1024
LARGE = {
    "with-length": (reply(body=b" " * 4 * LIMIT + b"{}", Request_Id="r1"),),
    "without-end": (OK + b"Request-Id: r1\r\n\r\n", *(b" " * 1024 * 1024,) * 64),
    "gzip-bomb": (
        reply(body=gzip.compress(b" " * 10 * LIMIT), Content_Encoding="gzip", Request_Id="r1"),
    ),
    "failure": (reply(500, body=b" " * 4 * LIMIT + b"{}", Request_Id="r1"),),
}


@pytest.mark.parametrize("steps", LARGE.values(), ids=LARGE)
async def test_a_response_that_is_too_large_is_an_error(steps: Steps) -> None:
    """Above 8 MiB reading stops, the connection is closed, and the call is not retried."""
    async with RawServer(then=steps) as server, client_of(server) as client:
        with pytest.raises(DecodeError, match="response larger than 8388608 bytes") as caught:
            await CALLS["GET"](client)
        await server.until_left()

        assert len(server.requests) == 1
    assert caught.value.attempts == 1
    assert caught.value.operation == "v1.profiles.get"
    assert caught.value.request_id == "r1"


async def test_a_response_just_below_the_limit_is_read() -> None:
    """8 MiB are allowed, including white space."""
    body = b" " * (LIMIT - 2) + b"{}"
    async with RawServer((reply(body=body),)) as server, client_of(server) as client:
        await CALLS["GET"](client)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    """A redirect ends the call, and the other server receives neither key nor id."""
    async with RawServer() as other:
        async with (
            RawServer(then=(reply(status, Location=f"{other.url}/elsewhere"),)) as server,
            client_of(server) as client,
        ):
            with pytest.raises(RequestRejectedError, match="a redirect, which is not") as caught:
                await CALLS["DELETE"](client)

            assert len(server.requests) == 1
            assert server.requests[0].headers["authorization"] == f"Api-Key {KEY}"
        assert other.connections == 0
    assert caught.value.status == status


THROTTLED = {
    "zero-seconds": {"Retry_After": "0"},
    "fraction": {"Retry_After": "0.05"},
    "date": {"Retry_After": formatdate(1e9, usegmt=True), "Date": formatdate(1e9, usegmt=True)},
    "date-in-the-past": {"Retry_After": formatdate(1e9, usegmt=True)},
    "junk": {"Retry_After": "soon"},
    "none": {},
}


@pytest.mark.parametrize("headers", THROTTLED.values(), ids=THROTTLED)
@every_method
async def test_a_throttled_request_is_retried(method: str, headers: dict[str, str]) -> None:
    """After a 429 the same request is retried, whatever it is and in any format of the wait."""
    async with (
        RawServer((api_error(429, "rate_limited", **headers),)) as server,
        client_of(server) as client,
    ):
        await CALLS[method](client)

        assert server.methods == [method] * 2
        assert server.connections == 1


async def test_a_retry_after_is_respected() -> None:
    """The retry comes no earlier than Retry-After says."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with (
        RawServer((api_error(429, "rate_limited", Retry_After="0.2"),)) as server,
        client_of(server) as client,
    ):
        await CALLS["GET"](client)

    assert loop.time() - started >= 0.2


async def test_a_wait_that_does_not_fit_is_not_started() -> None:
    """A Retry-After beyond the deadline is raised at once, with its seconds."""
    async with (
        RawServer((api_error(429, "rate_limited", Retry_After="30"),)) as server,
        client_of(server) as client,
    ):
        with pytest.raises(RateLimitError, match="status 429") as caught:
            await CALLS["GET"](client.with_options(deadline=20.0))

        assert len(server.requests) == 1
    assert caught.value.retry_after == 30.0


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@retriable
async def test_a_server_failure_is_retried(method: str, status: int) -> None:
    """A 5xx response, from the API or a gateway before it, is followed by one more request."""
    async with RawServer((page(status),)) as server, client_of(server) as client:
        await CALLS[method](client)

        assert server.methods == [method] * 2
        assert server.connections == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_create_is_not_retried_after_a_server_failure(status: int) -> None:
    """A 5xx response does not prove that nothing was created."""
    async with RawServer((page(status),)) as server, client_of(server) as client:
        with pytest.raises(ServerError, match=f"status {status}") as caught:
            await CALLS["POST"](client)

        assert len(server.requests) == 1
    assert caught.value.attempts == 1


async def test_a_create_is_retried_when_the_server_said_it_did_not_try() -> None:
    """503 with Retry-After means unprocessed."""
    async with RawServer((reply(503, Retry_After="0"),)) as server, client_of(server) as client:
        await CALLS["POST"](client)

        assert len(server.requests) == 2


async def test_a_page_that_is_not_the_apis_is_no_missing_profile() -> None:
    """404 in HTML is a wrong URL, not a deleted profile."""
    async with RawServer(then=(page(404),)) as server, client_of(server) as client:
        with pytest.raises(RequestRejectedError, match="not from the API: check base_url"):
            await CALLS["DELETE"](client)
        report = await client.v1.profiles.bulk_delete(["u1"], by="customer_user_id")

        assert len(server.requests) == 2
    assert (report.failed, report.absent) == (1, 0)


async def test_a_page_with_status_200_is_not_a_success() -> None:
    """A captive portal's page instead of JSON is a DecodeError for a call that returns a result."""
    async with RawServer(then=(page(200),)) as server, client_of(server) as client:
        with pytest.raises(DecodeError, match="unreadable response"):
            await CALLS["GET"](client)
        with pytest.raises(DecodeError, match="unreadable response") as caught:
            await CALLS["DELETE"](client)

        assert server.methods == ["GET", "DELETE"]
    assert caught.value.attempts == 1


@pytest.mark.parametrize("lost", [(RESET,), (CLOSE,), (page(502),)], ids=["reset", "closed", "502"])
async def test_a_delete_is_done_when_its_retry_finds_nothing(lost: Steps) -> None:
    """404 after an attempt with a lost response means that the attempt succeeded."""
    async with RawServer(lost, then=ABSENT) as server, client_of(server) as client:
        await client.v1.profiles.delete(customer_user_id="u1")

        assert server.methods == ["DELETE", "DELETE"]


@pytest.mark.parametrize("lost", [(RESET,), (CLOSE,), (page(502),)], ids=["reset", "closed", "502"])
async def test_a_mail_delete_by_email_alone_is_done_when_its_retry_finds_nothing(
    lost: Steps,
) -> None:
    """A retry by e-mail always returns 404, since the first attempt deleted the address."""
    missing = (api_error(404, "profile_not_found_error"),)
    async with (
        RawServer(lost, lost, then=missing) as server,
        AdaptyMailClient(
            KEY, base_url=server.url, retry=RetryPolicy(wait_initial=0.001, wait_max=0.001)
        ) as mail,
    ):
        await mail.profiles.delete(email="jane@example.com")

        assert server.methods == ["POST"] * 3
        assert {request.body for request in server.requests} == {b'{"email":"jane@example.com"}'}


async def test_a_lost_delete_is_done_in_a_bulk_run() -> None:
    """The same retry makes an item done; 404 at first makes it absent."""
    async with RawServer((RESET,), then=ABSENT) as server, client_of(server) as client:
        report = await client.v1.profiles.bulk_delete(
            ["u1", "u2"], by="customer_user_id", concurrency=1
        )

        assert server.identities == ["u1", "u1", "u2"]
    assert (report.done, report.absent, report.requests) == (1, 1, 3)


@pytest.mark.parametrize("first", [ABSENT, (reply(429, Retry_After="0"),)], ids=["404", "429"])
async def test_a_profile_that_is_missing_from_the_start_is_not_found(first: Steps) -> None:
    """404 stays NotFoundError if no attempt before it can have succeeded."""
    async with RawServer(first, then=ABSENT) as server, client_of(server) as client:
        with pytest.raises(NotFoundError, match="error_code profile_does_not_exist"):
            await client.v1.profiles.delete(customer_user_id="u1")


async def test_a_mail_save_is_retried_although_it_is_a_post() -> None:
    """The endpoint decides about retries, not the method; the body is the same each time."""
    profile = MailProfile(
        external_profile_id="p1", external_created_at="2026-01-01T00:00:00Z", email="j@example.com"
    )
    async with (
        RawServer((RESET,)) as server,
        AdaptyMailClient(KEY, base_url=server.url, retry=TWICE) as mail,
    ):
        await mail.profiles.save(profile)

        assert server.methods == ["POST", "POST"]
        assert server.requests[0].body == server.requests[1].body


@pytest.mark.parametrize(
    "steps",
    [
        (api_error(500, "internal"),),
        (page(502),),
        (reply(429),),
        (OK + b"Content-Length: 10\r\n\r\n", CLOSE),
        (RESET,),
        (STALL,),
    ],
    ids=["500", "502", "429", "truncated", "reset", "stall"],
)
async def test_a_failed_response_gives_its_connection_back_before_the_wait(steps: Steps) -> None:
    """While one call waits for its retry, another uses the only connection."""
    slow = RetryPolicy(attempts=2, deadline=1e9, wait_initial=1e6, wait_max=1e6)
    waiting = asyncio.Event()
    async with (
        RawServer(steps) as server,
        client_of(
            server,
            limits=Limits(connections=1),
            hooks=(lambda event: waiting.set() if hasattr(event, "wait") else None,),
        ) as client,
    ):
        first = asyncio.create_task(
            client.with_options(retry=slow, timeout=0.2).v1.profiles.get(customer_user_id="u1")
        )
        await waiting.wait()
        await CALLS["GET"](client)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

        assert len(server.requests) == 2
        assert server.most_active == 1


async def test_the_callers_deadline_ends_an_attempt() -> None:
    """An attempt has the rest of the deadline if that is less than the timeout."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with RawServer(then=(STALL,)) as server, client_of(server) as client:
        with pytest.raises(RequestTimeoutError, match=TIMEOUT) as caught:
            await CALLS["GET"](client.with_options(deadline=1.0))
        await server.until_left()

    assert caught.value.attempts == 1
    assert loop.time() - started < 20  # of the 30 s of an attempt


async def test_cancelling_a_call_closes_its_connection() -> None:
    """A call cancelled in flight leaves no task, no permit and no open connection."""
    before = own_tasks()
    async with (
        RawServer((STALL,), (reply(body=b"12345")[:-1], STALL)) as server,
        client_of(server, limits=Limits(connections=1)) as client,
    ):
        for arrived in (1, 2):
            call = asyncio.create_task(client.v1.profiles.get(customer_user_id="u1"))
            await server.until_arrived(arrived)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await server.until_left()
        await CALLS["GET"](client)

        assert own_tasks() == before


async def test_a_cancellation_is_not_lost_to_a_timeout() -> None:
    """A call that is cancelled when its attempt times out is cancelled, and not retried."""
    async with RawServer((STALL,)) as server, client_of(server) as client:
        call = asyncio.ensure_future(CALLS["GET"](client))
        await server.until_arrived(1)
        client._connections._open.get().timeouts._cancel_expired(math.inf)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        assert len(server.requests) == 1


async def test_responses_that_follow_one_another_are_not_mixed_up() -> None:
    """Bytes after a response are never taken for the response to the next request."""
    stray = reply(body=b'{"data":{"first_name":"Stray"}}')
    right = reply(body=b'{"data":{"first_name":"Right"}}')
    async with (
        RawServer((right + stray,), then=(right,)) as server,
        client_of(server) as client,
    ):
        names = [(await client.v1.profiles.get(customer_user_id="u1")).first_name for _ in range(3)]

    assert names == ["Right"] * 3


STRAY_RESPONSE = reply(body=b'{"data":{"first_name":"Stray"}}')
RIGHT_RESPONSE = reply(body=b'{"data":{"first_name":"Right"}}')


async def hear_of(server: RawServer) -> None:
    """Let a server continue from HOLD, and its clients receive the bytes that it then writes."""
    server.released.set()
    for _ in range(8):
        await asyncio.sleep(0)


@pytest.mark.parametrize("way", [{}, {"trust_env": True}], ids=["directly", "by-the-environment"])
async def test_a_response_without_a_request_is_not_the_next_one(way: dict[str, Any]) -> None:
    """Bytes that a server writes to an idle connection are the response to no later request."""
    async with (
        RawServer((RIGHT_RESPONSE, HOLD, STRAY_RESPONSE), then=(RIGHT_RESPONSE,)) as server,
        client_of(server, retry=ONCE, **way) as client,
    ):
        names = []
        for _ in range(4):
            names.append((await client.v1.profiles.get(customer_user_id="u1")).first_name)
            await hear_of(server)

        assert [request.connection for request in server.requests] == [1, 2, 2, 2]
    assert names == ["Right"] * 4


async def test_nothing_is_sent_while_all_connections_are_out_of_step() -> None:
    """A few connections are tried; if all have unread bytes, the call was surely not sent."""
    async with (
        RawServer(then=(RIGHT_RESPONSE, HOLD, STRAY_RESPONSE)) as server,
        client_of(server, retry=ONCE) as client,
    ):
        calls = [client.v1.profiles.get(customer_user_id="u1") for _ in range(4)]
        await asyncio.gather(*calls)
        assert server.connections == 4
        await hear_of(server)
        with pytest.raises(ConnectError, match="the server sent data before the request") as caught:
            await CALLS["POST"](client)
        await CALLS["POST"](client)

        assert server.methods == ["GET"] * 4 + ["POST"]
        assert server.connections == 5
    assert not caught.value.permanent


WHOLE_RESPONSES = [
    reply(body=b'{"data":{"first_name":"Jane"}}'),
    reply(204),
    reply(body=gzip.compress(b"{}"), Content_Encoding="gzip"),
    reply(body=b"{}", Content_Encoding="br"),
    reply(body=b"{}", Set_Cookie="a=b; Max-Age=soon; Domain=.."),
    reply(body=b"{}", Content_Type="text/html; charset=unheard-of"),
    reply(302, Location="http://[x y/"),
    reply(429, Retry_After="0"),
    OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n",
]
STRAY = [b"\r\n", b"\0", b":", b" ", b"\xff", OK + b"\r\n", b"Content-Length: -1\r\n"]


#: More than what the systems on both sides take before anybody reads it.
UNREAD_BODY = b"x" * 16 * 1024 * 1024


@pytest.mark.parametrize(("scheme", "early"), [("http", 413), ("https", 413), ("http", 200)])
async def test_a_response_is_read_before_the_request_was_read(
    scheme: str, early: int, self_signed: ssl.SSLContext
) -> None:
    """If a server responds to a large request early, neither its rest nor another one is sent."""
    tls = self_signed if scheme == "https" else None
    async with RawServer((UNREAD, STALL, reply(early)), then=(reply(204),), tls=tls) as server:
        async with sender(aiohttp.TCPConnector(ssl=tls is None)) as ask:
            for status, body in ((early, UNREAD_BODY), (204, None)):
                sent = a_request(url=f"{server.url}/", body=body)
                assert (await ask(sent, CallState())).status == status
        await server.until_left()

        assert server.methods == ["POST"]
        assert server.connections == 2


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_nothing_of_a_request_is_sent_after_it_was_given_up(
    scheme: str, self_signed: ssl.SSLContext
) -> None:
    """Bytes that the server had not read by then do not reach it later."""
    tls = self_signed if scheme == "https" else None
    async with RawServer((UNREAD, STALL, HOLD), tls=tls) as server:
        async with sender(aiohttp.TCPConnector(ssl=tls is None)) as ask:
            state = CallState()
            sent = asyncio.ensure_future(
                ask(a_request(url=f"{server.url}/", body=UNREAD_BODY), state)
            )
            while not (state.on_wire and server.connections):  # noqa: ASYNC110  there is no event
                await asyncio.sleep(0.001)
            sent.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sent
        server.released.set()
        await server.until_left()

        assert server.connections == 1
        assert server.requests == []


async def test_the_first_header_is_the_host() -> None:
    """RFC 9110 (7.2) requires it, and a proxy before the server may read nothing else."""
    async with RawServer() as server, client_of(server) as client:
        await CALLS["GET"](client)

    assert next(iter(server.requests[0].headers)) == "host"


async def test_a_request_without_a_body_has_a_length_unless_it_is_a_read() -> None:
    """RFC 9110 (8.6) asks for it, and some servers reject a request without one (411)."""
    async with RawServer() as server, client_of(server) as client:
        for method in ("GET", "DELETE"):
            await CALLS[method](client)

    assert [each.headers.get("content-length") for each in server.requests] == [None, "0"]


async def test_a_replaced_header_is_sent_instead_of_the_usual_one() -> None:
    """A header of `with_options` replaces the client's own in any case, for its calls only."""
    async with RawServer() as server, client_of(server) as client:
        await CALLS["GET"](client)
        await CALLS["GET"](client.with_options(headers={"user-agent": "mine", "x-trace": "t1"}))
        await CALLS["GET"](client)

    usual, other, after = (dict(request.headers) for request in server.requests)
    assert usual == after
    assert other == {**usual, "user-agent": "mine", "x-trace": "t1"}
    assert usual.keys() == {
        "host",
        "accept",
        "accept-encoding",
        "authorization",
        "content-type",
        "user-agent",
        "adapty-customer-user-id",
    }


@pytest.mark.parametrize("headers", [b"", b"Connection: upgrade\r\nUpgrade: websocket\r\n"])
async def test_nothing_is_sent_after_a_switch_to_another_protocol(headers: bytes) -> None:
    """No request asks for 101: it ends the call, and the data after it is no response."""
    switch = b"HTTP/1.1 101 Switching Protocols\r\n" + headers + b"\r\n"
    async with (
        RawServer((switch,), then=(RIGHT_RESPONSE,)) as server,
        client_of(server, retry=ONCE) as client,
    ):
        with pytest.raises(RequestRejectedError, match="status 101"):
            await CALLS["GET"](client)
        await CALLS["GET"](client)

        assert [request.connection for request in server.requests] == [1, 2]


async def test_a_switch_to_another_protocol_is_let_go_of_by_the_environment_too() -> None:
    """The connection is kept for the caller that asked for it, with a warning if none did."""
    asyncio.get_running_loop().set_debug(True)  # the warning needs it
    switch = b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    async with (
        RawServer((switch,)) as server,
        client_of(server, retry=ONCE, trust_env=True) as client,
    ):
        with pytest.raises(RequestRejectedError, match="status 101"):
            await CALLS["GET"](client)
        gc.collect()
        await server.until_left()


async def test_a_switch_to_another_protocol_is_let_go_of_by_a_given_session_too() -> None:
    """The connection is closed, and the next call of that session uses a new one."""
    switch = b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    async with (
        RawServer((switch,), then=(RIGHT_RESPONSE,)) as server,
        aiohttp.ClientSession() as session,
        client_of(server, retry=ONCE, session=session) as client,
    ):
        with pytest.raises(RequestRejectedError, match="status 101"):
            await CALLS["GET"](client)
        await CALLS["GET"](client)

        assert [request.connection for request in server.requests] == [1, 2]


async def test_a_status_below_100_is_a_response() -> None:
    """Only a status from 100 on is followed by another one."""
    strange = b"HTTP/1.1 099 Strange\r\nContent-Length: 2\r\n\r\n{}"
    async with RawServer((strange,)) as server, client_of(server, retry=ONCE) as client:
        with pytest.raises(RequestRejectedError, match="status 99"):
            await CALLS["GET"](client)


def damaged(response: bytes, random: Random) -> bytes:
    """Return a response with a few of its bytes changed, added or missing."""
    content = bytearray(response)
    for _ in range(random.randrange(4)):
        at = random.randrange(len(content))
        end = at + random.choice([0, 1, 8])
        content[at:end] = random.choice([*STRAY, random.randbytes(1), b""])
    return bytes(content)


@every_method
async def test_whatever_bytes_come_the_error_is_ours(method: str) -> None:
    """A server with malformed responses gets one request per call, with a result or our error."""
    random = Random(method)
    async with (
        RawServer(
            then=lambda _: (damaged(random.choice(WHOLE_RESPONSES), random), CLOSE)
        ) as server,
        client_of(server, retry=ONCE, timeout=5.0) as client,
    ):
        succeeded = 0
        for _ in range(300):
            with contextlib.suppress(TransportError, ApiError, DecodeError, CircuitOpenError):
                await CALLS[method](client)
                succeeded += 1

        assert len(server.requests) <= 300
    assert 0 < succeeded < 300
