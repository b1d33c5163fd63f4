"""
The interface of client processes: orders, and the costs of their jobs.

A client runs in a process of its own, on a processor of its own, so that its time and memory are
only its own. Compared clients alternate, since machines get faster and slower within minutes.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Self

import msgspec

from benchmarks._machine import CLIENT, SERVER, pin

__all__ = ("Cost", "Costs", "Order", "Work", "alternate", "run", "run_together")


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
    cores = (CLIENT, SERVER)
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(_Client(order, own))
            for order, own in zip(orders, cores, strict=False)
        ]
        for _ in orders[0].jobs:
            for client in clients:
                client.start_job()
        return [client.finish() for client in clients]


def alternate(first: Order, second: Order) -> tuple[Costs, Costs]:
    """
    Run two orders of as many jobs in a process each, of which only one works at a time.

    The first job is the first one's, the next two are the second one's, and so on.

    Raises:
        SystemExit: one failed, or not all items were done.
    """
    with _Client(first, CLIENT) as one, _Client(second, CLIENT) as other:
        for number in range(len(first.jobs)):
            for client in (one, other) if number % 2 == 0 else (other, one):
                client.start_job()
                client.wait_for_job()
        return one.finish(), other.finish()


class _Client:
    """A client process. It is killed at the end of the block."""

    def __init__(self, order: Order, cores: list[int]) -> None:
        command = [sys.executable, "-m", "benchmarks._client", msgspec.json.encode(order).decode()]
        self._order = order
        self._costs: list[Cost] = []
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        pin(self._process.pid, cores)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()  # has an effect only if the benchmark is interrupted

    def start_job(self) -> None:
        """Start the next job, or let it follow the present one."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def wait_for_job(self) -> None:
        """Wait for the end of the next job."""
        cost = msgspec.json.decode(self._read_line(), type=Cost)
        if cost.done != self._order.work.items:
            job = self._order.jobs[len(self._costs)]
            raise SystemExit(f"{job}: {cost.done} of {self._order.work.items} done")
        self._costs.append(cost)

    def finish(self) -> Costs:
        """Wait for the jobs that were started, and return all costs."""
        while len(self._costs) < len(self._order.jobs):
            self.wait_for_job()
        return Costs(tuple(self._costs), peak_mb=float(self._read_line()))

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the client failed: {', '.join(dict.fromkeys(self._order.jobs))}")
        return line
