"""
A pytest plugin: the sandbox and clients as fixtures, and a guard against calls of the real API.

pytest loads it by itself when the library is installed; ``-p no:adapty_async`` turns it off. The
fixtures are ordinary functions, so they serve tests with asyncio, anyio, or no event loop at all,
such as those with Starlette's ``TestClient``::

    async def test_erasure(adapty_sandbox, adapty_client):
        adapty_sandbox.seed_profiles(["anna"])
        await adapty_client.v2.profiles.delete(customer_user_id="anna")
        assert adapty_sandbox.customer_user_ids() == set()

A client that reads its settings from the environment reaches the sandbox as well, as long as a test
uses the fixture ``adapty_sandbox``.
"""

from __future__ import annotations

import asyncio
import ipaddress
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast

import pytest

from adapty_async import AdaptyClient, AdaptyExportClient, AdaptyMailClient
from adapty_async._runtime.fork import is_client_socket
from adapty_async.sandbox import Sandbox

__all__ = ("adapty_client", "adapty_export_client", "adapty_mail_client", "adapty_sandbox")

T = TypeVar("T")

_MARKERS = (
    "adapty_sandbox(**options): options of Sandbox, such as rate=50, faults='error=5%', seed=7",
    "adapty_live: this test may connect to Adapty",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the guard."""
    parser.addini(
        "adapty_guard",
        "fail a test whose Adapty client connects to a host that is not loopback",
        type="bool",
        default=True,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and the guard unless it is turned off."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    if config.getini("adapty_guard"):
        guard = _Guard()
        config.pluginmanager.register(guard, "adapty_async_guard")
        sys.addaudithook(guard.audit)


class _Guard:
    """
    A guard that fails a test whose client connects to a host that is not loopback.

    It sees the sockets of this library's own sessions. A test mock that responds without a socket
    is not affected.
    """

    def __init__(self) -> None:
        self._is_on = False
        self._rejected: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Check the set-up, the call and the teardown of a test."""
        self._is_on = item.get_closest_marker("adapty_live") is None
        self._rejected.clear()
        try:
            return (yield)
        finally:
            self._is_on = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        """Fail a test whose connection was rejected, even if its code handled the error."""
        result = yield
        if self._rejected:
            pytest.fail(_reason(self._rejected[0]), pytrace=False)
        return result

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Reject a connection of a client to a host that is not loopback."""
        if event != "socket.connect" or not self._is_on:
            return
        made, address = arguments
        if _is_loopback(address) or not is_client_socket(made):
            return
        self._rejected.append(address[0])
        pytest.fail(_reason(address[0]))


def _reason(host: str) -> str:
    return (
        f"an Adapty client connected to {host}, which is not loopback: use the fixture"
        " adapty_client, or mark the test with adapty_live"
    )


def _is_loopback(address: Any) -> bool:
    try:
        return ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
    except (ValueError, TypeError, AttributeError):
        return True  # not an address of IP: a Unix socket


class _InThread:
    """
    A proxy of a sandbox that serves in a thread, so that tests need no event loop.

    Its methods run in the thread of the server, which is the only one that uses its database.
    """

    def __init__(self, sandbox: Sandbox, loop: asyncio.AbstractEventLoop) -> None:
        self._sandbox = sandbox
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._sandbox, name)
        return partial(self._call, attribute) if callable(attribute) else attribute

    def _call(self, method: Callable[..., T], *arguments: Any, **options: Any) -> T:
        async def call() -> T:
            return method(*arguments, **options)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()


@contextmanager
def _serving(sandbox: Sandbox) -> Iterator[_InThread]:
    """Serve a sandbox in a thread for the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="adapty-sandbox", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(sandbox.start(), loop).result()
        try:
            yield _InThread(sandbox, loop)
        finally:
            asyncio.run_coroutine_threadsafe(sandbox.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def adapty_sandbox(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sandbox]:
    """
    A sandbox of its own for each test, which clients find through the environment.

    The marker ``adapty_sandbox`` sets its options. Its methods may be called from any thread.
    """
    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("adapty_sandbox"))):
        if marker.args:
            raise pytest.UsageError("the marker adapty_sandbox takes keywords only")
        options |= marker.kwargs
    try:
        sandbox = Sandbox(**options)
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"marker adapty_sandbox: {error}") from None
    with _serving(sandbox) as serving:
        environment = {
            "ADAPTY_API_KEY": sandbox.api_key,
            "ADAPTY_PUBLIC_KEY": sandbox.public_key,
            "ADAPTY_BASE_URL": sandbox.url,
            "ADAPTY_MAIL_API_KEY": sandbox.mail_api_key,
            "ADAPTY_MAIL_BASE_URL": sandbox.url,
            "ADAPTY_EXPORT_BASE_URL": sandbox.url,
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield cast("Sandbox", serving)


@pytest.fixture
def adapty_client(adapty_sandbox: Sandbox) -> Iterator[AdaptyClient]:
    """A client of the sandbox's server-side API and web API, closed after the test."""
    client = AdaptyClient(
        adapty_sandbox.api_key, public_key=adapty_sandbox.public_key, base_url=adapty_sandbox.url
    )
    yield client
    asyncio.run(client.aclose())


@pytest.fixture
def adapty_mail_client(adapty_sandbox: Sandbox) -> Iterator[AdaptyMailClient]:
    """A client of the sandbox's Mail API, closed after the test."""
    client = AdaptyMailClient(adapty_sandbox.mail_api_key, base_url=adapty_sandbox.url)
    yield client
    asyncio.run(client.aclose())


@pytest.fixture
def adapty_export_client(adapty_sandbox: Sandbox) -> Iterator[AdaptyExportClient]:
    """A client of the sandbox's export analytics API, closed after the test."""
    client = AdaptyExportClient(adapty_sandbox.api_key, base_url=adapty_sandbox.url)
    yield client
    asyncio.run(client.aclose())
