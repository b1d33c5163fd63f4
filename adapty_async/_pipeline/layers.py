"""
The pipeline of a client: layers around the transport, and an executor that sends calls through it.

create → observe → retry → limit → check → transport. Each is a `Layer` around a `Layer`. The check
layer is inside the retry layer, so there is one retry path. The limit layer is inside it too, so
every attempt acquires a permit, and no permit is held during backoff. Hooks add a layer around
check, middlewares are layers around the transport. The hooks see a creation as a call of its own.

The layers that every attempt enters are here: check counts it and raises its error, limit acquires
a permit for it and reports its result on release.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from adapty_async._api.call import CallState, Layer, Middleware, Operation, Request, Response, Send
from adapty_async._api.codec import (
    RequestDefaults,
    ResultDecoder,
    encode,
    error_from,
    require_no_page,
)
from adapty_async._api.results import RawResponse, raw_response
from adapty_async._flow.bucket_limiter import BucketLimiter, CallLimiter, Verdict
from adapty_async._flow.circuit_breaker import RetryBudget
from adapty_async._flow.limits import LimiterRegistry, RunLimiter, RunLimits, StopSignal
from adapty_async._flow.queues import ConnectionSemaphore
from adapty_async._pipeline.observe import Emitter, observe, observe_attempts
from adapty_async._pipeline.retry import (
    Creation,
    is_refusal,
    is_requeued,
    may_have_worked,
    retry,
)
from adapty_async._runtime.fork import register_fork_handler
from adapty_async._runtime.loop import LoopLocal, Timing
from adapty_async.config import RetryPolicy, positive
from adapty_async.errors import AdaptyError, ConnectError, DecodeError

ResultT = TypeVar("ResultT")


class ItemCounter:
    """
    A counter that adds up the counts of bulk runs, those in progress included.

    A run counts its own items. The counter reads these counts when it is asked, so an item costs
    nothing here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # clients may be in use in several threads
        self._ended: dict[str, int] = {}  # the sums of runs that have ended
        self._in_progress: list[Mapping[Any, int]] = []
        register_fork_handler(self)

    def after_fork(self) -> None:
        """Start fresh: the items belong to the parent process, and another thread's lock."""
        self._lock = threading.Lock()
        self._ended, self._in_progress = {}, []

    def start(self, counts: Mapping[Any, int]) -> None:
        """Include the counts of a run, which change until it ends."""
        with self._lock:
            self._in_progress.append(counts)

    def end(self, counts: Mapping[Any, int]) -> None:
        """Add the counts of a run that has ended; nothing if it started before a fork."""
        with self._lock:
            others = [each for each in self._in_progress if each is not counts]
            if len(others) < len(self._in_progress):
                self._ended = _sum([self._ended, counts])
            self._in_progress = others

    def counts(self) -> dict[str, int]:
        """Return the number of items by status, which never decreases; empty before any run."""
        with self._lock:
            return _sum([self._ended, *self._in_progress])


