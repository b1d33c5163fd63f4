"""The progress of a run on standard error: a bar on a terminal, otherwise periodic lines."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
)
from rich.text import Text

from adapty_async.bulk import BulkReport, BulkRun
from adapty_async.cli._report import per_second
from adapty_async.cli._streams import write_error
from adapty_async.statistics import CircuitState, Statistics

__all__ = ("progress",)

_REFRESH_SECONDS = 0.2
_LINE_SECONDS = 5.0


class _Meter:
    """
    A meter of the rows that are sent or, in a dry run, validated.

    The rate excludes skipped rows, which take almost no time.

    Args:
        total: rows of the input, None if unknown.
        is_dry: nothing is sent.
    """

    def __init__(self, total: int | None, *, is_dry: bool) -> None:
        self._total = total
        self._is_dry = is_dry
        self._started = 0.0  # seconds from the start of the run in which it only skipped rows
        self._skipped = 0

    def rate(self, report: BulkReport[Any, Any]) -> float:
        """Return rows per second since the first row that the run did not skip."""
        counted = report.total - report.skipped if self._is_dry else report.sent
        if not counted and report.skipped > self._skipped:
            self._started, self._skipped = report.elapsed, report.skipped
        seconds = report.elapsed - self._started
        return counted / seconds if seconds > 0 else 0.0

    def state(self, report: BulkReport[Any, Any]) -> str:
        """Return the rate and the numbers of skipped and failed rows."""
        parts = [per_second(self.rate(report))]
        if report.skipped:
            parts.append(f"{report.skipped:,} skipped")
        if bad := report.failed + report.unknown:
            parts.append(f"{bad:,} {'cannot be sent' if self._is_dry else 'failed'}")
        return ", ".join(parts)

    def left(self, report: BulkReport[Any, Any]) -> float | None:
        """Return the estimated seconds for the unread rows; None if unknown, or after a stop."""
        rate = self.rate(report)
        if self._total is None or not rate or report.stop_reason is not None:
            return None
        return (self._total - report.total) / rate


class _TwoLines(Progress):
    """A progress bar with the client's statistics below it."""

    details = Text()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.details:
            yield self.details


class _Bar:
    def __init__(self, title: str, total: int | None, console: Console, meter: _Meter) -> None:
        self._console = console
        self._meter = meter
        self._progress = _TwoLines(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._task = self._progress.add_task(title, total=total, state="", left="")

    def show(self, report: BulkReport[Any, Any], details: Text) -> None:
        self._progress.details = _fitted(details, self._console.width)
        left = self._meter.left(report)
        self._progress.update(
            self._task,
            completed=report.total,
            state=self._meter.state(report),
            left="" if left is None else str(dt.timedelta(seconds=math.ceil(left))),
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class _Lines:
    def __init__(
        self,
        title: str,
        total: int | None,
        meter: _Meter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title = title
        self._total = total
        self._meter = meter
        self._clock = clock
        self._next = clock() + _LINE_SECONDS

    def show(self, report: BulkReport[Any, Any], details: Text) -> None:
        state = self._state(
            report
        )  # each time: the meter must observe the first row that is not skipped
        now = self._clock()
        if now >= self._next:
            self._next = now + _LINE_SECONDS
            more = f"; {details.plain}" if details else ""
            write_error(f"{self._title}: {state}{more}")

    def _state(self, report: BulkReport[Any, Any]) -> str:
        of_all = "" if self._total is None else f" of {self._total:,}"
        left = self._meter.left(report)
        end = "" if left is None else f", {left:.0f} s left"
        return f"{report.total:,}{of_all} rows, {self._meter.state(report)}{end}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: the written lines stay."""


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
    parts = [f"{attempts:,} attempts"] if attempts else []
    if throttled := sum(bucket.throttled for bucket in buckets):
        share = 100 * throttled / attempts
        parts.append(f"{throttled:,} throttled ({share:.{2 if share < 1 else 1}f} %)")
    if failed := sum(bucket.failed for bucket in buckets):
        parts.append(f"{failed:,} errors")
    return parts


@contextlib.asynccontextmanager
async def progress(
    run: BulkRun[Any, Any],
    title: str,
    total: int | None,
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
    meter = _Meter(total, is_dry=statistics is None)
    is_terminal = console.is_terminal
    bar = _Bar(title, total, console, meter) if is_terminal else _Lines(title, total, meter)
    with bar as display:
        task = asyncio.create_task(_refresh(show))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            show(lasts=False)


async def _refresh(show: Callable[[], None]) -> None:
    while True:
        show()
        await asyncio.sleep(_REFRESH_SECONDS)
