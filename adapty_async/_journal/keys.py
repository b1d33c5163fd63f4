"""Entry keys, and an index of keys: the first in memory, the rest in a temporary database."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import TypeAlias

from adapty_async._journal.model import KEY_SIZE, SPAN_SIZE, ItemState, Spans
from adapty_async._runtime.database import DatabaseThread, explain
from adapty_async._runtime.loop import despite_cancellation
from adapty_async.errors import JournalError

#: Bytes of the key of an object that a call creates if it is missing.
OBJECT_KEY_SIZE = KEY_SIZE // 2

# The states of an item whose creation of an object may have been processed.
_MAY_BE_CREATED = frozenset({ItemState.STARTED, ItemState.UNKNOWN})
# Keys in a dictionary, which uses about 180 bytes for each.
_IN_MEMORY = 50_000
# Keys that are loaded in one transaction.
_BATCH = 20_000
# Maximum of keys that are looked up at once; their items continue in one iteration of the loop.
_AT_ONCE = 256
_CACHE_KIB = 16_384
_KEYS = """WITH RECURSIVE number (n) AS (
  SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n + 1 < :count
), wanted (n, key) AS (SELECT n, substr(:keys, 16 * n + 1, 16) FROM number)
"""
# one row for all keys, since every step releases and acquires the interpreter's lock
_FIND = (
    f"{_KEYS}SELECT group_concat(n || ' ' || ordinal, ' ')"  # noqa: S608  no value is in it
    " FROM wanted JOIN entry_key USING (key)"
)
_ADD = f"{_KEYS}INSERT INTO entry_key SELECT key, :first + n FROM wanted"  # noqa: S608


# The ordinal of a key, and whether the key is new.
_Found: TypeAlias = tuple[int, bool]
# A key, and whether it is added if it is new.
_Wanted: TypeAlias = tuple[bytes, bool]
_Pending: TypeAlias = "tuple[_Wanted, asyncio.Future[_Found]]"


class KeyIndex:
    """
    An index from each key to its ordinal number, from 0 in the order of first appearance.

    Args:
        on_new: called in the event loop with each new key, in the order of their ordinals.
    """

    def __init__(self, on_new: Callable[[bytes], object] | None = None) -> None:
        self._on_new = on_new
        self._known: dict[bytes, int] = {}
        self._thread: DatabaseThread[_KeyTable] | None = None
        self._pending: list[_Pending] = []
        self._is_looking_up = False
        self._failure: BaseException | None = None  # after it, the table is unreliable

    def load(self, keys: Iterable[bytes]) -> int:
        """
        Add the keys of earlier runs, in their order, in batches, and return their number.

        It blocks, so it must not be called in the event loop.

        Raises:
            JournalError: there is no room for the temporary database.
        """
        numbered = enumerate(_split(keys))
        for ordinal, key in itertools.islice(numbered, _IN_MEMORY):
            self._known[key] = ordinal
        count = len(self._known)
        while rows := [(key, ordinal) for ordinal, key in itertools.islice(numbered, _BATCH)]:
            self._table().run_blocking(partial(_KeyTable.load, rows=rows))
            count += len(rows)
        if self._thread is not None:
            self._thread.run_blocking(_KeyTable.sort)
        return count

    async def claim(self, key: bytes) -> _Found:
        """
        Return the ordinal of a key and whether it is new, and add a new key.

        A cancellation meanwhile is not raised, as the key is added all the same.

        Raises:
            JournalError: the temporary database cannot be used, or could not be used before.
        """
        known = self._known
        if self._failure is not None:
            raise self._failure
        ordinal = known.get(key)
        if ordinal is not None:
            return ordinal, False
        if len(known) < _IN_MEMORY:
            ordinal = known[key] = len(known)
            if self._on_new is not None:
                self._on_new(key)
            return ordinal, True
        return await despite_cancellation(self._look_up((key, True)))

    async def find(self, key: bytes) -> int | None:
        """
        Return the ordinal of a key, which is not added; None if it is new.

        Raises:
            JournalError: the temporary database cannot be used, or could not be used before.
        """
        if self._failure is not None:
            raise self._failure
        ordinal = self._known.get(key)
        if ordinal is not None or self._thread is None:
            return ordinal
        ordinal, is_new = await self._look_up((key, False))
        return None if is_new else ordinal

    def _look_up(self, wanted: _Wanted) -> asyncio.Future[_Found]:
        """Look a key up in the table, with all others of this iteration of the loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Found] = loop.create_future()
        self._pending.append((wanted, future))
        if not self._is_looking_up:
            self._is_looking_up = True
            loop.call_soon(self._look_up_pending)
        return future

    def _look_up_pending(self) -> None:
        batch, self._pending = self._pending[:_AT_ONCE], self._pending[_AT_ONCE:]
        wanted = [each for each, _ in batch]
        looking = self._table().run(lambda table: table.look_up(wanted))
        looking.add_done_callback(lambda done: self._deliver(batch, done))

    def _deliver(self, batch: list[_Pending], done: asyncio.Future[list[_Found]]) -> None:
        failure = done.exception()
        self._failure = self._failure or failure
        if self._failure is not None:
            for _, future in (*batch, *self._pending):
                if not future.done():  # otherwise a search was cancelled
                    future.set_exception(self._failure)
            return
        self._is_looking_up = bool(self._pending)
        if self._is_looking_up:
            self._look_up_pending()
        for ((key, is_added), future), found in zip(batch, done.result(), strict=True):
            if is_added and found[1] and self._on_new is not None:
                self._on_new(key)
            if not future.done():
                future.set_result(found)

    def _table(self) -> DatabaseThread[_KeyTable]:
        if self._thread is None:
            self._thread = DatabaseThread(_KeyTable, "adapty-journal-keys")
        return self._thread

    def close(self) -> None:
        """Remove the temporary database."""
        self._failure = self._failure or JournalError("the journal is closed")
        self._known.clear()
        if self._thread is not None:
            self._thread.stop()


