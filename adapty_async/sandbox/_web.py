"""The service of the web API: the paywall of a placement, its views, and attributions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from ._rules import Invalid, Problem, Required, Rule, identifier, record, text, wrong
from ._server_side import missing_profile
from ._service import Call, Refusal, Response, Service, identity_in_body, json_response, read
from ._shop import Shop
from ._store import Store, StoredProfile
from ._v2_rules import uuid

_BASE = "/api/v2/web-api"
_IDS = ("customer_user_id", "profile_id")
_STATUSES = ("organic", "non_organic", "unknown")
_FIELDS = ("attribution_user_id", "channel", "campaign", "ad_group", "ad_set", "creative")
# The error codes that the documentation shows for mistakes in these fields.
_CODES: Mapping[str | None, str] = {"visited_at": "datetime", "status": "enum"}


def _date_time(value: Any) -> str:
    try:
        datetime.fromisoformat(text(value))
    except ValueError:
        raise wrong("invalid datetime format") from None
    return str(value)


def _status(value: Any) -> str:
    if value not in _STATUSES:
        allowed = ", ".join(map(repr, _STATUSES))
        raise wrong(f"value is not a valid enumeration member; permitted: {allowed}")
    return str(value)


_WHO: Mapping[str, Rule | Required] = dict.fromkeys(_IDS, identifier)
paywall_rule = record(
    {**_WHO, "store": Required(identifier), "placement_id": Required(identifier), "locale": text}
)
visit_rule = record(
    {
        **_WHO,
        "store": Required(identifier),
        "variation_id": Required(uuid),
        "visited_at": _date_time,
    }
)
attribution_rule = record({**_WHO, "status": Required(_status), **dict.fromkeys(_FIELDS, text)})


class _WebService(Service):
    """A service of the web API: the body identifies the profile."""

    name = "web"

    def identity(self, call: Call) -> str | None:
        """Return the id in the body; `None` if the body cannot be decoded."""
        return identity_in_body(call, _IDS)

    def invalid(self, invalid: Invalid) -> Refusal:
        """Return the refusal of a request with these problems."""
        code = _CODES.get(invalid.problems[0].field, "parse_error")
        return Refusal(400, code, *invalid.problems)


class Web:
    """The operations of the web API."""

    def __init__(self, store: Store, shop: Shop) -> None:
        self._store = store
        self._shop = shop

    def services(self, authorization: str) -> dict[str, Service]:
        """Return the services by path."""
        operations = {
            f"{_BASE}/paywall/": self._get_paywall,
            f"{_BASE}/paywall/visit/": self._record_visit,
            f"{_BASE}/attribution/": self._add_attribution,
        }
        return {
            path: _WebService(authorization, {"POST": operation})
            for path, operation in operations.items()
        }

    def _profile(self, body: Mapping[str, Any]) -> StoredProfile:
        ids = [(name, body[name]) for name in _IDS if name in body]
        if len(ids) != 1:
            raise Invalid(Problem("Either customer_user_id or profile_id is required"))
        profile = self._store.find(*ids[0])
        if profile is None:
            raise missing_profile()
        return profile

    def _get_paywall(self, call: Call) -> Response:
        body = read(call, paywall_rule)
        self._profile(body)
        placement_id = body["placement_id"]
        shown = self._shop.paywall_at(placement_id)
        if shown is None:
            message = f"Variation for {placement_id} does not exist."
            raise Refusal(404, "VARIATION_DOES_NOT_EXIST_ERROR", Problem(message))
        paywall_id, fields = shown
        paywall = {
            "placement_id": placement_id,
            "variation_id": str(uuid5(NAMESPACE_URL, f"{placement_id}/{paywall_id}")),
            "paywall_id": paywall_id,
            "ab_test_name": fields["title"],
            "paywall_name": fields["title"],
            "products": [_product(one) for one in self._shop.product_ids()],
        }
        config = _config(fields["remote_configs"], body.get("locale"))
        return json_response(200, paywall if config is None else {**paywall, **config})

    def _record_visit(self, call: Call) -> Response:
        body = read(call, visit_rule)
        profile = self._profile(body)
        self._shop.add_view(profile.profile_id, {**body, "profile_id": profile.profile_id})
        return Response(201)

    def _add_attribution(self, call: Call) -> Response:
        body = read(call, attribution_rule)
        profile = self._profile(body)
        fields = {name: value for name, value in body.items() if name not in _IDS}
        known = self._shop.settings(profile.profile_id, "attribution")
        self._shop.put_settings(profile.profile_id, "attribution", {**known, **fields})
        return Response(201)


def _product(store_product_id: str) -> dict[str, Any]:
    return {
        "title": store_product_id.replace("_", " ").title(),
        "is_consumable": False,
        "adapty_product_id": str(uuid5(NAMESPACE_URL, store_product_id)),
        "vendor_product_id": store_product_id,
        "introductory_offer_eligibility": True,
        "promotional_offer_eligibility": True,
        "base_plan_id": None,
        "offer": None,
    }


def _config(configs: list[dict[str, str]], locale: str | None) -> dict[str, Any] | None:
    """Return the remote config of a locale, or the first one; `None` if there is none."""
    chosen = [one for one in configs if one["locale"] == locale] or configs
    if not chosen:
        return None
    return {"remote_config": {"lang": chosen[0]["locale"], "data": chosen[0]["data"]}}
