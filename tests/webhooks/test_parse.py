"""Authentication and parsing of webhooks, without I/O."""

from __future__ import annotations

import copy
import datetime as dt
import json
import pickle
import random
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapty_async import WebhookError, webhooks
from adapty_async.webhooks import (
    EVENT_TYPES,
    MAX_BODY_BYTES,
    AccessLevelProperties,
    AccessLevelUpdated,
    Attribution,
    Event,
    EventProperties,
    NonSubscriptionPurchase,
    PlayStorePurchaseToken,
    PurchaseProperties,
    RevenueProperties,
    SharingProfile,
    SubscriptionStarted,
    TrialStarted,
    UnknownEvent,
    Verification,
    authenticate,
    parse,
)
from tests.webhooks.samples import EVENT_ID, NOBODY, ONE_TIME, SAMPLES, STARTED

MIDNIGHT = dt.datetime(2000, 1, 31, tzinfo=dt.UTC)


def event_of(fields: Any, **options: Any) -> Event:
    """Parse a body that is an event."""
    event = parse(json.dumps(fields), **options)
    assert isinstance(event, Event)
    return event


# Authentication

FOREIGN = "schlüssel-ключ"


@pytest.mark.parametrize(
    ("header", "secret", "expected"),
    [
        pytest.param("Bearer s3cret", "Bearer s3cret", True, id="text"),
        pytest.param(b"Bearer s3cret", "Bearer s3cret", True, id="bytes"),
        pytest.param("Bearer s3cret", b"Bearer s3cret", True, id="secret as bytes"),
        pytest.param("bearer s3cret", "Bearer s3cret", False, id="another case"),
        pytest.param("Bearer s3cret2", "Bearer s3cret", False, id="longer"),
        pytest.param("", "Bearer s3cret", False, id="empty"),
        pytest.param(None, "Bearer s3cret", False, id="no header"),
        pytest.param("", "", False, id="empty secret"),
        pytest.param(None, "", False, id="no header, empty secret"),
        pytest.param(FOREIGN, FOREIGN, True, id="not ASCII"),
        pytest.param(FOREIGN.encode().decode("latin-1"), FOREIGN, True, id="decoded as Latin-1"),
        pytest.param(
            b"\xff\xfe".decode("utf-8", "surrogateescape"), b"\xff\xfe", True, id="not UTF-8"
        ),
        pytest.param("\ud800", "?", False, id="cannot be encoded"),
    ],
)
def test_only_the_secret_is_authentic(
    header: str | bytes | None,
    secret: str | bytes,
    expected: bool,  # noqa: FBT001  a column of the table
) -> None:
    """A header is authentic if it is the secret, however a framework has decoded it."""
    assert authenticate(header, secret) is expected


# Events


def test_each_documented_type_has_a_sample() -> None:
    """There is a sample for each documented type, and one more name for one of them."""
    assert EVENT_TYPES.keys() - SAMPLES.keys() == {"subscription_initial_purchase"}
    assert len(set(EVENT_TYPES.values())) == len(SAMPLES) == 18


@pytest.mark.parametrize("name", SAMPLES)
def test_a_documented_webhook_is_an_event_of_its_type(name: str) -> None:
    """A sample is parsed as its class, without an odd field, and all of its fields are typed."""
    event = event_of(SAMPLES[name])

    assert type(event) is EVENT_TYPES[name]
    assert event.default_name == event.event_type == name
    assert event.odd_fields == {}
    assert event.raw == SAMPLES[name]
    assert event.raw.keys() <= set(event.__struct_fields__)
    properties = event.event_properties
    assert event.raw["event_properties"].keys() <= set(properties.__struct_fields__)
    for field, value in event.raw["event_properties"].items():
        typed = getattr(properties, field)
        assert (typed is None) == (value is None), field
        assert isinstance(typed, dt.datetime) == (isinstance(value, str) and value[-5:] == "+0000")


