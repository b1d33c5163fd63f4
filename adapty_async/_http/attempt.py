"""
One attempt over aiohttp: both HTTP paths send, read, time out and fail in the same way.

Invariants:
- A request is sent at most once per attempt.
- A response belongs to the request before it, so nothing is sent over a connection with unread
  bytes.
- `CallState.on_wire` is set before the first byte can be written. An attempt that ends without it
  was surely not sent.
- No exception that `failure_of` has seen holds a frame of aiohttp's: headers and bodies are among
  their locals, and some tools print the locals of every frame.

A timeout scheduler serves many attempts with one timer of the event loop. `asyncio.timeout` makes a
timer for each block. That costs 4.6 µs, and the scheduler 0.3 µs. With many other timers, it costs
14 of the 71 µs of a request over a kept connection (Python 3.11, one core).
"""

from __future__ import annotations

import asyncio
import errno
import functools
import math
import os
import socket
import ssl
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import aiohttp
import msgspec
import yarl
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict

from adapty_async._api.call import CallState, Layer, Request, request_id_in
from adapty_async._runtime.loop import Loop, PatientTimer
from adapty_async.errors import (
    AdaptyError,
    ConnectError,
    ConnectionLostError,
    DecodeError,
    RequestTimeoutError,
    TransportError,
    name_or_none,
    strip_traceback,
)

#: Makes one attempt.
SendOnce: TypeAlias = Layer
#: The protocols of one session over which a request went before.
Kept: TypeAlias = set["weakref.ref[Any]"]
#: Reads the body of a response as it is on the wire, and returns what the decoder needs of it.
ReadBody: TypeAlias = Callable[[aiohttp.ClientResponse, Request], Awaitable[bytes]]

# Maximum bytes of a response's body, which is held in memory.
_BODY_LIMIT = 8 * 1024 * 1024
#: Maximum number of connections that are tried to find one without unread bytes.
CONNECTIONS = 3
DESYNCHRONISED = "the server sent data before the request"
#: The one status below 200 that is final. No request asks for it, and data that follows it on the
#: connection is no response.
SWITCHING = 101
#: Maximum bytes of a request's body that a server is assumed to read before it rejects it.
LARGE_BODY = 64 * 1024
# Bytes that asyncio allocates for each read, before it knows the size of the data. Its default of
# 256 KiB returns to the operating system each time, which takes 18 of 75 µs for a small response
# (Python 3.11, Linux). TLS and uvloop read in another way.
_READ_SIZE = 64 * 1024
# Subclasses of OSError whose numbers are not those of the module `errno`.
_NUMBERED_OTHERWISE = (ssl.SSLError, socket.gaierror)
# Exceptions of aiohttp; TimeoutError is an OSError.
_FOREIGN = (aiohttp.ClientError, HttpProcessingError, OSError, EOFError)


def record_use(protocol: Any, kept: Kept, state: CallState) -> None:
    """Record that a connection is used, and whether it was before; prepare a new one."""
    if weakref.ref(protocol) in kept:
        state.connection_reused()
        return
    kept.add(weakref.ref(protocol, kept.discard))
    transport = protocol.transport
    if getattr(transport, "max_size", 0) > _READ_SIZE:
        transport.max_size = _READ_SIZE


class Target(NamedTuple):
    """A parsed URL: its origin, the path of the request line, and the headers for each request."""

    url: yarl.URL
    origin: str
    path: str
    headers: CIMultiDict[str]


@functools.lru_cache(maxsize=1024)
def target_of(url: str) -> Target:
    """Parse an encoded URL."""
    parsed = yarl.URL(url, encoded=True)
    headers = CIMultiDict({"Host": parsed.host_port_subcomponent or ""})
    headers.update(aiohttp.ClientRequest.DEFAULT_HEADERS)
    return Target(parsed, str(parsed.origin()), parsed.raw_path_qs, headers)


