"""Parquet and Arrow files as rows: every type of column, stable numbers, bounded memory."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather

from adapty_async._input.layout import Row
from adapty_async._input.rows import open_rows
from adapty_async.errors import InvalidInputError
from tests.input.tables import (
    rows_of,
    used,
    write_excel,
    write_feather,
    write_parquet,
    write_stream,
)

NOON = dt.datetime(2026, 6, 1, 12, 30)  # noqa: DTZ001  without a zone
A_UUID = uuid.UUID("3fa85f64-5717-4562-b3fc-2c963f66afa6")
IDS = {
    "string": (pa.array(["u1", "00123", None]), ["u1", "00123", None]),
    "large-string": (pa.array(["u1", "", None], pa.large_string()), ["u1", None, None]),
    "dictionary": (pa.array(["u1", "u2", "u1"]).dictionary_encode(), ["u1", "u2", "u1"]),
    "int64": (pa.array([9007199254740993, None]), ["9007199254740993", None]),
    "uint64": (pa.array([2**64 - 1], pa.uint64()), [str(2**64 - 1)]),
    "decimal": (pa.array([Decimal(10**37), None], pa.decimal128(38, 0)), [str(10**37), None]),
    "float": (pa.array([100045.0, None, float("nan")]), ["100045", None, None]),
    "uuid": (pa.array([A_UUID.bytes], pa.uuid()), [str(A_UUID)]),
    "null": (pa.nulls(1), [None]),
}


@pytest.mark.parametrize("kind", IDS)
@pytest.mark.parametrize("suffix", ["parquet", "feather"])
def test_ids_of_every_type_are_exact(tmp_path: Path, kind: str, suffix: str) -> None:
    """An id is the text of its cell, whatever type the column has, and a missing cell is none."""
    column, ids = IDS[kind]
    write = write_parquet if suffix == "parquet" else write_feather
    path = write(tmp_path / f"ids.{suffix}", pa.table({"id": column}))

    assert [row.value.get("id") for row in rows_of(path, "id")] == ids


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        pytest.param(pa.array([1.5]), "has a fraction", id="fraction"),
        pytest.param(pa.array([2.0**53]), "has lost digits", id="large-float"),
        pytest.param(pa.array([2.0**24], pa.float32()), "has lost digits", id="large-single"),
        pytest.param(pa.array(np.array([2.0**11], "float16")), "has lost digits", id="large-half"),
        pytest.param(pa.array([True]), "is true or false", id="bool"),
        pytest.param(pa.array([["u1"]]), "is a list", id="list"),
        pytest.param(pa.array([b"u1"]), "is binary", id="binary"),
        pytest.param(pa.array([NOON.date()]), "is a date", id="date"),
        pytest.param(pa.array([NOON]), "is a date", id="timestamp"),
        pytest.param(pa.array([NOON.time()]), "is a time of day", id="time"),
        pytest.param(
            pa.array([[("a", "u1")]], pa.map_(pa.string(), pa.string())), "list", id="map"
        ),
    ],
)
def test_a_cell_that_is_no_id_costs_its_row(tmp_path: Path, column: Any, reason: str) -> None:
    """The message names the file, the column and the rule, and not the id."""
    path = write_feather(tmp_path / "ids.feather", pa.table({"id": column, "x": ["victim"]}))
    (row,) = rows_of(path, "id")

    assert row.broken is not None
    assert f'{path}: the cell in column "id"' in row.broken
    assert reason in row.broken
    assert "u1" not in row.broken


def test_views_of_text_are_text(tmp_path: Path) -> None:
    """A column of string views is one of text; not every release writes it as Parquet."""
    table = pa.table({"id": pa.array(["u1", None], pa.string_view())})
    path = write_feather(tmp_path / "ids.feather", table)

    assert [row.value.get("id") for row in rows_of(path, "id")] == ["u1", None]


def test_rows_have_numbers_and_only_the_columns_that_matter(tmp_path: Path) -> None:
    """Rows count from 1; columns that do not matter are not read, whatever they hold."""
    table = pa.table({"x": [["a"], None], "id": ["u1", "u2"], "odd": [b"\xff", b""]})
    path = write_parquet(tmp_path / "ids.parquet", table)

    assert rows_of(path, "id") == [Row(1, {"id": "u1"}), Row(2, {"id": "u2"})]


def test_structs_are_columns_with_dots(tmp_path: Path) -> None:
    """A nested column is read like columns with a dot in their names, next to those."""
    table = pa.table(
        {
            "id": ["u1", "u2"],
            "price": [{"value": 1.5, "more": {"deep": 1}}, None],
            "offer.id": ["o1", None],
        }
    )
    path = write_parquet(tmp_path / "rows.parquet", table)

    assert [
        row.value for row in rows_of(path, "id", "price.value", "price.more.deep", "offer.id")
    ] == [
        {"id": "u1", "price.value": "1.5", "price.more.deep": "1", "offer.id": "o1"},
        {"id": "u2"},
    ]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_keep_their_zone(tmp_path: Path, unit: str) -> None:
    """A date and time is sent in UTC; a time without a zone has none, so its field rejects it."""
    zoned = pa.array([NOON], pa.timestamp(unit, "Europe/Paris"))
    table = pa.table({"id": ["u1"], "at": zoned, "naive": pa.array([NOON], pa.timestamp(unit))})
    (row,) = rows_of(write_parquet(tmp_path / "rows.parquet", table), "id", "at", "naive")

    assert row.value["at"] == "2026-06-01T12:30:00+00:00"
    assert row.value["naive"] == "2026-06-01T12:30:00"


def test_times_of_96_bits_are_those_that_were_written(tmp_path: Path) -> None:
    """Spark writes times with 96 bits, whose range is longer than that of nanoseconds."""
    written = [dt.datetime(9999, 12, 31), dt.datetime(2300, 1, 2, 3, 4, 5, 6)]  # noqa: DTZ001
    table = pa.table({"id": ["u1", "u2"], "at": pa.array(written, pa.timestamp("us"))})
    path = tmp_path / "rows.parquet"
    write_parquet(path, table, use_deprecated_int96_timestamps=True)

    assert [row.value["at"] for row in rows_of(path, "id", "at")] == [
        "9999-12-31",
        "2300-01-02T03:04:05.000006",
    ]


def test_an_arrow_stream_is_read_like_a_file(tmp_path: Path) -> None:
    """A file of Arrow's stream format has the same rows."""
    table = pa.table({"id": ["u1", "u2"]})
    path = write_stream(tmp_path / "ids.arrows", table)

    assert [row.value for row in rows_of(path, "id")] == table.to_pylist()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        pytest.param("a.parquet", b"id\nu1\n", "is not a Parquet file, or is damaged", id="csv"),
        pytest.param("a.parquet", b"PAR1\0\0PAR1", "is not a Parquet file", id="damaged"),
        pytest.param("a.feather", b"id\nu1\n", "is not an Arrow file, or is damaged", id="arrow"),
        pytest.param(
            "a.feather", b"FEA1\0\0\0\0", "is a Feather file of version 1", id="feather-1"
        ),
        pytest.param("a.arrow", b"\xff\xff\xff\xff", "is not an Arrow file", id="cut"),
        pytest.param("a.arrow", b"", "is not an Arrow file", id="empty"),
    ],
)
def test_a_file_that_is_none_is_rejected(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    """A file of another kind is rejected with its name, and its content is not shown."""
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(InvalidInputError, match=reason) as caught:
        open_rows(str(path), None, used("id"))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["s3:ids.parquet", "file:ids.parquet", "hdfs:ids.feather"])
