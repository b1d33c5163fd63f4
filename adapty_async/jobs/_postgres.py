"""
A job store in PostgreSQL, for workers on any number of machines.

Invariants:
- Two connections: one executes transactions, the other one holds the session locks on parts.
- A lock counts as lost `HELD` of the lease after the last response to its connection. The server
  releases it after the whole lease, if the machine or the network of its worker is gone, or if the
  worker stands still.
- Locks are of the server that stores the data. If its connection breaks, the locks are lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import TypeVar
from zlib import crc32

from psycopg.errors import ReadOnlySqlTransaction

from adapty_async._runtime.loop import until_ended
from adapty_async.jobs._database import Dialect, Rows, Statement, Steps, drive
from adapty_async.jobs._errors import StoreUnavailableError
from adapty_async.jobs._link import CHECKED, HELD, Connection, Link, pooler_error
from adapty_async.jobs._schema import ensure_schema

ResultT = TypeVar("ResultT")

# A pooler that others use, too, may by chance lend the same session twice.
_POOLER_CHECKS = 3
_DIALECT = Dialect(
    serial="bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    data="bytea",
    loose="WITH (fillfactor = 50)",
    share="FOR SHARE OF part",
    update="FOR UPDATE OF part",
    now="extract(epoch FROM clock_timestamp())::double precision",
    # not to_regclass(), which in one transaction may remember that there was no table
    exists="SELECT 1 FROM pg_class WHERE relname = 'adapty_store' AND pg_table_is_visible(oid)",
    snapshot="SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    guard="SELECT pg_advisory_xact_lock(4702394921090429793)",  # "Adapty" in eight bytes
    parameter=r"%(\1)s",
)
_translate = functools.cache(_DIALECT.translate)
# Each schema of a database may have a store, and the locks are those of the database.
_STORE = Statement("SELECT 'adapty_store'::regclass::bigint")
# Its first column is NULL in the session of another process.
# A standby has locks of its own, of which the others do not know.
_LOCK = (
    "SELECT CASE pg_backend_pid() WHEN %s THEN pg_try_advisory_lock(%s, %s) END,"
    " pg_is_in_recovery()"
)
_UNLOCK = "SELECT pg_advisory_unlock(%s, %s)"
_HOLDERS = (
    "SELECT objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted"
    " AND classid::bigint = %s"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def _lock_class(store: int, job: int) -> int:
    """Return the first number of the locks of a job, which other programs hardly use."""
    return crc32(f"adapty_job {store} {job}".encode()) >> 1


class PostgresDatabase:
    """
    A job store in PostgreSQL; see `adapty_async.jobs._database.Database`.

    Args:
        url: the address of the database.
        lease: seconds after which the server releases the locks of a worker that is gone.
    """

    def __init__(self, url: str, *, lease: float) -> None:
        self._lease = lease
        self._url = url
        self._session: Link  # set by `open`, as is the next
        self._data: Link
        self._store: int  # the number of its tables in the database, set by `open`
        self._locks: dict[tuple[int, int], _PostgresLock] = {}
        self._commits: dict[tuple[bool, tuple[str, ...]], bytes] = {}
        self._checks: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Connect, and create the tables if there are none; see `Database.open`."""
        url, lease = self._url, self._lease
        self._session = Link(url, lease=lease, lost=self._lose_all, has_locks=True)
        self._data = Link(url, lease=lease, lost=self._lose_server, has_locks=False)
        try:
            await self._require_session()
            await self.transact(ensure_schema())
            ((self._store,),) = await self.execute(_STORE)
        except BaseException:
            await self.close()
            raise
        self._checks = asyncio.create_task(self._check_forever())

    async def _require_session(self) -> None:
        """
        Validate that each connection has a session of its own at the server.

        Raises:
            JobError: a pooler shares sessions, so session locks have no effect.
        """

        def pid_of(connection: Connection) -> int:
            return int(connection.execute("SELECT pg_backend_pid()").fetchall()[0][0])

        def begin(connection: Connection) -> int:
            connection.execute("BEGIN")
            return pid_of(connection)

        for _ in range(_POOLER_CHECKS):
            pids = [
                await self._session.use(pid_of),
                await self._data.use(begin),
                await self._session.use(pid_of),
            ]
            await self._data.use(lambda connection: connection.execute("ROLLBACK"))
            if [pid == self._session.backend for pid in pids] != [True, False, True]:
                raise pooler_error()

    async def close(self) -> None:
        """Close both connections; see `Database.close`."""
        if self._checks is not None:
            self._checks.cancel()
            await until_ended(self._checks)
        await self._session.close()
        await self._data.close()

    async def execute(self, statement: Statement) -> Rows:
        """Execute a statement as a transaction of its own; see `Database.execute`."""
        return await self._data.use(lambda connection: _execute(connection, statement))

    async def commit(self, statements: Sequence[Statement], *, durable: bool) -> int:
        """Execute statements as one statement, in one exchange; see `Database.commit`."""
        key = durable, tuple(each.sql for each in statements)
        text = self._commits.get(key)
        if text is None:
            sqls = [_translate(each.sql) for each in statements]
            text = self._commits[key] = _combined(sqls, is_durable=durable)
        values = {
            f"{at}_{name}": value
            for at, each in enumerate(statements)
            for name, value in each.values.items()
        }

        def work(connection: Connection) -> int:
            return int(connection.execute(text, values).fetchall()[0][0])

        return await self._data.use(work)

    async def transact(self, steps: Steps[ResultT], *, is_long: bool = False) -> ResultT:
        """Execute steps as one transaction; see `Database.transact`."""

        def work(connection: Connection) -> ResultT:
            # no pipeline: if the connection breaks, psycopg logs a warning of its own for it
            with connection.transaction():
                return drive(steps, functools.partial(_execute, connection))

        return await self._data.use(work, is_long=is_long)

    async def lock(self, job: int, part: int) -> _PostgresLock | None:
        """Acquire the lock on a part; see `Database.lock`."""
        if (job, part) in self._locks:  # a session may lock again what it holds
            return None
        lock = self._locks[job, part] = _PostgresLock(self, job, part)
        key = _lock_class(self._store, job), part

        def work(connection: Connection) -> bool:
            values = self._session.backend, *key
            ((is_locked, is_standby),) = connection.execute(_LOCK, values).fetchall()
            if is_standby:
                raise ReadOnlySqlTransaction
            if is_locked is None:
                raise pooler_error()
            return bool(is_locked)

        sent_at = asyncio.get_running_loop().time()
        try:
            is_locked = await self._session.use(work)
        except BaseException:
            self._forget(lock)
            raise
        self._renew(sent_at)
        if is_locked:
            return lock
        self._forget(lock)
        return None

    async def unlock(self, lock: _PostgresLock) -> None:
        """Release a lock, unless it was released or lost."""
        key = _lock_class(self._store, lock.job), lock.part
        if not self._has(lock):
            return
        with contextlib.suppress(StoreUnavailableError):
            await self._session.use(lambda connection: connection.execute(_UNLOCK, key))
            # it stood in the way until now: an attempt to lock the part again would have succeeded
            self._forget(lock)

    def _forget(self, lock: _PostgresLock) -> None:
        if self._has(lock):
            del self._locks[lock.job, lock.part]
        if not self._locks:
            self._cancel_expiry()

    def _has(self, lock: _PostgresLock) -> bool:
        return self._locks.get((lock.job, lock.part)) is lock

    async def held(self, job: int, parts: Sequence[int]) -> set[int]:
        """Return those of a job's parts that a runner has locked; see `Database.held`."""

        def work(connection: Connection) -> set[int]:
            key = _lock_class(self._store, job)
            rows = connection.execute(_HOLDERS, (key,)).fetchall()
            return {int(part) for (part,) in rows}

        return (await self._data.use(work)).intersection(parts)

    async def _check_forever(self) -> None:
        """Verify in intervals that the session with the locks is alive."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(CHECKED * self._lease)
                sent_at = loop.time()
                with contextlib.suppress(StoreUnavailableError):
                    await self._session.use(lambda connection: connection.execute("SELECT 1"))
                    if self._locks:
                        self._renew(sent_at)

    def _renew(self, sent_at: float) -> None:
        """Schedule the loss of the locks, unless the session responds again."""
        self._cancel_expiry()
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_at(sent_at + HELD * self._lease, self._expire)

    def _expire(self) -> None:
        """End the session, too: a process that stood still would otherwise keep its locks."""
        self._lose_all()
        self._session.disconnect()

    def _cancel_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _lose_server(self) -> None:
        """Lose the locks with the connection for data: its next one may be to another server."""
        self._lose_all()
        self._session.reset()

    def _lose_all(self) -> None:
        self._cancel_expiry()
        locks, self._locks = self._locks, {}
        for lock in locks.values():
            lock.lose()


def _execute(connection: Connection, statement: Statement) -> Rows:
    text = _translate(statement.sql).encode()
    cursor = connection.cursor()
    if statement.rows is None:
        cursor.execute(text, statement.values)
    else:
        cursor.executemany(text, [{**statement.values, **row} for row in statement.rows])
    return [(cursor.rowcount,)] if cursor.description is None else cursor.fetchall()


def _combined(sqls: Sequence[str], *, is_durable: bool) -> bytes:
    """
    Return one statement that executes several, and counts the rows of the first one.

    The names of the parameters of each begin with its number. Unless the statement is durable, a
    crash of the server may undo the last second, but nothing else does.
    """
    changes = ", ".join(
        f"changes_{at} AS ({sql if sql.startswith('SELECT') else f'{sql} RETURNING 1'})".replace(
            "%(", f"%({at}_"
        )
        for at, sql in enumerate(sqls)
    )
    loose = "" if is_durable else ", set_config('synchronous_commit', 'off', true)"
    return f"WITH {changes} SELECT (SELECT count(*) FROM changes_0){loose}".encode()  # noqa: S608  ours


class _PostgresLock:
    """A session lock on one part; see `PartLock`."""

    def __init__(self, database: PostgresDatabase, job: int, part: int) -> None:
        self._database = database
        self.job, self.part = job, part
        self._is_lost = False
        self._lost: Callable[[], object] = lambda: None

    def watch(self, lost: Callable[[], object]) -> None:
        self._lost = lost
        if self._is_lost:
            lost()

    def lose(self) -> None:
        """Report that the lock may be lost."""
        self._is_lost = True
        self._lost()

    async def release(self) -> None:
        await self._database.unlock(self)
