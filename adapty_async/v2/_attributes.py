"""The attributes that can be written to a profile, with the rules of Adapty's documentation."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

from msgspec import UNSET

from adapty_async._api.validation import (
    AttributeRules,
    Check,
    DocumentedStruct,
    OrUnset,
    any_text,
    boolean,
    clean_attributes,
    country_code,
    date,
    email_address,
    instance_of,
    nullable,
    one_of,
    struct_in,
    uuid,
)
from adapty_async._input.schema import ColumnSchema, RowSchema
from adapty_async.v2._rules import in_range, ip_v4, whole_number

Gender = Literal["f", "m", "o"]
Store = Literal["app_store", "play_store", "stripe", "adapty", "paddle"]
Platform = Literal["iOS", "macOS", "iPadOS", "Android", "visionOS", "web"]

_ATTRIBUTES = AttributeRules(
    entries=30,
    value=50,
    key=(
        r"[A-Za-z0-9._-]{1,30}",
        "a key must be 1 to 30 letters, digits, dashes, points and underscores",
    ),
    deletes=True,
)


class InstallationMeta(DocumentedStruct, frozen=True, kw_only=True):
    """
    The device of the app. UNSET is not sent, None clears.

    Attributes:
        device_id: a UUID of the device; required.
        platform: one of `Platform`.

    Raises:
        InvalidInputError: a value is not text.
    """

    device_id: str
    device: OrUnset[str | None] = UNSET
    locale: OrUnset[str | None] = UNSET
    os: OrUnset[str | None] = UNSET
    platform: OrUnset[Platform | None] = UNSET
    timezone: OrUnset[str | None] = UNSET
    user_agent: OrUnset[str | None] = UNSET
    app_build: OrUnset[str | None] = UNSET
    app_version: OrUnset[str | None] = UNSET
    adapty_sdk_version: OrUnset[str | None] = UNSET
    idfa: OrUnset[str | None] = UNSET
    idfv: OrUnset[str | None] = UNSET
    advertising_id: OrUnset[str | None] = UNSET
    android_id: OrUnset[str | None] = UNSET
    android_app_set_id: OrUnset[str | None] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {}
    documented: ClassVar[Mapping[str, Check]] = {
        "device_id": uuid,
        "platform": one_of(*get_args(Platform)),
    }


InstallationMeta.rules = {
    **dict.fromkeys(InstallationMeta.__struct_fields__, nullable(any_text)),
    "device_id": any_text,
}


class ProfileAttributes(DocumentedStruct, frozen=True, kw_only=True):
    """
    The attributes to write to a profile. All fields are optional; UNSET is not sent, None clears.

    Text without a rule below is sent unchanged, including ``""``.

    Attributes:
        birthday: a date, or ISO 8601 text.
        ip_country: ISO 3166-1 alpha-2; without it, Adapty uses the country of your server's
            address.
        ip_v4_address: the user's, such as ``192.168.1.1``.
        store_country: ISO 3166-1 alpha-2.
        store_account_token: a UUID.
        att_status: Apple's tracking permission: 0 not determined, 1 restricted, 2 denied,
            3 authorised.
        analytics_disabled: True opts the user out of external analytics.
        custom_attributes: 1 to 30 of them; a key is 1 to 30 letters, digits, dashes, points and
            underscores; a value is text or a number of at most 50 characters, a bool is sent as
            1.0 or 0.0, None or "" deletes the attribute.

    Raises:
        InvalidInputError: a value is of the wrong kind. The rules of Adapty's
            documentation are checked when the call is sent.

    Source: https://adapty.io/docs/api-adapty/operations/createProfile
    """

    first_name: OrUnset[str | None] = UNSET
    last_name: OrUnset[str | None] = UNSET
    gender: OrUnset[Gender | None] = UNSET
    email: OrUnset[str | None] = UNSET
    phone_number: OrUnset[str | None] = UNSET
    birthday: OrUnset[dt.date | str | None] = UNSET
    ip_country: OrUnset[str | None] = UNSET
    ip_v4_address: OrUnset[str | None] = UNSET
    store_country: OrUnset[str | None] = UNSET
    store: OrUnset[Store | None] = UNSET
    store_account_token: OrUnset[str | None] = UNSET
    att_status: OrUnset[int | None] = UNSET
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
        "ip_country": nullable(any_text),
        "ip_v4_address": nullable(any_text),
        "store_country": nullable(any_text),
        "store": nullable(any_text),
        "store_account_token": nullable(any_text),
        "att_status": nullable(whole_number),
        "analytics_disabled": nullable(boolean),
        "custom_attributes": clean_attributes(AttributeRules(deletes=True)),
        "installation_meta": instance_of(InstallationMeta),
    }
    documented: ClassVar[Mapping[str, Check]] = {
        "gender": one_of(*get_args(Gender)),
        "email": email_address,
        "ip_country": country_code,
        "ip_v4_address": ip_v4,
        "store_country": country_code,
        "store": one_of(*get_args(Store)),
        "store_account_token": uuid,
        "att_status": in_range(0, 3),
        "custom_attributes": clean_attributes(_ATTRIBUTES),
        "installation_meta": struct_in,
    }


#: The columns of a file or a data frame of attributes, such as ``["email", "first_name",
#: "custom_attributes.NAME", "installation_meta.device_id"]``: the fields of `ProfileAttributes`,
#: nested ones with a dot. The id is in a further column, named like `by`.
ATTRIBUTE_COLUMNS = ColumnSchema(
    RowSchema(
        {"": ProfileAttributes},
        nested={"custom_attributes": None, "installation_meta": InstallationMeta},
    )
)
