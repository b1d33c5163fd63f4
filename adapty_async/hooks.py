"""The events that a client emits to its hooks: frozen records without secrets or personal data."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import msgspec

__all__ = ("CallEnded", "CallStarted", "Event", "Hook", "RetryScheduled")


class CallStarted(msgspec.Struct, frozen=True):
    """An event: a call is about to send its first request."""

    operation: str


class RetryScheduled(msgspec.Struct, frozen=True):
    """
    An event: an attempt failed and will be retried.

    Attributes:
        operation: the name of the call, such as ``v1.profiles.delete``.
        attempt: the number of the failed attempt, from 1.
        wait: seconds until the next attempt.
        error: the name of the error's class.
        status: the HTTP status, None if there was no response.
    """

    operation: str
    attempt: int
    wait: float
    error: str
    status: int | None


class CallEnded(msgspec.Struct, frozen=True):
    """
    An event: a call ended.

    Attributes:
        operation: the name of the call, such as ``v1.profiles.delete``.
        attempts: the number of requests that were sent.
        elapsed: seconds since the start of the call.
        status: the HTTP status of the last response, None if there was none.
        error: the name of the class of the error that the call raises, None for success.
    """

    operation: str
    attempts: int
    elapsed: float
    status: int | None
    error: str | None


Event: TypeAlias = CallStarted | RetryScheduled | CallEnded


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
