"""
A bucket limiter: the pauses, the request rate and the circuit breaker of one server-side bucket.

A client has one limiter for each bucket, since the server counts by bucket: a 429 to one task holds
for all. Items of bulk runs have low priority and use an adaptive rate. Single calls have priority
over them and are not rate limited by default.
"""

from __future__ import annotations

import asyncio
import functools
import math
import threading
from collections.abc import Callable
from typing import NamedTuple

from adapty_async._api.operation import Request
from adapty_async._flow.adaptive_rate import AdaptiveRateLimiter
from adapty_async._flow.circuit_breaker import CircuitBreaker, Sign, sign_of
from adapty_async._flow.rate_limiter import CLOCK_RESOLUTION, RateLimiter
from adapty_async._flow.run_limits import NO_LIMITS, RunLimits
from adapty_async._flow.semaphore import PrioritySemaphore
from adapty_async._flow.wait_queue import WaitQueue
from adapty_async._runtime.clock import Timing
from adapty_async._runtime.fork import register_fork_handler
from adapty_async._runtime.loop_local import LoopLocal
from adapty_async.errors import (
    AdaptyError,
    CircuitOpenError,
    DeadlineError,
    RateLimitError,
)
from adapty_async.statistics import BucketStatistics

__all__ = ("BucketLimiter", "LimiterRegistry", "Verdict", "too_late")


# Seconds after which a waiter checks again: an outage may end before the next probe is due.
_RECHECK = 1.0


class Verdict(NamedTuple):
    """The meaning of an attempt's result: whether the API worked, or an outage made it fail."""

    worked: bool
    in_outage: bool


