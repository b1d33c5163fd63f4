"""One client in several event loops, one after the other and at once in threads."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from adapty_async import AdaptyClient, BulkReport, ConfigError, Limits, RetryPolicy
from adapty_async._http.attempt import TimeoutScheduler
from adapty_async._http.session_sender import given_session_sender
from adapty_async._http.transport import _close_elsewhere, _LoopResources, _Pool, _Sessions
from adapty_async.bulk import BulkRun
from tests._support import has_waiters, loop_turns
from tests.lifecycle.test_cancellation import is_free, timers
from tests.raw_server import ABSENT, STALL, RawServer, in_thread, own_tasks

THREADS = 4
ITEMS = 100


def client_of(server: RawServer, **settings: Any) -> AdaptyClient:
    """Return a client of a server."""
    return AdaptyClient("secret_live_x.y", base_url=server.url, **settings)


def erase(client: AdaptyClient, name: str, **options: Any) -> BulkRun[str, None]:
    """Make a run of deletes."""
    ids = [f"{name}-{number}" for number in range(ITEMS)]
    return client.v1.profiles.bulk_delete(ids, by="customer_user_id", **options)


async def mixed(client: AdaptyClient, name: str) -> BulkReport[str, None]:
    """Make a run and single calls concurrently; none of their tasks is left in this loop."""

    async def report() -> BulkReport[str, None]:
        return await erase(client, name)

    run = asyncio.create_task(report())
    while not run.done():
        await client.v1.profiles.get(customer_user_id=name)
    connections = client._executor.layers.connections.get()

    assert (connections.available, has_waiters(connections)) == (connections.count, False)
    assert own_tasks() == {asyncio.current_task()}
    assert timers() == []
    return await run


def in_threads(work: Callable[[int], None]) -> list[BaseException]:
    """Do some work in several threads at once; return what went wrong."""
    failures: list[BaseException] = []

    def attempt(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001  handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_runs_in_one_loop_after_the_other() -> None:
    """Each run has its loop's own connections, and the client keeps its adaptive rate."""
    with in_thread(RawServer()) as server:
        client = client_of(server, limits=Limits(connections=4))
        reports = [asyncio.run(mixed(client, f"u{number}")) for number in range(3)]
        [bucket] = client.statistics().buckets.values()
        asyncio.run(client.aclose())

        assert all(report.ok for report in reports)
        assert bucket.in_flight == 0
        assert bucket.requests == len(server.requests)
        assert server.connections <= 3 * 4


def test_runs_in_threads_at_once() -> None:
    """Runs and single calls in several concurrent loops each report all of their items."""
    reports: dict[int, BulkReport[str, None]] = {}
    with in_thread(RawServer()) as server:
        client = client_of(server, limits=Limits(connections=4))

        def work(number: int) -> None:
            reports[number] = asyncio.run(mixed(client, f"u{number}"))

        failures = in_threads(work)
        [bucket] = client.statistics().buckets.values()
        asyncio.run(client.aclose())
        deleted = [request for request in server.requests if request.method == "DELETE"]

    assert failures == []
    assert [report.done for report in reports.values()] == [ITEMS] * THREADS
    assert len({request.identity for request in deleted}) == len(deleted) == ITEMS * THREADS
    assert bucket.in_flight == 0


def test_a_thread_that_closes_the_client_ends_the_runs_of_all() -> None:
    """A client closed in one thread ends what others do with it, in order."""
    ended: list[type[BaseException]] = []
    with in_thread(RawServer(then=ABSENT)) as server:
        client = client_of(server)
        started = threading.Barrier(THREADS)

        async def until_closed() -> None:
            await client.v1.profiles.bulk_delete(["first"], by="customer_user_id")
            await asyncio.to_thread(started.wait)
            while True:
                await erase(client, "u")

        def work(number: int) -> None:
            if number == 0:
                started.wait()
                asyncio.run(client.aclose())
                return
            try:
                asyncio.run(until_closed())
            except Exception as error:  # noqa: BLE001  its class is looked at
                ended.append(type(error))

        failures = in_threads(work)
        asyncio.run_coroutine_threadsafe(server.until_left(), server.loop).result(50)

    assert failures == []
    assert {error.__name__ for error in ended} == {"ConfigError"}
    assert len(ended) == THREADS - 1


