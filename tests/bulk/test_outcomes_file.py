"""The outcomes file: every item of a run has a line with its outcome, whatever happens to it."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import itertools
import json
import os
import random
import re
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async import (
    AdaptyClient,
    AdaptyMailClient,
    ConfigError,
    JournalError,
    MailProfile,
    Outcome,
    OutcomeStatus,
    RetryPolicy,
    TransactionEvent,
    v1,
    v2,
    web,
)
from adapty_async._api.call import Request, Response
from adapty_async._bulk import outcomes_file as _outcomes_file
from adapty_async._bulk.outcomes_file import (
    Entry,
    OutcomeLine,
    OutcomesFile,
    OutcomesLog,
    error_facts,
    parse_line,
)
from adapty_async._bulk.recording import id_of
from adapty_async._journal import MemoryJournal
from adapty_async.bulk import EarlierStatus, StopReason
from adapty_async.errors import ApiError, ConnectError, ConnectionLostError, InvalidInputError
from adapty_async.mail import delete_profile
from adapty_async.sandbox import Sandbox
from adapty_async.testing import FakeTransport
from tests._support import LOOPS, loop_turns, replace_dates
from tests.v2.samples import one_time

Lines: TypeAlias = list[dict[str, Any]]

KEYS = ["line", "id", "status", "at", "http_status", "request_id", "attempts", "error"]
BY: Any = {"by": "customer_user_id"}
DONE = itertools.repeat((204, {"Request-Id": "r1"}, b""))
_PAGE = Path(__file__).parents[2] / "docs" / "bulk.md"


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run each test on both loops."""
    return request.param


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the outcomes file is."""
    return tmp_path / "outcomes.ndjson"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Run a sandbox."""
    async with Sandbox() as running:
        yield running


@pytest.fixture
async def adapty(sandbox: Sandbox) -> AsyncIterator[AdaptyClient]:
    """Open a client of it."""
    async with AdaptyClient(sandbox.api_key, base_url=sandbox.url) as client:
        yield client


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Return a disk that blocks while an event is not set; it is set at first."""
    event = threading.Event()
    event.set()

    def slow(handle: int) -> None:
        event.wait()
        os.fsync(handle)

    monkeypatch.setattr(_outcomes_file, "_sync", slow)
    yield event
    event.set()


def fake(replies: Any = DONE, **options: Any) -> AdaptyClient:
    """Return a client whose requests succeed, or get these replies."""
    return AdaptyClient("key", transport=FakeTransport(replies), **options)


def lines(path: Path) -> Lines:
    """Return the lines of a file, all of which are whole."""
    text = path.read_text("ascii")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def last(path: Path) -> dict[str | None, dict[str, Any]]:
    """Return the last line of each id."""
    return {line["id"]: line for line in lines(path)}


def read(path: Path) -> bytes:
    """Return what is in a file."""
    return path.read_bytes()


def write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Make a file."""
    path.write_bytes(content)
    path.chmod(mode)


def clear(path: Path) -> None:
    """Remove a file."""
    path.unlink()


def mode_of(path: Path) -> int:
    """Return who may read a file."""
    return stat.S_IMODE(path.stat().st_mode)


async def until(condition: Callable[[], object]) -> None:
    """Run the event loop until a condition holds; the test's timeout bounds this."""
    while True:
        if condition():
            return
        await asyncio.sleep(0)


def is_in_use(path: Path) -> bool:
    """Return whether a process has the file open."""
    try:
        OutcomesLog(path).close()
    except JournalError:
        return True
    return False


async def arrived(sandbox: Sandbox, count: int) -> None:
    """Wait until a number of requests has arrived."""
    await until(lambda: len(sandbox.arrivals()) >= count)


def ids(count: int) -> list[str]:
    """Return *n* ids."""
    return [f"user-{number}" for number in range(count)]


async def test_every_item_has_a_line(sandbox: Sandbox, adapty: AdaptyClient, path: Path) -> None:
    """A line has the id, result, time, status and request id of its item; the file is private."""
    sandbox.seed_profiles(["here"])
    items: list[Any] = ["here", "gone", " bad", "", "\ud800", 7]
    before = dt.datetime.now(dt.UTC).replace(microsecond=0)
    report = await adapty.v1.profiles.bulk_delete(items, **BY, outcomes=path)
    found = {line["line"]: line for line in lines(path)}

    assert (report.total, report.done, report.absent, report.failed) == (6, 1, 1, 4)
    assert mode_of(path) == 0o600
    assert [found[number]["id"] for number in range(1, 7)] == ["here", "gone", *items[2:5], None]
    assert all(list(line) == KEYS for line in found.values())
    for line in found.values():
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line["at"])
        assert before <= dt.datetime.fromisoformat(line["at"]) <= dt.datetime.now(dt.UTC)
    done, absent, bad = found[1], found[2], found[3]
    assert re.fullmatch(r"[0-9a-f]{32}", done["request_id"])
    assert (done["status"], done["http_status"], done["attempts"]) == ("done", 204, 1)
    assert (absent["status"], absent["http_status"]) == ("absent", 404)
    assert absent["error"]["request_id"] == absent["request_id"] != done["request_id"]
    assert absent["error"]["error_code"] == "profile_does_not_exist"
    assert (bad["status"], bad["http_status"], bad["attempts"]) == ("failed", None, 0)
    assert bad["error"]["rule"] == "must not begin or end with a blank"


