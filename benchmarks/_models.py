"""The library's models as pydantic models with the same types."""

from __future__ import annotations

import datetime as dt
import types
from typing import Any

from pydantic import AwareDatetime, create_model

__all__ = ("ANSWER", "MAIL_PROFILE")


def _maybe(*names: str, kind: Any = str) -> dict[str, Any]:
    return dict.fromkeys(names, (kind | None, None))


def _texts(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, (str, ""))


def _many(model: Any) -> Any:
    return types.GenericAlias(list, (model,))


def _model(name: str, **fields: Any) -> Any:
    return create_model(name, **fields)


_DEVICE = _model(
    "Device",
    platform=(str, ...),
    **_maybe("device", "os", "locale", "timezone", "app_version"),
)
MAIL_PROFILE = _model(
    "MailProfile",
    external_profile_id=(str, ...),
    external_created_at=(AwareDatetime, ...),
    email=(str, ...),
    birthday=(dt.date | None, None),
    custom_attributes=(dict[str, str | float], ...),
    device_info=(_DEVICE | None, None),
    **_maybe("customer_user_id", "first_name", "last_name", "gender", "country", "store_country"),
)

_OFFER = _model("Offer", **_texts("category", "type"), **_maybe("id"))
_PURCHASE: dict[str, Any] = {
    **_texts("store", "store_product_id", "store_transaction_id", "store_original_transaction_id"),
    **_maybe("store_base_plan_id", "cancellation_reason"),
    **_maybe(
        "purchased_at",
        "originally_purchased_at",
        "expires_at",
        "renewal_cancelled_at",
        "billing_issue_detected_at",
        kind=AwareDatetime,
    ),
    "offer": (_OFFER | None, None),
    "is_in_grace_period": (bool, False),
}
_ACCESS_LEVEL = _model(
    "AccessLevel", access_level_id=(str, ""), starts_at=(AwareDatetime | None, None), **_PURCHASE
)
_SUBSCRIPTION = _model("Subscription", environment=(str, ""), **_PURCHASE)
_NON_SUBSCRIPTION = _model(
    "NonSubscription",
    purchased_at=(AwareDatetime | None, None),
    is_refund=(bool, False),
    is_consumable=(bool, False),
    **_texts("purchase_id", "store", "store_product_id", "store_transaction_id", "environment"),
    **_texts("store_original_transaction_id"),
    **_maybe("store_base_plan_id"),
)
_ATTRIBUTE = _model("Attribute", key=(str, ...), value=(str | float, ...))
_PROFILE = _model(
    "Profile",
    customer_user_id=(str | None, None),
    total_revenue_usd=(float, 0.0),
    timestamp=(int, 0),
    custom_attributes=(_many(_ATTRIBUTE), []),
    access_levels=(_many(_ACCESS_LEVEL), []),
    subscriptions=(_many(_SUBSCRIPTION), []),
    non_subscriptions=(_many(_NON_SUBSCRIPTION), []),
    **_texts("app_id", "profile_id", "segment_hash"),
)
ANSWER = _model("Answer", data=(_PROFILE, ...))
