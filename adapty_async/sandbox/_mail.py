"""The service of the Mail API: save or delete a profile, save a transaction event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._rules import Invalid, Problem, mail_event, mail_identifiers, mail_profile
from ._service import (
    Call,
    Refusal,
    Response,
    check_documented,
    check_media_type,
    decoded,
    identity_in_body,
    json_response,
)

if TYPE_CHECKING:
    from ._store import Store

_SAVE = "/api/v1/profile/save/"
_DELETE = "/api/v1/profile/delete/"
_EVENT = "/api/v1/profile/transaction-event/save/"
PATHS = (_SAVE, _DELETE, _EVENT)

_IDENTIFIERS = ("external_profile_id", "customer_user_id", "email")


class Mail:
    """The service of the three POST requests; the body identifies the profile."""

    name = "mail"

    def __init__(self, store: Store, api_key: str) -> None:
        """Serve `store` to requests with `api_key`."""
        self._store = store
        self._authorization = f"Bearer {api_key}"
        self._paths = {_SAVE: self._save, _DELETE: self._delete, _EVENT: self._event}

    def identity(self, call: Call) -> str | None:
        """Return the first identifier in the body; `None` if the body cannot be decoded."""
        return identity_in_body(call, _IDENTIFIERS)

    def perform(self, call: Call) -> Response:
        """
        Check key, method, media type and body, and carry the operation out.

        Raises:
            Refusal: one of them is wrong, or there is no profile to delete.
        """
        if call.headers.get("Authorization") != self._authorization:
            raise Refusal(
                403, "secret_key_does_not_exist_error", Problem("Secret key doesn't exist")
            )
        if call.method != "POST":
            raise Refusal(405, "base_error", Problem("Method Not Allowed"), allow=["POST"])
        check_media_type(call)
        try:
            check_documented(call)
            return self._paths[call.path](decoded(call.body))
        except Invalid as invalid:
            raise Refusal(400, "base_error", *invalid.problems) from invalid

    def error(self, refusal: Refusal) -> Response:
        """Return the error body, in which every problem has its own code and status."""
        errors = [
            {
                "message": message,
                "error_code": refusal.code,
                "status_code": refusal.status,
                "field_name": field,
            }
            for message, field in refusal.problems
        ]
        return json_response(refusal.status, {"errors": errors})._replace(allow=refusal.allow)

    def _save(self, body: Any) -> Response:
        self._store.save_mail(mail_profile(body))
        return json_response(200, {})

    def _delete(self, body: Any) -> Response:
        identifiers = {name: value for name, value in mail_identifiers(body).items() if value}
        if not identifiers:
            names = "external_profile_id, customer_user_id or email"
            raise Refusal(
                400, "missing_identifier", Problem(f"At least one of {names} must be provided")
            )
        if not self._store.erase_mail(identifiers):
            raise Refusal(404, "profile_not_found_error", Problem("Profile not found"))
        return Response(204)

    def _event(self, body: Any) -> Response:
        fields = mail_event(body)
        # Both only find the profile: Adapty's documentation says that the event has neither.
        for name in {"customer_user_id", "email"} & fields.keys():
            del fields[name]
        self._store.add_event(fields)
        return json_response(200, {})
