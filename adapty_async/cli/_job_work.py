"""A worker of a job and the client that it uses, for the commands of ``job``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Iterator

import msgspec

from adapty_async._runtime.words import counted
from adapty_async.bulk import StopReason
from adapty_async.cli._job import Exit, stop_message
from adapty_async.cli._job_text import report_line
from adapty_async.cli._options import Connection
from adapty_async.cli._proxies import client_with_hints, connection_hooks
from adapty_async.cli._signals import handled
from adapty_async.cli._streams import write_error
from adapty_async.cli._terminal import echo, echo_error
from adapty_async.client import AdaptyClient, AdaptyMailClient
from adapty_async.config import Limits
from adapty_async.errors import AdaptyError, StoreError
from adapty_async.jobs import (
    Call,
    Job,
    JobReport,
    JobStoppedError,
    JobStore,
    Lines,
    PartOptions,
    StoreUnavailableError,
)

#: The exit code of a job that stopped here and can be resumed (``EX_TEMPFAIL``).
STOPPED = 75
_LINE_SECONDS = 5.0

logger = logging.getLogger("adapty_async")


def make_client(
    api: str, connection: Connection, limits: Limits | None = None
) -> AdaptyClient | AdaptyMailClient:
    """
    Make the client of an API.

    Raises:
        ConfigError: a setting is missing or invalid.
    """
    kind: type[AdaptyClient | AdaptyMailClient]
    kind = AdaptyMailClient if api == "mail" else AdaptyClient
    return client_with_hints(kind, connection, connection_hooks, limits=limits or Limits())


def call_of(client: AdaptyClient | AdaptyMailClient, api: str) -> Call:
    """Return the bulk method that deletes the profiles of an API."""
    if isinstance(client, AdaptyMailClient):
        return client.profiles.bulk_delete
    return client.v2.profiles.bulk_delete if api == "v2" else client.v1.profiles.bulk_delete


async def relocated(store: JobStore, name: str, path: str | None) -> Lines | None:
    """Return the input of a job at another path; None without one."""
    return None if path is None else (await store.job(name)).input_at(path)


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """
    The options of a worker.

    Attributes:
        source: the path of the input, if it is not that of the plan.
        parts: maximum of parts in hand.
        run: the options of their runs.
        connection: how to connect to Adapty.
        retry: the command that resumes a job that stopped.
    """

    source: str | None
    parts: int
    run: PartOptions
    connection: Connection
    retry: str


async def work_on(url: str, name: str, worker: Worker) -> tuple[int, JobReport | None]:
    """
    Work on a job until no part is left; return the exit code and the report.

    There is no report if the store is unavailable.
    """
    try:
        return await _work_on(url, name, worker)
    except (StoreError, StoreUnavailableError) as error:
        echo_error(error)
        return STOPPED, None


async def _work_on(url: str, name: str, worker: Worker) -> tuple[int, JobReport]:
    async with JobStore(url) as store, store.rate as rate:
        api = (await store.job(name)).operation.partition(".")[0]
        most = worker.run.get("concurrency")
        limits = Limits(shared=rate) if most is None else Limits(shared=rate, connections=most)
        async with make_client(api, worker.connection, limits) as client:
            source = await relocated(store, name, worker.source)
            job = await store.job(name, call_of(client, api), source=source)
            with _stopped_by_signals(job), _warnings_shown():
                async with _progress(job):
                    return await _perform(job, worker)


async def _perform(job: Job, worker: Worker) -> tuple[int, JobReport]:
    try:
        report = await job.work(parts=worker.parts, **worker.run)
    except JobStoppedError as error:
        text = f"the job {job.name} has stopped: {error.reason}; to resume it: {worker.retry}"
        echo_error(text if error.needs_retry else error)
        is_rejected = error.reason == StopReason.KEY_REJECTED
        return Exit.KEY_REJECTED if is_rejected else STOPPED, await job.report()
    if job.is_stopping and not report.has_ended:
        return STOPPED, report
    return _exit_code(report), report


def _exit_code(report: JobReport) -> int:
    """Return the exit code of a job that ran until no part was left."""
    if report.parts.changed:
        parts = counted(report.parts.changed, "part")
        echo_error(
            f"the input of {parts} has changed since the job was planned;"
            f" nothing was sent for {'it' if report.parts.changed == 1 else 'them'}"
        )
        return Exit.REFUSED
    return Exit.OK if report.ok else Exit.NOT_ALL_DONE


@contextlib.contextmanager
def _stopped_by_signals(job: Job) -> Iterator[None]:
    def stop(_: int) -> None:
        if job.is_stopping:
            job.abort()
        else:
            job.stop()
            write_error(stop_message(job.in_flight))

    with handled(stop):
        yield


class _Warnings(logging.Handler):
    """A handler that writes messages as the command line does, such as about a store's outage."""

    def emit(self, record: logging.LogRecord) -> None:
        echo_error(record.getMessage())


@contextlib.contextmanager
def _warnings_shown() -> Iterator[None]:
    """Show warnings of the library, unless the environment asks for its log."""
    handler = _Warnings(logging.WARNING)
    if not os.environ.get("ADAPTY_ASYNC_LOG"):
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextlib.asynccontextmanager
async def _progress(job: Job) -> AsyncIterator[None]:
    """Write a line in intervals on standard error."""

    async def write() -> None:
        while True:
            await asyncio.sleep(_LINE_SECONDS)
            with contextlib.suppress(AdaptyError):  # the worker reports it
                echo(report_line(await job.report()), err=True)

    lines = asyncio.create_task(write())
    try:
        yield
    finally:
        lines.cancel()
        await asyncio.wait({lines})
