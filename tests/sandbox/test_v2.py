"""Version 2 of the server-side API: profiles, purchases and access levels."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from adapty_async.sandbox import Sandbox

from .conftest import Api

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PROFILE = "profile/"
SET = "purchase/set/transaction/"
GRANT = "purchase/profile/grant/access-level/"
REVOKE = "purchase/profile/revoke/access-level/"
REFUND = "purchase/profile/refund-saver/settings/"
INTEGRATIONS = "integration/profile/set/integration-identifiers/"
PADDLE = "purchase/paddle/token/validate/"
STRIPE = "/api/v1/sdk/purchase/stripe/token/validate/"
STRIPE_TYPE = "application/vnd.api+json"

# The examples of setTransaction in the OpenAPI document; the subscription's price is 0 here, as
# the rule about free trials asks for.
ONE_TIME: dict[str, Any] = {
    "purchase_type": "one_time_purchase",
    "store": "app_store",
    "environment": "Production",
    "store_product_id": "premium_lifetime",
    "store_transaction_id": "1000000123456789",
    "store_original_transaction_id": "1000000123456789",
    "is_family_shared": False,
    "price": {"country": "US", "currency": "USD", "value": 9.99},
    "purchased_at": "2024-01-15T10:30:00Z",
    "variation_id": "variation_123",
    "offer": None,
    "refunded_at": None,
    "cancellation_reason": None,
}
SUBSCRIPTION: dict[str, Any] = {
    **ONE_TIME,
    "purchase_type": "subscription",
    "store_product_id": "premium_monthly",
    "price": {"country": "US", "currency": "USD", "value": 0},
    "originally_purchased_at": "2024-01-15T10:30:00Z",
    "expires_at": "2024-02-15T10:30:00Z",
    "renew_status": True,
    "renew_status_changed_at": None,
    "billing_issue_detected_at": None,
    "grace_period_expires_at": None,
    "offer": {"category": "introductory", "type": "free_trial", "id": "trial_offer_123"},
}
# The example of createProfile.
EXAMPLE: dict[str, Any] = {
    "first_name": "Jane",
    "last_name": "Doe",
    "gender": "f",
    "email": "jane.doe@example.com",
    "phone_number": "+1234567890",
    "birthday": "2000-12-31",
    "ip_country": "FR",
    "ip_v4_address": "192.168.1.1",
    "store_country": "US",
    "store": "app_store",
    "store_account_token": "3fa85f64-5717-4562-b3fc-2c963f66afa6",
    "att_status": 3,
    "analytics_disabled": True,
    "custom_attributes": [{"key": "favourite_sport", "value": "yoga"}],
    "installation_meta": {
        "device_id": "3fa85f64-5717-4562-b3fc-2c963f66afa6",
        "platform": "iOS",
        "app_build": "1.0.0",
        "advertising_id": "",
    },
}


def error(status: int, code: str, message: str, source: str | None) -> dict[str, Any]:
    """Return the error body that most operations have."""
    return {
        "errors": [{"source": source, "errors": [message]}],
        "error_code": code,
        "status_code": status,
    }


def plain(status: int, code: str, message: str) -> dict[str, Any]:
    """Return the error body of the operations whose errors are a list of texts."""
    return {"errors": [message], "error_code": code, "status_code": status}


def later(**time: float) -> str:
    """Return the date and time that is `time` from now."""
    return (datetime.now(UTC) + timedelta(**time)).isoformat()


async def created(api: Api) -> dict[str, Any]:
    """Create profile `u1`, and return it."""
    reply = await api.v2("POST", PROFILE, {})
    assert reply.status == 200
    data: dict[str, Any] = reply.body["data"]
    return data


# Profiles


async def test_create_returns_the_profile_without_personal_data(api: Api) -> None:
    """The documented example is stored, and the response has exactly the fields of a profile."""
    reply = await api.v2("POST", PROFILE, EXAMPLE, adapty_platform="iOS")

    data = reply.body["data"]
    assert reply.status == 200
    assert [UUID(data[name]).version for name in ("app_id", "profile_id")] == [5, 4]
    assert abs(data["timestamp"] / 1000 - datetime.now(UTC).timestamp()) < 5
    assert len(data["segment_hash"]) == 16
    assert data == {
        "app_id": data["app_id"],
        "profile_id": data["profile_id"],
        "customer_user_id": "u1",
        "total_revenue_usd": 0.0,
        "segment_hash": data["segment_hash"],
        "timestamp": data["timestamp"],
        "custom_attributes": [{"key": "favourite_sport", "value": "yoga"}],
        "access_levels": [],
        "subscriptions": [],
        "non_subscriptions": [],
    }
    stored = api.sandbox.profile(customer_user_id="u1") or {}
    assert stored["email"] == "jane.doe@example.com"
    assert stored["installation_meta"]["app_build"] == "1.0.0"


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_profile_needs_no_attributes(api: Api, method: str) -> None:
    """A missing body is an empty object, as in an example of the pages."""
    before = await created(api)
    reply = await api.v2(method, PROFILE)

    assert (reply.status, reply.body["data"]["profile_id"]) == (200, before["profile_id"])


async def test_both_versions_have_the_same_profiles(api: Api) -> None:
    """A profile that one version creates can be read and deleted with the other."""
    await api.v1("POST", {"custom_attributes": {"a": 1}})
    read = await api.v2("GET", PROFILE)
    deleted = await api.v2("DELETE", PROFILE)

    assert read.body["data"]["custom_attributes"] == [{"key": "a", "value": 1.0}]
    assert (deleted.status, deleted.body) == (204, "")
    assert (await api.v1("GET")).status == 404


async def test_update_merges_and_clears(api: Api) -> None:
    """PATCH keeps absent fields, and null or an empty value deletes."""
    await api.v2("POST", PROFILE, EXAMPLE)
    changes = {
        "first_name": None,
        "custom_attributes": [
            {"key": "favourite_sport", "value": None},
            {"key": "b", "value": "v" * 50},
        ],
    }
    reply = await api.v2("PATCH", PROFILE, changes)

    assert reply.body["data"]["custom_attributes"] == [{"key": "b", "value": "v" * 50}]
    stored = api.sandbox.profile(customer_user_id="u1") or {}
    assert "first_name" not in stored
    assert stored["last_name"] == "Doe"


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_a_profile_that_is_not_there_is_not_found(api: Api, method: str) -> None:
    """Every operation except creation returns 404."""
    reply = await api.v2(method, PROFILE, {} if method == "PATCH" else None)

    assert reply.status == 404
    assert reply.body == error(404, "profile_does_not_exist", "Profile not found", None)


async def test_creation_attaches_a_customer_to_an_anonymous_profile(api: Api) -> None:
    """Both headers attach a customer user id to an existing profile; a retry changes nothing."""
    [profile_id] = api.sandbox.seed_anonymous(1)
    assert api.sandbox.customer_user_ids() == set()
    for _ in range(2):
        reply = await api.v2("POST", PROFILE, {}, adapty_profile_id=profile_id)
        assert reply.status == 200
        assert reply.body["data"]["profile_id"] == profile_id
        assert reply.body["data"]["customer_user_id"] == "u1"

    assert api.sandbox.customer_user_ids() == {"u1"}


async def test_creation_by_profile_id_needs_the_profile(api: Api) -> None:
    """An unknown profile id is not found, with or without a customer user id."""
    for headers in ({}, {"adapty_customer_user_id": None}):
        reply = await api.v2("POST", PROFILE, {}, adapty_profile_id="p9", **headers)
        assert reply.status == 404


async def test_an_id_of_another_profile_is_not_attached(api: Api) -> None:
    """Neither a profile with another user nor a user with another profile is changed."""
    await created(api)
    [anonymous] = api.sandbox.seed_anonymous(1)
    taken = await api.v2("POST", PROFILE, {}, adapty_profile_id=anonymous)
    profile = await api.v2("GET", PROFILE)
    other = await api.v2(
        "POST",
        PROFILE,
        {},
        adapty_profile_id=profile.body["data"]["profile_id"],
        adapty_customer_user_id="u2",
    )

    assert (taken.status, other.status) == (400, 400)
    assert taken.body["error_code"] == "validation_error"


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"adapty_customer_user_id": None}, "Exactly one header is required"),
        ({"adapty_profile_id": "p1"}, "Exactly one header is required"),
    ],
    ids=["none", "both"],
)
async def test_one_identity_is_needed(api: Api, headers: Any, message: str) -> None:
    """A request without an id, or with both if only one is allowed, is rejected."""
    reply = await api.v2("GET", PROFILE, **headers)

    assert reply.status == 400
    assert reply.body["errors"][0]["errors"][0].startswith(message)


async def test_an_identity_is_utf8(api: Api) -> None:
    """A header in Latin-1 is rejected by its name."""
    host, port = api.sandbox.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"GET /api/v2/server-side-api/profile/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Authorization: Api-Key {api.sandbox.api_key}\r\n"
        "adapty-customer-user-id: jürgen\r\n\r\n".encode("latin-1")
    )
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 400")
    assert b'"source":"adapty-customer-user-id"' in answer


@pytest.mark.parametrize(
    ("body", "source"),
    [
        ({"gender": "x"}, "gender"),
        ({"email": "jane"}, "email"),
        ({"ip_country": "FRA"}, "ip_country"),
        ({"ip_v4_address": "1.2.3"}, "ip_v4_address"),
        ({"store": "amazon"}, "store"),
        ({"store_account_token": "x"}, "store_account_token"),
        ({"att_status": 4}, "att_status"),
        ({"att_status": "1"}, "att_status"),
        ({"att_status": True}, "att_status"),
        ({"custom_attributes": [{"key": "k", "value": "v" * 51}]}, "custom_attributes"),
        ({"custom_attributes": []}, "custom_attributes"),
        ({"installation_meta": {}}, "installation_meta.device_id"),
        ({"installation_meta": {"device_id": "x"}}, "installation_meta.device_id"),
        (b"{", None),
    ],
    ids=str,
)
async def test_a_field_that_breaks_a_rule_is_named(api: Api, body: Any, source: str | None) -> None:
    """A field that breaks a rule is named, with 400."""
    reply = await api.v2("POST", PROFILE, body)

    assert reply.status == 400
    assert reply.body["errors"][0]["source"] == source
    assert api.sandbox.customer_user_ids() == set()


# Keys, methods, media types

KEYED = [
    pytest.param("GET", PROFILE, True, id="profile"),
    pytest.param("POST", SET, True, id="transaction"),
    pytest.param("POST", STRIPE, True, id="stripe"),
    pytest.param("GET", "vc/balances/", True, id="currencies"),
    pytest.param("GET", REFUND, False, id="refund saver"),
    pytest.param("POST", PADDLE, False, id="paddle"),
    pytest.param("GET", INTEGRATIONS, False, id="integrations"),
    pytest.param("GET", "paywalls/", False, id="paywalls"),
    pytest.param("PUT", "paywalls/x/", False, id="paywall"),
]


@pytest.mark.parametrize(("method", "path", "as_objects"), KEYED)
async def test_a_wrong_key_has_two_responses(
    api: Api,
    method: str,
    path: str,
    as_objects: bool,  # noqa: FBT001
) -> None:
    """Some operations return an object and not_authenticated, others a text and unauthorized."""
    reply = await api.v2(method, path, Authorization="Api-Key wrong")

    assert reply.status == 401
    if as_objects:
        message = "Authentication credentials were not provided."
        body = reply.body if path != STRIPE else json.loads(reply.body)
        assert body == error(401, "not_authenticated", message, "non_field_errors")
    else:
        assert reply.body == plain(401, "unauthorized", "Invalid API key")


async def test_methods_and_media_types_are_checked(api: Api) -> None:
    """A wrong method and a body that is not JSON are rejected; unknown paths belong to no API."""
    assert (await api.v2("PUT", PROFILE, {})).status == 405
    assert (await api.v2("PUT", PROFILE, {}, Authorization="x")).status == 401
    assert (await api.v2("POST", "paywalls/x/", {})).status == 405
    assert (await api.v2("POST", PROFILE, b"{}", Content_Type="text/plain")).status == 415
    assert (await api.v2("POST", STRIPE, {})).status == 415
    for path in ("paywalls", "paywalls/x", "paywalls//", "paywalls/x/y/", "else/"):
        reply = await api.v2("GET", path)
        assert (reply.status, reply.headers["Content-Type"]) == (404, "text/html")


async def test_the_log_knows_the_api_and_the_identity(api: Api) -> None:
    """Requests of version 2 are logged as such, without their query, by the id in the header."""
    await created(api)
    await api.v2("GET", "paywalls/?page[size]=1", adapty_customer_user_id=None)

    first, second = api.sandbox.arrivals()
    assert (first.api, first.identity, first.status, first.applied) == ("v2", "u1", 200, True)
    assert (second.api, second.identity) == ("v2", None)
    assert second.path == "/api/v2/server-side-api/paywalls/"


async def test_version_2_has_faults_and_a_rate_of_its_own() -> None:
    """Faults affect version 2 as well, and its rate limit is separate from that of version 1."""
    async with Sandbox(rate=0.001, burst=1) as sandbox:
        api = Api(sandbox)
        sandbox.fail_next("500")
        failed = await api.v2("GET", PROFILE)
        replies = [await api.v2("GET", PROFILE) for _ in range(2)]
        other = await api.v1("GET")

    assert (failed.status, failed.body["error_code"]) == (500, "internal_server_error")
    assert [reply.status for reply in replies] == [404, 429]
    assert replies[1].body["error_code"] == "rate_limited"
    assert int(replies[1].headers["Retry-After"]) > 0
    assert other.status == 404


# Transactions


async def test_a_one_time_purchase_is_access_for_ever(api: Api) -> None:
    """The documented example grants its product's access level without an end."""
    await created(api)
    reply = await api.v2("POST", SET, ONE_TIME)

    data = reply.body["data"]
    [level], [bought] = data["access_levels"], data["non_subscriptions"]
    assert data["total_revenue_usd"] == 9.99
    assert data["subscriptions"] == []
    assert level == {
        "access_level_id": "premium",
        "store": "app_store",
        "store_product_id": "premium_lifetime",
        "store_base_plan_id": None,
        "store_transaction_id": "1000000123456789",
        "store_original_transaction_id": "1000000123456789",
        "offer": None,
        "starts_at": None,
        "purchased_at": "2024-01-15T10:30:00Z",
        "originally_purchased_at": "2024-01-15T10:30:00Z",
        "expires_at": None,
        "renewal_cancelled_at": None,
        "billing_issue_detected_at": None,
        "is_in_grace_period": False,
        "cancellation_reason": None,
    }
    assert UUID(bought.pop("purchase_id")).version == 5
    assert bought == {
        "store": "app_store",
        "store_product_id": "premium_lifetime",
        "store_base_plan_id": None,
        "store_transaction_id": "1000000123456789",
        "store_original_transaction_id": "1000000123456789",
        "purchased_at": "2024-01-15T10:30:00Z",
        "environment": "Production",
        "is_refund": False,
        "is_consumable": False,
    }


