"""The adaptive rate limiter: against simulated servers with a hidden limit, and by response."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapty_async._flow.adaptive_rate import AdaptiveRateLimiter
from adapty_async.testing import FakeClock
from tests.simulation import SEEDS, Bucket, Outage, Run, Window, World, moving, worlds

pytestmark = pytest.mark.slow

SCALES = {"400/s": 1.0, "25/s": 1.0, "300 ms": 0.75, "window": 0.75, "window, no Retry-After": 0.75}
THREE_SEEDS = {"400/s", "no Retry-After", "25/s", "300 ms", "window", "moving"}
NAMES = [name for name, _, _ in worlds(1) if name != "5,000/s"]
CASES = [(name, seed) for name in NAMES for seed in SEEDS if seed == 1 or name in THREE_SEEDS]


@pytest.fixture(autouse=True)
def no_patience() -> None:
    """Leave the real numbers as they are."""


def delay_of(limiter: AdaptiveRateLimiter) -> float:
    """Return the seconds until the next request may be sent, without counting one."""
    return copy.deepcopy(limiter).acquire()


@pytest.mark.parametrize(("name", "seed"), CASES, ids=str)
def test_a_run_without_a_rate_ends_close_to_the_ideal(name: str, seed: int) -> None:
    """With any kind of server limit, a run is close to the ideal time, with few 429s."""
    chosen = worlds(seed, SCALES.get(name, 0.5))
    world, best = next((world, best) for one, world, best in chosen if one == name)
    longest, share = (1.03, 0.01) if name == "400/s" else (1.10, 0.02)
    run = Run(world)

    assert run.elapsed <= longest * best
    assert run.share <= share
    assert run.worst <= 3


def test_a_run_against_a_high_limit_ends_close_to_the_ideal() -> None:
    """5,000 requests per second are found and held as 400 are, with enough connections."""
    server = Bucket(5000.0, 500.0)
    run = Run(World(server=server, items=50_000, retry_after=0.1, slots=128))

    assert run.elapsed <= 1.10 * 10.0
    assert run.share <= 0.02


@pytest.mark.parametrize("retry_after", [1.0, None], ids=["Retry-After", "none"])
def test_a_limit_that_is_touched_at_a_high_price_is_touched_rarely(
    retry_after: float | None,
) -> None:
    """A fixed window rejects everything until its end; these 429s stay near one response in 100."""
    world = World(server=Window(400), items=24_000, seed=4, retry_after=retry_after)
    run = Run(world)

    assert run.share <= 0.012
    assert run.elapsed <= 1.06 * 60.0


@pytest.mark.parametrize(
    ("slow_429", "rate", "share"),
    [(0.05, 100.0, 0.015), (0.2, 100.0, 0.05), (1.0, 100.0, 0.2), (0.2, 500.0, 0.06)],
    ids=str,
)
def test_429s_that_come_late_do_not_lower_the_rate(
    slow_429: float, rate: float, share: float
) -> None:
    """A server may delay its 429 responses; the run still uses at least 95 % of the limit."""
    items = round(60 * rate)
    server = Bucket(rate, rate / 10)
    run = Run(
        World(
            server=server, items=items, latency=0.05, retry_after=None, slots=256, slow_429=slow_429
        )
    )

    assert run.elapsed <= 60.0 / 0.95
    assert run.share <= share


@pytest.mark.parametrize("retry_after", [5.0, 30.0, 60.0])
@pytest.mark.parametrize("rate", [25.0, 100.0, 500.0])
def test_a_retry_after_that_is_too_long_costs_little(retry_after: float, rate: float) -> None:
    """With the same long Retry-After in each 429 of a bucket, 90 % of the limit are used."""
    world = World(server=Bucket(rate, rate / 10), items=round(120 * rate), latency=0.05)
    run = Run(msgspec.structs.replace(world, retry_after=retry_after, slots=256))

    assert run.elapsed <= 120.0 / 0.9
    assert run.share <= 0.01
    assert run.worst <= 3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_short_run_profits_from_a_steep_start(seed: int) -> None:
    """The limit is found within half a second, and a run of seconds loses little."""
    run = Run(World(server=Bucket(400.0, 40.0), items=3000, seed=seed, retry_after=0.1))

    assert next(now for now, rate in run.rates if rate > 400.0) < 0.5
    assert run.elapsed <= 1.05 * 2960 / 400.0


def test_a_slow_client_is_not_held_back() -> None:
    """Without a limit the client's own speed decides, and the rate stays close to it."""
    run = Run(World(server=Bucket(1e9, 1e9), items=15_000, capacity=1500.0))

    assert run.elapsed < 10.0 + 1.0
    assert 1500.0 < run.learned.rate < 4500.0


