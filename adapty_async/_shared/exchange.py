"""
A pure state machine of the rate that several processes share.

A store keeps one `SharedState` for each account and bucket. A member, which is one process's share
of it, loads the state, calls `exchange` and swaps the result into the store, if no other member was
faster. It thereby reports its responses and receives permits: send times on one timeline of all
members. All times are on the clock of the store.

- The adaptive rate limiter of a single process decides. It records the responses of all members in
  the order in which they were received, as if one process had received them.
- A response is recorded after every active member has reported up to its time. A measurement then
  counts the successes of all members. A member that is silent delays that by `_LAG` at most, or by
  the time of two exchanges of a member if there are many.
- A permit belongs to an epoch. A 429 to a request of an earlier epoch does not cut the rate again.
- No permit is further ahead than `AHEAD`, or than the seconds between two exchanges of a member if
  there are many. The unused permits of a dead member pass.
- Each member has a timeline of its own as well, at its share of the rate, so that none takes the
  permits of another because it exchanges more often or at a better time.
"""

from __future__ import annotations

import copy
import math
import operator

import msgspec

from adapty_async._flow.adaptive_rate import AdaptiveRateLimiter
from adapty_async._flow.rate_state import RateSnapshot

#: Maximum seconds by which a permit may be ahead, and minimum seconds between two exchanges of a
#: member; both are more if there are many members.
AHEAD = 0.05
# Maximum exchanges per second of all members. More of them would lose to each other, and take the
# processor time that the members need for their requests.
_EXCHANGES = 400.0
# Maximum seconds between two exchanges of a member, however many there are.
_MAX_INTERVAL = 1.0
# Seconds without an exchange after which a member counts as gone. Idle members exchange once a
# second.
_GONE = 3.0
# Seconds for which the responses of others wait for the report of a member, unless there are many.
_LAG = 0.2
# Intervals after its last report in which a member has a share of the rate of its own.
_HUNGRY = 6
# The share of the rate to which the shares of all members add up. A little above 1 fills the
# timeline as far ahead as permits may be, so that a late exchange leaves no gap; the timeline
# itself holds the rate.
_SHARES = 1.005
# Seconds that a late exchange may catch up, on the timeline of all members and on its own. With
# `AHEAD`, one of few processes that exchanges half as often as usual has its whole share.
_CATCH_UP = 0.05
# Seconds by which the clock of a store may be set back. The new server of a store that failed over
# has another clock; the times of the state are then of no use.
_BACK = 1.0
# Maximum seconds of a pause that a member brings back.
_MAX_PAUSE = 3600.0


class ResponseRecord(msgspec.Struct, frozen=True, array_like=True):
    """
    A record of a response to a request of a member.

    Attributes:
        received: time at which it arrived.
        sent: time at which the request was sent.
        epoch: the epoch in which it was sent.
        throttled: it is a 429.
        paced: the rate held requests back when the request was sent.
        retry_after: seconds of the `Retry-After` of a 429.
        within: seconds within which a probe is of use.
    """

    received: float
    sent: float
    epoch: int
    throttled: bool = False
    paced: bool = False
    retry_after: float | None = None
    within: float = math.inf


class Report(msgspec.Struct, frozen=True):
    """
    A member's part of an exchange.

    Attributes:
        member: the random name of the member.
        at: time up to which `responses` is complete.
        active_until: time until which further responses are expected.
        wanted: maximum number of permits that it can use.
        hungry: the rate holds back requests of the member.
        calls: number of requests that were sent without a permit.
        responses: its new responses.
        has_gap: responses of a time without the store are missing.
        known: the limit that the member knows; the start if the store is empty.
        expected: a limit that an earlier run found; it holds until one is measured.
        search_from: a rate at which a search starts.
        restart: the rate starts again, since 429 responses were not due to the limit.
        restart_limit: the limit with which it starts again; None to search for it.
        is_leaving: the member leaves; its share is free.
        paused_until: time before which nothing is sent, as the member knows; it may be past.
        members: number of members, as the member knows.
    """

    member: str
    at: float
    active_until: float = -math.inf
    wanted: int = 0
    hungry: bool = False
    calls: int = 0
    responses: tuple[ResponseRecord, ...] = ()
    has_gap: bool = False
    known: float | None = None
    expected: float | None = None
    search_from: float | None = None
    restart: bool = False
    restart_limit: float | None = None
    is_leaving: bool = False
    paused_until: float = -math.inf
    members: int = 1


