"""
Input files as rows: whatever is in them, a line is a row, and a bad one costs nothing but itself.
"""

from __future__ import annotations

import gzip
import io
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapty_async.cli._input import Format, Row, Rows, SizedRows, open_rows
from adapty_async.errors import InvalidInputError

Put = Callable[[str, str | bytes], Path]

_FORMS: tuple[Format, ...] = ("csv", "ndjson", "text")


def any_columns(names: list[str]) -> None:
    """
    Accept a header.
    """


def rows_of(path: Path, form: Format | None = None) -> list[Row]:
    """
    Read an input to its end, and check that it was counted as it is read.
    """
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
        pytest.param("id,name\ru1,Jane\ru2,Zoë\r", id="lone-cr"),
        pytest.param("id,name\ru1,Jane\nu2,Zoë\r\n", id="mixed-ends"),
        pytest.param('"id","name"\n"u1","Jane"\nu2,"Zoë"\n', id="quotes"),
        pytest.param("id,name\nu1,Jane\nu2,Zoë", id="no-last-end"),
    ],
)
def test_csv_reads_every_dialect(put: Put, content: str) -> None:
    """
    A CSV file is read whichever delimiter, line ends, quotes and mark it has.
    """
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
    """
    A cell comes out as it was meant, and an empty one not at all.
    """
    assert rows_of(put("users.csv", f"id,name\n{line}\n")) == [Row(2, cells)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param('u1,"Jane', "has a quote that is not closed", id="open-quote"),
        pytest.param('u1,"Jane"x', "has a quote that is not closed", id="text-after-quote"),
        pytest.param("u1", "has 1 cells for 2 columns", id="too-few"),
        pytest.param("u1,Jane,Doe", "has 3 cells for 2 columns", id="too-many"),
        pytest.param(f"u1,{'x' * 140_000}", "too long a cell", id="long-cell"),
    ],
)
def test_csv_bad_line_costs_only_itself(put: Put, line: str, reason: str) -> None:
    """
    A line that cannot be read is told with its number and reason, and the next is read.
    """
    bad, good = rows_of(put("users.csv", f"id,name\n{line}\nu2,Zoë\n"))
    assert (bad.line, bad.value) == (2, line)
    assert reason in str(bad.broken)
    assert good == Row(3, {"id": "u2", "name": "Zoë"})


@pytest.mark.parametrize(
    ("content", "match"),
    [
        pytest.param("", "must begin with a line of column names", id="empty-file"),
        pytest.param("\n \n", "must begin with a line of column names", id="blank-lines"),
        pytest.param("id,id\nu1,u2\n", "line 1: column names must be distinct", id="duplicate"),
        pytest.param("\nid,\nu1,u2\n", "line 2: column names must be distinct", id="empty-name"),
        pytest.param('id,"x\nu1,u2\n', "line 1: .* but a quote is not closed", id="open-quote"),
        pytest.param(b"id,\xff\nu1,u2\n", "line 1: .* but is not UTF-8", id="not-utf-8"),
    ],
)
def test_csv_refuses_an_unusable_header(put: Put, content: str | bytes, match: str) -> None:
    """
    A file whose columns are not known is refused as a whole, before anything else happens.
    """
    with pytest.raises(InvalidInputError, match=match):
        open_rows(str(put("users.csv", content)), None, any_columns)


def test_csv_columns_are_checked_by_the_caller(put: Put) -> None:
    """
    The check is given the names, and what it raises comes through.
    """

    def refuse(names: list[str]) -> None:
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
            '{"line": 7, "item": {"id": "u1"}, "status": "failed", "error": {"type": "X"}}',
            Row(1, {"id": "u1"}),
            id="failure-of-an-object",
        ),
        pytest.param(
            '{"line": 7, "item": "u1", "status": "not_sent", "attempts": 0, "error": null}',
            Row(1, "u1"),
            id="failure-of-a-text",
        ),
        pytest.param(
            '{"line": 7, "item": "u1;x", "status": "failed",'
            ' "error": {"type": "InvalidInputError", "field_name": "row", "rule": "has 2 cells"}}',
            Row(1, "u1;x", "has 2 cells"),
            id="failure-of-an-unread-line",
        ),
    ],
)
def test_ndjson_line_is_a_value(put: Put, line: str, row: Row) -> None:
    """
    A line is its JSON value; one of a failures file is the item in it, unread if it was unread.
    """
    assert rows_of(put("users.ndjson", f"{line}\n"))[0] == row


