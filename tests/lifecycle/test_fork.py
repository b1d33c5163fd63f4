"""
A client whose process is forked: the child starts fresh, and uses nothing of the parent's.

The parents are processes of their own, without threads, as forking one that has some is warned of.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapty_async import AdaptyClient, BulkReport
from tests.raw_server import HOLD, RawServer, Received, Steps, in_thread, reply

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")

PARENT = """
import asyncio, os, sys
from pathlib import Path
from adapty_async import AdaptyClient, AdaptyError, ConfigError, JournalError
{loops}
url, folder = sys.argv[1], Path(sys.argv[2])
client = AdaptyClient("secret_live_x.y", base_url=url)

async def get(name):
    await client.v1.profiles.get(customer_user_id=name)

def fork(work):
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException as error:
            print("the child ended with", repr(error), flush=True)
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)  # else it would walk through the frames of its parent's loop, and close that
    return child

def wait_for(child):
    _, status = os.waitpid(child, 0)
    assert status == 0, status

"""
LOOPS = {
    "asyncio": "run = asyncio.run",
    "uvloop": "import uvloop; run = uvloop.run",
}


@pytest.fixture(params=LOOPS)
def loops(request: pytest.FixtureRequest) -> str:
    """Return the kind of event loops of a parent and its children."""
    kind: str = request.param
    if kind == "uvloop" and importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    return kind


def run(script: str, server: RawServer, folder: Path, loops: str = "asyncio") -> str:
    """Run a parent that talks to the server; it and its children end well, without warnings."""
    code = PARENT.replace("{loops}", LOOPS[loops]) + script
    options = ["-W", "error"]
    done = subprocess.run(
        [sys.executable, *options, "-c", code, server.url, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def connections(server: RawServer) -> dict[str, int]:
    """Return the connection on which each identity came."""
    return {request.identity: request.connection for request in server.requests}


def test_a_child_has_connections_of_its_own(loops: str, tmp_path: Path) -> None:
    """A child in a loop of its own works; its parent's connection is neither used nor closed."""
    script = """
async def parent():
    await get("before")
    wait_for(fork(lambda: run(in_child())))
    await get("after")
    await client.aclose()

async def in_child():
    await get("child")
    await client.aclose()

run(parent())
"""
    with in_thread(RawServer()) as server:
        run(script, server, tmp_path, loops)
        used = connections(server)

        assert used == {"before": 1, "child": 2, "after": 1}


def test_a_child_may_leave_an_inherited_client_alone(loops: str, tmp_path: Path) -> None:
    """A child that drops the client, and ends, warns of nothing and disturbs no connection."""
    script = """
def drop():
    global client
    import gc
    del client
    gc.collect()

async def parent():
    await get("before")
    wait_for(fork(drop))
    await get("after")
    await client.aclose()

run(parent())
"""
    with in_thread(RawServer()) as server:
        run(script, server, tmp_path, loops)

        assert connections(server) == {"before": 1, "after": 1}


