"""Profiles: read, create, update and delete, as single calls or in bulk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack, get_args

import msgspec

from adapty_async._api.call import (
    By,
    Endpoint,
    Execute,
    Operation,
    RetrySafety,
    identity,
    operations_by,
    operations_by_pair,
    pair,
    require_kind,
)
from adapty_async._api.codec import write_attributes
from adapty_async._api.results import data_decoder, no_content
from adapty_async._api.validation import check_body, instance_of, one_of
from adapty_async._input.items import TableSource, ids_in, pairs_in
from adapty_async.bulk import BulkOptions, BulkRun, Items, StartBulk
from adapty_async.v2._attributes import ATTRIBUTE_COLUMNS, Platform, ProfileAttributes
from adapty_async.v2._models import DOCS, PATH, Profile, read_profile

_PATH = f"{PATH}/profile/"
_PLATFORM = "adapty-platform"
_require_platform = one_of(*get_args(Platform))


def _check_write(operation: Operation[Any]) -> None:
    check_body(operation)
    platform = dict(operation.headers).get(_PLATFORM)
    if platform is not None:
        _require_platform("platform", platform)


CREATE_PROFILE: Endpoint[Profile] = Endpoint(
    name="v2.profiles.create",
    method="POST",
    path=_PATH,
    docs=f"{DOCS}/createProfile",
    retry_safety=RetrySafety.IF_UNSENT,  # the effect of a retry is not documented
    bucket="v2",
    decode=read_profile,
    encode=write_attributes,
    check=_check_write,
)
GET_PROFILE: Endpoint[Profile] = Endpoint(
    name="v2.profiles.get",
    method="GET",
    path=_PATH,
    docs=f"{DOCS}/getProfile",
    retry_safety=RetrySafety.ALWAYS,  # a read
    bucket="v2",
    decode=data_decoder(Profile, requires=("profile_id",)),
    absent_if_missing=True,
)
UPDATE_PROFILE: Endpoint[Profile] = Endpoint(
    name="v2.profiles.update",
    method="PATCH",
    path=_PATH,
    docs=f"{DOCS}/updateProfile",
    retry_safety=RetrySafety.ALWAYS,  # a retry writes the same values
    bucket="v2",
    decode=read_profile,
    encode=write_attributes,
    check=_check_write,
)
DELETE_PROFILE: Endpoint[None] = Endpoint(
    name="v2.profiles.delete",
    method="DELETE",
    path=_PATH,
    docs=f"{DOCS}/deleteProfile",
    retry_safety=RetrySafety.ALWAYS,  # a deleted profile stays deleted
    bucket="v2",
    decode=no_content,
    is_deletion=True,
)


# The names of bulk runs whose calls are of more than one endpoint.
_GET_OR_CREATE, _ENSURE = "v2.profiles.get_or_create", "v2.profiles.ensure"


def _pairs_to(
    describe: Callable[..., Operation[Profile]],
) -> Callable[[tuple[str, ProfileAttributes]], Operation[Profile]]:
    def build(item: tuple[str, ProfileAttributes]) -> Operation[Profile]:
        customer_user_id, attributes = pair(item, ProfileAttributes)
        instance_of(ProfileAttributes)("attributes", attributes)
        return describe(attributes, customer_user_id=customer_user_id)

    return build


def _platform(platform: str | None) -> tuple[tuple[str, str], ...]:
    return () if platform is None else ((_PLATFORM, platform),)


def create_profile(
    attributes: ProfileAttributes | None = None,
    *,
    customer_user_id: str | None = None,
    profile_id: str | None = None,
    platform: Platform | None = None,
) -> Operation[Profile]:
    """Return the operation of `Profiles.create`."""
    about = identity(customer_user_id, profile_id, both=True)
    attributes = ProfileAttributes() if attributes is None else attributes
    instance_of(ProfileAttributes)("attributes", attributes)
    return Operation(CREATE_PROFILE, about + _platform(platform), attributes)


def get_profile(
    *, customer_user_id: str | None = None, profile_id: str | None = None
) -> Operation[Profile]:
    """Return the operation of `Profiles.get`."""
    return Operation(GET_PROFILE, identity(customer_user_id, profile_id))


def update_profile(
    attributes: ProfileAttributes,
    *,
    customer_user_id: str | None = None,
    profile_id: str | None = None,
    platform: Platform | None = None,
) -> Operation[Profile]:
    """Return the operation of `Profiles.update`."""
    about = identity(customer_user_id, profile_id)
    instance_of(ProfileAttributes)("attributes", attributes)
    return Operation(UPDATE_PROFILE, about + _platform(platform), attributes)


def delete_profile(
    *, customer_user_id: str | None = None, profile_id: str | None = None
) -> Operation[None]:
    """Return the operation of `Profiles.delete`."""
    return Operation(DELETE_PROFILE, identity(customer_user_id, profile_id))


def get_or_create_profile(
    attributes: ProfileAttributes | None = None,
    *,
    customer_user_id: str,
    platform: Platform | None = None,
) -> Operation[Profile]:
    """Return the operation of `Profiles.get_or_create`."""
    creation = create_profile(attributes, customer_user_id=customer_user_id, platform=platform)
    return Operation(GET_PROFILE, identity(customer_user_id, None), if_missing=creation)


def ensure_profile(
    attributes: ProfileAttributes,
    *,
    customer_user_id: str,
    platform: Platform | None = None,
) -> Operation[Profile]:
    """Return the operation of `Profiles.ensure`."""
    ids: dict[str, Any] = {"customer_user_id": customer_user_id, "platform": platform}
    update = update_profile(attributes, **ids)
    return msgspec.structs.replace(update, if_missing=create_profile(attributes, **ids))


class Profiles:
    """A resource of the calls on one profile and of bulk runs on profiles."""

    def __init__(self, execute: Execute, bulk: StartBulk) -> None:
        self._execute = execute
        self._bulk = bulk

    async def create(
        self,
        attributes: ProfileAttributes | None = None,
        *,
        customer_user_id: str | None = None,
        profile_id: str | None = None,
        platform: Platform | None = None,
    ) -> Profile:
        """
        Create a profile, with or without attributes.

        With `customer_user_id` alone, the profile is a new one. With both ids, the server sets the
        customer user id of the existing profile `profile_id`. The effect of a second creation is
        not documented, so a request is not retried after a lost response. The call then raises a
        `ConnectionLostError` or `RequestTimeoutError`.

        Args:
            attributes: the attributes to write.
            customer_user_id: the user's id in your system.
            profile_id: Adapty's id of the profile.
            platform: the platform on which the user has your app installed; one of `Platform`.

        Raises:
            InvalidInputError: no id was passed, one cannot be sent, or an attribute or the platform
                breaks a rule.
            RequestRejectedError: the server rejects a value; see its `errors`.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty/operations/createProfile
        """
        return await self._execute(
            create_profile(
                attributes,
                customer_user_id=customer_user_id,
                profile_id=profile_id,
                platform=platform,
            )
        )

    async def get(
        self, *, customer_user_id: str | None = None, profile_id: str | None = None
    ) -> Profile:
        """
        Read a profile with its access levels and purchases.

        Raises:
            InvalidInputError: not exactly one id was passed, or it cannot be sent.
            NotFoundError: there is no such profile.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty/operations/getProfile
        """
        return await self._execute(
            get_profile(customer_user_id=customer_user_id, profile_id=profile_id)
        )

    async def update(
        self,
        attributes: ProfileAttributes,
        *,
        customer_user_id: str | None = None,
        profile_id: str | None = None,
        platform: Platform | None = None,
    ) -> Profile:
        """
        Change the attributes that are set; None clears an attribute, UNSET leaves it unchanged.

        Args:
            attributes: the attributes to write.
            customer_user_id: the user's id in your system.
            profile_id: Adapty's id of the profile.
            platform: the platform on which the user has your app installed; one of `Platform`.

        Raises:
            InvalidInputError: not exactly one id was passed, it cannot be sent, or an attribute or
                the platform breaks a rule.
            NotFoundError: there is no such profile.
            RequestRejectedError: the server rejects a value; see its `errors`.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty/operations/updateProfile
        """
        return await self._execute(
            update_profile(
                attributes,
                customer_user_id=customer_user_id,
                profile_id=profile_id,
                platform=platform,
            )
        )

    async def delete(
        self, *, customer_user_id: str | None = None, profile_id: str | None = None
    ) -> None:
        """
        Delete a profile and all its data.

        After a lost response, "not found" counts as success.

        Raises:
            InvalidInputError: not exactly one id was passed, or it cannot be sent.
            NotFoundError: there is no such profile.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty/operations/deleteProfile
        """
        await self._execute(
            delete_profile(customer_user_id=customer_user_id, profile_id=profile_id)
        )

    async def get_or_create(
        self,
        attributes: ProfileAttributes | None = None,
        *,
        customer_user_id: str,
        platform: Platform | None = None,
    ) -> Profile:
        """
        Read a profile, or create it if there is none; a profile that exists is not changed.

        One that is missing is created once. If the server rejects the creation or its response is
        lost, the profile is read again: another process, or the lost request, may have created it.
        If it is still missing, the error of the creation is raised. After a lost response the
        outcome is then unknown, and the server may create the profile later.

        Args:
            attributes: the attributes of a new profile; not written to one that exists.
            customer_user_id: the user's id in your system.
            platform: the platform on which the user has your app installed; for a new profile.

        Raises:
            InvalidInputError: the id cannot be sent, or an attribute or the platform breaks a rule.
            ConnectionLostError, RequestTimeoutError, ServerError: the outcome is unknown, if
                `operation` is ``v2.profiles.create``.
            RequestRejectedError: the server rejects a value; see its `errors`.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty/operations/createProfile
        """
        return await self._execute(
            get_or_create_profile(attributes, customer_user_id=customer_user_id, platform=platform)
        )

    async def ensure(
        self,
        attributes: ProfileAttributes,
        *,
        customer_user_id: str,
        platform: Platform | None = None,
    ) -> Profile:
        """
        Make a profile exist with these attributes: update it, or create it if there is none.

        Attributes that are UNSET stay as they are. A creation is sent once, as by `get_or_create`;
        if it is rejected or its response is lost, the update is sent again and decides.

        Args:
            attributes: the attributes to write.
            customer_user_id: the user's id in your system.
            platform: the platform on which the user has your app installed; one of `Platform`.

        Raises:
            InvalidInputError: the id cannot be sent, or an attribute or the platform breaks a rule.
            ConnectionLostError, RequestTimeoutError, ServerError: the outcome is unknown, if
                `operation` is ``v2.profiles.create``.
            RequestRejectedError: the server rejects a value; see its `errors`.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty/operations/updateProfile
        """
        return await self._execute(
            ensure_profile(attributes, customer_user_id=customer_user_id, platform=platform)
        )

    def bulk_get(
        self,
        items: Items[str] | TableSource,
        *,
        by: By,
        **options: Unpack[BulkOptions[str, Profile]],
    ) -> BulkRun[str, Profile]:
        """
        Read profiles in bulk: one request each, several in flight.

        A profile is the `result` of its outcome; the report has no profiles.

        A file or a data frame is first read through once, which blocks. A row of it that cannot be
        read is an `UnreadableRow` as the `item` of its `Outcome`.

        Args:
            items: the ids, from any iterable or async iterable, which is read lazily; or a data
                frame or an `InputFile` with a column named like `by`.
            by: the kind of the ids: ``"customer_user_id"`` or ``"profile_id"``.
            options: see `adapty_async.bulk.BulkOptions`.

        Raises:
            ConfigError: the extra for the file's format is not installed.
            InvalidInputError: `items` or `by` is invalid. An invalid id becomes a failed
                outcome instead.

        Source: https://adapty.io/docs/api-adapty/operations/getProfile
        """
        require_kind("by", by)
        name = f"{GET_PROFILE.name} by {by}"
        return self._bulk(ids_in(items, by), operations_by(GET_PROFILE, by), name, **options)

    def bulk_update(
        self,
        items: Items[tuple[str, ProfileAttributes]] | TableSource,
        *,
        by: By,
        **options: Unpack[BulkOptions[tuple[str, ProfileAttributes], Profile]],
    ) -> BulkRun[tuple[str, ProfileAttributes], Profile]:
        """
        Update profiles in bulk: one request each, several in flight.

        A file or a data frame is first read through once, which blocks. A row of it that cannot be
        read is an `UnreadableRow` as the `item` of its `Outcome`.

        Args:
            items: pairs of an id and its attributes, from any iterable or async iterable; or a data
                frame or an `InputFile`, with the columns `ATTRIBUTE_COLUMNS`.
            by: the kind of the ids: ``"customer_user_id"`` or ``"profile_id"``.
            options: see `adapty_async.bulk.BulkOptions`.

        Raises:
            ConfigError: the extra for the file's format is not installed.
            InvalidInputError: `items` or `by` is invalid. An invalid pair becomes a failed
                outcome instead.

        Source: https://adapty.io/docs/api-adapty/operations/updateProfile
        """
        require_kind("by", by)
        build = operations_by_pair(UPDATE_PROFILE, by, ProfileAttributes, "attributes")
        pairs = pairs_in(items, by, ATTRIBUTE_COLUMNS)
        return self._bulk(pairs, build, f"{UPDATE_PROFILE.name} by {by}", **options)

    def bulk_get_or_create(
        self,
        items: Items[tuple[str, ProfileAttributes]] | TableSource,
        **options: Unpack[BulkOptions[tuple[str, ProfileAttributes], Profile]],
    ) -> BulkRun[tuple[str, ProfileAttributes], Profile]:
        """
        Read profiles in bulk, and create those that are missing; see `get_or_create`.

        One request for a profile that exists, two for one that is created. An item whose creation
        has no response is ``unknown``, unless the profile is found afterwards. A run that resumes
        with a journal reads such a profile again and does not create it a second time.

        A file or a data frame is first read through once, which blocks. A row of it that cannot be
        read is an `UnreadableRow` as the `item` of its `Outcome`.

        Args:
            items: pairs of a customer user id and the attributes of a new profile, from any
                iterable or async iterable; or a data frame or an `InputFile`, with a column
                ``customer_user_id`` and the columns `ATTRIBUTE_COLUMNS`.
            options: see `adapty_async.bulk.BulkOptions`.

        Raises:
            ConfigError: the extra for the file's format is not installed.
            InvalidInputError: `items` is invalid. An invalid pair becomes a failed outcome instead.

        Source: https://adapty.io/docs/api-adapty/operations/createProfile
        """
        pairs = pairs_in(items, "customer_user_id", ATTRIBUTE_COLUMNS)
        return self._bulk(pairs, _pairs_to(get_or_create_profile), _GET_OR_CREATE, **options)

    def bulk_ensure(
        self,
        items: Items[tuple[str, ProfileAttributes]] | TableSource,
        **options: Unpack[BulkOptions[tuple[str, ProfileAttributes], Profile]],
    ) -> BulkRun[tuple[str, ProfileAttributes], Profile]:
        """
        Make profiles exist with these attributes, in bulk; see `ensure`.

        One request for a profile that exists, two for one that is created. An item whose creation
        has no response is ``unknown``, unless the profile is found afterwards. A run that resumes
        with a journal updates such a profile if it exists, and does not create it a second time.

        A file or a data frame is first read through once, which blocks. A row of it that cannot be
        read is an `UnreadableRow` as the `item` of its `Outcome`.

        Args:
            items: pairs of a customer user id and its attributes, from any iterable or async
                iterable; or a data frame or an `InputFile`, with a column ``customer_user_id`` and
                the columns `ATTRIBUTE_COLUMNS`.
            options: see `adapty_async.bulk.BulkOptions`.

        Raises:
            ConfigError: the extra for the file's format is not installed.
            InvalidInputError: `items` is invalid. An invalid pair becomes a failed outcome instead.

        Source: https://adapty.io/docs/api-adapty/operations/updateProfile
        """
        pairs = pairs_in(items, "customer_user_id", ATTRIBUTE_COLUMNS)
        return self._bulk(pairs, _pairs_to(ensure_profile), _ENSURE, **options)

    def bulk_delete(
        self,
        items: Items[str] | TableSource,
        *,
        by: By,
        **options: Unpack[BulkOptions[str, None]],
    ) -> BulkRun[str, None]:
        """
        Delete profiles in bulk: one request each, several in flight.

        A file or a data frame is first read through once, which blocks. A row of it that cannot be
        read is an `UnreadableRow` as the `item` of its `Outcome`.

        Args:
            items: the ids, from any iterable or async iterable, which is read lazily; or a data
                frame or an `InputFile` with a column named like `by`.
            by: the kind of the ids: ``"customer_user_id"`` or ``"profile_id"``.
            options: see `adapty_async.bulk.BulkOptions`.

        Raises:
            ConfigError: the extra for the file's format is not installed.
            InvalidInputError: `items` or `by` is invalid. An invalid id becomes a failed
                outcome instead.

        Source: https://adapty.io/docs/api-adapty/operations/deleteProfile
        """
        require_kind("by", by)
        name = f"{DELETE_PROFILE.name} by {by}"
        return self._bulk(ids_in(items, by), operations_by(DELETE_PROFILE, by), name, **options)
