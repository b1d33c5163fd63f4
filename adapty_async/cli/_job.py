"""
One bulk run of the command line, from its rows to its exit code.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from adapty_async._operation import Operation, Request, Response
from adapty_async.bulk import BulkReport, BulkRun, StopReason
from adapty_async.cli._input import Row, Rows, SizedRows
from adapty_async.cli._progress import progress
from adapty_async.cli._report import FailuresFile
from adapty_async.client import AdaptyClient, AdaptyMailClient
from adapty_async.errors import AuthenticationError, InvalidInputError

__all__ = ("Exit", "Job", "accept", "exit_code", "perform")

_CUT_OFF = 2
"""
The signal at which requests in flight are no longer waited for.
"""


class Exit:
    """
    The exit codes of the command line.
    """

    OK = 0
    NOT_ALL_DONE = 1
    REFUSED = 2
    KEY_REJECTED = 3
    INTERRUPTED = 130


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is to be done: which rows, and the call that is made of each.
    """

    title: str
    rows: Rows
    build: Callable[[Any], Operation[None]]
    failures: Path | None = None
    concurrency: int | None = None
    rate: float | None = None

    @property
    def total(self) -> int | None:
        """
        The number of rows, None when it cannot be known.
        """
        return len(self.rows) if isinstance(self.rows, SizedRows) else None


async def accept(_request: Request) -> Response:
    """
    Stand in for the transport in a dry run: everything that is checked before sending is, no more.
    """
    return Response(200, {}, b"")


async def perform(
    job: Job, client: AdaptyClient | AdaptyMailClient
) -> tuple[BulkReport[Row, None], bool]:
    """
    Do a job; return its report, and whether it was interrupted.

    The first Ctrl-C or SIGTERM stops the reading and lets what is in flight end; a second one
    cuts that off.
    """
    with contextlib.ExitStack() as stack:
        failures = None
        if job.failures is not None:
            failures = stack.enter_context(FailuresFile(job.failures, source=job.rows.path))
        run = client.bulk(
            job.rows,
            build=_checked(job.build),
            concurrency=job.concurrency,
            rate=job.rate,
            on_outcome=None if failures is None else failures.note,
        )
        signals = stack.enter_context(_stopped_by_signals(run))
        async with progress(run, job.title, job.total):
            try:
                await run
            except asyncio.CancelledError:
                if len(signals) < _CUT_OFF:
                    raise
        return run.report, bool(signals)


def _checked(build: Callable[[Any], Operation[None]]) -> Callable[[Row], Operation[None]]:
    def build_from(row: Row) -> Operation[None]:
        if row.broken is not None:
            raise InvalidInputError("row", row.broken)
        return build(row.value)

    return build_from


@contextlib.contextmanager
def _stopped_by_signals(run: BulkRun[Any, Any]) -> Iterator[list[int]]:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    seen: list[int] = []

    def stop(number: int) -> None:
        seen.append(number)
        if len(seen) < _CUT_OFF:
            sys.stderr.write("\nStopping: requests in flight may end. Again to cut them off.\n")
            run.stop()
        elif task is not None:
            task.cancel()

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop, number)
    try:
        yield seen
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def exit_code(report: BulkReport[Any, Any], *, interrupted: bool) -> int:
    """
    Say with what code the process ends.
    """
    if interrupted:
        return Exit.INTERRUPTED
    if report.ok:
        return Exit.OK
    rejected = bool(report.failures) and all(
        isinstance(outcome.error, AuthenticationError) for outcome in report.failures
    )
    if report.stop_reason is StopReason.KEY_REJECTED or (rejected and not report.done):
        return Exit.KEY_REJECTED
    return Exit.NOT_ALL_DONE
