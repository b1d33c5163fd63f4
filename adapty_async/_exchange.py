"""
One request over aiohttp: out, its whole answer in, aiohttp's errors into ours.

Laws:
- A request that is handed to this module goes over the wire once at most. `ClientSession.request`
  repeats an idempotent one by itself when a kept-alive connection turns out to be dropped, so the
  server may see a delete twice; where that is used, a middleware raises our own error before that
  code is reached.
- An answer belongs to the request it follows. aiohttp hands an answer that arrives while a
  connection is idle to the next request on it, and is one off from then on: a read would give
  somebody else's profile. So nothing is sent over a connection on which something is waiting.
- Whatever leaves this module as an exception has left aiohttp's frames behind: headers and bodies
  are among their locals, and there are tools that print the locals of every frame.
"""

from __future__ import annotations

import asyncio
import functools
import math
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

import aiohttp
import yarl
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, StreamWriter
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

__all__ = ("Ask", "InStep", "ask_environment", "ask_given", "ask_own", "exchange")

Ask: TypeAlias = Callable[[Request], Awaitable[Response]]

_KNOWN = "3.14."
"""
The releases of aiohttp whose connections are known. What `Direct` needs of them is half private, so
another release may have changed it in a way that no error would tell.
"""
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
_SWITCHING = 101
"""
The one status below 200 that no other one follows. It is never asked for, and whatever comes over
the connection after it is no answer.
"""
_LARGE_BODY = 64 * 1024
"""
Bytes of a request's body that a server may refuse without having read them.
"""
_FOREIGN = (aiohttp.ClientError, HttpProcessingError, OSError, EOFError)
"""
What aiohttp raises; TimeoutError is an OSError.
"""


@functools.lru_cache(maxsize=64)
def _timeouts(seconds: float) -> aiohttp.ClientTimeout:
    """
    Bound connecting alone, and below the whole attempt, so that it is told from a lost answer.

    That is looking up the name and all addresses together, and each address by itself. Nothing is
    rounded up to a whole second, as aiohttp does: that may be above the attempt.
    """
    bound = 0.9 * seconds
    return aiohttp.ClientTimeout(
        connect=bound, sock_connect=min(_CONNECT_SECONDS, bound), ceil_threshold=math.inf
    )


class _Target(NamedTuple):
    """
    A URL, with what is sent of it: what the request line has, and the headers that begin with it.
    """

    url: yarl.URL
    origin: yarl.URL
    path: str
    headers: CIMultiDict[str]


@functools.lru_cache(maxsize=1024)
def _target(url: str) -> _Target:
    parsed = yarl.URL(url, encoded=True)
    headers = CIMultiDict({"Host": parsed.host_port_subcomponent or ""})
    headers.update(aiohttp.ClientRequest.DEFAULT_HEADERS)
    return _Target(parsed, parsed.origin(), parsed.raw_path_qs, headers)


async def exchange(
    ask: Ask, watch: Watch, request: Request, seconds: float
) -> Response | AdaptyError:
    """
    Return the answer, or why there is none; nothing that is returned or raised knows aiohttp.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  coroutines run in tasks
    cancelled_before = task.cancelling()
    watch.start(task, seconds)
    try:
        return await ask(request)
    except _FOREIGN as error:
        return _unless_written(request, _translate(error))
    except BaseException as error:
        bare(error)
        if isinstance(error, AdaptyError):
            return error
        is_late = isinstance(error, asyncio.CancelledError) and watch.is_late(task)
        if is_late and task.cancelling() == cancelled_before + 1:  # nobody else cancelled it
            return _unless_written(request, RequestTimeoutError("no answer in time"))
        raise
    finally:
        watch.stop(task)


class Direct:
    """
    Sends requests over the connections of a session in one event loop, and does nothing but that.

    What `ClientSession.request`, its requests and its responses do beside it is more than half of
    what a request costs, and none of it is wanted here: redirects, cookies, proxies, traces,
    repeats. It is 36 of 65 µs (Python 3.11, one core, uvloop; on asyncio 39 of 72).
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._connector: Any = session.connector
        self._loop = asyncio.get_running_loop()
        self._doors: dict[yarl.URL, aiohttp.ClientRequest] = {}

    async def __call__(self, request: Request) -> Response:
        """
        Send one request and read its whole answer.
        """
        target = _target(request.url)
        connection = await self._connect(target, _timeouts(request.timeout))
        try:
            protocol = connection.protocol
            protocol.set_response_params(read_until_eof=True)
            request.tally.on_wire = True
            await self._write(protocol, request, target)
            message, content = await protocol.read()
            while 100 <= message.code < 200 and message.code != _SWITCHING:
                message, content = await protocol.read()
            body = await _body_of(content, request, message.code)
        except BaseException:
            _drop(connection)
            raise
        if message.code == _SWITCHING or _may_be_unread(request, message.code, protocol.transport):
            _drop(connection)
        else:
            connection.release()
        return Response(message.code, message.headers, body)

    async def _connect(self, target: _Target, timeouts: aiohttp.ClientTimeout) -> Any:
        door = self._doors.get(target.origin) or self._door(target)
        for _ in range(_CONNECTIONS):
            try:
                connection = await self._connector.connect(door, traces=[], timeout=timeouts)
            except TimeoutError:
                raise aiohttp.ConnectionTimeoutError from None
            if not connection.protocol.should_close:
                _read_less(connection.transport)
                return connection
            _drop(connection)  # something came over it that nobody asked for
        raise ConnectError(_OUT_OF_STEP)

    def _door(self, target: _Target) -> aiohttp.ClientRequest:
        """
        Return what aiohttp wants to know of a request to connect it: no more than where it goes.
        """
        door = aiohttp.ClientRequest("GET", target.origin, loop=self._loop, session=self._session)
        self._doors[target.origin] = door
        return door

    async def _write(self, protocol: Any, request: Request, target: _Target) -> None:
        body = request.body or b""
        headers = CIMultiDict(target.headers)
        headers.update(request.headers)
        if body or request.method != "GET":
            headers["Content-Length"] = str(len(body))
        writer = StreamWriter(protocol, self._loop)
        await writer.write_headers(f"{request.method} {target.path} HTTP/1.1", headers)
        if body:  # it is in memory anyway, and the answer may come before a server has read it
            await writer.write(body, drain=False)
        else:
            writer.send_headers()


