"""The machine of a benchmark, and the assignment of processes to processors."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
from pathlib import Path

__all__ = ("CLIENT", "LOOPS", "SERVER", "describe", "peak_mb", "pin")

_PACKAGES = ("adapty-async", "aiohttp", "msgspec", "tenacity", "anyio", "uvloop")
LOOPS = ("asyncio", "uvloop") if importlib.util.find_spec("uvloop") else ("asyncio",)
_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

#: The processors of the server and of the client. They differ if this process may use two, so that
#: neither slows the other.
SERVER, CLIENT = _CORES[:1], _CORES[1:2] or _CORES[:1]


def describe() -> str:
    """Return the processor, the interpreter and the relevant versions as text."""
    versions = ", ".join(f"{name} {version}" for name in _PACKAGES if (version := _version(name)))
    kernel, _, _ = platform.release().partition("-")
    return (
        f"{_processor()}, {os.cpu_count()} CPUs, {platform.system()} {kernel}\n"
        f"{platform.python_implementation()} {platform.python_version()}, {versions}"
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", about.read_text()) if about.exists() else None
    return named[1] if named else platform.machine()


def pin(process: int, cores: list[int]) -> None:
    """Pin a process to these processors if the system supports it."""
    if cores:
        os.sched_setaffinity(process, cores)


def peak_mb() -> float:
    """
    Return the peak of this process' memory, in MB.

    Without /proc, the figure of `getrusage` includes the time before the program was loaded.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
