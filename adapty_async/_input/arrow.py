"""A reader of Parquet and Arrow IPC (Feather) files, batch by batch; it requires pyarrow."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from adapty_async._input.cells import (
    EXACT_DOUBLE,
    EXACT_HALF,
    EXACT_SINGLE,
    LONG_CELL,
    MAX_CELL_BYTES,
    read_cells,
)
from adapty_async._input.files import JOINED, require_one_file
from adapty_async._runtime.extras import require
from adapty_async.errors import InvalidInputError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

_Read: TypeAlias = "Callable[[list[str]], Iterable[pa.RecordBatch]]"

# Rows that are converted at once.
_BATCH_ROWS = 1024
# Bytes of a column that are read at once: without a buffer, a whole row group is.
_BUFFER_BYTES = 1024 * 1024
_IPC_FILE = b"ARROW1\0\0"
# The end of a file, followed by the beginning of another one. The end of a file has positions from
# its beginning, so rows of the first one would be read as those of the last.
_PARQUET_JOINT = b"PAR1PAR1"
_IPC_JOINT = b"ARROW1" + _IPC_FILE
_IPC_STREAM = b"\xff\xff\xff\xff"
_FEATHER_1 = b"FEA1"
# Units that may be out of range in microseconds.
_COARSE = frozenset({"s", "ms"})
# From these numbers on, a float does not hold each whole number.
_EXACT = {"halffloat": EXACT_HALF, "float": EXACT_SINGLE}


class _Column(NamedTuple):
    """A column without fields: its name with dots, and the indexes that lead to it in structs."""

    name: str
    path: tuple[int, ...]
    type: pa.DataType


class ArrowTable:
    """
    A table of record batches; columns of structs become columns with dots.

    Args:
        label: the name of the table in messages.
        schema: the schema of the batches.
        read: returns the batches with at least the columns of these names.
        is_trusted: whether the bytes are known to be Arrow's; those of a file are validated before
            a cell is read, since a wrong offset in it reads bytes that are none of the cell's.

    Attributes:
        label, names, exact: see `adapty_async._input.tables.Table`.
    """

    def __init__(
        self, label: str, schema: pa.Schema, read: _Read, *, is_trusted: bool = True
    ) -> None:
        self.label = label
        self._read = read
        self._is_trusted = is_trusted
        columns = list(_columns(schema))
        self.names: Sequence[str] = [column.name for column in columns]
        self.exact: Sequence[float] = [exact_of(column.type) for column in columns]

    def rows(self, indexes: Sequence[int]) -> Iterator[tuple[int, Sequence[Any]]]:
        """Yield each row's number, from 1, and its cells."""
        names = [self.names[index] for index in indexes]
        number = 0
        for batch in self._read(names):
            arrays = self._arrays(batch, names)
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                pieces = [_values(array.slice(start, _BATCH_ROWS)) for array in arrays]
                cells = zip(*pieces, strict=True)
                for number, row in enumerate(cells, number + 1):  # noqa: B020  across batches
                    yield number, row

    def _arrays(self, batch: pa.RecordBatch, names: list[str]) -> list[pa.Array]:
        at = {column.name: column.path for column in _columns(batch.schema)}
        paths = [at[name] for name in names]
        if not self._is_trusted:
            for index in {path[0] for path in paths}:
                batch.column(index).validate(full=True)
        return [_array_at(batch, path) for path in paths]


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


