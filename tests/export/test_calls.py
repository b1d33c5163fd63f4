"""The seven exports against a sandbox, in each form."""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import importlib.util
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapty_async import (
    AdaptyExportClient,
    AuthenticationError,
    ConfigError,
    DecodeError,
    InvalidInputError,
    Limits,
    RequestRejectedError,
)
from adapty_async.export import (
    ANALYTICS,
    AnalyticsResult,
    CohortResult,
    ConversionResult,
    CsvExport,
    Filters,
    FunnelResult,
    JsonExport,
    LtvResult,
    PlacementFilters,
    PlacementsResult,
    RetentionResult,
)
from adapty_async.sandbox import Sandbox
from adapty_async.shared import SharedRate
from adapty_async.testing import FakeTransport
from tests._support import replace_dates

QUARTER = Filters(date=("2025-01-15", dt.date(2025, 3, 31)))
PAYWALLS = PlacementFilters(placement_type="paywall")
Begin = Callable[..., JsonExport[Any] | CsvExport]

CALLS: dict[str, tuple[type[Any], Callable[[AdaptyExportClient, Any], Any]]] = {
    "analytics": (
        AnalyticsResult,
        lambda client, form: client.analytics(chart_id="revenue", filters=QUARTER, **form),
    ),
    "cohort": (
        CohortResult,
        lambda client, form: client.cohort(
            filters=QUARTER,
            period_type="days",
            value_type="absolute",
            value_field="revenue",
            accounting_type="proceeds",
            renewal_days=(0, 7),
            prediction_months=12,
            **form,
        ),
    ),
    "conversion": (
        ConversionResult,
        lambda client, form: client.conversion(
            filters=QUARTER, from_period=None, to_period="6+", date_type="purchase_date", **form
        ),
    ),
    "funnel": (
        FunnelResult,
        lambda client, form: client.funnel(filters=QUARTER, show_value_as="both", **form),
    ),
    "ltv": (
        LtvResult,
        lambda client, form: client.ltv(filters=QUARTER, segmentation="country", **form),
    ),
    "retention": (
        RetentionResult,
        lambda client, form: client.retention(filters=QUARTER, use_trial=True, **form),
    ),
    "placements": (
        PlacementsResult,
        lambda client, form: client.placements(filters=PAYWALLS, **form),
    ),
}
every_call = pytest.mark.parametrize("name", CALLS)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Run a sandbox that throttles no export."""
    async with Sandbox(export_rate=None, export_segments=2) as running:
        yield running


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[AdaptyExportClient]:
    """Return a client of the sandbox without a relevant rate limit."""
    limits = Limits(rate=10_000.0)
    async with AdaptyExportClient(sandbox.api_key, base_url=sandbox.url, limits=limits) as client:
        yield client


@every_call
async def test_json_is_typed(client: AdaptyExportClient, name: str) -> None:
    """An awaited export is a result with everything that the document shows, as documented."""
    kind, begin = CALLS[name]
    export = begin(client, {"tz": "America/New_York"})
    result = await export

    assert type(result) is kind
    assert not result.odd_fields
    assert repr(export) == f"JsonExport(export.{name})"
    assert await client.execute(export.operation) == result


@every_call
async def test_csv_has_a_header_and_rows(client: AdaptyExportClient, name: str) -> None:
    """The lines of an export are CSV for any reader."""
    export = CALLS[name][1](client, {"format": "csv"})
    header, *rows = csv.reader([line async for line in export])

    assert len(rows) >= 3
    assert {len(row) for row in rows} == {len(header)}
    assert repr(export) == f"CsvExport(export.{name}, 1 parts)"


@every_call
async def test_both_forms_are_written(
    client: AdaptyExportClient, name: str, tmp_path: Path
) -> None:
    """A file has the response as it is."""
    begin = CALLS[name][1]
    csv_file = await begin(client, {"format": "csv"}).write_to(tmp_path / "export.csv")
    json_file = await begin(client, {}).write_to(str(tmp_path / "export.json"))

    lines = [line async for line in begin(client, {"format": "csv"})]
    assert (tmp_path / "export.csv").read_text("utf-8") == "".join(lines)
    content = (tmp_path / "export.json").read_bytes()
    assert msgspec.json.decode(content)
    assert (csv_file.chunks, csv_file.size) == (1, len("".join(lines)))
    assert (json_file.path, json_file.size) == (tmp_path / "export.json", len(content))


async def test_dates_of_replaced_classes_can_be_divided(
    client: AdaptyExportClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A range of dates may be of subclasses, such as those of a clock that stands still."""
    replace_dates(monkeypatch)
    filters = Filters(date=(dt.date(2025, 1, 1), dt.date(2025, 2, 28)))
    chart = client.analytics(chart_id="mrr", filters=filters, period_unit="day")
    await chart.chunks(by="month").write_to(tmp_path / "export.json")

    lines = (tmp_path / "export.json").read_bytes().splitlines()
    assert [msgspec.json.decode(line)["date"] for line in lines] == [
        ["2025-01-01", "2025-01-31"],
        ["2025-02-01", "2025-02-28"],
    ]


