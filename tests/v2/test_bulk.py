"""Large numbers of calls of version 2 concurrently."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapty_async import AdaptyClient, OutcomeStatus, RetryPolicy, v2
from adapty_async._api.call import Request, Response
from adapty_async.errors import ConnectionLostError, InvalidInputError
from adapty_async.testing import FakeTransport, Reply
from tests.v2.samples import IDS, KEY, PAYWALL, client, coins, one_time, subscription, success

FOUND: Reply = (200, {}, b'{"data":{"profile_id":"p1"}}')
MISSING: Reply = (404, {}, b'{"errors":[],"error_code":"profile_does_not_exist","status_code":404}')
GRANT = v2.AccessGrant(access_level_id="premium")
REVOCATION = v2.AccessRevocation(access_level_id="premium")

RUNS: dict[str, tuple[Callable[[AdaptyClient], Any], Any, str, str | None, str]] = {
    # method, body of an item (None: the item is the id alone), HTTP method, JSON, what it must be
    "profiles.bulk_get": (lambda api: api.v2.profiles.bulk_get, None, "GET", None, ""),
    "profiles.bulk_delete": (lambda api: api.v2.profiles.bulk_delete, None, "DELETE", None, ""),
    "profiles.bulk_update": (
        lambda api: api.v2.profiles.bulk_update,
        v2.ProfileAttributes(email=None),
        "PATCH",
        '{"email":null}',
        "attributes: must be a v2.ProfileAttributes",
    ),
    "transactions.bulk_set": (
        lambda api: api.v2.transactions.bulk_set,
        one_time(),
        "POST",
        None,
        "transaction: must be a OneTimePurchase or SubscriptionPurchase",
    ),
    "access_levels.bulk_grant": (
        lambda api: api.v2.access_levels.bulk_grant,
        GRANT,
        "POST",
        '{"access_level_id":"premium"}',
        "grant: must be a v2.AccessGrant",
    ),
    "access_levels.bulk_revoke": (
        lambda api: api.v2.access_levels.bulk_revoke,
        REVOCATION,
        "POST",
        '{"access_level_id":"premium"}',
        "revocation: must be a v2.AccessRevocation",
    ),
}


@pytest.mark.parametrize("by", ["customer_user_id", "profile_id"])
@pytest.mark.parametrize(("method", "body", "verb", "sent", "rule"), RUNS.values(), ids=RUNS)
async def test_a_run_is_one_request_for_each_item(
    method: Any, body: Any, verb: str, sent: str | None, rule: str, by: Any
) -> None:
    """Every id goes out in the header of its kind with its body; bad items fail alone."""
    transport = FakeTransport([FOUND, MISSING])
    ids = ["u1", " u2", "u3"]
    items: list[Any] = [one if body is None else (one, body) for one in ids]
    if body is not None:
        items += ["u4", ("u5",), ("u6", {"email": "a@b"})]
    outcomes = []
    async with method(client(transport))(items, by=by, ordered=True, concurrency=1) as run:
        async for outcome in run:
            outcomes.append(outcome)  # noqa: PERF401

    [about] = {
        "customer_user_id": ["adapty-customer-user-id"],
        "profile_id": ["adapty-profile-id"],
    }[by]
    assert [(one.method, one.headers[about]) for one in transport.requests] == [
        (verb, "u1"),
        (verb, "u3"),
    ]
    if sent is not None:
        assert {one.body for one in transport.requests} == {sent.encode()}
    missing = OutcomeStatus.ABSENT if verb in {"GET", "DELETE"} else OutcomeStatus.FAILED
    assert [one.status for one in outcomes[:3]] == [
        OutcomeStatus.DONE,
        OutcomeStatus.FAILED,
        missing,
    ]
    assert str(outcomes[1].error) == f"{by}: must not begin or end with a blank"
    if body is not None:
        assert [one.status for one in outcomes[3:]] == [OutcomeStatus.FAILED] * 3
        assert all(
            str(one.error).startswith("item: must be a pair of an id and ") for one in outcomes[3:5]
        )
        assert str(outcomes[5].error) == rule


@pytest.mark.parametrize("method", [case[0] for case in RUNS.values()], ids=RUNS)
def test_a_run_that_cannot_begin_is_rejected(method: Any) -> None:
    """There is no default for the kind of id, and no other kind."""
    begin = method(client(FakeTransport()))

    with pytest.raises(TypeError, match="'by'"):
        begin([])
    with pytest.raises(InvalidInputError, match=r"^by: must be one of customer_user_id, profile"):
        begin([], by="email")
    with pytest.raises(InvalidInputError, match=r"^items: must be several items"):
        begin("u1", by="profile_id")


async def test_profiles_come_with_their_outcomes() -> None:
    """What was read for an id is the result of its outcome."""
    run = client(FakeTransport([FOUND])).v2.profiles.bulk_get(["u1"], by="customer_user_id")
    async with run:
        results = [outcome.result async for outcome in run]

    assert results == [v2.Profile(profile_id="p1")]


async def test_a_rule_that_an_item_breaks_is_its_outcome() -> None:
    """A transaction that breaks a rule fails without a request, unless rules are not checked."""
    broken = subscription(expires_at="2020-01-01T00:00:00Z")
    for validate, sent in ((True, 0), (False, 1)):
        transport = FakeTransport([FOUND])
        report = await client(transport, validate=validate).v2.transactions.bulk_set(
            [("u1", broken)], by="customer_user_id"
        )
        assert len(transport.requests) == report.done == sent
        assert report.ok is not validate


async def test_transactions_of_one_profile_keep_their_order() -> None:
    """A history is imported in the order of the input, also where many are in flight."""
    transport = FakeTransport([FOUND] * 20)
    items = [
        ("u1", one_time(store_transaction_id=str(n), store_original_transaction_id=str(n)))
        for n in range(20)
    ]
    await client(transport).v2.transactions.bulk_set(items, by="profile_id", concurrency=8)

    sent = [json.loads(one.body or b"")["store_transaction_id"] for one in transport.requests]
    assert sent == [str(number) for number in range(20)]


async def test_operations_of_every_kind_run_together() -> None:
    """client.bulk() takes any of the described calls; with `dedupe`, equal ones are sent once."""
    operations: list[Any] = [
        v2.get_paywall("a"),
        v2.get_paywall("b"),
        v2.list_virtual_currency_transactions(cursor="x", **IDS),
        v2.list_virtual_currency_transactions(cursor="y", **IDS),
        v2.create_virtual_currency_transaction([coins(1)], **IDS),
        v2.set_transaction(one_time(), **IDS),
        v2.update_paywall(PAYWALL, [v2.RemoteConfig.of("en", 1)]),
        v2.get_paywall("a"),
    ]
    transport = FakeTransport([success(one.endpoint.name) for one in operations])
    report = await client(transport).bulk(operations, dedupe=True)

    assert (report.done, report.skipped) == (7, 1)
    assert len({one.url + str(one.body) for one in transport.requests}) == 7


async def test_equal_parameters_differ_from_similar_ones() -> None:
    """Line breaks in a value do not make one call of another, and so none is taken for it."""
    pages: list[dict[str, Any]] = [
        {"currency_code": "A\ncursor:x"},
        {"currency_code": "A", "cursor": "x"},
        {},
    ]
    operations = [v2.list_virtual_currency_transactions(**page, **IDS) for page in pages]
    transport = FakeTransport([success("virtual_currencies.list_transactions")] * 3)
    report = await client(transport).bulk(operations * 2, dedupe=True)

    assert (report.done, report.skipped) == (3, 3)


async def test_updates_of_one_paywall_keep_their_order_and_others_do_not_wait() -> None:
    """Each paywall is written by one request at a time; two of them are written together."""
    both = asyncio.Barrier(2)
    sent: dict[str, list[bytes | None]] = {}

    async def transport(request: Request) -> Response:
        bodies = sent.setdefault(request.url.split("/")[-2], [])
        bodies.append(request.body)
        if len(bodies) == 1:
            await both.wait()  # the first one does not end before the first about the other is sent
        return Response(200, {}, b"{}")

    operations = [
        v2.update_paywall(name, [v2.RemoteConfig.of("en", number)])
        for number in range(9)
        for name in ("a", "b")
    ]
    report = await AdaptyClient(KEY, transport=transport).bulk(operations, concurrency=4)

    assert report.ok
    expected = [operation.endpoint.encode(operation.body) for operation in operations[::2]]
    assert sent == {"a": expected, "b": expected}


async def test_a_credit_is_not_made_again_by_the_next_run(tmp_path: Path) -> None:
    """A new run describes the same credit under a new key; the journal knows it all the same."""
    transport = FakeTransport([(200, {}, b"{}")] * 2)
    api = client(transport)
    for skipped in (0, 1):
        operation = v2.create_virtual_currency_transaction([coins(1)], **IDS)
        report = await api.bulk([operation], journal=tmp_path / "journal")
        assert report.skipped == skipped

    assert len(transport.requests) == 1


async def test_a_credit_that_stays_in_flight_is_unknown() -> None:
    """The attempt that the server is still working on may end well after all."""
    busy: Reply = (409, {}, b'{"errors":[],"error_code":"idempotency_in_flight"}')
    once = RetryPolicy(attempts=1)
    operation = v2.create_virtual_currency_transaction([coins(1)], **IDS)
    report = await client(FakeTransport([busy]), retry=once).bulk([operation])

    assert report.unknown == 1


async def test_a_credit_whose_response_was_lost_is_unknown(tmp_path: Path) -> None:
    """Its key is forgotten with the run, so that nobody sends it a second time."""
    transport = FakeTransport([ConnectionLostError("lost")])
    api = client(transport, retry=RetryPolicy(attempts=1))
    for _ in range(2):
        operation = v2.create_virtual_currency_transaction([coins(1)], **IDS)
        report = await api.bulk([operation], journal=tmp_path / "journal")
        assert report.unknown == 1

    assert len(transport.requests) == 1
