"""
The settings of a bulk run, and how many workers it has.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

__all__ = ("Crew", "Settings")


class Crew(Protocol):
    """
    How many workers a run needs, if that may change while it lasts.
    """

    count: int
    call: Callable[[int], object] | None
    """
    Calls in so many workers more; set by the run while it lasts.
    """

    def spares(self, workers: int) -> bool:
        """
        Say whether one of so many workers may go.
        """
        ...


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """
    How a run goes about its items; see the options of `adapty_async.AdaptyClient.bulk`.

    Attributes:
        concurrency: workers at most.
        crew: says how many of them; None if it is always all.
        stopping: is set when the run stops; the layers of its calls read it.
        patience: returns the seconds until an outage ends the run, if nothing succeeds.
        look_every: seconds after which the run asks for its patience again.
    """

    concurrency: int
    crew: Crew | None = None
    fail_fast: bool
    ordered: bool
    drain: float
    on_outcome: Callable[[Any], object] | None
    stopping: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    patience: Callable[[], float] = lambda: math.inf
    look_every: float = 1.0
