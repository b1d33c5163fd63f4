"""
A converter of typed cells, of tables and data frames, to the text that a CSV file would hold.

Invariants:

- A missing value of any library (None, NaN, NaT, NA) is no cell. It never becomes text.
- An id is never rounded: a float that may have lost digits, or has a fraction, is not an id.
"""

from __future__ import annotations

import datetime as dt
import math
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import msgspec

__all__ = (
    "EXACT_DOUBLE",
    "EXACT_HALF",
    "EXACT_SINGLE",
    "FaultyCell",
    "UnusableCellError",
    "id_text",
    "number",
    "plain",
    "text",
)

#: From this number on, a float of 64 bits does not hold each whole number.
EXACT_DOUBLE = 2.0**53
#: The same for 32 bits.
EXACT_SINGLE = 2.0**24
#: The same for 16 bits.
EXACT_HALF = 2.0**11

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
        return value or None
    if kind is int:
        return str(value)
    found = plain(value)
    if isinstance(found, float | Decimal) and math.isfinite(found) and found != _whole(found):
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
        return value or None
    if kind is float:
        return _float_text(value, exact)
    convert = _TEXTS.get(kind)
    if convert is not None:
        return convert(value)
    found = plain(value)
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
        UnusableCellError: it has no text, or is infinite.
    """
    found = plain(value)
    if isinstance(found, bool | int):
        return found
    if isinstance(found, float | Decimal):
        _require_finite(found)
        return found if isinstance(found, float) else _plain_number(found)
    return text(found, exact)


def plain(value: Any) -> Any:
    """Return a cell as a value of Python's own types: those of numpy, and missing ones."""
    kind = type(value)
    if kind.__name__ in _MISSING_TYPES:
        return None
    if kind.__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, float | Decimal) and value != value:  # noqa: PLR0124  NaN
        return None
    return value


def _float_text(value: float, exact: float) -> str | None:
    if math.isnan(value):
        return None
    _require_finite(value)
    if value % 1:
        return repr(value) if exact > EXACT_SINGLE else repr(float(f"{value:.7g}"))
    if abs(value) >= exact:
        raise UnusableCellError(_LOST_DIGITS)
    return str(int(value))


def _plain_number(value: Decimal) -> float:
    return int(value) if value == _whole(value) else float(value)


def _whole(value: float | Decimal) -> float | Decimal:
    # not `value % 1`, which raises for a Decimal of many digits
    return value.to_integral_value() if isinstance(value, Decimal) else math.floor(value)


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
