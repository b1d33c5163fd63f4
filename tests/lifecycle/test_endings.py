"""Ends of a bulk run, on both event loops: their effect on the run, its items and its caller."""

from __future__ import annotations

import asyncio
import gc
import inspect
import math
import os
import sys
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import pytest

from adapty_async import (
    AdaptyClient,
    BulkReport,
    BulkRun,
    ConnectError,
    ConnectionLostError,
    JournalError,
    Limits,
    Operation,
    Outcome,
    OutcomeStatus,
    RateLimitError,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
)
from adapty_async._api.call import Request, Response
from adapty_async._flow import limits as _limits
from adapty_async.bulk import EarlierStatus, ItemState, StopReason, summarise
from adapty_async.v1 import create_profile, delete_profile
from tests._support import LOOPS, loop_turns
from tests.raw_server import DONE, STALL, RawServer, Steps, reply

pytestmark = pytest.mark.usefixtures("nothing_is_left")

KEY = "secret_live_TEST.key"
DELETED = Response(204, {}, b"")
#: The responses of the transports.
CREATED = Response(201, {}, b'{"data": {}}')


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run each test on both event loops."""
    return request.param


def ids(count: int) -> list[str]:
    """Return ids."""
    return [f"u{number}" for number in range(count)]


class Api:
    """
    A transport that holds its responses back until it is released.

    Attributes:
        sent: the ids of all requests.
    """

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.released = asyncio.Event()

    async def __call__(self, request: Request) -> Response:
        """Respond to one request."""
        self.sent.append(request.headers["adapty-customer-user-id"])
        await self.released.wait()
        return DELETED


def erase(transport: Any, items: Any, **options: Any) -> BulkRun[str, None]:
    """Make a run of deletes."""
    client = AdaptyClient(KEY, transport=transport)
    return client.v1.profiles.bulk_delete(items, by="customer_user_id", **options)


async def answer(_: Request) -> Response:
    """End in the next loop iteration."""
    await asyncio.sleep(0)
    return DELETED


# An exception that ends a run is raised as it was


class Mine(BaseException):
    """An error of an unexpected kind."""


Raise: TypeAlias = Callable[[BaseException, int], BulkRun[str, None]]


def in_source(error: BaseException, at: int, transport: Any = answer) -> BulkRun[str, None]:
    """Raise while an item is read."""

    def items() -> Iterator[str]:
        yield from ids(at)
        raise error

    return erase(transport, items(), concurrency=4)


def in_live_source(error: BaseException, at: int, transport: Any = answer) -> BulkRun[str, None]:
    """Raise while an item is awaited."""

    async def items() -> AsyncIterator[str]:
        for item in ids(at):
            await asyncio.sleep(0)
            yield item
        raise error

    return erase(transport, items(), concurrency=4)


def in_on_outcome(error: BaseException, at: int, transport: Any = answer) -> BulkRun[str, None]:
    """Raise where outcomes are delivered."""

    def on_outcome(outcome: Outcome[str, None]) -> None:
        if outcome.index == at - 1:
            raise error

    return erase(transport, ids(100), concurrency=4, on_outcome=on_outcome)


def in_build(error: BaseException, at: int, transport: Any = answer) -> BulkRun[str, Any]:
    """Raise while an operation is built."""

    def build(item: str) -> Operation[Any]:
        if item == f"u{at}":
            raise error
        return delete_profile(customer_user_id=item)

    return AdaptyClient(KEY, transport=transport).bulk(ids(100), build=build, concurrency=4)


def in_transport(error: BaseException, at: int) -> BulkRun[str, None]:
    """Raise where requests are sent."""

    async def send(request: Request) -> Response:
        if request.headers["adapty-customer-user-id"] == f"u{at}":
            raise error
        return await answer(request)

    return erase(send, ids(100), concurrency=4)


ERRORS = {
    "KeyboardInterrupt": KeyboardInterrupt("Ctrl-C"),
    "SystemExit": SystemExit("enough"),
    "a failed test": pytest.fail.Exception("my reason"),
    "another": Mine("mine"),
    "CancelledError": asyncio.CancelledError("its own"),
    "GeneratorExit": GeneratorExit("its own"),
    "Exception": LookupError("line 7"),
}
PLACES = [in_source, in_live_source, in_on_outcome, in_build, in_transport]


RAISED = [
    pytest.param(place, error, id=f"{name} {place.__name__}")
    for place in PLACES
    for name, error in ERRORS.items()
    # a request ends in this way if it was cancelled: that is its item's outcome
    if (place, name) != (in_transport, "CancelledError")
]


def in_source_without_end(error: BaseException, at: int) -> BulkRun[str, None]:
    """Raise where items come from, with an exception that generators cannot raise."""

    class Source:
        def __init__(self) -> None:
            self.items = iter(ids(at))

        def __iter__(self) -> Source:
            return self

        def __next__(self) -> str:
            if (item := next(self.items, None)) is None:
                raise error
            return item

    return erase(answer, Source(), concurrency=4)


@pytest.mark.parametrize("streamed", [False, True], ids=["awaited", "streamed"])
@pytest.mark.parametrize("place", [in_source_without_end, in_on_outcome, in_build])
async def test_an_exception_that_ends_streams_does_not_hide_the_end_of_a_run(
    place: Raise,
    streamed: bool,  # noqa: FBT001  a case
) -> None:
    """A StopAsyncIteration of the caller's code is an error, and not the end of the outcomes."""
    run = place(StopAsyncIteration("mine"), 7)
    with pytest.raises(RuntimeError, match="a callback raised StopAsyncIteration"):
        await (consume(run) if streamed else run)

    assert run.report.stop_reason is StopReason.STOPPED


