"""
What keeping a journal costs a bulk delete: the same run with and without, taking turns.

Run it as ``python -m benchmarks.bench_journal``.
"""

from __future__ import annotations

import argparse
import statistics

from benchmarks._machine import describe
from benchmarks._server import running_sandbox
from benchmarks.bench_bulk import measure

_KINDS = ("ours", "position", "digest")


def main() -> None:
    """
    Run the rounds and print the ratios.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(describe())
    print(f"{options.items:,} deletes; each entry is synced to the disk before it counts\n")
    with running_sandbox() as server:
        rounds = [
            {kind: measure(kind, server, options.items) for kind in _KINDS}
            for _ in range(options.rounds)
        ]
    for kind in _KINDS[1:]:
        for name in ("wall", "cpu"):
            ratio = statistics.median(each[kind][name] / each["ours"][name] for each in rounds)
            print(f"journal by {kind} / without, {name} time: {ratio:.2f}")


if __name__ == "__main__":
    main()
