"""What is sent again and when: the table, and the loop on a clock that never waits."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async._api.operation import Request, Response, RetrySafety
from adapty_async._flow.circuit_breaker import RetryBudget
from adapty_async._pipeline.retry import may_have_worked, may_retry, retry
from adapty_async._runtime.clock import Timing
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
    InvalidInputError,
    JournalError,
    NotFoundError,
    RateLimitError,
    RequestRejectedError,
    RequestTimeoutError,
    ServerError,
    TransportError,
)
from adapty_async.hooks import Event, RetryScheduled
from adapty_async.testing import FakeClock
from tests._support import ERROR_CLASSES, a_request

OK = Response(200, {}, b"{}")


def answered(
    kind: type[ApiError | DecodeError],
    status: int,
    retry_after: float | None = None,
    code: str | None = None,
) -> AdaptyError:
    """Return the error of an answer."""
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
    # the error, whether to repeat by replay class, whether the server may have acted
    (ConnectError("refused"), ALL, NO),
    (ConnectError("certificate", permanent=True), NONE, NO),
    (RequestTimeoutError("no answer"), UNLESS_UNSENT, YES),
    (ConnectionLostError("reset"), UNLESS_UNSENT, YES),
    (TransportError("some other"), NONE, NO),
    (answered(RateLimitError, 429), ALL, NO),
    (answered(RateLimitError, 429, 1.0), ALL, NO),
    (answered(RateLimitError, 400), ALL, NO),
    (answered(ServerError, 500), UNLESS_UNSENT, YES),
    (answered(ServerError, 500, 1.0), UNLESS_UNSENT, YES),
    (answered(ServerError, 501), NONE, YES),
    (answered(ServerError, 505), NONE, YES),
    *((answered(ServerError, status), UNLESS_UNSENT, YES) for status in range(520, 531)),
    (answered(ServerError, 502), UNLESS_UNSENT, YES),
    (answered(ServerError, 503), UNLESS_UNSENT, YES),
    (answered(ServerError, 503, 0.0), ALL, NO),
    (answered(ServerError, 504), UNLESS_UNSENT, YES),
    (answered(ServerError, 599), UNLESS_UNSENT, YES),
    (answered(RequestRejectedError, 400), NONE, NO),
    (answered(RequestRejectedError, 408), UNLESS_UNSENT, YES),
    (answered(RequestRejectedError, 425), UNLESS_UNSENT, NO),
    (answered(RequestRejectedError, 302), NONE, NO),
    (answered(AuthenticationError, 401), NONE, NO),
    (answered(AuthenticationError, 403), NONE, NO),
    (answered(NotFoundError, 404), NONE, NO),
    (answered(ConflictError, 409), NONE, NO),
    (answered(ConflictError, 409, 1.0, "duplicate_source_transaction"), NONE, NO),
    (answered(ConflictError, 409, None, "idempotency_in_flight"), UNLESS_UNSENT, YES),
    (answered(ApiError, 418), NONE, NO),
    (answered(DecodeError, 200), NONE, YES),
    (AdaptyError("x"), NONE, NO),
    (ConfigError("x"), NONE, NO),
    (InvalidInputError("x", "y"), NONE, NO),
    (DeadlineError("x"), NONE, NO),
    (CircuitOpenError("x"), NONE, NO),
    (JournalError("x"), NONE, NO),
    (ValueError("x"), NONE, NO),
    (KeyboardInterrupt(), NONE, NO),
]


def test_the_table_is_complete() -> None:
    """Every class of error has a row, and every row a column for every replay class."""
    assert {type(error) for error, _, _ in TABLE} >= set(ERROR_CLASSES)
    assert all(columns.keys() == set(RetrySafety) for _, columns, _ in TABLE)


@pytest.mark.parametrize("replay", RetrySafety)
@pytest.mark.parametrize(
    ("error", "columns"),
    [pytest.param(error, columns, id=repr(error)) for error, columns, _ in TABLE],
)
def test_what_may_be_sent_again(
    replay: RetrySafety, error: BaseException, columns: dict[RetrySafety, bool]
) -> None:
    """Whether a request is repeated depends on its replay class and its error, as in the table."""
    assert may_retry(replay, error) is columns[replay]


@pytest.mark.parametrize(
    ("error", "expected"),
    [pytest.param(error, worked, id=repr(error)) for error, _, worked in TABLE],
)
def test_what_may_have_worked(error: BaseException, expected: bool) -> None:  # noqa: FBT001
    """Whether the server may have acted depends on the error, as in the table."""
    assert may_have_worked(error) is expected


class Script:
    """A `Send` that fails as told and then succeeds; every attempt takes its time."""

    def __init__(
        self, failures: Iterable[BaseException], clock: FakeClock, seconds: float = 0.0
    ) -> None:
        self._failures = iter(failures)
        self._clock = clock
        self._seconds = seconds

    async def __call__(self, request: Request) -> Response:
        """Fail or succeed; like the transport, never later than the call's deadline."""
        request.state.attempts += 1
        self._clock.now = min(self._clock.now + self._seconds, request.state.deadline)
        failure = next(self._failures, None)
        if failure is not None:
            raise failure
        return OK


