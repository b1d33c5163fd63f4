"""
Structs of webhook events: one class for each type that Adapty documents, and one for the others.

A type may have another name in the dashboard, so the class of an event is its type, and
`Event.event_type` is only the name that was received.

Source: https://adapty.io/docs/webhook-event-types-and-fields
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, ClassVar

import msgspec
from msgspec import field

from adapty_async._api.results import DateTime, ResultStruct
from adapty_async.webhooks._properties import (
    AccessLevelProperties,
    Attribution,
    EventProperties,
    PlayStorePurchaseToken,
    PurchaseProperties,
    RevenueProperties,
    SharingProfile,
)


class Verification(msgspec.Struct, frozen=True):
    """
    A verification request, which Adapty sends when the webhook is saved in the dashboard.

    Source: https://adapty.io/docs/set-up-webhook-integration#verification-request
    """


class Event(ResultStruct, frozen=True, kw_only=True):
    """
    An event that Adapty sends to a webhook: its envelope and properties.

    The class of an event is its type; `event_properties` of a subclass are those of the type. A
    field that is not as documented is None, and `odd_fields` has its raw value. The repr of an
    event shows no value.

    Attributes:
        event_type: the name of the type, which the dashboard may have changed.
        event_datetime: the business time of the event. It is no order of the events.
        profile_id: Adapty's id of the profile.
        customer_user_id: the user's id in your system; None for an anonymous profile.
        profiles_sharing_access_level: the other profiles of the same store account.
        attributions: attribution data by source, if the dashboard enables them.
        user_attributes: custom attributes by key, if the dashboard enables them; Adapty converts
            booleans and integers to floats.
        integration_ids: the ids that other services know the profile by.
        raw: the whole body, with the fields that this class does not have.

    Source: https://adapty.io/docs/webhook-event-types-and-fields#webhook-event-structure
    """

    event_type: str = ""
    event_datetime: DateTime | None = None
    event_api_version: int | None = None
    event_properties: EventProperties = field(default_factory=EventProperties)
    profile_id: str | None = None
    customer_user_id: str | None = None
    email: str | None = None
    idfa: str | None = None
    idfv: str | None = None
    advertising_id: str | None = None
    profile_install_datetime: DateTime | None = None
    user_agent: str | None = None
    profiles_sharing_access_level: tuple[SharingProfile, ...] = ()
    attributions: dict[str, Attribution] = field(default_factory=dict)
    user_attributes: dict[str, Any] = field(default_factory=dict)
    integration_ids: dict[str, Any] = field(default_factory=dict)
    play_store_purchase_token: PlayStorePurchaseToken | None = None
    raw: dict[str, Any] = field(default_factory=dict)

    #: The name of the type in Adapty's documentation; None if it has none.
    default_name: ClassVar[str | None] = None

    @property
    def profile_event_id(self) -> str | None:
        """The id of the event, by which a second delivery is recognised; None if it has none."""
        return self.event_properties.profile_event_id

    @property
    def deduplication_key(self) -> str | None:
        """
        A digest that all deliveries of one event share; None without a `profile_event_id`.

        It has 64 hexadecimal digits and shows nothing of the event. The profile, the type and the
        access level are part of it, so that two events are two even if they share a
        `profile_event_id`.
        """
        if not self.profile_event_id:
            return None
        name = self.default_name or self.event_type
        identity = self.profile_event_id, self.profile_id, name, self._access_level_id()
        return sha256(repr(identity).encode()).hexdigest()  # repr escapes lone surrogates

    def _access_level_id(self) -> str | None:
        return None


class PurchaseEvent(Event, frozen=True, kw_only=True):
    """An event about a subscription, a trial or a one-time purchase."""

    event_properties: PurchaseProperties = field(default_factory=PurchaseProperties)


class RevenueEvent(PurchaseEvent, frozen=True, kw_only=True):
    """An event about a charge or a refund, with taxes and revenue."""

    event_properties: RevenueProperties = field(default_factory=RevenueProperties)


class SubscriptionStarted(RevenueEvent, frozen=True, kw_only=True):
    """
    A subscription without a trial began, and the user was charged.

    All amounts may be 0, such as when Google Play replaces a subscription.
    """

    default_name: ClassVar[str] = "subscription_started"


class SubscriptionRenewed(RevenueEvent, frozen=True, kw_only=True):
    """A subscription was renewed, and the user was charged."""

    default_name: ClassVar[str] = "subscription_renewed"


class SubscriptionRenewalCancelled(PurchaseEvent, frozen=True, kw_only=True):
    """The user turned automatic renewal off; access lasts until the end of the period."""

    default_name: ClassVar[str] = "subscription_renewal_cancelled"


class SubscriptionRenewalReactivated(PurchaseEvent, frozen=True, kw_only=True):
    """The user turned automatic renewal on again. The product is the one before."""

    default_name: ClassVar[str] = "subscription_renewal_reactivated"


class SubscriptionExpired(PurchaseEvent, frozen=True, kw_only=True):
    """A cancelled subscription ended."""

    default_name: ClassVar[str] = "subscription_expired"


class SubscriptionPaused(PurchaseEvent, frozen=True, kw_only=True):
    """The user paused a subscription at Google Play."""

    default_name: ClassVar[str] = "subscription_paused"


class SubscriptionDeferred(PurchaseEvent, frozen=True, kw_only=True):
    """The payment of a subscription was deferred through Google Play's API."""

    default_name: ClassVar[str] = "subscription_deferred"


