"""A registry of all jobs by name."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from benchmarks import _peers, _raw
from benchmarks._work import Work

__all__ = ("Job", "job_named")

#: A coroutine function that does the work and returns the number of items done.
Job: TypeAlias = Callable[[Work], Coroutine[Any, Any, int]]

_OF_OTHERS = {**_raw.JOBS, **_peers.JOBS}


def job_named(name: str) -> Job:
    """
    Return a job. The library is imported for its own jobs only.

    An import changes what others cost: asyncio reads into a buffer of 256 KiB. Memory for it is
    mapped anew at each read, unless imports have left a free block of that size.
    """
    if name in _OF_OTHERS:
        return _OF_OTHERS[name]
    from benchmarks import _ours  # noqa: PLC0415  see above

    return _ours.JOBS[name]
