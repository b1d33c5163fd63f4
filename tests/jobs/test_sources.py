"""Files as inputs of jobs: parts hold the rows that the whole file has, and notice any change."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async._input.rows import open_rows
from adapty_async.errors import ConfigError, InvalidInputError
from adapty_async.jobs import Lines, PartChangedError, PlannedSource
from adapty_async.jobs._model import Plan
from adapty_async.jobs._sources import Item, Unreadable

_CELL = st.text(st.sampled_from('ab\u00e9\u4e2d ,";\t'), max_size=6)
_BREAK = st.sampled_from(["\n", "\r\n"])


def items(lines: Lines, plan: Plan) -> list[Item]:
    """Return the items of all parts."""
    return [item for part in plan.parts for item in lines.read(plan.source, part.source)]


def values(lines: Lines, plan: Plan) -> list[str | None]:
    """Return the ids of all parts; None for one that cannot be read."""
    return [item.value if isinstance(item.value, str) else None for item in items(lines, plan)]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    """Write a file."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def quoted(cell: str) -> str:
    """Return a cell as RFC 4180 quotes it."""
    return '"' + cell.replace('"', '""') + '"'


@given(
    rows=st.lists(st.tuples(_CELL, _CELL | st.just("two\nlines")), max_size=20),
    end=_BREAK,
    part_size=st.integers(1, 5),
    mark=st.booleans(),
    last=st.booleans(),
)
def test_parts_of_a_csv_file_are_its_rows(
    *, rows: list[tuple[str, str]], end: str, part_size: int, mark: bool, last: bool
) -> None:
    """However a file is divided, its parts are the rows that the whole file has, in order."""
    body = end.join([f"{quoted(one)},{quoted(two)}" for one, two in rows])
    text = f"id,note{end}{body}{end if last else ''}"
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), "ids.csv", text.encode("utf-8-sig" if mark else "utf-8"))
        lines = Lines(path, column="id")
        plan = lines.plan(part_size)
        whole = open_rows(str(path), None, set, id_column="id", id_optional=True)
        expected = [(row.line, whole.identify(row)[1]) for row in whole]

        found = [(item.line, item.value) for item in items(lines, plan)]
        assert [line for line, _ in found] == [line for line, _ in expected]
        assert [value if isinstance(value, str) else None for _, value in found] == [
            value for _, value in expected
        ]
        assert [part.size for part in plan.parts[:-1]] == [part_size] * (len(plan.parts) - 1)
        assert plan.items == len(expected)


@given(
    rows=st.lists(st.text(st.sampled_from("ab\u00e9\udc80\ufeff "), max_size=5), max_size=20),
    end=_BREAK,
    part_size=st.integers(1, 5),
)
def test_parts_of_text_are_its_lines(*, rows: list[str], end: str, part_size: int) -> None:
    """Bytes that are not UTF-8, blank lines and byte order marks are the same in a part."""
    with tempfile.TemporaryDirectory() as folder:
        data = end.join(rows).encode("utf-8", "surrogateescape")
        path = written(Path(folder), "ids.txt", data or b"x")
        lines = Lines(path)
        plan = lines.plan(part_size)
        whole = open_rows(str(path), None, set)
        expected = [(row.line, row.value if row.broken is None else None) for row in whole]
        assert (
            list(zip([item.line for item in items(lines, plan)], values(lines, plan), strict=True))
            == expected
        )


def test_a_file_of_one_byte_a_character_is_divided(tmp_path: Path) -> None:
    """An old encoding with one byte for each character needs no conversion."""
    path = written(tmp_path, "ids.txt", "m\u00fcller\nb\nc\u00e9\n".encode("cp1252"))
    lines = Lines(path, encoding="cp1252")
    plan = lines.plan(2)
    assert values(lines, plan) == ["m\u00fcller", "b", "c\u00e9"]
    again = Lines(path, encoding=plan.source["encoding"])
    assert values(again, plan) == ["m\u00fcller", "b", "c\u00e9"]


def test_long_lines_are_counted(tmp_path: Path) -> None:
    """A line that is too long for a record costs only itself."""
    path = written(tmp_path, "ids.txt", "a\n" + "x" * (3 << 20) + "\nb\n")
    lines = Lines(path)
    plan = lines.plan(1)
    assert values(lines, plan) == ["a", None, "b"]
    long = items(lines, plan)[1].value
    assert isinstance(long, Unreadable)
    assert str(long) == "(a row that is longer than 1048576 characters)"


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.txt.gz", b"\x1f\x8b\x08", {}, "is compressed, .* decompress it first"),
        ("a.txt", "a\nb\n".encode("utf-16"), {}, "is in utf-16, .* convert it to UTF-8"),
        ("a.txt", "\u4e2d\n".encode("gbk"), {"encoding": "gbk"}, "is in gbk, .* convert it"),
        ("a.txt", b"a\n", {"encoding": "iso2022_jp"}, "is in iso2022_jp, .* convert it"),
        ("a.txt", b"", {}, "is empty"),
        ("a.csv", b"x,y\n1,2\n", {"column": "id"}, 'has no column "id"; found: x, y'),
        ("a.csv", b"id,id\n1,2\n", {"column": "id"}, 'has the column "id" more than once'),
        ("a.csv", b'id\n"a', {"column": "id"}, "has a quote that is not closed"),
    ],
    ids=["gzip", "utf-16", "gbk", "iso2022", "empty", "column", "twice", "quote"],
)
def test_a_file_that_cannot_be_divided_is_rejected(
    tmp_path: Path, name: str, content: bytes, options: dict[str, Any], message: str
) -> None:
    """The message says what is wrong, and what to do."""
    with pytest.raises(InvalidInputError, match=message):
        Lines(written(tmp_path, name, content), **options).plan(10)


