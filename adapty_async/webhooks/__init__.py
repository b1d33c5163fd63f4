"""
Webhooks: authentication, typed events, and a receiver for web services.

`authenticate` and `parse` need no client and do no I/O. `WebhookReceiver` passes each event to a
callable at least once. `adapty_async.webhooks.aiohttp` and `adapty_async.webhooks.starlette`
connect it to a web framework.

Source: https://adapty.io/docs/webhook
"""

from __future__ import annotations

from adapty_async.webhooks._events import (
    EVENT_TYPES,
    AccessLevelUpdated,
    BillingIssueDetected,
    EnteredGracePeriod,
    Event,
    NonSubscriptionPurchase,
    NonSubscriptionPurchaseRefunded,
    PurchaseEvent,
    RevenueEvent,
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
)
from adapty_async.webhooks._mail import transaction_event
from adapty_async.webhooks._parse import MAX_BODY_BYTES, authenticate, parse
from adapty_async.webhooks._properties import (
    AccessLevelProperties,
    Attribution,
    EventProperties,
    PlayStorePurchaseToken,
    PurchaseProperties,
    RevenueProperties,
    SharingProfile,
)
from adapty_async.webhooks._receiver import (
    EventHandler,
    WebhookReceiver,
    WebhookResponse,
    WebhookStatistics,
)
from adapty_async.webhooks._store import EventStore, MemoryStore, SqliteStore

__all__ = (
    "EVENT_TYPES",
    "MAX_BODY_BYTES",
    "AccessLevelProperties",
    "AccessLevelUpdated",
    "Attribution",
    "BillingIssueDetected",
    "EnteredGracePeriod",
    "Event",
    "EventHandler",
    "EventProperties",
    "EventStore",
    "MemoryStore",
    "NonSubscriptionPurchase",
    "NonSubscriptionPurchaseRefunded",
    "PlayStorePurchaseToken",
    "PurchaseEvent",
    "PurchaseProperties",
    "RevenueEvent",
    "RevenueProperties",
    "SharingProfile",
    "SqliteStore",
    "SubscriptionDeferred",
    "SubscriptionExpired",
    "SubscriptionPaused",
    "SubscriptionRefunded",
    "SubscriptionRenewalCancelled",
    "SubscriptionRenewalReactivated",
    "SubscriptionRenewed",
    "SubscriptionStarted",
    "TrialConverted",
    "TrialExpired",
    "TrialRenewalCancelled",
    "TrialRenewalReactivated",
    "TrialStarted",
    "UnknownEvent",
    "Verification",
    "WebhookReceiver",
    "WebhookResponse",
    "WebhookStatistics",
    "authenticate",
    "parse",
    "transaction_event",
)
