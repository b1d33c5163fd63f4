"""Any order of a run's actions, failures, kills and power losses, compared with a simple model."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from adapty_async._journal import ItemState, JournalIdentity, JournalWriter
from adapty_async.errors import JournalError
from tests.journal.support import (
    BY_KEY,
    IDENTITY,
    InFile,
    InMemory,
    Observed,
    Storage,
    writer_on,
)

NUMBERS = st.integers(0, 12) | st.sampled_from([500, 511, 512, 513, 1023, 1024, 1700, 5000])
ENDS = st.sampled_from(
    [
        ItemState.DONE,
        ItemState.ABSENT,
        ItemState.FAILED,
        ItemState.LOST,
        ItemState.UNKNOWN,
        ItemState.NOT_SENT,
    ]
)
UNSENT = frozenset({ItemState.NONE, ItemState.FAILED, ItemState.NOT_SENT})
OPEN = UNSENT | {ItemState.RESERVED, ItemState.LOST}


def entry_key_of(number: int) -> bytes:
    """Return an entry key; its first half is the key of an object."""
    return number.to_bytes(8) * 2


class Item:
    """
    The states that an item has had, and from which of them on a journal may show it.

    Attributes:
        states: all that may be found, in their order.
        safe: the index of the first that may be found after a kill.
        durable: the index of the first that may be found after a loss of power.
    """

    def __init__(self, found: ItemState) -> None:
        self.states = [found]
        self.safe = self.durable = 0

    def add(self, state: ItemState) -> None:
        """Add a state that is not awaited yet."""
        self.states.append(state)

    def keep(self, *, durable: bool) -> None:
        """Record that the current state was awaited."""
        self.safe = len(self.states) - 1
        if durable:
            self.durable = self.safe

    def allowed(self, first: int) -> set[ItemState]:
        """Return the states that may be found; an item that was not sent may be reserved."""
        found = set(self.states[first:])
        return found | {ItemState.RESERVED} if found & UNSENT else found


class Machine(RuleBasedStateMachine):
    """
    One journal, its runs, and the model of its items.

    Timers decide which commits there are, so what is found after a kill or a loss of power differs
    from run to run. Hypothesis therefore draws nothing that depends on it.
    """

    identity: ClassVar[JournalIdentity]

    def make(self) -> Storage:
        """Return a storage for the journal."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.items: dict[int, Item] = {}
        self.in_flight: set[int] = set()
        self.reserved: set[int] = set()  # by this run, and not ended
        self.positions: dict[int, int] = {}
        self.creating: set[int] = set()  # numbers of items that create an object
        # Items with a start to create an object, in this run and in any. If it failed, a later one
        # of the same run records the object's key all the same; after a kill nobody knows it.
        self.announced: set[int] = set()
        self.may_create: set[int] = set()
        self.failed = False
        self.next = 0  # behind the highest that this run has reserved
        self.storage: Storage
        self.journal: Observed
        self.writer: JournalWriter

    @initialize()
    def begin(self) -> None:
        """Open the first run."""
        self.storage = self.make()
        self.open()

    def open(self) -> None:
        """Open a run."""
        self.journal = Observed(self.storage)
        self.writer = self.runner.run(writer_on(self.journal, self.identity))
        self.positions, self.failed = {}, False
        self.in_flight, self.reserved, self.announced = set(), set(), set()
        self.next = 0

    def position(self, number: int) -> int:
        """Return the position of an item; by key, that is where the journal has its key."""
        if self.identity is IDENTITY:
            return number
        if number not in self.positions:
            position = self.runner.run(self.writer.keys.claim(entry_key_of(number)))
            assert position is not None
            assert position not in self.positions.values()
            self.positions[number] = position
        return self.positions[number]

    def item(self, number: int) -> Item:
        """Return the model of an item."""
        if number not in self.items:
            found = self.writer.state(self.position(number))
            assert found in (ItemState.NONE, ItemState.RESERVED)
            self.items[number] = Item(found)
        return self.items[number]

    @rule(numbers=st.lists(NUMBERS, min_size=1, max_size=6, unique=True))
    def reserve(self, numbers: list[int]) -> None:
        """Reserve items together."""
        open_ = [
            number
            for number in numbers
            if number not in self.in_flight and self.item(number).states[-1] in OPEN
        ]

        async def all_of_them() -> None:
            waits = [self.writer.reserve(position) for position in positions]
            for waiting in waits:
                if waiting is not None:
                    await waiting

        positions = [self.position(number) for number in open_]
        self.next = max([self.next, *(number + 1 for number in open_)])
        try:
            self.runner.run(all_of_them())
        except JournalError:
            assert self.failed
            return
        assert not (self.failed and open_)
        for number in open_:
            item = self.item(number)
            if item.states[-1] in UNSENT:
                item.add(ItemState.RESERVED)
                item.keep(durable=False)
                self.reserved.add(number)
            self.in_flight.add(number)

    @rule(count=st.integers(1, 6))
    def reserve_next(self, count: int) -> None:
        """Reserve the items that come next, which need not wait."""
        for number in range(self.next, self.next + count):
            self.reserve([number])

    @rule(number=NUMBERS)
    def meet(self, number: int) -> None:
        """Look an item up, and do nothing with it."""
        self.item(number)

    @rule(number=NUMBERS, creates=st.booleans())
    def start(self, number: int, *, creates: bool) -> None:
        """Start an item that must not be retried, and may create an object."""
        item = self.item(number)
        if number in self.in_flight or item.states[-1] not in UNSENT:
            return
        position = self.position(number)

        async def started() -> None:
            if creates:
                self.writer.keys.add_creation(position, object_key)
            await self.writer.start(position)

        object_key = entry_key_of(number)[:8]
        if creates:
            self.announced.add(number)
            self.may_create.add(number)
        item.add(ItemState.STARTED)
        try:
            self.runner.run(started())
        except JournalError:
            assert self.failed
            self.update_one(number, ItemState.NOT_SENT)
        else:
            assert not self.failed
            item.keep(durable=True)
            self.in_flight.add(number)
            if number in self.announced:
                self.creating.add(number)

    def update_one(self, number: int, state: ItemState) -> None:
        """Record how an item ended."""
        position = self.position(number)

        async def updated() -> None:
            self.writer.update(position, state)

        self.runner.run(updated())
        self.items[number].add(state)
        self.reserved.discard(number)

    @rule(choice=st.integers(0, 2**16), state=ENDS)
    def update(self, choice: int, state: ItemState) -> None:
        """End an item that is in flight, if there is one."""
        if not self.in_flight:
            return
        number = sorted(self.in_flight)[choice % len(self.in_flight)]
        self.in_flight.discard(number)
        self.update_one(number, state)

    @rule()
    def flush(self) -> None:
        """Make everything durable."""

        async def flushed() -> None:
            await self.writer.flush()

        try:
            self.runner.run(flushed())
        except JournalError:
            assert self.failed
        else:
            for item in self.items.values():
                item.keep(durable=True)

    @rule()
    def settle(self) -> None:
        """Let the event loop run until no commit is in progress."""

        async def settled() -> None:
            await asyncio.sleep(0)
            while self.journal.pending:  # noqa: ASYNC110  commits have no event
                await asyncio.sleep(0.0002)

        self.runner.run(settled())

    @rule(is_stored=st.booleans())
    def fail(self, *, is_stored: bool) -> None:
        """Let the next commit fail, or be the last that has room."""
        self.settle()
        failure = JournalError("no space left on the disk")
        self.journal.failures = [(failure,) if is_stored else failure]
        self.failed = True

        async def flushed() -> None:
            await self.writer.flush()

        stored = len(self.journal.committed)
        with contextlib.suppress(JournalError):
            self.runner.run(flushed())
            # a timer may have started a commit that met the failure before the flush's own
            assert is_stored or len(self.journal.committed) > stored

    @rule()
    def end(self) -> None:
        """Close the run in order, and resume."""
        try:
            self.runner.run(self.writer.close())
        except JournalError:
            assert self.failed
        else:
            assert not self.failed
        for number, item in self.items.items():
            if number in self.reserved:
                item.add(item.states[-2])
            item.keep(durable=True)
        self.resume(lambda item: {item.states[-1]})

    @rule()
    def kill(self) -> None:
        """Kill the process, and resume."""
        self.settle()
        left = self.storage.kill()
        self.abandon()
        self.storage = left
        self.resume(lambda item: item.allowed(item.safe))

    @rule(seed=st.integers(0, 2**16))
    def lose_power(self, seed: int) -> None:
        """Lose the power, and resume."""
        self.settle()
        is_kept = random.Random(seed)
        left = self.storage.lose_power(lambda: is_kept.random() < 0.5)
        self.abandon()
        self.storage = left
        self.resume(lambda item: item.allowed(item.durable))

    def abandon(self) -> None:
        """Release what the killed process would not hold any more."""
        with contextlib.suppress(JournalError):
            self.runner.run(self.writer.close())

    def resume(self, allowed: Callable[[Item], set[ItemState]]) -> None:
        """Open the next run, and compare all items with the model."""
        self.open()
        assert not self.writer.is_new
        for number, item in self.items.items():
            found = self.writer.state(self.position(number))
            assert found in allowed(item), number
            self.items[number] = Item(found)
        lost = self.writer.keys.lost_creations
        if self.identity is BY_KEY:  # every key begins with that of an object
            assert lost == self.unclear(set(self.items))
        else:
            assert self.unclear(self.creating) <= lost <= self.unclear(self.may_create)

    def unclear(self, numbers: set[int]) -> set[bytes]:
        """Return the keys of the objects that items may have created, without a response."""
        return {
            entry_key_of(number)[:8]
            for number in numbers
            if self.items[number].states[0] in (ItemState.STARTED, ItemState.UNKNOWN)
        }

    def teardown(self) -> None:
        """End the run."""
        if hasattr(self, "writer"):
            self.abandon()
        self.runner.close()


