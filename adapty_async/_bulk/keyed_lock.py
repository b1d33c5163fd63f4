"""A lock per key, for requests that must not be in flight together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Any

from adapty_async._api.operation import IDENTITIES, Operation

__all__ = ("KeyedLock", "lock_key_of")


class KeyedLock:
    """A keyed lock: mutual exclusion per key, with a FIFO wait queue for each key."""

    def __init__(self) -> None:
        self._locked: set[Hashable] = set()
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    def try_acquire(self, key: Hashable) -> bool:
        """Acquire the lock of a key if it is free; return whether it was."""
        if key in self._locked:
            return False
        self._locked.add(key)
        return True

    async def acquire(self, key: Hashable) -> None:
        """Acquire the lock of a key, and wait for it if necessary."""
        if self.try_acquire(key):
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():  # it was granted just before; pass it on
                self.release(key)
            raise

    def release(self, key: Hashable) -> None:
        """Release the lock of a key, or grant it to the next waiter."""
        waiting = self._waiting.get(key) if self._waiting else None
        while waiting:
            waiter = waiting.popleft()
            if not waiter.done():  # a cancelled waiter is still in the queue
                waiter.set_result(None)
                return
        if waiting is not None:
            del self._waiting[key]
        self._locked.remove(key)


def lock_key_of(operation: Operation[Any]) -> Hashable:
    """Return the lock key of an operation: one request per key is in flight at a time."""
    key_of = operation.endpoint.lock_key
    if key_of is not None:
        return key_of(operation.body)
    headers, parameters = operation.headers, operation.parameters
    if len(headers) == 1 and not parameters:
        return headers[0]
    if not headers and not parameters:
        return id(operation)  # nothing says what it is about
    return min((each for each in headers if each[0] in IDENTITIES), default=headers + parameters)
