"""
A benchmark of the cost per item with more items, more requests in flight and more processes.

Run it as ``python -m benchmarks.bench_scale``. With a server, ten million items need ten minutes.
The same numbers also run with a transport in the process, which shows the cost of the library.

Below a million items, the first run of a process does not count: it also imports modules lazily,
which takes about 20 ms.
"""

from __future__ import annotations

import statistics

import msgspec

from benchmarks._machine import describe
from benchmarks._nginx import CheapServer, serving
from benchmarks._options import options
from benchmarks._results import read, record
from benchmarks._work import Costs, Order, Work, run_together

__all__ = ("NAME", "Row", "main")

NAME = "scale"
_IN_PROCESS = "bulk_delete in process"
_ITEMS = 20_000
# From this number of items on, a process does one run without a warm-up; over the network, or with
# ten times as many items, there is one process only, since it needs minutes.
_MANY = 1_000_000
_COUNTED = 3
_MOST = 10_000_000


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """
    The median result of a run.

    Attributes:
        about: the variable of the series: ``items``, ``in flight`` or ``processes``.
        job: the job that ran.
        items: the number of items in all processes together.
        cpu: processor time, in microseconds per item.
        rate: items per second.
    """

    about: str
    job: str
    over: str
    items: int
    workers: int = 64
    processes: int = 1
    runs: int = 1
    cpu: float = 0.0
    rate: float = 0.0

    @property
    def key(self) -> str:
        """The key that identifies the same run in another recording."""
        return f"{self.about}, {self.job}, {self.items}, {self.workers}, {self.processes}"


class _Sizes(msgspec.Struct, frozen=True, kw_only=True):
    compared: tuple[int, ...] = (1_000, 10_000, 100_000)
    networked: tuple[int, ...] = (1_000_000, 10_000_000)
    in_process: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
    workers: tuple[int, ...] = (1, 4, 16, 64, 256, 1_024)
    processes: tuple[int, ...] = (1, 2)
    items: int = _ITEMS
    runs: int = 5


_QUICK = _Sizes(
    compared=(1_000,),
    networked=(),
    in_process=(1_000, 10_000),
    workers=(256,),
    processes=(2,),
    items=500,
    runs=1,
)


def _rows(sizes: _Sizes, over: str) -> list[Row]:
    """Return the rows to run, without measurements."""
    both = ("bulk_delete", "raw delete")
    rows = [
        Row(about="items", job=job, over=over, items=items)
        for items in sizes.compared
        for job in both
    ]
    rows += [
        Row(about="items", job="bulk_delete", over=over, items=items) for items in sizes.networked
    ]
    rows += [
        Row(about="items", job=_IN_PROCESS, over="no server", items=items)
        for items in sizes.in_process
    ]
    rows += [
        Row(about="in flight", job=job, over=over, items=sizes.items, workers=workers)
        for workers in sizes.workers
        for job in both
    ]
    rows += [
        Row(about="processes", job=job, over=over, items=2 * sizes.items, processes=processes)
        for processes in sizes.processes
        for job in both
    ]
    return rows


def _measure(server: CheapServer, row: Row) -> list[Costs]:
    url = "" if row.job == _IN_PROCESS else server.url
    work = Work(url=url, items=row.items // row.processes, workers=row.workers)
    jobs = (row.job,) * (1 if row.items >= _MANY else 1 + _COUNTED)
    with server.expecting(row.items * len(jobs) if url else 0, row.key):
        return run_together([Order(jobs=jobs, work=work)] * row.processes)


def _summary(row: Row, runs: list[list[Costs]]) -> Row:
    costs = [
        together
        for each in runs
        for together in zip(*(result.costs[-_COUNTED:] for result in each), strict=True)
    ]
    wall = statistics.median(max(cost.wall for cost in each) for each in costs)
    cpu = statistics.median(sum(cost.cpu for cost in each) for each in costs)
    return msgspec.structs.replace(
        row, runs=len(costs), cpu=cpu / row.items * 1e6, rate=row.items / wall
    )


def _line(row: Row, before: Row | None) -> str:
    line = (
        f"{row.about:<11}{row.job:<24}{row.over:<18}{row.items:>11,}{row.workers:>10,}"
        f"{row.processes:>10}{row.cpu:>9.1f}{row.rate:>10,.0f}"
    )
    return line if before is None else f"{line}{before.cpu:>10.1f}"


def main() -> None:
    """Run each row several times in turn, and print the cost of an item."""
    parser = options(__doc__)
    parser.add_argument("--most", type=int, default=_MOST, help="leave larger runs out")
    parser.add_argument("--runs", type=int, help="processes of each, by default 5")
    chosen = parser.parse_args()
    sizes = _QUICK if chosen.quick else _Sizes()
    count = chosen.runs or sizes.runs
    recorded = read(NAME, Row)
    before = {} if recorded is None else {row.key: row for row in recorded.rows}
    with serving() as server:
        print(f"{describe()}, {server.name}\n")
        rows = [row for row in _rows(sizes, server.name) if row.items <= chosen.most]
        runs: dict[str, list[list[Costs]]] = {row.key: [] for row in rows}
        for number in range(count):
            for row in rows:
                once = _MOST if row.job == _IN_PROCESS else _MANY
                if not number or row.items < once:
                    runs[row.key].append(_measure(server, row))
        rows = [_summary(row, runs[row.key]) for row in rows]
        title = f"{'items':>11}{'in flight':>10}{'processes':>10}{'CPU µs':>9}{'items/s':>10}"
        print(f"{'':<53}{title}{'recorded':>10}")
        for row in rows:
            print(_line(row, before.get(row.key)))
    if chosen.record:
        record(NAME, rows, server.name)


if __name__ == "__main__":
    main()
