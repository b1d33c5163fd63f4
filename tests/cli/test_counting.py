"""What a terminal shows while the rows of a file are counted, before a command asks or sends."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from adapty_async._input.layout import Row
from adapty_async.cli._progress import CHECKING, READING, WRITING, Work, counting
from adapty_async.sandbox import Sandbox
from tests.cli.processes import Terminal, wait_until
from tests.cli.test_frame import Emulator
from tests.report.journals import Recorded, run, write

Put = Callable[[str, str | bytes], Path]

MANY = "".join(f"u{number}\n" for number in range(300_000))


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        (60, [r"Counting the rows of a\x1b.csv", r"Counted 1,234 rows of a\x1b.csv"]),
        (20, ["Counting the rows o…", "Counted 1,234 rows …"]),
    ],
)
def test_a_line_shows_the_rows_until_they_are_counted(
    columns: int, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of rows comes first, so it fits into narrow terminals; in the end all is gone."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    emulator = Emulator(columns)
    with contextlib.redirect_stderr(emulator), counting("a\x1b.csv") as watch:
        wait_until(lambda: emulator.lines == lines[:1])
        rows = [Row(number, "u") for number in range(1234)]
        assert list(watch(iter(rows))) == rows
        wait_until(lambda: emulator.lines == lines[1:])

    assert emulator.lines == []


@pytest.mark.parametrize(
    ("work", "lines"),
    [
        pytest.param(READING, ["Reading run.ndjson", "Read 70 lines of run.ndjson"], id="read"),
        pytest.param(
            CHECKING, ["Checking run.ndjson", "Checked 70 rows of run.ndjson"], id="check"
        ),
        pytest.param(WRITING, ["Writing run.ndjson", "Wrote 70 items to run.ndjson"], id="write"),
    ],
)
def test_a_report_shows_the_work_on_each_file(
    work: Work, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report of millions of items takes minutes, and each part of that is shown."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    emulator = Emulator(60)
    with contextlib.redirect_stderr(emulator), counting(Path("run.ndjson"), work) as watch:
        wait_until(lambda: emulator.lines == lines[:1])
        assert list(watch(range(70))) == list(range(70))
        wait_until(lambda: emulator.lines == lines[1:])

    assert emulator.lines == []


def test_a_report_is_made_in_sight(tmp_path: Path) -> None:
    """A terminal shows how far each part is, and its result when the lines are gone."""
    journal, outcomes, output = (tmp_path / name for name in ("run.db", "run.ndjson", "page.html"))
    ids = range(40_000)
    asyncio.run(write(journal, Recorded(run=run(), states="d" * len(ids))))
    ended = '"status":"done","at":"2026-11-30T00:00:00Z","http_status":204,"attempts":1'
    ended += ',"request_id":null,"error":null'
    lines = (f'{{"line":{n + 1},"id":"u{n}",{ended}}}\n' for n in ids)
    outcomes.write_text("".join(lines), encoding="utf-8")
    (tmp_path / "ids.txt").write_text("".join(f"u{n}\n" for n in ids), encoding="utf-8")
    options = ["--outcomes", outcomes, "--check", tmp_path / "ids.txt", "--with-ids"]
    with Terminal("report", journal, *options, "-o", output) as terminal:
        terminal.end()

    assert "Wrote " in terminal.shown  # the other parts may be too quick
    assert "each of 40,000 rows has a final" in terminal.shown.rpartition("\x1b[J")[2]


def test_only_a_terminal_shows_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it reaches a file, nor a terminal that cannot erase it."""
    for stream, terminal in ((io.StringIO(), "xterm"), (emulator := Emulator(60), "dumb")):
        monkeypatch.setenv("TERM", terminal)
        with contextlib.redirect_stderr(stream), counting("ids.csv") as watch:
            assert list(watch(iter([Row(1, "u")]))) == [Row(1, "u")]
        assert (stream.getvalue(), emulator.lines) == ("", [])


@pytest.mark.parametrize("command", ["delete", "job plan"])
def test_a_large_file_is_counted_in_sight(command: str, sandbox: Sandbox, put: Put) -> None:
    """The question follows when the line is gone."""
    options = ["--name", "erasure"] if command == "job plan" else []
    arguments = (*command.split(), put("ids.txt", MANY), "--by", "customer-user-id", *options)
    with Terminal(*arguments) as terminal:
        terminal.wait_for("[y/N]")
        before, _, after = terminal.shown.partition("Count")
        terminal.type("n\n")

        assert (before.strip("\r"), terminal.end()) == ("\x1b[J", 1)
    assert after.rpartition("\x1b[J")[2].lstrip().startswith(("Delete 300,000", "Plan to delete"))
    assert sandbox.arrivals() == []
