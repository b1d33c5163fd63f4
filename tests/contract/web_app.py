"""The contract of the web API."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from adapty_async import web
from adapty_async._api.call import Operation
from tests.contract.contract import STATUSES, Contract
from tests.contract.documents import DOCUMENTS

DOCUMENT = DOCUMENTS["web-api"]
VARIATION = "d76feea0-c0cf-4942-bef5-84ed701fc6db"
IDS: dict[str, Any] = {"customer_user_id": "u1"}
CALLS: dict[str, Callable[..., Operation[Any]]] = {
    "getPaywall": lambda: web.get_paywall("onboarding", store="app_store", locale="en", **IDS),
    "recordPaywallView": lambda: web.record_paywall_view(
        VARIATION, store="app_store", visited_at="2024-08-24T14:15:22Z", **IDS
    ),
    "addAttribution": lambda: web.add_attribution(web.Attribution(status="organic"), **IDS),
}
REQUESTS = ("GetPaywallRequest", "RecordPaywallViewRequest", "AddAttributionRequest")
ERRORS = tuple(name for name in DOCUMENT.schemas if name.endswith("Error"))


def _attributed(body: dict[str, Any]) -> Operation[None]:
    ids = {"customer_user_id": body["customer_user_id"]}
    fields = {name: value for name, value in body.items() if name not in ids}
    return web.add_attribution(web.Attribution(**fields), **ids)


DEFECTS: dict[str, Callable[[], bool]] = {
    "the errors have six schemas of one shape, and none of them requires a field": lambda: (
        len(ERRORS) == 6
        and len({json.dumps(DOCUMENT.schemas[name]) for name in ERRORS}) == 1
        and "required" not in DOCUMENT.schemas["ParseError"]
    ),
    "nullable is a word of OpenAPI 3.0 and has no meaning in 3.1": lambda: (
        DOCUMENT.content["openapi"].startswith("3.1")
        and DOCUMENT.schemas["Product"]["properties"]["base_plan_id"].get("nullable") is True
    ),
    "no schema requires one of the two ids, although the prose does": lambda: all(
        not {"customer_user_id", "profile_id"} & set(DOCUMENT.schemas[name]["required"])
        for name in REQUESTS
    ),
    "a response without a body is described as an object": lambda: (
        "content" in DOCUMENT.spec("recordPaywallView")["responses"]["201"]
    ),
    "no failure has an example, so the error codes stand on pages alone": lambda: (
        not list(DOCUMENT.error_examples())
    ),
}

CONTRACT = Contract(
    name="web-api",
    module=web,
    calls=CALLS,
    requests={
        "GetPaywallRequest": web.GetPaywallRequest,
        "RecordPaywallViewRequest": web.RecordPaywallViewRequest,
        "AddAttributionRequest": web.AddAttributionRequest,
    },
    responses={"PaywallResponse": web.Paywall},
    parts=frozenset({"Product", "Offer", "RemoteConfig"}),
    elsewhere=dict.fromkeys(ERRORS, "the codec decodes every error format"),
    builders={
        "getPaywall": lambda body: web.get_paywall(**body),
        "recordPaywallView": lambda body: web.record_paywall_view(**body),
        "addAttribution": _attributed,
    },
    error_kinds={},
    statuses={status: STATUSES[status] for status in (400, 401, 404)},
    authorization=lambda sandbox: f"Api-Key {sandbox.public_key}",
    defects=DEFECTS,
)
