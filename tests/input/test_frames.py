"""Data frames as the items of bulk methods: ids are exact, missing cells are no ids."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from adapty_async import v2
from adapty_async._input.frames import is_frame
from adapty_async._input.items import UnreadableRow, ids_in, pairs_in, require_no_table, structs_in
from adapty_async._input.schema import ColumnSchema
from adapty_async.errors import InvalidInputError

UTC = dt.datetime(2026, 6, 1, 12, 30, tzinfo=dt.UTC)


class _Stream:
    """A data frame of a library that is not known, which provides a stream of Arrow."""

    def __init__(self, content: Any) -> None:
        self._content = content

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the content as a stream of Arrow."""
        return self._content.__arrow_c_stream__(requested_schema)


SINGLE = np.array([2.0**24], "float32")
LONG = "u" * (2**20 + 1)
TOO_LONG = "is longer than 1 MiB"
FAR_DAYS = pa.array([0, 2**30, None], pa.int32()).cast(pa.date32())
NO_DATE = "outside of the years 1 to 9999"
FRAMES = {
    "polars": pl.DataFrame({"x": [[1], [2], None], "customer_user_id": ["u1", "00123", None]}),
    "polars-int": pl.DataFrame({"customer_user_id": [1, 2**63 - 1, None]}),
    "polars-category": pl.DataFrame(
        {"customer_user_id": pl.Series(["u1", "u2", None], dtype=pl.Categorical)}
    ),
    "polars-series": pl.Series("anything", ["u1", "u2", None]),
    "pandas": pd.DataFrame({"customer_user_id": ["u1", "00123", None], 0: [[1], {}, b""]}),
    "pandas-float": pd.DataFrame({"customer_user_id": [1, 100045, None]}),
    "pandas-int64": pd.DataFrame({"customer_user_id": pd.array([1, 2, None], dtype="Int64")}),
    "pandas-object": pd.DataFrame({"customer_user_id": np.array(["u1", 7, pd.NA], object)}),
    "pandas-category": pd.DataFrame({"customer_user_id": pd.Categorical(["u1", "u2", None])}),
    "pandas-arrow": pd.DataFrame(
        {"customer_user_id": pd.array(["u1", "u2", None], dtype=pd.ArrowDtype(pa.string()))}
    ),
    "pandas-series": pd.Series(["u1", "u2", pd.NaT]),
    "pandas-filtered": pd.DataFrame({"customer_user_id": ["u1", "u2", "u3", None]}).iloc[1:],
    "pyarrow": pa.table({"customer_user_id": ["u1", "u2", None]}),
    "pyarrow-batch": pa.record_batch({"customer_user_id": ["u1", "u2", None]}),
    "pyarrow-chunks": pa.chunked_array([["u1"], ["u2", None]]),
    "pyarrow-array": pa.array(["u1", "u2", None]),
    "other": _Stream(pa.table({"customer_user_id": ["u1", "u2", None]})),
}
IDS = {
    "polars": ["u1", "00123"],
    "polars-int": ["1", "9223372036854775807"],
    "pandas": ["u1", "00123"],
    "pandas-float": ["1", "100045"],
    "pandas-int64": ["1", "2"],
    "pandas-object": ["u1", "7"],
    "pandas-filtered": ["u2", "u3"],
}


def ids_of(frame: Any, column: str = "customer_user_id") -> list[Any]:
    """Return the ids of a frame, as a bulk method reads them."""
    items: Any = ids_in(frame, column)
    return list(items)


def pairs_of(frame: Any, schema: ColumnSchema) -> list[Any]:
    """Return the pairs of ids and structs of a frame, as a bulk method reads them."""
    items: Any = pairs_in(frame, "customer_user_id", schema)
    return list(items)


