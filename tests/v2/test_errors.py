"""Every error code that Adapty's documentation of version 2 lists, in every shape of a body."""

from __future__ import annotations

import msgspec
import pytest

from adapty_async.errors import ApiError, RequestRejectedError
from adapty_async.testing import FakeTransport, Reply
from tests.v2 import documented
from tests.v2.documented import Documented
from tests.v2.samples import CALLS, client

FAILURES = [
    pytest.param(one, id=f"{one.code}-{one.status}")
    for one in (*documented.ERRORS, *documented.NEW)
]


@pytest.mark.parametrize("shape", documented.SHAPES)
@pytest.mark.parametrize("failure", FAILURES)
async def test_a_code_becomes_its_error_in_every_shape(failure: Documented, shape: str) -> None:
    """Class, status, code, message, field, request id and wait are read from all five bodies."""
    body = msgspec.json.encode(documented.SHAPES[shape](failure))
    headers = {"Request-Id": "758f01df", "Retry-After": "100"}
    api = client(FakeTransport([(failure.status, headers, body)])).v2

    with pytest.raises(ApiError) as caught:
        await CALLS["virtual_currencies.create_transaction"](api)
    error = caught.value
    assert type(error) is failure.kind
    assert (error.status, error.error_code) == (failure.status, failure.code)
    assert [item.message for item in error.errors] == [failure.message]
    assert error.field_name == (None if shape == "strings" else failure.field)
    assert (error.request_id, error.retry_after, error.attempts) == ("758f01df", 100.0, 1)
    assert (error.recognised, error.body) == (True, body)
    assert error.operation == "v2.virtual_currencies.create_transaction"


def test_no_documented_error_is_there_twice() -> None:
    """Status and code together say which error it is."""
    known = [(one.status, one.code) for one in documented.ERRORS]

    assert len(known) == len(set(known))
    assert set(known) > documented.ON_PAGES_ONLY


async def test_stripes_errors_have_no_code_of_their_own() -> None:
    """The documented body of a rejected Stripe token gives its field and words, and no code."""
    body = msgspec.json.encode(
        {
            "errors": [
                {
                    "detail": "none is not an allowed value",
                    "source": {"pointer": "/data/attributes/stripe_token"},
                    "status": "400",
                }
            ]
        }
    )
    api = client(FakeTransport([(400, {}, body)])).v2

    with pytest.raises(RequestRejectedError, match=r"^status 400, field stripe_token, ") as caught:
        await CALLS["purchases.validate_stripe"](api)
    assert caught.value.error_code is None
    assert caught.value.errors[0].status_code == 400


@pytest.mark.parametrize("call", CALLS)
async def test_a_gateways_page_is_no_word_of_the_api(call: str) -> None:
    """404 and 403 in HTML say nothing about a profile or a key, whatever was called."""
    replies: list[Reply] = [(404, {}, b"<html>"), (403, {}, b"<html>")]
    api = client(FakeTransport(replies)).v2

    for _ in replies:
        with pytest.raises(RequestRejectedError) as caught:
            await CALLS[call](api)
        assert not caught.value.recognised
