"""A check of the columns of an input whose errors name the options that help."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

from adapty_async._input.schema import id_columns
from adapty_async._input.tables import ColumnCheck
from adapty_async.errors import InvalidInputError

__all__ = ("checked_header", "header_hints")

_UNKNOWN = "leave it out with --ignore-unknown, or name its field with --map"
_NO_LEVEL = "give it with --access-level"


def checked_header(check: ColumnCheck, id_column: str | None, option: str | None) -> ColumnCheck:
    """
    Return a check of the names of columns whose errors end with the option that helps.

    Args:
        check: the check.
        id_column: the column with the ids; None if none is required.
        option: the option that names that column.
    """

    def checked(names: list[str]) -> Collection[str] | None:
        with header_hints(option):
            if id_column is not None and id_column not in names:
                id_columns(id_column)(names)
            return check(names)

    return checked


@contextlib.contextmanager
def header_hints(option: str | None) -> Iterator[None]:
    """Add to errors about columns the option that helps; `option` names the column of the ids."""
    try:
        yield
    except InvalidInputError as error:
        hint = _hint_for(error, f"name it with {option}")
        rule = error.rule if hint is None else f"{error.rule}; {hint}"
        raise InvalidInputError(error.field, rule) from None


def _hint_for(error: InvalidInputError, how_to_name_ids: str) -> str | None:
    if error.field == "access_level_id" and error.rule == "is a required column":
        return _NO_LEVEL
    if error.field != "header":
        return None
    if error.rule.startswith("has no column "):
        return how_to_name_ids
    return _UNKNOWN if error.rule.startswith("unknown column") else None
