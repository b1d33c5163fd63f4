"""The web API: its key, the requests of each call, and its runs and error responses."""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import json
import pickle
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from adapty_async import (
    AdaptyClient,
    AdaptyMailClient,
    ConfigError,
    ConnectionLostError,
    DecodeError,
    InvalidInputError,
    NotFoundError,
    OutcomeStatus,
    RequestRejectedError,
    RetryPolicy,
    v2,
    web,
)
from adapty_async._api.call import lock_key_of
from adapty_async._bulk.recording import id_of
from adapty_async.errors import AuthenticationError, JournalError
from adapty_async.sandbox import Sandbox
from adapty_async.testing import FakeTransport, MemoryJournal, Reply
from adapty_async.transport import Request, Response
from tests._shown import shown_by
from tests._support import CANARY_KEY, loop_turns, patch_as_a_tracer
from tests.raw_server import RESET, RawServer

SECRET, PUBLIC = "secret_live_x.y", "public_live_x.y"
NOW = dt.datetime.now(dt.UTC)
VARIATION = "d76feea0-c0cf-4942-bef5-84ed701fc6db"
STORED: Reply = (201, {}, b"")
TWICE = RetryPolicy(attempts=2, wait_initial=0.001, wait_max=0.001)
PAID = web.Attribution(status="non_organic", channel="ads")

# https://adapty.io/docs/api-web/operations/getPaywall, its example
PAYWALL_EXAMPLE = {
    "placement_id": "onboarding",
    "variation_id": VARIATION,
    "paywall_id": "9a93fe6f-9162-4dc0-b4b7-73079ed95c34",
    "ab_test_name": "1 week + 1 month | apple picture",
    "paywall_name": "1 week + 1 month | apple picture",
    "products": [
        {
            "title": "1 week",
            "is_consumable": False,
            "adapty_product_id": "1c3e03e1-9c43-4f94-aeb5-c7ae2f73d0c2",
            "vendor_product_id": "1_week_apple",
            "introductory_offer_eligibility": True,
            "promotional_offer_eligibility": True,
            "base_plan_id": None,
            "offer": None,
        },
    ],
    "remote_config": {"lang": "en", "data": '{"default_product_number":1}'},
}
FOUND: Reply = (200, {}, json.dumps(PAYWALL_EXAMPLE).encode())
CALLS: dict[str, Callable[[web.Web], Awaitable[Any]]] = {
    "paywalls.get": lambda api: api.paywalls.get(
        "onboarding", store="app_store", locale="en", customer_user_id="u1"
    ),
    "paywalls.record_view": lambda api: api.paywalls.record_view(
        VARIATION, store="stripe", visited_at="2024-08-24T14:15:22Z", profile_id="p1"
    ),
    "attribution.add": lambda api: api.attribution.add(PAID, customer_user_id="u1"),
}
SENT: dict[str, tuple[str, dict[str, Any]]] = {
    "paywalls.get": (
        "paywall/",
        {
            "store": "app_store",
            "placement_id": "onboarding",
            "locale": "en",
            "customer_user_id": "u1",
        },
    ),
    "paywalls.record_view": (
        "paywall/visit/",
        {
            "store": "stripe",
            "variation_id": VARIATION,
            "visited_at": "2024-08-24T14:15:22Z",
            "profile_id": "p1",
        },
    ),
    "attribution.add": (
        "attribution/",
        {"status": "non_organic", "channel": "ads", "customer_user_id": "u1"},
    ),
}


def client(transport: FakeTransport, **settings: Any) -> AdaptyClient:
    """Return a client with both keys over that transport."""
    return AdaptyClient(SECRET, public_key=PUBLIC, transport=transport, **settings)


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_is_sent_as_documented_with_the_public_key(name: str) -> None:
    """Method, path, body and key are the documented ones, in the bucket of the web API."""
    transport = FakeTransport([FOUND if name == "paywalls.get" else STORED])
    await CALLS[name](client(transport).web)

    [request] = transport.requests
    path, body = SENT[name]
    assert request.url == f"https://api.adapty.io/api/v2/web-api/{path}"
    assert (request.method, request.bucket) == ("POST", "web")
    assert json.loads(request.body or b"") == body
    assert request.headers["Authorization"] == f"Api-Key {PUBLIC}"
    assert "adapty-customer-user-id" not in request.headers


