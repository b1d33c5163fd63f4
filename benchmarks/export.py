"""
A benchmark of the memory of an export in chunks, through throttling and a broken connection.

Run it as ``python -m benchmarks.export``. The server throttles two requests and resets a connection
in the middle of a body. The file must have all rows in order, none of them twice, and the export
must add less than 15 MB to the memory of the client's process. The exit code is 0 if both hold. By
default the file has 4.8 GB.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import hashlib
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks._export_client import Exported, Order
from benchmarks._export_server import ExportServer, months_of
from benchmarks._machine import describe

__all__ = ("ADDED_MB", "Result", "measure")

#: The bound of the memory that an export adds to that of its process, in MB.
ADDED_MB = 15.0
_FIRST = dt.date(2024, 1, 1)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """
    The result of an export.

    Attributes:
        exported: the result of the client's process.
        retried: requests in addition to one for each month.
        is_complete: the file has the rows of all months in order, each once.
    """

    exported: Exported
    retried: int
    is_complete: bool


async def measure(
    server: ExportServer, count: int, folder: Path, rate: float | None = None
) -> Result:
    """Export a number of months in a process of its own, and check the file."""
    months = months_of(_FIRST, count + 1)
    last = dt.date.fromisoformat(months.pop()) - dt.timedelta(days=1)
    path = folder / "export.csv"
    async with server:
        order = Order(
            url=server.url, first=months[0], last=last.isoformat(), path=str(path), rate=rate
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-W",
            "error",
            "-m",
            "benchmarks._export_client",
            msgspec.json.encode(order).decode(),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"the client ended with {process.returncode}")
    return Result(
        exported=msgspec.json.decode(output, type=Exported),
        retried=len(server.requests) - count,
        is_complete=_digest(path) == server.digest(months) and _is_alone(path),
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_alone(path: Path) -> bool:
    return list(path.parent.iterdir()) == [path]


def main() -> None:
    """Run the benchmark and print its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--months", type=int, default=24)
    parser.add_argument("--megabytes", type=int, default=200, help="of each response")
    parser.add_argument("--rate", type=float, help="requests per second, by default 2")
    options = parser.parse_args()
    print(describe(), flush=True)
    server = ExportServer(options.megabytes * 1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(measure(server, options.months, Path(folder), options.rate))
    done = result.exported
    print(
        f"{done.chunks} chunks, {done.size / 1e6:,.0f} MB in {done.seconds:.1f} s, "
        f"{result.retried} retries, memory {done.idle_mb:.1f} MB before, peak {done.peak_mb:.1f} MB"
    )
    if not result.is_complete:
        raise SystemExit("the file is not complete, or has something twice")
    if done.added_mb >= ADDED_MB:
        raise SystemExit(f"the export did not add less than {ADDED_MB:g} MB")


if __name__ == "__main__":
    main()
