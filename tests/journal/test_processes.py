"""Processes that are killed at any moment or share a file, and the threads and bytes they use."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapty_async._journal import ItemState, SqliteJournal
from adapty_async.errors import JournalError
from tests.journal.support import BY_KEY, IDENTITY, OWED, accept, key_of, reopened, states_of

pytestmark = pytest.mark.unmeasured

SENT = """
import asyncio, os, random, sys
from pathlib import Path
from adapty_async._journal import ItemState, JournalWriter, SqliteJournal
from adapty_async.errors import JournalError
from tests.journal.support import BY_KEY, IDENTITY, accept, key_of

def tell(text):
    os.write(1, text.encode() + b"\\n")

async def run(path, first, keys):
    writer = JournalWriter(SqliteJournal(path, owed=16), concurrency=8)
    await writer.open(BY_KEY if keys else IDENTITY, accept)
    tell("open")
    for number in range(first, first + 100_000):
        position = await writer.keys.claim(key_of(number)) if keys else number
        before = writer.state(position)
        if before is ItemState.DONE:
            tell(f"skip {number}")
            continue
        if number % 5 == 0:
            await writer.start(position)
        elif (waiting := writer.reserve(position)) is not None:
            await waiting
        tell(f"sent {number} {before.name}")
        writer.update(position, ItemState.DONE, requests=1, reason=("Odd", number % 3))
        if number % 7 == 0:
            await writer.flush()
            tell(f"told {number}")
        if number % 11 == 0:
            await asyncio.sleep(0)
    await writer.close()
"""
RUN = SENT + "asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == 'keys'))"
OPENINGS = (
    SENT
    + """
async def main(path):
    while True:
        tell("begin")
        writer = JournalWriter(SqliteJournal(path, owed=16), concurrency=8)
        await writer.open(IDENTITY, accept)
        tell(f"run {writer._run.number}")
        writer.update(writer._run.number, ItemState.DONE)
        await writer.close()
        tell(f"closed {writer._run.number}")

asyncio.run(main(Path(sys.argv[1])))
"""
)
SECOND = (
    SENT
    + """
async def main(path):
    try:
        writer = JournalWriter(SqliteJournal(path, owed=16), concurrency=8)
        await writer.open(IDENTITY, accept)
    except JournalError as error:
        return str(error)

print(asyncio.run(main(Path(sys.argv[1]))))
"""
)
THREADS = (
    SENT
    + """
import threading

loop_thread = threading.get_ident()
used = set()

def audit(event, arguments):
    if event == "sqlite3.connect":
        used.add(threading.get_ident())

sys.addaudithook(audit)

async def main(path):
    for first, end in ((0, 50_020), (50_000, 50_100)):
        writer = JournalWriter(SqliteJournal(path, owed=16), concurrency=8)
        await writer.open(BY_KEY, accept)
        for number in range(first, end):
            position = await writer.keys.claim(key_of(number))
            if number % 10_000 < 10:
                await writer.start(position)
                writer.update(position, ItemState.DONE)
        await writer.close()

asyncio.run(main(Path(sys.argv[1])))
print(len(used) >= 2, loop_thread in used)
"""
)


@contextlib.contextmanager
def running(code: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program; it is killed in the end."""
    command = [sys.executable, "-c", code, *arguments]
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def killed_after(code: str, lines: int, delay: float, *arguments: str) -> list[list[str]]:
    """Run a program until it has printed some lines, kill it a moment later; return all lines."""
    with running(code, *arguments) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline() for _ in range(lines)]
        end = time.perf_counter() + delay
        while time.perf_counter() < end:
            pass
        process.send_signal(signal.SIGKILL)
        printed += process.stdout.readlines()
    return [line.decode().split() for line in printed if line.endswith(b"\n")]


