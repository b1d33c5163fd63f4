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
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from xml.parsers import expat

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

#: The parts of a spreadsheet may have this many bytes, uncompressed.
_MAX_SIZE = 2 << 30
_ENCRYPTED = 0x1  # a flag of a part
_NOT_CHECKED = "cannot be checked for hidden rows: save it as .xlsx or CSV"
_PASSWORD = "is protected by a password"  # noqa: S105  a message
# The first bytes of .xls, and of an .xlsx with a password.
_COMPOUND_FILE = bytes.fromhex("D0CF11E0A1B11AE1")
_COMPOUND = "is an .xls, or is protected by a password: save it as .xlsx without one, or as CSV"
_BINARY, _OPEN_DOCUMENT, _OPEN_XML = "workbook.bin", "content.xml", "workbook.xml"
# The only place in which python-calamine looks for it.
_STYLES = "xl/styles.xml"
_KINDS = frozenset({_OPEN_DOCUMENT, _OPEN_XML})


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
        self._require_archive()
        with self._opened() as (archive, parts):
            self._is_open_document = self._kind_of(parts) == _OPEN_DOCUMENT
            if self._is_open_document:
                self._found = _open_document(archive, parts)

    def sheet(self, name: str) -> SheetFindings:
        """
        Return the findings in a sheet.

        Raises:
            InvalidInputError: it is not found, is too large, or is damaged.
        """
        if name not in self._found:
            with self._opened() as (archive, parts):
                if self._is_open_document:  # its sheets are scanned together
                    raise KeyError(name)
                self._found[name] = _open_xml(archive, parts, name)
        return self._found[name]

    def _require_archive(self) -> None:
        try:
            with open(self._path, "rb") as file:  # noqa: PTH123  an error has to be like others
                begin = file.read(len(_COMPOUND_FILE))
        except OSError as error:
            raise InvalidInputError(self._path, f"cannot be read: {error.strerror}") from None
        if begin == _COMPOUND_FILE:
            raise InvalidInputError(self._path, _COMPOUND)
        if not zipfile.is_zipfile(self._path):
            raise InvalidInputError(self._path, DAMAGED)

    def _kind_of(self, parts: Mapping[str, str]) -> str:
        """Return the last part of the name of the only part that makes a kind of spreadsheet."""
        ends = [(part, part.rpartition("/")[2]) for part in parts]
        if any(end == _BINARY for _, end in ends):
            raise InvalidInputError(self._path, f"is an .xlsb, which {_NOT_CHECKED}")
        # a chart of OpenDocument is a document in a folder
        kinds = [
            end for part, end in ends if end in _KINDS and (end != _OPEN_DOCUMENT or part == end)
        ]
        if len(kinds) != 1:
            raise InvalidInputError(self._path, DAMAGED)
        return kinds[0]

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[zipfile.ZipFile, Mapping[str, str]]]:
        """Open the archive; what is wrong with it or its XML becomes an error of the file."""
        try:
            with zipfile.ZipFile(self._path) as archive:
                yield archive, _parts(archive)
        except UnreadableSheetError as error:
            raise InvalidInputError(self._path, str(error)) from None
        except (KeyError, NotImplementedError):
            raise InvalidInputError(self._path, _NOT_CHECKED) from None
        except InvalidInputError:
            raise
        except _DAMAGE:
            raise InvalidInputError(self._path, DAMAGED) from None


# The errors of `zipfile`, its decompressors and expat for damaged files.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
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
    folder = book.removesuffix(_OPEN_XML)
    sheets, targets = _Elements(), _Elements()
    _read(archive, parts[book], sheets)
    _read(archive, parts[f"{folder}_rels/{_OPEN_XML}.rels"], targets)
    relations = [
        value
        for name, attributes in sheets.found
        if name == "sheet" and attributes.get("name") == sheet
        for key, value in attributes.items()
        if key.rpartition(":")[2] == "id"
    ]
    found = {
        attributes["Target"]
        for name, attributes in targets.found
        if name == "Relationship" and relations and attributes.get("Id") == relations[0]
    }
    if len(relations) != 1 or len(found) != 1:
        raise KeyError(sheet)
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
