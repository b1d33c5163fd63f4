"""
A cheap fake server with a rate limit that clients do not know.

Run as ``python -m benchmarks._limited_server SETTINGS`` with `ServerSettings` as JSON; it prints
its port. The response to a ``DELETE`` of ``user_<number>`` is a 204, 429 or 503, as the limit
decides, and is counted. The response to ``GET /`` is the `Record` so far. All other responses are
those that nginx is configured with for benchmarks without a limit. The server parses just enough
HTTP/1.1 for that: a limit of thousands of requests per second must leave the machine to the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import time
import urllib.request
from array import array
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import cast

import msgspec

from benchmarks._limit_models import LimitSettings, Outage, back_at, most_within
from benchmarks._samples import PROFILE_V1, PROFILE_V2, SAVED

__all__ = ("PATH", "LimitedServer", "Record", "ServerSettings", "Tally", "running", "start")

PATH = "/api/v1/server-side-api/profiles/"

_JITTER = 0.2
_FULL_RATE = 0.95
_SECONDS_BEFORE, _SECONDS_AFTER = 3, 10
_BACKLOG = 1024  # no client may wait for its connections
_DELETE = f"DELETE {PATH} ".encode()
_ID = b"\r\nadapty-customer-user-id:"
_ID_PREFIX = b"user_"
_LENGTH = b"\r\ncontent-length:"
_GET_RECORD = b"GET / "


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    The settings of a server process.

    Attributes:
        items: ids are the numbers from 0 to `items` - 1.
        limit: the settings of the rate limit.
        latency: seconds from a request to its response, with a random variation of up to a fifth.
        retry_after: seconds in the `Retry-After` header of a 429, None for no header.
        seed: the seed of the random numbers.
    """

    items: int
    limit: LimitSettings
    latency: float
    retry_after: int | None
    seed: int


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """
    The server's record of a run.

    Attributes:
        arrivals: requests that arrived.
        accepted, throttled, unavailable: responses with status 204, 429 and 503.
        once, repeated, never: ids that were accepted once, more than once, and never.
        strange: requests that were not about one of the ids.
        others: requests that were not deletes, and not limited.
        most_throttled: the largest number of 429s of one id.
        most_in_a_second: the most requests accepted in any period of one second.
        first_accepted, last_accepted: times in seconds after the first request.
        back_after: seconds from the end of an outage to the first second at 95 % of the limit;
            None if there was no such second.
        around_recovery: requests accepted in each second from 3 before to 10 after that end.
        cpu: processor time of this process since the first request, in seconds.
    """

    arrivals: int
    accepted: int
    throttled: int
    unavailable: int
    once: int
    repeated: int
    never: int
    strange: int
    others: int
    most_throttled: int
    most_in_a_second: int
    first_accepted: float
    last_accepted: float
    back_after: float | None
    around_recovery: tuple[int, ...]
    cpu: float


