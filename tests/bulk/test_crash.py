"""A run that is killed repeatedly: no id is lost, few are sent twice, and none falsely claimed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import msgspec
import pytest

from adapty_async.bulk import ItemState
from adapty_async.sandbox import Arrival
from tests._journals import states

pytestmark = [pytest.mark.slow, pytest.mark.unmeasured]

COUNT = 20_000
KILLS = 30
CONCURRENCY = 32
ANSWERED = {200, 204, 404}

CREATES = 4_000
CREATE_KILLS = 25

LOOKS = 800
LOOK_KILLS = 3

# The process kills itself, in another thread: one outside could be too late on a busy machine.
CHILD = f"""
import asyncio, json, os, signal, sys, threading, time
from adapty_async import AdaptyClient
from adapty_async.v1 import create_profile
from adapty_async.v2 import ProfileAttributes

def look(adapty, ids, **options):
    pairs = ((id, ProfileAttributes()) for id in ids)
    return adapty.v2.profiles.bulk_get_or_create(pairs, **options)

def create(adapty, ids, **options):
    return adapty.bulk(ids, build=lambda id: create_profile(customer_user_id=id), **options)

def delete(adapty, ids, **options):
    return adapty.v1.profiles.bulk_delete(ids, by="customer_user_id", **options)

def kill(adapty, after):
    while sum(each.requests for each in adapty.statistics().buckets.values()) < after:
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGKILL)

async def main(url, key, journal, loop, call, count, *after):
    ids = [f"user-{{number}}" for number in range(int(count))]
    async with AdaptyClient(key, base_url=url) as adapty:
        for number in after:
            threading.Thread(target=kill, args=(adapty, int(number)), daemon=True).start()
        report = await {{"create": create, "look": look, "delete": delete}}[call](
            adapty, ids, journal=journal, job_id="all", concurrency={CONCURRENCY}, rate=1e6
        )
    print(json.dumps(report.counts))

loop_factory = None
if sys.argv[4] == "uvloop":
    import uvloop
    loop_factory = uvloop.new_event_loop
with asyncio.Runner(loop_factory=loop_factory) as runner:
    runner.run(main(*sys.argv[1:]))
"""


class Server(NamedTuple):
    """A sandbox in a process of its own, spoken to over HTTP."""

    url: str
    api_key: str

    def seed(self, ids: list[str]) -> None:
        """Add profiles."""
        self._get("/_sandbox/seed", json.dumps(ids).encode())

    def arrived(self) -> int:
        """Return how many requests have arrived."""
        return sum(msgspec.json.decode(self._get("/_sandbox/state"))["arrivals"].values())

    def profiles(self) -> int:
        """Return how many profiles there are."""
        found: int = msgspec.json.decode(self._get("/_sandbox/state"))["v1_profiles"]
        return found

    def arrivals(self) -> list[Arrival]:
        """Return all requests, once everything that was in flight has arrived."""
        while True:
            before = self.arrived()
            found = msgspec.json.Decoder(Arrival).decode_lines(self._get("/_sandbox/arrivals"))
            if before == len(found) == self.arrived():
                return found

    def _get(self, path: str, body: bytes | None = None) -> bytes:
        with urllib.request.urlopen(self.url + path, data=body) as answer:
            content: bytes = answer.read()
        return content


@contextlib.contextmanager
def running_sandbox() -> Iterator[Server]:
    """Run the sandbox's command."""
    command = [sys.executable, "-u", "-m", "adapty_async.cli", "sandbox", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told: dict[str, str] = {}
            while "ADAPTY_API_KEY" not in told:
                line = process.stdout.readline()
                assert line, "the sandbox did not start"
                told |= {word.partition("=")[0]: word.partition("=")[2] for word in line.split()}
            yield Server(told["ADAPTY_BASE_URL"], told["ADAPTY_API_KEY"])
        finally:
            process.terminate()


class Rounds:
    """The same run, started again after every kill."""

    def __init__(self, server: Server, journal: Path, *arguments: str) -> None:
        self._server = server
        self._journal = journal
        command = [sys.executable, "-c", CHILD, server.url, server.api_key, str(journal)]
        self._command = [*command, *arguments]
        self._before: set[str | None] = set()
        self._checked = 0
        self.repeated: list[int] = []

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        command = [*self._command, *arguments]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)

    def kill(self, after: int) -> None:
        """Run until some more requests have ended, then kill."""
        assert self.run(str(after)).returncode == -signal.SIGKILL

    def check(self) -> None:
        """Count requests sent again since the last check; compare the journal with the server."""
        arrivals = self._server.arrivals()
        new = [arrival.identity for arrival in arrivals[self._checked :]]
        self._checked = len(arrivals)
        self.repeated.append(len(new) - len(set(new) - self._before))
        self._before.update(new)
        confirmed = {
            arrival.identity
            for arrival in arrivals
            if arrival.applied or arrival.status in ANSWERED
        }
        assert claimed(self._journal) <= confirmed


