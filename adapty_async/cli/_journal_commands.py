"""The commands that read a journal: ``status`` and ``report``."""

from __future__ import annotations

import contextlib
import datetime as dt
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from adapty_async._journal import Spans, files_of, read_journal
from adapty_async._report import (
    Check,
    ListedItem,
    OutcomesFile,
    as_json,
    check,
    figures_of,
    journal_file,
    listed,
    name_of,
    page,
    require_replaceable,
    write_file,
)
from adapty_async.bulk import JournalSummary, summarise
from adapty_async.cli._app import _exit_on_error
from adapty_async.cli._columns import column_option
from adapty_async.cli._export_commands import cli
from adapty_async.cli._help import complete_file, examples
from adapty_async.cli._job import Exit
from adapty_async.cli._journal_text import check_lines, status_json, status_text
from adapty_async.cli._progress import CHECKING, READING, WRITING, counting
from adapty_async.cli._recorded import RecordedInput
from adapty_async.cli._report import as_config_errors, is_same_file
from adapty_async.cli._streams import output_failed
from adapty_async.cli._terminal import echo, echo_data
from adapty_async.errors import ConfigError, InvalidInputError

__all__ = ("cli", "report", "status")

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@cli.command(epilog=examples("status run.db"))
@click.argument("journal", type=_FILE)
@click.option("--json", "is_json", is_flag=True, help="Print the figures as JSON.")
def status(journal: Path, *, is_json: bool) -> None:
    """
    Show the progress of the run of JOURNAL.

    The run may be in progress.
    """
    with _exit_on_error():
        summary = summarise(journal)
        if is_json:
            echo_data(status_json(summary))
        else:
            echo(status_text(summary))
    if output_failed():
        sys.exit(Exit.NOT_ALL_DONE)


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    """A group of the options of ``report``."""

    source: str | None
    outcomes: Path | None
    checked: str | None
    column: str | None
    encoding: str | None
    sheet: str | None
    form: str | None
    output: Path | None
    with_ids: bool


@cli.command(
    epilog=examples(
        "report run.db -o report.html",
        "report run.db --outcomes run.ndjson --check ids.csv -o evidence.json",
    )
)
@click.argument("journal", type=_FILE)
@click.option(
    "--input",
    "source",
    metavar="FILE",
    shell_complete=complete_file,
    help="The input of the run.",
)
@click.option("--outcomes", type=_FILE, help="The outcomes file of the run.")
@click.option(
    "--check",
    "checked",
    metavar="INPUT",
    shell_complete=complete_file,
    help="Check that each id of INPUT has a final outcome. Exit code 1 if not.",
)
@column_option("The column with the ids; by default, that of the run.")
@click.option("--encoding", help="The encoding of --check if it is not the input of the run.")
@click.option("--sheet", help="The sheet of --check if it is not the input of the run.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "json"]),
    help="By default html, or json for an output file that ends in .json.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file; only its owner can read it.",
)
@click.option("--with-ids", is_flag=True, help="List the ids, from --outcomes or --input.")
def report(journal: Path, **values: Any) -> None:
    """
    Write a report of all runs with JOURNAL.

    The report has times, operation, results and errors. It is one self-contained HTML page, or
    JSON. It has no ids by default; see --with-ids.
    """
    options = _Options(**values)
    if options.with_ids and options.source is None and options.outcomes is None:
        raise click.UsageError("--with-ids needs --outcomes or --input")
    if options.checked is None and (options.encoding is not None or options.sheet is not None):
        raise click.UsageError("--encoding and --sheet need --check")
    with _exit_on_error():
        if options.output is not None:
            _require_free(options.output, journal, options)
        found = _make(journal, options)
    if found is not None and not found.ok:
        sys.exit(Exit.NOT_ALL_DONE)
    if output_failed():
        sys.exit(Exit.NOT_ALL_DONE)


