"""The pure exchange of members of a shared rate, and members in virtual time."""

from __future__ import annotations

import itertools
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapty_async._shared.exchange import (
    AHEAD,
    Grant,
    Report,
    ResponseRecord,
    SharedState,
    exchange,
)
from tests.shared.simulation import Run, World
from tests.simulation import Bucket

NOW = 1_000.0


def a_report(member: str = "a", at: float = NOW, **fields: object) -> Report:
    """Return a report with some fields set."""
    return msgspec.structs.replace(Report(member=member, at=at), **fields)


def ask(
    state: SharedState | None, now: float, member: str = "a", wanted: int = 1000
) -> tuple[SharedState, Grant]:
    """Exchange for as many permits as there are."""
    return exchange(state, now, a_report(member, now, wanted=wanted, hungry=True))


def successes(
    count: int, sent: float, seconds: float = 0.01, epoch: int = 0
) -> list[ResponseRecord]:
    """Return evenly spaced successes, which the rate had held back."""
    return [
        ResponseRecord(sent + 0.02 + number * seconds, sent + number * seconds, epoch, paced=True)
        for number in range(count)
    ]


def test_the_first_member_of_an_empty_store_searches() -> None:
    """Without a known limit the rate starts low."""
    state, grant = ask(None, NOW)

    assert (grant.rate, grant.limit, grant.members, grant.epoch) == (20.0, None, 1, 0)
    assert grant.permits
    assert state.at == NOW


def test_the_first_member_of_an_empty_store_seeds_it_with_what_it_knows() -> None:
    """A store that lost its values gets the limit back, at the safe share of it."""
    _, grant = exchange(None, NOW, a_report(known=400.0))

    assert grant.rate == pytest.approx(388.0)
    assert grant.limit == 400.0


def test_members_of_before_a_loss_count_until_they_are_gone() -> None:
    """The first one would otherwise use the share of all when the store goes down once more."""
    state, grant = exchange(None, NOW, a_report("a", members=4))
    assert grant.members == 4
    state, grant = exchange(state, NOW + 1.0, a_report("b", NOW + 1.0))  # it is new
    assert grant.members == 4
    state, grant = exchange(state, NOW + 2.9, a_report("a", NOW + 2.9, members=4))
    assert grant.members == 4
    _, grant = exchange(state, NOW + 3.1, a_report("a", NOW + 3.1, members=4))

    assert grant.members == 2


def test_members_of_before_an_outage_of_the_store_count_until_they_are_gone() -> None:
    """A store that kept its values tells no more about them than one that lost them."""
    state, _ = exchange(None, NOW, a_report("a"))
    for name in "bcd":
        state, _ = exchange(state, NOW + 3.2, a_report(name, NOW + 3.2))
    assert set(state.members) == set("bcd")
    state, grant = exchange(state, NOW + 9.0, a_report("b", NOW + 9.0, members=3))
    assert grant.members == 3
    for seconds in (10.0, 11.0, 12.1):
        state, grant = exchange(state, NOW + seconds, a_report("b", NOW + seconds, members=3))

    assert grant.members == 1


def test_members_of_before_a_short_outage_count_until_they_are_gone() -> None:
    """Members find the store again at different times; the last ones were not seen for long."""
    state = None
    for number, name in enumerate("abc"):
        at = NOW + number
        state, _ = exchange(state, at, a_report(name, at))
    back = NOW + 4.5
    state, grant = exchange(state, back, a_report("c", back, members=3, has_gap=True))
    assert set(state.members) == {"c"}
    assert grant.members == 3
    _, grant = exchange(state, back + 2.9, a_report("c", back + 2.9, members=3))
    assert grant.members == 3
    _, grant = exchange(state, back + 3.0, a_report("c", back + 3.0, members=3))

    assert grant.members == 1


def test_the_first_member_of_an_empty_store_brings_back_the_pause() -> None:
    """A store that lost its values in a long `Retry-After` does not end it."""
    state, grant = exchange(None, NOW, a_report(paused_until=NOW + 90.0, wanted=5, hungry=True))
    _, other = ask(state, NOW + 1.0, "b")

    assert grant.paused_until == other.paused_until == NOW + 90.0
    assert grant.permits == other.permits == ()
    _, bounded = exchange(None, NOW, a_report(paused_until=NOW + 1e9))
    assert bounded.paused_until == NOW + 3600.0


