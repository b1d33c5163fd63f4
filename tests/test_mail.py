"""The Mail API: requests of each call, identifiers of profiles, and error responses."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async import (
    UNSET,
    AdaptyMailClient,
    BulkReport,
    DeviceInfo,
    MailProfile,
    Offer,
    RetryPolicy,
    TransactionEvent,
)
from adapty_async._api.call import Endpoint, RetrySafety
from adapty_async.errors import (
    AuthenticationError,
    ConnectionLostError,
    InvalidInputError,
    NotFoundError,
    RequestRejectedError,
)
from adapty_async.mail import (
    DELETE_PROFILE,
    SAVE_EVENT,
    SAVE_PROFILE,
    delete_profile,
    save_event,
    save_profile,
)
from adapty_async.testing import FakeTransport, Reply

ORIGIN = "https://api-mail.adapty.io"
SAVED: Reply = (200, {}, b"{}")
DELETED: Reply = (204, {}, b"")
UTC = dt.UTC

# https://adapty.io/docs/api-adapty-mail/operations/saveProfile, its example
PROFILE_EXAMPLE = {
    "external_profile_id": "user_12345",
    "external_created_at": "2026-06-01T10:30:00Z",
    "email": "jane@example.com",
    "country": "US",
    "custom_attributes": {"plan": "trial"},
}
# https://adapty.io/docs/api-adapty-mail/operations/saveTransactionEvent, its example
EVENT_EXAMPLE = {
    "event_type": "subscription_started",
    "event_id": "evt_abc123",
    "event_datetime": "2026-06-10T14:20:05Z",
    "external_profile_id": "user_12345",
    "store": "app_store",
    "store_product_id": "premium_monthly",
    "store_transaction_id": "1000000123456789",
    "store_original_transaction_id": "1000000123456789",
    "purchased_at": "2026-06-10T14:20:00Z",
    "originally_purchased_at": "2026-06-10T14:20:00Z",
    "price_usd": "9.99",
    "expires_at": "2026-07-10T14:20:00Z",
}


def client(transport: FakeTransport, **settings: Any) -> AdaptyMailClient:
    """Return a client over that transport."""
    return AdaptyMailClient("secret_live_x.y", transport=transport, **settings)


def profile(**changes: Any) -> MailProfile:
    """Return the document's example as a struct, with these fields changed."""
    fields: dict[str, Any] = {
        "external_profile_id": "user_12345",
        "external_created_at": dt.datetime(2026, 6, 1, 10, 30, tzinfo=UTC),
        "email": "jane@example.com",
        "country": "US",
        "custom_attributes": {"plan": "trial"},
    }
    return MailProfile(**{**fields, **changes})


def event(**changes: Any) -> TransactionEvent:
    """Return the document's example as a struct, with these fields changed."""
    bought = dt.datetime(2026, 6, 10, 14, 20, tzinfo=UTC)
    fields: dict[str, Any] = {
        **EVENT_EXAMPLE,
        "event_datetime": bought.replace(second=5),
        "purchased_at": bought,
        "originally_purchased_at": bought,
        "expires_at": bought.replace(month=7),
    }
    return TransactionEvent(**{**fields, **changes})


CALLS: dict[str, tuple[Callable[[AdaptyMailClient], Awaitable[None]], Any]] = {
    "/api/v1/profile/save/": (lambda mail: mail.profiles.save(profile()), PROFILE_EXAMPLE),
    "/api/v1/profile/delete/": (
        lambda mail: mail.profiles.delete(external_profile_id="user_12345"),
        {"external_profile_id": "user_12345"},
    ),
    "/api/v1/profile/transaction-event/save/": (
        lambda mail: mail.events.save(event()),
        EVENT_EXAMPLE,
    ),
}