class MemberRecord(msgspec.Struct, array_like=True):
    """
    A record of a member, as the others see it.

    Attributes:
        seen: time up to which its responses are recorded.
        active_until: time until which further responses are expected.
        hungry_until: time until which it has a share of the rate of its own.
        served_until: end of its permits on a timeline at its share of the rate.
    """

    seen: float
    active_until: float = -math.inf
    hungry_until: float = -math.inf
    served_until: float = -math.inf


class SharedState(msgspec.Struct):
    """
    The state of the shared rate of one account and bucket.

    Attributes:
        at: time of the last exchange.
        began: time of the first exchange, or of the last after a time without any or after one
            without the store.
        rate: the state of the adaptive rate limiter.
        recorded: time up to which responses are recorded.
        epoch: number of cuts of the rate and pauses.
        revoked: the permits of earlier epochs are revoked.
        members: the members by name.
        members_before: number of members before `began`, as they know.
        pending: responses that are not recorded yet.
    """

    at: float
    began: float
    rate: RateSnapshot
    recorded: float = -math.inf
    epoch: int = 0
    revoked: int = 0
    members: dict[str, MemberRecord] = {}
    members_before: int = 1
    pending: list[ResponseRecord] = []


class Grant(msgspec.Struct, frozen=True):
    """
    The result of an exchange for a member.

    Attributes:
        permits: send times.
        again: seconds until more permits may be granted; 0 if the member has all that it wanted.
        epoch: the epoch of the permits.
        revoked: the permits of earlier epochs are revoked.
        rate: requests per second of all members.
        limit: the measured limit of the server; None during a search for it.
        paused_until: time before which nothing is sent.
        probing: only single probes are sent.
        overstated: the server accepts requests before the end of a long `Retry-After`.
        members: number of members; those of before a failure of the store count for a while.
        interval: minimum seconds from this exchange of the member to its next one.
    """

    permits: tuple[float, ...]
    again: float
    epoch: int
    revoked: int
    rate: float
    limit: float | None
    paused_until: float
    probing: bool
    overstated: bool
    members: int
    interval: float


def exchange(state: SharedState | None, now: float, report: Report) -> tuple[SharedState, Grant]:
    """
    Return the state after an exchange, and what the member receives; `state` is not changed.

    Without a state, and after the store's clock was set back, the member's known limit is the
    start.
    """
    if state is not None and now < state.at - _BACK:
        state = None
    return _Exchange(state, now, report).run()


