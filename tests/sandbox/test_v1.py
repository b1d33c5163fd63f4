"""Tests of the sandbox's server-side API, version 1."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import pytest

from .conftest import PROFILES

if TYPE_CHECKING:
    from .conftest import Api

# The example request of "Create profile" in the documentation of the server-side API.
EXAMPLE = {
    "first_name": "Jane",
    "last_name": "Doe",
    "gender": "f",
    "email": "jane.dow@example.com",
    "phone_number": "+1234567890",
    "birthday": "2000-12-31",
    "ip_country": "FR, US",
    "store_country": "FR, US",
    "store": "app_store",
    "analytics_disabled": True,
    "custom_attributes": [{"key": "string", "value": "string"}],
    "installation_meta": {
        "device_id": "3fa85f64-5717-4562-b3fc-2c963f66afa6",
        "device": "string",
        "locale": "string",
        "os": "string",
        "platform": "iOS",
        "timezone": "Europe/Rome",
        "user_agent": "Mozilla/5.0 (iPhone; CPU iPhone OS 17_1_1 like Mac OS X)",
        "idfa": "string",
        "idfv": "string",
        "advertising_id": "string",
        "android_id": "string",
        "android_app_set_id": "string",
    },
}


def error(status: int, code: str, message: str, source: str | None) -> dict[str, Any]:
    """Return the error body of the server-side API."""
    return {
        "errors": [{"source": source, "errors": [message]}],
        "error_code": code,
        "status_code": status,
    }


async def test_create_stores_the_documented_example(api: Api) -> None:
    """A profile is created with every field of the example, and returned in full."""
    reply = await api.v1("POST", EXAMPLE)

    data = reply.body["data"]
    assert reply.status == 200
    assert abs(data.pop("timestamp") / 1000 - time.time()) < 5
    assert UUID(data["profile_id"]).version == 4
    assert data == {
        "profile_id": data["profile_id"],
        "customer_user_id": "u1",
        **EXAMPLE,
        "access_levels": [],
        "subscriptions": [],
        "non_subscriptions": [],
    }
    assert api.sandbox.profile(customer_user_id="u1") == data
    assert api.sandbox.profile(profile_id=data["profile_id"]) == data


async def test_every_response_has_its_own_request_id(api: Api) -> None:
    """Successes and errors carry a Request-Id of 32 hexadecimal digits."""
    replies = [await api.v1("GET"), await api.v1("POST", {}), await api.v1("DELETE")]

    ids = {UUID(reply.headers["Request-Id"]).hex for reply in replies}
    assert ids == {reply.headers["Request-Id"] for reply in replies}
    assert len(ids) == 3


async def test_get_finds_by_either_identity(api: Api) -> None:
    """The same profile is found by its customer user id and by its profile id."""
    created = (await api.v1("POST", b"")).body["data"]

    by_customer = await api.v1("GET")
    by_profile = await api.v1(
        "GET", adapty_customer_user_id=None, adapty_profile_id=created["profile_id"]
    )

    assert by_profile.body["data"]["customer_user_id"] == "u1"
    assert by_customer.body["data"]["profile_id"] == created["profile_id"]


async def test_a_second_create_updates(api: Api) -> None:
    """A second POST keeps the profile id, and merges its fields."""
    first = await api.v1("POST", {"first_name": "Jane", "last_name": "Doe"})
    second = await api.v1("POST", {"last_name": "Roe"})

    assert second.status == 200
    assert second.body["data"]["profile_id"] == first.body["data"]["profile_id"]
    assert second.body["data"]["first_name"] == "Jane"
    assert second.body["data"]["last_name"] == "Roe"


async def test_update_distinguishes_null_and_absent(api: Api) -> None:
    """PATCH clears null fields, keeps absent ones, and merges objects key by key."""
    await api.v1("POST", EXAMPLE)

    reply = await api.v1(
        "PATCH",
        {
            "first_name": None,
            "custom_attributes": {"string": "", "new": True},
            "installation_meta": {"device": None, "os": "18"},
        },
    )

    data = reply.body["data"]
    assert reply.status == 200
    assert "first_name" not in data
    assert data["last_name"] == "Doe"
    assert data["custom_attributes"] == [{"key": "new", "value": 1.0}]
    assert data["installation_meta"] == {
        key: "18" if key == "os" else value
        for key, value in EXAMPLE["installation_meta"].items()  # type: ignore[attr-defined]
        if key != "device"
    }


async def test_an_emptied_object_is_gone(api: Api) -> None:
    """Clearing the last attribute and all device fields leaves an empty list and no object."""
    await api.v1("POST", {"custom_attributes": {"a": "b"}, "installation_meta": {"os": "18"}})

    reply = await api.v1("PATCH", {"custom_attributes": {"a": None}, "installation_meta": None})

    assert reply.body["data"]["custom_attributes"] == []
    assert "installation_meta" not in reply.body["data"]


async def test_numbers_become_floats(api: Api) -> None:
    """Booleans and integers among the custom attributes are stored as floats."""
    await api.v1("POST", {"custom_attributes": {"a": True, "b": 7, "c": 1.5, "d": "7"}})

    stored = api.sandbox.profile(customer_user_id="u1")
    assert stored is not None
    values = [item["value"] for item in stored["custom_attributes"]]
    assert values == [1.0, 7.0, 1.5, "7"]
    assert [type(value) for value in values] == [float, float, float, str]


async def test_delete_is_empty_and_then_404(api: Api) -> None:
    """The first DELETE returns 204 without a body, the next one 404."""
    api.sandbox.seed_profiles(["u1", "u2"])

    first, second = await api.v1("DELETE"), await api.v1("DELETE")

    assert (first.status, first.body) == (204, "")
    assert second.status == 404
    assert second.body == error(404, "profile_does_not_exist", "Profile not found", None)
    assert api.sandbox.customer_user_ids() == {"u2"}


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE", "POST"])
async def test_an_unknown_profile_id_is_404(api: Api, method: str) -> None:
    """An unknown profile id is not found by any method, nor created."""
    reply = await api.v1(method, {}, adapty_customer_user_id=None, adapty_profile_id="nobody")

    assert reply.status == 404
    assert reply.body["error_code"] == "profile_does_not_exist"


@pytest.mark.parametrize("key", [None, "Api-Key wrong", "Bearer secret"])
async def test_a_bad_key_is_401(api: Api, key: str | None) -> None:
    """A missing key, a wrong key and a wrong scheme return the documented error."""
    reply = await api.v1("GET", Authorization=key)

    assert reply.status == 401
    assert reply.body == error(
        401,
        "not_authenticated",
        "Authentication credentials were not provided.",
        "non_field_errors",
    )


async def test_identity_is_needed_once(api: Api) -> None:
    """Neither identity header, or both of them, is rejected."""
    neither = await api.v1("GET", adapty_customer_user_id=None)
    both = await api.v1("GET", adapty_profile_id="p")

    message = "Exactly one header is required: adapty-profile-id or adapty-customer-user-id"
    assert neither.body == both.body == error(400, "validation_error", message, "non_field_errors")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_request_without_a_body_needs_a_media_type(api: Api, method: str) -> None:
    """Version 1 requires the header of every request, as its page says, and version 2 of bodies."""
    api.sandbox.seed_profiles(["u1"])
    replies = [
        await api.v1(method, Content_Type=None),
        await api.v2(method, "profile/", Content_Type=None),
    ]

    assert replies[0].body == error(
        415, "unsupported_media_type", 'Unsupported media type "" in request.', None
    )
    assert replies[1].status in (200, 204)


async def test_other_media_types_are_415(api: Api) -> None:
    """Only application/json is accepted, with or without a charset."""
    wrong = await api.v1("POST", b"{}", Content_Type="text/plain")
    right = await api.v1("POST", b"{}", Content_Type="Application/JSON; charset=utf-8")

    assert wrong.status == 415
    assert wrong.body["error_code"] == "unsupported_media_type"
    assert right.status == 200


async def test_other_methods_are_405(api: Api) -> None:
    """An undocumented method is rejected with the API's own error body."""
    reply = await api.v1("PUT", {})

    assert reply.status == 405
    assert reply.body == error(405, "method_not_allowed", 'Method "PUT" not allowed.', None)


