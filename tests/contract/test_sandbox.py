"""The sandbox against Adapty's OpenAPI documents: its responses have the documents' schemas."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import aiohttp
import msgspec
import pytest
import yarl

from adapty_async._api.call import Headers, Operation
from adapty_async._api.codec import RequestDefaults, encode
from adapty_async.sandbox import Sandbox
from tests.contract.contract import Contract
from tests.contract.structs import without_null
from tests.contract.test_openapi import each_operation


class Comparison:
    """A comparison of JSON values with the schemas of one contract."""

    def __init__(self, contract: Contract) -> None:
        self._resolved = contract.document.resolved
        self._null_until_set = contract.null_until_set

    def mismatches(self, name: str, schema: dict[str, Any], value: Any) -> Iterator[str]:
        """Yield the places where a value does not fit its schema."""
        schema = without_null(self._resolved(schema))
        if value is None and (schema.get("nullable") or name in self._null_until_set):
            return
        if "oneOf" in schema:
            if all(list(self.mismatches(name, one, value)) for one in schema["oneOf"]):
                yield f"{name} is none of several"
        elif schema["type"] == "object" and isinstance(value, dict):
            yield from self._of_object(name, schema, value)
        elif isinstance(value, list) and schema["type"] == "array":
            for one in value:
                yield from self.mismatches(f"{name}[]", schema["items"], one)
        elif not fits(schema, value):
            yield f"{name} is {value!r}"

    def _of_object(self, name: str, schema: dict[str, Any], value: dict[str, Any]) -> Iterator[str]:
        properties: dict[str, Any] = schema.get("properties", {})
        extra = schema.get("additionalProperties", None if properties else True)
        for one in schema.get("required", ()):
            if one not in value:
                yield f"{name}.{one} is missing"
        for one, inner in value.items():
            if one in properties:
                yield from self.mismatches(one, properties[one], inner)
            elif extra is None:
                yield f"{name}.{one} is unknown"
            elif isinstance(extra, dict) and extra:
                yield from self.mismatches(one, extra, inner)


def fits(schema: dict[str, Any], value: Any) -> bool:
    """Return whether a plain value has the type, the format and the words of its schema."""
    kinds: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "number": (int, float),
        "integer": int,
        "boolean": bool,
    }
    if not isinstance(value, kinds[schema["type"]]) or value not in schema.get("enum", [value]):
        return False
    if schema.get("format") == "uuid":
        return bool(str(UUID(value)) == value)
    if schema.get("format") == "date-time":
        return dt.datetime.fromisoformat(value).tzinfo is not None
    return True


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Run a sandbox with the profile `u1`."""
    async with Sandbox() as running:
        running.seed_profiles(["u1"])
        yield running


async def raw(
    contract: Contract, sandbox: Sandbox, *operations: Operation[Any]
) -> list[tuple[int, str, bytes]]:
    """Send operations, and return the status, the media type and the body of each response."""
    authorization = contract.authorization(sandbox)
    headers = Headers({"Authorization": authorization, "Content-Type": "application/json"})
    defaults = RequestDefaults(origin=sandbox.url, headers=headers, public_headers=headers)
    responses = []
    async with aiohttp.ClientSession() as session:
        for operation in operations:
            request = encode(operation, defaults, timeout=5, total_timeout=5)
            async with session.request(
                request.method,
                yarl.URL(request.url, encoded=True),
                data=request.body,
                headers=request.headers,
            ) as response:
                body = await response.read()
            responses.append((response.status, response.content_type, body))
    return responses


@each_operation
async def test_the_sandbox_responds_as_the_document_says(
    sandbox: Sandbox, contract: Contract, operation: str
) -> None:
    """Status and body of every operation's success are the documented ones."""
    responses = contract.document.spec(operation)["responses"]
    [documented] = [status for status in responses if status.startswith("2")]
    paywall_id = sandbox.add_paywalls("Sale")[0]
    ids = {"customer_user_id": "u1"} if contract.takes_identity(operation) else {}
    call = (
        contract.sandbox[operation](paywall_id)
        if operation in contract.sandbox
        else contract.calls[operation](**ids)
    )
    *filled, (status, media_type, body) = await raw(contract, sandbox, *contract.filling, call)

    assert all(before < 300 for before, _, _ in filled)
    assert str(status) == documented
    content = responses[documented].get("content")
    if not body:  # two documents describe an empty body as an object
        assert content is None or "properties" not in content["application/json"]["schema"]
    else:
        schema = content[media_type]["schema"]
        value = msgspec.json.decode(body)
        assert list(Comparison(contract).mismatches("body", schema, value)) == []