@pytest.mark.parametrize("kind", FRAMES)
def test_ids_of_a_frame_are_exact(kind: str) -> None:
    """The column named like `by` has the ids; a missing one is a row that fails alone."""
    items: Any = ids_in(FRAMES[kind], "customer_user_id")
    *ids, missing = items

    assert ids == IDS.get(kind, ["u1", "u2"])
    assert len(items) == 3
    assert isinstance(missing, UnreadableRow)
    assert (missing.line, str(missing.error)) == (3, "customer_user_id: is required")
    assert repr(missing) == "UnreadableRow(line=3)"
    assert list(items)[:2] == ids


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(pl.DataFrame({"customer_user_id": [1.5]}), id="polars"),
        pytest.param(pd.DataFrame({"customer_user_id": [1.5]}), id="pandas"),
        pytest.param(pa.table({"customer_user_id": [1.5]}), id="pyarrow"),
        pytest.param(pl.DataFrame({"customer_user_id": [2.0**24 + 0.5]}), id="polars-large"),
    ],
)
def test_a_cell_that_is_no_id_has_its_row(frame: Any) -> None:
    """The message names the row, the column and the rule."""
    (row,) = ids_of(frame)

    assert isinstance(row, UnreadableRow)
    cell = 'the cell in column "customer_user_id" has a fraction, so it is not an id'
    assert str(row.error) == f"row 1: the data frame: {cell}"


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(pl.DataFrame({"id": [2.0**24]}, schema={"id": pl.Float32}), id="polars"),
        pytest.param(pl.DataFrame({"id": pl.Series([2.0**11]).cast(pl.Float16)}), id="polars-half"),
        pytest.param(pd.DataFrame({"id": np.array([2.0**24], "float32")}), id="pandas"),
        pytest.param(pd.DataFrame({"id": np.array([2.0**11], "float16")}), id="pandas-half"),
        pytest.param(pd.DataFrame({"id": pd.array([2.0**24], "float[pyarrow]")}), id="arrow"),
        pytest.param(
            pl.DataFrame({"id": pl.Series([np.float32(2**24)], dtype=pl.Object)}),
            id="polars-object",
        ),
        pytest.param(pd.DataFrame({"id": pd.Categorical(SINGLE)}), id="pandas-category"),
        pytest.param(pd.DataFrame({"id": pd.arrays.SparseArray(SINGLE)}), id="pandas-sparse"),
        pytest.param(pd.DataFrame({"id": pd.array(SINGLE, "Float32")}), id="pandas-nullable"),
        pytest.param(pd.DataFrame({"id": pd.Series([SINGLE[0]], dtype=object)}), id="object"),
        pytest.param(
            pd.DataFrame(
                {"id": pd.array([2.0**24], pd.ArrowDtype(pa.dictionary(pa.int8(), pa.float32())))}
            ),
            id="pandas-dictionary",
        ),
        pytest.param(
            pa.table({"id": pa.array(SINGLE).dictionary_encode()}), id="pyarrow-dictionary"
        ),
        pytest.param(
            pa.table({"id": pa.RunEndEncodedArray.from_arrays([1], pa.array(SINGLE))}),
            id="pyarrow-runs",
        ),
        pytest.param(
            pa.table(
                {"id": pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array(SINGLE)])}
            ),
            id="pyarrow-union",
        ),
    ],
)
def test_small_floats_lose_digits_earlier(frame: Any) -> None:
    """A float of fewer bits is an id only as far as it is exact."""
    (row,) = ids_of(frame, "id")

    assert isinstance(row, UnreadableRow)
    assert "has lost digits" in str(row.error)


