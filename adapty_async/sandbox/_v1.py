"""The service of the server-side API, version 1: profiles."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

from ._rules import updated, v1_profile
from ._server_side import ServerSide, header_ids, missing_profile, require_profile
from ._service import Call, Response, decoded, json_response
from ._store import Store, StoredProfile

PATH = "/api/v1/server-side-api/profiles/"


class ServerSideV1(ServerSide):
    """The service of GET, POST, PATCH and DELETE of one profile, which a header identifies."""

    name = "v1"
    # Adapty's documentation requires the header of every request, even without a body.
    with_media_type = frozenset({"GET", "POST", "PATCH", "DELETE"})

    def __init__(self, store: Store, authorization: str) -> None:
        self._store = store
        operations = {
            "GET": self._get,
            "POST": self._create,
            "PATCH": self._update,
            "DELETE": self._delete,
        }
        super().__init__(authorization, operations)

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
