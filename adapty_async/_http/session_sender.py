"""
One attempt over aiohttp's public API: a request out, its whole response in, errors translated.

Laws:
- A request goes over the wire at most once per attempt. `ClientSession.request` retries an
  idempotent one by itself when a kept connection turns out to be closed, so the server may see a
  delete twice. An error of our own is therefore raised before aiohttp reaches that code.
- A response belongs to the request before it. aiohttp takes a response that arrives on an idle
  connection for the response to the next request, and is one off from then on: a read would return
  somebody else's profile. So nothing is sent over a connection on which something is unread.
- `Tally.on_wire` is set before the first byte can be written. An attempt that ends without it was
  surely not sent.
- No exception that leaves this module holds a frame of aiohttp's: headers and bodies are among
  their locals, and some tools print the locals of every frame.
"""

from __future__ import annotations

import asyncio
import functools
import io
import ssl
import urllib.request
import weakref
from collections.abc import Awaitable, Callable, ItemsView
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeAlias

import aiohttp
import msgspec
import yarl
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict

from adapty_async._api.operation import CallState, Request, Response
from adapty_async._http.timeouts import TimeoutScheduler
from adapty_async.errors import (
    AdaptyError,
    ConnectError,
    ConnectionLostError,
    DecodeError,
    RequestTimeoutError,
    TransportError,
    strip_traceback,
)

__all__ = (
    "CONNECTIONS",
    "OUT_OF_STEP",
    "SESSION_OPTIONS",
    "SWITCHING",
    "DesyncGuardRequest",
    "Kept",
    "Reply",
    "SendOnce",
    "Target",
    "ask_given",
    "ask_own",
    "exchange",
    "is_kept",
    "may_be_unread",
    "read",
    "read_now",
    "target_of",
)

SendOnce: TypeAlias = Callable[[Request], Awaitable[Response]]
#: The protocols of one session over which a request went before.
Kept: TypeAlias = set["weakref.ref[Any]"]

_BODY_LIMIT = 8 * 1024 * 1024
#: How many connections are looked at for one on which nothing is waiting to be read.
CONNECTIONS = 3
OUT_OF_STEP = "the server spoke before it was asked"
#: The one status below 200 that no other one follows. It is never asked for, and whatever comes
#: over the connection after it is no response.
SWITCHING = 101
# Bytes of a request's body that a server may refuse without having read them.
_LARGE_BODY = 64 * 1024
# What aiohttp raises; TimeoutError is an OSError.
_FOREIGN = (aiohttp.ClientError, HttpProcessingError, OSError, EOFError)


def is_kept(protocol: Any, kept: Kept) -> bool:
    """Return whether a request went over a connection before, and note that one does now."""
    if weakref.ref(protocol) in kept:
        return True
    kept.add(weakref.ref(protocol, kept.discard))
    return False


class Target(NamedTuple):
    """
    A URL, with what is sent of it: what the request line has, and the headers that begin with it.
    """

    url: yarl.URL
    origin: yarl.URL
    path: str
    headers: CIMultiDict[str]


@functools.lru_cache(maxsize=1024)
def target_of(url: str) -> Target:
    """Parse a URL that is encoded already."""
    parsed = yarl.URL(url, encoded=True)
    headers = CIMultiDict({"Host": parsed.host_port_subcomponent or ""})
    headers.update(aiohttp.ClientRequest.DEFAULT_HEADERS)
    return Target(parsed, parsed.origin(), parsed.raw_path_qs, headers)


