"""
Bucket limiters: the pauses, the request rate and the circuit breaker of one server-side bucket.

A client has one `BucketState` for each bucket, since the server counts by bucket: a 429 to one task
holds for all. Two kinds of limiters share it. A `CallLimiter` admits single calls, which are not
rate limited by default. A `RunLimiter` (`limits`) admits the items of one bulk run, which yield
to single calls and use the rate of the state's `RateSource`.
"""

from __future__ import annotations

import abc
import asyncio
import enum
import math
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from adapty_async._flow.circuit_breaker import CircuitBreaker, Sign, sign_of
from adapty_async._flow.endpoint_monitor import EndpointMonitor
from adapty_async._flow.queues import ConnectionSemaphore, PrioritySemaphore, RunOrder
from adapty_async._flow.rate_limiter import CLOCK_RESOLUTION, FixedRateLimiter, RateSource
from adapty_async._runtime.files import is_out_of_files
from adapty_async._runtime.loop import LoopLocal, Timing
from adapty_async.errors import (
    AdaptyError,
    CircuitOpenError,
    DeadlineError,
    RateLimitError,
)
from adapty_async.statistics import BucketStatistics

P = ParamSpec("P")
WaitT = TypeVar("WaitT")

#: Seconds after which a waiter checks again: an outage or a pause may end before its time.
RECHECK = 1.0
# Maximum seconds of an item's `Retry-After` once the server has accepted other requests before the
# end of one.
_REQUEUE = 3.0


class Verdict(enum.Enum):
    """A verdict on the result of an attempt."""

    #: The API responded, and did not throttle.
    WORKED = enum.auto()
    #: The attempt failed in an outage, or for lack of a file descriptor: the request is not the
    #: cause.
    OUTAGE = enum.auto()
    #: The attempt was throttled, failed without a known outage, or is no sign of anything.
    OTHER = enum.auto()


