"""
The hierarchy of the errors that this library raises.

`AdaptyError` is the base class of `ConfigError` and `InvalidInputError` (the caller's mistakes;
nothing was sent), `TransportError` (no complete response), `ApiError` (a response that reports
no success) and a few others. This module imports no other module of the library, so every module
can import it without a cycle.

An error has its facts as attributes. Its text contains only data that is safe to log. A response
may echo personal data, which is found only in `ApiError.errors` and `ApiError.body`. Neither the
text, nor the ``repr``, nor a printed attribute of an error shows that data.

Errors can be copied and pickled. A copy is complete. A pickle leaves the process for queues and
result stores, which are easily forgotten when a person's data is erased. A pickle therefore has no
text of the server: `body` is empty, and the entries of `errors` have no message.
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
    "ExportError",
    "InvalidInputError",
    "JournalError",
    "NotFoundError",
    "RateLimitError",
    "RequestRejectedError",
    "RequestTimeoutError",
    "ServerError",
    "StoreError",
    "TransportError",
    "WebhookError",
)

ErrorT = TypeVar("ErrorT", bound=BaseException)

# A name without one of Adapty's keys in it.
_NAME = re.compile(r"(?!.*(?:secret|public)_live_)[A-Za-z0-9_.\[\]-]{1,80}")


def name_or_none(text: str | None) -> str | None:
    """Return the text if it is a name and safe to log; a server may have echoed any other text."""
    return text if text and _NAME.fullmatch(text) else None


def strip_traceback(error: ErrorT) -> ErrorT:
    """
    Return an error without its traceback frames and without foreign causes.

    Some tools print the locals of every frame, and reports keep errors for long. This function
    removes frames that are not the library's, or that handle values that must not be shown.
    """
    cause = error.__cause__
    error.__cause__ = strip_traceback(cause) if isinstance(cause, AdaptyError) else None
    error.__traceback__ = error.__context__ = None
    return error


class RedactedBytes(bytes):
    """The bytes of a response, which may echo personal data; the repr shows only the size."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"

    __str__ = __repr__


