"""Tools of others against the sandbox and the client: ``python -m tests.outsiders [--short]``."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable

from tests.outsiders import generated, requests, responses

RUNS: dict[str, Callable[..., Awaitable[list[str]]]] = {
    "schemathesis": requests.run,
    "generated": generated.run,
    "prism": responses.run,
}


async def main(arguments: list[str]) -> int:
    """Run the named tools, or all, and return the exit code."""
    logging.getLogger("aiohttp.server").setLevel("CRITICAL")  # broken requests are part of it
    is_short = "--short" in arguments
    names = [one for one in arguments if one != "--short"] or [*RUNS]
    complaints: list[str] = []
    for name in names:
        started = time.monotonic()
        complaints += await RUNS[name](is_short=is_short)
        print(f"{name}: {time.monotonic() - started:.0f} s")
    for complaint in complaints:
        print(f"- {complaint}")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
