"""Helpers for journals of runs: their content, and a journal whose commits can be held."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path

from adapty_async._journal import Changes, InputCheck, LoadKeys, Resumed, SqliteJournal
from adapty_async._journal.schema import read_keys, read_spans
from adapty_async._journal.sqlite import reading
from adapty_async.bulk import ItemState, JournalIdentity
from adapty_async.errors import JournalError

__all__ = ("GatedJournal", "keys", "states")


# by their characters: millions are looked up, and an enumeration's call is slow
_STATES = {int(state): state for state in ItemState}
_NOTHING = int(ItemState.NONE)


def states(path: Path) -> dict[int, ItemState]:
    """Return the known states in a journal by position."""
    with reading(path) as db:
        return {
            512 * number + offset: _STATES[value]
            for number, span in read_spans(db)
            for offset, value in enumerate(span)
            if value != _NOTHING
        }


def keys(path: Path) -> list[bytes]:
    """Return the entry keys in a journal by position."""
    with reading(path) as db:
        content = b"".join(read_keys(db))
    return [content[start : start + 16] for start in range(0, len(content), 16)]


class GatedJournal:
    """
    A journal in a file whose commits wait while `gate` is not set; it is set at first.

    Attributes:
        gate: an event that permits commits.
        waiting: an event that is set while a commit waits.
        failure: the error that every commit raises; None if commits succeed.
    """

    def __init__(self, path: Path) -> None:
        self._file = SqliteJournal(path, owed=512)
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = asyncio.Event()
        self.failure: JournalError | None = None

    async def open(
        self, identity: JournalIdentity, check: InputCheck, load_keys: LoadKeys
    ) -> Resumed:
        """Open the file."""
        return await self._file.open(identity, check, load_keys)

    def commit(self, changes: Changes, *, durable: bool) -> Awaitable[JournalError | None]:
        """Store changes when the gate is set."""
        return self._commit(changes, durable=durable)

    async def _commit(self, changes: Changes, *, durable: bool) -> JournalError | None:
        if not self.gate.is_set():
            self.waiting.set()
        await self.gate.wait()
        self.waiting.clear()
        if self.failure is not None:
            raise self.failure
        return await self._file.commit(changes, durable=durable)

    async def close(self) -> None:
        """Close the file."""
        await self._file.close()
