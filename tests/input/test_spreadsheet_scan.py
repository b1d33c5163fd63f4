"""Spreadsheets that mean something else than they show, or would stop the program, are found."""

from __future__ import annotations

import contextlib
import io
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapty_async._input.cells import FaultyCell
from adapty_async._input.layout import Row
from adapty_async._input.rows import open_rows
from adapty_async._input.sheet_findings import UnreadableSheetError, column_letters
from adapty_async._input.sheet_xml import SheetReader, read_xml
from adapty_async._input.spreadsheet_scan import SpreadsheetScan
from adapty_async.errors import InvalidInputError
from tests.input.spreadsheets import (
    BOOK,
    RELATIONS,
    SHEET,
    damaged,
    odf_cell,
    odf_row,
    odf_table,
    parts_of,
    rewrite,
    text_cell,
    text_row,
    write_odf,
    write_parts,
    write_sheet,
)
from tests.input.tables import rows_of, used

HEADER = text_row(1, "id")
USER = HEADER + text_row(2, "u1")
HIDDEN = USER + text_row(3, "victim", 'hidden="1"')
ODF_HEADER = odf_row(odf_cell("<text:p>id</text:p>"))
ODF_USER = odf_row(odf_cell("<text:p>u1</text:p>"))
NAMESPACES = (
    (b"http://schemas.openxmlformats.org/spreadsheetml/2006/main", b"spreadsheetml/main"),
    (
        b"http://schemas.openxmlformats.org/officeDocument/2006/relationships",
        b"officeDocument/relationships",
    ),
)


def read(path: Path) -> list[Row]:
    """Read the rows of a spreadsheet."""
    return rows_of(path, "id")


@pytest.mark.parametrize(
    "attributes",
    [
        'hidden="1"',
        "hidden = 'true'",
        'hidden="&#49;"',
        'spans="&gt;" x=">" hidden="1"',
        'ht="0" customHeight="1"',
        'ht="0.0"',
    ],
)
def test_hidden_rows_are_rejected(tmp_path: Path, attributes: str) -> None:
    """A row counts as hidden however the file says it."""
    path = write_sheet(tmp_path / "ids.xlsx", USER + text_row(3, "victim", attributes))

    with pytest.raises(InvalidInputError, match='sheet "Users": has hidden rows, the first is 3'):
        read(path)


@pytest.mark.parametrize("attributes", ['hidden="0"', 'hidden="false"', 'ht="15"'])
def test_visible_rows_are_read(tmp_path: Path, attributes: str) -> None:
    """Attributes with the usual values do not hide a row."""
    begin = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
    path = write_sheet(tmp_path / "ids.xlsx", HEADER + text_row(2, "u1", attributes), begin=begin)

    assert read(path) == [Row(2, {"id": "u1"})]


def test_rows_and_cells_need_no_number(tmp_path: Path) -> None:
    """What has no number follows what is before it, with or without a prefix of its name."""
    cell = '<c t="inlineStr"><is><t>id</t></is></c>'
    rows = f"<row>{cell}</row>" * 2 + f'<x:row xmlns:x="u">{cell}</x:row><row hidden="1"/>'
    path = write_sheet(tmp_path / "ids.xlsx", rows)

    with pytest.raises(InvalidInputError, match="has hidden rows, the first is 4"):
        read(path)


def test_only_the_rows_of_a_sheet_count(tmp_path: Path) -> None:
    """Elements behind the rows, such as those of a drawing, are no rows."""
    path = write_sheet(tmp_path / "ids.xlsx", USER)
    end = b'</sheetData><sheetData/><row hidden="1"/><f/>'
    rewrite(path, SHEET, lambda content: content.replace(b"</sheetData>", end))

    assert read(path) == [Row(2, {"id": "u1"})]


def _strict(name: str, content: bytes) -> tuple[str, bytes]:
    for transitional, strict in NAMESPACES:
        content = content.replace(transitional, b"http://purl.oclc.org/ooxml/" + strict)
    return name, content


def _absolute(name: str, content: bytes) -> tuple[str, bytes]:
    return name, content.replace(b'Target="worksheets/', b'Target="/xl/worksheets/')


def _utf16(name: str, content: bytes) -> tuple[str, bytes]:
    return name, content.decode().encode("utf-16") if name == SHEET else content


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_strict, id="strict"),
        pytest.param(_absolute, id="absolute"),
        pytest.param(_utf16, id="utf-16"),
        pytest.param(lambda name, content: (name.replace("/w", "/W"), content), id="case"),
        pytest.param(lambda name, content: (name.replace("/", "\\"), content), id="backslash"),
    ],
)
def test_a_sheet_is_found_like_the_reader_of_its_rows_finds_it(
    tmp_path: Path, change: Callable[[str, bytes], tuple[str, bytes]]
) -> None:
    """Whatever form of a file is read, its hidden rows are found; old readers read fewer forms."""
    path = write_sheet(tmp_path / "ids.xlsx", HIDDEN)
    write_parts(path, dict(change(*part) for part in parts_of(path).items()))

    found = "has hidden rows, the first is 3|is not a spreadsheet, or is damaged"
    with pytest.raises(InvalidInputError, match=found):
        read(path)


