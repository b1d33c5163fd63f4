"""A job: signals stop it, its result is always reported, and determines the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from adapty_async import v1
from adapty_async._api.call import Request, Response
from adapty_async._input.layout import Layout, Row
from adapty_async._input.rows import Rows, open_rows
from adapty_async._input.schema import id_columns, id_from
from adapty_async._journal import RunName
from adapty_async.bulk import BulkReport, Outcome, OutcomeStatus, StopReason
from adapty_async.cli import _job
from adapty_async.cli._job import Job, JobResult, exit_code, perform
from adapty_async.client import AdaptyClient
from adapty_async.errors import (
    AdaptyError,
    AuthenticationError,
    ConfigError,
    InvalidInputError,
    ServerError,
)
from tests.raw_server import STALL, RawServer

Put = Callable[[str, str | bytes], Path]
Report = BulkReport[Row, None]


def failures(*errors: Exception, attempts: int = 1) -> tuple[Outcome[Row, None], ...]:
    """Return a failed outcome for each error."""
    return tuple(
        Outcome(index, Row(index + 1, "u"), OutcomeStatus.FAILED, attempts, error=error)
        for index, error in enumerate(errors)
    )


NO_KEY = failures(AuthenticationError(status=401))
BAD_ROW = failures(InvalidInputError("row", "bad"), attempts=0)


@pytest.mark.parametrize(
    ("report", "interrupted", "error", "code"),
    [
        pytest.param(Report(), False, None, 0, id="nothing-to-do"),
        pytest.param(Report(total=3, done=1, absent=1, skipped=1), False, None, 0, id="all"),
        pytest.param(Report(total=2, done=1, failed=1), False, None, 1, id="failed"),
        pytest.param(Report(total=2, done=1, unknown=1), False, None, 1, id="unknown"),
        pytest.param(Report(total=2, done=1, not_sent=1), False, None, 1, id="not-sent"),
        pytest.param(
            Report(total=1, done=1, stop_reason=StopReason.STOPPED), False, None, 1, id="stopped"
        ),
        pytest.param(
            Report(total=1, failed=1, stop_reason=StopReason.WRONG_ADDRESS),
            False,
            None,
            1,
            id="url",
        ),
        pytest.param(
            Report(total=9, done=1, failed=8, stop_reason=StopReason.KEY_REJECTED),
            False,
            None,
            3,
            id="key-rejected-on-the-way",
        ),
        pytest.param(
            Report(total=1, failed=1, failures=NO_KEY), False, None, 3, id="key-rejected-at-once"
        ),
        pytest.param(
            Report(total=2, failed=2, failures=BAD_ROW + NO_KEY),
            False,
            None,
            3,
            id="key-rejected-and-a-bad-row",
        ),
        pytest.param(
            Report(total=2, done=1, failed=1, failures=NO_KEY), False, None, 1, id="one-rejection"
        ),
        pytest.param(
            Report(total=2, absent=1, failed=1, failures=NO_KEY), False, None, 1, id="and-an-answer"
        ),
        pytest.param(
            Report(total=2, failed=2, failures=failures(ServerError()) + NO_KEY),
            False,
            None,
            1,
            id="other-errors-too",
        ),
        pytest.param(
            Report(total=1, failed=1, failures=BAD_ROW), False, None, 1, id="only-a-bad-row"
        ),
        pytest.param(Report(total=1, done=1), False, ConfigError("disk"), 2, id="error"),
        pytest.param(Report(total=1, done=1), True, None, 130, id="interrupted"),
        pytest.param(Report(total=1, done=1), True, ConfigError("disk"), 130, id="both"),
    ],
)
def test_exit_code_follows_from_the_end(
    report: Report,
    interrupted: bool,  # noqa: FBT001  a column of the table
    error: AdaptyError | None,
    code: int,
) -> None:
    """The exit code alone determines the next step of a program."""
    assert exit_code(JobResult(report=report, interrupted=interrupted, error=error)) == code


class Server:
    """A transport that responds when it is allowed to, and counts requests."""

    def __init__(self) -> None:
        self.arrived = 0
        self.let_through = asyncio.Event()
        self.several = asyncio.Event()

    async def __call__(self, request: Request) -> Response:
        """Receive a request, and respond when that is allowed."""
        self.arrived += 1
        if self.arrived >= 2:
            self.several.set()
        await self.let_through.wait()
        return Response(200, {}, b"")


def job_of(rows: Rows, failures: Path | None = None) -> Job:
    """Make a job that erases the users in a text input."""
    return Job(
        title="Deleting",
        name=RunName(what="delete"),
        rows=rows,
        build=lambda value: v1.delete_profile(customer_user_id=id_from(value, "id")),
        concurrency=2,
        failures=failures,
    )


def rows_in(path: Path) -> Rows:
    """Open a text input."""
    return open_rows(str(path), "text", id_columns("id"))


@contextlib.contextmanager
def hang_ups(handler: signal.Handlers) -> Iterator[None]:
    """Set the handler of SIGHUP as a shell or nohup does."""
    before = signal.signal(signal.SIGHUP, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_a_hang_up_that_is_ignored_stops_nothing(put: Put) -> None:
    """A command that was started with nohup continues without its terminal."""
    server = Server()
    with hang_ups(signal.SIG_IGN):
        async with AdaptyClient("key", transport=server) as client:
            running = asyncio.create_task(
                perform(job_of(rows_in(put("ids.txt", "u1\nu2\nu3\n"))), client)
            )
            await server.several.wait()
            os.kill(os.getpid(), signal.SIGHUP)
            server.let_through.set()
            end = await running
    assert (end.report.done, end.interrupted) == (3, False)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["ctrl-c", "sigterm", "sighup"]
)
async def test_first_signal_lets_requests_end(
    put: Put, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """After one signal nothing new is sent, and what is in flight still ends well."""
    server = Server()
    with hang_ups(signal.SIG_DFL):
        end = await _stopped(server, rows_in(put("ids.txt", "u1\nu2\nu3\nu4\n")), capsys, number)
    assert (end.report.total, end.report.done, server.arrived) == (2, 2, 2)
    assert end.interrupted
    assert end.report.stop_reason is StopReason.STOPPED


async def _stopped(
    server: Server, rows: Rows, capsys: pytest.CaptureFixture[str], number: int
) -> JobResult:
    async with AdaptyClient("key", transport=server) as client:
        job = job_of(rows)
        running = asyncio.create_task(perform(job, client))
        await server.several.wait()
        os.kill(os.getpid(), number)
        while "Stopping" not in capsys.readouterr().err:  # noqa: ASYNC110  only the text tells
            await asyncio.sleep(0)
        server.let_through.set()
        return await running


async def test_a_dry_run_has_no_requests_in_flight(
    put: Put, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C does not alarm those who only check an input."""
    server = Server()
    async with AdaptyClient("key", transport=server) as client:
        job = msgspec.structs.replace(job_of(rows_in(put("ids.txt", "u1\nu2\n"))), is_dry=True)
        running = asyncio.create_task(perform(job, client))
        await server.several.wait()
        os.kill(os.getpid(), signal.SIGINT)
        while "Stopping" not in (said := capsys.readouterr().err):  # noqa: ASYNC110  see above
            await asyncio.sleep(0)
        server.let_through.set()
        await running
    assert said == "\nStopping: no request is in flight.\n"


