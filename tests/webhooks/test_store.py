"""The stores of processed events: one suite for all, and the file of `SqliteStore`."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import pytest

from adapty_async.errors import ConfigError, JournalError
from adapty_async.testing import FakeClock
from adapty_async.webhooks import EventStore, MemoryStore, SqliteStore

DAY = 86400.0
Make: TypeAlias = Callable[[], EventStore]


@pytest.fixture
def clock() -> FakeClock:
    """Return the clock of the stores."""
    return FakeClock(1.7e9)


@pytest.fixture(params=["memory", "sqlite"])
async def store(
    request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path
) -> AsyncIterator[EventStore]:
    """Make an empty store of each kind, which remembers for a day."""
    made: EventStore
    if request.param == "memory":
        made = MemoryStore(retention=DAY, clock=clock)
    else:
        made = SqliteStore(tmp_path / "events.db", retention=DAY, clock=clock)
    yield made
    await made.aclose()


async def test_a_store_contains_what_was_added(store: EventStore) -> None:
    """An event is contained after it was added, and no other one is."""
    assert not await store.contains("a")
    await store.add("a")
    await store.add("a")

    assert await store.contains("a")
    assert not await store.contains("b")


async def test_a_store_forgets_after_the_retention(store: EventStore, clock: FakeClock) -> None:
    """An event is remembered for the retention since it was last added, and not longer."""
    await store.add("a")
    await store.add("b")
    clock.now += DAY - 1
    assert await store.contains("a")
    await store.add("a")
    clock.now += 1

    assert await store.contains("a")
    assert not await store.contains("b")


async def test_a_closed_store_works_again(store: EventStore) -> None:
    """Closing a store twice is harmless, and its events are still there."""
    await store.add("a")
    await store.aclose()
    await store.aclose()

    assert await store.contains("a")


@pytest.mark.parametrize("make", [MemoryStore, lambda **some: SqliteStore("x", **some)])
@pytest.mark.parametrize("retention", [0, -1, float("inf"), "1"])
def test_a_retention_is_a_number(make: Callable[..., EventStore], retention: object) -> None:
    """A retention that is no number above 0 is an error of configuration."""
    with pytest.raises(ConfigError, match="retention"):
        make(retention=retention)


# MemoryStore


async def test_a_store_in_memory_is_bounded() -> None:
    """A full store forgets the event that was added first."""
    store = MemoryStore(max_events=2)
    for key in ("a", "b", "a", "c"):
        await store.add(key)

    assert [await store.contains(key) for key in "abc"] == [True, False, True]
    assert repr(store) == "MemoryStore(2 events)"


@pytest.mark.parametrize("size", [0, True, 1.5], ids=str)
def test_a_bound_is_a_whole_number(size: int) -> None:
    """A bound that is no whole number from 1 is an error of configuration."""
    with pytest.raises(ConfigError, match="max_events"):
        MemoryStore(max_events=size)


# SqliteStore


async def test_a_file_outlives_the_store_and_is_shared(tmp_path: Path) -> None:
    """A second store of the same file sees what the first one added, while that is open."""
    path = tmp_path / "events.db"
    first, second = SqliteStore(path), SqliteStore(str(path))
    await asyncio.gather(*(store.add(f"{n}") for n in range(20) for store in (first, second)))

    assert all([await second.contains(f"{n}") for n in range(20)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert repr(second) == f"SqliteStore({path})"
    await first.aclose()
    await second.aclose()


async def test_a_closed_store_leaves_no_file_open(tmp_path: Path) -> None:
    """The log of the database is part of it after the close, and its thread has ended."""
    others = set(threading.enumerate())  # such as the thread of an earlier test that still ends
    store = SqliteStore(tmp_path / "events.db")
    await store.add("a")
    started = set(threading.enumerate()) - others
    (thread,) = (one for one in started if one.name == "adapty-webhooks")
    await store.aclose()
    thread.join(timeout=5)

    assert not thread.is_alive()
    assert not (tmp_path / "events.db-wal").exists()


async def test_a_process_may_change_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is where it was when the store was made."""
    monkeypatch.chdir(tmp_path)
    store = SqliteStore("events.db")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    await store.add("a")
    await store.aclose()

    assert (tmp_path / "events.db").exists()
    assert not list(elsewhere.iterdir())


