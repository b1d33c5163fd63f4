"""
A reader of input files as rows: text, gzip or not, from a path or a pipe; and tables.

Text is CSV, NDJSON and plain text. Tables are Parquet, Arrow and Excel files.

Invariants:

- A file that changes after it was counted ends the run before any row of it that is not the same.
- Counting, checking, sending and resuming read rows with the same code, so that they agree.
- A row that cannot be read costs only itself if its end is certain. Otherwise the file is rejected
  before anything is sent; a pipe is not read any further.
- A row's number is that of its first line. Blank lines and rows of empty cells are no rows.
- The rows of a table are numbered from 1, those of a spreadsheet as the spreadsheet numbers them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, Unpack

import msgspec

from adapty_async._input.arrow import open_arrow, open_parquet
from adapty_async._input.excel import open_excel
from adapty_async._input.files import (
    FileBytes,
    extent_of,
    is_read_once,
    known_encoding,
    open_text,
    require_utf8_name,
)
from adapty_async._input.findings import Findings, escaped
from adapty_async._input.fingerprint import difference, fingerprint
from adapty_async._input.json_lines import duplicate_key, is_unfinished
from adapty_async._input.layout import (
    TABLE_FORMATS,
    ColumnCheck,
    Format,
    KeyCheck,
    Layout,
    Row,
    format_of,
)
from adapty_async._input.records import RECORD_CHARACTERS, CsvReader, Header, LineReader, Record
from adapty_async._input.tables import Table, read_table
from adapty_async._runtime.words import counted
from adapty_async.errors import InvalidInputError

# Exactly these keys: "line", "item" and "status" alone may be the columns of an order. The error
# may be removed by a correction.
_FAILURE_KEYS = frozenset({"line", "item", "status", "attempts"})
_TOO_LONG = f"is longer than {RECORD_CHARACTERS} characters"
_NOT_JSON = "is not JSON"
_NOT_UTF8 = "is not UTF-8: set its encoding, such as cp1252"
_INCOMPLETE = "may be incomplete: it has no line break at its end; add one, or name a file"
_NO_TEXT = "has a NUL character, so the file is no text; if it is UTF-16, set its encoding"
_UNREAD = {"type": "InvalidInputError", "field_name": "row"}
# Different keys of a file. A file with more has data as keys, and would fill the memory.
_MOST_KEYS = 100_000

#: Receives rows, and returns the same ones.
WatchRows: TypeAlias = Callable[[Iterator[Row]], Iterator[Row]]


class Rows:
    """
    An iterable of the rows of an input, in order, which reads lazily.

    Attributes:
        path: the file; ``-`` is standard input.
        form: its format.
        noun: what its rows are numbered by: the line, or the row of a table.
        findings: counts of suspicious rows: of the whole file, or of the rows read so far of a
            pipe.
    """

    def __init__(self, path: str, layout: Layout) -> None:
        self.path = path
        self.form = layout.form
        self.noun = layout.noun
        self.findings = Findings(layout.id_column, layout.noun)
        self._layout = layout
        self._content: FileBytes | None = None

    def __iter__(self) -> Iterator[Row]:
        rows, check = self._read(self.findings), self._key_check
        return rows if check is None else _checking_first(rows, check)

    @property
    def _key_check(self) -> KeyCheck | None:
        return self._layout.check_keys if self.form == "ndjson" else None

    def identify(self, row: Row, column: str | None = None) -> tuple[int, str | None]:
        """
        Return a row's line and id; the id is None if there is none that can be read.

        The id is in `column` if that is given, otherwise in the layout's column.
        """
        value = row.value if row.broken is None else None
        if isinstance(value, dict):
            value = value.get(column or self._layout.id_column)
        return row.line, value if isinstance(value, str) else None

    def _read(self, findings: Findings) -> Iterator[Row]:
        with open_text(self.path, self._content, self._layout.encoding) as stream:
            lines, reader = LineReader(stream), RowReader(self.path, self._layout, findings)
            rows = reader.rows(lines, reader.header(lines))
            is_pipe = self._content is None and self.form != "ndjson"  # half a value is no JSON
            yield from _whole_rows(rows, lines) if is_pipe else rows


def _open_table(path: str, layout: Layout) -> AbstractContextManager[Table]:
    """Open a table with the reader of its format."""
    if layout.form == "excel":
        return open_excel(path, layout.sheet)
    return open_parquet(path) if layout.form == "parquet" else open_arrow(path)


class RowReader:
    """
    A reader of the rows in lines of text, which may begin in the middle of a file.

    Args:
        path: the name of the file in messages.
        layout: the format.
        findings: counts the suspicious rows.
    """

    def __init__(self, path: str, layout: Layout, findings: Findings) -> None:
        self._path = path
        self._layout = layout
        self._findings = findings

    def header(self, lines: LineReader) -> Header | None:
        """
        Read the column names at the beginning of a CSV file; return None for other formats.

        Raises:
            InvalidInputError: there are none, or the layout's check rejects them.
        """
        if self._layout.form != "csv":
            return None
        header = CsvReader(lines, self._path).header()
        if header is None:
            raise InvalidInputError(self._path, "must begin with a line of column names")
        if _readable(header.record.text) != header.record.text:
            where = f"{self._path}, line {header.record.first}"
            raise InvalidInputError(where, f"must be column names, but {_NOT_UTF8}")
        self._layout.check_columns([name for name in _names(header) if name])
        return header

    def rows(self, lines: LineReader, header: Header | None) -> Iterator[Row]:
        """
        Return an iterator of the rows in the lines that follow.

        Raises:
            InvalidInputError: raised by the iterator: the end of a row is not certain.
        """
        if header is not None:
            rows = self._csv_rows(lines, header)
        else:
            rows = _text_rows(lines)
            rows = self._json_rows(rows) if self._layout.form == "ndjson" else self._ids(rows)
        return rows if self._findings.id_column is None else self._checked(rows)

    def _checked(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Count the suspicious ids among the rows."""
        for row in rows:
            if row.broken is None:
                self._findings.add_row(row.line, row.value)
            yield row

    def _ids(self, lines: Iterator[Row]) -> Iterator[Row]:
        """
        Read each line as an id.

        A NUL is in no text. Another kind of file, such as a compressed one, has some, and short
        lines that could be ids.
        """
        for line in lines:
            if "\0" in line.value:
                raise InvalidInputError(f"{self._path}, line {line.line}", _NO_TEXT)
            yield line

    def _json_rows(self, lines: Iterator[Row]) -> Iterator[Row]:
        """
        Read each line as JSON.

        A line that is not JSON costs only itself, unless its text may continue in the next line: a
        string or an object within it would then be taken for a row.
        """
        matters = self._layout.matters or (lambda name: name == self._layout.id_column)
        unfinished: Row | None = None
        for line in lines:
            if unfinished is not None:
                raise InvalidInputError(
                    f"{self._path}, line {unfinished.line}",
                    f"{unfinished.broken}, and the next line may belong to it, so the file is "
                    "rejected: each row must be JSON on one line",
                )
            row = _json_row(line, matters)
            if row.broken in {_NOT_JSON, _NOT_UTF8} and is_unfinished(line.value):
                unfinished = row
            yield row

    def _csv_rows(self, lines: LineReader, header: Header) -> Iterator[Row]:
        """Yield the rows of CSV records; those without an id may be left out."""
        names = _names(header)
        needed = self._layout.needed_column
        for record in CsvReader(lines, self._path).records(header):
            row = _csv_row(record, names, blanks=header.blanks)
            if row is None:
                continue
            if record.last > record.first:
                self._findings.add_multiline(record.first, record.last)
            if needed is not None and row.broken is None and needed not in row.value:
                self._findings.without_id += 1
                continue
            yield row


