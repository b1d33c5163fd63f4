"""Endpoints that callers define, raw responses, and the rules of both."""

from __future__ import annotations

import dataclasses
import json
import pickle
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.pretty import pretty_repr

from adapty_async import (
    AdaptyClient,
    AdaptyMailClient,
    BulkReport,
    ConnectionLostError,
    DecodeError,
    InvalidInputError,
    NotFoundError,
    Operation,
    OutcomeStatus,
    RetryPolicy,
    mail,
    v2,
)
from adapty_async._api.call import lock_key_of
from adapty_async._bulk.recording import id_of
from adapty_async.bulk import StopReason
from adapty_async.endpoints import Endpoint, RawResponse, RetrySafety, json_decoder, no_result
from adapty_async.sandbox import Sandbox
from adapty_async.testing import FakeTransport, Reply
from adapty_async.transport import Request, Response, Send
from tests._support import CANARY_EMAIL, patch_as_a_tracer
from tests.raw_server import RESET, RawServer, reply
from tests.v2.samples import IDS, KEY, client

TWICE = RetryPolicy(attempts=2, wait_initial=0.001, wait_max=0.001)
CUSTOMER = "adapty-customer-user-id"


class Summary(msgspec.Struct):
    """A result type of a caller's own."""

    profile_id: str
    total_revenue_usd: float = 0.0


@dataclasses.dataclass
class Named:
    """A result type of a caller's own, which is a dataclass."""

    profile_id: str


SUMMARY = Endpoint(
    name="summary.get",
    method="GET",
    path="/api/v2/server-side-api/profile/",
    retry_safety=RetrySafety.ALWAYS,
    bucket="v2",
    decode=json_decoder(Summary),
)
NOTE = Endpoint(name="notes.add", method="POST", path="/notes/{folder}/", decode=no_result)


# Definitions


def test_the_safe_values_are_the_defaults() -> None:
    """An endpoint without further arguments is never sent twice, in a bucket of its own."""
    assert NOTE.retry_safety is RetrySafety.IF_UNSENT
    assert NOTE.bucket not in {"v1", "v2", "web", "mail"}
    assert {NOTE.is_deletion, NOTE.absent_if_missing, NOTE.uses_public_key} == {False}


BROKEN: dict[str, dict[str, Any]] = {
    "Endpoint.name": {"name": ""},
    "Endpoint.method": {"method": "get"},
    "Endpoint.path": {"path": "api/"},
}


@pytest.mark.parametrize("field", BROKEN)
def test_a_definition_that_cannot_work_is_rejected(field: str) -> None:
    """The error names the field when the endpoint is defined."""
    fields: dict[str, Any] = {"name": "x", "method": "GET", "path": "/", "decode": bytes}
    with pytest.raises(InvalidInputError, match=f"^{field}: "):
        Endpoint(**{**fields, **BROKEN[field]})


@pytest.mark.parametrize(
    "path",
    [
        ".evil.example/",
        "@evil.example/",
        "//evil.example/",
        "/a b",
        "/a?b=c",
        "/a#b",
        "/é",
        "/a\r\n",
    ],
    ids=ascii,
)
def test_a_path_never_leads_to_another_host(path: str) -> None:
    """A path that would change the host or the query is rejected: the key must not go there."""
    with pytest.raises(InvalidInputError, match=r"Endpoint\.path: must begin with one slash"):
        Endpoint(name="x", method="GET", path=path, decode=bytes)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        pytest.param({"Authorization": "x"}, "headers.Authorization: is set by", id="key"),
        pytest.param(
            {"Idempotency-Key": "x"}, "headers.Idempotency-Key: is set by", id="idempotency"
        ),
        pytest.param({"X\r\nY": "x"}, "headers: a name must be made of letters", id="line break"),
        pytest.param({"": "x"}, "headers: a name must be made of letters", id="empty"),
        pytest.param({1: "x"}, "headers: a name must be made of letters", id="number"),
    ],
)
async def test_a_header_that_the_library_sets_is_rejected(headers: Any, message: str) -> None:
    """The headers of keys and bodies cannot be replaced, and none can add a line."""
    with pytest.raises(InvalidInputError, match=message):
        NOTE(headers=headers)
    with pytest.raises(InvalidInputError, match=message):
        await client(FakeTransport()).execute(Operation(NOTE, tuple(headers.items())))