def test_ndjson_survives_deep_nesting(put: Put) -> None:
    """
    JSON nested deeper than it can be decoded is a bad line, no crash.
    """
    deep = "[" * 200_000 + "]" * 200_000
    bad, good = rows_of(put("users.jsonl", f'{deep}\n"u2"\n'))
    assert bad.broken == "is not JSON"
    assert good == Row(2, "u2")


def test_text_line_is_an_id_and_blank_lines_are_none(put: Put) -> None:
    """
    In a text file a line is the id as it stands; blank lines count as lines, not as rows.
    """
    content = "u1\n\n  \n a b \r\n\u3000\nMüller"
    assert rows_of(put("ids.txt", content)) == [Row(1, "u1"), Row(4, " a b "), Row(6, "Müller")]


def test_line_that_is_not_utf8_is_broken(put: Put) -> None:
    """
    Bytes that are no UTF-8 cost their line, which is shown as far as it can be.
    """
    assert rows_of(put("ids.txt", b"u1\ncaf\xe9\nu3\n")) == [
        Row(1, "u1"),
        Row(2, "caf\ufffd", "is not UTF-8"),
        Row(3, "u3"),
    ]


@pytest.mark.parametrize("end", [pytest.param(b"\n", id="ended"), pytest.param(b"", id="at-end")])
def test_line_of_a_mebibyte_is_read(put: Put, end: bytes) -> None:
    """
    A line of exactly the longest length is a row like others.
    """
    assert rows_of(put("ids.txt", b"x" * 2**20 + end)) == [Row(1, "x" * 2**20)]


@pytest.mark.parametrize("form", _FORMS)
def test_line_above_a_mebibyte_is_broken(put: Put, form: Format) -> None:
    """
    A longer line is skipped and told, in any format, and what is kept of it can be encoded.
    """
    content = b'"id"\n"\xff' + b"x" * 3 * 2**20 + b'"\n"u3"\n'
    row = next(row for row in rows_of(put("ids", content), form) if row.line == 2)
    assert row.broken == "is longer than 1048576 characters"
    assert row.value == '"\ufffd' + "x" * 98
    assert rows_of(put("ids", content), form)[-1].line == 3


def test_long_last_line_is_broken(put: Put) -> None:
    """
    A line that is too long may also be the last one, without an end.
    """
    assert [row.line for row in rows_of(put("ids.txt", b"x" * (2**20 + 1)))] == [1]


def test_gzip_is_known_by_its_content(put: Put) -> None:
    """
    Packed files are unpacked whatever their name, and plain ones are not.
    """
    packed = gzip.compress(b"u1\nu2\n")
    for name in ("ids.txt", "ids.txt.gz", "IDS.TXT"):
        assert rows_of(put(name, packed)) == [Row(1, "u1"), Row(2, "u2")]
    assert rows_of(put("ids.txt.gz", "u1\n")) == [Row(1, "u1")]


def test_gzip_of_several_members_is_one_input(put: Put) -> None:
    """
    Packed files that were joined are read as one.
    """
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
def test_damaged_gzip_is_told_beforehand(put: Put, damage: Callable[[bytes], bytes]) -> None:
    """
    A damaged file is refused when it is opened, before its good part is sent.
    """
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
def test_format_is_told_by_the_name(put: Put, name: str, form: Format) -> None:
    """
    The format follows from the suffix, also in front of .gz.
    """
    assert open_rows(str(put(name, "id\n")), None, any_columns).form == form