def _names(header: Header) -> list[str]:
    return [name.strip() for name in header.record.cells or ()]


class SizedRows(Rows):
    """
    An iterable of the rows of a file, counted in advance; appended rows are not read.

    The rows that are counted pass through `watch`.

    Attributes:
        ends: the first and the last row; None if there are none.
    """

    def __init__(self, path: str, layout: Layout, watch: WatchRows = iter) -> None:
        super().__init__(path, layout)
        self._extent = extent_of(path)
        self._content = FileBytes(self._extent)
        rows, check = watch(self._read(self.findings)), self._key_check
        self._length, self.ends = _count(rows if check is None else _checking_all(rows, check))

    def __iter__(self) -> Iterator[Row]:
        return self._read(Findings(noun=self.noun))

    def __len__(self) -> int:
        return self._length

    def identity(self) -> dict[str, Any]:
        """Return the file's size, digest and number of rows."""
        return fingerprint(Path(self.path), self._extent.size) | {"rows": self._length}

    def difference(self, earlier: dict[str, Any]) -> str | None:
        """Return how the file differs from an earlier identity; None if its rows are the same."""
        is_text, size = self.form not in TABLE_FORMATS, self._extent.size
        different = difference(Path(self.path), size, earlier, is_text=is_text)
        rows = earlier.get("rows", self._length)
        if different is None and earlier["size"] == size and rows != self._length:
            return f"the file was read as {rows:,} rows, and is read as {self._length:,} now"
        return different

    def _read(self, findings: Findings) -> Iterator[Row]:
        return self._read_table(findings) if self.form in TABLE_FORMATS else super()._read(findings)

    def _read_table(self, findings: Findings) -> Iterator[Row]:
        self._require_same_table()
        with _open_table(self.path, self._layout) as table:
            for row in read_table(table, self._layout, findings):
                self._require_same_table()  # the row may have been read just now
                yield row
            self._require_same_table()

    def _require_same_table(self) -> None:
        if extent_of(self.path) != self._extent:
            raise InvalidInputError(self.path, "was changed meanwhile")


