"""Bulk runs: large numbers of calls with bounded concurrency, and an outcome for every item."""

from __future__ import annotations

from adapty_async._bulk.bulk_run import BulkRun
from adapty_async._bulk.item_processor import Items, StartBulk
from adapty_async._bulk.outcome import (
    BulkReport,
    EarlierStatus,
    Outcome,
    OutcomeStatus,
    StopReason,
)
from adapty_async._bulk.run_journal import InputIdentity
from adapty_async._bulk.settings import BulkOptions
from adapty_async._journal import (
    ItemState,
    Journal,
    JournalIdentity,
    JournalSummary,
    copy_journal,
    summarise,
)

__all__ = (
    "BulkOptions",
    "BulkReport",
    "BulkRun",
    "EarlierStatus",
    "InputIdentity",
    "ItemState",
    "Items",
    "Journal",
    "JournalIdentity",
    "JournalSummary",
    "Outcome",
    "OutcomeStatus",
    "StartBulk",
    "StopReason",
    "copy_journal",
    "summarise",
)
