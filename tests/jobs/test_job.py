"""Jobs over each store: plans, parts, reports, and what stops them."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapty_async import AdaptyClient
from adapty_async.bulk import BulkRun, OutcomeStatus
from adapty_async.errors import AuthenticationError, ConfigError, JournalError
from adapty_async.jobs import (
    Job,
    JobError,
    JobOutcome,
    JobReport,
    JobStoppedError,
    JobStore,
    Lines,
    PartBusyError,
    PartChangedError,
    StoreUnavailableError,
)
from adapty_async.jobs import _job as _job_module
from adapty_async.jobs._database import PartLock, Statement
from adapty_async.jobs._part_steps import _checksum
from adapty_async.jobs._sources import Item
from adapty_async.jobs._steps import forget_job
from adapty_async.sandbox import Sandbox
from adapty_async.transport import Request, Response
from adapty_async.v1 import create_profile

BY = "customer_user_id"
WriteIds = Callable[..., Lines]


def users(count: int) -> list[str]:
    """Return ids of users."""
    return [f"user_{number}" for number in range(count)]


def renamed(path: str, name: str) -> Path:
    """Give a file another name."""
    return Path(path).rename(Path(path).with_name(name))


def replace_in(path: str, old: str, new: str) -> None:
    """Replace text in a file."""
    Path(path).write_text(Path(path).read_text("utf-8").replace(old, new), "utf-8")


class Held:
    """
    A transport whose responses wait until the test lets them through.

    Attributes:
        count: the number of requests.
        may_respond: set when the responses may come.
    """

    def __init__(self) -> None:
        self.count = 0
        self.may_respond = asyncio.Event()
        self._sent = asyncio.Semaphore(0)

    async def __call__(self, _request: Request) -> Response:
        """Respond when that is allowed."""
        self.count += 1
        self._sent.release()
        await self.may_respond.wait()
        return Response(204, {}, b"")

    async def until_sent(self, count: int) -> None:
        """Wait until `count` more requests have arrived."""
        for _ in range(count):
            await self._sent.acquire()


async def until_arrived(sandbox: Sandbox) -> None:
    """Return as soon as a request has reached a sandbox."""
    while not sandbox.arrivals():  # noqa: ASYNC110  the sandbox has no event for it
        await asyncio.sleep(0.001)


async def planned(
    store: JobStore, name: str, adapty: AdaptyClient, source: Lines, part_size: int = 10
) -> Job:
    """Plan a deletion."""
    call = adapty.v1.profiles.bulk_delete
    return await store.plan(name, call, source, by=BY, part_size=part_size)


async def test_a_job_ends_with_an_outcome_for_each_item(
    store: JobStore, name: str, adapty: AdaptyClient, sandbox: Sandbox, ids: WriteIds
) -> None:
    """All parts run, and the counts of the report add up to the items."""
    sandbox.seed_profiles(users(45))
    job = await planned(store, name, adapty, ids(*users(55)))
    before = await job.report()
    assert (job.items, job.parts, job.part_size, job.by) == (55, 6, 10, BY)
    assert before.counts["not_sent"] == 55
    assert (before.parts.ended, before.rate, before.workers) == (0, None, 0)

    report = await job.work(parts=3)

    assert {one: count for one, count in report.counts.items() if count} == {
        "done": 45,
        "absent": 10,
    }
    assert report.ok
    assert report.has_ended
    assert report.requests == 55
    assert sandbox.customer_user_ids() == set()
    assert repr(report) == f"JobReport({name}, items=55, done=45, absent=10)"
    assert repr(job) == f"Job({name}, v1.profiles.delete by customer_user_id, items=55, parts=6)"
    assert await job.open_parts() == []
    assert job._recorded == 6  # a failure of the store would begin another outage
    assert [(one.index, one.line, one.item) async for one in job.outcomes()] == [
        (number, number + 1, f"user_{number}") for number in range(55)
    ]


async def test_the_same_plan_again_is_the_same_job(
    store: JobStore, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """A plan that is made again changes nothing, also if the file is at another path."""
    lines = ids(*users(25))
    job = await planned(store, name, adapty, lines)
    await job.run_part(1)
    moved = renamed(lines.path, "moved.txt")

    again = await planned(store, name, adapty, Lines(moved))

    assert await again.open_parts() == [0, 2]


async def test_plans_at_the_same_time_are_one_job(
    store_url: str, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """Several processes plan the same job at once, and create the tables of the store."""
    lines = ids(*users(25))

    async def plan() -> list[int]:
        async with JobStore(store_url) as own:
            return await (await planned(own, name, adapty, lines)).open_parts()

    assert await asyncio.gather(*(plan() for _ in range(4))) == [[0, 1, 2]] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"part_size": 9}, r"part_size: 10 there, 9 here"),
        ({"by": "profile_id"}, "operation: .*customer_user_id there, .*profile_id here"),
        ({"count": 24}, r"items: 25 there, 24 here; digest: "),
    ],
    ids=["size", "kind", "input"],
)
async def test_another_job_of_the_same_name_is_rejected_with_the_difference(
    store: JobStore,
    name: str,
    adapty: AdaptyClient,
    ids: WriteIds,
    change: dict[str, Any],
    message: str,
) -> None:
    """A name belongs to its operation, input and size of parts."""
    await planned(store, name, adapty, ids(*users(25)))
    options = {"by": BY, "part_size": 10, **change}
    source = ids(*users(options.pop("count", 25)))
    with pytest.raises((JobError, JournalError), match=message):
        await store.plan(name, adapty.v1.profiles.bulk_delete, source, **options)


async def test_another_kind_of_ids_is_rejected(
    store: JobStore, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """The name of a call of one's own may not have it."""

    def create(items: Any, *, by: Any, **options: Any) -> BulkRun[Any, Any]:
        return adapty.bulk(
            items, build=lambda item: create_profile(**{by: item}), name="create", **options
        )

    await store.plan(name, create, ids("a"), by=BY)
    with pytest.raises(JobError, match="by: customer_user_id there, profile_id here"):
        await store.plan(name, create, ids("a"), by="profile_id")


