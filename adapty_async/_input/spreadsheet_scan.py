"""
A scan of a spreadsheet, before python-calamine reads it, for what that does not tell or survive.

Invariants:

- No sheet is read that was not scanned.
- A sheet is found like python-calamine finds it. One with two candidates is rejected.
- Memory is bounded: neither a declared size nor a cell far away makes the program allocate it.
"""

from __future__ import annotations

import contextlib
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from xml.parsers import expat

from adapty_async._input.binary_sheets import (
    XlsBook,
    find_in_xlsb,
    sheets_of_xlsb,
    styles_of_xlsb,
)
from adapty_async._input.compound_file import COMPOUND_FILE, CompoundFile
from adapty_async._input.files import JOINED
from adapty_async._input.sheet_findings import DAMAGED, SheetFindings, UnreadableSheetError
from adapty_async._input.sheet_xml import (
    OpenDocumentReader,
    SheetReader,
    StyleReader,
    XmlHandler,
    read_xml,
)
from adapty_async.errors import InvalidInputError

__all__ = ("SpreadsheetScan",)

#: The parts of a spreadsheet may have this many bytes, uncompressed.
_MAX_SIZE = 2 << 30
_ENCRYPTED = 0x1  # a flag of a part
_NOT_CHECKED = "cannot be checked for hidden rows: save it as .xlsx or CSV"
_PASSWORD = "is protected by a password"  # noqa: S105  a message
_BINARY, _OPEN_DOCUMENT, _OPEN_XML = "workbook.bin", "content.xml", "workbook.xml"
# The only places in which python-calamine looks for them.
_STYLES, _BINARY_STYLES = "xl/styles.xml", "xl/styles.bin"
_BINARY_FOLDER = "xl/"
_BOOKS = ("Workbook", "Book", "WORKBOOK", "BOOK")
_KINDS = frozenset({_BINARY, _OPEN_DOCUMENT, _OPEN_XML})


class SpreadsheetScan:
    """
    A scan of the sheets of a file, each when it is asked for.

    Args:
        path: the file.

    Raises:
        InvalidInputError: it cannot be read, is no spreadsheet, or is too large.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._found: dict[str, SheetFindings] = {}
        self._kind: str | None = None  # None for .xls
        self._book: XlsBook | None = None  # None for others, and .xlsx with a password
        if not self._is_archive():
            with self._translated():
                self._book = self._xls_book()
            return
        with self._opened() as (archive, parts):
            self._kind = self._kind_of(parts)
            if self._kind == _OPEN_DOCUMENT:
                self._found = _open_document(archive, parts)

    def sheet(self, name: str) -> SheetFindings:
        """
        Return the findings in a sheet.

        Raises:
            InvalidInputError: it is not found, is too large, or is damaged.
        """
        if name not in self._found:
            with self._translated():
                self._found[name] = self._scanned(name)
        return self._found[name]

    def _scanned(self, name: str) -> SheetFindings:
        if self._book is not None:
            return self._book.find(name)
        if self._kind == _OPEN_DOCUMENT:
            raise KeyError(name)
        with self._opened() as (archive, parts):
            return (_open_xml if self._kind == _OPEN_XML else _binary)(archive, parts, name)

    def _xls_book(self) -> XlsBook | None:
        file = CompoundFile(self._path)
        try:
            stream = file.stream(*_BOOKS)
        except KeyError:
            return None  # its reader knows why, such as a password
        return XlsBook(stream)

    def _is_archive(self) -> bool:
        try:
            with open(self._path, "rb") as file:  # noqa: PTH123  an error has to be like others
                begin = file.read(len(COMPOUND_FILE))
        except OSError as error:
            raise InvalidInputError(self._path, f"cannot be read: {error.strerror}") from None
        if begin == COMPOUND_FILE:  # in which Excel puts an archive with colours
            return False
        if zipfile.is_zipfile(self._path):
            return True
        raise InvalidInputError(self._path, DAMAGED)

    def _kind_of(self, parts: Mapping[str, str]) -> str:
        """Return the last part of the name of the only part that makes a kind of spreadsheet."""
        # a chart of OpenDocument is a document in a folder
        kinds = [
            end
            for part in parts
            if (end := part.rpartition("/")[2]) in _KINDS and (end != _OPEN_DOCUMENT or part == end)
        ]
        if len(kinds) != 1:
            raise InvalidInputError(self._path, DAMAGED)
        return kinds[0]

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[zipfile.ZipFile, Mapping[str, str]]]:
        with self._translated(), zipfile.ZipFile(self._path) as archive:
            yield archive, _parts(archive)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise what is wrong with the archive, its XML or its records as an error of the file."""
        try:
            yield
        except UnreadableSheetError as error:
            raise InvalidInputError(self._path, str(error)) from None
        except (KeyError, NotImplementedError):
            raise InvalidInputError(self._path, _NOT_CHECKED) from None
        except InvalidInputError:
            raise
        except _DAMAGE:
            raise InvalidInputError(self._path, DAMAGED) from None