class EntryKeys:
    """
    The entry keys of a journal: an index of those of items, and the keys still to store.

    By digest, every item has a key, and the number of the key is the item's position. By position,
    only the creations of missing objects have keys. The first half of the key of an item that may
    create an object is the key of that object. The second half is a digest of the request, or the
    item's position.

    Args:
        by_position: items are identified by their position.

    Attributes:
        lost_creations: the keys of the objects that an earlier run may have created, without a
            response.
    """

    def __init__(self, *, by_position: bool) -> None:
        self._by_position = by_position
        self.lost_creations: set[bytes] = set()
        self._index = KeyIndex(self._add)
        self._seen = bytearray()  # by position: whether this run claimed a key of an earlier run
        self._new = bytearray()
        self._first = 0  # the number of the first new key

    def load(self, keys: Iterable[bytes], spans: Spans) -> None:
        """
        Add the keys of earlier runs, and find their lost creations. Blocks; not in the event loop.

        Raises:
            JournalError: there is no room for the temporary database.
        """
        unclear = _unclear_positions(spans)
        if self._by_position:
            for key in _split(keys):
                self._first += 1
                if int.from_bytes(key[OBJECT_KEY_SIZE:]) in unclear:
                    self.lost_creations.add(key[:OBJECT_KEY_SIZE])
            return
        self._first = self._index.load(self._with_lost(keys, deque(sorted(unclear))))
        self._seen = bytearray(self._first)

    def _with_lost(self, batches: Iterable[bytes], unclear: deque[int]) -> Iterator[bytes]:
        first = 0
        for keys in batches:
            while unclear and (at := KEY_SIZE * (unclear[0] - first)) < len(keys):
                unclear.popleft()
                self.lost_creations.add(keys[at : at + OBJECT_KEY_SIZE])
            first += len(keys) // KEY_SIZE
            yield keys

    async def claim(self, key: bytes) -> int | None:
        """
        Return the position of a key; None if this run claimed it before.

        Raises:
            JournalError: the temporary database cannot be used.
        """
        position, is_new = await self._index.claim(key)
        if is_new:
            return position
        if position >= len(self._seen) or self._seen[position]:
            return None
        self._seen[position] = 1
        return position

    async def find(self, key: bytes) -> tuple[int, bool] | None:
        """
        Return the position of a key, and whether this run claimed it; None if the key is new.

        Raises:
            JournalError: the temporary database cannot be used.
        """
        position = await self._index.find(key)
        if position is None:
            return None
        return position, position >= len(self._seen) or bool(self._seen[position])

    def _add(self, key: bytes) -> None:
        self._new += key

    def add_creation(self, position: int, object_key: bytes) -> None:
        """
        Add the key of an object that an item creates.

        By digest, the item's own key begins with it.
        """
        if self._by_position:
            self._add(object_key + position.to_bytes(KEY_SIZE - OBJECT_KEY_SIZE))

    def pop_new(self) -> tuple[int, bytes]:
        """Return the number of the first new key, and the new keys since the last call."""
        first, new = self._first, bytes(self._new)
        self._first += len(new) // KEY_SIZE
        self._new.clear()
        return first, new

    def restore(self, first: int, keys: bytes) -> None:
        """Restore keys that were not stored, for the next commit."""
        self._first = first
        self._new[:0] = keys

    def close(self) -> None:
        """Remove the temporary database."""
        self._index.close()


