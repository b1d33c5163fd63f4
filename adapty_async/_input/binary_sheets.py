"""
Readers of the records of binary sheets: those of .xlsb, and those of .xls since Excel 5.

They search for what python-calamine does not return: hidden rows, errors, totals and formats that
show a number in another way.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from typing import IO, TypeAlias, cast

from adapty_async._input.cells import FaultyCell
from adapty_async._input.sheet_findings import (
    ERROR,
    TOTAL,
    Extent,
    SheetFindings,
    UnreadableSheetError,
    column_letters,
    shown_digits,
)

__all__ = ("XlsBook", "find_in_xlsb", "sheets_of_xlsb", "styles_of_xlsb")

# The number of a record, and its content.
_Record: TypeAlias = tuple[int, bytes]

_BUFFER_BYTES = 1 << 16
# No record of a sheet has as many bytes.
_MAX_RECORD = 1 << 24
# Functions of many cells by their numbers: COUNT, SUM, AVERAGE, MIN, MAX, ROWS, COUNTA, SUMPRODUCT,
# SUBTOTAL, SUMIF, COUNTIF. One of them is the last token of a formula, apart from brackets; there
# are tokens for functions with any number of arguments, for others, and for a SUM with one.
_AGGREGATES = frozenset({0, 4, 5, 6, 7, 76, 169, 228, 344, 345, 346})
_ANY_ARGUMENTS, _FIXED_ARGUMENTS = frozenset(b"\x22\x42\x62"), frozenset(b"\x21\x41\x61")
_ATTRIBUTE, _SUM, _BRACKET = 0x19, 0x10, b"\x15"


class _Sheet:
    """
    The findings in a sheet, cell by cell.

    Args:
        digits: the digits that a style shows at least, by its number.
    """

    def __init__(self, digits: Sequence[int]) -> None:
        self.findings = SheetFindings()
        self._digits = digits
        self._extent = Extent()

    def add_cell(self, row: int, column: int, fault: FaultyCell | None = None) -> None:
        """Add a cell with a value, or with a fault instead; positions are from 0."""
        self._extent.add(row, column)
        if fault is not None:
            self.findings.add_fault(row + 1, column, fault)

    def add_number(self, row: int, column: int, style: int) -> None:
        """Add a number."""
        self.add_cell(row, column)
        digits = self._digits[style] if style < len(self._digits) else 0
        if digits > 1:
            self.findings.add_digits(row + 1, column, digits)


def _is_total(formula: bytes) -> bool:
    """Return whether the last token of a formula is a function of many cells."""
    last = formula.rstrip(_BRACKET)[-4:].rjust(4, b"\0")
    token, second, function = struct.unpack("<BBH", last)
    if token == _ATTRIBUTE:
        return bool(second & _SUM)
    return function in _AGGREGATES and (token in _ANY_ARGUMENTS or second in _FIXED_ARGUMENTS)


# Records of .xlsb, as [MS-XLSB] names them in section 2.3.2.
_ROW, _RK, _ERROR, _REAL, _FORMULA_NUMBER, _FORMULA_ERROR = 0, 2, 3, 5, 9, 11  # the last cell
_OTHERS = frozenset({4, 6, 7, 8, 10})  # cells with flags and text
# Cells that follow another one, and those with letters of several kinds: python-calamine leaves
# them out.
_LEFT_OUT = frozenset({13, 14, 15, 16, 17, 18, 62})
_SHEET, _MERGED, _FORMAT, _STYLE, _BEGIN_STYLES, _END_STYLES = 156, 176, 44, 47, 617, 618


def _records_of_xlsb(file: IO[bytes]) -> Iterator[_Record]:
    """
    Yield the records of a part.

    Raises:
        LookupError, struct.error: it is damaged.
    """
    stream = io.BufferedReader(cast("io.RawIOBase", file), _BUFFER_BYTES)
    while begin := stream.read(1):
        kind, size = begin[0], 0
        if kind & 0x80:
            kind = kind & 0x7F | (stream.read(1)[0] & 0x7F) << 7
        for shift in (0, 7, 14, 21):
            byte = stream.read(1)[0]
            size |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        if size > _MAX_RECORD:
            raise LookupError
        yield kind, stream.read(size)


def sheets_of_xlsb(file: IO[bytes]) -> list[tuple[str, str]]:
    """Return the name of each sheet of a workbook, and the id of its relation."""
    found = []
    for kind, content in _records_of_xlsb(file):
        if kind == _SHEET:
            relation, end = _wide(content, 8)
            found.append((_wide(content, end)[0], relation))
    return found


def _wide(content: bytes, start: int) -> tuple[str, int]:
    """Return a text with its number of characters before it, and where it ends."""
    begin, end = start + 4, start + 4 + 2 * struct.unpack_from("<I", content, start)[0]
    return content[begin:end].decode("utf-16-le"), end


def styles_of_xlsb(file: IO[bytes]) -> list[int]:
    """Return the digits that each style shows at least."""
    formats: dict[int, int] = {}
    digits: list[int] = []
    is_inside = False
    for kind, content in _records_of_xlsb(file):
        if kind == _FORMAT:
            formats[struct.unpack_from("<H", content)[0]] = shown_digits(_wide(content, 2)[0])
        elif kind in {_BEGIN_STYLES, _END_STYLES}:
            is_inside = kind == _BEGIN_STYLES
        elif kind == _STYLE and is_inside:
            digits.append(formats.get(struct.unpack_from("<H", content, 2)[0], 0))
    return digits


def find_in_xlsb(file: IO[bytes], digits: Sequence[int]) -> SheetFindings:
    """
    Return the findings in a sheet of .xlsb.

    Args:
        file: its part.
        digits: the digits that a style shows at least, by its number.

    Raises:
        LookupError, struct.error, ValueError: it is damaged.
        UnreadableSheetError: it is too large, or has cells that are left out.
    """
    sheet, row = _Sheet(digits), 0
    for kind, content in _records_of_xlsb(file):
        if kind == _ROW:
            row, height, flags = struct.unpack_from("<I4xHxB", content)
            if flags & 0x10 or not height:
                sheet.findings.hide(row + 1)
        elif kind == _MERGED and sheet.findings.merged is None:
            first, last, left, right = struct.unpack_from("<4I", content)
            ends = column_letters(left), first + 1, column_letters(right), last + 1
            sheet.findings.merged = "{}{}:{}{}".format(*ends)
        elif kind <= _FORMULA_ERROR:
            _add_cell(sheet, row, kind, content)
        elif kind in _LEFT_OUT:
            raise UnreadableSheetError("has cells that cannot be read: save it as .xlsx or CSV")
    return sheet.findings


def _add_cell(sheet: _Sheet, row: int, kind: int, content: bytes) -> None:
    column, style = struct.unpack_from("<II", content)
    if kind in {_ERROR, _FORMULA_ERROR}:
        sheet.add_cell(row, column, ERROR)
    elif kind == _FORMULA_NUMBER and _is_total(_sized(content, 18, "<I")):
        sheet.add_cell(row, column, TOTAL)
    elif kind in {_RK, _REAL, _FORMULA_NUMBER}:
        sheet.add_number(row, column, style & 0xFFFFFF)
    elif kind in _OTHERS:
        sheet.add_cell(row, column)


def _sized(content: bytes, start: int, form: str) -> bytes:
    """Return bytes with their number before them."""
    begin = start + struct.calcsize(form)
    return content[begin : begin + struct.unpack_from(form, content, start)[0]]


# Records of .xls, as [MS-XLS] names them in section 2.3. All of its rows fit into memory.
_BEGIN, _END, _SHEET_OF_XLS, _FORMAT_OF_XLS, _STYLE_OF_XLS = 0x809, 0x0A, 0x85, 0x41E, 0xE0
_PASSWORD, _SIZE_OF_XLS = 0x2F, 0x200
_SIZES = {10: "<5H", 14: "<2I3H"}  # by the length of the record
_XLS_ROWS, _XLS_COLUMNS = 65_536, 256
_ROW_OF_XLS, _FLAG_OR_ERROR, _FORMULA, _RK_OF_XLS, _MANY_RK, _NUMBER = 520, 517, 6, 638, 189, 515
_CELLS_OF_XLS = frozenset({6, 189, 214, 253, 515, 516, 517, 638})
_EXCEL_97 = 0x600
# In place of the number that is the result of a formula: it is another value.
_NO_NUMBER = b"\xff\xff"


class XlsBook:
    """
    The sheets of a workbook of .xls.

    Args:
        stream: the stream of the workbook.

    Raises:
        LookupError, struct.error, ValueError: it is damaged.
        UnreadableSheetError: python-calamine, which reads all sheets at once, would take memory for
            cells that no sheet has.
    """

    def __init__(self, stream: bytes) -> None:
        self._stream = stream
        self._is_wide = struct.unpack_from("<H", stream, 4)[0] == _EXCEL_97
        self._digits: list[int] = []
        self._starts: list[tuple[str, int]] = []
        formats: dict[int, int] = {}
        for kind, content in _records_of_xls(stream, 0):
            if kind == _PASSWORD:
                return  # the others cannot be read
            if kind == _FORMAT_OF_XLS:
                (number,) = struct.unpack_from("<H", content)
                formats[number] = shown_digits(_text(content, 2, is_wide=self._is_wide))
            elif kind == _STYLE_OF_XLS:
                self._digits.append(formats.get(struct.unpack_from("<H", content, 2)[0], 0))
            elif kind == _SHEET_OF_XLS:
                name = _name(content, is_wide=self._is_wide)
                self._starts.append((name, struct.unpack_from("<I", content)[0]))
        for _, start in self._starts:
            for kind, content in _records_of_xls(stream, start):
                _require_small(kind, content)

    def find(self, name: str) -> SheetFindings:
        """
        Return the findings in a sheet.

        Raises:
            KeyError: there is not one sheet of this name.
            LookupError, struct.error, ValueError: it is damaged.
        """
        starts = [start for known, start in self._starts if known == name]
        if len(starts) != 1:
            raise KeyError(name)
        sheet = _Sheet(self._digits)
        for kind, content in _records_of_xls(self._stream, starts[0]):
            _add_record(sheet, kind, content)
        return sheet.findings


def _require_small(kind: int, content: bytes) -> None:
    """Validate that a cell, or the size that a sheet declares, is within a sheet."""
    first = 0
    if kind == _SIZE_OF_XLS:
        first, rows, _, columns, _ = struct.unpack(_SIZES.get(len(content), ""), content)
    elif kind in _CELLS_OF_XLS:
        rows, columns = (number + 1 for number in struct.unpack_from("<HH", content))
    else:
        return
    if rows > _XLS_ROWS or columns > _XLS_COLUMNS or first > rows > 0:
        raise UnreadableSheetError("is damaged: it has a cell outside of a sheet")


def _records_of_xls(book: bytes, start: int) -> Iterator[_Record]:
    """Yield the records of a part of a workbook, without those of charts in it."""
    depth = 0
    while True:
        kind, size = struct.unpack_from("<HH", book, start)
        if kind in {_BEGIN, _END}:
            depth += 1 if kind == _BEGIN else -1
            if not depth:
                return
        elif depth == 1:
            yield kind, book[start + 4 : start + 4 + size]
        start += 4 + size


def _add_record(sheet: _Sheet, kind: int, content: bytes) -> None:
    if kind == _ROW_OF_XLS:
        row, height, flags = struct.unpack_from("<H4xH4xB", content)
        if flags & 0x20 or not height:
            sheet.findings.hide(row + 1)
    elif kind in {_NUMBER, _RK_OF_XLS}:
        sheet.add_number(*struct.unpack_from("<3H", content))
    elif kind == _MANY_RK:
        row, first = struct.unpack_from("<HH", content)
        for column, (style,) in enumerate(struct.iter_unpack("<H4x", content[4:-2]), first):
            sheet.add_number(row, column, style)
    elif kind == _FLAG_OR_ERROR and content[7]:
        row, column = struct.unpack_from("<HH", content)
        sheet.add_cell(row, column, ERROR)
    elif kind == _FORMULA:
        _add_formula(sheet, content)


def _add_formula(sheet: _Sheet, content: bytes) -> None:
    row, column, style, result, mark = struct.unpack_from("<3HB5x2s", content)
    if mark == _NO_NUMBER:
        if result == 2:
            sheet.add_cell(row, column, ERROR)
    elif _is_total(_sized(content, 20, "<H")):
        sheet.add_cell(row, column, TOTAL)
    else:
        sheet.add_number(row, column, style)


def _name(content: bytes, *, is_wide: bool) -> str:
    """Return the name in the record of a sheet, as python-calamine does."""
    return _decoded(content[7:], content[6], is_wide=is_wide).replace("\0", "")


def _text(content: bytes, start: int, *, is_wide: bool) -> str:
    """Return the text of a format."""
    form = "<H" if is_wide else "<B"
    begin = start + struct.calcsize(form)
    return _decoded(content[begin:], struct.unpack_from(form, content, start)[0], is_wide=is_wide)


def _decoded(content: bytes, size: int, *, is_wide: bool) -> str:
    """Return text of a number of characters; since Excel 97 a flag tells the bytes of each."""
    if not is_wide:
        return content[:size].decode("latin-1")
    if content[0] & 1:
        return content[1 : 1 + 2 * size].decode("utf-16-le")
    return content[1 : 1 + size].decode("latin-1")
