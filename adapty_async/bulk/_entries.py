"""
What a journal says of each item, and how that is packed, looked up and kept small in memory.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, Protocol, TypeVar

from adapty_async.bulk._log import CHECK_SIZE, sealed
from adapty_async.errors import JournalError

if TYPE_CHECKING:
    import sqlite3

__all__ = ("DIGEST_SIZE", "Digests", "Entry", "Index", "Positions", "Seen")

KeyT_contra = TypeVar("KeyT_contra", contravariant=True)

DIGEST_SIZE = 16
_POSITION = struct.Struct("<QI")
_DIGEST = struct.Struct(f"<{DIGEST_SIZE}sII4x")
_PAGE = 1 << 16
_BATCH = 1000
_IN_MEMORY = 50_000
"""
Digests that are remembered in memory, where asking costs next to nothing: some 6 MB.
"""
_ADD = "INSERT OR IGNORE INTO entries VALUES (?)"


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


_LAST = max(Entry).value


def _demand_known(entry: int) -> None:
    if not 0 < entry <= _LAST:
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

    def pack(self, key: KeyT_contra, entry: Entry, moment: int) -> bytes:
        """
        Return a record.
        """
        ...

    def pack_rate(self, rate: float, moment: int) -> bytes:
        """
        Return a record of a pace that was learned.
        """
        ...

    def load(self, content: bytes) -> tuple[int, int]:
        """
        Take over a record's content; return its entry, and its moment.

        Raises:
            JournalError: it is no entry of this version.
        """
        ...

    def seal(self) -> None:
        """
        Make what was loaded ready to be asked for.
        """

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
        Return a record.
        """
        return sealed(_POSITION.pack(key << 8 | entry, moment))

    def pack_rate(self, rate: float, moment: int) -> bytes:
        """
        Return a record of a pace that was learned.
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

    def seal(self) -> None:
        """
        Do nothing: it is ready.
        """

    def get(self, key: int) -> Entry:
        """
        Return what is known of an item.
        """
        number, place = divmod(key, _PAGE)
        page = self._pages.get(number)
        return Entry.NONE if page is None else Entry(page[place])

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
    Items told apart by a digest of their request; kept in a temporary file, not in memory.
    """

    kind = "digest"
    size = _DIGEST.size + CHECK_SIZE

    def __init__(self) -> None:
        self.rate: float | None = None
        self._table: sqlite3.Connection | None = None  # made when there is something to keep
        self._unwritten: list[tuple[bytes, int]] = []

    def pack(self, key: bytes, entry: Entry, moment: int) -> bytes:
        """
        Return a record.
        """
        return sealed(_DIGEST.pack(key, entry, moment))

    def pack_rate(self, rate: float, moment: int) -> bytes:
        """
        Return a record of a pace that was learned.
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
            return entry, moment
        self._unwritten.append((digest, entry))
        if len(self._unwritten) == _BATCH:
            self._write()
        return entry, moment

    def seal(self) -> None:
        """
        Sort what was loaded; at the end, since an index that grows with it costs five times that.
        """
        if self._unwritten:
            self._write()
        if self._table is not None:
            self._table.execute("CREATE INDEX by_digest ON entries (digest)")

    def _write(self) -> None:
        if self._table is None:
            self._table = _temporary_table("(digest BLOB, entry INTEGER)")
        self._table.executemany("INSERT INTO entries VALUES (?, ?)", self._unwritten)
        self._unwritten.clear()

    def get(self, key: bytes) -> Entry:
        """
        Return what is known of an item.
        """
        if self._table is None:
            return Entry.NONE
        row = self._table.execute(
            "SELECT entry FROM entries WHERE digest = ? ORDER BY rowid DESC LIMIT 1", (key,)
        ).fetchone()
        return Entry(row[0]) if row else Entry.NONE

    def counts(self) -> dict[Entry, int]:
        """
        Return how many items have each entry as their last.
        """
        counts = dict.fromkeys((entry for entry in Entry if entry), 0)
        if self._table is not None:
            # SQLite takes a bare column from the row that has the maximum
            rows = self._table.execute(
                "SELECT entry, count(*) FROM"
                " (SELECT entry, max(rowid) FROM entries GROUP BY digest) GROUP BY entry"
            )
            counts |= {Entry(entry): count for entry, count in rows}
        return counts

    def close(self) -> None:
        """
        Give back what it holds.
        """
        if self._table is not None:
            self._table.close()


class Seen:
    """
    Digests of what the input had so far: the first ones in memory, the rest in a temporary file.
    """

    def __init__(self) -> None:
        self._first: set[bytes] = set()
        self._table: sqlite3.Connection | None = None

    def add(self, digest: bytes) -> bool:
        """
        Remember a digest, and say whether it is new.
        """
        if digest in self._first:
            return False
        if len(self._first) < _IN_MEMORY:
            self._first.add(digest)
            return True
        if self._table is None:
            self._table = _temporary_table("(digest BLOB PRIMARY KEY) WITHOUT ROWID")
        return self._table.execute(_ADD, (digest,)).rowcount == 1

    def close(self) -> None:
        """
        Give back what it holds.
        """
        self._first.clear()
        if self._table is not None:
            self._table.close()


def _temporary_table(columns: str) -> sqlite3.Connection:
    import sqlite3  # noqa: PLC0415  few runs need it, and it would be a part of every import

    # an empty name is a file that SQLite removes by itself
    table = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    table.execute("PRAGMA journal_mode = OFF")
    table.execute("PRAGMA cache_size = -32768")
    table.execute(f"CREATE TABLE entries {columns}")
    table.execute("BEGIN")  # for good: a commit for every entry would cost most of the time
    return table
