"""
A webhook of each type that Adapty documents.

`STARTED` and `ONE_TIME` are the examples of "Webhook event types and fields"
(adaptyteam/adapty-docs at 02de1a7,
src/content/docs/version-3.0/webhook-event-types-and-fields.mdx), with an event id and a transaction
id that differ from the other ids. The page has no example of the other types: they are made of its
tables, in the envelope of the first example.
"""

from __future__ import annotations

from typing import Any

NOBODY = "00000000-0000-0000-0000-000000000000"
EVENT_ID = "11111111-1111-1111-1111-111111111111"
AT = "2000-01-31T00:00:00.000000+0000"

_COMMON: dict[str, Any] = {
    "store": "play_store",
    "currency": "USD",
    "profile_id": NOBODY,
    "cohort_name": "All Users",
    "environment": "Production",
    "base_plan_id": "b1",
    "developer_id": "onboarding_placement",
    "ab_test_name": "onboarding_ab_test",
    "paywall_name": "UsedPaywall",
    "variation_id": NOBODY,
    "purchase_date": "2024-11-15T10:45:36.181000+0000",
    "store_country": "AR",
    "event_datetime": AT,
    "transaction_id": "0000000000000001",
    "profile_country": "AR",
    "paywall_revision": "1",
    "profile_event_id": EVENT_ID,
    "vendor_product_id": "onemonth_no_trial",
    "profile_ip_address": "10.10.1.1",
    "original_purchase_date": AT,
    "original_transaction_id": "0000000000000000",
    "subscription_expires_at": "2000-02-29T00:00:00.000000+0000",
    "profile_has_access_level": True,
    "profile_total_revenue_usd": 4.99,
}
_PURCHASE: dict[str, Any] = {
    **_COMMON,
    "price_usd": 4.99,
    "price_local": 4.99,
    "original_price_usd": 4.99,
    "original_price_local": 4.99,
    "discount_amount_usd": 0,
    "discount_amount_local": 0,
    "ab_test_revision": 1,
    "consecutive_payments": 1,
    "rate_after_first_year": False,
    "promotional_offer_id": None,
    "store_offer_category": None,
    "store_offer_discount_type": None,
}
_REVENUE: dict[str, Any] = {
    **_PURCHASE,
    "proceeds_usd": 4.2315,
    "proceeds_local": 4.2415,
    "tax_amount_usd": 0,
    "tax_amount_local": 0,
    "net_revenue_usd": 4.2415,
    "net_revenue_local": 4.2415,
}
_TRIAL: dict[str, Any] = {
    **_PURCHASE,
    "trial_duration": "7 days",
    "price_usd": None,
    "price_local": None,
    "discount_amount_usd": 4.99,
    "discount_amount_local": 4.99,
    "store_offer_category": "introductory",
    "store_offer_discount_type": "free_trial",
    "store_offer_number_of_periods": 1,
}
_ACCESS: dict[str, Any] = {
    **_COMMON,
    "access_level_id": "premium",
    "activated_at": AT,
    "active_introductory_offer_type": "free_trial",
    "active_promotional_offer_id": "offer",
    "active_promotional_offer_type": "pay_up_front",
    "billing_issue_detected_at": None,
    "cancellation_reason": "adapty_revoked",
    "expires_at": "2000-02-29T00:00:00.000000+0000",
    "is_active": True,
    "is_in_grace_period": False,
    "is_lifetime": False,
    "is_refund": False,
    "renewed_at": AT,
    "starts_at": None,
    "trial_duration": "7 days",
    "will_renew": False,
}
STARTED: dict[str, Any] = {
    "profile_id": NOBODY,
    "customer_user_id": "UserIdInYourSystem",
    "idfv": NOBODY,
    "idfa": NOBODY,
    "advertising_id": NOBODY,
    "profile_install_datetime": AT,
    "user_agent": "ExampleUserAgent/1.0 (Device; OS Version) Browser/Engine",
    "email": "john.doe@company.com",
    "event_type": "subscription_started",
    "event_datetime": AT,
    "event_properties": _REVENUE,
    "event_api_version": 1,
    "profiles_sharing_access_level": [
        {"profile_id": NOBODY, "customer_user_id": "UserIdInYourSystem"}
    ],
    "attributions": {
        "appsflyer": {
            "ad_set": "Keywords 1.12",
            "status": "non_organic",
            "channel": "Google Ads",
            "ad_group": None,
            "campaign": "Social media influencers - Rest of the world",
            "creative": None,
            "created_at": AT,
        }
    },
    "user_attributes": {"Favourite_color": "Violet", "Pet_name": "Fluffy"},
    "integration_ids": {
        "firebase_app_instance_id": "val1",
        "branch_id": "val2",
        "one_signal_player_id": "val3",
    },
    "play_store_purchase_token": {
        "product_id": "product_123",
        "purchase_token": "token_abc_123",
        "is_subscription": True,
    },
}
ONE_TIME: dict[str, Any] = {
    "profile_id": NOBODY,
    "customer_user_id": "UserIdInYourSystem",
    "event_type": "non_subscription_purchase",
    "event_datetime": AT,
    "event_properties": {
        "store": "app_store",
        "currency": "USD",
        "price_usd": 4.99,
        "price_local": 4.99,
        "original_price_usd": 4.99,
        "original_price_local": 4.99,
        "discount_amount_usd": 0,
        "discount_amount_local": 0,
        "proceeds_usd": 4.2415,
        "proceeds_local": 4.2415,
        "net_revenue_usd": 4.2415,
        "net_revenue_local": 4.2415,
        "tax_amount_usd": 0,
        "tax_amount_local": 0,
        "profile_id": NOBODY,
        "environment": "Production",
        "vendor_product_id": "100coins",
        "transaction_id": "0000000000000000",
        "original_transaction_id": "0000000000000000",
        "purchase_date": "2024-11-15T10:45:36.181000+0000",
        "original_purchase_date": "2024-11-15T10:45:36.181000+0000",
        "subscription_expires_at": None,
        "store_country": "US",
        "profile_country": "US",
        "profile_ip_address": "10.10.1.1",
        "profile_has_access_level": False,
        "profile_total_revenue_usd": 4.99,
        "consecutive_payments": 1,
        "rate_after_first_year": False,
        "profile_event_id": EVENT_ID,
    },
    "event_api_version": 1,
}


def _event(event_type: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {**STARTED, "event_type": event_type, "event_properties": properties}


#: The webhooks by the documented name of their type.
SAMPLES: dict[str, dict[str, Any]] = {
    "subscription_started": STARTED,
    "non_subscription_purchase": ONE_TIME,
    **{
        name: _event(name, _PURCHASE)
        for name in (
            "subscription_renewal_cancelled",
            "subscription_renewal_reactivated",
            "subscription_expired",
            "subscription_paused",
            "subscription_deferred",
            "entered_grace_period",
            "billing_issue_detected",
            "non_subscription_purchase_refunded",
        )
    },
    "subscription_renewed": _event("subscription_renewed", _REVENUE),
    "subscription_refunded": _event(
        "subscription_refunded", {**_REVENUE, "cancellation_reason": "refund"}
    ),
    **{
        name: _event(name, _TRIAL)
        for name in (
            "trial_started",
            "trial_converted",
            "trial_renewal_cancelled",
            "trial_renewal_reactivated",
            "trial_expired",
        )
    },
    "access_level_updated": _event("access_level_updated", _ACCESS),
}
