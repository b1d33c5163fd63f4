"""The table of all operations: nothing that Adapty publishes is missing in the project."""

from __future__ import annotations

import importlib.util

import pytest

from tests.contract.contracts import MODULES
from tests.contract.operations import Row, callable_of, rows, table

ROWS = rows()
MISSING = {name for name, module in MODULES.items() if importlib.util.find_spec(module) is None}


def test_adapty_publishes_36_operations() -> None:
    """The four documents have 32 operations, and the pages of version 1 another four."""
    assert len(ROWS) == 36
    assert len({row.http for row in ROWS}) == 36


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.document}-{row.operation}")
def test_an_operation_is_everywhere(row: Row) -> None:
    """An operation has a method, a route of the sandbox, a contract test and an example."""
    lacking = [
        name for name in ("method", "sandbox", "contract", "example") if not getattr(row, name)
    ]

    assert not lacking or row.document in MISSING


def test_a_method_that_is_not_there_is_not_found() -> None:
    """The name of an endpoint without a method of a client is noticed."""
    assert callable_of("v2.profiles.create") is not None
    assert callable_of("v2.profiles.erase") is None
    assert callable_of("mail.profiles.save") is not None


def test_the_table_has_a_line_for_each_row() -> None:
    """What the page shows are the operations that the library has."""
    assert table().count("\n") == 1 + sum(bool(row.method) for row in ROWS)
