"""
One client process that looks, after each few milliseconds of its processor's time, at where it is.

Run as ``python -m benchmarks._sampler ORDER``; it prints what it `Sampled` of the order's first job
as JSON. The handler of a signal is called between two steps of the interpreter, so that what a
function in C takes counts for the Python function that called it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter
from types import FrameType

import msgspec

from benchmarks._client import loop_factory
from benchmarks._jobs import JOBS
from benchmarks._work import Order

__all__ = ("Place", "Sampled", "main")

_SECONDS = 0.001


class Place(msgspec.Struct, frozen=True):
    """A function in which the process was found so many times."""

    file: str
    function: str
    times: int


class Sampled(msgspec.Struct, frozen=True):
    """Where a process was found, and how many seconds of the processor its job took."""

    places: tuple[Place, ...]
    done: int
    cpu: float


def main() -> None:
    """Do the first of the jobs."""
    order = msgspec.json.decode(sys.argv[1], type=Order)
    found: Counter[tuple[str, str]] = Counter()

    def look(_number: int, frame: FrameType | None) -> None:
        if frame is not None:
            found[frame.f_code.co_filename, frame.f_code.co_qualname] += 1

    with asyncio.Runner(loop_factory=loop_factory(order.loop)) as runner:
        signal.signal(signal.SIGPROF, look)
        signal.setitimer(signal.ITIMER_PROF, _SECONDS, _SECONDS)
        started = time.process_time()
        done = runner.run(JOBS[order.jobs[0]](order.work))
        cpu = time.process_time() - started
        signal.setitimer(signal.ITIMER_PROF, 0.0)
    places = tuple(Place(file, function, times) for (file, function), times in found.most_common())
    sys.stdout.write(msgspec.json.encode(Sampled(places, done, cpu)).decode())


if __name__ == "__main__":
    main()
