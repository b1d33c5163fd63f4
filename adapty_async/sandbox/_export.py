"""
The service of the export analytics API, with invented numbers that follow from seed and request.

The documentation does not show a CSV response, so the columns are the sandbox's own: there is a
header, and one row for each period and segment.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date, timedelta
from itertools import islice
from typing import Any, NamedTuple
from zoneinfo import available_timezones

from . import _rules
from ._rules import Invalid, Problem, Required, Rule
from ._service import Call, Refusal, Response, Service, json_response, read
from ._v2_rules import integer, list_of, nullable

Row = dict[str, Any]

_BASE = "/api/v1/client-api"
_ROWS_PER_BLOCK = 1000
_CHARTS = (
    "revenue",
    "mrr",
    "arr",
    "arppu",
    "subscriptions_active",
    "subscriptions_new",
    "subscriptions_renewal_cancelled",
    "subscriptions_expired",
    "trials_active",
    "trials_new",
    "trials_renewal_cancelled",
    "trials_expired",
    "grace_period",
    "billing_issue",
    "refund_events",
    "refund_money",
    "non_subscriptions",
    "arpu",
    "installs",
)
_LISTS = (
    "store",
    "country",
    "duration",
    "attribution_source",
    "attribution_status",
    "attribution_channel",
    "attribution_campaign",
    "attribution_adgroup",
    "attribution_adset",
    "attribution_creative",
    "offer_category",
    "offer_type",
    "offer_id",
)
_MONEY = ("revenue", "proceeds", "net_revenue")
_PREDICTION_MONTHS = (3, 6, 9, 12, 18, 24)
_STAGES = ("Install", "Paywall displayed", "Trial", "Paid", "Renewal 2", "Renewal 3")


def _dates(value: Any) -> list[str]:
    dates = list_of(_rules.birthday)(value)
    if not 1 <= len(dates) <= 2:
        raise _rules.wrong("Input should be a date or a period of two dates")
    if dates[0] > dates[-1]:
        raise _rules.wrong("The period should not end before it begins")
    return [dates[0], dates[-1]]


_text_or_null = nullable(_rules.text)


def _period(value: Any) -> Any:
    # The schema has text or null, the example a number.
    return integer(value) if isinstance(value, int) else _text_or_null(value)


def _months(value: Any) -> int:
    if value not in _PREDICTION_MONTHS:
        raise _rules.wrong(f"Input should be one of {', '.join(map(str, _PREDICTION_MONTHS))}")
    return integer(value)


_product = _rules.matching(r"[^:]+:.+", "Input should be a store and a product id")
_country = _rules.matching(r"[A-Za-z]{2}", "Input should be a 2-letter country code")
_filters = _rules.record(
    {
        "date": Required(_dates),
        "compare_date": _dates,
        **dict.fromkeys(_LISTS, list_of(_rules.text)),
        "country": list_of(_country),
        "store_product_id": list_of(_product),
    }
)
_period_unit = _rules.one_of("day", "week", "month", "quarter", "year")
_date_type = _rules.one_of("purchase_date", "profile_install_date")
_period_type = _rules.one_of("renewals", "days")
_COMMON: dict[str, Rule | Required] = {
    "filters": Required(_filters),
    "period_unit": _period_unit,
    "format": _rules.one_of("json", "csv"),
}


class _Kind(NamedTuple):
    """A kind of export: the rule of its request, its rows, and its JSON from the rows."""

    check: Rule
    rows: Callable[[Numbers, dict[str, Any]], Iterator[Row]]
    view: Callable[[dict[str, Any], list[Row]], Any]


class Numbers:
    """A source of numbers that depend on a seed and on names only."""

    def __init__(self, seed: int, segments: int) -> None:
        """Set the seed, and the number of segments of each period."""
        self._seed = seed
        self.segments = segments

    def count(self, *names: object) -> int:
        """Return a number from 0 to 999."""
        return zlib.crc32(f"{self._seed}/{names}".encode()) % 1000

    def money(self, *names: object) -> float:
        """Return an amount below 1,000 dollars."""
        return self.count(*names) + self.count("cents", *names) % 100 / 100


class Export(Service):
    """The service of one operation of the export analytics API."""

    name = "export"

    def __init__(self, authorization: str, kind: _Kind, numbers: Numbers) -> None:
        super().__init__(authorization, {"POST": self._export})
        self._kind = kind
        self._numbers = numbers

    def _export(self, call: Call) -> Response:
        _check_zone(call.headers.get("Adapty-Tz"))
        query = read(call, self._kind.check)
        rows = self._kind.rows(self._numbers, query)
        if query.get("format") == "csv":
            return Response(200, media_type="text/csv", blocks=_csv(rows))
        return json_response(200, self._kind.view(query, list(rows)))

    def error(self, refusal: Refusal) -> Response:
        """Return the refusal as an error body; the documentation shows none for 429."""
        return Response(429) if refusal.status == 429 else super().error(refusal)


def services(authorization: str, numbers: Numbers) -> dict[str, Service]:
    """Return the services by path."""
    return {path: Export(authorization, kind, numbers) for path, kind in _KINDS.items()}


def _check_zone(name: str | None) -> None:
    if name is None:
        return
    zones = available_timezones()  # none on a machine without a database, such as Windows
    if zones and name not in zones:
        raise Invalid(Problem("Input should be an IANA time zone", "Adapty-Tz"))


def _csv(rows: Iterator[Row]) -> Iterator[bytes]:
    text = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    while block := list(islice(rows, _ROWS_PER_BLOCK)):
        if writer is None:
            writer = csv.DictWriter(text, tuple(block[0]), lineterminator="\n")
            writer.writeheader()
        writer.writerows(block)
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()


def _periods(query: dict[str, Any]) -> Iterator[str]:
    first, last = map(date.fromisoformat, query["filters"]["date"])
    unit = query.get("period_unit", "month")
    day = first
    with suppress(OverflowError, ValueError):  # the year 9999 is the last one
        while day <= last:
            yield day.isoformat()
            day = _next(day, unit)


def _next(day: date, unit: str) -> date:
    """Return the first day of the next day, week, month, quarter or year."""
    if unit in ("day", "week"):
        return day + timedelta(days=1 if unit == "day" else 7 - day.weekday())
    months = {"month": 1, "quarter": 3, "year": 12}[unit]
    number = (day.year * 12 + day.month - 1) // months * months + months
    return date(number // 12, number % 12 + 1, 1)


def _segments(numbers: Numbers, query: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each period with each segment."""
    by = query.get("segmentation", "segment")
    for day in _periods(query):
        for number in range(1, numbers.segments + 1):
            yield day, f"{by} {number}"


