"""Webhooks of the sandbox: verification, events of changes, delivery and retries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import pytest
from aiohttp import web

from adapty_async.sandbox import Sandbox
from adapty_async.sandbox._webhook_events import access_properties, names, purchase_properties
from adapty_async.sandbox._webhooks import Webhooks
from adapty_async.testing import FakeClock
from adapty_async.webhooks import AccessLevelUpdated, Event, parse

from .conftest import Api
from .test_v2 import GRANT, INTEGRATIONS, ONE_TIME, PROFILE, REVOKE, SET, SUBSCRIPTION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MINUTE = 60.0
SECRET = "Bearer s3cret"


class Got(NamedTuple):
    """A request that the endpoint received."""

    authorization: str | None
    media_type: str
    body: dict[str, Any]


class Endpoint:
    """
    An endpoint that records requests, and responds with a script of statuses, then with 200.

    Attributes:
        url: its address; nothing listens there after `close()`.
        requests: those it received, without the verification.
        verifications: the number of verification requests.
    """

    def __init__(self) -> None:
        """Record nothing yet."""
        self.url = ""
        self.requests: list[Got] = []
        self.verifications = 0
        self.statuses: list[int] = []
        self.verification: tuple[int, str] = (200, "{}")
        self.arrived = asyncio.Event()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Record a request."""
        body = await request.json()
        if not body:
            self.verifications += 1
            status, text = self.verification
            return web.Response(status=status, text=text)
        self.requests.append(Got(request.headers.get("Authorization"), request.content_type, body))
        self.arrived.set()
        status = self.statuses.pop(0) if self.statuses else 200
        return web.Response(status=status, text="{}", headers={"Location": "/elsewhere"})

    def names(self) -> list[str]:
        """Return the types of the events, in order."""
        return [request.body["event_type"] for request in self.requests]


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    """Run an endpoint for webhooks."""
    one = Endpoint()
    runner = web.ServerRunner(web.Server(one.handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield one
    await runner.cleanup()


@pytest.fixture
async def sandbox(endpoint: Endpoint) -> AsyncIterator[Sandbox]:
    """Run a sandbox that sends webhooks, and retries them at once."""
    async with Sandbox(
        webhook_url=endpoint.url, webhook_authorization=SECRET, webhook_time_scale=1e-6
    ) as running:
        running.seed_profiles(["u1"])
        yield running


# Events of changes


async def test_the_webhook_is_verified_at_the_start(sandbox: Sandbox, endpoint: Endpoint) -> None:
    """The sandbox sends an empty object first, and again when it is asked to."""
    await sandbox.wait_for_webhooks()
    assert await sandbox.verify_webhook()

    assert endpoint.verifications == 2
    assert [one.status for one in sandbox.webhook_deliveries()] == [200, 200]


async def test_granted_and_revoked_access_are_events(
    sandbox: Sandbox, api: Api, endpoint: Endpoint
) -> None:
    """Both are an `access_level_updated` in the documented shape, which the library parses."""
    await api.v2("POST", GRANT, {"access_level_id": "premium"})
    await sandbox.wait_for_webhooks()
    await api.v2("POST", REVOKE, {"access_level_id": "premium"})
    await sandbox.wait_for_webhooks()

    assert {(one.authorization, one.media_type) for one in endpoint.requests} == {
        (SECRET, "application/json")
    }
    granted, revoked = (parse(json.dumps(request.body)) for request in endpoint.requests)
    assert isinstance(granted, AccessLevelUpdated)
    assert isinstance(revoked, AccessLevelUpdated)
    assert granted.odd_fields == revoked.odd_fields == {}
    assert granted.customer_user_id == revoked.customer_user_id == "u1"
    assert granted.event_properties.is_active
    assert granted.event_properties.is_lifetime
    assert granted.event_properties.vendor_product_id == "adapty_server_side_product"
    assert not revoked.event_properties.is_active
    assert revoked.event_properties.cancellation_reason == "adapty_revoked"
    assert granted.profile_event_id != revoked.profile_event_id


async def test_a_purchase_is_an_event_and_opens_access(
    sandbox: Sandbox, api: Api, endpoint: Endpoint
) -> None:
    """A transaction is an event, with one about the access level that its product grants."""
    await api.v2("PATCH", PROFILE, {"email": "a@example.com"})
    await api.v2("POST", SET, ONE_TIME)
    ids = dict.fromkeys(("store_transaction_id", "store_original_transaction_id"), "2")
    await api.v2("POST", SET, {**ONE_TIME, **ids, "store_product_id": "not in the app"})
    await sandbox.wait_for_webhooks()

    assert sorted(endpoint.names()) == [
        "access_level_updated",
        "non_subscription_purchase",
        "non_subscription_purchase",
    ]
    for request in endpoint.requests:
        event = parse(json.dumps(request.body))
        assert isinstance(event, Event)
        assert (event.odd_fields, event.email) == ({}, "a@example.com")


async def test_a_renewal_is_one_of_the_same_profile(
    sandbox: Sandbox, api: Api, endpoint: Endpoint
) -> None:
    """The event depends on the purchases before, and has the integration ids of the profile."""
    sandbox.seed_profiles(["u2"])
    await api.v2("POST", INTEGRATIONS, {"branch_id": "b"})
    purchase = {**SUBSCRIPTION, "store_product_id": "not in the app"}
    await api.v2("POST", SET, purchase)
    await api.v2("POST", SET, {**purchase, "store_transaction_id": "2"})
    await api.v2("POST", SET, purchase, adapty_customer_user_id="u2")
    await sandbox.wait_for_webhooks()

    events = {(one.body["customer_user_id"], one.body["event_type"]) for one in endpoint.requests}
    assert events == {
        ("u1", "trial_started"),
        ("u1", "subscription_renewed"),
        ("u2", "trial_started"),
    }
    ids = {one.body["customer_user_id"]: one.body["integration_ids"] for one in endpoint.requests}
    assert ids == {"u1": {"branch_id": "b"}, "u2": None}


META = {
    "device_id": "3fa85f64-5717-4562-b3fc-2c963f66afa6",
    "idfv": "v",
    "idfa": "a",
    "advertising_id": "g",
    "user_agent": "Mozilla/5.0",
}
OFFERED: dict[str, Any] = {
    **SUBSCRIPTION,
    "environment": "Sandbox",
    "store_transaction_id": "2",
    "store_original_transaction_id": "1",
    "price": {"country": "US", "currency": "USD", "value": 4.99},
    "offer": {"category": "promotional", "type": "pay_up_front", "id": "o"},
    "purchased_at": "2024-01-15T10:30:00Z",
    "originally_purchased_at": "2024-01-01T10:30:00.5+02:00",
    "expires_at": "2024-02-15T10:30:00Z",
    "billing_issue_detected_at": "2024-02-15T10:30:00Z",
    "grace_period_expires_at": "2999-01-01T00:00:00Z",
    "renew_status": False,
    "variation_id": "v1",
}
OF_STORE = {
    "store": "app_store",
    "vendor_product_id": "premium_monthly",
    "transaction_id": "2",
    "original_transaction_id": "1",
    "purchase_date": "2024-01-15T10:30:00.000000+0000",
    "original_purchase_date": "2024-01-01T10:30:00.500000+0200",
}


async def test_an_event_has_what_is_known_of_profile_and_purchase(
    sandbox: Sandbox, api: Api, endpoint: Endpoint
) -> None:
    """The bodies of the events of a purchase have these fields, in Adapty's format of dates."""
    profile = (await api.v2("PATCH", PROFILE, {"installation_meta": META})).body["data"]
    await api.v2("POST", SET, OFFERED)
    await sandbox.wait_for_webhooks()

    bodies = {request.body["event_type"]: request.body for request in endpoint.requests}
    assert bodies.keys() == {"subscription_started", "access_level_updated"}
    profile_id = profile["profile_id"]
    for body in bodies.values():
        properties = body["event_properties"]
        assert UUID(properties.pop("profile_event_id")).version == 4
        assert properties.pop("profile_id") == profile_id
        assert body.pop("event_datetime") == properties["event_datetime"]
    changed = bodies["access_level_updated"].pop("event_properties")
    at = datetime.strptime(changed.pop("event_datetime"), "%Y-%m-%dT%H:%M:%S.%f%z")
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60
    assert changed == {
        **OF_STORE,
        "access_level_id": "premium",
        "is_active": True,
        "is_lifetime": False,
        "is_in_grace_period": True,
        "is_refund": False,
        "will_renew": False,
        "activated_at": OF_STORE["purchase_date"],
        "starts_at": None,
        "expires_at": "2999-01-01T00:00:00.000000+0000",
        "billing_issue_detected_at": "2024-02-15T10:30:00.000000+0000",
        "cancellation_reason": None,
        "profile_has_access_level": True,
    }
    assert bodies["subscription_started"].pop("event_properties") == {
        **OF_STORE,
        "currency": "USD",
        "price_local": 4.99,
        "price_usd": 4.99,
        "store_country": "US",
        "environment": "Sandbox",
        "variation_id": "v1",
        "cancellation_reason": None,
        "store_offer_category": "promotional",
        "store_offer_discount_type": "pay_up_front",
        "subscription_expires_at": "2024-02-15T10:30:00.000000+0000",
        "event_datetime": OF_STORE["purchase_date"],
    }
    assert [{**body, "event_type": None} for body in bodies.values()] == [
        {
            "profile_id": profile_id,
            "customer_user_id": "u1",
            "idfv": "v",
            "idfa": "a",
            "advertising_id": "g",
            "profile_install_datetime": None,
            "user_agent": "Mozilla/5.0",
            "email": None,
            "event_type": None,
            "event_api_version": 1,
            "profiles_sharing_access_level": [],
            "integration_ids": None,
        }
    ] * 2


async def test_a_refund_is_an_event_of_its_day_and_ends_access(
    sandbox: Sandbox, api: Api, endpoint: Endpoint
) -> None:
    """The business time of a refund is that of the refund; prices in euros are not in dollars."""
    price = {"country": "DE", "currency": "EUR", "value": 9.99}
    await api.v2("POST", SET, {**ONE_TIME, "price": price})
    await sandbox.wait_for_webhooks()
    endpoint.requests.clear()
    await api.v2("POST", SET, {**ONE_TIME, "price": price, **REFUND})
    await sandbox.wait_for_webhooks()

    bodies = {one.body["event_type"]: one.body["event_properties"] for one in endpoint.requests}
    refunded = bodies["non_subscription_purchase_refunded"]
    assert refunded["event_datetime"] == "2024-01-16T00:00:00.000000+0000"
    assert (refunded["price_local"], refunded["price_usd"]) == (9.99, None)
    assert refunded["cancellation_reason"] == "refund"
    assert (refunded["environment"], refunded["subscription_expires_at"]) == ("Production", None)
    level = bodies["access_level_updated"]
    assert (level["is_active"], level["is_refund"], level["is_lifetime"]) == (False, True, False)
    assert level["profile_has_access_level"] is False


PAID: dict[str, Any] = {**SUBSCRIPTION, "offer": None}
NEXT: dict[str, Any] = {**PAID, "store_transaction_id": "2"}
REFUND: dict[str, Any] = {"refunded_at": "2024-01-16T00:00:00Z", "cancellation_reason": "refund"}
GRACE: dict[str, Any] = {
    "billing_issue_detected_at": "2024-02-15T10:30:00Z",
    "grace_period_expires_at": "2024-02-20T10:30:00Z",
}


@pytest.mark.parametrize(
    ("known", "purchase", "expected"),
    [
        pytest.param([], PAID, ["subscription_started"], id="started"),
        pytest.param([], SUBSCRIPTION, ["trial_started"], id="trial"),
        pytest.param([SUBSCRIPTION], NEXT, ["trial_converted"], id="converted"),
        pytest.param([PAID], NEXT, ["subscription_renewed"], id="renewed"),
        pytest.param([PAID], PAID, [], id="unchanged"),
        pytest.param(
            [PAID], {**PAID, "renew_status": False}, ["subscription_renewal_cancelled"], id="off"
        ),
        pytest.param(
            [{**SUBSCRIPTION, "renew_status": False}],
            SUBSCRIPTION,
            ["trial_renewal_reactivated"],
            id="on",
        ),
        pytest.param(
            [PAID],
            {**PAID, **GRACE},
            ["billing_issue_detected", "entered_grace_period"],
            id="grace period",
        ),
        pytest.param([{**PAID, **GRACE}], {**PAID, **GRACE}, [], id="grace period before"),
        pytest.param([PAID], {**PAID, **REFUND}, ["subscription_refunded"], id="refund"),
        pytest.param([{**PAID, **REFUND}], {**PAID, **REFUND}, [], id="refunded before"),
        pytest.param([], ONE_TIME, ["non_subscription_purchase"], id="one-time"),
        pytest.param([ONE_TIME], ONE_TIME, [], id="one-time, unchanged"),
        pytest.param(
            [ONE_TIME],
            {**ONE_TIME, **REFUND},
            ["non_subscription_purchase_refunded"],
            id="one-time, refund",
        ),
    ],
)
def test_the_events_of_a_purchase_depend_on_those_before(
    known: list[dict[str, Any]], purchase: dict[str, Any], expected: list[str]
) -> None:
    """The first purchase of a chain, the next ones, and changes of one are documented events."""
    assert names(known, purchase) == expected
    for name in expected:
        properties = purchase_properties(name, purchase)
        assert properties["event_datetime"].endswith("+0000")


@pytest.mark.parametrize(
    "name",
    [
        "subscription_renewal_cancelled",
        "trial_renewal_reactivated",
        "billing_issue_detected",
        "entered_grace_period",
    ],
)
def test_a_change_of_a_purchase_happens_now(name: str) -> None:
    """The business time of a change is not that of the purchase, which is long ago."""
    at = datetime.fromisoformat(purchase_properties(name, PAID)["event_datetime"])

    assert abs((datetime.now(UTC) - at).total_seconds()) < 60


def test_a_trial_has_no_price() -> None:
    """A free trial charges nothing, and another currency has no price in US dollars."""
    trial = purchase_properties("trial_started", SUBSCRIPTION)
    euros = {**PAID, "price": {"country": "FR", "currency": "EUR", "value": 5}}
    paid = purchase_properties("subscription_started", euros)

    assert (trial["price_local"], trial["price_usd"]) == (None, None)
    assert (paid["price_local"], paid["price_usd"]) == (5, None)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"expires_at": None}, {"is_active": True, "is_lifetime": True, "will_renew": False}),
        ({}, {"is_active": False, "will_renew": True}),
        ({"grace_period_expires_at": "2999-01-01T00:00:00Z"}, {"is_in_grace_period": True}),
        ({"starts_at": "2999-01-01T00:00:00Z", "expires_at": None}, {"is_active": False}),
        ({"cancellation_reason": "refund"}, {"is_refund": True}),
    ],
    ids=str,
)
def test_the_access_level_of_an_event_is_computed(
    fields: Mapping[str, Any], expected: dict[str, bool]
) -> None:
    """Whether access is open follows from its dates; a grace period takes the place of the end."""
    properties = access_properties({**PAID, "access_level_id": "premium", **fields})

    assert {name: properties[name] for name in expected} == expected