async def exchange(
    ask: SendOnce, watch: TimeoutScheduler, request: Request, seconds: float
) -> Response | AdaptyError:
    """Return the response or the error; neither refers to an object of aiohttp's."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  coroutines run in tasks
    tally = request.state
    tally.on_wire = tally.reused = False
    cancelled_before = task.cancelling()
    watch.schedule(task, seconds, tally)
    try:
        return await ask(request)
    except _FOREIGN as error:
        return _unless_written(tally, _translate(error))
    except BaseException as error:
        strip_traceback(error)
        if isinstance(error, AdaptyError):
            return error
        is_late = isinstance(error, asyncio.CancelledError) and watch.expired(task)
        if is_late and task.cancelling() == cancelled_before + 1:  # nobody else cancelled it
            return _timed_out(tally)
        raise
    finally:
        watch.cancel(task)


def _unless_written(tally: CallState, error: TransportError) -> TransportError:
    """Return the error, or one that says that the server has nothing of the request."""
    if tally.on_wire or isinstance(error, ConnectError):
        return error
    return ConnectError(f"cannot connect ({error.args[0]})")


def _timed_out(tally: CallState) -> TransportError:
    if tally.on_wire:
        return RequestTimeoutError("no answer in time")
    return ConnectError("cannot connect (timed out)")


class _Attempt(msgspec.Struct):
    """
    An attempt over a session of the client's own.

    Attributes:
        kept: the protocols of the session over which a request went before.
        prepare: called with the transport of a new connection.
        target: where it goes.
        transport: of the connection that it goes over.
    """

    tally: CallState
    kept: Kept
    prepare: Callable[[Any], None]
    target: Target
    transport: Any = None

    def abort(self, answer: aiohttp.ClientResponse | None) -> None:
        """
        Close the connection at once, if there is one: in order, it would send what is not sent yet.
        """
        if self.transport is not None:
            self.transport.abort()
        if answer is not None:
            answer.close()


# The attempt that the present task makes: aiohttp calls `InStep.send` in it and passes nothing on.
_CURRENT: ContextVar[_Attempt] = ContextVar("adapty_async_attempt")


class ConnectionDesyncError(Exception):
    """There is something to read before anything was asked."""


class DesyncGuardRequest(aiohttp.ClientRequest):
    """
    A request that is sent only once, and over a connection on which nothing is unread.

    Its headers are complete, so nothing is looked up for each of them.
    """

    def update_headers(self, headers: Any) -> None:
        """Take the headers over, behind those that every request to this URL begins with."""
        merged = CIMultiDict(_CURRENT.get().target.headers)
        merged.update(headers)
        self.headers = merged

    def update_auto_headers(self, skip_auto_headers: Any) -> None:
        """Add none: those that aiohttp adds are there."""

    def send(self, conn: Connection) -> Any:
        """Return what sends it, when awaited at once, unless there is something to read already."""
        protocol: Any = conn.protocol
        if protocol.should_close:
            raise ConnectionDesyncError  # aiohttp closes the connection
        attempt = _CURRENT.get()
        tally = attempt.tally
        if tally.on_wire:  # aiohttp would send it again
            raise ConnectionLostError("the connection broke (it was sent already)")
        transport = attempt.transport = conn.transport
        if is_kept(protocol, attempt.kept):
            tally.reused = True
        else:
            attempt.prepare(transport)
        tally.on_wire = True
        return super().send(conn)


class Reply(aiohttp.ClientResponse):
    """A response whose loss is an error of our own, which aiohttp does not answer with a retry."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Read its status and headers."""
        try:
            return await super().start(connection)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            raise _translate(error) from None


#: How `ask_own` needs its session to be made. What is the same for all requests is set here once,
#: as aiohttp works out what is passed with a request each time.
SESSION_OPTIONS: dict[str, Any] = {
    "request_class": DesyncGuardRequest,
    "response_class": Reply,
    "timeout": aiohttp.ClientTimeout(total=None),  # the client's watch bounds every phase
}


def ask_own(
    session: aiohttp.ClientSession, prepare: Callable[[Any], None], *, trust_env: bool
) -> SendOnce:
    """
    Send requests through a session of the client's own, made with `SESSION_OPTIONS`.

    The session's headers are those that all requests have in common; aiohttp adds them.

    With `trust_env` they go through the proxies that the environment names. aiohttp's own option of
    that name reads .netrc as well, and fails if that has a password for the host.
    """
    kept: Kept = set()
    common = dict(session.headers).items()

    async def ask(request: Request) -> Response:
        target = target_of(request.url)
        options = _options_of(request, common)
        if trust_env:
            options["proxy"] = _environment_proxy(target.url)
        attempt = _Attempt(request.state, kept, prepare, target)
        token = _CURRENT.set(attempt)
        answer: aiohttp.ClientResponse | None = None
        try:
            try:
                answer = await session.request(request.method, target.url, **options)
            except ConnectionDesyncError:
                answer = await _over_another(session, request.method, target.url, options)
            status = answer.status
            body = read_now(answer.content)
            if body is None:
                body = await read(answer.content, request, status)
        except BaseException:
            attempt.abort(answer)
            raise
        finally:
            _CURRENT.reset(token)
        if status == SWITCHING or may_be_unread(request, status, attempt.transport):
            attempt.abort(answer)
        return Response(status, answer.headers, body)

    return ask


