"""A store of shared rates in a server of Redis' protocol, such as Redis, Valkey or KeyDB."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Sequence
from typing import Any

import redis.asyncio
import redis.exceptions
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from adapty_async._shared.redis_errors import explain_failure
from adapty_async._shared.store import START_TIMEOUT, TIMEOUT, Change, Loaded, cancel, ends_in_time
from adapty_async.errors import ConfigError, StoreError

# Each runs without any other command in between, and has one key: a cluster accepts no script with
# keys of different nodes. The time is a string, as numbers become integers. A damaged hash is
# deleted, since it would stop the other keys as well.
_LOAD = """
local now = redis.call('TIME')
local found = redis.pcall('HMGET', KEYS[1], 'version', 'value')
if found.err or (found[1] and not string.find(found[1], '^[1-9]%d*$')) then
    redis.call('DEL', KEYS[1])
    found = {}
end
return {found[1] or '0', found[2] or false, now[1] .. '.' .. string.format('%06d', now[2])}
"""
_SWAP = """
if (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'value', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""
# Milliseconds after which an unused value expires: a day.
_EXPIRY = 24 * 60 * 60 * 1000
# The exchanges depend on these; the URL of an application may have other ones in its query.
_OPTIONS = {
    "socket_timeout": None,  # see `ends_in_time`
    "socket_connect_timeout": None,
    "retry": Retry(NoBackoff(), 0),  # a member does that
    "decode_responses": False,
}
# Keys that are stored at the start: a node of a cluster rejects those of other nodes.
_FIRST_KEYS = 16


class RedisStore:
    """
    A `Store` in a server of Redis' protocol: a hash for each key, and a pipeline of scripts.

    Args:
        url: the address, as ``redis://[[user]:password@]host[:port][/database]``, ``rediss://`` for
            TLS, or ``unix://`` with the path of a socket.

    Raises:
        ConfigError: the URL is not valid.
    """

    def __init__(self, url: str) -> None:
        try:
            self._client = redis.asyncio.Redis.from_url(url)
            pool = self._client.connection_pool
            pool.connection_kwargs.update(_OPTIONS)  # also those of the URL's query
            pool.connection_class(**pool.connection_kwargs)
        except (ValueError, TypeError, redis.exceptions.RedisError):
            raise ConfigError("url is not a valid URL of Redis") from None

    async def open(self) -> None:
        """Connect, and store values that expire at once: the server may only be readable."""
        keys = (f"adapty:rate:open:{secrets.token_hex(8)}" for _ in range(_FIRST_KEYS))
        await self._store([Change(key, 0, b"") for key in keys], 1, START_TIMEOUT)

    async def load(self, keys: Sequence[str]) -> list[Loaded]:
        """Return the values of keys, in their order."""
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.eval(_LOAD, 1, key)
        results = await self._results(pipeline, TIMEOUT)
        return [Loaded(int(version), value, float(now)) for version, value, now in results]

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        """Store each value whose key still has its `version`; return which ones had it."""
        return await self._store(changes, _EXPIRY, TIMEOUT)

    async def _store(self, changes: Sequence[Change], expiry: int, seconds: float) -> list[bool]:
        pipeline = self._client.pipeline(transaction=False)
        for key, version, value in changes:
            pipeline.eval(_SWAP, 1, key, version, version + 1, value, expiry)
        return [bool(swapped) for swapped in await self._results(pipeline, seconds)]

    async def _results(self, pipeline: Pipeline, seconds: float) -> list[Any]:
        try:
            # otherwise a command's text would be a part of its error
            results: list[Any] = await _result(pipeline.execute(raise_on_error=False), seconds)
            for result in results:
                if isinstance(result, redis.exceptions.RedisError):
                    raise _failure(result)
        except StoreError:
            # after a failover, another server may have the address of one that is only readable
            with contextlib.suppress(redis.exceptions.RedisError, OSError):
                await self._client.connection_pool.disconnect()
            raise
        return results

    async def aclose(self) -> None:
        """Close the connections."""
        # the connection is broken already, or its event loop is closed
        with contextlib.suppress(StoreError, RuntimeError):
            await _result(self._client.aclose(), TIMEOUT)


async def _result(command: Awaitable[Any], seconds: float) -> Any:
    task = asyncio.ensure_future(command)
    try:
        if await ends_in_time(task, seconds):
            return task.result()
        failure = _failure(TimeoutError())
    except (redis.exceptions.RedisError, OSError) as error:
        failure = _failure(error)
    finally:
        await cancel(task)
    raise failure


def _failure(error: Exception) -> StoreError:
    return StoreError(f"Redis is down, or rejected a command: {explain_failure(error)}")