# Delivery


async def test_a_failed_event_is_retried_with_growing_waits(endpoint: Endpoint) -> None:
    """The first retry comes after a minute, the wait doubles, and the ninth retry is the last."""
    clock = FakeClock()
    webhooks = Webhooks(endpoint.url, None, clock=clock, sleep=clock.sleep)
    endpoint.statuses = [500] * 20
    webhooks.send({"event_type": "x", "event_properties": {"profile_event_id": "e"}})
    await webhooks.wait()
    await webhooks.aclose()

    assert clock.sleeps == [MINUTE * 2**number for number in range(9)]
    assert [(one.attempt, one.status) for one in webhooks.deliveries if one.event_type] == [
        (number, 500) for number in range(1, 11)
    ]
    assert endpoint.requests[0].authorization is None


@pytest.mark.parametrize("status", [200, 204, 302, 400, 404])
async def test_some_statuses_are_final(endpoint: Endpoint, status: int) -> None:
    """An event is not sent again after a status from 200 to 404, and a redirect is not followed."""
    webhooks = Webhooks(endpoint.url, SECRET)
    endpoint.statuses = [status]
    webhooks.send({"event_type": "x", "event_properties": {"profile_event_id": "e"}})
    await webhooks.wait()
    await webhooks.aclose()

    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("status", [405, 429, 503])