@pytest.mark.parametrize("value", [None, True, 1.5, ["a"]], ids=repr)
def test_a_parameter_is_text_or_a_number(value: Any) -> None:
    """A value that would be sent in some form of Python's is rejected."""
    with pytest.raises(InvalidInputError, match=r"parameters\.folder: must be text or a whole"):
        NOTE(parameters={"folder": value})


async def test_a_value_of_a_header_is_validated_when_it_is_sent() -> None:
    """An id with a line break sends nothing."""
    transport = FakeTransport()
    with pytest.raises(InvalidInputError, match="customer_user_id: must not contain control"):
        await client(transport).execute(SUMMARY(headers={CUSTOMER: "u1\n"}))

    assert transport.requests == []


# Calls


async def test_a_call_has_the_values_that_were_passed() -> None:
    """Body, headers, path and query of an operation are those that were passed."""
    transport = FakeTransport([(204, {}, b"")])
    operation = NOTE(
        {"text": "é"},
        headers={"X-Trace": "1"},
        parameters={"folder": "a/b", "page": 2, "q": "x&y"},
    )
    await client(transport).execute(operation)

    [request] = transport.requests
    assert request.url == "https://api.adapty.io/notes/a%2Fb/?page=2&q=x%26y"
    assert request.headers["X-Trace"] == "1"
    assert request.headers["Authorization"] == f"Api-Key {KEY}"
    assert json.loads(request.body or b"") == {"text": "é"}


async def test_a_parameter_of_the_path_is_required() -> None:
    """A URL placeholder without a value sends nothing."""
    with pytest.raises(InvalidInputError, match="folder: is required"):
        await client(FakeTransport()).execute(NOTE())


@pytest.mark.parametrize(
    "value", ["", ".", "..", "a/../b", "../b", "a/.", "a\\..\\b", "a\\../b", "\ud800"], ids=ascii
)
async def test_a_parameter_never_leads_to_another_path(value: str) -> None:
    """A value that a proxy would resolve to another path, or that is no text, sends nothing."""
    transport = FakeTransport()
    with pytest.raises(InvalidInputError, match="folder: must"):
        await client(transport).execute(NOTE(parameters={"folder": value}))
    with pytest.raises(InvalidInputError, match="q: must"):
        await client(transport).execute(NOTE(parameters={"folder": "a", "q": "\ud800"}))

    assert transport.requests == []


def test_an_idempotency_key_is_made_with_the_operation() -> None:
    """All attempts share the key, which is passed or made only where the endpoint needs one."""
    keyed = msgspec.structs.replace(NOTE, retry_safety=RetrySafety.WITH_KEY)
    first, second = keyed(), keyed()

    assert uuid.UUID(first.key).version == 4
    assert first.key != second.key
    assert keyed(idempotency_key="k").key == "k"
    assert NOTE().key is None


STORED = v2.Profile(profile_id="p", custom_attributes=v2.CustomAttributes(plan="annual"))
DECODED: dict[str, tuple[Callable[[bytes], Any], bytes, Any]] = {
    "a struct": (json_decoder(Summary), b'{"profile_id":"p"}', Summary("p")),
    "under data": (json_decoder(Summary), b'{"data":{"profile_id":"p"}}', Summary("p")),
    "a list under data": (json_decoder(list[int]), b'{"data":[1,2]}', [1, 2]),
    "a dataclass": (json_decoder(Named), b'{"profile_id":"p"}', Named("p")),
    "a byte order mark": (json_decoder(dict[str, int]), b'\xef\xbb\xbf{"a":1}', {"a": 1}),
    "nothing": (json_decoder(dict[str, int]), b"", {}),
    "the whole body": (json_decoder(dict[str, int], unwrap=False), b'{"data":1}', {"data": 1}),
    "a bare list": (json_decoder(list[int], unwrap=False), b"\xef\xbb\xbf[1]\n", [1]),
    "a stored profile": (json_decoder(v2.Profile), msgspec.json.encode(STORED), STORED),
    "a bare profile": (
        json_decoder(v2.Profile, unwrap=False),
        msgspec.json.encode(STORED),
        STORED,
    ),
    "bytes": (bytes, b"\x00", b"\x00"),
}


