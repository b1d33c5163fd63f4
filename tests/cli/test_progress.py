"""What is seen of a run while it lasts; the clock is the test's own."""

from __future__ import annotations

import asyncio
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console
from rich.text import Text

from adapty_async._api.call import Operation
from adapty_async._input.layout import Row
from adapty_async.bulk import BulkReport, BulkRun, StopReason
from adapty_async.cli import _progress
from adapty_async.cli._frame import Frame
from adapty_async.cli._progress import Meter, _Bar, _details, _Lines, progress
from adapty_async.cli._streams import write_error
from adapty_async.client import AdaptyClient
from adapty_async.sandbox import Sandbox
from adapty_async.statistics import BucketStatistics, CircuitState, Statistics
from tests.cli.conftest import Invoke

Report = BulkReport[object, object]
QUIET = Text()


def bucket(budget: int = 500, **changes: Any) -> Statistics:
    """Return statistics of a client with one bucket that is quiet but for these fields."""
    usual = BucketStatistics(
        rate=100.0,
        in_flight=3,
        paused_for=0.0,
        circuit=CircuitState.CLOSED,
        requests=5,
        throttled=0,
        failed=0,
    )
    buckets = {"v1": msgspec.structs.replace(usual, **changes)}
    return Statistics(budget=budget, budget_size=500, limit=None, buckets=buckets)


