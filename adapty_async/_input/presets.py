"""
The columns of exports of other services, and the fields that they are.

A preset maps a column only if the page named in it states what the column holds. It never maps a
column to the id of a user: an export has several ids, and a wrong one would be somebody else's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from adapty_async.errors import InvalidInputError

_NO_OFFSET = re.compile(r"([0-9-]{10})(?:[T ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?))?")


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """
    A mapping from the columns of an export to fields.

    Attributes:
        name: its name among the options.
        source: the page that describes the columns.
        kinds: sets of columns by which an export is recognised; one of them is enough.
        columns: the column of each field.
        is_utc: dates and times without an offset are in UTC.
        convert: functions of a cell, by field: they return the field's value, or raise an error.
        ids: the columns that may have the ids of users; one of them is to be chosen.
        id_columns: the column with the ids by their kind, where the page leaves no doubt.
        without: fields that a subscription needs and that no column has.
        others: columns that show that it is another table of the same service.
    """

    name: str
    source: str
    kinds: tuple[frozenset[str], ...]
    columns: Mapping[str, str]
    is_utc: bool = False
    convert: Mapping[str, Callable[[Any], Any]] = {}
    ids: tuple[str, ...] = ()
    id_columns: Mapping[str, str] = {}
    without: tuple[str, ...] = ()
    others: frozenset[str] = frozenset()

    def require_match(self, label: str, names: Collection[str], *, may_lack: bool = False) -> None:
        """
        Validate that columns are those of the export; some may be missing if `may_lack` says so.

        Raises:
            InvalidInputError: some are missing, or belong to another table.
        """
        missing = min((kind - set(names) for kind in self.kinds), key=len)
        if missing and not may_lack:
            raise InvalidInputError(
                label,
                f"is not a {self.name} export: missing columns: {', '.join(sorted(missing))}",
            )
        others = self.others & set(names)
        if others:
            raise InvalidInputError(
                label,
                f"belongs to another table than {self.source}: "
                f"unexpected columns: {', '.join(sorted(others))}",
            )

    def column_of_ids(self, field: str) -> str:
        """
        Return the column with the ids of a kind.

        Raises:
            InvalidInputError: the export has several, or none.
        """
        if field in self.id_columns:
            return self.id_columns[field]
        choice = " or ".join(self.ids) or "its name"
        raise InvalidInputError(
            "id_column",
            f"is required: the column with the {field} is ambiguous in {self.name} exports: "
            f"add {choice}",
        )


def utc(value: Any) -> Any:
    """Return a date and time as UTC; text that has an offset stays as it is."""
    match = _NO_OFFSET.fullmatch(value) if isinstance(value, str) else None
    return value if match is None else f"{match[1]}T{match[2] or '00:00:00'}Z"


def _words(words: Mapping[str, str]) -> Callable[[Any], Any]:
    """Return a function that translates words; others are left for the field's own check."""
    return lambda value: words.get(str(value).lower(), value)


def _store(value: Any) -> Any:
    """Return a store that both services call the same; a promotional grant is no purchase."""
    if isinstance(value, str) and value in {"app_store", "play_store", "stripe"}:
        return value
    raise InvalidInputError(
        "store",
        "must be app_store, play_store or stripe; for others, map the column or set a constant",
    )


_REVENUECAT = Preset(
    name="revenuecat",
    # "All dates and times are in UTC." Booleans were `t` and `f` before version 4.
    source="https://www.revenuecat.com/docs/integrations/scheduled-data-exports/transactions",
    kinds=(
        frozenset(
            {
                "rc_original_app_user_id",
                "store",
                "product_identifier",
                "store_transaction_id",
                "original_store_transaction_id",
                "start_time",
            }
        ),
    ),
    is_utc=True,
    columns={
        "purchase_type": "is_auto_renewable",
        "store": "store",
        "environment": "is_sandbox",
        "store_product_id": "product_identifier",
        "store_transaction_id": "store_transaction_id",
        "store_original_transaction_id": "original_store_transaction_id",
        "is_family_shared": "ownership_type",
        "price.country": "country",
        "price.currency": "purchased_currency",
        "price.value": "purchase_price_in_purchased_currency",
        "purchased_at": "start_time",
        "expires_at": "end_time",
        "refunded_at": "refunded_at",
        "cancellation_reason": "refunded_at",
        "billing_issue_detected_at": "billing_issues_detected_at",
        "grace_period_expires_at": "grace_period_end_time",
    },
    convert={
        "purchase_type": _words(
            {
                "true": "subscription",
                "t": "subscription",
                "false": "one_time_purchase",
                "f": "one_time_purchase",
            }
        ),
        "environment": _words(
            {"true": "Sandbox", "t": "Sandbox", "false": "Production", "f": "Production"}
        ),
        "is_family_shared": _words({"family_shared": "true", "purchased": "false"}),
        "store": _store,
        "cancellation_reason": lambda _: "refund",
    },
    ids=("rc_original_app_user_id", "rc_last_seen_app_user_id_alias"),
    without=("originally_purchased_at", "renew_status"),
)

_SEGMENT = Preset(
    name="segment",
    # The table `users` of a warehouse: its `id` is the `user_id` of the table `identifies`, whose
    # own `id` is that of the call. Traits are columns with names in snake case. The reserved ones
    # are in https://www.twilio.com/docs/segment/connections/spec/identify, whose values for a
    # gender and a birthday need not be those of Adapty.
    source="https://www.twilio.com/docs/segment/connections/storage/warehouses/schema",
    kinds=(frozenset({"id", "received_at"}),),
    others=frozenset({"anonymous_id", "user_id"}),
    columns={
        "external_profile_id": "id",
        "external_created_at": "created_at",
        "email": "email",
        "first_name": "first_name",
        "last_name": "last_name",
        "phone_number": "phone",
    },
    id_columns={"customer_user_id": "id", "external_profile_id": "id", "email": "email"},
)

_ADAPTY_S3 = Preset(
    name="adapty-s3",
    # Tables of events and of paywall visits. `event_datetime` is when the event happened, which
    # need not be a purchase.
    source="https://adapty.io/docs/s3-exports",
    kinds=(
        frozenset({"profile_id", "event_type", "event_datetime"}),
        frozenset({"profile_id", "paywall_showed_at"}),
    ),
    columns={
        "store": "store",
        "environment": "environment",
        "store_product_id": "product_id",
        "store_transaction_id": "transaction_id",
        "store_original_transaction_id": "original_transaction_id",
        "price.country": "store_country",
        "price.currency": "currency",
        "price.value": "revenue_local",
        "expires_at": "subscription_expires_at",
        "cancellation_reason": "cancellation_reason",
    },
    id_columns={"customer_user_id": "customer_user_id", "profile_id": "profile_id"},
    without=("purchase_type", "purchased_at", "originally_purchased_at", "renew_status"),
)

#: The presets by name.
PRESETS: Mapping[str, Preset] = {one.name: one for one in (_REVENUECAT, _SEGMENT, _ADAPTY_S3)}
