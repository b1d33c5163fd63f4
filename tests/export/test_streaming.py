"""Exports over real sockets: broken connections, throttling, limits, and kills."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import anyio
import msgspec
import pytest

from adapty_async import (
    AdaptyError,
    AdaptyExportClient,
    AuthenticationError,
    ConnectionLostError,
    DecodeError,
    Endpoint,
    ExportError,
    Limits,
    RequestRejectedError,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
)
from adapty_async._api.call import CallState
from adapty_async._http.attempt import TimeoutScheduler
from adapty_async._http.streaming import read_into
from adapty_async._runtime.loop import in_thread
from adapty_async.export import ChunkWritten, CsvExport, Filters, JsonChunks, JsonExport
from adapty_async.export._sinks import MemorySink
from adapty_async.hooks import CallEnded, Event
from adapty_async.testing import FakeClock
from benchmarks._export_server import ExportServer
from benchmarks.export import ADDED_MB, measure
from tests._support import LOOPS, a_request, loop_turns
from tests.raw_server import (
    CLOSE,
    HOLD,
    RESET,
    STALL,
    Drip,
    RawServer,
    Received,
    Steps,
    api_error,
    own_tasks,
    page,
    reply,
)

KEY = "secret_live_TEST.key"
YEAR = Filters(date=("2025-01-01", "2025-12-31"))
QUICK = RetryPolicy(attempts=4, wait_initial=0.001, wait_max=0.001)
HEAD = b"date,value\n"
THROTTLED = (b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n",)
TORN = reply(body=HEAD + b"2025-01-01,1\n")[:-4]


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run the tests on both event loops."""
    return request.param


def client_of(server: RawServer | ExportServer, **options: Any) -> AdaptyExportClient:
    """Return a client without a relevant rate limit, which retries at once."""
    limits = Limits(rate=10_000.0)
    return AdaptyExportClient(
        KEY, **{"base_url": server.url, "retry": QUICK, "limits": limits, **options}
    )


def chart(client: AdaptyExportClient) -> CsvExport:
    """Return a chart as CSV."""
    return client.analytics(chart_id="mrr", filters=YEAR, period_unit="day", format="csv")


def typed_chart(client: AdaptyExportClient) -> JsonExport[Any]:
    """Return a chart as JSON."""
    return client.analytics(chart_id="mrr", filters=YEAR)


def month_of(request: Received) -> str:
    """Return the first day of a request's range."""
    first: str = msgspec.json.decode(request.body)["filters"]["date"][0]
    return first


def rows(request: Received) -> bytes:
    """Return a CSV body for a request."""
    return HEAD + f"{month_of(request)},1\n".encode()


def by_month(request: Received) -> Steps:
    """Respond with a row for the month."""
    return (reply(body=rows(request)),)


def by_month_of(month: int) -> Steps:
    """Respond with a row for a month of 2025."""
    return (reply(body=HEAD + b"2025-%02d-01,1\n" % month),)


EXPECTED = HEAD + b"".join(b"2025-%02d-01,1\n" % month for month in range(1, 13))


def is_free(client: AdaptyExportClient) -> bool:
    """Return whether no permit is held, and nothing is in flight."""
    connections = client._executor.layers.connections.get()
    others = own_tasks() - {asyncio.current_task()}
    in_flight = client.statistics().buckets["export"].in_flight
    return connections.available == connections.count and not in_flight and not others


def names(folder: Path) -> list[str]:
    """Return the names of the files in a folder."""
    return [path.name for path in folder.iterdir()]


FAULTS: dict[str, Steps] = {
    "throttled": THROTTLED,
    "unavailable": (api_error(503, "unavailable"),),
    "gateway": (page(502),),
    "reset": (RESET,),
    "closed": (CLOSE,),
    "reset in the body": (TORN, RESET),
    "closed in the body": (TORN, CLOSE),
    "closed in a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ndate", CLOSE),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_failed_attempt_is_retried(fault: Steps, tmp_path: Path) -> None:
    """Throttling, an outage and a connection that breaks anywhere cost a retry, and no row."""
    path = tmp_path / "chart.csv"
    first = (reply(body=HEAD + b"2025-01-01,1\n"),)
    async with (
        RawServer(first, fault, fault, then=by_month) as server,
        client_of(server) as client,
    ):
        file = await chart(client).chunks(by="month").write_to(path)
        assert is_free(client)

    assert path.read_bytes() == EXPECTED
    assert (file.chunks, file.resumed, file.size) == (12, 0, len(EXPECTED))
    assert [month_of(each) for each in server.requests][1:4] == ["2025-02-01"] * 3
    assert len(server.requests) == 14


