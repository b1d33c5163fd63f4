"""
What a run asks of its journal: was this item settled before, and note what becomes of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from adapty_async._operation import Operation, Replay, Request
from adapty_async._retry import may_have_worked
from adapty_async.bulk._entries import DIGEST_SIZE, Entry, Index
from adapty_async.bulk._journal import Binding, Journal, Writer, open_journal
from adapty_async.bulk._outcome import Outcome, OutcomeStatus
from adapty_async.errors import ConfigError, ConnectionLostError, JournalError

__all__ = ("AnyOrder", "InputIdentity", "JobId", "Ledger", "Scope", "digest_of", "input_of")

_SETTLED = frozenset({Entry.DONE, Entry.ABSENT, Entry.DUPLICATE})
_PERHAPS_DONE = frozenset({Entry.BEGUN, Entry.LOST})
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
    """

    def __init__(self, path: Path, scope: Scope, items: InputIdentity) -> None:
        self._path = path
        self._scope = scope
        self._items = items
        self.by_position = not isinstance(items, AnyOrder)
        self._digest_key = hashlib.blake2b(scope.secret.encode(), person=b"adapty digest").digest()
        self._journal: Journal[Any]  # made when the run starts

    async def open(self) -> None:
        """
        Open the journal, and read what earlier runs noted.

        Raises:
            JournalError: it belongs to another run, is in use, is damaged, or is no journal.
        """
        opening = asyncio.ensure_future(asyncio.to_thread(self._open))
        try:
            handle, index = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_give_back)
            raise
        self._journal = Journal(index, Writer(handle))

    async def aclose(self) -> None:
        """
        See everything onto the disk, and close the journal.

        Raises:
            JournalError: something could not be written.
        """
        await self._journal.aclose()

    def _open(self) -> tuple[int, Index[Any]]:
        account = hashlib.blake2b(
            self._scope.secret.encode(), digest_size=DIGEST_SIZE, person=b"adapty account"
        )
        wanted = Binding(
            operation=self._scope.operation,
            origin=self._scope.origin,
            account=account.hexdigest(),
            keys="position" if self.by_position else "digest",
            input=self._items.identity(),
        )
        return open_journal(self._path, wanted, self._items.difference)

    def settled(self, position: int) -> bool:
        """
        Say whether the item at a position is done, as far as that is known without its request.
        """
        return self.by_position and self._journal.known(position) in _SETTLED

    async def begin(
        self, position: int, operation: Operation[Any], request: Request
    ) -> tuple[OutcomeStatus, Exception | None] | None:
        """
        Note that an item is about to be sent; or return what it is instead, with the reason.

        Raises:
            JournalError: it could not be noted, so it must not be sent.
        """
        key = self._key(position, operation, request)
        before = self._journal.known(key)
        if before in _SETTLED:
            return OutcomeStatus.SKIPPED, None
        perhaps_done = request.tally.lost = before in _PERHAPS_DONE
        if before is Entry.UNKNOWN or (perhaps_done and request.replay is not Replay.ALWAYS):
            if perhaps_done:
                await self._journal.note(key, Entry.UNKNOWN)
            return OutcomeStatus.UNKNOWN, ConnectionLostError(
                "an earlier run sent it and did not learn the answer; it is not sent again",
                operation=request.operation,
            )
        await self._journal.note(key, Entry.BEGUN)
        return None

    async def end(
        self,
        operation: Operation[Any],
        request: Request,
        outcome: Outcome[Any, Any],
        *,
        wait: bool,
    ) -> None:
        """
        Note how an item ended; on return it is on the disk, if it is to be waited for.

        It is on the disk before anything that is noted later in any case, and so before the next
        item of the same worker is sent. If it cannot be written, no other item begins, and the run
        ends with that error.
        """
        entry = _ENTRY_OF[outcome.status]
        tally = request.tally
        sent = outcome.error if tally.attempts else None
        lost = tally.lost or (sent is not None and may_have_worked(sent))
        if lost and entry in {Entry.FAILED, Entry.NOT_SENT}:
            entry = Entry.LOST
        key = self._key(outcome.index, operation, request)
        if not wait:
            self._journal.add(key, entry)
            return
        noted = self._journal.note(key, entry)
        # a journal that fails raises where the next item begins, and when it is closed; a run that
        # is cut off closes it, and so writes this, before it reports
        with contextlib.suppress(JournalError, asyncio.CancelledError):
            await noted

    async def skip(self, position: int) -> None:
        """
        Note that the same request stands earlier in the input.

        Raises:
            JournalError: it could not be noted.
        """
        if self.by_position:
            await self._journal.note(position, Entry.DUPLICATE)

    def _key(self, position: int, operation: Operation[Any], request: Request) -> int | bytes:
        return position if self.by_position else digest_of(self._digest_key, operation, request)


def _give_back(opening: asyncio.Future[tuple[int, Index[Any]]]) -> None:
    """
    Close a journal that nobody waits for any more.
    """
    if not opening.cancelled() and opening.exception() is None:
        handle, index = opening.result()
        os.close(handle)
        index.close()


def digest_of(key: bytes, operation: Operation[Any], request: Request) -> bytes:
    """
    Return a keyed digest of what an operation asks for, whatever client sends it.
    """
    parts = (operation.endpoint.name, *map(":".join, operation.headers), "", "")
    digest = hashlib.blake2b("\n".join(parts).encode(), key=key, digest_size=DIGEST_SIZE)
    digest.update(request.body or b"")
    return digest.digest()
