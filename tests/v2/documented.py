"""
The errors that Adapty documents for version 2, and the five shapes that bodies of errors have.

What stands in the OpenAPI document is compared with this table by ``tests/contract``; the rest is
on the pages of the documentation, see `ON_PAGES_ONLY`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from adapty_async.errors import (
    ApiError,
    AuthenticationError,
    ConflictError,
    NotFoundError,
    RateLimitError,
    RequestRejectedError,
    ServerError,
)

NONE = "non_field_errors"


class Documented(NamedTuple):
    """
    One way in which a call fails.

    `source` is the field that Adapty's documentation names; None and ``non_field_errors`` are none.
    """

    status: int
    code: str
    kind: type[ApiError]
    source: str | None
    message: str

    @property
    def field(self) -> str | None:
        """The field of the request that it is about."""
        return None if self.source == NONE else self.source


def _refused(code: str, source: str | None, message: str) -> Documented:
    return Documented(400, code, RequestRejectedError, source, message)


_KEY = "Authentication credentials were not provided."
_LEVEL = "Paid access level `premium` does not exist"
_REVOCATION = (
    "Revocation date (2029-08-29 09:33:42+00:00) is more than current expiration date "
    "(2028-08-29 09:33:42+00:00)"
)
_VIRTUAL_CURRENCIES = "Server API for virtual currencies is not enabled for this app."
_TOGETHER = "refunded_at and cancellation_reason=refund must be specified together."
_SAME_ID = "store_transaction_id must be equal to store_original_transaction_id for purchase."

ERRORS: tuple[Documented, ...] = (
    Documented(401, "not_authenticated", AuthenticationError, NONE, _KEY),
    Documented(401, "unauthorized", AuthenticationError, None, "Invalid API key"),
    # a missing profile is spelled in many ways
    Documented(404, "profile_does_not_exist", NotFoundError, None, "Profile not found"),
    Documented(400, "profile_does_not_exist", NotFoundError, NONE, "Profile not found"),
    Documented(404, "profile_not_found", NotFoundError, None, "Profile not found"),
    Documented(404, "not_found", NotFoundError, NONE, "Not found."),
    Documented(404, "paywall_does_not_exist", NotFoundError, None, "Paywall not found"),
    # access levels: missing, but not what was asked for, whichever status it comes with
    _refused("paid_access_level_does_not_exist", NONE, _LEVEL),
    Documented(404, "paid_access_level_does_not_exist", RequestRejectedError, NONE, _LEVEL),
    _refused("profile_paid_access_level_does_not_exist", NONE, "Profile has no access level"),
    _refused("revocation_date_more_than_expiration_date", "revoke_at", _REVOCATION),
    _refused("value_error", None, "Must be greater than the current time or null"),
    # transactions
    _refused(
        "billing_issue_detected_at_date_comparison_error",
        "billing_issue_detected_at",
        "billing_issue_detected_at must be later than purchased_at.",
    ),
    _refused("expires_date_error", "expires_at", "expires_at must be later than purchased_at."),
    _refused("family_share_price_error", "is_family_shared", "price.value must be 0."),
    _refused("free_trial_price_error", "offer_type", "price.value must be 0."),
    _refused(
        "grace_period_billing_error",
        "grace_period_billing_error",
        "billing_issue_detected_at must also be specified.",
    ),
    _refused(
        "grace_period_expires_date_error",
        "grace_period_expires_at",
        "grace_period_expires_at must be later or equal to expires_at.",
    ),
    _refused("missing_offer_id", "offer_category", "offer_id must be specified"),
    _refused("one_time_purchase_trial_error", "offer.type", "One-time purchase has no trial."),
    _refused(
        "originally_purchased_date_error",
        "originally_purchased_at",
        "originally_purchased_at must be earlier than or equal to purchased_at.",
    ),
    _refused("refund_date_error", "refunded_at", "refunded_at must be later than purchased_at."),
    _refused("refund_fields_error", "refunded_at", _TOGETHER),
    _refused(
        "renew_status_changed_date_error",
        "renew_status_changed_at",
        "renew_status_changed_at must be later than purchased_at.",
    ),
    _refused("store_transaction_id_error", "store_transaction_id", _SAME_ID),
    # Paddle
    _refused("no_products_found", NONE, "No products found for purchase"),
    _refused("paddle_api_key_not_found", NONE, "Paddle API key not found"),
    _refused(
        "invalid_paddle_credentials_or_purchase_not_found",
        NONE,
        "Invalid Paddle credentials or purchase not found",
    ),
    # settings, identifiers, paywalls
    _refused("validation_error", "page_size", "Must be between 1 and 100."),
    # virtual currencies
    _refused("insufficient_balance", "currency_code", "Insufficient balance for currency COINS"),
    _refused("unknown_currency", "currency_code", "Unknown currency"),
    _refused("duplicate_currency", "currency_code", "Each currency once"),
    _refused("amount_zero", "amount", "Not zero"),
    _refused("balance_overflow", "currency_code", "Balance overflow"),
    _refused("empty_items", "items", "No items"),
    _refused("idempotency_key_invalid", None, "Must be a valid UUID v4"),
    _refused("invalid_cursor", "cursor", "Invalid cursor"),
    Documented(403, "feature_not_enabled", RequestRejectedError, None, _VIRTUAL_CURRENCIES),
    Documented(409, "idempotency_in_flight", ConflictError, None, "A similar request"),
    Documented(409, "duplicate_source_transaction", ConflictError, None, "Credited before"),
    Documented(429, "rate_limited", RateLimitError, None, "Too many requests"),
    # of a profile's fields: its page shows this for the code
    _refused("string", "email", "Enter a valid email address."),
)
NEW: tuple[Documented, ...] = (
    # what the documents leave open: statuses without a code, and codes of next year
    _refused("code_of_next_year", "field_of_next_year", "Wrong"),
    Documented(422, "code_of_next_year", RequestRejectedError, "items", "Too many"),
    Documented(500, "code_of_next_year", ServerError, None, "Internal server error"),
)
#: Errors that the pages of the operations show and the OpenAPI document does not.
#:
#: Source: https://adapty.io/docs/api-adapty/operations/createProfile and the other operations
ON_PAGES_ONLY = {
    # profiles
    (400, "string"),
    (404, "not_found"),
    # grantAccessLevel, revokeAccessLevel
    (400, "paid_access_level_does_not_exist"),
    (404, "paid_access_level_does_not_exist"),
    (400, "profile_paid_access_level_does_not_exist"),
    (400, "revocation_date_more_than_expiration_date"),
    (400, "value_error"),
    # setTransaction
    (400, "billing_issue_detected_at_date_comparison_error"),
    (400, "expires_date_error"),
    (400, "family_share_price_error"),
    (400, "free_trial_price_error"),
    (400, "grace_period_billing_error"),
    (400, "grace_period_expires_date_error"),
    (400, "missing_offer_id"),
    (400, "one_time_purchase_trial_error"),
    (400, "originally_purchased_date_error"),
    (400, "refund_date_error"),
    (400, "refund_fields_error"),
    (400, "renew_status_changed_date_error"),
    (400, "store_transaction_id_error"),
}


def _objects(one: Documented) -> dict[str, Any]:
    return {
        "errors": [{"source": one.source, "errors": [one.message]}],
        "error_code": one.code,
        "status_code": one.status,
    }


def _strings(one: Documented) -> dict[str, Any]:
    return {"errors": [one.message], "error_code": one.code, "status_code": one.status}


def _json_api(one: Documented) -> dict[str, Any]:
    # the documents show this shape without a code; one would stand where the others have it
    source = {"pointer": f"/data/attributes/{one.field}"} if one.field else None
    entry = {"detail": one.message, "source": source, "status": str(one.status)}
    return {"errors": [entry], "error_code": one.code}


def _items(one: Documented) -> dict[str, Any]:
    entry = {
        "message": one.message,
        "error_code": one.code,
        "status_code": one.status,
        "field_name": one.field,
    }
    return {"errors": [entry]}


def _dictionary(one: Documented) -> dict[str, Any]:
    return {
        "errors": {one.source or NONE: [one.message]},
        "error_code": one.code,
        "status_code": one.status,
    }


SHAPES: dict[str, Callable[[Documented], dict[str, Any]]] = {
    "objects": _objects,
    "strings": _strings,
    "JSON:API": _json_api,
    "items": _items,
    "dictionary": _dictionary,
}
