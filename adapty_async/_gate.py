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

import msgspec

from adapty_async._capacity import Capacity
from adapty_async._learned import LearnedRate
from adapty_async._loop_local import LoopLocal
from adapty_async._operation import Request
from adapty_async._outage import Circuit
from adapty_async._pacer import TICK, Pacer
from adapty_async._places import Places
from adapty_async._timing import Timing
from adapty_async.errors import (
    AdaptyError,
    ApiError,
    CircuitOpenError,
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
)
from adapty_async.statistics import BucketStatistics

__all__ = ("NO_LIMITS", "Gate", "Gates", "RunLimits")


class RunLimits(msgspec.Struct, frozen=True):
    """
    What holds for one bulk run beside what holds for its client.

    Attributes:
        pacer: its own pace, None to learn one.
        capacity: its requests in flight, None if its workers are few enough.
        max_outage: seconds that it waits for a service that is down, or that asked for a pause.
    """

    pacer: Pacer | None = None
    capacity: Capacity | None = None
    max_outage: float = 900.0


NO_LIMITS = RunLimits()

_ROOM = 1.25
"""
By how much the learned pace may be above one that is given, so that it is not what holds it.
"""


class Gate:
    """
    The gate of one bucket.

    Attributes:
        learned: the pace of bulk runs, and pauses of everything.
        circuit: whether the service is down.
        in_flight: attempts that have no answer yet.
        requests, throttled, failed: attempts, those answered 429, and those that an outage may
            have caused to fail.
    """

    def __init__(self, timing: Timing, pacer: Pacer | None) -> None:
        self._clock = timing.clock
        self._sleep = timing.sleep
        self._pacer = pacer
        self._lock = threading.Lock()  # a client may be used from several threads' loops
        self._line = LoopLocal(lambda: Places(1))
        self._urgent_line = LoopLocal(lambda: Places(1))
        self._urgent = 0
        self.learned = LearnedRate(timing.clock)
        self.circuit = Circuit(timing.clock, timing.uniform)
        self.in_flight = 0
        self.requests = 0
        self.throttled = 0
        self.failed = 0

    @property
    def paused_for(self) -> float:
        """
        The seconds for which nothing is sent, since the server asked for that.
        """
        return max(0.0, self.learned.paused_until - self._clock())

    async def enter(self, request: Request, slots: Places) -> None:
        """
        Wait for a connection and for the moment of a single call.

        Raises:
            CircuitOpenError: the service is down.
            DeadlineError: the call would be too late.
        """
        if wait := self.circuit.wait():
            raise CircuitOpenError(
                "the service is down", operation=request.operation, retry_after=wait
            )
        if self._pacer is None and self.learned.paused_until <= self._clock():
            await _take(slots, request, self._clock)
            self._go(paced=False)
            return
        line = self._urgent_line.get()
        self._urgent += 1
        try:
            if self._expected() > request.tally.deadline - self._clock():
                raise _too_late(request)
            await line.take()
            try:
                await _take(slots, request, self._clock)
                await self._wait_for_moment(request, slots)
            finally:
                line.give()
        finally:
            self._urgent -= 1

    async def _wait_for_moment(self, request: Request, slots: Places) -> None:
        try:
            was_paused = self.paused_for > 0
            while wait := self._turn(was_paused=was_paused):
                if wait > request.tally.deadline - self._clock():
                    raise _too_late(request)
                await self._sleep(wait)
        except BaseException:
            slots.give()
            raise

    def _turn(self, *, was_paused: bool) -> float:
        with self._lock:
            wait = self.paused_for
            if self._pacer is not None:
                wait = max(wait, self._pacer.wait())
            if wait <= TICK and was_paused:
                # those that were held up go on at the learned pace: all at once would be too much
                wait = self.learned.take()
            if wait <= TICK:
                wait = 0.0
                self._go(paced=was_paused)
            return wait

    def _go(self, *, paced: bool) -> None:
        self.requests += 1
        self.in_flight += 1
        if not paced:
            self.learned.count()
        self.circuit.enter()
        if self._pacer is not None:
            self._pacer.take()

    def _expected(self) -> float:
        interval = 0.0 if self._pacer is None else 1 / self._pacer.rate
        wait = 0.0 if self._pacer is None else self._pacer.wait()
        return max(self.paused_for, wait) + (self._urgent - 1) * interval

    async def enter_in_background(self, request: Request, slots: Places, limits: RunLimits) -> None:
        """
        Wait for a connection and for the moment of an item of a bulk run.

        The moment comes last, when nothing can hold the request up any more: moments that were
        taken before would pile up behind a busy connection and then be used all at once.

        Raises:
            CircuitOpenError: the service has been down, or asks for a pause, for longer than the
                run waits.
        """
        line = self._line.get()
        await line.take()
        taken: list[Places] = []
        try:
            for places in (slots,) if limits.capacity is None else (limits.capacity.places, slots):
                await places.take()
                taken.append(places)
            while wait := self._background_turn(request, limits):
                await self._sleep(wait)
        except BaseException:
            for places in taken:
                places.give()
            raise
        finally:
            line.give()

    def _background_turn(self, request: Request, limits: RunLimits) -> float:
        with self._lock:
            self._demand_patience(request, limits)
            wait = max(self.circuit.wait(), self.paused_for)
            for pacer in (self._pacer, limits.pacer):
                if pacer is not None:
                    wait = max(wait, pacer.wait())
                    if self._urgent:
                        wait = max(wait, 1 / pacer.rate)
            if wait <= TICK and (wait := self.learned.take()) <= TICK:
                wait = 0.0
                self._go(paced=True)
                if limits.pacer is not None:
                    limits.pacer.take()
            return wait

    def _demand_patience(self, request: Request, limits: RunLimits) -> None:
        since = self.circuit.since
        lasted = 0.0 if since is None else self._clock() - since
        if max(lasted, self.paused_for) > limits.max_outage:
            raise CircuitOpenError(
                f"no service for longer than {limits.max_outage:g} s",
                operation=request.operation,
                retry_after=max(self.circuit.wait(), self.paused_for),
            )

    def expect(self, rate: float | None) -> None:
        """
        Begin with a pace that is known from before, unless one was learned since.
        """
        if rate is not None and self.learned.limit is None:
            self.learned = LearnedRate(self._clock, rate=rate)

    def statistics(self) -> BucketStatistics:
        """
        Return what is going on.
        """
        return BucketStatistics(
            rate=self.learned.rate,
            in_flight=self.in_flight,
            paused_for=self.paused_for,
            circuit=self.circuit.state,
            requests=self.requests,
            throttled=self.throttled,
            failed=self.failed,
        )

    def leave(self, request: Request, error: AdaptyError | None, sent: float) -> None:
        """
        Take note of how an attempt ended, and of when it was sent.
        """
        self.in_flight -= 1
        match error:
            case RateLimitError():
                self.throttled += 1
                self.learned.throttled(sent, error.retry_after)
                self.circuit.worked(sent)
            case ServerError():
                self.failed += 1
                self.circuit.failed(sent, error.retry_after)
            case ConnectError() | ConnectionLostError() | RequestTimeoutError():
                self.failed += 1
                self.circuit.failed(sent)
            case None | ApiError():
                self.learned.succeeded(sent, paced=request.background)
                self.circuit.worked(sent)
            case _:
                pass  # it was not sent after all