def failure_of(error: BaseException, state: CallState, *, expired: bool) -> AdaptyError | None:
    """
    Return the error of a failed attempt, which refers to no object of aiohttp's.

    The caller raises it where the exception of aiohttp does not become its context.

    Args:
        error: the exception that the sender raised.
        state: the call state.
        expired: the task was cancelled because the time was over, and for no other reason.

    Returns:
        None if the exception is no failure of the attempt: the caller raises it as it is.
    """
    if isinstance(error, _FOREIGN):
        return _unless_written(state, translate(error))
    strip_traceback(error)
    if isinstance(error, AdaptyError):
        return error
    return _timed_out(state) if expired and isinstance(error, asyncio.CancelledError) else None


def _unless_written(state: CallState, error: TransportError) -> TransportError:
    """Return the error, or a `ConnectError` if no byte of the request was sent."""
    if state.on_wire or isinstance(error, ConnectError):
        return error
    return ConnectError(f"cannot connect ({error.args[0]})")


def _timed_out(state: CallState) -> TransportError:
    if state.on_wire:
        return RequestTimeoutError("no response in time")
    return ConnectError("cannot connect (timed out)")


def may_be_unread(request: Request, status: int, transport: Any) -> bool:
    """
    Return whether the server may have responded before it had the whole body.

    Unwritten bytes of TLS are not visible: they are in an underlying transport.
    """
    if not request.body:
        return False
    if status >= 300 and len(request.body) > LARGE_BODY:
        return True
    return transport is not None and transport.get_write_buffer_size() > 0


def read_now(content: aiohttp.StreamReader) -> bytes | None:
    """Return a whole body if it arrived with the headers, otherwise None."""
    if content.at_eof():
        return b""
    return content.read_nowait() if content.is_eof() else None  # no more than was read at once


async def next_block(content: aiohttp.StreamReader) -> bytes:
    """
    Return bytes of a body that have arrived; none at its end.

    Raises:
        ConnectionLostError: the client was closed since the last block.
    """
    try:
        return await content.readany()
    except RuntimeError:  # of aiohttp's, which every other end of a connection spares
        raise ConnectionLostError("the connection broke (it was closed meanwhile)") from None


async def read(
    content: aiohttp.StreamReader, request: Request, status: int, headers: Mapping[str, str]
) -> bytes:
    """
    Read a whole body.

    Raises:
        DecodeError: the body is larger than 8 MiB.
    """
    chunks: list[bytes] = []
    size = 0
    while chunk := await next_block(content):
        size += len(chunk)
        if size > _BODY_LIMIT:
            raise _too_large(request, status, headers)
        chunks.append(chunk)

    return b"".join(chunks)


def _too_large(request: Request, status: int, headers: Mapping[str, str]) -> DecodeError:
    text = f"status {status}, response larger than {_BODY_LIMIT} bytes"
    error = DecodeError(text, operation=request.operation, status=status)
    error.request_id = name_or_none(request_id_in(headers))
    return error


async def read_whole(response: aiohttp.ClientResponse, request: Request) -> bytes:
    """Read a whole body, at once if it arrived with the headers."""
    content = response.content
    body = read_now(content)
    if body is None:
        body = await read(content, request, response.status, response.headers)
    return body


def translate(error: Exception) -> TransportError:
    """Translate a foreign error: the request was surely not sent, timed out, or lost."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ServerFingerprintMismatch():
            return ConnectError("the server's certificate is not accepted", permanent=True)
        case aiohttp.ClientHttpProxyError(status=407):
            return ConnectError("the proxy requires a password", permanent=True)
        case aiohttp.ClientConnectorError() | aiohttp.ClientHttpProxyError():
            return ConnectError(f"cannot connect ({_cause(error)})", errno=_errno_of(error))
        case aiohttp.ConnectionTimeoutError():
            return ConnectError("cannot connect (timed out)")
        case TimeoutError():
            return RequestTimeoutError("no response in time")
        case _:
            return ConnectionLostError(f"the connection broke ({_cause(error)})")


def _cause(error: Exception) -> str:
    """Return the reason of a failed connection, in the words of the system if it has some."""
    inner = getattr(error, "os_error", error)
    if isinstance(inner, ssl.SSLError):
        return "TLS failed"
    # the text of asyncio is that of the call, not of the reason
    if (number := _errno_of(error)) is not None:
        return os.strerror(number)
    # other texts are aiohttp's: they may contain the URL, and its path the id of a user
    reason = error.os_error.strerror if isinstance(error, aiohttp.ClientConnectorDNSError) else None
    return reason or type(inner).__name__


def _errno_of(error: Exception) -> int | None:
    """Return the number of the system's error; those of TLS and name lookups are other numbers."""
    inner = getattr(error, "os_error", error)
    number = getattr(inner, "errno", None)
    is_of_system = number in errno.errorcode and not isinstance(inner, _NUMBERED_OTHERWISE)
    return number if is_of_system else None


