"""
Profiles that are created if they are missing: single calls, runs, and runs that resume.

A scripted server loses responses, rejects and refuses requests. A creation whose response was lost
must never be sent again, however the call or the run ended.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async import (
    AdaptyClient,
    AdaptyError,
    AuthenticationError,
    BulkReport,
    ConnectError,
    ConnectionLostError,
    DecodeError,
    InvalidInputError,
    Limits,
    NotFoundError,
    Operation,
    OutcomeStatus,
    RateLimitError,
    RequestRejectedError,
    RequestTimeoutError,
    RetryPolicy,
    RetrySafety,
    v2,
)
from adapty_async._client.base import BaseClient
from adapty_async._flow import limits as _limits
from adapty_async.bulk import BulkRun, ItemState
from adapty_async.endpoints import Endpoint
from adapty_async.hooks import CallEnded, CallStarted, Event
from adapty_async.sandbox import Sandbox
from adapty_async.testing import FakeClock, FakeTransport, MemoryJournal, Reply
from adapty_async.transport import Request, Response, Send
from tests._support import loop_turns
from tests.raw_server import ABSENT, RESET, RawServer, Received, Steps, api_error, reply
from tests.v2.samples import KEY, client, one_time

TWICE = RetryPolicy(attempts=2, wait_initial=0.001, wait_max=0.001)
JANE = v2.ProfileAttributes(first_name="Jane")
PROFILE = {"profile_id": "p1", "customer_user_id": "u1"}
FOUND: Reply = (200, {}, json.dumps({"data": PROFILE}).encode())


def failing(status: int, code: str = "x", **headers: str) -> Reply:
    """Return an error response in the format of the server-side API."""
    body = {"errors": [{"source": None, "errors": ["no"]}], "error_code": code}
    return status, headers, json.dumps(body).encode()


MISSING = failing(404, "profile_does_not_exist")
EXISTS = failing(409, "profile_exists")
REJECTED: Any = failing(400)
LOST = ConnectionLostError("gone")

Call = Callable[[AdaptyClient], Any]
CALLS: dict[str, tuple[Call, str]] = {
    "get_or_create": (
        lambda adapty: adapty.v2.profiles.get_or_create(JANE, customer_user_id="u1"),
        "GET",
    ),
    "ensure": (lambda adapty: adapty.v2.profiles.ensure(JANE, customer_user_id="u1"), "PATCH"),
}


def methods(transport: FakeTransport) -> list[str]:
    """Return the methods of the requests that were sent."""
    return [request.method for request in transport.requests]


@pytest.mark.parametrize("name", CALLS)
async def test_a_profile_that_exists_is_not_created(name: str) -> None:
    """One request is enough for a profile that exists, and it does not create anything."""
    call, method = CALLS[name]
    transport = FakeTransport([FOUND])
    profile = await call(client(transport))

    assert profile.profile_id == "p1"
    assert methods(transport) == [method]


@pytest.mark.parametrize("name", CALLS)
async def test_a_missing_profile_is_created_once(name: str) -> None:
    """The creation has the attributes, and its response is the result."""
    call, method = CALLS[name]
    transport = FakeTransport([MISSING, FOUND])
    profile = await call(client(transport))

    assert profile.customer_user_id == "u1"
    assert methods(transport) == [method, "POST"]
    assert transport.requests[1].headers["adapty-customer-user-id"] == "u1"
    assert json.loads(transport.requests[1].body or b"") == {"first_name": "Jane"}
    assert (transport.requests[0].body is None) == (method == "GET")


async def test_the_platform_is_that_of_each_write() -> None:
    """The header of the platform goes with a creation and an update, and with no read."""
    transport = FakeTransport([MISSING, FOUND] * 2)
    profiles = client(transport).v2.profiles
    await profiles.get_or_create(customer_user_id="u1", platform="iOS")
    await profiles.ensure(JANE, customer_user_id="u1", platform="iOS")

    sent = [request.headers.get("adapty-platform") for request in transport.requests]
    assert sent == [None, "iOS", "iOS", "iOS"]


UNDECIDED: dict[str, Any] = {
    "lost": LOST,
    "timeout": RequestTimeoutError("late"),
    "server error": failing(500),
    "page": (200, {}, b"<html></html>"),
    "conflict": EXISTS,
    "rejected": failing(400, "already_exists"),
    "unprocessable": failing(422),
}


@pytest.mark.parametrize("reason", UNDECIDED)
@pytest.mark.parametrize("name", CALLS)
async def test_a_second_look_decides(name: str, reason: str) -> None:
    """If the profile exists after a lost or rejected creation, it is the result."""
    call, method = CALLS[name]
    transport = FakeTransport([MISSING, copy.copy(UNDECIDED[reason]), FOUND])
    profile = await call(client(transport))

    assert profile.profile_id == "p1"
    assert methods(transport) == [method, "POST", method]


@pytest.mark.parametrize("reason", UNDECIDED)
@pytest.mark.parametrize("name", CALLS)
async def test_a_creation_is_never_sent_a_second_time(name: str, reason: str) -> None:
    """If the profile is still missing after a creation that failed, its error is raised."""
    call, method = CALLS[name]
    transport = FakeTransport([MISSING, copy.copy(UNDECIDED[reason]), MISSING])
    with pytest.raises(AdaptyError) as caught:
        await call(client(transport))

    assert methods(transport) == [method, "POST", method]
    assert not isinstance(caught.value, NotFoundError)
    assert (caught.value.operation, caught.value.attempts) == ("v2.profiles.create", 3)


@pytest.mark.parametrize("last", [LOST, failing(401, "not_authenticated")], ids=["lost", "key"])
async def test_a_second_look_that_fails_leaves_the_error_of_the_creation(last: Any) -> None:
    """The caller learns that the creation is unknown, not that a read failed."""
    policy = RetryPolicy(attempts=1)
    transport = FakeTransport([MISSING, RequestTimeoutError("late"), copy.copy(last)])
    with pytest.raises(RequestTimeoutError, match="late") as caught:
        await client(transport, retry=policy).v2.profiles.get_or_create(customer_user_id="u1")

    assert caught.value.attempts == 3
    assert caught.value.__cause__ is None


DECIDED: dict[str, tuple[Any, type[AdaptyError], int]] = {
    # a reply to the creation, its error, and the requests that were sent
    "no connection": (ConnectError("no", permanent=True), ConnectError, 2),
    "key": (failing(401, "not_authenticated"), AuthenticationError, 2),
    "missing": (failing(404, "profile_does_not_exist"), NotFoundError, 2),
    "throttled": (failing(429, Retry_After="900"), RateLimitError, 2),
}


@pytest.mark.parametrize("reason", DECIDED)
async def test_a_creation_that_was_certainly_not_processed_needs_no_second_look(
    reason: str,
) -> None:
    """An error that proves that nothing was created is raised at once."""
    answer, kind, requests = DECIDED[reason]
    if isinstance(answer, tuple):
        status, headers, body = answer
        answer = status, {name.replace("_", "-"): one for name, one in headers.items()}, body
    transport = FakeTransport([MISSING, answer])
    with pytest.raises(kind):
        await client(transport).v2.profiles.get_or_create(customer_user_id="u1")

    assert len(transport.requests) == requests


async def test_a_creation_that_was_not_processed_is_sent_again() -> None:
    """A creation that certainly was not processed is retried as any creation is."""
    refused = failing(503, **{"Retry-After": "0"})
    transport = FakeTransport([MISSING, ConnectError("no"), refused, FOUND])
    policy = RetryPolicy(attempts=3, wait_initial=0.001, wait_max=0.001)
    profile = await client(transport, retry=policy).v2.profiles.ensure(JANE, customer_user_id="u1")

    assert profile.profile_id == "p1"
    assert methods(transport) == ["PATCH", "POST", "POST", "POST"]


async def test_a_gateways_404_creates_nothing() -> None:
    """Only the API's own "not found" proves that a profile is missing."""
    transport = FakeTransport([(404, {}, b"<html>nothing here</html>")])
    with pytest.raises(RequestRejectedError, match="check base_url"):
        await client(transport).v2.profiles.get_or_create(customer_user_id="u1")

    assert methods(transport) == ["GET"]