async def test_a_transaction_is_set_by_its_id(api: Api) -> None:
    """The same store_transaction_id changes the transaction; a new one of the chain renews it."""
    await created(api)
    await api.v2("POST", SET, SUBSCRIPTION)
    cancelled = {
        **SUBSCRIPTION,
        "renew_status": False,
        "renew_status_changed_at": "2024-01-20T00:00:00Z",
    }
    changed = (await api.v2("POST", SET, cancelled)).body["data"]
    renewal = {
        **SUBSCRIPTION,
        "store_transaction_id": "2",
        "purchased_at": "2024-02-15T10:30:00Z",
        "expires_at": "2024-03-15T10:30:00Z",
        "price": {"country": "US", "currency": "USD", "value": 4.99},
        "offer": None,
    }
    renewed = (await api.v2("POST", SET, renewal)).body["data"]

    assert [one["renewal_cancelled_at"] for one in changed["subscriptions"]] == [
        "2024-01-20T00:00:00Z"
    ]
    [subscription], [level] = renewed["subscriptions"], renewed["access_levels"]
    assert subscription["store_transaction_id"] == level["store_transaction_id"] == "2"
    assert subscription["expires_at"] == level["expires_at"] == "2024-03-15T10:30:00Z"
    assert subscription["environment"] == "Production"
    assert renewed["total_revenue_usd"] == 4.99


