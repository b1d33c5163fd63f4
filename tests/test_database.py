"""The thread that owns a database: order, errors, the end, and processes that are forked."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import sqlite3
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

import adapty_async
from adapty_async._runtime.database import DatabaseThread, explain
from adapty_async.errors import JournalError

FORKED = """
import asyncio, os, sys
from adapty_async._runtime.database import DatabaseThread
from adapty_async.errors import JournalError

class Owned:
    def close(self):
        print("closed", flush=True)

thread = DatabaseThread(Owned, "name")

async def refused():
    try:
        await thread.run(lambda owned: None)
    except JournalError as error:
        return str(error)

async def main():
    await thread.run(lambda owned: None)

asyncio.run(main())
thread._put_lock.acquire()  # as another thread does at the moment of a fork
child = os.fork()
if not child:
    try:
        thread.run_blocking(lambda owned: None)
    except JournalError as error:
        print(error, flush=True)
    print(asyncio.run(refused()), flush=True)
    thread.stop()
    os._exit(0)
thread._put_lock.release()
assert os.waitpid(child, 0)[1] == 0
print(thread.run_blocking(lambda owned: "goes on"), flush=True)
"""


class Owned:
    """A resource that records the threads that used it."""

    def __init__(self) -> None:
        self.threads = {threading.get_ident()}
        self.recorded: list[int] = []
        self.closed = threading.Event()

    def note(self, number: int) -> int:
        """Record a number."""
        self.threads.add(threading.get_ident())
        self.recorded.append(number)
        return number

    def close(self) -> None:
        """Record the end."""
        self.threads.add(threading.get_ident())
        self.closed.set()


@pytest.fixture
def owned() -> list[Owned]:
    """Collect the resources that a thread has opened."""
    return []


@pytest.fixture
def thread(owned: list[Owned]) -> Iterator[DatabaseThread[Owned]]:
    """Start a thread, and end it."""

    def connect() -> Owned:
        owned.append(Owned())
        return owned[-1]

    made = DatabaseThread(connect, "adapty-test")
    yield made
    made.stop()


async def test_work_runs_in_its_order_and_in_one_other_thread(
    thread: DatabaseThread[Owned], owned: list[Owned]
) -> None:
    """The resource is opened, used and closed by one thread, which is not the event loop's."""
    results = [thread.run(lambda each, n=n: each.note(n)) for n in range(50)]  # type: ignore[misc]
    assert await asyncio.gather(*results) == list(range(50))
    assert await asyncio.to_thread(thread.run_blocking, lambda each: each.note(50)) == 50
    thread.stop()
    (resource,) = owned
    assert await asyncio.to_thread(resource.closed.wait, 30)
    assert resource.recorded == list(range(51))
    assert len(resource.threads) == 1
    assert threading.get_ident() not in resource.threads


async def test_an_idle_thread_keeps_nothing_of_its_work(thread: DatabaseThread[Owned]) -> None:
    """Otherwise the last work of a run that is never closed would keep the run, and its thread."""
    held, freed = Owned(), asyncio.Event()
    weakref.finalize(held, asyncio.get_running_loop().call_soon_threadsafe, freed.set)
    await thread.run(lambda _, held=held: held.note(1))  # type: ignore[misc]
    del held

    await asyncio.wait_for(freed.wait(), 10)


async def test_an_error_of_work_reaches_who_waits_and_no_other(
    thread: DatabaseThread[Owned],
) -> None:
    """Work that fails fails alone."""

    def fail(each: Owned) -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await thread.run(fail)
    with pytest.raises(ValueError, match="wrong"):
        await asyncio.to_thread(thread.run_blocking, fail)
    assert await thread.run(lambda each: each.note(1)) == 1


async def test_an_error_of_the_opening_is_that_of_the_work() -> None:
    """A resource that cannot be opened fails the work, and closing it is not tried."""

    def connect() -> Owned:
        raise JournalError("cannot be opened")

    thread = DatabaseThread(connect, "adapty-test")
    for _ in range(2):
        with pytest.raises(JournalError, match="cannot be opened"):
            await thread.run(lambda each: each.note(1))
    thread.stop()


