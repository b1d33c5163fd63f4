"""Request bodies of the sandbox: length, interim responses, methods, schemas."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from adapty_async.sandbox import Sandbox
from adapty_async.sandbox._body import LENGTH_MAX
from adapty_async.sandbox._strict import Validator

from .conftest import PROFILES, Api
from .test_mail import PROFILE as MAIL
from .test_v2 import EXAMPLE, GRANT, PADDLE, PROFILE, SET, STRIPE, STRIPE_TYPE, SUBSCRIPTION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .conftest import Reply

# Bodies that are not taken


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        pytest.param(
            {"Content-Encoding": "gzip"},
            gzip.compress(b"{}"),
            415,
            "unsupported_media_type",
            id="gzip",
        ),
        pytest.param(
            {}, b" " * (LENGTH_MAX + 1), 413, "request_entity_too_large", id="above-1-MiB"
        ),
    ],
)
async def test_a_body_that_cannot_be_accepted_has_the_apis_error(
    api: Api, headers: dict[str, str], body: bytes, status: int, code: str
) -> None:
    """Each API responds with its own error body, and the request is in the log."""
    replies = [
        await api.v1("POST", body, **headers),
        await api.v2("POST", PROFILE, body, **headers),
        await api.mail("save", body, **headers),
    ]

    assert [reply.status for reply in replies] == [status] * 3
    assert [reply.body["error_code"] for reply in replies[:2]] == [code] * 2
    assert replies[2].body["errors"][0]["error_code"] == code
    assert [(one.api, one.status) for one in api.sandbox.arrivals()] == [
        ("v1", status),
        ("v2", status),
        ("mail", status),
    ]


async def test_a_body_of_the_maximum_length_is_accepted(api: Api) -> None:
    """The bound is inclusive, and identity is no coding."""
    body = b"{}".ljust(LENGTH_MAX)

    assert (await api.v1("POST", body, Content_Encoding="Identity")).status == 200


# Interim responses, on the wire


async def exchange(sandbox: Sandbox, head: str, body: bytes | None = b"") -> tuple[bytes, bytes]:
    """Send a head, read the first head of a response, send a body and read the rest."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(sandbox.url.split(":")[2]))
    common = f"Host: x\r\nAuthorization: Api-Key {sandbox.api_key}\r\nConnection: close\r\n"
    writer.write(f"{head}\r\n{common}\r\n".encode())
    first = await reader.readuntil(b"\r\n\r\n")
    if body:
        writer.write(body)
    rest = b"" if body is None else await reader.read()
    writer.close()
    await writer.wait_closed()
    return first, rest


CREATE = (
    f"POST {PROFILES} HTTP/1.1\r\nContent-Type: application/json\r\nadapty-customer-user-id: u1\r\n"
)


async def test_a_client_that_waits_gets_a_100(sandbox: Sandbox) -> None:
    """With `Expect: 100-continue`, the interim response comes before the body is sent."""
    first, rest = await exchange(
        sandbox, f"{CREATE}Expect: 100-Continue\r\nContent-Length: 2", b"{}"
    )

    assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert rest.startswith(b"HTTP/1.1 200 OK")
    assert sandbox.customer_user_ids() == {"u1"}


async def test_a_large_body_is_rejected_before_it_is_sent(sandbox: Sandbox) -> None:
    """The length in the head is enough for a 413, and the connection is not used again."""
    first, _ = await exchange(
        sandbox, f"{CREATE}Expect: 100-continue\r\nContent-Length: {LENGTH_MAX + 1}", None
    )

    assert first.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nConnection: close\r\n" in first
    assert [one.status for one in sandbox.arrivals()] == [413]


