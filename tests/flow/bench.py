"""A bench for the limiters of a client: its calls and runs on a fake timeline."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math

import pytest

from adapty_async._api.call import CallState, Layer, Request, Response
from adapty_async._flow.limits import LimiterRegistry, RunLimiter, RunLimits
from adapty_async._flow.queues import ConnectionSemaphore
from adapty_async._flow.rate_limiter import FixedRateLimiter
from adapty_async._pipeline.layers import LimitLayer
from adapty_async._runtime.loop import LoopLocal, Timing
from adapty_async.errors import (
    RateLimitError,
    ServerError,
)
from adapty_async.testing import FakeClock
from tests._support import a_request, loop_turns

BEGIN = 1000.0


async def settle() -> None:
    """Let every task run until it waits."""
    await loop_turns(100)


class Timeline(FakeClock):
    """A fake clock for many sleepers, which wake up in order when the test advances it."""

    def __init__(self, now: float = BEGIN) -> None:
        super().__init__(now)
        self._count = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        """Wait until the test has advanced the clock by these seconds."""
        assert 0.0 < seconds < math.inf
        self.sleeps.append(seconds)
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._count), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Advance the clock, and run the tasks that are due in between."""
        end = self.now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.now = max(self.now, self._sleepers[0][0])
            while self._sleepers and self._sleepers[0][0] <= self.now:
                woken = heapq.heappop(self._sleepers)[-1]
                if not woken.done():  # otherwise it was cancelled
                    woken.set_result(None)
            await settle()
        self.now = end


class Bench:
    """
    A client's bucket limiters and connections, in front of a scripted server.

    Attributes:
        sent: the name of each request that arrived, and the seconds after the beginning.
        responses: results of requests by name, in order; without one they succeed.
        latency: seconds until each response.
        states: the call states of the started calls and items, in order.
    """

    def __init__(
        self,
        rate: float | None = None,
        burst: int = 1,
        connections: int = 100,
        latency: float = 0.0,
        clock: Timeline | None = None,
    ) -> None:
        self.clock = clock or Timeline()
        timing = Timing(self.clock, self.clock.sleep, lambda low, high: high)
        self.limiters = LimiterRegistry(
            timing, None if rate is None else FixedRateLimiter(rate, burst, self.clock)
        )
        self.connections = LoopLocal(lambda: ConnectionSemaphore(connections, self.clock))
        self.latency = latency
        self.sent: list[tuple[str, float]] = []
        self.responses: dict[str, list[BaseException]] = {}
        self.states: list[CallState] = []
        self._sends: dict[int, Layer] = {}

    async def server(self, request: Request, _: CallState) -> Response:
        """Record the request and respond to it."""
        self.sent.append((request.operation, self.clock.now - BEGIN))
        if self.latency:
            await self.clock.sleep(self.latency)
        if responses := self.responses.get(request.operation):
            raise responses.pop(0)
        return Response(200, {}, b"")

    def rate_limiter(self, rate: float, burst: int = 1) -> FixedRateLimiter:
        """Return a rate limiter for a run."""
        return FixedRateLimiter(rate, burst, self.clock)

    def run_limiter(self, run: RunLimits) -> RunLimiter:
        """Return the limiter of a run."""
        return RunLimiter(self.limiters.get("v1"), self.connections.get(), run, "v1")

    def start(
        self,
        name: str,
        run: RunLimits | None = None,
        *,
        seconds: float = math.inf,
        bucket: str = "v1",
    ) -> asyncio.Task[Response]:
        """Start a call with *n* seconds left; or, with a run, an item."""
        send = (
            self._sends.get(id(run))
            or LimitLayer(self.server, self.connections, self.limiters, self.clock, run).send
        )
        if run is not None:
            self._sends[id(run)] = send
        state = CallState(deadline=self.clock.now + seconds)
        self.states.append(state)
        request = a_request(
            operation=name, bucket=bucket, low_priority=run is not None, total_timeout=math.inf
        )
        return asyncio.ensure_future(send(request, state))

    def times(self, name: str) -> list[float]:
        """Return the arrival times of the requests of that name."""
        return [at for one, at in self.sent if one == name]

    @property
    def free(self) -> int:
        """The available connections."""
        return self.connections.get().available

    async def pause(self, seconds: float, bucket: str = "v1") -> None:
        """Throttle one call with that Retry-After."""
        self.responses["pausing"] = [throttled(seconds)]
        with pytest.raises(RateLimitError):
            await self.start("pausing", bucket=bucket)

    async def pause_in_full(self, seconds: float) -> None:
        """Begin a pause of *n* seconds in which the one probe is throttled, too, after a second."""
        await self.pause(seconds)
        self.responses["probing"] = [throttled(seconds - 1.0)]
        probe = self.start("probing", RunLimits())
        await self.clock.advance(1.0)
        with pytest.raises(RateLimitError):
            await probe

    async def break_down(self) -> None:
        """Let the service fail until the circuit opens."""
        self.responses["failing"] = [down() for _ in range(20)]
        for _ in range(20):
            with pytest.raises(ServerError):
                await self.start("failing")


def throttled(retry_after: float | None = None) -> RateLimitError:
    """Return the error of a 429 response."""
    error = RateLimitError("status 429", status=429)
    error.retry_after = retry_after
    return error


def down(retry_after: float | None = None) -> ServerError:
    """Return the error of a 503 response."""
    error = ServerError("status 503", status=503)
    error.retry_after = retry_after
    return error


async def cancel(*tasks: asyncio.Task[Response]) -> None:
    """Cancel tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert all(task.cancelled() for task in tasks)