def test_a_pause_of_a_time_without_the_store_holds_for_all() -> None:
    """A member that was told to wait while it was alone tells the others."""
    state, _ = ask(None, NOW)
    _, late = exchange(state, NOW, a_report("b", paused_until=NOW + 90.0))
    _, grant = exchange(state, NOW, a_report("b", paused_until=NOW + 90.0, has_gap=True))

    assert late.paused_until <= NOW
    assert grant.paused_until == NOW + 90.0


def test_a_members_limit_does_not_replace_that_of_the_store() -> None:
    """Only an empty store is seeded."""
    state, _ = exchange(None, NOW, a_report(known=400.0))
    _, grant = exchange(state, NOW, a_report("b", known=100.0, expected=200.0))

    assert grant.limit == 400.0


def test_a_limit_of_an_earlier_run_holds_until_one_is_measured() -> None:
    """It is the start of a search that found no limit yet."""
    state, _ = exchange(None, NOW, a_report())
    _, grant = exchange(state, NOW, a_report("b", expected=200.0))

    assert grant.limit == 200.0


def test_a_restart_forgets_what_was_throttled() -> None:
    """The limit of before holds again for all; permits and open responses are of no use."""
    state, _ = exchange(None, NOW, a_report(known=400.0, active_until=NOW + 9.0))
    paused = ResponseRecord(NOW, NOW - 0.02, 0, throttled=True, retry_after=90.0)
    late = ResponseRecord(NOW + 5.0, NOW, 0, throttled=True, retry_after=90.0)
    state, before = exchange(state, NOW, a_report("b", responses=(paused, late)))
    state, grant = exchange(state, NOW + 0.1, a_report("b", restart=True, restart_limit=300.0))

    assert grant.limit == 300.0
    assert grant.epoch == grant.revoked == before.epoch + 1
    assert grant.paused_until <= NOW + 0.1
    assert state.pending == []


def test_a_member_does_not_wait_for_a_lower_rate_after_a_restart() -> None:
    """A member that has had its permit of ten seconds gets the next one at the new rate."""
    asked: dict[str, Any] = {"wanted": 3, "hungry": True}
    state, slow = exchange(None, NOW, a_report(known=0.1, **asked))
    restart = a_report(at=NOW + 0.1, restart=True, restart_limit=100.0, **asked)
    state, restarted = exchange(state, NOW + 0.1, restart)
    _, fast = exchange(state, NOW + 0.2, a_report(at=NOW + 0.2, **asked))
    assert [len(grant.permits) for grant in (slow, restarted, fast)] == [1, 0, 3]
    assert restarted.rate == pytest.approx(97.0)


def test_a_search_starts_at_the_rate_of_a_run() -> None:
    """A configured rate that was throttled is a better start than the default."""
    _, grant = exchange(None, NOW, a_report(search_from=120.0))

    assert grant.rate == 120.0


def test_the_429_that_starts_a_search_cuts_the_rate_of_the_run() -> None:
    """Both come with one report; the default would be a tenth of the rate."""
    response = ResponseRecord(NOW, NOW - 0.02, 0, throttled=True)
    _, grant = exchange(None, NOW, a_report(search_from=200.0, responses=(response,)))

    assert grant.rate == 100.0


def test_the_state_is_not_changed() -> None:
    """An exchange that is lost to another member leaves the loaded state as it was."""
    state, _ = exchange(None, NOW, a_report(known=400.0))
    before = msgspec.msgpack.encode(state)
    exchange(state, NOW + 0.05, a_report(wanted=5, calls=3, responses=tuple(successes(5, NOW))))

    assert msgspec.msgpack.encode(state) == before


