"""The cache of profiles: freshness, coalescing, outages, invalidation, bounds."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import json
import random
import time
import weakref
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
import pytest
from aiohttp import web

from adapty_async import (
    AdaptyClient,
    AdaptyError,
    AuthenticationError,
    CircuitOpenError,
    ConfigError,
    ConnectError,
    DecodeError,
    InvalidInputError,
    RequestRejectedError,
    RetryPolicy,
    ServerError,
)
from adapty_async.access import AccessCache, AccessStatistics, CachedProfile
from adapty_async.sandbox import Sandbox
from adapty_async.testing import FakeClock, FakeTransport
from adapty_async.transport import Request, Response
from adapty_async.webhooks import Event, WebhookReceiver, parse
from adapty_async.webhooks.aiohttp import webhook_handler
from tests._support import loop_turns

pytestmark = pytest.mark.usefixtures("nothing_is_left")

NOW = 1.7e9
Reply = tuple[int, dict[str, str], bytes]
MISSING: Reply = (
    404,
    {},
    b'{"errors": [], "error_code": "profile_does_not_exist", "status_code": 404}',
)


def date(seconds: float) -> str:
    """Return a date and time by its distance from the start of a test."""
    return dt.datetime.fromtimestamp(NOW + seconds, dt.UTC).isoformat()


def profile(name: str = "u1", **level: Any) -> Reply:
    """Return a response with a profile that has an access level; by default for ever."""
    levels = [{"access_level_id": "premium", **level}]
    fields = {"profile_id": f"p-{name}", "customer_user_id": name, "access_levels": levels}
    return 200, {}, json.dumps({"data": fields}).encode()


def event_of(**fields: Any) -> Event:
    """Return an event about a profile."""
    event = parse(json.dumps({"event_type": "access_level_updated", **fields}))
    assert isinstance(event, Event)
    return event


class Server:
    """
    A transport that responds from a dictionary by id, counts requests, and may be held or down.

    Attributes:
        replies: the response by id; for other ids, a profile with access.
        held: the requests wait for it.
        error: raised for every request; None without an outage.
        tasks: the tasks that sent the requests.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.replies: dict[str, Reply] = {}
        self.held = asyncio.Event()
        self.held.set()
        self.error: BaseException | None = None
        self.tasks: list[weakref.ref[asyncio.Task[Any]]] = []

    async def __call__(self, request: Request) -> Response:
        """Respond to one request."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        name = headers.get("adapty-customer-user-id") or headers["adapty-profile-id"]
        self.requests.append(name)
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(weakref.ref(task))
        reply = self.replies.get(name) or profile(name)
        error = self.error
        await self.held.wait()
        if error is not None:
            raise error
        return Response(*reply)


@pytest.fixture
def server() -> Server:
    """Return a server without an outage."""
    return Server()


@pytest.fixture
def clock() -> FakeClock:
    """Return the clock of the cache."""
    return FakeClock(NOW)


@pytest.fixture
async def cache(server: Server, clock: FakeClock) -> AsyncIterator[AccessCache]:
    """Make a cache with a fresh minute and ten stale ones, whose calls are not retried."""
    retry = RetryPolicy(attempts=1)
    async with (
        AdaptyClient("key", transport=server, retry=retry) as client,
        AccessCache(client, ttl=60, stale=600, max_wait=0.02, clock=clock) as made,
    ):
        yield made


# Freshness


async def test_a_thousand_lookups_of_a_hundred_users_are_a_hundred_calls(
    cache: AccessCache, server: Server
) -> None:
    """Within one TTL, each user is read once: some lookups wait for it, the others find it."""
    users = [f"u{number % 100}" for number in range(1000)]
    early = [cache.has_access("premium", customer_user_id=user) for user in users[:500]]
    late = [cache.has_access("premium", customer_user_id=user) for user in users[500:]]

    assert all([*await asyncio.gather(*early), *await asyncio.gather(*late)])
    assert len(server.requests) == len(set(server.requests)) == 100
    assert cache.statistics() == AccessStatistics(calls=100, coalesced=400, hits=500, size=100)
    assert repr(cache) == "AccessCache(100 profiles, 0 calls in flight)"


async def test_a_profile_is_read_again_after_the_ttl(
    cache: AccessCache, server: Server, clock: FakeClock
) -> None:
    """A profile is fresh for less than the TTL, and its age counts from the request."""
    await cache.profile(profile_id="p1")
    clock.now += 59
    assert (await cache.profile(profile_id="p1")).age == 59
    clock.now += 1
    known = await cache.profile(profile_id="p1")

    assert known.age < 59
    assert (known.is_stale, server.requests) == (False, ["p1", "p1"])
    assert known.profile is not None
    assert known.has_access("premium")


async def test_a_clock_that_was_set_back_makes_nothing_fresh(
    cache: AccessCache, server: Server, clock: FakeClock
) -> None:
    """A profile from the future is read again."""
    await cache.has_access("premium", customer_user_id="u1")
    clock.now -= 1
    await cache.has_access("premium", customer_user_id="u1")

    assert server.requests == ["u1", "u1"]


async def test_a_missing_profile_is_a_result(
    cache: AccessCache, server: Server, clock: FakeClock
) -> None:
    """A user without a profile has no access, and that is cached for the TTL."""
    server.replies["u1"] = MISSING
    for _ in range(3):
        assert not await cache.has_access("premium", customer_user_id="u1")
    known = await cache.profile(customer_user_id="u1")

    assert known == CachedProfile(None, known.age, is_stale=False)
    assert not known.has_access("premium")
    assert server.requests == ["u1"]


async def test_a_test_may_replace_the_clock(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache made without a clock follows `time.time`, so a frozen date decides on access."""
    server.replies["u1"] = profile("u1", expires_at="2001-01-01T00:00:00Z")
    async with AdaptyClient("key", transport=server) as client, AccessCache(client) as cache:
        assert not await cache.has_access("premium", customer_user_id="u1")
        monkeypatch.setattr(time, "time", lambda: 900_000_000.0)  # in 1998
        assert await cache.has_access("premium", customer_user_id="u1")