class AdaptyError(Exception):
    """
    The base class of all errors of this library.

    Attributes:
        operation: the name of the call, such as ``v1.profiles.delete``; None outside a call.
        attempts: the number of requests that were sent for the call.
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
        """Return the facts that follow the message in the text of the error."""
        details = [f"operation {self.operation}"] if self.operation else []
        if self.attempts:
            details.append(f"attempts {self.attempts}")

        return details


class ConfigError(AdaptyError):
    """An error of configuration: a client or policy got an invalid value, or a client is closed."""


class InvalidInputError(AdaptyError, ValueError):
    """
    An error of validation: a value breaks a rule of the API. Nothing was sent.

    Attributes:
        field: the argument or field, dotted if nested.
        rule: the rule that the value breaks.
    """

    def __init__(self, field: str = "", rule: str = "") -> None:
        super().__init__(f"{field}: {rule}")
        self.args = (field, rule)  # the arguments that unpickling passes to the class
        self.field = field
        self.rule = rule

    def __str__(self) -> str:
        return f"{self.field}: {self.rule}"


class TransportError(AdaptyError):
    """An error of transport: no complete response was received."""


class ConnectError(TransportError):
    """
    An error of connecting: no connection was established, so the request was certainly not sent.

    Attributes:
        permanent: a retry cannot help, as with a certificate that does not verify.
        errno: the number of the system's error, as in the module `errno`; None without one.
    """

    def __init__(
        self,
        message: str = "",
        *,
        operation: str | None = None,
        permanent: bool = False,
        errno: int | None = None,
    ) -> None:
        super().__init__(message, operation=operation)
        self.permanent = permanent
        self.errno = errno


class RequestTimeoutError(TransportError):
    """A timeout: no response was received in time, and the outcome is unknown."""


class ConnectionLostError(TransportError):
    """A lost connection: it broke before the response was complete. The outcome is unknown."""


@dataclass(frozen=True, slots=True)
class ErrorItem:
    """
    An entry of the ``errors`` list of a response, in whichever of Adapty's shapes it was sent.

    Attributes:
        message: the text of the server; it may contain personal data.
        error_code: the machine-readable code, None if the shape has none.
        status_code: the HTTP status that the entry names, None if it names none.
        field_name: the field of the request that the entry names, None if it names none.
    """

    message: str
    error_code: str | None = None
    status_code: int | None = None
    field_name: str | None = None

    def without_words(self) -> ErrorItem:
        """Return the entry without its message, and without a code or field that is not a name."""
        return ErrorItem(
            "", name_or_none(self.error_code), self.status_code, name_or_none(self.field_name)
        )

    def __repr__(self) -> str:
        shown = {"error_code": self.error_code, "field_name": self.field_name}
        names = (f"{name}={text!r}" for name, text in shown.items() if name_or_none(text))
        return f"ErrorItem({', '.join(names)})"


class ApiError(AdaptyError):
    """
    An error of the API: the server returned a status that reports no success.

    Attributes:
        status: the HTTP status.
        error_code: the API's code, such as ``profile_does_not_exist``; None if there was none.
        errors: every entry of the response's ``errors`` list, in its order.
        recognised: the body has one of the API's own shapes; False for a gateway's page.
        request_id: the id of the request for Adapty's support; None if the response has none.
        retry_after: seconds to wait that the server requested, None if it requested none.
        body: the raw body, truncated to 64 KiB; it may contain personal data.
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
        """
        The first field of the request that an entry of `errors` names; None if none does.

        Text that is not the name of a field is left out, since it may contain personal data.
        """
        return next(filter(None, (name_or_none(item.field_name) for item in self.errors)), None)

    def _pickled(self) -> dict[str, Any]:
        """Return the attributes without texts of the server."""
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
    An error of authentication: the server rejected the API key (401, or 403 at the Mail API).

    Adapty also documents 401 for a profile that was not found, so a single 401 does not prove a
    wrong key.
    """


class NotFoundError(ApiError):
    """A "not found" response of the API: the profile or object does not exist."""


class RequestRejectedError(ApiError):
    """A rejected request: the server would reject a retry as well, except after a 408 or 425."""


class ConflictError(ApiError):
    """A conflict (409): the request collides with another one."""


class RateLimitError(ApiError):
    """
    A throttled request (429): the account exceeded its rate limit; see `retry_after`.

    A call raises this error without being sent if a pause that the server requested outlasts the
    call's deadline. `attempts` is 0 then.
    """


class ServerError(ApiError):
    """A failure of the server (5xx)."""


class DecodeError(AdaptyError):
    """
    An error of decoding: the server reported success, but the response is unreadable.

    Attributes:
        status: the HTTP status.
        request_id: the id of the request for Adapty's support; None if the response has none.
        body: the raw body, truncated to 64 KiB; it may contain personal data.
    """

    def __init__(self, message: str = "", *, operation: str | None = None, status: int = 0) -> None:
        super().__init__(message, operation=operation)
        self.status = status
        self.request_id: str | None = None
        self.body = b""
        self._may_be_the_api = False  # JSON that a decoder of the caller's cannot read

    def _pickled(self) -> dict[str, Any]:
        return {**vars(self), "body": b""}


class DeadlineError(AdaptyError):
    """
    A missed deadline: the time for the whole call was over before a request could be sent.

    An item of a bulk run also ends with it if only its endpoint is throttled, for 30 seconds.
    """


class CircuitOpenError(AdaptyError):
    """
    An open circuit: the service has an outage, and the call was not sent.

    Attributes:
        retry_after: seconds until the circuit breaker sends the next probe.
    """

    def __init__(
        self, message: str = "", *, operation: str | None = None, retry_after: float = 0.0
    ) -> None:
        super().__init__(message, operation=operation)
        self.retry_after = retry_after

    def _details(self) -> list[str]:
        return [f"next probe in {self.retry_after:.1f} s", *super()._details()]


class JournalError(AdaptyError):
    """
    An error of a journal, an outcomes file or a store of webhooks.

    The file belongs to another run or is of another kind, or its I/O failed.
    """


class WebhookError(AdaptyError, ValueError):
    """An error of a webhook: the body of the request is not one that Adapty documents."""


class ExportError(AdaptyError):
    """An error of an export's file: its I/O failed, it is in use, or its chunks do not fit."""


class StoreError(AdaptyError):
    """A failure of a store that several processes share: it is down, or rejects a command."""