async def test_all_steps_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that has no time left after a lost creation does not look again."""
    clock = FakeClock()
    monkeypatch.setattr(BaseClient, "_clock", clock)

    class Slow(FakeTransport):
        async def __call__(self, request: Request) -> Response:
            if request.method == "POST":
                clock.now += 60.0
            return await super().__call__(request)

    transport = Slow([MISSING, LOST])
    adapty = client(transport).with_options(deadline=50.0)
    with pytest.raises(ConnectionLostError) as caught:
        await adapty.v2.profiles.get_or_create(customer_user_id="u1")

    assert methods(transport) == ["GET", "POST"]
    assert caught.value.attempts == 2


async def test_hooks_see_each_request_as_a_call() -> None:
    """The read and the creation have events of their own, each with its attempts."""
    events: list[Event] = []
    transport = FakeTransport([LOST, MISSING, FOUND])
    adapty = client(transport, hooks=(events.append,), retry=TWICE)
    await adapty.v2.profiles.get_or_create(customer_user_id="u1")

    started = [event.operation for event in events if isinstance(event, CallStarted)]
    ended = [event for event in events if isinstance(event, CallEnded)]
    assert started == ["v2.profiles.get", "v2.profiles.create"]
    assert [(event.attempts, event.error) for event in ended] == [(2, "NotFoundError"), (1, None)]


def test_only_a_customer_user_id_can_be_created() -> None:
    """A bad id, attribute or platform is an error before anything is sent."""
    with pytest.raises(InvalidInputError, match="at least one of customer_user_id"):
        v2.get_or_create_profile(customer_user_id=None)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"attributes: must be a v2.ProfileAttributes"):
        v2.ensure_profile(None, customer_user_id="u1")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="create_missing: needs a customer_user_id"):
        v2.set_transaction(one_time(), profile_id="p1", create_missing=True)
    with pytest.raises(InvalidInputError, match="create_missing: needs a customer_user_id"):
        client(FakeTransport()).v2.transactions.bulk_set([], by="profile_id", create_missing=True)


async def test_the_creation_is_validated_before_the_read_is_sent() -> None:
    """An attribute that breaks a documented rule sends nothing, not even a read."""
    transport = FakeTransport()
    with pytest.raises(InvalidInputError, match="email"):
        await client(transport).v2.profiles.get_or_create(
            v2.ProfileAttributes(email="nobody"), customer_user_id="u1"
        )

    assert transport.requests == []


# Transactions


async def test_a_transaction_of_a_missing_profile_is_recorded_after_its_creation() -> None:
    """The profile is created without attributes, and the transaction is sent again."""
    transport = FakeTransport([MISSING, FOUND, FOUND])
    await client(transport).v2.transactions.set(
        one_time(), customer_user_id="u1", create_missing=True
    )

    paths = [request.url.rpartition("server-side-api/")[2] for request in transport.requests]
    assert paths == ["purchase/set/transaction/", "profile/", "purchase/set/transaction/"]
    assert transport.requests[1].body == b"{}"


async def test_a_transaction_after_a_lost_creation_decides() -> None:
    """A transaction that is accepted proves that the profile exists; a 404 leaves it unknown."""
    accepted = FakeTransport([MISSING, LOST, FOUND])
    refused = FakeTransport([MISSING, copy.copy(LOST), MISSING])
    for transport in (accepted, refused):
        calls = [v2.set_transaction(one_time(), customer_user_id="u1", create_missing=True)]
        async with client(transport).bulk(calls) as run:
            [outcome] = [outcome async for outcome in run]
        found = transport is accepted
        assert outcome.status is (OutcomeStatus.DONE if found else OutcomeStatus.UNKNOWN)


@pytest.mark.parametrize(
    "last", [failing(400, "no_products_found"), RequestTimeoutError("late")], ids=["400", "lost"]
)
async def test_a_transaction_after_a_lost_race_has_its_own_error(last: Any) -> None:
    """If somebody else created the profile, the caller learns how the transaction ended."""
    transport = FakeTransport([MISSING, EXISTS, last])
    with pytest.raises((RequestRejectedError, RequestTimeoutError)) as caught:
        await client(transport, retry=RetryPolicy(attempts=1)).v2.transactions.set(
            one_time(), customer_user_id="u1", create_missing=True
        )

    assert (caught.value.operation, caught.value.attempts) == ("v2.transactions.set", 3)


@pytest.mark.parametrize("creation", [FOUND, EXISTS], ids=["created", "lost race"])
async def test_a_call_that_must_not_be_retried_has_an_entry_after_the_creation(
    creation: Any,
) -> None:
    """A run that is killed while it sends such a call again leaves an item that is not sent."""
    journal, states = MemoryJournal(), []

    class Watched(FakeTransport):
        async def __call__(self, request: Request) -> Response:
            states.append(ItemState(journal.spans[0][0]))
            return await super().__call__(request)

    call = Operation(
        Endpoint(name="x.add", method="POST", path="/x/", decode=bytes),
        if_missing=v2.create_profile(customer_user_id="u1"),
        is_done_by_creation=False,
    )
    transport = Watched([MISSING, creation, ConnectError("no"), FOUND])
    report = await client(transport, retry=TWICE).bulk([call], journal=journal)

    assert report.done == 1
    assert states == [ItemState.STARTED] * 4


async def test_a_transaction_that_is_rejected_after_the_creation_is_failed() -> None:
    """The error of the transaction is that of the item, once its profile is created."""
    transport = FakeTransport([MISSING, FOUND, failing(400, "no_products_found")])
    report = await client(transport).v2.transactions.bulk_set(
        [("u1", one_time())], by="customer_user_id", create_missing=True
    )

    assert (report.failed, report.unknown) == (1, 0)
    assert isinstance(report.failures[0].error, RequestRejectedError)


# Over real sockets


@pytest.mark.parametrize("name", CALLS)
async def test_a_response_that_is_lost_on_the_wire_creates_once(name: str) -> None:
    """A server that creates the profile and cuts the connection sees one creation."""
    call, method = CALLS[name]
    found = (reply(200, json.dumps({"data": PROFILE}).encode()),)
    async with RawServer(ABSENT, (RESET,), found) as server:
        async with AdaptyClient(KEY, base_url=server.url, retry=TWICE) as adapty:
            profile = await call(adapty)
        await server.until_left()

    assert profile.profile_id == "p1"
    assert [request.method for request in server.requests] == [method, "POST", method]


async def test_a_lost_race_ends_with_the_profile_of_the_other() -> None:
    """Of many callers at once, each gets the profile, whoever created it."""
    created = 0

    def race(request: Received) -> Steps:
        nonlocal created
        if request.method == "POST":
            created += 1
            if created > 1:
                return (api_error(409, "profile_exists"),)
        elif not created:
            return ABSENT
        return (reply(200, json.dumps({"data": PROFILE}).encode()),)

    async with RawServer(then=race) as server:
        async with AdaptyClient(KEY, base_url=server.url, retry=TWICE) as adapty:
            calls = (adapty.v2.profiles.get_or_create(customer_user_id="u1") for _ in range(20))
            profiles = await asyncio.gather(*calls)
        await server.until_left()

    assert {profile.profile_id for profile in profiles} == {"p1"}


@pytest.mark.parametrize("name", CALLS)
async def test_the_sandbox_has_the_profile_afterwards(name: str) -> None:
    """Both calls end with a profile; one that existed is changed by `ensure` alone."""
    call, _ = CALLS[name]
    async with Sandbox() as sandbox:
        async with AdaptyClient(sandbox.api_key, base_url=sandbox.url, retry=TWICE) as adapty:
            sandbox.seed_profiles(["u1"])
            existing = await call(adapty)
            before = sandbox.profile(customer_user_id="u1") or {}
            await adapty.v2.profiles.delete(customer_user_id="u1")
            sandbox.fail_next("503", "404")  # a busy server is asked again
            created = await call(adapty)
        after = sandbox.profile(customer_user_id="u1") or {}

    assert existing.profile_id != created.profile_id
    assert before.get("first_name") == ("Jane" if name == "ensure" else None)
    assert after.get("first_name") == "Jane"


# Runs


ITEMS = [(f"u{number}", JANE) for number in range(50)]


@pytest.mark.parametrize("method", ["bulk_get_or_create", "bulk_ensure"])
async def test_a_run_creates_what_is_missing(method: str) -> None:
    """Each item ends done with its profile, one request for those that exist, two for others."""
    async with Sandbox() as sandbox:
        sandbox.seed_profiles(name for name, _ in ITEMS[:30])
        async with AdaptyClient(sandbox.api_key, base_url=sandbox.url, retry=TWICE) as adapty:
            run = getattr(adapty.v2.profiles, method)(ITEMS)
            async with run:
                results = [outcome.result async for outcome in run]

        assert sandbox.customer_user_ids() == {name for name, _ in ITEMS}
    assert (run.report.done, run.report.requests) == (50, 70)
    assert {result.customer_user_id for result in results} == {name for name, _ in ITEMS}


async def test_a_bad_pair_is_a_failed_outcome() -> None:
    """An item that is no pair, or has no attributes, fails alone."""
    items: list[Any] = ["u1", ("u2", None), ("u3", JANE)]
    for method in ("bulk_get_or_create", "bulk_ensure"):
        run = getattr(client(FakeTransport([FOUND])).v2.profiles, method)(items)
        report = await run
        assert (report.done, report.failed) == (1, 2)


async def test_creations_of_different_attributes_are_no_duplicates() -> None:
    """Requests that differ in the creation alone are not the same, nor are a read and a call."""
    john = v2.ProfileAttributes(first_name="John")
    calls: list[Operation[Any]] = [
        v2.get_profile(customer_user_id="u1"),
        v2.get_or_create_profile(JANE, customer_user_id="u1"),
        v2.get_or_create_profile(john, customer_user_id="u1"),
        v2.get_or_create_profile(john, customer_user_id="u1"),
    ]
    report = await client(FakeTransport([FOUND] * 3)).bulk(calls, dedupe=True)

    assert (report.done, report.skipped) == (3, 1)


def attributes_of(users: list[str], *, backwards: bool) -> list[tuple[str, v2.ProfileAttributes]]:
    """Return an item for each user; all are different."""
    items = [(user, v2.ProfileAttributes(last_name=str(n))) for n, user in enumerate(users)]
    return items[::-1] if backwards else items


def gets(
    adapty: AdaptyClient, users: list[str], *, backwards: bool = False, **options: Any
) -> BulkRun[Any, Any]:
    """Return a run that reads a profile for each user, or creates it with other attributes."""
    items = attributes_of(users, backwards=backwards)
    return adapty.v2.profiles.bulk_get_or_create(items, concurrency=1, **options)


def ensures(
    adapty: AdaptyClient, users: list[str], *, backwards: bool = False, **options: Any
) -> BulkRun[Any, Any]:
    """Return a run that updates a profile for each user, or creates it."""
    items = attributes_of(users, backwards=backwards)
    return adapty.v2.profiles.bulk_ensure(items, concurrency=1, **options)


def purchases(
    adapty: AdaptyClient, users: list[str], *, backwards: bool = False, **options: Any
) -> BulkRun[Any, Any]:
    """Return a run that records a purchase for each user, whose profile is created before."""
    items = [
        (user, one_time(store_transaction_id=str(n), store_original_transaction_id=str(n)))
        for n, user in enumerate(users)
    ]
    return adapty.v2.transactions.bulk_set(
        items[::-1] if backwards else items,
        by="customer_user_id",
        create_missing=True,
        concurrency=1,
        **options,
    )


def creations(transport: FakeTransport) -> list[str]:
    """Return the users for whom a creation was sent."""
    return [
        request.headers["adapty-customer-user-id"]
        for request in transport.requests
        if request.method == "POST" and request.url.endswith("/server-side-api/profile/")
    ]


@pytest.mark.parametrize("start", [gets, ensures, purchases], ids=lambda start: start.__name__)
async def test_a_lost_creation_is_not_sent_again_for_another_item(
    start: Callable[..., BulkRun[Any, Any]],
) -> None:
    """A later item of the same user creates nothing, since the server still may; others do."""
    transport = FakeTransport([MISSING, LOST, MISSING, MISSING, MISSING, FOUND, FOUND])
    run = start(client(transport, retry=TWICE), ["u1", "u1", "u2"])
    async with run:
        outcomes = [outcome async for outcome in run]

    assert [outcome.status for outcome in outcomes] == [
        OutcomeStatus.UNKNOWN,
        OutcomeStatus.FAILED,
        OutcomeStatus.DONE,
    ]
    assert isinstance(outcomes[1].error, NotFoundError)
    assert str(outcomes[1].error).startswith("status 404; not created, since another item lost")
    assert creations(transport) == ["u1", "u2"]


@pytest.mark.parametrize("job_id", [None, "job"], ids=["by digest", "by position"])
@pytest.mark.parametrize(
    "first_run",
    [[MISSING, LOST, MISSING, MISSING], [failing(400), MISSING, LOST, MISSING]],
    ids=["lost by the first item", "lost after an item that failed"],
)
@pytest.mark.parametrize("start", [gets, ensures, purchases], ids=lambda start: start.__name__)
async def test_a_resumed_run_sends_a_lost_creation_for_no_item(
    start: Callable[..., BulkRun[Any, Any]], first_run: list[Any], job_id: str | None
) -> None:
    """While the profile is missing, no run creates it again; once it is there, all items end."""
    transport = FakeTransport([*first_run, MISSING, MISSING, FOUND, FOUND])
    adapty, journal = client(transport, retry=TWICE), MemoryJournal()
    reports = [await start(adapty, ["u1", "u1"], journal=journal, job_id=job_id) for _ in range(3)]

    assert [(each.done, each.failed, each.unknown) for each in reports] == [
        (0, 1, 1),
        (0, 1, 1),
        (2, 0, 0),
    ]
    assert creations(transport) == ["u1"]


@pytest.mark.parametrize("start", [gets, ensures, purchases], ids=lambda start: start.__name__)
async def test_an_earlier_item_does_not_send_a_creation_that_an_earlier_run_lost(
    start: Callable[..., BulkRun[Any, Any]],
) -> None:
    """A run that resumes in another order creates the other user's profile, and no lost one."""
    created = [MISSING, FOUND, FOUND] if start is purchases else [MISSING, FOUND]
    transport = FakeTransport([MISSING, LOST, MISSING, *created, MISSING, MISSING, FOUND, FOUND])
    adapty, journal = client(transport, retry=TWICE), MemoryJournal()
    users = ["u1", "u1", "u2"]
    reports = [
        await start(adapty, users[:1], journal=journal),
        *[await start(adapty, users, journal=journal, backwards=True) for _ in range(2)],
    ]

    assert [(each.done, each.failed, each.unknown) for each in reports] == [
        (0, 0, 1),
        (1, 1, 1),
        (2, 0, 0),
    ]
    assert isinstance(reports[1].failures[0].error, NotFoundError)
    assert creations(transport) == ["u1", "u2"]


