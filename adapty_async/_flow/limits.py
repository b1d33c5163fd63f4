"""
The limits of a client, by bucket, and the additional limits of one bulk run.

`LimiterRegistry` has the state of each bucket, which a client's calls and runs share. `RunLimits`
bundles the limits of a run. A `RunLimiter` applies both to the run's items, for one bucket.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import msgspec

from adapty_async._api.call import Request
from adapty_async._flow.adaptive_rate import AdaptiveRateLimiter
from adapty_async._flow.bucket_limiter import (
    RECHECK,
    BucketLimiter,
    BucketState,
    Verdict,
    acquire_or_release,
    too_late,
)
from adapty_async._flow.circuit_breaker import OutageTimer, WakefulClock
from adapty_async._flow.concurrency_limit import ConcurrencyLimit
from adapty_async._flow.queues import ConnectionSemaphore, RunOrder, WaitQueue
from adapty_async._flow.rate_limiter import CLOCK_RESOLUTION, FixedRateLimiter, RateSource
from adapty_async._runtime.fork import register_fork_handler
from adapty_async._runtime.loop import Timing
from adapty_async.errors import AdaptyError, CircuitOpenError, DeadlineError
from adapty_async.statistics import BucketStatistics


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
        rate_limiter: FixedRateLimiter | None = None,
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
        """
        Return the state of a bucket, for a limiter of the running event loop.

        A source that was opened again, as in the next event loop, replaces the closed one.

        Raises:
            ConfigError: the rate source belongs to another event loop, or is not open.
        """
        given = None if self._rate_source is None else self._rate_source(bucket)
        state = self._states.get(bucket)
        if state is None:
            source = given or AdaptiveRateLimiter(self._timing.clock)
            is_endpoint = bucket in self._endpoints
            if self._expected is not None and not is_endpoint:
                source.expect(self._expected)
            state = BucketState(self._timing, self._rate_limiter, source, is_endpoint=is_endpoint)
            state = self._states.setdefault(bucket, state)
        elif given is not None:
            state.rate_source = given
        return state

    def expect(self, rate: float) -> None:
        """Start with the rate of an earlier run in every bucket without a measured limit."""
        self._expected = rate
        for state in self._of_apis():
            with state.lock:
                state.rate_source.expect(rate)

    def measured_limit(self) -> float | None:
        """Return the measured limit if exactly one bucket has one, otherwise None."""
        limits = [state.rate_source.limit for state in self._of_apis()]
        measured = [limit for limit in limits if limit is not None]
        return measured[0] if len(measured) == 1 else None

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


# Seconds without a success after which items no longer wait for an endpoint that has a limit of its
# own. They would occupy the run's workers, and other items could not be sent.
_ENDPOINT_PATIENCE = 30.0
# Maximum seconds between two checks of a run whether an outage has lasted too long.
_CHECK_SECONDS = 1.0
# Minimum number of checks in `max_outage` seconds, so that no single one has much weight.
_CHECKS = 5
# A check later than this multiple of its interval means a blocked event loop.
_LATE = 1.25
# Seconds after which a permit is void whose item waits for the journal. Commits to a database at a
# distance take less.
_VOID = 0.5


class StopSignal(msgspec.Struct):
    """
    A signal that a run stops, for which nothing waits.

    Attributes:
        is_set: whether the run sends and retries nothing more.
    """

    is_set: bool = False


class RunLimits(msgspec.Struct, frozen=True):
    """
    A bundle of the limits of one bulk run.

    Attributes:
        rate_limiter: its rate limiter; None for an adaptive rate.
        concurrency: its concurrency limit; None if the option `concurrency` is set.
        max_outage: seconds without a success from a bucket that end the run.
        timers: measure these seconds, by bucket.
        operations: the operations that it has sent, if the option `concurrency` is set.
        awake: the clock of these timers, which stands still while the event loop is blocked; None
            for the client's clock.
        stopping: set by the run when it stops.
    """

    rate_limiter: FixedRateLimiter | None = None
    concurrency: ConcurrencyLimit | None = None
    max_outage: float = 900.0
    timers: dict[str, OutageTimer] = msgspec.field(default_factory=dict)
    operations: set[str] = msgspec.field(default_factory=set)
    awake: WakefulClock | None = None
    stopping: StopSignal = msgspec.field(default_factory=StopSignal)

    def timer(self, bucket: str, clock: Callable[[], float]) -> OutageTimer:
        """Return the timer of a bucket."""
        timer = self.timers.get(bucket)
        return timer or self.timers.setdefault(bucket, OutageTimer(self.awake or clock))

    def hold(self, request: Request, seconds: float) -> None:
        """Record that a request waits for a number of seconds until it is retried."""
        timer = self.timers.get(request.bucket)
        if timer is not None:  # an endpoint with a limit of its own ends no run
            timer.hold(seconds)

    def patience(self, paused_for: Callable[[str], float] = lambda _: 0.0) -> float:
        """
        Return the seconds until an outage ends the run, if no request succeeds.

        Args:
            paused_for: returns the rest of a bucket's pause, which counts in full if items wait.
        """
        lasting = (
            timer.lasted + (paused_for(bucket) if timer.is_held else 0.0)
            for bucket, timer in self.timers.items()
        )
        return self.max_outage - max(lasting, default=0.0)


def remaining_patience(limiters: LimiterRegistry, run: RunLimits) -> float:
    """
    Return the seconds until an outage ends a run, if no request succeeds.

    A run calls it at regular intervals.
    """
    if run.awake is not None:
        run.awake.tick()
    return run.patience(lambda bucket: limiters.get(bucket).paused_for)


def check_interval(max_outage: float) -> float:
    """Return the seconds between two checks of a run's patience."""
    return min(_CHECK_SECONDS, max_outage / _CHECKS)


