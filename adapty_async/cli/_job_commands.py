"""The commands of ``job``: bulk runs of many processes, through a job store."""

from __future__ import annotations

import asyncio
import os
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from adapty_async._bulk.settings import MAX_CONCURRENCY
from adapty_async._runtime.database import path_in_url
from adapty_async._runtime.words import counted
from adapty_async.bulk import OutcomeStatus
from adapty_async.cli._app import _exit_on_error, _run
from adapty_async.cli._columns import header_hints
from adapty_async.cli._confirmation import ask, describe_ends
from adapty_async.cli._help import complete_file, examples
from adapty_async.cli._job import DRAIN_SECONDS, Exit
from adapty_async.cli._job_text import (
    FAILURES,
    failure_json,
    next_command,
    outcome_json,
    report_json,
    report_line,
    report_text,
)
from adapty_async.cli._job_work import Worker, call_of, make_client, relocated, work_on
from adapty_async.cli._journal_commands import cli
from adapty_async.cli._options import (
    CONNECTION_OPTIONS,
    RATE,
    SECONDS,
    Connection,
    add_options,
    deletion_options,
    encoding_option,
    id_encoding_option,
    json_option,
    require_kind,
    yes_option,
)
from adapty_async.cli._progress import counting
from adapty_async.cli._signals import handled
from adapty_async.cli._streams import output_failed, write_error
from adapty_async.cli._terminal import echo, echo_data, visible
from adapty_async.errors import InvalidInputError
from adapty_async.jobs import (
    MAX_OUTAGE,
    Call,
    Job,
    JobError,
    JobOutcome,
    JobReport,
    JobStore,
    Lines,
    PartOptions,
    PlannedSource,
    StoreUnavailableError,
)

__all__ = ("cli", "job")

_STORE_NAME = "adapty-jobs.db"
# Seconds between two reports, and maximum seconds between two attempts at a store that is down.
_WATCH_SECONDS, _MAX_WATCH_SECONDS = 2.0, 10.0
# Characters that stay readable in the address of a file.
_PATH_MARKS = "/\\:@+,="

_NAME = click.argument("name")
_STORE = click.option(
    "--store",
    envvar="ADAPTY_STORE_URL",
    show_envvar=True,
    help="The address of the job store: postgresql://user@host/database, or sqlite:///file for "
    f"processes of this machine. By default {_STORE_NAME}, next to the input for plan, and in the "
    "current folder for all others.",
)
_INPUT = click.option(
    "--input",
    "source",
    metavar="FILE",
    shell_complete=complete_file,
    help="The input, if it is not at the path of the plan.",
)
_client_options = add_options(*CONNECTION_OPTIONS, id_encoding_option)


@cli.group(
    epilog=examples(
        "job plan ids.csv --name erasure --by customer-user-id",
        "job work erasure",
        "job status erasure --watch",
    )
)
def job() -> None:
    """
    Erase users with processes on any number of machines.

    Plan a job once, then start workers for it. Each of them may be killed, and others take over.
    """


@job.command(
    epilog=examples(
        "job plan ids.csv --name erasure --by customer-user-id",
        "job plan ids.csv --name erasure --by profile-id --store postgresql://db/jobs",
    )
)
@click.argument("source", metavar="INPUT", shell_complete=complete_file)
@click.option("--name", required=True, help="The name of the job.")
@deletion_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "ndjson", "text"]),
    help="The format of INPUT, if its name does not end in .csv, .ndjson or .txt.",
)
@encoding_option
@click.option(
    "--part-size",
    type=click.IntRange(1, 1_000_000),
    default=2_000,
    show_default=True,
    help="Maximum of ids in a part, the unit of work.",
)
@_STORE
@yes_option
@_client_options
def plan(source: str, name: str, api: str, by: str, store: str | None, **options: Any) -> None:
    """
    Plan the erasure of the users whose ids are in INPUT.

    Nothing is sent until a worker starts. INPUT is a file that every worker can read: one id a
    line, or CSV or NDJSON with a column for the ids, not compressed. The store holds positions in
    it, and no id. Ids are not checked by Adapty's rules until a worker reads them; a dry run of
    delete checks them.
    """
    require_kind(api, by)
    kind = by.replace("-", "_")
    column = options.pop("column") or kind
    form, encoding = options.pop("form"), options.pop("encoding")
    part_size, is_asking = options.pop("part_size"), not options.pop("yes")
    with _exit_on_error():
        lines = Lines(source, column=column, format=form, encoding=encoding)
        with counting(source), header_hints("--column"):
            planned = PlannedSource(lines, part_size)
        for line in lines.findings.lines():
            echo(line, err=True)
        url = store or _default_store(Path(os.path.abspath(source)).parent)  # noqa: PTH100  links stay
        connection = Connection(**options)
        client = make_client(api, connection)
        if is_asking and not _run(_is_planned(url, name)):
            _confirm(source, planned, f"by {by}, at {client.origin}")
        found = _run(_plan(url, name, call_of(client, api), planned, kind))
        ids, parts = counted(found.items, "id"), counted(found.parts, "part")
        echo(f"Planned {name}: {ids} in {parts}. Nothing is sent until a worker starts:\n")
        click.echo(f"  {next_command('work', name, _store_shown(url), connection.options())}")


