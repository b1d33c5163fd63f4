"""The sandbox against Adapty's own OpenAPI document: what it answers has the document's schemas."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import msgspec
import pytest
import yarl

from adapty_async import v2
from adapty_async._api.codec import RequestDefaults, encode
from adapty_async._api.operation import Headers, Operation
from adapty_async.sandbox import Sandbox
from tests.contract.test_openapi import CALLS, DOCUMENT, OPERATIONS, declared, resolved

#: The document knows no null for a setting, nor what it is before it is set.
NULL_UNTIL_SET = {"consent", "custom_preference"}


def misfits(name: str, schema: dict[str, Any], value: Any) -> Iterator[str]:
    """Yield where a value is not what its schema says."""
    schema = resolved(schema)
    if value is None and (schema.get("nullable") or name in NULL_UNTIL_SET):
        return
    if "oneOf" in schema:
        if all(list(misfits(name, one, value)) for one in schema["oneOf"]):
            yield f"{name} is none of several"
    elif schema["type"] == "object" and isinstance(value, dict):
        yield from object_misfits(name, schema, value)
    elif isinstance(value, list) and schema["type"] == "array":
        for one in value:
            yield from misfits(f"{name}[]", schema["items"], one)
    elif not fits(schema, value):
        yield f"{name} is {value!r}"


def object_misfits(name: str, schema: dict[str, Any], value: dict[str, Any]) -> Iterator[str]:
    """Yield which properties are missing, unknown or wrong."""
    properties: dict[str, Any] = schema.get("properties", {})
    extra = schema.get("additionalProperties")
    for one in schema.get("required", ()):
        if one not in value:
            yield f"{name}.{one} is missing"
    for one, inner in value.items():
        if one not in properties and extra is None:
            yield f"{name}.{one} is unknown"
        else:
            yield from misfits(one, properties.get(one) or extra or {}, inner)


def fits(schema: dict[str, Any], value: Any) -> bool:
    """Tell whether a plain value is of its type, its format and its words."""
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
    if schema.get("format") == "date-time":
        return dt.datetime.fromisoformat(value).tzinfo is not None
    return True


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Run a sandbox whose profile `u1` has something of everything."""
    async with Sandbox() as running:
        running.seed_profiles(["u1"])
        yield running


async def raw(sandbox: Sandbox, operation: Operation[Any]) -> tuple[int, Any]:
    """Send an operation, and return the status and the JSON of its answer."""
    headers = Headers(
        {"Authorization": f"Api-Key {sandbox.api_key}", "Content-Type": "application/json"}
    )
    request = encode(
        operation, RequestDefaults(origin=sandbox.url, headers=headers), timeout=5, total_timeout=5
    )
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            request.method,
            yarl.URL(request.url, encoded=True),
            data=request.body,
            headers=request.headers,
        ) as response,
    ):
        body = await response.read()
    return response.status, msgspec.json.decode(body) if body else None


async def filled(sandbox: Sandbox) -> str:
    """Give `u1` purchases, attributes and coins, and return a paywall's id."""
    trial = v2.Offer(category="introductory", type="free_trial", id="t")
    subscription = v2.SubscriptionPurchase(
        store="app_store",
        store_product_id="premium_monthly",
        store_transaction_id="9",
        store_original_transaction_id="9",
        price=v2.Price(country="US", currency="USD", value=0),
        purchased_at="2024-01-15T10:30:00Z",
        originally_purchased_at="2024-01-15T10:30:00Z",
        expires_at="2999-02-15T10:30:00Z",
        renew_status=False,
        offer=trial,
    )
    coins = v2.VirtualCurrencyBalanceAdjustment(currency_code="COINS", amount=5)
    ids: dict[str, Any] = {"customer_user_id": "u1"}
    for operation in (
        v2.update_profile(v2.ProfileAttributes(custom_attributes={"a": "x", "b": 1}), **ids),
        v2.set_transaction(subscription, **ids),
        v2.create_virtual_currency_transaction([coins], metadata={"a": "b"}, **ids),
        v2.create_virtual_currency_transaction([coins], **ids),
        CALLS["setTransaction"](**ids),
    ):
        status, _ = await raw(sandbox, operation)
        assert status == 200
    return sandbox.add_paywalls("Sale")[0]


@pytest.mark.parametrize("name", OPERATIONS)
async def test_the_sandbox_answers_as_the_document_says(sandbox: Sandbox, name: str) -> None:
    """Status and body of every operation's success are the documented ones."""
    paywall_id = await filled(sandbox)
    responses = OPERATIONS[name][2]["responses"]
    [documented] = [status for status in responses if status.startswith("2")]
    operation: Operation[Any]
    if declared(name, "path"):
        paywalls: dict[str, Operation[Any]] = {
            "getPaywall": v2.get_paywall(paywall_id),
            "updatePaywall": v2.update_paywall(paywall_id, [v2.RemoteConfig.of("en", 1)]),
        }
        operation = paywalls[name]
    elif name == "listVirtualCurrencyTransactions":
        operation = v2.list_virtual_currency_transactions(limit=1, customer_user_id="u1")
    else:
        about = "adapty-profile-id" in declared(name, "header")
        operation = CALLS[name](**({"customer_user_id": "u1"} if about else {}))
    status, body = await raw(sandbox, operation)

    assert str(status) == documented
    content = responses[documented].get("content")
    if content is None:
        assert body is None
    else:
        [media] = content.values()
        assert list(misfits("body", media["schema"], body)) == []


def test_the_document_is_read() -> None:
    """The schemas that are compared with are there."""
    assert len(DOCUMENT["components"]["schemas"]) > 40
