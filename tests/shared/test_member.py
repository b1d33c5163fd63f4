"""A member of a shared rate: its permits, its reports, its clock, and its life without a store."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import pytest

from adapty_async._flow.adaptive_rate import AdaptiveRateLimiter
from adapty_async._shared.exchange import Grant, Report, ResponseRecord
from adapty_async._shared.member import INTERVAL, Member, StoreClock, limiter_alone
from adapty_async._shared.source import SharedSource
from adapty_async.errors import ConfigError, StoreError
from adapty_async.testing import FakeClock

AHEAD_OF_US = 1_000_000.0


def a_grant(*permits: float, **fields: object) -> Grant:
    """Return a grant of permits at times on our clock."""
    values: dict[str, object] = {
        "again": 0.0,
        "epoch": 0,
        "revoked": 0,
        "rate": 100.0,
        "limit": None,
        "paused_until": 0.0,
        "probing": False,
        "overstated": False,
        "members": 2,
        "interval": INTERVAL,
    }
    times = tuple(permit + AHEAD_OF_US for permit in permits)
    return Grant(permits=times, **{**values, **fields})  # type: ignore[arg-type]


def a_member(clock: FakeClock, *permits: float, **fields: object) -> Member:
    """Return a member that has had one exchange."""
    member = Member("name", clock)
    member.store_clock.record(clock.now, clock.now + AHEAD_OF_US, clock.now)
    give(member, clock, *permits, **fields)
    return member


def give(member: Member, clock: FakeClock, *permits: float, **fields: object) -> None:
    """Perform an exchange in which the member receives permits."""
    member.accept(member.report(), a_grant(*permits, **fields), clock.now)


def test_the_stores_clock_stays_within_the_bounds_of_each_exchange() -> None:
    """A quick exchange narrows the estimate; a slow one does not widen it."""
    clock = StoreClock()
    assert clock.to_store(5.0) == clock.to_local(5.0) == 5.0
    clock.record(10.0, 110.5, 11.0)
    assert clock.to_store(0.0) == 100.0
    clock.record(20.0, 120.1, 20.0 + 1.0)
    assert clock.to_store(0.0) == 100.0
    clock.record(30.0, 130.2, 30.1)
    assert clock.to_store(0.0) == pytest.approx(100.1)
    clock.record(40.0, 40.05, 40.1)

    assert clock.to_store(0.0) == pytest.approx(0.05)
    assert clock.to_local(clock.to_store(7.0)) == pytest.approx(7.0)


def test_a_permit_is_used_at_its_time() -> None:
    """A request waits for the time of the next permit; one a moment early is not worth a timer."""
    clock = FakeClock(10.0)
    member = a_member(clock, 10.02, 10.04)

    assert member.acquire() == pytest.approx(0.02)
    clock.now = 10.0195
    assert member.acquire() == 0.0
    assert member.acquire() == pytest.approx(0.0205)
    clock.now = 10.04
    assert member.acquire() == 0.0
    assert member.acquire() > 0.0


def test_a_permit_of_long_ago_is_void() -> None:
    """A process that stood still does not send a burst afterwards."""
    clock = FakeClock(10.0)
    member = a_member(clock, 10.0, 10.01, 10.02)
    clock.now = 10.115

    assert member.acquire() == 0.0
    assert member.acquire() > 0.0


def test_without_a_permit_a_request_waits_for_the_next_exchange() -> None:
    """A wait for the next heartbeat would waste the permits that come sooner."""
    clock, calls = FakeClock(10.0), list[float]()
    member = Member("name", clock, lambda: calls.append(member.due))
    give(member, clock)
    assert member.due == 11.0
    clock.now = 10.01

    assert member.acquire() == pytest.approx(0.04)
    assert member.due == pytest.approx(10.0 + INTERVAL)
    assert calls == [pytest.approx(10.0 + INTERVAL)]
    assert member.report().hungry
    assert member.report().wanted == 1


def test_a_member_asks_for_no_more_before_there_can_be_more() -> None:
    """The exchange after a grant of nothing comes when the state said so, at most 0.25 s later."""
    clock = FakeClock(10.0)
    member = a_member(clock, again=0.1)
    member.acquire()
    assert member.due == pytest.approx(10.1)
    assert member.report().wanted == 0
    clock.now = 10.1
    assert member.report().wanted == 1
    give(member, clock, again=9.0)
    member.acquire()

    assert member.due == pytest.approx(10.35)


def test_a_member_asks_for_what_it_uses() -> None:
    """Hungry members ask for twice what they used, others for a little more."""
    clock = FakeClock(10.0)
    member = a_member(clock, *[10.0] * 12)
    for _ in range(10):
        assert member.acquire() == 0.0
    report = member.report()
    assert (report.hungry, report.wanted) == (False, 11)
    member.acquire()
    member.acquire()
    assert member.acquire() > 0.0
    report = member.report()

    assert (report.hungry, report.wanted) == (True, 25)
    give(member, clock)
    assert member.report().wanted == 0


def test_a_member_with_enough_permits_asks_for_none() -> None:
    """It has more of them than it used."""
    clock = FakeClock(10.0)
    member = a_member(clock, *[10.0] * 12)
    assert member.acquire() == 0.0

    assert member.report().wanted == 0


def test_the_first_report_has_what_happened_before_it() -> None:
    """A member that has sent nothing reports nothing, and one that waits asks for a permit."""
    clock = FakeClock(10.0)
    member = Member("name", clock)
    assert member.report() == Report(member="name", at=10.0, paused_until=10.0)
    assert member.acquire() > 0.0

    assert (member.report().hungry, member.report().wanted) == (True, 1)


def test_an_exchange_comes_soon_after_news_and_otherwise_once_a_second() -> None:
    """Requests, responses and used permits are reported within a twentieth of a second."""
    clock = FakeClock(10.0)
    news: tuple[Callable[[Member], object], ...] = (
        lambda member: member.count(),
        lambda member: member.succeeded(9.9),
        lambda member: member.throttled(9.9),
        lambda member: member.expect(50.0),
        lambda member: member.restart(50.0),
    )
    for happen in news:
        member = a_member(clock)
        assert member.due == 11.0
        happen(member)
        assert member.due == pytest.approx(10.0 + INTERVAL)
    assert a_member(clock, 10.0).due == pytest.approx(10.0 + INTERVAL)


def test_responses_are_reported_once_in_the_stores_time() -> None:
    """A report that did not arrive is reported again, together with what came since."""
    clock = FakeClock(9.8)
    member = a_member(clock, 9.8, epoch=7)
    member.acquire()
    clock.now = 10.0
    member.succeeded(9.9, paced=True)
    member.throttled(9.95, 3.0, within=60.0)
    member.count()
    lost = member.report()
    assert lost.responses == (
        ResponseRecord(10.0 + AHEAD_OF_US, 9.9 + AHEAD_OF_US, 7, paced=True),
        ResponseRecord(
            10.0 + AHEAD_OF_US,
            9.95 + AHEAD_OF_US,
            7,
            throttled=True,
            retry_after=3.0,
            within=60.0,
        ),
    )
    member.succeeded(9.99, paced=False)
    again = member.report()
    assert (len(again.responses), again.calls) == (3, 1)
    member.count()
    member.accept(again, a_grant(), clock.now)
    report = member.report()

    assert (report.responses, report.calls) == ((), 1)
    assert member.due == pytest.approx(10.0 + INTERVAL)


def test_a_response_belongs_to_the_epoch_of_its_permit() -> None:
    """A request with a permit of before a cut does not count as one that was sent after it."""
    clock = FakeClock(10.0)
    member = a_member(clock, 10.0, 10.1, epoch=1)
    member.acquire()
    clock.now = 10.05
    give(member, clock, 10.2, epoch=2)
    member.count()
    member.throttled(10.06)
    assert member.report().responses[-1].epoch == 1  # the permits of before are still in use
    give(member, clock)
    for clock.now in (10.1, 10.2):
        assert member.acquire() == 0.0
    for sent in (9.0, 10.0, 10.1, 10.2, 10.3):
        member.throttled(sent)
    epochs = [one.epoch for one in member.report().responses]
    assert epochs == [0, 1, 1, 2, 2]
    give(member, clock, epoch=3)
    clock.now = 10.4
    member.count()
    member.throttled(10.4)

    assert member.report().responses[-1].epoch == 3


def test_the_epoch_of_a_request_of_long_ago_is_the_oldest_that_is_known() -> None:
    """A bounded number of epochs is remembered."""
    clock = FakeClock(10.0)
    member = a_member(clock)
    for epoch in range(1, 101):
        clock.now += 1.0
        give(member, clock, epoch=epoch)
        member.count()
    member.throttled(10.0)

    assert member.report().responses[-1].epoch == 100 - 63


def test_successes_count_as_paced_only_if_requests_wait() -> None:
    """A job that is slower than the rate is no reason to raise it."""
    clock = FakeClock(10.0)
    member = a_member(clock, *[10.0] * 40)
    clock.now = 10.05
    for _ in range(40):
        assert member.acquire() == 0.0
    member.succeeded(10.0, paced=True)

    assert not member.report().responses[0].paced


def test_a_cut_revokes_permits_of_earlier_epochs() -> None:
    """Permits that were granted before a cut are not used after it is known."""
    clock = FakeClock(10.0)
    member = a_member(clock, 10.0, 10.0)
    give(member, clock, 10.0, epoch=1, revoked=0)
    assert member.acquire() == member.acquire() == 0.0
    give(member, clock, 10.0, epoch=2, revoked=2)

    assert member.acquire() == 0.0
    assert member.acquire() > 0.0


def test_a_pause_of_all_holds_here_too() -> None:
    """A pause that another member reported is known; only the permit of a probe is used in it."""
    clock = FakeClock(10.0)
    member = a_member(clock, 10.0, 10.0)
    pause = {"paused_until": 40.0 + AHEAD_OF_US, "epoch": 1, "revoked": 1, "again": 29.0}
    give(member, clock, **pause)
    assert member.paused_until == pytest.approx(40.0)
    assert member.acquire() == pytest.approx(0.25)
    give(member, clock, 10.0, **pause)

    assert member.acquire() == 0.0
    assert member.acquire() > 0.0


def test_what_the_others_know_is_visible() -> None:
    """Rate, limit, probing and members are those of the last exchange."""
    clock = FakeClock(10.0)
    member = Member("name", clock)
    assert (member.rate, member.limit, member.probing, member.members) == (20.0, None, False, 1)
    assert not member.overstated
    give(member, clock, rate=97.0, limit=100.0, probing=True, overstated=True, members=5)

    assert (member.rate, member.limit, member.probing, member.members) == (97.0, 100.0, True, 5)
    assert (member.overstated, member.report().members) == (True, 5)


def test_a_limit_is_known_until_another_one_is_measured() -> None:
    """A store that goes down in the middle of a search is replaced by a share of what is known."""
    clock = FakeClock(10.0)
    member = Member("name", clock)
    give(member, clock, rate=1_600.0, limit=None)
    assert (member.known, member.report().known) == (20.0, None)
    give(member, clock, rate=388.0, limit=400.0)
    give(member, clock, rate=1_600.0, limit=None)
    assert (member.known, member.report().known) == (400.0, 400.0)


def test_a_known_rate_is_reported_until_it_arrived() -> None:
    """The rate of a journal and that of a throttled run reach the others once."""
    clock = FakeClock(10.0)
    member = Member("name", clock)
    with pytest.raises(ValueError, match="above 0"):
        member.expect(-1.0)
    member.expect(300.0)
    member.search_from(120.0)
    assert member.limit == 300.0
    assert member.rate == pytest.approx(291.0)
    report = member.report()
    assert (report.expected, report.known, report.search_from) == (300.0, 300.0, 120.0)
    give(member, clock, limit=250.0)
    member.expect(100.0)
    report = member.report()

    assert (report.expected, report.known, report.search_from) == (None, 250.0, None)


def test_a_restart_is_reported_until_it_arrived() -> None:
    """The limit of before is known at once, and the others learn of the restart once."""
    clock = FakeClock(10.0)
    member = a_member(clock, limit=300.0, paused_until=40.0 + AHEAD_OF_US)
    member.restart(400.0)
    assert (member.limit, member.known, member.paused_until) == (400.0, 400.0, 10.0)
    report = member.report()
    assert (report.restart, report.restart_limit) == (True, 400.0)
    give(member, clock, limit=400.0)

    assert not member.report().restart


def test_what_changes_during_an_exchange_is_reported_by_the_next_one() -> None:
    """A restart, a limit or a rate that comes between report and result is not lost."""
    clock = FakeClock(10.0)
    member = a_member(clock, limit=None)
    before = member.report()
    member.expect(300.0)
    member.search_from(120.0)
    member.accept(before, a_grant(limit=None), clock.now)
    report = member.report()
    assert (report.expected, report.search_from) == (300.0, 120.0)
    assert member.due == pytest.approx(10.0 + INTERVAL)

    member.restart(400.0)
    member.accept(report, a_grant(limit=20.0, paused_until=40.0 + AHEAD_OF_US), clock.now)
    report = member.report()
    assert (report.restart, report.restart_limit, report.expected) == (True, 400.0, None)
    assert (member.limit, member.known) == (400.0, 400.0)
    assert member.paused_until <= 10.0
    member.accept(report, a_grant(limit=400.0), clock.now)
    assert not member.report().restart


@pytest.mark.parametrize(("seconds", "usable"), [(0.14, True), (0.16, False)])
def test_permits_of_a_slow_exchange_are_of_use_up_to_a_bound(
    seconds: float,
    usable: bool,  # noqa: FBT001  a parameter
) -> None:
    """A permit that arrives late may be used for a moment, unless the process stood still."""
    clock = FakeClock(10.0)
    member = a_member(clock)
    report = member.report()
    clock.now += seconds
    member.accept(report, a_grant(9.98), 10.0)

    assert (member.acquire() == 0.0) is usable
    give(member, clock, clock.now)
    assert member.acquire() == 0.0


def test_the_last_report_wants_nothing() -> None:
    """A member that leaves gives its share back."""
    clock = FakeClock(10.0)
    member = a_member(clock)
    member.acquire()
    report = member.report(is_leaving=True)

    assert (report.is_leaving, report.wanted) == (True, 0)


@pytest.mark.parametrize("members", [1, 4, 16, 200])
@pytest.mark.parametrize("known", [3.0, 20.0, 400.0, 5_000.0])
def test_processes_alone_never_exceed_the_fallback_share(known: float, members: int) -> None:
    """Any second has at most a process's part of the share, or one request if that is below 2."""
    clock = FakeClock()
    limiter = limiter_alone(clock, known, 0.5, members)
    share = 0.5 * known / members
    sent: list[float] = []
    while clock.now < 4.0:
        wait = limiter.acquire()
        if not wait:
            sent.append(clock.now)
            limiter.succeeded(clock.now)
        clock.now += wait
    most = max(
        (sum(first <= one < first + 1.0 for one in sent[:300]) for first in sent[:100]), default=0
    )

    assert most <= max(share, 1 + share / 2)


