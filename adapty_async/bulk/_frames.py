"""
The bytes of a journal: frames that are whole, or recognisably not.

A frame is a head (length of the content, CRC-32 of the rest of the frame, time) and a content. A
crash can only cut off the end of what was appended; such a torn tail is told apart from damage by
what follows it: nothing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from adapty_async.errors import JournalError

__all__ = ("CONTENT_LIMIT", "Frame", "pack", "scan")

CONTENT_LIMIT = 1 << 16
"""
Bytes of content in one frame at most: what a torn tail can hold, and what a damaged length cannot
exceed without being noticed.
"""

_HEAD = struct.Struct("<IId")
_CHECKED = struct.Struct("<Id")


class Frame(msgspec.Struct, frozen=True):
    """
    One frame: when it was written (seconds since the epoch), its content, and where it ends.
    """

    time: float
    content: bytes
    end: int


def pack(content: bytes, time: float) -> bytes:
    """
    Return the bytes of a frame.
    """
    return _HEAD.pack(len(content), _checksum(content, time), time) + content


def _checksum(content: bytes, time: float) -> int:
    return zlib.crc32(content, zlib.crc32(_CHECKED.pack(len(content), time)))


def scan(file: BinaryIO, start: int) -> Iterator[Frame]:
    """
    Read the frames from a place in a file to its end, or to a torn tail.

    Raises:
        JournalError: a frame is damaged that is not the torn tail.
    """
    file.seek(end := start)
    while frame := _read(file, end):
        yield frame
        end = frame.end
    file.seek(end)
    _demand_torn(file.read(_HEAD.size + 2 * CONTENT_LIMIT), end)


def _read(file: BinaryIO, start: int) -> Frame | None:
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    length, checksum, time = _HEAD.unpack(head)
    if not 1 <= length <= CONTENT_LIMIT:
        return None
    content = file.read(length)
    if len(content) < length or _checksum(content, time) != checksum:
        return None
    return Frame(time, content, start + _HEAD.size + length)


def _demand_torn(tail: bytes, start: int) -> None:
    """
    Demand that what is left can be one frame's beginning: not too long, with no frame after it.
    """
    damaged = len(tail) > _HEAD.size + CONTENT_LIMIT or any(
        _is_frame(tail, offset) for offset in range(1, len(tail) - _HEAD.size)
    )
    if damaged:
        raise JournalError(f"the journal is damaged at byte {start}; it cannot be relied on")


def _is_frame(data: bytes, start: int) -> bool:
    length, checksum, time = _HEAD.unpack_from(data, start)
    end = start + _HEAD.size + length
    if not 1 <= length <= CONTENT_LIMIT or end > len(data):
        return False
    return bool(_checksum(data[start + _HEAD.size : end], time) == checksum)
