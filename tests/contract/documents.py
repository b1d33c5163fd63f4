"""
Adapty's OpenAPI documents: what they state of each operation, without their prose.

The four files in the sandbox's folder ``documents`` are condensed from the documents that Adapty
publishes: paths, parameters, schemas, limits and example values, no descriptions. `main()` writes
them again from the originals::

    python -m tests.contract.documents FOLDER

With the environment variable ``ADAPTY_OPENAPI``, a folder, the contract tests read the originals.
The originals are ``server-side-api-v2.yaml``, ``mail-api.yaml``, ``web-api.yaml`` and
``export-analytics-api.yaml``; reading them needs PyYAML, of the group ``dev``.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import adapty_async.sandbox

#: The documents by name: each name is also the stem of its file.
NAMES = ("server-side-api-v2", "mail-api", "web-api", "export-analytics-api")
FOLDER = Path(adapty_async.sandbox.__file__).with_name("documents")
_PROSE = frozenset({"description", "summary", "tags"})
# Below these keys of a schema or a component stand names, which may be words of prose.
_NAMED = frozenset({"properties", "schemas", "paths", "responses", "content", "securitySchemes"})
_VALUES = frozenset({"example", "examples", "default", "enum"})
_CODE = re.compile(r"`([a-z]+(?:_[a-z]+)+)`")


class Document:
    """One OpenAPI document: its operations by id, its schemas and its examples."""

    def __init__(self, name: str, content: dict[str, Any]) -> None:
        self.name = name
        self.content = content
        self.schemas: dict[str, Any] = content["components"]["schemas"]

    def __repr__(self) -> str:
        return f"Document({self.name})"

    @cached_property
    def operations(self) -> dict[str, tuple[str, str, dict[str, Any]]]:
        """The method, the path and the description of each operation, by its id."""
        return {
            spec["operationId"]: (method.upper(), path, spec)
            for path, methods in self.content["paths"].items()
            for method, spec in methods.items()
        }

    def spec(self, operation: str) -> dict[str, Any]:
        """Return what the document says of an operation."""
        return self.operations[operation][2]

    def resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Follow references, also those in an allOf of one, and keep their sibling keys."""
        beside = {key: value for key, value in schema.items() if key not in {"$ref", "allOf"}}
        if "$ref" in schema:
            return {**self.resolved(self.schemas[schema["$ref"].rpartition("/")[2]]), **beside}
        if "allOf" in schema:
            [only] = schema["allOf"]
            return {**self.resolved(only), **beside}
        return schema

    def declared(self, operation: str, place: str) -> set[str]:
        """Return the names of an operation's parameters in the header, the query or the path."""
        parameters = self.spec(operation).get("parameters", ())
        return {one["name"] for one in parameters if one["in"] == place}

    def media_type(self, operation: str) -> str:
        """Return the media type of an operation's body."""
        [media_type] = (
            self.spec(operation).get("requestBody", {}).get("content", ["application/json"])
        )
        return str(media_type)

    def _examples_of(self, content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield the examples of a body, by name, its schema's own one included."""
        for media in content.values():
            if "example" in media:
                yield "example", media["example"]
            for name, example in media.get("examples", {}).items():
                yield name, example["value"]
            if "example" in (schema := self.resolved(media["schema"])):
                yield "schema", schema["example"]

    def request_examples(self, operation: str) -> Iterator[tuple[str, Any]]:
        """Yield the documented bodies of a request."""
        yield from self._examples_of(self.spec(operation).get("requestBody", {}).get("content", {}))

    def response_examples(self, operation: str) -> Iterator[tuple[str, Any]]:
        """Yield the documented bodies of a success, but for those that are not JSON."""
        for status, response in self.spec(operation)["responses"].items():
            if status.startswith("2"):
                content = response.get("content", {})
                yield from self._examples_of(
                    {media: one for media, one in content.items() if media != "text/csv"}
                )

    def error_examples(self) -> Iterator[tuple[str, int, Any]]:
        """Yield the documented bodies of failures, with operation and status."""
        for operation, (_, _, spec) in self.operations.items():
            for status, response in spec["responses"].items():
                if not status.startswith("2"):
                    for _, body in self._examples_of(response.get("content", {})):
                        yield operation, int(status), body

    def error_codes(self, operation: str) -> Iterator[tuple[int, str]]:
        """Yield statuses and codes of an operation's failures, from examples and descriptions."""
        for status, response in self.spec(operation)["responses"].items():
            if not status.startswith("2"):
                for _, body in self._examples_of(response.get("content", {})):
                    yield from ((int(status), code) for code in _codes_in(body))
                yield from ((int(status), code) for code in response.get("x-error-codes", ()))


def _codes_in(body: Any) -> Iterator[str]:
    if "error_code" in body:
        yield body["error_code"]
    for error in body.get("errors", ()):
        if isinstance(error, dict) and "error_code" in error:
            yield error["error_code"]


def condensed(node: Any) -> Any:
    """Return a part of a document without its prose."""
    if isinstance(node, list):
        return [condensed(one) for one in node]
    if not isinstance(node, dict):
        return node
    kept: dict[str, Any] = {}
    for key, value in node.items():
        if key in _VALUES:
            kept[key] = _without_prose(value)
        elif key in _NAMED and isinstance(value, dict):
            kept[key] = {
                name: _response(one) if key == "responses" else condensed(one)
                for name, one in value.items()
            }
        elif key not in _PROSE:
            kept[key] = condensed(value)
    return kept


def _response(response: dict[str, Any]) -> dict[str, Any]:
    # OpenAPI requires the description of a response. Some codes stand in its text alone.
    words = _CODE.findall(response["description"])
    codes = [word for word in words if word != "error_code"] if "error_code" in words else []
    return {
        "description": "",
        **({"x-error-codes": codes} if codes else {}),
        **condensed(response),
    }


def _without_prose(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_prose(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: "" if name == "description" else _without_prose(one)
        for name, one in value.items()
        if name != "summary"
    }


def original(folder: Path, name: str) -> dict[str, Any]:
    """Return Adapty's own document of that name, condensed."""
    import yaml

    content = yaml.safe_load((folder / f"{name}.yaml").read_text("utf-8"))
    as_json: dict[str, Any] = json.loads(json.dumps(condensed(content)))
    return as_json


def shipped(name: str) -> dict[str, Any]:
    """Return the condensed document of that name."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return content


def _read(name: str) -> Document:
    originals = os.environ.get("ADAPTY_OPENAPI")
    return Document(name, original(Path(originals), name) if originals else shipped(name))


#: The four documents, by name.
DOCUMENTS = {name: _read(name) for name in NAMES}


def main() -> None:
    """Write the condensed documents again, from a folder with the originals."""
    for name in NAMES:
        text = json.dumps(original(Path(sys.argv[1]), name), indent=1, ensure_ascii=False)
        (FOLDER / f"{name}.json").write_text(f"{text}\n", "utf-8")


if __name__ == "__main__":
    main()
