"""
Version 1 of the server-side API: read, create, update and delete a user's profile.

A header identifies the profile by exactly one of two ids: `customer_user_id`, the user's id in
your system, or `profile_id`, Adapty's id.

Source: https://adapty.io/docs/getting-started-with-server-side-api
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from msgspec import UNSET

from adapty_async._api.call import (
    By,
    Endpoint,
    Execute,
    Operation,
    RetrySafety,
    identity,
    operations_by,
    operations_by_pair,
    require_kind,
)
from adapty_async._api.codec import write_attributes
from adapty_async._api.results import (
    CustomAttributes,
    ResultStruct,
    data_decoder,
    no_content,
    nonempty_decoder,
)
from adapty_async._api.validation import (
    AttributeRules,
    Check,
    OrUnset,
    RequestStruct,
    any_text,
    boolean,
    clean_attributes,
    date,
    instance_of,
    matching,
    nullable,
)
from adapty_async._input.items import TableSource, ids_in
from adapty_async.bulk import BulkOptions, BulkRun, Items, StartBulk

__all__ = (
    "CREATE_PROFILE",
    "DELETE_PROFILE",
    "GET_PROFILE",
    "UPDATE_PROFILE",
    "V1",
    "CustomAttributes",
    "InstallationMeta",
    "Profile",
    "ProfileAttributes",
    "Profiles",
    "create_profile",
    "delete_profile",
    "get_profile",
    "update_profile",
)

_DOCS = "https://adapty.io/docs/getting-started-with-server-side-api"
_PATH = "/api/v1/server-side-api/profiles/"
_COUNTRIES = matching(
    r"[A-Z]{2}(-[A-Z0-9]{1,3})?(, ?[A-Z]{2}(-[A-Z0-9]{1,3})?)*",
    "must be an upper-case ISO 3166-2 code such as FR, or several with commas between",
)
_ATTRIBUTES = clean_attributes(
    AttributeRules(
        entries=30,
        value=30,
        key=(
            r"[A-Za-z0-9._-]{1,30}",
            "a key must be 1 to 30 letters, digits, dashes, points and underscores",
        ),
        deletes=True,
    )
)


class InstallationMeta(RequestStruct, frozen=True, kw_only=True):
    """The device of the app. All fields are optional; UNSET is not sent, None clears."""

    device_id: OrUnset[str | None] = UNSET
    device: OrUnset[str | None] = UNSET
    locale: OrUnset[str | None] = UNSET
    os: OrUnset[str | None] = UNSET
    platform: OrUnset[str | None] = UNSET
    timezone: OrUnset[str | None] = UNSET
    user_agent: OrUnset[str | None] = UNSET
    idfa: OrUnset[str | None] = UNSET
    idfv: OrUnset[str | None] = UNSET
    advertising_id: OrUnset[str | None] = UNSET
    android_id: OrUnset[str | None] = UNSET
    android_app_set_id: OrUnset[str | None] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {}


InstallationMeta.rules = dict.fromkeys(InstallationMeta.__struct_fields__, nullable(any_text))


class ProfileAttributes(RequestStruct, frozen=True, kw_only=True):
    """
    The attributes to write to a profile. All fields are optional; UNSET is not sent, None clears.

    Text is sent unchanged, including ``""``.

    Attributes:
        birthday: a date, or ISO 8601 text.
        ip_country: ISO 3166-2; without it, Adapty uses the country of your server's address.
        store_country: ISO 3166-2.
        analytics_disabled: True opts the user out of external analytics.
        custom_attributes: 1 to 30 of them; a value is text or a number of at most 30 characters,
            a bool is sent as 1.0 or 0.0, None or "" deletes the attribute.

    Raises:
        InvalidInputError: a value breaks one of these rules.

    Source: https://adapty.io/docs/getting-started-with-server-side-api
    """

    first_name: OrUnset[str | None] = UNSET
    last_name: OrUnset[str | None] = UNSET
    gender: OrUnset[str | None] = UNSET
    email: OrUnset[str | None] = UNSET
    phone_number: OrUnset[str | None] = UNSET
    birthday: OrUnset[dt.date | str | None] = UNSET
    ip_country: OrUnset[str | None] = UNSET
    store_country: OrUnset[str | None] = UNSET
    store: OrUnset[str | None] = UNSET
    analytics_disabled: OrUnset[bool | None] = UNSET
    custom_attributes: OrUnset[Mapping[str, str | float | None]] = UNSET
    installation_meta: OrUnset[InstallationMeta] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {
        "first_name": nullable(any_text),
        "last_name": nullable(any_text),
        "gender": nullable(any_text),
        "email": nullable(any_text),
        "phone_number": nullable(any_text),
        "birthday": nullable(date),
        "ip_country": nullable(_COUNTRIES),
        "store_country": nullable(_COUNTRIES),
        "store": nullable(any_text),
        "analytics_disabled": nullable(boolean),
        "custom_attributes": _ATTRIBUTES,
        "installation_meta": instance_of(InstallationMeta),
    }


class Profile(ResultStruct, frozen=True, kw_only=True):
    """
    A profile as the server returns it. A missing field is None.

    A field of another type is None as well, and its raw value is in `odd_fields`.

    Adapty's documentation does not say which fields this version fills in, nor whether a collection
    is a list or a dictionary by id. Collections are returned unchanged.

    Source: https://adapty.io/docs/getting-started-with-server-side-api
    """

    app_id: str | None = None
    profile_id: str | None = None
    customer_user_id: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    gender: str | None = None
    email: str | None = None
    phone_number: str | None = None
    birthday: str | None = None
    ip_country: str | None = None
    store_country: str | None = None
    store: str | None = None
    analytics_disabled: bool | None = None
    custom_attributes: CustomAttributes | None = None
    installation_meta: dict[str, Any] | list[Any] | None = None
    device_id: str | None = None
    device: str | None = None
    locale: str | None = None
    os: str | None = None
    platform: str | None = None
    timezone: str | None = None
    user_agent: str | None = None
    idfa: str | None = None
    idfv: str | None = None
    advertising_id: str | None = None
    android_id: str | None = None
    android_app_set_id: str | None = None
    access_levels: list[Any] | dict[str, Any] | None = None
    subscriptions: list[Any] | dict[str, Any] | None = None
    non_subscriptions: list[Any] | dict[str, Any] | None = None

    essential: ClassVar[frozenset[str]] = frozenset({"profile_id", "customer_user_id"})


_read_profile = data_decoder(Profile)

GET_PROFILE: Endpoint[Profile] = Endpoint(
    name="v1.profiles.get",
    method="GET",
    path=_PATH,
    docs=f"{_DOCS}#retrieve-profile",
    retry_safety=RetrySafety.ALWAYS,  # a read
    bucket="v1",
    decode=nonempty_decoder(_read_profile),
    absent_if_missing=True,
)
CREATE_PROFILE: Endpoint[Profile] = Endpoint(
    name="v1.profiles.create",
    method="POST",
    path=_PATH,
    docs=f"{_DOCS}#create-profile",
    retry_safety=RetrySafety.IF_UNSENT,  # the effect of a retry is not documented
    bucket="v1",
    decode=_read_profile,
    encode=write_attributes,
)
UPDATE_PROFILE: Endpoint[Profile] = Endpoint(
    name="v1.profiles.update",
    method="PATCH",
    path=_PATH,
    docs=f"{_DOCS}#update-profile",
    retry_safety=RetrySafety.ALWAYS,  # a retry writes the same values
    bucket="v1",
    decode=_read_profile,
    encode=write_attributes,
)
DELETE_PROFILE: Endpoint[None] = Endpoint(
    name="v1.profiles.delete",
    method="DELETE",
    path=_PATH,
    docs=f"{_DOCS}#delete-profile",
    retry_safety=RetrySafety.ALWAYS,  # a deleted profile stays deleted
    bucket="v1",
    decode=no_content,
    is_deletion=True,
)


def get_profile(
    *, customer_user_id: str | None = None, profile_id: str | None = None
) -> Operation[Profile]:
    """Return the operation of `Profiles.get`."""
    about = identity(customer_user_id, profile_id)
    return Operation(GET_PROFILE, about)


def create_profile(
    attributes: ProfileAttributes | None = None,
    *,
    customer_user_id: str | None = None,
    profile_id: str | None = None,
) -> Operation[Profile]:
    """Return the operation of `Profiles.create`."""
    about = identity(customer_user_id, profile_id)
    attributes = ProfileAttributes() if attributes is None else attributes
    instance_of(ProfileAttributes)("attributes", attributes)
    return Operation(CREATE_PROFILE, about, attributes)


def update_profile(
    attributes: ProfileAttributes,
    *,
    customer_user_id: str | None = None,
    profile_id: str | None = None,
) -> Operation[Profile]:
    """Return the operation of `Profiles.update`."""
    about = identity(customer_user_id, profile_id)
    instance_of(ProfileAttributes)("attributes", attributes)
    return Operation(UPDATE_PROFILE, about, attributes)


def delete_profile(
    *, customer_user_id: str | None = None, profile_id: str | None = None
) -> Operation[None]:
    """Return the operation of `Profiles.delete`."""
    about = identity(customer_user_id, profile_id)
    return Operation(DELETE_PROFILE, about)


class Profiles:
    """A resource of the calls on one profile and of bulk runs on profiles."""

    def __init__(self, execute: Execute, bulk: StartBulk) -> None:
        self._execute = execute
        self._bulk = bulk

    async def get(
        self, *, customer_user_id: str | None = None, profile_id: str | None = None
    ) -> Profile:
        """
        Read a profile.

        Raises:
            InvalidInputError: not exactly one id was passed, or it cannot be sent.
            NotFoundError: there is no such profile.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/getting-started-with-server-side-api#retrieve-profile
        """
        return await self._execute(
            get_profile(customer_user_id=customer_user_id, profile_id=profile_id)
        )

    async def create(
        self,
        attributes: ProfileAttributes | None = None,
        *,
        customer_user_id: str | None = None,
        profile_id: str | None = None,
    ) -> Profile:
        """
        Create a profile, with or without attributes.

        The effect of a second creation is not documented, so a request is not retried after a lost
        response. The call then raises a `ConnectionLostError` or `RequestTimeoutError`.

        Raises:
            InvalidInputError: not exactly one id was passed, or it cannot be sent.
            RequestRejectedError: the server rejects a value; see its `errors`.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/getting-started-with-server-side-api#create-profile
        """
        return await self._execute(
            create_profile(attributes, customer_user_id=customer_user_id, profile_id=profile_id)
        )

    async def update(
        self,
        attributes: ProfileAttributes,
        *,
        customer_user_id: str | None = None,
        profile_id: str | None = None,
    ) -> Profile:
        """
        Change the attributes that are set; None clears an attribute, UNSET leaves it unchanged.

        Raises:
            InvalidInputError: not exactly one id was passed, or it cannot be sent.
            NotFoundError: there is no such profile.
            RequestRejectedError: the server rejects a value; see its `errors`.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/getting-started-with-server-side-api#update-profile
        """
        return await self._execute(
            update_profile(attributes, customer_user_id=customer_user_id, profile_id=profile_id)
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

        Source: https://adapty.io/docs/getting-started-with-server-side-api#delete-profile
        """
        await self._execute(
            delete_profile(customer_user_id=customer_user_id, profile_id=profile_id)
        )

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

        Source: https://adapty.io/docs/getting-started-with-server-side-api#delete-profile
        """
        require_kind("by", by)
        name = f"{DELETE_PROFILE.name} by {by}"
        return self._bulk(ids_in(items, by), operations_by(DELETE_PROFILE, by), name, **options)

    def bulk_update(
        self,
        items: Items[tuple[str, ProfileAttributes]],
        *,
        by: By,
        **options: Unpack[BulkOptions[tuple[str, ProfileAttributes], Profile]],
    ) -> BulkRun[tuple[str, ProfileAttributes], Profile]:
        """
        Update profiles in bulk: one request each, several in flight.

        Args:
            items: pairs of an id and its attributes, from any iterable or async iterable.
            by: the kind of the ids: ``"customer_user_id"`` or ``"profile_id"``.
            options: see `adapty_async.bulk.BulkOptions`.

        Raises:
            InvalidInputError: `items` or `by` is invalid. An invalid pair becomes a failed
                outcome instead.

        Source: https://adapty.io/docs/getting-started-with-server-side-api#update-profile
        """
        require_kind("by", by)
        build = operations_by_pair(UPDATE_PROFILE, by, ProfileAttributes, "attributes")
        return self._bulk(items, build, f"{UPDATE_PROFILE.name} by {by}", **options)


class V1:
    """
    Version 1 of the server-side API.

    Attributes:
        profiles: the calls about profiles.
    """

    def __init__(self, execute: Execute, bulk: StartBulk) -> None:
        self.profiles = Profiles(execute, bulk)
