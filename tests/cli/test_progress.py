"""
What is seen of a run while it lasts; the clock is the test's own.
"""

from __future__ import annotations

import asyncio
import io
import sys
from typing import Any

import msgspec
import pytest
from rich.console import Console

from adapty_async._operation import Operation
from adapty_async.bulk import BulkReport, BulkRun
from adapty_async.cli._input import Row
from adapty_async.cli._progress import _Bar, _Lines, progress, tell
from adapty_async.client import AdaptyClient
from adapty_async.statistics import BucketStatistics, CircuitState, Statistics

Report = BulkReport[object, object]
QUIET = Statistics(budget=500, buckets={})


def bucket(**changes: Any) -> Statistics:
    """
    Return statistics of one bucket that is quiet but for these fields.
    """
    usual = BucketStatistics(
        rate=100.0,
        in_flight=3,
        paused_for=0.0,
        circuit=CircuitState.CLOSED,
        requests=5,
        throttled=0,
        failed=0,
    )
    return Statistics(budget=500, buckets={"v1": msgspec.structs.replace(usual, **changes)})


class Clock:
    """
    A clock that is moved by hand.
    """

    now = 100.0

    def __call__(self) -> float:
        """
        Tell the time.
        """
        return self.now


def test_lines_come_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """
    There is a line every five seconds, and only one after a longer pause.
    """
    clock = Clock()
    with _Lines("Deleting", 1000, clock) as lines:
        for now in (100.0, 104.9, 105.0, 105.1, 130.0, 130.2, 134.9, 135.0):
            clock.now = now
            lines.show(Report(total=250, done=250, elapsed=now - 100), QUIET)
    assert capsys.readouterr().err.splitlines() == [
        "Deleting: 250 of 1,000 rows, 50/s, 15 s left",
        "Deleting: 250 of 1,000 rows, 8/s, 90 s left",
        "Deleting: 250 of 1,000 rows, 7/s, 105 s left",
    ]


@pytest.mark.parametrize(
    ("total", "report", "line"),
    [
        pytest.param(None, Report(total=7, done=7, elapsed=2), "7 rows, 4/s", id="no-total"),
        pytest.param(9, Report(elapsed=2), "0 rows, 0/s", id="nothing-yet"),
        pytest.param(
            10,
            Report(total=5, done=2, failed=2, unknown=1, elapsed=5),
            "5 of 10 rows, 1/s, 3 failed, 5 s left",
            id="failures",
        ),
    ],
)
def test_line_says_what_is_known(
    capsys: pytest.CaptureFixture[str], total: int | None, report: Report, line: str
) -> None:
    """
    A line has the rows, the pace, the failures if there are any, and the time left if known.
    """
    clock = Clock()
    lines = _Lines("Saving", total, clock)
    clock.now += 5
    lines.show(report, QUIET)
    assert capsys.readouterr().err == f"Saving: {line}\n"


@pytest.mark.parametrize(
    ("now", "told"),
    [
        pytest.param(bucket(), "5 rows, 1/s", id="quiet"),
        pytest.param(
            bucket(paused_for=7.6), "5 rows, 1/s, paused by the server for 8 s", id="paused"
        ),
        pytest.param(
            bucket(circuit=CircuitState.OPEN),
            "5 rows, 1/s, no service, waiting for it",
            id="outage",
        ),
    ],
)
def test_line_says_what_a_run_waits_for(
    capsys: pytest.CaptureFixture[str], now: Statistics, told: str
) -> None:
    """
    A pause that the server asked for and an outage are told, so that nobody thinks it hangs.
    """
    clock = Clock()
    lines = _Lines("Saving", None, clock)
    clock.now += 5
    lines.show(Report(total=5, done=5, elapsed=5), now)
    assert capsys.readouterr().err == f"Saving: {told}\n"


@pytest.mark.parametrize(
    ("total", "shown"), [pytest.param(10, "5/10", id="total"), pytest.param(None, "5/?", id="none")]
)
def test_bar_is_drawn_on_a_terminal(total: int | None, shown: str) -> None:
    """
    The bar shows the count, the total if it is known, the pace and the failures.
    """
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    with _Bar("Deleting", total, console) as bar:
        bar.show(Report(), QUIET)
        bar.show(Report(total=5, done=3, failed=2, elapsed=1), QUIET)
    last = screen.getvalue().rpartition("Deleting")[2]
    assert shown in last
    assert "5/s, 2 failed" in last


def never(_: Row) -> Operation[None]:
    """
    Build nothing: there is no row.
    """
    raise AssertionError


async def test_progress_lasts_as_long_as_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    """
    Where there is no terminal a short run shows nothing, and nothing goes on after it.
    """
    before = asyncio.all_tasks()
    async with AdaptyClient("key") as client:
        run: BulkRun[Row, None] = client.bulk([], build=never)
        async with progress(run, "Deleting", 0, client.statistics):
            await run
    assert asyncio.all_tasks() == before
    assert capsys.readouterr() == ("", "")


class _GoneReader(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [None, _GoneReader()], ids=["closed", "reader-gone"])
def test_nobody_has_to_listen(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None) -> None:
    """
    A run does not end because nobody reads how far it is.
    """
    monkeypatch.setattr(sys, "stderr", stream)
    tell("Deleting: 5 rows")
