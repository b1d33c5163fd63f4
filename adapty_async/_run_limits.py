"""
What holds for one bulk run in addition to what holds for its client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from adapty_async._capacity import Capacity
from adapty_async._operation import Request
from adapty_async._outage import OutageTimer
from adapty_async._pacer import Limiter

__all__ = ("NO_LIMITS", "RunLimits")


class RunLimits(msgspec.Struct, frozen=True):
    """
    The limits of one bulk run.

    Attributes:
        pacer: its own pace, None to learn one.
        capacity: how many of its requests are to be in flight; None if that was said.
        max_outage: seconds without any success from a bucket that end it.
        timers: those seconds so far, by bucket.
        stopping: is set when the run sends and retries nothing more; the run sets it.
    """

    pacer: Limiter | None = None
    capacity: Capacity | None = None
    max_outage: float = 900.0
    timers: dict[str, OutageTimer] = msgspec.field(default_factory=dict)
    stopping: asyncio.Event = msgspec.field(default_factory=asyncio.Event)

    def timer(self, bucket: str, clock: Callable[[], float]) -> OutageTimer:
        """
        Return the timer of a bucket.
        """
        return self.timers.get(bucket) or self.timers.setdefault(bucket, OutageTimer(clock))

    def hold(self, request: Request, seconds: float) -> None:
        """
        Record that a request waits for that time until it is retried.
        """
        self.timers[request.bucket].hold(seconds)

    def patience(self) -> float:
        """
        Return the seconds that are left until an outage ends the run, if no success comes.
        """
        return self.max_outage - max((each.lasted for each in self.timers.values()), default=0.0)


NO_LIMITS = RunLimits()
