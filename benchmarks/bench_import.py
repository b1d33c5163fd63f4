"""
A benchmark of importing the library, beyond its dependencies, and of the size of an install.

Run it as ``python -m benchmarks.bench_import``. Each import is measured in a new interpreter, in
processor time. The install is one of the library without extras in a new environment, without pip.
"""

from __future__ import annotations

import importlib.metadata
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks._machine import CLIENT, describe, pin
from benchmarks._options import options
from benchmarks._results import read, record

__all__ = ("NAME", "Row", "main")

NAME = "import"
_TIMED = """
import time
started = time.process_time()
import aiohttp, anyio, msgspec, tenacity
between = time.process_time()
import adapty_async
print(between - started, time.process_time() - between)
"""
_MEGABYTE = 1_000_000
_PROJECT = Path(__file__).parent.parent
_NOT_OURS = frozenset({"pip", "setuptools"})


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A figure and its unit, with minimum and maximum if it was measured more than once."""

    what: str
    unit: str
    value: float
    low: float | None = None
    high: float | None = None


def _import_times(count: int) -> list[Row]:
    both: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        # an installed package is compiled once; the environment may prevent it for a checkout
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        command = [sys.executable, "-c", _TIMED]
        for _ in range(count + 1):
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, env=environment
            ) as process:
                pin(process.pid, CLIENT)
                output, _error = process.communicate()
            others, ours = map(float, output.split())
            both.append((1e3 * others, 1e3 * ours))
    del both[0]  # it includes compilation
    return [
        _median("import of aiohttp, anyio, msgspec and tenacity", [each[0] for each in both]),
        _median("import of adapty_async after them", [each[1] for each in both]),
    ]


def _median(what: str, values: list[float]) -> Row:
    middle = statistics.median(values)
    return Row(what=what, unit="ms", value=middle, low=min(values), high=max(values))


def _install() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "--no-input"]
        subprocess.run([*pip, str(_PROJECT)], check=True, stderr=subprocess.DEVNULL)
        [packages] = Path(folder).glob("lib/python*/site-packages")
        installed = [
            each
            for each in importlib.metadata.distributions(path=[str(packages)])
            if each.metadata["Name"] not in _NOT_OURS
        ]
        files = {Path(str(file.locate())) for each in installed for file in each.files or ()}
        sizes = {path: path.stat().st_size for path in files if path.exists()}
    compiled = sum(size for path, size in sizes.items() if path.suffix == ".pyc")
    total = sum(sizes.values())
    return [
        Row(what="distributions of a base install", unit="", value=len(installed)),
        Row(what="size of a base install", unit="MB", value=total / _MEGABYTE),
        Row(what="of that, compiled by pip", unit="MB", value=compiled / _MEGABYTE),
    ]


def _line(row: Row, before: Row | None) -> str:
    spread = "" if row.low is None or row.high is None else f"{row.low:.1f} to {row.high:.1f}"
    line = f"{row.what:<50}{row.value:>8.1f} {row.unit:<4}{spread:<18}"
    return line if before is None else f"{line}recorded {before.value:.1f}"


def main() -> None:
    """Measure imports and the install, and print them."""
    parser = options(__doc__)
    parser.add_argument("--runs", type=int, help="imports, by default 31")
    chosen = parser.parse_args()
    recorded = read(NAME, Row)
    before = {} if recorded is None else {row.what: row for row in recorded.rows}
    print(f"{describe()}\n")
    rows = _import_times(chosen.runs or (3 if chosen.quick else 31))
    if not chosen.quick:
        rows += _install()
    for row in rows:
        print(_line(row, before.get(row.what)))
    if chosen.record:
        record(NAME, rows)


if __name__ == "__main__":
    main()
