"""The limits of one bulk run, in addition to those of its client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from adapty_async._api.operation import Request
from adapty_async._flow.circuit_breaker import OutageTimer, WakefulClock
from adapty_async._flow.concurrency_limit import ConcurrencyLimit
from adapty_async._flow.rate_limiter import RateLimiter

__all__ = ("NO_LIMITS", "RunLimits", "look_every", "wakeful")

# Seconds after which a run looks again whether an outage has lasted too long, at most.
_LOOK = 1.0
# How often it looks in `max_outage` seconds at least, so that no single one of them weighs much.
_LOOKS = 5
# How many times as late as it should be a look may be before the event loop stood still.
_LATE = 1.25


class RunLimits(msgspec.Struct, frozen=True):
    """
    The limits of one bulk run.

    Attributes:
        pacer: its rate limiter; None for an adaptive rate.
        capacity: its concurrency limit; None if `concurrency` was given.
        max_outage: seconds without any success from a bucket that end it.
        timers: those seconds so far, by bucket.
        awake: the clock of these timers, which stands still while the event loop does; None for
            the client's.
        stopping: is set when the run sends and retries nothing more; the run sets it.
    """

    rate_limiter: RateLimiter | None = None
    concurrency: ConcurrencyLimit | None = None
    max_outage: float = 900.0
    timers: dict[str, OutageTimer] = msgspec.field(default_factory=dict)
    awake: WakefulClock | None = None
    stopping: asyncio.Event = msgspec.field(default_factory=asyncio.Event)

    def timer(self, bucket: str, clock: Callable[[], float]) -> OutageTimer:
        """Return the timer of a bucket."""
        timer = self.timers.get(bucket)
        return timer or self.timers.setdefault(bucket, OutageTimer(self.awake or clock))

    def hold(self, request: Request, seconds: float) -> None:
        """Record that a request waits for that time until it is retried."""
        self.timers[request.bucket].hold(seconds)

    def patience(self) -> float:
        """Return the seconds that are left until an outage ends the run, if no success comes."""
        return self.max_outage - max((each.lasted for each in self.timers.values()), default=0.0)


def look_every(max_outage: float) -> float:
    """Return the seconds after which a run looks at its patience again."""
    return min(_LOOK, max_outage / _LOOKS)


def wakeful(clock: Callable[[], float], max_outage: float) -> WakefulClock:
    """Return a clock for a run's timers, which the run has to look at as often."""
    return WakefulClock(clock, _LATE * look_every(max_outage))


NO_LIMITS = RunLimits()