@pytest.mark.parametrize("streamed", [False, True], ids=["awaited", "streamed"])
@pytest.mark.parametrize(("place", "error"), RAISED)
async def test_what_a_callback_raises_reaches_the_caller_as_it_was(
    place: Raise,
    error: BaseException,
    streamed: bool,  # noqa: FBT001  a case
) -> None:
    """Any exception of the caller's own code, of any class, ends the run and is raised there."""
    run = place(error, 7)
    with pytest.raises(type(error)) as caught:
        await (consume(run) if streamed else run)

    assert caught.value is error
    report = run.report
    assert report.total == sum(report.counts.values()) >= 7
    assert report.stop_reason is StopReason.STOPPED


@pytest.mark.parametrize("place", [in_source, in_live_source, in_build], ids=lambda p: p.__name__)
async def test_requests_on_the_wire_get_the_drain_when_a_callback_raises(
    place: Callable[..., BulkRun[str, None]],
) -> None:
    """Those that were sent before KeyboardInterrupt was raised are done."""
    api, interrupt = Api(), KeyboardInterrupt("Ctrl-C")
    run = place(interrupt, 3, api)

    async def use() -> BaseException:
        with pytest.raises(KeyboardInterrupt) as caught:
            await run
        return caught.value

    task = asyncio.create_task(use())
    while run.report.stop_reason is None:  # noqa: ASYNC110  nothing tells when it changes
        await asyncio.sleep(0)
    await loop_turns(20)
    assert not task.done()
    sent = len(api.sent)
    api.released.set()

    assert await task is interrupt
    assert run.report.done == len(api.sent) == sent


async def test_a_request_that_somebody_cancels_is_its_items_outcome() -> None:
    """A transport that raises CancelledError by itself does not end the run."""
    run = in_transport(asyncio.CancelledError(), 7)
    report = await run

    assert (report.done, report.failed, report.stop_reason) == (99, 1, None)
    assert isinstance(report.failures[0].error, ConnectionLostError)


# A run is a coroutine


async def by_create_task(run: BulkRun[str, None]) -> BulkReport[str, None]:
    """Run it as a task."""
    return await asyncio.create_task(run)


async def by_ensure_future(run: BulkRun[str, None]) -> BulkReport[str, None]:
    """Run it as a future."""
    return await asyncio.ensure_future(run)


async def by_gather(run: BulkRun[str, None]) -> BulkReport[str, None]:
    """Run it concurrently with another."""
    first, second = await asyncio.gather(run, erase(answer, ids(2)))
    assert second.done == 2
    return first


async def by_wait_for(run: BulkRun[str, None]) -> BulkReport[str, None]:
    """Run it with a timeout."""
    return await asyncio.wait_for(run, 60)


