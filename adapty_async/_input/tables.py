"""
A reader of tables with typed cells as rows: Parquet, Arrow and Excel files, and data frames.

Invariants:

- Only the columns that matter are read and converted; an odd cell elsewhere costs nothing.
- A cell that cannot be used costs only its row. The message names the column, and no value.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from adapty_async._input.cells import UnusableCellError, id_text, number, plain, text
from adapty_async._input.findings import Findings, escaped

__all__ = ("ColumnCheck", "Table", "table_rows")

#: Receives the names of the columns, without those that are empty, and raises what is wrong with
#: them. It returns the names that matter; None if all do.
ColumnCheck: TypeAlias = Callable[[list[str]], Collection[str] | None]
# Characters of a cell that cannot be used, for the failures file.
_SHOWN_CHARACTERS = 100
_Convert: TypeAlias = Callable[[Any], Any]


class Table(Protocol):
    """
    The interface of an open table.

    Attributes:
        label: the name of the table in messages: a file, and the sheet in it.
        names: the names of the columns, as they are.
        exact: for each column the number from which on its floats may have lost digits.
    """

    label: str
    names: Sequence[str]
    exact: Sequence[float]

    def rows(self, indexes: Sequence[int]) -> Iterator[tuple[int, Sequence[Any]]]:
        """Yield the number of each row, and its cells in the columns with these indexes."""
        ...


class TableRow(msgspec.Struct, frozen=True):
    """
    A row of a table.

    Attributes:
        number: its number.
        cells: the cells by column, without those that are missing; the beginning of the text of
            those that cannot be used.
        fault: why the row cannot be used; None if it can be.
    """

    number: int
    cells: dict[str, Any]
    fault: str | None


def table_rows(
    table: Table,
    check: ColumnCheck,
    id_column: str | None,
    is_number: Callable[[str], bool],
    findings: Findings,
) -> Iterator[TableRow]:
    """
    Yield the rows of a table with the columns that matter.

    Args:
        table: the table.
        check: see `ColumnCheck`.
        id_column: the column with the ids; None if no id is checked.
        is_number: returns whether numbers in a column stay numbers; otherwise they become text.
        findings: counts the ids that are floats.

    Raises:
        InvalidInputError: the check rejects the columns.
    """
    names = [name.strip() for name in table.names]
    used = check([name for name in names if name])
    indexes = [i for i, name in enumerate(names) if name and (used is None or name in used)]
    id_at: int | None = None
    converters: list[tuple[str, _Convert]] = []
    for at, index in enumerate(indexes):
        name = names[index]
        convert = number if is_number(name) else text
        if name == id_column:
            id_at, convert = at, id_text
        converters.append((name, functools.partial(convert, exact=table.exact[index])))
    for row_number, values in table.rows(indexes):
        row = _row(row_number, converters, values, table.label)
        if id_at is not None and row.fault is None and isinstance(plain(values[id_at]), float):
            findings.add("number", row_number)
        yield row


def _row(
    row_number: int, converters: Iterable[tuple[str, _Convert]], values: Sequence[Any], label: str
) -> TableRow:
    cells: dict[str, Any] = {}
    fault = None
    for (name, convert), value in zip(converters, values, strict=True):
        if value is None:
            continue
        try:
            cell = convert(value)
        except UnusableCellError as error:
            fault = fault or f'{label}: the cell in column "{escaped(name)}" {error}'
            cells[name] = str(value)[:_SHOWN_CHARACTERS]
        else:
            if cell is not None:
                cells[name] = cell
    return TableRow(row_number, cells, fault)