@pytest.mark.parametrize("name", ["-", "ids", "ids.gz", "ids.json", ".csv"])
def test_format_that_cannot_be_told_must_be_given(put: Put, name: str) -> None:
    """
    Without a suffix that says it, nothing is guessed.
    """
    with pytest.raises(InvalidInputError, match="--format: must be given"):
        open_rows(name, None, any_columns)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        pytest.param("none.txt", "cannot be read: No such file", id="missing"),
        pytest.param(".", "cannot be read: Is a directory", id="directory"),
        pytest.param("x" * 300, "cannot be read: File name too long", id="long-name"),
    ],
)
def test_file_that_cannot_be_read_is_told(tmp_path: Path, name: str, match: str) -> None:
    """
    A path that is no readable file is refused with the system's reason.
    """
    with pytest.raises(InvalidInputError, match=match):
        open_rows(str(tmp_path / name), "text", any_columns)


def test_file_that_was_replaced_is_not_read(put: Put) -> None:
    """
    The rows of another file are not taken for those that were counted.
    """
    rows = open_rows(str(put("ids.txt", "a\nb\n")), None, any_columns)
    put("other", "x\ny\n").replace(rows.path)
    with pytest.raises(InvalidInputError, match="was replaced by another file meanwhile"):
        list(rows)


def test_file_that_became_shorter_is_told(put: Put) -> None:
    """
    Rows that are gone do not end the input as if there had never been more.
    """
    path = put("ids.txt", "a\nb\n")
    rows = open_rows(str(path), None, any_columns)
    os.truncate(path, 2)
    with pytest.raises(InvalidInputError, match="cannot be read: it has become shorter meanwhile"):
        list(rows)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_standard_input_stays_open(
    put: Put, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    """
    Standard input is read once, is not counted, and can be read by others afterwards.
    """
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
    """
    A process without a standard input is told so.
    """
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(InvalidInputError, match=match):
        list(open_rows("-", "text", any_columns))


def test_pipe_with_a_name_is_read_once(tmp_path: Path) -> None:
    """
    What a shell's <(command) gives is read by the run itself, and not used up by counting it.
    """
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("u1\nu2\n",))
    writer.start()
    rows = open_rows(str(pipe), "text", any_columns)
    assert type(rows) is Rows
    assert list(rows) == [Row(1, "u1"), Row(2, "u2")]
    writer.join()


def test_repr_of_a_row_shows_no_person() -> None:
    """
    A row can be logged.
    """
    assert repr(Row(3, {"email": "jane@example.com"})) == "Row(line=3)"


def _read(content: bytes, form: Format) -> list[Row]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return rows_of(Path(file.name), form)


def _filled_lines(content: bytes) -> list[int]:
    text = content.decode("utf-8-sig", "surrogateescape")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [number for number, line in enumerate(lines, 1) if line.strip()]


_AWKWARD = st.lists(
    st.one_of(
        st.binary(max_size=8),
        st.sampled_from([b"\n", b"\r", b"\r\n", b",", b";", b"\t", b'"', b"\xef\xbb\xbf", b"{"]),
        st.sampled_from([b"\x1f\x8b", b'{"id":"u"}', b"id", b"\0", b" ", b"\x85", b"\xe2\x80\xa8"]),
    ),
    max_size=30,
).map(b"".join)


@pytest.mark.parametrize("form", _FORMS)
@settings(max_examples=150, deadline=None)
@given(content=_AWKWARD)
def test_any_bytes_are_rows_or_refused(form: Format, content: bytes) -> None:
    """
    Whatever the bytes are, each line that is not blank is one row, or the input is refused.
    """
    try:
        rows = _read(content, form)
    except InvalidInputError:
        assert form == "csv" or content.startswith(b"\x1f\x8b")
        return
    numbers = [row.line for row in rows]
    assert numbers == _filled_lines(content)[1 if form == "csv" else 0 :]


_IDS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1
).filter(str.strip)


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(_IDS, min_size=1), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_ids_written_as_lines_come_back(ids: list[str], end: str) -> None:
    """
    Every text that can be a line is read as it was written.
    """
    content = "\ufeff" + end.join(ids)
    rows = _read(content.encode(), "text")
    assert [(row.value, row.broken) for row in rows] == [(each, None) for each in ids]
