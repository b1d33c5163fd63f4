"""Figures of a report, computed from the summary of a journal."""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from adapty_async._input.layout import TABLE_FORMATS
from adapty_async._journal import OUTCOMES, JournalSummary, Minute, Run, RunName, log_of
from adapty_async._report.check import Check
from adapty_async._report.outcomes import FINAL, ListedItem, OutcomesSummary, name_of
from adapty_async._version import __version__
from adapty_async.errors import JournalError

# The version of the keys of a report as JSON; keys may be added without another one.
_FORMAT = 1
_MOST_INTERVALS = 120


class RunFigures(msgspec.Struct, frozen=True, kw_only=True):
    """
    The figures of one run.

    Attributes:
        number: from 1.
        started_at: the date and time at which it opened the journal.
        ended_at: when it closed the journal; None if it was killed or is still running.
        last_at: when it last wrote to the journal.
        ending: ``input_read`` if it ended with its input, ``stopped``, ``killed`` or ``running``.
        stop_reason: why it stopped before its input ended; None if it did not.
        pause_before: seconds since the end of the run before; None for the first run.
        counts: the number of items that ended in each state during this run.
        requests: requests sent for these items, retries included.
        throttled: responses with status 429 among them.
    """

    number: int
    started_at: dt.datetime
    ended_at: dt.datetime | None
    last_at: dt.datetime
    ending: str
    stop_reason: str | None
    pause_before: float | None
    counts: dict[str, int]
    requests: int
    throttled: int

    @property
    def seconds(self) -> float:
        """The duration in seconds; of a killed run, until it last wrote to the journal."""
        return max(0.0, ((self.ended_at or self.last_at) - self.started_at).total_seconds())


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """
    The figures of one or more minutes of a run.

    Attributes:
        run: the number of the run.
        start: its start, not before that of the run.
        seconds: its duration.
        ended: the number of items that ended.
        requests: requests sent for these items, retries included.
        throttled: responses with status 429 among them.
    """

    run: int
    start: dt.datetime
    seconds: float
    ended: int
    requests: int
    throttled: int


class ReasonFigures(msgspec.Struct, frozen=True, kw_only=True):
    """
    The figures of one reason why items were not done.

    Attributes:
        state: the state that they ended in.
        error: the class of the error, or a code that Adapty documents.
        http_status: the status of the last response; None if there was none.
        times: the number of items, over all runs.
        times_in_last_run: the number of items in the last run.
    """

    state: str
    error: str
    http_status: int | None
    times: int
    times_in_last_run: int


class JournalFile(msgspec.Struct, frozen=True, kw_only=True):
    """
    The journal's file, from which the figures come.

    Attributes:
        name: its name, without folders.
        sha256: its digest; None while a run uses it, or if its write-ahead log still exists.
        is_in_use: whether a run has it open.
    """

    name: str
    sha256: str | None
    is_in_use: bool


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """
    The content of a report, without ids.

    Attributes:
        report: the version of these keys.
        made_at: when the journal was read.
        made_by: the library and its version.
        journal: the file.
        operation: the name of the call, and the kind of its items.
        origin: the server's scheme, host and port.
        account: a digest of the API key.
        identified_by: ``position`` or ``digest``.
        input: the journal's description of the input: size, digest and rows of a file, or a job id.
        is_input_verified: whether the passed input is that of the journal, or begins with it; None
            without an input.
        is_complete: whether every item is done, absent or a duplicate; None if the number of items
            is unknown.
        items: the number of items of the input; None if unknown.
        counts: the number of items by their last known state.
        unrecorded: the number of items without a record; None if `items` is unknown.
        left: the number of items that the next run has to process; None if `items` is unknown.
        first_at, last_at: when the first and the last item ended.
        rate: items that ended per second in the last minute of the last run.
        runs: all runs.
        over_time: items and requests over time.
        reasons: why items were not done.
        outcomes: the outcomes file; None without one.
        check: whether each id of an input has a final outcome; None if not requested.
    """

    report: int = _FORMAT
    made_at: dt.datetime
    made_by: str = f"adapty-async {__version__}"
    journal: JournalFile
    operation: str
    origin: str
    account: str
    identified_by: str
    input: dict[str, Any]
    is_input_verified: bool | None
    is_complete: bool | None
    items: int | None
    counts: dict[str, int]
    unrecorded: int | None
    left: int | None
    first_at: dt.datetime | None
    last_at: dt.datetime | None
    rate: float | None
    runs: tuple[RunFigures, ...]
    over_time: tuple[Interval, ...]
    reasons: tuple[ReasonFigures, ...]
    outcomes: OutcomesSummary | None
    check: Check | None

    @property
    def noun(self) -> str:
        """The word for what items are numbered by: ``line`` of a text, otherwise ``row``."""
        read_as = self.input.get("read_as")
        if isinstance(read_as, dict):
            form = read_as.get("form")
        else:
            form = RunName.parse(self.operation).form
        return "row" if form is None or form in TABLE_FORMATS else "line"


