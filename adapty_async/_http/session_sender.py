"""
A sender over aiohttp's public API, which sends a request, reads its response, translates errors.

Invariants:
- A request is sent at most once per attempt. `ClientSession.request` itself retries an idempotent
  request if a kept connection is closed, so the server may receive a delete twice. An error of our
  own is therefore raised before aiohttp reaches that code.
- A response belongs to the request before it. aiohttp takes a response that arrives on an idle
  connection for the response to the next request, and all later ones are off by one: a read would
  return another person's profile. So nothing is sent over a connection with unread bytes.
- `CallState.on_wire` is set before the first byte can be written. An attempt that ends without it
  was surely not sent.
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
    "DESYNCHRONISED",
    "SESSION_OPTIONS",
    "SWITCHING",
    "DesyncGuardRequest",
    "Kept",
    "ReadBody",
    "Reply",
    "SendOnce",
    "Target",
    "ask_given",
    "exchange",
    "is_kept",
    "may_be_unread",
    "read",
    "read_now",
    "read_whole",
    "session_sender",
    "target_of",
)

SendOnce: TypeAlias = Callable[[Request], Awaitable[Response]]
#: The protocols of one session over which a request went before.
Kept: TypeAlias = set["weakref.ref[Any]"]
#: Reads the body of a response with this status, and returns what the decoder needs of it.
ReadBody: TypeAlias = Callable[[aiohttp.StreamReader, Request, int], Awaitable[bytes]]

_BODY_LIMIT = 8 * 1024 * 1024
#: Maximum number of connections that are tried to find one without unread bytes.
CONNECTIONS = 3
DESYNCHRONISED = "the server sent data before the request"
#: The one status below 200 that is final. No request asks for it, and data that follows it on the
#: connection is no response.
SWITCHING = 101
# Maximum bytes of a request's body that a server is assumed to read before it rejects it.
_LARGE_BODY = 64 * 1024
# Exceptions of aiohttp; TimeoutError is an OSError.
_FOREIGN = (aiohttp.ClientError, HttpProcessingError, OSError, EOFError)


def is_kept(protocol: Any, kept: Kept) -> bool:
    """Return whether a connection was used before, and record that it is used now."""
    if weakref.ref(protocol) in kept:
        return True
    kept.add(weakref.ref(protocol, kept.discard))
    return False


class Target(NamedTuple):
    """A parsed URL: its origin, the path of the request line, and the headers for each request."""

    url: yarl.URL
    origin: yarl.URL
    path: str
    headers: CIMultiDict[str]


@functools.lru_cache(maxsize=1024)
def target_of(url: str) -> Target:
    """Parse an encoded URL."""
    parsed = yarl.URL(url, encoded=True)
    headers = CIMultiDict({"Host": parsed.host_port_subcomponent or ""})
    headers.update(aiohttp.ClientRequest.DEFAULT_HEADERS)
    return Target(parsed, parsed.origin(), parsed.raw_path_qs, headers)


async def exchange(
    send: SendOnce, timeouts: TimeoutScheduler, request: Request, seconds: float
) -> Response | AdaptyError:
    """Return the response or the error; neither refers to an object of aiohttp's."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  coroutines run in tasks
    state = request.state
    state.on_wire = state.reused = False
    cancelled_before = task.cancelling()
    timeouts.schedule(task, seconds, state)
    try:
        return await send(request)
    except _FOREIGN as error:
        return _unless_written(state, _translate(error))
    except BaseException as error:
        strip_traceback(error)
        if isinstance(error, AdaptyError):
            return error
        is_late = isinstance(error, asyncio.CancelledError) and timeouts.expired(task)
        if is_late and task.cancelling() == cancelled_before + 1:  # by the scheduler alone
            return _timed_out(state)
        raise
    finally:
        timeouts.cancel(task)


def _unless_written(state: CallState, error: TransportError) -> TransportError:
    """Return the error, or a `ConnectError` if no byte of the request was sent."""
    if state.on_wire or isinstance(error, ConnectError):
        return error
    return ConnectError(f"cannot connect ({error.args[0]})")


def _timed_out(state: CallState) -> TransportError:
    if state.on_wire:
        return RequestTimeoutError("no response in time")
    return ConnectError("cannot connect (timed out)")