@pytest.mark.parametrize(
    ("part", "change", "reason"),
    [
        pytest.param(RELATIONS, lambda _: None, "cannot be checked", id="no-relations"),
        pytest.param(SHEET, lambda _: None, "cannot be checked for hidden rows", id="no-sheet"),
        pytest.param(
            BOOK, lambda one: one.replace(b"r:id", b"r:di"), "cannot be checked", id="no-id"
        ),
        pytest.param(
            BOOK, lambda one: one.replace(b"r:id", b'id="x" r:id'), "cannot", id="two-ids"
        ),
        pytest.param(BOOK, lambda one: one[:-5], "is damaged", id="no-end"),
        pytest.param(BOOK, lambda _: None, "is damaged", id="no-book"),
        pytest.param(
            SHEET,
            lambda one: b'<?xml version="1.0" encoding="cp037"?>' + one,
            "has an encoding other than UTF-8",
            id="encoding",
        ),
        pytest.param(
            SHEET,
            lambda one: b'<!DOCTYPE a [<!ENTITY b "c">]>' + one,
            "has a document type",
            id="entities",
        ),
        pytest.param(
            SHEET, lambda one: one.replace(b"<row", b'<row ht="x"'), "is damaged", id="height"
        ),
        pytest.param(
            SHEET, lambda one: one.replace(b'"A2"', b'"2A"'), "without a position", id="reference"
        ),
        pytest.param(
            SHEET, lambda one: one.replace(b'r="2"', b'r="b"'), "is not a number", id="row"
        ),
        pytest.param(
            SHEET, lambda one: one.replace(b'"A2"', b'"A1"'), "are not in order", id="order"
        ),
        pytest.param(
            SHEET, lambda one: one.replace(b'"A2"', b'"A9999999"'), "outside of a sheet", id="far"
        ),
    ],
)
def test_a_sheet_that_cannot_be_checked_is_rejected(
    tmp_path: Path, part: str, change: Callable[[bytes], bytes | None], reason: str
) -> None:
    """If it is not certain that the rows are those that people see, none is sent."""
    path = write_sheet(tmp_path / "ids.xlsx", USER)
    rewrite(path, part, change)

    with pytest.raises(InvalidInputError, match=f"^{re.escape(str(path))}.*{reason}"):
        SpreadsheetScan(str(path)).sheet("Users")


def test_two_parts_with_one_name_are_rejected(tmp_path: Path) -> None:
    """A reader that ignores the case of names could read the other part."""
    path = write_sheet(tmp_path / "ids.xlsx", USER)
    parts = parts_of(path)
    write_parts(path, parts | {SHEET.upper(): parts[SHEET]})

    with pytest.raises(InvalidInputError, match="two parts with one name"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        pytest.param("ids.xlsx", b"id\nu1\n", "is not a spreadsheet", id="text"),
        pytest.param("ids.xls", b"<table><tr><td>id", "save it as .xlsx or CSV", id="html"),
        # the one begins like the other
        pytest.param("ids.xls", bytes.fromhex("D0CF11E0A1B11AE1"), "is an .xls", id="xls"),
        pytest.param(
            "ids.xlsx", bytes.fromhex("D0CF11E0A1B11AE1"), "by a password", id="protected"
        ),
    ],
)
def test_a_file_that_is_no_archive_is_rejected(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    """A file that is no spreadsheet, an .xls and a protected .xlsx are rejected with a remedy."""
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(InvalidInputError, match=reason):
        read(path)


def test_an_xlsb_is_rejected(tmp_path: Path) -> None:
    """Its hidden rows would be sent, since nothing reads where they are."""
    path = write_sheet(tmp_path / "ids.xlsb", USER)
    parts = parts_of(path)
    write_parts(path, {"xl/workbook.bin": b"", **parts})

    with pytest.raises(InvalidInputError, match=r"is an \.xlsb, which cannot be checked"):
        read(path)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        pytest.param('<c r="A3" t="e"><v>#N/A</v></c>', "has a formula error", id="error"),
        pytest.param('<c r="A3" t="e"><f>x</f><v>#REF!</v></c>', "has a formula error", id="ref"),
        pytest.param('<c r="A3"><f>1+1</f><v></v></c>', "was never calculated", id="openpyxl"),
        pytest.param('<c r="A3"><f>1+1</f><v> </v></c>', "was never calculated", id="blank"),
        pytest.param('<c r="A3" t="str"><f>1+1</f></c>', "was never calculated", id="no-value"),
        pytest.param('<c r="A3"><v>7</v><f>1</f></c>', "was never calculated", id="value-first"),
        pytest.param('<c r="A3" t="str"><v>u<![CDATA[1]]></v></c>', "not plain", id="cdata"),
        pytest.param('<c r="A3"><v>1<!-- 2 -->3</v></c>', "not plain text", id="comment"),
        pytest.param('<c r="A3"><v>1<?a b?>3</v></c>', "not plain text", id="instruction"),
    ],
)
@pytest.mark.parametrize("rest", ["", text_row(4, "u2")], ids=["last", "between"])
def test_a_cell_without_its_value_costs_its_row(
    tmp_path: Path, cell: str, reason: str, rest: str
) -> None:
    """A row does not vanish because its id has an error, or was never calculated."""
    path = write_sheet(tmp_path / "ids.xlsx", f'{USER}<row r="3">{cell}</row>{rest}')
    rows = read(path)

    assert [row.line for row in rows] == [2, 3, 4][: len(rows)]
    assert re.search(f'sheet "Users": the cell in column "id" .*{reason}', str(rows[1].broken))
    assert [row.broken for row in rows[2:]] == [None] * rest.count("u2")