def test_it_follows_a_limit_that_moves() -> None:
    """A lower limit is respected within a second, a higher one is used within seconds."""
    run = Run(World(server=Bucket(moving, 40.0), items=24_000))

    def rate_at(at: float) -> float:
        """Return the rate at the first response after that time."""
        return next(rate for now, rate in run.rates if now >= at)

    assert rate_at(21.0) == pytest.approx(150.0, rel=0.1)
    assert max(rate for now, rate in run.rates if 40.0 < now < 47.0) > 800.0


def test_an_outage_is_probed_and_ends_at_once() -> None:
    """While everything is throttled, hardly anything is sent; then the rate is as before."""
    run = Run(World(server=Outage(Bucket(400.0, 40.0), 10.0, 20.0), items=8000, retry_after=None))
    before = next(rate for now, rate in reversed(run.rates) if now < 10.0)
    after = next(rate for now, rate in run.rates if now > 26.5)

    assert sum(10.5 < now < 20.0 for now, _ in run.rates) < 10
    assert after == pytest.approx(before, rel=0.2)
    assert run.worst <= 3


class Client:
    """An adaptive rate limiter with its clock, which sends one request at a time."""

    def __init__(self, rate: float | None = None) -> None:
        self.clock = FakeClock(1000.0)
        self.limiter = AdaptiveRateLimiter(self.clock, rate=rate)

    def send(self) -> float:
        """Wait for the next permit, and return its time."""
        while wait := self.limiter.acquire():
            self.clock.now += wait
        return self.clock.now

    def succeed(self, count: int = 1, latency: float = 0.02) -> None:
        """Send a number of requests that succeed after that time."""
        sent = [self.send() for _ in range(count)]
        self.clock.now += latency
        for at in sent:
            self.limiter.succeeded(at)

    def succeed_slowly(self, count: int, pause: float) -> None:
        """Send a number of requests one after another, each after a pause, that succeed."""
        for _ in range(count):
            self.clock.now += pause
            self.succeed()

    def respond(self) -> None:
        """Send a request that succeeds at once."""
        self.limiter.succeeded(self.send())

    def fail(self, count: int = 1, retry_after: float | None = None) -> list[float]:
        """Send a number of requests together, throttle all, and return the rates after each."""
        sent = [self.send() for _ in range(count)]
        self.clock.now += 0.02
        rates = []
        for at in sent:
            self.limiter.throttled(at, retry_after)
            rates.append(self.limiter.rate)
        return rates


def test_it_begins_slowly_and_grows_with_each_success() -> None:
    """The first rate suits the smallest account; no limit is known."""
    client = Client()

    assert client.limiter.rate == 20.0
    assert client.limiter.limit is None
    assert repr(client.limiter) == "AdaptiveRateLimiter(rate=20.0, limit=None)"
    client.succeed()
    assert client.limiter.rate > 30.0


def test_it_begins_just_below_a_limit_known_before() -> None:
    """A limiter starts with the limit of an earlier run."""
    client = Client(400.0)

    assert client.limiter.rate == pytest.approx(388.0)
    assert client.limiter.limit == 400.0


def test_the_search_begins_at_a_rate_that_others_gave() -> None:
    """Requests throttled at that rate start the search there; a search in progress continues."""
    client = Client()

    client.limiter.search_from(120.0)
    assert client.fail() == [60.0]
    client.limiter.search_from(500.0)
    assert client.limiter.rate == 60.0


def test_requests_at_a_given_rate_are_no_debt_of_the_search() -> None:
    """Nothing else would be sent for a second, and few successes would look like a low limit."""
    client = Client()
    for _ in range(100):
        client.limiter.count()
    assert delay_of(client.limiter) > 0.9

    client.limiter.search_from(500.0)
    assert delay_of(client.limiter) == 0.0


@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf, math.nan])
def test_a_senseless_rate_is_rejected(rate: float) -> None:
    """A rate from a file may be damaged."""
    with pytest.raises(ValueError, match="must be above 0"):
        AdaptiveRateLimiter(FakeClock(), rate=rate)