async def test_lines_are_those_of_complete_responses() -> None:
    """Iteration yields no line of a response that breaks, and each line of the others once."""
    async with (
        RawServer((TORN, RESET), THROTTLED, then=by_month) as server,
        client_of(server) as client,
    ):
        lines = [line async for line in chart(client).chunks(by="month")]
        assert is_free(client)

    assert "".join(lines).encode() == EXPECTED
    assert len(lines) == 13


async def test_a_typed_result_survives_a_broken_connection() -> None:
    """A typed result is decoded from the attempt that is complete."""
    body = b'{"data":{"mrr":{"value":1.5}}}'
    async with (
        RawServer((reply(body=body)[:-3], RESET), then=(reply(body=body),)) as server,
        client_of(server) as client,
    ):
        result = await typed_chart(client)

    assert result.data["mrr"].value == 1.5


ERRORS: dict[str, tuple[Steps, type[AdaptyError], str]] = {
    "key": ((api_error(401, "not_authenticated"),), AuthenticationError, "status 401"),
    "outage": ((api_error(500, "oops"),), ServerError, "status 500"),
    "broken": ((TORN, RESET), ConnectionLostError, "the connection broke"),
    "page": ((page(200),), DecodeError, "a page"),
    "json": ((reply(body=b'{"data":{}}'),), DecodeError, "JSON, not CSV"),
}


@pytest.mark.parametrize(("steps", "kind", "message"), ERRORS.values(), ids=ERRORS)
async def test_an_export_that_fails_leaves_nothing(
    steps: Steps, kind: type[AdaptyError], message: str, tmp_path: Path
) -> None:
    """A failure is the error of any other call, and leaves no file and no permit."""
    async with RawServer(then=steps) as server, client_of(server) as client:
        with pytest.raises(kind, match=message) as caught:
            await chart(client).write_to(tmp_path / "chart.csv")
        assert caught.value.operation == "export.analytics"
        assert caught.value.attempts == len(server.requests)
        with pytest.raises(kind, match=message):
            [line async for line in chart(client)]
        assert is_free(client)

    assert names(tmp_path) == []


async def test_a_failure_keeps_the_chunks_before(tmp_path: Path) -> None:
    """The same export resumes after the chunks that were complete before it failed."""
    path = tmp_path / "chart.csv"
    progress: list[ChunkWritten] = []

    failing = {"2025-06-01"}

    def fail_in_june(request: Received) -> Steps:
        return (RESET,) if month_of(request) in failing else by_month(request)

    async with RawServer(then=fail_in_june) as server, client_of(server) as client:
        export = chart(client).chunks(by="month")
        with pytest.raises(ConnectionLostError):
            await export.write_to(path)
        assert not path.exists()
        server.requests.clear()
        failing.clear()
        file = await export.write_to(path, on_chunk=progress.append)

    assert path.read_bytes() == EXPECTED
    assert (file.chunks, file.resumed) == (12, 5)
    assert len(server.requests) == 7
    assert [(each.number, each.total) for each in progress] == [(n, 12) for n in range(6, 13)]
    assert progress[-1].size == len(EXPECTED)
    assert progress[0].dates == export.dates[5]


async def test_another_account_never_resumes(tmp_path: Path) -> None:
    """An export with another key starts fresh, since its rows are another app's."""
    path = tmp_path / "chart.csv"
    async with (
        RawServer(by_month_of(1), (RESET,), then=by_month) as server,
        client_of(server, retry=RetryPolicy(attempts=1)) as client,
        AdaptyExportClient("other", base_url=server.url, limits=Limits(rate=10_000.0)) as other,
    ):
        with pytest.raises(ConnectionLostError):
            await chart(client).chunks(by="month").write_to(path)
        file = await chart(other).chunks(by="month").write_to(path)

    assert (file.resumed, file.size) == (0, len(EXPECTED))