async def by_task_group(run: BulkRun[str, None]) -> BulkReport[str, None]:
    """Run it in a task group."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run)
    return task.result()


async def by_await(run: BulkRun[str, None]) -> BulkReport[str, None]:
    """Await it."""
    return await run


RUNNERS = [by_create_task, by_ensure_future, by_gather, by_wait_for, by_task_group, by_await]


@pytest.mark.usefixtures("no_garbage")
@pytest.mark.parametrize("way", RUNNERS, ids=lambda way: way.__name__)
async def test_a_run_is_accepted_wherever_a_coroutine_is(
    way: Callable[[BulkRun[str, None]], Awaitable[BulkReport[str, None]]],
) -> None:
    """Its result is the report, and nothing warns."""
    run = erase(answer, ids(20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = await way(run)
        assert report == run.report
        del run
        gc.collect()

    assert report.done == 20


async def test_a_run_is_a_coroutine_by_its_class() -> None:
    """Libraries ask for that in different ways."""
    run = erase(answer, [])
    assert isinstance(run, Coroutine)
    assert asyncio.iscoroutine(run)
    assert inspect.isawaitable(run)
    task = asyncio.create_task(run)
    assert "BulkRun" in repr(task)
    assert task.get_coro() is run
    await task


@pytest.mark.parametrize("turns", range(4))
async def test_a_task_of_a_run_can_be_cancelled(turns: int) -> None:
    """Also before its first iteration: then nothing is sent, and no warning is emitted."""
    api = Api()
    run = erase(api, ids(20), drain=0.01)
    task = asyncio.create_task(run)
    await loop_turns(turns)
    task.cancel()
    await asyncio.wait({task})

    assert task.cancelled()
    assert run.report.stop_reason is StopReason.STOPPED
    assert not run.report.ok
    with pytest.raises(RuntimeError, match="used once"):
        await run


async def test_a_run_that_is_closed_sends_nothing() -> None:
    """As a coroutine is closed: it can then not be awaited, and does not warn."""
    api = Api()
    run = erase(api, ids(20))
    run.close()
    run.close()
    with pytest.raises(RuntimeError, match="used once"):
        await run

    assert (api.sent, run.report.stop_reason) == ([], StopReason.STOPPED)


async def test_a_run_that_is_closed_while_it_runs_waits_for_nothing() -> None:
    """Requests on the wire are cancelled, and their items are reported."""
    api = Api()
    run = erase(api, ids(20), concurrency=4, drain=60.0)
    run.send(None)
    await loop_turns(20)
    assert len(api.sent) == 4
    run.close()
    await loop_turns(20)

    assert (run.report.total, run.report.failed) == (4, 4)


async def test_an_exception_can_be_thrown_into_a_run() -> None:
    """It comes out once the run has ended."""
    run = erase(Api(), ids(20), concurrency=4, drain=0.01)
    thrown = LookupError("thrown")

    class Throwing:
        """Awaits a run, and throws into it after some loop iterations."""

        def __await__(self) -> Any:
            waiting = run.send(None)
            for _ in range(10):
                yield from asyncio.sleep(0).__await__()
            try:
                waiting = run.throw(thrown)
                while True:
                    yield waiting
                    waiting = run.send(None)
            except StopIteration as stop:
                return stop.value

    with pytest.raises(LookupError, match="thrown"):
        await Throwing()
    assert run.report.total == 4


@pytest.mark.usefixtures("no_garbage")
@pytest.mark.parametrize("use", [lambda _: None, BulkRun.__await__], ids=["dropped", "no turn"])
async def test_a_run_that_is_never_used_warns_once(
    use: Callable[[BulkRun[str, None]], object],
) -> None:
    """Its own warning is the only one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = erase(answer, ids(3))
        use(run)
        del run
        gc.collect()

    assert [str(each.message) for each in caught] == [
        "a bulk run was made but never awaited, so nothing was sent"
    ]


# An item that was surely not processed is never unknown

REFUSALS: dict[str, tuple[Response | Exception, type[Exception], str]] = {
    "no connection": (ConnectError("nobody listens"), ConnectError, "not_sent"),
    "429": (Response(429, {"Retry-After": "50"}, b""), RateLimitError, "failed"),
    "503": (Response(503, {"Retry-After": "50"}, b""), ServerError, "failed"),
}


class Refusing:
    """
    A transport that rejects every request until it accepts.

    Attributes:
        sent: requests.
        accepts: it responds that it has created the profile.
    """

    def __init__(self, refusal: Response | Exception) -> None:
        self._refusal = refusal
        self._asked = asyncio.Event()
        self.sent = 0
        self.accepts = False

    async def __call__(self, request: Request) -> Response:
        """Refuse, or create."""
        self.sent += 1
        self._asked.set()
        await asyncio.sleep(0)
        if self.accepts:
            return CREATED
        if isinstance(self._refusal, Exception):
            raise type(self._refusal)(*self._refusal.args)
        return self._refusal

    async def until_refused(self) -> None:
        """Wait until a request was refused."""
        await self._asked.wait()
        await loop_turns(20)


def create(transport: Any, items: Any, **options: Any) -> BulkRun[str, Any]:
    """Return a run of creates, which must not be retried."""
    retry = RetryPolicy(wait_initial=50.0, wait_max=60.0, deadline=600.0)
    client = AdaptyClient(KEY, transport=transport, retry=retry)
    return client.bulk(items, build=lambda item: create_profile(customer_user_id=item), **options)


Waiting: TypeAlias = Callable[[], Awaitable[None]]


async def stopped(run: BulkRun[str, Any], waiting: Waiting) -> None:
    """Stop a run that is awaited."""
    task = asyncio.create_task(run)
    await waiting()
    run.stop()
    await task


async def cancelled(run: BulkRun[str, Any], waiting: Waiting) -> None:
    """Cancel a run that is awaited."""
    task = asyncio.create_task(run)
    await waiting()
    task.cancel()
    await asyncio.wait({task})