class BucketLimiter:
    """
    A limiter that combines all limits of one bucket.

    Attributes:
        clock: returns monotonic seconds.
        adaptive: the adaptive rate of bulk runs, and the pauses of all requests.
        breaker: the circuit breaker.
        in_flight: attempts without a response yet.
        requests: number of attempts.
        throttled: number of attempts that were throttled (429).
        failed: number of attempts whose failure may be due to an outage.
        has_worked: the API has responded at least once.
    """

    def __init__(self, timing: Timing, rate_limiter: RateLimiter | None) -> None:
        self.clock = timing.clock
        self._sleep = timing.sleep
        self._rate_limiter = rate_limiter
        self._lock = threading.Lock()  # a client may be used from several threads' loops
        self._urgent_queue = LoopLocal(lambda: PrioritySemaphore(1))
        self._urgent = 0
        # the deadlines of waiting calls, by the timeout of their wait
        self._waiting: LoopLocal[dict[asyncio.Timeout, float]] = LoopLocal(dict)
        self._latest = NO_LIMITS  # of the latest run, for the statistics
        self.adaptive = AdaptiveRateLimiter(timing.clock)
        self.breaker = CircuitBreaker(timing.clock, timing.uniform)
        self.in_flight = 0
        self.requests = 0
        self.throttled = 0
        self.failed = 0
        self.has_worked = False
        self._asked_until = 0.0  # `Retry-After` of the last 429; may be later than the pause's end

    @property
    def paused_for(self) -> float:
        """The remaining seconds of a pause that the server asked for."""
        return max(0.0, self.adaptive.paused_until - self.clock())

    def try_acquire(
        self, request: Request, deadline: float, connections: PrioritySemaphore
    ) -> bool:
        """
        Acquire a connection for a single call at once, if no rate, pause or queue delays it.

        Raises:
            CircuitOpenError: the circuit is open.
            RateLimitError: a pause lasts beyond the call's deadline.
            DeadlineError: the permit would come after the call's deadline.
        """
        now = self.clock()
        self._require_closed_circuit(request)
        if (
            self._rate_limiter is not None
            or self.adaptive.paused_until > now
            or not connections.try_acquire()
        ):
            return False
        acquire = functools.partial(self._acquire_for_call, request, deadline, now)
        return not _acquire_or_release(connections, acquire)

    async def acquire(
        self, request: Request, deadline: float, connections: PrioritySemaphore
    ) -> None:
        """
        Wait for a connection and a permit for a single call.

        Raises:
            CircuitOpenError: the circuit is open.
            RateLimitError: a pause lasts beyond the call's deadline.
            DeadlineError: the permit would come after the call's deadline.
        """
        waiting, timeout = self._waiting.get(), asyncio.timeout(None)
        waiting[timeout] = deadline
        try:
            async with timeout:
                await self._wait(request, deadline, connections, self.clock())
        except TimeoutError:
            raise self._no_permit(request, deadline) from None
        finally:
            del waiting[timeout]

    async def _wait(
        self, request: Request, deadline: float, connections: PrioritySemaphore, arrived: float
    ) -> None:
        acquire = functools.partial(self._acquire_for_call, request, deadline, arrived)
        if self._rate_limiter is None and self.adaptive.paused_until <= arrived:
            await self._acquire_connection(request, deadline, connections)
            if not _acquire_or_release(connections, acquire):
                return
        with self._lock:
            self._urgent += 1
        try:
            await self._wait_in_queue(request, deadline, connections, acquire)
        finally:
            with self._lock:
                self._urgent -= 1

    async def _wait_in_queue(
        self,
        request: Request,
        deadline: float,
        connections: PrioritySemaphore,
        acquire: Callable[[], float],
    ) -> None:
        self._require_time(request, deadline, self._expected_delay())
        queue = self._urgent_queue.get()
        seconds = deadline - self.clock()
        await _acquire_within(queue, seconds, lambda: self._no_permit(request, deadline))
        try:
            while True:
                await self._acquire_connection(request, deadline, connections)
                wait = _acquire_or_release(connections, acquire)
                if not wait:
                    return
                self._require_time(request, deadline, wait)
                await self._sleep(wait)
        finally:
            queue.release()

    async def _acquire_connection(
        self, request: Request, deadline: float, connections: PrioritySemaphore
    ) -> None:
        def none_free() -> DeadlineError:
            return DeadlineError("no connection became free in time", operation=request.operation)

        await _acquire_within(connections, deadline - self.clock(), none_free)

    def _require_closed_circuit(self, request: Request) -> None:
        if wait := self.breaker.delay():
            raise CircuitOpenError(
                "the circuit is open because of an outage",
                operation=request.operation,
                retry_after=wait,
            )

    def _require_time(self, request: Request, deadline: float, wait: float) -> None:
        if self.clock() + wait >= deadline:
            raise self._no_permit(request, deadline)

    def _no_permit(self, request: Request, deadline: float) -> AdaptyError:
        """Return the error of a call without time left: of a pause if it outlasts the deadline."""
        wait = self.paused_for
        if not wait or self.clock() + wait < deadline:
            return too_late(request)
        error = RateLimitError(
            f"throttled (429) before, nothing is sent for another {wait:.1f} s",
            operation=request.operation,
            status=429,
        )
        error.retry_after = max(wait, self._asked_until - self.clock())
        return error

    def _expire_waiting(self) -> None:
        """Time out the waiting calls of this event loop whose deadline is within the pause."""
        for timeout, deadline in self._waiting.get().items():
            late = self.adaptive.paused_until >= deadline
            if late and not timeout.expired():
                timeout.reschedule(asyncio.get_running_loop().time())

    def _acquire_for_call(self, request: Request, deadline: float, arrived: float) -> float:
        with self._lock:
            self._require_closed_circuit(request)
            self._require_time(request, deadline, 0.0)
            wait = self.paused_for
            if self._rate_limiter is not None:
                wait = max(wait, self._rate_limiter.delay())
            was_paused = self.adaptive.paused_until > arrived
            if wait <= CLOCK_RESOLUTION and was_paused:
                # paused calls resume at the adaptive rate: all at once would be a burst
                wait = self.adaptive.acquire()
            if wait <= CLOCK_RESOLUTION:
                wait = 0.0
                self._count_sent(paced=was_paused)
            return wait

    def _count_sent(self, *, paced: bool) -> None:
        self.requests += 1
        self.in_flight += 1
        if not paced:
            self.adaptive.count()
        if self.breaker.since is not None:
            self.breaker.record_probe()
        if self._rate_limiter is not None:
            self._rate_limiter.acquire()

    def _expected_delay(self) -> float:
        """Return the minimum seconds that a new call waits, behind those in the queue."""
        if self._rate_limiter is None:
            return self.paused_for
        wait = self._rate_limiter.delay()
        first = 1 if wait else self._rate_limiter.burst  # maximum number that start with the first
        return max(self.paused_for, wait + max(0, self._urgent - first) / self._rate_limiter.rate)

    def wait_queue(self, connections: PrioritySemaphore, limits: RunLimits) -> WaitQueue[Request]:
        """
        Return a wait queue in which the items of one run wait for a connection and a permit.

        The permit is acquired last, when nothing else can delay the request. Permits that were
        acquired earlier would accumulate behind a busy connection and be used all at once. Until
        then the connection is available to others.

        Raises, in the task of an entrant:
            CircuitOpenError: an outage or a pause has lasted longer than the run's `max_outage`.
        """

        def admit(request: Request) -> bool:
            if connections.available <= 0 or self._acquire_for_item(request, limits):
                return False
            return connections.try_acquire()

        async def lead(request: Request) -> None:
            while True:
                await connections.acquire()
                acquire = functools.partial(self._acquire_for_item, request, limits)
                wait = _acquire_or_release(connections, acquire)
                if not wait:
                    return
                await self._sleep(min(wait, _RECHECK))

        def revoke(_: Request) -> None:
            with self._lock:
                self.in_flight -= 1
                self.requests -= 1
            connections.release()

        self._latest = limits
        return WaitQueue(admit, lead, revoke)

    def _acquire_for_item(self, request: Request, limits: RunLimits) -> float:
        with self._lock:
            wait = 0.0
            is_adaptive = self._is_adaptive(limits)
            if not is_adaptive or self._urgent or self.breaker.since is not None:
                wait = self._item_delay(limits)
            is_limited = is_adaptive or self._is_measured()
            is_slowed = wait <= CLOCK_RESOLUTION and is_limited
            if is_slowed:
                wait = self.adaptive.acquire()
            if wait > CLOCK_RESOLUTION:
                self._require_patience(request, limits, wait, wait if is_slowed else 0.0)
                return wait
            self._count_sent(paced=is_limited)
            if limits.rate_limiter is not None:
                limits.rate_limiter.acquire()
            return 0.0

    def _item_delay(self, limits: RunLimits) -> float:
        wait = max(self.breaker.delay(), self.paused_for)
        if self._urgent:
            wait = max(wait, 1 / (self._rate_limiter or self.adaptive).rate)
        for limiter in self._rate_limiter, limits.rate_limiter:
            if limiter is not None:
                wait = max(wait, limiter.delay())
        return wait

    def _require_patience(
        self, request: Request, limits: RunLimits, wait: float, slowed: float
    ) -> None:
        """
        Raise if an item's run has waited for too long, or will have at the end of the pause.

        Waits for a configured rate or for single calls do not count.
        """
        timer = limits.timer(request.bucket, self.clock)
        held = max(slowed, self.breaker.delay(), self.paused_for)
        if held > CLOCK_RESOLUTION:
            timer.hold(min(held, _RECHECK))
        if timer.lasted + self.paused_for > limits.max_outage:
            raise CircuitOpenError(
                f"no service for longer than {limits.max_outage:g} s",
                operation=request.operation,
                retry_after=wait,
            )

    def _is_adaptive(self, limits: RunLimits) -> bool:
        """Return whether no rate is configured, so that the adaptive rate holds."""
        return self._rate_limiter is None and limits.rate_limiter is None

    def _is_measured(self) -> bool:
        """Return whether the adaptive rate holds in any case: the server throttled requests."""
        return self.adaptive.limit is not None or self.adaptive.probing

    def expect(self, rate: float | None) -> None:
        """Start with a limit of an earlier run, unless one was measured since."""
        with self._lock:
            if rate is not None and self.adaptive.limit is None:
                paused_until = self.adaptive.paused_until
                self.adaptive = AdaptiveRateLimiter(self.clock, rate=rate)
                self.adaptive.paused_until = max(self.adaptive.paused_until, paused_until)

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
        configured = self._configured_rate(self._latest)
        adaptive = self.adaptive.rate
        if configured is None:
            return adaptive
        return min(configured, adaptive) if self._is_measured() else configured

    def _configured_rate(self, limits: RunLimits) -> float | None:
        """Return the lowest configured rate; None without one."""
        limiters = self._rate_limiter, limits.rate_limiter
        return min((each.rate for each in limiters if each is not None), default=None)

    def release(
        self,
        request: Request,
        error: AdaptyError | None,
        sent: float,
        limits: RunLimits = NO_LIMITS,
    ) -> Verdict:
        """Record the result of an attempt sent at `sent`."""
        with self._lock:
            self.in_flight -= 1
            if error is None or sign_of(error) is Sign.WORKS:
                self._record_success(request, sent, limits)
                return Verdict(worked=True, in_outage=False)
            return Verdict(
                worked=False, in_outage=self._record_failure(request, sent, error, limits)
            )

    def _record_failure(
        self, request: Request, sent: float, error: AdaptyError, limits: RunLimits
    ) -> bool:
        """Record a failure; return whether a known outage is its cause, and not the request."""
        sign = sign_of(error)
        if sign is Sign.THROTTLED:
            self.throttled += 1
            self._record_throttled(request, sent, error, limits)
        # the URL or the call may be the cause of a response that is not the API's
        elif sign is Sign.FAILS or (
            sign is Sign.STRANGE and request.low_priority and self.has_worked
        ):
            self.failed += 1
            self.breaker.record_failure(sent, getattr(error, "retry_after", None))
            return self.breaker.since is not None
        return False

    def _record_throttled(
        self, request: Request, sent: float, error: AdaptyError, limits: RunLimits
    ) -> None:
        configured = self._configured_rate(limits)
        if request.low_priority and configured is not None:
            self.adaptive.search_from(configured)
        before, asked = self.adaptive.paused_until, getattr(error, "retry_after", None)
        self.adaptive.throttled(sent, asked, within=limits.patience() - _RECHECK)
        self.breaker.record_success(sent)
        if self.adaptive.paused_until > before:
            self._asked_until = self.clock() + (asked or 0.0)
            self._expire_waiting()

    def _record_success(self, request: Request, sent: float, limits: RunLimits) -> None:
        self.has_worked = True
        paced = request.low_priority and (self._is_adaptive(limits) or self._is_measured())
        self.adaptive.succeeded(sent, paced=paced)
        self.breaker.record_success(sent)


