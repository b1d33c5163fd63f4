"""Version 1 of the server-side API: requests, results and identities of each call."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async import UNSET, AdaptyClient, InstallationMeta, OutcomeStatus, RetryPolicy
from adapty_async._api.call import Endpoint, RetrySafety
from adapty_async.errors import (
    ConfigError,
    ConnectionLostError,
    DecodeError,
    InvalidInputError,
    NotFoundError,
    RequestTimeoutError,
)
from adapty_async.testing import FakeTransport, Reply
from adapty_async.v1 import (
    CREATE_PROFILE,
    DELETE_PROFILE,
    GET_PROFILE,
    UPDATE_PROFILE,
    CustomAttributes,
    Profile,
    ProfileAttributes,
    create_profile,
    delete_profile,
    get_profile,
    update_profile,
)

URL = "https://api.adapty.io/api/v1/server-side-api/profiles/"
FOUND: Reply = (200, {}, b'{"data":{"profile_id":"p1"}}')
MISSING: Reply = (404, {}, b'{"errors":[],"error_code":"profile_does_not_exist","status_code":404}')
USER_AGENT = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_1_1 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/17.1 Mobile/15E148 Safari/604.1"
)
META = {
    "device_id": "3fa85f64-5717-4562-b3fc-2c963f66afa6",
    "device": "string",
    "locale": "string",
    "os": "string",
    "platform": "iOS",
    "timezone": "Europe/Rome",
    "user_agent": USER_AGENT,
    "idfa": "string",
    "idfv": "string",
    "advertising_id": "string",
    "android_id": "string",
    "android_app_set_id": "string",
}
# https://adapty.io/docs/getting-started-with-server-side-api, the example of "Create profile"
EXAMPLE = {
    "first_name": "Jane",
    "last_name": "Doe",
    "gender": "f",
    "email": "jane.dow@example.com",
    "phone_number": "+1234567890",
    "birthday": "2000-12-31",
    "ip_country": "FR, US",
    "store_country": "FR, US",
    "store": "app_store",
    "analytics_disabled": True,
    "custom_attributes": [{"key": "string", "value": "string"}],
    "installation_meta": META,
}


def client(transport: FakeTransport, **settings: Any) -> AdaptyClient:
    """Return a client over that transport."""
    return AdaptyClient("secret_live_x.y", transport=transport, **settings)


def attributes() -> ProfileAttributes:
    """Return the document's example as a struct."""
    return ProfileAttributes(
        first_name="Jane",
        last_name="Doe",
        gender="f",
        email="jane.dow@example.com",
        phone_number="+1234567890",
        birthday=dt.date(2000, 12, 31),
        ip_country="FR, US",
        store_country="FR, US",
        store="app_store",
        analytics_disabled=True,
        custom_attributes={"string": "string"},
        installation_meta=InstallationMeta(**META),
    )


async def test_the_documents_example_is_what_is_sent() -> None:
    """The struct of the example is sent as the example's JSON."""
    transport = FakeTransport([FOUND])

    await client(transport).v1.profiles.create(attributes(), customer_user_id="u1")
    assert json.loads(transport.requests[0].body or b"") == EXAMPLE


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        pytest.param({}, {}, id="all unset"),
        pytest.param({"email": UNSET, "store": "x"}, {"store": "x"}, id="unset is left out"),
        pytest.param({"email": None}, {"email": None}, id="None is null"),
        pytest.param({"birthday": "2000-12-31"}, {"birthday": "2000-12-31"}, id="text as it is"),
        pytest.param({"analytics_disabled": False}, {"analytics_disabled": False}, id="False"),
        pytest.param(
            {"custom_attributes": MappingProxyType({"plan": "annual"})},
            {"custom_attributes": [{"key": "plan", "value": "annual"}]},
            id="attributes of any mapping",
        ),
        pytest.param(
            {"custom_attributes": {"a": True, "b": 0, "c": None, "d": "", "e": 1.5}, "email": None},
            {
                "email": None,
                "custom_attributes": [
                    {"key": "a", "value": 1.0},
                    {"key": "b", "value": 0},
                    {"key": "c", "value": None},
                    {"key": "d", "value": ""},
                    {"key": "e", "value": 1.5},
                ],
            },
            id="attributes are a list",
        ),
        pytest.param(
            {"installation_meta": InstallationMeta(device=None)},
            {"installation_meta": {"device": None}},
            id="nested",
        ),
    ],
)
@pytest.mark.parametrize("row", [CREATE_PROFILE, UPDATE_PROFILE], ids=lambda row: row.name)
def test_what_is_set_is_sent(row: Endpoint[Any], fields: Any, sent: Any) -> None:
    """UNSET is left out, None is null, and attributes become a list of keys and values."""
    body = row.encode(ProfileAttributes(**fields))

    assert json.loads(body) == sent


