"""
An adaptive rate limiter, which finds the request rate from the server's responses.

It neither waits nor sends. Its caller calls `acquire()` before each request, and `succeeded()` or
`throttled()` for each response.

The limiter measures a limit and does not guess it. Between two 429 responses the server accepted
exactly the requests that it allows, so their number divided by the time in between is the limit.
The rate stays a little below the limit and rises along the CUBIC curve (RFC 9438): slowly near the
known limit, and ever faster beyond it, in case the server has raised it. The adaptive retry mode
of the AWS SDKs uses that curve too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ("AdaptiveRateLimiter",)

# Initial requests per second; low enough for the smallest account.
_START = 20.0
_MIN_RATE = 0.1
_MAX_RATE = 100_000.0
_CLOCK_RESOLUTION = 1e-6  # seconds; some clocks resolve no shorter time
# Seconds by which a request may be early, to make up for tasks that woke up late.
_CATCH_UP = 0.02
# Minimum seconds of a wait. The requests behind it then catch up at once, and thousands per second
# do not need one loop iteration each. That saves 5 ms at the start of every run.
_MIN_WAIT = 0.002
# Maximum seconds by which counted requests delay those that acquire a permit.
_DEBT = 1.0
# Minimum and maximum seconds in which the first search doubles the rate, so that short runs reach a
# useful rate too. In between it is two and a half round trips: the first 429 takes one to arrive.
_FIRST_DOUBLING = 0.01, 0.05
_BETA = 0.85
_BETA_FIRST = 0.5
# The share of the rate that remains after a cut without a measurement. The first search overshoots
# most: it continues while the server's burst lasts and while the first 429 is on its way.
_BETA_SEARCH = 0.7
# The share of a measured limit that is used at first, so that the server's burst fills up again.
_SAFETY_SHARE = 0.97
# C of CUBIC, relative to the limit, so that the climb is as quick at 25 requests per second as at
# 5,000. The absolute 0.4 of the RFC would be 0.001 here at 400 per second, which is too slow for a
# limit that rises.
_CUBIC_C = 0.01
# A rate above this multiple of the measured limit starts a search for a new limit.
_RAISED = 1.25
# Minimum number of successes for a measurement; an overload lasts until then.
_MIN_PASSED = 10
# Seconds after which a 429 starts a new episode and a new measurement, since limits move.
_EPISODE = 1.0
# A measurement shorter than these seconds may cover only the end of a fixed window. It counts in
# part.
_BRIEF = 0.5
# The share of the known limit that is the minimum of a new limit after a single 429.
_STEADY = 0.93
_COST = 60
# A climb lasts as long as `_COST` requests for each 429 at the end of the last climb, up to these
# seconds. If a touch of the limit has a high price, as with a fixed window, touches become rarer.
_MAX_COST = 2.5
# Consecutive 429 responses that pause all requests; fewer if they ask for a long pause: a single
# one of 30 s is enough. A pause after each would cost that time every few seconds, since that is
# how often a climb touches the limit.
_CONSECUTIVE = 10
# A `Retry-After` up to these seconds is a default of the server: many send 1 and accept requests
# sooner.
_SHORT_PAUSE = 3.0
_PROBE_FIRST = 0.1
_MAX_PROBE = 10.0
_PROBES = 6
_PROBING = 70.0
# After `_PROBES` throttled probes and `_PROBING` seconds, the next probe follows after
# `_PROBE_SHARE` times the time since the first one. A ban that each request renews ends only if
# nothing is sent for its whole duration. A minute is the most common ban; after 70 seconds it has
# ended, unless requests renew it.
_PROBE_SHARE = 1.1
_MAX_PAUSE = 3600.0


class AdaptiveRateLimiter:
    """
    An adaptive rate limiter that keeps just below the rate that a server accepts.

    It is deterministic and for use in one thread. Requests without a response need no record.

    Args:
        clock: returns monotonic seconds.
        rate: `estimate` of an earlier limiter, in requests per second; None if there is none.
        lowest: minimum requests per second, inclusive.
        highest: maximum requests per second, inclusive.

    Raises:
        ValueError: a rate is not above 0, or infinite, or `lowest` is above `highest`.

    Attributes:
        rate: current requests per second.
        limit: the last measured limit of the server; None during a search for it.
        paused_until: time on the clock before which nothing is sent; it may be past.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        rate: float | None = None,
        lowest: float = _MIN_RATE,
        highest: float = _MAX_RATE,
    ) -> None:
        if not 0.0 < lowest <= highest < math.inf:
            raise ValueError(f"lowest={lowest}, highest={highest}: must be above 0, in this order")
        if rate is not None and not 0.0 < rate < math.inf:
            raise ValueError(f"rate={rate}: must be above 0 requests per second")
        self._clock = clock
        self._min_rate = lowest
        self._max_rate = highest
        self.rate = self._within(_START if rate is None else _SAFETY_SHARE * rate)
        self.limit = rate
        self.paused_until = now = clock()
        self._sent = now + _CATCH_UP - 1.0 / self.rate  # as if evenly spaced
        self._waited = 1.0  # the share of requests that had to wait
        self._delayed_until = -math.inf  # by the rate, as of the last acquire
        self._round_trip = 0.0
        self._responded = now
        self._cut = self._throttled = -math.inf  # time of the last cut; last send of a 429
        self._climbed = 0.0  # on the curve, in seconds; its plateau is at `_plateau`
        self._plateau = math.cbrt((1.0 - _SAFETY_SHARE) / _CUBIC_C)
        self._since: float | None = None  # send of the 429 that starts the measurement
        self._limit_before = rate  # the known limit when the last episode began
        self._passed = 0
        self._unused = 0.0
        self._consecutive = 0
        self._price = 0.0  # seconds of the last pause
        self._episode_throttled = 0  # 429 responses of the present episode
        self._unknown = rate is None  # no limit was ever measured
        self._closed = 0  # consecutive closings; above 0 only probes are sent
        self._closed_at = -math.inf
        self._closed_since = -math.inf
        self._probe_until = -math.inf

    @property
    def estimate(self) -> float:
        """Return the limit, or the rate during a search for it; a later limiter starts with it."""
        return self.rate if self.limit is None else self.limit

    @property
    def probing(self) -> bool:
        """Return whether the server rejects everything, so that only single probes are sent."""
        return self._closed > 0

    @property
    def burst(self) -> float:
        """Return the number of requests that may be sent at once at the current rate."""
        return 1.0 + _CATCH_UP * self.rate

    def delay(self) -> float:
        """Return the seconds until the next request may be sent."""
        return self._delay(self._clock(), self._next_at())

    def _delay(self, now: float, next_at: float) -> float:
        wait = next_at - _CATCH_UP - now
        if self._closed and now < self._probe_until:
            # the time of the probe's response is unknown, so the caller checks again soon
            wait = max(wait, min(self._probe_until - now, max(0.005, self._round_trip / 4)))
        return wait if wait > _CLOCK_RESOLUTION else 0.0

    def acquire(self) -> float:
        """Return the seconds until the next request may be sent; at 0 it counts as sent now."""
        now, next_at = self._clock(), self._next_at()
        late = now - next_at  # below 0 after a wait, which ends as early as possible
        if late < -_CATCH_UP or self._closed:
            wait = self._delay(now, next_at)
            if wait > 0.0:
                self._delayed_until = now + min(wait, _DEBT)
                return max(wait, _MIN_WAIT)
        self._waited += ((late <= _CLOCK_RESOLUTION) - self._waited) / 16
        if late > 0.0:
            self._unused += late
        self._sent = max(now, next_at)
        if self._closed:
            self._probe_until = now + max(1.0, 4 * self._round_trip)
        return 0.0

    def _next_at(self) -> float:
        return max(self._sent + 1.0 / self.rate, self.paused_until + _CATCH_UP)

    def count(self) -> None:
        """Count a request sent without `acquire`; requests that acquire wait longer for it."""
        now, interval = self._clock(), 1.0 / self.rate
        self._sent = min(max(now, self._sent) + interval, now + max(_DEBT, interval))

    def search_from(self, rate: float) -> None:
        """Start the search at the rate of counted requests, unless a search began before."""
        if self._unknown and self._cut == -math.inf:
            self.rate = self._within(rate)

    def succeeded(self, sent: float, *, paced: bool = True) -> None:
        """
        Record a response other than 429 to a request that was sent at `sent`.

        A request that was not `paced` shows that the server accepts it. That raises the rate only
        while the rate holds other requests back. Otherwise a larger number of such requests than
        the rate allows would hold the others back permanently.
        """
        now = self._clock()
        seconds = now - sent
        self._round_trip += (seconds - self._round_trip) / 8 if self._round_trip else seconds
        self._consecutive = 0
        if sent >= self._closed_at:
            self._closed = 0
        if self._since is not None and sent > self._since:
            self._passed += 1
        # otherwise it is not the rate that holds requests back
        if self._waited > 0.5 if paced else now < self._delayed_until:
            self._grow(now - self._responded)
        self._responded = now

    def _grow(self, seconds: float) -> None:
        if self.limit is None:
            self._search()
            return
        climb = self._climb_seconds()
        self._climbed += min(seconds, climb / 2) / climb
        share = 1.0 + _CUBIC_C * (self._climbed - self._plateau) ** 3
        self.rate = max(self.rate, self._within(self.limit * share))
        if self.rate > _RAISED * self.limit:
            self.limit = self._since = None

    def _search(self) -> None:
        if self._responded < self._throttled + _EPISODE:
            return
        first = self._cut == -math.inf
        doubling = self._first_doubling() if first else self._climb_seconds() / 2
        # a constant step per success grows exponentially in time, no faster than responses arrive
        self.rate = self._within(self.rate + math.log(2.0) / doubling)

    def _first_doubling(self) -> float:
        shortest, longest = _FIRST_DOUBLING
        return max(shortest, min(longest, 2.5 * self._round_trip), self._round_trip)

    def _climb_seconds(self) -> float:
        # A 429 ends every climb. They stay rare if a climb takes many round trips and many
        # requests, and more time if the last 429 cost more: a pause, or many 429s at once.
        cost = min(_MAX_COST, _COST * self._episode_throttled / self.rate)
        return max(1.0, 5 * self._round_trip, 3 * self._price, 25 / self.rate, cost)

    def throttled(
        self, sent: float, retry_after: float | None = None, *, within: float = math.inf
    ) -> None:
        """
        Record a 429 response to a request that was sent at `sent`, with its `Retry-After`.

        The next probe is due `within` these seconds: it is of no use later.
        """
        now = self._clock()
        self._episode_throttled = (
            self._episode_throttled + 1 if sent <= self._throttled + _EPISODE else 1
        )
        self._consecutive += 1
        if sent > self._cut and not self._closed:
            self._slow_down(now, sent)
        if self._since is None or (sent > self._since + _EPISODE and self._passed >= _MIN_PASSED):
            self._since, self._passed, self._unused = sent, 0, 0.0
        self._throttled = max(self._throttled, sent)
        self._pause(now, sent, min(_MAX_PAUSE, max(0.0, retry_after or 0.0)), within)

    def _slow_down(self, now: float, sent: float) -> None:
        is_new = sent > self._throttled + _EPISODE
        if is_new:
            self._limit_before = self.limit
        measured = self._measured(now)
        if measured is not None:
            is_brief = self._since is not None and now - self._since < _BRIEF
            if self._limit_before is not None and (is_new or is_brief):
                measured = max(measured, _STEADY * self._limit_before)
            self.limit = measured
            self._unknown = False
            self.rate = self._within(min(self.rate, _SAFETY_SHARE * measured))
        elif self.limit is None and (is_new or self._unknown):
            beta = _BETA_FIRST if self._cut == -math.inf else _BETA_SEARCH
            self.rate = self._within(beta * self.rate)
        elif self.limit is not None and is_new:
            self.limit = self.rate
            self.rate = self._within(_BETA * self.rate)
        else:
            return
        self._cut = now
        self._price = self._climbed = 0.0
        if self.limit is not None:
            self._plateau = math.cbrt(max(0.0, 1.0 - self.rate / self.limit) / _CUBIC_C)

    def _measured(self, now: float) -> float | None:
        if self._since is None or self._passed < _MIN_PASSED:
            return None
        # the counted requests were sent up to a round trip ago
        if (seconds := now - self._round_trip - self._since) <= 0.0:
            return None
        measured = self._passed / seconds
        if seconds < _BRIEF or self._unused > 0.1 * seconds:
            measured = max(measured, _BETA_SEARCH * self.rate)
        return measured

    def _pause(self, now: float, sent: float, asked: float, within: float) -> None:
        if self._consecutive * max(_SHORT_PAUSE, asked) < _CONSECUTIVE * _SHORT_PAUSE:
            return
        is_new = sent >= self._closed_at
        if asked > _SHORT_PAUSE:
            self._since = None  # a pause invalidates the measurement
        elif is_new:
            doubled = min(_PROBE_FIRST * 2.0 ** min(self._closed, 60), max(_PROBE_FIRST, within))
            asked = min(asked or _MAX_PROBE, doubled)
        else:
            return
        if is_new and self._consecutive >= _CONSECUTIVE:
            self._closed_since = self._closed_since if self._closed else now
            self._closed += 1
            self._closed_at = now
            self._probe_until = -math.inf
        self._price = asked
        self.paused_until = max(self.paused_until, now + max(asked, self._silence(now, within)))

    def _silence(self, now: float, within: float) -> float:
        """Return the seconds without a probe that may end a ban which each request renews."""
        lasted = now - self._closed_since
        if self._closed <= _PROBES or lasted < _PROBING:
            return 0.0
        return min(_MAX_PAUSE, _PROBE_SHARE * lasted, within)

    def _within(self, rate: float) -> float:
        return min(self._max_rate, max(self._min_rate, rate))

    def __repr__(self) -> str:
        return f"AdaptiveRateLimiter(rate={self.rate:.1f}, limit={self.limit})"
