"""
Operations in, results out: single calls and bulk runs over one client's pipeline.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, Unpack

import msgspec

from adapty_async._capacity import Capacity
from adapty_async._codec import Wire, encode
from adapty_async._journal import SqliteJournal, belongs_to_journal
from adapty_async._operation import Operation
from adapty_async._pacer import Pacer
from adapty_async._pipeline import Layers, build
from adapty_async._run_limits import RunLimits, wakeful
from adapty_async.bulk import BulkOptions, BulkRun, Items
from adapty_async.bulk._calls import (
    MAX_OUTAGE,
    MOST_WORKERS,
    Engine,
    Records,
    run_calls,
    settings_from,
)
from adapty_async.bulk._recording import OutcomesPath
from adapty_async.bulk._run_journal import RunIdentity, RunJournal
from adapty_async.config import RetryPolicy, positive
from adapty_async.errors import AdaptyError, ConfigError

__all__ = ("CallOptions", "Caller")

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class CallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    What may differ between calls over the same connections.

    Attributes:
        timeout: seconds for one attempt.
    """

    wire: Wire
    retry: RetryPolicy
    timeout: float

    def __post_init__(self) -> None:
        positive("timeout", self.timeout)


class Caller:
    """
    Makes calls with one set of options; what resources are given to work with.
    """

    def __init__(self, layers: Layers, options: CallOptions) -> None:
        self.layers = layers
        self.options = options
        self._send = build(layers, options.retry)
        self._encode = functools.partial(
            encode, wire=options.wire, timeout=options.timeout, allowance=options.retry.deadline
        )

    async def execute(self, operation: Operation[ResultT]) -> ResultT:
        """
        Send one operation and return its result.
        """
        request = self._encode(operation)
        request.tally.deadline = self.layers.timing.clock() + request.allowance
        response = await self._send(request)
        try:
            return self.layers.decode(operation, response)
        except AdaptyError as error:
            error.attempts = request.tally.attempts
            raise

    def bulk(
        self,
        items: Items[ItemT],
        build_operation: Callable[[ItemT], Operation[ResultT]],
        name: str,
        /,
        **options: Unpack[BulkOptions[ItemT, ResultT]],
    ) -> BulkRun[ItemT, ResultT]:
        """
        Make a run that sends one operation for each item.
        """
        layers = self.layers
        limits = _limits_of(options, layers.timing.clock)
        settings = settings_from(options, limits.capacity, limits.stopping)
        storage = options.get("journal")
        journal: RunJournal | None = None
        if storage is not None:
            wire, workers = self.options.wire, settings.concurrency
            if isinstance(storage, str | os.PathLike):
                storage = SqliteJournal(Path(storage), owed=2 * workers)
            run = RunIdentity(name, wire.origin, wire.headers["Authorization"])
            journal = RunJournal(storage, run, items, options.get("job_id"), workers)
        send = build(layers, self.options.retry, limits, journal)
        encode_item = functools.partial(self._encode, background=True)
        engine = Engine(encode_item, send, layers.decode, layers.timing.clock, layers.gates, limits)
        records = Records(
            journal=journal, outcomes=_outcomes_of(options), dedupe=options.get("dedupe", False)
        )
        return run_calls(items, build_operation, engine, settings, records)


def _limits_of(options: BulkOptions[Any, Any], clock: Callable[[], float]) -> RunLimits:
    rate, concurrency = options.get("rate"), options.get("concurrency")
    max_outage = positive("max_outage", options.get("max_outage", MAX_OUTAGE))
    return RunLimits(
        pacer=None if rate is None else _run_pacer(positive("rate", rate), clock),
        capacity=Capacity(MOST_WORKERS, clock) if concurrency is None else None,
        max_outage=max_outage,
        awake=wakeful(clock, max_outage),
    )


def _outcomes_of(options: BulkOptions[Any, Any]) -> OutcomesPath | None:
    outcomes, journal = options.get("outcomes"), options.get("journal")
    if outcomes is None:
        return None
    path = Path(outcomes)
    if isinstance(journal, str | os.PathLike) and belongs_to_journal(path, Path(journal)):
        raise ConfigError("outcomes must not be the journal, nor a file that goes with it")
    return OutcomesPath(path, outcomes.identify if isinstance(outcomes, OutcomesPath) else None)


def _run_pacer(rate: float, clock: Callable[[], float]) -> Pacer:
    # as much as makes up for a busy event loop, and no more: a burst that is as large as the
    # server's is answered 429 if it arrives any closer together than it was sent
    return Pacer(rate, max(1, round(rate / 50)), clock)