class Tally:
    """A recorder that decides on each request and counts it; no I/O."""

    def __init__(self, settings: ServerSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._limit = settings.limit.make(settings.seed)
        self._outage = settings.limit.outage or Outage(0.0, 0.0)
        self._began: float | None = None
        self._cpu_before = 0.0
        self._unavailable = self._strange = 0
        self.others = 0
        self._moments = array("d")
        self._accepted = array("H", bytes(2 * settings.items))
        self._throttled = array("H", bytes(2 * settings.items))

    def decide(self, number: int | None) -> HTTPStatus:
        """Return the status of the response for an id; None is not an id."""
        if self._began is None:
            self._began, self._cpu_before = self._clock(), time.process_time()
        if number is None or number >= self._settings.items:
            self._strange += 1
            return HTTPStatus.BAD_REQUEST
        now = self._clock() - self._began
        if self._outage.covers(now):
            self._unavailable += 1
            return HTTPStatus.SERVICE_UNAVAILABLE
        if not self._limit.admit(now):
            self._throttled[number] += 1
            return HTTPStatus.TOO_MANY_REQUESTS
        self._moments.append(now)
        self._accepted[number] += 1
        return HTTPStatus.NO_CONTENT

    def record(self) -> Record:
        """Return the record so far."""
        accepted, throttled = len(self._moments), sum(self._throttled)
        once, never = self._accepted.count(1), self._accepted.count(0)
        back_after, around_recovery = self._recovery()
        return Record(
            arrivals=accepted + throttled + self._unavailable + self._strange,
            accepted=accepted,
            throttled=throttled,
            unavailable=self._unavailable,
            once=once,
            repeated=len(self._accepted) - once - never,
            never=never,
            strange=self._strange,
            others=self.others,
            most_throttled=max(self._throttled, default=0),
            most_in_a_second=most_within(self._moments, 1.0),
            first_accepted=self._moments[0] if accepted else 0.0,
            last_accepted=self._moments[-1] if accepted else 0.0,
            back_after=back_after,
            around_recovery=around_recovery,
            cpu=time.process_time() - self._cpu_before,
        )

    def _recovery(self) -> tuple[float | None, tuple[int, ...]]:
        limit = self._settings.limit
        outage = limit.outage
        if outage is None:
            return None, ()
        full = round(_FULL_RATE * limit.rates.steps[-1][1])
        seconds = [0] * (_SECONDS_BEFORE + _SECONDS_AFTER)
        for moment in self._moments:
            since = moment - outage.end + _SECONDS_BEFORE
            if 0 <= since < len(seconds):
                seconds[int(since)] += 1
        return back_at(self._moments, full, outage.end), tuple(seconds)


class LimitedServer:
    """A handle of a running server process."""

    def __init__(self, url: str, process: int) -> None:
        self.url = url
        self.process = process

    def record(self) -> Record:
        """Fetch the server's record."""
        with urllib.request.urlopen(self.url) as response:  # loopback
            return msgspec.json.decode(response.read(), type=Record)


@contextlib.contextmanager
def running(settings: ServerSettings) -> Iterator[LimitedServer]:
    """Start a server in a process of its own, and stop it when the block ends."""
    command = [sys.executable, "-m", "benchmarks._limited_server"]
    arguments = [msgspec.json.encode(settings).decode()]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            yield LimitedServer(url, process.pid)
        finally:
            process.terminate()


class _Service:
    """The state that connections share: the record, the responses and their delays."""

    def __init__(self, settings: ServerSettings) -> None:
        self._latency = settings.latency
        self._random = random.Random(settings.seed)
        self._responses = _responses(settings.retry_after)
        self._tally = Tally(settings, time.monotonic)

    def delay(self) -> float:
        """Return the seconds until the next response is sent."""
        return self._latency * (1 - _JITTER + 2 * _JITTER * self._random.random())

    def response(self, head: bytes) -> bytes:
        """Return the response to a delete; `head` is the request without a body, in lower case."""
        return self._responses[self._tally.decide(_number(head))]

    def other(self, request: bytes) -> bytes:
        """Return the response to a request that is not a delete."""
        self._tally.others += 1
        return next(
            (response for start, response in _OTHERS.items() if request.startswith(start)), _SUCCESS
        )

    def record(self) -> bytes:
        """Return the record as a response."""
        body = msgspec.json.encode(self._tally.record())
        return _message(HTTPStatus.OK, body)


class _Connection(asyncio.Protocol):
    """A connection with at most one request in flight."""

    def __init__(self, service: _Service) -> None:
        self._service = service
        self._call_later = asyncio.get_running_loop().call_later
        self._pending = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop has a class of its own

    def data_received(self, data: bytes) -> None:
        """Send the response when the request is complete."""
        data = self._pending + data
        end = data.find(b"\r\n\r\n")
        head = data[: end + 2].lower()
        missing = end + 4 + int(_header(head, _LENGTH) or 0) - len(data)
        if end < 0 or missing > 0:
            self._pending = data
            return
        self._pending = b""
        if missing < 0:  # pipelining, which no client of the benchmark uses
            self._transport.abort()
        elif data.startswith(_DELETE):
            self._call_later(self._service.delay(), self._send, self._service.response(head))
        elif data.startswith(_GET_RECORD):
            self._send(self._service.record())
        else:
            self._send(self._service.other(data))

    def _send(self, response: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(response)


def _header(head: bytes, name: bytes) -> bytes:
    start = head.find(name)
    if start < 0:
        return b""
    start += len(name)
    return head[start : head.index(b"\r", start)].strip()


def _number(head: bytes) -> int | None:
    digits = _header(head, _ID).removeprefix(_ID_PREFIX)
    return int(digits) if digits.isdigit() else None


def _responses(retry_after: int | None) -> dict[HTTPStatus, bytes]:
    wait = b"" if retry_after is None else f"Retry-After: {retry_after}\r\n".encode()
    return {
        HTTPStatus.NO_CONTENT: _message(HTTPStatus.NO_CONTENT, b""),
        HTTPStatus.TOO_MANY_REQUESTS: _error(HTTPStatus.TOO_MANY_REQUESTS, "rate_limited", wait),
        HTTPStatus.SERVICE_UNAVAILABLE: _error(
            HTTPStatus.SERVICE_UNAVAILABLE, "service_unavailable"
        ),
        HTTPStatus.BAD_REQUEST: _error(HTTPStatus.BAD_REQUEST, "bad_request"),
    }


def _error(status: HTTPStatus, code: str, headers: bytes = b"") -> bytes:
    problem = {"source": None, "errors": [status.phrase]}
    content = {"errors": [problem], "error_code": code, "status_code": status}
    return _message(status, msgspec.json.encode(content), headers)


def _message(status: HTTPStatus, body: bytes, headers: bytes = b"") -> bytes:
    first = f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    if body:
        headers += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n".encode()
    return first + headers + b"\r\n" + body


_SUCCESS = _message(HTTPStatus.OK, SAVED)
_OTHERS = {
    f"GET {PATH} ".encode(): _message(HTTPStatus.OK, PROFILE_V1),
    b"GET /api/v2/server-side-api/profile/ ": _message(HTTPStatus.OK, PROFILE_V2),
}


async def start(settings: ServerSettings) -> asyncio.Server:
    """Start a server on a free port of this machine."""
    service = _Service(settings)
    return await asyncio.get_running_loop().create_server(
        lambda: _Connection(service), "127.0.0.1", 0, backlog=_BACKLOG
    )


async def _serve(settings: ServerSettings) -> None:
    server = await start(settings)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415  an extra; it halves the cost of a request here
    except ImportError:
        return None
    return uvloop.new_event_loop


def main() -> None:
    """Serve until the process is terminated."""
    settings = msgspec.json.decode(sys.argv[1], type=ServerSettings)
    runner = asyncio.Runner(loop_factory=_loop_factory())
    with contextlib.suppress(KeyboardInterrupt), runner:
        runner.run(_serve(settings))


if __name__ == "__main__":
    main()
