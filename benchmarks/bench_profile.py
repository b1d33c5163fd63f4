"""
A profile of one item of a bulk delete, and of the same delete by hand.

Run it as ``python -m benchmarks.bench_profile``. The processes are sampled every few milliseconds,
which gives shares; microseconds are processor time.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import PurePath

import msgspec

from benchmarks._machine import CLIENT, describe, pin
from benchmarks._nginx import CheapServer, serving
from benchmarks._options import options
from benchmarks._results import read, record
from benchmarks._sampler import Location, Sampled
from benchmarks._work import Order, Work

__all__ = ("NAME", "Row", "main")

NAME = "profile"
_JOBS = {
    "bulk_delete": "bulk_delete",
    "aiohttp by hand": "raw delete",
    "bulk_save": "bulk_save",
    "aiohttp by hand, save": "raw save",
}
_AIOHTTP = frozenset({"aiohttp", "aiosignal", "frozenlist", "multidict", "propcache", "yarl"})
_LOOP = frozenset({"asyncio", "selectors.py", "uvloop"})
_OURS = "adapty_async"
# Parts by class, by module or, for all other modules of it, by package.
_PARTS = {
    "_http/attempt:TimeoutScheduler": "timeouts",
    "_http": "sending and reading, over aiohttp",
    "_api/validation": "checking values",
    "_api": "encoding and decoding",
    "_pipeline/layers:LimitLayer": "rate limiting",
    "_pipeline/retry": "retries",
    "_pipeline": "counting attempts, turning responses into errors",
    "_flow/queues:KeyedLock": "the bulk run",
    "_flow": "rate limiting",
    "_runtime": "rate limiting",
    "_bulk/executor": "building the operation",
    "_bulk": "the bulk run",
    "mail": "building the operation",
    "v1": "building the operation",
    "v2": "building the operation",
}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """
    A component's part of the cost of an item.

    Attributes:
        share: its share of the total cost.
        cpu: processor time, in microseconds per item.
    """

    job: str
    part: str
    items: int
    share: float
    cpu: float

    @property
    def key(self) -> str:
        """The key that identifies the same part in another recording."""
        return f"{self.job}, {self.part}"


def _part(location: Location) -> str:
    """Return the component that a function belongs to."""
    steps = PurePath(location.file).parts
    if "benchmarks" in steps:
        return "the caller"
    if _OURS in steps:
        module = PurePath(*steps[steps.index(_OURS) + 1 :]).with_suffix("")
        owner = f"{module.as_posix()}:{location.function.partition('.')[0]}"
        names = (owner, module.as_posix(), module.parts[0])
        return f"ours: {next((_PARTS[name] for name in names if name in _PARTS), 'other')}"
    if _AIOHTTP.intersection(steps):
        return "aiohttp"
    if _LOOP.intersection(steps):
        return "event loop and sockets"
    return "other libraries"


def _sample(server: CheapServer, job: str, items: int) -> Sampled:
    order = Order(jobs=(_JOBS[job],), work=Work(url=server.url, items=items))
    command = [sys.executable, "-m", "benchmarks._sampler", msgspec.json.encode(order).decode()]
    with server.expecting(items, job):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            pin(process.pid, CLIENT)
            output, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{job}: the client failed")
    sampled = msgspec.json.decode(output, type=Sampled)
    if sampled.done != items:
        raise SystemExit(f"{job}: {sampled.done} of {items} done")
    return sampled


def _rows(job: str, sampled: Sampled, items: int) -> list[Row]:
    parts: Counter[str] = Counter()
    for location in sampled.locations:
        parts[_part(location)] += location.times
    each = sampled.cpu / items * 1e6
    total = max(1, parts.total())
    return [
        Row(job=job, part=part, items=items, share=times / total, cpu=each * times / total)
        for part, times in parts.most_common()
    ]


def _functions(sampled: Sampled, count: int) -> str:
    total = max(1, sum(location.times for location in sampled.locations))
    return "\n".join(
        f"    {location.times / total:6.1%}  {PurePath(location.file).name}: {location.function}"
        for location in sampled.locations[:count]
    )


def main() -> None:
    """Sample each job and print its parts."""
    parser = options(__doc__)
    parser.add_argument("--items", type=int, help="calls, by default 100,000")
    parser.add_argument("--functions", type=int, default=0, help="show the first so many, too")
    parser.add_argument("--only", nargs="+", choices=_JOBS, metavar="JOB")
    chosen = parser.parse_args()
    items = chosen.items or (2_000 if chosen.quick else 100_000)
    recorded = read(NAME, Row)
    before = {} if recorded is None else {row.key: row.cpu for row in recorded.rows}
    rows = []
    with serving() as server:
        print(f"{describe()}, {server.name}\n{items:,} items, 64 in flight\n")
        for job in chosen.only or list(_JOBS)[: 2 if chosen.quick else None]:
            sampled = _sample(server, job, items)
            print(f"{job}: {sampled.cpu / items * 1e6:.1f} µs of the processor an item")
            for row in _rows(job, sampled, items):
                rows.append(row)
                line = f"  {row.part:<58}{row.share:>7.1%}{row.cpu:>8.1f} µs"
                then = before.get(row.key)
                print(line if then is None else f"{line}   recorded {then:.1f}")
            print(_functions(sampled, chosen.functions), flush=True)
    if chosen.record:
        record(NAME, rows, server.name)


if __name__ == "__main__":
    main()
