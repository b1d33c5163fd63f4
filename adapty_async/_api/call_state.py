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
            Check layer: `response_lost`.
        error: the error of the latest attempt that ended, None if it succeeded. Check layer:
            `attempt_ended`, `attempt_failed`.
        written: an attempt before this one was written to a socket. Check layer: `attempt_failed`.
        call_id: the number of the call in the events of hooks, 0 without hooks. Observe layer:
            `call_numbered`.
        earlier_attempts: how many attempts were made before the call got that number: a creation is
            a call of its own in events. Observe layer: `call_numbered`.
        is_creating: the call sends the creation of a missing object, or the response to it was
            lost, here or in an earlier run. Creation layer: `creation_started`, `creation_ended`.
        is_creation_lost: the response to the creation was lost. Check layer: `response_lost`.
        settled: how many attempts the server processed before the creation started, or ended.
            Creation layer: `creation_started`, `creation_ended`.
        on_first_send: the first-send callback, which appends the call's write-ahead entry before
            the first attempt. It is called again if the server certainly processed no attempt
            before, before a creation, and after one whose outcome is known. The check layer awaits
            its result. None without a journal.
        on_refusal: retracts that entry after an attempt that the server certainly did not process.
        on_creation: makes the next entry one of a request that must not be retried.
        on_creation_end: retracts that entry once the outcome of the creation is known; its result
            is awaited before the call is sent again.
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
    call_id: int = 0
    earlier_attempts: int = 0
    is_creating: bool = False
    is_creation_lost: bool = False
    settled: int = 0
    on_first_send: Callable[[], Awaitable[None] | None] | None = None
    on_refusal: Callable[[], None] | None = None
    on_creation: Callable[[], None] | None = None
    on_creation_end: Callable[[], Awaitable[None]] | None = None

    @property
    def is_first_send(self) -> bool:
        """Whether the server certainly processed no attempt since the call or a creation began."""
        return self.attempts == self.refusals + self.settled

    @property
    def is_uncertain(self) -> bool:
        """Whether a response was lost that matters: that to a creation, once there is one."""
        return self.is_creation_lost if self.is_creating else self.ambiguous

    # The check layer:

    def attempt_started(self) -> None:
        """Count an attempt."""
        self.attempts += 1
        self.on_wire = self.reused = False

    def attempt_ended(self) -> None:
        """Record that an attempt has a response, or failed: it is not on the wire any more."""
        self.on_wire, self.error = False, None

    def attempt_withdrawn(self) -> None:
        """Do not count an attempt that was cancelled before it was written."""
        self.attempts -= 1

    def attempt_throttled(self) -> None:
        """Count a response with status 429."""
        self.throttled += 1

    def attempt_refused(self, *, is_sent: bool) -> None:
        """Count an attempt that the server certainly did not process, or that was not even sent."""
        self.refusals += 1
        self.connect_failures += not is_sent

    def response_lost(self) -> None:
        """Record that the server may have processed an attempt whose response is no success."""
        self.ambiguous = True
        self.is_creation_lost = self.is_creating

    def attempt_failed(self, error: Exception, *, is_sent: bool) -> None:
        """Record the error of an attempt."""
        self.error, self.written = error, self.written or is_sent

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

    # The observe layer:

    def call_numbered(self, call_id: int) -> None:
        """Set the number of the call in events."""
        self.call_id, self.earlier_attempts = call_id, self.attempts

    # The creation layer:

    def creation_started(self) -> None:
        """Record that the attempts from now on create a missing object."""
        self.is_creating = True
        self.settled = self.attempts - self.refusals
        if self.on_creation is not None:
            self.on_creation()

    async def creation_ended(self) -> None:
        """Record that the outcome of the creation is known, before the call is sent again."""
        self.is_creating = False
        self.settled = self.attempts - self.refusals
        if self.on_creation_end is not None:
            await self.on_creation_end()


#: A layer of the pipeline, or the transport: it returns the response, or raises an `AdaptyError`.
Layer: TypeAlias = Callable[[Request, CallState], Awaitable[Response]]
