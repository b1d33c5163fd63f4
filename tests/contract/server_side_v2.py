"""The contract of version 2 of the server-side API."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import msgspec

from adapty_async import v2
from adapty_async._api.call import Operation
from tests.contract.contract import STATUSES, Contract, built
from tests.contract.documents import DOCUMENTS
from tests.v2 import documented

DOCUMENT = DOCUMENTS["server-side-api-v2"]
META = v2.InstallationMeta(device_id="3fa85f64-5717-4562-b3fc-2c963f66afa6")
PRICE = v2.Price(country="US", currency="USD", value=0)
NOW = dt.datetime.now(dt.UTC)
BOUGHT = v2.OneTimePurchase(
    store="app_store",
    store_product_id="p",
    store_transaction_id="1",
    store_original_transaction_id="1",
    price=PRICE,
    purchased_at=NOW,
)
TRIAL = v2.SubscriptionPurchase(
    store="app_store",
    store_product_id="premium_monthly",
    store_transaction_id="9",
    store_original_transaction_id="9",
    price=PRICE,
    purchased_at="2024-01-15T10:30:00Z",
    originally_purchased_at="2024-01-15T10:30:00Z",
    expires_at="2999-02-15T10:30:00Z",
    renew_status=False,
    offer=v2.Offer(category="introductory", type="free_trial", id="t"),
)
COINS = v2.VirtualCurrencyBalanceAdjustment(currency_code="COINS", amount=1)
IDS: dict[str, Any] = {"customer_user_id": "u1"}

CALLS: dict[str, Callable[..., Operation[Any]]] = {
    "createProfile": lambda **ids: v2.create_profile(
        v2.ProfileAttributes(installation_meta=META), platform="iOS", **ids
    ),
    "getProfile": v2.get_profile,
    "updateProfile": lambda **ids: v2.update_profile(
        v2.ProfileAttributes(installation_meta=META), platform="iOS", **ids
    ),
    "deleteProfile": v2.delete_profile,
    "setTransaction": lambda **ids: v2.set_transaction(BOUGHT, **ids),
    "grantAccessLevel": lambda **ids: v2.grant_access_level("premium", **ids),
    "revokeAccessLevel": lambda **ids: v2.revoke_access_level("premium", **ids),
    "getRefundSaverSettings": v2.get_refund_saver_settings,
    "setRefundSaverSettings": lambda **ids: v2.set_refund_saver_settings(consent=True, **ids),
    "validateStripePurchase": lambda: v2.validate_stripe_purchase(
        customer_user_id="u", stripe_token="sub_1"
    ),
    "validatePaddlePurchase": lambda: v2.validate_paddle_purchase(
        customer_user_id="u", paddle_token="txn_1"
    ),
    "getIntegrationIdentifiers": v2.get_integration_identifiers,
    "setIntegrationIdentifiers": lambda **ids: v2.set_integration_identifiers(
        v2.IntegrationIdentifiers(branch_id="b"), **ids
    ),
    "listPaywalls": v2.list_paywalls,
    "getPaywall": lambda: v2.get_paywall("fd891d4f-5906-45b9-97c1-13cc3dc665df"),
    "updatePaywall": lambda: v2.update_paywall(
        "fd891d4f-5906-45b9-97c1-13cc3dc665df", [v2.RemoteConfig.of("en", {})]
    ),
    "createVirtualCurrencyTransaction": lambda **ids: v2.create_virtual_currency_transaction(
        [COINS], **ids
    ),
    "listVirtualCurrencyTransactions": lambda **ids: v2.list_virtual_currency_transactions(
        currency_code="COINS", cursor="c", limit=1, **ids
    ),
    "listVirtualCurrencyBalances": v2.list_virtual_currency_balances,
}

BUILT_OF: dict[str, Callable[[Any], Any]] = {
    "installation_meta": lambda value: v2.InstallationMeta(**value),
    "custom_attributes": lambda value: {one["key"]: one["value"] for one in value},
    "price": lambda value: v2.Price(**value),
    "offer": lambda value: None if value is None else v2.Offer(**value),
    "items": lambda value: tuple(v2.VirtualCurrencyBalanceAdjustment(**one) for one in value),
}
TRANSACTIONS = {"one_time_purchase": v2.OneTimePurchase, "subscription": v2.SubscriptionPurchase}


def _attributes(body: dict[str, Any]) -> v2.ProfileAttributes:
    return v2.ProfileAttributes(**built(body, BUILT_OF))


def _transaction(body: dict[str, Any]) -> Operation[Any]:
    rest = {name: value for name, value in body.items() if name != "purchase_type"}
    return v2.set_transaction(TRANSACTIONS[body["purchase_type"]](**built(rest, BUILT_OF)), **IDS)


BUILDERS: dict[str, Callable[[Any], Operation[Any]]] = {
    "createProfile": lambda body: v2.create_profile(_attributes(body), **IDS),
    "updateProfile": lambda body: v2.update_profile(_attributes(body), **IDS),
    "setTransaction": _transaction,
    "grantAccessLevel": lambda body: v2.grant_access_level(**body, **IDS),
    "revokeAccessLevel": lambda body: v2.revoke_access_level(**body, **IDS),
    "setRefundSaverSettings": lambda body: v2.set_refund_saver_settings(**body, **IDS),
    "validateStripePurchase": lambda body: v2.validate_stripe_purchase(
        **body["data"]["attributes"]
    ),
    "validatePaddlePurchase": lambda body: v2.validate_paddle_purchase(**body),
    "setIntegrationIdentifiers": lambda body: v2.set_integration_identifiers(
        v2.IntegrationIdentifiers(**body), **IDS
    ),
    "updatePaywall": lambda body: v2.update_paywall(
        "p", [v2.RemoteConfig(**one) for one in body["remote_configs"]]
    ),
    "createVirtualCurrencyTransaction": lambda body: v2.create_virtual_currency_transaction(
        **built(body, BUILT_OF), **IDS
    ),
}


def _bought(length: int) -> Operation[Any]:
    """Return a purchase whose ids have that length."""
    changes = {"store_transaction_id": "1" * length, "store_original_transaction_id": "1" * length}
    return v2.set_transaction(msgspec.structs.replace(BOUGHT, **changes), **IDS)


def _subscribed(length: int) -> Operation[Any]:
    """Return a subscription whose id has that length."""
    subscription = v2.SubscriptionPurchase(
        store="app_store",
        store_product_id="p",
        store_transaction_id="1" * length,
        store_original_transaction_id="1",
        price=PRICE,
        purchased_at=NOW,
        originally_purchased_at=NOW,
        expires_at=NOW + dt.timedelta(days=1),
        renew_status=True,
    )
    return v2.set_transaction(subscription, **IDS)


LIMITED: dict[str, Callable[[int], Operation[Any]]] = {
    "listPaywalls page[number]": lambda number: v2.list_paywalls(page_number=number),
    "listPaywalls page[size]": lambda number: v2.list_paywalls(page_size=number),
    "listVirtualCurrencyTransactions limit": lambda number: v2.list_virtual_currency_transactions(
        limit=number, **IDS
    ),
    "CustomAttribute.key": lambda length: v2.update_profile(
        v2.ProfileAttributes(custom_attributes={"k" * length: 1}), **IDS
    ),
    "OneTimePurchaseDTO.store_transaction_id": _bought,
    "SubscriptionDTO.store_transaction_id": _subscribed,
    "VirtualCurrencyTransactionRequest.items": lambda count: v2.create_virtual_currency_transaction(
        [
            v2.VirtualCurrencyBalanceAdjustment(currency_code=f"C{number}", amount=1)
            for number in range(count)
        ],
        **IDS,
    ),
}


def _example(operation: str, name: str = "example") -> Any:
    return dict(DOCUMENT.request_examples(operation))[name]


DEFECTS: dict[str, Callable[[], bool]] = {
    "nullable is a word of OpenAPI 3.0 and has no meaning in 3.1": lambda: (
        DOCUMENT.content["openapi"].startswith("3.1")
        and DOCUMENT.schemas["Profile"]["properties"]["customer_user_id"].get("nullable") is True
    ),
    "a security scheme has no default": lambda: (
        "default" in DOCUMENT.content["components"]["securitySchemes"]["apikeyAuth"]
    ),
    "the discriminator's values are not the schemas' names, and there is no mapping": lambda: (
        "mapping" not in DOCUMENT.schemas["TransactionDTORequest"]["discriminator"]
    ),
    "errors is a list of strings in examples, of objects in the schema": lambda: any(
        isinstance(entry, str)
        for _, _, body in DOCUMENT.error_examples()
        for entry in body.get("errors", ())
    ),
    "installation_meta is required, although the prose says it is not": lambda: (
        DOCUMENT.schemas["ProfileRequest"]["required"] == ["installation_meta"]
    ),
    "adapty-platform is declared on createProfile alone, and recommended for updates": lambda: (
        [
            name
            for name in DOCUMENT.operations
            if "adapty-platform" in DOCUMENT.declared(name, "header")
        ]
        == ["createProfile"]
    ),
    "a value of a custom attribute is never null, although null deletes one": lambda: (
        {"type": "null"} not in DOCUMENT.schemas["CustomAttribute"]["properties"]["value"]["oneOf"]
    ),
    "the subscription's free trial costs something, which is free_trial_price_error": lambda: (
        _example("setTransaction", "subscription")["offer"]["type"] == "free_trial"
        and _example("setTransaction", "subscription")["price"]["value"] != 0
    ),
    "the scheduled revocation is in the past, which is value_error": lambda: (
        _example("revokeAccessLevel", "scheduled_revoke")["revoke_at"]
        < dt.datetime.now(dt.UTC).isoformat()
    ),
    "the Paddle token is neither txn_ nor sub_": lambda: (
        _example("validatePaddlePurchase")["paddle_token"][:5] == "live_"
    ),
    "the Paddle answer has a one-time purchase among the subscriptions": lambda: (
        "purchase_id"
        in dict(DOCUMENT.response_examples("validatePaddlePurchase"))["example"]["data"][
            "subscriptions"
        ][0]
    ),
}

CONTRACT = Contract(
    name="server-side-api-v2",
    module=v2,
    calls=CALLS,
    requests={
        "ProfileRequest": v2.ProfileAttributes,
        "OneTimePurchaseDTO": v2.OneTimePurchase,
        "SubscriptionDTO": v2.SubscriptionPurchase,
        "GrantAccessRequest": v2.AccessGrant,
        "RevokeAccessRequest": v2.AccessRevocation,
        "RefundSaverSettingsRequest": v2.RefundSaverSettingsRequest,
        "PaddleValidationRequest": v2.PaddleValidationRequest,
        "IntegrationIdentifiersRequest": v2.IntegrationIdentifiers,
        "VirtualCurrencyTransactionRequest": v2.VirtualCurrencyTransactionRequest,
        "RemoteConfigObject": v2.RemoteConfig,
    },
    responses={
        "Profile": v2.Profile,
        "RefundSaverSettingsResponse": v2.RefundSaverSettingsResponse,
        "RefundSaverSettingsObject": v2.RefundSaverSettings,
        "IntegrationIdentifiersResponse": v2.IntegrationIdentifiersResponse,
        "IntegrationIdentifiersObject": v2.IntegrationIdentifiersResponse,
        "PaywallResponse": v2.Paywall,
        "PaywallObject": v2.Paywall,
        "PaywallListResponse": v2.PaywallList,
        "PaywallListItem": v2.PaywallListItem,
        "ProductObject": v2.Product,
        "PaginationObject": v2.Pagination,
        "VirtualCurrencyTransactionResponse": v2.VirtualCurrencyTransaction,
        "VirtualCurrencyBalanceListResponse": v2.VirtualCurrencyBalanceList,
        "VirtualCurrencyTransactionsHistoryResponse": v2.VirtualCurrencyTransactionsHistory,
    },
    parts=frozenset(
        {
            "InstallationMeta",
            "AccessLevel",
            "Subscription",
            "NonSubscription",
            "PriceDTO",
            "OfferDTO",
            "VirtualCurrencyBalanceAdjustment",
            "VirtualCurrencyBalanceSnapshot",
            "VirtualCurrencyProfileBalanceItem",
            "VirtualCurrencyTransactionsHistoryItem",
            "VirtualCurrencyBalanceChange",
            "VirtualCurrencyHistoryPagination",
        }
    ),
    elsewhere={
        "ProfileResponse": "the envelope of Profile",
        "TransactionDTORequest": "the union of the two transactions",
        "CustomAttribute": "an entry of the dict",
        "StripeValidationRequest": "nested; its example is built",
        "StripeValidationResponse": "null",
        "PaywallUpdateRequest": "the arguments of update_paywall; its example is built",
        "ErrorResponse": "the codec decodes every error format; its examples are decoded",
        "ErrorObject": "an entry of ErrorResponse",
        "StripeErrorResponse": "the codec decodes every error format; its example is decoded",
    },
    builders=BUILDERS,
    limited=LIMITED,
    error_kinds={(one.status, one.code): one.kind for one in documented.ERRORS},
    error_kinds_on_pages_only=frozenset(documented.ON_PAGES_ONLY),
    statuses=STATUSES,
    authorization=lambda sandbox: f"Api-Key {sandbox.api_key}",
    filling=(
        v2.update_profile(v2.ProfileAttributes(custom_attributes={"a": "x", "b": 1}), **IDS),
        v2.set_transaction(TRIAL, **IDS),
        v2.create_virtual_currency_transaction([COINS], metadata={"a": "b"}, **IDS),
        v2.create_virtual_currency_transaction([COINS], **IDS),
        v2.set_transaction(BOUGHT, **IDS),
    ),
    defects=DEFECTS,
    undeclared={"updateProfile": {"adapty-platform"}},
    optional=frozenset({("ProfileRequest", "installation_meta")}),
    breaks_a_rule={
        ("setTransaction", "subscription"): "price.value",
        ("revokeAccessLevel", "scheduled_revoke"): "revoke_at",
    },
    not_in_the_struct=frozenset(
        ("validatePaddlePurchase", "Subscription", name)
        for name in ("purchase_id", "is_refund", "is_consumable")
    ),
    sandbox={
        "getPaywall": v2.get_paywall,
        "updatePaywall": lambda paywall_id: v2.update_paywall(
            paywall_id, [v2.RemoteConfig.of("en", 1)]
        ),
        "listVirtualCurrencyTransactions": lambda _: v2.list_virtual_currency_transactions(
            limit=1, **IDS
        ),
    },
    # The document knows no null for a setting, nor its value before it is set.
    null_until_set=frozenset({"consent", "custom_preference"}),
)
