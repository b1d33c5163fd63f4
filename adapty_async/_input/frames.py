"""Data frames as tables: those of polars and pandas, and what else is a stream of Arrow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from adapty_async._input.arrow import array_cells, column_table, exact_of, stream_table
from adapty_async._input.cells import (
    EXACT_DOUBLE,
    EXACT_HALF,
    EXACT_SINGLE,
    LONG_CELL,
    MAX_CELL_BYTES,
    ODD_CELL,
    exact_float,
    read_cells,
)
from adapty_async._input.tables import Table
from adapty_async.errors import InvalidInputError

# Rows that are converted at once.
_PIECE_ROWS = 1024
_LABEL = "the data frame"


class DataFrame(Protocol):
    """
    The interface of data frames, by which type checkers know them: it is that of Arrow.

    The frames and series of polars and pandas have it, and the tables of pyarrow. Those of other
    libraries are read with pyarrow, into memory, and so is a ``RecordBatchReader``, to its end.
    """

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the frame as a stream of Arrow."""
        ...


def is_frame(value: object) -> bool:
    """Return whether a value is a data frame, a series, or a table of any library."""
    # looked up like a special method: some objects return something for any name
    return _kind_of(value) in _TABLES or hasattr(type(value), "__arrow_c_stream__")


def _kind_of(value: object) -> tuple[str, str]:
    kind = type(value)
    names = [(base.__module__.partition(".")[0], base.__name__) for base in kind.__mro__]
    return next((name for name in names if name in _TABLES), ("", ""))


def frame_table(frame: Any, column: str) -> Table:
    """
    Return a data frame as a table; a series is a table with one column, named `column`.

    Raises:
        ConfigError: reading it needs pyarrow, which is not installed.
        InvalidInputError: it is lazy, or is not a table.
    """
    return _TABLES.get(_kind_of(frame), _stream)(frame, column)


class _Polars:
    """A data frame of polars; columns of structs become columns with dots."""

    def __init__(self, frame: Any) -> None:
        self.label = _LABEL
        self._length = len(frame)
        columns = [column for one in frame for column in _fields(one, one.name)]
        self._columns = [series for _, series in columns]
        self.names: Sequence[str] = [name for name, _ in columns]
        self.exact: Sequence[float] = [
            _EXACT.get(_kind(series), EXACT_DOUBLE) for series in self._columns
        ]

    def rows(self, indexes: Sequence[int]) -> Iterator[tuple[int, Sequence[Any]]]:
        """Yield each row's number, from 1, and its cells."""
        columns = [self._columns[index] for index in indexes]
        for start in range(0, self._length, _PIECE_ROWS):
            pieces = [_polars_cells(column[start : start + _PIECE_ROWS]) for column in columns]
            yield from enumerate(zip(*pieces, strict=True), start + 1)


