"""The receiver: statuses, at-least-once processing, duplicates, timeouts, the end."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from adapty_async.errors import ConfigError
from adapty_async.webhooks import (
    MAX_BODY_BYTES,
    Event,
    EventStore,
    MemoryStore,
    SqliteStore,
    SubscriptionStarted,
    WebhookReceiver,
    WebhookResponse,
    WebhookStatistics,
)
from tests._support import CANARY_EMAIL, loop_turns
from tests.webhooks.samples import STARTED

SECRET = "Bearer s3cret"

pytestmark = pytest.mark.usefixtures("nothing_is_left")


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    """Yield a body in pieces."""
    for part in parts:
        yield part


def body_of(number: int = 0, **fields: Any) -> bytes:
    """Return the body of an event with an id of its own."""
    properties = {**STARTED["event_properties"], "profile_event_id": f"event-{number}"}
    return json.dumps({**STARTED, "event_properties": properties, **fields}).encode()


class Handler:
    """
    A callable that records its events; it may wait, and fail.

    Attributes:
        held: what it waits for.
        errors: raised by the next runs, in order.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.held = asyncio.Event()
        self.held.set()
        self.errors: list[BaseException] = []

    async def __call__(self, event: Event) -> None:
        """Process an event."""
        self.events.append(event)
        await self.held.wait()
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture
def handler() -> Handler:
    """Return a callable that succeeds at once."""
    return Handler()


async def post(receiver: WebhookReceiver, body: bytes, header: str | None = SECRET) -> int:
    """Deliver a body, and return the status."""
    return (await receiver.receive(header, pieces(body[:7], body[7:]))).status


# Statuses


async def test_a_verification_gets_an_empty_object(handler: Handler) -> None:
    """The verification request is authenticated, and its response is JSON."""
    receiver = WebhookReceiver(handler, secret=SECRET)

    assert await receiver.receive(SECRET, pieces(b"{}")) == WebhookResponse(200, b"{}")
    assert await post(receiver, b"{}", "wrong") == 401
    assert handler.events == []
    assert receiver.statistics() == WebhookStatistics(verified=1, rejected=1)


async def test_an_event_is_passed_on_and_recorded(handler: Handler) -> None:
    """An event gets 200 after the callable has returned, and a second delivery does not run it."""
    receiver = WebhookReceiver(handler, secret=SECRET)

    assert [await post(receiver, body_of()) for _ in range(3)] == [200, 200, 200]
    (event,) = handler.events
    assert isinstance(event, SubscriptionStarted)
    assert event.profile_event_id == "event-0"
    assert receiver.statistics() == WebhookStatistics(processed=1, duplicates=2)


async def test_an_event_without_an_id_is_identified_by_its_body(handler: Handler) -> None:
    """Two equal bodies without `profile_event_id` are one event, and two different ones are two."""
    receiver = WebhookReceiver(handler, secret=SECRET)
    for name in ("a", "a", "b"):
        assert await post(receiver, json.dumps({"event_type": name}).encode()) == 200

    assert [event.event_type for event in handler.events] == ["a", "b"]


async def test_a_renamed_type_is_passed_on_as_its_class(handler: Handler) -> None:
    """The names of the dashboard are an option of the receiver."""
    names = {"sub": "subscription_started"}
    receiver = WebhookReceiver(handler, secret=SECRET, event_names=names)
    await post(receiver, body_of(event_type="sub"))

    assert isinstance(handler.events[0], SubscriptionStarted)


@pytest.mark.parametrize("header", [None, "", "s3cret", "bearer s3cret"], ids=repr)
async def test_a_request_without_the_secret_is_not_read(
    handler: Handler, header: str | None
) -> None:
    """The body of a request that is not authentic stays unread."""
    body = pieces(b"{}")
    receiver = WebhookReceiver(handler, secret=SECRET)
    response = await receiver.receive(header, body)

    assert (response.status, json.loads(response.body)) == (401, {"error": "unauthorized"})
    assert [piece async for piece in body] == [b"{}"]


async def test_each_of_several_secrets_is_accepted(handler: Handler) -> None:
    """Two environments, or the old and the new value, may have a secret each."""
    receiver = WebhookReceiver(handler, secret=("one", "two"))

    assert [await post(receiver, b"{}", header) for header in ("one", "two", "three")] == [
        200,
        200,
        401,
    ]


async def test_requests_of_anyone_need_an_explicit_option(handler: Handler) -> None:
    """Without a secret, a request without the header is accepted if the option says so."""
    receiver = WebhookReceiver(handler, secret=None, allow_unauthenticated=True)

    assert await post(receiver, body_of(), None) == 200


