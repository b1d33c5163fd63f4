"""
What a journal says of each item, and how that is packed, looked up and kept small in memory.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import sqlite3

__all__ = ("DIGEST_SIZE", "Digests", "Entry", "Index", "Positions", "Seen")

KeyT_contra = TypeVar("KeyT_contra", contravariant=True)

DIGEST_SIZE = 16
_POSITION = struct.Struct("<Q")
_DIGEST = struct.Struct(f"<{DIGEST_SIZE}sB")
_GROWTH = 1 << 16


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


class Index(Protocol[KeyT_contra]):
    """
    The last entry of every item, as far as the journal says.
    """

    kind: str

    def pack(self, key: KeyT_contra, entry: Entry) -> bytes:
        """
        Return the bytes of one entry.
        """
        ...

    def load(self, packed: bytes) -> None:
        """
        Take over packed entries.

        Raises:
            ValueError: these are no entries.
        """

    def get(self, key: KeyT_contra) -> Entry:
        """
        Return what is known of an item.
        """
        ...

    def ended(self, packed: bytes) -> int:
        """
        Count the entries among packed ones that say how an item ended.
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
    """

    kind = "position"

    def __init__(self) -> None:
        self._entries = bytearray()

    def pack(self, key: int, entry: Entry) -> bytes:
        """
        Return the bytes of one entry.
        """
        return _POSITION.pack(key << 4 | entry)

    def load(self, packed: bytes) -> None:
        """
        Take over packed entries.
        """
        if len(packed) % _POSITION.size:
            raise ValueError("an entry is cut off")
        entries = self._entries
        for (value,) in _POSITION.iter_unpack(packed):
            position = value >> 4
            if position >= len(entries):
                entries.extend(bytes(position + _GROWTH - len(entries)))
            entries[position] = value & 15

    def get(self, key: int) -> Entry:
        """
        Return what is known of an item.
        """
        return Entry(self._entries[key]) if key < len(self._entries) else Entry.NONE

    def ended(self, packed: bytes) -> int:
        """
        Count the entries that say how an item ended.
        """
        return sum(byte & 15 != Entry.BEGUN for byte in packed[:: _POSITION.size])

    def counts(self) -> dict[Entry, int]:
        """
        Return how many items have each entry as their last.
        """
        return {entry: self._entries.count(entry) for entry in Entry if entry}

    def close(self) -> None:
        """
        Give back what it holds.
        """
        self._entries.clear()


class Digests:
    """
    Items told apart by a digest of their request; kept in a temporary file, not in memory.
    """

    kind = "digest"

    def __init__(self) -> None:
        self._table = _temporary_table()

    def pack(self, key: bytes, entry: Entry) -> bytes:
        """
        Return the bytes of one entry.
        """
        return _DIGEST.pack(key, entry)

    def load(self, packed: bytes) -> None:
        """
        Take over packed entries.
        """
        if len(packed) % _DIGEST.size:
            raise ValueError("an entry is cut off")
        self._table.executemany(
            "INSERT OR REPLACE INTO entries VALUES (?, ?)", _DIGEST.iter_unpack(packed)
        )

    def get(self, key: bytes) -> Entry:
        """
        Return what is known of an item.
        """
        found = self._table.execute("SELECT entry FROM entries WHERE digest = ?", (key,))
        row = found.fetchone()
        return Entry(row[0]) if row else Entry.NONE

    def ended(self, packed: bytes) -> int:
        """
        Count the entries that say how an item ended.
        """
        return sum(byte != Entry.BEGUN for byte in packed[DIGEST_SIZE :: _DIGEST.size])

    def counts(self) -> dict[Entry, int]:
        """
        Return how many items have each entry as their last.
        """
        rows = self._table.execute("SELECT entry, count(*) FROM entries GROUP BY entry")
        counts = dict.fromkeys((entry for entry in Entry if entry), 0)
        return counts | {Entry(entry): count for entry, count in rows}

    def close(self) -> None:
        """
        Give back what it holds.
        """
        self._table.close()


class Seen:
    """
    Digests of what the input had so far; kept in a temporary file, not in memory.
    """

    def __init__(self) -> None:
        self._table = _temporary_table()

    def add(self, digest: bytes) -> bool:
        """
        Remember a digest, and say whether it is new.
        """
        added = self._table.execute("INSERT OR IGNORE INTO entries VALUES (?, 0)", (digest,))
        return added.rowcount == 1

    def close(self) -> None:
        """
        Give back what is held on disk.
        """
        self._table.close()


def _temporary_table() -> sqlite3.Connection:
    import sqlite3  # noqa: PLC0415  few runs need it, and it would be a part of every import

    # an empty name is a file that SQLite removes by itself
    table = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    table.execute("PRAGMA journal_mode = OFF")
    table.execute("PRAGMA cache_size = -32768")
    table.execute("CREATE TABLE entries (digest BLOB PRIMARY KEY, entry INTEGER) WITHOUT ROWID")
    table.execute("BEGIN")  # for good: a commit for every entry would cost most of the time
    return table
