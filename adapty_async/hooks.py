"""What a client tells its hooks: frozen records, with no secret and no personal data in them."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import msgspec

__all__ = ("CallEnded", "CallStarted", "Event", "Hook", "RetryScheduled")


class CallStarted(msgspec.Struct, frozen=True):
    """A call is about to send its first request."""

    operation: str


class RetryScheduled(msgspec.Struct, frozen=True):
    """
    An attempt failed and will be repeated.

    Attributes:
        attempt: the number of the attempt that failed, from 1.
        wait: seconds until the next one.
        error: the class of what went wrong.
        status: the HTTP status, None if no answer came.
    """

    operation: str
    attempt: int
    wait: float
    error: str
    status: int | None


class CallEnded(msgspec.Struct, frozen=True):
    """
    A call is over.

    Attributes:
        attempts: the requests that were sent.
        elapsed: seconds from the start of the call.
        status: the HTTP status of the last answer, None if there was none.
        error: the class of the error the call ends with, None for success.
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
