"""
The beginning of a journal: what it belongs to, in two places that are written in turn.

A new text goes into the place that does not hold the present one, so there is a whole one at any
instant.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import msgspec

from adapty_async.errors import ConfigError, JournalError

__all__ = ("HEADER_SIZE", "Binding", "Header", "read_header", "write_header")

_MAGIC = b"adapty-async journal 5\n"
_HEAD = struct.Struct(f"<{len(_MAGIC)}sIII")  # with the CRC-32, the generation and the length
_PLACE = 4096
HEADER_SIZE = 2 * _PLACE
"""
Bytes before the first record.
"""


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a journal belongs to; a run of anything else is refused.

    Attributes:
        operation: the call, and what its items are.
        origin: where it is sent.
        account: a digest of the key.
        keys: how items are told apart: ``position`` or ``digest``.
        input: what is known of the input, such as a file's size and digest or the caller's job id.
        started: when the journal was begun, in seconds since the epoch.
    """

    operation: str
    origin: str
    account: str
    keys: str
    input: dict[str, Any]
    started: float


class Header(msgspec.Struct, frozen=True):
    """
    A binding, and how many were written before it.
    """

    generation: int
    binding: Binding


def write_header(header: Header) -> tuple[int, bytes]:
    """
    Return where a header goes, and the bytes to be written there.

    Raises:
        ConfigError: the name of the run and what is known of its input are too long.
    """
    content = msgspec.json.encode(header.binding)
    if _HEAD.size + len(content) > _PLACE:
        raise ConfigError("name and job_id are too long for a journal; about 3,000 bytes fit")
    checksum = _checksum(header.generation, content)
    head = _HEAD.pack(_MAGIC, checksum, header.generation, len(content))
    return header.generation % 2 * _PLACE, (head + content).ljust(_PLACE, b"\0")


def _checksum(generation: int, content: bytes) -> int:
    return zlib.crc32(content, generation)


def read_header(data: bytes, path: Path) -> Header | None:
    """
    Read the latest header out of a file's beginning; None if the file was never begun.

    Args:
        data: `HEADER_SIZE` bytes and one more, as far as the file has them.
        path: how the file is named in errors.

    Raises:
        JournalError: it is no journal, of another version, or damaged.
    """
    is_alone = len(data) <= HEADER_SIZE
    if is_alone and not data.strip(b"\0"):
        return None
    places = (data[:_PLACE], data[_PLACE:HEADER_SIZE])
    if not any(place.startswith(_MAGIC[:-3]) for place in places):
        raise JournalError(f"{path} is not a journal of this library")
    if not any(place.startswith(_MAGIC) for place in places):
        raise JournalError(f"the journal {path} is of a version that is not understood")
    found = [header for place in places if (header := _read_place(place)) is not None]
    if found:
        return max(found, key=lambda header: header.generation)
    if len(data) == HEADER_SIZE and not places[1].strip(b"\0"):
        return None  # a loss of power tore the first header; nothing was noted before it was whole
    raise JournalError(f"the journal {path} is damaged at its beginning")


def _read_place(place: bytes) -> Header | None:
    if len(place) < _HEAD.size:
        return None
    magic, checksum, generation, length = _HEAD.unpack_from(place)
    content = place[_HEAD.size : _HEAD.size + length]
    if magic != _MAGIC or checksum != _checksum(generation, content):
        return None
    try:
        return Header(generation, msgspec.json.decode(content, type=Binding))
    except msgspec.DecodeError:
        return None
