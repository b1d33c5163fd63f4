"""Tables as the input of commands: erased, imported, resumed and recorded like CSV."""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib.util
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from adapty_async import AdaptyClient
from adapty_async.files import InputFile
from adapty_async.sandbox import Sandbox
from tests.cli.conftest import Invoke
from tests.input.tables import write_excel, write_feather, write_parquet

Put = Callable[[str, str | bytes], Path]

BY = ("--by", "customer-user-id")
DELETE = ("delete", "--api", "v2", *BY, "--yes")
TRANSACTION: dict[str, list[Any]] = {
    "user": ["u1"],
    "purchase_type": ["one_time_purchase"],
    "store": ["app_store"],
    "product_identifier": ["coins"],
    "store_transaction_id": [1000],
    "store_original_transaction_id": [1000],
    "purchased_at": ["2026-01-01T00:00:00Z"],
    "price": [{"country": "US", "currency": "USD", "value": 9.99}],
    "note": ["x"],
}


@pytest.mark.parametrize("kind", ["parquet", "feather", "xlsx"])
def test_the_users_of_a_table_are_erased(
    sandbox: Sandbox, invoke: Invoke, tmp_path: Path, kind: str
) -> None:
    """A table is erased, resumed, recorded and reported as a CSV file is."""
    sandbox.seed_profiles(["u1", "100045", "u3"])
    columns = {"x": ["a", "b", "c", "d"], "customer_user_id": ["u1", "100045", None, "nobody"]}
    path = tmp_path / f"ids.{kind}"
    if kind == "xlsx":
        write_excel(path, [list(columns), *map(list, zip(*columns.values(), strict=True))])
    else:
        {"parquet": write_parquet, "feather": write_feather}[kind](path, columns)
    options = ("--journal", tmp_path / "run.db", "--outcomes", tmp_path / "o.ndjson", "--json")
    first = json.loads(invoke(*DELETE, path, *options).stdout)
    again = json.loads(invoke(*DELETE, path, *options).stdout)
    checked = invoke("report", tmp_path / "run.db", "--check", path, "--format", "json")

    assert (first["total"], first["done"], first["absent"]) == (3, 2, 1)
    assert (first["rows_without_id"], again["skipped"]) == (1, 3)
    assert sandbox.customer_user_ids() == {"u3"}
    lines = [json.loads(line) for line in (tmp_path / "o.ndjson").read_text().splitlines()]
    numbers = [2, 3, 5] if kind == "xlsx" else [1, 2, 4]
    assert sorted((one["line"], one["id"]) for one in lines) == list(
        zip(numbers, ["u1", "100045", "nobody"], strict=True)
    )
    assert checked.exit_code == 0, checked.output
    assert "each of 3 rows has a final outcome" in checked.stderr


