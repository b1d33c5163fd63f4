"""The sandbox without strict mode against Adapty's OpenAPI documents: the bodies it takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from adapty_async.sandbox import Sandbox
from adapty_async.sandbox._rules import Invalid, Problem
from adapty_async.sandbox._service import Refusal
from adapty_async.sandbox._strict import Documents
from tests.contract.contract import Contract
from tests.contract.contracts import CONTRACTS
from tests.contract.documents import Document

Path = tuple[str | int, ...]

#: The bodies against their schema that are taken, by operation, field and value.
TAKEN = {
    # Null is no identifier; one of the three is required.
    *(
        ("deleteProfile", name, "null")
        for name in ("external_profile_id", "customer_user_id", "email")
    ),
    # The pages require neither a device nor a body. A table of theirs has an object of attributes;
    # null deletes an attribute, and a boolean becomes a number.
    *(
        (operation, field, value)
        for operation in ("createProfile", "updateProfile")
        for field, value in (
            ("", '{"zzz": "zzz"}'),
            ("", "no installation_meta"),
            ("installation_meta", "null"),
            ("custom_attributes", "null"),
            ("custom_attributes", '{"zzz": "zzz"}'),
            ("custom_attributes.0.value", "null"),
            ("custom_attributes.0.value", "true"),
        )
    ),
}
#: The codes of a body that breaks a rule of one field.
INVALID = frozenset({"validation_error", "base_error", "parse_error", "datetime", "enum"})
DOCUMENTS = Documents()
VALUES: tuple[Any, ...] = (None, True, 7, 1.5, "zzz", [], {"zzz": "zzz"})


def places(
    document: Document, schema: dict[str, Any], path: Path = ()
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the places of a body that its schema describes, with their schemas."""
    schema = document.resolved(schema)
    yield path, schema
    for one in schema.get("oneOf", ()):
        yield from places(document, one, path)
    for name, inner in schema.get("properties", {}).items():
        yield from places(document, inner, (*path, name))
    if "items" in schema:
        yield from places(document, schema["items"], (*path, 0))


def changed(body: Any, path: Path, value: Any) -> Any:
    """Return the body with that value at a place, if it has the object or list around it."""
    if not path:
        return value
    if isinstance(path[0], int):
        return [changed(body[0] if body else None, path[1:], value)]
    around = body if isinstance(body, dict) else {}
    return {**around, path[0]: changed(around.get(path[0]), path[1:], value)}


def problems(contract: Contract, operation: str, body: Any) -> set[Problem]:
    """Return how a body breaks the schema of an operation."""
    method, path, _ = contract.document.operations[operation]
    try:
        DOCUMENTS.check(method, path, json.dumps(body).encode())
    except (Invalid, Refusal) as error:
        return set(error.problems)
    return set()


def sample(document: Document, schema: dict[str, Any]) -> Any:
    """Return the example of a schema, or a value with the required properties alone."""
    schema = document.resolved(schema)
    if "oneOf" in schema:
        return sample(document, schema["oneOf"][0])
    if schema["type"] == "object":
        required = schema.get("required", ())
        return {name: sample(document, schema["properties"][name]) for name in required}
    if schema["type"] == "array":
        return [sample(document, schema["items"])]
    defaults = {"string": "USD", "number": 0, "integer": 1, "boolean": True}
    value = schema.get("example", defaults[schema["type"]])
    if schema.get("format") == "date-time":
        value = "2026-01-01T00:00:00Z"
    return schema.get("enum", [value])[0]


def found_in(body: Any, path: Path) -> Any:
    """Return what a body has at a place; `None` if it has nothing there."""
    for name in path:
        try:
            body = body[name]
        except (KeyError, IndexError, TypeError):
            return None
    return body


def values(document: Document, schema: dict[str, Any], known: Any) -> Iterator[tuple[str, Any]]:
    """Yield values for a place with their names: of each type, and without a required property."""
    for value in VALUES:
        yield json.dumps(value), value
    for name in schema.get("required", ()):
        whole = known if isinstance(known, dict) else sample(document, schema)
        yield f"no {name}", {one: value for one, value in whole.items() if one != name}


def bodies(contract: Contract, operation: str) -> Iterator[tuple[str, str, Any]]:
    """Yield bodies that break the schema of an operation: the place, its value and the body."""
    [media] = contract.document.spec(operation)["requestBody"]["content"].values()
    for _, example in contract.document.request_examples(operation):
        known = problems(contract, operation, example)
        for place, schema in places(contract.document, media["schema"]):
            here = found_in(example, place)
            for name, value in values(contract.document, schema, here):
                body = changed(example, place, value)
                if problems(contract, operation, body) - known:
                    yield ".".join(map(str, place)), name, body


def words(contract: Contract, operation: str) -> Iterator[tuple[str, str, Any]]:
    """Yield bodies with each documented word, and with each null, with the place and the value."""
    [media] = contract.document.spec(operation)["requestBody"]["content"].values()
    for _, example in contract.document.request_examples(operation):
        known = problems(contract, operation, example)
        for place, schema in places(contract.document, media["schema"]):
            null = [None] if schema.get("nullable") else []
            for value in (*schema.get("enum", ()), *null):
                body = changed(example, place, value)
                if not problems(contract, operation, body) - known:
                    yield ".".join(map(str, place)), json.dumps(value), body


async def rejected(
    contract: Contract, operation: str, sent: Iterator[tuple[str, str, Any]]
) -> list[tuple[str, str, bool]]:
    """Send bodies; return the place and value of each, and whether a sandbox rejects the field."""
    method, path, _ = contract.document.operations[operation]
    async with Sandbox(export_rate=None) as sandbox, aiohttp.ClientSession() as session:
        sandbox.seed_profiles(["u1"])
        url = sandbox.url + path.format(paywall_id=sandbox.add_paywalls("Sale")[0])
        headers = {
            "Authorization": contract.authorization(sandbox),
            "adapty-customer-user-id": "u1",
            "Content-Type": contract.document.media_type(operation),
        }
        found = []
        for place, value, body in sent:
            data = json.dumps(body)
            async with session.request(method, url, headers=headers, data=data) as response:
                text = await response.text()
            # A rule between fields has a code of its own; the errors of Stripe have none.
            is_stripe = "no such purchase" not in text and '"detail"' in text
            is_invalid = is_stripe or not INVALID.isdisjoint(re.findall(r"\w+", text))
            found.append((place, value, is_invalid))
        return found


with_body = pytest.mark.parametrize(
    ("contract", "operation"),
    [
        pytest.param(contract, operation, id=f"{name}-{operation}")
        for name, contract in CONTRACTS.items()
        for operation, (_, _, spec) in contract.document.operations.items()
        if "requestBody" in spec
    ],
)


@with_body
async def test_a_body_against_its_schema_is_rejected_but_for_what_the_pages_allow(
    contract: Contract, operation: str
) -> None:
    """Without strict mode, other types, words and formats of documented fields are rejected."""
    found = await rejected(contract, operation, bodies(contract, operation))

    taken = {(operation, *one) for *one, is_rejected in found if not is_rejected}
    assert taken == {one for one in TAKEN if one[0] == operation}


@with_body
async def test_every_documented_word_and_null_is_taken(contract: Contract, operation: str) -> None:
    """Without strict mode, no word of an enumeration is rejected, and no null of a schema."""
    found = await rejected(contract, operation, words(contract, operation))

    assert [one for *one, is_rejected in found if is_rejected] == []