def wakeful_clock(clock: Callable[[], float], max_outage: float) -> WakefulClock:
    """Return a clock for a run's timers; the run has to call its `tick` at each check."""
    return WakefulClock(clock, _LATE * check_interval(max_outage))


class _Wait(msgspec.Struct, frozen=True):
    """
    A wait for a permit.

    Attributes:
        seconds: seconds until the run asks for the permit again.
        order: the order of the runs that wait for the same rate; None if only this run waits.
        is_slowed: whether only the rate source delays the run.
    """

    seconds: float
    order: RunOrder | None
    is_slowed: bool = False


class RunLimiter(BucketLimiter):
    """
    A limiter for the items of one run to one bucket, in the event loop of the run.

    Runs that share a rate alternate: one with a permit is last in the order of those that wait.

    Items wait in a queue of the run's own for a connection and a permit, so that a slow run delays
    no other. The permit is acquired last, when only a write-ahead entry can delay the request.
    Permits that were acquired earlier would accumulate behind a busy connection and be used all at
    once. Until then the connection is available to others.

    Args:
        state: the state of the bucket.
        connections: the semaphore of the client's connections in this event loop.
        run: the limits of the run.
        bucket: the name of the bucket.
    """

    def __init__(
        self, state: BucketState, connections: ConnectionSemaphore, run: RunLimits, bucket: str
    ) -> None:
        super().__init__(state, connections)
        self._run = run
        # an endpoint without success ends no run, only the items that wait for it
        self._timer = (
            OutageTimer(run.awake or state.clock)
            if state.is_endpoint
            else run.timer(bucket, state.clock)
        )
        self._concurrency = run.concurrency
        self._rate = state.run_rate = None if run.rate_limiter is None else run.rate_limiter.rate
        self._is_adaptive = state.configured_rate(self._rate) is None
        # the rates that the run shares with others, and the order of the runs that wait for each
        self._shared: list[tuple[RunOrder, FixedRateLimiter | RateSource]]
        self._shared = [(state.run_order, state.rate_source)]
        if state.rate_limiter is not None:
            self._shared.append((state.rate_limiter.run_order, state.rate_limiter))
        self._queue: WaitQueue[str] = WaitQueue(self._admit, self._lead, self._revoke)

    def try_acquire(self, operation: str, deadline: float) -> bool:
        """
        Acquire a permit and a connection at once, if no earlier item waits.

        Raises:
            DeadlineError: the deadline is over, or only this endpoint is throttled for too long.
            CircuitOpenError: an outage or a pause has lasted longer than the run's `max_outage`.
        """
        if deadline != math.inf and deadline <= self._state.clock():
            raise too_late(operation)
        if self._queue.has_leader or not self._admit(operation):
            return False
        self._start(operation)
        return True

    async def acquire(
        self,
        operation: str,
        deadline: float,  # noqa: ARG002  a wait in the queue extends it
    ) -> float:
        """
        Wait in the run's queue; return the seconds of the wait, which is not charged to the item.

        Raises:
            DeadlineError: only this endpoint is throttled for too long.
            CircuitOpenError: an outage or a pause has lasted longer than the run's `max_outage`.
        """
        arrived = self._state.clock()
        if self._state.is_endpoint and self._concurrency is not None:
            await self._acquire_apart(operation, self._concurrency)
        else:
            await self._queue.acquire(operation)
        self._start(operation)
        return self._state.clock() - arrived

    async def _acquire_apart(self, operation: str, concurrency: ConcurrencyLimit) -> None:
        """Wait for an endpoint with a limit of its own, and let other items use the worker."""
        concurrency.wait_started()
        try:
            await self._queue.acquire(operation)
        finally:
            concurrency.wait_ended()

    async def until_stored(self, operation: str, stored: Awaitable[None]) -> float:
        """
        Wait with a permit until a write-ahead entry is stored; return the seconds of the wait.

        The wait is not charged to the item, and a disk that hangs is no outage. A long wait makes
        the permit void: the items that waited would otherwise all be sent at once.

        Raises:
            JournalError: the entry cannot be stored.
            AdaptyError: as `acquire` does for another permit.
        """
        began, is_valid = self._state.clock(), False
        self._timer.end(worked=False)
        try:
            await stored
            is_valid = self._state.clock() - began <= _VOID
        finally:
            if is_valid:
                self._timer.start()
            else:
                self._give_back(operation)
        if not is_valid and not self.try_acquire(operation, math.inf):
            await self.acquire(operation, math.inf)
        return self._state.clock() - began

    def _give_back(self, operation: str) -> None:
        if self._concurrency is not None:
            self._concurrency.in_flight -= 1
        self._revoke(operation)

    def _start(self, operation: str) -> None:
        self._timer.start()
        if self._concurrency is None:
            self._run.operations.add(operation)
            return
        self._concurrency.in_flight += 1
        if self.separate and operation not in self.separate:
            self._concurrency.other_sent()

    def release(self, operation: str, error: AdaptyError | None, sent: float) -> Verdict:
        """Release the connection, and record the result of an attempt that was sent at `sent`."""
        verdict = BucketLimiter.release(self, operation, error, sent)  # `super()` takes 0.1 µs
        self._timer.end(worked=error is None or verdict is Verdict.WORKED)
        if self._concurrency is not None:
            seconds = self._state.clock() - sent
            self._concurrency.record(error, seconds, held_up=self._queue.has_leader)
        return verdict

    def _admit(self, operation: str) -> bool:
        if self._connections.available <= 0 or self._acquire_permit(operation) is not None:
            return False
        return self._connections.try_acquire()

    async def _lead(self, operation: str) -> None:
        state = self._state
        try:
            while True:
                await self._connections.acquire()
                wait = acquire_or_release(self._connections, self._acquire_permit, operation)
                if wait is None:
                    return
                self._enter_order(wait)
                await state.sleep(min(wait.seconds, RECHECK))
        finally:
            self._leave_orders()

    def _enter_order(self, wait: _Wait) -> None:
        """Enter the order of the runs that wait for the same rate, and leave the others."""
        self._leave_orders(but=wait.order)
        if wait.order is not None:
            wait.order.enter(self, self._state.clock() + wait.seconds)

    def _leave_orders(self, *, but: RunOrder | None = None) -> None:
        for order, _ in self._shared:
            if order is not but:
                order.leave(self)

    def _wait_for_turn(self, *, is_paced: bool) -> _Wait | None:
        """
        Return the wait until it is the run's turn; None if it is.

        Runs that the rate source does not limit alternate in an outage only, for its probes.
        """
        now = self._state.clock()
        is_in_order = is_paced or self._state.breaker.since is not None
        for order, limiter in self._shared if is_in_order else self._shared[1:]:
            seconds = order.delay(self, now, limiter.rate)
            if seconds:
                return _Wait(seconds, order, is_slowed=is_paced)
        return None

    def _revoke(self, _: str) -> None:
        with self._state.lock:
            self._state.revoke_sent()
        self._connections.release()

    def _acquire_permit(self, operation: str) -> _Wait | None:
        """
        Acquire a permit for an item, and return None; otherwise return its wait for one.

        1. Single calls, an outage or a configured rate delay it: see `_wait_for_others`.
        2. It is another run's turn: see `_wait_for_turn`.
        3. The rate source delays it. Only a run that it limits asks it.

        The conditions of the first two only spare most items a call that would return None.
        """
        state = self._state
        with state.lock:
            wait, is_paced = None, self._is_paced()
            if not self._is_adaptive or state.urgent or state.breaker.since is not None:
                wait = self._wait_for_others(is_paced=is_paced)
            if wait is None and (state.run_order.asks_at or state.rate_limiter):
                wait = self._wait_for_turn(is_paced=is_paced)
            if wait is None and is_paced:
                seconds = state.rate_source.acquire()
                if seconds > CLOCK_RESOLUTION:
                    wait = _Wait(seconds, state.run_order, is_slowed=True)
            if wait is not None:
                self._require_patience(operation, wait)
                return wait
            state.record_sent(paced=is_paced)
            if self._run.rate_limiter is not None:
                self._run.rate_limiter.acquire()
            return None

    def _wait_for_others(self, *, is_paced: bool) -> _Wait | None:
        """
        Return the longest of all waits but that for the rate source, if it limits the run.

        A run that waits for its own rate is in no order, and leaves the permits to others.
        """
        state = self._state
        order: RunOrder | None = state.run_order
        paused_for = state.paused_for
        wait = max(state.breaker.delay(), 0.0 if is_paced else paused_for)
        if state.urgent and not paused_for:
            wait = max(wait, 1 / (state.rate_limiter or state.rate_source).rate)
        shared, own = state.rate_limiter, self._run.rate_limiter
        if shared is not None and (delay := shared.delay()) > wait:
            wait, order = delay, shared.run_order
        if own is not None and (delay := own.delay()) > wait:
            wait, order = delay, None
        return _Wait(wait, order) if wait > CLOCK_RESOLUTION else None

    def _require_patience(self, operation: str, wait: _Wait) -> None:
        """
        Raise if the run has waited for too long, or will have at the end of the pause.

        Items of a throttled endpoint give up earlier, unless the run has no others. Waits for a
        configured rate or for single calls do not count. A wait for the rate source counts while
        the server rejects everything: otherwise calls or other processes may use the rate up.
        """
        state, timer = self._state, self._timer
        slowed = wait.seconds if wait.is_slowed and state.rate_source.probing else 0.0
        held = max(slowed, state.breaker.delay(), state.paused_for)
        if held > CLOCK_RESOLUTION:
            timer.hold(min(held, RECHECK))
        if state.is_endpoint and self._may_send_others:
            _require_some_success(operation, timer)
        elif timer.lasted + state.paused_for > self._run.max_outage:
            raise CircuitOpenError(
                f"no service for longer than {self._run.max_outage:g} s",
                operation=operation,
                retry_after=max(wait.seconds, state.paused_for),
            )

    @property
    def _may_send_others(self) -> bool:
        """Whether items that wait for an endpoint may keep a worker from other items of the run."""
        if self._concurrency is None:
            return len(self._run.operations) > 1
        return self._concurrency.is_mixed

    def _is_paced(self) -> bool:
        return self._is_adaptive or self._state.is_adapting

    def _record_throttled(self, sent: float, retry_after: float | None) -> None:
        configured = self._state.configured_rate(self._rate)
        if configured is not None:
            self._state.record_throttled_at(configured)
        self._state.record_throttled(sent, retry_after, self._run.patience() - RECHECK)

    def _blames_service(self) -> bool:
        return self._state.has_worked


def _require_some_success(operation: str, timer: OutageTimer) -> None:
    if timer.lasted > _ENDPOINT_PATIENCE:
        raise DeadlineError(
            f"throttled (429) for {timer.lasted:.0f} s, although other operations are not",
            operation=operation,
        )
