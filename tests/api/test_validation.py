"""The rules of values, one by one and on the structs that carry them."""

from __future__ import annotations

import datetime as dt
import enum
import math
import re
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapty_async import UNSET, DeviceInfo, InstallationMeta, MailProfile, Offer, TransactionEvent
from adapty_async._api.validation import (
    AttributeRules,
    Check,
    any_identifier,
    any_text,
    boolean,
    clean_attributes,
    country_code,
    date,
    date_time,
    decimal_text,
    email_address,
    header_value,
    instance_of,
    nullable,
    one_of,
    text,
)
from adapty_async.errors import InvalidInputError
from adapty_async.v1 import ProfileAttributes
from tests._support import CANARY_EMAIL

BERLIN = dt.timezone(dt.timedelta(hours=1))
LIMITED = AttributeRules(entries=2, value=4, key=("[a-z]{1,3}", "a key rule"), deletes=True)
EVENT = {
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
}
MAIL = {
    "external_profile_id": "user_12345",
    "external_created_at": "2026-06-01T10:30:00Z",
    "email": "jane@example.com",
}


class Word(str, enum.Enum):  # noqa: UP042  its text is its name, unlike that of a StrEnum
    """A word with a name."""

    YES = "yes"


class Number(enum.IntEnum):
    """A number with a name."""

    ONE = 1


@pytest.mark.parametrize(
    ("check", "value"),
    [
        pytest.param(text, "é", id="text"),
        pytest.param(any_text, "é", id="any text"),
        pytest.param(any_text, "", id="any text: empty"),
        pytest.param(boolean, False, id="boolean"),
        pytest.param(nullable(text), None, id="nullable None"),
        pytest.param(nullable(text), "a", id="nullable text"),
        pytest.param(one_of("a", "b"), "b", id="one of"),
        pytest.param(instance_of(DeviceInfo), DeviceInfo(platform="iOS"), id="instance"),
        pytest.param(country_code, "US", id="country"),
        pytest.param(decimal_text, "-9.99", id="decimal"),
        pytest.param(decimal_text, "10", id="whole decimal"),
        pytest.param(email_address, "a.b+c@example.com", id="e-mail"),
        pytest.param(date_time, dt.datetime(2026, 6, 1, tzinfo=BERLIN), id="aware datetime"),
        pytest.param(date_time, "2026-06-01T10:30:00Z", id="UTC text"),
        pytest.param(date_time, "2020-01-15T15:10:36.517975+0000", id="offset without colon"),
        pytest.param(date_time, "2026-06-01 10:30+02:00", id="blank for T, no seconds"),
        pytest.param(date_time, "2026-06-01t10:30:00.123z", id="small letters"),
        pytest.param(date, dt.date(1990, 5, 21), id="date"),
        pytest.param(date, "2000-02-29", id="leap day"),
        pytest.param(clean_attributes(AttributeRules()), {}, id="no attributes"),
        pytest.param(clean_attributes(AttributeRules()), {"any key": "x" * 99}, id="no limits"),
        pytest.param(clean_attributes(LIMITED), {"a": None, "b": ""}, id="deletions"),
        pytest.param(clean_attributes(LIMITED), {"abc": "abcd", "b": 1.5}, id="at the limits"),
        pytest.param(clean_attributes(LIMITED), {"a": Word.YES}, id="(str, Enum)"),
        pytest.param(clean_attributes(LIMITED), {"a": True, "b": Number.ONE}, id="bool, IntEnum"),
        pytest.param(
            clean_attributes(AttributeRules()), {"a": 2**63 - 1, "b": -(2**63)}, id="64 bits"
        ),
    ],
)
def test_a_value_that_keeps_its_rule_passes(check: Check, value: Any) -> None:
    """A good value raises nothing."""
    check("field", value)


