"""
How far a run is, on standard error: a bar on a terminal, a line now and then elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from adapty_async.bulk import BulkReport, BulkRun
from adapty_async.statistics import CircuitState, Statistics

__all__ = ("progress", "tell")

_REFRESH_SECONDS = 0.2
_LINE_SECONDS = 5.0


class _Display(Protocol):
    def show(self, report: BulkReport[Any, Any], now: Statistics) -> None:
        """
        Bring what is seen up to date.
        """


class _Bar:
    def __init__(self, title: str, total: int | None, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task(title, total=total, pace="")

    def show(self, report: BulkReport[Any, Any], now: Statistics) -> None:
        self._progress.update(self._task, completed=report.total, pace=_pace(report, now))

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

    def show(self, report: BulkReport[Any, Any], now: Statistics) -> None:
        moment = self._clock()
        if moment >= self._next:
            self._next = moment + _LINE_SECONDS
            tell(f"{self._title}: {self._state(report, _pace(report, now))}")

    def _state(self, report: BulkReport[Any, Any], pace: str) -> str:
        if self._total is None or not report.total:
            return f"{report.total:,} rows, {pace}"
        left = (self._total - report.total) * report.elapsed / report.total
        return f"{report.total:,} of {self._total:,} rows, {pace}, {left:.0f} s left"

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


def _pace(report: BulkReport[Any, Any], now: Statistics) -> str:
    parts = [f"{report.total / report.elapsed:,.0f}/s"] if report.elapsed else []
    if bad := report.failed + report.unknown:
        parts.append(f"{bad:,} failed")
    if now.paused_for >= 1:
        parts.append(f"paused by the server for {now.paused_for:.0f} s")
    if any(bucket.circuit is not CircuitState.CLOSED for bucket in now.buckets.values()):
        parts.append("no service, waiting for it")
    return ", ".join(parts)


@contextlib.asynccontextmanager
async def progress(
    run: BulkRun[Any, Any],
    title: str,
    total: int | None,
    statistics: Callable[[], Statistics],
) -> AsyncIterator[None]:
    """
    Show how far a run is, as long as the block lasts.
    """
    console = Console(stderr=True)
    with _Bar(title, total, console) if console.is_terminal else _Lines(title, total) as display:
        task = asyncio.create_task(_refresh(run, display, statistics))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            display.show(run.report, statistics())


async def _refresh(
    run: BulkRun[Any, Any], display: _Display, statistics: Callable[[], Statistics]
) -> None:
    while True:
        display.show(run.report, statistics())
        await asyncio.sleep(_REFRESH_SECONDS)
