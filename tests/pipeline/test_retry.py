"""The retry layer: its decision table, and its loop on a clock that never waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async._api.call import CallState, Request, Response, RetrySafety
from adapty_async._flow.circuit_breaker import RetryBudget
from adapty_async._pipeline.observe import Emitter
from adapty_async._pipeline.retry import may_have_worked, may_retry, retry
from adapty_async._runtime.loop import Timing
from adapty_async.config import RetryPolicy
from adapty_async.errors import (
    AdaptyError,
    ApiError,
    AuthenticationError,
    CircuitOpenError,
    ConfigError,
    ConflictError,
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    DecodeError,
    ExportError,
    InvalidInputError,
    JournalError,
    NotFoundError,
    RateLimitError,
    RequestRejectedError,
    RequestTimeoutError,
    ServerError,
    StoreError,
    TransportError,
    WebhookError,
)
from adapty_async.hooks import Event, RetryScheduled
from adapty_async.testing import FakeClock
from tests._support import ERROR_CLASSES, a_request

OK = Response(200, {}, b"{}")


def error_of(
    kind: type[ApiError | DecodeError],
    status: int,
    retry_after: float | None = None,
    code: str | None = None,
) -> AdaptyError:
    """Return the error of a response."""
    error = kind(f"status {status}", status=status)
    if isinstance(error, ApiError):
        error.retry_after = retry_after
        error.error_code = code

    return error


YES, NO = True, False
ALL = dict.fromkeys(RetrySafety, YES)
NONE = dict.fromkeys(RetrySafety, NO)
UNLESS_UNSENT = {RetrySafety.ALWAYS: YES, RetrySafety.WITH_KEY: YES, RetrySafety.IF_UNSENT: NO}

TABLE: list[tuple[BaseException, dict[RetrySafety, bool], bool]] = [
    # the error, whether to retry by retry safety, whether the server may have processed it
    (ConnectError("refused"), ALL, NO),
    (ConnectError("certificate", permanent=True), NONE, NO),
    (RequestTimeoutError("no response"), UNLESS_UNSENT, YES),
    (ConnectionLostError("reset"), UNLESS_UNSENT, YES),
    (TransportError("some other"), NONE, NO),
    (error_of(RateLimitError, 429), ALL, NO),
    (error_of(RateLimitError, 429, 1.0), ALL, NO),
    (error_of(RateLimitError, 400), ALL, NO),
    (error_of(ServerError, 500), UNLESS_UNSENT, YES),
    (error_of(ServerError, 500, 1.0), UNLESS_UNSENT, YES),
    (error_of(ServerError, 501), NONE, YES),
    (error_of(ServerError, 505), NONE, YES),
    *((error_of(ServerError, status), UNLESS_UNSENT, YES) for status in range(520, 531)),
    (error_of(ServerError, 502), UNLESS_UNSENT, YES),
    (error_of(ServerError, 503), UNLESS_UNSENT, YES),
    (error_of(ServerError, 503, 0.0), ALL, NO),
    (error_of(ServerError, 504), UNLESS_UNSENT, YES),
    (error_of(ServerError, 599), UNLESS_UNSENT, YES),
    (error_of(RequestRejectedError, 400), NONE, NO),
    (error_of(RequestRejectedError, 408), UNLESS_UNSENT, YES),
    (error_of(RequestRejectedError, 425), UNLESS_UNSENT, NO),
    (error_of(RequestRejectedError, 302), NONE, NO),
    (error_of(AuthenticationError, 401), NONE, NO),
    (error_of(AuthenticationError, 403), NONE, NO),
    (error_of(NotFoundError, 404), NONE, NO),
    (error_of(ConflictError, 409), NONE, NO),
    (error_of(ConflictError, 409, 1.0, "duplicate_source_transaction"), NONE, NO),
    (error_of(ConflictError, 409, None, "idempotency_in_flight"), UNLESS_UNSENT, YES),
    (error_of(ApiError, 418), NONE, NO),
    (error_of(DecodeError, 200), NONE, YES),
    (AdaptyError("x"), NONE, NO),
    (ConfigError("x"), NONE, NO),
    (InvalidInputError("x", "y"), NONE, NO),
    (DeadlineError("x"), NONE, NO),
    (CircuitOpenError("x"), NONE, NO),
    (JournalError("x"), NONE, NO),
    (ExportError("x"), NONE, NO),
    (StoreError("x"), NONE, NO),
    (WebhookError("x"), NONE, NO),
    (ValueError("x"), NONE, NO),
    (KeyboardInterrupt(), NONE, NO),
]


def test_the_table_is_complete() -> None:
    """Every class of error has a row, and every row a column for every retry safety."""
    assert {type(error) for error, _, _ in TABLE} >= set(ERROR_CLASSES)
    assert all(columns.keys() == set(RetrySafety) for _, columns, _ in TABLE)


@pytest.mark.parametrize("retry_safety", RetrySafety)
@pytest.mark.parametrize(
    ("error", "columns"),
    [pytest.param(error, columns, id=repr(error)) for error, columns, _ in TABLE],
)
def test_what_may_be_sent_again(
    retry_safety: RetrySafety, error: BaseException, columns: dict[RetrySafety, bool]
) -> None:
    """Whether a request is retried depends on its retry safety and its error, as in the table."""
    assert may_retry(retry_safety, error) is columns[retry_safety]


@pytest.mark.parametrize(
    ("error", "expected"),
    [pytest.param(error, worked, id=repr(error)) for error, _, worked in TABLE],
)
def test_what_may_have_worked(error: BaseException, expected: bool) -> None:  # noqa: FBT001
    """Whether the server may have processed it depends on the error, as in the table."""
    assert may_have_worked(error) is expected


class Script:
    """A `Layer` that fails as scripted and then succeeds; every attempt has a duration."""

    def __init__(
        self, failures: Iterable[BaseException], clock: FakeClock, seconds: float = 0.0
    ) -> None:
        self._failures = iter(failures)
        self._clock = clock
        self._seconds = seconds

    async def __call__(self, request: Request, state: CallState) -> Response:
        """Fail or succeed; like the layers below, never after the call's deadline."""
        state.attempt_started()
        self._clock.now = min(self._clock.now + self._seconds, state.deadline)
        failure = next(self._failures, None)
        if failure is None:
            return OK
        if may_have_worked(failure):
            state.response_lost()
        raise failure


