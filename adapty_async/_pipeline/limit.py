"""How fast and how much at once: every attempt passes a gate, and reports back how it ended."""

from __future__ import annotations

import math
from collections.abc import Callable

from adapty_async._api.operation import Request, Response, Send
from adapty_async._flow.bucket_limiter import BucketLimiter, LimiterRegistry, too_late
from adapty_async._flow.run_limits import RunLimits
from adapty_async._flow.semaphore import PrioritySemaphore
from adapty_async._runtime.loop_local import LoopLocal
from adapty_async.errors import AdaptyError

__all__ = ("limit", "look")

# How an attempt ended that was cancelled, or that broke down in a way that is not the server's.
_UNANSWERED = AdaptyError("no answer")


class CallLimiter:
    """The way of single calls to one bucket, in one event loop."""

    def __init__(self, gate: BucketLimiter, slots: PrioritySemaphore) -> None:
        self._gate = gate
        self._slots = slots

    def try_acquire(self, request: Request) -> bool:
        """Pass without waiting, if that can be."""
        return self._gate.try_acquire(request, self._slots)

    async def acquire(self, request: Request) -> None:
        """Wait for a connection and for the moment."""
        await self._gate.acquire(request, self._slots)

    def release(self, request: Request, failure: AdaptyError | None, sent: float) -> None:
        """Give the connection back, and tell how the attempt ended."""
        self._gate.release(request, failure, sent)
        self._slots.release()  # last: it raises where the loop is closed with calls in it


class RunLimiter:
    """The way of one run's items to one bucket, in the one event loop that the run lives in."""

    def __init__(
        self, gate: BucketLimiter, slots: PrioritySemaphore, run: RunLimits, bucket: str
    ) -> None:
        self._gate = gate
        self._slots = slots
        self._run = run
        self._timer = run.timer(bucket, gate.clock)
        self._capacity = run.concurrency
        self._line = gate.line(slots, run)

    def try_acquire(self, request: Request) -> bool:
        """Pass without waiting, if that can be."""
        deadline = request.state.deadline
        if deadline != math.inf and deadline <= self._gate.clock():
            raise too_late(request)
        if not self._line.try_acquire(request):
            return False
        self._start()
        return True

    async def acquire(self, request: Request) -> None:
        """Wait in the run's line; the wait is not charged to the item."""
        entered = self._gate.clock()
        await self._line.acquire(request)
        self._start()
        request.state.deadline += self._gate.clock() - entered

    def _start(self) -> None:
        self._timer.start()
        if self._capacity is not None:
            self._capacity.in_flight += 1

    def release(self, request: Request, failure: AdaptyError | None, sent: float) -> None:
        """Give the connection back, and tell how the attempt ended."""
        self._timer.end(worked=self._gate.release(request, failure, sent, self._run))
        self._slots.release()
        if self._capacity is not None:
            seconds = self._gate.clock() - sent
            self._capacity.record(failure, seconds, held_up=self._line.has_leader)


def limit(
    send: Send,
    slots: LoopLocal[PrioritySemaphore],
    gates: LimiterRegistry,
    clock: Callable[[], float],
    run: RunLimits | None = None,
) -> Send:
    """
    Let every attempt of single calls, or of a run's items, wait for its moment and a connection.

    A request without a deadline yet gets it when its first turn comes: an item of a bulk run is
    not charged for the queue in front of it. Each run has lines of its own, so that a slow one
    holds up no other.
    """
    ways_here = _ways(run)

    def way_to(bucket: str) -> CallLimiter | RunLimiter:
        gate, here = gates.get(bucket), slots.get()
        way = CallLimiter(gate, here) if run is None else RunLimiter(gate, here, run, bucket)
        return ways_here().setdefault(bucket, way)

    async def send_within_limits(request: Request) -> Response:
        way = ways_here().get(request.bucket) or way_to(request.bucket)
        if not way.try_acquire(request):
            await way.acquire(request)
        sent = clock()
        tally = request.state
        if tally.deadline == math.inf:
            tally.deadline = sent + request.total_timeout
        failure: AdaptyError | None = _UNANSWERED
        try:
            response = await send(request)
            failure = None
        except AdaptyError as error:
            failure = error
            raise
        finally:
            way.release(request, failure, sent)
        return response

    return send_within_limits


def _ways(run: RunLimits | None) -> Callable[[], dict[str, CallLimiter | RunLimiter]]:
    """Return what finds the ways that were made: a client may be used in several event loops."""
    if run is None:
        return LoopLocal[dict[str, CallLimiter | RunLimiter]](dict).get
    ways: dict[str, CallLimiter | RunLimiter] = {}
    return lambda: ways


def look(gates: LimiterRegistry, run: RunLimits) -> float:
    """
    Return the seconds until an outage ends a run, if no success comes; a run calls it regularly.

    A pause counts as if it had passed, if items wait for its end.
    """
    if run.awake is not None:
        run.awake.tick()
    lasting = [
        timer.lasted + (gates.get(bucket).paused_for if timer.is_held else 0.0)
        for bucket, timer in run.timers.items()
    ]
    return run.max_outage - max(lasting, default=0.0)
