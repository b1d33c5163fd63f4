"""Bulk runs with a journal: what is on disk when, what a next run does, and what is rejected."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import json
import re
import stat
import subprocess
import sys
import threading
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from rich.pretty import pretty_repr

from adapty_async import (
    AdaptyClient,
    AdaptyMailClient,
    BulkReport,
    BulkRun,
    ConfigError,
    ConnectionLostError,
    JournalError,
    MailProfile,
    Operation,
    Outcome,
    OutcomeStatus,
    RetryPolicy,
    v2,
)
from adapty_async._api.call import Request, Response, RetrySafety
from adapty_async._bulk import run_journal as _run_journal
from adapty_async._bulk.run_journal import RunIdentity
from adapty_async._journal import JournalWriter
from adapty_async.bulk import (
    InputIdentity,
    ItemState,
    JournalIdentity,
    StopReason,
    copy_journal,
    summarise,
)
from adapty_async.endpoints import Endpoint
from adapty_async.mail import TransactionEvent
from adapty_async.testing import FakeTransport, MemoryJournal
from adapty_async.v1 import GET_PROFILE, create_profile, delete_profile
from tests._journals import GatedJournal, keys, states
from tests._support import begin_at
from tests.bulk.test_bulk import Api, Reading, assert_adds_up, ids, settle, until_cancelled
from tests.raw_server import own_tasks

KEY = "secret_live_TEST.key"
DELETED = Response(204, {}, b"")
MISSING = Response(404, {}, b'{"errors":[],"error_code":"profile_does_not_exist"}')
REFUSED = Response(400, {}, b'{"errors":[],"error_code":"bad_request"}')
BROKEN = Response(500, {}, b"")
CREATED = Response(201, {}, b'{"data":{}}')
ONCE = RetryPolicy(attempts=1)
HEADER = "adapty-customer-user-id"


@pytest.fixture(autouse=True)
async def nothing_is_left(anyio_backend: str) -> AsyncIterator[None]:
    """Check that a test ends with the tasks it began with, and with no thread of a journal."""
    before = own_tasks()
    yield
    assert own_tasks() == before
    for thread in threading.enumerate():
        if thread.name.startswith("adapty-journal"):
            thread.join(5)  # it was terminated
            assert not thread.is_alive()


@pytest.fixture
def ids_file(tmp_path: Path) -> Path:
    """Return a file of ids."""
    path = tmp_path / "ids.txt"
    path.write_bytes(b"u0\nu1\n")
    return path


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Return where a journal may be."""
    return tmp_path / "journal"


def _is_there(path: Path) -> bool:
    return path.exists()


def _mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes()


def erase(
    transport: Callable[[Request], Any], items: Any, journal: Any, **options: Any
) -> BulkRun[str, None]:
    """Return a run of deletes without retries."""
    adapty = AdaptyClient(options.pop("key", KEY), transport=transport, retry=ONCE)
    return adapty.v1.profiles.bulk_delete(
        items, by="customer_user_id", journal=journal, **_with_job(journal) | options
    )


def create(
    transport: Callable[[Request], Any], items: Any, journal: Any, **options: Any
) -> BulkRun[str, Any]:
    """Return a run of creates, which must not be retried blindly."""
    adapty = AdaptyClient(KEY, transport=transport, retry=ONCE)
    return adapty.bulk(
        items,
        build=lambda item: create_profile(customer_user_id=item),
        journal=journal,
        **_with_job(journal) | options,
    )


def _with_job(journal: Any) -> dict[str, str]:
    return {} if journal is None else {"job_id": "job"}


async def crash(start: Callable[..., BulkRun[Any, Any]], items: list[str], journal: Path) -> None:
    """Create a journal as a run leaves it that is killed with its first requests in flight."""
    aside = journal.with_suffix(".crashed")

    async def transport(_request: Request) -> Response:
        await asyncio.sleep(0)
        if not _is_there(aside):
            copy_journal(journal, aside)
        return DELETED

    await start(transport, items, journal, concurrency=len(items))
    aside.replace(journal)


def statuses(run: BulkReport[Any, Any]) -> dict[str, int]:
    """Return the counts that are not 0."""
    return {status.value: count for status, count in run.counts.items() if count}


# On disk before


@pytest.mark.parametrize("concurrency", [1, 8], ids=["one", "eight"])
@pytest.mark.parametrize("ordered", [False, True], ids=["as-they-end", "ordered"])
async def test_everything_is_on_disk_before_it_is_delivered(
    concurrency: int,
    ordered: bool,  # noqa: FBT001  a case
    journal: Path,
) -> None:
    """The entry is there when a request is sent, and the outcome when it is handed over."""
    answers = {"u1": MISSING, "u2": REFUSED, "u3": BROKEN}
    ends = {
        204: ItemState.DONE,
        404: ItemState.ABSENT,
        400: ItemState.FAILED,
        500: ItemState.LOST,
    }

    async def transport(request: Request) -> Response:
        identity = request.headers[HEADER]
        assert states(journal)[int(identity[1:])] is ItemState.RESERVED
        return answers.get(identity, DELETED)

    def check(outcome: Outcome[str, None]) -> None:
        state = ends[answers.get(outcome.item, DELETED).status]
        assert states(journal)[outcome.index] is state
        assert all(_mode_of(each) == 0o600 for each in journal.parent.iterdir())

    report = await erase(
        transport, ids(20), journal, concurrency=concurrency, ordered=ordered, on_outcome=check
    )

    assert statuses(report) == {"done": 17, "absent": 1, "failed": 2}
    assert _mode_of(journal) == 0o600


@pytest.mark.parametrize("ordered", [False, True], ids=["as-they-end", "ordered"])
async def test_a_streamed_outcome_is_on_disk(ordered: bool, journal: Path) -> None:  # noqa: FBT001
    """A stream has only stored outcomes; a run that is not streamed to the end resumes."""
    seen: list[int] = []
    async with erase(Api(), ids(40), journal, ordered=ordered, concurrency=4) as run:
        async for outcome in run:
            assert states(journal)[outcome.index] is ItemState.DONE
            seen.append(outcome.index)
            if len(seen) == 20:
                break
    assert not ordered or seen == list(range(20))
    api = Api()
    async with erase(api, ids(40), journal, ordered=ordered, concurrency=4) as again:
        outcomes = [outcome async for outcome in again]

    assert not ordered or [outcome.index for outcome in outcomes] == list(range(40))
    assert again.report.skipped == run.report.done >= 20
    assert again.report.done == len(api.sent) == 40 - again.report.skipped


# The next run


@pytest.mark.parametrize("job_id", ["job", None], ids=["position", "digest"])
async def test_done_items_are_skipped_and_the_rest_is_sent_again(
    job_id: str | None, journal: Path
) -> None:
    """Done and absent are never sent again; failed and not sent are."""
    answers = {"u1": MISSING, "u2": REFUSED, "u3": BROKEN}
    first = await erase(Api(answers), ids(10), journal, job_id=job_id)
    api = Api()
    second = await erase(api, ids(10), journal, job_id=job_id)
    third = await erase(api, ids(10), journal, job_id=job_id)

    assert statuses(first) == {"done": 7, "absent": 1, "failed": 2}
    assert statuses(second) == {"skipped": 8, "done": 2}
    assert statuses(third) == {"skipped": 10}
    assert sorted(api.sent) == ["u2", "u3"]
    assert third.ok