def timing(clock: FakeClock, fraction: float = 1.0) -> Timing:
    """Return a timing by that clock whose random numbers stand so far between their bounds."""
    return Timing(clock, clock.sleep, lambda low, high: low + (high - low) * fraction)


async def run(
    failures: Iterable[BaseException],
    policy: RetryPolicy,
    clock: FakeClock,
    hooks: tuple[Any, ...] = (),
    **changes: Any,
) -> Response:
    """Send one request through the retry layer."""
    send = retry(Script(failures, clock), policy, timing(clock), RetryBudget(500), hooks)
    return await send(a_request(**changes))


async def test_a_success_needs_no_repeat() -> None:
    """The first answer is handed on, and nothing sleeps."""
    clock = FakeClock()

    assert await run([], RetryPolicy(), clock) is OK
    assert clock.sleeps == []


async def test_waits_double_up_to_their_bound() -> None:
    """The bound of the wait doubles with each attempt until it reaches the longest one."""
    clock = FakeClock()
    policy = RetryPolicy(attempts=7, wait_initial=0.5, wait_max=5.0)

    assert await run([ConnectError("refused")] * 6, policy, clock) is OK
    assert clock.sleeps == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


async def test_waits_are_spread_over_their_whole_range() -> None:
    """A wait may be anything from zero to its bound."""
    clock = FakeClock()
    send = retry(
        Script([ConnectError("refused")] * 3, clock),
        RetryPolicy(),
        timing(clock, fraction=0.0),
        RetryBudget(500),
    )

    await send(a_request())
    assert clock.sleeps == [0.0, 0.0, 0.0]


async def test_very_many_attempts_do_not_overflow() -> None:
    """The thousandth wait is still a number."""
    clock = FakeClock()
    policy = RetryPolicy(attempts=1200, wait_max=0.01)

    failures = [ConnectError("refused")] * 1199
    send = retry(Script(failures, clock), policy, timing(clock), RetryBudget(10**6))
    assert await send(a_request()) is OK
    assert max(clock.sleeps) == 0.01


async def test_a_wait_the_server_asks_for_is_kept_and_spread() -> None:
    """The server's seconds are the least that is waited, with up to a quarter more."""
    clock = FakeClock()
    failures = [answered(RateLimitError, 429, 4.0), answered(ServerError, 503, 2.0)]

    assert await run(failures, RetryPolicy(), clock) is OK
    assert clock.sleeps == [5.0, 2.5]


async def test_a_key_in_flight_is_waited_for_as_the_server_asks() -> None:
    """While an attempt with the same key is worked on, the next one comes when it is told to."""
    clock = FakeClock()
    failures = [answered(ConflictError, 409, 2.0, "idempotency_in_flight")] * 2

    assert await run(failures, RetryPolicy(), clock, retry_safety=RetrySafety.WITH_KEY) is OK
    assert clock.sleeps == [2.5, 2.5]


async def test_a_wait_that_is_too_long_is_not_begun() -> None:
    """A server that asks for more than the policy allows is not waited for."""
    clock = FakeClock()
    failures = [answered(RateLimitError, 429, 60.5)]

    with pytest.raises(RateLimitError, match=r"^status 429, attempts 1$"):
        await run(failures, RetryPolicy(retry_after_max=60.0, deadline=1000.0), clock)
    assert clock.sleeps == []


