"""
One adaptive rate for many processes, on one or several machines.

A rate limit belongs to an account, and not to a process. Processes that use one account, such as
replicas of a web service and a job, share its rate through a store. They find the limit together,
each gets its part of it, and single calls go before the items of all jobs.

Example:
    >>> async with (
    ...     SharedRate("redis://localhost:6379") as rate,
    ...     AdaptyClient(limits=Limits(shared=rate)) as adapty,
    ... ):
    ...     await adapty.v2.profiles.bulk_delete(ids, by="customer_user_id")
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib
import secrets
import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, Self

import msgspec

from adapty_async._runtime.database import path_in_url
from adapty_async._runtime.fork import keep_inherited, register_fork_handler
from adapty_async._runtime.loop import result_of
from adapty_async._shared.loop import ExchangeLoop
from adapty_async._shared.source import SharedSource
from adapty_async._shared.store import Store
from adapty_async.config import positive
from adapty_async.errors import ConfigError

__all__ = ("SharedRate", "SharedRateStatistics")

# The version of the state in the store; processes of other versions do not share a rate.
_FORMAT = 1
_PERSON = b"adapty-rate"
# The module of a store, whose extra has the same name, and its class, by the scheme of the URL.
_STORES = {
    **dict.fromkeys(("redis", "rediss", "unix"), ("redis", "RedisStore")),
    **dict.fromkeys(("postgresql", "postgres"), ("postgres", "PostgresStore")),
}


class SharedRateStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """
    The statistics of the shared rate of one bucket.

    Attributes:
        bucket: the bucket, such as ``v2``.
        rate: requests per second of all processes; of this one while the store is down.
        limit: the measured limit in requests per second; None during a search for it.
        members: number of processes, as of the last exchange.
        exchanges: number of exchanges of this process with the others so far; one may be that of
            other buckets, too.
        is_alone: the store is down, and the process uses its share of the limit on its own.
    """

    bucket: str
    rate: float
    limit: float | None
    members: int
    exchanges: int
    is_alone: bool


class SharedRate:
    """
    An adaptive rate that several processes share through a store.

    Pass it as `adapty_async.Limits.shared` to the clients of one event loop. Each process has its
    own, with the same URL. Processes share a rate if their clients use the same origin, key and
    bucket. The store has only a digest of these, and no ids. A process exchanges for all buckets
    at once, at most 20 times a second.

    Use it as an async context manager around its clients, or await `aclose` after theirs.

    Args:
        url: the store: ``redis://`` or ``rediss://`` (any server of that protocol; needs
            ``adapty-async[redis]``), ``postgresql://`` (needs ``adapty-async[postgres]``), or
            ``sqlite:///`` and a path, quoted as in any URL, for the processes of one machine.
        fallback: the share of the known limit that all processes together use at most while the
            store is down; above 0 and at most 1.

    Raises:
        ConfigError: the URL or the fallback is not valid, or a package is missing.
    """

    def __init__(self, url: str, *, fallback: float = 0.5) -> None:
        if positive("fallback", fallback) > 1.0:
            raise ConfigError(f"fallback must be at most 1, not {fallback!r}")
        self._scheme = _scheme_of(url)
        self._fallback = fallback
        self._new_store = _store_factory(url)
        self._store = self._new_store()
        self._exchanges: ExchangeLoop | None = None  # while it is open
        self._buckets: dict[str, str] = {}  # names by the key of the state in the store
        register_fork_handler(self)

    async def __aenter__(self) -> Self:
        """
        Connect to the store.

        Raises:
            StoreError: the store cannot be reached.
            ConfigError: it is in use already.
        """
        if self._exchanges is not None:
            raise ConfigError("a SharedRate can be entered once at a time")
        try:
            await self._store.open()
        except BaseException:
            await self._close_store()
            raise
        self._exchanges = ExchangeLoop(
            self._store, secrets.token_hex(8), self._fallback, time.monotonic
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """
        Leave the other processes, and close the connections.

        Clients that still use it raise a `ConfigError` for each further call, until another event
        loop enters it again.
        """
        exchanges, self._exchanges, self._buckets = self._exchanges, None, {}
        try:
            if exchanges is not None:
                await exchanges.aclose()
        finally:
            await self._close_store()

    async def _close_store(self) -> None:
        store, self._store = self._store, self._new_store()  # another loop may enter next
        await result_of(asyncio.ensure_future(store.aclose()))  # in a cancelled scope of anyio, too

    def rate_source(self, account: str, bucket: str) -> SharedSource:
        """
        Return the rate source of a bucket; clients call it.

        Args:
            account: identifies the account: the origin and the key of a client. Only a digest of
                it leaves the process.
            bucket: the name of the bucket.

        Raises:
            ConfigError: it is not entered, or in another event loop.
        """
        if self._exchanges is None:
            raise ConfigError(
                "Limits.shared is not open: use the client within `async with SharedRate(...)`"
            )
        if self._exchanges.event_loop is not asyncio.get_running_loop():
            raise ConfigError(
                "Limits.shared was opened in another event loop; each loop needs its own SharedRate"
            )
        digest = hashlib.blake2b(f"{account}\n{bucket}".encode(), digest_size=16, person=_PERSON)
        key = f"adapty:rate:{_FORMAT}:{digest.hexdigest()}"
        self._buckets[key] = bucket
        return self._exchanges.source(key)

    def statistics(self) -> tuple[SharedRateStatistics, ...]:
        """Return the statistics of each bucket that was used."""
        sources = {} if self._exchanges is None else self._exchanges.sources
        return tuple(
            SharedRateStatistics(
                bucket=self._buckets[key],
                rate=source.rate,
                limit=source.limit,
                members=source.members,
                exchanges=source.exchanges,
                is_alone=source.is_alone,
            )
            for key, source in sources.items()
        )

    def after_fork(self) -> None:
        """Start fresh: the connections and tasks belong to the parent process."""
        keep_inherited((self._store, self._exchanges))
        if self._exchanges is not None:
            for source in self._exchanges.sources.values():
                source.close()
        self._store, self._exchanges, self._buckets = self._new_store(), None, {}

    def __del__(self) -> None:
        if getattr(self, "_exchanges", None) is not None:
            warnings.warn("a SharedRate was not closed", ResourceWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        state = "open" if self._exchanges is not None else "closed"
        return f"SharedRate({self._scheme}, {state}, buckets={len(self._buckets)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SharedRate holds connections; it is not pickled")


def _scheme_of(url: str) -> str:
    if not isinstance(url, str):
        raise ConfigError("url must be text")
    return url.partition(":")[0]


def _store_factory(url: str) -> Callable[[], Store]:
    """Return a factory of the stores of a URL, which are not opened yet."""
    scheme = _scheme_of(url)
    if (path := path_in_url(url)) is not None:
        argument = str(path.absolute())  # the process may change its directory
        module, kind = "sqlite", "SqliteStore"
    elif scheme in _STORES and url.startswith(f"{scheme}://"):
        (module, kind), argument = _STORES[scheme], url
    else:
        raise ConfigError("url must be redis://..., postgresql://... or sqlite:///path")
    try:
        home = importlib.import_module(f"adapty_async._shared.{module}")
    except ImportError:
        raise ConfigError(f"this url needs: pip install 'adapty-async[{module}]'") from None
    store: Callable[[str], Store] = getattr(home, kind)
    return functools.partial(store, argument)
