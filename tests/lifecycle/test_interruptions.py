"""Bulk runs that are stopped from within their own callbacks, or from another thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from adapty_async import AdaptyClient, BulkRun, Operation, Outcome, OutcomeStatus, RetryPolicy
from adapty_async._api.call import Request, Response, Send
from adapty_async.bulk import ItemState, StopReason, summarise
from adapty_async.hooks import AttemptEnded, CallEnded, CallStarted, Event, RetryScheduled
from adapty_async.v1 import create_profile, delete_profile
from adapty_async.v2 import ProfileAttributes
from tests._support import LOOPS, loop_turns

pytestmark = pytest.mark.usefixtures("nothing_is_left")

KEY = "secret_live_TEST.key"
DELETED = Response(204, {}, b"")
CREATED = Response(201, {}, b'{"data": {}}')
THROTTLED = Response(429, {"Retry-After": "0"}, b"")
PAGE = Response(200, {}, b"<html>")
LOST = Response(500, {}, b"")
MISSING = Response(404, {}, b'{"error_code": "profile_does_not_exist", "errors": []}')
QUICKLY = RetryPolicy(attempts=10, wait_initial=0.001, wait_max=0.001)


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run each test on both event loops."""
    return request.param


class Stopper:
    """
    A user's code in which a run is stopped at its third item.

    Attributes:
        run: the run.
        sent: the ids of all requests.
    """

    def __init__(self) -> None:
        self.run: BulkRun[str, None]
        self.sent: list[str] = []

    def stop_at(self, item: str) -> None:
        """Stop the run if this is the third item."""
        if item == "u2":
            self.run.stop()

    def source(self) -> Iterator[str]:
        """Yield ids, stopping the run before the third one."""
        for number in range(6):
            self.stop_at(f"u{number}")
            yield f"u{number}"

    def build(self, item: str) -> Operation[None]:
        """Build an operation, stopping the run at the third one."""
        self.stop_at(item)
        return delete_profile(customer_user_id=item)

    async def throttled(self, request: Request) -> Response:
        """Respond 429 to the third item, and with success otherwise."""
        identity = request.headers["adapty-customer-user-id"]
        self.sent.append(identity)
        await asyncio.sleep(0)
        return THROTTLED if identity == "u2" else DELETED

    async def __call__(self, request: Request) -> Response:
        """Respond to one request."""
        self.sent.append(request.headers["adapty-customer-user-id"])
        await asyncio.sleep(0)
        return DELETED


def plain(item: str) -> Operation[None]:
    """Build an operation."""
    return delete_profile(customer_user_id=item)


def ids() -> Iterator[str]:
    """Yield six ids."""
    return (f"u{number}" for number in range(6))


def stopped_in_source(stopper: Stopper) -> BulkRun[str, None]:
    """Make a run that its source stops."""
    return AdaptyClient(KEY, transport=stopper).bulk(stopper.source(), build=plain, concurrency=1)


def stopped_in_build(stopper: Stopper) -> BulkRun[str, None]:
    """Make a run that `build` stops."""
    return AdaptyClient(KEY, transport=stopper).bulk(ids(), build=stopper.build, concurrency=1)


def stopped_in_middleware(stopper: Stopper) -> BulkRun[str, None]:
    """Make a run that a middleware stops before it sends the third request."""

    async def middleware(request: Request, send: Send) -> Response:
        stopper.stop_at(request.headers["adapty-customer-user-id"])
        return await send(request)

    client = AdaptyClient(KEY, transport=stopper)
    client.add_middleware(middleware)
    return client.bulk(ids(), build=plain, concurrency=1)


def stopped_at_start(stopper: Stopper) -> BulkRun[str, None]:
    """Make a run that a hook stops when a call starts."""

    def hook(event: Event) -> None:
        if isinstance(event, CallStarted) and len(stopper.sent) == 2:
            stopper.run.stop()

    return AdaptyClient(KEY, transport=stopper, hooks=(hook,)).bulk(
        ids(), build=plain, concurrency=1
    )


def stopped_at_retry(stopper: Stopper) -> BulkRun[str, None]:
    """Make a run that a hook stops when a retry is scheduled."""

    def hook(event: Event) -> None:
        if isinstance(event, RetryScheduled):
            stopper.run.stop()

    client = AdaptyClient(KEY, transport=stopper.throttled, hooks=(hook,), retry=QUICKLY)
    return client.bulk(ids(), build=plain, concurrency=1)


