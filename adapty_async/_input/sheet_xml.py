"""
Readers of the XML of sheets, as handlers of expat's events: Open XML (.xlsx) and OpenDocument.

They compute positions and values like python-calamine, so that both mean the same cells.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import IO, TypeAlias
from xml.parsers import expat

from adapty_async._input.cells import FaultyCell
from adapty_async._input.sheet_findings import (
    ERROR,
    MAX_CELLS,
    MAX_COLUMNS,
    MOST_DIGITS,
    TOTAL,
    Extent,
    SheetFindings,
    UnreadableSheetError,
    column_letters,
    positive,
    shown_digits,
)

_PIECE = 1 << 20
# expat reads an unfinished tag or comment again with each piece, so its length is limited.
_MAX_TOKEN = 16 * _PIECE
_ENCODINGS = frozenset({"utf-8", "us-ascii", "iso-8859-1", "utf-16"})

_UNCALCULATED = FaultyCell(
    "has a formula that was never calculated: open and save the file with a spreadsheet program"
)
_INEXACT = FaultyCell(
    "has content that is not plain text, such as a tab, a line break, a note or CDATA"
)

# A formula that begins with a function of many cells, as both formats write it.
_AGGREGATE = re.compile(
    r"(?:[a-z]+:)?=?[\s+(-]*(?:_xlfn\.)?"
    r"(?:(?P<list>SUBTOTAL|AGGREGATE)|(?:SUM|COUNT|AVERAGE|MIN|MAX)[A-Z]*|ROWS)\(",
    re.IGNORECASE,
)
# The first and the last row of a range, and a column of a table that is not that of one row.
_RANGE = re.compile(r"[A-Z]\$?([0-9]+):\.?\$?[A-Z]{1,3}\$?([0-9]+)", re.IGNORECASE)
_TABLE_COLUMN = re.compile(r"\w\[(?!\[?#This Row)", re.IGNORECASE)
# Characters of a formula that are read.
_FORMULA_LENGTH = 256

_Attributes: TypeAlias = Mapping[str, str]


def _is_total(formula: str) -> bool:
    """Return whether a formula counts or adds up cells of other rows."""
    found = _AGGREGATE.match(formula)
    if found is None:
        return False
    if found["list"] or _TABLE_COLUMN.search(formula):
        return True
    return any(first != last for first, last in _RANGE.findall(formula))


class XmlHandler:
    """The interface of a reader of events; it ignores them."""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Handle the begin of an element."""

    def end(self, name: str) -> None:
        """Handle the end of an element."""

    def text(self, data: str) -> None:
        """Handle text, if it is wanted."""

    def split(self) -> None:
        """Handle CDATA, a comment or an instruction, at which python-calamine ends some values."""

    def reads_text(self, *, wanted: bool) -> None:
        """Change whether text is wanted, which takes time; at first it is not."""
        self._parser.CharacterDataHandler = self.text if wanted else None

    def attach(self, parser: expat.XMLParserType) -> None:
        """Receive the events of a parser."""
        self._parser = parser
        parser.StartElementHandler = self.start
        parser.EndElementHandler = self.end
        parser.StartCdataSectionHandler = self.split
        parser.CommentHandler = lambda _: self.split()
        parser.ProcessingInstructionHandler = lambda *_: self.split()


