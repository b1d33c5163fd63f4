"""
The journal's file: what is in it after any cut or damage, who may open it, and what it costs.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import errno
import fcntl
import functools
import io
import json
import multiprocessing
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapty_async import AdaptyClient, JournalError, Outcome, OutcomeStatus
from adapty_async._operation import Request, Response
from adapty_async.bulk import _journal
from adapty_async.bulk._entries import DIGEST_SIZE, Digests, Entry, Index, Positions, Seen
from adapty_async.bulk._frames import CONTENT_LIMIT, Frame, pack, scan
from adapty_async.bulk._journal import Binding, Journal, Writer, binding_of, open_journal
from adapty_async.config import RetryPolicy

MAGIC = b"adapty-async journal 1\n"
KINDS = ("position", "digest")
BINDING = Binding(
    operation="v1.profiles.delete", origin="https://x", account="a", keys="position", input={}
)
CLAIMS = {Entry.DONE, Entry.ABSENT}
ITEMS = {"position": 250, "digest": 130}


def accept(_earlier: dict[str, Any]) -> str | None:
    """
    Find nothing wrong with an input.
    """
    return None


@contextlib.contextmanager
def opened(path: Path, wanted: Binding = BINDING) -> Iterator[Index[Any]]:
    """
    Open a journal, and close it at the end of the block.
    """
    handle, index = open_journal(path, wanted, accept)
    try:
        yield index
    finally:
        os.close(handle)
        index.close()


async def noted(path: Path, *notes: tuple[Any, Entry], wanted: Binding = BINDING) -> None:
    """
    Note these in a journal.
    """
    handle, index = await asyncio.to_thread(open_journal, path, wanted, accept)
    journal: Journal[Any] = Journal(index, Writer(handle))
    await asyncio.gather(*(journal.note(*note) for note in notes))
    await journal.aclose()


def keys_of(kind: str) -> struct.Struct:
    """
    Return how the entries of a kind are packed, as this test understands them.
    """
    return struct.Struct("<Q" if kind == "position" else f"<{DIGEST_SIZE}sB")


def entries_in(content: bytes, kind: str) -> Iterator[tuple[Any, Entry]]:
    """
    Read entries without the code under test.
    """
    for value in keys_of(kind).iter_unpack(content):
        if kind == "position":
            yield value[0] >> 4, Entry(value[0] & 15)
        else:
            yield value[0], Entry(value[1])


class Written(NamedTuple):
    """
    A journal that a run has left.
    """

    data: bytes
    frames: list[Frame]
    binding: Binding
    outcomes: dict[int, Outcome[str, None]]

    @property
    def keys(self) -> set[Any]:
        """
        All items there ever were.
        """
        return _keys_in(self.data, self.binding.keys)

    def state(self, *frames: Frame) -> dict[Any, Entry]:
        """
        Return the last entry of each item in some frames.
        """
        return {
            key: entry
            for frame in frames
            if frame.content[:1] == b"E"
            for key, entry in entries_in(frame.content[1:], self.binding.keys)
        }


@functools.cache
def _keys_in(data: bytes, kind: str) -> set[Any]:
    frames = scan(io.BytesIO(data), len(MAGIC))
    contents = (frame.content[1:] for frame in frames if frame.content[:1] == b"E")
    return {key for content in contents for key, _ in entries_in(content, kind)}


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
    frames = list(scan(io.BytesIO(data), len(MAGIC)))
    binding = binding_of(frames[0], path)
    assert binding is not None
    return Written(data, frames, binding, outcomes)


def loaded(path: Path, data: bytes, source: Written) -> dict[Any, Entry]:
    """
    Write a file, open it as a journal, and return what that knows of every item there ever was.
    """
    path.write_bytes(data)
    with opened(path, source.binding) as index:
        found = {key: index.get(key) for key in source.keys}
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
    assert state == source.state(*source.frames)
    if kind == "position":
        told = {OutcomeStatus.DONE: Entry.DONE, OutcomeStatus.ABSENT: Entry.ABSENT}
        lost = {400: Entry.FAILED, 500: Entry.LOST}
        for index, outcome in source.outcomes.items():
            error = outcome.error
            status = getattr(error, "status", 0)
            assert state[index] is (told.get(outcome.status) or lost[status])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
def test_a_journal_that_is_cut_anywhere_has_every_whole_frame(kind: str, tmp_path: Path) -> None:
    """
    Cut at every byte of the last 4 KiB, it opens and knows what is in whole frames, and no more.
    """
    source = written(kind)
    path = tmp_path / "journal"
    first = max(0, len(source.data) - 4096)
    assert len(source.frames) > 20
    ends = [frame.end for frame in source.frames]
    states = [source.state(*source.frames[:count]) for count in range(len(ends) + 1)]
    for cut in range(first, len(source.data) + 1):
        whole = states[bisect.bisect(ends, cut)]
        assert loaded(path, source.data[:cut], source) == whole


@pytest.mark.parametrize("kind", KINDS)
def test_a_journal_that_is_cut_in_its_beginning_starts_anew(kind: str, tmp_path: Path) -> None:
    """
    Cut anywhere before its first frame is whole, it is an empty journal of the run, and private.
    """
    source = written(kind)
    path = tmp_path / "journal"
    for cut in range(source.frames[0].end):
        path.unlink(missing_ok=True)
        assert loaded(path, source.data[:cut], source) == {}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        frames = list(scan(io.BytesIO(path.read_bytes()), len(MAGIC)))
        assert [binding_of(frame, path) for frame in frames] == [source.binding]


def assert_claims_nothing_new(path: Path, data: bytes, source: Written) -> dict[Any, Entry] | None:
    """
    Open a damaged journal: None if it is refused; else nothing is done that was not noted so.
    """
    try:
        state = loaded(path, data, source)
    except JournalError:
        return None
    noted_so = {
        (key, entry)
        for frame in source.frames[1:]
        for key, entry in entries_in(frame.content[1:], source.binding.keys)
    }
    assert {item for item in state.items() if item[1] in CLAIMS} <= noted_so
    return state


@pytest.mark.parametrize("kind", KINDS)
@given(where=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
@example(where=0.0, mask=1)
def test_a_wrong_byte_is_told_or_was_in_the_last_frame(kind: str, where: float, mask: int) -> None:
    """
    With any byte changed it is refused, or lacks the last frame and nothing else.
    """
    source = written(kind)
    data = bytearray(source.data)
    offset = int(where * len(data))
    data[offset] ^= mask
    with tempfile.TemporaryDirectory() as folder:
        state = assert_claims_nothing_new(Path(folder, "journal"), bytes(data), source)
    if offset < source.frames[-2].end:
        assert state is None
    else:
        assert state == source.state(*source.frames[:-1])


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
async def test_a_torn_journal_goes_on_where_it_was_whole(kind: str, tmp_path: Path) -> None:
    """
    What is noted after a torn end is read again, with what was before it.
    """
    path = tmp_path / "journal"
    wanted = msgspec.structs.replace(BINDING, keys=kind)
    one, two = (1, 2) if kind == "position" else (b"1" * DIGEST_SIZE, b"2" * DIGEST_SIZE)
    await noted(path, (one, Entry.DONE), wanted=wanted)
    with path.open("ab") as file:
        file.write(pack(b"E" + bytes(8000), 1.0)[:-1])
    await noted(path, (two, Entry.ABSENT), wanted=wanted)
    with opened(path, wanted) as index:
        assert (index.get(one), index.get(two)) == (Entry.DONE, Entry.ABSENT)


HEADER = pack(b"H" + msgspec.json.encode(BINDING), 1.0)
STRANGE = {
    "text": (b"user-1\nuser-2\n", "is not a journal"),
    "other-version": (b"adapty-async journal 2\n", "is not a journal"),
    "zeros": (bytes(100), "is not a journal"),
    "other-frame": (MAGIC + pack(b"Z", 1.0), "of a version that is not understood"),
    "other-header": (MAGIC + pack(b"H{}", 1.0), "of a version that is not understood"),
    "header-that-is-not-json": (MAGIC + pack(b"H{", 1.0), "not understood"),
    "no-header": (MAGIC + pack(b"E" + bytes(8), 1.0), "its beginning is missing"),
    "half-an-entry": (MAGIC + HEADER + pack(b"E" + bytes(7), 1.0), "an entry is cut off"),
    "damaged": (MAGIC + HEADER[:-1] + b"x" + pack(b"E" + bytes(8), 1.0), "damaged at byte 23"),
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


def test_half_a_digest_is_damage(tmp_path: Path) -> None:
    """
    Digest entries of the wrong size are told as well.
    """
    path = tmp_path / "journal"
    wanted = msgspec.structs.replace(BINDING, keys="digest")
    header = pack(b"H" + msgspec.json.encode(wanted), 1.0)
    path.write_bytes(MAGIC + header + pack(b"E" + bytes(DIGEST_SIZE), 1.0))
    with pytest.raises(JournalError, match="an entry is cut off"), opened(path, wanted):
        pass


# Opening


def test_an_empty_file_becomes_a_private_journal(tmp_path: Path) -> None:
    """
    A new one, and one that was there empty, has mode 0600 whatever the umask.
    """
    (tmp_path / "empty").touch(mode=0o666)
    umask = os.umask(0)
    try:
        for name in ("empty", "new"):
            with opened(tmp_path / name):
                assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    finally:
        os.umask(umask)


def _make_link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))


def _make_missing(path: Path) -> None:
    path.symlink_to(path)


UNUSABLE = {
    "symlink": (_make_link, "cannot be opened: Too many levels of symbolic links"),
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
    with opened(path):
        with pytest.raises(JournalError, match="is in use by another process"), opened(path):
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


def test_a_disk_that_fails_at_the_start_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What the system says is in the error, and the file is not held.
    """

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "journal"
    with monkeypatch.context() as patched:
        patched.setattr(_journal, "_sync", full)
        with pytest.raises(JournalError, match="cannot be used: No space left"), opened(path):
            pass
    with opened(path) as index:
        assert index.counts()[Entry.DONE] == 0


