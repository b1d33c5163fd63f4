"""
A benchmark of the overhead of the library over aiohttp by hand, for single calls and bulk runs.

Run it as ``python -m benchmarks.bench_overhead``. The jobs of a pair alternate, each in a
process of its own, with a server of minimal cost; the ratios are medians over the pairs of runs.
Only inconsistent counts are an error; times are reported.
"""

from __future__ import annotations

from benchmarks._machine import LOOPS, describe
from benchmarks._nginx import serving
from benchmarks._options import options
from benchmarks._ratios import Comparison, Pair, compare
from benchmarks._results import read, record

__all__ = ("NAME", "main")

NAME = "overhead"
_SINGLE = ("delete", "get", "get v2", "save")
_QUICK = ("get v2, 64 in flight", "bulk_delete", "bulk_save", "all on")

_PAIRS = {
    pair.name: pair
    for pair in (
        *(Pair(name=job, ours=job, other=f"raw {job}", workers=1) for job in _SINGLE),
        *(Pair(name=f"{job}, 64 in flight", ours=job, other=f"raw {job}") for job in _SINGLE),
        Pair(name="bulk_delete", ours="bulk_delete", other="raw delete"),
        Pair(name="bulk_delete alone", ours="bulk_delete alone", other="raw delete"),
        Pair(name="standard path", ours="bulk_delete standard", other="raw delete"),
        Pair(name="OpenTelemetry", ours="bulk_delete traced", other="raw delete traced"),
        Pair(name="our spans", ours="bulk_delete instrumented", other="bulk_delete"),
        Pair(name="our spans, 1 % sampled", ours="bulk_delete sampled", other="bulk_delete"),
        Pair(name="TLS", ours="bulk_delete", other="raw delete", tls=True),
        Pair(name="bulk_save", ours="bulk_save", other="raw save"),
        Pair(name="all on", ours="bulk_delete all on", other="raw delete"),
        Pair(
            name="journal by position",
            ours="bulk_delete journal by position",
            other="bulk_delete",
        ),
        Pair(name="journal by digest", ours="bulk_delete journal by digest", other="bulk_delete"),
        Pair(
            name="journal, deduped",
            ours="bulk_delete journal by digest",
            other="bulk_delete deduped",
        ),
    )
}


def _line(row: Comparison, before: Comparison | None) -> str:
    line = (
        f"{row.key:<34}{row.cpu!s:<24}{row.ours_cpu:7.1f} {row.other_cpu:7.1f}   "
        f"{row.wall.median:6.3f}{row.ours_wall:8.1f} {row.other_wall:7.1f}"
    )
    return line if before is None else f"{line}   {before.cpu.median:.3f}"


def main() -> None:
    """Run the pairs and print the ratios."""
    parser = options(__doc__)
    parser.add_argument("--only", nargs="+", choices=_PAIRS, metavar="NAME", help="not all pairs")
    parser.add_argument("--loop", nargs="+", choices=LOOPS, default=LOOPS)
    parser.add_argument("--items", type=int, help="calls in a run, by default 20,000")
    parser.add_argument("--pairs", type=int, help="pairs of runs, by default 9")
    parser.epilog = f"pairs: {', '.join(_PAIRS)}"
    chosen = parser.parse_args()
    names = chosen.only or (_QUICK if chosen.quick else _PAIRS)
    items = chosen.items or (500 if chosen.quick else 20_000)
    pairs = chosen.pairs or (1 if chosen.quick else 9)
    recorded = read(NAME, Comparison)
    before = {} if recorded is None else {row.key: row for row in recorded.rows}
    rows = []
    with serving() as server:
        print(f"{describe()}, {server.name}")
        print(f"{items:,} calls in a run, {pairs} pairs of runs of each\n")
        print(
            f"{'':<34}{'CPU time, ours / other':<24}{'µs each':>15}   {'wall time':>22}   recorded"
        )
        for name in names:
            if _PAIRS[name].tls and server.tls_url is None:
                continue
            for loop in chosen.loop:
                rows.append(compare(server, _PAIRS[name], loop, items, pairs))
                print(_line(rows[-1], before.get(rows[-1].key)), flush=True)
    if chosen.record:
        merged = before | {row.key: row for row in rows}  # rows that were left out stay
        keys = [f"{name}, {loop}" for name in _PAIRS for loop in LOOPS]
        record(NAME, [merged[key] for key in keys if key in merged], server.name)


if __name__ == "__main__":
    main()
