"""Between values and bytes: requests, results, the API's error bodies, and ``Retry-After``."""

from __future__ import annotations

import codecs
import datetime as dt
import math
import time
import traceback
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from adapty_async._api.call import Endpoint, Headers, Operation, Response, RetrySafety
from adapty_async._api.codec import (
    RequestDefaults,
    decode,
    encode,
    error_from,
    parse_retry_after,
    require_no_page,
    to_json,
)
from adapty_async._api.results import data_decoder, json_decoder, no_content, no_result
from adapty_async.errors import (
    ApiError,
    AuthenticationError,
    ConflictError,
    DecodeError,
    ErrorItem,
    InvalidInputError,
    NotFoundError,
    RateLimitError,
    RequestRejectedError,
    ServerError,
)
from adapty_async.v1 import GET_PROFILE
from tests._support import CANARY_EMAIL, ERASE, a_response, replace_dates

WIRE = RequestDefaults(
    origin="https://example.com", headers=Headers({"Authorization": "Api-Key key"})
)
HTML = b"\n<!DOCTYPE html><html><body>403 Forbidden</body></html>"


def e1(status: int, code: str, source: str | None = None, text: str = "No.") -> dict[str, Any]:
    """Return the error body that the server-side API documents."""
    return {
        "errors": [{"source": source, "errors": [text]}],
        "error_code": code,
        "status_code": status,
    }


def e2(status: int, code: str, text: str = "No.") -> dict[str, Any]:
    """Return the error body of its examples whose errors are plain strings."""
    return {"errors": [text], "error_code": code, "status_code": status}


def e4(status: int, code: str, field: str | None = None, text: str = "No.") -> dict[str, Any]:
    """Return the error body of the Mail API."""
    item = {"message": text, "error_code": code, "status_code": status, "field_name": field}
    return {"errors": [item]}


E3 = {
    "errors": [
        {
            "detail": "none is not an allowed value",
            "source": {"pointer": "/data/attributes/stripe_token"},
            "status": "400",
        }
    ]
}
E5 = {"errors": {"property1": ["wrong", "bad"]}, "error_code": "base_error", "status_code": 400}


@pytest.mark.parametrize(
    ("body", "code", "items"),
    [
        pytest.param(
            e1(400, "value_error", "revoke_at", "Too early."),
            "value_error",
            (ErrorItem("Too early.", field_name="revoke_at"),),
            id="E1",
        ),
        pytest.param(
            e1(404, "profile_does_not_exist"),
            "profile_does_not_exist",
            (ErrorItem("No."),),
            id="E1 without source",
        ),
        pytest.param(
            e2(401, "unauthorized", "Invalid API key"),
            "unauthorized",
            (ErrorItem("Invalid API key"),),
            id="E2",
        ),
        pytest.param(
            E3,
            None,
            (ErrorItem("none is not an allowed value", None, 400, "stripe_token"),),
            id="E3",
        ),
        pytest.param(
            e4(400, "base_error", "email", "Field required"),
            "base_error",
            (ErrorItem("Field required", "base_error", 400, "email"),),
            id="E4",
        ),
        pytest.param(
            e1(401, "not_authenticated", "non_field_errors"),
            "not_authenticated",
            (ErrorItem("No."),),
            id="E1 about no field",
        ),
        pytest.param(
            {"errors": {"non_field_errors": ["No."]}}, None, (ErrorItem("No."),), id="E5 about none"
        ),
        pytest.param(E5, "base_error", (ErrorItem("wrong; bad", field_name="property1"),), id="E5"),
        pytest.param({"error_code": "odd", "errors": 7}, "odd", (), id="errors is a number"),
        pytest.param({"error_code": 7}, None, (), id="code is a number"),
        pytest.param(
            {"errors": [None, 7]}, None, (ErrorItem(""), ErrorItem("7")), id="odd entries"
        ),
        pytest.param(
            {"errors": [{"source": {}, "status": "many"}]}, None, (ErrorItem(""),), id="odd fields"
        ),
    ],
)
def test_every_shape_of_error_body_is_read(
    body: Any, code: str | None, items: tuple[ErrorItem, ...]
) -> None:
    """Code and entries are found wherever a shape puts them, and the body is kept."""
    error = error_from("v1.profiles.get", a_response(418, body))

    assert error.recognised
    assert (error.error_code, error.errors) == (code, items)
    assert error.body == msgspec.json.encode(body)


