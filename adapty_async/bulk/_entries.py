"""
What a journal says of each item, and how that is packed, looked up and kept small in memory.
"""

from __future__ import annotations

import enum
import struct
from typing import Protocol, TypeVar

from adapty_async.bulk._log import CHECK_SIZE
from adapty_async.bulk._table import DIGEST_SIZE, DigestTable
from adapty_async.errors import JournalError

__all__ = ("DIGEST_SIZE", "Digests", "Entry", "Index", "Positions")

KeyT_contra = TypeVar("KeyT_contra", contravariant=True)

_POSITION = struct.Struct("<QI")
_DIGEST = struct.Struct(f"<{DIGEST_SIZE}sII4x")
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


def _demand_known(entry: int) -> None:
    if not 0 < entry < len(_ENTRIES):
        raise JournalError(f"the journal holds an entry {entry}, which is not understood")


class Index(Protocol[KeyT_contra]):
    """
    The last entry of every item, as far as the journal says.

    Attributes:
        kind: how items are told apart.
        size: bytes of one record, its checksum included.
        rate: the pace that was learned, None if none was noted.
    """

    kind: str
    size: int
    rate: float | None

    def pack(self, key: KeyT_contra, entry: Entry, moment: int, /) -> bytes:
        """
        Return a record's content.
        """
        ...

    def pack_rate(self, rate: float, moment: int) -> bytes:
        """
        Return the content of a record of a pace that was learned.
        """
        ...

    def load(self, content: bytes) -> tuple[int, int]:
        """
        Take over a record's content; return its entry, and its moment.

        Raises:
            JournalError: it is no entry of this version.
        """
        ...

    def get(self, key: KeyT_contra) -> Entry:
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
    size = _POSITION.size + CHECK_SIZE

    def __init__(self) -> None:
        self.rate: float | None = None
        self._pages: dict[int, bytearray] = {}

    def pack(self, key: int, entry: Entry, moment: int) -> bytes:
        """
        Return a record's content.
        """
        return _POSITION.pack(key << 8 | entry, moment)

    def pack_rate(self, rate: float, moment: int) -> bytes:
        """
        Return the content of a record of a pace that was learned.
        """
        return self.pack(round(1000 * rate), Entry.RATE, moment)

    def load(self, content: bytes) -> tuple[int, int]:
        """
        Take over a record's content; return its entry, and its moment.
        """
        value, moment = _POSITION.unpack(content)
        position, entry = value >> 8, value & 255
        _demand_known(entry)
        if entry == Entry.RATE:
            self.rate = position / 1000
            return entry, moment
        number, place = divmod(position, _PAGE)
        page = self._pages.get(number)
        if page is None:
            page = self._pages[number] = bytearray(_PAGE)
        page[place] = entry
        return entry, moment

    def get(self, key: int) -> Entry:
        """
        Return what is known of an item.
        """
        number, place = divmod(key, _PAGE)
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
    size = _DIGEST.size + CHECK_SIZE
    pack = _DIGEST.pack

    def __init__(self) -> None:
        self.rate: float | None = None
        self._entries = DigestTable()

    def pack_rate(self, rate: float, moment: int) -> bytes:
        """
        Return the content of a record of a pace that was learned.
        """
        return self.pack(round(1000 * rate).to_bytes(DIGEST_SIZE, "little"), Entry.RATE, moment)

    def load(self, content: bytes) -> tuple[int, int]:
        """
        Take over a record's content; return its entry, and its moment.
        """
        digest, entry, moment = _DIGEST.unpack(content)
        _demand_known(entry)
        if entry == Entry.RATE:
            self.rate = int.from_bytes(digest, "little") / 1000
        else:
            self._entries.put(digest, entry)
        return entry, moment

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
