"""
The interface of client processes: orders, and the costs of their jobs.

A client runs in a process of its own, on a processor of its own, so that its time and memory are
only its own. Compared jobs alternate in one process, since machines get faster and slower within
minutes.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence

import msgspec

from benchmarks._machine import CLIENT, SERVER, pin

__all__ = ("Cost", "Costs", "Order", "Work", "run", "run_together")


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """
    The work of a job.

    Attributes:
        url: the server's origin.
        items: the number of calls.
        workers: calls in flight.
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
    """The cost of one run of a job: items done, processor seconds, elapsed seconds."""

    done: int
    cpu: float
    wall: float


class Costs(msgspec.Struct, frozen=True):
    """The result of a process: the cost of each of its jobs, and the peak of its memory."""

    costs: tuple[Cost, ...]
    peak_mb: float


def run(order: Order) -> Costs:
    """
    Run the jobs of an order in a process, and return their costs.

    Raises:
        SystemExit: it failed, or not all items were done.
    """
    return run_together([order])[0]


def run_together(orders: Sequence[Order]) -> list[Costs]:
    """
    Run each order in a process, concurrently; the second one shares the server's processor.

    Raises:
        SystemExit: one failed, or not all items were done.
    """
    with contextlib.ExitStack() as stack:
        cores = (CLIENT, SERVER)
        processes = [_start(order, own) for order, own in zip(orders, cores, strict=False)]
        for process in processes:
            stack.callback(process.kill)  # has an effect only if the benchmark is interrupted
        outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"the client failed: {', '.join(dict.fromkeys(orders[0].jobs))}")
    return [_checked(order, output) for order, output in zip(orders, outputs, strict=True)]


def _start(order: Order, cores: list[int]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks._client", msgspec.json.encode(order).decode()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    pin(process.pid, cores)
    return process


def _checked(order: Order, output: bytes) -> Costs:
    result = msgspec.json.decode(output, type=Costs)
    for job, cost in zip(order.jobs, result.costs, strict=True):
        if cost.done != order.work.items:
            raise SystemExit(f"{job}: {cost.done} of {order.work.items} done")
    return result
