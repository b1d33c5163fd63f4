"""A table of what the library has for one of Adapty's OpenAPI documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from types import ModuleType
from typing import Any

import msgspec

from adapty_async._api.call import Endpoint, Operation
from adapty_async.errors import (
    ApiError,
    AuthenticationError,
    ConflictError,
    NotFoundError,
    RateLimitError,
    RequestRejectedError,
    ServerError,
)
from adapty_async.sandbox import Sandbox
from tests.contract.documents import DOCUMENTS, Document

Struct = type[msgspec.Struct]

#: The error of a documented status whose response has no code.
STATUSES: dict[int, type[ApiError]] = {
    400: RequestRejectedError,
    401: AuthenticationError,
    403: AuthenticationError,
    404: NotFoundError,
    409: ConflictError,
    422: RequestRejectedError,
    429: RateLimitError,
    500: ServerError,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contract:
    """
    A row for one document: the document and the parts of the library that it describes.

    Attributes:
        name: the document's name in `DOCUMENTS`.
        module: the module whose `__all__` has the endpoint definitions.
        calls: an operation of each `operationId`, with every parameter that it can carry. If the
            document declares the identity headers, the callable takes them as keywords.
        requests: the structs of schemas that are sent, by schema.
        responses: the structs of schemas that are received, by schema.
        parts: schemas that are walked as properties of those.
        elsewhere: schemas without a struct, each with the reason.
        builders: the operation of each documented request body, by `operationId`.
        limited: an operation at each documented limit, by its place in the document.
        error_kinds: the error of each documented status and code.
        error_kinds_on_pages_only: the codes that no document has.
        statuses: the error of a documented status without a code.
        defects: the known defects of the document, each with a check that it is still there.
        undeclared: headers that a call carries although the document does not declare them.
        optional: required properties that may be left out: schema and property.
        takes_null: fields that take null although their schema does not: struct and field.
        breaks_a_rule: documented bodies that break a documented rule: operation and example, with
            the field at fault.
        not_in_the_struct: values of examples that their schema does not have: operation, struct,
            field.
        examples_against_schemas: operations with a documented body that breaks its own schema.
        beyond: fields of requests that their schema does not have: struct and field.
        authorization: the `Authorization` header that a sandbox accepts.
        filling: operations that give a sandbox with the profile `u1` something to show.
        sandbox: the operation of each `operationId` that a filled sandbox carries out, if not the
            one in `calls`; the callable takes the id of a paywall.
        null_until_set: properties that the sandbox shows as null against their schema.

    """

    name: str
    module: ModuleType
    calls: Mapping[str, Callable[..., Operation[Any]]]
    requests: Mapping[str, Struct]
    responses: Mapping[str, Struct]
    parts: frozenset[str]
    elsewhere: Mapping[str, str]
    builders: Mapping[str, Callable[[Any], Operation[Any]]]
    error_kinds: Mapping[tuple[int, str], type[ApiError]]
    statuses: Mapping[int, type[ApiError]]
    authorization: Callable[[Sandbox], str]
    filling: tuple[Operation[Any], ...] = ()
    limited: Mapping[str, Callable[[int], Operation[Any]]] = dataclasses.field(default_factory=dict)
    error_kinds_on_pages_only: frozenset[tuple[int, str]] = frozenset()
    defects: Mapping[str, Callable[[], bool]] = dataclasses.field(default_factory=dict)
    undeclared: Mapping[str, set[str]] = dataclasses.field(default_factory=dict)
    optional: frozenset[tuple[str, str]] = frozenset()
    takes_null: frozenset[tuple[str, str]] = frozenset()
    breaks_a_rule: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    not_in_the_struct: frozenset[tuple[str, str, str]] = frozenset()
    examples_against_schemas: frozenset[str] = frozenset()
    beyond: frozenset[tuple[str, str]] = frozenset()
    sandbox: Mapping[str, Callable[[str], Operation[Any]]] = dataclasses.field(default_factory=dict)
    null_until_set: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"Contract({self.name})"

    @property
    def document(self) -> Document:
        """The document itself."""
        return DOCUMENTS[self.name]

    @cached_property
    def endpoints(self) -> dict[str, Endpoint[Any]]:
        """The endpoint definitions by `operationId`, which their `docs` link ends with."""
        return {
            endpoint.docs.rpartition("/")[2]: endpoint
            for name in self.module.__all__
            if isinstance(endpoint := getattr(self.module, name), Endpoint)
        }

    def takes_identity(self, operation: str) -> bool:
        """Return whether headers identify the profile of an operation."""
        return "adapty-profile-id" in self.document.declared(operation, "header")


def built(body: Mapping[str, Any], built_of: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """Return an example's values as a caller writes them; `built_of` has the nested ones."""
    return {
        name: built_of[name](value) if name in built_of else value for name, value in body.items()
    }
