"""What runs report is true: faults, ends and resumes at random, compared with a server's record."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import pytest

from adapty_async import AdaptyClient, BulkRun, Outcome, RetryPolicy
from adapty_async.bulk import summarise
from adapty_async.hooks import Event
from adapty_async.v1 import create_profile
from adapty_async.v2 import ProfileAttributes
from tests._support import LOOPS
from tests.raw_server import CLOSE, RESET, RawServer, Received, Steps, api_error, page, reply

pytestmark = [pytest.mark.slow, pytest.mark.unmeasured]

#: Of each of the six tests; each has up to five runs with one journal.
SEEDS = 60
ITEMS = 12


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run each test on both event loops."""
    return request.param


Start: TypeAlias = Callable[..., BulkRun[Any, Any]]


class Record:
    """
    A server with faults at random, and a record of what it did.

    Attributes:
        faults: the share of requests with a fault.
        is_created, is_erased: the runs create profiles that do not exist, or delete those that do.
        existing: the ids of the profiles.
        received: the number of requests by id, since it was last cleared.
        lost: ids of which a creation may have been processed, without a response that says so.
        again: ids of which another creation arrived after that.
    """

    def __init__(self, random: Random, start: Start) -> None:
        self._random = random
        self.faults = 0.0
        self.is_created, self.is_erased = start is create, start is delete
        share = {create: 0, ensure: 5, delete: ITEMS}[start]
        self.existing = {f"u{number}" for number in range(share)}
        self.received: Counter[str] = Counter()
        self.lost: set[str] = set()
        self.again: list[str] = []

    def __call__(self, request: Received) -> Steps:
        """Respond to one request, or let it get lost before or after it is processed."""
        identity = request.identity
        self.received[identity] += 1
        if request.method == "POST" and identity in self.lost:
            self.again.append(identity)
        fault = self._random.random() < self.faults
        if fault and self._random.random() < 0.5:
            return (
                self._random.choice(
                    [
                        api_error(429, "rate_limited", Retry_After="0"),
                        api_error(503, "unavailable", Retry_After="0"),
                        api_error(400, "bad_request"),
                    ]
                ),
            )
        if request.method == "POST":
            self.lost.add(identity)
        is_processed = not fault or self._random.random() < 0.5
        response = self._perform(request, identity) if is_processed else page(502)
        if not fault:
            return (response,)
        cut = response[: self._random.randrange(len(response))]
        return self._random.choice([(page(500),), (RESET,), (cut, CLOSE), (cut, RESET)])

    def _perform(self, request: Received, identity: str) -> bytes:
        if request.method == "POST":
            self.existing.add(identity)
        elif identity not in self.existing:
            return api_error(404, "profile_does_not_exist")
        if request.method == "DELETE":
            self.existing.remove(identity)
            return reply(204)
        return reply(body=json.dumps({"data": {"customer_user_id": identity}}).encode())


def create(client: AdaptyClient, ids: list[str], **options: Any) -> BulkRun[Any, Any]:
    """Create profiles."""
    return client.bulk(ids, build=lambda each: create_profile(customer_user_id=each), **options)


def ensure(client: AdaptyClient, ids: list[str], **options: Any) -> BulkRun[Any, Any]:
    """Create the profiles that are missing."""
    items = [(each, ProfileAttributes(first_name="x")) for each in ids]
    return client.v2.profiles.bulk_ensure(items, **options)


def delete(client: AdaptyClient, ids: list[str], **options: Any) -> BulkRun[Any, Any]:
    """Delete profiles."""
    return client.v1.profiles.bulk_delete(ids, by="customer_user_id", **options)


class Quit(BaseException):
    """Of a kind that is not caught, as `KeyboardInterrupt` is."""


