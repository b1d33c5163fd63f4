"""What a request and an answer are to the services of the sandbox; no I/O."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from uuid import uuid4

import msgspec
from aiohttp import web

from ._rules import Invalid, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping


class Call(NamedTuple):
    """Hold one request as it arrived, its body read to the end."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    query: Mapping[str, str]


class Answer(NamedTuple):
    """Hold one answer; `body` is empty where the documents have none."""

    status: int
    body: bytes = b""
    media_type: str = "application/json"
    retry_after: str | None = None

    def response(self) -> web.Response:
        """Return the answer for aiohttp, under a new `Request-Id`."""
        headers = {"Request-Id": uuid4().hex}
        if self.body:
            headers["Content-Type"] = self.media_type
        if self.retry_after is not None:
            headers["Retry-After"] = self.retry_after
        return web.Response(status=self.status, body=self.body or None, headers=headers)


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not a failure of the sandbox
    """Say that a request is answered with an error the documents describe."""

    def __init__(
        self, status: int, code: str, *problems: Problem, retry_after: int | None = None
    ) -> None:
        """Keep the HTTP status, the error code and what is wrong, in the order found."""
        super().__init__(status, code)
        self.status = status
        self.code = code
        self.problems = problems
        self.retry_after = retry_after


class Service(Protocol):
    """Describe one of the APIs: what it reads from a request and how it words an error."""

    name: str

    @abstractmethod
    def identity(self, call: Call) -> str | None:
        """Return the identifier of the profile that the request is about, unchecked."""

    @abstractmethod
    def perform(self, call: Call) -> Answer:
        """Check the request and carry it out, or raise `Refusal` with nothing changed."""

    @abstractmethod
    def error(self, refusal: Refusal) -> Answer:
        """Return the refusal in this API's error body."""


def json_answer(status: int, value: Any) -> Answer:
    """Return an answer with `value` as its JSON body."""
    return Answer(status, msgspec.json.encode(value))


def decoded(body: bytes) -> Any:
    """
    Return the JSON value of `body`.

    Raises:
        Invalid: `body` is no JSON, or is nested too deeply to be read.

    """
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Invalid(Problem(f"JSON parse error - {error}")) from error


def check_media_type(call: Call, expected: str = "application/json") -> None:
    """
    Check that the request says its body is JSON, of the expected kind.

    Raises:
        Refusal: it says something else, or nothing.

    """
    given = storable(call.headers.get("Content-Type", ""))
    if given.partition(";")[0].strip().lower() != expected:
        raise Refusal(
            415,
            "unsupported_media_type",
            Problem(f'Unsupported media type "{given}" in request.'),
        )


def storable(text: str) -> str:
    """Return `text` with what was no UTF-8 in a header replaced, for the log and for JSON."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
