"""
Where the items of a bulk run come from: one way to take the next item of any kind of input.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Sized
from typing import Generic, Protocol, TypeVar

import anyio

from adapty_async.errors import InvalidInputError

__all__ = ("Source", "source_of")

ItemT = TypeVar("ItemT")
ItemT_co = TypeVar("ItemT_co", covariant=True)


class Source(Protocol[ItemT_co]):
    """
    The input of a run, shared by its workers.
    """

    sized: bool

    @property
    def take_now(self) -> Callable[[], tuple[int, ItemT_co] | None] | None:
        """
        What does as `take` does, where that never waits.
        """

    async def take(self) -> tuple[int, ItemT_co] | None:
        """
        Return the next item with its position, or None at the end.
        """

    def stop(self) -> None:
        """
        Give up waiting for an item that has not come yet.
        """


def source_of(items: Iterable[ItemT] | AsyncIterable[ItemT]) -> Source[ItemT]:
    """
    Wrap any iterable or async iterable.

    Raises:
        InvalidInputError: it is neither, or a single string, whose letters would be the items.
    """
    if isinstance(items, str | bytes):
        raise InvalidInputError("items", "must be several items, not one string")
    if isinstance(items, AsyncIterable):
        return _AsyncSource(items)
    if isinstance(items, Iterable):
        return _SyncSource(items)
    raise InvalidInputError("items", "must be an iterable or an async iterable")


class _SyncSource(Generic[ItemT]):
    def __init__(self, items: Iterable[ItemT]) -> None:
        self.sized = isinstance(items, Sized)
        self._iterator = enumerate(items)

    def take_now(self) -> tuple[int, ItemT] | None:
        return next(self._iterator, None)

    async def take(self) -> tuple[int, ItemT] | None:
        return self.take_now()

    def stop(self) -> None:
        """
        Do nothing: taking an item never waits.
        """


class _AsyncSource(Generic[ItemT]):
    sized = False
    take_now: Callable[[], tuple[int, ItemT] | None] | None = None

    def __init__(self, items: AsyncIterable[ItemT]) -> None:
        self._iterator = aiter(items)
        self._lock = asyncio.Lock()  # an async generator cannot be asked twice at a time
        self._count = 0
        self._waiting: anyio.CancelScope | None = None
        self._ended = False

    async def take(self) -> tuple[int, ItemT] | None:
        async with self._lock:
            if self._ended:
                return None
            with anyio.CancelScope() as self._waiting:
                try:
                    item = await anext(self._iterator)
                except StopAsyncIteration:
                    self._ended = True
                    return None
                self._count += 1
                return self._count - 1, item
        return None  # stop() was called while waiting

    def stop(self) -> None:
        self._ended = True
        if self._waiting is not None:
            self._waiting.cancel()
