"""Access levels: given and taken away without a purchase."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import ClassVar, Unpack

from msgspec import UNSET

from adapty_async._api.codec import to_json
from adapty_async._api.identity import By, identity, identity_by, pair, require_kind
from adapty_async._api.operation import Endpoint, Execute, Operation, RetrySafety
from adapty_async._api.validation import Check, OrUnset, instance_of, instant, nullable, text
from adapty_async.bulk import BulkOptions, BulkRun, Items, StartBulk
from adapty_async.errors import InvalidInputError
from adapty_async.v2._models import DOCS, PATH, Profile, read_profile
from adapty_async.v2._rules import DocumentedStruct, check_body, moment_of

__all__ = (
    "GRANT_ACCESS_LEVEL",
    "REVOKE_ACCESS_LEVEL",
    "AccessGrant",
    "AccessLevels",
    "AccessRevocation",
    "grant_access_level",
    "revoke_access_level",
)


class AccessGrant(DocumentedStruct, frozen=True, kw_only=True):
    """
    An access level that is given to a profile.

    Attributes:
        access_level_id: as configured in the Adapty dashboard.
        starts_at: when it begins, also in the future: an aware datetime, or ISO 8601 text with its
            offset.
        expires_at: when it ends; None or UNSET is lifetime access.

    Raises:
        InvalidInputError: a value is of the wrong kind.

    Source: https://adapty.io/docs/api-adapty/operations/grantAccessLevel
    """

    access_level_id: str
    starts_at: OrUnset[dt.datetime | str | None] = UNSET
    expires_at: OrUnset[dt.datetime | str | None] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {
        "access_level_id": text,
        "starts_at": nullable(instant),
        "expires_at": nullable(instant),
    }


def _not_past(field: str, value: dt.datetime | str) -> None:
    if moment_of(value) <= dt.datetime.now(dt.UTC):
        raise InvalidInputError(field, "must be in the future, or None for now")


class AccessRevocation(DocumentedStruct, frozen=True, kw_only=True):
    """
    An access level that is taken from a profile.

    Attributes:
        access_level_id: as configured in the Adapty dashboard.
        revoke_at: when it ends, in the future: an aware datetime, or ISO 8601 text with its
            offset; None or UNSET ends it now.

    Raises:
        InvalidInputError: a value is of the wrong kind.

    Source: https://adapty.io/docs/api-adapty/operations/revokeAccessLevel
    """

    access_level_id: str
    revoke_at: OrUnset[dt.datetime | str | None] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {
        "access_level_id": text,
        "revoke_at": nullable(instant),
    }
    documented: ClassVar[Mapping[str, Check]] = {"revoke_at": _not_past}


GRANT_ACCESS_LEVEL: Endpoint[Profile] = Endpoint(
    name="v2.access_levels.grant",
    method="POST",
    path=f"{PATH}/purchase/profile/grant/access-level/",
    docs=f"{DOCS}/grantAccessLevel",
    retry_safety=RetrySafety.ALWAYS,  # the dates are absolute
    bucket="v2",
    decode=read_profile,
    encode=to_json,
)
REVOKE_ACCESS_LEVEL: Endpoint[Profile] = Endpoint(
    name="v2.access_levels.revoke",
    method="POST",
    path=f"{PATH}/purchase/profile/revoke/access-level/",
    docs=f"{DOCS}/revokeAccessLevel",
    retry_safety=RetrySafety.ALWAYS,  # what is revoked stays revoked
    bucket="v2",
    decode=read_profile,
    encode=to_json,
    check=check_body,
)


def grant_access_level(
    access_level_id: str,
    *,
    starts_at: OrUnset[dt.datetime | str | None] = UNSET,
    expires_at: OrUnset[dt.datetime | str | None] = UNSET,
    customer_user_id: str | None = None,
    profile_id: str | None = None,
) -> Operation[Profile]:
    """Describe the call of `AccessLevels.grant`."""
    about = identity(customer_user_id, profile_id)
    grant = AccessGrant(access_level_id=access_level_id, starts_at=starts_at, expires_at=expires_at)
    return Operation(GRANT_ACCESS_LEVEL, about, grant)


def revoke_access_level(
    access_level_id: str,
    *,
    revoke_at: OrUnset[dt.datetime | str | None] = UNSET,
    customer_user_id: str | None = None,
    profile_id: str | None = None,
) -> Operation[Profile]:
    """Describe the call of `AccessLevels.revoke`."""
    about = identity(customer_user_id, profile_id)
    revocation = AccessRevocation(access_level_id=access_level_id, revoke_at=revoke_at)
    return Operation(REVOKE_ACCESS_LEVEL, about, revocation)


class AccessLevels:
    """The calls about one access level, and the bulk runs over many."""

    def __init__(self, execute: Execute, bulk: StartBulk) -> None:
        self._execute = execute
        self._bulk = bulk

    async def grant(
        self,
        access_level_id: str,
        *,
        starts_at: OrUnset[dt.datetime | str | None] = UNSET,
        expires_at: OrUnset[dt.datetime | str | None] = UNSET,
        customer_user_id: str | None = None,
        profile_id: str | None = None,
    ) -> Profile:
        """
        Give a profile an access level without a purchase, such as a bonus.

        It does not appear in analytics, and is told to no integration but webhooks.

        Args:
            access_level_id: as configured in the Adapty dashboard.
            starts_at: when it begins, also in the future: an aware datetime, or ISO 8601 text
                with its offset.
            expires_at: when it ends; without it, never.
            customer_user_id: the user's id in your system.
            profile_id: Adapty's id of the profile.

        Raises:
            InvalidInputError: not exactly one id was given, it cannot be sent, or an instant has
                no time zone.
            NotFoundError: there is no such profile.
            RequestRejectedError: the app has no such access level, among other reasons.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty/operations/grantAccessLevel
        """
        return await self._execute(
            grant_access_level(
                access_level_id,
                starts_at=starts_at,
                expires_at=expires_at,
                customer_user_id=customer_user_id,
                profile_id=profile_id,
            )
        )

    async def revoke(
        self,
        access_level_id: str,
        *,
        revoke_at: OrUnset[dt.datetime | str | None] = UNSET,
        customer_user_id: str | None = None,
        profile_id: str | None = None,
    ) -> Profile:
        """
        Take an access level from a profile, now or later.

        The subscription in the store goes on: its next renewal opens the access level again. When
        the answer to a revocation was lost, its repeat may be refused because there is nothing
        left to revoke.

        Args:
            access_level_id: as configured in the Adapty dashboard.
            revoke_at: when it ends, in the future: an aware datetime, or ISO 8601 text with its
                offset; without it, now.
            customer_user_id: the user's id in your system.
            profile_id: Adapty's id of the profile.

        Raises:
            InvalidInputError: not exactly one id was given, it cannot be sent, or `revoke_at` has
                no time zone or is past.
            NotFoundError: there is no such profile.
            RequestRejectedError: the profile does not have that access level, or it ends before
                `revoke_at`, among other reasons.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty/operations/revokeAccessLevel
        """
        return await self._execute(
            revoke_access_level(
                access_level_id,
                revoke_at=revoke_at,
                customer_user_id=customer_user_id,
                profile_id=profile_id,
            )
        )

    def bulk_grant(
        self,
        items: Items[tuple[str, AccessGrant]],
        *,
        by: By,
        **options: Unpack[BulkOptions[tuple[str, AccessGrant], Profile]],
    ) -> BulkRun[tuple[str, AccessGrant], Profile]:
        """
        Give very many profiles an access level; one request each, several at a time.

        Args:
            items: pairs of a profile's id and an `AccessGrant`, from any iterable or async
                iterable.
            by: what the ids are: ``"customer_user_id"`` or ``"profile_id"``.
            options: see `adapty_async.bulk.BulkOptions`.

        Raises:
            InvalidInputError: `items` or `by` is not usable. A pair that is not ends as a failed
                outcome of its own.

        Source: https://adapty.io/docs/api-adapty/operations/grantAccessLevel
        """
        require_kind("by", by)

        def build(item: tuple[str, AccessGrant]) -> Operation[Profile]:
            one, grant = pair(item, AccessGrant)
            instance_of(AccessGrant)("grant", grant)
            return Operation(GRANT_ACCESS_LEVEL, identity_by(by, one), grant)

        return self._bulk(items, build, f"{GRANT_ACCESS_LEVEL.name} by {by}", **options)

    def bulk_revoke(
        self,
        items: Items[tuple[str, AccessRevocation]],
        *,
        by: By,
        **options: Unpack[BulkOptions[tuple[str, AccessRevocation], Profile]],
    ) -> BulkRun[tuple[str, AccessRevocation], Profile]:
        """
        Take an access level from very many profiles; one request each, several at a time.

        Args:
            items: pairs of a profile's id and an `AccessRevocation`, from any iterable or async
                iterable.
            by: what the ids are: ``"customer_user_id"`` or ``"profile_id"``.
            options: see `adapty_async.bulk.BulkOptions`.

        Raises:
            InvalidInputError: `items` or `by` is not usable. A pair that is not ends as a failed
                outcome of its own.

        Source: https://adapty.io/docs/api-adapty/operations/revokeAccessLevel
        """
        require_kind("by", by)

        def build(item: tuple[str, AccessRevocation]) -> Operation[Profile]:
            one, revocation = pair(item, AccessRevocation)
            instance_of(AccessRevocation)("revocation", revocation)
            return Operation(REVOKE_ACCESS_LEVEL, identity_by(by, one), revocation)

        return self._bulk(items, build, f"{REVOKE_ACCESS_LEVEL.name} by {by}", **options)