async def test_access_ends_within_the_ttl(
    cache: AccessCache, server: Server, clock: FakeClock
) -> None:
    """Access that expires while its profile is fresh is read again, since it may be renewed."""
    server.replies["u1"] = profile(expires_at=date(30))
    assert await cache.has_access("premium", customer_user_id="u1")
    clock.now += 30
    assert not await cache.has_access("premium", customer_user_id="u1")
    assert not await cache.has_access("premium", customer_user_id="u1")
    assert server.requests == ["u1"] * 2
    server.replies["u1"] = profile(expires_at=date(3000))
    clock.now += 60

    assert await cache.has_access("premium", customer_user_id="u1")
    assert len(server.requests) == 3


async def test_access_that_ended_in_an_outage_is_not_served(
    cache: AccessCache, server: Server, clock: FakeClock
) -> None:
    """The last known profile counts in an outage, and the expiry in it as well."""
    server.replies["u1"] = profile(expires_at=date(90))
    await cache.has_access("premium", customer_user_id="u1")
    server.error = ConnectError("down")
    clock.now += 89
    assert await cache.has_access("premium", customer_user_id="u1")
    clock.now += 1

    assert not await cache.has_access("premium", customer_user_id="u1")


async def test_access_begins_within_the_ttl(
    cache: AccessCache, server: Server, clock: FakeClock
) -> None:
    """Access that starts later is open from its start, without another call."""
    server.replies["u1"] = profile(starts_at=date(30))
    assert not await cache.has_access("premium", customer_user_id="u1")
    clock.now += 30

    assert await cache.has_access("premium", customer_user_id="u1")
    assert not await cache.has_access("other", customer_user_id="u1")
    assert server.requests == ["u1"]


async def test_a_cached_profile_has_access_at_another_time(
    cache: AccessCache, server: Server
) -> None:
    """The time of the question decides, not the present."""
    server.replies["u1"] = profile(expires_at=date(100))
    found = await cache.profile(customer_user_id="u1")

    times = [dt.datetime.fromtimestamp(NOW + seconds, dt.UTC) for seconds in (99, 100)]
    assert [found.has_access("premium", at=at) for at in times] == [True, False]


async def test_an_undocumented_access_level_is_an_error(cache: AccessCache, server: Server) -> None:
    """Access that cannot be decided is neither open nor closed."""
    server.replies["u1"] = profile(expires_at="soon")

    with pytest.raises(DecodeError, match="odd_fields"):
        await cache.has_access("premium", customer_user_id="u1")


