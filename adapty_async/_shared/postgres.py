"""A store of shared rates in a PostgreSQL database."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Coroutine, Sequence
from typing import Any, LiteralString, TypeAlias, TypeVar

import psycopg
from psycopg.errors import SerializationFailure, UndefinedTable

from adapty_async._runtime.postgres import NO_RESPONSE, connect_options, explain_failure
from adapty_async._shared.store import START_TIMEOUT, TIMEOUT, Change, Loaded, cancel, ends_in_time
from adapty_async.errors import ConfigError, StoreError

T = TypeVar("T")
_Connection: TypeAlias = "psycopg.AsyncConnection[tuple[Any, ...]]"

_EXISTS = "select to_regclass('adapty_shared_rate') is not null"
# One statement, since a pooler may allow no transaction of several.
_CREATE = (
    "do $$ begin"
    " perform pg_advisory_xact_lock(1633968496);"  # several processes may start at once
    " create unlogged table if not exists adapty_shared_rate"
    " (key text primary key, version bigint not null, value bytea not null);"
    " end $$"
)
_LOAD = (
    "select coalesce(version, 0), value, extract(epoch from clock_timestamp())::float8"
    " from unnest(%s::text[]) with ordinality as asked (key, number)"
    " left join adapty_shared_rate using (key) order by number"
)
# Everybody locks rows in the order of their keys, so that nobody waits for the other in a circle.
_SWAP = (
    "insert into adapty_shared_rate as old"
    " select * from unnest(%s::text[], %s::bigint[], %b::bytea[]) as new (key, version, value)"
    " where version = 1 or exists (select from adapty_shared_rate as one where one.key = new.key)"
    " order by key"
    " on conflict (key) do update set version = excluded.version, value = excluded.value"
    " where old.version = excluded.version - 1 returning key"
)
# Seconds to ask the server to stop a command.
_CANCEL = 0.1
# Seconds to connect to all hosts of the address, and without a packet from the server's machine.
_CONNECT, _SILENCE = 2.0, 10.0


class PostgresStore:
    """
    A `Store` in a PostgreSQL database: a row for each key in a table that is not logged.

    It works behind a connection pooler as well, since it uses no prepared statement and no setting
    of the session.

    Args:
        url: the address, as ``postgresql://[user[:password]@]host[:port]/database``.

    Raises:
        ConfigError: the URL is not valid.
    """

    def __init__(self, url: str) -> None:
        try:
            self._options = connect_options(url, connect=_CONNECT, silence=_SILENCE)
        except psycopg.ProgrammingError:
            raise ConfigError("url is not a valid URL of PostgreSQL") from None
        self._url = url
        self._has_table = False
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None

    async def open(self) -> None:
        """Connect, and create the table if there is none; raise if it is only readable."""
        await self._connect()
        await self._within(self._connected(), START_TIMEOUT)
        await self._within(self._swap([], [], []), START_TIMEOUT)

    async def _connect(self) -> asyncio.Task[_Connection]:
        """Wait until there is a connection, or none of the hosts of the address has one."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._new_connection())
        connecting = self._connecting
        await asyncio.wait({connecting})
        return connecting

    async def _new_connection(self) -> _Connection:
        return await psycopg.AsyncConnection.connect(
            self._url, autocommit=True, prepare_threshold=None, **self._options
        )

    async def _create(self, connection: _Connection) -> None:
        row = await (await connection.execute(_EXISTS)).fetchone()
        if row != (True,):
            await connection.execute(_CREATE)

    async def load(self, keys: Sequence[str]) -> list[Loaded]:
        """Return the values of keys, in their order."""
        return [Loaded(*row) for row in await self._within(self._fetch(_LOAD, [*keys]), TIMEOUT)]

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        """Store each value whose key still has its `version`; return which ones had it."""
        keys = [change.key for change in changes]
        versions = [change.version + 1 for change in changes]
        values = [change.value for change in changes]
        swapped = await self._within(self._swap(keys, versions, values), TIMEOUT)
        return [(key,) in swapped for key in keys]

    async def _swap(self, *arguments: list[Any]) -> list[tuple[Any, ...]]:
        try:
            return await self._fetch(_SWAP, *arguments)
        except SerializationFailure:  # others were faster, and the database isolates transactions
            return []

    async def _fetch(self, command: LiteralString, *arguments: list[Any]) -> list[tuple[Any, ...]]:
        cursor = await (await self._connected()).execute(command, arguments)
        return await cursor.fetchall()

    async def _connected(self) -> _Connection:
        if self._connection is None or self._connection.closed:
            # without a result in time, the next command waits for the same connection: the first
            # host of several may be gone
            connecting = await self._connect()
            self._connecting = None
            self._connection = connecting.result()
        if not self._has_table:
            await self._create(self._connection)
            self._has_table = True
        return self._connection

    async def _within(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        task = asyncio.ensure_future(work)
        try:
            if await self._ends_in_time(task, seconds):
                return task.result()
            failure = StoreError(f"PostgreSQL {NO_RESPONSE}")
        except psycopg.Error as error:
            cause = explain_failure(error)
            failure = StoreError(f"PostgreSQL is down, or rejected a command: {cause}")
            self._has_table = self._has_table and not isinstance(error, UndefinedTable)
        # after a failover, another server may have the address of one that is only readable
        await self._disconnect()
        raise failure

    async def _ends_in_time(self, task: asyncio.Task[Any], seconds: float) -> bool:
        """Wait for a task, and end it if it takes too long; return whether it did not."""
        try:
            return await ends_in_time(task, seconds)
        finally:
            if not task.done() and self._connection is not None:
                await _abort(self._connection)
                await asyncio.wait({task}, timeout=_CANCEL)
            await cancel(task)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def aclose(self) -> None:
        """Close the connection."""
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            await cancel(connecting)
            if not connecting.cancelled() and connecting.exception() is None:
                await connecting.result().close()
        await self._disconnect()


async def _abort(connection: _Connection) -> None:
    """
    Ask the server to stop a command, and break the connection, so that the command fails.

    The cancellation of its task does that, too, and writes warnings to psycopg's log.
    """
    with contextlib.suppress(psycopg.Error, OSError):
        with contextlib.suppress(psycopg.Error, TimeoutError):
            async with asyncio.timeout(_CANCEL):
                await connection.cancel_safe()
        with socket.socket(fileno=os.dup(connection.fileno())) as copied:
            copied.shutdown(socket.SHUT_RDWR)