def test_a_store_whose_clock_was_set_back_starts_fresh() -> None:
    """The times of the state would lie in the future for hours; the limit stays known."""
    state, _ = ask(exchange(None, NOW, a_report(known=400.0))[0], NOW)
    _, grant = exchange(state, NOW - 3600.0, a_report(at=NOW - 3600.0, wanted=1, known=400.0))

    assert grant.limit == 400.0
    assert len(grant.permits) == 1
    assert abs(grant.permits[0] - NOW + 3600.0) <= AHEAD


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.floats(0.0, 0.2),
            st.integers(0, 100),
            st.integers(0, 5),
        ),
        max_size=60,
    ),
    st.floats(1.0, 5_000.0),
)
def test_permits_never_exceed_the_rate(
    asked: list[tuple[str, float, int, int]], limit: float
) -> None:
    """Permits of all members are on one timeline: evenly spaced, never duplicate, never ahead."""
    state, grant = exchange(None, NOW, a_report(known=limit))
    now = NOW
    permits: list[float] = []
    for member, seconds, wanted, calls in asked:
        now += seconds
        report = a_report(member, now, wanted=wanted, hungry=True, calls=calls)
        state, grant = exchange(state, now, report)
        assert all(now - 0.051 <= one <= now + AHEAD + 1e-6 for one in grant.permits)
        assert len(grant.permits) <= wanted
        permits += grant.permits

    spaces = [later - earlier for earlier, later in itertools.pairwise(permits)]
    assert all(space >= (1.0 - 1e-6) / grant.rate - 1e-6 for space in spaces)


def test_hungry_members_share_the_rate_evenly() -> None:
    """A member that asks right after another, or more often, receives no less and no more."""
    state, _ = exchange(None, NOW, a_report(known=400.0))
    counts = dict.fromkeys("abc", 0)
    for step in range(200):
        for member, seconds in (("a", 0.0), ("b", 0.0001), ("c", 0.0), ("c", 0.025)):
            now = NOW + 0.05 * step + seconds
            state, grant = ask(state, now, member)
            counts[member] += len(grant.permits)

    assert sum(counts.values()) == pytest.approx(10 * 388, rel=0.03)
    assert max(counts.values()) <= 1.05 * min(counts.values())


def test_a_member_with_permits_left_keeps_its_share() -> None:
    """For some exchanges, the others do not receive what it is about to ask for."""
    state, _ = exchange(None, NOW, a_report(known=400.0))
    for member in "ab":
        state, _ = ask(state, NOW, member)
    state, _ = exchange(state, NOW + 0.05, a_report("b", NOW + 0.05))
    count = 0
    for step in range(1, 6):
        state, grant = ask(state, NOW + 0.05 * step)
        count += len(grant.permits)

    assert count <= 0.7 * 0.25 * 388


def test_a_member_learns_when_there_may_be_more() -> None:
    """One that has had its share asks again when more is due, and not before."""
    state, _ = exchange(None, NOW, a_report(known=400.0))
    for member in "ab":  # both are hungry
        state, grant = ask(state, NOW, member, wanted=1)
        assert grant.again == 0.0
    state, _ = ask(state, NOW)
    state, grant = ask(state, NOW)
    assert grant.permits == ()
    assert 0.0 < grant.again <= 2 / 388
    _, grant = ask(state, NOW + grant.again + 1e-6)
    assert grant.permits


def test_many_members_exchange_less_often() -> None:
    """All together exchange 400 times a second, and their permits last as long as they wait."""
    state, grant = exchange(None, NOW, a_report("0", active_until=NOW + 0.5))
    for number in range(1, 64):
        state, grant = exchange(state, NOW, a_report(f"{number}", active_until=NOW + 0.5))

    assert grant.interval == pytest.approx(64 / 400)


def test_a_member_alone_may_use_the_whole_rate() -> None:
    """Members that do not want more leave their share to the others."""
    state, _ = exchange(None, NOW, a_report(known=400.0))
    count = 0
    for step in range(40):
        now = NOW + 0.05 * step
        state, _ = exchange(state, now, a_report("idle", now))
        state, grant = ask(state, now)
        count += len(grant.permits)

    assert count == pytest.approx(2 * 388, rel=0.05)


