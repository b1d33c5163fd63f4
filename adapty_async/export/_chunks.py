"""Calendar chunks of a range of dates."""

from __future__ import annotations

import calendar
import datetime as dt
from collections.abc import Iterator, Mapping

from msgspec import UNSET

from adapty_async.errors import InvalidInputError
from adapty_async.export._queries import PeriodUnit, Query, parsed_dates

#: The first and the last day of a range, both inclusive.
Dates = tuple[dt.date, dt.date]

_DAYS = frozenset({PeriodUnit.DAY})
_MONTHS = _DAYS | {PeriodUnit.MONTH}
_QUARTERS = _MONTHS | {PeriodUnit.QUARTER}
#: The kinds of chunks, with the period units that none of their borders divides.
CHUNKS: Mapping[str, frozenset[str]] = {
    "day": _DAYS,
    "week": _DAYS | {PeriodUnit.WEEK},
    "month": _MONTHS,
    "quarter": _QUARTERS,
    "year": _QUARTERS | {PeriodUnit.YEAR},
}
_MONTHS_OF = {"month": 1, "quarter": 3, "year": 12}


def split(query: Query, by: str) -> tuple[Dates, ...]:
    """
    Return the chunks of a query's range of dates.

    Raises:
        InvalidInputError: `by` is no kind of chunk, or the query cannot be divided by it.
    """
    if by not in CHUNKS:
        raise InvalidInputError("by", f"must be one of {', '.join(CHUNKS)}")
    if query.filters.compare_date is not UNSET:
        raise InvalidInputError("filters.compare_date", "cannot be divided into chunks")
    period = query.period
    if period in CHUNKS and period not in CHUNKS[by]:
        units = " or ".join(sorted(CHUNKS[by]))
        raise InvalidInputError(
            "by", f"a {by} would divide a period of a {period}; period_unit must be {units}"
        )
    return tuple(chunks_of(*parsed_dates(query.filters.date), by))


def chunks_of(first: dt.date, last: dt.date, by: str) -> Iterator[Dates]:
    """
    Yield consecutive ranges from the first to the last day.

    Each is a day, week (from Monday), month, quarter or year of the calendar, or what the range
    has of it.
    """
    start = first.toordinal()
    while start <= last.toordinal():
        begin = dt.date.fromordinal(start)
        end = min(_end_of(begin, by), last.toordinal())
        yield begin, dt.date.fromordinal(end)
        start = end + 1


def _end_of(day: dt.date, by: str) -> int:
    """Return the ordinal of the last day of the day's week, month and so on."""
    if by == "day":
        return day.toordinal()
    if by == "week":
        return day.toordinal() + 6 - day.weekday()
    months = _MONTHS_OF[by]
    month = (day.month + months - 1) // months * months
    return dt.date(day.year, month, calendar.monthrange(day.year, month)[1]).toordinal()