async def test_the_paywall_of_the_documentation_is_read_in_full() -> None:
    """Each value of the documented example is in the result, and the remote config is decoded."""
    paywall = await client(FakeTransport([FOUND])).web.paywalls.get(
        "onboarding", store="app_store", profile_id="p1"
    )

    assert (paywall.placement_id, paywall.variation_id) == ("onboarding", VARIATION)
    assert (paywall.paywall_name, paywall.ab_test_name) == (PAYWALL_EXAMPLE["paywall_name"],) * 2
    assert [one.vendor_product_id for one in paywall.products] == ["1_week_apple"]
    assert paywall.products[0].offer is None
    assert paywall.remote_config is not None
    assert paywall.remote_config.value == {"default_product_number": 1}


async def test_a_remote_config_that_is_odd_has_no_value() -> None:
    """A config that is no text is as unreadable as one that is no JSON."""
    body = json.dumps({"variation_id": VARIATION, "remote_config": {"data": {"a": 1}}}).encode()
    paywall = await client(FakeTransport([(200, {}, body)])).web.paywalls.get(
        "onboarding", store="app_store", profile_id="p1"
    )

    assert paywall.odd_fields == {"remote_config.data": {"a": 1}}
    assert paywall.remote_config is not None
    with pytest.raises(ValueError, match="truncated"):
        _ = paywall.remote_config.value


@pytest.mark.parametrize("body", [b"", b"{}", b'{"data":{"variation_id":null}}'], ids=repr)
async def test_a_response_without_a_paywall_is_no_paywall(body: bytes) -> None:
    """A success without the id of a paywall is an error, since its view could not be recorded."""
    with pytest.raises(DecodeError, match=r"missing - at `\$.variation_id`"):
        await client(FakeTransport([(200, {}, body)])).web.paywalls.get(
            "onboarding", store="app_store", profile_id="p1"
        )


async def test_other_calls_keep_the_secret_key() -> None:
    """A client with both keys sends each call with the key that its endpoint needs."""
    transport = FakeTransport([STORED, (204, {}, b"")])
    adapty = client(transport).with_options(headers={"X-Trace": "1"})
    await adapty.execute(web.add_attribution(PAID, profile_id="p1"))
    await adapty.v2.profiles.delete(customer_user_id="u1")

    keys = [request.headers["Authorization"] for request in transport.requests]
    assert keys == [f"Api-Key {PUBLIC}", f"Api-Key {SECRET}"]
    assert {request.headers["X-Trace"] for request in transport.requests} == {"1"}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_without_a_public_key_is_not_sent(name: str) -> None:
    """A missing public key is an error of configuration before anything is sent."""
    transport = FakeTransport()
    with pytest.raises(ConfigError, match=r"^no public API key: set ADAPTY_PUBLIC_KEY, or"):
        await CALLS[name](AdaptyClient(SECRET, transport=transport).web)

    assert transport.requests == []


async def test_a_client_needs_one_of_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A public key from the environment is enough for the web API, and only for that."""
    with pytest.raises(ConfigError, match="no API key: set ADAPTY_API_KEY, or pass api_key="):
        AdaptyClient()
    monkeypatch.setenv("ADAPTY_PUBLIC_KEY", PUBLIC)
    transport = FakeTransport([STORED])
    adapty = AdaptyClient(transport=transport)
    await adapty.web.attribution.add(PAID, customer_user_id="u1")

    with pytest.raises(ConfigError, match="no API key: set ADAPTY_API_KEY, or pass api_key="):
        await adapty.v2.profiles.get(customer_user_id="u1")
    with pytest.raises(ConfigError, match="no API key"):
        adapty.v2.profiles.bulk_delete(["u1"], by="customer_user_id")
    assert len(transport.requests) == 1


BAD_KEYS: dict[str, Any] = {
    "empty": "",
    "line break": f"{CANARY_KEY}\n",
    "blank": f"Api-Key {CANARY_KEY}",
    "number": 7,
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_a_bad_public_key_is_rejected_without_being_shown(name: str) -> None:
    """The rules of keys hold for the public one, and an error shows neither of the two."""
    with pytest.raises(ConfigError, match="public_key") as caught:
        AdaptyClient(CANARY_KEY, public_key=BAD_KEYS[name])

    assert CANARY_KEY not in shown_by(caught.value)


def test_the_public_key_is_treated_like_a_secret() -> None:
    """Neither a client's text nor its options show the public key, and a client is not pickled."""
    adapty = AdaptyClient(SECRET, public_key=CANARY_KEY, transport=FakeTransport())
    shown = [adapty, adapty.web, adapty._executor.options, vars(adapty)]

    assert CANARY_KEY not in "".join(map(repr, shown))
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(adapty)


