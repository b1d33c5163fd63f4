"""
A reader that passes the body of a success to a sink, block by block, and never holds it whole.

The bodies of all other responses are short, and read whole. Each attempt starts the sink again, so
a connection that breaks within a body is a failed attempt like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import aiohttp

from adapty_async._api.call_state import CallState
from adapty_async._api.operation import Request
from adapty_async._http.exchange import ReadBody, read_whole
from adapty_async._http.timeouts import TimeoutScheduler
from adapty_async._runtime.tasks import in_thread
from adapty_async.errors import RequestTimeoutError

__all__ = ("Sink", "read_into")

# Bytes that are passed to a sink at once. A thread for each of aiohttp's 64 KiB would take longer
# than writing them.
_BLOCK = 1024 * 1024


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


def read_into(
    sink: Sink, timeouts: TimeoutScheduler, state: CallState, clock: Callable[[], float]
) -> ReadBody:
    """
    Return a reader that passes the bodies of successes to a sink.

    The attempt's timeout holds for every read, and not for the whole body, whose size has no
    bound. The call's deadline holds for all of it.
    """

    async def read_body(content: aiohttp.StreamReader, request: Request, status: int) -> bytes:
        if not 200 <= status < 300:
            return await read_whole(content, request, status)
        await in_thread(sink.restart)
        block: list[bytes] = []
        size = 0
        while True:
            _extend(timeouts, state, min(request.timeout, state.deadline - clock()))
            data = await content.readany()
            if not data:
                break
            block.append(data)
            size += len(data)
            if size >= _BLOCK:
                await in_thread(_written(sink, block))
                size = 0
        await in_thread(_written(sink, block))
        return await in_thread(sink.finish)

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