def timing(clock: FakeClock, fraction: float = 1.0) -> Timing:
    """Return a timing by that clock whose random numbers are at this share of their range."""
    return Timing(clock, clock.sleep, lambda low, high: low + (high - low) * fraction)


async def run(
    failures: Iterable[BaseException],
    policy: RetryPolicy,
    clock: FakeClock,
    hooks: tuple[Any, ...] = (),
    **changes: Any,
) -> Response:
    """Send one request through the retry layer."""
    send = retry(Script(failures, clock), policy, timing(clock), RetryBudget(500), Emitter(hooks))
    return await send(a_request(**changes), CallState())


async def test_a_success_needs_no_retry() -> None:
    """The first response is returned, and nothing sleeps."""
    clock = FakeClock()

    assert await run([], RetryPolicy(), clock) is OK
    assert clock.sleeps == []


async def test_waits_double_up_to_their_bound() -> None:
    """The bound of the backoff doubles with each attempt up to its maximum."""
    clock = FakeClock()
    policy = RetryPolicy(attempts=7, wait_initial=0.5, wait_max=5.0)

    assert await run([ConnectError("refused")] * 6, policy, clock) is OK
    assert clock.sleeps == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


async def test_waits_are_spread_over_their_whole_range() -> None:
    """A backoff is anything from zero to its bound."""
    clock = FakeClock()
    send = retry(
        Script([ConnectError("refused")] * 3, clock),
        RetryPolicy(),
        timing(clock, fraction=0.0),
        RetryBudget(500),
    )

    await send(a_request(), CallState())
    assert clock.sleeps == [0.0, 0.0, 0.0]


