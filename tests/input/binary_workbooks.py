"""Writers of binary workbooks, .xlsb and .xls, from their records, for what no library writes."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.input.spreadsheets import write_parts

_SECTOR = 512
_FREE, _END, _TABLE, _TABLE_OF_TABLES = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD, 0xFFFFFFFC


def short_record(kind: int, content: bytes = b"") -> bytes:
    """Return a record of .xlsb; numbers and lengths from 128 on have two bytes."""
    return b"".join(
        bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80, number >> 7])
        for number in (kind, len(content))
    ) + content  # fmt: skip


def short_row(number: int, *cells: bytes, height: int = 300, flags: int = 0) -> bytes:
    """Return a row of .xlsb, by the number that people see."""
    begin = struct.pack("<IIHBBBI", number - 1, 0, height, 0, flags, 0, 0)
    return short_record(0, begin) + b"".join(cells)


def short_cell(kind: int, content: bytes, column: int = 0, style: int = 0) -> bytes:
    """Return a cell of .xlsb."""
    return short_record(kind, struct.pack("<II", column, style) + content)


def short_text(text: str, column: int = 0) -> bytes:
    """Return a cell of .xlsb with text."""
    return short_cell(6, _wide(text), column)


def write_xlsb(
    path: Path, rows: bytes, *, formats: Sequence[str] = (), behind: bytes = b"", copies: int = 1
) -> Path:
    """
    Write a workbook of .xlsb.

    Args:
        path: the file.
        rows: the records of its rows.
        formats: the number formats, from style 1 on; if there are none, it has no styles.
        behind: records behind the rows.
        copies: entries of the sheet.
    """
    size = struct.pack("<4I", 0, 1000, 0, 10)
    sheet = [short_record(0x81), short_record(0x94, size), short_record(0x91), rows]
    sheet += [short_record(0x92), behind, short_record(0x82)]
    entry = short_record(0x9C, struct.pack("<II", 0, 1) + _wide("rId1") + _wide("Users"))
    relation = (
        '<Relationships><Relationship Id="rId1" Type="http://schemas.openxmlformats.org/'
        'officeDocument/2006/relationships/worksheet" Target="worksheets/sheet1.bin"/>'
        "</Relationships>"
    )
    book = [short_record(0x83), short_record(0x8F), entry * copies]
    parts = {
        "xl/_rels/workbook.bin.rels": relation.encode(),
        "xl/workbook.bin": b"".join([*book, short_record(0x90), short_record(0x84)]),
        "xl/worksheets/sheet1.bin": b"".join(sheet),
    }
    if formats:
        parts["xl/styles.bin"] = _styles(formats)
    return write_parts(path, parts)


def _styles(formats: Sequence[str]) -> bytes:
    found = [short_record(615, struct.pack("<I", len(formats)))]
    found += [
        short_record(44, struct.pack("<H", number) + _wide(code))
        for number, code in enumerate(formats, 170)
    ]
    styles = [
        short_record(47, struct.pack("<HH12x", 0, number))
        for number in (0, *range(170, 170 + len(formats)))
    ]
    count = short_record(617, struct.pack("<I", len(styles)))
    parent = short_record(47, struct.pack("<HH12x", 0xFFFF, 170))
    return b"".join([*found, parent, count, *styles, short_record(618)])


def _wide(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode("utf-16-le")


def record(kind: int, content: bytes = b"") -> bytes:
    """Return a record of .xls."""
    return struct.pack("<HH", kind, len(content)) + content


def text(row: int, column: int, value: str) -> bytes:
    """Return a cell of .xls with text; positions are from 0."""
    return record(0x204, struct.pack("<3HHB", row, column, 0, len(value), 0) + value.encode())


def number(row: int, column: int, value: float, style: int = 0) -> bytes:
    """Return a cell of .xls with a number."""
    return record(0x203, struct.pack("<3Hd", row, column, style, value))


def formula(row: int, column: int, result: bytes, tokens: bytes) -> bytes:
    """Return a cell of .xls with a formula, and the eight bytes of its result."""
    head = struct.pack("<3H8sHIH", row, column, 0, result, 0, 0, len(tokens))
    return record(0x06, head + tokens)


def row_of(number: int, *, height: int = 255, flags: int = 0) -> bytes:
    """Return the properties of a row of .xls, by the number that people see."""
    return record(0x208, struct.pack("<6HBBH", number - 1, 0, 9, height, 0, 0, flags, 1, 0))


def workbook(sheets: Mapping[str, bytes], formats: Sequence[bytes] = ()) -> bytes:
    """
    Return the stream of a workbook.

    Args:
        sheets: the records of each sheet.
        formats: the codes of number formats, from style 1 on, with what is before them.
    """
    head = record(0x809, struct.pack("<HH12x", 0x600, 5))
    head += b"".join(
        record(0x41E, struct.pack("<H", index) + code) for index, code in enumerate(formats, 170)
    )
    head += b"".join(
        record(0xE0, struct.pack("<HH16x", 0, index))
        for index in (0, *range(170, 170 + len(formats)))
    )
    parts = [
        record(0x809, struct.pack("<HH12x", 0x600, 16)) + rows + record(0x0A)
        for rows in sheets.values()
    ]
    start = len(head) + sum(12 + len(name) for name in sheets) + 4
    entries = b""
    for name, part in zip(sheets, parts, strict=True):
        entry = struct.pack("<IBBBB", start, 0, 0, len(name), 0) + name.encode("latin-1")
        entries += record(0x85, entry)
        start += len(part)
    return head + entries + record(0x0A) + b"".join(parts)


def narrow(code: str) -> bytes:
    """Return the code of a number format in which a letter has one byte."""
    return struct.pack("<HB", len(code), 0) + code.encode("latin-1")


def wide(code: str) -> bytes:
    """Return the code of a number format in which a letter has two bytes."""
    return struct.pack("<HB", len(code), 1) + code.encode("utf-16-le")


def compound_file(entry: str, content: bytes, *, tables: int = 1) -> bytes:
    """
    Return a compound file with one stream, in small sectors if it is short.

    Args:
        entry: the name of the stream.
        content: its bytes.
        tables: the sectors with the next sectors of all others, at least.
    """
    is_small = len(content) < 4096
    more = 1 if tables > 109 else 0
    directory = tables + more
    small, first = directory + 1, directory + 1 + is_small
    sectors = -(-len(content) // _SECTOR)
    following = [_TABLE] * tables + [_TABLE_OF_TABLES] * more + [_END] * (1 + is_small)
    following += [*range(first + 1, first + sectors), _END]
    following += [_FREE] * (128 * tables - len(following))
    numbers = [*range(tables), *[_FREE] * 127]
    header = struct.pack(
        "<8s16x5H6x118I",
        *(bytes.fromhex("D0CF11E0A1B11AE1"), 0x3E, 3, 0xFFFE, 9, 6),
        *(0, tables, directory, 0, 4096, small if is_small else _END, is_small),
        *(tables if more else _END, more, *(numbers[:109])),
    )
    small_sectors = -(-len(content) // 64)
    table = [*range(1, small_sectors), _END, *[_FREE] * (128 - small_sectors)] if is_small else []
    parts = [
        struct.pack(f"<{len(following)}I", *following),
        struct.pack("<128I", *numbers[109:236], _END) if more else b"",
        _entry("Root Entry", 5, first if is_small else _END, 64 * small_sectors)
        + _entry(entry, 2, 0 if is_small else first, len(content))
        + bytes(2 * 128),
        struct.pack(f"<{len(table)}I", *table),
        content.ljust(sectors * _SECTOR, b"\0"),
    ]
    return header + b"".join(parts)


def _entry(name: str, kind: int, start: int, size: int) -> bytes:
    return struct.pack(
        "<64sHBB3I36xIQ",
        name.encode("utf-16-le"),
        2 * len(name) + 2,
        *(kind, 1, _FREE, _FREE, 1, start, size),
    )


def write_xls(path: Path, sheet: bytes, formats: Sequence[bytes] = (), *, tables: int = 1) -> Path:
    """Write a workbook of .xls with the records of its only sheet."""
    book = workbook({"Users": sheet}, formats)
    path.write_bytes(compound_file("Workbook", book, tables=tables))
    return path
