"""The rules by which the benchmark's server accepts requests, and its record of them."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from adapty_async.testing import FakeClock
from benchmarks._limit_models import (
    Bucket,
    Limit,
    LimitSettings,
    Outage,
    Rates,
    Window,
    back_at,
    most_within,
)
from benchmarks._limited_server import PATH, Record, ServerSettings, Tally, start
from benchmarks._scenarios import SCENARIOS

STEADY = Rates(((0.0, 10.0),))
MOVING = Rates(((0.0, 10.0), (2.0, 1.0), (4.0, 20.0)))


def admitted(limit: Limit, *moments: float) -> list[bool]:
    """Send one request at each point in time."""
    return [limit.admit(moment) for moment in moments]


def test_a_bucket_lets_its_burst_pass_and_then_its_rate() -> None:
    """After the burst one request passes per interval, and a rejection costs nothing."""
    bucket = Bucket(STEADY, 2)

    assert admitted(bucket, 0.0, 0.0, 0.0, 0.05, 0.1, 0.1, 0.2) == [
        *[True, True, False, False],
        *[True, False, True],
    ]


def test_a_bucket_saves_no_more_than_its_burst() -> None:
    """After a long pause only the burst passes at once."""
    bucket = Bucket(STEADY, 2)
    admitted(bucket, 0.0, 0.0)

    assert admitted(bucket, 100.0, 100.0, 100.0) == [True, True, False]


@pytest.mark.parametrize(
    ("start", "end", "passed"),
    [(0.0, 2.0, 20), (2.0, 4.0, 2), (4.0, 6.0, 40), (0.0, 6.0, 62)],
    ids=["first", "slower", "faster", "all"],
)
def test_a_bucket_follows_its_rates(start: float, end: float, passed: int) -> None:
    """The bucket accepts in each period as many requests as its rates allow."""
    bucket = Bucket(MOVING, 1)
    moments = [number / 100 for number in range(1, 601)]

    accepted = [moment for moment in moments if bucket.admit(moment)]
    assert sum(start < moment <= end for moment in accepted) == pytest.approx(passed, abs=1)


@pytest.mark.parametrize(
    ("count", "seconds"),
    [(0, 0.0), (10, 1.0), (20, 2.0), (21, 3.0), (22, 4.0), (62, 6.0)],
)
def test_the_ideal_is_when_the_rates_have_allowed_so_many(count: int, seconds: float) -> None:
    """The time is exact across changes of the rate."""
    assert MOVING.seconds_for(count) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("count", "seconds"), [(10, 1.0), (20, 2.0), (30, 8.0)], ids=["before", "at", "after"]
)
def test_an_outage_is_part_of_the_ideal_if_it_comes_before_the_end(
    count: int, seconds: float
) -> None:
    """Requests that pass before the outage do not wait for it."""
    limit = LimitSettings(rates=STEADY, burst=1, outage=Outage(2.0, 7.0))

    assert limit.ideal(count) == pytest.approx(seconds)


def test_a_shortened_scenario_keeps_its_shape() -> None:
    """All points in time move together; the rates and the share of the ideal stay."""
    short = SCENARIOS["moving"].shortened(1.0)

    assert short.ideal == pytest.approx(1.0, rel=0.01)
    assert [rate for _, rate in short.limit.rates.steps] == [400.0, 150.0, 800.0]
    outage = SCENARIOS["outage"].shortened(0.9).limit.outage
    assert outage is not None
    assert (outage.start, outage.end) == pytest.approx((0.3, 0.6))


def test_a_window_begins_again_each_second() -> None:
    """The count restarts with each second of the server's clock, not of the client's."""
    window = Window(2, phase=0.75)

    assert admitted(window, 0.0, 0.1, 0.2, 0.25, 1.2, 1.24, 1.25) == [
        *[True, True, False],
        *[True, True, False],
        True,
    ]


def test_the_seed_says_where_a_window_begins() -> None:
    """The same seed starts the window at the same time, another seed at another."""
    limit = LimitSettings(rates=STEADY, burst=None)
    moments = [number / 100 for number in range(200)]
    one, same, other = (admitted(limit.make(seed), *moments) for seed in (1, 1, 2))

    assert one == same
    assert one != other


def test_the_fullest_second_may_begin_anywhere() -> None:
    """It is found across whole seconds, and its end is exclusive."""
    assert most_within([0.0, 0.9, 1.1, 1.5, 1.9, 3.0], 1.0) == 4
    assert most_within([0.0, 1.0], 1.0) == 1
    assert most_within([], 1.0) == 0


def test_recovery_is_the_first_second_with_enough_in_it() -> None:
    """Earlier or sparser seconds do not count; there may be none."""
    moments = [0.0, 0.1, 0.2, 5.5, 7.0, 7.5, 7.9, 8.3]

    assert back_at(moments, 3, since=5.0) == pytest.approx(2.0)
    assert back_at(moments, 4, since=5.0) is None


def account(clock: FakeClock, *requests: tuple[float, int | None]) -> Record:
    """Let requests with these ids arrive at these times, and return the record."""
    limit = LimitSettings(rates=STEADY, burst=1, outage=Outage(2.0, 3.0))
    settings = ServerSettings(items=4, limit=limit, latency=0.0, retry_after=None, seed=1)
    tally = Tally(settings, clock)
    begin = clock.now
    for moment, number in requests:
        clock.now = begin + moment
        tally.decide(number)
    return tally.record()


def test_the_record_has_every_request_and_every_id() -> None:
    """Each arrival is in one count, each id in one, and times start at the first request."""
    record = account(
        FakeClock(1000.0),
        *[(0.0, 0), (0.0, 1), (0.05, 1), (0.0625, 2), (0.5, 1), (1.0, 1), (1.5, None), (1.5, 4)],
        *[(2.0, 2), (2.9, 2), (3.0, 3)],
    )

    assert (record.accepted, record.throttled, record.unavailable, record.strange) == (4, 3, 2, 2)
    assert record.arrivals == 11
    assert (record.once, record.repeated, record.never) == (2, 1, 1)
    assert (record.most_throttled, record.most_in_a_second) == (2, 2)
    assert (record.first_accepted, record.last_accepted) == (0.0, 3.0)
    assert record.around_recovery == (2, 1, 0, 1, *[0] * 9)


def test_the_record_says_when_the_limit_was_used_again() -> None:
    """The recovery runs from the end of the outage to the first second at 95 percent."""
    back = [(4.25 + number / 10, number % 4) for number in range(10)]

    assert account(FakeClock(), (0.0, 0), (2.5, 1), *back).back_after == pytest.approx(1.25)
    assert account(FakeClock(), (0.0, 0), (2.5, 1), *back[:8]).back_after is None


def test_a_server_without_requests_has_an_empty_record() -> None:
    """An empty record is no error."""
    record = account(FakeClock())

    assert (record.arrivals, record.never, record.last_accepted) == (0, 4, 0.0)


async def test_it_responds_as_the_api_does_and_returns_its_record() -> None:
    """Over a real connection come 204, then 429 with its wait and the API's error body."""
    limit = LimitSettings(rates=Rates(((0.0, 0.001),)), burst=1)
    settings = ServerSettings(items=2, limit=limit, latency=0.001, retry_after=7, seed=1)
    user = {"Adapty-Customer-User-Id": "user_1"}
    async with await start(settings) as server:
        host, port = server.sockets[0].getsockname()
        async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
            async with session.delete(PATH, headers=user) as response:
                assert (response.status, await response.read()) == (204, b"")
            async with session.delete(PATH, headers=user) as response:
                assert (response.status, response.headers["Retry-After"]) == (429, "7")
                content = await response.json()
            async with session.get("/") as response:
                record = await response.json()

    problems = [{"source": None, "errors": ["Too Many Requests"]}]
    assert content == {"errors": problems, "error_code": "rate_limited", "status_code": 429}
    assert (record["accepted"], record["throttled"], record["most_throttled"]) == (1, 1, 1)


async def test_it_waits_for_the_rest_of_a_request() -> None:
    """A request that comes in pieces, with a body, is one request."""
    limit = LimitSettings(rates=STEADY, burst=1, outage=Outage(0.0, 60.0))
    settings = ServerSettings(items=1, limit=limit, latency=0.0, retry_after=None, seed=1)
    async with await start(settings) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        head = f"DELETE {PATH} HTTP/1.1\r\nadapty-customer-user-id: user_0\r\n"
        for piece in (head[:9], head[9:], "Content-Length: 2\r\n\r\n", "{", "}"):
            writer.write(piece.encode())
            await asyncio.sleep(0)  # let it go out as a piece
        assert await reader.readline() == b"HTTP/1.1 503 Service Unavailable\r\n"
        writer.close()
        await writer.wait_closed()
