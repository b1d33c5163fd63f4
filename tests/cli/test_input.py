"""Input files as rows: nothing inside a cell becomes a row, and a bad row costs only itself."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import json
import lzma
import os
import select
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adapty_async._input.layout import Format, Row
from adapty_async._input.rows import Rows, SizedRows, open_rows
from adapty_async._input.schema import id_columns
from adapty_async.errors import InvalidInputError

Put = Callable[[str, str | bytes], Path]

_FORMS: tuple[Format, ...] = ("csv", "ndjson", "text")
_INCOMPLETE = "may be incomplete: it has no line break at its end; add one, or name a file"


def any_columns(names: list[str]) -> list[str]:
    """Accept a header; all its columns matter."""
    return names


def rows_of(path: Path, form: Format | None = None) -> list[Row]:
    """Read an input to its end, and check that it was counted as it is read."""
    rows = open_rows(str(path), form, any_columns)
    read = list(rows)
    assert isinstance(rows, SizedRows)
    assert len(rows) == len(read)
    return read


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("id,name\nu1,Jane\nu2,Zoë\n", id="comma"),
        pytest.param("id;name\nu1;Jane\nu2;Zoë\n", id="semicolon"),
        pytest.param("id\tname\nu1\tJane\nu2\tZoë\n", id="tab"),
        pytest.param("\ufeffid,name\nu1,Jane\nu2,Zoë\n", id="byte-order-mark"),
        pytest.param("id,name\r\nu1,Jane\r\nu2,Zoë\r\n", id="crlf"),
        pytest.param("id,name\r\nu1,Jane\nu2,Zoë\r\n", id="mixed-ends"),
        pytest.param("\ufeff\ufeffid,name\nu1,Jane\nu2,Zoë\n", id="two-marks"),
        pytest.param("\ufeffid\tname\nu1\tJane\nu2\tZoë\n".encode("utf-16-le"), id="utf-16-le"),
        pytest.param("\ufeffid\tname\nu1\tJane\nu2\tZoë\n".encode("utf-16-be"), id="utf-16-be"),
        pytest.param("\ufeffid,name\nu1,Jane\nu2,Zoë\n".encode("utf-32"), id="utf-32"),
        pytest.param("id, name\nu1, Jane\nu2, Zoë\n", id="blank-after-comma"),
        pytest.param('id, "name"\nu1, "Jane"\nu2, Zoë\n', id="blank-before-quote"),
        pytest.param(" id , name \nu1,Jane\nu2, Zoë\n", id="blanks-around-names"),
        pytest.param("id,name,\nu1,Jane,\nu2,Zoë,\n", id="trailing-comma"),
        pytest.param(",id,name\n0,u1,Jane\n1,u2,Zoë\n", id="unnamed-index"),
        pytest.param("id,name\nu1,Jane\nu2,Zoë\n,\n , \n,,,\n", id="empty-rows"),
        pytest.param('"id","name"\n"u1","Jane"\nu2,"Zoë"\n', id="quotes"),
        pytest.param("id,name\nu1,Jane\nu2,Zoë", id="no-last-end"),
    ],
)
def test_csv_reads_every_dialect(put: Put, content: str | bytes) -> None:
    """A CSV file is read whichever delimiter, line ends, quotes and mark it has."""
    assert rows_of(put("users.csv", content)) == [
        Row(2, {"id": "u1", "name": "Jane"}),
        Row(3, {"id": "u2", "name": "Zoë"}),
    ]


@pytest.mark.parametrize(
    ("line", "cells"),
    [
        pytest.param('u1,"a, b"', {"id": "u1", "name": "a, b"}, id="delimiter"),
        pytest.param('u1,"say ""hi"""', {"id": "u1", "name": 'say "hi"'}, id="doubled-quote"),
        pytest.param("u1,", {"id": "u1"}, id="empty"),
        pytest.param('u1,""', {"id": "u1"}, id="quoted-empty"),
        pytest.param("u1, x ", {"id": "u1", "name": " x "}, id="blanks-kept"),
        pytest.param("u1,\u2028\x0b\x85", {"id": "u1", "name": "\u2028\x0b\x85"}, id="no-line-end"),
    ],
)
def test_csv_cell_is_what_was_written(put: Put, line: str, cells: dict[str, str]) -> None:
    """A cell comes out as it was meant, and an empty one not at all."""
    assert rows_of(put("users.csv", f"id,name\n{line}\n")) == [Row(2, cells)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param("u1", "has 1 cell for 2 columns", id="too-few"),
        pytest.param("u1,Jane,Doe", "has 3 cells for 2 columns", id="too-many"),
        pytest.param('"u1,\nJane"', "has 1 cell for 2 columns", id="of-two-lines"),
    ],
)
def test_csv_bad_line_costs_only_itself(put: Put, line: str, reason: str) -> None:
    """A line that cannot be read is reported with its number and reason, and the next is read."""
    bad, good = rows_of(put("users.csv", f"id,name\n{line}\nu2,Zoë\n"))
    assert (bad.line, bad.value) == (2, line)
    assert reason in str(bad.broken)
    assert good == Row(3 + line.count("\n"), {"id": "u2", "name": "Zoë"})


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        pytest.param(
            'u1,"Jane\nu2,Zoë\n', "line 2: has a quote that is not closed up to", id="open"
        ),
        pytest.param('u1,"' + "\n" * 1001, "line 2: .* not closed within 1,000 lines", id="lines"),
        pytest.param('u1,"' + "x" * 2**20, "line 2: is longer than 1048576", id="characters"),
        pytest.param(
            'u1,"' + ("x" * 2**19 + "\n") * 2 + '"', "line 2: is longer than 1048576", id="both"
        ),
        pytest.param(
            'u1,a"b,"Jane\nu2,x\n', "line 2: has a quote that is not closed up to", id="two-open"
        ),
        pytest.param('u1,"a" b"\nu2,x\n', "line 2: has text behind a closing", id="text-behind"),
        pytest.param('u1,"a" b"\r\nu2,x\r\n', "line 2: has text behind a closing", id="with-crlf"),
        pytest.param('u1,a "b\nu2,x"\n', "line 2: has a quote inside a cell", id="in-a-cell"),
        pytest.param('u1, "b\nu2,x"\n', "line 2: has a quote inside a cell", id="behind-a-blank"),
        pytest.param("u1,a\ru2,b\n", "line 2: has a carriage return", id="lone-cr"),
        pytest.param('u1,a\ru2,"b\nu3,x"\n', "line 2: has a carriage return", id="lone-cr-quote"),
        pytest.param("u1,a\\\nu2,b\n", "line 2: has a backslash", id="escaped-line-break"),
        pytest.param('u1,"a\\"\nu2,b\n"\n', "line 2: has a backslash", id="escaped-quote"),
        pytest.param(
            'u1,"a\\""\nu2,"\nu3,b\n"\n', "line 2: has a backslash", id="escaped-then-closed"
        ),
    ],
)
def test_csv_without_certain_ends_is_rejected(put: Put, rows: str, reason: str) -> None:
    """If it is not certain where a row ends, the file is rejected before anything is sent."""
    with pytest.raises(InvalidInputError, match=rf"users\.csv, {reason}"):
        open_rows(str(put("users.csv", f"id,name\n{rows}")), None, any_columns)


