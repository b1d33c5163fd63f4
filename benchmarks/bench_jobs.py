"""
A benchmark of what a job costs: the processor time of its parts, and the space in its store.

Run it as ``python -m benchmarks.bench_jobs``. Bulk runs without a journal and the parts of a job,
of the same ids, alternate in one process, with a server of minimal cost; the ratios are medians
over the pairs. ``--plan 100000000`` plans a job of so many ids instead, fills the tables as if it
had ended, and prints their size and the time of a report. Only inconsistent counts are an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import psycopg

from adapty_async import AdaptyClient
from adapty_async.jobs import Job, JobStore
from adapty_async.jobs._model import PartPlan, Plan
from adapty_async.jobs._sources import Item
from benchmarks._job_client import Pair, Work
from benchmarks._machine import CLIENT, LOOPS, SERVER, describe, pin
from benchmarks._nginx import CheapServer, serving
from benchmarks._options import options
from benchmarks._raw import KEY
from tests.servers import OwnPostgres

__all__ = ("main",)

_STORES = ("sqlite", "postgres")
_ITEMS, _PART_SIZE, _PAIRS = 20_000, 2_000, 9
_ORIGIN = "http://127.0.0.1:1"
# As if each part had run once; nothing reads the states and checksums.
_FILL = """
INSERT INTO adapty_span (job, part, number, states, checksum)
  SELECT part.job, part.number, span.column1, {states}, 4294967295 FROM adapty_part part
  CROSS JOIN (VALUES (0), (1), (2), (3)) AS span;
INSERT INTO adapty_run (job, part, number, started_at, last_at, ended_at, rate)
  SELECT job, number, 1, 1.5, 2.5, 3.5, 99.5 FROM adapty_part;
INSERT INTO adapty_minute
  SELECT job, number, 1, 29000000, 1.5, 2.5, 2000, 0, 0, 0, 0, 0, 0, 2000, 3 FROM adapty_part;
UPDATE adapty_part SET runs = 1, is_open = 1;
UPDATE adapty_span SET checksum = 1;
UPDATE adapty_part SET is_open = 0, ended_at = 4.5, done = size;
"""
_STATES = (b"d" * 512).hex()


class _Sqlite:
    """A job store in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "jobs.db"
        self.url = f"sqlite:///{self._path}"

    def size(self) -> int:
        """Return the bytes of its files."""
        return sum(file.stat().st_size for file in self._path.parent.iterdir())

    def fill(self) -> None:
        """Fill the tables as if the job had ended."""
        with contextlib.closing(sqlite3.connect(self._path)) as database:
            database.executescript(_FILL.format(states=f"x'{_STATES}'"))


