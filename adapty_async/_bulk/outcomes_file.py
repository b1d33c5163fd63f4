"""
An outcomes file: an append-only log of how each item of a run ended, with its id, as NDJSON.

Invariants:

- An outcome is one line. A line is ASCII, so no reader sees a line break within it.
- Lines are only appended. The last line of an item counts, and contains no less than an earlier
  one: an item that a run does not process gets no line, unless it shows more than its last one.
- A run holds the file's lock, so two runs never write to one file.
- Each group of lines is flushed before the next group is written. A crash leaves at most one
  incomplete line, and the next opening removes it.
- The event loop makes no call to the disk.
"""

from __future__ import annotations

import array
import asyncio
import bisect
import contextlib
import datetime as dt
import errno
import json
import os
import re
import stat
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from adapty_async._api.codec import plain
from adapty_async._bulk.outcome import EarlierStatus, Outcome, OutcomeStatus
from adapty_async._runtime.database import DatabaseThread
from adapty_async._runtime.files import PRIVATE, flush_folder, is_at, try_lock
from adapty_async._runtime.fork import register_fork_handler
from adapty_async._runtime.loop import despite_cancellation, until_ended
from adapty_async.errors import InvalidInputError, JournalError, name_or_none

# Maximum seconds until a line is written, apart from the time that the disk takes.
_WRITE_SECONDS = 0.1
# Pending lines that are written without waiting for the timer.
_GROUP = 256
# Lines that are encoded before they are written.
_LINES_PER_WRITE = 64
# Pending lines from which on no more items are processed until they are written.
_MAX_PENDING = 16 * _GROUP
# How much a line shows of its item's outcome.
_RANKS = {
    OutcomeStatus.NOT_SENT: 1,
    OutcomeStatus.FAILED: 2,
    OutcomeStatus.UNKNOWN: 3,
    OutcomeStatus.DONE: 4,
    OutcomeStatus.ABSENT: 4,
    OutcomeStatus.SKIPPED: 4,
}
_RANK_BITS = 0b111
_NEXT_KEY = b'"id":'
_FIRST_KEY = b'{"line":'
_FIRST_PAIR = re.compile(rb'\{"line":[0-9]+')
_HASH_BYTES = 8
# Arrays in which the ids of a file are sorted. An insertion moves half of one: 5 kB of 10 million.
_PARTITIONS = 8192
_sync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


class OutcomeLine(msgspec.Struct, frozen=True, kw_only=True):
    """
    A line of an outcomes file.

    Attributes:
        line: the number of the input's line, or the item's position; both count from 1.
        id: the id of the item's profile or object; None if it has none that can be read.
        status: the status with which the item ended.
        at: the date and time at which it ended, in whole seconds; see `Outcome.at`.
        http_status, request_id, attempts: as in its `Outcome`.
        error: the facts of its error; None if there was none.
        earlier: the earlier status of a skipped item; absent for every other status.
    """

    line: Annotated[int, msgspec.Meta(ge=1)]
    id: str | None
    status: OutcomeStatus
    at: dt.datetime | None
    http_status: int | None
    request_id: str | None
    attempts: int
    error: dict[str, Any] | None
    earlier: EarlierStatus | UnsetType = UNSET


class Entry(NamedTuple):
    """
    An outcome that is to be written.

    Attributes:
        line: the line of the item.
        id: its id.
        outcome: the outcome.
        is_earlier: the run did not process the item, so the outcome is written only if it shows
            more than the item's last line.
    """

    line: int
    id: str | None
    outcome: Outcome[Any, Any]
    is_earlier: bool = False


_read_line = msgspec.json.Decoder(OutcomeLine).decode


def error_facts(error: Exception) -> dict[str, Any]:
    """
    Return the facts of an error, with the same keys for each, without texts of a server.

    A code, a field or a request id that is not a name is left out: a server may have echoed
    personal data, or the key.
    """
    facts = ("status", "error_code", "field_name", "request_id")
    content = {"type": type(error).__name__} | {name: _fact(error, name) for name in facts}
    if isinstance(error, InvalidInputError):
        content |= {"field_name": error.field, "rule": error.rule}
    return content