class NonSubscriptionPurchase(RevenueEvent, frozen=True, kw_only=True):
    """A one-time purchase was made, such as lifetime access or coins of a game."""

    default_name: ClassVar[str] = "non_subscription_purchase"


class TrialStarted(PurchaseEvent, frozen=True, kw_only=True):
    """A trial began."""

    default_name: ClassVar[str] = "trial_started"


class TrialConverted(PurchaseEvent, frozen=True, kw_only=True):
    """A trial ended, and the user was charged for the first time."""

    default_name: ClassVar[str] = "trial_converted"


class TrialRenewalCancelled(PurchaseEvent, frozen=True, kw_only=True):
    """The user turned automatic renewal off during a trial; access lasts until its end."""

    default_name: ClassVar[str] = "trial_renewal_cancelled"


class TrialRenewalReactivated(PurchaseEvent, frozen=True, kw_only=True):
    """The user turned automatic renewal on again during a trial."""

    default_name: ClassVar[str] = "trial_renewal_reactivated"


class TrialExpired(PurchaseEvent, frozen=True, kw_only=True):
    """A trial ended without a subscription."""

    default_name: ClassVar[str] = "trial_expired"


class EnteredGracePeriod(PurchaseEvent, frozen=True, kw_only=True):
    """A payment failed, and access stays open for a grace period."""

    default_name: ClassVar[str] = "entered_grace_period"


class BillingIssueDetected(PurchaseEvent, frozen=True, kw_only=True):
    """A payment failed."""

    default_name: ClassVar[str] = "billing_issue_detected"


class SubscriptionRefunded(RevenueEvent, frozen=True, kw_only=True):
    """A subscription was refunded."""

    default_name: ClassVar[str] = "subscription_refunded"


class NonSubscriptionPurchaseRefunded(PurchaseEvent, frozen=True, kw_only=True):
    """A one-time purchase was refunded."""

    default_name: ClassVar[str] = "non_subscription_purchase_refunded"


class AccessLevelUpdated(Event, frozen=True, kw_only=True):
    """
    An access level of a profile changed.

    Adapty sends it only if the dashboard enables it, and once for each profile that shares the
    access level.

    Source: https://adapty.io/docs/webhook-event-types-and-fields#for-access-level-updated-event
    """

    event_properties: AccessLevelProperties = field(default_factory=AccessLevelProperties)

    default_name: ClassVar[str] = "access_level_updated"

    def _access_level_id(self) -> str | None:
        return self.event_properties.access_level_id


class UnknownEvent(Event, frozen=True, kw_only=True):
    """
    An event of a type that Adapty does not document, or that the dashboard has renamed.

    `raw` has the properties that `event_properties` does not have.
    """


# The classes of the types that Adapty documents.
_TYPES: tuple[type[Event], ...] = (
    SubscriptionStarted,
    SubscriptionRenewed,
    SubscriptionRenewalCancelled,
    SubscriptionRenewalReactivated,
    SubscriptionExpired,
    SubscriptionPaused,
    SubscriptionDeferred,
    NonSubscriptionPurchase,
    TrialStarted,
    TrialConverted,
    TrialRenewalCancelled,
    TrialRenewalReactivated,
    TrialExpired,
    EnteredGracePeriod,
    BillingIssueDetected,
    SubscriptionRefunded,
    NonSubscriptionPurchaseRefunded,
    AccessLevelUpdated,
)
#: The class of each documented type of event, by its default name.
EVENT_TYPES: Mapping[str, type[Event]] = types.MappingProxyType(
    {kind.default_name: kind for kind in _TYPES if kind.default_name}
    # "also referred to as subscription_started - same event"
    | {"subscription_initial_purchase": SubscriptionStarted}
)
