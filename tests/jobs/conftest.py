"""Fixtures of the tests of jobs: each store, a sandbox and its client."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from adapty_async import AdaptyClient
from adapty_async.jobs import JobStore, Lines
from adapty_async.sandbox import Sandbox

_NAMES = itertools.count(1)


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of each kind of store; that in PostgreSQL may have other jobs."""
    if request.param == "SQLite":
        return f"sqlite:///{tmp_path}/jobs.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
async def store(store_url: str, anyio_backend: str) -> AsyncIterator[JobStore]:
    """Open each kind of store."""
    async with JobStore(store_url) as opened:
        yield opened


@pytest.fixture
async def sandbox(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """Run a sandbox."""
    async with Sandbox() as running:
        yield running


@pytest.fixture
async def adapty(sandbox: Sandbox) -> AsyncIterator[AdaptyClient]:
    """Open a client of the sandbox."""
    async with AdaptyClient(sandbox.api_key, base_url=sandbox.url) as client:
        yield client


@pytest.fixture
def name() -> str:
    """Return a name that no other job has."""
    return f"job-{next(_NAMES)}"


@pytest.fixture
def ids(tmp_path: Path) -> Callable[..., Lines]:
    """Return a way to write a file of ids."""

    def write(*values: str) -> Lines:
        path = tmp_path / "ids.txt"
        path.write_text("".join(f"{value}\n" for value in values), encoding="utf-8")
        return Lines(path)

    return write