async def test_a_test_may_stop_the_clock_of_a_run(
    path: Path, adapty: AdaptyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times of replaced classes are written like any other, with ids of any alphabet."""
    replace_dates(monkeypatch)
    await adapty.v1.profiles.bulk_delete(["gone", "\u2028é"], **BY, outcomes=path)

    times = [line["at"] for line in lines(path)]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one) for one in times)
    assert len(times) == 2


async def test_an_outcome_says_when_and_by_which_response_it_ended(
    sandbox: Sandbox, adapty: AdaptyClient
) -> None:
    """Successes have the HTTP status and the request id as failures do, and both a time in UTC."""
    sandbox.seed_profiles(["here"])
    before = dt.datetime.now(dt.UTC)
    run = adapty.v1.profiles.bulk_delete(["here", "gone", "a\n"], **BY, ordered=True)
    async with run:
        done, absent, bad = [outcome async for outcome in run]

    for outcome in (done, absent, bad):
        assert outcome.at is not None
        assert outcome.at.tzinfo is dt.UTC
        assert before <= outcome.at <= dt.datetime.now(dt.UTC)
    assert (done.http_status, absent.http_status, bad.http_status) == (204, 404, None)
    assert done.request_id is not None
    assert isinstance(absent.error, ApiError)
    assert absent.request_id == absent.error.request_id
    assert bad.request_id is None


@pytest.mark.parametrize(
    ("replies", "status", "expected"),
    [
        pytest.param(
            [ConnectionLostError("lost"), (404, {"Request-Id": "r4"}, b"")],
            OutcomeStatus.DONE,
            (404, "r4"),
            id="removed-by-a-lost-attempt",
        ),
        pytest.param(
            [(200, {"X-Request-Id": "r2"}, b"<html>")],
            OutcomeStatus.FAILED,
            (200, "r2"),
            id="unreadable",
        ),
        pytest.param(
            [(204, {"Request-Id": "anna@example.com"}, b"")],
            OutcomeStatus.DONE,
            (204, None),
            id="no-id",
        ),
        pytest.param([ConnectionLostError("lost")], OutcomeStatus.FAILED, (None, None), id="lost"),
    ],
)
async def test_the_last_response_counts(replies: Any, status: Any, expected: Any) -> None:
    """The status and the request id are those of the response that an item ended with, if any."""
    body = b'{"errors": [{"code": "x"}], "error_code": "profile_does_not_exist"}'
    replies = [(one[0], one[1], body) if one.__class__ is tuple and one[0] == 404 else one
               for one in replies]  # fmt: skip
    attempts = RetryPolicy(attempts=len(replies), wait_initial=0.001)
    async with fake(replies, retry=attempts) as client:
        run = client.v1.profiles.bulk_delete(["u"], **BY)
        async with run:
            [outcome] = [outcome async for outcome in run]

    assert outcome.status is status
    assert (outcome.http_status, outcome.request_id) == expected


def _saved(one: str) -> MailProfile:
    return MailProfile(
        external_profile_id=one, external_created_at="2026-01-01T00:00:00Z", email=f"{one}@x.com"
    )


_EVENT = TransactionEvent(
    event_type="subscription_started",
    event_id="e1",
    event_datetime="2026-01-01T00:00:00Z",
    external_profile_id="u1",
    store="app_store",
    store_product_id="p",
    store_transaction_id="1",
    store_original_transaction_id="1",
    purchased_at="2026-01-01T00:00:00Z",
    originally_purchased_at="2026-01-01T00:00:00Z",
)
IDS: dict[str, tuple[Any, dict[str, Any], str]] = {
    # each bulk method: an item, the options, the id of the item
    "v1.profiles.bulk_delete": ("u1", BY, "u1"),
    "v1.profiles.bulk_update": (("u1", v1.ProfileAttributes(first_name="x")), BY, "u1"),
    "v2.profiles.bulk_get": ("u1", {"by": "profile_id"}, "u1"),
    "v2.profiles.bulk_delete": ("u1", BY, "u1"),
    "v2.profiles.bulk_update": (("u1", v2.ProfileAttributes(first_name="x")), BY, "u1"),
    "v2.profiles.bulk_get_or_create": (("u1", v2.ProfileAttributes()), {}, "u1"),
    "v2.profiles.bulk_ensure": (("u1", v2.ProfileAttributes(first_name="x")), {}, "u1"),
    "v2.transactions.bulk_set": (("u1", one_time()), BY, "u1"),
    "v2.access_levels.bulk_grant": (("u1", v2.AccessGrant(access_level_id="p")), BY, "u1"),
    "v2.access_levels.bulk_revoke": (("u1", v2.AccessRevocation(access_level_id="p")), BY, "u1"),
    "web.attribution.bulk_add": (("u1", web.Attribution(status="organic")), BY, "u1"),
    "mail.profiles.bulk_save": (_saved("u1"), {}, "u1"),
    "mail.profiles.bulk_delete": ("u1@x.com", {"by": "email"}, "u1@x.com"),
    "mail.events.bulk_save": (_EVENT, {}, "e1"),
}
_EACH = pytest.mark.parametrize("method", IDS)


def test_the_page_names_the_id_of_each_method() -> None:
    """The documentation has a row for the id of each bulk method."""
    _, _, section = _PAGE.read_text("utf-8").partition("### The id of an item")
    rows = re.findall(r"^\| (`[^|]+`) \|", section.partition("## ")[0], re.MULTILINE)
    named = set(re.findall(r"`(\w+\.\w+\.bulk_\w+)\(\)`", " ".join(rows)))

    assert named == IDS.keys()


@_EACH
async def test_each_method_has_its_id(method: str, path: Path) -> None:
    """The id is that of the item's request, whether the item is sent, skipped or not sent."""
    item, options, expected = IDS[method]
    kind = AdaptyMailClient if method.startswith("mail") else AdaptyClient
    name = method.removeprefix("mail.")
    keep = {**options, "outcomes": path, "journal": path.with_suffix(".db"), "job_id": "j"}
    for _ in range(2):
        keys: dict[str, Any] = {"public_key": "key"} if kind is AdaptyClient else {}
        client = kind("key", **keys, transport=FakeTransport(itertools.repeat((200, {}, b"{}"))))
        async with client:
            await attrgetter(name)(client)([item], **keep)
        [line] = lines(path)
        assert (line["line"], line["id"]) == (1, expected)
        clear(path)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        pytest.param(v1.create_profile(customer_user_id="c"), "c", id="header"),
        pytest.param(v2.get_paywall("pw"), "pw", id="path"),
        pytest.param(v2.list_paywalls(), None, id="none"),
        pytest.param(delete_profile(customer_user_id="c", email="e@x.com"), "c", id="several"),
    ],
)
def test_an_operation_is_about_an_id(operation: Any, expected: str | None) -> None:
    """Calls that have no bulk method have an id as well, unless they are about nothing with one."""
    assert id_of(operation) == expected


async def test_what_cannot_be_built_is_identified_by_itself(path: Path) -> None:
    """An id that stands in an item is recorded although no request could be made of the item."""
    items: list[Any] = [("u1", "no attributes"), ("u2", None, None), (), (7, 8), "u3", None]
    async with fake() as client:
        report = await client.v1.profiles.bulk_update(items, **BY, outcomes=path)

    assert report.failed == len(items)
    assert [line["id"] for line in lines(path)] == ["u1", "u2", None, None, "u3", None]


async def test_a_skipped_item_does_not_have_the_id_of_the_one_before_it(path: Path) -> None:
    """A worker that has sent an item before it skips one by its position names each by its own."""
    options = {**BY, "journal": path.with_name("run.db"), "job_id": "j", "concurrency": 1}
    async with fake([(400, {}, b"{}"), (204, {}, b"")]) as client:
        await client.v1.profiles.bulk_delete(["a", "b"], **options)
    async with fake() as client:
        await client.v1.profiles.bulk_delete(["a", "b"], **options, outcomes=path)

    assert [(line["id"], line["status"]) for line in lines(path)] == [
        ("a", "done"),
        ("b", "skipped"),
    ]


async def test_a_resumed_run_appends_and_leaves_results_as_they_are(
    sandbox: Sandbox, adapty: AdaptyClient, path: Path
) -> None:
    """A skipped item has one line, and the last line of each id has its outcome and time."""
    sandbox.seed_profiles(ids(50))
    items = [*ids(50), " bad"]
    keep = {**BY, "outcomes": path, "journal": path.with_suffix(".db"), "job_id": "j"}
    await adapty.v1.profiles.bulk_delete(items, **keep)
    first = read(path)
    report = await adapty.v1.profiles.bulk_delete([*items, "more"], **keep)
    second = read(path)

    assert report.skipped_earlier == {"done": 50, "absent": 0, "duplicate": 0}
    assert second.startswith(first)
    assert {line["status"] for line in lines(path)} == {"done", "failed", "absent"}
    assert len(lines(path)) == 53
    assert {one: last(path)[one]["status"] for one in ids(50)} == dict.fromkeys(ids(50), "done")
    assert last(path)["more"]["line"] == 52