def _default_store(folder: Path) -> str:
    return f"sqlite:///{urllib.parse.quote(str(folder / _STORE_NAME), safe=_PATH_MARKS)}"


def _store_shown(store: str | None) -> str | None:
    """Return the address that the next command needs as an option; None if it finds the store."""
    source = click.get_current_context().get_parameter_source("store")
    return None if source is ParameterSource.ENVIRONMENT else store


def _existing_store(store: str | None) -> str:
    """
    Return the address of a store that exists already.

    Raises:
        InvalidInputError: there is none by default, or no file with the name of the address.
    """
    if store is not None:
        path = path_in_url(store)
        if path is not None and not path.exists():  # opening it would create it
            raise InvalidInputError("--store", f"there is no file {visible(str(path))}")
        return store
    folder = Path.cwd()
    if not (folder / _STORE_NAME).exists():
        raise InvalidInputError("--store", f"is required: there is no {_STORE_NAME} here")
    return _default_store(folder)


async def _is_planned(url: str, name: str) -> bool:
    path = path_in_url(url)
    if path is not None and not path.exists():  # opening the store would create it
        return False
    async with JobStore(url) as store:
        try:
            await store.job(name)
        except JobError:
            return False
        return True


def _confirm(source: str, planned: PlannedSource, where: str) -> None:
    """
    Prompt on the terminal; without consent, exit.

    Raises:
        click.UsageError: there is no terminal to ask on.
    """
    ends = planned.ends()
    if ends is None:
        return
    users = counted(planned.items, "user")
    question = (
        f"Plan to delete {users} in {visible(source)} ({describe_ends(*ends)}), {where}?"
        " Once a worker starts, there is no way back."
    )
    ask(question, "Nothing was planned.")


async def _plan(url: str, name: str, call: Call, planned: PlannedSource, by: str) -> Job:
    async with JobStore(url) as store:
        return await store.plan(name, call, planned, by=by, part_size=planned.part_size)


@job.command(epilog=examples("job work erasure --rate 200"))
@_NAME
@_STORE
@click.option(
    "--concurrency",
    type=click.IntRange(1, MAX_CONCURRENCY),
    help="Requests in flight at most, of this worker; by default as many as help.",
)
@click.option(
    "--rate",
    type=RATE,
    help="Maximum requests per second of this worker.",
)
@click.option(
    "--parts",
    type=click.IntRange(1, 100),
    default=2,
    show_default=True,
    help="Parts that this worker runs at once.",
)
@click.option(
    "--max-outage",
    type=SECONDS,
    default=MAX_OUTAGE,
    show_default=True,
    help="Seconds without the store, or without a success, after which this worker stops.",
)
@_INPUT
@json_option
@_client_options
def work(
    name: str, store: str | None, source: str | None, *, as_json: bool, **options: Any
) -> None:
    """
    Work on the job NAME until no part is left.

    It waits for parts that other workers have. The first Ctrl-C or SIGTERM drains the requests in
    flight; a second one cancels them.

    Exit codes: 0 all done, 1 some are not, 2 the input has changed, 3 the key was rejected, 75
    stopped and resumable.
    """
    run = PartOptions(
        concurrency=options.pop("concurrency"),
        rate=options.pop("rate"),
        max_outage=options.pop("max_outage"),
        drain=DRAIN_SECONDS,
    )
    parts, resuming = options.pop("parts"), next_command("retry", name, _store_shown(store))
    connection = Connection(**options)
    worker = Worker(source=source, parts=parts, run=run, connection=connection, retry=resuming)
    with _exit_on_error():
        code, report = _run(work_on(_existing_store(store), name, worker))
        if report is not None:
            _echo_report(report, report_text(report, resuming), as_json=as_json)
    sys.exit(code)


def _echo_report(report: JobReport, text: str, *, as_json: bool) -> None:
    if as_json:
        echo_data(report_json(report))
    else:
        echo(text)


@job.command(epilog=examples("job status erasure --watch"))
@_NAME
@_STORE
@json_option
@click.option("--watch", is_flag=True, help="Print a line every 2 seconds until the job ends.")
def status(name: str, store: str | None, *, as_json: bool, watch: bool) -> None:
    """Show how far the job NAME is, over all workers."""
    with _exit_on_error():
        _run(_show(store, name, as_json=as_json, watch=watch))
    if output_failed():
        sys.exit(Exit.NOT_ALL_DONE)