@pytest.mark.parametrize("path", CALLS)
async def test_each_call_sends_the_documents_example(path: str) -> None:
    """Every call is a POST to its path, with the key, the content type and the example's JSON."""
    call, example = CALLS[path]
    transport = FakeTransport([SAVED])
    await call(client(transport))

    [request] = transport.requests
    assert (request.method, request.url) == ("POST", ORIGIN + path)
    assert json.loads(request.body or b"") == example
    assert dict(request.headers) == {
        "Authorization": "Bearer secret_live_x.y",
        "Content-Type": "application/json",
        "User-Agent": request.headers["User-Agent"],
    }


@pytest.mark.parametrize(
    ("changes", "sent"),
    [
        pytest.param({"first_name": UNSET}, {}, id="unset is left out"),
        pytest.param({"first_name": None}, {"first_name": None}, id="None is null"),
        pytest.param({"custom_attributes": UNSET}, {"custom_attributes": ...}, id="no attributes"),
        pytest.param(
            {"custom_attributes": {"a": True, "b": 2, "c d": "x"}},
            {"custom_attributes": {"a": 1.0, "b": 2, "c d": "x"}},
            id="attributes are a dict",
        ),
        pytest.param(
            {"custom_attributes": MappingProxyType({"plan": "annual"})},
            {"custom_attributes": {"plan": "annual"}},
            id="attributes of any mapping",
        ),
        pytest.param({"birthday": dt.date(1990, 5, 21)}, {"birthday": "1990-05-21"}, id="birthday"),
        pytest.param(
            {"external_created_at": "2020-01-15T15:10:36.517975+0000"},
            {"external_created_at": "2020-01-15T15:10:36.517975+0000"},
            id="an instant as text is sent as given",
        ),
        pytest.param(
            {
                "external_created_at": dt.datetime(
                    2026, 6, 1, 12, 30, tzinfo=dt.timezone(dt.timedelta(hours=2))
                )
            },
            {"external_created_at": "2026-06-01T12:30:00+02:00"},
            id="an offset is kept",
        ),
        pytest.param(
            {"device_info": DeviceInfo(platform="iOS", os="17.5")},
            {"device_info": {"platform": "iOS", "os": "17.5"}},
            id="device",
        ),
    ],
)
def test_what_is_set_is_sent(changes: dict[str, Any], sent: dict[str, Any]) -> None:
    """UNSET is left out, None is null, attributes stay a dict, times keep their offset."""
    expected = {**PROFILE_EXAMPLE, **sent}
    expected = {name: value for name, value in expected.items() if value is not ...}

    assert json.loads(SAVE_PROFILE.encode(profile(**changes))) == expected


def test_a_bool_attribute_is_a_float() -> None:
    """The bytes say 1.0 and 0.0, for a value is a string or a number."""
    body = SAVE_PROFILE.encode(profile(custom_attributes={"a": True, "b": False}))

    assert b'"custom_attributes":{"a":1.0,"b":0.0}' in body


def test_an_event_carries_its_offer() -> None:
    """The offer is sent inside the event, without its unset id."""
    offer = Offer(category="introductory", offer_type="free_trial")
    sent = json.loads(SAVE_EVENT.encode(event(offer=offer, expires_at=None)))

    assert sent == {
        **EVENT_EXAMPLE,
        "expires_at": None,
        "offer": {"category": "introductory", "offer_type": "free_trial"},
    }


@pytest.mark.parametrize(
    ("row", "erases"),
    [(SAVE_PROFILE, False), (DELETE_PROFILE, True), (SAVE_EVENT, False)],
    ids=["save", "delete", "event"],
)
def test_every_row_may_be_retried(row: Endpoint[None], erases: bool) -> None:  # noqa: FBT001
    """Saving is an upsert, an event is keyed, erasing is final: all may be retried."""
    assert (row.retry_safety, row.is_deletion) == (RetrySafety.ALWAYS, erases)
    assert row.docs.startswith("https://adapty.io/docs/api-adapty-mail/")