@pytest.mark.parametrize("keys", [False, True], ids=["position", "keys"])
async def test_a_killed_process_leaves_every_entry_and_every_delivered_outcome(
    tmp_path: Path, *, keys: bool
) -> None:
    """A run killed at any moment has a write-ahead entry for all it sent, and flushed outcomes."""
    path = tmp_path / "run.db"
    chosen = random.Random(keys)
    sent: set[int] = set()
    told: set[int] = set()
    for _ in range(4):
        lines = killed_after(
            RUN,
            chosen.choice((1, 2, 40, 900)),
            chosen.random() / 50,
            str(path),
            "0",
            "keys" if keys else "position",
        )
        for word, number, *_ in lines[1:]:
            if word == "sent":
                assert int(number) not in told
                sent.add(int(number))
            elif word == "told":
                told = set(range(int(number) + 1))
            else:
                assert int(number) in sent
        found = await after_kill(path, keys=keys)
        assert all(number in found for number in sent)
        assert all(found[number] is ItemState.DONE for number in told)
        known = {number for number, state in found.items() if state is ItemState.DONE}
        assert known <= sent
        assert len(sent - known) <= 16
        starts = {number for number in sent - known if number % 5 == 0}
        assert all(found[number] is ItemState.STARTED for number in starts)
    assert len(told) > 100


async def after_kill(path: Path, *, keys: bool) -> dict[int, ItemState]:
    """Return the states in copies of the files, by the number of the item."""
    folder = path.parent / f"copy{len(list(path.parent.iterdir()))}"
    folder.mkdir()
    for suffix in ("", "-wal"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            (folder / source.name).write_bytes(source.read_bytes())
    loaded: list[bytes] = []
    journal = SqliteJournal(folder / path.name, owed=OWED)
    identity = BY_KEY if keys else IDENTITY
    resumed = await journal.open(identity, accept, lambda some, _: loaded.extend(some))
    await journal.close()
    all_keys = b"".join(loaded)
    if keys:
        assert all_keys == b"".join(map(key_of, range(len(all_keys) // 16)))
    return states_of(resumed)


async def test_a_process_that_is_killed_while_it_opens_or_closes_loses_nothing(
    tmp_path: Path,
) -> None:
    """Killed while it creates, checkpoints or closes the file, it leaves a journal that opens."""
    chosen = random.Random(5)
    path = tmp_path
    for number in range(10):
        if number % 4 == 0:
            path = tmp_path / f"run{number}.db"
        delay = chosen.random() / 100 if number % 2 else chosen.random() / 1000
        lines = killed_after(OPENINGS, chosen.choice((1, 1, 2, 3, 9)), delay, str(path))
        closed = [int(words[1]) for words in lines if words[0] == "closed"]
        journal = SqliteJournal(path, owed=OWED)
        resumed = await reopened(journal)
        await journal.close()
        begun = [int(words[1]) for words in lines if words[0] == "run"]
        if begun:
            assert resumed.run.number > begun[-1]
        states = states_of(resumed)
        assert all(states[each] is ItemState.DONE for each in closed)


async def test_a_second_process_is_rejected_as_long_as_the_first_lives(tmp_path: Path) -> None:
    """Another process is rejected, although an attempt in the first process was rejected before."""
    path = tmp_path / "run.db"
    journal = SqliteJournal(path, owed=OWED)
    await reopened(journal)
    refused = f"the journal {path} cannot be used: it is in use by another process"
    with pytest.raises(JournalError, match="in use by another process"):
        await reopened(SqliteJournal(path, owed=OWED))
    assert second(path) == refused
    await journal.close()
    assert second(path) == "None"
    with running(RUN, str(path), "0", "position") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        assert second(path) == refused
    assert second(path) == "None"


def second(path: Path) -> str:
    """Open a journal in another process, and return the reason why that is rejected."""
    with running(SECOND, str(path)) as process:
        assert process.stdout is not None
        return process.stdout.read().decode().strip()


def test_no_sql_runs_in_the_thread_of_the_event_loop(tmp_path: Path) -> None:
    """
    Every connection is made by other threads, in runs by key beyond what memory holds.

    Python rejects to use a connection in another thread than the one that made it.
    """
    with running(THREADS, str(tmp_path / "run.db")) as process:
        assert process.stdout is not None
        assert process.stdout.read().split() == [b"True", b"False"]
