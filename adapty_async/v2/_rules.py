"""
Validation by the rules of Adapty's documentation, when a call is sent; a client may turn it off.

The type of a value (text, a number, a date and time with a zone) is validated when its struct is
created. The server decides on lengths, ranges, enumerations and dependencies of fields. Validating
them here as well saves a request and names the field.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Mapping
from typing import Any, ClassVar

from msgspec import UNSET

from adapty_async._api.operation import Operation
from adapty_async._api.validation import Check, RequestStruct, matching
from adapty_async.errors import InvalidInputError

__all__ = (
    "DocumentedStruct",
    "as_datetime",
    "at_most",
    "check_body",
    "in_range",
    "ip_v4",
    "is_given",
    "require_some",
    "struct_in",
    "uuid",
    "uuid4",
    "whole_number",
)

_HEX = "[0-9a-fA-F]"

uuid = matching(rf"{_HEX}{{8}}(-{_HEX}{{4}}){{3}}-{_HEX}{{12}}", "must be a UUID")
uuid4 = matching(
    rf"{_HEX}{{8}}-{_HEX}{{4}}-4{_HEX}{{3}}-[89abAB]{_HEX}{{3}}-{_HEX}{{12}}",
    "must be a UUID of version 4",
)


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


def check_body(operation: Operation[Any]) -> None:
    """Validate the body of an operation."""
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


def require_some(struct: RequestStruct) -> None:
    """
    Validate that at least one field is set, possibly to None.

    Raises:
        InvalidInputError: no field is set; the error names the first one.
    """
    names = struct.__struct_fields__
    if all(getattr(struct, name) is UNSET for name in names):
        raise InvalidInputError(names[0], "it or another field must be set")


def at_most(length: int) -> Check:
    """Return a check for the maximum length of a text, in characters."""

    def check(field: str, value: str) -> None:
        if len(value) > length:
            raise InvalidInputError(field, f"must not be longer than {length} characters")

    return check


def whole_number(field: str, value: Any) -> None:
    """Validate an int that is not a bool."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInputError(field, f"must be a whole number, not {type(value).__name__}")


def in_range(low: int, high: int | None = None) -> Check:
    """Return a check for a whole number in an inclusive range."""

    def check(field: str, value: int) -> None:
        if value < low or (high is not None and value > high):
            bound = f"{low} to {high}" if high is not None else f"{low} or more"
            raise InvalidInputError(field, f"must be {bound}")

    return check


def ip_v4(field: str, value: str) -> None:
    """Validate an IPv4 address."""
    try:
        ipaddress.IPv4Address(value)
    except ValueError:
        raise InvalidInputError(field, "must be an IPv4 address, such as 192.168.1.1") from None


def as_datetime(value: dt.datetime | str) -> dt.datetime:
    """Return a validated date and time as a datetime."""
    return dt.datetime.fromisoformat(value.upper()) if isinstance(value, str) else value
