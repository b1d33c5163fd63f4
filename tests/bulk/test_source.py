"""Inputs of bulk runs: any iterable, one item at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapty_async import InvalidInputError
from adapty_async._bulk.workers import Source, source_of


async def counted(count: int) -> AsyncIterator[int]:
    """Yield the first numbers, each after an iteration of the loop."""
    for number in range(count):
        await asyncio.sleep(0)
        yield number


class Ids:
    """An iterable that is no collection."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


class LiveIds:
    """An async iterator that is no generator."""

    def __init__(self) -> None:
        self._left = 3

    def __aiter__(self) -> LiveIds:
        return self

    async def __anext__(self) -> int:
        if not self._left:
            raise StopAsyncIteration
        self._left -= 1
        return 2 - self._left


async def drained(source: Source[Any]) -> list[tuple[int, Any]]:
    """Read all items."""
    taken = []
    while (entry := await source.read()) is not None:
        taken.append(entry)
    return taken


INPUTS: dict[str, tuple[Callable[[], Any], bool]] = {
    "list": (lambda: [0, 1, 2], True),
    "tuple": (lambda: (0, 1, 2), True),
    "range": (lambda: range(3), True),
    "set": (lambda: {0, 1, 2}, True),
    "dict": (lambda: dict.fromkeys(range(3)), True),
    "generator": (lambda: (number for number in range(3)), False),
    "iterable": (Ids, False),
    "async-generator": (lambda: counted(3), False),
    "async-iterator": (LiveIds, False),
}


@pytest.mark.parametrize(("make", "sized"), INPUTS.values(), ids=INPUTS)
async def test_every_kind_of_input_gives_its_items_with_their_positions(
    make: Callable[[], Any],
    sized: bool,  # noqa: FBT001  a parametrised case
) -> None:
    """Items come in order, then the end, as often as it is asked for."""
    source = source_of(make())

    assert await drained(source) == [(0, 0), (1, 1), (2, 2)]
    assert await source.read() is None
    assert source.sized is sized


@pytest.mark.parametrize("items", ["one-id", b"one-id"], ids=["str", "bytes"])
def test_a_single_string_is_rejected(items: Any) -> None:
    """The letters of an id are not meant."""
    with pytest.raises(InvalidInputError, match="items: must be several items, not one string"):
        source_of(items)


def test_the_path_of_a_file_is_rejected() -> None:
    """A file has a format, and its name is no id."""
    items: Any = Path("ids.csv")
    with pytest.raises(InvalidInputError, match=r"items: must be an InputFile\(path\)"):
        source_of(items)


@pytest.mark.parametrize("items", [None, 7, object()], ids=["none", "int", "object"])
def test_what_cannot_be_iterated_is_rejected(items: Any) -> None:
    """The error comes before anything runs."""
    with pytest.raises(InvalidInputError, match="must be an iterable or an async iterable"):
        source_of(items)


async def test_an_async_input_is_read_by_one_worker_at_a_time() -> None:
    """Several takers share one generator, and each item goes to one of them."""
    source = source_of(counted(50))

    shares = await asyncio.gather(*(drained(source) for _ in range(7)))

    assert sorted(entry for share in shares for entry in share) == [(n, n) for n in range(50)]


async def test_an_async_input_that_has_ended_is_not_read_again() -> None:
    """The first end counts for every reader, though an iterator could continue after it."""

    class Batches:
        """An async iterator that ends after each item, and continues at the next call."""

        def __init__(self) -> None:
            self._asked = 0

        def __aiter__(self) -> Batches:
            return self

        async def __anext__(self) -> int:
            self._asked += 1
            if self._asked % 2 == 0:
                raise StopAsyncIteration
            return self._asked

    source = source_of(Batches())

    assert await drained(source) == [(0, 1)]
    assert await source.read() is None


async def test_cancelling_wakes_those_who_wait_for_an_item() -> None:
    """An input that never yields again does not block a reader that is cancelled."""
    waiting = asyncio.Event()

    async def live() -> AsyncIterator[int]:
        yield 0
        waiting.set()
        await asyncio.Event().wait()

    source = source_of(live())
    takers = [asyncio.create_task(drained(source)) for _ in range(3)]
    await waiting.wait()
    for taker in takers:
        taker.cancel()
    await asyncio.wait(takers)

    assert all(taker.cancelled() for taker in takers)
    assert await source.read() is None


async def test_an_item_that_comes_with_a_cancellation_is_not_lost() -> None:
    """It stays where it was, as far as the input holds on to it."""
    entries: asyncio.Queue[int] = asyncio.Queue()

    async def live() -> AsyncIterator[int]:
        while True:
            yield await entries.get()

    source = source_of(live())
    taker = asyncio.create_task(source.read())
    await asyncio.sleep(0)
    entries.put_nowait(7)
    taker.cancel()
    await asyncio.wait({taker})

    assert taker.cancelled()
    assert entries.get_nowait() == 7