@pytest.mark.parametrize(
    ("min_rate", "max_rate"), [(0.0, 1.0), (2.0, 1.0), (1.0, math.inf), (math.nan, 1.0)]
)
def test_senseless_bounds_are_rejected(min_rate: float, max_rate: float) -> None:
    """The bounds are finite, above 0, and in order."""
    with pytest.raises(ValueError, match="must be above 0, in this order"):
        AdaptiveRateLimiter(FakeClock(), min_rate=min_rate, max_rate=max_rate)


def test_the_rate_stays_within_its_bounds() -> None:
    """Neither successes nor 429 responses move the rate beyond its bounds."""
    clock = FakeClock()
    limiter = AdaptiveRateLimiter(clock, min_rate=10.0, max_rate=30.0)
    client = Client()
    client.clock, client.limiter = clock, limiter

    client.succeed(5)
    assert limiter.rate == 30.0
    for _ in range(5):
        client.fail()
    assert limiter.rate == 10.0


def test_refusals_of_requests_in_flight_are_one_event() -> None:
    """The rate is cut once for all requests that were sent before the cut."""
    client = Client()
    client.succeed(20)
    before = client.limiter.rate

    assert client.fail(5) == [pytest.approx(before / 2)] * 5
    assert client.fail() == [pytest.approx(before / 2 * 0.7)]


def test_the_limit_is_measured_between_two_refusals() -> None:
    """The successes divided by the time between two 429 responses are the limit."""
    client = Client()
    client.succeed(20)
    client.fail()
    client.succeed_slowly(100, 0.03)
    client.fail()

    assert client.limiter.limit == pytest.approx(20.0, rel=0.02)
    assert client.limiter.rate == pytest.approx(0.97 * (client.limiter.limit or 0.0))


def test_a_measurement_shorter_than_a_round_trip_is_none() -> None:
    """Responses that are faster than all before do not show the limit yet."""
    client = Client(400.0)
    client.succeed(10, latency=5.0)
    client.fail()
    limit, rate = client.limiter.limit, client.limiter.rate
    client.succeed(10)
    client.fail()

    assert client.limiter.limit == limit
    assert client.limiter.rate == pytest.approx(rate, rel=0.02)


def test_a_limit_that_is_known_is_first_cut_as_cubic_does() -> None:
    """Without a measurement, a 429 cuts the rate by 15 %, and one soon after it does not."""
    client = Client(400.0)
    client.succeed()
    client.fail()

    assert client.limiter.limit == pytest.approx(388.0, rel=0.01)
    assert client.limiter.rate == pytest.approx(0.85 * 388.0, rel=0.01)
    assert client.fail() == [pytest.approx(0.85 * 388.0, rel=0.01)]


@pytest.mark.parametrize("retry_after", [None, 0.0, 1.0, 5.0])
def test_a_single_refusal_stops_nobody_else(retry_after: float | None) -> None:
    """A short Retry-After only cuts the rate: the item waits, the others continue."""
    client = Client(400.0)
    client.succeed()
    client.fail(1, retry_after)

    assert client.limiter.paused_until <= client.clock.now
    assert delay_of(client.limiter) < 0.01


@pytest.mark.parametrize(
    ("retry_after", "count", "paused"),
    [(5.0, 5, False), (5.0, 6, True), (10.0, 2, False), (10.0, 3, True), (30.0, 1, True)],
    ids=str,
)
def test_a_longer_retry_after_pauses_all_requests_sooner(
    retry_after: float,
    count: int,
    paused: bool,  # noqa: FBT001
) -> None:
    """Thirty seconds in total pause all requests but one probe, for as long as the server asks."""
    client = Client(400.0)
    client.succeed()
    client.fail(count, retry_after)

    begun = client.clock.now
    assert (client.limiter.paused_until == begun + retry_after) is paused
    assert client.limiter.probing is False
    assert (client.send() == begun + 1.0) is paused
    client.limiter.throttled(client.clock.now, retry_after)
    assert (client.send() >= begun + 1.0 + retry_after) is paused


def test_a_probe_that_succeeds_ends_a_long_pause() -> None:
    """It is sent after a second, alone, and requests continue at the rate after its success."""
    client = Client(400.0)
    client.succeed()
    client.fail(1, 60.0)
    begun, rate = client.clock.now, client.limiter.rate
    sent = client.send()
    assert sent == pytest.approx(begun + 1.0)
    assert client.limiter.acquire() > 50.0
    client.clock.now += 0.02
    client.limiter.succeeded(sent)

    assert client.limiter.paused_until == client.clock.now
    assert client.limiter.overstated
    assert client.limiter.acquire() <= 1 / rate
    assert rate <= client.limiter.rate <= 388.0


