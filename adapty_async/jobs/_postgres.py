"""
A job store in PostgreSQL, for workers on any number of machines.

Invariants:
- Two connections: one executes transactions, the other one holds the session locks on parts. Each
  has a thread of its own, which takes less of the processor than a connection of the event loop.
- A lock counts as lost `_HELD` of the lease after the last response to its connection. The server
  releases it after the whole lease, if the machine or the network of its worker is gone, or if the
  worker stands still.
- A connection that breaks is made again for the next statement, as is one that ended while it was
  idle, and one whose server can only be read: after a failover the address leads to another one.
- Locks are of the server that stores the data. If its connection breaks, the locks are lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar
from zlib import crc32

import psycopg
from psycopg.errors import ReadOnlySqlTransaction

from adapty_async._runtime.database import DatabaseThread
from adapty_async._runtime.postgres import connect_options, explain_failure, is_shared_by_pooler
from adapty_async._runtime.tasks import until_ended
from adapty_async.jobs._database import Dialect, Rows, Statement, Steps, drive
from adapty_async.jobs._errors import JobError, StoreUnavailableError
from adapty_async.jobs._schema import ensure_schema

__all__ = ("PostgresDatabase",)

ResultT = TypeVar("ResultT")

_Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"

# Shares of the lease: the interval of checks, and the time after which a lock counts as lost.
_CHECKED = 0.2
_HELD = 0.8
# Maximum seconds of a transaction of several steps, such as a plan of millions of items.
_LONG_SECONDS = 3600.0
# A pooler that others use, too, may by chance lend the same session twice.
_POOLER_CHECKS = 3
# SQLSTATEs of a connection that broke, and of others that may pass: a server that is read-only,
# such as after a failover or while its disk is full, and one that ends a transaction.
_DISCONNECTED = ("08", "57P")
_TEMPORARY = frozenset({"25006", "25P03", "25P04"})
_DIALECT = Dialect(
    serial="bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    data="bytea",
    real="double precision",
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
# The settings of a session, which do not depend on those of the server, the database or the role.
_SET_UP = (
    "SELECT pg_backend_pid(), set_config('tcp_keepalives_idle', %s, false),"
    " set_config('tcp_keepalives_interval', %s, false),"
    " set_config('tcp_keepalives_count', '3', false),"
    " set_config('synchronous_commit', 'on', false),"
    " set_config('default_transaction_isolation', 'read committed', false),"
    # before version 14 it did not exist
    " (SELECT set_config(name, %s, false) FROM pg_settings WHERE name = 'idle_session_timeout')"
)
# Each schema of a database may have a store, and the locks are those of the database.
_STORE = Statement("SELECT 'adapty_store'::regclass::bigint")
# Its row is NULL in the session of another process.
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


class _Wait:
    """
    A flag from a task for the thread that works for it.

    Attributes:
        has_ended: the task waits no longer, so that what has not begun has no effect.
    """

    def __init__(self) -> None:
        self.has_ended = False


class _Session:
    """
    A connection that is made again after it broke. One thread uses it.

    Args:
        url: the address of the database.
        lease: seconds after which both sides give up a connection without a response.
        has_locks: the server ends the session if it is idle for the whole lease. Otherwise it may
            be idle for any time, and one that has ended meanwhile is made again at once.

    Attributes:
        has_broken: the connection has broken; the link resets this after it has reported the loss.
        backend: the number of the server's process that responded first.
    """

    def __init__(self, url: str, lease: float, *, has_locks: bool) -> None:
        self._url = url
        self._lease = lease
        self._has_locks = has_locks
        self._connection: _Connection | None = None
        # a copy, so that another thread never shuts down a socket that took over the number
        self._socket: socket.socket | None = None
        self.has_broken = False
        self.backend = 0

    def use(self, work: Callable[[_Connection], ResultT], wait: _Wait) -> ResultT:
        """Use the connection, unless its caller has given up."""
        if not self._has_locks:
            self._drop_if_ended()
        connection = self._connection
        if connection is None and not wait.has_ended:
            connection = self._connected()
        if connection is None or wait.has_ended:
            raise psycopg.OperationalError("nobody waits for the result")
        try:
            return work(connection)
        except ReadOnlySqlTransaction:  # another server may have the address by now
            self._drop()
            raise
        finally:
            if connection.closed:
                self._drop()

    def _drop_if_ended(self) -> None:
        connection = self._connection
        if connection is None:
            return
        with contextlib.suppress(psycopg.OperationalError):
            for _ in range(2):  # the server's last words, and the end
                connection.pgconn.consume_input()
        if connection.closed:
            self._drop()

    def _connected(self) -> _Connection:
        # the server finds out that this machine is gone after idle + 3 * interval
        idle = max(1, round(0.4 * self._lease))
        interval = max(1, round(0.2 * self._lease))
        options = connect_options(self._url, connect=_CHECKED * self._lease, silence=self._lease)
        connection = psycopg.connect(
            self._url,
            autocommit=True,
            application_name="adapty-async job",
            client_encoding="UTF8",
            **options,
        )
        self._connection = connection
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        try:
            idle_timeout = f"{self._lease * 1000:.0f}" if self._has_locks else "0"
            values = str(idle), str(interval), idle_timeout
            ((self.backend, *_),) = connection.execute(_SET_UP, values).fetchall()
        except BaseException:
            self._drop()
            raise
        return connection

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, which may have broken meanwhile."""
        return self._socket is not None

    def _drop(self) -> None:
        self.close()
        self.has_broken = True

    def disconnect(self) -> None:
        """Break the connection, so that the server ends its session; from any thread."""
        copied = self._socket
        if copied is not None:
            with contextlib.suppress(OSError):  # it has been closed already
                copied.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        copied, self._socket = self._socket, None
        if connection is not None:
            connection.close()
        if copied is not None:
            copied.close()


