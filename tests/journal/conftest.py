"""Fixtures of the tests of journals."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs.part_storage import InStore
from tests.journal.support import InFile, InMemory, Storage


@pytest.fixture(params=["memory", "file", "part in SQLite", "part in PostgreSQL"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Each storage of a journal."""
    if request.param == "memory":
        return InMemory()
    if request.param == "file":
        return InFile(tmp_path)
    if request.param == "part in SQLite":
        return InStore(f"sqlite:///{tmp_path}/jobs.db")
    return InStore(request.getfixturevalue("postgres_url"))
