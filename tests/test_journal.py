"""
The journal's file: what is in it after any cut or damage, who may open it, and what it costs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import fcntl
import functools
import io
import itertools
import json
import math
import multiprocessing
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapty_async import AdaptyClient, ConfigError, JournalError, Outcome, OutcomeStatus
from adapty_async._operation import Request, Response
from adapty_async.bulk import _log, _record, _table, summarise
from adapty_async.bulk._entries import (
    DIGEST_SIZE,
    Digests,
    Entry,
    Index,
    Positions,
    position_key,
    rate_key,
)
from adapty_async.bulk._header import HEADER_SIZE, Binding, Header, read_header, write_header
from adapty_async.bulk._journal import Journal, moments, open_journal
from adapty_async.bulk._log import Log, write_all
from adapty_async.bulk._record import scan
from adapty_async.bulk._table import DigestTable
from adapty_async.config import RetryPolicy
from tests._records import KEY_SIZES, MARKS, PAGE, SIZES, at, mark_place, record, records

KINDS = ("position", "digest")
BINDING = Binding(
    operation="v1.profiles.delete",
    origin="https://x",
    account="a",
    keys="position",
    input={},
    started=1e9,
)
CLAIMS = {Entry.DONE, Entry.ABSENT}
ITEMS = {"position": 250, "digest": 130}
OF_ITEMS = [each for each in Entry if each not in {Entry.NONE, Entry.RATE}]
ROOM = 3 << 18
"""
Bytes of a journal in use that has few records.
"""


def accept(_earlier: dict[str, Any]) -> str | None:
    """
    Find nothing wrong with an input.
    """
    return None


@contextlib.contextmanager
def opened(path: Path, wanted: Binding = BINDING) -> Iterator[Index]:
    """
    Open a journal, and close it at the end of the block.
    """
    found = open_journal(path, wanted, accept)
    try:
        yield found.index
    finally:
        found.close()


async def opened_journal(path: Path, wanted: Binding = BINDING) -> Journal:
    """
    Open a journal to write to.
    """
    return Journal(await asyncio.to_thread(open_journal, path, wanted, accept), 1, lambda: 1e9 + 7)


async def noted(path: Path, *notes: tuple[bytes, Entry], wanted: Binding = BINDING) -> None:
    """
    Note these in a journal.
    """
    journal = await opened_journal(path, wanted)
    for note in notes:
        await journal.ready()
        journal.note(*note)
    await journal.aclose()


class Written(NamedTuple):
    """
    A journal that a run has left.
    """

    data: bytes
    binding: Binding
    records: list[tuple[bytes, Entry]]
    outcomes: dict[int, Outcome[str, None]]

    @property
    def is_amended_last(self) -> bool:
        """
        Say whether the last record has a mark, so that damage to it shows.
        """
        size = len(self.data)
        kind = self.binding.keys
        return self.data[size - SIZES[kind] + mark_place(kind) :].strip(b"\0") != b""

    @property
    def state(self) -> dict[bytes, Entry]:
        """
        Return the last entry of each item.
        """
        return dict(self.records)


async def answer(request: Request) -> Response:
    """
    Answer by the id: some are missing, some refused, some fail.
    """
    await asyncio.sleep(0)
    number = int(request.headers["adapty-customer-user-id"][1:])
    status = {0: 404, 1: 400, 2: 500}.get(number % 7, 204)
    return Response(status, {}, b"" if status == 204 else b'{"errors":["no"]}')


@functools.cache
def written(kind: str) -> Written:
    """
    Let a run write a journal, and return that.
    """
    outcomes: dict[int, Outcome[str, None]] = {}

    async def run(path: Path) -> None:
        adapty = AdaptyClient("key", transport=answer, retry=RetryPolicy(attempts=1))
        await adapty.v1.profiles.bulk_delete(
            (f"u{number}" for number in range(ITEMS[kind])),
            by="customer_user_id",
            concurrency=8,
            journal=path,
            job_id="job" if kind == "position" else None,
            on_outcome=lambda outcome: outcomes.update({outcome.index: outcome}),
        )

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "journal")
        asyncio.run(run(path))
        data = path.read_bytes()
    header = read_header(data[:HEADER_SIZE], path)
    assert header is not None
    return Written(data, header.binding, records(data, kind), outcomes)


def loaded(path: Path, data: bytes, source: Written) -> dict[bytes, Entry]:
    """
    Write a file, open it as a journal, and return what that knows of every item there ever was.
    """
    path.write_bytes(data)
    with opened(path, source.binding) as index:
        found = {key: index.get(key) for key, _ in source.records}
    return {key: entry for key, entry in found.items() if entry}


# Cuts and damage


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_journal_says_what_the_run_said(kind: str, tmp_path: Path) -> None:
    """
    The statuses of the outcomes are the journal's entries.
    """
    source = written(kind)
    state = loaded(tmp_path / "journal", source.data, source)

    assert len(state) == ITEMS[kind]
    assert state == source.state
    if kind == "position":
        told = {OutcomeStatus.DONE: Entry.DONE, OutcomeStatus.ABSENT: Entry.ABSENT}
        lost = {400: Entry.FAILED, 500: Entry.LOST}
        for index, outcome in source.outcomes.items():
            error = outcome.error
            status = getattr(error, "status", 0)
            assert state[at(index)] is (told.get(outcome.status) or lost[status])


@pytest.mark.parametrize("kind", KINDS)
def test_a_journal_that_is_cut_anywhere_has_every_whole_record(kind: str, tmp_path: Path) -> None:
    """
    Cut at every byte of its last 4 KiB, it is read and says what is in whole records, and no more.
    """
    source, size = written(kind), SIZES[kind]
    data = source.data[:HEADER_SIZE] + source.data[-4096:] + bytes(100)  # as a kill leaves it
    for cut in range(HEADER_SIZE, len(data) + 1):
        whole = dict(records(data[: cut - (cut - HEADER_SIZE) % size], kind))
        read = scan(io.BytesIO(data[:cut]), KEY_SIZES[kind])
        assert {key: Entry(value) for _, key, value, _ in read} == whole
        if not cut % 97:  # opening a file takes time
            assert loaded(tmp_path / "journal", data[:cut], source) == whole


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 23, 100])
def test_a_journal_that_is_cut_in_its_beginning_is_refused(
    kind: str, size: int, tmp_path: Path
) -> None:
    """
    What is left of its first pages cannot say what it belongs to.
    """
    source = written(kind)
    with pytest.raises(JournalError):
        loaded(tmp_path / "journal", source.data[:size], source)


def assert_claims_nothing_new(
    path: Path, data: bytes, source: Written
) -> dict[bytes, Entry] | None:
    """
    Open a damaged journal: None if it is refused; else nothing is done that was not noted so.
    """
    try:
        state = loaded(path, data, source)
    except JournalError:
        return None
    assert {item for item in state.items() if item[1] in CLAIMS} <= set(source.records)
    return state


@pytest.mark.parametrize("kind", KINDS)
@given(where=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
@example(where=0.0, mask=1)
@example(where=0.9999999, mask=1)
def test_a_wrong_byte_is_told_or_was_in_the_last_record(kind: str, where: float, mask: int) -> None:
    """
    With any byte changed it is refused, lacks the last record, or the byte stood for nothing.
    """
    source = written(kind)
    data = bytearray(source.data)
    offset = int(where * len(data))
    data[offset] ^= mask
    with tempfile.TemporaryDirectory() as folder:
        state = assert_claims_nothing_new(Path(folder, "journal"), bytes(data), source)
    every = source.state
    inside, mark = (offset - HEADER_SIZE) % SIZES[kind], mark_place(kind)
    if offset < HEADER_SIZE:
        assert state is None or state == every
    elif inside >= mark + 2:
        assert state == every
    elif inside < mark and offset >= len(data) - SIZES[kind] and not source.is_amended_last:
        assert state == dict(records(source.data[: -SIZES[kind]], kind))
    else:
        assert state is None


@pytest.mark.parametrize("key", [at(4), bytes(range(DIGEST_SIZE))], ids=KINDS)
def test_two_wrong_bits_are_told_wherever_they_are(key: bytes) -> None:
    """
    No two places of a record can make up for each other, such as its key and its entry.
    """
    good = record(key, Entry.BEGUN, moment=3)
    bits = range(8 * (len(key) + 8))
    for one, other in itertools.combinations(bits, 2):
        wrong = int.from_bytes(good, "little") ^ 1 << one ^ 1 << other
        data = bytes(HEADER_SIZE) + wrong.to_bytes(len(good), "little") + good
        with pytest.raises(JournalError, match="damaged at byte 8192"):
            list(scan(io.BytesIO(data), len(key)))


@pytest.mark.parametrize("amended", [0, Entry.DONE], ids=["begun", "ended"])
@pytest.mark.parametrize("number", range(12))
def test_damage_is_told_where_it_is(
    number: int, amended: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    By the byte at which the record begins, however much of the file is read at a time.
    """
    monkeypatch.setattr(_record, "_BLOCK", 64)
    data = bytearray(bytes(HEADER_SIZE) + record(5, Entry.BEGUN, 3, amended) * 13)
    place = HEADER_SIZE + 16 * number
    data[place] ^= 1
    with pytest.raises(JournalError, match=f"damaged at byte {place}$"):
        list(scan(io.BytesIO(data), KEY_SIZES["position"]))


