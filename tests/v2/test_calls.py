"""The calls of version 2: their requests, identities and retry safety."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapty_async import v2
from adapty_async._api.call import Endpoint, Operation, RetrySafety
from adapty_async.errors import InvalidInputError
from adapty_async.testing import FakeTransport
from tests import typing
from tests.v2.samples import ABOUT_PROFILES, CALLS, KEY, ORIGIN, PAYWALL, client, success

API = "/api/v2/server-side-api"
ROWS = {
    row.name.removeprefix("v2."): row
    for name in v2.__all__
    if isinstance(row := getattr(v2, name), Endpoint)
}
KEYED = "0b7c5a3e-0000-4000-8000-000000000000"

SENT: dict[str, tuple[str, str, Any, dict[str, str]]] = {
    # method, target, body, headers beside the identity
    "profiles.create": (
        "POST",
        f"{API}/profile/",
        {"email": None},
        {"adapty-platform": "iOS"},
    ),
    "profiles.get": ("GET", f"{API}/profile/", None, {}),
    "profiles.update": (
        "PATCH",
        f"{API}/profile/",
        {"email": None},
        {"adapty-platform": "web"},
    ),
    "profiles.delete": ("DELETE", f"{API}/profile/", None, {}),
    "transactions.set": (
        "POST",
        f"{API}/purchase/set/transaction/",
        {
            "purchase_type": "one_time_purchase",
            "store": "app_store",
            "store_product_id": "premium_lifetime",
            "store_transaction_id": "1000",
            "store_original_transaction_id": "1000",
            "price": {"country": "US", "currency": "USD", "value": 9.99},
            "purchased_at": "2024-01-15T10:30:00Z",
        },
        {},
    ),
    "access_levels.grant": (
        "POST",
        f"{API}/purchase/profile/grant/access-level/",
        {"access_level_id": "premium", "starts_at": None, "expires_at": "2030-01-01T00:00:00Z"},
        {},
    ),
    "access_levels.revoke": (
        "POST",
        f"{API}/purchase/profile/revoke/access-level/",
        {"access_level_id": "premium"},
        {},
    ),
    "refund_saver.get": ("GET", f"{API}/purchase/profile/refund-saver/settings/", None, {}),
    "refund_saver.set": (
        "POST",
        f"{API}/purchase/profile/refund-saver/settings/",
        {"custom_preference": "grant", "consent": None},
        {},
    ),
    "purchases.validate_stripe": (
        "POST",
        "/api/v1/sdk/purchase/stripe/token/validate/",
        {
            "data": {
                "type": "stripe_receipt_validation_result",
                "attributes": {"customer_user_id": "u1", "stripe_token": "sub_1"},
            }
        },
        {"Content-Type": "application/vnd.api+json"},
    ),
    "purchases.validate_paddle": (
        "POST",
        f"{API}/purchase/paddle/token/validate/",
        {"customer_user_id": "u1", "paddle_token": "txn_1"},
        {},
    ),
    "integrations.get": (
        "GET",
        f"{API}/integration/profile/set/integration-identifiers/",
        None,
        {},
    ),
    "integrations.set": (
        "POST",
        f"{API}/integration/profile/set/integration-identifiers/",
        {"branch_id": "b", "appsflyer_id": None},
        {},
    ),
    "paywalls.list": (
        "GET",
        f"{API}/paywalls/?page%5Bnumber%5D=2&page%5Bsize%5D=5",
        None,
        {},
    ),
    "paywalls.get": ("GET", f"{API}/paywalls/{PAYWALL}/", None, {}),
    "paywalls.update": (
        "PUT",
        f"{API}/paywalls/{PAYWALL}/",
        {"remote_configs": [{"locale": "en", "data": '{"title":"Hé"}'}]},
        {},
    ),
    "virtual_currencies.create_transaction": (
        "POST",
        f"{API}/vc/transactions/",
        {"items": [{"currency_code": "COINS", "amount": -5}], "metadata": {"reason": "spent"}},
        {"Idempotency-Key": KEYED},
    ),
    "virtual_currencies.list_transactions": (
        "GET",
        f"{API}/vc/transactions/?currency_code=A%26B&cursor=x%3D&limit=7",
        None,
        {},
    ),
    "virtual_currencies.list_balances": ("GET", f"{API}/vc/balances/", None, {}),
}


def test_every_call_has_a_row_and_every_row_a_call() -> None:
    """There are 19 calls, each with one row, one sample, and a page that documents it."""
    assert ROWS.keys() == CALLS.keys() == SENT.keys()
    assert len(ROWS) == 19
    pages = {row.docs for row in ROWS.values()}
    assert len(pages) == 19
    assert all(one.startswith("https://adapty.io/docs/api-adapty/operations/") for one in pages)


@pytest.mark.parametrize("call", CALLS)
async def test_each_call_is_one_request(call: str) -> None:
    """A call has its method, path, query, body and media type, the key and its profile's id."""
    method, target, body, headers = SENT[call]
    transport = FakeTransport([success(call)])
    await CALLS[call](client(transport).v2)

    [request] = transport.requests
    about = {"adapty-customer-user-id": "u1"} if call in ABOUT_PROFILES else {}
    assert (request.method, request.url) == (method, ORIGIN + target)
    assert request.operation == f"v2.{call}"
    assert (request.body and json.loads(request.body)) == body
    assert dict(request.headers) == {
        "Authorization": f"Api-Key {KEY}",
        "Content-Type": "application/json",
        "User-Agent": request.headers["User-Agent"],
        **about,
        **headers,
    }


