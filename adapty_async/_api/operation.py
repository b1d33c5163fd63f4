"""
The value types of a call, from operation to response. They do no I/O.

An `Endpoint` is one definition in an API's endpoint table. An `Operation` is an endpoint plus the
caller's values. The codec encodes it as a `Request`, and the transport returns a `Response` for
that. A transport of the caller's is a function from request to response: a `Send`.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, Generic, NoReturn, Protocol, TypeAlias, TypeVar

import msgspec

from adapty_async._api.validation import header_name, matching, text
from adapty_async.errors import InvalidInputError

__all__ = (
    "IDENTITIES",
    "IDENTITY_HEADERS",
    "Endpoint",
    "Execute",
    "Headers",
    "Middleware",
    "Operation",
    "Request",
    "Response",
    "RetrySafety",
    "Send",
)

ResultT = TypeVar("ResultT")
ResultT_co = TypeVar("ResultT_co", covariant=True)

#: The headers that identify a profile, by the names of its ids; other headers are options.
IDENTITY_HEADERS: Mapping[str, str] = {
    "customer_user_id": "adapty-customer-user-id",
    "profile_id": "adapty-profile-id",
}
#: The same headers, without the names.
IDENTITIES = frozenset(IDENTITY_HEADERS.values())

_require_method = matching(r"[A-Z]+", "must be an HTTP method in capitals, such as GET")
# A query belongs to the parameters of an operation, and a host to the client.
_require_path = matching(
    r"/(?!/)[A-Za-z0-9/{}._~!$&'()*+,;=:@%-]*",
    "must begin with one slash, and have no query, blank or character that a URL cannot have",
)


class RetrySafety(enum.StrEnum):
    """
    The retry safety of an endpoint: when a request may be sent again.

    It is a property of the endpoint definition and never derived from the HTTP method.
    """

    #: Always, since a retry changes nothing more.
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

    def merged(self, headers: Mapping[str, str]) -> Headers:
        """Return a copy with more headers, or other values for those it has, in any case."""
        given = {name.lower() for name in headers}
        kept = {name: value for name, value in self.items() if name.lower() not in given}
        return Headers({**kept, **headers})

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
    """
    A response of the server.

    Attributes:
        status: the HTTP status.
        headers: the headers; names may be in any case.
        body: the whole body, decompressed.
    """

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

    Called with the values of a call, it returns the operation, for `adapty_async.AdaptyClient`.

    Attributes:
        name: the name of the call in errors, events and logs.
        method: the HTTP method, in capitals.
        path: the path below the origin, from its first slash on; Adapty's paths end with a slash.
            The operation's parameters replace the URL placeholders, which are names in braces.
        decode: a function from the body of a successful response to the result, such as one of
            `adapty_async.endpoints.json_decoder`, `adapty_async.endpoints.no_result`, or ``bytes``.
            A ValueError, LookupError, TypeError, AttributeError or ArithmeticError of it becomes a
            `adapty_async.DecodeError`; any other exception is raised as it is.
        docs: the URL of the page that documents the endpoint.
        retry_safety: when a request may be sent again. By default only if the server certainly did
            not process it.
        bucket: the server-side rate limit that counts the requests: ``v2`` for that of the
            server-side API. By default one that no listed call has.
        encode: a function from the operation's body to bytes.
        is_deletion: the operation deletes, so "not found" after a lost response means success.
        absent_if_missing: the operation reads, so in a bulk run "not found" is the status
            ``absent``, as it is for a deletion; otherwise it is ``failed``.
        lock_key: a function from an operation's body to the lock key. A bulk run has at most one
            request per lock key in flight. Without it, the operation's headers are the lock key.
            That of an operation with `Operation.if_missing` consists of text and numbers.
        check: validates an operation by the rules of Adapty's documentation. A client may be
            configured to leave these rules to the server.
        media_type: the media type of the body if it differs from that of the client's other calls.
        uses_public_key: the server expects the account's public key, not its secret one.

    Raises:
        InvalidInputError: the name is empty, or the method or path is none.
    """

    name: str
    method: str
    path: str
    decode: Callable[[bytes], ResultT_co]
    docs: str = ""
    retry_safety: RetrySafety = RetrySafety.IF_UNSENT
    bucket: str = "other"
    encode: Callable[[Any], bytes] = msgspec.json.encode
    is_deletion: bool = False
    absent_if_missing: bool = False
    lock_key: Callable[[Any], Hashable] | None = None
    check: Callable[[Operation[Any]], None] | None = None
    media_type: str | None = None
    uses_public_key: bool = False

    def __post_init__(self) -> None:
        text("Endpoint.name", self.name)
        _require_method("Endpoint.method", self.method)
        _require_path("Endpoint.path", self.path)

    def __call__(
        self,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        parameters: Mapping[str, str | int] | None = None,
        idempotency_key: str | None = None,
    ) -> Operation[ResultT_co]:
        """
        Return the operation of a call with these values.

        Args:
            body: the value that is encoded as the JSON body; None sends no body.
            headers: headers of this call, such as ``adapty-customer-user-id``.
            parameters: values by name, for the URL placeholders of the path and for the query.
            idempotency_key: the key that all attempts share, for an endpoint whose retry safety is
                `RetrySafety.WITH_KEY`; by default a new one.

        Raises:
            InvalidInputError: a header is reserved, or a parameter is no text or whole number. Its
                value is validated when the call is sent.
        """
        for name in headers or ():
            header_name(name)
        for name, value in (parameters or {}).items():
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise InvalidInputError(f"parameters.{name}", "must be text or a whole number")
        if idempotency_key is None and self.retry_safety is RetrySafety.WITH_KEY:
            idempotency_key = str(uuid.uuid4())
        return Operation(
            self,
            tuple((headers or {}).items()),
            body,
            idempotency_key,
            tuple(
                (name, value if isinstance(value, str) else str(int(value)))
                for name, value in (parameters or {}).items()
            ),
        )


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
        if_missing: creates the object that this operation is about. It is sent once if the server
            finds no such object, and never a second time after a lost response.
        is_done_by_creation: the creation does what this operation does, and has the same result;
            otherwise this operation is sent again after it.
    """

    endpoint: Endpoint[ResultT_co]
    headers: tuple[tuple[str, str], ...] = ()
    body: Any = None
    key: str | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    if_missing: Operation[Any] | None = None
    is_done_by_creation: bool = True

    def __repr__(self) -> str:
        return f"Operation({self.endpoint.name})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("endpoint", self.endpoint.name)]


class Request(msgspec.Struct, kw_only=True, frozen=True):
    """
    An encoded call, with the facts that the layers of the pipeline need.

    Attributes:
        operation: the name of the endpoint definition.
        method: the HTTP method, in capitals.
        url: the encoded URL, with its query.
        headers: all headers, including the client's API key.
        body: the encoded body; None without one.
        retry_safety: when the request may be sent again.
        bucket: the server-side rate limit that counts the request.
        is_deletion: the operation deletes.
        timeout: seconds for one attempt.
        total_timeout: seconds for the whole call.
        low_priority: the request is an item of a bulk run and yields to single calls.
        absent_if_missing: in a bulk run, "not found" is the status ``absent`` and no failure.
        if_missing: the request that creates the object if the server finds none.
        is_done_by_creation: the request is not sent again after a creation.
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
    if_missing: Request | None = None
    is_done_by_creation: bool = True

    @property
    def host(self) -> str:
        """The host and port of the URL."""
        return self.url.split("/", 3)[2]

    def with_headers(self, headers: Mapping[str, str]) -> Request:
        """Return a copy with more headers, or other values for those it has, in any case."""
        return msgspec.structs.replace(self, headers=self.headers.merged(headers))

    def __repr__(self) -> str:
        return f"Request({self.operation})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("operation", self.operation)]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a request holds an API key; it is not pickled")


#: A callable that sends a request: a transport, or the rest of the pipeline behind a middleware.
Send: TypeAlias = Callable[[Request], Awaitable[Response]]

#: A function around each attempt: it receives the request and the `Send` that sends it.
Middleware: TypeAlias = Callable[[Request, Send], Awaitable[Response]]


class Execute(Protocol):
    """The callable by which a resource sends single calls."""

    def __call__(self, operation: Operation[ResultT], /) -> Awaitable[ResultT]:
        """Send the operation and return its result."""
        ...