# Coalescing


async def test_a_cancelled_lookup_does_not_cancel_the_others(
    cache: AccessCache, server: Server
) -> None:
    """The call continues if the lookup that started it is cancelled."""
    server.held.clear()
    lookups = [
        asyncio.create_task(cache.has_access("premium", customer_user_id="u1")) for _ in range(3)
    ]
    await loop_turns(10)
    lookups[0].cancel()
    await loop_turns(10)
    server.held.set()

    results = await asyncio.gather(*lookups, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [True, True]
    assert server.requests == ["u1"]


async def test_a_call_without_lookups_fills_the_cache(cache: AccessCache, server: Server) -> None:
    """The call of a lookup that was cancelled is not in vain; its error is of no interest."""
    for error in (ServerError("down"), None):
        server.error = error
        server.held.clear()
        lookup = asyncio.create_task(cache.has_access("premium", customer_user_id="u1"))
        await loop_turns(10)
        lookup.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lookup
        server.held.set()
        await loop_turns(10)

    assert cache.statistics() == AccessStatistics(calls=2, size=1)


async def test_an_error_reaches_all_lookups_and_is_not_cached(
    cache: AccessCache, server: Server
) -> None:
    """Each lookup of the failed call raises an error of its own; the next one calls again."""
    server.error = ServerError("down", status=503)
    lookups = [cache.has_access("premium", customer_user_id="u1") for _ in range(3)]
    errors = await asyncio.gather(*lookups, return_exceptions=True)

    assert [type(error) for error in errors] == [ServerError] * 3
    assert len({id(error) for error in errors}) == 3
    assert [str(error) for error in errors] == [str(errors[0])] * 3
    server.error = None
    assert await cache.has_access("premium", customer_user_id="u1")
    assert cache.statistics() == AccessStatistics(calls=2, coalesced=2, errors=3, size=1)


async def test_an_error_of_a_foreign_transport_is_raised_as_it_is(
    cache: AccessCache, server: Server
) -> None:
    """An exception that cannot be copied is not hidden by the error of its copy."""

    class ForeignError(Exception):
        def __init__(self, text: str, code: int) -> None:
            super().__init__(text)
            self.code = code

    server.error = ForeignError("down", 5)
    lookups = [cache.has_access("premium", customer_user_id="u1") for _ in range(2)]

    assert [*await asyncio.gather(*lookups, return_exceptions=True)] == [server.error] * 2


# Outages


def outage() -> Iterable[BaseException]:
    """Return errors of an outage."""
    return (
        ConnectError("down"),
        ServerError("down", status=503),
        DecodeError("a gateway's page", status=200),
        RequestRejectedError("a firewall's page", status=403),
    )


@pytest.mark.parametrize("error", outage(), ids=lambda error: type(error).__name__)
async def test_an_outage_is_served_from_the_last_known_profiles(
    cache: AccessCache, server: Server, clock: FakeClock, error: BaseException
) -> None:
    """In an outage of a minute after the TTL, each lookup returns the last known profile."""
    await cache.has_access("premium", customer_user_id="u1")
    clock.now += 60
    server.error = error
    for age in range(60, 120):
        assert await cache.has_access("premium", customer_user_id="u1")
        known = await cache.profile(customer_user_id="u1")
        assert (known.age, known.is_stale) == (age, True)
        clock.now += 1
    assert cache.statistics().errors == 0
    assert cache.statistics().stale == 120
    server.error = None
    with anyio.fail_after(50):  # until the client's circuit breaker sends a probe
        while (await cache.profile(customer_user_id="u1")).is_stale:
            await loop_turns(1)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"data":null}', b'{"data":{"access_levels":[]}}'], ids=repr
)
async def test_a_success_without_a_profile_takes_nobodys_access(
    body: bytes, cache: AccessCache, server: Server, clock: FakeClock
) -> None:
    """A gateway's empty response is an outage, and it is not cached."""
    await cache.has_access("premium", customer_user_id="u1")
    clock.now += 60
    server.replies = {"u1": (200, {}, body), "u2": (200, {}, body)}
    assert await cache.has_access("premium", customer_user_id="u1")
    with pytest.raises(DecodeError, match="missing"):
        await cache.has_access("premium", customer_user_id="u2")

    server.replies = {}
    assert await cache.has_access("premium", customer_user_id="u2")


