"""The task that exchanges the rates of a process, over stores that fail and conflict."""

from __future__ import annotations

import asyncio
import bisect
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
import pytest

from adapty_async._shared.exchange import SharedState
from adapty_async._shared.loop import ExchangeLoop
from adapty_async._shared.member import INTERVAL
from adapty_async._shared.source import SharedSource
from adapty_async._shared.store import Change, Loaded
from adapty_async.errors import StoreError
from tests.raw_server import own_tasks
from tests.shared.support import MemoryStore, until, virtually
from tests.simulation import Bucket

KEY, OTHER = "key", "other key"
_WAY = 0.001  # seconds to a store at a distance, and back


class Troubled(MemoryStore):
    """
    A store in memory that fails on request.

    Attributes:
        way: seconds to the store, and back.
        failures: number of loads that fail.
        conflicts: number of swaps that lose.
        losing: keys whose swaps lose.
        loads: the time and the keys of each load.
    """

    def __init__(self, clock: Callable[[], float] = time.time, way: float = 0.0) -> None:
        super().__init__(clock)
        self.way = way
        self.failures = self.conflicts = 0
        self.losing: set[str] = set()
        self.loads: list[tuple[float, Sequence[str]]] = []

    async def load(self, keys: Sequence[str]) -> list[Loaded]:
        """Return the values of keys, or fail."""
        self.loads.append((self._clock(), keys))
        await asyncio.sleep(self.way)
        if self.failures:
            self.failures -= 1
            raise StoreError("the store is down")
        loaded = await super().load(keys)
        await asyncio.sleep(self.way)
        return loaded

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        """Store values, or lose."""
        await asyncio.sleep(self.way)
        lost = {one.key for one in changes} if self.conflicts else self.losing
        self.conflicts = max(0, self.conflicts - 1)
        winning = [one for one in changes if one.key not in lost]
        won = dict(zip(winning, await super().swap(winning), strict=True))
        await asyncio.sleep(self.way)
        return [won.get(one, False) for one in changes]

    def state(self, key: str = KEY) -> SharedState:
        """Return the state in the store."""
        return msgspec.msgpack.decode(self.values[key][1], type=SharedState)


@pytest.fixture
def store() -> Troubled:
    """Return a store."""
    return Troubled()


@pytest.fixture
async def exchanges(store: Troubled) -> AsyncIterator[ExchangeLoop]:
    """Return a loop without a bucket, and check that no task of it is left."""
    before = own_tasks()
    made = ExchangeLoop(store, "name", 0.5, time.monotonic)
    yield made
    await made.aclose()
    assert own_tasks() == before


@pytest.fixture
async def source(exchanges: ExchangeLoop) -> SharedSource:
    """Return the source of a bucket that has had an exchange."""
    made = exchanges.source(KEY)
    await until(lambda: made.exchanges)
    return made


def processes(count: int) -> list[tuple[Troubled, ExchangeLoop]]:
    """Return processes of one store at a distance, in virtual time, each with its way to it."""
    clock = asyncio.get_running_loop().time
    values: dict[str, tuple[int, bytes]] = {}
    made = []
    for number in range(count):
        store = Troubled(clock, _WAY)
        store.values = values
        made.append((store, ExchangeLoop(store, f"member {number}", 0.5, clock)))
    return made


async def work(source: SharedSource, server: Bucket, end: float) -> int:
    """Send requests at a source's rate until a time; return the number of successes."""
    clock = asyncio.get_running_loop().time
    successes = 0

    async def send(sent: float) -> None:
        nonlocal successes
        await asyncio.sleep(0.01)
        passes = server.passes(clock())
        await asyncio.sleep(0.01)
        if passes:
            successes += 1
            source.succeeded(sent)
        else:
            source.throttled(sent, 1.0)

    async with asyncio.TaskGroup() as requests:
        while clock() < end:
            if wait := source.acquire():
                await asyncio.sleep(wait)
            else:
                requests.create_task(send(clock()))
    return successes


