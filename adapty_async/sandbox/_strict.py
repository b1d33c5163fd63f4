"""
Strict mode: request bodies are held to the schemas of Adapty's OpenAPI documents.

The folder ``documents`` has what they state, without their prose. Adapty publishes none for
version 1 of the server-side API.
"""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ._rules import Invalid
from ._schema import Validator
from ._service import Refusal, decoded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FOLDER = Path(__file__).with_name("documents")


class _Body(NamedTuple):
    """The schema of an operation's body; `status` is the one of a body that breaks it."""

    path: re.Pattern[str]
    validator: Validator
    schema: Mapping[str, Any]
    status: int


class Documents:
    """The request bodies that OpenAPI documents describe, by method and path."""

    def __init__(self) -> None:
        """Read the OpenAPI documents."""
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
