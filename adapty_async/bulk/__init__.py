"""
Very many calls, a bounded number at a time, with an account of every item.
"""

from __future__ import annotations

from adapty_async.bulk._calls import (
    MAX_OUTAGE,
    MOST_WORKERS,
    BulkOptions,
    Engine,
    Items,
    StartBulk,
    run_calls,
    settings_from,
)
from adapty_async.bulk._entries import Entry
from adapty_async.bulk._ledger import InputIdentity, Ledger, Scope, input_of
from adapty_async.bulk._outcome import BulkReport, Outcome, OutcomeStatus, StopReason
from adapty_async.bulk._runner import BulkRun
from adapty_async.bulk._summary import JournalSummary, summarise

__all__ = (
    "MAX_OUTAGE",
    "MOST_WORKERS",
    "BulkOptions",
    "BulkReport",
    "BulkRun",
    "Engine",
    "Entry",
    "InputIdentity",
    "Items",
    "JournalSummary",
    "Ledger",
    "Outcome",
    "OutcomeStatus",
    "Scope",
    "StartBulk",
    "StopReason",
    "input_of",
    "run_calls",
    "settings_from",
    "summarise",
)
