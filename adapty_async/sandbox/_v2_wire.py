"""What the parts of the server-side API, version 2, have in common: routes, identities, errors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ._rules import Invalid, Problem
from ._wire import Answer, Call, Refusal, decoded, json_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._rules import Rule
    from ._store import Store, StoredProfile

BASE = "/api/v2/server-side-api"
HEADERS = {"profile_id": "adapty-profile-id", "customer_user_id": "adapty-customer-user-id"}

Shape = Literal["objects", "strings", "json:api"]


class Route(NamedTuple):
    """
    Hold how one operation is carried out, how its errors look, and what its body is.

    The document shows two answers to a bad key, each for its own operations; `key_shape` says
    which.
    """

    handle: Callable[[Call], Answer]
    shape: Shape = "objects"
    key_shape: Shape = "objects"
    media_type: str = "application/json"


Routes = dict[tuple[str, str], Route]


def given_ids(call: Call, *, both: bool = False) -> dict[str, str]:
    """
    Return the ids in the headers: one, or also both where that is allowed.

    Raises:
        Invalid: there is none, one too many, or one is no UTF-8.

    """
    ids = {by: value for by, name in HEADERS.items() if (value := call.headers.get(name))}
    if not ids or (len(ids) > 1 and not both):
        names = " or ".join(HEADERS.values())
        raise Invalid(Problem(f"One header is required: {names}", "non_field_errors"))
    for by, value in ids.items():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Invalid(Problem("The header must be UTF-8", HEADERS[by])) from None
    return ids


def found(store: Store, call: Call, status: int, code: str, message: str) -> StoredProfile:
    """
    Return the profile that a request is about.

    Raises:
        Refusal: there is none; with that status, code and message.

    """
    [(by, value)] = given_ids(call).items()
    profile = store.find(by, value)
    if profile is None:
        raise Refusal(status, code, Problem(message))
    return profile


def missing_profile() -> Refusal:
    """Return what most operations say of a profile that isn't there."""
    return Refusal(404, "profile_does_not_exist", Problem("Profile not found"))


def whole(text: str) -> int:
    """
    Return the number that a query names, 0 where it is none or more than there can be of anything.
    """
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else 0


def read(call: Call, rule: Rule) -> Any:
    """Return the body as its rule stores it."""
    return rule(decoded(call.body))


def error_answer(refusal: Refusal, shape: Shape) -> Answer:
    """Return a refusal in one of the bodies that the document shows."""
    answer = json_answer(refusal.status, _BODIES[shape](refusal))
    if refusal.retry_after is not None:
        answer = answer._replace(retry_after=str(refusal.retry_after))
    if shape == "json:api":
        answer = answer._replace(media_type="application/vnd.api+json")
    return answer


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
    # Only what is wrong with the body has this form; the document shows all else as objects.
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


_BODIES: dict[Shape, Callable[[Refusal], dict[str, Any]]] = {
    "objects": _objects,
    "strings": _strings,
    "json:api": _json_api,
}
