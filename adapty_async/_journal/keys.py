"""
The entry keys that are known: the first in memory, the rest in a temporary SQLite database.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from adapty_async._journal.database import explain
from adapty_async._journal.model import KEY_SIZE
from adapty_async.errors import JournalError

__all__ = ("KeyIndex",)

# keys in a dictionary, which takes about 180 bytes for each
_IN_MEMORY = 50_000
_CACHE_KIB = 16_384
_KEYS = """WITH RECURSIVE number (n) AS (
  SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n + 1 < ?2
), asked (n, key) AS (SELECT n, substr(?1, 16 * n + 1, 16) FROM number)
"""
# one row for all keys: every step gives up the interpreter's lock, and has to get it back
_FIND = (
    f"{_KEYS}SELECT group_concat(n || ' ' || position, ' ')"  # noqa: S608  no value is in it
    " FROM asked JOIN entry_key USING (key)"
)
_ADD = f"{_KEYS}INSERT INTO entry_key SELECT key, ?3 + n FROM asked"  # noqa: S608
_Asked: TypeAlias = "tuple[bytes, asyncio.Future[int]]"


class KeyIndex:
    """
    The position of each key, from 0 in the order of their first appearance.

    Args:
        is_stored: new keys are kept until `take` returns them, for a journal.
    """

    def __init__(self, *, is_stored: bool = False) -> None:
        self._known: dict[bytes, int] = {}
        self._count = _IN_MEMORY  # of all keys, once not all are in memory; the thread's
        self._seen = bytearray()  # by position, whether a key of earlier runs came in this one
        self._new = bytearray() if is_stored else None
        self._first = 0  # the position of the first new key
        self._db: sqlite3.Connection | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "adapty-journal-keys")
        self._asked: list[_Asked] = []

    def load(self, keys: Iterable[bytes]) -> None:
        """
        Add the keys of earlier runs, in their order, several at a time. Blocks; not in the loop.

        Raises:
            JournalError: there is no room for the temporary database.
        """
        numbered = enumerate(_split(keys))
        self._known.update((key, n) for n, key in itertools.islice(numbered, _IN_MEMORY))
        loaded = len(self._known)
        if (first := next(numbered, None)) is not None:
            with _named():
                self._db = _create()
                self._db.execute("CREATE TABLE loaded (position INTEGER, key BLOB)")
                self._db.execute("BEGIN")
                rest = itertools.chain([first], numbered)
                self._db.executemany("INSERT INTO loaded VALUES (?, ?)", rest)
                # sorted, each page of the index is written once
                self._db.execute(
                    "INSERT INTO entry_key SELECT key, position FROM loaded ORDER BY key"
                )
                self._db.execute("COMMIT")
                loaded += self._db.execute("SELECT count(*) FROM loaded").fetchone()[0]
                self._db.execute("DROP TABLE loaded")
                self._count = loaded
        self._first, self._seen = loaded, bytearray(loaded)

    async def claim(self, key: bytes) -> int | None:
        """
        Return the position of a key; None if it came before in this run.

        Raises:
            JournalError: the temporary database cannot be used.
        """
        known = self._known
        position = known.get(key)
        if position is None:
            if len(known) < _IN_MEMORY:
                position = known[key] = len(known)
                self._add(key)
                return position
            loop = asyncio.get_running_loop()
            future: asyncio.Future[int] = loop.create_future()
            self._asked.append((key, future))
            if len(self._asked) == 1:  # with all others that come in this turn of the loop
                loop.call_soon(self._ask, loop)
            position = await future
            if position < 0:  # it is new
                return -1 - position
        if position >= len(self._seen) or self._seen[position]:
            return None
        self._seen[position] = 1
        return position

    def _add(self, keys: bytes) -> None:
        if self._new is not None:
            self._new += keys

    def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        asked, self._asked = self._asked, []

        def deliver(done: asyncio.Future[tuple[list[int], bytes]]) -> None:
            failure = done.exception()
            positions, new = ([0] * len(asked), b"") if failure else done.result()
            self._add(new)
            for (_, future), position in zip(asked, positions, strict=True):
                if future.done():
                    continue
                if failure is None:
                    future.set_result(position)
                else:
                    future.set_exception(failure)

        keys = [key for key, _ in asked]
        loop.run_in_executor(self._thread, self._claim, keys).add_done_callback(deliver)

    def _claim(self, keys: list[bytes]) -> tuple[list[int], bytes]:
        """
        Return the position of each key, -1 minus it for one that is new, and the new keys. Blocks.
        """
        with _named():
            if self._db is None:
                self._db = _create()
            text = self._db.execute(_FIND, (b"".join(keys), len(keys))).fetchone()[0]
            numbers = map(int, text.split()) if text else iter(())
            found = dict(zip(numbers, numbers, strict=True))
            new: dict[bytes, int] = {}
            positions: list[int] = []
            for number, key in enumerate(keys):
                position = found.get(number, new.get(key))
                if position is None:
                    position = new[key] = self._count + len(new)
                    positions.append(-1 - position)
                else:
                    positions.append(position)
            if new:
                self._db.execute(_ADD, (b"".join(new), len(new), self._count))
                self._count += len(new)
        return positions, b"".join(new)

    def take(self) -> tuple[int, bytes]:
        """
        Return the position of the first new key, and the keys that are new since this was called.
        """
        first, new = self._first, bytes(self._new or b"")
        self._first += len(new) // KEY_SIZE
        if self._new is not None:
            self._new.clear()
        return first, new

    def restore(self, first: int, keys: bytes) -> None:
        """
        Return keys again that were taken and not stored.
        """
        if self._new is not None:
            self._first = first
            self._new[:0] = keys

    def close(self) -> None:
        """
        Remove the temporary database.
        """
        self._known.clear()
        if self._db is not None:
            self._thread.submit(self._db.close)
        self._thread.shutdown(wait=False)


def _split(keys: Iterable[bytes]) -> Iterator[bytes]:
    for some in keys:
        for start in range(0, len(some), KEY_SIZE):
            yield some[start : start + KEY_SIZE]


def _create() -> sqlite3.Connection:
    """
    Create the temporary database, which SQLite deletes when it is closed.
    """
    db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("PRAGMA synchronous = OFF")
    db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    db.execute(
        "CREATE TABLE entry_key (key BLOB PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID"
    )
    return db


@contextlib.contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        reason = explain(error)
        raise JournalError(
            f"the temporary database of entry keys cannot be used: {reason}"
        ) from None
