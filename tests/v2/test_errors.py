"""
Every error code that the documents of version 2 know, in every shape of a body.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from adapty_async.errors import (
    ApiError,
    AuthenticationError,
    ConflictError,
    NotFoundError,
    RateLimitError,
    RequestRejectedError,
)
from adapty_async.testing import FakeTransport, Reply
from tests.v2.samples import CALLS, client

CODES: list[tuple[int, str, type[ApiError]]] = [
    (401, "not_authenticated", AuthenticationError),
    (401, "unauthorized", AuthenticationError),
    # a missing profile is spelled in many ways
    (404, "profile_does_not_exist", NotFoundError),
    (400, "profile_does_not_exist", NotFoundError),
    (404, "profile_not_found", NotFoundError),
    (404, "not_found", NotFoundError),
    (404, "paywall_does_not_exist", NotFoundError),
    # access levels: missing, but not what was asked for, whichever status it comes with
    (400, "paid_access_level_does_not_exist", RequestRejectedError),
    (404, "paid_access_level_does_not_exist", RequestRejectedError),
    (400, "profile_paid_access_level_does_not_exist", RequestRejectedError),
    (400, "revocation_date_more_than_expiration_date", RequestRejectedError),
    (400, "value_error", RequestRejectedError),
    # transactions
    (400, "billing_issue_detected_at_date_comparison_error", RequestRejectedError),
    (400, "expires_date_error", RequestRejectedError),
    (400, "family_share_price_error", RequestRejectedError),
    (400, "free_trial_price_error", RequestRejectedError),
    (400, "grace_period_billing_error", RequestRejectedError),
    (400, "grace_period_expires_date_error", RequestRejectedError),
    (400, "missing_offer_id", RequestRejectedError),
    (400, "one_time_purchase_trial_error", RequestRejectedError),
    (400, "originally_purchased_date_error", RequestRejectedError),
    (400, "refund_date_error", RequestRejectedError),
    (400, "refund_fields_error", RequestRejectedError),
    (400, "renew_status_changed_date_error", RequestRejectedError),
    (400, "store_transaction_id_error", RequestRejectedError),
    # Paddle
    (400, "no_products_found", RequestRejectedError),
    (400, "paddle_api_key_not_found", RequestRejectedError),
    (400, "invalid_paddle_credentials_or_purchase_not_found", RequestRejectedError),
    # settings, identifiers, paywalls
    (400, "validation_error", RequestRejectedError),
    # virtual currencies
    (400, "insufficient_balance", RequestRejectedError),
    (400, "unknown_currency", RequestRejectedError),
    (400, "duplicate_currency", RequestRejectedError),
    (400, "amount_zero", RequestRejectedError),
    (400, "balance_overflow", RequestRejectedError),
    (400, "empty_items", RequestRejectedError),
    (400, "idempotency_key_invalid", RequestRejectedError),
    (400, "invalid_cursor", RequestRejectedError),
    (403, "feature_not_enabled", RequestRejectedError),
    (409, "idempotency_in_flight", ConflictError),
    (409, "duplicate_source_transaction", ConflictError),
    (422, "unprocessable_entity", RequestRejectedError),  # documented without a code
    (429, "rate_limited", RateLimitError),
    # of a profile's fields, and of all the rest
    (400, "base_error", RequestRejectedError),
    (400, "code_of_next_year", RequestRejectedError),
]
WORDS = "What was wrong"
FIELD = "some_field"

SHAPES: dict[str, Callable[[int, str], Any]] = {
    "objects": lambda status, code: {
        "errors": [{"source": FIELD, "errors": [WORDS]}],
        "error_code": code,
        "status_code": status,
    },
    "strings": lambda status, code: {
        "errors": [WORDS],
        "error_code": code,
        "status_code": status,
    },
    "JSON:API": lambda status, code: {
        "errors": [
            {
                "detail": WORDS,
                "source": {"pointer": f"/data/attributes/{FIELD}"},
                "status": str(status),
            }
        ],
        "error_code": code,
    },
    "items": lambda status, code: {
        "errors": [
            {"message": WORDS, "error_code": code, "status_code": status, "field_name": FIELD}
        ]
    },
    "dictionary": lambda status, code: {
        "errors": {FIELD: [WORDS]},
        "error_code": code,
        "status_code": status,
    },
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("status", "code", "kind"), CODES, ids=[f"{code}-{status}" for status, code, _ in CODES]
)
async def test_a_code_becomes_its_error_in_every_shape(
    status: int, code: str, kind: type[ApiError], shape: str
) -> None:
    """
    Class, status, code, words, field, request id and wait are read from each of the five bodies.
    """
    body = msgspec.json.encode(SHAPES[shape](status, code))
    headers = {"Request-Id": "758f01df", "Retry-After": "100"}
    api = client(FakeTransport([(status, headers, body)])).v2

    with pytest.raises(ApiError) as caught:
        await CALLS["virtual_currencies.create_transaction"](api)
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.error_code) == (status, code)
    assert [item.message for item in error.errors] == [WORDS]
    assert error.field_name == (None if shape == "strings" else FIELD)
    assert (error.request_id, error.retry_after, error.attempts) == ("758f01df", 100.0, 1)
    assert (error.recognised, error.body) == (True, body)
    assert error.operation == "v2.virtual_currencies.create_transaction"


async def test_stripes_errors_have_no_code_of_their_own() -> None:
    """
    The documented body of a refused Stripe token gives its field and words, and no code.
    """
    body = msgspec.json.encode(
        {
            "errors": [
                {
                    "detail": "none is not an allowed value",
                    "source": {"pointer": "/data/attributes/stripe_token"},
                    "status": "400",
                }
            ]
        }
    )
    api = client(FakeTransport([(400, {}, body)])).v2

    with pytest.raises(RequestRejectedError, match=r"^status 400, field stripe_token, ") as caught:
        await CALLS["purchases.validate_stripe"](api)
    assert caught.value.error_code is None
    assert caught.value.errors[0].status_code == 400


@pytest.mark.parametrize("call", CALLS)
async def test_a_gateways_page_is_no_word_of_the_api(call: str) -> None:
    """
    404 and 403 in HTML say nothing about a profile or a key, whatever was called.
    """
    replies: list[Reply] = [(404, {}, b"<html>"), (403, {}, b"<html>")]
    api = client(FakeTransport(replies)).v2

    for _ in replies:
        with pytest.raises(RequestRejectedError) as caught:
            await CALLS[call](api)
        assert not caught.value.recognised
