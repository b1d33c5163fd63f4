"""A registry of all jobs by name."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeAlias

from benchmarks import _ours, _peers, _raw
from benchmarks._work import Work

__all__ = ("JOBS", "Job")

#: A coroutine function that does the work and returns the number of items done.
Job: TypeAlias = Callable[[Work], Coroutine[Any, Any, int]]

JOBS: Mapping[str, Job] = {**_raw.JOBS, **_ours.JOBS, **_peers.JOBS}
