"""
How far a run is, on standard error: a bar on a terminal, a line now and then elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from adapty_async.bulk import BulkReport, BulkRun
from adapty_async.statistics import CircuitState, Statistics

__all__ = ("progress", "tell")

_REFRESH_SECONDS = 0.2
_LINE_SECONDS = 5.0
_FAST = 10.0
"""
Requests per second from which on nobody asks for a fraction.
"""


class _TwoLines(Progress):
    """
    The bar, and below it what the client is doing.
    """

    details = Text()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.details:
            yield self.details


class _Bar:
    def __init__(self, title: str, total: int | None, console: Console) -> None:
        self._console = console
        self._progress = _TwoLines(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task(title, total=total, pace="")

    def show(self, report: BulkReport[Any, Any], details: Text) -> None:
        self._progress.details = _fitted(details, self._console.width)
        self._progress.update(self._task, completed=report.total, pace=_pace(report))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class _Lines:
    def __init__(
        self, title: str, total: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._title = title
        self._total = total
        self._clock = clock
        self._next = clock() + _LINE_SECONDS

    def show(self, report: BulkReport[Any, Any], details: Text) -> None:
        moment = self._clock()
        if moment >= self._next:
            self._next = moment + _LINE_SECONDS
            more = f"; {details.plain}" if details else ""
            tell(f"{self._title}: {self._state(report)}{more}")

    def _state(self, report: BulkReport[Any, Any]) -> str:
        if self._total is None or not report.total:
            return f"{report.total:,} rows, {_pace(report)}"
        left = (self._total - report.total) * report.elapsed / report.total
        return f"{report.total:,} of {self._total:,} rows, {_pace(report)}, {left:.0f} s left"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """
        Leave what was written.
        """


def tell(line: str) -> None:
    """
    Write a line to standard error; that nobody reads it any more does not stop a run.
    """
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()  # some put a buffer in its place


def _pace(report: BulkReport[Any, Any]) -> str:
    parts = [_per_second(report.total / report.elapsed)] if report.elapsed else []
    if bad := report.failed + report.unknown:
        parts.append(f"{bad:,} failed")
    return ", ".join(parts)


def _per_second(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= _FAST else f"{rate:.2g}/s"


def _fitted(details: Text, width: int) -> Text:
    """
    Leave out what is said last until the rest fits: half a number says something else.
    """
    while details.cell_len > width and ", " in details.plain:
        details.right_crop(len(details) - details.plain.rindex(", "))
    return details


def _details(now: Statistics, *, lasts: bool = True) -> Text:
    """
    Say what the client is doing, the most telling first; after the end of a run, what it has done.
    """
    text = Text(no_wrap=True, overflow="ellipsis")
    counts = _counts(now)
    if not lasts or not counts:
        return text.append(", ".join(counts), style="dim")
    waits = _waits(now)
    text.append("".join(f"{part}, " for part in waits), style="yellow")
    parts = [] if waits else [f"pace {_per_second(now.rate)}"]
    if now.concurrency:
        parts.append(f"{now.concurrency:,} in flight")
    parts += counts
    if now.budget < now.budget_size:
        parts.append(f"budget {now.budget:,}/{now.budget_size:,}")
    return text.append(", ".join(parts), style="dim")


def _waits(now: Statistics) -> list[str]:
    parts = []
    if now.paused_for >= 1:
        parts.append(f"paused by the server for {now.paused_for:.0f} s")
    if any(bucket.circuit is not CircuitState.CLOSED for bucket in now.buckets.values()):
        parts.append("no service: waiting for it")
    return parts


def _counts(now: Statistics) -> list[str]:
    buckets = now.buckets.values()
    sent = sum(bucket.requests for bucket in buckets)
    parts = [f"{sent:,} sent"] if sent else []
    if throttled := sum(bucket.throttled for bucket in buckets):
        share = 100 * throttled / sent
        parts.append(f"{throttled:,} told 429 ({share:.{2 if share < 1 else 1}f} %)")
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
    Show how far a run is, as long as the block lasts; and what its client says it is doing, if any.
    """

    def show(*, lasts: bool = True) -> None:
        details = Text() if statistics is None else _details(statistics(), lasts=lasts)
        display.show(run.report, details)

    console = Console(stderr=True)
    with _Bar(title, total, console) if console.is_terminal else _Lines(title, total) as display:
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