async def test_work_that_nobody_waits_for_any_more_is_done_all_the_same(
    thread: DatabaseThread[Owned], owned: list[Owned]
) -> None:
    """A cancelled wait cancels no work."""
    held = threading.Event()
    first = thread.run(lambda _: held.wait(30))
    waiting = asyncio.create_task(asyncio.wait_for(thread.run(lambda each: each.note(1)), 30))
    await asyncio.sleep(0)
    waiting.cancel()
    held.set()
    await first
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await thread.run(lambda each: each.note(2)) == 2
    assert owned[0].recorded == [1, 2]


def test_a_loop_that_was_closed_gets_no_result(thread: DatabaseThread[Owned]) -> None:
    """A result for an event loop that is closed is dropped, and the thread continues."""
    held = threading.Event()

    async def leave() -> None:
        thread.run(lambda _: held.wait(30))

    asyncio.run(leave())
    held.set()
    assert thread.run_blocking(lambda each: each.note(1)) == 1


async def test_a_stopped_thread_rejects_work_and_lets_nobody_wait(
    thread: DatabaseThread[Owned],
) -> None:
    """Work that comes after the end fails at once, whichever way it waits."""
    await thread.run(lambda each: each.note(1))
    thread.stop()
    thread.stop()
    with pytest.raises(JournalError, match=r"^the journal is closed$"):
        await thread.run(lambda each: each.note(2))
    with pytest.raises(JournalError, match=r"^the journal is closed$"):
        await asyncio.wait_for(
            asyncio.to_thread(thread.run_blocking, lambda each: each.note(3)), timeout=30
        )


def test_a_thread_that_is_forgotten_ends(owned: list[Owned]) -> None:
    """Without a reference to it, the thread closes its resource."""

    def connect() -> Owned:
        owned.append(Owned())
        return owned[-1]

    thread = DatabaseThread(connect, "adapty-test")
    thread.run_blocking(lambda each: each.note(1))
    gone = weakref.ref(thread)
    del thread
    gc.collect()
    assert gone() is None
    assert owned[0].closed.wait(30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_is_rejected_and_closes_nothing() -> None:
    """The child of a fork can neither use nor close the resource, and the parent's still works."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    refused = "the journal is in use by the process that was forked"
    assert done.stdout.splitlines()[:3] == [refused, refused, "goes on"]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (sqlite3.SQLITE_FULL, "no space left on the disk"),
        (sqlite3.SQLITE_IOERR, "input/output error"),
        (sqlite3.SQLITE_IOERR | 3 << 8, "input/output error"),
        (sqlite3.SQLITE_READONLY, "it is read-only"),
        (sqlite3.SQLITE_READONLY | 5 << 8, "it is read-only"),
        (sqlite3.SQLITE_CANTOPEN, "the file, or a file next to it, cannot be opened"),
        (sqlite3.SQLITE_BUSY, "it is in use by another process"),
        (sqlite3.SQLITE_CORRUPT, "it is damaged"),
        (sqlite3.SQLITE_ERROR, "it is damaged"),
        (None, "it is damaged"),
    ],
    ids=str,
)
def test_an_error_is_explained_without_the_text_of_sqlite(code: int | None, text: str) -> None:
    """SQLite's text may quote the file, so the reason comes from the error's number."""
    error = sqlite3.OperationalError("near 'user_1': syntax error")
    if code is not None:
        error.sqlite_errorcode = code
    assert explain(error) == text


def test_an_error_of_the_system_is_explained_in_its_words() -> None:
    """The reason of the operating system is kept, without the path."""
    assert explain(PermissionError(13, "Permission denied", "/some/path")) == "Permission denied"
    assert explain(OSError("odd")) == "odd"
    assert explain(ValueError("odd")) == "odd"


def test_each_upsert_names_its_constraint() -> None:
    """SQLite before 3.35, such as that of RHEL 9, Debian 11 and Ubuntu 20.04, requires it."""
    modules = Path(adapty_async.__file__).parent.rglob("*.py")
    nameless = re.compile(r"ON CONFLICT\W+DO UPDATE")
    assert not [path for path in modules if nameless.search(path.read_text(encoding="utf-8"))]
