"""
The jobs of the benchmarks, written by hand on aiohttp as a good engineer would.

Workers share one iterator, the session has the API key and the media type, and every response is
read. Nothing is retried, and only a count is recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp

from benchmarks._samples import ids, mail_fields
from benchmarks._traced import traced
from benchmarks._work import Work

__all__ = ("IDENTITY", "JOBS", "KEY", "SAVE", "V1", "V2", "session")

KEY = "secret_live_benchmark"
IDENTITY = "adapty-customer-user-id"
V1 = "/api/v1/server-side-api/profiles/"
V2 = "/api/v2/server-side-api/profile/"
SAVE = "/api/v1/profile/save/"


@contextlib.asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session with the headers that the API requires."""
    headers = {"Authorization": f"Api-Key {KEY}", "Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as opened:
        yield opened


async def _delete(work: Work) -> int:
    done = 0
    source = ids(work.items)
    url = work.url + V1

    async def run_worker(opened: aiohttp.ClientSession) -> None:
        nonlocal done
        for each in source:
            async with opened.delete(url, headers={IDENTITY: each}) as response:
                await response.read()
                done += response.status == 204

    async with session() as opened:
        await asyncio.gather(*(run_worker(opened) for _ in range(work.workers)))
    return done


async def _delete_traced(work: Work) -> int:
    with traced():
        return await _delete(work)


async def _get(work: Work, path: str) -> int:
    done = 0
    source = ids(work.items)
    url = work.url + path

    async def run_worker(opened: aiohttp.ClientSession) -> None:
        nonlocal done
        for each in source:
            async with opened.get(url, headers={IDENTITY: each}) as response:
                profile = await response.json()
                done += response.status == 200 and profile["data"]["customer_user_id"] == "user_1"

    async with session() as opened:
        await asyncio.gather(*(run_worker(opened) for _ in range(work.workers)))
    return done


async def _get_v1(work: Work) -> int:
    return await _get(work, V1)


async def _get_v2(work: Work) -> int:
    return await _get(work, V2)


async def _save(work: Work) -> int:
    done = 0
    source = ids(work.items)
    url = work.url + SAVE

    async def run_worker(opened: aiohttp.ClientSession) -> None:
        nonlocal done
        for each in source:
            async with opened.post(url, json=mail_fields(each)) as response:
                await response.read()
                done += response.status == 200

    async with session() as opened:
        await asyncio.gather(*(run_worker(opened) for _ in range(work.workers)))
    return done


JOBS = {
    "raw delete": _delete,
    "raw delete traced": _delete_traced,
    "raw get": _get_v1,
    "raw get v2": _get_v2,
    "raw save": _save,
}