async def test_the_content_is_the_sandboxes(client: AdaptyExportClient) -> None:
    """Values arrive as they were sent, in both forms."""
    chart = await client.analytics(chart_id="revenue", filters=QUARTER)
    lines = [
        line async for line in client.analytics(chart_id="revenue", filters=QUARTER, format="csv")
    ]
    rows = list(csv.DictReader(lines))

    assert list(chart.data) == ["revenue", "proceeds", "net_revenue"]
    for name, metric in chart.data.items():
        assert [each["value"] for each in metric.data] == [float(row[name]) for row in rows]
        assert metric.value == pytest.approx(sum(float(row[name]) for row in rows))
    assert [row["date"] for row in rows[::2]] == ["2025-01-15", "2025-02-01", "2025-03-01"]
    funnel = await client.funnel(filters=QUARTER)
    assert [stage.period for stage in funnel.data[0].values] == [-2, -1, 0, 1, 2, 3]


async def test_chunks_are_the_whole(client: AdaptyExportClient, tmp_path: Path) -> None:
    """Chunks of a chart are the chart: as lines, as one file, and as files of their own."""
    whole = client.analytics(
        chart_id="mrr", filters=QUARTER, period_unit="day", format="csv", tz="Europe/Berlin"
    )
    lines = [line async for line in whole]
    chunks = whole.chunks(by="month")
    await chunks.write_to(tmp_path / "export.csv")

    assert [line async for line in chunks] == lines
    assert (tmp_path / "export.csv").read_text("utf-8") == "".join(lines)
    assert [first.day for first, _ in chunks.dates] == [15, 1, 1]
    rows = []
    for number, part in enumerate(chunks.parts):
        assert part.dates == (chunks.dates[number],)
        path = tmp_path / f"{number}.csv"
        await part.write_to(path)
        rows += path.read_text("utf-8").splitlines(keepends=True)[1:]
    assert rows == lines[1:]


async def test_typed_chunks(client: AdaptyExportClient, tmp_path: Path) -> None:
    """Chunks in JSON are typed results with their dates, or lines of a file."""
    chunks = client.analytics(chart_id="mrr", filters=QUARTER).chunks(by="month")
    results = [chunk async for chunk in chunks]
    await chunks.write_to(tmp_path / "export.ndjson")

    assert repr(chunks) == "JsonChunks(export.analytics, 3 chunks)"
    assert tuple(chunk.dates for chunk in results) == chunks.dates
    lines = (tmp_path / "export.ndjson").read_bytes().splitlines()
    for chunk, line in zip(results, lines, strict=True):
        content = msgspec.json.decode(line)
        assert content["date"] == [day.isoformat() for day in chunk.dates]
        assert content["response"]["data"]["mrr"]["value"] == chunk.result.data["mrr"].value


async def test_placements_have_no_chunks(client: AdaptyExportClient) -> None:
    """An export without dates cannot be divided, and has no dates."""
    export = client.placements(filters=PAYWALLS, format="csv")

    assert export.dates == ()
    with pytest.raises(InvalidInputError, match="placements have no dates"):
        export.chunks(by="month")