async def test_items_that_are_held_back_do_not_stop_their_run() -> None:
    """However many users have a lost creation, the run gets to the user who comes after them."""

    class Losing(FakeTransport):
        async def __call__(self, request: Request) -> Response:
            is_creation = request.method == "POST"
            if is_creation and request.headers["adapty-customer-user-id"] != "last":
                raise ConnectionLostError("gone")
            response: Any = FOUND if is_creation else MISSING
            return Response(*response)

    adapty, journal = client(Losing(), retry=RetryPolicy(attempts=1)), MemoryJournal()
    john = v2.ProfileAttributes(first_name="John")
    users = [f"u{number}" for number in range(60)]

    def start(items: list[tuple[str, v2.ProfileAttributes]]) -> BulkRun[Any, Any]:
        return adapty.v2.profiles.bulk_get_or_create(items, concurrency=1, journal=journal)

    lost = await start([(user, JANE) for user in users])
    resumed = await start([(user, john) for user in [*users, "last"]])

    assert lost.unknown == 60
    assert (resumed.done, resumed.failed, resumed.stop_reason) == (1, 60, None)


async def test_the_key_of_a_profile_leaves_out_the_headers_of_one_item() -> None:
    """Items of one user that differ in their platform are about the same profile."""
    transport = FakeTransport([MISSING, LOST, *[MISSING] * 3])
    adapty, journal = client(transport, retry=TWICE), MemoryJournal()

    def start(platforms: list[v2.Platform]) -> BulkRun[Any, Any]:
        return adapty.bulk(
            platforms,
            build=lambda each: v2.get_or_create_profile(customer_user_id="u1", platform=each),
            concurrency=1,
            journal=journal,
        )

    await start(["iOS"])
    report = await start(["Android", "iOS"])

    assert (report.failed, report.unknown) == (1, 1)
    assert creations(transport) == ["u1"]


