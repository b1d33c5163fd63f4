"""
A simulation of a run against a server with an unknown limit, in virtual time.

`python -m tests.simulation` shows the goodput of the adaptive rate limiter, and the share of 429s.
"""

from __future__ import annotations

import heapq
import math
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from adapty_async._flow.adaptive_rate import AdaptiveRateLimiter

SEEDS = (1, 2, 3)
# Maximum seconds after which a waiting run asks again, as the limiter of a run does.
_RECHECK = 1.0
# Maximum seconds after which a throttled item is sent again, once a `Retry-After` was too long.
_REQUEUE = 3.0


class Server(Protocol):
    """A model of a server that admits or rejects requests."""

    def passes(self, now: float) -> bool:
        """Return whether a request that arrives at `now` is admitted."""


class Bucket:
    """A token bucket: a sustained rate, which may depend on the time, with a burst."""

    def __init__(self, rate: float | Callable[[float], float], burst: float) -> None:
        self.rate = rate if callable(rate) else lambda now: rate
        self.burst = burst
        self._tokens = burst
        self._at = 0.0

    def passes(self, now: float) -> bool:
        """Acquire a token, and return whether one was free."""
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate(now))
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Window:
    """A fixed window of one second that admits `count` requests."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._second = -1
        self._used = 0

    def passes(self, now: float) -> bool:
        """Count the request, and return whether the window admits it."""
        if int(now) != self._second:
            self._second, self._used = int(now), 0
        self._used += 1
        return self._used <= self._count


class Outage:
    """A server with an outage, in which it rejects every request."""

    def __init__(self, server: Server, begins: float, ends: float) -> None:
        self._server = server
        self._begins = begins
        self._ends = ends

    def passes(self, now: float) -> bool:
        """Return False during the outage, otherwise the decision of the server."""
        return not self._begins <= now < self._ends and self._server.passes(now)


class World(msgspec.Struct, frozen=True, kw_only=True):
    """
    The conditions of a run.

    Attributes:
        latency: seconds from sending to the response, with a random variation of 20 %.
        retry_after: seconds in the `Retry-After` of a 429, None for no header.
        slots: the maximum of requests in flight.
        late: the maximum delay of a timer, in seconds.
        capacity: the requests per second that the client can send.
        rate: the rate that an earlier run found.
        slow_429: seconds by which a 429 takes longer than another response.
    """

    server: Server
    items: int
    seed: int = 1
    latency: float = 0.02
    retry_after: float | None = 1.0
    slots: int = 64
    late: float = 0.0
    capacity: float = math.inf
    rate: float | None = None
    slow_429: float = 0.0


class Run:
    """
    A complete run of all items.

    Attributes:
        elapsed: seconds until the last item succeeded.
        throttled: the number of 429s.
        worst: the largest number of 429s of one item.
        rates: pairs of the time of a response and the rate after it.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.now = 0.0
        self.learned = AdaptiveRateLimiter(lambda: self.now, rate=world.rate)
        self.elapsed = 0.0
        self.throttled = 0
        self.worst = 0
        self.rates: list[tuple[float, float]] = []
        self._random = random.Random(world.seed)
        self._fresh = world.items
        self._again: deque[int] = deque()
        self._in_flight = 0
        self._asleep = False
        self._able_at = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[float, ...]]] = []
        self._number = 0
        self._feed()
        while self._events:
            self.now, _, happen, values = heapq.heappop(self._events)
            happen(*values)

    @property
    def share(self) -> float:
        """Return the share of all requests that was throttled (429)."""
        return self.throttled / (self.throttled + self.world.items)

    def _after(self, seconds: float, happen: Callable[..., None], *values: float) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.now + seconds, self._number, happen, values))

    def _feed(self) -> None:
        while not self._asleep and self._in_flight < self.world.slots:
            if not (self._again or self._fresh):
                return
            wait = max(self._able_at - self.now, 0.0) or min(self.learned.acquire(), _RECHECK)
            if wait > 0.0:
                self._asleep = True
                self._after(wait + self._random.uniform(0.0, self.world.late), self._wake)
            else:
                self._send()

    def _wake(self) -> None:
        self._asleep = False
        self._feed()

    def _send(self) -> None:
        refused = self._again.popleft() if self._again else 0
        self._fresh -= not refused
        self._in_flight += 1
        self._able_at = self.now + 1.0 / self.world.capacity
        self._after(self._way(), self._arrive, self.now, refused)

    def _way(self) -> float:
        return self.world.latency / 2 * self._random.uniform(0.8, 1.2)

    def _arrive(self, sent: float, refused: int) -> None:
        passed = self.world.server.passes(self.now)
        slow = 0.0 if passed else self.world.slow_429
        self._after(slow + self._way(), self._respond, sent, refused, passed)

    def _respond(self, sent: float, refused: int, passed: bool) -> None:  # noqa: FBT001
        self._in_flight -= 1
        if passed:
            self.learned.succeeded(sent)
            self.elapsed = self.now
        else:
            self._refuse(sent, refused + 1)
        self.rates.append((self.now, self.learned.rate))
        self._feed()

    def _refuse(self, sent: float, refused: int) -> None:
        retry_after = self.world.retry_after
        self.learned.throttled(sent, retry_after)
        self.throttled += 1
        self.worst = max(self.worst, refused)
        doubled = 2.0 ** min(refused - 1, 5)
        if retry_after is not None and self.learned.overstated:
            retry_after = min(retry_after, _REQUEUE)
        wait = self._random.uniform(0.5, 1.0) * doubled if retry_after is None else retry_after
        self._after(wait * self._random.uniform(1.0, 1.25), self._queue, refused)

    def _queue(self, refused: int) -> None:
        self._again.append(refused)
        self._feed()


