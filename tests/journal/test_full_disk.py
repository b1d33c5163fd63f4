"""A full disk: no item begins that has no room for its outcome, and what has begun can end."""

from __future__ import annotations

import contextlib
import resource
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from adapty_async._journal import Changes, ItemState, JournalWriter, SqliteJournal
from adapty_async.errors import JournalError
from tests.journal.support import (
    BY_KEY,
    IDENTITY,
    OWED,
    key_of,
    reopened,
    span,
    states_of,
    writer_on,
)

CONCURRENCY = OWED // 2


class Disk(Protocol):
    """A folder whose disk can be full."""

    folder: Path

    def fill(self) -> None:
        """Let no file become longer."""
        ...

    def free(self) -> None:
        """Let files grow again."""
        ...


class Limited:
    """A folder in which this process may write no file beyond its present length."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        """Limit the length of files to that of the longest one."""
        sizes = [each.stat().st_size for each in self.folder.iterdir()]
        _limit(max([1, *sizes]))

    def free(self) -> None:
        """Remove the limit."""
        _limit(resource.RLIM_INFINITY)


def _limit(size: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))


class Mounted:
    """A file system of its own, in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._other = folder / "other"

    def fill(self) -> None:
        """Write to another file until there is no space."""
        with self._other.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        """Remove the other file."""
        self._other.unlink(missing_ok=True)


@pytest.fixture(params=["limit", "file system"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """Make a disk: by a limit of this process, and if this is root, by a file system."""
    if request.param == "limit":
        limited = Limited(tmp_path)
        yield limited
        limited.free()
        return
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(tmp_path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield Mounted(tmp_path)
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


FULL = "no space left on the disk|No space left on device|File too large|input/output error"


async def test_a_disk_that_is_full_at_first_is_reported_before_anything_begins(
    disk: Disk,
) -> None:
    """Without room for the items in flight, a run does not open its journal; with room it does."""
    path = disk.folder / "run.db"
    disk.fill()
    with pytest.raises(JournalError, match=FULL):
        await reopened(SqliteJournal(path, owed=OWED))
    disk.free()
    journal = SqliteJournal(path, owed=OWED)
    await reopened(journal)
    await journal.close()
    disk.fill()
    with pytest.raises(JournalError, match=FULL):
        await reopened(SqliteJournal(path, owed=OWED))
    disk.free()
    journal = SqliteJournal(path, owed=OWED)
    assert not (await reopened(journal)).is_new
    await journal.close()


class Items:
    """A run's items, which end some time after they have begun."""

    def __init__(self, path: Path, order: str) -> None:
        self._path = path
        self._identity = BY_KEY if order == "by key" else IDENTITY
        self._step = 512 if order == "sparse" else 1
        self._writer: JournalWriter
        self.sent: list[int] = []
        self.done: set[int] = set()

    async def open(self) -> None:
        """Open the journal; in a sparse one, only each span's first item is not settled."""
        if self._step > 1:
            journal = SqliteJournal(self._path, owed=OWED)
            await reopened(journal)
            spans = dict.fromkeys(range(1500), span("." + "d" * 511))
            await journal.commit(Changes(spans=spans), durable=False)
            await journal.close()
        journal = SqliteJournal(self._path, owed=OWED)
        self._writer = await writer_on(journal, self._identity, concurrency=CONCURRENCY)

    async def send(self, number: int) -> None:
        """Begin an item, and end the one that has been in flight for the longest time."""
        position = number * self._step
        if self._identity is BY_KEY:
            assert await self._writer.keys.claim(key_of(number)) == number
        waiting = self._writer.reserve(position)
        if waiting is not None:
            await waiting
        self.sent.append(position)
        if len(self.sent) >= CONCURRENCY:
            reason = ("E" * 50 + str(number), 400)
            failed = self.sent[-CONCURRENCY]
            self._writer.update(failed, ItemState.FAILED, requests=1, reason=reason)

    async def end(self) -> JournalError | None:
        """End what is in flight, and the run; return why it could not continue."""
        self.done = set(self.sent[1 - CONCURRENCY :])
        for position in self.done:
            self._writer.update(position, ItemState.DONE, requests=1)
        await self._writer.flush()
        with contextlib.suppress(JournalError):
            await self._writer.close()
        return self._writer.failure

    async def check(self) -> None:
        """Validate that the journal has the outcome of each item that was sent."""
        journal = SqliteJournal(self._path, owed=OWED)
        found = states_of(await reopened(journal, self._identity))
        await journal.close()
        for position in self.sent:
            expected = ItemState.DONE if position in self.done else ItemState.FAILED
            assert found[position] is expected


CASES = [
    ("dense", 0, False),
    ("dense", 100, False),
    ("dense", 2500, True),
    ("sparse", 0, False),
    ("sparse", 300, False),
    ("sparse", 300, True),
    ("by key", 0, False),
    ("by key", 300, False),
    ("by key", 1000, True),
]


@pytest.mark.parametrize(("order", "before", "is_read"), CASES, ids=str)
async def test_the_outcome_of_each_started_item_has_room(
    disk: Disk, order: str, before: int, *, is_read: bool
) -> None:
    """After the disk is full, items are rejected if there is no room; all others are recorded."""
    path = disk.folder / "run.db"
    items = Items(path, order)
    await items.open()
    reader = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)
    with contextlib.closing(reader):
        if is_read:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM span").fetchone()
        for number in range(before):
            await items.send(number)
        disk.fill()
        with contextlib.suppress(JournalError):
            for number in range(before, before + 1000):
                await items.send(number)
        failure = await items.end()
        assert failure is None or str(failure).startswith(f"the journal {path} cannot be written:")
        assert failure is not None or not is_read
    disk.free()
    await items.check()


async def test_each_item_in_flight_has_space_for_a_commit(disk: Disk) -> None:
    """Outcomes that are stored one by one fit on a full disk, while a reader needs the log."""
    path = disk.folder / "run.db"
    journal = SqliteJournal(path, owed=700)
    await reopened(journal)
    reader = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)
    with contextlib.closing(reader):
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM span").fetchone()
        disk.fill()
        for number in range(700):
            await journal.commit(Changes(spans={number: span("d")}), durable=False)
    disk.free()
    await journal.close()
    journal = SqliteJournal(path, owed=700)
    assert len((await reopened(journal)).spans) == 700
    await journal.close()
