"""
Change the code in every small way mutmut knows, and see whether the tests notice.

`make mutation` does all of it, which takes an hour or more; `python -m tests.mutation _codec` one
module. Each module meets only the tests that are about it: the rest would find little more, in a
hundred times the time. What survives, and why, is in mutation.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

MODULES = {
    "_capacity": ("test_capacity",),
    "_codec": ("test_codec",),
    "_gate": ("test_gate", "test_limits"),
    "_learned": ("test_learned",),
    "_limits": ("test_limits", "test_pipeline"),
    "_line": ("test_line",),
    "_outage": ("test_outage",),
    "_pacer": ("test_pacer",),
    "_places": ("test_places",),
    "_retry": ("test_retry",),
    "_journal/counts": ("test_run_journal",),
    "_journal/keys": ("test_run_journal",),
    "_journal/schema": ("test_run_journal",),
    "_journal/sqlite": ("test_run_journal",),
    "_journal/states": ("test_run_journal",),
    "_journal/writer": ("test_run_journal",),
    "bulk/_calls": ("test_bulk", "test_run_journal", "test_secrets"),
    "bulk/_run_journal": ("test_run_journal",),
    "bulk/_outcome": ("test_outcome",),
    "bulk/_runner": ("test_bulk", "test_secrets"),
    "bulk/_source": ("test_source",),
    "bulk/_stop": ("test_stop",),
    "bulk/_turns": ("test_turns",),
}
#: What other processes do; they do not see the change.
ELSEWHERE = ("test_run_journal.py::test_a_full_disk_ends_the_run",)
HERE = Path(".mutation")


def prepare(module: str) -> Path:
    """Make a copy of the project in which there is one module to change."""
    folder = HERE / module.replace("/", ".")
    shutil.rmtree(folder, ignore_errors=True)  # mutmut takes results it finds there for today's
    for name in ("adapty_async", "tests"):
        shutil.copytree(name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    tests = [f"tests/{name}.py" for name in MODULES[module]]
    tests += [f"--deselect=tests/{name}" for name in ELSEWHERE]
    (folder / "pyproject.toml").write_text(
        Path("pyproject.toml").read_text()
        + f'only_mutate = ["adapty_async/{module}.py"]\n'
        + f"pytest_add_cli_args_test_selection = {tests}\n"
    )
    return folder


def mutate(module: str) -> tuple[int, list[str]]:
    """
    Try every change of a module; return how many there were, and the names of those that survived.
    """
    folder = prepare(module)
    mutmut = [sys.executable, "-m", "mutmut"]
    children = 2 * len(os.sched_getaffinity(0))  # some wait for a timeout
    subprocess.run([*mutmut, "run", f"--max-children={children}"], cwd=folder, check=True)
    results = subprocess.run(
        [*mutmut, "results", "--all=true"], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    states = dict(line.strip().split(": ") for line in results if ": " in line)
    return len(states), [name for name, state in states.items() if state not in _NOTICED]


_NOTICED = frozenset({"killed", "timeout", "caught by type check", "segfault"})


def main(names: list[str]) -> None:
    """Print what survived, and a row of each module for the table in mutation.md."""
    rows = ["| module | mutants | killed | share |", "|---|---|---|---|"]
    for module in names or MODULES:
        count, survivors = mutate(module)
        noticed = count - len(survivors)
        rows.append(f"| `{module}` | {count} | {noticed} | {100 * noticed / count:.1f} % |")
        for name in survivors:
            subprocess.run(
                [sys.executable, "-m", "mutmut", "show", name],
                cwd=HERE / module.replace("/", "."),
                check=True,
            )
        print(rows[-1])
    print("\n".join(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
