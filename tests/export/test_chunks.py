"""The division of a range of dates into chunks of the calendar."""

from __future__ import annotations

import datetime as dt
import enum
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async import InvalidInputError
from adapty_async.export import Filters, PeriodUnit
from adapty_async.export._chunks import CHUNKS, chunks_of, split
from adapty_async.export._queries import AnalyticsQuery, FunnelQuery

YEARS = st.dates(dt.date(1990, 1, 1), dt.date(2060, 12, 31))
DAYS = st.integers(0, 3000)
KINDS = st.sampled_from(sorted(CHUNKS))


def unit_of(day: dt.date, by: str) -> tuple[int, ...]:
    """Return what identifies the day's unit of the calendar."""
    return {
        "day": (day.toordinal(),),
        "week": tuple(day.isocalendar())[:2],
        "month": (day.year, day.month),
        "quarter": (day.year, (day.month - 1) // 3),
        "year": (day.year,),
    }[by]


@given(first=YEARS, days=DAYS, by=KINDS)
def test_chunks_are_the_range(first: dt.date, days: int, by: str) -> None:
    """Chunks have each day of the range once, in order, and no two days of different units."""
    last = first + dt.timedelta(days=days)
    chunks = list(chunks_of(first, last, by))

    assert chunks[0][0] == first
    assert chunks[-1][1] == last
    for (_, end), (begin, _) in itertools.pairwise(chunks):
        assert begin - end == dt.timedelta(days=1)
        assert unit_of(begin, by) != unit_of(end, by)
    for begin, end in chunks:
        assert begin <= end
        assert unit_of(begin, by) == unit_of(end, by)


@pytest.mark.parametrize("by", sorted(CHUNKS))
def test_chunks_reach_the_end_of_the_calendar(by: str) -> None:
    """The last days that Python knows are divided like all others."""
    chunks = list(chunks_of(dt.date(9999, 12, 1), dt.date.max, by))

    assert chunks[-1][1] == dt.date.max


def query(**changes: object) -> AnalyticsQuery:
    """Return a request for 2025."""
    filters = Filters(date=("2025-01-01", dt.date(2025, 12, 31)))
    return AnalyticsQuery(**{"chart_id": "mrr", "filters": filters, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("by", "count"),
    [("day", 365), ("week", 53), ("month", 12), ("quarter", 4), ("year", 1)],
)
def test_a_year_is_divided(by: str, count: int) -> None:
    """A year has as many chunks as units of the calendar."""
    assert len(split(query(period_unit="day"), by)) == count


@pytest.mark.parametrize(
    ("by", "unit"),
    [("day", "month"), ("month", "week"), ("month", "quarter"), ("week", "month"), ("day", None)],
)
def test_no_period_is_divided(by: str, unit: str | None) -> None:
    """A chunk that would end within a period is an error; a month is the server's default."""
    changes = {} if unit is None else {"period_unit": unit}
    with pytest.raises(InvalidInputError, match=rf"by: a {by} would divide .*{unit or 'month'}"):
        split(query(**changes), by)


class Unit(str, enum.Enum):  # noqa: UP042  its text is its name, unlike that of a StrEnum
    """A unit of somebody's own."""

    MONTH = "month"


def test_no_period_of_an_own_enumeration_is_divided() -> None:
    """A unit is what it equals, not what `str` shows."""
    with pytest.raises(InvalidInputError, match="by: a day would divide a period of a month"):
        split(query(period_unit=Unit.MONTH), "day")


@pytest.mark.parametrize("unit", [*PeriodUnit, "decade"])
def test_whole_periods_are_kept(unit: str) -> None:
    """A chunk may be as long as a period; the borders of an unknown one are unknown."""
    by = unit if unit in CHUNKS else "day"

    assert split(query(period_unit=unit), by)


def test_an_undocumented_default_is_no_obstacle() -> None:
    """A request without a documented period unit can be divided by any unit."""
    filters = Filters(date=("2025-01-01", "2025-01-31"))

    assert len(split(FunnelQuery(filters=filters), "day")) == 31


def test_what_cannot_be_divided() -> None:
    """An unknown unit and a comparison with another range are errors that name the field."""
    filters = Filters(date=("2025-01-01", "2025-12-31"), compare_date=("2024-01-01", "2024-12-31"))
    with pytest.raises(InvalidInputError, match=r"by: must be one of day, week, month"):
        split(query(), "decade")
    with pytest.raises(InvalidInputError, match=r"filters\.compare_date: cannot be divided"):
        split(query(filters=filters), "month")