def test_a_bool_attribute_is_a_float() -> None:
    """The bytes are 1.0 and 0.0, since the server accepts no booleans there."""
    body = UPDATE_PROFILE.encode(ProfileAttributes(custom_attributes={"a": True, "b": False}))

    assert body == (b'{"custom_attributes":[{"key":"a","value":1.0},{"key":"b","value":0.0}]}')


IDS: Any = {"customer_user_id": "u1"}
CALLS: dict[str, Callable[[AdaptyClient], Awaitable[object]]] = {
    "GET": lambda adapty: adapty.v1.profiles.get(**IDS),
    "POST": lambda adapty: adapty.v1.profiles.create(**IDS),
    "PATCH": lambda adapty: adapty.v1.profiles.update(ProfileAttributes(email=None), **IDS),
    "DELETE": lambda adapty: adapty.v1.profiles.delete(**IDS),
}
BODIES = {"GET": None, "POST": b"{}", "PATCH": b'{"email":null}', "DELETE": None}


@pytest.mark.parametrize("method", CALLS)
async def test_each_call_is_one_request(method: str) -> None:
    """Every call has its method, the one path, the key, the content type and the identity."""
    transport = FakeTransport([FOUND])
    await CALLS[method](client(transport))

    [request] = transport.requests
    assert (request.method, request.url, request.body) == (method, URL, BODIES[method])
    assert dict(request.headers) == {
        "Authorization": "Api-Key secret_live_x.y",
        "Content-Type": "application/json",
        "User-Agent": request.headers["User-Agent"],
        "adapty-customer-user-id": "u1",
    }


@pytest.mark.parametrize(
    ("endpoint", "method", "retry_safety", "is_deletion"),
    [
        (GET_PROFILE, "GET", RetrySafety.ALWAYS, False),
        (CREATE_PROFILE, "POST", RetrySafety.IF_UNSENT, False),
        (UPDATE_PROFILE, "PATCH", RetrySafety.ALWAYS, False),
        (DELETE_PROFILE, "DELETE", RetrySafety.ALWAYS, True),
    ],
    ids=["get", "create", "update", "delete"],
)
def test_a_row_has_its_retry_safety(
    endpoint: Endpoint[Any],
    method: str,
    retry_safety: RetrySafety,
    is_deletion: bool,  # noqa: FBT001
) -> None:
    """Only a creation is not safe to retry, and only a deletion deletes."""
    assert endpoint.method == method
    assert (endpoint.retry_safety, endpoint.is_deletion) == (retry_safety, is_deletion)
    assert endpoint.absent_if_missing == (method == "GET")
    assert endpoint.docs.startswith("https://adapty.io/docs/")


