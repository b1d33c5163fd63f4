"""
Files and data frames as the items of bulk runs: ids, pairs of an id and a struct, and structs.

A row that is not an item stays in its position as an `UnreadableRow`, and fails alone.
"""

from __future__ import annotations

import array
import bisect
import inspect
import logging
import os
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar, cast

from adapty_async._input.files import known_encoding
from adapty_async._input.findings import Findings, shown
from adapty_async._input.frames import DataFrame, frame_table, is_frame
from adapty_async._input.layout import TABLE_FORMATS, Format, Layout, Row, require_format
from adapty_async._input.mapping import ColumnOptions, RowMapping, preset_of
from adapty_async._input.rows import Rows, SizedRows, open_rows
from adapty_async._input.schema import ColumnSchema
from adapty_async._input.tables import Table, read_table
from adapty_async.errors import InvalidInputError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_logger = logging.getLogger("adapty_async")


class InputFile:
    """
    A file of rows that bulk methods take as their items, as the command line does.

    CSV, NDJSON, text with one id a line, Parquet, Arrow IPC (Feather) and spreadsheets. The ids are
    in the column named like `by`; other columns are named after the fields of the call. When a bulk
    method gets the file, it reads it through once, which blocks: it counts the rows, and logs a
    warning if ids look damaged or columns are left out. With a journal, the rows are identified by
    their position, and a file that has changed, or is read in another way, is rejected.

    Args:
        path: the file.
        format: ``"csv"``, ``"ndjson"``, ``"text"``, ``"parquet"``, ``"arrow"`` or ``"excel"``; by
            default, by the name.
        encoding: the encoding of text without a byte order mark; UTF-8 by default.
        sheet: the sheet of a spreadsheet; by default the only visible one.
        id_column: the column with the ids, if it is not named like `by`.
        columns: the field of a column, or the fields, by the name of the column.
        constants: text by field, for every row.
        preset: ``"revenuecat"``, ``"segment"`` or ``"adapty-s3"``: an export whose columns are
            known.
        ignore_unknown: leave unknown columns out; otherwise they are an error.
        skip_rows_without_id: leave out rows of a CSV file or a table that have no id, and log how
            many they are; otherwise they fail.

    Attributes:
        path, format, encoding, sheet, skip_rows_without_id: as above; the encoding has Python's
            name.

    Raises:
        InvalidInputError: an argument is not one of those allowed, or has another type.
    """

    def __init__(  # noqa: PLR0913  the options of a file are independent of each other
        self,
        path: str | os.PathLike[str],
        *,
        format: Format | None = None,  # noqa: A002  the name of the option
        encoding: str | None = None,
        sheet: str | None = None,
        id_column: str | None = None,
        columns: Mapping[str, str | Sequence[str]] | None = None,
        constants: Mapping[str, str] | None = None,
        preset: str | None = None,
        ignore_unknown: bool = False,
        skip_rows_without_id: bool = False,
    ) -> None:
        if format is not None:
            require_format(format)
        for name, value in (("sheet", sheet), ("id_column", id_column), ("encoding", encoding)):
            if value is not None and (not isinstance(value, str) or not value):
                raise InvalidInputError(name, "must be text that is not empty")
        preset_of(preset)
        self.path = _path_of(path)
        self.format: Format | None = format
        self.encoding = None if encoding is None else known_encoding(encoding)
        self.sheet = sheet
        self.skip_rows_without_id = skip_rows_without_id
        self._options = ColumnOptions(
            columns=_column_pairs(columns),
            constants=_constants(constants),
            preset=preset,
            ignore_unknown=ignore_unknown,
            id_column=id_column,
        )

    def __repr__(self) -> str:
        return f"InputFile({self.path!r})"

    def line_numbers(self, by: str) -> list[int]:
        """
        Return the line, or the row of a table, of each item of a file of ids, by `Outcome.index`.

        Args:
            by: the `by` of the bulk method.

        Raises:
            ConfigError: an extra is not installed.
            InvalidInputError: the file cannot be read, or has no column with the ids.
        """
        return [row.line for row in _open(self, RowMapping(self._options, None, by))]


def _path_of(path: object) -> str:
    if not isinstance(path, str | os.PathLike):
        raise InvalidInputError("path", f"must be text or a path, not {type(path).__name__}")
    found = os.fspath(path)
    if not isinstance(found, str):
        raise InvalidInputError("path", "must be a path of text, not of bytes")
    return found


def _column_pairs(columns: object) -> tuple[tuple[str, str], ...]:
    if columns is not None and not isinstance(columns, Mapping):
        raise InvalidInputError("columns", "must be a mapping from columns to fields")
    pairs = tuple(
        (column, field)
        for column, fields in (columns or {}).items()
        for field in (fields if _is_list(fields) else [fields])
    )
    if not all(isinstance(name, str) for pair in pairs for name in pair):
        raise InvalidInputError("columns", "must map each column to a field, or a list of fields")
    return pairs


def _is_list(fields: object) -> bool:
    return isinstance(fields, Sequence) and not isinstance(fields, str)


