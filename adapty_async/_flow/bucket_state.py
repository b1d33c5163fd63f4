"""
The state of one server-side bucket, which the limiters of its requests share.

- `BucketState`: the rate source, the circuit breaker and the counts.
- `CallQueue`: the single calls that wait in one event loop.
- `EndpointMonitor`: finds endpoints of the bucket with a lower limit of their own.
"""

from __future__ import annotations

import asyncio
import enum
import threading

import msgspec

from adapty_async._flow.circuit_breaker import CircuitBreaker
from adapty_async._flow.rate_limiter import RateLimiter
from adapty_async._flow.rate_source import RateSource
from adapty_async._flow.semaphore import PrioritySemaphore
from adapty_async._runtime.clock import Timing
from adapty_async._runtime.loop_local import LoopLocal
from adapty_async.statistics import BucketStatistics

__all__ = ("BucketState", "CallQueue", "EndpointMonitor", "Suspicion", "Verdict")

# 429 responses to one operation without a success, and successes of others meanwhile, that show a
# limit of its own, unless the others are throttled too, up to a share of their successes: a bucket
# that is overloaded rejects all operations alike.
_OWN_LIMIT = 5
_OVERLOAD = 0.2


class Verdict(enum.Enum):
    """A verdict on the result of an attempt."""

    #: The API responded, and did not throttle.
    WORKED = enum.auto()
    #: The attempt failed in an outage, so the request is not the cause.
    OUTAGE = enum.auto()
    #: The attempt was throttled, failed without a known outage, or is no sign of anything.
    OTHER = enum.auto()


class Suspicion(msgspec.Struct):
    """
    Counts since the first 429 of an operation that had no success since.

    Attributes:
        limit: the measured limit of the bucket at that time.
        throttled: 429 responses to the operation.
        others_worked: successes of other operations of the bucket.
        others_throttled: 429 responses to these.
    """

    limit: float | None
    throttled: int = 0
    others_worked: int = 0
    others_throttled: int = 0

    @property
    def is_confirmed(self) -> bool:
        """Whether the operation is throttled, and the bucket is not overloaded."""
        return (
            min(self.throttled, self.others_worked) >= _OWN_LIMIT
            and self.others_throttled <= _OVERLOAD * self.others_worked
        )


class EndpointMonitor:
    """
    A monitor of the endpoints of one bucket, which finds those with a lower limit of their own.

    Adapty's documentation says that some have one. The requests of such an endpoint are throttled
    while others of the bucket succeed. Its 429 responses say nothing about the bucket.

    Attributes:
        separate: operations that have their own limit.
    """

    def __init__(self) -> None:
        self.separate: set[str] = set()
        self._suspicions: dict[str, Suspicion] = {}

    def record_success(self, operation: str) -> None:
        """Record a success of an operation, which ends the suspicion against it."""
        if self._suspicions:
            self._suspicions.pop(operation, None)
            for each in self._suspicions.values():
                each.others_worked += 1

    def record_throttled(self, operation: str, limit: float | None) -> Suspicion | None:
        """Record a 429 response; return the suspicion if it shows a limit of the operation."""
        for name, each in self._suspicions.items():
            each.others_throttled += name != operation
        suspicion = self._suspicions.setdefault(operation, Suspicion(limit))
        suspicion.throttled += 1
        if operation in self.separate or not suspicion.is_confirmed:
            return None
        self.separate.add(operation)
        return suspicion

    def __repr__(self) -> str:
        return f"EndpointMonitor(separate={sorted(self.separate)})"


class CallQueue:
    """
    The queue of the single calls to one bucket in one event loop.

    Attributes:
        turn: the right to wait for the next permit; the head of the queue has it.
        deadlines: the deadlines of the waiting calls, by the timeouts that end them.
    """

    def __init__(self) -> None:
        self.turn = PrioritySemaphore(1)
        self.deadlines: dict[asyncio.Timeout, float] = {}

    def expire(self, until: float) -> None:
        """Time out the calls whose deadline is not after the end of a pause."""
        for timeout, deadline in self.deadlines.items():
            if until >= deadline and not timeout.expired():
                timeout.reschedule(asyncio.get_running_loop().time())

    def __repr__(self) -> str:
        return f"CallQueue({len(self.deadlines)} calls)"