def _checking_all(rows: Iterable[Row], check: KeyCheck) -> Iterator[Row]:
    """
    Yield rows, and check the keys of their objects together at the end.

    The rows of a failures file have no keys for cells that were empty, nor for columns of a table
    that do not matter. The run that wrote it has checked the names of all columns.

    Raises:
        InvalidInputError: the check rejects the keys, or there are too many.
    """
    keys: dict[str, None] = {}
    are_failures = True
    for row in rows:
        if row.broken is None and isinstance(row.value, dict):
            are_failures = are_failures and row.is_failure
            keys.update(dict.fromkeys(row.value))
            if len(keys) > _MOST_KEYS:
                raise InvalidInputError("input", f"has more than {_MOST_KEYS:,} different keys")
        yield row
    if keys:
        check(list(keys), is_all=True, are_failures=are_failures)


def _checking_first(rows: Iterable[Row], check: KeyCheck) -> Iterator[Row]:
    """
    Yield rows; check the keys of the first object in front of it.

    Raises:
        InvalidInputError: the check rejects the keys.
    """
    is_checked = False
    for row in rows:
        if not is_checked and row.broken is None and isinstance(row.value, dict):
            check(list(row.value), is_all=False, are_failures=row.is_failure)
            is_checked = True
        yield row


def _count(rows: Iterator[Row]) -> tuple[int, tuple[Row, Row] | None]:
    """Return the number of rows, and the first and the last of them."""
    first = last = next(rows, None)
    if first is None or last is None:
        return 0, None
    count = 1
    for last in rows:  # noqa: B007  the last one is returned
        count += 1
    return count, (first, last)


class LayoutOptions(TypedDict, total=False):
    """The options of a layout; see `Layout`."""

    check_keys: KeyCheck | None
    encoding: str | None
    id_column: str | None
    id_optional: bool
    sheet: str | None
    is_number: Callable[[str], bool]
    matters: Callable[[str], bool] | None


def open_rows(
    path: str,
    form: Format | None,
    check_columns: ColumnCheck,
    *,
    watch: WatchRows = iter,
    **options: Unpack[LayoutOptions],
) -> Rows:
    """
    Open an input. A file is read through once, to count and check its rows.

    An input that can be read only once, such as a pipe, is not counted.

    Args:
        path: the file; ``-`` is standard input.
        form: its format; None to infer it from the name.
        check_columns: see `Layout`.
        watch: receives the rows of a file while they are counted, and returns them.
        options: see `Layout`.

    Raises:
        ConfigError: the format needs an extra that is not installed.
        InvalidInputError: the format or the encoding is unknown, the file cannot be read, or the
            end of a row is not certain.
    """
    form = form or format_of(path)
    if form is None:
        raise InvalidInputError(
            "format",
            "is required: the name does not end in a known suffix, such as .csv, .ndjson, .txt, "
            ".parquet, .feather or .xlsx",
        )
    encoding = options.get("encoding")
    _require_matching(path, form, encoding, options.get("sheet"))
    if encoding is not None:
        options["encoding"] = known_encoding(encoding)
    layout = Layout(form=form, check_columns=check_columns, **options)
    return Rows(path, layout) if is_read_once(path) else SizedRows(path, layout, watch)


