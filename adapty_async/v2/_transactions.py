"""Transactions: one-time purchases and subscriptions, recorded in Adapty."""

from __future__ import annotations

import datetime as dt
import operator
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, ClassVar, Literal, TypeAlias, Unpack, get_args

import msgspec
from msgspec import UNSET

from adapty_async._api.call import (
    By,
    Endpoint,
    Execute,
    Operation,
    RetrySafety,
    identity,
    pair,
    require_kind,
)
from adapty_async._api.codec import to_json
from adapty_async._api.validation import (
    Check,
    DocumentedStruct,
    OrUnset,
    any_text,
    boolean,
    check_body,
    country_code,
    date_time,
    decimal_text,
    identifier,
    instance_of,
    is_given,
    matching,
    nullable,
    one_of,
    struct_in,
)
from adapty_async._input.items import TableSource, pairs_in
from adapty_async._input.schema import ColumnSchema, RowSchema
from adapty_async.bulk import BulkOptions, BulkRun, Items, StartBulk
from adapty_async.errors import InvalidInputError
from adapty_async.v2._models import DOCS, PATH, Profile, read_profile
from adapty_async.v2._profiles import create_profile
from adapty_async.v2._rules import as_datetime, at_most

Environment = Literal["Production", "Sandbox"]
OfferCategory = Literal["introductory", "promotional", "offer_code", "win_back"]
OfferType = Literal["free_trial", "pay_as_you_go", "pay_up_front"]
CancellationReason = Literal[
    "billing_error",
    "cancelled_by_developer",
    "new_subscription_replace",
    "price_increase",
    "product_was_not_available",
    "refund",
    "unknown",
    "upgraded",
    "voluntarily_cancelled",
    "adapty_revoked",
]

# The decimals of a rounded float. Stores count in millionths of a currency unit; smaller digits of
# a float are rounding noise.
_DECIMALS = 6


def _amount(field: str, value: Any) -> None:
    if isinstance(value, str):
        decimal_text(field, value)
    elif isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise InvalidInputError(field, f"must be a number, not {type(value).__name__}")
    elif not Decimal(value).is_finite():
        raise InvalidInputError(field, "must be a finite number")


def _exact(value: Decimal | float | str) -> Decimal:
    if isinstance(value, float):
        value = repr(round(float(value), _DECIMALS))
    return Decimal(value)