CREATE = Endpoint(name="create", method="POST", path="/create/", decode=bytes)
ORDERS = itertools.cycle([(0, 8), (8, 0)])  # their sets are equal, and have these orders


def look_at(path: str = "/look/", **fields: Any) -> Endpoint[bytes]:
    """Return the endpoint of a call of the caller's own that reads an object."""
    return Endpoint(
        name="look",
        method="POST",
        path=path,
        decode=bytes,
        retry_safety=RetrySafety.ALWAYS,
        absent_if_missing=True,
        **fields,
    )


def in_body(object_id: str) -> Operation[bytes]:
    """Return an operation that names its object in the body."""
    body = {"id": object_id}
    return Operation(look_at(), body=body, if_missing=CREATE(body))


def in_encoded_body(object_id: str) -> Operation[bytes]:
    """Return an operation whose body is a value that its endpoint alone can encode."""
    look = look_at(encode=lambda body: str(body).encode())
    return Operation(look, body=Path(object_id), if_missing=CREATE({"id": object_id}))


def in_path(object_id: str) -> Operation[bytes]:
    """Return an operation whose path is all that names its object."""
    return Operation(look_at(f"/look/{object_id}/"), if_missing=CREATE({"id": object_id}))


def in_set(object_id: str) -> Operation[bytes]:
    """Return an operation whose lock key is a set, which differs in its order at each call."""
    key = frozenset(next(ORDERS) if object_id == "a" else ())
    look = look_at(lock_key=lambda _: key)
    return Operation(look, body={"id": object_id}, if_missing=CREATE({"id": object_id}))


