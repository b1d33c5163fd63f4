"""Hooks that raise: the call ends as it would without them, and the log has one record of it."""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

from adapty_async import AdaptyClient, NotFoundError
from adapty_async._pipeline.observe import Emitter
from adapty_async.hooks import AttemptEnded, CallEnded, CallStarted, Event, RetryScheduled
from adapty_async.sandbox import Sandbox
from adapty_async.testing import FakeTransport, Reply
from tests._shown import shown_by
from tests._support import CANARY_EMAIL, CANARY_KEY

DELETED: Reply = (204, {}, b"")
MISSING: Reply = (404, {}, b'{"errors":[],"error_code":"profile_does_not_exist","status_code":404}')


class Broken:
    """A hook that raises on one kind of event."""

    def __init__(self, kind: type[Event], error: BaseException | None = None) -> None:
        self.events: list[Event] = []
        self._kind = kind
        self._error = LookupError("metrics backend down") if error is None else error

    def __call__(self, event: Event, /) -> None:
        """Record an event, and raise."""
        self.events.append(event)
        if isinstance(event, self._kind):
            raise self._error


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Capture what the library logs at level WARNING and above."""
    with caplog.at_level(logging.WARNING, "adapty_async"):
        yield caplog


KINDS = pytest.mark.parametrize("kind", [CallStarted, RetryScheduled, CallEnded])


@KINDS
async def test_a_call_ends_as_it_would_without_hooks(
    kind: type[Event], log: pytest.LogCaptureFixture
) -> None:
    """A successful delete returns, whatever event a hook raises on; other hooks receive it."""
    hook, seen = Broken(kind), list[Event]()
    transport = FakeTransport([(500, {}, b""), DELETED])
    async with AdaptyClient("key", transport=transport, hooks=(hook, seen.append)) as client:
        await client.v2.profiles.delete(customer_user_id="u1")

    assert [type(event) for event in seen] == [
        CallStarted,
        AttemptEnded,
        RetryScheduled,
        AttemptEnded,
        CallEnded,
    ]
    assert hook.events == seen
    [record] = log.records
    assert (record.name, record.levelname) == ("adapty_async", "ERROR")
    assert kind.__name__ in record.getMessage()
    assert "metrics backend down" in log.text


async def test_an_error_of_the_call_stays_the_error_of_the_call(
    log: pytest.LogCaptureFixture,
) -> None:
    """A failed call raises its own error, which a hook cannot replace."""
    client = AdaptyClient("key", transport=FakeTransport([MISSING]), hooks=(Broken(CallEnded),))

    with pytest.raises(NotFoundError, match=r"^status 404"):
        await client.v2.profiles.delete(customer_user_id="u1")
    assert len(log.records) == 1


@KINDS
async def test_a_bulk_run_erases_everybody_all_the_same(
    kind: type[Event], log: pytest.LogCaptureFixture
) -> None:
    """A run processes its items with a hook that always raises, and logs that once."""
    ids = [f"u{number}" for number in range(20)]
    async with Sandbox(faults="error=10%", seed=1) as sandbox:
        sandbox.seed_profiles(ids)
        async with AdaptyClient(
            sandbox.api_key, base_url=sandbox.url, hooks=(Broken(kind),)
        ) as client:
            report = await client.v2.profiles.bulk_delete(ids, by="customer_user_id")
            again = client.with_options(timeout=5.0)
            with pytest.raises(NotFoundError):
                await again.v2.profiles.get(customer_user_id="u1")
        assert sandbox.customer_user_ids() == set()

    assert report.done == report.total == 20
    assert len(log.records) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), asyncio.CancelledError(), SystemExit(3)])
def test_what_is_no_exception_passes(error: BaseException) -> None:
    """An interrupt and a cancellation are no defect of a hook, and propagate."""
    seen: list[Event] = []

    with pytest.raises(type(error)):
        Emitter((Broken(CallStarted, error), seen.append)).emit(CallStarted("test"))
    assert seen == []


def test_each_hook_and_kind_of_event_is_logged_once(log: pytest.LogCaptureFixture) -> None:
    """Each hook and kind of event has one record, regardless of the number of events."""
    ended = CallEnded("test", 1, 0.0, 200, None)
    emitter = Emitter((Broken(CallStarted), Broken(CallStarted), Broken(CallEnded)))
    for _ in range(100):
        emitter.emit(CallStarted("test"))
        emitter.emit(ended)

    assert [record.getMessage().count("CallEnded") for record in log.records] == [0, 0, 1]


def _plain() -> NoReturn:
    raise LookupError("own")


def _in_a_handler() -> NoReturn:
    try:
        raise ValueError("inner")
    except ValueError:
        raise LookupError("own") from None


def _caused_by_the_call() -> NoReturn:
    raise LookupError("own") from sys.exception()


def _the_calls_own() -> NoReturn:
    error = sys.exception()
    assert isinstance(error, NotFoundError)
    raise error


async def logged_of(fail: Callable[[], NoReturn], log: pytest.LogCaptureFixture) -> Any:
    """Return the log of a hook that fails in this way at the end of a failed call."""

    def hook(event: Event) -> None:
        if isinstance(event, CallEnded):
            fail()

    body = f'{{"errors":["{CANARY_EMAIL}"],"error_code":"profile_does_not_exist"}}'.encode()
    transport = FakeTransport([(404, {}, body)])
    client = AdaptyClient(CANARY_KEY, transport=transport, hooks=(hook,))
    with pytest.raises(NotFoundError):
        await client.v2.profiles.delete(customer_user_id=CANARY_EMAIL)
    [record] = log.records
    assert CANARY_EMAIL not in log.text
    assert CANARY_KEY not in log.text
    return record.exc_info


@pytest.mark.parametrize("fail", [_plain, _in_a_handler, _caused_by_the_call])
async def test_the_log_record_leads_to_nothing_but_the_hook(
    fail: Callable[[], NoReturn], log: pytest.LogCaptureFixture
) -> None:
    """The record contains no frame of the library, even if a hook runs while a call fails."""
    _, error, frames = await logged_of(fail, log)

    assert [frame.f_code.co_name for frame, _ in traceback.walk_tb(frames)] == [
        "hook",
        fail.__name__,
    ]
    assert error.__traceback__ is frames
    assert not isinstance(error.__context__, NotFoundError)
    assert error.__cause__ is None
    shown = shown_by(error)
    assert CANARY_EMAIL not in shown
    assert CANARY_KEY not in shown


async def test_a_hook_may_raise_the_calls_own_error(log: pytest.LogCaptureFixture) -> None:
    """The error of the call is logged and raised unchanged."""
    _, error, frames = await logged_of(_the_calls_own, log)

    assert isinstance(error, NotFoundError)
    assert frames.tb_frame.f_code.co_name == "hook"


def test_a_chain_that_bites_its_tail_is_no_trap(log: pytest.LogCaptureFixture) -> None:
    """A cyclic chain of causes is logged as any other exception."""
    one, other = LookupError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    Emitter((Broken(CallStarted, one),)).emit(CallStarted("test"))

    assert len(log.records) == 1
