"""Processes that share a rate, over a store and a service with random faults, in virtual time."""

from __future__ import annotations

import asyncio
import bisect
import itertools
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import pytest

from adapty_async._shared.loop import ExchangeLoop
from adapty_async._shared.store import TIMEOUT, Change, Loaded
from adapty_async.errors import StoreError
from tests.raw_server import own_tasks
from tests.shared.support import MemoryStore, virtually
from tests.simulation import Bucket

T = TypeVar("T")
R = TypeVar("R")

_LIMIT = 100.0
_BURST = 10.0
_WAY = 0.001  # seconds to the store, and back
_PAUSE = 8.0


class FaultyStore(MemoryStore):
    """
    A store whose requests and responses are delayed and lost, and which goes down.

    Attributes:
        random: decides on each request.
        way: maximum seconds to the store, and back.
        lost: the share of requests, and of responses, that are lost.
    """

    def __init__(self, clock: Callable[[], float], seed: int) -> None:
        super().__init__(clock)
        self.random = random.Random(seed)
        self.way = _WAY
        self.lost = 0.0

    async def load(self, keys: Sequence[str]) -> list[Loaded]:
        """Return the values of keys, or fail."""
        return await self._call(super().load, keys)

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        """Store values, or fail; they may be stored all the same."""
        return await self._call(super().swap, changes)

    async def _call(
        self, call: Callable[[Sequence[T]], Awaitable[list[R]]], values: Sequence[T]
    ) -> list[R]:
        await self._go()
        results = await call(values)
        await self._go()
        return results

    async def _go(self) -> None:
        await asyncio.sleep(self.random.uniform(0.0, self.way))
        if self.random.random() < self.lost:
            await asyncio.sleep(TIMEOUT)
            raise StoreError("the store does not respond")


class Service:
    """
    A service with a rate limit, which may also reject everything for some time.

    Attributes:
        sent: times of all requests.
        passed: times of those that it accepted.
        pauses: start and end of each time in which it rejects everything.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._bucket = Bucket(_LIMIT, _BURST)
        self.sent: list[float] = []
        self.passed: list[float] = []
        self.pauses: list[tuple[float, float]] = []

    def pause(self) -> None:
        """Reject everything from now on for some seconds."""
        self.pauses.append((self._clock(), self._clock() + _PAUSE))

    def is_paused(self, start: float, end: float) -> bool:
        """Return whether it rejected everything at some time of a period."""
        return any(start < until and since < end for since, until in self.pauses)

    def retry_after(self) -> float | None:
        """Return the `Retry-After` of a request that arrives now; None if it is accepted."""
        now = self._clock()
        self.sent.append(now)
        if self.is_paused(now, now):
            return self.pauses[-1][1] - now
        if not self._bucket.passes(now):
            return 1.0
        self.passed.append(now)
        return None


class Process:
    """A process that sends as many requests as it may."""

    def __init__(self, name: str, store: FaultyStore, service: Service) -> None:
        self._clock = asyncio.get_running_loop().time
        self._service = service
        self._exchanges = ExchangeLoop(store, name, 0.5, self._clock)
        self._is_closed = False
        self.source = self._exchanges.source("key")
        self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as requests:
            while not self._is_closed:
                if wait := self.source.acquire():
                    await asyncio.sleep(wait)
                else:
                    requests.create_task(self._send(self._clock()))

    async def _send(self, sent: float) -> None:
        await asyncio.sleep(0.01)
        retry_after = self._service.retry_after()
        await asyncio.sleep(0.01)
        if retry_after is None:
            self.source.succeeded(sent)
        else:
            self.source.throttled(sent, retry_after)

    async def close(self) -> None:
        """Stop, and leave the others."""
        self._is_closed = True
        await self._task
        await self._exchanges.aclose()


async def _down(store: FaultyStore, processes: Sequence[Process]) -> None:
    store.is_down = True
    await asyncio.sleep(store.random.uniform(0.1, 3.0))
    sources = [process.source for process in processes]
    if all(source.is_alone for source in sources):
        assert sum(source.rate for source in sources) <= 0.5 * max(
            source.member.known for source in sources
        )
    store.is_down = False


async def _crashing(store: FaultyStore, processes: Sequence[Process]) -> None:
    for _ in range(3):
        store.values.clear()
        await _down(store, processes)
        await asyncio.sleep(store.random.uniform(0.0, 0.1))


async def _losing(store: FaultyStore, _: Sequence[Process]) -> None:
    store.lost = 0.3
    await asyncio.sleep(2.0)
    store.lost = 0.0


async def _slow(store: FaultyStore, _: Sequence[Process]) -> None:
    store.way = 0.2
    await asyncio.sleep(2.0)
    store.way = _WAY


async def _damaged(store: FaultyStore, _: Sequence[Process]) -> None:
    store.values = {key: (version, b"damaged") for key, (version, _) in store.values.items()}


FAULTS = (_down, _crashing, _losing, _slow, _damaged)


def most_in_a_second(times: Sequence[float]) -> int:
    """Return the most of ascending times that are within any second."""
    return max(bisect.bisect(times, first + 1.0) - place for place, first in enumerate(times))


@pytest.mark.parametrize("seed", range(8))
def test_processes_survive_random_faults_of_their_store(seed: int) -> None:
    """They exceed neither limit nor fallback for long, never stand still, and keep a pause."""

    async def main() -> None:
        before, clock = own_tasks(), asyncio.get_running_loop().time
        store, service = FaultyStore(clock, seed), Service(clock)
        processes = [Process(f"{number}", store, service) for number in range(3)]
        await asyncio.sleep(4.0)
        found = len(service.sent)
        for number in range(3, 13):
            if number % 4 == 0:
                service.pause()
                await asyncio.sleep(1.0)
            await store.random.choice(FAULTS)(store, processes)
            leaving = store.random.randrange(3)
            await processes[leaving].close()
            processes[leaving] = Process(f"{number}", store, service)
            # a new process does not know of the others until they have found the store again
            await asyncio.sleep(store.random.uniform(2.0, 5.0))
        await asyncio.sleep(service.pauses[-1][1] + 20.0 - clock())
        end, sent = clock(), service.sent

        assert not any(process.source.is_alone for process in processes)
        assert {process.source.members for process in processes} == {3}
        assert bisect.bisect(service.passed, end - 3.0) <= len(service.passed) - 0.6 * 3 * _LIMIT
        assert most_in_a_second(sent[found:]) <= 2.5 * _LIMIT
        for start, later in itertools.pairwise(sent):
            assert later - start < 2.5 or service.is_paused(start, later)
        for start, until in service.pauses:
            assert bisect.bisect(sent, until) - bisect.bisect(sent, start + 1.0) <= 12
        for process in processes:
            await process.close()
        assert clock() - end < 2.5
        assert own_tasks() == before

    random.seed(seed)  # of the backoff
    virtually(main())
