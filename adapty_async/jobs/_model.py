"""The values of a job, without I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from adapty_async.bulk import ItemState, JournalIdentity, OutcomeStatus

#: The count of a report to which an item with a state belongs.
STATUS_OF: Mapping[ItemState, str] = {
    ItemState.NONE: "not_sent",
    ItemState.NOT_SENT: "not_sent",
    ItemState.RESERVED: "in_flight",
    ItemState.STARTED: "in_flight",
    ItemState.DONE: "done",
    ItemState.ABSENT: "absent",
    ItemState.FAILED: "failed",
    ItemState.LOST: "failed",
    ItemState.UNKNOWN: "unknown",
    ItemState.DUPLICATE: "skipped",
}


class PartPlan(msgspec.Struct, frozen=True):
    """
    A part of an input.

    Attributes:
        size: the number of its items.
        source: where they are, such as a byte range, and a digest of them; never an id.
    """

    size: int
    source: dict[str, Any]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """
    An input that is divided into parts.

    Attributes:
        source: a description of the input, without ids; equal for an equal input.
        parts: its parts, in order.
    """

    source: dict[str, Any]
    parts: list[PartPlan]

    @property
    def items(self) -> int:
        """The number of items."""
        return sum(part.size for part in self.parts)


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """
    The row of a job.

    Attributes:
        id: its number in the store.
        name: its name.
        identity: its operation, origin and account.
        id_kind: the kind of its ids, such as ``customer_user_id``.
        source: the description of its input.
        items: the number of items.
        part_size: maximum of items of a part.
        parts: the number of parts.
    """

    id: int
    name: str
    identity: JournalIdentity
    id_kind: str
    source: dict[str, Any]
    items: int
    part_size: int
    parts: int


class PartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """
    The row of a part.

    Attributes:
        number: its number in the job, from 0.
        first: the position in the input of its first item, from 0.
        size: the number of its items.
        source: where the items are.
        has_ended: every item has an outcome.
        stop_reason: why the job stopped; None if it did not.
    """

    number: int
    first: int
    size: int
    source: dict[str, Any]
    has_ended: bool
    stop_reason: str | None


#: The counts of a part and of a report, and the columns of a part in the store.
COUNTS = (*(status.value for status in OutcomeStatus), "in_flight")


def count_states(spans: Mapping[int, bytes], size: int) -> Counter[str]:
    """Return the counts of a part of *n* items, from the states of its spans."""
    counts = Counter(dict.fromkeys(COUNTS, 0))
    for state, name in STATUS_OF.items():
        if state is not ItemState.NONE:
            counts[name] += sum(states.count(state) for states in spans.values())
    counts["not_sent"] += size - counts.total()
    return counts


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """
    The number of parts of a job.

    Attributes:
        total: all parts.
        ended: those of which every item has an outcome.
        running: those on which a runner works now.
        changed: those whose input has changed since it was planned; no runner takes them.
    """

    total: int
    ended: int
    running: int
    changed: int


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """
    The report of a job over all its workers; every item is in exactly one count.

    Times are in seconds since the epoch, on the store's clock.

    Attributes:
        name: the name of the job.
        operation: the name of its call, and the kind of its ids.
        items: the number of its items.
        done, absent, failed, unknown: the number of items with this status; see
            `adapty_async.bulk.OutcomeStatus`.
        not_sent: items without an outcome that were not sent.
        skipped: items with an equal request earlier in the same part.
        in_flight: items that may have been sent and have no outcome yet: their worker is at work,
            or was killed.
        requests: the number of requests sent for items that ended, retries included.
        throttled: the number of these requests that were throttled (429).
        reasons: how many items were not done, by the error's class or documented code and the last
            HTTP status or 0; over all runs, so an item may be in several.
        parts: the number of parts.
        workers: the number of processes that work on a part now.
        rate: items that ended per second, in the last minute of work; None if no part is running.
        limit: requests per second that the account allows, as a worker measured it last; None if
            none has done so, or no part is running.
        planned_at: when the job was planned.
        stop_reason: why it stopped; None if it did not.
    """

    name: str
    operation: str
    items: int
    done: int
    absent: int
    failed: int
    unknown: int
    not_sent: int
    skipped: int
    in_flight: int
    requests: int
    throttled: int
    reasons: Mapping[tuple[str, int], int]
    parts: Parts
    workers: int
    rate: float | None
    limit: float | None
    planned_at: float
    stop_reason: str | None

    @property
    def counts(self) -> dict[str, int]:
        """The count of every status, and ``in_flight``; they add up to `items`."""
        return {name: getattr(self, name) for name in COUNTS}

    @property
    def has_ended(self) -> bool:
        """Whether every item has an outcome."""
        return self.parts.ended == self.parts.total

    @property
    def ok(self) -> bool:
        """Whether every item is done, absent or skipped."""
        return self.items == self.done + self.absent + self.skipped

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}={count}" for name, count in self.counts.items() if count)
        return f"JobReport({self.name}, items={self.items}{', ' if counts else ''}{counts})"


class JobOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """
    The outcome of one item of a job.

    Attributes:
        index: its position in the input, from 0.
        line: the number of its first line, from 1; None if the input has no lines.
        item: its id, read from the input; None if it cannot be read.
        status: its status.
    """

    index: int
    line: int | None
    item: str | None
    status: OutcomeStatus

    def __repr__(self) -> str:
        return f"JobOutcome(index={self.index}, status={self.status})"