def test_cdata_is_read_where_it_is_read_whole(tmp_path: Path) -> None:
    """Text in the cell itself may have CDATA, and anything may have a comment next to its value."""
    rows = (
        f'{HEADER}<row r="2"><c r="A2" t="inlineStr"><is><t>a<![CDATA[<1]]>b</t></is></c></row>'
        '<row r="3"><!-- x --><c r="A3" t="str"><!-- x --><v>u2</v></c></row>'
    )

    assert read(write_sheet(tmp_path / "ids.xlsx", rows)) == [
        Row(2, {"id": "a<1b"}),
        Row(3, {"id": "u2"}),
    ]


def test_a_result_of_a_formula_is_an_id(tmp_path: Path) -> None:
    """A calculated formula is its result; empty text, as in Excel, is an empty cell."""
    rows = (
        f'{HEADER}<row r="2"><c r="A2"><f>1+1</f><v>2</v></c></row>'
        '<row r="3"><c r="A3" t="str"><f>A9</f><v></v></c></row>'
        '<row r="4"><c r="A4" t="str"><f>A9</f><v>u4</v></c><c r="B4" s="0"/></row>'
    )

    assert read(write_sheet(tmp_path / "ids.xlsx", rows)) == [
        Row(2, {"id": "2"}),
        Row(4, {"id": "u4"}),
    ]


TOTALS = [
    pytest.param("COUNTA(A2:A4)", "of:=COUNTA([.A2:.A4])", id="count"),
    pytest.param("(SUM($A$2:$A$4)-1)", "of:=(SUM([.$A$2:.$A$4])-1)", id="sum"),
    pytest.param("SUBTOTAL(103,Table1[id])", "of:=SUBTOTAL(103;[.A2:.A4])", id="table"),
    pytest.param(" rows('My users'!a2:a4)", "of:=ROWS([$'My users'.A2:.A4])", id="other-sheet"),
    pytest.param("COUNTA(Table1[id])", "of:=AGGREGATE(3;0;[.A2:.A4])", id="column-of-a-table"),
]
NO_TOTALS = [
    pytest.param("B2", "of:=[.B2]", id="reference"),
    pytest.param("SUM(B5:C5)", "of:=SUM([.B5:.C5])", id="of-its-row"),
    pytest.param("SUM(T[[#This Row],[b]:[c]])", "of:=SUM([.B5;.C5])", id="of-its-row-in-a-table"),
    pytest.param("VLOOKUP(C2,D2:E9,2)", "of:=VLOOKUP([.C2];[.D2:.E9];2)", id="lookup"),
    pytest.param("INDEX(Ids[id],COUNTA(A2:A4))", "of:=INDEX([.A2:.A9];1)", id="inside"),
]


@pytest.mark.parametrize(("excel", "odf"), TOTALS)
def test_a_total_below_the_ids_is_no_id(tmp_path: Path, excel: str, odf: str) -> None:
    """The number of the users, or the sum of their ids, is the id of somebody else."""
    rows = f'{USER}<row r="3"><c r="A3"><f>{excel}</f><v>57</v></c></row>'
    of_excel = read(write_sheet(tmp_path / "ids.xlsx", rows))
    total = f'<table:table-cell office:value-type="float" office:value="57" table:formula="{odf}"/>'
    of_odf = read(
        write_odf(tmp_path / "ids.ods", odf_table(ODF_HEADER + ODF_USER + odf_row(total)))
    )

    for first, last in (of_excel, of_odf):
        assert first == Row(2, {"id": "u1"})
        assert (last.line, last.value) == (3, '{"id":"57.0"}')
        assert "has a formula that counts or adds up other cells, so it is no id" in str(
            last.broken
        )


def test_a_fault_is_that_of_its_cell(tmp_path: Path) -> None:
    """A cell without a position stands next to the one before it, and a row may stand for some."""
    names = '<row r="1"><c r="B1" t="str"><v>name</v></c><c t="str"><v>id</v></c></row>'
    error = '<row r="2"><c r="B2" t="str"><v>Jane</v></c><c t="e"><v>#N/A</v></c></row>'
    [row] = read(write_sheet(tmp_path / "ids.xlsx", names + error))
    assert 'the cell in column "id" has a formula error' in str(row.broken)

    users = odf_row(odf_cell("<text:p>u1</text:p>"), 'table:number-rows-repeated="2"')
    broken = odf_row(odf_cell("", 'calcext:value-type="error"'))
    table = odf_table(ODF_HEADER + users + broken + ODF_USER)
    *before, row, after = read(write_odf(tmp_path / "ids.ods", table))
    assert [*before, after] == [Row(line, {"id": "u1"}) for line in (2, 3, 5)]
    assert (row.line, "has a formula error" in str(row.broken)) == (4, True)


