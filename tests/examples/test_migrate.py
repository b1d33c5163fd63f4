"""The example of a migration: users, purchases and grants, from CSV and from Parquet."""

from __future__ import annotations

import csv
import datetime as dt
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adapty_async import AdaptyClient
from adapty_async.bulk import Outcome, OutcomeStatus
from adapty_async.sandbox import Sandbox
from examples import migrate

Rows: TypeAlias = list[dict[str, Any]]
Write: TypeAlias = Callable[[Path, str, Rows], None]

_START = dt.datetime(2026, 1, 5, 12, 30)  # noqa: DTZ001  exports have no time zone
_FUTURE = dt.datetime(2090, 1, 1)  # noqa: DTZ001
_USERS = [f"user_{number}" for number in range(20)]


def write_csv(folder: Path, name: str, rows: Rows, delimiter: str = ",") -> None:
    """Write rows as CSV: nothing is an empty cell."""
    with (folder / f"{name}.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_semicolons(folder: Path, name: str, rows: Rows) -> None:
    """Write rows as CSV with semicolons, as RevenueCat does."""
    write_csv(folder, name, rows, ";")


def write_parquet(folder: Path, name: str, rows: Rows) -> None:
    """Write rows as Parquet: dates are timestamps, nothing is null."""
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")


def users() -> Rows:
    """Return the users of the other provider."""
    return [user_row(user) for user in _USERS]


def user_row(user: str) -> dict[str, Any]:
    """Return a user of the other provider."""
    return {"app_user_id": user, "email": f"{user}@example.com", "country": "DE"}


def purchases(**changes: Any) -> Rows:
    """
    Return a subscription of each user, lifetime access of somebody without a profile, and a refund.

    The first user has a renewal, the second a purchase in the sandbox of a store.
    """
    common = {
        "store": "app_store",
        "country": "US",
        "start_time": _START,
        "purchased_currency": "USD",
        "purchase_price_in_purchased_currency": "4.99",
        "refunded_at": None,
        "unsubscribe_detected_at": None,
        "is_sandbox": False,
    }
    subscriptions = [
        common
        | {
            "rc_original_app_user_id": user,
            "product_identifier": "premium_monthly",
            "store_transaction_id": f"20000{number}",
            "original_store_transaction_id": f"20000{number}",
            "end_time": _FUTURE,
        }
        for number, user in enumerate(_USERS[:10])
    ]
    lifetime = subscriptions[0] | {
        "rc_original_app_user_id": "new",
        "product_identifier": "premium_lifetime",
        "store_transaction_id": "7",
        "original_store_transaction_id": "7",
        "end_time": None,
    }
    refunded = lifetime | {
        "rc_original_app_user_id": "refunded",
        "store_transaction_id": "8",
        "original_store_transaction_id": "8",
        "refunded_at": _START + dt.timedelta(days=1),
    }
    renewal = subscriptions[0] | {
        "store_transaction_id": "200000-1",
        "start_time": _START + dt.timedelta(days=30),
        "unsubscribe_detected_at": _START + dt.timedelta(days=40),
    }
    test = subscriptions[1] | {
        "store_transaction_id": "9",
        "original_store_transaction_id": "9",
        "is_sandbox": True,
    }
    # a file need not be in the order of time
    return [renewal, test, *subscriptions, lifetime, refunded | changes]


def grants() -> Rows:
    """Return a grant with an end and one without."""
    return [
        {"app_user_id": _USERS[10], "access_level": "premium", "expires_at": None},
        {"app_user_id": _USERS[11], "access_level": "premium", "expires_at": _FUTURE},
    ]


def write_all(folder: Path) -> None:
    """Write the three files as CSV."""
    for name, rows in {"users": users(), "purchases": purchases(), "grants": grants()}.items():
        write_csv(folder, name, rows)


@pytest.fixture
async def sandbox(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    """Serve a sandbox that a client finds by its environment."""
    async with Sandbox() as serving:
        monkeypatch.setenv("ADAPTY_API_KEY", serving.api_key)
        monkeypatch.setenv("ADAPTY_BASE_URL", serving.url)
        yield serving


@pytest.mark.parametrize("write", [write_csv, write_semicolons, write_parquet])
async def test_a_migration_is_complete(sandbox: Sandbox, tmp_path: Path, write: Write) -> None:
    """Every user, purchase and grant arrives, and the same command again sends nothing."""
    for name, rows in {"users": users(), "purchases": purchases(), "grants": grants()}.items():
        write(tmp_path, name, rows)

    assert await migrate.migrate(tmp_path)
    sent = len(sandbox.arrivals())
    assert await migrate.migrate(tmp_path)
    assert len(sandbox.arrivals()) == sent
    assert sandbox.customer_user_ids() == {*_USERS, "new", "refunded"}
    async with AdaptyClient() as adapty:
        report = adapty.v2.profiles.bulk_get([*_USERS, "new"], by="customer_user_id")
        async with report as run:
            found = {each.item: each.result async for each in run if each.result}
        lost = await adapty.v2.profiles.get(customer_user_id="refunded")
    assert {user for user, profile in found.items() if profile.has_access("premium")} == {
        *_USERS[:12],
        "new",
    }
    assert found["user_0"].custom_attributes == {"migrated": "2026"}
    assert found["user_0"].total_revenue_usd == pytest.approx(2 * 4.99)
    (renewed,) = found["user_0"].subscriptions
    start = _START.replace(tzinfo=dt.UTC)
    assert renewed.store_transaction_id == "200000-1"
    assert renewed.originally_purchased_at == start
    assert renewed.purchased_at == start + dt.timedelta(days=30)
    assert renewed.renewal_cancelled_at is not None
    assert {
        each.store_transaction_id: each.environment for each in found["user_1"].subscriptions
    } == {"200001": "Production", "9": "Sandbox"}
    assert not lost.has_access("premium")


async def test_a_row_that_cannot_be_sent_is_named_and_corrected(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row with a wrong value does not stop the others; corrected, it alone is sent."""
    write_csv(tmp_path, "users", users())
    write_csv(tmp_path, "purchases", purchases(start_time="yesterday"))
    write_csv(tmp_path, "grants", grants())

    assert not await migrate.migrate(tmp_path)
    output = capsys.readouterr()
    assert "purchases: BulkReport(total=14, done=13, failed=1)" in output.out
    assert output.err.startswith("purchases, row 14: purchased_at: must be ")
    sent = len(sandbox.arrivals())
    write_csv(tmp_path, "purchases", purchases())
    assert await migrate.migrate(tmp_path)
    assert "purchases: BulkReport(total=14, done=1, skipped=13)" in capsys.readouterr().out
    assert {arrival.identity for arrival in sandbox.arrivals()[sent:]} == {"refunded"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"country": None}, "price.country: must not be empty", id="no country"),
        pytest.param({"is_sandbox": "maybe"}, "environment: must be ", id="unknown environment"),
        pytest.param({"start_time": None}, "purchased_at: must not be empty", id="no start"),
    ],
)
async def test_a_fact_that_is_missing_is_not_invented(
    sandbox: Sandbox,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A purchase without a country, known environment or start fails with the reason."""
    write_csv(tmp_path, "users", users())
    write_csv(tmp_path, "purchases", purchases(**changes))
    write_csv(tmp_path, "grants", grants())

    assert not await migrate.migrate(tmp_path)
    assert message in capsys.readouterr().err
    assert "refunded" not in sandbox.customer_user_ids()


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        pytest.param("2026-01-05 12:30:00", "2026-01-05T12:30:00+00:00", id="no zone"),
        pytest.param("2026-01-05T12:30:00Z", "2026-01-05T12:30:00+00:00", id="UTC"),
        pytest.param("2026-01-05 12:30:00+02", "2026-01-05T12:30:00+02:00", id="offset"),
    ],
)
def test_a_time_keeps_its_zone(time: str, expected: str) -> None:
    """Text without a zone is in UTC, as RevenueCat documents it."""
    assert migrate.utc(time) == dt.datetime.fromisoformat(expected)


@pytest.mark.parametrize("time", ["2026-01-05", "05.01.2026 12:30", "", None])
def test_text_that_is_no_time_is_left_to_the_library(time: str | None) -> None:
    """The library rejects it with the rule."""
    assert migrate.utc(time) == time


async def test_rows_that_fail_for_one_reason_are_shown_together(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reason has one line with its first row, and rows that no line names are counted."""
    write_csv(tmp_path, "users", [user_row(f"u{n}") | {"country": "usa"} for n in range(102)])
    write_csv(tmp_path, "purchases", purchases())
    write_csv(tmp_path, "grants", grants())
    sandbox.seed_profiles([grant["app_user_id"] for grant in grants()])

    assert not await migrate.migrate(tmp_path)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("users, row 1 and 99 more: store_country: must be ")
    assert second == "users: 2 more in users.ndjson"


async def test_rows_that_the_server_rejects_for_one_reason_are_shown_together(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each rejection has a request id of its own, which is in the outcomes file."""
    write_csv(tmp_path, "users", users())
    write_csv(tmp_path, "purchases", purchases())
    unknown = {"access_level": "unknown", "expires_at": None}
    write_csv(tmp_path, "grants", [{"app_user_id": user} | unknown for user in _USERS[:3]])

    assert not await migrate.migrate(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("grants, row 1 and 2 more: status 4")
    assert line.endswith("operation v2.access_levels.grant")


def test_progress_is_a_line_for_every_thousand_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """Files are long, and nothing else shows that a run is not stuck."""
    show = migrate.progress("users")
    for index in range(2500):
        show(Outcome(index, {}, OutcomeStatus.DONE))
    assert capsys.readouterr().err == "users: 1,000 rows\nusers: 2,000 rows\n"


async def test_a_migration_stops_at_the_first_file_that_cannot_go_on(
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a wrong key, the other files are not sent."""
    monkeypatch.setenv("ADAPTY_API_KEY", f"{sandbox.api_key}x")
    write_all(tmp_path)

    assert not await migrate.migrate(tmp_path)
    output = capsys.readouterr().out
    assert "stop_reason='key_rejected'" in output
    assert "purchases" not in output


async def test_server_errors_lose_nothing(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 0 means that every profile has its attributes, however many creations failed."""
    names = [f"user_{number}" for number in range(100)]
    write_csv(tmp_path, "users", [user_row(name) for name in names])
    period = purchases()[2]
    write_csv(
        tmp_path,
        "purchases",
        [
            period
            | {
                "rc_original_app_user_id": name,
                "store_transaction_id": f"{number}",
                "original_store_transaction_id": f"{number}",
            }
            for number, name in enumerate([*names, *(f"new_{number}" for number in range(30))])
        ],
    )
    write_csv(tmp_path, "grants", grants())
    sandbox.set_faults("error=10%,reset_after=2%")

    runs = 1
    while not await migrate.migrate(tmp_path):
        runs += 1
        assert runs < 20
    assert runs > 1
    assert "unknown=" in capsys.readouterr().out
    sandbox.set_faults("")
    async with (
        AdaptyClient() as adapty,
        adapty.v2.profiles.bulk_get(sandbox.customer_user_ids(), by="customer_user_id") as run,
    ):
        found = {each.item: each.result async for each in run if each.result}
    assert found.keys() == {*names, *(f"new_{number}" for number in range(30))}
    for name in names:
        stored = sandbox.profile(customer_user_id=name)
        assert stored is not None
        assert stored["email"] == f"{name}@example.com"
        assert stored["store_country"] == "DE"
        assert found[name].custom_attributes == {"migrated": "2026"}
    assert all(profile.has_access("premium") for profile in found.values())
    assert all(len(profile.subscriptions) == 1 for profile in found.values())


async def test_a_purchase_does_not_create_the_profile_of_a_listed_user(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """While a user's row cannot be sent, the purchase waits: its profile would be empty."""
    listed = users()
    write_all(tmp_path)
    write_csv(tmp_path, "users", [listed[0] | {"email": "x" * 300}, *listed[1:]])

    assert not await migrate.migrate(tmp_path)
    assert "user_0" not in sandbox.customer_user_ids()
    write_csv(tmp_path, "users", listed)
    assert await migrate.migrate(tmp_path)
    async with AdaptyClient() as adapty:
        profile = await adapty.v2.profiles.get(customer_user_id="user_0")
    assert profile.custom_attributes == {"migrated": "2026"}
    assert profile.has_access("premium")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param(
            "grants",
            "app_user_id,access_level,expires_at\nuser_1,premium,\nuser_2,premium\n",
            "grants.csv, line 3: 2 cells for 3 columns",
            id="short row",
        ),
        pytest.param(
            "grants",
            "app_user_id,access_level,expires_at\nuser_1,premium,,x\n",
            "grants.csv, line 2: 4 cells for 3 columns",
            id="long row",
        ),
        pytest.param(
            "grants",
            "app_user_id,access_level,expires_at\nuser_1,premium,",
            "the last row has no line break",
            id="torn row",
        ),
        pytest.param(
            "users", "app_user_id,email\n", "must have one column country", id="no column"
        ),
        pytest.param(
            "users",
            "app_user_id,email,country,email\n",
            "must have one column email",
            id="column twice",
        ),
        pytest.param("users", "", "must have one column app_user_id", id="empty"),
        pytest.param("users", 'app_user_id,email,country\n"a"b,,\n', "expected", id="not CSV"),
        pytest.param("users", None, "No such file", id="no file"),
    ],
)
def test_a_file_that_is_not_whole_sends_nothing(
    adapty_sandbox: Sandbox,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str | None,
    message: str,
) -> None:
    """A torn or wrong file has exit code 2 and one line, before anything of another is sent."""
    write_all(tmp_path)
    path = tmp_path / f"{name}.csv"
    path.unlink()
    if text is not None:
        path.write_text(text)

    assert migrate.main([str(tmp_path)]) == 2
    assert not adapty_sandbox.arrivals()
    errors = capsys.readouterr().err
    assert errors.startswith("migrate.py: ")
    assert message in errors
    assert errors.count("\n") == 1


def test_a_parquet_file_that_is_none_is_named(
    adapty_sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file with another content than its name says is named in the one line."""
    write_all(tmp_path)
    (tmp_path / "grants.csv").rename(tmp_path / "grants.parquet")

    assert migrate.main([str(tmp_path)]) == 2
    assert "grants.parquet: " in capsys.readouterr().err
    assert not adapty_sandbox.arrivals()


def test_two_files_of_one_kind_are_rejected(
    adapty_sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file is left out in silence because there is another one of its name."""
    write_all(tmp_path)
    write_parquet(tmp_path, "grants", grants())

    assert migrate.main([str(tmp_path)]) == 2
    assert "grants.csv: there is grants.parquet, too" in capsys.readouterr().err
    assert not adapty_sandbox.arrivals()


def test_a_wrong_call_or_setting_is_one_line(
    adapty_sandbox: Sandbox,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No arguments, no key and a journal that is none have exit code 2, and no traceback."""
    write_all(tmp_path)

    assert migrate.main([]) == 2
    assert capsys.readouterr().err == "Usage: migrate.py FOLDER\n"
    (tmp_path / "users.db").write_bytes(b"no journal" * 100)
    assert migrate.main([str(tmp_path)]) == 2
    assert "users.db" in capsys.readouterr().err
    (tmp_path / "users.db").unlink()
    monkeypatch.delenv("ADAPTY_API_KEY")
    assert migrate.main([str(tmp_path)]) == 2
    assert "ADAPTY_API_KEY" in capsys.readouterr().err
    assert not adapty_sandbox.arrivals()