async def left(run: BulkRun[str, Any], waiting: Waiting) -> None:
    """Leave the block of a run."""
    async with run:
        await waiting()


@pytest.mark.parametrize("end", [stopped, cancelled, left], ids=lambda end: end.__name__)
@pytest.mark.parametrize(("refusal", "error", "status"), REFUSALS.values(), ids=REFUSALS)
async def test_a_create_that_was_not_processed_is_not_unknown_when_the_run_ends(
    refusal: Response | Exception,
    error: type[Exception],
    status: str,
    end: Callable[[BulkRun[str, Any], Waiting], Awaitable[None]],
    tmp_path: Path,
) -> None:
    """It has the error of its last attempt, and the next run with the same journal sends it."""
    api, outcomes = Refusing(refusal), list[Outcome[str, Any]]()
    journal: Any = {"journal": tmp_path / "journal", "job_id": "x"}
    run = create(api, ids(4), concurrency=4, on_outcome=outcomes.append, **journal)
    await end(run, api.until_refused)

    sent = [outcome for outcome in outcomes if outcome.attempts]
    assert sent
    assert {outcome.status.value for outcome in sent} == {status}
    assert all(isinstance(outcome.error, error) for outcome in sent)
    assert {outcome.status.value for outcome in outcomes if not outcome.attempts} <= {"not_sent"}
    counts = summarise(tmp_path / "journal").counts
    assert counts[ItemState.STARTED] == counts[ItemState.LOST] == counts[ItemState.UNKNOWN] == 0

    api.accepts = True
    report = await create(api, ids(4), **journal)
    assert (report.done, report.total) == (4, 4)


async def test_a_delete_that_waits_for_its_retry_keeps_the_error_of_its_last_attempt(
    tmp_path: Path,
) -> None:
    """Its response was lost, so the next run reports a missing profile as deleted."""

    async def missing(_: Request) -> Response:
        return Response(404, {}, b'{"errors":[],"error_code":"profile_does_not_exist"}')

    journal: Any = {"journal": tmp_path / "journal", "job_id": "x", "by": "customer_user_id"}
    retry = RetryPolicy(wait_initial=50.0, wait_max=60.0, deadline=600.0)
    lossy = Refusing(RequestTimeoutError("no answer in time"))
    profiles = AdaptyClient(KEY, transport=lossy, retry=retry).v1.profiles
    run = profiles.bulk_delete(ids(1), **journal)
    await stopped(run, lossy.until_refused)
    (failure,) = run.report.failures
    report = await AdaptyClient(KEY, transport=missing).v1.profiles.bulk_delete(ids(1), **journal)

    assert (failure.status, type(failure.error)) == (OutcomeStatus.FAILED, RequestTimeoutError)
    assert (report.done, report.absent) == (1, 0)


async def test_a_drained_request_that_fails_is_not_retried() -> None:
    """Its error is its outcome."""
    api = Refusing(Response(503, {}, b""))
    retry = RetryPolicy(wait_initial=0.001, wait_max=0.002)
    client = AdaptyClient(KEY, transport=api, retry=retry)
    run = client.v1.profiles.bulk_delete(ids(4), by="customer_user_id", concurrency=4)
    task = asyncio.create_task(run)
    while run.in_flight < 4:  # noqa: ASYNC110  nothing tells when it changes
        await asyncio.sleep(0)
    run.stop()
    report = await task

    assert (api.sent, report.failed, report.requests) == (4, 4, 4)
    assert isinstance(report.failures[0].error, ServerError)


