"""A converter of the rows of an input to ids, and to the structs of requests."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from adapty_async._api.validation import RequestStruct
from adapty_async._input.findings import escaped, listed, shown
from adapty_async._input.layout import ColumnCheck
from adapty_async.errors import InvalidInputError

_FLAGS = frozenset({"analytics_disabled", "is_family_shared", "renew_status"})
_WHOLE_NUMBERS = frozenset({"att_status"})
_WORDS = {"true": True, "false": False}
_DATE_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?)"
    r"(?:[Zz]| ?UTC| ?([+-][0-9]{2})(?::?([0-9]{2}))?)"
)
_DATE_TIME_RULE = (
    "must be a datetime, or ISO 8601 text with its offset, such as 2026-06-01T10:30:00Z, "
    "2026-06-01 10:30:00+00 or 2026-06-01 10:30:00 UTC"
)


def id_columns(column: str, *, label: str = "header", noun: str = "column") -> ColumnCheck:
    """
    Return a check that an input has the column with the ids; other columns are allowed.

    Args:
        column: its name.
        label: what has the columns, in the message.
        noun: what they are called there.
    """

    def check(names: list[str]) -> Collection[str]:
        if column not in names:
            wanted = escaped(column)
            raise InvalidInputError(
                label, f'has no {noun} "{wanted}"; found: {listed(names) or "none"}'
            )
        require_distinct([name for name in names if name == column])
        return {column}

    return check


def require_distinct(names: list[str]) -> None:
    """
    Validate that no relevant column occurs twice.

    Raises:
        InvalidInputError: a column occurs twice.
    """
    for name, count in Counter(names).items():
        if count > 1:
            raise InvalidInputError("header", f'has the column "{shown(name)}" more than once')


def id_from(value: Any, column: str) -> str:
    """
    Return the id of a row: the text itself, or the value of the column.

    Raises:
        InvalidInputError: there is none, or it is not text.
    """
    if isinstance(value, dict) and column not in value:
        raise InvalidInputError(escaped(column), "is required")
    found = value[column] if isinstance(value, dict) else value
    if found is None:
        raise InvalidInputError(escaped(column), "must not be empty")
    if not isinstance(found, str):
        raise InvalidInputError(escaped(column), f"must be text, not {type(found).__name__}")
    return found


def iso_date_time(field: str, value: str) -> str:
    """
    Convert a date and time in the form of databases to ISO 8601.

    Raises:
        InvalidInputError: the text has no offset from UTC, or another form.
    """
    match = _DATE_TIME.fullmatch(value)
    if match is None:
        raise InvalidInputError(field, _DATE_TIME_RULE)
    date, time, hours, minutes = match.groups()
    offset = f"{hours}:{minutes or '00'}" if hours else "Z"
    return f"{date}T{time}{offset}"


class ColumnSchema:
    """
    The columns of a file or a data frame that a bulk method reads, in addition to the id.

    Args:
        rows: the schema of its rows.

    Attributes:
        required: the columns that it must have.
    """

    def __init__(self, rows: RowSchema) -> None:
        self.required: tuple[str, ...] = rows.required
        self._rows = rows

    def __repr__(self) -> str:
        return f"ColumnSchema({self._rows.kinds})"

    def names(self) -> list[str]:
        """
        Return the names of all columns; those of nested fields have a dot.

        ``NAME`` stands for any name, such as in ``custom_attributes.NAME``.
        """
        return self._rows.names()


def rows_of(schema: ColumnSchema) -> RowSchema:
    """Return the schema of the rows of a schema of columns."""
    return schema._rows  # noqa: SLF001  not for users, who have the names


class RowSchema:
    """
    A schema of the rows of an input, by which a row becomes a struct.

    Args:
        structs: the structs that a row can become, by the text in its `kind_field`.
        kind_field: the field that determines the struct; None if there is only one.
        nested: structs by the field they are in; None for an object with names of any kind.
        required: the columns that a CSV file or a table must have.
        numbers: fields that may be numbers as well as text, in addition to those of open objects.
    """

    def __init__(
        self,
        structs: Mapping[str, type[RequestStruct]],
        *,
        kind_field: str | None = None,
        nested: Mapping[str, type[RequestStruct] | None],
        required: tuple[str, ...] = (),
        numbers: frozenset[str] = frozenset(),
    ) -> None:
        self.required = required
        self._structs = structs
        self._kind_field = kind_field
        self._nested = nested
        self._numbers = numbers
        names = {name for struct in structs.values() for name in struct.__struct_fields__}
        names |= {kind_field} if kind_field else set()
        inner = [
            f"{head}.{tail}"
            for head, struct in nested.items()
            for tail in (("NAME",) if struct is None else struct.__struct_fields__)
        ]
        self._names = [*sorted(names - nested.keys()), *inner]
        self._known = {*self._names, *nested}
        self._open = {head for head, struct in nested.items() if struct is None}

    @property
    def kinds(self) -> str:
        """The names of the structs, for a message."""
        return ", ".join(one.__name__ for one in self._structs.values())

    def check(self, names: list[str]) -> Collection[str]:
        """
        Validate the names of columns that are fields, and return them.

        Raises:
            InvalidInputError: one is unknown, missing, occurs twice, or is a whole nested object.
        """
        self.require_known(names)
        require_distinct(names)
        for name in names:
            if name in self._nested:
                raise InvalidInputError(name, f"must be columns with a dot: {name}.NAME")
        for name in self.required:
            if name not in names:
                raise InvalidInputError(name, "is a required column")
        return set(names)

    def check_keys(self, names: Collection[str]) -> None:
        """
        Validate the keys that objects have; a nested object may be one.

        Raises:
            InvalidInputError: one is unknown, or no object has one that is required.
        """
        self.require_known(names, "key")
        for name in self.required:
            if name not in names and name.partition(".")[0] not in names:
                raise InvalidInputError(name, "is a required key")

    def require_known(self, names: Iterable[str], noun: str = "column") -> None:
        """
        Validate that names belong to fields.

        Raises:
            InvalidInputError: some do not.
        """
        unknown = list(dict.fromkeys(name for name in names if not self.is_known(name)))
        if unknown:
            noun += "" if len(unknown) == 1 else "s"
            described = listed(unknown, '"{}"')
            field = "header" if noun.startswith("column") else "input"
            raise InvalidInputError(field, f"unknown {noun} {described}; expected: {self.expected}")

    def is_known(self, name: str) -> bool:
        """Return whether a name, dotted if nested, belongs to a field."""
        return name in self._known or self._is_in_open_object(name)

    def is_number(self, name: str) -> bool:
        """Return whether a field may be a number as well as text."""
        return name in self._numbers or self._is_in_open_object(name)

    def _is_in_open_object(self, name: str) -> bool:
        head, _, tail = name.partition(".")
        return head in self._open and tail != ""

    @property
    def expected(self) -> str:
        """All names, for a message."""
        return ", ".join(self._names)

    def names(self) -> list[str]:
        """Return all names that a row may have, dotted if nested."""
        return self._names.copy()

    def struct(self, value: Any, id_column: str | None = None, *, lenient: bool = False) -> Any:
        """
        Build a struct from named values; a dotted name is a field of a nested object.

        A name with a dot must not be in the object that it belongs to as well.

        Args:
            value: the row, an object of values by name.
            id_column: the name of the id, which is no field.
            lenient: names that are unknown, or no fields of this kind of struct, are left out.

        Raises:
            InvalidInputError: a name is unknown, missing or there twice, or a value breaks a rule.
        """
        if not isinstance(value, dict):
            raise InvalidInputError("row", "must be an object with named fields")
        if not lenient:
            self._require_known_keys(value, id_column)
        fields = _nest(
            {
                name: one
                for name, one in value.items()
                if name != id_column and (not lenient or self.is_known(name))
            }
        )
        self._build_nested(fields)
        struct = self._struct_of(fields)
        if lenient:
            fields = {name: fields[name] for name in fields if name in struct.__struct_fields__}
        return _built(struct, fields)

    def _require_known_keys(self, value: Iterable[str], id_column: str | None) -> None:
        for name in value:
            if name != id_column and not self.is_known(name):
                raise _unknown_key(name, self.expected)

    def _build_nested(self, fields: dict[str, Any]) -> None:
        for name, struct in self._nested.items():
            inner = fields.get(name)
            if struct is None or inner is None:
                continue
            if not isinstance(inner, dict):
                raise InvalidInputError(name, "must be an object")
            fields[name] = _built(struct, inner, f"{name}.")

    def _struct_of(self, fields: dict[str, Any]) -> type[RequestStruct]:
        if self._kind_field is None:
            return self._structs[""]
        if self._kind_field not in fields:
            raise InvalidInputError(self._kind_field, "is required")
        struct = self._structs.get(str(fields.pop(self._kind_field)))
        if struct is None:
            raise InvalidInputError(self._kind_field, f"must be one of {', '.join(self._structs)}")
        return struct


def _unknown_key(name: str, expected: str) -> InvalidInputError:
    return InvalidInputError("row", f'unknown key "{shown(name)}"; expected: {expected}')


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    dotted: list[str] = []
    for name, one in flat.items():
        if "." in name:
            dotted.append(name)
        else:
            fields[name] = dict(one) if isinstance(one, dict) else _typed(name, one)
    for name in dotted:  # after the objects that they go into
        head, _, tail = name.partition(".")
        inner = fields.setdefault(head, {})
        if inner is None or (isinstance(inner, dict) and tail in inner):
            raise InvalidInputError(escaped(name), f"has two values: {head} has one too")
        if isinstance(inner, dict):  # another value breaks the rule of its own field
            inner[tail] = _typed(name, flat[name])
    return fields


def _typed(name: str, value: Any) -> Any:
    """Turn text into what its field holds: a cell of a CSV file is text, whatever it says."""
    if not isinstance(value, str):
        return value
    if name.endswith("_at") and "." not in name:  # a custom attribute may be called anything
        return iso_date_time(name, value)
    if name in _FLAGS:
        if value.lower() not in _WORDS:
            raise InvalidInputError(name, "must be true or false")
        return _WORDS[value.lower()]
    if name in _WHOLE_NUMBERS:
        if not value.isascii() or not value.isdecimal():
            raise InvalidInputError(name, "must be a whole number")
        return int(value)
    return value


@functools.cache
def _required(struct: type[RequestStruct]) -> tuple[str, ...]:
    # msgspec resolves the annotations of a struct each time it is asked for its fields
    return tuple(one.name for one in msgspec.structs.fields(struct) if one.required)


def _built(struct: type[RequestStruct], fields: Mapping[str, Any], prefix: str = "") -> Any:
    for name in fields:
        if name not in struct.__struct_fields__:
            names = ", ".join(f"{prefix}{known}" for known in struct.__struct_fields__)
            raise _unknown_key(f"{prefix}{name}", f"{names} ({struct.__name__})")
    for name in _required(struct):
        if name not in fields:
            raise InvalidInputError(f"{prefix}{name}", "is required")
    try:
        return struct(**fields)
    except InvalidInputError as error:
        raise InvalidInputError(f"{prefix}{error.field}", error.rule) from None