MISSING = msgspec.json.encode(e1(404, "profile_does_not_exist"))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(codecs.BOM_UTF8 + b"\r\n" + MISSING, id="byte order mark"),
        pytest.param(MISSING.replace(b"No.", b"\\ud83d"), id="half of an emoji"),
        pytest.param(MISSING.replace(b"{", b'{"limit":1e999,', 1), id="number out of range"),
    ],
)
def test_an_error_body_is_read_as_generously_as_a_result(body: bytes) -> None:
    """A missing profile is found missing, whatever a proxy puts around the body."""
    error = error_from("v1.profiles.get", a_response(404, body))

    assert type(error) is NotFoundError
    assert (error.recognised, error.error_code) == (True, "profile_does_not_exist")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(HTML, id="HTML"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xfe\x00", id="not UTF-8"),
        pytest.param(b"[" * 100_000, id="deep and cut off"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="deep"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'"errors"', id="a string"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"message":"no Route matched"}', id="a gateway's JSON"),
        pytest.param(b'{"errors":[]}', id="no entries"),
        pytest.param(b'{"errors":null}', id="null entries"),
    ],
)
def test_a_body_that_is_not_the_apis_is_not_recognised(body: bytes) -> None:
    """Such a response still becomes an error, with its body and without entries."""
    error = error_from("v1.profiles.get", a_response(502, body))

    assert type(error) is ServerError
    assert (error.recognised, error.error_code, error.errors) == (False, None, ())
    assert error.body == body[: 64 * 1024]