def test_a_source_without_a_store_continues_alone(caplog: pytest.LogCaptureFixture) -> None:
    """It uses its part of the share, forgets its permits, and comes back with the store."""
    caplog.set_level(logging.INFO, "adapty_async")
    clock = FakeClock(10.0)
    source = SharedSource("name", 0.5, clock)
    source.member.store_clock.record(10.0, 10.0 + AHEAD_OF_US, 10.0)
    source.accept(source.member.report(), a_grant(10.0, rate=388.0, limit=400.0, members=4), 10.0)
    source.succeeded(9.9)
    source.count()
    assert (source.rate, source.is_alone, source.exchanges) == (388.0, False, 1)
    source.fail(StoreError("Redis is down"))
    source.fail(StoreError("Redis is down"))

    assert source.is_alone
    assert source.rate == pytest.approx(0.97 * 47.5, abs=2.0)
    assert source.limit == 400.0
    assert source.member.due == 10.25
    report = source.member.report()
    assert (report.responses, report.calls, report.wanted, report.has_gap) == ((), 0, 0, True)
    assert source.acquire() == 0.0
    source.count()
    source.succeeded(9.9, paced=False)
    source.throttled(9.9, 30.0)
    assert source.paused_until == pytest.approx(40.0)
    assert not source.probing
    assert not source.overstated
    source.accept(source.member.report(), a_grant(), clock.now)
    assert source.acquire() > 0.0
    assert source.exchanges == 2
    assert not source.member.report().has_gap
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "Redis is down; this process continues at" in caplog.text