@pytest.mark.parametrize("job_id", [None, "j"], ids=["by-key", "by-position"])
async def test_a_new_file_is_complete(path: Path, job_id: str | None) -> None:
    """Skipped items that have no line get one, with how they ended and without a time."""
    keep = {**BY, "journal": path.with_suffix(".db"), "job_id": job_id, "dedupe": True}
    missing: Any = (404, {}, b'{"error_code": "profile_does_not_exist"}')
    async with fake([(204, {}, b""), missing]) as client:
        await client.v1.profiles.bulk_delete(["a", "b", "a"], **keep, concurrency=1)
    async with fake([]) as client:
        report = await client.v1.profiles.bulk_delete(["a", "b", "a"], **keep, outcomes=path)
        again = read(path)
        await client.v1.profiles.bulk_delete(["a", "b", "a"], **keep, outcomes=path)

    assert read(path) == again
    assert report.skipped == 3
    assert [list(line) for line in lines(path)] == [[*KEYS, "earlier"]] * 3
    found = [(line["line"], line["id"], line["earlier"]) for line in lines(path)]
    assert found == [(1, "a", "done"), (2, "b", "absent"), (3, "a", "duplicate")]
    assert {(line["status"], line["at"], line["attempts"]) for line in lines(path)} == {
        ("skipped", None, 0)
    }


@pytest.mark.parametrize("has_journal", [True, False], ids=["journal", "no journal"])
async def test_a_stopped_run_leaves_results_of_earlier_ones_as_they_are(
    has_journal: bool,  # noqa: FBT001  a case
    path: Path,
) -> None:
    """With a journal, a run knows how an item that it does not process ended before."""
    keep = {**BY, "outcomes": path, "concurrency": 1}
    if has_journal:
        keep["journal"] = path.with_suffix(".db")
    rejected: Any = (400, {}, b'{"error_code": "bad_request"}')
    replies: Any = [(204, {}, b""), rejected, (204, {}, b"")]
    async with fake(replies) as client:
        await client.v1.profiles.bulk_delete(["a", "b", "c"], **keep)
    before = read(path)
    async with fake(itertools.repeat(rejected)) as client:
        items = ["a", "b", "c", "d"] if has_journal else ["b", "b", "c", "d"]
        report = await client.v1.profiles.bulk_delete(items, **keep, fail_fast=True)

    assert read(path).startswith(before)
    assert report.not_sent == (1 if has_journal else 3)
    assert last(path)["a"]["status"] == "done"
    assert last(path)["c"]["status"] == ("done" if has_journal else "not_sent")
    assert last(path)["d"]["status"] == "not_sent"


@pytest.mark.parametrize("job_id", [None, "j"], ids=["by-key", "by-position"])
async def test_an_id_that_is_done_is_never_not_sent(path: Path, job_id: str | None) -> None:
    """The run stops before it comes to a second row of an id; the last line of the id counts."""
    keep = {**BY, "journal": path.with_suffix(".db"), "job_id": job_id, "dedupe": True}
    keep |= {"outcomes": path, "concurrency": 1, "fail_fast": True}
    async with fake() as client:
        items: list[Any] = ["a", "", "a", "b", "b", 7]
        report = await client.v1.profiles.bulk_delete(items, **keep)

    assert report.skipped_earlier == {"done": 0, "absent": 0, "duplicate": 1}
    assert report.not_sent == 3
    found = [(line["line"], line["status"], line.get("earlier")) for line in lines(path)]
    assert found == [
        (1, "done", None),
        (2, "failed", None),
        (3, "skipped", "duplicate"),
        *((line, "not_sent", None) for line in (4, 5, 6)),
    ]


async def test_a_stopped_run_records_what_its_journal_knows(path: Path) -> None:
    """A run by digest finds ids that are done in any order, though their lines were lost."""
    keep = {**BY, "journal": path.with_suffix(".db"), "concurrency": 1, "fail_fast": True}
    missing: Any = (404, {}, b'{"error_code": "profile_does_not_exist"}')
    async with fake([(204, {}, b""), missing]) as client:
        await client.v1.profiles.bulk_delete(["a", "b"], **keep)
    async with fake([]) as client:
        items = ["", "b", "c", "a"]
        report = await client.v1.profiles.bulk_delete(items, **keep, outcomes=path)

    assert report.skipped_earlier == {"done": 1, "absent": 1, "duplicate": 0}
    assert {one: line.get("earlier") for one, line in last(path).items()} == {
        "": None,
        "a": "done",
        "b": "absent",
        "c": None,
    }
    assert last(path)["c"]["status"] == "not_sent"


async def test_a_stop_while_items_are_identified_hides_nothing(path: Path) -> None:
    """Beyond what memory holds, a temporary database knows the digests, and items wait for it."""
    journal = MemoryJournal()
    journal.keys = os.urandom(16 * 50_000)
    keep: Any = {**BY, "journal": journal, "concurrency": 4}
    async with fake() as client:
        await client.v1.profiles.bulk_delete(ids(20), **keep)

    def feed() -> Iterator[str]:
        for number, one in enumerate([*ids(10), "new", *ids(20)]):
            if number == 13:
                run.stop()  # while three items are identified
            yield one

    async with fake() as client:
        run = client.v1.profiles.bulk_delete(feed(), **keep, outcomes=path)
        report = await run

    assert (report.total, report.stop_reason) == (14, StopReason.STOPPED)
    assert report.skipped_earlier == {"done": 10, "absent": 0, "duplicate": 3}
    assert report.not_sent + report.done == 1
    assert {line["id"] for line in lines(path) if line["status"] != "skipped"} == {"new"}


async def test_an_item_that_is_unknown_stays_unknown(path: Path) -> None:
    """A stopped run says "not sent" of no item that was sent; another caller might send it."""
    keep: Any = {"journal": path.with_suffix(".db"), "job_id": "j", "outcomes": path}
    keep |= {"concurrency": 1, "build": lambda one: v1.create_profile(customer_user_id=one)}
    lost: Any = ConnectionLostError("lost")
    async with fake([lost]) as client:
        await client.bulk(["", "a"], **keep)
    before = lines(path)
    async with fake([]) as client:
        stopped = await client.bulk(["", "a"], **keep, fail_fast=True)
        again = await client.bulk(["", "a"], **keep)
    clear(path)
    async with fake([]) as client:
        await client.bulk(["", "a"], **keep, fail_fast=True)

    assert (before[1]["status"], before[1]["attempts"]) == ("unknown", 1)
    assert [(report.unknown, report.not_sent) for report in (stopped, again)] == [(1, 0)] * 2
    assert "lost the response" in str(stopped.failures[1].error)
    assert (last(path)["a"]["status"], last(path)["a"]["at"]) == ("unknown", None)