_EXACT = {"Float16": EXACT_HALF, "Float32": EXACT_SINGLE}
# Days since 1970 of the first and the last date of Python, and of the longest duration.
_FIRST_DAY, _LAST_DAY, _MOST_DAYS = -719_162, 2_932_896, 999_999_998
_PER_DAY = {"ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
_INT64 = 2**63


def _kind(series: Any) -> str:
    return type(series.dtype).__name__


def _fields(series: Any, name: str) -> Iterator[tuple[str, Any]]:
    if _kind(series) != "Struct":
        yield name, series
        return
    for field in series.struct.fields:
        yield from _fields(series.struct.field(field), f"{name}.{field}")


def _polars_cells(series: Any) -> Sequence[Any]:
    """Return cells; polars panics at dates that Python does not have, and copies long texts."""
    kind = _kind(series)
    if kind in {"Date", "Datetime", "Duration"}:
        if getattr(series.dtype, "time_zone", None) is not None:
            series = series.dt.convert_time_zone("UTC")
        return _marked(series, ~series.to_physical().is_between(*_bounds(series.dtype)), ODD_CELL)
    if kind == "String":
        return _marked(series, series.str.len_bytes() > MAX_CELL_BYTES, LONG_CELL)
    if kind == "Binary":
        return _marked(series, series.bin.size() > MAX_CELL_BYTES, LONG_CELL)
    if kind in {"Categorical", "Enum"}:
        return _category_cells(series)
    cells: Sequence[Any] = series.to_list()
    return cells


def _category_cells(series: Any) -> Sequence[Any]:
    """Return the cells of categories; each text is converted once, and shared."""
    used = series.unique()
    by_number = dict(zip(used.to_physical().to_list(), _polars_cells(used.cast(str)), strict=True))
    return [by_number[number] for number in series.to_physical().to_list()]


def _marked(series: Any, odd: Any, mark: object) -> Sequence[Any]:
    """Return the cells of a series, with a mark for those that are odd."""
    if not odd.any():
        cells: Sequence[Any] = series.to_list()
        return cells
    kept = series.zip_with(~odd.fill_null(value=False), series.clear(len(series))).to_list()
    return [mark if is_odd else cell for is_odd, cell in zip(odd.to_list(), kept, strict=True)]


def _bounds(kind: Any) -> tuple[int, int]:
    """Return the first and the last number that stands for a value of Python."""
    unit = _PER_DAY.get(getattr(kind, "time_unit", ""), 1)
    low, high = _FIRST_DAY, _LAST_DAY
    if type(kind).__name__ == "Duration":
        low, high = -_MOST_DAYS, _MOST_DAYS
    return max(low * unit, -_INT64), min((high + 1) * unit - 1, _INT64 - 1)


class _Pandas:
    """A data frame of pandas, without its index."""

    def __init__(self, frame: Any) -> None:
        self.label = _LABEL
        self._frame = frame.copy(deep=False)  # from pandas 3 on, it keeps its cells
        self.names: Sequence[str] = [
            name if isinstance(name, str) else "" for name in frame.columns.tolist()
        ]
        self.exact: Sequence[float] = [_pandas_exact(kind) for kind in frame.dtypes]

    def rows(self, indexes: Sequence[int]) -> Iterator[tuple[int, Sequence[Any]]]:
        """Yield each row's number, from 1, and its cells."""
        for start in range(0, len(self._frame), _PIECE_ROWS):
            piece = self._frame.iloc[start : start + _PIECE_ROWS]
            columns = [_pandas_cells(piece.iloc[:, index]) for index in indexes]
            yield from enumerate(zip(*columns, strict=True), start + 1)


def _pandas_cells(series: Any) -> Sequence[Any]:
    if hasattr(series.dtype, "pyarrow_dtype") or getattr(series.dtype, "storage", "") == "pyarrow":
        return array_cells(series.array.__arrow_array__())
    if getattr(series.dtype, "tz", None) is not None:
        # in another zone, times of the first and the last day may be outside of the years of Python
        series = series.dt.tz_convert("UTC")
    return read_cells(len(series), series.tolist, lambda index: series.iloc[index])


def _pandas_exact(kind: Any) -> float:
    """Return the number from which on a type is not exact, also if it wraps another type."""
    if hasattr(kind, "pyarrow_dtype"):
        return exact_of(kind.pyarrow_dtype)
    if hasattr(kind, "categories"):
        return _pandas_exact(kind.categories.dtype)
    if hasattr(kind, "subtype"):
        return _pandas_exact(kind.subtype)
    return exact_float(getattr(kind, "kind", "O"), getattr(kind, "itemsize", 0))


def _reject_lazy(_: Any, __: str) -> Table:
    raise InvalidInputError("items", "must be a data frame in memory: call collect() first")


def _stream(stream: Any, _: str) -> Table:
    return stream_table(_LABEL, stream)


def _array(cells: Any, column: str) -> Table:
    return column_table(_LABEL, cells, column)


# The functions that open a data frame as a table, by the kind of the frame; others are streams.
_TABLES: Mapping[tuple[str, str], Callable[[Any, str], Table]] = {
    ("polars", "DataFrame"): lambda frame, _: _Polars(frame),
    ("polars", "Series"): lambda series, column: _Polars(series.to_frame(column)),
    ("polars", "LazyFrame"): _reject_lazy,
    ("pandas", "DataFrame"): lambda frame, _: _Pandas(frame),
    ("pandas", "Series"): lambda series, column: _Pandas(series.to_frame(column)),
    ("pyarrow", "ChunkedArray"): _array,
    ("pyarrow", "Array"): _array,
}