@pytest.mark.parametrize("job_id", ["job", None], ids=["position", "digest"])
async def test_a_journal_in_memory_resumes_as_a_file_does(job_id: str | None) -> None:
    """Tests of programs need no file."""
    journal = MemoryJournal()
    first = await erase(Api({"u2": REFUSED}), ids(5), journal, job_id=job_id)
    second = await erase(Api(), ids(6), journal, job_id=job_id)

    assert statuses(first) == {"done": 4, "failed": 1}
    assert statuses(second) == {"done": 2, "skipped": 4}


@pytest.mark.parametrize("dedupe", [False, True], ids=["plain", "dedupe"])
@pytest.mark.parametrize("job_id", ["job", None], ids=["position", "digest"])
async def test_a_skipped_outcome_has_its_item(
    job_id: str | None,
    dedupe: bool,  # noqa: FBT001  a case
    journal: Path,
) -> None:
    """Like every other outcome, and its state stays."""
    await erase(Api(), ids(5), journal, job_id=job_id)
    before = states(journal)
    told: list[tuple[int, str, OutcomeStatus]] = []
    await erase(
        Api(),
        ids(5),
        journal,
        job_id=job_id,
        dedupe=dedupe,
        on_outcome=lambda outcome: told.append((outcome.index, outcome.item, outcome.status)),
    )

    assert sorted(told) == [(place, f"u{place}", OutcomeStatus.SKIPPED) for place in range(5)]
    assert states(journal) == before == dict.fromkeys(range(5), ItemState.DONE)


async def test_a_duplicate_of_a_done_item_stays_as_it_was_recorded(journal: Path) -> None:
    """Whether it counts as a duplicate is decided by the run that sends it."""
    await erase(Api(), ["u0", "u0"], journal)
    await erase(Api(), ["u0", "u0"], journal, dedupe=True)

    assert states(journal) == {0: ItemState.DONE, 1: ItemState.DONE}


async def test_the_rest_of_a_stopped_run_is_what_the_journal_says(journal: Path) -> None:
    """Items done by an earlier run are skipped, not "not sent", if a run stops before them."""
    await erase(Api({"u0": REFUSED}), ids(20), journal, concurrency=1)
    second = await erase(Api({"u0": REFUSED}), ids(25), journal, concurrency=1, fail_fast=True)

    assert statuses(second) == {"failed": 1, "skipped": 19, "not_sent": 5}


async def test_equal_requests_are_one_item_where_requests_tell_items_apart(journal: Path) -> None:
    """Without a job id the same request is sent once, and what is done is never sent again."""
    api = Api()
    first = await erase(api, ["a", "b", "a"], journal, job_id=None)
    second = await erase(api, ["a", "a", "b"], journal, job_id=None)

    assert statuses(first) == {"done": 2, "skipped": 1}
    assert statuses(second) == {"skipped": 3}
    assert sorted(api.sent) == ["a", "b"]


async def test_what_was_not_sent_goes_in_the_next_run(journal: Path) -> None:
    """A run that stopped at its first failure is finished by the next."""
    first = await erase(Api({"u4": REFUSED}), ids(30), journal, fail_fast=True, concurrency=3)
    second = await erase(Api(), ids(30), journal)

    assert_adds_up(first, 30)
    assert statuses(second) == {"skipped": first.done, "done": 30 - first.done}


@pytest.mark.parametrize(
    ("answer", "status"),
    [(MISSING, "absent"), (DELETED, "done"), (REFUSED, "failed")],
    ids=["404", "204", "400"],
)
async def test_a_delete_that_was_in_flight_in_a_crash_is_sent_again(
    answer: Response, status: str, journal: Path
) -> None:
    """It was reserved and may not have been sent, so a 404 then only means that it is absent."""
    await crash(erase, ["u0", "u1"], journal)
    assert states(journal) == dict.fromkeys(range(2), ItemState.RESERVED)
    api = Api({"*": answer})
    report = await erase(api, ["u0", "u1", "u2"], journal)

    assert sorted(api.sent) == ["u0", "u1", "u2"]
    assert statuses(report) == {status: 3}


async def test_an_invalid_item_keeps_no_reservation_of_a_run_that_was_killed(journal: Path) -> None:
    """It is never sent, so a status must not show it as one that may have been."""
    await crash(erase, ["u0", " u1"], journal)
    assert states(journal) == dict.fromkeys(range(2), ItemState.RESERVED)
    report = await erase(Api({"*": DELETED}), ["u0", " u1"], journal)

    assert statuses(report) == {"done": 1, "failed": 1}
    assert states(journal) == {0: ItemState.DONE}


async def test_an_input_without_a_length_keeps_no_reservation_behind_its_end(journal: Path) -> None:
    """A run that was killed reserved more than the input has; a status must not show it."""

    def erase_each(transport: Any, items: Any, *args: Any, **options: Any) -> BulkRun[str, None]:
        return erase(transport, iter(items), *args, **options)

    await crash(erase_each, ["u0", "u1"], journal)
    assert states(journal) == dict.fromkeys(range(4), ItemState.RESERVED)
    report = await erase_each(Api({"*": DELETED}), ["u0", "u1"], journal)

    assert statuses(report) == {"done": 2}
    assert states(journal) == dict.fromkeys(range(2), ItemState.DONE)


async def test_a_run_that_stops_early_keeps_what_may_have_been_sent(journal: Path) -> None:
    """Items behind the one at which it stops are not behind the end of its input."""

    def start(transport: Any, items: list[str], *rest: Any, **options: Any) -> BulkRun[str, None]:
        return erase(transport, iter(items), *rest, **options)

    await crash(start, ids(3), journal)
    report = await start(Api({"*": REFUSED}), ids(3), journal, concurrency=1, fail_fast=True)
    assert report.stop_reason is StopReason.FAIL_FAST
    assert [states(journal)[position] for position in (1, 2)] == [ItemState.RESERVED] * 2


async def test_a_list_that_became_shorter_keeps_what_may_have_been_sent(journal: Path) -> None:
    """A run reserves nothing behind the end of a list, so those items were in it."""
    await crash(erase, ["u0", "u1"], journal)
    report = await erase(Api({"*": DELETED}), ["u0"], journal)

    assert statuses(report) == {"done": 1}
    assert states(journal) == {0: ItemState.DONE, 1: ItemState.RESERVED}


async def test_an_invalid_item_of_a_resumed_run_by_digest_fails(journal: Path) -> None:
    """It has no request, and so no position with a reservation."""
    for expected in ({"done": 1, "failed": 1}, {"skipped": 1, "failed": 1}):
        report = await erase(Api({"*": DELETED}), ["u0", " u1"], journal, job_id=None)
        assert statuses(report) == expected

    assert states(journal) == {0: ItemState.DONE}


async def test_an_invalid_item_by_digest_takes_no_reservation_of_another(journal: Path) -> None:
    """Its position in the input is no position in the journal, where a killed run sent an item."""

    def start(*arguments: Any, **options: Any) -> BulkRun[str, Any]:
        return erase(*arguments, **options, job_id=None)

    await crash(start, ["u0"], journal)
    assert states(journal) == {0: ItemState.RESERVED}
    assert statuses(await start(Api(), [" u1"], journal)) == {"failed": 1}
    assert states(journal) == {0: ItemState.RESERVED}


