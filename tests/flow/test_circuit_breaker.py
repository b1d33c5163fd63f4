"""The retry budget, the circuit breaker and the outage timer: their counts and decisions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async._flow import circuit_breaker as _outage
from adapty_async._flow.circuit_breaker import (
    CircuitBreaker,
    OutageTimer,
    RetryBudget,
    WakefulClock,
    is_transient,
)
from adapty_async.errors import ServerError
from adapty_async.statistics import CircuitState
from adapty_async.testing import FakeClock

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


@pytest.fixture(autouse=True)
def _usual_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let outages be as long as they are outside of tests."""
    monkeypatch.setattr(_outage, "_SHORTEST", 1.0)


# The retry budget


def test_a_budget_pays_for_retries_until_it_is_used_up() -> None:
    """Each retry costs tokens, and one that costs more than is left acquires none."""
    budget = RetryBudget(20)

    assert budget.try_acquire(RetryBudget.TRANSIENT)
    assert budget.left == 6
    assert not budget.try_acquire(RetryBudget.TRANSIENT)
    assert budget.left == 6
    assert budget.try_acquire(RetryBudget.THROTTLED)
    assert budget.left == 1


def test_the_last_token_can_be_spent() -> None:
    """A retry that costs just the remaining tokens acquires them."""
    budget = RetryBudget(14)

    assert budget.try_acquire(14)
    assert (budget.size, budget.left) == (14, 0)
    assert not budget.try_acquire(1)


def test_a_budget_gets_back_no_more_than_its_size() -> None:
    """Success refunds one token or the cost of a retry, up to the size."""
    budget = RetryBudget(20)
    budget.try_acquire(10)
    budget.release()
    assert budget.left == 11
    budget.release(5)
    assert budget.left == 16
    budget.release(5)
    assert budget.left == 20


@given(size=st.integers(0, 50), steps=st.lists(st.integers(-20, 20)))
def test_a_budget_stays_between_nothing_and_its_size(size: int, steps: list[int]) -> None:
    """Any sequence of steps leaves the tokens between 0 and the size."""
    budget = RetryBudget(size)
    for step in steps:
        before = budget.left
        if step < 0:
            assert budget.try_acquire(-step) == (budget.left != before)
        else:
            budget.release(step)
        assert 0 <= budget.left <= size


# The circuit breaker


def shortest(low: float, _high: float) -> float:
    """Return the minimum of the possible waits."""
    return low


def longest(_low: float, high: float) -> float:
    """Return the maximum of the possible waits."""
    return high


def a_circuit(
    clock: FakeClock, uniform: Callable[[float, float], float] = shortest, failures: int = 20
) -> CircuitBreaker:
    """Return a circuit breaker that has recorded *n* failures, all sent and recorded now."""
    circuit = CircuitBreaker(clock, uniform)
    for _ in range(failures):
        circuit.record_failure(clock.now)
    return circuit


def test_it_takes_twenty_failures_in_a_row_to_open_a_circuit() -> None:
    """Nineteen change nothing; the twentieth opens the circuit, with the first as the start."""
    clock = FakeClock(100.0)
    circuit = CircuitBreaker(clock, shortest)

    for number in range(20):
        assert (circuit.state, circuit.since, circuit.delay()) == (CLOSED, None, 0.0)
        circuit.record_probe()
        clock.now += 0.1
        circuit.record_failure(100.0 + number)
    assert (circuit.state, circuit.since) == (OPEN, 100.0)
    assert circuit.delay() == pytest.approx(1.0)


def test_a_success_among_the_failures_starts_the_count_again() -> None:
    """A success that was sent with the first failure, or after it, shows that the service works."""
    clock = FakeClock(100.0)
    circuit = a_circuit(clock, failures=19)
    circuit.record_success(100.0)
    for _ in range(19):
        circuit.record_failure(101.0)
    assert circuit.state is CLOSED

    circuit.record_failure(102.0)
    assert circuit.since == 101.0


