"""
Services of the sandbox: requests, responses, refusals, and the checks that all operations share.

A service does no I/O. It checks the key, the method, the media type and the body, in this order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
from aiohttp import web

from ._rules import Invalid, Problem, Rule

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


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


class Response(NamedTuple):
    """
    One response; `body` is empty if the documentation shows none.

    `headers` are those in addition to `Request-Id` and `Content-Type`.
    With `blocks`, these are the body, which is sent block by block.
    """

    status: int
    body: bytes = b""
    media_type: str = "application/json"
    headers: Mapping[str, str] = _NO_HEADERS
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
        headers = {"Request-Id": uuid4().hex, **self.headers}
        if self.body:
            headers["Content-Type"] = self.media_type
        response = web.Response(status=self.status, body=self.body or None, headers=headers)
        if self.status in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT):
            response.force_close()  # the rest of the body is still under way
        return response


class Refusal(Exception):  # noqa: N818 - a refusal is a response, not a failure of the sandbox
    """An exception that becomes a documented error response."""

    def __init__(
        self, status: int, code: str, *problems: Problem, headers: Mapping[str, str] = _NO_HEADERS
    ) -> None:
        """Store the HTTP status, the error code, the problems in the order found, and headers."""
        super().__init__(status, code)
        self.status = status
        self.code = code
        self.problems = problems
        self.headers = headers


class Service:
    """
    The service of one path, with the error bodies of the server-side API.

    Attributes:
        name: the name of the API.
        media_type: the media type of bodies.
        with_media_type: the methods whose requests need a `Content-Type`.
    """

    name: str
    media_type = "application/json"
    with_media_type = frozenset({"POST", "PATCH", "PUT"})

    def __init__(
        self, authorization: str, operations: Mapping[str, Callable[[Call], Response]]
    ) -> None:
        """Serve operations, by method, to requests with that `Authorization` header."""
        self._authorization = authorization
        self._operations = operations

    def perform(self, call: Call) -> Response:
        """
        Check key, method, media type and body, and carry the operation out.

        Raises:
            Refusal: one of them is wrong, or breaks a rule of the operation; nothing is changed.
        """
        if call.headers.get("Authorization") != self._authorization:
            raise self.unauthorized()
        operation = self._operations.get(call.method)
        if operation is None:
            allow = {"Allow": ", ".join(sorted(self._operations))}
            problem = Problem(f'Method "{call.method}" not allowed.')
            raise Refusal(405, "method_not_allowed", problem, headers=allow)
        if call.method in self.with_media_type:
            self._check_media_type(call)
        try:
            if call.check is not None:
                call.check(call.method, call.path, call.body)
            return operation(call)
        except Invalid as invalid:
            raise self.invalid(invalid) from invalid

    def _check_media_type(self, call: Call) -> None:
        given = storable(call.headers.get("Content-Type", ""))
        if given.partition(";")[0].strip().lower() != self.media_type:
            problem = Problem(f'Unsupported media type "{given}" in request.')
            raise Refusal(415, "unsupported_media_type", problem)

    def identity(self, call: Call) -> str | None:  # noqa: ARG002 - an export is about no profile
        """Return the identifier of the request's profile, without validation."""
        return None

    def unauthorized(self) -> Refusal:
        """Return the refusal of a missing or wrong key."""
        problem = Problem("Authentication credentials were not provided.", "non_field_errors")
        return Refusal(401, "not_authenticated", problem)

    def invalid(self, invalid: Invalid) -> Refusal:
        """Return the refusal of a request with these problems."""
        return Refusal(400, "validation_error", *invalid.problems)

    def error(self, refusal: Refusal) -> Response:
        """Return the refusal as an error body."""
        body = {
            "errors": self.errors(refusal),
            "error_code": refusal.code,
            "status_code": refusal.status,
        }
        return json_response(refusal.status, body, self.media_type, refusal.headers)

    def errors(self, refusal: Refusal) -> list[Any]:
        """Return the problems as a list for the error body."""
        return [{"source": field, "errors": [message]} for message, field in refusal.problems]


def json_response(
    status: int,
    value: Any,
    media_type: str = Service.media_type,
    headers: Mapping[str, str] = _NO_HEADERS,
) -> Response:
    """Return a response with `value` as its JSON body."""
    return Response(status, msgspec.json.encode(value), media_type, headers)


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


def read(call: Call, rule: Rule) -> Any:
    """Return the validated body, as it is stored."""
    return rule(decoded(call.body))


def identity_in_body(call: Call, names: Iterable[str]) -> str | None:
    """Return the first of these fields that is text; `None` if the body cannot be decoded."""
    try:
        body = decoded(call.body)
    except Invalid:
        return None
    given = (body.get(name) for name in names) if isinstance(body, dict) else ()
    return next((value for value in given if value and isinstance(value, str)), None)


def storable(text: str) -> str:
    """Return `text` with bytes that were not UTF-8 replaced, for the log and for JSON."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
