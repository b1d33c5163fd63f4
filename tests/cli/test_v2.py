"""The commands of version 2 of the server-side API, against a sandbox, and their rows."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapty_async import AdaptyClient, v2
from adapty_async._input.mapping import ColumnOptions, RowMapping
from adapty_async._input.schema import ColumnSchema, rows_of
from adapty_async.errors import InvalidInputError
from adapty_async.sandbox import Sandbox
from tests.cli.conftest import Invoke

Put = Callable[[str, str | bytes], Path]

UTC = "2026-01-15 10:30:00 UTC"
BY = ("--by", "customer-user-id")
HISTORY = """\
customer_user_id,purchase_type,store,store_product_id,store_transaction_id,\
store_original_transaction_id,price.country,price.currency,price.value,purchased_at,\
originally_purchased_at,expires_at,renew_status,offer.category,offer.type
u1,one_time_purchase,shop,premium_lifetime,1,1,US,USD,9.99,2024-01-15T10:30:00Z,,,,,
u2,subscription,shop,premium_monthly,2,2,US,USD,0,2024-01-15T10:30:00Z,2024-01-15T10:30:00Z,\
2034-01-15T10:30:00Z,TRUE,introductory,free_trial
"""
ONE_TIME: dict[str, Any] = {
    "purchase_type": "one_time_purchase",
    "store": "shop",
    "store_product_id": "p",
    "store_transaction_id": "1",
    "store_original_transaction_id": "1",
    "price": {"country": "US", "currency": "USD", "value": 9.99},
    "purchased_at": "2024-01-15T10:30:00Z",
}


def log_of(sandbox: Sandbox) -> list[tuple[str, str, str | None, int]]:
    """Return what arrived: method, last parts of the path, identity, status."""
    return [
        (one.method, one.path.removeprefix("/api/v2/server-side-api/"), one.identity, one.status)
        for one in sandbox.arrivals()
    ]


def test_delete_in_version_2(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """The listed users are gone, through version 2."""
    sandbox.seed_profiles(["u1", "u2"])
    result = invoke("delete", put("ids.txt", "u1\nu9\n"), "--api", "v2", *BY, "--yes")

    assert result.exit_code == 0, result.output
    assert sandbox.customer_user_ids() == {"u2"}
    assert {one.api for one in sandbox.arrivals()} == {"v2"}


def test_save_updates_profiles_of_version_2(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """Cells become attributes of their kinds; a profile that does not exist fails alone."""
    sandbox.seed_profiles(["u1"])
    people = (
        "customer_user_id,first_name,att_status,analytics_disabled,custom_attributes.plan,"
        "installation_meta.device_id\n"
        "u1,Jane,3,true,annual,3fa85f64-5717-4562-b3fc-2c963f66afa6\n"
        "u9,Joe,,,,\n"
    )
    result = invoke("save", put("people.csv", people), "--api", "v2", *BY, "--json")

    assert result.exit_code == 1, result.output
    assert msgspec.json.decode(result.stdout)["done"] == 1
    stored = sandbox.profile(customer_user_id="u1") or {}
    assert (stored["first_name"], stored["att_status"]) == ("Jane", 3)
    assert stored["analytics_disabled"] is True
    assert stored["custom_attributes"] == [{"key": "plan", "value": "annual"}]
    assert {one[2:] for one in log_of(sandbox)} == {("u1", 200), ("u9", 404)}


def test_an_empty_cell_is_not_given_and_an_empty_text_is(
    sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """A CSV cell without text leaves the field out; "" in NDJSON is a value."""
    cells = 'customer_user_id,first_name,phone_number\nu1,Jane,1\nu1,,""\n'
    objects = '{"customer_user_id":"u1","phone_number":""}\n'
    sandbox.seed_profiles(["u1"])

    for name, content, number in (("people.csv", cells, "1"), ("people.ndjson", objects, "")):
        result = invoke("save", put(name, content), "--api", "v2", *BY)
        stored = sandbox.profile(customer_user_id="u1") or {}
        assert result.exit_code == 0, result.output
        assert (stored["first_name"], stored["phone_number"]) == ("Jane", number)


@pytest.mark.parametrize(
    "arguments", [("--api", "v2"), ("--api", "mail", *BY)], ids=["no by", "other api"]
)
def test_save_needs_to_know_what_the_ids_are(
    sandbox: Sandbox, invoke: Invoke, put: Put, arguments: tuple[str, ...]
) -> None:
    """Version 2 and the kind of id go together."""
    result = invoke("save", put("people.csv", "customer_user_id\nu1\n"), *arguments)

    assert result.exit_code == 2
    assert "--api v2 and --by go together" in result.output
    assert sandbox.arrivals() == []


def test_a_history_is_imported(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """Every row is a transaction of its user."""
    sandbox.seed_profiles(["u1", "u2"])
    result = invoke("import-transactions", put("history.csv", HISTORY), *BY)

    assert result.exit_code == 0, result.output
    assert sorted(log_of(sandbox)) == [
        ("POST", "purchase/set/transaction/", "u1", 200),
        ("POST", "purchase/set/transaction/", "u2", 200),
    ]


def test_an_import_can_be_checked_first(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """A dry run holds every row to the rules of Adapty's documentation, and sends nothing."""
    rows = [
        {"user": "u1", **ONE_TIME},
        {"user": "u2", **ONE_TIME, "store_original_transaction_id": "2"},
    ]
    path = put("history.ndjson", b"\n".join(map(msgspec.json.encode, rows)))
    result = invoke("import-transactions", path, *BY, "--column", "user", "--dry-run", "--json")

    assert result.exit_code == 1, result.output
    report = msgspec.json.decode(result.stdout)
    assert (report["sendable"], report["failed"], report["done"]) == (1, 1, 0)
    assert sandbox.arrivals() == []