async def test_another_key_is_rejected(
    store: JobStore, name: str, adapty: AdaptyClient, sandbox: Sandbox, ids: WriteIds
) -> None:
    """A worker with another key is rejected before it sends anything, and its key is not shown."""
    await planned(store, name, adapty, ids(*users(5)))
    async with AdaptyClient("secret_live_other", base_url=sandbox.url) as other:
        with pytest.raises(JournalError, match="account: another key") as caught:
            await store.job(name, other.v1.profiles.bulk_delete)
        with pytest.raises(JournalError, match="account: another key"):
            await planned(store, name, other, ids(*users(5)))
    assert "secret_live_other" not in str(caught.value)
    assert not sandbox.arrivals()


async def test_a_part_that_has_ended_sends_nothing(
    store: JobStore, name: str, adapty: AdaptyClient, sandbox: Sandbox, ids: WriteIds
) -> None:
    """A part that is delivered again after its end costs no request."""
    job = await planned(store, name, adapty, ids(*users(15)))
    first = await job.run_part(0)
    assert first is not None
    assert first.total == 10
    assert await job.run_part(0) is None
    assert len(sandbox.arrivals()) == 10


async def test_a_part_that_is_delivered_twice_at_once_is_sent_once(
    store_url: str, name: str, ids: WriteIds
) -> None:
    """The second runner sends no request, in another process or in the same one."""
    server = Held()
    own = AdaptyClient("key", base_url="http://127.0.0.1:1", transport=server)
    async with own, JobStore(store_url) as one, JobStore(store_url) as other:
        job = await planned(one, name, own, ids(*users(10)))
        second = await other.job(name, own.v1.profiles.bulk_delete)
        running = asyncio.create_task(job.run_part(0))
        await server.until_sent(10)
        report = await second.report()
        assert [outcome async for outcome in second.outcomes()] == []
        for each in (job, second):
            with pytest.raises(PartBusyError, match=f"part 0 of the job {name} is in use"):
                await each.run_part(0)
        with pytest.raises(PartBusyError, match="in use: cancel it first"):
            await second.forget()
        server.may_respond.set()
        await running
        assert (await second.report()).done == 10
    assert server.count == 10
    assert (report.parts.running, report.workers, report.in_flight) == (1, 1, 10)
    assert sum(report.counts.values()) == 10


