"""
The way of a call: layers, each a `Send` around a `Send`, none of which knows its neighbour.

observe → retry → limit → check → transport. Checking is inside retrying, so there is one path for
repeats; limits are inside it too, so every attempt takes a place and none is held while waiting.
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
    What the layers of one client are made of.

    Attributes:
        slots: the requests in flight, per event loop.
        gates: pace, pauses and outages, per bucket.
        budget: what repeats are paid from.
        hooks: what receives the events of calls: the client's `Emitter`, which never raises.
        decode: reads results, and logs what is not as documented.
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
    Count each request as on the wire from the moment a transport of the caller's gets it.

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
    Count attempts, and turn responses that are not a success of the API's into errors.

    The write-ahead entry is appended here, at the last moment: an item that waits for a permit has
    not started. An attempt that is cancelled before it is written does not count.

    A worker whose own callback stops its run is cancelled. The cancellation is raised here, since
    a kept connection may be written to before the worker's next wait.
    """

    async def send_checked(request: Request) -> Response:
        if stopping is not None and stopping.is_set():
            raise asyncio.CancelledError
        tally = request.state
        if write_ahead is not None and not tally.begun:
            waiting = write_ahead.begin(request)
            if waiting is not None:
                await waiting
        tally.attempts += 1
        try:
            response = await send(request)
        except BaseException as error:
            _unanswered(request, error, write_ahead)
            raise
        tally.on_wire = False
        if 200 <= response.status < 300:
            require_no_page(request.operation, response)
            return response
        raise _rejected(request, response, write_ahead)

    return send_checked


def _unanswered(request: Request, error: BaseException, write_ahead: WriteAhead | None) -> None:
    tally = request.state
    if isinstance(error, AdaptyError):
        tally.on_wire = False
        tally.connect_failures += isinstance(error, ConnectError)
        if write_ahead is not None and is_refusal(error):
            write_ahead.refused(request)
    elif not tally.on_wire:
        tally.attempts -= 1


def _rejected(request: Request, response: Response, write_ahead: WriteAhead | None) -> AdaptyError:
    if response.status == 429:
        request.state.throttled += 1
    error = error_from(request.operation, response)
    if write_ahead is not None and is_refusal(error):
        write_ahead.refused(request)
    return error


def observe(send: Send, hooks: tuple[Hook, ...], clock: Callable[[], float]) -> Send:
    """Tell the hooks when a call starts and how it ends, cancellation included."""

    def tell(event: CallStarted | CallEnded) -> None:
        for hook in hooks:
            hook(event)

    async def send_observed(request: Request) -> Response:
        tell(CallStarted(request.operation))
        started = clock()

        def ended(status: int | None, error: BaseException | None) -> CallEnded:
            name = None if error is None else type(error).__name__
            return CallEnded(
                request.operation, request.state.attempts, clock() - started, status, name
            )

        try:
            response = await send(request)
        except (AdaptyError, asyncio.CancelledError) as error:
            tell(ended(getattr(error, "status", None), error))
            raise
        tell(ended(response.status, None))
        return response

    return send_observed