class MachineInMemory(Machine):
    """A journal in memory."""

    identity = IDENTITY

    def make(self) -> Storage:
        """Return a storage in memory."""
        return InMemory()


class MachineInMemoryByKey(MachineInMemory):
    """A journal in memory, of items by key."""

    identity = BY_KEY


class MachineInFile(Machine):
    """A journal in a file."""

    identity = IDENTITY

    def make(self) -> Storage:
        """Return a storage in a folder."""
        memory = Path("/dev/shm")  # where a flush costs nothing; losses of power are made here
        folder = tempfile.mkdtemp(dir=memory if memory.is_dir() else None)
        self.first = InFile(Path(folder))
        return self.first

    def teardown(self) -> None:
        """Remove the folder."""
        super().teardown()
        if hasattr(self, "first"):
            self.first.remove()


class MachineInFileByKey(MachineInFile):
    """A journal in a file, of items by key."""

    identity = BY_KEY


MANY = settings(max_examples=40, stateful_step_count=40, deadline=None)
SOME = settings(max_examples=8, stateful_step_count=30, deadline=None)
TestInMemory = MachineInMemory.TestCase
TestInMemory.settings = MANY
TestInMemoryByKey = MachineInMemoryByKey.TestCase
TestInMemoryByKey.settings = MANY
TestInFile = MachineInFile.TestCase
TestInFile.settings = SOME
TestInFileByKey = MachineInFileByKey.TestCase
TestInFileByKey.settings = SOME