async def test_other_statuses_are_retried(endpoint: Endpoint, status: int) -> None:
    """An event is sent again after any other status, until it succeeds."""
    clock = FakeClock()
    webhooks = Webhooks(endpoint.url, SECRET, 0.5, clock=clock, sleep=clock.sleep)
    endpoint.statuses = [status]
    webhooks.send({"event_type": "x", "event_properties": {"profile_event_id": "e"}})
    await webhooks.wait()
    await webhooks.aclose()

    assert (len(endpoint.requests), clock.sleeps) == (2, [MINUTE / 2])


async def test_after_a_day_without_success_events_get_one_attempt(endpoint: Endpoint) -> None:
    """A failing endpoint gets each event once after 24 hours, until a delivery succeeds again."""
    clock = FakeClock()
    webhooks = Webhooks(endpoint.url, SECRET, clock=clock, sleep=clock.sleep)
    event = {"event_type": "x", "event_properties": {"profile_event_id": "e"}}
    endpoint.statuses = [500] * 11
    webhooks.send(event)
    await webhooks.wait()
    clock.now += 24 * 3600
    webhooks.send(event)
    await webhooks.wait()
    assert len(endpoint.requests) == 11

    webhooks.send(event)  # succeeds
    await webhooks.wait()
    endpoint.statuses = [500]
    webhooks.send(event)
    await webhooks.wait()
    await webhooks.aclose()
    assert len(endpoint.requests) == 14


