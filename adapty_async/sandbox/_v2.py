"""The server-side API, version 2: which part of it answers a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._rules import Invalid, Problem
from ._shop import Shop
from ._v2_app import PAYWALLS, AppV2
from ._v2_currencies import CurrenciesV2
from ._v2_profiles import ProfilesV2
from ._v2_wire import HEADERS, Route, error_answer
from ._wire import Answer, Call, Refusal, check_media_type

if TYPE_CHECKING:
    from ._store import Store

_BODIES = frozenset({"POST", "PATCH", "PUT"})


class ServerSideV2:
    """Answer the operations of version 2, each with the errors that the document shows for it."""

    name = "v2"

    def __init__(self, store: Store, api_key: str, latency: float, *, currencies: bool) -> None:
        """Serve `store` to whoever sends `api_key`."""
        self._authorization = f"Api-Key {api_key}"
        shop = Shop(store.connection)
        profiles = ProfilesV2(store, shop)
        self._routes = {
            **profiles.routes(),
            **AppV2(store, shop, profiles).routes(),
            **CurrenciesV2(store, shop, latency, enabled=currencies).routes(),
        }
        self._paths = {path for _, path in self._routes}

    def serves(self, path: str) -> bool:
        """Return whether a path is one of version 2."""
        return _pattern(path) in self._paths

    def identity(self, call: Call) -> str | None:
        """Return the value of the identity header."""
        given = (call.headers.get(header) for header in HEADERS.values())
        return next(filter(None, given), None)

    def perform(self, call: Call) -> Answer:
        """
        Check key, method, media type, identity and body, and carry the operation out.

        What is wrong is answered in the form that the document shows for the operation, so that
        nothing is raised.
        """
        route = self._routes.get((call.method, _pattern(call.path)))
        try:
            return self._carried_out(call, route)
        except Refusal as refusal:
            if route is None:
                return error_answer(refusal, "objects")
            return error_answer(refusal, route.key_shape if refusal.status == 401 else route.shape)

    def error(self, refusal: Refusal) -> Answer:
        """Return the refusal in the body that most operations have."""
        return error_answer(refusal, "objects")

    def _carried_out(self, call: Call, route: Route | None) -> Answer:
        if call.headers.get("Authorization") != self._authorization:
            raise _unauthorized(route)
        if route is None:
            raise Refusal(
                405, "method_not_allowed", Problem(f'Method "{call.method}" not allowed.')
            )
        if call.method in _BODIES:
            check_media_type(call, route.media_type)
        try:
            return route.handle(call)
        except Invalid as invalid:
            raise Refusal(400, "validation_error", *invalid.problems) from invalid


def _pattern(path: str) -> str:
    """Return the path that routes are found by: what is below the paywalls is one of them."""
    below = path.removeprefix(PAYWALLS)
    is_paywall = path != below and below.endswith("/") and below.count("/") == 1
    return f"{PAYWALLS}*" if is_paywall and below != "/" else path


def _unauthorized(route: Route | None) -> Refusal:
    if route and route.key_shape == "strings":
        return Refusal(401, "unauthorized", Problem("Invalid API key"))
    return Refusal(
        401,
        "not_authenticated",
        Problem("Authentication credentials were not provided.", "non_field_errors"),
    )
