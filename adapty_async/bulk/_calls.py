"""
Bulk runs of API calls: one item becomes one operation, one call and one outcome.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any, Generic, Protocol, TypeAlias, TypedDict, TypeVar, Unpack

import msgspec

from adapty_async._codec import decode
from adapty_async._operation import Operation, Replay, Request, Send, Tally
from adapty_async._retry import may_have_worked
from adapty_async.bulk._outcome import Outcome, OutcomeStatus
from adapty_async.bulk._runner import BulkRun, Settings
from adapty_async.bulk._source import source_of
from adapty_async.bulk._stop import StopRules
from adapty_async.config import positive
from adapty_async.errors import (
    AdaptyError,
    ConfigError,
    ConnectionLostError,
    NotFoundError,
)

__all__ = ("BulkOptions", "Engine", "Items", "StartBulk", "run_calls", "settings_from")

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
    """

    concurrency: int | None
    rate: float | None
    fail_fast: bool
    on_outcome: Callable[[Outcome[ItemT, ResultT]], object] | None
    ordered: bool
    drain: float


class StartBulk(Protocol):
    """
    What a resource needs to offer bulk methods: how one operation is made of one item, and go.
    """

    def __call__(
        self,
        items: Items[ItemT],
        build: Callable[[ItemT], Operation[ResultT]],
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


def run_calls(
    items: Items[ItemT],
    build: Callable[[ItemT], Operation[ResultT]],
    engine: Engine,
    settings: Settings,
) -> BulkRun[ItemT, ResultT]:
    """
    Make a run that sends one operation for each item.
    """

    async def process(index: int, item: ItemT) -> Outcome[ItemT, ResultT]:
        started = engine.clock()
        request: Request | None = None
        try:
            operation = build(item)
            request = engine.encode(operation)
            result = decode(operation, await engine.send(request))
        except asyncio.CancelledError:  # the run is being left; its item still gets an outcome
            cut_off = ConnectionLostError("cut off when the run was left")
            return _not_done(index, item, request, cut_off, engine.clock() - started)
        except Exception as error:  # noqa: BLE001  a value here; StopRules raises what is a defect
            return _not_done(index, item, request, error, engine.clock() - started)
        tally = request.tally
        return Outcome(
            index,
            item,
            OutcomeStatus.DONE,
            tally.attempts,
            tally.throttled,
            engine.clock() - started,
            None,
            result,
        )

    return BulkRun(source_of(items), process, StopRules().judge, settings)


def _not_done(
    index: int, item: ItemT, request: Request | None, error: Exception, elapsed: float
) -> Outcome[ItemT, Any]:
    tally = Tally() if request is None else request.tally
    if isinstance(error, AdaptyError):
        error.attempts = tally.attempts
    status = _status_of(request, error)
    return Outcome(index, item, status, tally.attempts, tally.throttled, elapsed, error)


def _status_of(request: Request | None, error: Exception) -> OutcomeStatus:
    if request is None or not request.tally.attempts:
        cut_off = isinstance(error, ConnectionLostError)
        return OutcomeStatus.NOT_SENT if cut_off else OutcomeStatus.FAILED
    if isinstance(error, NotFoundError) and request.erases:
        return OutcomeStatus.ABSENT
    defect = not isinstance(error, AdaptyError)  # such as a hook's, after an answer or before
    if request.replay is not Replay.ALWAYS and (defect or may_have_worked(error)):
        return OutcomeStatus.UNKNOWN
    return OutcomeStatus.FAILED