def test_any_combination_of_identifiers_names_a_profile() -> None:
    """All identifiers that are passed are sent, and no other."""
    operation = delete_profile(customer_user_id="u1", email="jane@example.com")

    assert operation.body == {"customer_user_id": "u1", "email": "jane@example.com"}
    assert operation.headers == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            delete_profile,
            "^external_profile_id: at least one of external_profile_id, customer_user_id and email "
            "is required$",
            id="no identifier",
        ),
        pytest.param(
            lambda: delete_profile(external_profile_id=""),
            "^external_profile_id: must not be empty$",
            id="empty id",
        ),
        pytest.param(
            lambda: delete_profile(customer_user_id=7),  # type: ignore[arg-type]
            "^customer_user_id: must be text, not int$",
            id="number",
        ),
        pytest.param(
            lambda: delete_profile(email="jane"), "^email: must be an e-mail", id="no e-mail"
        ),
        pytest.param(
            lambda: save_profile({}),  # type: ignore[arg-type]
            "^profile: must be a mail.MailProfile$",
            id="dict as profile",
        ),
        pytest.param(
            lambda: save_event(profile()),  # type: ignore[arg-type]
            "^event: must be a mail.TransactionEvent$",
            id="profile as event",
        ),
    ],
)
def test_an_operation_that_makes_no_sense_is_rejected(
    make: Callable[[], object], message: str
) -> None:
    """Invalid input is rejected with its field and rule."""
    with pytest.raises(InvalidInputError, match=message):
        make()


def failed(status: int, code: str, field: str | None) -> tuple[int, dict[str, str], bytes]:
    """Return an error response as the Mail API documents it."""
    item = {"message": "No.", "error_code": code, "status_code": status, "field_name": field}
    return status, {}, json.dumps({"errors": [item]}).encode()


@pytest.mark.parametrize(
    ("reply", "kind", "field"),
    [
        pytest.param(
            failed(403, "secret_key_does_not_exist_error", None),
            AuthenticationError,
            None,
            id="key",
        ),
        pytest.param(failed(400, "base_error", "email"), RequestRejectedError, "email", id="field"),
        pytest.param(
            failed(404, "profile_not_found_error", None), NotFoundError, None, id="missing"
        ),
    ],
)
async def test_an_error_response_has_its_class(
    reply: Any, kind: type[RequestRejectedError], field: str | None
) -> None:
    """The API's codes select the class of the error, and the field is extracted."""
    with pytest.raises(kind) as caught:
        await client(FakeTransport([reply])).profiles.delete(email="jane@example.com")

    assert caught.value.field_name == field


async def test_an_erasure_by_email_that_was_lost_is_done_when_not_found() -> None:
    """After a lost response, a retry by e-mail alone always gets a 404, and is done."""
    missing = failed(404, "profile_not_found_error", None)
    transport = FakeTransport([ConnectionLostError("lost"), missing])
    mail = client(transport, retry=RetryPolicy(wait_initial=1e-9))

    await mail.profiles.delete(email="jane@example.com")
    assert len(transport.requests) == 2


async def test_bulk_runs_send_one_request_for_each_item() -> None:
    """Profiles, identifiers and events are each sent in a request of their own, in order."""
    transport = FakeTransport([SAVED, SAVED, DELETED, SAVED])
    mail = client(transport)
    bad: Any = {"email": "jane@example.com"}
    reports: list[BulkReport[Any, None]] = [
        await mail.profiles.bulk_save([profile(), bad, profile()], concurrency=1),
        await mail.profiles.bulk_delete(["jane@example.com", "jane"], by="email", concurrency=1),
        await mail.events.bulk_save([event(), bad], concurrency=1),
    ]

    assert [(report.done, report.failed) for report in reports] == [(2, 1), (1, 1), (1, 1)]
    assert [str(report.failures[0].error) for report in reports] == [
        "profile: must be a mail.MailProfile",
        "email: must be an e-mail address: one @ with text around it, no blanks",
        "event: must be a mail.TransactionEvent",
    ]
    assert [one.operation for one in transport.requests] == [
        "mail.profiles.save",
        "mail.profiles.save",
        "mail.profiles.delete",
        "mail.events.save",
    ]


