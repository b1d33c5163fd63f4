"""The semaphore: the number and order of its grants under any cancellation."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async._flow.queues import ConnectionSemaphore, PrioritySemaphore
from adapty_async.testing import FakeClock
from tests._support import has_waiters, loop_turns


async def settle() -> None:
    """Let every task run until it waits."""
    await loop_turns(5)


class Twin:
    """
    A semaphore with tasks that acquire its permits, and next to it a plain model.

    Attributes:
        came: tasks with a permit, in order; each keeps it until the twin releases it.
        expected: tasks that must have a permit by now, in order.
    """

    def __init__(self, count: int) -> None:
        self.permits = PrioritySemaphore(count)
        self.came: list[int] = []
        self.expected: list[int] = []
        self._count = count
        self._names = itertools.count()
        self._tasks: list[asyncio.Task[None]] = []
        self._holding: list[int] = []
        self._waiting: list[tuple[bool, int]] = []  # sorted: urgent waiters, then the others

    async def take(self, number: int) -> None:
        """Request a permit; every third request is urgent."""
        name, urgent = next(self._names), number % 3 == 0
        self._tasks.append(asyncio.create_task(self._visit(name, urgent=urgent)))
        self._waiting.append((not urgent, name))

    async def release(self, number: int) -> None:
        """Release one of the acquired permits."""
        if self._holding:
            self._holding.pop(number % len(self._holding))
            self.permits.release()

    async def cancel(self, number: int) -> None:
        """Cancel a waiter."""
        if self._waiting:
            _, name = self._waiting.pop(number % len(self._waiting))
            self._tasks[name].cancel()

    async def cancel_and_release(self, number: int) -> None:
        """Cancel a waiter, and release a permit before its task runs."""
        await self.cancel(number)
        await self.release(number)

    async def release_and_cancel(self, number: int) -> None:
        """Release a permit, and cancel the waiter that gets it before its task runs."""
        await self.release(number)
        if self._waiting and len(self._holding) < self._count:
            await self.cancel(self._waiting.index(min(self._waiting)))

    async def compare(self) -> None:
        """Grant the available permits in the model, and compare."""
        await settle()
        while self._waiting and len(self._holding) < self._count:
            waiting = min(self._waiting)
            self._waiting.remove(waiting)
            self._holding.append(waiting[1])
            self.expected.append(waiting[1])
        assert self.came == self.expected
        assert self.permits.count == self._count
        assert self.permits.available == self._count - len(self._holding)
        assert has_waiters(self.permits) == bool(self._waiting)

    async def close(self) -> None:
        """Leave no waiter."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _visit(self, name: int, *, urgent: bool) -> None:
        await self.permits.acquire(urgent=urgent)
        self.came.append(name)


Step: TypeAlias = Callable[[Twin, int], Awaitable[None]]

STEPS: tuple[Step, ...] = (
    Twin.take,
    Twin.take,
    Twin.take,
    Twin.release,
    Twin.release,
    Twin.cancel,
    Twin.cancel_and_release,
    Twin.release_and_cancel,
)


@given(
    count=st.integers(0, 4),
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 6)), max_size=60),
)
def test_permits_are_granted_as_in_a_plain_model(count: int, steps: list[tuple[Step, int]]) -> None:
    """After every step, the tasks that the model names hold a permit, in its order."""

    async def go() -> None:
        twin = Twin(count)
        for step, number in steps:
            await step(twin, number)
            await twin.compare()
        await twin.close()

    asyncio.run(go())


class Room:
    """A room that admits as many visitors as there are permits."""

    def __init__(self, count: int) -> None:
        self.permits = PrioritySemaphore(count)
        self.inside = 0

    async def visit(self, arrival: int, stay: int, *, urgent: bool) -> None:
        """Arrive after a number of loop iterations, and stay for a number of them."""
        await loop_turns(arrival)
        await self.permits.acquire(urgent=urgent)
        self.inside += 1
        try:
            await loop_turns(stay)
        finally:
            self.inside -= 1
            self.permits.release()


@given(
    visits=st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 5), st.booleans(), st.integers(0, 60)),
        max_size=60,
    ),
    count=st.integers(1, 6),
)
def test_no_permit_is_lost_or_given_twice_in_any_turmoil(
    visits: list[tuple[int, int, bool, int]], count: int
) -> None:
    """With any arrivals, stays and cancellations, each permit has one holder and none is lost."""

    async def go() -> None:
        room = Room(count)
        tasks = [
            asyncio.create_task(room.visit(arrival, stay, urgent=urgent))
            for arrival, stay, urgent, _ in visits
        ]
        for turn in range(30 + 8 * len(visits)):  # enough even if the visitors come one at a time
            for task, (*_, end) in zip(tasks, visits, strict=True):
                if turn == end:
                    task.cancel()
            await loop_turns(1)
            assert room.inside <= count
            assert room.inside <= room.permits.count - room.permits.available
        assert all(task.done() for task in tasks)
        assert room.permits.available == room.permits.count

    asyncio.run(go())


async def visit(
    permits: PrioritySemaphore, name: str, order: list[str], *, urgent: bool = False
) -> None:
    """Acquire a permit, and record that."""
    await permits.acquire(urgent=urgent)
    order.append(name)


def visitors(permits: PrioritySemaphore, names: str) -> tuple[list[asyncio.Task[None]], list[str]]:
    """Return tasks that acquire a permit each, and the list of grants; capitals are urgent."""
    order: list[str] = []
    return [
        asyncio.create_task(visit(permits, name, order, urgent=name.isupper())) for name in names
    ], order