async def test_requests_that_have_no_connection_yet_end_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that never completes the handshake: nothing was sent, and the journal records it."""
    monkeypatch.setattr(_limits, "_VOID", math.inf)  # of permits that wait for a slow disk
    async with RawServer(then=(STALL,)) as server:
        url = server.url.replace("http:", "https:")
        async with AdaptyClient(KEY, base_url=url, limits=Limits(connections=3)) as client:
            run = client.bulk(
                ids(10),
                build=lambda item: create_profile(customer_user_id=item),
                concurrency=5,
                journal=tmp_path / "journal",
                job_id="x",
                drain=3600.0,
            )
            task = asyncio.create_task(run)
            while server.connections < 3:  # noqa: ASYNC110  nothing tells when it changes
                await asyncio.sleep(0.001)
            assert run.in_flight == 0
            run.stop()
            report = await task
        await server.until_left()

    assert (report.total, report.not_sent, report.requests) == (5, 5, 0)
    counts = summarise(tmp_path / "journal").counts
    assert (counts[ItemState.STARTED], counts[ItemState.NOT_SENT]) == (0, 3)


async def test_the_number_of_requests_on_the_wire_is_known() -> None:
    """A caller that stops a run can read how many requests it waits for."""
    async with RawServer(then=(STALL,)) as server:
        async with AdaptyClient(KEY, base_url=server.url, limits=Limits(connections=3)) as client:
            run = client.v1.profiles.bulk_delete(
                ids(50), by="customer_user_id", concurrency=8, drain=0.01
            )
            assert run.in_flight == 0
            task = asyncio.create_task(run)
            await server.until_arrived(3)
            assert run.in_flight == 3
            run.stop()
            report = await task
        assert len(server.requests) == 3

    assert run.in_flight == 0
    assert (report.failed, report.not_sent) == (3, 5)


@pytest.mark.parametrize("kind", ["timeout", "deadline"])
async def test_a_create_that_found_no_connection_in_time_was_not_sent(kind: str) -> None:
    """However its time is limited, the request was not written, so it is not unknown."""
    settings: dict[str, Any] = {"timeout": 0.5, "retry": RetryPolicy(attempts=1)}
    if kind == "deadline":
        settings = {"timeout": 30.0, "retry": RetryPolicy(attempts=1, deadline=0.5)}
    async with RawServer(then=(STALL,)) as server:
        url = server.url.replace("http:", "https:")
        async with AdaptyClient(KEY, base_url=url, **settings) as client:
            report = await client.bulk([create_profile(customer_user_id="u1")])

    assert (report.failed, report.unknown) == (1, 0)
    assert isinstance(report.failures[0].error, ConnectError)


# Concurrent runs


async def test_the_end_of_one_run_leaves_others_on_the_client_alone() -> None:
    """Its permits, its place in the wait queue and its probes are given up."""
    random = Random(5)

    def script(_: object) -> Steps:
        return DONE if random.random() < 0.9 else (reply(503, Retry_After="0"),)

    async with (
        RawServer(then=script) as server,
        AdaptyClient(
            KEY,
            base_url=server.url,
            limits=Limits(connections=2, rate=2000.0),
            retry=RetryPolicy(attempts=10, wait_initial=0.001, wait_max=0.002),
        ) as client,
    ):
        other = asyncio.create_task(
            client.v1.profiles.bulk_delete(ids(300), by="customer_user_id", concurrency=16)
        )
        for number in range(20):
            run = client.v1.profiles.bulk_delete(
                (f"x{item}" for item in range(10**6)), by="customer_user_id", concurrency=32
            )
            task = asyncio.create_task(run)
            await loop_turns(number * 3)
            run.stop()
            await task
            await client.execute(delete_profile(customer_user_id=f"s{number}"))
        report = await other

    assert (report.done, report.total) == (300, 300)


async def test_a_run_whose_client_is_closed_ends() -> None:
    """The caller gets the error of a closed client; items whose requests found it were not sent."""
    async with RawServer(then=(STALL,)) as server:
        client = AdaptyClient(KEY, base_url=server.url, limits=Limits(connections=4))
        run = client.v1.profiles.bulk_delete(ids(50), by="customer_user_id", concurrency=8)
        task = asyncio.create_task(run)
        await server.until_arrived(4)
        await client.aclose()
        with pytest.raises(Exception, match="the client is closed"):
            await task

        assert len(server.requests) == 4
    report = run.report
    assert report.total == sum(report.counts.values()) == 8
    assert (report.failed, report.not_sent) == (4, 4)
    assert (report.requests, report.sent) == (4, 4)


# The cost of leaving


@pytest.mark.parametrize("kind", ["on the wire", "waiting", "streamed", "live"])
async def test_the_cost_of_leaving_grows_with_the_number_of_workers_only(kind: str) -> None:
    """Four times the workers make about four times the calls, wherever they wait."""

    async def calls(workers: int) -> int:
        api = Api()
        items: Any = (f"u{number}" for number in range(10**6))
        if kind == "live":
            items = silent()
        limits = Limits(connections=workers if kind == "on the wire" else 1)
        client = AdaptyClient(KEY, transport=api, limits=limits)
        run = client.v1.profiles.bulk_delete(
            items, by="customer_user_id", concurrency=workers, drain=0.001
        )
        task = asyncio.create_task(consume(run) if kind == "streamed" else by_await(run))
        await loop_turns(12)
        count = 0

        def count_call(*_: object) -> None:
            nonlocal count
            count += 1

        sys.setprofile(count_call)
        task.cancel()
        try:
            await asyncio.wait({task})
        finally:
            sys.setprofile(None)
        return count

    few, many = await calls(250), await calls(1000)
    assert many <= 5 * few


async def silent() -> AsyncIterator[str]:
    """Yield nothing for long."""
    await asyncio.Event().wait()
    yield ""


async def consume(run: BulkRun[str, None]) -> None:
    """Stream a run."""
    async with run:
        async for _ in run:
            pass


# Journals


@pytest.mark.parametrize("seed", range(10))
async def test_items_of_a_run_that_ends_have_one_outcome_with_a_journal_too(
    seed: int, tmp_path: Path
) -> None:
    """Delivered one by one, cancelled at any moment, resumed: each has one outcome."""
    random = Random(seed)
    for number in range(10):
        told, read = Counter[int](), 0

        def items() -> Iterator[str]:
            nonlocal read
            for item in ids(40):
                read += 1
                yield item

        def on_outcome(outcome: Outcome[str, None], told: Counter[int] = told) -> None:
            told[outcome.index] += 1

        journal = tmp_path / f"journal-{number % 5}"
        while journal.with_name(f"{journal.name}-lock").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.001)  # a run that was cancelled as it opened waits for nothing
        run = erase(
            answer, items(), journal=journal, job_id="x", concurrency=8, on_outcome=on_outcome
        )
        task = asyncio.create_task(run)
        await loop_turns(random.randrange(150))
        if random.random() < 0.5:
            run.cut_off()
        else:
            task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            assert task.exception() is None

        assert run.report.total == read == sum(told.values())
        assert set(told.values()) <= {1}


def remove(journal: Path) -> None:
    """Delete it."""
    journal.unlink()


def move(journal: Path) -> None:
    """Rename it."""
    journal.rename(journal.with_name("moved"))


def move_folder(journal: Path) -> None:
    """Rename the directory that it is in."""
    journal.parent.rename(journal.parent.with_name("moved"))


def replace(journal: Path) -> None:
    """Put a copy in its place, as some editors and backups do."""
    copy = journal.with_name("copy")
    copy.write_bytes(journal.read_bytes())
    copy.replace(journal)


def link(journal: Path) -> None:
    """Move it, and leave a symbolic link."""
    moved = journal.with_name("moved")
    journal.rename(moved)
    journal.symlink_to(moved)


GONE = [remove, move, move_folder, replace, link]


@pytest.mark.parametrize("once", [False, True], ids=["delete", "create"])
@pytest.mark.parametrize("lose", GONE, ids=lambda lose: lose.__name__)
async def test_a_journal_that_is_gone_ends_the_run(
    lose: Callable[[Path], None],
    once: bool,  # noqa: FBT001  a case
    tmp_path: Path,
) -> None:
    """The error names the file, and no request is sent after it was noticed."""
    journal = tmp_path / "folder" / "journal"
    journal.parent.mkdir()
    sent = 0

    async def transport(_: Request) -> Response:
        nonlocal sent
        sent += 1
        if sent == 10:
            lose(journal)
        await asyncio.sleep(0.002)
        return CREATED if once else DELETED

    items = (f"u{number}" for number in range(10**6))
    start: Any = create if once else erase
    run = start(transport, items, journal=journal, job_id="x", concurrency=2)
    with pytest.raises(JournalError, match=f"{journal} cannot be written: it was deleted, moved"):
        await run

    assert run.report.requests == sent
    if once:  # each waits for the disk before it is sent
        assert sent <= 12


async def test_a_journal_that_is_gone_at_the_end_is_noticed(tmp_path: Path) -> None:
    """Also when nothing is recorded after it."""
    journal = tmp_path / "journal"

    async def transport(_: Request) -> Response:
        await asyncio.sleep(0)
        return DELETED

    def on_outcome(outcome: Outcome[str, None]) -> None:
        if outcome.index == 2:
            journal.unlink()

    run = erase(transport, ids(3), journal=journal, concurrency=1, on_outcome=on_outcome)
    with pytest.raises(JournalError, match="it was deleted, moved or replaced during the run"):
        await run
    assert run.report.done == 3


async def test_a_run_may_change_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal is looked for where it was when the run began."""
    monkeypatch.chdir(tmp_path)

    def items() -> Iterator[str]:
        yield "u0"
        os.chdir("/")
        yield "u1"

    report = await erase(answer, items(), journal="journal", concurrency=1)
    assert report.done == 2


