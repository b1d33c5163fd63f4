"""A line: who is let in, in which order, and what is left when somebody gives up."""

from __future__ import annotations

import asyncio
import random

import pytest

from adapty_async._flow.queues import WaitQueue
from adapty_async.errors import CircuitOpenError
from tests._support import loop_turns


class Venue:
    """
    A venue that admits as many visitors as it has room for; the leader waits for room.

    Attributes:
        room: number of visitors that may enter.
        inside: visitors that entered, in order.
        rejected: visitors whose admission raises an error.
        led: number of times that a visitor waited for the others.
    """

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self.inside: list[str] = []
        self.rejected: set[str] = set()
        self.led = 0
        self._more = asyncio.Event()
        self.wait_queue: WaitQueue[str] = WaitQueue(self._admit, self._lead, self._expel)

    def _admit(self, name: str) -> bool:
        if name in self.rejected:
            raise CircuitOpenError("never", retry_after=1.0)
        if not self.room:
            return False
        self.room -= 1
        self.inside.append(name)
        return True

    async def _lead(self, name: str) -> None:
        self.led += 1
        while not self._admit(name):
            self._more.clear()
            await self._more.wait()

    def _expel(self, name: str) -> None:
        self.inside.remove(name)
        self.room += 1

    def open(self, room: int) -> None:
        """Make room for *n* more."""
        self.room += room
        self._more.set()

    async def visit(self, name: str) -> None:
        """Go in, at once or when it is possible."""
        if self.wait_queue.has_leader or not self._admit(name):
            await self.wait_queue.acquire(name)

    def queue(self, names: str) -> list[asyncio.Task[None]]:
        """Let them come one after the other."""
        return [asyncio.create_task(self.visit(name)) for name in names]


async def settle() -> None:
    """Let every task run until it waits."""
    await loop_turns(10)


async def test_who_comes_later_does_not_overtake() -> None:
    """While an entrant waits, no other is admitted at once."""
    venue = Venue()
    tasks = venue.queue("ab")
    await settle()
    venue.room = 1
    tasks += venue.queue("c")
    await settle()

    assert venue.inside == []
    venue.open(2)
    await asyncio.gather(*tasks)
    assert venue.inside == ["a", "b", "c"]
    assert not venue.wait_queue.has_leader


async def test_the_first_takes_along_all_that_may_go_with_it() -> None:
    """One of any number of waiters waits for the cause, and all are admitted together."""
    venue = Venue()
    tasks = venue.queue("abcdef")
    await settle()
    assert venue.led == 1
    venue.open(4)
    await asyncio.gather(*tasks[:4])

    assert venue.inside == ["a", "b", "c", "d"]
    await settle()
    assert venue.led == 2
    venue.open(9)
    await asyncio.gather(*tasks)
    assert venue.inside == ["a", "b", "c", "d", "e", "f"]
    assert not venue.wait_queue.has_leader


async def test_an_error_ends_the_wait_of_its_entrant_alone() -> None:
    """An error ends its own entrant alone, leader or follower; the others continue."""
    venue = Venue()
    tasks = venue.queue("abcd")
    await settle()
    venue.rejected = {"a", "c"}
    venue.open(2)
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(result) for result in results] == [
        CircuitOpenError,
        type(None),
        CircuitOpenError,
        type(None),
    ]
    assert venue.inside == ["b", "d"]


@pytest.mark.parametrize("number", [0, 1, 2], ids=["leader", "follower", "last"])
async def test_who_gives_up_is_passed_over(number: int) -> None:
    """The others are admitted, in order."""
    venue = Venue()
    tasks = venue.queue("abc")
    await settle()
    tasks.pop(number).cancel()
    await settle()
    venue.open(2)
    await asyncio.gather(*tasks)

    assert venue.inside == [name for name in "abc" if name != "abc"[number]]
    assert not venue.wait_queue.has_leader


@pytest.mark.parametrize("granted", [True, False], ids=["after", "before"])
async def test_who_gives_up_in_the_moment_of_being_let_in_leaves_no_gap(*, granted: bool) -> None:
    """Its permit is revoked, and the next entrant is admitted instead."""
    venue = Venue()
    tasks = venue.queue("abc")
    await settle()
    venue.open(2)
    if granted:
        await asyncio.sleep(0)  # a is admitted, and has admitted b, whose task has not run yet
        assert venue.inside == ["a", "b"]
    tasks[1].cancel()
    await settle()
    venue.open(1)
    await asyncio.gather(tasks[0], tasks[2])

    assert tasks[1].cancelled()
    assert venue.inside == ["a", "c"]


async def test_who_gives_up_in_the_moment_of_coming_to_lead_passes_that_on() -> None:
    """The queue always has a leader while entrants wait."""
    venue = Venue()
    tasks = venue.queue("abc")
    await settle()
    venue.open(1)
    await asyncio.sleep(0)
    tasks[1].cancel()
    await settle()
    venue.open(1)
    await asyncio.gather(tasks[0], tasks[2])

    assert venue.inside == ["a", "c"]
    assert not venue.wait_queue.has_leader


async def test_who_gives_up_in_the_moment_of_an_error_ends_cancelled() -> None:
    """The error causes no warning, and the others are not delayed."""
    venue = Venue()
    tasks = venue.queue("abc")
    await settle()
    venue.rejected = {"b"}
    venue.open(2)
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.gather(tasks[0], tasks[2])
    await settle()

    assert tasks[1].cancelled()
    assert venue.inside == ["a", "c"]


@pytest.mark.parametrize("seed", range(20))
async def test_cancelling_at_random_loses_neither_a_permit_nor_anybody(seed: int) -> None:
    """With any cancellations, the others are admitted, and cancelled visitors use no room."""
    chosen = random.Random(seed)
    venue = Venue()
    names = [f"{number}" for number in range(60)]
    tasks = [asyncio.create_task(venue.visit(name)) for name in names]
    gave_up = set(chosen.sample(range(60), 25))
    rooms = 0
    for number in gave_up:
        for _ in range(chosen.randrange(4)):
            await asyncio.sleep(0)
        if chosen.random() < 0.5:
            venue.open(1)
            rooms += 1
        tasks[number].cancel()
    venue.open(60 - rooms)
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert len(venue.inside) + venue.room == 60
    inside = {name for name, result in zip(names, results, strict=True) if result is None}
    assert inside == set(venue.inside)
    assert inside >= {name for number, name in enumerate(names) if number not in gave_up}
    assert not venue.wait_queue.has_leader