def test_a_success_that_was_sent_before_the_failures_closes_nothing() -> None:
    """A late response from the time before the outage does not hide it."""
    clock = FakeClock(100.0)
    circuit = a_circuit(clock, failures=19)
    circuit.record_success(99.9)
    assert circuit.state is CLOSED
    circuit.record_failure(100.5)
    assert (circuit.state, circuit.since) == (OPEN, 100.0)
    circuit.record_success(99.9)
    assert circuit.state is OPEN


def test_a_failure_that_was_sent_at_the_same_time_as_a_success_counts() -> None:
    """Of several requests sent together, one success does not excuse the others."""
    clock = FakeClock(100.0)
    circuit = CircuitBreaker(clock, shortest)
    circuit.record_success(100.0)
    for _ in range(20):
        circuit.record_failure(100.0)

    assert circuit.state is OPEN


def test_successes_alone_leave_a_circuit_closed() -> None:
    """A service that works keeps its circuit closed."""
    circuit = CircuitBreaker(FakeClock(), shortest)
    circuit.record_success(0.0)

    assert (circuit.state, circuit.since, circuit.delay()) == (CLOSED, None, 0.0)


def test_when_it_is_time_one_request_is_let_through() -> None:
    """After one probe, the others wait for its response or for the next probe."""
    clock = FakeClock(100.0)
    circuit = a_circuit(clock)

    clock.now = 100.75
    assert (circuit.state, circuit.delay()) == (OPEN, 0.25)
    clock.now = 101.0
    assert (circuit.state, circuit.delay()) == (HALF_OPEN, 0.0)
    circuit.record_probe()
    assert (circuit.state, circuit.delay()) == (OPEN, 1.0)
    clock.now = 102.5
    assert (circuit.state, circuit.delay()) == (HALF_OPEN, 0.0)


def test_a_try_that_fails_is_followed_by_a_wait() -> None:
    """After a failed probe, the next one waits as long as after the first failures."""
    clock = FakeClock(100.0)
    circuit = a_circuit(clock)
    clock.now = 101.0
    circuit.record_probe()
    clock.now = 101.75
    circuit.record_failure(101.0)

    assert (circuit.state, circuit.delay(), circuit.since) == (OPEN, 1.0, 100.0)


def test_a_try_that_works_closes_the_circuit() -> None:
    """After one success all requests are sent again, and twenty more failures are a new outage."""
    clock = FakeClock(100.0)
    circuit = a_circuit(clock)
    clock.now = 101.0
    circuit.record_probe()
    circuit.record_success(101.0)

    assert (circuit.state, circuit.since, circuit.delay()) == (CLOSED, None, 0.0)
    clock.now = 200.0
    for _ in range(19):
        circuit.record_failure(200.0)
    assert circuit.state is CLOSED
    circuit.record_failure(200.0)
    assert (circuit.state, circuit.since) == (OPEN, 200.0)


def test_a_new_outage_does_not_wait_for_the_retry_after_of_the_last_one() -> None:
    """A `Retry-After` ends with the outage in which it was received."""
    clock = FakeClock(100.0)
    circuit = a_circuit(clock)
    circuit.record_failure(100.0, 30.0)
    circuit.record_success(100.0)
    clock.now = 101.0
    for _ in range(20):
        circuit.record_failure(101.0)

    assert circuit.delay() == 1.0


@pytest.mark.parametrize(
    ("lasted", "wait"),
    [
        (0.0, 1.0),
        (19.0, 1.0),
        (20.0, 1.0),
        (60.0, 2.4),
        (600.0, 24.0),
        (900.0, 30.0),
        (3600.0, 30.0),
    ],
    ids=str,
)
def test_the_next_probe_comes_after_a_share_of_the_outage(lasted: float, wait: float) -> None:
    """It is at least one second and at most thirty, plus up to a random quarter."""
    for uniform, factor in ((shortest, 1.0), (longest, 1.25)):
        clock = FakeClock(100.0)
        circuit = a_circuit(clock, uniform)
        clock.now += lasted
        circuit.record_failure(clock.now)
        assert circuit.delay() == pytest.approx(factor * wait)


