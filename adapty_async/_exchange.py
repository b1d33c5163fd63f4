"""
One request over aiohttp: out, its whole answer in, aiohttp's errors into ours.

Laws:
- A request that is handed to this module goes over the wire once at most. `ClientSession.request`
  repeats an idempotent one by itself when a kept-alive connection turns out to be dropped, so the
  server may see a delete twice; a middleware raises our own error before that code is reached.
- An answer belongs to the request it follows. aiohttp hands an answer that arrives while a
  connection is idle to the next request on it, and is one off from then on: a read would give
  somebody else's profile. So nothing is sent over a connection on which something is waiting.
- Whatever leaves this module as an exception has left aiohttp's frames behind: headers and bodies
  are among their locals, and there are tools that print the locals of every frame.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import aiohttp
import yarl
from aiohttp import hdrs
from aiohttp.connector import Connection
from multidict import CIMultiDict

from adapty_async._operation import Request, Response
from adapty_async._watch import Watch
from adapty_async.errors import (
    AdaptyError,
    ConnectError,
    ConnectionLostError,
    DecodeError,
    RequestTimeoutError,
    TransportError,
    bare,
)

__all__ = ("Ask", "InStep", "ask_directly", "ask_environment", "ask_given", "exchange")

Ask: TypeAlias = Callable[[aiohttp.ClientSession, Request], Awaitable[aiohttp.ClientResponse]]

_BODY_LIMIT = 8 * 1024 * 1024
_CONNECT_SECONDS = 10.0
_READ_SIZE = 64 * 1024
"""
Bytes that asyncio makes room for at each read, before it knows how many come. Its own 256 KiB are
given back to the operating system each time: 18 of 75 µs for a small answer (Python 3.11, Linux).
TLS and uvloop read in another way.
"""
_CONNECTIONS = 3
"""
How many connections are looked at for one on which nothing is waiting to be read.
"""
_OUT_OF_STEP = "the server spoke before it was asked"


@functools.lru_cache(maxsize=64)
def _timeouts(seconds: float) -> aiohttp.ClientTimeout:
    """
    Bound connecting alone, and below the whole attempt, so that it is told from a lost answer.
    """
    return aiohttp.ClientTimeout(sock_connect=min(_CONNECT_SECONDS, 0.9 * seconds))


_parse_url = functools.lru_cache(maxsize=1024)(functools.partial(yarl.URL, encoded=True))


async def exchange(
    ask: Ask, session: aiohttp.ClientSession, watch: Watch, request: Request, seconds: float
) -> Response | AdaptyError:
    """
    Return the answer, or why there is none; nothing that is returned or raised knows aiohttp.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  coroutines run in tasks
    cancelled_before = task.cancelling()
    watch.start(task, seconds)
    try:
        answer = await ask(session, request)
        return Response(answer.status, answer.headers, await _body_of(answer, request))
    except (aiohttp.ClientError, OSError, EOFError) as error:  # TimeoutError is an OSError
        return _translate(error)
    except BaseException as error:
        bare(error)
        if isinstance(error, AdaptyError):
            return error
        is_late = isinstance(error, asyncio.CancelledError) and watch.is_late(task)
        if is_late and task.cancelling() == cancelled_before + 1:  # nobody else cancelled it
            return RequestTimeoutError("no answer in time")
        raise
    finally:
        watch.stop(task)


def ask_given(
    session: aiohttp.ClientSession, request: Request
) -> Awaitable[aiohttp.ClientResponse]:
    """
    Send a request the way a session of the caller's was made for: with its proxies, its timeouts.
    """
    return _ask(session, request, session.timeout)


def ask_environment(
    session: aiohttp.ClientSession, request: Request
) -> Awaitable[aiohttp.ClientResponse]:
    """
    Send a request with the proxies and passwords that the environment names.
    """
    return _ask(session, request, _timeouts(request.timeout))


async def _ask(
    session: aiohttp.ClientSession, request: Request, timeouts: aiohttp.ClientTimeout
) -> aiohttp.ClientResponse:
    return await session.request(
        request.method,
        _parse_url(request.url),
        data=request.body,
        headers=request.headers,
        allow_redirects=False,
        timeout=timeouts,
        auto_decompress=True,  # this and the next whatever a given session was made with
        raise_for_status=False,
        middlewares=(_send_once,),
    )


async def ask_directly(session: aiohttp.ClientSession, request: Request) -> aiohttp.ClientResponse:
    """
    Send a request over one of the session's connections, and nothing but that.

    What `ClientSession.request` does beside it costs 19 of 58 µs, and none of it is wanted here:
    redirects, cookies, proxies, traces, repeats (Python 3.11, uvloop; on asyncio 27 of 84).
    """
    outgoing = InStep(
        request.method,
        _parse_url(request.url),
        data=request.body,
        headers=request.headers,
        loop=asyncio.get_running_loop(),
        session=session,
    )
    for _ in range(_CONNECTIONS):
        try:
            return await _send(session.connector, outgoing, _timeouts(request.timeout))
        except _OutOfStepError:
            continue  # nothing was sent; the next time it is another connection

    raise ConnectError(_OUT_OF_STEP)


async def _send(
    connector: Any, request: aiohttp.ClientRequest, timeouts: aiohttp.ClientTimeout
) -> aiohttp.ClientResponse:
    try:
        connection = await connector.connect(request, traces=[], timeout=timeouts)
    except TimeoutError:
        raise aiohttp.ConnectionTimeoutError from None
    try:
        connection.protocol.set_response_params(read_until_eof=True)
        answer = await request.send(connection)
    except BaseException:
        connection.close()
        raise
    try:
        return await answer.start(connection)
    except BaseException:
        answer.close()
        raise


class _OutOfStepError(Exception):
    """
    There is something to read before anything was asked.
    """


class InStep(aiohttp.ClientRequest):
    """
    A request that is sent only over a connection on which nothing is waiting to be read.
    """

    def update_headers(self, headers: Any) -> None:
        """
        Take the headers as they are: aiohttp adds and looks up each, 4 of 56 µs.
        """
        self.headers = CIMultiDict(self.DEFAULT_HEADERS)
        self.headers.update(headers)
        self.headers[hdrs.HOST] = self.url.host_port_subcomponent or ""

    def update_auto_headers(self, skip_auto_headers: Any) -> None:
        """
        Add none: they are there, and the client's own name is among the given ones.
        """

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """
        Send it, unless there is something to read already.
        """
        if conn.protocol is not None and conn.protocol.should_close:
            raise _OutOfStepError  # aiohttp closes the connection
        transport: Any = conn.transport
        if getattr(transport, "max_size", 0) > _READ_SIZE:
            transport.max_size = _READ_SIZE
        return await super().send(conn)


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    for _ in range(_CONNECTIONS):
        try:
            return await handler(request)
        except _OutOfStepError:
            continue
        except (aiohttp.ClientError, OSError) as error:
            raise _translate(error) from None

    raise ConnectError(_OUT_OF_STEP)


async def _body_of(answer: aiohttp.ClientResponse, request: Request) -> bytes:
    content = answer.content
    if content.at_eof():
        return b""
    try:
        if content.is_eof():  # it came with the headers, and is no more than was read at once
            return content.read_nowait()
        return await _read(content, request, answer.status)
    except BaseException:
        answer.close()
        raise


async def _read(content: aiohttp.StreamReader, request: Request, status: int) -> bytes:
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
    """
    Say what a foreign error means for the request: surely unsent, out of time, or lost.
    """
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
