"""
The value types of a call, from operation to response. They have no behaviour.

An `Endpoint` is one definition in an API's endpoint table. An `Operation` is an endpoint plus the
caller's values. The codec encodes it as a `Request`, and the transport returns a `Response` for
that. A transport of the caller's is a function from request to response: a `Send`.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, Generic, NoReturn, Protocol, TypeAlias, TypeVar

import msgspec

__all__ = (
    "Endpoint",
    "Execute",
    "Headers",
    "Operation",
    "Request",
    "Response",
    "RetrySafety",
    "Send",
)

ResultT = TypeVar("ResultT")
ResultT_co = TypeVar("ResultT_co", covariant=True)


class RetrySafety(enum.StrEnum):
    """
    The retry safety of an endpoint: when a request may be sent again.

    It is a property of the endpoint definition and never derived from the HTTP method.
    """

    #: Always: a retry changes nothing more.
    ALWAYS = "always"
    #: With an idempotency key, which all attempts share.
    WITH_KEY = "with_key"
    #: Only if the server certainly did not process the request.
    IF_UNSENT = "if_unsent"


class Headers(dict[str, str]):
    """
    An immutable dictionary of request headers by name.

    Its repr hides the values: the API key and ids.
    """

    def __repr__(self) -> str:
        return f"Headers({', '.join(self)})"

    def __rich_repr__(self) -> list[Any]:
        return list(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("headers hold an API key; they are not pickled")


def _reject_change(*_: Any, **__: Any) -> NoReturn:
    raise TypeError("the headers of a request are immutable; make a dict of them")


_CHANGES = ("__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault")
for _method in (*_CHANGES, "update"):
    setattr(Headers, _method, _reject_change)  # type checkers see the signatures of a dictionary


class Response(msgspec.Struct, frozen=True):
    """A response of the server: status, headers (names in any case) and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"Response({self.status}, {len(self.body)} bytes)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("status", self.status), ("bytes", len(self.body))]


class Endpoint(msgspec.Struct, Generic[ResultT_co], frozen=True, kw_only=True):
    """
    An endpoint definition: one row of an API's endpoint table. It is covariant in its result.

    Attributes:
        name: the name of the call in errors, events and logs.
        method: the HTTP method.
        path: the path below the origin; Adapty's paths end with a slash. The operation's parameters
            replace the URL placeholders, which are names in braces.
        docs: the URL of the page that documents the endpoint.
        retry_safety: when a request may be sent again.
        bucket: the server-side rate limit that counts the requests.
        decode: a function from the body of a successful response to the result.
        encode: a function from the operation's body to bytes.
        is_deletion: the operation deletes, so "not found" after a lost response means success.
        absent_if_missing: the operation reads, so in a bulk run "not found" is the status
            ``absent``, as it is for a deletion; otherwise it is ``failed``.
        lock_key: a function from an operation's body to the lock key. A bulk run has at most one
            request per lock key in flight. Without it, the operation's headers are the lock key.
        check: validates an operation by the rules of Adapty's documentation. A client may be
            configured to leave these rules to the server.
        media_type: the media type of the body if it differs from that of the client's other calls.
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
    A description of a call that has not been sent: its endpoint and the caller's values.

    It is covariant in its result, so a list may hold operations of several kinds.

    Attributes:
        endpoint: the endpoint definition.
        headers: names and values of the headers of this call; they include the profile's identity.
        body: the value that is encoded as the JSON body; None sends no body.
        key: the idempotency key. It is created with the operation, so all attempts share it. It is
            not part of the call's identity: the same call described again has another key.
        parameters: names and values for the URL. A value replaces the URL placeholder of its name
            in the path; without one, it goes into the query.
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


class Request(msgspec.Struct, kw_only=True, frozen=True):
    """
    An encoded call, with the facts that the layers of the pipeline need.

    Attributes:
        operation: the name of the endpoint definition.
        headers: all headers, including the client's API key.
        retry_safety: when the request may be sent again.
        bucket: the server-side rate limit that counts the request.
        is_deletion: the operation deletes.
        timeout: seconds for one attempt.
        total_timeout: seconds for the whole call.
        low_priority: the request is an item of a bulk run and yields to single calls.
        absent_if_missing: in a bulk run, "not found" is the status ``absent`` and no failure.
    """

    operation: str
    method: str
    url: str
    headers: Headers
    body: bytes | None
    retry_safety: RetrySafety
    bucket: str
    is_deletion: bool
    timeout: float
    total_timeout: float
    low_priority: bool = False
    absent_if_missing: bool = False

    def __repr__(self) -> str:
        return f"Request({self.operation})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("operation", self.operation)]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a request holds an API key; pickle its operation instead")


Send: TypeAlias = Callable[[Request], Awaitable[Response]]


class Execute(Protocol):
    """The callable by which a resource sends single calls."""

    def __call__(self, operation: Operation[ResultT], /) -> Awaitable[ResultT]:
        """Send the operation and return its result."""
        ...