async def test_large_numbers_of_attempts_do_not_overflow() -> None:
    """The thousandth backoff is still a number."""
    clock = FakeClock()
    policy = RetryPolicy(attempts=1200, wait_max=0.01)

    failures = [ConnectError("refused")] * 1199
    send = retry(Script(failures, clock), policy, timing(clock), RetryBudget(10**6))
    assert await send(a_request(), CallState()) is OK
    assert max(clock.sleeps) == 0.01


async def test_a_wait_the_server_asks_for_is_kept_and_spread() -> None:
    """The server's seconds are the minimum wait, with up to a quarter more."""
    clock = FakeClock()
    failures = [error_of(RateLimitError, 429, 4.0), error_of(ServerError, 503, 2.0)]

    assert await run(failures, RetryPolicy(), clock) is OK
    assert clock.sleeps == [5.0, 2.5]


async def test_a_key_in_flight_is_waited_for_as_the_server_asks() -> None:
    """While an attempt with the same key is in progress, the retry follows as the server asks."""
    clock = FakeClock()
    failures = [error_of(ConflictError, 409, 2.0, "idempotency_in_flight")] * 2

    assert await run(failures, RetryPolicy(), clock, retry_safety=RetrySafety.WITH_KEY) is OK
    assert clock.sleeps == [2.5, 2.5]


async def test_a_wait_that_is_too_long_is_not_started() -> None:
    """A `Retry-After` longer than the policy allows raises the error at once."""
    clock = FakeClock()
    failures = [error_of(RateLimitError, 429, 60.5)]

    with pytest.raises(RateLimitError, match=r"^status 429, attempts 1$"):
        await run(failures, RetryPolicy(retry_after_max=60.0, deadline=1000.0), clock)
    assert clock.sleeps == []


async def test_a_wait_that_does_not_fit_is_not_started() -> None:
    """A wait that would end after the deadline raises the error at once."""
    clock = FakeClock(100.0)
    state = CallState(deadline=104.9)
    send = retry(
        Script([error_of(RateLimitError, 429, 4.0)], clock),
        RetryPolicy(),
        timing(clock),
        RetryBudget(500),
    )

    with pytest.raises(RateLimitError):
        await send(a_request(), state)
    assert clock.sleeps == []


async def test_the_longest_wait_that_is_allowed_is_started() -> None:
    """A `Retry-After` of just what the policy allows is waited for."""
    clock = FakeClock()
    failures = [error_of(RateLimitError, 429, 60.0)]

    assert await run(failures, RetryPolicy(retry_after_max=60.0, deadline=1000.0), clock) is OK
    assert clock.sleeps == [75.0]


async def test_a_wait_that_takes_all_the_time_there_is_is_not_started() -> None:
    """A retry that would start at the deadline does not happen."""
    clock = FakeClock(100.0)
    state = CallState(deadline=105.0)
    failures = [error_of(RateLimitError, 429, 4.0)]
    send = retry(Script(failures, clock), RetryPolicy(), timing(clock), RetryBudget(500))

    with pytest.raises(RateLimitError):
        await send(a_request(), state)
    assert clock.sleeps == []


async def test_a_policy_that_waits_for_no_server_still_waits_for_itself() -> None:
    """The bound of `Retry-After` does not affect backoff without it."""
    clock = FakeClock()

    assert await run([ConnectError("refused")], RetryPolicy(retry_after_max=0.5), clock) is OK
    assert len(clock.sleeps) == 1


async def test_a_create_whose_response_was_lost_is_not_retried() -> None:
    """The retry safety of the request decides: the server may have processed it already."""
    clock = FakeClock()

    with pytest.raises(ConnectionLostError, match="attempts 1"):
        await run(
            [ConnectionLostError("reset")], RetryPolicy(), clock, retry_safety=RetrySafety.IF_UNSENT
        )
    assert clock.sleeps == []


async def test_every_retry_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """At level DEBUG, the log has the events that hooks receive."""
    caplog.set_level("DEBUG", logger="adapty_async")
    events: list[Event] = []
    await run([ConnectError("refused")], RetryPolicy(), FakeClock(), hooks=(events.append,))

    assert [record.getMessage() for record in caplog.records] == [str(event) for event in events]
    assert len(events) == 1


