"""
The revealed types of webhooks and of the cache of profiles.

None of this code is executed; mypy and pyright check it.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, assert_type

from aiohttp import web
from fastapi import FastAPI
from starlette.routing import Route

from adapty_async import AdaptyClient, TransactionEvent
from adapty_async.access import AccessCache, AccessStatistics, CachedProfile
from adapty_async.v2 import Profile
from adapty_async.webhooks import (
    AccessLevelProperties,
    AccessLevelUpdated,
    Attribution,
    BillingIssueDetected,
    EnteredGracePeriod,
    Event,
    EventProperties,
    MemoryStore,
    NonSubscriptionPurchase,
    NonSubscriptionPurchaseRefunded,
    PlayStorePurchaseToken,
    PurchaseEvent,
    PurchaseProperties,
    RevenueEvent,
    RevenueProperties,
    SharingProfile,
    SqliteStore,
    SubscriptionDeferred,
    SubscriptionExpired,
    SubscriptionPaused,
    SubscriptionRefunded,
    SubscriptionRenewalCancelled,
    SubscriptionRenewalReactivated,
    SubscriptionRenewed,
    SubscriptionStarted,
    TrialConverted,
    TrialExpired,
    TrialRenewalCancelled,
    TrialRenewalReactivated,
    TrialStarted,
    UnknownEvent,
    Verification,
    WebhookReceiver,
    WebhookStatistics,
    authenticate,
    parse,
    transaction_event,
)
from adapty_async.webhooks.aiohttp import webhook_handler
from adapty_async.webhooks.starlette import webhook_endpoint


def parsing(body: bytes, header: str | None) -> None:
    """Authenticate and parse a webhook."""
    assert_type(authenticate(header, "secret"), bool)
    assert_type(authenticate(b"header", b"secret"), bool)
    assert_type(parse(body, event_names={"mine": "trial_started"}), Verification | Event)


def revenue(event: SubscriptionStarted | SubscriptionRenewed | SubscriptionRefunded) -> None:
    """Check the properties of charges and refunds."""
    assert_type(event.event_properties, RevenueProperties)
    assert_type(event.event_properties.net_revenue_usd, float | None)


def subscription(  # noqa: PLR0917  one of each type
    cancelled: SubscriptionRenewalCancelled,
    reactivated: SubscriptionRenewalReactivated,
    expired: SubscriptionExpired,
    paused: SubscriptionPaused,
    deferred: SubscriptionDeferred,
    grace: EnteredGracePeriod,
    issue: BillingIssueDetected,
) -> None:
    """Check the properties of events about a subscription."""
    assert_type(cancelled.event_properties, PurchaseProperties)
    assert_type(reactivated.event_properties, PurchaseProperties)
    assert_type(expired.event_properties, PurchaseProperties)
    assert_type(paused.event_properties, PurchaseProperties)
    assert_type(deferred.event_properties, PurchaseProperties)
    assert_type(grace.event_properties, PurchaseProperties)
    assert_type(issue.event_properties, PurchaseProperties)


def trial(
    started: TrialStarted,
    converted: TrialConverted,
    cancelled: TrialRenewalCancelled,
    reactivated: TrialRenewalReactivated,
    expired: TrialExpired,
) -> None:
    """Check the properties of events about a trial."""
    assert_type(started.event_properties, PurchaseProperties)
    assert_type(converted.event_properties, PurchaseProperties)
    assert_type(cancelled.event_properties, PurchaseProperties)
    assert_type(reactivated.event_properties, PurchaseProperties)
    assert_type(expired.event_properties, PurchaseProperties)


def one_time(bought: NonSubscriptionPurchase, refunded: NonSubscriptionPurchaseRefunded) -> None:
    """Check the properties of one-time purchases."""
    assert_type(bought.event_properties, RevenueProperties)
    assert_type(refunded.event_properties, PurchaseProperties)


def matching(event: Event) -> None:
    """Tell events by their class."""
    match event:
        case AccessLevelUpdated():
            assert_type(event.event_properties, AccessLevelProperties)
            assert_type(event.event_properties.is_active, bool | None)
            assert_type(event.event_properties.expires_at, dt.datetime | None)
        case RevenueEvent():
            assert_type(event.event_properties.proceeds_local, float | None)
        case PurchaseEvent():
            assert_type(event.event_properties.consecutive_payments, int | None)
        case UnknownEvent():
            assert_type(event.event_properties, EventProperties)
            assert_type(event.raw, dict[str, Any])
        case _:
            assert_type(event.event_properties, EventProperties)
    assert_type(event.profile_event_id, str | None)
    assert_type(event.deduplication_key, str | None)
    assert_type(event.attributions, dict[str, Attribution])
    assert_type(event.profiles_sharing_access_level, tuple[SharingProfile, ...])
    assert_type(event.play_store_purchase_token, PlayStorePurchaseToken | None)
    assert_type(transaction_event(event, external_profile_id="x"), TransactionEvent | None)


async def handle(event: Event) -> None:
    """Process an event."""


async def receiving(cache: AccessCache) -> None:
    """Make receivers, and connect them to web frameworks."""
    async with WebhookReceiver(handle, secret="s", store=SqliteStore("events.db")) as receiver:
        assert_type(receiver, WebhookReceiver)
        assert_type(receiver.statistics(), WebhookStatistics)
        web.Application().router.add_post("/adapty", webhook_handler(receiver))
        Route("/adapty", webhook_endpoint(receiver), methods=["POST"])
        FastAPI().add_api_route("/adapty", webhook_endpoint(receiver), methods=["POST"])
    WebhookReceiver(cache.handle, secret=("a", "b"), store=MemoryStore(max_events=10))


async def caching(client: AdaptyClient) -> None:
    """Look users up."""
    async with AccessCache(client, ttl=60, stale=600, max_wait=1, max_profiles=100) as cache:
        assert_type(await cache.has_access("premium", customer_user_id="u1"), bool)
        known = await cache.profile(profile_id="p1")
        assert_type(known, CachedProfile)
        assert_type(known.profile, Profile | None)
        assert_type(known.age, float)
        assert_type(known.is_stale, bool)
        assert_type(known.has_access("premium"), bool)
        assert_type(cache.invalidate(customer_user_id="u1", profile_id="p1"), None)
        assert_type(cache.statistics(), AccessStatistics)