def test_single_calls_of_one_delay_the_permits_of_all() -> None:
    """Calls without a permit take their place on the timeline of the others."""
    state, _ = exchange(None, NOW, a_report(known=400.0))
    state, _ = exchange(state, NOW, a_report("web", calls=40))
    _, grant = ask(state, NOW)

    assert grant.permits == ()
    assert 0.0 < grant.again <= 40 / 388.0


def test_a_member_that_leaves_or_is_silent_is_not_counted() -> None:
    """A member counts until it leaves, or until three seconds after its last exchange."""
    state, _ = exchange(None, NOW, a_report("a"))
    state, grant = exchange(state, NOW, a_report("b"))
    assert grant.members == 2
    state, grant = exchange(state, NOW + 2.9, a_report("b", NOW + 2.9))
    assert grant.members == 2
    state, grant = exchange(state, NOW + 3.1, a_report("b", NOW + 3.1))
    assert grant.members == 1
    _, grant = exchange(state, NOW + 3.1, a_report("b", NOW + 3.1, is_leaving=True))
    assert grant.members == 0


def test_a_member_that_leaves_at_the_start_is_not_counted() -> None:
    """Only members of before a failure of the store count until they may be back."""
    state, _ = exchange(None, NOW, a_report("a"))
    state, _ = exchange(state, NOW, a_report("b"))
    state, _ = exchange(state, NOW, a_report("b", is_leaving=True))
    state, grant = exchange(state, NOW, a_report("a", members=2))
    assert grant.members == 1
    _, grant = exchange(state, NOW + 9.0, a_report("a", NOW + 9.0))
    assert grant.members == 1


def a_search(rate: float = 500.0) -> SharedState:
    """Return the state of two members that search, and have had one cut."""
    passed = ResponseRecord(NOW, NOW - 0.02, 0)
    report = a_report("a", search_from=2 * rate, active_until=NOW + 60.0, responses=(passed,))
    state, _ = exchange(None, NOW, report)
    state, _ = exchange(state, NOW, a_report("b", active_until=NOW + 60.0))
    first = ResponseRecord(NOW + 0.02, NOW, 0, throttled=True)
    report = a_report("a", NOW + 0.02, responses=(first,), active_until=NOW + 60.0)
    state, grant = exchange(state, NOW + 0.02, report)
    assert grant.rate == rate
    return state


def test_a_measurement_waits_for_the_report_of_every_active_member() -> None:
    """Successes that another member has not reported yet would be missing in the measured limit."""
    state, until = a_search(), NOW + 60.0
    second = ResponseRecord(NOW + 0.72, NOW + 0.7, 1, throttled=True)
    mine = successes(100, NOW + 0.05, 0.005, epoch=1)
    at = NOW + 0.73
    report = a_report("a", at, responses=(*mine, second), active_until=until)
    state, grant = exchange(state, at, report)
    assert (grant.limit, grant.rate) == (None, 500.0)
    theirs = tuple(successes(100, NOW + 0.05, 0.005, epoch=1))
    _, grant = exchange(
        state, at + 0.01, a_report("b", at + 0.01, responses=theirs, active_until=until)
    )

    assert grant.limit == pytest.approx(200 / 0.7, rel=0.01)


def test_a_gap_ends_a_measurement() -> None:
    """The successes of a time without the store are missing; the limit would be too low."""
    state = a_search()
    report = a_report("a", NOW + 0.5, responses=tuple(successes(20, NOW + 0.1, epoch=1)))
    state, _ = exchange(state, NOW + 0.5, report)
    assert state.rate.meter.since is not None
    state, _ = exchange(state, NOW + 5.0, a_report("a", NOW + 5.0, has_gap=True))

    assert state.rate.meter.since is None


@pytest.mark.parametrize(
    "silent_for", [pytest.param(0.25, id="late"), pytest.param(4.0, id="dead")]
)
def test_a_silent_member_does_not_hold_up_the_others(silent_for: float) -> None:
    """After a fifth of a second the responses of the others count without its report."""
    state = a_search()
    at = NOW + 0.73 + silent_for
    second = ResponseRecord(NOW + 0.72, NOW + 0.7, 1, throttled=True)
    mine = (*successes(100, NOW + 0.05, 0.005, epoch=1), second)
    _, grant = exchange(state, at, a_report("a", at, responses=mine))

    assert grant.limit == pytest.approx(100 / 0.7, rel=0.01)