class BucketState:
    """
    The state of one bucket, which the limiters of its single calls and bulk runs share.

    Limiters hold the lock during each decision and each record.

    Attributes:
        clock: returns monotonic seconds.
        sleep: waits for a number of seconds.
        lock: a client may be used from the event loops of several threads.
        rate_limiter: the client's configured rate limiter; None without one.
        run_rate: the configured requests per second of the latest run, for the statistics.
        rate_source: the adaptive rate of bulk runs, and the pauses of all requests.
        breaker: the circuit breaker.
        calls: the queue of single calls, per event loop.
        urgent: number of single calls that wait for a permit, in all event loops.
        in_flight: attempts without a response yet.
        requests: number of attempts.
        throttled: number of attempts that were throttled (429).
        failed: number of attempts whose failure may be due to an outage.
        has_worked: the API has responded at least once.
        endpoints: finds the operations that have a limit of their own.
        is_endpoint: the bucket is the limit of one operation, in a bucket with others.
    """

    def __init__(
        self,
        timing: Timing,
        rate_limiter: RateLimiter | None,
        rate_source: RateSource,
        *,
        is_endpoint: bool = False,
    ) -> None:
        self.clock = timing.clock
        self.sleep = timing.sleep
        self.lock = threading.Lock()
        self.rate_limiter = rate_limiter
        self.run_rate: float | None = None
        self.rate_source = rate_source
        self.breaker = CircuitBreaker(timing.clock, timing.uniform)
        self.calls = LoopLocal(CallQueue)
        self.urgent = 0
        self.in_flight = 0
        self.requests = 0
        self.throttled = 0
        self.failed = 0
        self.has_worked = False
        self.endpoints = EndpointMonitor()
        self.is_endpoint = is_endpoint
        self._asked_until = 0.0  # `Retry-After` of the last 429; may be later than the pause's end

    @property
    def paused_for(self) -> float:
        """The remaining seconds of a pause that the server asked for."""
        return max(0.0, self.rate_source.paused_until - self.clock())

    @property
    def asked_for(self) -> float:
        """The remaining seconds of the last `Retry-After`, which a pause may end before."""
        return self._asked_until - self.clock()

    @property
    def is_measured(self) -> bool:
        """Whether the adaptive rate holds in any case: the server throttled requests."""
        return self.rate_source.limit is not None or self.rate_source.probing

    def record_sent(self, *, paced: bool) -> None:
        """Record an attempt that is sent now; it is `paced` if the rate source admitted it."""
        self.requests += 1
        self.in_flight += 1
        if not paced:
            self.rate_source.count()
        if self.breaker.since is not None:
            self.breaker.record_probe()
        if self.rate_limiter is not None:
            self.rate_limiter.acquire()

    def revoke_sent(self) -> None:
        """Take back the record of an attempt that was cancelled before it was sent."""
        self.in_flight -= 1
        self.requests -= 1

    def record_success(self, operation: str, sent: float, *, paced: bool) -> None:
        """Record a response of a working API to a request that was sent at `sent`."""
        self.has_worked = True
        self.endpoints.record_success(operation)
        self.rate_source.succeeded(sent, paced=paced)
        self.breaker.record_success(sent)

    def record_endpoint(self, operation: str) -> bool:
        """
        Record a 429 response to an operation; return whether the operation has its own limit.

        When that is found, the rate starts again with the limit known before.
        """
        source = self.rate_source
        if (found := self.endpoints.record_throttled(operation, source.limit)) is not None:
            source.restart(found.limit)
        if operation not in self.endpoints.separate:
            return False
        self.throttled += 1
        return True

    def record_throttled(self, sent: float, retry_after: float | None, within: float) -> None:
        """
        Record a 429 response to a request that was sent at `sent`.

        If it pauses all requests, the waiting calls of this event loop whose deadline is within the
        pause time out. A probe is due `within` these seconds.
        """
        self.throttled += 1
        before = self.rate_source.paused_until
        self.rate_source.throttled(sent, retry_after, within=within)
        self.breaker.record_success(sent)
        if self.rate_source.paused_until > before:
            self._asked_until = self.clock() + (retry_after or 0.0)
            self.calls.get().expire(self.rate_source.paused_until)

    def record_failure(self, sent: float, retry_after: float | None) -> Verdict:
        """Record a failure that an outage may have caused; return whether one is known."""
        self.failed += 1
        self.breaker.record_failure(sent, retry_after)
        return Verdict.OTHER if self.breaker.since is None else Verdict.OUTAGE

    def configured_rate(self, run_rate: float | None) -> float | None:
        """Return the lower configured rate, of the client or a run; None without one."""
        if self.rate_limiter is None:
            return run_rate
        return self.rate_limiter.rate if run_rate is None else min(self.rate_limiter.rate, run_rate)

    def statistics(self) -> BucketStatistics:
        """Return the state and counts of this bucket."""
        return BucketStatistics(
            rate=self._rate(),
            in_flight=self.in_flight,
            paused_for=self.paused_for,
            circuit=self.breaker.state,
            requests=self.requests,
            throttled=self.throttled,
            failed=self.failed,
        )

    def _rate(self) -> float:
        """Return the requests per second that hold for the latest run."""
        configured, adaptive = self.configured_rate(self.run_rate), self.rate_source.rate
        if configured is None:
            return adaptive
        return min(configured, adaptive) if self.is_measured else configured

    def __repr__(self) -> str:
        return (
            f"BucketState({self.rate_source!r}, {self.breaker.state}, "
            f"in_flight={self.in_flight}, requests={self.requests}, throttled={self.throttled})"
        )
