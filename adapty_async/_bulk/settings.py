"""The options of bulk methods, the checked settings of a run, and the interface of its limit."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypedDict, TypeVar

import msgspec

from adapty_async._bulk.outcome import Outcome
from adapty_async._flow.limits import StopSignal
from adapty_async._journal import Journal

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

#: Maximum of workers of a run without `concurrency`; the request rate determines the number.
MOST_WORKERS = 256
#: The largest `concurrency`: each worker is a task, and a journal reserves space for each item in
#: flight. A mistyped number would use up the memory and the disk.
MAX_CONCURRENCY = 10_000
#: Seconds without a success that end a run by default, and without its store the work on a job.
MAX_OUTAGE = 900.0
#: Seconds that requests in flight get to end by default when a run is stopped.
DRAIN_SECONDS = 5.0


class BulkOptions(TypedDict, Generic[ItemT, ResultT], total=False):
    """
    The options of every bulk method.

    Attributes:
        concurrency: maximum of requests in flight, 10,000 at most. By default 64 at first, up to
            256, as long as more increase the throughput.
        rate: maximum of requests per second, retries included; by default the request rate adapts
            to the account's limit.
        fail_fast: stop after the first item that is not done, absent or skipped.
        on_outcome: a callback that receives each outcome in the event loop; its exceptions stop
            the run.
        ordered: deliver outcomes in the order of the input; by default in the order in which they
            end.
        drain: seconds that requests in flight get to end when the run is stopped; 5 by default.
        max_outage: seconds without any success, whatever the server responds, that end the run;
            900 by default. Time in which the run sends nothing because of ``rate``, of a slow
            source or of the journal's disk does not count.
        journal: the path of a file that makes the run resumable: a further run with the same
            journal skips the items that are done. Or another `Journal`.
        dedupe: send each request once, and skip items with an equal request. A journal without a
            `job_id` implies it.
        job_id: asserts that the items come in the same order each time the journal is used, so a
            set is rejected. Without it, they are identified by their requests, in any order. An
            `InputFile` needs none: its content is compared, with a `job_id` too.
        outcomes: a file that records how each item ended, with its id: one line of JSON each, as
            the items end. Further runs append to it. Unlike a journal it contains personal data.
    """

    concurrency: int | None
    rate: float | None
    fail_fast: bool
    on_outcome: Callable[[Outcome[ItemT, ResultT]], object] | None
    ordered: bool
    drain: float
    max_outage: float
    journal: str | os.PathLike[str] | Journal | None
    job_id: str | None
    dedupe: bool
    outcomes: str | os.PathLike[str] | None


class WorkerLimit(Protocol):
    """A limit of a run's workers that may change during the run."""

    limit: int
    most_workers: int

    def more_wanted(self) -> int:
        """Return how many more workers are useful than at the last call."""
        ...

    def should_retire(self, workers: int) -> bool:
        """Return whether one of *n* workers should end."""
        ...


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    The checked options of a run; see those of `adapty_async.AdaptyClient.bulk`.

    Attributes:
        concurrency: maximum number of workers.
        worker_limit: the current limit of workers; None if it is always `concurrency`.
        fail_fast, ordered, on_outcome: as in `adapty_async.bulk.BulkOptions`.
        drain: seconds that requests in flight get to end when the run stops.
        stopping: set when the run stops; the pipeline layers of its calls read it.
        patience: returns the seconds until an outage ends the run, if no request succeeds.
        check_interval: seconds between two calls of `patience`.
    """

    concurrency: int
    worker_limit: WorkerLimit | None
    fail_fast: bool
    ordered: bool
    drain: float
    on_outcome: Callable[[Any], object] | None
    stopping: StopSignal
    patience: Callable[[], float]
    check_interval: float
