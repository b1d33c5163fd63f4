"""
A job store in PostgreSQL, for workers on any number of machines.

Invariants:
- Two connections: one executes transactions, the other one holds the session locks on parts.
- A lock counts as lost `_HELD` of the lease after the last response to its connection. The server
  releases it after the whole lease, if the machine or the network of its worker is gone.
- A connection that breaks is made again for the next statement.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar
from zlib import crc32

import psycopg
from psycopg import AsyncConnection, AsyncCursor

from adapty_async._runtime.tasks import until_ended
from adapty_async.jobs._database import Dialect, Rows, Statement, Steps
from adapty_async.jobs._errors import JobError, StoreUnavailableError
from adapty_async.jobs._schema import ensure_schema

__all__ = ("PostgresDatabase",)

ResultT = TypeVar("ResultT")

# Shares of the lease: the interval of checks, and the time after which a lock counts as lost.
_CHECKED = 0.2
_HELD = 0.8
# Maximum seconds of a transaction of several steps, such as a plan of millions of items.
_LONG_SECONDS = 3600.0
_DIALECT = Dialect(
    serial="bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    data="bytea",
    real="double precision",
    loose="WITH (fillfactor = 50)",
    share="FOR SHARE OF part",
    update="FOR UPDATE OF part",
    now="extract(epoch FROM clock_timestamp())::double precision",
    exists="SELECT 1 WHERE to_regclass('adapty_store') IS NOT NULL",
    snapshot="SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    guard="SELECT pg_advisory_xact_lock(4702394921090429793)",  # "Adapty" in eight bytes
    parameter=r"%(\1)s",
)
_LOCK = "SELECT pg_try_advisory_lock(%s, %s)"
_UNLOCK = "SELECT pg_advisory_unlock(%s, %s)"
_HOLDERS = (
    "SELECT objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted"
    " AND classid::bigint = %s"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def _lock_class(job: int) -> int:
    """Return the first number of the locks of a job, which other programs hardly use."""
    return crc32(f"adapty_job {job}".encode()) >> 1


class _Link:
    """
    A connection that is made again after it broke; one task at a time uses it.

    Args:
        url: the address of the database.
        lease: seconds after which both sides give up a connection without a response.
        lost: called when the connection has broken.
    """

    def __init__(
        self, url: str, *, lease: float, lost: Callable[[], object] = lambda: None
    ) -> None:
        self._url = url
        self._lease = lease
        self._lost = lost
        self._turn = asyncio.Lock()
        self._connection: AsyncConnection[Any] | None = None

    async def use(
        self,
        work: Callable[[AsyncConnection[Any]], Awaitable[ResultT]],
        *,
        is_long: bool = False,
    ) -> ResultT:
        """
        Use the connection; unless this is long, it ends within a share of the lease.

        Raises:
            StoreUnavailableError: there is no connection, or no response in time.
        """
        async with self._turn:
            with _translated():
                connection = await self._connected()
                seconds = _LONG_SECONDS if is_long else (_HELD - _CHECKED) * self._lease
                loop = asyncio.get_running_loop()
                timer = loop.call_later(seconds, _disconnect, connection)
                try:
                    return await work(connection)
                finally:
                    timer.cancel()
                    if connection.closed:
                        self._drop()

    async def _connected(self) -> AsyncConnection[Any]:
        if self._connection is None:
            # the server finds out that this machine is gone after idle + 3 * interval
            idle = max(1, round(0.4 * self._lease))
            interval = max(1, round(0.2 * self._lease))
            async with asyncio.timeout(_CHECKED * self._lease):
                connection = await AsyncConnection.connect(
                    self._url,
                    autocommit=True,
                    application_name="adapty-async job",
                    keepalives_idle=idle,
                    keepalives_interval=interval,
                    keepalives_count=3,
                )
                self._connection = connection
                await connection.execute(
                    "SELECT set_config('tcp_keepalives_idle', %s, false),"
                    " set_config('tcp_keepalives_interval', %s, false),"
                    " set_config('tcp_keepalives_count', '3', false),"
                    " set_config('synchronous_commit', 'on', false)",
                    (str(idle), str(interval)),
                )
        return self._connection

    def _drop(self) -> None:
        self._connection = None
        self._lost()

    def disconnect(self) -> None:
        """Break the connection, so that the server ends its session; its next use fails."""
        if self._connection is not None:
            _disconnect(self._connection)

    async def close(self) -> None:
        """Close the connection, without regard to its use."""
        connection = self._connection
        if connection is not None:
            self._drop()
            await connection.close()


class PostgresDatabase:
    """
    A job store in PostgreSQL; see `adapty_async.jobs._database.Database`.

    Args:
        url: the address of the database.
        lease: seconds after which the server releases the locks of a worker that is gone.
    """

    def __init__(self, url: str, *, lease: float) -> None:
        self._lease = lease
        self._data = _Link(url, lease=lease)
        self._session = _Link(url, lease=lease, lost=self._lose_all)
        self._locks: dict[tuple[int, int], _PostgresLock] = {}
        self._texts: dict[str, bytes] = {}
        self._commits: dict[tuple[bool, tuple[str, ...]], bytes] = {}
        self._checks: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Connect, and create the tables if there are none; see `Database.open`."""
        try:
            await self._require_session()
            await self.transact(ensure_schema())
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

        async def pid_of(connection: AsyncConnection[Any]) -> int:
            cursor = await connection.execute("SELECT pg_backend_pid()")
            return int((await cursor.fetchall())[0][0])

        async def busy_pid(connection: AsyncConnection[Any]) -> tuple[int, int, int]:
            before = await self._session.use(pid_of)
            async with connection.transaction():
                other = await pid_of(connection)
                return before, other, await self._session.use(pid_of)

        before, other, after = await self._data.use(busy_pid)
        if other == before or after != before:
            raise JobError(
                "the job store is behind a pooler that shares sessions, such as PgBouncer in"
                " transaction mode: session locks need a direct connection, or session mode"
            )

    async def close(self) -> None:
        """Close both connections; see `Database.close`."""
        if self._checks is not None:
            self._checks.cancel()
            await until_ended(self._checks)
        await self._session.close()
        await self._data.close()

    async def execute(self, statement: Statement) -> Rows:
        """Execute a statement as a transaction of its own; see `Database.execute`."""
        return await self._data.use(lambda connection: self._execute(connection, statement))

    async def execute_all(self, statements: Sequence[Statement]) -> list[Rows]:
        """Execute statements as one transaction; see `Database.execute_all`."""

        async def work(connection: AsyncConnection[Any]) -> list[Rows]:
            async with connection.pipeline(), connection.transaction():
                cursors = [await self._sent(connection, each) for each in statements]
            return [await _rows_of(cursor) for cursor in cursors]

        return await self._data.use(work)

    async def commit(self, statements: Sequence[Statement], *, durable: bool) -> int:
        """Execute statements as one statement, in one exchange; see `Database.commit`."""
        key = durable, tuple(each.sql for each in statements)
        text = self._commits.get(key)
        if text is None:
            sqls = [_DIALECT.translate(each.sql) for each in statements]
            text = self._commits[key] = _combined(sqls, is_durable=durable)
        values = {
            f"{at}_{name}": value
            for at, each in enumerate(statements)
            for name, value in each.values.items()
        }

        async def work(connection: AsyncConnection[Any]) -> int:
            cursor = await connection.execute(text, values)
            return int((await cursor.fetchall())[0][0])

        return await self._data.use(work)

    async def transact(self, steps: Steps[ResultT]) -> ResultT:
        """Execute steps as one transaction; see `Database.transact`."""

        async def work(connection: AsyncConnection[Any]) -> ResultT:
            async with connection.transaction():
                return await self._drive(connection, steps)

        return await self._data.use(work, is_long=True)

    async def _drive(self, connection: AsyncConnection[Any], steps: Steps[ResultT]) -> ResultT:
        try:
            statement = next(steps)
            while True:
                rows = await self._execute(connection, statement)
                statement = steps.send(rows)
        except StopIteration as end:
            result: ResultT = end.value
            return result

    async def _execute(self, connection: AsyncConnection[Any], statement: Statement) -> Rows:
        return await _rows_of(await self._sent(connection, statement))

    async def _sent(
        self, connection: AsyncConnection[Any], statement: Statement
    ) -> AsyncCursor[tuple[Any, ...]]:
        text = self._texts.get(statement.sql)
        if text is None:
            text = self._texts[statement.sql] = _DIALECT.translate(statement.sql).encode()
        cursor = connection.cursor()
        if statement.rows is None:
            await cursor.execute(text, statement.values)
        else:
            await cursor.executemany(text, [{**statement.values, **row} for row in statement.rows])
        return cursor

    async def lock(self, job: int, part: int) -> _PostgresLock | None:
        """Acquire the lock on a part; see `Database.lock`."""
        key = _lock_class(job), part

        async def work(connection: AsyncConnection[Any]) -> _PostgresLock | None:
            if (job, part) in self._locks:  # a session may lock again what it holds
                return None
            cursor = await connection.execute(_LOCK, key)
            ((is_locked,),) = await cursor.fetchall()
            if not is_locked:
                return None
            lock = self._locks[job, part] = _PostgresLock(self, job, part)
            return lock

        sent_at = asyncio.get_running_loop().time()
        lock = await self._session.use(work)
        self._renew(sent_at)
        return lock

    async def unlock(self, job: int, part: int) -> None:
        """Release a lock if this process has it."""

        async def work(connection: AsyncConnection[Any]) -> None:
            # it stands in the way until then: an attempt to lock the part again would succeed
            await connection.execute(_UNLOCK, (_lock_class(job), part))
            self._locks.pop((job, part), None)

        if (job, part) in self._locks:  # otherwise the session has ended
            with contextlib.suppress(StoreUnavailableError):
                await self._session.use(work)

    async def held(self, job: int, parts: Sequence[int]) -> set[int]:
        """Return those of a job's parts that a runner has locked; see `Database.held`."""

        async def work(connection: AsyncConnection[Any]) -> set[int]:
            cursor = await connection.execute(_HOLDERS, (_lock_class(job),))
            return {int(part) for (part,) in await cursor.fetchall()}

        return (await self._data.use(work)).intersection(parts)

    async def _check_forever(self) -> None:
        """Verify in intervals that the session with the locks is alive."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(_CHECKED * self._lease)
                if self._locks:
                    sent_at = loop.time()
                    with contextlib.suppress(StoreUnavailableError):
                        await self._session.use(lambda connection: connection.execute("SELECT 1"))
                        self._renew(sent_at)

    def _renew(self, sent_at: float) -> None:
        """Schedule the loss of the locks, unless the session responds again."""
        if self._expiry is not None:
            self._expiry.cancel()
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_at(sent_at + _HELD * self._lease, self._expire)

    def _expire(self) -> None:
        """End the session, too: a process that stood still would otherwise keep its locks."""
        if self._locks:  # a session without any is not checked, and may be used later
            self._lose_all()
            self._session.disconnect()

    def _lose_all(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        locks, self._locks = self._locks, {}
        for lock in locks.values():
            lock.lose()


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


async def _rows_of(cursor: AsyncCursor[tuple[Any, ...]]) -> Rows:
    return [(cursor.rowcount,)] if cursor.description is None else await cursor.fetchall()


class _PostgresLock:
    """A session lock on one part."""

    def __init__(self, database: PostgresDatabase, job: int, part: int) -> None:
        self._database = database
        self._job, self._part = job, part
        self._is_lost = False
        self._lost: Callable[[], object] = lambda: None

    def watch(self, lost: Callable[[], object]) -> None:
        """Call a function when the lock may be lost; see `PartLock.watch`."""
        self._lost = lost
        if self._is_lost:
            lost()

    def lose(self) -> None:
        """Report that the lock may be lost."""
        self._is_lost = True
        self._lost()

    async def release(self) -> None:
        """Release the lock; see `PartLock.release`."""
        if not self._is_lost:
            await self._database.unlock(self._job, self._part)


def _disconnect(connection: AsyncConnection[Any]) -> None:
    """
    Shut down the socket of a connection, so that its use fails at once.

    A cancellation would wait some seconds for the server, which does not respond.
    """
    with (
        contextlib.suppress(OSError, psycopg.Error),  # it has been closed already
        socket.socket(fileno=os.dup(connection.fileno())) as copied,
    ):
        copied.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Translate errors of psycopg, whose texts may quote values, to errors of the store."""
    try:
        yield
    except TimeoutError:
        raise StoreUnavailableError("the job store cannot be reached in time") from None
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        what = error.sqlstate or "no connection"
        raise StoreUnavailableError(f"the job store cannot be reached ({what})") from None
    except psycopg.Error as error:
        what = f"{type(error).__name__}, SQLSTATE {error.sqlstate}"
        raise JobError(f"the job store cannot be used: {what}") from None
