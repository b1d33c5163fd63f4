"""
A reader of input as text: a file, a pipe or standard input, gzip or not, in its encoding.

Invariants:

- A file is read up to the size that it had at first, and never up to the middle of a row.
- A file that is read again has the bytes that it had the first time: each block is compared before
  any of it is returned.
- A byte order mark shows the encoding; without one it is UTF-8 or the configured one.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import gzip
import hashlib
import io
import os
import select
import stat
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from adapty_async.errors import InvalidInputError

#: Completes the name of a file of which no reader would return all rows.
JOINED = (
    "consists of several files that were joined, of which only one would be read: pass each of "
    "them, or write their rows to one file with a program that reads them"
)
_GZIP_MAGIC = b"\x1f\x8b"
# The longer marks first: UTF-32 begins as UTF-16 does.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# The first bytes of files that are no text, whatever their name or option says.
_NO_TEXT = (
    (b"PK\x03\x04", "a spreadsheet or a zip archive"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet"),
    (b"ARROW1\0\0", "an Arrow file"),
    (b"PAR1\x15", "a Parquet file"),
    *((f"BZh{level}1AY&".encode(), "compressed with bzip2") for level in range(1, 10)),
    (b"\xfd7zXZ\0", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"\x04\x22\x4d\x18", "compressed with LZ4"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Obj\x01", "an Avro file"),
)
# Bytes that are compared, and read, at once.
_BLOCK = 256 * 1024
# Bytes that a byte order mark, or the first two bytes of gzip, need.
_HEAD_BYTES = 4
# Bytes that the longest of the signatures needs; none of them has a line break.
_SIGNATURE_BYTES = max(len(begin) for begin, _ in _NO_TEXT)
# Python's own and those of old mail, of which some turn plain letters into line breaks and quotes.
_NO_ENCODINGS = frozenset(
    {"hz", "idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"}
)


def known_encoding(name: str) -> str:
    """
    Return Python's name of a text encoding.

    Raises:
        InvalidInputError: it is unknown, or changes what is a line.
    """
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=name)  # it accepts only text encodings
        found = codecs.lookup(name).name
    except (LookupError, ValueError):
        found = ""
    if not found or found.replace("_", "-") in _NO_ENCODINGS:
        raise InvalidInputError("encoding", f"{name!r} is unknown; use such as cp1252 or utf-16")
    return found


def is_read_once(path: str) -> bool:
    """Return whether an input can be read only once: standard input, a pipe or a terminal."""
    if path == "-":
        return True
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False  # opening it reports the reason
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


class Extent(msgspec.Struct, frozen=True):
    """
    The identity of a file, and its size in bytes when it was examined first.

    Attributes:
        device, inode: its identity.
        size: its size.
        modified, changed: the times of the last changes of its content and of its entry, in ns.
    """

    device: int
    inode: int
    size: int
    modified: int
    changed: int


class FileBytes:
    """
    The first bytes of a file, which are the same however often they are read.

    Attributes:
        extent: the file as it was examined first.
    """

    def __init__(self, extent: Extent) -> None:
        self.extent = extent
        self._digests: dict[int, bytes] = {}

    def is_same(self, number: int, block: bytearray) -> bool:
        """Return whether a block is as it was the first time; the first time it is recorded."""
        digest = hashlib.blake2b(block, digest_size=16).digest()
        return self._digests.setdefault(number, digest) == digest


def extent_of(path: str) -> Extent:
    """
    Return the identity and size of the file that a path names now.

    Raises:
        InvalidInputError: it cannot be read.
    """
    try:
        found = os.stat(path)  # noqa: PTH116  for each row of a table; a Path takes three times as long
    except OSError as error:
        raise InvalidInputError(path, f"cannot be read: {error.strerror}") from None
    if stat.S_ISDIR(found.st_mode):
        raise InvalidInputError(path, "is a folder: name a file in it")
    times = (found.st_mtime_ns, found.st_ctime_ns)
    return Extent(found.st_dev, found.st_ino, found.st_size, *times)


def require_utf8_name(path: str, why: str) -> None:
    """
    Validate that a path is UTF-8; the names of files may be any bytes.

    Args:
        path: the path.
        why: the reason, which ends the message.

    Raises:
        InvalidInputError: it has other bytes.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(path, f"must have a name in UTF-8 {why}: rename it") from None


def require_one_file(path: str, joint: bytes) -> None:
    """
    Validate that a file is not several ones that were joined, such as with ``cat``.

    Args:
        path: the file.
        joint: the end of a file of its format, followed by the beginning of one.

    Raises:
        InvalidInputError: it has this text.
    """
    last = b""
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            if joint in block or joint in last + block[: len(joint)]:
                raise InvalidInputError(path, JOINED)
            last = block[-len(joint) :]


class _Pipe(io.FileIO):
    """
    A raw stream of a pipe or a terminal, which ends once.

    Its first read returns enough bytes to detect the format.
    """

    _has_head = _has_ended = False

    def readinto(self, buffer: Any) -> int:
        """Read available bytes, or wait: another process may have made the pipe non-blocking."""
        view = memoryview(buffer)
        count = self._wait_for(view)
        while not self._has_head and 0 < count < _needed(view[:count]):
            more = self._wait_for(view[count:])
            count += more
            self._has_head = not more
        self._has_head = True
        return count

    def _wait_for(self, part: memoryview) -> int:
        if self._has_ended:  # a terminal would wait for another Ctrl-D
            return 0
        while (count := super().readinto(part)) is None:
            select.select([self], [], [])
        self._has_ended = not count
        return count


