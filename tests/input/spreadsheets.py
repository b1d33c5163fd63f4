"""Writers of spreadsheets from their XML, for what no library writes."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable, Mapping
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


def damaged(content: bytes, random_: random.Random) -> bytes:
    """Return bytes with one changed, or some left out."""
    changed = bytearray(content)
    at = random_.randrange(len(changed))
    if random_.random() < 0.7:
        changed[at] = random_.randrange(256)
    else:
        del changed[at : at + random_.randrange(1, 20)]
    return bytes(changed)