def gaps(store: Troubled) -> list[float]:
    """Return the seconds between the exchanges of a process."""
    return [later - one for (one, _), (later, _) in itertools.pairwise(store.loads)]


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param((400.0,), id="one bucket"),
        pytest.param((400.0, 100.0), id="two buckets"),
        pytest.param((400.0, 100.0, 20.0), id="three buckets"),
    ],
)
def test_all_buckets_of_a_process_exchange_at_once(limits: tuple[float, ...]) -> None:
    """However many are busy, exchanges are 50 ms apart, and each bucket has its whole rate."""

    async def main() -> None:
        ((store, exchanges),) = processes(1)
        done = await asyncio.gather(
            *(work(known(exchanges, limit), Bucket(limit, limit / 10), 5.0) for limit in limits)
        )
        busiest = max(each.exchanges for each in exchanges.sources.values())

        assert min(gaps(store)) >= INTERVAL - 1e-9
        assert 99 <= busiest <= len(store.loads) <= 101
        assert list(done) == pytest.approx([5 * limit for limit in limits], rel=0.02)
        await exchanges.aclose()

    virtually(main())


def known(exchanges: ExchangeLoop, limit: float) -> SharedSource:
    """Return the source of a bucket whose limit an earlier run found."""
    source = exchanges.source(f"limit {limit}")
    source.expect(limit)
    return source


def test_processes_with_two_busy_buckets_share_both_rates() -> None:
    """Three processes start at the same time; each has its part and exchanges 20 times a second."""
    limits = (300.0, 60.0)

    async def main() -> None:
        all_processes = processes(3)
        servers = {limit: Bucket(limit, limit / 10) for limit in limits}
        jobs = [
            work(known(exchanges, limit), servers[limit], 5.0)
            for _, exchanges in all_processes
            for limit in limits
        ]
        done = await asyncio.gather(*jobs)

        for number, limit in enumerate(limits):
            shares = done[number :: len(limits)]
            assert sum(shares) == pytest.approx(5 * limit, rel=0.02)
            assert min(shares) >= 0.9 * max(shares)
        for store, exchanges in all_processes:
            assert len(store.loads) <= 1.1 * 101  # some attempts lose to other processes
            await exchanges.aclose()

    virtually(main())


@pytest.mark.parametrize("moment", [2.005, 2.03, 2.049])
def test_a_bucket_that_becomes_busy_waits_for_the_next_exchange(moment: float) -> None:
    """A request of a bucket that was idle receives a permit within 50 ms, and the store's way."""

    async def main() -> None:
        ((_, exchanges),) = processes(1)
        idle = known(exchanges, 20.0)
        busy = asyncio.create_task(work(known(exchanges, 400.0), Bucket(400.0, 40.0), 3.0))
        await asyncio.sleep(moment)
        end = moment + INTERVAL + 4 * _WAY

        assert idle.exchanges in (3, 4)  # once a second, and when its limit was known
        assert await work(idle, Bucket(20.0, 2.0), end) >= 1
        await busy
        await exchanges.aclose()

    virtually(main())


def test_a_process_that_was_idle_receives_a_permit_at_once() -> None:
    """A request does not wait for the exchange that tells the others once a second."""

    async def main() -> None:
        ((_, exchanges),) = processes(1)
        source = known(exchanges, 20.0)
        await asyncio.sleep(2.5)

        assert await work(source, Bucket(20.0, 2.0), 2.5 + INTERVAL + 4 * _WAY) >= 1
        await exchanges.aclose()

    virtually(main())