@pytest.mark.parametrize("name", SAMPLES)
def test_the_properties_of_a_type_are_those_of_the_documentation(name: str) -> None:
    """Taxes and revenue, and the access level, are properties of the documented types alone."""
    expected: type[EventProperties] = PurchaseProperties
    if name == "access_level_updated":
        expected = AccessLevelProperties
    elif name in {
        "subscription_renewed",
        "subscription_started",
        "subscription_refunded",
        "non_subscription_purchase",
    }:
        expected = RevenueProperties

    assert type(event_of({"event_type": name}).event_properties) is expected


def test_the_envelope_is_typed() -> None:
    """The fields of the documented example are decoded as their types."""
    event = event_of(STARTED)

    assert isinstance(event, SubscriptionStarted)
    assert event.event_datetime == event.profile_install_datetime == MIDNIGHT
    assert event.profiles_sharing_access_level == (
        SharingProfile(profile_id=NOBODY, customer_user_id="UserIdInYourSystem"),
    )
    assert event.attributions == {
        "appsflyer": Attribution(
            ad_set="Keywords 1.12",
            status="non_organic",
            channel="Google Ads",
            campaign="Social media influencers - Rest of the world",
            created_at=MIDNIGHT,
        )
    }
    assert event.user_attributes == {"Favourite_color": "Violet", "Pet_name": "Fluffy"}
    assert event.integration_ids["branch_id"] == "val2"
    assert event.play_store_purchase_token == PlayStorePurchaseToken(
        product_id="product_123", purchase_token="token_abc_123", is_subscription=True
    )
    assert event.profile_event_id == EVENT_ID
    assert event.event_properties.proceeds_usd == 4.2315


def test_a_one_time_purchase_has_fewer_fields() -> None:
    """Fields that Adapty leaves out have their defaults."""
    event = event_of(ONE_TIME)

    assert isinstance(event, NonSubscriptionPurchase)
    assert event.event_properties.net_revenue_local == 4.2415
    assert event.event_properties.trial_duration is None
    assert (event.attributions, event.profiles_sharing_access_level) == ({}, ())


@pytest.mark.parametrize(
    "body", [b"{}", b" {} ", "{}", bytearray(b"{}"), b"\xef\xbb\xbf{}"], ids=str
)
def test_an_empty_object_is_the_verification(body: bytes | str) -> None:
    """The verification request is recognised, with blanks and a byte order mark as well."""
    assert parse(body) == Verification()


def test_the_older_name_of_a_type_is_known() -> None:
    """The documentation has two names for the start of a subscription."""
    assert isinstance(
        event_of({"event_type": "subscription_initial_purchase"}), SubscriptionStarted
    )


def test_an_unknown_type_is_kept() -> None:
    """An event of an unknown type has the shared properties, and everything else in `raw`."""
    fields = {"event_type": "mine", "new": [1], "event_properties": {"store": "x", "newer": 2}}
    event = event_of(fields)

    assert type(event) is UnknownEvent
    assert (event.default_name, event.event_type) == (None, "mine")
    assert event.event_properties.store == "x"
    assert event.raw == fields


def test_a_renamed_type_is_recognised() -> None:
    """An event with the dashboard's name is of the documented type, and keeps its name."""
    event = event_of({**STARTED, "event_type": "sub"}, event_names={"sub": "subscription_started"})

    assert isinstance(event, SubscriptionStarted)
    assert event.event_type == "sub"


def test_a_field_with_the_name_of_raw_is_an_unknown_field() -> None:
    """A field that is called as one of ours does not replace it."""
    fields = {"event_type": "trial_started", "raw": "x"}

    assert event_of(fields).raw == fields


