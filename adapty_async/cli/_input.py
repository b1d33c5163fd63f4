"""
Input files as rows: CSV, NDJSON and plain text, gzip or not, from a path or standard input.

Law: a record is one line, in every format. So a line that cannot be read costs nothing but itself,
and line numbers are exact. Blank lines are no rows.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from adapty_async.cli._fingerprint import difference, fingerprint
from adapty_async.errors import InvalidInputError

__all__ = ("Format", "Row", "Rows", "SizedRows", "open_rows")

Format: TypeAlias = Literal["csv", "ndjson", "text"]
ColumnCheck: TypeAlias = Callable[[list[str]], None]

_LINE_LIMIT = 1024 * 1024
_GZIP_MAGIC = b"\x1f\x8b"
_FAILURE_KEYS = frozenset({"line", "item", "status"})
_UNREAD = {"type": "InvalidInputError", "field_name": "row"}
_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".txt": "text",
}


class Row(msgspec.Struct, frozen=True):
    """
    One record of the input.

    Attributes:
        line: its line number, from 1.
        value: the cells that are not empty by column, the JSON value, or the text.
        broken: why the line cannot be read, None if it can; `value` is what can be shown of the
            line then.
    """

    line: int
    value: Any
    broken: str | None = None

    def __repr__(self) -> str:
        return f"Row(line={self.line})"


class Rows:
    """
    The rows of an input, in order, read as they are asked for.
    """

    def __init__(self, path: str, form: Format, check_columns: ColumnCheck) -> None:
        self.path = path
        self.form = form
        self._check_columns = check_columns
        self._extent: _Extent | None = None

    def __iter__(self) -> Iterator[Row]:
        with _opened(self.path, self._extent) as stream:
            lines = _lines(stream)
            if self.form == "csv":
                yield from self._csv_rows(lines)
            else:
                yield from map(_json_row, lines) if self.form == "ndjson" else lines

    def _csv_rows(self, lines: Iterator[Row]) -> Iterator[Row]:
        header = next(lines, None)
        if header is None:
            raise InvalidInputError(self.path, "must begin with a line of column names")
        delimiter = max(",;\t", key=header.value.count)
        names = _cells(header, delimiter)
        where = f"{self.path}, line {header.line}"
        if header.broken is not None or names is None:
            reason = f"must be column names, but {header.broken or 'a quote is not closed'}"
            raise InvalidInputError(where, reason)
        if "" in names or len(set(names)) < len(names):
            raise InvalidInputError(where, "column names must be distinct and not empty")
        self._check_columns(names)
        yield from (_csv_row(line, names, delimiter) for line in lines)


class SizedRows(Rows):
    """
    The rows of a file, counted beforehand; what it grows by afterwards is not read.
    """

    def __init__(self, path: str, form: Format, check_columns: ColumnCheck) -> None:
        super().__init__(path, form, check_columns)
        self._extent = extent = _extent_of(path)
        next(iter(self), None)  # an unusable header is told before anything else happens
        with _opened(path, extent) as stream:
            lines = sum(1 for _ in _lines(stream))
        self._length = lines - 1 if form == "csv" else lines
        self._size = extent.size

    def __len__(self) -> int:
        return self._length

    def identity(self) -> dict[str, Any]:
        """
        Return the file's size and digest, and how many rows it has.
        """
        return fingerprint(Path(self.path), self._size) | {"rows": self._length}

    def difference(self, earlier: dict[str, Any]) -> str | None:
        """
        Say how the file differs from what it was.
        """
        return difference(Path(self.path), self._size, earlier)


def open_rows(path: str, form: Format | None, check_columns: ColumnCheck) -> Rows:
    """
    Get ready to read an input; a file is read through once, to count its rows.

    What can be read only once, such as a pipe, is not counted.

    Args:
        path: the file; ``-`` is standard input.
        form: how it is written; None to tell by its name.
        check_columns: is given the column names of a CSV file and raises what is wrong with them.

    Raises:
        InvalidInputError: the format cannot be told, or the file cannot be read.
    """
    form = form or _SUFFIXES.get(Path(path.removesuffix(".gz")).suffix.lower())
    if form is None:
        raise InvalidInputError(
            "--format", "must be given when the name does not end in .csv, .ndjson or .txt"
        )
    kind = Rows if _is_read_once(path) else SizedRows
    return kind(path, form, check_columns)


def _is_read_once(path: str) -> bool:
    if path == "-":
        return True
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False  # opening it tells more
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


class _Extent(msgspec.Struct, frozen=True):
    """
    Which file it is, and how many bytes of it there were when it was looked at first.
    """

    device: int
    inode: int
    size: int


def _extent_of(path: str) -> _Extent:
    try:
        found = Path(path).stat()
    except OSError as error:
        raise InvalidInputError(path, f"cannot be read: {error.strerror}") from None
    return _Extent(found.st_dev, found.st_ino, found.st_size)


class _FirstBytes(io.FileIO):
    """
    A file as far as it went before: who adds to it must not be read in the middle of a line.
    """

    def __init__(self, path: str, extent: _Extent) -> None:
        super().__init__(path)
        self._left = extent.size
        found = os.fstat(self.fileno())
        if (found.st_dev, found.st_ino) != (extent.device, extent.inode):
            self.close()
            raise InvalidInputError(path, "was replaced by another file meanwhile")

    def readinto(self, buffer: Any) -> int:
        """
        Read at most as much as fits.
        """
        part = memoryview(buffer)[: self._left]
        count = super().readinto(part) or 0
        if not count and part:
            raise OSError(errno.EIO, "it has become shorter meanwhile")
        self._left -= count
        return count


@contextlib.contextmanager
def _opened(path: str, extent: _Extent | None) -> Iterator[io.TextIOWrapper]:
    with contextlib.ExitStack() as stack:
        try:
            raw = stack.enter_context(_binary(path, extent))
            packed = raw.peek(2)[:2] == _GZIP_MAGIC
            data = stack.enter_context(gzip.GzipFile(fileobj=raw)) if packed else raw
            text = io.TextIOWrapper(data, encoding="utf-8-sig", errors="surrogateescape")
            yield text
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise InvalidInputError(path, "is a damaged gzip file") from None
        except OSError as error:
            raise InvalidInputError(path, f"cannot be read: {error.strerror or error}") from None


def _binary(path: str, extent: _Extent | None) -> io.BufferedReader:
    """
    Open a file; standard input once more, so that it stays open, and a read that waits can be left.
    """
    if extent is not None:
        return io.BufferedReader(_FirstBytes(path, extent))
    if path != "-":
        return Path(path).open("rb")
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    return open(sys.stdin.fileno(), "rb", closefd=False)


def _lines(stream: io.TextIOWrapper) -> Iterator[Row]:
    number = 0
    while line := stream.readline(_LINE_LIMIT + 1):
        number += 1
        if len(line) > _LINE_LIMIT and not line.endswith("\n"):
            _skip_line(stream)
            yield Row(number, _readable(line[:100]), f"is longer than {_LINE_LIMIT} characters")
        elif not (text := line.removesuffix("\n")).strip():
            continue
        elif text.isascii() or (readable := _readable(text)) == text:
            yield Row(number, text)
        else:
            yield Row(number, readable, "is not UTF-8")


def _skip_line(stream: io.TextIOWrapper) -> None:
    while (line := stream.readline(_LINE_LIMIT)) and not line.endswith("\n"):
        pass


def _readable(text: str) -> str:
    """
    Replace what was not UTF-8, and stands as surrogates in the text.
    """
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _cells(line: Row, delimiter: str) -> list[str] | None:
    try:
        return next(csv.reader([line.value], delimiter=delimiter, strict=True))
    except csv.Error:
        return None


def _csv_row(line: Row, names: list[str], delimiter: str) -> Row:
    cells = None if line.broken else _cells(line, delimiter)
    if cells is None:
        broken = (
            line.broken or "has a quote that is not closed in the same line, or too long a cell"
        )
        return Row(line.line, line.value, broken)
    if len(cells) != len(names):
        return Row(line.line, line.value, f"has {len(cells)} cells for {len(names)} columns")
    return Row(line.line, {name: cell for name, cell in zip(names, cells, strict=True) if cell})


def _json_row(line: Row) -> Row:
    if line.broken:
        return line
    try:
        value = msgspec.json.decode(line.value)
    except (ValueError, RecursionError):
        return Row(line.line, line.value, "is not JSON")
    if isinstance(value, dict) and value.keys() >= _FAILURE_KEYS:
        return _fed_back(line.line, value)
    return Row(line.line, value)


def _fed_back(number: int, failure: dict[str, Any]) -> Row:
    """
    Take the item out of a line of a failures file; a line that could not be read stays broken.

    Its text would otherwise be taken for an id, which nobody has, and count as erased.
    """
    item, error = failure["item"], failure.get("error")
    if isinstance(item, str) and isinstance(error, dict) and error.items() >= _UNREAD.items():
        return Row(number, item, f"{error.get('rule')}")
    return Row(number, item)
