"""
A pipeline layer of rate and concurrency limits.

Every attempt acquires a permit before it is sent and reports its result on release.
"""

from __future__ import annotations

from collections.abc import Callable

from adapty_async._api.call_state import CallState, Layer
from adapty_async._api.operation import Request, Response
from adapty_async._flow.bucket_limiter import BucketLimiter, CallLimiter, Verdict
from adapty_async._flow.limiter_registry import LimiterRegistry
from adapty_async._flow.run_limits import RunLimiter, RunLimits
from adapty_async._flow.semaphore import PrioritySemaphore
from adapty_async._pipeline.retry import is_requeued
from adapty_async._runtime.loop_local import LoopLocal
from adapty_async.errors import AdaptyError

__all__ = ("limit", "look")

# The result of an attempt that was cancelled, or that failed for a reason other than the server.
_NO_RESPONSE = AdaptyError("no response")


def limit(
    send: Layer,
    connections: LoopLocal[PrioritySemaphore],
    registry: LimiterRegistry,
    clock: Callable[[], float],
    run: RunLimits | None = None,
) -> Layer:
    """
    Acquire a permit and a connection for every attempt of single calls, or of a run's items.

    This layer sets the deadline of a call: that of a single call on its arrival, that of an item
    with a permit, so that an item is not charged for its waits in the queue. Each run has its own
    wait queues, so that a slow run delays no other.
    """
    return _LimitLayer(send, connections, registry, clock, run).send


class _LimitLayer:
    """A pipeline layer with the limiters of a client's single calls, or of one run, by bucket."""

    def __init__(
        self,
        send: Layer,
        connections: LoopLocal[PrioritySemaphore],
        registry: LimiterRegistry,
        clock: Callable[[], float],
        run: RunLimits | None,
    ) -> None:
        self._next = send
        self._connections = connections
        self._registry = registry
        self._clock = clock
        self._run = run
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
        sent = self._clock()
        state.start_deadline(sent, request.total_timeout)
        try:
            response = await self._next(request, state)
        except AdaptyError as error:
            if limiter.release(operation, error, sent) is Verdict.OUTAGE:
                state.failed_in_outage()
            if is_requeued(request, state, error):
                state.requeued(limiter.requeue_within)
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


def _limiters_of_loop(run: RunLimits | None) -> Callable[[], dict[str, BucketLimiter]]:
    """Return a function that returns the limiters of the running event loop, by bucket."""
    if run is None:
        return LoopLocal[dict[str, BucketLimiter]](dict).get
    limiters: dict[str, BucketLimiter] = {}
    return lambda: limiters


def look(limiters: LimiterRegistry, run: RunLimits) -> float:
    """
    Return the seconds until an outage ends a run, if no request succeeds.

    A run calls it at regular intervals.
    """
    if run.awake is not None:
        run.awake.tick()
    return run.patience(lambda bucket: limiters.get(bucket).paused_for)
