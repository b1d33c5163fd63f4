"""The client as a fixture in users' own tests, whatever loops those have."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.raw_server import RawServer, in_thread

TESTS = """
import os
import pytest
from adapty_async import AdaptyClient

{marks}

def new_client():
    return AdaptyClient("secret_live_x.y", base_url=os.environ["SERVER"])

kept = new_client()

@{fixture}
async def client():
    async with new_client() as client:
        yield client

@pytest.fixture(scope="session")
def plain():
    return new_client()

async def work(client):
    await client.v1.profiles.get(customer_user_id="u1")
    ids = ["u1", "u2", "u3"]
    report = await client.v1.profiles.bulk_delete(ids, by="customer_user_id", concurrency=2)
    assert report.done == 3

@pytest.mark.parametrize("time", range(3))
class TestIt:
    async def test_fixture(self, client, time):
        await work(client)

    async def test_plain_fixture(self, plain, time):
        await work(plain)

    async def test_global(self, time):
        await work(kept)

async def test_last(client, plain):
    await work(client)
    await plain.aclose()
    await kept.aclose()
"""
ASYNCIO = "pytestmark = pytest.mark.asyncio(loop_scope={loop!r})"
ASYNCIO_FIXTURE = "__import__('pytest_asyncio').fixture(scope={scope!r}, loop_scope={loop!r})"
ANYIO = """
pytestmark = pytest.mark.anyio

@pytest.fixture(scope={scope!r})
def anyio_backend():
    return "asyncio"
"""
ANYIO_FIXTURE = "pytest.fixture(scope={scope!r})"

CASES = {
    # the plugin, the scope of the fixture, the loop of the fixture, the loop of the tests
    "one loop": ("pytest_asyncio", "session", "session", "session"),
    "a loop for each test, a client for all": ("pytest_asyncio", "session", "session", "function"),
    "a loop for each class and one for the module": ("pytest_asyncio", "module", "module", "class"),
    "anyio, one loop": ("anyio", "session", "", ""),
    "anyio, a loop for each test": ("anyio", "function", "", ""),
}
OPTIONS = {
    "pytest_asyncio": (
        *("-p", "pytest_asyncio.plugin"),
        *("-o", "asyncio_default_fixture_loop_scope=function"),
    ),
    "anyio": ("-p", "anyio.pytest_plugin"),
}


def script(plugin: str, scope: str, fixture_loop: str, loop: str) -> str:
    """Return a module of tests as a user might write them."""
    if plugin == "pytest_asyncio":
        marks, fixture = ASYNCIO.format(loop=loop), ASYNCIO_FIXTURE
    else:
        marks, fixture = ANYIO.format(scope=scope), ANYIO_FIXTURE
    return TESTS.format(marks=marks, fixture=fixture.format(scope=scope, loop=fixture_loop))


@pytest.mark.slow
@pytest.mark.unmeasured
@pytest.mark.parametrize("case", CASES)
def test_a_client_serves_tests_with_loops_of_any_scope(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client is a fixture or global of tests that share a loop or have one each; none warns."""
    plugin, *scopes = CASES[case]
    if importlib.util.find_spec(plugin) is None:
        pytest.skip(f"{plugin} is not installed")
    (tmp_path / "test_theirs.py").write_text(script(plugin, *scopes))
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    options = ["-p", "no:cacheprovider", *OPTIONS[plugin]]
    with in_thread(RawServer()) as server:
        monkeypatch.setenv("SERVER", server.url)
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        command = [sys.executable, "-m", "pytest", "-q", *options, "test_theirs.py"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

        assert done.returncode == 0, done.stdout + done.stderr
        assert "10 passed" in done.stdout
        assert len(server.requests) == 10 * 4
