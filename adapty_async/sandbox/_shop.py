"""The tables of version 2 and the web API: purchases, access, paywalls, currencies, views."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec

_SCHEMA = """
CREATE TABLE IF NOT EXISTS purchases (
    number INTEGER PRIMARY KEY,
    profile_id TEXT NOT NULL REFERENCES profiles (profile_id) ON DELETE CASCADE,
    store_transaction_id TEXT NOT NULL,
    fields BLOB NOT NULL,
    UNIQUE (profile_id, store_transaction_id)
);
CREATE TABLE IF NOT EXISTS access (
    number INTEGER PRIMARY KEY,
    profile_id TEXT NOT NULL REFERENCES profiles (profile_id) ON DELETE CASCADE,
    access_level_id TEXT NOT NULL,
    fields BLOB NOT NULL,
    UNIQUE (profile_id, access_level_id)
);
CREATE TABLE IF NOT EXISTS settings (
    profile_id TEXT NOT NULL REFERENCES profiles (profile_id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    fields BLOB NOT NULL,
    PRIMARY KEY (profile_id, name)
);
CREATE TABLE IF NOT EXISTS access_levels (access_level_id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS products (
    store_product_id TEXT PRIMARY KEY,
    access_level_id TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS paywalls (
    number INTEGER PRIMARY KEY,
    paywall_id TEXT NOT NULL UNIQUE,
    fields BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS placements (
    placement_id TEXT PRIMARY KEY,
    paywall_id TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS views (
    number INTEGER PRIMARY KEY,
    profile_id TEXT NOT NULL REFERENCES profiles (profile_id) ON DELETE CASCADE,
    fields BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS currencies (
    number INTEGER PRIMARY KEY,
    code TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS currency_transactions (
    number INTEGER PRIMARY KEY,
    profile_id TEXT NOT NULL REFERENCES profiles (profile_id) ON DELETE CASCADE,
    fields BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS currency_changes (
    transaction_number INTEGER NOT NULL
        REFERENCES currency_transactions (number) ON DELETE CASCADE,
    profile_id TEXT NOT NULL,
    code TEXT NOT NULL,
    amount INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS currency_of_profile ON currency_changes (profile_id, code);
CREATE TABLE IF NOT EXISTS idempotency_keys (
    profile_id TEXT NOT NULL REFERENCES profiles (profile_id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    at REAL NOT NULL,
    response BLOB NOT NULL,
    PRIMARY KEY (profile_id, key)
);
"""

_HISTORY = """
SELECT number, fields FROM currency_transactions AS t
WHERE profile_id = :profile_id AND number < :before AND (
    :code IS NULL OR EXISTS (
        SELECT 1 FROM currency_changes AS c WHERE c.transaction_number = t.number AND c.code = :code
    )
)
ORDER BY number DESC LIMIT :limit
"""


class IdempotencyRecord(NamedTuple):
    """The record of an idempotency key: the time of its use, and the response."""

    at: float
    response: bytes


class Shop:
    """A repository of the tables of version 2, in the database of the profiles."""

    def __init__(
        self, connection: sqlite3.Connection, unknown_product_level: str | None = None
    ) -> None:
        """Use an open database, and add the content of a new app to it; see `access_level_of`."""
        self._unknown_product_level = unknown_product_level
        self._db = connection
        self._db.executescript(_SCHEMA)
        if not self._rows("SELECT 1 FROM access_levels"):
            self.add_access_levels("premium")
            self.add_products({"premium_monthly": "premium", "premium_lifetime": "premium"})
            self.add_currencies({"COINS": "Gold Coins", "GEMS": "Gems", "ENERGY": "Energy"})
            ids = self.add_paywalls("Welcome", "Spring Sale", "Settings")
            self.add_placements(dict(zip(("onboarding", "sale", "settings"), ids, strict=True)))

    def _rows(self, query: str, *values: object) -> list[Any]:
        return self._db.execute(query, values).fetchall()

    # The app

    def add_access_levels(self, *ids: str) -> None:
        """Add access levels that can be granted and revoked."""
        self._db.executemany(
            "INSERT OR IGNORE INTO access_levels VALUES (?)", ((one,) for one in ids)
        )

    def has_access_level(self, access_level_id: str) -> bool:
        """Return whether the app has that access level."""
        query = "SELECT 1 FROM access_levels WHERE access_level_id = ?"
        return bool(self._rows(query, access_level_id))

    def add_products(self, products: Mapping[str, str]) -> None:
        """Add products, each with the access level that it grants."""
        self._db.executemany("INSERT OR REPLACE INTO products VALUES (?, ?)", products.items())

    def access_level_of(self, store_product_id: str) -> str | None:
        """
        Return the access level that a product grants.

        An unknown product grants `unknown_product_level`; `None` is no access.
        """
        query = "SELECT access_level_id FROM products WHERE store_product_id = ?"
        rows = self._rows(query, store_product_id)
        return rows[0][0] if rows else self._unknown_product_level

    def add_currencies(self, currencies: Mapping[str, str]) -> None:
        """Add virtual currencies: a mapping of codes to names."""
        self._db.executemany(
            "INSERT OR REPLACE INTO currencies (code, name) VALUES (?, ?)", currencies.items()
        )

    def currencies(self) -> dict[str, str]:
        """Return the names of the virtual currencies by code."""
        return dict(self._rows("SELECT code, name FROM currencies ORDER BY number"))

    def add_paywalls(self, *titles: str) -> list[str]:
        """Add paywalls, and return their ids."""
        ids = [str(uuid4()) for _ in titles]
        for paywall_id, title in zip(ids, titles, strict=True):
            self.put_paywall(paywall_id, {"title": title, "remote_configs": []})
        return ids

    def add_placements(self, placements: Mapping[str, str]) -> None:
        """Add placements, each with the id of the paywall that it shows."""
        self._db.executemany("INSERT OR REPLACE INTO placements VALUES (?, ?)", placements.items())

    def paywall_at(self, placement_id: str) -> tuple[str, dict[str, Any]] | None:
        """Return id and fields of the paywall that a placement shows; `None` if it shows none."""
        query = (
            "SELECT paywall_id, fields FROM placements JOIN paywalls USING (paywall_id) "
            "WHERE placement_id = ?"
        )
        rows = self._rows(query, placement_id)
        return (rows[0][0], msgspec.json.decode(rows[0][1])) if rows else None

    def product_ids(self) -> list[str]:
        """Return the ids of the products in their stores."""
        query = "SELECT store_product_id FROM products ORDER BY store_product_id"
        return [one for (one,) in self._rows(query)]

    def put_paywall(self, paywall_id: str, fields: Mapping[str, Any]) -> None:
        """Add or replace a paywall."""
        self._db.execute(
            "INSERT INTO paywalls (paywall_id, fields) VALUES (?, ?) "
            "ON CONFLICT (paywall_id) DO UPDATE SET fields = excluded.fields",
            (paywall_id, msgspec.json.encode(fields)),
        )

    def paywall(self, paywall_id: str) -> dict[str, Any] | None:
        """Return the fields of a paywall; `None` if there is none."""
        rows = self._rows("SELECT fields FROM paywalls WHERE paywall_id = ?", paywall_id)
        return msgspec.json.decode(rows[0][0], type=dict[str, Any]) if rows else None

    def paywalls(self, offset: int, limit: int) -> tuple[int, list[tuple[str, dict[str, Any]]]]:
        """Return the number of paywalls, and one page of them with their ids."""
        [(count,)] = self._rows("SELECT count(*) FROM paywalls")
        query = "SELECT paywall_id, fields FROM paywalls ORDER BY number LIMIT ? OFFSET ?"
        rows = self._rows(query, limit, offset)
        return count, [(paywall_id, msgspec.json.decode(fields)) for paywall_id, fields in rows]

    # Profiles

    def put_purchase(self, profile_id: str, fields: Mapping[str, Any]) -> None:
        """Add a purchase, or replace the one with its `store_transaction_id`."""
        self._db.execute(
            "INSERT INTO purchases (profile_id, store_transaction_id, fields) VALUES (?, ?, ?) "
            "ON CONFLICT (profile_id, store_transaction_id) DO UPDATE SET fields = excluded.fields",
            (profile_id, fields["store_transaction_id"], msgspec.json.encode(fields)),
        )

    def purchases(self, profile_id: str) -> list[dict[str, Any]]:
        """Return the purchases of a profile, in the order in which they were first set."""
        query = "SELECT fields FROM purchases WHERE profile_id = ? ORDER BY number"
        return [msgspec.json.decode(fields) for (fields,) in self._rows(query, profile_id)]

    def put_access(self, profile_id: str, fields: Mapping[str, Any]) -> None:
        """Add an access level to a profile, or replace it."""
        self._db.execute(
            "INSERT INTO access (profile_id, access_level_id, fields) VALUES (?, ?, ?) "
            "ON CONFLICT (profile_id, access_level_id) DO UPDATE SET fields = excluded.fields",
            (profile_id, fields["access_level_id"], msgspec.json.encode(fields)),
        )

    def access(self, profile_id: str) -> dict[str, dict[str, Any]]:
        """Return the access levels of a profile by id."""
        query = "SELECT access_level_id, fields FROM access WHERE profile_id = ? ORDER BY number"
        return {one: msgspec.json.decode(fields) for one, fields in self._rows(query, profile_id)}

    def put_settings(self, profile_id: str, name: str, fields: Mapping[str, Any]) -> None:
        """Replace the settings of that name."""
        self._db.execute(
            "INSERT OR REPLACE INTO settings VALUES (?, ?, ?)",
            (profile_id, name, msgspec.json.encode(fields)),
        )

    def settings(self, profile_id: str, name: str) -> dict[str, Any]:
        """Return the settings of that name; an empty dictionary if there are none."""
        query = "SELECT fields FROM settings WHERE profile_id = ? AND name = ?"
        rows = self._rows(query, profile_id, name)
        return msgspec.json.decode(rows[0][0], type=dict[str, Any]) if rows else {}

    def add_view(self, profile_id: str, fields: Mapping[str, Any]) -> None:
        """Add a view of a paywall."""
        self._db.execute(
            "INSERT INTO views (profile_id, fields) VALUES (?, ?)",
            (profile_id, msgspec.json.encode(fields)),
        )

    def views(self) -> list[dict[str, Any]]:
        """Return the views of paywalls in the order in which they were recorded."""
        rows = self._rows("SELECT fields FROM views ORDER BY number")
        return [msgspec.json.decode(fields) for (fields,) in rows]

    # Virtual currencies

    def balances(self, profile_id: str) -> dict[str, int]:
        """Return the balances of a profile, by code, of the currencies that it ever had."""
        query = "SELECT code, sum(amount) FROM currency_changes WHERE profile_id = ? GROUP BY code"
        return dict(self._rows(query, profile_id))

    def idempotency_record(
        self, profile_id: str, key: str, since: float
    ) -> IdempotencyRecord | None:
        """Return the record of a key if it was used at or after `since`."""
        query = (
            "SELECT at, response FROM idempotency_keys WHERE profile_id = ? AND key = ? AND at >= ?"
        )
        rows = self._rows(query, profile_id, key, since)
        return IdempotencyRecord(*rows[0]) if rows else None

    def add_currency_transaction(
        self,
        profile_id: str,
        fields: Mapping[str, Any],
        changes: Iterable[tuple[str, int]],
        record: tuple[str, IdempotencyRecord] | None,
    ) -> None:
        """Add a transaction, its changes of balances and the record of its key atomically."""
        self._db.execute("BEGIN")
        with self._db:
            number = self._db.execute(
                "INSERT INTO currency_transactions (profile_id, fields) VALUES (?, ?)",
                (profile_id, msgspec.json.encode(fields)),
            ).lastrowid
            self._db.executemany(
                "INSERT INTO currency_changes VALUES (?, ?, ?, ?)",
                ((number, profile_id, code, amount) for code, amount in changes),
            )
            if record is not None:
                key, (at, response) = record
                self._db.execute(
                    "INSERT OR REPLACE INTO idempotency_keys VALUES (?, ?, ?, ?)",
                    (profile_id, key, at, response),
                )

    def currency_history(
        self, profile_id: str, code: str | None, before: int, limit: int
    ) -> list[tuple[int, dict[str, Any]]]:
        """Return at most `limit` transactions below the number `before`, newest first."""
        values = {"profile_id": profile_id, "code": code, "before": before, "limit": limit}
        rows = self._db.execute(_HISTORY, values).fetchall()
        return [(number, msgspec.json.decode(fields)) for number, fields in rows]
