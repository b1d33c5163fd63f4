"""
The values a call is made of, from what the caller wants to what came back. No behaviour.

An `Endpoint` is one row of an API's table. An `Operation` is a row plus a caller's values. Encoding
gives a `Request`, the transport turns that into a `Response`, and everything in between is a
function from the one to the other: a `Send`.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, Generic, NoReturn, Protocol, TypeAlias, TypeVar

import msgspec

__all__ = (
    "CallState",
    "Endpoint",
    "Execute",
    "Headers",
    "Operation",
    "Request",
    "Response",
    "RetrySafety",
    "Send",
    "WriteAhead",
)

ResultT = TypeVar("ResultT")
ResultT_co = TypeVar("ResultT_co", covariant=True)


class RetrySafety(enum.StrEnum):
    """When a request may be sent again; a property of the endpoint, never of the HTTP method."""

    #: A repeat changes nothing more.
    ALWAYS = "always"
    #: Safe, since all attempts carry the same idempotency key.
    WITH_KEY = "with_key"
    #: Only when the request was surely not processed.
    IF_UNSENT = "if_unsent"


class Headers(dict[str, str]):
    """Headers of requests by name; the values, a key and an id among them, are not shown."""

    def __repr__(self) -> str:
        return f"Headers({', '.join(self)})"

    def __rich_repr__(self) -> list[Any]:
        return list(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("headers hold a key; they are not pickled")


class Response(msgspec.Struct, frozen=True):
    """What the server answered: the status, the headers (names in any case) and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"Response({self.status}, {len(self.body)} bytes)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("status", self.status), ("bytes", len(self.body))]


class Endpoint(msgspec.Struct, Generic[ResultT_co], frozen=True, kw_only=True):
    """
    One row of an API's table; covariant in its result.

    Attributes:
        name: how the call is named in errors, events and logs.
        method: the HTTP method.
        path: the path below the origin; Adapty's paths end with a slash. A name in braces is
            filled in from the operation's parameters.
        docs: the page that documents it.
        replay: when it may be sent again.
        bucket: what the server counts its requests under.
        decode: the body of a successful answer to the result.
        encode: the operation's body to bytes.
        erases: the operation deletes, so "not found" after a lost answer means that it worked.
        absent_if_missing: the operation reads, so in a bulk run "not found" is the status
            ``absent``, as it is for a deletion; otherwise it is ``failed``.
        subject: what an operation's body is about, so that a bulk run has no two requests about it
            in flight together; without it, the operation's headers tell.
        check: the rules of the documents that an operation has to keep; a client may be told to
            leave them to the server.
        media_type: of the body, where it is not the one that the client's other calls have.
    """

    name: str
    method: str
    path: str
    docs: str
    retry_safety: RetrySafety
    bucket: str
    decode: Callable[[bytes], ResultT_co]
    encode: Callable[[Any], bytes] = msgspec.json.encode
    is_deletion: bool = False
    absent_if_missing: bool = False
    lock_key: Callable[[Any], Hashable] | None = None
    check: Callable[[Operation[Any]], None] | None = None
    media_type: str | None = None


class Operation(msgspec.Struct, Generic[ResultT_co], frozen=True):
    """
    A call that has not been made yet: its endpoint and the caller's values.

    It is covariant in its result, so a list may hold operations of several kinds.

    Attributes:
        endpoint: the row.
        headers: the headers of this call, by name; the profile's identity is one of them.
        body: what is encoded as the JSON body; None sends none.
        key: the idempotency key, made with the operation, so that all attempts share it. It does
            not belong to what the call is about: the same call made anew has another one.
        parameters: what the URL says, by name: those that the row's path has in braces go there,
            the others into the query.
    """

    endpoint: Endpoint[ResultT_co]
    headers: tuple[tuple[str, str], ...] = ()
    body: Any = None
    key: str | None = None
    parameters: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"Operation({self.endpoint.name})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("endpoint", self.endpoint.name)]


class CallState(msgspec.Struct):
    """
    What happened to one call so far; the one part of a request that changes.

    Attributes:
        attempts: attempts made.
        throttled: how many of them were answered 429.
        connect_failures: how many of them got no connection, so that nothing was sent.
        excused: how many of them failed in a known outage; for items of bulk runs they don't count.
        lost: an answer was lost, here or in an earlier run, that may have been a success.
        error: why the latest attempt that ended failed, None if it succeeded; the retry layer sets
            it.
        written: an attempt before this one was written to a socket; the retry layer sets it.
        deadline: when the call must be over, on the client's clock; infinite until it begins.
        position: the item's position in the journal of its run.
        begun: the journal has a write-ahead entry for the present attempt; the journal sets it.
        on_wire: the present attempt may have been written to a socket, in part or whole, and has
            no response yet. The transport sets it immediately before it writes, and the status
            check clears it when the attempt ends. A cancellation leaves it as it is, until the
            item processor has determined the item's status.
        reused: the present attempt goes over a connection that was used before. The transport
            sets it.
    """

    attempts: int = 0
    throttled: int = 0
    connect_failures: int = 0
    outage_failures: int = 0
    ambiguous: bool = False
    error: Exception | None = None
    written: bool = False
    deadline: float = math.inf
    position: int = 0
    begun: bool = False
    on_wire: bool = False
    reused: bool = False


class Request(msgspec.Struct, kw_only=True, frozen=True):
    """
    A call as bytes, with what the layers on its way need to know.

    Attributes:
        headers: all of them; the client's key is among them.
        timeout: seconds for one attempt.
        allowance: seconds for the whole call.
        absent_if_missing: in a bulk run, "not found" is the status ``absent``, and no failure.
        background: it is an item of a bulk run, and lets single calls go first.
        tally: what happened so far, shared by all attempts.
    """

    operation: str
    method: str
    url: str
    headers: Headers
    body: bytes | None
    retry_safety: RetrySafety
    bucket: str
    erases: bool
    timeout: float
    total_timeout: float
    state: CallState
    low_priority: bool = False
    absent_if_missing: bool = False

    def __repr__(self) -> str:
        return f"Request({self.operation})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("operation", self.operation)]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a request holds a key; pickle its operation instead")


Send: TypeAlias = Callable[[Request], Awaitable[Response]]


class WriteAhead(Protocol):
    """A record of attempts, written before they are sent."""

    def begin(self, request: Request) -> Awaitable[None] | None:
        """
        Append the write-ahead entry of an attempt; the caller awaits the result before it sends.
        """
        ...

    def refused(self, request: Request) -> None:
        """Record that the server surely did not process the attempt."""
        ...


class Execute(Protocol):
    """What a resource needs to offer single calls."""

    def __call__(self, operation: Operation[ResultT], /) -> Awaitable[ResultT]:
        """Send the operation and return its result."""
        ...
