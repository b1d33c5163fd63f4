"""Places for journals: what is left of each kind after a run was killed, or after a power loss."""

from __future__ import annotations

import collections
import copy
import itertools
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from adapty_async._journal import (
    Changes,
    ItemState,
    Journal,
    JournalIdentity,
    JournalWriter,
    MemoryJournal,
    Minute,
    Reason,
    Resumed,
    Run,
    SqliteJournal,
)
from adapty_async._journal.model import LoadKeys, Spans
from adapty_async._journal.schema import read_keys, read_runs, read_spans, read_structs
from adapty_async._journal.sqlite import reading
from adapty_async.errors import JournalError

NOW = 1_800_000_000.0
IDENTITY = JournalIdentity(
    operation="v1.profiles.delete by customer_user_id",
    origin="https://api.example.com",
    account="9f2c",
    keys="position",
    input={"job_id": "all"},
)
BY_KEY = JournalIdentity(
    operation="v1.profiles.delete by customer_user_id",
    origin="https://api.example.com",
    account="9f2c",
    keys="digest",
    input={},
)
OWED = 16
SECTOR = 4096
# Bytes of the header of a write-ahead log.
_HEADER = 32


def accept(found: dict[str, Any]) -> None:
    """Accept every input."""


def ignore(keys: Iterable[bytes], _: Spans) -> None:
    """Read the entry keys of earlier runs, and forget them."""
    collections.deque(keys, maxlen=0)


def span(text: str) -> bytes:
    """Return the states of a span that begins with these characters."""
    return text.ljust(512, ".").encode()


def key_of(number: int) -> bytes:
    """Return an entry key."""
    return number.to_bytes(16, "big")


# by their characters: millions are looked up, and an enumeration's call is slow
_STATES = {int(state): state for state in ItemState}
_NOTHING = int(ItemState.NONE)


async def reopened(journal: Journal, identity: JournalIdentity = IDENTITY) -> Resumed:
    """Open a journal without a comparison of its input, and without its keys."""
    return await journal.open(identity, accept, ignore)


async def writer_on(
    journal: Journal, identity: JournalIdentity = IDENTITY, *, concurrency: int = 4
) -> JournalWriter:
    """Open a journal for a run's items."""
    writer = JournalWriter(journal, concurrency=concurrency, clock=lambda: NOW)
    await writer.open(identity, accept)
    return writer


def states_of(resumed: Resumed) -> dict[int, ItemState]:
    """Return the states that are known, by position."""
    return {
        number * 512 + at: _STATES[value]
        for number, states in resumed.spans.items()
        for at, value in enumerate(states)
        if value != _NOTHING
    }


class Content(NamedTuple):
    """Everything that a journal holds except for the identity, in the order of the rows' keys."""

    runs: list[Run]
    spans: dict[int, bytes]
    keys: bytes
    minutes: list[Minute]
    reasons: list[Reason]


class Storage(Protocol):
    """Where a journal is kept."""

    def content(self) -> Content:
        """Return what is stored; a run may have the journal open."""
        ...

    def journal(self) -> Journal:
        """Return the storage, as a process has it that has just started."""
        ...

    def note(self, *, durable: bool) -> None:
        """Record that a commit has ended, and whether it was durable."""
        ...

    def kill(self) -> Storage:
        """Return the storage as it is after the process was killed."""
        ...

    def lose_power(self, is_kept: Callable[[], bool]) -> Storage:
        """Return the storage after a power loss; `is_kept` decides for each piece at risk."""
        ...


class InMemory:
    """A storage in memory. A power loss keeps the durable commits, and perhaps some later ones."""

    def __init__(self, kept: MemoryJournal | None = None) -> None:
        self._journal = kept or MemoryJournal(lambda: NOW)
        self._since: list[MemoryJournal] = []  # the last durable state, and those after it

    def journal(self) -> MemoryJournal:
        """Return the storage."""
        return self._journal

    def content(self) -> Content:
        """Return what is stored."""
        kept = self._journal
        return Content(
            [kept.runs[number] for number in sorted(kept.runs)],
            kept.spans,
            kept.keys,
            [kept.minutes[key] for key in sorted(kept.minutes)],
            [kept.reasons[key] for key in sorted(kept.reasons)],
        )

    def note(self, *, durable: bool) -> None:
        """Keep a copy of the state."""
        if durable:
            self._since.clear()
        self._since.append(_closed(self._journal))

    def kill(self) -> InMemory:
        """Return everything that was committed."""
        return InMemory(_closed(self._journal))

    def lose_power(self, is_kept: Callable[[], bool]) -> InMemory:
        """Return the last durable state, or one after it."""
        durable, *later = self._since or [_closed(self._journal)]
        left = list(itertools.takewhile(lambda _: is_kept(), later))
        return InMemory([durable, *left][-1])


