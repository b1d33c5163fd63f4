"""The write-ahead buffer: entries before requests, outcomes in groups, failures, the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from adapty_async._journal import (
    Changes,
    ItemState,
    JournalIdentity,
    JournalWriter,
    MemoryJournal,
    Reason,
    Resumed,
    Run,
)
from adapty_async._journal import writer as _writer
from adapty_async._journal.writer import GROUP_SECONDS
from adapty_async.errors import JournalError
from tests._support import loop_turns
from tests.journal.support import (
    BY_KEY,
    IDENTITY,
    NOW,
    InMemory,
    Observed,
    accept,
    key_of,
    span,
    writer_on,
)

FULL = JournalError("no space left on the disk")


class Held(Observed):
    """A journal whose commits wait until they are let through."""

    def __init__(self) -> None:
        super().__init__(InMemory())
        self.gate = asyncio.Semaphore(0)
        self.begun = 0

    async def _commit(self, changes: Changes, *, durable: bool) -> JournalError | None:
        self.begun += 1
        await self.gate.acquire()
        return await super()._commit(changes, durable=durable)


@pytest.fixture
def journal() -> Observed:
    """Return a journal in memory that records its commits."""
    return Observed(InMemory())


@pytest.fixture
async def writer(journal: Observed) -> JournalWriter:
    """Open the journal for four items in flight."""
    return await writer_on(journal)


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop run until something is so."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  commits have no event
            await asyncio.sleep(GROUP_SECONDS / 10)


def stored(journal: Observed, position: int) -> ItemState:
    """Return the state of an item after all commits that have ended."""
    for changes, _ in reversed(journal.committed):
        if position // 512 in changes.spans:
            return ItemState(changes.spans[position // 512][position % 512])
    return ItemState.NONE


async def test_an_entry_is_stored_before_its_item_may_be_sent(
    writer: JournalWriter, journal: Observed
) -> None:
    """Whatever order items come in, the journal has each as reserved when `reserve` has ended."""
    for position in (0, 1, 2, 9, 3, 600, 601, 4, 602, 8, 2000, 10):
        waiting = writer.reserve(position)
        if waiting is not None:
            await waiting
        assert stored(journal, position) is ItemState.RESERVED, position
    await writer.close()


async def test_items_in_their_order_wait_once_for_a_group(writer: JournalWriter) -> None:
    """Each reservation is for the item that asks for it, and for four ahead of it."""
    first = writer.reserve(0)
    assert first is not None
    await first
    waits = []
    for position in range(1, 100):
        waiting = writer.reserve(position)
        if waiting is not None:
            waits.append(position)
            await waiting
    assert waits == [*range(5, 100, 5)]
    await writer.close()


async def test_an_item_that_failed_needs_an_entry_again(
    writer: JournalWriter, journal: Observed
) -> None:
    """After a creation that failed, its item is sent once more, and was reserved ahead before."""
    for position in (0, 1):
        if (waiting := writer.reserve(position)) is not None:
            await waiting
    writer.retract(1)
    await writer.flush()
    assert stored(journal, 1) is ItemState.FAILED

    waiting = writer.reserve(1)
    assert waiting is not None
    await waiting
    assert stored(journal, 1) is ItemState.RESERVED
    await writer.close()


async def test_no_more_than_the_concurrency_is_reserved_ahead(
    writer: JournalWriter, journal: Observed
) -> None:
    """At most as many positions as may be in flight are reserved and not asked for."""
    asked = -1
    for position in range(100):
        waiting = writer.reserve(position)
        asked = position
        if waiting is not None:
            await waiting
        await loop_turns(3)
        reserved = max(n for n in range(512) if stored(journal, n) is ItemState.RESERVED)
        assert reserved <= asked + 4
    await writer.close()


async def test_positions_beyond_the_input_are_not_reserved(journal: Observed) -> None:
    """With the size of the input known, no position behind its end gets a state."""
    writer = JournalWriter(journal, concurrency=4, size=6, clock=lambda: NOW)
    await writer.open(IDENTITY, accept)
    for position in range(6):
        if (waiting := writer.reserve(position)) is not None:
            await waiting
    await loop_turns(6)
    assert stored(journal, 5) is ItemState.RESERVED
    assert stored(journal, 6) is ItemState.NONE
    await writer.close()


class Settled(MemoryJournal):
    """A journal of an earlier run that has settled a million items."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: set[int] = set()  # numbers of spans

    async def open(self, *arguments: Any) -> Resumed:
        """Open the journal."""
        await super().open(*arguments)
        spans = {number: span("d" * 512) for number in range(2000)}
        return Resumed(run=Run(number=2, started_at=NOW, last_at=NOW), spans=spans, rate=None)

    async def commit(self, changes: Changes, *, durable: bool) -> JournalError | None:
        """Store changes."""
        self.stored.update(changes.spans)
        return await super().commit(changes, durable=durable)


