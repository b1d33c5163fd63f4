"""
The parts of an adaptive rate limiter, each with one piece of its state.

- `Timeline`: when the next request may be sent at the current rate.
- `ThroughputMeter`: the requests that the server accepted since a 429.
- `CubicCurve`: the rate between two 429 responses.
- `Throttling`: the 429 responses of an episode.
- `PauseState`: a pause of all requests, and the probes that end it.
- `RateSnapshot`: a copy of all of them.

Those that each request changes are data classes: an assignment to an attribute of one takes 5 ns,
to that of a msgspec struct 35 ns.
"""

from __future__ import annotations

import dataclasses
import math

import msgspec

from adapty_async._flow.rate_limiter import CLOCK_RESOLUTION

#: The share of a measured limit that is used at first, so that the server's burst fills up again.
SAFETY_SHARE = 0.97
#: The share of the rate that remains after a cut without a measurement. The first search overshoots
#: most: it continues while the server's burst lasts and while the first 429 is on its way.
BETA_SEARCH = 0.7
# Maximum seconds by which counted requests delay those that acquire a permit.
_DEBT = 1.0
# C of CUBIC, relative to the limit, so that the climb is as quick at 25 requests per second as at
# 5,000. The absolute 0.4 of the RFC would be 0.001 here at 400 per second, which is too slow for a
# limit that rises.
_CUBIC_C = 0.01
# Minimum number of successes for a measurement; an overload lasts until then.
_MIN_PASSED = 10
# Seconds after which a 429 starts a new episode and a new measurement, since limits move.
_EPISODE = 1.0
# A measurement shorter than these seconds may cover only the end of a fixed window. It counts in
# part.
_BRIEF = 0.5
# A 429 that takes longer than this multiple of a round trip was delayed on purpose.
_SLOW = 1.5
# Consecutive 429 responses that pause all requests; fewer if they ask for a long pause: a single
# one of 30 s is enough. A pause after each would cost that time every few seconds, since that is
# how often a climb touches the limit.
_CONSECUTIVE = 10
# A `Retry-After` up to these seconds is a default of the server: many send 1 and accept requests
# sooner.
_SHORT_PAUSE = 3.0
# Seconds after which one probe tests a longer `Retry-After`: some servers send the same one with
# each 429 of a token bucket, and accept the next request. If the probe is throttled, the pause is
# as long as the server asks.
_EARLY_PROBE = 1.0
# The share of a round trip by which a request may overtake another one on its way to the server.
_OVERTAKING = 0.25
# Seconds until the first probe, doubled after each that is throttled, and their maximum.
_PROBE_FIRST = 0.1
_MAX_PROBE = 10.0
_PROBES = 6
_PROBING = 70.0
# After `_PROBES` throttled probes and `_PROBING` seconds, the next probe follows after
# `_PROBE_SHARE` times the time since the first one. A ban that each request renews ends only if
# nothing is sent for its whole duration. A minute is the most common ban; after 70 seconds it has
# ended, unless requests renew it.
_PROBE_SHARE = 1.1
# Maximum seconds of a pause, whatever the server asks for.
_MAX_PAUSE = 3600.0


@dataclasses.dataclass(slots=True)
class Timeline:
    """
    A timeline of evenly spaced requests.

    Attributes:
        sent: the time of the last request on the timeline; ahead of the clock after counted ones.
        waited: the share of recent requests that had to wait for the rate, as a moving average.
        delayed_until: the time until which the rate held a request back, as of the last acquire.
    """

    sent: float
    waited: float = 1.0
    delayed_until: float = -math.inf

    def acquire(self, now: float, next_at: float) -> None:
        """Put a request that is sent now on the timeline, where it was due at `next_at`."""
        waited = now - next_at <= CLOCK_RESOLUTION
        self.waited += (waited - self.waited) / 16
        self.sent = now if now > next_at else next_at  # noqa: FURB136  max() takes 0.1 µs

    def count(self, now: float, interval: float) -> None:
        """Put a request on the timeline that did not wait for its turn."""
        self.sent = min(max(now, self.sent) + interval, now + max(_DEBT, interval))

    def hold(self, now: float, seconds: float) -> None:
        """Record that a request has to wait for a number of seconds."""
        self.delayed_until = now + min(seconds, _DEBT)

    def is_full(self, now: float, *, paced: bool) -> bool:
        """Return whether the rate holds requests back, judged by its own or by counted ones."""
        return self.waited > 0.5 if paced else now < self.delayed_until