async def test_an_item_that_may_be_done_is_not_one_that_was_not_sent(path: Path) -> None:
    """A stopped run does not come to items that a killed run had in flight, or lost."""
    journal = MemoryJournal()
    keep: Any = {**BY, "journal": journal, "job_id": "j", "concurrency": 1}
    async with fake() as client:
        await client.v1.profiles.bulk_delete([], **keep)
        journal.spans[0] = b".rlf".ljust(512, b".")
        items = ["", "a", "b", "c", "d"]
        report = await client.v1.profiles.bulk_delete(items, **keep, outcomes=path, fail_fast=True)

    assert (report.failed, report.not_sent) == (3, 2)
    assert [outcome.item for outcome in report.failures] == ["", "a", "b"]
    assert "a retry is safe" in str(report.failures[1].error)
    found = [(line["id"], line["status"], line["at"]) for line in lines(path)[1:]]
    assert found == [
        ("a", "failed", None),
        ("b", "failed", None),
        ("c", "not_sent", None),
        ("d", "not_sent", None),
    ]


async def test_an_item_that_may_be_done_and_is_not_sent_again_keeps_its_line(path: Path) -> None:
    """It waits for its turn in a run that is stopped."""
    keep: Any = {**BY, "journal": path.with_suffix(".db"), "outcomes": path, "concurrency": 2}
    once = {"retry": RetryPolicy(attempts=1)}
    async with fake([(500, {"Request-Id": "r5"}, b"")], **once) as client:
        await client.v1.profiles.bulk_delete(["a"], **keep)
    before = read(path)
    async with fake(**once) as client:
        run = client.v1.profiles.bulk_delete(
            ["b", "a"], **keep, rate=0.01, on_outcome=lambda _: run.stop()
        )
        report = await run

    assert (report.done, report.failed, report.not_sent) == (1, 1, 0)
    assert report.failures[0].at is None
    assert "a retry is safe" in str(report.failures[0].error)
    assert read(path).startswith(before)
    assert last(path)["a"]["request_id"] == "r5"


async def test_an_item_that_was_in_flight_in_a_crash_may_be_done(path: Path) -> None:
    """It waits for its turn in a run that is stopped, and stays reserved."""
    journal = MemoryJournal()
    keep: Any = {**BY, "journal": journal, "job_id": "j", "concurrency": 2}
    async with fake() as client:
        await client.v1.profiles.bulk_delete([], **keep)
        journal.spans[0] = b".r".ljust(512, b".")
        run = client.v1.profiles.bulk_delete(
            ["b", "a"], **keep, outcomes=path, rate=0.01, on_outcome=lambda _: run.stop()
        )
        report = await run

    assert (report.done, report.failed, report.not_sent) == (1, 1, 0)
    assert [line["status"] for line in lines(path)] == ["done", "failed"]
    assert journal.spans[0].startswith(b"dr")


async def test_an_item_that_waits_behind_another_of_its_id_may_be_done(path: Path) -> None:
    """A killed run left it in flight, and a stop ends its wait before it is about to be sent."""
    journal = MemoryJournal()
    keep: Any = {**BY, "journal": journal, "job_id": "j", "concurrency": 2}

    async def stop(_: Request) -> Response:
        run.stop()
        return Response(204, {}, b"")

    async with AdaptyClient("key", transport=stop) as client:
        await client.v1.profiles.bulk_delete([], **keep)
        journal.spans[0] = b"rr".ljust(512, b".")
        run = client.v1.profiles.bulk_delete(["a", "a"], **keep, outcomes=path)
        report = await run

    assert (report.done, report.failed, report.not_sent) == (1, 1, 0)
    assert {line["line"]: line["status"] for line in lines(path)} == {1: "done", 2: "failed"}
    assert journal.spans[0].startswith(b"dr")


async def test_an_item_that_is_identified_during_a_stop_may_be_done(path: Path) -> None:
    """Beyond what memory holds, it waits for the temporary database of digests."""
    journal = MemoryJournal()
    journal.keys = os.urandom(16 * 50_000)
    keep: Any = {**BY, "journal": journal, "concurrency": 2}

    def feed() -> Iterator[str]:
        yield "a"
        run.stop()

    async with fake() as client:
        await client.v1.profiles.bulk_delete(["a"], **keep)
        ((number, span),) = journal.spans.items()
        journal.spans[number] = span.replace(b"d", b"r")
        run = client.v1.profiles.bulk_delete(feed(), **keep, outcomes=path)
        report = await run

    assert (report.total, report.failed, report.not_sent) == (1, 1, 0)
    assert [line["status"] for line in lines(path)] == ["failed"]
    assert b"r" in journal.spans[number]


async def test_a_duplicate_of_a_row_that_a_run_does_not_come_to_is_one(path: Path) -> None:
    """An earlier run has settled the first row of an id, and was stopped before the second."""
    keep: Any = {**BY, "job_id": "j", "dedupe": True, "concurrency": 1, "fail_fast": True}
    keep |= {"journal": path.with_suffix(".db"), "outcomes": path}
    async with fake() as client:
        await client.v1.profiles.bulk_delete(["x", "a", "", "a", "a"], **keep)
    clear(path)
    async with fake() as client:
        report = await client.v1.profiles.bulk_delete(["", "a", "c", "a", "a"], **keep)

    assert report.skipped_earlier == {"done": 1, "absent": 0, "duplicate": 2}
    found = [(line["line"], line["status"], line.get("earlier")) for line in lines(path)]
    assert found == [
        (1, "failed", None),
        (2, "skipped", "done"),
        (3, "not_sent", None),
        (4, "skipped", "duplicate"),
        (5, "skipped", "duplicate"),
    ]


async def test_an_outage_does_not_make_an_item_one_that_was_not_sent(path: Path) -> None:
    """No attempt has a connection, but the one of an earlier run had."""
    journal = MemoryJournal()
    keep: Any = {**BY, "journal": journal, "job_id": "j", "concurrency": 1}
    async with fake(itertools.repeat(ConnectError("refused"))) as client:
        await client.v1.profiles.bulk_delete([], **keep)
        journal.spans[0] = b"rl".ljust(512, b".")
        report = await client.v1.profiles.bulk_delete(
            ["a", "b", "c"], **keep, outcomes=path, max_outage=0.2
        )

    assert report.stop_reason is StopReason.OUTAGE
    assert [line["status"] for line in lines(path)] == ["failed", "failed", "not_sent"]
    assert journal.spans[0].startswith(b"rl")