def _make(journal: Path, options: _Options) -> Check | None:
    """Write the report, and return the check of an input if one was requested."""
    summary, spans = read_journal(journal)
    recorded = RecordedInput.of(summary.identity, options.column)
    with contextlib.ExitStack() as stack:
        outcomes = None
        if options.outcomes is not None:
            with counting(options.outcomes, READING) as watch:
                found_outcomes = OutcomesFile.of_runs(options.outcomes, summary, watch)
            outcomes = stack.enter_context(found_outcomes)
        if options.source is not None and (different := recorded.difference(options.source)):
            raise InvalidInputError("--input", f"is not the input of the journal: {different}")
        found = _check(recorded, spans, outcomes, options)
        figures = figures_of(
            summary,
            file=journal_file(journal, summary),
            made_at=dt.datetime.now(dt.UTC),
            is_input_verified=None if options.source is None else True,
            outcomes=None if outcomes is None else outcomes.summary,
            check=found,
        )
        items = None
        if options.with_ids and outcomes is not None:
            items = outcomes.items()
        elif options.with_ids and options.source is not None:
            rows = recorded.rows(options.source, is_same=True)
            items = listed(recorded.items(rows), spans)
        render = as_json if _form(options) == "json" else page
        with _writing(items, options) as shown:
            _write(render(figures, shown), summary, options)
    for line in check_lines(found):
        echo(line, err=True)
    return found


def _check(
    recorded: RecordedInput, spans: Spans, outcomes: OutcomesFile | None, options: _Options
) -> Check | None:
    path = options.checked
    if path is None:
        return None
    different = recorded.difference(path)
    different = different or recorded.other_reading(options.encoding, options.sheet)
    if different and outcomes is None:
        raise InvalidInputError(
            "--check",
            f"is not the input of the journal ({different}); with --outcomes its ids are looked up",
        )
    if different:
        recorded = msgspec.structs.replace(recorded, encoding=options.encoding, sheet=options.sheet)
    rows = recorded.rows(path, is_same=different is None)
    name = "standard input" if path == "-" else name_of(Path(path))
    with counting(path, CHECKING) as watch:
        found = check(name, watch(recorded.items(rows)), None if different else spans, outcomes)
    if different and not found.rows:  # such as the output of a failed export
        raise InvalidInputError("--check", "has no row with an id")
    return msgspec.structs.replace(
        found,
        without_id=rows.findings.without_id,
        noun=rows.noun,
        column=options.column,
        encoding=options.encoding,
        sheet=options.sheet,
    )


@contextlib.contextmanager
def _writing(
    items: Iterable[ListedItem] | None, options: _Options
) -> Iterator[Iterable[ListedItem] | None]:
    """Show on a terminal how many items were written, unless it gets the report itself."""
    if items is None or options.output is None:
        yield items
        return
    with counting(options.output, WRITING) as watch:
        yield watch(items)


def _form(options: _Options) -> str:
    is_json = options.output is not None and options.output.suffix.lower() == ".json"
    return options.form or ("json" if is_json else "html")


def _write(pieces: Iterable[str], summary: JournalSummary, options: _Options) -> None:
    if options.output is not None:
        with as_config_errors("-o"):
            write_file(options.output, pieces)
    elif options.form is None and sys.stdout.isatty():  # a terminal does not render HTML
        echo(f"{status_text(summary)}\n\nThe report itself: add -o FILE, or --format json.")
    else:
        for piece in pieces:
            echo_data(piece, nl=False)


def _require_free(output: Path, journal: Path, options: _Options) -> None:
    """
    Validate that a report replaces no file of another kind.

    Raises:
        ConfigError: it would replace one.
    """
    read = [*files_of(journal)]
    read += [Path(each) for each in (options.source, options.checked, options.outcomes) if each]
    target = output.resolve()
    if any(is_same_file(target, path) for path in read):
        raise ConfigError("-o must not be the journal, the input or the outcomes file")
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise ConfigError("-o must be a regular file")
    with as_config_errors("-o"):
        require_replaceable(target)
