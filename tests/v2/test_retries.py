"""Retries in version 2: with the same idempotency key, and only if they are safe."""

from __future__ import annotations

import re
from typing import Any

import pytest

from adapty_async import Operation, RetryPolicy, v2
from adapty_async.errors import ConflictError, ConnectionLostError, ServerError
from adapty_async.testing import FakeTransport, Reply
from tests.v2.samples import CALLS, IDS, client, coins, success

FAST = RetryPolicy(wait_initial=1e-9)
DONE: Reply = (200, {}, b'{"transaction_id":"t1","balances":[{"code":"COINS","balance":5}]}')
BUSY: Reply = (503, {}, b"")
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def conflict(code: str, **headers: str) -> Reply:
    """Return a 409 with that code."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return 409, named, b'{"errors":[],"error_code":"%s","status_code":409}' % code.encode()


def keys(transport: FakeTransport) -> list[str]:
    """Return the idempotency keys that were sent."""
    return [request.headers["Idempotency-Key"] for request in transport.requests]


async def test_all_attempts_of_a_call_share_one_key() -> None:
    """However often a credit has to be sent, it is the same one to the server."""
    replies = [ConnectionLostError("lost"), BUSY, conflict("idempotency_in_flight"), DONE]
    transport = FakeTransport(replies)
    currencies = client(transport, retry=FAST).v2.virtual_currencies
    result = await currencies.create_transaction([coins(5)], **IDS)

    assert result.balances == (v2.VirtualCurrencyBalance(code="COINS", balance=5),)
    assert len(keys(transport)) == 4
    assert len(set(keys(transport))) == 1
    assert UUID4.fullmatch(keys(transport)[0])


async def test_a_credit_without_a_key_is_not_sent_twice() -> None:
    """An operation that was made by hand has no key, and so its retry would be another credit."""
    request = v2.create_virtual_currency_transaction([coins(5)], **IDS).body
    operation = Operation(v2.CREATE_VIRTUAL_CURRENCY_TRANSACTION, (), request)
    transport = FakeTransport([BUSY, DONE])

    with pytest.raises(ServerError, match="attempts 1"):
        await client(transport, retry=FAST).execute(operation)
    assert "Idempotency-Key" not in transport.requests[0].headers


async def test_every_call_has_its_own_key() -> None:
    """Two credits that look the same are two credits; one operation made twice is one."""
    transport = FakeTransport([DONE] * 4)
    api = client(transport)
    operation = v2.create_virtual_currency_transaction([coins(5)], **IDS)
    for _ in range(2):
        await api.v2.virtual_currencies.create_transaction([coins(5)], **IDS)
        await api.execute(operation)

    sent = keys(transport)
    assert sent[1] == sent[3] == operation.key
    assert len(set(sent)) == 3


async def test_a_key_in_flight_is_waited_for_as_its_retry_after_says() -> None:
    """A Retry-After that does not fit into the deadline is raised at once, not slept."""
    transport = FakeTransport([conflict("idempotency_in_flight", retry_after="50"), DONE])
    api = client(transport, retry=RetryPolicy(deadline=10.0))

    with pytest.raises(ConflictError, match="error_code idempotency_in_flight") as caught:
        await api.v2.virtual_currencies.create_transaction([coins(5)], **IDS)
    assert (caught.value.retry_after, caught.value.attempts) == (50.0, 1)


async def test_another_conflict_is_not_retried() -> None:
    """What was credited before is an error, however often it is sent."""
    transport = FakeTransport([conflict("duplicate_source_transaction", retry_after="0")])

    with pytest.raises(ConflictError, match="error_code duplicate_source_transaction"):
        await client(transport).v2.virtual_currencies.create_transaction([coins(5)], **IDS)
    assert len(transport.requests) == 1


@pytest.mark.parametrize(
    "call", ["profiles.create", "purchases.validate_stripe", "purchases.validate_paddle"]
)
async def test_what_may_happen_twice_is_not_sent_twice(call: str) -> None:
    """After a lost response or a server error these calls end, for a retry is not documented."""
    for lost, kind in ((ConnectionLostError("lost"), ConnectionLostError), (BUSY, ServerError)):
        transport = FakeTransport([lost])
        with pytest.raises(kind, match="attempts 1"):
            await CALLS[call](client(transport, retry=FAST).v2)


ONCE = {"profiles.create", "purchases.validate_stripe", "purchases.validate_paddle"}


@pytest.mark.parametrize("call", sorted(CALLS.keys() - ONCE))
async def test_everything_else_is_retried(call: str) -> None:
    """A call whose retry changes nothing more is sent again after a lost response."""
    replies: list[Any] = [ConnectionLostError("lost"), success(call)]
    transport = FakeTransport(replies)
    await CALLS[call](client(transport, retry=FAST).v2)

    assert len(transport.requests) == 2
