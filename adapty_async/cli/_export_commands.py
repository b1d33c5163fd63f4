"""The commands of ``export``: charts, cohorts and so on of the export analytics API, to a file."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from adapty_async._input.layout import TABLE_FORMATS, format_of
from adapty_async._runtime.words import counted
from adapty_async.cli._app import _run
from adapty_async.cli._help import complete_file, examples
from adapty_async.cli._job import Exit
from adapty_async.cli._options import CONNECTION_OPTIONS, Connection, add_options
from adapty_async.cli._proxies import client_with_hints, proxy_hooks
from adapty_async.cli._signals import handled
from adapty_async.cli._streams import output_failed, write_error
from adapty_async.cli._terminal import echo, echo_data, echo_error, visible_json
from adapty_async.cli._v2_commands import cli
from adapty_async.client import AdaptyExportClient
from adapty_async.errors import (
    AdaptyError,
    AuthenticationError,
    ConfigError,
    ExportError,
    InvalidInputError,
    RequestRejectedError,
)
from adapty_async.export import (
    AccountingType,
    ChunkWritten,
    CsvExport,
    DateType,
    ExportedFile,
    Filters,
    JsonChunks,
    JsonExport,
    PeriodType,
    PeriodUnit,
    PlacementFilters,
    PlacementType,
    ShowValueAs,
    ValueField,
    ValueType,
)

__all__ = ("cli", "export")

_STDOUT = "-"
_RESUMABLE = "The same command resumes after the complete chunks."
_UNITS = [str(unit) for unit in PeriodUnit]
_FILTERS = tuple(name for name in Filters.__struct_fields__ if name not in {"date", "compare_date"})
# The options by the names that errors of the library have, unless these are the options' own.
_OPTION_OF = {
    "by": "--chunk",
    "chart_id": "--chart",
    "date": "--from and --to",
    "renewal_days": "--renewal-day",
}
# The chunks of a chart's export to CSV by default. The rows of those charts are separate periods,
# while every other export would change its meaning.
_CHUNK_OF_PERIOD = {"day": "month", "month": "month", "quarter": "quarter", "year": "year"}


def _day(text: str) -> dt.date:
    """Return the day of a text; other text is a usage error."""
    try:
        return dt.datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007  a day has no zone
    except ValueError:  # a week as well, such as 2026-W05, which would be its Monday
        raise click.BadParameter(f"{text!r} is no day, such as 2026-01-31.") from None


class Target(Connection, frozen=True, kw_only=True):
    """A group of the options that all exports share."""

    form: str
    output: str
    chunk: str | None
    tz: str | None
    as_json: bool


def _open_choice(name: str, values: Any, text: str, **more: Any) -> Callable[[Any], Any]:
    """Return an option that lists the documented values and accepts all others."""
    return click.option(name, help=f"{text}: {', '.join(values)}.", **more)


def _day_option(name: str, variable: str, text: str) -> Callable[[Any], Any]:
    """Return a required option that is a day."""
    return click.option(name, variable, type=_day, metavar="YYYY-MM-DD", required=True, help=text)


_TARGET = (
    click.option(
        "--format",
        "form",
        type=click.Choice(["csv", "json"]),
        default="csv",
        show_default=True,
        help="The format of the file.",
    ),
    click.option(
        "-o",
        "--output",
        default=_STDOUT,
        shell_complete=complete_file,
        help="The file, which is replaced when all data is there; by default standard output.",
    ),
    click.option("--tz", help="The time zone by which data is grouped, such as Europe/Berlin."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON; needs -o."),
    *CONNECTION_OPTIONS,
)
_SELECTION = (
    _day_option("--from", "first", "The first day."),
    _day_option("--to", "last", "The last day, inclusive."),
    click.option(
        "--filter",
        "filters",
        metavar="NAME=VALUE",
        multiple=True,
        help=f"One of several values of a filter, such as country=us. NAME is one of "
        f"{', '.join(_FILTERS)}.",
    ),
    _open_choice("--period-unit", _UNITS, "The interval by which values are grouped"),
    click.option(
        "--chunk",
        type=click.Choice([*_UNITS, "none"]),
        help="Divide the export into requests of this length, so that it can be resumed. The "
        "default is none, and for analytics in CSV month, or a longer --period-unit.",
    ),
)
_SEGMENTATION = click.option(
    "--segmentation", help="The property by which values are divided, such as country."
)
_DATE_TYPE = _open_choice("--date-type", DateType, "The date on which a user joined")
_PERIOD_TYPE = _open_choice("--period-type", PeriodType, "The periods")


@cli.group(
    epilog=examples(
        "export analytics --chart revenue --from 2025-01-01 --to 2025-12-31 -o revenue.csv"
    )
)
def export() -> None:
    """
    Export charts and placements to a file.

    They come from the export analytics API. The key is in ADAPTY_API_KEY. The file appears when all
    data is there. If an export that is divided into chunks is interrupted, the same command resumes
    it after the complete chunks.

    Exit codes: 0 done, 1 a request failed, 2 usage error or invalid input, 3 the key was rejected,
    130 interrupted.
    """


@export.command(
    epilog=examples(
        "export analytics --chart mrr --from 2025-01-01 --to 2025-12-31 -o mrr.csv",
        "export analytics --chart mrr --from 2025-01-01 --to 2025-01-31 --filter country=us",
    )
)
@click.option("--chart", required=True, help="The id of the chart, such as revenue or mrr.")
@add_options(*_SELECTION, _DATE_TYPE, _SEGMENTATION, *_TARGET)
def analytics(chart: str, **options: Any) -> None:
    """Export a chart, by the date of the transactions."""
    target, query = _split(options)
    if target.chunk is None and target.form == "csv":
        unit = query.get("period_unit", PeriodUnit.MONTH)
        target = msgspec.structs.replace(target, chunk=_CHUNK_OF_PERIOD.get(unit))
    _perform(target, lambda client, form: client.analytics(chart_id=chart, **form, **query))


@export.command(
    epilog=examples("export cohort --from 2025-01-01 --to 2025-06-30 --format json -o cohort.json")
)
@add_options(
    *_SELECTION,
    _PERIOD_TYPE,
    _open_choice("--value-type", ValueType, "The form of the values"),
    _open_choice("--value-field", ValueField, "The values"),
    _open_choice("--accounting-type", AccountingType, "The way to count money"),
    click.option(
        "--renewal-day", "renewal_days", type=int, multiple=True, help="A day since installation."
    ),
    click.option("--prediction-months", type=int, help="Months of prediction."),
    *_TARGET,
)
def cohort(**options: Any) -> None:
    """Export cohorts, by the date of the installation."""
    target, query = _split(options)
    _perform(target, lambda client, form: client.cohort(**form, **query))


@export.command(
    epilog=examples(
        "export conversion --from-period 1 --to-period 2 --from 2025-01-01 --to 2025-06-30"
    )
)
@click.option("--from-period", help="The state before, such as 1; null by default.")
@click.option("--to-period", required=True, help="The state afterwards, such as 6+.")
@add_options(*_SELECTION, _DATE_TYPE, _SEGMENTATION, *_TARGET)
def conversion(from_period: str | None, **options: Any) -> None:
    """Export the conversion between states of a subscription."""
    target, query = _split(options)
    _perform(
        target, lambda client, form: client.conversion(from_period=from_period, **form, **query)
    )


@export.command(
    epilog=examples("export funnel --from 2025-01-01 --to 2025-06-30 --segmentation country")
)
@add_options(
    *_SELECTION,
    _open_choice("--show-value-as", ShowValueAs, "The form of the values"),
    _SEGMENTATION,
    *_TARGET,
)
def funnel(**options: Any) -> None:
    """Export the funnel from the installation through the payments."""
    target, query = _split(options)
    _perform(target, lambda client, form: client.funnel(**form, **query))


@export.command(epilog=examples("export ltv --from 2025-01-01 --to 2025-06-30 -o ltv.csv"))
@add_options(*_SELECTION, _PERIOD_TYPE, _SEGMENTATION, *_TARGET)
def ltv(**options: Any) -> None:
    """Export the lifetime value of subscribers."""
    target, query = _split(options)
    _perform(target, lambda client, form: client.ltv(**form, **query))


@export.command(epilog=examples("export retention --from 2025-01-01 --to 2025-06-30 --use-trial"))
@add_options(
    *_SELECTION,
    _PERIOD_TYPE,
    _SEGMENTATION,
    click.option("--use-trial/--no-trial", default=None, help="Whether a trial counts."),
    *_TARGET,
)
def retention(**options: Any) -> None:
    """Export the retention of subscribers."""
    target, query = _split(options)
    _perform(target, lambda client, form: client.retention(**form, **query))


@export.command(
    epilog=examples("export placements --placement-type paywall --format json -o paywalls.json")
)
@_open_choice("--placement-type", PlacementType, "The kind of placements", required=True)
@add_options(*_TARGET)
def placements(placement_type: str, **options: Any) -> None:
    """
    Export the placements and what they show.

    That is their paywalls or onboardings, audiences and A/B tests.
    """
    target = Target(chunk=None, **options)
    filters = PlacementFilters(placement_type=placement_type)
    _perform(target, lambda client, form: client.placements(filters=filters, **form))


def _split(options: Mapping[str, Any]) -> tuple[Target, dict[str, Any]]:
    """Return the options that all exports share, and the properties of the request."""
    target = {name: options[name] for name in Target.__struct_fields__ if name in options}
    if target["chunk"] == "none":
        target["chunk"] = ""
    rest = {name: value for name, value in options.items() if name not in target}
    first, last, given = rest.pop("first"), rest.pop("last"), rest.pop("filters")
    query = {name: value for name, value in rest.items() if value is not None and value != ()}
    with _exit_on_error():
        filters = Filters(date=(first, last), **_filters(given))
        return Target(**target), {"filters": filters, **query}


def _filters(given: tuple[str, ...]) -> dict[str, Any]:
    values: dict[str, list[str]] = {}
    for each in given:
        name, is_given, value = each.partition("=")
        if not is_given or name not in _FILTERS:
            raise click.UsageError(
                f"--filter {each}: must be NAME=VALUE, and NAME one of {', '.join(_FILTERS)}"
            )
        values.setdefault(name, []).append(value)
    return values


Writable = JsonExport[Any] | JsonChunks[Any] | CsvExport
Exporting = Callable[[AdaptyExportClient, dict[str, Any]], JsonExport[Any] | CsvExport]


def _perform(target: Target, begin: Exporting) -> None:
    if target.as_json and target.output == _STDOUT:
        raise click.UsageError("--json needs -o: the export itself goes to standard output")
    if format_of(target.output) in TABLE_FORMATS:
        raise click.UsageError(
            f"-o {target.output}: an export is CSV or JSON; to_arrow() makes a table in a program"
        )
    is_resumable = bool(target.chunk) and target.output != _STDOUT
    with _exit_on_error(_RESUMABLE if is_resumable else "The export is not complete."):
        client = client_with_hints(AdaptyExportClient, target, proxy_hooks)
        plan = begin(client, {"format": target.form, "tz": target.tz})
        chunked = plan.chunks(by=target.chunk) if target.chunk else plan
        if target.output == _STDOUT:
            with _received(client, chunked) as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.flush()
            if output_failed():
                sys.exit(Exit.NOT_ALL_DONE)
        else:
            result = _run(_write_to(client, chunked, Path(target.output)))
            if target.as_json:
                echo_data(_as_json(result))
            else:
                echo(_as_text(result))


def _received(client: AdaptyExportClient, plan: Writable) -> BinaryIO:
    """Return a file with the export, whose name is removed before somebody waits for a reader."""
    with tempfile.TemporaryDirectory(prefix="adapty-async-") as folder:
        path = Path(folder, "export")
        _run(_write_to(client, plan, path))
        return path.open("rb")


async def _write_to(client: AdaptyExportClient, plan: Writable, path: Path) -> ExportedFile:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  coroutines run in tasks
    options: dict[str, Any] = {}
    if not isinstance(plan, JsonExport):
        options["on_chunk"] = _echo_progress
    async with client:
        with handled(lambda _: task.cancel()):
            return await plan.write_to(path, **options)


def _echo_progress(chunk: ChunkWritten) -> None:
    dates = "" if chunk.dates is None else f", {chunk.dates[0]} to {chunk.dates[1]}"
    write_error(f"Exporting: {chunk.number} of {chunk.total}{dates}, {_size(chunk.size)}")


def _as_json(result: ExportedFile) -> str:
    return visible_json(msgspec.to_builtins(result, enc_hook=click.format_filename))


def _as_text(result: ExportedFile) -> str:
    resumed = f", {result.resumed:,} of them earlier" if result.resumed else ""
    return f"{result.path}: {_size(result.size)} in {counted(result.chunks, 'request')}{resumed}"


def _size(size: int) -> str:
    return f"{size:,} bytes" if size < 1_000_000 else f"{size / 1_000_000:,.1f} MB"


@contextlib.contextmanager
def _exit_on_error(interrupted: str = "") -> Iterator[None]:
    """Exit with a message and a code on an error of the library, and on a signal to end."""
    try:
        yield
    except AdaptyError as error:
        echo_error(_by_option(error))
        sys.exit(_exit_code(error))
    except (KeyboardInterrupt, asyncio.CancelledError, click.Abort):
        write_error(f"\nInterrupted. {interrupted}".rstrip())
        sys.exit(Exit.INTERRUPTED)


def _by_option(error: AdaptyError) -> AdaptyError:
    """Return the error with the names of options instead of the library's parameters."""
    if isinstance(error, InvalidInputError):
        rule = error.rule.replace("period_unit", "--period-unit")
        return InvalidInputError(_option_of(error.field), rule)
    return error


def _option_of(field: str) -> str:
    name = field.removeprefix("filters.").partition("[")[0]
    if name in _FILTERS:
        return f"--filter {name}"
    return _OPTION_OF.get(name, f"--{name.replace('_', '-')}")


def _exit_code(error: AdaptyError) -> int:
    """Return the exit code of an export that ended with an error."""
    if isinstance(error, AuthenticationError):
        return Exit.KEY_REJECTED
    is_input = isinstance(
        error, ConfigError | InvalidInputError | ExportError | RequestRejectedError
    )
    return Exit.REFUSED if is_input else Exit.NOT_ALL_DONE