@dataclasses.dataclass(slots=True)
class ThroughputMeter:
    """
    A meter of the requests that the server accepted since a 429, which started the measurement.

    Attributes:
        since: the time from which requests count; None without a measurement.
        passed: number of requests sent since then that succeeded.
        unused: seconds for which less was sent than the rate allows.
    """

    since: float | None = None
    passed: int = 0
    unused: float = 0.0

    def record_success(self, sent: float) -> None:
        """Count a request that succeeded, if it was sent after the start."""
        if self.since is not None and sent > self.since:
            self.passed += 1

    def record_throttled(self, now: float, sent: float, round_trip: float) -> None:
        """
        Start a measurement, unless one is in progress that is too short to be of use.

        It starts with the requests whose responses are still expected. If the 429 took longer than
        a round trip, the successes of earlier ones have been received.
        """
        if self.since is None or (sent > self.since + _EPISODE and self.passed >= _MIN_PASSED):
            self.since, self.passed, self.unused = sent, 0, 0.0
            if now - sent > _SLOW * round_trip:
                self.since = now - round_trip

    def reset(self) -> None:
        """Drop the measurement."""
        self.since = None

    def is_brief(self, now: float) -> bool:
        """Return whether the measurement may cover only the end of a fixed window."""
        return self.since is not None and now - self.since < _BRIEF

    def measure(self, now: float, round_trip: float, rate: float) -> float | None:
        """Return the requests per second that the server accepts; None without a measurement."""
        if self.since is None or self.passed < _MIN_PASSED:
            return None
        # the counted requests were sent up to a round trip ago
        if (seconds := now - round_trip - self.since) <= 0.0:
            return None
        measured = self.passed / seconds
        if seconds < _BRIEF or self.unused > 0.1 * seconds:
            measured = max(measured, BETA_SEARCH * rate)
        return measured


class CubicCurve(msgspec.Struct):
    """
    The CUBIC curve of RFC 9438, relative to a limit.

    Attributes:
        climbed: position on the curve, in units of a climb.
        plateau: position at which the curve reaches the limit.
    """

    climbed: float = 0.0
    plateau: float = math.cbrt((1.0 - SAFETY_SHARE) / _CUBIC_C)

    def restart(self, share: float) -> None:
        """Start a climb at a share of the limit."""
        self.climbed = 0.0
        self.plateau = math.cbrt(max(0.0, 1.0 - share) / _CUBIC_C)

    def climb(self, seconds: float, unit: float) -> float:
        """Advance by a number of seconds, up to half a unit; return the share of the limit."""
        self.climbed += min(seconds, unit / 2) / unit
        return 1.0 + _CUBIC_C * (self.climbed - self.plateau) ** 3


class Throttling(msgspec.Struct):
    """
    A record of the 429 responses of the present episode, and of the last cut of the rate.

    Attributes:
        last: the latest time at which a throttled request was sent.
        count: 429 responses of the episode.
        limit_before: the known limit when the episode began.
        cut: the time of the last cut.
        has_measured: a limit was measured once, or was known from the start.
    """

    last: float = -math.inf
    count: int = 0
    limit_before: float | None = None
    cut: float = -math.inf
    has_measured: bool = False

    def is_new(self, sent: float) -> bool:
        """Return whether a 429 to a request sent at `sent` begins another episode."""
        return sent > self.last + _EPISODE

    def record(self, sent: float) -> None:
        """Count a 429 response to a request that was sent at `sent`."""
        self.count = 1 if self.is_new(sent) else self.count + 1


