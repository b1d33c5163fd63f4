"""From rows to ids and profiles: every field gets through, and errors are named with their rule."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from adapty_async import mail
from adapty_async._input.schema import id_columns, id_from, rows_of
from adapty_async.errors import InvalidInputError
from adapty_async.mail import DeviceInfo, MailProfile

NEEDED = {
    "external_profile_id": "u1",
    "external_created_at": "2026-06-01T10:30:00Z",
    "email": "jane@example.com",
}
PLAIN = NEEDED | {
    "customer_user_id": "c1",
    "first_name": "Jane",
    "last_name": "Doe",
    "gender": "f",
    "birthday": "1990-05-21",
    "country": "US",
    "store_country": "CA",
}
DEVICE = {
    "platform": "iOS",
    "device": "iPhone15,2",
    "os": "17.5",
    "locale": "en-US",
    "timezone": "America/New_York",
    "app_version": "3.1.0",
}


def refused(field: str, rule: str) -> Any:
    """Expect an error that names this field and rule."""
    return pytest.raises(InvalidInputError, match=f"^{re.escape(f'{field}: {rule}')}")


def test_profile_takes_every_field_from_dotted_names() -> None:
    """Each column of a CSV file finds its field; together they are all fields that there are."""
    cells = PLAIN | {"custom_attributes.plan": "annual", "custom_attributes.a.b": "1"}
    cells |= {f"device_info.{name}": value for name, value in DEVICE.items()}
    profile = rows_of(mail.PROFILE_COLUMNS).struct(cells)
    attributes: dict[str, str | float] = {"plan": "annual", "a.b": "1"}
    assert profile == MailProfile(
        **PLAIN, custom_attributes=attributes, device_info=DeviceInfo(**DEVICE)
    )
    assert set(msgspec.to_builtins(profile)) == set(MailProfile.__struct_fields__)
    assert set(msgspec.to_builtins(profile.device_info)) == set(DeviceInfo.__struct_fields__)


def test_profile_takes_nested_objects() -> None:
    """In JSON the nested fields may be objects, with numbers and nulls as they are."""
    profile = rows_of(mail.PROFILE_COLUMNS).struct(
        NEEDED
        | {"first_name": None, "custom_attributes": {"visits": 7}}
        | {"device_info": {"platform": "iOS", "os": None}}
    )
    assert profile.first_name is None
    assert profile.custom_attributes == {"visits": 7}
    assert profile.device_info == DeviceInfo(platform="iOS", os=None)


@pytest.mark.parametrize("first", ["custom_attributes", "custom_attributes.plan"])
def test_profile_joins_objects_and_dotted_names(first: str) -> None:
    """An object and dotted names for it are merged in any order, and the row stays unchanged."""
    both = {"custom_attributes": {"visits": 7}, "custom_attributes.plan": "annual"}
    row = NEEDED | {first: both[first]} | both
    assert rows_of(mail.PROFILE_COLUMNS).struct(row).custom_attributes == {
        "visits": 7,
        "plan": "annual",
    }
    assert row["custom_attributes"] == {"visits": 7}


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        pytest.param({"nickname": "J"}, "row", 'unknown key "nickname"; expected: ', id="unknown"),
        pytest.param(
            {"jane@example.com": 1}, "row", 'unknown key "…"; expected: ', id="unknown-personal"
        ),
        pytest.param(
            {"device_info.x": "J"}, "row", 'unknown key "device_info.x"', id="unknown-inner"
        ),
        pytest.param(
            {"device_info": {"platform": "iOS", "x": 1}},
            "row",
            'unknown key "device_info.x"; expected: ',
            id="unknown-nested",
        ),
        pytest.param({"email.x": "J"}, "row", 'unknown key "email.x"', id="dotted-plain"),
        pytest.param({"custom_attributes.": "J"}, "row", "unknown key", id="no-name"),
        pytest.param(
            {"external_created_at": 7}, "external_created_at", "must be a datetime", id="epoch"
        ),
        pytest.param({"email": None}, "email", "must be text, not NoneType", id="null"),
        pytest.param({"email": "jane"}, "email", "must be an e-mail address", id="no-address"),
        pytest.param({"first_name": 7}, "first_name", "must be text, not int", id="number"),
        pytest.param({"country": "usa"}, "country", "must be two upper-case letters", id="country"),
        pytest.param({"birthday": "21.5.1990"}, "birthday", "must be a date", id="day"),
        pytest.param(
            {"external_created_at": "2026-06-01"},
            "external_created_at",
            "must be a datetime, or ISO 8601 text with its offset",
            id="no-offset",
        ),
        pytest.param(
            {"custom_attributes": "x"}, "custom_attributes", "must be a dict", id="attributes-text"
        ),
        pytest.param(
            {"custom_attributes": "x", "custom_attributes.plan": "y"},
            "custom_attributes",
            "must be a dict",
            id="attributes-text-and-dotted",
        ),
        pytest.param(
            {"custom_attributes": {"plan": "x"}, "custom_attributes.plan": "x"},
            "custom_attributes.plan",
            "has two values: custom_attributes has one too",
            id="attribute-twice",
        ),
        pytest.param(
            {"custom_attributes": None, "custom_attributes.plan": "x"},
            "custom_attributes.plan",
            "has two values: custom_attributes has one too",
            id="attributes-null-and-dotted",
        ),
        pytest.param(
            {"custom_attributes": {"plan": []}},
            "custom_attributes.plan",
            "must be text or a number",
            id="attribute-list",
        ),
        pytest.param({"device_info": "iOS"}, "device_info", "must be an object", id="device-text"),
        pytest.param(
            {"device_info.os": "17"}, "device_info.platform", "is required", id="no-platform"
        ),
        pytest.param(
            {"device_info": {"platform": 7}},
            "device_info.platform",
            "must be text, not int",
            id="platform-number",
        ),
    ],
)
def test_profile_names_the_field_and_the_rule(
    changes: dict[str, Any], field: str, rule: str
) -> None:
    """A row that cannot be a profile is rejected with the field and its rule, never the value."""
    with refused(field, rule):
        rows_of(mail.PROFILE_COLUMNS).struct(NEEDED | changes)


@pytest.mark.parametrize("name", NEEDED)
def test_profile_needs_its_required_fields(name: str) -> None:
    """A required field that is left out is named, in a row and among the columns."""
    rest = {field: value for field, value in NEEDED.items() if field != name}
    with refused(name, "is required"):
        rows_of(mail.PROFILE_COLUMNS).struct(rest)
    with refused(name, "is a required column"):
        rows_of(mail.PROFILE_COLUMNS).check(list(rest))


@pytest.mark.parametrize("value", [None, "u1", 7, ["u1"]], ids=["null", "text", "number", "list"])
def test_profile_is_an_object(value: Any) -> None:
    """A JSON line that is no object is rejected."""
    with refused("row", "must be an object"):
        rows_of(mail.PROFILE_COLUMNS).struct(value)


def test_columns_of_profiles_may_be_dotted() -> None:
    """All plain and dotted names are good columns, in any order."""
    rows_of(mail.PROFILE_COLUMNS).check(
        ["custom_attributes.plan", *PLAIN, *(f"device_info.{name}" for name in DEVICE)]
    )


@pytest.mark.parametrize(
    ("column", "shown", "rule"),
    [
        pytest.param("nickname", "header", 'unknown column "nickname"; expected: ', id="unknown"),
        pytest.param("jane@example.com", "header", 'unknown column "…"; ', id="personal"),
        pytest.param("\x1b[2J", "header", 'unknown column "…"; ', id="escape-sequence"),
        pytest.param("email", "header", 'has the column "email" more than once', id="twice"),
        pytest.param(
            "device_info", "device_info", "must be columns with a dot: device_info.NAME", id="flat"
        ),
    ],
)
def test_columns_of_profiles_are_known(column: str, shown: str, rule: str) -> None:
    """A column that is no field is rejected; one that looks like data is not shown."""
    with refused(shown, rule):
        rows_of(mail.PROFILE_COLUMNS).check([*NEEDED, column])


def test_columns_of_ids_need_the_one() -> None:
    """A file of ids may have any columns besides the one that is asked for."""
    check = id_columns("customer_user_id")
    check(["email", "customer_user_id"])
    check(["email", "email", "customer_user_id"])
    with refused("header", 'has no column "customer_user_id"; found: id, …'):
        check(["id", "jane@example.com"])
    with refused("header", 'has the column "customer_user_id" more than once'):
        check(["customer_user_id", "email", "customer_user_id"])


@pytest.mark.parametrize("value", ["u1", {"id": "u1", "x": 2}], ids=["text", "field"])
def test_id_is_the_text_or_the_field(value: Any) -> None:
    """An id is a line of text, or the field of that name."""
    assert id_from(value, "id") == "u1"


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        pytest.param({}, "is required", id="no-field"),
        pytest.param({"id": None}, "must not be empty", id="null-field"),
        pytest.param(None, "must not be empty", id="null"),
        pytest.param({"id": 7}, "must be text, not int", id="number-field"),
        pytest.param(7, "must be text, not int", id="number"),
        pytest.param(["u1"], "must be text, not list", id="list"),
    ],
)
def test_id_that_is_none_is_rejected(value: Any, rule: str) -> None:
    """A row without an id, or with one that is no text, is rejected by its column's name."""
    with refused("id", rule):
        id_from(value, "id")


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("2026-01-15 10:30:00.123456 UTC", "2026-01-15T10:30:00.123456Z"),
        ("2026-01-15 10:30:00 UTC", "2026-01-15T10:30:00Z"),
        ("2026-01-15 10:30:00+00", "2026-01-15T10:30:00+00:00"),
        ("2026-01-15 10:30:00.5-03", "2026-01-15T10:30:00.5-03:00"),
        ("2026-01-15 10:30:00 +0530", "2026-01-15T10:30:00+05:30"),
        ("2026-01-15t10:30z", "2026-01-15T10:30Z"),
    ],
    ids=["BigQuery", "Segment", "PostgreSQL", "west", "Snowflake", "small"],
)
def test_times_of_databases_become_iso_8601(written: str, sent: str) -> None:
    """A date and time is sent in one form, however a database writes it."""
    assert (
        rows_of(mail.PROFILE_COLUMNS)
        .struct(NEEDED | {"external_created_at": written})
        .external_created_at
        == sent
    )


@pytest.mark.parametrize(
    "written",
    [
        "2026-01-15 10:30:00",
        "2026-01-15",
        "15/01/2026 10:30",
        "1768473000",
        "2026-01-15 10:30:00 EST",
        "2026-01-15 10:30:00 UTC+1",
        "2026-01-15 10:30:00 Europe/Berlin",
    ],
)
def test_times_that_are_ambiguous_are_rejected(written: str) -> None:
    """Without an offset it is not known which moment is meant; the rule names what is taken."""
    with refused("external_created_at", "must be a datetime, or ISO 8601 text with its offset"):
        rows_of(mail.PROFILE_COLUMNS).struct(NEEDED | {"external_created_at": written})