@pytest.mark.parametrize("key", [at(4), bytes(range(DIGEST_SIZE))], ids=KINDS)
def test_a_last_record_that_was_amended_is_not_taken_for_torn(key: bytes) -> None:
    """
    It was whole, so a wrong bit in it is damage: what began must not be forgotten with its end.
    """
    good = record(key, Entry.BEGUN, 3, amended=Entry.UNKNOWN)
    for bit in range(8 * (len(key) + 8)):
        wrong = (from_bytes(good) ^ 1 << bit).to_bytes(len(good), "little")
        with pytest.raises(JournalError, match="damaged at byte 8192"):
            list(scan(io.BytesIO(bytes(HEADER_SIZE) + wrong), len(key)))
        torn = bytes(HEADER_SIZE) + wrong[: len(key) + 9]
        assert not list(scan(io.BytesIO(torn), len(key)))


@pytest.mark.parametrize("before", [0, Entry.DONE], ids=["none", "done"])
@pytest.mark.parametrize("wrong", [1, 2, 3, 4])
def test_few_wrong_bits_in_a_mark_are_told_wherever_they_are(before: int, wrong: int) -> None:
    """
    What came of a record is not taken for something else, in the last record neither.
    """
    good = record(4, Entry.BEGUN, 3, before)
    for bits in itertools.combinations(range(8 * 14, 8 * 16), wrong):
        changed = functools.reduce(lambda data, bit: data ^ 1 << bit, bits, from_bytes(good))
        data = bytes(HEADER_SIZE) + changed.to_bytes(len(good), "little")
        with pytest.raises(JournalError, match="damaged at byte 8192"):
            list(scan(io.BytesIO(data), KEY_SIZES["position"]))


def from_bytes(data: bytes) -> int:
    """
    Return bytes as a number.
    """
    return int.from_bytes(data, "little")


def test_marks_are_far_from_each_other_and_from_none() -> None:
    """
    It takes 8 wrong bits, in both bytes, to make one of another, and no filling makes one.
    """
    for one, other in itertools.combinations([b"\0\0", *MARKS.values()], 2):
        assert (from_bytes(one) ^ from_bytes(other)).bit_count() >= 8
        assert one[0] != other[0]
        assert one[1] != other[1]
    assert all(mark[0] != mark[1] for mark in MARKS.values())


@pytest.mark.parametrize("kind", KINDS)
@given(
    hits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4),
    cut=st.floats(0, 1),
    more=st.binary(max_size=40),
)
def test_a_journal_that_is_cut_and_damaged_claims_nothing(
    kind: str, hits: list[tuple[float, int]], cut: float, more: bytes
) -> None:
    """
    Cut, with bytes changed and others appended, it is refused or claims only what was noted.
    """
    source = written(kind)
    data = bytearray(source.data[: int(cut * len(source.data))] + more)
    for where, mask in hits:
        if data:
            data[int(where * len(data))] ^= mask
    with tempfile.TemporaryDirectory() as folder:
        assert_claims_nothing_new(Path(folder, "journal"), bytes(data), source)


