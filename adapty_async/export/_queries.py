"""The requests of the export analytics API: enumerations, filters, and a struct per operation."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypedDict

import msgspec
from msgspec import UNSET

from adapty_async._api.validation import (
    Check,
    DocumentedStruct,
    OrUnset,
    RequestStruct,
    boolean,
    exact_text,
    identifier,
    instance_of,
    matching,
    nullable,
)
from adapty_async._api.validation import date as a_date
from adapty_async.errors import InvalidInputError

#: The first and the last day of a range, both inclusive: dates, or ISO 8601 text.
DateRange = tuple[dt.date | str, dt.date | str]


class Chart(enum.StrEnum):
    """
    An enumeration of the charts that are documented; a request accepts any other id as text.

    Source: https://adapty.io/docs/api-export-analytics/operations/retrieveAnalyticsData
    """

    REVENUE = "revenue"
    MRR = "mrr"
    ARR = "arr"
    ARPPU = "arppu"
    SUBSCRIPTIONS_ACTIVE = "subscriptions_active"
    SUBSCRIPTIONS_NEW = "subscriptions_new"
    SUBSCRIPTIONS_RENEWAL_CANCELLED = "subscriptions_renewal_cancelled"
    SUBSCRIPTIONS_EXPIRED = "subscriptions_expired"
    TRIALS_ACTIVE = "trials_active"
    TRIALS_NEW = "trials_new"
    TRIALS_RENEWAL_CANCELLED = "trials_renewal_cancelled"
    TRIALS_EXPIRED = "trials_expired"
    GRACE_PERIOD = "grace_period"
    BILLING_ISSUE = "billing_issue"
    REFUND_EVENTS = "refund_events"
    REFUND_MONEY = "refund_money"
    NON_SUBSCRIPTIONS = "non_subscriptions"
    ARPU = "arpu"
    INSTALLS = "installs"


class PeriodUnit(enum.StrEnum):
    """An enumeration of the intervals by which values are grouped."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"


class DateType(enum.StrEnum):
    """An enumeration of the dates that count as the date on which a user joined."""

    PURCHASE_DATE = "purchase_date"
    PROFILE_INSTALL_DATE = "profile_install_date"


class PeriodType(enum.StrEnum):
    """An enumeration of the periods of a cohort."""

    RENEWALS = "renewals"
    DAYS = "days"


class ValueType(enum.StrEnum):
    """An enumeration of the forms of a cohort's values."""

    ABSOLUTE = "absolute"
    RELATIVE = "relative"


class ValueField(enum.StrEnum):
    """An enumeration of the values of a cohort."""

    REVENUE = "revenue"
    ARPPU = "arppu"
    ARPU = "arpu"
    ARPAS = "arpas"
    SUBSCRIBERS = "subscribers"
    SUBSCRIPTIONS = "subscriptions"


class AccountingType(enum.StrEnum):
    """An enumeration of the ways to count money."""

    REVENUE = "revenue"
    PROCEEDS = "proceeds"
    NET_REVENUE = "net_revenue"


class ShowValueAs(enum.StrEnum):
    """An enumeration of the forms of a funnel's values."""

    ABSOLUTE = "absolute"
    RELATIVE = "relative"
    BOTH = "both"


class PlacementType(enum.StrEnum):
    """An enumeration of the kinds of placements."""

    PAYWALL = "paywall"
    ONBOARDING = "onboarding"


def parsed_dates(dates: DateRange) -> tuple[dt.date, dt.date]:
    """Return a valid range as dates."""
    first, last = (one if isinstance(one, dt.date) else dt.date.fromisoformat(one) for one in dates)
    return first, last


def _date_range(field: str, value: Any) -> None:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise InvalidInputError(field, "must be a pair: the first and the last day")
    for index, one in enumerate(value):
        a_date(f"{field}[{index}]", one)
    first, last = parsed_dates((value[0], value[1]))
    if first > last:
        raise InvalidInputError(field, "must not end before it begins")


def _list_of(check: Check, what: str) -> Check:
    def check_list(field: str, value: Any) -> None:
        if not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray):
            raise InvalidInputError(field, f"must be a list of {what}")
        for index, entry in enumerate(value):
            check(f"{field}[{index}]", entry)

    return check_list


