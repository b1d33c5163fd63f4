"""
The progress of a command on standard error.

A run has a bar on a terminal, otherwise periodic lines. While rows are counted beforehand, or a
report is made, a terminal has a line, which does not stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

import click
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from adapty_async._runtime.words import counted
from adapty_async.bulk import BulkReport, BulkRun
from adapty_async.cli._frame import ERASE, Frame
from adapty_async.cli._report import per_second
from adapty_async.cli._streams import write_error
from adapty_async.cli._terminal import visible
from adapty_async.statistics import CircuitState, Statistics

RowT = TypeVar("RowT")

_REFRESH_SECONDS = 0.2
_LINE_SECONDS = 5.0
_BAR_WIDTH = 40
_LEAST_BAR_WIDTH = 5


class Meter:
    """
    A meter of the rows that are sent or, in a dry run, validated.

    The rate and the time left exclude skipped rows, which take almost no time.

    Args:
        total: rows of the input, None if unknown.
        is_dry: nothing is sent.
        settled: rows that will be skipped, as far as is known before the run.
    """

    def __init__(self, total: int | None, *, is_dry: bool, settled: int = 0) -> None:
        self.total = total
        self._is_dry = is_dry
        self._settled = settled
        self._started = 0.0  # seconds from the start of the run in which it only skipped rows
        self._skipped = 0

    def rate(self, report: BulkReport[Any, Any]) -> float:
        """Return rows per second since the first row that the run did not skip."""
        counted = report.total - report.skipped if self._is_dry else report.sent
        if not counted and report.skipped > self._skipped:
            self._started, self._skipped = report.elapsed, report.skipped
        seconds = report.elapsed - self._started
        return counted / seconds if seconds > 0 else 0.0

    def skipped(self, report: BulkReport[Any, Any]) -> str:
        """Return the number of skipped rows; empty if there are none."""
        return f"{report.skipped:,} skipped" if report.skipped else ""

    def failed(self, report: BulkReport[Any, Any]) -> str:
        """Return the number of failed rows; empty if there are none."""
        bad = report.failed + report.unknown
        return f"{bad:,} {'cannot be sent' if self._is_dry else 'failed'}" if bad else ""

    def state(self, report: BulkReport[Any, Any]) -> str:
        """Return the rate and the numbers of skipped and failed rows."""
        parts = [per_second(self.rate(report)), self.skipped(report), self.failed(report)]
        return ", ".join(filter(None, parts))

    def left(self, report: BulkReport[Any, Any]) -> float | None:
        """
        Return the estimated seconds for the rows that are left to send.

        None if that is not known, and after a stop.
        """
        rate = self.rate(report)
        if self.total is None or not rate or report.stop_reason is not None:
            return None
        skipped = max(self._settled, report.skipped)
        ended = report.total - report.skipped
        return max(self.total - skipped - ended, 0) / rate


class _Bar:
    """
    A line with a bar, and the statistics of the client below it.

    If the terminal is narrow, the bar becomes shorter, and the least important numbers are left
    out as a whole: half a number would be another number.
    """

    def __init__(self, title: str, console: Console, meter: Meter, frame: Frame) -> None:
        self._title = title
        self._console = console
        self._meter = meter
        self._frame = frame

    def show(self, report: BulkReport[Any, Any], details: Text) -> None:
        width = self._console.width
        line = self._line(report, width)
        self._frame.show(Group(line, _fitted(details, width)) if details else line)

    def _line(self, report: BulkReport[Any, Any], width: int) -> RenderableType:
        title, numbers = _numbers(self._title, self._meter, report, width)
        room = min(_BAR_WIDTH, width - len(title) - len(numbers) - 2)
        if not title or room < _LEAST_BAR_WIDTH:
            text = f"{title} {numbers}".strip()
            return Text(text, no_wrap=True, overflow="ellipsis")
        columns = Table.grid(padding=(0, 1, 0, 0))
        bar = ProgressBar(self._meter.total or None, report.total, width=room)
        columns.add_row(title, bar, Text(numbers, no_wrap=True, overflow="ellipsis"))
        return columns


def _numbers(title: str, meter: Meter, report: BulkReport[Any, Any], width: int) -> tuple[str, str]:
    """Return the title and the numbers of a line, as many as fit."""
    total = "?" if meter.total is None else str(meter.total)
    left = meter.left(report)
    time_left = "" if left is None else str(dt.timedelta(seconds=math.ceil(left)))
    rate, skipped, failed = (
        per_second(meter.rate(report)),
        meter.skipped(report),
        meter.failed(report),
    )
    count = f"{report.total:>{len(total)}}/{total}"
    choices = (
        (title, rate, skipped, failed, time_left),
        ("", rate, skipped, failed, time_left),
        ("", rate, "", failed, time_left),
        ("", "", "", failed, time_left),
        ("", "", "", failed, ""),
    )
    for name, *state, ending in choices:
        numbers = " ".join(filter(None, [count, ", ".join(filter(None, state)), ending]))
        if len(f"{name} {numbers}".strip()) <= width:
            return name, numbers
    return "", count


class _Lines:
    """Periodic lines, for an output that is not a terminal."""

    def __init__(
        self,
        title: str,
        meter: Meter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title = title
        self._meter = meter
        self._clock = clock
        self._next = clock() + _LINE_SECONDS

    def show(self, report: BulkReport[Any, Any], details: Text) -> None:
        # each time, since the meter must observe the first row that is not skipped
        state = self._state(report)
        now = self._clock()
        if now >= self._next:
            self._next = now + _LINE_SECONDS
            more = f"; {details.plain}" if details else ""
            write_error(f"{self._title}: {state}{more}")

    def _state(self, report: BulkReport[Any, Any]) -> str:
        of_all = "" if self._meter.total is None else f" of {self._meter.total:,}"
        left = self._meter.left(report)
        end = "" if left is None else f", {left:.0f} s left"
        return f"{report.total:,}{of_all} rows, {self._meter.state(report)}{end}"


def _fitted(details: Text, width: int) -> Text:
    """Remove the last parts until the rest fits; a truncated number would be another number."""
    while details.cell_len > width and ", " in details.plain:
        details.right_crop(len(details) - details.plain.rindex(", "))
    return details


def _details(now: Statistics, *, lasts: bool = True) -> Text:
    """Return the client's statistics, most important first; after a run, only the counts."""
    text = Text(no_wrap=True, overflow="ellipsis")
    counts = _counts(now)
    if not lasts or not counts:
        return text.append(", ".join(counts), style="dim")
    waits = _waits(now)
    text.append("".join(f"{part}, " for part in waits), style="yellow")
    parts = [] if waits else [f"rate {per_second(now.rate)}"]
    if now.concurrency:
        parts.append(f"{now.concurrency:,} in flight")
    parts += counts
    if now.budget < now.budget_size:
        parts.append(f"retry budget {now.budget:,}/{now.budget_size:,}")
    return text.append(", ".join(parts), style="dim")


