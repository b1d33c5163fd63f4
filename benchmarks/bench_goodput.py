"""
A benchmark of goodput: a bulk delete under an unknown rate limit, compared with other clients.

Run it as ``python -m benchmarks.bench_goodput``. Server and client are processes of their own, and
each run has a new server. The ideal is the time in which the limit admits all deletes, without a
burst. Only inconsistent counts are an error; times are reported.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks._goodput_client import OURS
from benchmarks._goodput_report import comparison, line, summary, table
from benchmarks._goodput_run import Run, measure
from benchmarks._machine import describe
from benchmarks._rivals import RIVALS
from benchmarks._scenarios import SCENARIOS, Scenario

_QUICK = ("basic", "moving", "outage", "told")
_QUICK_SECONDS = 0.4
_WITHIN_RIVAL = 1.03


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, metavar="NAME", default=[])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each client")
    parser.add_argument("--seconds", type=float, help="shorten scenarios to such an ideal")
    parser.add_argument("--quick", action="store_true", help="a smoke: does it work at all?")
    parser.add_argument(
        "--rivals",
        nargs="*",
        choices=RIVALS,
        metavar="NAME",
        help=f"others too, all or some of: {', '.join(RIVALS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.epilog = f"scenarios: {', '.join(SCENARIOS)}"
    return parser.parse_args()


def _scenarios(options: argparse.Namespace) -> list[Scenario]:
    names = options.scenario or (_QUICK if options.quick else SCENARIOS)
    seconds = options.seconds or (_QUICK_SECONDS if options.quick else None)
    chosen = [SCENARIOS[name] for name in names]
    return chosen if seconds is None else [each.shortened(seconds) for each in chosen]


def _rivals(options: argparse.Namespace) -> list[str]:
    """Return the requested rivals that can run, and print the ones that cannot."""
    if options.rivals is None:
        return []
    able = []
    for name in options.rivals or RIVALS:
        package = RIVALS[name].package
        if package is None or importlib.util.find_spec(package):
            able.append(name)
        else:
            print(f"{name}: left out, {package} is not installed (pip install --group bench)")
    return able


def _perform(scenario: Scenario, clients: Iterable[str], seeds: int) -> list[Run]:
    """Run the clients in turn, and print each run when it ends."""
    runs = []
    for seed in range(1, seeds + 1):
        for client in clients:
            run = measure(scenario, client, seed)
            runs.append(run)
            print(line(run), flush=True)
            for problem in run.problems():
                print(f"  WRONG: {problem}", flush=True)
    return runs


def _report(runs: list[Run], *, judged: bool) -> None:
    print("\n" + summary([run for run in runs if run.client == OURS], judged=judged))
    if any(run.client != OURS for run in runs):
        print("\n" + table(runs))
    for rival in ("aiolimiter", "aiolimiter-plain"):
        if any(run.client == rival for run in runs):
            print(comparison(runs, rival, _WITHIN_RIVAL))
    print(flush=True)


def _as_json(run: Run) -> dict[str, Any]:
    names = ("slowness", "throttled", "failed", "effort", "unavailable", "back_after")
    return {
        "scenario": run.scenario.name,
        "limit": str(run.scenario),
        "ideal": run.scenario.ideal,
        "client": run.client,
        "load": run.load,
        "seed": run.seed,
        **{name: getattr(run, name) for name in names},
        "problems": list(run.problems()),
        "measured": run.measured,
        "record": run.record,
    }


def main() -> None:
    """Run the scenarios and compare the results with their targets."""
    options = _options()
    scenarios = _scenarios(options)
    rivals = _rivals(options)
    seeds = 1 if options.quick else options.seeds
    print(_about(scenarios, rivals, seeds))
    runs: list[Run] = []
    try:
        for scenario in scenarios:
            print(f"{scenario.name}: {scenario}")
            # no rival is comparable with a client that is configured with the limit
            clients = [OURS] if scenario.rate is not None else [OURS, *rivals]
            now = _perform(scenario, clients, seeds)
            runs += now
            _report(now, judged=not options.quick)
    finally:
        if options.json is not None:
            results = {"machine": describe(), "runs": [_as_json(run) for run in runs]}
            options.json.write_bytes(msgspec.json.encode(results))
    wrong = sum(any(run.problems()) for run in runs)
    if wrong:
        raise SystemExit(f"the counts of {wrong} runs do not add up")


def _about(scenarios: Iterable[Scenario], rivals: Iterable[str], seeds: int) -> str:
    rivals = list(rivals)
    seconds = sum(
        each.ideal * (1 if each.rate is not None else 1 + len(rivals)) for each in scenarios
    )
    packages = sorted({RIVALS[name].package or "aiohttp" for name in rivals} - {"aiohttp"})
    versions = "".join(f", {name} {importlib.metadata.version(name)}" for name in packages)
    return f"{describe()}{versions}\nat best {seconds * seeds / 60:.1f} minutes\n"


if __name__ == "__main__":
    main()
