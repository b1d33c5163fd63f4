"""The checked settings of a bulk run, and the interface of its worker limit."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from adapty_async._bulk.outcome import Outcome

__all__ = ("RunSettings", "WorkerLimit")


class WorkerLimit(Protocol):
    """A limit of a run's workers that may change during the run."""

    limit: int

    def more_wanted(self) -> int:
        """Return how many more workers are useful than at the last call."""
        ...

    def should_retire(self, workers: int) -> bool:
        """Return whether one of *n* workers should end."""
        ...


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    The checked options of a run; see those of `adapty_async.AdaptyClient.bulk`.

    Attributes:
        concurrency: maximum number of workers.
        worker_limit: the current limit of workers; None if it is always `concurrency`.
        fail_fast, ordered, on_outcome: as in `adapty_async.bulk.BulkOptions`.
        drain: seconds that requests in flight get to end when the run stops.
        stopping: set when the run stops; the pipeline layers of its calls read it.
        patience: returns the seconds until an outage ends the run, if no request succeeds.
        look_every: seconds between two calls of `patience`.
        record: receives the outcome of each item that is not processed; its result is awaited
            before more items are read.
    """

    concurrency: int
    worker_limit: WorkerLimit | None = None
    fail_fast: bool
    ordered: bool
    drain: float
    on_outcome: Callable[[Any], object] | None
    stopping: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    patience: Callable[[], float] = lambda: math.inf
    look_every: float = 1.0
    record: Callable[[Outcome[Any, Any]], Awaitable[None] | None] = lambda _: None
