"""Programs from npm, each in a folder of the virtual environment with the release that is named."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

__all__ = ("program",)

# Seconds that npm may take to install a package.
_INSTALLED_WITHIN = 240


async def program(package: str, name: str) -> Path | None:
    """
    Return the path of a program of a package, such as ``lighthouse@12.8.2``, and install it first.

    Without npm, or if npm reaches no registry, print that nothing is run, and return None.
    """
    folder = Path(sys.prefix, ".npm", package.replace("/", "+"))
    path = folder / "node_modules" / ".bin" / name
    npm = shutil.which("npm")
    if npm is not None and (path.exists() or await _install(npm, package, folder)):
        return path
    print(f"{name}: NOT run, since npm is not on this machine or reaches no registry")
    return None


async def _install(npm: str, package: str, folder: Path) -> bool:
    """Install a package into a folder, and return whether that succeeded."""
    options = "--prefix", str(folder), "--no-audit", "--no-fund", "--silent", "--fetch-retries=1"
    process = await asyncio.create_subprocess_exec(npm, "install", *options, package)
    try:
        async with asyncio.timeout(_INSTALLED_WITHIN):
            return await process.wait() == 0
    except TimeoutError:
        process.kill()
        await process.wait()
        return False