@pytest.mark.parametrize(
    "build", [in_body, in_encoded_body, in_path, in_set], ids=lambda build: build.__name__
)
async def test_an_object_of_a_callers_own_operation_is_created_once(
    build: Callable[[str], Operation[bytes]],
) -> None:
    """An operation needs no headers: its lock key, or its path and body are about its object."""
    transport = FakeTransport([MISSING, LOST, MISSING, *[MISSING, FOUND], MISSING])
    adapty, journal = client(transport, retry=TWICE), MemoryJournal()
    await adapty.bulk(["a"], build=build, concurrency=1, journal=journal)
    report = await adapty.bulk(["b", "a"], build=build, concurrency=1, journal=journal)

    assert (report.done, report.unknown) == (1, 1)
    sent = [request.url.rpartition("/create")[1] for request in transport.requests]
    assert sent == ["", "/create", "", "", "/create", ""]


@pytest.mark.parametrize("key", [object(), 1 << 64, "\ud800"], ids=["object", "large", "text"])
@pytest.mark.parametrize("journal", [None, MemoryJournal()], ids=["without", "with journal"])
async def test_a_lock_key_without_a_digest_creates_nothing(
    key: Hashable, journal: MemoryJournal | None
) -> None:
    """A lost creation under such a key could not be recognised, so the item fails unsent."""
    operation = Operation(look_at(lock_key=lambda _: key), if_missing=CREATE())
    transport = FakeTransport()
    report = await client(transport).bulk([operation], journal=journal)

    assert report.failed == 1
    assert "Endpoint.lock_key: must return text" in str(report.failures[0].error)
    assert transport.requests == []


