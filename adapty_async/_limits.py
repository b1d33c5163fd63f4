"""
How fast and how much at once: every attempt passes a gate, and reports back how it ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from adapty_async._gate import NO_LIMITS, Gates, RunLimits
from adapty_async._loop_local import LoopLocal
from adapty_async._operation import Request, Response, Send
from adapty_async._places import Places
from adapty_async.errors import AdaptyError, DeadlineError

__all__ = ("limit",)


def limit(
    send: Send,
    slots: LoopLocal[Places],
    gates: Gates,
    clock: Callable[[], float],
    run: RunLimits = NO_LIMITS,
) -> Send:
    """
    Let every attempt wait for its moment and for one of the loop's connections.

    A request without a deadline yet gets it when its first turn comes: an item of a bulk run is
    not charged for the queue in front of it.
    """

    async def send_within_limits(request: Request) -> Response:
        gate, slot, tally = gates.get(request.bucket), slots.get(), request.tally
        if request.background:
            await gate.enter_in_background(request, slot, run)
        else:
            await gate.enter(request, slot)
        sent = clock()
        failure: AdaptyError | None = None
        try:
            if tally.deadline == math.inf:
                tally.deadline = sent + request.allowance
            elif sent >= tally.deadline:
                raise DeadlineError("no time left to send it", operation=request.operation)
            return await send(request)
        except AdaptyError as error:
            failure = error
            raise
        finally:
            slot.give()
            gate.leave(request, failure, sent)
            if run.capacity is not None:
                run.capacity.leave(failure, clock() - sent)

    return send_within_limits
