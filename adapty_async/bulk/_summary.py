"""
What a journal says of its run, for people.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import BinaryIO

import msgspec

from adapty_async.bulk._entries import Entry
from adapty_async.bulk._header import HEADER_SIZE, Binding, read_header
from adapty_async.bulk._journal import index_for, records_of
from adapty_async.errors import JournalError

__all__ = ("JournalSummary", "summarise")


class JournalSummary(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a journal says of its run.

    Attributes:
        binding: what it belongs to.
        counts: how many items have each entry as their last.
        first, last: when its first and last entries were made, in seconds since the epoch; None
            if there are none yet.
        ended: how many items ended, by the minute since the epoch.
    """

    binding: Binding
    counts: dict[Entry, int]
    first: float | None
    last: float | None
    ended: dict[int, int]

    @property
    def settled(self) -> int:
        """
        How many items the next run does not send.
        """
        return sum(map(self.counts.__getitem__, _OVER))

    @property
    def left(self) -> int | None:
        """
        How many items the next run has to do; None if it is not known how many there are.
        """
        rows = self.binding.input.get("rows")
        return rows - self.settled if isinstance(rows, int) else None


_OVER = (Entry.DONE, Entry.ABSENT, Entry.DUPLICATE, Entry.UNKNOWN)
_NO_END = frozenset({Entry.BEGUN, Entry.RATE})


def summarise(path: Path) -> JournalSummary:
    """
    Read a journal without changing it; it may be in use. Blocks.

    Raises:
        JournalError: it cannot be read, is damaged, or is no journal.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except OSError as error:
        raise JournalError(f"the journal {path} cannot be read: {error.strerror}") from None


def _read(file: BinaryIO, path: Path) -> JournalSummary:
    header = read_header(file.read(HEADER_SIZE + 1), path)
    if header is None:
        raise JournalError(f"the journal {path} holds nothing yet")
    binding = header.binding
    first = last = None
    minute, ended = 0, dict[int, int]()
    index = index_for(binding.keys)
    with contextlib.closing(index):
        for entry, seconds in records_of(file, index):
            if seconds is not None:
                last = binding.started + seconds
                first = last if first is None else first
                minute = int(last // 60)
            if entry not in _NO_END:
                ended[minute] = ended.get(minute, 0) + 1
        counts = index.counts()
    return JournalSummary(binding=binding, counts=counts, first=first, last=last, ended=ended)