# A constant, since the lookup of an enumeration member takes 0.1 µs in Python 3.11.
_WORKED = Verdict.WORKED


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
        run_order: the order of the runs that wait for the rate source, a pause or an outage.
        in_flight: attempts without a response yet.
        requests: number of attempts that have ended.
        throttled: number of attempts that were throttled (429).
        failed: number of attempts whose failure may be due to an outage.
        has_worked: the API has responded at least once.
        endpoints: finds the operations that have a limit of their own.
        is_endpoint: the bucket is the limit of one operation, in a bucket with others.
    """

    def __init__(
        self,
        timing: Timing,
        rate_limiter: FixedRateLimiter | None,
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
        self.run_order = RunOrder()
        self.in_flight = 0
        self.requests = 0
        self.throttled = 0
        self.failed = 0
        self.has_worked = False
        self.endpoints = EndpointMonitor()
        self.is_endpoint = is_endpoint
        self._is_configured_too_high = False  # the server throttled requests at a configured rate
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
    def is_adapting(self) -> bool:
        """Whether the adaptive rate holds in any case, since the server throttled requests."""
        source = self.rate_source
        return self._is_configured_too_high or source.limit is not None or source.probing

    def record_sent(self, *, paced: bool) -> None:
        """
        Record an attempt that is sent now; it is `paced` if the rate source admitted it.

        Raises:
            ConfigError: the rate source is closed; nothing is recorded.
        """
        if not paced:
            self.rate_source.count()
        self.in_flight += 1
        if self.breaker.since is not None:
            self.breaker.record_probe()
        if self.rate_limiter is not None:
            self.rate_limiter.acquire()

    def revoke_sent(self) -> None:
        """Take back the record of an attempt that was cancelled before it was sent."""
        self.in_flight -= 1

    def record_success(self, operation: str, sent: float, *, paced: bool) -> None:
        """Record a response of a working API to a request that was sent at `sent`."""
        self.has_worked = True
        if self.endpoints.suspicions:
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
            self._is_configured_too_high = False  # it was so for that operation only
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

    def record_throttled_at(self, configured: float) -> None:
        """
        Record that the server throttled requests at a configured rate.

        The adaptive rate holds from then on, even before a limit is measured. Its search starts at
        the configured rate.
        """
        self.rate_source.search_from(configured)
        self._is_configured_too_high = True

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
        return min(configured, adaptive) if self.is_adapting else configured

    def __repr__(self) -> str:
        return (
            f"BucketState({self.rate_source!r}, {self.breaker.state}, "
            f"in_flight={self.in_flight}, requests={self.requests}, throttled={self.throttled})"
        )


class BucketLimiter(abc.ABC):
    """
    A limiter of the requests to one bucket in one event loop.

    Args:
        state: the state of the bucket.
        connections: the semaphore of the client's connections in this event loop.

    Attributes:
        separate: operations that have a limit of their own, which another limiter enforces.
    """

    def __init__(self, state: BucketState, connections: ConnectionSemaphore) -> None:
        self._state = state
        self._connections = connections
        self.separate = state.endpoints.separate

    @property
    def requeue_within(self) -> float:
        """The maximum seconds after which a throttled item may be sent again."""
        return _REQUEUE if self._state.rate_source.overstated else math.inf

    @abc.abstractmethod
    def try_acquire(self, operation: str, deadline: float) -> bool:
        """
        Acquire a permit and a connection without a wait; return whether that succeeded.

        Args:
            operation: the name of the call in errors.
            deadline: time by which the call must be over.

        Raises:
            AdaptyError: the permit would come too late.
        """

    @abc.abstractmethod
    async def acquire(self, operation: str, deadline: float) -> float:
        """
        Wait for a permit and a connection, with the arguments of `try_acquire`.

        Return the seconds of the wait that are not charged to the call, but added to its deadline.

        Raises:
            AdaptyError: the permit would come too late.
        """

    def release(self, operation: str, error: AdaptyError | None, sent: float) -> Verdict:
        """Release the connection, and record the result of an attempt that was sent at `sent`."""
        state, verdict = self._state, _WORKED
        with state.lock:
            state.in_flight -= 1
            state.requests += 1  # not before: a metric of it never decreases
            if error is None:
                state.record_success(operation, sent, paced=self._is_paced())
            else:
                verdict = self._record(operation, error, sent)
        if self._connections.is_reduced:
            self._connections.grow()
        self._connections.release()  # last: it raises if the loop is closed with calls in flight
        return verdict

    def _record(self, operation: str, error: AdaptyError, sent: float) -> Verdict:
        """Record a failed attempt by its sign: the service works, throttles or fails."""
        if is_out_of_files(error) and self._connections.reduce():
            return Verdict.OUTAGE
        sign = sign_of(error)
        if sign is Sign.WORKS:
            self._state.record_success(operation, sent, paced=self._is_paced())
            return _WORKED
        asked = getattr(error, "retry_after", None)
        if sign is Sign.THROTTLED:
            if not self._state.record_endpoint(operation):
                self._record_throttled(sent, asked)
        elif sign is Sign.FAILS or (sign is Sign.STRANGE and self._blames_service()):
            return self._state.record_failure(sent, asked)
        return Verdict.OTHER

    @abc.abstractmethod
    def _is_paced(self) -> bool:
        """Return whether the rate source admits the requests of this limiter."""

    @abc.abstractmethod
    def _record_throttled(self, sent: float, retry_after: float | None) -> None:
        """Record a 429 response."""

    @abc.abstractmethod
    def _blames_service(self) -> bool:
        """Return whether a response that is not the API's is a failure of the service."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._state!r}, free={self._connections.available})"


