"""
A bulk delete through the library, beside a plain aiohttp worker loop on the same server.

Run it as ``python -m benchmarks.bench_bulk``. Each run is a process of its own; the two take turns,
and the ratios are medians over the pairs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

from benchmarks._bulk_client import ids
from benchmarks._machine import describe
from benchmarks._server import Server, running_sandbox

_CONCURRENCY = 64


def measure(kind: str, server: Server, items: int) -> dict[str, float]:
    """
    Make one run and check with the server that it did what it says.
    """
    server.seed(ids(items))
    command = [sys.executable, "-m", "benchmarks._bulk_client", kind]
    arguments = [server.url, server.api_key, str(items), str(_CONCURRENCY)]
    output = subprocess.run([*command, *arguments], check=True, capture_output=True).stdout
    measured: dict[str, float] = json.loads(output)
    left = server.state()["v1_profiles"]
    if measured["done"] != items or left:
        raise SystemExit(f"{kind}: {measured['done']} of {items} done, {left} left at the server")
    print(
        f"  {kind:<8} {measured['wall']:7.2f} s   {measured['cpu'] / items * 1e6:6.1f} µs CPU/item"
        f"   {items / measured['wall']:7,.0f}/s   peak {measured['peak_mb']:5.1f} MB",
        flush=True,
    )
    return measured


def main() -> None:
    """
    Run the pairs and print the ratios.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    print(describe())
    print(f"{options.items:,} deletes, concurrency {_CONCURRENCY}, sandbox in its own process\n")
    with running_sandbox() as server:
        pairs = [
            (measure("aiohttp", server, options.items), measure("ours", server, options.items))
            for _ in range(options.pairs)
        ]
    for name in ("wall", "cpu"):
        ratio = statistics.median(ours[name] / plain[name] for plain, ours in pairs)
        print(f"\nours / plain aiohttp, {name} time: {ratio:.2f}", end="")
    print(f"\npeak memory of ours: {max(ours['peak_mb'] for _, ours in pairs):.1f} MB")


if __name__ == "__main__":
    main()