async def test_identity_headers_are_utf_8(api: Api) -> None:
    """A customer user id outside ASCII is read as UTF-8."""
    assert (await api.v1("POST", {}, adapty_customer_user_id="jürgen-東京")).status == 200

    assert api.sandbox.customer_user_ids() == {"jürgen-東京"}
    assert api.sandbox.arrivals()[0].identity == "jürgen-東京"


async def test_a_header_that_is_no_utf_8_is_400(api: Api) -> None:
    """A customer user id in Latin-1 is rejected, and logged with the byte replaced."""
    host, port = api.sandbox.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"GET {PROFILES} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nAuthorization: Api-Key {api.sandbox.api_key}\r\n"
        "adapty-customer-user-id: jürgen\r\n\r\n".encode("latin-1")
    )
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 400")
    assert b'"source":"adapty-customer-user-id"' in answer
    assert api.sandbox.arrivals()[0].identity == "j\ufffdrgen"


@pytest.mark.parametrize(
    ("body", "source"),
    [
        pytest.param([], None, id="no object"),
        pytest.param({"first_name": 1}, "first_name", id="number for a string"),
        pytest.param({"analytics_disabled": "yes"}, "analytics_disabled", id="string for a bool"),
        pytest.param({"birthday": "20001231"}, "birthday", id="date without dashes"),
        pytest.param({"birthday": "2000-13-01"}, "birthday", id="month 13"),
        pytest.param({"birthday": 2000}, "birthday", id="year"),
        pytest.param({"installation_meta": "x"}, "installation_meta", id="no nested object"),
        pytest.param({"installation_meta": {"os": 1}}, "installation_meta.os", id="nested field"),
        pytest.param({"custom_attributes": {}}, "custom_attributes", id="no attribute"),
        pytest.param({"custom_attributes": []}, "custom_attributes", id="empty list"),
        pytest.param({"custom_attributes": "a"}, "custom_attributes", id="no collection"),
        pytest.param({"custom_attributes": ["a"]}, "custom_attributes", id="no pair"),
        pytest.param({"custom_attributes": [{"key": "a"}]}, "custom_attributes", id="no value"),
        pytest.param({"custom_attributes": {"a b": "c"}}, "custom_attributes", id="bad key"),
        pytest.param({"custom_attributes": {"a" * 31: "c"}}, "custom_attributes", id="long key"),
        pytest.param({"custom_attributes": {"a": "c" * 31}}, "custom_attributes", id="long value"),
        pytest.param({"custom_attributes": {"a": ["c"]}}, "custom_attributes", id="list value"),
        pytest.param({"custom_attributes": {"a": 10**400}}, "custom_attributes", id="huge number"),
    ],
)
async def test_a_bad_body_names_the_field(api: Api, body: Any, source: str | None) -> None:
    """A body that breaks a rule returns 400 with the field as source, and creates nothing."""
    reply = await api.v1("POST", body)

    assert reply.status == 400
    assert reply.body["error_code"] == "validation_error"
    assert [item["source"] for item in reply.body["errors"]] == [source]
    assert api.sandbox.customer_user_ids() == set()


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000], ids=["cut", "bytes", "deep"])
async def test_a_body_that_is_no_json_is_400(api: Api, body: bytes) -> None:
    """A body that can't be parsed is an error of the request, not of the server."""
    reply = await api.v1("POST", body)

    assert reply.status == 400
    assert reply.body["errors"][0]["errors"][0].startswith("JSON parse error")


