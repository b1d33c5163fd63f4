"""An input that a query of a PostgreSQL database returns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from adapty_async._runtime.postgres import connect_options, explain_failure
from adapty_async.errors import ConfigError, InvalidInputError
from adapty_async.jobs._errors import PartChangedError, StoreUnavailableError
from adapty_async.jobs._model import PartPlan, Plan
from adapty_async.jobs._sources import Item, new_digest, require_part_size

# Seconds to connect to each host of the database, and without a packet from its machine.
_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 60.0
# Rows that one exchange with the server returns.
_FETCHED_ROWS = 10_000


class Query:
    """
    The ids that a query of a PostgreSQL database returns, divided into ranges of a key.

    Every worker needs the database. Neither its address nor the query is in the job store.

    Args:
        url: the address of the database.
        sql: a query with two columns: a unique whole number, and the id. The number must not be
            the id, since the store holds ranges of it. Such as
            ``SELECT number, customer_user_id FROM users WHERE country = 'DE'``.

    Raises:
        ConfigError: the address is not valid, or the query is empty or has a semicolon.
    """

    def __init__(self, url: str, sql: str) -> None:
        if not sql.strip() or ";" in sql:
            raise ConfigError("sql must be one SELECT, without a semicolon")
        try:
            self._options = connect_options(url, connect=_CONNECT_SECONDS, silence=_SILENCE_SECONDS)
        except psycopg.ProgrammingError:
            raise ConfigError("url is not a valid address of PostgreSQL") from None
        self._url = url
        # on lines of its own, since it may end with a comment
        self._sql = f"FROM (\n{sql}\n) AS adapty_input (key, id)"

    def __repr__(self) -> str:
        return "Query()"

    def plan(self, part_size: int) -> Plan:
        """Divide the rows into ranges of the key; see `Source.plan`."""
        require_part_size(part_size)
        whole = new_digest()
        parts: list[PartPlan] = []
        last: int | None = None
        for rows in self._chunks(part_size):
            for key, item in rows:
                _require_key(key, item, last)
                last = key
            digest = _digest_of(rows)
            whole.update(digest.encode())
            source = {"after": rows[0][0] - 1, "last": rows[-1][0], "digest": digest}
            parts.append(PartPlan(len(rows), source))
        return Plan(source={"kind": "query", "digest": whole.hexdigest()}, parts=parts)

    def _chunks(self, size: int) -> Iterator[list[tuple[Any, Any]]]:
        with self._connected() as connection, connection.cursor("adapty") as cursor:
            cursor.itersize = _FETCHED_ROWS
            cursor.execute(f"SELECT key, id::text {self._sql} ORDER BY key".encode())
            while rows := cursor.fetchmany(size):
                yield rows

    def read(self, description: dict[str, Any], part: dict[str, Any]) -> list[Item]:  # noqa: ARG002
        """Return the rows of a range, and compare their digest; see `Source.read`."""
        source = self._sql.replace("%", "%%")
        text = f"SELECT key, id::text {source} WHERE key > %s AND key <= %s ORDER BY key"
        with self._connected() as connection:
            rows = connection.execute(text.encode(), (part["after"], part["last"])).fetchall()
        if _digest_of(rows) != part["digest"]:
            raise PartChangedError(
                "the result of the query has changed since the job was planned, for the keys"
                f" {part['after'] + 1:,} to {part['last']:,}"
            )
        return [Item(None, item) for _, item in rows]

    @contextlib.contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """
        Connect to the database, to read only; errors do not quote it, since a value may be an id.

        A function that the query calls can therefore change nothing.
        """
        try:
            with psycopg.connect(self._url, client_encoding="UTF8", **self._options) as connection:
                connection.read_only = True
                yield connection
        except psycopg.OperationalError as error:
            what = f"the database of the query cannot be reached: {explain_failure(error)}"
            raise StoreUnavailableError(what) from None
        except psycopg.Error as error:
            what = f"{type(error).__name__}, SQLSTATE {error.sqlstate}"
            raise InvalidInputError("sql", f"cannot be executed: {what}") from None


def _require_key(key: object, item: object, last: int | None) -> None:
    """
    Validate a row.

    Raises:
        InvalidInputError: it has no unique whole number, or no id, or both are the same.
    """
    if not isinstance(key, int) or isinstance(key, bool):
        raise InvalidInputError("sql", "must have a whole number in its first column")
    if last is not None and key <= last:
        raise InvalidInputError("sql", "must have a unique number in its first column")
    if item is None:
        raise InvalidInputError("sql", "must have an id in each row: add WHERE ... IS NOT NULL")
    if item == str(key):
        raise InvalidInputError(
            "sql", "must have a number other than the id in its first column: the store holds it"
        )


def _digest_of(rows: Sequence[tuple[Any, Any]]) -> str:
    digest = new_digest()
    for key, item in rows:
        size = -1 if item is None else len(item)  # none: it was removed since the plan
        digest.update(f"{key} {size} {item}\n".encode())
    text: str = digest.hexdigest()
    return text
