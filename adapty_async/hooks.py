"""The events that a client emits to its hooks: frozen records without secrets or personal data."""

from __future__ import annotations

import logging
from typing import Protocol, TypeAlias

import msgspec

__all__ = (
    "AttemptEnded",
    "CallEnded",
    "CallStarted",
    "Event",
    "Hook",
    "RetryScheduled",
    "log_attempts",
)

logger = logging.getLogger("adapty_async")


class CallStarted(msgspec.Struct, frozen=True):
    """
    An event: a call is about to send its first request.

    The events of a call are emitted in its task, so a `contextvars.ContextVar` that a hook sets
    here has the same value at the call's `CallEnded`.

    Attributes:
        operation: the name of the call, such as ``v1.profiles.delete``.
        call_id: the number of the call among those of its client, from 1.
        method: the HTTP method.
        host: the host that the request is for, with its port if the origin names one.
    """

    operation: str
    call_id: int = 0
    method: str = ""
    host: str = ""


class AttemptEnded(msgspec.Struct, frozen=True):
    """
    An event: an attempt has a response, or failed.

    Attributes:
        operation: the name of the call.
        call_id: the number of the call; see `CallStarted`.
        method: the HTTP method.
        host: the host; see `CallStarted`.
        attempt: the number of the attempt, from 1.
        elapsed: seconds since the start of the attempt, without waits for a permit.
        status: the HTTP status, None if there was no response.
        request_id: the id that the server gave the request, None if it gave none.
        error: the name of the class of the error, None for success.
    """

    operation: str
    call_id: int
    method: str
    host: str
    attempt: int
    elapsed: float
    status: int | None
    request_id: str | None
    error: str | None


class RetryScheduled(msgspec.Struct, frozen=True):
    """
    An event: an attempt failed and will be retried.

    Attributes:
        operation: the name of the call, such as ``v1.profiles.delete``.
        attempt: the number of the failed attempt, from 1.
        wait: seconds until the next attempt.
        error: the name of the error's class.
        status: the HTTP status, None if there was no response.
        call_id: the number of the call; see `CallStarted`.
        errno: that of `adapty_async.ConnectError`, None for other errors.
    """

    operation: str
    attempt: int
    wait: float
    error: str
    status: int | None
    call_id: int = 0
    errno: int | None = None


class CallEnded(msgspec.Struct, frozen=True):
    """
    An event: a call ended.

    Attributes:
        operation: the name of the call, such as ``v1.profiles.delete``.
        attempts: the number of requests that were sent.
        elapsed: seconds since the start of the call.
        status: the HTTP status of the last response, None if there was none.
        error: the name of the class of the error that the call raises, None for success.
        call_id: the number of the call; see `CallStarted`.
        method: the HTTP method.
        host: the host; see `CallStarted`.
        request_id: the id that the server gave the last request, None if it gave none.
    """

    operation: str
    attempts: int
    elapsed: float
    status: int | None
    error: str | None
    call_id: int = 0
    method: str = ""
    host: str = ""
    request_id: str | None = None


#: An event; later releases may add kinds of events and attributes.
Event: TypeAlias = CallStarted | AttemptEnded | RetryScheduled | CallEnded


class Hook(Protocol):
    """
    A callback that receives every event. It runs in the event loop and must not block.

    A call ends as it would without hooks: an exception that a hook raises is logged by the logger
    ``adapty_async`` at level ERROR, with the traceback of the hook, once per hook and kind of
    event. Only a `BaseException` that is no `Exception`, such as `KeyboardInterrupt` or
    `asyncio.CancelledError`, propagates.
    """

    def __call__(self, event: Event, /) -> object:
        """Record an event."""


def log_attempts(event: Event, /) -> None:
    """
    Log each attempt at level DEBUG, in one line; a hook for ``hooks=``.

    The logger is ``adapty_async``. With ``ADAPTY_ASYNC_LOG=debug`` each client has this hook.
    """
    if isinstance(event, AttemptEnded):
        logger.debug(
            "%s, call %d, attempt %d: %s in %.3f s, request id %s",
            event.operation,
            event.call_id,
            event.attempt,
            event.status if event.error is None else f"{event.error} ({event.status})",
            event.elapsed,
            event.request_id,
        )
