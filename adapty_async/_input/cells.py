"""
A converter of typed cells, of tables and data frames, to the text that a CSV file would hold.

Invariants:

- A missing value of any library (None, NaN, NaT, NA) is no cell. It never becomes text.
- An id is never rounded: a float that may have lost digits, or has a fraction, is not an id. The
  type of the cell decides which floats are exact, before it becomes a float of Python.
"""

from __future__ import annotations

import datetime as dt
import math
import struct
import uuid
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

#: From this number on, a float of 64 bits does not hold each whole number.
EXACT_DOUBLE = 2.0**53
#: The same for 32 bits.
EXACT_SINGLE = 2.0**24
#: The same for 16 bits.
EXACT_HALF = 2.0**11

#: A longer text is not read: the same limit as that of a record of CSV or NDJSON.
MAX_CELL_BYTES = 1024 * 1024

# Formats of `struct` for floats of fewer bits, and the digits that each number keeps in them. Up to
# three more are needed to tell two floats apart.
_FORMS = {EXACT_SINGLE: ("f", 6), EXACT_HALF: ("e", 3)}
_EXACT_BY_BYTES = {2: EXACT_HALF, 4: EXACT_SINGLE}
_ODD = "cannot be read: it is a date outside of the years 1 to 9999, or is not UTF-8"
_MISSING_TYPES = frozenset({"NAType", "NaTType"})
_LOST_DIGITS = "is a number that has lost digits, since it is stored as a float: store it as text"


class UnusableCellError(ValueError):
    """A cell that cannot be used; the text completes "the cell ..." and has no value."""


class FaultyCell(msgspec.Struct, frozen=True):
    """
    A cell without a value, where one was meant to be.

    Attributes:
        reason: completes "the cell ...".
    """

    reason: str

    def __str__(self) -> str:
        return ""


class NoIdCell(msgspec.Struct, frozen=True):
    """
    A cell that may be a field, but is no id, such as a total below a list of ids.

    Attributes:
        value: its value.
        reason: the text of the error of an id.
    """

    value: Any
    reason: str

    def __str__(self) -> str:
        return str(self.value)


#: Stands for a cell that Python has no value for.
ODD_CELL = FaultyCell(_ODD)
#: Stands for a cell that is too long.
LONG_CELL = FaultyCell("is longer than 1 MiB")


def read_cells(
    count: int, read: Callable[[], Sequence[Any]], read_one: Callable[[int], Any]
) -> Sequence[Any]:
    """
    Return the cells of a column, with `ODD_CELL` for those that cannot be read.

    Args:
        count: how many there are.
        read: reads all of them at once, and raises if one cannot be read.
        read_one: reads the cell with an index.
    """
    try:
        return read()
    except (ValueError, ArithmeticError):
        return [_cell_or_odd(read_one, index) for index in range(count)]


def _cell_or_odd(read_one: Callable[[int], Any], index: int) -> Any:
    try:
        return read_one(index)
    except (ValueError, ArithmeticError):
        return ODD_CELL


def exact_float(kind: str, size: int) -> float:
    """Return the number from which on a type is not exact, by numpy's letter and its bytes."""
    return _EXACT_BY_BYTES.get(size, EXACT_DOUBLE) if kind == "f" else EXACT_DOUBLE


def id_text(value: Any, exact: float = EXACT_DOUBLE) -> str | None:
    """
    Return the id in a cell: text and whole numbers; None if the cell is missing.

    Args:
        value: the cell.
        exact: whole floats are exact below this number.

    Raises:
        UnusableCellError: it cannot be an id.
    """
    kind = type(value)
    if kind is str:
        return _short_text(value)
    if kind is int:
        return str(value)
    if kind is NoIdCell:
        raise UnusableCellError(value.reason)
    found, exact = plain(value), min(exact, _exact_of(value))
    # not `found % 1`, which raises for a Decimal of many digits
    if isinstance(found, float | Decimal) and math.isfinite(found) and found != math.floor(found):
        raise UnusableCellError("has a fraction, so it is not an id")
    if isinstance(found, bool):
        raise UnusableCellError("is true or false, not an id")
    if isinstance(found, dt.date):
        raise UnusableCellError("is a date, perhaps made of an id by a spreadsheet")
    return text(found, exact)


def text(value: Any, exact: float = EXACT_DOUBLE) -> str | None:
    """
    Return the text of a cell, as a CSV file has it; None if the cell is missing.

    Args:
        value: the cell.
        exact: whole floats are exact below this number.

    Raises:
        UnusableCellError: it has no text, such as a list or bytes.
    """
    kind = type(value)
    if kind is str:
        return _short_text(value)
    if kind is float:
        return _float_text(value, exact)
    convert = _TEXTS.get(kind)
    if convert is not None:
        return convert(value)
    found, exact = plain(value), min(exact, _exact_of(value))
    if found is None:
        return None
    if isinstance(found, dt.datetime):  # a subclass, such as that of pandas
        return _date_time_text(found)
    if type(found) is kind:
        raise _unusable(found)
    return text(found, exact)


