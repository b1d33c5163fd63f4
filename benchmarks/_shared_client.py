"""
A client process of the benchmark of a shared rate.

Run as ``python -m benchmarks._shared_client WORK`` with a `Work` as JSON. It prints an empty line
when it is ready, works when it has read a line, and prints a `Done` as JSON. Times are those of the
machine's monotonic clock, which all its processes share.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time

import msgspec

from adapty_async import AdaptyClient, AdaptyError, Limits
from adapty_async.shared import SharedRate

__all__ = ("Done", "Work")


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """
    The work of one process.

    Attributes:
        apis: the URLs of the limited servers; each is done in full, at the same time.
        store: the URL of the store; None for a process that finds the limits on its own.
        first, last: the ids, as numbers; `last` is excluded.
        calls: single calls per second; 0 for a bulk run.
        fallback: the fallback of the shared rate.
    """

    apis: tuple[str, ...]
    store: str | None
    first: int
    last: int
    calls: float = 0.0
    fallback: float = 0.5


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """
    The result of one process.

    Attributes:
        began: time of the start.
        done: times at which an item was done.
        latencies: seconds of each single call.
        failed: number of items that were not done.
        cpu: processor time in seconds.
        exchanges: exchanges with the store, of the rate that has most.
    """

    began: float
    done: list[float]
    latencies: list[float]
    failed: int
    cpu: float
    exchanges: int


class _Client:
    """A run of the work, and what came of it."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.done: list[float] = []
        self.latencies: list[float] = []
        self.failed = 0
        self.exchanges = 0

    async def run(self) -> None:
        """Do all items."""
        work = self._work
        async with contextlib.AsyncExitStack() as stack:
            shared = None
            if work.store is not None:
                shared = await stack.enter_async_context(
                    SharedRate(work.store, fallback=work.fallback)
                )
            await asyncio.gather(*(self._work_on(api, shared) for api in work.apis))
            if shared is not None:
                self.exchanges = max(each.exchanges for each in shared.statistics())

    async def _work_on(self, api: str, shared: SharedRate | None) -> None:
        async with AdaptyClient(
            "secret_live_benchmark", base_url=api, limits=Limits(shared=shared)
        ) as adapty:
            await (self._calls(adapty) if self._work.calls else self._job(adapty))

    async def _job(self, adapty: AdaptyClient) -> None:
        ids = (f"user_{number}" for number in range(self._work.first, self._work.last))
        async with adapty.v1.profiles.bulk_delete(ids, by="customer_user_id") as run:
            async for outcome in run:
                if outcome.status == "done":
                    self.done.append(time.monotonic())
                else:
                    self.failed += 1

    async def _calls(self, adapty: AdaptyClient) -> None:
        async with asyncio.TaskGroup() as calls:
            began = time.monotonic()
            for number in range(self._work.first, self._work.last):
                calls.create_task(self._call(adapty, number))
                due = began + (number + 1 - self._work.first) / self._work.calls
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _call(self, adapty: AdaptyClient, number: int) -> None:
        began = time.monotonic()
        try:
            await adapty.v1.profiles.delete(customer_user_id=f"user_{number}")
        except AdaptyError:
            self.failed += 1
        else:
            self.done.append(time.monotonic())
        self.latencies.append(time.monotonic() - began)


def main() -> None:
    """Do the work and print the result."""
    client = _Client(msgspec.json.decode(sys.argv[1], type=Work))
    sys.stdout.write("\n")
    sys.stdout.flush()
    sys.stdin.readline()
    began, cpu = time.monotonic(), time.process_time()
    asyncio.run(client.run())
    done = Done(
        began=began,
        done=client.done,
        latencies=client.latencies,
        failed=client.failed,
        cpu=time.process_time() - cpu,
        exchanges=client.exchanges,
    )
    sys.stdout.write(msgspec.json.encode(done).decode())


if __name__ == "__main__":
    main()