@pytest.mark.parametrize("depth", range(900, 1010, 10), ids=str)
@pytest.mark.parametrize(
    "shape", [b'{"errors":%b}', b'{"errors":[{"message":%b}]}'], ids=["entry", "message"]
)
def test_nesting_at_the_interpreters_limit_is_no_crash(depth: int, shape: bytes) -> None:
    """A body nested so deeply that it can just be decoded is reported as any other."""
    for near in range(depth, depth + 10):
        error = error_from("v1.profiles.get", a_response(400, shape % (b"[" * near + b"]" * near)))

        assert type(error) is RequestRejectedError


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        pytest.param(401, e1(401, "not_authenticated"), AuthenticationError, id="E1 key"),
        pytest.param(401, e2(401, "unauthorized"), AuthenticationError, id="E2 key"),
        pytest.param(
            403, e4(403, "secret_key_does_not_exist_error"), AuthenticationError, id="mail key"
        ),
        pytest.param(404, e1(404, "profile_does_not_exist"), NotFoundError, id="missing, 404"),
        pytest.param(400, e1(400, "profile_does_not_exist"), NotFoundError, id="missing, 400"),
        pytest.param(400, e2(400, "profile_does_not_exist"), NotFoundError, id="missing, 400 E2"),
        pytest.param(404, e2(404, "profile_not_found"), NotFoundError, id="missing, other code"),
        pytest.param(404, e4(404, "profile_not_found_error"), NotFoundError, id="missing at mail"),
        pytest.param(404, e1(404, "not_found"), NotFoundError, id="missing, draft code"),
        pytest.param(404, e2(404, "paywall_does_not_exist"), NotFoundError, id="paywall"),
        pytest.param(403, e1(403, "feature_not_enabled"), RequestRejectedError, id="feature off"),
        pytest.param(429, e1(429, "rate_limited"), RateLimitError, id="rate limit"),
        pytest.param(400, e1(400, "rate_limited"), RateLimitError, id="rate limit, odd status"),
        pytest.param(409, e1(409, "idempotency_in_flight"), ConflictError, id="in flight"),
        pytest.param(409, e1(409, "duplicate_source_transaction"), ConflictError, id="duplicate"),
        pytest.param(400, e4(400, "base_error", "email"), RequestRejectedError, id="mail field"),
        pytest.param(400, e4(400, "missing_identifier"), RequestRejectedError, id="no identifier"),
        pytest.param(422, b"", RequestRejectedError, id="422 without a code"),
        pytest.param(400, E3, RequestRejectedError, id="E3"),
        pytest.param(400, E5, RequestRejectedError, id="E5"),
        pytest.param(400, e1(400, "a_new_code"), RequestRejectedError, id="400, new code"),
        pytest.param(401, b"", AuthenticationError, id="bare 401"),
        pytest.param(401, HTML, AuthenticationError, id="401 in HTML"),
        pytest.param(403, e1(403, "a_new_code"), AuthenticationError, id="403, new code"),
        pytest.param(403, HTML, RequestRejectedError, id="403 in HTML"),
        pytest.param(403, b"", RequestRejectedError, id="bare 403"),
        pytest.param(404, HTML, RequestRejectedError, id="404 in HTML"),
        pytest.param(404, b"", RequestRejectedError, id="bare 404"),
        pytest.param(404, b'{"detail":"x"}', RequestRejectedError, id="404 of other JSON"),
        pytest.param(404, e1(404, "a_new_code"), RequestRejectedError, id="404, new code"),
        pytest.param(410, e1(410, "a_new_code"), RequestRejectedError, id="410, new code"),
        pytest.param(410, HTML, RequestRejectedError, id="410 in HTML"),
        pytest.param(405, HTML, RequestRejectedError, id="405"),
        pytest.param(409, HTML, ConflictError, id="409 in HTML"),
        pytest.param(429, HTML, RateLimitError, id="429 in HTML"),
        pytest.param(302, b"", RequestRejectedError, id="redirect"),
        pytest.param(500, e1(500, "a_new_code"), ServerError, id="500"),
        pytest.param(503, HTML, ServerError, id="503 in HTML"),
        pytest.param(599, b"", ServerError, id="599"),
    ],
)
def test_the_class_follows_code_first_and_status_second(
    status: int, body: Any, kind: type[ApiError]
) -> None:
    """A known code decides, otherwise the status; a gateway's 403, 404 and 410 prove nothing."""
    error = error_from("v1.profiles.get", a_response(status, body))

    assert type(error) is kind
    assert (error.status, error.operation) == (status, "v1.profiles.get")


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        pytest.param(400, b"", "status 400, operation a.b", id="plain"),
        pytest.param(
            301,
            b"",
            "status 301, a redirect, which is not followed: check base_url, operation a.b",
            id="redirect",
        ),
        pytest.param(
            300,
            b"",
            "status 300, a redirect, which is not followed: check base_url, operation a.b",
            id="several places",
        ),
        pytest.param(
            404, e1(404, "x"), "status 404, error_code x, operation a.b", id="from the API"
        ),
        pytest.param(
            404, HTML, "status 404, not from the API: check base_url, operation a.b", id="gateway"
        ),
        pytest.param(
            400,
            e4(400, "base_error", "email", f"{CANARY_EMAIL} is taken"),
            "status 400, error_code base_error, field email, operation a.b",
            id="with code and field",
        ),
    ],
)
def test_an_errors_text_says_what_to_do_and_quotes_nothing(
    status: int, body: Any, text: str
) -> None:
    """The text names status, code, field and operation, and hints at a wrong address."""
    assert str(error_from("a.b", a_response(status, body))) == text


@pytest.mark.parametrize(("size", "recognised"), [(64 * 1024, True), (64 * 1024 + 1, False)])
def test_an_error_that_is_too_large_is_none_of_the_apis(
    size: int,
    recognised: bool,  # noqa: FBT001  a case
) -> None:
    """A body above 64 KiB is not read, only kept in part: entries cost thirty times their size."""
    body = b'{"errors":[],"error_code":"not_found"}'
    error = error_from("a.b", a_response(404, body.ljust(size)))

    assert error.recognised is recognised
    assert len(error.body) == 64 * 1024


@pytest.mark.parametrize("header", ["Request-Id", "X-Request-Id"])
def test_the_request_id_is_found_in_either_header(header: str) -> None:
    """The id that support asks for is taken from the response's headers."""
    error = error_from("a.b", a_response(500, b"", **{header: "758f01df"}))

    assert error.request_id == "758f01df"
    assert str(error).endswith("request 758f01df")