class Server(FakeTransport):
    """
    A server with one profile, which follows a script, and dies with a run's process on "crash".

    Attributes:
        exists: whether the profile exists.
        creations: how many creations reached it after which the caller had no response.
        unanswered: whether a response to a creation was lost.
        was_killed: whether a run was killed, perhaps before it had recorded how a creation ended.
        snapshot: the journal as the last crash left it.
    """

    def __init__(self, journal: MemoryJournal, script: Sequence[str], *, exists: bool) -> None:
        super().__init__()
        self.journal = journal
        self.script = list(script)
        self.exists = exists
        self.unanswered = self.was_killed = False
        self.snapshot: MemoryJournal | None = None
        self.log: list[str] = []

    async def __call__(self, request: Request) -> Response:
        """Respond as the script says; a process that was killed reaches nobody."""
        if self.snapshot is not None:
            raise ConnectError("killed", operation=request.operation)
        fault = self.script.pop(0) if self.script else "ok"
        self.log.append(f"{request.method} {fault}")
        if fault == "refused":
            raise ConnectError("no", operation=request.operation)
        if request.method == "POST":
            assert not self.unanswered, "a second creation after a lost response"
            assert set(self.journal.spans[0]) & {ItemState.STARTED, ItemState.UNKNOWN}
        if fault == "race":
            self.exists = True
        status, headers, body = REJECTED if fault == "rejected" else self.perform(request)
        if fault in {"lost before", "crash before"} and request.method == "POST":
            self.exists = False
        if fault.startswith(("lost", "crash")):
            self.unanswered |= request.method == "POST"
            if fault.startswith("crash"):
                self.snapshot = copy.deepcopy(self.journal)
                self.was_killed = True
            raise ConnectionLostError("gone", operation=request.operation)
        return Response(status, headers, body)

    def perform(self, request: Request) -> Any:
        """Return the response to a request, and create the profile if it says so."""
        if request.method != "POST":
            return FOUND if self.exists else MISSING
        if self.exists:
            return EXISTS
        self.exists = True
        return FOUND

    @property
    def may_be_unknown(self) -> bool:
        """Whether the result of a creation may be unknown."""
        has_sent = any(entry.startswith("POST") for entry in self.log)
        return self.unanswered or (has_sent and self.was_killed)

    @property
    def state(self) -> ItemState:
        """The state of the item on the disk."""
        return ItemState(self.journal.spans[0][0])


