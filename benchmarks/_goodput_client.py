"""
A client process of the goodput benchmark, so that its time and memory are only its own.

Run as ``python -m benchmarks._goodput_client CLIENT JOB`` with the name of a rival, or ``ours``,
and a `Job` as JSON; it prints a `Measured` as JSON.
"""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec

from adapty_async import AdaptyClient
from benchmarks._machine import peak_mb
from benchmarks._rivals import RIVALS, Job
from benchmarks._samples import ids

__all__ = ("OURS", "Measured")

OURS = "ours"


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """
    The report of a client about its run.

    Attributes:
        done: items that it counts as deleted.
        requests, throttled: its counts, -1 if it does not count.
        wall, cpu: elapsed and processor time, in seconds.
        peak_mb: peak of the memory, in MB.
    """

    done: int
    requests: int = -1
    throttled: int = -1
    wall: float = 0.0
    cpu: float = 0.0
    peak_mb: float = 0.0


async def _ours(job: Job) -> Measured:
    async with AdaptyClient("secret_live_benchmark", base_url=job.url) as adapty:
        report = await adapty.v1.profiles.bulk_delete(
            ids(job.items), by="customer_user_id", rate=job.configured_rate
        )
    return Measured(done=report.done, requests=report.requests, throttled=report.throttled)


async def _run(client: str, job: Job) -> Measured:
    if client == OURS:
        return await _ours(job)
    return Measured(done=await RIVALS[client].run(job))


def main() -> None:
    """Measure one run."""
    client, job = sys.argv[1], msgspec.json.decode(sys.argv[2], type=Job)
    wall, cpu = time.perf_counter(), time.process_time()
    said = asyncio.run(_run(client, job))
    measured = msgspec.structs.replace(
        said,
        wall=time.perf_counter() - wall,
        cpu=time.process_time() - cpu,
        peak_mb=peak_mb(),
    )
    sys.stdout.write(msgspec.json.encode(measured).decode())


if __name__ == "__main__":
    main()