class Clock:
    """A clock that is moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def test_lines_come_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """There is a line every five seconds, and only one after a longer pause."""
    clock = Clock()
    lines = _Lines("Deleting", Meter(1000, is_dry=False), clock)
    for now in (100.0, 104.9, 105.0, 105.1, 130.0, 130.2, 134.9, 135.0):
        clock.now = now
        lines.show(Report(total=250, done=250, sent=250, elapsed=now - 100), QUIET)
    assert capsys.readouterr().err.splitlines() == [
        "Deleting: 250 of 1,000 rows, 50/s, 15 s left",
        "Deleting: 250 of 1,000 rows, 8.3/s, 90 s left",
        "Deleting: 250 of 1,000 rows, 7.1/s, 105 s left",
    ]


@pytest.mark.parametrize(
    ("total", "report", "line"),
    [
        pytest.param(
            None, Report(total=7, done=7, sent=7, elapsed=2), "7 rows, 3.5/s", id="no-total"
        ),
        pytest.param(9, Report(elapsed=2), "0 of 9 rows, 0/s", id="nothing-yet"),
        pytest.param(
            10,
            Report(total=5, done=2, failed=2, unknown=1, sent=5, elapsed=5),
            "5 of 10 rows, 1/s, 3 failed, 5 s left",
            id="failures",
        ),
    ],
)
def test_line_says_what_is_known(
    capsys: pytest.CaptureFixture[str], total: int | None, report: Report, line: str
) -> None:
    """A line has the rows, the rate, any failures, and the time left if known."""
    clock = Clock()
    lines = _Lines("Saving", Meter(total, is_dry=False), clock)
    clock.now += 5
    lines.show(report, QUIET)
    assert capsys.readouterr().err == f"Saving: {line}\n"


@pytest.mark.parametrize(
    ("now", "told"),
    [
        pytest.param(bucket(), "rate 100/s, 3 in flight, 5 attempts", id="quiet"),
        pytest.param(bucket(requests=0), "", id="nothing-sent"),
        pytest.param(bucket(requests=1), "rate 100/s, 3 in flight, 1 attempt", id="one"),
        pytest.param(bucket(rate=9876.5, in_flight=0), "rate 9,876/s, 5 attempts", id="fast"),
        pytest.param(bucket(rate=0.5, in_flight=0), "rate 0.5/s, 5 attempts", id="slow"),
        pytest.param(
            bucket(requests=24_310, throttled=57),
            "rate 100/s, 3 in flight, 24,310 attempts, 57 throttled (0.23 %)",
            id="few-429s",
        ),
        pytest.param(
            bucket(requests=400, throttled=47, failed=1200, budget=38),
            "rate 100/s, 3 in flight, 400 attempts, 47 throttled (11.8 %), 1,200 errors, "
            "retry budget 38/500",
            id="troubles",
        ),
        pytest.param(
            bucket(paused_for=0.9), "rate 100/s, 3 in flight, 5 attempts", id="short-pause"
        ),
        pytest.param(
            bucket(paused_for=7.6),
            "paused by the server for 8 s, 3 in flight, 5 attempts",
            id="paused",
        ),
        pytest.param(
            bucket(circuit=CircuitState.OPEN, in_flight=0),
            "outage: waiting for the service, 5 attempts",
            id="outage",
        ),
        pytest.param(
            bucket(circuit=CircuitState.HALF_OPEN, paused_for=2.0),
            "paused by the server for 2 s, outage: waiting for the service, 3 in flight, "
            "5 attempts",
            id="both",
        ),
    ],
)
def test_details_show_the_rate_or_the_cause_of_a_wait_and_what_was_sent(
    now: Statistics, told: str
) -> None:
    """A pause or an outage replaces the rate; throttling, errors and retry budget are optional."""
    assert _details(now).plain == told


def test_details_of_a_run_that_is_over_are_the_counts_alone() -> None:
    """After the run, no rate and no wait is shown."""
    now = bucket(paused_for=7.6, requests=200, throttled=1, failed=2, budget=0)
    assert _details(now, lasts=False).plain == "200 attempts, 1 throttled (0.50 %), 2 errors"


def test_line_ends_with_the_details(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no terminal, they are on the same line."""
    clock = Clock()
    lines = _Lines("Saving", Meter(10, is_dry=False), clock)
    clock.now += 5
    lines.show(Report(total=5, done=5, sent=5, elapsed=5), _details(bucket()))
    told = "Saving: 5 of 10 rows, 1/s, 5 s left; rate 100/s, 3 in flight, 5 attempts\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("total", "shown"), [pytest.param(10, "5/10", id="total"), pytest.param(None, "5/?", id="none")]
)
def test_bar_is_drawn_on_a_terminal(total: int | None, shown: str) -> None:
    """The bar shows the count, the total if it is known, the request rate and the failures."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    with Frame(console) as frame:
        bar = _Bar("Deleting", console, Meter(total, is_dry=False), frame)
        bar.show(Report(), QUIET)
        bar.show(Report(total=5, done=3, failed=2, sent=5, elapsed=1), QUIET)
    last = screen.getvalue().rpartition("Deleting")[2]
    assert shown in last
    assert "5/s, 2 failed" in last


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        pytest.param(200, f"Deleting {'━' * 10} ", id="wide"),
        pytest.param(82, f"Deleting {'━' * 5}", id="a-shorter-bar"),
        pytest.param(
            65, "Deleting  2500/10000 12/s, 1,000 skipped, 300 failed 0:10:00", id="no-bar"
        ),
        pytest.param(56, "2500/10000 12/s, 1,000 skipped, 300 failed 0:10:00", id="no-title"),
        pytest.param(40, "2500/10000 12/s, 300 failed 0:10:00", id="no-skipped"),
        pytest.param(32, "2500/10000 300 failed 0:10:00", id="no-rate"),
        pytest.param(24, "2500/10000 300 failed", id="no-time"),
        pytest.param(14, "2500/10000", id="count"),
        pytest.param(8, "2500/10…", id="narrower"),
    ],
)
def test_numbers_are_left_out_as_a_whole(width: int, shown: str) -> None:
    """A narrow terminal has a shorter bar, then fewer numbers, and none that is cut."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, color_system=None)
    report = Report(total=2500, done=200, failed=300, sent=500, skipped=1000, elapsed=40)
    with Frame(console) as frame:
        bar = _Bar("Deleting", console, Meter(10000, is_dry=False), frame)
        bar.show(report, QUIET)
    line = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "\n", screen.getvalue()).rstrip().rpartition("\n")[2]
    assert len(line) <= width
    assert line.startswith(shown) if "━" in shown else line == shown


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"TERM": "dumb", "FORCE_COLOR": "1"}, id="dumb"),
        pytest.param({"TERM": "xterm"}, id="a-file"),
    ],
)
async def test_output_that_cannot_be_redrawn_gets_lines(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file, and a terminal without escape sequences, get lines and no bar."""
    monkeypatch.setattr(_progress, "_LINE_SECONDS", 0.0)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    async with AdaptyClient("key") as client:
        run: BulkRun[Row, None] = client.bulk([], build=never)
        async with progress(run, "Deleting", Meter(0, is_dry=False), client.statistics):
            await run
    shown = capsys.readouterr().err
    assert "Deleting: 0 of 0 rows, 0/s" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        pytest.param(
            80, "rate 100/s, 3 in flight, 5 attempts, 1,200 errors, retry budget 38/500", id="all"
        ),
        pytest.param(
            65, "rate 100/s, 3 in flight, 5 attempts, 1,200 errors", id="without-the-last"
        ),
        pytest.param(30, "rate 100/s, 3 in flight", id="narrow"),
        pytest.param(8, "rate 10…", id="narrower-than-one"),
    ],
)
def test_details_are_below_the_bar_as_far_as_they_fit(width: int, shown: str) -> None:
    """What has no room is left out as a whole: half a number would say something else."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, color_system=None)
    with Frame(console) as frame:
        bar = _Bar("Deleting", console, Meter(10, is_dry=False), frame)
        bar.show(
            Report(total=5, done=5, sent=5, elapsed=1), _details(bucket(failed=1200, budget=38))
        )
    lines = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "\n", screen.getvalue()).split("\n")
    assert [line.rstrip() for line in lines if line.strip()][-1] == shown


