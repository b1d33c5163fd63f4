"""The frame of the progress on terminals that change their size, as terminal emulators show it."""

from __future__ import annotations

import io
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pyte
import pytest
from rich.console import Console
from rich.text import Text

from adapty_async.cli._frame import Frame
from adapty_async.sandbox import Sandbox
from tests.cli.processes import Terminal

Put = Callable[[str, str | bytes], Path]

_ROWS = 12
_ESCAPE = re.compile(r"\x1b\[[?\d;]*[a-zA-Z]")


class Emulator(io.StringIO):
    """A file that is a terminal: what is written to it appears on a screen."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.screen = pyte.Screen(columns, _ROWS)
        self._stream = pyte.Stream(self.screen)
        self.screen.set_mode(pyte.modes.LNM)

    def write(self, text: str) -> int:
        """Show a text."""
        self._stream.feed(text)
        return len(text)

    def isatty(self) -> bool:
        """Return True."""
        return True

    @property
    def lines(self) -> list[str]:
        """The lines that are not empty."""
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def cut(self, columns: int) -> None:
        """Change the width, and cut longer lines, as xterm does."""
        self.screen.resize(columns=columns)

    def wrap(self, columns: int) -> None:
        """Change the width, and wrap longer lines, as tmux and terminals of GNOME do."""
        lines = [line.rstrip() for line in self.screen.display]
        above = lines[: self.screen.cursor.y]
        cursor = sum(max(1, math.ceil(len(line) / columns)) for line in above)
        self.screen.resize(columns=columns)
        self.screen.reset()
        self.screen.set_mode(pyte.modes.LNM)
        self._stream.feed("\n".join(lines).rstrip())
        self.screen.cursor_position(cursor + 1, 1)


def _cut(emulator: Emulator, columns: int) -> None:
    emulator.cut(columns)


def _wrap(emulator: Emulator, columns: int) -> None:
    emulator.wrap(columns)


@pytest.mark.parametrize("resize", [_cut, _wrap], ids=["cut", "wrap"])
@pytest.mark.parametrize("widths", [(100, 40), (40, 100), (100, 33, 80, 20, 100)])
def test_no_stale_line_is_left(
    resize: Callable[[Emulator, int], None], widths: tuple[int, ...]
) -> None:
    """Whatever a terminal does with long lines, the frame is there once, below what came before."""
    emulator = Emulator(widths[0])
    emulator.write("before\n")
    console = Console(file=emulator, force_terminal=True, color_system=None)
    with Frame(console) as frame:
        for number, width in enumerate(widths):
            console.size = console.size._replace(width=width, height=_ROWS)
            if number:
                resize(emulator, width)
            frame.show(Text(f"{'first':-<{width}}\n{'second':=<{width - 1}}"))
            assert emulator.lines == ["before", f"{'first':-<{width}}", f"{'second':=<{width - 1}}"]
    assert emulator.lines == ["before", f"{'first':-<{width}}", f"{'second':=<{width - 1}}"]
    emulator.write("after")
    assert emulator.lines[-1] == "after"


def test_other_output_is_above_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line written to standard error stays above the frame, and the frame is drawn again."""
    emulator = Emulator(40)
    monkeypatch.setattr(sys, "stderr", emulator)
    console = Console(stderr=True, force_terminal=True, color_system=None, width=40)
    with Frame(console) as frame:
        frame.show(Text("one\ntwo"))
        sys.stderr.write("\nStopping: it takes 5 s.\n")
        assert emulator.lines == ["Stopping: it takes 5 s.", "one", "two"]
        frame.show(Text("three"))
        assert emulator.lines == ["Stopping: it takes 5 s.", "three"]
    assert sys.stderr is emulator
    assert emulator.lines == ["Stopping: it takes 5 s.", "three"]
    assert not emulator.screen.cursor.hidden


def test_a_frame_is_no_higher_than_the_terminal() -> None:
    """Lines that do not fit are left out; otherwise the first ones would scroll away, and stay."""
    emulator = Emulator(10)
    console = Console(file=emulator, force_terminal=True, color_system=None, width=10, height=2)
    with Frame(console) as frame:
        for number in range(3):
            frame.show(Text(f"{number}\nb\nc\nd"))
            assert emulator.lines == [str(number), "b"]


def test_a_run_on_a_terminal_that_is_resized(sandbox: Sandbox, put: Put) -> None:
    """A real run on a real terminal has one bar, whatever widths the terminal has meanwhile."""
    path = put("ids.txt", "".join(f"u{number}\n" for number in range(9999)))
    arguments = ("delete", path, "--by", "customer-user-id", "--yes", "--rate", "100")
    with Terminal(*arguments, columns=120) as terminal:
        terminal.wait_for("Deleting")
        for least, columns in ((0, 40), (41, 200), (41, 80)):
            terminal.resize(columns)
            before = len(terminal.shown)
            while not any(least <= each <= columns for each in widths_of(terminal.shown[before:])):
                terminal.wait_for_more("/9999")  # frames that were drawn before come first
        terminal.interrupt(until="Stopped")
        assert terminal.end() == 130
    screen = pyte.Screen(200, 24)
    pyte.Stream(screen).feed(terminal.shown)
    lines = [line.rstrip() for line in screen.display if line.strip()]
    assert [line for line in lines if "/9999" in line] == lines[1:2]
    assert lines[0].startswith("Stopping: ")
    assert lines[1].startswith("Deleting ")


def widths_of(text: str) -> list[int]:
    """Return the widths of what was drawn between two erasures."""
    drawn = [_ESCAPE.sub("", each) for each in text.split("\x1b[J")[1:-1]]
    return [max(map(len, each.splitlines())) for each in drawn if "/9999" in each]