async def test_a_large_body_without_a_length_is_rejected(api: Api) -> None:
    """A chunked body is rejected once it is above the maximum."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * (LENGTH_MAX // 2)

    headers = {"Authorization": f"Api-Key {api.sandbox.api_key}"}
    url = api.sandbox.url + PROFILES
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=chunks(), headers=headers) as response,
    ):
        assert response.status == 413
        assert (await response.json())["error_code"] == "request_entity_too_large"


async def test_another_expectation_is_rejected(sandbox: Sandbox) -> None:
    """An expectation that nobody knows is a 417; in HTTP/1.0 the header has no meaning."""
    head = f"{CREATE}Expect: 200-ok\r\nContent-Length: 0"
    refused, _ = await exchange(sandbox, head)
    old, _ = await exchange(sandbox, head.replace("HTTP/1.1", "HTTP/1.0"))

    assert refused.startswith(b"HTTP/1.1 417 ")
    assert old.startswith(b"HTTP/1.0 200 ")


# Methods and media types


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        pytest.param(PROFILES, "DELETE, GET, PATCH, POST", id="v1"),
        pytest.param(f"/api/v2/server-side-api/{PROFILE}", "DELETE, GET, PATCH, POST", id="v2"),
        pytest.param("/api/v2/server-side-api/paywalls/x/", "GET, PUT", id="paywall"),
        pytest.param(STRIPE, "POST", id="stripe"),
        pytest.param("/api/v1/profile/save/", "POST", id="mail"),
    ],
)
async def test_a_405_names_the_methods(api: Api, path: str, allow: str) -> None:
    """The `Allow` header of a 405 has the methods of the path."""
    key = api.sandbox.mail_api_key if "/profile/save" in path else api.sandbox.api_key
    scheme = "Bearer" if "/profile/save" in path else "Api-Key"
    reply = await api.send("OPTIONS", path, headers={"Authorization": f"{scheme} {key}"})

    assert (reply.status, reply.headers["Allow"]) == (405, allow)


async def test_stripe_has_its_media_type_in_every_response(api: Api) -> None:
    """Success and errors of Stripe validation are in JSON:API's media type, injected ones too."""
    body = {
        "data": {
            "type": "stripe_receipt_validation_result",
            "attributes": {"customer_user_id": "u1", "stripe_token": "sub_1"},
        }
    }
    replies: list[Reply] = [
        await api.v2("POST", STRIPE, body, Content_Type=STRIPE_TYPE),
        await api.v2("POST", STRIPE, {}, Content_Type=STRIPE_TYPE),
        await api.v2("POST", STRIPE, body, Authorization="Api-Key wrong"),
        await api.v2("GET", STRIPE),
        await api.v2("POST", STRIPE, body),
        await api.v2("POST", STRIPE, b"{}", Content_Encoding="gzip"),
    ]
    api.sandbox.fail_next("500")
    replies.append(await api.v2("POST", STRIPE, body, Content_Type=STRIPE_TYPE))

    assert [reply.status for reply in replies] == [200, 400, 401, 405, 415, 415, 500]
    assert {reply.headers["Content-Type"] for reply in replies} == {STRIPE_TYPE}


def test_one_string_is_not_several_profiles() -> None:
    """Its letters are not meant."""
    with pytest.raises(TypeError, match="must be several ids, not one string"):
        Sandbox().seed_profiles("anna")


# Strict mode


@pytest.fixture
async def strict() -> AsyncIterator[Api]:
    """Run a strict sandbox with the profile `u1`."""
    async with Sandbox(strict=True) as sandbox:
        sandbox.seed_profiles(["u1"])
        yield Api(sandbox)


BROKEN = [
    pytest.param("POST", PROFILE, {}, "installation_meta", id="required"),
    pytest.param("PATCH", PROFILE, {"first_name": "Ann"}, "installation_meta", id="update"),
    pytest.param(
        "PATCH",
        PROFILE,
        {**EXAMPLE, "installation_meta": {}},
        "installation_meta.device_id",
        id="nested",
    ),
    pytest.param("PATCH", PROFILE, {**EXAMPLE, "gender": "x"}, "gender", id="enum"),
    pytest.param("PATCH", PROFILE, {**EXAMPLE, "att_status": True}, "att_status", id="bool"),
    pytest.param("PATCH", PROFILE, {**EXAMPLE, "birthday": "20001231"}, "birthday", id="date"),
    pytest.param(
        "PATCH", PROFILE, {**EXAMPLE, "birthday": "2000-02-30"}, "birthday", id="calendar"
    ),
    pytest.param(
        "PATCH", PROFILE, {**EXAMPLE, "custom_attributes": {"a": 1}}, "custom_attributes", id="list"
    ),
    pytest.param(
        "PATCH",
        PROFILE,
        {**EXAMPLE, "custom_attributes": [{"key": "a", "value": None}]},
        "custom_attributes.0.value",
        id="one-of",
    ),
    pytest.param(
        "PATCH",
        PROFILE,
        {**EXAMPLE, "custom_attributes": [{"key": "k" * 31, "value": 1}]},
        "custom_attributes.0.key",
        id="length",
    ),
    pytest.param("PATCH", PROFILE, [], None, id="type"),
    pytest.param("POST", SET, [], None, id="discriminated-type"),
    pytest.param("POST", SET, {"purchase_type": "gift"}, "purchase_type", id="discriminator"),
    pytest.param(
        "POST",
        SET,
        {**SUBSCRIPTION, "purchased_at": "2024-01-15T10+00:00"},
        "purchased_at",
        id="date-time",
    ),
    pytest.param("POST", SET, {**SUBSCRIPTION, "renew_status": None}, "renew_status", id="null"),
    pytest.param("POST", GRANT, {"access_level_id": 1}, "access_level_id", id="string"),
    pytest.param("POST", PROFILE, b"", None, id="no-body"),
]


