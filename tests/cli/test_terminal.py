"""Text and JSON that are shown on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import struct
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async.cli._terminal import fitted, visible, visible_json


@pytest.mark.parametrize(
    ("text", "shown", "in_json"),
    [
        pytest.param("Zoë 🎉", "Zoë 🎉", '"Zoë 🎉"', id="letters"),
        pytest.param("\x1b[2J", "\\x1b[2J", '"\\u001b[2J"', id="escape"),
        pytest.param("\x9b2J", "\\x9b2J", '"\\u009b2J"', id="control sequence"),
        pytest.param("\u202e", "\\u202e", '"\\u202e"', id="direction"),
        pytest.param("\U000e0001", "\\U000e0001", '"\\udb40\\udc01"', id="beyond the first plane"),
    ],
)
def test_what_a_terminal_would_act_on_is_escaped(text: str, shown: str, in_json: str) -> None:
    """Control characters and those without a shape have an escape of Python or of JSON."""
    assert visible(text) == shown
    assert visible_json(text) == in_json


@given(st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53) | st.none()))
def test_escaped_json_is_the_same_value(value: dict[str, str | int | None]) -> None:
    """A program reads what it would have read without escapes."""
    text = visible_json(value)

    assert json.loads(text) == value
    assert text.isprintable()


@contextlib.contextmanager
def _terminal_of(columns: int) -> Iterator[TextIO]:
    here, there = pty.openpty()
    try:
        fcntl.ioctl(here, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        with os.fdopen(there, "w", encoding="utf-8") as stream:
            yield stream
    finally:
        os.close(here)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("twenty characters ok", ["twenty characters ok"], id="short"),
        pytest.param(
            "Delete 2 users by customer-user-id?",
            ["Delete 2 users by", "customer-user-id?"],
            id="sentence",
        ),
        pytest.param(
            "  ok  7  as Adapty said", ["  ok  7  as Adapty", "         said"], id="columns"
        ),
        pytest.param(
            "  line 3: id: is required", ["  line 3: id: is", "    required"], id="indent"
        ),
        pytest.param(
            "see /a/very/long/path/of/a/file", ["see", "/a/very/long/path/of/a/file"], id="path"
        ),
        pytest.param(
            "it has stopped; to resume it: adapty-async job retry j --store sqlite:///j.db",
            [
                "it has stopped; to",
                "resume it:",
                "  adapty-async job retry j --store sqlite:///j.db",
            ],
            id="command",
        ),
    ],
)
def test_a_line_for_a_terminal_ends_at_a_blank(line: str, expected: list[str]) -> None:
    """Words and commands stay whole, and the rest of a line is below its last column."""
    with _terminal_of(20) as terminal:
        assert fitted(f"x\n{line}", terminal).split("\n") == ["x", *expected]


def test_other_streams_get_lines_as_they_are(tmp_path: Path) -> None:
    """A file, a terminal of unknown width, and no stream at all."""
    line = "word " * 50
    with _terminal_of(0) as unknown, (tmp_path / "file").open("w") as file:
        assert [fitted(line, each) for each in (unknown, file, io.StringIO(), None)] == [line] * 4
