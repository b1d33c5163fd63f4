"""
Bulk runs of API calls: one item becomes one operation, one call and one outcome.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import weakref
from collections.abc import AsyncIterable, Callable, Hashable, Iterable
from typing import Any, Generic, Protocol, TypeAlias, TypedDict, TypeVar, Unpack

import msgspec

from adapty_async._codec import decode
from adapty_async._operation import Operation, Replay, Request, Send, Tally
from adapty_async._retry import may_have_worked
from adapty_async.bulk._entries import Seen
from adapty_async.bulk._ledger import Ledger, digest_of
from adapty_async.bulk._outcome import Outcome, OutcomeStatus
from adapty_async.bulk._runner import BulkRun, Settings
from adapty_async.bulk._source import source_of
from adapty_async.bulk._stop import StopRules
from adapty_async.bulk._turns import Turns
from adapty_async.config import positive
from adapty_async.errors import (
    AdaptyError,
    ConfigError,
    ConnectionLostError,
    JournalError,
    NotFoundError,
    bare,
)

__all__ = (
    "BulkOptions",
    "Engine",
    "Items",
    "Memory",
    "StartBulk",
    "run_calls",
    "settings_from",
)

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

Items: TypeAlias = Iterable[ItemT] | AsyncIterable[ItemT]

_CONCURRENCY = 32
_DRAIN_SECONDS = 5.0


class BulkOptions(TypedDict, Generic[ItemT, ResultT], total=False):
    """
    The options of every bulk method.

    Attributes:
        concurrency: items in work at a time; 32 unless told.
        rate: requests per second at most, repeats included; None sets no rate.
        fail_fast: stop after the first item that is not done or absent.
        on_outcome: called in the event loop with each outcome; what it raises stops the run.
        ordered: hand outcomes over in the order of the input, not as they end.
        drain: seconds that requests in flight get to end when the run is stopped; 5 unless told.
        journal: a file that makes the run resumable: run it again with the same journal, and what
            is done is skipped.
        dedupe: send each request once; the same one further on is skipped. Always so with a
            journal that has no `job_id`.
        job_id: vouches that the items come in the same order each time the journal is used;
            without it, they are told apart by their requests, in any order.
    """

    concurrency: int | None
    rate: float | None
    fail_fast: bool
    on_outcome: Callable[[Outcome[ItemT, ResultT]], object] | None
    ordered: bool
    drain: float
    journal: str | os.PathLike[str] | None
    job_id: str | None
    dedupe: bool


class StartBulk(Protocol):
    """
    What a resource needs to offer bulk methods: how one operation is made of one item, and go.
    """

    def __call__(
        self,
        items: Items[ItemT],
        build: Callable[[ItemT], Operation[ResultT]],
        name: str,
        /,
        **options: Unpack[BulkOptions[ItemT, ResultT]],
    ) -> BulkRun[ItemT, ResultT]:
        """
        Make the run; nothing is sent yet.
        """
        ...


class Engine(msgspec.Struct, frozen=True):
    """
    A client's machinery as a run uses it: operations to requests, requests to responses, time.
    """

    encode: Callable[[Operation[Any]], Request]
    send: Send
    clock: Callable[[], float]


def settings_from(options: BulkOptions[Any, Any]) -> Settings:
    """
    Check the options of a bulk method.

    Raises:
        ConfigError: one is unknown or out of range.
    """
    unknown = options.keys() - BulkOptions.__annotations__.keys()
    if unknown:
        raise ConfigError(f"unknown option: {', '.join(sorted(unknown))}")
    concurrency = options.get("concurrency")
    concurrency = _CONCURRENCY if concurrency is None else concurrency
    whole = isinstance(concurrency, int) and not isinstance(concurrency, bool)
    if not whole or concurrency < 1:
        raise ConfigError("concurrency must be a whole number from 1")
    if inspect.iscoroutinefunction(options.get("on_outcome")):
        raise ConfigError("on_outcome must be a plain function: nobody would await an async one")
    return Settings(
        concurrency=concurrency,
        fail_fast=options.get("fail_fast", False),
        ordered=options.get("ordered", False),
        drain=positive("drain", options.get("drain", _DRAIN_SECONDS)),
        on_outcome=options.get("on_outcome"),
    )


class Memory(msgspec.Struct, frozen=True):
    """
    What a run knows of items beyond the one in hand.

    Attributes:
        ledger: the journal, None to keep none.
        seen: digests of the requests so far, None to send the same one as often as it comes.
    """

    ledger: Ledger | None = None
    seen: Seen | None = None


def run_calls(
    items: Items[ItemT],
    build: Callable[[ItemT], Operation[ResultT]],
    engine: Engine,
    settings: Settings,
    memory: Memory,
) -> BulkRun[ItemT, ResultT]:
    """
    Make a run that sends one operation for each item.
    """
    calls = _Calls(build, engine, memory)
    run = BulkRun(
        source_of(items), calls.process, StopRules().judge, settings, calls, calls.status_unsent
    )
    calls.work_for(run)
    return run


class _Calls(Generic[ItemT, ResultT]):
    """
    The way of an item: known already, built, its turn, noted, sent, noted.
    """

    def __init__(
        self,
        build: Callable[[ItemT], Operation[ResultT]],
        engine: Engine,
        memory: Memory,
    ) -> None:
        self._build = build
        self._engine = engine
        self._ledger = memory.ledger
        self._seen = memory.seen
        self._turns = Turns()
        self._digest_key = os.urandom(32)
        self._run: Callable[[], BulkRun[ItemT, ResultT] | None]

    def work_for(self, run: BulkRun[ItemT, ResultT]) -> None:
        """
        Learn which run this is about; the run holds this, so a weak reference has to do.
        """
        self._run = weakref.ref(run)

    def status_unsent(self, index: int) -> OutcomeStatus:
        """
        Say what an item is whose turn did not come.
        """
        settled = self._ledger is not None and self._ledger.settled(index)
        return OutcomeStatus.SKIPPED if settled else OutcomeStatus.NOT_SENT

    def _is_watched(self) -> bool:
        run = self._run()
        return run is not None and run.is_watched()

    async def __aenter__(self) -> None:
        try:
            if self._ledger is not None:
                await self._ledger.open()
        except BaseException:
            self._forget()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._forget()
        if self._ledger is not None:
            await self._ledger.aclose()

    def _forget(self) -> None:
        if self._seen is not None:
            self._seen.close()

    async def process(self, index: int, item: ItemT) -> Outcome[ItemT, ResultT]:
        settled = self._ledger is not None and self._ledger.settled(index)
        if settled and self._seen is None:
            return Outcome(index, item, OutcomeStatus.SKIPPED)
        started = self._engine.clock()
        request: Request | None = None
        try:
            operation = self._build(item)
            request = self._engine.encode(operation)
            repeated = self._is_repeated(operation, request)
            if settled or repeated:
                return await self._skip(index, item, note=not settled)
            subject = _subject_of(operation)
            await self._turns.enter(subject)
        except (asyncio.CancelledError, Exception) as error:  # noqa: BLE001  as in _send
            return _not_done(index, item, request, error, self._engine.clock() - started)
        try:
            return await self._send(index, item, operation, request)
        finally:
            self._turns.leave(subject)

    def _is_repeated(self, operation: Operation[Any], request: Request) -> bool:
        if self._seen is None:
            return False
        return not self._seen.add(digest_of(self._digest_key, operation, request))

    async def _skip(self, index: int, item: ItemT, *, note: bool) -> Outcome[ItemT, ResultT]:
        if note and self._ledger is not None:
            await self._ledger.skip(index)
        return Outcome(index, item, OutcomeStatus.SKIPPED)

    async def _send(
        self, index: int, item: ItemT, operation: Operation[ResultT], request: Request
    ) -> Outcome[ItemT, ResultT]:
        engine, ledger = self._engine, self._ledger
        started = engine.clock()
        try:
            if ledger is not None and (known := await ledger.begin(index, operation, request)):
                return Outcome(index, item, known[0], error=known[1])
            result = decode(operation, await engine.send(request))
        except (asyncio.CancelledError, Exception) as error:  # noqa: BLE001
            # a failure is the item's outcome, and so is being cut off when the run is left;
            # what is a defect is raised by StopRules
            outcome = _not_done(index, item, request, error, engine.clock() - started)
        else:
            outcome = _done(index, item, request.tally, engine.clock() - started, result)
        if ledger is not None:
            await ledger.end(operation, request, outcome, wait=self._is_watched())
        return outcome


def _subject_of(operation: Operation[Any]) -> Hashable:
    about = operation.endpoint.subject
    return operation.headers if about is None else about(operation.body)


def _done(
    index: int, item: ItemT, tally: Tally, elapsed: float, result: ResultT
) -> Outcome[ItemT, ResultT]:
    return Outcome(
        index,
        item,
        OutcomeStatus.DONE,
        tally.attempts,
        tally.throttled,
        elapsed,
        None,
        result,
    )


def _not_done(
    index: int, item: ItemT, request: Request | None, error: BaseException, elapsed: float
) -> Outcome[ItemT, Any]:
    if not isinstance(error, Exception):
        error = ConnectionLostError("cut off when the run was left")
    tally = Tally() if request is None else request.tally
    if isinstance(error, AdaptyError):
        error.attempts = tally.attempts
        bare(error)  # a report is kept, and frames hold items, requests and answers
    else:  # the frame that caught it holds the item
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
    status = _status_of(request, error)
    return Outcome(index, item, status, tally.attempts, tally.throttled, elapsed, error)


def _status_of(request: Request | None, error: Exception) -> OutcomeStatus:
    if request is None or not request.tally.attempts:
        unsent = isinstance(error, ConnectionLostError | JournalError)
        return OutcomeStatus.NOT_SENT if unsent else OutcomeStatus.FAILED
    if isinstance(error, NotFoundError) and request.erases:
        return OutcomeStatus.ABSENT
    defect = not isinstance(error, AdaptyError)  # such as a hook's, after an answer or before
    if request.replay is not Replay.ALWAYS and (defect or may_have_worked(error)):
        return OutcomeStatus.UNKNOWN
    return OutcomeStatus.FAILED
