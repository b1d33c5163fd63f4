"""The options that state what the columns of an input are, and the errors that name them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import ParamSpec, TypeVar

import click

from adapty_async._input.mapping import RowMapping
from adapty_async._input.presets import PRESETS
from adapty_async.errors import AdaptyError, InvalidInputError

P = ParamSpec("P")
T = TypeVar("T")

# The options by the parameter of `InputFile` that an error names.
_OPTION_OF: Mapping[str, str] = {
    "format": "--format",
    "columns": "--map",
    "constants": "--set",
    "preset": "--from",
    "id_column": "--column",
    "sheet": "--sheet",
    "encoding": "--encoding",
}
_UNKNOWN = "leave it out with --ignore-unknown, or name its field with --map"
_NO_LEVEL = "give it with --access-level"


def by_option(error: AdaptyError) -> AdaptyError:
    """Return the error with the name of the option instead of the library's parameter."""
    if isinstance(error, InvalidInputError) and error.field in _OPTION_OF:
        return InvalidInputError(_OPTION_OF[error.field], error.rule)
    return error


def hints(mapping: RowMapping) -> list[str]:
    """Return what the export of the preset does not have, as lines for people."""
    fields = ", ".join(mapping.lacking())
    if not fields:
        return []
    return [f"The export has no column for {fields}; subscriptions need --map or --set for it."]


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


def _pairs(
    context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """Split each value at its last equals sign: names of fields have none."""
    pairs = []
    for value in values:
        column, _, field = value.rpartition("=")
        if not column.strip() or not field.strip():
            raise click.BadParameter("must be COLUMN=FIELD", context, option)
        pairs.append((column.strip(), field.strip()))
    return tuple(pairs)


def _constants(
    context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """Split each value at its first equals sign: names of fields have none."""
    constants: dict[str, str] = {}
    for value in values:
        field, _, constant = value.partition("=")
        if not field.strip() or not constant or field.strip() in constants:
            raise click.BadParameter("must be FIELD=VALUE, once for a field", context, option)
        constants[field.strip()] = constant
    return constants


def _column_name(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Reject an empty name, as of a variable that is not set: it does not mean the usual column."""
    if value == "":
        raise click.BadParameter("must not be empty", context, option)
    return value


def column_option(text: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return the option of the column with the ids, with this help."""
    return click.option("--column", callback=_column_name, help=text)


COLUMN_OPTIONS = [
    click.option("--sheet", help="The sheet of a spreadsheet; by default the only visible one."),
    click.option(
        "--map",
        "columns",
        multiple=True,
        metavar="COLUMN=FIELD",
        callback=_pairs,
        help="A column of INPUT, and the field that it is. Repeatable.",
    ),
    click.option(
        "--set",
        "constants",
        multiple=True,
        metavar="FIELD=VALUE",
        callback=_constants,
        help="A field, and its value in every row. Repeatable.",
    ),
    click.option(
        "--ignore-unknown", is_flag=True, help="Name unknown columns once, and leave them out."
    ),
    click.option(
        "--from",
        "preset",
        type=click.Choice(list(PRESETS)),
        help="Take the names of the columns from an export of this service.",
    ),
]