def read_xml(file: IO[bytes], handler: XmlHandler) -> None:
    """
    Parse XML piece by piece.

    Raises:
        UnreadableSheetError: it has a document type, another encoding or a tag without end.
        expat.ExpatError: it is not well-formed.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _reject_doctype
    parser.XmlDeclHandler = _require_encoding
    handler.attach(parser)
    done = 0
    while piece := file.read(_PIECE):
        parser.Parse(piece, False)  # noqa: FBT003  it takes no keyword
        done += len(piece)
        if done - parser.CurrentByteIndex > _MAX_TOKEN:
            raise UnreadableSheetError("has a tag or a comment of more than 16 MiB")
    parser.Parse(b"", True)  # noqa: FBT003  see above


def _reject_doctype(*_: object) -> None:
    raise UnreadableSheetError("has a document type, which spreadsheets do not have")


def _require_encoding(_version: str, encoding: str | None, _standalone: int) -> None:
    if encoding is not None and encoding.lower() not in _ENCODINGS:
        raise UnreadableSheetError("has an encoding other than UTF-8 and UTF-16")


class SheetReader(XmlHandler):
    """
    A reader of a sheet in Open XML.

    Only the first ``sheetData`` counts. Names of elements count without their namespaces.

    Args:
        digits: see `StyleReader`.
    """

    def __init__(self, digits: Mapping[str, int] | None = None) -> None:
        self.findings = SheetFindings(faults={}, digits={})
        self._digits = digits or {}
        self._shown_digits = 0  # of the cell
        self._extent = Extent()
        # The next position, from 0, of a row or cell without one.
        self._row = self._column = 0
        self._at = self._last = (-1, -1)
        self._kind = ""
        self._has_formula = self._has_value = False
        self._reads_value = self._is_split = False
        # The beginning of the cell's formula, and its number if other cells have it as well.
        self._formula = self._shared = ""
        self._reads_formula = False
        self._shared_totals: set[str] = set()
        self._starts: dict[str, Callable[[_Attributes], None]] = {"sheetData": self._begin}
        self._ends: dict[str, Callable[[], None]] = {}

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """See `XmlHandler`."""
        handle = self._starts.get(name.rpartition(":")[2] if ":" in name else name)
        if handle is not None:
            handle(attributes)

    def end(self, name: str) -> None:
        """See `XmlHandler`."""
        handle = self._ends.get(name.rpartition(":")[2] if ":" in name else name)
        if handle is not None:
            handle()

    def text(self, data: str) -> None:
        """See `XmlHandler`."""
        if self._reads_formula:
            self._formula = (self._formula + data)[:_FORMULA_LENGTH]
        elif data.strip():
            self._has_value = True

    def split(self) -> None:
        """See `XmlHandler`."""
        self._is_split = self._is_split or self._reads_value

    def _begin(self, _: _Attributes) -> None:
        self._starts = {
            "row": self._start_row,
            "c": self._start_cell,
            "f": self._start_formula,
            "v": self._start_value,
            "is": self._start_text,
        }
        self._ends = {"c": self._end_cell, "row": self._end_row, "sheetData": self._finish}

    def _finish(self) -> None:
        self._starts, self._ends = {}, {}

    def _start_row(self, attributes: _Attributes) -> None:
        if "r" in attributes:
            self._row = positive(attributes["r"]) - 1
        if _is_hidden(attributes):
            self.findings.hide(self._row + 1)

    def _end_row(self) -> None:
        self._row += 1
        self._column = 0

    def _start_cell(self, attributes: _Attributes) -> None:
        self._kind = attributes.get("t", "")
        self._has_formula = self._has_value = self._reads_formula = False
        self._reads_value = self._is_split = False
        if self._digits:
            self._shown_digits = self._digits.get(attributes.get("s", "0"), 0)
        self._at = _position(attributes["r"]) if "r" in attributes else (self._row, self._column)
        self._column = self._at[1] + 1

    def _start_formula(self, attributes: _Attributes) -> None:
        self._has_formula, self._has_value = True, False
        self._formula, self._reads_formula = "", True
        self._shared = attributes.get("si", "") if attributes.get("t") == "shared" else ""
        self.reads_text(wanted=True)

    def _start_text(self, attributes: _Attributes) -> None:
        self._start_value(attributes)
        self._reads_value = False  # python-calamine reads all of it

    def _start_value(self, _: _Attributes) -> None:
        self._reads_formula, self._reads_value = False, True
        # The text of a formula may be empty; another value has to be there.
        self._has_value = not self._has_formula or self._kind == "str"
        self.reads_text(wanted=not self._has_value)

    def _end_cell(self) -> None:
        if self._has_formula:
            self.reads_text(wanted=False)
        fault = self._fault()
        if fault is None and not self._has_value:
            return
        if self._at <= self._last:
            raise UnreadableSheetError("is damaged: its cells are not in order")
        self._last = self._at
        self._extent.add(*self._at)
        row, column = self._at[0] + 1, self._at[1]
        if fault is not None:
            self.findings.add_fault(row, column, fault)
        elif self._kind == "d":
            self.findings.add_digits(row, column, MOST_DIGITS)
        elif self._shown_digits and self._kind in {"", "n"}:
            self.findings.add_digits(row, column, self._shown_digits)

    def _fault(self) -> FaultyCell | None:
        """Return why the cell cannot be used, None if it can be or is empty."""
        if self._kind == "e":
            return ERROR
        if not self._has_value:
            return _UNCALCULATED if self._has_formula else None
        if self._is_split:
            return _INEXACT
        return TOTAL if self._has_formula and self._has_total() else None

    def _has_total(self) -> bool:
        if _is_total(self._formula):
            self._shared_totals.add(self._shared)
            return True
        return self._shared != "" and self._shared in self._shared_totals


class StyleReader(XmlHandler):
    """
    A reader of the styles of Open XML, for formats that show another number, such as 00000.

    Attributes:
        digits: the digits that a style shows at least, by its number, if they are more than one.
    """

    def __init__(self) -> None:
        self.digits: dict[str, int] = {}
        # 0% and 0.00% of Excel have no code in the file; dates are no numbers to python-calamine
        self._formats = {"9": MOST_DIGITS, "10": MOST_DIGITS}
        self._style: int | None = None  # the next one; None outside of the styles of cells

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """See `XmlHandler`."""
        name = name.rpartition(":")[2]
        if name == "numFmt":
            digits = shown_digits(attributes.get("formatCode", ""))
            self._formats[attributes.get("numFmtId", "")] = digits
        elif name == "cellXfs":
            self._style = 0
        elif name == "xf" and self._style is not None:
            digits = self._formats.get(attributes.get("numFmtId", ""), 0)
            if digits > 1:
                self.digits[str(self._style)] = digits
            self._style += 1

    def end(self, name: str) -> None:
        """See `XmlHandler`."""
        if name.rpartition(":")[2] == "cellXfs":
            self._style = None


def _is_hidden(row: _Attributes) -> bool:
    if "hidden" in row and row["hidden"].strip().lower() not in {"0", "false"}:
        return True
    return "ht" in row and float(row["ht"]) == 0


_DIGITS = "0123456789"
_COLUMN = re.compile(r"[A-Za-z]{1,3}")


def _position(reference: str) -> tuple[int, int]:
    """Return the row and the column, from 0, of a reference such as B3."""
    letters = reference.rstrip(_DIGITS)
    column = _column(letters)
    return positive(reference[len(letters) :]) - 1, column


@functools.lru_cache(maxsize=MAX_COLUMNS)
def _column(letters: str) -> int:
    if not _COLUMN.fullmatch(letters):
        raise UnreadableSheetError("is damaged: it has a cell without a position")
    column = 0
    for letter in letters.upper():
        column = column * 26 + ord(letter) - ord("A") + 1
    return column - 1


_EXPONENT = re.compile(r"[0-9]E[+-]?[0-9]")
_NO_DIGITS = re.compile("[^0-9]+")
_ODF_ERROR = re.compile(r"#(?:N/A|NULL!|DIV/0!|VALUE!|REF!|NAME\?|NUM!)|Err:[0-9]+")
# Errors are shorter.
_SHORT = 64
_CELLS = frozenset({"table:table-cell", "table:covered-table-cell"})
# The elements in a cell that python-calamine reads exactly.
_PLAIN = frozenset({"text:p", "text:s", "text:span", "text:a"})
_VALUES = frozenset(
    {
        "office:value",
        "office:string-value",
        "office:date-value",
        "office:time-value",
        "office:boolean-value",
    }
)


class OpenDocumentReader(XmlHandler):
    """
    A reader of all sheets of OpenDocument.

    Attributes:
        sheets: the findings by the name of the sheet.
    """

    def __init__(self) -> None:
        self.sheets: dict[str, SheetFindings] = {}
        self._sheet: SheetFindings | None = None
        self._extent = Extent()
        # The cells of the sheets before this one.
        self._cells = 0
        self._row = self._repeated = self._column = 0
        self._cell: _Attributes | None = None
        # The elements in a cell; from this depth on, they are those of a comment.
        self._depth = 0
        self._comment: int | None = None
        self._is_plain = True
        self._text = ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """See `XmlHandler`."""
        if self._cell is not None:
            self._start_inside(name)
        elif name == "table:table":
            self._start_sheet(attributes)
        elif self._sheet is None:
            return
        elif name == "table:table-row":
            self._start_row(self._sheet, attributes)
        elif name == "table:table-row-group" and attributes.get("table:display") == "false":
            self._sheet.hide(self._row + 1)
        elif name in _CELLS:
            self._start_cell(self._sheet, name, attributes)

    def end(self, name: str) -> None:
        """See `XmlHandler`."""
        if self._depth:
            self._depth -= 1
            if self._depth == self._comment:
                self._comment = None
        elif self._sheet is None:
            return
        elif self._cell is not None:
            self._end_cell(self._sheet, self._cell)
            self._cell = None
            self.reads_text(wanted=False)
        elif name == "table:table-row":
            self._row += self._repeated
        elif name == "table:table":
            self._sheet = None
            self._cells += self._extent.cells

    def text(self, data: str) -> None:
        """See `XmlHandler`."""
        if self._comment is None and len(self._text) < _SHORT:
            self._text += data

    def split(self) -> None:
        """See `XmlHandler`."""
        self._is_plain = False

    def _start_sheet(self, attributes: _Attributes) -> None:
        if self._sheet is not None:
            raise UnreadableSheetError("has a table in a table")
        name = attributes.get("table:name", "")
        if name in self.sheets:
            raise UnreadableSheetError("has two sheets with one name")
        self._sheet = self.sheets[name] = SheetFindings(faults={})
        self._extent = Extent()
        self._row = 0

    def _start_row(self, sheet: SheetFindings, attributes: _Attributes) -> None:
        self._repeated = positive(attributes.get("table:number-rows-repeated", "1"))
        self._column = 0
        if attributes.get("table:visibility", "visible") != "visible":
            sheet.hide(self._row + 1)

    def _start_cell(self, sheet: SheetFindings, name: str, attributes: _Attributes) -> None:
        self._cell, self._is_plain, self._text = attributes, True, ""
        self.reads_text(wanted="table:formula" in attributes or "office:value" in attributes)
        spans = [
            positive(attributes.get(f"table:number-{what}-spanned", "1")) for what in _DIRECTIONS
        ]
        if sheet.merged is None and (name != "table:table-cell" or max(spans) > 1):
            sheet.merged = f"{column_letters(self._column)}{self._row + 1}"

    def _start_inside(self, name: str) -> None:
        if name in {"table:table", "table:table-row"} or name in _CELLS:
            raise UnreadableSheetError("has a table in a cell")
        if self._comment is None:
            if name == "office:annotation":
                self._comment = self._depth
            elif name not in _PLAIN:
                self._is_plain = False
        self._depth += 1

    def _end_cell(self, sheet: SheetFindings, cell: _Attributes) -> None:
        columns = positive(cell.get("table:number-columns-repeated", "1"))
        first, self._column = self._column, self._column + columns
        fault = self._fault(cell)
        if fault is None and not self._is_filled(cell):
            return
        self._extent.add(self._row + self._repeated - 1, first + columns - 1)
        if self._cells + self._extent.cells > MAX_CELLS:
            raise UnreadableSheetError(f"has sheets with more than {MAX_CELLS:,} cells")
        if fault is not None:
            for row in range(self._row + 1, self._row + self._repeated + 1):
                for column in range(first, first + columns):
                    sheet.add_fault(row, column, fault)
        elif _is_other(cell, self._text):
            for column in range(first, first + columns):
                sheet.add_digits(self._row + 1, column, MOST_DIGITS, rows=self._repeated)

    def _fault(self, cell: _Attributes) -> FaultyCell | None:
        """Return why a cell cannot be used, None if it can be."""
        if cell.get("calcext:value-type") == "error":
            return ERROR
        if "table:formula" in cell:
            if _ODF_ERROR.fullmatch(self._text.strip()):
                return ERROR
            if "office:value-type" not in cell:
                return _UNCALCULATED
            if _is_total(cell["table:formula"]):
                return TOTAL
        if not self._is_plain and not cell.keys() & _VALUES:
            return _INEXACT
        return None

    @staticmethod
    def _is_filled(cell: _Attributes) -> bool:
        return bool(cell.keys() & _VALUES) or cell.get("office:value-type") == "string"


_DIRECTIONS = ("rows", "columns")


def _is_other(cell: _Attributes, shown: str) -> bool:
    """Return whether people see something else than the number in a cell."""
    if cell.get("office:value-type") in {"date", "time"}:
        return True
    if "office:value" not in cell or _EXPONENT.search(shown):
        return False
    if "%" in shown or any(map(str.isalpha, shown)):
        return True
    number, digits = cell["office:value"].strip("-").partition(".")[0], _NO_DIGITS.sub("", shown)
    is_same = digits == "0" if number == "0" else digits.startswith(number)
    return digits != "" and not is_same