@pytest.mark.parametrize(
    ("items", "by", "message"),
    [
        pytest.param(
            [],
            "profile_id",
            "^by: must be one of external_profile_id, customer_user_id, email$",
            id="by",
        ),
        pytest.param("jane", "email", "^items: must be several items, not one string$", id="str"),
    ],
)
def test_a_bulk_erasure_that_cannot_begin_is_rejected(items: Any, by: Any, message: str) -> None:
    """A wrong kind of identifier, or one string for many, is rejected at construction."""
    with pytest.raises(InvalidInputError, match=message):
        client(FakeTransport()).profiles.bulk_delete(items, by=by)


@pytest.mark.parametrize("name", ["external_profile_id", "customer_user_id"])
@pytest.mark.parametrize(
    "value", [" m1", "m1 ", "m1\r\n", "m1\n", "\x00m1", "\u00a0m1", "   "], ids=repr
)
async def test_an_id_with_more_around_it_is_nobodys(name: str, value: str) -> None:
    """A blank or a line break from a file is rejected: the server would find no profile for it."""
    transport = FakeTransport()
    mail = client(transport)
    with pytest.raises(InvalidInputError) as caught:
        await mail.profiles.delete(**{name: value})
    assert caught.value.field == name
    report = await mail.profiles.bulk_delete([value], by=name)  # type: ignore[arg-type]

    assert (report.failed, transport.requests) == (1, [])
    with pytest.raises(InvalidInputError, match=r"^external_profile_id: must not"):
        MailProfile(
            external_profile_id=value, external_created_at="2026-06-01T10:30:00Z", email="a@b.c"
        )


@pytest.mark.parametrize(
    ("body", "done"),
    [
        pytest.param(b"", True, id="nothing"),
        pytest.param(b"\xef\xbb\xbf \r\n", True, id="blanks"),
        pytest.param(b"{}", True, id="empty object"),
        pytest.param(b'{"data": null}', True, id="object"),
        pytest.param(b"Please log in", False, id="text"),
        pytest.param(b"\xef\xbb\xbf<html>login", False, id="page"),
        pytest.param(b'{"errors": [{"message": "no"}]}', False, id="errors"),
        pytest.param(b'{"error_code": "no"}', False, id="error code"),
        pytest.param(b'["done"]', False, id="list"),
    ],
)
async def test_a_success_that_says_something_else_is_not_believed(body: bytes, done: bool) -> None:  # noqa: FBT001
    """An erasure counts as done only if the response can be the API's."""
    mail = client(FakeTransport([(200, {}, body)]))
    report = await mail.profiles.bulk_delete(["m1"], by="external_profile_id")

    assert (report.done, report.failed) == ((1, 0) if done else (0, 1))


IDS = st.from_regex(r"[!-~]([ -~]{0,18}[!-~])?", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
PROFILES = st.builds(
    MailProfile,
    external_profile_id=IDS,
    external_created_at=st.datetimes(timezones=st.just(UTC)),
    email=st.emails(),
    first_name=st.just(UNSET) | st.none() | TEXTS,
    birthday=st.just(UNSET) | st.none() | st.dates(),
    country=st.just(UNSET) | st.none() | st.from_regex("[A-Z]{2}", fullmatch=True),
    custom_attributes=st.just(UNSET)
    | st.dictionaries(TEXTS, TEXTS | NUMBERS | st.booleans(), max_size=5),
    device_info=st.just(UNSET) | st.builds(DeviceInfo, platform=TEXTS, os=st.none() | TEXTS),
)


@given(PROFILES)
def test_what_is_written_can_be_read_back(written: MailProfile) -> None:
    """A profile decoded from the request of another one is the same profile."""
    fields = json.loads(SAVE_PROFILE.encode(written))
    read = {
        **fields,
        "external_created_at": dt.datetime.fromisoformat(fields["external_created_at"]),
    }
    if fields.get("birthday") is not None:
        read["birthday"] = dt.date.fromisoformat(fields["birthday"])
    if "device_info" in fields:
        read["device_info"] = DeviceInfo(**fields["device_info"])

    assert MailProfile(**read) == written
