"""A line: who is let in, in which order, and what is left when somebody gives up."""

from __future__ import annotations

import asyncio
import random

import pytest

from adapty_async._flow.wait_queue import WaitQueue
from adapty_async.errors import CircuitOpenError
from tests._support import loop_turns


class Door:
    """
    Lets in as many as there is room for; who leads waits until there is some.

    Attributes:
        room: how many may go in.
        inside: who went in, in order.
        refused: who is told that it may never.
        led: how often somebody had to wait for the others.
    """

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self.inside: list[str] = []
        self.refused: set[str] = set()
        self.led = 0
        self._more = asyncio.Event()
        self.line: WaitQueue[str] = WaitQueue(self._admit, self._lead, self._expel)

    def _admit(self, name: str) -> bool:
        if name in self.refused:
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
        """Make room for so many more."""
        self.room += room
        self._more.set()

    async def visit(self, name: str) -> None:
        """Go in, at once or when it is possible."""
        if not self.line.try_acquire(name):
            await self.line.acquire(name)

    def queue(self, names: str) -> list[asyncio.Task[None]]:
        """Let them come one after the other."""
        return [asyncio.create_task(self.visit(name)) for name in names]


async def settle() -> None:
    """Let every task run until it waits."""
    await loop_turns(10)


async def test_who_may_go_goes_at_once() -> None:
    """Without a queue nobody leads and nobody waits."""
    door = Door(room=3)

    assert [door.line.try_acquire(name) for name in "abcd"] == [True, True, True, False]
    assert (door.inside, door.led, door.line.has_leader) == (["a", "b", "c"], 0, False)


async def test_who_comes_later_does_not_overtake() -> None:
    """While an entrant waits, no other is admitted at once."""
    door = Door()
    tasks = door.queue("ab")
    await settle()
    door.room = 1

    assert not door.line.try_acquire("c")
    door.open(1)
    await asyncio.gather(*tasks)
    assert door.inside == ["a", "b"]
    assert not door.line.has_leader


async def test_the_first_takes_along_all_that_may_go_with_it() -> None:
    """One of any number of waiters waits for the cause, and all are admitted together."""
    door = Door()
    tasks = door.queue("abcdef")
    await settle()
    assert door.led == 1
    door.open(4)
    await asyncio.gather(*tasks[:4])

    assert door.inside == ["a", "b", "c", "d"]
    await settle()
    assert door.led == 2
    door.open(9)
    await asyncio.gather(*tasks)
    assert door.inside == ["a", "b", "c", "d", "e", "f"]
    assert not door.line.has_leader


async def test_what_one_is_told_ends_that_one_alone() -> None:
    """An error ends its own entrant alone, leader or follower; the others continue."""
    door = Door()
    tasks = door.queue("abcd")
    await settle()
    door.refused = {"a", "c"}
    door.open(2)
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(result) for result in results] == [
        CircuitOpenError,
        type(None),
        CircuitOpenError,
        type(None),
    ]
    assert door.inside == ["b", "d"]


@pytest.mark.parametrize("number", [0, 1, 2], ids=["leader", "follower", "last"])
async def test_who_gives_up_is_passed_over(number: int) -> None:
    """The others are admitted, in order."""
    door = Door()
    tasks = door.queue("abc")
    await settle()
    tasks.pop(number).cancel()
    await settle()
    door.open(2)
    await asyncio.gather(*tasks)

    assert door.inside == [name for name in "abc" if name != "abc"[number]]
    assert not door.line.has_leader


@pytest.mark.parametrize("told", [True, False], ids=["after", "before"])
async def test_who_gives_up_in_the_moment_of_being_let_in_leaves_no_gap(*, told: bool) -> None:
    """Its permit is revoked, and the next entrant is admitted instead."""
    door = Door()
    tasks = door.queue("abc")
    await settle()
    door.open(2)
    if told:
        await asyncio.sleep(0)  # a is admitted, and has admitted b, whose task has not run yet
        assert door.inside == ["a", "b"]
    tasks[1].cancel()
    await settle()
    door.open(1)
    await asyncio.gather(tasks[0], tasks[2])

    assert tasks[1].cancelled()
    assert door.inside == ["a", "c"]


async def test_who_gives_up_in_the_moment_of_coming_to_lead_passes_that_on() -> None:
    """The queue always has a leader while entrants wait."""
    door = Door()
    tasks = door.queue("abc")
    await settle()
    door.open(1)
    await asyncio.sleep(0)
    tasks[1].cancel()
    await settle()
    door.open(1)
    await asyncio.gather(tasks[0], tasks[2])

    assert door.inside == ["a", "c"]
    assert not door.line.has_leader


async def test_who_gives_up_in_the_moment_of_an_error_ends_cancelled() -> None:
    """The error causes no warning, and the others are not delayed."""
    door = Door()
    tasks = door.queue("abc")
    await settle()
    door.refused = {"b"}
    door.open(2)
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.gather(tasks[0], tasks[2])
    await settle()

    assert tasks[1].cancelled()
    assert door.inside == ["a", "c"]


@pytest.mark.parametrize("seed", range(20))
async def test_cancelling_at_random_loses_neither_a_place_nor_anybody(seed: int) -> None:
    """
    Whoever is cancelled whenever, the others get in, and no room is used up by those who did not.
    """
    chosen = random.Random(seed)
    door = Door()
    names = [f"{number}" for number in range(60)]
    tasks = [asyncio.create_task(door.visit(name)) for name in names]
    gave_up = set(chosen.sample(range(60), 25))
    rooms = 0
    for number in gave_up:
        for _ in range(chosen.randrange(4)):
            await asyncio.sleep(0)
        if chosen.random() < 0.5:
            door.open(1)
            rooms += 1
        tasks[number].cancel()
    door.open(60 - rooms)
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert len(door.inside) + door.room == 60
    inside = {name for name, result in zip(names, results, strict=True) if result is None}
    assert inside == set(door.inside)
    assert inside >= {name for number, name in enumerate(names) if number not in gave_up}
    assert not door.line.has_leader
