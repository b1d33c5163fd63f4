"""
A reader that passes the body of a success to a sink, block by block, and never holds it whole.

The bodies of all other responses are short, and read whole. Each attempt starts the sink again, so
a connection that breaks within a body is a failed attempt like any other. So is a compressed body
without its end, which aiohttp takes for a complete one: a server that dies behind a proxy cuts a
body, and the proxy ends the response as usual.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from typing import Any, Protocol

import aiohttp

from adapty_async._api.call import CallState, Request, request_id_in
from adapty_async._http.attempt import ReadBody, TimeoutScheduler, next_block, read_whole
from adapty_async._runtime.loop import in_thread
from adapty_async.errors import (
    ConnectionLostError,
    DecodeError,
    RequestTimeoutError,
    name_or_none,
)

#: The headers of a request whose body is read by `read_into`: it knows no other compression.
STREAMED = {"Accept-Encoding": "gzip"}

# Bytes that are passed to a sink at once. A thread for each of aiohttp's 64 KiB would take longer
# than writing them.
_BLOCK = 1024 * 1024
# zlib's number for the format of gzip.
_GZIP = zlib.MAX_WBITS | 16
_GZIP_NAMES = frozenset({"gzip", "x-gzip"})


class Sink(Protocol):
    """A receiver of a body. Its methods may block: they run in a thread, one after the other."""

    def restart(self) -> None:
        """Discard everything received since the last response that was accepted."""
        ...

    def write(self, block: bytes) -> None:
        """
        Receive the next bytes.

        Raises:
            AdaptyError: they cannot be stored, or are not acceptable; the call fails.
        """
        ...

    def finish(self) -> bytes:
        """
        Receive the end of the body, and return the part of the body that the decoder needs.

        Raises:
            AdaptyError: the rest cannot be stored, or is not acceptable; the call fails.
        """
        ...


class _GzipSink:
    """A sink that decompresses a body for another one, and rejects a body without its end."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._member: Any = None  # zlib's decompressor of the current part; None before the first

    def restart(self) -> None:
        self._member = None
        self._sink.restart()

    def write(self, block: bytes) -> None:
        # output that zlib holds back comes with the next input: at the latest, with the end
        while block:
            if self._member is None or self._member.eof:
                self._member = zlib.decompressobj(_GZIP)
            try:
                piece = self._member.decompress(block, _BLOCK)
            except zlib.error:
                raise ConnectionLostError("the compressed response is damaged") from None
            self._sink.write(piece)
            block = self._member.unconsumed_tail or self._member.unused_data

    def finish(self) -> bytes:
        if self._member is not None and not self._member.eof:
            raise ConnectionLostError("the response is incomplete")
        return self._sink.finish()


def _receiver(sink: Sink, encoding: str) -> Sink:
    """Return the sink for a body as it is on the wire."""
    if encoding in _GZIP_NAMES:
        return _GzipSink(sink)
    if encoding not in {"", "identity"}:
        raise DecodeError("the response is compressed, and not with gzip")
    return sink


def _unpacked(body: bytes, encoding: str) -> bytes:
    """Return the body of an error, at most 1 MiB of it if it is compressed."""
    if encoding not in _GZIP_NAMES:
        return body
    try:
        return zlib.decompressobj(_GZIP).decompress(body, _BLOCK)
    except zlib.error:
        return b""


def read_into(
    sink: Sink, timeouts: TimeoutScheduler, state: CallState, clock: Callable[[], float]
) -> ReadBody:
    """
    Return a reader that passes the bodies of successes to a sink.

    The attempt's timeout holds for every read, and not for the whole body, whose size has no
    bound. The call's deadline holds for all of it.
    """

    async def read_body(response: aiohttp.ClientResponse, request: Request) -> bytes:
        encoding = response.headers.get("Content-Encoding", "").lower()
        if not 200 <= response.status < 300:
            return _unpacked(await read_whole(response, request), encoding)
        try:
            return await read_success(response, request, encoding)
        except DecodeError as error:  # of the sink, which does not know the response
            error.operation, error.status = request.operation, response.status
            error.request_id = name_or_none(request_id_in(response.headers))
            raise

    async def read_success(
        response: aiohttp.ClientResponse, request: Request, encoding: str
    ) -> bytes:
        receiver = _receiver(sink, encoding)
        await in_thread(receiver.restart)
        block: list[bytes] = []
        size = 0
        while True:
            _extend(timeouts, state, min(request.timeout, state.deadline - clock()))
            data = await next_block(response.content)
            if not data:
                break
            block.append(data)
            size += len(data)
            if size >= _BLOCK:
                await in_thread(_written(receiver, block))
                size = 0
        await in_thread(_written(receiver, block))
        return await in_thread(receiver.finish)

    return read_body


def _extend(timeouts: TimeoutScheduler, state: CallState, seconds: float) -> None:
    if seconds <= 0:
        raise RequestTimeoutError("the response was not complete before the deadline")
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  coroutines run in tasks
    timeouts.schedule(task, seconds, state)


def _written(sink: Sink, block: list[bytes]) -> Callable[[], None]:
    """Return a call that writes the bytes of a block, which is emptied."""
    data = b"".join(block)
    block.clear()
    return lambda: sink.write(data)