@pytest.mark.parametrize(
    ("check", "value", "field", "rule"),
    [
        pytest.param(text, 1, "field", "must be text, not int", id="text: number"),
        pytest.param(text, None, "field", "must be text, not NoneType", id="text: None"),
        pytest.param(text, "", "field", "must not be empty", id="text: empty"),
        pytest.param(any_text, 1, "field", "must be text, not int", id="any text: number"),
        pytest.param(text, "\ud800", "field", "lone surrogates", id="text: surrogate"),
        pytest.param(boolean, 1, "field", "must be True or False, not int", id="boolean: 1"),
        pytest.param(nullable(text), "", "field", "must not be empty", id="nullable: empty"),
        pytest.param(one_of("a", "b"), "c", "field", "must be one of a, b", id="one of: other"),
        pytest.param(one_of("a"), [], "field", "must be one of a", id="one of: list"),
        pytest.param(
            instance_of(DeviceInfo), {}, "field", "must be a mail.DeviceInfo", id="instance: dict"
        ),
        pytest.param(country_code, "us", "field", "two upper-case letters", id="country: us"),
        pytest.param(country_code, "usa", "field", "two upper-case letters", id="country: usa"),
        pytest.param(country_code, "US\n", "field", "two upper-case letters", id="country: LF"),
        pytest.param(decimal_text, "9,99", "field", "a decimal number as text", id="decimal: ,"),
        pytest.param(decimal_text, "1e3", "field", "a decimal number as text", id="decimal: e"),
        pytest.param(decimal_text, 9.99, "field", "must be text, not float", id="decimal: float"),
        pytest.param(email_address, "jane", "field", "must be an e-mail", id="e-mail: no @"),
        pytest.param(email_address, "a@b@c", "field", "must be an e-mail", id="e-mail: two @"),
        pytest.param(email_address, " a@b", "field", "no blanks", id="e-mail: blank"),
        pytest.param(email_address, "a@b\x00", "field", "no blanks", id="e-mail: NUL"),
        pytest.param(date_time, dt.datetime(2026, 6, 1), "field", "not a naive one", id="naive"),  # noqa: DTZ001
        pytest.param(date_time, pd.NaT, "field", "with a time zone", id="date and time: NaT"),
        pytest.param(any_text, pd.NA, "field", "must be text, not NAType", id="text: NA"),
        pytest.param(any_identifier, pd.NA, "field", "must be text, not NAType", id="id: NA"),
        pytest.param(one_of("a"), pd.NA, "field", "must be one of a", id="word: NA"),
        pytest.param(
            date_time, dt.date(2026, 6, 1), "field", "must be a datetime", id="date and time: date"
        ),
        pytest.param(
            date_time, 1780309800, "field", "must be a datetime", id="date and time: number"
        ),
        pytest.param(
            date_time,
            "2026-06-01T10:30:00",
            "field",
            "with its offset",
            id="date and time: no offset",
        ),
        pytest.param(
            date_time,
            "2026-13-01T10:30:00Z",
            "field",
            "with its offset",
            id="date and time: month 13",
        ),
        pytest.param(
            date_time,
            "2026-02-30T10:30:00Z",
            "field",
            "with its offset",
            id="date and time: 30 February",
        ),
        pytest.param(
            date_time,
            "2026-06-01T25:30:00Z",
            "field",
            "with its offset",
            id="date and time: hour 25",
        ),
        pytest.param(
            date,
            dt.datetime(2026, 6, 1, tzinfo=dt.UTC),
            "field",
            "must be a date.*without a time",
            id="date: datetime",
        ),
        pytest.param(date, "2001-02-29", "field", "such as 1990-05-21", id="date: no leap year"),
        pytest.param(date, "21.05.1990", "field", "such as 1990-05-21", id="date: other form"),
        pytest.param(
            date, "1990-05-21T00:00:00Z", "field", "such as 1990-05-21", id="date: with a time"
        ),
        pytest.param(date, 19900521, "field", "must be a date, or", id="date: number"),
        pytest.param(
            clean_attributes(LIMITED),
            [("a", 1)],
            "field",
            "a dict, not list",
            id="attributes: list",
        ),
        pytest.param(
            clean_attributes(LIMITED), {}, "field", "1 to 2 entries", id="attributes: none"
        ),
        pytest.param(
            clean_attributes(LIMITED),
            {"a": 1, "b": 2, "c": 3},
            "field",
            "1 to 2 entries",
            id="attributes: one more",
        ),
        pytest.param(
            clean_attributes(LIMITED), {"a b": 1}, "field", "a key rule", id="attributes: key"
        ),
        pytest.param(
            clean_attributes(LIMITED), {1: 1}, "field key", "must be text", id="attributes: key 1"
        ),
        pytest.param(
            clean_attributes(LIMITED),
            {"a": "abcde"},
            "field.a",
            "must not be longer than 4 characters",
            id="attributes: long value",
        ),
        pytest.param(
            clean_attributes(LIMITED),
            {"a": 12345},
            "field.a",
            "must not be longer than 4 characters",
            id="attributes: long number",
        ),
        pytest.param(
            clean_attributes(AttributeRules()),
            {"a": None},
            "field.a",
            "must be text or a number, not NoneType",
            id="attributes: None",
        ),
        pytest.param(
            clean_attributes(AttributeRules()),
            {"a": "\udfff"},
            "field.a",
            "lone surrogates",
            id="attributes: surrogate",
        ),
        pytest.param(
            clean_attributes(AttributeRules()),
            {"a": math.nan},
            "field.a",
            "must be a finite number",
            id="attributes: NaN",
        ),
        pytest.param(
            clean_attributes(AttributeRules()),
            {"a": 2**64},
            "field.a",
            "must fit into 64 bits",
            id="attributes: 2**64",
        ),
        pytest.param(
            clean_attributes(AttributeRules()),
            {"a": ["b"]},
            "field.a",
            "must be text or a number, not list",
            id="attributes: nested",
        ),
        pytest.param(
            clean_attributes(AttributeRules()),
            {CANARY_EMAIL: []},
            "field value",
            "must be text or a number, not list",
            id="attributes: key that is free text",
        ),
    ],
)
def test_a_value_that_breaks_its_rule_is_named(
    check: Check, value: Any, field: str, rule: str
) -> None:
    """The error names the field and the rule, and shows nothing of the value."""
    with pytest.raises(InvalidInputError, match=rule) as caught:
        check("field", value)

    assert caught.value.field == field
    assert CANARY_EMAIL not in str(caught.value)


