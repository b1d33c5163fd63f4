"""The index of entry keys: in memory at first, then in a temporary database."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapty_async._journal import KeyIndex
from adapty_async._journal.keys import EntryKeys
from adapty_async.errors import JournalError
from tests.journal.support import key_of

IN_MEMORY = 50_000
CHILD = """
import asyncio, os, resource
from adapty_async._journal import KeyIndex
from adapty_async.errors import JournalError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def keys(count):
    for first in range(0, count, 4096):
        yield os.urandom(16 * min(4096, count - first))

index = KeyIndex()
"""
FULL = (
    CHILD
    + """
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))
try:
    index.load(keys(550_000))
except JournalError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
)
FULL_LATER = (
    CHILD
    + """
async def claim(new):
    return await asyncio.gather(*map(index.claim, new), return_exceptions=True)

async def main():
    before = peak()
    loaded = [*keys(550_000)]
    count = await asyncio.to_thread(index.load, loaded)
    first, last = loaded[0][:16], loaded[-1][-16:]
    print(count, await claim([last, b"x" * 16, first]))
    print(peak() - before < 45)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    tried, texts = [], {None}
    while texts == {None}:
        tried = [os.urandom(16) for _ in range(5000)]
        texts = {str(each) if isinstance(each, Exception) else None for each in await claim(tried)}
    texts -= {None}
    print(*texts)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print({str(each) for each in await claim([*tried, first, last])} == texts)

asyncio.run(main())
"""
)


@pytest.fixture
def index() -> Iterator[KeyIndex]:
    """Make an index, and remove its temporary database."""
    made = KeyIndex()
    yield made
    made.close()


def filled(index: KeyIndex, count: int) -> int:
    """Load keys as they come from a journal, and return their number."""
    keys = b"".join(map(key_of, range(count)))
    return index.load(keys[start : start + 64_000] for start in range(0, len(keys), 64_000))


@pytest.mark.parametrize("count", [0, 7, IN_MEMORY - 3, IN_MEMORY, IN_MEMORY + 1, 2 * IN_MEMORY])
async def test_each_key_has_the_number_of_its_first_appearance(index: KeyIndex, count: int) -> None:
    """Loaded and new keys are counted from 0, on both sides of what memory holds."""
    assert await asyncio.to_thread(filled, index, count) == count
    numbers = [*range(max(0, count - 5), count + 5), 0, count + 2, *range(count + 10, count + 13)]
    expected: dict[int, tuple[int, bool]] = {n: (n, False) for n in range(count)}
    following = count
    for number in numbers:
        if number not in expected:
            expected[number] = (following, False)
            assert await index.claim(key_of(number)) == (following, True)
            following += 1
        assert await index.claim(key_of(number)) == expected[number]


@pytest.mark.parametrize("count", [100, IN_MEMORY - 20, IN_MEMORY + 5], ids=str)
async def test_tasks_that_claim_at_once_get_different_numbers(index: KeyIndex, count: int) -> None:
    """Of many claims at once exactly one of each key is the first, and numbers have no gaps."""
    added: list[bytes] = []
    index = KeyIndex(added.append)
    await asyncio.to_thread(filled, index, count)
    chosen = random.Random(count)
    numbers = [chosen.randrange(count - 50, count + 200) for _ in range(1000)]

    async def claim_some(part: list[int]) -> list[tuple[int, tuple[int, bool]]]:
        found = []
        for number in part:
            found.append((number, await index.claim(key_of(number))))
            if number % 3 == 0:
                await asyncio.sleep(0)
        return found

    parts = await asyncio.gather(*(claim_some(numbers[start::20]) for start in range(20)))
    by_key: dict[int, set[int]] = {}
    new = []
    for number, (ordinal, is_new) in (each for part in parts for each in part):
        by_key.setdefault(number, set()).add(ordinal)
        if is_new:
            new.append((ordinal, key_of(number)))
    assert all(len(ordinals) == 1 for ordinals in by_key.values())
    assert all(by_key[number] == {number} for number in by_key if number < count)
    assert [ordinal for ordinal, _ in sorted(new)] == list(range(count, count + len(new)))
    assert [key for _, key in sorted(new)] == added
    index.close()