def test_the_wait_is_read_against_the_responses_own_date() -> None:
    """A ``Retry-After`` date is compared with ``Date``, not with this machine's clock."""
    response = a_response(
        429,
        b"",
        retry_after="Wed, 21 Oct 2015 07:28:30 GMT",
        date="Wed, 21 Oct 2015 07:28:00 GMT",
    )

    assert error_from("a.b", response).retry_after == 30.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 1.5 ", 1.5),
        ("Wed, 21 Oct 2015 07:28:10 GMT", 10.0),
        ("Wednesday, 21-Oct-15 07:28:10 GMT", 10.0),
        ("Wed Oct 21 07:28:10 2015", 10.0),
        ("Wed, 21 Oct 2015 09:28:10 +0200", 10.0),
        ("Wed, 21 Oct 2015 07:00:00 GMT", 0.0),
        (None, None),
        ("", None),
        ("-1", None),
        ("1e3", None),
        ("nan", None),
        ("inf", None),
        ("١٢", None),
        ("9" * 11, None),
        ("soon", None),
        ("Wed, 99 Oct 2015 07:28:10 GMT", None),
        ("Wed, 21 Oct 2015 07:28:10 +9999999999", None),
    ],
    ids=repr,
)
@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_retry_after_is_seconds_or_a_date(
    monkeypatch: pytest.MonkeyPatch, value: str | None, seconds: float | None, zone: str
) -> None:
    """Seconds and all forms of HTTP dates are read in any local time zone; the rest is ignored."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        read = parse_retry_after(value, "Wed, 21 Oct 2015 07:28:00 GMT")
    time.tzset()

    assert read == seconds


def test_without_a_date_this_machines_clock_counts() -> None:
    """A date long gone is no wait, one far away is a long one."""
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert (parse_retry_after("Fri, 31 Dec 9999 23:59:59 GMT", "junk") or 0.0) > 1e9


DATES = st.from_regex(
    r"([A-Z][a-z]{2}, )?[0-9]{1,3} [A-Z][a-z]{2} [0-9]{1,5} [0-9:]{1,9}"
    r"( [A-Z]{1,3}| [+-][0-9]{1,6})?",
    fullmatch=True,
)


@given(st.text(max_size=30) | DATES, st.none() | st.text(max_size=30) | DATES)
@example("0" * 5000, None)
@example("1 Jan 0001 00:00:00 +2359", "31 Dec 9999 23:59:59 -2359")
def test_retry_after_never_raises_nor_goes_back_in_time(value: str, date: str | None) -> None:
    """Any text is a finite number from zero, or nothing."""
    seconds = parse_retry_after(value, date)

    assert seconds is None or (seconds >= 0.0 and math.isfinite(seconds))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["errors", "error_code", "source", "pointer", "message", "detail", "status", "data"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def as_json(value: Any) -> bytes:
    """Encode a drawn value, numbers of any size included."""
    return msgspec.json.encode(value, enc_hook=str) if fits(value) else b'{"errors":[1e999]}'


def fits(value: Any) -> bool:
    """Tell whether msgspec can write all numbers of a value."""
    if isinstance(value, dict):
        return all(map(fits, value.values()))
    if isinstance(value, list):
        return all(map(fits, value))

    return not isinstance(value, int) or -(2**63) <= value < 2**64


BODIES = st.binary(max_size=60) | JSON.map(as_json)
HEADERS = st.dictionaries(
    st.sampled_from(["Retry-After", "Date", "Request-Id", "X-Request-Id"]), st.text(max_size=20)
)


@given(BODIES, st.integers(300, 999), HEADERS)
def test_any_failed_response_becomes_an_error(
    body: bytes, status: int, headers: dict[str, str]
) -> None:
    """Whatever a server sends, reading it gives an ApiError with a text of one line."""
    error = error_from("a.b", Response(status, headers, body))

    assert isinstance(error, ApiError)
    assert error.status == status
    assert len(str(error).splitlines()) == 1


ECHO: Endpoint[Any] = Endpoint(
    name="test.echo",
    method="POST",
    path="/echo/",
    docs="https://example.com",
    retry_safety=RetrySafety.ALWAYS,
    bucket="test",
    decode=msgspec.json.decode,
)


@given(BODIES)
@example(b"[" * 100_000)
@example(b"\xef\xbb\xbf{}")
@pytest.mark.parametrize("endpoint", [GET_PROFILE, ECHO, ERASE], ids=lambda row: row.name)
def test_any_successful_response_is_a_result_or_a_decode_error(
    endpoint: Endpoint[Any], body: bytes
) -> None:
    """Whatever a server sends with a success, nothing but a DecodeError comes of it."""
    try:
        decode(Operation(endpoint), a_response(200, body))
    except DecodeError as error:
        assert error.body == body[: 64 * 1024]  # noqa: PT017  most bodies are good ones


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b'{"first_name":', "not JSON", id="cut off"),
        pytest.param(b'{"errors":["no"]}', "an error, in spite of the status", id="error"),
        pytest.param(b'{"new":' + b"[" * 100_000, "RecursionError", id="deep"),
        pytest.param(
            b'{"profile_id":7}', r"not as documented - at `\$.profile_id`", id="other type"
        ),
    ],
)
def test_an_unreadable_success_says_where_but_not_what(body: bytes, reason: str) -> None:
    """A DecodeError names status, place and operation, and keeps the body."""
    with pytest.raises(
        DecodeError, match=rf"^status 200, unreadable response \({reason}\)"
    ) as caught:
        decode(Operation(GET_PROFILE), a_response(200, body))

    assert caught.value.operation == "v1.profiles.get"
    assert (caught.value.status, caught.value.body) == (200, body[: 64 * 1024])


def test_only_what_is_known_to_quote_nothing_is_quoted() -> None:
    """What a decoder of another kind says may hold what the server wrote, and is left out."""

    def refuse(body: bytes) -> None:
        raise ValueError(f"$.email is {CANARY_EMAIL}")

    row = msgspec.structs.replace(ERASE, decode=refuse)
    with pytest.raises(DecodeError, match=r"unreadable response \(ValueError in ") as caught:
        decode(Operation(row), a_response(200, b"{}"))

    assert CANARY_EMAIL not in str(caught.value)


class Person(msgspec.Struct, tag="person"):
    """A result of a caller's own whose fields have fixed values."""

    gender: Literal["f", "m"]
    age: int = 0

    def __post_init__(self) -> None:
        if self.age > 150:
            raise ValueError(f"too old, see $.age: {CANARY_EMAIL} - at `$.{CANARY_EMAIL}`")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(
            {"gender": CANARY_EMAIL}, r"unexpected value - at `\$\[0\]\.gender`", id="literal"
        ),
        pytest.param(
            {"gender": f"x - at `$.{CANARY_EMAIL}`"},
            r"unexpected value - at `\$\[0\]\.gender`",
            id="literal like a path",
        ),
        pytest.param({"type": CANARY_EMAIL}, r"unexpected value - at `\$\[0\]\.type`", id="tag"),
        pytest.param(
            {"gender": "f", "age": 151}, r"unexpected value - at `\$\[0\]`", id="own check"
        ),
        pytest.param(
            {"gender": "f", "age": CANARY_EMAIL},
            r"Expected `int`, got `str` - at `\$\[0\]\.age`",
            id="type",
        ),
        pytest.param(
            {"age": 1},
            r"Object missing required field `gender` - at `\$\[0\]`",
            id="missing",
        ),
    ],
)
def test_a_value_that_is_none_of_the_callers_is_not_quoted(body: Any, reason: str) -> None:
    """The message names the path, and msgspec's reason if that quotes no value."""
    row = msgspec.structs.replace(ERASE, decode=json_decoder(list[Person], unwrap=False))
    content = msgspec.json.encode([{"type": "person", **body}])
    with pytest.raises(DecodeError, match=rf"unreadable response \({reason}\)") as caught:
        decode(Operation(row), a_response(200, content))

    shown = "".join(traceback.format_exception(caught.value))
    assert CANARY_EMAIL not in shown


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param("[]", "Expected `object`, got `array`", id="type"),
        pytest.param('{"type":"person"}', "Object missing required field `gender`", id="missing"),
        pytest.param(f'{{"type":"{CANARY_EMAIL}"}}', r"unexpected value - at `\$\.type`", id="tag"),
        pytest.param(
            '{"type":"person","gender":"f","age":151}', "unexpected value", id="own check"
        ),
    ],
)
def test_a_whole_body_that_is_not_of_the_callers_type(body: str, reason: str) -> None:
    """The message names no path then."""
    row = msgspec.structs.replace(ERASE, decode=json_decoder(Person, unwrap=False))
    with pytest.raises(DecodeError, match=rf"unreadable response \({reason}\)"):
        decode(Operation(row), a_response(200, body.encode()))