@pytest.mark.parametrize("library", ["polars", "pandas", "pyarrow"])
def test_rows_become_what_is_sent(library: str) -> None:
    """Columns are fields, nested ones with a dot, of all types, over more rows than one piece."""
    count = 2500
    columns = {
        "customer_user_id": [f"u{number}" for number in range(count)],
        "purchase_type": ["one_time_purchase"] * count,
        "store": ["app_store"] * count,
        "store_product_id": ["coins"] * count,
        "store_transaction_id": list(range(count)),
        "store_original_transaction_id": list(range(count)),
        "purchased_at": [UTC] * count,
        "is_family_shared": [False, None] * (count // 2),
        "price.country": ["US"] * count,
        "price.currency": ["USD"] * count,
        "price.value": [Decimal("9.99"), None] * (count // 2),
    }
    make: Any = {"polars": pl.DataFrame, "pandas": pd.DataFrame, "pyarrow": pa.table}[library]
    frame = make(columns)
    items = pairs_of(frame, v2.TRANSACTION_COLUMNS)

    assert len(items) == count
    identifier, transaction = items[2000]
    assert identifier == "u2000"
    assert transaction.store_transaction_id == "2000"
    assert transaction.price == v2.Price(country="US", currency="USD", value="9.99")
    assert transaction.is_family_shared is False
    assert str(items[2001].error) == "price.value: is required"


def test_structs_of_polars_are_columns_with_dots() -> None:
    """A nested column is read like columns with a dot in their names."""
    frame = pl.DataFrame(
        {
            "customer_user_id": ["u1"],
            "custom_attributes": [{"plan": "annual", "visits": 7, "rate": 0.5}],
        }
    )

    assert pairs_of(frame, v2.ATTRIBUTE_COLUMNS) == [
        (
            "u1",
            v2.ProfileAttributes(custom_attributes={"plan": "annual", "visits": 7, "rate": 0.5}),
        )
    ]


def test_a_time_without_a_zone_is_rejected() -> None:
    """A data frame's time without a zone is rejected as that of a CSV file is."""
    frame = pd.DataFrame(
        {
            "customer_user_id": ["u1", "u2"],
            "access_level_id": ["premium", "premium"],
            "expires_at": pd.to_datetime(["2030-01-01 10:00", "2030-01-01 00:00"]),
        }
    )

    for row in pairs_of(frame, v2.GRANT_COLUMNS):
        assert isinstance(row, UnreadableRow)
        assert str(row.error).startswith("expires_at: must be a datetime, or ISO 8601 text")


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        pytest.param(pl.DataFrame({"id": ["u1"]}), "has no column", id="missing"),
        pytest.param(
            pd.DataFrame([["a", "b"]], columns=["customer_user_id"] * 2),
            "more than once",
            id="twice",
        ),
        pytest.param(
            pd.DataFrame({"customer_user_id": ["u1"]}).set_index("customer_user_id"),
            "has no column",
            id="index",
        ),
        pytest.param(pl.LazyFrame({"customer_user_id": ["u1"]}), "call collect", id="lazy"),
    ],
)
def test_a_frame_without_the_column_is_rejected(frame: Any, reason: str) -> None:
    """The column with the ids has to be there, once."""
    with pytest.raises(InvalidInputError, match=reason):
        ids_in(frame, "customer_user_id")


def test_a_reader_of_batches_is_read_to_its_end() -> None:
    """A stream that can be read once only is held in memory, since its rows are counted first."""
    table = pa.table({"id": ["u1", "u2"]})
    reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches())
    items: Any = ids_in(reader, "id")

    assert (len(items), list(items), list(items)) == (2, ["u1", "u2"], ["u1", "u2"])


def _failing_reader() -> pa.RecordBatchReader:
    def batches() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"id": ["u1"]})
        raise OSError("victim@example.com")

    return pa.RecordBatchReader.from_batches(pa.schema({"id": pa.string()}), batches())


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        pytest.param(lambda: _Stream(pa.chunked_array([["u1"]])), "_Stream", id="column"),
        pytest.param(_failing_reader, "RecordBatchReader", id="error"),
    ],
)
def test_a_stream_that_is_no_table_is_rejected(make: Callable[[], Any], kind: str) -> None:
    """What is a data frame for type checkers is read as one, or rejected before it is sent."""
    with pytest.raises(
        InvalidInputError,
        match=f"^items: must be a data frame or a table: {kind} cannot be read as one$",
    ):
        ids_in(make(), "id")
    with pytest.raises(InvalidInputError, match="must not be a data frame"):
        require_no_table(make())


def test_unknown_columns_are_named() -> None:
    """A column that is no field is rejected, as on the command line."""
    frame = pl.DataFrame({"customer_user_id": ["u1"], "product_identifier": ["p"]})
    with pytest.raises(InvalidInputError, match='unknown column "product_identifier"'):
        pairs_in(frame, "customer_user_id", v2.ATTRIBUTE_COLUMNS)


