"""A bundle of the limits of one bulk run, in addition to those of its client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from adapty_async._api.operation import Request
from adapty_async._flow.circuit_breaker import OutageTimer, WakefulClock
from adapty_async._flow.concurrency_limit import ConcurrencyLimit
from adapty_async._flow.rate_limiter import RateLimiter

__all__ = ("NO_LIMITS", "RunLimits", "look_every", "wakeful")

# Maximum seconds between two checks of a run whether an outage has lasted too long.
_CHECK_SECONDS = 1.0
# Minimum number of checks in `max_outage` seconds, so that no single one has much weight.
_CHECKS = 5
# A check later than this multiple of its interval means a blocked event loop.
_LATE = 1.25


class RunLimits(msgspec.Struct, frozen=True):
    """
    A bundle of the limits of one bulk run.

    Attributes:
        rate_limiter: its rate limiter; None for an adaptive rate.
        concurrency: its concurrency limit; None if the option `concurrency` is set.
        max_outage: seconds without a success from a bucket that end the run.
        timers: measure these seconds, by bucket.
        awake: the clock of these timers, which stands still while the event loop is blocked; None
            for the client's clock.
        stopping: set by the run when it sends and retries nothing more.
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
        """Record that a request waits for a number of seconds until it is retried."""
        self.timers[request.bucket].hold(seconds)

    def patience(self) -> float:
        """Return the seconds until an outage ends the run, if no request succeeds."""
        return self.max_outage - max((each.lasted for each in self.timers.values()), default=0.0)


def look_every(max_outage: float) -> float:
    """Return the seconds between two checks of a run's patience."""
    return min(_CHECK_SECONDS, max_outage / _CHECKS)


def wakeful(clock: Callable[[], float], max_outage: float) -> WakefulClock:
    """Return a clock for a run's timers; the run has to call its `tick` at each check."""
    return WakefulClock(clock, _LATE * look_every(max_outage))


NO_LIMITS = RunLimits()
