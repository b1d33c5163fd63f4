"""
Very many calls, a bounded number at a time, with an account of every item.
"""

from __future__ import annotations

from adapty_async._journal import ItemState, JournalIdentity, JournalSummary, summarise
from adapty_async.bulk._calls import BulkOptions, Items, StartBulk
from adapty_async.bulk._outcome import (
    BulkReport,
    EarlierStatus,
    Outcome,
    OutcomeStatus,
    StopReason,
)
from adapty_async.bulk._runner import BulkRun
from adapty_async.bulk._run_journal import InputIdentity

__all__ = (
    "BulkOptions",
    "BulkReport",
    "BulkRun",
    "EarlierStatus",
    "InputIdentity",
    "ItemState",
    "Items",
    "JournalIdentity",
    "JournalSummary",
    "Outcome",
    "OutcomeStatus",
    "StartBulk",
    "StopReason",
    "summarise",
)
