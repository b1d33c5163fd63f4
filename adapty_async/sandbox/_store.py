"""The SQLite store of the sandbox: profiles of both APIs, events, and the log of arrivals."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast
from uuid import uuid4

import msgspec

_SCHEMA = """
CREATE TABLE IF NOT EXISTS profiles (
    number INTEGER PRIMARY KEY,
    profile_id TEXT NOT NULL UNIQUE,
    customer_user_id TEXT UNIQUE,  -- NULL for an anonymous profile
    attributes BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS mail_profiles (
    number INTEGER PRIMARY KEY,
    external_profile_id TEXT NOT NULL UNIQUE,
    customer_user_id TEXT,
    email TEXT,
    fields BLOB  -- NULL once erased: the identifiers stay, so that a retry finds them
);
CREATE INDEX IF NOT EXISTS mail_customer ON mail_profiles (customer_user_id);
CREATE INDEX IF NOT EXISTS mail_email ON mail_profiles (email);
CREATE INDEX IF NOT EXISTS mail_erased ON mail_profiles (number) WHERE fields IS NULL;
CREATE TABLE IF NOT EXISTS mail_events (
    number INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    fields BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS arrivals (
    number INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    api TEXT NOT NULL,
    identity TEXT,
    status INTEGER NOT NULL,
    fault TEXT,
    applied INTEGER NOT NULL
);
"""

_FIND = {
    by: f"SELECT profile_id, customer_user_id, attributes FROM profiles WHERE {by} = ?"  # noqa: S608 - names of ours
    for by in ("profile_id", "customer_user_id")
}
_ERASE = {
    by: f"UPDATE mail_profiles SET email = NULL, fields = NULL WHERE {by} = ?"  # noqa: S608 - names of ours
    # in the order of lookup that the documentation of the Mail API states
    for by in ("external_profile_id", "customer_user_id", "email")
}
_IDS = {
    "v1": (
        "SELECT number, customer_user_id FROM profiles "
        "WHERE number > ? AND customer_user_id IS NOT NULL ORDER BY number LIMIT 5000"
    ),
    "mail": (
        "SELECT number, external_profile_id FROM mail_profiles "
        "WHERE number > ? AND fields IS NOT NULL ORDER BY number LIMIT 5000"
    ),
}
# The number of the last profile of a slice, below which the next one begins.
_FLOOR = {
    "v1": "SELECT number FROM profiles WHERE number < ? ORDER BY number DESC LIMIT 1 OFFSET 4999",
    "mail": (
        "SELECT number FROM mail_profiles WHERE number < ? ORDER BY number DESC LIMIT 1 OFFSET 4999"
    ),
}
_SEARCH = {
    "v1": """
SELECT number, profile_id, customer_user_id, attributes FROM profiles
WHERE number < :before AND number >= :floor AND (
    profile_id LIKE :text ESCAPE '!' OR customer_user_id LIKE :text ESCAPE '!'
    OR CAST(attributes AS TEXT) LIKE :text ESCAPE '!'
)
ORDER BY number DESC LIMIT :limit
""",
    "mail": """
SELECT number, fields FROM mail_profiles
WHERE number < :before AND number >= :floor AND fields IS NOT NULL
AND CAST(fields AS TEXT) LIKE :text ESCAPE '!'
ORDER BY number DESC LIMIT :limit
""",
}
# Whole tables and the index of the erased are counted in milliseconds, while the page is open.
_STATE = """
SELECT (SELECT count(*) FROM profiles),
       (SELECT count(*) FROM mail_profiles)
       - (SELECT count(*) FROM mail_profiles WHERE fields IS NULL),
       (SELECT count(*) FROM mail_events)
"""


class Arrival(msgspec.Struct, frozen=True):
    """
    A log entry for one request that reached the sandbox.

    Attributes:
        number: the number of the request, from 1, in order of arrival.
        at: the time of arrival, in seconds since the epoch.
        method: the HTTP method.
        path: the path, without the query.
        api: ``v1``, ``v2``, ``web``, ``mail`` or ``export``; ``other`` for a path of none of them.
        identity: the identity header or the first identifier of the body; `None` without either.
        status: the status of the response; 0 if none was sent, or none has been sent yet.
        fault: the injected fault, such as ``502-html`` or ``reset``; `None` without one.
        applied: whether the operation was carried out, even if its response was lost.
    """

    number: int
    at: float
    method: str
    path: str
    api: str
    identity: str | None
    status: int
    fault: str | None
    applied: bool


class StoredProfile(NamedTuple):
    """A profile of the server-side API; its custom attributes are a dictionary."""

    profile_id: str
    customer_user_id: str | None
    attributes: dict[str, Any]


class Store:
    """A repository on one SQLite database; every statement is its own transaction."""

    def __init__(self, path: str, log_size: int) -> None:
        """
        Open `path`, or a new database in memory for `:memory:`; keep `log_size` arrivals.

        Raises:
            sqlite3.Error: the file cannot be opened, or is not a database of the sandbox.
        """
        # Tests may read a sandbox from another thread than the one that serves.
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._log_size = log_size
        try:
            if self._db.execute("PRAGMA application_id").fetchone() != (0,):
                raise sqlite3.DatabaseError("it is a database of another program")
            # The state has to outlive the process, but not a power failure.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = OFF")
            self._db.execute("PRAGMA foreign_keys = ON")  # deleting a profile deletes its rows
            self._db.executescript(_SCHEMA)
        except sqlite3.Error:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the database; one in memory is lost."""
        self._db.close()

    @property
    def connection(self) -> sqlite3.Connection:
        """The database, for the tables of version 2 of the server-side API."""
        return self._db

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all statements inside one transaction, which an exception rolls back."""
        self._db.execute("BEGIN")
        with self._db:
            yield

    # Server-side API

    def seed(self, customer_user_ids: Iterable[str]) -> int:
        """Add a profile without attributes for each new id, and return the number of them."""
        before = self._db.total_changes
        with self.transaction():  # ends also when the ids raise
            self._db.executemany(
                "INSERT OR IGNORE INTO profiles (profile_id, customer_user_id, attributes) "
                "VALUES (?, ?, '{}')",
                ((str(uuid4()), customer_user_id) for customer_user_id in customer_user_ids),
            )
        return self._db.total_changes - before

    def seed_anonymous(self, count: int) -> list[str]:
        """Add profiles without a customer user id, and return their profile ids."""
        ids = [str(uuid4()) for _ in range(count)]
        self._db.executemany(
            "INSERT INTO profiles (profile_id, attributes) VALUES (?, '{}')", zip(ids, strict=True)
        )
        return ids

    def find(self, by: str, value: str) -> StoredProfile | None:
        """Return the profile whose `profile_id` or `customer_user_id` is `value`."""
        row = self._db.execute(_FIND[by], (value,)).fetchone()
        return StoredProfile(row[0], row[1], msgspec.json.decode(row[2])) if row else None

    def put(self, profile: StoredProfile) -> None:
        """Add the profile, or replace attributes and customer user id of the stored one."""
        self._db.execute(
            "INSERT INTO profiles (profile_id, customer_user_id, attributes) VALUES (?, ?, ?) "
            "ON CONFLICT (profile_id) DO UPDATE SET attributes = excluded.attributes, "
            "customer_user_id = excluded.customer_user_id",
            (profile.profile_id, profile.customer_user_id, msgspec.json.encode(profile.attributes)),
        )

    def delete(self, profile_id: str) -> None:
        """Delete a profile."""
        self._db.execute("DELETE FROM profiles WHERE profile_id = ?", (profile_id,))

    def profiles_before(
        self, before: int, text: str, limit: int
    ) -> tuple[int, list[tuple[int, StoredProfile]]]:
        """
        Return the newest profiles below the number `before` that contain `text`, newest first.

        At most 5,000 profiles are searched, so that other requests wait no longer than for a page.
        The first item is the number below which the next search resumes; 0 at the end.
        """
        rows, resumes_at = self._search("v1", before, text, limit)
        return resumes_at, [
            (number, StoredProfile(profile_id, customer_user_id, msgspec.json.decode(attributes)))
            for number, profile_id, customer_user_id, attributes in rows
        ]

    def mail_profiles_before(
        self, before: int, text: str, limit: int
    ) -> tuple[int, list[tuple[int, dict[str, Any]]]]:
        """Return mail profiles that are not erased, as `profiles_before()` does."""
        rows, resumes_at = self._search("mail", before, text, limit)
        return resumes_at, [(number, msgspec.json.decode(fields)) for number, fields in rows]

    def _search(
        self, api: str, before: int, text: str, limit: int
    ) -> tuple[list[tuple[Any, ...]], int]:
        row = self._db.execute(_FLOOR[api], (before,)).fetchone()
        floor = row[0] if row else 0
        pattern = "%" + re.sub("([!%_])", r"!\1", text) + "%"
        values = {"before": before, "floor": floor, "text": pattern, "limit": limit}
        rows = self._db.execute(_SEARCH[api], values).fetchall()
        return rows, rows[-1][0] if len(rows) == limit else floor

    # Mail API

    def save_mail(self, fields: Mapping[str, Any]) -> None:
        """Add or update a profile: the first e-mail address stays; an erased profile stays so."""
        identity = fields["external_profile_id"]
        row = self._db.execute(
            "SELECT fields FROM mail_profiles WHERE external_profile_id = ?", (identity,)
        ).fetchone()
        if row == (None,):
            return
        stored = msgspec.json.decode(row[0]) if row else {"email": fields["email"]}
        merged = {**stored, **fields, "email": stored["email"]}
        self._db.execute(
            "INSERT INTO mail_profiles (external_profile_id, customer_user_id, email, fields) "
            "VALUES (?, ?, ?, ?) ON CONFLICT (external_profile_id) DO UPDATE SET "
            "customer_user_id = excluded.customer_user_id, fields = excluded.fields",
            (
                identity,
                merged.get("customer_user_id"),
                merged["email"],
                msgspec.json.encode(merged),
            ),
        )

    def erase_mail(self, identifiers: Mapping[str, str]) -> bool:
        """Erase the profile of the first identifier that matches; return whether one does."""
        return any(
            self._db.execute(_ERASE[by], (identifiers[by],)).rowcount > 0
            for by in _ERASE
            if by in identifiers
        )

    def mail_profile(self, external_profile_id: str) -> dict[str, Any] | None:
        """Return the fields of a profile; `None` if there is none, or it was erased."""
        row = self._db.execute(
            "SELECT fields FROM mail_profiles WHERE external_profile_id = ? AND fields IS NOT NULL",
            (external_profile_id,),
        ).fetchone()
        return msgspec.json.decode(row[0], type=dict[str, Any]) if row else None

    def add_event(self, fields: Mapping[str, Any]) -> None:
        """Add a transaction event, unless one with its `event_id` exists."""
        self._db.execute(
            "INSERT OR IGNORE INTO mail_events (event_id, fields) VALUES (?, ?)",
            (fields["event_id"], msgspec.json.encode(fields)),
        )

    def events(self) -> list[dict[str, Any]]:
        """Return the transaction events in the order in which they were first saved."""
        rows = self._db.execute("SELECT fields FROM mail_events ORDER BY number")
        return [msgspec.json.decode(fields) for (fields,) in rows]

    # Both

    def id_pages(self, api: str) -> Iterator[list[str]]:
        """Yield the ids of one API's profiles in pages, each read when it is needed."""
        last = 0
        while rows := self._db.execute(_IDS[api], (last,)).fetchall():
            last = rows[-1][0]
            yield [identity for _, identity in rows]

    def state(self) -> tuple[int, int, int]:
        """Count the server-side profiles, the mail profiles that are not erased, and the events."""
        profiles, mail_profiles, events = self._db.execute(_STATE).fetchone()
        return profiles, mail_profiles, events

    # Arrivals

    def log(self, arrival: Arrival) -> int:
        """Append an arrival, and return its new number; its own `number` is ignored."""
        cursor = self._db.execute(
            "INSERT INTO arrivals (at, method, path, api, identity, status, fault, applied) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            msgspec.structs.astuple(arrival)[1:],
        )
        number = cast("int", cursor.lastrowid)
        if number > self._log_size:
            self._db.execute("DELETE FROM arrivals WHERE number <= ?", (number - self._log_size,))
        return number

    def update_status(self, number: int, status: int) -> None:
        """Update the arrival `number` with the status of its response."""
        self._db.execute("UPDATE arrivals SET status = ? WHERE number = ?", (status, number))

    def arrivals(self, identity: str | None = None, path: str | None = None) -> list[Arrival]:
        """Return the logged arrivals, oldest first; `None` matches every identity or path."""
        return self._arrivals(
            "SELECT * FROM arrivals WHERE identity IS ifnull(?, identity) "
            "AND path = ifnull(?, path) ORDER BY number",
            identity,
            path,
        )

    def since(self, number: int, limit: int) -> list[Arrival]:
        """Return the latest arrivals after `number`, oldest first."""
        query = "SELECT * FROM arrivals WHERE number > ? ORDER BY number DESC LIMIT ?"
        return self._arrivals(query, number, limit)[::-1]

    def statuses(self, numbers: Collection[int]) -> dict[int, int]:
        """Return the statuses of those arrivals whose responses have been sent."""
        marks = ",".join("?" * len(numbers))
        query = f"SELECT number, status FROM arrivals WHERE status > 0 AND number IN ({marks})"  # noqa: S608 - question marks
        return dict(self._db.execute(query, tuple(numbers)))

    def arrival_pages(self) -> Iterator[list[Arrival]]:
        """Yield the logged arrivals in pages, oldest first, up to the newest one at the start."""
        newest = self._db.execute("SELECT max(number) FROM arrivals").fetchone()[0]
        last = 0
        while page := self._arrivals(
            "SELECT * FROM arrivals WHERE number > ? AND number <= ? ORDER BY number LIMIT 5000",
            last,
            newest,
        ):
            last = page[-1].number
            yield page

    def count(self) -> dict[int, int]:
        """Count the logged arrivals by status."""
        return dict(
            self._db.execute("SELECT status, count(*) FROM arrivals GROUP BY status ORDER BY 1")
        )

    def _arrivals(self, query: str, *values: object) -> list[Arrival]:
        rows = self._db.execute(query, values)
        return [_arrival(row) for row in rows]


def _arrival(row: tuple[Any, ...]) -> Arrival:
    *values, applied = row
    values.append(bool(applied))  # SQLite stores it as an integer
    return Arrival(*values)
