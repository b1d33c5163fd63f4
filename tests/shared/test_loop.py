"""The task that exchanges a process's share of a rate, over stores that fail and conflict."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from adapty_async._shared.client import SharedBucket
from adapty_async._shared.exchange import SharedState
from adapty_async._shared.store import Loaded, MemoryStore
from adapty_async.errors import StoreError
from tests.raw_server import own_tasks
from tests.shared.support import until

KEY = "key"


class Troubled(MemoryStore):
    """
    A store in memory that fails on request.

    Attributes:
        failures: number of loads that fail.
        conflicts: number of swaps that lose.
        loads: number of loads.
    """

    def __init__(self) -> None:
        super().__init__(time.time)
        self.failures = self.conflicts = self.loads = 0

    async def load(self, key: str) -> Loaded:
        """Return the value of a key, or fail."""
        self.loads += 1
        if self.failures:
            self.failures -= 1
            raise StoreError("the store is down")
        return await super().load(key)

    async def swap(self, key: str, version: int, value: bytes) -> bool:
        """Store a value, or lose."""
        if self.conflicts:
            self.conflicts -= 1
            return False
        return await super().swap(key, version, value)

    def state(self) -> SharedState:
        """Return the state in the store."""
        return msgspec.msgpack.decode(self.values[KEY][1], type=SharedState)


@pytest.fixture
def store() -> Troubled:
    """Return a store."""
    return Troubled()


@pytest.fixture
async def bucket(store: Troubled) -> AsyncIterator[SharedBucket]:
    """Return a bucket that has had an exchange, and check that no task of it is left."""
    before = own_tasks()
    made = SharedBucket(store, KEY, "name", 0.5, time.monotonic)
    await until(lambda: made.source.exchanges)
    yield made
    await made.aclose()
    assert own_tasks() == before


async def test_members_exchange_through_a_store(bucket: SharedBucket, store: Troubled) -> None:
    """A second member appears to the first one, and is gone after its close."""
    other = SharedBucket(store, KEY, "other", 0.5, time.monotonic)
    await until(lambda: other.source.exchanges)
    bucket.source.count()
    await until(lambda: bucket.source.members == 2)
    assert set(store.state().members) == {"name", "other"}
    await other.aclose()

    assert set(store.state().members) == {"name"}
    assert "SharedBucket(key, SharedSource(" in repr(bucket)


async def test_permits_arrive(bucket: SharedBucket) -> None:
    """A request that finds no permit gets one a moment later."""
    await until(lambda: not bucket.source.acquire())
    await until(lambda: bucket.source.exchanges > 1)


async def test_one_failure_of_a_store_changes_nothing(
    bucket: SharedBucket, store: Troubled
) -> None:
    """A broken connection is made again at once; the process does not continue alone."""
    store.failures, exchanges = 1, bucket.source.exchanges
    bucket.source.count()
    await until(lambda: bucket.source.exchanges > exchanges)

    assert not bucket.source.is_alone
    assert store.failures == 0


async def test_a_store_that_is_down_is_tried_again(bucket: SharedBucket, store: Troubled) -> None:
    """The process continues alone until the store is back."""
    store.failures = 4
    bucket.source.count()
    await until(lambda: bucket.source.is_alone)
    await until(lambda: not bucket.source.is_alone)

    assert store.failures == 0


async def test_a_lost_swap_is_tried_again(bucket: SharedBucket, store: Troubled) -> None:
    """A member that was slower exchanges on top of what the others did."""
    store.conflicts, exchanges = 3, bucket.source.exchanges
    bucket.source.count()
    await until(lambda: bucket.source.exchanges > exchanges)

    assert store.conflicts == 0


async def test_a_member_that_always_loses_waits_for_its_next_exchange(
    bucket: SharedBucket, store: Troubled
) -> None:
    """It neither hammers the store nor continues alone."""
    store.conflicts, exchanges = 21, bucket.source.exchanges
    bucket.source.count()
    await until(lambda: bucket.source.exchanges > exchanges)

    assert not bucket.source.is_alone
    assert store.conflicts == 0


async def test_a_damaged_state_is_replaced(bucket: SharedBucket, store: Troubled) -> None:
    """A value that is no state counts as none."""
    store.values[KEY] = 7, b"damaged"
    bucket.source.count()
    await until(lambda: store.values[KEY][0] > 7)

    assert set(store.state().members) == {"name"}


async def test_a_close_while_the_store_is_down_ends_the_task(
    bucket: SharedBucket, store: Troubled
) -> None:
    """Nothing waits for the store to come back."""
    store.is_down = True
    bucket.source.count()
    await until(lambda: bucket.source.is_alone)
    await bucket.aclose()


async def test_a_store_that_goes_down_at_the_end_is_no_error(
    bucket: SharedBucket, store: Troubled
) -> None:
    """The others notice that the member is gone; its close does not fail."""
    store.is_down = True
    await bucket.aclose()


async def test_a_hundred_closes_leave_no_task(store: Troubled) -> None:
    """Each bucket ends, at whatever moment of its exchange it is closed."""
    before = own_tasks()
    for number in range(100):
        made = SharedBucket(store, KEY, f"{number}", 0.5, time.monotonic)
        for _ in range(number % 7):
            await asyncio.sleep(0)
        await made.aclose()

    assert own_tasks() == before
    assert store.state().members == {}


async def test_a_cancelled_close_still_ends_the_task(store: Troubled) -> None:
    """A cancellation waits until the task has ended."""
    before = own_tasks()
    made = SharedBucket(store, KEY, "name", 0.5, time.monotonic)
    closing = asyncio.create_task(made.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing

    assert own_tasks() == before


async def test_a_state_with_impossible_numbers_is_replaced(
    bucket: SharedBucket, store: Troubled
) -> None:
    """A state that can be decoded, but not be used, counts as none; permits go on arriving."""
    await until(lambda: not bucket.source.acquire())
    state, exchanges = store.state(), bucket.source.exchanges
    state.members["name"].served_until = math.nan
    store.values[KEY] = store.values[KEY][0], msgspec.msgpack.encode(state)
    await until(lambda: not bucket.source.acquire() and bucket.source.exchanges > exchanges + 1)
    assert not bucket.source.is_alone
    assert not math.isnan(store.state().members["name"].served_until)


async def test_a_store_that_returns_something_else_counts_as_down(
    bucket: SharedBucket, store: Troubled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process continues alone until the store's values can be used again."""
    monkeypatch.setattr(store, "values", {KEY: ("garbage",)})
    bucket.source.count()
    await until(lambda: bucket.source.is_alone)
    monkeypatch.undo()
    await until(lambda: not bucket.source.is_alone)
