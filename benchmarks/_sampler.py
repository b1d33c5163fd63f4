"""
A sampling profiler: a client process that records its current function every few milliseconds.

Run as ``python -m benchmarks._sampler ORDER``; it prints a `Sampled` of the order's first job as
JSON. Samples are taken in processor time. The interpreter calls a signal handler between two
bytecode instructions, so the time of a C function counts for the Python function that called it.
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
from benchmarks._jobs import job_named
from benchmarks._work import Order

__all__ = ("Location", "Sampled", "main")

_SECONDS = 0.001


class Location(msgspec.Struct, frozen=True):
    """A function and the number of samples in it."""

    file: str
    function: str
    times: int


class Sampled(msgspec.Struct, frozen=True):
    """The samples of a process, and the processor time of its job in seconds."""

    locations: tuple[Location, ...]
    done: int
    cpu: float


def main() -> None:
    """Run the first job of the order."""
    order = msgspec.json.decode(sys.argv[1], type=Order)
    job = job_named(order.jobs[0])
    found: Counter[tuple[str, str]] = Counter()

    def sample(_number: int, frame: FrameType | None) -> None:
        if frame is not None:
            found[frame.f_code.co_filename, frame.f_code.co_qualname] += 1

    with asyncio.Runner(loop_factory=loop_factory(order.loop)) as runner:
        signal.signal(signal.SIGPROF, sample)
        signal.setitimer(signal.ITIMER_PROF, _SECONDS, _SECONDS)
        started = time.process_time()
        done = runner.run(job(order.work))
        cpu = time.process_time() - started
        signal.setitimer(signal.ITIMER_PROF, 0.0)
    locations = tuple(
        Location(file, function, times) for (file, function), times in found.most_common()
    )
    sys.stdout.write(msgspec.json.encode(Sampled(locations, done, cpu)).decode())


if __name__ == "__main__":
    main()
