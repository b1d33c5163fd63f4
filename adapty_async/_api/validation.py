"""
Validation of values before they are sent: checks, and the structs that run them.

A check is a function of a field's name and its value. It raises `InvalidInputError`, which names
the field and the rule, never the value.

The type of a value (text, a number, a date and time with a zone) is validated when its struct is
created. The server decides on lengths, ranges, enumerations and dependencies of fields. Validating
them as well, by the rules of Adapty's documentation, when a call is sent saves a request and names
the field; a client may turn that off.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from adapty_async.errors import InvalidInputError, strip_traceback

T = TypeVar("T")
Check: TypeAlias = Callable[[str, Any], None]
#: A field that is left out of the JSON when it is UNSET.
OrUnset: TypeAlias = T | UnsetType

_HEADER_BYTES = 1024
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]+")
# The headers of keys, bodies and connections.
_RESERVED = frozenset(
    {
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "idempotency-key",
        "transfer-encoding",
    }
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?"
    r"([Zz]|[+-][0-9]{2}:?[0-9]{2})"
)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9._-]{1,30}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class PrivateStruct(msgspec.Struct, frozen=True, kw_only=True):
    """The base class of structs with personal data: the repr names the set fields, no values."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}=…' for name in self._filled())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, "…") for name in self._filled()]

    def _filled(self) -> list[str]:
        values = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return [name for name, value in values if value is not UNSET and value is not None]


