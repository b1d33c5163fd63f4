"""
Strict mode: request bodies are held to the schemas of Adapty's OpenAPI documents.

The folder ``documents`` has what they state, without their prose. Adapty publishes none for
version 1 of the server-side API. The validator knows the part of JSON Schema that they use. Two
keywords of request bodies are not checked: `anyOf` and `minItems`. A service rejects such bodies
itself, with error codes that a validator does not know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

from ._rules import Invalid, Problem
from ._service import Refusal, decoded
from ._v2_rules import UUID

Schema = Mapping[str, Any]

_FOLDER = Path(__file__).with_name("documents")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "array": (list,),
    "boolean": (bool,),
    "integer": (int,),
    "null": (type(None),),
    "number": (int, float),
    "object": (dict,),
    "string": (str,),
}
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
# RFC 3339, section 5.6; fromisoformat() alone also takes week dates and times without a colon.
_DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


class _Body(NamedTuple):
    """The schema of an operation's body; `status` is the one of a body that breaks it."""

    path: re.Pattern[str]
    validator: Validator
    schema: Schema
    status: int


class Documents:
    """The request bodies that OpenAPI documents describe, by method and path."""

    def __init__(self) -> None:
        self._bodies: dict[str, list[_Body]] = {}
        for file in sorted(_FOLDER.glob("*.json")):
            for method, body in _bodies_of(json.loads(file.read_text("utf-8"))):
                self._bodies.setdefault(method, []).append(body)

    def check(self, method: str, path: str, content: bytes) -> None:
        """
        Validate a request body.

        Raises:
            Invalid: the body breaks its schema.
            Refusal: likewise, if the document has a 422 for that.
        """
        for body in self._bodies.get(method, ()):
            if body.path.fullmatch(path):
                problems = list(body.validator.problems(body.schema, decoded(content)))
                if problems and body.status == HTTPStatus.UNPROCESSABLE_ENTITY:
                    raise Refusal(body.status, "validation_error", *problems)
                if problems:
                    raise Invalid(*problems)


def _bodies_of(document: Mapping[str, Any]) -> Iterator[tuple[str, _Body]]:
    validator = Validator(document["components"]["schemas"])
    for path, operations in document["paths"].items():
        pattern = re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)))
        for method, operation in operations.items():
            if "requestBody" in operation:
                [media] = operation["requestBody"]["content"].values()
                status = 422 if "422" in operation["responses"] else 400
                yield method.upper(), _Body(pattern, validator, media["schema"], status)


def _is_date(text: str) -> bool:
    return bool(_DATE.fullmatch(text)) and _is_read_by(date.fromisoformat, text)


def _is_date_time(text: str) -> bool:
    return bool(_DATE_TIME.fullmatch(text)) and _is_read_by(datetime.fromisoformat, text.upper())


def _is_read_by(read: Callable[[str], object], text: str) -> bool:
    try:
        read(text)
    except ValueError:
        return False
    return True


_FORMATS: Mapping[str, Callable[[Any], object]] = {
    "date": _is_date,
    "date-time": _is_date_time,
    "email": _EMAIL.fullmatch,
    "int32": lambda number: -(2**31) <= number < 2**31,
    "float": lambda _number: True,
    "uuid": re.compile(UUID).fullmatch,
}


class Validator:
    """A validator of JSON values against the schemas of one document."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._schemas = schemas
        self._checks: Mapping[str, Callable[[Schema, Any], Iterator[Problem]]] = {
            "type": _of_type,
            "enum": _of_enum,
            "format": _of_format,
            "maxLength": _of_length,
            "maxItems": _of_count,
            "required": _of_required,
            "properties": self._of_properties,
            "additionalProperties": self._of_additional,
            "items": self._of_items,
            "oneOf": self._of_one,
        }

    def problems(self, schema: Schema, value: Any) -> Iterator[Problem]:
        """Yield the problems of a value; a value of the wrong type has no other problem."""
        schema = self.resolved(schema)
        if value is None and schema.get("nullable"):
            return
        for keyword, check in self._checks.items():
            if keyword in schema:
                found = list(check(schema, value))
                yield from found
                if keyword == "type" and found:
                    return

    def resolved(self, schema: Schema) -> Schema:
        """Follow references, and keep the other keys."""
        if "$ref" not in schema:
            return schema
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return {**self.resolved(self._schemas[schema["$ref"].rpartition("/")[2]]), **beside}

    def _of_properties(self, schema: Schema, value: Any) -> Iterator[Problem]:
        for name, inner in schema["properties"].items():
            if name in value:
                yield from _under(name, self.problems(inner, value[name]))

    def _of_additional(self, schema: Schema, value: Any) -> Iterator[Problem]:
        for name, given in value.items():
            if name not in schema.get("properties", ()):
                yield from _under(name, self.problems(schema["additionalProperties"], given))

    def _of_items(self, schema: Schema, value: Any) -> Iterator[Problem]:
        for number, entry in enumerate(value):
            yield from _under(str(number), self.problems(schema["items"], entry))

    def _of_one(self, schema: Schema, value: Any) -> Iterator[Problem]:
        name = schema.get("discriminator", {}).get("propertyName")
        if name is not None:
            yield from self._of_discriminated(schema["oneOf"], name, value)
        elif sum(not any(self.problems(one, value)) for one in schema["oneOf"]) != 1:
            yield Problem("Input should be valid under exactly one of the schemas")

    def _of_discriminated(self, schemas: list[Schema], name: str, value: Any) -> Iterator[Problem]:
        if not isinstance(value, dict):
            yield Problem("Input should be a valid object")
            return
        for schema in map(self.resolved, schemas):
            if value.get(name) in schema["properties"][name]["enum"]:
                yield from self.problems(schema, value)
                return
        yield Problem("Input should be one of the documented values", name)


def _under(name: str, problems: Iterator[Problem]) -> Iterator[Problem]:
    for message, field in problems:
        yield Problem(message, name if field is None else f"{name}.{field}")


def _of_type(schema: Schema, value: Any) -> Iterator[Problem]:
    name = schema["type"]
    # A bool is an int for Python and not for JSON; 1.0 is an integer for JSON and not for Python.
    is_mistaken_bool = isinstance(value, bool) and name in ("integer", "number")
    is_whole = name == "integer" and isinstance(value, float) and value.is_integer()
    if is_mistaken_bool or not (is_whole or isinstance(value, _TYPES[name])):
        yield Problem(f"Input should be a valid {name}")


def _of_enum(schema: Schema, value: Any) -> Iterator[Problem]:
    if value not in schema["enum"]:
        yield Problem(f"Input should be one of {', '.join(map(str, schema['enum']))}")


def _of_format(schema: Schema, value: Any) -> Iterator[Problem]:
    name = schema["format"]
    if not _FORMATS[name](value):
        yield Problem(f"Input should be in the format {name}")


def _of_length(schema: Schema, value: Any) -> Iterator[Problem]:
    if len(value) > schema["maxLength"]:
        yield Problem(f"String should have at most {schema['maxLength']} characters")


def _of_count(schema: Schema, value: Any) -> Iterator[Problem]:
    if len(value) > schema["maxItems"]:
        yield Problem(f"List should have at most {schema['maxItems']} items")


def _of_required(schema: Schema, value: Any) -> Iterator[Problem]:
    for name in schema["required"]:
        if name not in value:
            yield Problem("Field required", name)
