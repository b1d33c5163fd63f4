"""
A client process of a soak test, so that the samples measure only the client.

Run as ``python -m benchmarks._soak_client PLAN`` with a `Plan` as JSON. It works in rounds, and
between two of them, with nothing in flight, prints a `Sample` as JSON at intervals. The outcome of
each call is written to a file, so that outcomes need no memory of the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from adapty_async import AdaptyClient, AdaptyMailClient, Limits, RetryPolicy
from benchmarks._soak_work import Calls, OutcomeLog

__all__ = ("CONNECTIONS", "Plan", "Sample")

#: The limit of connections of each of the two clients.
CONNECTIONS = 48
# Seconds after which aiohttp has closed every idle connection: it closes those of 15 s every 15 s.
_KEEP_ALIVE = 32.0
_RETRY = RetryPolicy(attempts=8, wait_initial=0.05, wait_max=1.0)
_TIMEOUT = 2.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """
    The plan of a soak test.

    Attributes:
        seconds: the duration.
        every: seconds between two samples.
        items: the number of items of a bulk run.
        idle: whether to wait until idle connections are closed before compared samples.
        entries: the file with the outcomes of calls.
    """

    url: str
    api_key: str
    mail_api_key: str
    seconds: float
    every: float
    items: int
    idle: bool
    seed: int
    entries: str


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """
    The resources of the client's process while nothing is in flight.

    Attributes:
        name: "start" before the first call, "closed" after closing the clients.
        ended: the number of calls that ended so far.
        rss: resident memory in MB.
        in_flight: requests in flight, from the statistics of the clients.
        complaints: messages of asyncio's exception handler, such as unretrieved errors.
    """

    name: str
    seconds: float
    ended: int
    rss: float
    sockets: int
    files: int
    tasks: int
    in_flight: int
    complaints: int


class _Soak:
    def __init__(self, plan: Plan, log: OutcomeLog) -> None:
        settings: dict[str, Any] = {
            "base_url": plan.url,
            "retry": _RETRY,
            "limits": Limits(connections=CONNECTIONS),
            "timeout": _TIMEOUT,
        }
        self._plan = plan
        self._log = log
        self._adapty = AdaptyClient(plan.api_key, **settings)
        self._mail = AdaptyMailClient(plan.mail_api_key, **settings)
        self._complaints = 0

    async def run(self) -> None:
        """Run rounds until the time is over."""
        asyncio.get_running_loop().set_exception_handler(self._complain)
        plan, started = self._plan, time.monotonic()
        calls = Calls(self._adapty, self._mail, self._log, random.Random(plan.seed))
        self._print_sample("start", 0.0)
        rounds = samples = 0
        elapsed = 0.0
        async with self._adapty, self._mail:
            while elapsed < plan.seconds or samples < 3:
                await calls.round(rounds, plan.items)
                rounds += 1
                elapsed = time.monotonic() - started
                is_last = elapsed >= plan.seconds and samples >= 2
                if is_last or elapsed >= (samples + 1) * plan.every:
                    samples += 1
                    await self._sample(samples, elapsed, is_last=is_last)
        await asyncio.sleep(0.1)  # closing needs a few iterations of the loop
        self._print_sample("closed", time.monotonic() - started)

    async def _sample(self, number: int, elapsed: float, *, is_last: bool) -> None:
        if self._plan.idle and (number == 2 or is_last):
            await asyncio.sleep(_KEEP_ALIVE)
        self._print_sample("end" if is_last else str(number), elapsed)

    def _complain(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._complaints += 1
        sys.stderr.write(f"asyncio: {context}\n")

    def _print_sample(self, name: str, seconds: float) -> None:
        gc.collect()
        files = list(_open_files())
        clients = (self._adapty, self._mail)
        buckets = [each for client in clients for each in client.statistics().buckets.values()]
        sample = Sample(
            name=name,
            seconds=seconds,
            ended=self._log.count,
            rss=_resident_mb(),
            sockets=sum(file.startswith("socket:") for file in files),
            files=len(files),
            tasks=len(asyncio.all_tasks()),
            in_flight=sum(each.in_flight for each in buckets),
            complaints=self._complaints,
        )
        sys.stdout.write(msgspec.json.encode(sample).decode() + "\n")
        sys.stdout.flush()


def _open_files() -> Iterator[str]:
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor that listed the folder
            yield str(link.readlink())


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 1e6


def main() -> None:
    """Execute a plan."""
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    with Path(plan.entries).open("wb") as file:
        asyncio.run(_Soak(plan, OutcomeLog(file)).run())


if __name__ == "__main__":
    main()