def test_a_late_report_does_not_turn_time_back() -> None:
    """Successes that arrive after the others were recorded count at the time of the latest."""
    state = a_search()
    later = tuple(successes(20, NOW + 1.5, epoch=1))
    state, _ = exchange(state, NOW + 2.0, a_report("a", NOW + 2.0, responses=later))
    before = state.recorded
    earlier = tuple(successes(20, NOW + 0.5, epoch=1))
    state, grant = exchange(state, NOW + 2.1, a_report("b", NOW + 2.1, responses=earlier))

    assert state.recorded == before
    assert state.pending == []
    assert grant.rate >= 500.0


def test_a_throttled_request_of_before_the_cut_does_not_cut_again() -> None:
    """A member that did not know of the cut yet continued at the old rate."""
    state = a_search()
    at = NOW + 0.35
    old = ResponseRecord(NOW + 0.1, NOW + 0.06, 0, throttled=True)
    state, grant = exchange(state, at, a_report("a", at, responses=(old,)))
    assert (grant.rate, grant.epoch) == (500.0, 1)
    at = NOW + 0.65
    new = ResponseRecord(NOW + 0.4, NOW + 0.12, 1, throttled=True)
    _, grant = exchange(state, at, a_report("a", at, responses=(new,)))

    assert (grant.rate, grant.epoch) == (350.0, 2)


def test_a_pause_revokes_permits_and_a_cut_does_not() -> None:
    """Permits of before a cut pass at once; a gap would make the measured limit too low."""
    state, _ = exchange(None, NOW, a_report(known=400.0))
    throttled = ResponseRecord(NOW + 1.0, NOW + 0.98, 0, throttled=True)
    state, grant = exchange(state, NOW + 1.0, a_report(at=NOW + 1.0, responses=(throttled,)))
    assert grant.rate == pytest.approx(0.85 * 388)
    assert (grant.revoked, grant.epoch) == (0, 1)
    paused = ResponseRecord(NOW + 1.1, NOW + 1.05, 1, throttled=True, retry_after=60.0)
    _, grant = exchange(state, NOW + 1.1, a_report(at=NOW + 1.1, responses=(paused,)))

    assert (grant.revoked, grant.epoch) == (2, 2)


def test_the_first_throttled_responses_do_not_pause_all() -> None:
    """Ten 429s of an overload count in the order of arrival, with the successes in between."""
    state, _ = exchange(None, NOW, a_report("b", active_until=NOW + 9.0))
    mixed = [
        ResponseRecord(NOW + 0.1 + number / 1000, NOW + 0.08, 0, throttled=number % 2 == 1)
        for number in range(40)
    ]
    report = a_report("a", NOW + 0.15, active_until=NOW + 9.0, responses=tuple(mixed))
    state, grant = exchange(state, NOW + 0.15, report)
    assert (grant.rate, grant.epoch, len(state.pending)) == (10.0, 1, 39)
    state, grant = exchange(state, NOW + 0.2, a_report("b", NOW + 0.2, active_until=NOW + 9.0))

    assert len(state.pending) == 0
    assert not grant.probing
    assert grant.paused_until <= NOW


def test_a_pause_holds_for_all_and_one_tests_it() -> None:
    """A long `Retry-After` to one member stops the permits of all, except for one probe."""
    state, _ = exchange(None, NOW, a_report(known=400.0))
    paused = ResponseRecord(NOW, NOW - 0.02, 0, throttled=True, retry_after=30.0)
    state, _ = exchange(state, NOW, a_report(responses=(paused,)))
    state, grant = ask(state, NOW + 0.5, "b")
    assert grant.paused_until == NOW + 30.0
    assert grant.permits == ()
    state, probe = ask(state, NOW + 1.1, "b")
    state, none = ask(state, NOW + 1.2, "a")
    assert (len(probe.permits), none.permits) == (1, ())
    assert none.again == pytest.approx(28.8, abs=0.1)
    again = ResponseRecord(NOW + 1.12, NOW + 1.1, probe.epoch, throttled=True, retry_after=30.0)
    state, _ = exchange(state, NOW + 1.2, a_report("b", NOW + 1.2, responses=(again,)))
    state, grant = ask(state, NOW + 25.0, "b")
    assert grant.permits == ()
    _, grant = ask(state, NOW + 31.3, "b")

    assert grant.permits


