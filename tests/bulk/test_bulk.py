"""Bulk runs: each item has one outcome, concurrency is bounded, and no task outlives its run."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sized
from random import Random
from typing import Any
from uuid import UUID

import anyio
import msgspec
import pytest

from adapty_async import (
    AdaptyClient,
    AdaptyMailClient,
    AuthenticationError,
    BulkReport,
    BulkRun,
    ConfigError,
    ConnectError,
    ConnectionLostError,
    DecodeError,
    InvalidInputError,
    JournalError,
    Operation,
    Outcome,
    OutcomeStatus,
    RequestRejectedError,
    RequestTimeoutError,
    RetryPolicy,
    v2,
)
from adapty_async._api.call import CallState, Request, Response
from adapty_async._bulk.settings import RunSettings
from adapty_async._bulk.workers import Worker, source_of
from adapty_async._flow.limits import StopSignal
from adapty_async._runtime.loop import result_of, until_ended
from adapty_async.bulk import EarlierStatus, StopReason
from adapty_async.statistics import CircuitState
from adapty_async.testing import FakeTransport
from adapty_async.v1 import CREATE_PROFILE, DELETE_PROFILE, GET_PROFILE, ProfileAttributes
from tests._support import loop_turns
from tests.raw_server import STALL, RawServer, Received, Steps, page, reply

pytestmark = pytest.mark.usefixtures("nothing_is_left")

KEY = "secret_live_TEST.key"
DELETED = Response(204, {}, b"")
REJECTED = Response(401, {}, b'{"errors":[],"error_code":"not_authenticated"}')
REFUSED = Response(400, {}, b'{"errors":[],"error_code":"bad_request"}')
PAGE = Response(404, {"Content-Type": "text/html"}, b"<html></html>")
OK_PAGE = Response(200, {"Content-Type": "text/html"}, b"<html></html>")
BROKEN = Response(500, {}, b"")
THROTTLED = Response(429, {}, b'{"errors":[],"error_code":"rate_limited"}')
WAIT = Response(429, {"Retry-After": "50"}, b'{"errors":[],"error_code":"rate_limited"}')
SOON = Response(429, {"Retry-After": "0"}, b"")


class Api:
    """
    A fake of the server-side API in memory: it responds by id, and can delay responses.

    Attributes:
        sent: the ids of all requests, in order.
        in_flight: requests without a response yet.
        most: the maximum that were in flight concurrently.
    """

    def __init__(
        self, answers: Mapping[str, Response] | None = None, *, hold: Iterable[str] = ()
    ) -> None:
        self._answers = answers or {}
        self._held = {identity: asyncio.Event() for identity in hold}
        self._changed = asyncio.Event()
        self.sent: list[str] = []
        self.in_flight = 0
        self.most = 0

    async def __call__(self, request: Request) -> Response:
        """Respond to one request."""
        identity = request.headers["adapty-customer-user-id"]
        self.sent.append(identity)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        self._changed.set()
        try:
            await asyncio.sleep(0)
            if identity in self._held:
                await self._held[identity].wait()
        finally:
            self.in_flight -= 1
        return self._answers.get(identity, self._answers.get("*", DELETED))

    def release(self, *identities: str) -> None:
        """Send the delayed responses."""
        for identity in identities or self._held:
            self._held[identity].set()

    async def until_sent(self, count: int) -> None:
        """Wait until *n* requests have arrived."""
        while len(self.sent) < count:
            self._changed.clear()
            await self._changed.wait()


class Reading:
    """An input that remembers what was taken from it, and may end in an exception."""

    def __init__(self, items: Iterable[str], error: Exception | None = None) -> None:
        self._items = items
        self._error = error
        self.read: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for item in self._items:
            self.read.append(item)
            yield item
        if self._error is not None:
            raise self._error

    async def live(self) -> AsyncIterator[str]:
        """Yield the same items, each after an iteration of the loop."""
        for item in self._items:
            await asyncio.sleep(0)
            self.read.append(item)
            yield item
        if self._error is not None:
            raise self._error


def ids(count: int) -> list[str]:
    """Return *n* ids."""
    return [f"u{number}" for number in range(count)]


def endless() -> Iterator[str]:
    """Yield ids for ever."""
    number = 0
    while True:
        yield f"u{number}"
        number += 1


def erase(transport: Api, items: Any, **options: Any) -> BulkRun[str, None]:
    """Return a run of deletes without retries."""
    client = AdaptyClient(KEY, transport=transport, retry=RetryPolicy(attempts=1))
    return client.v1.profiles.bulk_delete(items, by="customer_user_id", **options)


def create(identity: str) -> Operation[Any]:
    """Return an operation that must not be retried blindly."""
    return Operation(CREATE_PROFILE, (("adapty-customer-user-id", identity),), ProfileAttributes())


def assert_adds_up(report: BulkReport[Any, Any], total: int) -> None:
    """Check that every item that was read is in exactly one count."""
    assert report.total == sum(report.counts.values()) == total
    assert len(report.failures) + report.failures_omitted == report.failed + report.unknown


async def settle() -> None:
    """Let everything run that can run."""
    await loop_turns(300)


async def until_cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def turns_of_others(
    run: Awaitable[BulkReport[str, None]],
) -> tuple[BulkReport[str, None], int]:
    """Await a run, and count the loop iterations of another task meanwhile."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(other())
    report = await run
    await until_cancelled(task)
    return report, turns


async def consume(run: BulkRun[str, None], into: list[Outcome[str, None]]) -> None:
    """Stream a run."""
    async with run:
        async for outcome in run:
            into.append(outcome)  # noqa: PERF401  what came before an exception counts too


# Inputs and counts

INPUTS: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "generator": lambda items: (item for item in items),
    "iterable": Reading,
    "async-generator": lambda items: Reading(items).live(),
}


@pytest.mark.parametrize("streamed", [False, True], ids=["awaited", "streamed"])
@pytest.mark.parametrize("count", [0, 1, 7, 100])
@pytest.mark.parametrize("make", INPUTS.values(), ids=INPUTS)
async def test_every_item_of_every_kind_of_input_is_done_once(
    make: Callable[[list[str]], Any],
    count: int,
    streamed: bool,  # noqa: FBT001  a parametrised case
) -> None:
    """All items are sent, once each, and all are in the report."""
    api = Api()
    run = erase(api, make(ids(count)), concurrency=8)
    outcomes: list[Outcome[str, None]] = []
    if streamed:
        await consume(run, outcomes)
        assert sorted(outcome.index for outcome in outcomes) == list(range(count))
    else:
        await run

    assert_adds_up(run.report, count)
    assert run.report.done == run.report.requests == count
    assert run.report.ok
    assert run.report.stop_reason is None
    assert Counter(api.sent) == Counter(ids(count))
    assert api.most <= 8


async def test_duplicates_are_items_of_their_own() -> None:
    """Nothing is merged."""
    api = Api()
    report = await erase(api, ["u1", "u1", "u2", "u1"])

    assert_adds_up(report, 4)
    assert Counter(api.sent) == {"u1": 3, "u2": 1}


BAD_ITEMS: list[Any] = [None, "", " u", "ü", 7, "a\nb", b"u", ["u"], "x" * 2000]


async def test_bad_items_fail_alone() -> None:
    """An item that cannot be sent ends as failed, without a request, and the others are done."""
    api = Api()
    items = [item for bad in BAD_ITEMS for item in (bad, "good")]
    outcomes: list[Outcome[Any, None]] = []
    report = await erase(api, items, on_outcome=outcomes.append)

    assert_adds_up(report, len(items))
    assert (report.failed, report.done) == (len(BAD_ITEMS), len(BAD_ITEMS))
    assert report.requests == len(api.sent) == len(BAD_ITEMS)
    for outcome in report.failures:
        assert isinstance(outcome.error, InvalidInputError)
        assert (outcome.attempts, outcome.item) == (0, items[outcome.index])
    assert report.stop_reason is None


async def test_a_long_row_of_bad_items_leaves_the_loop_free() -> None:
    """Other tasks run while all items are invalid."""
    report, turns = await turns_of_others(erase(Api(), [""] * 3000, concurrency=4))

    assert_adds_up(report, 3000)
    assert report.failures_omitted == 2900
    assert turns >= 500


async def test_a_long_rest_leaves_the_loop_free() -> None:
    """Other tasks run while a list's rest is counted."""
    run = erase(Api({"u0": REFUSED}), ids(20_000), concurrency=1, fail_fast=True)
    report, turns = await turns_of_others(run)

    assert report.not_sent == 20_000 - 1
    assert turns >= 20_000 // 256


async def test_updates_that_are_no_pairs_fail_alone() -> None:
    """Every item of a bulk update is checked by itself."""
    attributes = ProfileAttributes(first_name="Jane")
    items: list[Any] = [None, "u1", ("u1",), ("u1", None), ("u1", attributes), [1, 2]]
    client = AdaptyClient(KEY, transport=Api({"*": Response(200, {}, b"{}")}))
    report = await client.v1.profiles.bulk_update(items, by="customer_user_id")

    assert_adds_up(report, 6)
    assert (report.done, report.failed) == (1, 5)