@pytest.mark.parametrize(("excel", "odf"), NO_TOTALS)
def test_the_result_of_another_formula_is_an_id(tmp_path: Path, excel: str, odf: str) -> None:
    """A formula that looks an id up, or makes it of its own row, is read as its result."""
    rows = f'{USER}<row r="3"><c r="A3"><f>{excel}</f><v>57</v></c></row>'
    found = f'<table:table-cell office:value-type="float" office:value="57" table:formula="{odf}"/>'
    table = odf_table(ODF_HEADER + ODF_USER + odf_row(found))

    assert read(write_sheet(tmp_path / "ids.xlsx", rows))[1] == Row(3, {"id": "57"})
    assert read(write_odf(tmp_path / "ids.ods", table))[1] == Row(3, {"id": "57"})


def test_totals_that_share_a_formula_are_no_ids(tmp_path: Path) -> None:
    """A total that was dragged to the right has its formula in the first cell only."""
    rows = (
        f'<row r="1">{text_cell("A1", "x")}{text_cell("B1", "id")}</row>'
        '<row r="2"><c r="A2"><f t="shared" ref="A2:B2" si="0">COUNTA(A3:A9)</f><v>7</v></c>'
        '<c r="B2"><f t="shared" si="0"/><v>7</v></c></row>'
        '<row r="3"><c r="B3"><f t="shared" ref="B3:B4" si="1">C3</f><v>8</v></c></row>'
        '<row r="4"><c r="B4"><f t="shared" si="1"/><v>9</v></c></row>'
    )
    total, *others = read(write_sheet(tmp_path / "ids.xlsx", rows))

    assert "so it is no id" in str(total.broken)
    assert others == [Row(3, {"id": "8"}), Row(4, {"id": "9"})]


def _with_format(code: str) -> Callable[[bytes], bytes]:
    formats = f'<numFmts count="1"><numFmt numFmtId="170" formatCode="{code}"/></numFmts>'.encode()
    style = b'<xf numFmtId="170" applyNumberFormat="1"/></cellXfs>'

    def change(styles: bytes) -> bytes:
        styles = re.sub(rb"<numFmts[^>]*/>", b"", styles)
        return styles.replace(b"<fonts", formats + b"<fonts", 1).replace(b"</cellXfs>", style)

    return change


@pytest.mark.parametrize(
    ("code", "is_padded"),
    [
        pytest.param("00000", True, id="zeros"),
        pytest.param("[&lt;=99999]000-00;General", True, id="with-dashes"),
        pytest.param("[&gt;=100]0;00000", True, id="section"),
        pytest.param("0##", True, id="places-behind-zero"),
        pytest.param("[Red]0;-000;&quot;none&quot;", False, id="other-sections"),
        pytest.param("&quot;;&quot;0", False, id="semicolon"),
        pytest.param("0", False, id="plain"),
        pytest.param("#,##0.00", False, id="fraction"),
        pytest.param("&quot;&#8364; &quot;0", False, id="sign"),
        pytest.param("00.00E+00", False, id="exponent"),
    ],
)
def test_a_number_that_is_shown_with_leading_zeros_is_no_id(
    tmp_path: Path, code: str, *, is_padded: bool
) -> None:
    """People see 00045 and mean that user, and the file has 45, who is another one."""
    cell = '<row r="{0}"><c r="A{0}" s="1"><v>{1}</v></c></row>'
    as_text = '<row r="4"><c r="A4" s="1" t="inlineStr"><is><t>00045</t></is></c></row>'
    rows = f"{HEADER}{cell.format(2, 45)}{cell.format(3, 100045)}{as_text}"
    path = write_sheet(tmp_path / "ids.xlsx", rows)
    first, *others = read(rewrite(path, "xl/styles.xml", _with_format(code)))

    assert ("such as with leading zeros" in str(first.broken)) == is_padded
    assert is_padded or first == Row(2, {"id": "45"})
    assert others == [Row(3, {"id": "100045"}), Row(4, {"id": "00045"})]


@pytest.mark.parametrize(
    "code",
    ["&quot;U&quot;0", "\\U0", "0%", "#,##0,", "yyyy\\-mm", pytest.param("[" * 10**6, id="long")],
)
def test_a_number_that_is_shown_with_letters_is_no_id(tmp_path: Path, code: str) -> None:
    """People see U100045, and the file has 100045; a percentage and others are no ids either."""
    rows = f'{USER}<row r="3"><c r="A3" s="1"><v>3000045</v></c></row>'
    path = write_sheet(tmp_path / "ids.xlsx", rows)
    _, last = read(rewrite(path, "xl/styles.xml", _with_format(code)))

    assert "is a number that its format shows in another way" in str(last.broken)


def test_a_cell_without_a_style_has_the_first_one(tmp_path: Path) -> None:
    """The format of the style "Normal" is that of each cell that names none."""
    path = write_sheet(tmp_path / "ids.xlsx", f'{USER}<row r="3"><c r="A3"><v>45</v></c></row>')

    def change(styles: bytes) -> bytes:
        return re.sub(
            rb'(<cellXfs[^>]*><xf numFmtId=)"0"', rb'\1"170"', _with_format("00000")(styles)
        )

    _, last = read(rewrite(path, "xl/styles.xml", change))

    assert "such as with leading zeros" in str(last.broken)