@pytest.mark.parametrize("delimiter", [";", "\t", ", "])
def test_csv_escapes_are_those_of_its_dialect(put: Put, delimiter: str) -> None:
    """Whether a backslash may be an escape depends on where cells begin."""
    content = 'id,name\nu1,"a\\"\nvictim,x\n'.replace(",", delimiter)
    with pytest.raises(InvalidInputError, match="line 2: has a backslash"):
        open_rows(str(put("users.csv", content)), None, any_columns)


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param('"C:\\dir\\","x"', id="path"),
        pytest.param('"C:\\","x","D:\\"', id="paths"),
        pytest.param('"{""a"": ""x\\""y""}","x"', id="json"),
        pytest.param("a\\\\,x\\\\", id="doubled"),
        pytest.param("\\N,x", id="null"),
    ],
)
def test_csv_may_have_backslashes_that_are_no_escapes(put: Put, cell: str) -> None:
    """A backslash is a character like others if no reader could take it for an escape."""
    assert len(rows_of(put("users.csv", f"id,name,more\nu1,{cell}\nu2,y,z\n"))) == 2


def test_csv_cell_may_be_as_long_as_a_record(put: Put) -> None:
    """A cell is not limited to what the `csv` module takes by default."""
    csv.field_size_limit(131_072)
    long = "x" * 1_000_000
    assert rows_of(put("users.csv", f"id,name\nu1,{long}\n")) == [
        Row(2, {"id": "u1", "name": long})
    ]


_TWO_LINES = '"' + "x" * 2**19 + "\n" + "x" * (2**19 - 3) + '"'


@pytest.mark.parametrize(
    "record",
    [
        pytest.param("x" * 2**20, id="of-one-line"),
        pytest.param(_TWO_LINES, id="of-two-lines"),
        pytest.param('"x' + "\n" * 999 + '"', id="of-1000-lines"),
    ],
)
@pytest.mark.parametrize("end", ["\n", ""], ids=["ended", "at-end"])
def test_csv_record_may_have_the_longest_length(put: Put, record: str, end: str) -> None:
    """The line break at its end is not counted, nor are the records before it."""
    assert rows_of(put("users.csv", f"id\nu1\n{record}{end}"))[1:] == [
        Row(3, {"id": record.strip('"')})
    ]


def test_csv_record_of_two_lines_has_a_longest_length(put: Put) -> None:
    """A record of several lines is not cut off: behind it, the end of the next one is uncertain."""
    with pytest.raises(InvalidInputError, match="line 2: is longer than 1048576"):
        open_rows(str(put("users.csv", f"id\n{_TWO_LINES}x\n")), None, any_columns)


