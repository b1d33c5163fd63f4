"""Fixtures of all tests."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import AsyncIterator, Generator, Iterator

import pytest
from coverage import Coverage
from hypothesis import HealthCheck, settings

from adapty_async._flow import circuit_breaker as _outage
from adapty_async._flow import rate_state as _rate_state
from tests._support import begin_at
from tests.raw_server import own_tasks
from tests.servers import postgres_url, redis_url  # noqa: F401  fixtures

# the duration of an example depends more on the machine than on the code
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "mutation", parent=settings.get_profile("unhurried"), max_examples=20, derandomize=True
)
settings.load_profile("unhurried")

# a shell's background job ignores Ctrl-C, and so would the commands that tests interrupt
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# the settings with which coverage measures the processes of a test
_MEASURED_PROCESSES = "COVERAGE_PROCESS_CONFIG"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with long tests first, so that the workers end at about the same time."""
    slow = {
        item.path
        for item in items
        if item.get_closest_marker("slow") or item.get_closest_marker("unmeasured")
    }
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Exempt modules and collected tests from garbage collection: they are most of the heap."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def no_garbage() -> None:
    """Free the objects of earlier tests, whose warnings and logs would look like this test's."""
    gc.collect()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """
    Measure no coverage in tests with the marker `unmeasured`, nor in their processes.

    They reach many times what other tests reach once, and measuring doubles their time.
    """
    measured = Coverage.current() if item.get_closest_marker("unmeasured") is not None else None
    if measured is None:
        return (yield)
    processes = os.environ.pop(_MEASURED_PROCESSES, None)
    measured.stop()
    try:
        return (yield)
    finally:
        measured.start()
        if processes is not None:
            os.environ[_MEASURED_PROCESSES] = processes


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, the only backend of aiohttp."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """Remove keys and addresses of the environment, so that they do not affect tests."""
    outside = {name: os.environ.pop(name) for name in tuple(os.environ) if name[:7] == "ADAPTY_"}
    yield
    for name in tuple(os.environ):
        if name[:7] == "ADAPTY_":
            del os.environ[name]
    os.environ.update(outside)


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Remove the rate limit of bulk runs, so that none has to wait, and shorten outages.

    Their timing has tests of its own, in modules with a fixture of this name that does nothing.
    """
    begin_at(monkeypatch, 1e9, min_rate=1e9)
    monkeypatch.setattr(_rate_state, "_PROBE_FIRST", 0.001)
    monkeypatch.setattr(_outage, "_SHORTEST", 0.001)


@pytest.fixture
async def nothing_is_left(anyio_backend: str) -> AsyncIterator[None]:
    """Check that a test leaves no task behind."""
    before = own_tasks()
    yield
    assert own_tasks() == before
