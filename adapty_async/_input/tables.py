"""
A reader of tables with typed cells as rows: Parquet, Arrow and Excel files, and data frames.

Invariants:

- Only the columns that matter are read and converted; an odd cell elsewhere costs nothing.
- A cell that cannot be used costs only its row. The message names the column, and no value.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

from adapty_async._input.cells import UnusableCellError, id_text, number, plain, text
from adapty_async._input.findings import Findings, escaped
from adapty_async._input.layout import Layout, Row

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


def read_table(table: Table, layout: Layout, findings: Findings) -> Iterator[Row]:
    """
    Yield the rows of an open table, with the columns that matter.

    Raises:
        InvalidInputError: the layout's check rejects the columns.
    """
    names = [name.strip() for name in table.names]
    used = layout.check_columns([name for name in names if name])
    indexes = [index for index, name in enumerate(names) if name in used]
    columns = [names[index] for index in indexes]
    converters = [
        (name, functools.partial(_converter(name, layout), exact=table.exact[index]))
        for name, index in zip(columns, indexes, strict=True)
    ]
    id_at = next((at for at, name in enumerate(columns) if name == layout.id_column), None)
    needed = layout.needed_column
    for row_number, values in table.rows(indexes):
        cells, fault = _converted(converters, values)
        # first, so that rows have the same positions for a reader of ids alone, such as a report
        if needed is not None and needed not in cells:
            findings.without_id += 1
        elif fault is not None:
            # not msgspec: the text of an object in a data frame may have lone surrogates
            readable = json.dumps(cells, ensure_ascii=False, separators=(",", ":"))
            yield Row(row_number, readable, f"{table.label}: {fault}")
        else:
            if id_at is not None and isinstance(plain(values[id_at]), float):
                findings.add("number", row_number)
            findings.add_row(row_number, cells)
            yield Row(row_number, cells)


def _converter(name: str, layout: Layout) -> Callable[..., Any]:
    if name == layout.id_column:
        return id_text
    return number if layout.is_number(name) else text


def _converted(
    converters: Iterable[tuple[str, _Convert]], values: Sequence[Any]
) -> tuple[dict[str, Any], str | None]:
    """
    Return the cells that are not missing, by column, and why the row cannot be used.

    Of a cell that cannot be used it is the beginning of its text.
    """
    cells: dict[str, Any] = {}
    fault = None
    for (name, convert), value in zip(converters, values, strict=True):
        if value is None:
            continue
        try:
            cell = convert(value)
        except UnusableCellError as error:
            fault = fault or f'the cell in column "{escaped(name)}" {error}'
            cells[name] = str(value)[:_SHOWN_CHARACTERS]
        else:
            if cell is not None:
                cells[name] = cell
    return cells, fault
