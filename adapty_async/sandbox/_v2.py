"""The service of the server-side API, version 2: a router to the parts of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._rules import Invalid, Problem
from ._service import Call, Refusal, Response, check_media_type
from ._shop import Shop
from ._v2_app import PAYWALLS, AppV2
from ._v2_currencies import CurrenciesV2
from ._v2_profiles import ProfilesV2
from ._v2_routes import HEADERS, Route, error_response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from ._store import Store

_BODIES = frozenset({"POST", "PATCH", "PUT"})


class ServerSideV2:
    """A router that returns errors in the format that is documented for each operation."""

    name = "v2"

    def __init__(
        self,
        store: Store,
        api_key: str,
        latency: float,
        *,
        currencies: bool,
        emit: Callable[[Mapping[str, Any]], object] | None = None,
    ) -> None:
        """Serve `store` to requests with `api_key`; `emit` sends webhooks."""
        self._authorization = f"Api-Key {api_key}"
        shop = Shop(store.connection)
        profiles = ProfilesV2(store, shop, emit)
        self._routes = {
            **profiles.routes(),
            **AppV2(store, shop, profiles).routes(),
            **CurrenciesV2(store, shop, latency, enabled=currencies).routes(),
        }
        self._paths = {path for _, path in self._routes}

    def serves(self, path: str) -> bool:
        """Return whether a path belongs to version 2."""
        return _pattern(path) in self._paths

    def identity(self, call: Call) -> str | None:
        """Return the value of the identity header."""
        given = (call.headers.get(header) for header in HEADERS.values())
        return next(filter(None, given), None)

    def perform(self, call: Call) -> Response:
        """
        Check key, method, media type, identity and body, and carry the operation out.

        An error is returned in the format that is documented for the operation, so that nothing
        is raised.
        """
        route = self._routes.get((call.method, _pattern(call.path)))
        try:
            return self._carried_out(call, route)
        except Refusal as refusal:
            if route is None:
                return error_response(refusal, "objects")
            return error_response(
                refusal, route.key_error_format if refusal.status == 401 else route.error_format
            )

    def error(self, refusal: Refusal) -> Response:
        """Return the refusal in the error format of most operations."""
        return error_response(refusal, "objects")

    def _carried_out(self, call: Call, route: Route | None) -> Response:
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
    """Return the route's path: paths below the paywalls share one route."""
    below = path.removeprefix(PAYWALLS)
    is_paywall = path != below and below.endswith("/") and below.count("/") == 1
    return f"{PAYWALLS}*" if is_paywall and below != "/" else path


def _unauthorized(route: Route | None) -> Refusal:
    if route and route.key_error_format == "strings":
        return Refusal(401, "unauthorized", Problem("Invalid API key"))
    return Refusal(
        401,
        "not_authenticated",
        Problem("Authentication credentials were not provided.", "non_field_errors"),
    )
