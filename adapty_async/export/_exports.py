"""
Exports: descriptions of requests, which are sent when an export is awaited, iterated or written.

A CSV export has one part or, divided into chunks, several. Each part is one request. A part is
first received completely, in a file, and then used. A connection that breaks therefore costs a
retry, and no consumer sees half a response.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, Protocol, TypeVar, cast

import msgspec

from adapty_async._api.call import Endpoint, Operation
from adapty_async._api.codec import to_json
from adapty_async._http.streaming import Sink
from adapty_async._runtime.extras import require
from adapty_async._runtime.loop import in_thread
from adapty_async.errors import DecodeError, InvalidInputError
from adapty_async.export._chunks import Dates, split
from adapty_async.export._files import ExportFile, Output, temporary
from adapty_async.export._queries import PlacementsQuery, Query, parsed_dates
from adapty_async.export._sinks import CsvSink, FileSink, JsonLinesSink, JsonSink, MemorySink
from adapty_async.export._tables import read_arrow, read_polars

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

T = TypeVar("T")
TableT = TypeVar("TableT")

# Maximum bytes of a CSV line.
_LINE_LIMIT = 8 * 1024 * 1024
# Bytes of lines that are read at once.
_LINES_BLOCK = 256 * 1024


class Stream(Protocol):
    """
    An executor of operations whose responses are passed to a sink.

    Attributes:
        account: a digest of the origin and the API key.
    """

    account: str

    async def __call__(self, operation: Operation[T], sink: Sink, /) -> T:
        """Send one operation, and return the result that its endpoint decodes."""
        ...


class Plan(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """
    The description of an export.

    Attributes:
        endpoint: the endpoint definition; its `decode` has the type of a typed result.
        query: the request.
        headers: the headers of the request.
    """

    endpoint: Endpoint[T]
    query: Query | PlacementsQuery
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def dates(self) -> Dates | None:
        """The range of dates; None for placements."""
        query = self.query
        return None if isinstance(query, PlacementsQuery) else parsed_dates(query.filters.date)

    def divided(self, by: str) -> tuple[Plan[T], ...]:
        """
        Return the plans of the chunks.

        Raises:
            InvalidInputError: the export cannot be divided by this unit.
        """
        query = self.query
        if isinstance(query, PlacementsQuery):
            raise InvalidInputError("by", "placements have no dates that could be divided")
        return tuple(
            msgspec.structs.replace(self, query=query.on(*dates)) for dates in split(query, by)
        )

    def operation(self, decode: Callable[[bytes], Any] | None = None) -> Operation[Any]:
        """Return the operation, with another decoder for bodies that go to a file."""
        endpoint: Endpoint[Any] = self.endpoint
        if decode is not None:
            endpoint = msgspec.structs.replace(endpoint, decode=decode)
        return Operation(endpoint, self.headers, self.query)


class ChunkWritten(msgspec.Struct, frozen=True, kw_only=True):
    """
    The progress of an export to a file: a chunk is complete and on the disk.

    Attributes:
        number: the number of the chunk, from 1.
        total: the number of chunks.
        dates: the range of dates; None for placements.
        size: bytes of the file so far.
    """

    number: int
    total: int
    dates: Dates | None
    size: int


class ExportedFile(msgspec.Struct, frozen=True, kw_only=True):
    """
    The result of an export to a file.

    Attributes:
        path: the file.
        chunks: the number of chunks.
        resumed: how many of the chunks an earlier, interrupted export had completed.
        size: bytes of the file.
    """

    path: Path
    chunks: int
    resumed: int
    size: int


OnChunk = Callable[[ChunkWritten], object]


class _BaseExport:
    """The base class of exports: the plans of their requests, and a writer of the responses."""

    def __init__(
        self, stream: Stream, plans: tuple[Plan[Any], ...], decode_head: Callable[[bytes], None]
    ) -> None:
        self._stream = stream
        self._plans = plans
        self._decode_head = decode_head

    async def _write(
        self,
        path: str | os.PathLike[str],
        sink_of: Callable[[Output], FileSink],
        on_chunk: OnChunk | None = None,
    ) -> ExportedFile:
        operations = [plan.operation(self._decode_head) for plan in self._plans]
        file = ExportFile(Path(path), self._digest(operations, sink_of))
        try:
            await in_thread(file.open)
            resumed, sink = file.chunks, sink_of(file.output)
            for plan, operation in list(zip(self._plans, operations, strict=True))[resumed:]:
                sink.begin(_label(plan.dates))
                await self._stream(operation, sink)
                await in_thread(file.accept)
                sink.accept()
                self._emit(on_chunk, plan, file)
            await in_thread(file.complete)
        finally:
            await in_thread(file.close)
        return ExportedFile(
            path=Path(path), chunks=file.chunks, resumed=resumed, size=file.output.size
        )

    def _digest(
        self, operations: list[Operation[Any]], sink_of: Callable[[Output], FileSink]
    ) -> str:
        facts: list[object] = [self._stream.account, sink_of.__name__]
        for each in operations:
            facts += [each.endpoint.path, each.headers, to_json(each.body).decode()]
        return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()

    def _emit(self, on_chunk: OnChunk | None, plan: Plan[Any], file: ExportFile) -> None:
        if on_chunk is not None:
            on_chunk(
                ChunkWritten(
                    number=file.chunks,
                    total=len(self._plans),
                    dates=plan.dates,
                    size=file.output.size,
                )
            )


def _label(dates: Dates | None) -> str:
    """Return a range of dates as JSON, which is also its name in errors."""
    return "" if dates is None else to_json(dates).decode()


class JsonExport(_BaseExport, Generic[T]):
    """
    An export with JSON as its format: await it for a typed result.

    Nothing is sent before that. It can be awaited more than once; each time sends a new request.
    """

    @property
    def operation(self) -> Operation[T]:
        """The operation, for `AdaptyExportClient.execute`, which accepts responses up to 8 MiB."""
        return self._plans[0].operation()

    async def _result(self) -> T:
        operation = self.operation
        return await self._stream(operation, MemorySink(operation.endpoint.name))

    def __await__(self) -> Generator[Any, Any, T]:
        return self._result().__await__()

    def chunks(self, *, by: str) -> JsonChunks[T]:
        """
        Return the same export, divided into chunks of the calendar, each a request.

        The borders are those of the calendar, so the first and the last chunk may be shorter.

        Args:
            by: ``"day"``, ``"week"`` (from Monday), ``"month"``, ``"quarter"`` or ``"year"``.

        Raises:
            InvalidInputError: `by` is unknown or would divide a period, or the export has a
                `compare_date` or no dates.
        """
        return JsonChunks(self._stream, self._plans[0].divided(by), self._decode_head)

    async def write_to(self, path: str | os.PathLike[str]) -> ExportedFile:
        """
        Write the JSON to a file as it comes, which replaces an existing one at the end.

        Raises:
            ExportError: the file cannot be written.
            AdaptyError: the call failed; see `adapty_async.errors`.
        """
        return await self._write(path, JsonSink)

    def __repr__(self) -> str:
        return f"JsonExport({self._plans[0].endpoint.name})"


class JsonChunk(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """
    The result of one chunk.

    Attributes:
        dates: the first and the last day, both inclusive.
        result: the typed result.
    """

    dates: Dates
    result: T


class JsonChunks(_BaseExport, Generic[T]):
    """An export in chunks with JSON as their format: iterate over it for typed results."""

    @property
    def dates(self) -> tuple[Dates, ...]:
        """The range of dates of each chunk."""
        return tuple(cast("Dates", plan.dates) for plan in self._plans)

    def __len__(self) -> int:
        return len(self._plans)

    async def __aiter__(self) -> AsyncIterator[JsonChunk[T]]:
        for plan, dates in zip(self._plans, self.dates, strict=True):
            operation: Operation[T] = plan.operation()
            result = await self._stream(operation, MemorySink(operation.endpoint.name))
            yield JsonChunk(dates=dates, result=result)

    async def write_to(
        self, path: str | os.PathLike[str], *, on_chunk: OnChunk | None = None
    ) -> ExportedFile:
        """
        Write a line of JSON for each chunk: an object with its ``date`` range and ``response``.

        The file appears when all chunks are there. Until then they are in ``PATH.part``, with
        ``PATH.part.state``. The same export to the same path resumes after the complete chunks.

        Args:
            path: the file, which is replaced.
            on_chunk: a callback that receives the progress after each chunk; it must not block.

        Raises:
            ExportError: a file cannot be written, or is in use by another export.
            AdaptyError: a call failed; see `adapty_async.errors`.
        """
        return await self._write(path, JsonLinesSink, on_chunk)

    def __repr__(self) -> str:
        return f"JsonChunks({self._plans[0].endpoint.name}, {len(self)} chunks)"


class CsvExport(_BaseExport):
    """
    An export with CSV as its format, in one part or several: iterate over its lines, or write it.

    Nothing is sent before that. Iteration yields lines as text with their line breaks, as a file
    opened with ``newline=""`` does, so `csv.reader` can read them. The header is the first line,
    and is not there again in a later chunk. A line longer than 8 MiB is an error.

    Example:
        >>> async for line in export.analytics(chart_id="mrr", filters=filters, format="csv"):
        ...     print(line, end="")
    """

    @property
    def dates(self) -> tuple[Dates, ...]:
        """The range of dates of each part; empty for placements."""
        return tuple(plan.dates for plan in self._plans if plan.dates is not None)

    @property
    def parts(self) -> tuple[CsvExport, ...]:
        """The parts, each an export of its own."""
        return tuple(CsvExport(self._stream, (plan,), self._decode_head) for plan in self._plans)

    def chunks(self, *, by: str) -> CsvExport:
        """
        Return the same export, divided into chunks of the calendar, each a request.

        The borders are those of the calendar, so the first and the last chunk may be shorter.

        Args:
            by: ``"day"``, ``"week"`` (from Monday), ``"month"``, ``"quarter"`` or ``"year"``.

        Raises:
            InvalidInputError: `by` is unknown or would divide a period, or the export has a
                `compare_date` or no dates.
        """
        plans = tuple(each for plan in self._plans for each in plan.divided(by))
        return CsvExport(self._stream, plans, self._decode_head)

    async def __aiter__(self) -> AsyncIterator[str]:
        mark = "\ufeff"
        with temporary() as output:
            sink = CsvSink(output)
            for plan in self._plans:
                await self._receive(plan, sink, output)
                read = functools.partial(_some_lines, output.file, plan.endpoint.name)
                while lines := await in_thread(read):
                    for line in lines:
                        yield line.removeprefix(mark)
                        mark = ""
                await in_thread(output.clear)

    async def _receive(self, plan: Plan[Any], sink: CsvSink, output: Output) -> None:
        sink.begin(_label(plan.dates))
        await self._stream(plan.operation(self._decode_head), sink)
        await in_thread(output.accept)
        sink.accept()
        output.file.seek(0)

    async def write_to(
        self, path: str | os.PathLike[str], *, on_chunk: OnChunk | None = None
    ) -> ExportedFile:
        """
        Write the CSV to a file as it comes, which replaces an existing one at the end.

        Until all chunks are there, they are in ``PATH.part``, with ``PATH.part.state``. The same
        export to the same path resumes after the complete chunks. A file that was written by
        chunks has one header.

        Args:
            path: the file, which is replaced.
            on_chunk: a callback that receives the progress after each chunk; it must not block.

        Raises:
            ExportError: a file cannot be written or is in use by another export, or the columns of
                a chunk differ from those before.
            AdaptyError: a call failed; see `adapty_async.errors`.
        """
        return await self._write(path, CsvSink, on_chunk)

    async def to_arrow(self) -> pa.Table:
        """
        Return a table of pyarrow, which infers the types of the columns from all rows.

        Raises:
            ConfigError: the extra ``arrow`` is not installed.
            DecodeError: the response is no CSV table.
            AdaptyError: a call failed; see `adapty_async.errors`.
        """
        require("pyarrow", "arrow")
        return await self._table(read_arrow)

    async def to_polars(self) -> pl.DataFrame:
        """
        Return a data frame of polars, which infers the types of the columns from all rows.

        Raises:
            ConfigError: the extra ``polars`` is not installed.
            DecodeError: the response is no CSV table.
            AdaptyError: a call failed; see `adapty_async.errors`.
        """
        require("polars", "polars")
        return await self._table(read_polars)

    async def _table(self, read: Callable[[BinaryIO, str], TableT]) -> TableT:
        with temporary() as output:
            sink = CsvSink(output)
            for plan in self._plans:
                await self._receive(plan, sink, output)
            name = self._plans[0].endpoint.name
            return await in_thread(lambda: read(output.file, name))

    def __repr__(self) -> str:
        return f"CsvExport({self._plans[0].endpoint.name}, {len(self._plans)} parts)"


def _some_lines(file: BinaryIO, operation: str) -> list[str]:
    """
    Return the next lines of a file; none at its end. Blocks.

    Raises:
        DecodeError: a line is too long, or is not UTF-8.
    """
    lines: list[str] = []
    size = 0
    while size < _LINES_BLOCK and (line := file.readline(_LINE_LIMIT)):
        if len(line) == _LINE_LIMIT:
            raise _unreadable(operation, f"a line is longer than {_LINE_LIMIT} bytes")
        size += len(line)
        try:
            lines.append(line.decode())
        except UnicodeDecodeError:
            raise _unreadable(operation, "it is not UTF-8 text") from None
    return lines


def _unreadable(operation: str, reason: str) -> DecodeError:
    return DecodeError(f"unreadable response ({reason})", operation=operation, status=200)