def _unclear_positions(spans: Spans) -> set[int]:
    """Return the positions of the items that may have created an object."""
    return {
        number * SPAN_SIZE + at
        for number, states in spans.items()
        if any(state in states for state in _MAY_BE_CREATED)
        for at, state in enumerate(states)
        if state in _MAY_BE_CREATED
    }


def _split(keys: Iterable[bytes]) -> Iterator[bytes]:
    for some in keys:
        for start in range(0, len(some), KEY_SIZE):
            yield some[start : start + KEY_SIZE]


class _KeyTable:
    """A temporary database of keys, used by one thread; SQLite deletes it."""

    def __init__(self) -> None:
        with _named():
            self._db = sqlite3.connect("", isolation_level=None)
            self._db.execute("PRAGMA journal_mode = OFF")
            self._db.execute("PRAGMA synchronous = OFF")
            self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            self._db.execute(
                "CREATE TABLE entry_key (key BLOB PRIMARY KEY, ordinal INTEGER NOT NULL)"
                " WITHOUT ROWID"
            )
        self._count = _IN_MEMORY

    def load(self, rows: list[tuple[bytes, int]]) -> None:
        """Add keys that are new; `sort` follows the last of them."""
        with _named():
            self._db.execute("CREATE TABLE IF NOT EXISTS loaded (key BLOB, ordinal INTEGER)")
            self._db.execute("BEGIN")
            self._db.executemany("INSERT INTO loaded VALUES (?, ?)", rows)
            self._db.execute("COMMIT")
        self._count += len(rows)

    def sort(self) -> None:
        """Index the loaded keys; in sorted order, each page is written once."""
        with _named():
            self._db.execute("INSERT INTO entry_key SELECT key, ordinal FROM loaded ORDER BY key")
            self._db.execute("DROP TABLE loaded")

    def look_up(self, wanted: list[_Wanted]) -> list[_Found]:
        """Return the ordinal of each key and whether it is new, and add new keys as wanted."""
        ordinals = self._ordinals([key for key, _ in wanted])
        new: dict[bytes, int] = {}
        found: list[_Found] = []
        for number, (key, is_added) in enumerate(wanted):
            ordinal = ordinals.get(number, new.get(key))
            found.append((self._count + len(new), True) if ordinal is None else (ordinal, False))
            if ordinal is None and is_added:
                new[key] = self._count + len(new)
        if new:
            with _named():
                self._db.execute(_ADD, _values(new, first=self._count))
            self._count += len(new)
        return found

    def _ordinals(self, keys: list[bytes]) -> dict[int, int]:
        """Return the ordinals of keys by their number in the list; new keys are left out."""
        with _named():
            text = self._db.execute(_FIND, _values(keys)).fetchone()[0]
        numbers = map(int, text.split()) if text else iter(())
        return dict(zip(numbers, numbers, strict=True))

    def close(self) -> None:
        """Close the database, which removes it."""
        self._db.close()


def _values(keys: Collection[bytes], **more: int) -> dict[str, bytes | int]:
    return {"keys": b"".join(keys), "count": len(keys), **more}


@contextlib.contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        reason = explain(error)
        raise JournalError(
            f"the temporary database of entry keys cannot be used: {reason}"
        ) from None