@pytest.mark.parametrize(("method", "path", "body", "field"), BROKEN)
async def test_a_strict_sandbox_rejects_what_the_document_does(
    strict: Api, method: str, path: str, body: Any, field: str | None
) -> None:
    """A body that breaks its schema is a validation error, and nothing is changed."""
    reply = await strict.v2(method, path, body)

    assert (reply.status, reply.body["error_code"]) == (400, "validation_error")
    assert field in {error["source"] for error in reply.body["errors"]}
    profile = strict.sandbox.profile(customer_user_id="u1")
    assert profile is not None
    assert (profile["custom_attributes"], profile.get("first_name")) == ([], None)


async def test_a_strict_sandbox_takes_what_the_document_allows(strict: Api) -> None:
    """Documented bodies and fields that no schema has are taken; so is null if it is nullable."""
    assert (await strict.v2("POST", PROFILE, {**EXAMPLE, "other": 1})).status == 200
    assert (await strict.v2("PATCH", PROFILE, {**EXAMPLE, "first_name": None})).status == 200
    dated = {**SUBSCRIPTION, "purchased_at": "2024-01-15t10:30:00.25z"}
    assert (await strict.v2("POST", SET, dated)).status == 200
    assert (await strict.v2("GET", PROFILE)).status == 200
    assert (await strict.v1("PATCH", {})).status == 200
    assert (await strict.mail("save", MAIL)).status == 200


async def test_virtual_currencies_have_a_status_of_their_own(strict: Api) -> None:
    """The document has a 422 for a body that breaks the schema of a transaction."""
    key = "00000000-0000-4000-8000-000000000000"
    many = [{"currency_code": f"C{number}", "amount": 1} for number in range(21)]
    bodies: list[Any] = [
        {"items": [{"currency_code": "COINS", "amount": 2**31}]},
        {"items": many},
        {"items": [{"currency_code": "COINS", "amount": 1}], "metadata": {"a": 1}},
    ]
    replies = [
        await strict.v2("POST", "vc/transactions/", body, Idempotency_Key=key) for body in bodies
    ]
    empty = await strict.v2("POST", "vc/transactions/", {"items": []}, Idempotency_Key=key)

    assert [reply.status for reply in replies] == [422] * 3
    assert [reply.body["errors"][0]["source"] for reply in replies] == [
        "items.0.amount",
        "items",
        "metadata.a",
    ]
    assert (empty.status, empty.body["error_code"]) == (400, "empty_items")


async def test_other_errors_come_first(strict: Api) -> None:
    """Key, method and media type are checked before the body."""
    assert (await strict.v2("POST", PROFILE, {}, Authorization="x")).status == 401
    assert (await strict.v2("PUT", PROFILE, {})).status == 405
    assert (await strict.v2("POST", PROFILE, {}, Content_Type="text/plain")).status == 415
    assert (await strict.v2("POST", PADDLE, {"customer_user_id": "u1"})).status == 400
    assert (await strict.mail("save", {**MAIL, "email": "nobody"})).status == 400
    assert (await strict.mail("save", {**MAIL, "birthday": None})).body["errors"][0][
        "field_name"
    ] == "birthday"