class _Exchange:
    """One exchange; `limiter` works on the time of the event that it records."""

    def __init__(self, state: SharedState | None, now: float, report: Report) -> None:
        self._now = now
        self._report = report
        self._time = now
        self._limiter = AdaptiveRateLimiter(lambda: self._time)
        if state is not None:
            self._limiter.restore(state.rate)
        elif report.known is not None:
            self._limiter.expect(report.known)
        if report.expected is not None:
            self._limiter.expect(report.expected)
        if state is None or report.has_gap:  # a pause of before or without the store
            self._limiter.pause_until(min(report.paused_until, now + _MAX_PAUSE))
        if state is None:
            state = SharedState(at=now, began=now, rate=self._limiter.snapshot())
        self._state = state = copy.copy(state)  # `run` replaces what has changed
        if now > state.at + _GONE:  # the store may have been down
            state.began, state.members, state.members_before = now, {}, 1
        elif report.has_gap:  # it was down for this member, and others may not be back
            state.began = now

    def run(self) -> tuple[SharedState, Grant]:
        """Record the report, then grant permits at the rate that follows from it."""
        member = self._update_members()
        if self._report.has_gap:
            self._drop_measurement()
        if self._report.search_from is not None:  # the 429 for which it is set is a response
            self._limiter.search_from(self._report.search_from)
        self._record_responses()
        self._time = self._now
        if self._report.restart:
            self._restart()
        for _ in range(self._report.calls):
            self._limiter.count()
        permits, again = self._permits(member)
        self._state.at, self._state.rate = self._now, self._limiter.snapshot()
        return self._state, self._grant(permits, again)

    def _update_members(self) -> MemberRecord:
        report, state, now = self._report, self._state, self._now
        before = state.members.get(report.member)
        if (before is None or report.has_gap) and self._is_young:
            state.members_before = max(state.members_before, report.members)
        state.members = {
            name: one
            for name, one in state.members.items()
            if name != report.member and one.seen > now - _GONE
        }
        hungry_until = -math.inf if before is None else before.hungry_until
        member = MemberRecord(
            seen=report.at,
            active_until=report.active_until,
            hungry_until=now + _HUNGRY * self._spacing if report.hungry else hungry_until,
            served_until=-math.inf if before is None else before.served_until,
        )
        if not report.is_leaving:
            state.members[report.member] = member
        return member

    @property
    def _spacing(self) -> float:
        """The seconds between two exchanges of a member, which its permits cover."""
        # a process that is short of processor time may not have exchanged for long
        members = self._state.members.values()
        active = sum(one.active_until > self._now - _GONE for one in members)
        return min(max(AHEAD, active / _EXCHANGES), _MAX_INTERVAL)

    @property
    def _is_young(self) -> bool:
        """Whether members of before a failure of the store may not have reported yet."""
        return self._now < self._state.began + _GONE

    def _drop_measurement(self) -> None:
        snapshot = self._limiter.snapshot()
        snapshot.meter.reset()
        self._limiter.restore(snapshot)

    def _record_responses(self) -> None:
        complete = self._complete_until()
        waiting = []
        responses = [*self._state.pending, *self._report.responses]
        for response in sorted(responses, key=operator.attrgetter("received")):
            if response.received <= complete or self._is_first_throttled(response):
                self._record(response)
            else:
                waiting.append(response)
        self._state.pending = waiting

    def _is_first_throttled(self, response: ResponseRecord) -> bool:
        """
        Return whether a response cuts the rate for the first time.

        That cut needs no measurement, and each moment before it costs 429 responses. Later ones
        wait, since many in a row without the successes in between would pause all requests.
        """
        return response.throttled and self._limiter.snapshot().throttling.cut == -math.inf

    def _restart(self) -> None:
        self._limiter.restart(self._report.restart_limit)
        self._state.pending = []
        self._state.epoch += 1
        self._state.revoked = self._state.epoch

    def _record(self, response: ResponseRecord) -> None:
        self._time = self._state.recorded = max(self._state.recorded, response.received)
        if response.throttled:
            self._record_throttled(response)
        else:
            self._limiter.succeeded(response.sent, paced=response.paced)

    def _complete_until(self) -> float:
        """Return the time up to which the responses of all active members are known."""
        now = self._now
        members = self._state.members.values()
        reported = (one.seen for one in members if one.active_until > now)
        return max(now - max(_LAG, 2 * self._spacing), min(reported, default=now))

    def _record_throttled(self, response: ResponseRecord) -> None:
        limiter, sent = self._limiter, response.sent
        if response.epoch < self._state.epoch:  # sent before the member knew of the last cut
            sent = min(sent, limiter.snapshot().throttling.cut)
        before = limiter.rate, limiter.limit, limiter.paused_until
        limiter.throttled(sent, response.retry_after, within=response.within)
        if before == (limiter.rate, limiter.limit, limiter.paused_until):
            return
        self._state.epoch += 1
        # a cut revokes no permits: they pass soon, and a gap would spoil the measurement
        if limiter.paused_until > self._now:
            self._state.revoked = self._state.epoch
            self._time = self._now
            limiter.revoke()
            self._drop_measurement()  # the server's burst fills up meanwhile

    def _permits(self, member: MemberRecord) -> tuple[tuple[float, ...], float]:
        """Return the permits of the member, and the seconds until it may receive more."""
        now, limiter = self._now, self._limiter
        if not self._report.wanted:
            return (), 0.0
        interval, ahead = self._interval(), self._spacing
        # the rate may have risen since
        served = min(max(member.served_until, now - ahead), now + ahead + interval)
        member.served_until = served  # also without permits, or it would be as late next time
        share = 1 + math.floor((now + ahead - served) / interval)
        if share <= 0:
            return (), served - ahead - now
        self._time = now - _CATCH_UP
        wanted = min(self._report.wanted, share)
        reserved = limiter.reserve(wanted, ahead + _CATCH_UP)
        member.served_until = served + reserved.count * interval
        again = max(reserved.again, interval if share < self._report.wanted else 0.0)
        return tuple(
            reserved.first + number * reserved.interval for number in range(reserved.count)
        ), again

    def _interval(self) -> float:
        """Return the seconds between two permits of one member."""
        hungry = sum(one.hungry_until >= self._now for one in self._state.members.values())
        return max(1, hungry) / (_SHARES * self._limiter.rate)

    def _grant(self, permits: tuple[float, ...], again: float) -> Grant:
        limiter, state = self._limiter, self._state
        return Grant(
            permits=permits,
            again=again,
            epoch=state.epoch,
            revoked=state.revoked,
            rate=limiter.rate,
            limit=limiter.limit,
            paused_until=limiter.paused_until,
            probing=limiter.probing,
            interval=self._spacing,
            overstated=limiter.overstated,
            members=max(len(state.members), state.members_before if self._is_young else 0),
        )