REPEATED = {
    # what is not Replay.ALWAYS
    "profiles.create": RetrySafety.IF_UNSENT,
    "purchases.validate_stripe": RetrySafety.IF_UNSENT,
    "purchases.validate_paddle": RetrySafety.IF_UNSENT,
    "virtual_currencies.create_transaction": RetrySafety.WITH_KEY,
}


@pytest.mark.parametrize("call", ROWS)
def test_a_row_has_its_retry_safety(call: str) -> None:
    """A call that may create twice is not safe to retry, and only a deletion deletes."""
    row = ROWS[call]

    assert row.retry_safety is REPEATED.get(call, RetrySafety.ALWAYS)
    assert row.is_deletion == (call == "profiles.delete")


@pytest.mark.parametrize("call", ROWS)
def test_only_what_reads_is_absent_without_its_object(call: str) -> None:
    """A read of one object says so in its row; a list has no object that could be missing."""
    row = ROWS[call]

    assert row.absent_if_missing == (row.method == "GET" and call != "paywalls.list")


@pytest.mark.parametrize("call", ABOUT_PROFILES)
@pytest.mark.parametrize(
    ("ids", "header"),
    [
        ({"customer_user_id": "u1"}, ("adapty-customer-user-id", "u1")),
        ({"profile_id": "p1"}, ("adapty-profile-id", "p1")),
    ],
    ids=["customer_user_id", "profile_id"],
)
def test_an_operation_carries_its_identity(
    call: str, ids: dict[str, str], header: tuple[str, str]
) -> None:
    """Either id travels in the header of its kind."""
    assert ABOUT_PROFILES[call](**ids).headers == (header,)


@pytest.mark.parametrize("call", ABOUT_PROFILES)
@pytest.mark.parametrize(
    "ids", [{}, {"customer_user_id": None}, {"customer_user_id": "u", "profile_id": "p"}], ids=str
)
def test_exactly_one_identity_is_needed(call: str, ids: dict[str, Any]) -> None:
    """None of the ids is rejected everywhere, two of them by all calls but the creation."""
    if call == "profiles.create" and len(ids) == 2:
        assert len(ABOUT_PROFILES[call](**ids).headers) == 2
        return
    number = "at least" if call == "profiles.create" else "exactly"
    rule = f"^customer_user_id: {number} one of customer_user_id and profile_id is required$"
    with pytest.raises(InvalidInputError, match=rule):
        ABOUT_PROFILES[call](**ids)


STRUCTS: dict[str, tuple[Callable[..., Operation[Any]], str]] = {
    "create": (v2.create_profile, r"^attributes: must be a v2.ProfileAttributes$"),
    "update": (v2.update_profile, r"^attributes: must be a v2.ProfileAttributes$"),
    "transaction": (
        v2.set_transaction,
        r"^transaction: must be a OneTimePurchase or SubscriptionPurchase$",
    ),
    "identifiers": (v2.set_integration_identifiers, r"^identifiers: must be a v2.IntegrationId"),
}


@pytest.mark.parametrize("body", [{"email": "a@b"}, "email", 0], ids=["dict", "str", "zero"])
@pytest.mark.parametrize(("describe", "message"), STRUCTS.values(), ids=STRUCTS)
def test_a_body_is_a_struct(describe: Callable[..., Any], message: str, body: Any) -> None:
    """A dict could hold unchecked values, so only the struct is taken."""
    with pytest.raises(InvalidInputError, match=message):
        describe(body, customer_user_id="u1")


def test_an_id_or_platform_that_cannot_be_sent_is_named() -> None:
    """Headers are checked by the argument's name, not the header's."""
    transport = FakeTransport()
    calls: dict[str, Operation[Any]] = {
        "profile_id": v2.get_profile(profile_id=" p"),
        "platform": v2.create_profile(customer_user_id="u", platform="i\nOS"),  # type: ignore[arg-type]
        "idempotency_key": v2.create_virtual_currency_transaction(
            [], customer_user_id="u", idempotency_key=" "
        ),
    }
    api = client(transport, validate=False)

    for field, operation in calls.items():
        with pytest.raises(InvalidInputError, match=f"^{field}: must not"):
            api._executor._encode(operation)


@pytest.mark.parametrize("paywall_id", ["", ".", "..", "a/b", "a?b", "ä", 1, None], ids=repr)
def test_a_paywalls_id_stays_in_its_place(paywall_id: Any) -> None:
    """What could change the path is no id of a paywall."""
    for describe in (v2.get_paywall, lambda one: v2.update_paywall(one, [])):
        with pytest.raises(InvalidInputError, match=r"^paywall_id: must"):
            describe(paywall_id)


def test_every_method_says_where_it_is_documented() -> None:
    """The docstring of each method that calls one row names that row's page."""
    api = client(FakeTransport()).v2
    for call, row in ROWS.items():
        resource, _, method = call.partition(".")
        text = inspect.getdoc(getattr(getattr(api, resource), method))
        assert f"Source: {row.docs}" in (text or "")


def test_type_checkers_see_every_call() -> None:
    """Each method, bulk or not, and each function that describes a call has its typing test."""
    shown = Path(typing.__path__[0], "api.py").read_text("utf-8")
    methods = {
        f"api.{resource}.{name}("
        for resource, calls in vars(client(FakeTransport()).v2).items()
        for name, method in inspect.getmembers(calls, inspect.ismethod)
        if not name.startswith("_")
    }
    functions = {f"v2.{name}(" for name in v2.__all__ if inspect.isfunction(getattr(v2, name))}

    assert len(methods) == 19 + 2 + 8
    assert len(functions) == 19 + 2
    assert [call for call in sorted(methods | functions) if call not in shown] == []
