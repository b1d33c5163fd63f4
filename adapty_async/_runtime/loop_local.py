"""Values that belong to one event loop each, for objects that are used in several."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from adapty_async._runtime.fork import register_fork_handler

__all__ = ("LoopLocal",)

T = TypeVar("T")

# Values of a process that this one was forked from: a session that is collected would say goodbye.
_inherited: list[object] = []


class LoopLocal(Generic[T]):
    """
    One value for each running event loop, made when it is first asked for there.

    Loops may run in different threads. The values of loops that have ended are forgotten.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, T] = (
            weakref.WeakKeyDictionary()
        )
        self._lock = threading.Lock()
        register_fork_handler(self)

    def get(self) -> T:
        """Return this loop's value, making it if there is none yet."""
        loop = asyncio.get_running_loop()
        value = self._values.get(loop)
        if value is None:
            with self._lock:
                self._forget_closed_loops()
                value = self._values[loop] = self._make()

        return value

    def _forget_closed_loops(self) -> None:
        # a value often refers to its loop, which keeps the weak key alive
        for loop in [loop for loop in self._values if loop.is_closed()]:
            del self._values[loop]

    def after_fork(self) -> None:
        """Forget all values: they belong to loops of another process."""
        _inherited.append(self._values)
        self._values = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def pop_all(self) -> dict[asyncio.AbstractEventLoop, T]:
        """Forget all values and return them by loop."""
        with self._lock:
            values = dict(self._values)
            self._values.clear()

        return values
