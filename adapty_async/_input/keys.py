"""
A check of the keys of JSON objects, which have no header that names their columns.

Invariants:

- The keys of a file are checked together, before anything is sent: a key may be in some rows only.
- Of a pipe, the first object is checked before it is sent.
- The rows of a failures file have no keys for cells that were empty, nor for columns of a table
  that do not matter. The run that wrote it has checked the names of all columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar

from adapty_async.errors import InvalidInputError

__all__ = ("KeyCheck", "checking_all", "checking_first")

# Different keys of a file. A file with more has data as keys, and would fill the memory.
_MOST_KEYS = 100_000


class KeyCheck(Protocol):
    """
    A callback that raises what is wrong with keys.

    Args:
        names: the keys.
        is_all: whether they are those of all rows, not of the first one.
        are_failures: whether the rows are those of a failures file.
    """

    def __call__(self, names: list[str], /, *, is_all: bool, are_failures: bool) -> object: ...


class _HasValue(Protocol):
    """A row: what it holds, why it cannot be read, and whether it is of a failures file."""

    @property
    def value(self) -> Any: ...

    @property
    def broken(self) -> str | None: ...

    @property
    def is_failure(self) -> bool: ...


RowT = TypeVar("RowT", bound=_HasValue)


def checking_all(rows: Iterable[RowT], check: KeyCheck) -> Iterator[RowT]:
    """
    Yield rows, and check the keys of their objects at the end.

    Raises:
        InvalidInputError: the check rejects the keys, or there are too many.
    """
    keys: dict[str, None] = {}
    are_failures = True
    for row in rows:
        if row.broken is None and isinstance(row.value, dict):
            are_failures = are_failures and row.is_failure
            keys.update(dict.fromkeys(row.value))
            if len(keys) > _MOST_KEYS:
                raise InvalidInputError("input", f"has more than {_MOST_KEYS:,} different keys")
        yield row
    if keys:
        check(list(keys), is_all=True, are_failures=are_failures)


def checking_first(rows: Iterable[RowT], check: KeyCheck) -> Iterator[RowT]:
    """
    Yield rows; check the keys of the first object in front of it.

    Raises:
        InvalidInputError: the check rejects the keys.
    """
    is_checked = False
    for row in rows:
        if not is_checked and row.broken is None and isinstance(row.value, dict):
            check(list(row.value), is_all=False, are_failures=row.is_failure)
            is_checked = True
        yield row
