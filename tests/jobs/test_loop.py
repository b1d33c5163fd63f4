"""The loop of a worker, with a clock of its own and parts that do what a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from adapty_async.jobs import PartBusyError, PartChangedError, StoreUnavailableError
from adapty_async.jobs._loop import PartCalls, PartLoop


class World:
    """
    Parts, and a time that passes only while the loop waits.

    Attributes:
        open: the open parts.
        raises: what the runs of a part raise, one after another.
        ran: the parts that were run.
        now: the time in seconds.
    """

    def __init__(self, *parts: int) -> None:
        self.open = list(parts)
        self.raises: dict[int, list[Exception]] = {}
        self.closes: set[int] = set()  # these are not open after an error either
        self.outage: list[Exception] = []
        self.ran: list[int] = []
        self.now = 0.0
        self.recorded = 0
        self.at: Callable[[], object] = lambda: None

    async def next_parts(self, most: int) -> list[int]:
        """Return the open parts."""
        await asyncio.sleep(0)
        if self.outage:
            raise self.outage.pop(0)
        return self.open[:most]

    async def run_part(self, number: int) -> None:
        """Run a part, or raise."""
        self.ran.append(number)
        await asyncio.sleep(0)
        errors = self.raises.get(number, [])
        if not errors or number in self.closes:
            self.open.remove(number)
        if errors:
            raise errors.pop(0)

    @property
    def calls(self) -> PartCalls:
        """The functions that a loop calls."""
        return PartCalls(self.next_parts, self.run_part, lambda: self.recorded, asyncio.Event())

    async def wait(self, ended: asyncio.Event, seconds: float) -> None:
        """Let the time pass, unless a part ends before."""
        await asyncio.sleep(0)
        if not ended.is_set():
            self.now += seconds
            self.at()

    async def work(self, parts: int = 1) -> None:
        """Run the loop."""
        await PartLoop(
            self.calls,
            parts=parts,
            max_outage=10.0,
            clock=lambda: self.now,
            wait=self.wait,
        ).run()


@pytest.mark.parametrize("parts", [1, 3, 50])
async def test_every_open_part_is_run_once(parts: int) -> None:
    """All parts run, however many are in hand."""
    world = World(*range(200))
    await world.work(parts)
    assert sorted(world.ran) == list(range(200))


async def test_a_part_of_another_worker_is_tried_again_later() -> None:
    """A worker waits for the parts of others, since they may die."""
    world = World(1, 2)
    world.raises[2] = [PartBusyError("busy")] * 3
    await world.work(2)
    assert sorted(world.ran) == [1, 2, 2, 2, 2]
    assert world.now == 3.0


async def test_a_part_that_another_worker_ends_is_not_waited_for() -> None:
    """The loop ends when the others have ended their parts."""
    world = World(1)
    world.raises[1] = [PartBusyError("busy")] * 99
    world.at = world.open.clear
    await world.work()
    assert world.ran == [1]


async def test_a_part_whose_input_changed_is_left() -> None:
    """The other parts run, and the store no longer offers the changed one."""
    world = World(1, 2, 3)
    world.raises[2] = [PartChangedError("changed")]
    world.closes.add(2)
    await world.work()
    assert sorted(world.ran) == [1, 2, 3]


async def test_an_outage_of_the_store_is_waited_out() -> None:
    """While the store is unavailable no part begins, and the work resumes afterwards."""
    world = World(1, 2)
    world.outage = [StoreUnavailableError("away")] * 9
    world.raises[1] = [StoreUnavailableError("away")]
    await world.work()
    assert sorted(world.ran) == [1, 1, 2]
    assert 5.0 <= world.now <= 15.0


async def test_an_outage_of_the_store_that_lasts_ends_the_work() -> None:
    """After the time for outages, the worker gives up."""
    world = World(1)
    world.outage = [StoreUnavailableError("away")] * 99
    with pytest.raises(StoreUnavailableError, match="away"):
        await world.work(3)
    assert 10.0 <= world.now <= 18.0


async def test_a_store_that_can_only_be_read_ends_the_work() -> None:
    """A store with a full disk still has open parts, and none of them can be recorded."""
    world = World(*range(200))
    world.raises = {number: [StoreUnavailableError("full")] * 99 for number in range(200)}
    with pytest.raises(StoreUnavailableError, match="full"):
        await world.work(3)
    assert 10.0 <= world.now <= 18.0


async def test_a_store_that_is_away_for_long_is_tried_less_often() -> None:
    """A server that starts is not kept busy by the connections of a hundred workers."""
    world = World(1)
    world.outage = [StoreUnavailableError("away")] * 9_999
    waits: list[float] = []

    async def wait(ended: asyncio.Event, seconds: float) -> None:
        waits.append(seconds)
        await world.wait(ended, seconds)

    loop = PartLoop(world.calls, parts=1, max_outage=900.0, clock=lambda: world.now, wait=wait)
    with pytest.raises(StoreUnavailableError, match="away"):
        await loop.run()
    assert 0.5 <= waits[0] <= 1.0
    assert max(waits) <= 5.0
    assert 900 / 5 <= len(waits) <= 900 / 2.5
    assert len(set(waits)) == len(waits)  # random


@pytest.mark.parametrize("is_calm", [False, True])
async def test_an_outage_ends_with_an_outcome_or_a_long_calm(
    caplog: pytest.LogCaptureFixture, *, is_calm: bool
) -> None:
    """Failures of a store that works in between are not one long outage; each has a warning."""
    world = World(1)
    world.raises[1] = [StoreUnavailableError("away")] * 6

    def pass_time() -> None:
        world.now += 31.0 if is_calm else 2.0
        world.recorded += not is_calm

    world.at = pass_time
    await world.work()
    assert len(world.ran) == 7
    text = "away; this worker tries again for 10 s"
    assert [record.message for record in caplog.records] == [text] * 6


async def test_an_outage_that_ends_several_parts_has_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Both parts in hand had recorded outcomes until then."""
    world = World(1, 2)
    world.raises = {number: [StoreUnavailableError("away")] for number in (1, 2)}
    counts = iter((1, 2))
    calls = world.calls._replace(recorded=lambda: next(counts))
    await PartLoop(calls, parts=2, max_outage=10.0, clock=lambda: world.now, wait=world.wait).run()
    assert sorted(world.ran) == [1, 1, 2, 2]
    assert len(caplog.records) == 1


async def test_another_error_ends_the_work_after_the_parts_in_hand() -> None:
    """The first error is raised, no other part begins, and those in hand end."""
    world = World(*range(100))
    world.raises = {number: [ValueError(f"part {number}")] for number in range(100)}
    with pytest.raises(ValueError, match="part "):
        await world.work(3)
    assert len(world.ran) == 3


async def test_the_real_wait_ends_with_the_event_or_the_time() -> None:
    """The default wait returns in both cases."""
    world = World(1)
    world.raises[1] = [PartBusyError("busy")]
    await PartLoop(world.calls, parts=2, max_outage=10.0).run()
    assert world.ran == [1, 1]