def _needed(head: memoryview) -> int:
    """Return how many bytes show the format: a line is not held back until another one comes."""
    return _HEAD_BYTES if b"\n" in bytes(head) else _SIGNATURE_BYTES


class _FirstBytes(io.FileIO):
    """A raw stream of the first bytes of a file: what is appended to the file is not read."""

    def __init__(self, path: str, content: FileBytes) -> None:
        super().__init__(path)
        self._path = path
        self._content = content
        self._left = content.extent.size  # to be read
        self._blocks = 0  # that were read
        self._block = memoryview(b"")  # what is left of the last one
        self._is_packed = False
        self._last = b""
        extent = content.extent
        found = os.fstat(self.fileno())
        if (found.st_dev, found.st_ino) != (extent.device, extent.inode):
            self.close()
            raise InvalidInputError(path, "was replaced by another file meanwhile")

    def readinto(self, buffer: Any) -> int:
        """Read up to the end of these bytes."""
        if not self._block and self._left:
            self._block = memoryview(self._next_block())
        view = memoryview(buffer)
        part = self._block[: len(view)]
        view[: len(part)] = part
        self._block = self._block[len(part) :]
        if not part:
            self._require_whole_line()
        return len(part)

    def _next_block(self) -> bytearray:
        """
        Read the next block in full.

        Raises:
            InvalidInputError: it has changed since it was read before.
        """
        block = bytearray(min(self._left, _BLOCK))
        view, count = memoryview(block), 0
        while count < len(block):
            more = super().readinto(view[count:])
            if not more:
                raise OSError(errno.EIO, "it has become shorter meanwhile")
            count += more
        if not self._content.is_same(self._blocks, block):
            raise InvalidInputError(self._path, "was changed meanwhile")
        if self._blocks == 0:
            self._is_packed = block.startswith(_GZIP_MAGIC)
        self._left -= count
        self._blocks += 1
        self._last = bytes(block[-_HEAD_BYTES:])
        return block

    def _require_whole_line(self) -> None:
        """
        Raise if the file grows, and its size was taken in the middle of a line.

        Half an id is another id. A gzip file marks its own end.
        """
        if self._is_packed or self._last.rstrip(b"\0").endswith(b"\n"):
            return
        end = self.tell()
        added = self.read(2 * _HEAD_BYTES).replace(b"\0", b"")  # two letters of UTF-32
        self.seek(end)  # the end is read more than once
        if added and not added.startswith((b"\n", b"\r\n")):
            raise InvalidInputError(
                self._path, "is being written to, and its last row was not complete: wait for it"
            )


@contextlib.contextmanager
def open_text(
    path: str, content: FileBytes | None, default_encoding: str | None
) -> Iterator[io.TextIOWrapper]:
    """
    Open an input as text whose lines end with a line feed, and with nothing else.

    Args:
        path: the file; ``-`` is standard input.
        content: the file as it was examined first; None to read all that comes.
        default_encoding: the encoding without a byte order mark; None for UTF-8.

    Raises:
        InvalidInputError: the file cannot be read, has changed since it was read before, has
            another encoding, or is a damaged gzip file.
    """
    encoding = default_encoding or "utf-8"
    with contextlib.ExitStack() as stack:
        try:
            raw = stack.enter_context(_binary(path, content))
            packed = raw.peek(2)[:2] == _GZIP_MAGIC
            data = stack.enter_context(gzip.GzipFile(fileobj=raw)) if packed else raw
            encoding = _encoding_of(
                data.peek(_SIGNATURE_BYTES)[:_SIGNATURE_BYTES], default_encoding, path
            )
            errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
            # no other newline: each of "", None and "\r" makes a line of what CR ends
            yield io.TextIOWrapper(data, encoding=encoding, errors=errors, newline="\n")
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise InvalidInputError(path, "is a damaged gzip file") from None
        except OSError as error:
            raise InvalidInputError(path, f"cannot be read: {error.strerror or error}") from None
        except UnicodeError:
            raise InvalidInputError(path, f"is not {encoding.upper()} throughout") from None


def _encoding_of(head: bytes, default_encoding: str | None, path: str) -> str:
    """Return the encoding of text that begins with `head`; a byte order mark takes precedence."""
    for begin, kind in _NO_TEXT:
        if head.startswith(begin):
            raise InvalidInputError(path, f"is {kind}, and cannot be read as text")
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if default_encoding is None and b"\0\0" in (head[:4:2], head[1:4:2]):
        order = "be" if head.startswith(b"\0") else "le"
        raise InvalidInputError(
            path, f"looks like UTF-16 without a byte order mark: set its encoding, utf-16-{order}"
        )
    return default_encoding or "utf-8"


def _binary(path: str, content: FileBytes | None) -> io.BufferedReader:
    """Open a file. Standard input is opened again: it stays open after a blocked read."""
    if content is not None:
        return io.BufferedReader(_FirstBytes(path, content))
    if path != "-":
        return io.BufferedReader(_Pipe(path))
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    return io.BufferedReader(_Pipe(sys.stdin.fileno(), closefd=False))