def _constants(constants: object) -> Mapping[str, str]:
    if constants is None:
        return {}
    if not isinstance(constants, Mapping) or not all(
        isinstance(part, str) for pair in constants.items() for part in pair
    ):
        raise InvalidInputError("constants", 'must map fields to text, such as "true" and "9.99"')
    return dict(constants)


#: A file, or a data frame of polars or pandas, or a table of pyarrow.
TableSource: TypeAlias = InputFile | DataFrame
# One of these is a name of each data frame and series, old or new.
_FRAME_NAMES = ("__arrow_c_stream__", "__arrow_c_array__", "__dataframe__", "dtypes")
_Items: TypeAlias = Iterable[ItemT] | AsyncIterable[ItemT]


class UnreadableRow:
    """
    A row that is not an item; its outcome is ``failed``, with the error.

    Attributes:
        line: the number of its first line, or of the row of a table.
        error: why it is not an item.
    """

    __slots__ = ("error", "line")

    def __init__(self, line: int, error: InvalidInputError) -> None:
        self.line = line
        self.error = error

    def __repr__(self) -> str:
        return f"UnreadableRow(line={self.line})"


class FrameRows:
    """
    The rows of a data frame, counted in advance.

    Attributes:
        noun: what its rows are numbered by.
        findings: counts of suspicious rows.
    """

    noun = "row"

    def __init__(self, table: Table, layout: Layout) -> None:
        self._table = table
        self._layout = layout
        self.findings = Findings(layout.id_column, self.noun)
        self._length = sum(1 for _ in read_table(table, layout, self.findings))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Row]:
        return read_table(self._table, self._layout, Findings(noun=self.noun))


class _LineNumbers:
    """
    A run-length encoded map from positions to line numbers.

    It takes 16 bytes for each row that is not on the line after the previous row.
    """

    def __init__(self) -> None:
        self._count = 0
        self._starts = array.array("q")  # the positions at which the shift changes
        self._shifts = array.array("q")  # line number minus position, from each start on

    def append(self, line: int) -> None:
        """Add the line of the next position."""
        shift = line - self._count
        if not self._shifts or self._shifts[-1] != shift:
            self._starts.append(self._count)
            self._shifts.append(shift)
        self._count += 1

    def __getitem__(self, position: int) -> int:
        return position + self._shifts[bisect.bisect_right(self._starts, position) - 1]


class TableItems(Generic[ItemT]):
    """
    The items of a data frame or a file, in order; they can be read again.

    Args:
        rows: the rows.
        make: makes an item of a row's value.
    """

    def __init__(self, rows: FrameRows | SizedRows, make: Callable[[Any], ItemT]) -> None:
        self._rows = rows
        self._make = make
        self._lines = _LineNumbers()  # of the items that the latest iterator has read

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[ItemT]:
        self._lines = _LineNumbers()
        return map(self._item, self._rows)

    def line_of(self, position: int) -> int:
        """Return the line of the item at a position that was read, or its row in a table."""
        return self._lines[position]

    def _item(self, row: Row) -> ItemT:
        self._lines.append(row.line)
        try:
            if row.broken is not None:
                raise InvalidInputError(f"{self._rows.noun} {row.line}", row.broken)
            return self._make(row.value)
        except InvalidInputError as error:
            return cast("ItemT", UnreadableRow(row.line, error.with_traceback(None)))


class _FileItems(TableItems[ItemT]):
    """The items of a file, which a journal identifies by their positions."""

    def __init__(
        self,
        rows: SizedRows,
        make: Callable[[Any], ItemT],
        reading: str,
        read_as: dict[str, str | bool | None],
    ) -> None:
        super().__init__(rows, make)
        self._file = rows
        self._reading = reading  # identifies how its rows are read
        self._read_as = read_as  # what a report needs to find their ids again

    def identity(self) -> dict[str, Any]:
        """Return the size, the digest and the number of rows of the file, and how it is read."""
        return self._file.identity() | {"reading": self._reading, "read_as": self._read_as}

    def difference(self, earlier: dict[str, Any]) -> str | None:
        """Return how the input differs from an earlier one; None if its rows are the same."""
        if "sha256" in earlier and earlier.get("reading") != self._reading:
            return "the file was read with another format, encoding, sheet or column mapping"
        return self._file.difference(earlier)


def checked(build: Callable[[ItemT], ResultT]) -> Callable[[ItemT], ResultT]:
    """Return a function that builds operations, and raises the error of an unreadable row."""

    def build_checked(item: ItemT) -> ResultT:
        if isinstance(item, UnreadableRow):
            raise item.error
        return build(item)

    return build_checked


def ids_in(items: _Items[str] | TableSource, by: str) -> _Items[str]:
    """
    Return the ids in a file or a data frame; other items as they are.

    Raises:
        ConfigError: an extra is not installed.
        InvalidInputError: it cannot be read, or has no column with the ids.
    """
    if not _is_table(items):
        return cast("_Items[str]", items)
    return _items_in(items, mapping := _mapping_of(items, None, by), mapping.id)


