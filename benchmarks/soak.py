"""
A soak test: mixed single calls and bulk runs, checked for leaks and for lost or duplicated calls.

Run it as ``python -m benchmarks.soak``. The client and the sandbox are processes of their own; the
sandbox limits the rate and makes requests fail at random. The resources of the client's process are
printed once a minute, and the last sample is compared with minute two. The client's claims about
its calls are compared with the sandbox's record. The exit code is 0 if both checks pass.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from adapty_async import AdaptyClient, RetryPolicy, v2
from benchmarks._machine import describe
from benchmarks._server import Server, running_sandbox
from benchmarks._soak_check import CREDIT, Claim, Entry, ServerRecord, problems
from benchmarks._soak_client import CONNECTIONS, Plan, Sample

_FAULTS = "error=4%,reset=2%,reset_after=2%,stall=0.2%"
#: The allowed growth of memory since minute two: a factor, or a number of MB.
_GROWTH, _SLACK = 1.10, 5.0
_SHOWN = 20
_COLUMNS = ("name", "seconds", "ended", "rss", "sockets", "files", "tasks", "in_flight")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--items", type=int, default=400, help="items of each bulk run")
    parser.add_argument("--rate", type=int, default=300, help="requests a second that pass")
    parser.add_argument("--faults", default=_FAULTS)
    parser.add_argument(
        "--seed", type=int, default=1, help="chooses faults, and what is left early"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke of a few seconds")
    options = parser.parse_args()
    if options.quick:
        options.minutes, options.items, options.rate = 0.05, 30, 1000
    return options


def _plan(options: argparse.Namespace, server: Server, folder: str) -> Plan:
    seconds = 60.0 * options.minutes
    return Plan(
        url=server.url,
        api_key=server.api_key,
        mail_api_key=server.mail_api_key,
        seconds=seconds,
        every=min(60.0, seconds / 4),
        items=options.items,
        idle=not options.quick,
        seed=options.seed,
        entries=str(Path(folder) / "entries"),
    )


def _work(plan: Plan) -> Iterator[Sample]:
    """Run the client with the plan, and yield its samples as they arrive."""
    print(" ".join(f"{name:>9}" for name in _COLUMNS), flush=True)
    command = [sys.executable, "-W", "error", "-m", "benchmarks._soak_client"]
    argument = msgspec.json.encode(plan).decode()
    with subprocess.Popen([*command, argument], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sample = msgspec.json.decode(line, type=Sample)
            values = (getattr(sample, name) for name in _COLUMNS)
            print(" ".join(f"{_shown(value):>9}" for value in values), flush=True)
            yield sample
    if process.returncode:
        raise SystemExit(f"the client ended with {process.returncode}")


def _shown(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _leaks(samples: list[Sample], *, idle: bool) -> Iterator[str]:
    """Yield the resources that grew between minute two and the end."""
    start, _, second, *_, end, closed = samples
    # while connections are kept alive, their number depends on the last round
    spare = 0 if idle else 2 * CONNECTIONS
    if end.rss > max(_GROWTH * second.rss, second.rss + _SLACK):
        yield f"memory: {second.rss:.1f} MB in minute two, {end.rss:.1f} MB at the end"
    for name, before, now in (
        ("sockets", second.sockets + spare, end.sockets),
        ("files", second.files + spare, end.files),
        ("tasks", second.tasks, end.tasks),
        ("requests in flight", 0, max(sample.in_flight for sample in samples)),
        ("sockets after closing", start.sockets, closed.sockets),
        ("files after closing", start.files, closed.files),
        ("tasks after closing", start.tasks, closed.tasks),
        ("complaints of asyncio", 0, closed.complaints),
    ):
        if now > before:
            yield f"{name}: {before} before, {now} now"


def _entries(plan: Plan) -> Iterator[Entry]:
    decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)
    with Path(plan.entries).open("rb") as file:
        yield from map(decoder.decode, file)


async def _balances(server: Server, purses: Iterable[str]) -> dict[str, int]:
    balances: dict[str, int] = {}
    retry = RetryPolicy(attempts=12, wait_initial=0.05, wait_max=1.0)
    async with AdaptyClient(
        server.api_key, base_url=server.url, retry=retry, timeout=2.0
    ) as adapty:
        run = adapty.bulk(
            purses, build=lambda one: v2.list_virtual_currency_balances(customer_user_id=one)
        )
        async with run:
            async for outcome in run:
                if outcome.result is None:
                    raise SystemExit(f"a purse cannot be read: {outcome.error}")
                coins = [each for each in outcome.result.data if each.code == "COINS"]
                balances[outcome.item] = sum(each.balance for each in coins)
    return balances


def _server_record(plan: Plan, server: Server) -> ServerRecord:
    purses = {
        entry.id for entry in _entries(plan) if isinstance(entry, Claim) and entry.work == CREDIT
    }
    arrivals = list(server.arrivals())  # before further requests arrive
    balances = asyncio.run(_balances(server, purses))
    there = {"v1": server.profiles("v1"), "mail": server.profiles("mail")}
    return ServerRecord(arrivals, there, balances)


def main() -> None:
    """Run the soak test and print its result."""
    options = _options()
    print(describe(), flush=True)
    settings = [f"--rate={options.rate}", f"--faults={options.faults}", f"--seed={options.seed}"]
    with tempfile.TemporaryDirectory() as folder, running_sandbox(*settings) as server:
        plan = _plan(options, server, folder)
        samples = list(_work(plan))
        record = _server_record(plan, server)
        found = [*_leaks(samples, idle=plan.idle), *problems(_entries(plan), record)]
    print(", ".join(f"{name}: {count}" for name, count in record.faults.most_common()))
    for problem in found[:_SHOWN]:
        print(f"WRONG: {problem}")
    if found:
        raise SystemExit(f"{len(found)} things are wrong")
    print("nothing leaked, nothing was lost or doubled")


if __name__ == "__main__":
    main()
