"""The state of the adaptive rate limiter: its parts, its snapshot and reserved send times."""

from __future__ import annotations

import itertools
import math
from typing import TypeAlias

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async._flow.adaptive_rate import AdaptiveRateLimiter
from adapty_async._flow.rate_state import CubicCurve, RateSnapshot, ThroughputMeter
from adapty_async.testing import FakeClock

Step: TypeAlias = tuple[str, int, float | None]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "count", "succeed", "fail", "rest"]),
        st.integers(1, 12),
        st.sampled_from([None, 0.0, 1.0, 5.0, 60.0]),
    ),
    max_size=60,
)


@pytest.fixture(autouse=True)
def no_patience() -> None:
    """Leave the real numbers as they are."""


def drive(limiter: AdaptiveRateLimiter, clock: FakeClock, steps: list[Step]) -> list[object]:
    """Apply steps to a limiter, and return all that it returns."""
    seen: list[object] = []
    for what, count, asked in steps:
        for _ in range(count):
            if what == "send":
                seen.append(limiter.acquire())
            elif what == "count":
                limiter.count()
            elif what == "succeed":
                limiter.succeeded(clock.now - 0.02)
            elif what == "fail":
                limiter.throttled(clock.now - 0.02, asked)
            else:
                clock.now += 0.05 * count
        seen.append((limiter.rate, limiter.limit, limiter.paused_until, limiter.probing))
    return seen


@given(before=STEPS, after=STEPS)
def test_a_restored_limiter_continues_as_the_first_one(
    before: list[Step], after: list[Step]
) -> None:
    """A snapshot, stored as MessagePack, has the whole state, and a copy of it."""
    clock = FakeClock(1000.0)
    limiter, other = AdaptiveRateLimiter(clock), AdaptiveRateLimiter(clock)
    drive(limiter, clock, before)
    stored = msgspec.msgpack.encode(limiter.snapshot())
    now = clock.now
    expected = drive(limiter, clock, after)
    clock.now = now
    other.restore(msgspec.msgpack.decode(stored, type=RateSnapshot))

    assert drive(other, clock, after) == expected


def test_a_restored_rate_is_within_the_bounds_of_its_limiter() -> None:
    """The bounds belong to a limiter and not to its state."""
    clock = FakeClock()
    other = AdaptiveRateLimiter(clock, min_rate=1.0, max_rate=100.0)
    other.restore(AdaptiveRateLimiter(clock, rate=400.0).snapshot())

    assert (other.rate, other.limit) == (100.0, 400.0)


def test_reserved_times_are_spaced_by_the_rate() -> None:
    """The first is due at once, the last within the given seconds, and the next come later."""
    clock = FakeClock(1000.0)
    limiter = AdaptiveRateLimiter(clock, rate=100.0 / 0.97)
    clock.now += 1.0
    first = limiter.reserve(1000, 0.1)
    second = limiter.reserve(1000, 0.1)
    clock.now += 0.05
    third = limiter.reserve(2, 0.1)

    assert [first.count, first.first, first.interval] == pytest.approx([11, 1001.0, 0.01])
    assert [first.again, second.count, second.again] == pytest.approx([0.01, 0, 0.01])
    assert [third.count, third.first, third.again] == pytest.approx([2, 1001.11, 0.0])


def test_a_slow_rate_gives_one_time_when_it_is_near() -> None:
    """An interval longer than the reservation is waited for, and then reserved."""
    clock = FakeClock(1000.0)
    limiter = AdaptiveRateLimiter(clock, rate=0.5 / 0.97)
    clock.now += 10.0
    assert limiter.reserve(5, 0.1).count == 1
    none = limiter.reserve(5, 0.1)
    assert none.count == 0
    assert none.again == pytest.approx(1.9)
    clock.now += none.again
    assert limiter.reserve(5, 0.1).count == 1


def test_no_time_is_reserved_in_a_pause() -> None:
    """The first one after it is at its end."""
    clock = FakeClock(1000.0)
    limiter = AdaptiveRateLimiter(clock, rate=100.0)
    limiter.throttled(clock.now, 60.0)
    assert limiter.reserve(5, 0.1).count == 0
    clock.now = limiter.paused_until

    assert limiter.reserve(5, 0.1).first >= limiter.paused_until


def test_one_probe_is_reserved_at_a_time() -> None:
    """While the server rejects everything, the next probe waits for the response."""
    clock = FakeClock(1000.0)
    limiter = AdaptiveRateLimiter(clock, rate=100.0)
    for _ in range(10):
        limiter.throttled(clock.now)
    clock.now = limiter.paused_until + 0.05
    probe = limiter.reserve(5, 0.1)
    assert (probe.count, limiter.reserve(5, 0.1).count) == (1, 0)
    clock.now += 0.05
    limiter.succeeded(clock.now - 0.05)

    assert limiter.reserve(5, 0.1).count == 5


def test_revoked_times_are_reserved_again() -> None:
    """After a cut, earlier reservations are void and the next starts now, not after them."""
    clock = FakeClock(1000.0)
    limiter = AdaptiveRateLimiter(clock, rate=100.0 / 0.97)
    clock.now += 1.0
    limiter.reserve(50, 1.0)
    limiter.revoke()

    assert limiter.reserve(1, 1.0).first == pytest.approx(1001.01)


def test_the_curve_is_slow_at_its_plateau_and_fast_beyond() -> None:
    """It starts at a share of the limit, reaches the limit, and accelerates after it."""
    curve = CubicCurve()
    curve.restart(0.85)
    shares = [curve.climb(0.5, 1.0) for _ in range(10)]

    assert shares[0] > 0.85
    assert shares == sorted(shares)
    steps = [after - before for before, after in itertools.pairwise(shares)]
    assert min(steps) < steps[0]
    assert steps[-1] == max(steps)


def test_a_meter_without_a_429_measures_nothing() -> None:
    """Only the successes of requests sent after a 429 count."""
    meter = ThroughputMeter()
    for sent in range(20):
        meter.record_success(float(sent))
    assert meter.measure(30.0, 0.0, math.inf) is None
    meter.record_throttled(20.1, 20.0, 0.1)
    for sent in range(20, 41):
        meter.record_success(float(sent))

    assert meter.passed == 20
    assert meter.measure(40.0, 0.0, 1.0) == 1.0
