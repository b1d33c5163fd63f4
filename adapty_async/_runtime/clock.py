"""The outside world as far as time and chance are concerned."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

__all__ = ("Timing",)


class Timing(msgspec.Struct, frozen=True):
    """
    Clock, sleep and chance, so that tests can bring their own.

    Attributes:
        clock: seconds that only ever grow.
        sleep: waits so many seconds.
        uniform: a random number between two bounds.
    """

    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    uniform: Callable[[float, float], float]
