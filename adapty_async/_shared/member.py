"""A process's share of a rate that several processes share: its permits, responses and clock."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import msgspec

from adapty_async._flow.adaptive_rate import AdaptiveRateLimiter
from adapty_async._shared.exchange import AHEAD, Grant, Report, ResponseRecord

#: Minimum seconds from one exchange of a process to the next, so that there are at most 20 in a
#: second.
INTERVAL = AHEAD
# Maximum seconds from one exchange to the next, so that others know of the member.
_HEARTBEAT = 1.0
# Maximum seconds until a member asks for permits again: the rate may rise at any time.
_ASK_AGAIN = 0.25
# Seconds after which an unused permit is void. Requests of a process that stood still would
# otherwise be sent as a burst.
_LATE = 0.1
# Seconds by which a request may be early, so that thousands per second need fewer timers.
_EARLY = 0.001
_MIN_WAIT = 0.002
# Seconds after a request had to wait in which the rate counts as holding requests back.
_WAITED = 0.1
# Seconds for which a response is expected after the last request or response.
_ACTIVE = 0.5
# Maximum number of epochs that are remembered; a request takes less time than that.
_EPOCHS = 64
# A member asks for this multiple of the permits that it used since the last exchange.
_STEADY, _HUNGRY = 1.2, 2.0
# A process alone keeps this far below its share, since its limiter permits small bursts.
_ALONE = 0.97


class StoreClock:
    """An estimate of a store's clock, which each exchange bounds from both sides."""

    def __init__(self) -> None:
        self._ahead: float | None = None  # seconds by which the store's clock is ahead

    def record(self, asked: float, read: float, received: float) -> None:
        """Record the store's time `read`, which is between two times on the local clock."""
        lowest, highest = read - received, read - asked
        middle = (lowest + highest) / 2 if self._ahead is None else self._ahead
        self._ahead = min(max(middle, lowest), highest)

    def to_store(self, moment: float) -> float:
        """Return the store's time at a time on the local clock."""
        return moment + (self._ahead or 0.0)

    def to_local(self, moment: float) -> float:
        """Return the local time at a time on the store's clock."""
        return moment - (self._ahead or 0.0)


