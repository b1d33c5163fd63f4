"""
Records of one size, appended to a file through memory.

Laws:
- What is noted is safe from the death of the process the moment `note` or `amend` returns: it is in
  a page that the operating system shares with the file. No call to the disk is made in the event
  loop.
- It is safe from a loss of power once the file was synced: at the latest `SYNC_EVERY` seconds
  later, or when `synced` says so. A thread does that.
- A record never changes, but that its mark is stored once, in one go. It never straddles two
  sectors of a disk. So a loss of power leaves it whole, or as it was before its mark, or zeros.
- Room is made ahead, in a thread, by writing zeros: a full disk is told before anything is sent,
  and whoever noted a beginning can note an end.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import math
import mmap
import os
import sys
from collections import deque
from collections.abc import Callable
from zlib import crc32

from adapty_async._fork import on_fork
from adapty_async.bulk._header import HEADER_SIZE
from adapty_async.bulk._pool import until_ended
from adapty_async.bulk._record import MARKS, mark_place, record_of, stamps_at
from adapty_async.errors import JournalError

__all__ = ("SYNC_EVERY", "Log", "write_all")

SYNC_EVERY = 0.1
"""
Seconds after which what was noted is on the disk at the latest, apart from what the disk takes.
"""
_CHUNK = 1 << 18
"""
Bytes that are mapped at a time.
"""
_PIECE = 1 << 14
"""
Bytes of zeros that are written in one go. What is written together is kept together in memory by
newer kernels (seen with Linux 6.18 and ext4), and all of it goes to the disk again when a byte of
it has changed: with 1 MiB, ten times a second.
"""
_NOWHERE = sys.maxsize
_sync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


def write_all(handle: int, data: bytes, place: int) -> None:
    """
    Write all of the data at a place of a file; what did not fit in one go is tried again.
    """
    while data:
        written = os.pwrite(handle, data, place)
        data, place = data[written:], place + written


class Log:
    """
    The end of a file of records, open for more of them.

    Args:
        handle: the file.
        end: where its last record ends.
        key_size: bytes of a key.
        now: returns this moment, a whole number up to `LAST_MOMENT`.
        owed: records at most that are still to come when one is noted, whatever happens.

    Attributes:
        is_ready: there is room for a record and for all that may be owed then.
        failure: why the disk cannot be relied on any more.
    """

    def __init__(
        self,
        handle: int,
        end: int,
        key_size: int,
        now: Callable[[], int],
        owed: int,
    ) -> None:
        self._handle = handle
        record = record_of(key_size)
        self._pack_into, self._size = record.pack_into, record.size
        self._now = now
        self._moment = -1  # of all that goes to the disk together
        self._stamps: list[tuple[int, int]] = []  # of that moment, by value, each with its seed
        self._loop = asyncio.get_running_loop()
        self._disk = concurrent.futures.ThreadPoolExecutor(1, "adapty-journal")
        start = end // _CHUNK * _CHUNK
        self._begin = end - start  # in the next of the chunks
        self._mapped_until = start
        self._chunk = mmap.mmap(-1, 1)  # stands for a full one that ends where the file does
        self._words = memoryview(b"")  # the chunk's, of two bytes each
        self._place = end - _CHUNK  # of the chunk in the file
        self._at = _CHUNK  # of the next record in the chunk
        self._until = 0  # the chunk's end, or 0 while nothing was noted since the last sync began
        self._mark_place = mark_place(key_size)
        self._first_mark: int  # where that of the chunk's first record is; set with the chunk
        self._since: int  # where the records of this moment begin; set with the moment
        # where those of them begin that are in this chunk; nowhere while nothing was noted since
        # the last sync began
        self._amendable = _NOWHERE
        self._next_chunks: deque[tuple[int, mmap.mmap]] = deque()
        # whole chunks for what is owed and for the one that finds its chunk full
        self._spare = math.ceil((owed + 1) / (_CHUNK // self._size))
        self.is_ready = False
        self._growing: asyncio.Future[None] | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._syncing = self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._sync_at = 0.0  # uvloop's handles of what is due at once do not say when
        self.failure: JournalError | None = None
        on_fork(self)

    async def ready(self) -> None:
        """
        Wait until `is_ready`.

        Raises:
            JournalError: there is no room, or the disk has failed.
        """
        while not self.is_ready:
            if self.failure is not None:
                raise self.failure
            await asyncio.wait({self._grow()})

    def note(self, key: bytes, value: int) -> int:
        """
        Append a record, and return the place to amend it; unless it is owed, this must be ready.
        """
        at = self._at
        if at >= self._until:
            return self._note_slowly(key, value)
        stamp, seed = self._stamps[value]
        self._pack_into(self._chunk, at, key, stamp, crc32(key, seed), 0)
        self._at = at + self._size
        return self._first_mark + at

    def amend(self, place: int, key: bytes, value: int) -> None:
        """
        Note what became of what was noted, once: there, or if it is late, in a record of its own.

        It is late in another moment than the record's, or when the log is in the next chunk.
        """
        if place >= self._amendable:
            self._words[place - self._place >> 1] = MARKS[value]
        else:
            self._amend_slowly(place, key, value)

    @property
    def _is_clean(self) -> bool:
        return not self._until

    def _note_slowly(self, key: bytes, value: int) -> int:
        if self._is_clean:
            self._soil()  # the chunk may be full, so this may come here once more
            return self.note(key, value)
        self._turn_over()
        place = self.note(key, value)
        self._look_ahead()  # last, as it may find that the process ends
        return place

    def _amend_slowly(self, place: int, key: bytes, value: int) -> None:
        if self._is_clean:
            self._soil()  # it may be late, so this may come here once more
            self.amend(place, key, value)
        else:
            self.note(key, value)

    def _soil(self) -> None:
        """
        Look at the clock, once for all that goes to the disk together, and see that it does.
        """
        self._until, moment = _CHUNK, self._now()
        if moment != self._moment:
            self._moment, self._since = moment, self._place + self._at
            self._stamps = stamps_at(moment)
        self._amendable = max(self._since, self._place)
        self._sync_in(SYNC_EVERY)

    def _turn_over(self) -> None:
        self._words.release()
        self._chunk.close()
        self._place, self._chunk = self._next_chunks.popleft()
        self._words = memoryview(self._chunk).cast("H")
        self._at, self._begin = self._begin, 0
        self._first_mark = self._place + self._mark_place
        self._amendable = max(self._amendable, self._place)

    def _look_ahead(self) -> None:
        """
        See whether there are chunks enough behind this one, and make more before they are needed.
        """
        if self.failure is not None:
            return
        ahead = len(self._next_chunks)
        self.is_ready = ahead >= self._spare
        if ahead <= self._spare:
            self._grow()

    def synced(self) -> asyncio.Future[None]:
        """
        Return what is done when everything noted so far is on the disk.

        The future raises `JournalError` if the disk fails.
        """
        future = self._loop.create_future()
        self._waiting.append(future)
        if len(self._waiting) == 1:
            self._sync_in(0)  # after what else comes in this turn of the loop
        return future

    async def aclose(self) -> None:
        """
        See everything onto the disk and close the file; all that even if this is cancelled.

        Raises:
            JournalError: the disk has failed.
        """
        self._closing, self.is_ready = True, False
        if self._timer is not None:
            self._timer.cancel()
        ending = self._loop.run_in_executor(self._disk, self._finish)
        try:
            await until_ended(ending)
        finally:  # if this was cancelled, too
            self._disk.shutdown(wait=False)
            self._note_failure(ending)
            self._tell(self._waiting)
        if self.failure is not None:
            raise self.failure

    def _finish(self) -> None:
        """
        Cut off the room that was not used, and close the file. Blocks.
        """
        try:
            used = self._place + self._at
            self._unmap()
            self._flush()
            os.ftruncate(self._handle, max(used, HEADER_SIZE))
            _sync(self._handle)
        finally:
            self._close()

    def _flush(self) -> None:
        """
        Force what was noted onto the disk. Blocks.
        """
        _sync(self._handle)

    def _unmap(self) -> None:
        for _, chunk in self._next_chunks:
            chunk.close()
        self._next_chunks.clear()
        self._words.release()
        self._chunk.close()

    def after_fork(self) -> None:
        """
        Write no more: the file is the parent's.
        """
        self._fail("the journal is in use by the process that was forked")
        if self._handle >= 0:
            self._close()
        with contextlib.suppress(BufferError):  # a thread that is not here had just begun with one
            self._unmap()

    def _close(self) -> None:
        handle, self._handle = self._handle, -1  # in this order, as a fork may come in between
        os.close(handle)

    def _grow(self) -> asyncio.Future[None]:
        if self._growing is None:
            missing = self._spare + 1 - len(self._next_chunks)
            if self._has_no_chunk:
                missing += 1
            self._growing = self._loop.run_in_executor(self._disk, self._add_chunks, missing)
            self._growing.add_done_callback(self._grown)
        return self._growing

    @property
    def _has_no_chunk(self) -> bool:
        return len(self._chunk) < _CHUNK

    def _add_chunks(self, count: int) -> None:
        """
        Lengthen the file by chunks of zeros that have their place on the disk. Blocks.
        """
        start = self._mapped_until
        end = start + count * _CHUNK
        # zeros that are really written: some file systems promise room that they do not keep, and a
        # store into such a page would end the process
        present = os.fstat(self._handle).st_size
        while present < end:
            piece = min(_PIECE - present % _PIECE, end - present)
            write_all(self._handle, bytes(piece), present)
            present += piece
        _sync(self._handle)
        for place in range(start, end, _CHUNK):
            chunk = mmap.mmap(self._handle, _CHUNK, offset=place)
            self._next_chunks.append((place, chunk))
        self._mapped_until = end

    def _grown(self, growing: asyncio.Future[None]) -> None:
        self._growing = None
        self._note_failure(growing)
        if self.failure is not None or self._closing:
            return
        if self._has_no_chunk:  # what is left of the first one may be too little to count on
            self._turn_over()
        self._look_ahead()

    def _sync_in(self, seconds: float) -> None:
        """
        Set the moment of the next sync, unless it is sooner already.

        While a sync is under way nothing is set; its end does that.
        """
        if self._syncing or self._closing:
            return
        moment = self._loop.time() + seconds
        if self._timer is not None:
            if self._sync_at <= moment:
                return
            self._timer.cancel()
        self._sync_at = moment
        self._timer = self._loop.call_later(seconds, self._sync)

    def _sync(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._timer, self._syncing = None, True
        self._until, self._amendable = 0, _NOWHERE
        syncing = self._loop.run_in_executor(self._disk, self._flush)
        syncing.add_done_callback(functools.partial(self._has_synced, waiting))

    def _has_synced(
        self, waiting: list[asyncio.Future[None]], syncing: asyncio.Future[None]
    ) -> None:
        self._syncing = False
        self._note_failure(syncing)
        self._tell(waiting)
        if self._waiting or not self._is_clean:
            self._sync_in(0 if self._waiting else SYNC_EVERY)

    def _fail(self, reason: str) -> None:
        self.failure = JournalError(reason)
        self.is_ready = False

    def _note_failure(self, job: asyncio.Future[None]) -> None:
        error = job.exception()
        if error is not None and self.failure is None:
            reason = getattr(error, "strerror", None) or str(error)
            is_told = isinstance(error, JournalError)
            self._fail(reason if is_told else f"the journal cannot be written: {reason}")

    def _tell(self, waiting: list[asyncio.Future[None]]) -> None:
        for future in waiting:
            if future.done():
                continue
            if self.failure is None:
                future.set_result(None)
            else:
                future.set_exception(self.failure)
                future.exception()  # whoever was cut off does not ask for it