class Price(DocumentedStruct, frozen=True, kw_only=True):
    """
    A price that was paid.

    Attributes:
        country: ISO 3166-1 alpha-2, such as ``US``.
        currency: ISO 4217, such as ``USD``.
        value: in units of the currency: a `decimal.Decimal`, an int, a decimal number as text, or
            a float, which is rounded to six decimals, so ``0.1 + 0.2`` is sent as 0.3. The
            attribute is a Decimal.

    Raises:
        InvalidInputError: a value is of the wrong kind.
    """

    country: str
    currency: str
    value: Decimal | float | str

    rules: ClassVar[Mapping[str, Check]] = {
        "country": any_text,
        "currency": any_text,
        "value": _amount,
    }
    documented: ClassVar[Mapping[str, Check]] = {
        "country": country_code,
        "currency": matching(r"[A-Z]{3}", "must be three upper-case letters (ISO 4217)"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        msgspec.structs.force_setattr(self, "value", _exact(self.value))


class Offer(DocumentedStruct, frozen=True, kw_only=True):
    """
    The offer of a purchase.

    Attributes:
        id: the offer's id in the store; required for all categories but ``introductory``.

    Raises:
        InvalidInputError: a value is not text.
    """

    category: OfferCategory
    type: OfferType
    id: OrUnset[str | None] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {
        "category": any_text,
        "type": any_text,
        "id": nullable(any_text),
    }
    documented: ClassVar[Mapping[str, Check]] = {
        "category": one_of(*get_args(OfferCategory)),
        "type": one_of(*get_args(OfferType)),
    }

    def check_documented(self) -> None:
        """
        Validate the category and type, and that the offer has an id.

        Raises:
            InvalidInputError: a value breaks a rule.
        """
        super().check_documented()
        if self.category != "introductory" and not is_given(self.id):
            raise InvalidInputError("id", "must be set, unless category is introductory")


_RULES: Mapping[str, Check] = {
    "store": any_text,
    "environment": any_text,
    "store_product_id": identifier,
    "store_transaction_id": identifier,
    "store_original_transaction_id": identifier,
    "is_family_shared": boolean,
    "price": instance_of(Price),
    "purchased_at": date_time,
    "variation_id": nullable(any_text),
    "offer": nullable(instance_of(Offer)),
    "refunded_at": nullable(date_time),
    "cancellation_reason": nullable(any_text),
}

_DATES: tuple[tuple[str, Callable[[Any, Any], bool], str, str], ...] = (
    ("originally_purchased_at", operator.le, "purchased_at", "must not be later than"),
    ("expires_at", operator.gt, "purchased_at", "must be later than"),
    ("refunded_at", operator.gt, "purchased_at", "must be later than"),
    ("renew_status_changed_at", operator.gt, "purchased_at", "must be later than"),
    ("billing_issue_detected_at", operator.gt, "purchased_at", "must be later than"),
    ("grace_period_expires_at", operator.ge, "expires_at", "must not be earlier than"),
)


class _Purchase(DocumentedStruct, frozen=True, kw_only=True):
    store: str
    store_product_id: str
    store_transaction_id: str
    store_original_transaction_id: str
    price: Price
    purchased_at: dt.datetime | str
    environment: OrUnset[Environment] = UNSET
    is_family_shared: OrUnset[bool] = UNSET
    variation_id: OrUnset[str | None] = UNSET
    offer: OrUnset[Offer | None] = UNSET
    refunded_at: OrUnset[dt.datetime | str | None] = UNSET
    cancellation_reason: OrUnset[CancellationReason | None] = UNSET

    rules: ClassVar[Mapping[str, Check]] = _RULES
    documented: ClassVar[Mapping[str, Check]] = {
        "store_transaction_id": at_most(50),
        "environment": one_of(*get_args(Environment)),
        "price": struct_in,
        "offer": struct_in,
        "cancellation_reason": one_of(*get_args(CancellationReason)),
    }

    def check_documented(self) -> None:
        super().check_documented()
        self._check_dates()
        self._check_price()
        if is_given(self.refunded_at) != (self.cancellation_reason == "refund"):
            raise InvalidInputError(
                "refunded_at", "it and cancellation_reason='refund' must be set together"
            )

    def _check_dates(self) -> None:
        for field, holds, other, rule in _DATES:
            value: Any = getattr(self, field, None)  # a one-time purchase has fewer
            if is_given(value) and not holds(as_datetime(value), as_datetime(getattr(self, other))):
                raise InvalidInputError(field, f"{rule} {other}")

    def _check_price(self) -> None:
        if self.price.value == 0:
            return
        if self.is_family_shared is True:
            raise InvalidInputError("price.value", "must be 0 if is_family_shared is True")
        if isinstance(self.offer, Offer) and self.offer.type == "free_trial":
            raise InvalidInputError("price.value", "must be 0 if offer.type is free_trial")


class OneTimePurchase(
    _Purchase, frozen=True, kw_only=True, tag_field="purchase_type", tag="one_time_purchase"
):
    """
    A one-time purchase, such as lifetime access or coins.

    Attributes:
        store: ``app_store``, ``play_store``, ``stripe``, ``paddle`` or a custom store's id.
        environment: the server assumes ``Production`` if it is not set.
        store_transaction_id: at most 50 characters.
        store_original_transaction_id: the same as `store_transaction_id`.
        is_family_shared: if True, the price must be 0.
        purchased_at: an aware datetime, or ISO 8601 text with its offset.
        variation_id: the variation of the paywall of the purchase, for A/B tests.
        refunded_at: as `purchased_at`, and later; only with ``cancellation_reason="refund"``.

    Raises:
        InvalidInputError: a value is of the wrong kind. The rules of Adapty's
            documentation are checked when the call is sent.

    Source: https://adapty.io/docs/api-adapty/operations/setTransaction
    """

    def check_documented(self) -> None:
        """
        Validate the fields and their dependencies.

        Raises:
            InvalidInputError: a value breaks a rule.
        """
        if isinstance(self.offer, Offer) and self.offer.type == "free_trial":
            raise InvalidInputError("offer.type", "a one-time purchase has no free trial")
        super().check_documented()
        if self.store_transaction_id != self.store_original_transaction_id:
            raise InvalidInputError(
                "store_transaction_id", "must be equal to store_original_transaction_id"
            )


class SubscriptionPurchase(
    _Purchase, frozen=True, kw_only=True, tag_field="purchase_type", tag="subscription"
):
    """
    A subscription, or one renewal of it.

    A known `store_transaction_id` updates that transaction; a new one is a renewal.

    Attributes:
        store: ``app_store``, ``play_store``, ``stripe``, ``paddle`` or a custom store's id.
        environment: the server assumes ``Production`` if it is not set.
        store_transaction_id: at most 50 characters.
        store_original_transaction_id: the id of the first transaction in the chain.
        originally_purchased_at: not later than `purchased_at`.
        expires_at: later than `purchased_at`.
        renew_status: whether the subscription will renew.
        renew_status_changed_at, billing_issue_detected_at: later than `purchased_at`.
        grace_period_expires_at: not earlier than `expires_at`, and only with
            `billing_issue_detected_at`.
        is_family_shared: if True, the price must be 0.
        variation_id: the variation of the paywall of the purchase, for A/B tests.
        offer: with the type ``free_trial``, the price must be 0.
        refunded_at: later than `purchased_at`, and only with ``cancellation_reason="refund"``.

    Raises:
        InvalidInputError: a value is of the wrong kind. The rules of Adapty's
            documentation are checked when the call is sent.

    Source: https://adapty.io/docs/api-adapty/operations/setTransaction
    """

    originally_purchased_at: dt.datetime | str
    expires_at: dt.datetime | str
    renew_status: bool
    renew_status_changed_at: OrUnset[dt.datetime | str | None] = UNSET
    billing_issue_detected_at: OrUnset[dt.datetime | str | None] = UNSET
    grace_period_expires_at: OrUnset[dt.datetime | str | None] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {
        **_RULES,
        "originally_purchased_at": date_time,
        "expires_at": date_time,
        "renew_status": boolean,
        "renew_status_changed_at": nullable(date_time),
        "billing_issue_detected_at": nullable(date_time),
        "grace_period_expires_at": nullable(date_time),
    }

    def check_documented(self) -> None:
        """
        Validate the fields and their dependencies.

        Raises:
            InvalidInputError: a value breaks a rule.
        """
        super().check_documented()
        if is_given(self.grace_period_expires_at) and not is_given(self.billing_issue_detected_at):
            raise InvalidInputError(
                "billing_issue_detected_at", "must be set if grace_period_expires_at is"
            )


Transaction: TypeAlias = OneTimePurchase | SubscriptionPurchase

#: The columns of a file or a data frame of transactions, such as ``["purchase_type",
#: "store_product_id", "price.value", "offer.category"]``: ``purchase_type``, which is
#: ``one_time_purchase`` or ``subscription``, and the fields of `OneTimePurchase` or
#: `SubscriptionPurchase`, nested ones with a dot. The id is in a further column, named like `by`.
TRANSACTION_COLUMNS = ColumnSchema(
    RowSchema(
        {"one_time_purchase": OneTimePurchase, "subscription": SubscriptionPurchase},
        kind_field="purchase_type",
        nested={"price": Price, "offer": Offer},
        required=(
            "purchase_type",
            "store",
            "store_product_id",
            "store_transaction_id",
            "store_original_transaction_id",
            "purchased_at",
            "price.country",
            "price.currency",
            "price.value",
        ),
        numbers=frozenset({"price.value"}),
    )
)
SET_TRANSACTION: Endpoint[Profile] = Endpoint(
    name="v2.transactions.set",
    method="POST",
    path=f"{PATH}/purchase/set/transaction/",
    docs=f"{DOCS}/setTransaction",
    retry_safety=RetrySafety.ALWAYS,  # an upsert by store_transaction_id
    bucket="v2",
    decode=read_profile,
    encode=to_json,
    check=check_body,
)


_ONLY_CUSTOMERS = "needs a customer_user_id: Adapty chooses the profile_id of a new profile"


def set_transaction(
    transaction: Transaction,
    *,
    customer_user_id: str | None = None,
    profile_id: str | None = None,
    create_missing: bool = False,
) -> Operation[Profile]:
    """Return the operation of `Transactions.set`."""
    about = identity(customer_user_id, profile_id)
    if create_missing and profile_id is not None:
        raise InvalidInputError("create_missing", _ONLY_CUSTOMERS)
    creation = create_profile(customer_user_id=customer_user_id) if create_missing else None
    if not isinstance(transaction, Transaction):
        raise InvalidInputError("transaction", "must be a OneTimePurchase or SubscriptionPurchase")
    return Operation(
        SET_TRANSACTION, about, transaction, if_missing=creation, is_done_by_creation=False
    )


class Transactions:
    """A resource of the call on one transaction and of the bulk run on transactions."""

    def __init__(self, execute: Execute, bulk: StartBulk) -> None:
        self._execute = execute
        self._bulk = bulk

    async def set(
        self,
        transaction: Transaction,
        *,
        customer_user_id: str | None = None,
        profile_id: str | None = None,
        create_missing: bool = False,
    ) -> Profile:
        """
        Record a purchase, or update the one with the same `store_transaction_id`.

        The purchase appears in Adapty's analytics and events, and opens the access level of its
        product. A purchase of an unknown product is recorded, but opens no access level. A
        purchase needs a profile.

        Args:
            transaction: the purchase.
            customer_user_id: the user's id in your system.
            profile_id: Adapty's id of the profile.
            create_missing: create a missing profile, without attributes, and record the purchase
                then; with a `customer_user_id` only. See `Profiles.get_or_create`.

        Raises:
            InvalidInputError: not exactly one id was passed, it cannot be sent, or a value breaks a
                rule.
            NotFoundError: there is no such profile.
            RequestRejectedError: the server rejects a value; see its `errors`.
            AdaptyError: any other failure; see `adapty_async.errors`.

        Source: https://adapty.io/docs/api-adapty/operations/setTransaction
        """
        return await self._execute(
            set_transaction(
                transaction,
                customer_user_id=customer_user_id,
                profile_id=profile_id,
                create_missing=create_missing,
            )
        )

    def bulk_set(
        self,
        items: Items[tuple[str, Transaction]] | TableSource,
        *,
        by: By,
        create_missing: bool = False,
        **options: Unpack[BulkOptions[tuple[str, Transaction], Profile]],
    ) -> BulkRun[tuple[str, Transaction], Profile]:
        """
        Record purchases in bulk: one request each, several in flight.

        Transactions of one profile are sent sequentially, in the order of the input.

        A file or a data frame is first read through once, which blocks. A row of it that cannot be
        read is an `UnreadableRow` as the `item` of its `Outcome`.

        Args:
            items: pairs of a profile's id and a transaction, from any iterable or async iterable;
                or a data frame or an `InputFile`, with the columns `TRANSACTION_COLUMNS`.
            by: the kind of the ids: ``"customer_user_id"`` or ``"profile_id"``.
            create_missing: create missing profiles; see `set`.
            options: see `adapty_async.bulk.BulkOptions`.

        Raises:
            ConfigError: the extra for the file's format is not installed.
            InvalidInputError: `items` or `by` is invalid, or `by` does not go with
                `create_missing`. An invalid pair becomes a failed outcome instead.

        Source: https://adapty.io/docs/api-adapty/operations/setTransaction
        """
        require_kind("by", by)
        if create_missing and by != "customer_user_id":
            raise InvalidInputError("create_missing", _ONLY_CUSTOMERS)

        def build(item: tuple[str, Transaction]) -> Operation[Profile]:
            item_id, transaction = pair(item, "a transaction")
            ids: dict[str, Any] = {by: item_id}
            return set_transaction(transaction, create_missing=create_missing, **ids)

        name = f"{SET_TRANSACTION.name} by {by}{', create missing' if create_missing else ''}"
        return self._bulk(pairs_in(items, by, TRANSACTION_COLUMNS), build, name, **options)
