"""Writers of spreadsheets from their XML, for what no library writes."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import openpyxl

SHEET = "xl/worksheets/sheet1.xml"
BOOK = "xl/workbook.xml"
RELATIONS = "xl/_rels/workbook.xml.rels"
_TRANSITIONAL = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_ODF = "urn:oasis:names:tc:opendocument:xmlns"
_NAMESPACES = " ".join(
    f'xmlns:{prefix}="{_ODF}:{prefix}:1.0"' for prefix in ("office", "table", "text", "draw")
)


def parts_of(path: Path) -> dict[str, bytes]:
    """Read the parts of an archive."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_parts(path: Path, parts: Mapping[str, bytes]) -> Path:
    """Write the parts of an archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def rewrite(path: Path, part: str, change: Callable[[bytes], bytes | None]) -> Path:
    """Change a part of a spreadsheet; None leaves it out."""
    parts = parts_of(path)
    changed = change(parts.pop(part))
    return write_parts(path, parts if changed is None else parts | {part: changed})


def write_sheet(path: Path, rows: str, *, begin: str = "") -> Path:
    """Write a spreadsheet of Excel with the XML of its rows, and of what is before its root."""
    book = openpyxl.Workbook()
    book.active.title = "Users"
    book.save(path)
    sheet = f'{begin}<worksheet xmlns="{_TRANSITIONAL}"><sheetData>{rows}</sheetData></worksheet>'
    return rewrite(path, SHEET, lambda _: sheet.encode())


def text_cell(reference: str, text: str) -> str:
    """Return the XML of a cell with text."""
    return f'<c r="{reference}" t="inlineStr"><is><t>{text}</t></is></c>'


def text_row(number: int, text: str, attributes: str = "") -> str:
    """Return the XML of a row with text in its first cell."""
    return f'<row r="{number}" {attributes}>{text_cell(f"A{number}", text)}</row>'


def odf_cell(content: str, attributes: str = "", *, name: str = "table-cell") -> str:
    """Return the XML of a cell of OpenDocument with paragraphs."""
    return f'<table:{name} office:value-type="string" {attributes}>{content}</table:{name}>'


def odf_row(cells: str, attributes: str = "") -> str:
    """Return the XML of a row of OpenDocument."""
    return f"<table:table-row {attributes}>{cells}</table:table-row>"


def odf_table(rows: str, name: str = "Users") -> str:
    """Return the XML of a sheet of OpenDocument."""
    return f'<table:table table:name="{name}">{rows}</table:table>'


def write_odf(path: Path, tables: str, *, entry: str = "") -> Path:
    """Write a spreadsheet of LibreOffice with the XML of its sheets, and of its manifest."""
    content = (
        f'<office:document-content {_NAMESPACES} xmlns:calcext="urn:calcext" office:version="1.2">'
        f"<office:body><office:spreadsheet>{tables}</office:spreadsheet></office:body>"
        "</office:document-content>"
    )
    manifest = (
        f'<manifest:manifest xmlns:manifest="{_ODF}:manifest:1.0">{entry}</manifest:manifest>'
    )
    parts = {
        "mimetype": b"application/vnd.oasis.opendocument.spreadsheet",
        "content.xml": content.encode(),
        "META-INF/manifest.xml": manifest.encode(),
    }
    return write_parts(path, parts)


def write_binary(path: Path, rows: Sequence[str], hidden: Collection[int] = ()) -> Path:
    """Write a workbook of .xlsb with text in one column, and hide rows with these numbers."""
    size = struct.pack("<4I", 0, len(rows) - 1, 0, 0)
    sheet = [_record(0x81), _record(0x94, size), _record(0x91)]
    for number, text in enumerate(rows):
        flags = 0x10 if number + 1 in hidden else 0
        sheet.append(_record(0x00, struct.pack("<IIHBBBI", number, 0, 300, 0, flags, 0, 0)))
        sheet.append(_record(0x06, struct.pack("<II", 0, 0) + _wide(text)))
    sheet += [_record(0x92), _record(0x82)]
    entry = struct.pack("<II", 0, 1) + _wide("rId1") + _wide("Users")
    relation = (
        '<Relationships><Relationship Id="rId1" Type="http://schemas.openxmlformats.org/'
        'officeDocument/2006/relationships/worksheet" Target="worksheets/sheet1.bin"/>'
        "</Relationships>"
    )
    parts = {
        "xl/_rels/workbook.bin.rels": relation.encode(),
        "xl/workbook.bin": b"".join(
            [_record(0x83), _record(0x8F), _record(0x9C, entry), _record(0x90), _record(0x84)]
        ),
        "xl/worksheets/sheet1.bin": b"".join(sheet),
    }
    return write_parts(path, parts)


def _record(kind: int, content: bytes = b"") -> bytes:
    """Return a record of .xlsb; numbers from 128 on have two bytes."""
    number = bytes([kind]) if kind < 0x80 else bytes([kind, 1])
    assert len(content) < 0x80, "a longer one has more bytes of its length"
    return number + bytes([len(content)]) + content


def _wide(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode("utf-16-le")