def test_a_type_that_msgspec_cannot_read_is_named() -> None:
    """The library's own types are read by it, and no other."""
    row = msgspec.structs.replace(ERASE, decode=json_decoder(list[Headers]))
    with pytest.raises(DecodeError, match=r"Expected `Headers`, got `list` - at `\$\[0\]`"):
        decode(Operation(row), a_response(200, b'{"data":[[]]}'))


def test_a_defect_of_a_decoder_of_the_library_names_its_line() -> None:
    """It fails one item, as an odd body does, and does not look like one."""

    class Defective(msgspec.Struct):
        def __post_init__(self) -> None:
            raise AttributeError

    row = msgspec.structs.replace(ERASE, decode=data_decoder(Defective))
    place = f"test_codec.py, line {Defective.__post_init__.__code__.co_firstlineno + 1}"
    with pytest.raises(DecodeError, match=rf"\(AttributeError in {place}\)"):
        decode(Operation(row), a_response(200, b'{"data":{}}'))


def test_a_page_with_a_success_is_not_a_success() -> None:
    """HTML is no response of the API, even where the status is all that counts."""
    with pytest.raises(DecodeError, match=r"unreadable response \(a page\)") as caught:
        require_no_page("v1.profiles.delete", a_response(200, HTML))

    assert (caught.value.operation, caught.value.body) == ("v1.profiles.delete", HTML)


