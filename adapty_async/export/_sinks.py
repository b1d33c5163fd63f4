"""Sinks that turn the bodies of responses into the content of a file, or of memory."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable

import msgspec

from adapty_async._api.results import ERROR_IN_SUCCESS
from adapty_async.errors import ConnectionLostError, DecodeError, ExportError
from adapty_async.export._files import Output

# Bytes of a body that the decoder receives if the rest goes to a file.
_HEAD = 512
# Maximum bytes of a typed result's JSON. Decoded, it takes several times as much memory.
_MEMORY_LIMIT = 64 * 1024 * 1024
# Maximum bytes of the header of a CSV body.
_HEADER_LIMIT = 1024 * 1024
_LONG_ERROR = re.compile(rb'\{\s*"(errors|error_code)"\s*:\s*(?!null|\[\s*\])')
_BLANK_LINES = re.compile(rb"\A(\xef\xbb\xbf)?(?:[ \t]*\r?\n)+")


def csv_head(head: bytes) -> None:
    """
    Validate the first bytes of a CSV body.

    Raises:
        msgspec.ValidationError: they are JSON.
    """
    if _is_json(head):
        raise msgspec.ValidationError("JSON, not CSV - at `$`")


def _is_json(head: bytes) -> bool:
    return head.removeprefix(codecs.BOM_UTF8).lstrip().startswith((b"{", b"["))


def json_head(decode: Callable[[bytes], object], head: bytes) -> None:
    """
    Validate the first bytes of a JSON body; a short body is there as a whole.

    Args:
        decode: decodes a whole body to a typed result.
        head: the first bytes.

    Raises:
        ValueError: they are not those of an object, or those of an error, or the whole object is
            no result.
    """
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if not text.startswith(b"{"):
        raise msgspec.ValidationError("no JSON object - at `$`")
    if len(head) < _HEAD:
        decode(head)
    elif _LONG_ERROR.match(text):
        raise msgspec.ValidationError(ERROR_IN_SUCCESS)


class MemorySink:
    """A sink that keeps a body in memory, up to a limit."""

    def __init__(self, operation: str, limit: int = _MEMORY_LIMIT) -> None:
        self._operation = operation
        self._limit = limit
        self._blocks: list[bytes] = []
        self._size = 0

    def restart(self) -> None:
        """Discard the body."""
        self._blocks.clear()
        self._size = 0

    def write(self, block: bytes) -> None:
        """
        Keep the next bytes.

        Raises:
            DecodeError: the body is larger than the limit.
        """
        self._size += len(block)
        if self._size > self._limit:
            self.restart()
            raise DecodeError(
                f"response larger than {self._limit} bytes: use write_to() or chunks()",
                operation=self._operation,
                status=200,
            )
        self._blocks.append(block)

    def finish(self) -> bytes:
        """Return the whole body."""
        return b"".join(self._blocks)


class FileSink:
    """
    A sink that appends bodies to a file as they are.

    A body is a chunk of the file. `begin` starts it and `accept` ends it.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._label = ""
        self._head = b""

    def begin(self, label: str) -> None:
        """Start the next chunk; the label names it in errors."""
        self._label = label

    def accept(self) -> None:
        """Keep the chunk, whose response was complete and a success."""

    def restart(self) -> None:
        """Discard what was appended of this chunk."""
        self._output.discard()
        self._head = b""

    def write(self, block: bytes) -> None:
        """
        Append the next bytes.

        Raises:
            ExportError: the file cannot be written.
        """
        if len(self._head) < _HEAD:
            self._head += block[: _HEAD - len(self._head)]
        self._append(block)

    def _append(self, block: bytes) -> None:
        self._output.append(block)

    def finish(self) -> bytes:
        """Return the first bytes of the body."""
        return self._head


