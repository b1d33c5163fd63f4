"""The composed layers, the events of hooks, values per event loop, and the fakes themselves."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import itertools
from collections.abc import Awaitable, Iterable

import msgspec
import pytest

from adapty_async._api.call import (
    CallState,
    Headers,
    Layer,
    Middleware,
    Operation,
    Request,
    Response,
    Send,
)
from adapty_async._api.codec import RequestDefaults
from adapty_async._bulk.executor import BulkExecutor
from adapty_async._flow.circuit_breaker import RetryBudget
from adapty_async._flow.limits import LimiterRegistry, RunLimits
from adapty_async._flow.queues import ConnectionSemaphore
from adapty_async._flow.rate_limiter import FixedRateLimiter
from adapty_async._pipeline.layers import (
    CallOptions,
    PipelineConfig,
    build,
    check,
    with_middleware,
    without_state,
)
from adapty_async._pipeline.observe import Emitter, observe
from adapty_async._runtime.loop import LoopLocal, Timing
from adapty_async.bulk import OutcomeStatus
from adapty_async.config import RetryPolicy
from adapty_async.errors import (
    AdaptyError,
    ConfigError,
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    DecodeError,
    JournalError,
    NotFoundError,
    RateLimitError,
    ServerError,
)
from adapty_async.hooks import AttemptEnded, CallEnded, CallStarted, Event, Hook, RetryScheduled
from adapty_async.testing import FakeClock, FakeTransport, Reply
from adapty_async.v1 import GET_PROFILE
from tests._support import ERASE, a_request, begin_at, unwritten

DELETED: Reply = (204, {}, b"")
CALL = (1, "DELETE", "example.com")  # its number, method and host
MISSING: Reply = (404, {}, b'{"errors":[],"error_code":"profile_does_not_exist","status_code":404}')


def layers(
    transport: Send,
    clock: FakeClock,
    hooks: tuple[Hook, ...] = (),
    rate_limiter: FixedRateLimiter | None = None,
) -> PipelineConfig:
    """Return layers whose backoff always has its maximum length."""
    timing = Timing(clock, clock.sleep, lambda _low, high: high)
    return PipelineConfig(
        transport=unwritten(transport),
        connections=LoopLocal(lambda: ConnectionSemaphore(1, clock)),
        timing=timing,
        limiters=LimiterRegistry(timing, rate_limiter),
        budget=RetryBudget(500),
        emitter=Emitter(hooks) if hooks else None,
    )


def caller(
    transport: FakeTransport, clock: FakeClock, hooks: tuple[Hook, ...] = ()
) -> BulkExecutor:
    """Return an executor with default options over that transport and clock."""
    defaults = RequestDefaults(origin="https://example.com", headers=Headers(Authorization="x"))
    options = CallOptions(defaults=defaults, retry=RetryPolicy(), timeout=30.0)
    return BulkExecutor(layers(transport, clock, hooks), options)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
async def test_a_success_passes_the_check(status: int) -> None:
    """Every status from 200 to 299 is a success, and the attempt is counted."""
    state = CallState()
    send = check(unwritten(FakeTransport([(status, {}, b"x")])))
    response = await send(a_request(), state)

    assert (response.status, response.body) == (status, b"x")
    assert (state.attempts, state.throttled) == (1, 0)


@pytest.mark.parametrize(
    ("status", "throttled"), [(199, 0), (300, 0), (404, 0), (429, 1), (500, 0)]
)
async def test_anything_else_is_an_error(status: int, throttled: int) -> None:
    """Other responses are raised, and the throttled ones are counted."""
    state = CallState()

    with pytest.raises(Exception, match=f"^status {status}") as caught:
        await check(unwritten(FakeTransport([(status, {}, b"")])))(a_request(), state)
    assert vars(caught.value)["operation"] == "test.call"
    assert (state.attempts, state.throttled) == (1, throttled)


@pytest.mark.parametrize(
    "body", [b"<!DOCTYPE html>", b"\r\n <html>", b"\xef\xbb\xbf<?xml version='1.0'?>"]
)
async def test_a_page_is_no_success(body: bytes) -> None:
    """The API sends JSON or nothing, so an HTML page is from another server at any status."""
    state = CallState()

    with pytest.raises(DecodeError, match=r"^status 200, unreadable response \(a page\)") as caught:
        await check(unwritten(FakeTransport([(200, {}, body)])))(a_request(), state)
    assert (caught.value.operation, caught.value.body) == ("test.call", body)
    assert (state.attempts, state.on_wire) == (1, False)


async def test_an_attempt_is_counted_even_if_no_response_comes() -> None:
    """A request whose response is lost counts as an attempt."""
    state = CallState()

    with pytest.raises(ConnectionLostError, match="reset"):
        await check(unwritten(FakeTransport([ConnectionLostError("reset")])))(a_request(), state)
    assert state.attempts == 1


class Entries:
    """
    Write-ahead entries in memory.

    Attributes:
        seen: what was recorded, each with the number of requests sent by then.
    """

    def __init__(self, transport: FakeTransport, failure: JournalError | None = None) -> None:
        self._transport = transport
        self._failure = failure
        self.seen: list[tuple[str, int]] = []

    def _record(self, what: str) -> None:
        self.seen.append((what, len(self._transport.requests)))

    def begin(self) -> Awaitable[None]:
        """Append the entry after a loop iteration."""
        self._record("asked")
        return self._begin()

    async def _begin(self) -> None:
        await asyncio.sleep(0)
        if self._failure is not None:
            raise self._failure
        self._record("begun")

    def retract(self) -> None:
        """Record that an attempt was rejected."""
        self._record("refused")

    def call(self) -> CallState:
        """Return the state of a call that has its entry here."""
        return CallState(on_first_send=self.begin, on_refusal=self.retract)


THROTTLED: Reply = (429, {}, b"")


@pytest.mark.parametrize(
    ("reply", "again"),
    [
        pytest.param((500, {}, b""), [], id="perhaps processed"),
        pytest.param(THROTTLED, [("refused", 1), ("asked", 1), ("begun", 1)], id="throttled"),
        pytest.param(
            ConnectError("nobody listens"),
            [("refused", 1), ("asked", 1), ("begun", 1)],
            id="not connected",
        ),
    ],
)
async def test_an_attempt_has_its_write_ahead_entry_before_it_is_sent(
    reply: Reply, again: list[tuple[str, int]]
) -> None:
    """The request waits for the entry; a retry has a new one if the attempt before was rejected."""
    clock = FakeClock()
    transport = FakeTransport([reply, DELETED])
    entries = Entries(transport)
    rate_limiter = FixedRateLimiter(1.0, 1, clock)
    rate_limiter.acquire()
    config = layers(transport, clock, rate_limiter=rate_limiter)
    await build(config, RetryPolicy(), RunLimits())(a_request(), entries.call())

    assert entries.seen == [("asked", 0), ("begun", 0), *again]
    assert clock.sleeps[0] == 1.0
    assert len(transport.requests) == 2


async def test_a_request_is_not_sent_if_its_write_ahead_entry_fails() -> None:
    """The request does not count as an attempt, and its permit is free again."""
    transport = FakeTransport([DELETED])
    config = layers(transport, FakeClock())
    state = Entries(transport, JournalError("full")).call()
    with pytest.raises(JournalError, match="full"):
        await build(config, RetryPolicy(), RunLimits())(a_request(), state)

    assert (transport.requests, state.attempts) == ([], 0)
    assert config.connections.get().available == 1
    assert config.limiters.get("test").in_flight == 0


@pytest.mark.parametrize(
    ("reply", "attempts", "on_wire"),
    [
        pytest.param(DELETED, 1, False, id="response"),
        pytest.param(THROTTLED, 1, False, id="error response"),
        pytest.param(ConnectionLostError("reset"), 1, False, id="no response"),
        pytest.param(asyncio.CancelledError(), 1, True, id="cancelled"),
    ],
)
async def test_a_transport_of_the_callers_has_a_request_on_the_wire_until_it_ends(
    reply: Reply,
    attempts: int,
    on_wire: bool,  # noqa: FBT001  a case
) -> None:
    """The transport does not report when it writes; a cancelled request stays on the wire."""
    seen: list[bool] = []
    replies = FakeTransport([reply])

    async def transport(request: Request) -> Response:
        seen.append(state.on_wire)
        return await replies(request)

    state = CallState()
    with contextlib.suppress(AdaptyError, asyncio.CancelledError):
        await check(without_state(transport))(a_request(), state)
    assert seen == [True]
    assert (state.attempts, state.on_wire) == (attempts, on_wire)


def respond(request: Request) -> Response:
    """Return a 429 as HTTP/2 and many libraries write it, with names in lower case."""
    return Response(429, {"retry-after": "7", "request-id": "r-1"}, b"")


async def transport_in_lower_case(request: Request) -> Response:
    """Return the 429 as a transport."""
    return respond(request)


async def middleware_in_lower_case(request: Request, send: Send) -> Response:
    """Return the 429 as a middleware, in place of the server's response."""
    await send(request)
    return respond(request)


