"""The protocol of stores of shared rates: a versioned value for each key, and a clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from adapty_async.errors import StoreError

__all__ = ("TIMEOUT", "Loaded", "MemoryStore", "Store")

#: Seconds after which a store that does not respond counts as down.
TIMEOUT = 0.5


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


class Store(Protocol):
    """
    A store of versioned values, which several processes share.

    Methods raise a `StoreError` if the store is down or does not respond in time, and may be called
    again afterwards; they connect again. Several tasks of one event loop may use a store.
    """

    async def open(self) -> None:
        """Connect, and prepare the store for values."""
        ...

    async def load(self, key: str) -> Loaded:
        """Return the value of a key."""
        ...

    async def swap(self, key: str, version: int, value: bytes) -> bool:
        """Store a value if the key's version is still `version`; return whether it was."""
        ...

    async def aclose(self) -> None:
        """Close the connections. An exception is not raised."""
        ...


class MemoryStore:
    """
    A store in memory, for tests.

    Attributes:
        values: the values and their versions, by key.
        is_down: calls raise a `StoreError`.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.values: dict[str, tuple[int, bytes]] = {}
        self.is_down = False

    async def open(self) -> None:
        """Raise a `StoreError` if the store is down."""
        if self.is_down:
            raise StoreError("the store is down")

    async def load(self, key: str) -> Loaded:
        """Return the value of a key."""
        await self.open()
        version, value = self.values.get(key, (0, None))
        return Loaded(version, value, self._clock())

    async def swap(self, key: str, version: int, value: bytes) -> bool:
        """Store a value if the key's version is still `version`; return whether it was."""
        await self.open()
        if self.values.get(key, (0, b""))[0] != version:
            return False
        self.values[key] = version + 1, value
        return True

    async def aclose(self) -> None:
        """Do nothing."""
