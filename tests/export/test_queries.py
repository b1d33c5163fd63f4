"""The requests of exports: what is validated, and the JSON that is sent."""

from __future__ import annotations

import datetime as dt
import inspect
import zoneinfo
from collections import UserList
from typing import Any

import msgspec
import pytest

from adapty_async import AdaptyExportClient, ConfigError, InvalidInputError
from adapty_async import export as package
from adapty_async.export import (
    Chart,
    DateType,
    Exports,
    Filters,
    PeriodUnit,
    PlacementFilters,
    _queries,
)
from adapty_async.testing import FakeTransport

YEAR = ("2025-01-01", "2025-12-31")
OPTIONS = [name for name in package.__all__ if name.endswith("Options")]


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("date", "2025-01-01", "must be a pair"),
        ("date", ("2025-01-01",), "must be a pair"),
        ("date", ("2025-01-01", "2024-12-31"), "must not end before it begins"),
        ("compare_date", ("1", "2025-12-31"), r"must be a date"),
        ("date", (dt.datetime(2025, 1, 1, tzinfo=dt.UTC), "2025-12-31"), "without a time"),
        ("country", "us", "must be a list of text"),
        ("store", ["app_store", 5], "must be text"),
        ("offer_id", [" "], "must not begin or end with a blank"),
    ],
    ids=str,
)
def test_a_filter_is_validated(field: str, value: Any, rule: str) -> None:
    """A wrong filter is an error that names it and its rule."""
    with pytest.raises(InvalidInputError, match=rf"^{field}(\[\d\])?: .*{rule}"):
        Filters(**{"date": YEAR, field: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"country": ["usa"]}, r"filters\.country\[0\]: must be a two-letter"),
        ({"store_product_id": ["app_store:a", "b"]}, r"filters\.store_product_id\[1\]: .*<store>"),
    ],
    ids=["country", "product"],
)
async def test_documented_rules_can_be_left_to_the_server(
    change: dict[str, Any], message: str
) -> None:
    """A rule of Adapty's documentation is an error before anything is sent, if validated."""
    filters = Filters(date=YEAR, **change)
    transport = FakeTransport([(200, {}, b'{"data":[]}')])
    async with AdaptyExportClient("key", transport=transport) as export:
        with pytest.raises(InvalidInputError, match=message):
            await export.funnel(filters=filters)
    assert not transport.requests
    async with AdaptyExportClient("key", transport=transport, validate=False) as export:
        await export.funnel(filters=filters)
    assert len(transport.requests) == 1


async def sent(**options: Any) -> tuple[Any, dict[str, str]]:
    """Return the JSON and the headers of an analytics request."""
    transport = FakeTransport([(200, {}, b'{"data":{}}')])
    async with AdaptyExportClient("key", transport=transport) as export:
        await export.analytics(**{"chart_id": "mrr", "filters": Filters(date=YEAR), **options})
    [request] = transport.requests
    return msgspec.json.decode(request.body or b""), request.headers


async def test_what_is_not_given_is_not_sent() -> None:
    """The body has the chart and the dates alone; the server has its own defaults."""
    body, headers = await sent()

    assert body == {"chart_id": "mrr", "filters": {"date": ["2025-01-01", "2025-12-31"]}}
    assert "Adapty-Tz" not in headers
    assert headers["Authorization"] == "Api-Key key"


async def test_all_kinds_of_values_are_sent() -> None:
    """Enumerations, unknown words, dates and lists are sent as the document shows them."""
    filters = Filters(
        date=(dt.date(2025, 1, 1), "2025-12-31"),
        compare_date=["2024-01-01", dt.date(2024, 12, 31)],  # type: ignore[arg-type]
        country=("us", "de"),
        attribution_status=["organic"],
    )
    body, headers = await sent(
        chart_id=Chart.REVENUE,
        filters=filters,
        period_unit=PeriodUnit.WEEK,
        date_type="something_new",
        segmentation="country",
        tz=zoneinfo.ZoneInfo("Europe/Berlin"),
    )

    assert body == {
        "chart_id": "revenue",
        "filters": {
            "date": ["2025-01-01", "2025-12-31"],
            "compare_date": ["2024-01-01", "2024-12-31"],
            "country": ["us", "de"],
            "attribution_status": ["organic"],
        },
        "period_unit": "week",
        "date_type": "something_new",
        "segmentation": "country",
    }
    assert headers["Adapty-Tz"] == "Europe/Berlin"