FAULTS = st.sampled_from(
    [
        "ok",
        "rejected",
        "lost before",
        "lost after",
        "refused",
        "race",
        "crash before",
        "crash after",
    ]
)


@pytest.mark.parametrize("job_id", [None, "job"], ids=["by digest", "by position"])
@given(
    script=st.lists(FAULTS, max_size=12),
    orders=st.lists(st.permutations(range(3)), min_size=4, max_size=4),
    exists=st.booleans(),
    ensures=st.booleans(),
)
def test_no_run_creates_a_second_time(
    job_id: str | None,
    script: list[str],
    orders: list[list[int]],
    exists: bool,  # noqa: FBT001  hypothesis passes it by name
    ensures: bool,  # noqa: FBT001
) -> None:
    """
    Whatever is lost, refused or killed, no resumed run sends a creation after one without response.

    "done" is said of a profile that exists. "unknown" follows only a creation without response, or
    a run that was killed before it recorded the response. Three items of one user come in the order
    of the first run, or by digest in that of each run.
    """
    orders = orders if job_id is None else orders[:1] * 4
    asyncio.run(check(job_id, script, orders, exists=exists, ensures=ensures))


def resumable(server: Server) -> MemoryJournal:
    """Return the journal as the last run left it, or lost it when its process was killed."""
    if server.snapshot is not None:
        server.journal, server.snapshot = server.snapshot, None
        server.journal._is_open = False
    return server.journal


async def check(
    job_id: str | None, script: list[str], orders: list[list[int]], *, exists: bool, ensures: bool
) -> None:
    """Run four times with a journal, each time as the run before left or lost it."""
    server = Server(MemoryJournal(), script, exists=exists)
    for order in orders:
        profiles = client(server, retry=TWICE).v2.profiles
        start = profiles.bulk_ensure if ensures else profiles.bulk_get_or_create
        items = [("u1", v2.ProfileAttributes(last_name=str(n))) for n in order]
        report = await start(items, concurrency=1, journal=resumable(server), job_id=job_id)
        assert (report.total, report.absent) == (3, 0)
        assert not (report.done or report.skipped) or server.exists
        assert not report.unknown or server.may_be_unknown


@pytest.mark.parametrize("created", [True, False], ids=["created", "not created"])
async def test_a_resumed_run_looks_for_what_a_killed_run_may_have_created(
    created: bool,  # noqa: FBT001  passed by name
) -> None:
    """A profile that is there after all is done; one that is not stays unknown, run after run."""
    crash = "crash after" if created else "crash before"
    server = Server(MemoryJournal(), ["ok", crash], exists=False)
    adapty, items = client(server, retry=TWICE), [("u1", JANE)]
    await adapty.v2.profiles.bulk_get_or_create(items, journal=server.journal)
    journal = resumable(server)
    assert server.state is ItemState.STARTED
    server.log.clear()
    reports = [await adapty.v2.profiles.bulk_get_or_create(items, journal=journal)]
    reports.append(await adapty.v2.profiles.bulk_get_or_create(items, journal=journal))

    assert [(each.done, each.skipped, each.unknown) for each in reports] == (
        [(1, 0, 0), (0, 1, 0)] if created else [(0, 0, 1)] * 2
    )
    assert server.log == ["GET ok"] * (1 if created else 2)
    for failure in reports[1].failures:
        error = failure.error
        assert isinstance(error, ConnectionLostError)
        assert (error.attempts, error.operation) == (1, "v2.profiles.get")
        assert str(error).startswith("an earlier run sent the creation and lost the response")


async def test_an_unknown_creation_stays_unknown_if_a_resumed_run_cannot_look() -> None:
    """An outage, or a stop before the read, does not make a lost creation a failed one."""
    server = Server(MemoryJournal(), ["ok", "lost before", "ok"], exists=False)
    adapty = client(server, retry=TWICE)
    items = [("u1", JANE)]
    first = await adapty.v2.profiles.bulk_ensure(items, journal=server.journal)
    server.script = ["lost before"] * 2
    second = await adapty.v2.profiles.bulk_ensure(items, journal=server.journal)
    server.script = ["refused"] * 2
    third = await adapty.v2.profiles.bulk_ensure(items, journal=server.journal)
    assert server.state is ItemState.UNKNOWN
    server.exists = True
    last = await adapty.v2.profiles.bulk_ensure(items, journal=server.journal)

    assert [report.unknown for report in (first, second, third)] == [1, 1, 1]
    assert last.done == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("is_sent", [False, True], ids=["before", "after"])
async def test_a_middleware_that_fails_decides_by_what_was_sent(
    method: str,
    is_sent: bool,  # noqa: FBT001  passed by name
) -> None:
    """Only a creation that may have reached the server is unknown; the next run sends any other."""

    async def fail(request: Request, send: Send) -> Response:
        response = await send(request) if is_sent or request.method != method else None
        if response is None or request.method == method:
            raise ValueError("a defect")
        return response

    journal, items = MemoryJournal(), [("u1", JANE)]
    broken = client(FakeTransport([MISSING, FOUND]))
    broken.add_middleware(fail)
    run = broken.v2.profiles.bulk_get_or_create(items, journal=journal)
    with pytest.raises(ValueError, match="a defect"):
        await run
    again = await client(FakeTransport([MISSING, FOUND])).v2.profiles.bulk_get_or_create(
        items, journal=journal
    )

    is_unknown = is_sent and method == "POST"
    assert (run.report.failed, run.report.unknown) == (not is_unknown, is_unknown)
    assert (again.done, again.unknown) == (not is_unknown, is_unknown)