async def test_a_wait_that_does_not_fit_is_not_begun() -> None:
    """What would end after the deadline is raised at once."""
    clock = FakeClock(100.0)
    request = a_request()
    request.state.deadline = 104.9
    send = retry(
        Script([answered(RateLimitError, 429, 4.0)], clock),
        RetryPolicy(),
        timing(clock),
        RetryBudget(500),
    )

    with pytest.raises(RateLimitError):
        await send(request)
    assert clock.sleeps == []


async def test_the_longest_wait_that_is_allowed_is_begun() -> None:
    """A server that asks for just what the policy allows is waited for."""
    clock = FakeClock()
    failures = [answered(RateLimitError, 429, 60.0)]

    assert await run(failures, RetryPolicy(retry_after_max=60.0, deadline=1000.0), clock) is OK
    assert clock.sleeps == [75.0]


async def test_a_wait_that_takes_all_the_time_there_is_is_not_begun() -> None:
    """A repeat that would begin with the deadline is none: there is no time for it."""
    clock = FakeClock(100.0)
    request = a_request()
    request.state.deadline = 105.0
    failures = [answered(RateLimitError, 429, 4.0)]
    send = retry(Script(failures, clock), RetryPolicy(), timing(clock), RetryBudget(500))

    with pytest.raises(RateLimitError):
        await send(request)
    assert clock.sleeps == []


async def test_a_policy_that_waits_for_no_server_still_waits_for_itself() -> None:
    """How long a server may ask for says nothing of waits that none asked for."""
    clock = FakeClock()

    assert await run([ConnectError("refused")], RetryPolicy(retry_after_max=0.5), clock) is OK
    assert len(clock.sleeps) == 1


async def test_a_create_whose_answer_was_lost_is_not_repeated() -> None:
    """The replay class of the request decides: it may have worked, and must not be done twice."""
    clock = FakeClock()

    with pytest.raises(ConnectionLostError, match="attempts 1"):
        await run(
            [ConnectionLostError("reset")], RetryPolicy(), clock, retry_safety=RetrySafety.IF_UNSENT
        )
    assert clock.sleeps == []


async def test_every_repeat_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """At level DEBUG, what was told to hooks can be read."""
    caplog.set_level("DEBUG", logger="adapty_async")
    events: list[Event] = []
    await run([ConnectError("refused")], RetryPolicy(), FakeClock(), hooks=(events.append,))

    assert [record.getMessage() for record in caplog.records] == [str(event) for event in events]
    assert len(events) == 1


async def test_the_last_error_is_raised_with_its_attempts() -> None:
    """When the attempts are used up the last error comes out as it is, counting the requests."""
    clock = FakeClock()
    failures = [ConnectError("refused"), ConnectionLostError("reset"), RequestTimeoutError("slow")]

    with pytest.raises(RequestTimeoutError, match=r"^slow, attempts 3$") as caught:
        await run(failures, RetryPolicy(attempts=3), clock)
    assert caught.value.attempts == 3


def paused() -> RateLimitError:
    """Return the error of a call that a pause leaves no time: longer than the call may take."""
    error = RateLimitError("throttled (429) before", status=429)
    error.retry_after = 7200.0
    return error


@pytest.mark.parametrize(
    "unsent",
    [DeadlineError("no turn"), CircuitOpenError("the service is down"), paused()],
    ids=lambda error: type(error).__name__,
)
async def test_a_retry_that_gets_no_turn_has_the_failure_before_it_as_its_cause(
    unsent: AdaptyError,
) -> None:
    """It is raised as it is, with the attempts that were made, and is not retried itself."""
    refused = ConnectError("refused")
    script = Script([refused], FakeClock())

    async def send(request: Request) -> Response:
        if request.state.attempts:
            raise unsent
        return await script(request)

    clock = FakeClock()
    with pytest.raises(type(unsent)) as caught:
        await retry(send, RetryPolicy(), timing(clock), RetryBudget(500))(a_request())
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
    """That says nothing of the item, unless it happens each time."""
    script = Script([answered(ApiError, 403)] * 9, FakeClock())

    async def send(request: Request) -> Response:
        try:
            return await script(request)
        except ApiError:
            request.state.outage_failures += 1
            raise

    request = a_request(**changes)
    with pytest.raises(ApiError):
        await retry(send, RetryPolicy(attempts=2), timing(FakeClock()), RetryBudget(500))(request)
    assert request.state.attempts == attempts


