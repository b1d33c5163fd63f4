"""Checks for the documented rules of version 2; see `adapty_async._api.validation`."""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import Any

from msgspec import UNSET

from adapty_async._api.validation import HEX, Check, RequestStruct, matching
from adapty_async.errors import InvalidInputError

uuid4 = matching(
    rf"{HEX}{{8}}-{HEX}{{4}}-4{HEX}{{3}}-[89abAB]{HEX}{{3}}-{HEX}{{12}}",
    "must be a UUID of version 4",
)


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
