"""
The revealed types of bulk methods whose items are files and data frames.

None of this code is executed; mypy and pyright check it.
"""

from __future__ import annotations

from typing import assert_type

import polars as pl
import pyarrow as pa

from adapty_async import AdaptyClient, AdaptyMailClient, BulkReport, MailProfile
from adapty_async.files import InputFile, TableSource
from adapty_async.v2 import AccessGrant, Profile, ProfileAttributes, Transaction


async def frames(adapty: AdaptyClient, frame: pl.DataFrame, table: pa.Table) -> None:
    """Pass data frames to bulk methods."""
    profiles = adapty.v2.profiles
    assert_type(await profiles.bulk_delete(frame, by="profile_id"), BulkReport[str, None])
    assert_type(await profiles.bulk_delete(frame["id"], by="profile_id"), BulkReport[str, None])
    assert_type(await profiles.bulk_get(table, by="profile_id"), BulkReport[str, Profile])
    assert_type(
        await profiles.bulk_update(frame, by="profile_id"),
        BulkReport[tuple[str, ProfileAttributes], Profile],
    )


async def files(adapty: AdaptyClient, mail: AdaptyMailClient) -> None:
    """Pass files to bulk methods."""
    source: TableSource = InputFile(
        "transactions.parquet",
        columns={"product_identifier": "store_product_id", "id": ("customer_user_id", "store")},
        constants={"renew_status": "true"},
        preset="revenuecat",
        ignore_unknown=True,
    )
    assert_type(
        await adapty.v2.transactions.bulk_set(source, by="customer_user_id"),
        BulkReport[tuple[str, Transaction], Profile],
    )
    assert_type(
        await adapty.v2.access_levels.bulk_grant(InputFile("ids.xlsx", sheet="a"), by="profile_id"),
        BulkReport[tuple[str, AccessGrant], Profile],
    )
    assert_type(
        await mail.profiles.bulk_save(InputFile("users.csv", encoding="cp1252")),
        BulkReport[MailProfile, None],
    )
    assert_type(await mail.profiles.bulk_delete(source, by="email"), BulkReport[str, None])
