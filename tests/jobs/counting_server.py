"""
A cheap fake server that counts the requests for each id in a file, which its death does not undo.

Run as ``python -m tests.jobs.counting_server PORT FILE``. Ids are ``user_<number>``. It responds to
a DELETE with 204, and to a POST with a new profile, after some milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import uvloop

from benchmarks._samples import PROFILE_V1
from tests.ports import held_port

__all__ = ("CountingServer", "Counts")

_LATENCY = 0.01
_ID = re.compile(rb"\r\nadapty-customer-user-id: ?user_([0-9]+)\r\n", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: ?([0-9]+)\r\n", re.IGNORECASE)
_DELETED = b"HTTP/1.1 204 No Content\r\n\r\n"
_CREATED = (
    b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(PROFILE_V1), PROFILE_V1)
)
_HEAD = 8  # bytes of the number of requests


class Counts:
    """The counts in a file, which the server changes."""

    def __init__(self, path: Path, items: int) -> None:
        if not path.exists():
            path.write_bytes(bytes(_HEAD + items))
        with path.open("r+b") as file:
            self._data = mmap.mmap(file.fileno(), 0)

    @property
    def requests(self) -> int:
        """The number of requests so far."""
        return int.from_bytes(self._data[:_HEAD], "little")

    def add(self, number: int) -> None:
        """Count a request."""
        self._data[_HEAD + number] = min(255, self._data[_HEAD + number] + 1)
        self._data[:_HEAD] = (self.requests + 1).to_bytes(_HEAD, "little")

    def by_item(self) -> bytes:
        """Return the number of requests of each id, a byte each."""
        return self._data[_HEAD:]


class _Connection(asyncio.Protocol):
    """A connection with at most one request in flight."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._pending = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Count a request when it is complete, and respond later."""
        data = self._pending + data
        end = data.find(b"\r\n\r\n")
        length = _LENGTH.search(data[: end + 2])
        if end < 0 or len(data) < end + 4 + (int(length[1]) if length else 0):
            self._pending = data
            return
        self._pending = b""
        found = _ID.search(data[: end + 2])
        assert found is not None
        self._counts.add(int(found[1]))
        response = _DELETED if data.startswith(b"DELETE") else _CREATED
        asyncio.get_running_loop().call_later(_LATENCY, self._send, response)

    def _send(self, response: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(response)


class CountingServer:
    """
    A server process that a test kills and restarts at the same address.

    Attributes:
        url: the address.
        counts: the counts.
    """

    def __init__(self, folder: Path, items: int) -> None:
        self._file = folder / "counts"
        self.counts = Counts(self._file, items)
        self._held = held_port()
        self._port = self._held.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        command = [sys.executable, "-m", "tests.jobs.counting_server", str(self._port)]
        self._process = subprocess.Popen([*command, str(self._file)])
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self._port)).close()
                return
            assert self._process.poll() is None
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill the server."""
        self._process.kill()
        self._process.wait()

    @contextlib.contextmanager
    def running(self) -> Iterator[CountingServer]:
        """Run the server."""
        self.start()
        try:
            yield self
        finally:
            self.kill()
            self._held.close()


async def _serve(port: int, path: Path) -> None:
    counts = Counts(path, 0)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Connection(counts), "127.0.0.1", port, backlog=1024, reuse_address=True
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), Path(sys.argv[2])))
