"""An item processor for bulk runs: one item becomes one operation, one call and one outcome."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Hashable, Iterable
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, Unpack

import msgspec

from adapty_async._api.call import (
    CallState,
    Layer,
    Operation,
    Request,
    Response,
    RetrySafety,
    lock_key_of,
    request_id_in,
)
from adapty_async._bulk.bulk_run import BulkRun
from adapty_async._bulk.outcome import EarlierStatus, Outcome, OutcomeStatus
from adapty_async._bulk.run_journal import (
    EARLIER,
    Digester,
    ItemEntry,
    RunJournal,
    may_be_done,
    unprocessed,
)
from adapty_async._bulk.settings import BulkOptions
from adapty_async._bulk.workers import Worker
from adapty_async._flow.queues import KeyedLock
from adapty_async._journal import ItemState, KeyIndex
from adapty_async._pipeline.layers import PipelineConfig
from adapty_async._pipeline.retry import lost_creation, may_have_worked
from adapty_async.errors import (
    AdaptyError,
    CircuitOpenError,
    ConfigError,
    ConnectionLostError,
    JournalError,
    NotFoundError,
    strip_traceback,
)

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

Items: TypeAlias = Iterable[ItemT] | AsyncIterable[ItemT]

_ALWAYS = RetrySafety.ALWAYS
_DONE, _SKIPPED = OutcomeStatus.DONE, OutcomeStatus.SKIPPED
_HELD_BACK = "status 404; not created, since another item lost the response to that creation"


class StartBulk(Protocol):
    """A factory of bulk runs, with which a resource implements its bulk methods."""

    def __call__(
        self,
        items: Items[ItemT],
        build: Callable[[ItemT], Operation[ResultT]],
        name: str,
        /,
        **options: Unpack[BulkOptions[ItemT, ResultT]],
    ) -> BulkRun[ItemT, ResultT]:
        """Return the run; nothing is sent yet."""
        ...


class ItemProcessor(Generic[ItemT, ResultT]):
    """
    An item processor: skip, build, lock, begin, send, record.

    1. Skip an item by position if an earlier run settled it.
    2. Build its operation, and encode the request. Skip it if the request is settled or a
       duplicate.
    3. Acquire the lock of its lock key.
    4. Begin: pass the write-ahead entry down as the first-send callback of its call.
    5. Send the request through the pipeline, and decode the response. If the response to a creation
       was lost, here or in an earlier run, no other item creates the object.
    6. Record the outcome in the journal, and release the lock.

    Args:
        build: makes the operation of an item.
        encode: encodes an operation as a request.
        send: sends a request through the pipeline of the run.
        layers: the configuration of the client's pipeline.
        journal: the journal of the run; None without one.
        dedupe: whether equal requests are sent once.
    """

    def __init__(
        self,
        build: Callable[[ItemT], Operation[ResultT]],
        encode: Callable[[Operation[Any]], Request],
        send: Layer,
        layers: PipelineConfig,
        journal: RunJournal | None,
        *,
        dedupe: bool,
    ) -> None:
        self._build = build
        self._encode = encode
        self._pipeline = send
        self._layers = layers
        self._clock = layers.timing.clock
        self._journal = journal
        self._by_position = journal is not None and journal.by_position
        # identified by their requests, equal items are one item with one state
        by_digest = journal is not None and not journal.by_position
        self._seen = KeyIndex() if dedupe and not by_digest else None
        self._identifies = by_digest or self._seen is not None
        self._digester = Digester(os.urandom(32) if journal is None else journal.digest_key)
        self._is_resumed = False  # an earlier run used the journal
        # returns the earlier status of an item; None if its position does not identify it
        self._earlier: Callable[[int], EarlierStatus | None] | None = None
        self._keyed_lock = KeyedLock()
        self._lost_creations: set[bytes] = set()  # the keys of their objects
        self._watched = False

    @contextlib.asynccontextmanager
    async def open(self, run: BulkRun[ItemT, ResultT]) -> AsyncIterator[None]:
        """Keep the journal of a run open, and its items in the statistics of the client."""
        self._watched = run.is_watched
        journal, limiters, items = self._journal, self._layers.limiters, self._layers.items
        counts = run.counts
        items.start(counts)
        try:
            if journal is None:
                yield
                return
            await journal.open(limiters.measured_limit)
            try:
                self._is_resumed = not journal.writer.is_new
                if self._is_resumed and self._by_position and self._seen is None:
                    self._earlier = journal.earlier
                self._lost_creations |= journal.writer.keys.lost_creations
                if journal.rate is not None:
                    limiters.expect(journal.rate)
                yield
            finally:
                await journal.aclose(limiters.measured_limit(), run.report)
        finally:
            items.end(counts)
            if self._seen is not None:
                self._seen.close()

    async def pass_over(self, index: int, item: ItemT, worker: Worker) -> Outcome[ItemT, ResultT]:
        """
        Return the outcome of an item that is not processed: not sent, or as the journal knows it.

        Raises:
            JournalError: the index of digests cannot be used.
        """
        worker.operation = None
        return unprocessed(index, item, await self._last_state(index, item, worker))

    async def _last_state(self, index: int, item: ItemT, worker: Worker) -> ItemState:
        """Return the last known state of an item; nothing is added to the journal."""
        state, journal = ItemState.NONE, self._journal
        if journal is not None and self._by_position:
            state = journal.writer.state(index)
        if not self._identifies:
            return state
        try:
            operation = worker.operation = self._build(item)
            digest = self._digester.of(operation, self._encode(operation))
        except Exception:  # noqa: BLE001  without a request, it was never sent
            return state
        if self._seen is None:
            assert journal is not None  # noqa: S101  it identifies items by digests
            return await journal.writer.find(digest)
        if self._is_resumed:  # earlier runs may have settled this item, and not its duplicates
            _, is_new = await self._seen.claim(digest)
        else:
            is_new = await self._seen.find(digest) is None
        return state if is_new or state in EARLIER else ItemState.DUPLICATE

    async def process(self, index: int, item: ItemT, worker: Worker) -> Outcome[ItemT, ResultT]:
        """Return the outcome of an item. An exception that ends the run is stored in the worker."""
        if self._earlier is not None and (earlier := self._earlier(index)):
            return _skipped(index, item, earlier)
        started = self._clock()
        request: Request | None = None
        state: CallState | None = None
        entry: ItemEntry | None = None
        lock_key: Hashable = None
        try:
            operation = worker.operation = self._build(item)
            request = self._encode(operation)
            entry = None if self._journal is None else self._journal.entry(index, request)
            if (self._identifies or self._is_resumed) and (
                known := await self._known(index, item, operation, request, entry)
            ):
                return known
            lock_key = lock_key_of(operation)
            worker.call = CallState() if entry is None else _recorded_call(entry, request)
            if not self._keyed_lock.try_acquire(lock_key):
                await self._keyed_lock.acquire(lock_key)
            state = worker.call
            response = await self._pipeline(self._creating_once(operation, request, entry), state)
            result = self._layers.decode(operation, response)
            outcome = _done(index, item, state, response, result, self._clock() - started)
        except BaseException as error:  # noqa: BLE001  the item's outcome, or the end of the run
            outcome = self._after_error(index, item, request, worker, error, started)
        worker.call = None  # the worker is idle until its next item
        if state is None:  # it holds no lock
            return outcome
        try:
            if entry is not None and self._record(entry, state, outcome):
                await entry.saved()
            return outcome
        finally:
            self._keyed_lock.release(lock_key)

    def _after_error(
        self,
        index: int,
        item: ItemT,
        request: Request | None,
        worker: Worker,
        error: BaseException,
        started: float,
    ) -> Outcome[ItemT, ResultT]:
        """
        Return the outcome of an item that ended with an error, and what else follows from it.

        1. An exception that ends the run is stored in the worker.
        2. The item has no valid request: withdraw the reservation that a killed run left for it.
        3. The item may have tried to create an object; see `_after_creation`.

        Raises:
            GeneratorExit: the event loop has ended, and nothing can be awaited any more.
        """
        state, elapsed = worker.call, self._clock() - started
        if worker.is_closed_by(error):
            raise error
        worker.failure = _run_ending(error, is_sending=state is not None)
        outcome: Outcome[ItemT, ResultT]
        outcome = _not_done(index, item, request, state, error, elapsed)
        if request is None:
            is_invalid = outcome.status is OutcomeStatus.FAILED
            if is_invalid and self._is_resumed and self._journal is not None:
                self._journal.release(index)
        elif request.if_missing is not None and state is not None and state.attempts:
            assert worker.operation is not None  # noqa: S101  it was sent
            object_key = self._digester.object_key(worker.operation, request)
            return self._after_creation(object_key, outcome, state)
        return outcome

    def _after_creation(
        self, object_key: bytes, outcome: Outcome[ItemT, ResultT], state: CallState
    ) -> Outcome[ItemT, ResultT]:
        """
        Return the outcome of an item that is not done, and creates its object if that is missing.

        1. The response to its creation is lost: no other item creates the object.
        2. It was such another item, and the object is missing: it was held back.
        """
        if outcome.status is OutcomeStatus.UNKNOWN and state.is_creating:
            self._lost_creations.add(object_key)
        elif object_key in self._lost_creations and isinstance(outcome.error, NotFoundError):
            outcome.error.args = (_HELD_BACK,)
            return msgspec.structs.replace(outcome, _is_held_back=True)
        return outcome

    async def _known(
        self,
        index: int,
        item: ItemT,
        operation: Operation[ResultT],
        request: Request,
        entry: ItemEntry | None,
    ) -> Outcome[ItemT, ResultT] | None:
        """
        Return the outcome of an item that is settled or a duplicate; None if it is sent.

        An item that was cancelled while its digest was claimed is not sent either.
        """
        is_duplicate = False
        if self._identifies:
            is_duplicate = not await self._claim(self._digester.of(operation, request), entry)
        known = self._recall(index, item, entry, is_duplicate=is_duplicate)
        if known is None and _is_cancelled():
            return unprocessed(index, item, ItemState.NONE if entry is None else entry.state)
        return known

    def _recall(
        self, index: int, item: ItemT, entry: ItemEntry | None, *, is_duplicate: bool
    ) -> Outcome[ItemT, ResultT] | None:
        if is_duplicate and not self._by_position:
            return _skipped(index, item, EarlierStatus.DUPLICATE)
        if entry is None:
            return None
        earlier = entry.earlier()
        if earlier is not None:
            return _skipped(index, item, earlier)
        if is_duplicate:
            entry.skip()
            return _skipped(index, item, EarlierStatus.DUPLICATE)
        error = entry.recall()
        return None if error is None else Outcome(index, item, OutcomeStatus.UNKNOWN, error=error)

    def _creating_once(
        self, operation: Operation[Any], request: Request, entry: ItemEntry | None
    ) -> Request:
        """
        Return the request of an item, without a creation whose response another item has lost.

        Several items may be about one object, such as the purchases of a profile. After a lost
        creation the server may still create the object, although it does not find it yet.
        """
        if request.if_missing is None:
            return request
        object_key = self._digester.object_key(operation, request)
        if entry is not None:
            entry.object_key = object_key
            if entry.is_creation_lost:  # its own: it looks for the object, and creates none
                return request
        if object_key not in self._lost_creations:
            return request
        return msgspec.structs.replace(request, if_missing=None)

    async def _claim(self, digest: bytes, entry: ItemEntry | None) -> bool:
        """Claim the digest of a request; return False if an equal one came before."""
        if self._seen is not None:
            _, is_new = await self._seen.claim(digest)
            return is_new
        assert entry is not None  # noqa: S101  only a journal or `dedupe` identifies
        return await entry.claim(digest)

    def _record(self, entry: ItemEntry, state: CallState, outcome: Outcome[ItemT, ResultT]) -> bool:
        """Record an outcome; return whether it has to be durable before it is delivered."""
        entry.end(outcome, state)
        return self._watched and outcome.attempts > 0


def _recorded_call(entry: ItemEntry, request: Request) -> CallState:
    """Return the state of a call whose write-ahead entry is stored before it is sent."""
    if request.retry_safety is _ALWAYS and request.if_missing is None:  # most requests
        return CallState(
            ambiguous=entry.is_ambiguous,
            was_sent_earlier=entry.was_sent_earlier,
            on_first_send=entry.begin,
        )
    return CallState(
        ambiguous=entry.is_ambiguous,
        was_sent_earlier=entry.was_sent_earlier,
        is_creating=entry.is_creation_lost,
        is_creation_lost=entry.is_creation_lost,
        on_first_send=entry.begin,
        on_refusal=entry.retract,
        on_creation=entry.create,
        on_creation_end=entry.created,
    )


def _skipped(index: int, item: ItemT, earlier: EarlierStatus) -> Outcome[ItemT, Any]:
    return Outcome(index, item, _SKIPPED, earlier=earlier)


def _run_ending(error: BaseException, *, is_sending: bool) -> BaseException | None:
    """
    Return the error if it ends the run, such as a KeyboardInterrupt; None for an `Exception`.

    A cancellation ends the run only if a callback raised it before the item was sent. Otherwise the
    task is cancelled, and the item has an outcome.
    """
    if isinstance(error, asyncio.CancelledError) and (is_sending or _is_cancelled()):
        return None
    return None if isinstance(error, Exception) else error


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _done(
    index: int,
    item: ItemT,
    state: CallState,
    response: Response,
    result: ResultT,
    elapsed: float,
) -> Outcome[ItemT, ResultT]:
    return Outcome(
        index,
        item,
        _DONE,
        state.attempts,
        state.throttled,
        elapsed,
        result=result,
        connect_failures=state.connect_failures,
        http_status=response.status,
        _ended=time.time(),
        _request_id=request_id_in(response.headers),
    )


def _not_done(
    index: int,
    item: ItemT,
    request: Request | None,
    state: CallState | None,
    error: BaseException,
    elapsed: float,
) -> Outcome[ItemT, Any]:
    state = CallState() if state is None else state
    reason: Exception | None
    if isinstance(error, Exception):
        status, reason = _status_of(request, state, error), error
    else:
        status, reason = _when_cancelled(request, state)
    # what is known of it, if anything, is what an earlier run left
    is_earlier = status is OutcomeStatus.NOT_SENT or (state.was_sent_earlier and not state.attempts)
    if isinstance(reason, AdaptyError):
        reason.attempts = state.attempts
        strip_traceback(reason)  # a report outlives the run, and frames hold items and requests
    if not isinstance(error, AdaptyError):  # the frame that caught it holds the item
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
    return Outcome(
        index,
        item,
        status,
        state.attempts,
        state.throttled,
        elapsed,
        reason,
        connect_failures=state.connect_failures,
        http_status=getattr(reason, "status", None) if state.attempts else None,
        _ended=None if is_earlier else time.time(),
        _request_id=getattr(reason, "request_id", None),
    )


def _status_of(request: Request | None, state: CallState, error: Exception) -> OutcomeStatus:
    """
    Return the status of an item that ended with an error.

    1. The response to a creation is lost: unknown.
    2. Nothing was sent: not sent if the reason ends the run, otherwise failed.
    3. The server found no such object: absent, if that is no failure of the operation.
    4. The server may have processed it, and a retry might do it twice: unknown.
    5. Anything else: failed.
    """
    if state.is_creating and state.is_creation_lost:
        return OutcomeStatus.UNKNOWN
    if request is None or state.attempts == state.connect_failures:
        # an attempt ends with a ConfigError if the client was closed meanwhile
        is_closed = isinstance(error, ConfigError) and state.attempts > 0
        ends_run = is_closed or isinstance(error, CircuitOpenError | JournalError)
        is_unsent = ends_run and not state.was_sent_earlier
        return OutcomeStatus.NOT_SENT if is_unsent else OutcomeStatus.FAILED
    if isinstance(error, NotFoundError) and request.absent_if_missing:
        return OutcomeStatus.ABSENT
    # a defect, such as a transport's, unless the server certainly processed nothing
    defect = not isinstance(error, AdaptyError) and not state.is_first_send
    lost = defect or state.is_uncertain or may_have_worked(error)
    if _must_not_repeat(request, state) and lost:
        return OutcomeStatus.UNKNOWN
    return OutcomeStatus.FAILED


def _must_not_repeat(request: Request, state: CallState) -> bool:
    return request.retry_safety is not _ALWAYS or state.is_creating


def _when_cancelled(
    request: Request | None, state: CallState
) -> tuple[OutcomeStatus, Exception | None]:
    """
    Return the status and the error of an item whose processing was cancelled.

    1. No attempt was made: the item was not sent, or its outcome is uncertain since an earlier run.
    2. An attempt is on the wire: its response is lost.
    3. An attempt succeeded, and a hook raised a BaseException: its response is lost, too.
    4. It waits for a retry: the earlier attempts decide. It was not sent if none of them had a
       connection, unless an earlier run may have sent it.
    """
    if request is None or not state.attempts:
        if request is not None and state.is_creation_lost:
            return OutcomeStatus.UNKNOWN, lost_creation(request)
        if state.was_sent_earlier:
            return OutcomeStatus.FAILED, may_be_done()
        return OutcomeStatus.NOT_SENT, None
    error = state.error
    is_lost = state.on_wire or error is None
    if is_lost:
        passed = "arrived" if state.on_wire else "was processed"
        error = ConnectionLostError(
            f"cancelled before the response {passed}", operation=request.operation
        )
    if _must_not_repeat(request, state) and (is_lost or state.is_uncertain):
        return OutcomeStatus.UNKNOWN, error
    written = is_lost or state.written or state.was_sent_earlier
    return (OutcomeStatus.FAILED if written else OutcomeStatus.NOT_SENT), error
