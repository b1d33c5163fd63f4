"""
Where a benchmark ran: its numbers mean little without that.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform

__all__ = ("describe",)

_PACKAGES = ("adapty-async", "aiohttp", "msgspec", "tenacity", "anyio")


def describe() -> str:
    """
    Name the processor, the interpreter and the versions that matter.
    """
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return (
        f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}\n"
        f"{platform.python_implementation()} {platform.python_version()}, {versions}"
    )
