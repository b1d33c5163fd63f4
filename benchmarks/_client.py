"""
A client process: ``python -m benchmarks._client ORDER`` with an `Order` as JSON.

It runs each job in an event loop of its own as soon as it reads a line, and prints its `Cost` as a
line of JSON. The last line is the peak of its memory, in MB.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable

import msgspec

from benchmarks._jobs import Job, job_named
from benchmarks._machine import peak_mb
from benchmarks._work import Cost, Order, Work

__all__ = ("loop_factory", "main")


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return the factory of event loops of that name."""
    if name == "asyncio":
        return asyncio.new_event_loop
    import uvloop  # noqa: PLC0415  an extra

    return uvloop.new_event_loop


def _measured(job: Job, work: Work, factory: Callable[[], asyncio.AbstractEventLoop]) -> Cost:
    gc.collect()  # the garbage of one job must not be charged to the next
    with asyncio.Runner(loop_factory=factory) as runner:
        wall, cpu = time.perf_counter(), time.process_time()
        done = runner.run(job(work))
        return Cost(done, time.process_time() - cpu, time.perf_counter() - wall)


def main() -> None:
    """Run the jobs of the order."""
    order = msgspec.json.decode(sys.argv[1], type=Order)
    factory = loop_factory(order.loop)
    jobs = [job_named(name) for name in order.jobs]
    for job, _ in zip(jobs, sys.stdin, strict=False):
        print(msgspec.json.encode(_measured(job, order.work, factory)).decode(), flush=True)
    print(peak_mb())


if __name__ == "__main__":
    main()
