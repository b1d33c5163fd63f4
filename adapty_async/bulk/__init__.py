"""
Very many calls, a bounded number at a time, with an account of every item.
"""

from __future__ import annotations

from adapty_async._journal import (
    ItemState,
    Journal,
    JournalIdentity,
    JournalSummary,
    copy_journal,
    summarise,
)
from adapty_async.bulk._calls import BulkOptions, Items, StartBulk
from adapty_async.bulk._outcome import (
    BulkReport,
    EarlierStatus,
    Outcome,
    OutcomeStatus,
    StopReason,
)
from adapty_async.bulk._run_journal import InputIdentity
from adapty_async.bulk._runner import BulkRun

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
