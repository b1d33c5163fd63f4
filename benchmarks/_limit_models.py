"""
The limits of the benchmark's server as pure rules: what passes at which moment.

Moments are seconds since the first request. Callers bring them, and never go back in time.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from typing import Protocol

import msgspec

__all__ = (
    "Bucket",
    "Limit",
    "LimitSettings",
    "Outage",
    "Rates",
    "Window",
    "back_at",
    "most_within",
)

# Refilling adds up floats; a token short of this much is a whole one.
_ROUNDING = 1e-9


class Rates(msgspec.Struct, frozen=True):
    """
    Requests per second over time.

    Attributes:
        steps: moments, from 0 on and rising, with the rate that holds from then on.
    """

    steps: tuple[tuple[float, float], ...]

    def totals(self) -> tuple[tuple[float, float, float], ...]:
        """Return the steps, each with how many requests were allowed before it."""
        rows = []
        before = 0.0
        for (start, rate), (end, _) in itertools.pairwise([*self.steps, (math.inf, 0.0)]):
            rows.append((start, rate, before))
            before += rate * (end - start)
        return tuple(rows)

    def seconds_for(self, count: float) -> float:
        """Return the moment at which so many requests are allowed."""
        start, rate, before = [row for row in self.totals() if row[2] <= count][-1]
        return start + (count - before) / rate

    def scaled(self, factor: float) -> Rates:
        """Return the same rates with their moments so many times as late."""
        return Rates(tuple((start * factor, rate) for start, rate in self.steps))


class Outage(msgspec.Struct, frozen=True):
    """
    The time in which nothing works.

    Attributes:
        start: the moment it begins.
        end: the moment it is over.
    """

    start: float
    end: float

    def covers(self, now: float) -> bool:
        """Say whether that moment is in it."""
        return self.start <= now < self.end

    def scaled(self, factor: float) -> Outage:
        """Return an outage with its moments so many times as late."""
        return Outage(self.start * factor, self.end * factor)


class Limit(Protocol):
    """What decides on each request in the order of arrival."""

    def admit(self, now: float) -> bool:
        """Say whether a request that arrives now passes, and count it if it does."""
        ...


class Bucket:
    """A token bucket: a rate, and `burst` at once after a pause. It starts full."""

    def __init__(self, rates: Rates, burst: float) -> None:
        self._latest_first = tuple(reversed(rates.totals()))
        self._burst = burst
        self._tokens = burst
        self._allowed = 0.0

    def admit(self, now: float) -> bool:
        """Take a token, if there is one."""
        for start, rate, before in self._latest_first:
            if now >= start:
                allowed = before + rate * (now - start)
                self._tokens = min(self._burst, self._tokens + allowed - self._allowed)
                self._allowed = allowed
                break
        if self._tokens < 1 - _ROUNDING:
            return False
        self._tokens -= 1
        return True


class Window:
    """A count for each second of a clock that is `phase` ahead of the first request."""

    def __init__(self, limit: int, phase: float) -> None:
        self._limit = limit
        self._phase = phase
        self._second = 0
        self._count = 0

    def admit(self, now: float) -> bool:
        """Take one of the places of this second, if any is left."""
        second = int(now + self._phase)
        if second != self._second:
            self._second, self._count = second, 0
        if self._count >= self._limit:
            return False
        self._count += 1
        return True


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    A limit as it is told to the server's process.

    Attributes:
        rates: the requests per second.
        burst: what the bucket holds; None for a fixed window of one second instead.
        outage: when every request is answered 503.
    """

    rates: Rates
    burst: float | None
    outage: Outage | None = None

    def make(self, seed: int) -> Limit:
        """Return the limit at its beginning; where a window begins depends on the seed."""
        if self.burst is not None:
            return Bucket(self.rates, self.burst)
        return Window(int(self.rates.steps[0][1]), random.Random(seed).random())

    def ideal(self, count: int) -> float:
        """Return the seconds in which so many requests pass at best, a burst not counted."""
        seconds = self.rates.seconds_for(count)
        if self.outage is not None and seconds > self.outage.start:
            seconds += self.outage.end - self.outage.start
        return seconds

    def scaled(self, factor: float) -> LimitSettings:
        """Return the same limit with its changes so many times as late."""
        outage = None if self.outage is None else self.outage.scaled(factor)
        return LimitSettings(rates=self.rates.scaled(factor), burst=self.burst, outage=outage)


def most_within(moments: Sequence[float], seconds: float) -> int:
    """Return the largest number of moments, sorted as they are, in any stretch of time."""
    first = most = 0
    for last, moment in enumerate(moments):
        while moments[first] <= moment - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def back_at(moments: Sequence[float], count: int, since: float) -> float | None:
    """
    Return how long after `since` the first second begins that holds so many sorted moments.

    None if there is no such second.
    """
    later = [moment for moment in moments if moment >= since]
    for first, last in zip(later, later[count - 1 :], strict=False):
        if last - first < 1:
            return first - since
    return None
