"""The web API: the paywall of a placement, its views, and attributions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Api, Reply

VARIATION = "00000000-0000-0000-0000-000000000000"
# The examples of the documentation, without the user.
PAYWALL: dict[str, Any] = {"store": "app_store", "locale": "en", "placement_id": "onboarding"}
VIEW: dict[str, Any] = {
    "visited_at": "2024-08-24T14:15:22Z",
    "store": "app_store",
    "variation_id": VARIATION,
}
ATTRIBUTION: dict[str, Any] = {
    "status": "organic",
    "attribution_user_id": "attribution_user_id_value",
    "channel": "marketing_channel_value",
    "campaign": "campaign_name_value",
    "ad_group": "ad_group_name_value",
    "ad_set": "ad_set_name_value",
    "creative": "creative_name_value",
}
CALLS = {"paywall": PAYWALL, "paywall/visit": VIEW, "attribution": ATTRIBUTION}


async def post(api: Api, path: str, body: Any, key: str | None = None, **headers: str) -> Reply:
    """Post to the web API, by default with the public key."""
    merged = {
        "Authorization": f"Api-Key {key or api.sandbox.public_key}",
        "Content-Type": "application/json",
        **headers,
    }
    return await api.send("POST", f"/api/v2/web-api/{path}/", body, merged)


def code_of(reply: Reply) -> tuple[int, str]:
    """Return status and code of an error, whose body has the format of the server-side API."""
    assert reply.body["status_code"] == reply.status
    assert all(entry.keys() == {"source", "errors"} for entry in reply.body["errors"])
    return reply.status, reply.body["error_code"]


async def test_a_placement_shows_its_paywall(api: Api) -> None:
    """The paywall has its products, and the remote config in the language that was requested."""
    api.sandbox.seed_profiles(["u1"])
    plain = await post(api, "paywall", {**PAYWALL, "customer_user_id": "u1"})
    assert plain.status == 200
    assert plain.body["paywall_name"] == "Welcome"
    assert "remote_config" not in plain.body

    configs = [{"locale": name, "data": f'"{name}"'} for name in ("de", "en")]
    await api.v2("PUT", f"paywalls/{plain.body['paywall_id']}/", {"remote_configs": configs})
    english = await post(api, "paywall", {**PAYWALL, "customer_user_id": "u1"})
    other = await post(api, "paywall", {**PAYWALL, "locale": "fr", "customer_user_id": "u1"})

    assert english.body["remote_config"] == {"lang": "en", "data": '"en"'}
    assert other.body["remote_config"] == {"lang": "de", "data": '"de"'}
    assert english.body["variation_id"] == plain.body["variation_id"]
    products = [one["vendor_product_id"] for one in plain.body["products"]]
    assert products == ["premium_lifetime", "premium_monthly"]


async def test_placements_can_be_added(api: Api) -> None:
    """A placement shows the paywall that it was added with; one of a deleted id shows none."""
    api.sandbox.seed_profiles(["u1"])
    [paywall_id] = api.sandbox.add_paywalls("Summer")
    api.sandbox.add_placements({"summer": paywall_id, "broken": VARIATION})
    request = {**PAYWALL, "customer_user_id": "u1"}
    reply = await post(api, "paywall", {**request, "placement_id": "summer"})
    missing = [
        code_of(await post(api, "paywall", {**request, "placement_id": name}))
        for name in ("broken", "nowhere")
    ]

    assert (reply.body["paywall_id"], reply.body["paywall_name"]) == (paywall_id, "Summer")
    assert missing == [(404, "VARIATION_DOES_NOT_EXIST_ERROR")] * 2


async def test_views_and_attributions_are_stored(api: Api) -> None:
    """A view counts each time, and an attribution is merged field by field."""
    api.sandbox.seed_profiles(["u1"])
    for body in (VIEW, VIEW):
        reply = await post(api, "paywall/visit", {**body, "customer_user_id": "u1"})
        assert (reply.status, reply.body) == (201, "")
    for fields in (ATTRIBUTION, {"status": "unknown"}):
        reply = await post(api, "attribution", {**fields, "customer_user_id": "u1"})
        assert (reply.status, reply.body) == (201, "")

    profile = api.sandbox.profile(customer_user_id="u1")
    assert profile is not None
    view = {**VIEW, "customer_user_id": "u1", "profile_id": profile["profile_id"]}
    assert api.sandbox.paywall_views() == [view] * 2
    attribution = api.sandbox.attribution(customer_user_id="u1")
    assert attribution == {**ATTRIBUTION, "status": "unknown"}
    assert api.sandbox.attribution(customer_user_id="u2") is None


async def test_a_deleted_profile_takes_its_views_with_it(api: Api) -> None:
    """The views of others stay."""
    api.sandbox.seed_profiles(["u1", "u2"])
    for user in ("u1", "u2"):
        await post(api, "paywall/visit", {**VIEW, "customer_user_id": user})
    await api.v2("DELETE", "profile/")

    assert [view["customer_user_id"] for view in api.sandbox.paywall_views()] == ["u2"]


@pytest.mark.parametrize("path", CALLS)
async def test_each_call_needs_one_id_of_a_profile(api: Api, path: str) -> None:
    """No id, two ids and an unknown profile are rejected; either kind of id is accepted."""
    api.sandbox.seed_profiles(["u1"])
    [profile_id] = api.sandbox.seed_anonymous(1)
    bodies = [
        {},
        {"customer_user_id": "u1", "profile_id": profile_id},
        {"customer_user_id": "u2"},
        {"profile_id": profile_id},
    ]
    replies = [await post(api, path, {**CALLS[path], **ids}) for ids in bodies]

    assert [code_of(reply) for reply in replies[:3]] == [
        (400, "parse_error"),
        (400, "parse_error"),
        (404, "profile_does_not_exist"),
    ]
    assert replies[3].status in (200, 201)


@pytest.mark.parametrize("path", CALLS)
async def test_the_public_key_is_required(api: Api, path: str) -> None:
    """The secret key is not accepted, nor is the public one by the server-side API."""
    reply = await post(api, path, CALLS[path], api.sandbox.api_key)
    other = await api.v2("GET", "profile/", Authorization=f"Api-Key {api.sandbox.public_key}")

    assert code_of(reply) == code_of(other) == (401, "not_authenticated")


BROKEN: dict[str, tuple[str, Any, tuple[int, str]]] = {
    "not JSON": ("paywall", b"{", (400, "parse_error")),
    "not an object": ("attribution", [], (400, "parse_error")),
    "a missing field": ("paywall", {"store": "app_store"}, (400, "parse_error")),
    "a variation that is no UUID": (
        "paywall/visit",
        {**VIEW, "variation_id": "1"},
        (400, "parse_error"),
    ),
    "a date and time": ("paywall/visit", {**VIEW, "visited_at": "today"}, (400, "datetime")),
    "a status": ("attribution", {"status": "paid"}, (400, "enum")),
}
# The errors that the pages show.
SHOWN: dict[str, tuple[str, Any, str | None, str]] = {
    "datetime": (
        "paywall/visit",
        {**VIEW, "visited_at": "today"},
        "visited_at",
        "invalid datetime format",
    ),
    "enum": (
        "attribution",
        {"status": "paid"},
        "status",
        "value is not a valid enumeration member; permitted: 'organic', 'non_organic', 'unknown'",
    ),
    "VARIATION_DOES_NOT_EXIST_ERROR": (
        "paywall",
        {**PAYWALL, "placement_id": "example", "customer_user_id": "u1"},
        None,
        "Variation for example does not exist.",
    ),
    "profile_does_not_exist": (
        "paywall",
        {**PAYWALL, "customer_user_id": "u2"},
        None,
        "Profile not found",
    ),
}


@pytest.mark.parametrize("code", SHOWN)
async def test_an_error_has_the_field_and_the_text_of_its_page(api: Api, code: str) -> None:
    """The whole body of an error is the one that the page shows."""
    api.sandbox.seed_profiles(["u1"])
    path, body, source, text = SHOWN[code]
    reply = await post(api, path, body)

    assert code_of(reply)[1] == code
    assert reply.body["errors"] == [{"source": source, "errors": [text]}]


@pytest.mark.parametrize("name", BROKEN)
async def test_a_body_that_breaks_a_rule_has_the_documented_code(api: Api, name: str) -> None:
    """The code of a rejected body is that of the page about it."""
    path, body, expected = BROKEN[name]

    assert code_of(await post(api, path, body)) == expected
    assert api.sandbox.paywall_views() == []


async def test_other_methods_and_media_types_are_rejected(api: Api) -> None:
    """Only POST with a JSON body is an operation of the web API."""
    key = {"Authorization": f"Api-Key {api.sandbox.public_key}"}
    got = await api.send("GET", "/api/v2/web-api/paywall/", headers=key)
    form = await post(api, "paywall", PAYWALL, **{"Content-Type": "text/plain"})

    assert code_of(got) == (405, "method_not_allowed")
    assert code_of(form) == (415, "unsupported_media_type")


async def test_the_log_has_the_users_of_the_body(api: Api) -> None:
    """An arrival at the web API is logged with the id in its body."""
    await post(api, "attribution", {**ATTRIBUTION, "customer_user_id": "u1"})
    await post(api, "attribution", b"{")
    await post(api, "attribution", [])
    arrivals = api.sandbox.arrivals()

    assert [one.identity for one in arrivals] == ["u1", None, None]
    assert {one.api for one in arrivals} == {"web"}


async def test_faults_have_the_error_format_of_the_api(api: Api) -> None:
    """An injected fault has the body that the API's errors have."""
    api.sandbox.fail_next("503")

    assert code_of(await post(api, "attribution", ATTRIBUTION)) == (503, "service_unavailable")
