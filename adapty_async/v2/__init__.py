"""
Version 2 of the server-side API: profiles, purchases, access levels, paywalls, virtual currencies.

A header identifies a profile by one of two ids: `customer_user_id`, the user's id in your system,
or `profile_id`, Adapty's id. For every call a function such as `get_profile` returns the operation
alone, for `AdaptyClient.execute` and `AdaptyClient.bulk`.

The client validates a call by the rules of Adapty's documentation before it is sent, unless the
client was created with ``validate=False``. Decoding is lenient: unknown fields are ignored, unknown
enumeration values are kept, and dates and times always have a time zone. A field that is not as
documented is None, and its raw value is in the result's ``odd_fields``.

Source: https://adapty.io/docs/getting-started-with-server-side-api
"""

from __future__ import annotations

from adapty_async._api.call import Execute
from adapty_async._api.results import CustomAttributes
from adapty_async.bulk import StartBulk
from adapty_async.v2._access import (
    GRANT_ACCESS_LEVEL,
    GRANT_COLUMNS,
    REVOCATION_COLUMNS,
    REVOKE_ACCESS_LEVEL,
    AccessGrant,
    AccessLevels,
    AccessRevocation,
    grant_access_level,
    revoke_access_level,
)
from adapty_async.v2._attributes import (
    ATTRIBUTE_COLUMNS,
    Gender,
    InstallationMeta,
    Platform,
    ProfileAttributes,
    Store,
)
from adapty_async.v2._currencies import (
    CREATE_VIRTUAL_CURRENCY_TRANSACTION,
    LIST_VIRTUAL_CURRENCY_BALANCES,
    LIST_VIRTUAL_CURRENCY_TRANSACTIONS,
    VirtualCurrencies,
    VirtualCurrencyBalance,
    VirtualCurrencyBalanceAdjustment,
    VirtualCurrencyBalanceChange,
    VirtualCurrencyBalanceList,
    VirtualCurrencyHistoryPagination,
    VirtualCurrencyTransaction,
    VirtualCurrencyTransactionRequest,
    VirtualCurrencyTransactionsHistory,
    VirtualCurrencyTransactionsHistoryItem,
    create_virtual_currency_transaction,
    list_virtual_currency_balances,
    list_virtual_currency_transactions,
)
from adapty_async.v2._integrations import (
    GET_INTEGRATION_IDENTIFIERS,
    SET_INTEGRATION_IDENTIFIERS,
    IntegrationIdentifiers,
    IntegrationIdentifiersResponse,
    Integrations,
    get_integration_identifiers,
    set_integration_identifiers,
)
from adapty_async.v2._models import (
    AccessLevel,
    AppliedOffer,
    NonSubscription,
    Profile,
    Subscription,
)
from adapty_async.v2._paging import Pages
from adapty_async.v2._paywalls import (
    GET_PAYWALL,
    LIST_PAYWALLS,
    UPDATE_PAYWALL,
    Pagination,
    Paywall,
    PaywallList,
    PaywallListItem,
    PaywallListMeta,
    Paywalls,
    Product,
    ProductOffer,
    RemoteConfig,
    Screenshot,
    get_paywall,
    list_paywalls,
    update_paywall,
)
from adapty_async.v2._profiles import (
    CREATE_PROFILE,
    DELETE_PROFILE,
    GET_PROFILE,
    UPDATE_PROFILE,
    Profiles,
    create_profile,
    delete_profile,
    ensure_profile,
    get_or_create_profile,
    get_profile,
    update_profile,
)
from adapty_async.v2._purchases import (
    VALIDATE_PADDLE_PURCHASE,
    VALIDATE_STRIPE_PURCHASE,
    PaddleValidationRequest,
    Purchases,
    StripeValidationRequest,
    validate_paddle_purchase,
    validate_stripe_purchase,
)
from adapty_async.v2._refunds import (
    GET_REFUND_SAVER_SETTINGS,
    SET_REFUND_SAVER_SETTINGS,
    RefundPreference,
    RefundSaver,
    RefundSaverSettings,
    RefundSaverSettingsRequest,
    RefundSaverSettingsResponse,
    get_refund_saver_settings,
    set_refund_saver_settings,
)
from adapty_async.v2._transactions import (
    SET_TRANSACTION,
    TRANSACTION_COLUMNS,
    CancellationReason,
    Environment,
    Offer,
    OfferCategory,
    OfferType,
    OneTimePurchase,
    Price,
    SubscriptionPurchase,
    Transaction,
    Transactions,
    set_transaction,
)

