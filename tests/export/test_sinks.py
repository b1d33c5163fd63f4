"""The content of an export's file, from the bodies of its chunks."""

from __future__ import annotations

import codecs
import csv
import io
import string
import zlib

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapty_async import ConnectionLostError, DecodeError, ExportError
from adapty_async.export._calls import ANALYTICS
from adapty_async.export._files import Output
from adapty_async.export._sinks import (
    CsvSink,
    FileSink,
    JsonLinesSink,
    JsonSink,
    MemorySink,
    csv_head,
    json_head,
)

CELLS = st.text('ab,"\n\r;ü ', max_size=5)
ROWS = st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=8)


def receive(sink: FileSink | MemorySink, body: bytes, step: int = 7) -> bytes:
    """Pass a body to a sink in blocks."""
    for start in range(0, len(body), step):
        sink.write(body[start : start + step])
    return sink.finish()


def file_of(kind: type[FileSink], *bodies: bytes, step: int = 7) -> bytes:
    """Return the file of several chunks."""
    output = Output(io.BytesIO(), "file")
    sink = kind(output)
    for number, body in enumerate(bodies):
        sink.begin(f'["{number}","{number}"]')
        sink.restart()
        receive(sink, body, step)
        output.accept()
        sink.accept()
    return output.head(1_000_000)


def encoded(rows: list[list[str]]) -> bytes:
    """Return rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


@settings(max_examples=30)
@given(
    header=st.lists(CELLS.filter(str.strip), min_size=3, max_size=3),
    chunks=st.lists(ROWS, max_size=4),
    step=st.integers(1, 40),
)
def test_the_header_stands_once(
    header: list[str], chunks: list[list[list[str]]], step: int
) -> None:
    """One CSV file of several has all rows of all, in order, and one header."""
    bodies = [encoded([header, *rows]) for rows in chunks]
    rows = [row for rows in chunks for row in rows]

    assert file_of(CsvSink, *bodies, step=step) == encoded([header, *rows] if bodies else [])


@pytest.mark.parametrize(
    ("bodies", "expected"),
    [
        ((b"a,b\n1,2\n", b"a,b\n", b"a,b\n3,4\n"), b"a,b\n1,2\n3,4\n"),
        ((b"a,b\n1,2", b"a,b\n3,4"), b"a,b\n1,2\n3,4\n"),
        ((b"a,b", b"a,b\n3,4"), b"a,b\n3,4\n"),
        ((b"a,b",), b"a,b\n"),
        ((b"a\nX",), b"a\nX\n"),
        ((b"", b"a,b\n3,4\n", b"\n", b"a,b"), b"a,b\n3,4\n"),
        ((b"a,b\r\n1,2\r\n", b"a,b\n3,4\n"), b"a,b\r\n1,2\r\n3,4\n"),
        ((b'"a\nb",c\n1,2\n', b'"a\nb",c\n3,4\n'), b'"a\nb",c\n1,2\n3,4\n'),
        (
            (codecs.BOM_UTF8 + b"a\n1\n", codecs.BOM_UTF8 + b"a\n2\n"),
            codecs.BOM_UTF8 + b"a\n1\n2\n",
        ),
        ((codecs.BOM_UTF8, b" \r\n", codecs.BOM_UTF8 + b"\na\n1\n"), codecs.BOM_UTF8 + b"a\n1\n"),
        ((b"a\n1\n", codecs.BOM_UTF8 + b"a\n2\n"), b"a\n1\n2\n"),
        ((b"",), b""),
    ],
    ids=[
        "no rows",
        "no last break",
        "header alone",
        "only a header",
        "only a row without a break",
        "empty",
        "crlf",
        "quoted",
        "bom",
        "blank",
        "one bom",
        "nothing",
    ],
)
def test_chunks_become_one_file(bodies: tuple[bytes, ...], expected: bytes) -> None:
    """Chunks without rows or without a last line break fit together."""
    assert file_of(CsvSink, *bodies) == expected


def test_other_columns_are_an_error() -> None:
    """A chunk with other columns than the first is an error that names its dates."""
    for other in (b"a,c\n1,2\n", b"a,c"):
        with pytest.raises(ExportError, match=r'the columns of \["1","1"\] differ'):
            file_of(CsvSink, b"a,b\n1,2\n", other)


def test_a_header_without_an_end_is_an_error() -> None:
    """A body whose first line is longer than 1 MiB is no CSV."""
    sink = CsvSink(Output(io.BytesIO(), "file"))
    with pytest.raises(ExportError, match="the first line is too long"):
        receive(sink, b"x" * 1_200_000, 500_000)


def test_a_restarted_chunk_has_nothing_of_the_attempt_before() -> None:
    """After a broken connection, the chunk begins again where the one before it ended."""
    output = Output(io.BytesIO(), "file")
    sink = CsvSink(output)
    sink.restart()
    receive(sink, b"a,b\n1,2\n")
    output.accept()
    sink.accept()
    for broken in (b"a,", b"a,b\n3", b"a,b\n3,4\n5"):
        sink.restart()
        sink.write(broken)
    sink.restart()
    assert receive(sink, b"a,b\n3,4\n") == b"a,b\n3,4\n"
    output.accept()

    content = b"a,b\n1,2\n3,4\n"
    assert output.head(99) == content
    assert (output.size, output.crc) == (len(content), zlib.crc32(content))


def test_a_resumed_file_has_its_header() -> None:
    """The header of chunks from an earlier process counts."""
    file = io.BytesIO(b'"a\n",b\n1,2\n')
    sink = CsvSink(Output(file, "file", size=11))
    sink.restart()
    receive(sink, b'"a\n",b\n3,4\n')

    assert file.getvalue() == b'"a\n",b\n1,2\n3,4\n'


@settings(max_examples=30)
@given(
    value=st.recursive(
        st.text() | st.integers(-5, 5), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    ),
    indent=st.integers(0, 2),
    step=st.integers(1, 30),
)
@example(value=string.printable, indent=1, step=7)
def test_each_json_chunk_is_a_line(value: object, indent: int, step: int) -> None:
    """A body of JSON becomes a line with its dates, whatever its own line breaks."""
    body = msgspec.json.format(msgspec.json.encode({"data": value}), indent=indent)
    lines = file_of(
        JsonLinesSink, body, codecs.BOM_UTF8 + body.replace(b"\n", b"\r\n"), step=step + 2
    )

    assert [msgspec.json.decode(line) for line in lines.splitlines()] == [
        {"date": ["0", "0"], "response": {"data": value}},
        {"date": ["1", "1"], "response": {"data": value}},
    ]


def test_a_body_stays_as_it_is() -> None:
    """A single JSON response is written byte by byte."""
    assert file_of(JsonSink, b' {"a":\n1}') == b' {"a":\n1}'
    assert file_of(JsonSink, b'{"a":"%s"}\n' % (b"x" * 999)) == b'{"a":"%s"}\n' % (b"x" * 999)


@pytest.mark.parametrize("kind", [JsonSink, JsonLinesSink])
def test_a_body_that_ends_early_is_no_chunk(kind: type[FileSink]) -> None:
    """A long body of JSON that a connection without a length cut short is an error."""
    with pytest.raises(ConnectionLostError, match="the response is incomplete"):
        file_of(kind, b'{"a":"%s"' % (b"x" * 999))


def test_json_in_the_place_of_a_chunk_is_left_to_the_decoder() -> None:
    """An error that a later chunk's response reports as a success is not one of the columns."""
    error = b'{"error_code":"x"}'

    assert file_of(CsvSink, b"a\n1\n", error) == b"a\n1\n"
    with pytest.raises(msgspec.ValidationError, match="JSON, not CSV"):
        csv_head(error)