async def test_things_that_are_no_operations_fail_alone() -> None:
    """A run of operations checks each item."""
    items: list[Any] = [None, create("u1"), "u2"]
    client = AdaptyClient(KEY, transport=Api({"*": Response(200, {}, b"{}")}))
    report = await client.bulk(items)

    assert_adds_up(report, 3)
    assert (report.done, report.failed) == (1, 2)


async def test_a_defect_while_an_operation_is_made_is_raised() -> None:
    """A defect, such as a body that cannot be encoded, does not pass for a call's failure."""
    impossible = Operation(CREATE_PROFILE, (), object())
    client = AdaptyClient(KEY, transport=Api())
    run = client.bulk([impossible])
    with pytest.raises(AttributeError, match="custom_attributes"):
        await run

    assert_adds_up(run.report, 1)


async def test_each_response_has_its_outcome() -> None:
    """Outcomes are done, absent, failed or unknown, with attempts, error and result."""
    answers = {
        "here": DELETED,
        "gone": Response(404, {}, b'{"errors":[],"error_code":"profile_does_not_exist"}'),
        "bad": REFUSED,
        "down": Response(500, {}, b""),
    }
    client = AdaptyClient(KEY, transport=Api(answers), retry=RetryPolicy(attempts=1))
    erasures = [Operation(DELETE_PROFILE, (("adapty-customer-user-id", name),)) for name in answers]
    outcomes: list[Outcome[Any, Any]] = []
    report = await client.bulk(
        [*erasures, create("down"), create("bad")], ordered=True, on_outcome=outcomes.append
    )

    assert [outcome.status.value for outcome in outcomes] == [
        "done",
        "absent",
        "failed",
        "failed",
        "unknown",
        "failed",
    ]
    assert_adds_up(report, 6)
    assert not report.ok


async def test_an_outcome_has_the_result_and_what_it_took() -> None:
    """An outcome has the decoded response, the number of requests, and the seconds."""
    answers = [
        Response(429, {"Retry-After": "0"}, b""),
        Response(201, {}, b'{"data":{"profile_id":"p1"}}'),
        REFUSED,
    ]
    transport = FakeTransport([(each.status, each.headers, each.body) for each in answers])
    outcomes: list[Outcome[Any, Any]] = []
    client = AdaptyClient(KEY, transport=transport)
    begun = time.monotonic()
    items: list[Any] = [create("u1"), create("u2"), "no operation"]
    await client.bulk(items, concurrency=1, on_outcome=outcomes.append)
    took = time.monotonic() - begun

    done, failed, bad = outcomes
    assert done.result is not None
    assert done.result.profile_id == "p1"
    assert (done.attempts, done.throttled) == (2, 1)
    assert isinstance(failed.error, RequestRejectedError)
    assert failed.error.attempts == failed.attempts == 1
    assert failed.result is bad.result is None
    assert all(0 < each.elapsed < took for each in outcomes)


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (lambda: create("u1"), OutcomeStatus.UNKNOWN),
        (
            lambda: Operation(DELETE_PROFILE, (("adapty-customer-user-id", "u1"),)),
            OutcomeStatus.FAILED,
        ),
    ],
    ids=["create", "delete"],
)
@pytest.mark.parametrize("fail_fast", [False, True], ids=["plain", "fail-fast"])
async def test_a_defect_stops_the_run(
    make: Callable[[], Operation[Any]],
    status: OutcomeStatus,
    fail_fast: bool,  # noqa: FBT001  a parametrised case
) -> None:
    """A defect's exception is raised, and an item that may be done is not safe to retry."""
    transport = FakeTransport([LookupError("the transport's own")])
    run = AdaptyClient(KEY, transport=transport).bulk([make()], fail_fast=fail_fast)
    with pytest.raises(LookupError, match="the transport's own"):
        await run

    assert_adds_up(run.report, 1)
    assert run.report.counts[status] == 1


# How much at a time


async def test_the_server_never_sees_more_than_the_concurrency() -> None:
    """At most `concurrency` requests are in flight."""
    releases = {n: asyncio.Event() for n in range(40)}
    arrived = 0

    def answer(_: Received) -> Steps:
        nonlocal arrived
        arrived += 1
        if arrived % 5 == 0:  # five responses together
            for number in range(arrived - 5, arrived):
                releases[number].set()
        return (releases[arrived - 1], reply())

    async with RawServer(then=answer) as server, AdaptyClient(KEY, base_url=server.url) as client:
        report = await client.v1.profiles.bulk_delete(ids(40), by="profile_id", concurrency=5)

        assert server.most_active == 5
        assert server.connections == 5
    assert report.done == 40


@pytest.mark.parametrize("concurrency", [1, 3, 16])
@pytest.mark.parametrize("ordered", [False, True], ids=["as-they-end", "ordered"])
@pytest.mark.parametrize("live", [False, True], ids=["sync", "async"])
async def test_a_slow_consumer_holds_the_reading_up(
    concurrency: int,
    ordered: bool,  # noqa: FBT001  a parametrised case
    live: bool,  # noqa: FBT001  a parametrised case
) -> None:
    """Items that are read and not yet delivered never exceed twice the concurrency."""
    source = Reading(ids(200))
    run = erase(Api(), source.live() if live else source, concurrency=concurrency, ordered=ordered)
    handed_over = 0
    async with run:
        await settle()
        assert len(source.read) == 2 * concurrency
        async for _ in run:
            handed_over += 1
            if handed_over < 20:
                await settle()
            assert len(source.read) - handed_over <= 2 * concurrency

    assert handed_over == 200


@pytest.mark.parametrize("streamed", [False, True], ids=["awaited", "streamed"])
async def test_a_slow_first_item_holds_the_reading_up_when_ordered(
    streamed: bool,  # noqa: FBT001  a parametrised case
) -> None:
    """The buffer behind a slow item is bounded, and all outcomes are delivered in order."""
    api, source = Api(hold=["u0"]), Reading(ids(100))
    outcomes: list[Outcome[str, None]] = []
    run = erase(
        api,
        source,
        concurrency=4,
        ordered=True,
        on_outcome=None if streamed else outcomes.append,
    )
    task = asyncio.create_task(consume(run, outcomes) if streamed else run._complete())
    await settle()
    assert len(source.read) == 8
    assert outcomes == []
    api.release()
    await task

    assert [outcome.index for outcome in outcomes] == list(range(100))


@pytest.mark.parametrize("streamed", [False, True], ids=["awaited", "streamed"])
async def test_few_of_many_workers_continue_at_once(streamed: bool) -> None:  # noqa: FBT001
    """Thousands of workers whose items need no request do not block the event loop together."""
    items, outcomes = ids(6000), list[Outcome[str, None]]()
    most, built = 0, 0

    def reject(item: str) -> Operation[None]:
        nonlocal built
        built += 1
        raise InvalidInputError("item", "must be another")

    adapty = AdaptyClient(KEY, transport=Api())
    run = adapty.bulk(items, build=reject, concurrency=3000)
    task = asyncio.create_task(consume(run, outcomes) if streamed else run._complete())
    while not task.done():
        before = built
        await asyncio.sleep(0)
        most = max(most, built - before)
    await task

    assert_adds_up(run.report, 6000)
    assert run.report.failed == 6000
    assert most <= 2 * 256  # those that continue, and those that start


async def test_workers_that_do_not_continue_yet_end_with_their_run() -> None:
    """A stop cancels those of many workers that wait for a later iteration of the loop."""
    built = 0

    def reject(item: str) -> Operation[None]:
        nonlocal built
        built += 1
        if built == 3000:
            run.stop()
        raise InvalidInputError("item", "must be another")

    run = AdaptyClient(KEY, transport=Api()).bulk(ids(9000), build=reject, concurrency=1000)
    report = await run

    assert (report.total, report.failed) == (built, built)
    assert built < 3000 + 256


@pytest.mark.parametrize("count", [3, 300])
async def test_no_more_workers_start_than_there_are_items(count: int) -> None:
    """Of many workers, those that start first may find the end of the input."""
    report = await erase(Api(), ids(count), concurrency=10_000)

    assert (report.done, report.total) == (count, count)


async def test_a_run_that_is_stopped_while_its_workers_start_starts_no_more() -> None:
    """Its items have outcomes; those that were not sent are not sent."""
    api = Api(hold=ids(10_000))
    run = erase(api, ids(10_000), concurrency=10_000)
    task = asyncio.create_task(run._complete())
    await api.until_sent(10)
    run.stop()
    api.release()
    report = await task

    assert report.total == sum(report.counts.values()) < 5000
    assert len(api.sent) == report.requests == report.done


