"""Every storage of a journal keeps the promises of the protocol `Journal`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from adapty_async._journal import Changes, ItemState, Minute, Reason, Resumed, Run
from adapty_async._journal.model import Spans
from adapty_async.errors import JournalError
from tests.journal.support import (
    BY_KEY,
    IDENTITY,
    NOW,
    Storage,
    accept,
    ignore,
    key_of,
    reopened,
    span,
    states_of,
)


async def test_a_new_journal_has_its_first_run_and_nothing_else(storage: Storage) -> None:
    """A journal that did not exist begins with run 1, no states and no rate."""
    journal = storage.journal()
    resumed = await reopened(journal)
    assert resumed.is_new
    assert resumed.run == Run(number=1, started_at=NOW, last_at=NOW)
    assert not resumed.spans
    assert resumed.rate is None
    await journal.close()


@pytest.mark.parametrize("durable", [False, True], ids=["ordinary", "durable"])
async def test_a_commit_survives_the_death_of_the_process(
    storage: Storage, *, durable: bool
) -> None:
    """Committed states are there after a kill; the killed run has no end."""
    journal = storage.journal()
    await reopened(journal)
    assert await journal.commit(Changes(spans={3: span("d.f")}), durable=durable) is None
    after = storage.kill()
    survivor = after.journal()
    resumed = await reopened(survivor)
    assert states_of(resumed) == {1536: ItemState.DONE, 1538: ItemState.FAILED}
    assert resumed.run.number == 2
    assert not resumed.is_new
    await survivor.close()
    await journal.close()


async def test_commits_are_stored_in_their_order(storage: Storage) -> None:
    """Of two commits that are not awaited one by one, the later one counts."""
    journal = storage.journal()
    await reopened(journal)
    for text in ("r", "d"):
        await journal.commit(Changes(spans={0: span(text)}), durable=False)
    await journal.close()
    assert states_of(await _resumed(storage)) == {0: ItemState.DONE}


async def test_a_row_replaces_the_one_with_its_key(storage: Storage) -> None:
    """States of a span, counts of a minute and of a reason, and a run are replaced, not added."""
    journal = storage.journal()
    run = (await reopened(journal)).run
    minute = Minute(run=1, minute=7, first_at=NOW, last_at=NOW)
    reason = Reason(run=1, state="failed", error="X", http_status=500)
    for count, text in ((1, "d"), (2, "dd")):
        run.rate = 10.0 * count
        minute.done = reason.items = count
        changes = Changes(run=run, spans={0: span(text)}, minutes=[minute], reasons=[reason])
        await journal.commit(changes, durable=False)
    assert storage.content() == ([run], {0: span("dd")}, b"", [minute], [reason])
    await journal.close()


async def test_the_values_given_to_a_commit_may_change_afterwards(storage: Storage) -> None:
    """A commit stores the values as they were when it was awaited."""
    journal = storage.journal()
    run = (await reopened(journal)).run
    run.rate = 5.0
    await journal.commit(Changes(run=run), durable=False)
    run.rate = 6.0
    await journal.close()
    assert (await _resumed(storage)).rate == 5.0


async def test_the_states_of_a_resumed_journal_belong_to_the_run(storage: Storage) -> None:
    """Changing the states that were returned changes nothing that is stored."""
    journal = storage.journal()
    await reopened(journal)
    await journal.commit(Changes(spans={0: span("f")}), durable=False)
    await journal.close()
    resumed = await reopened(journal := storage.journal())
    resumed.spans[0] = span("d")
    await journal.close()
    assert states_of(await _resumed(storage)) == {0: ItemState.FAILED}


async def test_the_rate_is_that_of_the_last_run_that_has_one(storage: Storage) -> None:
    """A run without an adaptive rate does not hide an earlier one."""
    for rate in (3.0, 8.0, None):
        journal = storage.journal()
        run = (await reopened(journal)).run
        if rate is not None:
            run.rate = rate
            await journal.commit(Changes(run=run), durable=False)
        await journal.close()
    assert (await _resumed(storage)).rate == 8.0


async def test_keys_are_loaded_in_the_order_of_their_positions(storage: Storage) -> None:
    """Entry keys come back in one call, in their order, with the states of their items."""
    journal = storage.journal()
    await reopened(journal, BY_KEY)
    keys = [key_of(number * 7919 % 6000) for number in range(6000)]
    for first, end in ((0, 1), (1, 5000), (5000, 6000)):
        changes = Changes(first_key=first, new_keys=b"".join(keys[first:end]))
        await journal.commit(changes, durable=False)
    await journal.commit(Changes(spans={1: span("du")}), durable=False)
    await journal.close()
    calls: list[tuple[bytes, dict[int, bytes]]] = []

    def load(some: Iterable[bytes], spans: Spans) -> None:
        calls.append((b"".join(some), {number: bytes(spans[number]) for number in spans}))

    journal = storage.journal()
    await journal.open(BY_KEY, accept, load)
    assert calls == [(b"".join(keys), {1: span("du")})]
    await journal.close()


async def test_nothing_else_may_open_a_journal_that_is_open(storage: Storage) -> None:
    """A second run on one journal is rejected, and the first one is not disturbed."""
    journal = storage.journal()
    await reopened(journal)
    with pytest.raises(JournalError, match="in use"):
        await reopened(storage.journal())
    await journal.commit(Changes(spans={0: span("d")}), durable=True)
    await journal.close()
    assert states_of(await _resumed(storage)) == {0: ItemState.DONE}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"operation": "v1.profiles.create"}, "operation: v1.*delete.* there, v1.*create here"),
        ({"origin": "https://other"}, "origin: https://api.* there, https://other here"),
        ({"keys": "digest"}, r"keys: position \(of a file, or with job_id\) there, digest here$"),
        ({"account": "other"}, "account: another key$"),
    ],
    ids=["operation", "origin", "keys", "account"],
)
async def test_another_run_is_rejected_with_the_difference(
    storage: Storage, changed: dict[str, str], message: str
) -> None:
    """A journal belongs to its operation, server, account and way to identify items."""
    await _closed_journal(storage)
    other = msgspec.structs.replace(IDENTITY, **changed)
    with pytest.raises(JournalError, match=f"belongs to another run; {message}") as caught:
        await reopened(storage.journal(), other)
    assert IDENTITY.account not in str(caught.value)
    await _is_as_before(storage)


@pytest.mark.parametrize("state", "dalurs")
async def test_the_journal_of_a_rejected_key_keeps_what_may_be_done(
    storage: Storage, state: str
) -> None:
    """Another key is rejected if one item was done, or may have been."""
    journal = storage.journal()
    await reopened(journal)
    rejected = Reason(run=1, state="failed", error="AuthenticationError", http_status=401, items=1)
    changes = Changes(spans={0: span(f"f{state}")}, reasons=[rejected])
    await journal.commit(changes, durable=True)
    await journal.close()
    with pytest.raises(JournalError, match="account: another key"):
        await reopened(storage.journal(), msgspec.structs.replace(IDENTITY, account="other"))


async def test_another_input_is_rejected_with_the_difference(storage: Storage) -> None:
    """The caller compares the inputs, and is given the stored description for that."""
    await _closed_journal(storage)

    def check(found: dict[str, Any]) -> str | None:
        return f"{found['job_id']} is not other"

    with pytest.raises(JournalError, match=r"another run; input: all is not other$"):
        await storage.journal().open(IDENTITY, check, ignore)
    await _is_as_before(storage)


async def test_all_differences_are_listed(storage: Storage) -> None:
    """One message lists everything that differs."""
    await _closed_journal(storage)
    other = msgspec.structs.replace(IDENTITY, operation="x", account="y", origin="z")
    with pytest.raises(JournalError, match=r"operation: .*; origin: .*; account: another key"):
        await reopened(storage.journal(), other)
    await _is_as_before(storage)


@pytest.mark.parametrize("storage", ["memory", "file"], indirect=True)  # a job's stays the same
async def test_an_accepted_input_replaces_the_description(storage: Storage) -> None:
    """After a run with a longer input, the journal describes the longer input."""
    await _closed_journal(storage)
    longer = msgspec.structs.replace(IDENTITY, input={"job_id": "all", "rows": 12})
    seen: list[dict[str, Any]] = []
    for identity in (longer, IDENTITY):
        journal = storage.journal()
        await journal.open(identity, seen.append, ignore)
        await journal.close()
    assert seen == [IDENTITY.input, longer.input]


async def test_a_rejected_run_leaves_no_trace(storage: Storage) -> None:
    """A run that was rejected is not counted among the runs."""
    await _closed_journal(storage)
    with pytest.raises(JournalError, match="another key"):
        await reopened(storage.journal(), msgspec.structs.replace(IDENTITY, account="other"))
    assert (await _resumed(storage)).run.number == 2


async def test_a_failure_to_read_keys_leaves_the_journal_usable(storage: Storage) -> None:
    """A run whose keys find no room ends with that error, and another one can start."""

    def fail(keys: Iterable[bytes], _: Spans) -> None:
        raise JournalError("no room for keys")

    await _closed_journal(storage)
    with pytest.raises(JournalError, match="no room for keys"):
        await storage.journal().open(IDENTITY, accept, fail)
    await _is_as_before(storage)


async def test_a_closed_journal_rejects_commits(storage: Storage) -> None:
    """Nothing is stored after the end."""
    journal = storage.journal()
    await reopened(journal)
    await journal.close()
    with pytest.raises(JournalError, match="closed"):
        await journal.commit(Changes(spans={0: span("d")}), durable=False)


async def test_a_closed_journal_can_be_opened_at_once(storage: Storage) -> None:
    """When `close` has returned, or `open` has failed, nothing holds the journal any more."""
    other = msgspec.structs.replace(IDENTITY, account="other")
    for number in range(1, 31):
        journal = storage.journal()
        assert (await reopened(journal)).run.number == number
        await journal.close()
        with pytest.raises(JournalError, match="another key"):
            await reopened(storage.journal(), other)


async def test_times_and_rates_may_be_whole_numbers(storage: Storage) -> None:
    """An integer for a time or a rate is stored as that number, and is no damage when read."""
    journal = storage.journal()
    await reopened(journal)
    run = Run(number=1, started_at=1, last_at=2, ended_at=3, rate=100)
    await journal.commit(
        Changes(run=run, minutes=[Minute(run=1, minute=0, first_at=1, last_at=2)]), durable=False
    )
    await journal.close()
    assert (await _resumed(storage)).rate == 100
    assert storage.content().runs[0] == run


@pytest.mark.parametrize(
    "changes",
    [
        Changes(spans={0: span("d")}, minutes=[Minute(run=1, minute=1, first_at=1, last_at=2)]),
        Changes(
            spans={0: span("d")},
            reasons=[Reason(run=1, state="failed", error="X", http_status=0, items=1)],
        ),
        Changes(spans={0: span("d")}, new_keys=key_of(1)),
        Changes(spans={0: span("d")}, run=Run(number=1, started_at=1, last_at=2, rate=3.0)),
        Changes(spans={0: span("d"), 9: span("a")}),
        Changes(),
    ],
    ids=["minute", "reason", "key", "run", "spans", "nothing"],
)
async def test_every_part_of_a_commit_is_stored(storage: Storage, changes: Changes) -> None:
    """Whatever a commit has in addition to one span is stored with it."""
    journal = storage.journal()
    await reopened(journal)
    await journal.commit(changes, durable=False)
    assert storage.content() == (
        [changes.run or Run(number=1, started_at=NOW, last_at=NOW)],
        changes.spans,
        changes.new_keys,
        changes.minutes,
        changes.reasons,
    )
    await journal.close()


async def _resumed(storage: Storage) -> Resumed:
    journal = storage.journal()
    resumed = await reopened(journal)
    await journal.close()
    return resumed


async def _closed_journal(storage: Storage) -> None:
    journal = storage.journal()
    await reopened(journal)
    await journal.commit(Changes(spans={0: span("da")}), durable=False)
    await journal.close()


async def _is_as_before(storage: Storage) -> None:
    assert states_of(await _resumed(storage)) == {0: ItemState.DONE, 1: ItemState.ABSENT}