def test_rows_that_cannot_be_read_are_named_and_stay_broken(
    sandbox: Sandbox, invoke: Invoke, tmp_path: Path
) -> None:
    """A row is named by its number; in the failures file it is not sent until it is corrected."""
    sandbox.seed_profiles(["u1", "u2"])
    path = write_excel(tmp_path / "ids.xlsx", [["customer_user_id"], ["u1"], [1.5], [True]])
    failures = tmp_path / "failures.ndjson"
    result = invoke(*DELETE, path, "--failures", failures)
    again = invoke(*DELETE, failures)

    assert result.exit_code == again.exit_code == 1
    place = f'{path}, sheet "Users": the cell in column "customer_user_id"'
    assert f"row 3: row: {place} has a fraction, so it is not an id" in result.stdout
    assert f"row 4: row: {place} is true or false, not an id" in result.stdout
    assert "row: " in again.stdout
    assert [json.loads(line)["item"] for line in failures.read_text().splitlines()] == [
        '{"customer_user_id":"1.5"}',
        '{"customer_user_id":"True"}',
    ]
    assert sandbox.customer_user_ids() == {"u2"}


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [
        ("ids.parquet", "pyarrow", "arrow"),
        ("ids.feather", "pyarrow", "arrow"),
        ("ids.xlsx", "python-calamine", "excel"),
    ],
)
def test_a_missing_extra_is_named(
    invoke: Invoke, put: Put, monkeypatch: pytest.MonkeyPatch, name: str, library: str, extra: str
) -> None:
    """Without the library of a format, the error names what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    result = invoke(*DELETE, put(name, "x"))

    assert result.exit_code == 2
    assert f"{library} is not installed: pip install 'adapty-async[{extra}]'" in result.stderr


def test_a_journal_belongs_to_a_sheet(sandbox: Sandbox, invoke: Invoke, tmp_path: Path) -> None:
    """The report of a journal reads the sheet that the run read; another one is another run."""
    sandbox.seed_profiles(["u1"])
    path = write_excel(tmp_path / "ids.xlsx", [["customer_user_id"], ["u1"]], 'My "sheet"')
    journal = ("--journal", tmp_path / "run.db")
    done = invoke(*DELETE, path, *journal, "--sheet", 'My "sheet"')
    other = invoke(*DELETE, path, *journal)
    report = invoke("report", tmp_path / "run.db", "--check", path, "--format", "json")

    assert (done.exit_code, other.exit_code) == (0, 2)
    assert report.exit_code == 0, report.output


def test_a_dry_run_of_mapped_columns_names_what_it_leaves_out(
    sandbox: Sandbox, invoke: Invoke, tmp_path: Path
) -> None:
    """Columns are mapped, and those that are left out are named, in JSON as well."""
    sandbox.seed_profiles(["u1"])
    path = write_parquet(tmp_path / "history.parquet", TRANSACTION)
    mapped = ("--map", "product_identifier=store_product_id", "--map", "user=customer_user_id")
    refused = invoke("import-transactions", path, *BY, *mapped)
    command = ("import-transactions", path, *BY, *mapped, "--ignore-unknown", "--json")
    dry = invoke(*command, "--dry-run")
    result = json.loads(invoke(*command).stdout)

    assert refused.exit_code == 2
    assert 'unknown column "note"' in refused.stderr
    assert "Columns left out: note." in dry.stderr
    assert json.loads(dry.stdout)["sendable"] == 1
    assert (result["done"], result["ignored_columns"]) == (1, ["note"])


def test_keys_that_are_left_out_are_named(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """Keys of JSON are columns, so those that are left out are named, once."""
    sandbox.seed_profiles(["u1"])
    path = put("rows.ndjson", '{"customer_user_id": "u1", "first_name": "Jane", "note": 1}\n')
    result = invoke("save", path, "--api", "v2", *BY, "--ignore-unknown")

    assert result.exit_code == 0
    assert result.stderr.count("Columns left out: note.") == 1


def test_a_constant_is_set(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """A field without a column gets its value from the command."""
    path = put("users.csv", "id,email\nu1,jane@example.com\n")
    options = ("--column", "id", "--set", "custom_attributes.source=a=b")
    result = invoke("create", path, *options, "--sample", 1, "--json")

    (request,) = json.loads(result.stdout)["requests"]
    assert request["body"]["custom_attributes"] == [{"key": "source", "value": "a=b"}]
    assert request["headers"] == {"adapty-customer-user-id": "u1"}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--map", "=a"), "must be COLUMN=FIELD"),
        (("--map", "a"), "must be COLUMN=FIELD"),
        (("--set", "a="), "must be FIELD=VALUE, once for a field"),
        (("--set", "a=1", "--set", "a=2"), "must be FIELD=VALUE, once for a field"),
        (("--from", "nobody"), "'nobody' is not one of"),
        (("--sheet", "a"), "--sheet: is for spreadsheets only"),
        (("--encoding", "x"), "--encoding: 'x' is unknown"),
        (("--map", "a=b"), '--map: unknown field "b"; expected: customer_user_id'),
        (("--set", "b=a"), '--set: unknown field "b"; expected: customer_user_id'),
        (("--from", "revenuecat"), "--column: is required: the column with the customer_user_id"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_of_columns_are_checked(
    invoke: Invoke, put: Put, option: tuple[str, ...], message: str
) -> None:
    """An option that cannot be meant is rejected before anything is read."""
    result = invoke(*DELETE, put("ids.csv", "customer_user_id\nu1\n"), *option)

    assert result.exit_code == 2
    assert message in result.stderr


def test_a_file_of_an_unknown_format_names_the_option(invoke: Invoke, put: Put) -> None:
    """The command names its option where a program names the parameter."""
    result = invoke(*DELETE, put("ids.dat", "u1\n"))

    assert result.exit_code == 2
    assert "--format: is required: the name does not end in a known suffix" in result.stderr


def test_fields_that_an_export_lacks_are_named(invoke: Invoke, put: Put) -> None:
    """A command names the fields that need an option, before it shows or sends a row."""
    path = put("visits.csv", "profile_id,paywall_showed_at\np1,2026-01-01\n")
    result = invoke(
        "import-transactions", path, "--by", "profile-id", "--from", "adapty-s3", "--sample", 1
    )

    assert (
        "The export has no column for purchase_type, purchased_at, originally_purchased_at, "
        "renew_status; subscriptions need --map or --set for it."
    ) in result.stderr


def test_a_key_that_is_a_constant_too_names_the_option(
    sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """A field of any row that the command sets as well is rejected before anything is sent."""
    path = put("rows.ndjson", '{"customer_user_id": "u1", "email": "a@example.com"}\n')
    result = invoke("save", path, "--api", "v2", *BY, "--set", "email=b@example.com")

    assert result.exit_code == 2
    assert "--set: must not name email, which is in the input" in result.stderr
    assert sandbox.arrivals() == []


def test_a_mapping_of_mail_profiles_is_recorded(
    sandbox: Sandbox, invoke: Invoke, put: Put, tmp_path: Path
) -> None:
    """The id of a mapped profile is in the outcomes file, and the journal knows its column."""
    path = put(
        "users.csv", "id,received_at,email,created_at\nu1,x,a@example.com,2026-01-01T00:00Z\n"
    )
    journal, outcomes = tmp_path / "run.db", tmp_path / "o.ndjson"
    result = invoke("save", path, "--from", "segment", "--journal", journal, "--outcomes", outcomes)
    report = invoke("report", journal, "--check", path, "--format", "json")

    assert result.exit_code == 0, result.output
    assert json.loads(outcomes.read_text())["id"] == "u1"
    assert report.exit_code == 0, report.output


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
def test_a_field_with_the_name_of_the_id_column_is_not_the_id(
    sandbox: Sandbox, invoke: Invoke, put: Put, tmp_path: Path, suffix: str
) -> None:
    """The user who is updated is the one whom the outcomes file names."""
    sandbox.seed_profiles(["u1", "anna@example.com"])
    rows = {
        "csv": "email,contact\nu1,anna@example.com\n",
        "ndjson": '{"email": "u1", "contact": "anna@example.com"}\n',
    }
    path, outcomes = put(f"users.{suffix}", rows[suffix]), tmp_path / "o.ndjson"
    fields = ("--map", "email=customer_user_id", "--map", "contact=email")
    result = invoke("save", path, *BY, *fields, "--outcomes", outcomes)

    assert result.exit_code == 0, result.output
    assert [arrival.identity for arrival in sandbox.arrivals()] == ["u1"]
    assert json.loads(outcomes.read_text())["id"] == "u1"


def test_calls_of_segment_are_rejected_as_json(sandbox: Sandbox, invoke: Invoke, put: Put) -> None:
    """The ids of calls are not taken for those of users, which would all be absent."""
    row = {"id": "call", "user_id": "u1", "anonymous_id": "x", "received_at": "2026-01-01"}
    path = put("identifies.ndjson", json.dumps(row) + "\n")
    result = invoke(*DELETE, path, "--from", "segment")

    assert result.exit_code == 2
    assert "input: belongs to another table than https://www.twilio.com" in result.stderr
    assert sandbox.arrivals() == []


def _erase(sandbox: Sandbox, source: InputFile, journal: Path) -> None:
    async def run() -> None:
        async with AdaptyClient(sandbox.api_key, base_url=sandbox.url) as client:
            await client.v2.profiles.bulk_delete(source, by="customer_user_id", journal=journal)

    asyncio.run(run())


def test_a_report_lists_the_users_that_a_program_erased(
    sandbox: Sandbox, invoke: Invoke, tmp_path: Path
) -> None:
    """The column and the sheet with the ids are those of the run, not those that are usual."""
    sandbox.seed_profiles(["real", "bystander"])
    table = write_parquet(
        tmp_path / "two.parquet", {"uid": ["real"], "customer_user_id": ["bystander"]}
    )
    book = write_excel(tmp_path / "two.xlsx", [["customer_user_id"], ["bystander"]])
    sheets = openpyxl.load_workbook(book)
    hidden = sheets.create_sheet("Erase")
    hidden.sheet_state = "hidden"
    for row in (["customer_user_id"], ["real"]):
        hidden.append(row)
    sheets.save(book)
    text = tmp_path / "ids.dat"
    text.write_bytes("customer_user_id,uid\nbystander,J\xfcrgen\n".encode("cp1252"))
    sources = {
        table: InputFile(table, id_column="uid"),
        book: InputFile(book, sheet="Erase"),
        text: InputFile(text, format="csv", encoding="cp1252", id_column="customer_user_id"),
    }
    listed = []
    for path, source in sources.items():
        journal = tmp_path / f"{path.name}.db"
        _erase(sandbox, source, journal)
        given = ("report", journal, "--input", path, "--with-ids", "--format", "json")
        report = json.loads(invoke(*given).stdout)
        listed.append([one["id"] for one in report["listed"]])

    assert listed == [["real"], ["real"], ["bystander"]]


def test_a_report_leaves_out_the_rows_that_a_program_left_out(
    sandbox: Sandbox, invoke: Invoke, put: Put, tmp_path: Path
) -> None:
    """A row that was left out does not give its outcome to the next one."""
    sandbox.seed_profiles(["u1", "u3"])
    path = put("list.csv", "customer_user_id,email\nu1,a\n,b\n bad,c\nu3,d\n")
    _erase(sandbox, InputFile(path, skip_rows_without_id=True), tmp_path / "run.db")
    given = ("report", tmp_path / "run.db", "--input", path, "--with-ids", "--format", "json")

    listed = json.loads(invoke(*given).stdout)["listed"]
    found = {one["line"]: (one["id"], one["status"]) for one in listed}
    assert found == {2: ("u1", "done"), 4: (" bad", "none"), 5: ("u3", "done")}


def test_an_odd_cell_of_a_row_without_an_id_moves_no_state(
    sandbox: Sandbox, invoke: Invoke, tmp_path: Path
) -> None:
    """The command and the report leave out the same rows, also if a row has an odd cell as well."""
    sandbox.seed_profiles(["u1", "u3"])
    columns: dict[str, list[Any]] = {
        "customer_user_id": ["u1", None, "u3"],
        "expires_at": [None, b"\xff", None],
    }
    path, journal = write_parquet(tmp_path / "ids.parquet", columns), tmp_path / "run.db"
    granted = invoke("grant", path, *BY, "--access-level", "premium", "--journal", journal)
    report = invoke("report", journal, "--input", path, "--with-ids", "--format", "json")

    assert granted.exit_code == 0, granted.output
    listed = json.loads(report.stdout)["listed"]
    assert [(one["line"], one["id"], one["status"]) for one in listed] == [
        (1, "u1", "done"),
        (3, "u3", "done"),
    ]


async def test_a_field_with_two_values_is_not_sent(
    sandbox: Sandbox, invoke: Invoke, put: Put
) -> None:
    """A row of JSON with a field twice fails, from a command and from a program."""
    twice = '{"customer_user_id": "u1", "email": "old@example.com", "email": "new@example.com"}'
    path = put("profiles.ndjson", f"{twice}\n")
    sampled = await asyncio.to_thread(invoke, "save", path, *BY, "--sample", "1")
    async with AdaptyClient(sandbox.api_key, base_url=sandbox.url) as adapty:
        report = await adapty.v2.profiles.bulk_update(InputFile(path), by="customer_user_id")

    assert 'cannot be sent: row: has the key "email" more than once' in sampled.stdout
    assert 'has the key "email" more than once' in str(report.failures[0].error)
    assert sandbox.arrivals() == []


def test_the_rows_of_an_export_that_failed_are_an_input(
    sandbox: Sandbox, invoke: Invoke, tmp_path: Path
) -> None:
    """The failures of a table lack the columns that do not matter, and can be sent again."""
    at = dt.datetime(2026, 1, 1, 8, tzinfo=dt.UTC)
    columns: dict[str, list[Any]] = {
        "rc_original_app_user_id": ["$RCAnonymousID:1"],
        "rc_last_seen_app_user_id_alias": ["u1"],
        "store": ["play_store"],
        "is_auto_renewable": [False],
        "product_identifier": ["coins"],
        "store_transaction_id": ["007"],
        "original_store_transaction_id": ["007"],
        "start_time": [at],
        "country": ["GB"],
        "purchased_currency": ["GBP"],
        "purchase_price_in_purchased_currency": [Decimal("3.990")],
        "late": [None],
    }
    path = write_parquet(tmp_path / "transactions.parquet", columns)
    failures = tmp_path / "failures.ndjson"
    ids = ("--column", "rc_last_seen_app_user_id_alias")
    command = ("import-transactions", *BY, *ids, "--from=revenuecat", "--map=late=refunded_at")
    samples = [json.loads(invoke(*command, path, "--sample=1", "--json").stdout)["requests"]]
    first = invoke(*command, path, "--failures", failures)
    samples += [json.loads(invoke(*command, failures, "--sample=1", "--json").stdout)["requests"]]
    sandbox.seed_profiles(["u1"])
    again = invoke(*command, failures)

    assert [first.exit_code, again.exit_code] == [1, 0], again.output
    assert "Columns left out" not in again.output
    assert samples[0] == samples[1]
    body = samples[0][0]["body"]
    assert body["price"] == {"country": "GB", "currency": "GBP", "value": 3.99}
    assert body["purchased_at"] == "2026-01-01T08:00:00+00:00"


def test_a_mapped_column_may_be_empty_in_all_rows_that_failed(
    sandbox: Sandbox, invoke: Invoke, put: Put, tmp_path: Path
) -> None:
    """The same command with the failures as its input grants the access."""
    path = put("grants.csv", "customer_user_id,access_level_id,until\nu1,premium,\n")
    failures = tmp_path / "failures.ndjson"
    command = (*BY, "--map", "until=expires_at")
    first = invoke("grant", path, *command, "--failures", failures)
    sandbox.seed_profiles(["u1"])
    again = invoke("grant", failures, *command)

    assert [first.exit_code, again.exit_code] == [1, 0], again.output