@pytest.mark.parametrize(
    "send",
    [
        pytest.param(without_state(transport_in_lower_case), id="transport"),
        pytest.param(
            with_middleware(
                unwritten(FakeTransport(itertools.repeat(DELETED))), middleware_in_lower_case
            ),
            id="middleware",
        ),
    ],
)
async def test_header_names_of_a_response_may_be_in_any_case(send: Layer) -> None:
    """A pause and a request id are found in what a caller's transport or middleware returns."""
    with pytest.raises(RateLimitError) as caught:
        await check(send)(a_request(), CallState())

    assert (caught.value.retry_after, caught.value.request_id) == (7.0, "r-1")


async def test_every_attempt_takes_its_turn_and_holds_no_permit_while_waiting() -> None:
    """A retry is rate limited as a first attempt is, and one permit is enough for both."""
    clock = FakeClock()
    transport = FakeTransport([(500, {}, b""), (429, {"retry-after": "4"}, b""), DELETED])
    rate_limiter = FixedRateLimiter(0.5, 1, clock)
    send = build(layers(transport, clock, rate_limiter=rate_limiter), RetryPolicy())

    assert (await send(a_request(), CallState())).status == 204
    # the backoff, then the permit; the requested wait is longer than the wait for the permit
    assert clock.sleeps == [0.5, 1.5, 5.0]
    assert len(transport.requests) == 3


