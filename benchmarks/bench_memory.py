"""
A benchmark of the memory of runs, and of its growth with the number of items.

Run it as ``python -m benchmarks.bench_memory``. Each figure is the peak of a process of its own,
most of which belongs to the interpreter, the libraries and the benchmark.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks._machine import CLIENT, describe, pin
from benchmarks._nginx import CheapServer, serving
from benchmarks._options import options
from benchmarks._raw import KEY
from benchmarks._results import read, record
from benchmarks._samples import ids
from benchmarks._work import Costs, Order, Work, run

__all__ = ("NAME", "Row", "main")

NAME = "memory"
_FEW, _MANY, _MOST = 20_000, 1_000_000, 10_000_000
_CALLS = 1_000


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """
    The result of a process.

    Attributes:
        over: the server or the transport.
        workers: calls in flight, None if the client decides.
        peak_mb: peak of its memory, in MB.
        seconds: elapsed time; None if it was not measured.
    """

    name: str
    over: str
    items: int
    workers: int | None
    peak_mb: float
    seconds: float | None = None

    @property
    def key(self) -> str:
        """The key that identifies the same process in another recording."""
        return f"{self.name}, {self.items}, {self.over}"


def _row(name: str, over: str, work: Work, result: Costs) -> Row:
    return Row(
        name=name,
        over=over,
        items=work.items,
        workers=work.workers,
        peak_mb=result.peak_mb,
        seconds=result.costs[0].wall,
    )


def _over_the_network(server: CheapServer, name: str, job: str, work: Work) -> Row:
    with server.expecting(work.items, name):
        return _row(name, server.name, work, run(Order(jobs=(job,), work=work)))


def _in_process(items: int) -> Row:
    work = Work(items=items)
    order = Order(jobs=("bulk_delete in process",), work=work)
    return _row("bulk_delete of a generator", "no server", work, run(order))


def _from_a_file(server: CheapServer, items: int) -> Row:
    """Measure the command line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ids.txt"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(f"{each}\n" for each in ids(items))
        arguments = f"delete {path} --api v1 --by customer-user-id --yes --json".split()
        with server.expecting(items, "the command line"):
            peak_mb = _command(arguments, server, items)
    return Row(
        name="adapty-async delete of a file",
        over=server.name,
        items=items,
        workers=None,
        peak_mb=peak_mb,
    )


def _command(arguments: list[str], server: CheapServer, items: int) -> float:
    environment = os.environ | {"ADAPTY_API_KEY": KEY, "ADAPTY_BASE_URL": server.url}
    command = [sys.executable, "-m", "benchmarks._command", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment) as process:
        pin(process.pid, CLIENT)
        output, complaint = process.communicate()
    if process.returncode:
        raise SystemExit(f"the command line failed: {complaint.decode()}")
    report, _, peak_mb = output.decode().rstrip().rpartition("\n")
    if json.loads(report)["done"] != items:
        raise SystemExit(f"the command line: {report}")
    return float(peak_mb)


def _line(row: Row, before: Row | None) -> str:
    workers = "" if row.workers is None else f"{row.workers:,}"
    seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
    line = (
        f"{row.name:<32}{row.over:<18}{row.items:>11,}{workers:>10}{row.peak_mb:>9.1f}{seconds:>9}"
    )
    return line if before is None else f"{line}{before.peak_mb:>10.1f}"


def main() -> None:
    """Run each process and print its peak."""
    parser = options(__doc__)
    parser.add_argument("--items", type=int, help="the most items, by default 10,000,000")
    parser.add_argument("--served", type=int, help="the most over a server, by default 1,000,000")
    chosen = parser.parse_args()
    most = chosen.items or (20_000 if chosen.quick else _MOST)
    few = 500 if chosen.quick else _FEW
    many = chosen.served or (2_000 if chosen.quick else _MANY)
    recorded = read(NAME, Row)
    before = {} if recorded is None else {row.key: row for row in recorded.rows}
    rows = []

    def report(row: Row) -> None:
        rows.append(row)
        print(_line(row, before.get(row.key)), flush=True)

    with serving() as server:
        print(f"{describe()}, {server.name}\n")
        title = f"{'items':>11}{'in flight':>10}{'peak MB':>9}{'seconds':>9}{'recorded':>10}"
        print(f"{'':<50}{title}")
        for items in (few, many):
            work = Work(url=server.url, items=items)
            report(_over_the_network(server, "bulk_delete of a generator", "bulk_delete", work))
        for items in (few, most):
            report(_in_process(items))
        for items in (few, many):
            report(_from_a_file(server, items))
        work = Work(url=server.url, items=max(_CALLS, few), workers=_CALLS)
        for name, job in (("single calls, typed", "get v2"), ("the same by hand", "raw get v2")):
            report(_over_the_network(server, name, job, work))
    if chosen.record:
        record(NAME, rows, server.name)


if __name__ == "__main__":
    main()