async def test_the_last_error_is_raised_with_its_attempts() -> None:
    """After the last attempt its error is raised unchanged, with the number of requests."""
    clock = FakeClock()
    failures = [ConnectError("refused"), ConnectionLostError("reset"), RequestTimeoutError("slow")]

    with pytest.raises(RequestTimeoutError, match=r"^slow, attempts 3$") as caught:
        await run(failures, RetryPolicy(attempts=3), clock)
    assert caught.value.attempts == 3


def paused() -> RateLimitError:
    """Return the error of a call whose deadline is within a pause."""
    error = RateLimitError("throttled (429) before", status=429)
    error.retry_after = 7200.0
    return error


@pytest.mark.parametrize(
    "unsent",
    [DeadlineError("no permit"), CircuitOpenError("the circuit is open"), paused()],
    ids=lambda error: type(error).__name__,
)
async def test_a_retry_that_gets_no_turn_has_the_failure_before_it_as_its_cause(
    unsent: AdaptyError,
) -> None:
    """The error is raised unchanged, with the number of attempts, and is not retried."""
    refused = ConnectError("refused")
    script = Script([refused], FakeClock())

    async def send(request: Request, state: CallState) -> Response:
        if state.attempts:
            raise unsent
        return await script(request, state)

    clock = FakeClock()
    with pytest.raises(type(unsent)) as caught:
        await retry(send, RetryPolicy(), timing(clock), RetryBudget(500))(a_request(), CallState())
    assert caught.value is unsent
    assert caught.value.__cause__ is refused
    assert caught.value.attempts == len(clock.sleeps) == 1


@pytest.mark.parametrize(
    ("changes", "attempts"),
    [
        pytest.param({"low_priority": True}, 4, id="item"),
        pytest.param(
            {"low_priority": True, "retry_safety": RetrySafety.IF_UNSENT}, 1, id="item, unsafe"
        ),
        pytest.param({}, 1, id="single call"),
    ],
)
async def test_an_item_that_meets_a_firewall_in_an_outage_is_retried_three_times(
    changes: dict[str, Any], attempts: int
) -> None:
    """It is no sign of the item's fault, unless it happens each time."""
    script = Script([error_of(ApiError, 403)] * 9, FakeClock())

    async def send(request: Request, state: CallState) -> Response:
        try:
            return await script(request, state)
        except ApiError:
            state.failed_in_outage()
            raise

    state = CallState()
    layer = retry(send, RetryPolicy(attempts=2), timing(FakeClock()), RetryBudget(500))
    with pytest.raises(ApiError):
        await layer(a_request(**changes), state)
    assert state.attempts == attempts


async def test_a_retry_that_is_throttled_has_no_cause_but_itself() -> None:
    """The server responded to it, so the failure before it does not explain the error."""
    failures = [ConnectError("refused"), paused()]

    with pytest.raises(RateLimitError) as caught:
        await run(failures, RetryPolicy(), FakeClock())
    assert caught.value.__cause__ is None
    assert caught.value.attempts == 2


async def test_one_attempt_never_retries() -> None:
    """A policy of one attempt raises the first error."""
    clock = FakeClock()

    with pytest.raises(ConnectError, match="attempts 1"):
        await run([ConnectError("refused")], RetryPolicy(attempts=1), clock)
    assert clock.sleeps == []


async def test_an_error_that_is_final_later_on_ends_the_loop() -> None:
    """A retry with a final failure raises it, without another retry."""
    clock = FakeClock()
    failures = [ConnectError("refused"), error_of(AuthenticationError, 401)]

    with pytest.raises(AuthenticationError, match="attempts 2"):
        await run(failures, RetryPolicy(), clock)


@pytest.mark.parametrize("before", [[], [ConnectError("refused")]], ids=["first attempt", "retry"])
@pytest.mark.parametrize(
    "foreign", [RuntimeError("a bug"), asyncio.CancelledError("enough")], ids=repr
)
async def test_what_is_no_error_of_ours_passes_untouched(
    before: list[BaseException], foreign: BaseException
) -> None:
    """A defect or a cancellation is neither retried nor wrapped."""
    with pytest.raises(type(foreign)) as caught:
        await run([*before, foreign], RetryPolicy(), FakeClock())

    assert caught.value is foreign