# Maximum seconds of connecting.
_CONNECT_SECONDS = 10.0
# Connecting, from the name lookup to the end of the TLS handshake, may take `_CONNECT_SECONDS`, and
# at most this share of the attempt, so that a connect timeout differs from a lost response.
_CONNECT_SHARE = 0.9
# Seconds after which attempts time out that the close of their connections has not ended.
_CLOSING_SECONDS = 0.1


class _Deadlines(msgspec.Struct):
    """
    A pair of deadlines of one attempt: for its end, and for being on the wire.

    Attributes:
        start: time from which the timeouts count, on the clock.
        seconds: timeout of the attempt.
        connect_seconds: timeout for being on the wire.
        state: the call state, which says whether the attempt is on the wire.
        restarted: whether the timeouts restarted after a block of the event loop.
    """

    start: float
    seconds: float
    connect_seconds: float
    state: CallState
    restarted: bool = False

    def restart(self, now: float) -> None:
        self.restarted, self.start = True, now

    @property
    def next(self) -> float:
        return self.start + (self.seconds if self.state.on_wire else self.connect_seconds)


class TimeoutScheduler:
    """
    A scheduler of timeouts that cancels tasks of one event loop, each with one attempt at a time.

    Points in time are those of `clock` and not of the loop, for the reason of `PatientTimer`.
    """

    def __init__(self, loop: Loop, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._watched: dict[asyncio.Task[Any], _Deadlines] = {}
        self._expired: set[asyncio.Task[Any]] = set()
        self._timer = PatientTimer(loop, self._cancel_expired, self._restart_unsent, clock)

    def schedule(self, task: asyncio.Task[Any], seconds: float, state: CallState) -> None:
        """
        Schedule the cancellation of a task after a number of seconds, or earlier if unconnected.

        `cancel` revokes it.
        """
        now, connect_seconds = self._clock(), min(_CONNECT_SECONDS, _CONNECT_SHARE * seconds)
        self._watched[task] = _Deadlines(now, seconds, connect_seconds, state)
        if now + connect_seconds < self._timer.due:
            self._timer.start(now + connect_seconds, now)

    def expired(self, task: asyncio.Task[Any]) -> bool:
        """Return whether the scheduler cancelled the task."""
        return task in self._expired

    def cancel(self, task: asyncio.Task[Any]) -> None:
        """Remove the timeouts of a task, and uncancel it if the scheduler cancelled it."""
        del self._watched[task]
        if task in self._expired:
            self._expired.remove(task)
            task.uncancel()

    def close(self) -> None:
        """
        Let each attempt that is left time out soon.

        Closed connections end nearly all of them. aiohttp does not wake those that wait for a body.
        """
        now = self._clock()
        for deadlines in self._watched.values():
            deadlines.restart(now)
            deadlines.seconds = deadlines.connect_seconds = _CLOSING_SECONDS
        self._timer.start(now + _CLOSING_SECONDS if self._watched else math.inf, now)

    def _restart_unsent(self, now: float) -> None:
        """
        Restart the timeouts of attempts that are not on the wire, once each, after a block.

        Otherwise they would connect, be sent and be cancelled at once.
        """
        for deadlines in self._watched.values():
            if not (deadlines.state.on_wire or deadlines.restarted):
                deadlines.restart(now)

    def _cancel_expired(self, now: float) -> None:
        next_due = math.inf
        for task, deadlines in self._watched.items():
            if deadlines.next > now:
                next_due = min(next_due, deadlines.next)
            elif task not in self._expired:
                self._expired.add(task)
                task.cancel()
        self._timer.start(next_due, now)
