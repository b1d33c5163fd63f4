"""
A runner for all benchmarks: ``python -m benchmarks --record``, or ``--quick`` for a smoke test.

Recorded results are written to ``benchmarks/results`` and from there to ``docs/speed.md``. Each
benchmark also has options of its own: ``python -m benchmarks.bench_overhead --help``.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks._options import options
from benchmarks._page import write

__all__ = ("main",)

_BENCHMARKS = ("import", "codec", "input", "overhead", "profile", "peers", "memory", "scale")
# Their results are on no page, or take hours: ``make bench-goodput``.
_WITHOUT_RECORD = ("goodput", "jobs")


def main() -> None:
    """Run all benchmarks."""
    parser = options(__doc__)
    parser.add_argument("--only", nargs="+", choices=_BENCHMARKS, default=_BENCHMARKS)
    chosen = parser.parse_args()
    arguments = [f"--{how}" for how in ("quick", "record") if getattr(chosen, how)]
    names = (*chosen.only, *_WITHOUT_RECORD) if chosen.quick else chosen.only
    for name in names:
        print(f"\n== {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.bench_{name}", *arguments]
        status = subprocess.run(command, check=False).returncode
        if status:
            raise SystemExit(f"bench_{name} failed")
    if chosen.record:
        write()


if __name__ == "__main__":
    main()
