"""
Digests with a byte for each: the first and the newest in memory, the rest in a temporary file.

Laws:
- Memory is bounded by some 40 MB, however many digests there are.
- Whole digests are compared: no two are taken for each other.
- The file is not touched before there are some two million digests. From then on, each 32nd that
  is added writes 512 bytes, and a look-up reads as much for every two million there are.
"""

from __future__ import annotations

import mmap
import tempfile
from array import array
from collections.abc import Iterator
from typing import BinaryIO

from adapty_async.errors import JournalError

__all__ = ("DIGEST_SIZE", "DigestTable")

DIGEST_SIZE = 16
_FIRST = 50_000
"""
Digests in a dictionary, which is the fastest, but takes 100 bytes for each.
"""
_BUCKETS = 1 << 16
"""
By the first two bytes of a digest; the other ones are in the slot.
"""
_REST = DIGEST_SIZE - 2
_SLOT = _REST + 1
_SLOTS = 32
_BUCKET = _SLOTS * _SLOT
_EXTENT = 512
"""
Bytes of a bucket in the file: its slots, and the number of the extent that it had before.
"""


class DigestTable:
    """
    A byte, which is not 0, for each digest.
    """

    def __init__(self) -> None:
        self._first: dict[bytes, int] = {}
        self._slots: mmap.mmap | None = None  # one bucket's after the other's; made when needed
        self._used = array("H")  # bytes of each bucket
        self._newest = array("I")  # the number of each bucket's newest extent, 0 if there is none
        self._extents = 0
        self._file: BinaryIO | None = None

    def get(self, digest: bytes) -> int:
        """
        Return a digest's byte, 0 if there is none.

        Raises:
            JournalError: the temporary file cannot be read.
        """
        value = self._first.get(digest, 0)
        return value or (0 if self._slots is None else self._search(digest, self._slots))

    def put(self, digest: bytes, value: int) -> None:
        """
        Give a byte to a digest, in place of the one it has.

        Raises:
            JournalError: there is no room for the temporary file.
        """
        if digest in self._first or len(self._first) < _FIRST:
            self._first[digest] = value
            return
        slots = self._slots or self._make_slots()
        place = self._place(digest, slots)
        if place < 0:
            self._append(digest, value, slots)
        else:
            slots[place + _REST] = value

    def add(self, digest: bytes) -> bool:
        """
        Give a byte to a digest that has none; return whether it had none.

        Raises:
            JournalError: there is no room for the temporary file, or it cannot be read.
        """
        first = self._first
        if digest in first:
            return False
        if len(first) < _FIRST:
            first[digest] = 1
            return True
        slots = self._slots or self._make_slots()
        if self._search(digest, slots):
            return False
        self._append(digest, 1, slots)
        return True

    def counts(self) -> list[int]:
        """
        Return how many digests have each byte.

        Raises:
            JournalError: the temporary file cannot be read.
        """
        counts = [0] * 256
        for value in self._first.values():
            counts[value] += 1
        for number, used in enumerate(self._used):
            if not used:  # a bucket that was put away has one at once again
                continue
            found: dict[bytes, int] = {}
            for slots in (self._bucket(number, used), *self._extents_of(number)):
                for place in range(0, min(len(slots), _BUCKET), _SLOT):
                    rest = place + _REST
                    found.setdefault(slots[place:rest], slots[rest])  # the newest counts
            for value in found.values():
                counts[value] += 1
        return counts

    def close(self) -> None:
        """
        Give back what it holds.
        """
        self._first.clear()
        if self._slots is not None:
            self._slots.close()
        if self._file is not None:
            self._file.close()

    def _make_slots(self) -> mmap.mmap:
        # not a bytearray: that would be filled with zeros at once, which takes 20 ms
        self._slots = mmap.mmap(-1, _BUCKETS * _BUCKET)
        self._used = array("H", bytes(2 * _BUCKETS))
        self._newest = array("I", bytes(4 * _BUCKETS))
        return self._slots

    def _place(self, digest: bytes, slots: mmap.mmap) -> int:
        """
        Return where the slot of a digest begins in memory, -1 if it has none.
        """
        number = digest[0] << 8 | digest[1]
        start = number * _BUCKET
        return _find(slots, digest[2:], start, start + self._used[number])

    def _search(self, digest: bytes, slots: mmap.mmap) -> int:
        place = self._place(digest, slots)
        if place >= 0:
            return slots[place + _REST]
        number = digest[0] << 8 | digest[1]
        if self._newest[number]:
            for extent in self._extents_of(number):
                place = _find(extent, digest[2:], 0, _BUCKET)
                if place >= 0:
                    return extent[place + _REST]
        return 0

    def _append(self, digest: bytes, value: int, slots: mmap.mmap) -> None:
        number = digest[0] << 8 | digest[1]
        used = self._used[number]
        if used == _BUCKET:
            self._put_away(number, self._bucket(number, used))
            used = 0
        start = number * _BUCKET + used
        slots[start : start + _SLOT] = b"%b%c" % (digest[2:], value)
        self._used[number] = used + _SLOT

    def _bucket(self, number: int, used: int) -> bytes:
        start = number * _BUCKET
        return b"" if self._slots is None else self._slots[start : start + used]

    def _put_away(self, number: int, bucket: bytes) -> None:
        """
        Write a full bucket into the file.
        """
        extent = bucket + self._newest[number].to_bytes(_EXTENT - _BUCKET, "little")
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  close() does
            self._file.seek(self._extents * _EXTENT)
            while extent:
                extent = extent[self._file.write(extent) :]
        except OSError as error:
            raise _unusable(error) from None
        self._extents += 1
        self._newest[number] = self._extents

    def _extents_of(self, number: int) -> Iterator[bytes]:
        """
        Read a bucket's extents, the newest first.
        """
        extent = self._newest[number]
        while extent and self._file is not None:
            try:
                self._file.seek((extent - 1) * _EXTENT)
                content = self._file.read(_EXTENT)
            except OSError as error:
                raise _unusable(error) from None
            extent = int.from_bytes(content[_BUCKET:], "little")
            yield content


def _find(slots: bytes | mmap.mmap, rest: bytes, start: int, end: int) -> int:
    """
    Return where in the slots a digest begins, -1 if it is in none.
    """
    place = slots.find(rest, start, end)
    while place > start and (place - start) % _SLOT:  # the end of one slot and the next one's start
        place = slots.find(rest, place + 1, end)
    return place


def _unusable(error: OSError) -> JournalError:
    return JournalError(f"the temporary file of digests cannot be used: {error.strerror}")