def claimed(journal: Path) -> set[str | None]:
    """Return the ids that a journal records as done or absent."""
    settled = {ItemState.DONE, ItemState.ABSENT}
    return {f"user-{position}" for position, state in states(journal).items() if state in settled}


def shares(random: Random, count: int, kills: int) -> list[int]:
    """
    Divide most of the run at random: how many requests each round sends before it is killed.

    Twice the concurrency of items may be unknown after each kill, and never sent.
    """
    marks = sorted(random.sample(range(1, count - 2 * CONCURRENCY * kills), kills))
    return [mark - before for before, mark in zip([0, *marks], marks, strict=False)]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_run_that_is_killed_thirty_times_loses_and_claims_nothing(
    loop: str, tmp_path: Path
) -> None:
    """Killed with SIGKILL 30 times and resumed, the run has sent every id, few of them twice."""
    ids = [f"user-{number}" for number in range(COUNT)]
    journal = tmp_path / "journal"
    with running_sandbox() as server:
        server.seed(ids)
        rounds = Rounds(server, journal, loop, "delete", str(COUNT))
        for share in shares(Random(20_000), COUNT, KILLS):
            rounds.kill(share)
            rounds.check()
        run = rounds.run()
        rounds.check()
        seen = {arrival.identity for arrival in server.arrivals()}
        left = server.profiles()

    counts: dict[str, Any] = json.loads(run.stdout)
    assert run.returncode == os.EX_OK
    assert seen == set(ids)
    assert left == 0
    assert sum(counts.values()) == COUNT
    assert counts["done"] + counts["absent"] + counts["skipped"] == COUNT
    assert max(rounds.repeated) <= 2 * CONCURRENCY  # in flight, or ended and not yet committed
    assert sum(rounds.repeated) <= KILLS * 2 * CONCURRENCY
    assert claimed(journal) == set(ids)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_creates_that_are_killed_are_sent_once(loop: str, tmp_path: Path) -> None:
    """Killed 25 times and resumed, every profile is created once, or its outcome is unknown."""
    journal = tmp_path / "journal"
    with running_sandbox() as server:
        rounds = Rounds(server, journal, loop, "create", str(CREATES))
        for share in shares(Random(2_000), CREATES, CREATE_KILLS):
            rounds.kill(share)
            rounds.check()
        run = rounds.run()
        sent = Counter(arrival.identity for arrival in server.arrivals())

    counts: dict[str, int] = json.loads(run.stdout)
    unknown = {
        f"user-{position}"
        for position, state in states(journal).items()
        if state is ItemState.UNKNOWN
    }
    assert set(sent.values()) == {1}
    assert sum(counts.values()) == CREATES
    assert counts["failed"] == counts["not_sent"] == 0
    assert counts["unknown"] == len(unknown) <= CREATE_KILLS * CONCURRENCY
    assert set(sent) | unknown == {f"user-{number}" for number in range(CREATES)}


def test_missing_profiles_are_created_once_by_runs_that_are_killed(tmp_path: Path) -> None:
    """A run that is killed while it creates what is missing resumes with a look at each profile."""
    journal = tmp_path / "journal"
    with running_sandbox() as server:
        server.seed([f"user-{number}" for number in range(0, LOOKS, 2)])
        rounds = Rounds(server, journal, "asyncio", "look", str(LOOKS))
        for share in shares(Random(800), LOOKS, LOOK_KILLS):
            rounds.kill(share)
            rounds.check()
        run = rounds.run()
        created = Counter(one.identity for one in server.arrivals() if one.method == "POST")
        profiles = server.profiles()

    counts: dict[str, int] = json.loads(run.stdout)
    unknown = {
        f"user-{position}"
        for position, state in states(journal).items()
        if state is ItemState.UNKNOWN
    }
    assert set(created.values()) == {1}
    assert set(created) | unknown == {f"user-{number}" for number in range(1, LOOKS, 2)}
    assert set(created).isdisjoint(unknown)  # those that arrived were found afterwards
    assert profiles == LOOKS // 2 + len(created)
    assert sum(counts.values()) == LOOKS
    assert counts["failed"] == counts["not_sent"] == counts["absent"] == 0
    assert counts["unknown"] == len(unknown)