def test_a_slow_server_is_probed_after_four_round_trips() -> None:
    """The probe is not sent before the responses to the requests in flight may be there."""
    client = Client(400.0)
    client.succeed(latency=2.0)
    client.fail(1, 60.0)

    assert client.send() == pytest.approx(client.clock.now)
    assert client.clock.now == pytest.approx(1002.0 + 0.02 + 8.0, abs=0.1)


def test_a_long_retry_after_pauses_nothing_once_it_was_overstated() -> None:
    """Later ones count like short ones, until even a probe is throttled."""
    client = Client(400.0)
    client.succeed()
    client.fail(1, 60.0)
    client.succeed()
    overstated = [client.limiter.overstated]
    client.fail(9, 60.0)
    assert client.limiter.paused_until <= client.clock.now
    client.fail(1, 60.0)
    assert client.limiter.probing
    assert client.limiter.paused_until == pytest.approx(client.clock.now + 0.1)
    client.fail(1, 60.0)
    until = client.limiter.paused_until
    overstated.append(client.limiter.overstated)

    assert overstated == [True, False]
    assert until == client.clock.now + 60.0
    assert client.send() == pytest.approx(until)


@pytest.mark.parametrize(
    ("later", "paused"), [(0.001, True), (0.1, False)], ids=["overtaking", "later"]
)
def test_a_429_is_no_reason_for_a_pause_if_a_later_request_succeeded(
    later: float,
    paused: bool,  # noqa: FBT001
) -> None:
    """The server accepts requests again; one sent just after it may have overtaken it."""
    for success_first in (True, False):
        client = Client(400.0)
        client.succeed(latency=0.02)
        sent = client.send()
        client.clock.now = sent + 1.0
        if success_first:
            client.limiter.succeeded(sent + later)
        client.limiter.throttled(sent, 60.0)
        if not success_first:
            client.limiter.succeeded(sent + later)

        assert (client.limiter.paused_until > client.clock.now) is paused
        assert client.limiter.overstated is not paused


def test_429s_that_arrive_late_are_one_event() -> None:
    """If requests sent after them succeeded, not even a hundred of them start the probing."""
    client = Client(400.0)
    client.succeed(10)
    rejected = [client.send() for _ in range(100)]
    client.succeed(10)
    for sent in rejected:
        client.limiter.throttled(sent)
        client.clock.now += 0.001

    assert not client.limiter.probing
    assert client.limiter.rate >= 0.84 * 388.0


def test_a_measurement_starts_with_the_responses_that_are_still_expected() -> None:
    """Successes received before a late 429 cannot be counted, so their time does not count."""
    client = Client(100.0)
    client.succeed(10, latency=0.05)
    sent = client.send()
    for _ in range(2):  # the second 429 is the end of the measurement
        client.succeed(98, latency=0.05)
        client.limiter.throttled(sent)
        sent = client.send()

    assert client.limiter.limit == pytest.approx(97.0, rel=0.05)


@pytest.mark.parametrize("limit", [None, 400.0], ids=["unknown", "known"])
def test_it_starts_again_with_the_limit_of_before(limit: float | None) -> None:
    """What it recorded meanwhile, a pause included, was not due to the limit of the bucket."""
    client = Client(limit)
    client.fail(12, 60.0)
    client.limiter.restart(limit)

    assert client.limiter.rate == (20.0 if limit is None else 388.0)
    assert client.limiter.limit == limit
    assert not client.limiter.probing
    assert client.limiter.acquire() == 0.0


def test_no_pause_is_longer_than_an_hour() -> None:
    """A longer Retry-After is a mistake of the server's, or ours."""
    client = Client()
    client.fail(1, 1e9)

    assert client.limiter.paused_until == client.clock.now + 3600.0


def test_a_single_refusal_hardly_lowers_a_limit_that_is_known() -> None:
    """A measurement over a period with fewer requests lowers the limit by at most 7 %."""
    client = Client(100.0)
    client.fail()
    limit = client.limiter.limit or 0.0
    client.succeed_slowly(100, 0.03)
    client.fail()

    assert client.limiter.limit == pytest.approx(0.93 * limit)


