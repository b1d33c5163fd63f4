"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from adapty_async._flow import adaptive_rate as _learned
from adapty_async._flow import circuit_breaker as _outage
from tests._support import begin_at
from tests.raw_server import own_tasks

# how long an example takes says more of the machine than of the code
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "mutation", parent=settings.get_profile("unhurried"), max_examples=20, derandomize=True
)
settings.load_profile("unhurried")


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio: aiohttp has nothing else."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """Let no key or address of the developer's, or of another test, decide what a test does."""
    outside = {name: os.environ.pop(name) for name in tuple(os.environ) if name[:7] == "ADAPTY_"}
    yield
    for name in tuple(os.environ):
        if name[:7] == "ADAPTY_":
            del os.environ[name]
    os.environ.update(outside)


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let bulk runs go faster than any machine can, so that none has to wait, and outages be short.

    Their timing has tests of its own, in modules with a fixture of this name that does nothing.
    """
    begin_at(monkeypatch, 1e9, lowest=1e9)
    monkeypatch.setattr(_learned, "_PROBE_FIRST", 0.001)
    monkeypatch.setattr(_outage, "_SHORTEST", 0.001)


@pytest.fixture
async def nothing_is_left(anyio_backend: str) -> AsyncIterator[None]:
    """Check that a test ends with the tasks it began with."""
    before = own_tasks()
    yield
    assert own_tasks() == before