@pytest.mark.parametrize(("within", "probed"), [(math.inf, False), (3.0, True)])
def test_a_probe_comes_while_it_is_of_use(
    within: float,
    probed: bool,  # noqa: FBT001  a parameter
) -> None:
    """A run that would end before the next probe has it earlier."""
    state, _ = exchange(None, NOW, a_report(known=400.0))
    now = NOW
    for _ in range(7):  # each wait for a probe is twice as long
        now += 20.0
        rejected = ResponseRecord(now, now, state.epoch, throttled=True, within=within)
        state, _ = exchange(state, now, a_report(at=now, responses=(rejected,) * 10))
    _, grant = ask(state, now + 4.0)

    assert bool(grant.permits) is probed


def test_a_pause_that_is_overstated_ends_for_all() -> None:
    """If the probe of one member succeeds, all members continue."""
    state, _ = exchange(None, NOW, a_report(known=400.0))
    paused = ResponseRecord(NOW, NOW - 0.02, 0, throttled=True, retry_after=30.0)
    state, _ = exchange(state, NOW, a_report(responses=(paused,)))
    state, probe = ask(state, NOW + 1.1, "b")
    passed = ResponseRecord(NOW + 1.12, NOW + 1.1, probe.epoch)
    state, _ = exchange(state, NOW + 1.2, a_report("b", NOW + 1.2, responses=(passed,)))
    _, grant = ask(state, NOW + 1.3, "a")

    assert grant.overstated
    assert len(grant.permits) > 1


def test_a_rejected_account_is_probed_by_one_request_of_all_members() -> None:
    """While everything is throttled, one member at a time receives one permit."""
    state, _ = exchange(None, NOW, a_report(known=400.0))
    throttled = tuple(ResponseRecord(NOW + 0.01, NOW, 0, throttled=True) for _ in range(10))
    state, grant = exchange(state, NOW + 0.01, a_report(at=NOW + 0.01, responses=throttled))
    assert grant.probing
    state, one = ask(state, NOW + 2.0, "a")
    state, other = ask(state, NOW + 2.0, "b")
    assert (len(one.permits), other.permits) == (1, ())
    passed = ResponseRecord(NOW + 2.02, NOW + 2.0, one.epoch)
    _, grant = exchange(state, NOW + 2.02, a_report(at=NOW + 2.02, responses=(passed,)))

    assert not grant.probing


def test_the_state_is_small_and_survives_the_store() -> None:
    """A state of 16 members and a fifth of a second of responses is a few kilobytes."""
    state = a_search()
    for number in range(16):
        report = a_report(f"{number:016x}", NOW + 0.1, active_until=NOW + 9.0)
        state, _ = exchange(state, NOW + 0.1, report)
    waiting = tuple(successes(80, NOW + 0.08, 0.0025))
    state, _ = exchange(state, NOW + 0.1, a_report("a", NOW + 0.1, responses=waiting))
    stored = msgspec.msgpack.encode(state)

    assert len(state.pending) == 80
    assert len(stored) < 5_000
    assert msgspec.msgpack.decode(stored, type=SharedState) == state


def test_permits_of_a_low_rate_are_given_one_by_one_to_each() -> None:
    """A rate of less than one request in `AHEAD` reaches every member in turn."""
    state, _ = exchange(None, NOW, a_report(known=4.0))
    counts = dict.fromkeys("abcd", 0)
    for step in range(800):
        for member in counts:
            state, grant = ask(state, NOW + 0.05 * step, member)
            counts[member] += len(grant.permits)

    assert min(counts.values()) >= 0.9 * max(counts.values())
    assert sum(counts.values()) == pytest.approx(40 * 3.88, rel=0.05)