def test_after_a_pause_requests_are_spread() -> None:
    """After any pause, permits come at the rate again, not all at once."""
    client = Client(100.0)
    client.succeed()
    client.fail(1, 60.0)
    client.fail(1, 60.0)  # the probe
    sent = [client.send() for _ in range(50)]

    assert sent[0] == client.limiter.paused_until
    gaps = [late - early for early, late in itertools.pairwise(sent)]
    assert gaps == pytest.approx([1.0 / client.limiter.rate] * 49)


def test_after_ten_refusals_in_a_row_one_request_probes() -> None:
    """After a pause only a probe is sent until its response; a success closes the circuit."""
    client = Client(400.0)
    client.succeed()
    client.fail(10, 1.0)
    rate = client.limiter.rate

    pause = client.limiter.paused_until
    probing = [client.limiter.probing]
    assert pause == pytest.approx(client.clock.now + 0.1)
    sent = client.send()
    assert sent == pause
    assert 0.0 < client.limiter.acquire() <= 0.1
    client.clock.now += 0.02
    client.limiter.succeeded(sent)
    probing.append(client.limiter.probing)
    assert probing == [True, False]
    assert client.limiter.acquire() == 0.0
    assert client.limiter.rate == pytest.approx(rate, rel=0.05)


def test_a_success_of_a_request_sent_before_does_not_end_the_probing() -> None:
    """Successes from before the rejections are no sign of the present state."""
    client = Client(400.0)
    sent = client.send()
    client.fail(10)
    client.limiter.succeeded(sent)

    assert client.limiter.probing


def test_a_probe_without_a_response_is_followed_by_another() -> None:
    """A request that was cancelled or lost does not stop the run permanently."""
    client = Client(400.0)
    client.succeed()
    client.fail(10)
    lost = client.send()

    assert client.send() == pytest.approx(lost + 1.0)


def test_probes_that_are_throttled_come_ever_later() -> None:
    """The pause doubles to 10 s, or to the requested time; the rate stays."""
    client = Client(400.0)
    client.succeed()
    rate = client.fail(10)[-1]
    pauses = []
    for _ in range(9):
        begun = client.clock.now
        pauses.append(client.send() - begun)
        client.clock.now += 0.02
        client.limiter.throttled(client.clock.now - 0.02)
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])
    assert client.limiter.rate == rate
    client.fail(1, 1.0)
    assert client.limiter.paused_until == pytest.approx(client.clock.now + 1.0)


@pytest.mark.parametrize("seconds", [5.0, 60.0, 300.0])
def test_a_ban_that_each_request_renews_is_over_at_last(seconds: float) -> None:
    """Probes back off until nothing is sent for the duration of the ban."""
    client = Client(400.0)
    client.succeed()
    client.fail(10)
    begun = client.clock.now
    banned_until = begun + seconds
    while (sent := client.send()) < banned_until:
        banned_until = sent + seconds
        client.clock.now += 0.02
        client.limiter.throttled(sent)

    assert sent - begun < max(70.0, 4 * seconds)


def test_a_probe_is_due_while_it_is_of_use_also_at_the_beginning_of_a_ban() -> None:
    """The doubled wait after a throttled probe does not exceed the waiters' remaining time."""
    client = Client(400.0)
    client.succeed()
    client.fail(10)
    begun = client.clock.now
    while client.clock.now < begun + 18.0:
        sent = client.send()
        client.limiter.throttled(sent, within=begun + 20.0 - sent)

    assert client.limiter.paused_until <= begun + 20.1


def test_a_probe_is_due_while_it_is_of_use() -> None:
    """Probes back off no further than the remaining time of the waiters."""
    client = Client(400.0)
    client.succeed()
    client.fail(10)
    begun = client.clock.now
    while client.clock.now < begun + 80.0:
        sent = client.send()
        client.limiter.throttled(sent)
    client.limiter.throttled(client.send(), within=20.0)

    assert client.limiter.paused_until - client.clock.now == pytest.approx(20.0)


def test_refusals_of_requests_in_flight_do_not_prolong_a_short_pause() -> None:
    """Only the response to a probe shows that the server still rejects everything."""
    client = Client(400.0)
    client.succeed()
    sent = [client.send() for _ in range(12)]
    for at in sent:
        client.clock.now += 0.001
        client.limiter.throttled(at)

    assert client.limiter.paused_until == pytest.approx(client.clock.now - 0.002 + 0.1)


