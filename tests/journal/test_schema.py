"""The rows of a journal: what is missing, and what is whole but makes no sense, is damage."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

import pytest

from adapty_async._journal import Changes, ItemState, Minute, Run
from adapty_async._journal.model import DamageError, validate_states
from adapty_async._journal.schema import (
    _insert,
    create_schema,
    read_identity,
    read_keys,
    read_runs,
    read_spans,
    read_structs,
    verify_schema,
    write_changes,
    write_identity,
)
from tests.journal.support import IDENTITY, key_of, span


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """Make the tables of a journal."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        assert verify_schema(made)
        create_schema(made)
        assert not verify_schema(made)
        write_identity(made, IDENTITY)
        yield made


def test_the_view_shows_every_item_with_its_state(db: sqlite3.Connection) -> None:
    """The view `item` has a row for each item that is known, with the name of its state."""
    text = "".join(chr(state) for state in ItemState)
    write_changes(db, Changes(spans={2: span(text)}))
    names = [(1024 + n, state.name.lower()) for n, state in enumerate(ItemState) if n]
    assert db.execute("SELECT * FROM item ORDER BY position").fetchall() == names


def test_the_identity_is_read_as_it_was_written(db: sqlite3.Connection) -> None:
    """A journal without exactly one identity is damaged."""
    assert read_identity(db) == IDENTITY
    db.execute("DELETE FROM identity")
    with pytest.raises(DamageError, match="the table identity is damaged"):
        read_identity(db)


def test_a_run_that_is_missing_is_damage(db: sqlite3.Connection) -> None:
    """Runs are numbered without a gap."""
    for number in (1, 2, 3):
        write_changes(db, Changes(run=Run(number=number, started_at=1.0, last_at=2.0)))
    assert [run.number for run in read_runs(db)] == [1, 2, 3]
    db.execute("DELETE FROM run WHERE number = 2")
    with pytest.raises(DamageError, match="the table run lacks a row"):
        read_runs(db)


def test_keys_that_are_missing_are_damage(db: sqlite3.Connection) -> None:
    """Entry keys have no gap, however many rows they take."""
    keys = b"".join(map(key_of, range(9000)))
    write_changes(db, Changes(new_keys=keys))
    write_changes(db, Changes(first_key=9000, new_keys=key_of(9000)))
    assert b"".join(read_keys(db)) == keys + key_of(9000)
    db.execute("DELETE FROM entry_key WHERE first = 4096")
    with pytest.raises(DamageError, match="the table entry_key lacks a row"):
        list(read_keys(db))


@pytest.mark.parametrize("first", [-512, 5], ids=str)
def test_a_span_that_begins_at_an_odd_position_is_damage(
    db: sqlite3.Connection, first: int
) -> None:
    """Spans begin at multiples of 512."""
    _insert(db, "span", (first, span("d").decode()))
    with pytest.raises(DamageError, match="a row of the table span is damaged"):
        list(read_spans(db))


@pytest.mark.parametrize("states", [b"d" * 511, span("?"), span("d") + b"d"], ids=[1, 2, 3])
def test_states_of_another_release_are_damage(states: bytes) -> None:
    """A span has 512 states that this release understands."""
    with pytest.raises(DamageError, match="it holds a state that this release does not understand"):
        validate_states(states)


CHANGED = {
    "span": "UPDATE span SET states = replace(states, '.', 'd')",
    "a span moved": "UPDATE span SET first = 512",
    "minute": "UPDATE minute SET done = 7",
    "a number as text": "UPDATE minute SET run = 'x'",
}


@pytest.mark.parametrize("statement", CHANGED.values(), ids=CHANGED)
def test_a_row_that_somebody_has_changed_is_damage(db: sqlite3.Connection, statement: str) -> None:
    """A row that was changed with another program does not count."""
    write_changes(db, Changes(spans={0: span("f")}))
    _insert(db, "minute", (1, 2, 3.0, 4.0, *range(9)))
    assert len(read_structs(db, Minute)) == len(list(read_spans(db))) == 1
    db.execute(statement)
    with pytest.raises(DamageError, match=r"a row of the table (span|minute) is damaged"):
        read_structs(db, Minute).extend(read_spans(db))  # type: ignore[arg-type]
