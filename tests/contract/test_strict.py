"""The strict sandbox against Adapty's OpenAPI documents: bodies it takes, and methods it names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http import HTTPMethod
from typing import Any

import aiohttp
import pytest

from adapty_async.sandbox import Sandbox
from tests.contract.contract import Contract
from tests.contract.documents import DOCUMENTS
from tests.contract.test_openapi import each_document, each_operation

#: Keywords that the sandbox's validator checks.
CHECKED = {
    "$ref",
    "additionalProperties",
    "discriminator",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "nullable",
    "oneOf",
    "properties",
    "required",
    "type",
}
#: Keywords that its services check, with error codes of their own, and those that allow nothing.
OTHERS = {"anyOf", "minItems", "default", "example", "title"}

#: The error codes of a body that breaks its schema.
INVALID = {b"validation_error", b"base_error", b"parse_error"}


def keywords(name: str, schema: Any) -> Iterator[str]:
    """Yield the keywords of a schema and of the schemas in it."""
    schema = DOCUMENTS[name].resolved(schema)
    for keyword, value in schema.items():
        yield keyword
        if keyword == "properties":
            for inner in value.values():
                yield from keywords(name, inner)
        elif keyword in {"items", "additionalProperties"}:
            yield from keywords(name, value)
        elif keyword == "oneOf":
            for inner in value:
                yield from keywords(name, inner)


def bodies(name: str) -> Iterator[dict[str, Any]]:
    """Yield the schemas of the request bodies of a document."""
    for _, _, spec in DOCUMENTS[name].operations.values():
        for media in spec.get("requestBody", {}).get("content", {}).values():
            yield media["schema"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_keyword_of_a_body_is_known(name: str) -> None:
    """No rule of a document is passed over because the validator does not know its keyword."""
    found = {keyword for schema in bodies(name) for keyword in keywords(name, schema)}

    assert found <= CHECKED | OTHERS


async def ask(
    sandbox: Sandbox, contract: Contract, method: str, path: str, **options: Any
) -> tuple[int, str | None, bytes]:
    """Send a request with the right key; return the status, the `Allow` header and the body."""
    headers = {
        "Authorization": contract.authorization(sandbox),
        "adapty-customer-user-id": "u1",
        **options.pop("headers", {}),
    }
    url = sandbox.url + path.format(paywall_id=sandbox.add_paywalls("Sale")[0])
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, headers=headers, **options) as response,
    ):
        return response.status, response.headers.get("Allow"), await response.read()


@each_operation
async def test_a_body_that_breaks_its_schema_is_rejected(
    contract: Contract, operation: str
) -> None:
    """A strict sandbox rejects a body of the wrong type, with a status that the document has."""
    method, path, spec = contract.document.operations[operation]
    async with Sandbox(strict=True) as sandbox:
        sandbox.seed_profiles(["u1"])
        headers = {"Content-Type": contract.document.media_type(operation)}
        status, _, _ = await ask(sandbox, contract, method, path, headers=headers, data=b"[]")

    if "requestBody" not in spec:
        assert status < 300
    elif operation == "createProfile":  # its document has a 401 and a 500 alone, its pages a 400
        assert status == 400
    else:
        assert status in {400, 422}
        assert str(status) in spec["responses"]


@each_operation
async def test_the_example_of_a_document_is_accepted(contract: Contract, operation: str) -> None:
    """A strict sandbox does not reject a documented body for its schema."""
    method, path, _ = contract.document.operations[operation]
    headers = {"Content-Type": contract.document.media_type(operation)}
    async with Sandbox(strict=True) as sandbox:
        sandbox.seed_profiles(["u1"])
        for _, body in contract.document.request_examples(operation):
            data = json.dumps(body).encode()
            _, _, reply = await ask(sandbox, contract, method, path, headers=headers, data=data)
            is_valid = INVALID.isdisjoint(re.findall(rb"\w+", reply))
            assert is_valid == (operation not in contract.examples_against_schemas), reply


@each_document
async def test_a_405_names_the_documented_methods(contract: Contract) -> None:
    """For each path, the `Allow` header has the methods of the document."""
    async with Sandbox(export_rate=None) as sandbox:
        for path, methods in contract.document.content["paths"].items():
            allow = {method.upper() for method in methods}
            for method in {*HTTPMethod} - allow - {HTTPMethod.CONNECT}:
                found = await ask(sandbox, contract, method, path)
                assert found[:2] == (405, ", ".join(sorted(allow)))
