"""
The kinds of calls in the fault tests, each as a single call and as a bulk run of one item.

Key, id and attributes are canaries: all output of a call is searched for them.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Literal, NamedTuple, TypeAlias

from adapty_async import AdaptyClient, AdaptyMailClient, BulkRun, MailProfile
from adapty_async.v1 import ProfileAttributes, create_profile, get_profile
from tests._support import CANARY_EMAIL

KindName: TypeAlias = Literal["read", "delete", "upsert", "create"]

_PROFILE = MailProfile(
    external_profile_id=CANARY_EMAIL,
    external_created_at="2026-01-01T00:00:00Z",
    email=CANARY_EMAIL,
)
_ATTRIBUTES = ProfileAttributes(email=CANARY_EMAIL)


class Kind(NamedTuple):
    """A kind of call, single and as a bulk run."""

    client: Callable[..., Any]
    call: Callable[[Any], Coroutine[Any, Any, Any]]
    run: Callable[[Any], BulkRun[Any, Any]]


KINDS: dict[KindName, Kind] = {
    "read": Kind(
        AdaptyClient,
        lambda client: client.v1.profiles.get(customer_user_id=CANARY_EMAIL),
        lambda client: client.bulk([get_profile(customer_user_id=CANARY_EMAIL)]),
    ),
    "delete": Kind(
        AdaptyClient,
        lambda client: client.v1.profiles.delete(customer_user_id=CANARY_EMAIL),
        lambda client: client.v1.profiles.bulk_delete([CANARY_EMAIL], by="customer_user_id"),
    ),
    "upsert": Kind(
        AdaptyMailClient,
        lambda client: client.profiles.save(_PROFILE),
        lambda client: client.profiles.bulk_save([_PROFILE]),
    ),
    "create": Kind(
        AdaptyClient,
        lambda client: client.v1.profiles.create(_ATTRIBUTES, customer_user_id=CANARY_EMAIL),
        lambda client: client.bulk([create_profile(_ATTRIBUTES, customer_user_id=CANARY_EMAIL)]),
    ),
}