def test_csv_pipe_stops_at_a_row_without_a_certain_end(
    put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a pipe, the rows before are read, and nothing of the text behind the open quote."""
    with put("ids", 'id,name\nu1,x\nu2,"bye\nvictim,x\n').open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        rows = iter(open_rows("-", "csv", any_columns))
        assert next(rows).value == {"id": "u1", "name": "x"}
        with pytest.raises(InvalidInputError, match="line 3: has a quote that is not closed"):
            next(rows)


@pytest.mark.parametrize("line", ["sep=|", "SEP=|", '"sep=|"'])
def test_csv_first_line_may_name_the_delimiter(put: Put, line: str) -> None:
    """Excel's `sep=` line is no header, and the delimiter may be any."""
    assert rows_of(put("users.csv", f"{line}\r\nid|a,b\r\nu1|x\r\n")) == [
        Row(3, {"id": "u1", "a,b": "x"})
    ]


@pytest.mark.parametrize(
    ("header", "delimiter", "names"),
    [
        pytest.param('id;"x,y,z"', ";", ["id", "x,y,z"], id="other-in-quotes"),
        pytest.param('"a;b;c","id"', ",", ["a;b;c", "id"], id="two-in-quotes"),
        pytest.param('id,"first\nname"', ",", ["id", "first\nname"], id="line-break"),
        pytest.param('\n\n"id"\t"a"', "\t", ["id", "a"], id="behind-blank-lines"),
        pytest.param('id, "a,"', ",", ["id", "a,"], id="behind-a-blank"),
    ],
)
def test_csv_delimiter_is_found_by_the_names(
    put: Put, header: str, delimiter: str, names: list[str]
) -> None:
    """Delimiters and line breaks inside of quoted names are part of them."""
    (row,) = rows_of(put("users.csv", f"{header}\nu1{delimiter}u2\n"))
    assert row == Row(2 + header.count("\n"), dict(zip(names, ["u1", "u2"], strict=True)))


def test_csv_blank_before_the_first_cell_is_no_style(put: Put) -> None:
    """Blanks after delimiters belong to the delimiter; one that begins a line may be an id's."""
    bad, good = rows_of(put("users.csv", "id, name\n u1, x\nu2, y\n"))
    assert (bad.line, bad.broken) == (2, "begins with a blank")
    assert good.value == {"id": "u2", "name": "y"}


def test_csv_rows_without_an_id_are_left_out_and_counted(put: Put) -> None:
    """Where the id may be empty, rows without one are no failures."""
    path = put("users.csv", 'id,name\n,a\nu1,"b\nc"\n"",d\nu2,"e\n\nf"\nu3,Jane,Doe\n')
    rows = open_rows(str(path), None, any_columns, id_column="id", id_optional=True)
    *read, broken = rows
    assert [row.value["id"] for row in read] == ["u1", "u2"]
    assert (broken.value, broken.broken) == ("u3,Jane,Doe", "has 3 cells for 2 columns")
    assert rows.findings.as_json() == {
        "suspicious_ids": {},
        "rows_without_id": 2,
        "multiline_rows": 2,
        "ignored_columns": [],
    }
    assert rows.findings.lines() == [
        "2 rows of more than one line (first: lines 3 to 4).",
        "2 rows without an id, left out.",
    ]


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\r"])
def test_no_other_separator_ends_a_row(put: Put, separator: str) -> None:
    """In each format LF alone ends a row, and other separators stay what they are."""
    one = f"a{separator}b"
    assert [row.value for row in rows_of(put("ids.txt", f"{one}\nu2\n"))] == [one, "u2"]
    content = f'id\n"{one}"\nu2\n'
    assert [row.value for row in rows_of(put("ids.csv", content))] == [{"id": one}, {"id": "u2"}]
    first, second = rows_of(put("ids.ndjson", f'"{one}"\n"u2"\n'))
    assert (first.line, second) == (1, Row(2, "u2"))
    assert first.broken == "is not JSON" if one < "a " else first.value == one


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        pytest.param("cp1252", "id\nMüller\n".encode("cp1252"), id="cp1252"),
        pytest.param("UTF-16-LE", "id\nMüller\n".encode("utf-16-le"), id="utf-16-le"),
        pytest.param("utf8", "id\nMüller\n".encode(), id="utf-8"),
        pytest.param("cp1252", "\ufeffid\nMüller\n".encode(), id="mark-wins"),
    ],
)
def test_encoding_can_be_given(put: Put, encoding: str, content: bytes) -> None:
    """A file is read in the encoding that is given, unless it has a byte order mark."""
    rows = open_rows(str(put("ids.csv", content)), None, any_columns, encoding=encoding)
    assert list(rows) == [Row(2, {"id": "Müller"})]


@pytest.mark.parametrize("name", ["x", "hex", "idna", "unicode_escape", "utf7", "hz", "a\0b"])
def test_encoding_has_to_be_one(put: Put, name: str) -> None:
    """A name that is no text encoding is rejected, and so is one that turns letters into lines."""
    with pytest.raises(InvalidInputError, match=r"^encoding: .* is unknown"):
        open_rows(str(put("ids.csv", "id\n")), None, any_columns, encoding=name)


@pytest.mark.parametrize(
    ("content", "encoding", "match"),
    [
        pytest.param("id\nu1\n".encode("utf-16-le"), None, "looks like .*utf-16-le", id="no-mark"),
        pytest.param("id\n".encode("utf-16-be"), None, "looks like .*utf-16-be", id="big-endian"),
        pytest.param(b"\xff\xfei\x00\xd8", None, "is not UTF-16 throughout", id="cut-off"),
        pytest.param(b"id\n\x81\n", "cp1252", "is not CP1252 throughout", id="no-character"),
    ],
)
def test_file_in_another_encoding_is_rejected(
    put: Put, content: bytes, encoding: str | None, match: str
) -> None:
    """Bytes that the encoding does not have are reported before anything is sent."""
    with pytest.raises(InvalidInputError, match=match):
        open_rows(str(put("ids.csv", content)), None, any_columns, encoding=encoding)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        pytest.param(bz2.compress(b"u1\n"), "compressed with bzip2, and cannot", id="bzip2"),
        pytest.param(gzip.compress(bz2.compress(b"u1\n", 1)), "with bzip2", id="bzip2-in-gzip"),
        pytest.param(lzma.compress(b"u1\n"), "compressed with xz, and cannot", id="xz"),
        pytest.param(bytes.fromhex("28b52ffd") + b"\n7\n", "compressed with zstd", id="zstd"),
        pytest.param(bytes.fromhex("04224d18") + b"\n7\n", "compressed with LZ4", id="lz4"),
        pytest.param(b"SQLite format 3\n7\n\0\n", "line 3: has a NUL character", id="others"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "text"])
