"""
An adaptive rate limiter, which finds the request rate from the server's responses.

It neither waits nor sends. Its caller calls `acquire()` before each request, and `succeeded()` or
`throttled()` for each response.

The limiter measures a limit and does not guess it. Between two 429 responses the server accepted
exactly the requests that it allows, so their number divided by the time in between is the limit.
The rate stays a little below the limit and rises along the CUBIC curve (RFC 9438): slowly near the
known limit, and ever faster beyond it, in case the server has raised it. The adaptive retry mode
of the AWS SDKs uses that curve too.

The state is in small parts (`rate_state`): `Timeline`, `ThroughputMeter`, `CubicCurve`,
`Throttling` and `PauseState`. The limiter passes each response to them, and decides how far the
rate is cut.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import msgspec

from adapty_async._flow.rate_limiter import CLOCK_RESOLUTION
from adapty_async._flow.rate_state import (
    BETA_SEARCH,
    SAFETY_SHARE,
    CubicCurve,
    PauseState,
    RateSnapshot,
    Throttling,
    ThroughputMeter,
    Timeline,
)

# Initial requests per second; low enough for the smallest account.
_START = 20.0
# The bounds of the rate, in requests per second.
_MIN_RATE = 0.1
_MAX_RATE = 100_000.0
# Seconds by which a request may be early, to make up for tasks that woke up late.
_CATCH_UP = 0.02
# Minimum seconds of a wait. The requests behind it then catch up at once, and thousands per second
# do not need one loop iteration each. That saves 5 ms at the start of every run.
_MIN_WAIT = 0.002
# Minimum and maximum seconds in which the first search doubles the rate, so that short runs reach a
# useful rate too. In between it is two and a half round trips: the first 429 takes one to arrive.
_FIRST_DOUBLING = 0.01, 0.05
# The share of the rate that remains after a 429 at a known limit, without a new measurement.
_BETA = 0.85
# The share of the rate that remains after the first 429 of all.
_BETA_FIRST = 0.5
# A rate above this multiple of the measured limit starts a search for a new limit.
_RAISED = 1.25
# Seconds after a 429 in which a search does not raise the rate.
_SETTLING = 1.0
# The share of the known limit that is the minimum of a new limit after a single 429.
_STEADY = 0.93
_COST = 60
# A climb lasts as long as `_COST` requests for each 429 at the end of the last climb, up to these
# seconds. If a touch of the limit has a high price, as with a fixed window, touches become rarer.
_MAX_COST = 2.5


class Reservation(msgspec.Struct, frozen=True):
    """
    Reserved times at which requests may be sent: from `first` on, one each `interval` seconds.

    Attributes:
        count: number of requests; 0 if none could be reserved.
        first: time of the first one, on the limiter's clock.
        interval: seconds from each to the next.
        again: seconds until more may be reserved; 0 if the caller got all that it wanted.
    """

    count: int
    first: float
    interval: float
    again: float


class AdaptiveRateLimiter:
    """
    An adaptive rate limiter that keeps just below the rate that a server accepts.

    It is deterministic and for use in one thread. `RateSource` describes its methods that others
    share.

    Args:
        clock: returns monotonic seconds.
        rate: the limit that an earlier limiter measured, in requests per second; None if there is
            none.
        min_rate: minimum requests per second, inclusive.
        max_rate: maximum requests per second, inclusive.

    Raises:
        ValueError: a rate is not above 0, or infinite, or `min_rate` is above `max_rate`.

    Attributes:
        rate: current requests per second.
        limit: the last measured limit of the server; None during a search for it.
        round_trip: seconds from the send of a request to its response, as a moving average.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        rate: float | None = None,
        min_rate: float = _MIN_RATE,
        max_rate: float = _MAX_RATE,
    ) -> None:
        if not 0.0 < min_rate <= max_rate < math.inf:
            raise ValueError(
                f"min_rate={min_rate}, max_rate={max_rate}: must be above 0, in this order"
            )
        self._clock = clock
        self._min_rate = min_rate
        self._max_rate = max_rate
        self._pause = PauseState(clock())
        self._start(rate)

    def _start(self, rate: float | None) -> None:
        if rate is not None and not 0.0 < rate < math.inf:
            raise ValueError(f"rate={rate}: must be above 0 requests per second")
        now = self._clock()
        self.rate = self._within(_START if rate is None else SAFETY_SHARE * rate)
        self.limit = rate
        self.round_trip = 0.0
        self._responded = now
        self._timeline = Timeline(now + _CATCH_UP - 1.0 / self.rate)  # as if evenly spaced
        self._meter = ThroughputMeter()
        self._curve = CubicCurve()
        self._throttling = Throttling(limit_before=rate, has_measured=rate is not None)

    def expect(self, rate: float) -> None:
        """Start with the limit that an earlier run found; see `RateSource`."""
        if self.limit is None:
            self._pause = PauseState(self._pause.until)
            self._start(rate)

    def restart(self, rate: float | None) -> None:
        """Start again with a limit that was measured before, or without one; see `RateSource`."""
        self._pause = PauseState(min(self._pause.until, self._clock()))
        self._start(rate)

    def pause_until(self, moment: float) -> None:
        """Continue a pause of another limiter: send nothing before a time on the clock."""
        self._pause.until = max(self._pause.until, moment)

    def snapshot(self) -> RateSnapshot:
        """Return a copy of the whole state, from which `restore` makes an equal limiter."""
        return RateSnapshot(
            rate=self.rate,
            limit=self.limit,
            round_trip=self.round_trip,
            responded=self._responded,
            timeline=copy.copy(self._timeline),
            meter=copy.copy(self._meter),
            curve=copy.copy(self._curve),
            throttling=copy.copy(self._throttling),
            pause=copy.copy(self._pause),
        )

    def restore(self, snapshot: RateSnapshot) -> None:
        """Replace the whole state with that of a snapshot of a limiter on the same clock."""
        self.rate = self._within(snapshot.rate)
        self.limit = snapshot.limit
        self.round_trip = snapshot.round_trip
        self._responded = snapshot.responded
        self._timeline = copy.copy(snapshot.timeline)
        self._meter = copy.copy(snapshot.meter)
        self._curve = copy.copy(snapshot.curve)
        self._throttling = copy.copy(snapshot.throttling)
        self._pause = copy.copy(snapshot.pause)

    @property
    def paused_until(self) -> float:
        """The time on the clock before which nothing is sent; it may be past."""
        return self._pause.until

    @property
    def probing(self) -> bool:
        """Whether the server rejects everything, so that only single probes are sent."""
        return self._pause.closed > 0

    @property
    def overstated(self) -> bool:
        """Whether the server accepts requests before the end of a long `Retry-After`."""
        return self._pause.overstated

    def _delay(self, now: float, next_at: float) -> float:
        wait = next_at - _CATCH_UP - now
        if self._pause.closed and now < (until := self._pause.probe_until):
            # the time of the probe's response is unknown, so the caller checks again soon
            wait = max(wait, min(until - now, max(0.005, self.round_trip / 4)))
        return wait if wait > CLOCK_RESOLUTION else 0.0

    def acquire(self) -> float:
        """Return the seconds until the next request may be sent; at 0 it counts as sent now."""
        now, pause, timeline = self._clock(), self._pause, self._timeline
        next_at = timeline.sent + 1.0 / self.rate
        if pause.until + _CATCH_UP > next_at:
            next_at = self._next_at(now)
        late = now - next_at  # below 0 after a wait, which ends as early as possible
        closed = pause.closed
        if late < -_CATCH_UP or closed:
            wait = self._delay(now, next_at)
            if wait > 0.0:
                timeline.hold(now, wait)
                return max(wait, _MIN_WAIT)
        if late > 0.0:
            self._meter.unused += late
        timeline.acquire(now, next_at)
        if closed or now < pause.until:
            pause.record_probe(now, self.round_trip)
        return 0.0

    def reserve(self, wanted: int, ahead: float) -> Reservation:
        """
        Reserve the next send times for a caller that sends its requests at these times.

        Each of them counts as sent. While the limiter probes, or tests a pause, there is at most
        one.

        Args:
            wanted: maximum number of requests.
            ahead: seconds by which the last one may be in the future.
        """
        now, interval = self._clock(), 1.0 / self.rate
        next_at = self._next_at(now)
        first = max(now, next_at)
        wait = self._delay(now, next_at) if self.probing else max(0.0, first - now - ahead)
        if wait > CLOCK_RESOLUTION:
            self._timeline.hold(now, wait)
            return Reservation(0, first, interval, wait)
        count = min(wanted, 1 + math.floor((now + ahead - first) * self.rate))
        if self.probing or first < self._pause.until:
            count = 1
            self._pause.record_probe(now, self.round_trip)
        self._meter.unused += first - next_at
        self._timeline.sent = first + (count - 1) * interval
        again = 0.0 if count == wanted else max(interval, first + count * interval - now - ahead)
        return Reservation(count, first, interval, again)

    def revoke(self) -> None:
        """Take back the reserved send times that are not yet due."""
        self._timeline.sent = min(self._timeline.sent, self._clock())

    def _next_at(self, now: float) -> float:
        return max(self._timeline.sent + 1.0 / self.rate, self._pause.next_at(now) + _CATCH_UP)

    def count(self) -> None:
        """Count a request sent without `acquire`; requests that acquire wait longer for it."""
        self._timeline.count(self._clock(), 1.0 / self.rate)

    def search_from(self, rate: float) -> None:
        """Start the search at the rate of counted requests, unless a search began before."""
        if not self._throttling.has_measured and self._throttling.cut == -math.inf:
            self.rate = self._within(rate)
            self.revoke()  # the counted requests are no debt at that rate

    def succeeded(self, sent: float, *, paced: bool = True) -> None:
        """
        Record a response other than 429 to a request that was sent at `sent`.

        A request that was not `paced` shows that the server accepts it. That raises the rate only
        while the rate holds other requests back. Otherwise a larger number of such requests than
        the rate allows would hold the others back permanently.
        """
        now, round_trip = self._clock(), self.round_trip
        round_trip += (now - sent - round_trip) / 8 if round_trip else now - sent
        self.round_trip = round_trip
        self._pause.record_success(now, sent, round_trip)
        if self._meter.since is not None:
            self._meter.record_success(sent)
        if self._timeline.is_full(now, paced=paced):  # otherwise the rate holds nothing back
            self._grow(now - self._responded)
        self._responded = now

    def _grow(self, seconds: float) -> None:
        """Raise the rate along the curve, or in a search; far above the limit, start a search."""
        if self.limit is None:
            self._search()
            return
        share = self._curve.climb(seconds, self._climb_seconds())
        self.rate = max(self.rate, self._within(self.limit * share))
        if self.rate > _RAISED * self.limit:
            self.limit = None
            self._meter.reset()

    def _search(self) -> None:
        """Raise the rate exponentially, to find a limit that is not known."""
        if self._responded < self._throttling.last + _SETTLING:
            return
        first = self._throttling.cut == -math.inf
        doubling = self._first_doubling() if first else self._climb_seconds() / 2
        # a constant step per success grows exponentially in time, no faster than responses arrive
        self.rate = self._within(self.rate + math.log(2.0) / doubling)

    def _first_doubling(self) -> float:
        shortest, longest = _FIRST_DOUBLING
        return max(shortest, min(longest, 2.5 * self.round_trip), self.round_trip)

    def _climb_seconds(self) -> float:
        # A 429 ends every climb. They stay rare if a climb takes many round trips and many
        # requests, and more time if the last 429 cost more: a pause, or many 429s at once.
        cost = min(_MAX_COST, _COST * self._throttling.count / self.rate)
        return max(1.0, 5 * self.round_trip, 3 * self._pause.price, 25 / self.rate, cost)

    def throttled(
        self, sent: float, retry_after: float | None = None, *, within: float = math.inf
    ) -> None:
        """Record a 429 response to a request that was sent at `sent`; see `RateSource`."""
        now = self._clock()
        self._throttling.record(sent)
        if sent > self._throttling.cut and not self._pause.closed:
            self._slow_down(now, sent)
        self._meter.record_throttled(now, sent, self.round_trip)
        self._throttling.last = max(self._throttling.last, sent)
        is_long = self._pause.record_throttled(
            now, sent, retry_after, within=within, round_trip=self.round_trip
        )
        if is_long:
            self._meter.reset()  # a pause invalidates the measurement

    def _slow_down(self, now: float, sent: float) -> None:
        """
        Cut the rate after a 429: to the measured limit, or to a share of the present rate.

        1. The limit could be measured: just below it.
        2. During a search: a share of the rate; once an episode if a limit was known before.
        3. A limit is known, and this is its first 429 of the episode: a larger share.
        4. Otherwise the rate was cut already.
        """
        throttling = self._throttling
        is_new = throttling.is_new(sent)
        if is_new:
            throttling.limit_before = self.limit
        measured = self._meter.measure(now, self.round_trip, self.rate)
        if measured is not None:
            if throttling.limit_before is not None and (is_new or self._meter.is_brief(now)):
                measured = max(measured, _STEADY * throttling.limit_before)
            self.limit = measured
            throttling.has_measured = True
            self.rate = self._within(min(self.rate, SAFETY_SHARE * measured))
        elif self.limit is None and (is_new or not throttling.has_measured):
            beta = _BETA_FIRST if throttling.cut == -math.inf else BETA_SEARCH
            self.rate = self._within(beta * self.rate)
        elif self.limit is not None and is_new:
            self.limit = self.rate
            self.rate = self._within(_BETA * self.rate)
        else:
            return
        throttling.cut = now
        self._pause.price = 0.0
        self._curve.restart(1.0 if self.limit is None else self.rate / self.limit)

    def _within(self, rate: float) -> float:
        return min(self._max_rate, max(self._min_rate, rate))

    def __repr__(self) -> str:
        return f"AdaptiveRateLimiter(rate={self.rate:.1f}, limit={self.limit})"