def test_a_source_passes_on_what_its_bucket_records() -> None:
    """The others learn how a request was sent, when a probe is of use, and where to search."""
    source = SharedSource("name", 0.5, FakeClock(10.0))
    source.succeeded(9.9, paced=False)
    source.succeeded(9.9, paced=True)
    source.throttled(9.9, 3.0, within=60.0)
    source.search_from(120.0)
    report = source.member.report()

    assert [each.paced for each in report.responses] == [False, True, False]
    assert (report.responses[-1].within, report.search_from) == (60.0, 120.0)


def test_a_source_restarts_with_and_without_a_store() -> None:
    """A limit of before holds again, for the share of a process alone as well."""
    clock = FakeClock(10.0)
    source = SharedSource("name", 0.5, clock)
    source.restart(100.0)
    assert source.limit == 100.0
    source.fail(StoreError("Redis is down"))
    source.throttled(9.9, 30.0)
    source.restart(200.0)

    assert source.paused_until <= 10.0
    assert source.rate == pytest.approx(0.97 * 96, rel=0.02)


def test_a_pause_continues_without_the_store_and_after_it() -> None:
    """Nothing is sent into a pause because the store goes down, or is back."""
    clock = FakeClock(10.0)
    source = SharedSource("name", 0.5, clock)
    source.member.store_clock.record(10.0, 10.0 + AHEAD_OF_US, 10.0)
    grant = a_grant(limit=400.0, paused_until=40.0 + AHEAD_OF_US)
    source.accept(source.member.report(), grant, 10.0)
    source.fail(StoreError("Redis is down"))
    assert source.paused_until == 40.0
    assert source.acquire() > 1.0

    clock.now = 41.0
    assert source.acquire() == 0.0
    source.throttled(41.0, 90.0)
    report = source.member.report()
    assert report.has_gap
    assert report.paused_until == pytest.approx(131.0 + AHEAD_OF_US)
    clock.now = 42.0
    source.succeeded(41.9)  # by a single call: the pause is not meant literally
    assert source.member.report().paused_until == pytest.approx(42.0 + AHEAD_OF_US)