def _fact(error: Exception, name: str) -> str | int | None:
    value = getattr(error, name, None)  # the error of a custom transport may hold any type
    if isinstance(value, str):
        return name_or_none(value)
    return value if isinstance(value, int) else None


def parse_line(text: bytes) -> OutcomeLine | None:
    """Parse a line of an outcomes file; return None if it is not an outcome."""
    try:
        return _read_line(text)
    except msgspec.ValidationError:
        return None
    except (ValueError, RecursionError):
        pass
    try:  # msgspec rejects lone surrogates
        return msgspec.convert(json.loads(text), OutcomeLine)
    except (ValueError, RecursionError):
        return None


def _encoded(entry: Entry) -> bytes:
    outcome = entry.outcome
    line = OutcomeLine(
        line=entry.line,
        id=entry.id,
        status=outcome.status,
        at=outcome.at and outcome.at.replace(microsecond=0),
        http_status=outcome.http_status,
        request_id=outcome.request_id,
        attempts=outcome.attempts,
        error=None if outcome.error is None else error_facts(outcome.error),
        earlier=outcome.earlier or UNSET,
    )
    with contextlib.suppress(UnicodeEncodeError):
        text = msgspec.json.encode(line, enc_hook=plain)  # a test may have replaced the clock
        if text.isascii():
            return text + b"\n"
    # U+2028 and others are line breaks for some readers; a lone surrogate has no UTF-8
    return (
        json.dumps(msgspec.to_builtins(line, enc_hook=plain), separators=(",", ":")).encode()
        + b"\n"
    )


class _ByLine:
    """
    The ranks of items that are identified by line and id; 8 bytes for each line number.

    A line of another input does not match, since its id is another one.

    Args:
        max_line: the largest line number that is stored; later lines are not.
    """

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._ranks = array.array("q")

    def load(self, line: OutcomeLine) -> None:
        """Record an item's last line so far."""
        if line.line > self._max_line:
            return
        missing = line.line + 1 - len(self._ranks)
        if missing > 0:
            self._ranks.frombytes(bytes(_HASH_BYTES * missing))
        self._ranks[line.line] = _hash(line.id) | _RANKS[line.status]

    def rank_of(self, entry: Entry) -> int:
        """Return the rank of an item's last line; 0 without one."""
        return _rank_at(self._ranks, entry.line, _hash(entry.id))


