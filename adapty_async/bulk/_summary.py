"""
What a journal says of its run, for people.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from adapty_async.bulk._entries import Digests, Entry, Index, Positions
from adapty_async.bulk._frames import Frame
from adapty_async.bulk._journal import Binding, binding_of, frames_of
from adapty_async.errors import JournalError

__all__ = ("JournalSummary", "summarise")


class JournalSummary(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a journal says of its run.

    Attributes:
        binding: what it belongs to.
        counts: how many items have each entry as their last.
        first, last: when its first and last frames were written, in seconds since the epoch.
        ended: how many items ended, by the minute since the epoch.
    """

    binding: Binding
    counts: dict[Entry, int]
    first: float
    last: float
    ended: dict[int, int]


def summarise(path: Path) -> JournalSummary:
    """
    Read a journal without changing it; it may be in use. Blocks.

    Raises:
        JournalError: it cannot be read, is damaged, or is no journal.
    """
    try:
        with path.open("rb") as file:
            return _read(frames_of(file, path), path)
    except OSError as error:
        raise JournalError(f"the journal {path} cannot be read: {error.strerror}") from None


def _read(frames: Iterator[Frame], path: Path) -> JournalSummary:
    head = next(frames, None)
    binding = None if head is None else binding_of(head, path)
    if head is None or binding is None:
        raise JournalError(f"the journal {path} holds nothing yet")
    last, ended = head.time, Counter[int]()
    index: Index[Any] = Positions() if binding.keys == "position" else Digests()
    with contextlib.closing(index):
        for frame in frames:
            last = frame.time
            if newer := binding_of(frame, path):
                binding = newer
            else:
                index.load(frame.content[1:])
                ended[int(frame.time // 60)] += index.ended(frame.content[1:])
        counts = index.counts()
    return JournalSummary(binding=binding, counts=counts, first=head.time, last=last, ended=ended)