@pytest.mark.parametrize("name", DECODED)
def test_a_body_is_decoded_to_the_callers_type(name: str) -> None:
    """Structs, dataclasses and plain types are read from an object, its data, or the whole body."""
    decode, body, expected = DECODED[name]

    assert decode(body) == expected


@pytest.mark.parametrize(
    "body",
    [b"[]", b'{"profile_id":1}', b"<html></html>", b'{"errors":["x"]}', b'{"data":'],
    ids=repr,
)
async def test_a_body_that_is_no_result_is_an_error(body: bytes) -> None:
    """A success that cannot be decoded raises the library's error, with the body."""
    with pytest.raises(DecodeError, match="unreadable response") as caught:
        await client(FakeTransport([(200, {}, body)])).execute(SUMMARY(headers={CUSTOMER: "u1"}))

    assert caught.value.body == body


OWN = Endpoint(
    name="sum",
    method="GET",
    path="/sum/",
    decode=lambda body: Decimal(json.loads(body)["data"]["sum"]["usd"].strip()),
)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{}", id="LookupError"),
        pytest.param(b"[]", id="TypeError"),
        pytest.param(b'{"data":{"sum":{"usd":1}}}', id="AttributeError"),
        pytest.param(b'{"data":{"sum":{"usd":"one"}}}', id="ArithmeticError"),
        pytest.param(b"{", id="ValueError"),
    ],
)
async def test_a_body_that_a_decoder_of_ones_own_cannot_read_is_an_error_of_its_item(
    body: bytes,
) -> None:
    """One odd response fails its item, and the others of the run are sent."""
    good: Reply = 200, {}, b'{"data":{"sum":{"usd":" 1.5 "}}}'
    adapty = client(FakeTransport([(200, {}, body), good]))
    run = adapty.bulk(
        range(2),
        build=lambda one: OWN(parameters={"n": one}),
        name=OWN.name,
        concurrency=1,
    )
    async with run:
        first, second = [outcome async for outcome in run]

    assert isinstance(first.error, DecodeError)
    assert (first.error.body, second.result) == (body, Decimal("1.5"))


def has_access(_: bytes) -> bool:
    """Return whether a profile with an odd date has access, which raises a DecodeError."""
    odd = b'{"profile_id":"p","access_levels":[{"access_level_id":"premium","expires_at":true}]}'
    return v2.GET_PROFILE.decode(odd).has_access("premium")


WRONG: dict[str, Callable[[bytes], Any]] = {
    "a function": lambda body: json.loads(body)["id"],
    "a struct": json_decoder(Summary),
    "a list": json_decoder(list[int], unwrap=False),
    "msgspec": msgspec.json.Decoder(Summary).decode,
    "an odd field": has_access,
}


