"""Fixtures of the tests of journals."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.journal.support import InFile, InMemory, Place


@pytest.fixture(params=["memory", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each place where a journal can be kept."""
    return InMemory() if request.param == "memory" else InFile(tmp_path)