def test_an_input_that_changed_its_description_is_bound_anew(tmp_path: Path) -> None:
    """
    The last description counts, and it is not written again when it is the same.
    """
    path = tmp_path / "journal"
    grown = msgspec.structs.replace(BINDING, input={"size": 2})
    for wanted in (BINDING, grown, grown):
        with opened(path, wanted):
            pass
    frames = list(scan(io.BytesIO(path.read_bytes()), len(MAGIC)))

    assert [binding_of(frame, path) for frame in frames] == [BINDING, grown]


# Writing


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """
    Give a disk that syncs nothing until it is let.
    """
    event = threading.Event()

    def slow(handle: int) -> None:
        event.wait()
        os.fsync(handle)

    monkeypatch.setattr(_journal, "_sync", slow)
    yield event
    event.set()


async def opened_writer(path: Path, gate: threading.Event) -> Journal[int]:
    """
    Open a journal whose disk is slow from now on.
    """
    gate.set()
    handle, index = await asyncio.to_thread(open_journal, path, BINDING, accept)
    gate.clear()
    return Journal(index, Writer(handle))


async def test_nothing_is_acknowledged_before_it_is_on_the_disk(
    tmp_path: Path, gate: threading.Event
) -> None:
    """
    What comes while a write is under way goes with the next one, all together.
    """
    path = tmp_path / "journal"
    journal = await opened_writer(path, gate)
    first = journal.note(0, Entry.BEGUN)
    await asyncio.sleep(0)
    rest = [journal.note(number, Entry.BEGUN) for number in range(1, 100)]
    await asyncio.sleep(0)

    assert not first.done()
    gate.set()
    await asyncio.gather(first, *rest)
    await journal.aclose()
    frames = list(scan(io.BytesIO(path.read_bytes()), len(MAGIC)))
    assert [len(frame.content) for frame in frames[1:]] == [9, 1 + 99 * 8]


