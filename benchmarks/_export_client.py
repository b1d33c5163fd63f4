"""The client's process of the export benchmark. It prints its result and its peak of memory."""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec

from adapty_async import AdaptyExportClient, Limits
from adapty_async.export import Filters
from benchmarks._machine import peak_mb

__all__ = ("Exported", "Order")


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An export to perform; without a rate, the client's own holds."""

    url: str
    first: str
    last: str
    path: str
    rate: float | None


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a process: peaks are those before and after the export, in MB."""

    chunks: int
    size: int
    seconds: float
    idle_mb: float
    peak_mb: float

    @property
    def added_mb(self) -> float:
        """The memory that the export added to that of the process, in MB."""
        return self.peak_mb - self.idle_mb


async def _export(order: Order) -> Exported:
    idle, started = peak_mb(), time.perf_counter()
    limits = Limits() if order.rate is None else Limits(rate=order.rate)
    async with AdaptyExportClient("key", base_url=order.url, limits=limits) as export:
        filters = Filters(date=(order.first, order.last))
        chart = export.analytics(
            chart_id="revenue", filters=filters, period_unit="day", format="csv"
        )
        file = await chart.chunks(by="month").write_to(order.path)
    return Exported(
        chunks=file.chunks,
        size=file.size,
        seconds=time.perf_counter() - started,
        idle_mb=idle,
        peak_mb=peak_mb(),
    )


if __name__ == "__main__":
    result = asyncio.run(_export(msgspec.json.decode(sys.argv[1], type=Order)))
    print(msgspec.json.encode(result).decode())