# The errors of `zipfile`, its decompressors, expat and `struct` for damaged files.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    lzma.LZMAError,
    expat.ExpatError,
    EOFError,
    LookupError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)


def _parts(archive: zipfile.ZipFile) -> Mapping[str, str]:
    """
    Return the names of the parts by the form in which python-calamine compares them.

    Raises:
        UnreadableSheetError: they are too large, encrypted, or not certain.
    """
    entries = archive.infolist()
    if sum(entry.file_size for entry in entries) > _MAX_SIZE:
        raise UnreadableSheetError("has more than 2 GiB, uncompressed: save it as CSV")
    if any(entry.flag_bits & _ENCRYPTED for entry in entries):
        raise UnreadableSheetError(_PASSWORD)
    parts = {entry.filename.replace("\\", "/").lower(): entry.filename for entry in entries}
    if len(parts) != len(entries):
        raise UnreadableSheetError("is damaged: it has two parts with one name")
    if min((entry.header_offset for entry in entries), default=0):
        raise UnreadableSheetError(JOINED)  # readers of archives skip what is before the parts
    return parts


def _open_document(archive: zipfile.ZipFile, parts: Mapping[str, str]) -> dict[str, SheetFindings]:
    manifest = _Elements()
    _read(archive, parts["meta-inf/manifest.xml"], manifest)
    if any(name == "encryption-data" for name, _ in manifest.found):
        raise UnreadableSheetError(_PASSWORD)
    reader = OpenDocumentReader()
    _read(archive, parts[_OPEN_DOCUMENT], reader)
    return reader.sheets


def _open_xml(archive: zipfile.ZipFile, parts: Mapping[str, str], sheet: str) -> SheetFindings:
    styles = StyleReader()
    if _STYLES in parts:
        _read(archive, parts[_STYLES], styles)
    reader = SheetReader(styles.digits)
    _read(archive, parts[_part_of(archive, parts, sheet)], reader)
    return reader.findings


def _part_of(archive: zipfile.ZipFile, parts: Mapping[str, str], sheet: str) -> str:
    """Return the name, in small letters, of the part of an archive that is a sheet."""
    book = next(part for part in parts if part.rpartition("/")[2] == _OPEN_XML)
    sheets = _Elements()
    _read(archive, parts[book], sheets)
    relations = [
        value
        for name, attributes in sheets.found
        if name == "sheet" and attributes.get("name") == sheet
        for key, value in attributes.items()
        if key.rpartition(":")[2] == "id"
    ]
    return _target(archive, parts, book, relations)


def _binary(archive: zipfile.ZipFile, parts: Mapping[str, str], sheet: str) -> SheetFindings:
    digits: list[int] = []
    if _BINARY_STYLES in parts:
        with archive.open(parts[_BINARY_STYLES]) as file:
            digits = styles_of_xlsb(file)
    book = _BINARY_FOLDER + _BINARY
    with archive.open(parts[book]) as file:
        relations = [relation for name, relation in sheets_of_xlsb(file) if name == sheet]
    with archive.open(parts[_target(archive, parts, book, relations)]) as file:
        return find_in_xlsb(file, digits)


def _target(
    archive: zipfile.ZipFile, parts: Mapping[str, str], book: str, relations: Sequence[str]
) -> str:
    """
    Return the name, in small letters, of the part that the relation of a sheet leads to.

    Raises:
        KeyError: there is not one relation, or not one such part.
    """
    name = book.rpartition("/")[2]
    folder = book.removesuffix(name)
    targets = _Elements()
    _read(archive, parts[f"{folder}_rels/{name}.rels"], targets)
    found = {
        attributes["Target"]
        for name, attributes in targets.found
        if name == "Relationship" and relations and attributes.get("Id") == relations[0]
    }
    if len(relations) != 1 or len(found) != 1:
        raise KeyError(book)
    target = found.pop().replace("\\", "/").lower()
    return target[1:] if target.startswith("/") else folder + target


class _Elements(XmlHandler):
    """A reader of the elements of a small part, by their names without namespaces."""

    def __init__(self) -> None:
        self.found: list[tuple[str, dict[str, str]]] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """See `XmlHandler`."""
        self.found.append((name.rpartition(":")[2], attributes))


def _read(archive: zipfile.ZipFile, part: str, handler: XmlHandler) -> None:
    with archive.open(part) as file:
        read_xml(file, handler)