def hidden(**fields: Any) -> dict[str, Any]:
    """Return the fields of a good mail profile with some of them replaced."""
    return {**MAIL, **fields}


@pytest.mark.parametrize(
    ("make", "field", "rule"),
    [
        pytest.param(
            lambda: ProfileAttributes(custom_attributes={f"k{n}": 1 for n in range(31)}),
            "custom_attributes",
            "must have 1 to 30 entries",
            id="v1: 31 attributes",
        ),
        pytest.param(
            lambda: ProfileAttributes(custom_attributes={}),
            "custom_attributes",
            "must have 1 to 30 entries",
            id="v1: empty dict",
        ),
        pytest.param(
            lambda: ProfileAttributes(custom_attributes={f"{CANARY_EMAIL} key": 1}),
            "custom_attributes",
            "a key must be 1 to 30 letters, digits, dashes, points and underscores",
            id="v1: key with a space",
        ),
        pytest.param(
            lambda: ProfileAttributes(custom_attributes={"k" * 31: 1}),
            "custom_attributes",
            "a key must be 1 to 30 letters",
            id="v1: key of 31",
        ),
        pytest.param(
            lambda: ProfileAttributes(custom_attributes={"plan": CANARY_EMAIL + "x" * 13}),
            "custom_attributes.plan",
            "must not be longer than 30 characters",
            id="v1: value of 31",
        ),
        pytest.param(
            lambda: ProfileAttributes(ip_country="fr"),
            "ip_country",
            "ISO 3166-2",
            id="v1: small letters",
        ),
        pytest.param(
            lambda: ProfileAttributes(store_country="USA"),
            "store_country",
            "ISO 3166-2",
            id="v1: USA",
        ),
        pytest.param(
            lambda: ProfileAttributes(birthday=dt.datetime(2000, 1, 1, tzinfo=dt.UTC)),
            "birthday",
            "without a time",
            id="v1: datetime as birthday",
        ),
        pytest.param(
            lambda: ProfileAttributes(analytics_disabled="yes"),  # type: ignore[arg-type]
            "analytics_disabled",
            "must be True or False, not str",
            id="v1: yes for True",
        ),
        pytest.param(
            lambda: ProfileAttributes(installation_meta={}),  # type: ignore[arg-type]
            "installation_meta",
            "must be a v1.InstallationMeta",
            id="v1: dict for struct",
        ),
        pytest.param(
            lambda: InstallationMeta(device=15),  # type: ignore[arg-type]
            "device",
            "must be text, not int",
            id="v1: device as number",
        ),
        pytest.param(
            lambda: MailProfile(**hidden(email=f"{CANARY_EMAIL} ")),
            "email",
            "must be an e-mail address",
            id="mail: blank after e-mail",
        ),
        pytest.param(
            lambda: MailProfile(**hidden(country="usa")),
            "country",
            "two upper-case letters",
            id="mail: usa",
        ),
        pytest.param(
            lambda: MailProfile(**hidden(external_created_at="2026-06-01")),
            "external_created_at",
            "ISO 8601 text with its offset",
            id="mail: date for date and time",
        ),
        pytest.param(
            lambda: TransactionEvent(**{**EVENT, "event_type": CANARY_EMAIL}),  # type: ignore[arg-type]
            "event_type",
            "must be one of subscription_started, ",
            id="event: unknown type",
        ),
        pytest.param(
            lambda: TransactionEvent(**EVENT, price_usd="9.99 USD"),  # type: ignore[arg-type]
            "price_usd",
            "decimal number as text",
            id="event: price with currency",
        ),
        pytest.param(
            lambda: Offer(category="gift", offer_type="free_trial"),  # type: ignore[arg-type]
            "category",
            "must be one of introductory",
            id="offer: unknown category",
        ),
    ],
)
def test_a_struct_rejects_a_bad_field(make: Callable[[], object], field: str, rule: str) -> None:
    """A struct cannot be made with a value that breaks a rule; the text has field and rule only."""
    with pytest.raises(InvalidInputError, match=re.escape(rule)) as caught:
        make()

    assert caught.value.field == field
    assert "canary" not in str(caught.value)