async def _show(store: str | None, name: str, *, as_json: bool, watch: bool) -> None:
    with handled(_leave):
        async with JobStore(_existing_store(store)) as opened:
            found = await opened.job(name)
            report = await found.report()
            while watch and not (report.has_ended or report.stop_reason or output_failed()):
                _echo_report(report, report_line(report), as_json=as_json)
                report = await _next_report(found)
            resuming = next_command("retry", name, _store_shown(store))
            _echo_report(report, report_text(report, resuming), as_json=as_json)


def _leave(_: int) -> None:
    """Exit at once: a thread may wait for a store that does not respond, and nothing is written."""
    write_error("\nInterrupted.")
    os._exit(Exit.INTERRUPTED)


async def _next_report(found: Job) -> JobReport:
    """Return the report some seconds later, or when a store that is unavailable responds again."""
    wait = _WATCH_SECONDS
    while True:
        await asyncio.sleep(wait)
        try:
            return await found.report()
        except StoreUnavailableError as error:
            wait = min(2 * wait, _MAX_WATCH_SECONDS)
            write_error(f"{found.name}: {error}; the next attempt is in {wait:g} s")


@job.command(epilog=examples("job failures erasure"))
@_NAME
@_STORE
@_INPUT
def failures(name: str, store: str | None, source: str | None) -> None:
    """
    Print the items of the job NAME that are not done.

    The output is NDJSON with their ids, and can be an input itself. The ids come from the input,
    which must not have changed. The error of an id that cannot be sent is its rule; a job keeps no
    other reasons of single ids, and job status counts them.
    """
    _print_outcomes(name, store, source, failure_json, *FAILURES)


@job.command(epilog=examples("job outcomes erasure"))
@_NAME
@_STORE
@_INPUT
def outcomes(name: str, store: str | None, source: str | None) -> None:
    """
    Print the outcome of each item of the job NAME.

    The output is NDJSON with lines and ids. The ids come from the input, which must not have
    changed.
    """
    _print_outcomes(name, store, source, outcome_json)


def _print_outcomes(
    name: str,
    store: str | None,
    source: str | None,
    encode: Callable[[JobOutcome, str], str],
    *statuses: OutcomeStatus,
) -> None:
    async def write() -> None:
        with handled(_leave):
            async with JobStore(_existing_store(store)) as opened:
                found = await opened.job(name, source=await relocated(opened, name, source))
                async for outcome in found.outcomes(*statuses):
                    echo_data(encode(outcome, found.operation))

    with _exit_on_error():
        _run(write())
    if output_failed():
        sys.exit(Exit.NOT_ALL_DONE)


@job.command(epilog=examples("job cancel erasure"))
@_NAME
@_STORE
def cancel(name: str, store: str | None) -> None:
    """
    Stop the job NAME in all its workers.

    That takes some seconds. The command job retry resumes the job.
    """

    async def run() -> bool:
        async with JobStore(_existing_store(store)) as opened:
            found = await opened.job(name)
            await found.cancel()
            return (await found.report()).has_ended

    with _exit_on_error():
        if _run(run()):
            click.echo(f"{name} has ended already: nothing is left to cancel.")
        else:
            resuming = next_command("retry", name, _store_shown(store))
            echo(f"Cancelled {name}: its workers stop. To resume it: {resuming}")


@job.command(epilog=examples("job retry erasure"))
@_NAME
@_STORE
def retry(name: str, store: str | None) -> None:
    """
    Let workers send failed items of the job NAME again.

    A job that stopped is resumed. Items that are done, absent or unknown are never sent again.
    """

    async def run() -> int:
        async with JobStore(_existing_store(store)) as opened:
            found = await opened.job(name)
            await found.retry()
            return len(await found.open_parts())

    with _exit_on_error():
        count = _run(run())
        if not count:
            click.echo(f"{name} has ended: no item is left to send again.")
            return
        parts = f"{counted(count, 'part')} {'is' if count == 1 else 'are'} open"
        working = next_command("work", name, _store_shown(store))
        echo(f"{parts} now; next: {working}")


@job.command(epilog=examples("job forget erasure --yes"))
@_NAME
@_STORE
@yes_option
def forget(name: str, store: str | None, *, yes: bool) -> None:
    """
    Delete all that the store holds of the job NAME.

    Its outcomes are then lost.
    """

    async def run() -> None:
        async with JobStore(_existing_store(store)) as opened:
            await (await opened.job(name)).forget()

    with _exit_on_error():
        if not yes:
            ask(f"Forget the outcomes of {name}?", "Nothing was forgotten.")
        _run(run())
        click.echo(f"Forgot {name}.")