@pytest.mark.parametrize(
    "command",
    [("import-transactions", *BY), ("save", "--api", "v2", *BY)],
    ids=["import", "save"],
)
def test_a_line_of_text_is_no_row_with_fields(
    invoke: Invoke, put: Put, command: tuple[str, ...]
) -> None:
    """Commands that need fields reject plain text."""
    result = invoke(*command, put("ids.txt", "u1\n"))

    assert result.exit_code == 2
    assert "INPUT: must be CSV, NDJSON or a table: a line of text is no" in result.output


def test_access_is_granted_and_revoked(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """All users of a file get an access level, and lose it again."""
    sandbox.seed_profiles(["u1", "u2"])
    ids = put("ids.txt", "u1\nu2\n")
    until = ("--expires-at", "2034-01-15T10:30:00Z", "--starts-at", "2024-01-15T10:30:00Z")
    granted = invoke("grant", ids, *BY, "--access-level", "premium", *until)
    assert granted.exit_code == 0, granted.output
    revoked = invoke("revoke", ids, *BY, "--access-level", "premium", "--yes")
    assert revoked.exit_code == 0, revoked.output

    paths = [path for _, path, _, _ in log_of(sandbox)]
    assert paths.count("purchase/profile/grant/access-level/") == 2
    assert paths.count("purchase/profile/revoke/access-level/") == 2


def test_access_is_granted_by_the_apis_own_id(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """Ids may stand in a column of any name, and be Adapty's."""
    [profile_id] = sandbox.seed_anonymous(1)
    path = put("ids.csv", f"name,adapty\nJane,{profile_id}\n")
    about = ("--by", "profile-id", "--column", "adapty", "--access-level", "premium")
    result = invoke("grant", path, *about, "--ignore-unknown")

    assert result.exit_code == 0, result.output
    assert log_of(sandbox)[0][2:] == (profile_id, 200)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param(
            "grants.csv",
            "customer_user_id,access_level_id,expires_at\nu1,vip,2034-01-15T10:30:00Z\nu2,gold,\n",
            id="csv",
        ),
        pytest.param(
            "grants.ndjson",
            '{"customer_user_id":"u1","access_level_id":"vip","expires_at":"2034-01-15T10:30:00Z"}'
            '\n{"customer_user_id":"u2","access_level_id":"gold"}\n',
            id="ndjson",
        ),
    ],
)
def test_each_row_has_its_own_grant(
    name: str, content: str, sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """The level and the end of the access are those of the row, and none is granted for ever."""
    sandbox.add_access_levels("vip", "gold")
    sandbox.seed_profiles(["u1", "u2"])
    result = invoke("grant", put(name, content), *BY)

    assert result.exit_code == 0, result.output
    assert [levels_of(sandbox, one) for one in ("u1", "u2")] == [
        [("vip", "2034-01-15T10:30:00Z")],
        [("gold", None)],
    ]


def levels_of(sandbox: Sandbox, user: str) -> list[tuple[str, str | None]]:
    """Return the access levels of a user, and when they end."""

    async def read() -> v2.Profile:
        async with AdaptyClient(sandbox.api_key, base_url=sandbox.url) as adapty:
            return await adapty.v2.profiles.get(customer_user_id=user)

    levels = asyncio.run(read()).access_levels
    return [(one.access_level_id, until(one.expires_at)) for one in levels or ()]


def until(at: dt.datetime | str | None) -> str | None:
    """Return a time as in the inputs of these tests."""
    if not isinstance(at, dt.datetime):
        return at
    return at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_an_option_of_a_grant_is_that_of_all_rows(
    sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """Options, constants and mapped columns may each give some of the fields."""
    sandbox.add_access_levels("vip", "gold")
    sandbox.seed_profiles(["u1"])
    path = put("grants.csv", "customer_user_id,until\nu1,2034-01-15T10:30:00Z\n")
    given = ("--access-level", "vip", "--set", "starts_at=2024-01-15T10:30:00Z")
    result = invoke("grant", path, *BY, *given, "--map", "until=expires_at")

    assert result.exit_code == 0, result.output
    assert levels_of(sandbox, "u1") == [("vip", "2034-01-15T10:30:00Z")]


FUTURE = "2034-01-15T10:30:00Z"


@pytest.mark.parametrize(
    ("command", "columns", "message"),
    [
        pytest.param(
            ("grant", "--access-level", "vip", "--expires-at", FUTURE),
            "expires_at",
            "--expires-at: must not name expires_at, which is in the input",
            id="column-and-option",
        ),
        pytest.param(
            ("grant", "--access-level", "vip", "--expires-at", FUTURE, "--map", "until=expires_at"),
            "until",
            "--expires-at: must not name expires_at: it comes from a column",
            id="map-and-option",
        ),
        pytest.param(
            ("grant", "--access-level", "vip", "--set", "access_level_id=gold"),
            "expires_at",
            "--set: must not name access_level_id, which --access-level gives",
            id="set-and-option",
        ),
        pytest.param(
            ("grant", "--access-level", "vip"),
            "expire_at",
            'header: unknown column "expire_at"; expected: access_level_id, expires_at, starts_at; '
            "leave it out with --ignore-unknown, or name its field with --map",
            id="unknown",
        ),
        pytest.param(
            ("grant",),
            "expires_at",
            "access_level_id: is a required column; give it with --access-level",
            id="no-level",
        ),
        pytest.param(
            ("revoke", "--access-level", "vip", "--yes", "--revoke-at", FUTURE),
            "revoke_at",
            "--revoke-at: must not name revoke_at, which is in the input",
            id="revoke",
        ),
    ],
)
def test_columns_of_a_grant_are_never_ignored_silently(
    command: tuple[str, ...],
    columns: str,
    message: str,
    sandbox: Sandbox,
    invoke: Invoke,
    put: Put,
) -> None:
    """Two sources for a field, or a misspelt one, are rejected before anything is sent."""
    sandbox.seed_profiles(["u1"])
    path = put("ids.csv", f"customer_user_id,{columns}\nu1,{FUTURE}\n")
    name, *options = command
    result = invoke(name, path, *BY, *options)

    assert result.exit_code == 2
    assert message in result.stderr
    assert sandbox.arrivals() == []


def test_ids_alone_need_an_access_level(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """A line of text has no column for it."""
    result = invoke("grant", put("ids.txt", "u1\n"), *BY)

    assert result.exit_code == 2
    assert "--access-level: is required: a line of text has no columns" in result.stderr
    assert sandbox.arrivals() == []


def test_each_row_has_its_own_revocation(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """A revocation at a later time is not made at once."""
    sandbox.add_access_levels("vip", "gold")
    sandbox.seed_profiles(["u1", "u2"])
    ids = put("ids.txt", "u1\nu2\n")
    invoke("grant", ids, *BY, "--access-level", "vip")
    path = put("ends.csv", f"customer_user_id,access_level_id,revoke_at\nu1,vip,{FUTURE}\n")
    result = invoke("revoke", path, *BY, "--yes")

    assert result.exit_code == 0, result.output
    assert levels_of(sandbox, "u1") == [("vip", FUTURE)]


@pytest.mark.parametrize("name", ["ids.txt", "-"])
def test_a_revocation_needs_a_confirmation(
    sandbox: Sandbox, invoke: Invoke, put: Put, name: str
) -> None:
    """Without a terminal to ask on, --yes is needed, and the question says what would be done."""
    path = "-" if name == "-" else put(name, "u1\n")
    form = ("--format", "text") if name == "-" else ()
    result = invoke("revoke", path, *BY, "--access-level", "premium", *form)

    assert result.exit_code == 2
    count = "all users" if name == "-" else "1 user"
    question = f"Revoke premium, by customer-user-id, from {count} in"
    assert question in " ".join(result.output.split())
    assert sandbox.arrivals() == []


LEVEL, OTHER_LEVEL = ("--access-level", "vip"), ("--access-level", "premium")
USER = "customer_user_id,x\nu1,Jo\n"


@pytest.mark.parametrize(
    ("command", "content", "options"),
    [
        pytest.param("save", USER, (("--map", "x=first_name"), ("--map", "x=last_name")), id="map"),
        pytest.param("save", USER, (("--set", "email=a@b.c"), ("--set", "email=b@b.c")), id="set"),
        pytest.param("import-transactions", HISTORY, ((), ("--create-missing",)), id="import"),
        pytest.param("grant", USER, (LEVEL, OTHER_LEVEL), id="grant"),
        pytest.param("grant", USER, (LEVEL, (*LEVEL, "--expires-at", FUTURE)), id="end"),
        pytest.param("grant", USER, (LEVEL, (*LEVEL, "--starts-at", UTC)), id="start"),
        pytest.param("revoke", USER, (LEVEL, OTHER_LEVEL), id="revoke"),
        pytest.param("revoke", USER, (LEVEL, (*LEVEL, "--revoke-at", FUTURE)), id="later"),
    ],
)
def test_a_journal_is_that_of_what_a_command_does(
    sandbox: Sandbox, invoke: Invoke, put: Put, command: str, content: str, options: Any
) -> None:
    """Otherwise rows that are done would be skipped, although something else is to be done."""
    path = put("users.csv", content)
    run = (command, path, *BY, "--yes", "--ignore-unknown", "--journal", path.with_name("run.db"))
    first, second = options
    assert invoke(*run, *first).exit_code in {0, 1}
    before = len(sandbox.arrivals())
    result = invoke(*run, *second)

    assert result.exit_code == 2
    assert "run.db belongs to another run; operation: " in result.stderr
    assert len(sandbox.arrivals()) == before > 0


@pytest.mark.parametrize(
    ("command", "options", "what"),
    [
        pytest.param("grant", LEVEL, "v2 grant vip by", id="for ever"),
        pytest.param(
            "grant",
            (*LEVEL, "--starts-at", UTC, "--expires-at", FUTURE),
            f"v2 grant vip from {UTC} to {FUTURE} by",
            id="for a time",
        ),
        pytest.param(
            "grant", ("--map", "x=access_level_id"), "v2 grant access levels by", id="map"
        ),
        pytest.param("revoke", LEVEL, "v2 revoke vip by", id="now"),
        pytest.param(
            "revoke", (*LEVEL, "--revoke-at", FUTURE), f"v2 revoke vip at {FUTURE} by", id="later"
        ),
    ],
)
def test_the_record_of_a_run_has_what_it_did(
    sandbox: Sandbox, invoke: Invoke, put: Put, command: str, options: Any, what: str
) -> None:
    """The options are in its name as far as they were given."""
    path = put("users.csv", USER)
    journal = path.with_name("run.db")
    run = (command, path, *BY, "--yes", "--ignore-unknown", "--journal", journal)
    assert invoke(*run, *options).exit_code in {0, 1}

    assert invoke("status", journal).stdout.startswith(f"{what} customer-user-id, ")


def test_a_dry_run_of_a_revocation_asks_nothing(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """Nothing is revoked, so there is nothing to confirm."""
    command = ("revoke", put("ids.txt", "u1\n"), *BY, "--access-level", "premium")
    for options in (("--dry-run",), ("--sample", "1")):
        assert invoke(*command, *options).exit_code == 0
    assert sandbox.arrivals() == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("grant", "--expires-at", "tomorrow"), "expires_at: must be a datetime, or ISO 8601"),
        (("grant", "--starts-at", "2024-01-15"), "starts_at: must be a datetime, or ISO 8601"),
        (("revoke", "--revoke-at", "x", "--yes"), "revoke_at: must be a datetime, or ISO 8601"),
        (("revoke", "--revoke-at", "2020-01-01T00:00:00Z", "--yes"), "revoke_at: must be in the"),
    ],
    ids=["expires", "starts", "revoke", "revoke in the past"],
)
def test_a_date_is_checked_before_the_first_row(
    sandbox: Sandbox, invoke: Invoke, put: Put, command: tuple[str, ...], message: str
) -> None:
    """What would be wrong for all rows is rejected at once."""
    name, *options = command
    result = invoke(name, put("ids.txt", "u1\n"), *BY, "--access-level", "premium", *options)

    assert result.exit_code == 2
    assert message in result.output
    assert sandbox.arrivals() == []


# Rows


def rejected(field: str, rule: str) -> Any:
    """Expect an error that names this field and rule."""
    return pytest.raises(InvalidInputError, match=f"^{re.escape(f'{field}: {rule}')}")


def item_of(schema: ColumnSchema, value: Any, id_field: str = "id") -> tuple[str, Any]:
    """Return the id of a row and its struct, without options."""
    return RowMapping(ColumnOptions(), schema, id_field).item(value)


def test_a_row_of_cells_is_a_transaction() -> None:
    """Dotted cells of text become the fields of a transaction, each of its kind."""
    one, transaction = item_of(
        v2.TRANSACTION_COLUMNS,
        {
            "customer_user_id": "u1",
            **{name: value for name, value in ONE_TIME.items() if name != "price"},
            "price.country": "US",
            "price.currency": "USD",
            "price.value": "9.99",
            "is_family_shared": "False",
        },
        "customer_user_id",
    )

    fields = {name: value for name, value in ONE_TIME.items() if name != "purchase_type"}
    price = v2.Price(**fields.pop("price"))
    assert one == "u1"
    assert transaction == v2.OneTimePurchase(**fields, price=price, is_family_shared=False)


def test_a_row_of_json_is_a_transaction() -> None:
    """Objects and null are taken as they are."""
    row = {"id": "u1", **ONE_TIME, "offer": None, "is_family_shared": True}
    _, transaction = item_of(v2.TRANSACTION_COLUMNS, row)

    assert transaction.offer is None
    assert transaction.is_family_shared is True


def test_a_row_without_its_type_is_no_transaction() -> None:
    """A missing field is required, not wrong."""
    with rejected("purchase_type", "is required"):
        item_of(v2.TRANSACTION_COLUMNS, {"id": "u1", "purchased_at": UTC})


def test_times_of_a_transaction_become_iso_8601() -> None:
    """Dates and times are read as databases write them; a custom attribute stays as it is."""
    _, transaction = item_of(v2.TRANSACTION_COLUMNS, {"id": "u1", **ONE_TIME, "purchased_at": UTC})
    assert transaction.purchased_at == "2026-01-15T10:30:00Z"
    _, attributes = item_of(
        v2.ATTRIBUTE_COLUMNS, {"id": "u1", "custom_attributes.seen_at": "never"}
    )
    assert attributes.custom_attributes == {"seen_at": "never"}


def test_attributes_take_nested_names_in_both_forms() -> None:
    """An object and dotted names of the same field go together."""
    row = {
        "id": "u1",
        "custom_attributes": {"a": 1},
        "custom_attributes.b.c": "x",
        "installation_meta.device_id": "d",
        "birthday": None,
    }
    one, attributes = item_of(v2.ATTRIBUTE_COLUMNS, row)

    assert (one, attributes.custom_attributes) == ("u1", {"a": 1, "b.c": "x"})
    assert attributes.installation_meta == v2.InstallationMeta(device_id="d")
    assert attributes.birthday is None


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        pytest.param({"purchase_type": "rent"}, "purchase_type", "must be one of one", id="type"),
        pytest.param({"colour": "red"}, "row", 'unknown key "colour"; expected: ', id="unknown"),
        pytest.param({"price.colour": "red"}, "row", 'unknown key "price.colour"', id="inner"),
        pytest.param({"price": {"colour": 1}}, "row", 'unknown key "price.colour"', id="deep"),
        pytest.param({"price": {}}, "price.country", "is required", id="missing inside"),
        pytest.param({"price": 1}, "price", "must be an object", id="no object"),
        pytest.param({"price": 1, "price.value": 2}, "price", "must be an object", id="both"),
        pytest.param({"price.value": 2}, "price.value", "has two values", id="twice"),
        pytest.param(
            {"price": {"country": "US", "currency": "USD"}, "price.value": "x"},
            "price.value",
            "must be a decimal number",
            id="value",
        ),
        pytest.param({"is_family_shared": "yes"}, "is_family_shared", "must be true", id="flag"),
        pytest.param({"expires_at": UTC}, "row", 'unknown key "expires_at"', id="other type"),
        pytest.param(
            {"purchased_at": "x"}, "purchased_at", "must be a datetime", id="date and time"
        ),
        pytest.param({"id": None}, "id", "must not be empty", id="no id"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(change: dict[str, Any], field: str, rule: str) -> None:
    """The error names a field or says what there is, and repeats nothing of the row."""
    with rejected(field, rule):
        item_of(v2.TRANSACTION_COLUMNS, {"id": "u1", **ONE_TIME, **change})


def test_a_row_is_an_object() -> None:
    """A value alone has no fields."""
    with rejected("row", "must be an object with named fields"):
        item_of(v2.ATTRIBUTE_COLUMNS, "u1")


@pytest.mark.parametrize("value", ["x", "-1", "²"])
def test_a_number_in_a_cell_is_one(value: str) -> None:
    """Text where a number belongs is rejected by its field."""
    with rejected("att_status", "must be a whole number"):
        item_of(v2.ATTRIBUTE_COLUMNS, {"id": "u1", "att_status": value})


@pytest.mark.parametrize(
    ("names", "field", "rule"),
    [
        (["colour"], "header", 'unknown column "colour"; expected: '),
        (["custom_attributes"], "custom_attributes", "must be columns with a dot"),
        (
            ["custom_attributes.", "x y"],
            "header",
            'unknown columns "custom_attributes.", "x y";',
        ),
        (["email", "email"], "header", 'has the column "email" more than once'),
    ],
    ids=str,
)
def test_the_columns_of_a_file_are_checked(names: list[str], field: str, rule: str) -> None:
    """Unknown, undotted and missing columns are reported before anything is sent."""
    with rejected(field, rule):
        rows_of(v2.ATTRIBUTE_COLUMNS).check(names)


def test_a_history_has_its_required_columns() -> None:
    """A file without a price is no history."""
    names = ["email", "purchase_type"]
    with rejected("header", 'unknown column "email"; expected: '):
        rows_of(v2.TRANSACTION_COLUMNS).check(names)
    with rejected("store", "is a required column"):
        rows_of(v2.TRANSACTION_COLUMNS).check(["purchase_type"])
    rows_of(v2.TRANSACTION_COLUMNS).check(
        [*v2.TRANSACTION_COLUMNS.required, "offer.id", "expires_at"]
    )