def test_damaged_ids_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Ids that look damaged are counted in a warning, without the ids."""
    ids_in(pd.DataFrame({"customer_user_id": ["NULL", "u1", None]}), "customer_user_id")
    ids_in(pd.DataFrame({"customer_user_id": [7, None]}), "customer_user_id")

    messages = [record.getMessage() for record in caplog.records]
    zeros = "numbers of a spreadsheet or a column of floats, whose leading zeros would be lost"
    column = 'the data frame, ids in "customer_user_id"'
    damaged = f"{column}: These ids look damaged and may match no profile:\n  "
    assert messages == [
        f"{damaged}words for no value, such as NULL, NaN or 0: 1 (row 1)",
        f"{damaged}{zeros}: 1 (row 1)",
    ]


def _generate() -> Iterator[str]:
    yield "u1"


def test_other_items_stay_as_they_are() -> None:
    """What is no data frame is passed on."""
    items = _generate()

    assert ids_in(items, "customer_user_id") is items
    assert pairs_in([], "customer_user_id", v2.ATTRIBUTE_COLUMNS) == []
    assert structs_in([], v2.ATTRIBUTE_COLUMNS) == []
    assert not is_frame(items)
    assert not is_frame(pl.DataFrame)
    require_no_table(items)


def test_a_subclass_is_a_frame() -> None:
    """A data frame of a library that extends pandas is one of pandas."""

    class Extended(pd.DataFrame):  # type: ignore[misc]  # pandas has no types
        pass

    assert ids_of(Extended({"id": ["u1"]}), "id") == ["u1"]


def _dates(days: int, kind: Any) -> pl.DataFrame:
    return pl.DataFrame({"id": pl.Series([0, days, None], dtype=pl.Int64).cast(kind)})


def _timestamps(count: int, unit: str, zone: str | None = None) -> pa.Table:
    return pa.table({"id": pa.array([0, count, None], pa.timestamp(unit, zone))})


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        pytest.param(_dates(2**30, pl.Date), NO_DATE, id="polars-date"),
        pytest.param(_dates(2**62, pl.Datetime("us")), NO_DATE, id="polars-time"),
        pytest.param(_dates(2**62, pl.Datetime("us", "Asia/Tokyo")), NO_DATE, id="polars-zone"),
        pytest.param(_dates(2**62, pl.Duration("ms")), NO_DATE, id="polars-duration"),
        pytest.param(_timestamps(9 * 10**15, "s"), NO_DATE, id="pyarrow-seconds"),
        pytest.param(_timestamps(2**62, "us", "Asia/Tokyo"), NO_DATE, id="pyarrow-zone"),
        pytest.param(
            pa.table({"id": FAR_DAYS}),
            NO_DATE,
            id="pyarrow-date",
        ),
        pytest.param(
            pa.table({"id": pa.array([b"u", b"u\xff", None]).view(pa.string())}),
            "is not UTF-8",
            id="pyarrow-text",
        ),
        pytest.param(
            pd.DataFrame({"id": pd.array(FAR_DAYS, pd.ArrowDtype(pa.date32()))}),
            NO_DATE,
            id="pandas-arrow",
        ),
        pytest.param(pl.DataFrame({"id": ["u", LONG, None]}), TOO_LONG, id="polars-long"),
        pytest.param(
            pl.DataFrame({"id": [b"u", LONG.encode(), None]}), TOO_LONG, id="polars-binary"
        ),
        pytest.param(
            pl.DataFrame({"id": pl.Series(["u", LONG, None], dtype=pl.Categorical)}),
            TOO_LONG,
            id="polars-category",
        ),
        pytest.param(pd.DataFrame({"id": ["u", LONG, None]}), TOO_LONG, id="pandas-long"),
        pytest.param(pa.table({"id": ["u", LONG, None]}), TOO_LONG, id="pyarrow-long"),
        pytest.param(
            pa.table({"id": pa.array(["u", LONG, None], pa.string_view())}), TOO_LONG, id="view"
        ),
        pytest.param(
            pa.table({"id": pa.array(["u", LONG, None]).dictionary_encode()}),
            TOO_LONG,
            id="pyarrow-dictionary",
        ),
        pytest.param(
            pa.table({"id": pa.RunEndEncodedArray.from_arrays([1, 2, 3], ["u", LONG, None])}),
            TOO_LONG,
            id="pyarrow-runs",
        ),
    ],
)
def test_a_cell_that_cannot_be_read_costs_its_row(frame: Any, reason: str) -> None:
    """A date that Python does not have, or a text that is too long, costs no other row."""
    first, odd, missing = ids_of(frame, "id")

    assert first == "u" or NO_DATE not in str(first.error)
    assert reason in str(odd.error)
    assert str(missing.error) == "id: is required"


def test_runs_and_dictionaries_are_read_in_pieces() -> None:
    """A slice of a column that shares its values has the cells of its rows."""
    runs = pa.RunEndEncodedArray.from_arrays([1, 1500, 3000], ["u1", "u2", None])
    shared = pa.array(["u1", *["u2"] * 1499, *[None] * 1500]).dictionary_encode()
    table = pa.table({"runs": runs, "shared": shared}).slice(0, 2000)

    for name in table.column_names:
        ids = ids_of(table, name)
        assert ids[:1500] == ["u1", *["u2"] * 1499]
        assert {str(row.error) for row in ids[1500:]} == {f"{name}: is required"}


def test_the_last_day_is_a_date() -> None:
    """A date that stands for no end, which Python has, is read."""
    last = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
    columns: dict[Any, Any] = {
        "customer_user_id": ["u1"],
        "access_level_id": ["premium"],
        "expires_at": [last],
    }
    elsewhere = pl.col("expires_at").dt.convert_time_zone("Asia/Tokyo")
    frames = [
        pl.DataFrame(columns),
        pl.DataFrame(columns).with_columns(elsewhere),
        pa.table(columns),
        pd.DataFrame({0: ["no name"], **columns}),
    ]
    for frame in frames:
        ((_, grant),) = pairs_of(frame, v2.GRANT_COLUMNS)
        assert grant.expires_at == last.isoformat()


def test_a_time_of_pandas_that_python_does_not_have_costs_its_row() -> None:
    """The first and the last day have a time in UTC whatever the zone; other years have none."""
    days = ["0001-01-01", "9999-12-31T23:59:59", "0000-12-31", "12000-01-01"]
    times = pd.Series(np.array(days, "datetime64[us]")).dt.tz_localize("UTC")
    for zone in ("Europe/Berlin", "America/New_York"):
        frame = pd.DataFrame(
            {
                "customer_user_id": ["u1", "u2", "u3", "u4"],
                "access_level_id": ["premium"] * 4,
                "expires_at": times.dt.tz_convert(zone),
            }
        )
        (_, first), (_, last), *others = pairs_of(frame, v2.GRANT_COLUMNS)
        assert first.expires_at == "0001-01-01T00:00:00+00:00"
        assert last.expires_at == "9999-12-31T23:59:59+00:00"
        assert [NO_DATE in str(row.error) for row in others] == [True, True]


def test_half_a_character_next_to_an_odd_cell_costs_its_row() -> None:
    """A text of a program may end in half an emoji; no other row is lost with it."""
    objects: dict[str, list[object]] = {
        "customer_user_id": ["u1", "u2", "u3"],
        "first_name": ["A\ud83d", "B\ud83d", "C"],
        "email": [b"a@example.com", "b@example.com", "c@example.com"],
    }
    frame = pd.DataFrame({name: pd.Series(each, dtype=object) for name, each in objects.items()})
    first, second, (_, third) = pairs_of(frame, v2.ATTRIBUTE_COLUMNS)

    assert 'the cell in column "email" is binary' in str(first.error)
    assert "lone surrogates" in str(second.error)
    assert third.first_name == "C"


def test_a_missing_struct_has_no_fields() -> None:
    """The fields of a struct that is missing are missing, whatever is stored for them."""
    field = pa.StructArray.from_arrays([["a", "b"]], ["id"], mask=pa.array([False, True]))
    for frame in (pa.table({"user": field}), pl.DataFrame({"user": [{"id": "a"}, None]})):
        first, missing = ids_of(frame, "user.id")
        assert first == "a"
        assert str(missing.error) == "user.id: is required"


@pytest.mark.parametrize("make", [pl.DataFrame, pa.table], ids=["polars", "pyarrow"])
def test_a_field_and_a_column_of_one_name_are_rejected(make: Callable[[Any], Any]) -> None:
    """A struct's field and a column with a dot may have one name, and then neither is chosen."""
    required = {name: ["x"] for name in v2.TRANSACTION_COLUMNS.required}
    twice = {"price.value": [1], "price": [{"value": 2}]}
    frame = make({**required, **twice, "customer_user_id": ["u1"]})
    with pytest.raises(InvalidInputError, match="more than once"):
        pairs_in(frame, "customer_user_id", v2.TRANSACTION_COLUMNS)


