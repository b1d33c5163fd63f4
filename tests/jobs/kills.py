"""
Jobs whose workers and planner are killed again and again, held against what the server saw.

Run as ``python -m tests.jobs.kills`` for the long form: 100,000 ids, 4 workers, 25 kills of workers
and 3 of the planner, on both stores, and 4,000 creates. ``--short`` is what the test suite runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import psycopg
import uvloop

from adapty_async import AdaptyClient
from adapty_async.bulk import BulkRun
from adapty_async.jobs import JobReport, JobStore, Lines
from adapty_async.v1 import create_profile
from tests.jobs.counting_server import CountingServer
from tests.servers import OwnPostgres

__all__ = ("KillRun", "Settings", "run")

PARTS = 2
CONCURRENCY = 32
_KEY = "secret_live_kills"
_NAME = "kills"
# A run reserves its concurrency ahead; so many items of each part in hand may go again.
_OPEN = PARTS * 2 * CONCURRENCY
# Seconds in which commits are made that a crash of PostgreSQL may undo.
_UNDONE_SECONDS = 0.6


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """
    The settings of a run.

    Attributes:
        store: ``sqlite`` or ``postgresql``.
        call: ``delete`` or ``create``.
        ids: the number of ids.
        workers: the number of workers.
        kills: how often a random worker is killed and replaced.
        planner_kills: how often the planner is killed.
        part_size: the size of parts.
        everything: once, all workers are killed, and both servers, and all start later.
        pause: seconds for which they are down.
        seed: of the random numbers.
    """

    store: str
    call: str = "delete"
    ids: int = 100_000
    workers: int = 4
    kills: int = 25
    planner_kills: int = 3
    part_size: int = 2_000
    everything: bool = True
    pause: float = 1.0
    seed: int = 1


class KillRun(msgspec.Struct, frozen=True, kw_only=True):
    """
    What came of a run.

    Attributes:
        report: the job's report.
        never: ids that the server never saw.
        claimed: ids that the server never saw, and whose outcome says that it did.
        repeated: requests for an id that it had seen before.
        allowed: how many these may be.
        kills: workers that were killed.
        seconds: the time of the run.
        last: seconds from the kill of all workers in the last parts to the end.
        unknown: positions whose outcome is unknown, with the number of requests for each.
    """

    report: JobReport
    never: int
    claimed: int
    repeated: int
    allowed: int
    kills: int
    seconds: float
    last: float
    unknown: dict[int, int]

    def faults(self, settings: Settings) -> list[str]:
        """Return what is wrong: creates are never sent twice, everything else is never lost."""
        report, is_create = self.report, settings.call == "create"
        unknown = self.allowed if is_create else 0
        rules = {
            "ids were lost": self.never <= (report.unknown if is_create else 0),
            "outcomes are wrong": not self.claimed,
            "too many were sent again": self.repeated <= (0 if is_create else self.allowed),
            "too many are unknown": report.unknown <= unknown,
            "it has not ended": report.has_ended
            and report.done + report.unknown == settings.ids == report.items,
        }
        return [fault for fault, holds in rules.items() if not holds]


def run(settings: Settings) -> KillRun:
    """Run a job, and kill its processes."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="adapty-kills-")))
        server = stack.enter_context(CountingServer(folder, settings.ids).running())
        postgres = stack.enter_context(OwnPostgres()) if settings.store == "postgresql" else None
        url = f"sqlite:///{folder}/store.db" if postgres is None else postgres.url
        ids = folder / "ids.txt"
        ids.write_text("".join(f"user_{number}\n" for number in range(settings.ids)), "utf-8")
        return _Kills(settings, server, postgres, url, ids).run()


