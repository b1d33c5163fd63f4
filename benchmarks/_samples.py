"""Sample data of the benchmarks: ids, a Mail profile, and profiles as in the servers' responses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

__all__ = (
    "CUSTOM_ATTRIBUTES",
    "DEVICE",
    "PROFILE_V1",
    "PROFILE_V2",
    "SAVED",
    "ids",
    "mail_fields",
)


def ids(count: int) -> Iterator[str]:
    """Yield `count` ids."""
    return (f"user_{number}" for number in range(count))


DEVICE = {
    "platform": "iOS",
    "device": "iPhone15,2",
    "os": "17.5.1",
    "locale": "en-US",
    "timezone": "America/New_York",
    "app_version": "3.1.0",
}
CUSTOM_ATTRIBUTES: dict[str, str | float] = {
    "plan": "annual",
    "source": "spring campaign",
    "sessions": 42.0,
    "favourite_team": "Northern Lights",
    "newsletter": "weekly",
    "onboarding": "finished",
    "referrals": 3.0,
    "last_campaign": "autumn sale, second reminder",
    "interests": "running, tennis, open water swimming",
    "cohort": "2024-05",
}


def mail_fields(each: str) -> dict[str, Any]:
    """Return the JSON values of a Mail profile of about 700 bytes."""
    return {
        "external_profile_id": each,
        "external_created_at": "2024-05-01T12:30:00+00:00",
        "email": "jane.doe@example.com",
        "customer_user_id": each,
        "first_name": "Jane",
        "last_name": "Doe",
        "gender": "f",
        "birthday": "1990-04-12",
        "country": "US",
        "store_country": "US",
        "custom_attributes": CUSTOM_ATTRIBUTES,
        "device_info": DEVICE,
    }


def _level(number: int) -> dict[str, Any]:
    return {
        "access_level_id": f"premium_{number}",
        "store": "app_store",
        "store_product_id": "premium_monthly",
        "store_base_plan_id": None,
        "store_transaction_id": "1000000123456789",
        "store_original_transaction_id": "1000000123456780",
        "offer": {"category": "introductory", "type": "free_trial", "id": None},
        "starts_at": None,
        "purchased_at": "2024-01-15T10:30:00Z",
        "originally_purchased_at": "2023-12-15T10:30:00Z",
        "expires_at": "2034-02-15T10:30:00Z",
        "renewal_cancelled_at": None,
        "billing_issue_detected_at": None,
        "is_in_grace_period": False,
        "cancellation_reason": None,
    }


def _subscription() -> dict[str, Any]:
    fields = {name: value for name, value in _level(0).items() if name != "starts_at"}
    del fields["access_level_id"]
    return {**fields, "environment": "Production"}


def _json(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


SAVED = _json({"data": None})

PROFILE_V1 = _json(
    {
        "data": {
            "app_id": "5c2d29b8-7a2f-4a4e-9e9c-0d8f5b0d7b11",
            "profile_id": "3fa85f64-5717-4562-b3fc-2c963f66afa6",
            "customer_user_id": "user_1",
            "first_name": "Jane",
            "last_name": "Doe",
            "gender": "f",
            "email": "jane.doe@example.com",
            "phone_number": "+18888888888",
            "birthday": "1990-04-12",
            "ip_country": "US",
            "store_country": "US",
            "store": "app_store",
            "analytics_disabled": False,
            "custom_attributes": [
                {"key": key, "value": value} for key, value in CUSTOM_ATTRIBUTES.items()
            ],
            "device_id": "7a2f4a4e-9e9c-0d8f",
            **{name: value for name, value in DEVICE.items() if name != "app_version"},
            "access_levels": [_level(1)],
        }
    }
)
PROFILE_V2 = _json(
    {
        "data": {
            "app_id": "5c2d29b8-7a2f-4a4e-9e9c-0d8f5b0d7b11",
            "profile_id": "3fa85f64-5717-4562-b3fc-2c963f66afa6",
            "customer_user_id": "user_1",
            "total_revenue_usd": 59.88,
            "segment_hash": "d9a0f2b7c1e3",
            "timestamp": 1_715_000_000_000,
            "custom_attributes": [
                {"key": key, "value": value} for key, value in CUSTOM_ATTRIBUTES.items()
            ],
            "access_levels": [_level(1)],
            "subscriptions": [_subscription()],
            "non_subscriptions": [],
        }
    }
)
