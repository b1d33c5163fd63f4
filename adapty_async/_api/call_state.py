"""
The mutable state of one call, which travels through the pipeline together with a frozen request.

Each layer of the pipeline, and the transport below, is a function from a request and the state of
its call to the response: a `Layer`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import msgspec

from adapty_async._api.operation import Request, Response
from adapty_async.errors import ConnectError

__all__ = ("CallState", "Layer")


class CallState(msgspec.Struct):
    """
    The state of one call, which all its attempts share.

    Every layer may read it. Each attribute has one writer, which calls the methods named here.

    Attributes:
        attempts: the number of attempts. Check layer: `attempt_started`, `attempt_withdrawn`.
        refusals: how many of them the server certainly did not process. Check layer:
            `attempt_refused`.
        connect_failures: how many of these got no connection, so nothing was sent. Check layer:
            `attempt_refused`.
        throttled: how many attempts were throttled (429). Check layer: `attempt_throttled`.
        on_wire: the present attempt may have been written to a socket, in part or whole, and has no
            response yet. Transport: `sent` immediately before it writes, `unsent`. Check layer:
            `attempt_started`, `attempt_ended`. A cancellation leaves it as it is.
        reused: the present attempt goes over a connection that was used before. Transport:
            `connection_reused`.
        outage_failures: how many attempts failed in a known outage. They do not count towards the
            maximum of attempts of an item of a bulk run. Limit layer: `failed_in_outage`.
        deadline: when the call must be over, on the client's clock; infinite until it starts.
            Limit layer: `start_deadline`, `extend_deadline`, `requeued`.
        requeue_within: maximum seconds of the wait before a throttled item returns to its queue,
            although its `Retry-After` may be longer. Limit layer: `requeued`.
        ambiguous: a response was lost, here or in an earlier run, and may have been a success.
            Retry layer: `response_lost`.
        error: the error of the latest attempt that ended, None if it succeeded. Retry layer:
            `attempt_failed`, `call_succeeded`.
        written: an attempt before this one was written to a socket. Retry layer: `attempt_failed`.
        on_first_send: the first-send callback, which appends the call's write-ahead entry before
            the first attempt. It is called again if the server certainly processed no attempt
            before. The check layer awaits its result. None without a journal.
        on_refusal: retracts that entry after an attempt that the server certainly did not process.
    """

    attempts: int = 0
    refusals: int = 0
    connect_failures: int = 0
    throttled: int = 0
    on_wire: bool = False
    reused: bool = False
    outage_failures: int = 0
    deadline: float = math.inf
    requeue_within: float = math.inf
    ambiguous: bool = False
    error: Exception | None = None
    written: bool = False
    on_first_send: Callable[[], Awaitable[None] | None] | None = None
    on_refusal: Callable[[], None] | None = None

    @property
    def is_first_send(self) -> bool:
        """Whether the server certainly processed no attempt so far."""
        return self.attempts == self.refusals

    # The check layer:

    def attempt_started(self) -> None:
        """Count an attempt."""
        self.attempts += 1
        self.on_wire = self.reused = False

    def attempt_ended(self) -> None:
        """Record that an attempt has a response, or failed: it is not on the wire any more."""
        self.on_wire = False

    def attempt_withdrawn(self) -> None:
        """Do not count an attempt that was cancelled before it was written."""
        self.attempts -= 1

    def attempt_throttled(self) -> None:
        """Count a response with status 429."""
        self.throttled += 1

    def attempt_refused(self, error: Exception) -> None:
        """Count an attempt that the server certainly did not process."""
        self.refusals += 1
        self.connect_failures += isinstance(error, ConnectError)

    # The transport:

    def sent(self) -> None:
        """Record that the attempt is written to a socket now."""
        self.on_wire = True

    def unsent(self) -> None:
        """Record that nothing of the attempt was written after all."""
        self.on_wire = False

    def connection_reused(self) -> None:
        """Record that the attempt goes over a connection that was used before."""
        self.reused = True

    # The limit layer:

    def failed_in_outage(self) -> None:
        """Count a failure in a known outage, of which the request is not the cause."""
        self.outage_failures += 1

    def start_deadline(self, now: float, seconds: float) -> None:
        """Set the deadline a number of seconds from now, unless it is set."""
        if self.deadline == math.inf:
            self.deadline = now + seconds

    def extend_deadline(self, seconds: float) -> None:
        """Extend the deadline by a wait that is not charged to the call."""
        self.deadline += seconds

    def requeued(self, within: float) -> None:
        """Return an item to its queue within *n* seconds, where it gets a new deadline."""
        self.deadline, self.requeue_within = math.inf, within

    # The retry layer:

    def response_lost(self) -> None:
        """Record that the server may have processed an attempt whose response is no success."""
        self.ambiguous = True

    def attempt_failed(self, error: Exception) -> None:
        """Record the error of an attempt."""
        self.error, self.written = error, self.written or not isinstance(error, ConnectError)

    def call_succeeded(self) -> None:
        """Record that a retry succeeded."""
        self.error = None


#: A layer of the pipeline, or the transport: it returns the response, or raises an `AdaptyError`.
Layer: TypeAlias = Callable[[Request, CallState], Awaitable[Response]]
