"""The store of jobs: plans them, and opens them in every process that works on them."""

from __future__ import annotations

import asyncio
import urllib.parse
from types import TracebackType
from typing import Self

from adapty_async._journal import JournalIdentity, MemoryJournal
from adapty_async._journal.model import require_same_run
from adapty_async._runtime.database import path_in_url
from adapty_async.config import positive
from adapty_async.errors import ConfigError
from adapty_async.jobs._database import Database
from adapty_async.jobs._job import Call, Job
from adapty_async.jobs._model import JobRecord, Plan
from adapty_async.jobs._sources import Source, require_part_size
from adapty_async.jobs._sqlite import SqliteDatabase
from adapty_async.jobs._steps import load_job, plan_job
from adapty_async.shared import SharedRate

#: Maximum of items of a part by default.
PART_SIZE = 2_000
_LONGEST_NAME = 200


class JobStore:
    """
    A store of jobs, which their workers share; an async context manager.

    Its coroutines raise a `StoreUnavailableError` if the store cannot be reached.

    Args:
        url: ``postgresql://user@host/database`` for workers on several machines, or
            ``sqlite:///file`` (relative) or ``sqlite:////file`` (absolute), quoted as in any URL,
            for processes of one.
        lease: seconds after which a worker without connection to PostgreSQL has sent its last
            request, and others may take its parts over.

    Raises:
        ConfigError: the address is of another kind, or a package is missing.

    Example:
        >>> async with (
        ...     JobStore(url) as store,
        ...     store.rate as rate,
        ...     AdaptyClient(limits=Limits(shared=rate)) as adapty,
        ... ):
        ...     call = adapty.v1.profiles.bulk_delete
        ...     job = await store.plan("erasure", call, Lines("ids.txt"), by="customer_user_id")
        ...     report = await job.work()
    """

    def __init__(self, url: str, *, lease: float = 25.0) -> None:
        self._database = _database_of(url, positive("lease", lease))
        if isinstance(self._database, SqliteDatabase):
            # in a file of its own, since it changes many times a second
            url = f"sqlite:///{urllib.parse.quote(str(self._database.path))}-rate"
        self._rate = SharedRate(url)

    @property
    def rate(self) -> SharedRate:
        """
        The rate that all workers share through this store, for `adapty_async.Limits.shared`.

        Enter it around the clients: ``async with store.rate as rate, AdaptyClient(...)``.
        """
        return self._rate

    async def __aenter__(self) -> Self:
        """
        Connect, and create the tables if there are none.

        Raises:
            StoreUnavailableError: the store cannot be reached.
            JobError: a later release wrote it, or it is behind a pooler that shares sessions.
        """
        await self._database.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._database.close()

    async def plan(
        self, name: str, call: Call, source: Source, *, by: str, part_size: int = PART_SIZE
    ) -> Job:
        """
        Plan a job in one transaction, or return the one that is there.

        A process that is killed meanwhile leaves nothing, and the same plan again is the same job.

        Args:
            name: identifies the job in the store.
            call: a bulk method of a client, such as ``adapty.v1.profiles.bulk_delete``.
            source: the input: `Lines` or `Query`.
            by: the kind of the ids, which `call` is given.
            part_size: maximum of items of a part, from 1 to a million.

        Raises:
            JobError: the store has a job of this name with another input or size of parts.
            JournalError: the store has one with another operation, origin or key.
            InvalidInputError: the input or `by` is invalid.
            ConfigError: a value is out of range.
        """
        _require_name(name)
        require_part_size(part_size)
        identity = await _identity_of(name, call, by)
        plan: Plan = await asyncio.to_thread(source.plan, part_size)
        steps = plan_job(name, identity, by, plan, part_size)
        await self._database.transact(steps, is_long=True)
        return Job(self._database, await self._load(name), call, source)

    async def job(
        self, name: str, call: Call | None = None, *, source: Source | None = None
    ) -> Job:
        """
        Open a job that was planned.

        Args:
            name: its name.
            call: the bulk method that it was planned with; only workers need it.
            source: its input; by default the file at the path that was planned.

        Raises:
            JobError: there is no such job.
            JournalError: it belongs to another operation, origin or key.
        """
        record = await self._load(name)
        if call is not None:
            identity = await _identity_of(name, call, record.id_kind)
            require_same_run(f"of the job {name}", record.identity, identity, lambda _: None)
        return Job(self._database, record, call, source)

    async def _load(self, name: str) -> JobRecord:
        return await self._database.transact(load_job(name))


def _database_of(url: str, lease: float) -> Database:
    if not isinstance(url, str):  # such as an environment variable that is not set
        raise ConfigError("the address of a job store must be text")
    if (path := path_in_url(url)) is not None:
        return SqliteDatabase(path)
    if url.partition("://")[0] not in {"postgresql", "postgres"}:
        raise ConfigError("the address of a job store begins with postgresql:// or sqlite:///")
    try:
        from adapty_async.jobs._postgres import PostgresDatabase  # noqa: PLC0415  an extra
    except ImportError:
        raise ConfigError(
            "a job store in PostgreSQL needs more packages: pip install 'adapty-async[jobs]'"
        ) from None
    return PostgresDatabase(url, lease=lease)


def _require_name(name: str) -> None:
    is_text = isinstance(name, str) and name.isprintable() and name == name.strip()
    if not is_text or not 1 <= len(name) <= _LONGEST_NAME:
        raise ConfigError(f"name must be printable text of 1 to {_LONGEST_NAME} characters")


async def _identity_of(name: str, call: Call, by: str) -> JournalIdentity:
    """Return the identity that the runs of a call have, from a run without items."""
    journal = MemoryJournal()
    await call((), by=by, journal=journal, job_id=name)
    if journal.identity is None:
        raise ConfigError("call must pass its options to a bulk run")
    return journal.identity