@pytest.mark.parametrize(
    ("asked", "wait"),
    [(None, 1.0), (0.0, 1.0), (0.5, 1.0), (7.0, 7.0), (30.0, 30.0), (3600.0, 30.0)],
    ids=str,
)
def test_a_wait_that_the_service_asks_for_is_kept_to(asked: float | None, wait: float) -> None:
    """The next probe comes no sooner than the service asks, but within half a minute."""
    clock = FakeClock(100.0)
    circuit = a_circuit(clock, failures=19)
    circuit.record_failure(100.0, asked)

    assert circuit.delay() == wait


def test_a_retry_after_is_not_shortened_by_others() -> None:
    """A failure without Retry-After, and a probe, only ever postpone the next probe."""
    clock = FakeClock(100.0)
    circuit = a_circuit(clock)
    circuit.record_failure(100.0, 10.0)
    clock.now = 101.0
    circuit.record_failure(100.0)
    circuit.record_probe()

    assert circuit.delay() == 9.0


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["worked", "failed", "failed", "failed", "enter"]),
            st.floats(0.0, 40.0),
            st.floats(0.0, 5.0),
            st.none() | st.floats(0.0, 1e4),
        ),
        max_size=120,
    ),
    share=st.floats(0.0, 1.0),
)
def test_a_circuit_never_waits_long_and_counts_as_a_plain_model_does(
    steps: list[tuple[str, float, float, float | None]], share: float
) -> None:
    """With any results, it is open after 20 failures without a success, for 37.5 s at most."""
    clock = FakeClock(1000.0)
    circuit = CircuitBreaker(clock, lambda low, high: low + share * (high - low))
    row: list[float] = []  # send times of the failures since the last success
    worked = -math.inf
    for step, seconds, age, asked in steps:
        clock.now += seconds
        sent = clock.now - age
        if step == "enter":
            circuit.record_probe()
        elif step == "failed":
            circuit.record_failure(sent, asked)
            if sent < worked:
                continue
            row.append(sent)
        else:
            worked = max(worked, sent)
            circuit.record_success(sent)
            if row and sent >= row[0]:
                row.clear()
        assert circuit.since == (row[0] if len(row) >= 20 else None)
        assert (circuit.state is CLOSED) == (len(row) < 20)
        assert (circuit.state is OPEN) == (circuit.delay() > 0)
        assert 0.0 <= circuit.delay() <= 37.5
        if step != "worked" and circuit.since is not None:
            assert circuit.delay() >= 1.0


@pytest.mark.parametrize("status", range(500, 600))
def test_every_5xx_but_two_may_pass(status: int) -> None:
    """All 5xx, including Cloudflare's, are transient, except 501 and 505."""
    assert is_transient(ServerError("x", status=status)) is (status not in {501, 505})


# The outage timer


def test_a_timer_counts_while_requests_are_in_flight() -> None:
    """It runs from the first request, for any response, until a success resets it to 0."""
    clock = FakeClock(1000.0)
    timer = OutageTimer(clock)
    clock.now += 50.0
    assert timer.lasted == 0.0
    timer.start()
    clock.now += 5.0
    timer.start()
    timer.end(worked=False)
    clock.now += 5.0
    assert timer.lasted == 10.0
    timer.end(worked=True)
    clock.now += 5.0
    assert timer.lasted == 0.0