class _ById:
    """
    The ranks of items that are identified by their ids, in sorted arrays; 8 bytes for each id.

    A duplicate is another row of its id, so its line number identifies it, too.
    """

    def __init__(self) -> None:
        self._partitions = [array.array("q") for _ in range(_PARTITIONS)]

    def load(self, line: OutcomeLine) -> None:
        """Record an item's last line so far."""
        key = _hash_in_any_order(line.line, line.id, line.earlier)
        ranks, index = self._find(key)
        if _rank_at(ranks, index, key):
            ranks.pop(index)
        ranks.insert(index, key | _RANKS[line.status])

    def rank_of(self, entry: Entry) -> int:
        """Return the rank of an item's last line; 0 without one."""
        key = _hash_in_any_order(entry.line, entry.id, entry.outcome.earlier)
        return _rank_at(*self._find(key), key)

    def _find(self, key: int) -> tuple[array.array[int], int]:
        """Return the array of a key, and the index at which it is or would be."""
        ranks = self._partitions[key // (_RANK_BITS + 1) % _PARTITIONS]
        return ranks, bisect.bisect_left(ranks, key)


_LastLines: TypeAlias = _ByLine | _ById


def _rank_at(ranks: array.array[int], index: int, key: int) -> int:
    """Return the rank in an array's entry; 0 if there is none, or if it is of another key."""
    found = ranks[index] if index < len(ranks) else 0
    return found & _RANK_BITS if found & ~_RANK_BITS == key else 0


def _hash(value: Hashable) -> int:
    """Return a hash whose lowest bits are free for a rank."""
    return hash(value) & ~_RANK_BITS


def _hash_in_any_order(line: int, name: str | None, earlier: object) -> int:
    is_id_enough = name is not None and earlier is not EarlierStatus.DUPLICATE
    return _hash(name if is_id_enough else (line, name))


class OutcomesLog:
    """
    An append-only file, open and locked. All methods block.

    Args:
        path: the path of the file; it is created if it does not exist.
        by_id: an id alone identifies an item; otherwise line and id together do.

    Raises:
        JournalError: the file is in use, is not an outcomes file, or cannot be used.
    """

    def __init__(self, path: Path, *, by_id: bool = False) -> None:
        self._path = path.absolute()  # the run may change its directory
        self._handle = _opened(path)
        try:
            _lock(self._handle, path)
            # every line is longer than 8 bytes, so the map by line takes no more than the file
            lines = os.fstat(self._handle).st_size // _HASH_BYTES
            self._last: _LastLines = _ById() if by_id else _ByLine(lines)
            end = _read(self._handle, path, self._last)
            self._size = end  # of the lines that are in it
            os.ftruncate(self._handle, end)
            os.fchmod(self._handle, PRIVATE)
            if not end:
                flush_folder(self._path.parent)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise _unusable(path, error.strerror) from None
            raise

    def write(self, entries: Iterable[Entry]) -> None:
        """
        Append the lines of outcomes, and flush them.

        Raises:
            JournalError: the lines could not be written, or earlier ones are gone.
        """
        last = self._last
        missing = [
            entry
            for entry in entries
            if not entry.is_earlier or _RANKS[entry.outcome.status] > last.rank_of(entry)
        ]
        try:
            for start in range(0, len(missing), _LINES_PER_WRITE):  # others may run in between
                data = b"".join(map(_encoded, missing[start : start + _LINES_PER_WRITE]))
                while data:
                    count = os.write(self._handle, data)
                    self._size += count
                    data = data[count:]
            _sync(self._handle)
            found = os.fstat(self._handle)
            is_there = is_at(self._path, found)
        except OSError as error:
            raise JournalError(
                f"the outcomes file {self._path} cannot be written: {error.strerror}"
            ) from None
        if not is_there:
            raise JournalError(
                f"the outcomes file {self._path} was deleted, moved or replaced during the run"
            )
        if found.st_size < self._size:
            raise JournalError(f"the outcomes file {self._path} was shortened during the run")

    def close(self) -> None:
        """Close the file, which releases its lock; a second call does nothing."""
        handle, self._handle = self._handle, -1  # in this order, since a fork may come in between
        if handle >= 0:
            os.close(handle)


def _unusable(path: Path, reason: str | None) -> JournalError:
    return JournalError(f"the outcomes file {path} cannot be used: {reason}")


def _opened(path: Path) -> int:
    if not hasattr(os, "O_NOFOLLOW"):
        raise JournalError("an outcomes file needs POSIX file locks, which this system lacks")
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, PRIVATE)
    except OSError as error:
        is_link = error.errno == errno.ELOOP  # raised because of O_NOFOLLOW
        raise _unusable(path, "it is a symbolic link" if is_link else error.strerror) from None