def test_short_lines_of_another_kind_of_file_are_no_ids(
    put: Put, form: Format, content: bytes, match: str
) -> None:
    """In compressed bytes some lines are as short as the number of a user."""
    if form == "csv":
        match = f"{match}|must be column names|must begin|no column"
    with pytest.raises(InvalidInputError, match=match):
        open_rows(str(put("ids", content)), form, id_columns("id"))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        pytest.param("", "must begin with a line of column names", id="empty-file"),
        pytest.param("\n \n", "must begin with a line of column names", id="blank-lines"),
        pytest.param("id,x\ru1,u2\r", "line 1: .* but has a carriage return", id="only-cr"),
        pytest.param('id,"x"y\nu1,u2\n', "line 1: must be column names", id="text-behind-quote"),
        pytest.param("id," + "x" * 2**20, "line 1: must be column names, but is", id="long"),
        pytest.param("sep=;\n", "must begin with a line of column names", id="separator-only"),
        pytest.param(
            'id,"x\nu1,u2\n', "line 1: .* but has a quote that is not closed", id="open-quote"
        ),
        pytest.param(b"id,\xff\nu1,u2\n", "line 1: .* but is not UTF-8", id="not-utf-8"),
    ],
)
def test_csv_rejects_an_unusable_header(put: Put, content: str | bytes, match: str) -> None:
    """A file whose columns are not known is rejected as a whole, before anything else happens."""
    with pytest.raises(InvalidInputError, match=match):
        open_rows(str(put("users.csv", content)), None, any_columns)


def test_csv_columns_are_checked_by_the_caller(put: Put) -> None:
    """The check is given the names, and what it raises comes through."""

    def refuse(names: list[str]) -> list[str]:
        raise InvalidInputError("columns", " ".join(names))

    with pytest.raises(InvalidInputError, match="id name"):
        open_rows(str(put("users.csv", "id,name\n")), None, refuse)


@pytest.mark.parametrize(
    ("line", "row"),
    [
        pytest.param('{"id": "u1"}', Row(1, {"id": "u1"}), id="object"),
        pytest.param('"u1"', Row(1, "u1"), id="string"),
        pytest.param("null", Row(1, None), id="null"),
        pytest.param('{"id": "u1"', Row(1, '{"id": "u1"', "is not JSON"), id="cut-off"),
        pytest.param("u1", Row(1, "u1", "is not JSON"), id="bare-text"),
        pytest.param('"\\ud800"', Row(1, '"\\ud800"', "is not JSON"), id="lone-surrogate"),
        pytest.param(
            '{"line": 7, "item": {"id": "u1"}, "status": "failed", "attempts": 1,'
            ' "error": {"type": "X"}}',
            Row(1, {"id": "u1"}, is_failure=True),
            id="failure-of-an-object",
        ),
        pytest.param(
            '{"line": 7, "item": "u1", "status": "not_sent", "attempts": 0, "error": null}',
            Row(1, "u1", is_failure=True),
            id="failure-of-a-text",
        ),
        pytest.param(
            '{"line": 7, "item": "u1;x", "status": "failed", "attempts": 0,'
            ' "error": {"type": "InvalidInputError", "field_name": "row", "rule": "has 2 cells"}}',
            Row(1, "u1;x", "has 2 cells", is_failure=True),
            id="failure-of-an-unread-line",
        ),
        pytest.param(
            '{"line": 1, "item": "victim", "status": "paid", "id": "u1"}',
            Row(1, {"line": 1, "item": "victim", "status": "paid", "id": "u1"}),
            id="line-of-an-order",
        ),
        pytest.param(
            '{"line": 1, "item": "victim", "status": "paid", "attempts": 1, "id": "u1"}',
            Row(1, {"line": 1, "item": "victim", "status": "paid", "attempts": 1, "id": "u1"}),
            id="object-with-more",
        ),
        pytest.param(
            '{"line": 7, "item": {"id": "u1"}, "status": "failed", "attempts": 0,'
            ' "error": {"type": "InvalidInputError", "field_name": "row", "rule": "unknown key"}}',
            Row(1, {"id": "u1"}, is_failure=True),
            id="failure-of-an-object-with-a-key-too-many",
        ),
    ],
)
def test_ndjson_line_is_a_value(put: Put, line: str, row: Row) -> None:
    """A line is its JSON value; a failures file's line is its item, unread if it was unread."""
    assert rows_of(put("users.ndjson", f"{line}\n"))[0] == row


@pytest.mark.parametrize(
    ("line", "is_repeated"),
    [
        pytest.param('{"id": "victim", "id": "u1"}', True, id="twice"),
        pytest.param('{"id": "victim", "i\\u0064": "u1"}', True, id="escaped"),
        pytest.param('{"id": "u1"}', False, id="once"),
        pytest.param('{"id": "u1", "friend": {"id": "u2"}}', False, id="one-of-another-object"),
        pytest.param('{"id": "u1", "note": "\\u00e9"}', False, id="escape-elsewhere"),
    ],
)
def test_id_that_is_there_twice_is_none(put: Put, line: str, *, is_repeated: bool) -> None:
    """An object with two ids is not sent: which one counts differs between readers."""
    path = str(put("users.ndjson", f"{line}\n"))
    [row] = open_rows(path, None, any_columns, id_column="id")
    assert row.broken == ('has the key "id" more than once' if is_repeated else None)
    assert (row.value == line) is is_repeated


def test_id_that_is_twice_in_a_corrected_failure_is_none(put: Put) -> None:
    """The object of a line of a failures file is checked like any other."""
    line = '{"line": 7, "item": {"id": "u1", "id": "u2"}, "status": "failed", "attempts": 1}'
    [row] = open_rows(str(put("f.ndjson", f"{line}\n")), None, any_columns, id_column="id")
    assert row == Row(1, line, 'has the key "item.id" more than once')


