"""
The webhook events of the sandbox: their names and properties, built from purchases and access.

Only a change that a request makes is an event. The end of a subscription, or any other change that
time brings, is none.

Source: https://adapty.io/docs/webhook-event-types-and-fields
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from . import _v2_rules as rules
from ._store import StoredProfile

ACCESS_LEVEL_UPDATED = "access_level_updated"
_FORMAT = "%Y-%m-%dT%H:%M:%S.%f%z"
_TRIAL = "free_trial"


def names(known: Iterable[Mapping[str, Any]], purchase: Mapping[str, Any]) -> list[str]:
    """Return the names of the events of a purchase, by the purchases that were known before."""
    known = list(known)
    before = next((one for one in known if _has_same(one, purchase, "store_transaction_id")), None)
    is_subscription = purchase["purchase_type"] == "subscription"
    if purchase.get("refunded_at"):
        if before is not None and before.get("refunded_at"):
            return []
        return [
            "subscription_refunded" if is_subscription else "non_subscription_purchase_refunded"
        ]
    if not is_subscription:
        return ["non_subscription_purchase"] if before is None else []
    if before is None:
        chain = [one for one in known if _has_same(one, purchase, "store_original_transaction_id")]
        return [_first(purchase) if not chain else _next(chain[-1], purchase)]
    return _changes(before, purchase)


def _has_same(one: Mapping[str, Any], other: Mapping[str, Any], field: str) -> bool:
    return bool(one[field] == other[field])


def _is_trial(purchase: Mapping[str, Any]) -> bool:
    return bool((purchase.get("offer") or {}).get("type") == _TRIAL)


def _first(purchase: Mapping[str, Any]) -> str:
    return "trial_started" if _is_trial(purchase) else "subscription_started"


def _next(last: Mapping[str, Any], purchase: Mapping[str, Any]) -> str:
    was_trial = _is_trial(last) and not _is_trial(purchase)
    return "trial_converted" if was_trial else "subscription_renewed"


def _changes(before: Mapping[str, Any], purchase: Mapping[str, Any]) -> list[str]:
    prefix = "trial" if _is_trial(purchase) else "subscription"
    will_renew = purchase.get("renew_status")
    changes = {
        f"{prefix}_renewal_cancelled": before.get("renew_status") and will_renew is False,
        f"{prefix}_renewal_reactivated": before.get("renew_status") is False and will_renew,
        "billing_issue_detected": _is_new("billing_issue_detected_at", before, purchase),
        "entered_grace_period": _is_new("grace_period_expires_at", before, purchase),
    }
    return [name for name, has_happened in changes.items() if has_happened]


def _is_new(field: str, before: Mapping[str, Any], purchase: Mapping[str, Any]) -> bool:
    return bool(purchase.get(field)) and not before.get(field)


def envelope(
    profile: StoredProfile,
    event_type: str,
    properties: Mapping[str, Any],
    integration_ids: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the body of a webhook about a profile, with a new `profile_event_id`."""
    at = properties["event_datetime"]
    device = profile.attributes.get("installation_meta") or {}
    return {
        "profile_id": profile.profile_id,
        "customer_user_id": profile.customer_user_id,
        "idfv": device.get("idfv"),
        "idfa": device.get("idfa"),
        "advertising_id": device.get("advertising_id"),
        "profile_install_datetime": None,
        "user_agent": device.get("user_agent"),
        "email": profile.attributes.get("email"),
        "event_type": event_type,
        "event_datetime": at,
        "event_properties": {
            **properties,
            "profile_id": profile.profile_id,
            "profile_event_id": str(uuid4()),
        },
        "event_api_version": 1,
        "profiles_sharing_access_level": [],
        "integration_ids": dict(integration_ids) or None,
    }


def purchase_properties(event_type: str, purchase: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties of an event about a purchase."""
    price = purchase["price"]
    amount = None if _is_trial(purchase) else price["value"]
    offer = purchase.get("offer") or {}
    return {
        **_of_store(purchase),
        "currency": price["currency"],
        "price_local": amount,
        "price_usd": amount if price["currency"] == "USD" else None,
        "store_country": price["country"],
        "environment": purchase.get("environment", "Production"),
        "variation_id": purchase.get("variation_id"),
        "cancellation_reason": purchase.get("cancellation_reason"),
        "store_offer_category": offer.get("category"),
        "store_offer_discount_type": offer.get("type"),
        "subscription_expires_at": _date(purchase.get("expires_at")),
        "event_datetime": _date(_happened(event_type, purchase)),
    }


def _happened(event_type: str, purchase: Mapping[str, Any]) -> str:
    """Return the business time of an event: that of the purchase, of the refund, or now."""
    if event_type.endswith("_refunded"):
        return str(purchase["refunded_at"])
    if event_type.endswith(("_cancelled", "_reactivated", "_detected", "_grace_period")):
        return datetime.now(UTC).isoformat()
    return str(purchase["purchased_at"])


def access_properties(access: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties of an event about an access level."""
    now = datetime.now(UTC)
    grace, starts_at = access.get("grace_period_expires_at"), access.get("starts_at")
    expires_at = grace or access["expires_at"]
    has_started = starts_at is None or rules.parse_date_time(starts_at) <= now
    is_open = expires_at is None or rules.parse_date_time(expires_at) > now
    return {
        **_of_store(access),
        "access_level_id": access["access_level_id"],
        "is_active": has_started and is_open,
        "is_lifetime": expires_at is None,
        "is_in_grace_period": grace is not None and is_open,
        "is_refund": access.get("cancellation_reason") == "refund",
        "will_renew": expires_at is not None and access.get("renewal_cancelled_at") is None,
        "activated_at": _date(access["purchased_at"]),
        "starts_at": _date(starts_at),
        "expires_at": _date(expires_at),
        "billing_issue_detected_at": _date(access.get("billing_issue_detected_at")),
        "cancellation_reason": access.get("cancellation_reason"),
        "profile_has_access_level": has_started and is_open,
        "event_datetime": _date(now.isoformat()),
    }


def _of_store(fields: Mapping[str, Any]) -> dict[str, Any]:
    purchased_at = fields["purchased_at"]
    return {
        "store": fields["store"],
        "vendor_product_id": fields["store_product_id"],
        "transaction_id": fields["store_transaction_id"],
        "original_transaction_id": fields["store_original_transaction_id"],
        "purchase_date": _date(purchased_at),
        "original_purchase_date": _date(fields.get("originally_purchased_at") or purchased_at),
    }


def _date(text: str | None) -> str | None:
    """Return a date and time in the format of Adapty's examples."""
    return None if text is None else rules.parse_date_time(text).strftime(_FORMAT)