@pytest.mark.parametrize("endpoint", [GET_PROFILE, ERASE], ids=lambda row: row.name)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"errors":[{"errors":["no"]}]}', id="errors"),
        pytest.param(b'{"data":{},"error_code":"no"}', id="code"),
    ],
)
def test_an_error_with_a_success_is_not_a_success(endpoint: Endpoint[Any], body: bytes) -> None:
    """An error of the API is no empty profile, whatever status it comes with."""
    with pytest.raises(DecodeError, match=r"\(an error, in spite of the status\)"):
        decode(Operation(endpoint), a_response(200, body))


class Thing(msgspec.Struct):
    """Something to decode."""

    name: str | None = None


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b"", None),
        (b"{}", None),
        (b'{"data":null}', None),
        (b'{"data":{}}', None),
        (b'{"name":"x"}', "x"),
        (b'{"data":{"name":"x"}}', "x"),
        (b'{"name":"x","unheard_of":[1]}', "x"),
        (b'{"data":{"name":"x"},"errors":[],"error_code":null}', "x"),
        (b" \r\n", None),
        (b'\xef\xbb\xbf{"data":{"name":"x"}}\n', "x"),
    ],
    ids=repr,
)
def test_an_object_stands_alone_or_under_data(body: bytes, name: str | None) -> None:
    """Both envelopes are read, unknown fields are ignored, and nothing reads as an empty object."""
    assert data_decoder(Thing)(body) == Thing(name)


def test_only_a_result_is_read_field_by_field() -> None:
    """A struct that cannot keep what is odd stays unreadable."""
    with pytest.raises(msgspec.ValidationError, match=r"at `\$.name`"):
        data_decoder(Thing)(b'{"name":7}')


def test_a_request_is_the_row_and_the_values() -> None:
    """The request has everything the layers need; without values it shares the client's headers."""
    request = encode(Operation(ECHO, (), {"a": 1}), WIRE, timeout=2.0, total_timeout=5.0)

    assert (request.operation, request.method) == ("test.echo", "POST")
    assert (request.url, request.body) == ("https://example.com/echo/", b'{"a":1}')
    assert request.headers == WIRE.headers
    assert (request.retry_safety, request.bucket, request.is_deletion) == (
        RetrySafety.ALWAYS,
        "test",
        False,
    )
    assert (request.timeout, request.total_timeout) == (2.0, 5.0)


def test_headers_of_an_operation_join_the_clients() -> None:
    """A call's headers are added for that call alone; without a body none is sent."""
    operation = Operation(ERASE, (("adapty-profile-id", "p1"),))
    request = encode(operation, WIRE, timeout=1.0, total_timeout=1.0)

    assert request.headers == {"Authorization": "Api-Key key", "adapty-profile-id": "p1"}
    assert (request.body, request.is_deletion) == (None, True)
    assert WIRE.headers == {"Authorization": "Api-Key key"}


LIST: Endpoint[None] = msgspec.structs.replace(ERASE, path="/things/{thing_id}/")


