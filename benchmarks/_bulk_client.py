"""
One bulk delete in a process of its own, so that its time and memory are only its own.

Run as ``python -m benchmarks._bulk_client KIND URL KEY ITEMS CONCURRENCY``; it prints what it
measured as JSON. KIND is ``ours`` or ``aiohttp``.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import aiohttp

from adapty_async import AdaptyClient

_PATH = "/api/v1/server-side-api/profiles/"


def ids(count: int) -> Iterator[str]:
    """
    Make up the ids to delete.
    """
    return (f"user_{number}" for number in range(count))


async def ours(url: str, key: str, items: int, concurrency: int) -> int:
    """
    Delete through the library, with default settings, and return how many are done.
    """
    async with AdaptyClient(key, base_url=url) as adapty:
        report = await adapty.v1.profiles.bulk_delete(
            ids(items), by="customer_user_id", concurrency=concurrency
        )
    return report.done if report.ok else 0


async def with_journal(url: str, key: str, items: int, concurrency: int, job_id: str | None) -> int:
    """
    Delete as `ours` does, and keep a journal.
    """
    async with AdaptyClient(key, base_url=url) as adapty:
        with tempfile.TemporaryDirectory() as folder:
            report = await adapty.v1.profiles.bulk_delete(
                ids(items),
                by="customer_user_id",
                concurrency=concurrency,
                journal=Path(folder) / "journal",
                job_id=job_id,
            )
    return report.done if report.ok else 0


async def plain_aiohttp(url: str, key: str, items: int, concurrency: int) -> int:
    """
    Delete as a good engineer writes it by hand: workers over one iterator, no accounting.
    """
    done = 0
    source = ids(items)
    headers = {"Authorization": f"Api-Key {key}", "Content-Type": "application/json"}

    async def work(session: aiohttp.ClientSession) -> None:
        nonlocal done
        for each in source:
            identity = {"adapty-customer-user-id": each}
            async with session.delete(url + _PATH, headers=identity) as answer:
                await answer.read()
                done += answer.status == 204

    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        await asyncio.gather(*(work(session) for _ in range(concurrency)))
    return done


def peak_mb() -> float:
    """
    Return the peak of this process' own memory.

    Where there is no /proc, what `getrusage` says counts from before the program was loaded.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """
    Measure one run.
    """
    kind, url, key, items, concurrency = sys.argv[1:]
    jobs: dict[str, Callable[[str, str, int, int], Coroutine[None, None, int]]] = {
        "ours": ours,
        "aiohttp": plain_aiohttp,
    }
    wall, cpu = time.perf_counter(), time.process_time()
    done = asyncio.run(jobs[kind](url, key, int(items), int(concurrency)))
    measured = {
        "done": done,
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "peak_mb": peak_mb(),
    }
    sys.stdout.write(json.dumps(measured))


if __name__ == "__main__":
    main()