async def test_closing_writes_what_was_noted(tmp_path: Path, gate: threading.Event) -> None:
    """
    Entries of which nobody awaits the end are written too, in their order.
    """
    path = tmp_path / "journal"
    journal = await opened_writer(path, gate)
    for entry in (Entry.BEGUN, Entry.DONE):
        journal.note(7, entry)
        await asyncio.sleep(0)
    journal.note(8, Entry.DONE)
    gate.set()
    await journal.aclose()

    with opened(path) as index:
        assert (index.get(7), index.get(8)) == (Entry.DONE, Entry.DONE)


async def test_closing_that_is_cancelled_writes_and_ends_all_the_same(
    tmp_path: Path, gate: threading.Event
) -> None:
    """
    However closing is cut short, the entries are written, the thread ends and the file is free.
    """
    path = tmp_path / "journal"
    journal = await opened_writer(path, gate)
    journal.note(7, Entry.DONE)
    await asyncio.sleep(0)
    journal.note(8, Entry.DONE)
    closing = asyncio.create_task(journal.aclose())
    await asyncio.sleep(0)
    for _ in range(3):
        closing.cancel()
        await asyncio.sleep(0)
    assert not closing.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await closing

    with opened(path) as index:
        assert (index.get(7), index.get(8)) == (Entry.DONE, Entry.DONE)


async def test_what_is_added_goes_before_what_is_noted_after_it(tmp_path: Path) -> None:
    """
    Nobody waits for an added entry, and it is on the disk with the next, or at the end.
    """
    path = tmp_path / "journal"
    handle, index = await asyncio.to_thread(open_journal, path, BINDING, accept)
    journal: Journal[int] = Journal(index, Writer(handle))
    journal.add(1, Entry.BEGUN)
    await journal.note(1, Entry.DONE)
    journal.add(2, Entry.ABSENT)
    await asyncio.sleep(0)
    journal.add(3, Entry.FAILED)
    await journal.aclose()

    with opened(path) as index:
        assert [index.get(key) for key in (1, 2, 3)] == [Entry.DONE, Entry.ABSENT, Entry.FAILED]


