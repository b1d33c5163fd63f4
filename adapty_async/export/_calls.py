"""The endpoint table of the export analytics API, and its methods."""

# ruff: noqa: A002  the parameters have the names of Adapty's properties, such as format

from __future__ import annotations

import functools
import re
import zoneinfo
from collections.abc import Collection
from typing import Any, Literal, TypeVar, Unpack, overload

import msgspec

from adapty_async._api.call import Endpoint, Operation, RetrySafety
from adapty_async._api.codec import to_json
from adapty_async._api.results import data_decoder, nonempty_decoder
from adapty_async._api.validation import one_of, struct_in
from adapty_async.errors import InvalidInputError
from adapty_async.export._exports import CsvExport, JsonExport, Plan, Stream
from adapty_async.export._queries import (
    AnalyticsOptions,
    AnalyticsQuery,
    Chart,
    CohortOptions,
    CohortQuery,
    ConversionOptions,
    ConversionQuery,
    Filters,
    FunnelOptions,
    FunnelQuery,
    LtvOptions,
    LtvQuery,
    PlacementFilters,
    PlacementsQuery,
    Query,
    RetentionOptions,
    RetentionQuery,
)
from adapty_async.export._results import (
    AnalyticsResult,
    CohortResult,
    ConversionResult,
    FunnelResult,
    LtvResult,
    PlacementsResult,
    RetentionResult,
)
from adapty_async.export._sinks import csv_head, json_head

T = TypeVar("T")

Format = Literal["json", "csv"]
#: A time zone by its IANA name, such as ``Europe/Berlin``, or as an object with that name.
TimeZone = str | zoneinfo.ZoneInfo

_DOCS = "https://adapty.io/docs/api-export-analytics/operations"
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")


def _check(operation: Operation[Any]) -> None:
    struct_in("filters", operation.body.filters)


def _endpoint(
    name: str, path: str, page: str, result: type[T], requires: Collection[str] = ("data",)
) -> Endpoint[T]:
    """
    Return the definition of an endpoint.

    Args:
        name: the name of the method.
        path: the end of the path.
        page: the page of Adapty's documentation.
        result: the type of the result.
        requires: fields without which a response does not count as a result without rows.
    """
    return Endpoint(
        name=f"export.{name}",
        method="POST",
        path=f"/api/v1/client-api/{path}/",
        docs=f"{_DOCS}/{page}",
        retry_safety=RetrySafety.ALWAYS,  # a read
        bucket="export",
        decode=nonempty_decoder(data_decoder(result, unwrap=False, requires=requires)),
        encode=to_json,
        check=None if name == "placements" else _check,
    )


ANALYTICS = _endpoint("analytics", "metrics/analytics", "retrieveAnalyticsData", AnalyticsResult)
COHORT = _endpoint("cohort", "metrics/cohort", "retrieveCohortData", CohortResult)
CONVERSION = _endpoint(
    "conversion", "metrics/conversion", "retrieveConversionData", ConversionResult
)
FUNNEL = _endpoint("funnel", "metrics/funnel", "retrieveFunnelData", FunnelResult)
LTV = _endpoint("ltv", "metrics/ltv", "retrieveLTVData", LtvResult, ["revenue"])
RETENTION = _endpoint("retention", "metrics/retention", "retrieveRetentionData", RetentionResult)
PLACEMENTS = _endpoint(
    "placements", "exports/placements", "retrievePlacementInfo", PlacementsResult
)


def _zone_headers(tz: TimeZone | None) -> tuple[tuple[str, str], ...]:
    if tz is None:
        return ()
    name = tz.key if isinstance(tz, zoneinfo.ZoneInfo) else tz
    if not isinstance(name, str) or not _ZONE.fullmatch(name) or not _is_zone(name):
        raise InvalidInputError("tz", "must be the IANA name of a time zone, such as Europe/Berlin")
    return (("Adapty-Tz", name),)


def _is_zone(name: str) -> bool:
    """Return whether a time zone is known, or nothing is known about time zones."""
    try:
        zoneinfo.ZoneInfo(name)
    except (LookupError, OSError, ValueError):  # none, a folder such as America, another file
        return not zoneinfo.available_timezones()  # it reads every file of the database
    return True