__all__ = (
    "ATTRIBUTE_COLUMNS",
    "CREATE_PROFILE",
    "CREATE_VIRTUAL_CURRENCY_TRANSACTION",
    "DELETE_PROFILE",
    "GET_INTEGRATION_IDENTIFIERS",
    "GET_PAYWALL",
    "GET_PROFILE",
    "GET_REFUND_SAVER_SETTINGS",
    "GRANT_ACCESS_LEVEL",
    "GRANT_COLUMNS",
    "LIST_PAYWALLS",
    "LIST_VIRTUAL_CURRENCY_BALANCES",
    "LIST_VIRTUAL_CURRENCY_TRANSACTIONS",
    "REVOCATION_COLUMNS",
    "REVOKE_ACCESS_LEVEL",
    "SET_INTEGRATION_IDENTIFIERS",
    "SET_REFUND_SAVER_SETTINGS",
    "SET_TRANSACTION",
    "TRANSACTION_COLUMNS",
    "UPDATE_PAYWALL",
    "UPDATE_PROFILE",
    "V2",
    "VALIDATE_PADDLE_PURCHASE",
    "VALIDATE_STRIPE_PURCHASE",
    "AccessGrant",
    "AccessLevel",
    "AccessLevels",
    "AccessRevocation",
    "AppliedOffer",
    "CancellationReason",
    "CustomAttributes",
    "Environment",
    "Gender",
    "InstallationMeta",
    "IntegrationIdentifiers",
    "IntegrationIdentifiersResponse",
    "Integrations",
    "NonSubscription",
    "Offer",
    "OfferCategory",
    "OfferType",
    "OneTimePurchase",
    "PaddleValidationRequest",
    "Pages",
    "Pagination",
    "Paywall",
    "PaywallList",
    "PaywallListItem",
    "PaywallListMeta",
    "Paywalls",
    "Platform",
    "Price",
    "Product",
    "ProductOffer",
    "Profile",
    "ProfileAttributes",
    "Profiles",
    "Purchases",
    "RefundPreference",
    "RefundSaver",
    "RefundSaverSettings",
    "RefundSaverSettingsRequest",
    "RefundSaverSettingsResponse",
    "RemoteConfig",
    "Screenshot",
    "Store",
    "StripeValidationRequest",
    "Subscription",
    "SubscriptionPurchase",
    "Transaction",
    "Transactions",
    "VirtualCurrencies",
    "VirtualCurrencyBalance",
    "VirtualCurrencyBalanceAdjustment",
    "VirtualCurrencyBalanceChange",
    "VirtualCurrencyBalanceList",
    "VirtualCurrencyHistoryPagination",
    "VirtualCurrencyTransaction",
    "VirtualCurrencyTransactionRequest",
    "VirtualCurrencyTransactionsHistory",
    "VirtualCurrencyTransactionsHistoryItem",
    "create_profile",
    "create_virtual_currency_transaction",
    "delete_profile",
    "ensure_profile",
    "get_integration_identifiers",
    "get_or_create_profile",
    "get_paywall",
    "get_profile",
    "get_refund_saver_settings",
    "grant_access_level",
    "list_paywalls",
    "list_virtual_currency_balances",
    "list_virtual_currency_transactions",
    "revoke_access_level",
    "set_integration_identifiers",
    "set_refund_saver_settings",
    "set_transaction",
    "update_paywall",
    "update_profile",
    "validate_paddle_purchase",
    "validate_stripe_purchase",
)


class V2:
    """
    Version 2 of the server-side API.

    Attributes:
        profiles: read, create, update and delete profiles.
        transactions: record purchases.
        access_levels: grant and revoke access without a purchase.
        refund_saver: the response of stores to refund requests.
        purchases: import purchases from Stripe and Paddle.
        integrations: the ids of a profile in other services.
        paywalls: list and read paywalls, and replace their remote configs.
        virtual_currencies: credit and debit balances, and read them.
    """

    def __init__(self, execute: Execute, bulk: StartBulk) -> None:
        self.profiles = Profiles(execute, bulk)
        self.transactions = Transactions(execute, bulk)
        self.access_levels = AccessLevels(execute, bulk)
        self.refund_saver = RefundSaver(execute)
        self.purchases = Purchases(execute)
        self.integrations = Integrations(execute)
        self.paywalls = Paywalls(execute)
        self.virtual_currencies = VirtualCurrencies(execute)
