"""A store of shared rates in a PostgreSQL database."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import SerializationFailure, UndefinedTable

from adapty_async._runtime.postgres import explain_failure
from adapty_async._shared.store import TIMEOUT, Change, Loaded
from adapty_async.errors import ConfigError, StoreError

__all__ = ("PostgresStore",)

T = TypeVar("T")

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
# Seconds until a cancelled command is cancelled again: psycopg first asks the server to stop.
_CANCEL = 0.1


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
            conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            raise ConfigError("url is not a valid URL of PostgreSQL") from None
        self._url = url
        self._has_table = False
        self._lock = asyncio.Lock()  # a command that takes too long closes the connection
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None

    async def open(self) -> None:
        """Connect, and create the table if there is none; raise if it is only readable."""
        await self._within(self._connected())
        await self.swap([])

    async def _create(self, connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
        row = await (await connection.execute(_EXISTS)).fetchone()
        if row != (True,):
            await connection.execute(_CREATE)

    async def load(self, keys: Sequence[str]) -> list[Loaded]:
        """Return the values of keys, in their order."""
        return [Loaded(*row) for row in await self._within(self._fetch(_LOAD, [*keys]))]

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        """Store each value whose key still has its `version`; return which ones had it."""
        keys = [change.key for change in changes]
        versions = [change.version + 1 for change in changes]
        values = [change.value for change in changes]
        swapped = await self._within(self._swap(keys, versions, values))
        return [(key,) in swapped for key in keys]

    async def _swap(self, *arguments: list[Any]) -> list[tuple[Any, ...]]:
        try:
            return await self._fetch(_SWAP, *arguments)
        except SerializationFailure:  # others were faster, and the database isolates transactions
            return []

    async def _fetch(self, command: LiteralString, *arguments: list[Any]) -> list[tuple[Any, ...]]:
        cursor = await (await self._connected()).execute(command, arguments)
        return await cursor.fetchall()

    async def _connected(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            self._connection = await psycopg.AsyncConnection.connect(
                self._url, autocommit=True, prepare_threshold=None
            )
        if not self._has_table:
            await self._create(self._connection)
            self._has_table = True
        return self._connection

    async def _within(self, work: Coroutine[Any, Any, T]) -> T:
        async with self._lock:
            return await self._result_in_time(work)

    async def _result_in_time(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        try:
            if await _ends_in_time(task):
                return task.result()
            failure = StoreError("PostgreSQL does not respond")
        except psycopg.Error as error:
            cause = explain_failure(error)
            failure = StoreError(f"PostgreSQL is down, or rejected a command: {cause}")
            self._has_table = self._has_table and not isinstance(error, UndefinedTable)
        # after a failover, another server may have the address of one that is only readable
        await self.aclose()
        raise failure

    async def aclose(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None


async def _ends_in_time(task: asyncio.Task[Any]) -> bool:
    """Wait for a task, and cancel it if it takes too long; return whether it did not."""
    try:
        await asyncio.wait({task}, timeout=TIMEOUT)
        return task.done()
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_CANCEL)
