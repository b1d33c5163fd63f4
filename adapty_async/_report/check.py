"""A check whether each id of an input has a final outcome in the records of its runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from adapty_async._journal import Spans, state_at
from adapty_async._report.outcomes import FINAL, ListedItem, OutcomesFile

_SHOWN = 10
_NOTHING = "none"


class InputRow(msgspec.Struct, frozen=True):
    """A row of an input: its line number and its id; None if it has no readable id."""

    line: int
    id: str | None


class MissingLine(msgspec.Struct, frozen=True):
    """
    A line of an input without a final outcome, with the last known state of its id.

    The state is ``none`` without a record, and ``unreadable`` for a row without an id.
    """

    line: int
    state: str


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """
    The result of a check: whether each id of an input is done, absent or a duplicate.

    Attributes:
        input: the name of the input, without folders.
        by: the records that must contain every row: ``journal``, ``outcomes`` or both.
        rows: the number of rows of the input.
        final: the number of rows with a final outcome.
        missing: the first ten rows without a final outcome.
        missing_omitted: the number of further rows without one.
        without_id: rows of a CSV file that were left out, as the run does, since they have no id.
        noun: what its rows are numbered by: ``line``, or ``row`` of a table.
        column, encoding, sheet: how the input was read, as far as the user said so.
        has_others: the outcomes file has outcomes of other runs, so it proves nothing.
        ok: every row has a final outcome, and the records are those of the journal's runs.
    """

    input: str
    by: tuple[str, ...]
    rows: int
    final: int
    missing: tuple[MissingLine, ...]
    missing_omitted: int
    without_id: int = 0
    noun: str = "line"
    column: str | None = None
    encoding: str | None = None
    sheet: str | None = None
    has_others: bool = False
    ok: bool

    @property
    def records(self) -> str:
        """The names of the records, as text for people."""
        return " and the ".join({"outcomes": "outcomes file"}.get(each, each) for each in self.by)


def check(
    name: str, rows: Iterable[InputRow], spans: Spans | None, outcomes: OutcomesFile | None
) -> Check:
    """
    Return the rows of an input that have no final outcome, and the counts of a check.

    Args:
        name: the name of the input.
        rows: the rows.
        spans: the states of the journal; None if it belongs to another input.
        outcomes: the outcomes file; None without one.
    """
    count = missing = 0
    shown: list[MissingLine] = []
    for position, row in enumerate(rows):
        count += 1
        state = _open_state(position, row, spans, outcomes)
        if state is not None:
            missing += 1
            if len(shown) < _SHOWN:
                shown.append(MissingLine(row.line, state))
    known = {"journal": spans, "outcomes": outcomes}
    has_others = outcomes is not None and outcomes.summary.has_others
    return Check(
        input=name,
        by=tuple(by for by, record in known.items() if record is not None),
        rows=count,
        final=count - missing,
        missing=tuple(shown),
        missing_omitted=missing - len(shown),
        has_others=has_others,
        ok=not (missing or has_others),
    )


def _open_state(
    position: int, row: InputRow, spans: Spans | None, outcomes: OutcomesFile | None
) -> str | None:
    """
    Return the state of a row that is not final in one of the records; None if all are final.

    The journal has no record of a row that cannot be sent, and the outcomes file has its failure.
    """
    if row.id is None:
        return "unreadable"
    found = [] if spans is None else [_state(spans, position)]
    if outcomes is not None:
        is_same = spans is not None  # the lines are those of the run
        status = outcomes.status_at(row.line, row.id) if is_same else outcomes.status_of(row.id)
        found.append(status or _NOTHING)
    left = [state for state in found if state not in FINAL]
    return next((state for state in left if state != _NOTHING), left[0] if left else None)


def _state(spans: Spans, position: int) -> str:
    """Return the name of an item's state; ``none`` without a record."""
    return state_at(spans, position).name.lower()


def listed(rows: Iterable[InputRow], spans: Spans) -> Iterator[ListedItem]:
    """Yield the rows of a journal's input with their states."""
    for position, row in enumerate(rows):
        yield ListedItem(line=row.line, id=row.id, status=_state(spans, position))
