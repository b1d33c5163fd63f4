"""
A benchmark of a rate that several processes share: ``python -m benchmarks.bench_shared_rate``.

Processes delete profiles under one hidden limit, each with a `SharedRate` over a real store. The
scenarios are: a plain run, one process killed, the store killed and restarted, a limit that moves,
and single calls from another process. The ideal is the time in which the limit admits all deletes,
without a burst. Only inconsistent counts are an error; times are reported.

With ``--servers 2``, each process shares two rates at once: those of two servers, each of which has
half of the items and half of the limit. A server of Redis' protocol counts the round trips.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import redis

from benchmarks._limit_models import LimitSettings, Rates
from benchmarks._limited_server import Record, ServerSettings, running
from benchmarks._shared_client import Done, Work
from tests.servers import OwnPostgres, OwnRedis

__all__ = ("Result", "measure", "store_of")

_STORES = ("redis", "postgres", "sqlite", "none")
_SCENARIOS = ("plain", "kill", "down", "moving", "calls")
_CALLS = 40.0
_DOWN_SECONDS = 4.0
_STARTED = 5  # items of each process, on average, after which all of them have started


class Server:
    """A store of the benchmark: its URL, and how it is killed and restarted."""

    def __init__(self, url: str | None, server: OwnRedis | OwnPostgres | None = None) -> None:
        self.url = url
        self._server = server

    def kill(self) -> None:
        """Kill the server."""
        if self._server is not None:
            self._server.kill()

    def start(self) -> None:
        """Start the server again."""
        if self._server is not None:
            self._server.start()

    def round_trips(self) -> int | None:
        """Return the number of round trips since the start; None if the server counts none."""
        if not isinstance(self._server, OwnRedis):
            return None
        with redis.Redis.from_url(self._server.url) as client:
            return int(client.info("stats")["total_reads_processed"])


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """
    The result of one run.

    Attributes:
        processes: the results of the processes that were not killed.
        records: the records of the servers, one for each rate.
        ideal: the least seconds of the run.
        round_trips: number of round trips to the store; None if it counts none, or something was
            killed.
        began: time of the start.
        killed: time at which something was killed; None if nothing was.
        back: time at which the store was back; None if it was not killed.
    """

    processes: list[Done]
    records: list[Record]
    ideal: float
    round_trips: int | None
    began: float
    killed: float | None = None
    back: float | None = None

    @property
    def times(self) -> list[float]:
        """Times of all items, in seconds since the start, in order."""
        return sorted(moment - self.began for each in self.processes for moment in each.done)

    @property
    def ratio(self) -> float:
        """The longest duration divided by the ideal."""
        return max(each.last_accepted - each.first_accepted for each in self.records) / self.ideal

    def rates(self) -> list[int]:
        """Return the number of items of each second."""
        times = self.times
        return [
            bisect.bisect(times, second + 1) - bisect.bisect(times, second)
            for second in range(int(times[-1]) + 1)
        ]

    def line(self) -> str:
        """Return the result as a line of text."""
        records, jobs = self.records, [each for each in self.processes if not each.latencies]
        ends = [each.done[-1] - self.began for each in jobs]
        exchanges = max(
            each.exchanges / (each.done[-1] - each.began) for each in self.processes if each.done
        )
        parts = [
            f"{self.ratio:.3f} of the ideal",
            f"throttled {max(each.throttled / each.arrivals for each in records):.2%}",
            f"most in a second {max(each.most_in_a_second for each in records)}",
            f"ends {min(ends):.1f} to {max(ends):.1f} s",
            f"shares within {_unevenness(jobs):.1%}",
            f"exchanges of a rate {exchanges:.1f}/s",
            f"cpu {sum(each.cpu for each in self.processes):.1f} s",
        ]
        if self.round_trips is not None:
            each = self.round_trips / len(self.processes) / self.times[-1]
            parts.append(f"round trips of a process {each:.1f}/s")
        if latencies := sorted(one for each in self.processes for one in each.latencies):
            p50, p99 = (latencies[int(len(latencies) * share)] for share in (0.5, 0.99))
            parts.append(f"calls p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms")
        return ", ".join(parts)


def _unevenness(jobs: Sequence[Done]) -> float:
    """
    Return the largest deviation of a process from the mean, as a part of it.

    Only the time counts in which all of them work: one that starts first has the whole rate.
    """
    first = max(each.done[0] for each in jobs)
    last = min(each.done[-1] for each in jobs)
    counts = [bisect.bisect(each.done, last) - bisect.bisect(each.done, first) for each in jobs]
    mean = sum(counts) / len(counts)
    return max(abs(count - mean) for count in counts) / mean if mean else 0.0


@contextlib.contextmanager
def store_of(name: str) -> Iterator[Server]:
    """Start a store."""
    if name == "redis":
        with OwnRedis() as redis:
            yield Server(redis.url, redis)
    elif name == "postgres":
        with OwnPostgres() as postgres:
            yield Server(postgres.url, postgres)
    elif name == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield Server(f"sqlite:///{Path(folder) / 'rate.db'}")
    else:
        yield Server(None)


def _start(work: Work) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "benchmarks._shared_client",
        msgspec.json.encode(work).decode(),
    ]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _started(works: Sequence[Work]) -> list[subprocess.Popen[bytes]]:
    """Start processes that begin together: the time that Python needs is not part of a run."""
    processes = [_start(work) for work in works]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    return processes


def _result_of(process: subprocess.Popen[bytes]) -> Done:
    output, _ = process.communicate()
    return msgspec.json.decode(output, type=Done)


def measure(
    scenario: str, store: Server, processes: int, seconds: float, limit: float, servers: int = 1
) -> Result:
    """Run one scenario with a number of processes for about a number of seconds."""
    limit /= servers
    steps: Sequence[tuple[float, float]] = ((0.0, limit),)
    if scenario == "moving":
        third = seconds / 3
        steps = ((0.0, limit), (third, 0.375 * limit), (2 * third, 2 * limit))
    rates = Rates(tuple(steps))
    items = round(seconds * limit) if scenario != "moving" else _moving_items(rates, seconds)
    calls = round(seconds * _CALLS) if scenario == "calls" else 0
    bucket = LimitSettings(rates=rates, burst=limit / 10)
    settings = ServerSettings(
        items=items + calls, limit=bucket, latency=0.02, retry_after=1, seed=1
    )
    with contextlib.ExitStack() as stack:
        limited = [stack.enter_context(running(settings)) for _ in range(servers)]
        apis = tuple(each.url for each in limited)
        cuts = [items * number // processes for number in range(processes + 1)]
        works = [
            Work(apis=apis, store=store.url, first=first, last=last)
            for first, last in itertools.pairwise(cuts)
        ]
        if calls:
            works.append(
                Work(apis=apis, store=store.url, first=items, last=items + calls, calls=_CALLS)
            )
        running_processes = _started(works)
        began = time.monotonic()
        while min(each.record().accepted for each in limited) < processes * _STARTED:
            time.sleep(0.1)
        killed, back = _disturb(scenario, store, running_processes, seconds)
        results = [_result_of(each) for each in running_processes]
        records = [each.record() for each in limited]
    return Result(
        processes=results,
        records=records,
        ideal=bucket.ideal(sum(len(each.done) for each in results) // servers),
        round_trips=store.round_trips() if killed is None else None,
        began=began,
        killed=None if killed is None else killed - began,
        back=None if back is None else back - began,
    )


def _moving_items(rates: Rates, seconds: float) -> int:
    start, rate, before = rates.totals()[-1]
    return round(before + rate * (seconds - start))


def _disturb(
    scenario: str, store: Server, processes: list[subprocess.Popen[bytes]], seconds: float
) -> tuple[float | None, float | None]:
    """Kill a process or the store in the middle of a run; return when, and when it was back."""
    if scenario == "kill":
        time.sleep(seconds / 2)
        victim = processes.pop()
        victim.kill()
        moment = time.monotonic()
        victim.communicate()
        return moment, None
    if scenario == "down":
        time.sleep(seconds / 2)
        moment = time.monotonic()
        store.kill()
        time.sleep(_DOWN_SECONDS)
        store.start()
        return moment, time.monotonic()
    return None, None


def main() -> None:
    """Run the chosen scenarios and print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", nargs="+", choices=_STORES, default=["redis"])
    parser.add_argument("--scenario", nargs="+", choices=_SCENARIOS, default=["plain"])
    parser.add_argument("--processes", type=int, nargs="+", default=[4])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--limit", type=float, default=400.0, help="requests per second")
    parser.add_argument("--servers", type=int, default=1, help="rates that each process shares")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--per-second", action="store_true", help="print the items of each second")
    options = parser.parse_args()
    for name in options.store:
        for scenario in options.scenario:
            for processes in options.processes:
                for _ in range(options.runs):
                    with store_of(name) as store:
                        result = measure(
                            scenario,
                            store,
                            processes,
                            options.seconds,
                            options.limit,
                            options.servers,
                        )
                    print(f"{name}, {scenario}, {processes} processes: {result.line()}", flush=True)
                    if options.per_second or scenario in ("kill", "down", "moving"):
                        print(f"  killed {result.killed}, back {result.back}: {result.rates()}")


if __name__ == "__main__":
    main()
