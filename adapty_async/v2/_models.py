"""Result structs of a profile, with its access levels and purchases."""

from __future__ import annotations

import datetime as dt
import re
from typing import ClassVar

from msgspec import field

from adapty_async._api.results import CustomAttributes, DateTime, ResultStruct, data_decoder
from adapty_async._api.validation import has_zone
from adapty_async.errors import DecodeError, InvalidInputError

DOCS = "https://adapty.io/docs/api-adapty/operations"
PATH = "/api/v2/server-side-api"

# The fields that determine whether an access level is open.
_DECISIVE = frozenset({"starts_at", "expires_at", "is_in_grace_period"})
# The paths of odd fields that may hide an access level of any name.
_UNKNOWN_LEVEL = re.compile(r"access_levels(\[[0-9]+\](\.access_level_id)?)?")


class AppliedOffer(ResultStruct, frozen=True, kw_only=True):
    """
    The offer of a purchase.

    Attributes:
        category: ``introductory``, ``promotional``, ``offer_code``, ``win_back`` or a newer one.
        type: ``free_trial``, ``pay_as_you_go``, ``pay_up_front`` or a newer one.
        id: the offer's id in the store.
    """

    category: str = ""
    type: str = ""
    id: str | None = None


class _PurchaseResult(ResultStruct, frozen=True, kw_only=True):
    store: str = ""
    store_product_id: str = ""
    store_base_plan_id: str | None = None
    store_transaction_id: str = ""
    store_original_transaction_id: str = ""
    purchased_at: DateTime | None = None


class _PeriodResult(_PurchaseResult, frozen=True, kw_only=True):
    offer: AppliedOffer | None = None
    originally_purchased_at: DateTime | None = None
    expires_at: DateTime | None = None
    renewal_cancelled_at: DateTime | None = None
    billing_issue_detected_at: DateTime | None = None
    is_in_grace_period: bool = False
    cancellation_reason: str | None = None


class AccessLevel(_PeriodResult, frozen=True, kw_only=True):
    """
    An access level of a profile and its period.

    Attributes:
        starts_at: when the access starts; None if it has started.
        expires_at: when the access ends; None if it never ends.
        is_in_grace_period: the store could not renew the purchase; access stays open for a while.
    """

    access_level_id: str = ""
    starts_at: DateTime | None = None

    def is_active(self, *, at: dt.datetime | None = None) -> bool:
        """
        Return whether the access level is open at a date and time, by default now.

        An access level that has started is open if it never expires, has not expired yet, or is in
        its grace period. The server does not return the end of a grace period, so the grace period
        counts for all times after the expiry.

        Raises:
            InvalidInputError: `at` is not a datetime with a time zone.
            DecodeError: a field that determines the result is not as documented.
        """
        when = _aware(at)
        if _is_undecided(self):
            raise DecodeError("the dates of an access level are not as documented: see odd_fields")
        if self.starts_at is not None and when < self.starts_at:
            return False
        ended = self.expires_at is not None and when >= self.expires_at
        return not ended or self.is_in_grace_period


def _is_undecided(level: AccessLevel) -> bool:
    odd_fields = level.odd_fields
    return bool(odd_fields) and not _DECISIVE.isdisjoint(odd_fields)


class Subscription(_PeriodResult, frozen=True, kw_only=True):
    """
    A subscription of a profile.

    Attributes:
        environment: ``Production`` or ``Sandbox``.
        expires_at: when the subscription ends; None if it never ends.
    """

    environment: str = ""


class NonSubscription(_PurchaseResult, frozen=True, kw_only=True):
    """
    A one-time purchase of a profile.

    Attributes:
        environment: ``Production`` or ``Sandbox``.
    """

    purchase_id: str = ""
    environment: str = ""
    is_refund: bool = False
    is_consumable: bool = False


class Profile(ResultStruct, frozen=True, kw_only=True):
    """
    A profile: its ids, purchases and access levels.

    It has none of the personal data that can be written to it. A field that the server leaves out
    has its default.

    Attributes:
        customer_user_id: the user's id in your system; None for an anonymous profile.
        total_revenue_usd: US dollars.
        timestamp: the time of the response, in milliseconds since 1970; of two responses for one
            profile, the larger number is the newer.

    Source: https://adapty.io/docs/api-adapty/operations/getProfile
    """

    app_id: str = ""
    profile_id: str = ""
    customer_user_id: str | None = None
    total_revenue_usd: float = 0.0
    segment_hash: str = ""
    timestamp: int = 0
    custom_attributes: CustomAttributes = field(default_factory=CustomAttributes)
    access_levels: tuple[AccessLevel, ...] = ()
    subscriptions: tuple[Subscription, ...] = ()
    non_subscriptions: tuple[NonSubscription, ...] = ()

    essential: ClassVar[frozenset[str]] = frozenset({"profile_id", "customer_user_id"})

    def has_access(self, access_level_id: str, *, at: dt.datetime | None = None) -> bool:
        """
        Return whether an access level is open at a date and time, by default now.

        The server's list of access levels does not state which ones are open; see
        `AccessLevel.is_active` for the rule.

        Raises:
            InvalidInputError: `at` is not a datetime with a time zone.
            DecodeError: no readable access level is open, and one is not as documented.
        """
        when = _aware(at)
        levels = [
            level for level in self.access_levels or () if level.access_level_id == access_level_id
        ]
        decided = [level for level in levels if not _is_undecided(level)]
        if any(level.is_active(at=when) for level in decided):
            return True
        if len(decided) < len(levels) or self._has_unknown_levels():
            raise DecodeError("access levels are not as documented: see odd_fields")
        return False

    def _has_unknown_levels(self) -> bool:
        return any(
            _UNKNOWN_LEVEL.fullmatch(path) and raw is not None
            for path, raw in self.odd_fields.items()
        )


def _aware(at: dt.datetime | None) -> dt.datetime:
    if at is None:
        return dt.datetime.now(dt.UTC)
    if not isinstance(at, dt.datetime) or not has_zone(at):
        raise InvalidInputError("at", "must be a datetime with a time zone")
    return at


read_profile = data_decoder(Profile)
