"""
What every attempt passes before it is sent: pauses that the server asked for, the pace, an outage.

There is one gate for a client and a bucket, since that is what the server counts by: a 429 to one
task is heard by all. Items of bulk runs ("background") go at a pace that is learned, single calls
as they come, in front of them.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from typing import TypeVar

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

__all__ = ("BucketLimiter", "LimiterRegistry", "too_late")

T = TypeVar("T")


# Seconds after which who waits looks again: an outage may end before the next try was due.
_LOOK = 1.0


class BucketLimiter:
    """
    The gate of one bucket.

    Attributes:
        clock: seconds that only ever grow.
        learned: the pace of bulk runs, and pauses of everything.
        circuit: whether the service is down.
        in_flight: attempts that have no answer yet.
        requests, throttled, failed: attempts, those answered 429, and those that an outage may
            have caused to fail.
        has_worked: the API has responded at least once.
    """

    def __init__(self, timing: Timing, pacer: RateLimiter | None) -> None:
        self.clock = timing.clock
        self._sleep = timing.sleep
        self._pacer = pacer
        self._lock = threading.Lock()  # a client may be used from several threads' loops
        self._urgent_line = LoopLocal(lambda: PrioritySemaphore(1))
        self._urgent = 0
        self._waiting: LoopLocal[dict[asyncio.Timeout, Request]] = LoopLocal(dict)
        self._latest = NO_LIMITS  # of all runs, for who asks what is going on
        self.adaptive = AdaptiveRateLimiter(timing.clock)
        self.breaker = CircuitBreaker(timing.clock, timing.uniform)
        self.in_flight = 0
        self.requests = 0
        self.throttled = 0
        self.failed = 0
        self.has_worked = False
        self._asked_until = 0.0  # by the last pause's 429, which may be longer than the pause

    @property
    def paused_for(self) -> float:
        """The seconds for which nothing is sent, since the server asked for that."""
        return max(0.0, self.adaptive.paused_until - self.clock())

    def try_acquire(self, request: Request, slots: PrioritySemaphore) -> bool:
        """
        Let a single call go at once, if there is neither a pace nor a pause nor a queue.

        Raises:
            CircuitOpenError: the service is down.
            RateLimitError: a pause lasts longer than the call has time.
            DeadlineError: the call would be too late.
        """
        now = self.clock()
        self._require_service(request)
        if self._pacer is not None or self.adaptive.paused_until > now or not slots.try_acquire():
            return False
        return not _keep(slots, self._turn, request, now)

    async def acquire(self, request: Request, slots: PrioritySemaphore) -> None:
        """
        Wait for a connection and for the moment of a single call.

        Raises:
            CircuitOpenError: the service is down.
            RateLimitError: a pause lasts longer than the call has time.
            DeadlineError: the call would be too late.
        """
        waiting, patience = self._waiting.get(), asyncio.timeout(None)
        waiting[patience] = request
        try:
            async with patience:
                await self._wait(request, slots, self.clock())
        except TimeoutError:
            raise self._no_turn(request) from None
        finally:
            del waiting[patience]

    async def _wait(self, request: Request, slots: PrioritySemaphore, entered: float) -> None:
        if self._pacer is None and self.adaptive.paused_until <= entered:
            await self._take_connection(request, slots)
            if not _keep(slots, self._turn, request, entered):
                return
        with self._lock:
            self._urgent += 1
        try:
            await self._wait_in_line(request, slots, entered)
        finally:
            with self._lock:
                self._urgent -= 1

    async def _wait_in_line(
        self, request: Request, slots: PrioritySemaphore, entered: float
    ) -> None:
        self._require_time(request, self._expected())
        line = self._urgent_line.get()
        await _take(line, request.state.deadline - self.clock(), lambda: self._no_turn(request))
        try:
            while True:
                await self._take_connection(request, slots)
                wait = _keep(slots, self._turn, request, entered)
                if not wait:
                    return
                self._require_time(request, wait)
                await self._sleep(wait)
        finally:
            line.release()

    async def _take_connection(self, request: Request, slots: PrioritySemaphore) -> None:
        def none_free() -> DeadlineError:
            return DeadlineError("no connection became free in time", operation=request.operation)

        await _take(slots, request.state.deadline - self.clock(), none_free)

    def _require_service(self, request: Request) -> None:
        if wait := self.breaker.delay():
            raise CircuitOpenError(
                "the service is down", operation=request.operation, retry_after=wait
            )

    def _require_time(self, request: Request, wait: float) -> None:
        if self.clock() + wait >= request.state.deadline:
            raise self._no_turn(request)

    def _no_turn(self, request: Request) -> AdaptyError:
        """
        Return the error of a call that has no time left: a pause is the reason if it outlasts it.
        """
        wait = self.paused_for
        if not wait or self.clock() + wait < request.state.deadline:
            return too_late(request)
        error = RateLimitError(
            f"throttled (429) before, nothing is sent for another {wait:.1f} s",
            operation=request.operation,
            status=429,
        )
        error.retry_after = max(wait, self._asked_until - self.clock())
        return error

    def _end_those_without_time(self) -> None:
        """End the calls of this event loop that wait, and have no time left after a pause."""
        for patience, request in self._waiting.get().items():
            late = self.adaptive.paused_until >= request.state.deadline
            if late and not patience.expired():
                patience.reschedule(asyncio.get_running_loop().time())

    def _turn(self, request: Request, entered: float) -> float:
        with self._lock:
            self._require_service(request)
            self._require_time(request, 0.0)
            wait = self.paused_for
            if self._pacer is not None:
                wait = max(wait, self._pacer.delay())
            was_paused = self.adaptive.paused_until > entered
            if wait <= CLOCK_RESOLUTION and was_paused:
                # those that were held up go on at the learned pace: all at once would be too much
                wait = self.adaptive.acquire()
            if wait <= CLOCK_RESOLUTION:
                wait = 0.0
                self._go(paced=was_paused)
            return wait

    def _go(self, *, paced: bool) -> None:
        self.requests += 1
        self.in_flight += 1
        if not paced:
            self.adaptive.count()
        if self.breaker.since is not None:
            self.breaker.record_probe()
        if self._pacer is not None:
            self._pacer.acquire()

    def _expected(self) -> float:
        """Return the seconds that a call waits at least if it comes now, behind those that wait."""
        if self._pacer is None:
            return self.paused_for
        wait = self._pacer.delay()
        first = 1 if wait else self._pacer.burst  # so many go with the first of them, at most
        return max(self.paused_for, wait + max(0, self._urgent - first) / self._pacer.rate)

    def line(self, slots: PrioritySemaphore, limits: RunLimits) -> WaitQueue[Request]:
        """
        Return the line in which the items of one run wait for a connection and for their moment.

        The moment comes last, when nothing can hold the request up any more: moments that were
        taken before would pile up behind a busy connection and then be used all at once. Until
        then others may have the connection.

        Raises, to who comes or waits:
            CircuitOpenError: the service has been down, or asks for a pause, for longer than the
                run waits.
        """

        def admit(request: Request) -> bool:
            if slots.available <= 0 or self._background_turn(request, limits):
                return False
            return slots.try_acquire()

        async def lead(request: Request) -> None:
            while True:
                await slots.acquire()
                wait = _keep(slots, self._background_turn, request, limits)
                if not wait:
                    return
                await self._sleep(min(wait, _LOOK))

        def expel(_: Request) -> None:
            with self._lock:
                self.in_flight -= 1
                self.requests -= 1
            slots.release()

        self._latest = limits
        return WaitQueue(admit, lead, expel)

    def _background_turn(self, request: Request, limits: RunLimits) -> float:
        with self._lock:
            wait = 0.0
            is_free = self._is_free(limits)
            if not is_free or self._urgent or self.breaker.since is not None:
                wait = self._hindrance(limits)
            is_learning = is_free or self._is_measured()
            is_slowed = wait <= CLOCK_RESOLUTION and is_learning
            if is_slowed:
                wait = self.adaptive.acquire()
            if wait > CLOCK_RESOLUTION:
                self._require_patience(request, limits, wait, wait if is_slowed else 0.0)
                return wait
            self._go(paced=is_learning)
            if limits.rate_limiter is not None:
                limits.rate_limiter.acquire()
            return 0.0

    def _hindrance(self, limits: RunLimits) -> float:
        wait = max(self.breaker.delay(), self.paused_for)
        if self._urgent:
            wait = max(wait, 1 / (self._pacer or self.adaptive).rate)
        for pacer in self._pacer, limits.rate_limiter:
            if pacer is not None:
                wait = max(wait, pacer.delay())
        return wait

    def _require_patience(
        self, request: Request, limits: RunLimits, wait: float, slowed: float
    ) -> None:
        """
        Raise if an item's run has waited for too long, or would have after the pause.

        Waits that are due to a given rate or to single calls do not count.
        """
        timer = limits.timer(request.bucket, self.clock)
        held = max(slowed, self.breaker.delay(), self.paused_for)
        if held > CLOCK_RESOLUTION:
            timer.hold(min(held, _LOOK))
        if timer.lasted + self.paused_for > limits.max_outage:
            raise CircuitOpenError(
                f"no service for longer than {limits.max_outage:g} s",
                operation=request.operation,
                retry_after=wait,
            )

    def _is_free(self, limits: RunLimits) -> bool:
        """Say whether nobody gave a pace, so that the learned one holds."""
        return self._pacer is None and limits.rate_limiter is None

    def _is_measured(self) -> bool:
        """Say whether the learned pace holds in any case: the server refused what was given."""
        return self.adaptive.limit is not None or self.adaptive.probing

    def expect(self, rate: float | None) -> None:
        """Begin with a limit that is known from before, unless one was learned since."""
        with self._lock:
            if rate is not None and self.adaptive.limit is None:
                paused_until = self.adaptive.paused_until
                self.adaptive = AdaptiveRateLimiter(self.clock, rate=rate)
                self.adaptive.paused_until = max(self.adaptive.paused_until, paused_until)

    def statistics(self) -> BucketStatistics:
        """Return what is going on."""
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
        """Return the requests per second that hold for the run that came last."""
        given = self._given_rate(self._latest)
        learned = self.adaptive.rate
        if given is None:
            return learned
        return min(given, learned) if self._is_measured() else given

    def _given_rate(self, limits: RunLimits) -> float | None:
        """Return the lowest of the paces that somebody gave."""
        given = [pacer.rate for pacer in (self._pacer, limits.rate_limiter) if pacer is not None]
        return min(given, default=None)

    def release(
        self,
        request: Request,
        error: AdaptyError | None,
        sent: float,
        limits: RunLimits = NO_LIMITS,
    ) -> bool:
        """Record how an attempt ended, and when it was sent; return whether the API has worked."""
        with self._lock:
            self.in_flight -= 1
            if error is None or sign_of(error) is Sign.WORKS:
                self._worked(request, sent, limits)
                return True
            self._failed(request, sent, error, limits)
            return False

    def _failed(self, request: Request, sent: float, error: AdaptyError, limits: RunLimits) -> None:
        sign = sign_of(error)
        if sign is Sign.THROTTLED:
            self.throttled += 1
            self._refused(request, sent, error, limits)
        # a response that is not the API's may be due to the address or to the call
        elif sign is Sign.FAILS or (
            sign is Sign.STRANGE and request.low_priority and self.has_worked
        ):
            self.failed += 1
            self.breaker.record_failure(sent, getattr(error, "retry_after", None))
            if self.breaker.since is not None:
                request.state.outage_failures += 1  # the item is not the reason

    def _refused(
        self, request: Request, sent: float, error: AdaptyError, limits: RunLimits
    ) -> None:
        given = self._given_rate(limits)
        if request.low_priority and given is not None:
            self.adaptive.search_from(given)
        before, asked = self.adaptive.paused_until, getattr(error, "retry_after", None)
        self.adaptive.throttled(sent, asked, within=limits.patience() - _LOOK)
        self.breaker.record_success(sent)
        if self.adaptive.paused_until > before:
            self._asked_until = self.clock() + (asked or 0.0)
            self._end_those_without_time()

    def _worked(self, request: Request, sent: float, limits: RunLimits) -> None:
        self.has_worked = True
        paced = request.low_priority and (self._is_free(limits) or self._is_measured())
        self.adaptive.succeeded(sent, paced=paced)
        self.breaker.record_success(sent)


class LimiterRegistry:
    """The gates of one client, by bucket; they share its pace."""

    def __init__(self, timing: Timing, pacer: RateLimiter | None = None) -> None:
        self._timing = timing
        self._pacer = pacer
        self._expected: float | None = None
        self._gates: dict[str, BucketLimiter] = {}
        register_fork_handler(self)

    def after_fork(self) -> None:
        """Begin anew: what is in flight, and who holds a lock, is so in another process."""
        self._gates = {}

    def get(self, bucket: str) -> BucketLimiter:
        """Return the gate of a bucket."""
        gate = self._gates.get(bucket)
        if gate is None:
            gate = BucketLimiter(self._timing, self._pacer)
            gate.expect(self._expected)
            gate = self._gates.setdefault(bucket, gate)
        return gate

    def expect(self, rate: float) -> None:
        """
        Begin with a pace, known from before, in every bucket of which nothing was learned yet.
        """
        self._expected = rate
        for gate in tuple(self._gates.values()):
            gate.expect(rate)

    def learned_rate(self) -> float | None:
        """Return the pace that was learned, if it was in exactly one bucket."""
        learned = [gate.adaptive for gate in tuple(self._gates.values())]
        rates = [each.estimate for each in learned if each.limit is not None]
        return rates[0] if len(rates) == 1 else None

    @property
    def rate(self) -> float | None:
        """The requests per second that were given, None if none were."""
        return None if self._pacer is None else self._pacer.rate

    def statistics(self) -> dict[str, BucketStatistics]:
        """Return what is going on in the buckets that were used."""
        return {bucket: gate.statistics() for bucket, gate in dict(self._gates).items()}


def too_late(request: Request) -> DeadlineError:
    """Return what a call ends with that has no time left."""
    return DeadlineError("no time left to wait for a turn", operation=request.operation)


def _keep(
    slots: PrioritySemaphore, turn: Callable[[Request, T], float], request: Request, more: T
) -> float:
    """Return the wait for a turn; the connection is kept if it is 0, else given back meanwhile."""
    try:
        wait = turn(request, more)
    except BaseException:
        slots.release()
        raise
    if wait:
        slots.release()
    return wait


async def _take(
    places: PrioritySemaphore, seconds: float, failure: Callable[[], AdaptyError]
) -> None:
    if places.available > 0 or seconds == math.inf:
        await places.acquire(urgent=True)
        return
    try:
        async with asyncio.timeout(seconds):
            await places.acquire(urgent=True)
    except TimeoutError:
        raise failure() from None