async def test_any_sequence_is_sent_as_a_list() -> None:
    """A list may be whatever its annotation allows, such as a range of days."""
    transport = FakeTransport([(200, {}, b'{"data":[]}')])
    filters = Filters(date=YEAR, store=UserList(["app_store"]))
    async with AdaptyExportClient("key", transport=transport) as export:
        await export.cohort(filters=filters, period_type="days", renewal_days=range(0, 21, 7))

    body = msgspec.json.decode(transport.requests[0].body or b"")
    assert (body["renewal_days"], body["filters"]["store"]) == ([0, 7, 14], ["app_store"])


@pytest.mark.parametrize("state", [1, "1", None], ids=repr)
async def test_a_state_is_sent_as_it_is_given(state: str | int | None) -> None:
    """A conversion begins with text or null, as in the schema, or a number, as in its example."""
    transport = FakeTransport([(200, {}, b'{"data":{}}')])
    async with AdaptyExportClient("key", transport=transport) as export:
        await export.conversion(filters=Filters(date=YEAR), from_period=state, to_period="6+")

    body = msgspec.json.decode(transport.requests[0].body or b"")
    assert (body["from_period"], body["to_period"]) == (state, "6+")


@pytest.mark.parametrize(
    "tz",
    ["Mars/Base", "America", "leapseconds", "../UTC", "", 5, "Europe/Berlin\r\nX: y"],
    ids=repr,
)
def test_a_time_zone_is_validated(tz: Any) -> None:
    """A name that is no IANA time zone is an error before anything is sent."""
    export = AdaptyExportClient("key")

    with pytest.raises(InvalidInputError, match=r"^tz: must be the IANA name"):
        export.retention(filters=Filters(date=YEAR), tz=tz)


def test_without_a_database_any_name_is_a_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without time zones leaves the name to the server."""
    monkeypatch.setattr(zoneinfo, "available_timezones", set)

    AdaptyExportClient("key").retention(filters=Filters(date=YEAR), tz="Mars/Base")


def test_options_are_validated() -> None:
    """A value of the wrong type, an unknown option and an unknown format are errors."""
    export: Any = AdaptyExportClient("key")
    filters = Filters(date=YEAR)

    with pytest.raises(InvalidInputError, match=r"filters: must be a export.Filters"):
        export.cohort(filters={"date": YEAR})
    with pytest.raises(InvalidInputError, match="format: must be one of json, csv"):
        export.cohort(filters=filters, format="xlsx")
    with pytest.raises(InvalidInputError, match=r"renewal_days\[1\]: must be a whole number"):
        export.cohort(filters=filters, renewal_days=[0, -1])
    with pytest.raises(InvalidInputError, match="prediction_months: must be a whole number"):
        export.cohort(filters=filters, prediction_months=True)
    with pytest.raises(InvalidInputError, match="renewal_days: must be a list of whole numbers"):
        export.cohort(filters=filters, renewal_days=7)
    with pytest.raises(InvalidInputError, match="from_period: must be text"):
        export.conversion(filters=filters, from_period=True, to_period="6+")
    with pytest.raises(InvalidInputError, match="use_trial: must be True or False"):
        export.retention(filters=filters, use_trial="yes")
    with pytest.raises(TypeError, match="period"):
        export.ltv(filters=filters, period=DateType.PURCHASE_DATE)
    with pytest.raises(InvalidInputError, match="placement_type: must be text"):
        PlacementFilters(placement_type=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OPTIONS)
def test_the_options_are_the_properties_of_the_request(name: str) -> None:
    """The options of a method and its own parameters are all fields of its request, once each."""
    options = getattr(_queries, name)
    kind = name.removesuffix("Options")
    fields = getattr(_queries, f"{kind}Query").__struct_fields__
    own = inspect.signature(getattr(Exports, kind.lower())).parameters.keys()

    assert sorted([*options.__annotations__, *own - {"self", "tz", "options"}]) == sorted(fields)
    assert all(f"{option}: " in options.__doc__ for option in options.__annotations__)


def test_every_endpoint_is_a_read() -> None:
    """All seven have one bucket and may always be retried."""
    endpoints = [getattr(package, name) for name in package.__all__ if name.isupper()]

    assert len({endpoint.path for endpoint in endpoints}) == 7
    assert {endpoint.bucket for endpoint in endpoints} == {"export"}
    assert {endpoint.retry_safety for endpoint in endpoints} == {"always"}


def test_the_key_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client has the key of the server-side API, and an origin of its own."""
    with pytest.raises(ConfigError, match="ADAPTY_API_KEY"):
        AdaptyExportClient()
    monkeypatch.setenv("ADAPTY_API_KEY", "key")
    assert AdaptyExportClient().origin == "https://api-admin.adapty.io"
    monkeypatch.setenv("ADAPTY_EXPORT_BASE_URL", "http://localhost:1")
    assert AdaptyExportClient().origin == "http://localhost:1"
