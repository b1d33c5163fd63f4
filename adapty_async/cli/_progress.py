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

__all__ = ("progress",)

_REFRESH_SECONDS = 0.2
_LINE_SECONDS = 5.0


class _Display(Protocol):
    def show(self, report: BulkReport[Any, Any]) -> None:
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

    def show(self, report: BulkReport[Any, Any]) -> None:
        self._progress.update(self._task, completed=report.total, pace=_pace(report))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class _Lines:
    def __init__(self, title: str, total: int | None, write: Callable[[str], object]) -> None:
        self._title = title
        self._total = total
        self._write = write
        self._next = time.monotonic() + _LINE_SECONDS

    def show(self, report: BulkReport[Any, Any]) -> None:
        if time.monotonic() >= self._next:
            self._next += _LINE_SECONDS
            self._write(f"{self._title}: {self._state(report)}\n")

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


def _pace(report: BulkReport[Any, Any]) -> str:
    bad = report.failed + report.unknown
    pace = f"{report.total / report.elapsed:,.0f}/s" if report.elapsed else ""
    return f"{pace}, {bad:,} failed" if bad else pace


@contextlib.asynccontextmanager
async def progress(run: BulkRun[Any, Any], title: str, total: int | None) -> AsyncIterator[None]:
    """
    Show how far a run is, as long as the block lasts.
    """
    console = Console(stderr=True)
    with (
        _Bar(title, total, console)
        if console.is_terminal
        else _Lines(title, total, sys.stderr.write)
    ) as display:
        task = asyncio.create_task(_refresh(run, display))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            display.show(run.report)


async def _refresh(run: BulkRun[Any, Any], display: _Display) -> None:
    while True:
        display.show(run.report)
        await asyncio.sleep(_REFRESH_SECONDS)
