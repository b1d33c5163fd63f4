"""Operations of version 2: profiles, their transactions and access levels."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

from . import _v2_rules as rules
from . import _webhook_events as events
from ._rules import Invalid, Problem, updated
from ._server_side import BASE, ServerSide, header_ids, missing_profile, require_profile
from ._service import Call, Refusal, Response, Service, decoded, json_response, read
from ._shop import Shop
from ._store import Store, StoredProfile

_APP_ID = str(uuid5(NAMESPACE_URL, "sandbox"))
_GRACE = "grace_period_expires_at"
_GRANTED_PRODUCT = "adapty_server_side_product"


class ProfilesV2:
    """The operations on one profile, which a header identifies."""

    def __init__(
        self, store: Store, shop: Shop, emit: Callable[[Mapping[str, Any]], object] | None = None
    ) -> None:
        """Serve the profiles of `store` with their rows in `shop`; `emit` sends webhooks."""
        self._store = store
        self._shop = shop
        self._send = emit

    def services(self, authorization: str) -> dict[str, Service]:
        """Return the services by path."""
        purchase = f"{BASE}/purchase"
        operations: dict[str, dict[str, Callable[[Call], Response]]] = {
            f"{BASE}/profile/": {
                "POST": self._create,
                "GET": self._get,
                "PATCH": self._update,
                "DELETE": self._delete,
            },
            f"{purchase}/set/transaction/": {"POST": self._set_transaction},
            f"{purchase}/profile/grant/access-level/": {"POST": self._grant},
            f"{purchase}/profile/revoke/access-level/": {"POST": self._revoke},
        }
        return {path: ServerSide(authorization, methods) for path, methods in operations.items()}

    # Profiles

    def _create(self, call: Call) -> Response:
        ids = header_ids(call, both=True)
        profile = self._named(ids)
        if profile is None:
            if "profile_id" in ids:
                raise missing_profile()
            profile = StoredProfile(str(uuid4()), ids["customer_user_id"], {})
        return self._put(profile, call)

    def _named(self, ids: Mapping[str, str]) -> StoredProfile | None:
        """Return the profile; with both ids, assign the customer user id to it."""
        by = "profile_id" if "profile_id" in ids else "customer_user_id"
        profile = self._store.find(by, ids[by])
        wanted = ids.get("customer_user_id")
        if profile is None or wanted in (None, profile.customer_user_id):
            return profile
        # The documentation says nothing about an id in use, or a profile that has one already.
        existing = self._store.find("customer_user_id", ids["customer_user_id"])
        if existing is not None or profile.customer_user_id is not None:
            raise Invalid(Problem("The profile has another customer user id", "non_field_errors"))
        return profile._replace(customer_user_id=wanted)

    def _get(self, call: Call) -> Response:
        return self._response(self._existing(call))

    def _update(self, call: Call) -> Response:
        return self._put(self._existing(call), call)

    def _delete(self, call: Call) -> Response:
        self._store.delete(self._existing(call).profile_id)
        return Response(204)

    def _existing(self, call: Call) -> StoredProfile:
        return require_profile(self._store, call)

    def _put(self, profile: StoredProfile, call: Call) -> Response:
        changes = rules.profile(decoded(call.body or b"{}"))
        profile = profile._replace(attributes=updated(profile.attributes, changes))
        self._store.put(profile)
        return self._response(profile)

    def _response(self, profile: StoredProfile) -> Response:
        return json_response(200, {"data": self.view(profile)})

    # Purchases and access

    def _set_transaction(self, call: Call) -> Response:
        profile = self._existing(call)
        purchase = read(call, rules.transaction)
        self.record(profile, purchase)
        return self._response(profile)

    def record(self, profile: StoredProfile, purchase: Mapping[str, Any]) -> None:
        """Store a purchase, and grant the access level of its product."""
        profile_id = profile.profile_id
        for name in events.names(self._shop.purchases(profile_id), purchase):
            self._emit(profile, name, events.purchase_properties(name, purchase))
        self._shop.put_purchase(profile_id, purchase)
        level = self._shop.access_level_of(purchase["store_product_id"])
        if level is None:
            return  # "a product not created in Adapty": recorded, but grants nothing
        access = {"access_level_id": level, "starts_at": None, **_bought(purchase)}
        known = self._shop.access(profile_id).get(level)
        if known is None or not _lasts_longer(known, access):
            self._put_access(profile, access)

    def _put_access(
        self, profile: StoredProfile, access: Mapping[str, Any], **properties: str
    ) -> None:
        self._shop.put_access(profile.profile_id, access)
        properties = {**events.access_properties(access), **properties}
        self._emit(profile, events.ACCESS_LEVEL_UPDATED, properties)

    def _emit(self, profile: StoredProfile, name: str, properties: Mapping[str, Any]) -> None:
        if self._send is not None:
            integration_ids = self._shop.settings(profile.profile_id, "integrations")
            self._send(events.envelope(profile, name, properties, integration_ids))

    def _grant(self, call: Call) -> Response:
        profile = self._existing(call)
        body = read(call, rules.grant)
        self._require_level(body["access_level_id"])
        self.grant(profile, body)
        return self._response(profile)

    def grant(self, profile: StoredProfile, body: Mapping[str, Any]) -> None:
        """Store an access level that was granted from the server."""
        now = _now()
        granted = {
            "store": "adapty",
            "store_product_id": _GRANTED_PRODUCT,
            "store_transaction_id": str(uuid4()),
            "purchased_at": now,
            "starts_at": None,
            "expires_at": None,
            **body,
        }
        ids = {"store_original_transaction_id": granted["store_transaction_id"]}
        access = {**granted, **ids, "originally_purchased_at": now}
        self._put_access(profile, access)

    def _require_level(self, access_level_id: str) -> None:
        if not self._shop.has_access_level(access_level_id):
            message = f"Paid access level `{access_level_id}` does not exist"
            raise Refusal(
                400, "paid_access_level_does_not_exist", Problem(message, "non_field_errors")
            )

    def _revoke(self, call: Call) -> Response:
        profile = self._existing(call)
        body = read(call, rules.revocation)
        level = body["access_level_id"]
        self._require_level(level)
        access = self._shop.access(profile.profile_id).get(level)
        if access is None:
            message = f"Profile `{profile.profile_id}` has no `{level}` access level"
            code = "profile_paid_access_level_does_not_exist"
            raise Refusal(400, code, Problem(message, "non_field_errors"))
        ends_at = _revoked_at(access, body.get("revoke_at"))
        ended = {**access, "expires_at": ends_at, _GRACE: None}
        self._put_access(profile, ended, cancellation_reason="adapty_revoked")
        return self._response(profile)

    # The view of a profile

    def view(self, profile: StoredProfile) -> dict[str, Any]:
        """Return a profile as the API shows it."""
        now = datetime.now(UTC)
        purchases = self._shop.purchases(profile.profile_id)
        custom = profile.attributes.get("custom_attributes", {})
        return {
            "app_id": _APP_ID,
            "profile_id": profile.profile_id,
            "customer_user_id": profile.customer_user_id,
            "total_revenue_usd": _revenue(purchases),
            "segment_hash": blake2b(profile.profile_id.encode(), digest_size=8).hexdigest(),
            "timestamp": int(time.time() * 1000),
            "custom_attributes": [{"key": key, "value": value} for key, value in custom.items()],
            "access_levels": [
                {**_EMPTY_ACCESS, **access_view(access, now)}
                for access in self._shop.access(profile.profile_id).values()
            ],
            "subscriptions": [
                {
                    **access_view(_bought(one), now),
                    "environment": one.get("environment", "Production"),
                }
                for one in _subscriptions(purchases)
            ],
            "non_subscriptions": [
                _non_subscription(profile.profile_id, one)
                for one in purchases
                if one["purchase_type"] == "one_time_purchase"
            ],
        }


_EMPTY_ACCESS = dict.fromkeys(
    (
        "store_base_plan_id",
        "offer",
        "renewal_cancelled_at",
        "billing_issue_detected_at",
        "cancellation_reason",
    )
)


def _now() -> str:
    return datetime.now(UTC).isoformat()


def access_view(access: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return the view of an access level or a subscription, without the end of a grace period."""
    grace = access.get(_GRACE)
    view = {name: value for name, value in access.items() if name != _GRACE}
    return {**view, "is_in_grace_period": grace is not None and rules.parse_date_time(grace) > now}