async def test_a_file_needs_no_flags_of_posix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store works on Windows, which does not have them."""
    monkeypatch.delattr(os, "O_CLOEXEC")
    store = SqliteStore(tmp_path / "events.db")
    await store.add("a")

    assert await store.contains("a")
    await store.aclose()


async def test_expired_events_leave_the_file(tmp_path: Path, clock: FakeClock) -> None:
    """Adding an event removes those whose retention is over."""
    path = tmp_path / "events.db"
    store = SqliteStore(path, retention=DAY, clock=clock)
    await store.add("a")
    clock.now += DAY
    await store.add("b")
    await store.aclose()

    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT key FROM processed").fetchall() == [("b",)]


async def test_another_database_is_left_alone(tmp_path: Path) -> None:
    """A database that is no store is an error, and is not changed."""
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE mine (x)")
    before = path.read_bytes()
    store = SqliteStore(path)

    with pytest.raises(JournalError, match=r"other\.db: is a database, but no store of webhooks"):
        await store.contains("a")
    await store.aclose()
    assert path.read_bytes() == before


@pytest.mark.parametrize("operation", ["contains", "add"])
async def test_a_file_that_cannot_be_used_is_an_error(tmp_path: Path, operation: str) -> None:
    """A file that is no database, or is in no folder, is an error that names it."""
    path = tmp_path / "text"
    path.write_text("not a database" * 100)
    for file, reason in ((path, "damaged"), (tmp_path / "no" / "file", "No such file")):
        store = SqliteStore(file)
        with pytest.raises(JournalError, match=reason):
            await getattr(store, operation)("a")
        await store.aclose()


OTHER = """
import asyncio, sys, threading
from adapty_async.webhooks import SqliteStore

async def main(path, *keys):
    store = SqliteStore(path)
    found = [await store.contains(key) for key in keys]
    await store.aclose()
    for thread in threading.enumerate():
        if thread.name == "adapty-webhooks":
            thread.join()  # it closes the file
    sys.exit(not all(found))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_two_stores_of_a_process_share_a_file_with_other_processes(tmp_path: Path) -> None:
    """A process that leaves the file does not remove the log in which both stores write."""
    path = tmp_path / "events.db"
    one, two = SqliteStore(path), SqliteStore(path)
    command = [sys.executable, "-W", "error", "-c", OTHER, str(path)]

    async def others_have(*keys: str) -> bool:
        done = await asyncio.create_subprocess_exec(*command, *keys)
        return await done.wait() == 0

    await one.add("a")
    await two.add("b")
    assert await others_have("a", "b")
    await one.add("c")
    await two.add("d")
    assert await others_have("a", "b", "c", "d")
    await one.aclose()
    await two.aclose()


async def test_a_file_with_another_name_is_rejected(tmp_path: Path) -> None:
    """The log belongs to a name, so processes would not see each other's records."""
    path = tmp_path / "events.db"
    path.touch()
    (tmp_path / "backup.db").hardlink_to(path)
    store = SqliteStore(path)
    with pytest.raises(JournalError, match=r"events\.db: it has another name \(a hard link\)"):
        await store.add("a")
    await store.aclose()


FORKED = """
import asyncio, os, sys
from adapty_async.webhooks import SqliteStore

store = SqliteStore(sys.argv[1])

async def has(key):
    found = await store.contains(key)
    await store.add("child")
    await store.aclose()
    return found

asyncio.run(store.add("parent"))
if (child := os.fork()) == 0:
    os._exit(0 if asyncio.run(has("parent")) else 9)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status) or not asyncio.run(store.contains("child")))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_process_opens_the_file_itself(tmp_path: Path) -> None:
    """A store made before a fork works in both processes."""
    command = [sys.executable, "-W", "error", "-c", FORKED, str(tmp_path / "events.db")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    assert (done.returncode, done.stderr) == (0, "")
