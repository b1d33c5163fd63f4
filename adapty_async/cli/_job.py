"""A bulk run of the command line, from its rows to its exit code."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from adapty_async._api.call import Operation, Request, Response
from adapty_async._bulk.recording import OutcomesPath
from adapty_async._bulk.settings import MOST_WORKERS
from adapty_async._input.layout import Row
from adapty_async._input.rows import Rows, SizedRows
from adapty_async._journal import Journal, RunName, belongs_to_journal
from adapty_async.bulk import BulkReport, BulkRun, JournalSummary, StopReason, summarise
from adapty_async.cli._columns import by_option
from adapty_async.cli._dry_run import DryJournal
from adapty_async.cli._feed import ThreadedReader
from adapty_async.cli._progress import Meter, progress
from adapty_async.cli._report import FailuresFile, require_no_stream, require_separate
from adapty_async.cli._signals import handled
from adapty_async.cli._streams import write_error
from adapty_async.client import AdaptyClient, AdaptyMailClient
from adapty_async.errors import (
    AdaptyError,
    AuthenticationError,
    ConfigError,
    InvalidInputError,
    JournalError,
)

#: Seconds to drain requests in flight after the first signal.
DRAIN_SECONDS = 5
_APIS = frozenset({"v1", "v2", "mail"})


class Exit:
    """The exit codes of the command line."""

    OK = 0
    NOT_ALL_DONE = 1
    REFUSED = 2
    KEY_REJECTED = 3
    INTERRUPTED = 130


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """
    A bulk run to perform: its rows, options, and the function that builds operations.

    `recorded` is the summary of its journal as earlier runs left it; None without one.
    """

    title: str
    name: RunName
    rows: Rows
    build: Callable[[Any], Operation[Any]]
    journal: Path | None = None
    recorded: JournalSummary | None = None
    dedupe: bool = False
    failures: Path | None = None
    outcomes: Path | None = None
    concurrency: int | None = None
    rate: float | None = None
    is_dry: bool = False

    @property
    def total(self) -> int | None:
        """The number of rows, None if unknown."""
        return len(self.rows) if isinstance(self.rows, SizedRows) else None

    def earlier(self, origin: str) -> JournalSummary | None:
        """Return the summary of earlier runs; None if the journal is new, or of another run."""
        if self.recorded is None:
            return None
        identity = self.recorded.identity
        is_same = (identity.operation, identity.origin) == (str(self.name), origin)
        return self.recorded if is_same else None  # the run raises an error

    def operation(self, row: Row) -> Operation[Any]:
        """
        Return the operation of a row.

        Raises:
            InvalidInputError: the row cannot be read, or breaks a rule.
        """
        if row.broken is not None:
            raise InvalidInputError("row", row.broken)
        try:
            return self.build(row.value)
        except InvalidInputError as error:
            raise by_option(error) from None


class JobResult(msgspec.Struct, frozen=True, kw_only=True):
    """
    The result of a job.

    Attributes:
        report: the report of the rows that were read.
        interrupted: a signal was received.
        error: the error that ended the run early, or that prevented writing the failures.
    """

    report: BulkReport[Row, Any]
    interrupted: bool
    error: AdaptyError | None


async def accept(request: Request) -> Response:
    """Return a success as the transport of a dry run; validation runs as usual."""
    await asyncio.sleep(0)  # a real request also yields to the event loop
    return Response(200, {}, b"" if request.is_deletion else b'{"profile_id":"dry-run"}')


async def perform(job: Job, client: AdaptyClient | AdaptyMailClient) -> JobResult:
    """
    Run a job, and return its result.

    The first Ctrl-C, SIGTERM or SIGHUP stops the run and lets the requests in flight finish; a
    second one cancels them.
    """
    _require_own_files(job)
    with contextlib.ExitStack() as stack:
        failures = None
        if job.failures is not None:
            is_resumed = job.recorded is not None and not job.is_dry
            failures = stack.enter_context(
                FailuresFile(
                    job.failures,
                    source=job.rows.path,
                    journal=job.journal,
                    is_resumed=is_resumed,
                )
            )
        run = client.bulk(
            job.rows if isinstance(job.rows, SizedRows) else ThreadedReader(job.rows),
            build=job.operation,
            name=str(job.name),
            journal=_journal_of(job),
            dedupe=job.dedupe,
            concurrency=job.concurrency,
            rate=job.rate,
            drain=DRAIN_SECONDS,
            on_outcome=None if failures is None else failures.record,
            outcomes=_outcomes_of(job),
        )
        statistics = None if job.is_dry else client.statistics  # nothing is in flight
        signals = stack.enter_context(_stopped_by_signals(run, is_dry=job.is_dry))
        earlier = job.earlier(client.origin)
        settled = 0 if earlier is None else earlier.settled
        meter = Meter(job.total, is_dry=job.is_dry, settled=settled)
        async with progress(run, job.title, meter, statistics):
            error = await _complete(run)
        return JobResult(report=run.report, interrupted=bool(signals), error=error)


def _require_own_files(job: Job) -> None:
    """
    Validate that the files of a job have no other use; that of the failures is checked later.

    Raises:
        ConfigError: one is the input, another one of them, or that of a standard stream.
    """
    if job.journal is not None and belongs_to_journal(Path(job.rows.path), job.journal):
        raise ConfigError("INPUT must not be the journal, nor one of its companion files")
    require_no_stream("--journal", job.journal)
    require_no_stream("--failures", job.failures)
    require_no_stream("--outcomes", job.outcomes)
    if job.outcomes is not None:
        require_separate(
            job.outcomes, source=job.rows.path, failures=job.failures, journal=job.journal
        )


def _journal_of(job: Job) -> Path | Journal | None:
    if job.journal is None or not job.is_dry:
        return job.journal
    return DryJournal(job.journal, owed=2 * (job.concurrency or MOST_WORKERS))


def _outcomes_of(job: Job) -> OutcomesPath | None:
    if job.outcomes is None or job.is_dry:  # "done" rows were only validated
        return None
    return OutcomesPath(job.outcomes, job.rows.identify)


async def _complete(run: BulkRun[Any, Any]) -> AdaptyError | None:
    try:
        await run
    except AdaptyError as error:
        return error
    return None


@contextlib.contextmanager
def _stopped_by_signals(run: BulkRun[Any, Any], *, is_dry: bool) -> Iterator[list[int]]:
    """Stop a run at the first signal, and cancel its requests at the second one."""
    seen: list[int] = []

    def stop(number: int) -> None:
        seen.append(number)
        if len(seen) == 1:
            run.stop()
            write_error(stop_message(0 if is_dry else run.in_flight))
        else:
            run.cut_off()

    with handled(stop):
        yield seen


def stop_message(in_flight: int) -> str:
    """Return what is shown when a signal stops a run: how many requests are drained."""
    if not in_flight:
        return "\nStopping: no request is in flight."
    one = in_flight == 1
    what = "1 request in flight has" if one else f"{in_flight:,} requests in flight have"
    whom = "it" if one else "them"
    return f"\nStopping: {what} {DRAIN_SECONDS} s to finish. Ctrl-C again cancels {whom}."


def exit_code(result: JobResult) -> int:
    """Return the exit code of the process."""
    if result.interrupted:
        return Exit.INTERRUPTED
    if result.error is not None:
        return Exit.REFUSED
    if result.report.ok:
        return Exit.OK
    return Exit.KEY_REJECTED if _is_key_rejected(result.report) else Exit.NOT_ALL_DONE


def _is_key_rejected(report: BulkReport[Any, Any]) -> bool:
    answered = [outcome.error for outcome in report.failures if outcome.attempts]
    only_rejections = bool(answered) and all(
        isinstance(error, AuthenticationError) for error in answered
    )
    worked = report.done + report.absent
    return report.stop_reason is StopReason.KEY_REJECTED or (only_rejections and not worked)


def require_same_api(journal: Path | None, summary: JournalSummary | None, api: str) -> None:
    """
    Validate that a journal, whose summary this is, belongs to runs of this API.

    Raises:
        JournalError: it belongs to runs of another API; the message names the option.
    """
    if journal is None or summary is None:
        return
    earlier = RunName.parse(summary.identity.operation).api
    if earlier in _APIS - {api}:
        raise JournalError(
            f"the journal {click.format_filename(journal)} belongs to a run with --api {earlier}, "
            f"and this one would use {api}: add --api {earlier} to resume it, or name a new journal"
        )


def summary_of(journal: Path | None) -> JournalSummary | None:
    """Return the summary of a journal as earlier runs left it; None if there is none to read."""
    if journal is None or not journal.exists():
        return None
    try:
        return summarise(journal)
    except JournalError:
        return None  # it is empty, or the run raises the same error
