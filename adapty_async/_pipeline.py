"""
The way of a call: layers, each a `Send` around a `Send`, none of which knows its neighbour.

observe → retry → limit → check → transport. Checking is inside retrying, so there is one path for
repeats; limits are inside it too, so every attempt takes a place and none is held while waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from adapty_async._codec import ResultDecoder, error_from
from adapty_async._gate import Gates, RunLimits
from adapty_async._limits import limit
from adapty_async._loop_local import LoopLocal
from adapty_async._operation import Before, Request, Response, Send
from adapty_async._outage import Budget
from adapty_async._places import Places
from adapty_async._retry import retry
from adapty_async._timing import Timing
from adapty_async.config import RetryPolicy
from adapty_async.errors import AdaptyError, ConnectError
from adapty_async.hooks import CallEnded, CallStarted, Hook

__all__ = ("Layers", "build", "check", "observe")


class Layers(msgspec.Struct, frozen=True, kw_only=True):
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
    slots: LoopLocal[Places]
    timing: Timing
    gates: Gates
    budget: Budget
    hooks: tuple[Hook, ...] = ()
    decode: ResultDecoder = msgspec.field(default_factory=ResultDecoder)


def build(
    layers: Layers,
    policy: RetryPolicy,
    run: RunLimits | None = None,
    before: Before | None = None,
) -> Send:
    """
    Compose the layers into one function from a request to a successful response.
    """
    timing = layers.timing
    send = check(layers.transport, before)
    send = limit(send, layers.slots, layers.gates, timing.clock, run)
    send = retry(send, policy, timing, layers.budget, layers.hooks)
    return observe(send, layers.hooks, timing.clock) if layers.hooks else send


def check(send: Send, before: Before | None = None) -> Send:
    """
    Count attempts, and turn answers that are not a success into errors.

    What is to be done before the first request of a call is done here, at the last moment: what
    waits for its turn has not begun.
    """

    async def send_checked(request: Request) -> Response:
        tally = request.tally
        if before is not None and not tally.attempts:
            waiting = before(request)
            if waiting is not None:
                await waiting
        tally.attempts += 1
        try:
            response = await send(request)
        except ConnectError:
            tally.connect_failures += 1
            raise
        if 200 <= response.status < 300:
            return response
        if response.status == 429:
            tally.throttled += 1
        raise error_from(request.operation, response)

    return send_checked


def observe(send: Send, hooks: tuple[Hook, ...], clock: Callable[[], float]) -> Send:
    """
    Tell the hooks when a call starts and how it ends, cancellation included.
    """

    def tell(event: CallStarted | CallEnded) -> None:
        for hook in hooks:
            hook(event)

    async def send_observed(request: Request) -> Response:
        tell(CallStarted(request.operation))
        started = clock()

        def ended(status: int | None, error: BaseException | None) -> CallEnded:
            name = None if error is None else type(error).__name__
            return CallEnded(
                request.operation, request.tally.attempts, clock() - started, status, name
            )

        try:
            response = await send(request)
        except (AdaptyError, asyncio.CancelledError) as error:
            tell(ended(getattr(error, "status", None), error))
            raise
        tell(ended(response.status, None))
        return response

    return send_observed
