"""Shared parts of the tests of tables: writers of all formats, and a reader of rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import openpyxl
import pyarrow as pa
from pyarrow import feather, parquet

from adapty_async._input.layout import Row
from adapty_async._input.rows import SizedRows, open_rows

Cells: TypeAlias = Mapping[str, Sequence[Any]]


def write_parquet(path: Path, cells: Cells | pa.Table, **options: Any) -> Path:
    """Write columns as a Parquet file."""
    parquet.write_table(
        cells if isinstance(cells, pa.Table) else pa.table(dict(cells)), path, **options
    )
    return path


def write_feather(path: Path, cells: Cells | pa.Table, **options: Any) -> Path:
    """Write columns as an Arrow IPC file."""
    table = cells if isinstance(cells, pa.Table) else pa.table(dict(cells))
    feather.write_feather(table, path, **options)
    return path


def write_stream(path: Path, table: pa.Table) -> Path:
    """Write a table as an Arrow IPC stream."""
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)
    return path


def write_excel(path: Path, rows: Sequence[Sequence[Any]], sheet: str = "Users") -> Path:
    """Write rows as the only sheet of a spreadsheet; text never becomes a formula."""
    book = openpyxl.Workbook()
    page = book.active
    page.title = sheet
    for number, row in enumerate(rows, 1):
        for column, value in enumerate(row, 1):
            cell = page.cell(number, column, value)
            if isinstance(value, str) and not value.startswith("#"):
                cell.data_type = "s"
    book.save(path)
    return path


def write_csv(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    """Write rows as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            ["" if cell is None else cell for cell in row] for row in rows
        )
    return path


def write_ndjson(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    """Write rows as NDJSON, without the cells that are missing."""
    names, *rest = rows
    lines = (
        {name: cell for name, cell in zip(names, row, strict=True) if cell is not None}
        for row in rest
    )
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def used(*names: str) -> Callable[[list[str]], set[str]]:
    """Return a check of columns by which only these matter."""
    return lambda _: set(names)


def rows_of(path: Path, *names: str, **options: Any) -> list[Row]:
    """Read a file to its end, and check that it was counted as it is read."""
    rows = open_rows(str(path), None, used(*names), id_column=names[0], **options)
    assert isinstance(rows, SizedRows)
    read = list(rows)
    assert len(rows) == len(read)
    return read
