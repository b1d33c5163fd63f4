"""A keyed lock: one holder per key, first come, first served, whichever waiter is cancelled."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import pytest

from adapty_async._flow.queues import KeyedLock
from tests.bulk.test_bulk import settle, until_cancelled


async def test_different_subjects_do_not_wait_for_each_other() -> None:
    """An acquire of a free lock returns at once."""
    lock = KeyedLock()
    for subject in ("a", ("b", 1), ()):
        await lock.acquire(subject)
    for subject in ("a", ("b", 1), ()):
        lock.release(subject)

    assert (lock._locked, lock._waiting) == (set(), {})


async def test_waiters_acquire_the_lock_in_their_order() -> None:
    """Those who wait for a key go in the order they came, and nothing is kept of them."""
    lock = KeyedLock()
    order: list[int] = []

    async def work(number: int) -> None:
        await lock.acquire("a")
        order.append(number)
        await asyncio.sleep(0)
        lock.release("a")

    await asyncio.gather(*map(work, range(20)))

    assert order == list(range(20))
    assert (lock._locked, lock._waiting) == (set(), {})


@pytest.mark.parametrize("told", [False, True], ids=["not-told-yet", "told"])
async def test_who_gives_up_is_passed_over(told: bool) -> None:  # noqa: FBT001  a case
    """A cancelled waiter does not hold the key, whether or not it has noticed."""
    lock = KeyedLock()
    await lock.acquire("a")
    first, second = (asyncio.create_task(lock.acquire("a")) for _ in range(2))
    await settle()
    first.cancel()
    if told:
        await settle()
    lock.release("a")
    await second
    await until_cancelled(first)
    lock.release("a")

    assert (lock._locked, lock._waiting) == (set(), {})


async def test_a_turn_that_came_too_late_is_passed_on() -> None:
    """A waiter that is cancelled just after its grant passes the lock on."""
    lock = KeyedLock()
    await lock.acquire("a")
    first, second = (asyncio.create_task(lock.acquire("a")) for _ in range(2))
    await settle()
    lock.release("a")
    first.cancel()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
    lock.release("a")

    assert (lock._locked, lock._waiting) == (set(), {})


@pytest.mark.parametrize("seed", range(20))
async def test_cancelling_at_random_breaks_no_turn(seed: int) -> None:
    """Whichever waiters are cancelled, never two hold the lock, and all others acquire it."""
    random = Random(seed)
    lock = KeyedLock()
    inside = Counter[str]()
    entered: set[int] = set()

    async def work(number: int, subject: str) -> None:
        await lock.acquire(subject)
        try:
            inside[subject] += 1
            assert inside[subject] == 1
            entered.add(number)
            for _ in range(random.randrange(3)):
                await asyncio.sleep(0)
        finally:
            inside[subject] -= 1
            lock.release(subject)

    tasks = [asyncio.create_task(work(number, random.choice("abc"))) for number in range(100)]
    gave_up = set(random.sample(range(100), 40))
    for number in gave_up:
        for _ in range(random.randrange(4)):
            await asyncio.sleep(0)
        tasks[number].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
    assert entered >= set(range(100)) - gave_up
    assert (lock._locked, lock._waiting) == (set(), {})
