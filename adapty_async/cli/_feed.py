"""An asynchronous reader of a pipe, which must not block the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable
from typing import Self

from adapty_async._input.layout import Row

# Rows that are read ahead.
_PREFETCHED_ROWS = 256


class ThreadedReader:
    """
    An async iterator of rows that a thread reads, so reading does not block the event loop.

    The thread is a daemon and is never joined: a blocked read cannot be cancelled.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = rows
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Queue[Row | Exception] = asyncio.Queue()
        self._permits = threading.Semaphore(_PREFETCHED_ROWS)
        threading.Thread(target=self._read, name="input", daemon=True).start()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Row:
        entry = await self._ready.get()
        if isinstance(entry, Exception):
            raise entry
        self._permits.release()
        return entry

    def _read(self) -> None:
        end: Exception = StopAsyncIteration()
        try:
            for row in self._rows:
                self._permits.acquire()
                self._deliver(row)
        except Exception as error:  # noqa: BLE001  raised in the consumer of the rows
            end = error
        self._deliver(end)

    def _deliver(self, entry: Row | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._ready.put_nowait, entry)
