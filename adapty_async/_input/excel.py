"""
A reader of spreadsheets, .xlsx, .xlsm and .ods; it requires python-calamine.

A spreadsheet is read as a whole. It stores each number as a float of 15 digits, and rounds others
when they are entered. Formulas have the results that were stored with them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from adapty_async._input.cells import NoIdCell, UnusableCellError, text
from adapty_async._input.sheet_findings import DAMAGED, TOTAL, SheetFindings, column_letters
from adapty_async._input.spreadsheet_scan import SpreadsheetScan
from adapty_async._runtime.extras import require
from adapty_async.errors import InvalidInputError

# From this number on, a spreadsheet has rounded a whole number.
_EXACT = 1e15
_DATE = "is a date or a time, perhaps made of an id by a spreadsheet"
_LONG_DURATION = "has a duration that is too long to be read: give the cell another format"
_PADDED = (
    "is a number that its format shows in another way, such as with leading zeros: enter it as text"
)


class _Sheet:
    """
    A sheet of a spreadsheet; its first row that is not empty has the names of the columns.

    Attributes:
        label, names, exact: see `adapty_async._input.tables.Table`.
    """

    def __init__(self, path: str, sheet: Any, findings: SheetFindings) -> None:
        self.label = _label(path, sheet.name)
        self._path = path
        self._faults = faults = findings.faults
        self._digits = findings.digits
        # The rows begin in the first column that is not empty.
        self._first = sheet.start[1] if sheet.start else 0
        self._rows = self._filled(sheet)
        number, header = next(self._rows, (0, []))
        if not header:
            raise InvalidInputError(
                self.label, "must begin with a row of column names, but is empty"
            )
        for column, fault in faults.get(number, {}).items():
            if fault is not TOTAL:
                raise InvalidInputError(
                    self.label,
                    "must begin with a row of column names; the cell "
                    f"{column_letters(column)}{number} {fault.reason}",
                )
        self.names: Sequence[str] = [self._name(cell) for cell in header]
        self.exact: Sequence[float] = [_EXACT] * len(header)

    def _name(self, cell: Any) -> str:
        try:
            return text(cell, _EXACT) or ""
        except UnusableCellError:
            raise InvalidInputError(self.label, "must begin with a row of column names") from None

    def rows(self, indexes: Sequence[int]) -> Iterator[tuple[int, Sequence[Any]]]:
        """Yield the number of each row that is not empty, as the spreadsheet shows it."""
        for number, row in self._rows:
            yield number, [row[index] for index in indexes]

    def _filled(self, sheet: Any) -> Iterator[tuple[int, Sequence[Any]]]:
        """Yield the rows that are not empty, with the cells that the scan found to be faulty."""
        last = 0
        for last, row in enumerate(self._read(sheet), 1):
            if last in self._faults:
                self._put_faults(row, last)
            self._mark_padded(row, last)
            if last in self._faults or any(map(_is_filled, row)):
                yield last, row
        # without a value, such cells are not in the area that calamine reads
        for number in sorted(number for number in self._faults if number > last):
            row = [""] * max(sheet.width, 1)
            self._put_faults(row, number)
            yield number, row

    def _read(self, sheet: Any) -> Iterator[list[Any]]:
        with _translated(self._path):
            # calamine 0.7 panics when it iterates an empty sheet
            yield from sheet.iter_rows() if sheet.height else ()

    def _put_faults(self, row: list[Any], number: int) -> None:
        for column, fault in self._faults[number].items():
            at = column - self._first
            if 0 <= at < len(row):
                row[at] = NoIdCell(row[at], fault.reason) if fault is TOTAL else fault

    def _mark_padded(self, row: list[Any], number: int) -> None:
        """Mark dates, and the numbers that people see with leading zeros or letters."""
        for column, digits in self._digits.items():
            at = column - self._first
            if number <= len(digits) and 0 <= at < len(row):
                row[at] = _marked(row[at], digits[number - 1])


def _marked(value: Any, digits: int) -> Any:
    if digits and isinstance(value, str):  # its reader knows no other value for it
        return NoIdCell(value, _DATE)
    is_padded = digits > 0 and isinstance(value, int | float) and abs(value) < 10 ** (digits - 1)
    return NoIdCell(value, _PADDED) if is_padded else value


def _is_filled(cell: Any) -> bool:
    return bool(cell.strip()) if isinstance(cell, str) else True


@contextlib.contextmanager
def open_excel(path: str, sheet: str | None) -> Iterator[_Sheet]:
    """
    Open a sheet of a spreadsheet.

    Args:
        path: the file.
        sheet: the name of the sheet; None for the only visible one.

    Raises:
        ConfigError: python-calamine is not installed.
        InvalidInputError: the file cannot be read, the sheet is not certain, or it has hidden rows
            or merged cells, whose value stands in one of them only.
    """
    require("python_calamine", "excel")
    import python_calamine as calamine  # noqa: PLC0415  an extra

    scan = SpreadsheetScan(path)
    with _translated(path):
        book = calamine.CalamineWorkbook.from_path(path)
        found = _load(book, scan, _sheet_name(path, sheet, book, scan))
        merged = found.merged_cell_ranges
    label, findings = _label(path, found.name), scan.sheet(found.name)
    first_merged = _range(merged[0]) if merged else findings.merged
    if first_merged is not None:
        raise InvalidInputError(label, f"has merged cells ({first_merged}): unmerge them")
    if findings.hidden is not None:
        raise InvalidInputError(
            label,
            f"has hidden rows, the first is {findings.hidden}: a filter leaves them in the file. "
            "Delete them, or show them",
        )
    yield _Sheet(path, found, findings)


def _load(book: Any, scan: SpreadsheetScan, name: str) -> Any:
    """Return a sheet, after the scan that finds out whether it can be loaded."""
    scan.sheet(name)
    return book.get_sheet_by_name(name)


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    """Raise errors of calamine as errors of the file."""
    import python_calamine as calamine  # noqa: PLC0415  an extra

    try:
        yield
    except OverflowError:
        raise InvalidInputError(path, _LONG_DURATION) from None
    except (calamine.CalamineError, OSError):
        raise InvalidInputError(path, DAMAGED) from None
    except BaseException as error:
        # a defect of calamine shows as this exception, whose class has no public name
        if type(error).__name__ != "PanicException":
            raise
        raise InvalidInputError(path, DAMAGED) from None


def _label(path: str, sheet: str) -> str:
    return f'{path}, sheet "{sheet}"'


def _sheet_name(path: str, sheet: str | None, book: Any, scan: SpreadsheetScan) -> str:
    """Return the name of the sheet to read; a hidden one is read only if it is named."""
    from python_calamine import SheetTypeEnum, SheetVisibleEnum  # noqa: PLC0415  an extra

    sheets = [one for one in book.sheets_metadata if one.typ == SheetTypeEnum.WorkSheet]
    names = [one.name for one in sheets]
    if sheet is not None:
        if sheet not in names:
            raise InvalidInputError("sheet", f'"{sheet}" is not in {path}; found: {_list(names)}')
        return sheet
    visible = [one.name for one in sheets if one.visible == SheetVisibleEnum.Visible]
    if len(visible) > 1:
        visible = [name for name in visible if _load(book, scan, name).height]
    if len(visible) != 1:
        raise InvalidInputError(
            path, f"does not have one sheet with rows; name the sheet to read: {_list(names)}"
        )
    return str(visible[0])


def _list(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _range(merged: tuple[tuple[int, int], tuple[int, int]]) -> str:
    return ":".join(f"{column_letters(column)}{row + 1}" for row, column in merged)