async def test_a_call_has_one_deadline_for_everything() -> None:
    """One deadline covers queueing, attempts and backoff."""
    clock = FakeClock(100.0)
    deadlines: list[float] = []
    send = unwritten(FakeTransport(itertools.repeat((500, {}, b""))))

    async def transport(request: Request, state: CallState) -> Response:
        deadlines.append(state.deadline)
        return await send(request, state)

    config = msgspec.structs.replace(layers(FakeTransport(), clock), transport=transport)
    with pytest.raises(ServerError, match=r"operation test.erase, attempts"):
        await BulkExecutor(config, options(30.0)).execute(Operation(ERASE))
    assert set(deadlines) == {160.0}
    assert clock() < 160.0


async def test_hooks_receive_the_course_of_a_call() -> None:
    """Every hook receives the start, the attempts, the retries and the end of a call, in order."""
    emitted: list[Event] = []
    also: list[Event] = []
    clock = FakeClock()
    transport = FakeTransport([ConnectError("refused"), DELETED])

    await caller(transport, clock, (emitted.append, also.append)).execute(Operation(ERASE))
    assert emitted == also
    assert emitted == [
        CallStarted("test.erase", *CALL),
        AttemptEnded("test.erase", *CALL, 1, 0.0, None, None, "ConnectError"),
        RetryScheduled("test.erase", 1, 0.5, "ConnectError", None, 1),
        AttemptEnded("test.erase", *CALL, 2, 0.0, 204, None, None),
        CallEnded("test.erase", 2, 0.5, 204, None, *CALL),
    ]


async def test_events_have_the_id_of_the_request_and_the_number_of_the_call() -> None:
    """The server's id of a request is in the end of its attempt and of the call; calls count up."""
    emitted: list[Event] = []
    body = b'{"errors":[],"error_code":"profile_does_not_exist","status_code":404}'
    replies: list[Reply] = [(204, {"request-id": "r1"}, b""), (404, {"request-id": "r2"}, body)]
    executor = caller(FakeTransport(replies), FakeClock(), (emitted.append,))
    await executor.execute(Operation(ERASE))
    with pytest.raises(NotFoundError):
        await executor.execute(Operation(ERASE))

    ends = [event for event in emitted if isinstance(event, AttemptEnded | CallEnded)]
    assert [(event.call_id, event.request_id) for event in ends] == [
        *[(1, "r1")] * 2,
        *[(2, "r2")] * 2,
    ]