async def test_stopping_does_not_lift_the_bound() -> None:
    """Reading what was not sent after several failures at once waits for the consumer too."""
    source = SizedReading(ids(5000))
    api = Api({"*": REFUSED}, hold=ids(8))
    handed_over = 0
    async with erase(api, source, concurrency=8, fail_fast=True) as run:
        await api.until_sent(8)
        api.release()
        await settle()
        async for _ in run:
            handed_over += 1
            if handed_over % 500 == 1:
                await settle()
            assert len(source.read) - handed_over <= 16

    assert_adds_up(run.report, 5000)
    assert (run.report.failed, run.report.not_sent) == (8, 4992)


class SizedReading(Reading):
    """The same as a collection."""

    def __len__(self) -> int:
        return len(list(self._items))


async def test_ordered_outcomes_come_in_the_order_of_the_input() -> None:
    """In any order of the responses, outcomes are delivered in the order of the items."""
    items = ids(30)
    api = Api(hold=items)
    outcomes: list[Outcome[str, None]] = []
    run = erase(api, items, concurrency=10, ordered=True)
    task = asyncio.create_task(consume(run, outcomes))
    await api.until_sent(10)
    random = Random(1)
    for start in range(0, 30, 10):
        batch = items[start : start + 10]
        random.shuffle(batch)
        for identity in batch:
            api.release(identity)
            await asyncio.sleep(0)
    await task

    assert [outcome.item for outcome in outcomes] == items


async def test_outcomes_come_as_they_end_by_default() -> None:
    """A slow item does not hold the others up."""
    api = Api(hold=["u0"])
    order: list[str] = []
    async with erase(api, ids(20), concurrency=2) as run:
        async for outcome in run:
            order.append(outcome.item)
            if len(order) == 19:
                api.release()

    assert order == [*ids(20)[1:], "u0"]


@pytest.mark.parametrize("attempts", [1, 2], ids=["plain", "with-repeats"])
async def test_a_rate_holds_in_every_window(attempts: int) -> None:
    """As the client sends them, requests and retries keep to the rate after a small burst."""
    times: list[float] = []
    seen = Counter[str]()

    async def send(request: Request) -> Response:
        times.append(time.monotonic())
        identity = request.headers["adapty-customer-user-id"]
        seen[identity] += 1
        repeats = attempts if int(identity[1:]) % 2 else 1
        return DELETED if seen[identity] == repeats else BROKEN

    client = AdaptyClient(KEY, transport=send, retry=RetryPolicy(wait_initial=0.01))
    report = await client.v1.profiles.bulk_delete(ids(40), by="customer_user_id", rate=200)

    assert report.requests == len(times) == 20 + 20 * attempts
    for first, start in enumerate(times):
        for last in range(first, len(times)):
            assert last - first <= (times[last] - start) * 200 + 20  # one more for preemption


# Stopping


async def test_what_is_in_flight_when_a_run_is_stopped_gets_the_drain_time() -> None:
    """A run that is stopped ends within its drain time, however slow a response is."""
    api = Api(hold=["u0"])
    run = erase(api, ids(20), concurrency=2, drain=0.05)
    task = asyncio.ensure_future(run.__aenter__())
    await task
    async for outcome in run:
        if outcome.index == 3:
            run.stop()
            run.stop()
    await run.__aexit__(None, None, None)

    report = run.report
    assert (report.stop_reason, report.failed) == (StopReason.STOPPED, 1)
    assert isinstance(report.failures[0].error, ConnectionLostError)
    assert report.total == report.done + report.failed < 20


@pytest.mark.parametrize("way", [BulkRun.stop, BulkRun.cut_off], ids=["stop", "cut off"])
def test_a_run_that_is_stopped_before_it_starts_reads_nothing(
    way: Callable[[BulkRun[str, None]], None],
) -> None:
    """A later await returns an empty report; a stop needs no loop."""
    api = Api()
    run = erase(api, ids(20))
    way(run)

    async def use() -> BulkReport[str, None]:
        return await run

    report = asyncio.run(use())

    assert (report.total, report.stop_reason, api.sent) == (0, StopReason.STOPPED, [])


async def test_cutting_a_run_off_waits_for_nothing() -> None:
    """Items in flight are reported at once, and before the start nothing happens."""
    api = Api(hold=["u0", "u1"])
    run = erase(api, ids(20), concurrency=2, drain=3600.0)
    task = asyncio.ensure_future(run._complete())
    await api.until_sent(2)
    run.cut_off()
    report = await task

    assert (report.total, report.failed, report.stop_reason) == (2, 2, StopReason.STOPPED)
    for failure in report.failures:
        assert str(failure.error) == (
            "cancelled before the response arrived, operation v1.profiles.delete, attempts 1"
        )


@pytest.mark.parametrize("streamed", [False, True], ids=["awaited", "streamed"])
async def test_fail_fast_sends_no_more_after_a_failure(
    streamed: bool,  # noqa: FBT001  a parametrised case
) -> None:
    """Requests in flight end, and a list's rest is reported as not sent."""
    api = Api({"u5": REFUSED})
    run = erase(api, ids(1000), concurrency=4, fail_fast=True)
    outcomes: list[Outcome[str, None]] = []
    if streamed:
        await consume(run, outcomes)
        assert len(outcomes) == 1000
    report = run.report if streamed else await run

    assert_adds_up(report, 1000)
    assert report.stop_reason is StopReason.FAIL_FAST
    assert report.failed == 1
    assert report.not_sent == 1000 - len(api.sent) >= 990
    assert not report.ok


async def test_fail_fast_lets_absent_items_pass() -> None:
    """An item that does not exist is no failure."""
    gone = Response(404, {}, b'{"errors":[],"error_code":"profile_does_not_exist"}')
    report = await erase(Api({"*": gone}), ids(10), fail_fast=True)

    assert (report.absent, report.stop_reason, report.ok) == (10, None, True)


async def test_a_rejected_key_stops_a_list() -> None:
    """After five rejections in a row the rest is not sent, and is counted."""
    api = Api({"*": REJECTED})
    report = await erase(api, ids(1000), concurrency=2)

    assert_adds_up(report, 1000)
    assert report.stop_reason is StopReason.KEY_REJECTED
    assert 5 <= len(api.sent) == report.failed <= 6
    assert isinstance(report.failures[0].error, AuthenticationError)


@pytest.mark.parametrize("live", [False, True], ids=["sync", "async"])
async def test_a_rejected_key_stops_the_reading(
    live: bool,  # noqa: FBT001  a parametrised case
) -> None:
    """An input whose end is unknown is not read on."""
    api, source = Api({"*": REJECTED}), Reading(endless())
    report = await erase(api, source.live() if live else source, concurrency=2)

    assert_adds_up(report, len(source.read))
    assert report.stop_reason is StopReason.KEY_REJECTED
    assert len(source.read) <= 8


async def test_rejections_between_successes_stop_nothing() -> None:
    """Adapty responds 401 for a missing profile too."""
    api = Api({f"u{n}": REJECTED for n in range(100) if n % 5})
    report = await erase(api, ids(100), concurrency=1)

    assert_adds_up(report, 100)
    assert (report.failed, report.done, report.stop_reason) == (80, 20, None)


async def test_a_wrong_address_stops_the_run() -> None:
    """A server that responds to every request with a page is not the API."""
    async with (
        RawServer(then=(page(404),)) as server,
        AdaptyClient(KEY, base_url=server.url) as client,
    ):
        report = await client.v1.profiles.bulk_delete(ids(500), by="profile_id", concurrency=4)

        assert 20 <= len(server.requests) <= 24
    assert_adds_up(report, 500)
    assert report.stop_reason is StopReason.WRONG_ADDRESS
    assert report.absent == 0


DELETIONS: dict[str, Callable[[AdaptyClient, AdaptyMailClient], BulkRun[str, None]]] = {
    "v1": lambda adapty, _: adapty.v1.profiles.bulk_delete(ids(100), by="profile_id"),
    "v2": lambda adapty, _: adapty.v2.profiles.bulk_delete(ids(100), by="profile_id"),
    "mail": lambda _, mail: mail.profiles.bulk_delete(ids(100), by="customer_user_id"),
}


@pytest.mark.parametrize("name", DELETIONS)
async def test_json_of_another_server_erases_nobody(name: str) -> None:
    """An object with content is no success of a deletion, which has none at the API."""
    async with (
        RawServer(then=(reply(200, b'{"status":"ok"}'),)) as server,
        AdaptyClient(KEY, base_url=server.url) as adapty,
        AdaptyMailClient(KEY, base_url=server.url) as mail,
    ):
        report = await DELETIONS[name](adapty, mail)

        assert len(server.requests) < 100
    assert_adds_up(report, 100)
    assert report.done == report.absent == 0
    assert report.stop_reason is StopReason.WRONG_ADDRESS
    assert isinstance(report.failures[0].error, DecodeError)


def turning(answers: Callable[[int], Response]) -> Api:
    """Return an API whose responses depend on the number of earlier requests."""

    class Turning(Api):
        """An API in front of which something changes."""

        async def __call__(self, request: Request) -> Response:
            """Respond to one request."""
            number = len(self.sent)
            await super().__call__(request)
            return answers(number)

    return Turning()