def test_a_field_that_does_not_exist_is_rejected() -> None:
    """A misspelt field is named, its value is not."""
    with pytest.raises(TypeError, match="Unexpected keyword argument 'frist_name'"):
        ProfileAttributes(frist_name="Jane")  # type: ignore[call-arg]


def test_unset_fields_are_not_checked() -> None:
    """A struct with nothing set has nothing to check."""
    assert ProfileAttributes().first_name is UNSET


@pytest.mark.parametrize(
    "struct",
    [ProfileAttributes, InstallationMeta, MailProfile, DeviceInfo, TransactionEvent, Offer],
    ids=lambda struct: struct.__name__,
)
def test_every_field_has_a_rule(struct: type[ProfileAttributes]) -> None:
    """No field of a struct that callers fill in is sent unchecked."""
    assert tuple(struct.rules) == struct.__struct_fields__


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        pytest.param("", "must not be empty", id="empty"),
        pytest.param(None, "must be text, not NoneType", id="None"),
        pytest.param(7, "must be text, not int", id="number"),
        pytest.param(b"u1", "must be text, not bytes", id="bytes"),
        pytest.param(" u1", "must not begin or end with a blank", id="blank before"),
        pytest.param("u1\u00a0", "must not begin or end with a blank", id="no-break space"),
        pytest.param("u\r1", "control characters or line breaks", id="CR"),
        pytest.param("u1\n", "control characters or line breaks", id="LF"),
        pytest.param("u\x001", "control characters", id="NUL"),
        pytest.param("u\x7f1", "control characters", id="DEL"),
        pytest.param("u\x851", "control characters", id="NEL"),
        pytest.param("ü1", 'must be ASCII, unless id_encoding is "utf-8"', id="non-ASCII"),
        pytest.param("u" * 1025, "must not be longer than 1024 bytes", id="1 KiB + 1"),
    ],
)
def test_an_id_that_would_not_arrive_unchanged_is_rejected(value: Any, rule: str) -> None:
    """An id that a header cannot carry unchanged is rejected by rule, without being shown."""
    with pytest.raises(InvalidInputError, match=rule) as caught:
        header_value("customer_user_id", value, encoding="ascii")

    assert caught.value.field == "customer_user_id"


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        pytest.param("u" * 1024, "ascii", id="1 KiB"),
        pytest.param("a b@c:/?#", "ascii", id="punctuation"),
        pytest.param("ü1", "utf-8", id="non-ASCII by choice"),
    ],
)
def test_an_id_that_arrives_unchanged_passes(value: str, encoding: str) -> None:
    """Any printable ASCII passes up to 1 KiB, and other letters where the client allows them."""
    header_value("customer_user_id", value, encoding=encoding)


