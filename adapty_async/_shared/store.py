"""The protocol of stores of shared rates: a versioned value for each key, and a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

#: Seconds after which a store that does not respond counts as down.
TIMEOUT = 0.5
#: Seconds after which it does at the start, when many processes may start at once.
START_TIMEOUT = 5.0
# The timeout is awaited in steps: a process that stands still has not waited longer than one.
_STEPS = 10
# Seconds until a task is cancelled again.
_CANCEL = 0.1


async def ends_in_time(task: asyncio.Future[Any], seconds: float) -> bool:
    """
    Wait for a task for a number of seconds; return whether it has ended.

    A process that is short of processor time finds the response and the end of the timeout at the
    same moment. The store is not down for that.
    """
    for _ in range(_STEPS):
        await asyncio.wait({task}, timeout=seconds / _STEPS)
        if task.done():
            break
    return task.done()


async def cancel(task: asyncio.Future[Any]) -> None:
    """Cancel a task until it has ended, if it has not: libraries may lose a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL)
    if not task.cancelled():
        task.exception()  # it may have failed too late


class Loaded(NamedTuple):
    """
    A value that was loaded from a store.

    Attributes:
        version: the version of the value; 0 if there is none.
        value: the value; None if there is none.
        now: the time on the store's clock, in seconds.
    """

    version: int
    value: bytes | None
    now: float


class Change(NamedTuple):
    """
    A value that is to replace another one.

    Attributes:
        key: the key.
        version: the version that it replaces; 0 if there is none.
        value: the value.
    """

    key: str
    version: int
    value: bytes


class Store(Protocol):
    """
    A store of versioned values, which several processes share.

    A call is one round trip, whatever the number of its keys, of which none is there twice. Methods
    raise a `StoreError` if the store is down or does not respond in time, and may be called again
    afterwards; they connect again. One task at a time uses a store.
    """

    async def open(self) -> None:
        """Connect, and prepare the store for values."""
        ...

    async def load(self, keys: Sequence[str]) -> list[Loaded]:
        """Return the values of keys, in their order."""
        ...

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        """Store each value whose key still has its `version`; return which ones had it."""
        ...

    async def aclose(self) -> None:
        """Close the connections. An exception is not raised."""
        ...