@pytest.mark.parametrize("number", ["9", "10"])
def test_a_percentage_of_the_button_of_excel_is_no_id(tmp_path: Path, number: str) -> None:
    """People see 4500%: the formats 0% and 0.00% have numbers that everybody knows, and no code."""
    rows = f'{USER}<row r="3"><c r="A3" s="1"><v>45</v></c></row>'
    path = write_sheet(tmp_path / "ids.xlsx", rows)
    style = f'<xf numFmtId="{number}"/></cellXfs>'.encode()
    _, last = read(rewrite(path, "xl/styles.xml", lambda part: part.replace(b"</cellXfs>", style)))

    assert "is a number that its format shows in another way" in str(last.broken)


def test_the_format_of_one_number_is_not_that_of_the_others(tmp_path: Path) -> None:
    """The numbers of a column that are shown as they are stay ids, whatever stands below them."""
    shown = '<row r="{0}"><c r="A{0}" s="1"><v>{1}</v></c></row>'
    plain = '<row r="{0}"><c r="A{0}"><v>{1}</v></c></row>'
    total = '<row r="6"><c r="A6" s="1"><f>COUNT(A2:A5)</f><v>4</v></c></row>'
    rows = f"{plain.format(2, 45)}{shown.format(3, 46)}{plain.format(5, 47)}{total}"
    path = write_sheet(tmp_path / "ids.xlsx", HEADER + rows)
    first, padded, last, below = read(
        rewrite(path, "xl/styles.xml", _with_format("0 &quot;U&quot;"))
    )

    assert (first, last) == (Row(2, {"id": "45"}), Row(5, {"id": "47"}))
    assert "is a number that its format shows in another way" in str(padded.broken)
    assert "counts or adds up other cells, so it is no id" in str(below.broken)


def test_a_field_may_be_shown_with_leading_zeros(tmp_path: Path) -> None:
    """Only an id is another one without its zeros; styles may be missing."""
    rows = f'{HEADER}<row r="2">{text_cell("A2", "u1")}<c r="B2" s="1"><v>45</v></c></row>'
    path = write_sheet(
        tmp_path / "ids.xlsx", rows.replace("</row>", text_cell("B1", "x") + "</row>", 1)
    )
    rewrite(path, "xl/styles.xml", _with_format("00000"))

    assert rows_of(path, "id", "x") == [Row(2, {"id": "u1", "x": "45"})]
    assert rows_of(rewrite(path, "xl/styles.xml", lambda _: None), "id", "x")[0].broken is None


def test_a_total_is_a_field_and_a_name(tmp_path: Path) -> None:
    """Only an id cannot be a total: a price may be a sum, and a count may be among the names."""
    total = '<c r="{}"><f>SUM(C2:D9)</f><v>5</v></c>'
    path = write_sheet(
        tmp_path / "ids.xlsx",
        f'<row r="1">{text_cell("A1", "id")}{total.format("B1")}</row>'
        f'<row r="2">{text_cell("A2", "u1")}{total.format("B2")}</row>',
    )

    options: Any = {"id_column": "id", "is_number": lambda name: name == "5"}
    assert list(open_rows(str(path), None, used("id", "5"), **options)) == [
        Row(2, {"id": "u1", "5": 5.0})
    ]


def test_an_error_elsewhere_costs_nothing(tmp_path: Path) -> None:
    """A column that does not matter may have errors, left and right of the names as well."""
    error = '<c r="{0}2" t="e"><v>#N/A</v></c>'
    rows = (
        f'<row r="1">{text_cell("C1", "x")}{text_cell("D1", "id")}</row><row r="2">'
        f'<c r="A2"><f>1</f></c>{error.format("C")}{text_cell("D2", "u1")}<c r="F2"><f>1</f></c>'
        "</row>"
    )

    assert read(write_sheet(tmp_path / "ids.xlsx", rows)) == [Row(2, {"id": "u1"})]


@pytest.mark.parametrize("others", ["", text_cell("A1", "id")], ids=["alone", "among-names"])
def test_a_name_of_a_column_has_to_be_calculated(tmp_path: Path, others: str) -> None:
    """Otherwise the column would be left out."""
    rows = f'<row r="1">{others}<c r="C1"><f>1+1</f></c></row>{text_row(2, "u1")}'
    path = write_sheet(tmp_path / "ids.xlsx", rows)

    with pytest.raises(InvalidInputError, match="column names; the cell C1 has a formula that was"):
        read(path)


@pytest.mark.parametrize("reference", ["XFD1048576", "XFD20000", "BZ1048576"])
def test_a_cell_far_away_is_rejected_before_it_takes_memory(tmp_path: Path, reference: str) -> None:
    """The cells in between would need up to hundreds of gigabytes."""
    number = reference.lstrip("XFDBZ")
    rows = f'{USER}<row r="{number}"><c r="{reference}"><v>1</v></c></row>'
    path = write_sheet(tmp_path / "ids.xlsx", rows)

    with pytest.raises(InvalidInputError, match=f"than 50,000,000 cells up to {reference}; delete"):
        read(path)


def test_an_empty_cell_far_away_takes_no_memory(tmp_path: Path) -> None:
    """A cell that has only a format is no cell."""
    rows = f'{USER}<row r="1048576"><c r="XFD1048576" s="0"/></row>'

    assert read(write_sheet(tmp_path / "ids.xlsx", rows)) == [Row(2, {"id": "u1"})]