@pytest.mark.parametrize("path", ["-", "/dev/null", "missing.txt"])
def test_an_input_that_is_no_file_is_rejected(path: str) -> None:
    """Standard input and devices cannot be read by several workers."""
    with pytest.raises(InvalidInputError, match=r"must be a file|cannot be read"):
        Lines(path, format="text").plan(10)


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("ids", {}, "format is required"),
        ("ids.parquet", {}, "parquet files cannot be divided into parts"),
        ("ids.txt", {"format": "excel"}, "excel files cannot be divided into parts"),
        ("ids.csv", {}, "column is required for a file of CSV"),
        ("ids.csv", {"column": ""}, "column must not be empty"),
    ],
    ids=["format", "parquet", "excel", "column", "no-column"],
)
def test_a_file_needs_its_format(path: str, options: dict[str, Any], message: str) -> None:
    """The format comes from the name or is given, and CSV needs a column."""
    with pytest.raises(ConfigError, match=message):
        Lines(path, **options)


@pytest.mark.parametrize(
    ("options", "field"),
    [({"format": "xml"}, "format"), ({"encoding": "x"}, "encoding")],
    ids=["format", "encoding"],
)
def test_an_unknown_format_is_never_read_as_text(options: dict[str, Any], field: str) -> None:
    """Each line of a file of another format would be an id."""
    with pytest.raises(InvalidInputError, match=f"^{field}: ") as raised:
        Lines("ids.txt", **options)
    assert raised.value.field == field


@pytest.mark.parametrize("position", range(0, 27, 3))
def test_any_changed_byte_is_noticed(tmp_path: Path, position: int) -> None:
    """A byte that changes in the header or in a part is an error, and nothing is returned."""
    data = bytearray(b"id,note\na1,x\nb2,y\nc3,z\nd4,w")
    path = written(tmp_path, "ids.csv", bytes(data))
    lines = Lines(path, column="id")
    plan = lines.plan(2)
    data[position] ^= 1
    path.write_bytes(data)
    changed = []
    for part in plan.parts:
        try:
            lines.read(plan.source, part.source)
        except PartChangedError:
            changed.append(part)
    assert changed


def test_a_file_that_is_gone_is_reported(tmp_path: Path) -> None:
    """A worker without the file says so."""
    path = written(tmp_path, "ids.txt", "a\n")
    lines = Lines(path)
    plan = lines.plan(1)
    path.unlink()
    with pytest.raises(InvalidInputError, match="cannot be read: No such file"):
        lines.read(plan.source, plan.parts[0].source)


def test_rows_that_are_appended_are_not_read(tmp_path: Path) -> None:
    """A file may grow after it was planned."""
    path = written(tmp_path, "ids.txt", "a\nb\n")
    lines = Lines(path)
    plan = lines.plan(10)
    written(tmp_path, "ids.txt", "a\nb\nc\n")
    assert values(lines, plan) == ["a", "b"]


@pytest.mark.parametrize(
    ("added", "is_read"),
    [("", True), ("\nc\n", True), ("\r\nc\n", True), ("2\n", False), (" ", False)],
    ids=["nothing", "line", "CRLF", "rest", "blank"],
)
def test_a_last_line_that_was_not_complete_is_rejected(
    tmp_path: Path, *, added: str, is_read: bool
) -> None:
    """Half an id is another id, so a file that was still being written counts as changed."""
    path = written(tmp_path, "ids.txt", "user_7\nuser_1")
    lines = Lines(path)
    plan = lines.plan(10)
    written(tmp_path, "ids.txt", f"user_7\nuser_1{added}")
    if is_read:
        assert values(lines, plan) == ["user_7", "user_1"]
    else:
        with pytest.raises(PartChangedError, match="has changed since the job was planned"):
            values(lines, plan)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["none", "mark"])
def test_a_named_byte_order_mark_may_be_missing(tmp_path: Path, mark: bytes) -> None:
    """The encoding utf-8-sig reads a file with and without a mark."""
    lines = Lines(written(tmp_path, "ids.txt", mark + b"a\nb\n"), encoding="utf-8-sig")
    assert values(lines, lines.plan(1)) == ["a", "b"]


def test_suspicious_ids_are_found(tmp_path: Path) -> None:
    """A plan counts the ids that look damaged."""
    lines = Lines(written(tmp_path, "ids.txt", "NULL\nb\n"))
    lines.plan(10)
    assert "NULL" in "".join(lines.findings.lines())


def test_a_planned_file_is_divided_once(tmp_path: Path) -> None:
    """The plan of a file is made once, and shows its first and last id."""
    path = written(tmp_path, "ids.txt", "a\nb\nc\n")
    planned = PlannedSource(Lines(path), 2)
    assert (planned.items, planned.ends()) == (3, ("a", "c"))
    assert planned.plan(2) is planned.plan(2)
    with pytest.raises(ConfigError, match="was divided into parts of 2 items"):
        planned.plan(3)
    blank = PlannedSource(Lines(written(tmp_path, "blank.txt", "\n\n")), 2)
    assert (blank.items, blank.ends()) == (0, None)


def test_items_do_not_show_ids(tmp_path: Path) -> None:
    """An id is not in the repr of what holds it."""
    lines = Lines(written(tmp_path, "ids.txt", "anna\n"))
    plan = lines.plan(1)
    assert "anna" not in repr((items(lines, plan), plan))
