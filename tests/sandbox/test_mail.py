"""The Mail API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Api

# The examples of the Mail API's documentation.
PROFILE = {
    "external_profile_id": "user_12345",
    "external_created_at": "2026-06-01T10:30:00Z",
    "email": "jane@example.com",
    "country": "US",
    "custom_attributes": {"plan": "trial"},
}
EVENT = {
    "event_type": "subscription_started",
    "event_id": "evt_abc123",
    "event_datetime": "2026-06-10T14:20:05Z",
    "external_profile_id": "user_12345",
    "store": "app_store",
    "store_product_id": "premium_monthly",
    "store_transaction_id": "1000000123456789",
    "store_original_transaction_id": "1000000123456789",
    "purchased_at": "2026-06-10T14:20:00Z",
    "originally_purchased_at": "2026-06-10T14:20:00Z",
    "price_usd": "9.99",
    "expires_at": "2026-07-10T14:20:00Z",
}
SAVE_EVENT = "transaction-event/save"


def error(status: int, code: str, message: str, field: str | None = None) -> dict[str, Any]:
    """Return the error body of the Mail API."""
    item = {"message": message, "error_code": code, "status_code": status, "field_name": field}
    return {"errors": [item]}


async def test_save_stores_the_documented_example(api: Api) -> None:
    """A profile is saved, and the response is an empty object."""
    reply = await api.mail("save", PROFILE)

    assert (reply.status, reply.body) == (200, {})
    assert api.sandbox.mail_profile("user_12345") == PROFILE
    assert api.sandbox.mail_profile_ids() == {"user_12345"}


async def test_the_address_is_write_once(api: Api) -> None:
    """A later save updates the other fields, and leaves the e-mail address as it was."""
    await api.mail("save", PROFILE)
    reply = await api.mail("save", {**PROFILE, "email": "new@example.com", "first_name": "Jane"})

    assert reply.status == 200
    assert api.sandbox.mail_profile("user_12345") == {**PROFILE, "first_name": "Jane"}


@pytest.mark.parametrize(
    "identifier", [{"external_profile_id": "user_12345"}, {"customer_user_id": "c1"}]
)
async def test_a_delete_by_id_succeeds_again(api: Api, identifier: dict[str, str]) -> None:
    """An erasure by an id returns 204 without a body, as does its retry."""
    await api.mail("save", {**PROFILE, "customer_user_id": "c1"})

    replies = [await api.mail("delete", identifier) for _ in range(2)]

    assert [(reply.status, reply.body) for reply in replies] == [(204, "")] * 2
    assert api.sandbox.mail_profile("user_12345") is None
    assert api.sandbox.mail_profile_ids() == set()


async def test_a_delete_by_email_is_404_the_second_time(api: Api) -> None:
    """Erasure clears the address, so there is nothing left to match."""
    await api.mail("save", PROFILE)

    first, second = [await api.mail("delete", {"email": "jane@example.com"}) for _ in range(2)]

    assert first.status == 204
    assert second.status == 404
    assert second.body == error(404, "profile_not_found_error", "Profile not found")


async def test_a_delete_takes_the_first_identifier_that_matches(api: Api) -> None:
    """An unknown external id with a known customer user id erases the latter's profile alone."""
    await api.mail("save", {**PROFILE, "customer_user_id": "c1"})
    await api.mail("save", {**PROFILE, "external_profile_id": "other"})

    identifiers = {"external_profile_id": "unknown", "customer_user_id": "c1", "email": None}
    assert (await api.mail("delete", identifiers)).status == 204

    assert api.sandbox.mail_profile_ids() == {"other"}


async def test_erasure_is_final(api: Api) -> None:
    """A later save of an erased profile returns 200 and recreates nothing."""
    await api.mail("save", PROFILE)
    await api.mail("delete", {"external_profile_id": "user_12345"})

    reply = await api.mail("save", PROFILE)

    assert (reply.status, reply.body) == (200, {})
    assert api.sandbox.mail_profile("user_12345") is None


@pytest.mark.parametrize("body", [{}, {"external_profile_id": None}, {"customer_user_id": ""}])
async def test_a_delete_needs_an_identifier(api: Api, body: dict[str, Any]) -> None:
    """A delete without any identifier returns the documented error."""
    reply = await api.mail("delete", body)

    assert reply.status == 400
    assert reply.body == error(
        400,
        "missing_identifier",
        "At least one of external_profile_id, customer_user_id or email must be provided",
    )


@pytest.mark.parametrize("action", ["save", "delete", SAVE_EVENT])
async def test_a_bad_key_is_403(api: Api, action: str) -> None:
    """A wrong key returns the documented error, whatever the body."""
    reply = await api.mail(action, {}, Authorization="Bearer wrong")

    assert reply.status == 403
    assert reply.body == error(403, "secret_key_does_not_exist_error", "Secret key doesn't exist")