async def test_a_response_that_was_lost_makes_the_next_404_a_success(journal: Path) -> None:
    """Also when it was lost without a crash; a refusal in between does not change that."""
    lost = await erase(Api({"u0": BROKEN}), ["u0"], journal)
    refused = await erase(Api({"u0": REFUSED}), ["u0"], journal)
    assert [lost.failed, refused.failed] == [1, 1]
    assert states(journal) == {0: ItemState.LOST}
    report = await erase(Api({"u0": MISSING}), ["u0"], journal)

    assert statuses(report) == {"done": 1}


@pytest.mark.parametrize("job_id", ["job", None], ids=["position", "digest"])
async def test_a_create_that_was_in_flight_in_a_crash_is_never_sent_again(
    job_id: str | None, journal: Path
) -> None:
    """It is unknown, with the reason, in every run from then on; what had not begun is sent."""

    def start(*arguments: Any, **options: Any) -> BulkRun[str, Any]:
        return create(*arguments, **options, job_id=job_id)

    await crash(start, ["u0", "u1"], journal)
    assert states(journal) == dict.fromkeys(range(2), ItemState.STARTED)
    api = Api({"*": CREATED})
    for count in (1, 0, 0):
        before = len(api.sent)
        report = await start(api, ["u0", "u1", "u2"], journal)
        assert len(api.sent) - before == count
        assert [(each.index, each.item) for each in report.failures] == [(0, "u0"), (1, "u1")]
        assert report.unknown == 2
        assert [states(journal)[position] for position in range(2)] == [ItemState.UNKNOWN] * 2
        for failure in report.failures:
            assert isinstance(failure.error, ConnectionLostError)
            assert str(failure.error) == (
                "an earlier run sent this request and lost the response; not retried, since the"
                " server may have processed it, operation v1.profiles.create"
            )

    assert api.sent == ["u2"]


async def test_a_create_whose_response_was_lost_is_never_sent_again(journal: Path) -> None:
    """Unknown stays unknown, and one that was not processed is sent again."""
    first = await create(Api({"u0": BROKEN, "u1": REFUSED, "*": CREATED}), ids(3), journal)
    api = Api({"*": CREATED})
    second = await create(api, ids(3), journal)

    assert statuses(first) == {"done": 1, "failed": 1, "unknown": 1}
    assert statuses(second) == {"done": 1, "skipped": 1, "unknown": 1}
    assert api.sent == ["u1"]


async def test_a_request_after_a_creation_is_one_that_may_be_retried(journal: Path) -> None:
    """Once its object is created, a killed run sends the item again from the start."""
    call = Operation(
        Endpoint(
            name="x.add",
            method="POST",
            path="/x/",
            decode=bytes,
            retry_safety=RetrySafety.ALWAYS,
        ),
        if_missing=create_profile(customer_user_id="u1"),
        is_done_by_creation=False,
    )
    replies, found = [MISSING, CREATED, CREATED], []

    async def transport(_request: Request) -> Response:
        found.append(states(journal)[0])
        return replies.pop(0)

    adapty = AdaptyClient(KEY, transport=transport)
    assert statuses(await adapty.bulk([call], journal=journal, job_id="j")) == {"done": 1}
    assert found == [ItemState.RESERVED, ItemState.STARTED, ItemState.RESERVED]


async def test_an_object_that_is_missing_was_not_changed_by_a_lost_attempt(journal: Path) -> None:
    """A write that ends with "not found" has certainly failed, whatever came before."""
    replies: list[Response | None] = [None, MISSING]

    async def transport(_request: Request) -> Response:
        reply = replies.pop(0)
        if reply is None:
            raise ConnectionLostError("the server is gone")
        return reply

    call = v2.update_profile(v2.ProfileAttributes(), customer_user_id="u1")
    retry = RetryPolicy(attempts=2, wait_initial=0.001)
    adapty = AdaptyClient(KEY, transport=transport, retry=retry)
    assert statuses(await adapty.bulk([call], journal=journal, job_id="j")) == {"failed": 1}
    assert states(journal) == {0: ItemState.FAILED}


async def test_a_run_that_has_ended_holds_no_journal() -> None:
    """Nothing records a rate, or keeps the storage in memory, after that."""
    storage = MemoryJournal()
    left = weakref.ref(storage)
    await erase(Api({"*": DELETED}), ids(3), storage)
    del storage
    gc.collect()
    assert left() is None


async def test_a_lost_request_that_creates_what_is_missing_is_never_sent_again(
    journal: Path,
) -> None:
    """An operation that must not be retried stays unknown, though it looks for its object first."""
    call = Operation(
        Endpoint(name="x.add", method="POST", path="/x/", decode=bytes),
        if_missing=create_profile(customer_user_id="u1"),
        is_done_by_creation=False,
    )
    sent: list[Request] = []

    async def transport(request: Request) -> Response:
        sent.append(request)
        raise ConnectionLostError("the server is gone")

    for _ in range(2):
        adapty = AdaptyClient(KEY, transport=transport)
        report = await adapty.bulk([call], journal=journal, job_id="j")
        assert statuses(report) == {"unknown": 1}
        assert len(sent) == 1


@pytest.fixture
def gated(journal: Path) -> GatedJournal:
    """Return a journal whose commits wait for an event."""
    return GatedJournal(journal)


async def test_a_disk_that_hangs_holds_up_no_call(gated: GatedJournal) -> None:
    """While a commit hangs, no more items are sent than were reserved; single calls are made."""
    sent: list[str] = []

    async def transport(request: Request) -> Response:
        sent.append(request.headers[HEADER])
        if len(sent) == 20:
            gated.gate.clear()
        return DELETED

    adapty = AdaptyClient(KEY, transport=transport, retry=ONCE)
    run = asyncio.ensure_future(
        adapty.v1.profiles.bulk_delete(
            ids(200), by="customer_user_id", journal=gated, job_id="job", concurrency=8
        )._complete()
    )
    await gated.waiting.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    assert 20 <= len(sent) <= 20 + 2 * 8
    await adapty.v1.profiles.delete(customer_user_id="single")
    assert sent[-1] == "single"
    gated.gate.set()

    assert statuses(await run) == {"done": 200}


async def test_an_item_that_waits_for_a_disk_is_no_request_yet(gated: GatedJournal) -> None:
    """A metric of the requests never decreases, also if the item is not sent after all."""
    adapty = AdaptyClient(KEY, transport=FakeTransport([]))
    counts = [0]
    gated.gate.clear()
    run = adapty.v1.profiles.bulk_delete(["a"], by="customer_user_id", journal=gated)
    ending = asyncio.create_task(run._complete())
    await gated.waiting.wait()
    counts.append(adapty.statistics().buckets["v1"].requests)
    run.stop()
    gated.gate.set()
    report = await ending
    counts.append(adapty.statistics().buckets["v1"].requests)

    assert (report.not_sent, counts) == (1, [0, 0, 0])


@pytest.mark.parametrize("build", [delete_profile, create_profile], ids=["delete", "create"])
async def test_a_disk_that_hangs_for_long_fails_no_item_and_ends_no_run(
    build: Callable[..., Operation[Any]], gated: GatedJournal
) -> None:
    """The wait is neither an outage nor part of an item's deadline, since nothing is sent."""
    sent = 0

    async def transport(_request: Request) -> Response:
        nonlocal sent
        sent += 1
        if sent == 20:
            gated.gate.clear()
            asyncio.get_running_loop().call_later(1.3, gated.gate.set)
        return CREATED

    adapty = AdaptyClient(KEY, transport=transport, retry=RetryPolicy(deadline=1.0))
    report = await adapty.bulk(
        ids(600),
        build=lambda item: build(customer_user_id=item),
        journal=gated,
        job_id="job",
        max_outage=1.0,
    )

    assert statuses(report) == {"done": 600}


