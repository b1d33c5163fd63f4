"""The service of the server-side API, version 2: a router to the parts of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._rules import Invalid, Problem
from ._service import (
    Call,
    Conflicts,
    Refusal,
    Response,
    Service,
    check_documented,
    check_media_type,
    method_not_allowed,
)
from ._shop import Shop
from ._v2_app import PAYWALLS, AppV2
from ._v2_currencies import CurrenciesV2
from ._v2_profiles import ProfilesV2
from ._v2_routes import Route, error_response, identity, not_authenticated

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
        latency: Callable[[], float],
        *,
        currencies: bool,
        conflicts: Conflicts,
        emit: Callable[[Mapping[str, Any]], object] | None = None,
    ) -> None:
        """Serve `store` to requests with `api_key`; `emit` sends webhooks; see `CurrenciesV2`."""
        self._authorization = f"Api-Key {api_key}"
        shop = Shop(store.connection)
        if conflicts.unknown_products == "premium":
            shop.unknown_product_level = "premium"
        profiles = ProfilesV2(store, shop, emit)
        self._routes = {
            **profiles.routes(),
            **AppV2(store, shop, profiles, conflicts).routes(),
            **CurrenciesV2(store, shop, latency, enabled=currencies).routes(),
        }
        self._methods: dict[str, list[str]] = {}
        for method, path in self._routes:
            self._methods.setdefault(path, []).append(method)
        self._other_media_types = {
            path: _WithMediaType(self, route.media_type)
            for (_, path), route in self._routes.items()
            if route.media_type != "application/json"
        }

    def at(self, path: str) -> Service | None:
        """Return the service of a path, `None` if it does not belong to version 2."""
        if _pattern(path) not in self._methods:
            return None
        return self._other_media_types.get(path, self)

    def identity(self, call: Call) -> str | None:
        """Return the value of the identity header."""
        return identity(call)

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
            raise method_not_allowed(call, self._methods[_pattern(call.path)])
        if call.method in _BODIES:
            check_media_type(call, route.media_type)
        try:
            check_documented(call)
            return route.handle(call)
        except Invalid as invalid:
            raise Refusal(400, "validation_error", *invalid.problems) from invalid


class _WithMediaType:
    """A service with another media type in all responses, for an operation that has its own."""

    name = ServerSideV2.name

    def __init__(self, service: ServerSideV2, media_type: str) -> None:
        """Present the responses of `service` as `media_type`."""
        self._service = service
        self._media_type = media_type
        self.identity = service.identity

    def perform(self, call: Call) -> Response:
        """Carry the operation out; an error is returned as well."""
        return self._service.perform(call)._replace(media_type=self._media_type)

    def error(self, refusal: Refusal) -> Response:
        """Return the refusal as an error body."""
        return self._service.error(refusal)._replace(media_type=self._media_type)


def _pattern(path: str) -> str:
    """Return the route's path: paths below the paywalls share one route."""
    below = path.removeprefix(PAYWALLS)
    is_paywall = path != below and below.endswith("/") and below.count("/") == 1
    return f"{PAYWALLS}*" if is_paywall and below != "/" else path


def _unauthorized(route: Route | None) -> Refusal:
    if route and route.key_error_format == "strings":
        return Refusal(401, "unauthorized", Problem("Invalid API key"))
    return not_authenticated()
