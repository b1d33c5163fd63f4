"""A job: its report, and the runs of its parts."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias, TypedDict, Unpack

from adapty_async._bulk.executor import require_known
from adapty_async._bulk.outcome import StopPolicy
from adapty_async._bulk.settings import MAX_OUTAGE
from adapty_async._journal import ItemState
from adapty_async._journal.model import DamageError, state_at
from adapty_async._runtime.loop import until_ended
from adapty_async.bulk import BulkReport, BulkRun, Outcome, OutcomeStatus, StopReason
from adapty_async.config import whole_number
from adapty_async.errors import JournalError
from adapty_async.jobs._database import Database
from adapty_async.jobs._errors import (
    JobError,
    JobStoppedError,
    PartBusyError,
    PartChangedError,
    StoreUnavailableError,
)
from adapty_async.jobs._loop import PartCalls, PartLoop, outage_wait
from adapty_async.jobs._model import STATUS_OF, JobOutcome, JobRecord, JobReport, PartRecord
from adapty_async.jobs._part_journal import PartJournal
from adapty_async.jobs._part_steps import RunKey, Runner, load_spans
from adapty_async.jobs._report_steps import list_started, read_report
from adapty_async.jobs._sources import Item, Lines, Source
from adapty_async.jobs._steps import (
    forget_job,
    list_open,
    part_in,
    reopen_parts,
    select_part,
    set_changed,
    stop_job,
    stop_reason_of,
)

# Maximum of parts in hand; each has a task and a run of its own.
_MAX_PARTS = 1_000
# Seconds between two checks of a run whether its job has stopped.
_CHECK_SECONDS = 1.0
# Reasons that one worker found, and every other one would find, too.
_FOR_ALL = frozenset(
    {StopReason.KEY_REJECTED, StopReason.WRONG_ADDRESS, StopReason.SAME_ERROR, StopReason.FAIL_FAST}
)


#: A bulk method by which a job sends, such as ``adapty.v1.profiles.bulk_delete``: it is called with
#: the items, ``by=``, and options of `adapty_async.bulk.BulkOptions`.
Call: TypeAlias = Callable[..., BulkRun[Any, Any]]


class PartOptions(TypedDict, total=False):
    """
    The options of the run of a part: those of `adapty_async.bulk.BulkOptions` with these names.

    The index of an outcome, for ``on_outcome``, is its position in the part.
    """

    concurrency: int | None
    rate: float | None
    drain: float
    max_outage: float
    fail_fast: bool
    on_outcome: Callable[[Outcome[str, Any]], object] | None


class Job:
    """
    A job: a bulk run that any number of processes share, through a job store.

    Make one with `JobStore.plan` or `JobStore.job`. Its coroutines raise a `StoreUnavailableError`
    if the store cannot be reached.

    Attributes:
        name: its name.
        items: the number of its items.
        parts: the number of its parts.
        part_size: maximum of items of a part.
        by: the kind of its ids.
        operation: the name of its call, and the kind of its ids.
    """

    def __init__(
        self, database: Database, record: JobRecord, call: Call | None, source: Source | None
    ) -> None:
        self.name = record.name
        self.items = record.items
        self.parts = record.parts
        self.part_size = record.part_size
        self.by = record.id_kind
        self.operation = record.identity.operation
        self._database = database
        self._record = record
        self._call = call
        self._source = source
        if source is None and record.source["kind"] == "file":
            self._source = self.input_at(record.source["path"])
        self._worker = secrets.token_hex(8)
        self._runs: set[BulkRun[Any, Any]] = set()
        self._policy = StopPolicy()  # over the parts of this process
        self._recorded = 0  # runs of parts that stored outcomes
        self._stopping = asyncio.Event()

    def __repr__(self) -> str:
        return f"Job({self.name}, {self.operation}, items={self.items}, parts={self.parts})"

    def input_at(self, path: str) -> Lines:
        """
        Return the input of the job at another path, for `JobStore.job`.

        Raises:
            JobError: the input is not a file.
        """
        source = self._record.source
        if source["kind"] != "file":
            raise JobError(f"the input of the job {self.name} is not a file")
        return Lines(
            path, column=source["column"], format=source["form"], encoding=source["encoding"]
        )

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    @property
    def in_flight(self) -> int:
        """The number of requests of this process that are on the wire."""
        return sum(run.in_flight for run in self._runs)

    def stop(self) -> None:
        """
        Stop the runs of this process: drain the requests on the wire, and begin no part.

        The parts stay open. Other processes are not affected; see `cancel`.
        """
        self._stopping.set()
        for run in tuple(self._runs):
            run.stop()

    def abort(self) -> None:
        """Stop the runs of this process, and cancel the requests on the wire."""
        self._stopping.set()
        for run in tuple(self._runs):
            run.cut_off()

    async def open_parts(self) -> list[int]:
        """Return the numbers of the parts that have not ended, in order, without changed ones."""
        rows = await self._database.execute(list_open(self._record.id))
        return sorted(number for (number,) in rows)

    async def _next_parts(self, most: int) -> list[int]:
        self._require_running(None)  # a stop counts though the store is unavailable
        rows = await self._database.execute(list_open(self._record.id, most))
        return [number for (number,) in rows]

    async def run_part(
        self, number: int, **options: Unpack[PartOptions]
    ) -> BulkReport[str, Any] | None:
        """
        Send the items of a part that are left; return the report of this run.

        A part may run any number of times, on any machine, so every task queue can deliver it.
        Items that are done, absent or unknown are not sent again. Return None if the part has
        ended: every item has an outcome.

        Raises:
            PartBusyError: another runner works on the part, and nothing was sent; or it took the
                part over, and nothing more is sent.
            PartChangedError: the input has changed since it was planned. Nothing was sent.
            JobStoppedError: the job has stopped, or stops now.
            StoreUnavailableError: the store cannot be reached; the part stays open.
            JournalError: the job belongs to another operation, origin or key.
            JobError: there is no such part, or the job was opened without its call.
        """
        call, source = self._required()
        if await self._load_open(number) is None:
            return None
        runner = Runner(self._record.id, self.name, number, self._worker)
        journal = PartJournal(self._database, runner)
        try:
            lock = await journal.acquire()
            part = await self._load_open(number)  # until now, another runner may have ended it
            if part is None:
                return None
            items = await self._read(source, part)
            run = call(
                [item.value for item in items],
                by=self.by,
                journal=journal,
                job_id=self.name,
                **options,
            )
            lock.watch(run.cut_off)
            return await self._complete(number, run)
        finally:
            self._recorded += journal.has_recorded
            await journal.close()

    async def work(self, *, parts: int = 2, **options: Unpack[PartOptions]) -> JobReport:
        """
        Run the open parts until none is left, in this process or any other; return the report.

        After `stop`, it returns the report, too, though parts are open.

        Args:
            parts: maximum of parts in hand, 1,000 at most.
            options: see `PartOptions`; ``concurrency`` and ``rate`` are for all parts in hand.

        Raises:
            JobStoppedError: the job stopped, such as for a rejected key. Its parts stay open.
            StoreUnavailableError: the store was unavailable for ``max_outage`` seconds.
            JournalError: the job belongs to another operation, origin or key, or the store's file
                was deleted, moved or replaced.
            ConfigError: an option is unknown or out of range.
        """
        self._required()
        own = _shared_among(parts, options)
        calls = PartCalls(
            self._next_parts,
            lambda number: self.run_part(number, **own),
            lambda: self._recorded,
            self._stopping,
        )
        max_outage = options.get("max_outage", MAX_OUTAGE)
        loop = PartLoop(calls, parts=parts, max_outage=max_outage)
        try:
            await loop.run()
        except JobStoppedError:
            if not self.is_stopping:
                raise
        return await self.report()

    def _required(self) -> tuple[Call, Source]:
        if self._call is None or self._source is None:
            raise JobError(
                f"the job {self.name} was opened without its call: JobStore.job(name, call)"
            )
        return self._call, self._source

    async def _load_open(self, number: int) -> PartRecord | None:
        """Return a part that is open; None if it has ended."""
        part = await self._load_part(number)
        if part.has_ended:
            return None
        self._require_running(part.stop_reason)
        return part

    async def _load_part(self, number: int) -> PartRecord:
        rows = await self._database.execute(select_part(self._record, number))
        return part_in(rows, self._record, number)

    async def _load_spans(self, number: int) -> dict[int, bytes]:
        try:
            return await self._database.transact(load_spans(RunKey(self._record.id, number, 0)))
        except DamageError as error:
            raise JournalError(f"part {number} of the job {self.name}: {error}") from None

    async def _read(self, source: Source, part: PartRecord) -> list[Item]:
        try:
            return await asyncio.to_thread(self._items, source, part)
        except PartChangedError:
            await self._database.execute(set_changed(self._record.id, part.number))
            raise

    def _items(self, source: Source, part: PartRecord) -> list[Item]:
        items = source.read(self._record.source, part.source)
        if len(items) != part.size:
            raise PartChangedError(
                f"part {part.number} has {len(items):,} items, and {part.size:,} were planned:"
                " the input is read in another way"
            )
        return items

    async def _complete(self, number: int, run: BulkRun[Any, Any]) -> BulkReport[str, Any]:
        self._runs.add(run)
        if self.is_stopping:
            run.stop()
        checks = asyncio.create_task(self._check_forever(run))
        try:
            report = await run
        finally:
            self._runs.discard(run)
            checks.cancel()
            await until_ended(checks)
        await self._require_complete(number, report)
        return report

    async def _require_complete(self, number: int, report: BulkReport[str, Any]) -> None:
        """
        Record why a run stopped, if that concerns the whole job.

        Raises:
            JobStoppedError: it stopped.
            PartBusyError: it lost its lock.
        """
        reason = report.stop_reason or self._reason_to_stop(report)
        if reason is None:
            return
        if reason in _FOR_ALL:
            await self._database.execute(stop_job(self._record.id, reason.value))
        self._require_running(await self._stop_reason())
        if reason is StopReason.STOPPED and not self.is_stopping:
            raise PartBusyError(f"part {number} of the job {self.name}: its lock was lost")
        raise JobStoppedError(f"the job {self.name} stopped here: {reason}", reason=reason.value)

    def _reason_to_stop(self, report: BulkReport[str, Any]) -> StopReason | None:
        """Return why the job should stop now: a part may have fewer items than a rule needs."""
        if report.done or report.absent:
            self._policy = StopPolicy()
            return None
        reasons = map(self._policy.check, report.failures)
        reason = next(filter(None, reasons), None)
        if reason is not None:
            self._policy = StopPolicy()  # after a retry, it counts from the start
        return reason

    def _require_running(self, reason: str | None) -> None:
        """
        Validate that neither this process nor the job has stopped.

        Raises:
            JobStoppedError: one has.
        """
        if self.is_stopping:
            raise JobStoppedError(
                f"the job {self.name} was stopped here", reason=StopReason.STOPPED.value
            )
        if reason is not None:
            raise JobStoppedError(
                f"the job {self.name} has stopped: {reason}", reason=reason, needs_retry=True
            )

    async def _stop_reason(self) -> str | None:
        rows = await self._database.execute(stop_reason_of(self._record.id))
        if not rows:
            raise JobError(f"the job {self.name} was forgotten")
        reason: str | None = rows[0][0]
        return reason

    async def _check_forever(self, run: BulkRun[Any, Any]) -> None:
        """Stop a run when its job stops in another process."""
        outage = 0.0  # seconds so far
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                wait = outage_wait(outage) if outage else _CHECK_SECONDS
                await asyncio.sleep(wait)
                try:
                    rows = await self._database.execute(stop_reason_of(self._record.id))
                    if rows != [(None,)]:  # it was stopped, or forgotten
                        run.stop()
                    outage = 0.0
                except StoreUnavailableError:  # the run finds out itself
                    outage += wait

    async def report(self) -> JobReport:
        """
        Return the report over all processes; the job may be in progress.

        Raises:
            JobError: the job was forgotten.
        """
        started = await self._database.transact(list_started(self._record.id))
        numbers = [part.number for part in started]
        held = await self._database.held(self._record.id, numbers) if numbers else set()
        return await self._database.transact(read_report(self._record, held))

    async def outcomes(self, *statuses: OutcomeStatus) -> AsyncIterator[JobOutcome]:
        """
        Yield the outcomes of all items, in the order of the input, with their ids.

        The ids come from the input, which is compared with what was planned. Items that are in
        flight are left out.

        Args:
            statuses: only outcomes with one of these.

        Raises:
            PartChangedError: the input has changed since it was planned.
            InvalidInputError: the input cannot be read.
            JournalError: a row of the store is damaged.
            JobError: the job was opened without its input.
        """
        if self._source is None:
            raise JobError(f"the job {self.name} was opened without its input")
        wanted = frozenset(statuses or OutcomeStatus)
        for number in range(self.parts):
            part = await self._load_part(number)
            spans = await self._load_spans(number)
            found = _statuses(spans, part)
            if wanted.isdisjoint(found):
                continue
            items = await asyncio.to_thread(self._items, self._source, part)
            for offset, (item, status) in enumerate(zip(items, found, strict=True)):
                if status is not None and status in wanted:
                    yield _outcome(part.first + offset, item, status)

    async def cancel(self) -> None:
        """
        Stop the job in all processes: within some seconds, none of them sends anything more.

        `retry` resumes it.
        """
        await self._database.execute(stop_job(self._record.id, "cancelled"))

    async def retry(self) -> int:
        """
        Open the parts with failed items, and those whose input had changed; return their number.

        A job that stopped, for whichever reason, resumes. Items that are done, absent or unknown
        are never sent again.

        Raises:
            JobError: the job was forgotten.
        """
        steps = reopen_parts(self.name, self._record.id)
        return await self._database.transact(steps, is_long=True)

    async def forget(self) -> None:
        """
        Delete everything about the job from the store.

        Raises:
            PartBusyError: a runner works on one of its parts.
            JobError: the job was forgotten before.
        """
        if (await self.report()).workers:
            raise PartBusyError(f"the job {self.name} is in use: cancel it first")
        await self._database.transact(forget_job(self._record.id), is_long=True)


def _statuses(spans: dict[int, bytes], part: PartRecord) -> list[OutcomeStatus | None]:
    """Return the status of each item of a part; None for an item in flight."""
    states = (state_at(spans, position) for position in range(part.size))
    return [_status(state, has_ended=part.has_ended) for state in states]


def _status(state: ItemState, *, has_ended: bool) -> OutcomeStatus | None:
    name = STATUS_OF[state]
    if name == "in_flight":
        return None
    if has_ended and state is ItemState.NONE:  # it could not be sent
        return OutcomeStatus.FAILED
    return OutcomeStatus(name)


def _outcome(index: int, item: Item, status: OutcomeStatus) -> JobOutcome:
    value = item.value if isinstance(item.value, str) else None
    return JobOutcome(index=index, line=item.line, item=value, status=status)


def _shared_among(parts: int, options: PartOptions) -> PartOptions:
    """
    Return the options of each of *n* parts in hand.

    Raises:
        ConfigError: an option is unknown, or the number of parts is invalid.
    """
    require_known(options, PartOptions)
    whole_number("parts", parts, _MAX_PARTS)
    own = PartOptions(**options)
    concurrency, rate = own.get("concurrency"), own.get("rate")
    if concurrency is not None:
        own["concurrency"] = max(1, concurrency // parts)
    if rate is not None:
        own["rate"] = rate / parts
    return own