def _waits(now: Statistics) -> list[str]:
    parts = []
    if now.paused_for >= 1:
        parts.append(f"paused by the server for {now.paused_for:.0f} s")
    if any(bucket.circuit is not CircuitState.CLOSED for bucket in now.buckets.values()):
        parts.append("outage: waiting for the service")
    return parts


def _counts(now: Statistics) -> list[str]:
    buckets = now.buckets.values()
    attempts = sum(bucket.requests for bucket in buckets)
    parts = [counted(attempts, "attempt")] if attempts else []
    if throttled := sum(bucket.throttled for bucket in buckets):
        share = 100 * throttled / attempts
        parts.append(f"{throttled:,} throttled ({share:.{2 if share < 1 else 1}f} %)")
    if failed := sum(bucket.failed for bucket in buckets):
        parts.append(counted(failed, "error"))
    return parts


@contextlib.asynccontextmanager
async def progress(
    run: BulkRun[Any, Any],
    title: str,
    meter: Meter,
    statistics: Callable[[], Statistics] | None,
) -> AsyncIterator[None]:
    """
    Show the progress of a run and the statistics of its client, inside the block.

    A dry run has no statistics: its client sends nothing.
    """

    def show(*, lasts: bool = True) -> None:
        details = Text() if statistics is None else _details(statistics(), lasts=lasts)
        display.show(run.report, details)

    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        display: _Bar | _Lines = _Lines(title, meter)
        if _can_redraw(console):
            display = _Bar(title, console, meter, stack.enter_context(Frame(console)))
        task = asyncio.create_task(_refresh(show))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            show(lasts=False)


class WatchItems(Protocol):
    """A function that counts the rows which pass through it."""

    def __call__(self, rows: Iterable[RowT], /) -> Iterator[RowT]: ...


class Work(NamedTuple):
    """The words for work on a file: before its rows are known, and with their number."""

    started: str
    counted: str


COUNTING = Work("Counting the rows of", "Counted {:,} rows of")
READING = Work("Reading", "Read {:,} lines of")
CHECKING = Work("Checking", "Checked {:,} rows of")
WRITING = Work("Writing", "Wrote {:,} items to")


@contextlib.contextmanager
def counting(path: str | os.PathLike[str], work: Work = COUNTING) -> Iterator[WatchItems]:
    """
    Show on a terminal that a file is being worked on, inside the block.

    The line appears if that takes some time. It has the number of the rows that passed through the
    function which the block gets, if there are any.
    """
    count = 0
    console, ended = Console(stderr=True), threading.Event()

    def watch(rows: Iterable[RowT], /) -> Iterator[RowT]:
        nonlocal count
        for count, row in enumerate(rows, 1):  # noqa: B007  it is shown
            yield row

    name = visible(click.format_filename(path))

    def show() -> None:
        last = ""
        while not ended.wait(_REFRESH_SECONDS):
            line = Text(f"{work.counted.format(count) if count else work.started} {name}")
            line.truncate(console.width, overflow="ellipsis")
            console.file.write(f"{ERASE}{line.plain}\r")
            console.file.flush()
            last = ERASE
        console.file.write(last)

    if not _can_redraw(console):
        yield watch
        return
    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()


def _can_redraw(console: Console) -> bool:
    """Return whether the output is a terminal that understands escape sequences."""
    is_plain = console.is_dumb_terminal or console.legacy_windows
    return console.is_terminal and not is_plain


async def _refresh(show: Callable[[], None]) -> None:
    while True:
        show()
        await asyncio.sleep(_REFRESH_SECONDS)