@pytest.mark.parametrize("page", [PAGE, OK_PAGE], ids=["404", "200"])
async def test_a_firewall_that_responds_in_the_middle_of_a_run_ends_it(page: Response) -> None:
    """Twenty responses in a row not from the API are an outage; after `max_outage` the run ends."""
    api = turning(lambda number: DELETED if number < 10 else page)
    report = await erase(api, ids(1000), concurrency=4, max_outage=0.1)

    assert_adds_up(report, 1000)
    assert (report.done, report.stop_reason) == (10, StopReason.OUTAGE)
    assert report.failed < report.not_sent


async def test_a_run_resumes_when_a_firewall_is_out_of_the_way() -> None:
    """Items that meet it later are retried, since the items are not its cause."""
    api = turning(lambda number: PAGE if 10 <= number < 32 else DELETED)
    report = await erase(api, ids(100), concurrency=1)

    assert (report.done, report.failed, report.stop_reason) == (81, 19, None)


async def test_an_item_that_the_firewall_rejects_each_time_fails_alone() -> None:
    """The item's content may be the reason why the firewall blocks it."""
    bad = {f"u{number}" for number in range(10, 30)}
    report = await erase(Api(dict.fromkeys(bad, PAGE)), ids(100), concurrency=1)

    assert (report.done, report.failed, report.stop_reason) == (80, 20, None)


async def test_single_odd_responses_stop_nothing() -> None:
    """Only many in a row are an outage."""
    api = turning(lambda number: PAGE if number % 2 else DELETED)
    report = await erase(api, ids(100), concurrency=1, max_outage=0.1)

    assert (report.done, report.failed, report.stop_reason) == (50, 50, None)


async def test_the_same_rejection_of_fifty_items_in_a_row_ends_a_run() -> None:
    """Sending more of them would not help; a success begins the count again."""
    api = turning(lambda number: DELETED if number == 30 else REFUSED)
    report = await erase(api, ids(200), concurrency=1)

    assert_adds_up(report, 200)
    assert (report.done, report.failed, report.not_sent) == (1, 80, 119)
    assert report.stop_reason is StopReason.SAME_ERROR


async def test_profiles_that_do_not_exist_end_no_run_of_deletes() -> None:
    """They are absent, however many there are."""
    missing = Response(404, {}, b'{"errors":[],"error_code":"profile_does_not_exist"}')
    report = await erase(Api({"*": missing}), ids(200), concurrency=1)

    assert (report.absent, report.stop_reason) == (200, None)


async def test_a_certificate_that_is_not_accepted_ends_a_run_at_once() -> None:
    """The circuit stays closed: a service that is up, but not trusted, is no outage."""

    async def untrusted(_: Request) -> Response:
        raise ConnectError("the certificate is not accepted", permanent=True)

    client = AdaptyClient(KEY, transport=untrusted)
    run = client.v1.profiles.bulk_delete(ids(1000), by="customer_user_id", concurrency=4)
    report = await run

    assert_adds_up(report, 1000)
    assert report.failed <= 4
    assert report.stop_reason is StopReason.WRONG_ADDRESS
    assert client.statistics().buckets["v1"].circuit is CircuitState.CLOSED


@pytest.mark.parametrize("seconds", [None, "0", "600"], ids=["no wait asked", "none", "long"])
async def test_a_run_that_is_only_throttled_ends_after_max_outage(seconds: str | None) -> None:
    """Time without a success counts, whatever the server responds, also while every item waits."""
    headers = {} if seconds is None else {"Retry-After": seconds}
    throttled = Response(429, headers, b'{"errors":[],"error_code":"rate_limited"}')
    report = await erase(Api({"*": throttled}), ids(200), max_outage=0.3)

    assert_adds_up(report, 200)
    assert (report.done, report.stop_reason) == (0, StopReason.OUTAGE)
    assert report.not_sent > 0


async def test_a_pause_that_outlasts_a_run_ends_it_while_all_of_its_items_wait_to_be_retried() -> (
    None
):
    """No item has to be in the queue to notice that the server asks for more than is left."""
    throttled = Response(429, {"Retry-After": "600"}, b'{"errors":[],"error_code":"rate_limited"}')
    async with asyncio.timeout(50):
        report = await erase(Api({"*": throttled}), ids(2), max_outage=100.0)

    assert_adds_up(report, 2)
    assert report.stop_reason is StopReason.OUTAGE
    assert report.elapsed < 50.0


async def test_stop_lets_what_is_in_flight_end() -> None:
    """No item is read after a stop, and those that were are done."""
    api, source = Api(hold=ids(3)), Reading(endless())
    run = erase(api, source, concurrency=3)
    task = asyncio.ensure_future(run._complete())
    await api.until_sent(3)
    run.stop()
    run.stop()
    await settle()
    assert not task.done()
    api.release()
    report = await task

    assert_adds_up(report, 3)
    assert (report.done, report.stop_reason) == (3, StopReason.STOPPED)
    assert source.read == ids(3)


async def test_stop_after_the_end_changes_nothing() -> None:
    """A report is final."""
    run = erase(Api(), ids(3))
    report = await run
    run.stop()

    assert run.report == report
    assert run.report.ok


async def test_stop_before_the_start_sends_nothing() -> None:
    """A run that was stopped first has nothing to report."""
    api = Api()
    run = erase(api, ids(3))
    run.stop()
    report = await run

    assert_adds_up(report, 0)
    assert api.sent == []
    assert not report.ok


async def test_stop_after_fail_fast_ends_the_count_of_the_rest_too() -> None:
    """A run that the caller stops does not read its rest."""
    source = SizedReading(ids(1000))
    api = Api({"u0": REFUSED})
    handed_over = 0
    async with erase(api, source, concurrency=2, fail_fast=True) as run:
        async for _ in run:
            handed_over += 1
            if handed_over == 10:
                await settle()
                run.stop()

    assert_adds_up(run.report, len(source.read))
    assert handed_over == len(source.read) < 20
    assert run.report.stop_reason is StopReason.FAIL_FAST


async def test_stop_wakes_a_run_whose_source_never_yields_again() -> None:
    """A live source may be quiet for ever."""
    quiet = asyncio.Event()
    cleaned_up = asyncio.Event()

    async def live() -> AsyncIterator[str]:
        try:
            yield "u0"
            yield "u1"
            quiet.set()
            await asyncio.Event().wait()
        finally:
            cleaned_up.set()

    outcomes: list[Outcome[str, None]] = []
    run = erase(Api(), live(), concurrency=4)
    task = asyncio.create_task(consume(run, outcomes))
    await quiet.wait()
    run.stop()
    await task

    assert_adds_up(run.report, 2)
    assert len(outcomes) == run.report.done == 2
    assert cleaned_up.is_set()


# Workers


class SomeLimit:
    """A worker limit that the test sets."""

    def __init__(self, count: int) -> None:
        self.limit = count
        self.most_workers = 10
        self.more = 0

    def more_wanted(self) -> int:
        """Return how many more workers the test wants."""
        more, self.more = self.more, 0
        return more

    def should_retire(self, workers: int) -> bool:
        """Return whether there are more workers than needed."""
        return workers > self.limit


def plain_run(
    items: Any, process: Callable[[int, str, Worker], Awaitable[Outcome[str, None]]], **changes: Any
) -> BulkRun[str, None]:
    """Return a run of a function that makes no call."""
    settings: dict[str, Any] = {"concurrency": 10, "fail_fast": False, "ordered": False}
    settings |= {"drain": 1.0, "on_outcome": None, "worker_limit": None}
    settings |= {"stopping": StopSignal(), "patience": lambda: math.inf, "check_interval": 1.0}
    return BulkRun(
        source_of(items),
        process,
        changes.pop("stop_check", lambda _: None),
        lifespan=changes.pop("lifespan", lambda _: contextlib.nullcontext()),
        pass_over=changes.pop("pass_over", not_sent),
        settings=RunSettings(**{**settings, **changes}),
    )


async def not_sent(index: int, item: str, _: Worker) -> Outcome[str, None]:
    """Be not processed."""
    return Outcome(index, item, OutcomeStatus.NOT_SENT)


async def sent(index: int, item: str, _: Worker) -> Outcome[str, None]:
    """Be done at once, as if something had been sent."""
    return Outcome(index, item, OutcomeStatus.DONE, 1)


class Held:
    """
    A process whose items end when the test lets them.

    Attributes:
        busy: number of items that are being processed.
    """

    def __init__(self) -> None:
        self.busy = 0
        self._may_end = asyncio.Semaphore(0)

    async def process(self, index: int, item: str, worker: Worker) -> Outcome[str, None]:
        """Wait as if for a response."""
        worker.call = CallState(on_wire=True)
        self.busy += 1
        await self._may_end.acquire()
        self.busy -= 1
        return await sent(index, item, worker)

    async def end(self, items: int) -> int:
        """End a number of items, and return how many are being processed after that."""
        for _ in range(items):
            self._may_end.release()
        await settle()
        return self.busy