async def run_with(
    decode: Callable[[bytes], Any], body: bytes, safety: RetrySafety
) -> BulkReport[Any, Any]:
    """Return the report of a run of 40 items whose responses have the same body."""
    call = Endpoint(name="x", method="GET", path="/x/", decode=decode, retry_safety=safety)
    async with RawServer(then=(reply(200, body),)) as server:
        async with AdaptyClient(KEY, base_url=server.url) as adapty:
            report = await adapty.bulk(
                range(40), build=lambda one: call(parameters={"n": one}), concurrency=1
            )
        await server.until_left()

    return report


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("body", [b'{"a":1}', b"[{}]", b"null"], ids=repr)
async def test_a_wrong_decoder_of_ones_own_is_no_wrong_address(name: str, body: bytes) -> None:
    """All items are sent; the API processed those that must not be sent again, or may have."""
    for safety in (RetrySafety.ALWAYS, RetrySafety.IF_UNSENT):
        report = await run_with(WRONG[name], body, safety)
        assert report.stop_reason is None
        assert (report.requests, report.not_sent) == (40, 0)
        is_safe = safety is RetrySafety.ALWAYS
        assert (report.failed, report.unknown) == ((40, 0) if is_safe else (0, 40))
        assert {type(one.error) for one in report.failures} == {DecodeError}


@pytest.mark.parametrize(
    "body",
    [b"404 page not found", b'{"errors":["no"]}', b"[" * 10_000],
    ids=["text", "error", "deep"],
)
@pytest.mark.parametrize("name", WRONG)
async def test_a_body_that_is_not_the_apis_is_a_wrong_address(name: str, body: bytes) -> None:
    """A decoder of the caller's changes nothing about a body that is no JSON, or an error."""
    report = await run_with(WRONG[name], body, RetrySafety.ALWAYS)

    assert (report.failed, report.stop_reason) == (20, StopReason.WRONG_ADDRESS)


async def test_the_error_names_the_line_of_a_decoder_of_ones_own() -> None:
    """The line may be wrong, and not the body: then it is the only way to find that out."""

    def decode(body: bytes) -> Any:
        return json.loads(body).name

    place = f"test_endpoints.py, line {decode.__code__.co_firstlineno + 1}"
    call = msgspec.structs.replace(OWN, decode=decode)
    with pytest.raises(DecodeError, match=rf"unreadable response \(AttributeError in {place}\)"):
        await client(FakeTransport([(200, {}, b"{}")])).execute(call())


async def test_an_error_of_a_result_is_one_of_the_call() -> None:
    """A decoder that asks an odd result raises an error with the facts of its call."""
    call = msgspec.structs.replace(OWN, decode=has_access)
    transport = FakeTransport([(200, {"Request-Id": "r1"}, b"{}")])
    with pytest.raises(DecodeError, match=r"\(DecodeError in test_endpoints.py") as caught:
        await client(transport).execute(call())

    error = caught.value
    assert (error.operation, error.status, error.request_id) == ("sum", 200, "r1")
    assert (error.attempts, error.body) == (1, b"{}")


async def test_a_bug_of_a_decoder_is_raised_as_it_is() -> None:
    """An exception that no body causes is none of the library's."""

    def decode(body: bytes) -> str:
        raise ImportError("nothing to decode with")

    call = msgspec.structs.replace(OWN, decode=decode)
    with pytest.raises(ImportError, match="nothing to decode with"):
        await client(FakeTransport([(200, {}, b"{}")])).execute(call())


async def test_an_unlisted_call_has_retries_limits_and_statistics() -> None:
    """A lost response is retried by the endpoint's retry safety, within the endpoint's bucket."""
    found = (reply(200, b'{"data":{"profile_id":"p","total_revenue_usd":2}}'),)
    async with RawServer((RESET,), found, (RESET,)) as server:
        async with AdaptyClient(KEY, base_url=server.url, retry=TWICE) as adapty:
            summary = await adapty.execute(SUMMARY(headers={CUSTOMER: "u1"}))
            with pytest.raises(ConnectionLostError) as caught:
                await adapty.execute(NOTE({"text": "x"}, parameters={"folder": "f"}))
            buckets = adapty.statistics().buckets
        await server.until_left()

    assert summary == Summary("p", 2.0)
    assert caught.value.attempts == 1
    assert (buckets["v2"].requests, buckets["other"].requests) == (2, 1)


