"""
A server of raw sockets that reports, at any time, the bytes that have reached it.

It runs in the client's own event loop. `pump` accepts and reads all that the kernel has, so bytes
that a client wrote before the call are distinguished from those it writes later.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeAlias

from tests.raw_server import reply

__all__ = ("DONE", "Answer", "WireServer")

DONE = reply()
#: Given an id, what is answered, and after how many seconds.
Answer: TypeAlias = Callable[[str], tuple[bytes, float]]


class WireServer:
    """
    Respond to requests that have no body.

    Attributes:
        arrived: requests of which at least one byte has arrived.
        answer: decides on the responses.
    """

    def __init__(self, answer: Answer = lambda _: (DONE, 0.0)) -> None:
        self.answer = answer
        self.arrived = 0
        self._loop = asyncio.get_running_loop()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._buffers: dict[socket.socket, bytes] = {}

    @property
    def url(self) -> str:
        """The origin."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def pump(self) -> int:
        """Read all that was written so far, and return how many requests have arrived."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._accept()
        for connection in tuple(self._buffers):
            self._read(connection)
        return self.arrived

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(0.0)
        self._buffers[connection] = b""
        self._loop.add_reader(connection, self._read, connection)

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(1 << 16)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._close(connection)
            return
        before = self._buffers[connection]
        self.arrived += not before
        received = before + data
        head, end, received = received.partition(b"\r\n\r\n")
        assert not received, "a client sent a request before the one before was answered"
        self._buffers[connection] = b"" if end else head
        if end:
            self._respond(connection, head)

    def _respond(self, connection: socket.socket, head: bytes) -> None:
        _, _, rest = head.partition(b"adapty-customer-user-id: ")
        data, seconds = self.answer(rest.partition(b"\r\n")[0].decode())
        if seconds:
            self._loop.call_later(seconds, self._send, connection, data)
        else:
            self._send(connection, data)

    def _send(self, connection: socket.socket, data: bytes) -> None:
        if connection in self._buffers:
            with contextlib.suppress(ConnectionError):
                connection.send(data)

    def _close(self, connection: socket.socket) -> None:
        self._loop.remove_reader(connection)
        del self._buffers[connection]
        connection.close()

    async def __aenter__(self) -> Self:
        self._listener.settimeout(0.0)
        self._loop.add_reader(self._listener, self.pump)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for connection in tuple(self._buffers):
            self._close(connection)
