"""Cancellation at any await: a thousand moments in calls and runs, after which nothing is left."""

from __future__ import annotations

import asyncio
import fcntl
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import pytest

from adapty_async import AdaptyClient, Limits, Operation, RetryPolicy
from adapty_async._runtime.loop import PatientTimer
from adapty_async.v1 import create_profile
from tests._support import has_waiters
from tests.raw_server import CLOSE, DONE, RESET, STALL, RawServer, Steps, api_error, own_tasks, page

pytestmark = [pytest.mark.slow, pytest.mark.unmeasured]

#: Of each of the forty tests.
MOMENTS = 25
CONNECTIONS = 3
ANSWERS: tuple[Steps, ...] = (
    *(DONE,) * 6,
    (api_error(404, "profile_does_not_exist"),),
    (api_error(429, "rate_limited"),),
    (page(500),),
    (RESET,),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", CLOSE),
    (STALL,),
)
Work: TypeAlias = Callable[[AdaptyClient, Path], Coroutine[Any, Any, object]]


async def get(client: AdaptyClient) -> object:
    """Make a call."""
    return await client.v1.profiles.get(customer_user_id="u1")


async def read(client: AdaptyClient, _: Path) -> object:
    """Make a single call."""
    return await get(client)


async def create(client: AdaptyClient, _: Path) -> object:
    """Make a call without retries."""
    return await client.v1.profiles.create(customer_user_id="u1")


async def crowd(client: AdaptyClient, _: Path) -> object:
    """Make more calls than there are connections."""
    calls = (get(client) for _ in range(3 * CONNECTIONS))
    return await asyncio.gather(*calls, return_exceptions=True)


def ids() -> list[str]:
    """Return the items of a run, one of them twice."""
    return [f"u{number}" for number in range(15)] + ["u1"]


async def erase(client: AdaptyClient, _: Path) -> object:
    """Await a run."""
    return await client.v1.profiles.bulk_delete(ids(), by="customer_user_id", drain=0.01)


async def stream(client: AdaptyClient, _: Path) -> object:
    """Stream a run from an input that is itself waited for, in order."""

    async def slowly() -> AsyncIterator[str]:
        for one in ids():
            await asyncio.sleep(0)
            yield one

    run = client.v1.profiles.bulk_delete(
        slowly(), by="customer_user_id", drain=0.01, ordered=True, concurrency=4
    )
    async with run:
        return [outcome async for outcome in run]


async def leave(client: AdaptyClient, _: Path) -> object:
    """Leave a run of creates after its first outcome."""

    def build(one: str) -> Operation[Any]:
        return create_profile(customer_user_id=one)

    async with client.bulk(ids(), build=build, drain=0.01) as run:
        async for outcome in run:
            return outcome
    return None


async def note(client: AdaptyClient, journal: Path) -> object:
    """Await a run with a journal, and a second one that resumes it."""
    for _ in range(2):
        await client.v1.profiles.bulk_delete(
            ids(), by="customer_user_id", drain=0.01, journal=journal
        )
    return None


async def note_each(client: AdaptyClient, journal: Path) -> object:
    """Stream a run with a journal by position."""
    run = client.v1.profiles.bulk_delete(
        ids(), by="customer_user_id", drain=0.01, journal=journal, job_id="a", rate=2000.0
    )
    async with run:
        return [outcome async for outcome in run]


CALLS: tuple[Work, ...] = (read, create, crowd)
RUNS: tuple[Work, ...] = (erase, stream, leave, note, note_each)


async def cancelled(work: Awaitable[object], moment: int) -> None:
    """Start some work, and cancel it after *n* iterations of the event loop."""
    task = asyncio.ensure_future(work)
    for _ in range(moment):
        if task.done():
            break
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


def timers() -> list[str]:
    """Return this loop's timers, except those that check idle connections and timeouts."""
    loop: Any = asyncio.get_running_loop()
    scheduled = [timer._callback for timer in loop._scheduled if not timer.cancelled()]
    patient = [getattr(each, "__self__", None) for each in scheduled]
    callbacks = [
        timer._call if isinstance(timer, PatientTimer) else each
        for timer, each in zip(patient, scheduled, strict=True)
    ]
    # one for each client, whatever it does
    kept = {"aiohttp.helpers", "adapty_async._http.attempt"}
    return [repr(each) for each in callbacks if each.__module__ not in kept]


def is_free(journal: Path) -> bool:
    """Return whether no run has a journal open."""
    if not journal.exists():
        return True
    with journal.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


async def until_free(journal: Path) -> None:
    """Wait until no run has a journal open, without blocking a thread that opens one."""
    async with asyncio.timeout(50):
        while not is_free(journal):
            await asyncio.to_thread(int)  # an iteration of the loop, and of other threads


def left_by(client: AdaptyClient) -> dict[str, object]:
    """Return what is left of work that is over."""
    connections = client._executor.layers.connections.get()
    buckets = client.statistics().buckets.values()
    sessions = client._connections._open._values.values()
    left = {
        "connections": connections.count - connections.available,
        "waiting": has_waiters(connections),
        "in flight": sum(bucket.in_flight for bucket in buckets),
        "watched": [here.timeouts._watched for here in sessions if here.timeouts._watched],
        "timers": timers(),
    }
    return {name: value for name, value in left.items() if value}


@pytest.mark.parametrize("rate", [None, 3000.0], ids=["no pace", "pace"])
@pytest.mark.parametrize("seed", range(20))
async def test_nothing_is_left_of_what_was_cancelled(
    seed: int, rate: float | None, tmp_path: Path
) -> None:
    """A call or run, cancelled at any time, leaves no task, permit, timer or lock in a client."""
    random = Random(f"{seed} {rate}")
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    retry = RetryPolicy(attempts=3, wait_initial=0.001, wait_max=0.002)
    limits = Limits(connections=CONNECTIONS, rate=rate)
    before = own_tasks()
    async with RawServer(then=lambda _: random.choice(ANSWERS)) as server:
        settings: dict[str, Any] = {"retry": retry, "limits": limits, "timeout": 0.1}
        async with AdaptyClient("secret_live_x.y", base_url=server.url, **settings) as client:
            for number in range(MOMENTS):
                works, longest = random.choice(((CALLS, 60), (RUNS, 400)))
                work, moment = random.choice(works), random.randrange(longest)
                journal = tmp_path / f"journal-{number}"
                await cancelled(work(client, journal), moment)
                what = f"{work.__name__}, cancelled after {moment} turns"

                await until_free(journal)
                assert left_by(client) == {}, what
                assert own_tasks() == before, what
                assert server.open <= CONNECTIONS + 1, what
            server.answer(DONE)
            await get(client.with_options(timeout=10.0))
        await server.until_left()
    gc.collect()

    assert complaints == []
