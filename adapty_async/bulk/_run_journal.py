"""
The write-ahead log of a bulk run: which items are settled, which are sent, and how they end.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Sized
from typing import Any, Protocol, runtime_checkable

import msgspec

from adapty_async._journal import KEY_SIZE, ItemState, Journal, JournalIdentity, JournalWriter
from adapty_async._operation import Replay, Request
from adapty_async._retry import may_have_worked
from adapty_async._tasks import until_ended
from adapty_async.bulk._outcome import EarlierStatus, Outcome, OutcomeStatus
from adapty_async.errors import (
    ApiError,
    ConfigError,
    ConnectionLostError,
    JournalError,
    NotFoundError,
)

__all__ = ("AnyOrder", "InputIdentity", "JobId", "RunIdentity", "RunJournal", "input_of")

# looked up once: a member of an enumeration costs 0.1 µs in Python 3.11, and each item needs some
_ALWAYS = Replay.ALWAYS
_EARLIER = {
    ItemState.DONE: EarlierStatus.DONE,
    ItemState.ABSENT: EarlierStatus.ABSENT,
    ItemState.DUPLICATE: EarlierStatus.DUPLICATE,
}
_PERHAPS_DONE = frozenset({ItemState.STARTED, ItemState.LOST})
_NOT_DONE = frozenset({OutcomeStatus.FAILED, OutcomeStatus.NOT_SENT})
_STATE_OF = {
    OutcomeStatus.DONE: ItemState.DONE,
    OutcomeStatus.ABSENT: ItemState.ABSENT,
    OutcomeStatus.FAILED: ItemState.FAILED,
    OutcomeStatus.UNKNOWN: ItemState.UNKNOWN,
    OutcomeStatus.NOT_SENT: ItemState.NOT_SENT,
}
# seconds between two records of the learned rate, with which a resumed run starts
_RATE_SECONDS = 1.0
# requests per second below which a learned rate is none to start with
_MIN_RATE = 0.001


@runtime_checkable
class InputIdentity(Protocol):
    """
    An input that can be read again in the same order, and can prove it.
    """

    def identity(self) -> dict[str, Any]:
        """
        Return a description that identifies this input, as JSON can hold it; may block.
        """
        ...

    def difference(self, earlier: dict[str, Any]) -> str | None:
        """
        Return the difference to what it was, None if it is the same or only grew at its end.
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
    An input of which nothing is known; its items are identified by digests of their requests.
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
    Return how the items of an input are identified from run to run.

    Raises:
        ConfigError: the job id is empty.
    """
    if job_id is not None:
        if not job_id:
            raise ConfigError("job_id must not be empty")
        return JobId(job_id)
    return items if isinstance(items, InputIdentity) else AnyOrder()


class RunIdentity(msgspec.Struct, frozen=True):
    """
    A run's call and account, as far as its journal is concerned.

    Attributes:
        operation: the call, and what its items are.
        origin: the server's scheme, host and port.
        secret: the value of the Authorization header; only digests of it are kept.
    """

    operation: str
    origin: str
    secret: str

    def digest(self, person: bytes, size: int) -> Any:
        """
        Return a hash of the secret for one purpose.
        """
        return hashlib.blake2b(self.secret.encode(), digest_size=size, person=person)

    def __repr__(self) -> str:
        return f"RunIdentity({self.operation}, {self.origin})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("operation", self.operation), ("origin", self.origin)]


class RunJournal:
    """
    The journal of one run, as its item processor and its check layer use it.

    Args:
        storage: where the journal is.
        run: the call and the account.
        items: the input.
        job_id: vouches for the input; see `adapty_async.bulk.BulkOptions`.
        concurrency: items in flight at most.

    Attributes:
        by_position: items are identified by their position, not by their requests.
        digest_key: the key of the digests of requests, 32 bytes.
    """

    def __init__(
        self,
        storage: Journal,
        run: RunIdentity,
        items: object,
        job_id: str | None,
        concurrency: int,
    ) -> None:
        _demand_utf8(run.operation, job_id or "")
        self._storage = storage
        self._identity = run
        self._input = input_of(items, job_id)
        self._size = len(items) if isinstance(items, Sized) else None
        self._concurrency = concurrency
        self.by_position = not isinstance(self._input, AnyOrder)
        self.digest_key: bytes = run.digest(b"adapty digest", 32).digest()
        self._writer: JournalWriter  # set by `open`, as is the next
        self._timer: asyncio.TimerHandle

    async def open(self, learned_rate: Callable[[], float | None]) -> None:
        """
        Open the journal, and record the learned rate from now on.

        Raises:
            JournalError: it belongs to another run, is in use, is damaged, or is no journal.
        """
        identity = JournalIdentity(
            operation=self._identity.operation,
            origin=self._identity.origin,
            account=self._identity.digest(b"adapty account", KEY_SIZE).hexdigest(),
            keys="position" if self.by_position else "digest",
            input=await asyncio.to_thread(self._input.identity),
        )
        writer = JournalWriter(self._storage, concurrency=self._concurrency, size=self._size)
        await writer.open(identity, self._input.difference)
        self._writer = writer

        def record_rate() -> None:
            writer.record_rate(learned_rate())
            self._timer = loop.call_later(_RATE_SECONDS, record_rate)

        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_RATE_SECONDS, record_rate)

    async def aclose(self, rate: float | None, stop_reason: str | None) -> None:
        """
        Record how the run ended, make everything durable, and close the journal.

        Raises:
            JournalError: something could not be stored.
        """
        self._timer.cancel()
        self._writer.record_rate(rate)
        await self._writer.close(stop_reason)

    @property
    def is_new(self) -> bool:
        """
        Whether no earlier run used the journal.
        """
        return self._writer.is_new

    @property
    def rate(self) -> float | None:
        """
        The requests per second that earlier runs learned.
        """
        rate = self._writer.rate
        return None if rate is None or rate < _MIN_RATE else rate

    async def claim(self, digest: bytes) -> int | None:
        """
        Return the position of a request's digest; None if the request came before in this run.

        Raises:
            JournalError: the index of digests cannot be used.
        """
        return await self._writer.claim(digest)

    def earlier(self, position: int) -> EarlierStatus | None:
        """
        Return how an item ended before, if that settled it.
        """
        return _EARLIER.get(self._writer.state(position))

    def recall(self, request: Request) -> Exception | None:
        """
        Return why the outcome of an item that is not settled stays unknown; None if it is sent.

        An item that was only reserved may not have been sent, so a 404 now says that it is absent.
        """
        tally = request.tally
        before = self._writer.state(tally.position)
        tally.lost = before in _PERHAPS_DONE
        if before is not ItemState.UNKNOWN:
            if not tally.lost or request.replay is _ALWAYS:
                return None
            self._writer.update(tally.position, ItemState.UNKNOWN)
        return ConnectionLostError(
            "an earlier run sent this request and lost the response; not retried, since the server"
            " may have processed it",
            operation=request.operation,
        )

    def skip(self, position: int) -> None:
        """
        Record that the same request comes earlier in the input.
        """
        self._writer.update(position, ItemState.DUPLICATE)

    def begin(self, request: Request) -> Awaitable[None] | None:
        """
        Append the write-ahead entry of an attempt; the caller awaits the result before it sends.

        The death of the process cannot undo it. If the request must not be repeated, a loss of
        power cannot either.
        """
        tally = request.tally
        tally.begun = True
        if request.replay is _ALWAYS:
            return self._writer.reserve(tally.position)
        return self._writer.start(tally.position)

    def refused(self, request: Request) -> None:
        """
        Record that the server surely did not process the attempt.

        If the run is killed while the item waits for its next attempt, a resumed run sends it.
        """
        tally = request.tally
        if request.replay is not _ALWAYS and not tally.lost:  # by an attempt before
            self._writer.retract(tally.position)
            tally.begun = False

    def end(self, request: Request, outcome: Outcome[Any, Any]) -> None:
        """
        Record how an item ended that was started.

        If the storage has failed, no other item starts, and the run ends with that error.
        """
        tally, error = request.tally, outcome.error
        if not tally.begun and not tally.attempts:
            return
        state = _STATE_OF[outcome.status]
        if outcome.status in _NOT_DONE and _may_be_done(request, error):
            state = ItemState.LOST
        reason = None if error is None or outcome.ok else _reason(error)
        self._writer.update(
            tally.position,
            state,
            requests=outcome.requests,
            throttled=outcome.throttled,
            reason=reason,
        )

    async def saved(self) -> None:
        """
        Wait until everything recorded so far is durable, even if this is cancelled meanwhile.

        A failure is raised where the next item starts, and when the journal is closed.
        """
        with contextlib.suppress(JournalError):
            try:
                await self._writer.flush()
            except asyncio.CancelledError:
                # the worker sees it at its next item
                with contextlib.suppress(asyncio.CancelledError):
                    await until_ended(self._writer.flush())


def _demand_utf8(*names: str) -> None:
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        raise ConfigError("a run with a journal must be named in UTF-8, its job_id too") from None


def _may_be_done(request: Request, error: Exception | None) -> bool:
    if isinstance(error, NotFoundError):
        return False  # it is not there, so a lost attempt before this one did nothing that lasts
    return request.tally.lost or (error is not None and may_have_worked(error))


def _reason(error: Exception) -> tuple[str, int]:
    return type(error).__name__, error.status if isinstance(error, ApiError) else 0
