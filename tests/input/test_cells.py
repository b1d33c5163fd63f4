"""Typed cells become the text of a CSV file, and never another id."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async._input.cells import (
    EXACT_DOUBLE,
    EXACT_HALF,
    EXACT_SINGLE,
    UnusableCellError,
    id_text,
    number,
    text,
)

NOON = dt.datetime(2026, 6, 1, 12, 30)  # noqa: DTZ001  without a zone, as in a spreadsheet
A_UUID = uuid.UUID("3fa85f64-5717-4562-b3fc-2c963f66afa6")
MISSING = [
    None,
    "",
    float("nan"),
    Decimal("nan"),
    pd.NA,
    pd.NaT,
    np.float64("nan"),
    np.datetime64("NaT", "s"),
    np.timedelta64("NaT", "s"),
]


@pytest.mark.parametrize("cell", MISSING, ids=repr)
def test_a_missing_cell_is_no_text(cell: Any) -> None:
    """A missing value of any library is no id, no text and no number."""
    assert (id_text(cell), text(cell), number(cell)) == (None, None, None)


@pytest.mark.parametrize(
    ("cell", "identifier"),
    [
        pytest.param("00123", "00123", id="text"),
        pytest.param(" u1 ", " u1 ", id="blanks"),
        pytest.param(100045, "100045", id="int"),
        pytest.param(-1, "-1", id="negative"),
        pytest.param(12345678901234567890, "12345678901234567890", id="long"),
        pytest.param(100045.0, "100045", id="float"),
        pytest.param(2.0**53 - 1, "9007199254740991", id="last-exact-float"),
        pytest.param(Decimal(12345678901234567890), "12345678901234567890", id="decimal"),
        pytest.param(Decimal("1E+3"), "1000", id="decimal-exponent"),
        pytest.param(Decimal("100400.00"), "100400", id="decimal-with-a-scale"),
        pytest.param(Decimal(f"{10**60 + 1}.0"), str(10**60 + 1), id="long-decimal"),
        pytest.param(A_UUID, str(A_UUID), id="uuid"),
        pytest.param(np.int64(7), "7", id="numpy-int"),
        pytest.param(np.float64(7), "7", id="numpy-float"),
        pytest.param(np.str_("u1"), "u1", id="numpy-text"),
    ],
)
def test_an_id_is_the_exact_text(cell: Any, identifier: str) -> None:
    """Text and whole numbers are ids, digit by digit."""
    assert id_text(cell) == identifier


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        pytest.param(1.5, "has a fraction", id="fraction"),
        pytest.param(Decimal("1.5"), "has a fraction", id="decimal-fraction"),
        pytest.param(True, "is true or false", id="bool"),
        pytest.param(np.array([False])[0], "is true or false", id="numpy-bool"),
        pytest.param(2.0**53, "has lost digits", id="large-float"),
        pytest.param(np.float32(2**24), "has lost digits", id="numpy-single"),
        pytest.param(np.float16(2**11), "has lost digits", id="numpy-half"),
        pytest.param(np.datetime64("2026-06-01T12:30", "ns"), "is a date", id="numpy-date"),
        pytest.param(np.datetime64("99999-01-01"), "outside of the years", id="numpy-far-date"),
        pytest.param(np.timedelta64(5, "ns"), "is a time of day or a", id="numpy-duration"),
        pytest.param("u" * (2**20 + 1), "is longer than 1 MiB", id="long"),
        pytest.param(float("inf"), "is an infinite number", id="infinite"),
        pytest.param(Decimal("-inf"), "is an infinite number", id="infinite-decimal"),
        pytest.param(NOON, "is a date", id="datetime"),
        pytest.param(NOON.date(), "is a date", id="date"),
        pytest.param(pd.Timestamp(NOON), "is a date", id="timestamp"),
        pytest.param(NOON.time(), "is a time of day", id="time"),
        pytest.param(dt.timedelta(1), "is a time of day or a duration", id="duration"),
        pytest.param(b"u1", "is binary", id="bytes"),
        pytest.param(["u1"], "is a list", id="list"),
        pytest.param({"id": "u1"}, "is a list or an object", id="object"),
        pytest.param(np.array(["u1"]), "is a list", id="array"),
        pytest.param(pd.Period("2026"), "has the type Period", id="period"),
    ],
)
def test_what_cannot_be_an_id_has_a_reason(cell: Any, reason: str) -> None:
    """A cell that may be another id, or none, is rejected, and the reason does not show it."""
    with pytest.raises(UnusableCellError, match=reason) as caught:
        id_text(cell)
    assert "u1" not in str(caught.value)


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        pytest.param(True, "true", id="bool"),
        pytest.param(9.99, "9.99", id="float"),
        pytest.param(10.0, "10", id="whole-float"),
        pytest.param(np.float64(9.99), "9.99", id="numpy"),
        pytest.param(Decimal("9.990"), "9.99", id="decimal"),
        pytest.param(Decimal("1E+2"), "100", id="decimal-exponent"),
        pytest.param(NOON, "2026-06-01T12:30:00", id="naive"),
        pytest.param(NOON.replace(tzinfo=dt.UTC), "2026-06-01T12:30:00+00:00", id="aware"),
        pytest.param(pd.Timestamp(NOON), "2026-06-01T12:30:00", id="timestamp"),
        pytest.param(pd.Timestamp("2026-06-01"), "2026-06-01", id="midnight"),
        pytest.param(
            pd.Timestamp("2026-06-01", tz="UTC"), "2026-06-01T00:00:00+00:00", id="aware-midnight"
        ),
        pytest.param(NOON.date(), "2026-06-01", id="date"),
        pytest.param(np.datetime64("2026-06-01T12:30", "ns"), "2026-06-01T12:30:00", id="numpy-ns"),
        pytest.param(np.datetime64("2026-06-01"), "2026-06-01", id="numpy-date"),
        pytest.param(np.float32(9.99), "9.99", id="numpy-single"),
        pytest.param(np.float16(9.99), "9.99", id="numpy-half"),
        pytest.param(np.float32(1234567.5), "1234567.5", id="single-eight-digits"),
        pytest.param(np.float32(199999.99), "199999.98", id="single-rounded"),
        pytest.param(np.float32(16777.217), "16777.217", id="single-nearest"),
        pytest.param(np.float16(1023.5), "1023.5", id="half-five-digits"),
    ],
)
def test_a_cell_is_what_a_csv_file_has(cell: Any, written: str) -> None:
    """Cells of all types have the text that they have in a CSV file."""
    assert text(cell) == written


def test_floats_of_fewer_bits_have_fewer_digits() -> None:
    """A float of 32 bits is exact for fewer numbers, and is not shown with digits it never had."""
    assert text(float(np.float32(9.99)), EXACT_SINGLE) == "9.99"
    assert text(0.1 + 2**-50, EXACT_SINGLE) == repr(0.1 + 2**-50), "of a union with longer floats"
    assert text(70000.5, EXACT_HALF) == "70000.5"
    assert id_text(EXACT_SINGLE - 1, EXACT_SINGLE) == "16777215"
    with pytest.raises(UnusableCellError, match="has lost digits"):
        id_text(EXACT_SINGLE, EXACT_SINGLE)


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        pytest.param(7, 7, id="int"),
        pytest.param(0.5, 0.5, id="float"),
        pytest.param(True, True, id="bool"),
        pytest.param(Decimal(7), 7, id="whole-decimal"),
        pytest.param(Decimal("0.5"), 0.5, id="decimal"),
        pytest.param(np.float32(0.5), 0.5, id="numpy"),
        pytest.param(np.float32(19.99), 19.99, id="numpy-digits"),
        pytest.param(10**17, 10**17, id="long-int"),
        pytest.param("annual", "annual", id="text"),
        pytest.param(NOON.date(), "2026-06-01", id="date"),
    ],
)
def test_numbers_stay_numbers_where_they_may(cell: Any, value: Any) -> None:
    """Fields that take numbers get them as they are, and everything else as text."""
    assert number(cell) == value
    assert type(number(cell)) is type(value)


@pytest.mark.parametrize(
    ("cell", "exact"),
    [
        pytest.param(1e17, EXACT_DOUBLE, id="double"),
        pytest.param(2.0**24, EXACT_SINGLE, id="single"),
        pytest.param(np.float32(2**24), EXACT_DOUBLE, id="numpy"),
    ],
)
def test_a_number_that_has_lost_digits_is_rejected(cell: Any, exact: float) -> None:
    """A number is sent only if it is the one that was stored, also where floats are allowed."""
    with pytest.raises(UnusableCellError, match="has lost digits"):
        number(cell, exact)


def test_an_infinite_number_is_rejected() -> None:
    """JSON has no infinite numbers."""
    with pytest.raises(UnusableCellError, match="is an infinite number"):
        number(float("inf"))
    with pytest.raises(UnusableCellError, match="is an infinite number"):
        number(Decimal("inf"))


def test_a_date_that_python_does_not_have_is_rejected() -> None:
    """A date of pandas after the year 9999 is no text that a server reads."""
    with pytest.raises(UnusableCellError, match="outside of the years 1 to 9999"):
        text(pd.Timestamp(np.datetime64("33658-01-01", "s")))


@given(st.integers(-(10**30), 10**30))
def test_no_whole_number_becomes_another(value: int) -> None:
    """A whole number becomes an id with its digits, as an int, a Decimal or a float, or none."""
    assert id_text(value) == id_text(Decimal(value)) == str(value)
    if abs(float(value)) < EXACT_DOUBLE:
        assert id_text(float(value)) == str(value)
    else:
        with pytest.raises(UnusableCellError, match="has lost digits"):
            id_text(float(value))