def test_a_comment_without_end_is_rejected() -> None:
    """The parser would read it again with each piece."""
    file = io.BytesIO(b"<a><!--" + b" " * (40 << 20))

    with pytest.raises(UnreadableSheetError, match="a tag or a comment of more than 16 MiB"):
        read_xml(file, SheetReader())
    assert file.tell() < 20 << 20


def _with_dates(styles: bytes) -> bytes:
    date = b'<xf numFmtId="14" applyNumberFormat="1"/>'
    return styles.replace(b"</cellXfs>", date + b"</cellXfs>")


def test_a_defect_of_the_reader_is_an_error_of_the_file(tmp_path: Path) -> None:
    """python-calamine panics for a date that is too early."""
    rows = f'{HEADER}<row r="2"><c r="A2" s="1"><v>-1e300</v></c></row>'
    path = write_sheet(tmp_path / "ids.xlsx", rows)
    rewrite(path, "xl/styles.xml", _with_dates)

    with pytest.raises(InvalidInputError, match="is not a spreadsheet, or is damaged"):
        read(path)


def test_reading_may_be_given_up(tmp_path: Path) -> None:
    """A reader that needs only the first rows stops at them."""
    path = write_sheet(tmp_path / "ids.xlsx", USER + text_row(3, "u2"))
    rows = iter(open_rows(str(path), None, used("id"), id_column="id"))

    assert next(rows) == Row(2, {"id": "u1"})
    rows.close()  # type: ignore[attr-defined]
    assert list(rows) == []


def test_too_many_errors_are_rejected() -> None:
    """Each is remembered, so their number is limited."""
    findings = SheetReader().findings
    findings.fault_count = 999_999
    findings.add_fault(1, 1, FaultyCell("is broken"))

    with pytest.raises(UnreadableSheetError, match="has more than 1,000,000 cells with errors or"):
        findings.add_fault(1, 2, FaultyCell("is broken"))


def _patched(path: Path, offset: int, value: bytes) -> None:
    """Change the entry of each part in the directory of an archive."""
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    while at >= 0:
        content[at + offset : at + offset + len(value)] = value
        at = content.find(b"PK\x01\x02", at + 4)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        pytest.param(24, b"\xff\xff\xff\x7f", "has more than 2 GiB, uncompressed", id="size"),
        pytest.param(8, b"\x01", "is protected by a password", id="encrypted"),
        pytest.param(10, b"\x63", "cannot be checked", id="method"),
        pytest.param(16, b"\x00\x00\x00\x00", "is not a spreadsheet, or is damaged", id="checksum"),
    ],
)
def test_an_archive_that_cannot_be_read_is_rejected(
    tmp_path: Path, offset: int, value: bytes, reason: str
) -> None:
    """The reason is an error of the file, whatever the reader of archives raises."""
    path = write_sheet(tmp_path / "ids.xlsx", USER)
    _patched(path, offset, value)

    with pytest.raises(InvalidInputError, match=f"^{re.escape(str(path))}: {reason}"):
        SpreadsheetScan(str(path)).sheet("Users")


def test_a_sheet_of_open_document_is_read(tmp_path: Path) -> None:
    """A file of LibreOffice is read like one of Excel; comments in cells do not count."""
    cells = (
        odf_row('<table:table-cell office:value-type="float" office:value="100045"/>')
        + odf_row(
            odf_cell(
                "<office:annotation><text:p>a<text:tab/></text:p></office:annotation>"
                "<text:p>u<text:span>2</text:span><text:s/>b</text:p>"
            )
        )
        + odf_row(odf_cell("<text:p>u3</text:p>", 'table:formula="a"'))
        + odf_row("<table:table-cell/>", 'table:number-rows-repeated="1048570"')
    )
    path = write_odf(
        tmp_path / "ids.ods",
        f"<table:tracked-changes/>{odf_table(ODF_HEADER + cells)}",
        entry='<manifest:file-entry manifest:full-path="/"/>',
    )

    assert read(path) == [Row(2, {"id": "100045"}), Row(3, {"id": "u2 b"}), Row(4, {"id": "u3"})]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        pytest.param(
            odf_row(odf_cell("<text:p>a</text:p>", 'table:number-rows-spanned="2"')),
            'sheet "Users": has merged cells (A3): unmerge them',
            id="merged-rows",
        ),
        pytest.param(
            odf_row(odf_cell("<text:p>a</text:p>", 'table:number-columns-spanned="2"')),
            "has merged cells (A3)",
            id="merged-columns",
        ),
        pytest.param(
            odf_row(odf_cell("<text:p>victim</text:p>", name="covered-table-cell")),
            "has merged cells (A3)",
            id="covered",
        ),
        pytest.param(
            odf_row(odf_cell("<text:p>a</text:p>"), 'table:visibility="collapse"'),
            "has hidden rows, the first is 3",
            id="hidden",
        ),
        pytest.param(
            odf_row(odf_cell("<text:p>a</text:p>"), 'table:visibility="filter"'),
            "has hidden rows, the first is 3",
            id="filtered",
        ),
        pytest.param(
            f'<table:table-row-group table:display="false">{ODF_USER}</table:table-row-group>',
            "has hidden rows, the first is 3",
            id="group",
        ),
        pytest.param(
            odf_row(odf_cell(odf_table(ODF_USER, "Inner"))), "has a table in a cell", id="inner"
        ),
        pytest.param(odf_table(ODF_USER, "Inner"), "has a table in a table", id="nested"),
        pytest.param(
            odf_row(
                odf_cell("<text:p>a</text:p>", 'table:number-columns-repeated="100"'),
                'table:number-rows-repeated="1000000"',
            ),
            "has more than 50,000,000 cells",
            id="repeated",
        ),
        pytest.param(
            f"</table:table>{odf_table(ODF_HEADER)}<table:table>", "two sheets", id="twice"
        ),
    ],
)
def test_what_open_document_hides_is_rejected(tmp_path: Path, rows: str, reason: str) -> None:
    """Merged and hidden cells would be sent, and a sheet too large would fill the memory."""
    path = write_odf(tmp_path / "ids.ods", odf_table(ODF_HEADER + ODF_USER + rows))

    with pytest.raises(InvalidInputError, match=re.escape(reason)):
        read(path)