class _Attempt(msgspec.Struct):
    """
    An attempt over a session of the client's own.

    Attributes:
        state: the call state.
        kept: the protocols of the session that were used before.
        prepare: called with the transport of a new connection.
        target: the parsed URL.
        transport: the transport of the connection; None before there is one.
    """

    state: CallState
    kept: Kept
    prepare: Callable[[Any], None]
    target: Target
    transport: Any = None

    def abort(self, response: aiohttp.ClientResponse | None) -> None:
        """Abort the connection, if there is one; an orderly close would send the unsent bytes."""
        if self.transport is not None:
            self.transport.abort()
        if response is not None:
            response.close()


# The attempt of the current task; aiohttp calls `DesyncGuardRequest.send` in it without arguments
# of ours.
_CURRENT: ContextVar[_Attempt] = ContextVar("adapty_async_attempt")


class ConnectionDesyncError(Exception):
    """An error for unread bytes on a connection before a request."""


class DesyncGuardRequest(aiohttp.ClientRequest):
    """
    A request that is sent only once, and over a connection without unread bytes.

    Its headers are complete, so aiohttp looks up no defaults for them.
    """

    def update_headers(self, headers: Any) -> None:
        """Set the headers, after those that all requests to this URL have in common."""
        merged = CIMultiDict(_CURRENT.get().target.headers)
        merged.update(headers)
        self.headers = merged

    def update_auto_headers(self, skip_auto_headers: Any) -> None:
        """Add none: aiohttp's automatic headers are set already."""

    def send(self, conn: Connection) -> Any:
        """Return an awaitable that sends the request; raise if the connection has unread bytes."""
        protocol: Any = conn.protocol
        if protocol.should_close:
            raise ConnectionDesyncError  # aiohttp closes the connection
        attempt = _CURRENT.get()
        state = attempt.state
        if state.on_wire:  # aiohttp would send it again
            raise ConnectionLostError("the connection broke (it was sent already)")
        transport = attempt.transport = conn.transport
        if is_kept(protocol, attempt.kept):
            state.reused = True
        else:
            attempt.prepare(transport)
        state.on_wire = True
        return super().send(conn)


class Reply(aiohttp.ClientResponse):
    """A response whose loss raises an error of our own, which aiohttp does not retry."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Read its status and headers."""
        try:
            return await super().start(connection)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            raise _translate(error) from None


#: The options of a session for `session_sender`. They hold for all requests, so they are set here
#: once; aiohttp evaluates the arguments of a request each time.
SESSION_OPTIONS: dict[str, Any] = {
    "request_class": DesyncGuardRequest,
    "response_class": Reply,
    "timeout": aiohttp.ClientTimeout(
        total=None
    ),  # the client's timeout scheduler bounds every phase
}


def read_now(content: aiohttp.StreamReader) -> bytes | None:
    """Return a whole body if it arrived with the headers, otherwise None."""
    if content.at_eof():
        return b""
    return content.read_nowait() if content.is_eof() else None  # no more than was read at once


async def read(content: aiohttp.StreamReader, request: Request, status: int) -> bytes:
    """
    Read a whole body.

    Raises:
        DecodeError: the body is larger than 8 MiB.
    """
    chunks: list[bytes] = []
    size = 0
    async for chunk in content.iter_any():
        size += len(chunk)
        if size > _BODY_LIMIT:
            raise DecodeError(
                f"status {status}, response larger than {_BODY_LIMIT} bytes",
                operation=request.operation,
                status=status,
            )
        chunks.append(chunk)

    return b"".join(chunks)


async def read_whole(content: aiohttp.StreamReader, request: Request, status: int) -> bytes:
    """Read a whole body, at once if it arrived with the headers."""
    body = read_now(content)
    return await read(content, request, status) if body is None else body