class Member:
    """
    A member of a shared rate, and a `RateSource` of its process.

    It does no I/O. Its owner performs an exchange from `due` on: it loads the state from the store,
    records the store's time in `store_clock`, passes `report()` to `exchange`, and the result to
    `accept`.

    Args:
        name: a random name.
        clock: returns monotonic seconds.
        on_due: called when `due` moves to an earlier time.

    Attributes:
        store_clock: the clock of the store.
        due: earliest time of the next exchange.
        limit: the measured limit of the server; None during a search for it.
        paused_until: time before which nothing is sent; it may be past.
        members: number of members as of the last exchange.
        lost: number of exchanges in a row for which other members were faster.
        late_since: time of the first exchange in a row without a result in time; None after
            one with such a result.
    """

    def __init__(
        self, name: str, clock: Callable[[], float], on_due: Callable[[], object] = lambda: None
    ) -> None:
        self._name = name
        self._clock = clock
        self._on_due = on_due
        self._fresh = AdaptiveRateLimiter(clock)  # the rate before the first exchange
        self._grant: Grant | None = None
        self._last = -math.inf  # time of the last exchange
        self._ask_at = -math.inf  # time at which more permits may be granted
        self._permits: deque[tuple[float, int]] = deque()  # with the epoch that they belong to
        self._epochs = deque([(-math.inf, 0)], _EPOCHS)  # times from which on an epoch was used
        self._waited = 1.0  # the share of requests while the rate held some back
        self._is_hungry = False
        self._hungry_at = -math.inf
        self._used = 0  # permits since the last exchange
        self._calls = 0  # requests without a permit, since the last exchange
        self._responses: list[ResponseRecord] = []  # times are local
        self._has_gap = False  # responses of a time without a store are missing
        self._active_until = -math.inf
        self._known: float | None = None  # the last limit, also during a search for another one
        self._expected: float | None = None
        self._search_from: float | None = None
        self._is_restarting = False
        self._restart_limit: float | None = None
        self.store_clock = StoreClock()
        self.due = clock()
        self.limit: float | None = None
        self.paused_until = clock()
        self.members = 1
        self.lost = 0
        self.late_since: float | None = None
        self._not_before = -math.inf  # earliest time of the next attempt, after a lost one

    @property
    def interval(self) -> float:
        """Minimum seconds from one exchange to the next."""
        return INTERVAL if self._grant is None else self._grant.interval

    @property
    def rate(self) -> float:
        """The current requests per second of all members."""
        return self._fresh.rate if self._grant is None else self._grant.rate

    @property
    def known(self) -> float:
        """The last known limit; without one, the rate at which a search starts."""
        return self._fresh.rate if self._known is None else self._known

    @property
    def probing(self) -> bool:
        """Whether the server rejects everything, so that only single probes are sent."""
        return self._grant is not None and self._grant.probing

    @property
    def overstated(self) -> bool:
        """Whether the server accepts requests before the end of a long `Retry-After`."""
        return self._grant is not None and self._grant.overstated

    def acquire(self) -> float:
        """Return the seconds until the next request may be sent; at 0 it counts as sent now."""
        now = self._clock()
        while self._permits and self._permits[0][0] < now - _LATE:
            self._permits.popleft()
        due = self._permits[0][0] if self._permits else math.inf
        if due > now + _EARLY:
            self._is_hungry, self._hungry_at = True, now
            self._exchange_by(max(self._last + self.interval, self._ask_at))
            return max((self.due if due == math.inf else due) - now, _MIN_WAIT)
        _, epoch = self._permits.popleft()
        self._waited += ((now - self._hungry_at <= _WAITED) - self._waited) / 16
        self._used += 1
        self._announce(now, epoch)
        return 0.0

    def count(self) -> None:
        """Count a request sent without `acquire`; all members have fewer permits for it."""
        self._calls += 1
        known = 0 if self._grant is None else self._grant.epoch
        self._announce(self._clock(), self._permits[0][1] if self._permits else known)

    def _announce(self, now: float, epoch: int) -> None:
        if epoch != self._epochs[-1][1]:
            self._epochs.append((now, epoch))
        self._expect_response(now)

    def _expect_response(self, now: float) -> None:
        self._active_until = now + _ACTIVE
        self._exchange_by(self._last + self.interval)

    def _exchange_by(self, moment: float) -> None:
        moment = max(moment, self._not_before)
        if moment < self.due:
            self.due = moment
            self._on_due()

    def succeeded(self, sent: float, *, paced: bool = True) -> None:
        """Record a response other than 429 to a request that was sent at `sent`."""
        paced = paced and self._waited > 0.5
        self._record(ResponseRecord(self._clock(), sent, self._epoch_of(sent), paced=paced))

    def throttled(
        self, sent: float, retry_after: float | None = None, *, within: float = math.inf
    ) -> None:
        """Record a 429 response; see `RateSource.throttled`."""
        self._record(
            ResponseRecord(
                self._clock(),
                sent,
                self._epoch_of(sent),
                throttled=True,
                retry_after=retry_after,
                within=within,
            )
        )

    def _epoch_of(self, sent: float) -> int:
        """Return the epoch of the permits in use at a time."""
        used = (epoch for since, epoch in reversed(self._epochs) if since <= sent)
        return next(used, self._epochs[0][1])

    def _record(self, response: ResponseRecord) -> None:
        self._responses.append(response)
        self._expect_response(response.received)

    def search_from(self, rate: float) -> None:
        """Start the search at the rate of counted requests, unless a search began before."""
        self._search_from = rate

    def expect(self, rate: float) -> None:
        """Start with the limit that an earlier run found; see `RateSource.expect`."""
        self._fresh.expect(rate)
        if self.limit is None:
            self._expected = self._known = self.limit = rate
            self._exchange_by(self._last + self.interval)

    def restart(self, rate: float | None) -> None:
        """Start again, and end a pause; see `RateSource.restart`."""
        self._is_restarting, self._restart_limit = True, rate
        self._known = self.limit = rate
        self.paused_until = min(self.paused_until, self._clock())
        self._exchange_by(self._last + self.interval)

    def report(self, *, is_leaving: bool = False) -> Report:
        """Return what the next exchange reports; a report that does not arrive changes nothing."""
        now, to_store = self._clock(), self.store_clock.to_store
        return Report(
            member=self._name,
            at=to_store(now),
            active_until=to_store(self._active_until),
            wanted=0 if is_leaving else self._wanted(now),
            hungry=self._is_hungry,
            calls=self._calls,
            responses=tuple(
                msgspec.structs.replace(
                    one, received=to_store(one.received), sent=to_store(one.sent)
                )
                for one in self._responses
            ),
            has_gap=self._has_gap,
            known=self._known,
            expected=self._expected,
            search_from=self._search_from,
            restart=self._is_restarting,
            restart_limit=self._restart_limit,
            is_leaving=is_leaving,
            paused_until=to_store(self.paused_until),
            members=self.members,
        )

    def _wanted(self, now: float) -> int:
        if now < self._ask_at or not (self._is_hungry or self._used):
            return 0
        growth = _HUNGRY if self._is_hungry else _STEADY
        return max(0, math.ceil(growth * self._used) + 1 - len(self._permits))

    def accept(self, report: Report, grant: Grant, began: float) -> None:
        """Use the result of an exchange that began at `began`."""
        now, to_local = self._clock(), self.store_clock.to_local
        in_time = now - began <= _LATE + grant.interval
        self.lost = 0
        self._record_duration(in_time=in_time)
        before, self._grant, self._last = self._grant, grant, began
        self.members = grant.members
        self._is_restarting = self._is_restarting and not report.restart
        if not self._is_restarting:  # otherwise it was restarted during the exchange
            self.limit = grant.limit
            self._known = self._known if grant.limit is None else grant.limit
            self.paused_until = to_local(grant.paused_until)
        if before is not None and before.epoch < grant.revoked:
            self._permits.clear()
        # a store at a distance returns permits late; they are of use for a moment all the same
        first = now - AHEAD if in_time else -math.inf
        self._permits.extend(
            (max(to_local(permit), first), grant.epoch) for permit in grant.permits
        )
        self._ask_at = began + min(grant.again, _ASK_AGAIN)
        self._calls -= report.calls
        del self._responses[: len(report.responses)]
        self._is_hungry, self._used = False, 0
        if self._expected == report.expected:
            self._expected = None
        if self._search_from == report.search_from:
            self._search_from = None
        self._has_gap = False
        self.due = began + _HEARTBEAT
        if self._has_news or grant.permits:
            self._exchange_by(began + self.interval)

    @property
    def _has_news(self) -> bool:
        """Whether something happened during an exchange that the next one reports."""
        return bool(
            self._calls
            or self._responses
            or self._is_restarting
            or self._expected
            or self._search_from
        )

    def lose(self, again: float) -> None:
        """Record that other members were faster; the next attempt is due at a time."""
        self.lost += 1
        self._not_before = self.due = again
        self._record_duration(in_time=False)

    def _record_duration(self, *, in_time: bool) -> None:
        if in_time:
            self.late_since = None
        elif self.late_since is None:
            self.late_since = self._clock()

    def interrupt(self, moment: float) -> None:
        """Drop permits and responses, since the store is down; try again at a time."""
        self._permits.clear()
        self._responses.clear()
        self._calls = self._used = 0
        self._has_gap = True
        self.due = moment


def limiter_alone(
    clock: Callable[[], float],
    known: float,
    fallback: float,
    members: int,
    paused_until: float = -math.inf,
) -> AdaptiveRateLimiter:
    """
    Return the limiter of a process whose store is down.

    All members together use at most the share `fallback` of the rate `known`, in any second. A
    pause continues.
    """
    share = fallback * known / members
    highest = max(share / 2, _ALONE * share - 1.0)
    limiter = AdaptiveRateLimiter(clock, rate=highest, min_rate=min(0.1, highest), max_rate=highest)
    limiter.pause_until(paused_until)
    return limiter