@pytest.mark.parametrize(
    ("values", "url"),
    [
        pytest.param({"thing_id": "a"}, "/things/a/", id="path"),
        pytest.param({"thing_id": "a/..b?c/"}, "/things/a%2F..b%3Fc%2F/", id="quoted"),
        pytest.param(
            {"page[size]": "5", "thing_id": "a", "cursor": "x y&z="},
            "/things/a/?page%5Bsize%5D=5&cursor=x+y%26z%3D",
            id="query",
        ),
    ],
)
def test_parameters_go_into_path_and_query(values: dict[str, str], url: str) -> None:
    """A parameter that the row's path has a place for goes there, any other into the query."""
    about = (("adapty-profile-id", "p1"),)
    operation = Operation(LIST, about, parameters=tuple(values.items()))
    request = encode(operation, WIRE, timeout=1.0, total_timeout=1.0)

    assert request.url == f"https://example.com{url}"
    assert request.headers == {"Authorization": "Api-Key key", "adapty-profile-id": "p1"}


def test_a_path_without_placeholders_takes_a_query() -> None:
    """If the path of an endpoint is the same for all calls, every parameter is in the query."""
    operation = Operation(ERASE, parameters=(("cursor", "x"),))

    request = encode(operation, WIRE, timeout=1.0, total_timeout=1.0)
    assert request.url == f"https://example.com{ERASE.path}?cursor=x"


@pytest.mark.parametrize("given", [(), (("cursor", "x"),)], ids=["nothing", "another"])
def test_a_parameter_of_the_path_must_be_given(given: tuple[tuple[str, str], ...]) -> None:
    """A path with a hole in it is not sent."""
    with pytest.raises(InvalidInputError, match=r"^thing_id: is required$"):
        encode(Operation(LIST, parameters=given), WIRE, timeout=1.0, total_timeout=1.0)


@pytest.mark.parametrize(
    ("key", "retry_safety", "total_timeout"),
    [("k1", RetrySafety.WITH_KEY, 1800.0), (None, RetrySafety.IF_UNSENT, 9999.0)],
    ids=["key", "no key"],
)
def test_a_key_is_not_used_for_longer_than_it_is_remembered(
    key: str | None, retry_safety: RetrySafety, total_timeout: float
) -> None:
    """A call with a key ends before the server forgets it; without one its retry is not safe."""
    row = msgspec.structs.replace(ERASE, retry_safety=RetrySafety.WITH_KEY)
    request = encode(Operation(row, key=key), WIRE, timeout=1.0, total_timeout=9999.0)

    assert (request.retry_safety, request.total_timeout) == (retry_safety, total_timeout)


def test_a_row_may_have_a_media_type_and_an_operation_a_key() -> None:
    """Both become headers of that request alone."""
    row = msgspec.structs.replace(ERASE, media_type="application/vnd.api+json")
    request = encode(Operation(row, key="k1"), WIRE, timeout=1.0, total_timeout=1.0)

    assert request.headers == {
        "Authorization": "Api-Key key",
        "Content-Type": "application/vnd.api+json",
        "Idempotency-Key": "k1",
    }
    with pytest.raises(InvalidInputError, match=r"^idempotency_key: must not contain control"):
        encode(Operation(row, key="a\nb"), WIRE, timeout=1.0, total_timeout=1.0)


def test_an_idempotency_key_is_ascii_whatever_ids_are() -> None:
    """It is made by a program, and no server must be asked to guess how it is written."""
    wire = msgspec.structs.replace(WIRE, id_encoding="utf-8")
    with pytest.raises(InvalidInputError, match=r"^idempotency_key: must be ASCII"):
        encode(Operation(ERASE, key="clé"), wire, timeout=1.0, total_timeout=1.0)


@pytest.mark.parametrize("background", [False, True])
def test_a_request_says_whether_it_is_an_item_of_a_run(background: bool) -> None:  # noqa: FBT001
    """It is not, unless that is said."""
    told = {"low_priority": True} if background else {}
    request = encode(Operation(ERASE), WIRE, timeout=1.0, total_timeout=1.0, **told)

    assert request.low_priority is background


def test_a_wire_shows_where_it_goes_and_no_key() -> None:
    """Neither plainly nor prettily."""
    assert repr(WIRE) == "RequestDefaults(https://example.com)"
    assert pretty_repr(WIRE) == "RequestDefaults(origin='https://example.com')"


