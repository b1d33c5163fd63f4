"""
The same deletes without this library, each as it is usually written.

All use aiohttp, with an unlimited number of connections, and make up to ten attempts per item. An
item that waits for a retry keeps its permit, so that concurrency stays constant.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

import aiohttp
import msgspec

from benchmarks._limited_server import PATH

__all__ = ("RIVALS", "Job", "Rival")

_TRIES = 10
_IN_FLIGHT = 64
_LONGEST_PAUSE = 30.0

#: A function of the number of attempts and of `Retry-After` to the seconds until the next attempt.
Pause: TypeAlias = Callable[[int, float], float]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """
    The work of a client. Rate and latency are for clients that have to be configured with them.

    Attributes:
        items: the number of deletes, of ids from 0 up.
        in_flight: requests in flight; None leaves it to the client.
        rate: the initial limit, in requests per second.
        latency: seconds from a request to its response.
        configured_rate: the option `rate=` of our own client; None leaves it out.
    """

    url: str
    items: int
    in_flight: int | None
    rate: float
    latency: float
    configured_rate: float | None


class Rival(msgspec.Struct, frozen=True):
    """
    A client to compare with.

    Attributes:
        run: does the job and returns the number of items done.
        package: the package that it needs in addition to aiohttp.
    """

    run: Callable[[Job], Awaitable[int]]
    package: str | None = None


@contextlib.asynccontextmanager
async def _session(job: Job) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": "Api-Key secret_live_benchmark"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(job.url, headers=headers, connector=connector) as session:
        yield session


def _identity(number: int) -> dict[str, str]:
    return {"adapty-customer-user-id": f"user_{number}"}


async def _persist(
    session: aiohttp.ClientSession,
    number: int,
    pause: Pause,
    limiter: AbstractAsyncContextManager[Any] = contextlib.nullcontext(),  # noqa: B008  has no state
) -> bool:
    for attempt in range(_TRIES):
        async with limiter, session.delete(PATH, headers=_identity(number)) as response:
            await response.read()
        if response.status == 204:
            return True
        await asyncio.sleep(pause(attempt, float(response.headers.get("Retry-After", 1))))
    return False


def _exponential(attempt: int, _retry_after: float) -> float:
    return random.uniform(0.0, min(_LONGEST_PAUSE, 0.5 * 2.0**attempt))


def _by_retry_after(_attempt: int, retry_after: float) -> float:
    return retry_after


async def _workers(count: int, items: int, delete: Callable[[int], Awaitable[bool]]) -> int:
    done = 0
    numbers = iter(range(items))

    async def work() -> None:
        nonlocal done
        for number in numbers:
            succeeded = await delete(number)
            done += succeeded

    await asyncio.gather(*(work() for _ in range(count)))
    return done


async def _gather(job: Job) -> int:
    """Start all tasks at once behind a semaphore; exponential backoff with full jitter."""
    places = asyncio.Semaphore(job.in_flight or _IN_FLIGHT)
    async with _session(job) as session:

        async def delete(number: int) -> bool:
            async with places:
                return await _persist(session, number, _exponential)

        return sum(await asyncio.gather(*map(delete, range(job.items))))


async def _aiohttp_retry(job: Job, kind: str) -> int:
    """Retry 429s and server errors with aiohttp_retry and its own backoff."""
    import aiohttp_retry  # noqa: PLC0415  in the dependency group "bench" only

    options = getattr(aiohttp_retry, kind)(attempts=_TRIES, statuses={429})
    async with _session(job) as session:
        client = aiohttp_retry.RetryClient(session, retry_options=options)

        async def delete(number: int) -> bool:
            async with client.delete(PATH, headers=_identity(number)) as response:
                await response.read()
            return bool(response.status == 204)

        return await _workers(job.in_flight or _IN_FLIGHT, job.items, delete)


async def _exponential_retry(job: Job) -> int:
    return await _aiohttp_retry(job, "ExponentialRetry")


async def _jitter_retry(job: Job) -> int:
    return await _aiohttp_retry(job, "JitterRetry")


async def _aiolimiter(job: Job, at_once: float) -> int:
    """Configure aiolimiter with the limit, and a burst of `at_once` requests."""
    import aiolimiter  # noqa: PLC0415  in the dependency group "bench" only

    limiter = aiolimiter.AsyncLimiter(at_once, at_once / job.rate)
    async with _session(job) as session:

        async def delete(number: int) -> bool:
            return await _persist(session, number, _by_retry_after, limiter)

        return await _workers(job.in_flight or _IN_FLIGHT, job.items, delete)


async def _smoothed_limiter(job: Job) -> int:
    return await _aiolimiter(job, 10.0)


async def _plain_limiter(job: Job) -> int:
    return await _aiolimiter(job, job.rate)


async def _fixed(job: Job) -> int:
    """Use the number of requests in flight that meets the limit at that latency."""
    async with _session(job) as session:

        async def delete(number: int) -> bool:
            return await _persist(session, number, _by_retry_after)

        return await _workers(max(1, round(job.rate * job.latency)), job.items, delete)


#: ``aiolimiter`` is configured with a burst of ten requests instead of a full second's requests;
#: ``aiolimiter-plain`` is configured as its documentation shows.
RIVALS = {
    "gather": Rival(_gather),
    "exponential-retry": Rival(_exponential_retry, "aiohttp_retry"),
    "jitter-retry": Rival(_jitter_retry, "aiohttp_retry"),
    "aiolimiter": Rival(_smoothed_limiter, "aiolimiter"),
    "aiolimiter-plain": Rival(_plain_limiter, "aiolimiter"),
    "fixed": Rival(_fixed),
}