def _whole_number(field: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidInputError(field, "must be a whole number from 0")


def _period(field: str, value: Any) -> None:
    if isinstance(value, int) and not isinstance(value, bool):
        return  # as in Adapty's example, although its schema has text or null
    nullable(identifier)(field, value)


_texts = _list_of(identifier, "text")
_country = matching(r"[A-Za-z]{2}", "must be a two-letter country code, such as us")
_product = matching(r"[^:]+:.+", "must be <store>:<product_id>, such as app_store:premium_monthly")


class Filters(DocumentedStruct, frozen=True, kw_only=True):
    """
    A selection of the data: a range of dates, and lists of text of which any may match.

    Attributes:
        date: the first and the last day, both inclusive.
        compare_date: another range, to compare with.
        store: such as ``app_store``.
        country: two-letter codes.
        store_product_id: ``<store>:<product_id>``; Adapty rejects an id without its store.

    Raises:
        InvalidInputError: a value is no date, range or list of text. The forms of countries and
            product ids are checked when the call is sent.

    Source: https://adapty.io/docs/export-analytics-api
    """

    date: DateRange
    compare_date: OrUnset[DateRange] = UNSET
    store: OrUnset[Sequence[str]] = UNSET
    country: OrUnset[Sequence[str]] = UNSET
    store_product_id: OrUnset[Sequence[str]] = UNSET
    duration: OrUnset[Sequence[str]] = UNSET
    attribution_source: OrUnset[Sequence[str]] = UNSET
    attribution_status: OrUnset[Sequence[str]] = UNSET
    attribution_channel: OrUnset[Sequence[str]] = UNSET
    attribution_campaign: OrUnset[Sequence[str]] = UNSET
    attribution_adgroup: OrUnset[Sequence[str]] = UNSET
    attribution_adset: OrUnset[Sequence[str]] = UNSET
    attribution_creative: OrUnset[Sequence[str]] = UNSET
    offer_category: OrUnset[Sequence[str]] = UNSET
    offer_type: OrUnset[Sequence[str]] = UNSET
    offer_id: OrUnset[Sequence[str]] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {
        **dict.fromkeys(__annotations__, _texts),  # all fields above
        "date": _date_range,
        "compare_date": _date_range,
    }
    documented: ClassVar[Mapping[str, Check]] = {
        "country": _list_of(_country, "country codes"),
        "store_product_id": _list_of(_product, "product ids"),
    }


class PlacementFilters(RequestStruct, frozen=True, kw_only=True):
    """
    A selection of placements.

    Raises:
        InvalidInputError: the value is not text.
    """

    placement_type: PlacementType | str

    rules: ClassVar[Mapping[str, Check]] = {"placement_type": identifier}


class Query(RequestStruct, frozen=True, kw_only=True):
    """
    The base class of the requests that have a range of dates.

    Attributes:
        filters: the selection of the data.
        period_unit: the interval by which values are grouped.
        format: the form of the response; the server's default is JSON.
    """

    filters: Filters
    period_unit: OrUnset[PeriodUnit | str] = UNSET
    format: OrUnset[str] = UNSET

    # The period unit that the server uses by default; None if it is not documented.
    default_period: ClassVar[str | None] = None

    @property
    def period(self) -> str | None:
        """The interval by which values are grouped; None if it is unknown."""
        return self.default_period if self.period_unit is UNSET else exact_text(self.period_unit)

    def on(self, first: dt.date, last: dt.date) -> Query:
        """Return the same request for another range of dates."""
        filters = msgspec.structs.replace(self.filters, date=(first, last))
        return msgspec.structs.replace(self, filters=filters)


_COMMON: Mapping[str, Check] = {"filters": instance_of(Filters), "period_unit": identifier}


class AnalyticsQuery(Query, frozen=True, kw_only=True):
    """The request of `Exports.analytics`."""

    chart_id: Chart | str
    date_type: OrUnset[DateType | str] = UNSET
    segmentation: OrUnset[str] = UNSET

    default_period: ClassVar[str | None] = PeriodUnit.MONTH
    rules: ClassVar[Mapping[str, Check]] = {
        **_COMMON,
        "chart_id": identifier,
        "date_type": identifier,
        "segmentation": identifier,
    }


class AnalyticsOptions(TypedDict, total=False):
    """
    The optional properties of `Exports.analytics`.

    Attributes:
        period_unit: the interval by which values are grouped; the server's default is a month.
        date_type: the date on which a user joined; the server's default is that of the purchase.
        segmentation: the property by which values are divided, such as ``country``.
    """

    period_unit: PeriodUnit | str
    date_type: DateType | str
    segmentation: str


class CohortQuery(Query, frozen=True, kw_only=True):
    """The request of `Exports.cohort`."""

    period_type: OrUnset[PeriodType | str] = UNSET
    value_type: OrUnset[ValueType | str] = UNSET
    value_field: OrUnset[ValueField | str] = UNSET
    accounting_type: OrUnset[AccountingType | str] = UNSET
    renewal_days: OrUnset[Sequence[int]] = UNSET
    prediction_months: OrUnset[int] = UNSET

    default_period: ClassVar[str | None] = PeriodUnit.MONTH
    rules: ClassVar[Mapping[str, Check]] = {
        **_COMMON,
        "period_type": identifier,
        "value_type": identifier,
        "value_field": identifier,
        "accounting_type": identifier,
        "renewal_days": _list_of(_whole_number, "whole numbers"),
        "prediction_months": _whole_number,
    }


class CohortOptions(TypedDict, total=False):
    """
    The optional properties of `Exports.cohort`.

    Attributes:
        period_unit: the interval by which values are grouped; the server's default is a month.
        period_type: by renewals, the server's default, or by days.
        value_type: absolute, the server's default, or relative values.
        value_field: the values; the server's default is the revenue.
        accounting_type: the way to count money; the server's default is the revenue.
        renewal_days: days since the installation, for ``period_type="days"``.
        prediction_months: months of prediction; documented are 3, 6, 9, 12, 18 and 24.
    """

    period_unit: PeriodUnit | str
    period_type: PeriodType | str
    value_type: ValueType | str
    value_field: ValueField | str
    accounting_type: AccountingType | str
    renewal_days: Sequence[int]
    prediction_months: int


class ConversionQuery(Query, frozen=True, kw_only=True):
    """The request of `Exports.conversion`."""

    from_period: str | int | None
    to_period: str
    date_type: OrUnset[DateType | str] = UNSET
    segmentation: OrUnset[str] = UNSET

    default_period: ClassVar[str | None] = PeriodUnit.MONTH
    rules: ClassVar[Mapping[str, Check]] = {
        **_COMMON,
        "from_period": _period,
        "to_period": identifier,
        "date_type": identifier,
        "segmentation": identifier,
    }


class ConversionOptions(TypedDict, total=False):
    """
    The optional properties of `Exports.conversion`.

    Attributes:
        period_unit: the interval by which values are grouped; the server's default is a month.
        date_type: the date on which a user joined; the server's default is that of the purchase.
        segmentation: the property by which values are divided, such as ``country``.
    """

    period_unit: PeriodUnit | str
    date_type: DateType | str
    segmentation: str


class FunnelQuery(Query, frozen=True, kw_only=True):
    """The request of `Exports.funnel`."""

    show_value_as: OrUnset[ShowValueAs | str] = UNSET
    segmentation: OrUnset[str] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {
        **_COMMON,
        "show_value_as": identifier,
        "segmentation": identifier,
    }


class FunnelOptions(TypedDict, total=False):
    """
    The optional properties of `Exports.funnel`.

    Attributes:
        period_unit: the interval by which values are grouped.
        show_value_as: absolute or relative values, or both.
        segmentation: the property by which values are divided, such as ``country``.
    """

    period_unit: PeriodUnit | str
    show_value_as: ShowValueAs | str
    segmentation: str


class LtvQuery(Query, frozen=True, kw_only=True):
    """The request of `Exports.ltv`."""

    period_type: OrUnset[PeriodType | str] = UNSET
    segmentation: OrUnset[str] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {
        **_COMMON,
        "period_type": identifier,
        "segmentation": identifier,
    }


class LtvOptions(TypedDict, total=False):
    """
    The optional properties of `Exports.ltv`.

    Attributes:
        period_unit: the interval by which values are grouped.
        period_type: by renewals or by days.
        segmentation: the property by which values are divided, such as ``country``.
    """

    period_unit: PeriodUnit | str
    period_type: PeriodType | str
    segmentation: str


class RetentionQuery(Query, frozen=True, kw_only=True):
    """The request of `Exports.retention`."""

    period_type: OrUnset[PeriodType | str] = UNSET
    segmentation: OrUnset[str] = UNSET
    use_trial: OrUnset[bool] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {
        **_COMMON,
        "period_type": identifier,
        "segmentation": identifier,
        "use_trial": boolean,
    }


class RetentionOptions(TypedDict, total=False):
    """
    The optional properties of `Exports.retention`.

    Attributes:
        period_unit: the interval by which values are grouped.
        period_type: by renewals or by days. Only Adapty's example has it; its schema does not.
        segmentation: the property by which values are divided, such as ``country``.
        use_trial: whether a trial counts; the server's default is that it does not.
    """

    period_unit: PeriodUnit | str
    period_type: PeriodType | str
    segmentation: str
    use_trial: bool


class PlacementsQuery(RequestStruct, frozen=True, kw_only=True):
    """The request of `Exports.placements`."""

    filters: PlacementFilters
    format: OrUnset[str] = UNSET

    rules: ClassVar[Mapping[str, Check]] = {"filters": instance_of(PlacementFilters)}