def _lock(handle: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise _unusable(path, "not a regular file")
    if not try_lock(handle):
        raise JournalError(f"the outcomes file {path} is in use by another run")


def _read(handle: int, path: Path, last: _LastLines) -> int:
    """
    Load the last line of each item, and return the size of the complete lines in bytes.

    Raises:
        JournalError: a line is not an outcome.
    """
    end = 0
    with os.fdopen(handle, "rb", closefd=False) as file:
        if not _FIRST_KEY.startswith(file.read(len(_FIRST_KEY)).rstrip(b"\0")):
            raise _unusable(path, "it is not an outcomes file")
        file.seek(0)
        for number, text in enumerate(file, 1):
            whole = text.endswith(b"\n")
            line = parse_line(text) if whole else None
            if line is not None:
                last.load(line)
                end += len(text)
            elif whole or not _may_be_torn(text):
                raise _unusable(path, f"line {number} of it is not an outcome")
    return end


def _may_be_torn(text: bytes) -> bool:
    """
    Return whether text without a line break may be the rest of a line after a crash.

    After a loss of power, the end may be zeros that the file system allocated.
    """
    first, comma, rest = text.rstrip(b"\0").partition(b",")
    if comma:
        return bool(_FIRST_PAIR.fullmatch(first)) and _NEXT_KEY.startswith(rest[: len(_NEXT_KEY)])
    return _FIRST_KEY.startswith(first) or bool(_FIRST_PAIR.fullmatch(first))


class OutcomesFile:
    """
    A buffered writer of outcomes for one event loop; a thread of its own writes them in groups.

    Args:
        path: the path of the file.
        by_id: an id alone identifies an item; otherwise line and id together do.

    Attributes:
        path: the path of the file.
        failure: why nothing more can be written; None if it can.
    """

    def __init__(self, path: Path, *, by_id: bool = False) -> None:
        self.path = path
        self._by_id = by_id
        self.failure: BaseException | None = None
        self._pending: list[Entry] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[None] | None = None
        # set by `open`
        self._loop: asyncio.AbstractEventLoop
        self._thread: DatabaseThread[OutcomesLog]
        self._log: OutcomesLog
        self._on_failure: Callable[[], object]

    async def open(self, on_failure: Callable[[], object]) -> None:
        """
        Open the file, and remove an incomplete last line.

        Args:
            on_failure: called in the event loop when nothing more can be written.

        Raises:
            JournalError: the file is in use, is not an outcomes file, or cannot be used.
        """
        self._loop, self._on_failure = asyncio.get_running_loop(), on_failure
        opened = partial(OutcomesLog, self.path, by_id=self._by_id)
        self._thread = DatabaseThread(opened, "adapty-outcomes", "the outcomes file")
        try:
            self._log = await self._thread.run(lambda log: log)
        except BaseException:
            self._thread.stop()  # after the opening has ended
            raise
        register_fork_handler(self)

    @property
    def is_full(self) -> bool:
        """Whether the buffer is full; no more items should be processed until it is written."""
        return len(self._pending) >= _MAX_PENDING

    def add(self, entry: Entry) -> None:
        """Add an outcome to the buffer; it is written soon, together with others."""
        if self.failure is not None:
            return  # it ends the run
        self._pending.append(entry)
        if len(self._pending) >= _GROUP:
            self._write()
        elif self._timer is None:
            self._timer = self._loop.call_later(_WRITE_SECONDS, self._write)

    async def saved(self) -> None:
        """
        Wait until all added outcomes are on the disk, even if this is cancelled meanwhile.

        A failure of the disk ends the run, and is not raised here.
        """
        await despite_cancellation(self.flushed())  # the worker sees it at its next item

    def flushed(self) -> asyncio.Future[None]:
        """Return a future that is done when all outcomes are written, or the disk has failed."""
        future = self._loop.create_future()
        self._waiting.append(future)
        self._loop.call_soon(self._write)  # after the outcomes of this iteration of the loop
        return future

    async def aclose(self) -> None:
        """
        Write the pending outcomes, and close the file, even if this is cancelled.

        Raises:
            JournalError: something could not be written.
            BaseException: a defect was the reason.
        """
        if self._loop.is_closed():  # pending outcomes are lost, as in a crash
            self._thread.stop()
            return
        try:
            await until_ended(self.flushed())
        finally:
            closing = self._thread.run(OutcomesLog.close)
            self._thread.stop()
            await until_ended(closing)  # the next run may open the file at once
        if self.failure is not None:
            raise self.failure

    def _write(self) -> None:
        """Start to write the pending outcomes; the end of a write in progress calls this again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            return
        waiting, self._waiting = self._waiting, []
        if not self._pending or self.failure is not None:
            _wake(waiting)
            return
        entries, self._pending = self._pending, []

        def written(writing: asyncio.Future[None]) -> None:
            self._writing = None
            self._record_failure(writing.exception())
            _wake(waiting)
            is_due = bool(self._pending) and self._timer is None  # the timer expired meanwhile
            if self._waiting or is_due or len(self._pending) >= _GROUP:
                self._write()

        self._writing = self._thread.run(lambda log: log.write(entries))
        self._writing.add_done_callback(written)

    def _record_failure(self, error: BaseException | None) -> None:
        if error is not None:
            self.failure = error
            self._pending.clear()
            self._on_failure()

    def after_fork(self) -> None:
        """Stop writing in the forked process: the file belongs to the parent."""
        self.failure = JournalError("the outcomes file is in use by the process that was forked")
        self._pending.clear()
        self._writing = None
        self._log.close()


def _wake(waiting: Iterable[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