class LimiterRegistry:
    """A registry of one client's bucket limiters by bucket; they share its rate limiter."""

    def __init__(self, timing: Timing, rate_limiter: RateLimiter | None = None) -> None:
        self._timing = timing
        self._rate_limiter = rate_limiter
        self._expected: float | None = None
        self._limiters: dict[str, BucketLimiter] = {}
        register_fork_handler(self)

    def after_fork(self) -> None:
        """Start fresh: requests in flight and held locks belong to the parent process."""
        self._limiters = {}

    def get(self, bucket: str) -> BucketLimiter:
        """Return the limiter of a bucket."""
        limiter = self._limiters.get(bucket)
        if limiter is None:
            limiter = BucketLimiter(self._timing, self._rate_limiter)
            limiter.expect(self._expected)
            limiter = self._limiters.setdefault(bucket, limiter)
        return limiter

    def expect(self, rate: float) -> None:
        """Start with the rate of an earlier run in every bucket without a measured limit."""
        self._expected = rate
        for limiter in tuple(self._limiters.values()):
            limiter.expect(rate)

    def learned_rate(self) -> float | None:
        """Return the adaptive rate if exactly one bucket has a measured limit, otherwise None."""
        adaptive = [limiter.adaptive for limiter in tuple(self._limiters.values())]
        rates = [each.estimate for each in adaptive if each.limit is not None]
        return rates[0] if len(rates) == 1 else None

    @property
    def rate(self) -> float | None:
        """The configured requests per second; None without a limit."""
        return None if self._rate_limiter is None else self._rate_limiter.rate

    def statistics(self) -> dict[str, BucketStatistics]:
        """Return the statistics of the buckets that were used."""
        return {bucket: limiter.statistics() for bucket, limiter in dict(self._limiters).items()}


def too_late(request: Request) -> DeadlineError:
    """Return the error of a call without time left."""
    return DeadlineError("no time left to wait for a permit", operation=request.operation)


def _acquire_or_release(connections: PrioritySemaphore, acquire: Callable[[], float]) -> float:
    """Return the seconds to wait; keep the connection if they are 0, otherwise release it."""
    try:
        wait = acquire()
    except BaseException:
        connections.release()
        raise
    if wait:
        connections.release()
    return wait


async def _acquire_within(
    semaphore: PrioritySemaphore, seconds: float, failure: Callable[[], AdaptyError]
) -> None:
    if semaphore.available > 0 or seconds == math.inf:
        await semaphore.acquire(urgent=True)
        return
    try:
        async with asyncio.timeout(seconds):
            await semaphore.acquire(urgent=True)
    except TimeoutError:
        raise failure() from None
