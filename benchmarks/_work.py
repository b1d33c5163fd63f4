"""
What a client process is told to do and what it tells of it.

A client runs in a process of its own, on a processor of its own, so that its time and memory are
only its own. Jobs that are compared take turns in one process: machines get faster and slower
within minutes, and both share that.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence

import msgspec

from benchmarks._machine import CLIENT, SERVER, pin

__all__ = ("Cost", "Order", "Told", "Work", "run", "run_together")


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a job has to do.

    Attributes:
        url: the server's origin.
        items: how many calls.
        workers: calls in flight at a time.
    """

    url: str = ""
    items: int
    workers: int = 64


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """
    The jobs of one process, by name, in the order in which they run.

    Attributes:
        loop: ``asyncio`` or ``uvloop``.
    """

    jobs: tuple[str, ...]
    work: Work
    loop: str = "asyncio"


class Cost(msgspec.Struct, frozen=True):
    """What one run of a job came to: items done, seconds of the processor, seconds on the clock."""

    done: int
    cpu: float
    wall: float


class Told(msgspec.Struct, frozen=True):
    """What a process tells: the cost of each of its jobs, and the peak of its memory."""

    costs: tuple[Cost, ...]
    peak_mb: float


def run(order: Order) -> Told:
    """
    Let a process do its jobs, and return what it tells.

    Raises:
        SystemExit: it failed, or not all items were done.
    """
    return run_together([order])[0]


def run_together(orders: Sequence[Order]) -> list[Told]:
    """
    Let a process do the jobs of each order, all at once; the second goes to the server's processor.

    Raises:
        SystemExit: one failed, or not all items were done.
    """
    with contextlib.ExitStack() as stack:
        cores = (CLIENT, SERVER)
        processes = [_start(order, own) for order, own in zip(orders, cores, strict=False)]
        for process in processes:
            stack.callback(process.kill)  # has an effect only when the benchmark is broken off
        outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"the client failed: {', '.join(dict.fromkeys(orders[0].jobs))}")
    return [_checked(order, output) for order, output in zip(orders, outputs, strict=True)]


def _start(order: Order, cores: list[int]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks._client", msgspec.json.encode(order).decode()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    pin(process.pid, cores)
    return process


def _checked(order: Order, output: bytes) -> Told:
    told = msgspec.json.decode(output, type=Told)
    for job, cost in zip(order.jobs, told.costs, strict=True):
        if cost.done != order.work.items:
            raise SystemExit(f"{job}: {cost.done} of {order.work.items} done")
    return told
