"""
The journal of a bulk run: what was begun and how it ended, on disk before anyone is told.

Laws:
- An entry is acknowledged when it is on the disk, written and synced, and not before.
- One frame is on the disk before the next is written, so a crash tears one frame at most.
- One process at a time has a journal open.
- It holds positions or keyed digests, never an id, a key or what a server said.

Writing happens in a thread of its own. All entries that come while one write is under way go to the
disk together with the next, so many tasks share one sync and the event loop waits for no disk.
"""

from __future__ import annotations

import asyncio
import os
import queue
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeAlias, TypeVar

import msgspec

from adapty_async.bulk._entries import Digests, Entry, Index, Positions
from adapty_async.bulk._frames import CONTENT_LIMIT, Frame, pack, scan
from adapty_async.bulk._runner import until_ended
from adapty_async.errors import JournalError

__all__ = ("Binding", "Journal", "Writer", "binding_of", "frames_of", "open_journal")

KeyT = TypeVar("KeyT")

_MAGIC = b"adapty-async journal 1\n"
_HEADER, _ENTRIES = b"H", b"E"
_sync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)

_Batch: TypeAlias = "tuple[list[bytes], list[asyncio.Future[None]]]"


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a journal belongs to; a run of anything else is refused.

    Attributes:
        operation: the call, and what its items are.
        origin: where it is sent.
        account: a digest of the key.
        keys: how items are told apart: ``position`` or ``digest``.
        input: what is known of the input, such as a file's size and digest or the caller's job id.
    """

    operation: str
    origin: str
    account: str
    keys: str
    input: dict[str, Any]


class Journal(Generic[KeyT]):
    """
    An open journal: what earlier runs noted, and a place to note more.
    """

    def __init__(self, index: Index[KeyT], writer: Writer) -> None:
        self._index = index
        self._writer = writer

    def known(self, key: KeyT) -> Entry:
        """
        Return what earlier runs noted of an item.
        """
        return self._index.get(key)

    def note(self, key: KeyT, entry: Entry) -> asyncio.Future[None]:
        """
        Note something of an item; the future is done when it is on the disk.

        The future raises `JournalError` if it could not be written.
        """
        return self._writer.append(self._index.pack(key, entry))

    def add(self, key: KeyT, entry: Entry) -> None:
        """
        Note something of an item, in front of all that is noted after it.
        """
        self._writer.add(self._index.pack(key, entry))

    async def aclose(self) -> None:
        """
        Wait for what was noted to be on the disk, and close the file.

        Raises:
            JournalError: something could not be written.
        """
        try:
            await self._writer.aclose()
        finally:
            self._index.close()


class Writer:
    """
    Appends entries to an open file, in a thread, and tells the event loop when they are on disk.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._batches: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._entries: list[bytes] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._busy = False
        self.failure: JournalError | None = None
        self._thread = threading.Thread(target=self._work, name="adapty-journal", daemon=True)
        self._thread.start()

    def append(self, entry: bytes) -> asyncio.Future[None]:
        """
        Add an entry to the next write, and return what is done when it is on the disk.
        """
        future = self._loop.create_future()
        self._waiting.append(future)
        self.add(entry)
        return future

    def add(self, entry: bytes) -> None:
        """
        Add an entry to the next write.
        """
        self._entries.append(entry)
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._hand_over)  # with what else comes in this turn of the loop

    async def aclose(self) -> None:
        """
        Write what is left, end the thread and close the file; all that even if this is cancelled.

        Raises:
            JournalError: something could not be written.
        """
        if self._entries:
            self._hand_over()
        self._batches.put(None)
        await until_ended(asyncio.ensure_future(asyncio.to_thread(self._thread.join)))
        if self.failure is not None:
            raise self.failure

    def _hand_over(self) -> None:
        self._batches.put((self._entries, self._waiting))
        self._entries, self._waiting = [], []

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            entries, waiting = batch
            try:
                if self.failure is None:
                    self._write(b"".join(entries), len(entries[0]))
            except OSError as error:
                self.failure = JournalError(f"the journal cannot be written: {error.strerror}")
            self._loop.call_soon_threadsafe(self._written, waiting)
        os.close(self._handle)

    def _write(self, entries: bytes, size: int) -> None:
        most = (CONTENT_LIMIT - 1) // size * size
        for start in range(0, len(entries), most):
            append_frame(self._handle, _ENTRIES + entries[start : start + most])

    def _written(self, waiting: list[asyncio.Future[None]]) -> None:
        for future in waiting:
            if not future.done():
                if self.failure is None:
                    future.set_result(None)
                else:
                    future.set_exception(self.failure)
                    future.exception()  # whoever was cut off does not ask for it
        if self._entries:
            self._hand_over()
        else:
            self._busy = False