def test_a_name_like_an_address_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A file is read whatever its name looks like."""
    monkeypatch.chdir(tmp_path)
    write = write_parquet if name.endswith("parquet") else write_feather
    write(tmp_path / name, {"id": ["u1"]})

    assert [row.value for row in rows_of(Path(name), "id")] == [{"id": "u1"}]


def test_a_missing_file_has_its_reason(tmp_path: Path) -> None:
    """A file that is not there is rejected with the reason of the system."""
    with pytest.raises(InvalidInputError, match="No such file"):
        open_rows(str(tmp_path / "none.parquet"), None, used("id"))


def test_text_that_is_not_utf_8_rejects_the_file(tmp_path: Path) -> None:
    """A file whose text is damaged is rejected before anything is sent."""
    column = pa.array([b"u\xff1"]).view(pa.string())
    path = write_feather(tmp_path / "ids.feather", pa.table({"id": column}))

    with pytest.raises(InvalidInputError, match="is not an Arrow file, or is damaged"):
        open_rows(str(path), None, used("id"))


@pytest.mark.parametrize(
    "ends",
    [
        pytest.param((0, 8, 5, 13), id="swapped"),
        pytest.param((0, 5, 8, 213), id="beyond"),
        pytest.param((0, 5, -100, 13), id="negative"),
        pytest.param((0, 5, 8, 2**31 - 1), id="far"),
    ],
)
@pytest.mark.parametrize("form", ["file", "stream"])
def test_a_damaged_offset_rejects_the_file(tmp_path: Path, ends: Any, form: str) -> None:
    """Bytes outside of a cell are never an id, nor read at all."""
    path, table = tmp_path / "ids.arrow", pa.table({"id": ["alice", "bob", "carol"]})
    if form == "stream":
        write_stream(path, table)
    else:
        feather.write_feather(table, path, compression="uncompressed")
    before, after = (np.array(values, "<i4").tobytes() for values in ((0, 5, 8, 13), ends))
    content = path.read_bytes()
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))

    with pytest.raises(InvalidInputError, match="is not an Arrow file, or is damaged") as caught:
        open_rows(str(path), None, used("id"))
    assert str(path) in str(caught.value)


def test_a_union_elsewhere_costs_nothing(tmp_path: Path) -> None:
    """A column of a type that Parquet and CSV do not have matters only if it is used."""
    union = pa.UnionArray.from_sparse(
        pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]
    )
    path = write_stream(tmp_path / "ids.arrows", pa.table({"id": ["u1", "u2"], "x": union}))

    assert [row.value for row in rows_of(path, "id")] == [{"id": "u1"}, {"id": "u2"}]
    assert [row.value for row in rows_of(path, "x")] == [{"x": "1"}, {"x": "b"}]


def test_a_damaged_page_rejects_the_file(tmp_path: Path) -> None:
    """A file that is damaged in the middle is rejected before anything is sent."""
    path = write_parquet(tmp_path / "ids.parquet", {"id": [f"u{n}" for n in range(5000)]})
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36
    path.write_bytes(content)

    with pytest.raises(InvalidInputError, match="it is damaged, or is not a Parquet file"):
        open_rows(str(path), None, used("id"))


@pytest.mark.parametrize("suffix", ["parquet", "feather"])
def test_memory_is_that_of_a_batch(tmp_path: Path, suffix: str) -> None:
    """Reading takes memory for some batches, not for the file."""
    count = 60_000
    table = pa.table({"id": [f"user_{number:060}" for number in range(count)]})
    path = tmp_path / f"ids.{suffix}"
    if suffix == "parquet":
        write_parquet(path, table, row_group_size=5_000)
    else:
        feather.write_feather(table, path, chunksize=5_000)
    size = table.nbytes
    del table
    before = most = pa.total_allocated_bytes()
    for row in open_rows(str(path), None, used("id")):
        if row.line % 2_500 == 0:
            most = max(most, pa.total_allocated_bytes())

    assert row.line == count
    assert most - before < size / 3


@pytest.mark.parametrize("kind", ["text", "struct"])
def test_a_long_value_is_not_copied_for_each_row(tmp_path: Path, kind: str) -> None:
    """A long value that a file stores once costs its rows, and not memory for each of them."""
    size, count = 2 * 2**20, 60
    indexes = pa.array([0] * count + [1], pa.int32())
    ids = pa.DictionaryArray.from_arrays(indexes, ["u" * size, "u1"])
    table = pa.table(
        {"id": ids} if kind == "text" else {"a": pa.StructArray.from_arrays([ids], ["b"])}
    )
    path = write_parquet(tmp_path / "ids.parquet", table, store_schema=False)
    del ids, table
    before = most = pa.total_allocated_bytes()
    name = "id" if kind == "text" else "a.b"
    for row in open_rows(str(path), None, used(name), id_column=name):
        most = max(most, pa.total_allocated_bytes())
        assert row.line > count or "is longer than 1 MiB" in str(row.broken)

    assert (row.line, row.value) == (count + 1, {name: "u1"})
    assert most - before < 10 * size


def test_long_columns_of_short_values_are_read_as_usual(tmp_path: Path) -> None:
    """A column of several MiB, without a long value, has all its cells."""
    json = pa.ExtensionArray.from_storage(
        pa.json_(pa.string()), pa.array([f"{number:01000}" for number in range(2_000)])
    )
    path = write_parquet(tmp_path / "ids.parquet", pa.table({"id": json, "x": json.storage}))

    rows = rows_of(path, "id", "x")
    assert [row.value["id"] for row in rows] == json.storage.to_pylist()
    assert [row.value["x"] for row in rows] == json.storage.to_pylist()


def test_options_of_text_do_not_go_with_tables(tmp_path: Path) -> None:
    """An option that a format does not have is rejected."""
    path = str(write_parquet(tmp_path / "ids.parquet", {"id": ["u1"]}))
    with pytest.raises(InvalidInputError, match=re.escape("encoding: is for text only")):
        open_rows(path, None, used("id"), encoding="utf-8")
    with pytest.raises(InvalidInputError, match=re.escape("sheet: is for spreadsheets only")):
        open_rows(path, None, used("id"), sheet="a")
    with pytest.raises(InvalidInputError, match="must be a file to be read as parquet, not a pipe"):
        open_rows("-", "parquet", used("id"))
    with pytest.raises(InvalidInputError, match="must not be packed with gzip to be read as"):
        open_rows(f"{path}.gz", None, used("id"))


def test_a_file_that_changes_meanwhile_is_rejected(tmp_path: Path) -> None:
    """A file is not read further if another one took its place since its rows were counted."""
    path = write_parquet(tmp_path / "ids.parquet", {"id": ["u1"]})
    rows = open_rows(str(path), None, used("id"))
    write_parquet(path, {"id": ["u1", "victim"] * 10})

    with pytest.raises(InvalidInputError, match="was changed meanwhile"):
        list(rows)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("ids.xlsx", "a spreadsheet"), ("ids.parquet", "a Parquet file"), ("ids.feather", "an Arrow")],
)
def test_a_table_is_never_read_as_text(tmp_path: Path, name: str, kind: str) -> None:
    """The bytes of a table would be ids of nobody, or of somebody."""
    path = tmp_path / name
    if name.endswith("xlsx"):
        write_excel(path, [["id"], ["u1"]])
    elif name.endswith("parquet"):
        write_parquet(path, {"id": ["u1"]})
    else:
        write_feather(path, {"id": ["u1"]})
    path = path.rename(tmp_path / "ids.txt")

    with pytest.raises(InvalidInputError, match=f"is {kind}.*cannot be read as text"):
        open_rows(str(path), None, used("id"))
