"""Access levels: granted and revoked without a purchase."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import ClassVar, Unpack

from msgspec import UNSET

from adapty_async._api.call import (
    By,
    Endpoint,
    Execute,
    Operation,
    RetrySafety,
    identity,
    operations_by_pair,
    require_kind,
)
from adapty_async._api.codec import to_json
from adapty_async._api.validation import (
    Check,
    DocumentedStruct,
    OrUnset,
    check_body,
    date_time,
    nullable,
    text,
)
from adapty_async._input.items import TableSource, pairs_in
from adapty_async._input.schema import ColumnSchema, RowSchema
from adapty_async.bulk import BulkOptions, BulkRun, Items, StartBulk
from adapty_async.errors import InvalidInputError
from adapty_async.v2._models import DOCS, PATH, Profile, read_profile
from adapty_async.v2._rules import as_datetime


class AccessGrant(DocumentedStruct, frozen=True, kw_only=True):
    """
    A grant of an access level to a profile.

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
        "starts_at": nullable(date_time),
        "expires_at": nullable(date_time),
    }


def _not_past(field: str, value: dt.datetime | str) -> None:
    if as_datetime(value) <= dt.datetime.now(dt.UTC):
        raise InvalidInputError(field, "must be in the future, or None for now")


class AccessRevocation(DocumentedStruct, frozen=True, kw_only=True):
    """
    A revocation of an access level of a profile.

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
        "revoke_at": nullable(date_time),
    }
    documented: ClassVar[Mapping[str, Check]] = {"revoke_at": _not_past}


#: The columns of a file or a data frame of grants, such as ``["access_level_id", "expires_at",
#: "starts_at"]``: the fields of `AccessGrant`. The id is in a further column, named like `by`.
GRANT_COLUMNS = ColumnSchema(RowSchema({"": AccessGrant}, nested={}, required=("access_level_id",)))
#: The columns of a file or a data frame of revocations, ``["access_level_id", "revoke_at"]``: the
#: fields of `AccessRevocation`. The id is in a further column, named like `by`.
REVOCATION_COLUMNS = ColumnSchema(
    RowSchema({"": AccessRevocation}, nested={}, required=("access_level_id",))
)
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
    retry_safety=RetrySafety.ALWAYS,  # a revoked access level stays revoked
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
    """Return the operation of `AccessLevels.grant`."""
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
    """Return the operation of `AccessLevels.revoke`."""
    about = identity(customer_user_id, profile_id)
    revocation = AccessRevocation(access_level_id=access_level_id, revoke_at=revoke_at)
    return Operation(REVOKE_ACCESS_LEVEL, about, revocation)


class AccessLevels:
    """A resource of the calls on one access level and of bulk runs on access levels."""

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
        Grant an access level to a profile without a purchase, such as a bonus.

        The grant does not appear in analytics. Of the integrations, only webhooks receive it.

        Args:
            access_level_id: as configured in the Adapty dashboard.
            starts_at: when it begins, also in the future: an aware datetime, or ISO 8601 text
                with its offset.
            expires_at: when it ends; without it, never.
            customer_user_id: the user's id in your system.
            profile_id: Adapty's id of the profile.

        Raises:
            InvalidInputError: not exactly one id was passed, it cannot be sent, or a date and time
                has no time zone.
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
        Revoke an access level of a profile, now or later.

        The subscription in the store continues, and its next renewal opens the access level again.
        After a lost response, the server may reject the retry, since nothing is left to revoke.

        Args:
            access_level_id: as configured in the Adapty dashboard.
            revoke_at: when it ends, in the future: an aware datetime, or ISO 8601 text with its
                offset; without it, now.
            customer_user_id: the user's id in your system.
            profile_id: Adapty's id of the profile.

        Raises:
            InvalidInputError: not exactly one id was passed, it cannot be sent, or `revoke_at` has
                no time zone or is in the past.
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
        items: Items[tuple[str, AccessGrant]] | TableSource,
        *,
        by: By,
        **options: Unpack[BulkOptions[tuple[str, AccessGrant], Profile]],
    ) -> BulkRun[tuple[str, AccessGrant], Profile]:
        """
        Grant access levels in bulk: one request each, several in flight.

        A file or a data frame is first read through once, which blocks. A row of it that cannot be
        read is an `UnreadableRow` as the `item` of its `Outcome`.

        Args:
            items: pairs of a profile's id and an `AccessGrant`, from any iterable or async
                iterable; or a data frame or an `InputFile`, with the columns `GRANT_COLUMNS`.
            by: the kind of the ids: ``"customer_user_id"`` or ``"profile_id"``.
            options: see `adapty_async.bulk.BulkOptions`.

        Raises:
            ConfigError: the extra for the file's format is not installed.
            InvalidInputError: `items` or `by` is invalid. An invalid pair becomes a failed
                outcome instead.

        Source: https://adapty.io/docs/api-adapty/operations/grantAccessLevel
        """
        require_kind("by", by)
        build = operations_by_pair(GRANT_ACCESS_LEVEL, by, AccessGrant, "grant")
        pairs = pairs_in(items, by, GRANT_COLUMNS)
        return self._bulk(pairs, build, f"{GRANT_ACCESS_LEVEL.name} by {by}", **options)

    def bulk_revoke(
        self,
        items: Items[tuple[str, AccessRevocation]] | TableSource,
        *,
        by: By,
        **options: Unpack[BulkOptions[tuple[str, AccessRevocation], Profile]],
    ) -> BulkRun[tuple[str, AccessRevocation], Profile]:
        """
        Revoke access levels in bulk: one request each, several in flight.

        A file or a data frame is first read through once, which blocks. A row of it that cannot be
        read is an `UnreadableRow` as the `item` of its `Outcome`.

        Args:
            items: pairs of a profile's id and an `AccessRevocation`, from any iterable or async
                iterable; or a data frame or an `InputFile`, with the columns
                `REVOCATION_COLUMNS`.
            by: the kind of the ids: ``"customer_user_id"`` or ``"profile_id"``.
            options: see `adapty_async.bulk.BulkOptions`.

        Raises:
            ConfigError: the extra for the file's format is not installed.
            InvalidInputError: `items` or `by` is invalid. An invalid pair becomes a failed
                outcome instead.

        Source: https://adapty.io/docs/api-adapty/operations/revokeAccessLevel
        """
        require_kind("by", by)
        build = operations_by_pair(REVOKE_ACCESS_LEVEL, by, AccessRevocation, "revocation")
        pairs = pairs_in(items, by, REVOCATION_COLUMNS)
        return self._bulk(pairs, build, f"{REVOKE_ACCESS_LEVEL.name} by {by}", **options)