class JsonSink(FileSink):
    """A sink that appends bodies of JSON to a file as they are, and rejects incomplete ones."""

    _end = b""  # the last byte that is not blank

    def restart(self) -> None:
        """Discard what was appended of this chunk."""
        super().restart()
        self._end = b""

    def write(self, block: bytes) -> None:
        """
        Append the next bytes.

        Raises:
            ExportError: the file cannot be written.
        """
        super().write(block)
        self._end = block.rstrip()[-1:] or self._end

    def finish(self) -> bytes:
        """
        Return the first bytes of the body.

        Raises:
            ConnectionLostError: a long body does not end as an object does. Without a length, the
                end of a connection is no sign of a complete body.
        """
        if len(self._head) == _HEAD and self._end != b"}":
            raise ConnectionLostError("the response is incomplete")
        return super().finish()


class JsonLinesSink(JsonSink):
    """A sink that makes each body one line, an object with the ``date`` range and ``response``."""

    _is_first = True

    def restart(self) -> None:
        """Discard what was appended of this chunk."""
        super().restart()
        self._is_first = True

    def _append(self, block: bytes) -> None:
        if self._is_first and block:
            self._is_first = False
            self._output.append(b'{"date":%s,"response":' % self._label.encode())
            block = block.removeprefix(codecs.BOM_UTF8)
        # within a JSON text, a line break is never part of a value
        self._output.append(block.translate(None, b"\r\n"))

    def finish(self) -> bytes:
        """
        Append the end of the line, and return the first bytes of the body.

        Raises:
            ConnectionLostError: the body is incomplete.
        """
        head = super().finish()
        self._output.append(b"}\n")
        return head


class CsvSink(FileSink):
    """
    A sink that makes one CSV file of several: the header stands once, at the beginning.

    Each chunk ends with a line break. A body without any text has no rows.
    """

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        self._header = _header_of(output)
        self._found: bytes | None = None  # the header of this chunk
        self._pending = b""
        self._last = b""

    def accept(self) -> None:
        """Keep the chunk, whose response was complete and a success."""
        self._header = self._header or self._found

    def restart(self) -> None:
        """Discard what was appended of this chunk."""
        super().restart()
        self._found, self._pending, self._last = None, b"", b""

    def _append(self, block: bytes) -> None:
        if self._found is not None:
            self._put(block)
            return
        self._pending = _BLANK_LINES.sub(rb"\1", self._pending + block)
        end = _end_of_record(self._pending)
        if end:
            self._start(self._pending[:end], self._pending[end:])
        elif len(self._pending) > _HEADER_LIMIT:
            raise ExportError(
                f"the first line{self._of_chunk()} is too long: {_HEADER_LIMIT} bytes"
            )

    def finish(self) -> bytes:
        """
        Append what is missing of the last line, and return the first bytes of the body.

        Raises:
            ExportError: the columns are not those of the first chunk.
        """
        if self._found is None and _columns(self._pending).strip():
            self._start(self._pending, b"")
        if self._last not in b"\n":
            self._put(b"\n")
        return super().finish()

    def _start(self, header: bytes, rows: bytes) -> None:
        self._found = header
        if self._header is None:
            self._put(header)
        elif _columns(header) != _columns(self._header) and not _is_json(header):
            raise ExportError(
                f"the columns{self._of_chunk()} differ from those of the chunks before: "
                "export each chunk to a file of its own"
            )
        self._put(rows)

    def _put(self, data: bytes) -> None:
        self._output.append(data)
        self._last = data[-1:] or self._last

    def _of_chunk(self) -> str:
        return f" of {self._label}" if self._label else ""


def _header_of(output: Output) -> bytes | None:
    """Return the first record of a file; None for an empty file."""
    head = output.head(_HEADER_LIMIT)
    return head[: _end_of_record(head) or len(head)] or None


def _columns(header: bytes) -> bytes:
    return header.removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n")


def _end_of_record(data: bytes) -> int:
    """Return the length of the first record with its line break; 0 if it is incomplete."""
    quotes = start = 0
    while (end := data.find(b"\n", start)) >= 0:
        quotes += data.count(b'"', start, end)
        start = end + 1
        if quotes % 2 == 0:
            return start
    return 0
