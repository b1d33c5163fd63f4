"""
How fast and how much at once: every attempt passes a gate, and reports back how it ended.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

from adapty_async._gate import NO_LIMITS, Gates, RunLimits
from adapty_async._loop_local import LoopLocal
from adapty_async._operation import Request, Response, Send
from adapty_async._places import Places
from adapty_async.errors import AdaptyError

__all__ = ("limit",)

_UNANSWERED = AdaptyError("no answer")
"""
How an attempt ended that was cancelled, or that broke down in a way that is not the server's.
"""


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
    not charged for the queue in front of it. Each run has lines of its own, so that a slow one
    holds up no other.
    """
    lines = LoopLocal(lambda: defaultdict[str, Places](lambda: Places(1)))

    async def send_within_limits(request: Request) -> Response:
        gate, slot, tally = gates.get(request.bucket), slots.get(), request.tally
        if request.background:
            line = lines.get()[request.bucket]
            await gate.enter_in_background(request, slot, run, line)
        else:
            await gate.enter(request, slot)
        sent = clock()
        failure: AdaptyError | None = _UNANSWERED
        try:
            if tally.deadline == math.inf:
                tally.deadline = sent + request.allowance
            response = await send(request)
        except AdaptyError as error:
            failure = error
            raise
        else:
            failure = None
            return response
        finally:
            slot.give()
            gate.leave(request, failure, sent, run)
            if run.capacity is not None:
                run.capacity.leave(failure, clock() - sent)

    return send_within_limits
