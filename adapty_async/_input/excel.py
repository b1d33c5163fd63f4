"""
A reader of spreadsheets, .xlsx, .xls, .xlsb and .ods; it requires python-calamine.

A spreadsheet is read as a whole. It stores each number as a float of 15 digits, and rounds others
when they are entered. Formulas have the results that were stored with them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from adapty_async._input.cells import UnusableCellError, text
from adapty_async._input.hidden import first_hidden_row
from adapty_async._runtime.extras import require
from adapty_async.errors import InvalidInputError

__all__ = ("open_excel",)

# From this number on, a spreadsheet has rounded a whole number.
_EXACT = 1e15


class _Sheet:
    """
    A sheet of a spreadsheet; its first row that is not empty has the names of the columns.

    Attributes:
        label, names, exact, has_integers: see `adapty_async._input.tables.Table`.
    """

    has_integers = False

    def __init__(self, label: str, sheet: Any) -> None:
        self.label = label
        # calamine 0.4 panics when it iterates an empty sheet
        self._rows = enumerate(sheet.iter_rows() if sheet.height else (), 1)
        header: Sequence[Any] = next(
            (row for _, row in self._rows if any(map(_is_filled, row))), []
        )
        if not header:
            raise InvalidInputError(label, "must begin with a row of column names, but is empty")
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
            if any(map(_is_filled, row)):
                yield number, [row[index] for index in indexes]


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

    try:
        book = calamine.CalamineWorkbook.from_path(path)
        found = book.get_sheet_by_name(_sheet_name(path, sheet, book))
    except calamine.PasswordError:
        raise InvalidInputError(path, "is protected by a password") from None
    except calamine.CalamineError:
        raise InvalidInputError(path, "is not a spreadsheet, or is damaged") from None
    except OSError as error:  # it has no code, only a text
        raise InvalidInputError(path, f"cannot be read: {error}") from None
    label = f'{path}, sheet "{found.name}"'
    if found.merged_cell_ranges:
        raise InvalidInputError(
            label, f"has merged cells ({_range(found.merged_cell_ranges[0])}): unmerge them"
        )
    hidden = first_hidden_row(path, found.name)
    if hidden is not None:
        raise InvalidInputError(
            label,
            f"has hidden rows, the first is {hidden}: a filter leaves them in the file. Delete "
            "them, or show them",
        )
    yield _Sheet(label, found)


def _sheet_name(path: str, sheet: str | None, book: Any) -> str:
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
        visible = [name for name in visible if book.get_sheet_by_name(name).height]
    if len(visible) != 1:
        raise InvalidInputError(
            path, f"does not have one sheet with rows; name the sheet to read: {_list(names)}"
        )
    return str(visible[0])


def _list(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _range(merged: tuple[tuple[int, int], tuple[int, int]]) -> str:
    return ":".join(f"{_letters(column)}{row + 1}" for row, column in merged)


def _letters(column: int) -> str:
    before, last = divmod(column, 26)
    return (_letters(before - 1) if before else "") + chr(ord("A") + last)