@pytest.mark.parametrize(
    ("change", "odd"),
    [
        ({"event_datetime": "yesterday"}, {"event_datetime": "yesterday"}),
        ({"event_datetime": 5}, {"event_datetime": 5}),
        ({"event_datetime": "\ud800"}, {"event_datetime": "\ud800"}),
        ({"profile_id": 7}, {"profile_id": 7}),
        ({"profiles_sharing_access_level": {}}, {"profiles_sharing_access_level": {}}),
        ({"profiles_sharing_access_level": [1]}, {"profiles_sharing_access_level[0]": 1}),
        ({"attributions": []}, {"attributions": []}),
        ({"attributions": {"a": 1, "b": {}}}, {"attributions[a]": 1}),
        ({"attributions": {"a": {"status": 1}}}, {"attributions[a].status": 1}),
        ({"user_attributes": "x"}, {"user_attributes": "x"}),
        ({"play_store_purchase_token": "x"}, {"play_store_purchase_token": "x"}),
        ({"event_api_version": 1.0}, {}),
        ({"event_properties": {"price_usd": "4.99"}}, {"event_properties.price_usd": "4.99"}),
        ({"event_properties": {"consecutive_payments": 2.0}}, {}),
        ({"event_properties": {"paywall_revision": 1}}, {"event_properties.paywall_revision": 1}),
        ({"event_properties": {"price_usd": 10**400}}, {"event_properties.price_usd": 10**400}),
    ],
    ids=str,
)
def test_an_odd_field_does_not_make_an_event_unreadable(
    change: dict[str, Any], odd: dict[str, Any]
) -> None:
    """A field that is not as documented is None, and its raw value is found."""
    event = event_of({"event_type": "trial_started", "customer_user_id": "u1", **change})

    assert isinstance(event, TrialStarted)
    assert event.customer_user_id == "u1"
    assert event.odd_fields == odd


@pytest.mark.parametrize("name", [*STARTED, *STARTED["event_properties"]])
def test_null_is_like_a_missing_field(name: str) -> None:
    """Any field but the type may be null."""
    if name == "event_type":
        return
    fields = copy.deepcopy(STARTED)
    (fields if name in fields else fields["event_properties"])[name] = None

    assert event_of(fields).odd_fields == {}


