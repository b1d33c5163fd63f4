"""
The inputs of jobs, divided into parts that a worker reads alone.

Invariants:
- A part of a file ends where a record ends, as the reader of the command line decides it.
- A description of an input or a part has digests, byte offsets and keys, and no id.
- A worker compares the digest of a part before it sends anything.
"""

from __future__ import annotations

import codecs
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

from adapty_async._input.files import (
    Extent,
    FileBytes,
    extent_of,
    is_read_once,
    known_encoding,
    open_text,
    require_utf8_name,
)
from adapty_async._input.findings import Findings
from adapty_async._input.layout import TABLE_FORMATS, Format, Layout, Row, format_of
from adapty_async._input.records import LineReader, TextStream
from adapty_async._input.rows import RowReader
from adapty_async._input.schema import id_columns
from adapty_async.config import whole_number
from adapty_async.errors import ConfigError, InvalidInputError
from adapty_async.jobs._errors import PartChangedError
from adapty_async.jobs._model import PartPlan, Plan

#: Bytes of a digest.
_DIGEST_SIZE = 16
_UTF8 = "utf-8"
# The field with the ids of NDJSON, and their name in findings, without a column.
_ID_NAME = "id"
# Characters that are collected before they are added to a digest.
_COLLECTED = 1 << 20


class Unreadable:
    """A row without a readable id. It is no text, so its outcome is ``failed``."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"(a row that {self.reason})"


class Item(msgspec.Struct, frozen=True):
    """
    An item of a part.

    Attributes:
        line: the number of its first line, from 1; None if the input has no lines.
        value: its id.
    """

    line: int | None
    value: str | Unreadable

    def __repr__(self) -> str:
        return f"Item(line={self.line})"


class Source(Protocol):
    """The interface of a job's input. Its methods block."""

    def plan(self, part_size: int) -> Plan:
        """
        Divide the input into parts of *n* items; the last one may be smaller.

        Raises:
            InvalidInputError: it cannot be read, or not be divided.
        """
        ...

    def read(self, description: dict[str, Any], part: dict[str, Any]) -> list[Item]:
        """
        Return the items of a part.

        Args:
            description: the description of the input in its plan.
            part: the description of the part in its plan.

        Raises:
            PartChangedError: they are not those that were planned.
            InvalidInputError: the input cannot be read.
        """
        ...