async def test_a_disk_that_hangs_after_a_creation_fails_no_item(gated: GatedJournal) -> None:
    """The wait between a creation and the request that needs it is not part of the deadline."""
    replies = [MISSING, CREATED, CREATED]

    async def transport(_request: Request) -> Response:
        if len(replies) == 2:
            gated.gate.clear()
            asyncio.get_running_loop().call_later(1.3, gated.gate.set)
        return replies.pop(0)

    call = Operation(
        Endpoint(name="x.add", method="POST", path="/x/", decode=bytes),
        if_missing=create_profile(customer_user_id="u1"),
        is_done_by_creation=False,
    )
    adapty = AdaptyClient(KEY, transport=transport, retry=RetryPolicy(deadline=1.0))

    assert statuses(await adapty.bulk([call], journal=gated)) == {"done": 1}


@pytest.mark.parametrize("watched", [False, True], ids=["create", "on_outcome"])
async def test_what_must_survive_a_loss_of_power_waits_for_the_disk(
    watched: bool,  # noqa: FBT001  a case
    gated: GatedJournal,
) -> None:
    """A create is not sent, and an outcome is not delivered, before its entry is on the disk."""
    told: list[object] = []

    async def transport(_request: Request) -> Response:
        if not watched:
            told.append("sent")
        return CREATED

    def items() -> Iterator[str]:
        yield "u0"
        gated.gate.clear()
        yield "u1"

    start = erase if watched else create
    on_outcome = told.append if watched else None
    run = asyncio.ensure_future(
        start(transport, items(), gated, concurrency=1, on_outcome=on_outcome)._complete()
    )
    await gated.waiting.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(told) == 1
    gated.gate.set()

    assert statuses(await run) == {"done": 2}
    assert len(told) == 2


async def test_a_cancelled_item_is_not_delivered_before_the_disk_has_it(
    gated: GatedJournal,
) -> None:
    """Ctrl-C twice does not deliver an outcome that a loss of power could undo."""
    told: list[Outcome[str, None]] = []
    answered = asyncio.Event()

    async def transport(_request: Request) -> Response:
        gated.gate.clear()
        answered.set()
        return DELETED

    run = erase(transport, ["u0"], gated, concurrency=1, on_outcome=told.append)
    task = asyncio.ensure_future(run._complete())
    await answered.wait()
    await gated.waiting.wait()
    run.cut_off()
    for _ in range(10):
        await asyncio.sleep(0)
    assert told == []
    gated.gate.set()

    assert statuses(await task) == {"done": 1}
    assert [outcome.status for outcome in told] == [OutcomeStatus.DONE]


@pytest.mark.parametrize("begun", [True, False], ids=["begun", "new"])
async def test_a_create_that_is_cancelled_before_its_entry_is_stored_was_not_sent(
    begun: bool,  # noqa: FBT001  a case
    journal: Path,
    gated: GatedJournal,
) -> None:
    """Items that an earlier run started stay unknown, and the next run sends the unsent ones."""
    if begun:
        await crash(create, ["u0", "u1"], journal)
    api = Api({"*": CREATED})

    def items() -> Iterator[str]:
        yield "u0"
        gated.gate.clear()
        yield "u1"

    async def run() -> None:
        await create(api, items(), gated, drain=0.01, concurrency=1)

    task = asyncio.create_task(run())
    await gated.waiting.wait()
    asyncio.get_running_loop().call_later(0.1, gated.gate.set)
    await until_cancelled(task)
    assert api.sent == ([] if begun else ["u0"])
    if not begun:
        assert states(journal) == {0: ItemState.DONE, 1: ItemState.NOT_SENT}
    report = await create(api, ["u0", "u1"], journal)

    assert statuses(report) == ({"unknown": 2} if begun else {"skipped": 1, "done": 1})
    assert api.sent == ([] if begun else ["u0", "u1"])


async def test_a_create_that_was_not_processed_is_sent_again_after_a_crash(journal: Path) -> None:
    """Killed while it waits for its next attempt, a throttled create is not an unknown outcome."""
    aside = journal.with_suffix(".crashed")
    attempts = 0

    async def transport(_request: Request) -> Response:
        nonlocal attempts
        attempts += 1
        assert states(journal) == {0: ItemState.STARTED}
        return Response(429, {"Retry-After": "1"}, b"") if attempts == 1 else CREATED

    adapty = AdaptyClient(KEY, transport=transport)
    run = adapty.bulk(
        ["u0"],
        build=lambda item: create_profile(customer_user_id=item),
        journal=journal,
        job_id="job",
    )
    task = asyncio.ensure_future(run._complete())
    while not attempts or states(journal)[0] is ItemState.STARTED:  # noqa: ASYNC110  of a file
        await asyncio.sleep(0.001)
    copy_journal(journal, aside)
    await task
    assert states(aside) == {0: ItemState.FAILED}
    api = Api({"*": CREATED})
    report = await create(api, ["u0"], aside, name="client.bulk")

    assert statuses(report) == {"done": 1}
    assert api.sent == ["u0"]


async def test_a_throttled_deletion_keeps_its_write_ahead_entry() -> None:
    """Its retry is harmless, so the entry of the first attempt holds for the next."""
    replies = FakeTransport([(429, {"retry-after": "0"}, b""), (204, {}, b"")])
    adapty = AdaptyClient(KEY, transport=replies)
    journal = MemoryJournal()
    report = await adapty.v1.profiles.bulk_delete(["u0"], by="customer_user_id", journal=journal)
    assert (report.done, report.throttled, report.requests) == (1, 1, 2)
    again = await adapty.v1.profiles.bulk_delete(["u0"], by="customer_user_id", journal=journal)

    assert (again.skipped, again.requests) == (1, 0)


# What is refused

Start = Callable[[Path], BulkRun[Any, Any]]


def _mail(journal: Path, **options: Any) -> BulkRun[Any, Any]:
    mail = AdaptyMailClient(KEY, transport=Api(), retry=ONCE)
    return mail.profiles.bulk_delete([], by="email", journal=journal, job_id="job", **options)


def _elsewhere(journal: Path) -> BulkRun[Any, Any]:
    adapty = AdaptyClient(KEY, base_url="https://other.example", transport=Api())
    return adapty.v1.profiles.bulk_delete([], by="customer_user_id", journal=journal, job_id="job")


def _other_ids(journal: Path) -> BulkRun[Any, Any]:
    adapty = AdaptyClient(KEY, transport=Api())
    return adapty.v1.profiles.bulk_delete([], by="profile_id", journal=journal, job_id="job")


MISMATCHES: dict[str, tuple[Start, tuple[str, ...]]] = {
    "operation": (
        lambda journal: create(Api(), [], journal, name="other"),
        ("operation: v1.profiles.delete by customer_user_id there, other here",),
    ),
    "kind-of-id": (_other_ids, ("operation: ", "by customer_user_id there", "by profile_id here")),
    "origin": (
        _elsewhere,
        ("origin: https://api.adapty.io there, https://other.example here",),
    ),
    "key": (
        lambda journal: erase(Api(), [], journal, key="secret_live_OTHER.key"),
        ("account: another key",),
    ),
    "job": (
        lambda journal: erase(Api(), [], journal, job_id="other"),
        ("input: job_id 'job' there, 'other' here",),
    ),
    "order": (
        lambda journal: erase(Api(), [], journal, job_id=None),
        ("keys: position (of a file, or with job_id) there, digest here",),
    ),
    "everything": (_mail, ("operation: ", "origin: ", "account: ")),
}