@pytest.mark.parametrize(
    ("line", "repeated"),
    [
        pytest.param('{"id": "u1", "email": "a@b.c", "email": "d@e.f"}', "email", id="field"),
        pytest.param('{"id": "u1", "price": {"value": 1, "value": 2}}', "price.value", id="nested"),
        pytest.param('{"id": "u1", "price": {}, "price": {}}', "price", id="object"),
        pytest.param('{"id": "u1", "note": 1, "note": 2}', None, id="no-field"),
        pytest.param('{"id": "u1", "note": {"x": 1, "x": 2}}', None, id="in-no-field"),
        pytest.param('{"id": "u1", "email": "10:30", "price": {"id": 1}}', None, id="once"),
    ],
)
def test_a_field_that_is_there_twice_has_no_value(
    put: Put, line: str, repeated: str | None
) -> None:
    """An object with two values of a field is not sent, as a CSV file with two columns is not."""
    path = str(put("users.ndjson", f"{line}\n"))
    fields = {"id", "email", "price"}
    [row] = open_rows(path, None, any_columns, id_column="id", matters=fields.__contains__)
    assert row.broken == (repeated and f'has the key "{repeated}" more than once')


@pytest.mark.parametrize(
    "content",
    [
        pytest.param('{"id": "u1", "note": "bye\n"victim"\nbye"}\n', id="line-break-in-a-string"),
        pytest.param('{"id": "u1", "note": "bye}\n"victim"\n', id="string-without-an-end"),
        pytest.param('{"id": "u1", "note": "\\"hi\\\n"victim"\n', id="backslash-at-the-end"),
        pytest.param(b'{"id": "u1", "note": "\xff\n"victim"\n"}\n', id="not-utf-8"),
        pytest.param('{"id": "u1",\n\n "friend":\n {"id": "victim"}}\n', id="more-follows"),
        pytest.param('"id": \n"victim"\n', id="value-follows"),
        pytest.param('"u1", \n"victim"\n', id="item-follows"),
        pytest.param('{\n"victim"\n', id="object"),
        pytest.param('[\n"victim"\n', id="list"),
    ],
)
def test_text_inside_json_does_not_become_a_row(put: Put, content: str | bytes) -> None:
    """A file is rejected if JSON that does not end with its line is not its last row."""
    path = put("users.ndjson", content)
    with pytest.raises(InvalidInputError, match=r"line 1: is not .* next line may belong to it"):
        open_rows(str(path), None, any_columns)


@pytest.mark.parametrize("line", ['{"id": u1}', '["u1", u2]', '"u1"}', '"u1"]', "u1"])
def test_json_that_ends_with_its_line_costs_only_itself(put: Put, line: str) -> None:
    """A line that is not JSON is no reason to reject the others if nothing in it is open."""
    assert rows_of(put("users.ndjson", f'{line}\n"u2"\n')) == [
        Row(1, line, "is not JSON"),
        Row(2, "u2"),
    ]


@settings(max_examples=100, deadline=None)
@given(
    content=st.recursive(
        st.text(max_size=4),
        lambda inner: (
            st.lists(inner, min_size=1, max_size=3)
            | st.dictionaries(st.text(max_size=4), inner, min_size=1, max_size=3)
        ),
    ),
    indent=st.sampled_from([None, 0, 1, 4, "\t"]),
    as_bytes=st.booleans(),
)
def test_json_of_several_lines_is_rejected(content: Any, indent: Any, *, as_bytes: bool) -> None:
    """JSON is one row if it stands on one line, and rejected as it is laid out for people."""
    text = json.dumps(content, indent=indent, ensure_ascii=as_bytes)
    if "\n" in text:
        with pytest.raises(InvalidInputError, match="next line may belong to it"):
            _read(text.encode(), "ndjson")
    else:
        assert len(_read(text.encode(), "ndjson")) == 1


def test_ndjson_survives_deep_nesting(put: Put) -> None:
    """JSON nested deeper than it can be decoded is a bad line, no crash."""
    deep = "[" * 200_000 + "]" * 200_000
    bad, good = rows_of(put("users.jsonl", f'{deep}\n"u2"\n'))
    assert bad.broken == "is not JSON"
    assert good == Row(2, "u2")


def test_text_line_is_an_id_and_blank_lines_are_none(put: Put) -> None:
    """In a text file a line is the id as it stands; blank lines count as lines, not as rows."""
    content = "u1\n\n  \n a b \r\n\u3000\nMüller"
    assert rows_of(put("ids.txt", content)) == [Row(1, "u1"), Row(4, " a b "), Row(6, "Müller")]


def test_a_mark_behind_the_first_line_is_a_part_of_the_id(put: Put) -> None:
    """Only the beginning of a file may have a byte order mark; an id is never changed."""
    assert rows_of(put("ids.txt", "\ufeffu1\n\ufeffu2\n")) == [Row(1, "u1"), Row(2, "\ufeffu2")]


def test_line_that_is_not_utf8_is_broken(put: Put) -> None:
    """Bytes that are no UTF-8 cost their line, which is shown as far as it can be."""
    assert rows_of(put("ids.txt", b"u1\ncaf\xe9\nu3\n")) == [
        Row(1, "u1"),
        Row(2, "caf\ufffd", "is not UTF-8: set its encoding, such as cp1252"),
        Row(3, "u3"),
    ]


@pytest.mark.parametrize("end", [pytest.param(b"\n", id="ended"), pytest.param(b"", id="at-end")])
def test_line_of_a_mebibyte_is_read(put: Put, end: bytes) -> None:
    """A line of exactly the longest length is a row like others."""
    assert rows_of(put("ids.txt", b"x" * 2**20 + end)) == [Row(1, "x" * 2**20)]
    [longer] = rows_of(put("ids.txt", b"x" * (2**20 + 1) + end))
    assert longer.broken == "is longer than 1048576 characters"


