"""A report of a journal, as evidence of what its runs did: one HTML page, or JSON."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from collections.abc import Iterable
from pathlib import Path

from adapty_async._input.frames import is_frame
from adapty_async._journal import belongs_to_journal, read_journal
from adapty_async._report import (
    InputRow,
    OutcomesFile,
    as_json,
    check,
    figures_of,
    journal_file,
    page,
    require_replaceable,
    write_file,
)
from adapty_async.errors import ConfigError, InvalidInputError

__all__ = ("write_report",)


def write_report(
    journal: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    outcomes: str | os.PathLike[str] | None = None,
    ids: Iterable[str] | None = None,
) -> bool:
    """
    Write a report of all runs with a journal, and return whether every item has a final outcome.

    The report has times, operation, results, reasons and digests, and no ids. It is the page that
    ``adapty-async report`` makes. An earlier report is replaced atomically, any other file is
    rejected, and only its owner can read the new one. This function blocks; in an event loop, pass
    it to ``asyncio.to_thread``.

    Args:
        journal: the journal of the runs.
        output: the file to write: JSON if its name ends in ``.json``, otherwise HTML.
        outcomes: the outcomes file of the runs.
        ids: the ids that must have a final outcome in `outcomes`: done, absent or a duplicate. The
            report names the positions of those that have none, from 1. Pass them if the journal
            does not know the number of its items, as that of an iterable.

    Returns:
        Whether each of `ids` has a final outcome; without `ids`, each item of the journal. False if
        the journal does not know the number of its items, or if `outcomes` has outcomes of other
        runs as well.

    Raises:
        ConfigError: `output` cannot be written, is one of the other files or holds something else
            than a report, there are `ids` and no `outcomes`, or `ids` are a file, a data frame or
            one string.
        JournalError: the journal cannot be read.
        InvalidInputError: `outcomes` cannot be read, or `ids` are none.
    """
    journal, output = Path(journal), Path(output)
    if ids is not None:
        _require_ids(ids, outcomes)
    _require_free(output, journal, outcomes)
    summary, _ = read_journal(journal)
    with contextlib.ExitStack() as stack:
        recorded = found = None
        if outcomes is not None:
            recorded = stack.enter_context(OutcomesFile.of_runs(Path(outcomes), summary))
        if ids is not None:
            rows = (
                InputRow(number, each if isinstance(each, str) else None)
                for number, each in enumerate(ids, 1)
            )
            found = check("ids", rows, None, recorded)
            if not found.rows:  # such as the result of a query that failed
                raise InvalidInputError("ids", "must have at least one id")
        figures = figures_of(
            summary,
            file=journal_file(journal, summary),
            made_at=dt.datetime.now(dt.UTC),
            outcomes=None if recorded is None else recorded.summary,
            check=found,
        )
    render = as_json if output.suffix.lower() == ".json" else page
    try:
        require_replaceable(output)
        write_file(output, render(figures, None))
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}") from None
    if recorded is not None and recorded.summary.has_others:
        return False
    return bool(figures.is_complete if found is None else found.ok)


def _require_ids(ids: object, outcomes: object) -> None:
    if outcomes is None:
        raise ConfigError("ids need outcomes: a journal has no ids")
    if isinstance(ids, str | bytes):
        raise ConfigError("ids must be several ids, not one string")
    is_table = is_frame(ids) and type(ids).__name__ != "Series"  # whose elements are columns
    if is_table or not isinstance(ids, Iterable):
        raise ConfigError("ids must be several ids: pass the column of a file or a data frame")


def _require_free(output: Path, journal: Path, outcomes: str | os.PathLike[str] | None) -> None:
    is_outcomes = outcomes is not None and output.resolve() == Path(outcomes).resolve()
    if is_outcomes or belongs_to_journal(output, journal):
        raise ConfigError("output must not be the journal or the outcomes file")
    if output.exists() and not output.is_file():
        raise ConfigError(f"{output} must be a regular file")