@pytest.mark.parametrize(("start", "parts"), MISMATCHES.values(), ids=MISMATCHES)
async def test_the_journal_of_another_run_is_rejected(
    start: Start, parts: tuple[str, ...], journal: Path
) -> None:
    """The error names the differences, not the key; nothing is sent, the journal is unchanged."""
    await erase(Api(), ids(3), journal)
    before = _bytes_of(journal)
    with pytest.raises(JournalError, match=r"^the journal .* belongs to another run; ") as caught:
        await start(journal)

    message = str(caught.value)
    assert all(part in message for part in (str(journal), *parts))
    assert "TEST" not in message
    assert "OTHER.key" not in message
    assert _bytes_of(journal) == before


async def test_a_journal_of_digests_is_rejected_by_a_run_of_positions(journal: Path) -> None:
    """And the other way round."""
    await erase(Api(), ids(3), journal, job_id=None)
    with pytest.raises(JournalError, match="keys: digest there, position "):
        await erase(Api(), ids(3), journal)


@pytest.mark.parametrize("dedupe", [False, True], ids=["plain", "dedupe"])
async def test_a_journal_that_is_in_use_is_rejected(
    dedupe: bool,  # noqa: FBT001  a case
    journal: Path,
) -> None:
    """The second run ends at once, sends nothing and is not ok; the first continues."""
    first, second = Api(hold=["u0"]), Api()
    async with erase(first, ids(1), journal) as run:
        await first.until_sent(1)
        other = erase(second, ids(1), journal, dedupe=dedupe)
        with pytest.raises(JournalError, match="in use"):
            await other
        first.release()
        outcomes = [outcome.status async for outcome in run]

    assert outcomes == [OutcomeStatus.DONE]
    assert second.sent == []
    assert_adds_up(other.report, 0)
    assert (other.report.ok, other.report.stop_reason) == (False, StopReason.STOPPED)


async def test_a_list_of_ids_given_as_the_journal_stays_untouched(ids_file: Path) -> None:
    """The run is rejected before anything is sent."""
    api = Api()
    with pytest.raises(
        JournalError, match=re.escape(f"{ids_file} cannot be used: it is not a journal")
    ):
        await erase(api, ids(2), ids_file)

    assert _bytes_of(ids_file) == b"u0\nu1\n"
    assert api.sent == []


BAD_OPTIONS = {
    "empty-job": ({"job_id": ""}, "job_id must not be empty"),
    "half-a-character": ({"job_id": "j\ud800"}, "a run with a journal must be named in UTF-8"),
    "unknown": ({"journals": "x"}, "unknown option: journals"),
}


@pytest.mark.parametrize("kind", [set, frozenset])
async def test_items_without_an_order_have_no_positions(
    kind: Callable[[list[str]], set[str] | frozenset[str]], journal: Path
) -> None:
    """A set differs in order from process to process, so a resumed run would skip other ids."""
    with pytest.raises(ConfigError, match="job_id needs items in the same order each time"):
        erase(Api(), kind(ids(3)), journal, job_id="job")

    report = await erase(Api(), kind(ids(3)), journal, job_id=None)
    assert statuses(report) == {"done": 3}


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options_are_rejected_at_once(
    options: dict[str, Any], message: str, journal: Path
) -> None:
    """Before a run is made, and before a file is."""
    with pytest.raises(ConfigError, match=message):
        erase(Api(), [], journal, **options)

    assert not journal.exists()


def test_a_job_id_without_a_journal_is_rejected() -> None:
    """A run that seems to resume, and does not, sends everything again after a crash."""
    with pytest.raises(ConfigError, match="job_id needs a journal"):
        erase(Api(), [], None, job_id="job")


# What an input is


async def test_a_run_by_digest_resumes_in_any_order_with_additions(journal: Path) -> None:
    """Without a job id items are known by their requests, wherever they stand."""
    await erase(Api({"u5": REFUSED}), ids(10), journal, job_id=None)
    api = Api()
    report = await erase(api, [*reversed(ids(12))], journal, job_id=None)

    assert statuses(report) == {"skipped": 9, "done": 3}
    assert sorted(api.sent) == ["u10", "u11", "u5"]


@pytest.mark.parametrize("job_id", ["job", None], ids=["position", "digest"])
async def test_nothing_personal_is_in_the_journal(job_id: str | None, journal: Path) -> None:
    """No id, no e-mail, no name, no key and nothing that the server said."""
    said = b'{"errors":[{"source":"email","errors":["jane@example.com"]}],"error_code":"whatever"}'

    async def transport(request: Request) -> Response:
        return Response(400, {}, said)

    mail = AdaptyMailClient(KEY, transport=transport, retry=ONCE)
    await mail.profiles.bulk_save([a_profile("profile-77")], journal=journal, job_id=job_id)
    content = _bytes_of(journal).lower()

    personal = (b"profile-77", b"jane", b"doe", b"secret_live", b"test.key", b"whatever", b"bearer")
    assert not [part for part in personal if part in content]


async def test_digests_are_keyed_and_the_same_in_every_release(journal: Path) -> None:
    """Only the account's key reveals whose digests they are; later releases still find them."""
    await erase(Api(), ["u0"], journal, job_id=None)
    secret = f"Api-Key {KEY}".encode()
    key = hashlib.blake2b(secret, person=b"adapty digest", digest_size=32).digest()
    account = hashlib.blake2b(secret, person=b"adapty account", digest_size=16).hexdigest()
    request = msgspec.msgpack.encode(["v1.profiles.delete", [[HEADER, "u0"]], [], None])

    assert summarise(journal).identity.account == account
    assert keys(journal) == [hashlib.blake2b(key + request, digest_size=16).digest()]


def test_a_run_identity_shows_where_it_goes_and_no_key() -> None:
    """Neither plainly nor prettily."""
    identity = RunIdentity("a call", "https://x", KEY)

    assert repr(identity) == "RunIdentity(a call, https://x)"
    assert pretty_repr(identity) == "RunIdentity(operation='a call', origin='https://x')"