async def test_whoever_stops_waiting_does_no_harm(tmp_path: Path, gate: threading.Event) -> None:
    """
    An entry is written though the one who noted it was cancelled.
    """
    path = tmp_path / "journal"
    journal = await opened_writer(path, gate)
    cut, other = journal.note(1, Entry.DONE), journal.note(2, Entry.DONE)
    cut.cancel()
    gate.set()
    await other
    await journal.aclose()

    with opened(path) as index:
        assert index.get(1) is Entry.DONE


async def test_a_disk_that_fails_is_told_to_everyone_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    After one failed write nothing is written any more, and closing says so too.
    """
    path = tmp_path / "journal"
    handle, index = await asyncio.to_thread(open_journal, path, BINDING, accept)
    journal: Journal[int] = Journal(index, Writer(handle))
    await journal.note(1, Entry.DONE)
    before = path.read_bytes()

    def full(_handle: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(JournalError, match="cannot be written: No space left"):
            await journal.note(2, Entry.DONE)
    with pytest.raises(JournalError, match="cannot be written"):
        await journal.note(3, Entry.DONE)
    with pytest.raises(JournalError, match="cannot be written"):
        await journal.aclose()

    assert path.read_bytes() == before


async def test_many_entries_at_once_are_divided_into_frames(tmp_path: Path) -> None:
    """
    More than one frame holds goes into several, each of whole entries.
    """
    path = tmp_path / "journal"
    count = 3 * CONTENT_LIMIT // 8
    await noted(path, *((number, Entry.DONE) for number in range(count)))
    frames = list(scan(io.BytesIO(path.read_bytes()), len(MAGIC)))[1:]

    assert len(frames) == 4
    assert all(len(frame.content) % 8 == 1 for frame in frames)
    with opened(path) as index:
        assert index.counts()[Entry.DONE] == count


# What is known of each item


@pytest.mark.parametrize("make", [Positions, Digests], ids=KINDS)
@given(
    notes=st.lists(
        st.tuples(st.integers(0, 200_000), st.sampled_from([*Entry][1:])), min_size=1, max_size=40
    )
)
def test_the_last_entry_of_an_item_counts(make: Any, notes: list[tuple[int, Entry]]) -> None:
    """
    Lookups and counts are those of a dictionary.
    """
    index = make()

    def key(number: int) -> Any:
        digest = number.to_bytes(DIGEST_SIZE, "little")
        return number if index.kind == "position" else digest

    packed = b"".join(index.pack(key(number), entry) for number, entry in notes)
    index.load(packed)
    known = dict(notes)

    assert {number: index.get(key(number)) for number in known} == known
    assert index.get(key(200_001)) is Entry.NONE
    assert index.counts() == {
        entry: list(known.values()).count(entry) for entry in Entry if entry is not Entry.NONE
    }
    assert index.ended(packed) == sum(entry is not Entry.BEGUN for _, entry in notes)
    index.close()


def test_what_was_seen_is_not_new() -> None:
    """
    The first time says so, every other time too.
    """
    seen = Seen()

    assert [seen.add(digest) for digest in (b"a", b"b", b"a", b"a")] == [True, True, False, False]
    seen.close()


# Memory

LOOK_UP = """
import json, os, sys, time
from pathlib import Path
from adapty_async.bulk._entries import Entry
from adapty_async.bulk._journal import Binding, open_journal

count = int(sys.argv[2])
wanted = Binding(
    operation="v1.profiles.delete", origin="https://x", account="a", keys="position", input={}
)
started = time.monotonic()
handle, index = open_journal(Path(sys.argv[1]), wanted, lambda earlier: None)
seconds = time.monotonic() - started
right = all(index.get(position) is Entry.DONE for position in range(0, count, 9973))
right = right and index.get(count) is Entry.NONE and index.counts()[Entry.DONE] == count
os.close(handle)
status = Path("/proc/self/status").read_text()
peak = int(status.partition("VmHWM:")[2].split()[0])
print(json.dumps({"right": right, "mb": peak / 1024, "seconds": seconds}))
"""


@pytest.mark.timeout(120)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells memory on Linux only")
def test_a_resume_of_ten_million_items_is_small(tmp_path: Path) -> None:
    """
    Opening a journal in which ten million items were begun and done takes less than 150 MB.
    """
    count, share = 10_000_000, 8000
    path = tmp_path / "journal"
    with path.open("wb") as file:
        file.write(MAGIC + HEADER)
        for start in range(0, count, share):
            for entry in (Entry.BEGUN, Entry.DONE):
                values = array("Q", range(start << 4 | entry, (start + share) << 4, 16))
                file.write(pack(b"E" + values.tobytes(), 1.0))
    done = subprocess.run(
        [sys.executable, "-c", LOOK_UP, str(path), str(count)], capture_output=True, check=True
    )
    shutil.rmtree(tmp_path)
    told = json.loads(done.stdout)

    assert told["right"]
    assert told["mb"] < 150
