"""A converter of the rows of an input file to the values of requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from adapty_async.errors import InvalidInputError
from adapty_async.mail import DeviceInfo, MailProfile

__all__ = (
    "id_columns",
    "id_from",
    "iso_date_time",
    "profile_columns",
    "profile_from",
    "require_distinct",
    "require_known_names",
    "unknown_key",
)

_REQUIRED = ("external_profile_id", "external_created_at", "email")
_NESTED = ("custom_attributes", "device_info")
_PLAIN = frozenset(MailProfile.__struct_fields__) - set(_NESTED)
_DEVICE = frozenset(DeviceInfo.__struct_fields__)
_EXPECTED = ", ".join(
    [*sorted(_PLAIN), "custom_attributes.NAME", *sorted(f"device_info.{name}" for name in _DEVICE)]
)
_DATE_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?)"
    r"(?:[Zz]| ?UTC| ?([+-][0-9]{2})(?::?([0-9]{2}))?)"
)
_DATE_TIME_RULE = (
    "must be a datetime, or ISO 8601 text with its offset, such as 2026-06-01T10:30:00Z, "
    "2026-06-01 10:30:00+00 or 2026-06-01 10:30:00 UTC"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z_. -]{0,59}")


def _shown(name: str) -> str:
    """Return a name that looks like a column's; without a header line it may be personal data."""
    return name if _NAME.fullmatch(name) else "…"


def id_columns(column: str) -> Callable[[list[str]], None]:
    """Return a check that a CSV file has the column with the ids; other columns are allowed."""

    def check(names: list[str]) -> None:
        if column not in names:
            found = ", ".join(map(_shown, names))
            raise InvalidInputError("header", f'has no column "{column}"; found: {found}')
        require_distinct([name for name in names if name == column])

    return check


def require_distinct(names: list[str]) -> None:
    """
    Validate that no relevant column occurs twice.

    Raises:
        InvalidInputError: a column occurs twice.
    """
    for name in names:
        if names.count(name) > 1:
            raise InvalidInputError("header", f'has the column "{_shown(name)}" more than once')


def require_known_names(names: Iterable[str], known: Collection[str], expected: str) -> None:
    """
    Validate that all column names are known; the message names all unknown ones.

    Raises:
        InvalidInputError: a column is unknown.
    """
    unknown = dict.fromkeys(f'"{_shown(name)}"' for name in names if name not in known)
    if unknown:
        noun = "column" if len(unknown) == 1 else "columns"
        raise InvalidInputError(
            "header", f"unknown {noun} {', '.join(unknown)}; expected: {expected}"
        )


def unknown_key(name: str, expected: str) -> InvalidInputError:
    """Return the error for an unknown key of a JSON object."""
    return InvalidInputError("row", f'unknown key "{_shown(name)}"; expected: {expected}')


def id_from(value: Any, column: str) -> str:
    """
    Return the id of a row: the text itself, or the value of the column.

    Raises:
        InvalidInputError: there is none, or it is not text.
    """
    if isinstance(value, dict) and column not in value:
        raise InvalidInputError(column, "is required")
    found = value[column] if isinstance(value, dict) else value
    if found is None:
        raise InvalidInputError(column, "must not be empty")
    if not isinstance(found, str):
        raise InvalidInputError(column, f"must be text, not {type(found).__name__}")
    return found


def iso_date_time(field: str, value: Any) -> Any:
    """
    Convert a date and time in the form of databases to ISO 8601; other types stay unchanged.

    Raises:
        InvalidInputError: the text has no offset from UTC, or another form.
    """
    if not isinstance(value, str):
        return value
    match = _DATE_TIME.fullmatch(value)
    if match is None:
        raise InvalidInputError(field, _DATE_TIME_RULE)
    date, time, hours, minutes = match.groups()
    offset = f"{hours}:{minutes or '00'}" if hours else "Z"
    return f"{date}T{time}{offset}"


def profile_columns(names: list[str]) -> None:
    """
    Validate the columns of a CSV file of Mail profiles.

    Raises:
        InvalidInputError: a column is not a field of a profile, or a required one is missing.
    """
    require_known_names(names, set(filter(_is_known, names)), _EXPECTED)
    require_distinct(names)
    for name in names:
        if name in _NESTED:
            raise InvalidInputError(name, f"must be columns with a dot: {name}.NAME")
    for name in _REQUIRED:
        if name not in names:
            raise InvalidInputError(name, "is a required column")


def _is_known(name: str) -> bool:
    head, _, tail = name.partition(".")
    plain = name in _PLAIN or name in _NESTED
    nested = tail in _DEVICE if head == "device_info" else head == "custom_attributes" and tail
    return plain or bool(nested)


def profile_from(value: Any) -> MailProfile:
    """
    Build a Mail profile from named values; a dotted name is a field of a nested object.

    Raises:
        InvalidInputError: a name is unknown, a required one is missing, or a value breaks a rule.
    """
    if not isinstance(value, dict):
        raise InvalidInputError("row", "must be an object with a profile's fields")
    fields = _nest(value)
    for name in _REQUIRED:
        if name not in fields:
            raise InvalidInputError(name, "is required")
    created = fields["external_created_at"]
    fields["external_created_at"] = iso_date_time("external_created_at", created)
    if "device_info" in fields:
        fields["device_info"] = _device_from(fields["device_info"])
    return MailProfile(**fields)


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name in sorted(flat, key=lambda name: "." in name):  # dotted names go into the objects
        if not _is_known(name):
            raise unknown_key(name, _EXPECTED)
        value = flat[name]
        head, dotted, tail = name.partition(".")
        if not dotted:
            fields[name] = dict(value) if isinstance(value, dict) else value
        elif isinstance(inner := fields.setdefault(head, {}), dict):
            inner[tail] = value
    return fields


def _device_from(value: Any) -> DeviceInfo:
    if not isinstance(value, dict):
        raise InvalidInputError("device_info", "must be an object")
    for name in value:
        if name not in _DEVICE:
            raise unknown_key(f"device_info.{name}", _EXPECTED)
    if "platform" not in value:
        raise InvalidInputError("device_info.platform", "is required")
    try:
        return DeviceInfo(**value)
    except InvalidInputError as error:
        raise InvalidInputError(f"device_info.{error.field}", error.rule) from None
