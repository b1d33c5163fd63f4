"""A storage for journals in a job store: the journal of the only part of a job."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from adapty_async._journal import (
    Changes,
    InputCheck,
    JournalIdentity,
    LoadKeys,
    Minute,
    Reason,
    Resumed,
    Run,
)
from adapty_async.errors import JournalError
from adapty_async.jobs._database import Database, Statement, Steps
from adapty_async.jobs._part_journal import PartJournal
from adapty_async.jobs._part_steps import Runner
from adapty_async.jobs._store import _database_of
from tests.journal.support import NOW, Content

_JOBS = itertools.count(1_000_000_000)  # no job that is planned has such a number
_TABLES = {
    "adapty_run": "number, started_at, last_at, ended_at, stop_reason, rate",
    "adapty_span": "number, states, checksum",
    "adapty_key": "first, keys",
    "adapty_minute": f"run, {', '.join(Minute.__struct_fields__[1:])}",
    "adapty_reason": "run, state, error, http_status, items",
}


class InStore:
    """
    A storage in a job store: the only part of a job, without a plan.

    Args:
        url: the address of the store.
    """

    def __init__(self, url: str, number: int | None = None) -> None:
        self._url = url
        self._number = number or next(_JOBS)

    def journal(self) -> StoredJournal:
        """Return the journal, which has its own connection."""
        return StoredJournal(self._url, self._number)

    @contextlib.contextmanager
    def _rows(self) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
        if self._url.startswith("sqlite"):
            path = Path(self._url.removeprefix("sqlite:///"))
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
                yield lambda text: db.execute(text).fetchall()
        else:
            with psycopg.connect(self._url, autocommit=True) as connection:

                def execute(text: str) -> list[tuple[Any, ...]]:
                    cursor = connection.execute(text.encode())
                    return [] if cursor.description is None else cursor.fetchall()

                yield execute

    def content(self) -> Content:
        """Return what is stored."""
        with self._rows() as execute:
            found = {
                table: execute(
                    f"SELECT {columns} FROM {table} WHERE job = {self._number}"
                    f" ORDER BY {columns.partition(', states')[0].partition(', keys')[0]}"
                )
                for table, columns in _TABLES.items()
            }
        return Content(
            [_made(Run, row) for row in found["adapty_run"]],
            {number: states for number, states, _ in found["adapty_span"]},
            b"".join(keys for _, keys in found["adapty_key"]),
            [_made(Minute, row) for row in found["adapty_minute"]],
            [_made(Reason, row) for row in found["adapty_reason"]],
        )

    def note(self, *, durable: bool) -> None:
        """Do nothing: a server's loss of power is not simulated."""

    def kill(self) -> InStore:
        """Return a copy of everything that was committed, without the lock."""
        copied = next(_JOBS)
        with self._rows() as execute:
            for table, columns in {
                "adapty_part": "first, size, source, runs, is_open",
                **_TABLES,
            }.items():
                column = "number" if table == "adapty_part" else "part"
                execute(
                    f"INSERT INTO {table} (job, {column}, {columns})"
                    f" SELECT {copied}, {column}, {columns} FROM {table}"
                    f" WHERE job = {self._number}"
                )
            execute(
                "INSERT INTO adapty_job (id, name, identity, id_kind, source, items, part_size,"
                f" parts, planned_at) {_override(self._url)} SELECT {copied}, '{copied}', identity,"
                " id_kind, source, items, part_size, parts, planned_at FROM adapty_job"
                f" WHERE id = {self._number}"
            )
        return InStore(self._url, copied)

    def lose_power(self, is_kept: Callable[[], bool]) -> InStore:
        """Raise an error: a server's loss of power is not simulated."""
        raise NotImplementedError


def _override(url: str) -> str:
    return "" if url.startswith("sqlite") else "OVERRIDING SYSTEM VALUE"


def _made(kind: type[Any], row: tuple[Any, ...]) -> Any:
    return kind(**dict(zip(kind.__struct_fields__, row, strict=True)))


class StoredJournal:
    """The journal of a part, with a connection that is open as long as the journal is."""

    def __init__(self, url: str, number: int) -> None:
        self._number = number
        self._database: Database = _database_of(url, 25.0)
        self._journal: PartJournal
        self._override = _override(url)

    async def open(
        self, identity: JournalIdentity, check: InputCheck, load_keys: LoadKeys
    ) -> Resumed:
        """Open the journal, whose job is made first if there is none."""
        await self._database.open()
        await self._database.transact(self._plan(identity))
        self._journal = PartJournal(
            self._database, Runner(self._number, str(self._number), 0, "me"), lambda: NOW
        )
        try:
            await self._journal.acquire()
            return await self._journal.open(identity, check, load_keys)
        except BaseException:
            await self.close()
            raise

    def _plan(self, identity: JournalIdentity) -> Steps[None]:
        values = {
            "job": self._number,
            "name": str(self._number),
            "identity": msgspec.json.encode(identity).decode(),
        }
        yield Statement(
            "INSERT INTO adapty_job (id, name, identity, id_kind, source, items, part_size, parts,"
            f" planned_at) {self._override}"
            " VALUES (:job, :name, :identity, '', 'null', 6000, 6000, 1, 0) ON CONFLICT DO NOTHING",
            values,
        )
        yield Statement(
            "INSERT INTO adapty_part (job, number, first, size, source)"
            " VALUES (:job, 0, 0, 6000, 'null') ON CONFLICT DO NOTHING",
            {"job": self._number},
        )

    def commit(self, changes: Changes, *, durable: bool) -> Awaitable[JournalError | None]:
        """Store changes."""
        return self._journal.commit(changes, durable=durable)

    async def close(self) -> None:
        """Close the journal and the connection."""
        await self._journal.close()
        await self._database.close()