def test_a_column_that_is_not_used_may_have_any_type() -> None:
    """A union next to the ids costs nothing."""
    union = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])])

    assert ids_of(pa.table({"id": ["u1"], "x": union}), "id") == ["u1"]


def test_numbers_have_the_digits_that_were_stored() -> None:
    """A price of 32 bits is sent with the digits it has."""
    value = pa.array([19.99], pa.float32())
    frame = pa.table({"customer_user_id": ["u1"], "custom_attributes.paid": value})
    for one in (frame, pl.DataFrame(frame), frame.to_pandas()):
        ((_, attributes),) = pairs_of(one, v2.ATTRIBUTE_COLUMNS)
        assert attributes.custom_attributes == {"paid": 19.99}


def test_a_frame_of_pandas_that_is_changed_later_keeps_its_ids() -> None:
    """A run sends the ids that the data frame had when the method was called."""
    frame = pd.DataFrame({"id": ["u1", "u2"]})
    items: Any = ids_in(frame, "id")
    if int(pd.__version__.partition(".")[0]) >= 3:  # earlier ones share the cells of a copy
        frame.loc[:, "id"] = ["x", "y"]
    frame.insert(0, "before", ["z", "z"])

    assert list(items) == ["u1", "u2"]


class _Unknown:
    """A data frame of another library: iterating it gives the names of its columns."""

    @property
    def columns(self) -> list[str]:
        """Return the names."""
        raise AssertionError("was computed")

    @property
    def dtypes(self) -> list[str]:
        """Return the types."""
        raise AssertionError("was computed")

    def __iter__(self) -> Iterator[str]:
        return iter(["customer_user_id"])


