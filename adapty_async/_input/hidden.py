"""
A search for hidden rows in a sheet of Excel, which a filter leaves in the file.

python-calamine reads hidden rows like others. People who see 10 rows and have 1,000 would not know.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from xml.etree import ElementTree as ET

__all__ = ("first_hidden_row",)

_PIECE = 1 << 20
# The beginning of a row that is hidden; text in cells has no such mark, since it is escaped.
_ROW = re.compile(rb"<(?:[A-Za-z0-9]+:)?row\b([^>]*)>")
_HIDDEN = re.compile(rb"""\bhidden=["'](?:1|true)["']""")
_NUMBER = re.compile(rb"""\br=["']([0-9]+)["']""")
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def first_hidden_row(path: str, sheet: str) -> int | None:
    """
    Return the number of the first hidden row of a sheet; 0 if the file does not number its rows.

    None if there is none, or if the file is not one of XML for Excel.
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        part = _part_of(archive, sheet)
        if part is None:
            return None
        with archive.open(part) as file:
            rest = b""
            while piece := file.read(_PIECE):
                piece = rest + piece
                for row in _ROW.finditer(piece):
                    if _HIDDEN.search(row[1]):
                        number = _NUMBER.search(row[1])
                        return int(number[1]) if number else 0
                rest = piece[max(piece.rfind(b"<"), 0) :]
    return None


def _part_of(archive: zipfile.ZipFile, sheet: str) -> str | None:
    """Return the name of the part of an archive that is a sheet; None if there is none."""
    names = set(archive.namelist())
    book, relations = "xl/workbook.xml", "xl/_rels/workbook.xml.rels"
    if not names >= {book, relations}:
        return None
    relation = next(
        (
            one.get(_RELATION)
            for one in _elements(archive, book)
            if one.tag.endswith("}sheet") and one.get("name") == sheet
        ),
        None,
    )
    targets = {one.get("Id"): one.get("Target", "") for one in _elements(archive, relations)}
    target = posixpath.normpath(posixpath.join("/xl", targets.get(relation, ""))).lstrip("/")
    return target if target in names else None


def _elements(archive: zipfile.ZipFile, part: str) -> list[ET.Element]:
    # calamine has read the same file before, and expat limits the expansion of entities
    return list(ET.fromstring(archive.read(part)).iter())  # noqa: S314  see above