async def test_the_last_known_profile_counts_for_its_time(
    cache: AccessCache, server: Server, clock: FakeClock
) -> None:
    """After TTL and stale time an outage is an error, and another user's always is."""
    await cache.has_access("premium", customer_user_id="u1")
    server.error = ServerError("down")
    clock.now += 659
    assert await cache.has_access("premium", customer_user_id="u1")
    clock.now += 1

    for user in ("u1", "u2"):
        with pytest.raises(ServerError, match="down"):
            await cache.has_access("premium", customer_user_id=user)


async def test_a_clock_that_was_set_back_makes_nothing_younger(
    server: Server, clock: FakeClock
) -> None:
    """The monotonic clock counts as well, so an hour that is repeated does not serve old access."""
    async with (
        AdaptyClient("key", transport=server, retry=RetryPolicy(attempts=1)) as client,
        AccessCache(client, ttl=1e-9, stale=1e-9, clock=clock) as cache,
    ):
        await cache.has_access("premium", customer_user_id="u1")
        server.error = ServerError("down")
        clock.now -= 3600
        with pytest.raises(ServerError, match="down"):
            await cache.has_access("premium", customer_user_id="u1")


async def test_a_rejected_key_is_no_outage(
    cache: AccessCache, server: Server, clock: FakeClock
) -> None:
    """An error that lasts until somebody acts is raised, though there is a last known profile."""
    await cache.has_access("premium", customer_user_id="u1")
    clock.now += 60
    rejected = RequestRejectedError("no", status=400)
    rejected.recognised = True
    for error in (AuthenticationError("no", status=401), rejected):
        server.error = error
        with pytest.raises(type(error), match="no"):
            await cache.has_access("premium", customer_user_id="u1")


async def test_a_slow_server_is_not_waited_for(
    cache: AccessCache, server: Server, clock: FakeClock
) -> None:
    """With a last known profile, lookups wait for `max_wait` in all, and the call continues."""
    server.replies["u1"] = profile(expires_at=date(3000))
    await cache.has_access("premium", customer_user_id="u1")
    clock.now += 60
    server.replies["u1"] = profile(expires_at=date(0))
    server.held.clear()
    for _ in range(4000):  # beyond the timeout of the test if each of them waited
        assert await cache.has_access("premium", customer_user_id="u1")
    assert server.requests == ["u1", "u1"]
    server.held.set()
    await loop_turns(10)

    assert not await cache.has_access("premium", customer_user_id="u1")
    assert cache.statistics().stale == 4000


async def test_an_outage_of_a_real_server_is_bridged() -> None:
    """Lookups of a sandbox that was stopped return what was known."""
    clock = FakeClock(NOW)
    async with Sandbox() as sandbox:
        sandbox.seed_profiles(["u1"])
        client = AdaptyClient(
            sandbox.api_key, base_url=sandbox.url, retry=RetryPolicy(attempts=2, wait_initial=0.01)
        )
        await client.v2.access_levels.grant("premium", customer_user_id="u1")
        async with client, AccessCache(client, clock=clock) as cache:
            # the sandbox grants at the real time, which is later than the clock's
            clock.now = dt.datetime.now(dt.UTC).timestamp()
            assert await cache.has_access("premium", customer_user_id="u1")
            await sandbox.stop()
            clock.now += 120
            assert await cache.has_access("premium", customer_user_id="u1")
            assert cache.statistics().stale == 1


# Invalidation


@pytest.mark.parametrize("by", ["customer_user_id", "profile_id", "both", "event", "sharing"])
async def test_an_invalidated_profile_is_read_again(
    cache: AccessCache, server: Server, clock: FakeClock, by: str
) -> None:
    """An event, or a call, removes the profile under both of its ids."""
    shared = {"profile_id": "p-u1", "customer_user_id": None}
    server.replies["p-u1"] = profile("u1")
    await cache.has_access("premium", customer_user_id="u1")
    await cache.has_access("premium", profile_id="p-u1")
    await cache.has_access("premium", customer_user_id="u2")
    if by == "event":
        await cache.handle(event_of(profile_id="p-u1", customer_user_id="u1"))
    elif by == "sharing":
        await cache.handle(event_of(profile_id="p9", profiles_sharing_access_level=[shared]))
    elif by == "profile_id":
        cache.invalidate(profile_id="p-u1")
    elif by == "customer_user_id":
        cache.invalidate(customer_user_id="u1")
    else:
        cache.invalidate(customer_user_id="u1", profile_id="p-u1")
    for user in ("u1", "u2"):
        await cache.has_access("premium", customer_user_id=user)
    await cache.has_access("premium", profile_id="p-u1")

    assert server.requests == ["u1", "p-u1", "u2", "u1", "p-u1"]
    assert cache.statistics().invalidations == 2