@pytest.mark.parametrize("count", [10, IN_MEMORY], ids=["memory", "table"])
async def test_a_cancelled_claim_leaves_its_key_known(index: KeyIndex, count: int) -> None:
    """A claim that is cancelled still returns its number, and no number is given twice."""
    await asyncio.to_thread(filled, index, count)
    tasks = [asyncio.create_task(index.claim(key_of(count + n))) for n in range(6)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.wait(tasks)
    assert [await task for task in tasks] == [(count + n, True) for n in range(6)]
    assert await index.claim(key_of(count)) == (count, False)
    assert await index.claim(key_of(count + 6)) == (count + 6, True)


@pytest.mark.parametrize("count", [0, 10, IN_MEMORY, IN_MEMORY + 5], ids=str)
async def test_a_search_adds_no_key(index: KeyIndex, count: int) -> None:
    """It finds loaded and claimed keys, on both sides of what memory holds."""
    await asyncio.to_thread(filled, index, count)
    for number in range(max(0, count - 7), count):
        assert await index.find(key_of(number)) == number
    for _ in range(2):
        assert await index.find(key_of(count)) is None
    assert await index.claim(key_of(count)) == (count, True)
    assert await index.find(key_of(count)) == count
    index.close()
    with pytest.raises(JournalError, match="closed"):
        await index.find(key_of(count))


@pytest.mark.parametrize("is_closed", [False, True], ids=["open", "closed"])
async def test_searches_at_once_are_one_query(
    index: KeyIndex,
    is_closed: bool,  # noqa: FBT001  passed by name
) -> None:
    """A search that is cancelled disturbs no other, and none waits for an index that is closed."""
    await asyncio.to_thread(filled, index, IN_MEMORY + 5)
    waiting = [asyncio.create_task(index.find(key_of(IN_MEMORY + n))) for n in range(6)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    if is_closed:
        index.close()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found.pop(1), asyncio.CancelledError)
    if is_closed:
        assert {type(each) for each in found} == {JournalError}
    else:
        assert found == [*(IN_MEMORY + n for n in (0, 2, 3, 4)), None]


async def test_a_closed_index_rejects_claims_and_loads(index: KeyIndex) -> None:
    """A closed index never blocks, in the event loop or in a thread."""
    await asyncio.to_thread(filled, index, IN_MEMORY + 1)
    index.close()
    await asyncio.sleep(0)
    with pytest.raises(JournalError, match="closed"):
        await asyncio.to_thread(filled, index, IN_MEMORY + 1)


@pytest.mark.parametrize("count", [10, IN_MEMORY + 1], ids=["memory", "table"])
async def test_claims_that_come_with_or_after_the_end_fail(index: KeyIndex, count: int) -> None:
    """A closed index returns no numbers."""
    await asyncio.to_thread(filled, index, count)
    waiting = [asyncio.create_task(index.claim(key_of(count + n))) for n in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    index.close()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    if count > IN_MEMORY:
        assert {type(each) for each in found} == {JournalError}
    else:
        assert found == [(count + n, True) for n in range(3)]
    with pytest.raises(JournalError, match="closed"):
        await index.claim(key_of(3))


async def test_few_of_many_claims_continue_at_once(index: KeyIndex) -> None:
    """Thousands of tasks whose keys are in the table do not block the event loop together."""
    await asyncio.to_thread(filled, index, IN_MEMORY + 1)
    found: list[int] = []
    most, is_done = 0, False

    async def claim(number: int) -> None:
        found.append((await index.claim(key_of(number)))[0])

    async def count() -> None:
        nonlocal most
        while not is_done:
            before = len(found)
            await asyncio.sleep(0)
            most = max(most, len(found) - before)

    counting = asyncio.create_task(count())
    await asyncio.gather(*(claim(IN_MEMORY + number) for number in range(1, 3001)))
    is_done = True
    await counting

    assert found == [IN_MEMORY + number for number in range(1, 3001)]
    assert 0 < most <= 256


def child(code: str, folder: Path) -> list[str]:
    """Run a program whose temporary files are in a folder."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SQLITE_TMPDIR": str(folder), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("by_position", [False, True], ids=["by digest", "by position"])
def test_the_objects_of_lost_creations_are_found_in_every_batch(
    by_position: bool,  # noqa: FBT001  passed by name
) -> None:
    """Keys come in batches of any size; a started or unknown item makes its object a lost one."""
    states = bytearray(b"d" * 1024)
    lost = {0: b"s", 2: b"u", 3: b"u", 4: b"s", 700: b"u", 1023: b"s"}
    for position, state in lost.items():
        states[position : position + 1] = state
    keys = [(position + 5000).to_bytes(8) + position.to_bytes(8) for position in range(1024)]
    batches = [keys[:3], keys[3:4], [], keys[4:701], keys[701:]]
    entry_keys = EntryKeys(by_position=by_position)
    entry_keys.load(map(b"".join, batches), {0: bytes(states[:512]), 1: bytes(states[512:])})

    assert entry_keys.lost_creations == {keys[position][:8] for position in lost}
    assert entry_keys.pop_new() == (1024, b"")
    entry_keys.close()


@pytest.mark.parametrize(
    ("by_position", "added"),
    [(False, b""), (True, b"object 1" + bytes(7) + b"\3")],
    ids=["by digest", "by position"],
)
def test_a_creation_has_a_key_of_its_own_by_position_alone(
    by_position: bool,  # noqa: FBT001  passed by name
    added: bytes,
) -> None:
    """By digest, the numbers of keys are positions, so a creation must not take one."""
    entry_keys = EntryKeys(by_position=by_position)
    entry_keys.add_creation(3, b"object 1")

    assert entry_keys.pop_new() == (0, added)
    entry_keys.close()


def test_a_full_temporary_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    """Keys of earlier runs that find no room on the disk are a `JournalError`."""
    (line,) = child(FULL, tmp_path)
    assert line.startswith("the temporary database of entry keys cannot be used: ")


def test_memory_is_bounded_and_a_full_disk_makes_no_duplicates(tmp_path: Path) -> None:
    """
    Beyond the first keys little memory is used; once a claim has failed for want of room all do.

    A temporary folder that is missing is no obstacle: SQLite finds another one.
    """
    loaded, is_small, message, later = child(FULL_LATER, tmp_path / "missing")
    assert loaded == "550000 [(549999, False), (550000, True), (0, False)]"
    assert is_small == "True"
    assert message.startswith("the temporary database of entry keys cannot be used: ")
    assert later == "True"
