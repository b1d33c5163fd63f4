"""A function that maps an operation to the id of its profile or object."""

from __future__ import annotations

from typing import Any

from adapty_async._api.operation import Operation
from adapty_async._bulk.keyed_lock import IDENTITIES

__all__ = ("id_of",)


def id_of(operation: Operation[Any]) -> str | None:
    """
    Return the id of the profile or object of an operation; None if it has no id.

    1. The body contains it: a Mail profile, an event, a purchase. The first of several ids counts.
    2. A header contains the profile's id. Of two ids, the customer user id counts.
    3. The URL's path contains it, such as that of a paywall.
    """
    key_of = operation.endpoint.lock_key
    if key_of is not None:
        return _id_in(key_of(operation.body))
    named = [pair for pair in operation.headers if pair[0] in IDENTITIES]
    if not named:
        path = operation.endpoint.path
        named = [pair for pair in operation.parameters if f"{{{pair[0]}}}" in path]
    return _id_in(min(named, default=None))


def _id_in(lock_key: Any) -> str | None:
    """Return the id in a lock key: an id, a pair of a name and an id, or several such pairs."""
    while isinstance(lock_key, tuple) and lock_key:
        lock_key = lock_key[-1] if isinstance(lock_key[0], str) else lock_key[0]
    return str.__str__(lock_key) if isinstance(lock_key, str) else None