class RequestStruct(PrivateStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base class of structs that callers fill in: a rule validates each field that is set."""

    rules: ClassVar[Mapping[str, Check]] = {}

    def __post_init__(self) -> None:
        try:
            self._check()
        except InvalidInputError as error:
            raise strip_traceback(error) from None  # the frames below hold the value itself

    def _check(self) -> None:
        for field, check in self.rules.items():
            value = getattr(self, field)
            if value is not UNSET:
                check(field, value)


def text(field: str, value: Any) -> None:
    """Validate text that is not empty and can be encoded."""
    if not isinstance(value, str):
        raise InvalidInputError(field, f"must be text, not {type(value).__name__}")
    if not value:
        raise InvalidInputError(field, "must not be empty")
    if value.isascii():
        return
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(field, "must not contain lone surrogates") from None


def any_text(field: str, value: Any) -> None:
    """Validate text that can be encoded; it may be empty."""
    if not isinstance(value, str) or value:  # no comparison: that of pandas' NA raises an error
        text(field, value)


def exact_text(value: str) -> str:
    """Return the content of text, also of a subclass whose `str` is another, such as an Enum."""
    return str.__str__(value)


def boolean(field: str, value: Any) -> None:
    """Validate a bool."""
    if not isinstance(value, bool):
        raise InvalidInputError(field, f"must be True or False, not {type(value).__name__}")


def nullable(check: Check) -> Check:
    """Return a check that also allows None."""

    def check_unless_none(field: str, value: Any) -> None:
        if value is not None:
            check(field, value)

    return check_unless_none


def one_of(*allowed: str) -> Check:
    """Return a check that allows only the listed words."""

    def check(field: str, value: Any) -> None:
        if not isinstance(value, str) or value not in allowed:
            raise InvalidInputError(field, f"must be one of {', '.join(allowed)}")

    return check


def instance_of(struct: type[msgspec.Struct]) -> Check:
    """Return a check for a nested struct."""
    name = f"{struct.__module__.split('.')[1]}.{struct.__name__}"  # two modules may have that name

    def check(field: str, value: Any) -> None:
        if not isinstance(value, struct):
            raise InvalidInputError(field, f"must be a {name}")

    return check


def matching(pattern: str, rule: str) -> Check:
    """Return a check for text that matches a pattern."""
    compiled = re.compile(pattern)

    def check(field: str, value: Any) -> None:
        text(field, value)
        if not compiled.fullmatch(value):
            raise InvalidInputError(field, rule)

    return check


country_code = matching(
    r"[A-Z]{2}", "must be two upper-case letters (ISO 3166-1 alpha-2), such as US"
)
decimal_text = matching(r"-?[0-9]+(\.[0-9]+)?", "must be a decimal number as text, such as '9.99'")
email_address = matching(
    r"[^\s@\x00-\x1f\x7f]+@[^\s@\x00-\x1f\x7f]+",
    "must be an e-mail address: one @ with text around it, no blanks",
)


def date_time(field: str, value: Any) -> None:
    """Validate a date and time: an aware datetime, or an ISO 8601 string with its offset."""
    if isinstance(value, dt.datetime):
        if not has_zone(value):
            raise InvalidInputError(field, "must be a datetime with a time zone, not a naive one")
        return
    _require_iso(
        field,
        value,
        _DATE_TIME,
        "must be a datetime, or ISO 8601 text with its offset, such as 2026-06-01T10:30:00Z",
    )


def has_zone(value: dt.datetime) -> bool:
    """Return whether a date and time has a time zone."""
    try:
        return value.utcoffset() is not None
    except ValueError:  # pandas' NaT, a datetime that is missing
        return False


def date(field: str, value: Any) -> None:
    """Validate a date: a `datetime.date`, or an ISO 8601 string."""
    rule = "must be a date, or ISO 8601 text such as 1990-05-21"
    if isinstance(value, dt.datetime):
        raise InvalidInputError(field, f"{rule}, without a time")
    if isinstance(value, dt.date):
        return
    _require_iso(field, value, _DATE, rule)


def _require_iso(field: str, value: Any, form: re.Pattern[str], rule: str) -> None:
    if not isinstance(value, str):
        raise InvalidInputError(field, rule)
    text(field, value)
    try:
        parsed = form.fullmatch(value) and dt.datetime.fromisoformat(value.upper())
    except ValueError:  # of the right form, but no such date or hour
        parsed = None
    if not parsed:
        raise InvalidInputError(field, rule)


def identifier(field: str, value: Any) -> None:
    """
    Validate an id as it was issued.

    A line break or a blank at its end comes from a file. Such an id belongs to no profile or, if
    the server trims it, to another one.
    """
    text(field, value)
    if _CONTROL.search(value):
        raise InvalidInputError(field, "must not contain control characters or line breaks")
    if value != value.strip():
        raise InvalidInputError(field, "must not begin or end with a blank")


def any_identifier(field: str, value: Any) -> None:
    """Validate an id as it was issued, or ``""`` for no id."""
    if not isinstance(value, str) or value:
        identifier(field, value)


def header_name(name: Any, *, reserved: Collection[str] = ()) -> None:
    """Validate the name of a header that the library does not set itself."""
    if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
        raise InvalidInputError("headers", "a name must be made of letters, digits and dashes")
    if name.lower() in _RESERVED or name.lower() in reserved:
        raise InvalidInputError(f"headers.{name}", "is set by the library")


def header_value(field: str, value: Any, *, encoding: str) -> None:
    """
    Validate an id that reaches the server unchanged in a header.

    Adapty's documentation does not say how the server reads bytes that are not ASCII.
    """
    identifier(field, value)
    if not value.isascii() and encoding == "ascii":
        raise InvalidInputError(
            field, 'must be ASCII, unless id_encoding is "utf-8" (--id-encoding utf-8)'
        )
    if len(value.encode()) > _HEADER_BYTES:
        raise InvalidInputError(field, f"must not be longer than {_HEADER_BYTES} bytes")


class AttributeRules(msgspec.Struct, frozen=True):
    """
    The limits of an API on custom attributes; None if it states no limit.

    Attributes:
        entries: the maximum number of attributes.
        value: the maximum number of characters in a value.
        key: the pattern of a key, and the rule in words.
        deletes: None as a value deletes the attribute, as "" does.
    """

    entries: int | None = None
    value: int | None = None
    key: tuple[str, str] | None = None
    deletes: bool = False


def clean_attributes(rules: AttributeRules) -> Check:
    """Return a check for a mapping of custom attributes."""
    is_key = re.compile(rules.key[0] if rules.key else r"[ -~]+").fullmatch
    is_value = re.compile(rf"[ -~]{{1,{rules.value or ''}}}").fullmatch

    def check(field: str, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise InvalidInputError(field, f"must be a dict, not {type(value).__name__}")
        if rules.entries is not None and not 1 <= len(value) <= rules.entries:
            raise InvalidInputError(field, f"must have 1 to {rules.entries} entries")
        for key, entry in value.items():
            # most entries are plain text; the full validation takes 0.25 µs more for each
            if type(key) is type(entry) is str and is_key(key) and is_value(entry):
                continue
            _require_key(field, key, rules)
            _require_value(_entry_of(field, key), entry, rules)

    return check


def as_numbers(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return custom attributes as they are sent: a bool as a number, since the server has none."""
    return {
        key: float(value) if isinstance(value, bool) else value for key, value in attributes.items()
    }


def _require_key(field: str, key: Any, rules: AttributeRules) -> None:
    text(f"{field} key", key)
    if rules.key is not None and not re.fullmatch(rules.key[0], key):
        raise InvalidInputError(field, rules.key[1])


def _entry_of(field: str, key: str) -> str:
    """Return the name of an entry; it has the key, unless that is free text."""
    return f"{field}.{key}" if _PLAIN_KEY.fullmatch(key) else f"{field} value"


def _require_value(field: str, value: Any, rules: AttributeRules) -> None:
    if value is None and rules.deletes:
        return
    if isinstance(value, str):
        any_text(field, value)
    elif isinstance(value, int | float):
        _require_number(field, value)
    else:
        raise InvalidInputError(field, f"must be text or a number, not {type(value).__name__}")
    shown = value if isinstance(value, str) else str(value)
    if rules.value is not None and len(shown) > rules.value:
        raise InvalidInputError(field, f"must not be longer than {rules.value} characters")


def _require_number(field: str, value: float) -> None:
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidInputError(field, "must fit into 64 bits")
    elif not math.isfinite(value):
        raise InvalidInputError(field, "must be a finite number")


#: The pattern of a hexadecimal digit.
HEX = "[0-9a-fA-F]"

uuid = matching(rf"{HEX}{{8}}(-{HEX}{{4}}){{3}}-{HEX}{{12}}", "must be a UUID")


class DocumentedStruct(RequestStruct, frozen=True, kw_only=True):
    """The base class of structs with rules that are validated when they are sent."""

    documented: ClassVar[Mapping[str, Check]] = {}

    def check_documented(self) -> None:
        """
        Validate the fields that are set.

        Raises:
            InvalidInputError: a field breaks its rule.
        """
        for field, check in self.documented.items():
            value = getattr(self, field)
            if is_given(value):
                check(field, value)


def check_body(operation: Any) -> None:
    """Validate the body of an `Operation`, by the rules of Adapty's documentation."""
    operation.body.check_documented()


def struct_in(field: str, value: DocumentedStruct) -> None:
    """Validate a nested struct; an error names its field with the path from the outer one."""
    try:
        value.check_documented()
    except InvalidInputError as error:
        raise InvalidInputError(f"{field}.{error.field}", error.rule) from None


def is_given(value: Any) -> bool:
    """Return whether a value is neither UNSET nor None."""
    return value is not UNSET and value is not None