def test_a_bucket_that_always_loses_does_not_hold_up_another_one() -> None:
    """The other one has its rate, few exchanges are attempted, and the loser continues alone."""

    async def main() -> None:
        ((store, exchanges),) = processes(1)
        loser, other = known(exchanges, 100.0), known(exchanges, 400.0)
        store.losing = {"limit 100.0"}
        done, alone = await asyncio.gather(
            work(other, Bucket(400.0, 40.0), 9.0), work(loser, Bucket(100.0, 10.0), 9.0)
        )

        assert done == pytest.approx(3600, rel=0.05)
        assert loser.is_alone
        assert not other.is_alone
        assert loser.exchanges == 0
        assert alone == pytest.approx(4 * 0.5 * 100, rel=0.1)
        assert len(store.loads) <= 200
        await exchanges.aclose()

    virtually(main())


class Starved(Troubled):
    """A store whose processes have one core: each step waits until the others have had theirs."""

    def __init__(self, clock: Callable[[], float], core: asyncio.Lock) -> None:
        super().__init__(clock)
        self._core = core

    async def _step(self) -> None:
        async with self._core:
            await asyncio.sleep(0.0004)

    async def load(self, keys: Sequence[str]) -> list[Loaded]:
        """Return the values of keys, some time after they were read."""
        await self._step()
        loaded = await super().load(keys)
        await self._step()
        return loaded

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        """Store values."""
        await self._step()
        return await super().swap(changes)


def test_many_processes_on_one_core_share_the_rate(caplog: pytest.LogCaptureFixture) -> None:
    """None continues alone in addition to the others while the store responds."""

    async def main() -> None:
        clock, core = asyncio.get_running_loop().time, asyncio.Lock()
        values: dict[str, tuple[int, bytes]] = {}
        crowd, server, limit = [], Bucket(400.0, 40.0), 400.0
        for number in range(64):
            store = Starved(clock, core)
            store.values = values
            crowd.append(ExchangeLoop(store, f"member {number}", 0.5, clock))

        async def join(number: int) -> int:
            await asyncio.sleep(number / 64)
            return await work(known(crowd[number], limit), server, 12.0)

        done = await asyncio.gather(*(join(number) for number in range(64)))

        assert sum(done) >= 0.85 * 11.5 * limit
        assert not caplog.messages
        await asyncio.gather(*(one.aclose() for one in crowd))

    virtually(main())


@pytest.mark.parametrize(
    ("way", "is_alone", "least"),
    [
        pytest.param(0.01, False, 1800, id="20 ms"),
        pytest.param(0.02, False, 1000, id="40 ms"),
        pytest.param(0.03, False, 1000, id="60 ms"),
        pytest.param(0.1, True, 600, id="200 ms"),
        pytest.param(0.24, True, 350, id="480 ms"),
    ],
)
def test_a_store_at_a_distance_stops_nobody(way: float, is_alone: bool, least: int) -> None:  # noqa: FBT001  a parameter
    """Processes send whatever a round trip takes; if permits would be void, each goes on alone."""

    async def main() -> None:
        both = processes(2)
        server = Bucket(400.0, 40.0)
        for store, _ in both:
            store.way = way
        sources = [known(exchanges, 400.0) for _, exchanges in both]
        done = await asyncio.gather(*(work(source, server, 5.0) for source in sources))

        assert [source.is_alone for source in sources] == [is_alone] * 2
        assert sum(done) >= least
        assert min(done) >= 0.2 * max(done)
        for store, _ in both:
            store.way = _WAY
        await asyncio.sleep(1.5)
        assert [source.is_alone for source in sources] == [False] * 2
        for _, exchanges in both:
            await exchanges.aclose()

    virtually(main())


def test_a_store_that_is_down_for_long_is_tried_less_often() -> None:
    """Each attempt is a new connection of each process, at different times; all find it again."""

    async def main() -> None:
        waiting = processes(10)
        sources = [known(exchanges, 400.0) for _, exchanges in waiting]
        await asyncio.sleep(2.0)
        for store, _ in waiting:
            store.loads.clear()
            store.is_down = True
        await asyncio.sleep(60.0)
        attempts = sorted(at for store, _ in waiting for at, _ in store.loads)
        assert 10 * 60 / 1.55 <= len(attempts) <= 10 * 60 / 0.75
        late = [at for at in attempts if at > attempts[0] + 20.0]
        per_tenth = [bisect.bisect(late, at + 0.1) - number for number, at in enumerate(late)]
        assert max(per_tenth) <= 6  # of 10
        for store, _ in waiting:
            store.is_down = False
        await asyncio.sleep(1.6)
        assert not any(source.is_alone for source in sources)
        for _, exchanges in waiting:
            await exchanges.aclose()

    virtually(main())