async def test_a_resumed_run_does_not_store_again_what_is_settled() -> None:
    """An item behind a million settled ones causes commits of its own span alone."""
    journal = Settled()
    writer = await writer_on(journal)
    waiting = writer.reserve(1_024_000)
    assert waiting is not None
    await waiting
    states = [writer.state(each) for each in (0, 1_023_999, 1_024_000)]
    assert states == [ItemState.DONE, ItemState.DONE, ItemState.NONE]
    await writer.close()
    assert journal.stored == {2000}


async def test_an_item_waits_for_the_reservation_in_progress_alone() -> None:
    """A position that the commit in progress reserves needs no further commit."""
    journal = Held()
    writer = await writer_on(journal)
    first = writer.reserve(0)
    await loop_turns(5)
    others = [writer.reserve(position) for position in range(1, 5)]
    journal.gate.release()
    await loop_turns(5)
    assert [each is not None and each.done() for each in (first, *others)] == [True] * 5
    assert len(journal.committed) == journal.begun == 1
    for _ in range(5):
        journal.gate.release()
    await writer.close()


async def test_an_item_within_a_reservation_is_not_sent_once_the_run_ends() -> None:
    """The end withdraws a reservation in progress, so no item may wait for it."""
    journal = Held()
    writer = await writer_on(journal)
    first = writer.reserve(0)
    await loop_turns(5)
    closing = asyncio.create_task(writer.close())
    await loop_turns(5)
    late = writer.reserve(1)
    assert late is not None
    with pytest.raises(JournalError, match="the journal is closed"):
        await late
    for _ in range(5):
        journal.gate.release()
    await closing
    assert first is not None
    await first
    assert stored(journal, 1) is ItemState.NONE


async def test_an_item_that_must_not_be_retried_waits_for_the_disk(
    writer: JournalWriter, journal: Observed
) -> None:
    """The commit of such an entry is a durable one."""
    await writer.start(5)
    assert stored(journal, 5) is ItemState.STARTED
    assert journal.committed[-1][1]
    await writer.close()


