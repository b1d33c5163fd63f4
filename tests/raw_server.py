"""
A scripted server that writes raw bytes, breaks connections at exact points, and counts requests.

A script is a tuple of steps for each request, in order of arrival. A step is bytes to write, an
event to wait for, or one of the constants below. A request counts as arrived when its last byte was
read, so a request that a client sent twice counts twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import re
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias

from tests._support import loop_turns

_NAME = "raw-server"
_RST = struct.pack("ii", 1, 0)


class Step(enum.Enum):
    """A step of a script other than writing."""

    UNREAD = "go on before anything of the request is read; only as a connection's first step"
    RESET = "cut the connection with a TCP reset"
    CLOSE = "close the connection in the orderly way"
    STALL = "do nothing until the client or the server goes away"
    HOLD = "wait until the test sets `released`"


UNREAD, RESET, CLOSE, STALL, HOLD = Step


class Drip(NamedTuple):
    """A step that writes these bytes repeatedly, one byte at each interval."""

    data: bytes
    interval: float = 0.01


Steps: TypeAlias = tuple[bytes | asyncio.Event | Step | Drip, ...]


class Received(NamedTuple):
    """A request that arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def identity(self) -> str:
        """The id in the header of the server-side API."""
        return self.headers["adapty-customer-user-id"]


Answer: TypeAlias = Callable[[Received], Steps]


def reply(status: int = 200, body: bytes = b"{}", **headers: str) -> bytes:
    """Return a complete HTTP/1.1 response; an underscore in a header's name becomes a dash."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if status != HTTPStatus.NO_CONTENT:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if status == 204 else body)


def api_error(status: int, code: str, **headers: str) -> bytes:
    """Return an error response in the format of the server-side API."""
    body = '{"errors":[{"source":null,"errors":["no"]}],"error_code":"%s","status_code":%d}'
    return reply(status, (body % (code, status)).encode(), **headers)


def page(status: int) -> bytes:
    """Return the error page of a gateway."""
    return reply(status, b"<html><h1>Error</h1></html>", Content_Type="text/html")


DONE: Steps = (reply(),)
ABSENT: Steps = (api_error(404, "profile_does_not_exist"),)


class RawServer:
    """
    A server on loopback with scripted responses.

    Attributes:
        loop: the event loop of the server.
        connections: the number of accepted connections.
        open: the number of open connections.
        requests: the requests that arrived, in order.
        active: the number of requests that arrived and have no response yet.
        most_active: the maximum of `active`.
        arrived: an event that is set when a request arrives.
        left: an event that is set when a connection ends.
        released: an event that ends HOLD.
    """

    def __init__(
        self, *script: Steps, then: Steps | Answer = DONE, tls: ssl.SSLContext | None = None
    ) -> None:
        self._script = deque(script)
        self._then = then
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.open = 0
        self.requests: list[Received] = []
        self.active = 0
        self.most_active = 0
        self.arrived = asyncio.Event()
        self.left = asyncio.Event()
        self.released = asyncio.Event()

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", 0, ssl=self._tls, backlog=1024
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # asyncio delivers a connection some iterations of the loop after it was made; a server that
        # is closed before that waits for the connection or leaks it
        await loop_turns(8)
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """The origin."""
        port = self._server.sockets[0].getsockname()[1]
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"

    @property
    def methods(self) -> list[str]:
        """The methods of the requests that arrived."""
        return [request.method for request in self.requests]

    @property
    def identities(self) -> list[str]:
        """The ids of the requests that arrived."""
        return [request.identity for request in self.requests]

    async def until_arrived(self, count: int) -> None:
        """Wait until `count` requests have arrived."""
        while len(self.requests) < count:
            self.arrived.clear()
            await self.arrived.wait()

    async def until_left(self) -> None:
        """Wait until no connection is open."""
        while self.open:
            self.left.clear()
            await self.left.wait()

    def answer(self, then: Steps) -> None:
        """Drop the script, and use these steps for all further requests."""
        self._script.clear()
        self._then = then

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name=_NAME)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        number = self.connections
        try:
            if self._is_next(UNREAD):
                await self._perform(self._steps(None)[1:], reader, writer)
            while not writer.is_closing():
                await self._answer_one(number, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.open -= 1
            self.left.set()

    async def _answer_one(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        request = await _read_request(reader, number)
        self.requests.append(request)
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        self.arrived.set()
        try:
            await self._perform(self._steps(request), reader, writer)
        finally:
            self.active -= 1

    def _is_next(self, step: Step) -> bool:
        steps = self._script[0] if self._script else self._then
        return isinstance(steps, tuple) and steps[0] is step

    def _steps(self, request: Received | None) -> Steps:
        if self._script:
            return self._script.popleft()
        if isinstance(self._then, tuple):
            return self._then
        assert request is not None, "what is done unread is a tuple of steps"
        return self._then(request)

    async def _perform(
        self, steps: Steps, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        for step in steps:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, Drip):
                await _drip(step, writer)
            elif step is STALL:
                await reader.read(1)
            elif step is HOLD:
                await self.released.wait()
            else:
                _end(writer, reset=step is RESET)


async def _read_request(reader: asyncio.StreamReader, number: int) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, path, _ = head[0].split(" ")
    headers: dict[str, str] = {}
    for line in filter(None, head[1:]):
        name, _, value = line.partition(":")
        known = headers.get(name.lower())
        headers[name.lower()] = value.strip() if known is None else f"{known}, {value.strip()}"
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(method, path, headers, body, number)


async def _drip(drip: Drip, writer: asyncio.StreamWriter) -> None:
    while True:
        for byte in drip.data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(drip.interval)


def _end(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if reset:
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        writer.transport.abort()
    else:
        writer.close()


def own_tasks() -> set[asyncio.Task[object]]:
    """Return the tasks of this loop that belong to neither pytest nor a server of this module."""
    others = re.compile("TestRunner|_accept_connection")
    return {
        task
        for task in asyncio.all_tasks()
        if task.get_name() != _NAME and not others.search(repr(task.get_coro()))
    }


@contextlib.contextmanager
def in_thread(server: RawServer) -> Iterator[RawServer]:
    """Run a server in a loop and thread of its own, for clients that bring their own loops."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name=_NAME)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result()
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
