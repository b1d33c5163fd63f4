"""A journal is the write-ahead record of a run: an interface, an SQLite store and a fake."""

from __future__ import annotations

from adapty_async._journal.keys import OBJECT_KEY_SIZE, KeyIndex
from adapty_async._journal.memory import MemoryJournal
from adapty_async._journal.model import (
    KEY_SIZE,
    SPAN_SIZE,
    Changes,
    InputCheck,
    ItemState,
    Journal,
    JournalIdentity,
    LoadKeys,
    Minute,
    Reason,
    Resumed,
    Run,
    Spans,
    state_at,
)
from adapty_async._journal.run_name import RunName
from adapty_async._journal.sqlite import (
    SqliteJournal,
    belongs_to_journal,
    copy_journal,
    files_of,
    is_in_use,
    log_of,
)
from adapty_async._journal.summary import (
    OUTCOMES,
    JournalSummary,
    read_journal,
    summarise,
)
from adapty_async._journal.writer import JournalWriter

__all__ = (
    "KEY_SIZE",
    "OBJECT_KEY_SIZE",
    "OUTCOMES",
    "SPAN_SIZE",
    "Changes",
    "InputCheck",
    "ItemState",
    "Journal",
    "JournalIdentity",
    "JournalSummary",
    "JournalWriter",
    "KeyIndex",
    "LoadKeys",
    "MemoryJournal",
    "Minute",
    "Reason",
    "Resumed",
    "Run",
    "RunName",
    "Spans",
    "SqliteJournal",
    "belongs_to_journal",
    "copy_journal",
    "files_of",
    "is_in_use",
    "log_of",
    "read_journal",
    "state_at",
    "summarise",
)
