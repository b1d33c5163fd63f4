"""
An export's file: complete chunks in a partial file, which replaces the target when all are there.

Invariants:

- The target is replaced as a whole, by a rename, after everything is on the disk.
- A chunk counts once it is on the disk, and a line of the state file has the size of the partial
  file that includes it. Bytes after that size belong to an incomplete chunk, and are discarded.
- The partial file is locked, so two processes never write to one.
- The state belongs to one export of one account. Any other export starts fresh.

All functions and methods block.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from adapty_async._runtime.files import flush_folder, is_at, try_lock
from adapty_async.errors import ExportError

_BLOCK = 1024 * 1024


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Convert an error of the system into one that names the file."""
    try:
        yield
    except OSError as error:
        raise ExportError(f"{name} cannot be written: {error.strerror}") from None


class Output:
    """
    A file whose accepted bytes stay, and whose other bytes can be discarded.

    Attributes:
        name: the name of the file in errors.
        size: the number of accepted bytes.
        crc: the CRC-32 of the accepted bytes.
    """

    def __init__(self, file: BinaryIO, name: str, size: int = 0, crc: int = 0) -> None:
        self.file = file
        self.name = name
        self.size = size
        self.crc = crc
        self._end = size
        self._crc = crc

    def discard(self) -> None:
        """Remove the bytes that are not accepted."""
        with _named(self.name):
            self.file.seek(self.size)
            self.file.truncate()
        self._end, self._crc = self.size, self.crc

    def append(self, data: bytes) -> None:
        """Append bytes."""
        with _named(self.name):
            self.file.write(data)
        self._end += len(data)
        self._crc = zlib.crc32(data, self._crc)

    def accept(self) -> None:
        """Accept all bytes."""
        with _named(self.name):
            self.file.flush()
        self.size, self.crc = self._end, self._crc

    def clear(self) -> None:
        """Remove all bytes."""
        self.size = self.crc = 0
        self.discard()

    def head(self, length: int) -> bytes:
        """Return the first accepted bytes."""
        self.file.seek(0)
        return self.file.read(min(length, self.size))


@contextlib.contextmanager
def temporary() -> Iterator[Output]:
    """
    Return a temporary file without a name; it is removed at the end of the block.

    Raises:
        ExportError: there is no folder for it.
    """
    with _named("a temporary file"):
        file = tempfile.TemporaryFile()  # noqa: SIM115  closed below
    try:
        yield Output(file, "the temporary file")
    finally:
        _close(file)