def test_throttled_items_in_flight_may_still_cause_a_long_pause() -> None:
    """A long Retry-After holds for all requests."""
    client = Client(400.0)
    client.succeed()
    sent = [client.send() for _ in range(11)]
    for at in sent[:10]:
        client.limiter.throttled(at)
    client.limiter.throttled(sent[10], 60.0)

    assert client.limiter.paused_until == client.clock.now + 60.0


def test_those_that_do_not_ask_cannot_hold_back_for_good() -> None:
    """More counted requests than the rate allows raise it, if the server accepts them."""
    clock = FakeClock()
    limiter = AdaptiveRateLimiter(clock)
    went = []
    for _ in range(10 * 150):
        limiter.count()
        clock.now += 1 / 150
        limiter.succeeded(clock(), paced=False)
        if limiter.acquire() == 0.0:
            went.append(clock())

    assert len(went) > 100
    assert went[0] < 2.0


@pytest.mark.parametrize("rate", [100.0, 400.0, 5000.0, 50_000.0])
def test_who_waits_waits_for_more_than_one_turn_and_none_is_lost(rate: float) -> None:
    """At any rate, no task wakes up more often than each 2 ms, and the rate holds."""
    client = Client(rate / 0.97)
    waits = []
    for _ in range(round(rate)):
        while wait := client.limiter.acquire():
            waits.append(wait)
            client.clock.now += wait

    assert min(waits) >= 0.002
    assert client.clock.now - 1000.0 == pytest.approx(1.0, abs=0.012)


def test_what_did_not_ask_holds_back_for_a_second_at_most() -> None:
    """After any number of counted requests, the next permit comes soon."""
    clock = FakeClock()
    limiter = AdaptiveRateLimiter(clock)
    for _ in range(1000):
        limiter.count()

    assert delay_of(limiter) == pytest.approx(1.0, abs=0.1)


def test_who_sends_less_than_the_rate_does_not_raise_it() -> None:
    """Successes at a low rate do not prove a higher one."""
    client = Client()
    client.succeed_slowly(50, 1.0)
    rate = client.limiter.rate
    client.succeed_slowly(50, 1.0)

    assert client.limiter.rate == rate < 400.0


def test_the_first_requests_go_one_interval_apart() -> None:
    """The first is sent at once, and no permits accumulate for the others."""
    client = Client()

    assert [client.send() - 1000.0 for _ in range(4)] == pytest.approx([0.0, 0.05, 0.1, 0.15])


def test_who_did_not_ask_takes_a_turn() -> None:
    """The next permit comes one interval later for it."""
    client = Client()
    client.send()
    client.limiter.count()

    assert delay_of(client.limiter) == pytest.approx(0.1)


def test_a_success_of_who_did_not_ask_raises_nothing_while_nobody_waits() -> None:
    """Before the rate has held a request back, it does not change."""
    client = Client()
    client.limiter.succeeded(client.clock.now, paced=False)

    assert client.limiter.rate == 20.0


def test_a_rate_that_holds_nobody_back_rises_for_some_ten_requests() -> None:
    """The rate needs this time to show that requests are slower than permitted."""
    client = Client()
    client.succeed()
    rates = []
    for _ in range(20):
        client.clock.now += 1.0
        client.succeed()
        rates.append(client.limiter.rate)

    assert sum(early < late for early, late in itertools.pairwise(rates)) == 9


def curve(limit: float, begun_at: float, climbed: float) -> float:
    """Return the rate after a part of a climb, from a share of a limit on."""
    plateau: float = math.cbrt((1.0 - begun_at) / 0.01)
    return limit * (1.0 + 0.01 * (climbed - plateau) ** 3)


def test_a_known_limit_is_approached_along_the_curve() -> None:
    """The climb is slow near the limit and fast beyond, with a second as its unit."""
    client = Client(400.0)
    rates = {}
    while client.clock.now < 1004.0:
        client.respond()
        rates[client.clock.now - 1000.0] = client.limiter.rate

    assert rates == pytest.approx({when: curve(400.0, 0.97, when) for when in rates})
    assert max(rates.values()) > 460.0
    assert client.limiter.limit == 400.0


def test_a_low_limit_is_approached_in_units_of_25_requests() -> None:
    """A climb of a second at 400 per second would be none at 20."""
    client = Client(20.0)
    client.respond()
    client.clock.now += 0.1
    client.limiter.succeeded(client.clock.now)

    assert client.limiter.rate == pytest.approx(curve(20.0, 0.97, 0.1 * 19.4 / 25))


