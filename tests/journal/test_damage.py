"""Flipped bits: each one is a `JournalError` or has no effect, wherever it is."""

from __future__ import annotations

import asyncio
import random
import struct
from pathlib import Path
from typing import NamedTuple

import pytest

from adapty_async._journal import Changes, Journal, Minute, Reason
from adapty_async._journal.log import _Sum, verify_log
from adapty_async._journal.model import DamageError
from adapty_async.errors import JournalError
from tests.journal.support import (
    BY_KEY,
    NOW,
    Content,
    InFile,
    key_of,
    reopened,
    span,
)


class Files(NamedTuple):
    """The contents of a journal's files, and what the journal holds."""

    database: bytes
    log: bytes
    content: Content

    def put(
        self, folder: Path, *, database: bytes | None = None, log: bytes | None = None
    ) -> InFile:
        """Write the files to a folder, one of them perhaps with other content."""
        storage = InFile(folder)
        storage.path.write_bytes(self.database if database is None else database)
        storage.log.write_bytes(self.log if log is None else log)
        return storage


async def _commit_some(journal: Journal, first: int) -> None:
    for number in range(first, first + 4):
        changes = Changes(
            spans={number: span("rsdaflun=" * 20), 0: span("d" * number)},
            first_key=4 * number,
            new_keys=b"".join(key_of(4 * number + each) for each in range(4)),
            minutes=[Minute(run=1, minute=number, first_at=NOW, last_at=NOW + 1, done=number)],
            reasons=[Reason(run=1, state="failed", error=f"E{number}", http_status=500, items=1)],
        )
        await journal.commit(changes, durable=number % 2 == 0)
    await journal.commit(Changes(spans={0: span("s")}), durable=True)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Make a journal that was killed in its second run: half of it is in the log."""
    storage = InFile(tmp_path_factory.mktemp("killed"))

    async def make() -> InFile:
        journal = storage.journal()
        await reopened(journal, BY_KEY)
        await _commit_some(journal, 0)
        await journal.close()
        await reopened(journal, BY_KEY)
        await _commit_some(journal, 4)
        left = storage.kill()
        await journal.close()
        return left

    left = asyncio.run(make())
    log = left.log.read_bytes()
    return Files(left.path.read_bytes(), log.rstrip(b"\0") + bytes(4120), left.content())


def flipped(content: bytes, at: int, bit: int) -> bytes:
    """Return a content with one bit changed."""
    changed = bytearray(content)
    changed[at] ^= 1 << bit
    return bytes(changed)


def read(storage: InFile) -> Content | None:
    """Return what a reader finds, None if it finds damage."""
    try:
        return storage.content()
    except JournalError:
        return None


async def resumed(storage: InFile) -> Content | None:
    """Return what a run finds that resumes, None if it finds damage."""
    journal = storage.journal()
    keys: list[bytes] = []
    try:
        found = await journal.open(BY_KEY, lambda _: None, lambda some, _: keys.extend(some))
    except JournalError:
        return None
    spans = {number: bytes(states) for number, states in found.spans.items()}
    content = storage.content()
    await journal.close()
    assert content.spans == spans
    assert content.keys == b"".join(keys)
    return content._replace(runs=content.runs[:-1])


def sample(content: bytes, count: int, *always: range) -> list[int]:
    """Return positions: some at random, and those of certain ranges."""
    chosen = random.Random(1).sample(range(len(content)), count)
    return sorted({*chosen, *(at for some in always for at in some)})


def test_a_bit_of_a_closed_journal_is_damage_or_has_no_effect(
    tmp_path: Path, killed: Files
) -> None:
    """Whichever byte in use has a flipped bit, a reader finds what was stored, or damage."""
    whole = read(killed.put(tmp_path, log=b""))
    assert whole is not None
    page = range(100, 4096)  # the texts of the schema are in the first one
    used = [at for at, byte in enumerate(killed.database) if byte and not (at in page and at % 3)]
    found = [
        read(killed.put(tmp_path, log=b"", database=flipped(killed.database, at, at % 8)))
        for at in sorted({*used, *range(0, len(killed.database), 61)})
    ]
    assert all(each in (None, whole) for each in found)
    assert found.count(None) > len(used) / 2


async def test_each_table_is_verified_by_runs_and_readers(tmp_path: Path, killed: Files) -> None:
    """Damage is a row with another byte, and a page that hides rows, each of which is whole."""
    whole = read(killed.put(tmp_path, log=b""))
    for page in range(0, len(killed.database), 4096):
        rows = page + (100 if page == 0 else 0) + 4  # the low byte of their number
        for at, bit in ((rows, 0), (rows, 1), (rows, 2), (page + 4095, 0)):
            storage = killed.put(tmp_path, log=b"", database=flipped(killed.database, at, bit))
            assert read(storage) in (None, whole), at
            assert await resumed(storage) in (None, whole), at


async def test_a_bit_of_the_log_is_damage_or_has_no_effect(tmp_path: Path, killed: Files) -> None:
    """A flipped bit in the write-ahead log of a killed run does not undo any commit."""
    assert read(killed.put(tmp_path, log=flipped(killed.log, 50_000, 3))) is None
    frames = [range(at, at + 24) for at in range(32, len(killed.log) - 4120, 4120)]
    for at in sample(killed.log[:-4120], 150, range(32), *frames):
        storage = killed.put(tmp_path, log=flipped(killed.log, at, at % 8))
        assert await resumed(storage) in (None, killed.content), at


async def test_a_bit_of_a_killed_journal_is_damage_or_has_no_effect(
    tmp_path: Path, killed: Files
) -> None:
    """A flipped bit in a database that has a log is damage, or covered by the log."""
    used = [at for at, byte in enumerate(killed.database) if byte]
    for at in [*range(16, 100), *random.Random(2).sample(used, 80)]:
        storage = killed.put(tmp_path, database=flipped(killed.database, at, at % 8))
        assert await resumed(storage) in (None, killed.content), at


async def test_a_bit_that_flips_during_a_run_is_damage_or_has_no_effect(tmp_path: Path) -> None:
    """A run whose file is damaged meanwhile ends in an error, or its journal has all it stored."""
    chosen = random.Random(3)
    for number in range(40):
        (tmp_path / str(number)).mkdir()
        storage = InFile(tmp_path / str(number))
        journal = storage.journal()
        await reopened(journal, BY_KEY)
        try:
            await _commit_some(journal, 0)
            size = storage.path.stat().st_size
            _flip_on_disk(storage.path, chosen.randrange(100 if number % 2 else size))
            await _commit_some(journal, 4)
            await journal.close()
        except JournalError:
            continue
        found = await resumed(storage)
        assert found is None or found.spans == {
            0: span("s"),
            **{each: span("rsdaflun=" * 20) for each in range(1, 8)},
        }


def _flip_on_disk(path: Path, at: int) -> None:
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(flipped(content, at, at % 8)[at : at + 1])


def test_a_log_that_was_not_written_to_its_end_is_no_damage(tmp_path: Path, killed: Files) -> None:
    """Wherever a kill or a loss of power has ended the log, what was whole before is read."""
    allowed = [read(killed.put(tmp_path, log=killed.log[: 32 + 4120 * n])) for n in range(22)]
    assert None not in allowed
    for at in sample(killed.log, 60, range(40)):
        assert read(killed.put(tmp_path, log=killed.log[:at])) in allowed, at
        if at >= 32:  # a header is written in one piece
            zeros = bytes(len(killed.log) - at)
            assert read(killed.put(tmp_path, log=killed.log[:at] + zeros)) in allowed, at


async def test_more_damage_than_a_bit_is_no_other_error(tmp_path: Path, killed: Files) -> None:
    """Whatever stands in the files, a run that resumes finds a state or raises `JournalError`."""
    chosen = random.Random(4)
    for _ in range(60):
        start = chosen.randrange(len(killed.database))
        junk = chosen.randbytes(chosen.choice((2, 64, 4096)))
        database = killed.database[:start] + junk + killed.database[start + len(junk) :]
        await resumed(killed.put(tmp_path, database=database))
        cut = chosen.randrange(len(killed.database))
        await resumed(killed.put(tmp_path, database=killed.database[:cut]))


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
def test_the_log_of_either_order_of_bytes_is_verified(tmp_path: Path, order: str) -> None:
    """The log of a machine with the other order of bytes is verified in its own."""
    path = tmp_path / "log"
    content = _log_of(order)
    path.write_bytes(content)
    verify_log(path)
    for at in [*range(56), *range(56, len(content), 9)]:
        path.write_bytes(flipped(content, at, at % 8))
        with pytest.raises(DamageError, match="write-ahead log is damaged"):
            verify_log(path)


def _log_of(order: str) -> bytes:
    magic = 0x377F0682 if order == "<" else 0x377F0683
    header = struct.pack(">6I", magic, 3007000, 512, 1, 0x01020304, 0x05060708)
    known = _Sum(0, 0).of(struct.unpack(f"{order}6I", header))
    page = bytes(range(256)) * 2
    start = struct.pack(">2I", 1, 1)
    last = known.of(struct.unpack(f"{order}130I", start + page))
    return b"".join((header, struct.pack(">2I", *known), start, header[16:24])) + (
        struct.pack(">2I", *last) + page
    )
