"""
Files and data frames as the items of bulk methods.

A bulk method takes an `InputFile`, a data frame or series of polars or pandas, or a table of
pyarrow, as its items. The ids are in the column named like `by`, and other columns are named after
the fields of the call, nested ones with a dot: ``price.value``, ``custom_attributes.plan``. A row
that cannot be read is an `UnreadableRow` in its outcome, which is ``failed``.

Example:
    >>> await client.v2.profiles.bulk_delete(InputFile("ids.parquet"), by="customer_user_id")
    >>> await client.v2.transactions.bulk_set(frame, by="customer_user_id")
"""

from __future__ import annotations

from adapty_async._input.frames import DataFrame
from adapty_async._input.items import InputFile, TableSource, UnreadableRow
from adapty_async._input.schema import ColumnSchema

__all__ = ("ColumnSchema", "DataFrame", "InputFile", "TableSource", "UnreadableRow")