def test_far_beyond_its_limit_another_one_is_searched_for() -> None:
    """At a quarter above the measured limit, the server must have raised it."""
    client = Client(400.0)
    while client.limiter.limit is not None:
        client.respond()
    rate = client.limiter.rate
    client.respond()

    assert rate == pytest.approx(500.0, rel=0.01)
    assert client.limiter.rate == pytest.approx(rate + math.log(2.0) / 0.01)


def test_a_long_silence_is_half_a_unit_of_a_climb() -> None:
    """One response after a long time changes the rate little."""
    client = Client(400.0)
    client.send()
    client.clock.now += 10.0
    client.limiter.succeeded(client.clock.now)

    assert client.limiter.rate == pytest.approx(curve(400.0, 0.97, 0.5))


@pytest.mark.parametrize(
    ("limit", "refused", "retry_after", "latency", "pace"),
    [
        pytest.param(400.0, 1, None, 0.02, 1.0, id="a-second"),
        pytest.param(50.0, 1, None, 0.02, 60 / 41.225, id="a-429"),
        pytest.param(400.0, 8, None, 0.02, 8 * 60 / 329.8, id="eight-429s"),
        pytest.param(50.0, 8, None, 0.02, 2.5, id="no-more-than-that"),
        pytest.param(400.0, 1, 30.0, 0.02, 90.0, id="a-pause"),
        pytest.param(400.0, 1, None, 1.0, 5.0, id="slow-answers"),
    ],
)
def test_a_climb_takes_the_longer_the_more_the_last_429_cost(
    limit: float, refused: int, retry_after: float | None, latency: float, pace: float
) -> None:
    """A limit that is costly to touch, or whose 429 arrives late, is touched rarely."""
    client = Client(limit)
    client.limiter.succeeded(client.clock.now - latency)
    client.fail(refused, retry_after)
    responded = 1000.0
    known = client.limiter.limit or 0.0
    client.clock.now = max(client.clock.now, client.limiter.paused_until) + 0.1
    client.limiter.succeeded(client.clock.now - latency)

    climbed = min(client.clock.now - responded, pace / 2) / pace
    assert known == pytest.approx(0.97 * limit)
    assert client.limiter.rate == pytest.approx(curve(known, 0.85, climbed), rel=1e-6)


def test_nine_refusals_in_a_row_stop_nobody() -> None:
    """That holds even if no request has had a response before."""
    client = Client()
    client.fail(9)
    assert not client.limiter.probing
    client.fail()
    assert client.limiter.probing


def test_the_search_resumes_a_second_after_a_429() -> None:
    """Until then successes do not raise the rate; then it doubles in half a second."""
    client = Client()
    client.limiter.search_from(400.0)
    assert client.fail() == [200.0]
    client.clock.now += 0.9
    client.limiter.succeeded(client.clock.now)
    client.limiter.succeeded(client.clock.now)
    assert client.limiter.rate == 200.0
    client.clock.now += 0.2
    client.limiter.succeeded(client.clock.now)
    client.limiter.succeeded(client.clock.now)

    assert client.limiter.rate == pytest.approx(200.0 + math.log(2.0) / 0.5)


def test_ten_successes_make_a_measurement() -> None:
    """Their number divided by the time between two 429s, less a round trip, is the limit."""
    client = Client()
    client.succeed(20)
    first = client.send()
    client.limiter.throttled(first)
    for number in range(1, 11):
        at = first + 0.1 * number
        client.limiter.succeeded(at)
        client.clock.now = at + 0.02
    client.clock.now = first + 1.2
    client.limiter.throttled(first + 1.18)

    trip = client.limiter.round_trip
    assert client.limiter.limit == pytest.approx(10 / (1.2 - trip))


def test_a_measurement_while_less_was_sent_is_believed_in_part() -> None:
    """Unused permits are no sign of the limit: the rate stays at 70 %."""
    client = Client()
    client.succeed(20)
    client.fail()
    client.succeed_slowly(20, 0.1)
    rate = client.limiter.rate
    client.fail()

    assert client.limiter.limit == pytest.approx(0.7 * rate)


def test_a_brief_measurement_is_believed_in_part() -> None:
    """The end of a fixed window is no limit: the known one decreases by at most 7 %."""
    client = Client(400.0)
    client.fail()
    for _ in range(12):
        client.clock.now += 0.01
        client.succeed(latency=0.01)
    client.fail()

    assert client.limiter.limit == pytest.approx(0.93 * 400.0)


