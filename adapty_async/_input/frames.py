"""Data frames as tables: those of polars and pandas, and what else is a stream of Arrow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from adapty_async._input.arrow import ArrowTable, column_table, stream_table
from adapty_async._input.cells import EXACT_DOUBLE, EXACT_HALF, EXACT_SINGLE
from adapty_async._input.tables import Table
from adapty_async.errors import InvalidInputError

__all__ = ("DataFrame", "frame_table", "is_frame")

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
        while nested := [one.name for one in frame if type(one.dtype).__name__ == "Struct"]:
            frame = frame.unnest(nested, separator=".")
        self._frame = frame
        self.names: Sequence[str] = frame.columns
        self.exact: Sequence[float] = [
            _EXACT.get(str(kind).lower(), EXACT_DOUBLE) for kind in frame.dtypes
        ]

    def rows(self, indexes: Sequence[int]) -> Iterator[tuple[int, Sequence[Any]]]:
        """Yield each row's number, from 1, and its cells."""
        selected = self._frame[:, list(indexes)]
        return enumerate(selected.iter_rows(buffer_size=_PIECE_ROWS), 1)


class _Pandas:
    """A data frame of pandas, without its index."""

    def __init__(self, frame: Any) -> None:
        self.label = _LABEL
        self._frame = frame
        self.names: Sequence[str] = [
            name if isinstance(name, str) else "" for name in frame.columns.tolist()
        ]
        self.exact: Sequence[float] = [
            _EXACT.get(str(kind).lower(), EXACT_DOUBLE) for kind in frame.dtypes
        ]

    def rows(self, indexes: Sequence[int]) -> Iterator[tuple[int, Sequence[Any]]]:
        """Yield each row's number, from 1, and its cells."""
        for start in range(0, len(self._frame), _PIECE_ROWS):
            piece = self._frame.iloc[start : start + _PIECE_ROWS]
            columns = [piece.iloc[:, index].tolist() for index in indexes]
            yield from enumerate(zip(*columns, strict=True), start + 1)


_EXACT = {
    "float16": EXACT_HALF,
    "float32": EXACT_SINGLE,
    "float[pyarrow]": EXACT_SINGLE,
    "halffloat[pyarrow]": EXACT_HALF,
}


def _pandas(frame: Any, _: str) -> Table:
    return _Pandas(frame)


def _reject_lazy(_: Any, __: str) -> Table:
    raise InvalidInputError("items", "must be a data frame in memory: call collect() first")


def _arrow(table: Any, _: str) -> Table:
    return ArrowTable(_LABEL, table.schema, lambda _: table.to_batches())


def _record_batch(batch: Any, _: str) -> Table:
    return ArrowTable(_LABEL, batch.schema, lambda _: [batch])


def _stream(stream: Any, _: str) -> Table:
    return stream_table(_LABEL, stream)


def _array(cells: Any, column: str) -> Table:
    return column_table(_LABEL, cells, column)


_TABLES: Mapping[tuple[str, str], Callable[[Any, str], Table]] = {
    ("polars", "DataFrame"): lambda frame, _: _Polars(frame),
    ("polars", "Series"): lambda series, column: _Polars(series.to_frame(column)),
    ("polars", "LazyFrame"): _reject_lazy,
    ("pandas", "DataFrame"): _pandas,
    ("pandas", "Series"): lambda series, column: _Pandas(series.to_frame(column)),
    ("pyarrow", "Table"): _arrow,
    ("pyarrow", "RecordBatch"): _record_batch,
    ("pyarrow", "ChunkedArray"): _array,
    ("pyarrow", "Array"): _array,
}
