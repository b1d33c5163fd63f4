"""
The interface of a job store's database: SQL statements without I/O, and what executes them.

A step function is a generator that yields statements and receives their rows. The driver of each
database executes it as one transaction, so the SQL of both databases is the same code.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec

ResultT = TypeVar("ResultT")

Rows: TypeAlias = list[tuple[Any, ...]]


class Statement(msgspec.Struct, frozen=True):
    """
    A statement of SQL with named parameters.

    Its result are its rows, or one row with the number of changed rows.

    Attributes:
        sql: the text, with parameters such as ``:job`` and the words of a `Dialect` in braces.
        values: the values of the parameters.
        rows: values in addition to these, for each time that it is executed; None for once.
    """

    sql: str
    values: Mapping[str, Any] = {}
    rows: Sequence[Mapping[str, Any]] | None = None


#: A transaction: yields statements, receives their rows, and returns its result.
Steps: TypeAlias = Generator[Statement, Rows, ResultT]


def drive(steps: Steps[ResultT], execute: Callable[[Statement], Rows]) -> ResultT:
    """Execute the statements of a step function; return its result."""
    try:
        statement = next(steps)
        while True:
            statement = steps.send(execute(statement))
    except StopIteration as end:
        result: ResultT = end.value
        return result


def steps_of(statements: Sequence[Statement]) -> Steps[list[Rows]]:
    """Execute statements; return the rows of each."""
    found: list[Rows] = []
    for statement in statements:
        rows = yield statement
        found.append(rows)
    return found


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """
    The words in which the databases differ.

    Attributes:
        serial: the type of a primary key that the database numbers.
        data: the type of bytes.
        loose: leaves space in a page of a table, so that rows are updated in place.
        share: locks the rows of `part` against updates until the transaction ends.
        update: locks selected rows against other transactions that lock them.
        now: seconds since the epoch, on the database's clock.
        exists: returns a row if the tables exist.
        snapshot: makes all statements of a transaction that it begins read the same state.
        guard: excludes other transactions that create the tables.
        parameter: the replacement of the name of a parameter.
    """

    serial: str
    data: str
    loose: str
    share: str
    update: str
    now: str
    exists: str
    snapshot: str
    guard: str
    parameter: str

    def translate(self, sql: str) -> str:
        """Return the text of a statement in this dialect."""
        words = msgspec.structs.asdict(self)
        text = re.sub(r"\{(\w+)\}", lambda found: str(words[found[1]]), sql)
        return re.sub(r"(?<!:):(\w+)", self.parameter, text)


class PartLock(Protocol):
    """A lock on one part, which the death of its process releases."""

    def watch(self, lost: Callable[[], object]) -> None:
        """Call a function when the lock may be lost; at once if it is lost already."""
        ...

    async def release(self) -> None:
        """Release the lock; a second call does nothing."""
        ...


class Database(Protocol):
    """The interface of a job store's database. All methods raise `StoreUnavailableError`."""

    async def open(self) -> None:
        """
        Connect, and create the tables if there are none.

        Raises:
            JobError: it cannot hold jobs.
        """
        ...

    async def close(self) -> None:
        """Close all connections. Locks that are left are released."""
        ...

    async def execute(self, statement: Statement) -> Rows:
        """Execute a statement as a transaction of its own."""
        ...

    def commit(self, statements: Sequence[Statement], *, durable: bool) -> Awaitable[int]:
        """
        Execute statements as one transaction; return the number of rows that the first one changed.

        The transaction may start before the result is awaited.
        The first one may be a SELECT, whose rows count. No two of them may lock or change the same
        row. Unless this is durable, a crash of the database may undo the last transactions.
        """
        ...

    async def transact(self, steps: Steps[ResultT], *, is_long: bool = False) -> ResultT:
        """
        Execute steps as one transaction; an exception that they raise undoes it.

        One that changes a whole job is long: it may take an hour.
        """
        ...

    async def lock(self, job: int, part: int) -> PartLock | None:
        """Acquire the lock on a part; return None if another runner has it."""
        ...

    async def held(self, job: int, parts: Sequence[int]) -> set[int]:
        """Return those of a job's parts that a runner has locked."""
        ...
