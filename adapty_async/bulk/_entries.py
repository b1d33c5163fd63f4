"""
What a journal says of each item, and how that is looked up and kept small in memory.
"""

from __future__ import annotations

import enum
from typing import Protocol

from adapty_async.bulk._table import DIGEST_SIZE, DigestTable
from adapty_async.errors import JournalError

__all__ = (
    "DIGEST_SIZE",
    "Digests",
    "Entry",
    "Index",
    "Positions",
    "position_key",
    "rate_key",
)

_POSITION_SIZE = 6

_PAGE = 1 << 16


class Entry(enum.IntEnum):
    """
    What was noted of an item; the last entry counts.
    """

    NONE = 0
    """
    Nothing.
    """
    BEGUN = 1
    """
    It is about to be sent.
    """
    DONE = 2
    """
    The server did it.
    """
    ABSENT = 3
    """
    The server said that it does not exist.
    """
    FAILED = 4
    """
    Surely not done.
    """
    LOST = 5
    """
    Perhaps done: an answer was lost. It may be sent again.
    """
    UNKNOWN = 6
    """
    Perhaps done, and not to be sent again.
    """
    NOT_SENT = 7
    """
    Its turn did not come.
    """
    DUPLICATE = 8
    """
    The same request stands earlier in the input.
    """
    RATE = 9
    """
    Not of an item: the pace that was learned, in thousandths of a request per second.
    """


_ENTRIES = tuple(Entry)
"""
By their numbers, since `Entry(number)` costs several times as much.
"""


def _understood(value: int) -> int:
    if not 0 < value < len(_ENTRIES):
        raise JournalError(f"the journal holds an entry {value}, which is not understood")
    return value


def position_key(position: int) -> bytes:
    """
    Return the key of the item at a position.
    """
    return position.to_bytes(_POSITION_SIZE, "little")


def rate_key(rate: float, size: int) -> bytes:
    """
    Return the key under which a pace is noted, as far as there is room for it.
    """
    return round(min(1000 * rate, 1 << 8 * size - 1)).to_bytes(size, "little")


def _rate_from(key: bytes) -> float:
    return int.from_bytes(key, "little") / 1000


class Index(Protocol):
    """
    The last entry of every item, as far as the journal says.

    Attributes:
        kind: how items are told apart.
        key_size: bytes of a key.
        rate: the pace that was learned, None if none was noted.
    """

    kind: str
    key_size: int
    rate: float | None

    def load(self, key: bytes, value: int) -> None:
        """
        Take over a record.

        Raises:
            JournalError: its value is no entry of this version.
        """
        ...

    def get(self, key: bytes) -> Entry:
        """
        Return what is known of an item.
        """
        ...

    def counts(self) -> dict[Entry, int]:
        """
        Return how many items have each entry as their last.
        """
        ...

    def close(self) -> None:
        """
        Give back what is held on disk.
        """


class Positions:
    """
    Items told apart by their position in the input; a byte of memory each.

    They are kept in pages, so that a position far off costs one, whoever wrote it.
    """

    kind = "position"
    key_size = _POSITION_SIZE

    def __init__(self) -> None:
        self.rate: float | None = None
        self._pages: dict[int, bytearray] = {}

    def load(self, key: bytes, value: int) -> None:
        """
        Take over a record.
        """
        if _understood(value) == Entry.RATE:
            self.rate = _rate_from(key)
            return
        number, place = divmod(int.from_bytes(key, "little"), _PAGE)
        page = self._pages.get(number)
        if page is None:
            page = self._pages[number] = bytearray(_PAGE)
        page[place] = value

    def get(self, key: bytes) -> Entry:
        """
        Return what is known of an item.
        """
        number, place = divmod(int.from_bytes(key, "little"), _PAGE)
        page = self._pages.get(number)
        return Entry.NONE if page is None else _ENTRIES[page[place]]

    def counts(self) -> dict[Entry, int]:
        """
        Return how many items have each entry as their last.
        """
        pages = self._pages.values()
        return {entry: sum(page.count(entry) for page in pages) for entry in Entry if entry}

    def close(self) -> None:
        """
        Give back what it holds.
        """
        self._pages.clear()


class Digests:
    """
    Items told apart by a digest of their request.
    """

    kind = "digest"
    key_size = DIGEST_SIZE

    def __init__(self) -> None:
        self.rate: float | None = None
        self._entries = DigestTable()

    def load(self, key: bytes, value: int) -> None:
        """
        Take over a record.
        """
        if _understood(value) == Entry.RATE:
            self.rate = _rate_from(key)
        else:
            self._entries.put(key, value)

    def get(self, key: bytes) -> Entry:
        """
        Return what is known of an item.
        """
        return _ENTRIES[self._entries.get(key)]

    def counts(self) -> dict[Entry, int]:
        """
        Return how many items have each entry as their last.
        """
        counts = self._entries.counts()
        return {entry: counts[entry] for entry in Entry if entry}

    def close(self) -> None:
        """
        Give back what it holds.
        """
        self._entries.close()
