"""Durations and numbers in words, for messages and reports."""

from __future__ import annotations

import math

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def duration_text(seconds: float, *, round_up: bool = False) -> str:
    """
    Return a duration in its two largest units, such as ``4 min 10 s``.

    Args:
        seconds: the duration. Below a minute, it is shown with three digits.
        round_up: round up to whole seconds, one at least, as for the least time that work takes.
    """
    if seconds < 60 and not round_up:
        return f"{seconds:.3g} s"
    left = max(math.ceil(seconds), 1) if round_up else round(seconds)
    parts: list[str] = []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count:,} {unit}" if count else "")
    return " ".join(part for part in parts[:2] if part)


def counted(count: int, noun: str) -> str:
    """Return a number and its noun, such as ``1 row`` or ``5,000 rows``."""
    return f"1 {noun}" if count == 1 else f"{count:,} {noun}s"


def each_of(count: int, noun: str) -> str:
    """Return the start of a sentence about all of them, such as ``each of 5,000 rows``."""
    return f"the only {noun}" if count == 1 else f"each of {count:,} {noun}s"