async def test_a_webhook_makes_a_change_visible_at_once() -> None:
    """A grant in the sandbox reaches the cache through a webhook, long before its TTL."""
    caches: list[AccessCache] = []

    async def handle(event: Event) -> None:
        await caches[0].handle(event)

    app = web.Application()
    async with AsyncExitStack() as stack:
        receiver = await stack.enter_async_context(WebhookReceiver(handle, secret="s"))
        app.router.add_post("/", webhook_handler(receiver))
        runner = web.AppRunner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        sandbox = await stack.enter_async_context(
            Sandbox(webhook_url=url, webhook_authorization="s")
        )
        sandbox.seed_profiles(["u1"])
        client = AdaptyClient(sandbox.api_key, base_url=sandbox.url)
        await stack.enter_async_context(client)
        access = await stack.enter_async_context(AccessCache(client))
        caches.append(access)
        assert not await access.has_access("premium", customer_user_id="u1")
        await client.v2.access_levels.grant("premium", customer_user_id="u1")
        await sandbox.wait_for_webhooks()

        assert await access.has_access("premium", customer_user_id="u1")


async def test_the_profile_id_of_the_properties_counts(cache: AccessCache) -> None:
    """An event whose own profile id is not as documented has it among its properties."""
    await cache.has_access("premium", customer_user_id="u1")
    await cache.handle(event_of(profile_id=5, event_properties={"profile_id": "p-u1"}))

    assert cache.statistics().size == 0


async def test_an_event_with_odd_profiles_invalidates_its_own(cache: AccessCache) -> None:
    """An event whose list of profiles is not as documented still counts."""
    await cache.has_access("premium", customer_user_id="u1")
    await cache.handle(event_of(customer_user_id="u1", profiles_sharing_access_level=5))

    assert cache.statistics().size == 0


async def test_a_call_before_the_event_is_not_cached(cache: AccessCache, server: Server) -> None:
    """A response that may be older than the event serves its own lookups, and no later one."""
    server.held.clear()
    before = asyncio.create_task(cache.has_access("premium", customer_user_id="u1"))
    await loop_turns(10)
    await cache.handle(event_of(customer_user_id="u1"))
    server.replies["u1"] = profile(expires_at=date(-1))
    after = asyncio.create_task(cache.has_access("premium", customer_user_id="u1"))
    await loop_turns(10)
    server.held.set()

    assert await before
    assert not await after
    assert not await cache.has_access("premium", customer_user_id="u1")
    assert server.requests == ["u1", "u1"]


@pytest.mark.parametrize("ids", [{"profile_id": "p-u1"}, {"customer_user_id": "u1"}], ids=str)
async def test_a_call_during_an_event_is_not_cached(
    cache: AccessCache, server: Server, ids: dict[str, str]
) -> None:
    """A call is not cached if an event named either id of its profile meanwhile."""
    server.held.clear()
    lookup = asyncio.create_task(cache.has_access("premium", customer_user_id="u1"))
    await loop_turns(10)
    await cache.handle(event_of(**ids))
    server.held.set()
    await lookup
    for _ in range(2):
        await cache.has_access("premium", customer_user_id="u1")

    assert server.requests == ["u1", "u1"]