def test_an_exchange_during_which_the_process_stood_still_is_not_the_stores_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its permits are void, and only a second one in a row lets the process continue alone."""
    clock = FakeClock(10.0)
    source = SharedSource("name", 0.5, clock)
    report = source.member.report()
    clock.now = 70.0
    source.accept(report, a_grant(10.0), 10.0)
    assert (source.is_alone, caplog.text) == (False, "")
    assert source.acquire() > 0.0

    clock.now = 72.0
    source.accept(source.member.report(), a_grant(71.0), 71.0)
    assert source.is_alone
    assert "exchanges with the store take too long, or others are faster; this" in caplog.text


def test_a_closed_source_admits_nothing() -> None:
    """A client that outlives its shared rate gets an error that names it, and does not hang."""
    source = SharedSource("name", 0.5, FakeClock())
    source.expect(100.0)
    source.search_from(50.0)
    source.close()

    with pytest.raises(ConfigError, match=r"Limits\.shared is closed"):
        source.acquire()
    with pytest.raises(ConfigError, match=r"Limits\.shared is closed"):
        source.count()
    source.succeeded(0.0)
    source.throttled(0.0)
    assert "is_alone=False" in repr(source)
    assert source.members == 1


def test_a_process_alone_adjusts_its_share() -> None:
    """It may learn from an exchange that was late, or from a journal; its pause continues."""
    clock = FakeClock(10.0)
    source = SharedSource("name", 0.5, clock)
    source.fail(StoreError("Redis is down"))
    assert source.rate == pytest.approx(0.97 * 10.0, abs=2.0)
    source.expect(400.0)
    assert source.rate == pytest.approx(0.97 * 200.0, abs=10.0)
    source.throttled(9.9, 30.0)
    clock.now = 20.0
    report = source.member.report()
    source.accept(report, a_grant(limit=400.0, members=4), 19.8)

    assert source.is_alone
    assert source.rate == pytest.approx(0.97 * 50.0, abs=3.0)
    assert source.paused_until == pytest.approx(40.0)
    assert source.acquire() > 0.0


def test_a_limiter_alone_is_the_products_own() -> None:
    """It slows down when it is throttled, and rises no higher than its share."""
    clock = FakeClock(10.0)
    limiter = limiter_alone(clock, 400.0, 0.5, 4)
    before = limiter.rate
    limiter.throttled(9.99)

    assert isinstance(limiter, AdaptiveRateLimiter)
    assert limiter.rate < before < 50.0
    assert math.isfinite(limiter.rate)
    while clock.now < 100.0:
        if wait := limiter.acquire():
            clock.now += wait
        else:
            limiter.succeeded(clock.now)

    assert limiter.rate == pytest.approx(0.97 * 50.0 - 1.0)