class CallLimiter(BucketLimiter):
    """
    A limiter for the single calls to one bucket, in one event loop.

    A call passes at once if no configured rate and no pause holds it. Otherwise it waits in a queue
    of its own, before the items of all bulk runs, until its deadline.
    """

    def __init__(self, state: BucketState, connections: ConnectionSemaphore) -> None:
        super().__init__(state, connections)
        self._queue = state.calls.get()

    def try_acquire(self, operation: str, deadline: float) -> bool:
        """
        Acquire a connection at once, if no rate, pause or queue delays the call.

        Raises:
            CircuitOpenError: the circuit is open.
            RateLimitError: a pause lasts beyond the call's deadline.
            DeadlineError: the permit would come after the call's deadline.
        """
        state, now = self._state, self._state.clock()
        if (
            state.rate_limiter is not None
            or state.rate_source.paused_until > now
            or not self._connections.try_acquire()
        ):
            self._require_closed_circuit(operation)
            return False
        return not acquire_or_release(
            self._connections, self._acquire_permit, operation, deadline, now
        )

    async def acquire(self, operation: str, deadline: float) -> float:
        """
        Wait for a connection and a permit; all of the wait is charged to the call.

        Raises:
            CircuitOpenError: the circuit is open.
            RateLimitError: a pause lasts beyond the call's deadline.
            DeadlineError: the permit would come after the call's deadline.
        """
        timeout = asyncio.timeout(None)
        self._queue.deadlines[timeout] = deadline
        try:
            async with timeout:
                await self._wait(operation, deadline, self._state.clock())
        except TimeoutError:
            raise self._no_permit(operation, deadline) from None
        finally:
            del self._queue.deadlines[timeout]
        return 0.0

    async def _wait(self, operation: str, deadline: float, arrived: float) -> None:
        state = self._state
        if state.rate_limiter is None and state.rate_source.paused_until <= arrived:
            await self._acquire_connection(operation, deadline)
            if not acquire_or_release(
                self._connections, self._acquire_permit, operation, deadline, arrived
            ):
                return
        with state.lock:
            state.urgent += 1
        try:
            await self._wait_in_queue(operation, deadline, arrived)
        finally:
            with state.lock:
                state.urgent -= 1

    async def _wait_in_queue(self, operation: str, deadline: float, arrived: float) -> None:
        self._require_time(operation, deadline, self._expected_delay())
        seconds = deadline - self._state.clock()
        turn = self._queue.turn
        await _acquire_within(turn, seconds, lambda: self._no_permit(operation, deadline))
        try:
            while True:
                await self._acquire_connection(operation, deadline)
                wait = acquire_or_release(
                    self._connections, self._acquire_permit, operation, deadline, arrived
                )
                if not wait:
                    return
                self._require_time(operation, deadline, wait)
                # a pause may end before its time
                await self._state.sleep(min(wait, RECHECK) if self._state.paused_for else wait)
        finally:
            turn.release()

    async def _acquire_connection(self, operation: str, deadline: float) -> None:
        def none_free() -> DeadlineError:
            return DeadlineError("no connection became free in time", operation=operation)

        await _acquire_within(self._connections, deadline - self._state.clock(), none_free)

    def _acquire_permit(self, operation: str, deadline: float, arrived: float) -> float:
        """Return the seconds that a call has to wait; at 0 its permit is acquired."""
        state = self._state
        with state.lock:
            self._require_closed_circuit(operation)
            self._require_time(operation, deadline, 0.0)
            wait = state.paused_for
            if state.rate_limiter is not None:
                wait = max(wait, state.rate_limiter.delay())
            was_paused = state.rate_source.paused_until > arrived
            if wait <= CLOCK_RESOLUTION and was_paused:
                # paused calls resume at the adaptive rate: all at once would be a burst
                wait = state.rate_source.acquire()
            if wait <= CLOCK_RESOLUTION:
                wait = 0.0
                state.record_sent(paced=was_paused)
            return wait

    def _expected_delay(self) -> float:
        """Return the minimum seconds that a new call waits, behind those in the queue."""
        state, limiter = self._state, self._state.rate_limiter
        if limiter is None:
            return state.paused_for
        wait = limiter.delay()
        first = 1 if wait else limiter.burst  # maximum number that start with the first
        return max(state.paused_for, wait + max(0, state.urgent - first) / limiter.rate)

    def _require_closed_circuit(self, operation: str) -> None:
        """Raise a `CircuitOpenError` in an outage, until the next probe is due."""
        if wait := self._state.breaker.delay():
            raise CircuitOpenError(
                "the circuit is open because of an outage", operation=operation, retry_after=wait
            )

    def _require_time(self, operation: str, deadline: float, wait: float) -> None:
        if self._state.clock() + wait >= deadline:
            raise self._no_permit(operation, deadline)

    def _no_permit(self, operation: str, deadline: float) -> AdaptyError:
        """Return the error of a call without time left: of a pause if it outlasts the deadline."""
        wait = self._state.paused_for
        if not wait or self._state.clock() + wait < deadline:
            return too_late(operation)
        error = RateLimitError(
            f"throttled (429) before, nothing is sent for another {wait:.1f} s",
            operation=operation,
            status=429,
        )
        error.retry_after = max(wait, self._state.asked_for)
        return error

    def _is_paced(self) -> bool:
        return False

    def _record_throttled(self, sent: float, retry_after: float | None) -> None:
        self._state.record_throttled(sent, retry_after, math.inf)

    def _blames_service(self) -> bool:
        return False  # the URL or the call may be the cause


def too_late(operation: str) -> DeadlineError:
    """Return the error of a call without time left."""
    return DeadlineError("no time left to wait for a permit", operation=operation)


def acquire_or_release(
    connections: PrioritySemaphore,
    acquire: Callable[P, WaitT],
    *arguments: P.args,
    **options: P.kwargs,
) -> WaitT:
    """Acquire a permit; if it needs a wait, release the connection, and return the wait."""
    try:
        wait = acquire(*arguments, **options)
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