def test_a_child_does_not_keep_connections_open(loops: str, tmp_path: Path) -> None:
    """Connections that the parent closes are closed, although a forked child still runs."""
    script = """
async def parent():
    await get("before")
    reading, writing = os.pipe()
    child = fork(lambda: os.read(reading, 1))
    await client.aclose()
    await asyncio.to_thread(sys.stdin.readline)
    os.write(writing, b"x")
    wait_for(child)

run(parent())
"""
    code = PARENT.replace("{loops}", LOOPS[loops]) + script
    with in_thread(RawServer()) as server:
        command = [sys.executable, "-c", code, server.url, str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            try:
                for moment in (server.until_arrived(1), server.until_left()):
                    asyncio.run_coroutine_threadsafe(moment, server.loop).result(50)
            finally:
                process.communicate(b"\n")

        assert process.returncode == 0


def test_a_socket_that_was_closed_before_a_fork_leaves_no_other_open(tmp_path: Path) -> None:
    """The child closes its copies of all others, and its other fork handlers run."""
    script = """
import socket
from adapty_async._runtime.fork import SocketFactory
factory = SocketFactory()
made = [factory((socket.AF_INET, socket.SOCK_STREAM, 0, "", ())) for _ in range(20)]
for each in made[::2]:
    each.close()
before = {os.fstat(each.fileno()).st_ino for each in made[1::2]}

def child():
    assert not before & {os.fstat(each.fileno()).st_ino for each in made[1::2]}

wait_for(fork(child))
for each in made:
    each.close()
"""
    with in_thread(RawServer()) as server:
        run(script, server, tmp_path)


def test_a_child_cannot_go_on_in_its_parents_loop(tmp_path: Path) -> None:
    """A loop shares its selector with the parent; calls in it end with an error that says so."""
    script = """
loop = asyncio.new_event_loop()
loop.run_until_complete(get("before"))

def go_on():
    for call in (get("child"), client.v1.profiles.bulk_delete(["child"], by="customer_user_id")):
        try:
            report = loop.run_until_complete(call)
        except ConfigError as error:
            print(error)

wait_for(fork(go_on))
loop.run_until_complete(get("after"))
loop.run_until_complete(client.aclose())
loop.close()
"""
    with in_thread(RawServer()) as server:
        told = run(script, server, tmp_path)

        assert (
            told == 2 * "this event loop was used before a fork; it is the parent's, attempts 1\n"
        )
        assert connections(server) == {"before": 1, "after": 1}


def test_a_child_does_not_send_through_an_inherited_session(tmp_path: Path) -> None:
    """A session that was given has connections of the parent's, so calls end with an error."""
    script = """
import aiohttp

async def parent():
    global client
    async with aiohttp.ClientSession() as session:
        client = AdaptyClient("secret_live_x.y", base_url=url, session=session)
        await get("before")
        wait_for(fork(lambda: asyncio.run(in_child())))
        await get("after")

async def in_child():
    try:
        await get("child")
    except ConfigError as error:
        print(error)

asyncio.run(parent())
"""
    with in_thread(RawServer()) as server:
        told = run(script, server, tmp_path)

        assert told == "the session was given to the client before a fork, attempts 1\n"
        assert connections(server) == {"before": 1, "after": 1}


def test_a_child_has_no_calls_in_flight_and_holds_no_locks(tmp_path: Path) -> None:
    """Calls in flight at the fork neither count in the child nor block it."""
    script = """
async def parent():
    await get("before")
    hanging = asyncio.create_task(get("hanging"))
    while not client.statistics().buckets["v1"].in_flight:
        await asyncio.sleep(0)
    with client._executor.layers.limiters.get("v1").lock, client._executor.layers.connections._lock:
        child = fork(lambda: asyncio.run(in_child()))
    wait_for(child)
    hanging.cancel()
    await client.aclose()

async def in_child():
    assert client.statistics().buckets == {}
    await get("child")
    [bucket] = client.statistics().buckets.values()
    assert (bucket.in_flight, bucket.requests) == (0, 1)
    await client.aclose()

asyncio.run(parent())
"""

    def answer(request: Received) -> Steps:
        return (HOLD,) if request.identity == "hanging" else (reply(),)

    with in_thread(RawServer(then=answer)) as server:
        run(script, server, tmp_path)


JOURNAL = """
ids = [f"u{number}" for number in range(100)]
children = []

def started_by(work):
    return client.v1.profiles.bulk_delete(
        ids, by="customer_user_id", journal=folder / "journal", concurrency=4, on_outcome=work
    )
"""


def test_a_child_leaves_its_parents_journal_alone(tmp_path: Path) -> None:
    """A run continues to its end around a fork, and the child does not prevent its resumption."""
    script = """
def note(outcome):
    if outcome.index == 50:
        children.append(fork(in_child))

def in_child():
    try:
        asyncio.run(resumed())
    except JournalError as error:
        print(error)
    os.read(reading, 1)

async def resumed():
    return await started_by(None)

async def parent():
    run = started_by(note)
    first = await run
    wait_for(fork(lambda: None))  # with a run that is over, whose journal is closed
    again = await resumed()
    print(first.done, again.skipped)
    os.write(writing, b"x")
    wait_for(*children)
    await client.aclose()

reading, writing = os.pipe()
asyncio.run(parent())
"""
    with in_thread(RawServer()) as server:
        told = run(JOURNAL + script, server, tmp_path)

        assert sorted(told.splitlines()) == [
            "100 100",
            f"the journal {tmp_path / 'journal'} cannot be used: it is in use by another process",
        ]
        assert sorted(server.identities) == sorted(f"u{number}" for number in range(100))


def test_a_child_leaves_its_parents_outcomes_file_alone(tmp_path: Path) -> None:
    """A run records all its outcomes around a fork, and the child does not prevent further ones."""
    script = """
children = []

def started_by(work):
    return client.v1.profiles.bulk_delete(
        [f"u{number}" for number in range(100)], by="customer_user_id",
        outcomes=folder / "outcomes", concurrency=4, on_outcome=work
    )

def note(outcome):
    if outcome.index == 50:
        children.append(fork(in_child))

def in_child():
    os.write(released, b"x")  # the handlers of the fork have closed the file
    try:
        asyncio.run(resumed())
    except JournalError as error:
        print(error)
    os.read(reading, 1)

async def resumed():
    return await started_by(None)

async def parent():
    await started_by(note)
    os.read(releasing, 1)
    await resumed()
    print(len((folder / "outcomes").read_bytes().splitlines()))
    os.write(writing, b"x")
    wait_for(*children)
    await client.aclose()

reading, writing = os.pipe()
releasing, released = os.pipe()
asyncio.run(parent())
"""
    with in_thread(RawServer()) as server:
        told = run(script, server, tmp_path)

        assert sorted(told.splitlines()) == [
            "200",
            f"the outcomes file {tmp_path / 'outcomes'} is in use by another run",
        ]


def test_a_child_does_not_keep_the_journal_of_a_parent_that_died(tmp_path: Path) -> None:
    """A run whose process is killed can resume while a process lives that was forked during it."""
    script = """
import signal

def note(outcome):
    if outcome.index == 50:
        fork(lambda: sys.stdin.readline())
        os.kill(os.getpid(), signal.SIGKILL)

async def parent():
    await started_by(note)

asyncio.run(parent())
"""
    with in_thread(RawServer()) as server:
        command = [sys.executable, "-c", PARENT.replace("{loops}", "") + JOURNAL + script]
        with subprocess.Popen(
            [*command, server.url, str(tmp_path)], stdin=subprocess.PIPE
        ) as process:
            try:
                process.wait(50)
                report = asyncio.run(resumed(server.url, tmp_path / "journal"))
            finally:
                process.communicate(b"\n")

        assert (report.total, report.skipped + report.done) == (100, 100)
        assert report.skipped >= 40


async def resumed(url: str, journal: Path) -> BulkReport[str, None]:
    """Run again what was killed."""
    ids = [f"u{number}" for number in range(100)]
    async with AdaptyClient("secret_live_x.y", base_url=url) as client:
        return await client.v1.profiles.bulk_delete(ids, by="customer_user_id", journal=journal)
