"""An adapter from iterables and async iterables to the item source of a bulk run."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Sized
from typing import Generic, Protocol, TypeVar

from adapty_async._flow.queues import PrioritySemaphore
from adapty_async.errors import InvalidInputError

__all__ = ("Source", "source_of")

ItemT = TypeVar("ItemT")
ItemT_co = TypeVar("ItemT_co", covariant=True)


class Source(Protocol[ItemT_co]):
    """The interface of a run's input, which its workers share."""

    sized: bool

    @property
    def read_nowait(self) -> Callable[[], tuple[int, ItemT_co] | None] | None:
        """A function that does the same as `read` without a wait; None if that is impossible."""

    async def read(self) -> tuple[int, ItemT_co] | None:
        """Return the next item with its position, or None at the end."""


def source_of(items: Iterable[ItemT] | AsyncIterable[ItemT]) -> Source[ItemT]:
    """
    Wrap any iterable or async iterable.

    Raises:
        InvalidInputError: it is neither, or a single string, whose characters would be the items.
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

    def read_nowait(self) -> tuple[int, ItemT] | None:
        return next(self._iterator, None)

    async def read(self) -> tuple[int, ItemT] | None:
        return self.read_nowait()


class _AsyncSource(Generic[ItemT]):
    sized = False
    read_nowait: Callable[[], tuple[int, ItemT] | None] | None = None

    def __init__(self, items: AsyncIterable[ItemT]) -> None:
        self._iterator = aiter(items)
        # an async generator allows one `anext` at a time; asyncio.Lock scans all its waiters when
        # one of them is cancelled
        self._permit = PrioritySemaphore(1)
        self._count = 0
        self._ended = False

    async def read(self) -> tuple[int, ItemT] | None:
        await self._permit.acquire()
        try:
            if self._ended:
                return None
            item = await anext(self._iterator)
        except StopAsyncIteration:
            self._ended = True
            return None
        finally:
            self._permit.release()
        self._count += 1
        return self._count - 1, item
