"""
How fast and how much at once: every attempt passes a gate, and reports back how it ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from adapty_async._api.operation import Request, Response, Send
from adapty_async._flow.bucket_limiter import Gate, Gates, too_late
from adapty_async._flow.run_limits import RunLimits
from adapty_async._flow.semaphore import Places
from adapty_async._runtime.loop_local import LoopLocal
from adapty_async.errors import AdaptyError

__all__ = ("limit", "look")

_UNANSWERED = AdaptyError("no answer")
"""
How an attempt ended that was cancelled, or that broke down in a way that is not the server's.
"""


class _Way:
    """
    The way of single calls to one bucket, in one event loop.
    """

    def __init__(self, gate: Gate, slots: Places) -> None:
        self._gate = gate
        self._slots = slots

    def enter_now(self, request: Request) -> bool:
        """
        Pass without waiting, if that can be.
        """
        return self._gate.enter_now(request, self._slots)

    async def enter(self, request: Request) -> None:
        """
        Wait for a connection and for the moment.
        """
        await self._gate.enter(request, self._slots)

    def leave(self, request: Request, failure: AdaptyError | None, sent: float) -> None:
        """
        Give the connection back, and tell how the attempt ended.
        """
        self._gate.leave(request, failure, sent)
        self._slots.give()  # last: it raises where the loop is closed with calls in it


class _RunWay:
    """
    The way of one run's items to one bucket, in the one event loop that the run lives in.
    """

    def __init__(self, gate: Gate, slots: Places, run: RunLimits, bucket: str) -> None:
        self._gate = gate
        self._slots = slots
        self._run = run
        self._timer = run.timer(bucket, gate.clock)
        self._capacity = run.capacity
        self._line = gate.line(slots, run)

    def enter_now(self, request: Request) -> bool:
        """
        Pass without waiting, if that can be.
        """
        deadline = request.tally.deadline
        if deadline != math.inf and deadline <= self._gate.clock():
            raise too_late(request)
        if not self._line.enter_now(request):
            return False
        self._start()
        return True

    async def enter(self, request: Request) -> None:
        """
        Wait in the run's line; the wait is not charged to the item.
        """
        entered = self._gate.clock()
        await self._line.enter(request)
        self._start()
        request.tally.deadline += self._gate.clock() - entered

    def _start(self) -> None:
        self._timer.start()
        if self._capacity is not None:
            self._capacity.busy += 1

    def leave(self, request: Request, failure: AdaptyError | None, sent: float) -> None:
        """
        Give the connection back, and tell how the attempt ended.
        """
        self._timer.end(worked=self._gate.leave(request, failure, sent, self._run))
        self._slots.give()
        if self._capacity is not None:
            seconds = self._gate.clock() - sent
            self._capacity.leave(failure, seconds, held_up=self._line.is_led)


def limit(
    send: Send,
    slots: LoopLocal[Places],
    gates: Gates,
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

    def way_to(bucket: str) -> _Way | _RunWay:
        gate, here = gates.get(bucket), slots.get()
        way = _Way(gate, here) if run is None else _RunWay(gate, here, run, bucket)
        return ways_here().setdefault(bucket, way)

    async def send_within_limits(request: Request) -> Response:
        way = ways_here().get(request.bucket) or way_to(request.bucket)
        if not way.enter_now(request):
            await way.enter(request)
        sent = clock()
        tally = request.tally
        if tally.deadline == math.inf:
            tally.deadline = sent + request.allowance
        failure: AdaptyError | None = _UNANSWERED
        try:
            response = await send(request)
            failure = None
        except AdaptyError as error:
            failure = error
            raise
        finally:
            way.leave(request, failure, sent)
        return response

    return send_within_limits


def _ways(run: RunLimits | None) -> Callable[[], dict[str, _Way | _RunWay]]:
    """
    Return what finds the ways that were made: a client may be used in several event loops.
    """
    if run is None:
        return LoopLocal[dict[str, _Way | _RunWay]](dict).get
    ways: dict[str, _Way | _RunWay] = {}
    return lambda: ways


def look(gates: Gates, run: RunLimits) -> float:
    """
    Return the seconds until an outage ends a run, if no success comes; a run calls it regularly.

    A pause counts as if it had passed, if items wait for its end.
    """
    if run.awake is not None:
        run.awake.look()
    lasting = [
        timer.lasted + (gates.get(bucket).paused_for if timer.is_held else 0.0)
        for bucket, timer in run.timers.items()
    ]
    return run.max_outage - max(lasting, default=0.0)