async def test_history_may_come_in_any_order(api: Api) -> None:
    """An older transaction that is set later neither shortens access nor hides the newer one."""
    await created(api)
    newer = {
        **SUBSCRIPTION,
        "store_transaction_id": "2",
        "purchased_at": "2024-02-15T10:30:00Z",
        "expires_at": "2024-03-15T10:30:00Z",
    }
    await api.v2("POST", SET, newer)
    data = (await api.v2("POST", SET, SUBSCRIPTION)).body["data"]
    lifetime = (await api.v2("POST", SET, {**ONE_TIME, **_ids("3")})).body["data"]
    after = (await api.v2("POST", SET, {**newer, "store_transaction_id": "4"})).body["data"]

    assert data["access_levels"][0]["expires_at"] == "2024-03-15T10:30:00Z"
    assert data["subscriptions"][0]["store_transaction_id"] == "2"
    assert lifetime["access_levels"][0]["expires_at"] is None
    assert after["access_levels"][0]["expires_at"] is None


def _ids(one: str) -> dict[str, str]:
    return {"store_transaction_id": one, "store_original_transaction_id": one}


async def test_refunds_grace_and_currencies_are_sent(api: Api) -> None:
    """A refund ends the access, a grace period keeps it, and only dollars count as revenue."""
    await created(api)
    refund = {
        **ONE_TIME,
        "refunded_at": "2024-01-16T00:00:00Z",
        "cancellation_reason": "refund",
    }
    refunded = (await api.v2("POST", SET, refund)).body["data"]
    in_grace = {
        **SUBSCRIPTION,
        **_ids("2"),
        "price": {"country": "DE", "currency": "EUR", "value": 5},
        "offer": None,
        "billing_issue_detected_at": "2024-02-15T10:30:00Z",
        "grace_period_expires_at": later(days=1),
        "environment": "Sandbox",
    }
    graced = (await api.v2("POST", SET, in_grace)).body["data"]
    ended = (
        await api.v2("POST", SET, {**in_grace, "grace_period_expires_at": "2024-02-16T00:00:00Z"})
    ).body["data"]

    assert refunded["total_revenue_usd"] == graced["total_revenue_usd"] == 0
    assert refunded["non_subscriptions"][0]["is_refund"] is True
    assert refunded["access_levels"][0]["expires_at"] == "2024-01-16T00:00:00Z"
    assert refunded["access_levels"][0]["cancellation_reason"] == "refund"
    assert graced["access_levels"][0]["is_in_grace_period"] is True
    assert graced["subscriptions"][0]["environment"] == "Sandbox"
    assert ended["access_levels"][0]["is_in_grace_period"] is False


