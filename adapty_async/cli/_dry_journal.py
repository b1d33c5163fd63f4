"""The journal of a dry run, which sends nothing and therefore needs no request rate."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Awaitable, Iterator
from pathlib import Path

import msgspec

from adapty_async._journal import (
    Changes,
    InputCheck,
    JournalIdentity,
    LoadKeys,
    Resumed,
    SqliteJournal,
)
from adapty_async.bulk import copy_journal
from adapty_async.errors import JournalError

__all__ = ("DryJournal", "copied")


@contextlib.contextmanager
def copied(journal: Path) -> Iterator[Path]:
    """
    Return the path of a temporary copy of a journal, which a dry run may change.

    Raises:
        JournalError: the journal cannot be copied or used; the message names the original.
    """
    with tempfile.TemporaryDirectory(prefix="adapty-async-") as folder:
        copy = Path(folder, "journal")
        copy_journal(journal, copy)
        try:
            yield copy
        except JournalError as error:
            raise JournalError(str(error).replace(str(copy), str(journal))) from None


class DryJournal:
    """
    A journal without the rate that earlier runs measured, by which a dry run would be slow.

    Args:
        path: the file, which is a copy.
        owed: maximum of items that are in flight or reserved.
    """

    def __init__(self, path: Path, *, owed: int) -> None:
        self._journal = SqliteJournal(path, owed=owed)

    async def open(
        self, identity: JournalIdentity, check: InputCheck, load_keys: LoadKeys
    ) -> Resumed:
        """Open the journal for a run; see `Journal.open`."""
        resumed = await self._journal.open(identity, check, load_keys)
        return msgspec.structs.replace(resumed, rate=None)

    def commit(self, changes: Changes, *, durable: bool) -> Awaitable[JournalError | None]:
        """Store changes; see `Journal.commit`."""
        return self._journal.commit(changes, durable=durable)

    async def close(self) -> None:
        """Close the journal; see `Journal.close`."""
        await self._journal.close()