class Lines:
    """
    A file of ids that every worker can read: text with one id a line, CSV or NDJSON.

    Args:
        path: the file.
        column: the column or field with the ids; by default the field ``id`` of NDJSON.
        format: its format; by default, by the name: ``.csv``, ``.tsv``, ``.ndjson``, ``.jsonl`` or
            ``.txt``.
        encoding: the encoding of the text without a byte order mark; UTF-8 by default.

    Attributes:
        path: the path of the file.
        findings: the suspicious ids that `plan` has counted.

    Raises:
        ConfigError: the name shows no format, or `column` is empty or missing.
        InvalidInputError: the format or the encoding is unknown.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        column: str | None = None,
        format: Format | None = None,  # noqa: A002  the name of the option
        encoding: str | None = None,
    ) -> None:
        self.path = str(path)
        found = format or format_of(self.path)
        if found is None:
            raise ConfigError("format is required: the name does not end in .csv, .ndjson or .txt")
        if found in TABLE_FORMATS:
            raise ConfigError(
                f"{found} files cannot be divided into parts: write the ids as CSV or NDJSON, such"
                " as with pyarrow.csv.write_csv"
            )
        if found == "csv" and column is None:
            raise ConfigError("column is required for a file of CSV")
        if column == "":  # such as of a setting that is not set
            raise ConfigError("column must not be empty")
        self._id_name = column or _ID_NAME
        self.findings = Findings(self._id_name)
        self._column = column
        self._layout = Layout(
            form=found,
            check_columns=id_columns(self._id_name),
            encoding=None if encoding is None else known_encoding(encoding),
            id_column=self._id_name,
            id_optional=True,
        )

    def plan(self, part_size: int) -> Plan:
        """Divide the file into byte ranges that end where a record ends; see `Source.plan`."""
        require_part_size(part_size)
        if is_read_once(self.path):
            raise InvalidInputError(self.path, "must be a file: each worker reads its part of it")
        path = str(Path(self.path).absolute())
        require_utf8_name(path, "since the store keeps it")
        extent = extent_of(self.path)
        self._require_plain(extent)
        self.findings = Findings(self._id_name)
        whole = new_digest()
        with open_text(self.path, FileBytes(extent), self._layout.encoding) as stream:
            has_mark = self._bytes(0, len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
            counted = _CountedStream(stream, self.path, has_mark=has_mark)
            lines = LineReader(counted)
            reader = RowReader(self.path, self._layout, self.findings)
            header = reader.header(lines)
            begin = counted.cut(lines)
            parts = list(_parts(counted, lines, reader.rows(lines, header), part_size))
        for part in parts:
            whole.update(part.source["digest"].encode())
        source = {
            "kind": "file",
            "path": path,
            "form": self._layout.form,
            "column": self._column,
            "encoding": counted.encoding,
            "header": begin if header is not None else None,
            "digest": whole.hexdigest(),
        }
        return Plan(source=source, parts=parts)

    def _require_plain(self, extent: Extent) -> None:
        if self._bytes(0, 2) == b"\x1f\x8b":
            raise InvalidInputError(
                self.path,
                "is compressed, and a part of it cannot be read alone: decompress it first",
            )
        if not extent.size:
            raise InvalidInputError(self.path, "is empty")

    def read(self, description: dict[str, Any], part: dict[str, Any]) -> list[Item]:
        """Read a byte range, and compare its digest; see `Source.read`."""
        reader = RowReader(self.path, self._layout, Findings())  # the plan counted them
        header, begin = None, description["header"]
        if begin is not None:
            header = reader.header(LineReader(self._text(description, begin)))
        lines = LineReader(self._text(description, part), part["line"])
        return [self._item(row) for row in reader.rows(lines, header)]

    def _text(self, description: dict[str, Any], part: dict[str, Any]) -> TextStream:
        found = self._bytes(part["start"], part["end"] + 1)
        size = part["end"] - part["start"]
        data, following = found[:size], found[size:]
        digest = new_digest()
        digest.update(data)
        # half an id is another id: somebody was still writing the last line when it was planned
        is_continued = following not in {b"", b"\r", b"\n"} and not data.endswith(b"\n")
        if is_continued or digest.hexdigest() != part["digest"]:
            raise PartChangedError(
                f"{self.path} has changed since the job was planned, in the bytes"
                f" {part['start']:,} to {part['end']:,}"
            )
        encoding = description["encoding"]
        errors = "surrogateescape" if encoding == _UTF8 else "strict"
        return io.TextIOWrapper(io.BytesIO(data), encoding, errors, newline="\n")

    def _bytes(self, start: int, end: int) -> bytes:
        try:
            with Path(self.path).open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        except OSError as error:
            raise InvalidInputError(self.path, f"cannot be read: {error.strerror}") from None

    def _item(self, row: Row) -> Item:
        if row.broken is not None:
            return Item(row.line, Unreadable(row.broken))
        value = row.value
        if isinstance(value, dict):
            value = value.get(self._id_name)
        return Item(row.line, value if isinstance(value, str) else Unreadable("has no id"))


class PlannedSource:
    """
    A file that is divided into parts already, so that it is read once to plan it.

    Args:
        lines: the file.
        part_size: maximum of items of a part.

    Attributes:
        items: the number of items.
        part_size: maximum of items of a part.
    """

    def __init__(self, lines: Lines, part_size: int) -> None:
        self._lines = lines
        self._plan = lines.plan(part_size)
        self.items = self._plan.items
        self.part_size = part_size

    def plan(self, part_size: int) -> Plan:
        """
        Return the plan; see `Source.plan`.

        Raises:
            ConfigError: it was planned with another size of parts.
        """
        if part_size != self.part_size:
            raise ConfigError(f"the input was divided into parts of {self.part_size:,} items")
        return self._plan

    def read(self, description: dict[str, Any], part: dict[str, Any]) -> list[Item]:
        """Return the items of a part; see `Source.read`."""
        return self._lines.read(description, part)

    def ends(self) -> tuple[str, str] | None:
        """Return the first and the last id, for people; None if there are none."""
        if not self._plan.parts:
            return None
        first, last = self._plan.parts[0], self._plan.parts[-1]
        return (
            str(self.read(self._plan.source, first.source)[0].value),
            str(self.read(self._plan.source, last.source)[-1].value),
        )


class _CountedStream:
    """A stream of text that counts and digests the bytes of what is read from it."""

    def __init__(self, stream: io.TextIOWrapper, path: str, *, has_mark: bool) -> None:
        self._stream = stream
        self.encoding = _plain_encoding(stream.encoding, path)
        self._errors = stream.errors or "strict"
        self._texts: list[str] = []
        self._characters = 0
        self._position = self._start = 0
        self._line = 0
        self._digest = new_digest()
        if has_mark:
            self._add(codecs.BOM_UTF8)

    def readline(self, limit: int = -1) -> str:
        """Return a line, or its first characters."""
        line = self._stream.readline(limit)
        self._texts.append(line)
        self._characters += len(line)
        if self._characters > _COLLECTED:
            self._collect()
        return line

    def _collect(self) -> None:
        self._add("".join(self._texts).encode(self.encoding, self._errors))
        self._texts.clear()
        self._characters = 0

    def _add(self, data: bytes) -> None:
        self._digest.update(data)
        self._position += len(data)

    def cut(self, lines: LineReader) -> dict[str, Any]:
        """Return the range and digest of what was read since the last cut."""
        self._collect()
        found = {
            "start": self._start,
            "end": self._position,
            "line": self._line,
            "digest": self._digest.hexdigest(),
        }
        self._start, self._line, self._digest = self._position, lines.number, new_digest()
        return found


def _parts(
    counted: _CountedStream, lines: LineReader, rows: Iterator[Row], part_size: int
) -> Iterator[PartPlan]:
    size = 0
    for _ in rows:
        size += 1
        if size == part_size:
            yield PartPlan(size, counted.cut(lines))
            size = 0
    if size:
        yield PartPlan(size, counted.cut(lines))


def _plain_encoding(encoding: str, path: str) -> str:
    """
    Return the encoding of text in which each line break is one byte, which no other byte resembles.

    Raises:
        InvalidInputError: it is another one.
    """
    if encoding in {_UTF8, "utf-8-sig"}:
        return _UTF8
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    is_plain = all(len(decoder.decode(bytes((each,)))) == 1 for each in range(256))
    if is_plain and "\n".encode(encoding) == b"\n":
        return encoding
    raise InvalidInputError(
        path, f"is in {encoding}, and a part of it cannot be read alone: convert it to UTF-8"
    )


def require_part_size(part_size: int) -> None:
    """
    Validate the size of parts.

    Raises:
        ConfigError: it is not a whole number from 1 to a million.
    """
    whole_number("part_size", part_size, 1_000_000)


def new_digest() -> Any:
    """Return a BLAKE2 hash for the content of a part."""
    return hashlib.blake2b(digest_size=_DIGEST_SIZE, person=b"adapty part")
