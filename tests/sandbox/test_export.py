"""The export analytics API."""

from __future__ import annotations

import csv
import functools
import sys
import zoneinfo
from typing import TYPE_CHECKING, Any

import pytest

from adapty_async.sandbox import Sandbox
from adapty_async.sandbox._rate import TokenBucket
from adapty_async.testing import FakeClock

from .conftest import Api

if TYPE_CHECKING:
    from .conftest import Reply

# The request of the documentation's examples, by the last part of the path.
FILTERS = {"date": ["2024-01-01", "2024-12-31"], "country": ["us"]}
EXAMPLES: dict[str, dict[str, Any]] = {
    "metrics/analytics": {
        "chart_id": "revenue",
        "filters": FILTERS,
        "period_unit": "week",
        "segmentation": "attribution_campaign",
    },
    "metrics/cohort": {
        "filters": {**FILTERS, "store": ["app_store"]},
        "period_unit": "month",
        "period_type": "renewals",
        "value_type": "absolute",
        "value_field": "subscriptions",
    },
    "metrics/conversion": {
        "filters": FILTERS,
        "from_period": "1",
        "to_period": "6+",
        "period_unit": "month",
        "date_type": "purchase_date",
        "segmentation": "country",
        "format": "json",
    },
    "metrics/funnel": {
        "filters": {**FILTERS, "compare_date": ["2023-01-01", "2023-12-31"]},
        "period_unit": "quarter",
        "show_value_as": "absolute",
    },
    "metrics/ltv": {"filters": FILTERS, "period_unit": "quarter", "period_type": "renewals"},
    "metrics/retention": {"filters": FILTERS, "period_unit": "year", "use_trial": True},
    "exports/placements": {"filters": {"placement_type": "onboarding"}},
}


async def send(api: Api, name: str, body: Any, **headers: str) -> Reply:
    """Send a request with the key."""
    given = {
        "Authorization": f"Api-Key {api.sandbox.api_key}",
        "Content-Type": "application/json",
        **{header.replace("_", "-"): value for header, value in headers.items()},
    }
    return await api.send("POST", f"/api/v1/client-api/{name}/", body, given)


@pytest.mark.parametrize("name", EXAMPLES)
async def test_the_documented_example_has_a_response(api: Api, name: str) -> None:
    """Each operation responds in JSON by default, and the same request has the same response."""
    reply = await send(api, name, EXAMPLES[name], Adapty_Tz="Europe/Berlin")

    assert reply.status == 200, reply.body
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.body


@pytest.mark.parametrize("name", EXAMPLES)
async def test_csv_has_a_row_for_each_segment(name: str) -> None:
    """With the format csv, the response is a table, and the seed determines its values."""
    texts = []
    for seed in (1, 1, 2):
        async with Sandbox(seed=seed, export_rate=None) as sandbox:
            reply = await send(Api(sandbox), name, {**EXAMPLES[name], "format": "csv"})
        assert reply.headers["Content-Type"] == "text/csv"
        texts.append(reply.body)
    header, *rows = csv.reader(texts[0].splitlines())

    assert rows
    assert {len(row) for row in rows} == {len(header)}
    assert texts[0] == texts[1]
    assert name == "exports/placements" or texts[0] != texts[2]


