"""
A benchmark of the same deletes with other libraries and by hand: processor time and memory.

Run it as ``python -m benchmarks.bench_peers``. Each run is a process of its own, and clients
alternate. The first job of a process does not count, nor do its imports.
"""

from __future__ import annotations

import importlib.util
import statistics

import msgspec

from benchmarks._machine import LOOPS, describe
from benchmarks._nginx import CheapServer, serving
from benchmarks._options import options
from benchmarks._peers import PEERS
from benchmarks._results import read, record
from benchmarks._work import Costs, Order, Work, run

__all__ = ("NAME", "Row", "main")

NAME = "peers"
_CLIENTS = {"adapty_async": "bulk_delete", "aiohttp by hand": "raw delete"}
_CLIENTS |= {name: name for name in PEERS}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """
    The median result of a client on one event loop.

    Attributes:
        cpu, wall: processor and elapsed time, in microseconds per item.
        low, high: minimum and maximum of the processor time, in microseconds per item.
        peak_mb: peak of the memory, in MB.
    """

    name: str
    loop: str
    items: int
    runs: int
    cpu: float
    low: float
    high: float
    wall: float
    peak_mb: float

    @property
    def key(self) -> str:
        """The key that identifies the same client in another recording."""
        return f"{self.name}, {self.loop}"


def _able(name: str) -> bool:
    package = PEERS[name].package if name in PEERS else None
    if package is None or importlib.util.find_spec(package):
        return True
    print(f"{name}: left out, it is not installed (pip install --group bench)")
    return False


def _items(name: str, items: int) -> int:
    return max(1, round(items * PEERS[name].share)) if name in PEERS else items


def _run(server: CheapServer, name: str, loop: str, items: int) -> Costs:
    work = Work(url=server.url, items=items)
    with server.expecting(2 * items, name):
        return run(Order(jobs=(_CLIENTS[name],) * 2, work=work, loop=loop))


def _row(name: str, loop: str, items: int, runs: list[Costs]) -> Row:
    cpu = [result.costs[1].cpu / items * 1e6 for result in runs]
    return Row(
        name=name,
        loop=loop,
        items=items,
        runs=len(runs),
        cpu=statistics.median(cpu),
        low=min(cpu),
        high=max(cpu),
        wall=statistics.median(result.costs[1].wall / items * 1e6 for result in runs),
        peak_mb=max(result.peak_mb for result in runs),
    )


def _line(row: Row, raw: float, before: Row | None) -> str:
    line = (
        f"{row.key:<34}{row.items:>8,}{row.cpu:>9.1f}{row.low:>9.1f}{row.high:>9.1f}"
        f"{row.cpu / raw:>9.2f}{row.wall:>9.1f}{row.peak_mb:>9.1f}"
    )
    return line if before is None else f"{line}{before.cpu:>9.1f}"


def main() -> None:
    """Run all clients in turn and print the result of each."""
    parser = options(__doc__)
    parser.add_argument("--items", type=int, help="deletes in a run, by default 20,000")
    parser.add_argument("--runs", type=int, help="runs of each, by default 5")
    chosen = parser.parse_args()
    items = chosen.items or (500 if chosen.quick else 20_000)
    count = chosen.runs or (1 if chosen.quick else 5)
    recorded = read(NAME, Row)
    before = {} if recorded is None else {row.key: row for row in recorded.rows}
    names = list(filter(_able, _CLIENTS))
    loops = LOOPS[:1] if chosen.quick else LOOPS
    keys = [(name, loop, _items(name, items)) for loop in loops for name in names]
    with serving() as server:
        print(f"{describe()}, {server.name}\n")
        runs = [[_run(server, *key) for key in keys] for _ in range(count)]
        title = ("items", "CPU µs", "least", "most", "of raw", "wall µs", "peak MB", "recorded")
        print(" " * 34 + "".join(f"{word:>9}" for word in title)[1:])
        rows = [
            _row(*key, list(each)) for key, each in zip(keys, zip(*runs, strict=True), strict=True)
        ]
        raw = {row.loop: row.cpu for row in rows if row.name == "aiohttp by hand"}
        for row in rows:
            print(_line(row, raw[row.loop], before.get(row.key)))
    if chosen.record:
        record(NAME, rows, server.name)


if __name__ == "__main__":
    main()
