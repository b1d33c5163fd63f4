"""
The only module that talks to aiohttp's client: requests out, answers in, its errors into ours.

Laws:
- A request that is handed to this module goes over the wire once at most. aiohttp repeats an
  idempotent request by itself when a kept-alive connection turns out to be dropped, so the server
  may see a delete twice; a middleware raises our own error before that code is reached.
- An answer belongs to the request it follows. aiohttp hands an answer that arrives while a
  connection is idle to the next request on it, and is one off from then on: a read would give
  somebody else's profile. So nothing is sent over a connection on which something is waiting.
- Whatever leaves this module as an exception has left aiohttp's frames behind: headers and bodies
  are among their locals, and there are tools that print the locals of every frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
import warnings
import weakref
from collections.abc import AsyncGenerator, Callable
from typing import Any

import aiohttp
import msgspec
import yarl
from aiohttp.connector import Connection

from adapty_async._fork import Sockets, on_fork
from adapty_async._loop_local import LoopLocal
from adapty_async._operation import Headers, Request, Response
from adapty_async._watch import Watch
from adapty_async.errors import (
    AdaptyError,
    ConfigError,
    ConnectError,
    ConnectionLostError,
    DecodeError,
    RequestTimeoutError,
    TransportError,
    bare,
)

__all__ = ("Transport",)

_BODY_LIMIT = 8 * 1024 * 1024
_CONNECT_SECONDS = 10.0
_READ_SIZE = 64 * 1024
"""
Bytes that asyncio makes room for at each read, before it knows how many come. Its own 256 KiB are
given back to the operating system each time: 18 of 75 µs for a small answer (Python 3.11, Linux).
TLS and uvloop read in another way.
"""
_LOOK = 0.1
"""
Seconds after which who waits for another loop looks whether there still is one.
"""
_CONNECTIONS = 3
"""
How many connections are looked at for one on which nothing is waiting to be read.
"""


@functools.lru_cache(maxsize=64)
def _timeouts(seconds: float) -> aiohttp.ClientTimeout:
    """
    Bound connecting alone, and below the whole attempt, so that it is told from a lost answer.
    """
    return aiohttp.ClientTimeout(sock_connect=min(_CONNECT_SECONDS, 0.9 * seconds))


_parse_url = functools.lru_cache(maxsize=1024)(functools.partial(yarl.URL, encoded=True))


class Transport:
    """
    Send requests over pooled connections, with one aiohttp session per event loop.

    Sessions are made when first needed. One that is not closed by `aclose` is closed when its
    loop ends, as `asyncio.run` closes it in an orderly way.
    """

    def __init__(
        self,
        *,
        headers: Headers,
        clock: Callable[[], float],
        trust_env: bool = False,
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        self._headers = headers
        self._clock = clock
        self._trust_env = trust_env
        self._given = session
        # a client that is dropped goes at once then, and its sessions are closed before they go
        this: Any = weakref.proxy(self)
        self._open: LoopLocal[_Here] = LoopLocal(functools.partial(Transport._make, this))
        self._sockets = Sockets()
        self._loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._foreign: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._forked = False
        self._used = False
        self.closed = False
        on_fork(self)

    async def __call__(self, request: Request) -> Response:
        """
        Send one request, once, and read its whole answer.

        Raises:
            ConnectError: no connection could be made.
            RequestTimeoutError: the attempt's or the call's time was over.
            ConnectionLostError: the connection broke.
            DecodeError: the answer is larger than 8 MiB.
        """
        if self.closed or self._given is not None:
            self._demand_open()
        here = self._open.get()
        if not here.guarded:
            await here.start_guard()
        seconds = min(request.timeout, request.tally.deadline - self._clock())
        answer = await _attempt(here, request, seconds)
        if isinstance(answer, Response):
            return answer
        try:
            answer.operation = request.operation
            raise answer
        finally:
            del answer  # else the error and this frame would hold each other

    def _demand_open(self) -> None:
        if self.closed:
            raise ConfigError("the client is closed")
        if self._given is not None and self._forked:
            raise ConfigError("the session was given to the client before a fork")
        if self._given is not None and self._given.closed:
            raise ConfigError("the session that was given to the client is closed")

    def _make(self) -> _Here:
        loop = asyncio.get_running_loop()
        if self._given is not None:
            return _Here(self._given, None, Watch(loop))
        if loop in self._foreign:
            raise ConfigError("this event loop was used before a fork; it is the parent's")
        self._loops.add(loop)
        self._used = True
        session = aiohttp.ClientSession(
            # the client bounds what is in flight, so that waiting is not charged to a timeout
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0, socket_factory=self._sockets),
            cookie_jar=aiohttp.DummyCookieJar(),
            request_class=_InStep,
            trust_env=self._trust_env,
        )
        return _Here(session, self._headers, Watch(loop), _closed_with_its_loop(session))

    async def aclose(self) -> None:
        """
        Close this client's own sessions, in whichever loops they are; a given one stays open.
        """
        self.closed = True
        self._used = False
        here = asyncio.get_running_loop()
        for loop, there in self._open.pop_all().items():
            if loop is here:
                await there.close()
            elif loop.is_running():
                await _close_elsewhere(there, loop)

    def reopen(self) -> None:
        """
        Allow use again after `aclose`.
        """
        self.closed = False

    def after_fork(self) -> None:
        """
        Leave what was opened so far to the parent.
        """
        self._forked = True
        self._used = False
        self._foreign.update(self._loops)
        self._loops.clear()

    def __del__(self) -> None:
        if getattr(self, "_used", False):
            warnings.warn(
                "a client was not closed: use 'async with', or await its aclose()",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )


class _Here(msgspec.Struct):
    """
    What belongs to one event loop.

    Attributes:
        session: the client's own, or the one that was given to it.
        headers: what its own session sends with each request.
        watch: of the time of attempts.
        guard: closes its own session with the loop, once it was started.
    """

    session: aiohttp.ClientSession
    headers: Headers | None
    watch: Watch
    guard: AsyncGenerator[None, None] | None = None
    guarded: bool = False

    async def start_guard(self) -> None:
        """
        See to it that a session of the client's own is closed with its loop.
        """
        self.guarded = True
        if self.guard is not None:
            await anext(self.guard)

    async def close(self) -> None:
        """
        Close the session if it is the client's own.
        """
        self.watch.close()
        if self.guard is not None:
            await self.session.close()
            with contextlib.suppress(RuntimeError):  # its loop ends, and is closing it already
                await self.guard.aclose()


async def _close_elsewhere(there: _Here, loop: asyncio.AbstractEventLoop) -> None:
    """
    Close what belongs to a loop of another thread; a loop that ends meanwhile does that itself.
    """
    closing = there.close()
    try:
        future = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(closing, loop))
    except RuntimeError:  # the loop is closed
        closing.close()
        return
    while not future.done() and not loop.is_closed():
        await asyncio.wait({future}, timeout=_LOOK)
    if not future.done():
        closing.close()
    elif not future.cancelled():
        future.result()


async def _closed_with_its_loop(session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    """
    Close the session when the loop ends.

    A loop can run no more code once it is closed, but before that `asyncio.run` finalises the
    async generators that were started in it; so this one lends its `finally`.
    """
    try:
        yield
    finally:
        await session.close()


async def _attempt(here: _Here, request: Request, seconds: float) -> Response | AdaptyError:
    """
    Return the answer, or why there is none; nothing that is returned or raised knows aiohttp.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  coroutines run in tasks
    cancelled_before = task.cancelling()
    here.watch.start(task, seconds)
    try:
        return await _exchange(here, request)
    except (aiohttp.ClientError, OSError, EOFError) as error:  # TimeoutError is an OSError
        return _translate(error)
    except BaseException as error:
        bare(error)
        if isinstance(error, AdaptyError):
            return error
        is_late = isinstance(error, asyncio.CancelledError) and here.watch.is_late(task)
        if is_late and task.cancelling() == cancelled_before + 1:  # nobody else cancelled it
            return RequestTimeoutError("no answer in time")
        raise
    finally:
        here.watch.stop(task)


