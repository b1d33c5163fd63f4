"""Helpers of the tests of shared rates."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from adapty_async._shared.store import Change, Loaded, Store
from adapty_async.errors import StoreError

__all__ = ("MemoryStore", "load", "swap", "until", "virtually")


async def until(happened: Callable[[], object]) -> None:
    """Wait until something has happened in a background task."""
    async with asyncio.timeout(50):
        while not happened():  # noqa: ASYNC110  what happens has no event
            await asyncio.sleep(0.002)


async def load(store: Store, key: str) -> Loaded:
    """Return the value of one key."""
    (loaded,) = await store.load([key])
    return loaded


async def swap(store: Store, key: str, version: int, value: bytes) -> bool:
    """Swap the value of one key."""
    (swapped,) = await store.swap([Change(key, version, value)])
    return swapped


class _Selector(selectors.SelectSelector):
    """A selector that does not wait, and counts the seconds that it should have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready."""
        self.waited += max(0.0, timeout or 0.0)
        return super().select(0.0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop without I/O, whose time moves to that of the next timer at once."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Return the seconds that the loop would have waited."""
        return self._virtual.waited


def virtually(main: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine in virtual time; it has the same random numbers in each run."""
    random.seed(0)
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main)


class MemoryStore:
    """
    A `Store` in memory.

    Attributes:
        values: the values and their versions, by key.
        is_down: calls raise a `StoreError`.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.values: dict[str, tuple[int, bytes]] = {}
        self.is_down = False

    async def open(self) -> None:
        """Raise a `StoreError` if the store is down."""
        if self.is_down:
            raise StoreError("the store is down")

    async def load(self, keys: Sequence[str]) -> list[Loaded]:
        """Return the values of keys."""
        await self.open()
        found = [self.values.get(key, (0, None)) for key in keys]
        return [Loaded(version, value, self._clock()) for version, value in found]

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        """Store the values whose keys have the same version still."""
        await self.open()
        return [self._swap(*change) for change in changes]

    def _swap(self, key: str, version: int, value: bytes) -> bool:
        if self.values.get(key, (0, b""))[0] != version:
            return False
        self.values[key] = version + 1, value
        return True

    async def aclose(self) -> None:
        """Do nothing."""