def test_a_timer_counts_waits_that_a_response_caused() -> None:
    """Waits count as they pass; of several at the same time the longest counts."""
    clock = FakeClock(1000.0)
    timer = OutageTimer(clock)
    timer.start()
    clock.now += 1.0
    timer.end(worked=False)
    timer.hold(20.0)
    timer.hold(5.0)
    clock.now += 10.0
    assert timer.lasted == 11.0
    timer.start()
    timer.hold(1.0)
    timer.end(worked=False)
    clock.now += 100.0
    assert timer.lasted == 21.0


@pytest.mark.parametrize("seconds", [0.0, 100.0])
def test_a_timer_stands_still_while_nothing_is_sent_for_another_reason(seconds: float) -> None:
    """A slow source, or a configured rate, is no outage; the time before still counts."""
    clock = FakeClock(1000.0)
    timer = OutageTimer(clock)
    for _ in range(3):
        timer.start()
        clock.now += 2.0
        timer.end(worked=False)
        clock.now += seconds
    assert timer.lasted == 6.0
    timer.hold(1.0)
    clock.now += 100.0
    assert timer.lasted == 7.0


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["send", "fail", "work", "hold"]), st.floats(0.0, 50.0)),
        max_size=60,
    )
)
def test_a_timer_never_counts_more_than_the_time_that_passed(
    steps: list[tuple[str, float]],
) -> None:
    """It is always between 0 and the seconds since the last success."""
    clock = FakeClock(1000.0)
    timer = OutageTimer(clock)
    in_flight, worked = 0, clock.now
    for step, seconds in steps:
        if step == "send":
            timer.start()
            in_flight += 1
        elif step == "hold":
            timer.hold(seconds)
        elif in_flight:
            timer.end(worked=step == "work")
            in_flight -= 1
            worked = clock.now if step == "work" else worked
        assert -1e-9 <= timer.lasted <= clock.now - worked + 1e-9
        clock.now += seconds


def test_a_timer_is_held_while_requests_wait_because_of_a_response() -> None:
    """It is not held while requests are in flight, or wait for another reason."""
    clock = FakeClock(1000.0)
    timer = OutageTimer(clock)
    held = []
    timer.start()
    held.append(timer.is_held)
    clock.now += 1.0
    timer.end(worked=False)
    held.append(timer.is_held)
    timer.hold(2.0)
    held.append(timer.is_held)
    clock.now += 2.0
    held.append(timer.is_held)

    assert held == [False, False, True, False]


# The clock of the timers


def test_a_clock_without_a_look_runs_as_any_other() -> None:
    """Without a tick, no event loop reports that it was blocked."""
    clock = FakeClock(1000.0)
    wakeful = WakefulClock(clock, 1.25)
    clock.now += 500.0

    assert wakeful() == 1500.0


@pytest.mark.parametrize(
    ("seconds", "counted"), [(1.0, 1.0), (1.25, 1.25), (2.0, 1.25), (7200.0, 1.25)], ids=str
)
def test_time_without_a_look_counts_up_to_a_limit(seconds: float, counted: float) -> None:
    """The limit holds before the next tick already, and for the time after it."""
    clock = FakeClock(1000.0)
    wakeful = WakefulClock(clock, 1.25)
    wakeful.tick()
    clock.now += seconds
    assert wakeful() == 1000.0 + counted
    wakeful.tick()
    assert wakeful() == 1000.0 + counted
    clock.now += 1.0
    assert wakeful() == 1001.0 + counted


@given(steps=st.lists(st.tuples(st.booleans(), st.floats(0.0, 5.0)), max_size=60))
def test_a_wakeful_clock_only_ever_grows(steps: list[tuple[bool, float]]) -> None:
    """With any ticks, it never decreases, and is never faster than the underlying clock."""
    clock = FakeClock(1000.0)
    wakeful = WakefulClock(clock, 1.0)
    before = wakeful()
    for ticks, seconds in steps:
        clock.now += seconds
        if ticks:
            wakeful.tick()
        assert -1e-9 <= wakeful() - before <= seconds + 1e-9
        before = wakeful()
