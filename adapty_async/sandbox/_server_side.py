"""The parts that both versions of the server-side API share: service, identity headers, queries."""

from __future__ import annotations

import re

from ._rules import Invalid, Problem
from ._service import Call, Refusal, Service
from ._store import Store, StoredProfile

BASE = "/api/v2/server-side-api"
HEADERS = {"profile_id": "adapty-profile-id", "customer_user_id": "adapty-customer-user-id"}


class ServerSide(Service):
    """A service of the server-side API, where a header identifies the profile."""

    name = "v2"

    def identity(self, call: Call) -> str | None:
        """Return the value of the identity header."""
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


def missing_profile() -> Refusal:
    """Return the refusal of most operations for a profile that does not exist."""
    return Refusal(404, "profile_does_not_exist", Problem("Profile not found"))


def whole_number(text: str, beyond: int = 0) -> int:
    """Return a whole number of a query; 0 if it is none, `beyond` if it has above 15 digits."""
    if not re.fullmatch(r"[0-9]+", text):
        return 0
    return int(text) if len(text) <= 15 else beyond