@pytest.mark.parametrize(
    ("value", "shown", "is_other"),
    [
        pytest.param("45", "00045", True, id="zeros"),
        pytest.param("45", "0,045", True, id="zeros-in-groups"),
        pytest.param("123", "(000) 00-0123", True, id="with-dashes"),
        pytest.param("45", "U45", True, id="letters"),
        pytest.param("1", "100%", True, id="percentage"),
        pytest.param("100045", "100", True, id="thousands"),
        pytest.param("0", "000", True, id="zero"),
        pytest.param("-7", "-7", False, id="negative"),
        pytest.param("100045", "100,045.00", False, id="groups"),
        pytest.param("100045", "\u20ac 100045", False, id="sign"),
        pytest.param("100045", "1.00E+05", False, id="exponent"),
        pytest.param("100045", "", False, id="no-text"),
    ],
)
def test_a_number_of_open_document_that_is_shown_in_another_way_is_no_id(
    tmp_path: Path, value: str, shown: str, *, is_other: bool
) -> None:
    """A cell has its text as well, as people see it: 00045 means another user than 45."""
    cell = (
        f'<table:table-cell office:value-type="float" office:value="{value}">'
        f"<text:p>{shown}</text:p></table:table-cell>"
    )
    rows = ODF_HEADER + ODF_USER + odf_row(cell, 'table:number-rows-repeated="2"') + ODF_USER
    _, *found, _ = read(write_odf(tmp_path / "ids.ods", odf_table(rows)))

    assert [row.line for row in found] == [3, 4]
    for row in found:
        assert ("such as with leading zeros" in str(row.broken)) == is_other
        assert is_other or row.value == {"id": value}


def test_a_cell_of_open_document_may_stand_for_several(tmp_path: Path) -> None:
    """Equal cells next to each other are stored once, and each of them is shown in another way."""
    names = odf_row(odf_cell("<text:p>number</text:p>") + odf_cell("<text:p>id</text:p>"))
    cell = (
        '<table:table-cell office:value-type="float" office:value="45"'
        ' table:number-columns-repeated="2"><text:p>00045</text:p></table:table-cell>'
    )
    [row] = read(write_odf(tmp_path / "ids.ods", odf_table(names + odf_row(cell))))
    assert "such as with leading zeros" in str(row.broken)


def test_a_note_of_open_document_is_no_text_of_its_number(tmp_path: Path) -> None:
    """What somebody wrote about a number is not what people see in its cell."""
    cell = (
        '<table:table-cell office:value-type="float" office:value="45"><office:annotation>'
        "<text:p>VIP</text:p></office:annotation><text:p>45</text:p></table:table-cell>"
    )
    table = odf_table(ODF_HEADER + odf_row(cell))
    assert read(write_odf(tmp_path / "ids.ods", table)) == [Row(2, {"id": "45"})]


@pytest.mark.parametrize(
    ("kind", "value"),
    [("time", "PT30H00M00S"), ("date", "2026-01-05T10:00:00Z"), ("date", "12026-01-05")],
)
def test_a_time_of_open_document_is_no_id(tmp_path: Path, kind: str, value: str) -> None:
    """People entered 30:00, and the file has a duration; its text would be an id of nobody."""
    attributes = f'office:value-type="{kind}" office:{kind}-value="{value}"'
    cell = f"<table:table-cell {attributes}><text:p>30:00</text:p></table:table-cell>"
    path = write_odf(tmp_path / "ids.ods", odf_table(ODF_HEADER + ODF_USER + odf_row(cell)))

    assert "is a date or a time" in str(read(path)[1].broken)


def test_a_date_of_excel_that_python_does_not_have_is_no_id(tmp_path: Path) -> None:
    """Its text would be an id of nobody."""
    date = '<row r="3"><c r="A3" t="d"><v>12026-01-05T00:00:00</v></c></row>'

    assert "is a date or a time" in str(
        read(write_sheet(tmp_path / "ids.xlsx", USER + date))[1].broken
    )