@pytest.mark.parametrize("form", _FORMS)
def test_line_above_a_mebibyte_is_broken(put: Put, form: Format) -> None:
    """A longer line is skipped and reported, in any format, and its kept part can be encoded."""
    content = b'"id"\n\xff' + b"x" * 3 * 2**20 + b'\n"u3"\n'
    row = next(row for row in rows_of(put("ids", content), form) if row.line == 2)
    assert row.broken == "is longer than 1048576 characters"
    assert row.value == "\ufffd" + "x" * 99
    assert rows_of(put("ids", content), form)[-1].line == 3


@pytest.mark.parametrize("length", [2**20 + 1, 3 * 2**20])
@pytest.mark.parametrize("end", ['"\n', "\\\n", "\\\r\n"], ids=["quote", "backslash", "crlf"])
def test_long_csv_record_with_an_uncertain_end_is_rejected(put: Put, length: int, end: str) -> None:
    """A quote or an escape far behind may make the next line a part of the long one."""
    with pytest.raises(InvalidInputError, match="line 2: is longer than 1048576"):
        open_rows(str(put("a.csv", "id\n" + "x" * length + end)), None, any_columns)


def test_long_json_costs_only_itself(put: Put) -> None:
    """The part of a long object that is kept has no end, but its line has one."""
    long = json.dumps({"id": "u1", "note": "x" * 2**20})
    bad, good = rows_of(put("users.ndjson", f'{long}\n{{"id": "u2"}}\n'))
    assert (bad.value, bad.broken) == (long[:100], "is longer than 1048576 characters")
    assert good == Row(2, {"id": "u2"})


def test_long_last_line_is_broken(put: Put) -> None:
    """A line that is too long may also be the last one, without an end."""
    assert [row.line for row in rows_of(put("ids.txt", b"x" * (2**20 + 1)))] == [1]


def test_gzip_is_known_by_its_content(put: Put) -> None:
    """Packed files are unpacked whatever their name, and plain ones are not."""
    packed = gzip.compress(b"u1\nu2\n")
    for name in ("ids.txt", "ids.txt.gz", "IDS.TXT"):
        assert rows_of(put(name, packed)) == [Row(1, "u1"), Row(2, "u2")]
    assert rows_of(put("ids.txt.gz", "u1\n")) == [Row(1, "u1")]


def test_gzip_of_several_members_is_one_input(put: Put) -> None:
    """Packed files that were joined are read as one."""
    packed = gzip.compress(b"u1\nu") + gzip.compress(b"2\n")
    assert rows_of(put("ids.txt", packed)) == [Row(1, "u1"), Row(2, "u2")]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda packed: packed[:-12], id="cut-off"),
        pytest.param(lambda packed: packed[:12] + b"\xff" * 9 + packed[21:], id="overwritten"),
        pytest.param(lambda packed: packed[:-8] + b"\0" * 8, id="wrong-sum"),
        pytest.param(lambda packed: packed[:2], id="magic-only"),
        pytest.param(lambda packed: packed + b"junk", id="junk-behind"),
    ],
)
def test_damaged_gzip_is_reported_beforehand(put: Put, damage: Callable[[bytes], bytes]) -> None:
    """A damaged file is rejected when it is opened, before its good part is sent."""
    packed = gzip.compress("".join(f"user-{number}\n" for number in range(999)).encode())
    with pytest.raises(InvalidInputError, match="is a damaged gzip file"):
        open_rows(str(put("ids.txt", damage(packed))), None, any_columns)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        pytest.param("a.csv", "csv", id="csv"),
        pytest.param("a.TSV", "csv", id="tsv"),
        pytest.param("a.ndjson", "ndjson", id="ndjson"),
        pytest.param("a.b.jsonl.gz", "ndjson", id="jsonl"),
        pytest.param("a.txt.gz", "text", id="txt"),
    ],
)
def test_format_is_found_by_the_name(put: Put, name: str, form: Format) -> None:
    """The format follows from the suffix, also in front of .gz."""
    assert open_rows(str(put(name, "id\n")), None, any_columns).form == form


@pytest.mark.parametrize("name", ["-", "ids", "ids.gz", "ids.json", ".csv"])
def test_format_that_cannot_be_found_is_required(put: Put, name: str) -> None:
    """Without a suffix that says it, nothing is guessed."""
    with pytest.raises(InvalidInputError, match=r"^format: is required"):
        open_rows(name, None, any_columns)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        pytest.param("none.txt", "cannot be read: No such file", id="missing"),
        pytest.param(".", "is a folder: name a file in it", id="directory"),
        pytest.param("x" * 300, "cannot be read: File name too long", id="long-name"),
    ],
)
def test_file_that_cannot_be_read_is_reported(tmp_path: Path, name: str, match: str) -> None:
    """A path that is no readable file is rejected with the reason."""
    with pytest.raises(InvalidInputError, match=match):
        open_rows(str(tmp_path / name), "text", any_columns)


def test_file_that_was_replaced_is_not_read(put: Put) -> None:
    """The rows of another file are not taken for those that were counted."""
    rows = open_rows(str(put("ids.txt", "a\nb\n")), None, any_columns)
    put("other", "x\ny\n").replace(rows.path)
    with pytest.raises(InvalidInputError, match="was replaced by another file meanwhile"):
        list(rows)