def is_accepted(check: Callable[[], object]) -> bool:
    """Tell whether a check passes; anything but an InvalidInputError is a test failure."""
    try:
        check()
    except InvalidInputError:
        return False

    return True


@given(st.text(max_size=40), st.sampled_from(["ascii", "utf-8"]))
@example("x" * 1025, "ascii")
@example("ü" * 513, "utf-8")
@example("\ud800", "utf-8")
def test_header_value_accepts_exactly_what_its_rule_says(value: str, encoding: str) -> None:
    """Accepted is text of 1 to 1024 bytes, untrimmed, free of controls, ASCII by default."""
    surrogate = any("\ud800" <= char <= "\udfff" for char in value)
    good = (
        bool(value)
        and not surrogate
        and not re.search(r"[\x00-\x1f\x7f-\x9f]", value)
        and value.strip() == value
        and (value.isascii() or encoding == "utf-8")
        and len(value.encode()) <= 1024
    )

    assert is_accepted(lambda: header_value("id", value, encoding=encoding)) == good


ATTRIBUTE_VALUES = st.one_of(
    st.none(),
    st.text(max_size=40),
    st.integers(min_value=-(2**70), max_value=2**70),
    st.floats(),
    st.booleans(),
)
KEYS = st.text(st.sampled_from("aZ9._- é"), max_size=32)


def is_good_value(value: Any) -> bool:
    """Say by the documented rule whether version 1 of the API takes a value."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
        return False

    return value is None or len(str(value)) <= 30


@given(st.dictionaries(KEYS, ATTRIBUTE_VALUES, max_size=35))
def test_custom_attributes_are_accepted_exactly_by_their_rules(
    attributes: dict[str, str | float | None],
) -> None:
    """Accepted are 1 to 30 entries whose keys and values each keep their rule."""
    good = 1 <= len(attributes) <= 30 and all(
        re.fullmatch(r"[A-Za-z0-9._-]{1,30}", key) and is_good_value(value)
        for key, value in attributes.items()
    )

    assert is_accepted(lambda: ProfileAttributes(custom_attributes=attributes)) == good


@given(st.text(max_size=30) | st.datetimes(timezones=st.just(dt.UTC)).map(dt.datetime.isoformat))
def test_any_text_is_a_date_time_or_invalid(value: str) -> None:
    """Whatever the text, checking it ends in acceptance or in an InvalidInputError."""
    if is_accepted(lambda: date_time("at", value)):
        assert dt.datetime.fromisoformat(value.upper()).utcoffset() is not None
