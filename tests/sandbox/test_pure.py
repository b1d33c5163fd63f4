"""The parts of the sandbox without a server: rate limit, faults and grace periods."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from adapty_async.sandbox import Faults
from adapty_async.sandbox._faults import FaultPlan
from adapty_async.sandbox._rate import TokenBucket
from adapty_async.sandbox._v2_profiles import access_view


class Clock:
    """A clock whose time, in seconds, a test sets."""

    now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_a_bucket_allows_a_burst_and_then_its_rate() -> None:
    """After the burst a token is free every 1/rate seconds, after the returned delay."""
    clock = Clock()
    bucket = TokenBucket(10, 3, clock=clock)

    assert [bucket.acquire() for _ in range(3)] == [0, 0, 0]
    assert bucket.acquire() == pytest.approx(0.1)
    for _ in range(50):
        clock.now += bucket.acquire()
        assert bucket.acquire() == 0


def test_a_bucket_saves_up_no_more_than_its_burst() -> None:
    """However long the pause, only the burst passes at once."""
    clock = Clock()
    bucket = TokenBucket(100, clock=clock)
    clock.now += 3600

    assert [bucket.acquire() == 0 for _ in range(11)] == [True] * 10 + [False]


def test_the_smallest_burst_is_one_request() -> None:
    """Of a low rate, a tenth of a second is less than a request."""
    bucket = TokenBucket(2, clock=Clock())

    assert bucket.acquire() == 0
    assert bucket.acquire() == pytest.approx(0.5)


@pytest.mark.parametrize(("rate", "burst"), [(0, None), (-1, 5), (float("nan"), 1), (5, 0.5)])
def test_a_bucket_rejects_a_rate_that_lets_nothing_pass(rate: float, burst: float | None) -> None:
    """A rate that isn't above 0, or a burst below one request, is rejected by name."""
    with pytest.raises(ValueError, match=r"^(rate|burst)="):
        TokenBucket(rate, burst)


@pytest.mark.parametrize(
    ("spec", "faults"),
    [
        ("", Faults()),
        ("error=5%", Faults(error=0.05)),
        (" reset = 0.02 , stall=1% ,", Faults(reset=0.02, stall=0.01)),
        ("reset_after=1", Faults(reset_after=1)),
        ("error=33%,reset=56%,stall=11%", Faults(error=0.33, reset=0.56, stall=0.11)),
    ],
)
def test_faults_are_read_from_a_text(spec: str, faults: Faults) -> None:
    """Shares are numbers or percentages that add up to 1 at most, and blanks don't matter."""
    assert Faults.parse(spec) == faults


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("eror=5%", r"'eror=5%': the fault must be one of error, reset, reset_after, stall"),
        ("stall", r"'stall': the share must be a number"),
        ("stall=1%,stall=2%", r"'stall=2%': a fault must be given once"),
        ("reset=150%", r"reset=1.5: a share must be between 0 and 1"),
        ("reset=nan", r"reset=nan: a share must be between 0 and 1"),
        ("reset=60%,stall=60%", r"add up to no more than 1"),
    ],
)
def test_a_bad_text_names_part_and_rule(spec: str, message: str) -> None:
    """A text that can't be read says which part of it is wrong, and why."""
    with pytest.raises(ValueError, match=message):
        Faults.parse(spec)


def test_a_seed_repeats_its_faults_in_their_shares() -> None:
    """The same seed draws the same faults, another seed others, each with its share."""
    faults = Faults(error=0.2, reset=0.1, reset_after=0.1, stall=0.1)

    def drawn(seed: int) -> list[str | None]:
        plan = FaultPlan(faults, seed)
        return [plan.draw() for _ in range(10_000)]

    counts = Counter(drawn(7))
    assert drawn(7) == drawn(7) != drawn(8)
    assert counts[None] == pytest.approx(5_000, rel=0.1)
    assert all(counts[name] == pytest.approx(1_000, rel=0.2) for name in ("reset", "stall"))
    assert {f"{status}{form}" for status in (500, 502, 503, 504) for form in ("", "-html")} == (
        counts.keys() - {None, "reset", "reset_after", "stall"}
    )


def test_scripted_faults_come_first_and_in_order() -> None:
    """Scripted faults are drawn before random ones."""
    plan = FaultPlan(Faults())
    plan.script("500", "stall")
    plan.script("400")

    assert [plan.draw() for _ in range(4)] == ["500", "stall", "400", None]


@pytest.mark.parametrize("name", ["boom", "200", "499", "-html", "reset-html", "", 503])
def test_an_unknown_fault_is_rejected(name: Any) -> None:
    """A list with an unknown name is rejected as a whole."""
    plan = FaultPlan(Faults())

    with pytest.raises(ValueError, match="a fault must be reset, reset_after, stall, or a status"):
        plan.script("500", name)
    assert plan.draw() is None


def test_a_grace_period_ends_by_itself() -> None:
    """A grace period depends on the time of reading; its end is not in the view."""
    ends = datetime(2026, 1, 1, tzinfo=UTC)
    access = {"store": "app_store", "grace_period_expires_at": ends.isoformat()}
    moments = [ends - timedelta(seconds=1), ends, ends + timedelta(days=1)]

    views = [access_view(access, moment) for moment in moments]
    assert [one["is_in_grace_period"] for one in views] == [True, False, False]
    assert {tuple(one) for one in views} == {("store", "is_in_grace_period")}
    assert not access_view({"grace_period_expires_at": None}, ends)["is_in_grace_period"]