def test_a_store_that_crashes_again_and_again_gives_nobody_the_share_of_all() -> None:
    """Whoever finds it up, and empty, still knows of the others when it is down again."""

    async def main() -> None:
        crashing = processes(4)
        sources = [known(exchanges, 400.0) for _, exchanges in crashing]
        jobs = [asyncio.create_task(work(one, Bucket(400.0, 40.0), 20.0)) for one in sources]
        await asyncio.sleep(2.0)
        for _ in range(8):
            for store, _ in crashing:
                store.is_down = True
                store.values.clear()
            await asyncio.sleep(2.0)
            assert all(source.is_alone for source in sources)
            assert sum(source.rate for source in sources) <= 200.0
            for store, _ in crashing:
                store.is_down = False
            await asyncio.sleep(0.06)  # some of them exchange
        await asyncio.gather(*jobs)
        for _, exchanges in crashing:
            await exchanges.aclose()

    virtually(main())


async def test_members_exchange_through_a_store(
    exchanges: ExchangeLoop, source: SharedSource, store: Troubled
) -> None:
    """A second member appears to the first one, and is gone after its close."""
    others = ExchangeLoop(store, "other", 0.5, time.monotonic)
    other = others.source(KEY)
    await until(lambda: other.exchanges)
    source.count()
    await until(lambda: source.members == 2)
    assert set(store.state().members) == {"name", "other"}
    await others.aclose()

    assert set(store.state().members) == {"name"}
    assert exchanges.source(KEY) is source


async def test_permits_arrive(source: SharedSource) -> None:
    """A request that finds no permit gets one a moment later."""
    await until(lambda: not source.acquire())
    await until(lambda: source.exchanges > 1)


async def test_one_failure_of_a_store_changes_nothing(
    source: SharedSource, store: Troubled
) -> None:
    """A broken connection is made again at once; the process does not continue alone."""
    store.failures, before = 1, source.exchanges
    source.count()
    await until(lambda: source.exchanges > before)

    assert not source.is_alone
    assert store.failures == 0


async def test_a_store_that_is_down_is_tried_again(
    exchanges: ExchangeLoop, source: SharedSource, store: Troubled
) -> None:
    """All buckets of the process continue alone, also idle ones, until the store is back."""
    other = exchanges.source(OTHER)
    await until(lambda: other.exchanges)
    store.failures = 4
    source.count()
    await until(lambda: source.is_alone)
    assert other.is_alone
    await until(lambda: not source.is_alone and not other.is_alone)

    assert store.failures == 0


async def test_a_lost_swap_is_tried_again(source: SharedSource, store: Troubled) -> None:
    """A member that was slower exchanges on top of what the others did."""
    store.conflicts, before = 3, source.exchanges
    source.count()
    await until(lambda: source.exchanges > before)

    assert store.conflicts == 0


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(b"damaged", id="no state"),
        pytest.param(b"\x82\xa2at\x00\xa4rate\x81\xa4rate\xa41.04", id="another version"),
        pytest.param(b"", id="empty"),
    ],
)
async def test_a_damaged_state_is_replaced(
    exchanges: ExchangeLoop, source: SharedSource, store: Troubled, damaged: bytes
) -> None:
    """A value that is no state counts as none; a bucket in the same exchange keeps its own."""
    other = exchanges.source(OTHER)
    other.expect(300.0)
    await until(lambda: other.exchanges)
    store.values[KEY] = 7, damaged
    exchanged, before = other.exchanges, source.exchanges
    source.count()
    other.count()
    await until(lambda: source.exchanges > before and other.exchanges > exchanged)

    assert store.values[KEY][0] > 7
    assert set(store.state().members) == {"name"}
    assert store.state(OTHER).rate.limit == 300.0
    assert not source.is_alone
    assert not other.is_alone


