"""Jobs: bulk runs of many processes over one store, which the death of any of them survives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapty_async._bulk.settings import MAX_OUTAGE
from adapty_async.jobs._errors import (
    JobError,
    JobStoppedError,
    PartBusyError,
    PartChangedError,
    StoreUnavailableError,
)
from adapty_async.jobs._job import Call, Job, PartOptions
from adapty_async.jobs._model import JobOutcome, JobReport, Parts
from adapty_async.jobs._sources import Lines, PlannedSource, Source
from adapty_async.jobs._store import JobStore

if TYPE_CHECKING:
    from adapty_async.jobs._query import Query

__all__ = (
    "MAX_OUTAGE",
    "Call",
    "Job",
    "JobError",
    "JobOutcome",
    "JobReport",
    "JobStoppedError",
    "JobStore",
    "Lines",
    "PartBusyError",
    "PartChangedError",
    "PartOptions",
    "Parts",
    "PlannedSource",
    "Query",
    "Source",
    "StoreUnavailableError",
)


def __getattr__(name: str) -> Any:
    """Import `Query` on its first use: it needs the extra ``jobs``."""
    if name != "Query":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from adapty_async.jobs._query import Query  # noqa: PLC0415  an extra
    except ImportError:
        raise ImportError(
            "Query needs more packages: pip install 'adapty-async[jobs]'", name="psycopg"
        ) from None
    return Query