class _Kills:
    """One run, with its processes."""

    def __init__(
        self,
        settings: Settings,
        server: CountingServer,
        postgres: OwnPostgres | None,
        url: str,
        ids: Path,
    ) -> None:
        self._settings = settings
        self._server = server
        self._postgres = postgres
        self._random = Random(settings.seed)
        self._arguments = [server.url, url, settings.call, str(ids), str(settings.part_size)]
        self._url = url
        self._workers: list[subprocess.Popen[bytes]] = []
        self._kills = 0
        self._undone = 0  # requests whose commits a crash of the store may have undone

    def _start(self, what: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.jobs.kills", what]
        return subprocess.Popen([*command, *self._arguments], start_new_session=True)

    def run(self) -> KillRun:
        """Plan and work, with kills; return what came of it."""
        started = time.monotonic()
        self._plan()
        try:
            self._workers = [self._start("work") for _ in range(self._settings.workers)]
            for mark in self._marks():
                self._until(mark)
                self._kill(self._random.randrange(len(self._workers)))
            last = self._end()
        finally:
            for worker in self._workers:
                worker.kill()
        seconds = time.monotonic() - started
        counts = self._server.counts.by_item()
        report, statuses = asyncio.run(_found(self._url))
        seen = list(zip(statuses, counts, strict=True))
        return KillRun(
            report=report,
            never=counts.count(0),
            claimed=sum(status == "done" and not count for status, count in seen),
            repeated=sum(count - 1 for count in counts if count > 1),
            allowed=self._kills * _OPEN + self._undone,
            kills=self._kills,
            seconds=seconds,
            last=last,
            unknown={
                position: count
                for position, (status, count) in enumerate(seen)
                if status == "unknown"
            },
        )

    def _plan(self) -> None:
        for _ in range(self._settings.planner_kills):
            planner = self._start("plan")
            time.sleep(self._random.uniform(0.2, 1.5))
            planner.kill()
            planner.wait()
        assert self._start("plan").wait() == 0

    def _marks(self) -> list[int]:
        """
        Return the numbers of requests at which a worker is killed.

        Creates that a kill leaves unknown are not sent again, so their number may not be reached.
        """
        lost = self._settings.kills * _OPEN if self._settings.call == "create" else 0
        most = self._settings.ids * 9 // 10 - lost
        return sorted(self._random.sample(range(most), self._settings.kills))

    def _until(self, requests: int) -> None:
        while self._server.counts.requests < requests:
            assert any(worker.poll() is None for worker in self._workers), "all have ended"
            time.sleep(0.002)

    def _kill(self, index: int) -> None:
        worker = self._workers[index]
        if worker.poll() is None:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            self._kills += 1
        self._workers[index] = self._start("work")

    def _end(self) -> float:
        """Kill all in the last parts, and the servers; return the seconds until the end."""
        if not self._settings.everything:
            return self._wait(time.monotonic())
        self._until(self._settings.ids * 95 // 100)
        if self._postgres is not None:
            before = self._server.counts.requests
            _store_on_disk(self._postgres.url)
            time.sleep(_UNDONE_SECONDS)
            self._postgres.kill()
            self._undone = self._server.counts.requests - before + len(self._workers) * _OPEN
            time.sleep(self._settings.pause)
            self._postgres.start()
        self._server.kill()
        time.sleep(self._settings.pause)
        self._server.start()
        for index in range(len(self._workers)):
            if self._workers[index].poll() is None:
                self._workers[index].kill()
                self._workers[index].wait()
                self._kills += 1
        time.sleep(self._settings.pause)
        self._workers = [self._start("work")]  # one comes later
        return self._wait(time.monotonic())

    def _wait(self, since: float) -> float:
        for worker in self._workers:
            assert worker.wait() == 0
        return time.monotonic() - since


def _store_on_disk(url: str) -> None:
    """Make a durable commit, with which those before it are durable."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = on")
        connection.execute("SELECT pg_current_xact_id()")


async def _found(url: str) -> tuple[JobReport, list[str]]:
    """Return the report, and the status of each id, which has exactly one."""
    async with JobStore(url) as store:
        job = await store.job(_NAME)
        outcomes = [outcome async for outcome in job.outcomes()]
        report = await job.report()
    assert [outcome.index for outcome in outcomes] == list(range(report.items))
    for name, count in report.counts.items():
        assert sum(outcome.status == name for outcome in outcomes) == count
    return report, [outcome.status for outcome in outcomes]


async def _child(what: str, server: str, url: str, call: str, ids: str, size: str) -> None:
    async with JobStore(url) as store, AdaptyClient(_KEY, base_url=server) as adapty:

        def create(items: Any, /, *, by: Any, **options: Any) -> BulkRun[Any, Any]:
            return adapty.bulk(
                items, build=lambda item: create_profile(**{by: item}), name="create", **options
            )

        method = create if call == "create" else adapty.v1.profiles.bulk_delete
        by = "customer_user_id"
        if what == "plan":
            await store.plan(_NAME, method, Lines(ids), by=by, part_size=int(size))
        else:
            job = await store.job(_NAME, method)
            await job.work(parts=PARTS, concurrency=PARTS * CONCURRENCY, rate=1e6)


def _forms(*, is_short: bool) -> Iterator[Settings]:
    for store in ("sqlite", "postgresql"):
        if is_short:
            yield Settings(store=store, ids=3_000, workers=2, kills=4, part_size=150, pause=0.2)
        else:
            yield Settings(store=store)
            yield Settings(store=store, call="create", ids=4_000, part_size=200)


def main() -> None:
    """
    Run all forms, and print what came of each.

    Raises:
        SystemExit: something is wrong.
    """
    for settings in _forms(is_short="--short" in sys.argv):
        found = run(settings)
        print(  # noqa: T201  a command
            f"{settings.store} {settings.call}: {found.kills} kills in {found.seconds:.1f} s;"
            f" never {found.never}, claimed {found.claimed},"
            f" sent again {found.repeated} of {found.allowed} allowed,"
            f" unknown {len(found.unknown)} (sent {sum(found.unknown.values())});"
            f" the last parts took {found.last:.1f} s; {found.report!r}",
            flush=True,
        )
        if faults := found.faults(settings):
            raise SystemExit("; ".join(faults))


if __name__ == "__main__":
    if len(sys.argv) > 5:
        uvloop.run(_child(*sys.argv[1:]))

    else:
        main()
