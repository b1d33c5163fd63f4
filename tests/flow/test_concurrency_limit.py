"""The adaptive concurrency limit of a run, response by response."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async._flow.concurrency_limit import ConcurrencyLimit
from adapty_async.errors import (
    AdaptyError,
    ConnectionLostError,
    DeadlineError,
    NotFoundError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
)
from adapty_async.testing import FakeClock


class Run:
    """
    A run whose requests end as scripted.

    Attributes:
        limit: the concurrency limit under test.
        clock: seconds, advanced by the test alone.
    """

    def __init__(self, most: int = 256, now: float = 100.0) -> None:
        self.clock = FakeClock(now)
        self.limit = ConcurrencyLimit(most, self.clock)

    @property
    def count(self) -> int:
        """The number of requests permitted in flight."""
        return self.limit.limit

    def end(
        self, seconds: float, failure: AdaptyError | None = None, *, wanted: bool = False
    ) -> int:
        """
        End one request while as many as permitted are in flight; unless `wanted`, others wait.

        Returns:
            The number permitted in flight after it.
        """
        while self.limit.in_flight < self.count:
            self.limit.in_flight += 1
        self.limit.record(failure, seconds, held_up=not wanted)
        return self.count

    def after(self, pause: float, seconds: float, *, wanted: bool = False) -> int:
        """Advance the clock, and then end a request."""
        self.clock.now += pause
        return self.end(seconds, wanted=wanted)


@pytest.mark.parametrize(("most", "start"), [(1, 1), (64, 64), (10, 10), (2048, 64)], ids=str)
def test_it_starts_with_64_or_as_many_as_allowed(most: int, start: int) -> None:
    """Initially 64 requests may be in flight, or the maximum if it is lower."""
    limit = ConcurrencyLimit(most, FakeClock())

    assert (limit.limit, limit.in_flight) == (start, 0)


def test_what_ended_is_in_flight_no_longer() -> None:
    """A request that has ended, with any result, no longer counts."""
    failures: list[AdaptyError | None] = [
        None,
        ServerError("status 500", status=500),
        ConnectionLostError("reset"),
        DeadlineError("too late"),
        RequestTimeoutError("no response"),
    ]
    limit = ConcurrencyLimit(4, FakeClock())
    for failure in failures:
        limit.in_flight += 1
        assert limit.in_flight == 1
        limit.record(failure, 0.1, held_up=False)
        assert limit.in_flight == 0


def test_it_grows_by_a_quarter_while_all_are_in_flight() -> None:
    """While responses are as fast as before, and nothing else delays the run, it grows."""
    run = Run(most=130)

    assert run.end(0.1, wanted=True) == 80
    assert run.after(0.2, 0.1, wanted=True) == 100
    assert run.after(0.2, 0.1, wanted=True) == 125
    assert run.after(0.2, 0.1, wanted=True) == 130
    assert run.after(0.2, 0.1, wanted=True) == 130


def test_it_does_not_grow_while_something_else_holds_the_run_up() -> None:
    """While items wait for a permit, more workers would only wait with them."""
    run = Run()

    assert run.end(0.1) == 64
    assert run.after(1.0, 0.1) == 64


def test_it_does_not_grow_while_fewer_are_in_flight_than_may_be() -> None:
    """If fewer requests are in flight, more workers are of no use."""
    run = Run()
    for _ in range(63):
        run.limit.in_flight += 1
    run.limit.record(None, 0.1, held_up=False)

    assert run.count == 64


def test_new_workers_are_wanted_at_once() -> None:
    """After growth as many are useful as are newly permitted, after a decrease no more are."""
    run = Run()
    run.end(0.1, wanted=True)
    assert (run.limit.more_wanted(), run.limit.more_wanted()) == (16, 0)
    run.clock.now += 1.0
    run.end(30.0, RequestTimeoutError("no response"))

    assert run.limit.more_wanted() == 0


def test_another_worker_is_wanted_for_one_that_may_have_to_wait() -> None:
    """A failed request may have a long wait before its retry, and so may all that fail with it."""
    run = Run()
    run.end(0.1, ConnectionLostError("reset"))
    assert run.limit.more_wanted() == 1
    run.end(0.1, RateLimitError("status 429", status=429), wanted=True)
    run.end(0.1, ConnectionLostError("reset"))

    assert run.limit.more_wanted() == 2


def test_nobody_is_wanted_while_enough_are_busy() -> None:
    """After a timeout more are in flight than permitted, so a failed one is not replaced."""
    run = Run()
    down = ServerError("down", status=500)
    run.end(1.0, RequestTimeoutError("slow"))
    while run.limit.in_flight > run.count:
        run.limit.record(down, 0.1, held_up=False)
    assert run.limit.more_wanted() == 0

    run.limit.record(down, 0.1, held_up=False)
    assert run.limit.more_wanted() == 1


@pytest.mark.parametrize(
    ("workers", "busy", "spare"), [(64, 64, False), (65, 63, False), (65, 64, True)], ids=str
)
def test_a_worker_is_spare_when_enough_others_are_busy(
    workers: int, busy: int, *, spare: bool
) -> None:
    """Workers beyond the limit retire if the limit is reached without them."""
    limit = Run().limit
    for _ in range(busy):
        limit.in_flight += 1

    assert limit.should_retire(workers) is spare


@pytest.mark.parametrize(
    ("fastest", "slow", "steady"),
    [(0.1, 0.18, 0.14), (0.0002, 0.005, 0.004)],
    ids=["the service", "the event loop"],
)
def test_it_does_not_grow_while_responses_are_slower_than_they_can_be(
    fastest: float, slow: float, steady: float
) -> None:
    """The bound is 1.5 times the fastest response plus 4 ms; above it, more would only wait."""
    run = Run()
    run.end(fastest)

    for _ in range(100):
        run.after(0.0, slow)
    assert run.after(1.0, slow, wanted=True) == 64
    for _ in range(100):
        run.after(0.0, steady)
    assert run.after(1.0, steady, wanted=True) == 80


def test_it_shrinks_by_a_tenth_when_responses_take_far_longer() -> None:
    """The bound is three times the fastest response plus a quarter of a second."""
    run = Run()
    run.end(0.1)

    for _ in range(30):
        assert run.after(0.6, 0.54) == 64
    counts = [run.after(0.6, 0.6, wanted=True) for _ in range(12)]
    assert list(dict.fromkeys(counts))[:5] == [64, 58, 52, 47, 42]


def test_responses_of_a_quarter_of_a_second_are_never_far_too_slow() -> None:
    """A service with immediate responses keeps its limit despite delays of our own event loop."""
    run = Run()
    run.end(0.0001)

    for _ in range(30):
        assert run.after(0.3, 0.25) == 64


def test_it_is_halved_when_no_response_comes_in_time() -> None:
    """A timeout halves the limit, down to a minimum of four."""
    run = Run()
    run.end(0.1)

    for count in (32, 16, 8, 4, 4):
        run.clock.now += 1.0
        assert run.end(30.0, RequestTimeoutError("no response")) == count


def test_one_change_is_made_per_usual_response_time() -> None:
    """Requests that end together count once: the effect of a change takes a round trip."""
    run = Run()
    run.end(0.5, wanted=True)
    assert run.count == 80

    for _ in range(10):
        assert run.end(30.0, RequestTimeoutError("no response")) == 80
    assert run.after(0.4, 0.5, wanted=True) == 80
    assert run.after(0.1, 0.5, wanted=True) == 100


def test_timeouts_before_the_first_response_count_once_a_second() -> None:
    """Until a response has shown the usual time, it is a second."""
    run = Run()
    slow = RequestTimeoutError("no response")

    assert [run.end(30.0, slow), run.end(30.0, slow)] == [32, 32]
    run.clock.now += 1.0
    assert run.end(30.0, slow) == 16


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_a_run_that_is_allowed_little_keeps_it(most: int) -> None:
    """Limits of four or less never shrink, and never exceed the maximum."""
    run = Run(most)

    assert run.end(30.0, RequestTimeoutError("no response")) == most
    assert run.after(1.0, 0.1, wanted=True) == most


@pytest.mark.parametrize(
    ("failure", "counts"),
    [
        (NotFoundError("no such profile", status=404), True),
        (ServerError("status 500", status=500), False),
        (RateLimitError("status 429", status=429), False),
        (ConnectionLostError("reset"), False),
        (DeadlineError("too late"), False),
    ],
    ids=["404", "500", "429", "lost", "late"],
)
def test_only_responses_show_how_fast_the_service_is(failure: AdaptyError, *, counts: bool) -> None:
    """A rejection takes the server as long as a success; a failure may be immediate."""
    run = Run()
    run.end(10.0)
    count = run.end(0.001, failure)

    assert count == (58 if counts else 64)  # far slower than that, or as fast as before


@pytest.mark.parametrize(("fast", "forgotten"), [(0, 60), (15, 60), (29, 60), (30, 90)], ids=str)
def test_the_fastest_response_is_forgotten_after_half_a_minute_to_a_minute(
    fast: int, forgotten: int
) -> None:
    """A service that is permanently slower is accepted, and its usual time is the new fastest."""
    run = Run()
    for _ in range(fast):
        run.end(0.2)
        run.clock.now += 1.0
    run.end(0.1)
    for _ in range(100):
        run.end(0.2)

    for _ in range(fast + 1, forgotten):
        assert run.after(1.0, 0.2, wanted=True) == 64
    assert run.after(1.0, 0.2, wanted=True) == 80


def test_an_item_that_waits_for_an_endpoint_makes_another_worker_useful() -> None:
    """From the first request to another endpoint on, workers that wait do not count."""
    limit = ConcurrencyLimit(64, FakeClock())
    for _ in range(3):
        limit.wait_started()
    assert (limit.waiting, limit.more_wanted()) == (3, 0)
    limit.other_sent()
    assert limit.more_wanted() == 3
    limit.other_sent()
    limit.wait_started()
    assert (limit.waiting, limit.more_wanted()) == (4, 1)
    limit.in_flight = 64
    assert not limit.should_retire(68)
    limit.wait_ended()
    assert limit.should_retire(68)
    assert limit.most_workers == 2064


@given(
    most=st.integers(1, 300),
    answers=st.lists(
        st.tuples(
            st.floats(0.0, 40.0), st.floats(0.0, 40.0), st.sampled_from("atc"), st.booleans()
        ),
        max_size=60,
    ),
)
def test_it_stays_within_its_bounds_whatever_comes(
    most: int, answers: list[tuple[float, float, str, bool]]
) -> None:
    """It is at least four or the maximum, at most the maximum, and grows only if all are in use."""
    failures = {"t": RequestTimeoutError("no response"), "c": ConnectionLostError("reset")}

    run = Run(most)
    for pause, seconds, kind, wanted in answers:
        before = run.count
        run.clock.now += pause
        run.end(seconds, failures.get(kind), wanted=wanted)
        assert min(4, most) <= run.count <= most
        assert run.count <= before or (wanted and kind == "a")
        assert run.count >= before // 2