async def test_tables(client: AdaptyExportClient) -> None:
    """A table has the rows of all chunks, and the types of their columns."""
    pytest.importorskip("pyarrow", reason="an extra")
    pytest.importorskip("polars", reason="an extra")
    export = client.analytics(
        chart_id="mrr", filters=QUARTER, period_unit="day", format="csv"
    ).chunks(by="month")
    table, frame = await export.to_arrow(), await export.to_polars()

    assert table.num_rows == frame.height == 2 * 76
    assert str(table.schema.field("mrr").type) == "double"
    assert table.column("mrr").to_pylist() == frame["mrr"].to_list()
    assert frame.columns == ["date", "segment", "mrr"]


async def test_a_country_is_never_null() -> None:
    """The country code of Namibia is text in both tables, and an empty cell is null."""
    pytest.importorskip("pyarrow", reason="an extra")
    pytest.importorskip("polars", reason="an extra")
    body = b"country,value\nNA,1\nNA,\n"
    transport = FakeTransport([(200, {}, body)] * 2)
    limits = Limits(rate=10_000.0)
    async with AdaptyExportClient("key", transport=transport, limits=limits) as client:
        export = client.funnel(filters=QUARTER, format="csv")
        rows = (await export.to_arrow()).to_pylist()
        assert rows == (await export.to_polars()).to_dicts()

    assert rows == [{"country": "NA", "value": 1}, {"country": "NA", "value": None}]


@pytest.mark.parametrize(("body", "error"), [(b"", False), (b"a,b\n1,2,3\n", True)], ids=repr)
async def test_a_table_of_odd_responses(body: bytes, *, error: bool) -> None:
    """An empty body is an empty table, and what is no table is an error without its text."""
    pytest.importorskip("pyarrow", reason="an extra")
    pytest.importorskip("polars", reason="an extra")
    transport = FakeTransport([(200, {}, body)] * 2)
    limits = Limits(rate=10_000.0)
    async with AdaptyExportClient("key", transport=transport, limits=limits) as client:
        export = client.funnel(filters=QUARTER, format="csv")
        if not error:
            assert (await export.to_arrow()).num_rows == (await export.to_polars()).height == 0
            return
        for read in (export.to_arrow, export.to_polars):
            with pytest.raises(DecodeError, match="the response is no CSV table") as caught:
                await read()
            assert caught.value.__cause__ is None


async def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library of an extra, nothing is sent, and the error names the extra."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    transport = FakeTransport()
    async with AdaptyExportClient("key", transport=transport) as client:
        export = client.funnel(filters=QUARTER, format="csv")
        with pytest.raises(ConfigError, match=r"pyarrow .* pip install 'adapty-async\[arrow\]'"):
            await export.to_arrow()
        with pytest.raises(ConfigError, match=r"polars .* pip install 'adapty-async\[polars\]'"):
            await export.to_polars()
    assert not transport.requests


async def test_a_rejected_export_names_the_field(client: AdaptyExportClient) -> None:
    """A value that only the server can judge is a rejected request, and a wrong key is one too."""
    with pytest.raises(RequestRejectedError, match="field chart_id") as caught:
        await client.analytics(chart_id="brand_new", filters=QUARTER)
    assert (caught.value.status, caught.value.error_code) == (400, "validation_error")
    async with AdaptyExportClient("wrong", base_url=client.origin) as other:
        with pytest.raises(AuthenticationError):
            await other.funnel(filters=QUARTER)


async def test_a_given_transport_needs_no_sink() -> None:
    """A fake transport returns whole bodies, for successes and for errors."""
    transport = FakeTransport([(401, {}, b""), (200, {}, b"a,b\n1,2\n")])
    limits = Limits(rate=10_000.0)
    async with AdaptyExportClient("key", transport=transport, limits=limits) as client:
        export = client.funnel(filters=QUARTER, format="csv")
        with pytest.raises(AuthenticationError):
            [line async for line in export]
        assert [line async for line in export] == ["a,b\n", "1,2\n"]