class _Postgres:
    """A job store in a server of its own."""

    def __init__(self, url: str) -> None:
        self.url = url

    def size(self) -> int:
        """Return the bytes of its tables."""
        tables = b"SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables"
        with psycopg.connect(self.url) as connection:
            return int(connection.execute(tables).fetchall()[0][0])

    def fill(self) -> None:
        """Fill the tables as if the job had ended."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(_FILL.format(states=f"'\\x{_STATES}'::bytea").encode())


_Store: TypeAlias = _Sqlite | _Postgres


@contextlib.contextmanager
def _started(name: str) -> Iterator[_Store]:
    """Start a store."""
    if name == "postgres":
        with OwnPostgres() as server:
            yield _Postgres(server.url)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield _Sqlite(Path(folder))


def _measure(server: CheapServer, work: Work, items: int) -> list[Pair]:
    command = [sys.executable, "-m", "benchmarks._job_client", msgspec.json.encode(work).decode()]
    with server.expecting(2 * items * (work.pairs + 1), "parts"):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        pin(process.pid, CLIENT)
        output, _ = process.communicate()
    if process.returncode:
        raise SystemExit("the client failed")
    return msgspec.json.decode(output, type=list[Pair])


def _line(name: str, items: int, pairs: Sequence[Pair]) -> str:
    def each(seconds: Callable[[Pair], float]) -> float:
        return statistics.median(map(seconds, pairs)) / items * 1e6

    ratios = sorted(pair.parts.cpu / pair.plain.cpu for pair in pairs)
    walls = sorted(pair.parts.wall / pair.plain.wall for pair in pairs)
    spread = f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return (
        f"{name:<20}{statistics.median(ratios):7.3f} {spread:<18}"
        f"{each(lambda pair: pair.parts.cpu):7.1f} {each(lambda pair: pair.plain.cpu):7.1f}"
        f"{statistics.median(walls):9.3f}"
    )


def _compare(chosen: Any) -> None:
    items = chosen.items or (400 if chosen.quick else _ITEMS)
    pairs = chosen.pairs or (1 if chosen.quick else _PAIRS)
    with tempfile.TemporaryDirectory() as folder, serving() as server:
        ids = Path(folder) / "ids.txt"
        ids.write_text("".join(f"user_{number}\n" for number in range(items)), "utf-8")
        print(f"{describe()}, {server.name}")
        print(f"{items:,} ids in parts of {chosen.part_size:,}, {pairs} pairs of runs of each\n")
        print(f"{'':<20}{'CPU time, parts / plain':<26}{'µs each':>15}{'wall':>9}")
        for name in chosen.store:
            for loop in chosen.loop:
                with _started(name) as store:
                    work = Work(
                        api=server.url,
                        store=store.url,
                        ids=str(ids),
                        part_size=chosen.part_size,
                        pairs=pairs,
                        loop=loop,
                        concurrency=chosen.concurrency,
                    )
                    found = _measure(server, work, items)
                    space = store.size() / items / (pairs + 1)
                    line = _line(f"{name}, {loop}", items, found)
                    print(f"{line}   {space:.1f} bytes an id in the store", flush=True)


class _Unread:
    """
    An input of *n* ids that nobody reads.

    Its description of a part is as long as that of a file of 1.5 GB.
    """

    def __init__(self, items: int) -> None:
        self._items = items

    def plan(self, part_size: int) -> Plan:
        """Divide nothing into parts."""
        digest = "0123456789abcdef" * 2
        parts = [
            PartPlan(
                part_size,
                {
                    "start": first * 15,
                    "end": (first + part_size) * 15,
                    "line": first,
                    "digest": digest,
                },
            )
            for first in range(0, self._items, part_size)
        ]
        return Plan(source={"kind": "query", "digest": digest}, parts=parts)

    def read(self, description: dict[str, Any], part: dict[str, Any]) -> list[Item]:
        """Raise an error."""
        raise NotImplementedError


async def _show_plan(store: _Store, items: int, part_size: int) -> None:
    async with JobStore(store.url) as opened, AdaptyClient(KEY, base_url=_ORIGIN) as adapty:
        call, source = adapty.v1.profiles.bulk_delete, _Unread(items)
        began = time.perf_counter()
        job = await opened.plan("large", call, source, by="customer_user_id", part_size=part_size)
        print(f"  planned in {time.perf_counter() - began:.1f} s")
        await _show_report(job, store)
        await asyncio.to_thread(store.fill)
        await _show_report(job, store)


async def _show_report(job: Job, store: _Store) -> None:
    size = await asyncio.to_thread(store.size)
    began = time.perf_counter()
    report = await job.report()
    seconds = time.perf_counter() - began
    print(f"  {size / 1e6:,.0f} MB, report in {seconds:.2f} s: {report!r}", flush=True)


def main() -> None:
    """Run the chosen benchmark and print the results."""
    parser = options(__doc__)
    parser.add_argument("--store", nargs="+", choices=_STORES, default=_STORES)
    parser.add_argument("--loop", nargs="+", choices=LOOPS, default=LOOPS)
    parser.add_argument("--items", type=int, help="ids of a run, by default 20,000")
    parser.add_argument("--part-size", type=int, default=_PART_SIZE)
    parser.add_argument("--pairs", type=int, help="pairs of runs, by default 9")
    parser.add_argument("--concurrency", type=int, help="requests in flight, by default adaptive")
    parser.add_argument("--plan", type=int, metavar="IDS", help="plan a job of so many ids")
    chosen = parser.parse_args()
    if SERVER:
        os.sched_setaffinity(0, SERVER)  # inherited by the store; the client has its own processor
    if not chosen.plan:
        _compare(chosen)
        return
    print(f"{describe()}\n{chosen.plan:,} ids in parts of {chosen.part_size:,}")
    for name in chosen.store:
        print(name)
        with _started(name) as store:
            asyncio.run(_show_plan(store, chosen.plan, chosen.part_size))


if __name__ == "__main__":
    main()