async def test_a_run_asks_its_limit_after_each_item_how_many_workers_are_useful() -> None:
    """It spawns more, up to the concurrency; those it can spare end after their item."""
    worker_limit, items = SomeLimit(3), Held()
    run = plain_run(endless(), items.process, worker_limit=worker_limit, check_interval=1e9)
    task = asyncio.ensure_future(run._complete())
    assert await items.end(0) == 3
    for more, busy in ((0, 3), (2, 5), (100, 10)):
        worker_limit.limit += more
        worker_limit.more = more
        assert await items.end(1) == busy
    worker_limit.limit = 4
    assert await items.end(10) == 4
    worker_limit.more, worker_limit.limit = 3, 7
    assert await items.end(1) == 7
    run.stop()
    worker_limit.more = 3
    assert await items.end(7) == 0

    assert_adds_up(await task, 21)


async def test_a_run_asks_its_limit_while_every_item_waits() -> None:
    """It asks at regular intervals, too."""
    worker_limit, items = SomeLimit(1), Held()
    run = plain_run(endless(), items.process, worker_limit=worker_limit, check_interval=0.001)
    task = asyncio.ensure_future(run._complete())
    assert await items.end(0) == 1
    worker_limit.more, worker_limit.limit = 2, 3
    while items.busy < 3:
        await settle()
    run.stop()
    await items.end(3)

    assert_adds_up(await task, 3)


async def test_a_run_spawns_no_worker_once_its_input_has_ended() -> None:
    """It asks no more, also if it takes long to close its journal."""
    worker_limit, looks = SomeLimit(2), 0

    @contextlib.asynccontextmanager
    async def lifespan(_: BulkRun[Any, Any]) -> AsyncIterator[None]:
        yield
        worker_limit.more = 5
        before = looks
        while looks < before + 3:
            await settle()

    def patience() -> float:
        nonlocal looks
        looks += 1
        return 1e9

    run = plain_run(
        ids(3),
        sent,
        worker_limit=worker_limit,
        lifespan=lifespan,
        patience=patience,
        check_interval=0.001,
    )

    assert (await run).done == 3
    assert worker_limit.more == 5


async def test_a_stopped_run_whose_outage_lasts_too_long_reads_no_more() -> None:
    """Whoever has left a stream takes no outcomes of the rest, for which the run would wait."""
    items, patience = Held(), 1e9
    loop = asyncio.get_running_loop()
    run = plain_run(ids(100), items.process, patience=lambda: patience, check_interval=0.01)
    async with asyncio.timeout(10), run:
        await settle()
        run.stop()
        patience, started = 0.0, loop.time()
        while loop.time() < started + 0.02:  # it would look once more
            await settle()
        await items.end(10)

    assert_adds_up(run.report, 10)


@pytest.mark.parametrize(
    "error",
    [GeneratorExit("its own"), ValueError("its own")],
    ids=lambda error: type(error).__name__,
)
async def test_a_run_whose_source_fails_at_its_rest_closes_after_the_items_before(
    error: BaseException,
) -> None:
    """No item is still looked up when the journal closes, whatever the source raises."""
    pending, left = 0, []

    class Source(Sized):
        def __iter__(self) -> Iterator[str]:
            yield from ids(5)
            raise error

        def __len__(self) -> int:
            return 9

    @contextlib.asynccontextmanager
    async def lifespan(run: BulkRun[Any, Any]) -> AsyncIterator[None]:
        yield
        left.append((pending, run.report.total))

    async def failed(index: int, item: str, _: Worker) -> Outcome[str, None]:
        return Outcome(index, item, OutcomeStatus.FAILED, 1, error=InvalidInputError("id", "no"))

    async def pass_over(index: int, item: str, _: Worker) -> Outcome[str, None]:
        nonlocal pending
        pending += 1
        await settle()
        pending -= 1
        return Outcome(index, item, OutcomeStatus.NOT_SENT)

    run = plain_run(
        Source(), failed, lifespan=lifespan, pass_over=pass_over, fail_fast=True, concurrency=4
    )
    with pytest.raises(type(error), match="its own"):
        await run

    assert left == [(0, 5)]


async def test_a_run_whose_concurrency_nobody_set_begins_with_64_workers() -> None:
    """More are spawned only once they increase the throughput."""
    api = Api(hold=ids(300))
    task = asyncio.ensure_future(erase(api, ids(300))._complete())
    await api.until_sent(64)
    await settle()
    assert len(api.sent) == 64
    api.release()

    assert_adds_up(await task, 300)


@pytest.mark.parametrize("has_callback", [False, True], ids=["nobody", "on_outcome"])
@pytest.mark.parametrize("streamed", [False, True], ids=["awaited", "streamed"])
async def test_the_lifespan_knows_whether_outcomes_are_delivered_early(
    streamed: bool,  # noqa: FBT001  a parametrised case
    has_callback: bool,  # noqa: FBT001  a parametrised case
) -> None:
    """Before the end of the run, that is."""
    delivered: list[bool] = []

    def context(run: BulkRun[Any, Any]) -> contextlib.nullcontext[None]:
        delivered.append(run.is_watched)
        return contextlib.nullcontext()

    on_outcome = (lambda _: None) if has_callback else None
    run = plain_run(ids(3), sent, lifespan=context, on_outcome=on_outcome)
    if streamed:
        await consume(run, [])
    else:
        await run

    assert delivered == [streamed or has_callback]


async def test_the_rest_of_a_run_of_any_function_is_not_sent() -> None:
    """Nobody knows more about its items."""
    run = plain_run(ids(600), sent, stop_check=lambda _: StopReason.OUTAGE, concurrency=2)
    report = await run

    assert report.total == 600
    assert report.not_sent == 600 - report.done


async def test_the_caller_says_what_is_left_of_each_item_that_was_not_sent() -> None:
    """The run calls it with the position of each of them."""

    async def pass_over(index: int, item: str, worker: Worker) -> Outcome[str, None]:
        if index < 7:
            return Outcome(index, item, OutcomeStatus.NOT_SENT)
        return Outcome(index, item, OutcomeStatus.SKIPPED, earlier=EarlierStatus.ABSENT)

    outcomes: list[Outcome[str, None]] = []
    run = plain_run(
        ids(10),
        sent,
        pass_over=pass_over,
        stop_check=lambda _: StopReason.OUTAGE,
        concurrency=1,
        on_outcome=outcomes.append,
    )
    await run

    assert [outcome.status for outcome in outcomes] == [
        OutcomeStatus.DONE,
        *[OutcomeStatus.NOT_SENT] * 6,
        *[OutcomeStatus.SKIPPED] * 3,
    ]
    assert {outcome.earlier for outcome in outcomes[7:]} == {EarlierStatus.ABSENT}


async def test_a_worker_that_is_cancelled_takes_nothing_more() -> None:
    """Its item may end as if nothing had been; the run is stopped all the same."""

    async def process(index: int, item: str, worker: Worker) -> Outcome[str, None]:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        return await sent(index, item, worker)

    source = Reading(endless())
    report = await plain_run(source, process, concurrency=1)

    assert (report.done, report.stop_reason) == (1, StopReason.STOPPED)
    assert source.read == ["u0"]


async def test_who_waits_for_an_end_waits_even_when_cancelled() -> None:
    """And is cancelled then."""
    ending = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(until_ended(ending))
    for _ in range(3):
        await asyncio.sleep(0)
        waiting.cancel()
    assert not waiting.done()
    ending.set_result(None)
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_cancelled_wait_for_a_result_carries_the_failure() -> None:
    """The cancellation is raised from the task's error, which would be lost otherwise."""
    failing = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(result_of(failing))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    failure = JournalError("the disk is full")
    failing.set_exception(failure)
    with pytest.raises(asyncio.CancelledError) as raised:
        await waiting
    assert raised.value.__cause__ is failure


async def test_who_waits_for_an_end_does_not_hear_of_a_scope() -> None:
    """A cancelled scope around it has to wait as well."""
    ending = asyncio.get_running_loop().create_future()
    has_waited = False
    with anyio.CancelScope() as scope:
        scope.cancel()
        asyncio.get_running_loop().call_later(0.01, ending.set_result, None)
        await until_ended(ending)
        has_waited = True

    assert has_waited


# The ways to use a run


async def test_a_run_can_be_awaited_inside_its_block() -> None:
    """Outcomes that were not streamed are counted."""
    async with erase(Api(), ids(50), concurrency=4) as run:
        first = await anext(run)
        report = await run

    assert first.status is OutcomeStatus.DONE
    assert_adds_up(report, 50)
    assert report.done == 50
    assert await run == report


async def test_two_consumers_share_a_stream() -> None:
    """Each outcome goes to one of them, and both see the end."""
    shares: list[list[int]] = [[], []]

    async def take(share: list[int]) -> None:
        async for outcome in run:
            share.append(outcome.index)
            await asyncio.sleep(0)

    async with erase(Api(), ids(50), concurrency=4) as run:
        await asyncio.gather(*map(take, shares))

    assert sorted(shares[0] + shares[1]) == list(range(50))
    with pytest.raises(StopAsyncIteration):
        await anext(run)


