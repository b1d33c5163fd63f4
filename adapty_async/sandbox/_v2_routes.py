"""Shared parts of the server-side API: routes, identity headers, error formats."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ._rules import Invalid, Problem
from ._service import Call, Refusal, Response, decoded, json_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._rules import Rule
    from ._store import Store, StoredProfile

BASE = "/api/v2/server-side-api"
HEADERS = {"profile_id": "adapty-profile-id", "customer_user_id": "adapty-customer-user-id"}

ErrorFormat = Literal["objects", "strings", "json:api"]


class Route(NamedTuple):
    """
    A handler with the error formats and the media type of one operation.

    The documentation shows two responses to a bad API key, each for other operations;
    `key_error_format` selects one.
    """

    handle: Callable[[Call], Response]
    error_format: ErrorFormat = "objects"
    key_error_format: ErrorFormat = "objects"
    media_type: str = "application/json"


Routes = dict[tuple[str, str], Route]


def identity(call: Call) -> str | None:
    """Return the value of the identity header, without validation."""
    given = (call.headers.get(header) for header in HEADERS.values())
    return next(filter(None, given), None)


def header_ids(call: Call, *, both: bool = False) -> dict[str, str]:
    """
    Return the ids in the headers: exactly one, or with `both` at least one.

    Raises:
        Invalid: there is none, there is one too many, or one is not UTF-8.
    """
    ids = {by: value for by, name in HEADERS.items() if (value := call.headers.get(name))}
    if not ids or (len(ids) > 1 and not both):
        names = " or ".join(HEADERS.values())
        number = "At least" if both else "Exactly"
        raise Invalid(Problem(f"{number} one header is required: {names}", "non_field_errors"))
    for by, value in ids.items():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Invalid(Problem("The header must be UTF-8", HEADERS[by])) from None
    return ids


def require_profile(store: Store, call: Call, missing: Refusal | None = None) -> StoredProfile:
    """
    Return the profile that a request is about.

    Raises:
        Refusal: there is none; `missing`, or by default that of most operations.
    """
    [(by, value)] = header_ids(call).items()
    profile = store.find(by, value)
    if profile is None:
        raise missing or missing_profile()
    return profile


def not_authenticated() -> Refusal:
    """Return the refusal of most operations for a missing or wrong API key."""
    return Refusal(
        401,
        "not_authenticated",
        Problem("Authentication credentials were not provided.", "non_field_errors"),
    )


def missing_profile() -> Refusal:
    """Return the refusal of most operations for a profile that does not exist."""
    return Refusal(404, "profile_does_not_exist", Problem("Profile not found"))


def whole_number(text: str, beyond: int = 0) -> int:
    """Return a whole number of a query; 0 if it is none, `beyond` if it has above 15 digits."""
    if not re.fullmatch(r"[0-9]+", text):
        return 0
    return int(text) if len(text) <= 15 else beyond


def read(call: Call, rule: Rule) -> Any:
    """Return the validated body, as it is stored."""
    return rule(decoded(call.body))


def error_response(refusal: Refusal, error_format: ErrorFormat) -> Response:
    """Return a refusal in one of the documented error formats."""
    response = json_response(refusal.status, _BODIES[error_format](refusal))
    response = response._replace(allow=refusal.allow)
    if refusal.retry_after is not None:
        response = response._replace(retry_after=str(refusal.retry_after))
    if error_format == "json:api":
        response = response._replace(media_type="application/vnd.api+json")
    return response


def _objects(refusal: Refusal) -> dict[str, Any]:
    return {
        "errors": [{"source": field, "errors": [message]} for message, field in refusal.problems],
        "error_code": refusal.code,
        "status_code": refusal.status,
    }


def _strings(refusal: Refusal) -> dict[str, Any]:
    return {
        "errors": [message for message, _ in refusal.problems],
        "error_code": refusal.code,
        "status_code": refusal.status,
    }


def _json_api(refusal: Refusal) -> dict[str, Any]:
    # Only errors about the body have this format; all others are documented as objects.
    if refusal.status != 400:
        return _objects(refusal)
    return {
        "errors": [
            {
                "detail": message,
                "source": {"pointer": "/" + (field or "data").replace(".", "/")},
                "status": str(refusal.status),
            }
            for message, field in refusal.problems
        ]
    }


_BODIES: dict[ErrorFormat, Callable[[Refusal], dict[str, Any]]] = {
    "objects": _objects,
    "strings": _strings,
    "json:api": _json_api,
}