class Exports:
    """
    A resource of the seven exports. All parameters have the names of Adapty's properties.

    A method returns an export, which is sent when it is awaited, iterated or written. With
    ``format="json"``, the default, the export is a `JsonExport`; with ``format="csv"`` it is a
    `CsvExport`. `tz` is the time zone by which Adapty groups the data.
    """

    _stream: Stream

    def _export(
        self,
        endpoint: Endpoint[T],
        query: Query | PlacementsQuery,
        form: Format,
        tz: TimeZone | None,
    ) -> JsonExport[T] | CsvExport:
        one_of("json", "csv")("format", form)
        headers = _zone_headers(tz)
        if form == "json":
            plan = Plan(endpoint=endpoint, query=query, headers=headers)
            head = functools.partial(json_head, endpoint.decode)
            return JsonExport(self._stream, (plan,), head)
        query = msgspec.structs.replace(query, format="csv")
        plan = Plan(endpoint=endpoint, query=query, headers=headers)
        return CsvExport(self._stream, (plan,), csv_head)

    @overload
    def analytics(
        self,
        *,
        chart_id: Chart | str,
        filters: Filters,
        format: Literal["json"] = ...,
        tz: TimeZone | None = ...,
        **options: Unpack[AnalyticsOptions],
    ) -> JsonExport[AnalyticsResult]: ...

    @overload
    def analytics(
        self,
        *,
        chart_id: Chart | str,
        filters: Filters,
        format: Literal["csv"],
        tz: TimeZone | None = ...,
        **options: Unpack[AnalyticsOptions],
    ) -> CsvExport: ...

    def analytics(
        self,
        *,
        chart_id: Chart | str,
        filters: Filters,
        format: Format = "json",
        tz: TimeZone | None = None,
        **options: Unpack[AnalyticsOptions],
    ) -> JsonExport[AnalyticsResult] | CsvExport:
        """
        Return a chart, by the date of the transactions.

        Args:
            chart_id: a `Chart`, or the id of another chart.
            filters: the range of dates, and further filters.
            format: ``"json"`` or ``"csv"``.
            tz: the time zone by which the data is grouped.
            options: see `AnalyticsOptions`.

        Raises:
            InvalidInputError: a value is invalid.

        Source: https://adapty.io/docs/api-export-analytics/operations/retrieveAnalyticsData
        """
        query = AnalyticsQuery(chart_id=chart_id, filters=filters, **options)
        return self._export(ANALYTICS, query, format, tz)

    @overload
    def cohort(
        self,
        *,
        filters: Filters,
        format: Literal["json"] = ...,
        tz: TimeZone | None = ...,
        **options: Unpack[CohortOptions],
    ) -> JsonExport[CohortResult]: ...

    @overload
    def cohort(
        self,
        *,
        filters: Filters,
        format: Literal["csv"],
        tz: TimeZone | None = ...,
        **options: Unpack[CohortOptions],
    ) -> CsvExport: ...

    def cohort(
        self,
        *,
        filters: Filters,
        format: Format = "json",
        tz: TimeZone | None = None,
        **options: Unpack[CohortOptions],
    ) -> JsonExport[CohortResult] | CsvExport:
        """
        Return cohorts, by the date on which their users installed the app.

        Args:
            filters: the range of dates, and further filters.
            format: ``"json"`` or ``"csv"``.
            tz: the time zone by which the data is grouped.
            options: see `CohortOptions`.

        Raises:
            InvalidInputError: a value is invalid.

        Source: https://adapty.io/docs/api-export-analytics/operations/retrieveCohortData
        """
        query = CohortQuery(filters=filters, **options)
        return self._export(COHORT, query, format, tz)

    @overload
    def conversion(
        self,
        *,
        filters: Filters,
        from_period: str | int | None,
        to_period: str,
        format: Literal["json"] = ...,
        tz: TimeZone | None = ...,
        **options: Unpack[ConversionOptions],
    ) -> JsonExport[ConversionResult]: ...

    @overload
    def conversion(
        self,
        *,
        filters: Filters,
        from_period: str | int | None,
        to_period: str,
        format: Literal["csv"],
        tz: TimeZone | None = ...,
        **options: Unpack[ConversionOptions],
    ) -> CsvExport: ...

    def conversion(
        self,
        *,
        filters: Filters,
        from_period: str | int | None,
        to_period: str,
        format: Format = "json",
        tz: TimeZone | None = None,
        **options: Unpack[ConversionOptions],
    ) -> JsonExport[ConversionResult] | CsvExport:
        """
        Return the conversion from one state of a subscription to another.

        Args:
            filters: the range of dates, and further filters.
            from_period: the state before, such as ``"1"`` for the first payment; None is
                allowed, but its meaning is not documented.
            to_period: the state afterwards, such as ``"6+"``.
            format: ``"json"`` or ``"csv"``.
            tz: the time zone by which the data is grouped.
            options: see `ConversionOptions`.

        Raises:
            InvalidInputError: a value is invalid.

        Source: https://adapty.io/docs/api-export-analytics/operations/retrieveConversionData
        """
        query = ConversionQuery(
            filters=filters, from_period=from_period, to_period=to_period, **options
        )
        return self._export(CONVERSION, query, format, tz)

    @overload
    def funnel(
        self,
        *,
        filters: Filters,
        format: Literal["json"] = ...,
        tz: TimeZone | None = ...,
        **options: Unpack[FunnelOptions],
    ) -> JsonExport[FunnelResult]: ...

    @overload
    def funnel(
        self,
        *,
        filters: Filters,
        format: Literal["csv"],
        tz: TimeZone | None = ...,
        **options: Unpack[FunnelOptions],
    ) -> CsvExport: ...

    def funnel(
        self,
        *,
        filters: Filters,
        format: Format = "json",
        tz: TimeZone | None = None,
        **options: Unpack[FunnelOptions],
    ) -> JsonExport[FunnelResult] | CsvExport:
        """
        Return the funnel from the installation through the payments.

        Args:
            filters: the range of dates, and further filters.
            format: ``"json"`` or ``"csv"``.
            tz: the time zone by which the data is grouped.
            options: see `FunnelOptions`.

        Raises:
            InvalidInputError: a value is invalid.

        Source: https://adapty.io/docs/api-export-analytics/operations/retrieveFunnelData
        """
        query = FunnelQuery(filters=filters, **options)
        return self._export(FUNNEL, query, format, tz)

    @overload
    def ltv(
        self,
        *,
        filters: Filters,
        format: Literal["json"] = ...,
        tz: TimeZone | None = ...,
        **options: Unpack[LtvOptions],
    ) -> JsonExport[LtvResult]: ...

    @overload
    def ltv(
        self,
        *,
        filters: Filters,
        format: Literal["csv"],
        tz: TimeZone | None = ...,
        **options: Unpack[LtvOptions],
    ) -> CsvExport: ...

    def ltv(
        self,
        *,
        filters: Filters,
        format: Format = "json",
        tz: TimeZone | None = None,
        **options: Unpack[LtvOptions],
    ) -> JsonExport[LtvResult] | CsvExport:
        """
        Return the lifetime value of subscribers.

        Args:
            filters: the range of dates, and further filters.
            format: ``"json"`` or ``"csv"``.
            tz: the time zone by which the data is grouped.
            options: see `LtvOptions`.

        Raises:
            InvalidInputError: a value is invalid.

        Source: https://adapty.io/docs/api-export-analytics/operations/retrieveLTVData
        """
        query = LtvQuery(filters=filters, **options)
        return self._export(LTV, query, format, tz)

    @overload
    def retention(
        self,
        *,
        filters: Filters,
        format: Literal["json"] = ...,
        tz: TimeZone | None = ...,
        **options: Unpack[RetentionOptions],
    ) -> JsonExport[RetentionResult]: ...

    @overload
    def retention(
        self,
        *,
        filters: Filters,
        format: Literal["csv"],
        tz: TimeZone | None = ...,
        **options: Unpack[RetentionOptions],
    ) -> CsvExport: ...

    def retention(
        self,
        *,
        filters: Filters,
        format: Format = "json",
        tz: TimeZone | None = None,
        **options: Unpack[RetentionOptions],
    ) -> JsonExport[RetentionResult] | CsvExport:
        """
        Return the retention of subscribers.

        Args:
            filters: the range of dates, and further filters.
            format: ``"json"`` or ``"csv"``.
            tz: the time zone by which the data is grouped.
            options: see `RetentionOptions`.

        Raises:
            InvalidInputError: a value is invalid.

        Source: https://adapty.io/docs/api-export-analytics/operations/retrieveRetentionData
        """
        query = RetentionQuery(filters=filters, **options)
        return self._export(RETENTION, query, format, tz)

    @overload
    def placements(
        self,
        *,
        filters: PlacementFilters,
        format: Literal["json"] = ...,
        tz: TimeZone | None = ...,
    ) -> JsonExport[PlacementsResult]: ...

    @overload
    def placements(
        self,
        *,
        filters: PlacementFilters,
        format: Literal["csv"],
        tz: TimeZone | None = ...,
    ) -> CsvExport: ...

    def placements(
        self,
        *,
        filters: PlacementFilters,
        format: Format = "json",
        tz: TimeZone | None = None,
    ) -> JsonExport[PlacementsResult] | CsvExport:
        """
        Return the placements with their paywalls or onboardings, audiences and A/B tests.

        Adapty's documentation shows no way to ask for CSV here; ``format`` is sent as elsewhere.

        Args:
            filters: the kind of the placements.
            format: ``"json"`` or ``"csv"``.
            tz: the time zone by which the data is grouped.

        Raises:
            InvalidInputError: a value is invalid.

        Source: https://adapty.io/docs/api-export-analytics/operations/retrievePlacementInfo
        """
        query = PlacementsQuery(filters=filters)
        return self._export(PLACEMENTS, query, format, tz)