def test_file_that_became_shorter_is_reported(put: Put) -> None:
    """Rows that are gone do not end the input as if there had never been more."""
    path = put("ids.txt", "a\nb\n")
    rows = open_rows(str(path), None, any_columns)
    os.truncate(path, 2)
    with pytest.raises(InvalidInputError, match="cannot be read: it has become shorter meanwhile"):
        list(rows)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize(
    ("added", "is_whole"),
    [
        pytest.param("34\nu2\n", False, id="rest-of-a-row"),
        pytest.param("\r34\n", False, id="carriage-return"),
        pytest.param("\nu2\n", True, id="line-break"),
        pytest.param("\r\nu2\r\n", True, id="line-break-of-windows"),
    ],
)
def test_half_a_row_is_not_sent(put: Put, encoding: str, added: str, *, is_whole: bool) -> None:
    """A file with half a row when its size was taken is rejected: half an id is another id."""
    mark = "" if encoding == "utf-8" else "\ufeff"
    path = put("ids.txt", f"{mark}u1\nuser_12".encode(encoding))
    rows = open_rows(str(path), None, any_columns)
    with path.open("ab") as file:
        file.write(added.encode(encoding))
    if is_whole:
        assert list(rows) == [Row(1, "u1"), Row(2, "user_12")]
    else:
        with pytest.raises(InvalidInputError, match="is being written to"):
            list(rows)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_rows_may_be_added(put: Put, encoding: str) -> None:
    """A file may grow behind a whole row, which has a line break at its end in any encoding."""
    path = put("ids.txt", "\ufeffu1\nu2\n".encode(encoding))
    rows = open_rows(str(path), None, any_columns)
    with path.open("ab") as file:
        file.write("u3".encode(encoding))
    assert list(rows) == [Row(1, "u1"), Row(2, "u2")]


@pytest.mark.parametrize("count", [2, 50_000])
def test_packed_file_may_grow(put: Put, count: int) -> None:
    """Bytes that are appended to a gzip file do not change the rows that it has."""
    ids = [f"u{number}" for number in range(count)]
    path = put("ids.txt.gz", gzip.compress("\n".join(ids).encode(), compresslevel=0))
    rows = open_rows(str(path), None, any_columns)
    with path.open("ab") as file:
        file.write(gzip.compress(b"u3\n"))
    assert [row.value for row in rows] == ids


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Connect standard input with a socket; each message sent on it is read on its own."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        monkeypatch.setattr(sys, "stdin", theirs)
        yield ours


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(gzip.compress(b"u1\nu2\n"), id="gzip"),
        pytest.param("\ufeffu1\nu2\n".encode("utf-16-le"), id="utf-16"),
        pytest.param(b"u1\nu2\n", id="plain"),
        pytest.param(b"u", id="one-byte"),
        pytest.param(b"", id="empty"),
    ],
)
def test_pipe_may_begin_with_one_byte(pieces: socket.socket, content: bytes) -> None:
    """The first bytes of an input show its kind, however late they come."""
    for place in range(len(content)):
        pieces.send(content[place : place + 1])
    pieces.close()
    rows = [row.value for row in open_rows("-", "text", any_columns)]
    assert rows == (["u1", "u2"] if len(content) > 1 else list(content.decode()))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(bz2.compress(b"u1\n"), id="bzip2"),
        pytest.param(lzma.compress(b"u1\n"), id="xz"),
        pytest.param(b"ARROW1\0\0", id="arrow"),
    ],
)
def test_another_kind_of_file_in_a_pipe_is_known_by_its_first_bytes(
    pieces: socket.socket, content: bytes
) -> None:
    """Some signatures are longer than a byte order mark."""
    for place in range(len(content)):
        pieces.send(content[place : place + 1])
    pieces.close()
    with pytest.raises(InvalidInputError, match="and cannot be read as text"):
        list(open_rows("-", "text", any_columns))


def test_a_short_line_of_a_pipe_is_read_at_once(pieces: socket.socket) -> None:
    """No signature has a line break, so that nothing else has to come."""
    pieces.send(b"use")
    pieces.send(b"r\n")
    rows = iter(open_rows("-", "text", any_columns))
    assert next(rows) == Row(1, "user")


@pytest.mark.parametrize(
    ("form", "content", "last"),
    [
        pytest.param("text", "u1\nu2", Row(2, "u2", _INCOMPLETE), id="text"),
        pytest.param("text", "u1\r\nu2\r", Row(2, "u2\r", _INCOMPLETE), id="half-a-line-break"),
        pytest.param("text", "u1\nu2\n  ", Row(2, "u2"), id="blanks"),
        pytest.param(
            "csv", "id,x\n1,2\nu2,y", Row(3, '{"id":"u2","x":"y"}', _INCOMPLETE), id="csv"
        ),
        pytest.param("csv", "id\nu2\n", Row(2, {"id": "u2"}), id="whole"),
        pytest.param("ndjson", '"u1"\n"u2"', Row(2, "u2"), id="ndjson"),
    ],
)
def test_half_an_id_in_a_pipe_is_none(
    pieces: socket.socket, form: Format, content: str, last: Row
) -> None:
    """A pipe whose writer was killed may end in the middle of an id, which would be another one."""
    pieces.send(content.encode())
    pieces.close()
    *_, found = open_rows("-", form, any_columns)
    assert found == last


def test_standard_input_ends_once(pieces: socket.socket) -> None:
    """A terminal does not have to be told a second time that the input ends."""
    for piece in (b"u1\n", b"", b"u2\n"):
        pieces.send(piece)
    assert list(open_rows("-", "text", any_columns)) == [Row(1, "u1")]


