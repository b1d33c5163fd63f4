"""
A demonstration of the main job, end to end, on a sandbox with a rate limit and faults.

Its input is realistic, and has awkward rows. ``python -m adapty_async.cli._demo FOLDER`` writes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from adapty_async import mail, v1
from adapty_async._input.rows import Rows, open_rows
from adapty_async._input.schema import id_columns, id_from, rows_of
from adapty_async._journal import RunName
from adapty_async._runtime.words import counted
from adapty_async.cli._job import Exit, Job, perform
from adapty_async.cli._report import report_text
from adapty_async.client import AdaptyClient, AdaptyMailClient
from adapty_async.config import RetryPolicy
from adapty_async.errors import InvalidInputError
from adapty_async.sandbox import Sandbox

T = TypeVar("T")

_RATE = 500.0
_FAULTS = "error=2%,reset=1%,reset_after=1%,stall=0.2%"
_RETRY = RetryPolicy(attempts=10, wait_initial=0.1)
_TIMEOUT = 1.0
_PROFILES = rows_of(mail.PROFILE_COLUMNS)

_COLUMNS = (
    "external_profile_id",
    "external_created_at",
    "email",
    "first_name",
    "last_name",
    "birthday",
    "country",
    "custom_attributes.plan",
    "custom_attributes.signup_source",
    "device_info.platform",
    "device_info.locale",
)
_PEOPLE = (
    ("Jane", "Doe", "US", "en-US"),
    ("José", "Muñoz", "ES", "es-ES"),
    ("Zoë", "Müller", "DE", "de-DE"),
    ("Søren", "Ångström", "DK", "da-DK"),
    ("Łukasz", "Żółć", "PL", "pl-PL"),
    ("Ирина", "Петрова", "KZ", "ru-KZ"),
    ("美咲", "佐藤", "JP", "ja-JP"),
    ("محمد", "العلي", "EG", "ar-EG"),
    ("Nguyễn", "Thị Hoa", "VN", "vi-VN"),
    ("D'Arcy", 'O"Neil, Jr.', "IE", "en-IE"),
    ("👩‍💻 Ada", "", "GB", "en-GB"),
)
_ID_FORMS = ("user_{0}", "u/{0}", "app?id={0}", "team#{0}", "100%-{0}", "a b {0}", "x+{0}&y")
_PLANS = ("trial", "monthly", "annual", "", "lifetime")
_SOURCES = ("organic", "ads", "friend, told me", "", "import:2024")
_ABSENT = 40


async def run(profiles: str | None, ids: str | None, write: Callable[[str], object]) -> int:
    """Save `profiles`, erase `ids`, verify that exactly those are gone; return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        if profiles is None or ids is None:
            examples = await asyncio.to_thread(write_examples, Path(folder))
            profiles, ids = map(str, examples)
        async with Sandbox(rate=_RATE, burst=50, latency=0.005, faults=_FAULTS, seed=1) as sandbox:
            write(
                f"A sandbox of the APIs runs at {sandbox.url}: it allows {_RATE:.0f} requests/s, "
                f"responds after 5 ms, and fails on purpose ({_FAULTS}).\n"
            )
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


def write_examples(folder: Path, *, count: int = 5000, erased: int = 1500) -> tuple[Path, Path]:
    """
    Write ``profiles.csv`` with `count` users, and ``erase.txt`` with the ids to erase.

    The ids are `erased` of the users and 40 that belong to no user. Two rows of the CSV file are
    broken.
    """
    random_number = random.Random(7)  # noqa: S311  the same file every time, no secret
    folder.mkdir(parents=True, exist_ok=True)
    profiles, ids = folder / "profiles.csv", folder / "erase.txt"
    rows = [_profile(number, random_number) for number in range(count)]
    with profiles.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for number, row in enumerate(rows):
            writer.writerow(_broken(row) if number in {count // 3, count // 2} else row)
    chosen = random_number.sample([row[0] for row in rows], erased)
    absent = [f"nobody_{number}" for number in range(_ABSENT)]
    mixed = random_number.sample(chosen + absent, erased + _ABSENT)
    ids.write_text("".join(f"{each}\n" for each in mixed), encoding="utf-8")
    return profiles, ids


def _profile(number: int, random_number: random.Random) -> list[str]:
    first, last, country, locale = random_number.choice(_PEOPLE)
    form = _ID_FORMS[number % len(_ID_FORMS)] if number % 10 == 0 else _ID_FORMS[0]
    tag = "+news" if number % 4 == 0 else ""
    day, hour = random_number.randint(1, 28), random_number.randint(0, 23)
    platform = random_number.choice(("iOS", "Android", ""))
    return [
        form.format(100000 + number),
        f"2026-{number % 12 + 1:02}-{day:02}T{hour:02}:30:00Z",
        f"user{number}{tag}@example.com",
        first,
        last,
        f"{1950 + number % 55}-{number % 12 + 1:02}-{day:02}" if number % 3 else "",
        country if number % 5 else "",
        random_number.choice(_PLANS),
        random_number.choice(_SOURCES),
        platform,
        locale if platform else "",
    ]


def _broken(row: list[str]) -> list[str]:
    return row[:-3] if row[6] else [*row[:6], "usa", *row[7:]]


if __name__ == "__main__":
    write_examples(Path(sys.argv[1]))
