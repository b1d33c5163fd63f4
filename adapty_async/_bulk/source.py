"""Where the items of a bulk run come from: one way to take the next item of any kind of input."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Sized
from typing import Generic, Protocol, TypeVar

from adapty_async._flow.semaphore import PrioritySemaphore
from adapty_async.errors import InvalidInputError

__all__ = ("Source", "source_of")

ItemT = TypeVar("ItemT")
ItemT_co = TypeVar("ItemT_co", covariant=True)


class Source(Protocol[ItemT_co]):
    """The input of a run, shared by its workers."""

    sized: bool

    @property
    def take_now(self) -> Callable[[], tuple[int, ItemT_co] | None] | None:
        """What does as `take` does, where that never waits."""

    async def take(self) -> tuple[int, ItemT_co] | None:
        """Return the next item with its position, or None at the end."""


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


class _AsyncSource(Generic[ItemT]):
    sized = False
    take_now: Callable[[], tuple[int, ItemT] | None] | None = None

    def __init__(self, items: AsyncIterable[ItemT]) -> None:
        self._iterator = aiter(items)
        # an async generator cannot be asked twice at a time; asyncio.Lock looks at all who wait
        # when one of them is cancelled
        self._turn = PrioritySemaphore(1)
        self._count = 0
        self._ended = False

    async def take(self) -> tuple[int, ItemT] | None:
        await self._turn.acquire()
        try:
            if self._ended:
                return None
            item = await anext(self._iterator)
        except StopAsyncIteration:
            self._ended = True
            return None
        finally:
            self._turn.release()
        self._count += 1
        return self._count - 1, item