async def test_a_run_is_used_once() -> None:
    """A second use raises an error, and does not affect the first."""
    run = erase(Api(), ids(3))
    await run
    with pytest.raises(RuntimeError, match="a bulk run is used once"):
        await run
    with pytest.raises(RuntimeError, match="a bulk run is used once"):
        async with run:
            pass

    assert_adds_up(run.report, 3)


async def test_a_run_that_is_awaited_cannot_be_entered_meanwhile() -> None:
    """The second use fails, the first ends well."""
    api = Api(hold=ids(2))
    run = erase(api, ids(50), concurrency=2)
    task = asyncio.ensure_future(run._complete())
    await api.until_sent(2)
    with pytest.raises(RuntimeError, match="a bulk run is used once"):
        await run.__aenter__()
    api.release()
    report = await task

    assert_adds_up(report, 50)


async def test_outcomes_are_streamed_inside_the_block_only() -> None:
    """An iteration over a run outside `async with` is an error, not a hang."""
    run = erase(Api(), ids(3))
    with pytest.raises(RuntimeError, match="inside 'async with' only"):
        await anext(run)
    await run


def test_a_run_that_is_never_used_warns() -> None:
    """A forgotten await is not silent."""
    runs = [erase(Api(), ids(3))]
    text = r"^a bulk run was made but never awaited, so nothing was sent$"
    with pytest.warns(RuntimeWarning, match=text) as caught:
        runs.clear()

    assert isinstance(
        caught[0].source, BulkRun
    )  # for tracemalloc, which records where it was created


def test_a_run_that_cannot_be_made_does_not_warn() -> None:
    """The error is enough."""
    with pytest.raises(TypeError, match="missing"):
        BulkRun()  # type: ignore[call-arg]  # that is the point
    gc.collect()


def test_a_run_is_made_without_a_loop_and_used_in_one() -> None:
    """Nothing is bound to a loop before the run starts."""
    run = erase(Api(), ids(3))

    async def use() -> BulkReport[str, None]:
        return await run

    assert asyncio.run(use()).done == 3


