"""A checker of pages by Lighthouse: the score of their accessibility has to be 100."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests import npm
from tests.chromium import CHROMIUM, FLAGS

__all__ = ("PACKAGE", "complaints_about", "faults_of")

#: The newest series that runs on the Node.js of Debian 12 and 13: later ones need Node.js 22.
PACKAGE = "lighthouse@12.8.2"


async def complaints_about(urls: Iterable[str]) -> list[str]:
    """Return the faults of pages. Without npm, print that Lighthouse is not run."""
    program = await npm.program(PACKAGE, "lighthouse")
    if program is None:
        return []
    return [f"{url}: {fault}" for url in urls for fault in faults_of(await _result(program, url))]


def faults_of(result: dict[str, Any]) -> list[str]:
    """Return why a result is not 100 of 100: the failed audits with the elements that they name."""
    if "runtimeError" in result:
        return [f"Lighthouse: {result['runtimeError']['message']}"]
    category = result["categories"]["accessibility"]
    if category["score"] == 1:
        return []
    audits = {one["id"]: result["audits"][one["id"]] for one in category["auditRefs"]}
    failed = [
        f"{name}: {audit['title']}: {'; '.join(_elements(audit)[:3])}"
        for name, audit in audits.items()
        if audit["score"] is not None and audit["score"] < 1
    ]
    score = "unknown" if category["score"] is None else f"{category['score']:.0%}"
    return [f"Lighthouse: accessibility is {score}, not 100%", *failed]


async def _result(program: Path, url: str) -> dict[str, Any]:
    """Run Lighthouse on a page, as on a telephone."""
    with TemporaryDirectory(prefix="lighthouse-") as folder:
        path = Path(folder, "result.json")
        options = ["--only-categories=accessibility", "--no-enable-error-reporting", "--quiet"]
        # a file: through a pipe, the end of a result is lost when a page fails to load
        options += ["--output=json", f"--output-path={path}"]
        process = await asyncio.create_subprocess_exec(
            program,
            url,
            *options,
            f"--chrome-flags={' '.join(['--headless', *FLAGS])}",
            env=os.environ | {"CHROME_PATH": str(CHROMIUM)},
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        return _read(path, errors.decode().strip())


def _read(path: Path, errors: str) -> dict[str, Any]:
    """Return the result in a file; without the file, the result of a page that does not load."""
    if not path.exists():
        return {"runtimeError": {"message": errors}}
    result: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return result


def _elements(audit: dict[str, Any]) -> list[str]:
    items = audit.get("details", {}).get("items", [])
    return [str(item["node"]["selector"]) for item in items if "node" in item]
