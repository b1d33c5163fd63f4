"""The fixed rate limiter: the size of its burst, and that no request exceeds its rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async._flow.rate_limiter import CLOCK_RESOLUTION, FixedRateLimiter
from adapty_async.testing import FakeClock


@pytest.mark.parametrize(
    ("rate", "given_burst", "burst"),
    [(500.0, None, 50), (1.0, None, 1), (0.5, None, 1), (24.0, None, 2), (10.0, 3, 3)],
    ids=str,
)
def test_a_burst_is_a_tenth_of_a_second_by_default(
    rate: float, given_burst: int | None, burst: int
) -> None:
    """At least one request may always be sent at once."""
    limiter = FixedRateLimiter(rate, given_burst, FakeClock())

    assert (limiter.rate, limiter.burst) == (rate, burst)
    assert repr(limiter) == f"FixedRateLimiter(rate={rate}, burst={burst})"


def times(limiter: FixedRateLimiter, clock: FakeClock, count: int) -> list[float]:
    """Return the send times of a number of requests that are sent as early as possible."""
    times = []
    for _ in range(count):
        clock.now += limiter.delay()
        assert limiter.delay() == 0.0
        limiter.acquire()
        times.append(clock.now)
    return times


def test_a_rate_limiter_lets_the_burst_go_and_then_holds_the_rate() -> None:
    """After the burst, each request is sent one interval after the last."""
    clock = FakeClock(100.0)
    limiter = FixedRateLimiter(10.0, 3, clock)

    assert times(limiter, clock, 5) == pytest.approx([100.0, 100.0, 100.0, 100.1, 100.2])


def test_a_long_pause_saves_up_no_more_than_the_burst() -> None:
    """After any pause, only the burst is sent at once."""
    clock = FakeClock()
    limiter = FixedRateLimiter(10.0, 3, clock)
    clock.now += 3600.0

    assert times(limiter, clock, 5) == pytest.approx([3600.0] * 3 + [3600.1, 3600.2])


def test_a_short_pause_gives_back_as_much_of_the_burst_as_it_lasted() -> None:
    """Two intervals of silence allow two requests at once."""
    clock = FakeClock()
    limiter = FixedRateLimiter(10.0, 3, clock)
    times(limiter, clock, 3)
    clock.now = 0.2

    assert times(limiter, clock, 4) == pytest.approx([0.2, 0.2, 0.3, 0.4])


def test_asking_alone_uses_nothing_up() -> None:
    """A caller that asks for the delay and does not send leaves the permit to the next."""
    clock = FakeClock()
    limiter = FixedRateLimiter(1.0, 1, clock)

    assert [limiter.delay() for _ in range(3)] == [0.0] * 3
    limiter.acquire()
    assert [limiter.delay() for _ in range(3)] == [1.0] * 3


def test_a_wait_below_the_resolution_of_a_clock_is_none() -> None:
    """A delay of a millionth of a second counts as none."""
    clock = FakeClock()
    limiter = FixedRateLimiter(1.0, 1, clock)
    limiter.acquire()
    clock.now = 1.0 - CLOCK_RESOLUTION / 2

    assert limiter.delay() == 0.0
    clock.now = 1.0 - 2 * CLOCK_RESOLUTION
    assert limiter.delay() == pytest.approx(2 * CLOCK_RESOLUTION)


@given(
    rate=st.floats(0.1, 1000.0),
    burst=st.integers(1, 20),
    started=st.floats(0.0, 1e6),
    asked=st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 3.0)), min_size=1, max_size=80),
    patient=st.lists(st.booleans(), min_size=1, max_size=5),
)
def test_no_window_ever_holds_more_than_rate_and_burst(
    rate: float,
    burst: int,
    started: float,
    asked: list[tuple[float, float]],
    patient: list[bool],
) -> None:
    """Any period has at most its share, however late callers wake up."""
    clock = FakeClock(started)
    limiter = FixedRateLimiter(rate, burst, clock)
    sent: list[float] = []
    for number, (pause, late) in enumerate(asked):
        clock.now += pause / rate
        if limiter.delay() and patient[number % len(patient)]:
            clock.now += limiter.delay() + late / rate
        if not limiter.delay():
            limiter.acquire()
            sent.append(clock.now)

    for first, start in enumerate(sent):
        for last, end in enumerate(sent[first:], first):
            assert last - first + 1 <= rate * (end - start + 1e-5) + burst + 1e-6


@given(rate=st.floats(0.1, 1000.0), burst=st.integers(1, 20), count=st.integers(1, 300))
def test_who_sends_as_soon_as_may_be_gets_the_whole_rate(
    rate: float, burst: int, count: int
) -> None:
    """The limiter loses nothing of the rate or of the burst."""
    clock = FakeClock()
    sent = times(FixedRateLimiter(rate, burst, clock), clock, count)

    assert sent[-1] == pytest.approx(max(0, count - burst) / rate, abs=2 * CLOCK_RESOLUTION)
