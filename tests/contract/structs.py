"""A comparison of the library's structs with the schemas that they stand for."""

from __future__ import annotations

import datetime as dt
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UnsetType

from adapty_async import v2
from tests.contract.contract import Contract

Mismatch = tuple[str, str]

#: The words that set a limit, and the step from the last allowed value to one that is not.
BEYOND = {"minimum": -1, "minItems": -1, "maximum": 1, "maxItems": 1, "maxLength": 1}


def limits(contract: Contract) -> Iterator[tuple[str, str, int]]:
    """Yield the limits that a document sets to what is sent, by parameter or property."""
    document = contract.document
    for operation in document.operations:
        for one in document.spec(operation).get("parameters", ()):
            yield from _limits_in(f"{operation} {one['name']}", one["schema"])
    custom = {"CustomAttribute"} & document.schemas.keys()
    for name in [*contract.requests, *custom]:
        for one, schema in document.schemas[name]["properties"].items():
            yield from _limits_in(f"{name}.{one}", schema)


def _limits_in(place: str, schema: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    yield from ((place, word, schema[word]) for word in BEYOND if word in schema)


def mismatches(
    contract: Contract, schema: dict[str, Any], struct: type[msgspec.Struct]
) -> Iterator[Mismatch]:
    """Yield the mismatches of a struct that stands for a schema, going into nested objects."""
    return _Comparison(contract).of_struct(schema, struct)


class _Comparison:
    """A comparison of the structs of one contract."""

    def __init__(self, contract: Contract) -> None:
        self._resolved = contract.document.resolved
        self._takes_null = contract.takes_null
        self._beyond = contract.beyond

    def of_struct(self, schema: dict[str, Any], struct: type[msgspec.Struct]) -> Iterator[Mismatch]:
        """Yield the mismatches of a struct."""
        hints = typing.get_type_hints(struct)
        properties: dict[str, Any] = schema["properties"]
        names = {
            name for name in struct.__struct_fields__ if (struct.__name__, name) not in self._beyond
        }
        tag = struct.__struct_config__.tag
        if tag is not None:
            names.add("purchase_type")
            if properties["purchase_type"]["enum"] != [tag]:
                yield "purchase_type", f"is {tag}"
        for name in properties.keys() ^ names:
            yield name, "is on one side only"
        for name in properties.keys() & {*struct.__struct_fields__}:
            inner = self._resolved(properties[name])
            if (struct.__name__, name) in self._takes_null:
                inner = {**inner, "nullable": True}
            yield from self._of_field(name, inner, hints[name])

    def _of_field(self, name: str, schema: dict[str, Any], hint: Any) -> Iterator[Mismatch]:
        kinds = [*typing.get_args(hint)] if is_union(hint) else [hint]
        schema = without_null(schema)
        nullable = schema.get("nullable", False)
        if nullable != (type(None) in kinds) and (nullable or UnsetType in kinds):
            yield name, "must take null" if nullable else "must not send null"
        words = [kind for kind in kinds if typing.get_origin(kind) is typing.Literal]
        if words and set(typing.get_args(words[0])) != set(schema.get("enum", ())):
            yield name, "has other words"
        yield from self._of_value(name, schema, kinds)

    def _of_value(self, name: str, schema: dict[str, Any], kinds: list[Any]) -> Iterator[Mismatch]:
        nested = [kind for kind in kinds if is_struct(kind)]
        if nested and "properties" in schema:
            yield from self.of_struct(schema, nested[0])
        elif name == "custom_attributes":
            if not any(
                typing.get_origin(kind) is Mapping or kind is v2.CustomAttributes for kind in kinds
            ):
                yield name, "must be a mapping"
        elif schema.get("type") == "array":
            yield from self._of_items(name, self._resolved(schema["items"]), kinds)
        elif not any(fits(kind, schema) for kind in kinds):
            yield name, f"{kinds} does not fit {schema.get('type')} {schema.get('format', '')}"

    def _of_items(self, name: str, schema: dict[str, Any], kinds: list[Any]) -> Iterator[Mismatch]:
        [entries] = [kind for kind in kinds if typing.get_origin(kind) in {tuple, Sequence}]
        entry = typing.get_args(entries)[0]
        yield from self._of_field(f"{name}[]", schema, entry)


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that is one of itself and null in the words of OpenAPI 3.0."""
    other = [one for one in schema.get("oneOf", ()) if one != {"type": "null"}]
    if len(other) == 1:
        return {**other[0], "nullable": True}
    return schema


def is_union(hint: Any) -> bool:
    """Return whether a hint is a union, in either syntax."""
    return typing.get_origin(hint) in {typing.Union, types.UnionType}


def is_struct(kind: Any) -> bool:
    """Return whether a type is a struct."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


FITTING: dict[tuple[str, str | None], type] = {
    ("string", None): str,
    ("string", "uuid"): str,
    ("string", "uri"): str,
    ("string", "email"): str,
    ("string", "date"): dt.date,
    ("string", "date-time"): dt.datetime,
    ("number", None): float,
    ("number", "float"): float,
    ("integer", None): int,
    ("integer", "int32"): int,
    ("integer", "int64"): int,
    ("boolean", None): bool,
}


def fits(kind: Any, schema: dict[str, Any]) -> bool:
    """Return whether a plain type fits a schema."""
    if schema["type"] == "object":
        return typing.get_origin(kind) is dict
    wanted = FITTING[schema["type"], schema.get("format")]
    if typing.get_origin(kind) is typing.Literal:
        return all(isinstance(word, wanted) for word in typing.get_args(kind))
    return kind is wanted
