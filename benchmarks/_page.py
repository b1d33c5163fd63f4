"""
A generator of the tables and plots of ``docs/speed.md`` from the recorded results.

It writes the parts of that page between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; the
rest is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks import (
    bench_codec,
    bench_import,
    bench_input,
    bench_memory,
    bench_overhead,
    bench_peers,
    bench_profile,
    bench_scale,
)
from benchmarks._plot import Bars, drawn
from benchmarks._ratios import Comparison
from benchmarks._results import FOLDER, Recording, read

__all__ = ("PAGE", "plots", "write", "written")

RowT = TypeVar("RowT")

PAGE = Path(__file__).parent.parent / "docs" / "speed.md"
_BLOCK = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def _recorded(name: str, row: type[RowT]) -> Recording[RowT]:
    recording = read(name, row)
    if recording is None:
        raise SystemExit(f"{name} has not been recorded: make bench")
    return recording


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """Return a table whose first `texts` columns are text and the others numbers."""
    rule = ["---"] * texts + ["---:"] * (len(head) - texts)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _with_machine(recording: Recording[RowT], table: str) -> str:
    machine = recording.machine.replace("\n", "; ")
    server = "" if recording.server is None else f", {recording.server}"
    return f"{table}\n\nRecorded on {recording.recorded}: {machine}{server}.\n"


def _by_name(rows: Iterable[Comparison]) -> Mapping[str, list[Comparison]]:
    names: dict[str, list[Comparison]] = {}
    for row in rows:
        names.setdefault(row.name, []).append(row)
    return names


def _loops(rows: Iterable[Comparison | bench_peers.Row]) -> list[str]:
    return list(dict.fromkeys(row.loop for row in rows))


def _overhead() -> str:
    recording = _recorded(bench_overhead.NAME, Comparison)
    figures = ("ratio", "spread", "µs", "other µs")
    head = ["", *(f"{loop}: {each}" for loop in _loops(recording.rows) for each in figures)]
    return _with_machine(
        recording,
        _table(
            head,
            (
                [name, *(cell for row in rows for cell in _comparison_cells(row))]
                for name, rows in _by_name(recording.rows).items()
            ),
        ),
    )


def _comparison_cells(row: Comparison) -> Iterator[str]:
    yield f"**{row.cpu.median:.2f}**"
    yield f"{row.cpu.low:.2f} to {row.cpu.high:.2f}"
    yield f"{row.ours_cpu:.0f}"
    yield f"{row.other_cpu:.0f}"


def _profile() -> str:
    recording = _recorded(bench_profile.NAME, bench_profile.Row)
    jobs = list(dict.fromkeys(row.job for row in recording.rows))
    cells = {(row.job, row.part): f"{row.cpu:.1f}" for row in recording.rows}
    parts = list(dict.fromkeys(row.part for row in recording.rows))
    parts.sort(key=lambda part: part.startswith("ours"))
    whole = [f"{sum(row.cpu for row in recording.rows if row.job == job):.1f}" for job in jobs]
    rows = [[part, *(cells.get((job, part), "") for job in jobs)] for part in parts]
    return _with_machine(recording, _table(["", *jobs], [*rows, ["together", *whole]]))


def _peers() -> str:
    recording = _recorded(bench_peers.NAME, bench_peers.Row)
    raw = {row.loop: row.cpu for row in recording.rows if row.name == "aiohttp by hand"}
    head = ["client", "loop", "items", "CPU µs", "of aiohttp by hand", "wall µs", "peak MB"]
    rows = (
        [
            row.name,
            row.loop,
            f"{row.items:,}",
            f"{row.cpu:.0f}",
            f"{row.cpu / raw[row.loop]:.2f}",
            f"{row.wall:.0f}",
            f"{row.peak_mb:.0f}",
        ]
        for row in recording.rows
    )
    return _with_machine(recording, _table(head, rows, texts=2))


def _codec() -> str:
    recording = _recorded(bench_codec.NAME, bench_codec.Row)
    rows = ([row.task, row.way, f"{row.size:,}", f"{row.time:.2f}"] for row in recording.rows)
    return _with_machine(recording, _table(["", "", "bytes", "µs"], rows, texts=2))


def _input() -> str:
    recording = _recorded(bench_input.NAME, bench_input.Row)
    rows = (
        [
            row.format,
            f"{row.rows:,}",
            f"{1e6 / row.ours:,.0f}",
            f"{row.ours:.1f}",
            f"{row.alone:.2f}",
            f"**{row.ratio:.0f}**",
        ]
        for row in recording.rows
    )
    head = ["", "rows", "rows/s", "µs", "alone µs", "ratio"]
    return _with_machine(recording, _table(head, rows))


def _memory() -> str:
    recording = _recorded(bench_memory.NAME, bench_memory.Row)
    rows = (
        [
            row.name,
            row.over,
            f"{row.items:,}",
            "" if row.workers is None else f"{row.workers:,}",
            f"{row.peak_mb:.1f}",
        ]
        for row in recording.rows
    )
    head = ["", "server", "items", "in flight", "peak MB"]
    return _with_machine(recording, _table(head, rows, texts=2))


def _scale() -> str:
    recording = _recorded(bench_scale.NAME, bench_scale.Row)
    head = ["", "server", "items", "in flight", "processes", "CPU µs", "items/s"]
    rows = (
        [
            row.job.removesuffix(" in process"),
            row.over,
            f"{row.items:,}",
            f"{row.workers:,}",
            f"{row.processes}",
            f"{row.cpu:.1f}",
            f"{row.rate:,.0f}",
        ]
        for row in recording.rows
    )
    return _with_machine(recording, _table(head, rows, texts=2))


def _import() -> str:
    recording = _recorded(bench_import.NAME, bench_import.Row)
    rows = (
        [
            row.what,
            f"{row.value:.1f} {row.unit}" if row.unit else f"{row.value:.0f}",
            "" if row.low is None or row.high is None else f"{row.low:.1f} to {row.high:.1f}",
        ]
        for row in recording.rows
    )
    return _with_machine(recording, _table(["", "", "spread"], rows))


_TABLES: Mapping[str, Callable[[], str]] = {
    bench_overhead.NAME: _overhead,
    bench_profile.NAME: _profile,
    bench_peers.NAME: _peers,
    bench_codec.NAME: _codec,
    bench_input.NAME: _input,
    bench_memory.NAME: _memory,
    bench_scale.NAME: _scale,
    bench_import.NAME: _import,
}


def written(page: str) -> str:
    """Return the page with the tables of the recorded results."""
    return _BLOCK.sub(lambda block: f"{block[1]}{_TABLES[block[2]]()}{block[3]}", page)


def plots() -> Mapping[str, str]:
    """Return the plots by file name."""
    pairs = _recorded(bench_overhead.NAME, Comparison).rows
    peers = _recorded(bench_peers.NAME, bench_peers.Row).rows
    costs: dict[str, list[float]] = {}
    for row in peers:
        costs.setdefault(row.name, []).append(row.cpu)
    ratios = {name: [row.cpu.median for row in rows] for name, rows in _by_name(pairs).items()}
    overhead = Bars(
        title="Processor time, as a multiple of the compared job",
        series=_loops(pairs),
        values=ratios,
        form="{:.2f}",
        mark=1.0,
    )
    deletes = Bars(
        title="Processor time for a delete, in microseconds",
        series=_loops(peers),
        values=costs,
        form="{:,.0f}",
    )
    return {"overhead.svg": drawn(overhead), "peers.svg": drawn(deletes)}


def write() -> None:
    """Write the plots and the tables of the page."""
    for name, plot in plots().items():
        (FOLDER / name).write_text(plot, "utf-8")
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
