"""
The journal of a bulk run: what was begun and how it ended, on disk before anyone is told.

Laws:
- What is noted is safe from the death of the process at once, and from a loss of power soon; see
  `adapty_async.bulk._log`.
- One process at a time has a journal open.
- It holds positions or keyed digests, never an id, a key or what a server said.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import msgspec

from adapty_async.bulk._entries import Digests, Entry, Index, Positions, rate_key
from adapty_async.bulk._header import HEADER_SIZE, Binding, Header, read_header, write_header
from adapty_async.bulk._log import Log, write_all
from adapty_async.bulk._record import LAST_MOMENT, scan
from adapty_async.errors import JournalError

__all__ = ("Journal", "Opened", "index_for", "moments", "open_journal", "records_of")

InputCheck: TypeAlias = Callable[[dict[str, Any]], str | None]
"""
Given what a journal knows of its input, says what does not fit, or None.
"""


class Opened(msgspec.Struct, frozen=True):
    """
    A journal's file, locked, with what earlier runs noted and where their last record ends.
    """

    handle: int
    path: Path
    index: Index
    end: int
    started: float

    def close(self) -> None:
        """
        Give back what is not used after all.
        """
        os.close(self.handle)
        self.index.close()


class Journal(Log):
    """
    An open journal: what earlier runs noted, and a place to note more: of which item, and what.

    Args:
        opened: its file.
        owed: items at most that may have begun and not ended.
        clock: seconds since the epoch.

    Attributes:
        is_new: earlier runs noted nothing.
    """

    def __init__(self, opened: Opened, owed: int, clock: Callable[[], float] = time.time) -> None:
        self._index = opened.index
        self._path = opened.path
        self.is_new = opened.end == HEADER_SIZE

        def now() -> int:
            return moments(clock() - opened.started)

        super().__init__(opened.handle, opened.end, opened.index.key_size, now, owed)

    def known(self, key: bytes) -> Entry:
        """
        Return what earlier runs noted of an item.
        """
        return self._index.get(key)

    @property
    def rate(self) -> float | None:
        """
        The pace that was noted last.
        """
        return self._index.rate

    def note_rate(self, rate: float) -> None:
        """
        Note the pace that was learned, if it is another one and there is room.
        """
        if self.is_ready and rate != self._index.rate:
            self.note(rate_key(rate, self._index.key_size), Entry.RATE)
            self._index.rate = rate

    async def aclose(self) -> None:
        """
        See everything onto the disk, and close the file.

        Raises:
            JournalError: something could not be written.
        """
        try:
            await super().aclose()
        finally:
            self._index.close()

    def _flush(self) -> None:
        super()._flush()
        if not _is_at(self._path, self._handle):
            raise JournalError(
                f"the journal {self._path} was deleted, moved or replaced during the run"
            )


def _is_at(path: Path, handle: int) -> bool:
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return os.path.samestat(found, os.fstat(handle))


def moments(seconds: float) -> int:
    """
    Return a time span in the unit of a journal, whole seconds, as far as its records can hold it.
    """
    return min(max(0, int(seconds)), LAST_MOMENT)


def index_for(keys: str) -> Index:
    """
    Return an empty index for a kind of keys.
    """
    return Positions() if keys == Positions.kind else Digests()


def open_journal(path: Path, wanted: Binding, check: InputCheck) -> Opened:
    """
    Open the journal of a run, or start one, and read what earlier runs noted. Blocks.

    Raises:
        JournalError: it belongs to another run, is in use, is damaged, or is no journal.
        ConfigError: the description of the run is too long.
    """
    handle = _opened(path)
    index = index_for(wanted.keys)
    try:
        _lock(handle, path)
        with os.fdopen(handle, "rb", closefd=False) as file:
            found = read_header(file.read(HEADER_SIZE + 1), path)
            end = HEADER_SIZE
            if found is not None:
                _demand_same(found.binding, wanted, check, path)
                for end, key, value, _ in scan(file, index.key_size):  # noqa: B007  the last end is used
                    index.load(key, value)
        started = _bind(handle, path, found, wanted)
        os.ftruncate(handle, end)
    except BaseException as error:
        os.close(handle)
        index.close()
        if isinstance(error, OSError):
            raise JournalError(f"the journal {path} cannot be used: {error.strerror}") from None
        raise
    # the run may change its directory
    return Opened(handle, path.absolute(), index, end, started)


def _opened(path: Path) -> int:
    if not hasattr(os, "O_NOFOLLOW"):
        raise JournalError("a journal needs POSIX file locks, which this system does not have")
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        is_link = error.errno == errno.ELOOP  # O_NOFOLLOW's way to say so
        reason = "it is a symbolic link" if is_link else error.strerror
        raise JournalError(f"the journal {path} cannot be opened: {reason}") from None


def _lock(handle: int, path: Path) -> None:
    import fcntl  # noqa: PLC0415  POSIX only, and so are journals

    if not stat.S_ISREG(os.fstat(handle).st_mode):  # reading a pipe would never end
        raise JournalError(f"the journal {path} cannot be used: not a regular file")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalError(f"the journal {path} is in use by another process") from None


def _bind(handle: int, path: Path, found: Header | None, wanted: Binding) -> float:
    """
    Write down what the journal belongs to, unless that stands there; return when it was begun.
    """
    os.fchmod(handle, 0o600)
    started = wanted.started if found is None else found.binding.started
    binding = msgspec.structs.replace(wanted, started=started)
    if found is None:
        _begin(handle, path, Header(0, binding))
    elif found.binding != binding:
        # in both places: with the old one in the other, damage to the new one would bring it back
        for generation in (found.generation + 1, found.generation + 2):
            place, content = write_header(Header(generation, binding))
            write_all(handle, content, place)
            os.fsync(handle)
    return started


def _begin(handle: int, path: Path, header: Header) -> None:
    _, content = write_header(header)
    try:
        write_all(handle, content.ljust(HEADER_SIZE, b"\0"), 0)
        os.fsync(handle)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # or the new file's name may be gone after a loss of power
        finally:
            os.close(folder)
    except OSError:
        os.ftruncate(handle, 0)  # with room on the disk it begins anew
        raise


def _demand_same(found: Binding, wanted: Binding, check: InputCheck, path: Path) -> None:
    told = [
        f"{name}: {getattr(found, name)} there, {getattr(wanted, name)} here"
        for name in ("operation", "origin", "keys")
        if getattr(found, name) != getattr(wanted, name)
    ]
    if found.account != wanted.account:
        told.append("account: another key")
    if found.keys == wanted.keys and (difference := check(found.input)):
        told.append(f"input: {difference}")
    if told:
        raise JournalError(f"the journal {path} belongs to another run; {'; '.join(told)}")


def records_of(file: BinaryIO, index: Index) -> Iterator[tuple[int, float | None]]:
    """
    Read a journal into an index; yield the entry of each record, and seconds since it was begun.

    The seconds are None where they are those of the record before, as most are.

    Raises:
        JournalError: a record is damaged.
    """
    before = -1
    for _, key, value, moment in scan(file, index.key_size):
        index.load(key, value)
        yield value, None if moment == before else moment
        before = moment
