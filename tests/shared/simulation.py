"""
A simulation of several processes that share a rate, in virtual time.

`python -m tests.shared.simulation` shows the goodput of 4 and 16 members over a minute, the share
of 429s, and how evenly the members end.
"""

from __future__ import annotations

import bisect
import heapq
import random
import sys
from collections.abc import Callable

import msgspec

from adapty_async._shared.exchange import SharedState, exchange
from adapty_async._shared.source import SharedSource
from adapty_async.errors import StoreError
from tests.simulation import Bucket, Server

SEEDS = range(1, 11)
# The clock of the store, and those of the members, have nothing in common.
_STORE_AHEAD = 5e8
_MEMBER_AHEAD = 1000.0

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SharedState).decode


class World(msgspec.Struct, frozen=True, kw_only=True):
    """
    The conditions of a run.

    Attributes:
        members: number of processes.
        items: items of each process.
        latency: seconds from sending to the response, with a random variation of 20 %.
        retry_after: seconds in the `Retry-After` of a 429.
        in_flight: the maximum of requests in flight, of each process.
        late: the maximum delay of a timer, in seconds.
        store: seconds of a round trip to the store.
        fallback: the fallback of the shared rate.
        calls: single calls per second of another process; 0 without one.
        light: items of another process, which has one request in flight.
    """

    server: Server
    members: int = 4
    items: int = 6000
    seed: int = 1
    latency: float = 0.02
    retry_after: float = 1.0
    in_flight: int = 64
    late: float = 0.002
    store: float = 0.001
    fallback: float = 0.5
    calls: float = 0.0
    light: int = 0


class Store:
    """A store in virtual time; `version` and `value` are those of one key."""

    def __init__(self) -> None:
        self.version = 0
        self.value: bytes | None = None
        self.is_down = False

    def swap(self, version: int, value: bytes) -> bool:
        """Store the value if the version is still the same."""
        if self.version != version:
            return False
        self.version, self.value = version + 1, value
        return True


class Process:
    """
    A process with items to send.

    Attributes:
        done: times of successful responses.
        throttled: times of 429s.
        ended: time of the last success.
        exchanges: times of its exchanges.
        lost: swaps that another member was faster at.
    """

    def __init__(self, run: Run, number: int, items: int, in_flight: int) -> None:
        self._run = run
        self._ahead = _MEMBER_AHEAD * number
        self._left = items
        self._most = in_flight
        self._in_flight = 0
        self._is_asleep = self._is_exchanging = self.is_dead = False
        self._timer = 0
        self.done: list[float] = []
        self.throttled: list[float] = []
        self.exchanges: list[float] = []
        self.lost = 0
        self.source = SharedSource(f"member {number}", run.world.fallback, self.clock, self._arm)

    def clock(self) -> float:
        """Return the time on the clock of the process."""
        return self._run.now + self._ahead

    def start(self) -> None:
        """Send the first item, and exchange for the first time."""
        self._arm()
        self.feed()

    def call(self) -> None:
        """Send a request that does not wait."""
        self.source.count()
        self._send()

    # -- requests

    def feed(self) -> None:
        """Send items until the rate or the limit of requests in flight prevents it."""
        while self._left and not self._is_asleep and self._in_flight < self._most:
            wait = self.source.acquire()
            if wait > 0.0:
                self._is_asleep = True
                self._run.after(min(wait, 1.0) + self._run.lateness(), self._wake)
            else:
                self._left -= 1
                self._send()

    def _wake(self) -> None:
        self._is_asleep = False
        if not self.is_dead:
            self.feed()

    def _send(self) -> None:
        self._in_flight += 1
        self._run.sent.append(self._run.now)
        self._run.after(self._run.way(), self._arrive, self.clock())

    def _arrive(self, sent: float) -> None:
        passed = self._run.world.server.passes(self._run.now)
        self._run.after(self._run.way(), self._respond, sent, passed)

    def _respond(self, sent: float, passed: bool) -> None:  # noqa: FBT001  an event's value
        self._in_flight -= 1
        if self.is_dead:
            return
        if passed:
            self.done.append(self._run.now)
            self.source.succeeded(sent)
        else:
            self.throttled.append(self._run.now)
            self.source.throttled(sent, self._run.world.retry_after)
            wait = self._run.world.retry_after * self._run.random.uniform(1.0, 1.25)
            self._run.after(wait, self._retry)
        self.feed()

    def _retry(self) -> None:
        self._left += 1
        self._wake()

    # -- exchanges

    def _arm(self) -> None:
        self._timer += 1
        if not self._is_exchanging and hasattr(self, "source"):
            wait = max(0.0, self.source.member.due - self.clock())
            self._run.after(wait + self._run.lateness(), self._exchange, self._timer)

    def _exchange(self, timer: int) -> None:
        if timer == self._timer and not self.is_dead and not self._is_exchanging:
            self._is_exchanging = True
            self._attempt(self.clock())

    def _attempt(self, began: float) -> None:
        self._run.after(self._run.store_way(), self._load, began, self.clock())

    def _load(self, began: float, asked: float) -> None:
        store = self._run.store
        if store.is_down:
            self._end_exchange(lambda: self.source.fail(StoreError("down")))
        else:
            values = store.version, store.value, self._run.now + _STORE_AHEAD
            self._run.after(self._run.store_way(), self._decide, began, asked, values)

    def _decide(self, began: float, asked: float, loaded: tuple[int, bytes | None, float]) -> None:
        version, value, now = loaded
        member = self.source.member
        member.store_clock.record(asked, now, self.clock())
        report = member.report()
        state, grant = exchange(None if value is None else _decode(value), now, report)
        self._run.states.append((self._run.now, state.rate.rate, state.rate.limit))

        def swap() -> None:
            swapped = self._run.store.swap(version, _encode(state))
            self._run.after(self._run.store_way(), answer, swapped)

        def answer(swapped: bool) -> None:  # noqa: FBT001  an event's value
            if swapped:
                self.exchanges.append(self._run.now)
                self._end_exchange(lambda: self.source.accept(report, grant, began))
            else:
                self.lost += 1
                again = self._run.random.uniform(0.0, 0.003)
                self._run.after(again, lambda: self._attempt(self.clock()))

        self._run.after(self._run.store_way(), swap)

    def _end_exchange(self, end: Callable[[], object]) -> None:
        if not self.is_dead:
            end()
            self._is_exchanging = False
            self._arm()


