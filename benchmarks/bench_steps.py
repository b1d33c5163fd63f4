"""
A count of the interpreter's steps for one deletion, by the library that takes them.

Run it as ``python -m benchmarks.bench_steps``. A step is one instruction of CPython's bytecode. The
machine and its other programs do not change the count, and code in C is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import PurePath
from types import FrameType
from typing import Any

from benchmarks import _ours, _raw
from benchmarks._machine import describe
from benchmarks._nginx import CheapServer, serving
from benchmarks._work import Work

__all__ = ("main",)

_JOBS = {
    "aiohttp by hand": _raw.JOBS["raw delete"],
    "bulk_delete": _ours.JOBS["bulk_delete"],
    "standard path": _ours.JOBS["bulk_delete standard"],
}
_AIOHTTP = frozenset({"aiohttp", "aiosignal", "frozenlist", "multidict", "propcache", "yarl"})
_LOOP = frozenset({"asyncio", "selectors.py"})
_OURS = "adapty_async"
# Items of the shorter of two runs, whose difference leaves out the fixed cost of a run.
_ITEMS = 200


def _library(file: str) -> str:
    parts = set(PurePath(file).parts)
    if _OURS in parts:
        return _OURS
    if parts & _AIOHTTP:
        return "aiohttp"
    return "asyncio" if parts & _LOOP else "other"


def _steps(run: Callable[[], object]) -> Counter[str]:
    """Return the steps of a function by file."""
    steps: Counter[str] = Counter()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            steps[frame.f_code.co_filename] += 1
        return trace

    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(None)
    return steps


def _count(server: CheapServer, name: str, items: int) -> Counter[str]:
    """Return the steps for one item, by library."""

    def run(count: int) -> None:
        asyncio.run(_JOBS[name](Work(url=server.url, items=count)))

    run(_ITEMS)  # imports and caches
    fixed = _steps(lambda: run(_ITEMS))
    steps: Counter[str] = Counter()
    for file, count in _steps(lambda: run(_ITEMS + items)).items():
        steps[_library(file)] += count - fixed[file]
    return Counter({library: round(count / items) for library, count in steps.items()})


def main() -> None:
    """Count the steps of each job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=400, help="calls, by default 400")
    items = parser.parse_args().items
    with serving() as server:
        print(f"{describe()}, {server.name}\n")
        for name in _JOBS:
            steps = _count(server, name, items)
            parts = ", ".join(f"{library} {count:,}" for library, count in steps.most_common())
            print(f"{name:<16}{steps.total():6,} steps: {parts}")


if __name__ == "__main__":
    main()
