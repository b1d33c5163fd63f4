"""The service of the Mail API: save or delete a profile, save a transaction event."""

from __future__ import annotations

from ._rules import Invalid, Problem, mail_event, mail_identifiers, mail_profile
from ._service import Call, Refusal, Response, Service, identity_in_body, json_response, read
from ._store import Store

_BASE = "/api/v1/profile"
_IDENTIFIERS = ("external_profile_id", "customer_user_id", "email")


class _MailService(Service):
    """A service of the Mail API: the body identifies the profile."""

    name = "mail"

    def identity(self, call: Call) -> str | None:
        """Return the first identifier in the body; `None` if the body cannot be decoded."""
        return identity_in_body(call, _IDENTIFIERS)

    def unauthorized(self) -> Refusal:
        """Return the refusal of a missing or wrong key."""
        return Refusal(403, "secret_key_does_not_exist_error", Problem("Secret key doesn't exist"))

    def invalid(self, invalid: Invalid) -> Refusal:
        """Return the refusal of a request with these problems."""
        return Refusal(400, "base_error", *invalid.problems)

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
        return json_response(refusal.status, {"errors": errors}, headers=refusal.headers)


class Mail:
    """The operations of the Mail API."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def services(self, authorization: str) -> dict[str, Service]:
        """Return the services by path."""
        operations = {
            f"{_BASE}/save/": self._save,
            f"{_BASE}/delete/": self._delete,
            f"{_BASE}/transaction-event/save/": self._event,
        }
        return {
            path: _MailService(authorization, {"POST": operation})
            for path, operation in operations.items()
        }

    def _save(self, call: Call) -> Response:
        self._store.save_mail(read(call, mail_profile))
        return json_response(200, {})

    def _delete(self, call: Call) -> Response:
        identifiers = {name: value for name, value in read(call, mail_identifiers).items() if value}
        if not identifiers:
            names = "external_profile_id, customer_user_id or email"
            raise Refusal(
                400, "missing_identifier", Problem(f"At least one of {names} must be provided")
            )
        if not self._store.erase_mail(identifiers):
            raise Refusal(404, "profile_not_found_error", Problem("Profile not found"))
        return Response(204)

    def _event(self, call: Call) -> Response:
        fields = read(call, mail_event)
        # Both only find the profile: Adapty's documentation says that the event has neither.
        for name in {"customer_user_id", "email"} & fields.keys():
            del fields[name]
        self._store.add_event(fields)
        return json_response(200, {})