async def test_a_line_is_replaced_only_by_one_that_shows_more(path: Path) -> None:
    """A later run that does not come to an item leaves its time, error and request id."""
    keep: Any = {"journal": path.with_suffix(".db"), "job_id": "j", "outcomes": path}
    keep |= {"concurrency": 1, "build": lambda one: v1.create_profile(customer_user_id=one)}
    rejected: Any = (400, {"Request-Id": "r2"}, b'{"error_code": "bad_request"}')
    async with fake([rejected, ConnectionLostError("lost"), (201, {}, b"{}")]) as client:
        await client.bulk(["", "failed", "lost", "done"], **keep)
    before = last(path)
    async with fake([]) as client:
        await client.bulk(["", "failed", "lost", "done"], **keep, fail_fast=True)

    found = last(path)
    assert found.pop("")["status"] == before.pop("")["status"] == "failed"
    assert found == before
    assert (before["failed"]["request_id"], before["lost"]["attempts"]) == ("r2", 1)


async def test_a_run_in_another_order_leaves_results_as_they_are(path: Path) -> None:
    """If an id has one request, its line shows how it ended, at whichever line it was."""
    keep = {**BY, "journal": path.with_suffix(".db"), "outcomes": path}
    async with fake() as client:
        await client.v1.profiles.bulk_delete([*ids(3000), "user-7"], **keep)
    before = lines(path)
    async with fake() as client:
        items = ["new", *reversed(ids(3000))]
        report = await client.v1.profiles.bulk_delete(items, **keep)
        again = await client.v1.profiles.bulk_delete(["other", "user-7", "user-7", "new"], **keep)

    assert (report.done, report.skipped, again.done, again.skipped) == (1, 3000, 1, 3)
    added = lines(path)[len(before) :]
    assert [(each["line"], each["id"], each["status"]) for each in added] == [
        (1, "new", "done"),
        (3, "user-7", "skipped"),
        (1, "other", "done"),
    ]
    assert added[1]["earlier"] == "duplicate"


async def test_an_id_with_several_requests_has_a_line_for_each(path: Path) -> None:
    """By digest, a line of one request of an id says nothing about the others."""
    keep = {**BY, "journal": path.with_suffix(".db")}
    pairs = [("a", v1.ProfileAttributes(first_name=name)) for name in ("X", "Y")]
    async with fake(itertools.repeat((200, {}, b"{}"))) as client:
        await client.v1.profiles.bulk_update(pairs, **keep)
        await client.v1.profiles.bulk_update(pairs[:1], **keep, outcomes=path)
        await client.v1.profiles.bulk_update(pairs, **keep, outcomes=path)

    assert [(line["line"], line["id"], line["earlier"]) for line in lines(path)] == [
        (1, "a", "done"),
        (2, "a", "done"),
    ]


async def test_the_line_of_another_input_is_not_an_items_own(path: Path) -> None:
    """A file that has other ids at the same lines, or a later failure, gets the lines it lacks."""
    keep = {**BY, "journal": path.with_suffix(".db"), "job_id": "j", "concurrency": 1}
    async with fake() as client:
        await client.v1.profiles.bulk_delete(["x", "b", "c"], **BY, outcomes=path, concurrency=1)
        await client.v1.profiles.bulk_delete(["a", "b", "c"], **keep)
    with OutcomesLog_at(path) as log:
        log.write([Entry(3, "c", Outcome(2, "c", OutcomeStatus.FAILED))])
    async with fake([]) as client:
        await client.v1.profiles.bulk_delete(["a", "b", "c"], **keep, outcomes=path)

    found = [(line["id"], line["status"]) for line in lines(path)[3:]]
    assert found == [("c", "failed"), ("a", "skipped"), ("c", "skipped")]


class OutcomesLog_at:  # noqa: N801  it is used as a function
    """A file that is open as long as a block lasts."""

    def __init__(self, path: Path) -> None:
        self._log = OutcomesLog(path)

    def __enter__(self) -> OutcomesLog:
        return self._log

    def __exit__(self, *_: object) -> None:
        self._log.close()


async def test_a_run_that_stops_itself_records_what_it_did_not_send(path: Path) -> None:
    """Every item of an input that has a length has a line, though the key was rejected early."""
    rejected: Any = itertools.repeat((401, {}, b'{"error_code": "not_authenticated"}'))
    async with fake(rejected) as client:
        run = client.v1.profiles.bulk_delete(ids(9000), **BY, outcomes=path, concurrency=2)
        report = await run
    found = lines(path)

    assert report.stop_reason is StopReason.KEY_REJECTED
    assert report.not_sent > 8900
    assert sorted(line["line"] for line in found) == list(range(1, 9001))
    assert [line["at"] for line in found if line["status"] == "not_sent"] == (
        [None] * report.not_sent
    )
    assert {line["id"] for line in found} == set(ids(9000))


async def test_what_a_source_yields_after_the_stop_is_recorded(path: Path) -> None:
    """An item that comes from a slow source when the run is stopping is in the file, too."""

    async def slow() -> AsyncIterator[str]:
        yield "a"
        run.stop()
        yield "b"

    async with fake() as client:
        run = client.v1.profiles.bulk_delete(slow(), **BY, outcomes=path, concurrency=1)
        report = await run

    assert (report.done, report.not_sent) == (1, 1)
    assert {one: line["status"] for one, line in last(path).items()} == {
        "a": "done",
        "b": "not_sent",
    }


# A file that was there


TORN: Callable[[bytes], bytes] = lambda text: text[: text.rfind(b"\n") + 1]  # noqa: E731


def test_a_torn_last_line_is_removed_at_whichever_byte_it_ends(path: Path) -> None:
    """Whole lines stay as they are, what follows the last one goes, and the next line is whole."""
    error = InvalidInputError("customer_user_id", "must not be empty")
    entries = [
        Entry(1, "a", Outcome(0, "a", OutcomeStatus.DONE, 1, http_status=204)),
        Entry(2, 'é",\u2028', Outcome(1, "b", OutcomeStatus.FAILED, error=error)),
        Entry(1234, None, Outcome(2, "c", OutcomeStatus.SKIPPED, earlier=EarlierStatus.DONE)),
    ]
    with OutcomesLog_at(path) as log:
        log.write(entries)
    whole = read(path)
    for size in range(len(whole) + 1):
        write(path, whole[:size] + b"\0" * (size % 3))  # as a loss of power may leave them
        with OutcomesLog_at(path) as log:
            assert read(path) == TORN(whole[:size])
            log.write(entries[1:2])
        assert len(lines(path)) == whole[:size].count(b"\n") + 1


async def test_a_run_that_resumes_with_a_torn_line_is_complete(path: Path) -> None:
    """Wherever the file was truncated, a further run writes a line with the outcome of each id."""
    keep = {**BY, "outcomes": path, "journal": path.with_suffix(".db"), "job_id": "j"}
    async with fake() as client:
        await client.v1.profiles.bulk_delete(["a", "b", "c"], **keep, concurrency=1)
    whole = read(path)
    for size in range(0, len(whole) + 1, 11):
        write(path, whole[:size])
        async with fake([]) as client:
            report = await client.v1.profiles.bulk_delete(["a", "b", "c"], **keep)
        assert report.skipped == 3
        ended = {one: line.get("earlier", line["status"]) for one, line in last(path).items()}
        assert ended == dict.fromkeys("abc", "done")
        assert read(path).startswith(TORN(whole[:size]))
        assert len(lines(path)) == 3