Begin = Callable[[AdaptyExportClient], CsvExport | JsonChunks[Any]]
OTHERS: dict[str, tuple[Begin, Callable[[AdaptyExportClient], CsvExport | JsonExport[Any]]]] = {
    "filters": (
        lambda client: chart(client).chunks(by="month"),
        lambda client: client.analytics(chart_id="arr", filters=YEAR, format="csv").chunks(
            by="month"
        ),
    ),
    "call": (
        lambda client: client.funnel(filters=YEAR, format="csv").chunks(by="year"),
        lambda client: client.retention(filters=YEAR, format="csv").chunks(by="year"),
    ),
    "time zone": (
        lambda client: client.funnel(filters=YEAR, format="csv", tz="UTC").chunks(by="year"),
        lambda client: client.funnel(filters=YEAR, format="csv", tz="Asia/Tokyo").chunks(by="year"),
    ),
    "form": (lambda client: typed_chart(client).chunks(by="year"), typed_chart),
}


@pytest.mark.parametrize(("begun", "other"), OTHERS.values(), ids=OTHERS)
async def test_another_export_never_resumes(
    begun: Begin,
    other: Callable[[AdaptyExportClient], CsvExport | JsonExport[Any]],
    tmp_path: Path,
) -> None:
    """The chunks of an export with other properties are no part of a file."""
    path = tmp_path / "chart"

    def respond(request: Received) -> Steps:
        return by_month(request) if b'"csv"' in request.body else (reply(body=b'{"data":{}}'),)

    async with RawServer(then=respond) as server, client_of(server) as client:
        with pytest.raises(ZeroDivisionError):
            await begun(client).write_to(path, on_chunk=lambda _: 1 / 0)
        assert len(server.requests) == 1
        file = await other(client).write_to(path)

    assert file.resumed == 0
    assert len(server.requests) == 1 + file.chunks


async def test_a_late_block_is_a_timeout() -> None:
    """A body whose blocks take too long to store ends with the deadline as well."""
    clock = FakeClock(5.0)
    timeouts = TimeoutScheduler(asyncio.get_running_loop(), clock)
    read_body = read_into(MemorySink("test"), timeouts, CallState(deadline=5.0), clock)
    response: Any = SimpleNamespace(content=aiohttp.EMPTY_PAYLOAD, status=200, headers={})

    with pytest.raises(RequestTimeoutError, match="not complete before the deadline"):
        await read_body(response, a_request())


async def test_a_silent_body_is_a_timeout(tmp_path: Path) -> None:
    """The timeout holds for each read of a body, and a body that goes silent is retried."""
    async with RawServer((TORN, STALL), then=(TORN, STALL)) as server:
        retry = RetryPolicy(attempts=2, wait_initial=0.001)
        async with client_of(server, timeout=0.3, retry=retry) as client:
            with pytest.raises(RequestTimeoutError, match="no response in time"):
                await chart(client).write_to(tmp_path / "chart.csv")
            assert is_free(client)

    assert len(server.requests) == 2


@pytest.mark.parametrize("anyio_backend", LOOPS[:1], indirect=True)
async def test_a_long_body_ends_with_the_deadline(tmp_path: Path) -> None:
    """A body that never goes silent may outlast the timeout, and not the call's deadline."""
    endless = (reply(body=b"x" * 100_000)[:-100_000], Drip(b"x"))
    retry = RetryPolicy(attempts=3, deadline=1.0)
    async with (
        RawServer(then=endless) as server,
        client_of(server, timeout=0.5, retry=retry) as client,
    ):
        with pytest.raises(RequestTimeoutError, match=r"no response in time|before the deadline"):
            await chart(client).write_to(tmp_path / "chart.csv")
        assert is_free(client)

    assert len(server.requests) == 1


