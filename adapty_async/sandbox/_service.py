"""The interface of the sandbox's services: requests, responses and refusals. It does no I/O."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol
from uuid import uuid4

import msgspec
from aiohttp import web

from ._rules import Invalid, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping


class Call(NamedTuple):
    """
    One request as it arrived, with its complete body.

    `check` raises if the body breaks the document of its operation; `None` if the sandbox is not
    strict. It is passed the method, the path and the body.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    query: Mapping[str, str]
    check: Callable[[str, str, bytes], None] | None = None


class Conflicts(NamedTuple):
    """The choices between statements of Adapty's documentation that contradict each other."""

    unknown_products: Literal["ignored", "premium"] = "ignored"
    unset_refund_saver: Literal["null", "defaults"] = "null"


class Response(NamedTuple):
    """
    One response; `body` is empty if the documentation shows none.

    `allow` has the methods of the path if the response is a 405.
    With `blocks`, these are the body, which is sent block by block.
    """

    status: int
    body: bytes = b""
    media_type: str = "application/json"
    retry_after: str | None = None
    allow: str | None = None
    blocks: Iterator[bytes] | None = None

    async def send(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the response, of which nothing or, with `blocks`, everything was sent."""
        if self.blocks is None:
            return self.to_web()
        headers = {"Request-Id": uuid4().hex, "Content-Type": self.media_type}
        response = web.StreamResponse(status=self.status, headers=headers)
        with suppress(ConnectionError):  # the client has disconnected
            await response.prepare(request)
            for block in self.blocks:
                await response.write(block)
            await response.write_eof()
        return response

    def to_web(self) -> web.Response:
        """Return the response for aiohttp, with a new `Request-Id`."""
        headers = {"Request-Id": uuid4().hex}
        if self.body:
            headers["Content-Type"] = self.media_type
        if self.retry_after is not None:
            headers["Retry-After"] = self.retry_after
        if self.allow is not None:
            headers["Allow"] = self.allow
        response = web.Response(status=self.status, body=self.body or None, headers=headers)
        if self.status in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT):
            response.force_close()  # the rest of the body is still under way
        return response


class Refusal(Exception):  # noqa: N818 - a refusal is a response, not a failure of the sandbox
    """An exception that becomes a documented error response."""

    def __init__(
        self,
        status: int,
        code: str,
        *problems: Problem,
        retry_after: int | None = None,
        allow: Iterable[str] = (),
    ) -> None:
        """Store the HTTP status, the error code and the problems, in the order found."""
        super().__init__(status, code)
        self.status = status
        self.code = code
        self.problems = problems
        self.retry_after = retry_after
        self.allow = ", ".join(sorted(allow)) or None


class Service(Protocol):
    """The interface of one API: it identifies a request, performs it and formats errors."""

    name: str

    @abstractmethod
    def identity(self, call: Call) -> str | None:
        """Return the identifier of the request's profile, without validation."""

    @abstractmethod
    def perform(self, call: Call) -> Response:
        """Check the request and carry it out, or raise `Refusal` with nothing changed."""

    @abstractmethod
    def error(self, refusal: Refusal) -> Response:
        """Return the refusal as an error body of this API."""


def json_response(status: int, value: Any) -> Response:
    """Return a response with `value` as its JSON body."""
    return Response(status, msgspec.json.encode(value))


def decoded(body: bytes) -> Any:
    """
    Return the JSON value of `body`.

    Raises:
        Invalid: `body` is not JSON, or is nested too deeply.
    """
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Invalid(Problem(f"JSON parse error - {error}")) from error


def identity_in_body(call: Call, names: Iterable[str]) -> str | None:
    """Return the first of these fields that is text; `None` if the body cannot be decoded."""
    try:
        body = decoded(call.body)
    except Invalid:
        return None
    given = (body.get(name) for name in names) if isinstance(body, dict) else ()
    return next((value for value in given if value and isinstance(value, str)), None)


def method_not_allowed(call: Call, allow: Iterable[str]) -> Refusal:
    """Return the refusal of a method that the path does not have; `allow` are those it has."""
    problem = Problem(f'Method "{call.method}" not allowed.')
    return Refusal(405, "method_not_allowed", problem, allow=allow)


def check_documented(call: Call) -> None:
    """
    Validate the body against the document of the operation, if the sandbox is strict.

    A service calls it once key, method and media type are right.

    Raises:
        Invalid: the body breaks its schema.
        Refusal: likewise, with the status that the document has for that.
    """
    if call.check is not None:
        call.check(call.method, call.path, call.body)


def check_media_type(call: Call, expected: str = "application/json") -> None:
    """
    Validate that the request declares a JSON body of the expected media type.

    Raises:
        Refusal: it declares another media type, or none.
    """
    given = storable(call.headers.get("Content-Type", ""))
    if given.partition(";")[0].strip().lower() != expected:
        raise Refusal(
            415,
            "unsupported_media_type",
            Problem(f'Unsupported media type "{given}" in request.'),
        )


def storable(text: str) -> str:
    """Return `text` with bytes that were not UTF-8 replaced, for the log and for JSON."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
