"""What a terminal shows while the rows of a file are counted, before a command asks or sends."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from adapty_async._input.rows import Row
from adapty_async.cli._progress import counting
from adapty_async.sandbox import Sandbox
from tests.cli.processes import Terminal, wait_until
from tests.cli.test_frame import Emulator

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
