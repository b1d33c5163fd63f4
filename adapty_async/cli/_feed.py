"""Rows from a pipe, for an event loop that must not wait with it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable
from typing import Self

from adapty_async.cli._input import Row

__all__ = ("ThreadedReader",)

# Rows that are read before they are asked for.
_AHEAD = 256


class ThreadedReader:
    """
    Rows that a thread of its own reads, so that answers and signals come through meanwhile.

    The thread is left alone when nobody asks any more: a read that waits cannot be called off.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = rows
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Queue[Row | Exception] = asyncio.Queue()
        self._room = threading.Semaphore(_AHEAD)
        threading.Thread(target=self._read, name="input", daemon=True).start()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Row:
        entry = await self._ready.get()
        if isinstance(entry, Exception):
            raise entry
        self._room.release()
        return entry

    def _read(self) -> None:
        end: Exception = StopAsyncIteration()
        try:
            for row in self._rows:
                self._room.acquire()
                self._hand_over(row)
        except Exception as error:  # noqa: BLE001  raised where the rows are asked for
            end = error
        self._hand_over(end)

    def _hand_over(self, entry: Row | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._ready.put_nowait, entry)