async def test_an_unknown_product_is_recorded_and_opens_nothing(api: Api) -> None:
    """Only products of the app grant an access level; more of them can be added."""
    await created(api)
    unknown = await api.v2("POST", SET, {**ONE_TIME, "store_product_id": "coins_100"})
    api.sandbox.add_access_levels("vip")
    api.sandbox.add_products({"coins_100": "vip"})
    known = await api.v2("POST", SET, {**ONE_TIME, "store_product_id": "coins_100"})

    assert len(unknown.body["data"]["non_subscriptions"]) == 1
    assert unknown.body["data"]["access_levels"] == []
    assert [one["access_level_id"] for one in known.body["data"]["access_levels"]] == ["vip"]


def but(base: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a body with some fields changed."""
    return {**base, **changes}


GRACE = "If grace_period_expires_at is specified, billing_issue_detected_at must also be specified."
PAID = {"country": "US", "currency": "USD", "value": 1}
CONFLICTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "billing_issue_detected_at_date_comparison_error": (
        but(SUBSCRIPTION, billing_issue_detected_at="2024-01-15T10:30:00Z"),
        "billing_issue_detected_at",
        "billing_issue_detected_at must be later than purchased_at.",
    ),
    "expires_date_error": (
        but(SUBSCRIPTION, expires_at="2024-01-15T10:30:00Z"),
        "expires_at",
        "expires_at must be later than purchased_at.",
    ),
    "family_share_price_error": (
        but(ONE_TIME, is_family_shared=True),
        "is_family_shared",
        "If is_family_shared is true, price.value must be 0.",
    ),
    "free_trial_price_error": (
        but(SUBSCRIPTION, price=PAID),
        "offer_type",
        "If offer_type is 'free_trial', price.value must be 0.",
    ),
    "grace_period_billing_error": (
        but(SUBSCRIPTION, grace_period_expires_at="2024-02-16T00:00:00Z"),
        "grace_period_billing_error",
        GRACE,
    ),
    "grace_period_expires_date_error": (
        but(
            SUBSCRIPTION,
            billing_issue_detected_at="2024-02-01T00:00:00Z",
            grace_period_expires_at="2024-02-15T10:29:59Z",
        ),
        "grace_period_expires_at",
        "grace_period_expires_at must be later or equal to expires_at.",
    ),
    "missing_offer_id": (
        but(ONE_TIME, offer={"category": "promotional", "type": "pay_up_front", "id": None}),
        "offer_category",
        "offer_id must be specified for all offer types except 'introductory'.",
    ),
    "one_time_purchase_trial_error": (
        but(ONE_TIME, offer={"category": "introductory", "type": "free_trial"}),
        "offer.type",
        "One-time purchase cannot have a trial.",
    ),
    "originally_purchased_date_error": (
        but(SUBSCRIPTION, originally_purchased_at="2024-01-15T10:30:01Z"),
        "originally_purchased_at",
        "originally_purchased_at must be earlier than or equal to purchased_at.",
    ),
    "refund_date_error": (
        but(ONE_TIME, refunded_at="2024-01-15T10:30:00Z", cancellation_reason="refund"),
        "refunded_at",
        "refunded_at must be later than purchased_at.",
    ),
    "refund_fields_error": (
        but(ONE_TIME, refunded_at="2024-01-16T10:30:00Z"),
        "refunded_at",
        "refunded_at and cancellation_reason=refund must be specified together.",
    ),
    "renew_status_changed_date_error": (
        but(SUBSCRIPTION, renew_status_changed_at="2024-01-15T10:30:00Z"),
        "renew_status_changed_at",
        "renew_status_changed_at must be later than purchased_at.",
    ),
    "store_transaction_id_error": (
        but(ONE_TIME, store_original_transaction_id="1"),
        "store_transaction_id",
        "store_transaction_id must be equal to store_original_transaction_id for purchase.",
    ),
}


@pytest.mark.parametrize("code", CONFLICTS)
async def test_fields_that_contradict_each_other_have_a_code(api: Api, code: str) -> None:
    """Each documented code comes with its source and its words, and nothing is recorded."""
    await created(api)
    body, source, message = CONFLICTS[code]
    reply = await api.v2("POST", SET, body)

    assert reply.status == 400
    assert reply.body == error(400, code, message, source)
    assert (await api.v2("GET", PROFILE)).body["data"]["access_levels"] == []


@pytest.mark.parametrize(
    ("body", "source"),
    [
        ({}, "purchase_type"),
        ([], None),
        (but(ONE_TIME, purchase_type="rent"), "purchase_type"),
        (but(ONE_TIME, store_transaction_id="1" * 51), "store_transaction_id"),
        (but(ONE_TIME, price={"country": "US", "currency": "USD", "value": "1"}), "price.value"),
        (but(ONE_TIME, price={"country": "US", "currency": "USD", "value": True}), "price.value"),
        (but(ONE_TIME, price={"country": "us", "currency": "USD", "value": 1}), "price.country"),
        (but(ONE_TIME, price={"country": "US", "currency": "usd", "value": 1}), "price.currency"),
        (but(ONE_TIME, purchased_at="2024-01-15T10:30:00"), "purchased_at"),
        (but(ONE_TIME, offer={"category": "gift", "type": "free_trial"}), "offer.category"),
        (but(SUBSCRIPTION, renew_status=None), "renew_status"),
        ({"purchase_type": "subscription"}, "store"),
    ],
    ids=str,
)
async def test_a_transaction_that_is_none_is_rejected(
    api: Api, body: Any, source: str | None
) -> None:
    """Missing and wrong fields are named, with a code of their own."""
    await created(api)
    reply = await api.v2("POST", SET, body)

    assert (reply.status, reply.body["error_code"]) == (400, "validation_error")
    assert reply.body["errors"][0]["source"] == source


async def test_a_transaction_at_the_limits_is_recorded(api: Api) -> None:
    """An id may have 50 characters, and a date may equal the one that it must not pass."""
    await created(api)
    ids = dict.fromkeys(("store_transaction_id", "store_original_transaction_id"), "1" * 50)
    end = SUBSCRIPTION["expires_at"]
    dates = {"billing_issue_detected_at": end, "grace_period_expires_at": end}
    equal = {**dates, "originally_purchased_at": SUBSCRIPTION["purchased_at"]}
    replies = [
        await api.v2("POST", SET, {**ONE_TIME, **ids}),
        await api.v2("POST", SET, {**SUBSCRIPTION, **equal}),
    ]

    assert [reply.status for reply in replies] == [200, 200]


# Access levels


async def test_access_is_granted_and_revoked(api: Api) -> None:
    """A grant without dates never ends, a revocation without a date ends it now."""
    await created(api)
    granted = await api.v2("POST", GRANT, {"access_level_id": "premium"})
    later_on = later(days=3)
    planned = await api.v2("POST", REVOKE, {"access_level_id": "premium", "revoke_at": later_on})
    revoked = await api.v2("POST", REVOKE, {"access_level_id": "premium", "revoke_at": None})

    [level] = granted.body["data"]["access_levels"]
    assert (level["store"], level["starts_at"], level["expires_at"]) == ("adapty", None, None)
    assert UUID(level["store_transaction_id"]).version == 4
    assert level["store_original_transaction_id"] == level["store_transaction_id"]
    assert level["originally_purchased_at"] == level["purchased_at"]
    bought = datetime.fromisoformat(level["purchased_at"])
    assert abs((datetime.now(UTC) - bought).total_seconds()) < 5
    assert planned.body["data"]["access_levels"][0]["expires_at"] == later_on
    ended = datetime.fromisoformat(revoked.body["data"]["access_levels"][0]["expires_at"])
    assert abs((datetime.now(UTC) - ended).total_seconds()) < 5


async def test_a_grant_keeps_its_dates(api: Api) -> None:
    """Start and end are returned as granted; another grant replaces them."""
    await created(api)
    body = {
        "access_level_id": "premium",
        "starts_at": "2024-01-01T00:00:00Z",
        "expires_at": "2024-12-31T23:59:59Z",
    }
    [level] = (await api.v2("POST", GRANT, body)).body["data"]["access_levels"]
    for_ever = {**body, "starts_at": None, "expires_at": None}
    [other] = (await api.v2("POST", GRANT, for_ever)).body["data"]["access_levels"]

    assert (level["starts_at"], level["expires_at"]) == (body["starts_at"], body["expires_at"])
    assert (other["starts_at"], other["expires_at"]) == (None, None)


AFTER_THE_END = (
    "Revocation date (2999-08-29 09:33:42+00:00) is more than current expiration date "
    "(2998-08-29 09:33:42+00:00)"
)
REVOCATIONS: dict[str, tuple[Any, str, str, str | None]] = {
    "unknown": (
        {"access_level_id": "vip"},
        "paid_access_level_does_not_exist",
        "Paid access level `vip` does not exist",
        "non_field_errors",
    ),
    "past": (
        {"access_level_id": "premium", "revoke_at": "2024-12-31T23:59:59Z"},
        "value_error",
        "Must be greater than the current time or null",
        None,
    ),
    "after the end": (
        {"access_level_id": "premium", "revoke_at": "2999-08-29T09:33:42+00:00"},
        "revocation_date_more_than_expiration_date",
        AFTER_THE_END,
        "revoke_at",
    ),
}


@pytest.mark.parametrize("case", REVOCATIONS)
async def test_a_revocation_that_makes_no_sense_has_a_code(api: Api, case: str) -> None:
    """The documented codes, sources and words of a rejected revocation."""
    await created(api)
    grant = {"access_level_id": "premium", "expires_at": "2998-08-29T09:33:42+00:00"}
    await api.v2("POST", GRANT, grant)
    body, code, message, source = REVOCATIONS[case]

    assert (await api.v2("POST", REVOKE, body)).body == error(400, code, message, source)


async def test_what_a_profile_has_not_cannot_be_revoked(api: Api) -> None:
    """A profile without the level, an app without it and a missing profile have three errors."""
    profile_id = (await created(api))["profile_id"]
    none = await api.v2("POST", REVOKE, {"access_level_id": "premium"})
    message = f"Profile `{profile_id}` has no `premium` access level"
    unknown = await api.v2("POST", GRANT, {"access_level_id": "vip"})
    missing = await api.v2(
        "POST", GRANT, {"access_level_id": "premium"}, adapty_customer_user_id="u9"
    )

    assert none.body == error(
        400, "profile_paid_access_level_does_not_exist", message, "non_field_errors"
    )
    assert unknown.body["error_code"] == "paid_access_level_does_not_exist"
    assert missing.body == error(404, "profile_does_not_exist", "Profile not found", None)


async def test_what_a_profile_has_goes_with_it(api: Api) -> None:
    """A profile that is recreated after its deletion has no data of the old one."""
    await created(api)
    await api.v2("POST", SET, ONE_TIME)
    await api.v2("POST", REFUND, {"consent": True})
    await api.v2("POST", "vc/transactions/", {"items": [{"currency_code": "COINS", "amount": 1}]})
    await api.v2("DELETE", PROFILE)

    again = await created(api)
    balances = (await api.v2("GET", "vc/balances/")).body["data"]
    assert again["access_levels"] == again["non_subscriptions"] == []
    assert {one["balance"] for one in balances} == {0}


async def test_the_state_outlives_the_server(tmp_path: Path) -> None:
    """A database file keeps purchases and additions to the app."""
    db = str(tmp_path / "sandbox.db")
    async with Sandbox(db=db) as sandbox:
        await created(Api(sandbox))
        await Api(sandbox).v2("POST", SET, ONE_TIME)
        sandbox.add_paywalls("Fourth")
    async with Sandbox(db=db) as sandbox:
        data = (await Api(sandbox).v2("GET", PROFILE)).body["data"]
        paywalls = (await Api(sandbox).v2("GET", "paywalls/")).body

    assert len(data["access_levels"]) == 1
    assert paywalls["meta"]["pagination"]["count"] == 4
