"""A struct of injected time and random functions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

__all__ = ("Timing",)


class Timing(msgspec.Struct, frozen=True):
    """
    A bundle of clock, sleep and random function, which tests replace with fakes.

    Attributes:
        clock: returns monotonic seconds.
        sleep: waits for a number of seconds.
        uniform: returns a random number between two bounds.
    """

    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    uniform: Callable[[float, float], float]
