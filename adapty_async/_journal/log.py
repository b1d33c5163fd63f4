"""
A check of SQLite's write-ahead log for a flipped bit, which SQLite reads as the end of the log.

The log ends at the first frame with a wrong checksum. After a kill or a loss of power this is
correct, since the rest was not or only partly written. After a flipped bit it would undo durable
commits, so a frame that is correct but for one bit is damage. See
https://www.sqlite.org/fileformat2.html#the_write_ahead_log for the format.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from adapty_async._journal.model import DamageError

_MASK = (1 << 32) - 1
_HEADER = 32
_FRAME_HEADER = 24
_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}
_PAGE_SIZES = frozenset(1 << power for power in range(9, 17))


class _Sum(NamedTuple):
    """A cumulative checksum of the log."""

    first: int
    second: int

    def of(self, words: tuple[int, ...]) -> _Sum:
        """Return the checksum after an even number of further words."""
        first, second = self
        for word, next_word in zip(words[::2], words[1::2], strict=True):
            first = (first + word + second) & _MASK
            second = (second + next_word + first) & _MASK
        return _Sum(first, second)


def verify_log(path: Path) -> None:
    """
    Validate that the log of a database ends where its writer stopped.

    Raises:
        DamageError: the log ends because of a flipped bit.
    """
    with path.open("rb") as file:
        _verify(file)


def _verify(file: BinaryIO) -> None:
    header = file.read(_HEADER)
    if len(header) < _HEADER or not any(header):
        return  # nothing was written
    magic, _, size = struct.unpack_from(">3I", header)
    order, words = _MAGIC.get(magic, "<"), 2 + size // 4
    known = _Sum(*struct.unpack_from(">2I", header, _HEADER - 8))
    is_whole = magic in _MAGIC and size in _PAGE_SIZES
    if not is_whole or _Sum(0, 0).of(struct.unpack_from(f"{order}6I", header)) != known:
        raise DamageError("the header of its write-ahead log is damaged")
    unpack = struct.Struct(f"{order}{words}I").unpack
    salt = header[16:24]
    while len(frame := file.read(_FRAME_HEADER + size)) == _FRAME_HEADER + size:
        found = _Sum(*struct.unpack_from(">2I", frame, 16))
        expected = known.of(unpack(frame[:8] + frame[_FRAME_HEADER:]))
        is_last = (frame[8:16], found) != (salt, expected)
        if is_last:
            _require_end(_flipped(frame[8:16], salt), found, expected, words)
            return
        known = found


def _flipped(one: bytes, other: bytes) -> int:
    """Return the number of bits that differ."""
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()


def _require_end(in_salt: int, found: _Sum, expected: _Sum, words: int) -> None:
    """Raise an error if a frame with a wrong checksum would be correct with one other bit."""
    if in_salt:
        is_damaged = in_salt == 1 and found == expected
    else:
        in_sum = (found.first ^ expected.first).bit_count()
        in_sum += (found.second ^ expected.second).bit_count()
        first, second = (found.first - expected.first) & _MASK, (found.second - expected.second)
        is_damaged = in_sum == 1 or _is_of_a_word(first, second & _MASK, words)
    if is_damaged:
        raise DamageError("its write-ahead log is damaged")


def _is_of_a_word(first: int, second: int, words: int) -> bool:
    """Return whether one flipped bit in *n* words explains a difference of checksums."""
    # the share of the first and second word of a pair in the checksum
    for one, other in ((1, 1), (0, 1)):
        for _ in range(words // 2):
            if not (first * other - second * one) & _MASK:
                # one of the two is odd, so it has an inverse, and the factor is unique
                by, total = (other, second) if other & 1 else (one, first)
                change = total * pow(by, -1, _MASK + 1) & _MASK
                if 1 in (change.bit_count(), (-change & _MASK).bit_count()):
                    return True
            one, other = (one + other) & _MASK, (one + 2 * other) & _MASK  # noqa: PLW2901
    return False
