"""The settings of a bulk run, and how many workers it has."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from adapty_async._bulk.outcome import Outcome

__all__ = ("RunSettings", "WorkerLimit")


class WorkerLimit(Protocol):
    """How many workers a run needs, if that may change while it lasts."""

    limit: int
    #: Spawns *n* more workers; the run sets it while it lasts.
    spawn: Callable[[int], object] | None

    def should_retire(self, workers: int) -> bool:
        """Return whether one of that many workers may end."""
        ...


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    The checked options of a run; see those of `adapty_async.AdaptyClient.bulk`.

    Attributes:
        concurrency: workers at most.
        crew: the number of workers at present; None if it is always `concurrency`.
        stopping: set when the run stops; the layers of its calls read it.
        patience: returns the seconds until an outage ends the run, if nothing succeeds.
        look_every: seconds after which the run asks for its patience again.
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
