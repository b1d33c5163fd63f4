"""A decorator of an item processor that records each outcome, with its id, in a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import msgspec

from adapty_async._api.call import IDENTITIES, Operation
from adapty_async._api.validation import exact_text
from adapty_async._bulk.bulk_run import BulkRun
from adapty_async._bulk.item_processor import ItemProcessor
from adapty_async._bulk.outcome import Outcome
from adapty_async._bulk.outcomes_file import Entry, OutcomesFile
from adapty_async._bulk.workers import Worker

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

#: Returns the line number of an item in its input, and its id.
Identify = Callable[[Any], tuple[int, str | None]]


class OutcomesPath(msgspec.Struct, frozen=True):
    """
    The path of an outcomes file.

    Attributes:
        path: the path.
        identify: returns the line and id of an item; None for the line of its position, and the id
            of its operation's profile or object.
    """

    path: Path
    identify: Identify | None = None

    def __fspath__(self) -> str:
        return os.fspath(self.path)


@runtime_checkable
class _Numbered(Protocol):
    """The interface of an input that knows the line of each item, such as a file."""

    def line_of(self, position: int) -> int:
        """Return the line number of an item that was read."""
        ...


def numbering_of(items: object) -> Callable[[int], int]:
    """Return the function from positions to lines; positions from 1 if the input has no lines."""
    return items.line_of if isinstance(items, _Numbered) else lambda position: position + 1


class Recording(Generic[ItemT, ResultT]):
    """
    A decorator of a run's item processor that appends each outcome to an outcomes file.

    Args:
        outcomes: the file.
        build: makes the operation of an item.
        processor: the item processor.
        line_of: returns the line of the item at a position.
        has_journal: whether the run has a journal, so that earlier lines are of the same runs.
        by_id: whether an id alone identifies an item, in any order of the items.
    """

    def __init__(
        self,
        outcomes: OutcomesPath,
        build: Callable[[ItemT], Operation[ResultT]],
        processor: ItemProcessor[ItemT, ResultT],
        line_of: Callable[[int], int],
        *,
        has_journal: bool,
        by_id: bool,
    ) -> None:
        self._has_journal = has_journal
        self._file = OutcomesFile(outcomes.path, by_id=by_id)
        self._line_of = line_of
        self._identify = outcomes.identify
        self._build = build
        self._processor = processor
        self._watched = False

    @contextlib.asynccontextmanager
    async def open(self, run: BulkRun[ItemT, ResultT]) -> AsyncIterator[None]:
        """Keep the outcomes file of a run open; the run stops if nothing more can be recorded."""
        self._watched = run.is_watched
        async with self._processor.open(run):
            await self._file.open(run.stop)
            try:
                yield
            finally:
                await self._file.aclose()

    async def process(self, index: int, item: ItemT, worker: Worker) -> Outcome[ItemT, ResultT]:
        """
        Process an item, and record its outcome.

        If outcomes are delivered during the run, the outcome of a sent item is on the disk first.
        """
        worker.operation = None
        outcome = await self._processor.process(index, item, worker)
        self._add(outcome, worker.operation)
        if self._file.is_full or (self._watched and outcome.attempts):
            await self._file.saved()
        return outcome

    async def pass_over(self, index: int, item: ItemT, worker: Worker) -> Outcome[ItemT, ResultT]:
        """Record the outcome of an item that is not processed."""
        if self._file.is_full:
            await self._file.flushed()
        outcome = await self._processor.pass_over(index, item, worker)
        self._add(outcome, worker.operation)
        return outcome

    def _add(self, outcome: Outcome[ItemT, ResultT], operation: Operation[Any] | None) -> None:
        if self._identify is not None:
            line, name = self._identify(outcome.item)
        else:
            line, name = self._line_of(outcome.index), self._id_of(outcome.item, operation)
        # an item that this run did not process may have ended in an earlier one
        is_earlier = outcome.earlier is not None or (self._has_journal and outcome.at is None)
        self._file.add(Entry(line, name, outcome, is_earlier))

    def _id_of(self, item: ItemT, operation: Operation[Any] | None) -> str | None:
        with contextlib.suppress(Exception):  # the error is in the item's outcome
            return id_of(self._build(item) if operation is None else operation)
        return _id_in_item(item)


def id_of(operation: Operation[Any]) -> str | None:
    """
    Return the id of the profile or object of an operation; None if it has no id.

    1. The body contains it: a Mail profile, an event, a purchase. The first of several ids counts.
    2. A header contains the profile's id. Of two ids, the customer user id counts.
    3. The URL's path contains it, such as that of a paywall.
    """
    key_of = operation.endpoint.lock_key
    if key_of is not None:
        return _id_in_key(key_of(operation.body))
    named = [pair for pair in operation.headers if pair[0] in IDENTITIES]
    if not named:
        path = operation.endpoint.path
        named = [pair for pair in operation.parameters if f"{{{pair[0]}}}" in path]
    return _id_in_key(min(named, default=None))


def _id_in_key(lock_key: Any) -> str | None:
    """Return the id in a lock key: an id, a pair of a name and an id, or several such pairs."""
    while isinstance(lock_key, tuple) and lock_key:
        lock_key = lock_key[-1] if isinstance(lock_key[0], str) else lock_key[0]
    return exact_text(lock_key) if isinstance(lock_key, str) else None


def _id_in_item(item: Any) -> str | None:
    """
    Return the id of an item whose operation could not be built; None if it has no visible id.

    Such an item is a string, or a tuple that begins with an id.
    """
    if isinstance(item, tuple) and item:
        item = item[0]
    return exact_text(item) if isinstance(item, str) else None