class Run:
    """
    A run of several processes.

    Attributes:
        now: seconds since the start.
        processes: the processes that have the same number of items.
        others: further processes: of single calls, and of a light job.
        sent: times of all requests.
        states: time, rate and limit of each exchange.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.now = 0.0
        self.random = random.Random(world.seed)
        self.store = Store()
        self.sent: list[float] = []
        self.states: list[tuple[float, float, float | None]] = []
        self._events: list[tuple[float, int, Callable[..., object], tuple[object, ...]]] = []
        self._number = 0
        self.processes = [
            Process(self, number, world.items, world.in_flight) for number in range(world.members)
        ]
        self.others = [Process(self, world.members, world.light, 1)]
        for process in (*self.processes, *self.others):
            self.after(self.random.uniform(0.0, 0.2), process.start)
        if world.calls:
            self.after(1.0, self._call)

    def after(self, seconds: float, happen: Callable[..., object], *values: object) -> None:
        """Schedule an event."""
        self._number += 1
        heapq.heappush(self._events, (self.now + seconds, self._number, happen, values))

    def until(self, seconds: float) -> None:
        """Run until a time, or until all items are done."""
        left = self.world.items * sum(not each.is_dead for each in self.processes)
        while self._events[0][0] < seconds and (
            sum(len(each.done) for each in self.processes if not each.is_dead) < left
        ):
            self.now, _, happen, values = heapq.heappop(self._events)
            happen(*values)

    def _call(self) -> None:
        self.others[0].call()
        self.after(1.0 / self.world.calls, self._call)

    def way(self) -> float:
        """Return the seconds to or from the server."""
        return self.world.latency / 2 * self.random.uniform(0.8, 1.2)

    def store_way(self) -> float:
        """Return the seconds to or from the store, which now and then are many."""
        rare = 0.01 if self.random.random() < 0.02 else 0.0
        return self.world.store * self.random.uniform(0.3, 0.7) + rare

    def lateness(self) -> float:
        """Return the delay of a timer."""
        return self.random.uniform(0.0, self.world.late)

    @property
    def done(self) -> list[float]:
        """Times of all successes, in order."""
        return sorted(moment for each in (*self.processes, *self.others) for moment in each.done)

    @property
    def throttled(self) -> float:
        """The share of all requests that was throttled."""
        throttled = sum(len(each.throttled) for each in (*self.processes, *self.others))
        return throttled / len(self.sent)

    def rate(self, start: float, end: float) -> float:
        """Return the successes per second in a period."""
        return _between(self.done, start, end) / (end - start)

    def most_sent(self, start: float, end: float) -> int:
        """Return the most requests sent in any second of a period."""
        sent = [moment for moment in self.sent if start <= moment < end]
        return max(bisect.bisect(sent, first + 1.0) - place for place, first in enumerate(sent))


def _between(times: list[float], start: float, end: float) -> int:
    return bisect.bisect(times, end) - bisect.bisect(times, start)


def main() -> None:
    """Print a line for each number of members and each seed."""
    for members in (4, 16):
        for seed in SEEDS:
            world = World(
                server=Bucket(400.0, 40.0), members=members, items=24_000 // members, seed=seed
            )
            run = Run(world)
            run.until(120.0)
            ends = [each.done[-1] for each in run.processes]
            exchanges = sum(len(each.exchanges) for each in run.processes)
            lost = sum(each.lost for each in run.processes)
            sys.stdout.write(
                f"{members:2} members, seed {seed:2}: {run.done[-1] / 60.0:.3f} of the ideal, "
                f"throttled {run.throttled:.2%}, ends {min(ends):.1f} to {max(ends):.1f} s, "
                f"swaps lost {lost / exchanges:.1%}\n"
            )


if __name__ == "__main__":
    main()
