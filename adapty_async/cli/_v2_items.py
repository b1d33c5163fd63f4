"""A converter of the rows of an input file to the values of version 2 of the API."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from adapty_async import v2
from adapty_async._api.validation import RequestStruct
from adapty_async.cli._items import (
    id_from,
    iso_date_time,
    require_distinct,
    require_known_names,
    unknown_key,
)
from adapty_async.errors import InvalidInputError

__all__ = ("ATTRIBUTES", "TRANSACTION", "ColumnSchema", "attributes_from", "transaction_from")

_FLAGS = frozenset({"analytics_disabled", "is_family_shared", "renew_status"})
_NUMBERS = frozenset({"att_status"})
_CLOSED = RequestStruct  # stands for a head that is no open object
_WORDS = {"true": True, "false": False}
_KINDS: Mapping[str, type[v2.OneTimePurchase | v2.SubscriptionPurchase]] = {
    "one_time_purchase": v2.OneTimePurchase,
    "subscription": v2.SubscriptionPurchase,
}


class ColumnSchema(msgspec.Struct, frozen=True):
    """
    A schema of the columns of an input in addition to the id.

    Attributes:
        plain: the names of simple fields.
        known: all names that have a field, dotted if it is nested.
        nested: structs by the field they are in; None for an object with names of any kind.
        required: the columns that a CSV file must have.
    """

    plain: frozenset[str]
    known: frozenset[str]
    nested: Mapping[str, type[RequestStruct] | None]
    required: tuple[str, ...] = ()

    def columns(self, id_column: str) -> Callable[[list[str]], None]:
        """Return a check for the columns of a CSV file."""

        def check(names: list[str]) -> None:
            known = {name for name in names if name == id_column or self.is_known(name)}
            require_known_names(names, known, self.expected)
            require_distinct(names)
            for name in names:
                if name in self.nested:
                    raise InvalidInputError(name, f"must be columns with a dot: {name}.NAME")
            for name in (id_column, *self.required):
                if name not in names:
                    raise InvalidInputError(name, "is a required column")

        return check

    def is_known(self, name: str) -> bool:
        """Return whether a name, dotted if nested, belongs to a field."""
        if name in self.known:
            return True
        head, _, tail = name.partition(".")
        return bool(tail) and self.nested.get(head, _CLOSED) is None

    @property
    def expected(self) -> str:
        """All names, for a message."""
        return ", ".join(self.names())

    def names(self) -> list[str]:
        """Return all names that a row may have, dotted if nested."""
        inner = [
            f"{head}.{tail}"
            for head, struct in self.nested.items()
            for tail in (("NAME",) if struct is None else struct.__struct_fields__)
        ]
        return [*sorted(self.plain), *inner]

    def fields(self, value: Any, id_column: str) -> dict[str, Any]:
        """
        Convert a row's named values, without the id, to the arguments of a struct.

        Raises:
            InvalidInputError: a name is unknown, or a value is invalid.
        """
        if not isinstance(value, dict):
            raise InvalidInputError("row", "must be an object with named fields")
        for name in value:
            if name != id_column and not self.is_known(name):
                raise unknown_key(name, self.expected)
        fields = _nest({name: one for name, one in value.items() if name != id_column})
        for name, struct in self.nested.items():
            if struct is not None and isinstance(inner := fields.get(name), dict):
                fields[name] = _built(struct, inner, f"{name}.")
        return fields


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
        if isinstance(inner := fields.setdefault(head, {}), dict):
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
    if name in _NUMBERS:
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
            raise unknown_key(f"{prefix}{name}", f"{names} ({struct.__name__})")
    for name in _required(struct):
        if name not in fields:
            raise InvalidInputError(f"{prefix}{name}", "is required")
    try:
        return struct(**fields)
    except InvalidInputError as error:
        raise InvalidInputError(f"{prefix}{error.field}", error.rule) from None


def _shape(
    *structs: type[RequestStruct],
    nested: Mapping[str, type[RequestStruct] | None],
    required: tuple[str, ...] = (),
    extra: tuple[str, ...] = (),
) -> ColumnSchema:
    names = {name for struct in structs for name in struct.__struct_fields__}
    plain = frozenset({*names, *extra} - nested.keys())
    inner = {
        f"{head}.{tail}"
        for head, struct in nested.items()
        if struct is not None
        for tail in struct.__struct_fields__
    }
    return ColumnSchema(plain, plain | nested.keys() | inner, nested, required)


ATTRIBUTES = _shape(
    v2.ProfileAttributes,
    nested={"custom_attributes": None, "installation_meta": v2.InstallationMeta},
)
TRANSACTION = _shape(
    v2.OneTimePurchase,
    v2.SubscriptionPurchase,
    nested={"price": v2.Price, "offer": v2.Offer},
    required=(
        "purchase_type",
        "store",
        "store_product_id",
        "store_transaction_id",
        "store_original_transaction_id",
        "purchased_at",
        "price.country",
        "price.currency",
        "price.value",
    ),
    extra=("purchase_type",),
)


def attributes_from(value: Any, id_column: str) -> tuple[str, v2.ProfileAttributes]:
    """
    Return a row's id and attributes; a dotted name is a field of a nested object.

    Raises:
        InvalidInputError: a name is unknown, the id is missing, or a value breaks a rule.
    """
    fields = ATTRIBUTES.fields(value, id_column)
    return id_from(value, id_column), _built(v2.ProfileAttributes, fields)


def transaction_from(value: Any, id_column: str) -> tuple[str, v2.Transaction]:
    """
    Return a row's id and transaction; a dotted name is a field of a nested object.

    Raises:
        InvalidInputError: a name is unknown, a required one is missing, or a value breaks a rule.
    """
    fields = TRANSACTION.fields(value, id_column)
    if "purchase_type" not in fields:
        raise InvalidInputError("purchase_type", "is required")
    kind = _KINDS.get(str(fields.pop("purchase_type", "")))
    if kind is None:
        raise InvalidInputError("purchase_type", f"must be one of {', '.join(_KINDS)}")
    return id_from(value, id_column), _built(kind, fields)
