"""A process with fewer file descriptors than requests that could be in flight."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from adapty_async.sandbox import Sandbox

pytest.importorskip("resource", reason="a limit of file descriptors needs POSIX")

# It may have 20 file descriptors more than it needs to start.
PROGRAM = """
import asyncio, json, os, resource, sys
from pathlib import Path

from adapty_async import AdaptyClient, AdaptyError

url, key, loop, call, folder = sys.argv[1:]

async def bulk_delete(adapty):
    ids = [f"u{number}" for number in range(300)]
    report = await adapty.v2.profiles.bulk_delete(
        ids, by="customer_user_id", concurrency=64, journal=Path(folder, "run.db")
    )
    return {"ended": report.done + report.absent, "failures": report.connect_failures}

async def get(adapty):
    calls = [adapty.v1.profiles.get(customer_user_id="known") for _ in range(64)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    failed = [str(each) for each in results if isinstance(each, AdaptyError)]
    return {"ended": 64 - len(failed), "errors": failed}

async def main():
    free = os.open(os.devnull, os.O_RDONLY) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
    async with AdaptyClient(key, base_url=url) as adapty:
        result = await globals()[call](adapty)
        circuits = [bucket.circuit for bucket in adapty.statistics().buckets.values()]
        print(json.dumps(result | {"circuits": circuits}))

if loop == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Return a sandbox that is slow enough for all requests to be in flight."""
    async with Sandbox(latency=0.02) as sandbox:
        sandbox.seed_profiles([*(f"u{number}" for number in range(300)), "known"])
        yield sandbox


async def result_of(sandbox: Sandbox, loop: str, call: str, folder: Path) -> dict[str, Any]:
    """Run the program, and return what it prints."""
    if loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    arguments = (sandbox.url, sandbox.api_key, loop, call, str(folder))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, *arguments, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    result: dict[str, Any] = json.loads(printed)
    return result


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_run_uses_the_connections_that_there_are(
    sandbox: Sandbox, loop: str, tmp_path: Path
) -> None:
    """All items are done, no outage is blamed, and the journal can be written."""
    result = await result_of(sandbox, loop, "bulk_delete", tmp_path)

    assert (result["ended"], result["circuits"]) == (300, ["closed"])
    assert 1 <= result["failures"] <= 64


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_single_calls_wait_for_the_connections_that_there_are(
    sandbox: Sandbox, loop: str, tmp_path: Path
) -> None:
    """Sixty-four calls at once all succeed, although only some of them find a descriptor."""
    result = await result_of(sandbox, loop, "get", tmp_path)

    assert result == {"ended": 64, "errors": [], "circuits": ["closed"]}
