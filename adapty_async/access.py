"""
A cache of profiles for web services that ask whether a user has access.

It requires the extra ``cache``.
"""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self, TypeAlias

import msgspec

try:
    from cachetools import LRUCache
except ModuleNotFoundError as error:
    raise ImportError("cachetools is missing: pip install 'adapty-async[cache]'") from error

from adapty_async._runtime.fork import keep_inherited, register_fork_handler
from adapty_async.client import AdaptyClient
from adapty_async.config import positive, whole_number
from adapty_async.errors import (
    AdaptyError,
    CircuitOpenError,
    ConfigError,
    DeadlineError,
    DecodeError,
    InvalidInputError,
    NotFoundError,
    RateLimitError,
    RequestRejectedError,
    ServerError,
    TransportError,
)
from adapty_async.v2 import Profile, get_profile
from adapty_async.webhooks import Event

__all__ = ("AccessCache", "AccessStatistics", "CachedProfile")

_Key: TypeAlias = tuple[Literal["customer_user_id", "profile_id"], str]

# The failures of an outage. After any other one, the last known profile may be wrong for long.
_OUTAGE = (
    CircuitOpenError,
    DeadlineError,
    DecodeError,  # such as a gateway's page with status 200
    RateLimitError,
    ServerError,
    TransportError,
)


def _now() -> float:
    """Return the seconds since 1970; a test may have replaced the function by then."""
    return time.time()


class CachedProfile(msgspec.Struct, frozen=True):
    """
    A profile as it was when it was read.

    Attributes:
        profile: None if the user has no profile.
        age: seconds since it was read.
        is_stale: it is the last known one, since a newer one could not be read.
    """

    profile: Profile | None
    age: float
    is_stale: bool

    def has_access(self, access_level_id: str, *, at: dt.datetime | None = None) -> bool:
        """
        Return whether an access level is open at a date and time, by default now.

        A user without a profile has no access.

        Raises:
            InvalidInputError: `at` is not a datetime with a time zone.
            DecodeError: no readable access level is open, and one is not as documented.
        """
        return self.profile is not None and self.profile.has_access(access_level_id, at=at)


class AccessStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """
    The counts of a cache since it was made.

    Attributes:
        hits: lookups that found a fresh profile in the cache.
        calls: calls of the API.
        coalesced: lookups that waited for the call of another lookup.
        stale: lookups that returned the last known profile.
        errors: lookups that raised the error of a call.
        invalidations: profiles and calls that `AccessCache.invalidate` removed.
        size: profiles in the cache.
    """

    hits: int = 0
    calls: int = 0
    coalesced: int = 0
    stale: int = 0
    errors: int = 0
    invalidations: int = 0
    size: int = 0


class _Entry(msgspec.Struct, frozen=True):
    """
    A profile, None if there is none, and when its call began.

    Attributes:
        read_at: seconds since 1970, for dates.
        read_on: seconds of the monotonic clock, since the other one may be set back.
    """

    profile: Profile | None
    read_at: float
    read_on: float

    def age(self, now: float) -> float:
        """Return the seconds since the call began; the longer time if the clocks disagree."""
        return max(now - self.read_at, time.monotonic() - self.read_on)


class _Call(msgspec.Struct, frozen=True):
    """
    A call in flight.

    Attributes:
        began: the time of the event loop.
        invalidations: the number of the last invalidation before the call.
    """

    task: asyncio.Task[_Entry]
    began: float
    invalidations: int