class Slow:
    """An input whose identity takes long, while its journal is locked."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.go_on = threading.Event()

    def __iter__(self) -> Any:
        return iter(())

    def identity(self) -> dict[str, Any]:
        """Return nothing, after a while."""
        return {}

    def difference(self, _earlier: dict[str, Any]) -> str | None:
        """Find nothing, after a while."""
        self.asked.set()
        self.go_on.wait()
        return None


def test_a_journal_is_free_when_the_loop_ended_while_it_was_opened(tmp_path: Path) -> None:
    """A resource that a thread opened after its loop ended is closed again."""
    journal, slow = tmp_path / "journal", Slow()
    client = AdaptyClient("secret_live_x.y", base_url="http://127.0.0.1:1")

    def run() -> BulkRun[str, None]:
        items: Any = slow
        return client.v1.profiles.bulk_delete(
            items, by="customer_user_id", journal=journal, drain=0.01
        )

    async def first() -> None:
        slow.go_on.set()
        await run()
        slow.go_on.clear()
        slow.asked.clear()

    async def second() -> None:
        async def complete() -> None:
            await run()

        task = asyncio.create_task(complete())
        await asyncio.to_thread(slow.asked.wait)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(first())
    asyncio.run(second())
    slow.go_on.set()
    while not is_free(journal):
        pass


class Owned:
    """A resource of a loop, closed there when the test allows it."""

    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        """Record the call."""
        self.closed = True


async def test_a_loop_that_is_closed_already_needs_no_closing_of_what_was_its_own() -> None:
    """Its end has closed them; `aclose` of the client then waits for nothing."""
    loop, owned = asyncio.new_event_loop(), Owned()
    loop.close()
    await _close_elsewhere(cast("Any", owned), loop)

    assert not owned.closed


async def test_a_loop_that_ends_instead_of_closing_what_is_its_own_holds_nobody_up() -> None:
    """An unfinished close in another loop does not raise in `aclose` of the client."""
    loop, owned = asyncio.new_event_loop(), Owned()
    closing = asyncio.ensure_future(_close_elsewhere(cast("Any", owned), loop))
    await asyncio.sleep(0)
    loop.close()
    await closing

    assert not owned.closed


class Cancelled(Owned):
    """A resource whose closing is cancelled by the end of its loop."""

    async def close(self) -> None:
        """Come to nothing."""
        raise asyncio.CancelledError


async def test_a_loop_that_cancels_the_closing_as_it_ends_cancels_nobody_else() -> None:
    """`asyncio.run` cancels the tasks of its loop; this cancellation does not reach `aclose`."""
    loop = asyncio.new_event_loop()
    closing = asyncio.ensure_future(_close_elsewhere(cast("Any", Cancelled()), loop))
    await asyncio.sleep(0)
    await asyncio.to_thread(loop.run_until_complete, asyncio.sleep(0.01))
    await closing
    loop.close()

    assert not closing.cancelled()


class SlowToClose(Owned):
    """A resource that is closed when the test allows it."""

    def __init__(self) -> None:
        super().__init__()
        self.may_close = asyncio.Event()

    async def close(self) -> None:
        """Wait for the test."""
        await self.may_close.wait()
        await super().close()


async def test_the_end_of_a_loop_waits_for_a_close_that_began() -> None:
    """Otherwise the loop would end, and asyncio would log the task that closes."""
    slow = SlowToClose()
    sessions = _Sessions({cast("Any", slow)})
    first, second = (asyncio.create_task(sessions.close()) for _ in range(2))
    await loop_turns(4)
    assert not second.done()
    slow.may_close.set()
    await asyncio.gather(first, second)

    assert slow.closed


async def get(client: AdaptyClient) -> None:
    """Make a call."""
    await client.v1.profiles.get(customer_user_id="u1")


@pytest.mark.usefixtures("no_garbage")
def test_a_loop_that_is_idle_when_its_client_is_closed_ends_quietly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The end of the loop waits for the close of its connections; asyncio has nothing to log."""
    with in_thread(RawServer()) as server:
        client = client_of(server)
        with asyncio.Runner() as runner:
            runner.run(get(client))
            asyncio.run(client.aclose())
        gc.collect()

    assert caplog.messages == []


def test_a_call_of_an_idle_loop_ends_when_its_client_is_closed() -> None:
    """The connections of a loop that stands still are closed as soon as it continues."""
    with in_thread(RawServer(then=(STALL,))) as server, asyncio.Runner() as runner:
        client = client_of(server, timeout=5.0, retry=RetryPolicy(wait_initial=0.001))
        call = runner.get_loop().create_task(get(client))
        while not server.requests:
            runner.run(asyncio.sleep(0.001))
        asyncio.run(client.aclose())
        runner.run(asyncio.wait({call}))

    with pytest.raises(ConfigError, match="closed"):
        call.result()


def test_a_closed_loop_holds_up_no_close() -> None:
    """A loop that was closed without an orderly end closes nothing any more."""
    loop, client = asyncio.new_event_loop(), AdaptyClient("secret_live_x.y")
    loop.call_soon(client._connections._open.get)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    with pytest.warns(ResourceWarning, match="Unclosed client session"):
        asyncio.run(client.aclose())


async def test_what_its_ending_loop_is_closing_already_is_closed_once() -> None:
    """A loop may come to close what is its own in the moment that the client is closed."""
    owned = Owned()

    async def closed_with_its_loop() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await asyncio.sleep(0.01)

    guard = closed_with_its_loop()
    await anext(guard)
    ending = asyncio.create_task(cast("Any", guard).aclose())
    await asyncio.sleep(0)
    watch = TimeoutScheduler(asyncio.get_running_loop())
    session = cast("Any", owned)
    pool = _Pool(given_session_sender(session), session)
    loop = asyncio.get_running_loop()
    here = _LoopResources(loop, pool, watch, _Sessions({session}), guard, guarded=True)
    await here.close()
    await ending

    assert owned.closed
