"""Calls and values that the tests of version 2 begin with."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any

from adapty_async import AdaptyClient, v2
from adapty_async._api.call import Operation
from adapty_async.testing import FakeTransport, Reply

KEY = "secret_live_x.y"
ORIGIN = "https://api.adapty.io"
PAYWALL = "fd891d4f-5906-45b9-97c1-13cc3dc665df"
IDS: dict[str, Any] = {"customer_user_id": "u1"}


def client(transport: FakeTransport, **settings: Any) -> AdaptyClient:
    """Return a client over that transport."""
    return AdaptyClient(KEY, transport=transport, **settings)


def one_time(**changes: Any) -> v2.OneTimePurchase:
    """Return a one-time purchase that keeps all rules, with these fields changed."""
    fields: dict[str, Any] = {
        "store": "app_store",
        "store_product_id": "premium_lifetime",
        "store_transaction_id": "1000",
        "store_original_transaction_id": "1000",
        "price": v2.Price(country="US", currency="USD", value="9.99"),
        "purchased_at": "2024-01-15T10:30:00Z",
    }
    return v2.OneTimePurchase(**{**fields, **changes})


def subscription(**changes: Any) -> v2.SubscriptionPurchase:
    """Return a subscription that keeps all rules, with these fields changed."""
    fields: dict[str, Any] = {
        "store": "app_store",
        "store_product_id": "premium_monthly",
        "store_transaction_id": "1001",
        "store_original_transaction_id": "1000",
        "price": v2.Price(country="US", currency="USD", value="4.99"),
        "purchased_at": "2024-01-15T10:30:00Z",
        "originally_purchased_at": "2023-12-15T10:30:00Z",
        "expires_at": "2024-02-15T10:30:00Z",
        "renew_status": True,
    }
    return v2.SubscriptionPurchase(**{**fields, **changes})


def coins(amount: int, code: str = "COINS") -> v2.VirtualCurrencyBalanceAdjustment:
    """Return a change of a balance."""
    return v2.VirtualCurrencyBalanceAdjustment(currency_code=code, amount=amount)


async def read_all(items: AsyncIterable[Any]) -> list[Any]:
    """Return the items of an async iterable as a list."""
    return [item async for item in items]


ABOUT_PROFILES: dict[str, Callable[..., Operation[Any]]] = {
    # the calls that name a profile in a header
    "profiles.create": v2.create_profile,
    "profiles.get": v2.get_profile,
    "profiles.update": lambda **ids: v2.update_profile(v2.ProfileAttributes(email=None), **ids),
    "profiles.delete": v2.delete_profile,
    "transactions.set": lambda **ids: v2.set_transaction(one_time(), **ids),
    "access_levels.grant": lambda **ids: v2.grant_access_level("premium", **ids),
    "access_levels.revoke": lambda **ids: v2.revoke_access_level("premium", **ids),
    "refund_saver.get": v2.get_refund_saver_settings,
    "refund_saver.set": lambda **ids: v2.set_refund_saver_settings(consent=True, **ids),
    "integrations.get": v2.get_integration_identifiers,
    "integrations.set": lambda **ids: v2.set_integration_identifiers(
        v2.IntegrationIdentifiers(branch_id="b"), **ids
    ),
    "virtual_currencies.create_transaction": lambda **ids: v2.create_virtual_currency_transaction(
        [coins(1)], **ids
    ),
    "virtual_currencies.list_transactions": v2.list_virtual_currency_transactions,
    "virtual_currencies.list_balances": v2.list_virtual_currency_balances,
}

# What a read cannot do without; any other call takes an empty object for a success.
LEAST = {
    "profiles.get": b'{"profile_id":"p1"}',
    "refund_saver.get": b'{"profile_id":"p1"}',
    "integrations.get": b"{}",
    "paywalls.get": b'{"paywall_id":"w1"}',
    "paywalls.list": b'{"data":[],"meta":{"pagination":{"count":0,"page":2,"pages":1}}}',
    "virtual_currencies.list_transactions": b'{"data":[],"pagination":{"next_cursor":null}}',
    "virtual_currencies.list_balances": b'{"data":[]}',
}


def success(call: str) -> Reply:
    """Return the shortest success of a call, such as ``profiles.get`` or ``v2.profiles.get``."""
    return (200, {}, LEAST.get(call.removeprefix("v2."), b"{}"))


CALLS: dict[str, Callable[[v2.V2], Awaitable[Any]]] = {
    # every method, as it is called
    "profiles.create": lambda api: api.profiles.create(
        v2.ProfileAttributes(email=None), platform="iOS", **IDS
    ),
    "profiles.get": lambda api: api.profiles.get(**IDS),
    "profiles.update": lambda api: api.profiles.update(
        v2.ProfileAttributes(email=None), platform="web", **IDS
    ),
    "profiles.delete": lambda api: api.profiles.delete(**IDS),
    "transactions.set": lambda api: api.transactions.set(one_time(), **IDS),
    "access_levels.grant": lambda api: api.access_levels.grant(
        "premium", starts_at=None, expires_at="2030-01-01T00:00:00Z", **IDS
    ),
    "access_levels.revoke": lambda api: api.access_levels.revoke("premium", **IDS),
    "refund_saver.get": lambda api: api.refund_saver.get(**IDS),
    "refund_saver.set": lambda api: api.refund_saver.set(
        custom_preference="grant", consent=None, **IDS
    ),
    "purchases.validate_stripe": lambda api: api.purchases.validate_stripe(
        customer_user_id="u1", stripe_token="sub_1"
    ),
    "purchases.validate_paddle": lambda api: api.purchases.validate_paddle(
        customer_user_id="u1", paddle_token="txn_1"
    ),
    "integrations.get": lambda api: api.integrations.get(**IDS),
    "integrations.set": lambda api: api.integrations.set(
        v2.IntegrationIdentifiers(branch_id="b", appsflyer_id=None), **IDS
    ),
    "paywalls.list": lambda api: read_all(api.paywalls.list(page_number=2, page_size=5)),
    "paywalls.get": lambda api: api.paywalls.get(PAYWALL),
    "paywalls.update": lambda api: api.paywalls.update(
        PAYWALL, [v2.RemoteConfig.of("en", {"title": "Hé"})]
    ),
    "virtual_currencies.create_transaction": lambda api: api.virtual_currencies.create_transaction(
        [coins(-5)],
        metadata={"reason": "spent"},
        idempotency_key="0b7c5a3e-0000-4000-8000-000000000000",
        **IDS,
    ),
    "virtual_currencies.list_transactions": lambda api: read_all(
        api.virtual_currencies.list_transactions(currency_code="A&B", cursor="x=", limit=7, **IDS)
    ),
    "virtual_currencies.list_balances": lambda api: api.virtual_currencies.list_balances(**IDS),
}
