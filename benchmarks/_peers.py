"""
The same deletes with other libraries, each as its documentation shows.

64 requests are in flight, connections are reused, and every response is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeAlias

import aiohttp
import msgspec

from benchmarks._raw import IDENTITY, KEY, V1, session
from benchmarks._samples import ids
from benchmarks._work import Work

__all__ = ("JOBS", "PEERS", "Peer")

Delete: TypeAlias = Callable[[str], Awaitable[bool]]

_HEADERS = {"Authorization": f"Api-Key {KEY}", "Content-Type": "application/json"}
_TRIES = 5


class Peer(msgspec.Struct, frozen=True):
    """
    A client to compare with.

    Attributes:
        run: does the work and returns the number of items done.
        package: the package that it needs in addition to this library.
        share: the share of the items that a slow client processes.
    """

    run: Callable[[Work], Coroutine[Any, Any, int]]
    package: str | None = None
    share: float = 1.0


def _deleting(opened: aiohttp.ClientSession, work: Work) -> Delete:
    url = work.url + V1

    async def delete(each: str) -> bool:
        async with opened.delete(url, headers={IDENTITY: each}) as response:
            await response.read()
        return response.status == 204

    return delete


async def _workers(work: Work, delete: Delete) -> int:
    done = 0
    source = ids(work.items)

    async def run_worker() -> None:
        nonlocal done
        for each in source:
            succeeded = await delete(each)
            done += succeeded

    await asyncio.gather(*(run_worker() for _ in range(work.workers)))
    return done


async def _httpx(work: Work) -> int:
    import httpx  # noqa: PLC0415  in the dependency group "bench" only, as all below

    url = work.url + V1
    limits = httpx.Limits(max_connections=work.workers, max_keepalive_connections=work.workers)
    async with httpx.AsyncClient(headers=_HEADERS, limits=limits) as client:

        async def delete(each: str) -> bool:
            response = await client.delete(url, headers={IDENTITY: each})
            return bool(response.status_code == 204)

        return await _workers(work, delete)


async def _niquests(work: Work) -> int:
    import niquests  # noqa: PLC0415

    url = work.url + V1
    async with niquests.AsyncSession(pool_maxsize=work.workers) as client:
        for name, value in _HEADERS.items():
            client.headers[name] = value

        async def delete(each: str) -> bool:
            response = await client.delete(url, headers={IDENTITY: each})
            return bool(response.status_code == 204)

        return await _workers(work, delete)


async def _tenacity_decorator(work: Work) -> int:
    import tenacity  # noqa: PLC0415

    async with session() as opened:
        plain = _deleting(opened, work)

        @tenacity.retry(
            stop=tenacity.stop_after_attempt(_TRIES),
            wait=tenacity.wait_exponential_jitter(),
            retry=tenacity.retry_if_exception_type(aiohttp.ClientError),
        )
        async def delete(each: str) -> bool:
            return await plain(each)

        return await _workers(work, delete)


async def _tenacity_loop(work: Work) -> int:
    import tenacity  # noqa: PLC0415

    async with session() as opened:
        plain = _deleting(opened, work)

        async def delete(each: str) -> bool:
            done = False
            async for attempt in tenacity.AsyncRetrying(
                stop=tenacity.stop_after_attempt(_TRIES),
                wait=tenacity.wait_exponential_jitter(),
                retry=tenacity.retry_if_exception_type(aiohttp.ClientError),
            ):
                with attempt:
                    done = await plain(each)
            return done

        return await _workers(work, delete)


async def _aiohttp_retry(work: Work) -> int:
    import aiohttp_retry  # noqa: PLC0415

    url = work.url + V1
    async with session() as opened:
        options = aiohttp_retry.ExponentialRetry(attempts=_TRIES, statuses={429})
        client = aiohttp_retry.RetryClient(opened, retry_options=options)

        async def delete(each: str) -> bool:
            async with client.delete(url, headers={IDENTITY: each}) as response:
                await response.read()
            return bool(response.status == 204)

        return await _workers(work, delete)


async def _aiometer(work: Work) -> int:
    import aiometer  # noqa: PLC0415

    done = 0
    async with session() as opened:
        plain = _deleting(opened, work)

        async def delete(each: str) -> None:
            nonlocal done
            succeeded = await plain(each)
            done += succeeded

        await aiometer.run_on_each(delete, list(ids(work.items)), max_at_once=work.workers)
    return done


async def _gather(work: Work) -> int:
    places = asyncio.Semaphore(work.workers)
    async with session() as opened:
        plain = _deleting(opened, work)

        async def delete(each: str) -> bool:
            async with places:
                return await plain(each)

        return sum(await asyncio.gather(*map(delete, ids(work.items))))


async def _task_group(work: Work) -> int:
    done = 0
    places = asyncio.Semaphore(work.workers)
    async with session() as opened:
        plain = _deleting(opened, work)

        async def delete(each: str) -> None:
            nonlocal done
            async with places:
                succeeded = await plain(each)
            done += succeeded

        async with asyncio.TaskGroup() as group:
            for each in ids(work.items):
                group.create_task(delete(each))
    return done


PEERS = {
    "aiohttp_retry": Peer(_aiohttp_retry, "aiohttp_retry"),
    "TaskGroup + semaphore": Peer(_task_group),
    "gather + semaphore": Peer(_gather),
    "tenacity, decorator": Peer(_tenacity_decorator),
    "tenacity, loop": Peer(_tenacity_loop),
    "aiometer": Peer(_aiometer, "aiometer"),
    "niquests": Peer(_niquests, "niquests", share=0.25),
    "httpx": Peer(_httpx, "httpx", share=0.1),
}
JOBS: Mapping[str, Callable[[Work], Coroutine[Any, Any, int]]] = {
    name: peer.run for name, peer in PEERS.items()
}