@pytest.mark.parametrize("response", [(401, "{}"), (200, "OK"), (302, "{}"), (200, "")], ids=str)
async def test_nothing_is_sent_before_the_verification(
    endpoint: Endpoint, response: tuple[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Without a 2xx status and a JSON body, events wait; each attempt asks for verification."""
    clock = FakeClock()
    endpoint.verification = response

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        endpoint.verification = (201, "[]")

    webhooks = Webhooks(endpoint.url, SECRET, clock=clock, sleep=sleep)
    webhooks.send({"event_type": "x", "event_properties": {"profile_event_id": "e"}})
    await webhooks.wait()
    await webhooks.aclose()

    assert (endpoint.verifications, len(endpoint.requests), clock.sleeps) == (2, 1, [MINUTE])
    assert ("a webhook was not delivered: status 401" in caplog.text) is (response[0] == 401)


async def test_an_endpoint_that_does_not_listen_is_retried() -> None:
    """A refused connection counts as a failure, without a status."""
    clock = FakeClock()
    webhooks = Webhooks("http://127.0.0.1:1/", SECRET, clock=clock, sleep=clock.sleep)
    webhooks.send({"event_type": "x", "event_properties": {"profile_event_id": "e"}})
    await webhooks.wait()
    await webhooks.aclose()

    assert {one.status for one in webhooks.deliveries} == {0}
    assert len(clock.sleeps) == 9


async def test_stopping_cancels_retries(endpoint: Endpoint) -> None:
    """A sandbox that stops sends nothing more."""
    endpoint.statuses = [500]
    async with Sandbox(webhook_url=endpoint.url) as sandbox:
        sandbox.seed_profiles(["u1"])
        await Api(sandbox).v2("POST", GRANT, {"access_level_id": "premium"})
        await endpoint.arrived.wait()

    assert len(endpoint.requests) == 1


def test_a_sandbox_may_start_again_in_another_event_loop() -> None:
    """Verifications that wait for each other belong to the event loop of that start."""
    sandbox = Sandbox(webhook_url="http://127.0.0.1:1/")

    async def verify() -> list[bool]:
        async with sandbox:
            return await asyncio.gather(*(sandbox.verify_webhook() for _ in range(2)))

    assert asyncio.run(verify()) == asyncio.run(verify()) == [False, False]


async def test_a_sender_without_an_event_closes() -> None:
    """Closing a sender that has sent nothing does nothing."""
    await Webhooks("http://127.0.0.1:1/", SECRET).aclose()


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_a_time_scale_is_a_number(scale: float) -> None:
    """A scale that is no number above 0 is an error."""
    with pytest.raises(ValueError, match="webhook_time_scale"):
        Sandbox(webhook_url="http://127.0.0.1:1/", webhook_time_scale=scale)


@pytest.mark.parametrize("url", ["localhost:80", "ftp://127.0.0.1", "", "http://a\n"], ids=repr)
def test_a_url_is_one_of_http(url: str) -> None:
    """A URL to which nothing can be posted is an error."""
    with pytest.raises(ValueError, match="webhook_url must begin with"):
        Sandbox(webhook_url=url)


def test_a_header_has_no_line_breaks() -> None:
    """A header that cannot be sent is an error, which does not quote it."""
    with pytest.raises(ValueError, match="control characters") as caught:
        Sandbox(webhook_url="http://127.0.0.1:1/", webhook_authorization="s3cret\n")
    assert "s3cret" not in str(caught.value)


async def test_a_sandbox_without_a_webhook_says_so(endpoint: Endpoint) -> None:
    """The methods about webhooks need a `webhook_url`, and changes are no events without it."""
    async with Sandbox() as sandbox:
        sandbox.seed_profiles(["u1"])
        await Api(sandbox).v2("POST", GRANT, {"access_level_id": "premium"})
        with pytest.raises(RuntimeError, match="no webhook_url"):
            sandbox.webhook_deliveries()
