"""Pagination: an async iterator of a list that the server returns in pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from adapty_async._api.call import Execute, Operation

ItemT_co = TypeVar("ItemT_co", covariant=True)
ItemT = TypeVar("ItemT")
PageT = TypeVar("PageT", bound="Page[Any]")


class Page(Protocol[ItemT_co]):
    """One page of a list."""

    @property
    def data(self) -> Sequence[ItemT_co]:
        """The items of the page."""
        ...


class Pages(Generic[ItemT, PageT]):
    """
    An async iterable of the items of a list; it requests pages lazily.

    Each iteration starts with the first page. An item that is added or removed on the server
    during an iteration may appear twice, or not at all.

    Example:
        >>> async for paywall in adapty.v2.paywalls.list():
        ...     print(paywall.title)
    """

    def __init__(
        self,
        execute: Execute,
        first: Operation[PageT],
        following: Callable[[Operation[PageT], PageT], Operation[PageT] | None],
    ) -> None:
        self._execute = execute
        self._first = first
        self._following = following

    async def __aiter__(self) -> AsyncIterator[ItemT]:
        async for page in self.pages():
            for item in page.data:
                yield item

    async def pages(self) -> AsyncIterator[PageT]:
        """
        Iterate over whole pages, in the order of the server.

        Raises:
            AdaptyError: a page could not be read; see `adapty_async.errors`.
        """
        operation: Operation[PageT] | None = self._first
        while operation is not None:
            page = await self._execute(operation)
            yield page
            operation = self._following(operation, page)