async def test_a_close_while_the_store_is_down_ends_the_task(
    exchanges: ExchangeLoop, source: SharedSource, store: Troubled
) -> None:
    """Nothing waits for the store to come back."""
    store.is_down = True
    source.count()
    await until(lambda: source.is_alone)
    await exchanges.aclose()


async def test_a_store_that_goes_down_at_the_end_is_no_error(
    exchanges: ExchangeLoop, source: SharedSource, store: Troubled
) -> None:
    """The others notice that the member is gone; its close does not fail."""
    assert not source.is_alone
    store.is_down = True
    await exchanges.aclose()


async def test_a_member_leaves_although_others_are_faster(
    exchanges: ExchangeLoop, source: SharedSource, store: Troubled
) -> None:
    """It would otherwise count for seconds, and its last responses would be lost."""
    source.succeeded(time.monotonic())
    store.conflicts = 4
    await exchanges.aclose()

    assert store.conflicts == 0
    assert store.state().members == {}


async def test_others_that_are_always_faster_do_not_hold_up_a_close(
    exchanges: ExchangeLoop, source: SharedSource, store: Troubled
) -> None:
    """They notice within seconds that the member is gone."""
    assert source.exchanges
    store.losing = {KEY}
    await exchanges.aclose()

    assert set(store.state().members) == {"name"}


async def test_a_store_that_returns_something_else_at_the_end_is_no_error(
    store: Troubled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No error of the task stays behind that nobody retrieves."""
    made = ExchangeLoop(store, "name", 0.5, time.monotonic)
    source = made.source(KEY)
    await until(lambda: source.exchanges)
    monkeypatch.setattr(store, "values", {KEY: ("garbage",)})
    task = made._task
    await made.aclose()

    assert task is not None
    assert task.exception() is None


async def test_a_hundred_closes_leave_no_task(store: Troubled) -> None:
    """Each loop leaves with all its buckets, at whatever moment of its exchange it is closed."""
    before = own_tasks()
    for number in range(100):
        made = ExchangeLoop(store, f"{number}", 0.5, time.monotonic)
        for key in (KEY, OTHER):
            made.source(key)
        for _ in range(number % 7):
            await asyncio.sleep(0)
        await made.aclose()

    assert own_tasks() == before
    assert store.state(KEY).members == store.state(OTHER).members == {}


async def test_a_cancelled_close_still_ends_the_task(store: Troubled) -> None:
    """A cancellation waits until the task has ended."""
    before = own_tasks()
    made = ExchangeLoop(store, "name", 0.5, time.monotonic)
    made.source(KEY)
    closing = asyncio.create_task(made.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing

    assert own_tasks() == before


async def test_a_state_with_impossible_numbers_is_replaced(
    source: SharedSource, store: Troubled
) -> None:
    """A state that can be decoded, but not be used, counts as none; permits still arrive."""
    await until(lambda: not source.acquire())
    state, exchanges = store.state(), source.exchanges
    state.members["name"].served_until = math.nan
    store.values[KEY] = store.values[KEY][0], msgspec.msgpack.encode(state)
    await until(lambda: not source.acquire() and source.exchanges > exchanges + 1)
    assert not source.is_alone
    assert not math.isnan(store.state().members["name"].served_until)


async def test_a_store_that_returns_something_else_counts_as_down(
    source: SharedSource, store: Troubled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process continues alone until the store's values can be used again."""
    monkeypatch.setattr(store, "values", {KEY: ("garbage",)})
    source.count()
    await until(lambda: source.is_alone)
    monkeypatch.undo()
    await until(lambda: not source.is_alone)
