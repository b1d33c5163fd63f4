"""A query of PostgreSQL as the input of a job."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from adapty_async import AdaptyClient, jobs
from adapty_async.errors import ConfigError, InvalidInputError
from adapty_async.jobs import JobStore, PartChangedError, Query, StoreUnavailableError
from adapty_async.sandbox import Sandbox

SQL = "SELECT number, name FROM people WHERE name LIKE 'user%'"


@pytest.fixture
def people(postgres_url: str) -> Iterator[psycopg.Connection]:
    """Make a table of people with gaps in its keys."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS people")
        connection.execute("CREATE TABLE people (number bigint, name text)")
        connection.execute(
            "INSERT INTO people SELECT 3 * n - 40, 'user_' || n FROM generate_series(0, 24) n"
        )
        yield connection


async def test_a_job_erases_what_a_query_returns(
    people: psycopg.Connection,
    postgres_url: str,
    store: JobStore,
    name: str,
    adapty: AdaptyClient,
    sandbox: Sandbox,
) -> None:
    """Parts are ranges of the key; the query itself is not in the store."""
    sandbox.seed_profiles(f"user_{number}" for number in range(30))
    call, query = adapty.v1.profiles.bulk_delete, Query(postgres_url, SQL)
    await store.plan(name, call, query, by="customer_user_id", part_size=10)
    job = await store.job(name, call, source=Query(postgres_url, SQL))
    report = await job.work()
    assert (report.done, job.parts, repr(query)) == (25, 3, "Query()")
    assert sandbox.customer_user_ids() == {f"user_{number}" for number in range(25, 30)}
    first = await anext(job.outcomes())
    assert (first.item, first.line) == ("user_0", None)
    with pytest.raises(jobs.JobError, match="is not a file"):
        job.input_at("ids.txt")
    with pytest.raises(jobs.JobError, match="was opened without its input"):
        [one async for one in (await store.job(name)).outcomes()]


def test_rows_that_changed_are_noticed(people: psycopg.Connection, postgres_url: str) -> None:
    """Each range is compared with what was planned; rows after the last key are not read."""
    query = Query(postgres_url, SQL)
    plan = query.plan(10)
    people.execute("INSERT INTO people VALUES (1000, 'user_late')")
    people.execute("UPDATE people SET name = 'user_other' WHERE name = 'user_12'")
    assert len(query.read({}, plan.parts[0].source)) == 10
    assert len(query.read({}, plan.parts[2].source)) == 5
    with pytest.raises(PartChangedError, match=r"has changed .* for the keys -10 to 17"):
        query.read({}, plan.parts[1].source)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT name, number FROM people", "whole number in its first column"),
        ("SELECT 1, name FROM people", "unique number in its first column"),
        ("SELECT number, NULL FROM people", "an id in each row"),
        ("SELECT number, number FROM people", "a number other than the id"),
        ("SELECT number = 1, name FROM people", "whole number in its first column"),
        ("SELECT number FROM people", "cannot be executed: InvalidColumnReference"),
    ],
    ids=["order", "constant", "null", "same", "bool", "column"],
)
def test_a_query_without_a_key_is_rejected(
    people: psycopg.Connection, postgres_url: str, sql: str, message: str
) -> None:
    """The store holds ranges of the key, so it must be a number that is no id."""
    with pytest.raises(InvalidInputError, match=message):
        Query(postgres_url, sql).plan(10)


def test_an_id_that_was_removed_is_noticed(people: psycopg.Connection, postgres_url: str) -> None:
    """A row whose id became NULL is another row."""
    query = Query(postgres_url, "SELECT number, name FROM people -- all of them")
    plan = query.plan(10)
    people.execute("UPDATE people SET name = NULL WHERE number = -40")
    with pytest.raises(PartChangedError, match="for the keys -40 to"):
        query.read({}, plan.parts[0].source)


def test_a_query_changes_nothing(people: psycopg.Connection, postgres_url: str) -> None:
    """A function that the query calls cannot write, neither for the plan nor for a part."""
    people.execute(
        "CREATE OR REPLACE FUNCTION erase_people() RETURNS text LANGUAGE plpgsql AS"
        " $$ BEGIN DELETE FROM people; RETURN 'a'; END $$"
    )
    query = Query(postgres_url, "SELECT 1, erase_people()")
    with pytest.raises(InvalidInputError, match="cannot be executed: ReadOnlySqlTransaction"):
        query.plan(10)
    with pytest.raises(InvalidInputError, match="cannot be executed: ReadOnlySqlTransaction"):
        query.read({}, {"after": 0, "last": 1, "digest": ""})
    assert people.execute("SELECT count(*) FROM people").fetchall() == [(25,)]


@pytest.mark.parametrize("sql", ["", "SELECT 1, 'a'; DROP TABLE people"], ids=["empty", "two"])
def test_a_query_is_one_statement(sql: str) -> None:
    """A second statement is rejected before anything is executed."""
    with pytest.raises(ConfigError, match="sql must be one SELECT"):
        Query("postgresql://", sql)


def test_an_address_that_is_not_valid_is_rejected_at_once() -> None:
    """A worker would otherwise find out with its first part."""
    with pytest.raises(ConfigError, match="url is not a valid address") as caught:
        Query("postgresql://anna:secret@h/x?option=1", SQL)
    assert "secret" not in str(caught.value)


def test_a_database_that_is_away_is_reported() -> None:
    """A worker that cannot reach the database says so, without its address."""
    with pytest.raises(StoreUnavailableError, match="cannot be reached") as caught:
        Query("postgresql://anna:secret@127.0.0.1:1/x", SQL).plan(10)
    assert "secret" not in str(caught.value)


def test_an_unknown_name_is_no_attribute() -> None:
    """Only `Query` is imported on its first use."""
    with pytest.raises(AttributeError, match="has no attribute 'Querry'"):
        _ = jobs.Querry
