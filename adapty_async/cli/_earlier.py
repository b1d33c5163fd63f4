"""The results of earlier runs with a journal, which a command shows before it resumes the run."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from adapty_async._journal import RunName
from adapty_async.bulk import JournalSummary, summarise
from adapty_async.errors import JournalError

__all__ = ("EarlierRuns", "earlier_runs", "require_same_api", "summary_of")

_APIS = frozenset({"v1", "v2", "mail"})


class EarlierRuns(msgspec.Struct, frozen=True, kw_only=True):
    """
    The results of the runs of a journal so far.

    Attributes:
        settled: rows that a further run skips.
        rate: requests per second that the server allowed, as measured by the latest run that
            reached the limit; None if none did.
    """

    settled: int = 0
    rate: float | None = None


def earlier_runs(summary: JournalSummary | None, name: RunName, origin: str) -> EarlierRuns:
    """Return the results of earlier runs; nothing if the journal is new or of another run."""
    if summary is None:
        return EarlierRuns()
    if (summary.identity.operation, summary.identity.origin) != (str(name), origin):
        return EarlierRuns()  # the run raises an error
    rates = [run.rate for run in summary.runs if run.rate is not None]
    return EarlierRuns(settled=summary.settled, rate=rates[-1] if rates else None)


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