class End:
    """
    The end of a run at a random event: hooks and `on_outcome` count down to it.

    Attributes:
        task: the task of the run.
        run: the run.
    """

    def __init__(self, random: Random) -> None:
        self._left = random.randrange(1, 70)
        self._way = random.choice(["stop", "cut_off", "cancel", "quit", "stop and quit"])
        self.task: asyncio.Task[Any]
        self.run: BulkRun[Any, Any]

    def count(self, _: Event | None = None) -> None:
        """Count one event, and end the run if it is the chosen one."""
        self._left -= 1
        if self._left:
            return
        if self._way == "cancel":
            self.task.cancel()
        elif self._way == "cut_off":
            self.run.cut_off()
        elif "stop" in self._way:
            self.run.stop()
        if "quit" in self._way:
            raise Quit


async def run_once(
    start: Start, random: Random, record: Record, url: str, journal: Path
) -> tuple[BulkRun[Any, Any], list[Outcome[Any, Any]]]:
    """Run until the end or until something ends it; return the run and its outcomes."""
    end, outcomes = End(random), list[Outcome[Any, Any]]()

    def on_outcome(outcome: Outcome[Any, Any]) -> None:
        outcomes.append(outcome)
        if record.faults:
            end.count()

    hooks = (end.count,) if record.faults else ()
    retry = RetryPolicy(
        attempts=random.choice([1, 3]) if record.faults else 5, wait_initial=0.001, wait_max=0.002
    )
    async with AdaptyClient("secret_live_x.y", base_url=url, retry=retry, hooks=hooks) as client:
        end.run = start(
            client,
            [f"u{number}" for number in range(ITEMS)],
            concurrency=random.choice([1, 4, 16]),
            drain=random.choice([0.001, 1.0]),
            journal=journal,
            job_id="job",
            on_outcome=on_outcome,
        )
        end.task = asyncio.create_task(end.run)
        await asyncio.gather(end.task, return_exceptions=True)
    return end.run, outcomes


def check(
    run: BulkRun[Any, Any], outcomes: list[Outcome[Any, Any]], record: Record, journal: Path
) -> None:
    """Compare the outcomes, the report and the journal of a run with the record."""
    report, recorded = run.report, summarise(journal)
    assert report.total == sum(report.counts.values()) == len(outcomes)
    assert len({outcome.index for outcome in outcomes}) == len(outcomes)
    assert report.requests == sum(outcome.requests for outcome in outcomes)
    assert report.throttled == sum(outcome.throttled for outcome in outcomes)
    minutes = [each for each in recorded.minutes if each.run == len(recorded.runs)]
    assert sum(each.requests for each in minutes) == report.requests
    assert recorded.runs[-1].stop_reason == report.stop_reason
    assert record.again == []
    for outcome in outcomes:
        check_outcome(outcome, record)


def check_outcome(outcome: Outcome[Any, Any], record: Record) -> None:
    """Compare an outcome with the record."""
    identity = f"u{outcome.index}"
    assert record.received[identity] <= outcome.requests
    match outcome.status:
        case "not_sent":
            assert outcome.requests == 0
        case "done":
            assert (identity in record.existing) is not record.is_erased
        case "absent":
            assert identity not in record.existing
        case "failed" if record.is_created:
            assert identity not in record.existing


@pytest.mark.parametrize("start", [create, ensure, delete])
async def test_what_a_run_reports_is_what_the_server_did(start: Start, tmp_path: Path) -> None:
    """Each run says the truth, and the last one, without faults, leaves nothing undone."""
    for seed in range(SEEDS):
        random = Random(f"{start.__name__} {seed}")
        record, journal = Record(random, start), tmp_path / f"journal{seed}"
        async with RawServer(then=record) as server:
            for record.faults in [*[0.3] * random.randrange(1, 5), 0.0]:
                record.received.clear()
                run, outcomes = await run_once(start, random, record, server.url, journal)
                check(run, outcomes, record, journal)
                if record.faults:
                    continue
                report = run.report
                assert (report.total, report.failed, report.not_sent) == (ITEMS, 0, 0)
                assert not report.unknown or start is not delete
