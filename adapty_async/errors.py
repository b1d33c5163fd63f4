"""
Every error this library raises; the class says whose fault it was.

The tree: `AdaptyError` has `ConfigError` and `InvalidInputError` (ours to fix before anything is
sent), `TransportError` (the wire), `ApiError` (the server answered, and said no), and a few that
stand alone. Kept apart from everything else, so that any module can import it without a loop.

An error carries its facts as attributes. Its text holds only what is safe to log: what a server
wrote may echo personal data and is found in `ApiError.errors` and `ApiError.body` alone. Neither
text nor `repr` shows that, and nor does printing an error's attributes.

Errors can be copied and pickled. A copy has everything. A pickle leaves the process, into queues
and result stores that nobody thinks of when a person is to be erased; so it goes without the
server's words: `body` is empty, and entries of `errors` have no message. The rest is kept.
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Self, TypeVar

__all__ = (
    "AdaptyError",
    "ApiError",
    "AuthenticationError",
    "CircuitOpenError",
    "ConfigError",
    "ConflictError",
    "ConnectError",
    "ConnectionLostError",
    "DeadlineError",
    "DecodeError",
    "ErrorItem",
    "InvalidInputError",
    "JournalError",
    "NotFoundError",
    "RateLimitError",
    "RequestRejectedError",
    "RequestTimeoutError",
    "ServerError",
    "TransportError",
)

ErrorT = TypeVar("ErrorT", bound=BaseException)

_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,80}")


def name_or_none(text: str | None) -> str | None:
    """Tell what is a name from what a server may have echoed: only names belong into logs."""
    return text if text and _NAME.fullmatch(text) else None


def strip_traceback(error: ErrorT) -> ErrorT:
    """
    Return an error without the frames it came through and without foreign errors it came from.

    There are tools that print the locals of every frame, and reports keep errors for long. Where
    those frames are not ours, or handle values that are not to be shown, they are left behind.
    """
    cause = error.__cause__
    error.__cause__ = strip_traceback(cause) if isinstance(cause, AdaptyError) else None
    error.__traceback__ = error.__context__ = None
    return error


class RedactedBytes(bytes):
    """What a server wrote, and may have echoed; printing it shows its size only."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"

    __str__ = __repr__