@pytest.mark.parametrize("kind", KINDS)
@given(sectors=st.sets(st.integers(0, 15), min_size=1), more=st.integers(0, 2000))
def test_sectors_that_a_loss_of_power_took_are_only_missing(
    kind: str, sectors: set[int], more: int
) -> None:
    """
    Whichever sectors never reached the disk, what is in the others counts.
    """
    source = written(kind)
    data = bytearray(source.data + bytes(more))
    for sector in sectors:
        start = HEADER_SIZE + 512 * sector
        data[start : start + 512] = bytes(len(data[start : start + 512]))
    with tempfile.TemporaryDirectory() as folder:
        state = loaded(Path(folder, "journal"), bytes(data), source)
    assert state == dict(records(bytes(data), kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [0, max(Entry) + 1, 15])
def test_an_entry_that_is_not_understood_is_told(kind: str, number: int, tmp_path: Path) -> None:
    """
    A whole record that says what this version does not know is not passed over.
    """
    source = written(kind)
    content = record(source.records[0][0], number)
    with pytest.raises(JournalError, match=rf"an entry {number}, which is not understood"):
        loaded(tmp_path / "journal", source.data + content, source)


def test_what_a_record_was_amended_to_must_be_understood(tmp_path: Path) -> None:
    """
    As much as what it said at first.
    """
    source = written("position")
    content = record(7, Entry.BEGUN, amended=14)
    with pytest.raises(JournalError, match="an entry 14, which is not understood"):
        loaded(tmp_path / "journal", source.data + content, source)


def test_a_position_far_off_costs_no_memory(tmp_path: Path) -> None:
    """
    The memory of an open journal grows with its records, not with the positions in them.
    """
    source = written("position")
    far = 1 << 47
    path = tmp_path / "journal"
    path.write_bytes(source.data + record(far, Entry.DONE))
    with opened(path, source.binding) as index:
        assert index.get(at(far)) is Entry.DONE
        assert index.get(at(far - 1)) is Entry.NONE
        assert sum(index.counts().values()) == ITEMS["position"] + 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_torn_journal_goes_on_where_it_was_whole(kind: str, tmp_path: Path) -> None:
    """
    What is noted after a torn end is read again, with what was before it.
    """
    path = tmp_path / "journal"
    wanted = msgspec.structs.replace(BINDING, keys=kind)
    one, two = (at(1), at(2)) if kind == "position" else (b"1" * DIGEST_SIZE, b"2" * DIGEST_SIZE)
    await noted(path, (one, Entry.DONE), wanted=wanted)
    with path.open("ab") as file:
        file.write(record(one, Entry.FAILED)[: len(one) + 7] + bytes(5000))
    await noted(path, (two, Entry.ABSENT), wanted=wanted)
    with opened(path, wanted) as index:
        assert (index.get(one), index.get(two)) == (Entry.DONE, Entry.ABSENT)


async def test_a_journal_that_is_closed_holds_nothing_that_a_fork_could_share(
    tmp_path: Path,
) -> None:
    """
    In a process that is forked later, the number of its file may be another file's.
    """
    journal = await opened_journal(tmp_path / "journal")
    await journal.aclose()
    handles = [os.open(tmp_path / "journal", os.O_RDONLY) for _ in range(3)]
    journal.after_fork()

    os.fstat(1)  # it would raise if that had been closed
    for handle in handles:
        os.close(handle)  # and so would this


def header(binding: Binding = BINDING, generation: int = 0) -> bytes:
    """
    Return the first pages of a journal.
    """
    place, content = write_header(Header(generation, binding))
    return (bytes(place) + content).ljust(HEADER_SIZE, b"\0")


STRANGE = {
    "text": (b"user-1\nuser-2\n", "is not a journal"),
    "letters": (b"X" * 100, "is not a journal"),
    "zeros": (bytes(HEADER_SIZE + 1), "is not a journal"),
    "a-piece-of-the-magic": (b"adapty-async", "is not a journal"),
    "other-version": (b"adapty-async journal 1\n", "of a version that is not understood"),
    "no-binding": (b"adapty-async journal 5\n", "damaged at its beginning"),
    "half-a-header": (header()[:100], "damaged at its beginning"),
    "half-a-header-and-letters": (
        header()[:100].ljust(HEADER_SIZE // 2, b"\0") + b"X" * (HEADER_SIZE // 2),
        "damaged at its beginning",
    ),
    "damaged-header": (
        header().replace(b"https", b"httpx") + record(1, Entry.DONE),
        "damaged at its beginning",
    ),
    "damaged-record": (
        header() + record(0, Entry.DONE) + b"X" * 16 + record(1, Entry.DONE),
        f"damaged at byte {HEADER_SIZE + 16}$",
    ),
}


@pytest.mark.parametrize(("content", "message"), STRANGE.values(), ids=STRANGE)
def test_what_is_no_journal_stays_untouched(content: bytes, message: str, tmp_path: Path) -> None:
    """
    A file given by mistake, or a damaged one, is refused and keeps its bytes, mode and times.
    """
    path = tmp_path / "given"
    path.write_bytes(content)
    path.chmod(0o644)
    before = path.stat()
    with pytest.raises(JournalError, match=message), opened(path):
        pass
    after = path.stat()

    assert path.read_bytes() == content
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it is not held either


def test_a_header_of_a_later_make_is_not_understood(tmp_path: Path) -> None:
    """
    A header that is whole and does not say what this version needs is refused.
    """
    content = b"{}"
    checksum = zlib.crc32(content, 0)
    head = struct.pack("<23sIII", b"adapty-async journal 5\n", checksum, 0, len(content))
    path = tmp_path / "journal"
    path.write_bytes((head + content).ljust(HEADER_SIZE, b"\0") + record(1, Entry.DONE))
    with pytest.raises(JournalError, match="damaged at its beginning"), opened(path):
        pass


def test_of_two_headers_the_later_counts() -> None:
    """
    A header that was torn leaves the one before it.
    """
    older, newer = BINDING, msgspec.structs.replace(BINDING, input={"size": 2})
    both = header(older, 4)[:4096] + header(newer, 5)[4096:]
    torn = both[:5000] + b"x" + both[5001:]

    assert read_header(both, Path("j")) == Header(5, newer)
    assert read_header(header(newer, 5)[:4096] + header(older, 3)[4096:], Path("j")) == Header(
        3, older
    )
    torn = both[:4130] + b"xxxx" + both[4134:]
    assert read_header(torn, Path("j")) == Header(4, older)


def test_a_headers_number_cannot_be_damaged_unseen() -> None:
    """
    It decides which of two headers counts.
    """
    data = header(generation=2)
    damaged = data.replace(b"\2\0\0\0", b"\4\0\0\0", 1) + record(1, Entry.DONE)

    assert damaged.count(b"\4\0\0\0") == data.count(b"\4\0\0\0") + 1
    with pytest.raises(JournalError, match="the journal j is damaged at its beginning"):
        read_header(damaged, Path("j"))


@pytest.mark.parametrize("size", [0, 512, 4096, HEADER_SIZE])
def test_a_journal_whose_first_header_was_torn_begins_anew(size: int, tmp_path: Path) -> None:
    """
    Whatever a loss of power left of it, nothing was noted yet.
    """
    path = tmp_path / "journal"
    long = msgspec.structs.replace(BINDING, input={"job_id": "x" * 1000})
    path.write_bytes(header(long)[:size].ljust(HEADER_SIZE, b"\0"))
    with opened(path, long) as index:
        assert index.get(at(0)) is Entry.NONE

    assert read_header(path.read_bytes(), path) == Header(0, long)


def test_a_description_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """
    It is the caller's to shorten, and nothing is written; the file that is left is private, too.
    """
    path = tmp_path / "journal"
    wanted = msgspec.structs.replace(BINDING, input={"job_id": "x" * 5000})
    umask = os.umask(0)
    try:
        with pytest.raises(ConfigError, match="too long for a journal"), opened(path, wanted):
            pass
    finally:
        os.umask(umask)
    assert path.read_bytes() == b""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_description_may_be_as_long_as_its_place(tmp_path: Path) -> None:
    """
    The last byte of it can be used, and not one more.
    """

    def described(length: int) -> Binding:
        return msgspec.structs.replace(BINDING, input={"job_id": "x" * length})

    path = tmp_path / "journal"
    place = header(described(0))[: HEADER_SIZE // 2]
    room = len(place) - len(place.rstrip(b"\0"))
    with opened(path, described(room)):
        assert read_header(path.read_bytes(), path) == Header(0, described(room))
    with pytest.raises(ConfigError, match="too long"):
        header(described(room + 1))


# Opening


def test_an_empty_file_becomes_a_private_journal(tmp_path: Path) -> None:
    """
    A new one, and one that was there empty, has mode 0600 whatever the umask, and one header.
    """
    (tmp_path / "empty").touch(mode=0o666)
    umask = os.umask(0)
    try:
        for name in ("empty", "new"):
            with opened(tmp_path / name):
                assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
                assert (tmp_path / name).read_bytes() == header()
    finally:
        os.umask(umask)


def _make_link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))


def _make_missing(path: Path) -> None:
    path.symlink_to(path)


UNUSABLE = {
    "symlink": (_make_link, "cannot be opened: it is a symbolic link"),
    "link-to-itself": (_make_missing, "cannot be opened"),
    "directory": (Path.mkdir, "cannot be opened: Is a directory"),
    "pipe": (os.mkfifo, "not a regular file"),
    "parent-is-missing": (lambda path: path.parent.rmdir(), "cannot be opened: No such file"),
}


@pytest.mark.parametrize(("make", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_only_a_regular_file_can_be_a_journal(make: Any, message: str, tmp_path: Path) -> None:
    """
    Anything else is refused at once, and a link is not followed.
    """
    folder = tmp_path / "folder"
    folder.mkdir()
    make(folder / "journal")
    with pytest.raises(JournalError, match=message), opened(folder / "journal"):
        pass

    assert not (folder / "elsewhere").exists()


def test_a_device_cannot_be_a_journal() -> None:
    """
    Nothing is noted where nothing is kept.
    """
    with pytest.raises(JournalError, match="not a regular file"), opened(Path(os.devnull)):
        pass


def test_a_second_open_fails_at_once(tmp_path: Path) -> None:
    """
    In the same process too; when the first has closed it, it opens.
    """
    path = tmp_path / "journal"
    in_use = rf"^the journal {re.escape(str(path))} is in use by another process$"
    with opened(path):
        with pytest.raises(JournalError, match=in_use), opened(path):
            pass
        before = path.read_bytes()
    with opened(path):
        assert path.read_bytes() == before


def _hold(path: Path, connection: Any) -> None:
    with opened(path):
        connection.send("open")
        connection.recv()


def test_a_second_process_fails_at_once(tmp_path: Path) -> None:
    """
    As long as one process has it open, no other has.
    """
    path = tmp_path / "journal"
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(path, theirs))
    process.start()
    try:
        assert ours.recv() == "open"
        with pytest.raises(JournalError, match="is in use by another process"), opened(path):
            pass
        ours.send("close")
    finally:
        process.join()
    with opened(path):
        assert process.exitcode == 0


def test_a_journal_that_others_could_read_is_made_private(tmp_path: Path) -> None:
    """
    A mode that was widened meanwhile is 0600 again when the run goes on.
    """
    path = tmp_path / "journal"
    with opened(path):
        pass
    path.chmod(0o644)
    with opened(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_disk_that_fails_at_the_start_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What the system says is in the error, and the file is not held.
    """

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "journal"
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(JournalError, match="cannot be used: No space left"), opened(path):
            pass
    assert path.read_bytes() == b""
    with opened(path) as index:
        assert index.counts()[Entry.DONE] == 0


def test_an_input_that_changed_its_description_is_bound_anew(tmp_path: Path) -> None:
    """
    The last description counts, the journal's beginning stays, and the same is not written again.
    """
    path = tmp_path / "journal"
    grown = msgspec.structs.replace(BINDING, input={"size": 2}, started=2e9)
    told = []
    for wanted in (BINDING, grown, grown):
        with opened(path, wanted):
            told.append(read_header(path.read_bytes()[:HEADER_SIZE], path))

    bound = Header(2, msgspec.structs.replace(grown, started=BINDING.started))
    assert told == [Header(0, BINDING), bound, bound]


@pytest.mark.parametrize("place", [0, HEADER_SIZE // 2], ids=["first", "second"])
def test_damage_does_not_bring_an_earlier_description_back(place: int, tmp_path: Path) -> None:
    """
    Once the input has grown, positions beyond its old end are bound to what stands there.
    """
    path = tmp_path / "journal"
    grown = msgspec.structs.replace(BINDING, input={"size": 2})
    for wanted in (BINDING, grown):
        with opened(path, wanted):
            pass
    data = bytearray(path.read_bytes())
    data[place + 40] ^= 1
    found = read_header(bytes(data), path)

    assert found is not None
    assert found.binding == grown


# Writing


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """
    Give a disk that syncs nothing while the gate is closed; it is open at first.
    """
    event = threading.Event()
    event.set()

    def slow(handle: int) -> None:
        event.wait()
        os.fsync(handle)

    monkeypatch.setattr(_log, "_sync", slow)
    yield event
    event.set()


async def test_a_note_is_in_the_file_at_once(tmp_path: Path, gate: threading.Event) -> None:
    """
    While the disk hangs, whoever reads the file finds what was noted.
    """
    path = tmp_path / "journal"
    journal = await opened_journal(path)
    await journal.ready()
    gate.clear()
    journal.note(at(0), Entry.BEGUN)
    journal.note(at(0), Entry.DONE)

    assert records(path.read_bytes(), "position") == [(at(0), Entry.BEGUN), (at(0), Entry.DONE)]
    gate.set()
    await journal.aclose()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("entry", OF_ITEMS)
async def test_an_end_stands_in_the_record_of_its_beginning(
    kind: str, entry: Entry, tmp_path: Path
) -> None:
    """
    As long as it comes in the same second, which saves half of the file.
    """
    wanted = msgspec.structs.replace(BINDING, keys=kind)
    journal = await opened_journal(tmp_path / "journal", wanted)
    await journal.ready()
    keys = [bytes([number]) * KEY_SIZES[kind] for number in range(3)]
    places = [journal.note(key, Entry.BEGUN) for key in keys]
    for number in (2, 0):
        journal.amend(places[number], keys[number], entry)
    await journal.aclose()

    amended = [entry, 0, entry]
    expected = [record(key, Entry.BEGUN, 7, end) for key, end in zip(keys, amended, strict=True)]
    assert (tmp_path / "journal").read_bytes()[HEADER_SIZE:] == b"".join(expected)


@pytest.mark.parametrize("seconds", [1, -1], ids=["later", "put back"])
async def test_an_end_in_another_second_has_a_record_of_its_own(
    seconds: int, tmp_path: Path
) -> None:
    """
    So that it has its time; the clock is looked at once for all that goes to the disk together.
    """
    path, now = tmp_path / "journal", 1e9 + 7
    journal = Journal(open_journal(path, BINDING, accept), 1, lambda: now)
    await journal.ready()
    first, second = (journal.note(at(number), Entry.BEGUN) for number in range(2))
    await journal.synced()
    journal.amend(first, at(0), Entry.DONE)
    await journal.synced()
    now += seconds
    journal.amend(second, at(1), Entry.DONE)
    third = journal.note(at(2), Entry.BEGUN)
    journal.amend(third, at(2), Entry.ABSENT)
    await journal.aclose()

    assert path.read_bytes()[HEADER_SIZE:] == b"".join(
        (
            record(0, Entry.BEGUN, 7, Entry.DONE),
            record(1, Entry.BEGUN, 7),
            record(1, Entry.DONE, 7 + seconds),
            record(2, Entry.BEGUN, 7 + seconds, Entry.ABSENT),
        )
    )


async def test_an_end_behind_a_full_piece_has_a_record_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What is full is given back; what began in the piece that is in use is amended there.
    """
    monkeypatch.setattr(_log, "_CHUNK", PAGE)
    path, room = tmp_path / "journal", PAGE // 16
    journal = await opened_journal(path)
    places = []
    for number in range(room + 2):
        await journal.ready()
        places.append(journal.note(at(number), Entry.BEGUN))
    for number in (room - 1, room, room + 1):
        journal.amend(places[number], at(number), Entry.DONE)
    await journal.aclose()

    assert path.read_bytes()[HEADER_SIZE + PAGE - 16 :] == b"".join(
        (
            record(room - 1, Entry.BEGUN, 7),
            record(room, Entry.BEGUN, 7, Entry.DONE),
            record(room + 1, Entry.BEGUN, 7, Entry.DONE),
            record(room - 1, Entry.DONE, 7),
        )
    )


async def test_an_end_is_synced_as_a_beginning_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What changes in a record that is on the disk goes there, too, without anybody asking.
    """
    synced: asyncio.Queue[list[Entry]] = asyncio.Queue()
    loop, path = asyncio.get_running_loop(), tmp_path / "journal"
    journal = await opened_journal(path)
    await journal.ready()

    def told(_handle: int) -> None:
        found = [entry for _, entry in records(path.read_bytes(), "position")]
        loop.call_soon_threadsafe(synced.put_nowait, found)

    monkeypatch.setattr(_log, "_sync", told)
    monkeypatch.setattr(_log, "SYNC_EVERY", 0.001)
    place = journal.note(at(0), Entry.BEGUN)
    assert await synced.get() == [Entry.BEGUN]
    journal.amend(place, at(0), Entry.DONE)
    assert await synced.get() == [Entry.BEGUN, Entry.DONE]
    await journal.aclose()


async def test_nothing_is_acknowledged_before_it_is_on_the_disk(
    tmp_path: Path, gate: threading.Event
) -> None:
    """
    Who asks while a sync is under way waits for the next one.
    """
    journal = await opened_journal(tmp_path / "journal")
    await journal.ready()
    gate.clear()
    first = journal.synced()
    journal.note(at(0), Entry.BEGUN)
    await asyncio.sleep(0.01)
    journal.note(at(1), Entry.BEGUN)
    others = [journal.synced() for _ in range(3)]
    cut, *rest = others
    cut.cancel()

    assert not any(future.done() for future in (first, *rest))
    gate.set()
    await asyncio.gather(first, *rest)
    journal.note(at(2), Entry.BEGUN)
    await journal.aclose()


async def test_what_nobody_waits_for_is_synced_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A note is seen onto the disk without anybody asking, and so is what comes during that.
    """
    synced: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    path = tmp_path / "journal"
    journal = await opened_journal(path)
    await journal.ready()

    def note_size(_handle: int) -> None:
        count = len(records(path.read_bytes(), "position"))
        loop.call_soon_threadsafe(synced.put_nowait, count)

    monkeypatch.setattr(_log, "_sync", note_size)
    monkeypatch.setattr(_log, "SYNC_EVERY", 0.001)
    journal.note(at(0), Entry.BEGUN)
    journal.note(at(1), Entry.BEGUN)
    assert await synced.get() == 2
    journal.note(at(2), Entry.BEGUN)
    assert await synced.get() == 3
    await journal.aclose()


async def test_who_asks_for_the_disk_waits_for_no_timer(
    tmp_path: Path, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    However seldom it is synced unasked, and whatever else is noted or under way.
    """
    monkeypatch.setattr(_log, "SYNC_EVERY", 3600.0)
    journal = await opened_journal(tmp_path / "journal")
    await journal.ready()
    asked = journal.synced()
    journal.note(at(0), Entry.BEGUN)
    await asked
    gate.clear()
    under_way = journal.synced()
    await asyncio.sleep(0.01)
    journal.note(at(1), Entry.BEGUN)
    asked = journal.synced()
    gate.set()

    await asyncio.gather(under_way, asked)
    await journal.aclose()


async def test_the_disk_is_asked_no_more_often_than_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    One sync follows another for all that came meanwhile, sooner only if asked, and none for none.
    """
    gate, syncs = threading.Event(), list[bool]()
    gate.set()
    journal = await opened_journal(tmp_path / "journal")
    await journal.ready()
    monkeypatch.setattr(_log, "_sync", lambda _handle: syncs.append(gate.wait()))
    monkeypatch.setattr(_log, "SYNC_EVERY", 0.0)
    gate.clear()
    for place in range(5):
        journal.note(at(place), Entry.BEGUN)
        await asyncio.sleep(0.002)
    gate.set()
    await journal.synced()
    assert len(syncs) == 2  # the first note's, and all others'

    monkeypatch.setattr(_log, "SYNC_EVERY", 3600.0)
    gate.clear()
    asked = journal.synced()
    await asyncio.sleep(0.002)
    journal.note(at(5), Entry.BEGUN)
    gate.set()
    await asked
    await asyncio.sleep(0.01)
    assert len(syncs) == 3  # nobody asked for the fourth

    monkeypatch.setattr(_log, "SYNC_EVERY", 0.0)
    await journal.synced()
    await asyncio.sleep(0.01)
    assert len(syncs) == 4  # there is nothing left
    await journal.aclose()


async def test_other_work_in_threads_holds_no_journal_up(tmp_path: Path) -> None:
    """
    A journal has a thread of its own.
    """
    journal = await opened_journal(tmp_path / "journal")
    loop, gate = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1))
    other = loop.run_in_executor(None, gate.wait)
    try:
        await journal.ready()
        journal.note(at(0), Entry.BEGUN)
        await journal.synced()
        await journal.aclose()
    finally:
        gate.set()
        await other


async def test_a_forked_process_writes_no_more(tmp_path: Path) -> None:
    """
    The journal is its parent's; it keeps neither room in it nor the file.
    """
    path = tmp_path / "journal"
    journal = await opened_journal(path)
    await journal.ready()
    journal.note(at(0), Entry.DONE)
    before = path.read_bytes()
    view = memoryview(journal._chunk)  # as another thread may hold one, which ends with the fork
    journal.after_fork()  # in this process, as if it were the child
    view.release()
    journal.after_fork()
    told = r"^the journal is in use by the process that was forked$"
    with pytest.raises(JournalError, match=told):
        await journal.ready()
    with pytest.raises(JournalError, match=told):
        await journal.aclose()

    assert path.read_bytes() == before
    with opened(path) as index:
        assert index.get(at(0)) is Entry.DONE


async def test_closing_that_is_cancelled_writes_and_ends_all_the_same(
    tmp_path: Path, gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """
    However closing is cut short, the notes are on the disk, who waits is told, the file is free.
    """
    path = tmp_path / "journal"
    journal = await opened_journal(path)
    await journal.ready()
    gate.clear()
    journal.note(at(7), Entry.DONE)
    waiting = journal.synced()
    await asyncio.sleep(0.01)
    journal.note(at(8), Entry.DONE)
    late = journal.synced()
    closing = asyncio.create_task(journal.aclose())
    await asyncio.sleep(0)
    for _ in range(3):
        closing.cancel()
        await asyncio.sleep(0)
    assert not closing.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await asyncio.gather(waiting, late)
    assert caplog.records == []  # the loop logs what goes wrong in its callbacks

    with opened(path) as index:
        assert (index.get(at(7)), index.get(at(8))) == (Entry.DONE, Entry.DONE)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EIO, os.strerror(errno.EIO)), "Input/output error"),
        (RuntimeError("can't start new thread"), "can't start new thread"),
    ],
    ids=["disk", "something else"],
)
async def test_a_disk_that_fails_is_told_to_everyone_from_then_on(
    error: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    After one failed sync there is no room for anything new, and closing says why.
    """
    journal = await opened_journal(tmp_path / "journal")
    await journal.ready()

    def broken(_handle: int) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(_log, "_sync", broken)
        journal.note(at(2), Entry.BEGUN)
        with pytest.raises(JournalError, match=f"cannot be written: {reason}$"):
            await journal.synced()
    with pytest.raises(JournalError, match="cannot be written"):
        await journal.ready()
    journal.note_rate(100.0)  # it can be learned again
    journal.note(at(2), Entry.DONE)
    with pytest.raises(JournalError, match="cannot be written"):
        await journal.aclose()

    with opened(tmp_path / "journal") as index:
        assert index.get(at(2)) is Entry.DONE


async def test_a_full_disk_is_told_before_a_note_and_keeps_what_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Whoever is about to begin is told, and the file ends with what was noted.
    """
    path = tmp_path / "journal"
    journal = await opened_journal(path)
    write = os.pwrite
    left = ROOM // 2

    def nearly_full(handle: int, data: bytes, place: int) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = data[:left]
        left -= len(data)
        return write(handle, data, place)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", nearly_full)
        with pytest.raises(JournalError, match="cannot be written: No space left"):
            await journal.ready()
    with pytest.raises(JournalError, match="No space left"):
        await journal.aclose()

    assert path.stat().st_size == HEADER_SIZE


async def test_closing_waits_for_room_that_is_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What is done to the file is done one after another.
    """
    path = tmp_path / "journal"
    journal = await opened_journal(path)
    gate, write = threading.Event(), os.pwrite

    def slow(handle: int, data: bytes, place: int) -> int:
        gate.wait()
        return write(handle, data, place)

    monkeypatch.setattr(os, "pwrite", slow)
    waiting = asyncio.create_task(journal.ready())
    await asyncio.sleep(0.01)
    waiting.cancel()
    closing = asyncio.create_task(journal.aclose())
    await asyncio.sleep(0.01)
    gate.set()

    await closing
    assert path.read_bytes() == header()


def test_what_is_written_bit_by_bit_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A disk may take fewer bytes than it is given.
    """
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, place: write(handle, data[:3], place))
    with (tmp_path / "file").open("wb+") as file:
        write_all(file.fileno(), b"0123456789", 5)
        assert file.read() == bytes(5) + b"0123456789"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_journal_grows_as_far_as_it_must(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Many notes go into several pieces of the file, and all are found again, after a resume too.
    """
    monkeypatch.setattr(_log, "_CHUNK", 16384)
    path = tmp_path / "journal"
    wanted = msgspec.structs.replace(BINDING, keys=kind)
    keys = [at(number) if kind == "position" else b"%016d" % number for number in range(5000)]
    for some in (keys[:3001], keys[3001:]):
        await noted(path, *((key, Entry.DONE) for key in some), wanted=wanted)

    assert records(path.read_bytes(), kind) == [(key, Entry.DONE) for key in keys]
    assert path.stat().st_size == HEADER_SIZE + 5000 * SIZES[kind]
    with opened(path, wanted) as index:
        assert index.counts()[Entry.DONE] == 5000


async def test_room_is_made_in_small_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What is written in one go may be kept as one by the system, and go to the disk for any byte.
    """
    write, sizes = os.pwrite, list[int]()

    def told(handle: int, data: bytes, place: int) -> int:
        sizes.append(len(data))
        return write(handle, data, place)

    path = tmp_path / "journal"
    await noted(path, (at(3), Entry.DONE))
    monkeypatch.setattr(os, "pwrite", told)
    await noted(path, (at(4), Entry.DONE))

    assert sum(sizes) == ROOM - HEADER_SIZE - 16
    assert sizes[0] == (1 << 14) - HEADER_SIZE - 16  # up to where they begin
    assert set(sizes[1:]) == {1 << 14}


@pytest.mark.parametrize("left", [None, 1])
@pytest.mark.parametrize("owed", [1, 1024, 2500])
async def test_whoever_noted_a_beginning_can_note_an_end(
    owed: int, left: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    However many began, and though the disk gives no more room, all of them can end.
    """
    monkeypatch.setattr(_log, "_CHUNK", PAGE)
    end = HEADER_SIZE if left is None else HEADER_SIZE + PAGE - 16 * left
    path = tmp_path / "journal"
    path.write_bytes(bytes(end))
    log = log_at(path)(owed)
    with hanging(monkeypatch, "pwrite") as hang:
        for key in range(owed - 1):
            await log.ready()
            log.note(at(key), Entry.BEGUN)
        hang()
        begun, ended = owed - 1, 0
        while log.is_ready:
            begun += 1
            log.note(at(begun - 1), Entry.BEGUN)
            ended += 1
            log.note(at(ended - 1), Entry.DONE)
        for key in range(ended, begun):
            log.note(at(key), Entry.DONE)
    await log.aclose()

    notes = records(path.read_bytes(), "position")
    assert len(notes) == 2 * begun
    assert {key for key, entry in notes if entry is Entry.DONE} == set(map(at, range(begun)))


def log_at(path: Path) -> Callable[[int], Log]:
    """
    Return what opens the log that ends where a file does.
    """
    handle = os.open(path, os.O_RDWR)
    return functools.partial(Log, handle, path.stat().st_size, Positions.key_size, lambda: 0)


@contextlib.contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[Callable[[], None]]:
    """
    Yield what makes calls of the system hang, until the end of the block.
    """
    gate, call = threading.Event(), getattr(os, name)

    def slow(*arguments: Any) -> Any:
        gate.wait()
        return call(*arguments)

    try:
        yield lambda: monkeypatch.setattr(os, name, slow)
    finally:
        gate.set()


async def test_room_is_made_ahead_and_no_more_than_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    At first there are two pieces behind the one in use; each that is used up is made good for.
    """
    monkeypatch.setattr(_log, "_CHUNK", PAGE)
    syncs: list[int] = []
    monkeypatch.setattr(_log, "_sync", syncs.append)
    path = tmp_path / "journal"
    path.write_bytes(bytes(HEADER_SIZE + PAGE - 16))
    log = log_at(path)(1)
    await log.ready()
    assert path.stat().st_size == HEADER_SIZE + 3 * PAGE
    assert len(syncs) == 1

    noted = 0
    with hanging(monkeypatch, "pwrite") as hang:
        hang()
        while log.is_ready:
            log.note(at(noted), Entry.BEGUN)
            noted += 1
    assert noted == 1 + PAGE // 16 + 1
    await log.ready()
    while (growing := log._growing) is not None:
        await asyncio.wait({growing})
    assert path.stat().st_size == HEADER_SIZE + 5 * PAGE
    await log.aclose()
    assert not log.is_ready


@pytest.mark.parametrize("kind", KINDS)
def test_a_journal_that_is_opened_and_closed_is_as_it_was(kind: str, tmp_path: Path) -> None:
    """
    A run that finds everything done leaves every byte.
    """
    source, path = written(kind), tmp_path / "journal"
    path.write_bytes(source.data)
    asyncio.run(noted(path, wanted=source.binding))

    assert path.read_bytes() == source.data


async def test_on_a_disk_that_failed_nothing_begins_however_much_room_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What is owed is still noted, beyond the end of a piece too, and no more room is made.
    """
    monkeypatch.setattr(_log, "_CHUNK", PAGE)
    path = tmp_path / "journal"
    path.write_bytes(bytes(HEADER_SIZE))
    log = log_at(path)(1)
    while len(log._next_chunks) < 2:
        await log.ready()
        await asyncio.sleep(0.001)

    def broken(_handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(_log, "_sync", broken)
        with pytest.raises(JournalError, match="Input/output error"):
            await log.synced()
    size = path.stat().st_size
    for key in range(PAGE // 16 + 1):
        assert not log.is_ready
        log.note(at(key), Entry.DONE)
    with pytest.raises(JournalError, match="Input/output error"):
        await log.ready()
    assert path.stat().st_size == size
    with pytest.raises(JournalError, match="Input/output error"):
        await log.aclose()
    assert len(records(path.read_bytes(), "position")) == PAGE // 16 + 1


async def test_a_note_is_written_though_no_thread_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    When the process is about to end, what is owed at the end of a piece is in the file.
    """
    monkeypatch.setattr(_log, "_CHUNK", PAGE)
    path = tmp_path / "journal"
    path.write_bytes(bytes(HEADER_SIZE + PAGE - 16))
    log = log_at(path)(1)
    await log.ready()
    log.note(at(0), Entry.BEGUN)

    def refused(*_: Any) -> Any:
        raise RuntimeError("cannot schedule new futures after shutdown")

    with monkeypatch.context() as patched:
        patched.setattr(log, "_grow", refused)
        with pytest.raises(RuntimeError, match="after shutdown"):
            log.note(at(0), Entry.DONE)
    await log.aclose()

    assert records(path.read_bytes(), "position") == [(at(0), Entry.BEGUN), (at(0), Entry.DONE)]


def test_a_summary_counts_items_and_what_is_left(tmp_path: Path) -> None:
    """
    Notes of a beginning or of the pace are no ends, and what is settled or unknown is not left.
    """
    entries = [*OF_ITEMS, Entry.RATE, Entry.DONE]
    head = write_header(Header(0, msgspec.structs.replace(BINDING, input={"rows": 20})))[1]
    notes = (record(place, entry, moment=60 * place) for place, entry in enumerate(entries))
    path = tmp_path / "journal"
    path.write_bytes(head.ljust(HEADER_SIZE, b"\0") + b"".join(notes))
    found = summarise(path)

    assert found.left == 20 - 5  # done twice, absent, duplicate, unknown
    assert sum(found.ended.values()) == len(OF_ITEMS) - 1 + 1
    assert (found.first, found.last) == (1e9, 1e9 + 60 * (len(entries) - 1))


async def test_a_journal_that_is_killed_has_room_at_its_end(tmp_path: Path) -> None:
    """
    A copy of the file of a run in progress opens, and ends where its last record does.
    """
    path, copy = tmp_path / "journal", tmp_path / "copy"
    journal = await opened_journal(path)
    await journal.ready()
    journal.note(at(3), Entry.DONE)
    shutil.copy(path, copy)
    await journal.aclose()

    assert copy.stat().st_size == ROOM
    with opened(copy) as index:
        assert index.get(at(3)) is Entry.DONE
        assert copy.stat().st_size == HEADER_SIZE + 16


async def test_moments_are_seconds_since_the_beginning(tmp_path: Path) -> None:
    """
    Times before the beginning are the beginning, and those after the last are the last.
    """
    path = tmp_path / "journal"
    await noted(path, (at(3), Entry.DONE))

    assert path.read_bytes()[HEADER_SIZE:] == record(3, Entry.DONE, 7)
    assert (moments(-5.0), moments(2.5), moments(1e12)) == (0, 2, (1 << 28) - 1)


async def test_a_pace_is_noted_only_where_there_is_room(tmp_path: Path) -> None:
    """
    It can be learned again, so nothing waits for it; it has its time, and is not noted again.
    """
    path = tmp_path / "journal"
    journal = await opened_journal(path)
    journal.note_rate(100.0)
    await journal.ready()
    journal.note_rate(200.0)
    journal.note_rate(200.0)
    await journal.aclose()

    with opened(path) as index:
        assert index.rate == 200.0
    assert path.read_bytes()[HEADER_SIZE:] == record(200_000, Entry.RATE, 7)


async def test_what_is_opened_and_not_used_can_be_given_back(tmp_path: Path) -> None:
    """
    The file is free again.
    """
    path = tmp_path / "journal"
    found = open_journal(path, BINDING, accept)
    found.close()
    with opened(path) as index:
        assert index.get(at(0)) is Entry.NONE


# What is known of each item


@pytest.mark.parametrize("make", [Positions, Digests], ids=KINDS)
@given(
    notes=st.lists(
        st.tuples(
            st.integers(0, 200_000),
            st.sampled_from(OF_ITEMS),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_the_last_entry_of_an_item_counts(make: Any, notes: list[tuple[int, Entry]]) -> None:
    """
    Lookups and counts are those of a dictionary.
    """
    index = make()

    def key(number: int) -> bytes:
        return number.to_bytes(index.key_size, "little")

    for number, entry in notes:
        index.load(key(number), entry)
    known = dict(notes)

    assert {number: index.get(key(number)) for number in known} == known
    assert index.get(key(200_001)) is Entry.NONE
    assert index.counts() == {
        entry: list(known.values()).count(entry) for entry in Entry if entry is not Entry.NONE
    }
    index.close()


def test_a_positions_key_is_the_same_in_every_release() -> None:
    """
    Six bytes, the lowest first.
    """
    assert position_key(0x0102030405) == b"\5\4\3\2\1\0"


@pytest.mark.parametrize("make", [Positions, Digests], ids=KINDS)
def test_a_pace_is_not_an_item(make: Any) -> None:
    """
    The last pace that was noted is kept, and counts as nothing.
    """
    index = make()
    for rate in (400.25, 12.5):
        index.load(rate_key(rate, index.key_size), Entry.RATE)

    assert index.rate == 12.5
    assert set(index.counts().values()) == {0}
    index.close()


@pytest.mark.parametrize("make", [Positions, Digests], ids=KINDS)
def test_a_pace_that_is_beyond_all_measure_is_noted_as_the_highest(make: Any) -> None:
    """
    A run may be told any `rate`, and what it learns begins there.
    """
    index = make()
    for rate in (1e12 * 2.0 ** (8 * index.key_size), math.inf):
        index.load(rate_key(rate, index.key_size), Entry.RATE)
        assert index.rate == 2.0 ** (8 * index.key_size - 1) / 1000
    index.close()


def test_many_digests_are_kept_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    However many are loaded, the last entry of each counts.
    """
    monkeypatch.setattr(_table, "_FIRST", 100)
    index = Digests()
    keys = [b"%016d" % number for number in range(2500)]
    for entry in (Entry.BEGUN, Entry.DONE):
        for key in keys:
            index.load(key, entry)

    assert index.counts()[Entry.DONE] == 2500
    assert index.counts()[Entry.BEGUN] == 0
    assert {index.get(key) for key in keys} == {Entry.DONE}
    index.close()


@pytest.mark.parametrize(
    ("make", "key"), [(Positions, bytes(6)), (Digests, bytes(DIGEST_SIZE))], ids=KINDS
)
def test_an_empty_index_knows_nothing(make: Any, key: Any) -> None:
    """
    It has no entry for anything, and no pace.
    """
    index = make()

    assert index.rate is None
    assert index.get(key) is Entry.NONE
    assert set(index.counts().values()) == {0}
    index.close()


def test_what_was_seen_is_not_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The first time says so, every other time too, in memory and beyond.
    """
    monkeypatch.setattr(_table, "_FIRST", 2)
    seen = DigestTable()
    digests = [b"%016d" % number for number in range(200)]  # all of one bucket, which holds 32

    for digest in digests:
        assert [seen.add(digest), seen.add(digest)] == [True, False]
    assert not any(seen.add(digest) for digest in digests)
    seen.close()


@given(
    notes=st.lists(
        st.tuples(
            st.lists(st.integers(0, 1), min_size=DIGEST_SIZE, max_size=DIGEST_SIZE),
            st.integers(1, 3),
        ),
        max_size=120,
    ),
    first=st.integers(0, 3),
)
def test_digests_that_look_alike_are_told_apart(
    notes: list[tuple[list[int], int]], first: int
) -> None:
    """
    What is kept in memory and in the file is what a dictionary would keep.
    """
    known: dict[bytes, int] = {}
    table = DigestTable()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_table, "_FIRST", first)
        for digits, value in notes:
            digest = b"\0\0" + bytes(digits[2:])
            assert table.get(digest) == known.get(digest, 0)
            table.put(digest, value)
            known[digest] = value
        assert {digest: table.get(digest) for digest in known} == known
    values = list(known.values())
    assert table.counts()[1:4] == [values.count(1), values.count(2), values.count(3)]
    table.close()


def test_a_digest_is_not_found_across_two_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The end of one and the beginning of the next are not taken for another.
    """
    monkeypatch.setattr(_table, "_FIRST", 0)
    table = DigestTable()
    table.put(b"\0\0abcdefghijklmn", 1)
    table.put(b"\0\0opqrstuvwxyzab", 1)

    assert table.get(b"\0\0bcdefghijklmn\1") == 0
    assert table.get(b"\0\0opqrstuvwxyzab") == 1
    table.close()


ONES, TWOS = b"\1" * 14, b"\2" * 14


@pytest.mark.parametrize("away", [False, True], ids=["memory", "file"])
@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        pytest.param([(TWOS, 1), (ONES, 2)], 2, id="across its own beginning"),
        pytest.param([(TWOS, 2), (ONES, 1), (ONES[1:] + b"\2", 2)], 1, id="across its end"),
        pytest.param([(TWOS, 1), (ONES, 1), (ONES[1:] + b"\2", 2)], 1, id="across both"),
        pytest.param([(TWOS, 1), (ONES[1:] + b"\2", 2)], 0, id="only across"),
    ],
)
def test_a_digest_is_found_where_it_is(
    notes: list[tuple[bytes, int]],
    expected: int,
    away: bool,  # noqa: FBT001  a parametrised case
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    What looks like it beside it does not hide it, nor does another bucket's stand for it.
    """
    monkeypatch.setattr(_table, "_FIRST", 0)
    table = DigestTable()
    table.put(b"\0\1" + ONES, 3)
    for rest, value in notes:
        table.put(b"\0\0" + rest, value)
    if away:
        crowd(table, b"\0\0")
        crowd(table, b"\0\1")

    assert table.get(b"\0\0" + ONES) == expected
    assert table.get(b"\0\1" + ONES) == 3
    table.close()


@pytest.mark.parametrize("order", ["little", "big"])
def test_digests_are_kept_bucket_by_bucket(
    order: Literal["little", "big"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Those that differ in their first two bytes only are different, in memory and in the file.
    """
    monkeypatch.setattr(_table, "_FIRST", 0)
    table = DigestTable()
    rests = [number.to_bytes(14, order) for number in range(100)]
    buckets = [b"\0\1", b"\1\0", b"\1\2", b"\xff\xfe", b"\xff\xff"]
    known = {
        bucket + rest: 1 + (place + number) % 3
        for place, rest in enumerate(rests)
        for number, bucket in enumerate(buckets)
    }
    for digest, value in known.items():
        table.put(digest, value)

    assert {digest: table.get(digest) for digest in known} == known
    assert not any(table.get(bucket + rest) for bucket in (b"\0\0", b"\2\1") for rest in rests)
    values = list(known.values())
    assert table.counts()[1:4] == [values.count(1), values.count(2), values.count(3)]
    table.close()


def crowd(table: DigestTable, bucket: bytes = b"00") -> None:
    """
    Put more digests into one bucket than memory has room for.
    """
    for number in range(100):
        table.put(b"%b%014d" % (bucket, number), 1)


def test_a_temporary_file_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A full disk under the index ends the run as one under the journal does.
    """
    monkeypatch.setattr(_table, "_FIRST", 0)
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    table = DigestTable()
    with pytest.raises(JournalError, match="temporary file of digests cannot be used: No such"):
        crowd(table)
    table.close()


def test_a_temporary_file_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What cannot be looked up is not taken for new.
    """
    monkeypatch.setattr(_table, "_FIRST", 0)
    made: list[IO[bytes]] = []
    monkeypatch.setattr(_table, "tempfile", SpyingOnFiles(made))
    table = DigestTable()
    crowd(table)
    reading, writing = os.pipe()
    os.dup2(reading, made[0].fileno())  # a pipe has no places to read from
    os.close(reading)
    os.close(writing)
    with pytest.raises(JournalError, match="temporary file of digests cannot be used: Illegal"):
        table.get(b"%016d" % 0)
    table.close()


class SpyingOnFiles:
    """
    The real temporary files, and a list of those that were made.
    """

    def __init__(self, made: list[IO[bytes]]) -> None:
        self._made = made

    def TemporaryFile(self, *, buffering: int) -> IO[bytes]:  # noqa: N802  the name it stands for
        """
        Make a file.
        """
        file = tempfile.TemporaryFile(buffering=buffering)  # noqa: SIM115  the table closes it
        self._made.append(file)
        return file


# What it says of its run


@pytest.mark.parametrize("kind", KINDS)
def test_a_summary_counts_items_and_tells_when_they_ended(kind: str, tmp_path: Path) -> None:
    """
    Each item is in the count of its last entry; what ended is counted by the minute.
    """
    binding = msgspec.structs.replace(BINDING, keys=kind, started=6e7)  # a full minute
    keys = [at(number) if kind == "position" else b"%016d" % number for number in range(4)]
    notes = [
        record(keys[0], Entry.BEGUN, 5),
        record(keys[1], Entry.BEGUN, 7),
        record(keys[0], Entry.DONE, 58),
        record(keys[1], Entry.FAILED, 59),
        record(keys[2], Entry.BEGUN, 60),
        record(keys[2], Entry.ABSENT, 181),
        record(keys[3], Entry.BEGUN, 181, amended=Entry.DONE),
    ]
    path = tmp_path / "journal"
    path.write_bytes(header(binding) + b"".join(notes))
    told = summarise(path)

    assert told.binding == binding
    assert {entry: count for entry, count in told.counts.items() if count} == {
        Entry.DONE: 2,
        Entry.FAILED: 1,
        Entry.ABSENT: 1,
    }
    assert (told.first, told.last) == pytest.approx((6e7 + 5, 6e7 + 181), abs=1e-3, rel=0)
    minutes = {minute: count for minute, count in told.ended.items() if count}
    assert minutes == {1_000_000: 2, 1_000_003: 2}


def test_a_journal_without_entries_has_no_times(tmp_path: Path) -> None:
    """
    It says what it belongs to, and that nothing happened yet.
    """
    path = tmp_path / "journal"
    path.write_bytes(header())
    told = summarise(path)

    assert (told.first, told.last, told.ended) == (None, None, {})
    assert set(told.counts.values()) == {0}


@pytest.mark.parametrize("moment", [0, 1])
def test_the_first_entry_may_be_made_at_once(moment: int, tmp_path: Path) -> None:
    """
    However soon after the beginning it is made, it is the first and the last.
    """
    path = tmp_path / "journal"
    path.write_bytes(header() + record(1, Entry.DONE, moment))
    told = summarise(path)

    assert told.first == told.last == pytest.approx(1e9 + moment, abs=1e-3, rel=0)


def test_a_summary_leaves_a_journal_as_it_is(tmp_path: Path) -> None:
    """
    It may be read by those who may not write it, while a run has it open.
    """
    path = tmp_path / "journal"
    with opened(path):
        path.chmod(0o400)
        before = path.read_bytes()
        assert summarise(path).binding == BINDING
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "journal .* cannot be read: No such file or directory"),
        (b"", "journal .* holds nothing yet"),
        (b"user-1\n", "journal is not a journal"),
        (bytes(HEADER_SIZE) + record(1, Entry.DONE), "journal is not a journal"),
        (header() + b"x" * 16 + record(1, Entry.DONE), f"damaged at byte {HEADER_SIZE}"),
        (header() + record(1, 14), "an entry 14, which is not understood"),
    ],
    ids=["missing", "empty", "text", "zeros", "damaged", "later version"],
)
def test_what_cannot_be_summed_up_is_told(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    """
    The file and the reason are named.
    """
    path = tmp_path / "journal"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(JournalError, match=message):
        summarise(path)


# Memory

LOOK_UP = """
import json, sys
from pathlib import Path
from adapty_async.bulk._entries import Entry, position_key
from adapty_async.bulk._table import DigestTable
from adapty_async.bulk._header import Binding
from adapty_async.bulk._journal import open_journal

count, kind = int(sys.argv[2]), sys.argv[3]
wanted = Binding(
    operation="v1.profiles.delete", origin="https://x", account="a", keys=kind, input={},
    started=1e9,
)
found = open_journal(Path(sys.argv[1]), wanted, lambda earlier: None)
index, seen, spread = found.index, DigestTable(), 0x9E3779B97F4A7C15F39CC0605CEDC835
right = index.counts()[Entry.DONE] == count
for number in range(0, count, 1 if kind == "digest" else 997):
    digest = (number * spread % (1 << 128)).to_bytes(16, "big")
    right = right and index.get(digest if kind == "digest" else position_key(number)) is Entry.DONE
    right = right and seen.add(digest)
found.close()
status = Path("/proc/self/status").read_text()
peak = int(status.partition("VmHWM:")[2].split()[0])
print(json.dumps({"right": right, "mb": peak / 1024}))
"""
SPREAD = 0x9E3779B97F4A7C15F39CC0605CEDC835


def peak_of_a_resume(path: Path, count: int, kind: str) -> float:
    """
    Return the megabytes at most of a process that opens a journal and looks all its items up.
    """
    binding = msgspec.structs.replace(BINDING, keys=kind)
    with path.open("wb") as file:
        file.write(write_header(Header(0, binding))[1].ljust(HEADER_SIZE, b"\0"))
        for number in range(count):
            digest = (number * SPREAD % (1 << 128)).to_bytes(DIGEST_SIZE, "big")
            file.write(record(number if kind == "position" else digest, Entry.DONE))
    command = [sys.executable, "-c", LOOK_UP, str(path), str(count), kind]
    done = subprocess.run(command, capture_output=True, check=True)
    told = json.loads(done.stdout)
    assert told["right"]
    return float(told["mb"])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells memory on Linux only")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
def test_a_resume_of_ten_million_items_is_small(kind: str, tmp_path: Path) -> None:
    """
    What 400,000 items take more than 100,000 do, as often as ten million have that: below 150 MB.

    Digests take what they may take in memory by then, so that more of them take nothing.
    """
    small = peak_of_a_resume(tmp_path / "small", 100_000, kind)
    large = peak_of_a_resume(tmp_path / "large", 400_000, kind)
    times = 9_900_000 / 300_000 if kind == "position" else 1

    assert small + times * max(0, large - small) < 150