def pairs_in(
    items: _Items[tuple[str, ItemT]] | TableSource, by: str, schema: ColumnSchema
) -> _Items[tuple[str, ItemT]]:
    """
    Return the pairs of an id and a struct in a file or a data frame; other items as they are.

    Raises:
        ConfigError: an extra is not installed.
        InvalidInputError: it cannot be read, or a column is missing or unknown.
    """
    if not _is_table(items):
        return cast("_Items[tuple[str, ItemT]]", items)
    return _items_in(items, mapping := _mapping_of(items, schema, by), mapping.item)


def structs_in(items: _Items[ItemT] | TableSource, schema: ColumnSchema) -> _Items[ItemT]:
    """
    Return the structs in a file or a data frame; other items as they are.

    Raises:
        ConfigError: an extra is not installed.
        InvalidInputError: it cannot be read, or a column is missing or unknown.
    """
    if not _is_table(items):
        return cast("_Items[ItemT]", items)
    return _items_in(items, mapping := _mapping_of(items, schema, None), mapping.struct)


def require_no_table(items: object) -> None:
    """
    Validate that items are neither a file nor a data frame: iterating one would give its columns.

    Raises:
        InvalidInputError: they are.
    """
    if _is_table(items):
        raise InvalidInputError(
            "items",
            "must not be a data frame or an InputFile: this method has no columns for its items. "
            "Pass a list of items, such as frame.to_dict('records')",
        )


def _is_table(items: object) -> bool:
    """
    Return whether items are a file or a data frame.

    Raises:
        InvalidInputError: iterating them would give the names of columns, or keys.
    """
    if isinstance(items, InputFile):
        return True
    if isinstance(items, Mapping):
        raise InvalidInputError(
            "items", "must not be a mapping, whose keys would be the items: pass a list of items"
        )
    if not any(_has(items, name) for name in _FRAME_NAMES):
        return False
    if is_frame(items):
        return True
    if _has(items, "__dataframe__") or (_has(items, "columns") and _has(items, "dtypes")):
        raise InvalidInputError(
            "items",
            f"must not be a data frame of the type {type(items).__name__}, whose columns would be "
            "the items: convert it to one of pandas, polars or pyarrow, such as with compute()",
        )
    return False


def _has(value: object, name: str) -> bool:
    """Return whether a value or its type has a name, without running code of the value."""
    return inspect.getattr_static(value, name, None) is not None


def _mapping_of(items: object, schema: ColumnSchema | None, id_field: str | None) -> RowMapping:
    options = ColumnOptions()
    if isinstance(items, InputFile):
        options = items._options  # noqa: SLF001  not for users
    return RowMapping(options, schema, id_field)


def _items_in(items: object, mapping: RowMapping, make: Callable[[Any], Any]) -> TableItems[Any]:
    """Open a file or a data frame; `make` is the method of the mapping that makes an item."""
    if isinstance(items, InputFile):
        rows = _open(items, mapping)
        if not isinstance(rows, SizedRows):
            raise InvalidInputError(items.path, "must be a file, not a pipe")
        if rows.form == "text" and make != mapping.id:
            raise InvalidInputError(
                items.path, "must be CSV, NDJSON or a table: a line of text is an id only"
            )
        rows.findings.ignored = mapping.ignored
        _warn(rows.findings, items.path)
        encoding = items.encoding or "utf-8"  # without meaning for tables, which have none
        reading = mapping.identity(rows.form, encoding, items.sheet)
        if items.skip_rows_without_id:
            reading = f"{reading}, with an id"  # which changes the positions
        return _FileItems(rows, make, reading, _read_as(items, mapping, rows.form))
    layout = Layout(
        form="arrow",
        check_columns=mapping.check,
        id_column=mapping.id_column,
        is_number=mapping.is_number,
    )
    found = FrameRows(frame_table(items, mapping.id_column), layout)
    _warn(found.findings, "the data frame")
    return TableItems(found, make)


def _open(file: InputFile, mapping: RowMapping) -> Rows:
    return open_rows(
        file.path,
        file.format,
        mapping.check,
        check_keys=mapping.check_keys,
        encoding=file.encoding,
        id_column=mapping.id_column,
        id_optional=file.skip_rows_without_id,
        sheet=file.sheet,
        is_number=mapping.is_number,
        matters=mapping.matters,
    )


def _read_as(items: InputFile, mapping: RowMapping, form: str) -> dict[str, str | bool | None]:
    """Return the names by which `adapty_async.cli` reads the ids of a file again."""
    return {
        "form": form,
        "encoding": None if form in TABLE_FORMATS else items.encoding or "utf-8",
        "sheet": items.sheet,
        "column": mapping.id_column,
        "skip_rows_without_id": items.skip_rows_without_id,
    }


def _warn(findings: Findings, label: str) -> None:
    """Log what was found as one record: its lines belong together."""
    if lines := findings.lines():
        column = findings.id_column  # one file may be the input of several runs
        where = label if column is None else f'{label}, ids in "{shown(column)}"'
        _logger.warning("%s: %s", where, "\n".join(lines))
