"""
Structs of the properties of webhook events, and of the objects around them.

The fields are those of Adapty's documentation, and each may be missing: they vary with the event,
the store and the settings in the dashboard.

Source: https://adapty.io/docs/webhook-event-types-and-fields
"""

from __future__ import annotations

from adapty_async._api.results import DateTime, ResultStruct


class EventProperties(ResultStruct, frozen=True, kw_only=True):
    """
    The properties that all events share.

    Attributes:
        profile_event_id: the id of the event, by which a second delivery is recognised.
        developer_id: the id of the placement of the transaction.
        environment: ``Sandbox`` or ``Production``.
        event_datetime: the business time of the event. It is no order of the events.
        cancellation_reason: such as ``voluntarily_cancelled``, ``billing_error`` or ``refund``.
        paywall_revision: a number as text, such as ``1``.
        profile_has_access_level: the profile has an open access level.
        profile_total_revenue_usd: US dollars.
        store: ``app_store``, ``play_store``, ``stripe``, ``paddle`` or a custom one.
        subscription_expires_at: when the subscription ends; the end of the grace period or the
            date of the cancellation in events about them.
        trial_duration: such as ``7 days``.
        vendor_product_id: the product in the store; ``adapty_server_side_product`` or
            ``adapty_dashboard_product`` for access without a purchase.
    """

    profile_event_id: str | None = None
    profile_id: str | None = None
    event_datetime: DateTime | None = None
    environment: str | None = None
    store: str | None = None
    store_country: str | None = None
    vendor_product_id: str | None = None
    base_plan_id: str | None = None
    transaction_id: str | None = None
    original_transaction_id: str | None = None
    purchase_date: DateTime | None = None
    original_purchase_date: DateTime | None = None
    subscription_expires_at: DateTime | None = None
    trial_duration: str | None = None
    cancellation_reason: str | None = None
    currency: str | None = None
    profile_country: str | None = None
    profile_ip_address: str | None = None
    profile_has_access_level: bool | None = None
    profile_total_revenue_usd: float | None = None
    ab_test_name: str | None = None
    cohort_name: str | None = None
    developer_id: str | None = None
    paywall_name: str | None = None
    paywall_revision: str | None = None
    variation_id: str | None = None


class PurchaseProperties(EventProperties, frozen=True, kw_only=True):
    """
    The properties of events about a subscription, a trial or a one-time purchase.

    Attributes:
        price_usd, price_local: the amount charged before the store's share, in US dollars and in
            `currency`; None for a free trial.
        original_price_usd, original_price_local: the standard price without a discount.
        discount_amount_usd, discount_amount_local: the standard price minus the amount charged.
        consecutive_payments: the number of periods without an interruption, with the current one.
        rate_after_first_year: the store takes a reduced share.
        store_offer_category: ``introductory``, ``promotional``, ``offer_code``, ``win_back``,
            ``retention`` or a newer one.
        store_offer_discount_type: ``free_trial``, ``pay_as_you_go``, ``pay_up_front`` or a newer
            one.
        store_offer_number_of_periods: the billing periods that the offer discounts.
    """

    price_usd: float | None = None
    price_local: float | None = None
    original_price_usd: float | None = None
    original_price_local: float | None = None
    discount_amount_usd: float | None = None
    discount_amount_local: float | None = None
    ab_test_revision: int | None = None
    consecutive_payments: int | None = None
    rate_after_first_year: bool | None = None
    promotional_offer_id: str | None = None
    store_offer_category: str | None = None
    store_offer_discount_type: str | None = None
    store_offer_number_of_periods: int | None = None


class RevenueProperties(PurchaseProperties, frozen=True, kw_only=True):
    """
    The properties of a purchase with its taxes and revenue.

    Attributes:
        proceeds_usd, proceeds_local: the price after the store's share, in US dollars and in
            `currency`.
        tax_amount_usd, tax_amount_local: the taxes deducted.
        net_revenue_usd, net_revenue_local: the proceeds after taxes.
    """

    proceeds_usd: float | None = None
    proceeds_local: float | None = None
    tax_amount_usd: float | None = None
    tax_amount_local: float | None = None
    net_revenue_usd: float | None = None
    net_revenue_local: float | None = None


class AccessLevelProperties(EventProperties, frozen=True, kw_only=True):
    """
    The properties of a changed access level.

    Attributes:
        activated_at: when the access was last activated.
        expires_at: when the access ends: the end of a grace period, and the date of the
            cancellation after a refund or cancellation.
        is_active: the access level was open when Adapty generated the event.
        is_in_grace_period: the store could not renew the purchase; `expires_at` is the end of the
            grace period.
        is_refund: the transaction is a refund.
        renewed_at: when the access is renewed.
        will_renew: the access level will be renewed.
    """

    access_level_id: str | None = None
    is_active: bool | None = None
    starts_at: DateTime | None = None
    activated_at: DateTime | None = None
    renewed_at: DateTime | None = None
    expires_at: DateTime | None = None
    will_renew: bool | None = None
    is_lifetime: bool | None = None
    is_refund: bool | None = None
    is_in_grace_period: bool | None = None
    billing_issue_detected_at: DateTime | None = None
    active_introductory_offer_type: str | None = None
    active_promotional_offer_id: str | None = None
    active_promotional_offer_type: str | None = None


class SharingProfile(ResultStruct, frozen=True, kw_only=True):
    """The ids of another profile that shares the access level."""

    profile_id: str | None = None
    customer_user_id: str | None = None


class Attribution(ResultStruct, frozen=True, kw_only=True):
    """
    The attribution data of one source.

    Attributes:
        status: ``organic``, ``non_organic`` or ``unknown``.
        network_user_id: the user's id at the source.
    """

    status: str | None = None
    channel: str | None = None
    campaign: str | None = None
    ad_group: str | None = None
    ad_set: str | None = None
    creative: str | None = None
    created_at: DateTime | None = None
    network_user_id: str | None = None


class PlayStorePurchaseToken(ResultStruct, frozen=True, kw_only=True):
    """The data by which Google Play validates a purchase again."""

    product_id: str | None = None
    purchase_token: str | None = None
    is_subscription: bool | None = None