async def test_a_rejected_request_is_logged_with_its_reason(
    handler: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    """A large or unreadable body has a status that Adapty retries; the log quotes nothing of it."""
    receiver = WebhookReceiver(handler, secret=SECRET)

    assert await post(receiver, b"{}", "wrong") == 401
    assert await post(receiver, CANARY_EMAIL.encode()) == 422
    assert await post(receiver, b" " * (MAX_BODY_BYTES + 1)) == 413
    assert await post(receiver, b" " * (MAX_BODY_BYTES - 2) + b"{}") == 200
    assert receiver.statistics() == WebhookStatistics(rejected=3, verified=1)
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.WARNING, "webhook: status 401: the Authorization header is not the secret"),
        (logging.WARNING, "webhook: status 422: unreadable body (not JSON)"),
        (logging.WARNING, "webhook: status 413: larger than 1048576 bytes"),
    ]


async def test_a_whole_body_is_a_body(handler: Handler) -> None:
    """A framework that reads the body itself passes it at once, within the same bound."""
    receiver = WebhookReceiver(handler, secret=SECRET)

    assert (await receiver.receive(SECRET, body_of())).status == 200
    assert (await receiver.receive(SECRET, bytes(MAX_BODY_BYTES + 1))).status == 413
    assert len(handler.events) == 1