# How skipped items ended


def earlier_of(outcomes: list[Outcome[str, None]]) -> dict[str, list[EarlierStatus | None]]:
    """Return how the items ended before, by the status they have now."""
    found: dict[str, list[EarlierStatus | None]] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.index):
        found.setdefault(outcome.status.value, []).append(outcome.earlier)
    return found


async def answer_some(request: Request) -> Response:
    """Be done, or not know an id that ends with 1, or fail for one that ends with 2."""
    await asyncio.sleep(0)
    identity = request.headers["adapty-customer-user-id"]
    if identity.endswith("1"):
        return Response(404, {}, b'{"errors":[],"error_code":"profile_does_not_exist"}')
    return Response(400, {}, b"{}") if identity.endswith("2") else DELETED


DONE_BEFORE, ABSENT, DUPLICATE = EarlierStatus.DONE, EarlierStatus.ABSENT, EarlierStatus.DUPLICATE


@pytest.mark.parametrize("job_id", ["x", None], ids=["position", "digest"])
async def test_a_skipped_outcome_has_how_it_ended_before(
    job_id: str | None, tmp_path: Path
) -> None:
    """Done, absent, or a duplicate of an item further up; the report counts them."""
    items = ["a0", "a1", "a2", "a0"]
    options: Any = {"journal": tmp_path / "j", "job_id": job_id, "dedupe": True, "concurrency": 1}
    seen = list[Outcome[str, None]]()
    first = await erase(answer_some, items, on_outcome=seen.append, **options)
    assert earlier_of(seen) == {
        "done": [None],
        "absent": [None],
        "failed": [None],
        "skipped": [DUPLICATE],
    }
    assert first.skipped_earlier == {DONE_BEFORE: 0, ABSENT: 0, DUPLICATE: 1}
    seen.clear()
    second = await erase(answer_some, items, on_outcome=seen.append, **options)

    assert earlier_of(seen) == {"skipped": [DONE_BEFORE, ABSENT, DUPLICATE], "failed": [None]}
    assert second.skipped_earlier == {DONE_BEFORE: 1, ABSENT: 1, DUPLICATE: 1}