@pytest.mark.parametrize("body", [b"", b" \n", b"{}", b'{"data":null}', b'{"meta":1}'], ids=repr)
async def test_a_response_without_data_is_no_empty_chart(body: bytes) -> None:
    """A success that has nothing is an error, since a chart without rows would mean no revenue."""
    transport = FakeTransport([(200, {}, body)] * 4)
    limits = Limits(rate=10_000.0)
    async with AdaptyExportClient("key", transport=transport, limits=limits) as client:
        with pytest.raises(DecodeError, match="unreadable response"):
            await client.analytics(chart_id="mrr", filters=QUARTER)
        expected = "missing - at" if body.strip() else "no JSON object"
        with pytest.raises(DecodeError, match=expected):
            await client.retention(filters=QUARTER)
        with pytest.raises(DecodeError, match=expected):
            await client.ltv(filters=QUARTER, period_type="renewals")
        with pytest.raises(DecodeError, match=expected):
            await client.conversion(filters=QUARTER, from_period=None, to_period="1")


async def test_a_response_without_data_replaces_no_file(tmp_path: Path) -> None:
    """A file of an earlier export is kept, as it is when the export fails in another way."""
    path = tmp_path / "export.json"
    path.write_bytes(b"earlier")
    transport = FakeTransport([(200, {}, b'{"status":"ok"}')])
    async with AdaptyExportClient("key", transport=transport) as client:
        with pytest.raises(DecodeError, match=r"missing - at `\$\.data`"):
            await client.funnel(filters=QUARTER).write_to(path)

    assert path.read_bytes() == b"earlier"


@pytest.mark.parametrize("body", [b'{"data":{}}', b'\xef\xbb\xbf{"x":1,"data":{ }}'], ids=repr)
async def test_a_chart_may_have_no_rows(body: bytes) -> None:
    """Empty data is a chart without rows."""
    transport = FakeTransport([(200, {}, body)])
    async with AdaptyExportClient("key", transport=transport) as client:
        assert not (await client.analytics(chart_id="mrr", filters=QUARTER)).data


ODD = b'{"data":{"mrr":{"value":"1.5","title":"MRR"},"arr":5,"new":{"data":[{"x":[1]},{}]}}}'


async def test_an_odd_field_does_not_spoil_a_chart() -> None:
    """A field that is not as documented is None, and is found with its path."""
    transport = FakeTransport([(200, {}, ODD)])
    async with AdaptyExportClient("key", transport=transport) as client:
        chart = await client.analytics(chart_id="mrr", filters=QUARTER)

    assert (chart.data["mrr"].title, chart.data["mrr"].value) == ("MRR", None)
    assert chart.data["new"].data == ({"x": [1]}, {})
    assert chart.odd_fields == {"data[mrr].value": "1.5", "data[arr]": 5}


def test_the_rate_of_exports_is_not_shared(tmp_path: Path) -> None:
    """A shared rate is rejected, since it would not hold back single calls."""
    rate = SharedRate(f"sqlite:///{tmp_path / 'rate.db'}")
    with pytest.raises(ConfigError, match=r"limits\.shared: exports have a fixed rate"):
        AdaptyExportClient("secret_live_x.y", limits=Limits(shared=rate))


@pytest.mark.parametrize("limits", [Limits(), Limits(connections=8)], ids=repr)
def test_a_rate_is_always_set(limits: Limits) -> None:
    """Without a rate of its own, a client has the one that Adapty allows."""
    assert AdaptyExportClient("key", limits=limits).statistics().limit == 2.0


async def test_the_documented_rate_is_kept() -> None:
    """All calls of a client together are never throttled by a server with the documented limit."""
    async with Sandbox() as sandbox:
        async with AdaptyExportClient(sandbox.api_key, base_url=sandbox.url) as client:

            async def placements() -> None:
                await client.placements(filters=PAYWALLS)

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(placements())
                tasks.create_task(placements())
                await client.with_options(timeout=5).funnel(filters=QUARTER)
        assert sandbox.count() == {200: 3}


def test_an_operation_has_its_endpoint() -> None:
    """An endpoint is public, for calls through `execute`, `bulk` and raw requests."""
    export = AdaptyExportClient("key").analytics(chart_id="mrr", filters=QUARTER)

    assert export.operation.endpoint is ANALYTICS
