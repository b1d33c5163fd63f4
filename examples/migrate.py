"""
Migrate users, purchases and granted access levels from another provider to Adapty.

``python migrate.py export`` reads the files ``users``, ``purchases`` and ``grants`` in the folder
``export``, each ``.csv`` or ``.parquet``. The purchases have the columns of RevenueCat's scheduled
exports, and all transactions of a subscription, since the first one has the time of its start.
Change `user_call`, `purchase_call` and `grant_call` for other files. The key is in ADAPTY_API_KEY.

The folder then also has, for each file, a journal (``.db``) and the outcome of each row
(``.ndjson``, with ids). After Ctrl-C, a crash or a correction of the file, the same command sends
the rows that are not done. A profile that exists is not changed; a purchase of a user without a
profile creates one. A purchase without a country fails, since Adapty needs it with the price.

Exit codes: 0 every row is done, 1 some are not, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from adapty_async import AdaptyClient, Operation, v2

Row = dict[str, Any]

# The environments by the texts of a flag; version 4 of the exports introduced the longer ones.
ENVIRONMENTS = {"true": "Sandbox", "t": "Sandbox", "false": "Production", "f": "Production"}


def user_call(row: Row) -> Operation[v2.Profile]:
    """Return the call that creates the profile of a user if there is none."""
    attributes = v2.ProfileAttributes(
        email=row["email"] or None,
        store_country=row["country"] or None,
        custom_attributes={"migrated": "2026"},
    )
    return v2.get_or_create_profile(attributes, customer_user_id=row["app_user_id"])


def first_starts(purchases: Iterable[Row]) -> dict[str, Any]:
    """Return the start of each subscription by the id of its first transaction."""
    found: dict[str, Any] = {}
    for row in purchases:
        first, start = row["original_store_transaction_id"], row["start_time"]
        if start:
            found[first] = min(found.get(first, start), start)
    return found


def purchase_call(row: Row, starts: dict[str, Any]) -> Operation[v2.Profile]:
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
    return v2.set_transaction(kind(**facts), customer_user_id=user, create_missing=True)


def grant_call(row: Row) -> Operation[v2.Profile]:
    """Return the call that grants an access level, without a date for ever."""
    return v2.grant_access_level(
        row["access_level"],
        expires_at=utc(row["expires_at"] or None),
        customer_user_id=row["app_user_id"],
    )


def utc(time: Any) -> Any:
    """Return a date and time with a time zone; text, and a datetime without one, is in UTC."""
    if isinstance(time, str):
        return f"{time.replace(' ', 'T')}Z"
    is_naive = isinstance(time, dt.datetime) and time.tzinfo is None
    return time.replace(tzinfo=dt.UTC) if is_naive else time


def read(folder: Path, name: str) -> Iterator[Row]:
    """Yield the rows of a file, a part of it at a time."""
    table = folder / f"{name}.parquet"
    if table.exists():
        with pq.ParquetFile(table) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
        return
    with (folder / f"{name}.csv").open(encoding="utf-8-sig", newline="") as lines:
        delimiter = ";" if ";" in lines.readline() else ","
        lines.seek(0)
        yield from csv.DictReader(lines, delimiter=delimiter, strict=True)


async def migrate(folder: Path) -> bool:
    """Send all rows, in the order of their dependence; return whether every one is done."""
    starts: dict[str, Any] = {}
    calls: dict[str, Callable[[Row], Operation[v2.Profile]]] = {
        "users": user_call,
        "purchases": lambda row: purchase_call(row, starts),
        "grants": grant_call,
    }
    complete = True
    async with AdaptyClient() as adapty:
        for name, build in calls.items():
            if name == "purchases":
                starts |= first_starts(read(folder, name))
            report = await adapty.bulk(
                read(folder, name),
                build=build,
                name=f"migrate {name}",
                journal=folder / f"{name}.db",
                outcomes=folder / f"{name}.ndjson",
            )
            print(f"{name}: {report}")
            for failure in report.failures:
                print(f"{name}, row {failure.index + 1}: {failure.error}", file=sys.stderr)
            complete &= report.ok
            if report.stop_reason is not None:
                break
    return complete


if __name__ == "__main__":
    try:
        sys.exit(0 if asyncio.run(migrate(Path(sys.argv[1]))) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
