"""Functions from an operation to the profile or object that it is about."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from adapty_async._api.operation import Operation

__all__ = ("id_of", "lock_key_of")

# The headers that say whom an operation is about; others only say how.
_IDENTITIES = frozenset({"adapty-customer-user-id", "adapty-profile-id"})


def lock_key_of(operation: Operation[Any]) -> Hashable:
    """Return the key under which a bulk run has no two requests in flight together."""
    about = operation.endpoint.lock_key
    if about is not None:
        return about(operation.body)
    headers, parameters = operation.headers, operation.parameters
    if len(headers) == 1 and not parameters:
        return headers[0]
    return min((each for each in headers if each[0] in _IDENTITIES), default=headers + parameters)


def id_of(operation: Operation[Any]) -> str | None:
    """
    Return the id of what an operation is about, None if it is about nothing with an id.

    1. The body names it: a Mail profile, an event, a purchase. Of several ids the first counts.
    2. A header names the profile; of two ids the customer's user id counts.
    3. The URL's path names it, such as a paywall.
    """
    about = operation.endpoint.lock_key
    if about is not None:
        return _id_in(about(operation.body))
    named = [pair for pair in operation.headers if pair[0] in _IDENTITIES]
    if not named:
        path = operation.endpoint.path
        named = [pair for pair in operation.parameters if f"{{{pair[0]}}}" in path]
    return _id_in(min(named, default=None))


def _id_in(subject: Any) -> str | None:
    """Return the id in a subject: an id, a pair of a name and an id, or several such pairs."""
    while isinstance(subject, tuple) and subject:
        subject = subject[-1] if isinstance(subject[0], str) else subject[0]
    return str.__str__(subject) if isinstance(subject, str) else None