def _sum(parts: list[Mapping[Any, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


class PipelineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """
    A configuration of the layers of one client.

    Attributes:
        transport: does the I/O of one attempt.
        connections: a semaphore of requests in flight, per event loop.
        timing: clock, sleep and random function.
        limiters: rates, pauses and circuit breakers, per bucket.
        budget: the retry budget.
        items: counts the items of bulk runs.
        emitter: delivers the events of calls to hooks; None without hooks.
        middlewares: functions around each attempt, the innermost first.
        decode: decodes results, and logs deviations from Adapty's documentation.
    """

    transport: Layer
    connections: LoopLocal[ConnectionSemaphore]
    timing: Timing
    limiters: LimiterRegistry
    budget: RetryBudget
    items: ItemCounter = msgspec.field(default_factory=ItemCounter)
    emitter: Emitter | None = None
    middlewares: tuple[Middleware, ...] = ()
    decode: ResultDecoder = msgspec.field(default_factory=ResultDecoder)


def build(layers: PipelineConfig, policy: RetryPolicy, run: RunLimits | None = None) -> Layer:
    """Compose the layers into one function from a request to a successful response."""
    timing, emitter = layers.timing, layers.emitter
    send, stopping = layers.transport, None if run is None else run.stopping
    for middleware in layers.middlewares:
        send = with_middleware(send, middleware, stopping)
    send = check(send, stopping)
    if emitter is not None:
        send = observe_attempts(send, emitter, timing.clock)
    send = LimitLayer(send, layers.connections, layers.limiters, timing.clock, run).send
    send = retry(send, policy, timing, layers.budget, emitter, run)
    send = send if emitter is None else observe(send, emitter, timing.clock)

    def send_or_create(request: Request, state: CallState) -> Awaitable[Response]:
        if request.if_missing is None:
            return send(request, state)
        return Creation(send, request, request.if_missing, state).run()

    return send_or_create


def without_state(send: Send) -> Layer:
    """
    Adapt a transport of the caller's, which receives the request alone.

    Such a transport does not report when it writes, so each request counts as on the wire from the
    call of the transport on.
    """

    async def send_request(request: Request, state: CallState) -> Response:
        state.sent()
        return _in_any_case(await send(request))

    return send_request


def with_middleware(
    send: Layer, middleware: Middleware, stopping: StopSignal | None = None
) -> Layer:
    """
    Pass each attempt through a middleware of the caller's, which does not see the call state.

    A middleware that stops its run sends nothing after that; see `check`.
    """

    async def send_through(request: Request, state: CallState) -> Response:
        def send_next(changed: Request) -> Awaitable[Response]:
            if stopping is not None and stopping.is_set:
                raise asyncio.CancelledError
            return send(changed, state)

        return _in_any_case(await middleware(request, send_next))

    return send_through


def _in_any_case(response: Response) -> Response:
    """Return a response of the caller's, whose header names may be in any case, ignoring case."""
    if not isinstance(response, Response):
        raise TypeError(
            f"a middleware or transport must return a Response, not {type(response).__name__}"
        )
    if isinstance(response.headers, CIMultiDict | CIMultiDictProxy):
        return response
    headers = CIMultiDictProxy(CIMultiDict(response.headers))
    return msgspec.structs.replace(response, headers=headers)


def check(send: Layer, stopping: StopSignal | None = None) -> Layer:
    """
    Count attempts, and convert responses that are not a success of the API into errors.

    An attempt that is cancelled before it is written does not count.

    A worker whose own callback stops its run is cancelled. The cancellation is raised here, since
    a kept connection may be written to before the worker's next wait.
    """

    async def send_checked(request: Request, state: CallState) -> Response:
        if stopping is not None and stopping.is_set:
            raise asyncio.CancelledError
        state.attempt_started()
        try:
            response = await send(request, state)
        except BaseException as error:
            _record_failure(state, error)
            raise
        state.attempt_ended()
        if not 200 <= response.status < 300:
            raise _error_of(request, state, response)
        if response.body:
            _require_no_page(request, state, response)
        return response

    return send_checked


def _require_no_page(request: Request, state: CallState, response: Response) -> None:
    try:
        require_no_page(request.operation, response)
    except DecodeError as error:
        _record_error(state, error, is_sent=True)
        raise


def _error_of(request: Request, state: CallState, response: Response) -> AdaptyError:
    if response.status == 429:
        state.attempt_throttled()
    error = error_from(request.operation, response)
    _record_error(state, error, is_sent=True)
    return error


def _record_failure(state: CallState, error: BaseException) -> None:
    if isinstance(error, AdaptyError):
        is_sent = state.on_wire and not isinstance(error, ConnectError)
        state.attempt_ended()
        _record_error(state, error, is_sent=is_sent)
    elif not state.on_wire:
        state.attempt_withdrawn()


def _record_error(state: CallState, error: AdaptyError, *, is_sent: bool) -> None:
    """
    Record the error of an attempt, and what it proves: the server may have processed it, or cannot.

    That is done before a hook receives the attempt: a hook's `BaseException` ends the call.
    """
    state.attempt_failed(error, is_sent=is_sent)
    if is_sent and may_have_worked(error):
        state.response_lost()
    if is_sent and not is_refusal(error):
        return
    state.attempt_refused(is_sent=is_sent)
    if state.on_refusal is not None and not state.is_uncertain:  # because of an earlier attempt
        state.on_refusal()


# The result of an attempt that was cancelled, or that failed for a reason other than the server.
_NO_RESPONSE = AdaptyError("no response")


class LimitLayer:
    """
    A pipeline layer with the limiters of a client's single calls, or of one run, by bucket.

    It sets the deadline of a call: that of a single call on its arrival, that of an item with a
    permit, so that an item is not charged for its waits in the queue. Each run has its own wait
    queues, so that a slow run delays no other.

    It calls the first-send callback with the permit: an item that waits for one has not started.
    """

    def __init__(
        self,
        send: Layer,
        connections: LoopLocal[ConnectionSemaphore],
        registry: LimiterRegistry,
        clock: Callable[[], float],
        run: RunLimits | None = None,
    ) -> None:
        self._next = send
        self._connections = connections
        self._registry = registry
        self._clock = clock
        self._run = run
        self._stopping = StopSignal() if run is None else run.stopping
        self._limiters = _limiters_of_loop(run)

    async def send(self, request: Request, state: CallState) -> Response:
        """Send one attempt when the limiter of its bucket permits it."""
        operation = request.operation
        limiter = self._limiters().get(request.bucket)
        if limiter is None or operation in limiter.separate:
            limiter = self._limiter_of(request)
        if self._run is None:
            state.start_deadline(self._clock(), request.total_timeout)
        if not limiter.try_acquire(operation, state.deadline):
            state.extend_deadline(await limiter.acquire(operation, state.deadline))
        if state.on_first_send is not None and state.is_first_send and not self._stopping.is_set:
            stored = state.on_first_send()
            if stored is not None:
                assert isinstance(limiter, RunLimiter)  # noqa: S101  single calls have no entry
                state.extend_deadline(await limiter.until_stored(operation, stored))
        sent = self._clock()
        state.start_deadline(sent, request.total_timeout)
        try:
            response = await self._next(request, state)
        except AdaptyError as error:
            _release_failed(limiter, request, state, error, sent)
            raise
        except BaseException:
            limiter.release(operation, _NO_RESPONSE, sent)
            raise
        limiter.release(operation, None, sent)
        return response

    def _limiter_of(self, request: Request) -> BucketLimiter:
        bucket = self._registry.bucket_of(request.bucket, request.operation)
        limiter = self._limiters().get(bucket)
        return self._make_limiter(bucket) if limiter is None else limiter

    def _make_limiter(self, bucket: str) -> BucketLimiter:
        state, permits = self._registry.get(bucket), self._connections.get()
        limiter = (
            CallLimiter(state, permits)
            if self._run is None
            else RunLimiter(state, permits, self._run, bucket)
        )
        return self._limiters().setdefault(bucket, limiter)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'calls' if self._run is None else self._run})"


def _release_failed(
    limiter: BucketLimiter, request: Request, state: CallState, error: AdaptyError, sent: float
) -> None:
    if limiter.release(request.operation, error, sent) is Verdict.OUTAGE:
        state.failed_in_outage()
    if is_requeued(request, state, error):
        state.requeued(limiter.requeue_within)


def _limiters_of_loop(run: RunLimits | None) -> Callable[[], dict[str, BucketLimiter]]:
    """Return a function that returns the limiters of the running event loop, by bucket."""
    if run is None:
        return LoopLocal[dict[str, BucketLimiter]](dict).get
    limiters: dict[str, BucketLimiter] = {}
    return lambda: limiters


class CallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    The options of calls; clients with the same connections may have different ones.

    Attributes:
        defaults: the request defaults.
        retry: the retry policy.
        timeout: seconds for one attempt.
    """

    defaults: RequestDefaults
    retry: RetryPolicy
    timeout: float

    def __post_init__(self) -> None:
        positive("timeout", self.timeout)


class Executor:
    """
    An executor of operations with one set of options; all resources of a client share it.

    Attributes:
        layers: the configuration of the client's pipeline.
        options: the options of the calls.
    """

    def __init__(self, layers: PipelineConfig, options: CallOptions) -> None:
        self.layers = layers
        self.options = options
        self._send = build(layers, options.retry)
        self._encode = functools.partial(
            encode,
            defaults=options.defaults,
            timeout=options.timeout,
            total_timeout=options.retry.deadline,
        )

    async def execute(self, operation: Operation[ResultT]) -> ResultT:
        """Send one operation and return its result."""
        request, state = self._encode(operation), CallState()
        response = await self._send(request, state)
        try:
            return self.layers.decode(operation, response)
        except AdaptyError as error:
            error.attempts = state.attempts
            raise

    async def execute_raw(self, operation: Operation[ResultT]) -> RawResponse[ResultT]:
        """Send one operation and return its response, which decodes the result on request."""
        request, state = self._encode(operation), CallState()
        response = await self._send(request, state)
        decode = functools.partial(self.layers.decode, operation, response)
        return raw_response(response, state.attempts, decode)
