"""
A benchmark of checking a file of transactions, compared with reading it by another library alone.

The others are `csv`, msgspec, pyarrow and calamine. Run it as ``python -m benchmarks.bench_input``.
A dry run of ``import-transactions`` reads the file
twice, builds each transaction and validates it; nothing is sent. Times are processor time, the
median of several runs in turn, the start of the command line included.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import openpyxl
import pyarrow as pa
import python_calamine
from click.testing import CliRunner
from pyarrow import parquet

from adapty_async.cli._v2_commands import cli
from benchmarks._machine import CLIENT, describe, pin
from benchmarks._options import options
from benchmarks._results import read, record

__all__ = ("NAME", "Row", "main")

NAME = "input"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """
    A file of one format, read in two ways.

    Attributes:
        rows: transactions in the file.
        ours: processor time of a dry run, in microseconds per row.
        alone: processor time of the other library alone, in microseconds per row.
    """

    format: str
    rows: int
    ours: float
    alone: float

    @property
    def ratio(self) -> float:
        """The time of a dry run as a multiple of reading alone."""
        return self.ours / self.alone


def _transaction(number: int) -> dict[str, Any]:
    moment = f"2026-01-{1 + number % 28:02}T10:30:{number % 60:02}Z"
    return {
        "customer_user_id": f"user_{number // 3}",
        "purchase_type": "subscription",
        "store": "app_store",
        "store_product_id": "premium_monthly",
        "store_transaction_id": f"{2_000_000_000_000 + number}",
        "store_original_transaction_id": f"{2_000_000_000_000 + number // 3}",
        "purchased_at": moment,
        "originally_purchased_at": moment,
        "expires_at": "2036-01-31T10:30:00Z",
        "renew_status": "true",
        "price.country": "US",
        "price.currency": "USD",
        "price.value": "4.99",
    }


def _write(folder: Path, count: int) -> list[Path]:
    rows = [_transaction(number) for number in range(count)]
    paths = [folder / f"transactions.{suffix}" for suffix in _ALONE]
    cells, lines, table, sheet = paths
    with cells.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    lines.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    parquet.write_table(pa.Table.from_pylist(rows), table)
    book = openpyxl.Workbook(write_only=True)
    page = book.create_sheet()
    for row in ([*rows[0]], *([*row.values()] for row in rows)):
        page.append(row)
    book.save(sheet)
    return paths


def _dry_run(path: Path, count: int) -> None:
    arguments = ["import-transactions", str(path), "--by", "customer-user-id"]
    result = CliRunner().invoke(cli, [*arguments, "--dry-run", "--json"], catch_exceptions=False)
    report = msgspec.json.decode(result.stdout)
    if (report["total"], report["failed"]) != (count, 0):
        raise SystemExit(f"not all rows can be sent: {result.stdout}")


def _csv_alone(path: Path, _count: int) -> None:
    with path.open(encoding="utf-8", newline="") as file:
        for _ in csv.reader(file):
            pass


def _msgspec_alone(path: Path, _count: int) -> None:
    decode = msgspec.json.decode
    with path.open("rb") as file:
        for line in file:
            decode(line)


def _pyarrow_alone(path: Path, _count: int) -> None:
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(use_threads=False):
            for column in batch.columns:
                column.to_pylist()


def _calamine_alone(path: Path, _count: int) -> None:
    for _ in python_calamine.load_workbook(path).get_sheet_by_index(0).iter_rows():
        pass


_ALONE = {
    "csv": _csv_alone,
    "ndjson": _msgspec_alone,
    "parquet": _pyarrow_alone,
    "xlsx": _calamine_alone,
}


def _time(read_file: Callable[[Path, int], None], path: Path, count: int) -> float:
    before = time.process_time()
    read_file(path, count)
    return (time.process_time() - before) / count * 1e6


def _measured(form: str, path: Path, count: int, rounds: int) -> Row:
    alone = _ALONE[form]
    _dry_run(path, count)  # loads modules that are imported lazily
    turns = [(_time(_dry_run, path, count), _time(alone, path, count)) for _ in range(rounds)]
    ours, others = (statistics.median(times) for times in zip(*turns, strict=True))
    return Row(format=form, rows=count, ours=ours, alone=others)


def main() -> None:
    """Measure all formats and print them."""
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    count, rounds = (500, 1) if chosen.quick else (20_000, chosen.rounds)
    pin(os.getpid(), CLIENT)
    os.environ.pop("ADAPTY_API_KEY", None)
    recorded = read(NAME, Row)
    before = {} if recorded is None else {row.format: row.ratio for row in recorded.rows}
    head = f"{'':<10}{'rows/s':>10}{'µs':>8}{'alone µs':>10}{'ratio':>8}{'recorded':>10}"
    print(f"{describe()}\n\n{head}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for form, path in zip(_ALONE, _write(Path(folder), count), strict=True):
            row = _measured(form, path, count, rounds)
            rows.append(row)
            line = f"{form:<10}{1e6 / row.ours:>10,.0f}{row.ours:>8.1f}{row.alone:>10.2f}"
            then = f"{before[form]:>10.1f}" if form in before else ""
            print(f"{line}{row.ratio:>8.1f}{then}", flush=True)
    if chosen.record:
        record(NAME, rows)


if __name__ == "__main__":
    main()
