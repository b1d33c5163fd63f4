"""
How fast requests may go when nobody says what the limit is: a rate learned from the answers.

Nothing here waits or sends. Whoever does asks `take()` before each request, and tells `succeeded()`
or `throttled()` of each answer.

A limit is measured rather than guessed at: between two answers 429 the server let through exactly
what it allows, so that their number over the time between is the limit itself. The rate stays a
little below it, and rises along CUBIC's curve (RFC 9438): slow near the limit that is known, ever
faster beyond it, in case it has been raised. AWS's adaptive retry paces requests by that curve too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ("AdaptiveRateLimiter",)

# Requests per second to begin with; low enough for the smallest account.
_START = 20.0
_MIN_RATE = 0.1
_MAX_RATE = 100_000.0
_CLOCK_RESOLUTION = 1e-6  # seconds that a clock may not even be able to tell
# Seconds by which a request may go early, to make up for those that woke up late.
_CATCH_UP = 0.02
# Seconds that who has to wait waits at least. Those behind catch up at once then, and thousands a
# second need no turn of the event loop each: 5 ms less for the start of every run.
_SHORTEST = 0.002
# Seconds by which requests that did not ask hold back those that do, at most.
_DEBT = 1.0
# Seconds in which the first search doubles the rate at least and at most, so that short runs get
# somewhere too; between them two and a half round trips: the first 429 takes one to be heard of.
_FIRST_DOUBLING = 0.01, 0.05
_BETA = 0.85
_BETA_FIRST = 0.5
# What a cut leaves of the rate without a measurement. The first search overshoots most: it goes on
# while the server's burst is used up and while the first 429 is on its way.
_BETA_SEARCH = 0.7
# The share of a measured limit that is used at first, so that the server's burst fills up again.
_BELOW = 0.97
# CUBIC's C with the limit as 1, to be as quick at 25 requests per second as at 5,000. Its own 0.4,
# for a limit of any size, would be 0.001 here at 400 per second, and too slow for a limit that
# rises.
_CURVE = 0.01
# Beyond so many times the limit that was measured, there is another one to be searched for.
_RISEN = 1.25
# Successes that make a measurement; an overload lasts until there are so many.
_ENOUGH = 10
# Seconds after which a 429 is news, and a measurement starts afresh, as limits move.
_EPISODE = 1.0
# Seconds below which a measurement may be of a fixed window's end only, and is believed in part.
_BRIEF = 0.5
# The share of a known limit below which no single 429 brings the next one.
_STEADY = 0.93
_COST = 60
# A climb takes as long as so many requests for each 429 at the end of the last one, up to so many
# seconds: where a limit is touched at a high price, as a fixed window is, it is touched more
# rarely.
_COST_LONGEST = 2.5
# Answers 429 in a row that stop everybody; fewer if they ask for long, of 30 s a single one. A
# pause at each would cost as much as it asks for, every few seconds: that is how often a limit is
# touched.
_IN_A_ROW = 10
# Seconds asked for that are no more than a server's habit: many say 1, and are open again sooner.
_SHORT = 3.0
_PROBE_FIRST = 0.1
_PROBE_LONGEST = 10.0
_PROBES = 6
_PROBING = 70.0
# After `_PROBES` throttled probes and `_PROBING` seconds, the next probe follows after
# `_PROBE_SHARE` times the time since the first one. A ban that each request renews ends only if
# nothing is sent for as long as it lasts. A minute is the most common ban; after 70 seconds it has
# ended, unless requests renew it.
_PROBE_SHARE = 1.1
_PAUSE_LONGEST = 3600.0


class AdaptiveRateLimiter:
    """
    Find the rate at which a server takes requests, and keep just below it.

    Deterministic, and for use in one thread. Of a request that has no answer it need not hear.

    Args:
        clock: seconds that only ever grow.
        rate: the limit learned in an earlier run, `learned` of it; None if there is none.
        lowest: requests per second that are never gone below.
        highest: requests per second that are never exceeded.

    Raises:
        ValueError: a rate is not above 0, or infinite, or `lowest` is above `highest`.

    Attributes:
        rate: requests per second at present.
        limit: the server's limit as measured last; None while it is searched for.
        paused_until: the moment before which nobody may send, by the clock; may be past.
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
        self._lowest = lowest
        self._highest = highest
        self.rate = self._within(_START if rate is None else _BELOW * rate)
        self.limit = rate
        self.paused_until = now = clock()
        self._sent = now + _CATCH_UP - 1.0 / self.rate  # at an even pace, not as it happened
        self._waited = 1.0  # the share of requests that had to wait for their turn
        self._held_until = -math.inf  # by the rate, as far as the last one who asked knows
        self._round_trip = 0.0
        self._answered = now
        self._cut = self._throttled = -math.inf  # when the rate was cut, when a 429 was sent last
        self._climbed = 0.0  # on the curve, in seconds; its plateau is at `_plateau`
        self._plateau = math.cbrt((1.0 - _BELOW) / _CURVE)
        self._since: float | None = None  # a 429 was sent then, where the measurement starts
        self._held = rate  # the limit that was known when the last trouble began
        self._passed = 0
        self._unused = 0.0
        self._in_a_row = 0
        self._price = 0.0  # seconds of the last pause
        self._refused = 0  # answers 429 since the last news of one
        self._unknown = rate is None  # that is, no limit was ever measured
        self._closed = 0  # how many times in a row; nobody but a probe may send
        self._closed_at = -math.inf
        self._closed_since = -math.inf
        self._probe_until = -math.inf

    @property
    def learned(self) -> float:
        """Return what a later run should begin with."""
        return self.rate if self.limit is None else self.limit

    @property
    def probing(self) -> bool:
        """Say whether the server refuses everything, and is asked by one request at a time."""
        return self._closed > 0

    @property
    def burst(self) -> float:
        """Return how many requests may go at once at the present rate."""
        return 1.0 + _CATCH_UP * self.rate

    def delay(self) -> float:
        """Return the seconds until the next request may go."""
        return self._wait(self._clock(), self._turn())

    def _wait(self, now: float, turn: float) -> float:
        wait = turn - _CATCH_UP - now
        if self._closed and now < self._probe_until:
            # nobody can tell when the answer comes, so ask again soon
            wait = max(wait, min(self._probe_until - now, max(0.005, self._round_trip / 4)))
        return wait if wait > _CLOCK_RESOLUTION else 0.0

    def acquire(self) -> float:
        """Return the seconds until the next request may go; at 0 it goes now, and counts."""
        now, turn = self._clock(), self._turn()
        late = now - turn  # below 0 for who waited: it goes as early as may be
        if late < -_CATCH_UP or self._closed:
            wait = self._wait(now, turn)
            if wait > 0.0:
                self._held_until = now + min(wait, _DEBT)
                return max(wait, _SHORTEST)
        self._waited += ((late <= _CLOCK_RESOLUTION) - self._waited) / 16
        if late > 0.0:
            self._unused += late
        self._sent = max(now, turn)
        if self._closed:
            self._probe_until = now + max(1.0, 4 * self._round_trip)
        return 0.0

    def _turn(self) -> float:
        return max(self._sent + 1.0 / self.rate, self.paused_until + _CATCH_UP)

    def count(self) -> None:
        """Hear of a request that goes without asking; those that ask go later for it."""
        now, interval = self._clock(), 1.0 / self.rate
        self._sent = min(max(now, self._sent) + interval, now + max(_DEBT, interval))

    def search_from(self, rate: float) -> None:
        """
        Hear of a pace that requests go at without asking, unless a limit was searched for already.
        """
        if self._unknown and self._cut == -math.inf:
            self.rate = self._within(rate)

    def succeeded(self, sent: float, *, paced: bool = True) -> None:
        """
        Hear of an answer that is not 429, to a request sent at that moment.

        One that was not `paced` says that the server lets it through. That raises the rate only
        while others are held back by it: else more of such requests than the rate has room for
        would hold them back for good.
        """
        now = self._clock()
        took = now - sent
        self._round_trip += (took - self._round_trip) / 8 if self._round_trip else took
        self._in_a_row = 0
        if sent >= self._closed_at:
            self._closed = 0
        if self._since is not None and sent > self._since:
            self._passed += 1
        # else it isn't the rate that holds requests back
        if self._waited > 0.5 if paced else now < self._held_until:
            self._grow(now - self._answered)
        self._answered = now

    def _grow(self, seconds: float) -> None:
        if self.limit is None:
            self._search()
            return
        pace = self._pace()
        self._climbed += min(seconds, pace / 2) / pace
        share = 1.0 + _CURVE * (self._climbed - self._plateau) ** 3
        self.rate = max(self.rate, self._within(self.limit * share))
        if self.rate > _RISEN * self.limit:
            self.limit = self._since = None

    def _search(self) -> None:
        if self._answered < self._throttled + _EPISODE:
            return
        first = self._cut == -math.inf
        doubling = self._first_doubling() if first else self._pace() / 2
        # the same for each success is exponential in time, and no faster than answers come
        self.rate = self._within(self.rate + math.log(2.0) / doubling)

    def _first_doubling(self) -> float:
        least, most = _FIRST_DOUBLING
        return max(least, min(most, 2.5 * self._round_trip), self._round_trip)

    def _pace(self) -> float:
        # A 429 is the end of every climb. They stay rare if it takes many round trips, many
        # requests, and the longer, the more the last one cost: a pause, or many 429s at once.
        cost = min(_COST_LONGEST, _COST * self._refused / self.rate)
        return max(1.0, 5 * self._round_trip, 3 * self._price, 25 / self.rate, cost)

    def throttled(
        self, sent: float, retry_after: float | None = None, *, within: float = math.inf
    ) -> None:
        """
        Hear of an answer 429, to a request sent at that moment, and of what it asked for.

        The next probe should come `within` these seconds: it is of no use later.
        """
        now = self._clock()
        self._refused = self._refused + 1 if sent <= self._throttled + _EPISODE else 1
        self._in_a_row += 1
        if sent > self._cut and not self._closed:
            self._slow_down(now, sent)
        if self._since is None or (sent > self._since + _EPISODE and self._passed >= _ENOUGH):
            self._since, self._passed, self._unused = sent, 0, 0.0
        self._throttled = max(self._throttled, sent)
        self._pause(now, sent, min(_PAUSE_LONGEST, max(0.0, retry_after or 0.0)), within)

    def _slow_down(self, now: float, sent: float) -> None:
        is_news = sent > self._throttled + _EPISODE
        if is_news:
            self._held = self.limit
        measured = self._measured(now)
        if measured is not None:
            is_brief = self._since is not None and now - self._since < _BRIEF
            if self._held is not None and (is_news or is_brief):
                measured = max(measured, _STEADY * self._held)
            self.limit = measured
            self._unknown = False
            self.rate = self._within(min(self.rate, _BELOW * measured))
        elif self.limit is None and (is_news or self._unknown):
            beta = _BETA_FIRST if self._cut == -math.inf else _BETA_SEARCH
            self.rate = self._within(beta * self.rate)
        elif self.limit is not None and is_news:
            self.limit = self.rate
            self.rate = self._within(_BETA * self.rate)
        else:
            return
        self._cut = now
        self._price = self._climbed = 0.0
        if self.limit is not None:
            self._plateau = math.cbrt(max(0.0, 1.0 - self.rate / self.limit) / _CURVE)

    def _measured(self, now: float) -> float | None:
        if self._since is None or self._passed < _ENOUGH:
            return None
        # what was counted was sent up to a round trip ago
        if (seconds := now - self._round_trip - self._since) <= 0.0:
            return None
        measured = self._passed / seconds
        if seconds < _BRIEF or self._unused > 0.1 * seconds:
            measured = max(measured, _BETA_SEARCH * self.rate)
        return measured

    def _pause(self, now: float, sent: float, asked: float, within: float) -> None:
        if self._in_a_row * max(_SHORT, asked) < _IN_A_ROW * _SHORT:
            return
        is_news = sent >= self._closed_at
        if asked > _SHORT:
            self._since = None  # who pauses does not measure
        elif is_news:
            doubled = min(_PROBE_FIRST * 2.0 ** min(self._closed, 60), max(_PROBE_FIRST, within))
            asked = min(asked or _PROBE_LONGEST, doubled)
        else:
            return
        if is_news and self._in_a_row >= _IN_A_ROW:
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
        return min(_PAUSE_LONGEST, _PROBE_SHARE * lasted, within)

    def _within(self, rate: float) -> float:
        return min(self._highest, max(self._lowest, rate))

    def __repr__(self) -> str:
        return f"LearnedRate(rate={self.rate:.1f}, limit={self.limit})"