def test_the_report_of_a_run_that_has_not_started() -> None:
    """It is empty, and so is its time; the run shows that it was not awaited."""
    run = erase(Api(), ids(3))
    report, text = run.report, repr(run)
    run._started = 0.0  # it would warn

    assert (report.total, report.elapsed) == (0, 0.0)
    assert text == "BulkRun(not started)"
    assert repr(run) == "BulkRun(BulkReport(total=0))"


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"speed": 1}, ConfigError, "unknown option: speed"),
        ({"concurrency": 0}, ConfigError, "concurrency must be a whole number from 1"),
        ({"concurrency": True}, ConfigError, "concurrency must be a whole number from 1"),
        ({"concurrency": 2.0}, ConfigError, "concurrency must be a whole number from 1"),
        ({"concurrency": 10_001}, ConfigError, "concurrency must be .* from 1 to 10,000"),
        ({"on_outcome": settle}, ConfigError, "on_outcome must be a plain function"),
        ({"drain": 0}, ConfigError, "drain must be a number above 0"),
        ({"drain": float("inf")}, ConfigError, "drain must be a number above 0"),
        ({"rate": 0}, ConfigError, "rate must be a number above 0"),
    ],
    ids=[
        *("unknown", "none", "bool", "float", "too-many", "async"),
        *("no-drain", "endless-drain", "no-rate"),
    ],
)
async def test_options_are_checked_when_the_run_is_made(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    """A mistake does not wait for the first item."""
    with pytest.raises(error, match=text):
        erase(Api(), ids(3), **options)


async def test_options_that_are_none_are_the_defaults() -> None:
    """A caller may pass its own optional settings on."""
    report = await erase(Api(), ids(3), concurrency=None, rate=None, on_outcome=None)

    assert report.done == 3


@pytest.mark.parametrize("streamed", [False, True], ids=["awaited", "streamed"])
async def test_on_outcome_is_called_once_an_item(
    streamed: bool,  # noqa: FBT001  a parametrised case
) -> None:
    """Outcomes of items that were not sent are delivered, too."""
    delivered: list[tuple[int, str]] = []
    api = Api({"u20": REFUSED})
    run = erase(
        api,
        ids(600),
        concurrency=4,
        fail_fast=True,
        on_outcome=lambda outcome: delivered.append((outcome.index, outcome.item)),
    )
    if streamed:
        await consume(run, [])
    else:
        await run

    assert sorted(delivered) == list(enumerate(ids(600)))


@pytest.mark.parametrize("ordered", [False, True], ids=["as-they-end", "ordered"])
@pytest.mark.parametrize("streamed", [False, True], ids=["awaited", "streamed"])
async def test_an_on_outcome_that_raises_stops_the_run(
    streamed: bool,  # noqa: FBT001  a parametrised case
    ordered: bool,  # noqa: FBT001  a parametrised case
) -> None:
    """Its own exception is raised, once, and the items that were read are counted."""
    source, delivered = Reading(endless()), Counter[int]()

    def on_outcome(outcome: Outcome[str, None]) -> None:
        delivered[outcome.index] += 1
        if outcome.index >= 10:
            raise LookupError(f"item {outcome.index}")

    run = erase(Api(), source, concurrency=4, ordered=ordered, on_outcome=on_outcome)
    with pytest.raises(LookupError, match=r"item 1[0-3]"):
        await (consume(run, []) if streamed else run)

    assert_adds_up(run.report, len(source.read))
    assert set(delivered.values()) == {1}
    assert len(source.read) <= 18
    assert run.report.stop_reason is StopReason.STOPPED


async def test_an_on_outcome_that_raises_for_what_was_not_sent() -> None:
    """An exception of `on_outcome` during the report of the rest is raised, too."""

    def on_outcome(outcome: Outcome[str, None]) -> None:
        if outcome.status is OutcomeStatus.NOT_SENT:
            raise LookupError("not sent")

    run = erase(Api({"u0": REFUSED}), ids(10), fail_fast=True, concurrency=1, on_outcome=on_outcome)
    with pytest.raises(LookupError, match="not sent"):
        await run

    assert_adds_up(run.report, 2)


async def test_an_on_outcome_that_fails_a_test_fails_it() -> None:
    """A BaseException, such as a test's failure, is not swallowed."""

    def on_outcome(outcome: Outcome[str, None]) -> None:
        pytest.fail(f"item {outcome.index}")

    run = erase(Api(), ids(3), on_outcome=on_outcome, concurrency=1)
    with pytest.raises(pytest.fail.Exception, match=r"^item 0$"):
        await run

    assert_adds_up(run.report, 1)


# Sources that fail


@pytest.mark.parametrize("streamed", [False, True], ids=["awaited", "streamed"])
@pytest.mark.parametrize("live", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("count", [0, 1, 50])
async def test_the_sources_own_exception_is_raised(
    count: int,
    live: bool,  # noqa: FBT001  a parametrised case
    streamed: bool,  # noqa: FBT001  a parametrised case
) -> None:
    """Every item that was read before it is done and reported."""
    source = Reading(ids(count), LookupError("line 51 of the file"))
    api = Api()
    outcomes: list[Outcome[str, None]] = []
    run = erase(api, source.live() if live else source, concurrency=4)
    with pytest.raises(LookupError, match="line 51 of the file"):
        await (consume(run, outcomes) if streamed else run)

    assert_adds_up(run.report, count)
    assert run.report.done == len(api.sent) == count
    assert len(outcomes) == (count if streamed else 0)
    assert not run.report.ok


async def test_a_collection_that_changes_while_it_is_read_is_an_error() -> None:
    """The run ends with Python's own error."""
    items = set(ids(50))
    run = erase(Api(), items, concurrency=1, on_outcome=lambda _: items.add("another"))
    with pytest.raises(RuntimeError, match="changed size during iteration"):
        await run

    assert_adds_up(run.report, 1)


async def test_a_source_that_fails_while_the_rest_is_read() -> None:
    """Its exception is raised also when the run had been stopped before."""
    source = SizedReading(ids(50), LookupError("the rest"))
    run = erase(Api({"*": REFUSED}), source, fail_fast=True)
    with pytest.raises(LookupError, match="the rest"):
        await run

    assert_adds_up(run.report, 50)


async def test_a_source_that_was_cancelled_has_not_ended() -> None:
    """An input that raises CancelledError by itself ends the run with that error, as it was."""

    async def live() -> AsyncIterator[str]:
        yield "u0"
        raise asyncio.CancelledError("the input's own")

    run = erase(Api(), live(), concurrency=2)
    with pytest.raises(asyncio.CancelledError, match=r"^the input's own$"):
        await run

    assert_adds_up(run.report, 1)
    assert run.report.stop_reason is StopReason.STOPPED
    assert not run.report.ok


# Leaving


@pytest.mark.parametrize("ordered", [False, True], ids=["as-they-end", "ordered"])
@pytest.mark.parametrize("live", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("taken", [0, 1, 5, 30])
async def test_leaving_the_stream_early_ends_the_run(
    taken: int,
    live: bool,  # noqa: FBT001  a parametrised case
    ordered: bool,  # noqa: FBT001  a parametrised case
) -> None:
    """Reading stops, requests in flight end, and every item that was read is reported."""
    source, api, seen = Reading(endless()), Api(), 0
    run = erase(api, source.live() if live else source, concurrency=4, ordered=ordered)
    async with run:
        while seen < taken:
            await anext(run)
            seen += 1

    assert_adds_up(run.report, len(source.read))
    assert run.report.done == len(api.sent) == len(source.read) <= taken + 8
    assert api.in_flight == 0
    assert run.report.stop_reason is StopReason.STOPPED


async def test_an_exception_in_the_block_comes_out_as_it_is() -> None:
    """The caller's exception wins, after what is in flight has ended."""
    source, api = Reading(endless(), LookupError("the source's")), Api()
    run = erase(api, source, concurrency=4)

    async def use() -> None:
        async with run:
            async for outcome in run:
                assert outcome.index / 0

    with pytest.raises(ZeroDivisionError):
        await use()

    assert_adds_up(run.report, len(source.read))
    assert run.report.done == len(source.read)


async def test_a_failure_while_the_block_is_left_is_raised() -> None:
    """Leaving early does not hide an exception of on_outcome."""
    api = Api(hold=["u1"])

    def on_outcome(outcome: Outcome[str, None]) -> None:
        if outcome.item == "u1":
            raise LookupError("u1")

    async def use() -> None:
        async with erase(api, ids(2), concurrency=2, on_outcome=on_outcome) as run:
            await anext(run)
            api.release()

    with pytest.raises(LookupError, match="u1"):
        await use()


@pytest.mark.parametrize("streamed", [False, True], ids=["awaited", "streamed"])
@pytest.mark.parametrize("way", ["cancel", "timeout", "move-on-after", "task-group"])
async def test_a_cancelled_run_lets_what_is_in_flight_end(
    way: str,
    streamed: bool,  # noqa: FBT001  a parametrised case
) -> None:
    """Whatever cancels the caller, requests in flight get their responses; no others are sent."""
    source, api = Reading(endless()), Api(hold=ids(4))
    run = erase(api, source, concurrency=4)

    async def use() -> None:
        await (consume(run, []) if streamed else run)

    async def release() -> None:
        while run.report.stop_reason is None:  # noqa: ASYNC110  nothing tells when it changes
            await asyncio.sleep(0)
        await settle()
        assert len(api.sent) == 4
        api.release()

    releasing = asyncio.create_task(release())
    task = asyncio.create_task(_cancelled_by(way, use(), api))
    await asyncio.gather(task, return_exceptions=True)
    await releasing

    assert_adds_up(run.report, 4)
    assert run.report.done == 4
    assert source.read == api.sent == ids(4)
    assert run.report.stop_reason is StopReason.STOPPED


async def _let_expire(
    start: Awaitable[None], expire: Callable[[], object], using: Awaitable[None]
) -> None:
    """Await what uses a run, and let a time limit be over as soon as requests are in flight."""

    async def after_the_start() -> None:
        await start
        expire()

    expiring = asyncio.create_task(after_the_start())
    try:
        await using
    finally:
        await expiring


async def _cancelled_by(way: str, using: Any, api: Api) -> None:
    await_start = api.until_sent(4)
    if way == "cancel":
        task = asyncio.create_task(using)
        await await_start
        await until_cancelled(task)
    elif way == "timeout":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit:
                await _let_expire(await_start, lambda: limit.reschedule(0.0), using)
    elif way == "move-on-after":
        with anyio.move_on_after(math.inf) as scope:
            await _let_expire(await_start, lambda: setattr(scope, "deadline", 0.0), using)
        assert scope.cancelled_caught
    else:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: using)
            await await_start
            group.cancel_scope.cancel()


@pytest.mark.parametrize("way", ["cancel", "move-on-after"])
async def test_requests_that_do_not_end_within_the_drain_are_cancelled(way: str) -> None:
    """A stalled request is closed after the drain time, and its item is reported."""
    source = Reading(endless())
    async with (
        RawServer(then=(STALL,)) as server,
        AdaptyClient(KEY, base_url=server.url) as client,
    ):
        run = client.v1.profiles.bulk_delete(
            source, by="customer_user_id", concurrency=4, drain=0.05
        )
        task = asyncio.ensure_future(run._complete())
        await server.until_arrived(4)
        if way == "cancel":
            await until_cancelled(task)
        else:
            with anyio.move_on_after(0.001):
                await asyncio.wait({task})
            await until_cancelled(task)
        await server.until_left()

        assert len(server.requests) == 4
    assert_adds_up(run.report, 4)
    assert run.report.failed == run.report.requests == 4
    assert all(isinstance(it.error, ConnectionLostError) for it in run.report.failures)
    assert run.report.elapsed < 20  # of the 30 s of an attempt


async def test_an_error_gives_what_is_in_flight_no_more_than_the_drain_time() -> None:
    """A run whose source raises while no response arrives ends with that error."""
    api: Any = Api(hold=ids(2))

    async def source() -> AsyncIterator[str]:
        for item in ids(2):
            yield item
        await api.until_sent(2)
        raise LookupError("the source broke")

    run = erase(api, source(), concurrency=3, drain=0.02)
    with pytest.raises(LookupError, match="the source broke"):
        await run

    assert_adds_up(run.report, 2)
    assert run.report.failed == 2


async def test_creates_that_are_cancelled_are_unknown() -> None:
    """An item that must not be retried blindly is unknown, and an unsent one is not sent."""
    sent: Any = Api(hold=ids(4))
    client = AdaptyClient(KEY, transport=sent)
    run = client.bulk((create(item) for item in endless()), concurrency=4, drain=0.02, rate=40)
    task = asyncio.ensure_future(run._complete())
    await sent.until_sent(4)
    await until_cancelled(task)

    assert_adds_up(run.report, 4)
    assert run.report.unknown == 4


async def test_items_that_wait_for_their_turn_are_not_sent() -> None:
    """An item that is cancelled before its first request is reported as not sent."""
    api = Api()
    run = erase(api, endless(), concurrency=4, rate=0.1, drain=0.02)
    task = asyncio.ensure_future(run._complete())
    await api.until_sent(1)
    await settle()
    await until_cancelled(task)

    report = run.report
    assert_adds_up(report, report.total)
    assert (report.done, report.not_sent, report.requests) == (1, 4, 1)


async def test_a_long_wait_for_a_retry_is_cancelled() -> None:
    """A run does not sleep a Retry-After out when it is left."""
    client = AdaptyClient(KEY, transport=Api({"*": WAIT}), retry=RetryPolicy(deadline=100.0))
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with client.v1.profiles.bulk_delete(
        endless(), by="customer_user_id", concurrency=4, drain=0.02
    ) as run:
        await settle()

    assert loop.time() - started < 25  # of the 50 s that the server asked for
    assert_adds_up(run.report, 4)
    assert (run.report.failed, run.report.throttled) == (4, 4)


@pytest.mark.parametrize("cancellations", [2, 3, 10])
async def test_a_second_cancellation_does_not_wait_for_the_drain(cancellations: int) -> None:
    """A second cancellation ends the run at once, and every item is still reported."""
    api, source = Api(hold=ids(4)), Reading(endless())
    run = erase(api, source, concurrency=4, drain=60.0)
    task = asyncio.ensure_future(run._complete())
    await api.until_sent(4)
    for _ in range(cancellations):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task

    assert_adds_up(run.report, 4)
    assert run.report.failed == 4
    assert api.in_flight == 0


class Stubborn(Api):
    """An API whose requests take some loop iterations to be cancelled."""

    async def __call__(self, request: Request) -> Response:
        """Respond to one request."""
        try:
            return await super().__call__(request)
        finally:
            for _ in range(10):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)


async def test_cancelling_again_and_again_leaves_no_task() -> None:
    """The run ends first, and then the cancellation propagates."""
    api = Stubborn(hold=ids(4))
    run = erase(api, endless(), concurrency=4, drain=60.0)
    task = asyncio.ensure_future(run._complete())
    await api.until_sent(4)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)

    assert task.cancelled()
    assert_adds_up(run.report, 4)
    assert api.in_flight == 0


@pytest.mark.parametrize("turns", range(6))
async def test_a_run_that_is_cancelled_as_it_starts(turns: int) -> None:
    """At whichever loop iteration it is cancelled, every item that was read is reported."""
    api, source = Api(), Reading(endless())
    run = erase(api, source, concurrency=4)
    task = asyncio.ensure_future(run._complete())
    await asyncio.sleep(0)
    for _ in range(turns):
        await asyncio.sleep(0)
    await until_cancelled(task)

    assert_adds_up(run.report, len(source.read))
    assert run.report.done == len(api.sent) == len(source.read)