def never(_: Row) -> Operation[None]:
    """Build nothing: there is no row."""
    raise AssertionError


async def test_progress_lasts_as_long_as_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no terminal a short run shows nothing, and nothing continues after it."""
    before = asyncio.all_tasks()
    async with AdaptyClient("key") as client:
        run: BulkRun[Row, None] = client.bulk([], build=never)
        async with progress(run, "Deleting", Meter(0, is_dry=False), client.statistics):
            await run
    assert asyncio.all_tasks() == before
    assert capsys.readouterr() == ("", "")


def test_lines_of_a_run_have_the_rate_that_it_was_given(
    sandbox: Sandbox,
    invoke: Invoke,
    put: Callable[[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A log has the request rate in force, and how many requests were sent so far."""
    monkeypatch.setattr(_progress, "_LINE_SECONDS", 0.1)
    path = put("ids.txt", "".join(f"u{number}\n" for number in range(40)))
    result = invoke(
        "delete", path, "--api", "v1", "--by", "customer-user-id", "--yes", "--rate", 50
    )
    line = (
        r"Deleting: \d+ of 40 rows, [\d.]+/s, \d+ s left; rate 50/s(, \d+ in flight)?, \d+ attempts"
    )
    assert any(re.fullmatch(line, each) for each in result.stderr.splitlines()), result.stderr
    assert len(sandbox.arrivals()) == 40


def test_nobody_has_to_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without standard error shows nothing of how far it is."""
    monkeypatch.setattr(sys, "stderr", None)
    write_error("Deleting: 5 rows")


def test_skipped_rows_are_not_in_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    """A resumed run counts skipped rows apart; its rate and time left are of rows that it sends."""
    clock = Clock()
    lines = _Lines("Deleting", Meter(3000, is_dry=False), clock)
    lines.show(Report(total=1000, skipped=1000, elapsed=4), QUIET)
    clock.now += 9
    lines.show(Report(total=1050, done=50, sent=50, skipped=1000, elapsed=9), QUIET)
    assert capsys.readouterr().err == (
        "Deleting: 1,050 of 3,000 rows, 10/s, 1,000 skipped, 195 s left\n"
    )


def test_rows_that_an_earlier_run_settled_are_not_in_the_time_left() -> None:
    """Settled rows that come between others take no time, wherever they are in the input."""
    meter = Meter(1000, is_dry=False, settled=900)
    report = Report(total=500, done=50, sent=50, skipped=450, elapsed=10)
    assert meter.state(report) == "5/s, 450 skipped"
    assert meter.left(report) == 10
    duplicates = Report(total=1000, done=40, sent=40, skipped=960, elapsed=10)
    assert meter.left(duplicates) == 0


def test_rows_that_wait_for_responses_are_in_the_rate() -> None:
    """The time before the first response counts, and a stopped run has no time left."""
    meter = Meter(600, is_dry=False)
    assert meter.state(Report(elapsed=2)) == "0/s"
    assert meter.state(Report(total=8, failed=8, sent=8, elapsed=4)) == "2/s, 8 failed"
    assert meter.left(Report(total=8, sent=8, elapsed=4)) == 296
    stopped = Report(total=8, sent=8, elapsed=4, stop_reason=StopReason.STOPPED)
    assert meter.left(stopped) is None


def test_a_dry_run_counts_the_rows_that_it_checks(capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run sends nothing, so its rate is of checked rows, and bad ones have not failed."""
    clock = Clock()
    lines = _Lines("Checking", Meter(100, is_dry=True), clock)
    clock.now += 5
    lines.show(Report(total=60, done=30, failed=20, skipped=10, sent=30, elapsed=5), QUIET)
    assert capsys.readouterr().err == (
        "Checking: 60 of 100 rows, 10/s, 10 skipped, 20 cannot be sent, 4 s left\n"
    )