def array_cells(cells: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return the cells of an array of pyarrow, in one chunk or several."""
    return [cell for chunk in getattr(cells, "chunks", [cells]) for cell in _values(chunk)]


def exact_of(kind: pa.DataType) -> float:
    """Return the number from which on the floats of a column may have lost digits."""
    import pyarrow as pa  # noqa: PLC0415  an extra

    if isinstance(kind, pa.BaseExtensionType):
        return exact_of(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return exact_of(kind.value_type)
    if pa.types.is_union(kind):
        return min((exact_of(field.type) for field in kind), default=EXACT_DOUBLE)
    return _EXACT.get(str(kind), EXACT_DOUBLE)


def _columns(
    fields: Iterable[pa.Field], before: str = "", path: tuple[int, ...] = ()
) -> Iterator[_Column]:
    import pyarrow as pa  # noqa: PLC0415  an extra

    for index, field in enumerate(fields):
        name, at = before + field.name, (*path, index)
        if pa.types.is_struct(field.type):
            yield from _columns(field.type, f"{name}.", at)
        else:
            yield _Column(name, at, field.type)


def _array_at(batch: pa.RecordBatch, path: tuple[int, ...]) -> pa.Array:
    """Return a column, or a field of one; it is missing in the rows whose struct is."""
    first, *rest = path
    array = batch.column(first)
    for index in rest:
        array = array.flatten()[index]
    return array


def _values(cells: pa.Array) -> Sequence[Any]:
    """Return the cells of a column; dates and times with a zone are in UTC, to the microsecond."""
    import pyarrow as pa  # noqa: PLC0415  an extra

    kind = cells.type
    if pa.types.is_dictionary(kind):
        return _dictionary_values(cells)
    if pa.types.is_run_end_encoded(kind):
        return _run_values(cells)
    if pa.types.is_timestamp(kind):
        cells = _microseconds(cells)
    elif _is_bytes(kind):
        return _short_values(cells)
    return read_cells(len(cells), cells.to_pylist, lambda index: cells[index].as_py())


def _is_bytes(kind: pa.DataType) -> bool:
    names = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return str(kind) in names


def _microseconds(cells: pa.Array) -> pa.Array:
    import pyarrow as pa  # noqa: PLC0415  an extra

    kind = pa.timestamp("us", cells.type.tz and "UTC")
    try:
        return cells.cast(kind, safe=cells.type.unit in _COARSE)
    except pa.ArrowInvalid:  # out of range
        return cells.cast(pa.timestamp(cells.type.unit, kind.tz))


def _short_values(cells: pa.Array) -> Sequence[Any]:
    """Return text or bytes; one that is too long is not copied."""
    from pyarrow import compute as untyped  # noqa: PLC0415  an extra

    compute: Any = untyped  # it makes its functions when it is imported
    lengths = compute.binary_length(_plain_text(cells))
    if (compute.max(lengths).as_py() or 0) <= MAX_CELL_BYTES:
        return read_cells(len(cells), cells.to_pylist, lambda index: cells[index].as_py())
    return [
        LONG_CELL if (length or 0) > MAX_CELL_BYTES else _values(cells.slice(index, 1))[0]
        for index, length in enumerate(lengths.to_pylist())
    ]


def _plain_text(cells: pa.Array) -> pa.Array:
    """Return text without views, whose length compute functions do not know."""
    import pyarrow as pa  # noqa: PLC0415  an extra

    return cells.cast(pa.large_binary()) if str(cells.type).endswith("_view") else cells


def _dictionary_values(cells: pa.DictionaryArray) -> Sequence[Any]:
    """Return the cells of a dictionary; each of its values is converted once, and shared."""
    used = cells.indices.unique().drop_null()
    values = _values(cells.dictionary.take(used))
    by_index = dict(zip(used.to_pylist(), values, strict=True))
    return [by_index.get(index) for index in cells.indices.to_pylist()]


def _run_values(cells: pa.RunEndEncodedArray) -> Sequence[Any]:
    """Return the cells of runs; each value is converted once, and shared."""
    first, count = cells.find_physical_offset(), cells.find_physical_length()
    values = _values(cells.values.slice(first, count))
    found: list[Any] = []
    for value, end in zip(values, cells.run_ends.slice(first, count).to_pylist(), strict=True):
        found += [value] * (min(end - cells.offset, len(cells)) - len(found))
    return found


@contextlib.contextmanager
def open_parquet(path: str) -> Iterator[ArrowTable]:
    """
    Open a Parquet file; only the columns that are used are read.

    Raises:
        ConfigError: pyarrow is not installed.
        InvalidInputError: the file cannot be read.
    """
    require("pyarrow", "arrow")
    with _readable(path, "a Parquet file"), _parquet(path, []) as file:
        require_one_file(path, _PARQUET_JOINT)
        # Parquet has no offsets that could be wrong: its decoder makes them
        yield ArrowTable(path, file.schema_arrow, lambda names: _parquet_batches(path, file, names))


def _parquet(path: str, shared: list[str]) -> parquet.ParquetFile:
    """Open a file; the columns in `shared` are read with each value once."""
    from pyarrow import parquet  # noqa: PLC0415  an extra

    return parquet.ParquetFile(
        Path(path).absolute(),  # a relative one, such as s3:x.parquet, could be an address
        buffer_size=_BUFFER_BYTES,
        pre_buffer=False,
        read_dictionary=shared,
        # as Spark writes times; nanoseconds, the default, have no year 9999 and become another one
        coerce_int96_timestamp_unit="us",
    )


def _parquet_batches(
    path: str, file: parquet.ParquetFile, names: list[str]
) -> Iterator[pa.RecordBatch]:
    shared = _long_columns(path, file, names)
    with _parquet(path, shared) if shared else contextlib.nullcontext(file) as source:
        yield from source.iter_batches(_BATCH_ROWS, columns=names, use_threads=False)


def _long_columns(path: str, file: parquet.ParquetFile, names: list[str]) -> list[str]:
    """
    Return the columns in which a value is too long, but stored once for many rows.

    Otherwise each row would get its copy before the length is known. Reading columns with each
    value once takes longer, so the others are not read like that.
    """
    leaves = map(file.schema.column, range(len(file.schema)))
    texts = [one.path for one in leaves if one.path in names and one.physical_type == "BYTE_ARRAY"]
    # not the metadata of its columns: reading those of a damaged file may end the process
    large = [
        group
        for group in range(file.metadata.num_row_groups)
        if file.metadata.row_group(group).total_byte_size > MAX_CELL_BYTES
    ]
    if not texts or not large:
        return []
    with _parquet(path, texts) as source:
        return [name for name in texts if any(_has_long(source, one, name) for one in large)]


def _has_long(source: parquet.ParquetFile, group: int, name: str) -> bool:
    """Return whether a long value is among those that a group of rows stores once."""
    batches = source.iter_batches(1, row_groups=[group], columns=[name], use_threads=False)
    return any(LONG_CELL in _shared_values(one, name) for one in itertools.islice(batches, 1))


def _shared_values(batch: pa.RecordBatch, name: str) -> Sequence[Any]:
    paths = {column.name: column.path for column in _columns(batch.schema)}
    cells = _array_at(batch, paths[name])
    return _values(getattr(cells, "dictionary", cells))


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
            read: _Read = lambda _: _whole_stream(path, file, reader)  # noqa: E731  one of two
        else:
            reader = pa.ipc.open_file(file)
            require_one_file(path, _IPC_JOINT)
            numbers = range(reader.num_record_batches)
            read = lambda _: map(reader.get_batch, numbers)  # noqa: E731
        yield ArrowTable(path, reader.schema, read, is_trusted=False)


def _whole_stream(
    path: str, file: pa.NativeFile, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """
    Yield the batches of a stream, which is all that is in its file.

    Raises:
        InvalidInputError: something follows the stream, such as another one.
    """
    yield from batches
    if file.tell() < file.size():
        raise InvalidInputError(path, JOINED)


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
