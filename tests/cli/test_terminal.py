"""Text and JSON that are shown on a terminal."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async.cli._terminal import visible, visible_json


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