Start: TypeAlias = Callable[[Stopper], BulkRun[str, None]]


@pytest.mark.parametrize(
    ("start", "sent", "status"),
    [
        pytest.param(stopped_in_source, 2, OutcomeStatus.NOT_SENT, id="source"),
        pytest.param(stopped_in_build, 2, OutcomeStatus.NOT_SENT, id="build"),
        pytest.param(stopped_in_middleware, 2, OutcomeStatus.NOT_SENT, id="middleware"),
        pytest.param(stopped_at_start, 2, OutcomeStatus.NOT_SENT, id="hook at the start"),
        pytest.param(stopped_at_retry, 3, OutcomeStatus.FAILED, id="hook before a retry"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["awaited", "streamed"])
async def test_a_run_stopped_by_its_own_callbacks_sends_nothing_more(
    start: Start,
    sent: int,
    status: OutcomeStatus,
    streamed: bool,  # noqa: FBT001
) -> None:
    """A stop in the source, in `build` or in a hook holds for the item at hand, too."""
    stopper = Stopper()
    run = stopper.run = start(stopper)
    if streamed:
        async with run:
            outcomes = [outcome async for outcome in run]
        assert [outcome.status for outcome in outcomes[2:]] == [status]
    report = await run if not streamed else run.report

    assert stopper.sent == ["u0", "u1", "u2"][:sent]
    assert report.stop_reason is StopReason.STOPPED
    assert report.counts[OutcomeStatus.DONE] == 2
    assert report.counts[status] == 1
    assert report.total == 3
    assert report.requests == sent


# Exceptions of a hook, after the server has processed the request


class Quit(BaseException):
    """Of a kind that is not caught, as `SystemExit` and `pytest.fail` are."""


def quitting(event: Event) -> None:
    """Raise at the end of a call that succeeded."""
    if isinstance(event, CallEnded) and event.error is None:
        raise Quit


def quitting_at_attempts(event: Event) -> None:
    """Raise at the end of an attempt that was not throttled."""
    if isinstance(event, AttemptEnded) and event.status != 429:
        raise Quit


class Server:
    """
    Respond to creates and deletes.

    Attributes:
        answers: given one after the other; after the last, all is done.
        sent: the number of requests.
    """

    def __init__(self, *answers: Response) -> None:
        self.answers = list(answers)
        self.sent = 0

    async def __call__(self, request: Request) -> Response:
        """Respond to one request."""
        self.sent += 1
        await asyncio.sleep(0)
        if self.answers:
            return self.answers.pop(0)
        return CREATED if request.method == "POST" else DELETED


def creates(server: Server, journal: Path, *hooks: Any) -> BulkRun[str, Any]:
    """Make a run of one create."""
    client = AdaptyClient(KEY, transport=server, hooks=hooks, retry=QUICKLY)

    def build(item: str) -> Operation[Any]:
        return create_profile(customer_user_id=item)

    return client.bulk(["u0"], build=build, journal=journal, job_id="creates")


@pytest.mark.parametrize(
    ("hook", "answers"),
    [
        pytest.param(quitting, (), id="call"),
        pytest.param(quitting, (THROTTLED,), id="call after a retry"),
        pytest.param(quitting_at_attempts, (), id="attempt"),
        pytest.param(quitting_at_attempts, (THROTTLED,), id="second attempt"),
        pytest.param(quitting_at_attempts, (THROTTLED, PAGE), id="second attempt, a page"),
        pytest.param(quitting_at_attempts, (THROTTLED, LOST), id="second attempt, status 500"),
    ],
)
async def test_a_create_that_may_have_succeeded_is_not_sent_again_when_a_hook_ends_the_program(
    hook: Callable[[Event], None], answers: tuple[Response, ...], tmp_path: Path
) -> None:
    """A create that the server carried out counts as unknown; a resumed run does not send it."""
    journal, server = tmp_path / "journal", Server(*answers)
    run = creates(server, journal, hook)
    with pytest.raises(Quit, match=r"^$"):
        await run
    sent = server.sent
    resumed = await creates(server, journal)

    assert run.report.unknown == 1
    assert (resumed.unknown, server.sent) == (1, sent)
    assert summarise(journal).counts[ItemState.UNKNOWN] == 1


@pytest.mark.parametrize("answer", [CREATED, LOST], ids=["created", "lost"])
async def test_a_missing_profile_is_created_once_when_a_hook_ends_the_program(
    answer: Response, tmp_path: Path
) -> None:
    """The hook raises at the end of the creation; a run that resumes only looks for the profile."""
    server = Server(MISSING, answer)

    def create_if_missing(*hooks: Any) -> BulkRun[Any, Any]:
        return AdaptyClient(KEY, transport=server, hooks=hooks).v2.profiles.bulk_get_or_create(
            [("u0", ProfileAttributes())], journal=tmp_path / "journal", job_id="creates"
        )

    run = create_if_missing(lambda event: quitting_at_attempts(event) if server.sent == 2 else None)
    with pytest.raises(Quit, match=r"^$"):
        await run
    server.answers = [MISSING]
    resumed = await create_if_missing()

    assert (run.report.unknown, resumed.unknown, server.sent) == (1, 1, 3)


async def test_a_delete_that_succeeded_is_done_when_it_is_sent_again(tmp_path: Path) -> None:
    """A delete whose hook ended the program is sent again, and a 404 then means it was done."""
    journal = tmp_path / "journal"

    def erase(server: Server, *hooks: Any) -> BulkRun[str, None]:
        client = AdaptyClient(KEY, transport=server, hooks=hooks)
        return client.v1.profiles.bulk_delete(
            ["u0"], by="customer_user_id", journal=journal, job_id="deletes"
        )

    with pytest.raises(Quit, match=r"^$"):
        await erase(Server(), quitting)
    resumed = await erase(Server(MISSING))

    assert (resumed.done, resumed.absent) == (1, 0)


# Outcomes and stops


async def test_every_outcome_is_delivered_in_order_though_on_outcome_raises() -> None:
    """With `ordered`, outcomes that waited for the one at which `on_outcome` raised follow it."""
    first, delivered = asyncio.Event(), list[int]()

    async def answer(request: Request) -> Response:
        if request.headers["adapty-customer-user-id"] == "u0":
            await first.wait()
        return DELETED

    def on_outcome(outcome: Outcome[str, None]) -> None:
        delivered.append(outcome.index)
        if outcome.index == 0:
            raise LookupError("full")

    client = AdaptyClient(KEY, transport=answer)
    run = client.v1.profiles.bulk_delete(
        ids(), by="customer_user_id", ordered=True, on_outcome=on_outcome, concurrency=4
    )
    task = asyncio.create_task(run)
    await loop_turns(20)
    first.set()
    with pytest.raises(LookupError, match="full"):
        await task

    assert delivered == list(range(run.report.total))
    assert run.report.total == 6


async def test_an_idle_worker_whose_last_request_was_cancelled_ends_with_the_run() -> None:
    """A worker that waits for the source has no request on the wire; a stop ends it at once."""
    waiting = asyncio.Event()

    async def source() -> AsyncIterator[str]:
        yield "u0"
        waiting.set()
        await asyncio.Event().wait()

    async def cancelled(_: Request) -> Response:
        raise asyncio.CancelledError

    client = AdaptyClient(KEY, transport=cancelled)
    run = client.v1.profiles.bulk_delete(
        source(), by="customer_user_id", concurrency=1, drain=3600.0
    )
    task = asyncio.create_task(run)
    await waiting.wait()
    in_flight = run.in_flight
    run.stop()
    report = await task

    assert in_flight == 0
    assert (report.total, report.failed) == (1, 1)


@pytest.mark.parametrize("end", [BulkRun.stop, BulkRun.cut_off], ids=["stop", "cut off"])
async def test_another_thread_may_end_a_run(end: Callable[[BulkRun[Any, Any]], None]) -> None:
    """A stop from another thread is carried out in the loop's own; debug mode checks that."""
    arrived = asyncio.Event()
    asyncio.get_running_loop().set_debug(True)

    async def source() -> AsyncIterator[str]:
        arrived.set()
        await asyncio.Event().wait()
        yield "u0"

    run = AdaptyClient(KEY, transport=Server()).v1.profiles.bulk_delete(
        source(), by="customer_user_id", drain=3600.0
    )
    task = asyncio.create_task(run)
    await arrived.wait()
    thread = threading.Thread(target=end, args=(run,))
    thread.start()
    report = await task
    thread.join()
    asyncio.get_running_loop().set_debug(False)

    assert report.stop_reason is StopReason.STOPPED