def test_a_duration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A long number with the format of a duration is none that Python has."""
    rows = f'{USER}<row r="3"><c r="A3" s="1"><v>1e12</v></c></row>'
    path = write_sheet(tmp_path / "ids.xlsx", rows)

    with pytest.raises(InvalidInputError, match="has a duration that is too long to be read"):
        read(rewrite(path, "xl/styles.xml", _with_format("[h]:mm")))


def test_a_chart_of_open_document_is_no_second_workbook(tmp_path: Path) -> None:
    """It is a document in a folder of the archive."""
    path = write_odf(tmp_path / "ids.ods", odf_table(ODF_HEADER + ODF_USER))
    write_parts(path, parts_of(path) | {"Object 1/content.xml": b"<chart/>"})

    assert read(path) == [Row(2, {"id": "u1"})]


def test_the_sheets_of_open_document_are_limited_together(tmp_path: Path) -> None:
    """All of them are read at once."""
    row = odf_row(odf_cell("<text:p>a</text:p>", 'table:number-columns-repeated="16000"'), "{}")
    far = row.format('table:number-rows-repeated="2000"')
    path = write_odf(tmp_path / "ids.ods", odf_table(far, "A") + odf_table(far, "B"))

    with pytest.raises(InvalidInputError, match="has sheets with more than 50,000,000 cells"):
        read(path)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        pytest.param(odf_cell("<text:p>anna<text:tab/></text:p>"), "not plain text", id="tab"),
        pytest.param(odf_cell("<text:p>anna<text:line-break/></text:p>"), "not plain", id="break"),
        pytest.param(odf_cell("<text:p>a<![CDATA[nn]]>a</text:p>"), "not plain", id="cdata"),
        pytest.param(odf_cell("<draw:frame><text:p>a</text:p></draw:frame>"), "not", id="drawing"),
        pytest.param(
            odf_cell("<text:p>#N/A</text:p>", 'calcext:value-type="error"'), "has a fo", id="error"
        ),
        pytest.param(
            odf_cell("<text:p>Err:502</text:p>", 'table:formula="a" office:string-value=""'),
            "has a formula error",
            id="shown-error",
        ),
        pytest.param(
            f'<table:table-cell table:formula="a">{"-" * 99}<text:p>a</text:p></table:table-cell>',
            "was never calculated",
            id="long",
        ),
        pytest.param(
            '<table:table-cell table:formula="a"/>', "was never calculated", id="not-calculated"
        ),
    ],
)
def test_a_cell_of_open_document_that_is_not_exact_costs_its_rows(
    tmp_path: Path, cell: str, reason: str
) -> None:
    """Without its tab it could be the id of another user."""
    rows = ODF_HEADER + odf_row(cell, 'table:number-rows-repeated="2"') + ODF_USER
    first, second, last = read(write_odf(tmp_path / "ids.ods", odf_table(rows)))

    assert (first.line, second.line, last) == (2, 3, Row(4, {"id": "u1"}))
    assert reason in str(first.broken)
    assert str(first.broken) == str(second.broken)


def test_an_element_without_end_is_rejected(tmp_path: Path) -> None:
    """The reader of the rows would wait for its end for ever."""
    path = write_odf(tmp_path / "ids.ods", odf_table(ODF_HEADER))
    rewrite(path, "content.xml", lambda content: content.partition(b"</table:table>")[0])

    with pytest.raises(InvalidInputError, match="is not a spreadsheet, or is damaged"):
        read(path)


def test_a_sheet_of_open_document_has_to_be_known(tmp_path: Path) -> None:
    """A sheet that was not scanned is not read."""
    path = write_odf(tmp_path / "ids.ods", odf_table(ODF_HEADER))

    with pytest.raises(InvalidInputError, match="cannot be checked for hidden rows"):
        SpreadsheetScan(str(path)).sheet("Other")


def test_a_password_is_named(tmp_path: Path) -> None:
    """A spreadsheet that is protected is rejected with that reason."""
    entry = (
        '<manifest:file-entry manifest:full-path="content.xml">'
        "<manifest:encryption-data/></manifest:file-entry>"
    )
    path = write_odf(tmp_path / "ids.ods", odf_table(ODF_HEADER), entry=entry)

    with pytest.raises(InvalidInputError, match="is protected by a password"):
        read(path)


@pytest.mark.parametrize(
    ("column", "letters"), [(0, "A"), (25, "Z"), (26, "AA"), (701, "ZZ"), (16383, "XFD")]
)
def test_columns_have_letters(column: int, letters: str) -> None:
    """The columns after Z have two letters, and then three."""
    assert column_letters(column) == letters


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("suffix", ["xlsx", "ods"])
def test_a_damaged_file_is_read_or_rejected(tmp_path: Path, suffix: str, seed: int) -> None:
    """Changed bytes in the archive or in a part never raise another error."""
    path = tmp_path / f"ids.{suffix}"
    if suffix == "xlsx":
        parts = parts_of(
            write_sheet(path, USER + '<row r="3"><c r="A3" t="e"><v>#N/A</v></c></row>')
        )
    else:
        parts = parts_of(write_odf(path, odf_table(ODF_HEADER + ODF_USER)))
    whole = path.read_bytes()
    random_ = random.Random(seed)
    names = [name for name in parts if name in {SHEET, BOOK, RELATIONS, "content.xml"}]
    for _ in range(25):
        name = random_.choice([None, *names])
        if name is None:
            path.write_bytes(damaged(whole, random_))
        else:
            write_parts(path, parts | {name: damaged(parts[name], random_)})
        with contextlib.suppress(InvalidInputError):
            list(open_rows(str(path), None, used("id"), id_column="id"))
