"""
The report of a journal for people and programs: its figures, a page, and a check of an input.
"""

from __future__ import annotations

from adapty_async._report.check import Check, ListedItem, check, listed
from adapty_async._report.figures import Interval, Report, RunFigures, figures_of, intervals
from adapty_async._report.outcomes import OutcomesFile
from adapty_async._report.page import page

__all__ = (
    "Check",
    "Interval",
    "ListedItem",
    "OutcomesFile",
    "Report",
    "RunFigures",
    "check",
    "figures_of",
    "intervals",
    "listed",
    "page",
)