def _bought(purchase: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a purchase that access levels and subscriptions share."""
    cancelled = purchase.get("renew_status") is False
    return {
        "store": purchase["store"],
        "store_product_id": purchase["store_product_id"],
        "store_base_plan_id": None,
        "store_transaction_id": purchase["store_transaction_id"],
        "store_original_transaction_id": purchase["store_original_transaction_id"],
        "offer": purchase.get("offer"),
        "purchased_at": purchase["purchased_at"],
        "originally_purchased_at": purchase.get(
            "originally_purchased_at", purchase["purchased_at"]
        ),
        "expires_at": purchase.get("refunded_at") or purchase.get("expires_at"),
        "renewal_cancelled_at": (
            (purchase.get("renew_status_changed_at") or purchase["purchased_at"])
            if cancelled
            else None
        ),
        "billing_issue_detected_at": purchase.get("billing_issue_detected_at"),
        _GRACE: purchase.get(_GRACE),
        "cancellation_reason": purchase.get("cancellation_reason"),
    }


def _lasts_longer(known: Mapping[str, Any], access: Mapping[str, Any]) -> bool:
    """Return whether the known access comes from another purchase and ends later."""
    if known["store_transaction_id"] == access["store_transaction_id"]:
        return False
    if known["expires_at"] is None or access["expires_at"] is None:
        return known["expires_at"] is None
    return rules.parse_date_time(known["expires_at"]) > rules.parse_date_time(access["expires_at"])


def _revoked_at(access: Mapping[str, Any], requested: str | None) -> str:
    now = datetime.now(UTC)
    moment = now if requested is None else rules.parse_date_time(requested)
    if moment < now:
        raise Refusal(400, "value_error", Problem("Must be greater than the current time or null"))
    expires_at = access["expires_at"]
    if expires_at is not None and moment > rules.parse_date_time(expires_at):
        message = (
            f"Revocation date ({moment}) is more than current expiration date "
            f"({rules.parse_date_time(expires_at)})"
        )
        raise Refusal(
            400, "revocation_date_more_than_expiration_date", Problem(message, "revoke_at")
        )
    return moment.isoformat()


def _revenue(purchases: list[dict[str, Any]]) -> float:
    dollars = (
        Decimal(str(one["price"]["value"]))
        for one in purchases
        if one["price"]["currency"] == "USD" and not one.get("refunded_at")
    )
    return float(sum(dollars))


def _subscriptions(purchases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the latest transaction of each chain of renewals."""
    latest: dict[str, dict[str, Any]] = {}
    for one in purchases:
        if one["purchase_type"] != "subscription":
            continue
        chain = one["store_original_transaction_id"]
        known = latest.get(chain)
        if known is None or _purchased(one) >= _purchased(known):
            latest[chain] = one
    return list(latest.values())


def _purchased(purchase: Mapping[str, Any]) -> datetime:
    return rules.parse_date_time(purchase["purchased_at"])


def _non_subscription(profile_id: str, purchase: Mapping[str, Any]) -> dict[str, Any]:
    transaction_id = purchase["store_transaction_id"]
    return {
        "purchase_id": str(uuid5(NAMESPACE_URL, f"{profile_id}/{transaction_id}")),
        "store": purchase["store"],
        "store_product_id": purchase["store_product_id"],
        "store_base_plan_id": None,
        "store_transaction_id": transaction_id,
        "store_original_transaction_id": purchase["store_original_transaction_id"],
        "purchased_at": purchase["purchased_at"],
        "environment": purchase.get("environment", "Production"),
        "is_refund": bool(purchase.get("refunded_at")),
        "is_consumable": False,
    }