@pytest.mark.parametrize(
    ("lookup", "event"),
    [
        ({"profile_id": "u1"}, {"customer_user_id": "u1"}),
        ({"customer_user_id": "u1"}, {"profile_id": "p-u1"}),
    ],
    ids=["profile_id", "customer_user_id"],
)
async def test_a_lookup_after_an_event_does_not_share_an_older_call(
    cache: AccessCache, server: Server, lookup: dict[str, str], event: dict[str, str]
) -> None:
    """A call is made again if only its response shows that the event was about its profile."""
    server.held.clear()
    before = asyncio.create_task(cache.has_access("premium", **lookup))
    await loop_turns(10)
    await cache.handle(event_of(**event))
    after = asyncio.create_task(cache.has_access("premium", **lookup))
    await loop_turns(10)
    server.replies["u1"] = profile(expires_at=date(-1))
    server.held.set()

    assert await before
    assert not await after
    assert not await cache.has_access("premium", **lookup)
    assert server.requests == ["u1", "u1"]


async def test_an_anonymous_profile_is_invalidated_by_its_only_id(
    cache: AccessCache, server: Server
) -> None:
    """A profile without a customer user id is removed, and not those of other lookups."""
    fields = {"profile_id": "p1", "customer_user_id": None}
    server.replies["p1"] = (200, {}, json.dumps({"data": fields}).encode())
    for _ in range(2):
        assert not await cache.has_access("premium", profile_id="p1")
        await cache.has_access("premium", customer_user_id="u1")
        cache.invalidate(profile_id="p1")

    assert server.requests == ["p1", "u1", "p1"]


async def test_a_lookup_after_an_event_does_not_wait_for_an_older_call(
    cache: AccessCache, server: Server
) -> None:
    """A call of before the event that hangs delays only its own lookups."""
    server.held.clear()
    before = asyncio.create_task(cache.has_access("premium", customer_user_id="u1"))
    await loop_turns(10)
    cache.invalidate(customer_user_id="u1")
    hanging, server.held = server.held, asyncio.Event()
    server.held.set()

    assert await cache.has_access("premium", customer_user_id="u1")
    assert not before.done()
    assert cache.statistics().invalidations == 1
    hanging.set()
    assert await before


async def test_an_absence_of_before_an_event_is_not_cached(
    cache: AccessCache, server: Server
) -> None:
    """A user who gets a profile during a call is not without one for the whole TTL."""
    server.replies["u1"] = MISSING
    server.held.clear()
    before = asyncio.create_task(cache.has_access("premium", customer_user_id="u1"))
    await loop_turns(10)
    await cache.handle(event_of(profile_id="p-u1", customer_user_id="u1"))
    del server.replies["u1"]
    server.held.set()

    assert not await before
    assert await cache.has_access("premium", customer_user_id="u1")


async def test_a_user_without_a_profile_is_invalidated_by_sharing(
    cache: AccessCache, server: Server
) -> None:
    """A cached absence has the id of its lookup alone, and an event may name that id."""
    server.replies["u1"] = MISSING
    assert not await cache.has_access("premium", customer_user_id="u1")
    del server.replies["u1"]
    shared = {"profile_id": "p-u1", "customer_user_id": "u1"}
    await cache.handle(event_of(profile_id="p9", profiles_sharing_access_level=[shared]))

    assert await cache.has_access("premium", customer_user_id="u1")


async def test_an_event_about_the_former_profile_of_a_user_is_not_about_the_user(
    cache: AccessCache, server: Server, clock: FakeClock
) -> None:
    """A profile that is read again counts by its new ids alone, however often it is read."""
    for name in ("old", "new"):
        server.replies["u1"] = profile(name)
        await cache.has_access("premium", customer_user_id="u1")
        clock.now += 60
    await cache.has_access("premium", customer_user_id="u1")
    cache.invalidate(profile_id="p-old")
    await cache.has_access("premium", customer_user_id="u1")
    assert server.requests == ["u1"] * 3

    cache.invalidate(profile_id="p-new")
    await cache.has_access("premium", customer_user_id="u1")
    assert server.requests == ["u1"] * 4


async def test_an_event_of_before_a_call_does_not_count_because_of_later_ones(
    server: Server, clock: FakeClock
) -> None:
    """The log of events drops the oldest one, and only that counts for every profile."""
    async with (
        AdaptyClient("key", transport=server) as client,
        AccessCache(client, max_profiles=2, clock=clock) as cache,
    ):
        cache.invalidate(profile_id="a")
        cache.invalidate(profile_id="b")
        server.held.clear()
        lookup = asyncio.create_task(cache.has_access("premium", customer_user_id="u1"))
        await loop_turns(10)
        cache.invalidate(profile_id="a")
        cache.invalidate(profile_id="c")
        server.held.set()
        await lookup
        await cache.has_access("premium", customer_user_id="u1")

    assert server.requests == ["u1"]