MISSING = error_of(NotFoundError, 404)


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param([ConnectionLostError("reset")], id="connection lost"),
        pytest.param([RequestTimeoutError("slow"), ConnectError("refused")], id="and refused"),
        pytest.param([error_of(ServerError, 502)], id="502"),
    ],
)
async def test_an_erasure_not_found_after_a_lost_response_has_worked(
    lost: list[Exception],
) -> None:
    """After an attempt that may have worked, "not found" is the proof that it did."""
    response = await run([*lost, MISSING], RetryPolicy(), FakeClock(), is_deletion=True)

    assert (response.status, response.headers, response.body) == (404, {}, b"")


@pytest.mark.parametrize(
    ("failures", "is_deletion"),
    [
        pytest.param([MISSING], True, id="first attempt"),
        pytest.param([ConnectError("refused"), MISSING], True, id="surely unsent before"),
        pytest.param([error_of(RateLimitError, 429), MISSING], True, id="throttled before"),
        pytest.param([ConnectionLostError("reset"), MISSING], False, id="no deletion"),
    ],
)
async def test_not_found_is_an_error_otherwise(
    failures: list[Exception],
    is_deletion: bool,  # noqa: FBT001
) -> None:
    """If no earlier attempt can have deleted it, a missing profile raises the error."""
    with pytest.raises(NotFoundError):
        await run(failures, RetryPolicy(), FakeClock(), is_deletion=is_deletion)


async def test_hooks_receive_every_retry() -> None:
    """Each retry is emitted with the attempt's number, wait, error class and status."""
    emitted: list[Event] = []
    failures = [ConnectionLostError("reset"), error_of(ServerError, 502)]

    await run(failures, RetryPolicy(), FakeClock(), hooks=(emitted.append,))
    assert emitted == [
        RetryScheduled("test.call", 1, 0.5, "ConnectionLostError", None),
        RetryScheduled("test.call", 2, 1.0, "ServerError", 502),
    ]


FAILURES = st.sampled_from([error for error, _, _ in TABLE if isinstance(error, AdaptyError)])
SECONDS = st.floats(0.001, 100.0)
POLICIES = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 8),
    deadline=SECONDS,
    wait_initial=SECONDS,
    wait_max=SECONDS,
    retry_after_max=SECONDS,
)


@given(
    policy=POLICIES,
    failures=st.lists(FAILURES, max_size=10),
    fraction=st.floats(0.0, 1.0),
    retry_safety=st.sampled_from(RetrySafety),
    seconds=SECONDS,
)
async def test_attempts_and_time_are_bounded_whatever_happens(
    policy: RetryPolicy,
    failures: list[Exception],
    fraction: float,
    retry_safety: RetrySafety,
    seconds: float,
) -> None:
    """No sequence of failures makes a call exceed its deadline or its attempts."""
    clock = FakeClock(1000.0)
    state = CallState(deadline=clock() + policy.deadline)
    send = retry(
        Script(failures, clock, seconds), policy, timing(clock, fraction), RetryBudget(500)
    )
    raised: AdaptyError | None = None

    try:
        await send(a_request(retry_safety=retry_safety), state)
    except AdaptyError as error:
        raised = error

    assert state.attempts <= policy.attempts
    assert clock() <= state.deadline
    assert len(clock.sleeps) == state.attempts - 1
    assert raised is None or raised.attempts == state.attempts


# The retry budget


async def spend(budget: RetryBudget, failures: list[BaseException], **changes: Any) -> list[float]:
    """Send one request that fails this many times, and return the waits."""
    clock = FakeClock()
    policy = RetryPolicy(attempts=9)
    await retry(Script(failures, clock), policy, timing(clock), budget)(
        a_request(**changes), CallState()
    )
    return clock.sleeps