@dataclasses.dataclass(slots=True)
class PauseState:
    """
    The pause of all requests, and the probes that find out when the server accepts them again.

    A 429 says nothing if the server accepted a request that was sent later: then the 429 only took
    longer to arrive, or its `Retry-After` is not meant literally.

    Attributes:
        until: time before which nothing but a probe is sent; it may be past.
        early_probe: time of the one probe in a long pause; infinite if there is none.
        overstated: the server accepted a request before the end of its last long `Retry-After`.
        accepted: latest time at which a request was sent that succeeded.
        rejected: latest time at which a request was sent whose 429 paused all requests.
        consecutive: 429 responses to requests that were sent after the last success.
        price: seconds of the last pause since the last cut.
        closed: consecutive throttled probes, and the rejections before them; above 0 only probes
            are sent.
        closed_at: time of the last of these.
        closed_since: time of the first of these.
        probe_until: time until which the response to a probe is awaited.
    """

    until: float
    early_probe: float = math.inf
    overstated: bool = False
    accepted: float = -math.inf
    rejected: float = -math.inf
    consecutive: int = 0
    price: float = 0.0
    closed: int = 0
    closed_at: float = -math.inf
    closed_since: float = -math.inf
    probe_until: float = -math.inf

    def next_at(self, now: float) -> float:
        """Return the time from which a request may be sent, be it a probe."""
        return self.until if now >= self.until else min(self.until, self.early_probe)

    def record_success(self, now: float, sent: float, round_trip: float) -> None:
        """Record a success; one of a request sent after the rejections ends pause and probing."""
        if sent > self.accepted:  # noqa: PLR1730  max() takes 0.1 µs
            self.accepted = sent
        self.consecutive = 0
        if self.closed and sent >= self.closed_at:
            self.closed = 0
        if (
            self.until > now
            and self.price > _SHORT_PAUSE
            and sent > self.rejected + _OVERTAKING * round_trip
        ):
            self.closed, self.overstated = 0, True
            self.price = max(0.0, self.price - (self.until - now))
            self.until, self.early_probe = now, math.inf

    def record_probe(self, now: float, round_trip: float) -> None:
        """Record that a probe is sent; the next one waits for its response, if not forever."""
        self.early_probe = math.inf
        self.probe_until = now + min(_MAX_PAUSE, max(1.0, 4 * round_trip))

    def record_throttled(
        self,
        now: float,
        sent: float,
        retry_after: float | None,
        *,
        within: float,
        round_trip: float,
    ) -> bool:
        """
        Pause if a 429 is a reason; return whether it asks for longer than a server's default.

        1. The server accepted a request that was sent later: no pause.
        2. Too few in a row: no pause. A long `Retry-After` counts as several.
        3. No `Retry-After`, or a short one, and sent before the last probe: no pause.
        4. The same, sent after it: pause until the next probe. Its wait doubles each time.
        5. A long one: pause for as long as the server asks, with one early probe.
        """
        asked = min(_MAX_PAUSE, max(0.0, retry_after or 0.0))
        if self.accepted > sent + _OVERTAKING * round_trip:
            self.overstated = self.overstated or asked > _SHORT_PAUSE
            return False
        self.consecutive += 1
        is_new = sent >= self.closed_at
        if self.closed and is_new:
            self.overstated = False  # even a probe is throttled
        is_long = asked > _SHORT_PAUSE and not self.overstated
        weight = asked if is_long else _SHORT_PAUSE
        if self.consecutive * weight < _CONSECUTIVE * _SHORT_PAUSE or not (is_long or is_new):
            return False
        if is_long and self.until <= now and not self.closed:
            self.early_probe = now + max(_EARLY_PROBE, 4 * round_trip)
        self.price = asked if is_long else self._until_probe(asked, within)
        if is_new and self.consecutive >= _CONSECUTIVE:
            self._close(now)
        self.rejected = max(self.rejected, sent)
        self.until = max(self.until, now + max(self.price, self._silence(now, within)))
        return is_long

    def _until_probe(self, asked: float, within: float) -> float:
        """Return the seconds until the next probe, which no long `Retry-After` delays."""
        doubled = min(_PROBE_FIRST * 2.0 ** min(self.closed, 60), max(_PROBE_FIRST, within))
        return min(asked or _MAX_PROBE, doubled)

    def _close(self, now: float) -> None:
        self.closed_since = self.closed_since if self.closed else now
        self.closed += 1
        self.closed_at = now
        self.probe_until = -math.inf

    def _silence(self, now: float, within: float) -> float:
        """Return the seconds without a probe that may end a ban which each request renews."""
        lasted = now - self.closed_since
        if self.closed <= _PROBES or lasted < _PROBING:
            return 0.0
        return min(_MAX_PAUSE, _PROBE_SHARE * lasted, within)


class RateSnapshot(msgspec.Struct, frozen=True):
    """
    A copy of the state of an adaptive rate limiter, for storage; times are on its clock.

    The formats of `msgspec` that have infinite numbers can encode it: MessagePack can, JSON not.
    """

    rate: float
    limit: float | None
    round_trip: float
    responded: float
    timeline: Timeline
    meter: ThroughputMeter
    curve: CubicCurve
    throttling: Throttling
    pause: PauseState