def test_the_decoder_receives_the_first_bytes() -> None:
    """A sink returns the beginning of the body, and no more than it needs."""
    sink = FileSink(Output(io.BytesIO(), "file"))
    sink.restart()

    assert receive(sink, bytes(range(256)) * 9, 100) == bytes(range(256)) * 2


def test_a_typed_result_has_a_limit() -> None:
    """A body that is too large for a typed result is an error that names the way out."""
    sink = MemorySink("export.analytics", limit=10)
    sink.restart()
    assert receive(sink, b"0123456789") == b"0123456789"
    sink.restart()
    with pytest.raises(
        DecodeError, match=r"larger than 10 bytes: use write_to\(\) or chunks\(\)"
    ) as caught:
        receive(sink, b"0123456789a")
    assert caught.value.operation == "export.analytics"


@pytest.mark.parametrize("body", [b"{}", b" [1]", codecs.BOM_UTF8 + b"{}"], ids=repr)
def test_json_is_no_csv(body: bytes) -> None:
    """A server that ignores the format is detected."""
    with pytest.raises(ValueError, match="JSON, not CSV"):
        csv_head(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"errors":[1]}',
        b'{"error_code":"x"}',
        b'{"data":',
        codecs.BOM_UTF8 + b'\n{ "errors" : [{"errors": ["' + b"x" * 512,
        b'{"error_code":"' + b"x" * 512,
    ],
    ids=["errors", "code", "incomplete", "long errors", "long code"],
)
def test_an_error_is_no_export(body: bytes) -> None:
    """A body that is an error in spite of its status, or short and incomplete, is detected."""
    with pytest.raises(ValueError, match=r"error|malformed"):
        json_head(ANALYTICS.decode, body)


@pytest.mark.parametrize("start", [b"", b'"errors":[ ],', b'"error_code":null,'], ids=repr)
def test_a_long_export_is_no_error(start: bytes) -> None:
    """The head of a long body is accepted, and fields of an error if they are empty."""
    json_head(ANALYTICS.decode, b"{" + start + b'"data":' + b" " * 512)  # the rest is in the file


@pytest.mark.parametrize("body", [b"", b"[1]", b"a,b\n", b" "], ids=repr)
def test_csv_is_no_json(body: bytes) -> None:
    """A body that is no object is detected; CSV may be empty."""
    csv_head(body if body != b"[1]" else b"1")
    with pytest.raises(ValueError, match="no JSON object"):
        json_head(ANALYTICS.decode, body)
