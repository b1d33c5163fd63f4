"""
Models of the rate limits of the benchmark's server, without I/O.

Points in time are seconds since the first request. Callers pass them in ascending order.
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

# Refilling adds floats: a token that lacks this fraction counts as complete.
_ROUNDING = 1e-9


class Rates(msgspec.Struct, frozen=True):
    """
    A rate in requests per second that changes in steps.

    Attributes:
        steps: pairs of a time, in seconds from 0 and ascending, and the rate from then on.
    """

    steps: tuple[tuple[float, float], ...]

    def totals(self) -> tuple[tuple[float, float, float], ...]:
        """Return the steps, each with the number of requests allowed before it."""
        rows = []
        before = 0.0
        for (start, rate), (end, _) in itertools.pairwise([*self.steps, (math.inf, 0.0)]):
            rows.append((start, rate, before))
            before += rate * (end - start)
        return tuple(rows)

    def seconds_for(self, count: float) -> float:
        """Return the time at which `count` requests are allowed."""
        start, rate, before = [row for row in self.totals() if row[2] <= count][-1]
        return start + (count - before) / rate

    def scaled(self, factor: float) -> Rates:
        """Return the same rates with all times multiplied by `factor`."""
        return Rates(tuple((start * factor, rate) for start, rate in self.steps))


class Outage(msgspec.Struct, frozen=True):
    """
    A period in which every request fails.

    Attributes:
        start: its first moment, in seconds since the first request.
        end: its end, in seconds since the first request.
    """

    start: float
    end: float

    def covers(self, now: float) -> bool:
        """Return whether the outage covers `now`."""
        return self.start <= now < self.end

    def scaled(self, factor: float) -> Outage:
        """Return an outage with its times multiplied by `factor`."""
        return Outage(self.start * factor, self.end * factor)


class Limit(Protocol):
    """A rate limit that admits or rejects requests in order of arrival."""

    def admit(self, now: float) -> bool:
        """Return whether a request that arrives at `now` is admitted, and count it if so."""
        ...


class Bucket:
    """A token bucket: a rate, and `burst` at once after a pause. It starts full."""

    def __init__(self, rates: Rates, burst: float) -> None:
        self._latest_first = tuple(reversed(rates.totals()))
        self._burst = burst
        self._tokens = burst
        self._allowed = 0.0

    def admit(self, now: float) -> bool:
        """Acquire a token, and return whether one was free."""
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
    """A fixed window of one second, on a clock that is `phase` ahead of the first request."""

    def __init__(self, limit: int, phase: float) -> None:
        self._limit = limit
        self._phase = phase
        self._second = 0
        self._count = 0

    def admit(self, now: float) -> bool:
        """Count the request in the window of `now`, and return whether the limit allows it."""
        second = int(now + self._phase)
        if second != self._second:
            self._second, self._count = second, 0
        if self._count >= self._limit:
            return False
        self._count += 1
        return True


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    The settings of a limit, as JSON for the server's process.

    Attributes:
        rates: the requests per second.
        burst: the size of the token bucket; None selects a fixed window of one second.
        outage: the period in which every response is a 503.
    """

    rates: Rates
    burst: float | None
    outage: Outage | None = None

    def make(self, seed: int) -> Limit:
        """Return the limit in its initial state; the seed selects the phase of a window."""
        if self.burst is not None:
            return Bucket(self.rates, self.burst)
        return Window(int(self.rates.steps[0][1]), random.Random(seed).random())

    def ideal(self, count: int) -> float:
        """Return the least seconds in which `count` requests are admitted, without a burst."""
        seconds = self.rates.seconds_for(count)
        if self.outage is not None and seconds > self.outage.start:
            seconds += self.outage.end - self.outage.start
        return seconds

    def scaled(self, factor: float) -> LimitSettings:
        """Return the same limit with all times multiplied by `factor`."""
        outage = None if self.outage is None else self.outage.scaled(factor)
        return LimitSettings(rates=self.rates.scaled(factor), burst=self.burst, outage=outage)


def most_within(moments: Sequence[float], seconds: float) -> int:
    """Return the largest number of sorted times within any period of `seconds`."""
    first = most = 0
    for last, moment in enumerate(moments):
        while moments[first] <= moment - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def back_at(moments: Sequence[float], count: int, since: float) -> float | None:
    """
    Return the seconds from `since` to the first second that contains `count` sorted times.

    Return None if there is no such second.
    """
    later = [moment for moment in moments if moment >= since]
    for first, last in zip(later, later[count - 1 :], strict=False):
        if last - first < 1:
            return first - since
    return None
