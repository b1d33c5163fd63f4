"""
A reader of input records: lines of text, and CSV records as RFC 4180 describes them.

The standard library's `csv` parses the cells. This module decides where a record may end.

Invariants:

- A line ends with LF, which CR may precede. No other character ends a line.
- No text inside a cell becomes a record. If the end of a CSV record is not certain, the whole
  input is rejected, with the number of the record's first line.
- A record has at most 1 MiB characters and 1,000 lines, so memory is bounded.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from typing import Protocol, Self

import msgspec

from adapty_async.errors import InvalidInputError

#: Characters of a record, its last line break not counted.
RECORD_CHARACTERS = 1024 * 1024
# A cell with more lines than that is a quote that was not closed.
_RECORD_LINES = 1000
# The delimiters of CSV that are tried; the one with the most columns in the header counts.
_DELIMITERS = ",;\t"
# The first line that Excel writes: the delimiter of the following rows.
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\\ \r\n])"?', re.IGNORECASE)
_BYTE_ORDER_MARK = "\ufeff"
_UNCERTAIN = "so it is not certain where the row ends, and the file is rejected"


class TextStream(Protocol):
    """The interface of a stream of text, opened so that LF alone ends a line."""

    def readline(self, limit: int = -1, /) -> str:
        """Return a line with its line break, or its first characters; empty at the end."""
        ...


class LineReader:
    """
    An iterator of the lines of a stream, each with its line break.

    Args:
        stream: a text stream, opened so that LF alone ends a line.
        number: the number of lines before it, if it begins in the middle of a file.

    Attributes:
        number: the number of the last line, from 1.
        is_long: the last line is longer than a record may be, and only its beginning was read.
        is_open: the last line ends with the input, not with a line break.
    """

    def __init__(self, stream: TextStream, number: int = 0) -> None:
        self._stream = stream
        self.number = number
        self.is_long = self.is_open = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        """Return the next line, or its beginning if it is too long."""
        line = self._stream.readline(RECORD_CHARACTERS + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.is_open = line[-1] != "\n"
        self.is_long = self.is_open and len(line) > RECORD_CHARACTERS
        # concatenated files may begin with more than one mark
        return line if self.number > 1 else line.lstrip(_BYTE_ORDER_MARK)

    def skip_rest(self) -> bool:
        """
        Skip the rest of a line that is too long; return whether the record ends with it.

        The record ends if the rest has no quote, and no backslash before the line break.
        """
        quoted, last = False, ""
        while line := self._stream.readline(RECORD_CHARACTERS):
            quoted = quoted or '"' in line
            last = (last + line)[-3:]
            if line[-1] == "\n":
                break
        return not quoted and not last.rstrip("\r\n").endswith("\\")


class Record(msgspec.Struct, frozen=True):
    """
    A record of a CSV file.

    Attributes:
        first, last: the numbers of its first and last line.
        text: the raw text without its last line break.
        cells: the cells; None if the record is too long.
    """

    first: int
    last: int
    text: str
    cells: list[str] | None


class Header(msgspec.Struct, frozen=True):
    """
    The first record of a CSV file.

    Attributes:
        delimiter: the separator of cells.
        blanks: blanks follow each delimiter, and belong to it.
        record: the record of the column names.
    """

    delimiter: str
    blanks: bool
    record: Record


class CsvReader:
    """
    A reader of a CSV file's records. It reads every record, or raises for the whole file.

    A record that is too long and has no quote costs only itself, since it certainly ends with its
    line. Quotes that break RFC 4180 end the reading: the text of a cell could then look like a
    record, and would be sent.

    Args:
        lines: the file's lines.
        path: the name of the file in messages.
    """

    def __init__(self, lines: LineReader, path: str) -> None:
        self._lines = lines
        self._path = path
        self._held: list[str] = []  # the lines of the record that is being read
        self._size = 0  # characters of these
        self._is_long = False  # that record is too long, and was skipped
        self._ended = False  # there are no more lines
        # A cell may be as long as a record. `csv` has only one limit for all readers of a process.
        # It is never lowered here, so other readers are not affected.
        csv.field_size_limit(max(csv.field_size_limit(), 2 * RECORD_CHARACTERS))

    def header(self) -> Header | None:
        """
        Read the column names, and detect the delimiter; return None if there is no record.

        Raises:
            InvalidInputError: the first line is not a record, or is too long.
        """
        delimiters = _DELIMITERS
        record = self._first_record()
        if record is not None and (named := _SEPARATOR_LINE.fullmatch(record.text)):
            delimiters = named[1]
            record = self._first_record()
        if record is None:
            return None
        found = [_header(self._held, record, delimiter) for delimiter in delimiters]
        best = max(filter(None, found), key=_cell_count, default=None)
        if best is None:
            raise self._rejection(f"must be column names, but {self._fault()}")
        return best

    def records(self, header: Header) -> Iterator[Record]:
        """
        Yield the records after the header; blank lines are records without cells.

        Raises:
            InvalidInputError: the end of a record is not certain.
        """
        reader = csv.reader(
            self, delimiter=header.delimiter, skipinitialspace=header.blanks, strict=True
        )
        while True:
            self._begin()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:
                raise self._rejection(self._fault()) from None
            text = "".join(self._held)
            if self._is_long:
                yield self._record(text, None)
                continue
            if text.count('"') % 2:
                raise self._rejection(f"has a quote inside a cell, {_UNCERTAIN}")
            if "\\" in text and _is_escaped(self._held, header):
                raise self._rejection(f"has a backslash that may be an escape, {_UNCERTAIN}")
            yield self._record(text, cells)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        """Return the next line, for `csv`."""
        line = next(self._lines, None)
        if line is None:
            self._ended = True
            raise StopIteration
        self._held.append(line)
        self._size += len(line)
        if self._lines.is_long or self._size > RECORD_CHARACTERS + 1:  # with its last line break
            return self._long_record(line)
        if len(self._held) > _RECORD_LINES:
            raise self._rejection(f"has a quote that is not closed within {_RECORD_LINES:,} lines")
        return line

    def _begin(self) -> None:
        self._held = []
        self._size = 0
        self._is_long = False

    def _first_record(self) -> Record | None:
        """Read lines until all quotes are closed; the delimiter is not known yet."""
        self._begin()
        quotes = 0
        for line in self:
            if self._is_long:
                raise self._rejection(
                    f"must be column names, but is longer than {RECORD_CHARACTERS}"
                )
            quotes += line.count('"')
            if quotes % 2 == 0 and line.strip():
                return self._record("".join(self._held), None)
            if quotes == 0:
                self._begin()  # a blank line
        if self._held:
            raise self._rejection(f"must be column names, but {self._fault()}")
        return None

    def _record(self, text: str, cells: list[str] | None) -> Record:
        text = text.removesuffix("\n").removesuffix("\r")
        return Record(self._first, self._lines.number, text, cells)

    @property
    def _first(self) -> int:
        return self._lines.number - max(0, len(self._held) - 1)

    def _long_record(self, line: str) -> str:
        if len(self._held) == 1 and '"' not in line and self._lines.skip_rest():
            self._is_long = True
            return "\n"
        raise self._rejection(
            f"is longer than {RECORD_CHARACTERS} characters with its quotes, {_UNCERTAIN}"
        )

    def _fault(self) -> str:
        """Return why `csv` cannot read a record; the messages of `csv` differ between versions."""
        text = "".join(self._held)
        if self._ended:
            return "has a quote that is not closed up to the end of the file"
        if "\r" in text.replace("\r\n", ""):
            return f"has a carriage return that is not part of a line break, {_UNCERTAIN}"
        return f"has text behind a closing quote, {_UNCERTAIN}"

    def _rejection(self, reason: str) -> InvalidInputError:
        return InvalidInputError(f"{self._path}, line {self._first}", reason)


def _cell_count(header: Header) -> int:
    return len(header.record.cells or ())


def _header(lines: Sequence[str], record: Record, delimiter: str) -> Header | None:
    """
    Parse lines as one record of column names with a delimiter; return None if they are not one.

    A quote in a name shows that the delimiter is another one.
    """
    for blanks in (False, True):
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=blanks, strict=True)
        try:
            names = next(reader)
        except csv.Error:
            continue
        followed = names[1:]
        if not blanks and followed and all(name.startswith(" ") for name in followed):
            continue
        if reader.line_num == len(lines) and not any('"' in name for name in names):
            return Header(delimiter, blanks, msgspec.structs.replace(record, cells=names))
    return None


def _is_escaped(lines: Sequence[str], header: Header) -> bool:
    r"""
    Return whether a reader for which a backslash is an escape would end a record elsewhere.

    MySQL, Spark and Snowflake write a quote in a cell as ``\"`` and a line break as a backslash
    before it. If such a reader cannot parse a record, a backslash is no escape.
    """
    read_on = False

    def each() -> Iterator[str]:
        nonlocal read_on
        yield from lines
        read_on = True

    reader = csv.reader(
        each(),
        delimiter=header.delimiter,
        escapechar="\\",
        skipinitialspace=header.blanks,
        strict=True,
    )
    try:
        next(reader)
    except csv.Error:
        return read_on
    return read_on or reader.line_num < len(lines)
