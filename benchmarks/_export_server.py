"""A scripted server of large CSV exports, which throttles two requests and breaks a connection."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Self

__all__ = ("HEADER", "ExportServer", "blocks")

HEADER = b"date,number,value\n"
_ROWS = 200
_RESET = struct.pack("ii", 1, 0)
#: The numbers of the requests that are throttled, and of the one whose connection breaks half-way.
_THROTTLED, _BROKEN = (3, 4), 8


def blocks(month: str, size: int) -> Iterator[bytes]:
    """Yield the rows of a month, about `size` bytes; no two are the same."""
    sent, number = 0, 0
    padding = b"0" * 960
    while sent < size:
        rows = [b"%s,%09d,%s\n" % (month.encode(), number + row, padding) for row in range(_ROWS)]
        block = b"".join(rows)
        number, sent = number + _ROWS, sent + len(block)
        yield block


class ExportServer:
    """
    A server on loopback.

    Args:
        sizes: bytes of a response by the first day of its dates; `size` for all others.

    Attributes:
        requests: the first days of all requests, in order of arrival.
    """

    def __init__(self, size: int, sizes: dict[str, int] | None = None) -> None:
        self._size = size
        self._sizes = sizes or {}
        self.requests: list[str] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """The origin of the server."""
        host, port = self._server.sockets[0].getsockname()
        return f"http://{host}:{port}"

    def size_of(self, month: str) -> int:
        """Return the bytes of a response, without its header and up to a block more."""
        return self._sizes.get(month, self._size)

    def digest(self, months: list[str]) -> str:
        """Return the SHA-256 of the complete file."""
        digest = hashlib.sha256(HEADER)
        for month in months:
            for block in blocks(month, self.size_of(month)):
                digest.update(block)
        return digest.hexdigest()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
                body = json.loads(await reader.readexactly(length))
                await self._respond(body["filters"]["date"][0], writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has closed the connection, or this server has
        finally:
            writer.close()

    async def _respond(self, month: str, writer: asyncio.StreamWriter) -> None:
        self.requests.append(month)
        number = len(self.requests)
        if number in _THROTTLED:
            writer.write(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n")
            return
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + _chunk(HEADER))
        sent, size = 0, self.size_of(month)
        for block in blocks(month, size):
            writer.write(_chunk(block))
            await writer.drain()
            sent += len(block)
            if number == _BROKEN and sent > size / 2:
                connection = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
                return
        writer.write(_chunk(b""))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def months_of(first: dt.date, count: int) -> list[str]:
    """Return the first days of consecutive months."""
    numbers = range(first.year * 12 + first.month - 1, first.year * 12 + first.month - 1 + count)
    return [dt.date(number // 12, number % 12 + 1, 1).isoformat() for number in numbers]
