"""
A write-ahead buffer in front of a journal: entries before requests, outcomes in groups.

Invariants:
- A position or key is stored before its request is sent. Positions are reserved in groups ahead of
  the items, so most items need not wait for a commit. Those behind a group wait for the next one
  together: what is sent together costs less than what is sent one by one.
- At most one commit is in progress. The next commit stores all changes since its start.
- An outcome is committed within `GROUP_SECONDS`, and durable within twice that, apart from the time
  that the disk takes.
- At any instant, at most twice the concurrency of items may have been sent without an outcome in
  the journal: those in flight, and those reserved ahead or not yet committed.
- After a failed commit, no other write-ahead entry is stored.
"""

from __future__ import annotations

import asyncio
import copy
import math
import time
from collections.abc import Callable

from adapty_async._journal.changes import ItemStates, OutcomeCounter, WhyNot
from adapty_async._journal.keys import EntryKeys
from adapty_async._journal.model import (
    Changes,
    InputCheck,
    ItemState,
    Journal,
    JournalIdentity,
    Run,
)
from adapty_async._runtime.loop import until_ended
from adapty_async.errors import JournalError

#: Maximum seconds until an outcome is committed.
GROUP_SECONDS = 0.05


class JournalWriter:
    """
    A buffer of one run's changes to its journal. Every method is called in one event loop.

    Args:
        journal: the storage.
        concurrency: maximum of items in flight.
        size: the number of items of the input; None if it is not known.
        clock: returns seconds since the epoch.

    Attributes:
        is_new: no earlier run used the journal.
        rate: requests per second that earlier runs found; None if they found none.
        failure: why no more write-ahead entries can be stored; None if they can.
        keys: the entry keys; new ones are stored with the next entry.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        concurrency: int,
        size: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._journal = journal
        self._group = concurrency
        self._clock = clock
        self._run: Run  # set by `open`, as are the next six
        self._states: ItemStates
        self._counts: OutcomeCounter
        self._by_position: bool
        self.keys: EntryKeys
        self.is_new: bool
        self.rate: float | None
        self.failure: JournalError | None = None
        self._loop = asyncio.get_running_loop()
        self._size = size
        self._next = 0  # one above the highest position in use
        # Positions below these are reserved if their items may be sent: after the commit in
        # progress, and in the journal. Others have an entry of their own.
        self._reserved = self._stored = 0
        self._next_counts = -math.inf  # the loop's time at which counts are stored again
        self._ended = 0  # outcomes that are in no commit yet
        self._entries: list[asyncio.Future[None]] = []  # waiters for the next commit
        self._committing_entries: list[asyncio.Future[None]] = []  # those for the one in progress
        self._flushes: list[asyncio.Future[None]] = []
        self._must_be_durable = False
        self._is_durable = True  # all commits are
        self._is_scheduled = False
        self._committing: asyncio.Future[JournalError | None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_closing = False
        self._is_closed = False  # its last commit has started

    async def open(self, identity: JournalIdentity, check: InputCheck) -> None:
        """
        Open the journal.

        Raises:
            JournalError: it belongs to another run, is in use, is damaged, or is no journal.
        """
        self._by_position = identity.keys == "position"
        self.keys = EntryKeys(by_position=self._by_position)
        try:
            resumed = await self._journal.open(identity, check, self.keys.load)
        except BaseException:
            self.keys.close()
            raise
        self._run, self._states = resumed.run, ItemStates(resumed.spans)
        self._counts = OutcomeCounter(resumed.run.number, self._clock)
        self.is_new, self.rate = resumed.is_new, resumed.rate

    def state(self, position: int) -> ItemState:
        """Return the last known state of an item."""
        return self._states.get(position)

    async def find(self, key: bytes) -> ItemState:
        """
        Return the last known state of the item with a key; a duplicate if this run claimed the key.

        Raises:
            JournalError: the index of keys cannot be used.
        """
        found = await self.keys.find(key)
        if found is None:
            return ItemState.NONE
        position, is_claimed = found
        return ItemState.DUPLICATE if is_claimed else self._states.get(position)

    def reserve(self, position: int) -> asyncio.Future[None] | None:
        """
        Store that an item may be sent; the caller awaits the result, if any, before it sends.

        By position, the items after it are reserved, too. The entry survives the death of the
        process, but not a loss of power. An item that failed needs another one.
        """
        needs_entry = self._states.is_unsent(position)
        if position < self._stored and not needs_entry:
            return None
        if self.failure is None:
            if self._by_position:
                self._next = max(self._next, position + 1)
            if position < self._reserved and not (needs_entry or self._is_closing):
                future = self._loop.create_future()
                self._committing_entries.append(future)
                return future
            self._states.reserve(position, position + 1)
        return self._future_of(self._entries)

    def start(self, position: int) -> asyncio.Future[None]:
        """
        Store that an item is sent that must not be retried; the caller awaits the result first.

        The entry survives a loss of power. An item that is not sent after all gets an update.
        """
        if self.failure is None:
            self._states.set(position, ItemState.STARTED)
            self._must_be_durable = True
        return self._future_of(self._entries)

    def retract(self, position: int) -> None:
        """Record that the server certainly did not process a request that must not be retried."""
        self._states.set(position, ItemState.FAILED)
        self._schedule()

    def release(self, position: int) -> None:
        """Withdraw the reservation that a killed run left for an item that cannot be sent."""
        if self._states.get(position) is ItemState.RESERVED:
            self._states.set(position, ItemState.NONE)
            self._schedule()

    def end_at(self, position: int) -> None:
        """
        Record that the input has no item from a position on.

        If the input has no length, a run that was killed may have reserved positions behind its
        end. A run over an input with a length reserves none there, so a reservation behind the end
        is an item of an input that was longer, and is kept.
        """
        if self._by_position and self._size is None:
            self._states.end_at(position)

    def update(
        self,
        position: int,
        state: ItemState,
        requests: int = 0,
        throttled: int = 0,
        reason: WhyNot | None = None,
    ) -> None:
        """
        Record the outcome of an item.

        Args:
            position: the item's position.
            state: the state with which it ended.
            requests: the number of requests sent for it.
            throttled: the number of its responses with status 429.
            reason: the error's class or documented code, and the last response's status or 0.
        """
        self._states.set(position, state)
        self._counts.count((state, requests, throttled))
        if reason is not None:
            self._counts.count_reason(state, reason)
        self._ended += 1
        if self._ended >= self._group:
            self._schedule()
        elif self._timer is None:
            self._arm()

    def record_rate(self, rate: float | None) -> None:
        """Record the adaptive rate, and that the run is still running."""
        if rate is not None:
            self._run.rate = rate
        self._next_counts = -math.inf  # the next commit stores the run, too
        self._schedule()

    def flush(self) -> asyncio.Future[None]:
        """
        Make all recorded changes durable; the caller awaits the result.

        The future raises `JournalError` if that is impossible.
        """
        self._must_be_durable = True
        return self._future_of(self._flushes)

    def _future_of(self, waiting: list[asyncio.Future[None]]) -> asyncio.Future[None]:
        # one future per waiter, since the cancellation of a waiter cancels its future
        future = self._loop.create_future()
        if self._is_closed or (self._is_closing and waiting is self._entries):
            _settle([future], JournalError("the journal is closed"))
        else:
            waiting.append(future)
            self._schedule()
        return future

    def _arm(self) -> None:
        self._timer = self._loop.call_later(GROUP_SECONDS, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._must_be_durable = True
        self._schedule()

    def _schedule(self) -> None:
        """Schedule a commit after this iteration of the loop, or after the current commit."""
        if not self._is_scheduled:
            self._is_scheduled = True
            if self._committing is None:
                self._loop.call_soon(self._commit)

    def _commit(self) -> None:
        if not self._is_closing:
            self._is_scheduled = False
            if self.failure is None and self._next:
                self._reserve_ahead()
            self._begin_commit()

    def _reserve_ahead(self) -> None:
        """
        Reserve up to a group of positions more than is in use.

        Earlier positions are not reserved: a resumed run may start after millions of settled items.
        """
        begin, end = max(self._next, self._reserved), self._next + self._group
        if self._size is not None:
            end = min(end, self._size)
        if begin < end:
            self._states.reserve(begin, end)
            self._reserved = end

    def _begin_commit(self) -> asyncio.Future[JournalError | None]:
        changes, durable, reserved = self._changes(), self._must_be_durable, self._reserved
        entries, flushes = self._entries, self._flushes
        self._committing_entries, self._entries, self._flushes = entries, [], []
        self._must_be_durable, self._ended = False, 0

        def ended(done: asyncio.Future[JournalError | None]) -> None:
            self._committing = None
            failure = _failure_of(done)
            if failure is None:
                self._is_durable = durable
            else:
                self._restore(changes)
            self.failure = self.failure or failure or done.result()
            is_usable = self.failure is None and not self._is_closing
            self._stored = reserved if is_usable else 0
            _settle(entries, self.failure)
            _settle(flushes, failure)
            self._schedule_next()

        self._committing = self._start_commit(changes, durable=durable)
        self._committing.add_done_callback(ended)
        return self._committing

    def _start_commit(
        self, changes: Changes, *, durable: bool
    ) -> asyncio.Future[JournalError | None]:
        """Start a commit; a storage may raise its error before there is a result to await."""
        try:
            return asyncio.ensure_future(self._journal.commit(changes, durable=durable))
        except Exception as error:  # noqa: BLE001  `_failure_of` returns it as the failure
            return asyncio.ensure_future(_raise(error))

    def _schedule_next(self) -> None:
        """Schedule the next commit if one was requested, or start the timer if changes are left."""
        if self._is_closing:
            return
        if self._is_scheduled:
            self._loop.call_soon(self._commit)
        elif self._timer is None and (self._states.has_changed or not self._is_durable):
            self._arm()

    def _changes(self) -> Changes:
        first_key, new_keys = self.keys.pop_new()
        changes = Changes(spans=self._states.pop_changes(), first_key=first_key, new_keys=new_keys)
        now = self._loop.time()
        is_empty = not (changes.spans or new_keys)  # a durable commit needs a change
        if is_empty or self._is_closing or now >= self._next_counts:  # most are one span
            self._next_counts = now + GROUP_SECONDS
            changes.minutes, changes.reasons = self._counts.pop_changes()
            self._run.last_at = self._clock()
            changes.run = copy.copy(self._run)
        return changes

    def _restore(self, changes: Changes) -> None:
        """Restore the changes of a failed commit, for the next commit."""
        self._states.restore(changes.spans)
        self.keys.restore(changes.first_key, changes.new_keys)
        self._counts.restore(changes)

    async def close(self, stop_reason: str | None = None) -> None:
        """
        Make everything durable, record that the run has ended, and close the journal.

        All this happens even if it is cancelled.

        Raises:
            JournalError: something could not be stored.
        """
        # in no task of its own: a loop that ends cancels all tasks, also before they start
        cancelled: asyncio.CancelledError | None = None
        try:
            await self._store_end(stop_reason)
        except asyncio.CancelledError as error:
            cancelled = error
        finally:
            self.keys.close()
        try:
            await self._journal.close()
        except JournalError as error:
            self.failure = error
        if cancelled is not None:
            raise cancelled from self.failure
        if self.failure is not None:
            raise self.failure

    async def _store_end(self, stop_reason: str | None) -> None:
        """Make the last commit; a cancellation is raised after that."""
        self._is_closing = True
        self._stored = 0  # unused reservations are withdrawn
        if self._timer is not None:
            self._timer.cancel()
        try:
            if self._committing is not None:
                await until_ended(self._committing)
        finally:
            self._states.withdraw()
            self._run.ended_at, self._run.stop_reason = self._clock(), stop_reason
            self._must_be_durable = self._is_closed = True
            await until_ended(self._begin_commit())


async def _raise(error: Exception) -> JournalError | None:
    raise error


def _failure_of(done: asyncio.Future[JournalError | None]) -> JournalError | None:
    if done.cancelled():
        return JournalError("the journal's commit was cancelled")
    failure = done.exception()
    if failure is None or isinstance(failure, JournalError):
        return failure
    return JournalError(f"the journal cannot be written: {type(failure).__name__}")


def _settle(waiting: list[asyncio.Future[None]], failure: JournalError | None) -> None:
    for future in waiting:
        if future.done():
            continue
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(failure)
            future.exception()  # read it, as there may be no waiter left
