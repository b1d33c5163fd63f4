"""
A connection to PostgreSQL in a thread, which takes less of the processor than in the event loop.

A connection that breaks is made again for the next statement, as is one that ended while it was
idle, and one whose server can only be read: after a failover the address leads to another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg.errors import ReadOnlySqlTransaction

from adapty_async._runtime.database import DatabaseThread
from adapty_async._runtime.loop import until_ended
from adapty_async._runtime.postgres import (
    NO_RESPONSE,
    connect_options,
    explain_failure,
    is_shared_by_pooler,
)
from adapty_async.jobs._errors import JobError, StoreUnavailableError

ResultT = TypeVar("ResultT")

#: A connection of psycopg.
Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"

#: Shares of the lease: the interval of checks, and the time after which a lock counts as lost.
CHECKED = 0.2
HELD = 0.8
# Seconds after the failure to connect in which nothing connects again. Each use that waited for it
# fails, too, and need not wait for a connection of its own.
_PAUSE_SECONDS = 0.5
# Maximum seconds of a transaction of several steps, such as a plan of millions of items.
_LONG_SECONDS = 3600.0
# SQLSTATEs of a connection that broke, and of others that may pass: a server that is read-only,
# such as after a failover or while its disk is full, and one that ends a transaction.
_DISCONNECTED = ("08", "57P")
_TEMPORARY = frozenset({"25006", "25P03", "25P04"})
# The settings of a session, which do not depend on those of the server, the database or the role.
_SET_UP = (
    "SELECT pg_backend_pid(), set_config('tcp_keepalives_idle', %s, false),"
    " set_config('tcp_keepalives_interval', %s, false),"
    " set_config('tcp_keepalives_count', '3', false),"
    " set_config('synchronous_commit', 'on', false),"
    " set_config('default_transaction_isolation', 'read committed', false),"
    # the link has timeouts of its own, and a transaction of millions of items takes long
    " set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false),"
    # that of a worker which stands still would lock its parts against all others
    " set_config('idle_in_transaction_session_timeout', %s, false),"
    # before versions 14 and 17 they did not exist
    " (SELECT set_config(name, %s, false) FROM pg_settings WHERE name = 'idle_session_timeout'),"
    " (SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout')"
)


class _Wait:
    """
    A flag from a task for the thread that works for it.

    Attributes:
        has_ended: the task waits no longer, so that what has not begun has no effect.
        is_late: the time is over, and the connection was broken for that.
    """

    def __init__(self) -> None:
        self.has_ended = False
        self.is_late = False


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
        failed_at: when the last attempt to connect failed, on the monotonic clock.
        backend: the number of the server's process that responded first.
    """

    def __init__(self, url: str, lease: float, *, has_locks: bool) -> None:
        self._url = url
        self._lease = lease
        self._has_locks = has_locks
        self._connection: Connection | None = None
        # a copy, so that another thread never shuts down a socket that took over the number
        self._socket: socket.socket | None = None
        self.has_broken = False
        self.failed_at = -math.inf
        self.backend = 0

    def use(self, work: Callable[[Connection], ResultT], wait: _Wait) -> ResultT:
        """Use the connection, unless its caller has given up."""
        if not self._has_locks:
            self._drop_if_ended()
        connection = self._connection
        if connection is None and not wait.has_ended:
            connection = self._new_connection()
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

    def _new_connection(self) -> Connection:
        try:
            return self._connected()
        except psycopg.Error:
            self.failed_at = time.monotonic()
            raise

    def _connected(self) -> Connection:
        # the server finds out that this machine is gone after idle + 3 * interval
        idle = max(1, round(0.4 * self._lease))
        interval = max(1, round(0.2 * self._lease))
        options = connect_options(self._url, connect=CHECKED * self._lease, silence=self._lease)
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
            lease = f"{self._lease * 1000:.0f}"
            values = str(idle), str(interval), lease, lease if self._has_locks else "0"
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
        connection, self._connection = self._connection, None
        copied, self._socket = self._socket, None
        if connection is not None:
            connection.close()
        if copied is not None:
            copied.close()


class Link:
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
        self._failure = ""  # the text of the last one
        self._session = session = _Session(url, lease, has_locks=has_locks)
        self._thread = DatabaseThread(lambda: session, "adapty-job-store", "the job store")

    async def use(self, work: Callable[[Connection], ResultT], *, is_long: bool = False) -> ResultT:
        """
        Use the connection in its thread; unless this is long, it ends within a share of the lease.

        Raises:
            StoreUnavailableError: there is no connection, or no response in time.
        """
        async with self._turn:
            if time.monotonic() - self._session.failed_at < _PAUSE_SECONDS:
                raise StoreUnavailableError(self._failure)
            wait = _Wait()
            done = self._thread.run(lambda session: session.use(work, wait))
            timers = self._timers(done, wait, is_long=is_long)
            try:
                with _translated(wait):
                    return await done
            except StoreUnavailableError as error:
                self._failure = str(error)
                raise
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
        self, done: asyncio.Future[Any], wait: _Wait, *, is_long: bool
    ) -> tuple[asyncio.TimerHandle, ...]:
        loop = asyncio.get_running_loop()
        seconds = (HELD - CHECKED) * self._lease
        return (
            loop.call_later(seconds, self._give_up, done),  # first: the other one disconnects
            loop.call_later(_LONG_SECONDS if is_long else seconds, self._break_late, wait),
        )

    def _break_late(self, wait: _Wait) -> None:
        wait.is_late = True
        self.disconnect()

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


@contextlib.contextmanager
def _translated(wait: _Wait) -> Iterator[None]:
    """Translate errors of psycopg, whose texts may quote values, to errors of the store."""
    try:
        yield
    except TimeoutError:
        raise StoreUnavailableError(f"the job store {NO_RESPONSE}") from None
    except psycopg.Error as error:
        if wait.is_late:
            raise StoreUnavailableError(f"the job store {NO_RESPONSE}") from None
        if is_shared_by_pooler(error):
            raise pooler_error() from None
        state, what = error.sqlstate, explain_failure(error)
        is_operational = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        if is_operational and (state is None or state.startswith(_DISCONNECTED)):
            raise StoreUnavailableError(f"the job store cannot be reached: {what}") from None
        if is_operational or state in _TEMPORARY:
            raise StoreUnavailableError(f"the job store cannot be used now: {what}") from None
        raise JobError(f"the job store cannot be used: {what}") from None


def pooler_error() -> JobError:
    """Return the error of a pooler that shares sessions."""
    return JobError(
        "the job store is behind a pooler that shares sessions, such as PgBouncer in"
        " transaction or statement mode: session locks need a direct connection, or session mode"
    )
