"""
Very many calls, a bounded number at a time, with an account of every item.
"""

from __future__ import annotations

from adapty_async.bulk._calls import BulkOptions, Items, StartBulk
from adapty_async.bulk._entries import Entry
from adapty_async.bulk._ledger import InputIdentity
from adapty_async.bulk._outcome import (
    BulkReport,
    EarlierStatus,
    Outcome,
    OutcomeStatus,
    StopReason,
)
from adapty_async.bulk._runner import BulkRun
from adapty_async.bulk._summary import JournalSummary, summarise

__all__ = (
    "BulkOptions",
    "BulkReport",
    "BulkRun",
    "EarlierStatus",
    "Entry",
    "InputIdentity",
    "Items",
    "JournalSummary",
    "Outcome",
    "OutcomeStatus",
    "StartBulk",
    "StopReason",
    "summarise",
)
