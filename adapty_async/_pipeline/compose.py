"""
A pipeline of layers, each a `Layer` around a `Layer` and independent of its neighbours.

create → observe → retry → limit → check → transport. The check layer is inside the retry layer, so
there is one retry path. The limit layer is inside it too, so every attempt acquires a permit, and
no permit is held during backoff. Hooks add a layer around check, middlewares are layers around the
transport. The hooks see a creation as a call of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from adapty_async._api.call_state import CallState, Layer
from adapty_async._api.codec import ResultDecoder, error_from, require_no_page
from adapty_async._api.operation import Middleware, Request, Response, Send
from adapty_async._flow.circuit_breaker import RetryBudget
from adapty_async._flow.limiter_registry import LimiterRegistry
from adapty_async._flow.run_limits import RunLimits
from adapty_async._flow.semaphore import PrioritySemaphore
from adapty_async._pipeline.creation import create_missing
from adapty_async._pipeline.emitter import Emitter
from adapty_async._pipeline.item_counter import ItemCounter
from adapty_async._pipeline.limit import limit
from adapty_async._pipeline.observe import observe, observe_attempts
from adapty_async._pipeline.retry import is_refusal, may_have_worked, retry
from adapty_async._runtime.clock import Timing
from adapty_async._runtime.loop_local import LoopLocal
from adapty_async.config import RetryPolicy
from adapty_async.errors import AdaptyError, ConnectError, DecodeError

__all__ = ("PipelineConfig", "build", "check", "with_middleware", "without_state")


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
    connections: LoopLocal[PrioritySemaphore]
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
    send = layers.transport
    for middleware in layers.middlewares:
        send = with_middleware(send, middleware)
    send = check(send, None if run is None else run.stopping)
    if emitter is not None:
        send = observe_attempts(send, emitter, timing.clock)
    send = limit(send, layers.connections, layers.limiters, timing.clock, run)
    send = retry(send, policy, timing, layers.budget, emitter, run)
    send = send if emitter is None else observe(send, emitter, timing.clock)

    def send_or_create(request: Request, state: CallState) -> Awaitable[Response]:
        if request.if_missing is None:
            return send(request, state)
        return create_missing(send, request, request.if_missing, state)

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


def with_middleware(send: Layer, middleware: Middleware) -> Layer:
    """Pass each attempt through a middleware of the caller's, which does not see the call state."""

    async def send_through(request: Request, state: CallState) -> Response:
        return _in_any_case(await middleware(request, lambda changed: send(changed, state)))

    return send_through


def _in_any_case(response: Response) -> Response:
    """Return a response of the caller's, whose header names may be in any case, ignoring case."""
    if isinstance(response.headers, CIMultiDict | CIMultiDictProxy):
        return response
    headers = CIMultiDictProxy(CIMultiDict(response.headers))
    return msgspec.structs.replace(response, headers=headers)


def check(send: Layer, stopping: asyncio.Event | None = None) -> Layer:
    """
    Count attempts, and convert responses that are not a success of the API into errors.

    The first-send callback is called here, at the last moment: an item that waits for a permit has
    not started. An attempt that is cancelled before it is written does not count.

    A worker whose own callback stops its run is cancelled. The cancellation is raised here, since
    a kept connection may be written to before the worker's next wait.
    """

    async def send_checked(request: Request, state: CallState) -> Response:
        if stopping is not None and stopping.is_set():
            raise asyncio.CancelledError
        if state.on_first_send is not None and state.is_first_send:
            waiting = state.on_first_send()
            if waiting is not None:
                await waiting
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