async def test_a_part_that_ends_before_it_is_locked_sends_nothing(
    store_url: str, name: str, ids: WriteIds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failed items are not sent again by a runner that saw the part open, and locked it later."""
    sent: list[Request] = []

    async def reject(request: Request) -> Response:
        sent.append(request)
        return Response(400, {}, b'{"errors":[],"error_code":"bad_request"}')

    own = AdaptyClient("key", transport=reject)
    async with own, JobStore(store_url) as one, JobStore(store_url) as other:
        job = await planned(one, name, own, ids(*users(4)))
        first = await other.job(name, own.v1.profiles.bulk_delete)
        lock = one._database.lock

        async def lock_late(number: int, part: int) -> PartLock | None:
            await first.run_part(0)
            return await lock(number, part)

        monkeypatch.setattr(one._database, "lock", lock_late)
        assert await job.run_part(0) is None
        assert len(sent) == 4
        assert (await job.report()).failed == 4


async def test_a_part_that_has_ended_needs_no_lock(
    store_url: str, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """A late delivery is no error, though the runner that ended the part is about to release it."""
    async with JobStore(store_url) as store, JobStore(store_url) as other:
        job = await planned(store, name, adapty, ids("a"))
        await job.run_part(0)
        lock = await other._database.lock(job._record.id, 0)
        assert lock is not None
        assert await job.run_part(0) is None


async def test_a_runner_that_is_taken_over_commits_nothing(
    store_url: str, name: str, ids: WriteIds
) -> None:
    """A runner without its lock cannot change what its successor records."""
    server = Held()
    async with AdaptyClient("key", transport=server) as own, JobStore(store_url) as store:
        job = await planned(store, name, own, ids(*users(10)))
        running = asyncio.create_task(job.run_part(0))
        await server.until_sent(10)
        takeover = Statement(
            "UPDATE adapty_part SET runs = runs + 1 WHERE job = :job",
            {"job": job._record.id},
        )
        await store._database.execute(takeover)
        server.may_respond.set()
        with pytest.raises(PartBusyError, match="another runner has taken it over"):
            await running
        assert (await job.report()).done == 0


async def test_input_that_changed_is_not_sent(
    store: JobStore, name: str, adapty: AdaptyClient, sandbox: Sandbox, ids: WriteIds
) -> None:
    """Parts whose bytes have changed are left out, and the others are done."""
    lines = ids(*users(30))
    job = await planned(store, name, adapty, lines)
    replace_in(lines.path, "user_15", "user_51")

    report = await job.work()

    assert (report.absent, report.not_sent, report.parts.changed) == (20, 10, 1)
    assert not report.has_ended
    with pytest.raises(PartChangedError, match="has changed since the job was planned"):
        [outcome async for outcome in job.outcomes()]

    replace_in(lines.path, "user_51", "user_15")
    assert await job.retry() == 1
    assert (await job.work()).absent == 30
    assert len(sandbox.arrivals()) == 30


async def test_a_part_whose_input_has_changed_on_another_machine_alone_is_not_changed(
    store: JobStore, name: str, adapty: AdaptyClient, ids: WriteIds, tmp_path: Path
) -> None:
    """A worker that chose the part before reads what was planned, and the job ends without it."""
    job = await planned(store, name, adapty, ids(*users(10)))
    other = tmp_path / "half.txt"
    other.write_text("user_0\n", "utf-8")
    call = adapty.v1.profiles.bulk_delete
    stale = await store.job(name, call, source=job.input_at(str(other)))
    with pytest.raises(PartChangedError):
        await stale.run_part(0)
    assert (await job.report()).parts.changed == 1

    await job.run_part(0)

    report = await job.report()
    assert (report.ok, report.parts.changed) == (True, 0)


async def test_a_part_of_a_killed_worker_whose_input_changed_is_counted(
    store: JobStore, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """A worker that was killed leaves its part open, and nobody else may take it."""
    lines = ids(*users(10))
    job = await planned(store, name, adapty, lines)
    killed = "UPDATE adapty_part SET is_open = 1, runs = 1, worker = 'dead' WHERE job = :job"
    await store._database.execute(Statement(killed, {"job": job._record.id}))
    replace_in(lines.path, "user_5", "user_6")

    report = await job.work()

    assert (report.parts.total, report.parts.changed, report.has_ended) == (1, 1, False)


async def test_parts_that_a_worker_left_are_not_running(
    store: JobStore, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """After a kill, nobody has the lock; workers first take the parts that nobody has begun."""
    job = await planned(store, name, adapty, ids(*users(3)), part_size=1)
    begun = "UPDATE adapty_part SET is_open = 1, runs = 1, worker = 'dead' WHERE job = :job"
    begun = f"{begun} AND number = 0"
    await store._database.execute(Statement(begun, {"job": job._record.id}))
    report = await job.report()
    assert (report.parts.total, report.parts.running, report.workers) == (3, 0, 0)
    assert await job._next_parts(2) == [1, 2]
    assert await job._next_parts(3) == [1, 2, 0]


async def test_a_report_has_rate_and_limit_while_a_worker_is_at_work(
    store_url: str, name: str, ids: WriteIds
) -> None:
    """
    The rate is that of the last minute; the limit is that of the last run that recorded one.

    Items that a run left unsent when it stopped are no work.
    """
    server = Held()
    async with AdaptyClient("key", transport=server) as own, JobStore(store_url) as store:
        job = await planned(store, name, own, ids(*users(20)))
        recorded = Statement(
            "INSERT INTO adapty_run (job, part, number, started_at, last_at, rate)"
            " VALUES (:job, :part, 7, 1.0, :at, :rate)",
            {"job": job._record.id},
            [{"part": 0, "at": 2.0, "rate": 300.0}, {"part": 1, "at": 3.0, "rate": 400.0}],
        )
        await store._database.execute(recorded)
        minutes = Statement(
            "INSERT INTO adapty_minute VALUES"
            " (:job, 0, 7, :minute, :first, :last, :done, 0, 0, 0, 0, :left, 0, 0, 0)",
            {"job": job._record.id},
            [
                {"minute": 0, "first": 0.0, "last": 50.0, "done": 100, "left": 0},
                {"minute": 10, "first": 600.0, "last": 610.0, "done": 20, "left": 1_000},
            ],
        )
        await store._database.execute(minutes)
        before = await job.report()
        running = asyncio.create_task(job.run_part(0))
        await server.until_sent(10)
        report = await job.report()
        assert (before.rate, report.rate) == (None, 2.0)
        assert (before.limit, report.limit) == (None, 400.0)
        server.may_respond.set()
        await running
        assert (await job.report()).limit is None


async def test_the_first_outcomes_of_a_job_show_no_rate_of_thousands(
    store_url: str, name: str, ids: WriteIds
) -> None:
    """Two responses within a millisecond are two a second, and not two thousand."""
    server = Held()
    async with AdaptyClient("key", transport=server) as own, JobStore(store_url) as store:
        job = await planned(store, name, own, ids(*users(10)))
        minute = Statement(
            "INSERT INTO adapty_minute VALUES"
            " (:job, 0, 7, 10, 600.0, 600.001, 2, 0, 0, 0, 0, 0, 0, 2, 0)",
            {"job": job._record.id},
        )
        await store._database.execute(minute)
        running = asyncio.create_task(job.run_part(0))
        await server.until_sent(10)
        assert (await job.report()).rate == 2.0
        server.may_respond.set()
        await running


async def test_a_part_that_is_read_in_another_way_is_rejected(
    store: JobStore, name: str, adapty: AdaptyClient, tmp_path: Path
) -> None:
    """The same bytes with another number of rows are not what was planned."""
    path = tmp_path / "ids.csv"
    path.write_text("a,b\n1,\n2,3\n", "utf-8")
    await planned(store, name, adapty, Lines(path, column="a"))
    job = await store.job(name, adapty.v1.profiles.bulk_delete, source=Lines(path, column="b"))
    with pytest.raises(PartChangedError, match="has 1 items, and 2 were planned"):
        await job.run_part(0)


async def test_rows_without_a_readable_id_fail(
    store: JobStore, name: str, adapty: AdaptyClient, tmp_path: Path
) -> None:
    """A row that cannot be read costs only itself, and the part ends."""
    path = tmp_path / "ids.ndjson"
    path.write_text('{"id": "a"}\n{"id": 5}\n"b"\n{]\n', "utf-8")
    job = await planned(store, name, adapty, Lines(path, column="id"))
    report = await job.work()
    assert (report.absent, report.failed, report.has_ended, report.ok) == (2, 2, True, False)
    assert [(one.line, one.item, one.status) async for one in job.outcomes()] == [
        (1, "a", OutcomeStatus.ABSENT),
        (2, None, OutcomeStatus.FAILED),
        (3, "b", OutcomeStatus.ABSENT),
        (4, None, OutcomeStatus.FAILED),
    ]
    assert [one.index async for one in job.outcomes(OutcomeStatus.FAILED)] == [1, 3]
    assert [one async for one in job.outcomes(OutcomeStatus.UNKNOWN)] == []


async def test_failed_items_are_sent_again_after_retry_only(
    store: JobStore, name: str, ids: WriteIds
) -> None:
    """A job that ended with failures sends them again on demand, and nothing else."""
    async with Sandbox() as sandbox, AdaptyClient(sandbox.api_key, base_url=sandbox.url) as adapty:
        job = await planned(store, name, adapty, ids("anna", "b\u00e9a", "carl"))
        first = await job.work()
        assert (first.absent, first.failed) == (2, 1)
        assert (await job.work()).failed == 1
        assert len(sandbox.arrivals()) == 2
        assert await job.retry() == 1
        assert (await job.report()).failed == 1
        encoded = AdaptyClient(sandbox.api_key, base_url=sandbox.url, id_encoding="utf-8")
        async with encoded:
            again = await store.job(name, encoded.v1.profiles.bulk_delete)
            assert (await again.work()).absent == 3
        assert len(sandbox.arrivals()) == 3


async def test_one_error_for_all_items_stops_the_job_everywhere(
    store_url: str, name: str, ids: WriteIds
) -> None:
    """The worker that finds a wrong key records it, and no other worker begins a part."""
    async with (
        Sandbox() as sandbox,
        AdaptyClient("wrong", base_url=sandbox.url) as adapty,
        JobStore(store_url) as store,
        JobStore(store_url) as other,
    ):
        job = await planned(store, name, adapty, ids(*users(40)))
        with pytest.raises(JobStoppedError, match="key_rejected") as caught:
            await job.work(parts=1, concurrency=2)
        assert caught.value.reason == "key_rejected"
        assert caught.value.needs_retry
        assert str(caught.value).endswith("has stopped: key_rejected; Job.retry resumes it")
        sent = len(sandbox.arrivals())
        assert sent < 20
        second = await other.job(name, adapty.v1.profiles.bulk_delete)
        for attempt in (second.work(), second.run_part(3)):
            with pytest.raises(JobStoppedError, match="has stopped: key_rejected"):
                await attempt
        assert (await second.report()).stop_reason == "key_rejected"
        assert len(sandbox.arrivals()) == sent
        await second.cancel()
        assert (await second.report()).stop_reason == "key_rejected"  # the first one counts
        await second.retry()
        assert (await second.report()).stop_reason is None
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.reason) == (str(caught.value), "key_rejected")
    assert copy.copy(caught.value).reason == "key_rejected"


REJECTION = b'{"errors":[],"error_code":"bad_request"}'


@pytest.mark.parametrize(
    ("response", "options", "reason"),
    [
        pytest.param(Response(400, {}, REJECTION), {}, "same_error", id="same error"),
        pytest.param(Response(404, {}, b"<html>"), {}, "wrong_address", id="wrong address"),
        pytest.param(Response(400, {}, REJECTION), {"fail_fast": True}, "fail_fast", id="first"),
    ],
)
async def test_what_every_worker_would_find_stops_the_job_everywhere(
    store: JobStore,
    name: str,
    ids: WriteIds,
    response: Response,
    options: dict[str, Any],
    reason: str,
) -> None:
    """The reason is in the store, and the parts that are left stay open."""

    async def respond(_request: Request) -> Response:
        return response

    async with AdaptyClient("key", transport=respond) as own:
        job = await planned(store, name, own, ids(*users(70)), part_size=60)
        with pytest.raises(JobStoppedError, match=f"has stopped: {reason}"):
            await job.work(parts=1, **options)
    report = await job.report()
    assert (report.stop_reason, report.has_ended) == (reason, False)


async def test_successes_in_between_do_not_stop_the_job(
    store: JobStore, name: str, ids: WriteIds
) -> None:
    """A rule about several items in a row counts from the start after a part with successes."""

    async def respond(request: Request) -> Response:
        return Response(401 if "bad" in repr(dict(request.headers)) else 204, {}, b"{}")

    items = [f"{kind}_{number}" for number in range(6) for kind in ("bad", "good")]
    items.sort(key=lambda item: (int(item[-1]) // 2, item))  # two bad ones, two good ones
    async with AdaptyClient("key", transport=respond) as own:
        job = await planned(store, name, own, ids(*items), part_size=2)
        for number in range(6):
            await job.run_part(number)
    report = await job.report()
    assert (report.done, report.failed, report.stop_reason) == (6, 6, None)


async def test_a_worker_that_waits_for_others_notices_a_cancelled_job(
    store_url: str, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """The other worker may stand still, so that its part is never free."""
    async with JobStore(store_url) as store, JobStore(store_url) as other:
        job = await planned(store, name, adapty, ids("a"))
        lock = await other._database.lock(job._record.id, 0)
        assert lock is not None
        await job.cancel()
        with pytest.raises(JobStoppedError, match="has stopped: cancelled"):
            await job.work()


async def test_a_stop_that_came_too_late_is_no_error(
    store: JobStore, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """The last part ended after the job was cancelled."""
    job = await planned(store, name, adapty, ids("a"))
    await job.run_part(0)
    late = "UPDATE adapty_job SET stop_reason = 'cancelled' WHERE id = :job"
    await store._database.execute(Statement(late, {"job": job._record.id}))
    report = await job.work()
    assert (report.has_ended, report.stop_reason) == (True, "cancelled")


async def test_parts_of_few_items_stop_the_job_too(
    store: JobStore, name: str, ids: WriteIds
) -> None:
    """A rule about several items in a row counts over parts, and again after a retry."""
    async with Sandbox() as sandbox, AdaptyClient("wrong", base_url=sandbox.url) as adapty:
        job = await planned(store, name, adapty, ids(*users(40)), part_size=2)
        for sent in (6, 12):  # the fifth item is in the third part
            with pytest.raises(JobStoppedError, match="has stopped: key_rejected"):
                await job.work(parts=1)
            assert len(sandbox.arrivals()) == sent
            assert (await job.report()).stop_reason == "key_rejected"
            await job.retry()


async def test_the_reasons_of_failures_are_counted(
    store: JobStore, name: str, ids: WriteIds
) -> None:
    """A report has the class and status of the errors, and no text of the server."""
    async with Sandbox() as sandbox, AdaptyClient("wrong", base_url=sandbox.url) as adapty:
        await (await planned(store, f"{name}-other", adapty, ids(*users(2)))).work()
        job = await planned(store, name, adapty, ids(*users(3)), part_size=2)
        report = await job.work()
    assert report.reasons == {(AuthenticationError.__name__, 401): 3}


async def test_a_cancelled_job_stops_in_all_processes(
    store_url: str, name: str, ids: WriteIds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker notices that another process cancelled its job, stops, and its part stays open."""
    monkeypatch.setattr(_job_module, "_CHECK_SECONDS", 0.01)
    async with (
        Sandbox(latency=0.2) as slow,
        AdaptyClient(slow.api_key, base_url=slow.url) as own,
        JobStore(store_url) as store,
        JobStore(store_url) as other,
    ):
        job = await planned(store, name, own, ids(*users(100)), part_size=100)
        running = asyncio.create_task(job.work(concurrency=2))
        await until_arrived(slow)
        await (await other.job(name)).cancel()
        with pytest.raises(JobStoppedError, match="cancelled"):
            await running
        report = await job.report()
        assert 0 < report.absent < 100
        assert await job.open_parts() == [0]
        await job.retry()
        assert (await job.work()).absent == 100
        assert len(slow.arrivals()) == 100


@pytest.mark.parametrize("ending", ["stop", "abort"])
async def test_a_worker_that_is_stopped_leaves_its_parts_open(
    store: JobStore, name: str, ids: WriteIds, ending: str
) -> None:
    """A stopped worker returns the report; the job itself has not stopped."""
    async with Sandbox(latency=0.2) as slow, AdaptyClient(slow.api_key, base_url=slow.url) as own:
        job = await planned(store, name, own, ids(*users(10)))
        running = asyncio.create_task(job.work(concurrency=2))
        await until_arrived(slow)
        getattr(job, ending)()
        report = await running
        assert job.is_stopping
        assert report.stop_reason is None
        assert report.not_sent > 0
        with pytest.raises(JobStoppedError, match="was stopped here"):
            await job.run_part(0)


async def test_a_worker_that_is_aborted_waits_for_no_response(
    store: JobStore, name: str, ids: WriteIds
) -> None:
    """The requests on the wire are cancelled, though they may have been drained for long."""
    server = Held()
    async with AdaptyClient("key", transport=server) as own:
        job = await planned(store, name, own, ids(*users(10)))
        working = asyncio.create_task(job.work(parts=1, concurrency=2, drain=3600.0))
        await server.until_sent(2)
        assert job.in_flight == 2
        job.abort()
        async with asyncio.timeout(50):
            report = await working
    assert (report.not_sent, server.count, job._runs) == (8, 2, set())


async def test_a_worker_that_is_stopped_while_it_reads_sends_nothing(
    store: JobStore, name: str, adapty: AdaptyClient, sandbox: Sandbox, ids: WriteIds
) -> None:
    """A stop between the claim of a part and its first request counts."""
    lines = ids("a")
    await planned(store, name, adapty, lines)

    class Stopping:
        plan = lines.plan

        def read(self, description: dict[str, Any], part: dict[str, Any]) -> list[Item]:
            job.stop()
            return lines.read(description, part)

    job = await store.job(name, adapty.v1.profiles.bulk_delete, source=Stopping())
    with pytest.raises(JobStoppedError, match="was stopped here"):
        await job.run_part(0)
    assert not sandbox.arrivals()


def test_an_outcome_does_not_show_its_id() -> None:
    """The repr of an outcome has its position and status."""
    outcome = JobOutcome(index=3, line=4, item="anna", status=OutcomeStatus.DONE)
    assert repr(outcome) == "JobOutcome(index=3, status=done)"


async def test_a_job_that_is_forgotten_stops_its_runs(
    store: JobStore, name: str, ids: WriteIds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job whose rows are gone is an error for everyone who works on it."""
    monkeypatch.setattr(_job_module, "_CHECK_SECONDS", 0.01)
    async with Sandbox(latency=0.2) as slow, AdaptyClient(slow.api_key, base_url=slow.url) as own:
        job = await planned(store, name, own, ids(*users(100)), part_size=100)
        running = asyncio.create_task(job.run_part(0, concurrency=2))
        await until_arrived(slow)
        await store._database.transact(forget_job(job._record.id))
        with pytest.raises(PartBusyError, match="taken it over"):
            await running
    with pytest.raises(JobError, match="was forgotten"):
        await job.run_part(0)
    with pytest.raises(JobError, match="was forgotten"):
        await job.work()


async def test_a_forgotten_job_leaves_no_row(
    store: JobStore, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """All rows of a job are deleted, and its name is free."""
    job = await planned(store, name, adapty, ids(*users(25)))
    await job.work()
    await job.forget()
    with pytest.raises(JobError, match=f"the store has no job {name}"):
        await store.job(name)
    for use in (job.report, job.retry, job.forget, job.work, job._stop_reason):
        with pytest.raises(JobError, match=f"the job {name} was forgotten"):
            await use()
    for table in ("key", "minute", "part", "reason", "run", "span"):
        rows = await store._database.execute(
            Statement(f"SELECT * FROM adapty_{table} WHERE job = :job", {"job": job._record.id})
        )
        assert rows == []
    assert await (await planned(store, name, adapty, ids(*users(5)))).open_parts() == [0]


async def test_jobs_of_a_store_do_not_disturb_each_other(
    store: JobStore, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """A job is retried, cancelled and forgotten alone, and has a report of its own."""
    lines = Lines(renamed(ids("a", "b\u00e9a").path, "theirs.txt"))
    theirs = await planned(store, f"{name}-theirs", adapty, lines, part_size=1)
    await theirs.work()
    await theirs.cancel()  # it has ended
    job = await planned(store, name, adapty, ids("a", "b", "c", "d\u00e9a"), part_size=1)
    before = await theirs.report()
    assert (before.counts["absent"], before.failed, before.stop_reason) == (1, 1, None)
    await job.work()
    assert await job.retry() == 1
    await job.cancel()
    assert (await job.report()).stop_reason == "cancelled"
    assert await theirs.report() == before
    assert await theirs.retry() == 1
    assert await theirs.open_parts() == [1]
    assert await job.open_parts() == [3]
    assert (await job.report()).stop_reason == "cancelled"
    await job.forget()
    assert (await theirs.work()).counts == before.counts


async def test_a_create_whose_worker_was_killed_is_never_sent_again(
    store: JobStore, name: str, adapty: AdaptyClient, sandbox: Sandbox, ids: WriteIds
) -> None:
    """An item that was in flight when its worker was killed is unknown for its successor."""

    def create(items: Any, *, by: Any, **options: Any) -> BulkRun[Any, Any]:
        return adapty.bulk(
            items, build=lambda item: create_profile(**{by: item}), name="create", **options
        )

    job = await store.plan(name, create, ids(*users(4)), by=BY)
    number = job._record.id
    states = b"ds..".ljust(512, b".")
    await store._database.execute(
        Statement(
            "INSERT INTO adapty_span VALUES (:job, 0, 0, :states, :checksum)",
            {"job": number, "states": states, "checksum": _checksum(0, 0, states)},
        )
    )
    await store._database.execute(
        Statement("UPDATE adapty_part SET runs = 1 WHERE job = :job", {"job": number})
    )
    report = await job.work()
    assert (report.done, report.unknown, report.ok) == (3, 1, False)
    assert len(sandbox.arrivals()) == 2
    assert await job.retry() == 0


@pytest.mark.parametrize(
    "row",
    [
        pytest.param((b"d" * 512, 1), id="checksum"),
        pytest.param((b"d" * 512, _checksum(1, 0, b"d" * 512)), id="another part"),
        pytest.param((b"?" * 512, _checksum(0, 0, b"?" * 512)), id="unknown state"),
    ],
)
async def test_a_damaged_span_is_an_error(
    store: JobStore,
    name: str,
    adapty: AdaptyClient,
    sandbox: Sandbox,
    ids: WriteIds,
    row: tuple[bytes, int],
) -> None:
    """States that do not match their checksum, or are unknown, are never guessed from."""
    job = await planned(store, name, adapty, ids(*users(4)))
    await store._database.execute(
        Statement(
            "INSERT INTO adapty_span VALUES (:job, 0, 0, :states, :checksum)",
            {"job": job._record.id, "states": row[0], "checksum": row[1]},
        )
    )
    await store._database.execute(
        Statement("UPDATE adapty_part SET runs = 1 WHERE job = :job", {"job": job._record.id})
    )
    faults = "a row of the table adapty_span is damaged|it holds a state that this release"
    damage = f"part 0 of the job {name}: ({faults})"
    with pytest.raises(JournalError, match=damage):
        await job.run_part(0)
    with pytest.raises(JournalError, match=damage):
        await anext(job.outcomes())
    assert not sandbox.arrivals()


async def test_a_report_counts_the_processes_at_work(
    store_url: str, name: str, ids: WriteIds
) -> None:
    """A process that works on two parts is one worker."""
    server = Held()
    own = AdaptyClient("key", base_url="http://127.0.0.1:1", transport=server)
    async with own, JobStore(store_url) as one, JobStore(store_url) as other:
        job = await planned(one, name, own, ids(*users(3)), part_size=1)
        second = await other.job(name, own.v1.profiles.bulk_delete)
        running = [asyncio.create_task(job.run_part(number)) for number in (0, 1)]
        await server.until_sent(2)
        assert (await second.report()).workers == 1
        running.append(asyncio.create_task(second.run_part(2)))
        await server.until_sent(1)
        report = await second.report()
        server.may_respond.set()
        await asyncio.gather(*running)
    assert (report.workers, report.parts.running) == (2, 3)


async def test_a_job_without_its_call_or_input_does_not_work(
    store: JobStore, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """A process that only reads a job needs neither; a worker does."""
    await planned(store, name, adapty, ids(*users(4)))
    job = await store.job(name)
    for attempt in (job.run_part(0), job.work()):
        with pytest.raises(JobError, match="was opened without its call"):
            await attempt
    assert [one.status async for one in job.outcomes()] == [OutcomeStatus.NOT_SENT] * 4
    with pytest.raises(JobError, match="has no part 7"):
        await (await store.job(name, adapty.v1.profiles.bulk_delete)).run_part(7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": 0}, "parts must be a whole number from 1"),
        ({"parts": True}, "parts must be a whole number from 1"),
        ({"parts": 1_001}, "parts must be a whole number from 1 to 1,000"),
        ({"ordered": True}, "unknown option: ordered"),
        ({"rate": -1.0}, "rate must be a number above 0"),
    ],
    ids=["none", "bool", "too-many", "unknown", "rate"],
)
async def test_invalid_options_are_rejected(
    store: JobStore,
    name: str,
    adapty: AdaptyClient,
    ids: WriteIds,
    options: dict[str, Any],
    message: str,
) -> None:
    """A worker validates its options before it begins."""
    job = await planned(store, name, adapty, ids(*users(4)))
    with pytest.raises(ConfigError, match=message):
        await job.work(**options)


@pytest.mark.parametrize("bad", ["", " x", "a\nb", "x" * 201, 5], ids=repr)
async def test_a_name_is_printable_text(
    store: JobStore, adapty: AdaptyClient, ids: WriteIds, bad: Any
) -> None:
    """A name that could spoil a message or a command is rejected."""
    with pytest.raises(ConfigError, match="name must be printable text"):
        await planned(store, bad, adapty, ids("a"))


@pytest.mark.parametrize("size", [0, 1_000_001, True, 1.5], ids=repr)
async def test_a_part_size_is_a_number(
    store: JobStore, name: str, adapty: AdaptyClient, ids: WriteIds, size: Any
) -> None:
    """The size of parts is a whole number from 1 to a million."""
    with pytest.raises(ConfigError, match="part_size must be a whole number"):
        await planned(store, name, adapty, ids("a"), size)


async def test_a_call_without_a_journal_is_rejected(
    store: JobStore, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """A call that drops the options of its run could not record anything."""

    def call(items: Any, *, by: Any, **_options: Any) -> BulkRun[Any, Any]:
        return adapty.v1.profiles.bulk_delete(items, by=by)

    with pytest.raises(ConfigError, match="call must pass its options to a bulk run"):
        await store.plan(name, call, ids("a"), by=BY)


async def test_rate_and_concurrency_are_shared_among_the_parts_in_hand(
    store: JobStore, name: str, adapty: AdaptyClient, ids: WriteIds
) -> None:
    """The options of a worker are for all its parts."""
    seen: list[dict[str, Any]] = []

    def call(items: Any, *, by: Any, **options: Any) -> BulkRun[Any, Any]:
        seen.append(options)
        return adapty.v1.profiles.bulk_delete(items, by=by, **options)

    for concurrency, own in ((10, 2), (3, 1)):
        job = await store.plan(f"{name}-{concurrency}", call, ids(*users(4)), by=BY)
        await job.work(parts=4, rate=1000.0, concurrency=concurrency)
        assert (seen[-1]["rate"], seen[-1]["concurrency"]) == (250.0, own)


async def test_an_outage_of_adapty_stops_this_worker_only(
    store: JobStore, name: str, ids: WriteIds
) -> None:
    """A worker that reaches nobody gives up after a time, and the job can resume elsewhere."""
    async with AdaptyClient("key", base_url="http://127.0.0.1:1") as nowhere:
        job = await planned(store, name, nowhere, ids(*users(4)))
        with pytest.raises(JobStoppedError, match="stopped here: outage") as caught:
            await job.work(max_outage=0.05)
        assert caught.value.reason == "outage"
        report: JobReport = await job.report()
    assert report.stop_reason is None
    assert await job.open_parts() == [0]


def test_errors_are_the_library_s() -> None:
    """A handler of the library's errors handles those of jobs."""
    assert issubclass(StoreUnavailableError, JournalError)
    assert issubclass(PartBusyError, JournalError)
