"""A reader of Parquet and Arrow IPC (Feather) files, batch by batch; it requires pyarrow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from adapty_async._input.cells import EXACT_DOUBLE, EXACT_HALF, EXACT_SINGLE
from adapty_async._runtime.extras import require
from adapty_async.errors import InvalidInputError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ("ArrowTable", "column_table", "open_arrow", "open_parquet", "stream_table")

_Read: TypeAlias = "Callable[[list[str]], Iterable[pa.RecordBatch]]"

# Rows that are converted at once.
_BATCH_ROWS = 1024
# Bytes of a column that are read at once: without a buffer, a whole row group is.
_BUFFER_BYTES = 1024 * 1024
_IPC_FILE = b"ARROW1\0\0"
_IPC_STREAM = b"\xff\xff\xff\xff"
_FEATHER_1 = b"FEA1"
# From these numbers on, a float does not hold each whole number.
_EXACT = {"halffloat": EXACT_HALF, "float": EXACT_SINGLE}


class ArrowTable:
    """
    A table of record batches; columns of structs become columns with dots.

    Args:
        label: the name of the table in messages.
        schema: the schema of the batches.
        read: returns the batches with at least the columns of these names.

    Attributes:
        label, names, exact: see `adapty_async._input.tables.Table`.
    """

    def __init__(self, label: str, schema: pa.Schema, read: _Read) -> None:
        self.label = label
        self._read = read
        flat = _flatten(schema.empty_table()).schema
        self.names: Sequence[str] = flat.names
        self.exact: Sequence[float] = [_EXACT.get(str(one), EXACT_DOUBLE) for one in flat.types]

    def rows(self, indexes: Sequence[int]) -> Iterator[tuple[int, Sequence[Any]]]:
        """Yield each row's number, from 1, and its cells."""
        names = [self.names[index] for index in indexes]
        number = 0
        for batch in self._read(names):
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                cells = _cells(batch.slice(start, _BATCH_ROWS), names)
                for number, row in enumerate(cells, number + 1):  # noqa: B020  across batches
                    yield number, row


def stream_table(label: str, stream: Any) -> ArrowTable:
    """
    Return what another library provides as a stream of Arrow, as a table in memory.

    Raises:
        ConfigError: pyarrow is not installed.
        InvalidInputError: it has no columns, or ends with an error.
    """
    require("pyarrow", "arrow")
    import pyarrow as pa  # noqa: PLC0415  an extra

    try:
        table = pa.table(stream)
    except Exception:  # noqa: BLE001  of any library; its text may have cells
        kind = type(stream).__name__
        raise InvalidInputError(
            "items", f"must be a data frame or a table: {kind} cannot be read as one"
        ) from None
    return ArrowTable(label, table.schema, lambda _: table.to_batches())


def column_table(label: str, cells: Any, name: str) -> ArrowTable:
    """Return an array of pyarrow, in one chunk or several, as a table with one column."""
    import pyarrow as pa  # noqa: PLC0415  an extra

    table = pa.table({name: cells})
    return ArrowTable(label, table.schema, lambda _: table.to_batches())


def _cells(batch: pa.RecordBatch, names: list[str]) -> Iterator[tuple[Any, ...]]:
    import pyarrow as pa  # noqa: PLC0415  an extra

    flat = _flatten(pa.Table.from_batches([batch]))
    found = flat.schema.names
    return zip(*(_values(flat.column(found.index(name))) for name in names), strict=True)


def _flatten(table: pa.Table) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415  an extra

    while any(map(pa.types.is_struct, table.schema.types)):
        table = table.flatten()
    return table


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Return the cells of a column; dates and times with a zone are in UTC, to the microsecond."""
    import pyarrow as pa  # noqa: PLC0415  an extra

    if pa.types.is_timestamp(column.type):
        zone = column.type.tz and "UTC"
        column = column.cast(pa.timestamp("us", zone), safe=False)
    values: list[Any] = column.to_pylist()
    return values


@contextlib.contextmanager
def open_parquet(path: str) -> Iterator[ArrowTable]:
    """
    Open a Parquet file; only the columns that are used are read.

    Raises:
        ConfigError: pyarrow is not installed.
        InvalidInputError: the file cannot be read.
    """
    require("pyarrow", "arrow")
    from pyarrow import parquet  # noqa: PLC0415  an extra

    with (
        _readable(path, "a Parquet file"),
        parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file,
    ):

        def read(names: list[str]) -> Iterable[pa.RecordBatch]:
            batches: Iterable[pa.RecordBatch] = file.iter_batches(
                _BATCH_ROWS, columns=names, use_threads=False
            )
            return batches

        yield ArrowTable(path, file.schema_arrow, read)


@contextlib.contextmanager
def open_arrow(path: str) -> Iterator[ArrowTable]:
    """
    Open a file or a stream of Arrow IPC, which Feather is since version 2.

    Raises:
        ConfigError: pyarrow is not installed.
        InvalidInputError: the file cannot be read.
    """
    require("pyarrow", "arrow")
    import pyarrow as pa  # noqa: PLC0415  an extra

    with _readable(path, "an Arrow file"), pa.OSFile(path) as file:
        head = file.read(len(_IPC_FILE))
        file.seek(0)
        if head.startswith(_FEATHER_1):
            raise InvalidInputError(path, "is a Feather file of version 1: write it as version 2")
        if head.startswith(_IPC_STREAM):
            reader = pa.ipc.open_stream(file)
            yield ArrowTable(path, reader.schema, lambda _: reader)
        else:
            reader = pa.ipc.open_file(file)
            numbers = range(reader.num_record_batches)
            yield ArrowTable(path, reader.schema, lambda _: map(reader.get_batch, numbers))


@contextlib.contextmanager
def _readable(path: str, kind: str) -> Iterator[None]:
    """Translate the errors of pyarrow, whose texts may have cells."""
    import pyarrow as pa  # noqa: PLC0415  an extra

    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError):
        raise InvalidInputError(path, f"is not {kind}, or is damaged") from None
    except OSError as error:
        reason = error.strerror or f"it is damaged, or is not {kind}"
        raise InvalidInputError(path, f"cannot be read: {reason}") from None
