"""
What a run asks of its journal: was this item settled before, and note what becomes of it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from adapty_async._operation import Replay, Request
from adapty_async._retry import may_have_worked
from adapty_async.bulk._entries import DIGEST_SIZE, Digests, Entry, Positions, position_key
from adapty_async.bulk._header import Binding
from adapty_async.bulk._journal import Journal, Opened, open_journal
from adapty_async.bulk._outcome import EarlierStatus, Outcome, OutcomeStatus
from adapty_async.bulk._pool import until_ended
from adapty_async.errors import ConfigError, ConnectionLostError, JournalError, NotFoundError

__all__ = ("AnyOrder", "InputIdentity", "JobId", "Ledger", "Scope", "input_of")

_ALWAYS, _BEGUN, _LOST = Replay.ALWAYS, Entry.BEGUN, Entry.LOST
"""
Looked up once: a member of an enumeration costs 0.1 µs in Python 3.11, and each item needs some.
"""
_EARLIER = {
    Entry.DONE: EarlierStatus.DONE,
    Entry.ABSENT: EarlierStatus.ABSENT,
    Entry.DUPLICATE: EarlierStatus.DUPLICATE,
}
_PERHAPS_DONE = frozenset({Entry.BEGUN, Entry.LOST})
_RATE_EVERY = 1.0
"""
Seconds after which the learned pace is noted, for a run that goes on from there.
"""
_NOT_DONE = frozenset({Entry.FAILED, Entry.NOT_SENT})
_ENTRY_OF = {
    OutcomeStatus.DONE: Entry.DONE,
    OutcomeStatus.ABSENT: Entry.ABSENT,
    OutcomeStatus.FAILED: Entry.FAILED,
    OutcomeStatus.UNKNOWN: Entry.UNKNOWN,
    OutcomeStatus.NOT_SENT: Entry.NOT_SENT,
}


@runtime_checkable
class InputIdentity(Protocol):
    """
    An input that can be read again in the same order, and can prove it.
    """

    def identity(self) -> dict[str, Any]:
        """
        Return what tells this input from others, as JSON can hold it; may block.
        """
        ...

    def difference(self, earlier: dict[str, Any]) -> str | None:
        """
        Say how it differs from what it was, None if it is the same or only grew at its end.
        """
        ...


class JobId(msgspec.Struct, frozen=True):
    """
    An input that the caller vouches for.
    """

    job_id: str

    def identity(self) -> dict[str, Any]:
        """
        Return the job id.
        """
        return {"job_id": self.job_id}

    def difference(self, earlier: dict[str, Any]) -> str | None:
        """
        Compare the job ids.
        """
        known = earlier.get("job_id")
        return None if known == self.job_id else f"job_id {known!r} there, {self.job_id!r} here"


class AnyOrder:
    """
    An input of which nothing is known; its items are told apart by digests.
    """

    def identity(self) -> dict[str, Any]:
        """
        Return nothing.
        """
        return {}

    def difference(self, earlier: dict[str, Any]) -> str | None:  # noqa: ARG002  nothing to compare
        """
        Find no difference.
        """
        return None


def input_of(items: object, job_id: str | None) -> InputIdentity:
    """
    Say how the items of an input are told apart from run to run.

    Raises:
        ConfigError: the job id is empty.
    """
    if job_id is not None:
        if not job_id:
            raise ConfigError("job_id must not be empty")
        return JobId(job_id)
    return items if isinstance(items, InputIdentity) else AnyOrder()


class Scope(msgspec.Struct, frozen=True):
    """
    What a run does, as far as its journal is concerned.

    Attributes:
        operation: the call, and what its items are.
        origin: where it is sent.
        secret: the value of the Authorization header; only digests of it are kept.
    """

    operation: str
    origin: str
    secret: str

    def __repr__(self) -> str:
        return f"Scope({self.operation}, {self.origin})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("operation", self.operation), ("origin", self.origin)]


class Ledger:
    """
    The journal of one run, open as long as the run lasts.

    Attributes:
        by_position: items are told apart by their position, not by their requests.
        digest_key: what digests of requests are made with, 32 bytes.
    """

    def __init__(self, path: Path, scope: Scope, items: InputIdentity) -> None:
        self._path = path
        self._scope = scope
        self._items = items
        self.by_position = not isinstance(items, AnyOrder)
        self.digest_key = hashlib.blake2b(
            scope.secret.encode(), digest_size=32, person=b"adapty digest"
        ).digest()
        # these are there when the run has started
        self._journal: Journal
        self._learned_rate: Callable[[], float | None]
        self._timer: asyncio.TimerHandle

    async def open(self, learned_rate: Callable[[], float | None], workers: int) -> None:
        """
        Open the journal, and read what earlier runs noted; now and then a rate is noted, too.

        Args:
            learned_rate: returns the rate, None if there is none.
            workers: items that may have begun and not ended.

        Raises:
            JournalError: it belongs to another run, is in use, is damaged, or is no journal.
        """
        disk = concurrent.futures.ThreadPoolExecutor(1, "adapty-journal")
        opening = disk.submit(self._open)
        disk.shutdown(wait=False)
        try:
            opened = await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_give_back)  # in that thread: the loop may end before
            raise
        # an attempt of each may end in a refusal, and its wait for the next one in something else
        self._journal = Journal(opened, 2 * workers)
        self._learned_rate = learned_rate
        self._timer = asyncio.get_running_loop().call_later(_RATE_EVERY, self._note_rate_later)

    async def aclose(self) -> None:
        """
        See everything onto the disk, and close the journal.

        Raises:
            JournalError: something could not be written.
        """
        self._timer.cancel()
        try:
            self._note_rate()
        finally:
            await self._journal.aclose()

    def _open(self) -> Opened:
        account = hashlib.blake2b(
            self._scope.secret.encode(), digest_size=DIGEST_SIZE, person=b"adapty account"
        )
        wanted = Binding(
            operation=self._scope.operation,
            origin=self._scope.origin,
            account=account.hexdigest(),
            keys=Positions.kind if self.by_position else Digests.kind,
            input=self._items.identity(),
            started=time.time(),
        )
        return open_journal(self._path, wanted, self._items.difference)

    @property
    def is_new(self) -> bool:
        """
        Whether earlier runs noted nothing.
        """
        return self._journal.is_new

    def earlier(self, key: bytes) -> EarlierStatus | None:
        """
        Return how an item ended before, if that settled it.
        """
        return _EARLIER.get(self._journal.known(key))

    async def recall(self, request: Request) -> Exception | None:
        """
        Return why the outcome of an item that is not settled stays unknown; None if it is sent.

        Raises:
            JournalError: that it is unknown could not be noted.
        """
        key = request.tally.key
        before = self._journal.known(key)
        perhaps_done = request.tally.lost = before in _PERHAPS_DONE
        once = request.replay is not _ALWAYS
        if before is not Entry.UNKNOWN and not (perhaps_done and once):
            return None
        await self._journal.ready()
        self._journal.note(key, Entry.UNKNOWN)
        return ConnectionLostError(
            "an earlier run sent it and did not learn the answer; it is not sent again",
            operation=request.operation,
        )

    def begin(self, request: Request) -> Awaitable[None] | None:
        """
        Note that an item is about to be sent; what is returned is to be awaited before.

        What may be sent again is noted so that the death of the process cannot undo it. For what
        may not, a loss of power must not either, so it waits for the disk.

        Raises:
            JournalError: it could not be noted, so it must not be sent.
        """
        journal = self._journal
        if request.replay is not _ALWAYS or not journal.is_ready:
            return self._begin(request)
        tally = request.tally
        tally.place = journal.note(tally.key, _BEGUN)
        tally.begun = True
        return None

    async def _begin(self, request: Request) -> None:
        tally = request.tally
        await self._journal.ready()
        tally.place = self._journal.note(tally.key, _BEGUN)
        tally.begun = True
        if request.replay is not _ALWAYS:
            await self._journal.synced()

    def refused(self, request: Request) -> None:
        """
        Note that the server surely did not process an attempt.

        If the run is killed while the item waits for its next one, a resumed run sends it again.
        """
        tally = request.tally
        if not tally.lost:  # by an attempt before
            self._journal.amend(tally.place, tally.key, Entry.FAILED)
            tally.begun = False

    def end(self, request: Request, outcome: Outcome[Any, Any]) -> None:
        """
        Note how an item ended that was sent.

        If the disk fails, no other item begins, and the run ends with that error.
        """
        tally = request.tally
        if tally.place:  # it had begun, even if it was not sent in the end
            entry = _ENTRY_OF[outcome.status]
            if entry in _NOT_DONE and _may_be_done(request, outcome):
                entry = _LOST
            self._journal.amend(tally.place, tally.key, entry)

    async def saved(self) -> None:
        """
        Wait until all that was noted is safe from a loss of power, too, even if cut off meanwhile.

        A disk that fails is told where the next item begins, and when the journal is closed.
        """
        with contextlib.suppress(JournalError):
            try:
                await self._journal.synced()
            except asyncio.CancelledError:
                # the worker sees it at its next item
                with contextlib.suppress(asyncio.CancelledError):
                    await until_ended(self._journal.synced())

    @property
    def rate(self) -> float | None:
        """
        The pace that earlier runs learned.
        """
        return self._journal.rate or None  # what is next to nothing is noted as 0

    def _note_rate(self) -> None:
        rate = self._learned_rate()
        if rate is not None:
            self._journal.note_rate(rate)

    def _note_rate_later(self) -> None:
        self._note_rate()
        self._journal.synced()  # it also looks whether the file is still there
        self._timer = asyncio.get_running_loop().call_later(_RATE_EVERY, self._note_rate_later)

    async def skip(self, position: int) -> None:
        """
        Note that the same request stands earlier in the input.

        Raises:
            JournalError: it could not be noted.
        """
        if self.by_position:
            await self._journal.ready()
            self._journal.note(position_key(position), Entry.DUPLICATE)


def _may_be_done(request: Request, outcome: Outcome[Any, Any]) -> bool:
    error = outcome.error
    if isinstance(error, NotFoundError):
        return False  # it is not there, so a lost attempt before this one did nothing that lasts
    return request.tally.lost or (error is not None and may_have_worked(error))


def _give_back(opening: concurrent.futures.Future[Opened]) -> None:
    """
    Close a journal that nobody waits for any more.
    """
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