def test_a_loop_that_ends_takes_no_more_items() -> None:
    """When asyncio cancels everything at once, workers do not start on further items."""
    api, source = Api(hold=ids(4)), Reading(endless())
    run = erase(api, source, concurrency=4, drain=0.02)

    async def main() -> asyncio.Task[Any]:
        background = asyncio.ensure_future(run._complete())
        await api.until_sent(4)
        return background

    assert asyncio.run(main()).cancelled()
    assert_adds_up(run.report, 4)
    assert source.read == api.sent == ids(4)


def test_a_loop_that_ends_as_a_run_starts() -> None:
    """A run whose workers never began ends all the same."""
    source = Reading(endless())
    run = erase(Api(), source)

    async def main() -> asyncio.Task[Any]:
        background = asyncio.ensure_future(run._complete())
        await asyncio.sleep(0)
        return background

    assert asyncio.run(main()).cancelled()
    assert_adds_up(run.report, 0)
    assert source.read == []
    assert run.report.stop_reason is StopReason.STOPPED


async def test_a_stream_may_be_passed_on_by_a_generator() -> None:
    """A run that is used inside an async generator may be ended by another task."""
    api, source = Api(), Reading(endless())
    run = erase(api, source, concurrency=4)

    async def outcomes() -> AsyncIterator[Outcome[str, None]]:
        async with run:
            async for outcome in run:
                yield outcome

    stream = outcomes()
    with anyio.fail_after(50):
        await anext(stream)
    with anyio.move_on_after(50) as scope:
        await anext(stream)
    closing: Any = stream
    await asyncio.create_task(closing.aclose())

    assert not scope.cancelled_caught
    assert_adds_up(run.report, len(source.read))
    assert run.report.done == len(source.read)


async def test_one_runs_end_does_not_touch_another() -> None:
    """Runs on one client are independent of each other."""
    api = Api({"bad": REFUSED})
    reports = await asyncio.gather(
        erase(api, ["bad", *ids(100)], fail_fast=True, concurrency=1), erase(api, ids(100))
    )

    assert [report.done for report in reports] == [0, 100]
    assert [report.not_sent for report in reports] == [100, 0]


async def test_a_deadline_begins_with_an_items_first_turn() -> None:
    """Items are not charged for the queue in front of them."""
    retry = RetryPolicy(deadline=1.0)
    async with (
        RawServer() as server,
        AdaptyClient(KEY, base_url=server.url, retry=retry) as client,
    ):
        report = await client.v1.profiles.bulk_delete(
            ids(20), by="customer_user_id", concurrency=20, rate=14
        )

    assert report.done == 20
    assert report.elapsed > 1.0


async def test_a_timeout_of_every_attempt_is_failed_where_repeating_is_safe() -> None:
    """A delete without a response may be sent again by the caller."""
    async with (
        RawServer(then=(STALL,)) as server,
        AdaptyClient(
            KEY, base_url=server.url, timeout=0.5, retry=RetryPolicy(2, wait_initial=0.001)
        ) as client,
    ):
        report = await client.v1.profiles.bulk_delete(ids(3), by="customer_user_id")

        assert len(server.requests) == report.requests == 6
    assert report.failed == 3
    assert isinstance(report.failures[0].error, RequestTimeoutError)
    assert report.failures[0].attempts == 2


# All of it together


class Chaos(Api):
    """An API that responds at random, after some loop iterations, and raises at times."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random
        self._choices = [DELETED] * 12 + [REFUSED, REJECTED, PAGE, SOON]

    async def __call__(self, request: Request) -> Response:
        """Respond to one request."""
        await super().__call__(request)
        for _ in range(self._random.randrange(6)):
            await asyncio.sleep(0)
        if self._random.random() < 0.03:
            raise ConnectionLostError("lost")
        return self._random.choice(self._choices)


def any_run(
    random: Random, api: Api, on_outcome: Callable[[Outcome[str, None]], object]
) -> tuple[BulkRun[str, None], Reading]:
    """Return a run with any options, and its input."""
    error = random.choice([None, None, LookupError("the source's")])
    source = random.choice([Reading, SizedReading])(ids(random.choice([0, 3, 40, 200])), error)
    run = erase(
        api,
        source.live() if random.random() < 0.4 else source,
        concurrency=random.choice([1, 2, 5, 16]),
        ordered=random.random() < 0.5,
        fail_fast=random.random() < 0.2,
        on_outcome=on_outcome,
        drain=random.choice([0.001, 5.0]),
    )
    return run, source


async def end_somehow(random: Random, run: BulkRun[str, None], task: asyncio.Task[Any]) -> None:
    """Let a run end by itself, stop it, or cancel it once or twice, at any moment."""
    way = random.choice(["none", "none", "stop", "cancel", "cancel-twice"])
    for _ in range(1 + random.randrange(60)):
        await asyncio.sleep(0)
    if way == "stop":
        run.stop()
    elif way != "none":
        task.cancel()
    if way == "cancel-twice":
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait({task})


@pytest.mark.parametrize("seed", range(200))
async def test_counts_add_up_whatever_happens(seed: int) -> None:
    """For any input, options, responses and end, each item has one outcome; few are in flight."""
    random = Random(seed)
    fatal = random.choice([10**9, 10**9, random.randrange(200)])
    delivered: Counter[int] = Counter()

    def on_outcome(outcome: Outcome[str, None]) -> None:
        delivered[outcome.index] += 1
        if outcome.index == fatal:
            raise LookupError("on_outcome's")

    api = Chaos(random)
    run, source = any_run(random, api, on_outcome)
    outcomes: list[Outcome[str, None]] = []
    streamed = random.random() < 0.5
    task = asyncio.ensure_future(consume(run, outcomes) if streamed else run._complete())
    await end_somehow(random, run, task)

    error = None if task.cancelled() else task.exception()
    assert error is None or isinstance(error, LookupError)
    assert_adds_up(run.report, len(source.read))
    assert (api.in_flight, run.report.requests) == (0, len(api.sent))
    assert api.most <= run._settings.concurrency
    assert set(delivered.values()) <= {1}
    indexes = [outcome.index for outcome in outcomes]
    assert len(indexes) == len(set(indexes))
    if error is None and not task.cancelled():
        assert sorted(delivered) == list(range(len(source.read)))
        assert not streamed or sorted(indexes) == sorted(delivered)


async def test_requests_about_one_profile_wait_for_each_other_whatever_they_are() -> None:
    """Requests of different kinds and with further headers share one lock if ids are equal."""
    in_flight = Counter[str]()
    most = Counter[str]()

    async def transport(request: Request) -> Response:
        who = request.headers.get("adapty-customer-user-id", "u")
        in_flight[who] += 1
        most[who] = max(most[who], in_flight[who])
        for _ in range(5):
            await asyncio.sleep(0)
        in_flight[who] -= 1
        return Response(200, {}, b'{"data":{}}')

    attributes = v2.ProfileAttributes(first_name="Ada")
    operations = [
        v2.update_profile(attributes, customer_user_id="u", platform="iOS"),
        v2.update_profile(attributes, customer_user_id="u"),
        v2.create_profile(customer_user_id="u", profile_id=str(UUID(int=1))),
        v2.validate_paddle_purchase(customer_user_id="u", paddle_token="live_1"),
        v2.update_profile(attributes, customer_user_id="w"),
    ]
    headers = operations[0].headers[::-1]
    operations.append(msgspec.structs.replace(operations[0], headers=headers))
    client = AdaptyClient(KEY, transport=transport)
    await client.bulk(operations)

    assert most == {"u": 1, "w": 1}


async def test_what_is_about_nobody_waits_for_the_same_request_only() -> None:
    """Requests that differ in their parameters are in flight together."""
    in_flight = Counter[str]()
    most = Counter[str]()

    async def transport(request: Request) -> Response:
        for what in (request.url[-6:], "all"):
            in_flight[what] += 1
            most[what] = max(most[what], in_flight[what])
        await asyncio.sleep(0)
        in_flight.subtract((request.url[-6:], "all"))
        return Response(200, {}, b'{"data":{}}')

    headers = (("adapty-platform", "iOS"),)
    operations = [
        Operation(GET_PROFILE, headers, parameters=(("page", str(page)),)) for page in (1, 2, 1, 2)
    ]
    report = await AdaptyClient(KEY, transport=transport).bulk(operations)

    assert report.done == 4
    assert most == {"page=1": 1, "page=2": 1, "all": 2}


async def test_a_run_with_a_rate_changes_no_other_runs_rate() -> None:
    """Neither the creation nor the run of one changes the adaptive rate."""
    client = AdaptyClient(KEY, transport=Api())
    profiles = client.v1.profiles
    await profiles.bulk_delete(ids(5), by="customer_user_id")
    learned = client._executor.layers.limiters.get("v1").rate_source
    before = learned.rate
    await profiles.bulk_delete(ids(5), by="customer_user_id", rate=0.5 * before)

    assert learned.rate == before
    assert client.statistics().rate == 0.5 * before