def test_pipe_may_be_non_blocking(pieces: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that another process made non-blocking is waited for, and does not end early."""
    real = select.select

    def send_and_select(*arguments: Any) -> Any:
        pieces.send(b"u1\nu2\n")
        pieces.close()
        return real(*arguments)

    monkeypatch.setattr(select, "select", send_and_select)
    os.set_blocking(sys.stdin.fileno(), False)
    assert list(open_rows("-", "text", any_columns)) == [Row(1, "u1"), Row(2, "u2")]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_standard_input_stays_open(
    put: Put, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    """Standard input is read once, is not counted, and can be read by others afterwards."""
    with put("ids", pack(b"u1\nu2\n")).open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        rows = open_rows("-", "text", any_columns)
        assert not isinstance(rows, SizedRows)
        assert list(rows) == [Row(1, "u1"), Row(2, "u2")]
        assert os.read(stdin.fileno(), 1) == b""


@pytest.mark.parametrize(
    ("stdin", "match"),
    [
        pytest.param(None, "it is closed", id="closed"),
        pytest.param(io.StringIO("u1"), "cannot be read: fileno", id="no-descriptor"),
    ],
)
def test_standard_input_may_be_missing(
    monkeypatch: pytest.MonkeyPatch, stdin: Any, match: str
) -> None:
    """A process without a standard input gets an error that says so."""
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(InvalidInputError, match=match):
        list(open_rows("-", "text", any_columns))


def test_pipe_with_a_name_is_read_once(tmp_path: Path) -> None:
    """What a shell's <(command) gives is read by the run itself, and not used up by counting it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("u1\nu2\n",))
    writer.start()
    rows = open_rows(str(pipe), "text", any_columns)
    assert type(rows) is Rows
    assert list(rows) == [Row(1, "u1"), Row(2, "u2")]
    writer.join()


def test_repr_of_a_row_shows_no_person() -> None:
    """A row can be logged."""
    assert repr(Row(3, {"email": "jane@example.com"})) == "Row(line=3)"


def _read(content: bytes, form: Format) -> list[Row]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return rows_of(Path(file.name), form)


def _filled_lines(content: bytes) -> list[int]:
    text = content.decode("utf-8-sig", "surrogateescape").lstrip("\ufeff")
    return [number for number, line in enumerate(text.split("\n"), 1) if line.strip()]


_AWKWARD = st.lists(
    st.one_of(
        st.binary(max_size=8),
        st.sampled_from([b"\n", b"\r", b"\r\n", b",", b";", b"\t", b'"', b"\xef\xbb\xbf", b"{"]),
        st.sampled_from([b"\x1f\x8b", b'{"id":"u"}', b"id", b"\0", b" ", b"\x85", b"\xe2\x80\xa8"]),
    ),
    max_size=30,
).map(b"".join)


@pytest.mark.parametrize("form", ["ndjson", "text"])
@settings(max_examples=150, deadline=None)
@given(content=_AWKWARD)
def test_any_bytes_are_rows_or_rejected(form: Format, content: bytes) -> None:
    """Whatever the bytes are, each line that is not blank is one row, or the input is rejected."""
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
    assume(not content.startswith(marks))  # that of UTF-32 LE begins as the first one
    try:
        rows = _read(content, form)
    except InvalidInputError as error:
        if form == "ndjson" and "next line may belong to it" in error.rule:
            return
        if form == "text" and b"\0" in content:
            return
        if "cannot be read as text" in error.rule:  # it begins as a file of another kind
            return
        assert content.startswith(b"\x1f\x8b") or b"\0\0" in (content[:4:2], content[1:4:2])
        return
    assert [row.line for row in rows] == _filled_lines(content)


@settings(max_examples=300, deadline=None)
@given(content=_AWKWARD)
def test_any_bytes_are_csv_rows_or_rejected(content: bytes) -> None:
    """Both passes over any bytes agree, and a row has the number of the line that it begins in."""
    with contextlib.suppress(InvalidInputError):
        numbers = [row.line for row in _read(b"id\n" + content, "csv")]
        assert numbers == sorted(set(numbers))


_CELLS = st.text(
    st.one_of(
        st.sampled_from("\n\r\",;\t '\\\x0b\x0c\x85\u2028abc"),
        st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff\0"),
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(
    table=st.lists(st.tuples(_CELLS, _CELLS), max_size=6),
    delimiter=st.sampled_from(",;\t"),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
)
def test_no_text_inside_a_cell_becomes_a_row(
    table: list[tuple[str, str]], delimiter: str, end: str, quoting: Any
) -> None:
    """
    Rows are those that were written, in any dialect and whatever is in the cells.

    A backslash may be another program's escape, for which a file may be rejected.
    """
    if quoting == csv.QUOTE_MINIMAL:  # some versions of Python do not quote a lone CR then
        table = [(one.replace("\r", "\r\n"), two.replace("\r", "\r\n")) for one, two in table]
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([("id", "x"), *table])
    try:
        rows = _read(file.getvalue().encode(), "csv")
    except InvalidInputError:
        if any("\\" in cell for cells in table for cell in cells):
            return
        raise
    written = [dict(zip(("id", "x"), cells, strict=True)) for cells in table]
    filled = [{name: cell for name, cell in row.items() if cell} for row in written]
    assert [row.value for row in rows] == [row for row in filled if "".join(row.values()).strip()]
    read = csv.DictReader(io.StringIO(file.getvalue(), newline=""), delimiter=delimiter)
    assert list(read) == written


_IDS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0\ufeff"), min_size=1
).filter(str.strip)


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(_IDS, min_size=1), end=st.sampled_from(["\n", "\r\n"]))
def test_ids_written_as_lines_come_back(ids: list[str], end: str) -> None:
    """Every text that can be a line is read as it was written."""
    content = "\ufeff" + end.join(ids)
    rows = _read(content.encode(), "text")
    assert [(row.value, row.broken) for row in rows] == [(each, None) for each in ids]