async def test_a_large_response_is_streamed() -> None:
    """The number of segments makes responses as large as a test needs."""
    body = {**EXAMPLES["metrics/analytics"], "period_unit": "year", "format": "csv"}
    async with Sandbox(export_segments=2500) as sandbox:
        reply = await send(Api(sandbox), "metrics/analytics", body)

    assert len(reply.body.splitlines()) == 2501


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"chart_id": "nothing"}, "chart_id"),
        ({"filters": {}}, "filters.date"),
        ({"filters": {"date": []}}, "filters.date"),
        ({"filters": {"date": ["2024-02-30"]}}, "filters.date"),
        ({"filters": {"date": ["2024-02-02", "2024-02-01"]}}, "filters.date"),
        ({"filters": {"date": "2024-02-02"}}, "filters.date"),
        ({"filters": {**FILTERS, "country": ["usa"]}}, "filters.country"),
        ({"filters": {**FILTERS, "store_product_id": ["bare"]}}, "filters.store_product_id"),
        ({"format": "xml"}, "format"),
    ],
    ids=str,
)
async def test_a_wrong_value_is_named(api: Api, change: dict[str, Any], field: str) -> None:
    """A request that breaks the documented rules is a 400 with the field."""
    reply = await send(api, "metrics/analytics", {**EXAMPLES["metrics/analytics"], **change})

    assert reply.status == 400
    assert [each["source"] for each in reply.body["errors"]] == [field]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"filters": FILTERS, "renewal_days": [0, 7], "prediction_months": 12}, 200),
        ({"filters": FILTERS, "renewal_days": [True]}, 400),
        ({"filters": FILTERS, "prediction_months": "12"}, 400),
        ({"filters": {"date": ["2024-02-29"]}}, 200),
    ],
    ids=["valid", "boolean", "text", "a single day"],
)
async def test_numbers_of_a_cohort(api: Api, body: dict[str, Any], status: int) -> None:
    """Days and months are whole numbers."""
    reply = await send(api, "metrics/cohort", body)

    assert reply.status == status


@pytest.mark.parametrize("unit", ["day", "week", "month", "quarter", "year"])
async def test_a_period_may_end_with_the_calendar(api: Api, unit: str) -> None:
    """The last day that a date can have ends the last period."""
    body = {"filters": {"date": ["9999-12-31", "9999-12-31"]}, "period_unit": unit}

    reply = await send(api, "metrics/retention", body)

    assert [row["date"] for row in reply.body["data"]] == ["9999-12-31"]


async def test_who_may_call() -> None:
    """A wrong key, method, media type or time zone is an error of the API."""
    path = "/api/v1/client-api/metrics/funnel/"
    async with Sandbox(export_rate=None) as sandbox:
        api = Api(sandbox)
        key = {"Authorization": f"Api-Key {sandbox.api_key}"}
        assert (await api.send("POST", path, {}, {})).status == 401
        assert (await api.send("GET", path, None, key)).status == 405
        assert (await api.send("POST", path, b"{}", {**key, "Content-Type": "x/y"})).status == 415
        reply = await send(api, "metrics/funnel", EXAMPLES["metrics/funnel"], Adapty_Tz="Mars")

    assert reply.body["errors"][0]["source"] == "Adapty-Tz"


async def test_any_time_zone_is_one_without_a_database(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that knows no time zone, such as one with Windows, rejects none."""
    monkeypatch.setitem(sys.modules, "tzdata", None)
    zoneinfo.reset_tzpath([])
    try:
        reply = await send(
            api, "metrics/funnel", EXAMPLES["metrics/funnel"], Adapty_Tz="Asia/Tokyo"
        )
    finally:
        zoneinfo.reset_tzpath()

    assert reply.status == 200


async def test_the_rate_is_the_documented_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests pass, the next ones get a 429 without a body and without Retry-After."""
    at_once = functools.partial(TokenBucket, clock=FakeClock())
    monkeypatch.setattr("adapty_async.sandbox.TokenBucket", at_once)
    async with Sandbox() as sandbox:
        replies = [await send(Api(sandbox), name, EXAMPLES[name]) for name in list(EXAMPLES)[:4]]

    assert [reply.status for reply in replies[:3]] == [200, 200, 429]
    assert "Retry-After" not in replies[2].headers
    assert not replies[2].body


async def test_a_rate_below_one_export_per_second_lets_one_pass() -> None:
    """The burst is one request at least."""
    async with Sandbox(export_rate=0.001) as sandbox:
        replies = [
            await send(Api(sandbox), "metrics/funnel", EXAMPLES["metrics/funnel"]) for _ in range(2)
        ]

    assert [reply.status for reply in replies] == [200, 429]