async def test_available_permits_are_acquired_without_a_wait() -> None:
    """Available permits are acquired at once, and the next waiter waits."""
    permits = PrioritySemaphore(2)
    _, order = visitors(permits, "abc")

    assert (permits.available, has_waiters(permits)) == (2, False)
    await settle()
    assert order == ["a", "b"]
    assert (permits.count, permits.available, has_waiters(permits)) == (2, 0, True)
    permits.release()
    await settle()
    assert order == ["a", "b", "c"]
    assert (permits.available, has_waiters(permits)) == (0, False)


async def test_the_urgent_go_before_the_patient_and_each_by_their_order() -> None:
    """A permit is granted to urgent waiters first, otherwise in order of arrival."""
    permits = PrioritySemaphore(0)
    _, order = visitors(permits, "abCdE")
    await settle()

    for _ in range(5):
        permits.release()
        await settle()
    assert order == ["C", "E", "a", "b", "d"]


async def test_who_does_not_say_is_patient() -> None:
    """An urgent waiter precedes an earlier one of normal priority, which is the default."""
    permits = PrioritySemaphore(0)
    patient = asyncio.create_task(permits.acquire())
    await settle()
    _, order = visitors(permits, "A")
    await settle()
    permits.release()
    await settle()

    assert (order, patient.done()) == (["A"], False)
    permits.release()
    await patient


async def test_a_permit_that_is_released_goes_to_a_waiter_and_not_to_a_newcomer() -> None:
    """A released permit belongs to the next waiter even before its task runs."""
    permits = PrioritySemaphore(1)
    _, order = visitors(permits, "ab")
    await settle()
    permits.release()
    _, later = visitors(permits, "C")

    assert permits.available == 0
    await settle()
    assert (order, later) == (["a", "b"], [])
    permits.release()
    await settle()
    assert later == ["C"]


async def test_a_cancelled_waiter_is_passed_over() -> None:
    """A waiter that was cancelled gets no permit, and does not count as a waiter."""
    permits = PrioritySemaphore(0)
    tasks, order = visitors(permits, "abC")
    await settle()
    tasks[0].cancel()
    tasks[2].cancel()
    permits.release()
    await settle()

    assert order == ["b"]
    assert [task.cancelled() for task in tasks] == [True, False, True]
    assert (permits.available, has_waiters(permits)) == (0, False)


async def test_nobody_waits_once_all_who_waited_were_cancelled() -> None:
    """Cancelled waiters that are still queued do not count, and the permit stays available."""
    permits = PrioritySemaphore(0)
    tasks, _ = visitors(permits, "aB")
    wanted = []
    for task in tasks:
        await settle()
        wanted.append(has_waiters(permits))
        task.cancel()
    await settle()
    wanted.append(has_waiters(permits))

    assert wanted == [True, True, False]
    permits.release()
    assert permits.available == 1


async def test_a_waiter_cancelled_after_its_grant_passes_the_permit_on() -> None:
    """A cancellation between the grant and the wake-up loses no permit."""
    permits = PrioritySemaphore(0)
    tasks, order = visitors(permits, "abc")
    await settle()
    permits.release()
    tasks[0].cancel()
    await settle()

    assert tasks[0].cancelled()
    assert order == ["b"]
    tasks[2].cancel()
    await settle()
    permits.release()
    assert permits.available == 1


async def test_a_time_that_is_over_when_the_permit_comes_loses_no_permit() -> None:
    """A timeout that coincides with the grant releases the permit."""
    permits = PrioritySemaphore(0)

    async def hurry() -> None:
        async with asyncio.timeout(0):
            await permits.acquire(urgent=True)

    task = asyncio.create_task(hurry())
    await asyncio.sleep(0)
    permits.release()
    with pytest.raises(TimeoutError):
        await task
    assert permits.available == 1


# ConnectionSemaphore


@pytest.mark.parametrize(("in_use", "count"), [(64, 56), (20, 17), (3, 1), (2, 1)])
def test_a_connection_without_a_descriptor_reduces_the_permits_to_those_that_had_one(
    in_use: int, count: int
) -> None:
    """Nine tenths of the others in use are left, so that the process has descriptors for more."""
    permits = ConnectionSemaphore(100, FakeClock())
    assert not permits.is_reduced
    for _ in range(in_use):
        assert permits.try_acquire()

    assert permits.reduce()
    assert (permits.count, permits.is_reduced) == (count, True)
    for _ in range(in_use - count):
        permits.release()
        assert not permits.try_acquire()
    permits.release()
    assert permits.try_acquire()


def test_failures_of_permits_that_are_no_longer_counted_reduce_no_further() -> None:
    """Of 64 requests that begin together, 20 have a descriptor: about as many permits are left."""
    permits = ConnectionSemaphore(64, FakeClock())
    for _ in range(64):
        assert permits.try_acquire()
    for _ in range(44):
        assert permits.reduce()
        permits.release()

    assert 15 <= permits.count <= 20
    assert permits.available == permits.count - 20


def test_a_process_that_can_make_no_connection_at_all_keeps_its_permits() -> None:
    """The only request in flight fails: fewer permits would not help, so that is a failure."""
    permits = ConnectionSemaphore(64, FakeClock())
    assert permits.try_acquire()

    assert not permits.reduce()
    assert (permits.count, permits.is_reduced) == (64, False)


def test_a_permit_comes_back_each_second_until_all_are_back() -> None:
    """Other parts of the process may have released their descriptors meanwhile."""
    clock = FakeClock()
    permits = ConnectionSemaphore(4, clock)
    for _ in range(4):
        assert permits.try_acquire()
    assert permits.reduce()
    counts = []
    while permits.is_reduced:
        permits.grow()
        counts.append(permits.count)
        clock.now += 0.5

    assert counts == [2, 2, 3, 3, 4]
    assert permits.available == 0
