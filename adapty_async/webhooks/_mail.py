"""A mapping of webhook events to the transaction events of the Mail API."""

from __future__ import annotations

from typing import Any, get_args

from msgspec import UNSET, UnsetType

from adapty_async.errors import InvalidInputError, strip_traceback
from adapty_async.mail import EventType, Offer, OfferCategory, OfferType, TransactionEvent
from adapty_async.webhooks._events import Event, PurchaseEvent
from adapty_async.webhooks._properties import PurchaseProperties

_EVENT_TYPES = frozenset(get_args(EventType))
_CATEGORIES, _OFFER_TYPES = frozenset(get_args(OfferCategory)), frozenset(get_args(OfferType))
_ONE_TIME = frozenset({"non_subscription_purchase", "non_subscription_purchase_refunded"})


def transaction_event(
    event: Event, *, external_profile_id: str | None = None
) -> TransactionEvent | None:
    """
    Return the transaction event of the Mail API for a webhook event; None if there is none.

    The Mail API has no event for trials, for paused and deferred subscriptions, for a changed
    access level and for unknown types. The `TransactionEvent` has the `profile_event_id` as its
    id, so a second save changes nothing.

    Args:
        event: the webhook event.
        external_profile_id: the id of the mail profile; by default the `customer_user_id`.

    Raises:
        InvalidInputError: the event lacks a field that the Mail API requires, or the profile is
            anonymous and no `external_profile_id` was passed.

    Source: https://adapty.io/docs/api-adapty-mail/operations/saveTransactionEvent
    """
    if not isinstance(event, PurchaseEvent) or event.default_name not in _EVENT_TYPES:
        return None
    try:
        return TransactionEvent(**_fields_of(event, external_profile_id))
    except InvalidInputError as error:
        raise strip_traceback(error) from None  # the frames below hold the event


def _fields_of(event: PurchaseEvent, external_profile_id: str | None) -> dict[str, Any]:
    properties = event.event_properties
    is_subscription = event.default_name not in _ONE_TIME
    return {
        "event_type": event.default_name,
        "event_id": properties.profile_event_id,
        "event_datetime": event.event_datetime or properties.event_datetime,
        "external_profile_id": external_profile_id or event.customer_user_id,
        "customer_user_id": event.customer_user_id or UNSET,
        "store": properties.store,
        "store_product_id": properties.vendor_product_id,
        "store_transaction_id": properties.transaction_id,
        "store_original_transaction_id": properties.original_transaction_id,
        "purchased_at": properties.purchase_date,
        "originally_purchased_at": properties.original_purchase_date,
        "price_usd": _decimal(properties.price_usd),
        # "Omit for non-subscription purchases"
        "expires_at": (is_subscription and properties.subscription_expires_at) or UNSET,
        "offer": _offer(properties),
    }


def _decimal(amount: float | None) -> str | UnsetType:
    """Return an amount as text without an exponent and without digits of a binary fraction."""
    return UNSET if amount is None else f"{amount:.6f}".rstrip("0").rstrip(".")


def _offer(properties: PurchaseProperties) -> Offer | UnsetType:
    """
    Return the offer; UNSET without one, or for a category that the Mail API does not have.

    The Mail API has the store's id of an offer, and the webhook has Adapty's, so it has no id.
    """
    fields: dict[str, Any] = {
        "category": properties.store_offer_category,
        "offer_type": properties.store_offer_discount_type,
    }
    if fields["category"] not in _CATEGORIES or fields["offer_type"] not in _OFFER_TYPES:
        return UNSET
    return Offer(**fields)