async def test_an_unlisted_call_runs_in_bulk_with_a_journal(tmp_path: Path) -> None:
    """A bulk run of a caller's endpoint resumes, and its outcomes have the decoded results."""
    ids = [f"u{number}" for number in range(30)]
    journal, outcomes = tmp_path / "run.db", tmp_path / "outcomes.ndjson"
    async with Sandbox() as sandbox:
        sandbox.seed_profiles(ids[:20])
        async with AdaptyClient(sandbox.api_key, base_url=sandbox.url) as adapty:
            run = adapty.bulk(
                ids,
                build=lambda one: SUMMARY(headers={CUSTOMER: one}),
                name="summaries",
                journal=journal,
                outcomes=outcomes,
            )
            async with run:
                results = [each.result async for each in run if each.status is OutcomeStatus.DONE]
            again = await adapty.bulk(
                ids,
                build=lambda one: SUMMARY(headers={CUSTOMER: one}),
                name="summaries",
                journal=journal,
            )

    assert (run.report.done, run.report.failed) == (20, 10)
    assert all(isinstance(result, Summary) for result in results)
    assert (again.skipped, again.failed) == (20, 10)
    assert '"id":"u7"' in outcomes.read_text("utf-8")


def test_operations_that_name_nothing_do_not_wait_for_each_other() -> None:
    """Without headers, parameters and a lock key, nothing says that two calls concern one thing."""
    post = Endpoint(name="x", method="POST", path="/x/", decode=no_result)
    keyed = msgspec.structs.replace(post, lock_key=lambda body: body["id"])
    first, second = post({"id": "a"}), post({"id": "a"})

    assert lock_key_of(first) != lock_key_of(second)
    assert lock_key_of(keyed({"id": "a"})) == lock_key_of(keyed({"id": "a"})) == "a"
    assert (id_of(first), id_of(keyed({"id": "a"}))) == (None, "a")
    assert lock_key_of(NOTE(parameters={"folder": "f"})) == (("folder", "f"),)


@pytest.mark.parametrize("header", ["authorization", "AUTHORIZATION"])
async def test_a_header_that_a_middleware_replaces_is_sent_once(header: str) -> None:
    """The names of headers ignore case, so a new value replaces the client's in any spelling."""

    async def renew(request: Request, send: Send) -> Response:
        return await send(request.with_headers({header: "Api-Key new"}))

    transport = FakeTransport([(200, {}, b'{"profile_id": "p1"}')])
    adapty = client(transport)
    adapty.add_middleware(renew)
    await adapty.execute(SUMMARY(headers={CUSTOMER: "u1"}))

    [request] = transport.requests
    keys = {name: value for name, value in request.headers.items() if "auth" in name.lower()}
    assert keys == {header: "Api-Key new"}


async def test_a_middleware_that_returns_nothing_is_named() -> None:
    """A forgotten `return` is a defect of the program, and says so."""

    async def forget(request: Request, send: Send) -> Any:
        await send(request)

    adapty = client(FakeTransport([(204, {}, b"")]))
    adapty.add_middleware(forget)
    with pytest.raises(TypeError, match="must return a Response, not NoneType"):
        await adapty.execute(NOTE(parameters={"folder": "a"}))


async def test_a_header_of_a_call_replaces_that_of_the_client() -> None:
    """A header that a client adds to every request is not sent next to one of the call."""
    transport = FakeTransport([(204, {}, b"")])
    adapty = client(transport).with_options(headers={"x-trace": "client"})
    await adapty.execute(NOTE(headers={"X-Trace": "call"}, parameters={"folder": "a"}))

    [request] = transport.requests
    assert [value for name, value in request.headers.items() if name.lower() == "x-trace"] == [
        "call"
    ]


# Raw responses

MISSING: Reply = (404, {}, b'{"errors":[],"error_code":"profile_does_not_exist"}')
PROFILE = b'{"data":{"profile_id":"p1","customer_user_id":"u1"}}'


