"""A reader of the input of a journal, for comparison, with the format of its run."""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec

from adapty_async._input.files import known_encoding
from adapty_async._input.fingerprint import difference
from adapty_async._input.layout import TABLE_FORMATS, Format, format_of
from adapty_async._input.rows import Rows, SizedRows, open_rows
from adapty_async._input.schema import id_columns
from adapty_async._journal import JournalIdentity, RunName
from adapty_async._report import InputRow
from adapty_async.cli._columns import header_hints
from adapty_async.cli._progress import counting
from adapty_async.errors import InvalidInputError


def _read_as(described: dict[str, Any]) -> dict[str, Any]:
    """Return how a program read its input: format, column, and whether rows were left out."""
    parts = described.get("read_as")
    return {} if not isinstance(parts, dict) else {k: v for k, v in parts.items() if v is not None}


class RecordedInput(msgspec.Struct, frozen=True, kw_only=True):
    """
    The recorded format of the input of a journal, and the column of its ids.

    Attributes:
        description: the identity of the input in the journal.
        column: the column or field with the ids, from the user or the journal; None if neither
            names it.
        run_column: the column of the run; None if the journal does not name it.
        form: the format; None if the input was not a file.
        encoding: the encoding option of the run, or the one for another file.
        sheet: the sheet option of the run, or the one for another file.
        id_optional: rows of a CSV file without an id were left out.
    """

    description: dict[str, Any]
    column: str | None
    run_column: str | None
    form: Format | None
    encoding: str | None
    sheet: str | None
    id_optional: bool

    @classmethod
    def of(cls, identity: JournalIdentity, column: str | None) -> RecordedInput:
        """Parse the identity of a journal; `column` is the user's option."""
        name = RunName.parse(identity.operation)
        read_as = _read_as(identity.input)
        run_column = read_as.get("column", name.id_column)
        return cls(
            description=identity.input,
            column=column or run_column,
            run_column=run_column,
            form=cast("Format | None", read_as.get("form", name.form)),
            encoding=read_as.get("encoding", name.encoding),
            sheet=read_as.get("sheet", name.sheet),
            id_optional=read_as.get("skip_rows_without_id", name.has_optional_ids),
        )

    def difference(self, path: str) -> str | None:
        """
        Return how a file differs from the input of the journal, None if it only has new lines.

        Raises:
            InvalidInputError: it cannot be read.
        """
        if "sha256" not in self.description:
            return "the journal was kept for an input that is not a file"
        if path == "-":
            return "it is a pipe"
        try:
            found = Path(path).stat()
            if not stat.S_ISREG(found.st_mode):
                return "it is not a regular file"
            is_text = self.form not in TABLE_FORMATS
            return difference(Path(path), found.st_size, self.description, is_text=is_text)
        except OSError as error:
            raise InvalidInputError(path, f"cannot be read: {error.strerror}") from None

    def other_reading(self, encoding: str | None, sheet: str | None) -> str | None:
        """
        Return how options read a file otherwise than the run did, None if they do not.

        Raises:
            InvalidInputError: the encoding is unknown.
        """
        if encoding is not None:
            read, wanted = known_encoding(self.encoding or "utf-8"), known_encoding(encoding)
            if wanted != read:
                return f"the run read it in {read}"
        if sheet not in {None, self.sheet}:
            return "the run did not name this sheet"
        return None

    def rows(self, path: str, *, is_same: bool) -> Rows:
        """
        Return the rows of a file, which are counted; `is_same` if it is the input of the journal.

        Raises:
            InvalidInputError: the file cannot be read, has no column with ids, or is not the input
                of the journal although it was.
        """
        form = self.form if is_same else format_of(path) or self.form or "text"
        if form != "text" and self.column is None:
            raise InvalidInputError("--column", "is required: the journal does not name it")
        column = self.column or ""
        # the column of the run determines which rows have a position
        decisive = (self.run_column or column) if is_same else column

        def check_columns(names: list[str]) -> Collection[str]:
            with header_hints("--column"):  # a pipe has its header read later
                for each in {decisive, column}:
                    id_columns(each)(names)
            return {decisive, column}

        with counting(path) as watch:
            rows = open_rows(
                path,
                form,
                check_columns,
                watch=watch,
                encoding=self.encoding,
                sheet=self.sheet,
                id_column=decisive,
                id_optional=self.id_optional,
            )
        # what is read from now on is what was counted, so this holds for all of it
        if is_same and isinstance(rows, SizedRows):  # it is a file
            different = rows.difference(self.description)
            if different is not None:
                raise InvalidInputError(path, f"does not have the rows of the journal: {different}")
        return rows

    def items(self, rows: Rows) -> Iterator[InputRow]:
        """Yield the rows of a file with their ids."""
        return (InputRow(*rows.identify(row, self.column or "")) for row in rows)
