"""The sandbox without strict mode against Adapty's OpenAPI documents: the bodies it rejects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import aiohttp

from adapty_async.sandbox import Sandbox
from adapty_async.sandbox._rules import Invalid, Problem
from adapty_async.sandbox._service import Refusal
from adapty_async.sandbox._strict import Documents
from tests.contract.contract import Contract
from tests.contract.documents import Document
from tests.contract.test_openapi import each_operation

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


def places(document: Document, schema: dict[str, Any], path: Path = ()) -> Iterator[Path]:
    """Yield the places of a body that its schema describes."""
    schema = document.resolved(schema)
    yield path
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


def bodies(contract: Contract, operation: str) -> Iterator[tuple[str, str, Any]]:
    """Yield bodies that break the schema of an operation: the place, its value and the body."""
    [media] = contract.document.spec(operation)["requestBody"]["content"].values()
    for _, example in contract.document.request_examples(operation):
        known = problems(contract, operation, example)
        for place in places(contract.document, media["schema"]):
            for value in VALUES:
                body = changed(example, place, value)
                if problems(contract, operation, body) - known:
                    yield ".".join(map(str, place)), json.dumps(value), body


@each_operation
async def test_a_body_against_its_schema_is_rejected_but_for_what_the_pages_allow(
    contract: Contract, operation: str
) -> None:
    """Without strict mode, other types, words and formats of documented fields are rejected."""
    method, path, spec = contract.document.operations[operation]
    if "requestBody" not in spec:
        return
    async with Sandbox(export_rate=None) as sandbox, aiohttp.ClientSession() as session:
        sandbox.seed_profiles(["u1"])
        url = sandbox.url + path.format(paywall_id=sandbox.add_paywalls("Sale")[0])
        headers = {
            "Authorization": contract.authorization(sandbox),
            "adapty-customer-user-id": "u1",
            "Content-Type": contract.document.media_type(operation),
        }
        taken = set()
        for place, value, body in bodies(contract, operation):
            data = json.dumps(body)
            async with session.request(method, url, headers=headers, data=data) as response:
                words = re.findall(r"\w+", await response.text())
            is_json_api = response.content_type == "application/vnd.api+json"
            if response.status not in {400, 422} or not (is_json_api or INVALID & {*words}):
                taken.add((operation, place, value))

    assert taken == {one for one in TAKEN if one[0] == operation}
