"""Columns become fields: by name, by the caller, or by the documentation of an export."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapty_async import mail, v2
from adapty_async._input.mapping import ColumnOptions, RowMapping
from adapty_async._input.presets import PRESETS
from adapty_async._input.schema import RowSchema, rows_of
from adapty_async.errors import InvalidInputError

NEEDED = {
    "purchase_type": "one_time_purchase",
    "store": "app_store",
    "store_product_id": "coins",
    "store_transaction_id": "t1",
    "store_original_transaction_id": "t1",
    "purchased_at": "2026-01-01T00:00:00Z",
    "price.country": "US",
    "price.currency": "USD",
    "price.value": "9.99",
}
# A row of RevenueCat's documentation: the types are those of its table.
REVENUECAT = {
    "rc_original_app_user_id": "$RCAnonymousID:87c6049c58069238dce29853916d624c",
    "rc_last_seen_app_user_id_alias": "u1",
    "country": "GB",
    "product_identifier": "rc_subscription_monthly",
    "start_time": "2023-01-01 08:27:06",
    "end_time": "2023-02-01 08:27:06",
    "store": "play_store",
    "is_auto_renewable": "true",
    "is_sandbox": "false",
    "store_transaction_id": "123456789012345",
    "original_store_transaction_id": "011223344556677",
    "refunded_at": "2023-02-20 05:47:55",
    "purchased_currency": "GBP",
    "purchase_price_in_purchased_currency": "3.99",
    "ownership_type": "PURCHASED",
    "renewal_number": "2",
}


def options(
    *columns: tuple[str, str], constants: Mapping[str, str] | None = None, **others: Any
) -> ColumnOptions:
    """Return options of columns."""
    return ColumnOptions(columns=columns, constants=constants or {}, **others)


def transactions(given: ColumnOptions) -> RowMapping:
    """Return a mapping to transactions of customer user ids."""
    return RowMapping(given, v2.TRANSACTION_COLUMNS, "customer_user_id")


def refused(field: str, rule: str) -> Any:
    """Expect an error that names this field and rule."""
    return pytest.raises(InvalidInputError, match=f"^{re.escape(f'{field}: {rule}')}")


def without(cells: Mapping[str, str], *names: str) -> dict[str, str]:
    """Return cells without some."""
    return {name: cell for name, cell in cells.items() if name not in names}


def test_a_mapped_column_is_its_field() -> None:
    """A column is the field that the caller names, several if wanted, and the id as well."""
    mapping = transactions(
        options(
            ("product_identifier", "store_product_id"),
            ("transaction", "store_transaction_id"),
            ("transaction", "store_original_transaction_id"),
            ("user", "customer_user_id"),
        )
    )
    row = without(
        NEEDED, "store_product_id", "store_transaction_id", "store_original_transaction_id"
    ) | {"user": "u1", "product_identifier": "coins", "transaction": "t1"}

    assert mapping.id_column == "user"
    assert mapping.check(list(row)) == set(row)
    assert mapping.item(row) == (
        "u1",
        rows_of(v2.TRANSACTION_COLUMNS).struct(NEEDED),
    )
    assert mapping.ignored == {}


def test_a_constant_is_in_every_row() -> None:
    """A field without a column gets its value from the caller, converted like a cell."""
    mapping = transactions(options(constants={"store": "stripe", "is_family_shared": "false"}))
    row = without(NEEDED, "store") | {"customer_user_id": "u1"}
    mapping.check(list(row))
    _, transaction = mapping.item(row)

    assert (transaction.store, transaction.is_family_shared) == ("stripe", False)


def test_unknown_columns_are_left_out_and_reported() -> None:
    """With the option, columns that are no field are not sent, and named once."""
    mapping = transactions(options(ignore_unknown=True))
    row = NEEDED | {"customer_user_id": "u1", "note": "x", "renew_status": "true"}

    assert mapping.check([*row, "other"]) == {*NEEDED, "customer_user_id", "renew_status"}
    assert list(mapping.ignored) == ["note", "other"]
    assert mapping.item(row) == ("u1", rows_of(v2.TRANSACTION_COLUMNS).struct(NEEDED))


def test_unknown_columns_are_rejected_by_default() -> None:
    """Without the option, a column that is no field is an error, in rows of JSON as well."""
    mapping = transactions(options(("p", "store_product_id")))
    with refused("header", 'unknown column "note"; expected: '):
        mapping.check(["customer_user_id", "p", "note"])
    with refused("row", 'unknown key "note"; expected: '):
        mapping.item({"customer_user_id": "u1", "note": 1})


@pytest.mark.parametrize(
    ("given", "names", "field", "rule"),
    [
        pytest.param(
            options(("a", "product_id")), [], "columns", 'unknown field "product_id"', id="unknown"
        ),
        pytest.param(
            options(("store_product_id", "product")),
            [],
            "columns",
            'unknown field "product" ("store_product_id" is one: the column comes first, and',
            id="the-wrong-way-round",
        ),
        pytest.param(
            options(("a", "store"), ("b", "store")),
            [],
            "columns",
            "names two columns for store",
            id="two",
        ),
        pytest.param(
            options(constants={"shop": "x"}),
            [],
            "constants",
            'unknown field "shop"',
            id="unknown-constant",
        ),
        pytest.param(
            options(("a", "store"), constants={"store": "x"}),
            [],
            "constants",
            "must not name store: it comes from a column",
            id="map-and-set",
        ),
        pytest.param(
            options(constants={"customer_user_id": "u1"}),
            [],
            "constants",
            "must not name customer_user_id: it comes from a column",
            id="constant-id",
        ),
        pytest.param(
            options(constants={"store": "x"}),
            ["customer_user_id", *NEEDED],
            "constants",
            "must not name store, which is in the input",
            id="set-and-column",
        ),
        pytest.param(
            options(("a", "store")),
            [*NEEDED],
            "columns",
            'names a column that is not in the input: "a"',
            id="absent",
        ),
        pytest.param(
            options(("a", "store")),
            ["a", *NEEDED],
            "columns",
            "must not name a column for store, which is a column itself",
            id="map-and-column",
        ),
        pytest.param(
            options(("a", "customer_user_id"), id_column="b"),
            [],
            "columns",
            "names two columns for customer_user_id, one of them as the column of the ids",
            id="two-ids",
        ),
        pytest.param(
            options(("a", "price.value")),
            ["customer_user_id", "a", "price"],
            "price",
            "must be columns with a dot: price.NAME",
            id="nested",
        ),
        pytest.param(
            options(("a", "store")), ["a"], "customer_user_id", "is a required column", id="no-id"
        ),
        pytest.param(
            options(preset="nobody"),
            [],
            "preset",
            "must be one of revenuecat, segment",
            id="preset",
        ),
    ],
)
def test_contradictions_are_rejected(
    given: ColumnOptions, names: list[str], field: str, rule: str
) -> None:
    """A field has one source; the message names the option and the rule."""
    with refused(field, rule):
        transactions(given).check(names)


def test_a_constant_and_a_key_are_rejected() -> None:
    """A row of JSON with a field that the caller sets as well is not sent."""
    mapping = transactions(options(constants={"store": "stripe"}))
    with refused("constants", "must not name store, which is in the input"):
        mapping.item(NEEDED | {"customer_user_id": "u1"})


def test_ids_have_no_other_fields() -> None:
    """A command that needs ids only takes no other field."""
    with refused("columns", 'unknown field "store"; expected: profile_id'):
        RowMapping(options(("a", "store")), None, "profile_id")
    mapping = RowMapping(options(("a", "profile_id")), None, "profile_id")

    assert mapping.check(["a", "b"]) == {"a"}
    assert mapping.id({"a": "u1", "b": 1}) == "u1"
    assert mapping.id("u2") == "u2"


def test_an_id_that_is_a_field_has_no_column_of_its_own() -> None:
    """The id of a profile of the Mail API is mapped like its other fields."""
    with refused("id_column", "must not be named, since the id is a field: map its column"):
        RowMapping(options(id_column="id"), mail.PROFILE_COLUMNS, None)
    mapping = RowMapping(options(("id", "external_profile_id")), mail.PROFILE_COLUMNS, None)

    assert mapping.id_column == "id"


def test_numbers_stay_numbers_by_field() -> None:
    """Numbers of a table stay numbers if a field of their column takes them."""
    mapping = transactions(options(("amount", "price.value")))
    attributes = RowMapping(options(("age", "custom_attributes.age")), v2.ATTRIBUTE_COLUMNS, "id")

    assert [mapping.is_number(name) for name in ("amount", "store")] == [True, False]
    assert attributes.is_number("age")
    assert not attributes.is_number("email")


def test_the_name_of_a_run_changes_with_the_mapping() -> None:
    """A journal belongs to one mapping; without one, its name is as it was."""
    plain = transactions(options(id_column="user"))
    first, second = (transactions(options((name, "store"))) for name in "ab")

    both = (("a", "store"), ("b", "environment"))

    assert transactions(options(*both)).digest == transactions(options(*reversed(both))).digest
    assert plain.digest is None
    assert re.fullmatch("[0-9a-f]{12}", first.digest or "")
    assert first.digest != second.digest


@pytest.mark.parametrize(
    ("given", "column"),
    [
        pytest.param(options(constants={"store": "stripe"}), "store", id="constant"),
        pytest.param(options(("shop", "store")), "store", id="mapped"),
        pytest.param(options(constants={"environment": "Sandbox"}), "is_sandbox", id="other-name"),
    ],
)
def test_options_take_the_place_of_a_preset(given: ColumnOptions, column: str) -> None:
    """What the caller names counts, and the column that the preset would read is left out."""
    export = msgspec.structs.replace(
        given, preset="revenuecat", id_column="rc_original_app_user_id"
    )
    mapping = transactions(export)
    row = REVENUECAT | {
        "shop": "stripe",
        "originally_purchased_at": REVENUECAT["start_time"],
        "renew_status": "false",
    }
    assert column not in mapping.check(list(row))
    assert column in mapping.ignored
    _, found = mapping.item(row)
    assert (found.store, found.environment) == (
        ("play_store", "Sandbox") if column == "is_sandbox" else ("stripe", "Production")
    )


@pytest.mark.parametrize(
    ("given", "column"), [((), "email"), ((("mail", "email"),), "mail")], ids=["plain", "mapped"]
)
def test_a_column_that_is_there_twice_is_rejected(given: Any, column: str) -> None:
    """Which of two cells counts would be chance."""
    mapping = RowMapping(options(*given), v2.ATTRIBUTE_COLUMNS, "customer_user_id")
    with pytest.raises(InvalidInputError, match=f'has the column "{column}" more than once'):
        mapping.check(["customer_user_id", column, column])


def test_revenuecat_has_what_its_documentation_says() -> None:
    """Columns of the transactions feed become a transaction; times are in UTC."""
    mapping = transactions(
        options(
            ("start_time", "originally_purchased_at"),
            constants={"renew_status": "false"},
            preset="revenuecat",
            id_column="rc_last_seen_app_user_id_alias",
        )
    )
    used = mapping.check(list(REVENUECAT))

    assert used == REVENUECAT.keys() - {"rc_original_app_user_id", "renewal_number"}
    assert list(mapping.ignored) == ["rc_original_app_user_id", "renewal_number"]
    assert mapping.lacking() == []
    assert mapping.item(REVENUECAT) == (
        "u1",
        v2.SubscriptionPurchase(
            store="play_store",
            environment="Production",
            store_product_id="rc_subscription_monthly",
            store_transaction_id="123456789012345",
            store_original_transaction_id="011223344556677",
            is_family_shared=False,
            price=v2.Price(country="GB", currency="GBP", value=Decimal("3.99")),
            purchased_at="2023-01-01T08:27:06Z",
            originally_purchased_at="2023-01-01T08:27:06Z",
            expires_at="2023-02-01T08:27:06Z",
            refunded_at="2023-02-20T05:47:55Z",
            cancellation_reason="refund",
            renew_status=False,
        ),
    )


def test_a_purchase_of_revenuecat_that_does_not_renew_has_fewer_fields() -> None:
    """Fields that a one-time purchase does not have are left out."""
    row = without(REVENUECAT, "end_time", "refunded_at") | {
        "is_auto_renewable": "f",
        "is_sandbox": "t",
        "start_time": "2023-01-01",
        "ownership_type": "FAMILY_SHARED",
    }
    mapping = transactions(
        options(constants={"renew_status": "true"}, preset="revenuecat", id_column="x")
    )
    _, transaction = mapping.item(row | {"x": "u1", "refunded_at": None})

    assert isinstance(transaction, v2.OneTimePurchase)
    assert (transaction.environment, transaction.is_family_shared) == ("Sandbox", True)
    assert transaction.purchased_at == "2023-01-01T00:00:00Z"
    assert transaction.refunded_at is None
    assert transaction.cancellation_reason is None


@pytest.mark.parametrize(
    "store", ["promotional", ["app_store"], {}], ids=["grant", "list", "object"]
)
def test_a_grant_of_revenuecat_is_no_purchase(store: object) -> None:
    """A store that Adapty does not have is not sent, unless the caller says so."""
    row: dict[str, Any] = REVENUECAT | {"store": store, "x": "u1"}
    given: dict[str, Any] = {"preset": "revenuecat", "id_column": "x"}
    with refused("store", "must be app_store, play_store or stripe"):
        transactions(options(**given)).item(row)
    mapping = transactions(options(("store", "store"), **given))
    with refused("originally_purchased_at", "is required"):
        mapping.item(row)


def test_what_an_export_lacks_is_reported() -> None:
    """Fields without a column are named, and the ids are never guessed."""
    with refused(
        "id_column",
        "is required: the column with the customer_user_id is ambiguous in revenuecat exports: "
        "add rc_original_app_user_id or rc_last_seen_app_user_id_alias",
    ):
        transactions(options(preset="revenuecat"))
    mapping = transactions(options(preset="revenuecat", id_column="rc_original_app_user_id"))

    assert mapping.lacking() == ["originally_purchased_at", "renew_status"]


@pytest.mark.parametrize("name", PRESETS)
def test_another_file_is_rejected(name: str) -> None:
    """A file that is no such export is rejected, with the columns that it lacks."""
    mapping = RowMapping(options(preset=name, id_column="x"), None, "customer_user_id")
    kind = min(PRESETS[name].kinds, key=len)
    first, *rest = sorted(kind)
    with refused("header", f"is not a {name} export: missing columns: {first}"):
        mapping.check([*rest, "x"])

    assert mapping.check([*kind, "x"]) == {"x"}


def test_segment_has_profiles() -> None:
    """Rows of the table `users` become profiles of the Mail API; `id` is the user's."""
    row = {
        "id": "u1",
        "received_at": "2026-01-01 00:00:00",
        "email": "jane@example.com",
        "first_name": "Jane",
        "created_at": "2026-01-01T00:00:00Z",
        "plan": "annual",
    }
    mapping = RowMapping(
        options(("plan", "custom_attributes.plan"), preset="segment"), mail.PROFILE_COLUMNS, None
    )

    assert mapping.check(list(row)) == row.keys() - {"received_at"}
    assert mapping.id_column == "id"
    assert mapping.struct(row) == mail.MailProfile(
        external_profile_id="u1",
        external_created_at="2026-01-01T00:00:00Z",
        email="jane@example.com",
        first_name="Jane",
        custom_attributes={"plan": "annual"},
    )
    assert RowMapping(options(preset="segment"), None, "customer_user_id").id_column == "id"


