"""The page about the journal's file: its tables, and its SQL queries."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from adapty_async.bulk import ItemState
from tests.bulk.test_bulk import Api, ids
from tests.bulk.test_run_journal import MISSING, REFUSED, erase

PAGE = (Path(__file__).parent.parent / "docs" / "journal-file.md").read_text(encoding="utf-8")
QUESTIONS = re.findall(r"^```sql\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
async def db(tmp_path: Path) -> sqlite3.Connection:
    """Return the journal of a run of 700 items that was resumed."""
    answers = {"u1": MISSING, "u2": REFUSED, "u600": REFUSED}
    for count in (600, 700):
        await erase(Api(answers), ids(count), tmp_path / "run.db")
    return sqlite3.connect(f"{(tmp_path / 'run.db').as_uri()}?mode=ro", uri=True)


async def test_the_questions_of_the_page_are_answered(db: sqlite3.Connection) -> None:
    """Each query runs unchanged on a journal of this release."""
    with closing(db):
        answers: list[list[Any]] = [db.execute(question).fetchall() for question in QUESTIONS]
    identity, states, runs, left, minutes, reasons = answers

    [(operation, origin, described)] = identity
    assert operation == "v1.profiles.delete by customer_user_id"
    assert (origin, described) == ("https://api.adapty.io", '{"job_id":"job"}')
    assert states == [("absent", 1), ("done", 697), ("failed", 2)]
    assert [(number, reason) for number, _, _, reason in runs] == [(1, None), (2, None)]
    assert all(len(begin) == len(end) == len("2026-01-01 00:00:00") for _, begin, end, _ in runs)
    assert left == [(3, "failed"), (601, "failed")]
    assert sum(ended for _, ended, _, _ in minutes) == 701
    assert [sum(column) for column in list(zip(*minutes, strict=True))[2:]] == [701, 0]
    assert reasons == [("failed", "RequestRejectedError", 400, 3)]


async def test_the_page_names_every_table_column_and_state(db: sqlite3.Connection) -> None:
    """All tables, columns and states of the schema are on the page."""
    with closing(db):
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master")]
        columns = {row[1] for name in tables for row in db.execute(f"PRAGMA table_info({name})")}
    counted = {state.name.lower() for state in ItemState} | {"id"}  # by name in the second table

    assert not [name for name in {*tables, *columns} - counted if f"`{name}`" not in PAGE]
    named = [f"`{state.name.lower()}`" for state in ItemState if state is not ItemState.NONE]
    assert not [name for name in named if name not in PAGE]
