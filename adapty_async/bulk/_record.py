"""
How a journal's records are packed, and read again; what their values mean is not known here.

A record is a key, a stamp (a value at a moment), a checksum of both, and a mark: what amended its
value later, if anything did. A file has them one after the other.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from typing import BinaryIO
from zlib import crc32

from adapty_async.bulk._header import HEADER_SIZE
from adapty_async.errors import JournalError

__all__ = ("LAST_MOMENT", "MARKS", "mark_place", "record_of", "scan", "stamps_at")

_BLOCK = 1 << 18
"""
Bytes that are read at a time.
"""
_VALUE_BITS = 4
LAST_MOMENT = (1 << 32 - _VALUE_BITS) - 1
"""
What a record has room for: with a moment of a second, eight and a half years.
"""
_WORDS = bytes.fromhex("0f 33 3c 55 5a 66 69 96 99 a5 aa c3 cc f0")
_BY_VALUE = (0, *(word | (word ^ 0xFF) << 8 for word in _WORDS))
"""
How the value that amends a record, 1 to 14, is written into it: a word of the extended Hamming
code, then the same with all its bits inverted. So two marks, or one and none, differ in 8 of their
16 bits and in both bytes, and a place that is filled with one byte has no mark.
"""
_VALUE_OF = {mark: value for value, mark in enumerate(_BY_VALUE)}
MARKS = [int.from_bytes(mark.to_bytes(2, "little"), sys.byteorder) for mark in _BY_VALUE]
"""
The mark of each value, as a number of this machine that has the same bytes on all.
"""


def record_of(key_size: int) -> struct.Struct:
    """
    Return how a record is packed: a key, a stamp, a checksum of both, a mark.

    Zeros fill it up to a power of 2.
    """
    used = key_size + 10
    return struct.Struct(f"<{key_size}sIIH{(1 << (used - 1).bit_length()) - used}x")


def mark_place(key_size: int) -> int:
    """
    Return where in a record its mark begins.

    That is even, as the size of a key must be, so that a mark can be stored in one go.
    """
    return key_size + 8


def stamps_at(moment: int) -> list[tuple[int, int]]:
    """
    Return the stamps of a moment, by value, and beside each the beginning of the checksum.
    """
    stamps = range(moment << _VALUE_BITS, moment + 1 << _VALUE_BITS)
    return [(stamp, _seed_of(stamp)) for stamp in stamps]


def _seed_of(stamp: int) -> int:
    """
    Return what the checksum of a stamp and a key is before the key; the stamp itself would not do.

    It would cancel out with the key: the same bits wrong in both would not show.
    """
    return crc32(stamp.to_bytes(4, "little"))


def scan(file: BinaryIO, key_size: int) -> Iterator[tuple[int, bytes, int, int]]:
    """
    Read the records of a file; yield where each ends, its key, its value and its moment.

    The value of a record that was amended is the later one. Zeros are no record: room that was not
    used, or what a loss of power took. Neither is the last one if it is not whole: the process died
    while it was noted.

    Raises:
        JournalError: a record is damaged.
    """
    file.seek(HEADER_SIZE)
    place, broken = HEADER_SIZE, None
    record = record_of(key_size)
    size = record.size
    while block := file.read(_BLOCK // size * size):
        for start in range(0, len(block.rstrip(b"\0")), size):
            data = block[start : start + size]
            key, stamp, check, mark = record.unpack(data.ljust(size, b"\0"))
            is_whole = len(data) == size and crc32(key, _seed_of(stamp)) == check
            if not is_whole and not data.strip(b"\0"):
                continue
            if broken is not None:
                raise _damaged(broken)
            if is_whole and mark in _VALUE_OF:
                value = _VALUE_OF[mark] or stamp & (1 << _VALUE_BITS) - 1
                yield place + start + size, key, value, stamp >> _VALUE_BITS
            elif not is_whole and (len(data) < size or not mark):
                broken = place + start  # if it is the last one, it is torn
            else:  # a mark comes after the rest, in one go
                raise _damaged(place + start)
        place += len(block)


def _damaged(place: int) -> JournalError:
    return JournalError(f"the journal is damaged at byte {place}")