class AdaptyError(Exception):
    """
    The base of all errors of this library.

    Attributes:
        operation: the name of the call, such as ``v1.profiles.delete``; None outside a call.
        attempts: how many requests were sent for the call.
    """

    def __init__(self, message: str = "", *, operation: str | None = None) -> None:
        super().__init__(message)
        self.operation = operation
        self.attempts = 0

    def __str__(self) -> str:
        parts = [super().__str__(), *self._details()]
        return ", ".join(part for part in parts if part)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, self._pickled()

    def _pickled(self) -> dict[str, Any]:
        return vars(self)

    def __copy__(self) -> Self:
        return self._with(vars(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._with(deepcopy(vars(self), memo))

    def _with(self, attributes: dict[str, Any]) -> Self:
        other = type(self)(*self.args)
        vars(other).update(attributes)
        return other

    def _details(self) -> list[str]:
        details = [f"operation {self.operation}"] if self.operation else []
        if self.attempts:
            details.append(f"attempts {self.attempts}")

        return details


class ConfigError(AdaptyError):
    """
    A client or a policy was set up with a value it cannot work with, or used after it was closed.
    """


class InvalidInputError(AdaptyError, ValueError):
    """
    A value breaks a rule of the API; nothing was sent.

    Attributes:
        field: the argument or field, dotted where nested.
        rule: what the value has to be.
    """

    def __init__(self, field: str = "", rule: str = "") -> None:
        super().__init__(f"{field}: {rule}")
        self.args = (field, rule)  # what unpickling calls the class with
        self.field = field
        self.rule = rule

    def __str__(self) -> str:
        return f"{self.field}: {self.rule}"


class TransportError(AdaptyError):
    """No complete answer came back."""


class ConnectError(TransportError):
    """
    No connection could be made, so the request was surely not sent.

    Attributes:
        permanent: trying again cannot help, as with a certificate that does not verify.
    """

    def __init__(
        self, message: str = "", *, operation: str | None = None, permanent: bool = False
    ) -> None:
        super().__init__(message, operation=operation)
        self.permanent = permanent


class RequestTimeoutError(TransportError):
    """The answer did not come in time; whether the server acted is unknown."""


class ConnectionLostError(TransportError):
    """The connection broke before the answer was complete; whether the server acted is unknown."""


@dataclass(frozen=True, slots=True)
class ErrorItem:
    """
    One entry of the ``errors`` list of an answer, whichever of Adapty's shapes it came in.

    Attributes:
        message: the server's words; they may contain personal data.
        error_code: the machine-readable code, None where the shape has none.
        status_code: the HTTP status the entry names, None where it names none.
        field_name: the field of the request it is about, None if it is about none.
    """

    message: str
    error_code: str | None = None
    status_code: int | None = None
    field_name: str | None = None

    def without_words(self) -> ErrorItem:
        """Return the entry without its message, and without names that are none."""
        return ErrorItem(
            "", name_or_none(self.error_code), self.status_code, name_or_none(self.field_name)
        )

    def __repr__(self) -> str:
        shown = {"error_code": self.error_code, "field_name": self.field_name}
        names = (f"{name}={text!r}" for name, text in shown.items() if name_or_none(text))
        return f"ErrorItem({', '.join(names)})"


class ApiError(AdaptyError):
    """
    The server answered with a status that is not a success.

    Attributes:
        status: the HTTP status.
        error_code: the API's code, such as ``profile_does_not_exist``; None if there was none.
        errors: every entry of the answer.
        recognised: the body had one of the API's own shapes; False for a gateway's page.
        request_id: what to tell Adapty's support.
        retry_after: the seconds the server asked to wait, None if it did not.
        body: the answer as it came, cut at 64 KiB; it may contain personal data.
    """

    def __init__(self, message: str = "", *, operation: str | None = None, status: int = 0) -> None:
        super().__init__(message, operation=operation)
        self.status = status
        self.error_code: str | None = None
        self.errors: tuple[ErrorItem, ...] = ()
        self.recognised = False
        self.request_id: str | None = None
        self.retry_after: float | None = None
        self.body = b""

    @property
    def field_name(self) -> str | None:
        """The first field of the request that the server complained about."""
        return next((item.field_name for item in self.errors if item.field_name), None)

    def _pickled(self) -> dict[str, Any]:
        items = tuple(item.without_words() for item in self.errors)
        return {**vars(self), "errors": items, "body": b""}

    def _details(self) -> list[str]:
        named = {"error_code": self.error_code, "field": self.field_name}
        details = [f"{name} {value}" for name, value in named.items() if name_or_none(value)]
        details += super()._details()
        if name_or_none(self.request_id):
            details.append(f"request {self.request_id}")

        return details


class AuthenticationError(ApiError):
    """
    The key was not accepted (401, or 403 at the Mail API).

    Adapty also documents 401 for a profile that was not found, so one alone does not prove a
    wrong key.
    """


class NotFoundError(ApiError):
    """The API says that the profile or object does not exist."""


class RequestRejectedError(ApiError):
    """The server refused the request, and would refuse it again."""


class ConflictError(ApiError):
    """The request collides with another one (409)."""


class RateLimitError(ApiError):
    """
    The account's rate limit was exceeded (429); see `retry_after`.

    A call made during a pause that the server asked for raises it without being sent, if the pause
    leaves it no time; `attempts` is 0 then.
    """


class ServerError(ApiError):
    """The server failed (5xx)."""


class DecodeError(AdaptyError):
    """
    The server reported success, but its answer could not be read.

    Attributes:
        status: the HTTP status.
        request_id: the id of the response, for Adapty's support; None if it had none.
        body: the answer as it came, cut at 64 KiB; it may contain personal data.
    """

    def __init__(self, message: str = "", *, operation: str | None = None, status: int = 0) -> None:
        super().__init__(message, operation=operation)
        self.status = status
        self.request_id: str | None = None
        self.body = b""

    def _pickled(self) -> dict[str, Any]:
        return {**vars(self), "body": b""}


class DeadlineError(AdaptyError):
    """The time for the whole call was over before a request could be sent."""


class CircuitOpenError(AdaptyError):
    """
    The service is known to be down; the call was not tried.

    Attributes:
        retry_after: seconds after which it will be tried again.
    """

    def __init__(
        self, message: str = "", *, operation: str | None = None, retry_after: float = 0.0
    ) -> None:
        super().__init__(message, operation=operation)
        self.retry_after = retry_after

    def _details(self) -> list[str]:
        return [f"to be tried again in {self.retry_after:.1f} s", *super()._details()]


class JournalError(AdaptyError):
    """A bulk run's journal or outcomes file is not this run's, or cannot be read or written."""