def _require_matching(path: str, form: Format, encoding: str | None, sheet: str | None) -> None:
    """
    Validate that the options of an input belong to its format.

    Raises:
        InvalidInputError: one does not.
    """
    if sheet is not None and form != "excel":
        raise InvalidInputError("sheet", "is for spreadsheets only, such as .xlsx")
    if form not in TABLE_FORMATS:
        return
    if encoding is not None:
        raise InvalidInputError("encoding", f"is for text only; {form} files have their own")
    if path.endswith(".gz"):
        raise InvalidInputError(
            path, f"must not be packed with gzip to be read as {form}: unpack it"
        )
    if is_read_once(path):
        raise InvalidInputError(path, f"must be a file to be read as {form}, not a pipe")
    require_utf8_name(path, f"to be read as {form}")


def _whole_rows(rows: Iterator[Row], lines: LineReader) -> Iterator[Row]:
    """
    Yield the rows of a pipe; the last one is broken if its line has no line break.

    A pipe also ends, at any byte, if its writer is killed. Half an id is another id.
    """
    for row in rows:
        if row.broken is not None or not lines.is_open:
            yield row
            continue
        value = row.value
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        yield Row(row.line, text, _INCOMPLETE)


def _text_rows(lines: LineReader) -> Iterator[Row]:
    """Yield a row for each line of text that is not blank."""
    for line in lines:
        if lines.is_long:
            lines.skip_rest()
            yield Row(lines.number, _readable(line[:100]), _TOO_LONG)
            continue
        text = line[:-2] if line.endswith("\r\n") else line.removesuffix("\n")
        if not text.strip():
            continue
        if text.isascii() or (readable := _readable(text)) == text:
            yield Row(lines.number, text)
        else:
            yield Row(lines.number, readable, _NOT_UTF8)


def _readable(text: str) -> str:
    """Replace the surrogates in a text, which stand for bytes that are not UTF-8."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _csv_row(record: Record, names: list[str], *, blanks: bool) -> Row | None:
    """Return the row of a record, None if all its cells are empty."""
    text, cells = record.text, record.cells
    if cells is None:
        return Row(record.first, _readable(text[:100]), _TOO_LONG)
    if not "".join(cells).strip():
        return None
    broken = None
    if not text.isascii() and (readable := _readable(text)) != text:
        text, broken = readable, _NOT_UTF8
    elif len(cells) != len(names):
        broken = f"has {counted(len(cells), 'cell')} for {counted(len(names), 'column')}"
    elif blanks and text[0] == " ":  # `csv` would strip it like the blanks of delimiters
        broken = "begins with a blank"
    if broken is not None:
        return Row(record.first, text, broken)
    named = zip(names, cells, strict=True)
    return Row(record.first, {name: cell for name, cell in named if cell and name})


def _json_row(line: Row, matters: Callable[[str], bool]) -> Row:
    """Return the row of a line of NDJSON; it is broken if the line is not JSON."""
    if line.broken:
        return line
    try:
        value = msgspec.json.decode(line.value)
        is_failure = isinstance(value, dict) and value.keys() - {"error"} == _FAILURE_KEYS
        duplicate = duplicate_key(line.value, value, _is_item if is_failure else matters)
    except (ValueError, RecursionError):
        return Row(line.line, line.value, _NOT_JSON)
    if duplicate is not None:
        return Row(line.line, line.value, f'has the key "{escaped(duplicate)}" more than once')
    return _from_failure(line.line, value) if is_failure else Row(line.line, value)


def _is_item(name: str) -> bool:
    return name == "item"


def _from_failure(number: int, failure: dict[str, Any]) -> Row:
    """
    Return the item of a line of a failures file; a line that could not be read stays broken.

    Its text would otherwise become an unknown id, which counts as erased.
    """
    item, error = failure["item"], failure.get("error")
    if isinstance(item, str) and isinstance(error, dict) and error.items() >= _UNREAD.items():
        return Row(number, item, f"{error.get('rule')}", is_failure=True)
    return Row(number, item, is_failure=True)