async def test_a_retry_that_is_throttled_has_no_cause_but_itself() -> None:
    """The server responded to it, so the failure before it does not explain the error."""
    failures = [ConnectError("refused"), paused()]

    with pytest.raises(RateLimitError) as caught:
        await run(failures, RetryPolicy(), FakeClock())
    assert caught.value.__cause__ is None
    assert caught.value.attempts == 2


async def test_one_attempt_never_repeats() -> None:
    """A policy of one attempt raises the first error."""
    clock = FakeClock()

    with pytest.raises(ConnectError, match="attempts 1"):
        await run([ConnectError("refused")], RetryPolicy(attempts=1), clock)
    assert clock.sleeps == []


async def test_an_error_that_is_final_later_on_ends_the_loop() -> None:
    """A repeat that fails for good is raised, not repeated."""
    clock = FakeClock()
    failures = [ConnectError("refused"), answered(AuthenticationError, 401)]

    with pytest.raises(AuthenticationError, match="attempts 2"):
        await run(failures, RetryPolicy(), clock)


@pytest.mark.parametrize("before", [[], [ConnectError("refused")]], ids=["first attempt", "repeat"])
@pytest.mark.parametrize(
    "foreign", [RuntimeError("a bug"), asyncio.CancelledError("enough")], ids=repr
)
async def test_what_is_no_error_of_ours_passes_untouched(
    before: list[BaseException], foreign: BaseException
) -> None:
    """A defect or a cancellation is neither repeated nor wrapped."""
    with pytest.raises(type(foreign)) as caught:
        await run([*before, foreign], RetryPolicy(), FakeClock())

    assert caught.value is foreign


MISSING = answered(NotFoundError, 404)


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param([ConnectionLostError("reset")], id="connection lost"),
        pytest.param([RequestTimeoutError("slow"), ConnectError("refused")], id="and refused"),
        pytest.param([answered(ServerError, 502)], id="502"),
    ],
)
async def test_an_erasure_not_found_after_a_lost_answer_has_worked(
    lost: list[Exception],
) -> None:
    """After an attempt that may have worked, "not found" is the proof that it did."""
    response = await run([*lost, MISSING], RetryPolicy(), FakeClock(), erases=True)

    assert (response.status, response.headers, response.body) == (404, {}, b"")


@pytest.mark.parametrize(
    ("failures", "erases"),
    [
        pytest.param([MISSING], True, id="first attempt"),
        pytest.param([ConnectError("refused"), MISSING], True, id="surely unsent before"),
        pytest.param([answered(RateLimitError, 429), MISSING], True, id="throttled before"),
        pytest.param([ConnectionLostError("reset"), MISSING], False, id="no erasure"),
    ],
)
async def test_not_found_is_an_error_otherwise(
    failures: list[Exception],
    erases: bool,  # noqa: FBT001
) -> None:
    """Where no earlier attempt can have erased it, a missing profile is missing."""
    with pytest.raises(NotFoundError):
        await run(failures, RetryPolicy(), FakeClock(), erases=erases)


async def test_hooks_are_told_of_every_repeat() -> None:
    """Each failed attempt that is repeated is told with its number, wait, class and status."""
    told: list[Event] = []
    failures = [ConnectionLostError("reset"), answered(ServerError, 502)]

    await run(failures, RetryPolicy(), FakeClock(), hooks=(told.append,))
    assert told == [
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
    replay=st.sampled_from(RetrySafety),
    seconds=SECONDS,
)
async def test_attempts_and_time_are_bounded_whatever_happens(
    policy: RetryPolicy,
    failures: list[Exception],
    fraction: float,
    replay: RetrySafety,
    seconds: float,
) -> None:
    """No course of failures makes a call longer than its deadline or its attempts."""
    clock = FakeClock(1000.0)
    request = a_request(retry_safety=replay)
    request.state.deadline = clock() + policy.deadline
    send = retry(
        Script(failures, clock, seconds), policy, timing(clock, fraction), RetryBudget(500)
    )
    raised: AdaptyError | None = None

    try:
        await send(request)
    except AdaptyError as error:
        raised = error

    assert request.state.attempts <= policy.attempts
    assert clock() <= request.state.deadline
    assert len(clock.sleeps) == request.state.attempts - 1
    assert raised is None or raised.attempts == request.state.attempts


# The budget