LINE = b'{"line":1,"id":"a","status":"done","at":null,"http_status":204,"request_id":null,'
LINE += b'"attempts":1,"error":null}\n'
OTHERS = {
    "ids": b"user_1\nuser_2\n",
    "one-id": b"u",
    "json": b'{"id": "user_1"}\n',
    "failures": b'{"line":1,"item":"a","status":"failed","attempts":1,"error":null}\n',
    "torn-failures": b'{"line":1,"item":"a","sta',
    "no-number": b'{"line":"x","id":',
    "no-status": LINE.replace(b"done", b"fine"),
    "no-time": LINE.replace(b'"at":null', b'"at":"soon"'),
    "line-zero": LINE.replace(b":1,", b":0,", 1),
    "text-behind": LINE + b"# the end\n",
    "text-at-the-end": LINE + b"user_2",
    "blank-line": LINE + b"\n",
    "zeros-before": b"\0" * 20 + LINE,
    "zeros-inside": LINE + b"\0" * 20 + LINE,
    "deep": b'{"line":1,"id":' + b"[" * 100_000 + b"\n",
    "other-encoding": LINE.replace(b'"a"', b'"\xff"'),
    "binary": bytes(range(256)) * 40,
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
async def test_what_is_no_outcomes_file_stays_untouched(content: bytes, path: Path) -> None:
    """A file of another kind is rejected before any request, and keeps its bytes and its mode."""
    write(path, content, 0o644)
    transport = FakeTransport()
    async with AdaptyClient("key", transport=transport) as client:
        with pytest.raises(
            JournalError,
            match=r"cannot be used: (line \d of it is not an outcome|it is not an outcomes file)",
        ):
            await client.v1.profiles.bulk_delete(["a"], **BY, outcomes=path)

    assert (read(path), mode_of(path)) == (content, 0o644)
    assert transport.requests == []


def test_a_file_that_others_could_read_is_made_private(path: Path) -> None:
    """An outcomes file that was there gets the mode 0600, and is not written to by being opened."""
    write(path, LINE, 0o644)
    OutcomesLog(path).close()

    assert (read(path), mode_of(path)) == (LINE, 0o600)


def _make_link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(Path.mkdir, "Is a directory", id="folder"),
        pytest.param(os.mkfifo, "not a regular file", id="pipe"),
        pytest.param(_make_link, "it is a symbolic link", id="link"),
        pytest.param(lambda path: path.parent.rmdir(), "No such file", id="no-folder"),
    ],
)
def test_only_a_regular_file_can_be_an_outcomes_file(
    make: Any, message: str, tmp_path: Path
) -> None:
    """Anything else is rejected, with the reason."""
    folder = tmp_path / "folder"
    folder.mkdir()
    make(folder / "outcomes")

    with pytest.raises(JournalError, match=message):
        OutcomesLog(folder / "outcomes")