async def test_a_request_without_a_connection_is_not_in_flight(
    put: Put, capsys: pytest.CaptureFixture[str]
) -> None:
    """A request that waits for a TLS handshake is not on the wire, so a signal ends it at once."""
    async with RawServer(then=(STALL,)) as server:
        url = server.url.replace("http:", "https:")
        async with AdaptyClient("key", base_url=url) as client:
            running = asyncio.create_task(perform(job_of(rows_in(put("ids.txt", "u1\n"))), client))
            while not server.connections:  # noqa: ASYNC110  nothing tells when it changes
                await asyncio.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)
            end = await running
    assert (end.report.not_sent, end.report.requests) == (1, 0)
    assert "Stopping: no request is in flight.\n" in capsys.readouterr().err


async def test_second_signal_cuts_requests_off(
    put: Put, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two signals end a run although the server does not respond; a third one changes nothing."""
    monkeypatch.setattr(_job, "DRAIN_SECONDS", 1000)  # longer than the test may take
    server, noted = Server(), tmp_path / "f.ndjson"
    async with AdaptyClient("key", transport=server) as client:
        job = job_of(rows_in(put("ids.txt", "u1\nu2\nu3\nu4\n")), noted)
        running = asyncio.create_task(perform(job, client))
        await server.several.wait()
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        end = await running
    assert (end.report.total, end.report.failed, end.interrupted) == (2, 2, True)
    lines = [msgspec.json.decode(line) for line in noted.read_bytes().splitlines()]
    assert sorted(line["item"] for line in lines) == ["u1", "u2"]
    told = "Stopping: 2 requests in flight have 1000 s to finish. Ctrl-C again cancels them.\n"
    assert capsys.readouterr().err.count(told) == 1


class _DamagedRows(Rows):
    def __iter__(self) -> Iterator[Row]:
        yield Row(1, "u1")
        raise InvalidInputError("-", "is a damaged gzip file")


async def test_error_of_the_input_keeps_the_report() -> None:
    """An input that breaks off is an error of the job; the rows that were read are reported."""
    server = Server()
    server.let_through.set()
    layout = Layout(form="text", check_columns=id_columns("id"))
    async with AdaptyClient("key", transport=server) as client:
        end = await perform(job_of(_DamagedRows("-", layout)), client)
    assert (end.report.done, end.interrupted) == (1, False)
    assert str(end.error) == "-: is a damaged gzip file"
    assert exit_code(end) == 2


async def test_defect_is_raised(put: Put) -> None:
    """What is no error of the library is a defect, and not dressed up as a result."""

    def broken(_: object) -> object:
        raise ZeroDivisionError

    job = msgspec.structs.replace(job_of(rows_in(put("ids.txt", "u1\n"))), build=broken)
    async with AdaptyClient("key", transport=Server()) as client:
        with pytest.raises(ZeroDivisionError):
            await perform(job, client)