# -- members in virtual time; `python -m tests.shared.simulation` runs them for longer


def test_four_members_find_the_limit_and_share_it() -> None:
    """Together they are as fast as one process alone, and end at the same time."""
    run = Run(World(server=Bucket(100.0, 10.0), items=500))
    run.until(60.0)
    ends = [each.done[-1] for each in run.processes]

    assert run.done[-1] <= 1.06 * 20.0
    assert run.throttled <= 0.03
    assert max(ends) <= 1.05 * min(ends)
    limits = [limit for _, _, limit in run.states if limit is not None]
    assert limits[-1] == pytest.approx(100.0, rel=0.08)
    for process in run.processes:
        spaces = [
            later - earlier
            for earlier, later in zip(process.exchanges, process.exchanges[19:], strict=False)
        ]
        assert min(spaces) > 19 * 0.05 - 0.02  # 20 exchanges a second


def test_the_share_of_a_dead_member_goes_to_the_others() -> None:
    """Within two seconds the others use the whole limit; nothing of the dead one is to be freed."""
    run = Run(World(server=Bucket(100.0, 10.0), items=10_000))
    run.until(6.0)
    run.processes[0].is_dead = True
    run.until(10.0)

    assert run.rate(8.0, 10.0) >= 95.0


def test_members_without_a_store_use_the_fallback_share_at_most() -> None:
    """While the store is down, all members together stay below their share in any second."""
    run = Run(World(server=Bucket(100.0, 10.0), items=10_000))
    run.until(5.0)
    run.store.is_down = True
    run.until(9.0)
    assert all(each.source.is_alone for each in run.processes)
    assert run.rate(6.0, 9.0) >= 30.0
    assert run.most_sent(5.1, 9.0) <= 50
    run.store.is_down = False
    run.until(13.0)

    assert not any(each.source.is_alone for each in run.processes)
    assert run.rate(11.0, 13.0) >= 95.0


def test_a_store_that_lost_its_values_is_seeded_with_the_limit() -> None:
    """After a restart of the store, no search starts."""
    run = Run(World(server=Bucket(100.0, 10.0), items=10_000))
    run.until(5.0)
    run.store.is_down = True
    run.until(6.0)
    run.store.is_down, run.store.version, run.store.value = False, 0, None
    run.until(9.0)

    assert run.rate(7.0, 9.0) >= 90.0
    assert run.throttled <= 0.05


def test_members_follow_a_limit_that_falls() -> None:
    """A second after the limit fell, no member sends more than it allows."""
    run = Run(World(server=Bucket(lambda now: 100.0 if now < 5.0 else 40.0, 10.0), items=10_000))
    run.until(12.0)
    states = [rate for moment, rate, _ in run.states if moment > 7.0]

    assert run.rate(7.0, 12.0) == pytest.approx(40.0, rel=0.1)
    assert max(states) <= 1.15 * 40.0


def test_single_calls_are_paid_for_by_jobs() -> None:
    """Calls of a web service go at once, and the jobs of others leave room for them."""
    run = Run(World(server=Bucket(100.0, 10.0), items=10_000, members=3, calls=20.0))
    run.until(10.0)
    calls = [moment for moment in run.others[0].done if moment > 4.0]
    jobs = [moment for each in run.processes for moment in each.done if moment > 4.0]

    assert len(calls) >= 0.95 * 6 * 20
    assert len(jobs) + len(calls) >= 0.93 * 6 * 100


def test_a_light_job_is_not_starved_by_heavy_ones() -> None:
    """A job that needs less than its share receives what it needs."""
    run = Run(
        World(server=Bucket(200.0, 20.0), items=10_000, members=3, light=10_000, latency=0.05)
    )
    run.until(10.0)
    light = len([moment for moment in run.others[0].done if moment > 4.0])

    assert light >= 0.6 * 6 * 20  # one request in flight: at most 20 a second
    assert run.rate(4.0, 10.0) >= 0.93 * 200
    assert math.isfinite(run.throttled)