async def test_an_event_is_kept_once(api: Api) -> None:
    """An event precedes its profile, and one with the same event_id changes nothing."""
    replies = [
        await api.mail(SAVE_EVENT, EVENT),
        await api.mail(SAVE_EVENT, {**EVENT, "price_usd": "0.99"}),
    ]

    assert [(reply.status, reply.body) for reply in replies] == [(200, {})] * 2
    assert api.sandbox.mail_events() == [EVENT]


@pytest.mark.parametrize("price", ["10", "0.5", "-9.99"])
async def test_a_price_is_a_decimal_string(api: Api, price: str) -> None:
    """Whole numbers are decimals as well; that of a refund may be negative."""
    assert (await api.mail(SAVE_EVENT, {**EVENT, "price_usd": price})).status == 200


async def test_an_event_forgets_what_only_finds_its_profile(api: Api) -> None:
    """Customer user id and e-mail address aren't stored on the event, an offer is."""
    offer = {"category": "introductory", "offer_type": "free_trial"}
    await api.mail(
        SAVE_EVENT, {**EVENT, "customer_user_id": "c1", "email": "a@b.example", "offer": offer}
    )

    assert api.sandbox.mail_events() == [{**EVENT, "offer": offer}]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        pytest.param({"email": "jane"}, "email", id="no address"),
        pytest.param({"email": "jane@example"}, "email", id="no domain"),
        pytest.param({"email": None}, "email", id="null"),
        pytest.param({"external_profile_id": ""}, "external_profile_id", id="empty id"),
        pytest.param(
            {"external_created_at": "2026-06-01T10:30:00"}, "external_created_at", id="naive"
        ),
        pytest.param({"external_created_at": "today"}, "external_created_at", id="no date"),
        pytest.param({"birthday": "1990-5-21"}, "birthday", id="no ISO date"),
        pytest.param({"country": "us"}, "country", id="lower case"),
        pytest.param({"store_country": "USA"}, "store_country", id="alpha-3"),
        pytest.param({"device_info": {}}, "device_info.platform", id="nested field missing"),
        pytest.param({"device_info": "iOS"}, "device_info", id="no object"),
        pytest.param({"custom_attributes": {"a": True}}, "custom_attributes.a", id="boolean"),
        pytest.param({"custom_attributes": []}, "custom_attributes", id="list of attributes"),
    ],
)
async def test_a_bad_profile_names_the_field(api: Api, change: Any, field: str) -> None:
    """A profile that breaks a rule returns 400 with the field's dotted name, and is not saved."""
    reply = await api.mail("save", {**PROFILE, **change})

    item = reply.body["errors"][0]
    assert reply.status == item["status_code"] == 400
    assert (item["error_code"], item["field_name"]) == ("base_error", field)
    assert api.sandbox.mail_profile_ids() == set()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        pytest.param({"event_type": "purchase"}, "event_type", id="unknown type"),
        pytest.param({"price_usd": "9,99"}, "price_usd", id="comma"),
        pytest.param({"price_usd": 9.99}, "price_usd", id="number"),
        pytest.param(
            {"offer": {"category": "x", "offer_type": "free_trial"}}, "offer.category", id="offer"
        ),
    ],
)
async def test_a_bad_event_names_the_field(api: Api, change: Any, field: str) -> None:
    """An event that breaks a rule returns 400 with the field's dotted name, and is not saved."""
    reply = await api.mail(SAVE_EVENT, {**EVENT, **change})

    assert reply.status == 400
    assert reply.body["errors"][0]["field_name"] == field
    assert api.sandbox.mail_events() == []


async def test_a_missing_field_is_reported_as_documented(api: Api) -> None:
    """The documented error is returned, with one item for each missing field."""
    one = await api.mail("save", {name: PROFILE[name] for name in PROFILE if name != "email"})
    three = await api.mail("save", {})

    assert one.body == error(400, "base_error", "Field required", "email")
    assert [item["field_name"] for item in three.body["errors"]] == [
        "external_profile_id",
        "external_created_at",
        "email",
    ]


@pytest.mark.parametrize("body", [b"{", b"", [], "x"])
async def test_a_body_that_is_no_object_is_400(api: Api, body: Any) -> None:
    """A body that can't be read is an error of no field, and has no identity."""
    reply = await api.mail("save", body)

    assert reply.status == 400
    assert reply.body["errors"][0]["field_name"] is None
    assert api.sandbox.arrivals()[0].identity is None


async def test_the_wrong_media_type_and_method_are_rejected(api: Api) -> None:
    """Other media types return 415 and other methods 405, in the API's own error body."""
    media = await api.mail("save", PROFILE, **{"Content-Type": "text/plain"})
    key = {"Authorization": f"Bearer {api.sandbox.mail_api_key}"}
    method = await api.send("GET", "/api/v1/profile/save/", headers=key)

    assert (media.status, media.body["errors"][0]["status_code"]) == (415, 415)
    assert method.body == error(405, "method_not_allowed", 'Method "GET" not allowed.')
