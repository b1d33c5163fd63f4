"""
A journal's records as bytes, written and read without the code under test.
"""

from __future__ import annotations

import itertools
import mmap
import struct
import zlib
from collections.abc import Iterator

from adapty_async.bulk._entries import Entry
from adapty_async.bulk._header import HEADER_SIZE

__all__ = ("KEY_SIZES", "MARKS", "PAGE", "SIZES", "at", "by_key", "mark_place", "record", "records")

PAGE = max(mmap.ALLOCATIONGRANULARITY, 4096)
SIZES = {"position": 16, "digest": 32}
KEY_SIZES = {"position": 6, "digest": 16}


def _words() -> Iterator[int]:
    """
    Yield the words of the extended Hamming code that have 4 bits, the smallest first.
    """
    rows = (0xFF, 0x0F, 0x33, 0x55)
    sums = set[int]()
    for chosen in itertools.product((0, 1), repeat=len(rows)):
        word = 0
        for taken, row in zip(chosen, rows, strict=True):
            word ^= taken * row
        sums.add(word)
    yield from sorted(sums - {0, 0xFF})


MARKS = {value: bytes((word, 255 - word)) for value, word in enumerate(_words(), 1)}


def at(position: int) -> bytes:
    """
    Return the key of a position.
    """
    return struct.pack("<Q", position)[:6]


def _checksum(key: bytes, stamp: int) -> int:
    return zlib.crc32(struct.pack("<I", stamp) + key)


def record(key: int | bytes, entry: int, moment: int = 0, amended: int = 0) -> bytes:
    """
    Return a record, with what it was amended to, if it was.
    """
    key, stamp = at(key) if isinstance(key, int) else key, moment << 4 | entry
    content = key + struct.pack("<II", stamp, _checksum(key, stamp))
    content += MARKS[amended] if amended else b""
    return content.ljust(16 if len(key) == 6 else 32, b"\0")


def mark_place(kind: str) -> int:
    """
    Return where in a record of that kind its mark begins.
    """
    return KEY_SIZES[kind] + 8


def by_key(data: bytes, kind: str) -> dict[bytes, list[Entry]]:
    """
    Return what a journal was told of each key, in its order.
    """
    found: dict[bytes, list[Entry]] = {}
    for key, entry in records(data, kind):
        found.setdefault(key, []).append(entry)
    return found


def records(data: bytes, kind: str) -> list[tuple[bytes, Entry]]:
    """
    Return what a journal was told, for each key in its order.

    A record that was amended tells two things.
    """
    size, key_size = SIZES[kind], KEY_SIZES[kind]
    found: list[tuple[bytes, Entry]] = []
    for start in range(HEADER_SIZE, len(data) - size + 1, size):
        content = data[start : start + size]
        if not content.strip(b"\0"):
            continue
        key, mark = content[:key_size], content[key_size + 8 : key_size + 10]
        stamp, check = struct.unpack_from("<II", content, key_size)
        assert _checksum(key, stamp) == check
        found.append((key, Entry(stamp & 15)))
        if mark != b"\0\0":
            [value] = [value for value, known in MARKS.items() if known == mark]
            found.append((key, Entry(value)))
    return found