def _analytics(numbers: Numbers, query: dict[str, Any]) -> Iterator[Row]:
    chart = query["chart_id"]
    metrics = _MONEY if chart == "revenue" else (chart,)
    for day, segment in _segments(numbers, query):
        values = {name: numbers.money(name, day, segment) for name in metrics}
        yield {"date": day, "segment": segment, **values}


def _metric(title: str, unit: str, data: list[Row], key: str) -> Row:
    points = [{"date": row["date"], "title": row["segment"], "value": row[key]} for row in data]
    return {
        "data": points,
        "value": round(sum(point["value"] for point in points), 2),
        "value_from": None,
        "value_to": None,
        "compare_value_from": None,
        "compare_value_to": None,
        "title": title,
        "type": "multi",
        "default_aggregation": "sum",
        "description": f"<div>{title}</div>",
        "metric_name": title.capitalize(),
        "is_json": True,
        "unit": unit,
        "recommended_period": None,
    }


def _analytics_view(query: dict[str, Any], rows: list[Row]) -> Row:
    chart = query["chart_id"]
    names = _MONEY if chart == "revenue" else (chart,)
    return {"data": {name: _metric(chart, "USD", rows, name) for name in names}}


_PER_USER = ("arpas", "appas", "anrpas", "anrppu", "apppu", "arppu", "anrpu", "appu", "arpu")


def _cohort(numbers: Numbers, query: dict[str, Any]) -> Iterator[Row]:
    for day in _periods(query):
        for period in range(1, 4):
            names = ("installs", "subscriptions", "subscribers")
            counts = {name: numbers.count(name, day, period) for name in names}
            money = {f"{name}_usd": numbers.money(name, day, period) for name in _MONEY}
            yield {"segment_start_date": day, "period": period, **counts, **money}


def _cohort_view(_query: dict[str, Any], rows: list[Row]) -> Row:
    segments: dict[str, list[Row]] = {}
    for row in rows:
        segments.setdefault(row["segment_start_date"], []).append(row)
    return {"data": [_cohort_segment(day, values) for day, values in segments.items()]}


def _cohort_segment(day: str, values: list[Row]) -> Row:
    def total(name: str) -> float:
        values_of_name: list[float] = [row[name] for row in values]
        return round(sum(values_of_name), 2)

    return {
        "segment_start_date": day,
        "type": "single",
        "title": day,
        "total_installs": total("installs"),
        "total_subscriptions": total("subscriptions"),
        "total_paid_subscribers": total("subscribers"),
        **{f"total_{name}_usd": total(f"{name}_usd") for name in _MONEY},
        **{f"total_{name}_usd": 0.0 for name in _PER_USER},
        "predict": None,
        "values": [_cohort_value(row) for row in values],
    }


def _cohort_value(row: Row) -> Row:
    return {
        **{name: value for name, value in row.items() if name != "segment_start_date"},
        **{f"{name}_usd": 0.0 for name in _PER_USER},
        **{f"{name}_relative": 100.0 for name in (*_MONEY, "subscriptions", "subscribers")},
        "currently_active_period": False,
    }


def _conversion(numbers: Numbers, query: dict[str, Any]) -> Iterator[Row]:
    states = query["from_period"], query["to_period"]
    for day, segment in _segments(numbers, query):
        value = numbers.count(*states, day, segment) / 10
        yield {"date": day, "segment": segment, "conversion": value}


