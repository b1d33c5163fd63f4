"""Proxies in front of PostgreSQL: one that drops packets, and one that shares sessions."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import urllib.parse
from collections.abc import AsyncIterator
from typing import NamedTuple

__all__ = ("Cut", "Pooler", "running_cut", "running_pooler")

_AUTHENTICATED = b"R"
_READY = b"Z"
_IDLE = b"I"
_TEXT = b"SFATAL\0C08P01\0Mtransaction blocks not allowed in statement pooling mode\0\0"
_NO_TRANSACTION = b"E" + struct.pack(">I", len(_TEXT) + 4) + _TEXT


class _Address(NamedTuple):
    """The address of a server, and the URL of a proxy in front of it."""

    url: str

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the server."""
        parts = urllib.parse.urlsplit(self.url)
        folder = dict(urllib.parse.parse_qsl(parts.query)).get("host")
        if folder is not None:
            return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{parts.port or 5432}")
        return await asyncio.open_connection(parts.hostname, parts.port or 5432)

    def through(self, port: int) -> str:
        """Return the URL of a proxy on a port of this machine."""
        parts = urllib.parse.urlsplit(self.url)
        user = parts.netloc.rpartition("@")[0] or "postgres"
        return (
            f"postgresql://{user}@127.0.0.1:{port}{parts.path}?sslmode=disable&gssencmode=disable"
        )


class Cut:
    """
    A proxy that can drop everything between a client and its server, without closing anything.

    Attributes:
        url: the address of the proxy.
        passes: set while packets pass.
        connects: set while new connections get to the server.
        waiting: the number of connections that wait for that.
    """

    def __init__(self, url: str) -> None:
        self._server = _Address(url)
        self.url = ""
        self.passes = asyncio.Event()
        self.passes.set()
        self.connects = asyncio.Event()
        self.connects.set()
        self.waiting = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def listen(self, port: int) -> None:
        """Set the port."""
        self.url = self._server.through(port)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Copy both ways."""
        self.waiting += 1
        await self.connects.wait()
        self.waiting -= 1
        theirs, to_them = await self._server.connect()
        self._writers += [writer, to_them]
        for source, target in ((reader, to_them), (theirs, writer)):
            task = asyncio.create_task(self._copy(source, target))
            self._tasks.add(task)

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await source.read(65536):
                if self.passes.is_set():
                    target.write(data)
                    await target.drain()
        target.close()

    async def close(self) -> None:
        """Close all connections."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def running_cut(url: str) -> AsyncIterator[Cut]:
    """Run a proxy that can drop packets."""
    cut = Cut(url)
    server = await asyncio.start_server(cut.accept, "127.0.0.1", 0)
    cut.listen(server.sockets[0].getsockname()[1])
    try:
        yield cut
    finally:
        server.close()
        await cut.close()


class Pooler:
    """
    A proxy that lends sessions of the server for one transaction each, as PgBouncer may.

    Attributes:
        url: the address of the proxy.
        is_sharing: unset while each client has a session of its own, as one may have by chance.
        allows_transactions: unset to reject transactions, as PgBouncer in statement mode does.
    """

    def __init__(self, url: str) -> None:
        self._server = _Address(url)
        self.url = ""
        self.is_sharing = True
        self.allows_transactions = True
        self._greeting = b""
        self._startup = b""
        self._writers: list[asyncio.StreamWriter] = []
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def listen(self, port: int) -> None:
        """Set the port."""
        self.url = self._server.through(port)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client until it leaves."""
        self._writers.append(writer)
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            (size,) = struct.unpack(">I", await reader.readexactly(4))
            self._startup = struct.pack(">I", size) + await reader.readexactly(size - 4)
            own = await self._borrow()
            if self.is_sharing:
                self._free.append(own)
            writer.write(self._greeting)
            while data := await reader.read(65536):
                theirs, to_them = await self._borrow() if self.is_sharing else own
                to_them.write(data)
                while not await self._reply(theirs, writer):
                    to_them.write(await reader.read(65536))
                if self.is_sharing:
                    self._free.append((theirs, to_them))
        writer.close()

    async def _reply(self, theirs: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Copy a reply; return whether it ends a transaction."""
        found, kind = b"", b""
        while kind != _READY:
            kind, message = await _message(theirs)
            found += message
        is_idle = found[-1:] == _IDLE
        if not (is_idle or self.allows_transactions):
            writer.write(_NO_TRANSACTION)
            raise ConnectionError
        writer.write(found)
        return is_idle

    async def _borrow(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._free:
            return self._free.pop()
        theirs, to_them = await self._server.connect()
        self._writers.append(to_them)
        to_them.write(self._startup)
        greeting, kind = b"", b""
        while kind != _READY:
            kind, message = await _message(theirs)
            greeting += message
        self._greeting = greeting
        return theirs, to_them

    async def close(self) -> None:
        """Close all connections."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    (size,) = struct.unpack(">I", head[1:])
    return head[:1], head + await reader.readexactly(size - 4)


@contextlib.asynccontextmanager
async def running_pooler(url: str) -> AsyncIterator[Pooler]:
    """Run a proxy that shares sessions."""
    pooler = Pooler(url)
    server = await asyncio.start_server(pooler.accept, "127.0.0.1", 0)
    pooler.listen(server.sockets[0].getsockname()[1])
    try:
        yield pooler
    finally:
        server.close()
        await pooler.close()