async def _exchange(here: _Here, request: Request) -> Response:
    own = here.guard is not None
    answer = await here.session.request(
        request.method,
        _parse_url(request.url),
        data=request.body,
        # those of the session cost less than those of each request: 0.7 instead of 1.4 µs
        headers=request.own_headers if request.shared_headers is here.headers else request.headers,
        allow_redirects=False,
        timeout=_timeouts(request.timeout) if own else here.session.timeout,
        auto_decompress=True,  # this and the next whatever a given session was made with
        raise_for_status=False,
        middlewares=_ONCE,
    )
    content = answer.content
    if content.at_eof():
        return Response(answer.status, answer.headers, b"")
    try:
        if content.is_eof():  # it came with the headers, and is no more than was read at once
            body = content.read_nowait()
        else:
            body = await _read(content, request, answer.status)
    except BaseException:
        answer.close()
        raise

    return Response(answer.status, answer.headers, body)


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


class _OutOfStepError(Exception):
    """
    There is something to read before anything was asked.
    """


class _InStep(aiohttp.ClientRequest):
    """
    A request that is sent only over a connection on which nothing is waiting to be read.
    """

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
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
            continue  # nothing was sent; the next time it is another connection
        except (aiohttp.ClientError, OSError) as error:
            raise _translate(error) from None

    raise ConnectError("the server spoke before it was asked")


_ONCE = (_send_once,)


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
