"""
Schemathesis sends requests that each document allows, and others, to a strict sandbox.

It is run as its own command; its report has every request, response and check. A response with a
status of 500 or above, and a failed check that is not in the list of departures, fail the run.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adapty_async.sandbox import Sandbox
from tests.contract.contract import Contract
from tests.contract.contracts import CONTRACTS
from tests.outsiders.departures import DEPARTURES, Departure, Failure, explained
from tests.outsiders.mended import EVERYWHERE, mended, profiles_exist, saved
from tests.outsiders.server import strict_sandbox

#: The least number of requests over all documents, of the long form and of the short one.
CASES_MIN, SHORT_CASES_MIN = 2000, 200
_IDS = [f"u{number}" for number in range(5)]
_ERASED = [f"erased{number}" for number in range(5)]
# Options of the command: of the long form and of the short one.
_LONG = ("--max-examples", "40")
_SHORT = ("--max-examples", "4", "--phases", "examples,fuzzing")
_ALWAYS = (
    "--continue-on-failure",
    "--no-shrink",
    "--suppress-health-check=all",
    "--generation-deterministic",
)


async def run(*, is_short: bool) -> list[str]:
    """Run Schemathesis over all documents, and return the complaints."""
    failures: list[Failure] = []
    statuses: Counter[int] = Counter()
    options = _SHORT if is_short else _LONG
    for found, counts in await asyncio.gather(
        *(_over_one(contract, options) for contract in CONTRACTS.values())
    ):
        failures += found
        statuses.update(counts)
    rows = Counter(explained(failure) for failure in failures)
    print(f"Schemathesis: {statuses.total():,} requests, statuses {dict(sorted(statuses.items()))}")
    for row in filter(None, rows):
        print(f"  {rows[row]:5,} departures: {row.reason}")
    complaints = [f"{failure}" for failure in sorted({*failures}) if explained(failure) is None]
    complaints += [
        f"{count} responses with status {one}"
        for one, count in statuses.items()
        if one >= 500 or one == 0
    ]
    if statuses.total() < (SHORT_CASES_MIN if is_short else CASES_MIN):
        complaints.append(f"only {statuses.total()} requests")
    if not is_short:
        complaints += [*_of_the_long_form(rows)]
    return complaints


def _of_the_long_form(rows: Counter[Departure | None]) -> Iterator[str]:
    for row in DEPARTURES:
        is_possible = not row.documents or not CONTRACTS.keys().isdisjoint(row.documents)
        if row.often and is_possible and not rows[row]:
            yield f"a departure that is none any more: {row.reason}"


async def _over_one(
    contract: Contract, options: tuple[str, ...]
) -> tuple[list[Failure], dict[int, int]]:
    async with strict_sandbox() as sandbox:
        return await _against(sandbox, contract, options), sandbox.count()


async def _against(sandbox: Sandbox, contract: Contract, options: tuple[str, ...]) -> list[Failure]:
    sandbox.seed_profiles([*_IDS, *_ERASED])
    paywalls = sandbox.add_paywalls("A", "B")
    mends = (*EVERYWHERE, profiles_exist(paywalls, _IDS, _ERASED))
    with TemporaryDirectory(prefix="outsiders-") as name:
        folder = Path(name)
        document = saved(mended(contract.name, mends), folder / "document.json")
        report = folder / "report.ndjson"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            str(document),
            "--url",
            sandbox.url,
            "--header",
            f"Authorization: {contract.authorization(sandbox)}",
            "--report",
            "ndjson",
            "--report-ndjson-path",
            str(report),
            *_ALWAYS,
            *options,
            cwd=folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode not in (0, 1):  # 1: checks failed
            raise RuntimeError(output.decode())
        return [*_failures(contract, report)]


def _failures(contract: Contract, report: Path) -> Iterator[Failure]:
    """Yield the failed checks of a report."""
    ids = {(method, path): name for name, (method, path, _) in contract.document.operations.items()}
    for line in report.read_text("utf-8").splitlines():
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        for case_id, checks in recorder.get("checks", {}).items():
            case = recorder["cases"][case_id]["value"]
            called = (case["method"], case["path"])
            response = recorder["interactions"][case_id]["response"]
            for check in checks:
                if check["status"] != "success":
                    yield Failure(
                        check["name"],
                        contract.name,
                        ids.get(called, " ".join(called)),
                        _broken(case),
                        response["status_code"],
                        *_error(base64.b64decode(response["content"]["$base64"])),
                    )


def _broken(case: dict[str, Any]) -> str:
    parts = case.get("meta", {}).get("components", {})
    return ", ".join(name for name, part in parts.items() if part["mode"] == "negative")


def _error(body: bytes) -> tuple[str, str, str]:
    """Return the code, the field and the message of the first error in a body of any format."""
    try:
        content: Any = json.loads(body)
    except ValueError:
        return "", "", repr(body[:100])
    [first, *_] = content.get("errors") or [{}]
    if isinstance(first, str):
        return content["error_code"], "", first
    source = first.get("source") or first.get("field_name") or ""
    field = source["pointer"] if isinstance(source, dict) else source
    message = first.get("message") or first.get("detail") or "; ".join(first.get("errors", ()))
    return content.get("error_code") or first.get("error_code") or "", field, message
