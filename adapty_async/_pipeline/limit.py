"""
Rate and concurrency limits.

Every attempt acquires a permit before it is sent and reports its result on release.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from adapty_async._api.call_state import CallState, Layer
from adapty_async._api.operation import Request, Response
from adapty_async._flow.bucket_limiter import BucketLimiter, LimiterRegistry, Verdict, too_late
from adapty_async._flow.run_limits import RunLimits
from adapty_async._flow.semaphore import PrioritySemaphore
from adapty_async._pipeline.retry import is_requeued
from adapty_async._runtime.loop_local import LoopLocal
from adapty_async.errors import AdaptyError

__all__ = ("limit", "look")

# The result of an attempt that was cancelled, or that failed for a reason other than the server.
_NO_RESPONSE = AdaptyError("no response")


class CallLimiter:
    """A limiter for single calls to one bucket, in one event loop."""

    def __init__(self, shared: BucketLimiter, connections: PrioritySemaphore) -> None:
        self._shared = shared
        self._connections = connections

    def try_acquire(self, request: Request, state: CallState) -> bool:
        """Acquire a permit and a connection without a wait; return whether that succeeded."""
        state.start_deadline(self._shared.clock(), request.total_timeout)
        return self._shared.try_acquire(request, state.deadline, self._connections)

    async def acquire(self, request: Request, state: CallState) -> None:
        """Wait for a connection and a permit."""
        await self._shared.acquire(request, state.deadline, self._connections)

    def release(self, request: Request, failure: AdaptyError | None, sent: float) -> Verdict:
        """Release the connection, and record the result of the attempt."""
        verdict = self._shared.release(request, failure, sent)
        self._connections.release()  # last: it raises if the loop is closed with calls in flight
        return verdict


class RunLimiter:
    """A limiter for the items of one run to one bucket, in the event loop of the run."""

    def __init__(
        self, shared: BucketLimiter, connections: PrioritySemaphore, run: RunLimits, bucket: str
    ) -> None:
        self._shared = shared
        self._connections = connections
        self._run = run
        self._timer = run.timer(bucket, shared.clock)
        self._concurrency = run.concurrency
        self._queue = shared.wait_queue(connections, run)

    def try_acquire(self, request: Request, state: CallState) -> bool:
        """Acquire a permit and a connection without a wait; return whether that succeeded."""
        deadline = state.deadline
        if deadline != math.inf and deadline <= self._shared.clock():
            raise too_late(request)
        if not self._queue.try_acquire(request):
            return False
        self._start()
        return True

    async def acquire(self, request: Request, state: CallState) -> None:
        """Wait in the run's queue; the wait does not count towards the item's deadline."""
        arrived = self._shared.clock()
        await self._queue.acquire(request)
        self._start()
        state.extend_deadline(self._shared.clock() - arrived)

    def _start(self) -> None:
        self._timer.start()
        if self._concurrency is not None:
            self._concurrency.in_flight += 1

    def release(self, request: Request, failure: AdaptyError | None, sent: float) -> Verdict:
        """Release the connection, and record the result of the attempt."""
        verdict = self._shared.release(request, failure, sent, self._run)
        self._timer.end(worked=verdict.worked)
        self._connections.release()
        if self._concurrency is not None:
            seconds = self._shared.clock() - sent
            self._concurrency.record(failure, seconds, held_up=self._queue.has_leader)
        return verdict


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
    of_loop = _limiters_of_loop(run)

    def limiter_for(bucket: str) -> CallLimiter | RunLimiter:
        shared, permits = registry.get(bucket), connections.get()
        limiter = (
            CallLimiter(shared, permits)
            if run is None
            else RunLimiter(shared, permits, run, bucket)
        )
        return of_loop().setdefault(bucket, limiter)

    async def send_within_limits(request: Request, state: CallState) -> Response:
        limiter = of_loop().get(request.bucket) or limiter_for(request.bucket)
        if not limiter.try_acquire(request, state):
            await limiter.acquire(request, state)
        sent = clock()
        state.start_deadline(sent, request.total_timeout)
        failure: AdaptyError | None = _NO_RESPONSE
        try:
            response = await send(request, state)
            failure = None
        except AdaptyError as error:
            failure = error
            if is_requeued(request, state, error):
                state.restart_deadline()
            raise
        finally:
            if limiter.release(request, failure, sent).in_outage:
                state.failed_in_outage()
        return response

    return send_within_limits


def _limiters_of_loop(run: RunLimits | None) -> Callable[[], dict[str, CallLimiter | RunLimiter]]:
    """Return a function that returns the limiters of the running event loop, by bucket."""
    if run is None:
        return LoopLocal[dict[str, CallLimiter | RunLimiter]](dict).get
    limiters: dict[str, CallLimiter | RunLimiter] = {}
    return lambda: limiters


def look(limiters: LimiterRegistry, run: RunLimits) -> float:
    """
    Return the seconds until an outage ends a run, if no request succeeds.

    A run calls it at regular intervals. A pause counts in full if items wait for its end.
    """
    if run.awake is not None:
        run.awake.tick()
    lasting = [
        timer.lasted + (limiters.get(bucket).paused_for if timer.is_held else 0.0)
        for bucket, timer in run.timers.items()
    ]
    return run.max_outage - max(lasting, default=0.0)