class _Entries:
    """
    An LRU cache of entries, with an index by all ids of their profiles.

    A profile is cached by the id of the lookup, and an event may have only the other id.
    """

    def __init__(self, size: int) -> None:
        self._entries: LRUCache[_Key, _Entry] = LRUCache(size)
        self._keys: dict[_Key, set[_Key]] = {}  # the keys of the entries that an id belongs to
        self.get = self._entries.get

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: _Key, entry: _Entry) -> None:
        self.remove(key)
        if len(self) == self._entries.maxsize:
            self._unlink(*self._entries.popitem())
        self._entries[key] = entry
        for name in _ids(key, entry.profile):
            self._keys.setdefault(name, set()).add(key)

    def keys(self, name: _Key) -> frozenset[_Key]:
        """Return the keys of the entries that an id belongs to."""
        return frozenset(self._keys.get(name, ()))

    def remove(self, key: _Key) -> bool:
        """Remove an entry, and return whether there was one."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._unlink(key, entry)
        return entry is not None

    def _unlink(self, key: _Key, entry: _Entry) -> None:
        for name in _ids(key, entry.profile):
            keys = self._keys[name]
            keys.discard(key)
            if not keys:
                del self._keys[name]


class _Invalidations:
    """
    A log of the last invalidation of each id, bounded.

    An entry that the log has dropped counts for every id, so no invalidation is forgotten.
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        self._size = size
        self._numbers: dict[_Key, int] = {}  # oldest first
        self._dropped = 0  # the number of the last one that the log has dropped

    def record(self, names: set[_Key]) -> None:
        """Record that the profiles of these ids are outdated."""
        self.count += 1
        for name in names:
            self._numbers.pop(name, None)
            self._numbers[name] = self.count
        while len(self._numbers) > self._size:
            self._dropped = self._numbers.pop(next(iter(self._numbers)))

    def last(self, names: set[_Key]) -> int:
        """Return the number of the last invalidation of any of these ids; 0 without one."""
        return max(self._dropped, *(self._numbers.get(name, 0) for name in names))