def number(value: Any, exact: float = EXACT_DOUBLE) -> Any:
    """
    Return a cell of a field that may be a number: numbers and flags as they are, others as text.

    Raises:
        UnusableCellError: it has no text, is infinite, or is a float that has lost digits.
    """
    found, exact = plain(value), min(exact, _exact_of(value))
    if isinstance(found, bool | int):
        return found
    if isinstance(found, float):
        return _float_number(found, exact)
    if isinstance(found, Decimal):
        _require_finite(found)
        return int(found) if found == math.floor(found) else float(found)
    return text(found)


def plain(value: Any) -> Any:
    """Return a cell as a value of Python's own types: those of numpy, and missing ones."""
    if isinstance(value, NoIdCell):
        value = value.value
    if type(value).__name__ in _MISSING_TYPES:
        return None
    if _is_numpy(value):
        value = _plain_numpy(value)
    if isinstance(value, float | Decimal) and value != value:  # noqa: PLR0124  NaN
        return None
    return value


def _short_text(value: str) -> str | None:
    if len(value) > MAX_CELL_BYTES:
        raise UnusableCellError(LONG_CELL.reason)
    return value or None


def _is_numpy(value: Any) -> bool:
    return type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()


def _plain_numpy(value: Any) -> Any:
    """Return a scalar of numpy; its own method makes numbers of dates and durations."""
    kind = value.dtype.kind
    if kind not in "mM":
        return value.item()
    if str(value) == "NaT":
        return None
    if kind == "m":
        return dt.timedelta(0)  # whatever it is, it has no text
    found = value.astype("datetime64[us]").item()
    return found if isinstance(found, dt.date) else ODD_CELL


def _exact_of(value: Any) -> float:
    return exact_float(value.dtype.kind, value.dtype.itemsize) if _is_numpy(value) else math.inf


def _float_text(value: float, exact: float) -> str | None:
    if math.isnan(value):
        return None
    found = _float_number(value, exact)
    return repr(found) if found % 1 else str(int(found))


def _float_number(value: float, exact: float) -> float:
    """Return a float with no more digits than it has."""
    _require_finite(value)
    if value % 1:
        return _shortest(value, exact)
    if abs(value) >= exact:
        raise UnusableCellError(_LOST_DIGITS)
    return value


def _shortest(value: float, exact: float) -> float:
    """Return the float with the fewest digits that is the same number in the type of its column."""
    if exact not in _FORMS or abs(value) >= exact:
        return value
    form, kept = _FORMS[exact]
    found = (float(f"{value:.{digits}g}") for digits in range(kept, kept + 4))
    return next(
        (one for one in found if struct.unpack(form, struct.pack(form, one))[0] == value), value
    )


def _require_finite(value: float | Decimal) -> None:
    if math.isinf(value):
        raise UnusableCellError("is an infinite number")


def _decimal_text(value: Decimal) -> str | None:
    if value.is_nan():
        return None
    _require_finite(value)
    written = format(value, "f")  # not normalised, which rounds many digits
    return written.rstrip("0").rstrip(".") if "." in written else written


def _date_time_text(value: dt.datetime) -> str:
    """Return ISO 8601; a midnight without a time zone is a date, as data frames store dates."""
    if value.year > dt.MAXYEAR or value.year < dt.MINYEAR:  # pandas has such dates
        raise UnusableCellError(_ODD)
    is_date = value.tzinfo is None and value.isoformat().endswith("T00:00:00")
    return value.date().isoformat() if is_date else value.isoformat()


def _unusable(value: Any) -> UnusableCellError:
    if isinstance(value, FaultyCell):
        return UnusableCellError(value.reason)
    if isinstance(value, bytes | bytearray | memoryview):
        return UnusableCellError("is binary: store it as text")
    if isinstance(value, dt.time | dt.timedelta):
        return UnusableCellError("is a time of day or a duration")
    if isinstance(value, list | tuple | set | dict) or hasattr(value, "__array__"):
        return UnusableCellError("is a list or an object, not one value")
    return UnusableCellError(f"has the type {type(value).__name__}, which has no text")


_TEXTS: Mapping[type, Callable[[Any], str | None]] = {
    type(None): lambda _: None,
    bool: lambda value: "true" if value else "false",
    int: str,
    Decimal: _decimal_text,
    dt.datetime: _date_time_text,
    dt.date: dt.date.isoformat,
    uuid.UUID: str,
}