async def test_a_duplicate_without_a_journal_is_one() -> None:
    """The same request came before in this run."""
    report = await erase(answer, ["a", "b", "a"], dedupe=True)
    assert (report.done, report.skipped_earlier[DUPLICATE]) == (2, 1)


async def test_the_rest_of_a_stopped_run_has_how_it_ended_before(tmp_path: Path) -> None:
    """Items that the run did not reach have their outcome from the journal."""
    options: Any = {"journal": tmp_path / "journal", "job_id": "x", "concurrency": 1}
    await erase(answer_some, ["b2", "a0", "a1"], **options)
    seen = list[Outcome[str, None]]()
    report = await erase(
        answer_some,
        ["b2", "a0", "a1", "a3"],
        on_outcome=seen.append,
        fail_fast=True,
        **options,
    )

    assert earlier_of(seen) == {
        "failed": [None],
        "skipped": [DONE_BEFORE, ABSENT],
        "not_sent": [None],
    }
    assert report.skipped_earlier == {DONE_BEFORE: 1, ABSENT: 1, DUPLICATE: 0}


# A source that holds on to its item


async def test_an_item_that_a_source_yields_in_spite_of_the_stop_is_not_sent() -> None:
    """It was read, so it is reported."""
    api, waiting = Api(), asyncio.Event()

    async def stubborn() -> AsyncIterator[str]:
        yield "u0"
        try:
            waiting.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield "u1"

    run = erase(api, stubborn(), concurrency=2)
    task = asyncio.create_task(run)
    await waiting.wait()
    await loop_turns(5)
    run.stop()
    await loop_turns(5)
    api.released.set()
    report = await task

    assert (report.done, report.not_sent, api.sent) == (1, 1, ["u0"])


# Programs that end


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "Ctrl-C"])
def test_a_callers_clean_up_runs_when_a_callback_ends_the_program(raised: BaseException) -> None:
    """As it does for any other code that raises inside `asyncio.run`."""
    cleaned_up = False

    def on_outcome(outcome: Outcome[str, None]) -> None:
        if outcome.index == 3:
            raise raised

    async def main() -> None:
        nonlocal cleaned_up
        try:
            await erase(answer, ids(200), on_outcome=on_outcome)
        finally:
            await asyncio.sleep(0)
            cleaned_up = True

    with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
        asyncio.run(main())

    assert caught.value is raised
    assert cleaned_up


