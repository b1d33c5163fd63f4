"""The report of a journal for people and programs: its figures, a page, and a check of an input."""

from __future__ import annotations

from adapty_async._report.check import Check, InputRow, check, listed
from adapty_async._report.figures import Report, as_json, figures_of, intervals, journal_file
from adapty_async._report.file import require_replaceable, write_file
from adapty_async._report.outcomes import ListedItem, OutcomesFile, name_of
from adapty_async._report.page import page, verdict

__all__ = (
    "Check",
    "InputRow",
    "ListedItem",
    "OutcomesFile",
    "Report",
    "as_json",
    "check",
    "figures_of",
    "intervals",
    "journal_file",
    "listed",
    "name_of",
    "page",
    "require_replaceable",
    "verdict",
    "write_file",
)