class AccessCache:
    """
    A read-through cache of profiles with one call per user in flight.

    A profile is fresh for `ttl` seconds. In an outage the last known one counts for `stale` seconds
    more. A missing profile is cached as well, and an error never. Whether an access level is open
    is decided at each lookup, so no access outlasts its expiry; an access level that has expired
    since the profile was read may have been renewed, so its profile is read again.

    A cache belongs to one event loop. Close it before its client.

    Example:
        >>> async with AdaptyClient() as adapty, AccessCache(adapty) as cache:
        ...     await cache.has_access("premium", customer_user_id="user_1")
    """

    def __init__(
        self,
        client: AdaptyClient,
        *,
        ttl: float = 60.0,
        stale: float = 3600.0,
        max_wait: float = 1.0,
        max_profiles: int = 10_000,
        clock: Callable[[], float] = _now,
    ) -> None:
        """
        Configure a cache.

        Args:
            client: reads the profiles. Its deadline bounds a lookup without a last known profile.
            ttl: seconds for which a profile is fresh.
            stale: seconds after that for which it counts in an outage.
            max_wait: seconds that a lookup waits for a call if there is a last known profile. The
                call continues for the next lookup.
            max_profiles: the maximum of profiles; those that were not used for longest go first.
            clock: returns seconds since 1970, by default `time.time`.

        Raises:
            ConfigError: a value is out of range.
        """
        self._client = client
        self._ttl = positive("ttl", ttl)
        self._lifetime = ttl + positive("stale", stale)
        self._max_wait = positive("max_wait", max_wait)
        size = whole_number("max_profiles", max_profiles)
        self._clock = clock
        self._entries = _Entries(size)
        self._invalidations = _Invalidations(size)
        self._calls: dict[_Key, _Call] = {}
        self._tasks: set[asyncio.Task[_Entry]] = set()  # those of invalidated calls as well
        self._counts = dict.fromkeys(AccessStatistics.__struct_fields__, 0)
        self._is_closed = False
        register_fork_handler(self)

    def after_fork(self) -> None:
        """Leave the calls in flight to the process that was forked."""
        keep_inherited(self._tasks)
        self._tasks, self._calls = set(), {}

    async def has_access(
        self,
        access_level_id: str,
        *,
        customer_user_id: str | None = None,
        profile_id: str | None = None,
    ) -> bool:
        """
        Return whether an access level of a user is open now; False without a profile.

        Raises:
            InvalidInputError: not exactly one id was passed, or it cannot be sent.
            DecodeError: no readable access level is open, and one is not as documented.
            AdaptyError: the call failed, and there is no last known profile.
        """
        key = _key(customer_user_id, profile_id)
        now = self._clock()
        entry = self._fresh(key, now)
        if entry is not None:
            if _is_open(entry, access_level_id, now):
                return True
            if not _is_open(entry, access_level_id, entry.read_at):
                return False
        entry = await self._read(key)
        return _is_open(entry, access_level_id, self._clock())

    async def profile(
        self, *, customer_user_id: str | None = None, profile_id: str | None = None
    ) -> CachedProfile:
        """
        Return the profile of a user with its age.

        Raises:
            InvalidInputError: not exactly one id was passed, or it cannot be sent.
            AdaptyError: the call failed, and there is no last known profile.
        """
        key = _key(customer_user_id, profile_id)
        entry = self._fresh(key, self._clock()) or await self._read(key)
        age = entry.age(self._clock())
        return CachedProfile(entry.profile, age, is_stale=age >= self._ttl)

    def _fresh(self, key: _Key, now: float) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None or entry.age(now) >= self._ttl:
            return None
        if now < entry.read_at:  # the clock was set back, so it was wrong then or is wrong now
            return None
        self._counts["hits"] += 1
        return entry

    async def _read(self, key: _Key) -> _Entry:
        """
        Return the profile of a call; in an outage, or after `max_wait`, the last known one.

        Only the response shows all ids of a profile. If it is older than an event before this
        lookup, another call is made, which cannot be.
        """
        invalidations = self._invalidations.count
        call = self._call(key)
        entry = await self._wait(key, call)
        last = self._invalidations.last(_ids(key, entry.profile))
        if call.invalidations < min(last, invalidations):
            entry = await self._wait(key, self._call(key))
        return entry

    async def _wait(self, key: _Key, call: _Call) -> _Entry:
        if self._last_known(key) is not None:
            wait = call.began + self._max_wait - asyncio.get_running_loop().time()
            await asyncio.wait({call.task}, timeout=max(0.0, wait))
        if not call.task.done() and (entry := self._last_known(key)) is not None:
            return self._stale(entry)
        await asyncio.wait({call.task})  # a cancellation of this lookup does not cancel the call
        return self._result(key, call.task)

    def _last_known(self, key: _Key) -> _Entry | None:
        """Return the entry that may be served in an outage; None if there is none, or too old."""
        entry = self._entries.get(key)
        if entry is None or entry.age(self._clock()) >= self._lifetime:
            return None
        return entry

    def _stale(self, entry: _Entry) -> _Entry:
        self._counts["stale"] += 1
        return entry

    def _result(self, key: _Key, task: asyncio.Task[_Entry]) -> _Entry:
        if task.cancelled():
            raise ConfigError("the cache is closed")
        error = task.exception()
        if error is None:
            return task.result()
        if _is_outage(error) and (entry := self._last_known(key)) is not None:
            return self._stale(entry)
        self._counts["errors"] += 1
        raise _copy_of(error) from None

    def _call(self, key: _Key) -> _Call:
        """Return the call in flight for a key, or start one."""
        if self._is_closed:
            raise ConfigError("the cache is closed")
        call = self._calls.get(key)
        if call is not None:
            self._counts["coalesced"] += 1
            return call
        self._counts["calls"] += 1
        loop = asyncio.get_running_loop()
        invalidations = self._invalidations.count
        task = loop.create_task(self._fetch(key, invalidations))
        call = self._calls[key] = _Call(task, loop.time(), invalidations)
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._ended(key, task))
        return call

    def _ended(self, key: _Key, task: asyncio.Task[_Entry]) -> None:
        self._tasks.discard(task)
        call = self._calls.get(key)
        if call is not None and call.task is task:
            del self._calls[key]
        if not task.cancelled():
            task.exception()  # an error without a lookup that waits for it is of no interest

    async def _fetch(self, key: _Key, invalidations: int) -> _Entry:
        by, value = key
        read_at, read_on = self._clock(), time.monotonic()
        profile: Profile | None
        try:
            profile = await self._client.execute(get_profile(**{by: value}))
        except NotFoundError:
            profile = None
        entry = _Entry(profile, read_at, read_on)
        if self._invalidations.last(_ids(key, profile)) <= invalidations:
            self._entries.put(key, entry)
        return entry

    async def handle(self, event: Event) -> None:
        """
        Invalidate the profiles of a webhook event, with those that share its access level.

        It can be the callable of a `WebhookReceiver`, or a part of it.
        """
        self.invalidate(customer_user_id=event.customer_user_id, profile_id=event.profile_id)
        self.invalidate(profile_id=event.event_properties.profile_id)
        for other in event.profiles_sharing_access_level or ():
            self.invalidate(customer_user_id=other.customer_user_id, profile_id=other.profile_id)

    def invalidate(
        self, *, customer_user_id: str | None = None, profile_id: str | None = None
    ) -> None:
        """
        Remove the profile of a user: the next lookup reads it, also if a call is in flight.

        One id is enough. The profile is removed whichever id it was looked up by.

        A removed profile does not count in an outage, since it is known to be outdated.
        """
        names: set[_Key] = set()
        if customer_user_id is not None:
            names.add(("customer_user_id", customer_user_id))
        if profile_id is not None:
            names.add(("profile_id", profile_id))
        self._invalidations.record(names)
        for key in names.union(*map(self._entries.keys, names)):
            is_cached = self._entries.remove(key)
            is_called = self._calls.pop(key, None) is not None
            self._counts["invalidations"] += is_cached or is_called

    def statistics(self) -> AccessStatistics:
        """Return the counts of lookups so far."""
        return AccessStatistics(**{**self._counts, "size": len(self._entries)})

    async def aclose(self) -> None:
        """Cancel the calls in flight; a lookup that needs a call then raises a `ConfigError`."""
        self._is_closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AccessCache({len(self._entries)} profiles, {len(self._calls)} calls in flight)"