async def test_a_retry_that_worked_gives_back_what_it_took() -> None:
    """After several retries only the last one's tokens are refunded; a first success earns one."""
    budget = RetryBudget(500)
    lost = ConnectionLostError("reset")
    await spend(budget, [lost])
    assert budget.left == 500
    await spend(budget, [lost, lost])
    assert budget.left == 500 - 14
    await spend(budget, [error_of(RateLimitError, 429), error_of(RateLimitError, 429)])
    assert budget.left == 500 - 14 - 5
    await spend(budget, [])
    assert budget.left == 500 - 14 - 5 + 1


async def test_nothing_is_retried_without_the_tokens_for_it() -> None:
    """With an empty budget, the error of the first attempt is raised at once."""
    budget = RetryBudget(20)
    lost = ConnectionLostError("reset")

    with pytest.raises(ConnectionLostError) as caught:
        await spend(budget, [lost, lost, lost])
    assert caught.value.attempts == 2
    assert budget.left == 6
    await spend(budget, [error_of(RateLimitError, 429)])
    with pytest.raises(ConnectionLostError):
        await spend(RetryBudget(13), [lost])


async def test_items_of_bulk_runs_are_retried_without_tokens_too() -> None:
    """They acquire the tokens that are left, and have other bounds."""
    budget = RetryBudget(20)
    lost = ConnectionLostError("reset")

    assert len(await spend(budget, [lost, lost, lost], low_priority=True)) == 3
    assert budget.left == 0


class Throttling(Script):
    """A `Layer` that counts 429 responses as the check layer does."""

    async def __call__(self, request: Request, state: CallState) -> Response:
        """Fail or succeed."""
        try:
            return await super().__call__(request, state)
        except RateLimitError:
            state.attempt_throttled()
            raise


async def test_a_throttled_item_of_a_bulk_run_goes_back_three_times_for_nothing() -> None:
    """Three 429 responses are no attempts of the item, nor bound by its deadline; others are."""
    clock = FakeClock()

    async def attempts(failures: int, asked: float) -> tuple[int, list[float]]:
        clock.sleeps.clear()
        state = CallState(deadline=clock.now + 4.0)
        script = Throttling([error_of(RateLimitError, 429, asked)] * failures, clock)
        policy = RetryPolicy(attempts=2)
        send = retry(script, policy, timing(clock, 0.0), RetryBudget(500))
        await send(a_request(low_priority=True), state)
        return state.attempts, clock.sleeps

    assert await attempts(3, 5.0) == (4, [5.0] * 3)
    _, sleeps = await attempts(3, 10_000.0)
    assert sleeps == [60.0] * 3  # beyond that, the bucket limiter waits
    assert await attempts(4, 0.5) == (5, [0.5] * 4)
    for failures, asked in ((5, 0.5), (4, 5.0)):
        with pytest.raises(RateLimitError):
            await attempts(failures, asked)


async def test_a_throttled_item_that_goes_back_costs_the_budget_nothing_and_earns_nothing() -> None:
    """Tokens that were not acquired are not refunded."""
    clock = FakeClock()
    budget = RetryBudget(500)
    budget.try_acquire(100)
    script = Throttling([error_of(RateLimitError, 429)], clock)

    await retry(script, RetryPolicy(), timing(clock), budget)(
        a_request(low_priority=True), CallState()
    )
    assert budget.left == 400


async def test_an_attempt_in_a_known_outage_is_none_of_an_items() -> None:
    """An item that is sent as a probe has all its attempts after that."""
    clock = FakeClock()

    class Down(Script):
        """A `Layer` that records outage failures as the bucket limiter does."""

        async def __call__(self, request: Request, state: CallState) -> Response:
            """Fail or succeed."""
            try:
                return await super().__call__(request, state)
            except ServerError:
                state.failed_in_outage()
                raise

    for low_priority, attempts in ((True, 5), (False, 2)):
        state = CallState()
        script = Down([error_of(ServerError, 500)] * 4, clock)
        send = retry(script, RetryPolicy(attempts=2), timing(clock, 0.0), RetryBudget(500))
        with contextlib.suppress(ServerError):
            await send(a_request(low_priority=low_priority), state)
        assert state.attempts == attempts
