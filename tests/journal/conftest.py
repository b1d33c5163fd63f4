"""Fixtures of the tests of journals."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs.places import InStore
from tests.journal.support import InFile, InMemory, Place


@pytest.fixture(params=["memory", "file", "part in SQLite", "part in PostgreSQL"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each place where a journal can be kept."""
    if request.param == "memory":
        return InMemory()
    if request.param == "file":
        return InFile(tmp_path)
    if request.param == "part in SQLite":
        return InStore(f"sqlite:///{tmp_path}/jobs.db")
    return InStore(request.getfixturevalue("postgres_url"))
