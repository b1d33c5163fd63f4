"""Version 2 of the server-side API: settings, other stores, paywalls, virtual currencies."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from adapty_async.sandbox import Sandbox
from adapty_async.sandbox._shop import Shop

from .conftest import Api
from .test_v2 import (
    INTEGRATIONS,
    PADDLE,
    PROFILE,
    REFUND,
    STRIPE,
    STRIPE_TYPE,
    created,
    error,
    plain,
)

if TYPE_CHECKING:
    from .conftest import Reply

VC = "vc/transactions/"


# Refund Saver and integrations


async def test_refund_saver_settings_are_kept(api: Api) -> None:
    """Settings are merged into the stored ones, and returned with the profile's id."""
    profile_id = (await created(api))["profile_id"]
    unset = await api.v2("GET", REFUND)
    await api.v2("POST", REFUND, {"consent": True})
    both = await api.v2("POST", REFUND, {"custom_preference": "grant_prorated"})

    assert unset.body["settings"] == {"consent": None, "custom_preference": None}
    assert both.body == {
        "profile_id": profile_id,
        "settings": {"consent": True, "custom_preference": "grant_prorated"},
    }
    assert (await api.v2("GET", REFUND)).body == both.body


async def test_integration_identifiers_are_kept(api: Api) -> None:
    """Setting returns an empty body; getting returns all sixteen identifiers."""
    await created(api)
    reply = await api.v2("POST", INTEGRATIONS, {"branch_id": "b", "appsflyer_id": "a"})
    await api.v2("POST", INTEGRATIONS, {"appsflyer_id": None})
    read = await api.v2("GET", INTEGRATIONS)

    assert (reply.status, reply.body) == (200, "")
    assert len(read.body) == 16
    assert {name: one for name, one in read.body.items() if one} == {"branch_id": "b"}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_missing_profile_is_spelled_in_two_more_ways(api: Api, method: str) -> None:
    """Refund Saver returns 400, integrations another code, and both plain texts."""
    refund = await api.v2(method, REFUND, {"consent": True})
    integrations = await api.v2(method, INTEGRATIONS, {"branch_id": "b"})

    assert refund.status == 400
    assert refund.body == plain(400, "profile_does_not_exist", "Profile does not exist")
    assert integrations.status == 404
    assert integrations.body == plain(404, "profile_not_found", "Profile not found")


async def test_there_has_to_be_something_to_set(api: Api) -> None:
    """An empty body or unknown fields are rejected in the documented words."""
    await created(api)
    nothing = await api.v2("POST", REFUND, {"else": 1})
    wrong = await api.v2("POST", REFUND, {"custom_preference": "perhaps"})
    empty = await api.v2("POST", INTEGRATIONS, {})

    assert nothing.body == plain(
        400,
        "validation_error",
        "Profile refund saver settings must have either consent or custom_preference or both",
    )
    assert wrong.status == 400
    assert empty.body == plain(
        400, "validation_error", "At least one integration identifier must be provided."
    )


# Other stores