@pytest.mark.parametrize("operation", [get_profile, create_profile, delete_profile])
@pytest.mark.parametrize(
    ("ids", "headers"),
    [
        ({"customer_user_id": "u1"}, (("adapty-customer-user-id", "u1"),)),
        ({"profile_id": "p1"}, (("adapty-profile-id", "p1"),)),
    ],
    ids=["customer_user_id", "profile_id"],
)
def test_an_operation_carries_its_identity(
    operation: Callable[..., Any], ids: dict[str, str], headers: object
) -> None:
    """Either id is sent in the header of its kind."""
    assert operation(**ids).headers == headers


@pytest.mark.parametrize(
    "operation",
    [
        get_profile,
        create_profile,
        delete_profile,
        lambda **ids: update_profile(ProfileAttributes(), **ids),
    ],
    ids=["get", "create", "delete", "update"],
)
@pytest.mark.parametrize(
    "ids",
    [{}, {"customer_user_id": None}, {"customer_user_id": "u1", "profile_id": "p1"}],
    ids=["none", "None", "two"],
)
def test_exactly_one_identity_is_needed(operation: Callable[..., Any], ids: dict[str, Any]) -> None:
    """None or two of the ids are rejected, by name and without their values."""
    rule = "^customer_user_id: exactly one of customer_user_id and profile_id is required$"
    with pytest.raises(InvalidInputError, match=rule):
        operation(**ids)


@pytest.mark.parametrize("field", ["customer_user_id", "profile_id"])
@pytest.mark.parametrize(
    ("value", "rule"),
    [
        pytest.param("", "must not be empty", id="empty"),
        pytest.param("u1 ", "must not begin or end with a blank", id="padded"),
        pytest.param("u\r\n1", "must not contain control characters or line breaks", id="CRLF"),
        pytest.param("ü1", "must be ASCII", id="non-ASCII"),
        pytest.param(1, "must be text, not int", id="number"),
        pytest.param("u" * 1025, "must not be longer than 1024 bytes", id="too long"),
    ],
)
async def test_an_id_that_cannot_be_sent_is_rejected_unsent(
    field: str, value: Any, rule: str
) -> None:
    """An invalid id is rejected by its name before any request."""
    transport = FakeTransport()

    with pytest.raises(InvalidInputError, match=f"^{field}: {rule}"):
        await client(transport).v1.profiles.delete(**{field: value})
    assert transport.requests == []


async def test_an_id_that_is_not_ascii_needs_a_choice() -> None:
    """A client with UTF-8 encoding sends such an id unchanged."""
    transport = FakeTransport([FOUND])

    await client(transport, id_encoding="utf-8").v1.profiles.get(customer_user_id="ü1")
    assert transport.requests[0].headers["adapty-customer-user-id"] == "ü1"


@pytest.mark.parametrize("operation", [create_profile, update_profile])
@pytest.mark.parametrize("body", [{"email": "a@b"}, "email", 0], ids=["dict", "str", "zero"])
def test_attributes_are_a_struct(operation: Callable[..., Any], body: Any) -> None:
    """A dict could contain unchecked values, so only the struct is accepted."""
    with pytest.raises(InvalidInputError, match=r"^attributes: must be a v1.ProfileAttributes$"):
        operation(body, customer_user_id="u1")


PROFILE = {
    "profile_id": "p1",
    "email": "jane@example.com",
    "analytics_disabled": False,
    "installation_meta": [{"device": "x"}],
    "access_levels": {"premium": {}},
    "subscriptions": [],
    "a_field_of_next_year": {"deep": [1]},
}


