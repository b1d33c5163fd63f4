"""The findings of a scan in a sheet of a spreadsheet, which the readers of all formats share."""

from __future__ import annotations

import re

import msgspec

from adapty_async._input.cells import FaultyCell

#: A sheet may have this many cells, empty ones in between included, since all are in memory.
MAX_CELLS = 50_000_000
# Cells with errors of a sheet; each is remembered.
_MAX_FAULTS = 1_000_000
_MAX_ROWS, MAX_COLUMNS = 1_048_576, 16_384

#: Completes the name of a file; some programs write text or HTML to a file called .xls.
DAMAGED = (
    "is not a spreadsheet, or is damaged: open it with a spreadsheet program, and save it as .xlsx "
    "or CSV"
)
#: Stands for a cell with an error.
ERROR = FaultyCell("has a formula error, such as #N/A")
#: Marks a cell that has a value, but cannot be an id.
TOTAL = FaultyCell("has a formula that counts or adds up other cells, so it is no id")


class UnreadableSheetError(Exception):
    """A sheet breaks a rule, which is the message."""


class SheetFindings(msgspec.Struct):
    """
    The findings of a scan in a sheet.

    Attributes:
        hidden: the number of the first hidden row, as people see it; None if there is none.
        merged: the first merged cells; None if there are none, or if they were not searched.
        faults: the cells that cannot be used, by number of the row and index of the column; `TOTAL`
            for those that cannot be ids.
        fault_count: their number.
        digits: by index of the column, a byte for each row: the digits with which its number is
            shown at least, 0 if it is shown as it is.
    """

    hidden: int | None = None
    merged: str | None = None
    faults: dict[int, dict[int, FaultyCell]] = {}
    fault_count: int = 0
    digits: dict[int, bytearray] = {}

    def hide(self, number: int) -> None:
        """Record a hidden row."""
        if self.hidden is None:
            self.hidden = number

    def add_fault(self, row: int, column: int, fault: FaultyCell) -> None:
        """
        Record a cell that cannot be used.

        Raises:
            UnreadableSheetError: there are too many.
        """
        self.fault_count += 1
        if self.fault_count > _MAX_FAULTS:
            raise UnreadableSheetError(f"has more than {_MAX_FAULTS:,} cells with errors or totals")
        self.faults.setdefault(row, {})[column] = fault

    def add_digits(self, row: int, column: int, digits: int, *, rows: int = 1) -> None:
        """Record the digits that a number, below those before, is shown with at least."""
        known = self.digits.setdefault(column, bytearray())
        known += bytes(row - 1 - len(known)) + bytes([digits]) * rows


#: No number of a spreadsheet that could be an id has as many.
MOST_DIGITS = 255
# Maximum length of a format that is parsed, in characters; Excel allows 255.
_FORMAT_LENGTH = 1024
# Parts of a format: those that show themselves, and conditions. Semicolons separate its sections.
_LITERAL = re.compile(r'(?P<text>"[^"]*"|\\.)|\[[^]]*\]|_.|\*.')
_SECTION = re.compile(rf"(?:{_LITERAL.pattern}|[^;])+")
_CONDITION = re.compile(r"\[[<>=]")
# In capitals: a letter, apart from the E of an exponent, a percentage, or a number in thousands.
_CHANGED = re.compile(r"[A-DF-Z%]|[0#?],(?![0#?])")
_NO_DIGIT = re.compile(r"[^0#?]+")


def shown_digits(code: str) -> int:
    """
    Return the digits before the decimal point that a number format shows at least.

    A format with letters, or of a date, a percentage or thousands, shows each number in another
    way. Only the first section is that of an id, unless there are conditions, such as a bound.
    A format that is too long is not parsed, and counts as one that shows each number in another
    way.
    """
    if len(code) > _FORMAT_LENGTH:
        return MOST_DIGITS
    sections = [found[0] for found in _SECTION.finditer(code)]
    return max(map(_digits, sections if _CONDITION.search(code) else sections[:1]), default=0)


def _digits(section: str) -> int:
    literal = "".join(found["text"] or "" for found in _LITERAL.finditer(section))
    rest = _LITERAL.sub("", section).upper().replace("GENERAL", "")
    if any(map(str.isalnum, literal)) or _CHANGED.search(rest):
        return MOST_DIGITS
    whole = rest.partition(".")[0]
    digits = "" if "E" in whole else _NO_DIGIT.sub("", whole)
    return min(len(digits.lstrip("#?")), MOST_DIGITS)


class Extent:
    """The area of a sheet from its first cell with a value to its last one."""

    def __init__(self) -> None:
        self.rows = self.columns = 0

    def add(self, row: int, column: int) -> None:
        """
        Add the position of a cell, from 0.

        Raises:
            UnreadableSheetError: the area becomes too large.
        """
        if row < self.rows and column < self.columns:
            return
        if row >= _MAX_ROWS or column >= MAX_COLUMNS:
            raise UnreadableSheetError("is damaged: it has a cell outside of a sheet")
        self.rows, self.columns = max(self.rows, row + 1), max(self.columns, column + 1)
        if self.cells > MAX_CELLS:
            raise UnreadableSheetError(
                f"has more than {MAX_CELLS:,} cells up to {column_letters(column)}{row + 1}; "
                "delete what stands far from the rows, or save it as CSV"
            )

    @property
    def cells(self) -> int:
        """The number of its cells."""
        return self.rows * self.columns


def positive(number: str) -> int:
    """
    Return a number from 1 on, of an attribute.

    Raises:
        UnreadableSheetError: it is none.
    """
    if not (number.isascii() and number.isdecimal() and len(number) < 10 and int(number)):
        raise UnreadableSheetError("is damaged: a position or a count in it is not a number")
    return int(number)


def column_letters(column: int) -> str:
    """Return the letters of a column, from 0, as spreadsheets show it."""
    before, last = divmod(column, 26)
    return (column_letters(before - 1) if before else "") + chr(ord("A") + last)