def session_sender(
    session: aiohttp.ClientSession,
    prepare: Callable[[Any], None],
    *,
    trust_env: bool,
    kept: Kept | None = None,
    read_body: ReadBody = read_whole,
) -> SendOnce:
    """
    Return a sender over a session of the client's own, made with `SESSION_OPTIONS`.

    The session's headers are those that all requests have in common; aiohttp adds them.

    With `trust_env`, it sends requests through the proxies that the environment names. aiohttp's
    own option of that name also reads .netrc, and fails if that has a password for the host.
    """
    kept = set() if kept is None else kept
    common = dict(session.headers).items()

    async def send(request: Request) -> Response:
        target = target_of(request.url)
        options = _options_of(request, common)
        if trust_env:
            options["proxy"] = _environment_proxy(target.url)
        attempt = _Attempt(request.state, kept, prepare, target)
        token = _CURRENT.set(attempt)
        response: aiohttp.ClientResponse | None = None
        try:
            try:
                response = await session.request(request.method, target.url, **options)
            except ConnectionDesyncError:
                response = await _over_another(session, request.method, target.url, options)
            status = response.status
            body = await read_body(response.content, request, status)
        except BaseException:
            attempt.abort(response)
            raise
        finally:
            _CURRENT.reset(token)
        if status == SWITCHING or may_be_unread(request, status, attempt.transport):
            attempt.abort(response)
        return Response(status, response.headers, body)

    return send


def _options_of(request: Request, common: ItemsView[str, str]) -> dict[str, Any]:
    """Return the options of a request, without the defaults of aiohttp and of its session."""
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
    """Send a request over another connection than the one with unread bytes."""
    for _ in range(CONNECTIONS - 1):
        try:
            return await session.request(method, url, **options)
        except ConnectionDesyncError:
            continue

    raise ConnectError(DESYNCHRONISED)


def _data_of(body: bytes | None) -> bytes | io.BytesIO | None:
    """Return a body in a type that aiohttp accepts without a warning."""
    return body if body is None or len(body) <= _LARGE_BODY else io.BytesIO(body)


def may_be_unread(request: Request, status: int, transport: Any) -> bool:
    """
    Return whether the server may have responded before it had the whole body.

    Unwritten bytes of TLS are not visible: they are in an underlying transport.
    """
    if not request.body:
        return False
    if status >= 300 and len(request.body) > _LARGE_BODY:
        return True
    return transport is not None and transport.get_write_buffer_size() > 0


def ask_given(session: aiohttp.ClientSession, read_body: ReadBody = read_whole) -> SendOnce:
    """
    Return a sender over a session of the caller's, with its proxies and timeouts.

    A session does not report when it has a connection. An attempt therefore counts as on the wire
    from the call of the session on, until the session raises that it could not connect.
    """

    async def send(request: Request) -> Response:
        state = request.state
        state.on_wire = True
        try:
            response = await session.request(
                request.method,
                target_of(request.url).url,
                data=_data_of(request.body),
                headers=request.headers,
                allow_redirects=False,
                auto_decompress=True,  # this and the next override the session's options
                raise_for_status=False,
                middlewares=(_send_once,),
            )
        except ConnectError:
            state.on_wire = False
            raise
        body = await _body_or_close(response, request, read_body)
        if response.status == SWITCHING:
            response.close()  # aiohttp leaves that to the caller
        return Response(response.status, response.headers, body)

    return send


async def _body_or_close(
    response: aiohttp.ClientResponse, request: Request, read_body: ReadBody
) -> bytes:
    try:
        return await read_body(response.content, request, response.status)
    except BaseException:
        response.close()
        raise


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    try:
        return await handler(request)
    except (aiohttp.ClientError, OSError) as error:
        raise _translate(error) from None


def _translate(error: Exception) -> TransportError:
    """Translate a foreign error: the request was surely not sent, timed out, or lost."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ServerFingerprintMismatch():
            return ConnectError("the server's certificate is not accepted", permanent=True)
        case aiohttp.ClientHttpProxyError(status=407):
            return ConnectError("the proxy requires a password", permanent=True)
        case aiohttp.ClientConnectorError() | aiohttp.ClientHttpProxyError():
            return ConnectError(f"cannot connect ({_cause(error)})")
        case aiohttp.ConnectionTimeoutError():
            return ConnectError("cannot connect (timed out)")
        case TimeoutError():
            return RequestTimeoutError("no response in time")
        case _:
            return ConnectionLostError(f"the connection broke ({_cause(error)})")


def _cause(error: Exception) -> str:
    inner = getattr(error, "os_error", error)
    if isinstance(inner, ssl.SSLError):
        return "TLS failed"
    return getattr(inner, "strerror", None) or type(inner).__name__
