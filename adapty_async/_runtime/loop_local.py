"""A container with one value per event loop, for objects that several loops use."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from adapty_async._runtime.fork import register_fork_handler

__all__ = ("LoopLocal",)

T = TypeVar("T")

# The parent's values, kept in a forked child: a collected session would close its connections.
_inherited: list[object] = []


class LoopLocal(Generic[T]):
    """
    A lazy container of one value for each running event loop.

    Loops may run in different threads. Values of closed loops are dropped.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, T] = (
            weakref.WeakKeyDictionary()
        )
        # the loop of the latest call and its value: nearly always that of the next call, too
        self._latest: tuple[weakref.ref[asyncio.AbstractEventLoop], T] | None = None
        self._lock = threading.Lock()
        register_fork_handler(self)

    def get(self) -> T:
        """Return the value of the running loop; create it on first use."""
        loop, latest = asyncio.get_running_loop(), self._latest
        return latest[1] if latest is not None and latest[0]() is loop else self._find(loop)

    def _find(self, loop: asyncio.AbstractEventLoop) -> T:
        with self._lock:  # `pop_all` of another thread must not leave its value here
            value = self._values.get(loop)
            if value is None:
                self._drop_closed_loops()
                value = self._values[loop] = self._make()
            self._latest = weakref.ref(loop), value

        return value

    def _drop_closed_loops(self) -> None:
        # a value often refers to its loop, which keeps the weak key alive
        for loop in [loop for loop in self._values if loop.is_closed()]:
            del self._values[loop]

    def after_fork(self) -> None:
        """Drop all values, which belong to loops of the parent process."""
        _inherited.append(self._values)
        self._values = weakref.WeakKeyDictionary()
        self._latest = None
        self._lock = threading.Lock()

    def pop_all(self) -> dict[asyncio.AbstractEventLoop, T]:
        """Remove all values and return them by loop."""
        with self._lock:
            values = dict(self._values)
            self._values.clear()
            self._latest = None

        return values