@pytest.mark.parametrize(
    "wrap", [lambda body: body, lambda body: {"data": body}], ids=["plain", "data"]
)
@pytest.mark.parametrize(
    ("custom", "read"),
    [
        pytest.param([{"key": "a", "value": 1.5}, {"key": "b"}], {"a": 1.5, "b": None}, id="list"),
        pytest.param({"a": "x"}, {"a": "x"}, id="dict"),
        pytest.param(None, None, id="null"),
        pytest.param([], {}, id="empty"),
    ],
)
async def test_a_profile_is_read_in_every_form(
    wrap: Callable[[Any], Any], custom: Any, read: Any
) -> None:
    """With or without envelope, attributes as list or dict, unknown fields: all is read."""
    body = msgspec.json.encode(wrap({**PROFILE, "custom_attributes": custom}))
    transport = FakeTransport([(200, {}, body)])
    profile = await client(transport).v1.profiles.get(customer_user_id="u1")

    assert profile == Profile(
        profile_id="p1",
        email="jane@example.com",
        analytics_disabled=False,
        installation_meta=[{"device": "x"}],
        access_levels={"premium": {}},
        subscriptions=[],
        custom_attributes=None if read is None else CustomAttributes(read),
    )


@pytest.mark.parametrize("reply", [(200, {}, b""), (204, {}, b""), (201, {}, b"{}")], ids=str)
async def test_an_empty_response_is_an_empty_profile(reply: Any) -> None:
    """A success without a profile in it is a success."""
    profile = await client(FakeTransport([reply])).v1.profiles.create(profile_id="p1")

    assert profile == Profile()


@pytest.mark.parametrize("reply", [(200, {}, b""), (204, {}, b""), (200, {}, b" \n")], ids=str)
async def test_an_empty_response_is_no_profile_that_was_read(reply: Any) -> None:
    """A gateway's empty success is not a user without access."""
    with pytest.raises(DecodeError, match=r"no JSON object - at `\$`"):
        await client(FakeTransport([reply])).v1.profiles.get(profile_id="p1")


@pytest.mark.parametrize("custom", ["text", [{"value": 1}], [1]], ids=["text", "keyless", "number"])
async def test_attributes_in_no_known_form_are_none(custom: Any) -> None:
    """Attributes that are neither a dict nor a list of keys and values are kept unchanged."""
    body = msgspec.json.encode({"custom_attributes": custom, "email": "a@b"})
    transport = FakeTransport([(200, {}, body)])
    profile = await client(transport).v1.profiles.get(profile_id="p1")

    assert profile.custom_attributes is None
    assert profile.odd_fields == {"custom_attributes": custom}
    assert profile.email == "a@b"


@pytest.mark.parametrize("lost", [ConnectionLostError, RequestTimeoutError])
async def test_a_creation_whose_response_was_lost_is_not_retried(
    lost: type[ConnectionLostError],
) -> None:
    """The effect of a second creation is unknown, so the error is raised."""
    transport = FakeTransport([lost("lost"), FOUND])

    with pytest.raises(lost, match=r"operation v1.profiles.create, attempts 1"):
        await client(transport).v1.profiles.create(customer_user_id="u1")
    assert len(transport.requests) == 1


async def test_a_deletion_found_missing_after_a_lost_response_is_done() -> None:
    """A retried deletion with a 404 is done; a 404 for the first attempt is an error."""
    retry = RetryPolicy(wait_initial=1e-9)
    transport = FakeTransport([ConnectionLostError("lost"), MISSING, MISSING])
    profiles = client(transport, retry=retry).v1.profiles

    await profiles.delete(customer_user_id="u1")
    with pytest.raises(NotFoundError, match="error_code profile_does_not_exist"):
        await profiles.delete(customer_user_id="u1")


async def ids() -> AsyncIterator[str]:
    """Yield three ids, one of which cannot be sent."""
    for one in ("p1", " p2", "p3"):
        yield one


async def test_a_bulk_deletion_is_one_request_for_each_id() -> None:
    """Every id is sent in the header of its kind; an invalid one fails alone."""
    transport = FakeTransport([FOUND, MISSING])
    report = await client(transport).v1.profiles.bulk_delete(ids(), by="profile_id", concurrency=1)

    assert (report.done, report.absent, report.failed, report.total) == (1, 1, 1, 3)
    sent = [(one.method, one.headers["adapty-profile-id"]) for one in transport.requests]
    assert sent == [("DELETE", "p1"), ("DELETE", "p3")]
    [failure] = report.failures
    assert str(failure.error) == "profile_id: must not begin or end with a blank"