def test_a_table_of_calls_of_segment_is_rejected() -> None:
    """In the table `identifies`, `id` is that of a call, not of a user."""
    mapping = RowMapping(options(preset="segment"), None, "customer_user_id")
    with refused("header", "belongs to another table than https://www.twilio.com/docs/segment/"):
        mapping.check(["id", "received_at", "user_id", "anonymous_id"])


def test_adapty_s3_has_ids_and_transactions() -> None:
    """Events of Adapty's export have both ids, and fields of transactions under other names."""
    row = {
        "profile_id": "p1",
        "customer_user_id": "u1",
        "event_type": "subscription_started",
        "event_datetime": "2026-01-01T00:00:00Z",
        "transaction_id": "t1",
        "original_transaction_id": "t1",
        "subscription_expires_at": "2026-02-01T00:00:00Z",
        "environment": "Production",
        "revenue_local": "9.99",
        "store": "app_store",
        "product_id": "monthly",
        "currency": "USD",
        "store_country": "US",
        "device": "iPhone",
    }
    ids = RowMapping(options(preset="adapty-s3"), None, "profile_id")
    assert (ids.check(list(row)), ids.id(row)) == ({"profile_id"}, "p1")

    mapping = transactions(options(preset="adapty-s3"))
    assert mapping.lacking() == [
        "purchase_type",
        "purchased_at",
        "originally_purchased_at",
        "renew_status",
    ]
    mapping = transactions(
        options(
            ("event_datetime", "purchased_at"),
            ("event_datetime", "originally_purchased_at"),
            constants={"purchase_type": "subscription", "renew_status": "true"},
            preset="adapty-s3",
        )
    )
    mapping.check(list(row))
    _, transaction = mapping.item(row)

    assert transaction.store_product_id == "monthly"
    assert transaction.price == v2.Price(country="US", currency="USD", value="9.99")
    assert dt.datetime.fromisoformat(transaction.expires_at).month == 2


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_maps_to_fields_that_exist(name: str) -> None:
    """Each field of a preset is one of some call, and the page about presets names its source."""
    columns = (v2.TRANSACTION_COLUMNS, v2.ATTRIBUTE_COLUMNS, mail.PROFILE_COLUMNS)
    schemas = [rows_of(one) for one in columns]
    preset = PRESETS[name]
    page = Path(__file__).parents[2].joinpath("docs", "files.md").read_text("utf-8")

    assert [field for field in preset.columns if not any(s.is_known(field) for s in schemas)] == []
    assert preset.source in page
    for column in preset.columns.values():
        assert f"`{column}`" in page


def test_a_schema_has_the_names_of_columns() -> None:
    """A program can see which columns a bulk method reads, and which it needs."""
    assert v2.GRANT_COLUMNS.names() == ["access_level_id", "expires_at", "starts_at"]
    assert v2.GRANT_COLUMNS.required == ("access_level_id",)
    assert {"email", "custom_attributes.NAME", "installation_meta.device_id"} <= {
        *v2.ATTRIBUTE_COLUMNS.names()
    }
    assert {name for name in dir(v2.GRANT_COLUMNS) if not name.startswith("_")} == {
        "names",
        "required",
    }


def test_a_schema_shows_its_structs() -> None:
    """A schema has a readable form."""
    assert repr(v2.TRANSACTION_COLUMNS) == "ColumnSchema(OneTimePurchase, SubscriptionPurchase)"
    assert not RowSchema({}, nested={}).is_known("id")
