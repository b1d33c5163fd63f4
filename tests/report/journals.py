"""Journals with a content that is known, written through the storage itself."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from adapty_async._journal import (
    SPAN_SIZE,
    Changes,
    JournalIdentity,
    Minute,
    Reason,
    Run,
    SqliteJournal,
    read_journal,
)
from adapty_async._report import Report, figures_of, journal_file

NOW = dt.datetime(2026, 11, 30, tzinfo=dt.UTC)
START = 1_796_000_040.0  # a whole minute
IDENTITY = JournalIdentity(
    operation="v1 delete by customer-user-id, column customer_user_id, from text",
    origin="https://api.adapty.io",
    account="4f" * 16,
    keys="position",
    input={"size": 12, "sha256": "ab" * 32, "rows": 10},
)


class Recorded(msgspec.Struct, kw_only=True):
    """The content of one run, with the state of each item at its end."""

    run: Run
    states: str = ""
    minutes: Sequence[Minute] = ()
    reasons: Sequence[Reason] = ()


def run(number: int = 1, *, start: float = 0, seconds: float = 60, **fields: Any) -> Run:
    """Make a run; times are since `START`. It ended unless `ended_at` is given."""
    begin = START + start
    ended = {"ended_at": begin + seconds} | fields
    return Run(number=number, started_at=begin, last_at=begin + seconds, **ended)


def minute(number: int = 0, *, run: int = 1, **counts: int) -> Minute:
    """Make the counts of a minute, which is counted from `START`."""
    begin = START + 60 * number
    return Minute(
        run=run, minute=int(begin // 60), first_at=begin + 1, last_at=begin + 59, **counts
    )


@contextlib.asynccontextmanager
async def in_use(
    path: Path, *recorded: Recorded, identity: JournalIdentity = IDENTITY
) -> AsyncIterator[None]:
    """Write a journal, which the last run holds open for the block."""
    for number, each in enumerate(recorded, 1):
        journal = SqliteJournal(path, owed=1, clock=lambda each=each: each.run.started_at)  # type: ignore[misc]
        await journal.open(identity, lambda _: None, lambda keys, _: list(keys))
        await journal.commit(_changes(each), durable=False)
        if number == len(recorded):
            yield
        await journal.close()


async def write(path: Path, *recorded: Recorded, identity: JournalIdentity = IDENTITY) -> None:
    """Write a journal of runs that are over."""
    async with in_use(path, *recorded, identity=identity):
        pass


def _changes(recorded: Recorded) -> Changes:
    states = recorded.states.encode()
    spans = {
        start // SPAN_SIZE: states[start : start + SPAN_SIZE].ljust(SPAN_SIZE, b".")
        for start in range(0, len(states), SPAN_SIZE)
    }
    return Changes(
        run=recorded.run,
        spans=spans,
        minutes=list(recorded.minutes),
        reasons=list(recorded.reasons),
    )


def report_of(path: Path, **options: Any) -> Report:
    """Return the report of a journal."""
    summary, _ = read_journal(path)
    return figures_of(summary, file=journal_file(path, summary), made_at=NOW, **options)