async def test_a_variable_set_at_the_start_of_a_call_is_set_at_its_end() -> None:
    """Events are emitted in the task of the call, so that a hook can pair them."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("call")
    paired: list[bool] = []

    def hook(event: Event) -> None:
        if isinstance(event, CallStarted):
            variable.set(event.call_id)
        elif isinstance(event, CallEnded):
            paired.append(variable.get() == event.call_id)

    transport = FakeTransport(itertools.repeat(DELETED))
    executor = caller(transport, FakeClock(), (hook,))
    await asyncio.gather(*(executor.execute(Operation(ERASE)) for _ in range(3)))

    assert paired == [True] * 3


async def test_a_middleware_is_around_every_attempt() -> None:
    """The latest is the outermost, each sees each attempt, and may change the request."""
    transport = FakeTransport([ConnectError("refused"), DELETED])
    config = layers(transport, FakeClock())
    order: list[str] = []

    def named(name: str) -> Middleware:
        async def middleware(request: Request, send: Send) -> Response:
            order.append(name)
            return await send(request.with_headers({name: "on"}))

        return middleware

    config = msgspec.structs.replace(config, middlewares=(named("Inner"), named("Outer")))
    await BulkExecutor(config, options(30.0)).execute(Operation(ERASE))

    assert order == ["Outer", "Inner"] * 2
    assert [request.headers.keys() >= {"Inner", "Outer"} for request in transport.requests] == [
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("reply", "ended"),
    [
        pytest.param(
            MISSING,
            CallEnded("test.erase", 1, 0.0, 404, "NotFoundError", *CALL),
            id="error response",
        ),
        pytest.param(
            ConnectError("certificate", permanent=True),
            CallEnded("test.erase", 1, 0.0, None, "ConnectError", *CALL),
            id="no response",
        ),
        pytest.param(
            asyncio.CancelledError(),
            CallEnded("test.erase", 0, 0.0, None, "CancelledError", *CALL),
            id="cancelled before it was written",
        ),
    ],
)
async def test_hooks_receive_how_a_call_failed(reply: Reply, ended: CallEnded) -> None:
    """Hooks receive the end of a failed or cancelled call with its status and error class."""
    emitted: list[Event] = []

    with pytest.raises((NotFoundError, ConnectError, asyncio.CancelledError)):
        await caller(FakeTransport([reply]), FakeClock(), (emitted.append,)).execute(
            Operation(ERASE)
        )
    attempts = [event for event in emitted if isinstance(event, AttemptEnded)]
    assert [event for event in emitted if event not in attempts] == [
        CallStarted("test.erase", *CALL),
        ended,
    ]
    assert len(attempts) == ended.attempts


async def test_a_defect_ends_its_call_in_the_events_too() -> None:
    """A foreign exception propagates, and the start of its call gets its end."""
    emitted: list[Event] = []
    transport = unwritten(FakeTransport([RuntimeError("a bug")]))
    send = observe(transport, Emitter((emitted.append,)), FakeClock())

    with pytest.raises(RuntimeError, match="a bug"):
        await send(a_request(), CallState())
    started, ended = emitted
    assert isinstance(started, CallStarted)
    assert isinstance(ended, CallEnded)
    assert (started.call_id, ended.call_id, ended.error) == (1, 1, "RuntimeError")


async def test_an_unreadable_response_counts_its_attempts() -> None:
    """A DecodeError has the number of requests that were sent, as every error does."""
    transport = FakeTransport([(502, {}, b""), (200, {}, b"<html>")])

    with pytest.raises(DecodeError, match=r"operation v1.profiles.get, attempts 2"):
        await caller(transport, FakeClock()).execute(Operation(GET_PROFILE))


async def test_a_call_that_gets_no_turn_has_no_attempts() -> None:
    """A call that ends before it is sent has 0 attempts."""
    clock = FakeClock()
    transport = FakeTransport([DELETED])
    rate_limiter = FixedRateLimiter(0.001, 1, clock)
    send = build(layers(transport, clock, rate_limiter=rate_limiter), RetryPolicy())
    await send(a_request(), CallState())

    with pytest.raises(DeadlineError) as caught:
        await send(a_request(), CallState(deadline=60.0))
    assert caught.value.attempts == 0


def options(timeout: float) -> CallOptions:
    """Return call options with that timeout."""
    defaults = RequestDefaults(origin="https://example.com", headers=Headers(Authorization="x"))
    return CallOptions(defaults=defaults, retry=RetryPolicy(), timeout=timeout)


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan")])
def test_a_timeout_must_leave_time(timeout: float) -> None:
    """A timeout that is too short for any attempt raises an error."""
    with pytest.raises(ConfigError, match=r"^timeout must be a number above 0"):
        options(timeout)


async def bulk_of(count: int, clock: FakeClock, **settings: float) -> FakeTransport:
    """Run that many deletions in bulk and return the sender of the run."""
    transport = FakeTransport(itertools.repeat(DELETED))
    report = await caller(transport, clock).bulk(
        range(count),
        lambda _: Operation(ERASE),
        "erase",
        concurrency=1,
        rate=settings.get("rate"),
    )

    assert report.counts[OutcomeStatus.DONE] == count
    return transport


async def test_a_run_has_a_rate_of_its_own() -> None:
    """The rate of a bulk run holds for its own requests, with a burst of at least one."""
    clock = FakeClock()

    assert len((await bulk_of(6, clock, rate=10.0)).requests) == 6
    assert clock() == pytest.approx(0.5)


async def test_a_run_without_a_rate_begins_slowly_and_gets_fast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run without a configured rate starts at a rate that any account allows, and adapts it."""
    begin_at(monkeypatch, 20.0, min_rate=0.1)
    clock = FakeClock()

    await bulk_of(300, clock)
    assert 0.05 < clock.now < 0.5
    assert clock.sleeps[0] > 5 * clock.sleeps[-1]


