"""
Records that are appended and amended, whatever comes in between.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapty_async.bulk import _log
from adapty_async.bulk._entries import Entry
from adapty_async.bulk._header import HEADER_SIZE
from adapty_async.bulk._log import Log
from adapty_async.bulk._record import scan

from ._records import KEY_SIZES, PAGE, SIZES, by_key

ENDS = [each for each in Entry if each not in {Entry.NONE, Entry.BEGUN, Entry.RATE}]

Step: TypeAlias = str | tuple[int, Entry]
STEPS = st.lists(
    st.one_of(
        st.sampled_from(["begin", "begin", "begin", "later", "earlier", "sync"]),
        st.tuples(st.integers(0, 60), st.sampled_from(ENDS)),
    ),
    max_size=60,
)


class Play:
    """
    A log in use, and what its file must say.

    Args:
        path: the file; as many records as `left` go into the first of its pages.
    """

    def __init__(self, path: Path, kind: str, left: int) -> None:
        end = HEADER_SIZE + PAGE - left * SIZES[kind]
        path.write_bytes(bytes(end))
        self._path, self._kind = path, kind
        self._second = 7
        self._log = Log(
            os.open(path, os.O_RDWR), end, KEY_SIZES[kind], lambda: self._second, owed=100
        )
        self._begun: list[tuple[int, bytes]] = []
        self.expected: dict[bytes, list[Entry]] = {}

    async def take(self, step: Step) -> None:
        """
        Do a step.
        """
        if step == "begin":
            await self._log.ready()
            key = bytes([len(self.expected) + 1]) * KEY_SIZES[self._kind]
            self._begun.append((self._log.note(key, Entry.BEGUN), key))
            self.expected[key] = [Entry.BEGUN]
        elif step == "later":
            self._second += 1
        elif step == "earlier":
            self._second = max(0, self._second - 2)
        elif step == "sync":
            await self._log.synced()
        elif isinstance(step, tuple) and self._begun:
            number, entry = step
            place, key = self._begun.pop(number % len(self._begun))
            self._log.amend(place, key, entry)
            self.expected[key].append(entry)

    def found(self) -> dict[bytes, list[Entry]]:
        """
        Return what the file says of each key.
        """
        return by_key(self._path.read_bytes(), self._kind)

    def read(self) -> dict[bytes, int]:
        """
        Return what a later run takes for each key's last entry.
        """
        with self._path.open("rb") as file:
            return {key: value for _, key, value, _ in scan(file, KEY_SIZES[self._kind])}

    async def close(self) -> None:
        """
        Close the log.
        """
        await self._log.aclose()


@pytest.mark.parametrize("kind", list(SIZES))
@given(steps=STEPS, left=st.integers(0, 3))
@example(steps=["begin", "begin", "sync", (0, Entry.DONE)], left=1)
def test_whatever_comes_between_a_beginning_and_its_end_both_are_in_the_file(
    kind: str, steps: list[Step], left: int
) -> None:
    """
    Each is there the moment it is noted, in its order, and a later run reads the last of them.
    """

    async def run(path: Path) -> None:
        play = Play(path, kind, left)
        for step in steps:
            await play.take(step)
            assert play.found() == play.expected
        await play.close()
        assert play.read() == {key: entries[-1] for key, entries in play.expected.items()}

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_log, "_CHUNK", PAGE)
        asyncio.run(run(Path(folder, "journal")))
