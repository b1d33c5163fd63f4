"""The journal of one part of a job, in the job store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from adapty_async._journal import Changes, InputCheck, JournalIdentity, LoadKeys, Resumed
from adapty_async._journal.model import DamageError
from adapty_async._runtime.loop import result_of, until_ended
from adapty_async.errors import JournalError
from adapty_async.jobs._database import Database, PartLock, Statement, steps_of
from adapty_async.jobs._errors import PartBusyError
from adapty_async.jobs._model import count_states
from adapty_async.jobs._part_steps import (
    RunKey,
    Runner,
    close_part,
    open_part,
    statements_of,
    taken_over,
)


class PartJournal:
    """
    A journal of one part in a job store; see `adapty_async.bulk.Journal`.

    The lock on the part keeps other runners out. Each commit names its run, so that a runner which
    lost the lock changes nothing.

    Args:
        database: the job store.
        runner: the part, and this process.
        clock: returns seconds since the epoch.

    Attributes:
        has_recorded: outcomes have been stored.
    """

    def __init__(
        self, database: Database, runner: Runner, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._runner = runner
        self._clock = clock
        self._lock: PartLock | None = None
        self._key: RunKey | None = None  # while it is open
        self._size = 0
        self._spans: dict[int, bytes] = {}  # as they are committed
        self.has_recorded = False

    @property
    def _text(self) -> str:
        return f"part {self._runner.part} of the job {self._runner.name}"

    async def acquire(self) -> PartLock:
        """
        Acquire the lock on the part, which `close` releases, also if this is cancelled.

        Raises:
            PartBusyError: another runner has it.
        """
        await result_of(asyncio.ensure_future(self._lock_part()))
        if self._lock is None:
            raise PartBusyError(f"{self._text} is in use")
        return self._lock

    async def _lock_part(self) -> None:
        self._lock = await self._database.lock(self._runner.job, self._runner.part)

    async def open(
        self, identity: JournalIdentity, check: InputCheck, load_keys: LoadKeys
    ) -> Resumed:
        """Take the part over, after `acquire`; see `Journal.open`."""
        try:
            taken = await self._database.transact(
                open_part(self._runner, identity, check, load_keys, self._clock())
            )
        except DamageError as error:
            raise JournalError(f"{self._text}: {error}") from None
        self._key, self._size = taken.key, taken.size
        self._spans = dict(taken.resumed.spans)
        return taken.resumed

    def commit(self, changes: Changes, *, durable: bool) -> Awaitable[JournalError | None]:
        """Store changes in one transaction; see `Journal.commit`."""
        key = self._key
        if key is None:
            raise JournalError("the journal is closed")
        spans, run = dict(changes.spans), changes.run
        statements = statements_of(key, changes)
        if run is None or run.ended_at is None:
            commit = self._database.commit(statements, durable=durable)
            return self._commit(commit, spans, has_outcomes=bool(changes.minutes))
        counts = count_states(self._spans | spans, self._size)
        statements.append(close_part(key, counts, has_ended=run.stop_reason is None))
        return self._commit_last(statements)

    async def _commit(
        self, commit: Awaitable[int], spans: dict[int, bytes], *, has_outcomes: bool
    ) -> None:
        if not await commit:
            raise taken_over(self._runner.part)
        self.has_recorded |= has_outcomes
        self._spans.update(spans)

    async def _commit_last(self, statements: list[Statement]) -> None:
        """Commit with the last statement, which changes the row that the others lock."""
        *_, closed = await self._database.transact(steps_of(statements))
        if closed == [(0,)]:
            raise taken_over(self._runner.part)
        self.has_recorded = True

    async def close(self) -> None:
        """Release the lock; see `Journal.close`. A second call does nothing."""
        lock, self._lock, self._key = self._lock, None, None
        if lock is not None:
            await until_ended(asyncio.ensure_future(lock.release()))