def _is_outage(error: BaseException) -> bool:
    """Return whether an error is that of an outage, or a page that is not the API's."""
    if isinstance(error, RequestRejectedError):
        return not error.recognised  # a gateway or a firewall responded
    return isinstance(error, _OUTAGE)


def _key(customer_user_id: str | None, profile_id: str | None) -> _Key:
    if isinstance(customer_user_id, str) and profile_id is None:
        return "customer_user_id", customer_user_id
    if isinstance(profile_id, str) and customer_user_id is None:
        return "profile_id", profile_id
    raise InvalidInputError(
        "customer_user_id", "exactly one of customer_user_id and profile_id is required, as text"
    )


def _ids(key: _Key, profile: Profile | None) -> set[_Key]:
    """Return the ids of a profile: that of a lookup, and those in the response."""
    ids = {key}
    if profile is not None:
        ids.add(("profile_id", profile.profile_id))
        if profile.customer_user_id is not None:
            ids.add(("customer_user_id", profile.customer_user_id))
    return ids


def _is_open(entry: _Entry, access_level_id: str, now: float) -> bool:
    if entry.profile is None:
        return False
    return entry.profile.has_access(access_level_id, at=dt.datetime.fromtimestamp(now, dt.UTC))


def _copy_of(error: BaseException) -> BaseException:
    """Return a copy of the error of a call, since several lookups raise it."""
    if not isinstance(error, AdaptyError):  # of a foreign transport; some cannot be copied
        return error
    return copy.copy(error).with_traceback(error.__traceback__)
