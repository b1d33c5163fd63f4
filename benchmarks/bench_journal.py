"""
What keeping a journal costs a bulk delete: the same run with and without, taking turns.

Run it as ``python -m benchmarks.bench_journal``. The server is a cheap one without a limit, in a
process of its own, so that what is measured is the client. The runs take turns in one process:
machines get faster and slower within minutes, and neighbours share that.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import statistics
import time
from collections.abc import Callable, Coroutine
from typing import TypeAlias

from benchmarks._bulk_client import ours, with_journal
from benchmarks._limit_models import LimitSettings, Rates
from benchmarks._limited_server import ServerSettings, running
from benchmarks._machine import describe

__all__ = ("main",)

Job: TypeAlias = Callable[[str, str, int, int], Coroutine[None, None, int]]

_JOBS: dict[str, Job] = {
    "without": ours,
    "position": functools.partial(with_journal, job_id="benchmark"),
    "digest": functools.partial(with_journal, job_id=None),
}
_CONCURRENCY = 64
_NO_LIMIT = LimitSettings(rates=Rates(((0.0, 1e9),)), burst=1e9)


def _measure(kind: str, url: str, items: int) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    done = asyncio.run(_JOBS[kind](url, "secret_live_KEY", items, _CONCURRENCY))
    measured = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    if done != items:
        raise SystemExit(f"{kind}: {done} of {items} done")
    return measured


def main() -> None:
    """
    Run the rounds and print the ratios.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(describe())
    print(f"{options.items:,} deletes, concurrency {_CONCURRENCY}, {options.rounds} rounds\n")
    settings = ServerSettings(
        items=options.items, limit=_NO_LIMIT, latency=0.0, retry_after=None, seed=1
    )
    with running(settings) as server:
        _measure("without", server.url, options.items)  # what is made once is made here
        rounds = [
            {kind: _measure(kind, server.url, options.items) for kind in _JOBS}
            for _ in range(options.rounds)
        ]
    for name in ("wall", "cpu"):
        usual = statistics.median(each["without"][name] for each in rounds) / options.items
        print(f"without, {name} time: {1e6 * usual:.0f} µs an item")
        for kind in [kind for kind in _JOBS if kind != "without"]:
            ratios = sorted(each[kind][name] / each["without"][name] for each in rounds)
            spread = f"from {ratios[0]:.2f} to {ratios[-1]:.2f}"
            print(f"journal by {kind} / without: {statistics.median(ratios):.3f}, {spread}")


if __name__ == "__main__":
    main()