def _options_of(request: Request, common: ItemsView[str, str]) -> dict[str, Any]:
    """Return what is passed with a request: nothing that is aiohttp's default, or its session's."""
    headers = dict(request.headers.items() - common)
    options: dict[str, Any] = {"headers": headers, "allow_redirects": False}
    if request.body is not None:
        options["data"] = _data_of(request.body)
    return options


def _environment_proxy(url: yarl.URL) -> str | None:
    if urllib.request.proxy_bypass(url.host or ""):
        return None
    return urllib.request.getproxies().get(url.scheme)


async def _over_another(
    session: aiohttp.ClientSession, method: str, url: yarl.URL, options: dict[str, Any]
) -> aiohttp.ClientResponse:
    """Send a request over another connection than the one on which something is unread."""
    for _ in range(CONNECTIONS - 1):
        try:
            return await session.request(method, url, **options)
        except ConnectionDesyncError:
            continue

    raise ConnectError(OUT_OF_STEP)


def _data_of(body: bytes | None) -> bytes | io.BytesIO | None:
    """Return a body as aiohttp takes it without a warning."""
    return body if body is None or len(body) <= _LARGE_BODY else io.BytesIO(body)


def may_be_unread(request: Request, status: int, transport: Any) -> bool:
    """
    Return whether the server may have responded before it had the whole body.

    Bytes that TLS has still to write are not visible: they wait in a transport below.
    """
    if not request.body:
        return False
    if status >= 300 and len(request.body) > _LARGE_BODY:
        return True
    return transport is not None and transport.get_write_buffer_size() > 0


def ask_given(session: aiohttp.ClientSession) -> SendOnce:
    """
    Send requests the way a session of the caller's was made for: with its proxies, its timeouts.

    A session does not report when it has a connection. An attempt therefore counts as on the wire
    from the call of the session on, until the session raises that it could not connect.
    """

    async def ask(request: Request) -> Response:
        tally = request.state
        tally.on_wire = True
        try:
            answer = await session.request(
                request.method,
                target_of(request.url).url,
                data=_data_of(request.body),
                headers=request.headers,
                allow_redirects=False,
                auto_decompress=True,  # this and the next whatever the session was made with
                raise_for_status=False,
                middlewares=(_send_once,),
            )
        except ConnectError:
            tally.on_wire = False
            raise
        body = await _body_or_close(answer, request)
        if answer.status == SWITCHING:
            answer.close()  # aiohttp leaves that to whoever wanted to switch
        return Response(answer.status, answer.headers, body)

    return ask


async def _body_or_close(answer: aiohttp.ClientResponse, request: Request) -> bytes:
    try:
        body = read_now(answer.content)
        return await read(answer.content, request, answer.status) if body is None else body
    except BaseException:
        answer.close()
        raise


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    try:
        return await handler(request)
    except (aiohttp.ClientError, OSError) as error:
        raise _translate(error) from None


def read_now(content: aiohttp.StreamReader) -> bytes | None:
    """Return a whole body if it came with the headers, else None."""
    if content.at_eof():
        return b""
    return content.read_nowait() if content.is_eof() else None  # no more than was read at once


async def read(content: aiohttp.StreamReader, request: Request, status: int) -> bytes:
    """
    Read a whole body.

    Raises:
        DecodeError: it is larger than 8 MiB.
    """
    chunks: list[bytes] = []
    size = 0
    async for chunk in content.iter_any():
        size += len(chunk)
        if size > _BODY_LIMIT:
            raise DecodeError(
                f"status {status}, answer larger than {_BODY_LIMIT} bytes",
                operation=request.operation,
                status=status,
            )
        chunks.append(chunk)

    return b"".join(chunks)


def _translate(error: Exception) -> TransportError:
    """Say what a foreign error means for the request: surely unsent, out of time, or lost."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ServerFingerprintMismatch():
            return ConnectError("the server's certificate is not accepted", permanent=True)
        case aiohttp.ClientHttpProxyError(status=407):
            return ConnectError("the proxy demands a password", permanent=True)
        case aiohttp.ClientConnectorError() | aiohttp.ClientHttpProxyError():
            return ConnectError(f"cannot connect ({_cause(error)})")
        case aiohttp.ConnectionTimeoutError():
            return ConnectError("cannot connect (timed out)")
        case TimeoutError():
            return RequestTimeoutError("no answer in time")
        case _:
            return ConnectionLostError(f"the connection broke ({_cause(error)})")


def _cause(error: Exception) -> str:
    inner = getattr(error, "os_error", error)
    if isinstance(inner, ssl.SSLError):
        return "TLS failed"
    return getattr(inner, "strerror", None) or type(inner).__name__