async def test_many_events_during_a_call_are_all_remembered(
    server: Server, clock: FakeClock
) -> None:
    """More events than the cache has profiles do not put an outdated profile into it."""
    async with (
        AdaptyClient("key", transport=server) as client,
        AccessCache(client, max_profiles=2, clock=clock) as cache,
    ):
        server.held.clear()
        before = asyncio.create_task(cache.has_access("premium", customer_user_id="u1"))
        await loop_turns(10)
        for name in ("p-u1", "p2", "p3", "p4"):
            cache.invalidate(profile_id=name)
        server.held.set()
        await before
        for _ in range(2):
            await cache.has_access("premium", customer_user_id="u1")

    assert server.requests == ["u1", "u1"]


async def test_a_profile_in_use_is_invalidated_after_many_others(
    server: Server, clock: FakeClock
) -> None:
    """An event with a profile id finds each cached profile, however many were read after it."""
    async with (
        AdaptyClient("key", transport=server) as client,
        AccessCache(client, max_profiles=2, clock=clock) as cache,
    ):
        for user in ("u1", "u2", "u1", "u3", "u1"):
            await cache.has_access("premium", customer_user_id=user)
        cache.invalidate(profile_id="p-u1")
        await cache.has_access("premium", customer_user_id="u1")

    assert server.requests == ["u1", "u2", "u3", "u1"]


def ids_of(name: str) -> tuple[dict[str, str], ...]:
    """Return one id of a profile, the other one, and both."""
    customer, profile = {"customer_user_id": f"u{name}"}, {"profile_id": f"p{name}"}
    return customer, profile, customer | profile


@pytest.mark.parametrize("seed", range(16))
async def test_no_lookup_returns_what_an_earlier_event_made_outdated(seed: int) -> None:
    """Whatever runs at the same time, a lookup after an event never has an older profile."""
    choice = random.Random(seed).choice
    revenues = {"1": 0, "2": 0, "3": 0}  # in Adapty; it counts the changes of each profile
    named = dict(revenues)  # the revenue at the last event
    errors: list[AdaptyError | None] = [None]

    async def respond(request: Request) -> Response:
        [name] = [
            value[1] for field, value in request.headers.items() if field.lower().endswith("-id")
        ]
        await loop_turns(choice(range(6)))
        if errors[0] is not None:
            raise errors[0]
        fields = {"profile_id": f"p{name}", "customer_user_id": f"u{name}"}
        body = json.dumps({"data": {**fields, "total_revenue_usd": revenues[name]}}).encode()
        await loop_turns(choice(range(6)))
        return Response(200, {}, body)

    async def look_up(cache: AccessCache) -> None:
        name = choice("123")
        known = named[name]
        with suppress(ServerError, CircuitOpenError):
            found = await cache.profile(**choice(ids_of(name)[:2]))
            assert found.profile is not None
            assert found.profile.total_revenue_usd >= known

    retry, ttl = RetryPolicy(attempts=1), choice((1e-9, 60.0))
    async with (
        AdaptyClient("key", transport=respond, retry=retry) as client,
        AccessCache(client, ttl=ttl, max_wait=1e-6, max_profiles=choice((1, 3, 99))) as cache,
        asyncio.TaskGroup() as lookups,
    ):
        for _ in range(100):
            tasks = [lookups.create_task(look_up(cache)) for _ in range(choice((1, 2, 3)))]
            await loop_turns(choice(range(8)))
            if choice((True, False)):
                choice(tasks).cancel()
            errors[0] = choice((*[errors[0]] * 19, None if errors[0] else ServerError("down")))
            name = choice("123")
            revenues[name] = named[name] = revenues[name] + 1
            cache.invalidate(**choice(ids_of(name)))


