"""A demonstration of the main job, end to end, on a sandbox with a rate limit and faults."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from adapty_async import mail, v1
from adapty_async._input.rows import Rows, open_rows
from adapty_async._input.schema import id_columns, id_from, rows_of
from adapty_async._report import RunName
from adapty_async._runtime.words import counted
from adapty_async.cli._demo_data import write_examples
from adapty_async.cli._job import Exit, Job, perform
from adapty_async.cli._report import report_text
from adapty_async.client import AdaptyClient, AdaptyMailClient
from adapty_async.config import RetryPolicy
from adapty_async.errors import InvalidInputError
from adapty_async.sandbox import Sandbox

__all__ = ("run",)

T = TypeVar("T")

_RATE = 500.0
_FAULTS = "error=2%,reset=1%,reset_after=1%,stall=0.2%"
_RETRY = RetryPolicy(attempts=10, wait_initial=0.1)
_TIMEOUT = 1.0
_PROFILES = rows_of(mail.PROFILE_COLUMNS)


async def run(profiles: str | None, ids: str | None, write: Callable[[str], object]) -> int:
    """Save `profiles`, erase `ids`, verify that exactly those are gone; return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        if profiles is None or ids is None:
            examples = await asyncio.to_thread(write_examples, Path(folder))
            profiles, ids = map(str, examples)
        async with Sandbox(rate=_RATE, burst=50, latency=0.005, faults=_FAULTS, seed=1) as sandbox:
            write(f"A sandbox of the APIs runs at {sandbox.url}: it allows {_RATE:.0f} requests/s,")
            write(f"responds after 5 ms, and fails on purpose ({_FAULTS}).\n")
            people = open_rows(profiles, "csv", _PROFILES.check)
            users = open_rows(ids, None, id_columns("customer_user_id"))
            saved = await _save(sandbox, people, write)
            if saved == Exit.INTERRUPTED:
                return saved
            return await _erase(sandbox, people, users, write) or saved


async def _save(sandbox: Sandbox, people: Rows, write: Callable[[str], object]) -> int:
    write(f"1. Save the profiles of {people.path} through the Mail API")
    job = Job(
        title="Saving",
        name=RunName(what="demo save"),
        rows=people,
        build=lambda value: mail.save_profile(_PROFILES.struct(value)),
    )
    client = AdaptyMailClient(
        sandbox.mail_api_key, base_url=sandbox.url, retry=_RETRY, timeout=_TIMEOUT
    )
    async with client:
        result = await perform(job, client)
    write(report_text(result.report, failures=None, total=job.total))
    if result.interrupted:
        return Exit.INTERRUPTED
    arrived = sandbox.mail_profile_ids()
    failed = f"{counted(result.report.failed, 'row')} could not be sent"
    write(f"The sandbox holds {counted(len(arrived), 'profile')}; {failed}.\n")
    wanted = {profile.external_profile_id for profile in _usable(people, _PROFILES.struct)}
    return Exit.OK if arrived == wanted else Exit.NOT_ALL_DONE


async def _erase(
    sandbox: Sandbox, people: Rows, users: Rows, write: Callable[[str], object]
) -> int:
    write(f"2. Erase the users of {users.path} from the server-side API")
    before = set(_usable(people, lambda value: id_from(value, "external_profile_id")))
    sandbox.seed_profiles(before)
    listed = set(_usable(users, lambda value: id_from(value, "customer_user_id")))
    job = Job(
        title="Deleting",
        name=RunName(what="demo delete"),
        rows=users,
        build=lambda value: v1.delete_profile(customer_user_id=id_from(value, "customer_user_id")),
    )
    client = AdaptyClient(sandbox.api_key, base_url=sandbox.url, retry=_RETRY, timeout=_TIMEOUT)
    async with client:
        result = await perform(job, client)
    write(report_text(result.report, failures=None, total=job.total))
    if result.interrupted:
        return Exit.INTERRUPTED
    if result.report.absent < len(listed - before):
        write("An id without a user counts as done if the first response for it was lost.")
    return _check(sandbox, before, listed, write)


def _usable(rows: Rows, read: Callable[[Any], T]) -> Iterator[T]:
    for row in rows:
        with contextlib.suppress(InvalidInputError):
            if row.broken is None:
                yield read(row.value)


def _check(
    sandbox: Sandbox, before: set[str], listed: set[str], write: Callable[[str], object]
) -> int:
    write("\n3. Ask the sandbox")
    left = sandbox.customer_user_ids()
    wrongly_left, wrongly_gone = left & listed, (before - listed) - left
    write(f"  {len(before & listed) - len(wrongly_left):>6,} of the listed users are gone")
    write(f"  {len(listed - before):>6,} listed ids never belonged to anybody")
    write(f"  {len(left):>6,} other users are untouched")
    if wrongly_left or wrongly_gone:
        write(f"NOT as it should be: {len(wrongly_left)} left over, {len(wrongly_gone)} too many.")
        return Exit.NOT_ALL_DONE
    write("Exactly the listed users are gone. Nothing is missing.")
    return Exit.OK
