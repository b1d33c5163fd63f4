"""Spreadsheets as rows: the sheet that is meant, the row numbers that people see, exact ids."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from adapty_async._input.excel import open_excel
from adapty_async._input.layout import Row
from adapty_async._input.rows import SizedRows, open_rows
from adapty_async.errors import InvalidInputError
from tests.input.tables import rows_of, used, write_excel

NOON = dt.datetime(2026, 6, 1, 12, 30)  # noqa: DTZ001  a spreadsheet has no time zones


def book_of(path: Path, change: Callable[[Any], None]) -> Path:
    """Write a spreadsheet with a sheet of two ids, after a change."""
    book = openpyxl.Workbook()
    book.active.title = "Users"
    for row in (["id"], ["u1"], ["u2"]):
        book.active.append(row)
    change(book)
    book.save(path)
    return path


def test_rows_have_the_numbers_of_the_spreadsheet(tmp_path: Path) -> None:
    """Empty rows are no rows, above the names, in between and at the end, but they count."""
    cells: list[list[Any]] = [
        [],
        ["", " "],
        ["name", "id"],
        ["x", "u1"],
        [],
        [None, "u2"],
        [" ", ""],
        [],
    ]
    path = write_excel(tmp_path / "ids.xlsx", cells)

    assert rows_of(path, "id", "name") == [
        Row(4, {"id": "u1", "name": "x"}),
        Row(6, {"id": "u2"}),
    ]


@pytest.mark.parametrize(
    ("cell", "identifier"),
    [
        pytest.param("00123", "00123", id="text"),
        pytest.param(100045, "100045", id="number"),
        pytest.param(999999999999999, "999999999999999", id="15-digits"),
    ],
)
def test_an_id_is_exact(tmp_path: Path, cell: Any, identifier: str) -> None:
    """Text and whole numbers of up to 15 digits are ids."""
    path = write_excel(tmp_path / "ids.xlsx", [["id"], [cell]])

    assert [row.value for row in rows_of(path, "id")] == [{"id": identifier}]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        pytest.param(1234567890123456, "has lost digits", id="16-digits"),
        pytest.param(1.5, "has a fraction", id="fraction"),
        pytest.param(True, "is true or false", id="bool"),
        pytest.param(NOON, "is a date", id="date"),
        pytest.param(dt.time(1, 2), "is a time of day", id="time"),
    ],
)
def test_a_cell_that_is_no_id_costs_its_row(tmp_path: Path, cell: Any, reason: str) -> None:
    """The message names the file, the sheet, the column and the rule."""
    path = write_excel(tmp_path / "ids.xlsx", [["id"], ["u1"], [cell]])
    _, row = rows_of(path, "id")

    assert row.line == 3
    assert str(row.broken).startswith(f'{path}, sheet "Users": the cell in column "id" ')
    assert reason in str(row.broken)


def test_numbers_among_ids_are_shown(tmp_path: Path) -> None:
    """Ids that are stored as numbers are counted: their leading zeros, if any, are lost."""
    path = write_excel(tmp_path / "ids.xlsx", [["id"], ["u1"], [123], [1234567890123456]])
    rows = open_rows(str(path), None, used("id"), id_column="id")

    assert rows.findings.suspicious == {"number": 1}
    assert "whose leading zeros would be lost: 1 (row 3)" in rows.findings.lines()[1]


def test_cells_are_text_as_people_see_them(tmp_path: Path) -> None:
    """Dates have no zone, and numbers no needless decimals."""
    names = ["id", "at", "day", "flag", "price"]
    path = write_excel(tmp_path / "rows.xlsx", [names, ["u1", NOON, NOON.date(), True, 9.5]])

    assert [row.value for row in rows_of(path, *names)] == [
        {
            "id": "u1",
            "at": "2026-06-01T12:30:00",
            "day": "2026-06-01",
            "flag": "true",
            "price": "9.5",
        }
    ]


def _with_empty_sheets(book: Any) -> None:
    book.create_sheet("Empty")
    book.create_chartsheet("Chart")


def _with_hidden_sheet(book: Any) -> None:
    sheet = book.create_sheet("Hidden", 0)
    sheet.append(["id"])
    sheet.append(["victim"])
    sheet.sheet_state = "veryHidden"


@pytest.mark.parametrize("change", [_with_empty_sheets, _with_hidden_sheet])
def test_the_only_visible_sheet_is_read(tmp_path: Path, change: Callable[[Any], None]) -> None:
    """Empty sheets, charts and hidden sheets are not read."""
    path = book_of(tmp_path / "ids.xlsx", change)

    assert [row.value["id"] for row in rows_of(path, "id")] == ["u1", "u2"]


def test_a_sheet_is_chosen_by_name(tmp_path: Path) -> None:
    """A named sheet is read, a hidden one too."""
    path = book_of(tmp_path / "ids.xlsx", _with_hidden_sheet)

    assert [row.value["id"] for row in rows_of(path, "id", sheet="Hidden")] == ["victim"]
    with pytest.raises(
        InvalidInputError, match=re.escape(f'"No" is not in {path}; found: "Hidden", "Users"')
    ):
        open_rows(str(path), None, used("id"), sheet="No")


def test_several_sheets_are_rejected(tmp_path: Path) -> None:
    """The sheet is never guessed."""
    path = book_of(tmp_path / "ids.xlsx", lambda book: book.create_sheet("Old").append(["id"]))

    with pytest.raises(
        InvalidInputError,
        match='does not have one sheet with rows; name the sheet to read: "Users", "Old"',
    ):
        open_rows(str(path), None, used("id"))


def test_merged_cells_are_rejected(tmp_path: Path) -> None:
    """Only the first of merged cells has the value, so the rows of the others lack theirs."""
    path = book_of(tmp_path / "ids.xlsx", lambda book: book.active.merge_cells("AA2:AB3"))

    with pytest.raises(InvalidInputError, match=r'sheet "Users": has merged cells \(AA2:AB3\)'):
        open_rows(str(path), None, used("id"))


def test_hidden_rows_are_rejected(tmp_path: Path) -> None:
    """Rows that a filter hides are in the file, and people do not see them."""

    def hide(book: Any) -> None:
        for number in range(4, 3000):
            book.active.append(["<row hidden='1'>" * 30])
            book.active.row_dimensions[number].hidden = number > 2990

    path = book_of(tmp_path / "ids.xlsx", hide)

    with pytest.raises(InvalidInputError, match='"Users": has hidden rows, the first is 2991: a f'):
        open_rows(str(path), None, used("id"))


def _clear(book: Any) -> None:
    book.active.delete_rows(1, 5)


def _put_time(book: Any) -> None:
    book.active["B1"] = dt.time(1, 2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(_clear, "must begin with a row of column names, but is empty", id="empty"),
        pytest.param(_put_time, "must begin with a row of column names", id="time"),
    ],
)
def test_a_sheet_without_names_is_rejected(
    tmp_path: Path, change: Callable[[Any], None], reason: str
) -> None:
    """The first row has to have names."""
    path = book_of(tmp_path / "ids.xlsx", change)

    with pytest.raises(InvalidInputError, match=reason):
        open_rows(str(path), None, used("id"))


def test_numbers_are_names_as_well(tmp_path: Path) -> None:
    """A column may be named by a number; columns without a name are left out."""
    path = write_excel(tmp_path / "ids.xlsx", [["id", 2026, None], ["u1", "x", "y"]])

    assert [row.value for row in rows_of(path, "id", "2026")] == [{"id": "u1", "2026": "x"}]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"id\nu1\n", "is not a spreadsheet, or is damaged", id="csv"),
        pytest.param(b"PK\x03\x04", "is not a spreadsheet, or is damaged", id="damaged"),
        pytest.param(None, "cannot be read: No such file", id="missing"),
    ],
)
def test_a_file_that_is_none_is_rejected(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    """A file of another kind, or none, is rejected."""
    path = tmp_path / "ids.xlsx"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(InvalidInputError, match=reason):
        open_rows(str(path), None, used("id"))


def test_an_error_of_the_system_is_the_reason(tmp_path: Path) -> None:
    """A file that disappears is rejected with the reason of the system."""
    with (
        pytest.raises(InvalidInputError, match="cannot be read: No such file"),
        open_excel(str(tmp_path / "none.xlsx"), None),
    ):
        pass


def test_rows_without_an_id_are_left_out_and_counted(tmp_path: Path) -> None:
    """A row whose cell of the id is empty is no row where the id may be missing."""
    path = write_excel(tmp_path / "ids.xlsx", [["id", "x"], [None, "a"], ["u1", "b"]])
    rows = open_rows(str(path), None, used("id"), id_column="id", id_optional=True)

    assert isinstance(rows, SizedRows)
    assert (len(rows), rows.findings.without_id) == (1, 1)
