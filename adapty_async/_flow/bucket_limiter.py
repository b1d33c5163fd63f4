"""
Bucket limiters: the pauses, the request rate and the circuit breaker of one server-side bucket.

A client has one `BucketState` for each bucket, since the server counts by bucket: a 429 to one task
holds for all. Two kinds of limiters share it. A `CallLimiter` admits single calls, which are not
rate limited by default. A `RunLimiter` (`run_limits`) admits the items of one bulk run, which yield
to single calls and use the rate of the state's `RateSource`.
"""

from __future__ import annotations

import abc
import asyncio
import math
from collections.abc import Callable
from typing import ParamSpec

from adapty_async._flow.adaptive_rate import AdaptiveRateLimiter
from adapty_async._flow.bucket_state import BucketState, Verdict
from adapty_async._flow.circuit_breaker import Sign, sign_of
from adapty_async._flow.rate_limiter import CLOCK_RESOLUTION, RateLimiter
from adapty_async._flow.rate_source import RateSource
from adapty_async._flow.semaphore import PrioritySemaphore
from adapty_async._runtime.clock import Timing
from adapty_async._runtime.fork import register_fork_handler
from adapty_async.errors import (
    AdaptyError,
    CircuitOpenError,
    DeadlineError,
    RateLimitError,
)
from adapty_async.statistics import BucketStatistics

__all__ = (
    "RECHECK",
    "BucketLimiter",
    "CallLimiter",
    "LimiterRegistry",
    "acquire_or_release",
    "too_late",
)

P = ParamSpec("P")

#: Seconds after which a waiter checks again: an outage or a pause may end before its time.
RECHECK = 1.0
# Maximum seconds of an item's `Retry-After` once the server has accepted other requests before the
# end of one.
_REQUEUE = 3.0


class BucketLimiter(abc.ABC):
    """
    A limiter of the requests to one bucket in one event loop.

    Args:
        state: the state of the bucket.
        connections: the semaphore of the client's connections in this event loop.
    """

    def __init__(self, state: BucketState, connections: PrioritySemaphore) -> None:
        self._state = state
        self._connections = connections

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
        Wait for a permit and a connection.

        Return the seconds of the wait that are not charged to the call, but added to its deadline.

        Args:
            operation: the name of the call in errors.
            deadline: time by which the call must be over.

        Raises:
            AdaptyError: the permit would come too late.
        """

    def release(self, operation: str, error: AdaptyError | None, sent: float) -> Verdict:
        """Release the connection, and record the result of an attempt that was sent at `sent`."""
        with self._state.lock:
            self._state.in_flight -= 1
            verdict = self._record(operation, error, sent)
        self._connections.release()  # last: it raises if the loop is closed with calls in flight
        return verdict

    def _record(self, operation: str, error: AdaptyError | None, sent: float) -> Verdict:
        sign = Sign.WORKS if error is None else sign_of(error)
        if sign is Sign.WORKS:
            self._state.record_success(operation, sent, paced=self._is_paced())
            return Verdict.WORKED
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

    def __init__(self, state: BucketState, connections: PrioritySemaphore) -> None:
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
        self._require_closed_circuit(operation)
        if (
            state.rate_limiter is not None
            or state.rate_source.paused_until > now
            or not self._connections.try_acquire()
        ):
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


class LimiterRegistry:
    """
    A registry of the states of one client's buckets, by bucket; they share its rate limiter.

    Args:
        timing: clock, sleep and random function.
        rate_limiter: the client's configured rate limiter; None without one.
        rate_source: returns the rate source of a bucket; by default each bucket has an
            `AdaptiveRateLimiter`.
    """

    def __init__(
        self,
        timing: Timing,
        rate_limiter: RateLimiter | None = None,
        rate_source: Callable[[str], RateSource] | None = None,
    ) -> None:
        self._timing = timing
        self._rate_limiter = rate_limiter
        self._rate_source = rate_source
        self._expected: float | None = None
        self._states: dict[str, BucketState] = {}
        self._endpoints: set[str] = set()  # buckets of one operation
        register_fork_handler(self)

    def after_fork(self) -> None:
        """Start fresh: requests in flight and held locks belong to the parent process."""
        self._states = {}

    def bucket_of(self, bucket: str, operation: str) -> str:
        """Return the bucket of an operation: that of its API, or its own if it has one."""
        state = self._states.get(bucket)
        if state is None or operation not in state.endpoints.separate:
            return bucket
        own = f"{bucket}/{operation}"
        self._endpoints.add(own)
        return own

    def get(self, bucket: str) -> BucketState:
        """Return the state of a bucket."""
        state = self._states.get(bucket)
        if state is None:
            if self._rate_source is None:
                source: RateSource = AdaptiveRateLimiter(self._timing.clock)
            else:
                source = self._rate_source(bucket)
            is_endpoint = bucket in self._endpoints
            if self._expected is not None and not is_endpoint:
                source.expect(self._expected)
            state = BucketState(self._timing, self._rate_limiter, source, is_endpoint=is_endpoint)
            state = self._states.setdefault(bucket, state)
        return state

    def expect(self, rate: float) -> None:
        """Start with the rate of an earlier run in every bucket without a measured limit."""
        self._expected = rate
        for state in self._of_apis():
            with state.lock:
                state.rate_source.expect(rate)

    def learned_rate(self) -> float | None:
        """Return the adaptive rate if exactly one bucket has a measured limit, otherwise None."""
        sources = [state.rate_source for state in self._of_apis()]
        rates = [each.estimate for each in sources if each.limit is not None]
        return rates[0] if len(rates) == 1 else None

    def _of_apis(self) -> list[BucketState]:
        return [state for state in tuple(self._states.values()) if not state.is_endpoint]

    @property
    def rate(self) -> float | None:
        """The configured requests per second; None without a limit."""
        return None if self._rate_limiter is None else self._rate_limiter.rate

    def statistics(self) -> dict[str, BucketStatistics]:
        """Return the statistics of the buckets that were used."""
        return {bucket: state.statistics() for bucket, state in dict(self._states).items()}

    def __repr__(self) -> str:
        return f"LimiterRegistry({', '.join(self._states)})"


def too_late(operation: str) -> DeadlineError:
    """Return the error of a call without time left."""
    return DeadlineError("no time left to wait for a permit", operation=operation)


def acquire_or_release(
    connections: PrioritySemaphore,
    acquire: Callable[P, float],
    *arguments: P.args,
    **options: P.kwargs,
) -> float:
    """
    Acquire a permit for a request that holds a connection.

    Return the seconds to wait. The connection is kept if they are 0, and released otherwise.
    """
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