def _closed(journal: MemoryJournal) -> MemoryJournal:
    copied = MemoryJournal(lambda: NOW)
    for name in ("identity", "runs", "spans", "keys", "minutes", "reasons"):
        setattr(copied, name, copy.deepcopy(getattr(journal, name)))
    return copied


class InFile:
    """
    A storage in a file system. A loss of power takes any of the sectors that no flush covered.

    The database itself is written in checkpoints only, which flush the log before and the database
    after; so what may be lost is what the log has more than at the last durable commit.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.db"
        self._folder = folder
        self.log = Path(f"{self.path}-wal")
        self._flushed = (b"", b"")

    def journal(self) -> SqliteJournal:
        """Return the storage."""
        return SqliteJournal(self.path, owed=OWED, clock=lambda: NOW)

    def content(self) -> Content:
        """Return what is stored."""
        with reading(self.path) as db:
            return Content(
                read_runs(db),
                dict(read_spans(db)),
                b"".join(read_keys(db)),
                read_structs(db, Minute),
                read_structs(db, Reason),
            )

    def note(self, *, durable: bool) -> None:
        """Keep what is on the disk for certain."""
        content = self.path.read_bytes()
        if durable or content != self._flushed[0]:
            self._flushed = content, self.log.read_bytes()

    def kill(self) -> InFile:
        """Return copies of the files, without shared memory and locks."""
        return self._copied(self.path.read_bytes(), _read(self.log))

    def lose_power(self, is_kept: Callable[[], bool]) -> InFile:
        """Return copies in which unflushed sectors of the log are as they were before."""
        content, flushed = self._flushed
        log = bytearray(_read(self.log))
        # A log that starts again has a new header, which SQLite flushes before it writes a frame:
        # otherwise old frames could come back one by one.
        before = (bytes(log[:_HEADER]) + flushed[_HEADER:]).ljust(len(log), b"\0")
        for start in range(0, len(log), SECTOR):
            sector = slice(start, start + SECTOR)
            if log[sector] != before[sector] and not is_kept():
                log[sector] = before[sector]
        return self._copied(content, bytes(log))

    def _copied(self, content: bytes, log: bytes) -> InFile:
        storage = InFile(Path(tempfile.mkdtemp(dir=self._folder)))
        storage.path.write_bytes(content)
        if log:
            storage.log.write_bytes(log)
        return storage

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


class Observed:
    """
    A journal that notes its commits in its storage, and can be made to fail.

    Attributes:
        committed: the changes of all commits that have ended, and whether they were durable.
        failures: what the next commits raise, or return if it is a tuple; None for none of it.
        pending: the number of commits in progress.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._journal = storage.journal()
        self.committed: list[tuple[Changes, bool]] = []
        self.failures: list[JournalError | tuple[JournalError] | None] = []
        self.pending = 0

    async def open(
        self,
        identity: JournalIdentity,
        check: Callable[[dict[str, Any]], str | None],
        load_keys: LoadKeys,
    ) -> Resumed:
        """Open the journal."""
        resumed = await self._journal.open(identity, check, load_keys)
        self._storage.note(durable=True)
        return resumed

    def commit(self, changes: Changes, *, durable: bool) -> Awaitable[JournalError | None]:
        """Store changes, unless a failure comes next."""
        self.pending += 1
        return self._counted(changes, durable=durable)

    async def _counted(self, changes: Changes, *, durable: bool) -> JournalError | None:
        try:
            return await self._commit(changes, durable=durable)
        finally:
            self.pending -= 1

    async def _commit(self, changes: Changes, *, durable: bool) -> JournalError | None:
        failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, JournalError):
            raise failure
        full = await self._journal.commit(changes, durable=durable)
        self.committed.append((changes, durable))
        self._storage.note(durable=durable)
        return failure[0] if failure else full

    async def close(self) -> None:
        """Close the journal."""
        await self._journal.close()
