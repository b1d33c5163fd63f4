"""A text report of the runs under one limit."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from benchmarks._goodput_client import OURS
from benchmarks._goodput_run import Run

__all__ = ("comparison", "line", "summary", "table")


class _Measure(msgspec.Struct, frozen=True):
    """A measure of a run: its attribute, its label and its format."""

    name: str
    label: str
    form: str

    def values(self, runs: Iterable[Run]) -> list[float | None]:
        return [getattr(run, self.name) for run in runs]

    def text(self, value: float | None) -> str:
        return "never" if value is None else self.form.format(value)


_MEASURES = (
    _Measure("slowness", "time / ideal", "{:.3f}"),
    _Measure("throttled", "throttled (429)", "{:.2%}"),
    _Measure("most_throttled", "429s, worst item", "{:.0f}"),
    _Measure("failed", "failed items", "{:.0f}"),
    _Measure("effort", "requests / success", "{:.3f}"),
    _Measure("client_cost", "client, µs/item", "{:.0f}"),
)
_OF_AN_OUTAGE = (
    _Measure("unavailable", "sent in the outage", "{:.2%}"),
    _Measure("back_after", "back after, s", "{:.2f}"),
)
_SURROUNDINGS = (
    _Measure("server_cost", "server, µs/request", "{:.0f}"),
    _Measure("load", "load of the machine", "{:.1f}"),
)


def _measures(run: Run) -> tuple[_Measure, ...]:
    return _MEASURES if run.scenario.limit.outage is None else _MEASURES + _OF_AN_OUTAGE


def _median(values: Iterable[float | None]) -> float | None:
    """Return the median; None counts as more than any number."""
    middle = statistics.median_high(float("inf") if each is None else each for each in values)
    return None if middle == float("inf") else middle


def line(run: Run) -> str:
    """Return one line about a run."""
    return (
        f"  {run.client}, seed {run.seed}: {run.measured.wall:.1f} s, {run.slowness:.3f} of the "
        f"ideal, {run.throttled:.2%} throttled (429), {run.failed} failed"
    )


def summary(runs: Sequence[Run], *, judged: bool) -> str:
    """Return the medians of our runs with their targets, and the values of each seed."""
    targets = runs[0].scenario.targets if judged else {}
    rows = [f"  {'':<20}{'median':>10}  {'target':<26}seeds"]
    for each in _measures(runs[0]) + _SURROUNDINGS:
        values = each.values(runs)
        seeds = "  ".join(each.text(value) for value in values)
        target = _verdict(each, values, targets)
        rows.append(f"  {each.label:<20}{each.text(_median(values)):>10}  {target:<26}{seeds}")
    return "\n".join(rows)


def _verdict(each: _Measure, values: Sequence[float | None], targets: Mapping[str, float]) -> str:
    bound = targets.get(each.name)
    if bound is None:
        return ""
    good = sum(value is not None and value <= bound for value in values)
    middle = _median(values)
    word = "met" if middle is not None and middle <= bound else "MISSED"
    return f"≤ {each.text(bound)} {word} ({good} of {len(values)})"


def table(runs: Sequence[Run]) -> str:
    """Return a table with the medians of all clients."""
    measures = _measures(runs[0])
    rows = ["  " + " " * 18 + "".join(f"  {each.label}" for each in measures)]
    for client in dict.fromkeys(run.client for run in runs):
        own = [run for run in runs if run.client == client]
        cells = (
            f"{each.text(_median(each.values(own))):>{len(each.label) + 2}}" for each in measures
        )
        rows.append(f"  {client:<18}" + "".join(cells))
    return "\n".join(rows)


def comparison(runs: Sequence[Run], rival: str, bound: float) -> str:
    """Return our time relative to a rival's for each seed, and our 429s."""
    ours = [run for run in runs if run.client == OURS]
    others = [run for run in runs if run.client == rival]
    pairs = list(zip(ours, others, strict=False))
    if not pairs:
        return ""
    ratio = statistics.median(one.measured.wall / other.measured.wall for one, other in pairs)
    one, other = (statistics.median(run.throttled for run in side) for side in (ours, others))
    return (
        f"  ours / {rival}, time: {ratio:.3f} (target ≤ {bound:g}: {_word(met=ratio <= bound)}); "
        f"429s {one:.2%} and {other:.2%} (target fewer: {_word(met=one < other)})"
    )


def _word(*, met: bool) -> str:
    return "met" if met else "MISSED"