def test_a_system_without_posix_locks_is_reported(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are no POSIX file locks, nothing is made."""
    monkeypatch.delattr(os, "O_NOFOLLOW")

    with pytest.raises(JournalError, match="needs POSIX file locks"):
        OutcomesLog(path)
    assert not path.exists()


def test_a_disk_that_fails_at_the_start_is_reported(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose mode cannot be set is not used, and closed."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fchmod", refuse)
        with pytest.raises(JournalError, match="cannot be used: Operation not permitted"):
            OutcomesLog(path)
    OutcomesLog(path).close()


async def test_two_runs_never_write_to_one_file(path: Path) -> None:
    """A second run is rejected before it sends anything; the first one is not disturbed."""
    write(path, LINE)
    transport = FakeTransport()
    with OutcomesLog_at(path) as log:
        async with AdaptyClient("key", transport=transport) as client:
            with pytest.raises(JournalError, match="is in use by another run"):
                await client.v1.profiles.bulk_delete(["a"], **BY, outcomes=path)
        log.write([Entry(2, "b", Outcome(1, "b", OutcomeStatus.DONE))])

    assert transport.requests == []
    assert [line["id"] for line in lines(path)] == ["a", "b"]


def test_another_process_is_rejected(path: Path) -> None:
    """The lock holds between processes."""
    code = "import sys, pathlib; from adapty_async._bulk.outcomes_file import OutcomesLog\n"
    code += "OutcomesLog(pathlib.Path(sys.argv[1]))"
    with OutcomesLog_at(path):
        ended = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=False)

    assert ended.returncode == 1
    assert b"is in use by another run" in ended.stderr


@pytest.mark.parametrize(
    "name",
    ["run.db", "./run.db", "folder/../run.db"]
    + [f"run.db{suffix}" for suffix in ("-wal", "-shm", "-lock", "-journal")],
)
def test_the_journal_is_no_outcomes_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One path for both, however written, is rejected at once; so is a file of the journal."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="outcomes must not be the journal"):
        fake().v1.profiles.bulk_delete(["a"], **BY, outcomes=name, journal=tmp_path / "run.db")


# What a line holds


@given(st.text() | st.text(st.characters(categories=["Cs", "Cc", "Zl", "Zp", "Po"])))
def test_any_text_gives_one_line_that_reads_back(text: str) -> None:
    """No id and no rule breaks a line, for whichever reader, and each is read as it was."""
    outcome: Outcome[str, None] = Outcome(
        0, text, OutcomeStatus.FAILED, error=InvalidInputError(text, text)
    )
    written = _outcomes_file._encoded(Entry(1, text, outcome))

    assert written.decode("ascii").splitlines(keepends=True) == [written.decode()]
    line = parse_line(written)
    assert line is not None
    assert line.error is not None
    read_back = json.loads(json.dumps(text))  # two halves of a pair are one letter in JSON
    assert {line.id, line.error["rule"], line.error["field_name"]} == {read_back}
    assert text.isprintable() <= (read_back == text)


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(json.dumps).map(str.encode))
def test_no_other_text_is_an_outcome(text: bytes) -> None:
    """A line of another kind is None, and never an exception."""
    assert parse_line(text) is None


def test_an_error_of_somebody_else_is_recorded_by_its_type() -> None:
    """Attributes of an exception with the names of our fields are recorded if text or a number."""
    error = ValueError("secret")
    error.status = object()  # type: ignore[attr-defined]
    error.request_id = "r1"  # type: ignore[attr-defined]

    assert error_facts(error) == {
        "type": "ValueError",
        "status": None,
        "error_code": None,
        "field_name": None,
        "request_id": "r1",
    }


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"errors": [{"message": "canary is taken"}]}, id="message"),
        pytest.param({"errors": [{"field_name": "the canary's id"}]}, id="field"),
        pytest.param({"errors": {"of the canary": ["no"]}}, id="field as a key"),
        pytest.param({"errors": [{"source": {"pointer": "/data/the canary"}}]}, id="pointer"),
        pytest.param({"errors": [{"error_code": "no canary"}]}, id="code of an entry"),
        pytest.param({"error_code": "a canary@example.com"}, id="code"),
        pytest.param({"error_code": "secret_live_canary.x"}, id="key as the code"),
        pytest.param({"errors": {"secret_live_canary.x": ["no"]}}, id="key as a field"),
    ],
)
async def test_nothing_of_a_response_or_a_key_is_in_the_file(
    body: dict[str, Any], path: Path
) -> None:
    """A server that echoes what it was sent does not bring that into the file."""
    reply = {"error_code": "bad_request"} | body
    replies = itertools.repeat((400, {"Request-Id": "the canary"}, json.dumps(reply).encode()))
    async with AdaptyClient("secret_live_canary.x", transport=FakeTransport(replies)) as client:
        report = await client.v1.profiles.bulk_delete(["a"], **BY, outcomes=path)

    assert lines(path)[0]["http_status"] == 400
    assert b"canary" not in read(path)
    assert "canary" not in str(report.failures[0].error)


def test_a_line_far_off_costs_no_memory(path: Path) -> None:
    """A line number that no input of that size has is read, and its item not taken for known."""
    write(path, LINE.replace(b":1,", b":%d," % 2**62, 1))
    entry = Entry(2**62, "a", Outcome(0, "a", OutcomeStatus.SKIPPED, earlier=EarlierStatus.DONE))
    with OutcomesLog_at(path) as log:
        log.write([entry])

    assert len(lines(path)) == 2


def test_the_last_line_of_an_id_counts() -> None:
    """Of many ids in any order, each has its last line, and another id has none."""
    statuses, found = list(OutcomeStatus), _outcomes_file._ById()
    chosen = random.Random(1)
    last: dict[str, OutcomeStatus] = {}
    for number in range(1, 30_001):
        one = f"user-{chosen.randrange(20_000)}"
        last[one] = chosen.choice(statuses)
        line = _outcomes_file._encoded(Entry(number, one, Outcome(0, one, last[one])))
        found.load(msgspec.json.decode(line, type=OutcomeLine))

    def rank_of(one: str) -> int:
        return found.rank_of(Entry(1, one, Outcome(0, one, OutcomeStatus.DONE)))

    assert {one: rank_of(one) for one in last} == {
        one: _outcomes_file._RANKS[status] for one, status in last.items()
    }
    assert not any(rank_of(f"other-{number}") for number in range(1000))


# Writing


async def told_of(run: Any) -> list[Any]:
    """Stream a run to its end."""
    async with run:
        return [outcome async for outcome in run]


@pytest.mark.parametrize("journal", [None, "run.db"], ids=["alone", "with-journal"])
async def test_an_outcome_is_on_the_disk_before_it_is_delivered(
    journal: str | None, path: Path, gate: threading.Event
) -> None:
    """While the disk hangs no outcome is delivered, though the requests are over; then all are."""
    gate.clear()
    delivered: list[Any] = []
    transport = FakeTransport(DONE)
    async with AdaptyClient("key", transport=transport) as client:
        options = {**BY, "journal": journal and path.with_name(journal), "outcomes": path}
        run = client.v1.profiles.bulk_delete(
            ids(20), **options, concurrency=20, on_outcome=delivered.append
        )
        task = asyncio.create_task(run)
        await until(lambda: len(transport.requests) == 20)
        await loop_turns(50)
        assert delivered == []
        gate.set()
        await task

    assert len(delivered) == len(lines(path)) == 20


async def test_a_disk_that_hangs_holds_up_no_call_until_too_much_waits(
    path: Path, gate: threading.Event
) -> None:
    """The loop runs and requests are sent while the disk hangs; the buffer in memory is bounded."""
    gate.clear()
    transport = FakeTransport(DONE)
    async with AdaptyClient("key", transport=transport) as client:
        run = client.v1.profiles.bulk_delete(ids(9000), **BY, outcomes=path, concurrency=10)
        task = asyncio.create_task(run)
        await until(lambda: len(transport.requests) >= 4096)
        await loop_turns(500)
        assert len(transport.requests) <= 4096 + 256 + 10
        gate.set()
        report = await task

    assert report.done == len(lines(path)) == 9000


async def test_the_rest_of_an_input_is_read_no_faster_than_the_disk_takes_it(
    path: Path, gate: threading.Event
) -> None:
    """Items that a run that stops itself does not send wait for a disk that hangs, too."""
    gate.clear()
    rejected: Any = itertools.repeat((401, {}, b'{"error_code": "not_authenticated"}'))
    async with fake(rejected) as client:
        run = client.v1.profiles.bulk_delete(ids(9000), **BY, outcomes=path, concurrency=2)
        task = asyncio.create_task(run)
        await until(lambda: run.report.total >= 4096)
        await loop_turns(500)
        assert run.report.total <= 4096 + 256 + 2
        gate.set()
        await task

    assert len(lines(path)) == 9000


async def test_a_run_that_is_cancelled_records_the_items_that_had_ended(
    path: Path, gate: threading.Event
) -> None:
    """An item whose line awaits the disk at cancellation has its line when the run is over."""
    gate.clear()
    transport = FakeTransport(DONE)
    delivered: list[Any] = []
    async with AdaptyClient("key", transport=transport) as client:
        run = client.v1.profiles.bulk_delete(
            ids(5), **BY, outcomes=path, concurrency=5, on_outcome=delivered.append
        )
        task = asyncio.create_task(run)
        await until(lambda: len(transport.requests) == 5)
        await loop_turns(20)
        run.cut_off()
        task.cancel()
        await loop_turns(20)
        assert not task.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert sorted(one.item for one in delivered) == ids(5)
    assert {line["status"] for line in lines(path)} == {"done"}
    assert len(lines(path)) == 5


async def test_a_run_that_is_cancelled_while_its_file_is_opened_leaves_it_to_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is given back, and the same run can be made again."""
    opening, may_open = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        opening.set()
        may_open.wait()

    monkeypatch.setattr(_outcomes_file, "flush_folder", slow)
    file = OutcomesFile(path)
    task = asyncio.create_task(file.open(lambda: None))
    await asyncio.to_thread(opening.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    may_open.set()
    await until(lambda: not is_in_use(path))


async def test_a_file_that_is_gone_ends_the_run(path: Path) -> None:
    """Nothing is written to a file without a path: the run ends with an error."""

    def remove(outcome: Outcome[Any, Any]) -> None:
        path.unlink(missing_ok=True)

    async with fake() as client:
        run = client.v1.profiles.bulk_delete(
            ids(100), **BY, outcomes=path, on_outcome=remove, concurrency=1
        )
        with pytest.raises(JournalError, match="was deleted, moved or replaced during the run"):
            await run

    assert run.report.stop_reason is StopReason.STOPPED
    assert run.report.done < 100


async def test_a_file_that_loses_lines_ends_the_run(path: Path) -> None:
    """A file that somebody empties has no outcomes of the items before, so it is no record."""

    def empty(outcome: Outcome[Any, Any]) -> None:
        if outcome.index == 50:
            os.truncate(path, 0)

    async with fake() as client:
        run = client.v1.profiles.bulk_delete(
            ids(10_000), **BY, outcomes=path, on_outcome=empty, concurrency=1
        )
        with pytest.raises(JournalError, match="was shortened during the run"):
            await run

    assert run.report.stop_reason is StopReason.STOPPED
    assert run.report.done < 10_000


async def test_a_folder_that_is_gone_ends_the_run(tmp_path: Path) -> None:
    """A file whose folder cannot be looked into any more is not there either."""
    folder = tmp_path / "folder"
    folder.mkdir()
    file = OutcomesFile(folder / "outcomes")
    failed: list[bool] = []
    await file.open(lambda: failed.append(True))
    folder.rename(tmp_path / "elsewhere")
    folder.write_bytes(b"")
    file.add(Entry(1, "a", Outcome(0, "a", OutcomeStatus.DONE)))
    await file.saved()
    file.add(Entry(2, "b", Outcome(1, "b", OutcomeStatus.DONE)))
    await file.saved()

    with pytest.raises(JournalError, match="was deleted, moved or replaced"):
        await file.aclose()
    assert failed == [True]


async def test_a_wait_that_is_cancelled_delays_no_other_one(path: Path) -> None:
    """Whoever waits for the same write learns of its end, and the outcome is in the file."""
    file = OutcomesFile(path)
    await file.open(lambda: None)
    file.add(Entry(1, "a", Outcome(0, "a", OutcomeStatus.DONE)))
    cancelled, other = file.flushed(), file.flushed()
    cancelled.cancel()
    await asyncio.wait_for(other, 30)

    assert cancelled.cancelled()
    assert [line["id"] for line in lines(path)] == ["a"]
    await file.aclose()


async def test_a_defect_of_the_writer_is_raised(path: Path) -> None:
    """An outcome that cannot be written is no silent gap: the run ends with the reason."""
    file = OutcomesFile(path)
    await file.open(lambda: None)
    file.add(Entry(1, "a", Outcome(0, "a", OutcomeStatus.DONE, attempts=object())))  # type: ignore[arg-type]
    await file.saved()

    with pytest.raises(NotImplementedError, match="object"):
        await file.aclose()


async def test_what_nobody_waits_for_is_written_soon(path: Path) -> None:
    """A few outcomes are in the file long before the run ends."""
    may_end = asyncio.Event()

    async def transport(request: Request) -> Response:
        if request.headers["adapty-customer-user-id"] == "last":
            await may_end.wait()
        return Response(204, {}, b"")

    async with AdaptyClient("key", transport=transport) as client:
        run = client.v1.profiles.bulk_delete(["a", "b", "last"], **BY, outcomes=path)
        task = asyncio.create_task(run)
        await until(lambda: path.exists() and read(path).count(b"\n") == 2)
        may_end.set()
        await task

    assert len(lines(path)) == 3


@pytest.mark.usefixtures("no_garbage")
def test_a_loop_that_is_gone_is_not_waited_for(path: Path) -> None:
    """A run whose loop was closed closes its file, and raises nothing when it is collected."""
    loop = asyncio.new_event_loop()
    raised: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, raised.append
    arrived: list[Request] = []

    async def transport(request: Request) -> Response:
        arrived.append(request)
        raise await loop.create_future()

    async def begin() -> Any:
        client = AdaptyClient("key", transport=transport)
        run = client.v1.profiles.bulk_delete(["a"], **BY, outcomes=path)
        run.send(None)
        await until(lambda: arrived)
        return run

    try:
        run = loop.run_until_complete(begin())
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            del task
        loop.close()
        run.close()
        del run
        arrived.clear()
        gc.collect()
    finally:
        sys.unraisablehook = hook
    assert [str(each.exc_value) for each in raised] == []
    while is_in_use(path):
        pass  # a thread closes it


def test_closing_again_is_harmless(path: Path) -> None:
    """A file that is closed stays so, and no other file is closed instead."""
    log = OutcomesLog(path)
    log.close()
    with path.open("rb") as other:
        log.close()
        assert other.read() == b""


CHILD = """
import asyncio, resource, sys
from adapty_async import AdaptyClient

async def main(url, key, folder, count, limit):
    if int(limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    async with AdaptyClient(key, base_url=url) as adapty:
        report = await adapty.v1.profiles.bulk_delete(
            [f"user-{number}" for number in range(int(count))], by="customer_user_id",
            journal=f"{folder}/run.db", job_id="j", outcomes=f"{folder}/outcomes.ndjson",
            concurrency=16,
        )
    print(report.total)

"""
RUNNERS = {
    "asyncio": CHILD + "asyncio.run(main(*sys.argv[1:]))",
    "uvloop": CHILD + "import uvloop; uvloop.run(main(*sys.argv[1:]))",
}


#: For tests that run in processes of their own.
ONCE = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@ONCE
@pytest.mark.parametrize("loop", RUNNERS)
async def test_a_run_that_is_killed_and_resumed_is_complete(
    loop: str, sandbox: Sandbox, path: Path
) -> None:
    """Each kill leaves at most a torn line; in the end every id has a line with its outcome."""
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    count = 1200
    sandbox.seed_profiles(ids(count))
    arguments = [RUNNERS[loop], sandbox.url, sandbox.api_key, str(path.parent), str(count), "0"]
    process, output = None, b""
    for kill_at in (200, 500, 900, 0):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", *arguments, stdout=subprocess.PIPE
        )
        if kill_at:
            await arrived(sandbox, kill_at)
            process.kill()
        output, _ = await process.communicate()

    assert process is not None
    assert (process.returncode, output) == (0, b"%d\n" % count)
    ended = {one: line.get("earlier", line["status"]) for one, line in last(path).items()}
    assert set(ended) == set(ids(count))
    assert set(ended.values()) <= {"done", "absent"}
    assert sandbox.customer_user_ids() == set()


@ONCE
async def test_a_full_disk_ends_the_run_and_nothing_is_lost(sandbox: Sandbox, path: Path) -> None:
    """The run ends with an error; with free space again, a further run completes the file."""
    count = 2000
    write(path, LINE * 40_000)  # more than the journal takes
    limit = len(read(path)) + 20_000
    arguments = [RUNNERS["asyncio"], sandbox.url, sandbox.api_key, str(path.parent)]

    async def run(limit: int) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", *arguments, str(count), str(limit),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    status, output = await run(limit)
    assert status == 1
    assert re.search(
        r"JournalError: the outcomes file .* cannot be written: File too large", output
    )
    sent = len(sandbox.arrivals())
    assert sent < count
    assert await run(0) == (0, f"{count}\n")
    ended = {one: line.get("earlier", line["status"]) for one, line in last(path).items()}
    ended.pop("a")
    assert ended == dict.fromkeys(ids(count), "absent")
    assert len(sandbox.arrivals()) <= count + 32
