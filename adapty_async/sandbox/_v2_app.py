"""Operations of version 2: Refund Saver, other stores, integrations and paywalls."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Literal
from uuid import uuid4

from . import _v2_rules as rules
from ._rules import Invalid, Problem
from ._server_side import BASE, ServerSide, require_profile, whole_number
from ._service import Call, Refusal, Response, Service, json_response, read
from ._shop import Shop
from ._store import Store, StoredProfile
from ._v2_profiles import ProfilesV2

PAYWALLS = f"{BASE}/paywalls/"
_STRIPE = "/api/v1/sdk/purchase/stripe/token/validate/"
_PAGE_SIZE_MAX = 100
_NUMBER_MAX = 10**15
# The document has no null for a setting, and does not say what one is before it is set.
_UNSET_REFUND_SAVER: dict[str, dict[str, Any]] = {
    "null": {"consent": None, "custom_preference": None},
    "defaults": {"consent": False, "custom_preference": "no_preference"},
}


class _PaywallService(ServerSide):
    """A service with the other one of two documented responses to a bad API key."""

    def unauthorized(self) -> Refusal:
        """Return the refusal of a missing or wrong key."""
        return Refusal(401, "unauthorized", Problem("Invalid API key"))

    def errors(self, refusal: Refusal) -> list[Any]:
        """Return the problems for the error body: texts if the key is wrong."""
        if refusal.status == HTTPStatus.UNAUTHORIZED:
            return [message for message, _ in refusal.problems]
        return super().errors(refusal)


class _TextService(_PaywallService):
    """A service whose problems are texts."""

    def errors(self, refusal: Refusal) -> list[Any]:
        """Return the problems for the error body."""
        return [message for message, _ in refusal.problems]


class _JsonApiService(ServerSide):
    """A service with the media type and the errors of JSON:API."""

    media_type = "application/vnd.api+json"

    def error(self, refusal: Refusal) -> Response:
        """Return the refusal as an error body; only those of a bad request are documented so."""
        if refusal.status != HTTPStatus.BAD_REQUEST:
            return super().error(refusal)
        errors = [
            {
                "detail": message,
                "source": {"pointer": "/" + (field or "data").replace(".", "/")},
                "status": str(refusal.status),
            }
            for message, field in refusal.problems
        ]
        return json_response(refusal.status, {"errors": errors}, self.media_type)


def pattern(path: str) -> str:
    """Return the path of a service: the paths of all paywalls share one."""
    below = path.removeprefix(PAYWALLS)
    is_paywall = path != below and below.endswith("/") and below.count("/") == 1
    return f"{PAYWALLS}*" if is_paywall and below != "/" else path


class AppV2:
    """The operations on settings of a profile, purchases in other stores, and paywalls."""

    def __init__(
        self,
        store: Store,
        shop: Shop,
        profiles: ProfilesV2,
        unset_refund_saver: Literal["null", "defaults"],
    ) -> None:
        self._unset_refund_saver = _UNSET_REFUND_SAVER[unset_refund_saver]
        self._store = store
        self._shop = shop
        self._profiles = profiles

    def services(self, authorization: str) -> dict[str, Service]:
        """Return the services by path; see `pattern()`."""
        refund_saver = {"GET": self._get_refund_saver, "POST": self._set_refund_saver}
        integrations = {"GET": self._get_integrations, "POST": self._set_integrations}
        paywall = {"GET": self._get_paywall, "PUT": self._update_paywall}
        services: dict[str, Service] = {
            "purchase/profile/refund-saver/settings/": _TextService(authorization, refund_saver),
            "integration/profile/set/integration-identifiers/": _TextService(
                authorization, integrations
            ),
            "purchase/paddle/token/validate/": _TextService(authorization, {"POST": self._paddle}),
            "paywalls/": _PaywallService(authorization, {"GET": self._list_paywalls}),
            "paywalls/*": _PaywallService(authorization, paywall),
        }
        return {
            **{f"{BASE}/{path}": service for path, service in services.items()},
            _STRIPE: _JsonApiService(authorization, {"POST": self._stripe}),
        }

    # Refund Saver

    def _get_refund_saver(self, call: Call) -> Response:
        profile = self._with_refund_saver(call)
        return self._refund_saver(profile.profile_id)

    def _set_refund_saver(self, call: Call) -> Response:
        profile = self._with_refund_saver(call)
        changes = read(call, rules.refund_saver)
        if not changes:
            message = "Profile refund saver settings must have either consent or custom_preference"
            raise Invalid(Problem(f"{message} or both"))
        known = self._shop.settings(profile.profile_id, "refund_saver")
        self._shop.put_settings(profile.profile_id, "refund_saver", {**known, **changes})
        return self._refund_saver(profile.profile_id)

    def _with_refund_saver(self, call: Call) -> StoredProfile:
        # The only operations with status 400 for a missing profile.
        missing = Refusal(400, "profile_does_not_exist", Problem("Profile does not exist"))
        return require_profile(self._store, call, missing)

    def _refund_saver(self, profile_id: str) -> Response:
        known = self._shop.settings(profile_id, "refund_saver")
        given = {name: value for name, value in known.items() if value is not None}
        settings = {**self._unset_refund_saver, **given}
        return json_response(200, {"profile_id": profile_id, "settings": settings})

    # Integrations

    def _get_integrations(self, call: Call) -> Response:
        profile = self._with_integrations(call)
        known = self._shop.settings(profile.profile_id, "integrations")
        return json_response(200, {**dict.fromkeys(rules.IDENTIFIERS), **known})

    def _set_integrations(self, call: Call) -> Response:
        profile = self._with_integrations(call)
        changes = read(call, rules.identifiers)
        if not changes:
            raise Invalid(Problem("At least one integration identifier must be provided."))
        known = self._shop.settings(profile.profile_id, "integrations")
        self._shop.put_settings(profile.profile_id, "integrations", {**known, **changes})
        return Response(200)  # "The response body is blank."

    def _with_integrations(self, call: Call) -> StoredProfile:
        missing = Refusal(404, "profile_not_found", Problem("Profile not found"))
        return require_profile(self._store, call, missing)

    # Other stores

    def _paddle(self, call: Call) -> Response:
        body = read(call, rules.paddle)
        token = body["paddle_token"]
        if token.endswith("_no_key"):
            raise Refusal(400, "paddle_api_key_not_found", Problem("Paddle API key not found"))
        if token.endswith("_no_products"):
            raise Refusal(400, "no_products_found", Problem("No products found"))
        if not token.startswith(("txn_", "sub_")):
            code = "invalid_paddle_credentials_or_purchase_not_found"
            raise Refusal(400, code, Problem("Invalid Paddle credentials or purchase not found"))
        profile = self._imported("paddle", body["customer_user_id"], token)
        return json_response(200, {"data": self._profiles.view(profile)})

    def _stripe(self, call: Call) -> Response:
        attributes = read(call, rules.stripe)["data"]["attributes"]
        token = attributes["stripe_token"]
        if not token.startswith(("sub_", "pi_")):
            raise Invalid(Problem("no such purchase", "data.attributes.stripe_token"))
        self._imported("stripe", attributes["customer_user_id"], token)
        return json_response(200, {"data": None}, _JsonApiService.media_type)

    def _imported(self, store: str, customer_user_id: str, token: str) -> StoredProfile:
        """Record an invented purchase of the token; create the profile if there is none."""
        profile = self._store.find("customer_user_id", customer_user_id)
        if profile is None:
            profile = StoredProfile(str(uuid4()), customer_user_id, {})
            self._store.put(profile)
        make = _subscription if token.startswith("sub_") else _one_time
        self._profiles.record(profile, make(store, token))
        return profile

    # Paywalls

    def _list_paywalls(self, call: Call) -> Response:
        number = _number(
            call, "page[number]", 1, "Invalid page_number parameter. Must be 1 or more."
        )
        message = f"Invalid page_size parameter. Must be between 1 and {_PAGE_SIZE_MAX}."
        size = _number(call, "page[size]", 20, message, _PAGE_SIZE_MAX)
        count, rows = self._shop.paywalls((number - 1) * size, size)
        pagination = {"count": count, "page": number, "pages": -(-count // size)}
        listed = [_paywall(paywall_id, fields, is_listed=True) for paywall_id, fields in rows]
        return json_response(200, {"data": listed, "meta": {"pagination": pagination}})

    def _get_paywall(self, call: Call) -> Response:
        return json_response(200, _paywall(*self._paywall_of(call)))

    def _update_paywall(self, call: Call) -> Response:
        paywall_id, fields = self._paywall_of(call)
        changes = read(call, rules.paywall)
        if not changes.get("remote_configs"):
            raise Invalid(Problem("At least one field must be provided", "remote_configs"))
        fields = {**fields, **changes, "updated_at": datetime.now(UTC).isoformat()}
        self._shop.put_paywall(paywall_id, fields)
        return json_response(200, _paywall(paywall_id, fields))

    def _paywall_of(self, call: Call) -> tuple[str, dict[str, Any]]:
        paywall_id = call.path.removeprefix(PAYWALLS).removesuffix("/")
        fields = self._shop.paywall(paywall_id)
        if fields is None:
            raise Refusal(404, "paywall_does_not_exist", Problem("Paywall not found"))
        return paywall_id, fields


def _number(call: Call, name: str, default: int, message: str, most: int | None = None) -> int:
    # A page far beyond the last is empty; SQLite could not multiply its number any more.
    number = whole_number(call.query.get(name, str(default)), _NUMBER_MAX)
    if number < 1 or (most is not None and number > most):
        # The documented source is page_size, but the query parameter is page[size].
        raise Invalid(Problem(message, name.replace("[", "_").removesuffix("]")))
    return number


_CREATED = datetime(2025, 7, 8, 7, 27, 6, 754527, UTC).isoformat()


def _paywall(paywall_id: str, fields: dict[str, Any], *, is_listed: bool = False) -> dict[str, Any]:
    paywall = {
        "paywall_id": paywall_id,
        "use_paywall_builder": False,
        "use_paywall_builder_legacy": False,
        "updated_at": _CREATED,
        "created_at": _CREATED,
        "state": "live",
        "is_deleted": False,
        "web_purchase_url": None,
        "products": [
            {
                "product_id": paywall_id,
                "title": "Premium Monthly",
                "product_set": "monthly",
                "offer": None,
            }
        ],
        "main_screenshot": None,
        **fields,
    }
    hidden = {"remote_configs", "main_screenshot"} if is_listed else frozenset()
    return {name: value for name, value in paywall.items() if name not in hidden}


def _one_time(store: str, token: str) -> dict[str, Any]:
    return {
        "purchase_type": "one_time_purchase",
        "store": store,
        "store_product_id": "premium_lifetime",
        "store_transaction_id": token,
        "store_original_transaction_id": token,
        "price": {"country": "US", "currency": "USD", "value": 99.99},
        "purchased_at": datetime.now(UTC).isoformat(),
    }


def _subscription(store: str, token: str) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        **_one_time(store, token),
        "purchase_type": "subscription",
        "store_product_id": "premium_monthly",
        "price": {"country": "US", "currency": "USD", "value": 9.99},
        "originally_purchased_at": now.isoformat(),
        "expires_at": (now + timedelta(days=30)).isoformat(),
        "renew_status": True,
    }
