"""
A search for hidden rows in a sheet of Excel, which a filter leaves in the file.

python-calamine reads hidden rows like others. People who see 10 rows and have 1,000 would not know.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Mapping
from typing import IO
from xml.etree import ElementTree as ET

from adapty_async.errors import InvalidInputError

__all__ = ("first_hidden_row",)

_PIECE = 1 << 20
# The beginning of a row; text in cells has no such mark, since it is escaped.
_ROW = re.compile(rb"<(?:[A-Za-z0-9_.-]+:)?row\b([^>]*)>")
# Any value but these two, which may be written as character references.
_HIDDEN = re.compile(rb"""\bhidden\s*=\s*["'](?!(?:0|false)["'])""")
_NUMBER = re.compile(rb"""\br\s*=\s*["']([0-9]+)["']""")
_BOOK, _RELATIONS = "xl/workbook.xml", "xl/_rels/workbook.xml.rels"
# The end of an attribute's name in either namespace: that of Open XML, and of Strict Open XML.
_RELATION = "/relationships}id"


def first_hidden_row(path: str, sheet: str) -> int | None:
    """
    Return the number of the first hidden row of a sheet, as the spreadsheet shows it.

    None if there is none, or if the file is not one of XML for Excel.

    Raises:
        InvalidInputError: it is one, and its sheet is not found.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            # calamine ignores the case of these names
            names = {name.replace("\\", "/").lower(): name for name in archive.namelist()}
            if _BOOK not in names:
                return None
            with archive.open(names[_part_of(archive, names, sheet)]) as file:
                return _first_hidden(file)
    except (KeyError, NotImplementedError, ET.ParseError, zipfile.BadZipFile):
        raise InvalidInputError(
            path, "cannot be checked for hidden rows: save it as .xlsx or CSV"
        ) from None


def _part_of(archive: zipfile.ZipFile, names: Mapping[str, str], sheet: str) -> str:
    """Return the name, in small letters, of the part of an archive that is a sheet."""
    relations = {
        one.get("name"): value
        for one in _elements(archive, names[_BOOK])
        if one.tag.endswith("}sheet")
        for key, value in one.items()
        if key.endswith(_RELATION)
    }
    targets = {
        one.get("Id"): one.get("Target", "") for one in _elements(archive, names[_RELATIONS])
    }
    target = posixpath.join("/xl", targets[relations[sheet]].replace("\\", "/"))
    return posixpath.normpath(target).lstrip("/").lower()


def _first_hidden(file: IO[bytes]) -> int | None:
    number, rest = 0, b""
    while piece := file.read(_PIECE):
        piece = rest + piece
        for row in _ROW.finditer(piece):
            found = _NUMBER.search(row[1])
            number = int(found[1]) if found else number + 1  # some programs do not number them
            if _HIDDEN.search(row[1]):
                return number
        begin = piece.rfind(b"<")
        rest = piece[begin:] if begin > piece.rfind(b">") else b""
    return None


def _elements(archive: zipfile.ZipFile, part: str) -> list[ET.Element]:
    # calamine has read the same file before, and expat limits the expansion of entities
    return list(ET.fromstring(archive.read(part)).iter())  # noqa: S314  see above