class Lines:
    """An input identified by its length and first items, as a file is by its size and digest."""

    def __init__(self, items: list[str]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def identity(self) -> dict[str, Any]:
        """Return what a journal keeps of it."""
        return {"count": len(self._items), "last": len(self._items[-1])}

    def difference(self, earlier: dict[str, Any]) -> str | None:
        """Accept what only grew."""
        if len(self._items) < earlier["count"]:
            return f"{earlier['count']} lines there, {len(self._items)} here"
        same = len(self._items[earlier["count"] - 1]) == earlier["last"]
        return None if same else "it was changed before its end"


async def test_an_input_that_grew_resumes_and_another_is_rejected(journal: Path) -> None:
    """Its new size counts from then on."""
    assert isinstance(Lines(["u0"]), InputIdentity)
    first = await erase(Api(), Lines(ids(5)), journal, job_id=None)
    api = Api()
    second = await erase(api, Lines(ids(8)), journal, job_id=None)

    assert [statuses(first), statuses(second)] == [{"done": 5}, {"skipped": 5, "done": 3}]
    assert sorted(api.sent) == ["u5", "u6", "u7"]
    with pytest.raises(JournalError, match="input: 8 lines there, 5 here"):
        await erase(Api(), Lines(ids(5)), journal, job_id=None)
    with pytest.raises(JournalError, match="input: it was changed before its end"):
        await erase(Api(), Lines(["changed"] * 8), journal, job_id=None)


# Duplicates


def a_profile(identity: str, number: int = 0) -> MailProfile:
    """Return a profile of the Mail API."""
    return MailProfile(
        external_profile_id=identity,
        external_created_at="2026-01-01T00:00:00Z",
        email="jane@example.com",
        first_name=f"Jane {number}",
        last_name="Doe",
    )


def an_event(identity: str, number: int = 0) -> TransactionEvent:
    """Return an event of the Mail API."""
    return TransactionEvent(
        event_type="subscription_started",
        event_id=identity,
        event_datetime="2026-01-01T00:00:00Z",
        external_profile_id="profile-1",
        store="app_store",
        store_product_id=f"product-{number}",
        store_transaction_id="1",
        store_original_transaction_id="1",
        purchased_at="2026-01-01T00:00:00Z",
        originally_purchased_at="2026-01-01T00:00:00Z",
    )


class Watch:
    """A transport that fails the test when two requests about one id are in flight."""

    def __init__(self, subject: Callable[[Request], Hashable]) -> None:
        self._subject = subject
        self._random = Random(1)
        self._busy: set[Hashable] = set()
        self.most = 0
        self.bodies: dict[Hashable, list[bytes]] = {}

    async def __call__(self, request: Request) -> Response:
        """Respond after some iterations of the loop."""
        subject = self._subject(request)
        assert subject not in self._busy
        self._busy.add(subject)
        self.most = max(self.most, len(self._busy))
        self.bodies.setdefault(subject, []).append(request.body or b"")
        for _ in range(self._random.randrange(8)):
            await asyncio.sleep(0)
        self._busy.remove(subject)
        return DELETED


def _field(name: str) -> Callable[[Request], Hashable]:
    def subject(request: Request) -> Hashable:
        found: Mapping[str, Hashable] = msgspec.json.decode(request.body or b"")
        return found[name]

    return subject


def _deletes(watch: Watch, names: list[str], **options: Any) -> BulkRun[Any, Any]:
    return erase(watch, names, **options)


def _saves(watch: Watch, names: list[str], **options: Any) -> BulkRun[Any, Any]:
    mail = AdaptyMailClient(KEY, transport=watch, retry=ONCE)
    items = [a_profile(name, number) for number, name in enumerate(names)]
    return mail.profiles.bulk_save(items, **options)


def _mail_deletes(watch: Watch, names: list[str], **options: Any) -> BulkRun[Any, Any]:
    mail = AdaptyMailClient(KEY, transport=watch, retry=ONCE)
    items = [f"{name}@example.com" for name in names]
    return mail.profiles.bulk_delete(items, by="email", **options)


def _events(watch: Watch, names: list[str], **options: Any) -> BulkRun[Any, Any]:
    mail = AdaptyMailClient(KEY, transport=watch, retry=ONCE)
    return mail.events.bulk_save(
        [an_event(name, number) for number, name in enumerate(names)], **options
    )


KINDS: dict[str, tuple[Callable[..., BulkRun[Any, Any]], Callable[[Request], Hashable]]] = {
    "v1-delete": (_deletes, lambda request: request.headers[HEADER]),
    "mail-save": (_saves, _field("external_profile_id")),
    "mail-delete-by-email": (_mail_deletes, _field("email")),
    "mail-event": (_events, _field("event_id")),
}


@pytest.mark.parametrize("keep", [False, True], ids=["alone", "journal"])
@pytest.mark.parametrize(("start", "subject"), KINDS.values(), ids=KINDS)
async def test_two_requests_about_one_id_are_never_in_flight_together(
    start: Callable[..., BulkRun[Any, Any]],
    subject: Callable[[Request], Hashable],
    keep: bool,  # noqa: FBT001  a case
    journal: Path,
) -> None:
    """The same id's requests are sent one after another, in the order of the input."""
    names = Random(5).choices("abcdef", k=120)
    watch = Watch(subject)
    options = {"journal": journal, "job_id": "job"} if keep else {"journal": None}
    report = await start(watch, names, concurrency=16, **options)

    assert statuses(report) == {"done": 120}
    assert watch.most > 1
    for bodies in watch.bodies.values():
        if start is _saves:
            order = [int(msgspec.json.decode(body)["first_name"][5:]) for body in bodies]
            assert order == sorted(order)
        if start is _events:
            order = [int(msgspec.json.decode(body)["store_product_id"][8:]) for body in bodies]
            assert order == sorted(order)


@pytest.mark.parametrize("job_id", ["job", None], ids=["position", "digest"])
async def test_dedupe_sends_each_request_once(job_id: str | None, journal: Path) -> None:
    """A later duplicate is skipped, in this run and in the next, also beyond this one's end."""
    names = [f"u{number % 7}" for number in range(30)]
    api = Api({"u3": REFUSED})
    first = await erase(api, names, journal, dedupe=True, job_id=job_id, concurrency=4)
    assert statuses(first) == {"done": 6, "failed": 1, "skipped": 23}
    assert sorted(api.sent) == [f"u{number}" for number in range(7)]
    api = Api()
    second = await erase(api, [*names, "u0", "u9"], journal, dedupe=True, job_id=job_id)

    assert statuses(second) == {"done": 2, "skipped": 30}
    assert sorted(api.sent) == ["u3", "u9"]


class Text(str):
    """Text of another library."""

    __slots__ = ()


@pytest.mark.parametrize("kept", [False, True], ids=["no journal", "digest"])
async def test_text_of_another_library_is_the_same_item_as_plain_text(
    kept: bool,  # noqa: FBT001  a case
    journal: Path,
) -> None:
    """A data frame's ids are identified as plain ones are, in the next run too."""
    api = Api()
    path = journal if kept else None
    first = await erase(api, [Text("u0"), "u0", Text("u1")], path, dedupe=True, job_id=None)

    assert statuses(first) == {"done": 2, "skipped": 1}
    if kept:
        second = await erase(api, ["u1", Text("u0")], journal, job_id=None)
        assert statuses(second) == {"skipped": 2}
    assert sorted(api.sent) == ["u0", "u1"]


@pytest.mark.parametrize("rate", [0.0, 0.0001])
async def test_a_rate_of_next_to_nothing_is_no_rate(rate: float, journal: Path) -> None:
    """A run that finds it in its journal continues without it."""
    adapty = AdaptyClient(KEY, transport=Api())
    adapty._executor.layers.limiters.measured_limit = lambda: rate  # type: ignore[method-assign]
    await adapty.v1.profiles.bulk_delete(
        ["u0"], by="customer_user_id", journal=journal, job_id="job"
    )
    report = await erase(Api(), ["u0", "u1"], journal, job_id="job")

    assert summarise(journal).runs[0].rate == rate
    assert statuses(report) == {"skipped": 1, "done": 1}


async def test_a_duplicate_is_recorded_as_such(journal: Path) -> None:
    """A run that does not look for duplicates any more skips those that an earlier one found."""
    await erase(Api(), ["u0", "u0", "u0"], journal, dedupe=True)
    assert states(journal) == {0: ItemState.DONE} | dict.fromkeys((1, 2), ItemState.DUPLICATE)
    api = Api()
    report = await erase(api, ["u0"] * 4, journal)

    assert statuses(report) == {"skipped": 3, "done": 1}


async def test_dedupe_works_without_a_journal() -> None:
    """Different requests about one id are not duplicates."""
    api = Api()
    assert statuses(await erase(api, ["a", "b", "a"], None, dedupe=True)) == {
        "done": 2,
        "skipped": 1,
    }
    watch = Watch(_field("external_profile_id"))
    assert statuses(await _saves(watch, ["a", "a"], dedupe=True)) == {"done": 2}


async def test_requests_that_differ_in_their_parameters_are_no_duplicates() -> None:
    """An equal profile does not make two requests equal."""
    operations = [
        Operation(GET_PROFILE, ((HEADER, "u0"),), parameters=(("page", page),))
        for page in ("1", "2", "1", "1\n")
    ]
    adapty = AdaptyClient(KEY, transport=FakeTransport([(200, {}, b"{}")] * 3))

    assert statuses(await adapty.bulk(operations, dedupe=True)) == {"done": 3, "skipped": 1}


async def test_duplicates_are_sent_as_often_as_they_come_by_default(journal: Path) -> None:
    """By default nothing is merged."""
    api = Api()
    report = await erase(api, ["a", "b", "a"], journal)

    assert statuses(report) == {"done": 3}
    assert Counter(api.sent) == {"a": 2, "b": 1}


# Ending well


@pytest.mark.parametrize("job_id", ["job", None], ids=["position", "digest"])
@pytest.mark.parametrize("seed", range(20))
async def test_a_cancelled_run_can_be_resumed(seed: int, job_id: str | None, journal: Path) -> None:
    """Cancelled at any moment, it has closed its journal, and the next run sends only the rest."""
    random = Random(seed)
    outcomes: dict[int, OutcomeStatus] = {}
    api = Api()
    run = erase(
        api,
        (name for name in ids(150)),
        journal,
        job_id=job_id,
        concurrency=8,
        drain=random.choice([1e-6, 0.001, 1.0]),
        on_outcome=lambda outcome: outcomes.update({outcome.index: outcome.status}),
    )

    async def complete() -> None:
        await run

    task = asyncio.create_task(complete())
    await api.until_sent(random.randrange(1, 120))
    for _ in range(random.randrange(6)):
        await asyncio.sleep(0)
    await until_cancelled(task)
    assert_adds_up(run.report, len(outcomes))
    again = Api()
    report = await erase(again, ids(150), journal, job_id=job_id, concurrency=8)

    done = {f"u{index}" for index, status in outcomes.items() if status is OutcomeStatus.DONE}
    assert set(again.sent) == set(ids(150)) - done
    assert statuses(report) == {
        name: count for name, count in (("skipped", len(done)), ("done", 150 - len(done))) if count
    }


class Slow:
    """An input whose identity takes as long as the test sets, and may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.asked = threading.Event()
        self.go_on = threading.Event()
        self.answered = threading.Event()

    def __iter__(self) -> Iterator[str]:
        return iter(["u0"])

    def identity(self) -> dict[str, Any]:
        """Wait, as reading a large file does."""
        self.asked.set()
        self.go_on.wait()
        self.answered.set()
        if self._error is not None:
            raise self._error
        return {}

    def difference(self, _earlier: dict[str, Any]) -> str | None:
        """Find nothing."""
        return None


@pytest.mark.parametrize("error", [None, JournalError("no")], ids=["opens", "fails"])
async def test_cancelling_while_the_journal_opens_gives_it_back(
    error: Exception | None, journal: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file is free as soon as its opening has ended, though nothing waited for that."""
    slow, api = Slow(error), Api()
    run = erase(api, slow, journal, job_id=None, drain=0.01, dedupe=True)

    async def complete() -> None:
        await run

    task = asyncio.create_task(complete())
    await asyncio.to_thread(slow.asked.wait)
    await until_cancelled(task)
    slow.go_on.set()
    await asyncio.to_thread(slow.answered.wait)
    assert_adds_up(run.report, 0)
    again = Slow()
    again.go_on.set()
    report: BulkReport[str, None] | None = None
    while report is None:
        with contextlib.suppress(JournalError):
            report = await erase(api, again, journal, job_id=None)

    assert statuses(report) == {"done": 1}
    assert caplog.records == []  # concurrent.futures logs what goes wrong in that thread


async def test_a_disk_that_is_slow_to_close_is_waited_for(
    journal: Path, gated: GatedJournal
) -> None:
    """Items that are cancelled after the drain time are recorded before the run ends."""
    api = Api(hold=["u0"])

    async def run() -> None:
        await erase(api, ids(1), gated, drain=0.01)

    task = asyncio.create_task(run())
    await api.until_sent(1)
    gated.gate.clear()
    asyncio.get_running_loop().call_later(0.1, gated.gate.set)
    await until_cancelled(task)

    assert states(journal) == {0: ItemState.LOST}


@pytest.mark.parametrize("live", [False, True], ids=["iterable", "async-iterable"])
async def test_a_source_that_raises_leaves_a_journal_to_go_on_with(
    live: bool,  # noqa: FBT001  a case
    journal: Path,
) -> None:
    """Items that were read are recorded, the error is raised, and the next run does the rest."""
    source = Reading(ids(10), ValueError("line 11"))
    run = erase(Api(), source.live() if live else source, journal)
    with pytest.raises(ValueError, match="line 11"):
        await run
    assert_adds_up(run.report, 10)
    report = await erase(Api(), ids(12), journal)

    assert (report.skipped, report.done) == (run.report.done, 12 - run.report.done)


async def test_a_lost_connection_is_recorded_as_lost(journal: Path) -> None:
    """A request that may have been processed has another state than one that was not."""

    async def transport(request: Request) -> Response:
        raise ConnectionLostError("gone")

    report = await erase(transport, ["u0"], journal)

    assert statuses(report) == {"failed": 1}
    assert states(journal) == {0: ItemState.LOST}


async def test_an_item_that_cannot_be_built_is_not_recorded(journal: Path) -> None:
    """It fails in every run until it is corrected, and then it is sent."""
    first = await erase(Api(), ["u0", ""], journal)
    second = await erase(Api(), ["u0", "u1"], journal)

    assert statuses(first) == {"done": 1, "failed": 1}
    assert statuses(second) == {"skipped": 1, "done": 1}


async def test_operations_of_many_kinds_share_a_journal(journal: Path) -> None:
    """A run of operations is identified by their requests, or by their order."""
    adapty = AdaptyClient(KEY, transport=Api({"*": CREATED}), retry=ONCE)

    def operations() -> list[Operation[Any]]:
        return [create_profile(customer_user_id="u0"), delete_profile(customer_user_id="u0")]

    for job_id in ("job", None):
        path = journal.with_suffix(f".{job_id}")
        first = await adapty.bulk(operations(), journal=path, job_id=job_id)
        second = await adapty.bulk(operations(), journal=path, job_id=job_id)
        assert [statuses(first), statuses(second)] == [{"done": 2}, {"skipped": 2}]


# A disk that fails, or is full


async def test_a_disk_that_fails_ends_the_run(gated: GatedJournal) -> None:
    """The outcome that could not be stored is delivered all the same, and nothing more is sent."""
    told: list[Outcome[str, None]] = []
    sent: list[str] = []

    async def transport(request: Request) -> Response:
        sent.append(request.headers[HEADER])
        gated.failure = JournalError("the journal cannot be written: input/output error")
        return DELETED

    run = erase(transport, ids(5), gated, concurrency=1, on_outcome=told.append)
    with pytest.raises(JournalError, match="cannot be written: input/output error"):
        await run

    assert sent == ["u0"]
    assert told[0].status is OutcomeStatus.DONE


FULL = """
import asyncio, json, resource, signal, sys
from adapty_async import AdaptyClient, JournalError
from adapty_async._api.call import Response
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal, limit = sys.argv[1], int(sys.argv[2])
before = resource.getrlimit(resource.RLIMIT_FSIZE)
sent, outcomes, trouble = [], [], []

async def transport(request):
    sent.append(request.headers["adapty-customer-user-id"])
    await asyncio.sleep(0)
    return Response(204, {}, b"")

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: trouble.append(context["message"]))
    ids = [f"u{number}" for number in range(20)]
    run = AdaptyClient("key", transport=transport).v1.profiles.bulk_delete(
        ids, by="customer_user_id", journal=journal, job_id="job",
        on_outcome=lambda outcome: outcomes.append(outcome.item), dedupe=True,
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    error = None
    try:
        await run
    except JournalError as caught:
        error = str(caught)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    run = None
    import gc; gc.collect()
    print(json.dumps({"error": error, "sent": sent, "outcomes": outcomes, "trouble": trouble}))

asyncio.run(main())
"""


@pytest.mark.parametrize("limit", [0, 5000, 1_000_000], ids=["at-once", "table", "log"])
def test_a_full_disk_ends_the_run(limit: int, journal: Path) -> None:
    """It ends with a JournalError before anything is sent, and with room it begins."""
    command = [sys.executable, "-c", FULL, str(journal), str(limit)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    told = json.loads(done.stdout)

    assert f"the journal {journal} cannot be " in told["error"]
    assert told["trouble"] == told["sent"] == told["outcomes"] == []
    assert done.stderr == ""

    async def resume() -> BulkReport[str, None]:
        return await erase(Api(), ids(20), journal, key="key")

    assert statuses(asyncio.run(resume())) == {"done": 20}


LARGE = """
import asyncio, sys
from pathlib import Path
from adapty_async._journal import Changes, ItemState, JournalIdentity, JournalWriter, SqliteJournal

SPANS = 10_000_000 // 512
IDENTITY = JournalIdentity(operation="o", origin="x", account="a", keys="position", input={})

def journal():
    return SqliteJournal(Path(sys.argv[1]), owed=512)

async def make():
    made = journal()
    await made.open(IDENTITY, lambda _: None, lambda _: None)
    for first in range(0, SPANS, 1000):
        spans = {number: b"d" * 512 for number in range(first, min(first + 1000, SPANS))}
        await made.commit(Changes(spans=spans), durable=False)
    await made.close()

async def resume():
    writer = JournalWriter(journal(), concurrency=256)
    await writer.open(IDENTITY, lambda _: None)
    assert writer.state(9_999_000) is ItemState.DONE
    await writer.close()
    [peak] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    print(peak.split()[1])  # not the one of getrusage, which begins with that of the parent

asyncio.run(make() if sys.argv[2] == "make" else resume())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_resume_of_ten_million_items_is_small(journal: Path) -> None:
    """By position, the file has less than 2 bytes for an item, and memory little more than 1."""
    command = [sys.executable, "-c", LARGE, str(journal)]
    subprocess.run([*command, "make"], check=True)
    assert journal.stat().st_size < 20_000_000
    told = subprocess.run([*command, "resume"], capture_output=True, check=True, text=True).stdout

    assert int(told) < 100_000


# The request rate


@pytest.mark.parametrize("job_id", ["job", None], ids=["position", "digest"])
async def test_a_resumed_run_begins_with_the_rate_that_was_measured(
    job_id: str | None, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate that a run has measured is in its journal."""
    begin_at(monkeypatch, 50_000.0, min_rate=1.0)
    items = ids(600)
    learned: list[float | None] = []
    for count, limit in ((300, 5000.0), (600, None)):
        adapty = AdaptyClient(KEY, transport=Api())
        limiters = adapty._executor.layers.limiters
        if limit is not None:
            limiters.expect(limit)
        await adapty.v1.profiles.bulk_delete(
            items[:count], by="customer_user_id", journal=journal, job_id=job_id
        )
        learned.append(limiters.measured_limit())

    assert learned == pytest.approx([5000.0, 5000.0], rel=0.3)
    assert [run.rate for run in summarise(journal).runs] == pytest.approx(learned)


async def test_the_rate_is_recorded_in_intervals(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed has recorded its adaptive rate shortly before."""
    monkeypatch.setattr(_run_journal, "_RATE_SECONDS", 0.01)
    rates: list[float | None] = []

    async def api(_request: Request) -> Response:
        for rate in (100.0, 200.0):
            learned[0] = rate
            while rate not in rates:
                rates.append(summarise(journal).runs[0].rate)
                await asyncio.sleep(0.001)
        learned[0] = None
        return DELETED

    learned: list[float | None] = [None]
    adapty = AdaptyClient(KEY, transport=api)
    monkeypatch.setattr(adapty._executor.layers.limiters, "measured_limit", lambda: learned[0])
    await adapty.v1.profiles.bulk_delete(
        ids(1), by="customer_user_id", journal=journal, job_id="job", concurrency=1
    )

    assert sorted({rate for rate in rates if rate is not None}) == [100.0, 200.0]
    assert summarise(journal).runs[0].rate == 200.0


async def test_a_run_is_recorded_with_its_end(journal: Path) -> None:
    """The journal has when each run began and ended and why, and counts what came of its items."""
    await erase(Api({"u1": REFUSED}), ids(4), journal, concurrency=1, fail_fast=True)
    await erase(Api({"u1": MISSING}), ids(4), journal)
    summary = summarise(journal)

    assert [run.stop_reason for run in summary.runs] == ["fail_fast", None]
    assert all(run.started_at <= run.last_at for run in summary.runs)
    assert all(run.ended_at is not None for run in summary.runs)
    assert [(each.error, each.http_status, each.items) for each in summary.reasons] == [
        ("RequestRejectedError", 400, 1)
    ]
    assert sum(each.requests for each in summary.minutes) == 5
    assert summary.counts[ItemState.DONE] == 3


async def test_a_stop_while_its_journal_closes_is_not_why_a_run_ended(
    gated: GatedJournal, journal: Path
) -> None:
    """Report and journal agree that the input was read to its end."""

    def items() -> Iterator[str]:
        yield from ids(3)
        gated.gate.clear()

    run = erase(Api(), items(), gated, concurrency=1)
    task = asyncio.create_task(run)
    await gated.waiting.wait()
    await settle()  # it closes, whichever commit waits
    run.stop()
    gated.gate.set()
    report = await task

    assert (report.ok, report.stop_reason) == (True, None)
    assert [each.stop_reason for each in summarise(journal).runs] == [None]


async def test_reasons_beyond_a_hundred_are_counted_together() -> None:
    """Random responses of a server do not make the journal grow."""
    journal = MemoryJournal()
    writer = JournalWriter(journal, concurrency=4)
    identity = JournalIdentity(operation="o", origin="x", account="a", keys="position", input={})
    await writer.open(identity, lambda _: None)
    for position in range(120):
        writer.update(position, ItemState.FAILED, reason=("ApiError", position))
    await writer.close()

    assert len(journal.reasons) == 101
    assert journal.reasons[1, "failed", "others", 0].items == 20
