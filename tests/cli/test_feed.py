"""The threaded reader of a pipe: the event loop runs while the pipe is silent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from adapty_async._input.layout import Row
from adapty_async.cli._feed import ThreadedReader
from adapty_async.errors import InvalidInputError


async def test_rows_come_in_order() -> None:
    """All rows come, in their order, also far more of them than are read ahead."""
    rows = [Row(number, f"u{number}") for number in range(1, 2000)]
    assert [row async for row in ThreadedReader(rows)] == rows


async def test_reading_is_not_far_ahead() -> None:
    """A pipe is read a bounded number of rows ahead of what is asked for."""
    read = 0

    def endless() -> Iterator[Row]:
        nonlocal read
        while True:
            read += 1
            yield Row(read, "u")

    feed = ThreadedReader(endless())
    for _ in range(1000):
        await anext(feed)
    assert 1000 <= read <= 1000 + 256 + 1


async def test_error_of_the_input_comes_after_its_rows() -> None:
    """What is wrong with the input is raised to the one who reads, after the rows before it."""

    def damaged() -> Iterator[Row]:
        yield Row(1, "u1")
        raise InvalidInputError("-", "is a damaged gzip file")

    feed = ThreadedReader(damaged())
    assert await anext(feed) == Row(1, "u1")
    with pytest.raises(InvalidInputError, match="damaged"):
        await anext(feed)


def test_silent_pipe_holds_up_nobody() -> None:
    """While no row comes the loop turns, can end, and what comes after its end is dropped."""
    more = threading.Event()

    def silent() -> Iterator[Row]:
        more.wait(10)
        yield Row(1, "u1")

    async def give_up() -> set[threading.Thread]:
        before = set(threading.enumerate())
        feed = ThreadedReader(silent())
        waiting = asyncio.ensure_future(anext(feed))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        return set(threading.enumerate()) - before

    (thread,) = asyncio.run(give_up())
    more.set()
    thread.join(10)
    assert not thread.is_alive()