SCHEMAS: dict[str, Any] = {
    "A": {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "additionalProperties": {"$ref": "#/components/schemas/B", "nullable": True},
    },
    "B": {"type": "array", "items": {"type": "integer", "format": "int32"}},
}


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        pytest.param({"a": "x", "b": [1], "c": None}, [], id="right"),
        pytest.param({"a": 1, "b": [1, "x"], "c": 5}, ["a", "b.1", "c"], id="wrong"),
        pytest.param(None, [None], id="null"),
    ],
)
def test_references_and_other_properties_are_followed(value: Any, fields: list[str | None]) -> None:
    """A problem names its field, from the outermost property on."""
    problems = Validator(SCHEMAS).problems({"$ref": "#/components/schemas/A"}, value)

    assert [problem.field for problem in problems] == fields


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        pytest.param({"type": "integer"}, [7, 7.0], [7.5, True, "7"], id="integer"),
        pytest.param({"type": "number"}, [7, 7.5], [True, "7"], id="number"),
        pytest.param({"type": "string", "maxLength": 2}, ["ab"], ["abc"], id="length"),
        pytest.param({"type": "array", "maxItems": 2}, [[1, 2]], [[1, 2, 3]], id="count"),
        pytest.param(
            {"type": "string", "format": "date"},
            ["2000-12-31"],
            ["20001231", "2000-W52-7", "2000-12-32"],
            id="date",
        ),
        pytest.param(
            {"oneOf": [{"type": "string"}, {"type": "number"}, {"type": "integer"}]},
            ["a", 7.5],
            [7, None],
            id="exactly-one",
        ),
    ],
)
def test_a_value_is_held_to_its_schema(
    schema: dict[str, Any], right: list[Any], wrong: list[Any]
) -> None:
    """Bounds are inclusive, and numbers are those of JSON."""
    validator = Validator({})

    assert [value for value in right if any(validator.problems(schema, value))] == []
    assert [value for value in wrong if not any(validator.problems(schema, value))] == []


# Statements of the documentation that contradict each other


async def test_an_unknown_product_grants_nothing_or_premium() -> None:
    """The option says what a purchase of a product does that the app does not have."""
    levels = {}
    for option in ("ignored", "premium"):
        async with Sandbox(unknown_products=option) as sandbox:
            sandbox.seed_profiles(["u1"])
            body = {**SUBSCRIPTION, "store_product_id": "unknown"}
            reply = await Api(sandbox).v2("POST", SET, body)
            data = reply.body["data"]
            levels[option] = [one["access_level_id"] for one in data["access_levels"]]
            assert len(data["subscriptions"]) == 1

    assert levels == {"ignored": [], "premium": ["premium"]}


async def test_refund_saver_may_have_settings_from_the_start() -> None:
    """The option says what the settings are before they are set."""
    async with Sandbox(unset_refund_saver="defaults") as sandbox:
        sandbox.seed_profiles(["u1"])
        reply = await Api(sandbox).v2("GET", "purchase/profile/refund-saver/settings/")

    assert reply.body["settings"] == {"consent": False, "custom_preference": "no_preference"}


# Bodies that never become complete


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"ZZ\r\n{}\r\n0\r\n\r\n", id="no-size"),
        pytest.param(b"2\r\n{}X0\r\n\r\n", id="too-long"),
        pytest.param(b"5\r\n{}\r\n0\r\n\r\n", id="too-short"),
        pytest.param(b"2\r\n{}\r\n0\r\nbad trailer\r\n\r\n", id="trailer"),
        pytest.param(b"2\r\n{}\r\n", id="no-end"),
    ],
)
async def test_a_body_that_does_not_end_is_a_timeout(body: bytes) -> None:
    """Broken framing that arrives after the head gets a 408, and the connection is closed."""
    async with Sandbox(body_timeout=0.05) as sandbox:
        reader, writer = await opened(sandbox, "/api/v2/server-side-api/profile/")
        await reader.readuntil(b"\r\n\r\n")  # 100 Continue: the head was served
        writer.write(body)
        status, head = await reader.readline(), await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        statuses = sandbox.count()

    assert status == b"HTTP/1.1 408 Request Timeout\r\n"
    assert b"Connection: close" in head
    assert statuses == {408: 1}


async def test_a_seed_that_does_not_end_is_a_timeout() -> None:
    """The endpoints of the sandbox itself do not wait for ever, either."""
    async with Sandbox(body_timeout=0.05) as sandbox:
        reader, writer = await opened(sandbox, "/_sandbox/seed")
        writer.write(b'4\r\n"u1"\r\n')
        status, head = await reader.readline(), await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    assert status == b"HTTP/1.1 408 Request Timeout\r\n"
    assert b"Connection: close" in head


async def opened(sandbox: Sandbox, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection, and send the head of a request with a chunked body."""
    host, port = sandbox.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n"
        "Expect: 100-continue\r\n\r\n".encode()
    )
    return reader, writer