async def test_an_attribute_at_the_limits_is_accepted(api: Api) -> None:
    """Keys and values may have 30 characters, values of version 2 50."""
    replies = [
        await api.v1("POST", {"custom_attributes": {"k" * 30: "v" * 30}}),
        await api.v2("POST", "profile/", {"custom_attributes": [{"key": "k", "value": "v" * 50}]}),
        await api.v2("POST", "profile/", {"custom_attributes": [{"key": "k", "value": "v" * 51}]}),
    ]

    assert [reply.status for reply in replies] == [200, 200, 400]


async def test_thirty_custom_attributes_are_the_most(api: Api) -> None:
    """The limit holds for the profile as a whole, not for one request."""
    full = await api.v1("POST", {"custom_attributes": {f"a{n}": "x" for n in range(30)}})
    over = await api.v1("PATCH", {"custom_attributes": {"b": "x"}})
    swap = await api.v1("PATCH", {"custom_attributes": {"b": "x", "a0": None}})

    assert [full.status, over.status, swap.status] == [200, 400, 200]
    assert over.body["errors"][0]["source"] == "custom_attributes"


async def test_all_problems_are_named_and_unknown_fields_ignored(api: Api) -> None:
    """One response lists every bad field; an undocumented field is not an error."""
    bad = await api.v1("POST", {"email": 1, "store": 2, "shoe_size": 43})
    good = await api.v1("POST", msgspec.json.encode({"shoe_size": 43}))

    assert [item["source"] for item in bad.body["errors"]] == ["email", "store"]
    assert good.status == 200
    assert "shoe_size" not in good.body["data"]
