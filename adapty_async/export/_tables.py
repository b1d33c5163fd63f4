"""Tables of pyarrow and polars from a CSV file. Both libraries are extras."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from adapty_async.errors import DecodeError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa


def read_arrow(file: BinaryIO, operation: str) -> pa.Table:
    """
    Return the table of a CSV file; an empty file is an empty table.

    Only empty cells are null.

    Raises:
        DecodeError: it is no CSV.
    """
    import pyarrow as pa  # noqa: PLC0415  an extra
    from pyarrow import csv  # noqa: PLC0415

    if not file.read(1):
        return pa.table({})
    file.seek(0)
    options = csv.ParseOptions(newlines_in_values=True)
    # by default, NA is null as well, and so is Namibia
    conversion = csv.ConvertOptions(null_values=[""])
    try:
        return csv.read_csv(file, parse_options=options, convert_options=conversion)
    except pa.ArrowInvalid:
        raise _unreadable(operation) from None  # its text quotes cells


def read_polars(file: BinaryIO, operation: str) -> pl.DataFrame:
    """
    Return the table of a CSV file; an empty file is an empty table.

    Raises:
        DecodeError: it is no CSV.
    """
    import polars as pl  # noqa: PLC0415  an extra

    if not file.read(1):
        return pl.DataFrame()
    file.seek(0)
    try:
        return pl.read_csv(file, infer_schema_length=None)
    except pl.exceptions.PolarsError:
        raise _unreadable(operation) from None  # its text quotes cells


def _unreadable(operation: str) -> DecodeError:
    return DecodeError("the response is no CSV table", operation=operation, status=200)