async def test_a_cancelled_export_keeps_its_chunks(tmp_path: Path) -> None:
    """A cancellation in the middle of a body ends at once, and the export can be resumed."""
    path = tmp_path / "chart.csv"
    async with (
        RawServer(by_month_of(1), (TORN, HOLD), then=by_month) as server,
        client_of(server) as client,
    ):
        export = chart(client).chunks(by="month")
        task = asyncio.create_task(export.write_to(path))
        await server.until_arrived(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert is_free(client)
        server.released.set()
        file = await export.write_to(path)

    assert (file.resumed, path.read_bytes()) == (1, EXPECTED)


async def test_a_blocking_call_ends_before_its_cancellation() -> None:
    """A cancelled write has ended, with its error or without, before anything is closed."""
    ended: list[str] = []

    async def write(error: Exception | None) -> None:
        started, proceed = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def block() -> None:
            loop.call_soon_threadsafe(started.set)
            proceed.wait()
            ended.append("ended")
            if error is not None:
                raise error

        task = asyncio.create_task(in_thread(block))
        await started.wait()
        task.cancel()
        await loop_turns(2)
        assert not task.done()
        proceed.set()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.__cause__ is error  # otherwise asyncio would log it as never retrieved

    await write(None)
    await write(OSError("disk"))
    assert len(ended) == 2


async def test_an_export_ends_with_its_scope_of_anyio() -> None:
    """A cancelled scope reads no further block of lines, though each wait for one is shielded."""
    count = 0
    body = reply(body=HEAD + b"2025-01-01,1\n" * 100_000)
    async with RawServer(then=(body,)) as server, client_of(server) as client:
        with anyio.CancelScope() as scope:
            async for _ in chart(client):
                count += 1
                scope.cancel()
        assert is_free(client)

    assert scope.cancelled_caught
    assert 0 < count < 50_000


async def test_iteration_may_end_early() -> None:
    """A loop that is left early sends nothing more, and leaves nothing open."""
    async with RawServer(then=by_month) as server, client_of(server) as client:
        async for line in chart(client).chunks(by="month"):
            assert line == HEAD.decode()
            break
        assert is_free(client)

    assert len(server.requests) == 1


async def test_lines_have_their_line_breaks() -> None:
    """Lines are those of the file: quoted line breaks, UTF-8, without its byte order mark."""
    body = '\ufeffdate,name\r\n1,"ü\nö"\r\n\ufeff2,\r\n'.encode()
    async with RawServer(then=(reply(body=body),)) as server, client_of(server) as client:
        lines = [line async for line in chart(client)]

    assert lines == ["date,name\r\n", '1,"ü\n', 'ö"\r\n', "\ufeff2,\r\n"]


async def test_lines_are_bounded() -> None:
    """A line above 8 MiB, and bytes that are not UTF-8, are errors."""
    long = HEAD + b"x" * (8 * 1024 * 1024)
    async with (
        RawServer((reply(body=long),), then=(reply(body=b"a\n\xff\n"),)) as server,
        client_of(server) as client,
    ):
        with pytest.raises(DecodeError, match="a line is longer than 8388608 bytes"):
            [line async for line in chart(client)]
        with pytest.raises(DecodeError, match="not UTF-8 text"):
            [line async for line in chart(client)]


@contextlib.asynccontextmanager
async def given_session() -> AsyncIterator[aiohttp.ClientSession]:
    """Return a session of the caller's."""
    async with aiohttp.ClientSession() as session:
        yield session


@contextlib.asynccontextmanager
async def own_session() -> AsyncIterator[None]:
    """Return no session: the client has its own."""
    yield None


PLAIN = HEAD + b"2025-01-01,1\n" * 200_000
PACKED = gzip.compress(PLAIN)


@pytest.mark.parametrize("session_of", [own_session, given_session])
async def test_a_compressed_body_is_unpacked(session_of: Any, tmp_path: Path) -> None:
    """A body of one or several compressed parts, or an empty one, is written unpacked."""
    bodies = {
        PACKED: PLAIN,
        gzip.compress(HEAD) + gzip.compress(b"x,1\n"): HEAD + b"x,1\n",
        b"": b"",
    }
    async with (
        RawServer(*((reply(body=body, Content_Encoding="GZIP"),) for body in bodies)) as server,
        session_of() as session,
        client_of(server, session=session) as client,
    ):
        for expected in bodies.values():
            await chart(client).write_to(tmp_path / "chart.csv")
            assert (tmp_path / "chart.csv").read_bytes() == expected

    assert {request.headers["accept-encoding"] for request in server.requests} == {"gzip"}


@pytest.mark.parametrize("session_of", [own_session, given_session])
@pytest.mark.parametrize(
    "torn",
    [PACKED[:-2000], PACKED[:-1], PACKED[:-8] + bytes(8), PLAIN],
    ids=["early end", "no end", "wrong checksum", "not compressed"],
)
async def test_a_compressed_body_that_is_torn_is_retried(
    torn: bytes, session_of: Any, tmp_path: Path
) -> None:
    """A compressed body without its end is a broken connection, even if its length is right."""
    async with (
        RawServer(
            (reply(body=torn, Content_Encoding="gzip"),),
            (reply(body=PACKED, Content_Encoding="x-gzip"),),
        ) as server,
        session_of() as session,
        client_of(server, session=session) as client,
    ):
        await chart(client).write_to(tmp_path / "chart.csv")
        assert is_free(client)

    assert (tmp_path / "chart.csv").read_bytes() == PLAIN
    assert len(server.requests) == 2


class Blocks:
    """A sink that records the sizes of the blocks that it receives."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def restart(self) -> None:
        """Discard them."""
        self.sizes.clear()

    def write(self, block: bytes) -> None:
        """Record a block."""
        self.sizes.append(len(block))

    def finish(self) -> bytes:
        """Return nothing."""
        return b""


async def test_a_compressed_body_never_becomes_one_block() -> None:
    """A small body that unpacks to a large one comes in blocks, and a typed result is bounded."""
    size, blocks = 65 * 1024 * 1024, Blocks()
    body = gzip.compress(bytes(size), 1)
    bomb = reply(body=body, Content_Encoding="gzip", Request_Id="r1")
    failed = reply(400, body, Content_Encoding="gzip")
    call = Endpoint(name="a.b", method="GET", path="/a/", decode=bytes)()
    async with RawServer((bomb,), (failed,), (bomb,)) as server, client_of(server) as client:
        await client._stream(call, blocks)
        with pytest.raises(RequestRejectedError):
            await client._stream(call, blocks)
        with pytest.raises(DecodeError, match="response larger than 67108864 bytes") as caught:
            await typed_chart(client)

    assert (sum(blocks.sizes), max(blocks.sizes)) == (size, 1024 * 1024)
    assert (caught.value.status, caught.value.request_id) == (200, "r1")


async def test_a_body_that_is_said_not_to_be_compressed_is_written(tmp_path: Path) -> None:
    """Some servers name the encoding of a body without one."""
    plain = reply(body=HEAD, Content_Encoding="identity")
    async with RawServer(then=(plain,)) as server, client_of(server) as client:
        await chart(client).write_to(tmp_path / "chart.csv")

    assert (tmp_path / "chart.csv").read_bytes() == HEAD


async def test_an_unknown_compression_is_an_error(tmp_path: Path) -> None:
    """A body in a compression that was not asked for is not written as if it were a chart."""
    strange = reply(body=b"\x1b\x00", Content_Encoding="br", Request_Id="r1")
    async with RawServer(then=(strange,)) as server, client_of(server) as client:
        with pytest.raises(DecodeError, match="compressed, and not with gzip") as caught:
            await chart(client).write_to(tmp_path / "chart.csv")

    assert (caught.value.status, caught.value.request_id) == (200, "r1")
    assert not names(tmp_path)


async def test_a_compressed_error_has_its_code() -> None:
    """The body of an error is unpacked as well, if it can be."""
    body = b'{"errors":[{"source":"filters","errors":["no"]}],"error_code":"odd","status_code":400}'
    packed = reply(400, gzip.compress(body), Content_Encoding="gzip")
    torn = reply(400, body, Content_Encoding="gzip")
    async with RawServer((packed,), (torn,)) as server, client_of(server) as client:
        for code in ("odd", None):
            with pytest.raises(RequestRejectedError) as caught:
                await typed_chart(client)
            assert caught.value.error_code == code


async def test_a_given_session_streams_as_well(tmp_path: Path) -> None:
    """An export over the caller's session is complete, retries included."""
    path = tmp_path / "chart.csv"
    async with (
        RawServer((TORN, RESET), THROTTLED, then=by_month) as server,
        given_session() as session,
        client_of(server, session=session) as client,
    ):
        await chart(client).chunks(by="month").write_to(path)
        assert is_free(client)

    assert path.read_bytes() == EXPECTED


async def test_connections_are_kept() -> None:
    """Requests go over one connection, as those of other calls do."""
    async with RawServer(then=by_month) as server, client_of(server) as client:
        [line async for line in chart(client).chunks(by="month")]

    assert (server.connections, len(server.requests)) == (1, 12)


async def test_kept_connections_that_died_are_not_tried_one_by_one() -> None:
    """After a failure over a kept connection, the retry opens a new one."""

    def respond(request: Received) -> Steps:
        return (RESET,) if request.connection <= 2 else by_month(request)

    async def lines() -> list[str]:
        return [line async for line in chart(client)]

    retry = RetryPolicy(attempts=2, wait_initial=0.001, wait_max=0.001)
    held = (HOLD, reply(body=HEAD))
    async with (
        RawServer(held, held, then=respond) as server,
        client_of(server, retry=retry) as client,
    ):
        calls = [asyncio.ensure_future(lines()) for _ in range(2)]
        await server.until_arrived(2)
        server.released.set()
        await asyncio.gather(*calls)
        assert len(await lines()) == 2

        assert server.connections == 3


async def test_hooks_see_each_request() -> None:
    """A hook receives the end of each call when its body has ended."""
    events: list[Event] = []
    async with (
        RawServer((TORN, RESET), then=by_month) as server,
        client_of(server, hooks=(events.append,)) as client,
    ):
        [line async for line in chart(client).chunks(by="quarter")]

    ends = [event for event in events if isinstance(event, CallEnded)]
    assert [(end.attempts, end.status) for end in ends] == [(2, 200), (1, 200), (1, 200), (1, 200)]


async def test_a_full_disk_is_no_retry(tmp_path: Path) -> None:
    """A file that cannot be written is an error at once: the response is not to blame."""
    async with RawServer(then=by_month) as server, client_of(server) as client:
        (tmp_path / "chart.csv").mkdir()
        with pytest.raises(ExportError, match="is not a regular file"):
            await chart(client).write_to(tmp_path / "chart.csv")
        assert not server.requests
        other = (reply(body=b"other\n1\n"),)
        server._script.extend([by_month_of(1), other])
        with pytest.raises(ExportError, match=r"the columns of .*2025-02-01.* differ") as caught:
            await chart(client).chunks(by="month").write_to(tmp_path / "other.csv")
        assert caught.value.operation is None or caught.value.operation == "export.analytics"
        assert is_free(client)

    assert len(server.requests) == 2


_KILLED = """
import asyncio, sys
from adapty_async import AdaptyExportClient, Limits
from adapty_async.export import Filters

async def main(url, path):
    limits = Limits(rate=1e4)
    async with AdaptyExportClient("secret_live_TEST.key", base_url=url, limits=limits) as client:
        filters = Filters(date=("2025-01-01", "2025-12-31"))
        chart = client.analytics(chart_id="mrr", filters=filters, period_unit="day", format="csv")
        await chart.chunks(by="month").write_to(path)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("anyio_backend", LOOPS[:1], indirect=True)
async def test_a_killed_export_resumes(tmp_path: Path) -> None:
    """A process that is killed in the middle of a body loses no complete chunk, and no row."""
    path = tmp_path / "chart.csv"
    script = [by_month_of(1), by_month_of(2), (TORN, HOLD)]
    async with RawServer(*script, then=by_month) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _KILLED, server.url, str(path)
        )
        await server.until_arrived(3)
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        assert not path.exists()
        server.released.set()
        async with client_of(server) as client:
            file = await chart(client).chunks(by="month").write_to(path)

    assert (file.resumed, path.read_bytes()) == (2, EXPECTED)
    assert names(tmp_path) == ["chart.csv"]


@pytest.mark.parametrize("anyio_backend", LOOPS[:1], indirect=True)
async def test_memory_stays_flat(tmp_path: Path) -> None:
    """
    An export of 24 months has every row once, and adds less than 15 MB of memory at any size.

    The server throttles two requests and resets a connection. `python -m benchmarks.export` does
    the same with 200 MB in each response.
    """
    server = ExportServer(100_000, {"2024-06-01": 30_000_000})
    result = await measure(server, 24, tmp_path, rate=1000.0)

    assert result.is_complete
    assert (result.exported.chunks, result.retried) == (24, 3)
    assert result.exported.size > 30_000_000
    assert result.exported.added_mb < ADDED_MB