def moving(now: float) -> float:
    """Return a limit that falls after 20 s, and rises after 40."""
    return 400.0 if now < 20.0 else 150.0 if now < 40.0 else 800.0


def shared(rate: float, seed: int) -> Callable[[float], float]:
    """Return a limit of which other clients leave 70 % or more, changing every 3 s."""
    chosen = random.Random(seed)
    left = [chosen.uniform(0.7, 1.0) for _ in range(1000)]
    return lambda now: rate * left[int(now / 3.0)]


def ideal(rate: Callable[[float], float], items: int) -> float:
    """Return the seconds in which a moving limit admits `items` requests."""
    now = 0.0
    passed = 0.0
    while passed < items:
        passed += rate(now) * 0.001
        now += 0.001
    return now


def worlds(seed: int, scale: float = 1.0) -> Iterator[tuple[str, World, float]]:
    """
    Yield conditions, each with its name and the least seconds of a run.

    The number of items is multiplied by the scale.
    """
    many = round(24_000 * scale)
    best = many / 400.0

    def bucket(**changes: float | None) -> World:
        plain = World(server=Bucket(400.0, 40.0), items=many, seed=seed)
        return msgspec.structs.replace(plain, **changes)

    def of(server: Server, items: int = many, **changes: float | None) -> World:
        return msgspec.structs.replace(bucket(**changes), server=server, items=items)

    yield "400/s", bucket(), best
    yield "no Retry-After", bucket(retry_after=None), best
    yield "25/s", of(Bucket(25.0, 2.5), many // 16), best
    yield "300 ms", bucket(latency=0.3, slots=160), best
    yield "window", of(Window(400)), best
    yield "window, no Retry-After", of(Window(400), retry_after=None), best
    yield "moving", of(Bucket(moving, 40.0), 24_000), ideal(moving, 24_000)
    left = shared(400.0, seed)
    yield "shared", of(Bucket(left, 40.0)), ideal(left, many)
    yield "late wakes", bucket(late=0.005), best
    yield "late wakes, 25/s", of(Bucket(25.0, 2.5), many // 16, late=0.005), best
    yield "known", bucket(rate=400.0), best
    yield "twice too much known", bucket(rate=800.0), best
    yield "5,000/s", of(Bucket(5000.0, 500.0), many * 25 // 4, slots=128), best / 2.0


def others(seed: int) -> Iterator[tuple[str, World, float]]:
    """Yield conditions that are shown without a target."""
    for items in (200, 1000, 3000):
        world = World(server=Bucket(400.0, 40.0), items=items, seed=seed)
        yield f"{items} items", world, (items - 40) / 400.0 + 0.02
    rows: tuple[tuple[str, Server, float, dict[str, float]], ...] = (
        ("burst of 4", Bucket(400.0, 4.0), 400.0, {}),
        ("burst of 400", Bucket(400.0, 400.0), 400.0, {}),
        ("2/s, burst 1", Bucket(2.0, 1.0), 2.0, {}),
        ("100/s", Bucket(100.0, 10.0), 100.0, {}),
        ("window, 300 ms", Window(400), 400.0, {"latency": 0.3, "slots": 160}),
        ("Retry-After 5", Bucket(400.0, 40.0), 400.0, {"retry_after": 5.0}),
        ("Retry-After 30", Bucket(400.0, 40.0), 400.0, {"retry_after": 30.0}),
        ("no limit, slow client", Bucket(1e9, 1e9), 1500.0, {"capacity": 1500.0}),
    )
    for name, server, rate, changes in rows:
        world = World(server=server, items=round(60 * rate), seed=seed)
        yield name, msgspec.structs.replace(world, **changes), 60.0


def main() -> None:
    """Print elapsed over ideal, the share of 429s and the most 429s of one item, for each seed."""
    table: dict[str, list[str]] = {}
    for seed in SEEDS:
        for name, world, best in (*worlds(seed), *others(seed)):
            run = Run(world)
            row = f"{run.elapsed / best:8.3f} {run.share:7.2%} {run.worst:2}"
            table.setdefault(name, []).append(row)
    for name, rows in table.items():
        sys.stdout.write(f"{name:24}{'   '.join(rows)}\n")


if __name__ == "__main__":
    main()
