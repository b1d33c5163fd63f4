"""
Migrate users, purchases and granted access levels from another provider to Adapty.

``python migrate.py export`` reads the files ``users``, ``purchases`` and ``grants`` in the folder
``export``, each ``.csv`` or ``.parquet``. The purchases have the columns of RevenueCat's scheduled
exports, and all transactions of a subscription, since the first one has the time of its start.
Change `COLUMNS`, `user_call`, `purchase_call` and `grant_call` for other files. The key is in
ADAPTY_API_KEY. A grant is for ever if its cell ``expires_at`` is there and empty; a CSV file with a
row of too few or too many cells, or without a line break at its end, is rejected.

The folder then also has, for each file, a journal (``.db``) and the outcome of each row
(``.ndjson``, with ids). A line after every 1,000 rows shows how far a file is. After Ctrl-C, a
crash, a failure or a correction of the file, the same command sends the rows that are not done: run
it until its exit code is 0. A user's profile is created, or gets the attributes of the row if it
exists. A purchase creates a profile only for somebody who is not among the users. A purchase
without a country fails, since Adapty needs it with the price.

Exit codes: 0 every row is done, 1 some are not, 2 a wrong call, file or setting, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import csv
import datetime as dt
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from adapty_async import AdaptyClient, Operation, v2
from adapty_async.bulk import BulkReport, Outcome
from adapty_async.errors import AdaptyError, InvalidInputError

Row = dict[str, Any]

# The columns that each file has at least.
COLUMNS = {
    "users": "app_user_id email country",
    "purchases": "rc_original_app_user_id country product_identifier start_time end_time store "
    "purchased_currency purchase_price_in_purchased_currency store_transaction_id "
    "original_store_transaction_id refunded_at unsubscribe_detected_at is_sandbox",
    "grants": "app_user_id access_level expires_at",
}

# The environments by the texts of a flag; version 4 of the exports introduced the longer ones.
ENVIRONMENTS = {"true": "Sandbox", "t": "Sandbox", "false": "Production", "f": "Production"}


def user_call(row: Row) -> Operation[v2.Profile]:
    """Return the call that creates the profile of a user, or updates it if it exists."""
    attributes = v2.ProfileAttributes(
        email=row["email"] or None,
        store_country=row["country"] or None,
        custom_attributes={"migrated": "2026"},
    )
    return v2.ensure_profile(attributes, customer_user_id=row["app_user_id"])


def first_starts(purchases: Iterable[Row]) -> dict[str, Any]:
    """Return the start of each subscription by the id of its first transaction."""
    found: dict[str, Any] = {}
    for row in purchases:
        first, start = row["original_store_transaction_id"], row["start_time"]
        if start:
            found[first] = min(found.get(first, start), start)
    return found


def purchase_call(row: Row, starts: dict[str, Any], users: set[str]) -> Operation[v2.Profile]:
    """Return the call that records a one-time purchase, or one period of a subscription."""
    first, end, refund = row["original_store_transaction_id"], row["end_time"], row["refunded_at"]
    sandbox = str(row["is_sandbox"])
    facts: dict[str, Any] = {
        "store": row["store"],
        "environment": ENVIRONMENTS.get(sandbox.lower(), sandbox),
        "store_product_id": row["product_identifier"],
        "store_transaction_id": row["store_transaction_id"],
        "store_original_transaction_id": first,
        "purchased_at": utc(row["start_time"]),
        "price": v2.Price(
            country=row["country"],
            currency=row["purchased_currency"],
            value=row["purchase_price_in_purchased_currency"],
        ),
    }
    if refund:
        facts |= {"refunded_at": utc(refund), "cancellation_reason": "refund"}
    kind: type[v2.OneTimePurchase | v2.SubscriptionPurchase] = v2.OneTimePurchase
    if end:
        kind = v2.SubscriptionPurchase
        facts |= {
            "originally_purchased_at": utc(starts.get(first)),
            "expires_at": utc(end),
            "renew_status": not row["unsubscribe_detected_at"],
        }
    user = row["rc_original_app_user_id"]
    # a profile that a purchase creates has no attributes
    missing = user not in users
    return v2.set_transaction(kind(**facts), customer_user_id=user, create_missing=missing)


def grant_call(row: Row) -> Operation[v2.Profile]:
    """Return the call that grants an access level, without a date for ever."""
    return v2.grant_access_level(
        row["access_level"],
        expires_at=utc(row["expires_at"] or None),
        customer_user_id=row["app_user_id"],
    )


def utc(time: Any) -> Any:
    """Return a date and time with its time zone, UTC if it has none; other values as they are."""
    if isinstance(time, str) and ":" in time:
        with contextlib.suppress(ValueError):
            time = dt.datetime.fromisoformat(time)
    if isinstance(time, dt.datetime) and time.tzinfo is None:
        return time.replace(tzinfo=dt.UTC)
    return time


def read(folder: Path, name: str) -> Iterator[Row]:
    """Yield the rows of a file, a part of it at a time."""
    table, text = folder / f"{name}.parquet", folder / f"{name}.csv"
    if table.exists() and text.exists():
        raise InvalidInputError(f"{text}", f"there is {table.name}, too: which of them is it?")
    path = table if table.exists() else text
    try:
        yield from (read_parquet if path == table else read_csv)(path, name)
    except (csv.Error, UnicodeError, pa.ArrowException) as error:
        raise InvalidInputError(f"{path}", f"{error}") from None


def read_parquet(path: Path, name: str) -> Iterator[Row]:
    """Yield the rows of a Parquet file."""
    with pq.ParquetFile(path) as file:
        require_columns(path, name, file.schema_arrow.names)
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def read_csv(path: Path, name: str) -> Iterator[Row]:
    """Yield the rows of a CSV file, each with a cell for every column."""
    line = ""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        delimiter = ";" if ";" in lines.readline() else ","
        lines.seek(0)
        rows = csv.reader((line := each for each in lines), delimiter=delimiter, strict=True)
        columns = next(rows, [])
        require_columns(path, name, columns)
        for cells in filter(None, rows):
            if len(cells) != len(columns):
                where = f"{path}, line {rows.line_num}"
                raise InvalidInputError(where, f"{len(cells)} cells for {len(columns)} columns")
            if not line.endswith(("\n", "\r")):
                raise InvalidInputError(f"{path}", "the last row has no line break: is it whole?")
            yield dict(zip(columns, cells, strict=True))


def require_columns(path: Path, name: str, columns: list[str]) -> None:
    """Require that a file has every column once."""
    for column in COLUMNS[name].split():
        if columns.count(column) != 1:
            raise InvalidInputError(f"{path}", f"must have one column {column}")


def progress(name: str) -> Callable[[Outcome[Row, v2.Profile]], None]:
    """Return a callback that prints a line after every 1,000 rows."""
    numbers = itertools.count(1)

    def show(_: Outcome[Row, v2.Profile]) -> None:
        if (number := next(numbers)) % 1000 == 0:
            print(f"{name}: {number:,} rows", file=sys.stderr)

    return show


def show(name: str, report: BulkReport[Row, v2.Profile]) -> None:
    """Print the counts of a run, and the reasons of failures with their first row."""
    print(f"{name}: {report}")
    rows: dict[str, list[int]] = {}
    for failure in report.failures:
        # equal but for the number of attempts and the request id, which the outcomes file has
        reason = str(failure.error).partition(", attempts ")[0]
        rows.setdefault(reason, []).append(failure.index + 1)
    for error, (first, *others) in rows.items():
        more = f" and {len(others)} more" if others else ""
        print(f"{name}, row {first}{more}: {error}", file=sys.stderr)
    if report.failures_omitted:
        print(f"{name}: {report.failures_omitted} more in {name}.ndjson", file=sys.stderr)


async def migrate(folder: Path) -> bool:
    """Send all rows, in the order of their dependence; return whether every one is done."""
    # every file is read to its end before anything is sent
    users = {row["app_user_id"] for row in read(folder, "users")}
    starts = first_starts(read(folder, "purchases"))
    collections.deque(read(folder, "grants"), maxlen=0)
    calls: dict[str, Callable[[Row], Operation[v2.Profile]]] = {
        "users": user_call,
        "purchases": lambda row: purchase_call(row, starts, users),
        "grants": grant_call,
    }
    complete = True
    async with AdaptyClient() as adapty:
        for name, build in calls.items():
            journal = folder / f"{name}.db"
            report = await adapty.bulk(
                read(folder, name),
                build=build,
                name=f"migrate {name}",
                journal=journal,
                outcomes=folder / f"{name}.ndjson",
                on_outcome=progress(name),
            )
            show(name, report)
            complete &= report.ok
            if report.unknown:
                # No profile was found after its creation was lost, and a journal lets nothing be
                # created twice. These calls may be sent twice: the next run starts fresh.
                journal.unlink()
            if report.stop_reason is not None:
                break
    return complete


def main(arguments: list[str]) -> int:
    """Migrate the files in a folder, and return the exit code."""
    if len(arguments) != 1:
        print("Usage: migrate.py FOLDER", file=sys.stderr)
        return 2
    try:
        return 0 if asyncio.run(migrate(Path(arguments[0]))) else 1
    except (AdaptyError, OSError) as error:
        print(f"migrate.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. The same command resumes.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
