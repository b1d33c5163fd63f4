"""
The Mail API: profiles that receive e-mail, and the store transactions that trigger it.

Each Mail project has its own host and its own API key.

Source: https://adapty.io/docs/mail-send-data-via-api
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import ClassVar, Literal, Unpack, get_args

import msgspec
from msgspec import UNSET

from adapty_async._api.call import Endpoint, Execute, Operation, RetrySafety
from adapty_async._api.codec import to_json
from adapty_async._api.results import no_content, no_result
from adapty_async._api.validation import (
    AttributeRules,
    Check,
    OrUnset,
    RequestStruct,
    any_text,
    as_numbers,
    clean_attributes,
    country_code,
    date,
    date_time,
    decimal_text,
    email_address,
    identifier,
    instance_of,
    nullable,
    one_of,
)
from adapty_async._input.items import TableSource, ids_in, structs_in
from adapty_async._input.schema import ColumnSchema, RowSchema
from adapty_async.bulk import BulkOptions, BulkRun, Items, StartBulk
from adapty_async.errors import InvalidInputError

__all__ = (
    "DELETE_PROFILE",
    "PROFILE_COLUMNS",
    "SAVE_EVENT",
    "SAVE_PROFILE",
    "DeviceInfo",
    "Events",
    "MailProfile",
    "MailProfiles",
    "Offer",
    "TransactionEvent",
    "delete_profile",
    "save_event",
    "save_profile",
)

By = Literal["external_profile_id", "customer_user_id", "email"]
EventType = Literal[
    "subscription_started",
    "subscription_renewed",
    "subscription_renewal_cancelled",
    "subscription_renewal_reactivated",
    "billing_issue_detected",
    "entered_grace_period",
    "subscription_refunded",
    "subscription_expired",
    "non_subscription_purchase",
    "non_subscription_purchase_refunded",
]
OfferCategory = Literal["introductory", "promotional", "offer_code", "win_back"]
OfferType = Literal["free_trial", "pay_as_you_go", "pay_up_front"]

_DOCS = "https://adapty.io/docs/api-adapty-mail/operations"


class DeviceInfo(RequestStruct, frozen=True, kw_only=True):
    """
    The device of the user. UNSET is not sent, None is sent as null, as in `MailProfile`.

    Attributes:
        platform: required, such as ``iOS`` or ``Android``.
        device: the model, such as ``iPhone15,2``.
        os: the system's version, such as ``17.5``.
        locale: such as ``en-US``.
        timezone: such as ``America/New_York``.
        app_version: such as ``3.1.0``.

    Raises:
        InvalidInputError: a value is not text.
    """

    platform: str
    device: OrUnset[str | None] = UNSET
    os: OrUnset[str | None] = UNSET
    locale: OrUnset[str | None] = UNSET
    timezone: OrUnset[str | None] = UNSET
    app_version: OrUnset[str | None] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {
        "platform": any_text,
        "device": nullable(any_text),
        "os": nullable(any_text),
        "locale": nullable(any_text),
        "timezone": nullable(any_text),
        "app_version": nullable(any_text),
    }


class MailProfile(RequestStruct, frozen=True, kw_only=True):
    """
    A person who receives e-mail. Another save with the same `external_profile_id` updates them.

    UNSET is not sent, None is sent as null. Adapty's documentation allows null for no field, so
    leave a field that you do not know UNSET.

    Attributes:
        external_profile_id: the stable id in your system.
        external_created_at: when the user was created: an aware datetime, or ISO 8601 text with
            its offset.
        email: the address; the server keeps the first address that it received.
        customer_user_id: the user's id in Adapty's SDK.
        birthday: a date, or ISO 8601 text.
        country, store_country: ISO 3166-1 alpha-2 in capitals, such as ``US``.
        custom_attributes: text or numbers by key; a bool is sent as 1.0 or 0.0.

    Raises:
        InvalidInputError: a value breaks one of these rules.

    Source: https://adapty.io/docs/api-adapty-mail/operations/saveProfile
    """

    external_profile_id: str
    external_created_at: dt.datetime | str
    email: str
    customer_user_id: OrUnset[str | None] = UNSET
    first_name: OrUnset[str | None] = UNSET
    last_name: OrUnset[str | None] = UNSET
    gender: OrUnset[str | None] = UNSET
    birthday: OrUnset[dt.date | str | None] = UNSET
    country: OrUnset[str | None] = UNSET
    store_country: OrUnset[str | None] = UNSET
    custom_attributes: OrUnset[Mapping[str, str | float]] = UNSET
    device_info: OrUnset[DeviceInfo] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {
        "external_profile_id": identifier,
        "external_created_at": date_time,
        "email": email_address,
        "customer_user_id": nullable(identifier),
        "first_name": nullable(any_text),
        "last_name": nullable(any_text),
        "gender": nullable(any_text),
        "birthday": nullable(date),
        "country": nullable(country_code),
        "store_country": nullable(country_code),
        "custom_attributes": clean_attributes(AttributeRules()),
        "device_info": instance_of(DeviceInfo),
    }


#: The columns of a file or a data frame of profiles, such as ``["external_profile_id", "email",
#: "custom_attributes.NAME"]``: the fields of `MailProfile`, the id among them, nested ones with a
#: dot.
PROFILE_COLUMNS = ColumnSchema(
    RowSchema(
        {"": MailProfile},
        nested={"custom_attributes": None, "device_info": DeviceInfo},
        required=("external_profile_id", "external_created_at", "email"),
    )
)


class Offer(RequestStruct, frozen=True, kw_only=True):
    """
    The promotional or introductory offer that was applied to a transaction.

    Raises:
        InvalidInputError: a value is not one of those allowed.
    """

    category: OfferCategory
    offer_type: OfferType
    offer_id: OrUnset[str | None] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {
        "category": one_of(*get_args(OfferCategory)),
        "offer_type": one_of(*get_args(OfferType)),
        "offer_id": nullable(any_text),
    }


class TransactionEvent(RequestStruct, frozen=True, kw_only=True):
    """
    An event of a purchase. A retry with the same `event_id` changes nothing.

    UNSET is not sent, None is sent as null, as in `MailProfile`.

    Attributes:
        event_type: the kind of the event.
        event_id: the event's id in your system.
        event_datetime, purchased_at, originally_purchased_at, expires_at: aware datetimes, or ISO
            8601 text with its offset.
        external_profile_id: the profile of the event, which may be saved later.
        store_original_transaction_id: the id of the first transaction in the chain.
        price_usd: the amount as a decimal number in text, such as ``"9.99"``.

    Raises:
        InvalidInputError: a value breaks one of these rules.

    Source: https://adapty.io/docs/api-adapty-mail/operations/saveTransactionEvent
    """

    event_type: EventType
    event_id: str
    event_datetime: dt.datetime | str
    external_profile_id: str
    store: str
    store_product_id: str
    store_transaction_id: str
    store_original_transaction_id: str
    purchased_at: dt.datetime | str
    originally_purchased_at: dt.datetime | str
    customer_user_id: OrUnset[str | None] = UNSET
    email: OrUnset[str | None] = UNSET
    price_usd: OrUnset[str | None] = UNSET
    expires_at: OrUnset[dt.datetime | str | None] = UNSET
    offer: OrUnset[Offer] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {
        "event_type": one_of(*get_args(EventType)),
        "event_id": identifier,
        "event_datetime": date_time,
        "external_profile_id": identifier,
        "store": any_text,
        "store_product_id": identifier,
        "store_transaction_id": identifier,
        "store_original_transaction_id": identifier,
        "purchased_at": date_time,
        "originally_purchased_at": date_time,
        "customer_user_id": nullable(identifier),
        "email": nullable(email_address),
        "price_usd": nullable(decimal_text),
        "expires_at": nullable(date_time),
        "offer": instance_of(Offer),
    }


def _write_profile(profile: MailProfile) -> bytes:
    custom = profile.custom_attributes
    if custom is not UNSET and (type(custom) is not dict or bool in map(type, custom.values())):
        profile = msgspec.structs.replace(profile, custom_attributes=as_numbers(custom))
    return to_json(profile)


SAVE_PROFILE: Endpoint[None] = Endpoint(
    name="mail.profiles.save",
    method="POST",
    path="/api/v1/profile/save/",
    docs=f"{_DOCS}/saveProfile",
    retry_safety=RetrySafety.ALWAYS,  # an upsert by external_profile_id
    bucket="mail",
    decode=no_result,
    encode=_write_profile,
    lock_key=lambda profile: profile.external_profile_id,
)
DELETE_PROFILE: Endpoint[None] = Endpoint(
    name="mail.profiles.delete",
    method="POST",
    path="/api/v1/profile/delete/",
    docs=f"{_DOCS}/deleteProfile",
    retry_safety=RetrySafety.ALWAYS,  # an erased profile stays erased
    bucket="mail",
    decode=no_content,
    encode=to_json,
    is_deletion=True,
    lock_key=lambda identifiers: tuple(identifiers.items()),
)
SAVE_EVENT: Endpoint[None] = Endpoint(
    name="mail.events.save",
    method="POST",
    path="/api/v1/profile/transaction-event/save/",
    docs=f"{_DOCS}/saveTransactionEvent",
    retry_safety=RetrySafety.ALWAYS,  # keyed by event_id
    bucket="mail",
    decode=no_result,
    encode=to_json,
    lock_key=lambda event: event.event_id,
)


_BY: Mapping[str, Check] = {
    "external_profile_id": identifier,
    "customer_user_id": identifier,
    "email": email_address,
}


def save_profile(profile: MailProfile) -> Operation[None]:
    """Return the operation of `MailProfiles.save`."""
    instance_of(MailProfile)("profile", profile)
    return Operation(SAVE_PROFILE, body=profile)


def delete_profile(
    *,
    external_profile_id: str | None = None,
    customer_user_id: str | None = None,
    email: str | None = None,
) -> Operation[None]:
    """Return the operation of `MailProfiles.delete`."""
    values = (external_profile_id, customer_user_id, email)
    given = {name: value for name, value in zip(_BY, values, strict=True) if value is not None}
    if not given:
        raise InvalidInputError(
            "external_profile_id",
            "at least one of external_profile_id, customer_user_id and email is required",
        )
    for name, value in given.items():
        _BY[name](name, value)
    return Operation(DELETE_PROFILE, body=given)


def save_event(event: TransactionEvent) -> Operation[None]:
    """Return the operation of `Events.save`."""
    instance_of(TransactionEvent)("event", event)
    return Operation(SAVE_EVENT, body=event)


class MailProfiles:
    """A resource of the calls on one profile and of bulk runs on profiles."""

    def __init__(self, execute: Execute, bulk: StartBulk) -> None:
        self._execute = execute
        self._bulk = bulk

    async def save(self, profile: MailProfile) -> None:
        """
        Create a profile, or update the one with the same `external_profile_id`.

        Raises:
            RequestRejectedError: the server rejects a value; see its `errors`.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty-mail/operations/saveProfile
        """
        await self._execute(save_profile(profile))

    async def delete(
        self,
        *,
        external_profile_id: str | None = None,
        customer_user_id: str | None = None,
        email: str | None = None,
    ) -> None:
        """
        Erase a profile's personal data and cancel its e-mails, for good.

        Any combination of the three identifiers identifies the profile. After a lost response,
        "not found" counts as success: the server returns it for every retry by e-mail alone.

        Raises:
            InvalidInputError: no identifier was passed, or one is invalid.
            NotFoundError: there is no such profile.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty-mail/operations/deleteProfile
        """
        await self._execute(
            delete_profile(
                external_profile_id=external_profile_id,
                customer_user_id=customer_user_id,
                email=email,
            )
        )

    def bulk_save(
        self,
        items: Items[MailProfile] | TableSource,
        **options: Unpack[BulkOptions[MailProfile, None]],
    ) -> BulkRun[MailProfile, None]:
        """
        Save profiles in bulk: one request each, several in flight.

        A file or a data frame is first read through once, which blocks. A row of it that cannot be
        read is an `UnreadableRow` as the `item` of its `Outcome`.

        Args:
            items: the profiles, from any iterable or async iterable, which is read lazily; or a
                data frame or an `InputFile`, with the columns `PROFILE_COLUMNS`.
            options: see `adapty_async.bulk.BulkOptions`.

        Raises:
            ConfigError: the extra for the file's format is not installed.
            InvalidInputError: `items` is invalid.

        Source: https://adapty.io/docs/api-adapty-mail/operations/saveProfile
        """
        profiles = structs_in(items, PROFILE_COLUMNS)
        return self._bulk(profiles, save_profile, SAVE_PROFILE.name, **options)

    def bulk_delete(
        self,
        items: Items[str] | TableSource,
        *,
        by: By,
        **options: Unpack[BulkOptions[str, None]],
    ) -> BulkRun[str, None]:
        """
        Erase profiles in bulk: one request each, several in flight.

        A file or a data frame is first read through once, which blocks. A row of it that cannot be
        read is an `UnreadableRow` as the `item` of its `Outcome`.

        Args:
            items: the identifiers, from any iterable or async iterable, which is read lazily; or a
                data frame or an `InputFile` with a column named like `by`.
            by: their kind: ``"external_profile_id"``, ``"customer_user_id"`` or ``"email"``.
            options: see `adapty_async.bulk.BulkOptions`.

        Raises:
            ConfigError: the extra for the file's format is not installed.
            InvalidInputError: `items` or `by` is invalid. An invalid identifier becomes a failed
                outcome instead.

        Source: https://adapty.io/docs/api-adapty-mail/operations/deleteProfile
        """
        one_of(*_BY)("by", by)
        name = f"{DELETE_PROFILE.name} by {by}"
        ids = ids_in(items, by)
        return self._bulk(ids, lambda item: delete_profile(**{by: item}), name, **options)


class Events:
    """A resource of the calls on store transactions."""

    def __init__(self, execute: Execute, bulk: StartBulk) -> None:
        self._execute = execute
        self._bulk = bulk

    async def save(self, event: TransactionEvent) -> None:
        """
        Record an event of a purchase.

        Raises:
            RequestRejectedError: the server rejects a value; see its `errors`.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty-mail/operations/saveTransactionEvent
        """
        await self._execute(save_event(event))

    def bulk_save(
        self,
        items: Items[TransactionEvent],
        **options: Unpack[BulkOptions[TransactionEvent, None]],
    ) -> BulkRun[TransactionEvent, None]:
        """
        Record events in bulk: one request each, several in flight.

        Args:
            items: the events, from any iterable or async iterable, which is read lazily.
            options: see `adapty_async.bulk.BulkOptions`.

        Raises:
            InvalidInputError: `items` is invalid.

        Source: https://adapty.io/docs/api-adapty-mail/operations/saveTransactionEvent
        """
        return self._bulk(items, save_event, SAVE_EVENT.name, **options)
