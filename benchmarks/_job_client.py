"""
A client process of the benchmark of jobs.

Run as ``python -m benchmarks._job_client WORK`` with a `Work` as JSON. Bulk runs without a journal
and the parts of a job, of the same ids, alternate; it prints their costs as a list of `Pair`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from adapty_async import AdaptyClient
from adapty_async.jobs import Job, JobStore, Lines, PartOptions
from benchmarks._client import loop_factory
from benchmarks._raw import KEY

__all__ = ("Cost", "Pair", "Work")

_BY: Literal["customer_user_id"] = "customer_user_id"
# A rate that is never reached.
_HIGH = 1e6


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """
    The work of one process.

    Attributes:
        api: the URL of the server.
        store: the URL of the job store.
        ids: the path of the input, one id a line.
        part_size: the number of ids of a part, and of a bulk run.
        pairs: how often both run.
        loop: ``asyncio`` or ``uvloop``.
        concurrency: maximum of requests in flight; None for the default.
    """

    api: str
    store: str
    ids: str
    part_size: int
    pairs: int
    loop: str = "asyncio"
    concurrency: int | None = None


class Cost(msgspec.Struct, frozen=True):
    """The cost of runs: processor seconds, elapsed seconds."""

    cpu: float = 0.0
    wall: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.cpu + other.cpu, self.wall + other.wall)


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """The costs of bulk runs without a journal, and of the parts of a job."""

    plain: Cost
    parts: Cost


async def _measured(run: Callable[[], Awaitable[int]], count: int) -> Cost:
    """
    Return the cost of a run.

    Raises:
        SystemExit: not all ids were done.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    done = await run()
    cost = Cost(time.process_time() - cpu, time.perf_counter() - wall)
    if done != count:
        raise SystemExit(f"{done} of {count} ids were done")
    return cost


class _Runs:
    """The two kinds of runs, of the same ids."""

    def __init__(self, adapty: AdaptyClient, store: JobStore, work: Work) -> None:
        self._call = adapty.v1.profiles.bulk_delete
        self._store = store
        self._work = work
        self._options = PartOptions(rate=_HIGH, concurrency=work.concurrency)
        self._ids = Path(work.ids).read_text("utf-8").splitlines()

    async def pair(self, number: int) -> Pair:
        """Run both, part by part, in another order each time."""
        work = self._work
        source = Lines(work.ids)
        job = await self._store.plan(
            f"{work.loop} {number}", self._call, source, by=_BY, part_size=work.part_size
        )
        costs = {"plain": Cost(), "parts": Cost()}
        for part in range(job.parts):
            ids = self._ids_of(part)
            runs = {"plain": partial(self._plain, ids), "parts": partial(self._part, job, part)}
            for name in reversed(runs) if (number + part) % 2 else runs:
                costs[name] += await _measured(runs[name], len(ids))
        return Pair(**costs)

    def _ids_of(self, part: int) -> list[str]:
        size = self._work.part_size
        return self._ids[part * size : (part + 1) * size]

    async def _plain(self, ids: list[str]) -> int:
        return (await self._call(ids, by=_BY, **self._options)).done

    async def _part(self, job: Job, part: int) -> int:
        report = await job.run_part(part, **self._options)
        return 0 if report is None else report.done


async def _pairs(work: Work) -> list[Pair]:
    async with AdaptyClient(KEY, base_url=work.api) as adapty, JobStore(work.store) as store:
        runs = _Runs(adapty, store, work)
        # the first pair does not count
        return [await runs.pair(number) for number in range(work.pairs + 1)][1:]


def main() -> None:
    """Do the work and print the result."""
    work = msgspec.json.decode(sys.argv[1], type=Work)
    with asyncio.Runner(loop_factory=loop_factory(work.loop)) as runner:
        sys.stdout.write(msgspec.json.encode(runner.run(_pairs(work))).decode())


if __name__ == "__main__":
    main()
