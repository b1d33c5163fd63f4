"""One run of one client under one limit, checked against the server's record."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import msgspec

from benchmarks._goodput_client import OURS, Measured
from benchmarks._limited_server import LimitedServer, Record, running
from benchmarks._rivals import Job
from benchmarks._scenarios import Scenario

__all__ = ("Run", "measure")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """
    A run as reported by the client and as recorded by the server.

    Attributes:
        load: mean number of runnable tasks on this machine in the last minute. If it exceeds the
            number of processors, no client reaches a limit of thousands of requests per second.
    """

    scenario: Scenario
    client: str
    seed: int
    measured: Measured
    record: Record
    load: float

    @property
    def slowness(self) -> float:
        """The duration as a multiple of the ideal."""
        return self.measured.wall / self.scenario.ideal

    @property
    def throttled(self) -> float:
        """The share of requests that was throttled (429)."""
        return self.record.throttled / max(1, self.record.arrivals)

    @property
    def most_throttled(self) -> int:
        """The largest number of 429s of one item."""
        return self.record.most_throttled

    @property
    def failed(self) -> int:
        """The number of items that were not deleted."""
        return self.scenario.items - self.measured.done

    @property
    def effort(self) -> float:
        """Requests per deleted item."""
        return self.record.arrivals / max(1, self.record.accepted)

    @property
    def unavailable(self) -> float | None:
        """The share of requests that arrived in the outage; None if there was none."""
        if self.scenario.limit.outage is None:
            return None
        return self.record.unavailable / max(1, self.record.arrivals)

    @property
    def back_after(self) -> float | None:
        """Seconds from the end of the outage until the limit was used fully; None if never."""
        return self.record.back_after

    @property
    def client_cost(self) -> float:
        """Processor time of the client per item, in microseconds."""
        return self.measured.cpu / self.scenario.items * 1e6

    @property
    def server_cost(self) -> float:
        """Processor time of the server per request, in microseconds."""
        return self.record.cpu / max(1, self.record.arrivals) * 1e6

    def problems(self) -> Iterator[str]:
        """Yield the differences between the client's report and the server's record."""
        said, saw = self.measured, self.record
        if said.done != saw.accepted:
            yield f"{said.done} done as it says, {saw.accepted} as the server says"
        if saw.repeated:
            yield f"{saw.repeated} ids deleted twice"
        if saw.strange:
            yield f"{saw.strange} requests about no id"
        if self.client == OURS and (said.requests, said.throttled) != (
            saw.arrivals,
            saw.throttled,
        ):
            yield (
                f"{said.requests} requests and {said.throttled} 429s as it says, "
                f"{saw.arrivals} and {saw.throttled} as the server says"
            )


def measure(scenario: Scenario, client: str, seed: int) -> Run:
    """Run the scenario's deletes with one client, on a server of its own."""
    with running(scenario.server(seed)) as server:
        measured = _run_client(scenario, client, server)
        return Run(
            scenario=scenario,
            client=client,
            seed=seed,
            measured=measured,
            record=server.record(),
            load=os.getloadavg()[0],
        )


def _run_client(scenario: Scenario, client: str, server: LimitedServer) -> Measured:
    job = Job(
        url=server.url,
        items=scenario.items,
        in_flight=scenario.in_flight,
        rate=scenario.first_rate,
        latency=scenario.latency,
        configured_rate=scenario.rate,
    )
    command = [sys.executable, "-m", "benchmarks._goodput_client", client]
    arguments = [msgspec.json.encode(job).decode()]
    output = subprocess.run([*command, *arguments], check=True, stdout=subprocess.PIPE).stdout
    return msgspec.json.decode(output, type=Measured)
