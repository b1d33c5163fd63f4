"""The rows of an input, and what its readers need to know of them: formats, columns and keys."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, get_args

import msgspec

from adapty_async.errors import InvalidInputError

Format: TypeAlias = Literal["csv", "ndjson", "text", "parquet", "arrow", "excel"]

#: The formats of tables, whose cells have types.
TABLE_FORMATS: frozenset[Format] = frozenset({"parquet", "arrow", "excel"})

# The formats by the suffix of a file's name.
_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".txt": "text",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".xlsx": "excel",
    ".xlsm": "excel",
    ".xlsb": "excel",
    ".xls": "excel",
    ".ods": "excel",
}


def require_format(name: str) -> None:
    """
    Validate the name of a format.

    Raises:
        InvalidInputError: it is unknown.
    """
    if name not in get_args(Format):
        raise InvalidInputError("format", f"must be one of {', '.join(get_args(Format))}")


def format_of(path: str) -> Format | None:
    """Return the format that the name of an input shows, None if it shows none."""
    return _SUFFIXES.get(Path(path.removesuffix(".gz")).suffix.lower())


class Row(msgspec.Struct, frozen=True):
    """
    A record of the input.

    Attributes:
        line: the number of its first line, or of the row of a table.
        value: the cells that are not empty by column, the JSON value, or the text.
        broken: why the line cannot be read, None if it can be. `value` is then the readable part
            of the line.
        is_failure: whether it is the item of a line of a failures file.
    """

    line: int
    value: Any
    broken: str | None = None
    is_failure: bool = False

    def __repr__(self) -> str:
        return f"Row(line={self.line})"


#: Receives the names of the columns, without those that are empty, and raises what is wrong with
#: them. It returns the names that matter.
ColumnCheck: TypeAlias = Callable[[list[str]], Collection[str]]


class KeyCheck(Protocol):
    """
    A callback that raises what is wrong with keys.

    Args:
        names: the keys.
        is_all: whether they are those of all rows, not of the first one.
        are_failures: whether the rows are those of a failures file.
    """

    def __call__(self, names: list[str], /, *, is_all: bool, are_failures: bool) -> object: ...


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """
    The format of an input, and its relevant columns.

    Attributes:
        form: its format.
        check_columns: the check of the columns of a CSV file or a table. Blanks around their names
            do not count; of a table, no column is read that does not matter.
        check_keys: the check of the keys of the objects of NDJSON, which has no header; None if all
            are good.
        encoding: the encoding of the text without a byte order mark; None for UTF-8.
        id_column: the column or field with the ids; None if no id is checked.
        id_optional: rows of a CSV file or a table without an id are left out.
        sheet: the sheet of a spreadsheet; None for the only one.
        is_number: returns whether numbers in a column of a table stay numbers; otherwise they
            become text, as in a CSV file.
        matters: returns whether a key of NDJSON matters, so that it must not be there twice; None
            if only that of the id does.
    """

    form: Format
    check_columns: ColumnCheck
    check_keys: KeyCheck | None = None
    encoding: str | None = None
    id_column: str | None = None
    id_optional: bool = False
    sheet: str | None = None
    is_number: Callable[[str], bool] = lambda _: False
    matters: Callable[[str], bool] | None = None

    def __post_init__(self) -> None:
        """Validate the format: another one would be read as text, each line as an id."""
        require_format(self.form)

    @property
    def noun(self) -> str:
        """The noun for the number of a row: a line, or the row of a table."""
        return "row" if self.form in TABLE_FORMATS else "line"

    @property
    def needed_column(self) -> str | None:
        """The column without which a row of a CSV file or a table is left out."""
        return self.id_column if self.id_optional else None
