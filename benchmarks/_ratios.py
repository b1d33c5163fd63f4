"""A comparison of two jobs that alternate, each in a process of its own, as ratios of costs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import msgspec

from benchmarks._nginx import CheapServer
from benchmarks._work import Cost, Order, Work, alternate

__all__ = ("Comparison", "Pair", "Ratio", "compare")


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """
    A pair of jobs to compare.

    Attributes:
        name: the label of the pair.
        ours, other: the names of the jobs.
        workers: calls in flight.
        tls: over TLS, if the server has it.
    """

    name: str
    ours: str
    other: str
    workers: int = 64
    tls: bool = False

    @property
    def jobs(self) -> tuple[str, str]:
        """The names of both jobs."""
        return self.ours, self.other


class Ratio(msgspec.Struct, frozen=True):
    """The median, the minimum and the maximum of the ratios of the pairs of runs."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.2f} to {self.high:.2f})"


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """
    The result of a pair on one event loop; times are medians in microseconds per item.

    Attributes:
        cpu, wall: ratios of ours to the other.
    """

    name: str
    loop: str
    items: int
    pairs: int
    cpu: Ratio
    wall: Ratio
    ours_cpu: float
    other_cpu: float
    ours_wall: float
    other_wall: float

    @property
    def key(self) -> str:
        """The key that identifies the same comparison in another recording."""
        return f"{self.name}, {self.loop}"


def compare(server: CheapServer, pair: Pair, loop: str, items: int, pairs: int) -> Comparison:
    """
    Alternate the two jobs `pairs` times, after one run of each that does not count.

    Raises:
        SystemExit: the server counted another number of requests than the clients report.
    """
    url = server.tls_url if pair.tls else server.url
    if url is None:
        raise SystemExit("the server has no TLS: it needs nginx and openssl")
    work = Work(url=url, items=items, workers=pair.workers)
    orders = [Order(jobs=(job,) * (pairs + 1), work=work, loop=loop) for job in pair.jobs]
    with server.expecting(2 * items * (pairs + 1), pair.name):
        ours, other = (result.costs[1:] for result in alternate(*orders))
    return _summary(pair, loop, items, ours, other)


def _summary(
    pair: Pair, loop: str, items: int, ours: Sequence[Cost], other: Sequence[Cost]
) -> Comparison:
    def each(costs: Sequence[Cost], seconds: Callable[[Cost], float]) -> float:
        return statistics.median(map(seconds, costs)) / items * 1e6

    return Comparison(
        name=pair.name,
        loop=loop,
        items=items,
        pairs=len(ours),
        cpu=_ratio([cost.cpu for cost in ours], [cost.cpu for cost in other]),
        wall=_ratio([cost.wall for cost in ours], [cost.wall for cost in other]),
        ours_cpu=each(ours, lambda cost: cost.cpu),
        other_cpu=each(other, lambda cost: cost.cpu),
        ours_wall=each(ours, lambda cost: cost.wall),
        other_wall=each(other, lambda cost: cost.wall),
    )


def _ratio(ours: Sequence[float], other: Sequence[float]) -> Ratio:
    ratios = [one / beside for one, beside in zip(ours, other, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))