def test_a_client_takes_each_setting_of_its_base() -> None:
    """The settings of both clients are the same, but for the public key."""
    adapty, mail = map(inspect.signature, (AdaptyClient, AdaptyMailClient))
    own = dict(adapty.parameters)

    assert own.pop("public_key").default is None
    assert list(own.values()) == list(mail.parameters.values())


REFUSED: dict[str, tuple[Callable[..., object], str]] = {
    "no id": (lambda: web.get_paywall("p", store="s"), "exactly one of customer_user_id"),
    "two ids": (
        lambda: web.add_attribution(PAID, customer_user_id="u", profile_id="p"),
        "exactly one of customer_user_id",
    ),
    "a line break in an id": (
        lambda: web.get_paywall("p", store="s", customer_user_id="u\n"),
        "customer_user_id: must not contain control characters",
    ),
    "an empty placement": (
        lambda: web.get_paywall("", store="s", customer_user_id="u"),
        "placement_id: must not be empty",
    ),
    "a naive time": (
        lambda: web.record_paywall_view(
            VARIATION,
            store="s",
            visited_at=NOW.replace(tzinfo=None),
            customer_user_id="u",
        ),
        "visited_at: must be a datetime with a time zone",
    ),
    "no attribution": (
        lambda: web.add_attribution("organic", customer_user_id="u"),  # type: ignore[arg-type]
        "attribution: must be a web.Attribution",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_value_is_rejected_when_the_call_is_described(name: str) -> None:
    """An error names the field and its rule before a client is needed."""
    describe, message = REFUSED[name]
    with pytest.raises(InvalidInputError, match=message):
        describe()


DOCUMENTED: dict[str, tuple[Callable[[], Any], str]] = {
    "variation_id": (
        lambda: web.record_paywall_view("1", store="s", customer_user_id="u"),
        "variation_id: must be a UUID",
    ),
    "status": (
        lambda: web.add_attribution(
            web.Attribution(status="paid"),  # type: ignore[arg-type]
            customer_user_id="u",
        ),
        "status: must be one of organic, non_organic, unknown",
    ),
}


@pytest.mark.parametrize("field", DOCUMENTED)
async def test_a_documented_rule_may_be_left_to_the_server(field: str) -> None:
    """A value that breaks a documented rule is rejected, unless the client does not validate."""
    describe, message = DOCUMENTED[field]
    transport = FakeTransport([STORED])
    with pytest.raises(InvalidInputError, match=message):
        await client(transport).execute(describe())
    await client(transport, validate=False).execute(describe())

    assert len(transport.requests) == 1


# https://adapty.io/docs/web-api-400 and -404, with the codes of each page
ERRORS: dict[str, tuple[int, str, type[Exception]]] = {
    "parse": (400, "parse_error", RequestRejectedError),
    "date and time": (400, "datetime", RequestRejectedError),
    "status": (400, "enum", RequestRejectedError),
    "key": (401, "not_authenticated", AuthenticationError),
    "profile": (404, "profile_does_not_exist", NotFoundError),
    "variation": (404, "VARIATION_DOES_NOT_EXIST_ERROR", NotFoundError),
}


@pytest.mark.parametrize("name", ERRORS)
async def test_a_documented_error_has_its_class(name: str) -> None:
    """The error has the class, status and code of the response."""
    status, code, kind = ERRORS[name]
    body = {"errors": [{"source": None, "errors": ["x"]}], "error_code": code}
    with pytest.raises(kind) as caught:
        await CALLS["paywalls.get"](
            client(FakeTransport([(status, {}, json.dumps(body).encode())])).web
        )

    assert (caught.value.status, caught.value.error_code) == (status, code)  # type: ignore[attr-defined]


async def test_a_view_whose_response_was_lost_is_not_sent_again() -> None:
    """A second view might count twice, so a lost response is an error; the others are retried."""
    attempts = {}
    async with RawServer(*[(RESET,)] * 5) as server:
        async with AdaptyClient(public_key=PUBLIC, base_url=server.url, retry=TWICE) as adapty:
            for name, call in CALLS.items():
                with pytest.raises(ConnectionLostError) as caught:
                    await call(adapty.web)
                attempts[name] = caught.value.attempts
        await server.until_left()

    assert attempts == {"paywalls.get": 2, "paywalls.record_view": 1, "attribution.add": 2}
    assert len(server.requests) == 5


# Against the sandbox, over real sockets


@pytest.mark.parametrize("path", ["fast", "standard"])
async def test_a_web_app_shows_a_paywall(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client shows a paywall, records its view and an attribution, on both HTTP paths."""
    if path == "standard":
        patch_as_a_tracer(monkeypatch)
    async with Sandbox() as sandbox:
        sandbox.seed_profiles(["u1"])
        async with AdaptyClient(
            sandbox.api_key, public_key=sandbox.public_key, base_url=sandbox.url
        ) as adapty:
            paywall = await adapty.web.paywalls.get(
                "onboarding", store="app_store", customer_user_id="u1"
            )
            await adapty.web.paywalls.record_view(
                paywall.variation_id, store="app_store", customer_user_id="u1"
            )
            profile = await adapty.v2.profiles.get(customer_user_id="u1")
            await adapty.web.attribution.add(PAID, profile_id=profile.profile_id)
            assert adapty.statistics().http_path == path
            assert adapty.statistics().buckets.keys() == {"web", "v2"}

        assert [one["variation_id"] for one in sandbox.paywall_views()] == [paywall.variation_id]
        assert sandbox.attribution(customer_user_id="u1") == {
            "status": "non_organic",
            "channel": "ads",
        }
        assert paywall.paywall_name == "Welcome"


async def test_attributions_are_loaded_in_bulk_and_resumed(tmp_path: Path) -> None:
    """A run with a journal belongs to the public key, and a second one skips what is done."""
    items = [(f"u{number}", PAID) for number in range(20)]
    journal = tmp_path / "attributions.db"
    async with Sandbox() as sandbox:
        sandbox.seed_profiles(name for name, _ in items[1:])
        settings: dict[str, Any] = {"base_url": sandbox.url, "retry": TWICE}
        async with AdaptyClient(
            sandbox.api_key, public_key=sandbox.public_key, **settings
        ) as adapty:
            report = await adapty.web.attribution.bulk_add(
                items, by="customer_user_id", journal=journal
            )
        async with AdaptyClient(public_key=sandbox.public_key, **settings) as adapty:
            again = await adapty.web.attribution.bulk_add(
                items, by="customer_user_id", journal=journal
            )
        async with AdaptyClient("other", public_key="other", **settings) as adapty:
            with pytest.raises(JournalError, match="account"):
                await adapty.web.attribution.bulk_add(items, by="customer_user_id", journal=journal)

        assert sandbox.attribution(customer_user_id="u7") is not None
    assert (report.done, report.failed) == (19, 1)
    assert isinstance(report.failures[0].error, NotFoundError)
    assert (again.skipped, again.failed) == (19, 1)


async def test_a_pair_that_is_none_is_a_failed_outcome() -> None:
    """A bad item does not stop a run of attributions, and a bad kind of id is rejected at once."""
    adapty = client(FakeTransport([STORED]))
    items: list[Any] = ["u1", ("u2", PAID), ("u3", "organic")]
    report = await adapty.web.attribution.bulk_add(items, by="customer_user_id")

    assert (report.done, report.failed) == (1, 2)
    with pytest.raises(InvalidInputError, match="by: must be one of"):
        adapty.web.attribution.bulk_add([], by="email")  # type: ignore[arg-type]


async def test_a_run_without_its_key_ends_at_once() -> None:
    """Neither a run of the web API nor one of mixed calls fails each item for a missing key."""
    adapty = AdaptyClient(SECRET, transport=FakeTransport([(204, {}, b"")] * 8))
    with pytest.raises(ConfigError, match="no public API key"):
        adapty.web.attribution.bulk_add([("u1", PAID)], by="customer_user_id")
    calls = [web.add_attribution(PAID, customer_user_id=f"u{number}") for number in range(99)]
    run = adapty.bulk(calls, concurrency=1)
    with pytest.raises(ConfigError, match="no public API key"):
        await run

    assert (run.report.failed, run.report.requests) == (1, 0)


async def test_a_mixed_run_of_a_client_without_a_secret_key_has_a_journal() -> None:
    """The journal of a run of any calls belongs to the public key if there is no other."""
    adapty = AdaptyClient(public_key=PUBLIC, transport=FakeTransport([STORED]))
    calls = [web.record_paywall_view(VARIATION, store="stripe", customer_user_id="u1")]
    journal = MemoryJournal()
    report = await adapty.bulk(calls, journal=journal)
    again = await adapty.bulk(calls, journal=journal)

    assert (report.done, again.skipped) == (1, 1)


async def test_calls_about_one_user_are_sent_one_after_the_other() -> None:
    """The id in the body is the lock key of a run, whichever kind it is."""
    first, release = asyncio.Event(), asyncio.Event()

    class Held(FakeTransport):
        async def __call__(self, request: Request) -> Response:
            response = await super().__call__(request)
            first.set()
            await release.wait()
            return response

    transport = Held([STORED, FOUND, STORED])
    calls = [
        web.add_attribution(PAID, profile_id="p1"),
        web.get_paywall("onboarding", store="s", profile_id="p1"),
        web.add_attribution(PAID, profile_id="p1"),
    ]
    run = asyncio.create_task(client(transport).bulk(calls))
    await first.wait()
    await loop_turns(20)
    alone = len(transport.requests)
    release.set()

    assert (alone, (await run).done) == (1, 3)


@pytest.mark.parametrize("by", ["customer_user_id", "profile_id"])
def test_a_call_has_the_lock_key_of_the_server_side_api(by: str) -> None:
    """A mixed run sends the creation of a profile before the attribution of the same user."""
    ids: dict[str, Any] = {by: "u1"}

    assert lock_key_of(web.add_attribution(PAID, **ids)) == lock_key_of(v2.get_profile(**ids))
    assert id_of(web.get_paywall("onboarding", store="s", **ids)) == "u1"


async def test_a_missing_paywall_is_absent_in_a_run() -> None:
    """A read that finds nothing is absent, and a write that finds no profile is failed."""
    body = b'{"errors":[],"error_code":"VARIATION_DOES_NOT_EXIST_ERROR","status_code":404}'
    calls = [web.get_paywall("none", store="s", customer_user_id="u1")]
    async with client(FakeTransport([(404, {}, body)])).bulk(calls) as run:
        outcomes = [outcome async for outcome in run]

    assert [outcome.status for outcome in outcomes] == [OutcomeStatus.ABSENT]


def test_the_rows_are_those_of_the_documentation() -> None:
    """Each operation of the web API has a row with a link to its page and the public key."""
    rows = [web.GET_PAYWALL, web.RECORD_PAYWALL_VIEW, web.ADD_ATTRIBUTION]

    assert [row.docs.rpartition("/")[2] for row in rows] == [
        "getPaywall",
        "recordPaywallView",
        "addAttribution",
    ]
    assert all(row.uses_public_key for row in rows)
    assert not v2.GET_PROFILE.uses_public_key
