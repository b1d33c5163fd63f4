"""The summary of a journal, for people and programs."""

from __future__ import annotations

from pathlib import Path

import msgspec

from adapty_async._journal import Changes, ItemState, MemoryJournal, Reason, summarise
from tests.journal.support import IDENTITY, NOW, InFile, reopened, span, writer_on


async def test_a_journal_is_summarised_while_a_run_writes_to_it(tmp_path: Path) -> None:
    """Counts, runs, times and reasons are of the last commit; `left` counts unsettled items."""
    identity = msgspec.structs.replace(IDENTITY, input={"rows": 10})
    storage = InFile(tmp_path)
    writer = await writer_on(storage.journal(), identity)
    empty = summarise(storage.path)
    assert (empty.items, empty.left, empty.first_at, empty.last_at) == (10, 10, None, None)
    ends = (ItemState.DONE, ItemState.ABSENT, ItemState.DUPLICATE, ItemState.UNKNOWN)
    for position, state in enumerate((*ends, ItemState.FAILED, ItemState.LOST)):
        writer.update(position, state, requests=1, reason=("X", 0))
    await writer.flush()
    found = summarise(storage.path)
    assert found.identity == identity
    assert {state for state, count in found.counts.items() if count} == {
        *ends,
        ItemState.FAILED,
        ItemState.LOST,
    }
    assert (found.left, found.first_at, found.last_at) == (6, NOW, NOW)
    assert [run.number for run in found.runs] == [1]
    assert sum(reason.items for reason in found.reasons) == 6
    await writer.close()
    assert summarise(storage.path).runs[0].ended_at == NOW


async def test_an_input_of_unknown_size_has_no_number_left(tmp_path: Path) -> None:
    """Without the number of rows nothing is said about what is left."""
    storage = InFile(tmp_path)
    await (await writer_on(storage.journal())).close()
    found = summarise(storage.path)
    assert (found.items, found.left) == (None, None)


async def test_a_journal_of_a_rejected_key_may_change_its_account(tmp_path: Path) -> None:
    """If nothing was done, the journal belongs to the next key from then on."""
    storage, memory = InFile(tmp_path), MemoryJournal()
    other = msgspec.structs.replace(IDENTITY, account="other")
    rejected = Reason(run=1, state="failed", error="AuthenticationError", http_status=401, items=1)
    for first, second in ((storage.journal(), storage.journal()), (memory, memory)):
        await reopened(first)
        await first.commit(Changes(spans={0: span("f.n=")}, reasons=[rejected]), durable=True)
        await first.close()
        await reopened(second, other)
        await second.close()

    assert summarise(storage.path).identity == memory.identity == other