class _Export(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a state file: the format of the file, and the digest of the export."""

    format: int
    export: str


class _State(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a state file: the number of complete chunks, and their size and checksum."""

    chunks: int
    size: int
    crc32: int


_FORMAT = 1


class ExportFile:
    """
    The target of an export, with its partial file and its state file next to it.

    Args:
        path: the target; a symbolic link is followed.
        export: a digest of the export.

    Attributes:
        chunks: the number of complete chunks.
        output: the partial file. It is set by `open`.
    """

    output: Output

    def __init__(self, path: Path, export: str) -> None:
        self._path = _resolved(path)
        self._part = self._path.with_name(f"{self._path.name}.part")
        self._log = self._path.with_name(f"{self._path.name}.part.state")
        self._export = export
        self._file: BinaryIO | None = None
        self._is_known = False  # the state file was read
        self.chunks = 0

    def open(self) -> None:
        """
        Lock the partial file, and find the complete chunks of an earlier run.

        Raises:
            ExportError: a file is in use, is no regular file, or cannot be used.
        """
        with _named(str(self._path)):
            _require_regular(self._path)
            self._file = _locked(self._part)
            state = self._resumed(self._file)
            self.chunks, self._is_known = state.chunks, True
            self.output = Output(self._file, str(self._part), state.size, state.crc32)
            self.output.discard()
            if not state.chunks:
                head = _Export(format=_FORMAT, export=self._export)
                _write(self._log, msgspec.json.encode(head) + b"\n", os.O_TRUNC)

    def _resumed(self, file: BinaryIO) -> _State:
        state = self._last_state()
        return state if _crc(file, state.size) == state.crc32 else _NOTHING

    def _last_state(self) -> _State:
        try:
            head, *lines = self._log.read_bytes().splitlines()
            if msgspec.json.decode(head, type=_Export) != _Export(
                format=_FORMAT, export=self._export
            ):
                return _NOTHING
        except (FileNotFoundError, ValueError):  # no file, an empty one, or another one
            return _NOTHING
        states = [_NOTHING]
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError):  # incomplete, after a crash
                states.append(msgspec.json.decode(line, type=_State))
        return states[-1]

    def accept(self) -> None:
        """
        Make the chunk that was appended durable, and count it.

        Raises:
            ExportError: the disk failed.
        """
        self.output.accept()
        with _named(str(self._part)):
            os.fsync(self.output.file.fileno())
            state = _State(chunks=self.chunks + 1, size=self.output.size, crc32=self.output.crc)
            # the line before may be incomplete
            _write(self._log, b"\n" + msgspec.json.encode(state) + b"\n", os.O_APPEND)
        self.chunks += 1

    def complete(self) -> None:
        """
        Replace the target by the partial file.

        Raises:
            ExportError: the disk failed, or the partial file was moved.
        """
        with _named(str(self._path)):
            if not is_at(self._part, os.fstat(self.output.file.fileno())):
                raise ExportError(f"{self._part} was deleted, moved or replaced during the export")
            self._part.replace(self._path)
            self._log.unlink(missing_ok=True)
            flush_folder(self._path.parent)

    def close(self) -> None:
        """Release the lock, and remove the files if they have no complete chunk."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self._remove_if_useless(os.fstat(self._file.fileno()))
        _close(self._file)

    def _remove_if_useless(self, part: os.stat_result) -> None:
        is_useless = not self.chunks and (self._is_known or not part.st_size)
        if is_useless and is_at(self._part, part):
            self._log.unlink(missing_ok=True)
            self._part.unlink()


_NOTHING = _State(chunks=0, size=0, crc32=0)


def _resolved(path: Path) -> Path:
    """Return an absolute path, since the process may change its directory."""
    try:
        resolved = Path(os.path.realpath(path))
    except ValueError:  # it has a null byte
        raise ExportError("a path must not contain a null byte") from None
    if not resolved.name:
        raise ExportError(f"{resolved} is not a regular file, so it cannot be replaced by one")
    return resolved


def _require_regular(path: Path) -> None:
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise ExportError(f"{path} is not a regular file, so it cannot be replaced by one")


def _locked(path: Path) -> BinaryIO:
    """Open and lock a file; if its name was given to another one meanwhile, that one."""
    if not hasattr(os, "O_NOFOLLOW"):
        raise ExportError("an export needs POSIX file locks, which this system lacks")
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.fdopen(os.open(path, flags, 0o666), "r+b")  # as the umask allows
        is_locked = try_lock(file.fileno())
        if is_locked and is_at(path, os.fstat(file.fileno())):
            return file
        file.close()
        if not is_locked:
            raise ExportError(f"{path} is in use by another export")


def _close(file: BinaryIO) -> None:
    """Close a file; bytes that do not fit on the disk were not accepted anyway."""
    with contextlib.suppress(OSError):
        file.close()


def _crc(file: BinaryIO, size: int) -> int | None:
    """Return the CRC-32 of the first bytes; None if there are fewer."""
    crc, left = 0, size
    file.seek(0)
    while left:
        block = file.read(min(_BLOCK, left))
        if not block:
            return None
        crc, left = zlib.crc32(block, crc), left - len(block)
    return crc


def _write(path: Path, data: bytes, flag: int) -> None:
    # a link in a folder that others may write to could lead to any file
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flag
    handle = os.open(path, flags, 0o666)
    try:
        while data:
            data = data[os.write(handle, data) :]
        os.fsync(handle)
    finally:
        os.close(handle)
