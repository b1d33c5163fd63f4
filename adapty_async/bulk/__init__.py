"""
Very many calls, a bounded number at a time, with an account of every item.
"""

from __future__ import annotations

from adapty_async.bulk._calls import (
    BulkOptions,
    Engine,
    Items,
    StartBulk,
    run_calls,
    settings_from,
)
from adapty_async.bulk._outcome import BulkReport, Outcome, OutcomeStatus, StopReason
from adapty_async.bulk._runner import BulkRun

__all__ = (
    "BulkOptions",
    "BulkReport",
    "BulkRun",
    "Engine",
    "Items",
    "Outcome",
    "OutcomeStatus",
    "StartBulk",
    "StopReason",
    "run_calls",
    "settings_from",
)
