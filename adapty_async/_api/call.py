"""
The types of a call: its description, its request and response, and the state of its attempts.

An `Endpoint` is one definition in an API's endpoint table. An `Operation` is an endpoint plus the
caller's values. The codec encodes it as a `Request`, and the transport returns a `Response` for
that. A transport of the caller's is a function from request to response: a `Send`.

The `CallState` travels through the pipeline together with a frozen request. Each layer of the
pipeline, and the transport below, is a function from both to the response: a `Layer`.
"""

from __future__ import annotations

import enum
import math
import uuid
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, Generic, Literal, NoReturn, Protocol, TypeAlias, TypeVar

import msgspec
from multidict import istr

from adapty_async._api.pickling import definition_at, name_of
from adapty_async._api.validation import header_name, instance_of, matching, one_of, text
from adapty_async.errors import InvalidInputError

ResultT = TypeVar("ResultT")
StructT = TypeVar("StructT", bound=msgspec.Struct)
ResultT_co = TypeVar("ResultT_co", covariant=True)

#: The headers that identify a profile, by the names of its ids; other headers are options.
IDENTITY_HEADERS: Mapping[str, str] = {
    "customer_user_id": "adapty-customer-user-id",
    "profile_id": "adapty-profile-id",
}
#: The same headers, without the names.
IDENTITIES = frozenset(IDENTITY_HEADERS.values())

By = Literal["customer_user_id", "profile_id"]
Identity = tuple[tuple[str, str], ...]
require_kind = one_of(*IDENTITY_HEADERS)

# The header mapping ignores case. A lookup with an istr takes a third of the time.
_REQUEST_ID, _X_REQUEST_ID = istr("Request-Id"), istr("X-Request-Id")

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


def request_id_in(headers: Mapping[str, str]) -> str | None:
    """Return the request id of a response, by which Adapty's support finds the request."""
    return headers.get(_REQUEST_ID) or headers.get(_X_REQUEST_ID)


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
            `adapty_async.DecodeError`; any other exception is raised as it is. In a bulk run, the
            item is failed, or unknown if a second attempt is not harmless.
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

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickle a global by its name, since functions without one, such as a lambda, cannot be."""
        try:
            name = name_of(self)
        except TypeError:  # it cannot be hashed
            name = None
        return super().__reduce__() if name is None else (definition_at, name)

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


def lock_key_of(operation: Operation[Any]) -> Hashable:
    """Return the lock key of an operation: one request per key is in flight at a time."""
    key_of = operation.endpoint.lock_key
    if key_of is not None:
        return key_of(operation.body)
    headers, parameters = operation.headers, operation.parameters
    if len(headers) == 1 and not parameters:
        return headers[0]
    if not headers and not parameters:
        return id(operation)  # nothing says what it is about
    return min((each for each in headers if each[0] in IDENTITIES), default=headers + parameters)


def identity(
    customer_user_id: str | None, profile_id: str | None, *, both: bool = False
) -> Identity:
    """
    Return the headers that identify a profile; two ids are allowed only with `both`.

    Raises:
        InvalidInputError: no id was passed, or one too many.
    """
    ids = {"customer_user_id": customer_user_id, "profile_id": profile_id}
    given = [(IDENTITY_HEADERS[name], value) for name, value in ids.items() if value is not None]
    if len(given) == 1 or (given and both):
        return tuple(given)
    number = "at least" if both else "exactly"
    raise InvalidInputError(
        "customer_user_id", f"{number} one of customer_user_id and profile_id is required"
    )


def operations_by(endpoint: Endpoint[ResultT], by: By) -> Callable[[str], Operation[ResultT]]:
    """Return a builder of the operation on one profile, identified by an id of the kind `by`."""
    header = IDENTITY_HEADERS[by]
    return lambda value: Operation(endpoint, ((header, value),))


def pair(item: Any, struct: type[msgspec.Struct] | str) -> tuple[str, Any]:
    """
    Unpack an item of a bulk run: the profile's id and the value that is sent for it.

    Raises:
        InvalidInputError: the item is not a pair.
    """
    name = struct if isinstance(struct, str) else struct.__name__
    if not isinstance(item, tuple) or len(item) != 2:
        raise InvalidInputError("item", f"must be a pair of an id and {name}")
    return item


def operations_by_pair(
    endpoint: Endpoint[ResultT], by: By, struct: type[StructT], field: str
) -> Callable[[tuple[str, StructT]], Operation[ResultT]]:
    """Return a builder of the operation that sends a struct, called `field`, for one profile."""
    header, require = IDENTITY_HEADERS[by], instance_of(struct)

    def build(item: tuple[str, StructT]) -> Operation[ResultT]:
        value, body = pair(item, struct)
        require(field, body)
        return Operation(endpoint, ((header, value),), body)

    return build


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
        was_sent_earlier: an earlier run may have sent the request, and has no outcome.
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
            before, before a creation, and after one whose outcome is known. The limit layer awaits
            its result. None without a journal.
        on_refusal: retracts that entry after an attempt that the server certainly did not process.
        on_creation: makes the next entry one of a request that must not be retried.
        on_creation_end: retracts that entry once the outcome of the creation is known.
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
    was_sent_earlier: bool = False
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
    on_creation_end: Callable[[], None] | None = None

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

    def creation_ended(self) -> None:
        """Record that the outcome of the creation is known, before the call is sent again."""
        self.is_creating = False
        self.settled = self.attempts - self.refusals


#: A layer of the pipeline, or the transport: it returns the response, or raises an `AdaptyError`.
Layer: TypeAlias = Callable[[Request, CallState], Awaitable[Response]]
