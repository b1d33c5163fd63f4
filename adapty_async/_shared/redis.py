"""A store of shared rates in a server of Redis' protocol, such as Redis, Valkey or KeyDB."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable
from typing import Any

import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from adapty_async._shared.store import TIMEOUT, Loaded
from adapty_async.errors import ConfigError, StoreError

__all__ = ("RedisStore",)

# Each runs without any other command in between. The time is a string, as numbers become integers.
_LOAD = """
local now = redis.call('TIME')
local found = redis.call('HMGET', KEYS[1], 'version', 'value')
return {tonumber(found[1] or '0'), found[2], now[1] .. '.' .. string.format('%06d', now[2])}
"""
_SWAP = """
if (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[1] + 1, 'value', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
# Milliseconds after which an unused value expires: a day.
_EXPIRY = 24 * 60 * 60 * 1000


class RedisStore:
    """
    A `Store` in a server of Redis' protocol: a hash for each key.

    Args:
        url: the address, as ``redis://[[user]:password@]host[:port][/database]``, ``rediss://`` for
            TLS, or ``unix://`` with the path of a socket.

    Raises:
        ConfigError: the URL is not valid.
    """

    def __init__(self, url: str) -> None:
        try:
            self._client = redis.asyncio.Redis.from_url(
                url,
                socket_timeout=TIMEOUT,
                socket_connect_timeout=TIMEOUT,
                retry=Retry(NoBackoff(), 0),  # a member does that
                decode_responses=False,
            )
        except ValueError:
            raise ConfigError("url is not a valid URL of Redis") from None
        self._load = self._client.register_script(_LOAD)
        self._swap = self._client.register_script(_SWAP)

    async def open(self) -> None:
        """Connect."""
        await _result(self._client.ping())

    async def load(self, key: str) -> Loaded:
        """Return the value of a key."""
        version, value, now = await _result(self._load(keys=[key]))
        return Loaded(version, value, float(now))

    async def swap(self, key: str, version: int, value: bytes) -> bool:
        """Store a value if the key's version is still `version`; return whether it was."""
        swapped = await _result(self._swap(keys=[key], args=[version, value, _EXPIRY]))
        return bool(swapped)

    async def aclose(self) -> None:
        """Close the connections."""
        with contextlib.suppress(StoreError):  # the connection is broken already
            await _result(self._client.aclose())


async def _result(command: Awaitable[Any]) -> Any:
    try:
        return await command
    except (redis.exceptions.RedisError, OSError) as error:
        failure = StoreError(f"Redis is down, or rejected a command: {type(error).__name__}")
    raise failure