async def test_the_end_of_an_invalidated_call_leaves_the_newer_one(
    cache: AccessCache, server: Server
) -> None:
    """Lookups after an event share one call, also if the call before the event ends meanwhile."""

    def lookup() -> asyncio.Task[bool]:
        return asyncio.create_task(cache.has_access("premium", customer_user_id="u1"))

    first = server.held = asyncio.Event()
    lookups = [lookup()]
    await loop_turns(10)
    cache.invalidate(customer_user_id="u1")
    second = server.held = asyncio.Event()
    lookups.append(lookup())
    await loop_turns(10)
    first.set()
    await loop_turns(10)
    lookups.append(lookup())
    await loop_turns(10)
    second.set()

    assert all(await asyncio.gather(*lookups))
    assert await cache.has_access("premium", customer_user_id="u1")
    assert server.requests == ["u1", "u1"]


async def test_an_invalidated_profile_does_not_count_in_an_outage(
    cache: AccessCache, server: Server, clock: FakeClock
) -> None:
    """A profile that an event made outdated is not served, even if its call runs already."""
    await cache.has_access("premium", customer_user_id="u1")
    clock.now += 60
    server.error = ServerError("down")
    server.held.clear()
    lookup = asyncio.create_task(cache.has_access("premium", customer_user_id="u1"))
    await loop_turns(10)
    cache.invalidate(customer_user_id="u1")
    server.held.set()

    with pytest.raises(ServerError, match="down"):
        await lookup


# Bounds and options


async def test_a_call_leaves_no_task_in_memory(cache: AccessCache, server: Server) -> None:
    """A service that runs for months does not hold the tasks of its calls."""
    for user in ("u1", "u2"):
        await cache.has_access("premium", customer_user_id=user)
    gc.collect()

    assert len(server.tasks) == 2
    assert not [task for made in server.tasks if (task := made())]


async def test_profiles_are_bounded(server: Server, clock: FakeClock) -> None:
    """A full cache drops the profile that was not used for longest."""
    async with (
        AdaptyClient("key", transport=server) as client,
        AccessCache(client, max_profiles=2, clock=clock) as cache,
    ):
        for user in ("u1", "u2", "u1", "u3", "u1", "u2"):
            await cache.has_access("premium", customer_user_id=user)

        assert server.requests == ["u1", "u2", "u3", "u2"]
        assert cache.statistics().size == 2


async def test_closing_cancels_calls(cache: AccessCache, server: Server) -> None:
    """A closed cache raises an error for waiting and for later lookups."""
    server.held.clear()
    lookup = asyncio.create_task(cache.has_access("premium", customer_user_id="u1"))
    await loop_turns(10)
    await cache.aclose()

    assert repr(cache) == "AccessCache(0 profiles, 0 calls in flight)"
    with pytest.raises(ConfigError, match="the cache is closed"):
        await lookup
    with pytest.raises(ConfigError, match="the cache is closed"):
        await cache.profile(customer_user_id="u2")


async def test_a_forked_process_starts_its_own_calls(cache: AccessCache, server: Server) -> None:
    """A call that was in flight in the parent does not keep the child from calling."""
    server.held.clear()
    lookup = asyncio.create_task(cache.has_access("premium", customer_user_id="u1"))
    await loop_turns(10)
    cache.after_fork()
    server.held.set()

    assert await cache.has_access("premium", customer_user_id="u1")
    assert await lookup
    assert server.requests == ["u1", "u1"]


@pytest.mark.parametrize(
    "ids", [{}, {"customer_user_id": "u1", "profile_id": "p1"}, {"customer_user_id": 5}], ids=str
)
async def test_exactly_one_id_is_required(cache: AccessCache, ids: dict[str, Any]) -> None:
    """No id, two ids, and an id that is no text are errors."""
    with pytest.raises(InvalidInputError, match="exactly one of"):
        await cache.has_access("premium", **ids)


async def test_an_id_that_cannot_be_sent_is_an_error(cache: AccessCache, server: Server) -> None:
    """The rules for ids are those of the client."""
    with pytest.raises(InvalidInputError, match="customer_user_id"):
        await cache.has_access("premium", customer_user_id="a\nb")
    assert server.requests == []


@pytest.mark.parametrize(
    "option", [{"ttl": 0}, {"stale": -1}, {"max_wait": 0}, {"max_profiles": 0}], ids=str
)
def test_a_wrong_option_is_an_error_of_configuration(option: dict[str, Any]) -> None:
    """Each option has its range."""
    client = AdaptyClient("key", transport=FakeTransport())
    with pytest.raises(ConfigError, match=next(iter(option))):
        AccessCache(client, **option)
