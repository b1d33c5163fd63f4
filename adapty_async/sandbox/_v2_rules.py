"""Validation rules without I/O for version 2 of the server-side API, from its OpenAPI document."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from ipaddress import IPv4Address
from typing import Any

from ._rules import (
    Invalid,
    Problem,
    Required,
    Rule,
    birthday,
    country,
    custom_attributes,
    date_time,
    email,
    flag,
    identifier,
    matching,
    one_of,
    record,
    text,
    wrong,
)
from ._service import Refusal

INT32 = 2**31
UUID = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_ITEMS_MAX = 20
_METADATA_MAX = 5
_METADATA_LENGTH = 200
_TRANSACTION_ID_LENGTH = 50

uuid = matching(UUID, "Input should be a valid UUID")


def nullable(rule: Rule) -> Rule:
    """Return a rule that also accepts null."""
    return lambda value: None if value is None else rule(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong("Input should be a valid number")
    return value


def integer(value: Any) -> int:
    """Require a whole number of 32 bits."""
    # For JSON, 1.0 is an integer as well.
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not is_whole or not -INT32 <= value < INT32:
        raise wrong("Input should be a valid 32-bit integer")
    return int(value)


def _att_status(value: Any) -> int:
    if integer(value) not in range(4):
        raise wrong("Input should be 0, 1, 2 or 3")
    return int(value)


def _ip_v4(value: Any) -> str:
    try:
        return str(IPv4Address(text(value)))
    except ValueError:
        raise wrong("Input should be a valid IPv4 address") from None


def list_of(rule: Rule) -> Rule:
    """Return a rule for lists, with `rule` for each entry."""

    def check(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise wrong("Input should be a valid list")
        return [rule(entry) for entry in value]

    return check


_TEXTS = (
    "device",
    "os",
    "locale",
    "timezone",
    "user_agent",
    "app_build",
    "app_version",
    "adapty_sdk_version",
    "idfa",
    "idfv",
    "advertising_id",
    "android_id",
    "android_app_set_id",
)

profile = record(
    {
        "first_name": text,
        "last_name": text,
        "gender": one_of("f", "m", "o"),
        "email": email,
        "phone_number": text,
        "birthday": birthday,
        "ip_country": country,
        "ip_v4_address": _ip_v4,
        "store_country": country,
        "store": one_of("app_store", "play_store", "stripe", "adapty", "paddle"),
        "store_account_token": uuid,
        "att_status": _att_status,
        "analytics_disabled": flag,
        "custom_attributes": custom_attributes(50),
        # The OpenAPI document requires it; the prose does not, since an example has no body.
        "installation_meta": record(
            {
                "device_id": Required(uuid),
                "platform": one_of("iOS", "macOS", "iPadOS", "Android", "visionOS", "web"),
                **dict.fromkeys(_TEXTS, text),
            },
            nullable=True,
        ),
    },
    nullable=True,
)

grant = record(
    {"access_level_id": Required(identifier), "starts_at": date_time, "expires_at": date_time},
    nullable=True,
)
revocation = record(
    {"access_level_id": Required(identifier), "revoke_at": date_time}, nullable=True
)
refund_saver = record(
    {
        "custom_preference": one_of("grant", "grant_prorated", "no_preference", "decline"),
        "consent": flag,
    },
    nullable=True,
)
IDENTIFIERS = (
    "adjust_device_id",
    "airbridge_device_id",
    "amplitude_device_id",
    "amplitude_user_id",
    "appmetrica_device_id",
    "appmetrica_profile_id",
    "appsflyer_id",
    "branch_id",
    "facebook_anonymous_id",
    "firebase_app_instance_id",
    "mixpanel_user_id",
    "one_signal_player_id",
    "one_signal_subscription_id",
    "posthog_distinct_user_id",
    "pushwoosh_hwid",
    "tenjin_analytics_installation_id",
)
identifiers = record(dict.fromkeys(IDENTIFIERS, text), nullable=True)
paddle = record({"customer_user_id": Required(identifier), "paddle_token": Required(identifier)})
_stripe_purchase = record(
    {"customer_user_id": Required(identifier), "stripe_token": Required(identifier)}
)
_stripe_data = record(
    {
        "type": Required(one_of("stripe_receipt_validation_result")),
        "attributes": Required(_stripe_purchase),
    }
)
stripe = record({"data": Required(_stripe_data)})
paywall = record(
    {"remote_configs": list_of(record({"locale": Required(text), "data": Required(text)}))}
)


# Transactions


def _transaction_id(value: Any) -> str:
    if len(identifier(value)) > _TRANSACTION_ID_LENGTH:
        raise wrong(f"String should have at most {_TRANSACTION_ID_LENGTH} characters")
    return str(value)


_price = record(
    {
        "country": Required(country),
        "currency": Required(matching("[A-Z]{3}", "Not a currency")),
        "value": Required(_number),
    }
)
_PURCHASE: Mapping[str, Rule | Required] = {
    "purchase_type": Required(one_of("one_time_purchase", "subscription")),
    "store": Required(text),
    "environment": one_of("Production", "Sandbox"),
    "store_product_id": Required(identifier),
    "store_transaction_id": Required(_transaction_id),
    "store_original_transaction_id": Required(identifier),
    "is_family_shared": flag,
    "price": Required(_price),
    "purchased_at": Required(date_time),
    "variation_id": nullable(text),
    "offer": nullable(
        record(
            {
                "category": Required(
                    one_of("introductory", "promotional", "offer_code", "win_back")
                ),
                "type": Required(one_of("free_trial", "pay_as_you_go", "pay_up_front")),
                "id": nullable(text),
            }
        )
    ),
    "refunded_at": nullable(date_time),
    "cancellation_reason": nullable(
        one_of(
            "billing_error",
            "cancelled_by_developer",
            "new_subscription_replace",
            "price_increase",
            "product_was_not_available",
            "refund",
            "unknown",
            "upgraded",
            "voluntarily_cancelled",
            "adapty_revoked",
        )
    ),
}
_one_time = record(_PURCHASE)
_subscription = record(
    {
        **_PURCHASE,
        "originally_purchased_at": Required(date_time),
        "expires_at": Required(date_time),
        "renew_status": Required(flag),
        "renew_status_changed_at": nullable(date_time),
        "billing_issue_detected_at": nullable(date_time),
        "grace_period_expires_at": nullable(date_time),
    }
)

_RELATIONS: Mapping[str, Callable[[datetime, datetime], bool]] = {
    "later than": operator.gt,
    "later or equal to": operator.ge,
    "earlier than or equal to": operator.le,
}
_ISSUE = "billing_issue_detected_at"
# Code, field, relation and other field.
_DATES = (
    (f"{_ISSUE}_date_comparison_error", _ISSUE, "later than", "purchased_at"),
    ("expires_date_error", "expires_at", "later than", "purchased_at"),
    (
        "grace_period_expires_date_error",
        "grace_period_expires_at",
        "later or equal to",
        "expires_at",
    ),
    (
        "originally_purchased_date_error",
        "originally_purchased_at",
        "earlier than or equal to",
        "purchased_at",
    ),
    ("refund_date_error", "refunded_at", "later than", "purchased_at"),
    ("renew_status_changed_date_error", "renew_status_changed_at", "later than", "purchased_at"),
)


def _conflicts(purchase: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    """Yield the broken rules between fields: code, source and message as documented."""
    offer = purchase.get("offer") or {}
    is_free = purchase["price"]["value"] == 0
    if purchase.get("is_family_shared") and not is_free:
        message = "If is_family_shared is true, price.value must be 0."
        yield "family_share_price_error", "is_family_shared", message
    if offer.get("type") == "free_trial":
        if purchase["purchase_type"] == "one_time_purchase":
            message = "One-time purchase cannot have a trial."
            yield "one_time_purchase_trial_error", "offer.type", message
        elif not is_free:
            message = "If offer_type is 'free_trial', price.value must be 0."
            yield "free_trial_price_error", "offer_type", message
    if offer and offer["category"] != "introductory" and not offer.get("id"):
        message = "offer_id must be specified for all offer types except 'introductory'."
        yield "missing_offer_id", "offer_category", message
    if bool(purchase.get("refunded_at")) != (purchase.get("cancellation_reason") == "refund"):
        message = "refunded_at and cancellation_reason=refund must be specified together."
        yield "refund_fields_error", "refunded_at", message


def _conflicts_of_its_type(purchase: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    if purchase.get("grace_period_expires_at") and not purchase.get("billing_issue_detected_at"):
        message = "If grace_period_expires_at is specified, billing_issue_detected_at must also be"
        yield "grace_period_billing_error", "grace_period_billing_error", f"{message} specified."
    same = purchase["store_transaction_id"] == purchase["store_original_transaction_id"]
    if purchase["purchase_type"] == "one_time_purchase" and not same:
        yield (
            "store_transaction_id_error",
            "store_transaction_id",
            "store_transaction_id must be equal to store_original_transaction_id for purchase.",
        )


def _conflicting_dates(purchase: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    for code, field, relation, other in _DATES:
        value = purchase.get(field)
        holds = _RELATIONS[relation]
        if value and not holds(parse_date_time(value), parse_date_time(purchase[other])):
            yield code, field, f"{field} must be {relation} {other}."


def parse_date_time(value: str) -> datetime:
    """Parse a date and time that was validated."""
    return datetime.fromisoformat(value)


def transaction(value: Any) -> dict[str, Any]:
    """
    Validate a transaction of either type.

    Raises:
        Invalid: a field is missing or wrong.
        Refusal: the fields contradict each other; it has the documented code.
    """
    is_subscription = isinstance(value, dict) and value.get("purchase_type") == "subscription"
    purchase: dict[str, Any] = (_subscription if is_subscription else _one_time)(value)
    for find in (_conflicting_dates, _conflicts, _conflicts_of_its_type):
        for code, source, message in find(purchase):
            raise Refusal(400, code, Problem(message, source))
    return purchase


# Virtual currencies


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > _METADATA_MAX:
        raise wrong(f"Input should be an object with at most {_METADATA_MAX} keys")
    key_rule = matching("[a-z0-9_]{1,30}", "Key should match ^[a-z0-9_]{1,30}$")
    for key, entry in value.items():
        key_rule(key)
        if len(text(entry)) > _METADATA_LENGTH:
            raise wrong(f"Value should have at most {_METADATA_LENGTH} characters")
    return value


def _items(value: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = list_of(
        record({"currency_code": Required(identifier), "amount": Required(integer)})
    )(value)
    if len(items) > _ITEMS_MAX:
        raise wrong(f"List should have at most {_ITEMS_MAX} items")
    return items


_currency_transaction = record({"items": Required(_items), "metadata": _metadata}, nullable=True)


def currency_transaction(value: Any) -> dict[str, Any]:
    """
    Validate a transaction of virtual currencies.

    Raises:
        Refusal: a 422 if the body breaks its schema, otherwise a 400 with the documented code.
    """
    try:
        body: dict[str, Any] = _currency_transaction(value)
    except Invalid as invalid:
        raise Refusal(422, "validation_error", *invalid.problems) from invalid
    codes = [item["currency_code"] for item in body["items"]]
    if not codes:
        raise Refusal(400, "empty_items", Problem("Items must not be empty", "items"))
    if len(set(codes)) < len(codes):
        problem = Problem("Each currency may appear only once", "currency_code")
        raise Refusal(400, "duplicate_currency", problem)
    if not all(item["amount"] for item in body["items"]):
        raise Refusal(400, "amount_zero", Problem("Amount must not be zero", "amount"))
    return body