def test_a_loop_that_ends_with_a_run_in_it_reports_every_item() -> None:
    """Without a run's worker being called in meanwhile."""
    complaints: list[str] = []
    run: list[BulkRun[str, None]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
        api = Api()
        run.append(erase(api, (f"u{number}" for number in range(10**6)), drain=60.0))
        task = asyncio.create_task(run[0])
        await loop_turns(10)
        assert not task.done()

    asyncio.run(main())
    report = run[0].report
    assert report.total == sum(report.counts.values()) == report.failed + report.not_sent > 0
    assert all(isinstance(each.error, ConnectionLostError) for each in report.failures)
    assert complaints == []


@pytest.mark.parametrize("turns", range(16))
def test_a_loop_that_ends_while_a_run_closes_its_journal_lets_it_finish(
    turns: int, tmp_path: Path
) -> None:
    """It cancels all tasks, also those that have not started, and the last commit is not lost."""
    journal = tmp_path / "journal"

    async def main() -> None:
        responded = asyncio.Event()

        async def respond(_: Request) -> Response:
            responded.set()
            return DELETED

        task = asyncio.create_task(erase(respond, ids(1), journal=journal, job_id="job"))
        await responded.wait()
        await loop_turns(turns)
        del task

    asyncio.run(main())
    summary = summarise(journal)
    assert summary.runs[-1].ended_at is not None
    assert {state for state, count in summary.counts.items() if count} == {ItemState.DONE}


def test_a_run_is_what_a_program_runs() -> None:
    """`asyncio.run` accepts it."""
    assert asyncio.run(erase(answer, ids(3))).done == 3


@pytest.mark.usefixtures("no_garbage")
def test_a_loop_that_is_gone_is_not_waited_for() -> None:
    """A run that was never ended before its loop was closed does not raise when it is collected."""
    loop = asyncio.new_event_loop()
    raised: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, raised.append
    try:

        async def main() -> BulkRun[str, None]:
            run = erase(Api(), ids(3))
            run.send(None)
            await loop_turns(5)
            return run

        run = loop.run_until_complete(main())
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
        run.close()
        del run, tasks, task
        gc.collect()
    finally:
        sys.unraisablehook = hook
    assert [str(each.exc_value) for each in raised] == []


# The rest of an input that is read for the report only


class Sized:
    """An input with a length, whose reading raises after a number of items."""

    def __init__(self, count: int, error: BaseException) -> None:
        self._count = count
        self._error = error

    def __len__(self) -> int:
        return self._count + 1

    def __iter__(self) -> Iterator[str]:
        yield from ids(self._count)
        raise self._error


async def refuse(_: Request) -> Response:
    """Refuse every request."""
    await asyncio.sleep(0)
    return Response(400, {}, b"{}")


async def leave_early(run: BulkRun[str, None]) -> None:
    """Leave the block of a run after its first outcome."""
    async with run:
        await anext(run)


async def cancel_early(run: BulkRun[str, None]) -> None:
    """Cancel the task of a run that is in progress."""
    task = asyncio.create_task(run)
    await loop_turns(20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def fail_early(run: BulkRun[str, None]) -> None:
    """Await a run that ends by itself."""
    assert (await run).stop_reason is StopReason.FAIL_FAST


@pytest.mark.parametrize("end", [leave_early, cancel_early, fail_early])
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_run_that_has_ended_holds_no_generator(
    kind: str, end: Callable[[BulkRun[str, None]], Awaitable[None]]
) -> None:
    """A generator that nobody reads any more closes its cursor, although the run is still there."""
    closed: list[str] = []

    def plain() -> Iterator[str]:
        try:
            yield from ids(100_000)
        finally:
            closed.append("plain")

    async def live() -> AsyncIterator[str]:
        try:
            for item in ids(100_000):
                yield item
        finally:
            await asyncio.sleep(0)  # such as the end of a transaction
            closed.append("async")

    transport = refuse if end is fail_early else answer
    run = erase(transport, plain() if kind == "plain" else live(), fail_fast=True)
    await end(run)
    await loop_turns(20)

    assert closed == [kind]
    assert run.report.total < 100_000


async def test_a_cancellation_of_the_sources_own_in_the_rest_is_raised() -> None:
    """CancelledError of a source that is read for the report only is raised as it was."""
    run = erase(refuse, Sized(600, asyncio.CancelledError("mine")), fail_fast=True, concurrency=1)

    with pytest.raises(asyncio.CancelledError, match="mine"):
        await run

    assert run.report.total == 600
    assert run.report.not_sent == 599


async def test_a_run_that_is_cancelled_in_the_rest_reads_no_more_of_it() -> None:
    """A loop that ends cancels the run's own task, also while it only counts what was not sent."""

    def cancel(outcome: Outcome[str, None]) -> None:
        if outcome.status is OutcomeStatus.NOT_SENT:
            run._main.cancel()

    run = erase(refuse, ids(10_000), fail_fast=True, concurrency=1, on_outcome=cancel)
    report = await run

    assert report.failed == 1
    assert 0 < report.not_sent < 10_000 - 1


async def test_a_refusal_does_not_hide_a_lost_response_from_the_journal(tmp_path: Path) -> None:
    """An item whose response was lost has an unknown outcome, also when its retry is throttled."""
    throttled = asyncio.Event()
    sent: list[str] = []

    async def lose_then_throttle(request: Request) -> Response:
        sent.append(request.operation)
        if len(sent) == 1:
            raise ConnectionLostError("the connection broke")
        throttled.set()
        return Response(429, {"Retry-After": "50"}, b"{}")

    retry = RetryPolicy(wait_initial=0.001, wait_max=0.001, deadline=600.0)
    client = AdaptyClient(KEY, transport=lose_then_throttle, retry=retry)
    journal: Any = {"journal": tmp_path / "journal", "job_id": "x"}
    run = client.v1.profiles.bulk_delete(["u0"], by="customer_user_id", **journal)
    task = asyncio.create_task(run)
    await throttled.wait()
    await loop_turns(20)
    run.stop()
    report = await task

    assert (report.failed, report.total) == (1, 1)
    assert summarise(tmp_path / "journal").counts[ItemState.LOST] == 1