class _Exchange:
    """A data frame that can only be exchanged by an older interface."""

    def __dataframe__(self) -> object:
        """Return the frame."""
        raise AssertionError("was called")


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        pytest.param(_Unknown(), "must not be a data frame of the type _Unknown", id="unknown"),
        pytest.param(_Exchange(), "must not be a data frame of the type _Exchange", id="exchange"),
        pytest.param({"u1": 1}, "must not be a mapping, whose keys", id="mapping"),
        pytest.param(
            pd.DataFrame({"id": ["u1"]}).to_dict("list"), "must not be a mapping", id="to-dict"
        ),
    ],
)
def test_names_of_columns_are_never_ids(items: Any, reason: str) -> None:
    """What would be iterated as its columns or keys is rejected before anything is sent."""
    for read in (
        lambda: ids_in(items, "id"),
        lambda: pairs_in(items, "id", v2.ATTRIBUTE_COLUMNS),
        lambda: structs_in(items, v2.ATTRIBUTE_COLUMNS),
        lambda: require_no_table(items),
    ):
        with pytest.raises(InvalidInputError, match=f"^items: {reason}"):
            read()


def test_arrays_with_types_are_items() -> None:
    """An index of several levels has types, but no columns: its items are what it iterates."""
    index = pd.MultiIndex.from_tuples([("u1", 1)])

    assert ids_in(index, "id") is index