def journal_file(path: Path, summary: JournalSummary) -> JournalFile:
    """
    Return the name and digest of a journal's file. Blocks.

    Raises:
        JournalError: it cannot be read.
    """
    digest = None
    # a remaining log contains a part of the content
    if not summary.is_in_use and not log_of(path).exists():
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise JournalError(f"the journal {path} cannot be read: {error.strerror}") from None
    return JournalFile(name=name_of(path), sha256=digest, is_in_use=summary.is_in_use)


def figures_of(
    summary: JournalSummary,
    *,
    file: JournalFile,
    made_at: dt.datetime,
    is_input_verified: bool | None = None,
    outcomes: OutcomesSummary | None = None,
    check: Check | None = None,
) -> Report:
    """Return the report of a journal."""
    items, identity = summary.items, summary.identity
    counts = {state.name.lower(): count for state, count in summary.counts.items()}
    final = sum(counts[state] for state in FINAL)
    return Report(
        made_at=made_at,
        journal=file,
        operation=identity.operation,
        origin=identity.origin,
        account=identity.account,
        identified_by=identity.keys,
        input=identity.input,
        is_input_verified=is_input_verified,
        is_complete=None if items is None else final == items,
        items=items,
        counts=counts,
        unrecorded=None if items is None else items - sum(counts.values()),
        left=summary.left,
        first_at=_time(summary.first_at),
        last_at=_time(summary.last_at),
        rate=summary.rate,
        runs=tuple(run_figures(summary)),
        over_time=tuple(intervals(summary, _MOST_INTERVALS)),
        reasons=tuple(_reasons(summary)),
        outcomes=outcomes,
        check=check,
    )


def _time(seconds: float | None) -> Any:
    return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)


def run_figures(summary: JournalSummary) -> Iterator[RunFigures]:
    """Yield the figures of each run."""
    earlier: Run | None = None
    for run in summary.runs:
        minutes = [minute for minute in summary.minutes if minute.run == run.number]
        pause = None if earlier is None else max(0.0, run.started_at - _end(earlier))
        yield RunFigures(
            number=run.number,
            started_at=_time(run.started_at),
            ended_at=_time(run.ended_at),
            last_at=_time(run.last_at),
            ending=_ending(run, summary),
            stop_reason=run.stop_reason,
            pause_before=pause,
            counts=_counts(minutes),
            requests=sum(minute.requests for minute in minutes),
            throttled=sum(minute.throttled for minute in minutes),
        )
        earlier = run


def _end(run: Run) -> float:
    return run.last_at if run.ended_at is None else run.ended_at


def _ending(run: Run, summary: JournalSummary) -> str:
    if run.ended_at is not None:
        return "input_read" if run.stop_reason is None else "stopped"
    return "running" if summary.is_in_use and run is summary.runs[-1] else "killed"


def _counts(minutes: Collection[Minute]) -> dict[str, int]:
    names = (state.name.lower() for state in OUTCOMES)
    return {name: sum(getattr(minute, name) for minute in minutes) for name in names}


def intervals(summary: JournalSummary, at_most: int) -> Iterator[Interval]:
    """
    Yield the outcomes over time, by one or more minutes.

    An interval lies within one run. Minutes without an outcome have no interval. There are about
    `at_most` intervals, but at least one for each run with outcomes.
    """
    size = max(1, math.ceil(sum(_end(run) - run.started_at for run in summary.runs) / 60 / at_most))
    for run in summary.runs:
        groups: dict[int, list[Minute]] = {}
        for minute in summary.minutes:
            if minute.run == run.number:
                groups.setdefault(minute.minute // size, []).append(minute)
        for number, minutes in sorted(groups.items()):
            start = max(run.started_at, 60.0 * size * number)
            end = min(_end(run), 60.0 * size * (number + 1))
            yield Interval(
                run=run.number,
                start=_time(start),
                seconds=max(0.0, end - start),
                ended=sum(_counts(minutes).values()),
                requests=sum(minute.requests for minute in minutes),
                throttled=sum(minute.throttled for minute in minutes),
            )


def _reasons(summary: JournalSummary) -> Iterator[ReasonFigures]:
    times: dict[tuple[str, str, int], list[int]] = {}
    for each in summary.reasons:
        found = times.setdefault((each.state, each.error, each.http_status), [0, 0])
        found[0] += each.items
        found[1] += each.items if each.run == len(summary.runs) else 0
    for (state, error, status), (all_runs, last) in sorted(
        times.items(), key=lambda entry: (-entry[1][0], entry[0])
    ):
        yield ReasonFigures(
            state=state,
            error=error,
            http_status=status or None,
            times=all_runs,
            times_in_last_run=last,
        )


def as_json(report: Report, items: Iterable[ListedItem] | None = None) -> Iterator[str]:
    """
    Yield the pieces of a report as one JSON object.

    Args:
        report: the figures.
        items: the items with their ids; None for a report without ids.
    """
    text = msgspec.json.format(msgspec.json.encode(report)).decode()
    if items is None:
        yield f"{text}\n"
        return
    yield text.removesuffix("\n}")
    before = ',\n  "listed": ['
    for item in items:
        yield f"{before}\n    {msgspec.json.encode(item).decode()}"
        before = ","
    yield f"{before if before != ',' else ''}\n  ]\n}}\n"