@pytest.mark.parametrize("path", ["fast", "standard"])
async def test_a_raw_response_has_what_the_server_sent(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status, headers, body and request id are the server's, on both HTTP paths."""
    if path == "standard":
        patch_as_a_tracer(monkeypatch)
    sent = reply(200, PROFILE, Request_Id="r-1", X_Region="eu", Content_Type="application/json")
    async with RawServer((RESET,), (sent,)) as server:
        async with AdaptyClient(KEY, base_url=server.url, retry=TWICE) as adapty:
            raw = await adapty.with_raw_response(v2.get_profile(**IDS))
            assert adapty.statistics().http_path == path
        await server.until_left()

    assert (raw.status, raw.body, raw.request_id, raw.attempts) == (200, PROFILE, "r-1", 2)
    assert raw.headers["x-region"] == raw.headers["X-REGION"] == "eu"
    profile = raw.parse()
    assert isinstance(profile, v2.Profile)
    assert profile.customer_user_id == "u1"


async def test_a_raw_response_of_any_transport_ignores_the_case_of_names() -> None:
    """A transport of the caller's may return any mapping."""
    transport = FakeTransport([(200, {"x-request-id": "r-2"}, PROFILE)])
    raw = await client(transport).with_raw_response(v2.get_profile(**IDS))

    assert raw.headers["x-REQUEST-id"] == "r-2"
    assert raw.request_id == "r-2"
    assert dict(raw.headers.items()) == {"X-Request-Id": "r-2"}


async def test_a_raw_response_without_a_body_is_parsed_to_nothing() -> None:
    """Calls without a result have a raw response, too; a deletion that had worked has a 404."""
    transport = FakeTransport([(204, {}, b""), ConnectionLostError("gone"), MISSING])
    adapty = client(transport, retry=TWICE)
    deleted = await adapty.with_raw_response(v2.delete_profile(**IDS))
    gone = await adapty.with_raw_response(v2.delete_profile(**IDS))

    assert (deleted.status, deleted.request_id, deleted.parse()) == (204, None, None)
    assert (gone.status, gone.attempts, gone.parse()) == (404, 2, None)


async def test_an_unreadable_body_is_there_and_parsing_it_raises() -> None:
    """The body of a success that cannot be decoded is not lost, and the error has its attempts."""
    raw = await client(FakeTransport([(200, {}, b"{")])).with_raw_response(v2.get_profile(**IDS))

    assert raw.body == b"{"
    with pytest.raises(DecodeError) as caught:
        raw.parse()
    assert caught.value.attempts == 1


async def test_a_failure_is_an_error_in_raw_calls_too() -> None:
    """Only a success has a raw response; an error has status, request id and body itself."""
    with pytest.raises(NotFoundError):
        await client(FakeTransport([MISSING])).with_raw_response(v2.get_profile(**IDS))


async def test_the_mail_client_has_raw_responses() -> None:
    """Every client executes operations."""
    transport = FakeTransport([(200, {"Request-Id": "r-3"}, b"{}")])
    raw = await AdaptyMailClient(KEY, transport=transport).with_raw_response(
        mail.delete_profile(email="a@b")
    )

    assert (raw.request_id, raw.parse()) == ("r-3", None)


async def test_a_raw_response_shows_nothing_personal() -> None:
    """Its text forms show status and size, and it is not pickled."""
    headers = {"Request-Id": CANARY_EMAIL, "X": CANARY_EMAIL}
    body = json.dumps({"data": {"profile_id": CANARY_EMAIL, "customer_user_id": None}}).encode()
    raw = await client(FakeTransport([(200, headers, body)])).with_raw_response(
        v2.get_profile(**IDS)
    )

    assert repr(raw) == f"RawResponse(200, {len(body)} bytes)"
    assert pretty_repr(raw) == f"RawResponse(status=200, bytes={len(body)})"
    assert raw.request_id is None  # an echo is no name
    with pytest.raises(TypeError, match="pickle its parsed result"):
        pickle.dumps(raw)
    assert isinstance(raw, RawResponse)
