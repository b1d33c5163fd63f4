"""A codec without I/O, from operations to requests and from responses to results or errors."""

from __future__ import annotations

import datetime as dt
import email.utils
import logging
import re
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import msgspec
from msgspec import UNSET

from adapty_async._api.call import (
    IDENTITIES,
    Headers,
    Operation,
    Request,
    Response,
    RetrySafety,
    request_id_in,
)
from adapty_async._api.results import (
    ResultStruct,
    is_json,
    is_of_caller,
    parse_json,
    reason_of,
)
from adapty_async._api.validation import (
    any_text,
    as_numbers,
    exact_text,
    header_name,
    header_value,
)
from adapty_async.errors import (
    ApiError,
    AuthenticationError,
    ConfigError,
    ConflictError,
    DecodeError,
    ErrorItem,
    InvalidInputError,
    NotFoundError,
    RateLimitError,
    RedactedBytes,
    RequestRejectedError,
    ServerError,
    name_or_none,
    strip_traceback,
)

ResultT = TypeVar("ResultT")

logger = logging.getLogger("adapty_async")
# The errors of a decoder for a body that is no result: ValueErrors of msgspec, and the errors of a
# caller's own decoder, such as one that misses a key, or asks a result whose fields are odd.
_UNREADABLE = (
    DecodeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
# Bytes of a body that an error keeps.
_MAX_BODY = 64 * 1024
# The longest total timeout of a call with an idempotency key, in seconds. Adapty remembers a key
# for up to an hour; after that, a retry counts as another call.
# https://adapty.io/docs/api-adapty/operations/createVirtualCurrencyTransaction
_KEY_TIMEOUT = 1800.0
# The source that Adapty names for an error that concerns no field.
_NO_FIELD = "non_field_errors"
# A constant, since the lookup of an enumeration member takes 0.1 µs in Python 3.11.
_WITH_KEY = RetrySafety.WITH_KEY
_PLAIN = re.compile(r"[!-~]{1,128}")
# Segments that lead to another path: proxies and servers remove them, also if the dots, or the
# slashes around them, are encoded.
_DOTS = frozenset({".", ".."})
_SEPARATOR = re.compile(r"[/\\]")
_HTML = re.compile(rb"(?:\xef\xbb\xbf)?\s*<")
_INDEX = re.compile(r"\[[0-9]+\]")
# The keys of the server's in a path, which may have any text, brackets included.
_KEYS = re.compile(r"\[.+\]", re.DOTALL)
_SECONDS = re.compile(r"[0-9]{1,10}(\.[0-9]{1,10})?")

# The error class of a code, whatever the status: Adapty returns both 400 and 404 for a missing
# profile, and both 401 and 403 for a key. The status decides for every other code.
_BY_CODE: Mapping[str, type[ApiError]] = {
    "not_authenticated": AuthenticationError,
    "unauthorized": AuthenticationError,
    "secret_key_does_not_exist_error": AuthenticationError,
    "profile_does_not_exist": NotFoundError,
    "profile_not_found": NotFoundError,
    "profile_not_found_error": NotFoundError,
    "paywall_does_not_exist": NotFoundError,
    "VARIATION_DOES_NOT_EXIST_ERROR": NotFoundError,
    "not_found": NotFoundError,
    "feature_not_enabled": RequestRejectedError,
    "rate_limited": RateLimitError,
}

# The error class of a status, if neither the code nor a 5xx decides.
_BY_STATUS: Mapping[int, type[ApiError]] = {
    401: AuthenticationError,
    403: AuthenticationError,
    404: NotFoundError,
    409: ConflictError,
    410: NotFoundError,
    429: RateLimitError,
}

_GONE = frozenset({404, 410})
# The message for a missing key, by whether that is the public one.
_MISSING: Mapping[bool, str] = {
    False: "no API key: set ADAPTY_API_KEY, or pass api_key= in Python",
    True: "no public API key: set ADAPTY_PUBLIC_KEY, or pass public_key= in Python",
}
# Statuses that a gateway, a firewall or a wrong address also returns. Without a body in one of the
# API's shapes they prove nothing about a key or a profile.
_ONLY_FROM_THE_API = _GONE | {403}


class MissingKeyError(ConfigError):
    """An error of configuration: the client has no key of the kind that a call needs."""


def missing_key(*, public: bool) -> MissingKeyError:
    """Return the error of a call whose key the client does not have."""
    return MissingKeyError(_MISSING[public])


class RequestDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """
    The request defaults of a client: origin, headers and checks. The headers hold the API keys.

    Attributes:
        origin: the server's scheme, host and port.
        headers: the headers of calls with the secret key; without a key they cannot be sent.
        public_headers: the same, for calls with the public key.
        id_encoding: the encoding of ids in headers, ``ascii`` or ``utf-8``.
        validate: check operations by the rules of their endpoint definitions.
    """

    origin: str
    headers: Headers
    public_headers: Headers = msgspec.field(default_factory=Headers)
    id_encoding: str = "ascii"
    validate: bool = True

    def authorized(self, *, public: bool) -> Headers:
        """
        Return the headers of calls with the secret key, or with the public one.

        Raises:
            ConfigError: the client has no such key.
        """
        headers = self.public_headers if public else self.headers
        if "Authorization" not in headers:
            raise missing_key(public=public)
        return headers

    @property
    def account(self) -> str:
        """The value of the Authorization header: of the secret key if there is one."""
        return self.authorized(public="Authorization" not in self.headers)["Authorization"]

    def __repr__(self) -> str:
        return f"RequestDefaults({self.origin})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("origin", self.origin)]

    def __reduce__(self) -> NoReturn:
        raise TypeError("request defaults hold an API key; they are not pickled")


def encode(
    operation: Operation[Any],
    defaults: RequestDefaults,
    *,
    timeout: float,
    total_timeout: float,
    low_priority: bool = False,
) -> Request:
    """
    Encode an operation as a request.

    Args:
        operation: the call.
        defaults: the request defaults of the client.
        timeout: seconds for one attempt.
        total_timeout: seconds for the whole call.
        low_priority: the operation is an item of a bulk run and has low priority.

    Raises:
        InvalidInputError: a header of the operation cannot be sent unchanged, or the operation
            breaks a rule of its endpoint definition.
        ConfigError: the client has no key of the kind that the operation needs.
    """
    endpoint = operation.endpoint
    try:
        if defaults.validate and endpoint.check is not None:
            endpoint.check(operation)
        headers = _headers(operation, defaults)
        target = _target(operation)
    except InvalidInputError as error:
        raise strip_traceback(error) from None  # the frames below hold the id itself

    retry_safety = endpoint.retry_safety
    if retry_safety is _WITH_KEY:
        retry_safety, total_timeout = _with_key(operation, total_timeout)
    request = Request(
        operation=endpoint.name,
        method=endpoint.method,
        url=defaults.origin + target,
        headers=headers,
        body=None if operation.body is None else endpoint.encode(operation.body),
        retry_safety=retry_safety,
        bucket=endpoint.bucket,
        is_deletion=endpoint.is_deletion,
        timeout=timeout,
        total_timeout=total_timeout,
        low_priority=low_priority,
        absent_if_missing=endpoint.is_deletion or endpoint.absent_if_missing,
    )
    if operation.if_missing is None:
        return request
    return msgspec.structs.replace(
        request,
        absent_if_missing=False,
        if_missing=encode(
            operation.if_missing,
            defaults,
            timeout=timeout,
            total_timeout=total_timeout,
            low_priority=low_priority,
        ),
        is_done_by_creation=operation.is_done_by_creation,
    )


def _with_key(operation: Operation[Any], total_timeout: float) -> tuple[RetrySafety, float]:
    """Return the retry safety and the total timeout of a call that may have an idempotency key."""
    if operation.key is None:
        return RetrySafety.IF_UNSENT, total_timeout  # the server could not recognise a retry
    return _WITH_KEY, min(total_timeout, _KEY_TIMEOUT)


def _headers(operation: Operation[Any], defaults: RequestDefaults) -> Headers:
    """Return the headers of a request: those of the client, of the call and of its endpoint."""
    headers = {**defaults.authorized(public=operation.endpoint.uses_public_key)}
    for name, value in operation.headers:
        if name not in IDENTITIES:  # as in nearly all calls, whose names need no validation
            header_name(name)
            headers = {one: kept for one, kept in headers.items() if one.lower() != name.lower()}
        # most ids keep all rules certainly: this test takes 0.4 µs, the full validation 1.3 µs
        if type(value) is not str or _PLAIN.fullmatch(value) is None:
            header_value(_field_of(name), value, encoding=defaults.id_encoding)
            value = exact_text(value)  # noqa: PLW2901  its own text, and not that of a subclass
        headers[name] = value
    if operation.key is not None:
        header_value("idempotency_key", operation.key, encoding="ascii")
        headers["Idempotency-Key"] = exact_text(operation.key)
    media_type = operation.endpoint.media_type
    if media_type is not None:
        headers["Content-Type"] = media_type
    return Headers(headers)


def _target(operation: Operation[Any]) -> str:
    """Return the path and the query of the URL, percent-encoded."""
    path = operation.endpoint.path
    if not operation.parameters and "{" not in path:
        return path
    query: list[tuple[str, str]] = []
    for name, value in operation.parameters:
        any_text(name, value)
        content = exact_text(value)
        placeholder = f"{{{name}}}"
        if placeholder in path:
            if not content or not _DOTS.isdisjoint(_SEPARATOR.split(content)):
                raise InvalidInputError(
                    name, "must not be empty, nor have dots alone between slashes, in a path"
                )
            path = path.replace(placeholder, urllib.parse.quote(content, safe=""))
        else:
            query.append((name, content))
    if "{" in path:
        raise InvalidInputError(path.partition("{")[2].partition("}")[0], "is required")
    return f"{path}?{urllib.parse.urlencode(query)}" if query else path


def _field_of(header: str) -> str:
    return header.removeprefix("adapty-").replace("-", "_")


def write_attributes(attributes: Any) -> bytes:
    """
    Encode `ProfileAttributes` of either version.

    Custom attributes become a list of keys and values, as in the examples of Adapty's
    documentation.
    """
    custom = attributes.custom_attributes
    if custom is UNSET:
        return to_json(attributes)
    fields = {
        name: value
        for name in attributes.__struct_fields__
        if (value := getattr(attributes, name)) is not UNSET
    }
    fields["custom_attributes"] = [
        {"key": key, "value": value} for key, value in as_numbers(custom).items()
    ]
    return to_json(fields)


def plain(value: Any) -> Any:
    """Convert a value, such as a data frame's number or a range, to a type that msgspec knows."""
    match value:
        case str():
            return exact_text(value)
        case int() | float():
            return int(value) if isinstance(value, int) else float(value)
        case dt.datetime():
            return _original("datetime", value).combine(value.date(), value.timetz())
        case dt.date():
            return _original("date", value)(value.year, value.month, value.day)
        case Sequence():
            return list(value)
        case _:
            raise NotImplementedError(type(value).__name__)


def _original(name: str, value: Any) -> Any:
    """Return the class of `datetime` that a value's class extends; a test may have replaced it."""
    bases = type(value).__mro__
    return next(one for one in bases if (one.__module__, one.__name__) == ("datetime", name))


to_json: Callable[[Any], bytes] = msgspec.json.Encoder(
    enc_hook=plain, decimal_format="number"
).encode


def decode(operation: Operation[ResultT], response: Response) -> ResultT:
    """
    Decode the result of a successful response, which is no page: see `require_no_page`.

    Raises:
        DecodeError: the body is not a result of the endpoint.
    """
    try:
        return operation.endpoint.decode(response.body)
    except _UNREADABLE as error:
        reason, is_callers = reason_of(error), is_of_caller(error)
    # here, since the frames above hold the body
    raise _unreadable(operation.endpoint.name, response, reason, is_callers=is_callers)


def require_no_page(operation: str, response: Response) -> None:
    """
    Raise an error if a response that reports success is a page; the API sends JSON.

    Raises:
        DecodeError: the body is HTML or XML.
    """
    if is_page(response.body):
        raise _unreadable(operation, response, "a page")


def is_page(body: bytes) -> bool:
    """Return whether a body is HTML or XML."""
    return _HTML.match(body) is not None


def _unreadable(
    operation: str, response: Response, reason: str, *, is_callers: bool = False
) -> DecodeError:
    failure = DecodeError(
        f"status {response.status}, unreadable response ({reason})",
        operation=operation,
        status=response.status,
    )
    failure.request_id = name_or_none(request_id_in(response.headers))
    failure.body = RedactedBytes(response.body[:_MAX_BODY])
    failure._may_be_the_api = is_callers and is_json(response.body)  # noqa: SLF001  not for users
    return failure


class ResultDecoder:
    """
    A decoder for one client that logs each undocumented field of an operation's results once.

    The record, at level WARNING of the logger ``adapty_async``, names the operation and the fields,
    never a value. The number of fields that results have bounds the number of records.
    """

    def __init__(self) -> None:
        self._logged: set[tuple[str, str]] = set()

    def __call__(self, operation: Operation[ResultT], response: Response) -> ResultT:
        """
        Decode a response as `decode` does.

        Raises:
            DecodeError: the body is not a result of the endpoint.
        """
        result = decode(operation, response)
        if isinstance(result, ResultStruct) and result.odd_fields:
            self._log(operation.endpoint.name, result.odd_fields)
        return result

    def _log(self, operation: str, odd_fields: Iterable[str]) -> None:
        """Log the undocumented fields of a result that were not logged before."""
        fields = {_KEYS.sub("[]", _INDEX.sub("[]", path)) for path in odd_fields}
        new = sorted(field for field in fields if (operation, field) not in self._logged)
        self._logged.update((operation, field) for field in new)
        if new:
            logger.warning("%s: not as documented, see odd_fields: %s", operation, ", ".join(new))


def error_from(operation: str, response: Response) -> ApiError:
    """Return the error for a response that reports no success."""
    recognised, code, items = _read_error_body(response.body)
    kind = _error_class(response.status, code, recognised=recognised)
    error = kind(
        _summary(response, recognised=recognised), operation=operation, status=response.status
    )
    error.error_code = name_or_none(code)
    error.errors = items
    error.recognised = recognised
    error.request_id = name_or_none(request_id_in(response.headers))
    error.retry_after = parse_retry_after(
        response.headers.get("Retry-After"), response.headers.get("Date")
    )
    error.body = RedactedBytes(response.body[:_MAX_BODY])
    return error


def _summary(response: Response, *, recognised: bool) -> str:
    """Return the text of the error of a response: its status, and a hint if it is not the API's."""
    if 300 <= response.status < 400:
        return f"status {response.status}, a redirect, which is not followed: check base_url"
    if response.status == 404 and not recognised:
        return "status 404, not from the API: check base_url"
    return f"status {response.status}"


def _error_class(status: int, code: str | None, *, recognised: bool) -> type[ApiError]:
    """Return the class of an error: of a 5xx, otherwise of its code, otherwise of its status."""
    if status >= 500:
        return ServerError
    by_code = _BY_CODE.get(code or "")
    if by_code is not None:
        return by_code
    if status in _GONE and code is not None:
        return RequestRejectedError  # another object is missing than the requested one
    if status in _ONLY_FROM_THE_API and not recognised:
        return RequestRejectedError
    return _BY_STATUS.get(status, RequestRejectedError)


def _read_error_body(body: bytes) -> tuple[bool, str | None, tuple[ErrorItem, ...]]:
    """
    Decode an error body: whether it has one of Adapty's shapes, its code and its entries.

    Adapty sends no larger body than 64 KiB. Decoding a larger one would take thirty times its size
    in memory, and seconds.
    """
    if len(body) > _MAX_BODY:
        return False, None, ()
    try:
        return _parts_of(parse_json(body))
    except (ValueError, RecursionError):
        return False, None, ()


def _parts_of(content: Any) -> tuple[bool, str | None, tuple[ErrorItem, ...]]:
    """Return what `_read_error_body` does, from the decoded JSON of an error body."""
    if not isinstance(content, dict) or not (content.get("errors") or content.get("error_code")):
        return False, None, ()
    items = tuple(_error_items(content.get("errors")))
    code = _text(content.get("error_code")) or next(
        (item.error_code for item in items if item.error_code), None
    )
    return True, code, items


def _error_items(errors: Any) -> list[ErrorItem]:
    if isinstance(errors, dict):  # {field: [text, …]}
        return [ErrorItem(_words(texts), field_name=_field(name)) for name, texts in errors.items()]
    if isinstance(errors, list):
        return [_error_item(entry) for entry in errors]
    return []


def _error_item(entry: Any) -> ErrorItem:
    if not isinstance(entry, dict):
        return ErrorItem(_words(entry))
    source = entry.get("source")
    if isinstance(source, dict):  # JSON:API: {"pointer": "/data/attributes/field"}
        source = (_text(source.get("pointer")) or "").rpartition("/")[2]
    return ErrorItem(
        _words(entry.get("message") or entry.get("detail") or entry.get("errors")),
        error_code=_text(entry.get("error_code")),
        status_code=_status(entry.get("status_code") or entry.get("status")),
        field_name=_field(entry.get("field_name")) or _field(source),
    )


def _field(value: Any) -> str | None:
    return None if value == _NO_FIELD else _text(value)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _status(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _words(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def parse_retry_after(value: str | None, date: str | None = None) -> float | None:
    """
    Parse a ``Retry-After`` header: return seconds from now, or None if it has no usable value.

    The value may be whole or decimal seconds, or an HTTP date. A date is compared with the
    response's own ``Date``, so a wrong clock on either side does not matter. A time in the past
    is 0. Negative numbers, exponents and words are ignored.

    Source: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
    """
    if not value:
        return None
    value = value.strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    until = _timestamp(value)
    if until is None:
        return None
    now = _timestamp(date)
    return max(0.0, until - (time.time() if now is None else now))


def _timestamp(value: str | None) -> float | None:
    try:
        timestamp = email.utils.parsedate_to_datetime(value or "")
        if timestamp.tzinfo is None:  # asctime's form names no zone; every HTTP date is GMT
            timestamp = timestamp.replace(tzinfo=dt.UTC)
        return timestamp.timestamp()
    except (TypeError, ValueError, IndexError, OverflowError, OSError):
        return None
