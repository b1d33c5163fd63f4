"""Binary spreadsheets that mean something else than they show are found as others are."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from adapty_async._input.rows import Row, open_rows
from adapty_async._input.spreadsheet_scan import SpreadsheetScan
from adapty_async.errors import InvalidInputError
from tests.input.binary_workbooks import (
    compound_file,
    formula,
    narrow,
    number,
    record,
    row_of,
    short_cell,
    short_record,
    short_row,
    short_text,
    text,
    wide,
    workbook,
    write_xls,
    write_xlsb,
)
from tests.input.spreadsheets import damaged, write_parts
from tests.input.tables import rows_of, used

SHORT_USERS = short_row(1, short_text("id")) + short_row(2, short_text("u1"))
USERS = text(0, 0, "id") + text(1, 0, "u1")
PADDED = "is a number that its format shows in another way, such as with leading zeros"
TOTAL = "counts or adds up other cells, so it is no id"
#: The tokens of A2:A9, in the formulas of .xls.
AREA = struct.pack("<B4H", 0x25, 1, 8, 0xC000, 0xC000)


def read(path: Path) -> list[Row]:
    """Read the rows of a spreadsheet."""
    return rows_of(path, "id")


@pytest.mark.parametrize(("height", "flags"), [(300, 0x10), (0, 0)])
def test_a_hidden_row_of_xlsb_is_rejected(tmp_path: Path, height: int, flags: int) -> None:
    """A filter leaves rows in a binary file, too, and they would be sent."""
    hidden = short_row(3, short_text("victim"), height=height, flags=flags)
    path = write_xlsb(tmp_path / "ids.xlsb", SHORT_USERS + hidden)

    with pytest.raises(InvalidInputError, match='sheet "Users": has hidden rows, the first is 3'):
        read(path)


@pytest.mark.parametrize(("height", "flags"), [(300, 0x20), (0, 0)])
def test_a_hidden_row_of_xls_is_rejected(tmp_path: Path, height: int, flags: int) -> None:
    """The same in the older format."""
    hidden = row_of(3, height=height, flags=flags)
    path = write_xls(tmp_path / "ids.xls", row_of(1) + USERS + hidden + text(2, 0, "victim"))

    with pytest.raises(InvalidInputError, match='sheet "Users": has hidden rows, the first is 3'):
        read(path)


def test_merged_cells_of_xlsb_are_rejected(tmp_path: Path) -> None:
    """Only the first of them has a value."""
    merged = short_record(176, struct.pack("<4I", 1, 2, 0, 1))
    path = write_xlsb(tmp_path / "ids.xlsb", SHORT_USERS, behind=merged * 2)

    with pytest.raises(InvalidInputError, match=r"has merged cells \(A2:B3\): unmerge them"):
        read(path)


def _number_of_xlsb(kind: int, row: int, style: int, value: float) -> bytes:
    content = struct.pack("<I", int(value) << 2 | 2) if kind == 2 else struct.pack("<d", value)
    if kind == 9:
        content += struct.pack("<HI5s", 0, 5, b"\x24\1\0\0\0")
    return short_row(row, short_cell(kind, content, style=style))


@pytest.mark.parametrize("kind", [2, 5, 9])
def test_a_number_of_xlsb_with_leading_zeros_is_no_id(tmp_path: Path, kind: int) -> None:
    """People see 00045, and the file has 45; only numbers with that format are affected."""
    rows = short_row(1, short_text("id")) + b"".join(
        _number_of_xlsb(kind, row, style, value)
        for row, style, value in [(2, 1, 45), (3, 0, 46), (4, 1, 100045), (5, 2, 47), (6, 9, 48)]
    )
    path = write_xlsb(tmp_path / "ids.xlsb", rows, formats=["00000", '0 "U"'])
    padded, *others, lettered, last = read(path)

    assert PADDED in str(padded.broken)
    assert PADDED in str(lettered.broken)
    assert [*others, last] == [
        Row(3, {"id": "46"}), Row(4, {"id": "100045"}), Row(6, {"id": "48"})
    ]  # fmt: skip
    assert len(read(write_xlsb(path, rows))) == 5


@pytest.mark.parametrize("form", [narrow, wide])
def test_a_number_of_xls_with_leading_zeros_is_no_id(
    tmp_path: Path, form: Callable[[str], bytes]
) -> None:
    """The same in the older format, whose numbers have several forms."""
    values = [struct.pack("<HI", style, value << 2 | 2) for style, value in [(1, 45), (0, 46)]]
    many = record(0xBD, struct.pack("<HH", 1, 0) + b"".join(values) + struct.pack("<H", 1))
    one = record(0x27E, struct.pack("<3HI", 3, 0, 1, 48 << 2 | 2))
    result = formula(4, 0, struct.pack("<d", 49), b"\x24\1\0\0\xc0")
    rows = text(0, 0, "id") + text(0, 1, "x") + many + number(2, 0, 47) + one + result
    path = write_xls(tmp_path / "ids.xls", rows + number(5, 0, 100045, 1), [form("00000")])
    first, plain, other, *last = read(path)

    assert PADDED in str(first.broken)
    assert PADDED in str(other.broken)
    assert [plain, *last] == [
        Row(3, {"id": "47"}), Row(5, {"id": "49"}), Row(6, {"id": "100045"})
    ]  # fmt: skip
    assert rows_of(path, "x")[0] == Row(2, {"x": "46"})


@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param(AREA + b"\x19\x10\0\0", id="sum"),
        pytest.param(AREA + b"\x42\1\5\0", id="average"),
        pytest.param(AREA + b"\x42\1\5\0\x15", id="in-brackets"),
        pytest.param(AREA + b"\x1e\7\0\x41\x5a\1", id="countif"),
    ],
)
def test_a_total_of_a_binary_sheet_is_no_id(tmp_path: Path, tokens: bytes) -> None:
    """The number below a list of ids would be another user."""
    total = formula(2, 0, struct.pack("<d", 2), tokens)
    cell = short_cell(9, struct.pack("<dHI", 2, 0, len(tokens)) + tokens)
    old = read(write_xls(tmp_path / "ids.xls", USERS + total))
    new = read(write_xlsb(tmp_path / "ids.xlsb", SHORT_USERS + short_row(3, cell)))

    assert old[0] == new[0] == Row(2, {"id": "u1"})
    assert TOTAL in str(old[1].broken)
    assert TOTAL in str(new[1].broken)


@pytest.mark.parametrize("tokens", [b"", AREA + b"\x19\1\0\0", b"\x1e\7\0"])
def test_the_result_of_another_formula_of_a_binary_sheet_is_an_id(
    tmp_path: Path, tokens: bytes
) -> None:
    """A formula that does not count or add up has an id as its result."""
    found = formula(2, 0, struct.pack("<d", 100045), tokens)

    assert read(write_xls(tmp_path / "ids.xls", USERS + found))[1] == Row(3, {"id": "100045"})


def test_errors_of_a_binary_sheet_cost_their_rows(tmp_path: Path) -> None:
    """A cell with an error is not an empty one; flags and text are no errors."""
    error = record(0x205, struct.pack("<3HBB", 2, 0, 0, 42, 1))
    flag = record(0x205, struct.pack("<3HBB", 3, 1, 0, 1, 0))
    failed = formula(4, 0, b"\2\0\x2a\0\0\0\xff\xff", b"\x1c\x2a")
    shown = formula(5, 1, b"\1\0\1\0\0\0\xff\xff", b"\x1d\1")
    rows = text(0, 1, "x") + error + text(3, 0, "u2") + flag + failed + text(5, 0, "u3") + shown
    old = read(write_xls(tmp_path / "ids.xls", USERS + rows))
    cells = (
        short_row(3, short_cell(3, b"\x2a"))
        + short_row(4, short_text("u2"), short_cell(4, b"\1", 1), short_cell(1, b"", 2))
        + short_row(5, short_cell(11, struct.pack("<BHI2s", 42, 0, 2, b"\x1c\x2a")))
        + short_row(6, short_text("u3"))
    )
    new = read(write_xlsb(tmp_path / "ids.xlsb", SHORT_USERS + cells))

    for found in (old, new):
        assert [row.value for row in found[::2]] == [{"id": "u1"}, {"id": "u2"}, {"id": "u3"}]
        assert all("has a formula error" in str(row.broken) for row in found[1::2])


@pytest.mark.parametrize("kind", [17, 62])
def test_a_cell_of_xlsb_that_cannot_be_read_is_rejected(tmp_path: Path, kind: int) -> None:
    """Its reader leaves such cells out, so that their rows would have no id."""
    path = write_xlsb(tmp_path / "ids.xlsb", SHORT_USERS + short_record(kind))

    with pytest.raises(InvalidInputError, match="has cells that cannot be read"):
        read(path)


def test_a_cell_of_xlsb_far_away_is_rejected(tmp_path: Path) -> None:
    """It would take the memory of all cells up to it."""
    path = write_xlsb(
        tmp_path / "ids.xlsb", SHORT_USERS + short_row(1_000_000, short_text("u", 99))
    )

    with pytest.raises(InvalidInputError, match="has more than 50,000,000 cells up to CV1000000"):
        read(path)


@pytest.mark.parametrize("tables", [1, 110])
def test_a_large_workbook_of_xls_is_read(tmp_path: Path, tables: int) -> None:
    """The list of its sectors has sectors of its own; a chart is no part of the rows around it."""
    chart = record(0x809, struct.pack("<HH12x", 0x600, 32)) + row_of(9, flags=0x20) + record(0x0A)
    rows = b"".join(text(row, 0, f"user_{row}") for row in range(1, 500))
    path = write_xls(
        tmp_path / "ids.xls", USERS[: len(text(0, 0, "id"))] + chart + rows, tables=tables
    )

    assert [row.value["id"] for row in read(path)] == [f"user_{row}" for row in range(1, 500)]


@pytest.mark.parametrize("rows", [0, 500])
def test_joined_workbooks_of_xls_are_rejected(tmp_path: Path, rows: int) -> None:
    """Only the rows of the first one would be sent."""
    users = USERS + b"".join(text(row, 0, f"user_{row}") for row in range(2, rows))
    path = write_xls(tmp_path / "ids.xls", users)
    path.write_bytes(path.read_bytes() * 2)

    with pytest.raises(InvalidInputError, match="consists of several files that were joined"):
        read(path)


def test_the_numbers_of_a_chart_of_xls_are_no_cells(tmp_path: Path) -> None:
    """A chart has a copy of its numbers, in rows and columns of its own."""
    begin = record(0x809, struct.pack("<HH12x", 0x600, 32))
    chart = begin + number(1, 0, 45) + record(0x0A)

    assert read(write_xls(tmp_path / "ids.xls", USERS + chart)) == [Row(2, {"id": "u1"})]


def test_an_archive_in_a_workbook_of_xls_is_part_of_it(tmp_path: Path) -> None:
    """Excel stores the colours of a workbook like that; the file is no archive."""
    colours = write_parts(tmp_path / "colours.zip", {"theme/theme1.xml": b"<theme/>"})
    path = write_xls(tmp_path / "ids.xls", USERS + record(0x896, colours.read_bytes()))

    assert read(path) == [Row(2, {"id": "u1"})]


def test_a_workbook_of_xls_with_another_one_behind_it_is_rejected(tmp_path: Path) -> None:
    """The same holds if the other one is of another format."""
    path = write_xls(tmp_path / "ids.xls", USERS)
    other = write_xlsb(tmp_path / "ids.xlsb", SHORT_USERS)
    path.write_bytes(path.read_bytes() + other.read_bytes())

    with pytest.raises(InvalidInputError, match="consists of several files that were joined"):
        read(path)


def test_a_workbook_of_excel_5_is_scanned(tmp_path: Path) -> None:
    """Its text has one byte for each letter, and no flag before it."""
    book = (
        record(0x809, struct.pack("<HH4x", 0x500, 5))
        + record(0x41E, struct.pack("<HB", 170, 5) + b"00000")
        + record(0xE0, struct.pack("<HH12x", 0, 0))
        + record(0xE0, struct.pack("<HH12x", 0, 170))
    )
    entry = struct.pack("<IBBB", len(book) + 20, 0, 0, 5) + b"Users"
    cells = record(0x204, struct.pack("<4H", 0, 0, 0, 2) + b"id") + number(1, 0, 45, 1)
    book += record(0x85, entry) + record(0x0A)
    book += record(0x809, struct.pack("<HH4x", 0x500, 16)) + cells + record(0x0A)
    path = tmp_path / "ids.xls"
    path.write_bytes(compound_file("Book", book))

    assert PADDED in str(read(path)[0].broken)


def test_a_sheet_of_a_binary_workbook_has_to_be_certain(tmp_path: Path) -> None:
    """The scan and the reader of the rows could mean different sheets with one name."""
    path = tmp_path / "ids.xls"
    book = workbook({"Users": USERS, "Other": USERS}).replace(b"Other", b"Users")
    path.write_bytes(compound_file("Workbook", book))
    other = write_xlsb(tmp_path / "ids.xlsb", SHORT_USERS, copies=2)

    for found in (path, other):
        with pytest.raises(InvalidInputError, match="cannot be checked for hidden rows"):
            list(open_rows(str(found), None, used("id"), sheet="Users"))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({44: 1 << 31}, id="tables"),
        pytest.param({48: 99}, id="directory"),
        pytest.param({64: 1 << 20}, id="small-sectors"),
        pytest.param({68: 0, 512 + 4 * 127: 0}, id="tables-without-end"),
        pytest.param({512 + 4 * 3: 3}, id="chain-without-end"),
    ],
)
def test_a_damaged_compound_file_is_rejected(tmp_path: Path, changes: Mapping[int, int]) -> None:
    """A size that is not true, or a chain without an end, takes neither memory nor time."""
    content = bytearray(compound_file("Workbook", workbook({"Users": USERS}).ljust(9 * 512, b"\0")))
    for offset, value in changes.items():
        content[offset : offset + 4] = struct.pack("<I", value)
    path = tmp_path / "ids.xls"
    path.write_bytes(content)

    with pytest.raises(InvalidInputError, match="is not a spreadsheet, or is damaged"):
        SpreadsheetScan(str(path))


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(number(1, 256, 1.0), id="cell"),
        pytest.param(record(0x200, struct.pack("<2I3H", 0, 1 << 31, 0, 9, 0)), id="rows"),
        pytest.param(record(0x200, struct.pack("<5H", 0, 9, 0, 9999, 0)), id="columns"),
        pytest.param(record(0x200, struct.pack("<2I3H", 7, 6, 0, 9, 0)), id="less-than-none"),
    ],
)
def test_a_cell_of_xls_outside_of_a_sheet_is_rejected(tmp_path: Path, cell: bytes) -> None:
    """The reader of the rows would take the memory of all cells up to it, or end the process."""
    path = write_xls(tmp_path / "ids.xls", USERS + cell)

    with pytest.raises(InvalidInputError, match="is damaged: it has a cell outside of a sheet"):
        SpreadsheetScan(str(path))


def test_a_size_of_another_length_is_rejected(tmp_path: Path) -> None:
    """Its reader could find another number in it."""
    path = write_xls(tmp_path / "ids.xls", USERS + record(0x200, bytes(16)))

    with pytest.raises(InvalidInputError, match="is not a spreadsheet, or is damaged"):
        SpreadsheetScan(str(path))


def test_the_size_of_a_sheet_of_xls_may_be_declared(tmp_path: Path) -> None:
    """That of an empty sheet is zero."""
    size = record(0x200, struct.pack("<2I3H", 0, 2, 0, 1, 0))

    assert read(write_xls(tmp_path / "ids.xls", size + USERS)) == [Row(2, {"id": "u1"})]


def test_a_workbook_of_xls_with_a_password_is_left_to_its_reader(tmp_path: Path) -> None:
    """What is behind the mark of a password cannot be read."""
    book = workbook({"Users": USERS})
    path = tmp_path / "ids.xls"
    path.write_bytes(compound_file("Workbook", book[:20] + record(0x2F, b"\1\0") + book[20:]))

    with pytest.raises(InvalidInputError, match="is protected by a password"):
        read(path)


def test_a_long_record_of_xlsb_is_rejected(tmp_path: Path) -> None:
    """A length that is not true takes no memory."""
    path = write_xlsb(tmp_path / "ids.xlsb", SHORT_USERS + b"\x06\xff\xff\xff\xff")

    with pytest.raises(InvalidInputError, match="is not a spreadsheet, or is damaged"):
        read(path)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("suffix", ["xls", "xlsb"])
def test_a_damaged_binary_file_is_read_or_rejected(tmp_path: Path, suffix: str, seed: int) -> None:
    """Changed bytes never raise another error."""
    path = tmp_path / f"ids.{suffix}"
    write = write_xls if suffix == "xls" else write_xlsb
    write(path, USERS if suffix == "xls" else SHORT_USERS)
    whole, random_ = path.read_bytes(), random.Random(seed)
    for _ in range(50):
        path.write_bytes(damaged(whole, random_))
        with contextlib.suppress(InvalidInputError):
            list(open_rows(str(path), None, used("id"), id_column="id"))
