"""A reader of compound files, in which .xls has its workbook; [MS-CFB] describes them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from adapty_async._input.files import JOINED
from adapty_async.errors import InvalidInputError

__all__ = ("COMPOUND_FILE", "CompoundFile")

#: Its first bytes.
COMPOUND_FILE = bytes.fromhex("D0CF11E0A1B11AE1")
_ARCHIVE = b"PK\x03\x04"
_FREE = 0xFFFFFFFF
# The smallest number of a sector that is none, but a mark such as the end of a chain.
_MARKS = 0xFFFFFFFA
_ENTRY_BYTES = 128
_STREAM = 2
# Smaller streams are in one of small sectors.
_SMALL_STREAM, _SMALL_SECTOR = 4096, 64


class CompoundFile:
    """
    A compound file in memory.

    Args:
        path: the file.

    Raises:
        InvalidInputError: another file was joined to it, which readers do not find.
        LookupError, struct.error, ValueError: it is damaged.
    """

    def __init__(self, path: str) -> None:
        self._data = Path(path).read_bytes()
        (shift,) = struct.unpack_from("<H", self._data, 30)
        self._size = 1 << shift
        self._sectors = len(self._data) // self._size
        # For each sector the next one of its chain.
        self._next = self._table()
        used = len(self._next)
        while used and self._next[used - 1] == _FREE:
            used -= 1
        if self._sector(used).startswith((COMPOUND_FILE, _ARCHIVE)):
            raise InvalidInputError(path, JOINED)

    def stream(self, *names: str) -> bytes:
        """
        Return the content of the first stream with one of these names, in their order.

        Raises:
            KeyError: there is none.
            LookupError, struct.error, ValueError: the file is damaged.
        """
        streams: dict[str, tuple[int, int]] = {}
        directory = self._chain(self._number_at(48))
        for (entry,) in struct.iter_unpack(f"{_ENTRY_BYTES}s", directory):
            length, kind = struct.unpack_from("<HB", entry, 64)
            if kind == _STREAM:
                name = entry[: max(0, length - 2)].decode("utf-16-le")
                streams.setdefault(name, struct.unpack_from("<II", entry, 116))
        # also if no stream is small: python-calamine reads them without a bound
        small = self._chain(*struct.unpack_from("<I", directory, 116))
        table = self._chain(self._number_at(60))
        start, size = streams[next((name for name in names if name in streams), "")]
        if size >= _SMALL_STREAM:
            return self._chain(start)[:size]
        chain = _numbers_in(start, struct.unpack(f"<{len(table) // 4}I", table))
        starts = (number * _SMALL_SECTOR for number in chain)
        return b"".join(small[start : start + _SMALL_SECTOR] for start in starts)[:size]

    def _number_at(self, position: int) -> int:
        return int.from_bytes(self._data[position : position + 4], "little")

    def _sector(self, number: int) -> bytes:
        return self._data[(number + 1) * self._size : (number + 2) * self._size]

    def _numbers(self, sector: int) -> tuple[int, ...]:
        return struct.unpack(f"<{self._size // 4}I", self._sector(sector))

    def _table(self) -> list[int]:
        count, more, small = self._number_at(44), self._number_at(68), self._number_at(64)
        sectors = list(struct.unpack_from("<109I", self._data, 76))
        while more < _MARKS and len(sectors) <= self._sectors + 109:
            *others, more = self._numbers(more)
            sectors += others
        if max(count, small) > self._sectors or more < _MARKS:
            raise ValueError
        used = [sector for sector in sectors if sector < _MARKS]
        return [number for sector in used for number in self._numbers(sector)]

    def _chain(self, sector: int) -> bytes:
        return b"".join(map(self._sector, _numbers_in(sector, self._next)))


def _numbers_in(sector: int, following: Sequence[int]) -> Iterator[int]:
    """
    Yield the numbers of the sectors of a chain.

    Raises:
        LookupError, ValueError: it is damaged, such as one without an end.
    """
    for _ in range(len(following) + 1):
        if sector >= _MARKS:
            return
        yield sector
        sector = following[sector]
    raise ValueError
