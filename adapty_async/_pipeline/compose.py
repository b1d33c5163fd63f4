"""
A pipeline of layers, each a `Send` around a `Send` and independent of its neighbours.

observe → retry → limit → check → transport. The check layer is inside the retry layer, so there is
one retry path. The limit layer is inside it too, so every attempt acquires a permit, and no permit
is held during backoff.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from adapty_async._api.codec import ResultDecoder, error_from, require_no_page
from adapty_async._api.operation import Request, Response, Send, WriteAhead
from adapty_async._flow.bucket_limiter import LimiterRegistry
from adapty_async._flow.circuit_breaker import RetryBudget
from adapty_async._flow.run_limits import RunLimits
from adapty_async._flow.semaphore import PrioritySemaphore
from adapty_async._pipeline.limit import limit
from adapty_async._pipeline.retry import is_refusal, retry
from adapty_async._runtime.clock import Timing
from adapty_async._runtime.loop_local import LoopLocal
from adapty_async.config import RetryPolicy
from adapty_async.errors import AdaptyError, ConnectError
from adapty_async.hooks import CallEnded, CallStarted, Hook

__all__ = ("PipelineConfig", "build", "check", "mark_on_wire", "observe")


class PipelineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """
    A configuration of the layers of one client.

    Attributes:
        transport: does the I/O of one attempt.
        connections: a semaphore of requests in flight, per event loop.
        timing: clock, sleep and random function.
        limiters: rates, pauses and circuit breakers, per bucket.
        budget: the retry budget.
        hooks: receive the events of calls: the client's `Emitter`, which never raises.
        decode: decodes results, and logs deviations from Adapty's documentation.
    """

    transport: Send
    connections: LoopLocal[PrioritySemaphore]
    timing: Timing
    limiters: LimiterRegistry
    budget: RetryBudget
    hooks: tuple[Hook, ...] = ()
    decode: ResultDecoder = msgspec.field(default_factory=ResultDecoder)


def build(
    layers: PipelineConfig,
    policy: RetryPolicy,
    run: RunLimits | None = None,
    write_ahead: WriteAhead | None = None,
) -> Send:
    """Compose the layers into one function from a request to a successful response."""
    timing = layers.timing
    stopping = None if run is None else run.stopping
    send = check(layers.transport, write_ahead, stopping)
    send = limit(send, layers.connections, layers.limiters, timing.clock, run)
    send = retry(send, policy, timing, layers.budget, layers.hooks, run)
    return observe(send, layers.hooks, timing.clock) if layers.hooks else send


def mark_on_wire(send: Send) -> Send:
    """
    Mark each request as on the wire before it is passed to a transport of the caller's.

    Such a transport does not report when it writes.
    """

    def send_marked(request: Request) -> Awaitable[Response]:
        request.state.on_wire = True
        return send(request)

    return send_marked


def check(
    send: Send, write_ahead: WriteAhead | None = None, stopping: asyncio.Event | None = None
) -> Send:
    """
    Count attempts, and convert responses that are not a success of the API into errors.

    The write-ahead entry is appended here, at the last moment: an item that waits for a permit has
    not started. An attempt that is cancelled before it is written does not count.

    A worker whose own callback stops its run is cancelled. The cancellation is raised here, since
    a kept connection may be written to before the worker's next wait.
    """

    async def send_checked(request: Request) -> Response:
        if stopping is not None and stopping.is_set():
            raise asyncio.CancelledError
        state = request.state
        if write_ahead is not None and not state.begun:
            waiting = write_ahead.begin(request)
            if waiting is not None:
                await waiting
        state.attempts += 1
        try:
            response = await send(request)
        except BaseException as error:
            _record_failure(request, error, write_ahead)
            raise
        state.on_wire = False
        if 200 <= response.status < 300:
            require_no_page(request.operation, response)
            return response
        raise _error_of(request, response, write_ahead)

    return send_checked


def _record_failure(request: Request, error: BaseException, write_ahead: WriteAhead | None) -> None:
    state = request.state
    if isinstance(error, AdaptyError):
        state.on_wire = False
        state.connect_failures += isinstance(error, ConnectError)
        if write_ahead is not None and is_refusal(error):
            write_ahead.refused(request)
    elif not state.on_wire:
        state.attempts -= 1


def _error_of(request: Request, response: Response, write_ahead: WriteAhead | None) -> AdaptyError:
    if response.status == 429:
        request.state.throttled += 1
    error = error_from(request.operation, response)
    if write_ahead is not None and is_refusal(error):
        write_ahead.refused(request)
    return error


def observe(send: Send, hooks: tuple[Hook, ...], clock: Callable[[], float]) -> Send:
    """Emit the start and the end of each call to the hooks, cancellation included."""

    def emit(event: CallStarted | CallEnded) -> None:
        for hook in hooks:
            hook(event)

    async def send_observed(request: Request) -> Response:
        emit(CallStarted(request.operation))
        started = clock()

        def ended(status: int | None, error: BaseException | None) -> CallEnded:
            name = None if error is None else type(error).__name__
            return CallEnded(
                request.operation, request.state.attempts, clock() - started, status, name
            )

        try:
            response = await send(request)
        except (AdaptyError, asyncio.CancelledError) as error:
            emit(ended(getattr(error, "status", None), error))
            raise
        emit(ended(response.status, None))
        return response

    return send_observed