def append_frame(handle: int, content: bytes) -> None:
    """
    Append one frame and see it onto the disk.
    """
    frame = pack(content, time.time())
    while frame:
        frame = frame[os.write(handle, frame) :]
    _sync(handle)


InputCheck: TypeAlias = Callable[[dict[str, Any]], str | None]
"""
Given what a journal knows of its input, says what does not fit, or None.
"""


def open_journal(path: Path, wanted: Binding, check: InputCheck) -> tuple[int, Index[Any]]:
    """
    Open the journal of a run, or start one, and read what earlier runs noted. Blocks.

    Raises:
        JournalError: it belongs to another run, is in use, is damaged, or is no journal.
    """
    handle = _opened(path)
    index: Index[Any] = Positions() if wanted.keys == "position" else Digests()
    try:
        _lock(handle, path)
        with os.fdopen(handle, "rb", closefd=False) as file:
            found, end = _take_over(file, path, wanted, check, index)
        if found is None:
            _start(handle, path)
        else:
            os.ftruncate(handle, end)
            os.lseek(handle, end, os.SEEK_SET)
        if found != wanted:
            append_frame(handle, _HEADER + msgspec.json.encode(wanted))
    except BaseException as error:
        os.close(handle)
        index.close()
        if isinstance(error, OSError):
            raise JournalError(f"the journal {path} cannot be used: {error.strerror}") from None
        raise
    return handle, index


def _opened(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        raise JournalError(f"the journal {path} cannot be opened: {error.strerror}") from None


def _lock(handle: int, path: Path) -> None:
    import fcntl  # noqa: PLC0415  POSIX only, and so are journals

    if not stat.S_ISREG(os.fstat(handle).st_mode):  # reading a pipe would never end
        raise JournalError(f"the journal {path} cannot be used: not a regular file")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalError(f"the journal {path} is in use by another process") from None


def _start(handle: int, path: Path) -> None:
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.fchmod(handle, 0o600)
    os.write(handle, _MAGIC)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # or the new file's name may be gone after a power loss
    finally:
        os.close(folder)


def _take_over(
    file: BinaryIO, path: Path, wanted: Binding, check: InputCheck, index: Index[Any]
) -> tuple[Binding | None, int]:
    """
    Read a journal into the index; return what it is bound to, and where its last frame ends.
    """
    found: Binding | None = None
    end = 0
    for frame in frames_of(file, path):
        end = frame.end
        binding = binding_of(frame, path)
        if binding is None:
            _load(frame, found, path, index)
        else:
            found = binding
            if found.keys != wanted.keys:
                break  # the entries could not even be read
    if found is not None and (told := _differences(found, wanted, check)):
        raise JournalError(f"the journal {path} belongs to another run; {'; '.join(told)}")
    return found, end


def _load(frame: Frame, found: Binding | None, path: Path, index: Index[Any]) -> None:
    if found is None:
        raise JournalError(f"the journal {path} is damaged: its beginning is missing")
    try:
        index.load(frame.content[1:])
    except ValueError as error:
        raise JournalError(f"the journal {path} is damaged: {error}") from None


def frames_of(file: BinaryIO, path: Path) -> Iterator[Frame]:
    """
    Read the frames of a journal; none if it was cut off before its first was complete.

    Raises:
        JournalError: it is damaged, or is no journal.
    """
    magic = file.read(len(_MAGIC))
    if magic != _MAGIC:
        if _MAGIC.startswith(magic):
            return
        raise JournalError(f"{path} is not a journal of this library")
    yield from scan(file, len(_MAGIC))


def binding_of(frame: Frame, path: Path) -> Binding | None:
    """
    Read what a journal is bound to out of a frame; None if the frame holds entries.

    Raises:
        JournalError: the frame is of another version of the format.
    """
    if frame.content.startswith(_ENTRIES):
        return None
    try:
        if frame.content.startswith(_HEADER):
            return msgspec.json.decode(frame.content[1:], type=Binding)
    except ValueError:
        pass
    raise JournalError(f"the journal {path} is of a version that is not understood")


def _differences(found: Binding, wanted: Binding, check: InputCheck) -> list[str]:
    told = [
        f"{name}: {getattr(found, name)} there, {getattr(wanted, name)} here"
        for name in ("operation", "origin", "keys")
        if getattr(found, name) != getattr(wanted, name)
    ]
    if found.account != wanted.account:
        told.append("account: another key")
    if found.keys == wanted.keys and (difference := check(found.input)):
        told.append(f"input: {difference}")
    return told