class Held(FakeTransport):
    """A transport that never returns from one method, and says when it is called."""

    def __init__(self, replies: Iterable[Reply], method: str) -> None:
        super().__init__(replies)
        self.method = method
        self.reached = asyncio.Event()

    async def __call__(self, request: Request) -> Response:
        """Hold a request with the method."""
        if request.method == self.method:
            self.reached.set()
            await asyncio.Event().wait()
        return await super().__call__(request)


async def stopped(transport: Held, journal: MemoryJournal) -> BulkReport[Any, Any]:
    """Cancel a run while its transport holds a request, and return the report."""
    run = client(transport, retry=TWICE).v2.profiles.bulk_get_or_create(
        [("u1", JANE)], journal=journal, drain=0.01
    )
    task = asyncio.create_task(run)
    await transport.reached.wait()
    run.stop()
    return await task


async def test_a_run_that_is_stopped_reports_what_is_known() -> None:
    """A creation on the wire is unknown; a read is failed, since nothing was created."""
    journal = MemoryJournal()
    reading = await stopped(Held([], "GET"), journal)
    assert (reading.failed, reading.unknown) == (1, 0)
    creating = await stopped(Held([MISSING], "POST"), journal)
    assert (creating.failed, creating.unknown) == (0, 1)
    again = await stopped(Held([], "GET"), journal)
    assert (again.failed, again.unknown) == (0, 1)


async def test_a_stop_before_the_second_look_leaves_a_lost_creation_unknown() -> None:
    """A resumed item that waits for a connection when its run stops is still unknown."""
    opened = asyncio.Event()

    class Watched(MemoryJournal):
        async def open(self, *arguments: Any) -> Any:
            resumed = await super().open(*arguments)
            opened.set()
            return resumed

    journal = Watched()
    await stopped(Held([MISSING], "POST"), journal)
    transport = Held([], "GET")
    adapty = client(transport, retry=TWICE, limits=Limits(connections=1))
    blocking = asyncio.create_task(adapty.v2.profiles.get(customer_user_id="x"))
    await transport.reached.wait()
    opened.clear()
    run = adapty.v2.profiles.bulk_get_or_create([("u1", JANE)], journal=journal)
    task = asyncio.create_task(run)
    await opened.wait()
    await loop_turns(50)
    run.stop()
    report = await task
    blocking.cancel()
    await asyncio.gather(blocking, return_exceptions=True)

    assert (report.unknown, report.requests) == (1, 0)
    assert "earlier run sent the creation" in str(report.failures[0].error)


async def test_a_creation_that_waits_when_its_run_stops_was_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing was created, so the item is failed and the next run creates its profile."""
    monkeypatch.setattr(_limits, "_VOID", math.inf)  # the next permit comes 1,000 s later
    journal, read = MemoryJournal(), asyncio.Event()

    class Reading(FakeTransport):
        async def __call__(self, request: Request) -> Response:
            read.set()
            return await super().__call__(request)

    transport = Reading([MISSING])
    run = client(transport).v2.profiles.bulk_ensure([("u1", JANE)], journal=journal, rate=0.001)
    task = asyncio.create_task(run)
    await read.wait()
    await loop_turns(50)
    run.stop()
    report = await task
    again = await client(FakeTransport([MISSING, FOUND])).v2.profiles.bulk_ensure(
        [("u1", JANE)], journal=journal
    )

    assert methods(transport) == ["PATCH"]
    assert (report.failed, report.unknown, again.done) == (1, 0, 1)


async def test_an_unreadable_success_of_a_creation_is_unknown() -> None:
    """A creation that succeeded with a body that cannot be read is not sent again, either."""
    journal = MemoryJournal()
    first = client(FakeTransport([MISSING, (200, {}, b"{")]))
    report = await first.v2.profiles.bulk_get_or_create([("u1", JANE)], journal=journal)
    assert isinstance(report.failures[0].error, DecodeError)
    transport = FakeTransport([MISSING])
    again = await client(transport).v2.profiles.bulk_get_or_create([("u1", JANE)], journal=journal)

    assert (report.unknown, again.unknown) == (1, 1)
    assert methods(transport) == ["GET"]


async def test_a_creation_that_was_not_processed_is_sent_by_a_resumed_run() -> None:
    """A creation that certainly was not processed is failed, and the next run creates."""
    journal = MemoryJournal()
    refused = FakeTransport([MISSING, ConnectError("no"), ConnectError("no")])
    report = await client(refused, retry=TWICE).v2.profiles.bulk_ensure(
        [("u1", JANE)], journal=journal
    )
    assert (report.failed, report.unknown) == (1, 0)
    again = await client(FakeTransport([MISSING, FOUND])).v2.profiles.bulk_ensure(
        [("u1", JANE)], journal=journal
    )

    assert again.done == 1
    assert isinstance(report.failures[0].error, ConnectError)
