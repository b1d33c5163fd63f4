"""The commands and their options. A command becomes a job, and its result an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from adapty_async import mail, v2
from adapty_async._api.call import Operation
from adapty_async._input.mapping import ColumnOptions, RowMapping
from adapty_async._input.rows import Rows, SizedRows, open_rows
from adapty_async._input.schema import ColumnSchema, id_columns
from adapty_async._journal import RunName
from adapty_async._version import __version__
from adapty_async.bulk import JournalSummary
from adapty_async.cli import _demo
from adapty_async.cli._columns import by_option, header_hints, hints
from adapty_async.cli._confirmation import ask_about, describe_ends, describe_users, ends_of
from adapty_async.cli._dry_run import (
    Estimate,
    copied,
    estimate_of,
    measured_rate,
    sample,
    sample_json,
    sample_text,
)
from adapty_async.cli._help import completion, examples
from adapty_async.cli._job import (
    Exit,
    Job,
    JobResult,
    accept,
    exit_code,
    perform,
    require_same_api,
    summary_of,
)
from adapty_async.cli._journal_text import next_steps
from adapty_async.cli._options import (
    DELETIONS,
    KINDS,
    RATE,
    CommonOptions,
    FiniteRange,
    common_options,
    deletion_options,
    id_encoding_option,
    require_kind,
)
from adapty_async.cli._progress import counting
from adapty_async.cli._proxies import client_with_hints, connection_hooks
from adapty_async.cli._report import dry_run_text, preview_json, report_json, report_text
from adapty_async.cli._sandbox import serve
from adapty_async.cli._streams import write_error
from adapty_async.cli._terminal import echo, echo_data, echo_error
from adapty_async.client import AdaptyClient, AdaptyMailClient
from adapty_async.config import Limits
from adapty_async.errors import AdaptyError, InvalidInputError, JournalError
from adapty_async.sandbox import Faults, Sandbox

T = TypeVar("T")

# Requests per second of a dry run, which ignores the adaptive rate of its journal.
_UNLIMITED_RATE = 1e9


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "delete ids.csv --by customer-user-id --dry-run",
        "delete ids.csv --by customer-user-id --journal run.db",
    ),
)
@click.version_option(__version__)
def cli() -> None:
    """
    Save, update and erase large numbers of Adapty profiles, with the outcome of each.

    API keys come from ADAPTY_API_KEY (server-side API) and ADAPTY_MAIL_API_KEY (Mail API).

    Exit codes: 0 all done, 1 some are not, 2 usage error or invalid input, 3 the key was rejected,
    130 interrupted.
    """


cli.add_command(completion)


@cli.command(
    epilog=examples(
        "delete ids.csv --by customer-user-id --journal run.db",
        "delete people.csv --api mail --by email --column mail --yes",
    )
)
@common_options
@deletion_options
@id_encoding_option
def delete(api: str, by: str, column: str | None, **common: Any) -> None:
    """
    Erase the users whose ids are in INPUT.

    INPUT is a file with one id a line, or CSV, NDJSON, Parquet, Arrow or a spreadsheet with a
    column for the ids; - is standard input. Other columns do not matter: --map can name the column
    with the ids, as --column does, and --set has no use.
    """
    options = CommonOptions(**common)
    require_kind(api, by)
    field = by.replace("-", "_")
    with _exit_on_error():
        recorded = summary_of(options.journal)
        require_same_api(options.journal, recorded, api)
        mapping = _mapping(options, None, field, column)
        job = _job(
            "Deleting",
            RunName(what=f"{api} delete", by=by, column=mapping.id_column),
            _rows(options, mapping, id_optional=True),
            lambda value: DELETIONS[api](**{field: mapping.id(value)}),
            options,
            recorded,
        )
        client = _client(AdaptyMailClient if api == "mail" else AdaptyClient, options)
        if not _sends_nothing(options) and not options.yes:
            users = describe_users(job, client.origin)
            question = f"Delete {users}, by {by}, at {client.origin}? There is no way back."
            ask_about(job, question, "Nothing was deleted.")
        sys.exit(_run(_perform_and_report(job, client, options)))


@cli.command(
    epilog=examples(
        "save profiles.csv --by customer-user-id --journal run.db",
        "save people.ndjson --api mail",
    )
)
@common_options
@click.option(
    "--api", type=click.Choice(["v2", "mail"]), help="The API: v2 with --by, mail without."
)
@click.option("--by", type=click.Choice(KINDS["v2"]), help="The kind of the ids (v2).")
def save(api: str | None, by: str | None, **common: Any) -> None:
    """
    Update profiles, or save them to the Mail API.

    With --by, the profiles in INPUT are updated in the server-side API; without it, they are saved
    to the Mail API. INPUT is CSV, NDJSON, Parquet, Arrow or a spreadsheet; - is standard input.
    Columns are named after the profile's fields, nested ones with a dot: custom_attributes.plan,
    device_info.platform. Empty cells are not sent. For the server-side API, the ids are in the
    column named like --by, and the profiles have to exist.
    """
    options = CommonOptions(**common)
    is_mail = by is None
    if api is not None and is_mail != (api == "mail"):
        raise click.UsageError("--api v2 and --by go together")
    with _exit_on_error():
        recorded = summary_of(options.journal)
        require_same_api(options.journal, recorded, "mail" if is_mail else "v2")
        job = _saving(options, recorded) if by is None else _updating(by, options, recorded)
        client = _client(AdaptyMailClient if is_mail else AdaptyClient, options)
        sys.exit(_run(_perform_and_report(job, client, options)))


def _saving(options: CommonOptions, recorded: JournalSummary | None) -> Job:
    mapping = _mapping(options, mail.PROFILE_COLUMNS, None, None)
    rows = _rows(options, mapping, id_option=None)
    _require_fields(rows, "profile")
    return _job(
        "Saving",
        _named("mail save", mapping, usual="external_profile_id"),
        rows,
        lambda value: mail.save_profile(mapping.struct(value)),
        options,
        recorded,
    )


def _updating(by: str, options: CommonOptions, recorded: JournalSummary | None) -> Job:
    field = by.replace("-", "_")
    mapping = _mapping(options, v2.ATTRIBUTE_COLUMNS, field, None)
    rows = _rows(options, mapping, id_option=f"--map COLUMN={field}")
    _require_fields(rows, "profile")

    def build(value: Any) -> Operation[Any]:
        item_id, attributes = mapping.item(value)
        ids: dict[str, Any] = {field: item_id}
        return v2.update_profile(attributes, **ids)

    name = _named("v2 update", mapping, by, usual=field)
    return _job("Updating", name, rows, build, options, recorded)


def _named(
    what: str, mapping: RowMapping, by: str | None = None, *, usual: str | None = None
) -> RunName:
    """Return the name of a run; it does not state the usual column of the ids."""
    column = None if mapping.id_column == usual else mapping.id_column
    return RunName(what=what, by=by, column=column, columns=mapping.digest)


def _mapping(
    options: CommonOptions,
    schema: ColumnSchema | None,
    id_field: str | None,
    column: str | None,
    given: Mapping[str, tuple[str, str]] | None = None,
) -> RowMapping:
    """
    Return the mapping of the input's columns.

    `column` is the option for that of the ids. `given` are the other options that set a field of
    every row, and their values, by field.
    """
    given = given or {}
    for field in given.keys() & options.constants.keys():
        raise InvalidInputError("--set", f"must not name {field}, which {given[field][0]} gives")
    columns = ColumnOptions(
        columns=options.columns,
        constants={**options.constants, **{field: value for field, (_, value) in given.items()}},
        constant_options={field: option for field, (option, _) in given.items()},
        preset=options.preset,
        ignore_unknown=options.ignore_unknown,
        id_column=column,
    )
    return RowMapping(columns, schema, id_field)


def _rows(
    options: CommonOptions,
    mapping: RowMapping,
    *,
    id_optional: bool = False,
    id_option: str | None = "--column",
) -> Rows:
    """
    Open the input, and report its suspicious rows before anything is sent.

    If ids are optional, rows of a CSV file or a table without one are left out. `id_option` is the
    option that names the column of the ids; None if that may be missing.
    """
    ids = None if options.preset is not None or id_option is None else mapping.id_column

    def check(names: list[str]) -> Collection[str]:
        with header_hints(id_option):  # a pipe has its header read during the run
            if ids is not None and ids not in names:
                id_columns(ids)(names)
            return mapping.check(names)

    _echo(hints(mapping))
    with counting(options.input) as watch:
        rows = open_rows(
            options.input,
            options.form,
            check,
            watch=watch,
            check_keys=mapping.check_keys,
            encoding=options.encoding,
            id_column=mapping.id_column,
            id_optional=id_optional,
            sheet=options.sheet,
            is_number=mapping.is_number,
            matters=mapping.matters,
        )
    rows.findings.ignored = mapping.ignored
    _echo(rows.findings.lines())
    return rows


def _echo(lines: Iterable[str]) -> None:
    for line in lines:
        echo(line, err=True)


def _require_fields(rows: Rows, what: str) -> None:
    if rows.form == "text":
        raise InvalidInputError(
            "INPUT", f"must be CSV, NDJSON or a table: a line of text is not a {what}"
        )


@cli.command(epilog=examples("sandbox --rate 400 --faults error=5%,reset=1%"))
@click.option("--port", type=click.IntRange(0, 65535), default=8321, show_default=True)
@click.option("--db", default=":memory:", help="Keep the state in this SQLite file.")
@click.option("--rate", type=RATE, help="Requests per second that each API allows.")
@click.option(
    "--latency", type=FiniteRange(min=0), default=0.0, help="Milliseconds added to every response."
)
@click.option(
    "--faults",
    default="",
    help="Such as error=5%,throttled=5%,reset=1%,reset_after=1%,stall=0.1%.",
)
@click.option("--seed", type=int, default=0, help="The seed that determines which requests fail.")
@click.option(
    "--webhook-url", help="Send webhooks there, with ADAPTY_WEBHOOK_SECRET as their Authorization."
)
@click.option(
    "--webhook-time-scale",
    type=FiniteRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Multiplies the waits before webhooks are sent again, which begin with a minute.",
)
@click.option(
    "--seed-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Start with these profiles: a JSON value per line, see the documentation.",
)
@click.option("--strict", is_flag=True, help="Hold requests to Adapty's OpenAPI documents.")
def sandbox(*, seed_file: Path | None, latency: float, faults: str, **options: Any) -> None:
    """
    Run a local server of the APIs until Ctrl-C.

    A page at its address, http://127.0.0.1:8321/ by default, shows profiles, requests as they
    come, and the rate, switches faults on and off, and copies requests as code.
    """
    try:
        server = Sandbox(
            latency=latency / 1000,
            faults=Faults.parse(faults),
            webhook_authorization=os.environ.get("ADAPTY_WEBHOOK_SECRET"),
            **options,
        )
    except ValueError as error:
        text = str(error).replace("webhook_authorization", "ADAPTY_WEBHOOK_SECRET")
        raise click.UsageError(text) from None
    with _exit_on_error(), contextlib.suppress(KeyboardInterrupt):
        _run(serve(server, seed_file))


@cli.command(epilog=examples("demo", "demo profiles.csv ids.txt"))
@click.argument("profiles", required=False, type=click.Path(exists=True, dir_okay=False))
@click.argument("ids", required=False, type=click.Path(exists=True, dir_okay=False))
def demo(profiles: str | None, ids: str | None) -> None:
    """
    Save, erase and verify profiles on a sandbox.

    The sandbox has a rate limit, and faults. The command saves the CSV file PROFILES through the
    Mail API, erases the users in the file IDS from the server-side API, and checks in the sandbox
    that exactly those are gone. Without files, it generates some.
    """
    if (profiles is None) != (ids is None):
        raise click.UsageError("PROFILES and IDS go together")
    with _exit_on_error():
        sys.exit(_run(_demo.run(profiles, ids, echo)))


def _job(
    title: str,
    name: RunName,
    rows: Rows,
    build: Callable[[Any], Operation[Any]],
    options: CommonOptions,
    recorded: JournalSummary | None,
) -> Job:
    is_file = isinstance(rows, SizedRows)
    return Job(
        title="Checking" if options.dry_run else title,
        name=msgspec.structs.replace(
            name, form=rows.form, encoding=options.encoding, sheet=options.sheet
        ),
        journal=options.journal,
        recorded=recorded,
        dedupe=is_file if options.dedupe is None else options.dedupe,
        rows=rows,
        build=build,
        failures=options.failures,
        outcomes=options.outcomes,
        concurrency=options.concurrency,
        rate=_UNLIMITED_RATE if options.dry_run else options.rate,
        is_dry=options.dry_run,
    )


def _client(
    kind: type[AdaptyClient | AdaptyMailClient], options: CommonOptions
) -> AdaptyClient | AdaptyMailClient:
    settings: dict[str, Any] = {}
    if not os.environ.get("ADAPTY_API_KEY" if kind is AdaptyClient else "ADAPTY_MAIL_API_KEY"):
        settings["api_key"] = ""  # otherwise a public key would be enough for a client
    if options.concurrency is not None:
        settings["limits"] = Limits(connections=options.concurrency)
    if not _sends_nothing(options):
        return client_with_hints(kind, options, connection_hooks, **settings)
    settings |= options.settings()
    is_needed = options.journal is not None and options.journal.exists()
    if settings.get("api_key") == "" and not is_needed:  # a journal needs its key
        settings["api_key"] = "dry-run"
    return kind(**settings, transport=accept)


def _sends_nothing(options: CommonOptions) -> bool:
    return options.dry_run or options.sample is not None


async def _perform_and_report(
    job: Job, client: AdaptyClient | AdaptyMailClient, options: CommonOptions
) -> int:
    if options.sample is not None:
        return _show_sample(job, options.sample, client.origin, options)
    async with client:
        with copied(job.journal) if job.is_dry else contextlib.nullcontext(job.journal) as journal:
            result = await perform(msgspec.structs.replace(job, journal=journal), client)
            if result.error is not None and not result.report.total:
                raise result.error
    measured = measured_rate(job.earlier(client.origin))
    expected = estimate_of(result.report.done, options.rate, measured)
    if options.as_json:
        findings = job.rows.findings
        preview = preview_json(ends_of(job.rows), expected) if options.dry_run else None
        echo_data(report_json(result.report, findings, preview=preview, error=result.error))
    else:
        _echo_report(result, job, options, expected)
    if not isinstance(job.rows, SizedRows):
        _echo(job.rows.findings.lines())
    if result.error is not None:
        echo_error(result.error)
    _echo_next_steps(result, job, options)
    return exit_code(result)


def _echo_next_steps(result: JobResult, job: Job, options: CommonOptions) -> None:
    is_left = not (result.report.ok or isinstance(result.error, JournalError))
    if options.journal is not None and not options.dry_run and is_left:
        for line in next_steps(result, options.journal, job.name, options.failures):
            echo(line, err=options.as_json)


def _show_sample(job: Job, count: int, origin: str, options: CommonOptions) -> int:
    rows = sample(job.rows, job.operation, count, origin=origin, id_encoding=options.id_encoding)
    if options.as_json:
        echo_data(sample_json(rows))
    else:
        click.echo(sample_text(rows, job.rows.noun))
    return Exit.NOT_ALL_DONE if any(one.error for one in rows) else Exit.OK


def _echo_report(result: JobResult, job: Job, options: CommonOptions, expected: Estimate) -> None:
    failures = None if result.error else options.failures
    if not options.dry_run:
        echo(report_text(result.report, failures=failures, total=job.total, noun=job.rows.noun))
        return
    echo(dry_run_text(result.report, failures=failures, total=job.total, noun=job.rows.noun))
    if (ends := ends_of(job.rows)) is not None:
        echo(f"The input: {describe_ends(*ends)}.")
    if expected.rows:
        echo(expected.text())


@contextlib.contextmanager
def _exit_on_error() -> Iterator[None]:
    """Exit with a message: code 2 for an error of the library or a file, 130 for Ctrl-C."""
    try:
        yield
    except AdaptyError as error:
        echo_error(by_option(error))
        sys.exit(Exit.REFUSED)
    except OSError as error:  # such as of a folder that only another user may search
        if error.strerror is None:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        echo_error(f"{where}{error.strerror}")
        sys.exit(Exit.REFUSED)
    except (KeyboardInterrupt, click.Abort):
        write_error("\nInterrupted.")
        sys.exit(Exit.INTERRUPTED)


def _run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415  an extra
    except ImportError:
        return None
    return uvloop.new_event_loop
