"""
The standard HTTP path: senders over `ClientSession.request`, with classes of our own for requests.

They keep the invariants of `attempt`, which `ClientSession.request` alone does not:
- It retries an idempotent request itself if a kept connection is closed, so the server may receive
  a delete twice. An error of our own is therefore raised before aiohttp reaches that code.
- It takes a response that arrives on an idle connection for the response to the next request, and
  all later ones are off by one: a read would return another person's profile.
"""

from __future__ import annotations

import io
import urllib.request
from contextvars import ContextVar
from typing import Any

import aiohttp
import msgspec
import yarl
from aiohttp.connector import Connection
from multidict import CIMultiDict

from adapty_async._api.call import CallState, Request, Response
from adapty_async._http.attempt import (
    CONNECTIONS,
    DESYNCHRONISED,
    LARGE_BODY,
    SWITCHING,
    Kept,
    ReadBody,
    SendOnce,
    Target,
    may_be_unread,
    read_whole,
    record_use,
    target_of,
    translate,
)
from adapty_async.errors import ConnectError, ConnectionLostError


class _Attempt(msgspec.Struct):
    """
    An attempt over a session of the client's own.

    Attributes:
        state: the call state.
        kept: the protocols of the session that were used before.
        target: the parsed URL.
        transport: the transport of the connection; None before there is one.
    """

    state: CallState
    kept: Kept
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


#: The beginnings of the URLs of proxies that aiohttp supports.
PROXY_SCHEMES = ("http://", "https://")


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

    def update_cookies(self, cookies: Any) -> None:
        """Add none: cookies are off."""

    def update_transfer_encoding(self) -> None:
        """Add no header: a body is in memory, so its length is known."""

    def update_expect_continue(self, expect: bool = False) -> None:  # noqa: FBT001, FBT002  aiohttp's
        """Add no header: no request waits for a status 100."""

    def send(self, conn: Connection) -> Any:
        """Return an awaitable that sends the request; raise if the connection has unread bytes."""
        protocol: Any = conn.protocol
        if protocol.should_close:
            raise ConnectionDesyncError  # aiohttp closes the connection
        attempt = _CURRENT.get()
        state = attempt.state
        if state.on_wire:  # aiohttp would send it again
            raise ConnectionLostError("the connection broke (it was sent already)")
        attempt.transport = protocol.transport
        record_use(protocol, attempt.kept, state)
        state.sent()
        return aiohttp.ClientRequest.send(self, conn)  # `super()` takes 0.1 µs


class Reply(aiohttp.ClientResponse):
    """A response whose loss raises an error of our own, which aiohttp does not retry."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Read its status and headers."""
        try:
            return await super().start(connection)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            raise translate(error) from None


#: The options of a session for `session_sender`. They hold for all requests, so they are set here
#: once; aiohttp evaluates the arguments of a request each time.
SESSION_OPTIONS: dict[str, Any] = {
    "request_class": DesyncGuardRequest,
    "response_class": Reply,
    # the client's timeout scheduler bounds every phase
    "timeout": aiohttp.ClientTimeout(total=None),
}


def session_sender(
    session: aiohttp.ClientSession,
    kept: Kept,
    *,
    trust_env: bool,
    read_body: ReadBody | None = None,
) -> SendOnce:
    """
    Return a sender over a session of the client's own, made with `SESSION_OPTIONS`.

    The session's headers are those that all requests have in common. Without `read_body`, a body
    is read at once if it arrived with the headers. With it, the body is not decompressed.

    With `trust_env`, it sends requests through the proxies that the environment names. aiohttp's
    own option of that name also reads .netrc, and fails if that has a password for the host.
    """
    common = dict(session.headers).items()  # aiohttp adds them
    is_decompressed, read = read_body is None, read_body or read_whole

    async def send(request: Request, state: CallState) -> Response:
        target = target_of(request.url)
        options: dict[str, Any] = {
            "headers": dict(request.headers.items() - common),
            "allow_redirects": False,
            "auto_decompress": is_decompressed,
        }
        if request.body is not None:
            options["data"] = _data_of(request.body)
        if trust_env:
            options["proxy"] = _environment_proxy(target.url)
        attempt = _Attempt(state, kept, target)
        token = _CURRENT.set(attempt)
        response: aiohttp.ClientResponse | None = None
        try:
            try:
                response = await session.request(request.method, target.url, **options)
            except ConnectionDesyncError:
                response = await _over_another(session, request.method, target.url, options)
            body = await read(response, request)
        except BaseException:
            attempt.abort(response)
            raise
        finally:
            _CURRENT.reset(token)
        if response.status == SWITCHING or may_be_unread(
            request, response.status, attempt.transport
        ):
            attempt.abort(response)
        return Response(response.status, response.headers, body)

    return send


def _environment_proxy(url: yarl.URL) -> str | None:
    """
    Return the proxy that the environment names for a URL; None without one.

    Raises:
        ConnectError: aiohttp does not support the proxy. Without this check, its error would count
            as a lost response, or it would connect to a SOCKS proxy as to one of HTTP.
    """
    if urllib.request.proxy_bypass(url.host or ""):
        return None
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy is not None and not proxy.lower().startswith(PROXY_SCHEMES):
        text = f"cannot connect ({url.scheme}_proxy does not begin with http:// or https://)"
        raise ConnectError(text, permanent=True)
    return proxy


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
    return body if body is None or len(body) <= LARGE_BODY else io.BytesIO(body)


def given_session_sender(
    session: aiohttp.ClientSession, read_body: ReadBody | None = None
) -> SendOnce:
    """
    Return a sender over a session of the caller's, with its proxies and timeouts.

    With `read_body`, bodies are not decompressed.

    A session does not report when it has a connection. An attempt therefore counts as on the wire
    from the call of the session on, until the session raises that it could not connect.
    """

    async def send(request: Request, state: CallState) -> Response:
        state.sent()
        try:
            response = await session.request(
                request.method,
                target_of(request.url).url,
                data=_data_of(request.body),
                headers=request.headers,
                allow_redirects=False,
                # these two override the session's options
                auto_decompress=read_body is None,
                raise_for_status=False,
                middlewares=(_send_once,),
            )
        except ConnectError:
            state.unsent()
            raise
        body = await _body_or_close(response, request, read_body)
        if response.status == SWITCHING:
            response.close()  # aiohttp leaves that to the caller
        return Response(response.status, response.headers, body)

    return send


async def _body_or_close(
    response: aiohttp.ClientResponse, request: Request, read_body: ReadBody | None
) -> bytes:
    try:
        return await (read_body or read_whole)(response, request)
    except BaseException:
        response.close()
        raise


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    try:
        return await handler(request)
    except (aiohttp.ClientError, OSError) as error:
        raise translate(error) from None
