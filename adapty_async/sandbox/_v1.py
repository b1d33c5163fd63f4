"""The service of the server-side API, version 1: profiles."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ._rules import Invalid, updated, v1_profile
from ._service import (
    Call,
    Refusal,
    Response,
    check_media_type,
    decoded,
    json_response,
    method_not_allowed,
)
from ._store import StoredProfile
from ._v2_routes import (
    error_response,
    header_ids,
    identity,
    missing_profile,
    not_authenticated,
    require_profile,
)

if TYPE_CHECKING:
    from ._store import Store

PATHS = ("/api/v1/server-side-api/profiles/",)


class ServerSideV1:
    """The service of GET, POST, PATCH and DELETE of one profile, which a header identifies."""

    name = "v1"

    def __init__(self, store: Store, api_key: str) -> None:
        """Serve `store` to requests with `api_key`."""
        self._store = store
        self._authorization = f"Api-Key {api_key}"
        self._methods = {
            "GET": self._get,
            "POST": self._create,
            "PATCH": self._update,
            "DELETE": self._delete,
        }

    def identity(self, call: Call) -> str | None:
        """Return the value of the identity header."""
        return identity(call)

    def perform(self, call: Call) -> Response:
        """
        Check key, method, media type, identity and body, and carry the operation out.

        Raises:
            Refusal: one of them is wrong, or there is no such profile.
        """
        if call.headers.get("Authorization") != self._authorization:
            raise not_authenticated()
        method = self._methods.get(call.method)
        if method is None:
            raise method_not_allowed(call, self._methods)
        # Adapty's documentation requires the header of every request, even without a body.
        check_media_type(call)
        try:
            return method(call)
        except Invalid as invalid:
            raise Refusal(400, "validation_error", *invalid.problems) from invalid

    def error(self, refusal: Refusal) -> Response:
        """Return the error body: `source` and texts of each problem, and one code at the top."""
        return error_response(refusal, "objects")

    def _get(self, call: Call) -> Response:
        return _response(require_profile(self._store, call))

    def _create(self, call: Call) -> Response:
        [(by, value)] = header_ids(call).items()
        profile = self._store.find(by, value)
        if profile is None and by == "profile_id":
            raise missing_profile()
        return self._put(profile or StoredProfile(str(uuid4()), value, {}), call.body)

    def _update(self, call: Call) -> Response:
        return self._put(require_profile(self._store, call), call.body)

    def _delete(self, call: Call) -> Response:
        self._store.delete(require_profile(self._store, call).profile_id)
        return Response(204)

    def _put(self, profile: StoredProfile, body: bytes) -> Response:
        # "All parameters are optional": a missing body is an empty object.
        changes = v1_profile(decoded(body or b"{}"))
        profile = profile._replace(attributes=updated(profile.attributes, changes))
        self._store.put(profile)
        return _response(profile)


def view(profile: StoredProfile) -> dict[str, Any]:
    """Return the profile as the API shows it, without the timestamp of the response."""
    attributes = dict(profile.attributes)
    custom = attributes.pop("custom_attributes", {})
    return {
        "profile_id": profile.profile_id,
        "customer_user_id": profile.customer_user_id,
        **attributes,
        "custom_attributes": [{"key": key, "value": value} for key, value in custom.items()],
        "access_levels": [],
        "subscriptions": [],
        "non_subscriptions": [],
    }


def _response(profile: StoredProfile) -> Response:
    timestamp = int(time.time() * 1000)
    return json_response(200, {"data": {**view(profile), "timestamp": timestamp}})