class Gates:
    """
    The gates of one client, by bucket; they share its pace.
    """

    def __init__(self, timing: Timing, pacer: Pacer | None = None) -> None:
        self._timing = timing
        self._pacer = pacer
        self._expected = None if pacer is None else _ROOM * pacer.rate
        self._gates: dict[str, Gate] = {}

    def get(self, bucket: str) -> Gate:
        """
        Return the gate of a bucket.
        """
        gate = self._gates.get(bucket)
        if gate is None:
            gate = self._gates.setdefault(bucket, Gate(self._timing, self._pacer))
            gate.expect(self._expected)
        return gate

    def expect(self, rate: float) -> None:
        """
        Begin with a pace, known from before, in every bucket of which nothing was learned yet.
        """
        self._expected = rate
        for gate in self._gates.values():
            gate.expect(rate)

    def expect_given(self, rate: float) -> None:
        """
        Begin with a pace that the caller holds, and leave the holding to him.
        """
        self.expect(_ROOM * rate)

    def learned_rate(self) -> float | None:
        """
        Return the pace that was learned, if it was in exactly one bucket.
        """
        learned = [gate.learned for gate in self._gates.values()]
        rates = [each.rate for each in learned if each.limit is not None]
        return rates[0] if len(rates) == 1 else None

    def statistics(self) -> dict[str, BucketStatistics]:
        """
        Return what is going on in the buckets that were used.
        """
        return {bucket: gate.statistics() for bucket, gate in dict(self._gates).items()}


def _too_late(request: Request) -> DeadlineError:
    return DeadlineError("no time left to wait for a turn", operation=request.operation)


async def _take(slots: Places, request: Request, clock: Callable[[], float]) -> None:
    if slots.free > 0 or request.tally.deadline == math.inf:
        await slots.take(urgent=True)
        return
    try:
        async with asyncio.timeout(request.tally.deadline - clock()):
            await slots.take(urgent=True)
    except TimeoutError:
        raise DeadlineError(
            "no connection became free in time", operation=request.operation
        ) from None