async def spend(budget: RetryBudget, failures: list[BaseException], **changes: Any) -> list[float]:
    """Send one request that fails so often, and return the waits."""
    clock = FakeClock()
    policy = RetryPolicy(attempts=9)
    await retry(Script(failures, clock), policy, timing(clock), budget)(a_request(**changes))
    return clock.sleeps


async def test_a_repeat_that_worked_gives_back_what_it_took() -> None:
    """Of several repeats only the last one's tokens come back, and a first success earns one."""
    budget = RetryBudget(500)
    lost = ConnectionLostError("reset")
    await spend(budget, [lost])
    assert budget.left == 500
    await spend(budget, [lost, lost])
    assert budget.left == 500 - 14
    await spend(budget, [answered(RateLimitError, 429), answered(RateLimitError, 429)])
    assert budget.left == 500 - 14 - 5
    await spend(budget, [])
    assert budget.left == 500 - 14 - 5 + 1


async def test_nothing_is_repeated_without_the_tokens_for_it() -> None:
    """When the budget is used up, the error of the first attempt is raised at once."""
    budget = RetryBudget(20)
    lost = ConnectionLostError("reset")

    with pytest.raises(ConnectionLostError) as caught:
        await spend(budget, [lost, lost, lost])
    assert caught.value.attempts == 2
    assert budget.left == 6
    await spend(budget, [answered(RateLimitError, 429)])
    with pytest.raises(ConnectionLostError):
        await spend(RetryBudget(13), [lost])


async def test_items_of_bulk_runs_are_repeated_without_tokens_too() -> None:
    """They take what is there, and have other bounds."""
    budget = RetryBudget(20)
    lost = ConnectionLostError("reset")

    assert len(await spend(budget, [lost, lost, lost], low_priority=True)) == 3
    assert budget.left == 0


class Throttling(Script):
    """Counts answers 429 as the check does."""

    async def __call__(self, request: Request) -> Response:
        """Fail or succeed."""
        try:
            return await super().__call__(request)
        except RateLimitError:
            request.state.throttled += 1
            raise


async def test_a_throttled_item_of_a_bulk_run_goes_back_three_times_for_nothing() -> None:
    """
    Three answers 429 are no attempts of the item, and its clock starts anew; further ones are.
    """
    clock = FakeClock()

    async def attempts(failures: int, asked: float) -> tuple[Request, list[float]]:
        clock.sleeps.clear()
        request = a_request(low_priority=True)
        request.state.deadline = clock.now + 60.0
        script = Throttling([answered(RateLimitError, 429, asked)] * failures, clock)
        policy = RetryPolicy(attempts=2)
        await retry(script, policy, timing(clock, 0.0), RetryBudget(500))(request)
        return request, clock.sleeps

    request, sleeps = await attempts(3, 5.0)
    assert (request.state.attempts, request.state.deadline) == (4, math.inf)
    assert sleeps == [5.0] * 3
    _, sleeps = await attempts(3, 10_000.0)
    assert sleeps == [60.0] * 3  # beyond that it is the gate that waits
    request, _ = await attempts(4, 5.0)
    assert request.state.attempts == 5
    with pytest.raises(RateLimitError):
        await attempts(5, 5.0)


async def test_a_throttled_item_that_goes_back_costs_the_budget_nothing_and_earns_nothing() -> None:
    """What was not paid for is not given back either."""
    clock = FakeClock()
    budget = RetryBudget(500)
    budget.try_acquire(100)
    script = Throttling([answered(RateLimitError, 429)], clock)

    await retry(script, RetryPolicy(), timing(clock), budget)(a_request(low_priority=True))
    assert budget.left == 400


async def test_an_attempt_in_a_known_outage_is_none_of_an_items() -> None:
    """An item that is sent to see whether the service is back has all its attempts after that."""
    clock = FakeClock()

    class Down(Script):
        """Excuses failures as the gate does in an outage."""

        async def __call__(self, request: Request) -> Response:
            """Fail or succeed."""
            try:
                return await super().__call__(request)
            except ServerError:
                request.state.outage_failures += 1
                raise

    for background, attempts in ((True, 5), (False, 2)):
        request = a_request(low_priority=background)
        script = Down([answered(ServerError, 500)] * 4, clock)
        send = retry(script, RetryPolicy(attempts=2), timing(clock, 0.0), RetryBudget(500))
        with contextlib.suppress(ServerError):
            await send(request)
        assert request.state.attempts == attempts