async def test_a_run_whose_rate_is_given_begins_with_that() -> None:
    """The adaptive rate does not apply."""
    clock = FakeClock()

    await bulk_of(400, clock, rate=100.0)
    assert clock.now == pytest.approx((400 - 2) / 100, abs=0.02)


async def test_a_runs_rate_must_be_a_rate() -> None:
    """A rate of 0 raises an error before the run is made."""
    with pytest.raises(ConfigError, match=r"^rate must be a number above 0"):
        await bulk_of(1, FakeClock(), rate=0.0)


def make_values() -> LoopLocal[list[int]]:
    """Return values by loop that differ from each other."""
    return LoopLocal(list)


async def test_a_loop_keeps_its_value() -> None:
    """Two calls in one loop return the same object."""
    values = make_values()

    assert values.get() is values.get()


def test_every_loop_has_a_value_of_its_own() -> None:
    """Another loop has another object, and the value of a closed loop is dropped."""
    values = make_values()

    async def get() -> list[int]:
        return values.get()

    with asyncio.Runner() as one, asyncio.Runner() as other:
        first = one.run(get())
        second = other.run(get())
        assert first is not second
        assert list(values.pop_all().values()) == [first, second]
        assert values.pop_all() == {}
        third = one.run(get())
        assert third is not first
    asyncio.run(get())
    gc.collect()
    assert len(values.pop_all()) <= 1


def test_values_that_hold_their_loop_are_forgotten_with_it() -> None:
    """A value that refers to its loop does not keep a closed loop alive."""
    values: LoopLocal[asyncio.AbstractEventLoop] = LoopLocal(asyncio.get_running_loop)

    async def get() -> asyncio.AbstractEventLoop:
        return values.get()

    closed = {asyncio.run(get()) for _ in range(3)}
    assert all(loop.is_closed() for loop in closed)
    assert len(values.pop_all()) == 1


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        pytest.param([RateLimitError("status 429")], RateLimitError, id="ours"),
        pytest.param([TimeoutError("foreign")], TimeoutError, id="foreign"),
        pytest.param([], AssertionError, id="script at its end"),
    ],
)
async def test_a_fake_transport_raises_what_its_script_says(
    replies: Iterable[Reply], kind: type[BaseException]
) -> None:
    """Exceptions of the script are raised, and an excess request is named by number and name."""
    transport = FakeTransport(replies)

    with pytest.raises(
        kind, match=r"status 429, operation test.call|foreign|request 1 \(test.call"
    ):
        await transport(a_request())
    assert len(transport.requests) == 1
    assert repr(transport) == "FakeTransport(1 requests)"


async def test_a_fake_transport_responds_and_remembers() -> None:
    """Responses come in order, with header names in the expected case."""
    transport = FakeTransport([(200, {"retry-after": "1"}, b"a"), (204, {}, b"")])
    request = a_request()

    responses: list[Response] = [await transport(request), await transport(a_request())]
    assert [(response.status, response.body) for response in responses] == [(200, b"a"), (204, b"")]
    assert responses[0].headers == {"Retry-After": "1"}
    seen: list[Request] = transport.requests
    assert seen[0] is request
    assert len(seen) == 2


async def test_a_fake_clock_moves_when_somebody_sleeps() -> None:
    """A sleep takes no real time and advances the clock."""
    clock = FakeClock(10.0)

    await clock.sleep(2.5)
    await clock.sleep(0.5)
    assert (clock(), clock.now, clock.sleeps) == (13.0, 13.0, [2.5, 0.5])
    assert repr(clock) == "FakeClock(13.0)"