async def test_as_many_outcomes_as_the_concurrency_are_committed_at_once(
    writer: JournalWriter, journal: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full group does not wait for the timer; it is durable soon after."""
    monkeypatch.setattr(_writer, "GROUP_SECONDS", 1.0)
    for position in range(3):
        writer.update(position, ItemState.DONE)
    await loop_turns(5)
    assert not journal.committed
    writer.update(3, ItemState.DONE)
    await loop_turns(5)
    assert stored(journal, 3) is ItemState.DONE
    assert not journal.committed[-1][1]
    await until(lambda: journal.committed[-1][1])
    await writer.close()


async def test_a_single_outcome_is_durable_soon(writer: JournalWriter, journal: Observed) -> None:
    """An outcome that no other follows is committed by the timer, and counted."""
    writer.update(0, ItemState.DONE, requests=1)
    writer.update(1, ItemState.DUPLICATE)
    await until(lambda: journal.committed)
    changes, durable = journal.committed[0]
    assert durable
    assert changes.spans == {0: span("d=")}
    (minute,) = changes.minutes
    assert (minute.done, minute.duplicate, minute.requests, minute.throttled) == (1, 1, 1, 0)
    await writer.close()


async def test_a_reservation_is_durable_soon(writer: JournalWriter, journal: Observed) -> None:
    """A request may take long, and the next run has to know of it after a loss of power, too."""
    waiting = writer.reserve(0)
    assert waiting is not None
    await waiting
    assert not journal.committed[-1][1]
    await until(lambda: journal.committed[-1][1])
    await writer.close()


async def test_a_flush_makes_durable_what_a_group_has_stored(
    writer: JournalWriter, journal: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a commit of its own, with a change; a further group waits for no disk, nor counts."""
    monkeypatch.setattr(_writer, "GROUP_SECONDS", 1.0)
    for position in range(4):
        writer.update(position, ItemState.DONE)
    await loop_turns(5)
    await writer.flush()
    for position in range(4):
        writer.update(position, ItemState.FAILED)
    await loop_turns(5)
    assert [durable for _, durable in journal.committed] == [False, True, False]
    assert [changes.run is not None for changes, _ in journal.committed] == [True, True, False]
    await writer.close()


async def test_nothing_is_committed_once_all_is_durable(
    writer: JournalWriter, journal: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose items all wait writes nothing."""
    monkeypatch.setattr(_writer, "GROUP_SECONDS", 0.0)
    writer.update(0, ItemState.DONE)
    await until(lambda: journal.committed and journal.committed[-1][1])
    commits = len(journal.committed)
    await loop_turns(20)
    assert len(journal.committed) == commits
    await writer.close()


async def test_counts_follow_their_outcomes_without_a_further_one(
    writer: JournalWriter, journal: Observed
) -> None:
    """Counts that were omitted from a commit are stored soon, without further changes."""
    for position in range(3):
        writer.update(position, ItemState.DONE, requests=1)
        await writer.flush()
    await until(lambda: sum(m.done for c, _ in journal.committed[-1:] for m in c.minutes) == 3)
    await writer.close()


async def test_an_adaptive_rate_is_in_the_next_commit(
    writer: JournalWriter, journal: Observed
) -> None:
    """A rate is stored together with the states that are committed next."""
    writer.update(0, ItemState.DONE)
    await writer.flush()
    writer.update(1, ItemState.DONE)
    writer.record_rate(12.5)
    await writer.flush()
    run = journal.committed[-1][0].run
    assert run is not None
    assert run.rate == 12.5
    writer.record_rate(None)
    await writer.flush()
    await writer.close()
    resumed = await writer_on(journal)
    assert resumed.rate == 12.5
    assert not resumed.is_new
    await resumed.close()


async def test_one_commit_takes_all_that_came_during_another() -> None:
    """While a commit is in progress, no other starts; the next one stores all changes."""
    journal = Held()
    opening = asyncio.create_task(writer_on(journal))
    writer = await opening
    first = writer.start(0)
    await loop_turns(5)
    others = [writer.start(position) for position in range(1, 50)]
    flushes = [writer.flush() for _ in range(5)]
    await loop_turns(5)
    assert journal.begun == 1
    journal.gate.release()
    await first
    await loop_turns(5)
    assert journal.begun == 2
    assert not any(other.done() for other in others)
    journal.gate.release()
    await asyncio.gather(*others, *flushes)
    assert journal.begun == 2
    for _ in range(5):
        journal.gate.release()
    await writer.close()


async def let_through(journal: Held) -> None:
    """Let a commit end if one has begun, and the event loop run."""
    if journal.begun > len(journal.committed):
        journal.gate.release()
    await loop_turns(5)


async def test_at_most_twice_the_concurrency_is_open_after_a_kill() -> None:
    """However slow commits are, the journal lacks the outcomes of at most twice the concurrency."""
    journal = Held()
    writer = await writer_on(journal)
    in_flight: list[int] = []
    sent: set[int] = set()
    position = 0
    most = 0
    for step in range(400):
        while len(in_flight) < 4:
            waiting = writer.reserve(position)
            while waiting is not None and not waiting.done():
                await let_through(journal)
            sent.add(position)
            in_flight.append(position)
            position += 1
        writer.update(in_flight.pop(step % 4), ItemState.DONE)
        if step % 7 == 0:
            await let_through(journal)
        most = max(most, sum(stored(journal, each) is not ItemState.DONE for each in sent))
    assert most <= 8
    closing = asyncio.create_task(writer.close())
    while not closing.done():
        await let_through(journal)


async def test_a_failed_commit_ends_the_entries_and_keeps_the_outcomes(
    writer: JournalWriter, journal: Observed
) -> None:
    """After a failure no other item may be sent; those in flight are stored once possible."""
    waiting = writer.reserve(0)
    assert waiting is not None
    await waiting
    journal.failures = [FULL]
    writer.update(0, ItemState.DONE, reason=("X", 0))
    with pytest.raises(JournalError, match="no space left"):
        await writer.flush()
    assert writer.failure is FULL
    for intent in (writer.reserve(1), writer.reserve(3), writer.start(40)):
        assert intent is not None
        with pytest.raises(JournalError, match="no space left"):
            await intent
    await writer.flush()
    assert stored(journal, 0) is ItemState.DONE
    assert stored(journal, 40) is ItemState.NONE
    with pytest.raises(JournalError, match="no space left"):
        await writer.close()
    assert stored(journal, 1) is ItemState.NONE
    assert [reason.error for each, _ in journal.committed for reason in each.reasons] == ["X"]


async def test_a_commit_without_room_for_others_stores_itself(
    writer: JournalWriter, journal: Observed
) -> None:
    """If there may be no room for more, that commit's entries are rejected, its outcomes kept."""
    journal.failures = [(FULL,)]
    waiting = writer.start(0)
    flushed = writer.flush()
    with pytest.raises(JournalError, match="no space left"):
        await waiting
    await flushed
    assert stored(journal, 0) is ItemState.STARTED
    writer.update(0, ItemState.NOT_SENT)
    with pytest.raises(JournalError, match="no space left"):
        await writer.close()
    assert stored(journal, 0) is ItemState.NOT_SENT


@pytest.mark.parametrize("error", [OSError("odd"), asyncio.CancelledError()], ids=repr)
async def test_another_error_of_the_storage_is_a_journal_error(
    writer: JournalWriter, error: BaseException
) -> None:
    """Whatever a commit raises, the items get a `JournalError`."""

    async def fail() -> None:
        raise error

    class Broken(Observed):
        def commit(self, changes: Changes, *, durable: bool) -> Any:
            return fail()

    broken = await writer_on(Broken(InMemory()))
    with pytest.raises(JournalError, match=r"cannot be written: OSError|commit was cancelled"):
        await broken.start(0)
    with pytest.raises(JournalError, match=r"cannot be written: OSError|commit was cancelled"):
        await broken.close()
    await writer.close()


@pytest.mark.parametrize("successes", [0, 1, 2])
async def test_a_storage_that_raises_at_once_lets_nobody_wait(successes: int) -> None:
    """An error of a commit that returned nothing to await is the error of its items, too."""

    class Broken(Observed):
        def commit(self, changes: Changes, *, durable: bool) -> Any:
            if len(self.committed) == successes:
                raise JournalError("no connection")
            return super().commit(changes, durable=durable)

    writer = await writer_on(Broken(InMemory()))

    async def reserve_all() -> None:
        for position in range(12):
            if (waiting := writer.reserve(position)) is not None:
                await waiting

    async with asyncio.timeout(30):
        with pytest.raises(JournalError, match="no connection"):
            await reserve_all()
        with pytest.raises(JournalError, match="no connection"):
            await writer.close()


async def test_an_entry_that_nobody_waits_for_disturbs_no_other(
    writer: JournalWriter, journal: Observed
) -> None:
    """A cancelled wait cancels neither the commit nor the others."""
    waits = [writer.start(position) for position in range(3)]
    waits[1].cancel()
    await asyncio.gather(waits[0], waits[2])
    assert [stored(journal, n) for n in range(3)] == [ItemState.STARTED] * 3
    await writer.close()


async def test_a_closed_journal_takes_reservations_back(journal: Observed) -> None:
    """After a run has ended, items that it reserved and did not send are as they were before."""
    writer = await writer_on(journal)
    writer.update(2, ItemState.FAILED)
    await writer.flush()
    await writer.close()
    writer = await writer_on(journal)
    waiting = writer.reserve(0)
    assert waiting is not None
    await waiting
    assert stored(journal, 2) is ItemState.RESERVED
    assert writer.state(2) is ItemState.FAILED
    assert writer.state(1) is writer.state(9999) is ItemState.NONE
    writer.update(0, ItemState.DONE)
    await writer.close("too many failures")
    states = [stored(journal, n) for n in range(4)]
    assert states == [ItemState.DONE, ItemState.NONE, ItemState.FAILED, ItemState.NONE]
    run = journal.committed[-1][0].run
    assert run is not None
    assert (run.number, run.last_at, run.ended_at) == (2, NOW, NOW)
    assert run.stop_reason == "too many failures"


async def test_a_journal_that_cannot_be_closed_is_an_error(journal: Observed) -> None:
    """The last flush may fail, too."""

    class Broken(Observed):
        async def close(self) -> None:
            raise FULL

    writer = await writer_on(Broken(InMemory()))
    with pytest.raises(JournalError, match="no space left"):
        await writer.close()


@pytest.mark.parametrize(
    ("identity", "size", "behind"),
    [
        (IDENTITY, None, ItemState.NONE),
        (IDENTITY, 9, ItemState.RESERVED),
        (BY_KEY, None, ItemState.RESERVED),
    ],
    ids=["any size", "nine", "by key"],
)
async def test_a_killed_run_leaves_what_the_next_one_can_take_back(
    identity: JournalIdentity, size: int | None, behind: ItemState
) -> None:
    """An item that cannot be sent, and those behind the end, lose their reservations alone."""
    storage = InMemory()
    killed = await writer_on(storage.journal(), identity)
    killed.update(4, ItemState.DONE)
    killed.keys.add_creation(3, b"object 1")
    await asyncio.gather(killed.start(3), *filter(None, map(killed.reserve, (2, 5, 6))))
    left = Observed(storage.kill())
    await killed.close()

    writer = JournalWriter(left, concurrency=4, size=size, clock=lambda: NOW)
    await writer.open(identity, accept)
    assert writer.keys.lost_creations == ({b"object 1"} if identity is IDENTITY else set())
    for position in (4, 6):
        writer.release(position)
    writer.end_at(5)
    await writer.close()
    assert [stored(left, position) for position in range(2, 7)] == [
        ItemState.RESERVED,
        ItemState.STARTED,
        ItemState.DONE,
        behind,
        ItemState.NONE,
    ]


async def test_a_closed_writer_lets_nobody_wait(writer: JournalWriter, journal: Observed) -> None:
    """After the end no item may be sent, and nothing waits for a commit."""
    await writer.start(0)
    writer.update(0, ItemState.DONE)
    closing = asyncio.create_task(writer.close())
    await loop_turns(3)
    late = [writer.reserve(1), writer.start(7), writer.flush()]
    await closing
    late += [writer.reserve(2), writer.start(3), writer.flush()]
    for waiting in late:
        assert waiting is not None
        with pytest.raises(JournalError, match="the journal is closed"):
            await waiting
    assert stored(journal, 7) is ItemState.NONE


@pytest.mark.parametrize("turns", range(6))
async def test_what_comes_together_with_the_end_ends(journal: Observed, turns: int) -> None:
    """An item that starts while the run is closed is stored or rejected; nothing waits forever."""
    writer = await writer_on(journal)
    closing = asyncio.create_task(writer.close())
    await loop_turns(turns)
    found = await asyncio.gather(writer.start(0), writer.flush(), return_exceptions=True)
    await closing
    assert {type(each) for each in found} <= {type(None), JournalError}
    expected = ItemState.NONE if isinstance(found[0], JournalError) else ItemState.STARTED
    assert stored(journal, 0) is expected


async def test_a_flush_during_the_end_is_part_of_it() -> None:
    """A flush while a commit delays the end is durable with the last commit."""
    journal = Held()
    writer = await writer_on(journal)
    started = writer.start(0)
    await loop_turns(3)
    closing = asyncio.create_task(writer.close())
    await loop_turns(2)
    writer.update(0, ItemState.DONE)
    flushed = writer.flush()
    journal.gate.release()
    journal.gate.release()
    await closing
    await started
    await flushed
    assert stored(journal, 0) is ItemState.DONE


async def test_a_cancelled_end_closes_all_the_same() -> None:
    """Cancelling `close` delays the cancellation until everything is stored."""
    journal = Held()
    writer = await writer_on(journal)
    writer.update(0, ItemState.DONE)
    closing = asyncio.create_task(writer.close())
    await loop_turns(3)
    closing.cancel()
    await loop_turns(3)
    assert not closing.done()
    journal.gate.release()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert stored(journal, 0) is ItemState.DONE
    assert (await writer_on(journal)).state(0) is ItemState.DONE


async def test_a_failed_opening_releases_the_keys() -> None:
    """A journal that cannot be opened raises its error from the writer."""
    storage = InMemory()
    await (await writer_on(storage.journal())).close()
    with pytest.raises(JournalError, match=r"keys: position \(.*\) there, digest here"):
        await writer_on(storage.journal(), BY_KEY)


async def test_items_by_key_get_positions_in_the_order_they_come(journal: Observed) -> None:
    """A key that comes twice in a run is a duplicate; a resumed run finds the position of each."""
    writer = await writer_on(journal, BY_KEY)
    assert [await writer.keys.claim(key_of(n)) for n in (7, 8, 7, 9)] == [0, 1, None, 2]
    for position in (0, 1, 2):
        waiting = writer.reserve(position)
        assert waiting is not None
        await waiting
        assert stored(journal, position) is ItemState.RESERVED
    writer.update(0, ItemState.FAILED)
    writer.update(1, ItemState.DONE)
    await writer.close()
    writer = await writer_on(journal, BY_KEY)
    assert [await writer.keys.claim(key_of(n)) for n in (9, 10, 8, 9, 8, 7)] == [
        2,
        3,
        1,
        None,
        None,
        0,
    ]
    await writer.start(3)
    assert await writer.keys.claim(key_of(11)) == 4
    await writer.start(4)
    assert [changes.first_key for changes, _ in journal.committed[-2:]] == [3, 4]
    assert stored(journal, 0) is ItemState.FAILED
    await writer.close()
    writer = await writer_on(journal, BY_KEY)
    assert [await writer.keys.claim(key_of(n)) for n in (10, 7)] == [3, 0]
    await writer.close()


async def test_an_item_is_found_by_its_key(journal: Observed) -> None:
    """A key that this run has claimed is one of a duplicate, and a search claims nothing."""
    writer = await writer_on(journal, BY_KEY)
    for number, state in enumerate((ItemState.DONE, ItemState.UNKNOWN)):
        assert await writer.keys.claim(key_of(number)) == number
        writer.update(number, state)
    assert await writer.find(key_of(1)) is ItemState.DUPLICATE
    await writer.close()
    writer = await writer_on(journal, BY_KEY)
    for _ in range(2):
        found = [await writer.find(key_of(n)) for n in range(3)]
        assert found == [ItemState.DONE, ItemState.UNKNOWN, ItemState.NONE]
    assert [await writer.keys.claim(key_of(n)) for n in (1, 2)] == [1, 2]
    found = [await writer.find(key_of(n)) for n in range(3)]
    assert found == [ItemState.DONE, ItemState.DUPLICATE, ItemState.DUPLICATE]
    await writer.close()


async def test_keys_of_a_failed_commit_are_stored_later(journal: Observed) -> None:
    """A commit that failed loses no key and no position."""
    writer = await writer_on(journal, BY_KEY)
    for number in (0, 1):
        await writer.keys.claim(key_of(number))
    journal.failures = [FULL]
    flushed = writer.flush()
    await loop_turns(1)
    await writer.keys.claim(key_of(2))
    with pytest.raises(JournalError, match="no space left"):
        await flushed
    with pytest.raises(JournalError, match="no space left"):
        await writer.close()
    writer = await writer_on(journal, BY_KEY)
    assert [await writer.keys.claim(key_of(n)) for n in (2, 0, 1)] == [2, 0, 1]
    await writer.close()


async def test_reasons_are_counted_over_the_run(journal: Observed) -> None:
    """Each reason counts its items, and requests and throttled responses are added up."""
    writer = await writer_on(journal)
    for position in range(4):
        reason = ("ServerError", 500) if position % 2 else ("TimeoutError", 0)
        writer.update(position, ItemState.FAILED, requests=3, throttled=1, reason=reason)
    await writer.flush()
    ((changes, _),) = journal.committed
    assert sorted(changes.reasons, key=lambda each: each.error) == [
        Reason(run=1, state="failed", error="ServerError", http_status=500, items=2),
        Reason(run=1, state="failed", error="TimeoutError", http_status=0, items=2),
    ]
    (minute,) = changes.minutes
    assert (minute.failed, minute.requests, minute.throttled) == (4, 12, 4)
    await writer.close()
