"""
One round of a soak test: bulk runs of every kind, and concurrent single calls.

Some runs are abandoned early, and some calls and runs are cancelled, so that these exits are
exercised as often as in a service.
"""

from __future__ import annotations

import asyncio
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from random import Random
from typing import Any, BinaryIO, TypeAlias

import msgspec

from adapty_async import (
    AdaptyClient,
    AdaptyError,
    AdaptyMailClient,
    BulkReport,
    BulkRun,
    MailProfile,
    Operation,
    Outcome,
    v1,
    v2,
)
from benchmarks._soak_check import CREDIT, SEEDED, WORKS, Claim, Entry, Total

__all__ = ("Calls", "OutcomeLog")

_Options: TypeAlias = dict[str, Any]
_Make: TypeAlias = Callable[[_Options], BulkRun[Any, Any]]

_CALLERS = 8
_PURSES = 10
# Shares of runs abandoned, of runs cancelled, and of single calls cancelled.
_SHARE = 0.1
_GIVEN_UP = "perhaps given up"
_SAVED_AT = "2024-01-15T10:30:00Z"


class OutcomeLog:
    """
    An append-only file with the outcome of each call.

    Attributes:
        count: the number of calls that ended.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._encoder = msgspec.json.Encoder()
        self.count = 0

    def claim(self, work: str, identity: str, status: str) -> None:
        """Record the outcome of a call."""
        self.count += 1
        self._write(Claim(work, identity, status))

    def total(self, work: str, count: int) -> None:
        """Record the number of calls in the report of a run."""
        self._write(Total(work, count))

    def _write(self, entry: Entry) -> None:
        self._file.write(self._encoder.encode(entry) + b"\n")


class Calls:
    """The calls of two clients, in rounds."""

    def __init__(
        self, adapty: AdaptyClient, mail: AdaptyMailClient, log: OutcomeLog, random: Random
    ) -> None:
        self._adapty = adapty
        self._mail = mail
        self._log = log
        self._random = random

    async def round(self, number: int, items: int) -> None:
        """Run some of every kind concurrently, with new ids."""
        counts = dict.fromkeys(WORKS, items) | {CREDIT: _PURSES}
        ids = {
            work: [f"{work}-{number}-{each}" for each in range(count)]
            for work, count in counts.items()
        }
        await asyncio.to_thread(_seed, self._adapty.origin, ids)
        runs = asyncio.create_task(self._runs(ids))
        callers = [self._call_while(runs, f"{number}-{each}") for each in range(_CALLERS)]
        await asyncio.gather(runs, *callers)

    # Bulk runs

    async def _runs(self, ids: dict[str, list[str]]) -> None:
        api = self._adapty
        by: _Options = {"by": "customer_user_id"}
        await asyncio.gather(
            self._delete_with_journal(ids["delete"]),
            self._run(
                "delete-v2", lambda o: api.v2.profiles.bulk_delete(ids["delete-v2"], **by, **o)
            ),
            self._run("create", lambda o: api.bulk(ids["create"], build=_create, **o)),
            self._run("grant-v2", lambda o: api.bulk(_lazily(ids["grant-v2"]), build=_grant, **o)),
            self._run(CREDIT, lambda o: api.bulk(ids[CREDIT] * 5, build=_credit, **o)),
            self._save_and_erase(ids["save"]),
        )

    async def _save_and_erase(self, ids: list[str]) -> None:
        profiles = self._mail.profiles
        await self._run("save", lambda o: profiles.bulk_save(map(_saved, ids), **o))
        half = ids[::2]
        await self._run(
            "erase", lambda o: profiles.bulk_delete(half, by="external_profile_id", **o)
        )

    async def _run(self, work: str, make: _Make) -> BulkReport[Any, Any]:
        """Make a run in one of several ways, and record the outcomes of its items."""
        random = self._random

        def record(outcome: Outcome[Any, Any]) -> None:
            self._log.claim(work, _id_of(outcome.item), outcome.status)

        run = make(
            {
                "on_outcome": record,
                "ordered": random.random() < 0.3,
                "concurrency": random.choice((None, None, 5, 40)),
                "drain": random.choice((0.1, 5.0)),
            }
        )
        draw = random.random()
        if draw < _SHARE:
            await _cancelled_after(_awaited(run), 2 * random.random())
        elif draw < 2 * _SHARE:
            await _streamed(run, most=random.randrange(100))
        elif draw < 0.5:
            await _streamed(run)
        else:
            await run
        self._log.total(work, run.report.total)
        return run.report

    async def _delete_with_journal(self, ids: list[str]) -> None:
        bulk_delete = self._adapty.v1.profiles.bulk_delete
        with tempfile.NamedTemporaryFile() as file:
            options: _Options = {"by": "customer_user_id", "journal": file.name}
            first = await self._run("delete", lambda o: bulk_delete(ids, **options, **o))
            again = await bulk_delete(ids, **options)
        if again.skipped < first.done:
            raise SystemExit(f"a journal of {first!r} made {again!r} of its run")

    # Single calls

    async def _call_while(self, runs: asyncio.Task[None], name: str) -> None:
        count = 0
        while not runs.done():
            count += 1
            await self._come_and_go(f"single-{name}-{count}")
            await asyncio.sleep(self._random.random() / 10)

    async def _come_and_go(self, one: str) -> None:
        v1_profiles, v2_profiles = self._adapty.v1.profiles, self._adapty.v2.profiles
        attributes = v2.ProfileAttributes(first_name="Jane")
        created = await self._call("single-create", one, v1_profiles.create(customer_user_id=one))
        if created == _GIVEN_UP:
            return  # it may still be in flight, and be carried out after the next call
        await self._call("read", one, v2_profiles.get(customer_user_id=one))
        await self._call("update", one, v2_profiles.update(attributes, customer_user_id=one))
        await self._call("single-delete", one, v1_profiles.delete(customer_user_id=one))

    async def _call(self, work: str, one: str, call: Coroutine[Any, Any, object]) -> str:
        status = "done"
        try:
            if self._random.random() < _SHARE:
                await _cancelled_after(call, 0.1 * self._random.random())
                status = _GIVEN_UP
            else:
                await call
        except AdaptyError as error:
            status = type(error).__name__
        self._log.claim(work, one, status)
        return status


async def _cancelled_after(call: Coroutine[Any, Any, object], seconds: float) -> None:
    """Cancel a call that takes longer than `seconds`."""
    task = asyncio.create_task(call)
    await asyncio.wait({task}, timeout=seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _awaited(run: BulkRun[Any, Any]) -> None:
    await run


async def _streamed(run: BulkRun[Any, Any], most: int | None = None) -> None:
    async with run:
        async for _ in run:
            if most is not None:
                most -= 1
                if most < 0:
                    break


async def _lazily(ids: Iterable[str]) -> AsyncIterator[str]:
    for one in ids:
        await asyncio.sleep(0)
        yield one


def _id_of(item: str | MailProfile) -> str:
    return item if isinstance(item, str) else item.external_profile_id


def _saved(one: str) -> MailProfile:
    return MailProfile(
        external_profile_id=one, external_created_at=_SAVED_AT, email=f"{one}@example.com"
    )


def _create(one: str) -> Operation[Any]:
    return v1.create_profile(v1.ProfileAttributes(first_name="Jane"), customer_user_id=one)


def _grant(one: str) -> Operation[Any]:
    return v2.grant_access_level("premium", customer_user_id=one)


def _credit(one: str) -> Operation[Any]:
    coin = v2.VirtualCurrencyBalanceAdjustment(currency_code="COINS", amount=1)
    return v2.create_virtual_currency_transaction([coin], customer_user_id=one)


def _seed(url: str, ids: dict[str, list[str]]) -> None:
    body = msgspec.json.encode([one for work in SEEDED for one in ids[work]])
    with urllib.request.urlopen(f"{url}/_sandbox/seed", data=body) as response:  # loopback
        response.read()