async def test_paddle_purchases_are_imported(api: Api) -> None:
    """A token of either kind becomes a purchase of a profile, which is created if missing."""
    body = {"customer_user_id": "u1", "paddle_token": "sub_1"}
    subscribed = await api.v2("POST", PADDLE, body, adapty_customer_user_id=None)
    bought = await api.v2("POST", PADDLE, {**body, "paddle_token": "txn_1"})

    data = bought.body["data"]
    assert data["profile_id"] == subscribed.body["data"]["profile_id"]
    assert data["customer_user_id"] == "u1"
    assert UUID(data["profile_id"]).version == 4
    [subscription] = data["subscriptions"]
    assert (subscription["store"], subscription["environment"]) == ("paddle", "Production")
    [level] = subscribed.body["data"]["access_levels"]
    assert (level["access_level_id"], level["store_transaction_id"]) == ("premium", "sub_1")
    left = datetime.fromisoformat(level["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29) < left < timedelta(days=31)
    [level] = data["access_levels"]
    assert (level["store_transaction_id"], level["expires_at"]) == ("txn_1", None)
    assert [one["store_transaction_id"] for one in data["non_subscriptions"]] == ["txn_1"]
    assert data["total_revenue_usd"] == 109.98


@pytest.mark.parametrize(
    ("token", "code", "message"),
    [
        ("txn_no_products", "no_products_found", "No products found"),
        ("sub_no_key", "paddle_api_key_not_found", "Paddle API key not found"),
        (
            "live_7d27",
            "invalid_paddle_credentials_or_purchase_not_found",
            "Invalid Paddle credentials or purchase not found",
        ),
    ],
)
async def test_paddle_has_three_ways_to_refuse(
    api: Api, token: str, code: str, message: str
) -> None:
    """The documented codes come in plain texts, and no profile is created."""
    reply = await api.v2("POST", PADDLE, {"customer_user_id": "u1", "paddle_token": token})

    assert (reply.status, reply.body) == (400, plain(400, code, message))
    assert api.sandbox.customer_user_ids() == set()


def stripe(token: Any) -> dict[str, Any]:
    """Return the body of a Stripe validation."""
    return {
        "data": {
            "type": "stripe_receipt_validation_result",
            "attributes": {"customer_user_id": "u1", "stripe_token": token},
        }
    }


async def test_stripe_purchases_are_imported(api: Api) -> None:
    """The response is null, in a media type of its own; the profile has the purchases."""
    reply = await api.v2("POST", STRIPE, stripe("sub_1"), Content_Type=STRIPE_TYPE)
    await api.v2("POST", STRIPE, stripe("pi_1"), Content_Type=STRIPE_TYPE)

    assert (reply.status, reply.headers["Content-Type"]) == (200, STRIPE_TYPE)
    assert reply.body == '{"data":null}'
    data = (await api.v2("GET", PROFILE)).body["data"]
    purchases = data["subscriptions"] + data["non_subscriptions"]
    assert [one["store"] for one in purchases] == ["stripe", "stripe"]
    assert [one["store_transaction_id"] for one in purchases] == ["sub_1", "pi_1"]


@pytest.mark.parametrize(
    ("body", "detail", "pointer"),
    [
        (stripe("tok_1"), "no such purchase", "/data/attributes/stripe_token"),
        (stripe(None), "Input should be a valid string", "/data/attributes/stripe_token"),
        ({"data": {}}, "Field required", "/data/type"),
        ([], "Input should be a valid object", "/data"),
    ],
    ids=str,
)
async def test_stripes_errors_point_into_the_body(
    api: Api, body: Any, detail: str, pointer: str
) -> None:
    """The error for a rejected body has pointers, and no code."""
    reply = await api.v2("POST", STRIPE, body, Content_Type=STRIPE_TYPE)

    assert (reply.status, reply.headers["Content-Type"]) == (400, STRIPE_TYPE)
    assert f'"detail":"{detail}"' in reply.body
    assert f'"pointer":"{pointer}"' in reply.body
    assert '"status":"400"' in reply.body


# Paywalls


async def test_paywalls_come_in_pages(api: Api) -> None:
    """Pages have a size and a number; beyond the last one there is nothing."""
    ids = api.sandbox.add_paywalls(*(f"P{number}" for number in range(22)))
    first = (await api.v2("GET", "paywalls/")).body
    last = (await api.v2("GET", "paywalls/?page[number]=3&page[size]=10")).body
    beyond = (await api.v2("GET", "paywalls/?page%5Bnumber%5D=4&page%5Bsize%5D=10")).body

    assert len(first["data"]) == 20
    assert first["meta"]["pagination"] == {"count": 25, "page": 1, "pages": 2}
    assert [one["title"] for one in last["data"]] == [f"P{number}" for number in range(17, 22)]
    assert [one["paywall_id"] for one in last["data"]] == ids[17:]
    assert beyond["data"] == []
    assert beyond["meta"]["pagination"] == {"count": 25, "page": 4, "pages": 3}
    assert "remote_configs" not in first["data"][0]


@pytest.mark.parametrize("number", ["1" * 16, "1" * 21, "1" * 5000], ids=len)
async def test_a_page_far_beyond_the_last_is_empty(api: Api, number: str) -> None:
    """A page has no largest number, so any above the last is right and has nothing on it."""
    reply = await api.v2("GET", f"paywalls/?page[number]={number}&page[size]=100")

    assert (reply.status, reply.body["data"]) == (200, [])


@pytest.mark.parametrize(
    ("query", "source", "message"),
    [
        ("page[size]=0", "page_size", "Invalid page_size parameter. Must be between 1 and 100."),
        ("page[size]=101", "page_size", "Invalid page_size parameter. Must be between 1 and 100."),
        ("page[size]=x", "page_size", "Invalid page_size parameter. Must be between 1 and 100."),
        ("page[number]=0", "page_number", "Invalid page_number parameter. Must be 1 or more."),
        ("page[number]=-1", "page_number", "Invalid page_number parameter. Must be 1 or more."),
        (
            f"page[size]={'1' * 5000}",
            "page_size",
            "Invalid page_size parameter. Must be between 1 and 100.",
        ),
    ],
)
async def test_a_page_that_cannot_be_is_rejected(
    api: Api, query: str, source: str, message: str
) -> None:
    """The source is page_size, although the query says page[size]."""
    reply = await api.v2("GET", f"paywalls/?{query}")

    assert reply.body == error(400, "validation_error", message, source)


async def test_a_paywalls_configs_are_replaced(api: Api) -> None:
    """An update leaves nothing of the configs before, and moves its date."""
    [paywall_id] = api.sandbox.add_paywalls("Sale")
    path = f"paywalls/{paywall_id}/"
    old = {"remote_configs": [{"locale": "en", "data": "{}"}, {"locale": "de", "data": "{}"}]}
    new = {"remote_configs": [{"locale": "fr", "data": '{"a":1}'}]}
    await api.v2("PUT", path, old)
    updated = await api.v2("PUT", path, new)
    read = await api.v2("GET", path)

    assert read.body == updated.body
    assert read.body["title"] == "Sale"
    assert read.body["paywall_id"] == paywall_id
    assert read.body["remote_configs"] == new["remote_configs"]
    moments = [datetime.fromisoformat(read.body[name]) for name in ("created_at", "updated_at")]
    assert moments[0] < moments[1]


async def test_a_paywall_that_is_not_there_is_not_found(api: Api) -> None:
    """Reading and updating say so alike."""
    for method in ("GET", "PUT"):
        reply = await api.v2(method, f"paywalls/{uuid4()}/", {"remote_configs": []})
        assert reply.status == 404
        assert reply.body == error(404, "paywall_does_not_exist", "Paywall not found", None)


@pytest.mark.parametrize("body", [{}, {"remote_configs": []}], ids=str)
async def test_an_update_of_nothing_is_rejected(api: Api, body: Any) -> None:
    """There has to be a config."""
    [paywall_id] = api.sandbox.add_paywalls("Sale")
    reply = await api.v2("PUT", f"paywalls/{paywall_id}/", body)

    assert reply.body == error(
        400, "validation_error", "At least one field must be provided", "remote_configs"
    )


@pytest.mark.parametrize("configs", ["x", [{"locale": "en"}], [1]], ids=str)
async def test_configs_have_a_locale_and_data(api: Api, configs: Any) -> None:
    """Anything else is no config."""
    [paywall_id] = api.sandbox.add_paywalls("Sale")
    reply = await api.v2("PUT", f"paywalls/{paywall_id}/", {"remote_configs": configs})

    assert reply.status == 400


# Virtual currencies


def items(*changes: tuple[str, Any]) -> dict[str, Any]:
    """Return the body of a transaction."""
    return {"items": [{"currency_code": code, "amount": amount} for code, amount in changes]}


async def transacted(api: Api, *changes: tuple[str, Any], **headers: str) -> Reply:
    """Change balances of `u1`."""
    return await api.v2("POST", VC, items(*changes), **headers)


async def balances(api: Api) -> dict[str, int]:
    """Return the balances of `u1` other than 0."""
    listed = (await api.v2("GET", "vc/balances/")).body["data"]
    return {one["code"]: one["balance"] for one in listed if one["balance"]}


async def test_balances_add_up(api: Api) -> None:
    """Balances are the sums of credits and debits of several transactions."""
    await created(api)
    credit = await transacted(api, ("COINS", 500), ("GEMS", 3))
    debit = await transacted(api, ("GEMS", -3), ("COINS", -10))

    assert UUID(credit.body["transaction_id"]).version == 4
    assert debit.body["balances"] == [
        {"code": "GEMS", "name": "Gems", "balance": 0, "held": 0, "available": 0},
        {"code": "COINS", "name": "Gold Coins", "balance": 490, "held": 0, "available": 490},
    ]
    assert await balances(api) == {"COINS": 490}
    listed = (await api.v2("GET", "vc/balances/")).body
    assert [one["code"] for one in listed["data"]] == ["COINS", "GEMS", "ENERGY"]
    assert abs(listed["response_created_at"] / 1000 - time.time()) < 5


async def test_a_transaction_is_applied_as_a_whole(api: Api) -> None:
    """One item that fails leaves all balances as they were."""
    await created(api)
    await transacted(api, ("COINS", 5))
    failed = await transacted(api, ("GEMS", 5), ("COINS", -6))

    message = "Insufficient balance for currency COINS"
    assert failed.body == error(400, "insufficient_balance", message, "currency_code")
    assert await balances(api) == {"COINS": 5}


async def test_history_is_newest_first_and_in_pages(api: Api) -> None:
    """A cursor leads from page to page; the last has none; a filter keeps whole transactions."""
    await created(api)
    for amount in range(1, 6):
        await transacted(api, ("COINS", amount), *([("GEMS", 1)] if amount % 2 else []))
    pages = []
    query: str | None = ""
    while query is not None:
        reply = await api.v2("GET", f"{VC}?limit=2{query}")
        pages.append([one["items"][0]["amount"] for one in reply.body["data"]])
        cursor = reply.body["pagination"]["next_cursor"]
        query = cursor and f"&cursor={cursor}"
    gems = (await api.v2("GET", f"{VC}?currency_code=GEMS")).body["data"]
    none = (await api.v2("GET", f"{VC}?currency_code=ENERGY")).body

    assert pages == [[5, 4], [3, 2], [1]]
    assert [len(one["items"]) for one in gems] == [2, 2, 2]
    assert gems[0]["items"][0] == {"currency_code": "COINS", "amount": 5, "balance_after": 15}
    assert gems[0]["transaction_type"] == "api_transaction"
    assert datetime.fromisoformat(gems[0]["created_at"]).tzinfo is not None
    assert none == {"data": [], "pagination": {"next_cursor": None}}


async def test_a_page_of_the_history_has_50_transactions(api: Api) -> None:
    """Without a limit, the page has as many as the document says, and a cursor to the others."""
    await created(api)
    for _ in range(51):
        await transacted(api, ("COINS", 1))
    history = (await api.v2("GET", VC)).body

    assert len(history["data"]) == 50
    assert history["pagination"]["next_cursor"] is not None


async def test_metadata_is_kept(api: Api) -> None:
    """A transaction has its metadata, and no such field without any."""
    await created(api)
    await transacted(api, ("COINS", 1))
    body = {**items(("COINS", 1)), "metadata": {"reason": "promo_bonus"}}
    await api.v2("POST", VC, body)
    await api.v2("POST", VC, {**items(("COINS", 1)), "metadata": None})

    history = (await api.v2("GET", VC)).body["data"]
    assert [one.get("metadata") for one in history] == [None, {"reason": "promo_bonus"}, None]


async def test_a_transaction_at_the_limits_is_applied(api: Api) -> None:
    """20 items, an amount of 32 bits, and 5 keys of 30 characters with values of 200 are taken."""
    await created(api)
    codes = [f"C{number}" for number in range(20)]
    api.sandbox.add_currencies(dict.fromkeys(codes, "Coins"))
    most = 2**31 - 1
    body = {
        **items(*((code, most) for code in codes)),
        "metadata": {f"{number}{'k' * 29}": "v" * 200 for number in range(5)},
    }
    replies = [
        await api.v2("POST", VC, body),
        await api.v2("POST", VC, items(("C0", -most))),
        await api.v2("POST", VC, items(("C1", -(2**31)))),
        await api.v2("POST", VC, {**items(("C1", -1)), "metadata": {"k" * 31: ""}}),
    ]

    assert [reply.status for reply in replies] == [200, 200, 400, 422]
    assert replies[2].body["error_code"] == "insufficient_balance"


BROKEN: dict[str, tuple[Any, int, str]] = {
    "empty": (items(), 400, "empty_items"),
    "twice": (items(("COINS", 1), ("COINS", 2)), 400, "duplicate_currency"),
    "zero": (items(("COINS", 0)), 400, "amount_zero"),
    "unknown": (items(("RUBIES", 1)), 400, "unknown_currency"),
    "too much": (items(("COINS", 2**31 - 1)), 400, "balance_overflow"),
    "too little": (items(("GEMS", -1)), 400, "insufficient_balance"),
    "many": (items(*((f"C{number}", 1) for number in range(21))), 422, "validation_error"),
    "33 bits": (items(("COINS", 2**31)), 422, "validation_error"),
    "fraction": (items(("COINS", 1.5)), 422, "validation_error"),
    "none": ({}, 422, "validation_error"),
    "no list": ({"items": {}}, 422, "validation_error"),
    "keys": ({**items(("COINS", 1)), "metadata": {"A": "x"}}, 422, "validation_error"),
    "values": ({**items(("COINS", 1)), "metadata": {"a": "x" * 201}}, 422, "validation_error"),
    "numbers": ({**items(("COINS", 1)), "metadata": {"a": 1}}, 422, "validation_error"),
    "six": (
        {**items(("COINS", 1)), "metadata": {f"k{number}": "" for number in range(6)}},
        422,
        "validation_error",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_transaction_that_cannot_be_has_a_code(api: Api, case: str) -> None:
    """Status and code are the documented ones, and no balance changes."""
    await created(api)
    await transacted(api, ("COINS", 1))
    body, status, code = BROKEN[case]
    reply = await api.v2("POST", VC, body)

    assert (reply.status, reply.body["error_code"]) == (status, code)
    problem = reply.body["errors"][0]
    assert problem["errors"][0]
    if code in ("unknown_currency", "balance_overflow", "insufficient_balance"):
        assert problem["source"] == "currency_code"
    assert await balances(api) == {"COINS": 1}


async def test_a_key_makes_a_retry_harmless(api: Api) -> None:
    """The same key returns the same response in any case; each profile has its own keys."""
    await created(api)
    key = str(uuid4())
    first = await transacted(api, ("COINS", 5), Idempotency_Key=key)
    again = await transacted(api, ("COINS", 5), Idempotency_Key=key.upper())
    await transacted(api, ("COINS", 5), Idempotency_Key=str(uuid4()))
    api.sandbox.seed_profiles(["u2"])
    other = await transacted(api, ("COINS", 5), Idempotency_Key=key, adapty_customer_user_id="u2")

    assert (first.status, first.body) == (again.status, again.body)
    assert await balances(api) == {"COINS": 10}
    assert other.body["transaction_id"] != first.body["transaction_id"]


async def test_a_key_is_forgotten_after_an_hour(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the same request is another transaction."""
    await created(api)
    key = str(uuid4())
    await transacted(api, ("COINS", 5), Idempotency_Key=key)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3601)
    await transacted(api, ("COINS", 5), Idempotency_Key=key)

    assert await balances(api) == {"COINS": 10}


@pytest.mark.parametrize(
    "key",
    ["x", "c9a64638-5ae2-11f1-8de9-0242ac120002", "{0b7c5a3e-0000-4000-8000-000000000000}"],
)
async def test_a_key_is_a_uuid_of_version_4(api: Api, key: str) -> None:
    """Anything else is rejected."""
    await created(api)
    reply = await transacted(api, ("COINS", 5), Idempotency_Key=key)

    assert (reply.status, reply.body["error_code"]) == (400, "idempotency_key_invalid")
    message = "Idempotency-Key must be a valid UUID v4"
    assert reply.body["errors"] == [{"source": "Idempotency-Key", "errors": [message]}]


async def test_a_transaction_is_in_flight_for_as_long_as_the_server_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A retry before the first response returns 409 with `Retry-After`."""
    async with Sandbox(latency=0.001) as sandbox:
        api = Api(sandbox)
        await created(api)
        key = str(uuid4())
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now)
        first = await transacted(api, ("COINS", 5), Idempotency_Key=key)
        waiting = await transacted(api, ("COINS", 5), Idempotency_Key=key)
        monkeypatch.setattr(time, "time", lambda: now + 1)
        done = await transacted(api, ("COINS", 5), Idempotency_Key=key)

    assert waiting.status == 409
    assert waiting.headers["Retry-After"] == "1"
    message = "A similar request is being processed."
    assert waiting.body == error(409, "idempotency_in_flight", message, None)
    assert done.body == first.body


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "%ff",
        "YmVmb3JlOjA=",
        "YmVmb3JlOng=",
        "YWZ0ZXI6MQ==",
        "/w==",
        "YmVmb3JlOjk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5",  # before:99999999999999999999999
    ],
)
async def test_a_cursor_is_one_that_was_given(api: Api, cursor: str) -> None:
    """Any other one is rejected."""
    await created(api)
    reply = await api.v2("GET", f"{VC}?cursor={cursor}")

    assert (reply.status, reply.body["error_code"]) == (400, "invalid_cursor")


@pytest.mark.parametrize("limit", ["0", "101", "x", "1" * 5000], ids=["0", "101", "x", "huge"])
async def test_a_limit_is_within_bounds(api: Api, limit: str) -> None:
    """A page has 1 to 100 transactions."""
    await created(api)
    reply = await api.v2("GET", f"{VC}?limit={limit}")

    assert (reply.status, reply.body["errors"][0]["source"]) == (400, "limit")
    assert (await api.v2("GET", f"{VC}?limit=100")).status == 200


@pytest.mark.parametrize(
    ("method", "path"), [("POST", VC), ("GET", VC), ("GET", "vc/balances/")], ids=str
)
async def test_virtual_currencies_may_be_off(method: str, path: str) -> None:
    """Without the feature all three are 403; with it, a missing profile is 404."""
    async with Sandbox(virtual_currencies=False) as sandbox:
        off = await Api(sandbox).v2(method, path, items(("COINS", 1)))
    async with Sandbox() as sandbox:
        missing = await Api(sandbox).v2(method, path, items(("COINS", 1)))

    message = (
        "Server API for virtual currencies is not enabled for this app. "
        "Contact Adapty support to request access."
    )
    assert (off.status, off.body) == (403, error(403, "feature_not_enabled", message, None))
    assert missing.body == error(404, "profile_does_not_exist", "Profile not found", None)


async def test_an_app_can_have_more_currencies(api: Api) -> None:
    """A currency that was added can be credited."""
    await created(api)
    api.sandbox.add_currencies({"RUBIES": "Rubies"})

    assert (await transacted(api, ("RUBIES", 1))).body["balances"][0]["name"] == "Rubies"


async def test_an_apps_first_things_are_added_once(sandbox: Sandbox) -> None:
    """Opening the tables again adds nothing to them."""
    again = Shop(sandbox._store().connection)

    assert again.paywalls(0, 1)[0] == 3