@pytest.mark.parametrize(("latency", "again"), [(0.4, 0.1), (0.02, 0.005), (0.001, 0.005)], ids=str)
def test_while_a_probe_is_in_flight_others_check_again_soon(latency: float, again: float) -> None:
    """They check after a quarter of the usual response time, and no more often than useful."""
    client = Client(400.0)
    client.succeed(latency=latency)
    client.fail(10)
    sent = client.send()
    assert client.limiter.acquire() == pytest.approx(again)
    client.clock.now += 0.2
    client.limiter.succeeded(sent)

    assert delay_of(client.limiter) == 0.0


def test_a_slow_server_gets_four_round_trips_for_a_probe() -> None:
    """It is a moving average in which the last response has a weight of an eighth."""
    client = Client(400.0)
    client.succeed(latency=0.5)
    client.succeed(latency=1.3)
    client.fail(10)
    lost = client.send()

    assert client.send() == pytest.approx(lost + 4 * 0.6)


ASKED = st.none() | st.floats(0.0, 100.0) | st.sampled_from([math.inf, math.nan, -1.0])
STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 30)),
    st.tuples(st.just("succeed"), st.integers(1, 30)),
    st.tuples(st.just("fail"), st.integers(1, 30), ASKED),
    st.tuples(st.just("rest"), st.floats(0.0, 5.0)),
)


class Checked:
    """An adaptive rate limiter with a check of every permit and every response."""

    def __init__(self, rate: float | None, late: float) -> None:
        self.clock = FakeClock()
        self.limiter = AdaptiveRateLimiter(self.clock, rate=rate)
        self._late = late
        self._in_flight: list[float] = []
        self._last = -math.inf
        self._ahead = 0.0
        self._was_probed = False

    def rest(self, seconds: float) -> None:
        """Advance the clock."""
        self.clock.now += seconds

    def send(self, count: int) -> None:
        """Wait for a number of permits, and check each."""
        for _ in range(count):
            while wait := self.limiter.acquire():
                assert 0.0 < wait <= 3600.0 + 10.0
                self.clock.now += wait + self._late
            # one probe at most is sent in a pause
            in_pause = self.clock.now < self.limiter.paused_until - 1e-5
            assert not (in_pause and self._was_probed)
            self._was_probed = in_pause
            # Permits last 1 / rate each; from any one to any later one they fit into the time
            # between, but for the 20 ms by which one may be early.
            passed = self.clock.now - self._last
            self._ahead = max(0.0, self._ahead) + 1.0 / self.limiter.rate - passed
            assert self._ahead <= 0.02 + 1e-5
            self._last = self.clock.now
            self._in_flight.append(self.clock.now)

    def responded(self, count: int) -> Iterator[float]:
        """Yield the send times of the oldest in flight, and check the effect of each response."""
        for _ in range(min(count, len(self._in_flight))):
            yield self._in_flight.pop(0)
            assert 0.1 <= self.limiter.rate <= 100_000.0
            assert self.limiter.limit is None or 0.0 < self.limiter.limit < math.inf
            assert math.isfinite(self.limiter.paused_until)


# Responses that took hours, as after a process that stood still: the probe after them is lost.
STOOD_STILL: list[tuple[str, int, *tuple[float | None, ...]]] = [
    ("send", 25),
    ("succeed", 1),
    ("fail", 10, None),
    ("send", 24),
    ("succeed", 12),
    ("send", 2),
]


@example(steps=STOOD_STILL, rate=0.125, late=0.0)
@given(
    steps=st.lists(STEPS, max_size=80),
    rate=st.none() | st.floats(0.01, 1e6),
    late=st.floats(0.0, 0.05),
)
def test_no_responses_bring_it_out_of_its_bounds(
    steps: list[tuple[str, int, *tuple[float | None, ...]]], rate: float | None, late: float
) -> None:
    """Waits are finite, rates within bounds, pauses kept, and no period exceeds any rate."""
    checked = Checked(rate, late)
    for what, amount, *asked in steps:
        if what == "rest":
            checked.rest(amount)
        elif what == "send":
            checked.send(amount)
        elif what == "succeed":
            for sent in checked.responded(amount):
                checked.limiter.succeeded(sent)
        else:
            for sent in checked.responded(amount):
                checked.limiter.throttled(sent, *asked)