def test_whole_numbers_may_be_written_as_fractions() -> None:
    """A whole number that was sent as a fraction is a whole number."""
    event = event_of({"event_type": "trial_started", "event_api_version": 1.0})

    assert event.event_api_version == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"null", "not an object"),
        (b"[]", "not an object"),
        (b'"event_type"', "not an object"),
        (b"{", "not JSON"),
        (b"{'event_type': 'x'}", "not JSON"),
        (b"\xff\xfe", "UnicodeDecodeError"),
        ("\ud800", "UnicodeEncodeError"),
        (b'{"event_type": null}', "event_type"),
        (b'{"event_type": ""}', "event_type"),
        (b'{"event_type": 5}', "event_type"),
        (b'{"profile_id": "x"}', "event_type"),
        (b'{"event_type": "x", "event_properties": []}', "event_properties"),
        (b'{"event_type": "x", "event_properties": "y"}', "event_properties"),
        (b'{"event_type": "x", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "RecursionError"),
        (b'{"event_type": "x", "a": NaN}', "ValueError"),
        (b" " * (MAX_BODY_BYTES + 1), "larger than 1048576 bytes"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_any_other_body_is_one_error(body: bytes | str, reason: str) -> None:
    """A body that is no webhook is a `WebhookError`, whose text quotes nothing of it."""
    with pytest.raises(WebhookError, match=reason) as caught:
        parse(body)
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_lone_surrogates_do_not_make_an_event_unreadable() -> None:
    """An event with text that is not Unicode is parsed and has a key."""
    event = parse(b'{"event_type": "x", "event_properties": {"profile_event_id": "\\ud800"}}')

    assert isinstance(event, UnknownEvent)
    assert event.profile_event_id == "\ud800"
    assert len(event.deduplication_key or "") == 64


VALUES = (b"null", b"1", b"-1e400", b"[]", b"{}", b'"x"', b'"\\ud800"', b"9" * 400, b"true")
VALUE = re.compile(rb':\s*("[^"]*"|-?[0-9.]+|null|true|false)')


def attempt(body: bytes) -> None:
    """Parse a body that need not be one."""
    try:
        event = parse(body)
    except WebhookError:
        return
    assert isinstance(event, Event | Verification)
    if isinstance(event, Event):
        _ = event.deduplication_key, repr(event), pickle.dumps(event), copy.copy(event)


def test_ten_thousand_random_bodies_are_events_or_the_error() -> None:
    """Random bytes, and samples with random values or bytes, raise nothing but `WebhookError`."""
    dice = random.Random(18)
    bodies = [msgspec.json.encode(sample) for sample in SAMPLES.values()]
    values = [(body, [value.span(1) for value in VALUE.finditer(body)]) for body in bodies]
    for _ in range(4000):
        attempt(dice.randbytes(dice.randrange(200)))
        body, spans = dice.choice(values)
        begin, end = dice.choice(spans)
        attempt(body[:begin] + dice.choice(VALUES) + body[end:])
        text = bytearray(body)
        for _ in range(dice.randrange(1, 4)):
            begin = dice.randrange(len(text))
            text[begin : begin + dice.randrange(3)] = dice.randbytes(dice.randrange(3))
        attempt(bytes(text))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(st.sampled_from([*STARTED, "raw"]), JSON)
PROPERTIES = st.dictionaries(st.sampled_from([*SAMPLES["access_level_updated"]]), JSON)


@settings(max_examples=50)
@given(fields=FIELDS, properties=JSON | PROPERTIES, name=st.sampled_from([*SAMPLES, "x"]))
def test_any_value_of_a_field_is_read_or_odd(
    fields: dict[str, Any], properties: Any, name: str
) -> None:
    """Whatever JSON the fields hold, the body is an event or a `WebhookError`."""
    attempt(json.dumps({**fields, "event_properties": properties, "event_type": name}).encode())
    attempt(json.dumps(fields).encode())


# Deduplication and privacy


def test_events_of_two_access_levels_have_two_keys() -> None:
    """A purchase may change two access levels, and the event of neither is a second delivery."""
    properties = {"profile_event_id": "1"}
    keys = {
        event_of(
            {
                "event_type": "access_level_updated",
                "event_properties": {**properties, "access_level_id": level},
            }
        ).deduplication_key
        for level in ("basic", "premium", None)
    }

    assert len(keys) == 3


def test_deliveries_of_one_event_have_one_key() -> None:
    """The key depends on the event's id, profile and type, and on nothing else."""
    first = event_of(STARTED)
    key = first.deduplication_key
    properties = STARTED["event_properties"]

    assert key is not None
    assert event_of({**STARTED, "user_agent": "x"}).deduplication_key == key
    renamed = event_of({**STARTED, "event_type": "y"}, event_names={"y": "subscription_started"})
    assert renamed.deduplication_key == key
    for other in (
        {**STARTED, "event_properties": {**properties, "profile_event_id": "other"}},
        {**STARTED, "profile_id": "other"},
        {**STARTED, "event_type": "subscription_renewed"},
    ):
        assert event_of(other).deduplication_key not in (key, None)
    assert event_of({"event_type": "x"}).deduplication_key is None


@pytest.mark.parametrize("name", SAMPLES)
def test_an_event_shows_no_value_and_survives_a_pickle(name: str) -> None:
    """The repr has no value of the event; copies and pickles have all of them."""
    event = event_of(SAMPLES[name])

    assert "UserIdInYourSystem" not in repr(event) + str(event)
    assert "john" not in repr(event)
    assert pickle.loads(pickle.dumps(event)) == copy.copy(event) == event


def test_odd_fields_survive_a_pickle() -> None:
    """The raw values of odd fields are part of a copy."""
    event = event_of({"event_type": "access_level_updated", "profile_id": 5})

    assert isinstance(event, AccessLevelUpdated)
    assert pickle.loads(pickle.dumps(event)).odd_fields == {"profile_id": 5}


def test_every_public_name_of_the_modules_is_found() -> None:
    """The package has each class of event and of properties."""
    names = {kind.__name__ for kind in EVENT_TYPES.values()}

    assert names <= set(webhooks.__all__)