async def test_a_body_that_breaks_off_is_sent_again(
    handler: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of the framework while it reads the body is the end of that request alone."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"{"
        raise ConnectionResetError(CANARY_EMAIL)

    receiver = WebhookReceiver(handler, secret=SECRET)

    assert (await receiver.receive(SECRET, broken())).status == 422
    assert "the body cannot be read (ConnectionResetError)" in caplog.text
    assert CANARY_EMAIL not in caplog.text


# At least once


async def test_a_failed_event_is_sent_again_and_not_recorded(
    handler: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure, or a cancellation, is logged without its text; the next delivery runs again."""
    receiver = WebhookReceiver(handler, secret=SECRET)
    handler.errors = [ValueError(CANARY_EMAIL), TimeoutError(), asyncio.CancelledError()]

    assert [await post(receiver, body_of()) for _ in range(5)] == [500, 500, 503, 200, 200]
    assert len(handler.events) == 4
    assert receiver.statistics() == WebhookStatistics(failed=3, processed=1, duplicates=1)
    assert "subscription_started left for a retry: ValueError" in caplog.text
    assert "subscription_started left for a retry: CancelledError" in caplog.text
    assert "test_receiver.py" in caplog.text
    assert CANARY_EMAIL not in caplog.text
    assert "UserIdInYourSystem" not in caplog.text


async def test_concurrent_deliveries_of_one_event_run_once(handler: Handler) -> None:
    """A second delivery waits for the first one, and gets its status."""
    receiver = WebhookReceiver(handler, secret=SECRET)
    handler.held.clear()
    handler.errors = [ValueError()]
    posts = [asyncio.create_task(post(receiver, body_of())) for _ in range(3)]
    await loop_turns(20)
    assert len(handler.events) == receiver.statistics().in_flight == 1
    assert repr(receiver).startswith("WebhookReceiver(1 in flight, MemoryStore")
    handler.held.set()

    assert await asyncio.gather(*posts) == [500, 500, 500]
    assert await post(receiver, body_of()) == 200


async def test_late_work_continues_and_is_recorded(
    handler: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    """Work beyond the timeout gets 503; the retry finds it done, and does not run it again."""
    store = MemoryStore()
    receiver = WebhookReceiver(handler, secret=SECRET, store=store, timeout=0.02)
    patient = WebhookReceiver(handler, secret=SECRET, store=store)
    handler.held.clear()

    assert await post(receiver, body_of()) == 503
    assert await post(receiver, body_of()) == 503
    assert receiver.statistics() == WebhookStatistics(late=2, in_flight=1)
    handler.held.set()
    await loop_turns(20)
    assert await post(patient, body_of()) == 200
    assert len(handler.events) == 1
    assert "not processed within 0.02 s" in caplog.text


async def test_a_body_that_does_not_arrive_is_late(handler: Handler) -> None:
    """The timeout begins with the request, so a slow body counts."""

    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    receiver = WebhookReceiver(handler, secret=SECRET, timeout=0.02)

    assert (await receiver.receive(SECRET, stalled())).status == 503


async def test_a_cancelled_request_cancels_no_work(handler: Handler) -> None:
    """A client that goes away leaves the callable running, and its event is recorded."""
    receiver = WebhookReceiver(handler, secret=SECRET)
    handler.held.clear()
    request = asyncio.create_task(post(receiver, body_of()))
    await loop_turns(20)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    handler.held.set()

    assert await post(receiver, body_of()) == 200
    assert len(handler.events) == 1


async def test_events_in_flight_are_bounded(
    handler: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    """An event beyond the bound is left for a retry; a duplicate of one in flight is not."""
    receiver = WebhookReceiver(handler, secret=SECRET, max_in_flight=2)
    handler.held.clear()
    posts = [asyncio.create_task(post(receiver, body_of(number))) for number in (0, 1, 1)]
    await loop_turns(20)

    assert await post(receiver, body_of(2)) == 503
    assert caplog.messages == ["webhook: status 503: too many events in flight"]
    handler.held.set()
    assert await asyncio.gather(*posts) == [200] * 3
    assert await post(receiver, body_of(2)) == 200
    assert receiver.statistics() == WebhookStatistics(processed=3, rejected=1)


class BrokenStore(MemoryStore):
    """A store of which one operation fails."""

    def __init__(self, broken: str) -> None:
        super().__init__()
        self.broken = broken

    async def contains(self, key: str) -> bool:
        """Fail, or look the event up."""
        if self.broken == "contains":
            raise OSError(CANARY_EMAIL)
        return await super().contains(key)

    async def add(self, key: str) -> None:
        """Fail, or record the event."""
        if self.broken == "add":
            raise OSError(CANARY_EMAIL)
        await super().add(key)


@pytest.mark.parametrize(
    ("broken", "statuses", "runs", "what"),
    [
        ("contains", [500, 500], 0, "left for a retry"),
        ("add", [200, 200], 2, "processed, but not recorded"),
    ],
)
async def test_a_broken_store_loses_nothing(
    handler: Handler,
    caplog: pytest.LogCaptureFixture,
    broken: str,
    statuses: list[int],
    runs: int,
    what: str,
) -> None:
    """An event that cannot be looked up is left for a retry; one that is processed is done."""
    receiver = WebhookReceiver(handler, secret=SECRET, store=BrokenStore(broken))

    assert [await post(receiver, body_of()) for _ in statuses] == statuses
    assert len(handler.events) == runs
    assert f"webhook: subscription_started {what}: OSError\n" in caplog.text
    assert CANARY_EMAIL not in caplog.text


async def test_a_plain_function_processes_an_event_once() -> None:
    """A callable that is not async is done when it returns, so no retry runs it again."""
    seen: list[Event] = []
    handle: Any = seen.append
    async with WebhookReceiver(handle, secret=SECRET) as receiver:
        assert [await post(receiver, body_of()) for _ in range(2)] == [200, 200]

        assert receiver.statistics().duplicates == 1
    assert len(seen) == 1


async def test_the_log_says_why_a_store_cannot_be_used(
    handler: Handler, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The text of an error of this library has no personal data, and the reason is in it."""
    path = tmp_path / "missing" / "events.db"
    async with WebhookReceiver(handler, secret=SECRET, store=SqliteStore(path)) as receiver:
        assert await post(receiver, body_of()) == 500

    assert f"left for a retry: JournalError: {path}: No such file or directory\n" in caplog.text


async def test_an_event_is_recorded_only_after_the_callable(
    handler: Handler, tmp_path: Path
) -> None:
    """While the callable runs, the file does not have the event; a later process has it."""
    path = tmp_path / "events.db"
    handler.held.clear()
    async with WebhookReceiver(handler, secret=SECRET, store=SqliteStore(path)) as receiver:
        request = asyncio.create_task(post(receiver, body_of()))
        key = None
        while key is None:
            await asyncio.sleep(0)
            key = handler.events[0].deduplication_key if handler.events else None
        other = SqliteStore(path)
        assert not await other.contains(key)
        handler.held.set()
        assert await request == 200
        assert await other.contains(key)
        await other.aclose()

    async with WebhookReceiver(handler, secret=SECRET, store=SqliteStore(path)) as receiver:
        assert await post(receiver, body_of()) == 200
        assert receiver.statistics().duplicates == 1
    assert len(handler.events) == 1


# The end


async def test_closing_lets_work_finish(handler: Handler) -> None:
    """Closing waits for callables, and later requests get 503."""
    receiver = WebhookReceiver(handler, secret=SECRET)
    handler.held.clear()
    request = asyncio.create_task(post(receiver, body_of()))
    await loop_turns(20)
    closing = asyncio.create_task(receiver.aclose())
    await loop_turns(20)
    assert not closing.done()
    handler.held.set()
    await closing

    assert await request == 200
    assert await post(receiver, b"{}") == 503


async def test_closing_cancels_work_that_does_not_finish(handler: Handler) -> None:
    """Work beyond the timeout is cancelled, its request gets 503, and it is not recorded."""
    store = MemoryStore()
    receiver = WebhookReceiver(handler, secret=SECRET, store=store, timeout=0.05)
    handler.held.clear()
    request = asyncio.create_task(post(receiver, body_of()))
    await loop_turns(20)
    await receiver.aclose()

    assert await request == 503
    assert repr(store) == "MemoryStore(0 events)"


async def test_closing_waits_for_the_cleanup_of_cancelled_work() -> None:
    """A callable that is cancelled has returned its own resources when the receiver is closed."""
    ended: list[Event] = []

    async def handle(event: Event) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await loop_turns(5)
            ended.append(event)

    receiver = WebhookReceiver(handle, secret=SECRET, timeout=0.05)
    request = asyncio.create_task(post(receiver, body_of()))
    await loop_turns(20)
    await receiver.aclose()

    assert len(ended) == 1
    assert await request == 503


async def test_a_cancelled_close_cancels_work_and_closes_the_store(handler: Handler) -> None:
    """A server that gives up waiting for the close leaves no callable and no store open."""
    closed = asyncio.Event()

    class Store(MemoryStore):
        async def aclose(self) -> None:
            closed.set()

    receiver = WebhookReceiver(handler, secret=SECRET, store=Store())
    handler.held.clear()
    request = asyncio.create_task(post(receiver, body_of()))
    await loop_turns(20)
    closing = asyncio.create_task(receiver.aclose())
    await loop_turns(20)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing

    assert await request == 503
    assert closed.is_set()


async def test_a_request_that_outlives_the_receiver_starts_no_work(handler: Handler) -> None:
    """A body that is complete only after the end gets 503, and its event is sent again."""
    receiver = WebhookReceiver(handler, secret=SECRET)

    async def late() -> AsyncIterator[bytes]:
        await receiver.aclose()
        yield body_of()

    assert (await receiver.receive(SECRET, late())).status == 503
    assert handler.events == []


async def test_a_forked_process_has_no_events_in_flight(handler: Handler) -> None:
    """An event in flight in the parent is processed by the child if it gets it as well."""
    receiver = WebhookReceiver(handler, secret=SECRET)
    handler.held.clear()
    request = asyncio.create_task(post(receiver, body_of()))
    await loop_turns(20)
    receiver.after_fork()
    other = asyncio.create_task(post(receiver, body_of()))
    await loop_turns(20)
    assert len(handler.events) == 2
    handler.held.set()

    assert await other == await request == 200


# Options


async def ignore(event: Event) -> None:
    """Process nothing."""


Options = dict[str, Any]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"secret": None}, "secret is required"),
        ({"secret": SECRET, "allow_unauthenticated": True}, "exclude each other"),
        ({"secret": ""}, "secret must be text"),
        ({"secret": "x\n"}, "secret must be text"),
        ({"secret": " x"}, "secret must be text of printable characters, without blanks around"),
        ({"secret": "x\ty"}, "secret must be text of printable characters"),
        ({"secret": ()}, "secret must be text"),
        ({"secret": 5}, "secret must be text"),
        ({"secret": ("x", "")}, "secret must be text"),
        ({"secret": (b"x",)}, "secret must be text"),
        ({"secret": SECRET, "timeout": 10}, "timeout must be below"),
        ({"secret": SECRET, "store": "webhooks.db"}, "store must be an EventStore"),
        ({"secret": SECRET, "store": SqliteStore}, "store must be an EventStore"),
        ({"secret": SECRET, "timeout": 0}, "timeout must be a number"),
        ({"secret": SECRET, "max_in_flight": 0}, "max_in_flight"),
        ({"secret": SECRET, "event_names": {"x": "y"}}, "event_names: not documented .*: y"),
    ],
    ids=str,
)
def test_a_wrong_option_is_an_error_of_configuration(options: Options, message: str) -> None:
    """A receiver that would lose events or accept anything is never made."""
    with pytest.raises(ConfigError, match=message):
        WebhookReceiver(ignore, **options)


def test_a_receiver_shows_no_secret() -> None:
    """Neither its repr nor an error nor a pickle of a receiver has the secret."""
    receiver = WebhookReceiver(ignore, secret="canary")

    assert repr(receiver) == "WebhookReceiver(0 in flight, MemoryStore(0 events))"
    with pytest.raises(TypeError, match="holds a secret"):
        pickle.dumps(receiver)
    with pytest.raises(ConfigError) as caught:
        WebhookReceiver(ignore, secret="canary\n")
    frames = traceback.walk_tb(caught.value.__traceback__)
    shown = [frame.f_locals for frame, _ in frames if frame.f_code.co_filename != __file__]
    assert "canary" not in repr(shown)


_: Callable[[Event], Awaitable[object]] = ignore
__: EventStore = MemoryStore()
