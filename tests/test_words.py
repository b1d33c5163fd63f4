"""Durations as text for people."""

from __future__ import annotations

import pytest

from adapty_async._runtime.words import duration_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        pytest.param(0, "0 s", id="none"),
        pytest.param(0.25, "0.25 s", id="fraction"),
        pytest.param(59.97, "60 s", id="nearly-a-minute"),
        pytest.param(60, "1 min", id="minute"),
        pytest.param(3599.6, "1 h", id="nearly-an-hour"),
        pytest.param(3605, "1 h", id="seconds-of-hours"),
        pytest.param(3661, "1 h 1 min", id="hour"),
        pytest.param(90_061, "1 d 1 h", id="day"),
        pytest.param(90_000_000, "1,041 d 16 h", id="days"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    """A duration is as exact as people need."""
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        pytest.param(0.2, "1 s", id="below-a-second"),
        pytest.param(59.5, "1 min", id="rounded-up"),
        pytest.param(250, "4 min 10 s", id="minutes"),
        pytest.param(3_605, "1 h", id="seconds-of-hours"),
        pytest.param(9_960, "2 h 46 min", id="hours"),
    ],
)
def test_the_least_time_of_work_is_rounded_up(seconds: float, text: str) -> None:
    """An estimate has whole seconds, one at least."""
    assert duration_text(seconds, round_up=True) == text