def _conversion_view(query: dict[str, Any], rows: list[Row]) -> Row:
    title = f"Conversion rate from {query['from_period']} to {query['to_period']}"
    metric = _metric(title, "percent", rows, "conversion")
    period = {"date_from": "2018-04-29", "date_to": "2024-12-31", "period_unit": "month"}
    return {**metric, "value_from": 0, "value_to": 0, "recommended_period": period}


def _funnel(numbers: Numbers, query: dict[str, Any]) -> Iterator[Row]:
    day = query["filters"]["date"][0]
    first = 1000 + numbers.count("funnel", day)
    for index, title in enumerate(_STAGES):
        value = first >> index
        yield {
            "period": index - 2,
            "title": title,
            "value": value,
            "value_relative": round(100 * value / first, 2),
        }


def _funnel_view(_query: dict[str, Any], rows: list[Row]) -> Row:
    changes = {"title": "Drop off", "value": 0, "value_relative": 0.0}
    more = {
        "relative_changes": 0.0,
        "following_changes": changes,
        "churn_reason_title": "",
        "churn_reasons": [],
        "values": [],
    }
    values = [{**row, **more} for row in rows]
    return {"data": [{"title": "Total", "type": "total", "values": values}]}


def _ltv(numbers: Numbers, query: dict[str, Any]) -> Iterator[Row]:
    for day, segment in _segments(numbers, query):
        values = {name: numbers.money("ltv", name, day, segment) for name in _MONEY}
        size = numbers.count("ltv", day, segment)
        yield {"date": day, "segment": segment, "cohort_size": size, **values}


def _ltv_view(_query: dict[str, Any], rows: list[Row]) -> Row:
    def metric(name: str) -> Row:
        data = [
            {
                "title": row["segment"],
                "type": "single",
                "value": row[name],
                "values": [],
                "cohort_size": row["cohort_size"],
            }
            for row in rows
        ]
        value = data[0]["value"]
        return {"data": data, "description": "", "value": value, "unit": "USD", "title": "LTV"}

    return {name: metric(name) for name in _MONEY}


def _retention(numbers: Numbers, query: dict[str, Any]) -> Iterator[Row]:
    for day, segment in _segments(numbers, query):
        value = numbers.count("retention", day, segment) / 10
        yield {"date": day, "segment": segment, "retention": value}


def _retention_view(_query: dict[str, Any], rows: list[Row]) -> Row:
    return {
        "data": rows,
        "title": "Subscription retention",
        "metric_name": "Subscription retention",
        "description": "Absolute value is the amount of users who entered the current step.",
        "value_type": None,
    }


def _placements(_numbers: Numbers, query: dict[str, Any]) -> Iterator[Row]:
    kind = query["filters"]["placement_type"]
    for number in range(1, 4):
        yield {
            "developer_id": f"placement_{number}",
            "placement_name": f"Placement {number}",
            "audience_name": "All users",
            "segment_name": "All users",
            "cross_placement_ab_test_name": None,
            "ab_test_name": None,
            f"{kind}_name": f"{kind.capitalize()} {number}",
        }


def _data(_query: dict[str, Any], rows: list[Row]) -> Row:
    return {"data": rows}


def _kind(
    rows: Callable[[Numbers, dict[str, Any]], Iterator[Row]],
    view: Callable[[dict[str, Any], list[Row]], Any],
    **fields: Rule | Required,
) -> _Kind:
    return _Kind(_rules.record({**_COMMON, **fields}), rows, view)


_placement_filters = _rules.record(
    {"placement_type": Required(_rules.one_of("paywall", "onboarding"))}
)

_KINDS = {
    f"{_BASE}/metrics/analytics/": _kind(
        _analytics,
        _analytics_view,
        chart_id=Required(_rules.one_of(*_CHARTS)),
        date_type=_date_type,
        segmentation=_rules.text,
    ),
    f"{_BASE}/metrics/cohort/": _kind(
        _cohort,
        _cohort_view,
        period_type=_period_type,
        value_type=_rules.one_of("absolute", "relative"),
        value_field=_rules.one_of(
            "revenue", "arppu", "arpu", "arpas", "subscribers", "subscriptions"
        ),
        accounting_type=_rules.one_of(*_MONEY),
        renewal_days=list_of(integer),
        prediction_months=_months,
    ),
    f"{_BASE}/metrics/conversion/": _kind(
        _conversion,
        _conversion_view,
        from_period=Required(_period),
        to_period=Required(_rules.text),
        date_type=_date_type,
        segmentation=_rules.text,
    ),
    f"{_BASE}/metrics/funnel/": _kind(
        _funnel,
        _funnel_view,
        show_value_as=_rules.one_of("absolute", "relative", "both"),
        segmentation=_rules.text,
    ),
    f"{_BASE}/metrics/ltv/": _kind(
        _ltv, _ltv_view, period_type=_period_type, segmentation=_rules.text
    ),
    f"{_BASE}/metrics/retention/": _kind(
        _retention,
        _retention_view,
        period_type=_period_type,
        segmentation=_rules.text,
        use_trial=_rules.flag,
    ),
    f"{_BASE}/exports/placements/": _kind(_placements, _data, filters=Required(_placement_filters)),
}
