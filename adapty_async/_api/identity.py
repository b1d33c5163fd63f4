"""Identity headers and custom attributes, shared by the versions of the server-side API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import UNSET

from adapty_async._api.codec import to_json
from adapty_async._api.operation import IDENTITY_HEADERS, Endpoint, Operation
from adapty_async._api.validation import as_numbers, one_of
from adapty_async.errors import InvalidInputError

__all__ = (
    "By",
    "CustomAttributes",
    "Identity",
    "identity",
    "identity_by",
    "operations_by",
    "pair",
    "read_attributes",
    "require_kind",
    "write_attributes",
)

ResultT = TypeVar("ResultT")

By = Literal["customer_user_id", "profile_id"]
Identity = tuple[tuple[str, str], ...]

require_kind = one_of(*IDENTITY_HEADERS)


def identity(
    customer_user_id: str | None, profile_id: str | None, *, both: bool = False
) -> Identity:
    """
    Return the headers that identify a profile; two ids are allowed only with `both`.

    Raises:
        InvalidInputError: no id was passed, or one too many.
    """
    ids = {"customer_user_id": customer_user_id, "profile_id": profile_id}
    given = [(IDENTITY_HEADERS[name], value) for name, value in ids.items() if value is not None]
    if len(given) == 1 or (given and both):
        return tuple(given)
    number = "at least" if both else "exactly"
    raise InvalidInputError(
        "customer_user_id", f"{number} one of customer_user_id and profile_id is required"
    )


def identity_by(by: By, value: str) -> Identity:
    """Return the header that identifies a profile by an id of the kind `by`."""
    return ((IDENTITY_HEADERS[by], value),)


def operations_by(endpoint: Endpoint[ResultT], by: By) -> Callable[[str], Operation[ResultT]]:
    """Return a builder of the operation on one profile, identified by an id of the kind `by`."""
    header = IDENTITY_HEADERS[by]
    return lambda value: Operation(endpoint, ((header, value),))


def pair(item: Any, struct: type[msgspec.Struct] | str) -> tuple[str, Any]:
    """
    Unpack an item of a bulk run: the profile's id and the value that is sent for it.

    Raises:
        InvalidInputError: the item is not a pair.
    """
    name = struct if isinstance(struct, str) else struct.__name__
    if not isinstance(item, tuple) or len(item) != 2:
        raise InvalidInputError("item", f"must be a pair of an id and {name}")
    return item


class CustomAttributes(dict[str, str | float | None]):
    """A dictionary of custom attributes by key, in whichever form the server sent them."""

    def __repr__(self) -> str:
        return f"CustomAttributes({len(self)} keys)"


class _Entry(msgspec.Struct):
    key: str
    value: Any = None


def read_attributes(_kind: type, value: Any) -> CustomAttributes:
    """Decode custom attributes for msgspec, from a list of keys and values or a dictionary."""
    read = msgspec.convert(value, list[_Entry] | dict[str, Any])
    if isinstance(read, list):
        read = {entry.key: entry.value for entry in read}
    return CustomAttributes(read)


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
