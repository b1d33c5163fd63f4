"""
A mutation test: mutmut changes the code in small ways, and the tests have to fail.

`make mutation` runs all modules, which needs an hour or more; `python -m tests.mutation _api/codec`
runs one module. Each module runs only its own tests: the others would kill few more mutants, in a
hundred times the time. Surviving mutants are explained in mutation.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

# Not the readers of tables: pyarrow and polars have threads, which a fork of mutmut loses.
MODULES = {
    "_api/codec": ("api/test_codec",),
    "_api/pickling": ("api/test_pickling",),
    "_bulk/bulk_run": ("bulk/test_bulk", "test_secrets"),
    "_bulk/item_processor": ("bulk/test_bulk", "bulk/test_run_journal", "test_secrets"),
    "_bulk/outcome": ("bulk/test_outcome", "bulk/test_report_html", "bulk/test_stop"),
    "_bulk/run_journal": ("bulk/test_run_journal",),
    "_bulk/workers": ("bulk/test_bulk", "bulk/test_source", "bulk/test_workers"),
    "_flow/adaptive_rate": ("flow/test_adaptive_rate",),
    "_flow/bucket_limiter": ("flow/test_bucket_limiter", "pipeline/test_limit"),
    "_flow/circuit_breaker": ("flow/test_circuit_breaker",),
    "_flow/concurrency_limit": ("flow/test_concurrency_limit",),
    "_flow/endpoint_monitor": ("flow/test_bucket_limiter",),
    "_flow/limits": (
        "flow/test_bucket_limiter",
        "flow/test_runs_of_a_bucket",
        "pipeline/test_limit",
    ),
    "_flow/queues": (
        "flow/test_keyed_lock",
        "flow/test_runs_of_a_bucket",
        "flow/test_semaphore",
        "flow/test_wait_queue",
    ),
    "_flow/rate_limiter": ("flow/test_rate_limiter",),
    "_flow/rate_state": ("flow/test_adaptive_rate",),
    "_http/streaming": ("export/test_streaming",),
    "_input/findings": ("cli/test_findings", "cli/test_input"),
    "_input/json_lines": ("cli/test_input",),
    "_input/layout": ("cli/test_input",),
    "_input/mapping": ("cli/test_v2", "input/test_mapping"),
    "_input/records": ("cli/test_input",),
    "_input/rows": ("cli/test_input",),
    "_journal/changes": ("journal/test_changes", "journal/test_writer"),
    "_journal/keys": ("journal/test_keys", "journal/test_writer"),
    "_journal/schema": ("journal/test_conformance", "journal/test_schema"),
    "_journal/sqlite": ("journal/test_sqlite", "journal/test_conformance", "journal/test_files"),
    "_journal/writer": ("journal/test_writer",),
    "_pipeline/layers": (
        "pipeline/test_compose",
        "pipeline/test_limit",
        "test_endpoints",
        "test_statistics",
    ),
    "_pipeline/retry": ("pipeline/test_retry", "v2/test_creation"),
    "_report/check": (
        "cli/test_journal_commands",
        "report/test_figures",
        "report/test_write_report",
    ),
    "_report/outcomes": ("report/test_outcomes", "report/test_write_report"),
    "access": ("test_access",),
    "export/_files": ("export/test_files",),
    "export/_sinks": ("export/test_sinks",),
    "integrations/opentelemetry": ("integrations/test_opentelemetry",),
    "integrations/prometheus": ("integrations/test_prometheus",),
    "sandbox/_mail": ("sandbox/test_mail",),
    "sandbox/_v1": ("sandbox/test_v1",),
    "sandbox/_v2_currencies": ("sandbox/test_v2_app", "contract/test_sandbox"),
    "sandbox/_web": ("sandbox/test_web", "contract/test_sandbox"),
    "webhooks/_mail": ("webhooks/test_mail",),
    "webhooks/_parse": ("webhooks/test_parse", "webhooks/test_mail"),
    "webhooks/_receiver": ("webhooks/test_receiver", "webhooks/test_frameworks"),
    "webhooks/_store": ("webhooks/test_store", "webhooks/test_receiver"),
}
#: Tests in other processes, which run the unchanged code, those that read the documents, and those
#: of frames and methods, which find mutmut's.
ELSEWHERE = (
    "bulk/test_run_journal.py::test_a_full_disk_ends_the_run",
    "input/test_mapping.py::test_a_preset_maps_to_fields_that_exist",
    "webhooks/test_receiver.py::test_a_receiver_shows_no_secret",
)
HERE = Path(".mutation")


def prepare(module: str) -> Path:
    """Copy the project and configure mutmut to mutate one module of the copy."""
    folder = HERE / module.replace("/", ".")
    shutil.rmtree(folder, ignore_errors=True)  # mutmut would reuse earlier results
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
    """Run all mutants of a module; return their number, and the names of the survivors."""
    folder = prepare(module)
    mutmut = [sys.executable, "-m", "mutmut"]
    children = 2 * len(os.sched_getaffinity(0))  # some wait for a timeout
    subprocess.run([*mutmut, "run", f"--max-children={children}"], cwd=folder, check=True)
    results = subprocess.run(
        [*mutmut, "results", "--all=true"], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    states = dict(line.strip().split(": ") for line in results if ": " in line)
    return len(states), [name for name, state in states.items() if state not in _KILLED]


_KILLED = frozenset({"killed", "timeout", "caught by type check", "segfault"})


def main(names: list[str]) -> None:
    """Print the survivors, and a row for each module for the table in mutation.md."""
    rows = ["| module | mutants | killed | share |", "|---|---|---|---|"]
    for module in names or MODULES:
        count, survivors = mutate(module)
        killed = count - len(survivors)
        rows.append(f"| `{module}` | {count} | {killed} | {100 * killed / count:.1f} % |")
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