class _Link:
    """
    A connection in a thread; one task at a time uses it.

    Args:
        url: the address of the database.
        lease: seconds after which both sides give up a connection without a response.
        lost: called when the connection has broken.
        has_locks: the connection holds locks.
    """

    def __init__(
        self, url: str, *, lease: float, lost: Callable[[], object], has_locks: bool
    ) -> None:
        self._lease = lease
        self._lost = lost
        self._turn = asyncio.Lock()
        self._session = session = _Session(url, lease, has_locks=has_locks)
        self._thread = DatabaseThread(lambda: session, "adapty-job-store", "the job store")

    async def use(
        self, work: Callable[[_Connection], ResultT], *, is_long: bool = False
    ) -> ResultT:
        """
        Use the connection in its thread; unless this is long, it ends within a share of the lease.

        Raises:
            StoreUnavailableError: there is no connection, or no response in time.
        """
        async with self._turn:
            wait = _Wait()
            done = self._thread.run(lambda session: session.use(work, wait))
            timers = self._timers(done, is_long=is_long)
            try:
                with _translated():
                    return await done
            except asyncio.CancelledError:
                wait.has_ended = True
                if is_long:
                    self.disconnect()
                if self._session.is_connected:
                    await self._until_idle()
                raise
            finally:
                wait.has_ended = True
                for timer in timers:
                    timer.cancel()
                if self._session.has_broken:
                    self._session.has_broken = False
                    self._lost()

    def _timers(
        self, done: asyncio.Future[Any], *, is_long: bool
    ) -> tuple[asyncio.TimerHandle, ...]:
        loop = asyncio.get_running_loop()
        seconds = (_HELD - _CHECKED) * self._lease
        return (
            loop.call_later(_LONG_SECONDS if is_long else seconds, self.disconnect),
            loop.call_later(seconds, self._give_up, done),
        )

    def _give_up(self, done: asyncio.Future[Any]) -> None:
        """Wait no longer for a connection: to find out that there is none may take libpq longer."""
        if not (self._session.is_connected or done.done()):
            done.set_exception(TimeoutError())

    async def _until_idle(self) -> None:
        """Wait until the thread has ended what it was given."""
        idle = self._thread.run(lambda _: None)
        await until_ended(asyncio.gather(idle, return_exceptions=True))

    @property
    def backend(self) -> int:
        """The number of the server's process that responded first on this connection."""
        return self._session.backend

    def disconnect(self) -> None:
        """Break the connection, so that the server ends its session; its use fails."""
        self._session.disconnect()

    def reset(self) -> None:
        """Close the connection after its present use; the next use makes another one."""
        closing = self._thread.run(lambda session: session.close())
        closing.add_done_callback(asyncio.Future.exception)  # that of a thread that was stopped

    async def close(self) -> None:
        """Close the connection, without regard to its use. A second call does nothing."""
        if self._turn.locked():
            self.disconnect()
        ending = self._thread.run(lambda session: session.close())
        self._thread.stop()
        self._lost()
        # its error is that of a thread that was stopped before
        await until_ended(asyncio.gather(ending, return_exceptions=True))


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
        self._session: _Link  # set by `open`, as is the next
        self._data: _Link
        self._store: int  # the number of its tables in the database, set by `open`
        self._locks: dict[tuple[int, int], _PostgresLock] = {}
        self._texts: dict[str, bytes] = {}
        self._commits: dict[tuple[bool, tuple[str, ...]], bytes] = {}
        self._checks: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Connect, and create the tables if there are none; see `Database.open`."""
        url, lease = self._url, self._lease
        self._session = _Link(url, lease=lease, lost=self._lose_all, has_locks=True)
        self._data = _Link(url, lease=lease, lost=self._lose_server, has_locks=False)
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

        def pid_of(connection: _Connection) -> int:
            return int(connection.execute("SELECT pg_backend_pid()").fetchall()[0][0])

        def begin(connection: _Connection) -> int:
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
                raise _pooler_error()

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

        def work(connection: _Connection) -> list[Rows]:
            # no pipeline: if the connection breaks, psycopg logs a warning of its own for it
            with connection.transaction():
                return [self._execute(connection, each) for each in statements]

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

        def work(connection: _Connection) -> int:
            return int(connection.execute(text, values).fetchall()[0][0])

        return await self._data.use(work)

    async def transact(self, steps: Steps[ResultT], *, is_long: bool = False) -> ResultT:
        """Execute steps as one transaction; see `Database.transact`."""

        def work(connection: _Connection) -> ResultT:
            with connection.transaction():
                return drive(steps, functools.partial(self._execute, connection))

        return await self._data.use(work, is_long=is_long)

    def _execute(self, connection: _Connection, statement: Statement) -> Rows:
        text = self._texts.get(statement.sql)
        if text is None:
            text = self._texts[statement.sql] = _DIALECT.translate(statement.sql).encode()
        cursor = connection.cursor()
        if statement.rows is None:
            cursor.execute(text, statement.values)
        else:
            cursor.executemany(text, [{**statement.values, **row} for row in statement.rows])
        return [(cursor.rowcount,)] if cursor.description is None else cursor.fetchall()

    async def lock(self, job: int, part: int) -> _PostgresLock | None:
        """Acquire the lock on a part; see `Database.lock`."""
        if (job, part) in self._locks:  # a session may lock again what it holds
            return None
        lock = self._locks[job, part] = _PostgresLock(self, job, part)
        key = _lock_class(self._store, job), part

        def work(connection: _Connection) -> bool:
            values = self._session.backend, *key
            ((is_locked, is_standby),) = connection.execute(_LOCK, values).fetchall()
            if is_standby:
                raise ReadOnlySqlTransaction
            if is_locked is None:
                raise _pooler_error()
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
        """Release a lock, unless that has been done."""
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

        def work(connection: _Connection) -> set[int]:
            key = _lock_class(self._store, job)
            rows = connection.execute(_HOLDERS, (key,)).fetchall()
            return {int(part) for (part,) in rows}

        return (await self._data.use(work)).intersection(parts)

    async def _check_forever(self) -> None:
        """Verify in intervals that the session with the locks is alive."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(_CHECKED * self._lease)
                sent_at = loop.time()
                with contextlib.suppress(StoreUnavailableError):
                    await self._session.use(lambda connection: connection.execute("SELECT 1"))
                    if self._locks:
                        self._renew(sent_at)

    def _renew(self, sent_at: float) -> None:
        """Schedule the loss of the locks, unless the session responds again."""
        self._cancel_expiry()
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_at(sent_at + _HELD * self._lease, self._expire)

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
    """A session lock on one part."""

    def __init__(self, database: PostgresDatabase, job: int, part: int) -> None:
        self._database = database
        self.job, self.part = job, part
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
            await self._database.unlock(self)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Translate errors of psycopg, whose texts may quote values, to errors of the store."""
    try:
        yield
    except TimeoutError:
        raise StoreUnavailableError("the job store cannot be reached in time") from None
    except psycopg.Error as error:
        if is_shared_by_pooler(error):
            raise _pooler_error() from None
        state, what = error.sqlstate, explain_failure(error)
        is_operational = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        if is_operational and (state is None or state.startswith(_DISCONNECTED)):
            raise StoreUnavailableError(f"the job store cannot be reached: {what}") from None
        if is_operational or state in _TEMPORARY:
            raise StoreUnavailableError(f"the job store cannot be used now: {what}") from None
        raise JobError(f"the job store cannot be used: {what}") from None


def _pooler_error() -> JobError:
    return JobError(
        "the job store is behind a pooler that shares sessions, such as PgBouncer in"
        " transaction or statement mode: session locks need a direct connection, or session mode"
    )