def ask_own(session: aiohttp.ClientSession) -> Ask:
    """
    Send requests by a session of the client's own: directly, if this aiohttp is known well enough.
    """
    is_known = aiohttp.__version__.startswith(_KNOWN)
    return Direct(session) if is_known else ask_environment(session)


def ask_given(session: aiohttp.ClientSession) -> Ask:
    """
    Send requests the way a session of the caller's was made for: with its proxies, its timeouts.
    """
    return lambda request: _ask(session, request, session.timeout)


def ask_environment(session: aiohttp.ClientSession) -> Ask:
    """
    Send requests with the proxies and passwords that the environment names.
    """
    return lambda request: _ask(session, request, _timeouts(request.timeout))


async def _ask(
    session: aiohttp.ClientSession, request: Request, timeouts: aiohttp.ClientTimeout
) -> Response:
    request.tally.on_wire = True  # or soon: it is not known when the session writes it
    answer = await session.request(
        request.method,
        _target(request.url).url,
        data=request.body,
        headers=request.headers,
        allow_redirects=False,
        timeout=timeouts,
        auto_decompress=True,  # this and the next whatever a given session was made with
        raise_for_status=False,
        middlewares=(_send_once,),
    )
    try:
        body = await _body_of(answer.content, request, answer.status)
    except BaseException:
        answer.close()
        raise
    if answer.status == _SWITCHING:
        answer.close()  # aiohttp leaves that to whoever wanted to switch
    return Response(answer.status, answer.headers, body)


class _OutOfStepError(Exception):
    """
    There is something to read before anything was asked.
    """


class InStep(aiohttp.ClientRequest):
    """
    A request that is sent only over a connection on which nothing is waiting to be read.
    """

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """
        Send it, unless there is something to read already.
        """
        if conn.protocol is not None and conn.protocol.should_close:
            raise _OutOfStepError  # aiohttp closes the connection
        _read_less(conn.transport)
        return await super().send(conn)


def _may_be_unread(request: Request, status: int, transport: Any) -> bool:
    """
    Say whether the server may have answered before it had the whole body.

    What TLS has still to write is not to be asked for: it waits in a transport below.
    """
    if not request.body:
        return False
    if status >= 300 and len(request.body) > _LARGE_BODY:
        return True
    return transport is not None and transport.get_write_buffer_size() > 0


def _drop(connection: Any) -> None:
    """
    Close a connection at once; it would live on else until the server has read what it was sent.
    """
    if connection.transport is not None:
        connection.transport.abort()
    connection.close()


def _read_less(transport: Any) -> None:
    if getattr(transport, "max_size", 0) > _READ_SIZE:
        transport.max_size = _READ_SIZE


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


async def _body_of(content: aiohttp.StreamReader, request: Request, status: int) -> bytes:
    if content.at_eof():
        return b""
    if content.is_eof():  # it came with the headers, and is no more than was read at once
        return content.read_nowait()
    return await _read(content, request, status)


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


def _unless_written(request: Request, error: TransportError) -> TransportError:
    """
    Return the error, or one that says that the server has nothing of the request.
    """
    if request.tally.on_wire or isinstance(error, ConnectError):
        return error
    return ConnectError(f"cannot connect ({error.args[0]})")


def _cause(error: Exception) -> str:
    inner = getattr(error, "os_error", error)
    if isinstance(inner, ssl.SSLError):
        return "TLS failed"
    return getattr(inner, "strerror", None) or type(inner).__name__