@pytest.mark.parametrize("decode", [no_result, no_content])
@pytest.mark.parametrize(
    "body", [b"", b" ", b"{}", b"\xef\xbb\xbf", b"\xef\xbb\xbf{}\n", b'{"data":null}'], ids=repr
)
def test_a_response_without_a_result_may_say_nothing(
    decode: Callable[[bytes], None], body: bytes
) -> None:
    """Nothing, blanks, a byte order mark or an empty object are a success."""
    assert decode(body) is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize(
    "body",
    [b'{"status":"ok"}', b'{"data":null,"message":"no"}', b'{"errors":[]}', b"[]", b"null", b"ok"],
    ids=repr,
)
def test_a_response_with_content_is_no_success_of_a_deletion(body: bytes) -> None:
    """The API has nothing to say about a deletion, so another server has responded."""
    with pytest.raises(ValueError, match=r"not as documented|Expected `object`|malformed"):
        no_content(body)


def test_a_row_is_checked_unless_the_wire_is_not_to() -> None:
    """The check of a row sees the operation before anything is made of it."""

    def refuse(operation: Operation[Any]) -> None:
        raise InvalidInputError(operation.endpoint.name, "is refused")

    operation = Operation(msgspec.structs.replace(ERASE, check=refuse))
    with pytest.raises(InvalidInputError, match=r"^test.erase: is refused$"):
        encode(operation, WIRE, timeout=1.0, total_timeout=1.0)
    lenient = msgspec.structs.replace(WIRE, validate=False)
    assert encode(operation, lenient, timeout=1.0, total_timeout=1.0).operation == "test.erase"


@pytest.mark.parametrize(
    ("encoding", "accepted"), [("ascii", False), ("utf-8", True)], ids=["ascii", "utf-8"]
)
def test_the_client_decides_on_ids_that_are_not_ascii(encoding: str, accepted: bool) -> None:  # noqa: FBT001
    """Such an id goes out only where the client was made for it."""
    wire = msgspec.structs.replace(WIRE, id_encoding=encoding)
    operation = Operation(ERASE, (("adapty-customer-user-id", "ü1"),))

    if accepted:
        request = encode(operation, wire, timeout=1.0, total_timeout=1.0)
        assert request.headers["adapty-customer-user-id"] == "ü1"
    else:
        with pytest.raises(InvalidInputError, match=r"^customer_user_id: must be ASCII"):
            encode(operation, wire, timeout=1.0, total_timeout=1.0)


class Text(str):
    """Text of a class of its own, as templating libraries have."""

    __slots__ = ()


class Count(int):
    """A number of a class of its own."""


class Share(float):
    """A number of a class of its own, as numpy has."""


class Day(dt.date):
    """A date of a class of its own, as test tools have."""


class Moment(dt.datetime):
    """A time of a class of its own, as pandas and pendulum have."""


@pytest.mark.parametrize(
    ("value", "written"),
    [
        pytest.param(Text("a"), b'"a"', id="str"),
        pytest.param(Count(7), b"7", id="int"),
        pytest.param(Share(1.5), b"1.5", id="float"),
        pytest.param(Day(2000, 12, 31), b'"2000-12-31"', id="date"),
        pytest.param(
            Moment(2026, 6, 1, 10, 30, 0, 5, tzinfo=dt.UTC),
            b'"2026-06-01T10:30:00.000005Z"',
            id="datetime",
        ),
    ],
)
def test_values_of_subclasses_are_written_as_what_they_are(value: Any, written: bytes) -> None:
    """Numbers, texts and times of other libraries go out as their plain selves."""
    assert to_json(value) == written


def test_dates_of_replaced_classes_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test may have replaced the classes of `datetime`, so that their clock stands still."""
    replace_dates(monkeypatch)
    values = dt.datetime(2026, 6, 1, 10, 30, tzinfo=dt.UTC), dt.date(2000, 12, 31)

    assert to_json(values) == b'["2026-06-01T10:30:00Z","2000-12-31"]'


def test_what_json_has_no_word_for_is_an_error() -> None:
    """An object that is none of these is rejected by its class."""
    with pytest.raises(NotImplementedError, match=r"^object$"):
        to_json(object())
