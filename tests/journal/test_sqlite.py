"""The journal in a file: what it waits for, how long its log gets, what is in its bytes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapty_async._journal import Changes, ItemState, Run, SqliteJournal, summarise
from adapty_async._journal.model import Spans
from adapty_async._journal.sqlite import FileLock
from adapty_async.errors import JournalError
from tests._support import CANARY_EMAIL, CANARY_KEY
from tests.journal.support import (
    BY_KEY,
    IDENTITY,
    NOW,
    OWED,
    InFile,
    accept,
    ignore,
    key_of,
    reopened,
    span,
    states_of,
    writer_on,
)


async def test_only_durable_commits_wait_for_the_disk(tmp_path: Path) -> None:
    """SQLite flushes its log at a durable commit, and at no other."""
    journal = SqliteJournal(tmp_path / "run.db", owed=OWED)
    await reopened(journal)
    modes = []
    for durable in (True, False, False, True, True, False):
        await journal.commit(Changes(spans={0: span("d")}), durable=durable)
        mode = await journal._thread.run(lambda file: file._db.execute("PRAGMA synchronous"))
        modes.append(await journal._thread.run(lambda _, mode=mode: mode.fetchone()[0]))  # type: ignore[misc]
    assert modes == [2, 1, 1, 2, 2, 1]
    await journal.close()


async def test_the_log_starts_over(tmp_path: Path) -> None:
    """However many commits a run has, its log stays short, and only the database is left."""
    path = tmp_path / "run.db"
    journal = SqliteJournal(path, owed=OWED)
    await reopened(journal)
    log = InFile(tmp_path).log
    size = log.stat().st_size
    for number in range(2000):
        await journal.commit(Changes(spans={number: span("d" * 512)}), durable=False)
    assert log.stat().st_size == size
    await journal.close()
    assert [each.name for each in path.parent.iterdir()] == ["run.db"]
    assert summarise(path).counts[ItemState.DONE] == 2000 * 512


def _cannot_allocate(_handle: int, _offset: int, _size: int) -> None:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


@pytest.mark.parametrize("system", ["reserves", "cannot reserve", "has no such call"])
async def test_space_for_the_log_is_reserved_on_every_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    """The log has blocks on the disk for its whole size before the first item, not a hole."""
    if system == "cannot reserve":
        monkeypatch.setattr(os, "posix_fallocate", _cannot_allocate)
    elif system == "has no such call":
        monkeypatch.delattr(os, "posix_fallocate")
    journal = SqliteJournal(tmp_path / "run.db", owed=OWED)
    await reopened(journal)
    log = InFile(tmp_path).log
    with log.open("rb") as file:
        os.fsync(file)  # a file system may choose blocks as late as this
    status = log.stat()
    assert status.st_size > 4096 * 4 * OWED
    assert status.st_blocks * 512 >= status.st_size
    await journal.close()


async def test_a_reader_delays_no_commit_and_loses_none(tmp_path: Path) -> None:
    """A permanent reader delays neither commits nor the end of a run."""
    path = tmp_path / "run.db"
    journal = SqliteJournal(path, owed=OWED)
    await reopened(journal)
    uri = f"{path.as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert not reader.execute("SELECT * FROM item").fetchall()
        for number in range(300):
            changes = Changes(spans={number: span("d")}, run=Run(number=1, started_at=1, last_at=2))
            await journal.commit(changes, durable=False)
        await journal.close()
        assert not reader.execute("SELECT * FROM item").fetchall()
    journal = SqliteJournal(path, owed=OWED)
    assert len(states_of(await reopened(journal))) == 300
    await journal.close()


async def test_a_commit_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    """A commit that fails half-way stores nothing, and others can follow."""
    journal = SqliteJournal(tmp_path / "run.db", owed=OWED)
    await reopened(journal)
    half = Changes(spans={0: span("d"), 1: b"\xff" * 512})
    with pytest.raises(JournalError, match="cannot be written"):
        await journal.commit(half, durable=True)
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (InFile(tmp_path).log.stat().st_size, most))
    try:
        with pytest.raises(JournalError, match="cannot be written"):
            await journal.commit(Changes(spans={n: span("d") for n in range(9000)}), durable=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
    await journal.commit(Changes(spans={5: span("a"), 6: span("f")}), durable=True)
    await journal.close()
    journal = SqliteJournal(tmp_path / "run.db", owed=OWED)
    assert states_of(await reopened(journal)) == {2560: ItemState.ABSENT, 3072: ItemState.FAILED}
    await journal.close()


@contextlib.contextmanager
def _no_descriptor_left() -> Iterator[None]:
    """Let the process open no other file."""
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


async def test_a_journal_needs_no_other_descriptor_once_it_is_open(tmp_path: Path) -> None:
    """Connections may use all of them: no commit fails, and no outcome is lost by the close."""
    journal = SqliteJournal(tmp_path / "run.db", owed=OWED)
    await reopened(journal)
    with _no_descriptor_left():
        for number in range(600):
            changes = Changes(spans={number: span("d")})
            assert await journal.commit(changes, durable=False) is None
        await journal.close()
    assert summarise(tmp_path / "run.db").counts[ItemState.DONE] == 600


async def test_a_log_that_is_deleted_is_noticed(tmp_path: Path) -> None:
    """Outcomes would go to a file without a name: the commits end with an error."""
    journal = SqliteJournal(tmp_path / "run.db", owed=OWED)
    await reopened(journal)
    InFile(tmp_path).log.unlink()
    errors = [
        await journal.commit(Changes(spans={number: span("d")}), durable=False)
        for number in range(200)
    ]
    await journal.close()
    assert any("cannot be written: No such file" in str(error) for error in errors)


async def test_a_cancelled_opening_gives_the_journal_back(tmp_path: Path) -> None:
    """A cancelled opening records that the run was stopped; then another run has the journal."""
    path = tmp_path / "run.db"
    held, reached = threading.Event(), threading.Event()

    def load(keys: Iterable[bytes], _: Spans) -> None:
        reached.set()
        held.wait(30)

    await (await _opened(path)).close()
    opening = asyncio.create_task(SqliteJournal(path, owed=OWED).open(IDENTITY, accept, load))
    await _cancelled_when(reached, opening)
    with pytest.raises(JournalError, match="in use"):
        await _opened(path)
    held.set()
    await _closed(path)
    stopped = summarise(path).runs[-1]
    assert (stopped.number, stopped.stop_reason) == (2, "stopped")
    assert stopped.ended_at is not None
    await (await _opened(path)).close()


async def test_a_cancelled_opening_that_fails_changes_nothing(tmp_path: Path) -> None:
    """If opening is cancelled, and the journal belongs to another run, it has no run of this."""
    path = tmp_path / "run.db"
    held, reached = threading.Event(), threading.Event()

    def compare(_: object) -> str:
        reached.set()
        held.wait(30)
        return "another file"

    await (await _opened(path)).close()
    opening = asyncio.create_task(SqliteJournal(path, owed=OWED).open(IDENTITY, compare, ignore))
    await _cancelled_when(reached, opening)
    held.set()
    await _closed(path)
    assert [run.number for run in summarise(path).runs] == [1]


async def _cancelled_when(reached: threading.Event, opening: asyncio.Task[Any]) -> None:
    assert await asyncio.to_thread(reached.wait, 30)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening


async def _closed(path: Path) -> None:
    """Wait until a journal is not in use."""
    lock = Path(f"{path}-lock")
    async with asyncio.timeout(30):
        while lock.exists():  # noqa: ASYNC110, ASYNC240  a file has no event
            await asyncio.sleep(0.001)


async def _opened(path: Path) -> SqliteJournal:
    journal = SqliteJournal(path, owed=OWED)
    await reopened(journal)
    return journal


async def test_a_cancelled_end_closes_the_file_all_the_same(tmp_path: Path) -> None:
    """A cancelled `close` releases the journal before the cancellation is raised."""
    path = tmp_path / "run.db"
    journal = await _opened(path)
    held = threading.Event()
    blocked = journal._thread.run(lambda _: held.wait(30))
    closing = asyncio.create_task(journal.close())
    await asyncio.sleep(0)
    closing.cancel()
    held.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await blocked
    await (await _opened(path)).close()


async def test_a_failure_of_the_last_write_is_raised_by_close(tmp_path: Path) -> None:
    """`close` raises what kept the file from being finished, and releases it."""
    path = tmp_path / "run.db"
    journal = await _opened(path)
    many = {number: span("d" * 512) for number in range(400)}
    await journal.commit(Changes(spans=many), durable=False)
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, most))
    try:
        with pytest.raises(JournalError, match=f"the journal {path} cannot be written: "):
            await journal.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
    journal = SqliteJournal(path, owed=OWED)
    assert len(states_of(await reopened(journal))) == 400 * 512
    await journal.close()


@pytest.mark.parametrize("identity", [IDENTITY, BY_KEY], ids=["position", "key"])
async def test_no_id_and_no_key_is_in_the_bytes(tmp_path: Path, identity: object) -> None:
    """No secret and no id of a run is in its files."""
    assert isinstance(identity, type(IDENTITY))
    storage = InFile(tmp_path)
    writer = await writer_on(storage.journal(), msgspec.structs.replace(identity, account="digest"))
    for number in range(50):
        await writer.keys.claim(key_of(number))
        waiting = writer.reserve(number)
        if waiting is not None:
            await waiting
        error = JournalError(f"{CANARY_KEY} {CANARY_EMAIL}")
        writer.update(number, ItemState.FAILED, reason=(type(error).__name__, 400))
    await writer.flush()
    await writer.flush()  # has the reasons, if the first one came soon after another
    files = b"".join(each.read_bytes() for each in storage.path.parent.iterdir())
    await writer.close("error_rate")
    for content in (files, storage.path.read_bytes()):
        assert b"JournalError" in content
        assert CANARY_KEY.encode() not in content
        assert CANARY_EMAIL.encode() not in content
    assert summarise(storage.path).runs[0].last_at == NOW


async def test_the_name_of_a_new_journal_survives_a_loss_of_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is flushed before the first item; a journal without a name protects none."""
    flushed: list[os.stat_result] = []
    flush = os.fsync

    def record(handle: int) -> None:
        flushed.append(os.fstat(handle))
        flush(handle)

    monkeypatch.setattr(os, "fsync", record)
    folder = os.stat(tmp_path).st_ino  # noqa: PTH116  nothing else runs
    for _ in range(2):  # the second run finds it
        journal = SqliteJournal(tmp_path / "run.db", owed=OWED)
        await reopened(journal)
        await journal.close()
        assert [each.st_ino for each in flushed] == [folder]


def test_a_lock_on_a_file_that_its_owner_has_removed_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that opens the lock file just before its removal locks the next one, as others do."""
    path = tmp_path / "run.db"
    held = [FileLock(path)]
    connect = sqlite3.connect

    def connect_late(*arguments: Any, **options: Any) -> sqlite3.Connection:
        made: sqlite3.Connection = connect(*arguments, **options)
        while held:
            held.pop().close()
        return made

    monkeypatch.setattr(sqlite3, "connect", connect_late)
    second = FileLock(path)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        FileLock(path)
    second.close()


def test_a_lock_file_is_removed_before_its_lock_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the removal could take the file of a run that has just locked it."""
    released: list[bool] = []

    class Watched(sqlite3.Connection):
        def close(self) -> None:
            released.append((tmp_path / "run.db-lock").exists())
            super().close()

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Watched))
    lock = FileLock(tmp_path / "run.db")
    released.clear()
    lock.close()
    assert released == [False]
