"""Numbers with nouns, for messages and reports."""

from __future__ import annotations

__all__ = ("counted", "each_of")


def counted(count: int, noun: str) -> str:
    """Return a number and its noun, such as ``1 row`` or ``5,000 rows``."""
    return f"1 {noun}" if count == 1 else f"{count:,} {noun}s"


def each_of(count: int, noun: str) -> str:
    """Return the start of a sentence about all of them, such as ``each of 5,000 rows``."""
    return f"the only {noun}" if count == 1 else f"each of {count:,} {noun}s"