async def test_a_bulk_update_is_one_request_for_each_pair() -> None:
    """Pairs of id and attributes are sent; any other item fails alone."""
    transport = FakeTransport([FOUND])
    pairs: Any = [
        ("u1", ProfileAttributes(email=None)),
        ("u2", {"email": None}),
        ("u3",),
        "u4",
        (None, ProfileAttributes()),
    ]
    outcomes = []
    async with client(transport).v1.profiles.bulk_update(
        pairs, by="customer_user_id", ordered=True
    ) as run:
        async for outcome in run:
            outcomes.append((outcome.status, outcome.error and str(outcome.error)))  # noqa: PERF401

    assert outcomes == [
        (OutcomeStatus.DONE, None),
        (OutcomeStatus.FAILED, "attributes: must be a v1.ProfileAttributes"),
        (OutcomeStatus.FAILED, "item: must be a pair of an id and ProfileAttributes"),
        (OutcomeStatus.FAILED, "item: must be a pair of an id and ProfileAttributes"),
        (OutcomeStatus.FAILED, "customer_user_id: must be text, not NoneType"),
    ]
    assert [one.body for one in transport.requests] == [b'{"email":null}']


@pytest.mark.parametrize("bulk", ["bulk_delete", "bulk_update"])
@pytest.mark.parametrize(
    ("items", "by", "message"),
    [
        pytest.param([], "email", "^by: must be one of customer_user_id, profile_id$", id="by"),
        pytest.param([], None, "^by: must be one of", id="by None"),
        pytest.param("u1", "profile_id", "^items: must be several items", id="one string"),
        pytest.param(7, "profile_id", "^items: must be an iterable", id="number"),
    ],
)
def test_a_bulk_run_that_cannot_begin_is_rejected(
    bulk: str, items: Any, by: Any, message: str
) -> None:
    """A wrong kind of id, or one string for many, is rejected at construction."""
    with pytest.raises(InvalidInputError, match=message):
        getattr(client(FakeTransport()).v1.profiles, bulk)(items, by=by)


def test_a_bulk_run_says_what_its_ids_are() -> None:
    """There is no default for the kind of id, and unknown options are rejected."""
    profiles = client(FakeTransport()).v1.profiles

    with pytest.raises(TypeError, match="'by'"):
        profiles.bulk_delete([])  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"^unknown option: speed$"):
        profiles.bulk_delete([], by="profile_id", speed=9)  # type: ignore[call-arg]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
VALUES = st.one_of(
    st.none(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
ATTRIBUTES = st.builds(
    ProfileAttributes,
    first_name=st.just(UNSET) | st.none() | TEXTS,
    email=st.just(UNSET) | st.none() | TEXTS,
    birthday=st.just(UNSET) | st.none() | st.dates(),
    analytics_disabled=st.just(UNSET) | st.none() | st.booleans(),
    custom_attributes=st.just(UNSET)
    | st.dictionaries(
        st.from_regex(r"[A-Za-z0-9._-]{1,30}", fullmatch=True), VALUES, min_size=1, max_size=5
    ),
)


@given(ATTRIBUTES, st.sampled_from(list(itertools.islice(CALLS, 1, 3))))
def test_what_is_written_can_be_read_back(attributes: ProfileAttributes, method: str) -> None:
    """Decoding the body of a request returns its values, byte for byte."""
    row = {"POST": CREATE_PROFILE, "PATCH": UPDATE_PROFILE}[method]
    read = row.decode(row.encode(attributes))

    for name in ("first_name", "email", "analytics_disabled", "custom_attributes"):
        written = getattr(attributes, name)
        assert getattr(read, name) == (None if written is UNSET else written)
    day = attributes.birthday
    assert read.birthday == (day.isoformat() if isinstance(day, dt.date) else None)
